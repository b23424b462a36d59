"""RedisRateLimiter: the processes and machines of one app share its window through a Redis.

The rules are ``ratelimit.RateWindow``'s, once more in Lua, because they have to run where the window is. Here is what a
fleet needs beside them: leases, tickets, and what happens while Redis is gone.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import secrets
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeVar

from attrs import define, field, frozen

from twusage.clock import Clock, SystemClock, Wait
from twusage.errors import ClientClosedError, ConfigurationError, ConnectError, RateLimitedError, TransportError
from twusage.limiter import LocalRateLimiter, Slot
from twusage.models import RateLimit
from twusage.window import LIMIT, PERIOD

try:
    from redis.asyncio import Redis, RedisCluster
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import NoScriptError
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        "the shared rate limit needs a package that is not here: pip install 'twusage[redis]'", name=missing.name
    ) from None

__all__ = ["RedisRateLimiter"]

_log = logging.getLogger("twusage")
T = TypeVar("T")
# Redis has 0.2 s for an answer; with what cancelling and falling back cost, a call pays less than 250 ms. They are
# counted in slices: to a process that gets no processor time a slice is long, and that is not Redis' fault.
_SLICE = 0.02
_SLICES = 10
# Seconds between two looks whether Redis is back.
_REVIVE = 1.0
# Reports that are kept for a Redis that is gone. Those beyond tell of leases that will have run out.
_KEPT = 200
_DAY = 86400.0

# All that is shared, in one script, so that nothing can come between two steps of it. Its clock is Redis' own: the
# clocks of a fleet differ. The keys of an app lie in one slot of a cluster, and all of them have a lifetime.
#
#   window   hash   the window as RateWindow knows it; gen counts windows, at is when it was last touched
#   leases   zset   a place that is held -> when its lease runs out
#   queue    zset   a process that waits -> its ticket
#   wants    hash   a process that waits -> "places that its ticket asks for : when it comes to look again"
#   peers    zset   a process -> when it was last seen
_SCRIPT = """
local window, leases, queue, wants, peers = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local documented, period, reserve = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local lease, me = tonumber(ARGV[4]), ARGV[5]
local POLL, LOOK, LATE, GONE, DAY = 0.05, 5, 0.25, 10, 86400
local DRIFT, FIRST_BACKOFF, LAST_BACKOFF = 1.00025, 0.5, 60

local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6

local kept = redis.call('HMGET', window,
    'limit', 'remaining', 'reset', 'offset', 'opens_at', 'closed', 'gen', 'ticket', 'at', 'probe',
    'ends_at', 'probed_at', 'lost', 'backoff')
local limit = tonumber(kept[1]) or documented
local remaining, reset, offset = tonumber(kept[2]), tonumber(kept[3]), tonumber(kept[4])
local opens_at, closed = tonumber(kept[5]), tonumber(kept[6])
local gen, ticket, at = tonumber(kept[7]) or 0, tonumber(kept[8]) or 0, tonumber(kept[9]) or now
local probe, ends_at, probed_at = kept[10] or '', tonumber(kept[11]), tonumber(kept[12])
local lost, backoff = tonumber(kept[13]) or 0, tonumber(kept[14]) or FIRST_BACKOFF

-- Redis' clock was set back, or another Redis has taken over: what was so many seconds ahead still is.
if now < at then
    opens_at = opens_at and opens_at - (at - now)
    closed = closed and closed - (at - now)
    offset = offset and offset + (at - now)
    ends_at = ends_at and ends_at - (at - now)
    probed_at = probed_at and probed_at - (at - now)
end

local function forget()
    gen = remaining and gen + 1 or gen
    remaining, probe, lost = nil, '', 0
    probed_at, ends_at, opens_at = nil, nil, nil
end

local function turn()
    if opens_at and now >= opens_at then
        forget()
    end
end

local function of_this_window(place)
    return string.match(place, '^%d+') == tostring(gen)
end

