"""RateLimiter and Slot (protocols), and LocalRateLimiter, which queues calls per app.

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
from typing import Any, Protocol, Self
from weakref import WeakKeyDictionary

from attrs import define, field

from twusage.clock import Clock, SystemClock, Wait
from twusage.errors import ConfigurationError, RateLimitedError, TransportError, TwUsageError
from twusage.event_loop import LoopBinding, running_loop
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
    """A place in the app's window, held during one request."""

    waited: float
    """Seconds that the call waited for this place."""

    def observe(self, rate_limit: RateLimit | None, server_now: float | None) -> None:
        """Record a response's headers and its date in epoch seconds."""
        ...

    def close_window(self, retry_after: float | None) -> None:
        """Record a 429: no calls are left for ``retry_after`` seconds. ``None`` means until the known reset."""
        ...

    def refund(self) -> None:
        """Give the place back unused, because the request was surely never sent."""
        ...

    def fail(self, error: TransportError) -> None:
        """Refund, and pass the probe's ``error`` to the calls behind it.

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
    """Keeps the windows of this process's apps. Calls are served in FIFO order, with one timer per app and no polling.

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
        self._binding = LoopBinding("LocalRateLimiter")

    def slot(
        self, app: str, *, max_wait: float = math.inf, on_wait: Callable[[Wait], None] | None = None
    ) -> _LocalSlot:
        """Return a place in the app's window. See ``RateLimiter.slot``.

        Raises ``ConfigurationError`` if another event loop, which still runs, uses this limiter.
        """
        self.bind()
        queue = self._queues.get(app)
        if queue is None:
            queue = self._queues[app] = _AppQueue(RateWindow(self._limit, self._period, self._reserve), self._clock)
        return _LocalSlot(queue, max_wait, on_wait)

    @property
    def is_free(self) -> bool:
        """Whether no open event loop uses this limiter."""
        return self._binding.is_free

    def bind(self) -> None:
        """Serve the running event loop. The windows of a closed one stay, without its calls."""
        if self._binding.bind():
            self._queues = {app: queue.successor() for app, queue in self._queues.items()}


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

    max_wait: float
    since: float
    """Monotonic seconds."""
    on_wait: Callable[[Wait], None] | None
    granted: asyncio.Future[Any] = field(factory=lambda: asyncio.get_running_loop().create_future())
    """Its place, once it has one."""
    notified_until: float = -math.inf
    """The end of the wait that ``on_wait`` last received, in monotonic seconds."""

    @property
    def has_place(self) -> bool:
        """Whether it was granted a place. False if it was rejected or cancelled."""
        return self.granted.done() and not self.granted.cancelled() and self.granted.exception() is None

    def notify_or_reject(self, now: float, wait: float, server_now: float, rate_limit: RateLimit | None) -> None:
        """Call ``on_wait``, or raise ``RateLimitedError`` if the wait exceeds ``max_wait``."""
        retry_at = _datetime(server_now + wait)
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

    def reject(self, error: Exception) -> None:
        """End the wait with this error, unless the call was just cancelled."""
        if not self.granted.done():
            self.granted.set_exception(error)


