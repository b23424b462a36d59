"""The countdown that a person at a terminal watches while the call waits: on stderr, on one line, gone in the end."""

from __future__ import annotations

import asyncio
import math
import os
import sys
from contextlib import suppress

from twusage.cli.exit_codes import print_error
from twusage.clock import Wait
from twusage.display.format import printable

__all__ = ["Countdown"]

# Seconds. Nobody can read a shorter wait's line before it is gone.
_SHORTEST = 1.0


class Countdown:
    """Shows waits, as a client's ``on_wait``: ``clear`` ends the newest.

    On a terminal it is a line that overwrites itself each second. Elsewhere, in a cron job's mail for instance, it is
    one plain line for each wait.
    """

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._length = 0

    def __call__(self, wait: Wait) -> None:
        self.clear()
        if wait.seconds < _SHORTEST:
            return
        if sys.stderr is not None and sys.stderr.isatty():
            self._tick(wait, asyncio.get_running_loop().time() + wait.seconds)
        else:
            print_error(f"waiting {wait.seconds:.0f} s, until {wait.until:%Y-%m-%d %H:%M:%S} UTC: {wait.reason}")

    def clear(self) -> None:
        """Take the line away, if there is one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._length:
            self._write("")

    def _tick(self, wait: Wait, end: float) -> None:
        loop = asyncio.get_running_loop()
        left = math.ceil(end - loop.time())
        if left <= 0:  # The request is on its way.
            self.clear()
            return
        # In the last column, many a terminal begins a new line.
        self._write(_line(left, wait, _columns() - 1))
        self._timer = loop.call_at(end - left + 1, self._tick, wait, end)

    def _write(self, line: str) -> None:
        with suppress(OSError):
            # No escape sequences, which a dumb terminal would show. The cursor stays at the beginning of the line, so
            # that whatever comes next overwrites it: even the "^C" of the terminal itself.
            sys.stderr.write(f"{line.ljust(self._length)}\r")
            sys.stderr.flush()
        self._length = len(line)


def _columns() -> int:
    # Not rich's answer, which is 80 for any dumb terminal.
    with suppress(OSError):
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    return 80


def _line(left: int, wait: Wait, room: int) -> str:
    """As much as there is room for, in whole phrases: a number that is cut short would lie."""
    line = ""
    for phrase in (f"{left // 60}:{left % 60:02}", f" to wait, until {wait.until:%H:%M:%S} UTC", f": {wait.reason}"):
        if len(line) + len(phrase) > room:
            break
        line += printable(phrase)
    return line
