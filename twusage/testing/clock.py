"""VirtualClock: time that a test owns. A wait of fifteen minutes takes milliseconds."""

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
# Rounds of the loop in which nobody else ran, before it counts as idle.
_QUIET_ROUNDS = 3
# Real seconds after which a wait that nobody can end is called one. Long enough for whatever a test really computes.
_STALLED_AFTER = 2.0


@define(order=True)
class _Sleeper:
    until: float
    turn: int
    woken: asyncio.Future[None] = field(order=False)


class VirtualClock:
    """A clock that stands still while anybody works, and jumps to the first who wakes when all sleep.

    Only sleeps on this clock count: a task that waits for a real socket looks idle to it. There, use ``auto=False``.

    Args:
        start: the wall time at which it begins: 2026-01-15 12:00 UTC if left out.
        auto: whether it moves by itself when the loop is idle; otherwise only ``advance`` moves it, and a sleep that
            nobody ends raises ``RuntimeError`` after two real seconds instead of hanging the test.
    """

    def __init__(self, start: dt.datetime = _START, *, auto: bool = True) -> None:
        self._auto = auto
        self._monotonic = 0.0
        self._wall_ahead = start.timestamp()
        self._sleepers: list[_Sleeper] = []
        self._turns = itertools.count()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watching = False
        self._advancing = False

    def time(self) -> float:
        """Wall time: seconds since 1970."""
        return self._wall_ahead + self._monotonic

    def monotonic(self) -> float:
        """Seconds since this clock was made, less those that the machine was suspended."""
        return self._monotonic

    def now(self) -> dt.datetime:
        """Wall time as a datetime, UTC."""
        return dt.datetime.fromtimestamp(self.time(), dt.UTC)

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has moved that far. Raises ``RuntimeError`` where that can never be."""
        if not seconds > 0:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # The sleepers of another test's loop will never run again.
            self._loop, self._sleepers, self._watching = loop, [], False
        sleeper = _Sleeper(self._monotonic + seconds, next(self._turns), loop.create_future())
        heapq.heappush(self._sleepers, sleeper)
        self._watch(loop)
        alarm = loop.call_later(_STALLED_AFTER, self._stalled, sleeper, seconds, self._monotonic)
        try:
            await sleeper.woken
        finally:
            alarm.cancel()

    async def advance(self, seconds: float) -> None:
        """Move on by that much, waking every sleeper in its turn and letting it run until it waits again.

        Raises ``RuntimeError`` while another ``advance`` of this clock is under way: each would wait for the other.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"a clock moves forward by a number of seconds, not by {seconds!r}; see jump()")
        if self._advancing:
            raise RuntimeError("this clock is being advanced already: by the test and by the program under test?")
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
        """Set the wall clock forward, or back, as an administrator does. Nobody wakes: waits are monotonic."""
        self._wall_ahead += seconds

    def suspend(self, seconds: float) -> None:
        """The machine sleeps: when it wakes, the wall clock has moved on and the monotonic one has not."""
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
            self._look_again(loop, _QUIET_ROUNDS)

    def _look(self, loop: asyncio.AbstractEventLoop, rounds: int) -> None:
        """Runs once a round of the loop while anybody sleeps, and moves the time when nobody else ran."""
        _looking[loop] -= 1
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
        self._look_again(loop, rounds)

    def _look_again(self, loop: asyncio.AbstractEventLoop, rounds: int) -> None:
        _looking[loop] = _looking.get(loop, 0) + 1
        loop.call_soon(self._look, loop, rounds)

    async def _settle(self, loop: asyncio.AbstractEventLoop) -> None:
        quiet = 0
        while quiet < _QUIET_ROUNDS:
            _looking[loop] = _looking.get(loop, 0) + 1
            try:
                await asyncio.sleep(0)
            finally:
                _looking[loop] -= 1
            quiet = 0 if _is_busy(loop) else quiet + 1

    def _stalled(self, sleeper: _Sleeper, seconds: float, since: float) -> None:
        if sleeper.woken.done():
            return
        if self._monotonic > since or self._watching:  # Time moves: its turn will come.
            loop = sleeper.woken.get_loop()
            loop.call_later(_STALLED_AFTER, self._stalled, sleeper, seconds, self._monotonic)
            return
        told = "it never ends" if math.isinf(seconds) else "and nobody moves the clock: await clock.advance(...) in "
        told += "" if math.isinf(seconds) else "the test, or make it VirtualClock(auto=True)"
        sleeper.woken.set_exception(RuntimeError(f"a task sleeps for {seconds:g} s of virtual time, {told}"))


# How many callbacks of our own wait to run on each loop: two clocks must not take each other for work.
_looking: WeakKeyDictionary[asyncio.AbstractEventLoop, int] = WeakKeyDictionary()


def _is_busy(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether callbacks wait to run besides those that ask. asyncio has no public word for it."""
    return len(getattr(loop, "_ready", ())) > _looking.get(loop, 0)