-- A call has ended, and nothing told whether it counted.
local function unknown_end(place)
    if remaining then
        remaining = remaining - 1
        return
    end
    lost = lost + 1
    if lost > 1 and of_this_window(place) then
        remaining = documented - lost
        ends_at, opens_at = (probed_at or now) + period, now + period
        reset, offset, backoff = nil, nil, FIRST_BACKOFF
    end
end

-- Who holds a place longer than a call can last was killed. Its call may have counted: in this window, it does.
local function bury()
    for _, place in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now)) do
        redis.call('ZREM', leases, place)
        if of_this_window(place) then
            unknown_end(place)
        end
    end
end

local function probing()
    return probe ~= '' and redis.call('ZSCORE', leases, probe)
end

-- Places that are free now, and else the seconds until some are: nil is 'not before another call has its answer'.
local function free()
    if not remaining then
        return (probing() or redis.call('ZCARD', leases) >= documented) and 0 or 1, nil
    end
    if remaining <= reserve or now >= (ends_at or opens_at) then
        return 0, opens_at - now
    end
    return math.max(0, remaining - reserve - redis.call('ZCARD', leases)), nil
end

-- Places that live waiters with an older ticket want. Who is late is passed over, and who stays away is dropped.
local function ahead_of_me()
    local sum = 0
    for _, other in ipairs(redis.call('ZRANGE', queue, 0, -1)) do
        if other == me then
            break
        end
        local want, due = string.match(redis.call('HGET', wants, other) or '0:0', '([^:]+):(.+)')
        if now > tonumber(due) + GONE then
            redis.call('ZREM', queue, other)
            redis.call('HDEL', wants, other)
        elseif now <= tonumber(due) + LATE then
            sum = sum + tonumber(want)
        end
    end
    return sum
end

local do_ = {}

function do_.observe(op)
    local seen_limit, seen_remaining, seen_reset, server_now, age = op[2], op[3], op[4], op[5], op[6]
    local seen_at = now - age
    local here = server_now - seen_at
    if remaining and reset and seen_reset < reset then
        return
    end
    if seen_reset + 1 - math.max(here, offset or here) <= seen_at then
        return
    end
    local left = seen_reset + 1 - server_now
    if left > DAY then
        opens_at = remaining and opens_at or seen_at + period
    else
        if not reset or seen_reset > reset then
            local probing_this = not remaining and probe or ''
            forget()
            probe = probing_this
            offset, backoff, closed = here, FIRST_BACKOFF, nil
        end
        reset, limit, offset = seen_reset, seen_limit, math.max(offset or here, here)
        opens_at = math.max(closed or 0, math.min(opens_at or math.huge, seen_at + left * DRIFT))
    end
    ends_at = opens_at
    remaining = math.min(remaining or seen_remaining, seen_remaining)
end

function do_.close(op)
    local retry_after, closed_at = op[2], now - op[3]
    if not retry_after then
        retry_after = opens_at and opens_at - closed_at or period
    end
    -- The first to be refused since it was open, not one of fifty.
    if closed_at >= (closed or 0) then
        backoff = math.min(2 * backoff, LAST_BACKOFF)
    end
    remaining = 0
    opens_at = closed_at + math.max(backoff, retry_after)
    ends_at, closed = opens_at, opens_at
end

function do_.back(op)
    local place, unknown = op[2], op[3]
    -- A lease that has run out was counted then.
    if redis.call('ZREM', leases, place) == 1 and unknown then
        unknown_end(place)
    end
end

-- Places that Redis gave when nobody listened any more: a frozen one does, when it thaws.
function do_.void(op)
    for _, place in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
        if string.match(place, '^%d+:(.+):%d+$') == op[2] then
            redis.call('ZREM', leases, place)
        end
    end
end

function do_.bye()
    redis.call('ZREM', peers, me)
end