class WaitQueue:
    """The calls that wait for places, in FIFO order."""

    def __init__(self) -> None:
        # OrderedDict for O(1) removal: cancelling 10,000 waiters in a deque is O(n^2).
        self._waiting: OrderedDict[Waiter, None] = OrderedDict()
        # A heap of (deadline, number, waiter); waiters that have left are dropped when they come to its top.
        self._deadlines: list[tuple[float, int, Waiter]] = []
        self._numbers = itertools.count()
        self._notified_opening = -math.inf  # when the window opens, as all waiters were notified
        self.must_notify = False  # a waiter has come whose wait was unknown

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, waiter: Waiter) -> None:
        """Put a waiter at the end."""
        self._waiting[waiter] = None
        if waiter.max_wait < math.inf:
            heapq.heappush(self._deadlines, (waiter.since + waiter.max_wait, next(self._numbers), waiter))

    def discard(self, waiter: Waiter) -> bool:
        """Remove a waiter. False: it had left before."""
        return self._waiting.pop(waiter, self) is not self

    def first(self) -> Waiter | None:
        """Return the first waiter that still waits, and remove those before it."""
        while self._waiting:
            waiter = next(iter(self._waiting))
            if not waiter.granted.done():  # done: cancelled a moment ago, and still in the queue
                return waiter
            del self._waiting[waiter]
        self._deadlines.clear()
        self._notified_opening, self.must_notify = -math.inf, False
        return None

    def position_at_end(self) -> int:
        """Count the waiters without those that were cancelled a moment ago: O(waiters)."""
        return sum(not waiter.granted.done() for waiter in self._waiting)

    def notify(self, opens_at: float, notify: Callable[[Waiter, int], None]) -> None:
        """Call ``notify`` with each waiter and position if the opening moved. A second or less does not count.

        That is once a window, and after a 429. If it raises, too long a wait is rejected now and not after it.
        """
        if not self.must_notify and abs(opens_at - self._notified_opening) <= 1.0:
            return
        self._notified_opening, self.must_notify = opens_at, False
        position = 0
        for waiter in list(self._waiting):
            if waiter.granted.done():
                continue
            try:
                notify(waiter, position)
                position += 1
            except Exception as error:  # noqa: BLE001 - too long a wait, or an on_wait that fails: this call's alone
                waiter.reject(error)
                del self._waiting[waiter]

    def reject_overdue(
        self, now: float, server_now: float, rate_limit: RateLimit | None, came_until: float = math.inf
    ) -> float:
        """Reject the waiters that came until then and whose ``max_wait`` is over. Returns the next deadline.

        They wait for another call's response: how long that takes is unknown.
        """
        while self._deadlines:
            deadline, _, waiter = self._deadlines[0]
            if waiter in self._waiting and (deadline > now or waiter.since > came_until):
                return deadline
            heapq.heappop(self._deadlines)
            if self.discard(waiter):
                waiter.reject(
                    RateLimitedError(
                        "another call is finding out whether the app's 15-minute window has calls left, and max_wait "
                        f"allows no more than {waiter.max_wait:.0f} s of waiting for it. Nothing was sent",
                        rate_limit=rate_limit,
                        retry_at=_datetime(server_now + RETRY_BEHIND_PROBE),
                        retry_after=RETRY_BEHIND_PROBE,
                    )
                )
        return math.inf

    def reject_all(self, error: Exception, came_until: float = math.inf) -> None:
        """Reject the waiters that came until then."""
        while (waiter := self.first()) is not None and waiter.since <= came_until:
            del self._waiting[waiter]
            # A copy each: one exception raised by a thousand calls would gather a thousand tracebacks. An exception of
            # a user's clock may have no copy.
            waiter.reject(copy.copy(error) if isinstance(error, TwUsageError) else error)

    def grant(self, place: object) -> bool:
        """Give a place to the first waiter. False: no call waits."""
        waiter = self.first()
        if waiter is None:
            return False
        del self._waiting[waiter]
        waiter.granted.set_result(place)
        return True


