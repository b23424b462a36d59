"""RedisRateLimiter: several processes and machines share an app's window through a Redis.

The rules are ``fleet.FleetWindow``'s. Here is how its state is read and swapped, and what happens while Redis is gone.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import random
import secrets
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar

from attrs import define, evolve, field

from twusage.clock import Clock, SystemClock, Wait
from twusage.errors import ClientClosedError, ConfigurationError, ConnectError, TransportError
from twusage.integrations.fleet import CallReport, Exchange, FleetWindow, Place, Reply
from twusage.limiter import LocalRateLimiter, Slot, Waiter, WaitQueue
from twusage.models import RateLimit
from twusage.window import LIMIT, PERIOD

try:
    from redis.asyncio import Redis, RedisCluster
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import NoScriptError
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        "RedisRateLimiter needs the package redis: pip install 'twusage[redis]'", name=missing.name
    ) from None

__all__ = ["RedisRateLimiter"]

_log = logging.getLogger("twusage")
T = TypeVar("T")
# Redis has 0.2 s for a reply; with cancelling and falling back a call pays less than 250 ms. Wait in 20 ms slices, so
# that a CPU-starved process does not take its own stall for an outage of Redis.
_POLL_SLICE = 0.02
_TIMEOUT_SLICES = 10
_RECONNECT_INTERVAL = 1.0
# Reports buffered during an outage; older ones refer to expired leases.
_MAX_BUFFERED_REPORTS = 200
# Seconds for which a poll's reply holds while no process changes the state.
_POLL_VALID = 0.2
# Seconds of the longest pause after the first failed swap, doubled with each; and the longest of all.
_FIRST_SWAP_PAUSE, _LAST_SWAP_PAUSE = 0.008, 0.512

# Compare and swap. With a version only it reads, and leaves out a state that the caller has. A swap that is repeated
# because its reply was lost does nothing, and replies as before.
_SCRIPT = """
local kept = redis.call('HMGET', KEYS[1], 'version', 'state')
local version, state = kept[1] or '', kept[2] or ''
if version == ARGV[1] and ARGV[2] then
    redis.call('HSET', KEYS[1], 'version', ARGV[2], 'state', ARGV[3])
    redis.call('PEXPIRE', KEYS[1], ARGV[4])
    version = ARGV[2]