-- As many of the wanted places as this process' ticket may have; the rest waits, on this ticket or on a new one.
local granted, ahead = 0, 0
local function serve(want, name)
    local entry = redis.call('HGET', wants, me)
    local ticketed = entry and math.min(want, tonumber(string.match(entry, '[^:]+'))) or want
    ahead = ahead_of_me()
    local places = free()
    -- A probe is one call, and all wait for what it says: whoever comes first goes.
    local may = remaining and math.min(ticketed, math.max(0, places - ahead)) or math.min(ticketed, places)
    for _ = 1, may do
        granted = granted + 1
        local place = gen .. ':' .. name .. ':' .. granted
        redis.call('ZADD', leases, now + lease, place)
        if not remaining then
            probe, probed_at = place, probed_at or now
        end
    end
    if may == ticketed then
        redis.call('ZREM', queue, me)
        redis.call('HDEL', wants, me)
        return want - may, true
    end
    if not entry then
        ticket = ticket + 1
        redis.call('ZADD', queue, ticket, me)
    end
    redis.call('HSET', wants, me, (ticketed - may) .. ':' .. now)
    return want - may, false
end

local wait, pause
function do_.take(op)
    local want, name = op[2], op[3]
    local left, served = serve(want, name)
    if served and left > 0 then -- those who came after the ticket was drawn
        left = serve(left, name)
    end
    if left == 0 then
        return
    end
    local _
    _, wait = free()
    if wait then
        -- The oldest ticket looks first when the window opens, and the others see what came of it.
        pause = math.min(wait + math.min(0.2, ahead * 0.002), LOOK)
    else
        -- However many wait, Redis is asked a thousand times a second at most.
        pause = math.max(POLL, redis.call('ZCARD', queue) / 1000)
    end
    local entry = redis.call('HGET', wants, me)
    redis.call('HSET', wants, me, string.match(entry, '[^:]+') .. ':' .. string.format('%.6f', now + pause))
end

redis.call('ZADD', peers, now, me)
redis.call('ZREMRANGEBYSCORE', peers, '-inf', now - period - lease)
turn()
bury()
for position = 6, #ARGV do
    local op = cjson.decode(ARGV[position])
    do_[op[1]](op)
    turn()
end

redis.call('HSET', window, 'limit', limit, 'remaining', remaining or '', 'reset', reset or '',
    'offset', offset or '', 'opens_at', opens_at or '', 'closed', closed or '', 'gen', gen, 'ticket', ticket,
    'at', now, 'probe', probe, 'ends_at', ends_at or '', 'probed_at', probed_at or '', 'lost', lost,
    'backoff', backoff)
local lifetime = math.ceil((math.max(period, opens_at and opens_at - now or 0) + period + lease) * 1000)
for _, key in ipairs(KEYS) do
    redis.call('PEXPIRE', key, lifetime)
end

local function told(number)
    return number and string.format('%.6f', number) or ''
end
return {granted, tostring(gen), ahead, told(wait), told(pause), limit, told(remaining), told(reset),
    told(offset and now + offset), redis.call('ZCARD', peers), told(remaining and opens_at and opens_at - now)}
"""
_SHA = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()


@frozen
class _Reply:
    """What the script answered."""

    granted: int
    gen: str
    ahead: int
    """Places that others want before us."""
    wait: float | None
    """Seconds until the window opens, where that is known and we have to wait for it."""
    pause: float
    """Seconds after which to look again."""
    seen: RateLimit | None
    """The newest that the API's headers told anybody of the fleet."""
    server_now: float | None
    """The API server's clock."""
    limit: int
    peers: int
    opens_in: float | None

    @classmethod
    def read(cls, raw: Any) -> Self:
        granted, gen, ahead, wait, pause, limit, remaining, reset, server_now, peers, opens_in = (
            item.decode() if isinstance(item, bytes) else str(item) for item in raw
        )
        seen = None
        if remaining and reset:
            seen = RateLimit(int(limit), max(0, int(float(remaining))), datetime.fromtimestamp(float(reset), UTC))
        return cls(
            int(granted),
            gen,
            int(ahead),
            float(wait) if wait else None,
            float(pause) if pause else 0.0,
            seen,
            float(server_now) if server_now else None,
            int(limit),
            int(peers),
            float(opens_in) if opens_in else None,
        )


