"""RateLimiter and Slot (protocols), and LocalRateLimiter: a queue in front of each app's window.

The window's rules are in ``window``; ``retry`` decides what is retried after a 429.
"""

from __future__ import annotations

import asyncio
import copy
import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol, Self
from weakref import WeakKeyDictionary, ref

from attrs import define

from twusage.clock import Clock, SystemClock, Wait
from twusage.errors import ConfigurationError, RateLimitedError, TransportError
from twusage.models import RateLimit
from twusage.window import LIMIT, PERIOD, RateWindow

__all__ = ["LocalRateLimiter", "RateLimiter", "Slot", "default_limiter"]

# If wall and monotonic time diverge by more seconds than this between two readings, the machine was suspended or its
# clock was set. NTP slews in smaller steps.
SUSPEND_THRESHOLD = 5.0
# The last second that a datetime can hold, of the year 9999.
LAST_INSTANT = 253402300799.0
# Seconds until the ``retry_at`` of a call that was rejected behind a probe, because the end of a probe is unknown.
RETRY_BEHIND_PROBE = 1.0


class Slot(Protocol):
    """A place in the app's window, held while one request is on the wire."""

    waited: float
    """Seconds that the call waited for this place."""

    def observe(self, rate_limit: RateLimit | None, server_now: float | None) -> None:
        """Record a response's headers, and its date (epoch seconds by the server's clock)."""
        ...

    def close_window(self, retry_after: float | None) -> None:
        """Record a 429: no calls are left for ``retry_after`` seconds, or until the known reset if ``None``."""
        ...

    def refund(self) -> None:
        """Give the place back unused, because the request was surely never sent."""
        ...

    def fail(self, error: TransportError) -> None:
        """Refund, and pass ``error`` to the calls that wait for this call's response, if it is the window's probe.

        This bounds an outage: without it, each waiting call would be the next probe and cost a whole timeout.
        """
        ...


class RateLimiter(Protocol):
    """Gives places in the windows of apps."""

    def slot(
        self, app: str, *, max_wait: float = math.inf, on_wait: Callable[[Wait], None] | None = None
    ) -> AbstractAsyncContextManager[Slot]:
        """Wait for a place and hold it: ``async with limiter.slot(app) as slot: ...``, first come first served.

        Entering raises ``RateLimitedError`` if the wait exceeds ``max_wait``, and another call's ``TransportError`` if
        that call was the window's probe and could not connect.

        Args:
            app: whose window it is: a key that identifies the app and holds no secret.
            max_wait: seconds. A wait that is known to be longer is rejected immediately, with ``retry_at``; a wait for
                another call's response, whose length is unknown, ends after it.
            on_wait: called when a wait of known length begins, and again when that changes by more than a second.
        """
        ...


class LocalRateLimiter:
    """Keeps the windows of this process's apps: first come first served, one timer per app, no polling.

    Args:
        clock: measures the waits (default: the system's).
        limit: calls of a window that no header describes (default: 50, by the API's document).
        period: seconds of a window that no header describes (default: 900, by the API's document).
        reserve: calls of every window that are left to other programs on the same credentials.

    Raises:
        ConfigurationError: an argument is invalid.
    """

    def __init__(
        self, *, clock: Clock | None = None, limit: int = LIMIT, period: float = PERIOD, reserve: int = 0
    ) -> None:
        if type(limit) is not int or limit < 1:
            raise ConfigurationError(f"limit must be an int of at least 1, got {limit!r}")
        if type(period) not in {int, float} or not 0 < period < math.inf:
            raise ConfigurationError(f"period must be a number of seconds above 0, got {period!r}")
        if type(reserve) is not int or not 0 <= reserve < limit:
            raise ConfigurationError(f"reserve must be an int from 0 to {limit - 1}, got {reserve!r}")
        self._clock = clock or SystemClock()
        self._limit, self._period, self._reserve = limit, period, reserve
        self._queues: dict[str, _AppQueue] = {}
        self._loop: Callable[[], asyncio.AbstractEventLoop | None] = lambda: None  # Weak: see ``default_limiter``.

    def slot(
        self, app: str, *, max_wait: float = math.inf, on_wait: Callable[[Wait], None] | None = None
    ) -> _LocalSlot:
        """Return a place in the app's window. See ``RateLimiter.slot``.

        Raises ``ConfigurationError`` if another event loop, which still runs, uses this limiter.
        """
        loop = asyncio.get_running_loop()
        served = self._loop()
        if loop is not served:
            if served is not None and not served.is_closed():
                raise ConfigurationError(
                    "LocalRateLimiter is in use on another event loop; create one per loop, or pass limiter=None"
                )
            self._loop, self._queues = ref(loop), {}  # A closed loop has no waiters.
        queue = self._queues.get(app)
        if queue is None:
            queue = self._queues[app] = _AppQueue(RateWindow(self._limit, self._period, self._reserve), self._clock)
        return _LocalSlot(queue, max_wait, on_wait)


