"""The app's window of 50 calls in 15 minutes: who goes now, who waits, and for how long.

``RateWindow`` is the rules, pure: time comes in. ``LocalRateLimiter`` is the queue in front of it. What is retried
after a refusal is ``retry``'s business.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol, Self
from weakref import WeakKeyDictionary

from attrs import define

from twusage.clock import Clock, SystemClock, Wait
from twusage.errors import ConfigurationError, RateLimitedError
from twusage.models import RateLimit

__all__ = ["LocalRateLimiter", "RateLimiter", "RateWindow", "Slot", "default_limiter"]

LIMIT = 50
PERIOD = 900.0
DAY = 86400.0
# Seconds by which the two clocks may drift apart between two looks: time servers correct in smaller steps.
APART = 5.0


class Slot(Protocol):
    """A place in the app's window, held while one request is on the wire."""

    waited: float
    """Seconds that this place was waited for."""

    def observe(self, rate_limit: RateLimit | None, server_now: float | None) -> None:
        """Show the window what an answer's headers said, and the server's time (epoch) when it was written."""
        ...

    def close_window(self, retry_after: float | None) -> None:
        """The API answered that the window is spent. It opens in so many seconds; ``None`` where it did not say."""
        ...

    def refund(self) -> None:
        """The request was surely never sent: its place is free again."""
        ...


class RateLimiter(Protocol):
    """Gives places in the windows of apps."""

    def slot(
        self, app: str, *, max_wait: float = math.inf, on_wait: Callable[[Wait], None] | None = None
    ) -> AbstractAsyncContextManager[Slot]:
        """Wait for a place and hold it: ``async with limiter.slot(app) as slot: ...``, first come first served.

        Args:
            app: whose window it is: a key that tells apps apart and gives no secret away.
            max_wait: seconds. A wait that is known to be longer raises ``RateLimitedError`` at once, with ``retry_at``.
            on_wait: called when a wait begins whose length is known, and again when that changes.
        """
        ...


class RateWindow:
    """One app's window as far as it is known. Pure: ``now`` is monotonic seconds, given by the caller.

    ===========================================  ====================================================================
    rule                                         why
    ===========================================  ====================================================================
    ``remaining - in_flight - reserve`` may go   a call under way may be counted already or not yet: count it twice;
                                                 ``reserve`` is left to other programs on the same credentials
    in an unknown window one probe goes          the server may have lowered its limit; one call finds out, not fifty
    of two remainders the smaller counts         answers arrive out of order
    an older reset is ignored                    that answer speaks of a window that is over
    it opens one second after its reset          the reset comes in whole seconds; waking early costs a second 429
    the largest ``server - ours`` is the offset  an answer's way only makes it smaller; learnt anew in each window,
                                                 because clocks drift
    no headers: 50 in 900 s from that call on    what the API's document says
    a reset more than a day ahead is one window  no window of this API is that long; a probe will tell
    an unknown outcome counts as a call          it may have reached the server
    a suspended machine knows nothing any more   its monotonic clock stood still; a spent window stays spent, though:
                                                 the wall clock may just have been set
    ===========================================  ====================================================================
    """

    def __init__(self, limit: int = LIMIT, period: float = PERIOD, reserve: int = 0) -> None:
        self.documented = limit
        self.period = period
        self.reserve = reserve
        self.limit = limit  # as the headers last said it
        self.in_flight = 0
        self.remaining: int | None = None  # None: an unknown window
        self.reset: float | None = None  # the server's clock
        self.offset = -math.inf  # the server's clock minus ours
        self.opens_at = math.inf  # our clock

    def wait(self, now: float) -> float:
        """Seconds until a call may go: 0 is now, infinite is *not before another call's answer*."""
        if now >= self.opens_at:
            self._forget()
        if self.remaining is None:
            return math.inf if self.in_flight else 0.0
        free = self.remaining - self.reserve
        if free > self.in_flight:
            return 0.0
        return math.inf if free > 0 else self.opens_at - now

    def take(self, now: float) -> bool:
        """Take a place, if one is free."""
        free = self.wait(now) == 0.0
        self.in_flight += free
        return free

    def give_back(self, now: float, *, unknown: bool) -> None:
        """End a call. ``unknown``: no headers told whether it counted, so it does."""
        self.in_flight -= 1
        if unknown and self.remaining is not None:
            self.remaining -= 1
        elif unknown:
            self.remaining, self.opens_at = self.documented - 1, now + self.period

    def observe(self, now: float, seen: RateLimit, server_now: float) -> None:
        """Take in what an answer's headers said, before that call's ``give_back``."""
        reset = seen.reset_at.timestamp()
        if self.reset is not None and reset < self.reset:
            return
        if reset != self.reset:
            self._forget()
        self.reset, self.limit = reset, seen.limit
        self.remaining = seen.remaining if self.remaining is None else min(self.remaining, seen.remaining)
        self.offset = max(self.offset, server_now - now)
        self.opens_at = reset + 1.0 - self.offset
        if self.opens_at - now > DAY:
            self.opens_at = now + self.period

    def close(self, now: float, retry_after: float | None) -> None:
        """The server says that the window is spent."""
        if retry_after is None:
            retry_after = self.opens_at - now if math.isfinite(self.opens_at) else self.period
        self.remaining = 0
        self.opens_at = now + max(1.0, retry_after)

    def suspended(self) -> None:
        """Wall and monotonic time have come apart: the machine slept, or somebody set its clock."""
        if self.remaining is not None and self.remaining > self.reserve:
            self._forget()

    def _forget(self) -> None:
        self.remaining = self.reset = None
        self.offset, self.opens_at = -math.inf, math.inf


