"""The countdown of a waiting call, on one line of stderr."""

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

# Seconds. The line of a shorter wait would disappear before it can be read.
_MIN_SECONDS = 1.0


class Countdown:
    """Shows each wait that it receives as a client's ``on_wait``, until ``clear``.

    On a terminal it updates one line every second. Otherwise, for instance in the mail of a cron job, it prints one
    line per wait.
    """

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._length = 0

    def __call__(self, wait: Wait) -> None:
        self.clear()
        if wait.seconds < _MIN_SECONDS:
            return
        if sys.stderr is not None and sys.stderr.isatty():
            self._tick(wait, asyncio.get_running_loop().time() + wait.seconds)
        else:
            print_error(f"waiting {wait.seconds:.0f} s, until {wait.until:%Y-%m-%d %H:%M:%S} UTC: {wait.reason}")

    def clear(self) -> None:
        """Stop the countdown and clear its line, if there is one."""
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
        # One column less: many terminals wrap after the last one.
        self._write(_line(left, wait, _columns() - 1))
        self._timer = loop.call_at(end - left + 1, self._tick, wait, end)

    def _write(self, line: str) -> None:
        with suppress(OSError):
            # No escape sequences, because a dumb terminal would show them. The cursor returns to the beginning of the
            # line, so that the next output overwrites it, including the "^C" of the terminal.
            sys.stderr.write(f"{line.ljust(self._length)}\r")
            sys.stderr.flush()
        self._length = len(line)


def _columns() -> int:
    # Not rich's width, which is always 80 on a dumb terminal.
    with suppress(OSError):
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    return 80


def _line(left: int, wait: Wait, columns: int) -> str:
    """Return as many whole phrases as fit. A truncated number would be misleading."""
    line = ""
    for phrase in (f"waiting {left // 60}:{left % 60:02}", f", until {wait.until:%H:%M:%S} UTC", f": {wait.reason}"):
        if len(line) + len(phrase) > columns:
            break
        line += printable(phrase)
    return line
