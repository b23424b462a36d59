"""RedisRateLimiter: processes and machines share an app's window through Redis.

The rules are ``fleet.FleetWindow``'s. What belongs here: reading and swapping its state, and outages of Redis.
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
from types import TracebackType
from typing import Any, Self, TypeVar

from attrs import define, field

from twusage.clock import Clock, SystemClock, Wait
from twusage.errors import ClientClosedError, ConfigurationError, ConnectError
from twusage.integrations.fleet import Exchange, FleetWindow, Reply
from twusage.integrations.fleet_queue import AppQueue, FleetSlot, StoreUnavailable
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
# Seconds for which a poll's reply is valid while no process changes the state.
_POLL_VALID = 0.2
# Seconds of the longest pause after the first failed swap, doubled with each; and the longest of all.
_FIRST_SWAP_PAUSE, _LAST_SWAP_PAUSE = 0.008, 0.512

# Compare and swap. With only a version it reads, and omits the state if the caller has that version. A swap that is
# repeated because its reply was lost does nothing, and replies as before.
_SCRIPT = """
local stored = redis.call('HMGET', KEYS[1], 'version', 'state')
local version, state = stored[1] or '', stored[2] or ''
if version == ARGV[1] and ARGV[2] then
    redis.call('HSET', KEYS[1], 'version', ARGV[2], 'state', ARGV[3])
    redis.call('PEXPIRE', KEYS[1], ARGV[4])
    version = ARGV[2]