end
local time = redis.call('TIME')
return {version, (version == ARGV[1] or version == ARGV[2]) and '' or state, time[1], time[2]}
"""
_SHA = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()


class _RedisUnavailable(Exception):  # noqa: N818 - it never leaves this module
    """Redis is unavailable; the limiter has already switched to its fallback."""


class RedisRateLimiter:
    """Keeps the windows of apps in a Redis, for all processes and machines that use it.

    ::

        async with RedisRateLimiter("redis://10.0.0.5") as limiter, UsageClient("AAAA...", limiter=limiter) as client:
            usage = await client.get_usage()

    Redis' ``TIME`` is the only clock, because the clocks of machines differ. A call pays 250 ms at most for a Redis
    that is gone; the next calls pay nothing until it is back. Meanwhile each process uses its own share of a window:
    what the headers leave, divided by the number of processes that were known last. An outage is one WARNING and one
    INFO line, and counts in ``outages``.

    Args:
        url_or_client: ``redis://``, ``rediss://`` or ``unix://``, or a ``redis.asyncio`` client of your own, which is
            not closed here.
        strict: raise ``ConnectError`` while Redis is gone, instead of using the process's own share.
        clock: measures ``waited``, and the windows while Redis is gone.
        limit: calls of a window that no header describes (default: 50, by the API's document).
        period: seconds of a window that no header describes (default: 900, by the API's document).
        reserve: calls of every window that are left to other programs on the same credentials.
        prefix: the beginning of each key's name.
        lease: seconds for which a place is held at most. More than the ``timeout`` of the clients that use it.

    Raises:
        ConfigurationError: an argument is invalid. A URL is never quoted, because it may hold a password.
    """

    def __init__(
        self,
        url_or_client: str | Redis | RedisCluster,
        *,
        strict: bool = False,
        clock: Clock | None = None,
        limit: int = LIMIT,
        period: float = PERIOD,
        reserve: int = 0,
        prefix: str = "twusage",
        lease: float = 35.0,
    ) -> None:
        if type(limit) is not int or limit < 1:
            raise ConfigurationError(f"limit must be an int of at least 1, got {limit!r}")
        if type(reserve) is not int or not 0 <= reserve < limit:
            raise ConfigurationError(f"reserve must be an int from 0 to {limit - 1}, got {reserve!r}")
        for name, seconds in (("period", period), ("lease", lease)):
            if type(seconds) not in {int, float} or not 0 < seconds < math.inf:
                raise ConfigurationError(f"{name} must be a number of seconds above 0, got {seconds!r}")
        self._connection = _RedisConnection(
            redis=_client(url_or_client),
            owned=isinstance(url_or_client, str),
            strict=strict,
            clock=clock or SystemClock(),
            limit=limit,
            period=period,
            reserve=reserve,
            prefix=prefix,
            lease=lease,
        )

    @property
    def outages(self) -> int:
        """Outages of Redis since this limiter was created."""
        return self._connection.outages

    @property
    def degraded(self) -> bool:
        """Whether Redis is gone now, and this process uses its own share."""
        return self._connection.is_unavailable

    def slot(
        self, app: str, *, max_wait: float = math.inf, on_wait: Callable[[Wait], None] | None = None
    ) -> _RedisSlot:
        """Return a place in the app's window. See ``RateLimiter.slot``.

        Entering also raises ``ClientClosedError`` after ``aclose``, ``ConfigurationError`` on another event loop, and
        ``ConnectError`` while Redis is gone if the limiter is strict.
        """
        return _RedisSlot(self._connection, self._connection.app(app), max_wait, on_wait)

    async def aclose(self) -> None:
        """Send the remaining reports, and close what this limiter opened.

        Calls that still wait raise ``ClientClosedError``. Calling it twice is fine.
        """
        await self._connection.aclose()

    async def __aenter__(self) -> Self:
        """Connect, so that the first call does not pay for it. A missing Redis raises only if ``strict``."""
        await self._connection.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


@define(eq=False)
class _Stored:
    """The last state of one app that this process has read or written."""

    key: str
    version: str = ""
    state: str = ""
    _polled: tuple[str, int] = ("", 0)
    _poll_valid_until: float = -math.inf
    poll_reply: Reply = field(init=False)

    def remember_poll(self, now: float, request: Exchange, reply: Reply) -> None:
        """Keep the reply to a process that only waits, for as long as nothing changes."""
        self._polled, self.poll_reply = (self.version, request.wanted), reply
        is_poll = reply.wait is None and not (reply.places or request.reports)
        self._poll_valid_until = now + min(_POLL_VALID, reply.opens_in or math.inf) if is_poll else -math.inf

    def is_unchanged_poll(self, now: float, request: Exchange) -> bool:
        """Whether ``poll_reply`` is still the reply: 64 polling processes need not read the state each time."""
        same = self._polled == (self.version, request.wanted) and now < self._poll_valid_until
        return same and not (request.reports or request.must_save)


@define(eq=False)
class _RedisConnection:
    """The connection to Redis, its outages, and what all apps of one limiter share."""

    redis: Any
    owned: bool
    strict: bool
    clock: Clock
    limit: int
    period: float
    reserve: int
    prefix: str
    lease: float
    process: str = field(factory=lambda: secrets.token_hex(4))
    is_unavailable: bool = False
    is_closed: bool = False
    outages: int = 0
    _apps: dict[str, _AppQueue] = field(factory=dict)
    _tasks: set[asyncio.Task[Any]] = field(factory=set)
    _reconnecting: asyncio.Task[None] | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    def app(self, app: str) -> _AppQueue:
        if app not in self._apps:
            self._apps[app] = _AppQueue(self, app)
        return self._apps[app]

    def check_available(self) -> bool:
        """Whether calls go through Redis now. Raises if they cannot start at all."""
        if not self.is_unavailable:
            return True
        if self.strict:
            raise self._unavailable_error()
        return False

    def check_usable(self) -> None:
        loop = asyncio.get_running_loop()
        if self.is_closed:
            raise ClientClosedError("this RedisRateLimiter is closed; create a new one")
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ConfigurationError("RedisRateLimiter is bound to another event loop; create one per loop")

    async def connect(self) -> None:
        self.check_usable()
        try:
            await self._execute(lambda: self.redis.script_load(_SCRIPT), 10 * _TIMEOUT_SLICES)  # No call waits for it.
        except _RedisUnavailable:
            if self.strict:
                raise self._unavailable_error() from None

    async def aclose(self) -> None:
        if not self.is_closed and not self.is_unavailable:
            for app in self._apps.values():
                app.deregister()
        self.is_closed = True
        for app in self._apps.values():
            app.reject_waiters(ClientClosedError("the RedisRateLimiter was closed during this call"))
        if self._reconnecting is not None:
            self._reconnecting.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self.owned:
            await self.redis.aclose()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def exchange(self, stored: _Stored, request: Exchange) -> Reply:
        """Apply an exchange to the state in Redis: read, apply, swap, and again if another process was faster."""
        pause = _FIRST_SWAP_PAUSE
        while True:
            now = await self._run_script(stored)
            if stored.is_unchanged_poll(now, request):
                return stored.poll_reply
            try:
                fleet = self._load(stored.state)
                reply = fleet.exchange(now, request)
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # not what this version writes
                self._mark_unavailable(error)
                raise _RedisUnavailable from None
            if not reply.must_save:
                stored.remember_poll(now, request, reply)
                return reply
            saved, version = json.dumps(fleet.to_state(), separators=(",", ":")), secrets.token_hex(8)
            await self._run_script(stored, version, saved, math.ceil(1000 * fleet.lifetime(now)))
            if stored.version == version:
                stored.state = saved
                return reply
            await asyncio.sleep(random.uniform(0.0, pause))  # noqa: S311 - it only keeps processes apart
            pause = min(2 * pause, _LAST_SWAP_PAUSE)

    def _load(self, state: str) -> FleetWindow:
        if not state:
            return FleetWindow(self.lease, self.limit, self.period, self.reserve)
        return FleetWindow.from_state(json.loads(state), self.lease, self.limit, self.period, self.reserve)

    async def _run_script(self, stored: _Stored, *swap: str | int) -> float:
        """Read, or swap if nothing has changed. Returns Redis' time."""
        arguments = stored.key, stored.version, *swap

        async def run() -> list[Any]:
            redis: Any = self.redis
            try:
                raw: list[Any] = await redis.evalsha(_SHA, 1, *arguments)
            except NoScriptError:  # A restarted or flushed Redis has no scripts.
                raw = await redis.eval(_SCRIPT, 1, *arguments)
            return raw

        version, state, seconds, micros = (
            item.decode() if isinstance(item, bytes) else str(item) for item in await self._execute(run)
        )
        if version != stored.version:
            stored.version, stored.state = version, state
        return int(seconds) + int(micros) / 1e6

    async def _execute(self, command: Callable[[], Coroutine[Any, Any, T]], slices: int = _TIMEOUT_SLICES) -> T:
        # A task of its own: a frozen Redis must not hold the caller, and a cancelled caller must not leave half a reply
        # in a connection. Any exception of a user's client is an outage, not the call's failure.
        task = self.spawn(_return_exceptions(command()))
        try:
            while slices and not task.done():
                await asyncio.wait([task], timeout=_POLL_SLICE)
                slices -= 1
        finally:
            task.cancel()
        result = task.result() if task.done() else TimeoutError()
        if isinstance(result, Exception):
            self._mark_unavailable(result)
            raise _RedisUnavailable
        return result

    def _mark_unavailable(self, error: Exception) -> None:
        if self.is_unavailable or self.is_closed:
            return
        self.is_unavailable = True
        self.outages += 1
        _log.warning(
            "the Redis of the rate limiter is unavailable (%s): %s",
            _error_summary(error),
            "calls fail until it is back" if self.strict else "each process uses its own share until it is back",
        )
        for app in self._apps.values():
            app.fall_back_to_local()
        self._reconnecting = self.spawn(self._reconnect_loop())

    async def _reconnect_loop(self) -> None:
        while self.is_unavailable:
            await asyncio.sleep(_RECONNECT_INTERVAL)
            try:
                if self.owned:  # Its connections may lead to a server that is not the master any more.
                    await self._execute(lambda: _disconnect_pool(self.redis))
                await self._execute(lambda: self.redis.script_load(_SCRIPT))
                for app in list(self._apps.values()):
                    await app.exchange(must_save=True)
            except _RedisUnavailable:
                continue
            self.is_unavailable = False
            for app in self._apps.values():
                app.ensure_worker()
            _log.info("the Redis of the rate limiter is back")

    def _unavailable_error(self) -> ConnectError:
        return ConnectError("the Redis of the rate limiter does not respond, and strict=True. Nothing was sent")


class _AppQueue:
    """One app in this process: its waiters, and the reports that Redis has not received.

    One task exchanges them with Redis, only while there are any. Calls wait for futures: cancelling a call never cuts
    an exchange.
    """

    def __init__(self, connection: _RedisConnection, app: str) -> None:
        self.app = app
        self._stored = _Stored(f"{connection.prefix}:{{{app}}}")
        self.reply: Reply | None = None
        self.replied_at = 0.0
        self._connection = connection
        self._clock = connection.clock
        self._waiting = WaitQueue()
        self._outbox: list[CallReport] = []
        self._exchanges = 0
        self._unanswered: Exchange | None = None
        self._received: Place | None = None
        self._asked_at = -math.inf  # when the last exchange was sent that was replied to
        self._has_turn = self._leaving = False
        self._wake = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._fallback: tuple[LocalRateLimiter, _LocalShare] | None = None

    async def wait_for_place(self, max_wait: float, on_wait: Callable[[Wait], None] | None) -> Place | None:
        """Wait for a place. ``None``: Redis is gone."""
        waiter = Waiter(max_wait, self._clock.monotonic(), on_wait)
        self._waiting.add(waiter)
        self._waiting.must_notify = True
        self.ensure_worker()
        try:
            place: Place | None = await waiter.granted
        except BaseException:
            if self._waiting.discard(waiter):
                self.ensure_worker()  # to give up the turn, if it was the last waiter
            elif waiter.has_place and waiter.granted.result() is not None:
                self._give_back(waiter.granted.result())  # Cancelled in the tick of the grant.
            raise
        return place

    def report(self, report: CallReport) -> None:
        """Send a report with the next exchange, soon."""
        self._outbox.append(report)
        del self._outbox[:-_MAX_BUFFERED_REPORTS]
        self.ensure_worker()

    def deregister(self) -> None:
        """Leave the processes that share the window."""
        if self.reply is not None:
            self._leaving = True
            self.ensure_worker()

    def reject_waiters(self, error: Exception) -> None:
        self._waiting.reject_all(error)
        self._wake.set()

    def fall_back_to_local(self) -> None:
        """Redis is gone: all waiters go on without it."""
        self._fallback = None
        self._has_turn = False
        while self._waiting.grant(None):
            pass
        self._wake.set()

    def ensure_worker(self) -> None:
        self._wake.set()
        if self._connection.is_unavailable or self._connection.is_closed:
            return
        if self._worker is None or self._worker.done():
            self._worker = self._connection.spawn(self._worker_loop())

    async def _worker_loop(self) -> None:
        try:
            while not self._connection.is_unavailable and self._has_news():
                self._wake.clear()
                pause = await self.exchange()
                if len(self._waiting):
                    await _wait_for_event(self._wake, pause)
        except _RedisUnavailable:
            pass

    def _has_news(self) -> bool:
        return bool(len(self._waiting) or self._outbox or self._unanswered or self._has_turn or self._leaving)

    async def exchange(self, *, must_save: bool = False) -> float:
        """Exchange reports for places. Returns the seconds until the next exchange."""
        now = self._clock.monotonic()
        if self._unanswered is not None:  # Redis may have applied it: the same number, and no new wishes.
            request = evolve(self._unanswered, sent_at=now, wanted=0, must_save=must_save)
        else:
            self._exchanges += 1
            reports, self._outbox = tuple(self._outbox), []
            wanted = self._waiting.position_at_end()
            process, leaving = self._connection.process, self._leaving
            request = Exchange(
                process, self._exchanges, now, wanted, self._received, reports, leaving, must_save or leaving
            )
        self._unanswered = request
        reply = await self._connection.exchange(self._stored, request)
        self._unanswered, self._leaving = None, self._leaving and not request.leaving
        self._has_turn = len(reply.places) < request.wanted
        self._end_waits_for_failed_probe(request, reply)
        for place in reply.places:
            self._received = place
            if not self._waiting.grant(place):
                self._give_back(place)
        self.reply, self.replied_at, self._asked_at = reply, self._clock.monotonic(), now
        self._notify_waiters(reply, now)
        return reply.pause

    def _end_waits_for_failed_probe(self, request: Exchange, reply: Reply) -> None:
        if self.reply is None or reply.failed_probes == self.reply.failed_probes:
            return
        ours = [report.failure for report in request.reports if report.failure is not None]
        error = ours[-1] if ours else ConnectError(f"another process's call failed: {reply.failure}")
        self._waiting.reject_all(error, came_until=self._asked_at)

    def _give_back(self, place: Place) -> None:
        self.report(CallReport(place, self._clock.monotonic(), self._clock.time(), confirmed=True))

    def _notify_waiters(self, reply: Reply, asked_at: float) -> None:
        now = self._clock.monotonic()
        server_now = self._clock.time() if reply.server_now is None else reply.server_now
        if reply.wait is None:
            self._waiting.reject_overdue(now, server_now, reply.rate_limit, came_until=asked_at)
            self._waiting.must_notify = True
            return
        wait = reply.wait

        def notify(waiter: Waiter, position: int) -> None:
            windows = (reply.ahead + position) // reply.calls_per_window
            waiter.notify_or_reject(now, wait + windows * reply.window_length, server_now, reply.rate_limit)

        self._waiting.notify(now + wait, notify)

    async def local_fallback(self) -> tuple[LocalRateLimiter, _LocalShare]:
        """The limiter for the time without Redis. It starts from the last reply."""
        if self._fallback is None:
            connection, reply = self._connection, self.reply
            share = _LocalShare(reply.processes if reply else 1)
            limit = max(1, connection.limit // share.processes)
            reserve = min(limit - 1, math.ceil(connection.reserve / share.processes))
            local = LocalRateLimiter(clock=self._clock, limit=limit, period=connection.period, reserve=reserve)
            self._fallback = local, share
            if reply is not None:
                async with local.slot(self.app) as slot:  # It is new: its first place is free.
                    self._seed_from_last_reply(slot, reply, share)
        return self._fallback

    def _seed_from_last_reply(self, slot: Slot, reply: Reply, share: _LocalShare) -> None:
        age = self._clock.monotonic() - self.replied_at
        if reply.rate_limit is not None and reply.server_now is not None:
            slot.observe(share.scale(reply.rate_limit), reply.server_now + age)
        if reply.wait is not None and reply.wait > age:
            slot.close_window(reply.wait - age)
        slot.refund()  # Nothing was sent.


@define(eq=False)
class _LocalShare:
    """This process's share of a window while the processes cannot exchange."""

    processes: int
    reset_at: datetime | None = None
    remaining: int = 0

    def scale(self, rate_limit: RateLimit) -> RateLimit:
        """Reduce a response's ``remaining`` to this process's share."""
        if rate_limit.reset_at != self.reset_at:
            self.reset_at, self.remaining = rate_limit.reset_at, rate_limit.remaining // self.processes
        else:
            self.remaining -= 1
        remaining = max(0, min(rate_limit.remaining, self.remaining))
        return RateLimit(rate_limit.limit, remaining, rate_limit.reset_at)


class _RedisSlot:
    __slots__ = ("_app", "_connection", "_local", "_max_wait", "_on_wait", "_place", "_report", "waited")

    def __init__(
        self, connection: _RedisConnection, app: _AppQueue, max_wait: float, on_wait: Callable[[Wait], None] | None
    ) -> None:
        self._connection = connection
        self._app = app
        self._max_wait = max_wait
        self._on_wait = on_wait
        self._place: Place | None = None
        self._local: tuple[Slot, _LocalShare, AsyncExitStack] | None = None
        self._report: dict[str, Any] = {}
        self.waited = 0.0

    async def __aenter__(self) -> Self:
        clock = self._connection.clock
        since = clock.monotonic()
        while not await self._enter(self._max_wait - self.waited):
            self.waited = clock.monotonic() - since
        self.waited = clock.monotonic() - since
        return self

    async def _enter(self, wait_left: float) -> bool:
        """Wait for a place. False: Redis has gone or come back meanwhile, and the call starts again."""
        self._connection.check_usable()
        if self._connection.check_available():
            self._place = await self._app.wait_for_place(wait_left, self._on_wait)
            return self._place is not None
        local, share = await self._app.local_fallback()
        async with AsyncExitStack() as stack:
            slot = await stack.enter_async_context(local.slot(self._app.app, max_wait=wait_left, on_wait=self._on_wait))
            if not self._connection.is_unavailable:
                slot.refund()
                return False
            self._local = slot, share, stack.pop_all()
        return True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        clock, report = self._connection.clock, {"confirmed": False, **self._report}
        if self._place is not None or self._report:
            self._app.report(CallReport(self._place, clock.monotonic(), clock.time(), **report))
        if self._local is not None:
            _, share, stack = self._local
            share.remaining -= not self._report
            await stack.aclose()

    def observe(self, rate_limit: RateLimit | None, server_now: float | None) -> None:
        if rate_limit is None:
            return
        self._report.update(rate_limit=rate_limit, server_now=server_now)
        if self._local is not None:
            slot, share, _ = self._local
            slot.observe(share.scale(rate_limit), server_now)

    def close_window(self, retry_after: float | None) -> None:
        self._report.update(confirmed=True, closed=True, retry_after=retry_after)
        if self._local is not None:
            self._local[0].close_window(retry_after)

    def refund(self) -> None:
        self._report.update(confirmed=True)
        if self._local is not None:
            self._local[0].refund()

    def fail(self, error: TransportError) -> None:
        self._report.update(confirmed=True, failure=error)
        if self._local is not None:
            self._local[0].fail(error)


def _client(url_or_client: object) -> Any:
    if isinstance(url_or_client, Redis | RedisCluster):
        return url_or_client
    if not isinstance(url_or_client, str):
        raise ConfigurationError(
            f"a Redis must be given as a URL or as a redis.asyncio client, got {type(url_or_client).__name__}"
        )
    try:
        # One immediate retry: a pooled connection may lead to a server that was restarted since. A swap that Redis gets
        # twice succeeds twice.
        return Redis.from_url(
            url_or_client, socket_timeout=1.0, socket_connect_timeout=1.0, retry=Retry(NoBackoff(), 1)
        )
    except ValueError:
        raise ConfigurationError(
            "the Redis URL is malformed; it must begin with redis://, rediss:// or unix:// (not quoted: it may hold a "
            "password)"
        ) from None


async def _return_exceptions(command: Coroutine[Any, Any, T]) -> T | Exception:
    try:
        return await command
    except Exception as error:  # noqa: BLE001 - the caller decides
        return error


async def _disconnect_pool(redis: Any) -> None:
    await redis.connection_pool.disconnect()


async def _wait_for_event(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def _error_summary(error: Exception) -> str:
    """The error's class and Redis' own code (``WRONGTYPE``), without what its message may quote."""
    code = str(error).partition(" ")[0]
    return (
        f"{type(error).__name__}: {code}"
        if code.isascii() and code.isalpha() and code.isupper()
        else type(error).__name__
    )
