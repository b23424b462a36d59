"""The live view of ``twusage watch``, which is redrawn in place."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.control import Control
from rich.live import Live
from rich.text import Text

from twusage.cli.output import screen_of
from twusage.display.format import clock_time
from twusage.display.terminal import live_text
from twusage.display.view import view_of
from twusage.models import Usage
from twusage.monitor import CycleReset, UsageSampled, WatchEvent

__all__ = ["Board"]

_WIDE, _TALL = 128, 36
"""Columns and lines from which on a chart of 30 days fits."""


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class Board:
    """Draws what a watch has seen. A context manager, which leaves the last picture on the terminal.

    Args:
        every: seconds from one request to the next.
        names: names for client apps, by id.
        by_app: whether to list the client apps.
        now: the present (default: the system's clock).
    """

    def __init__(
        self, *, every: float, names: Mapping[str, str], by_app: bool, now: Callable[[], dt.datetime] = _now
    ) -> None:
        self._every = every
        self._names = names
        self._by_app = by_app
        self._now = now
        self._usage: Usage | None = None
        self._polled_at = now()
        self._events: list[WatchEvent] = []
        self._live = self._start()

    def __enter__(self) -> Self:
        self._live.start()
        self._draw()
        return self

    def __exit__(
        self, error: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def add(self, event: WatchEvent) -> None:
        """Draw what an event has changed."""
        self._polled_at = event.at
        if isinstance(event, UsageSampled):
            self._usage = event.usage
        else:
            # Of the cycles before, nothing is shown.
            self._events = [event] if isinstance(event, CycleReset) else [*self._events, event]
        self._draw()

    def tick(self) -> None:
        """Draw only the last line, in which the seconds pass."""
        # The cursor is at its end: rich ends the block without a newline.
        file = self._live.console.file
        file.write(f"\r{self._status(self._live.console.width)}\x1b[K")
        file.flush()

    def resize(self) -> None:
        """Draw everything on an empty screen. Terminals differ in how they wrap old lines."""
        self._live.transient = True
        self._live.stop()
        self._live.console.control(Control.clear(), Control.home())
        self._live = self._start()
        self._live.start()
        self._draw()

    def _start(self) -> Live:
        console = Console(color_system="256" if screen_of().color else None, highlight=False)
        return Live(console=console, auto_refresh=False, vertical_overflow="crop")

    def _draw(self) -> None:
        screen, console = screen_of(), self._live.console
        status = self._status(screen.width)
        if self._usage is None:
            text = Text(status)
        else:
            view = view_of(
                self._usage,
                now=self._now(),
                days=30 if screen.width >= _WIDE and console.height >= _TALL else 7,
                names=self._names,
                events=self._events,
                stale_after=2 * self._every + 60,
            )
            text = live_text(view, screen, status=status, height=console.height, by_app=self._by_app)
        self._live.update(text if screen.color else Text(text.plain), refresh=True)

    def _status(self, width: int) -> str:
        """Return the times of the updates, and the calls left. Only phrases that fit are included."""
        left = int(self._every - (self._now() - self._polled_at).total_seconds() % self._every)
        phrases = ["waiting for the first response"]
        if self._usage is not None:
            phrases = [f"updated {clock_time(self._usage.fetched_at)} UTC, next in {left // 60}:{left % 60:02}"]
            if (window := self._usage.rate_limit) is not None:
                until = clock_time(window.reset_at)
                phrases.append(f"{window.remaining} of {window.limit} calls left until {until}")
        phrases.append("Ctrl-C ends")
        line = phrases[0]
        for phrase in phrases[1:]:
            if len(line) + 3 + len(phrase) <= width:
                line += f" | {phrase}"
        return line[:width]
