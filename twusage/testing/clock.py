"""VirtualClock: time that a test controls. A wait of fifteen minutes takes milliseconds."""

from __future__ import annotations

import asyncio
import datetime as dt
import heapq
import itertools
import math
from weakref import WeakKeyDictionary

from attrs import define, field

__all__ = ["VirtualClock"]

_START = dt.datetime(2026, 1, 15, 12, tzinfo=dt.UTC)
# Rounds without other callbacks after which the event loop counts as idle.
_QUIET_ROUNDS = 3
# Real seconds after which a sleep that cannot end raises an error. Longer than the computations of any test.
_STALLED_AFTER = 2.0


@define(order=True)
class _Sleeper:
    until: float
    number: int
    woken: asyncio.Future[None] = field(order=False)


class VirtualClock:
    """Virtual clock: advances to the earliest sleeper when the loop is idle.

    Only sleeps on this clock count: a task that waits for a real socket seems idle. With sockets, use ``auto=False``.

    Args:
        start: the initial wall time (default: 2026-01-15 12:00 UTC).
        auto: advance automatically when the loop is idle (default). Otherwise only ``advance`` moves the clock, and a
            sleep that does not end raises ``RuntimeError`` after two real seconds instead of blocking the test.
    """

    def __init__(self, start: dt.datetime = _START, *, auto: bool = True) -> None:
        self._auto = auto
        self._monotonic = 0.0
        self._wall_ahead = start.timestamp()
        self._sleepers: list[_Sleeper] = []
        self._numbers = itertools.count()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watching = False
        self._advancing = False

    def time(self) -> float:
        """Return wall time: seconds since 1970."""
        return self._wall_ahead + self._monotonic

    def monotonic(self) -> float:
        """Return the seconds since this clock was created, without those of ``suspend``."""
        return self._monotonic

    def now(self) -> dt.datetime:
        """Return wall time as a datetime, UTC."""
        return dt.datetime.fromtimestamp(self.time(), dt.UTC)

    async def sleep(self, seconds: float) -> None:
        """Sleep until the clock has advanced this far. Raises ``RuntimeError`` if it never will."""
        if not seconds > 0:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # Sleepers on the loop of an earlier test never run again.
            self._loop, self._sleepers, self._watching = loop, [], False
        sleeper = _Sleeper(self._monotonic + seconds, next(self._numbers), loop.create_future())
        heapq.heappush(self._sleepers, sleeper)
        self._watch(loop)
        alarm = loop.call_later(_STALLED_AFTER, self._on_stall, sleeper, seconds, self._monotonic)
        try:
            await sleeper.woken
        finally:
            alarm.cancel()

    async def advance(self, seconds: float) -> None:
        """Advance the clock. Each sleeper wakes at its time, and runs until it waits again.

        Raises ``RuntimeError`` during another ``advance`` of this clock, because each would wait for the other.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"seconds must be a number, 0 or more, got {seconds!r}; jump() sets the clock back")
        if self._advancing:
            raise RuntimeError("this clock is already being advanced, possibly by the program under test")
        loop = asyncio.get_running_loop()
        until = self._monotonic + seconds
        self._advancing = True
        try:
            await self._settle(loop)
            while (first := self._first()) and first.until <= until:
                self._wake(first)
                await self._settle(loop)
            self._monotonic = max(self._monotonic, until)
        finally:
            self._advancing = False
            self._watch(loop)

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back. Sleepers do not wake, because waits are monotonic."""
        self._wall_ahead += seconds

    def suspend(self, seconds: float) -> None:
        """Suspend the machine: only the wall clock advances."""
        self.jump(seconds)

    def _first(self) -> _Sleeper | None:
        while self._sleepers and self._sleepers[0].woken.done():
            heapq.heappop(self._sleepers)
        return self._sleepers[0] if self._sleepers else None

    def _wake(self, sleeper: _Sleeper) -> None:
        self._monotonic = max(self._monotonic, sleeper.until)
        sleeper.woken.set_result(None)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._auto and not self._watching:
            self._watching = True
            self._schedule_tick(loop, _QUIET_ROUNDS)

    def _tick(self, loop: asyncio.AbstractEventLoop, rounds: int) -> None:
        """Run in each round of the loop while there are sleepers. The time advances if the loop is idle."""
        _pending_ticks[loop] -= 1
        first = self._first()
        if self._advancing or first is None or math.isinf(first.until):
            self._watching = False
            return
        if _is_busy(loop):
            rounds = _QUIET_ROUNDS
        elif rounds:
            rounds -= 1
        else:
            self._wake(first)
            rounds = _QUIET_ROUNDS
        self._schedule_tick(loop, rounds)

    def _schedule_tick(self, loop: asyncio.AbstractEventLoop, rounds: int) -> None:
        _pending_ticks[loop] = _pending_ticks.get(loop, 0) + 1
        loop.call_soon(self._tick, loop, rounds)

    async def _settle(self, loop: asyncio.AbstractEventLoop) -> None:
        quiet = 0
        while quiet < _QUIET_ROUNDS:
            _pending_ticks[loop] = _pending_ticks.get(loop, 0) + 1
            try:
                await asyncio.sleep(0)
            finally:
                _pending_ticks[loop] -= 1
            quiet = 0 if _is_busy(loop) else quiet + 1

    def _on_stall(self, sleeper: _Sleeper, seconds: float, since: float) -> None:
        if sleeper.woken.done():
            return
        if self._monotonic > since or self._watching:  # The time advances, so the sleeper may still wake.
            loop = sleeper.woken.get_loop()
            loop.call_later(_STALLED_AFTER, self._on_stall, sleeper, seconds, self._monotonic)
            return
        reason = "which never end"
        if math.isfinite(seconds):
            reason = "but the clock does not move: await clock.advance() in the test, or use VirtualClock(auto=True)"
        sleeper.woken.set_exception(RuntimeError(f"a task sleeps for {seconds:g} s of virtual time, {reason}"))


# Scheduled callbacks of all clocks on each loop, so that two clocks do not count each other as work.
_pending_ticks: WeakKeyDictionary[asyncio.AbstractEventLoop, int] = WeakKeyDictionary()


def _is_busy(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether other callbacks wait to run. asyncio has no public API for that."""
    return len(getattr(loop, "_ready", ())) > _pending_ticks.get(loop, 0)