end
local time = redis.call('TIME')
return {version, (version == ARGV[1] or version == ARGV[2]) and '' or state, time[1], time[2]}
"""
_SHA = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()


class RedisRateLimiter:
    """Keeps the windows of apps in Redis, for several processes and machines.

    ::

        async with RedisRateLimiter("redis://10.0.0.5") as limiter, UsageClient("AAAA...", limiter=limiter) as client:
            usage = await client.get_usage()

    Redis' ``TIME`` is the only clock, because the clocks of machines differ. If Redis is unavailable, one
    call waits at most 250 ms for it, and the next ones do not wait until it is back. Meanwhile each process uses its
    own share of a window: the calls left by the headers, divided by the last known number of processes. An outage
    logs one WARNING and one INFO line, and counts in ``outages``.

    Args:
        url_or_client: ``redis://``, ``rediss://`` or ``unix://``, or a ``redis.asyncio`` client of your own, which is
            not closed here.
        strict: raise ``ConnectError`` while Redis is unavailable, instead of using the process's own share.
        clock: measures ``waited``, and the windows during an outage of Redis.
        limit: calls of a window that no header describes (default: 50, by the API's document).
        period: seconds of a window that no header describes (default: 900, by the API's document).
        reserve: calls of each window that are left to other programs on the same credentials.
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
        """Whether Redis is unavailable, and this process uses its own share."""
        return self._connection.is_unavailable

    def slot(self, app: str, *, max_wait: float = math.inf, on_wait: Callable[[Wait], None] | None = None) -> FleetSlot:
        """Return a place in the app's window. See ``RateLimiter.slot``.

        Entering also raises ``ClientClosedError`` after ``aclose``, ``ConfigurationError`` on another event loop, and
        ``ConnectError`` while Redis is unavailable if the limiter is strict.
        """
        return FleetSlot(self._connection, self._connection.app(app), max_wait, on_wait)

    async def aclose(self) -> None:
        """Send the remaining reports, and close what this limiter opened.

        Waiting calls raise ``ClientClosedError``. A second call does nothing.
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
    """The last state of an app that this process read or wrote."""

    key: str
    version: str = ""
    state: str = ""
    _polled: tuple[str, int] = ("", 0)
    _poll_valid_until: float = -math.inf
    poll_reply: Reply = field(init=False)

    def remember_poll(self, now: float, request: Exchange, reply: Reply) -> None:
        """Store the reply to a poll, valid until the state changes."""
        self._polled, self.poll_reply = (self.version, request.wanted), reply
        is_poll = reply.wait is None and not (reply.places or request.reports)
        self._poll_valid_until = now + min(_POLL_VALID, reply.opens_in or math.inf) if is_poll else -math.inf

    def is_unchanged_poll(self, now: float, request: Exchange) -> bool:
        """Return whether ``poll_reply`` is valid. Then the state need not be parsed."""
        same = self._polled == (self.version, request.wanted) and now < self._poll_valid_until
        return same and not (request.reports or request.must_save)


@define(eq=False)
class _RedisConnection:
    """The connection to Redis, its outages, and the apps of one limiter."""

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
    _apps: dict[str, AppQueue] = field(factory=dict)
    _stored: dict[str, _Stored] = field(factory=dict)
    _tasks: set[asyncio.Task[Any]] = field(factory=set)
    _reconnecting: asyncio.Task[None] | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    def app(self, app: str) -> AppQueue:
        if app not in self._apps:
            self._apps[app] = AppQueue(self, app)
        return self._apps[app]

    def check_available(self) -> bool:
        """Return whether calls go through Redis now; raise if they cannot start."""
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
        except StoreUnavailable:
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

    async def exchange(self, app: str, request: Exchange) -> Reply:
        """Apply an exchange to the state in Redis: read, apply, swap.

        It starts again if another process was faster.
        """
        stored = self._stored.setdefault(app, _Stored(f"{self.prefix}:{{{app}}}"))
        pause = _FIRST_SWAP_PAUSE
        while True:
            now = await self._run_script(stored)
            if stored.is_unchanged_poll(now, request):
                return stored.poll_reply
            try:
                fleet = self._load(stored.state)
                reply = fleet.exchange(now, request)
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # another writer
                self._mark_unavailable(error)
                raise StoreUnavailable from None
            if not reply.must_save:
                stored.remember_poll(now, request, reply)
                return reply
            saved, version = json.dumps(fleet.to_state(), separators=(",", ":")), secrets.token_hex(8)
            await self._run_script(stored, version, saved, math.ceil(1000 * fleet.lifetime(now)))
            if stored.version == version:
                return reply
            await asyncio.sleep(random.uniform(0.0, pause))  # noqa: S311 - it only keeps processes apart
            pause = min(2 * pause, _LAST_SWAP_PAUSE)

    def _load(self, state: str) -> FleetWindow:
        if not state:
            return FleetWindow(self.lease, self.limit, self.period, self.reserve)
        return FleetWindow.from_state(json.loads(state), self.lease, self.limit, self.period, self.reserve)

    async def _run_script(self, stored: _Stored, *swap: str | int) -> float:
        """Read, or swap an unchanged state; return Redis' time."""
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
            stored.version, stored.state = version, str(swap[1]) if swap and version == swap[0] else state
        return int(seconds) + int(micros) / 1e6

    async def _execute(self, command: Callable[[], Coroutine[Any, Any, T]], slices: int = _TIMEOUT_SLICES) -> T:
        # A task of its own: a frozen Redis must not hold the caller, and a cancelled caller must not leave half a reply
        # in a connection. Any exception of a user's client is an outage, not the call's failure.
        task = self.spawn(_return_exceptions(command))
        try:
            while slices and not task.done():
                await asyncio.wait([task], timeout=_POLL_SLICE)
                slices -= 1
        finally:
            task.cancel()
        result = task.result() if task.done() else TimeoutError()
        if isinstance(result, Exception):
            self._mark_unavailable(result)
            raise StoreUnavailable
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
                if self.owned:  # Its connections may lead to a server that is no longer the master.
                    await self._execute(lambda: _disconnect_pool(self.redis))
                await self._execute(lambda: self.redis.script_load(_SCRIPT))
                for app in list(self._apps.values()):
                    await app.exchange(must_save=True)
            except StoreUnavailable:
                continue
            self.is_unavailable = False
            for app in self._apps.values():
                app.ensure_worker()
            _log.info("the Redis of the rate limiter is back")

    def _unavailable_error(self) -> ConnectError:
        return ConnectError("the Redis of the rate limiter does not respond, and strict=True. Nothing was sent")


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


async def _return_exceptions(command: Callable[[], Coroutine[Any, Any, T]]) -> T | Exception:
    try:
        return await command()  # Called here: a task that is cancelled before it starts must not leave a coroutine.
    except Exception as error:  # noqa: BLE001 - the caller decides
        return error


async def _disconnect_pool(redis: Any) -> None:
    await redis.connection_pool.disconnect()


def _error_summary(error: Exception) -> str:
    """Return the error's class and Redis' code (``WRONGTYPE``).

    The message itself may quote a password.
    """
    code = str(error).partition(" ")[0]
    return (
        f"{type(error).__name__}: {code}"
        if code.isascii() and code.isalpha() and code.isupper()
        else type(error).__name__
    )
