"""RateLimiter and Slot (protocols), and LocalRateLimiter: the queue in front of the app's window.

The window's rules are in ``window``; what is retried after a 429 is decided in ``retry``.
"""

from __future__ import annotations

import asyncio
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
from twusage.errors import ConfigurationError, RateLimitedError
from twusage.models import RateLimit
from twusage.window import LIMIT, PERIOD, RateWindow

__all__ = ["LocalRateLimiter", "RateLimiter", "Slot", "default_limiter"]

# Seconds by which the two clocks may drift apart between two looks: time servers correct in smaller steps.
APART = 5.0
# Where datetime ends, with the year 9999.
LAST_INSTANT = 253402300799.0


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
        if type(limit) is not int or limit < 1:
            raise ConfigurationError(f"limit must be an int of at least 1, got {limit!r}")
        if type(period) not in {int, float} or not 0 < period < math.inf:
            raise ConfigurationError(f"period must be a number of seconds above 0, got {period!r}")
        if type(reserve) is not int or not 0 <= reserve < limit:
            raise ConfigurationError(f"reserve must be an int from 0 to {limit - 1}, got {reserve!r}")
        self._clock = clock or SystemClock()
        self._limit, self._period, self._reserve = limit, period, reserve
        self._queues: dict[str, _Queue] = {}
        self._loop: Callable[[], asyncio.AbstractEventLoop | None] = lambda: None  # Weak: see ``default_limiter``.

    def slot(
        self, app: str, *, max_wait: float = math.inf, on_wait: Callable[[Wait], None] | None = None
    ) -> _LocalSlot:
        """A place in the app's window. See ``RateLimiter.slot``.

        Raises ``ConfigurationError`` where another event loop, which still runs, uses this limiter.
        """
        loop = asyncio.get_running_loop()
        served = self._loop()
        if loop is not served:
            if served is not None and not served.is_closed():
                raise ConfigurationError("this limiter serves another event loop; give each loop its own, or none")
            self._loop, self._queues = ref(loop), {}  # Whoever waited on a loop that is closed waits no more.
        queue = self._queues.get(app)
        if queue is None:
            queue = self._queues[app] = _Queue(RateWindow(self._limit, self._period, self._reserve), self._clock)
        return _LocalSlot(queue, max_wait, on_wait)


class _LocalSlot:
    __slots__ = ("_max_wait", "_on_wait", "_queue", "_ticket", "_unknown", "waited")

    def __init__(self, queue: _Queue, max_wait: float, on_wait: Callable[[Wait], None] | None) -> None:
        self._queue = queue
        self._max_wait = max_wait
        self._on_wait = on_wait
        self._ticket = 0
        self._unknown = True
        self.waited = 0.0

    async def __aenter__(self) -> Self:
        self._ticket = self._queue.enter()
        if not self._ticket:
            self._ticket, self.waited = await self._queue.wait(self._max_wait, self._on_wait)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._queue.leave(self._ticket, unknown=self._unknown)

    def observe(self, rate_limit: RateLimit | None, server_now: float | None) -> None:
        if rate_limit is not None:
            self._unknown = not self._queue.observe(self._ticket, rate_limit, server_now)

    def close_window(self, retry_after: float | None) -> None:
        self._unknown = False
        self._queue.window.close(self._queue.clock.monotonic(), self._ticket, retry_after)

    def refund(self) -> None:
        self._unknown = False