class _AppQueue:
    """The calls that wait for one app's window."""

    def __init__(self, window: RateWindow, clock: Clock) -> None:
        self.window = window
        self.clock = clock
        self._waiting = WaitQueue()
        self._timer: asyncio.Task[None] | None = None
        self._timer_at = math.inf
        self._wall_ahead = clock.time() - clock.monotonic()
        self._rate_limit: RateLimit | None = None

    def successor(self) -> _AppQueue:
        """Return a queue of the same window for the next event loop. It has no calls of this one."""
        window = copy.copy(self.window)
        window.sent_at = dict(self.window.sent_at)
        for ticket in self.window.sent_at:
            window.release(self.clock.monotonic(), ticket, confirmed=False)
        queue = _AppQueue(window, self.clock)
        queue._wall_ahead, queue._rate_limit = self._wall_ahead, self._rate_limit
        return queue

    def try_acquire(self) -> int:
        """Take a place if one is free and no other call waits. Returns its ticket, or 0."""
        return 0 if len(self._waiting) else self.window.acquire(self._now())

    async def wait_for_place(self, max_wait: float, on_wait: Callable[[Wait], None] | None) -> tuple[int, float]:
        """Wait for a place; return its ticket and the seconds waited."""
        since = self._now()
        waiter = Waiter(max_wait, since, on_wait)
        try:
            self._notify_or_reject(waiter, len(self._waiting), since)
        except RateLimitedError:
            self._notify_or_reject(waiter, self._waiting.position_at_end(), since)
        self._waiting.add(waiter)
        try:
            self._grant_places()
            ticket = await waiter.granted
        except BaseException:
            if not self._waiting.discard(waiter) and waiter.has_place:
                # Cancelled in the tick of the grant: the next waiter gets the place.
                self.window.release(self.clock.monotonic(), waiter.granted.result(), confirmed=True)
            self._grant_places()
            raise
        return ticket, self.clock.monotonic() - since

    def release(self, ticket: int, *, confirmed: bool, failure: TransportError | None = None) -> None:
        """Give a place back. A probe's ``failure`` ends the wait of the calls behind it."""
        failed_probe = failure is not None and ticket == self.window.probe_ticket
        self.window.release(self.clock.monotonic(), ticket, confirmed=confirmed)
        if not len(self._waiting):
            return
        if failure is not None and failed_probe:
            self._waiting.reject_all(failure)
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
        """Grant free places in FIFO order, then arm the timer."""
        now = self._now()
        while self._waiting.first() is not None and (ticket := self.window.acquire(now)):
            self._waiting.grant(ticket)
        wake_at = self.window.opens_at
        if not len(self._waiting):
            wake_at = math.inf
        elif self.window.seconds_until_free(now) < math.inf:
            self._waiting.notify(wake_at, lambda waiter, position: self._notify_or_reject(waiter, position, now))
        else:
            # Even now until the window opens: a call in flight may hang beyond its end.
            deadline = self._waiting.reject_overdue(now, self._server_time(now), self._rate_limit)
            wake_at = min(wake_at, deadline)
        self._arm_timer(wake_at if len(self._waiting) else math.inf)

    def _notify_or_reject(self, waiter: Waiter, position: int, now: float) -> None:
        """Notify a waiter of its wait, if that is known."""
        window = self.window
        wait = window.seconds_until_free(now)
        if not 0 < wait < math.inf:  # It depends on another call's response.
            self._waiting.must_notify = True
            return
        wait += position // window.calls_per_window * (window.length + window.drift_margin)
        wait -= min(wait, window.drift_margin)  # A countdown need not be that careful.
        waiter.notify_or_reject(now, wait, self._server_time(now), self._rate_limit)

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
            self._waiting.reject_all(error)
        self._timer, self._timer_at = None, math.inf
        self._grant_places()


def _datetime(epoch: float) -> datetime:
    return datetime.fromtimestamp(min(epoch, LAST_INSTANT), UTC)


_limiters_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int | None, LocalRateLimiter]] = (
    WeakKeyDictionary()
)


def default_limiter(clock: Clock, previous: LocalRateLimiter | None = None) -> LocalRateLimiter:
    """Return the running loop's limiter, shared by clients without their own.

    Each clock has its own, because its windows are measured by it. ``previous`` is the one of the client's last loop:
    it is the new loop's if that has none, so that its windows are not forgotten.
    """
    limiters = _limiters_by_loop.setdefault(running_loop(), {})
    key = None if isinstance(clock, SystemClock) else id(clock)
    if key not in limiters:
        # It holds the clock, so that its id stays its own.
        limiter = previous if previous is not None and previous.is_free else LocalRateLimiter(clock=clock)
        limiter.bind()
        limiters[key] = limiter
    return limiters[key]