class _LocalSlot:
    __slots__ = ("_confirmed", "_failure", "_max_wait", "_on_wait", "_queue", "_ticket", "waited")

    def __init__(self, queue: _AppQueue, max_wait: float, on_wait: Callable[[Wait], None] | None) -> None:
        self._queue = queue
        self._max_wait = max_wait
        self._on_wait = on_wait
        self._ticket = 0
        self._confirmed = False
        self._failure: TransportError | None = None
        self.waited = 0.0

    async def __aenter__(self) -> Self:
        self._ticket = self._queue.try_acquire()
        if not self._ticket:
            self._ticket, self.waited = await self._queue.wait_for_place(self._max_wait, self._on_wait)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._queue.release(self._ticket, confirmed=self._confirmed, failure=self._failure)

    def observe(self, rate_limit: RateLimit | None, server_now: float | None) -> None:
        if rate_limit is not None:
            self._confirmed = self._queue.observe(self._ticket, rate_limit, server_now)

    def close_window(self, retry_after: float | None) -> None:
        self._confirmed = True
        self._queue.window.close(self._queue.clock.monotonic(), self._ticket, retry_after)

    def refund(self) -> None:
        self._confirmed = True

    def fail(self, error: TransportError) -> None:
        self._confirmed, self._failure = True, error


@define(eq=False)
class Waiter:
    """A call in a limiter's queue."""

    granted: asyncio.Future[int]
    """Its ticket, once it has a place."""
    max_wait: float
    since: float
    """Monotonic seconds."""
    on_wait: Callable[[Wait], None] | None
    notified_until: float = -math.inf
    """The end of the wait that ``on_wait`` last received, in monotonic seconds."""

    def notify_or_reject(self, now: float, wait: float, server_now: float, rate_limit: RateLimit | None) -> None:
        """Call ``on_wait`` with the estimated wait, or raise ``RateLimitedError`` if it exceeds ``max_wait``."""
        retry_at = _instant(server_now + wait)
        left = self.max_wait - (now - self.since)
        if wait > left:
            raise RateLimitedError(
                f"no calls left in the app's 15-minute window until {retry_at:%Y-%m-%d %H:%M:%S} UTC: {wait:.0f} s, "
                f"and max_wait leaves {max(0.0, left):.0f} s for waiting. Nothing was sent",
                rate_limit=rate_limit,
                retry_at=retry_at,
                retry_after=wait,
            )
        if self.on_wait is not None and abs(now + wait - self.notified_until) > 1.0:
            self.notified_until = now + wait
            self.on_wait(Wait(wait, retry_at, "no calls left in the app's 15-minute window"))

    def is_overdue(self, now: float) -> bool:
        """Whether it has waited for ``max_wait``."""
        return now - self.since >= self.max_wait

    def reject_overdue(self, server_now: float, rate_limit: RateLimit | None) -> None:
        """End a wait for another call's response, whose length is unknown."""
        self.fail(
            RateLimitedError(
                "another call is finding out whether the app's 15-minute window has calls left, and max_wait allows no "
                f"more than {self.max_wait:.0f} s of waiting for it. Nothing was sent",
                rate_limit=rate_limit,
                retry_at=_instant(server_now + RETRY_BEHIND_PROBE),
                retry_after=RETRY_BEHIND_PROBE,
            )
        )

    def fail(self, error: Exception) -> None:
        """End the wait with this error, unless the call was granted a place or cancelled a moment ago."""
        if not self.granted.done():
            self.granted.set_exception(error)