class _LostError(Exception):
    """Redis did not answer as it should. Everybody who has to know has been told."""


class RedisRateLimiter:
    """Keeps the windows of apps in a Redis, for all processes and machines that use it.

    ::

        async with RedisRateLimiter("redis://10.0.0.5") as limiter, UsageClient("AAAA...", limiter=limiter) as client:
            usage = await client.get_usage()

    The rules are ``RateWindow``'s. These come on top:

    ===========================================  ====================================================================
    rule                                         why
    ===========================================  ====================================================================
    Redis' ``TIME`` is the only clock            the clocks of a fleet differ
    a place is a lease that runs out             a process that is killed gives nothing back; its call counts
    the window of a dead probe is probed again   nobody knows what it would have said
    a ticket is drawn for all who wait here now  first come first served among processes; those who come later draw
                                                 the next one, so that no process takes it all
    who is late by 250 ms is passed over, who    a process that was killed while it waited holds nobody up
    stays away for 10 s is dropped
    whoever looks first may probe                a late first would cost everybody time, a probe costs one place
    no more than 20 looks a second and process   none at all until shortly before the window opens, but for one in
                                                 5 s, because a place may be given back
    Redis has 0.2 s, once                        a call never pays more than 250 ms for a Redis that is gone; the
                                                 next ones pay nothing until it is back
    ===========================================  ====================================================================

    While Redis is gone, each process keeps to its own share of a window: what the headers leave, divided by the number
    of processes that were there when it was last seen. It says so in one WARNING and one INFO line, and in ``outages``.

    Args:
        url_or_client: ``redis://``, ``rediss://`` or ``unix://``, or a ``redis.asyncio`` client of your own, which is
            not closed here.
        strict: raise instead of going on alone while Redis is gone.
        clock: what ``waited`` is measured by, and what is used while Redis is gone.
        limit: calls in a window where the API's headers do not say: 50 by its document.
        period: seconds of a window where the API's headers do not say: 900 by its document.
        reserve: calls of every window that are left to other programs on the same credentials.
        prefix: what the names of the keys begin with.
        lease: seconds for which a place is held at most. More than the ``timeout`` of the clients that use it.

    Raises:
        ConfigurationError: an argument is wrong. A URL is never quoted, since it may hold a password.
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
        self._link = _Link(
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
        """How often Redis was lost since this limiter was made."""
        return self._link.outages

    @property
    def degraded(self) -> bool:
        """Whether Redis is gone right now, and this process keeps to its own share."""
        return self._link.lost

    def slot(
        self, app: str, *, max_wait: float = math.inf, on_wait: Callable[[Wait], None] | None = None
    ) -> _RedisSlot:
        """A place in the app's window. See ``RateLimiter.slot``.

        Entering it raises ``RateLimitedError`` where the wait is known to be longer than ``max_wait``;
        ``ClientClosedError`` after ``aclose``; ``ConfigurationError`` on another event loop; and where it is strict,
        ``ConnectError`` while Redis is gone.
        """
        return _RedisSlot(self._link, self._link.app(app), max_wait, on_wait)

    async def aclose(self) -> None:
        """Tell Redis what is still to be told, and close what this limiter opened. Who still waits gets
        ``ClientClosedError``. Calling it twice is fine.
        """
        await self._link.aclose()

    async def __aenter__(self) -> Self:
        """Connect, so that the first call does not pay for it. A Redis that is not there is noticed, and not raised
        unless strict.
        """
        await self._link.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


@define(eq=False)
class _Link:
    """The way to Redis, there and gone, and what all apps of one limiter have in common."""

    redis: Any
    owned: bool
    strict: bool
    clock: Clock
    limit: int
    period: float
    reserve: int
    prefix: str
    lease: float
    me: str = field(factory=lambda: secrets.token_hex(8))
    lost: bool = False
    closed: bool = False
    outages: int = 0
    _apps: dict[str, _App] = field(factory=dict)
    _tasks: set[asyncio.Task[Any]] = field(factory=set)
    _reviver: asyncio.Task[None] | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    def is_lost(self) -> bool:
        return self.lost

    def app(self, app: str) -> _App:
        if app not in self._apps:
            self._apps[app] = _App(self, app)
        return self._apps[app]

    async def connect(self) -> None:
        self.check()
        try:
            await self._ask(lambda: self.redis.script_load(_SCRIPT), 10 * _SLICES)  # no call waits for this
        except _LostError:
            if self.strict:
                raise self.gone() from None

    async def aclose(self) -> None:
        if not self.closed and not self.lost:
            for app in self._apps.values():
                app.leave()
        self.closed = True
        for app in self._apps.values():
            app.dismiss(ClientClosedError("the rate limiter was closed"))
        if self._reviver is not None:
            self._reviver.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self.owned:
            await self.redis.aclose()

    def check(self) -> None:
        loop = asyncio.get_running_loop()
        if self.closed:
            raise ClientClosedError("this rate limiter is closed; make a new one")
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ConfigurationError("this rate limiter belongs to another event loop; make one in each")

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def exchange(self, app: _App, ops: Iterable[list[Any]]) -> _Reply:
        """Run the script on an app: reports first, and what is wanted last. Raises ``_LostError``."""
        arguments = [self.limit, self.period, self.reserve, self.lease, self.me, *map(json.dumps, ops)]

        async def run() -> _Reply:
            redis: Any = self.redis
            try:
                raw = await redis.evalsha(_SHA, len(app.keys), *app.keys, *arguments)
            except NoScriptError:  # A restarted or flushed Redis has forgotten it.
                raw = await redis.eval(_SCRIPT, len(app.keys), *app.keys, *arguments)
            return _Reply.read(raw)

        app.reply = reply = await self._ask(run)
        app.replied_at = self.clock.monotonic()
        return reply

    async def _ask(self, question: Callable[[], Coroutine[Any, Any, T]], slices: int = _SLICES) -> T:
        # A task of its own: a frozen Redis must not hold us, nor a cancelled caller leave half an answer in a
        # connection. And whatever a client of the user's raises, a call must not fail for it.
        task = self.spawn(_caught(question()))
        try:
            while slices and not task.done():
                await asyncio.wait([task], timeout=_SLICE)
                slices -= 1
        finally:
            task.cancel()
        answer = task.result() if task.done() else TimeoutError()
        if isinstance(answer, Exception):
            self._lose(answer)
            raise _LostError
        return answer

    def _lose(self, error: Exception) -> None:
        if self.lost or self.closed:
            return
        self.lost = True
        self.outages += 1
        _log.warning(
            "the Redis of the rate limiter is gone (%s): %s",
            _named(error),
            "calls fail until it is back" if self.strict else "each process keeps to its own share until it is back",
        )
        for app in self._apps.values():
            app.part()
        self._reviver = self.spawn(self._revive())

    async def _revive(self) -> None:
        while self.lost:
            await asyncio.sleep(_REVIVE)
            try:
                if self.owned:  # Its connections may lead to a server that is no longer the master.
                    await self._ask(lambda: _disconnected(self.redis))
                await self._ask(lambda: self.redis.script_load(_SCRIPT))
                for app in list(self._apps.values()):
                    await app.report()
            except _LostError:
                continue
            self.lost = False
            _log.info("the Redis of the rate limiter is back")

    def gone(self) -> ConnectError:
        return ConnectError("the Redis of the rate limiter does not answer, and it is strict. Nothing was sent")


@define(eq=False)
class _Waiter:
    granted: asyncio.Future[str | None]
    """The place, or ``None`` where Redis is gone."""
    max_wait: float
    since: float
    on_wait: Callable[[Wait], None] | None
    told: float = -math.inf
    """Until when it was told to wait, on our clock."""


class _App:
    """One app, as this process sees it: who waits for it here, in their order, and what is to be told to Redis.

    One task talks to Redis for all of them, and only while there is something to say. Calls wait for futures: to cancel
    one never cuts an exchange.
    """

    def __init__(self, link: _Link, app: str) -> None:
        self.app = app
        name = f"{link.prefix}:{{{app}}}"
        self.keys = [name, *(f"{name}:{part}" for part in ("leases", "queue", "wants", "peers"))]
        self.reply: _Reply | None = None
        self.replied_at = 0.0
        self._link = link
        self._clock = link.clock
        # Ordered, and anybody leaves it in no time.
        self._waiting: OrderedDict[_Waiter, None] = OrderedDict()
        self._outbox: list[list[Any]] = []
        self._names = 0
        self._queued = False
        self._news = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._alone: tuple[LocalRateLimiter, _Share] | None = None

    async def place(self, max_wait: float, on_wait: Callable[[Wait], None] | None) -> str | None:
        """Wait for a place: its name, or ``None`` where Redis is gone."""
        waiter = _Waiter(asyncio.get_running_loop().create_future(), max_wait, self._clock.monotonic(), on_wait)
        self._waiting[waiter] = None
        self._wake()
        try:
            return await waiter.granted
        except BaseException:
            granted = waiter.granted
            if waiter in self._waiting:
                del self._waiting[waiter]
                self._wake()  # to take back the ticket, if it was the last
            elif not granted.cancelled() and granted.exception() is None and (place := granted.result()) is not None:
                self.tell("back", place, False)  # Cancelled in the tick of the grant: it goes to the next one.
            raise

    def tell(self, verb: str, *arguments: Any) -> None:
        """Report something, soon: together with all else that is to be said then."""
        self._outbox.append([verb, *arguments])
        del self._outbox[:-_KEPT]
        self._wake()

    def leave(self) -> None:
        if self.reply is not None:
            self.tell("bye")

    def dismiss(self, error: Exception) -> None:
        """All who wait get this error."""
        while self._waiting:
            waiter = self._waiting.popitem(last=False)[0]
            if not waiter.granted.done():
                waiter.granted.set_exception(error)
        self._news.set()

    def part(self) -> None:
        """Redis is gone: all who wait go on without it."""
        self._alone = None
        self._queued = False
        while self._waiting:
            waiter = self._waiting.popitem(last=False)[0]
            if not waiter.granted.done():
                waiter.granted.set_result(None)
        self._news.set()

    # -- The one who talks to Redis -----------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._news.set()
        if self._link.lost or self._link.closed:
            return
        if self._worker is None or self._worker.done():
            self._worker = self._link.spawn(self._work())

    async def _work(self) -> None:
        try:
            while self._waiting or self._outbox or self._queued:
                self._news.clear()
                pause = await self.report()
                if self._waiting:
                    await _nap(self._news, pause)
        except _LostError:
            pass

    async def report(self) -> float:
        """Say all that is to be said, and give out what comes back. Seconds after which to ask again."""
        sent, self._outbox = self._outbox, []
        asked = len(self._waiting)
        self._names += 1
        name = f"{self._link.me}:{self._names}"
        now = self._clock.monotonic()
        ops = [_aged(op, now) for op in sent]
        if asked or self._queued:
            ops.append(["take", asked, name])
        try:
            reply = await self._link.exchange(self, ops)
        except _LostError:
            void = [["void", name]] if asked else []
            self._outbox = [*sent, *void, *self._outbox][-_KEPT:]
            raise
        self._queued = reply.granted < asked
        for number in range(1, reply.granted + 1):
            self._grant(f"{reply.gen}:{name}:{number}")
        if reply.wait is not None:
            self._foresee(reply, reply.wait)
        return reply.pause

    def _grant(self, place: str) -> None:
        while self._waiting:
            waiter = self._waiting.popitem(last=False)[0]
            if not waiter.granted.done():  # done: cancelled a moment ago, and not yet out of the queue
                waiter.granted.set_result(place)
                return
        self.tell("back", place, False)

    def _foresee(self, reply: _Reply, wait: float) -> None:
        """Tell a wait that is now known: to the waiter's hook, or as an error where it would be too long."""
        now = self._clock.monotonic()
        server_now = self._clock.time() if reply.server_now is None else reply.server_now
        a_window = max(1, reply.limit - self._link.reserve)
        patient: OrderedDict[_Waiter, None] = OrderedDict()
        for waiter in self._waiting:
            seconds = wait + (reply.ahead + len(patient)) // a_window * self._link.period
            try:
                self._tell_wait(waiter, seconds, now, server_now, reply.seen)
                patient[waiter] = None
            except Exception as error:  # noqa: BLE001 - too long a wait, or a hook that fails: its own call's matter
                if not waiter.granted.done():
                    waiter.granted.set_exception(error)
        self._waiting = patient

    @staticmethod
    def _tell_wait(waiter: _Waiter, wait: float, now: float, server_now: float, seen: RateLimit | None) -> None:
        retry_at = datetime.fromtimestamp(server_now + wait, UTC)
        left = waiter.max_wait - (now - waiter.since)
        if wait > left:
            raise RateLimitedError(
                f"the app's 15-minute window is spent until {retry_at:%Y-%m-%d %H:%M:%S} UTC: {wait:.0f} s, and "
                f"max_wait leaves {max(0.0, left):.0f} s for waiting. Nothing was sent",
                rate_limit=seen,
                retry_at=retry_at,
                retry_after=wait,
            )
        if waiter.on_wait is not None and abs(now + wait - waiter.told) > 1.0:
            waiter.told = now + wait
            waiter.on_wait(Wait(wait, retry_at, "the app's 15-minute window is spent"))

    # -- While Redis is gone ------------------------------------------------------------------------------------------

    async def alone(self) -> tuple[LocalRateLimiter, _Share]:
        """The limiter for while Redis is gone. It begins with what was known last."""
        if self._alone is None:
            link, reply = self._link, self.reply
            share = _Share(reply.peers if reply else 1)
            limit = max(1, link.limit // share.peers)
            reserve = min(limit - 1, math.ceil(link.reserve / share.peers))
            local = LocalRateLimiter(clock=self._clock, limit=limit, period=link.period, reserve=reserve)
            self._alone = local, share
            if reply is not None:
                # Nobody else knows this limiter yet, so that there is nothing to wait for.
                async with local.slot(self.app) as seed:
                    self._plant(seed, reply, share)
        return self._alone

    def _plant(self, seed: Slot, reply: _Reply, share: _Share) -> None:
        since = self._clock.monotonic() - self.replied_at
        if reply.seen is not None and reply.server_now is not None:
            seed.observe(share.of(reply.seen), reply.server_now + since)
        if reply.wait is not None and reply.wait > since:
            seed.close_window(reply.wait - since)
        seed.refund()  # nothing was sent, whatever was planted


@define(eq=False)
class _Share:
    """What this process may use of a window while nobody can ask the others."""

    peers: int
    reset_at: datetime | None = None
    left: int = 0

    def of(self, seen: RateLimit) -> RateLimit:
        """What the headers of one of our calls say, as far as it is ours."""
        if seen.reset_at != self.reset_at:
            self.reset_at, self.left = seen.reset_at, seen.remaining // self.peers
        else:
            self.left -= 1
        return RateLimit(seen.limit, max(0, min(seen.remaining, self.left)), seen.reset_at)


class _RedisSlot:
    __slots__ = ("_app", "_link", "_local", "_max_wait", "_on_wait", "_place", "_unknown", "waited")

    def __init__(self, link: _Link, app: _App, max_wait: float, on_wait: Callable[[Wait], None] | None) -> None:
        self._link = link
        self._app = app
        self._max_wait = max_wait
        self._on_wait = on_wait
        self._place = ""
        self._local: tuple[Slot, _Share, AsyncExitStack] | None = None
        self._unknown = True
        self.waited = 0.0

    async def __aenter__(self) -> Self:
        clock = self._link.clock
        since = clock.monotonic()
        while not await self._enter(self._max_wait - self.waited):
            self.waited = clock.monotonic() - since
        self.waited = clock.monotonic() - since
        return self

    async def _enter(self, left: float) -> bool:
        """Whether there is a place. If not, Redis has come or gone meanwhile, and there is another to wait for."""
        link = self._link
        link.check()
        if not link.is_lost():
            place = await self._app.place(left, self._on_wait)
            self._place = place or ""
            return place is not None
        if link.strict:
            raise link.gone()
        local, share = await self._app.alone()
        async with AsyncExitStack() as stack:
            slot = await stack.enter_async_context(local.slot(self._app.app, max_wait=left, on_wait=self._on_wait))
            if link.is_lost():
                self._local = slot, share, stack.pop_all()
                return True
            slot.refund()
        return False

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._local is None:
            self._app.tell("back", self._place, self._unknown)
            return
        _, share, stack = self._local
        share.left -= self._unknown
        await stack.aclose()

    def observe(self, rate_limit: RateLimit | None, server_now: float | None) -> None:
        if rate_limit is None:
            return
        clock = self._link.clock
        server_now = clock.time() if server_now is None else server_now
        reset = rate_limit.reset_at.timestamp()
        if reset + 1.0 <= server_now:
            return  # No header: it may come out of a cache.
        self._unknown = False
        self._app.tell("observe", rate_limit.limit, rate_limit.remaining, reset, server_now, clock.monotonic())
        if self._local is not None:
            slot, share, _ = self._local
            slot.observe(share.of(rate_limit), server_now)

    def close_window(self, retry_after: float | None) -> None:
        self._unknown = False
        # False: a null is true in Lua.
        wait = False if retry_after is None else min(retry_after, _DAY)
        self._app.tell("close", wait, self._link.clock.monotonic())
        if self._local is not None:
            self._local[0].close_window(retry_after)

    def refund(self) -> None:
        self._unknown = False
        if self._local is not None:
            self._local[0].refund()

    def fail(self, error: TransportError) -> None:
        self._unknown = False
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
        # One retry at once: a connection out of the pool may be that to a server which has been restarted since. What
        # is then done twice is done under the same name, and at worst costs a place until its lease runs out.
        return Redis.from_url(
            url_or_client, socket_timeout=1.0, socket_connect_timeout=1.0, retry=Retry(NoBackoff(), 1)
        )
    except ValueError:
        raise ConfigurationError(
            "the Redis URL is malformed; it must begin with redis://, rediss:// or unix:// (not quoted: it may hold a "
            "password)"
        ) from None


async def _caught(question: Coroutine[Any, Any, T]) -> T | Exception:
    try:
        return await question
    except Exception as error:  # noqa: BLE001 - the one who asked decides
        return error


async def _disconnected(redis: Any) -> None:
    await redis.connection_pool.disconnect()


async def _nap(news: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await news.wait()
    except TimeoutError:
        pass


def _aged(op: list[Any], now: float) -> list[Any]:
    """A report as Redis is to get it: not when, but how long ago."""
    return [*op[:-1], now - op[-1]] if op[0] in {"observe", "close"} else op


def _named(error: Exception) -> str:
    """What went wrong, without what the message may quote: its kind, and Redis' own code (``WRONGTYPE``)."""
    code = str(error).partition(" ")[0]
    return (
        f"{type(error).__name__}: {code}"
        if code.isascii() and code.isalpha() and code.isupper()
        else type(error).__name__
    )