class LocalRateLimiter:
    """Keeps the windows of this process's apps. First come first served, one timer an app, no polling.

    Args:
        clock: waits are measured by it.
        limit: calls in a window where the API's headers do not say: 50 by its document.
        period: seconds of a window where the API's headers do not say: 900 by its document.
        reserve: calls of every window that are left to other programs on the same credentials.

    Raises:
        ConfigurationError: an argument is wrong.
    """

    def __init__(
        self, *, clock: Clock | None = None, limit: int = LIMIT, period: float = PERIOD, reserve: int = 0
    ) -> None:
        if type(reserve) is not int or not 0 <= reserve < limit:
            raise ConfigurationError(f"reserve must be an int from 0 to {limit - 1}, got {reserve!r}")
        self._clock = clock or SystemClock()
        self._limit, self._period, self._reserve = limit, period, reserve
        self._queues: dict[str, _Queue] = {}

    def slot(
        self, app: str, *, max_wait: float = math.inf, on_wait: Callable[[Wait], None] | None = None
    ) -> _LocalSlot:
        """A place in the app's window. See ``RateLimiter.slot``."""
        queue = self._queues.get(app)
        if queue is None:
            queue = self._queues[app] = _Queue(RateWindow(self._limit, self._period, self._reserve), self._clock)
        return _LocalSlot(queue, max_wait, on_wait)


class _LocalSlot:
    __slots__ = ("_max_wait", "_on_wait", "_queue", "_unknown", "waited")

    def __init__(self, queue: _Queue, max_wait: float, on_wait: Callable[[Wait], None] | None) -> None:
        self._queue = queue
        self._max_wait = max_wait
        self._on_wait = on_wait
        self._unknown = True
        self.waited = 0.0

    async def __aenter__(self) -> Self:
        if not self._queue.enter():
            self.waited = await self._queue.wait(self._max_wait, self._on_wait)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._queue.leave(unknown=self._unknown)

    def observe(self, rate_limit: RateLimit | None, server_now: float | None) -> None:
        if rate_limit is not None:
            self._unknown = False
            self._queue.observe(rate_limit, server_now)

    def close_window(self, retry_after: float | None) -> None:
        self._unknown = False
        self._queue.window.close(self._queue.clock.monotonic(), retry_after)

    def refund(self) -> None:
        self._unknown = False


@define(eq=False)
class _Waiter:
    granted: asyncio.Future[None]
    max_wait: float
    since: float
    on_wait: Callable[[Wait], None] | None
    told: float = -math.inf
    """Until when it was told to wait, on our clock."""