class _AppQueue:
    """The calls that wait for one app's window."""

    def __init__(self, window: RateWindow, clock: Clock) -> None:
        self.window = window
        self.clock = clock
        # OrderedDict for O(1) removal: cancelling 10,000 waiters in a deque is O(n^2).
        self._waiting: OrderedDict[Waiter, None] = OrderedDict()
        # A heap of (deadline, number, waiter); waiters that have left are dropped when they come to its top.
        self._deadlines: list[tuple[float, int, Waiter]] = []
        self._numbers = itertools.count()
        self._timer: asyncio.Task[None] | None = None
        self._timer_at = math.inf
        self._notified_opening = -math.inf  # the ``opens_at`` that all waiters were notified of
        self._must_notify = False  # a waiter has come whose wait was unknown
        self._wall_ahead = clock.time() - clock.monotonic()
        self._rate_limit: RateLimit | None = None

    def try_acquire(self) -> int:
        """Take a place if one is free and no other call waits for it. Returns its ticket, or 0."""
        return 0 if self._waiting else self.window.acquire(self._now())

    async def wait_for_place(self, max_wait: float, on_wait: Callable[[Wait], None] | None) -> tuple[int, float]:
        """Wait for a place and take it: its ticket, and the seconds of the wait."""
        since = self._now()
        waiter = Waiter(asyncio.get_running_loop().create_future(), max_wait, since, on_wait)
        try:
            self._notify_or_reject(waiter, len(self._waiting), since)
        except RateLimitedError:
            # Only before a rejection are those left out that were cancelled a moment ago: counting costs O(n).
            self._notify_or_reject(waiter, sum(not other.granted.done() for other in self._waiting), since)
        self._waiting[waiter] = None
        if max_wait < math.inf:
            heapq.heappush(self._deadlines, (since + max_wait, next(self._numbers), waiter))
        try:
            self._grant_places()
            ticket = await waiter.granted
        except BaseException:
            granted = waiter.granted
            if waiter in self._waiting:
                del self._waiting[waiter]
            elif granted.done() and not granted.cancelled() and granted.exception() is None:
                # Cancelled in the tick of the grant: the next waiter gets the place.
                self.window.release(self.clock.monotonic(), granted.result(), confirmed=True)
            self._grant_places()
            raise
        return ticket, self.clock.monotonic() - since

    def release(self, ticket: int, *, confirmed: bool, failure: TransportError | None = None) -> None:
        """Give a place back. A probe's ``failure`` ends the wait of the calls behind it."""
        failed_probe = failure is not None and ticket == self.window.probe_ticket
        self.window.release(self.clock.monotonic(), ticket, confirmed=confirmed)
        if failure is not None and failed_probe:
            self._reject_waiters(failure)
        if self._waiting or self._timer:
            self._grant_places()

    def observe(self, ticket: int, rate_limit: RateLimit, server_now: float | None) -> bool:
        """Pass a response's headers to the window."""
        self._rate_limit = rate_limit
        now = self._now()
        estimated = server_now is None
        server_now = self._server_time(now) if server_now is None else server_now
        return self.window.observe(now, ticket, rate_limit, server_now, estimated=estimated)

    def _server_time(self, now: float) -> float:
        return self.window.server_time(now, self.clock.time())

    def _grant_places(self) -> None:
        """Grant free places to waiters in FIFO order, then arm the timer for the rest."""
        now = self._now()
        while self._waiting:
            first = next(iter(self._waiting))
            if not first.granted.done():  # done: cancelled a moment ago, and still in the queue
                ticket = self.window.acquire(now)
                if not ticket:
                    break
                first.granted.set_result(ticket)
            del self._waiting[first]
        if not self._waiting:
            self._deadlines.clear()
            self._notified_opening, self._must_notify = -math.inf, False
            self._arm_timer(math.inf)
            return
        deadline = math.inf
        if self.window.seconds_until_free(now) < math.inf:
            # Once a window: within one, its opening moves by more than a second only after a 429.
            if self._must_notify or abs(self.window.opens_at - self._notified_opening) > 1.0:
                self._notified_opening, self._must_notify = self.window.opens_at, False
                self._notify_waiters(now)
        else:
            deadline = self._reject_overdue(now)
        # Even if the wait is unknown: a call in flight may hang beyond the end of its window.
        self._arm_timer(min(self.window.opens_at, deadline) if self._waiting else math.inf)

    def _notify_waiters(self, now: float) -> None:
        """Pass each waiter its new estimate: a wait that has become too long is rejected now, not after it."""
        rejected, position = [], 0
        for waiter in self._waiting:
            if waiter.granted.done():
                continue
            try:
                self._notify_or_reject(waiter, position, now)
                position += 1
            except Exception as error:  # noqa: BLE001 - too long a wait, or an on_wait that fails: this call's alone
                waiter.granted.set_exception(error)
                rejected.append(waiter)
        for waiter in rejected:
            del self._waiting[waiter]

    def _notify_or_reject(self, waiter: Waiter, position: int, now: float) -> None:
        """Notify a waiter of its wait, if that is known. The estimate is a lower bound for its position."""
        window = self.window
        wait = window.seconds_until_free(now)
        if not 0 < wait < math.inf:  # It depends on another call's response.
            self._must_notify = True
            return
        windows = position // window.calls_per_window
        wait += windows * (window.length + window.drift_margin)
        wait -= min(wait, window.drift_margin)  # A countdown need not be that careful.
        waiter.notify_or_reject(now, wait, self._server_time(now), self._rate_limit)

    def _reject_overdue(self, now: float) -> float:
        """Reject waiters behind another call's response after their ``max_wait``. Returns the next deadline."""
        while self._deadlines:
            deadline, _, waiter = self._deadlines[0]
            if waiter in self._waiting:
                if not waiter.is_overdue(now):
                    return deadline
                waiter.reject_overdue(self._server_time(now), self._rate_limit)
                del self._waiting[waiter]
            heapq.heappop(self._deadlines)
        return math.inf

    def _reject_waiters(self, error: Exception) -> None:
        while self._waiting:
            # A copy each: one exception raised by a thousand calls would gather a thousand tracebacks.
            self._waiting.popitem(last=False)[0].fail(copy.copy(error))

    def _now(self) -> float:
        """Monotonic time. The window is notified if it diverges from the wall clock: the machine was suspended."""
        now = self.clock.monotonic()
        ahead = self.clock.time() - now
        if abs(ahead - self._wall_ahead) > SUSPEND_THRESHOLD:
            self.window.on_suspend()
        self._wall_ahead = ahead
        return now

    def _arm_timer(self, at: float) -> None:
        if at == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = None if at == math.inf else asyncio.get_running_loop().create_task(self._on_timer(at))

    async def _on_timer(self, at: float) -> None:
        try:
            await self.clock.sleep(at - self.clock.monotonic())
        except asyncio.CancelledError:
            if self._timer is asyncio.current_task():  # Not ours: some programs cancel every task of the loop.
                self._timer, self._timer_at = None, math.inf
                self._grant_places()
            raise
        except Exception as error:  # noqa: BLE001 - a user's clock that fails must not leave its waiters asleep
            self._reject_waiters(error)
        self._timer, self._timer_at = None, math.inf
        self._grant_places()


def _instant(epoch: float) -> datetime:
    return datetime.fromtimestamp(min(epoch, LAST_INSTANT), UTC)


_limiters_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int | None, LocalRateLimiter]] = (
    WeakKeyDictionary()
)


def default_limiter(clock: Clock) -> LocalRateLimiter:
    """Return the running event loop's limiter, which all clients without their own share.

    Each clock has its own, because its windows are measured by it.
    """
    limiters = _limiters_by_loop.setdefault(asyncio.get_running_loop(), {})
    key = None if isinstance(clock, SystemClock) else id(clock)
    if key not in limiters:
        limiters[key] = LocalRateLimiter(clock=clock)  # holds the clock, so that its id stays its own
    return limiters[key]
