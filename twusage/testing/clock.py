"""VirtualClock: time that a test owns. A wait of fifteen minutes takes milliseconds."""

from __future__ import annotations

import asyncio
import datetime as dt
import heapq
import itertools
import math

from attrs import define, field

__all__ = ["VirtualClock"]

_START = dt.datetime(2026, 1, 15, 12, tzinfo=dt.UTC)
# Rounds of the loop without anything to do, before it counts as idle. Answers of a real socket take some rounds more.
_QUIET_ROUNDS = 3


@define(order=True)
class _Sleeper:
    until: float
    turn: int
    woken: asyncio.Future[None] = field(order=False)


class VirtualClock:
    """A clock that stands still until everybody sleeps, and then jumps to the first who wakes.

    Args:
        start: the wall time at which it begins: 2026-01-15 12:00 UTC if left out.
        auto: whether it advances by itself when the loop is idle; otherwise only ``advance`` moves it.
    """

    def __init__(self, start: dt.datetime = _START, *, auto: bool = True) -> None:
        self._auto = auto
        self._monotonic = 0.0
        self._wall_ahead = start.timestamp()
        self._sleepers: list[_Sleeper] = []
        self._turns = itertools.count()
        self._watching = False

    def time(self) -> float:
        """Wall time: seconds since 1970."""
        return self._wall_ahead + self._monotonic

    def monotonic(self) -> float:
        """Seconds since this clock was made."""
        return self._monotonic

    def now(self) -> dt.datetime:
        """Wall time as a datetime, UTC."""
        return dt.datetime.fromtimestamp(self.time(), dt.UTC)

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has moved that far."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        sleeper = _Sleeper(self._monotonic + seconds, next(self._turns), loop.create_future())
        heapq.heappush(self._sleepers, sleeper)
        if self._auto and not self._watching:
            self._watching = True
            loop.call_soon(self._watch, loop, _QUIET_ROUNDS)
        try:
            await sleeper.woken
        finally:
            if not sleeper.woken.done() or sleeper.woken.cancelled():
                self._sleepers.remove(sleeper)
                heapq.heapify(self._sleepers)

    async def advance(self, seconds: float) -> None:
        """Move on by that much, waking every sleeper in its turn and letting it run until it waits again."""
        until = self._monotonic + seconds
        await self._settle()
        while self._sleepers and self._sleepers[0].until <= until:
            self._wake_next()
            await self._settle()
        self._monotonic = until

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward, or back, as an administrator does. Nobody wakes: waits are monotonic."""
        self._wall_ahead += seconds

    def suspend(self, seconds: float) -> None:
        """The machine sleeps: the wall clock moves on, the monotonic one does not."""
        self._wall_ahead += seconds

    def _wake_next(self) -> None:
        sleeper = heapq.heappop(self._sleepers)
        self._monotonic = max(self._monotonic, sleeper.until)
        sleeper.woken.set_result(None)

    async def _settle(self) -> None:
        loop = asyncio.get_running_loop()
        quiet = 0
        while quiet < _QUIET_ROUNDS:
            await asyncio.sleep(0)
            quiet = 0 if _is_busy(loop) else quiet + 1

    def _watch(self, loop: asyncio.AbstractEventLoop, rounds: int) -> None:
        """Runs once a round of the loop while anybody sleeps, and moves the time when nobody else ran."""
        if _is_busy(loop):
            rounds = _QUIET_ROUNDS
        elif rounds:
            rounds -= 1
        else:
            while self._sleepers and self._sleepers[0].woken.done():
                heapq.heappop(self._sleepers)
            if not self._sleepers or math.isinf(self._sleepers[0].until):
                self._watching = False
                return
            self._wake_next()
            rounds = _QUIET_ROUNDS
        loop.call_soon(self._watch, loop, rounds)


def _is_busy(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether callbacks wait to run besides the one that asks. asyncio has no public word for it."""
    return bool(getattr(loop, "_ready", ()))