@define(eq=False)
class _Waiter:
    granted: asyncio.Future[int]
    """The ticket of its place."""
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
        # Ordered, and anybody leaves it in no time: with a deque, ten thousand who are cancelled take seconds.
        self._waiting: OrderedDict[_Waiter, None] = OrderedDict()
        self._timer: asyncio.Task[None] | None = None
        self._timer_at: float | None = None
        # What those who wait were told by: when the window opens, how far apart windows are, how many go in each.
        self._foretold: tuple[float, float, int] | None = None
        self._granted = 0  # how many were let go since
        self._surprised = False  # somebody has come who was told nothing, or has gone
        self._wall_ahead = clock.time() - clock.monotonic()
        self._seen: RateLimit | None = None

    def enter(self) -> int:
        # Nobody overtakes those who wait.
        return 0 if self._waiting else self.window.acquire(self._now())

    async def wait(self, max_wait: float, on_wait: Callable[[Wait], None] | None) -> tuple[int, float]:
        """Wait for a place and take it: its ticket, and the seconds that it took."""
        since = self._now()
        waiter = _Waiter(asyncio.get_running_loop().create_future(), max_wait, since, on_wait)
        try:
            self._foresee(waiter, len(self._waiting), since)
        except RateLimitedError:
            # Before it is refused, those are counted who really wait: some may have been cancelled a moment ago.
            self._foresee(waiter, sum(not other.granted.done() for other in self._waiting), since)
        self._waiting[waiter] = None
        try:
            self._serve()
            ticket = await waiter.granted
        except BaseException:
            granted = waiter.granted
            if waiter in self._waiting:
                del self._waiting[waiter]
                self._surprised = True
            elif granted.done() and not granted.cancelled() and granted.exception() is None:
                # Cancelled in the tick of the grant: the place goes to the next one.
                self.window.release(self.clock.monotonic(), granted.result(), confirmed=True)
            self._serve()
            raise
        return ticket, self.clock.monotonic() - since

    def leave(self, ticket: int, *, unknown: bool) -> None:
        self.window.release(self.clock.monotonic(), ticket, confirmed=not unknown)
        if self._waiting:
            self._serve()

    def observe(self, ticket: int, rate_limit: RateLimit, server_now: float | None) -> bool:
        self._seen = rate_limit
        now = self._now()
        estimated = server_now is None
        told = self._server(now) if server_now is None else server_now
        return self.window.observe(now, ticket, rate_limit, told, estimated=estimated)

    def _server(self, now: float) -> float:
        """The server's time, as far as its answers told; else the wall clock's."""
        offset = self.window.server_offset
        return now + offset if math.isfinite(offset) else self.clock.time()

    def _serve(self) -> None:
        """Let go whoever may go now, and see to it that somebody wakes the others."""
        now = self._now()
        while self._waiting:
            first = next(iter(self._waiting))
            if not first.granted.done():  # done: cancelled a moment ago, and not yet out of the queue
                ticket = self.window.acquire(now)
                if not ticket:
                    break
                first.granted.set_result(ticket)
                self._granted += 1
            del self._waiting[first]
        if not self._waiting:
            self._foretold, self._surprised = None, False
        elif math.isfinite(self.window.seconds_until_free(now)) and self._is_a_surprise():
            self._foretold, self._granted, self._surprised = self._foresight, 0, False
            self._tell(now)
        # Not only where the wait is known: a call under way may hang beyond the end of its window.
        self._set_timer(self.window.opens_at if self._waiting and self.window.opens_at < math.inf else None)

    def _is_a_surprise(self) -> bool:
        """Whether the window is another than those who wait were told. One that opens when it was foreseen, after as
        many were let go, is none: a queue of ten thousand is not told two hundred times what it knows.
        """
        if self._surprised or self._foretold is None:
            return True
        told, each, calls = self._foretold
        since = self.window.opens_at - told
        windows = round(since / each)
        late = abs(since - windows * each) > 1.0 + since / 1000  # Over so many windows, seconds may add up.
        return windows < 0 or late or calls != self._foresight[2] or self._granted < windows * calls

    @property
    def _foresight(self) -> tuple[float, float, int]:
        window = self.window
        return window.opens_at, window.length + window.drift_margin, max(1, window.limit - window.reserve)

    def _tell(self, now: float) -> None:
        """The window is another than was thought: those whom it makes wait too long hear it now and not later."""
        dismissed, position = [], 0
        for waiter in self._waiting:
            if waiter.granted.done():
                continue
            try:
                self._foresee(waiter, position, now)
                position += 1
            except Exception as error:  # noqa: BLE001 - too long a wait, or a hook that fails: its own call's matter
                waiter.granted.set_exception(error)
                dismissed.append(waiter)
        for waiter in dismissed:
            del self._waiting[waiter]

    def _foresee(self, waiter: _Waiter, position: int, now: float) -> None:
        """Tell a wait that is known, to its hook, or as an error where it is too long. It is the least for whoever
        stands at that position of the queue.
        """
        wait = self.window.seconds_until_free(now)
        if not 0 < wait < math.inf:  # It hangs on another call's answer.
            self._surprised = True
            return
        wait -= min(wait, self.window.drift_margin)  # a countdown need not be so careful
        wait += position // self._foresight[2] * self.window.length
        left = waiter.max_wait - (now - waiter.since)
        if wait > left:
            retry_at = self._instant(now, wait)
            raise RateLimitedError(
                f"the app's 15-minute window is spent until {retry_at:%Y-%m-%d %H:%M:%S} UTC: {wait:.0f} s, and "
                f"max_wait leaves {max(0.0, left):.0f} s for waiting. Nothing was sent",
                rate_limit=self._seen,
                retry_at=retry_at,
                retry_after=wait,
            )
        if waiter.on_wait is not None and abs(now + wait - waiter.told) > 1.0:
            waiter.told = now + wait
            waiter.on_wait(Wait(wait, self._instant(now, wait), "the app's 15-minute window is spent"))

    def _instant(self, now: float, wait: float) -> datetime:
        return datetime.fromtimestamp(min(self._server(now) + wait, LAST_INSTANT), UTC)

    def _now(self) -> float:
        """Monotonic time, with an eye on the wall clock: the two come apart when the machine was suspended."""
        now = self.clock.monotonic()
        ahead = self.clock.time() - now
        if not -APART <= ahead - self._wall_ahead <= APART:
            self.window.on_suspend()
        self._wall_ahead = ahead
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
        except asyncio.CancelledError:
            if self._timer is asyncio.current_task():  # not by us: somebody cancels all tasks that there are
                self._timer = self._timer_at = None
                self._serve()
            raise
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