class _Queue:
    """Who waits for one app's window."""

    def __init__(self, window: RateWindow, clock: Clock) -> None:
        self.window = window
        self.clock = clock
        self._waiting: deque[_Waiter] = deque()
        self._timer: asyncio.Task[None] | None = None
        self._timer_at: float | None = None
        self._told: float | None = None
        self._wall_ahead = clock.time() - clock.monotonic()
        self._seen: RateLimit | None = None

    def enter(self) -> bool:
        # Nobody overtakes those who wait.
        return not self._waiting and self.window.take(self._now())

    async def wait(self, max_wait: float, on_wait: Callable[[Wait], None] | None) -> float:
        """Wait for a place and take it; the seconds that it took."""
        since = self.clock.monotonic()
        waiter = _Waiter(asyncio.get_running_loop().create_future(), max_wait, since, on_wait)
        self._foresee(waiter, len(self._waiting), since)
        self._waiting.append(waiter)
        self._serve()
        try:
            await waiter.granted
        except BaseException:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif not waiter.granted.cancelled() and waiter.granted.exception() is None:
                # Cancelled in the tick of the grant: the place goes to the next one.
                self.window.give_back(self.clock.monotonic(), unknown=False)
            self._serve()
            raise
        return self.clock.monotonic() - since

    def leave(self, *, unknown: bool) -> None:
        self.window.give_back(self.clock.monotonic(), unknown=unknown)
        self._serve()

    def observe(self, rate_limit: RateLimit, server_now: float | None) -> None:
        self._seen = rate_limit
        server_now = self.clock.time() if server_now is None else server_now
        self.window.observe(self.clock.monotonic(), rate_limit, server_now)

    def _serve(self) -> None:
        """Let go whoever may go now, and see to it that somebody wakes the others."""
        now = self._now()
        while self._waiting:
            granted = self._waiting[0].granted
            if not granted.done():  # done: cancelled a moment ago, and not yet out of the queue
                if not self.window.take(now):
                    break
                granted.set_result(None)
            self._waiting.popleft()
        # None: the queue is empty, or hangs on the answer to a call that is under way.
        opens_at = self.window.opens_at if self._waiting and self.window.wait(now) < math.inf else None
        if opens_at is not None and opens_at != self._told:
            self._told = opens_at
            self._dismiss(now)
        self._set_timer(opens_at if self._waiting else None)

    def _dismiss(self, now: float) -> None:
        """The window is another than was thought: tell those whom it makes wait too long, now and not later."""
        patient: deque[_Waiter] = deque()
        for waiter in self._waiting:
            try:
                self._foresee(waiter, len(patient), now)
                patient.append(waiter)
            except Exception as error:  # noqa: BLE001 - too long a wait, or a hook that fails: its own call's matter
                if not waiter.granted.done():
                    waiter.granted.set_exception(error)
        self._waiting = patient

    def _wait_at(self, position: int, now: float) -> float:
        """The least that the one at this position of the queue has to wait. 0 where it hangs on another's answer."""
        wait = self.window.wait(now)
        a_window = max(1, self.window.limit - self.window.reserve)
        return wait + position // a_window * self.window.period if 0 < wait < math.inf else 0.0

    def _foresee(self, waiter: _Waiter, position: int, now: float) -> None:
        """Tell a wait that is now known: to its hook, or as an error where it would be too long."""
        wait = self._wait_at(position, now)
        if not wait:
            return
        offset = self.window.offset
        server_now = now + offset if math.isfinite(offset) else self.clock.time()
        retry_at = datetime.fromtimestamp(server_now + wait, UTC)
        left = waiter.max_wait - (now - waiter.since)
        if wait > left:
            raise RateLimitedError(
                f"the app's 15-minute window is spent until {retry_at:%Y-%m-%d %H:%M:%S} UTC: {wait:.0f} s, and "
                f"max_wait leaves {max(0.0, left):.0f} s for waiting. Nothing was sent",
                rate_limit=self._seen,
                retry_at=retry_at,
                retry_after=wait,
            )
        if waiter.on_wait is not None and abs(now + wait - waiter.told) > 1.0:
            waiter.told = now + wait
            waiter.on_wait(Wait(wait, retry_at, "the app's 15-minute window is spent"))

    def _now(self) -> float:
        """Monotonic time, with an eye on the wall clock: the two come apart when the machine was suspended."""
        now, wall = self.clock.monotonic(), self.clock.time()
        if abs(wall - now - self._wall_ahead) > APART:
            self.window.suspended()
        self._wall_ahead = wall - now
        return now

    def _set_timer(self, at: float | None) -> None:
        if at == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = None if at is None else asyncio.get_running_loop().create_task(self._wake(at))

    async def _wake(self, at: float) -> None:
        try:
            await self.clock.sleep(at - self.clock.monotonic())
        except Exception as error:  # noqa: BLE001 - a clock of the user's that fails must not leave its waiters asleep
            for waiter in self._waiting:
                if not waiter.granted.done():
                    waiter.granted.set_exception(error)
            self._waiting.clear()
        self._timer = self._timer_at = None
        self._serve()


_OF_LOOP: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int | None, LocalRateLimiter]] = WeakKeyDictionary()


def default_limiter(clock: Clock) -> LocalRateLimiter:
    """The limiter of the running event loop: clients of the same app share its window without being told to.

    Another clock is another time, so it has a limiter of its own.
    """
    limiters = _OF_LOOP.setdefault(asyncio.get_running_loop(), {})
    key = None if isinstance(clock, SystemClock) else id(clock)
    if key not in limiters:
        limiters[key] = LocalRateLimiter(clock=clock)  # holds the clock, so that its id stays its own
    return limiters[key]
