"""The shared rate limit, against a real Redis. Its rules, its queue, and what happens while Redis is gone."""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import importlib
import json
import logging
import math
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from twusage import (
    ClientClosedError,
    ConfigurationError,
    ConnectError,
    RateLimit,
    RateLimitedError,
    RetryPolicy,
    TlsError,
    UsageClient,
)
from twusage.clock import Wait
from twusage.testing import FakeApi, FakeTransport

pytest.importorskip("redis")

import redis as blocking
import redis.asyncio as aioredis
from redis_server import RedisServer

from twusage.integrations import redis as shared
from twusage.integrations.fleet import Exchange, FleetWindow, Reply, _Turn
from twusage.integrations.fleet_queue import StoreUnavailable
from twusage.integrations.redis import RedisRateLimiter, _RedisConnection

pytestmark = pytest.mark.fault("Redis")

APP = "0f" * 32
KEY = f"twusage:{{{APP}}}"
# Seconds that a call may wait for a Redis that is gone. The limiter promises 0.25, in slices of its own processor
# time: on a busy machine they take longer.
QUICK = 0.75


class Server(RedisServer):
    """A Redis whose state of the app tests can read and change."""

    def fleet(self) -> FleetWindow:
        """The app's state as it is kept."""
        kept: Any = self.client.hget(KEY, "state")
        return FleetWindow.from_state(json.loads(kept), 35.0) if kept else FleetWindow(35.0)

    def save(self, fleet: FleetWindow) -> None:
        """Another state."""
        self.client.hset(KEY, mapping={"version": "another's", "state": json.dumps(fleet.to_state())})

    def state(self) -> dict[str, Any]:
        """The window's remaining calls, its places, and the processes that wait."""
        fleet = self.fleet()
        remaining = fleet.window.remaining
        return {
            "remaining": None if remaining is None else remaining - fleet.window.unconfirmed_calls,
            "held": len(fleet.leases),
            "waiting": len(fleet.turns),
        }


@pytest.fixture(scope="module")
def one_server() -> Iterator[Server]:
    with Server.running() as server:
        yield server


@pytest.fixture
def server(one_server: Server) -> Iterator[Server]:
    """A Redis with nothing in it, and with its own settings again when the test is over."""
    one_server.client.flushall()
    one_server.client.script_flush()
    yield one_server
    if one_server.process.poll() is not None:
        one_server.start()
    one_server.thaw()
    one_server.client.config_set("maxmemory", 0)
    one_server.client.replicaof("NO", "ONE")


@pytest.fixture
async def limiter(server: Server) -> AsyncIterator[RedisRateLimiter]:
    async with RedisRateLimiter(server.url) as limiter:
        yield limiter


@pytest.fixture
async def other(server: Server) -> AsyncIterator[RedisRateLimiter]:
    """Another process' limiter."""
    async with RedisRateLimiter(server.url) as limiter:
        yield limiter


def window(remaining: int, *, wait: float = 900.0, limit: int = 50) -> RateLimit:
    """Headers whose window opens, by the rules, in about that many seconds."""
    return RateLimit(limit, remaining, dt.datetime.fromtimestamp(time.time() + wait - 1.0, dt.UTC))


async def call(limiter: RedisRateLimiter, headers: RateLimit | None = None, **keywords: Any) -> float:
    """One call, and its response's headers."""
    async with limiter.slot(APP, **keywords) as slot:
        slot.observe(headers, time.time())
    return slot.waited


async def flushed(limiter: RedisRateLimiter) -> None:
    """Wait until it has sent all reports to Redis."""
    app = limiter._connection.app(APP)
    while app._has_news() or (app._worker and not app._worker.done()):  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.001)


# -- The window -------------------------------------------------------------------------------------------------------


async def test_one_probe_goes_and_all_wait_for_its_response(limiter: RedisRateLimiter, other: RedisRateLimiter) -> None:
    """The second process waits for the first one's response, and adopts its window."""
    async with limiter.slot(APP) as probe:
        second = asyncio.create_task(call(other))
        await asyncio.sleep(0.15)
        assert not second.done()
        probe.observe(window(1), time.time())
    assert await asyncio.wait_for(second, 2) >= 0.15


async def test_as_many_go_as_the_headers_leave(limiter: RedisRateLimiter, other: RedisRateLimiter) -> None:
    """Two processes together make the calls that the probe's response left, and the next one gets its wait."""
    headers = window(4, wait=700)
    await call(limiter, headers)
    await flushed(limiter)
    for one in (limiter, other, other, limiter):
        await call(one)
        await flushed(one)
    with pytest.raises(RateLimitedError) as refused:
        await call(other, max_wait=60)
    assert refused.value.status is None
    assert refused.value.retry_after == pytest.approx(700, abs=2)
    assert refused.value.retry_at is not None
    assert refused.value.retry_at.timestamp() == pytest.approx(time.time() + 700, abs=2)
    assert refused.value.rate_limit == RateLimit(50, 0, headers.reset_at)


async def test_a_used_up_window_opens_automatically(limiter: RedisRateLimiter, other: RedisRateLimiter) -> None:
    """A call of another process waits until the window opens, probes, and reports its wait."""
    await call(limiter, window(0, wait=0.6))
    await flushed(limiter)
    assert 0.4 <= await call(other, window(40)) < 2.0


async def test_out_of_order_and_old_answers(limiter: RedisRateLimiter, server: Server) -> None:
    """Of two remainders the smaller counts, an older reset is ignored, and a newer one opens a new window."""
    older, newer, newest = (window(30, wait=wait) for wait in (500, 700, 900))
    for headers, remaining in (
        (RateLimit(50, 5, newer.reset_at), 5),
        (RateLimit(50, 7, newer.reset_at), 5),
        (RateLimit(50, 0, older.reset_at), 4),
        (RateLimit(50, 9, newest.reset_at), 9),
    ):
        await call(limiter, headers)
        await flushed(limiter)
        assert server.state()["remaining"] == remaining


async def test_a_reset_in_the_past_is_no_header(limiter: RedisRateLimiter, server: Server) -> None:
    """It may come out of a cache. The call counts, and its numbers do not. The same for a late response."""
    await call(limiter, window(20))
    await call(limiter, window(3, wait=-5))
    await flushed(limiter)
    assert server.state()["remaining"] == 19
    async with limiter.slot(APP) as slot:
        slot.observe(window(2, wait=5), time.time() - 60)
    await flushed(limiter)
    assert server.state()["remaining"] == 18


async def test_a_reset_more_than_a_day_ahead_is_one_window(limiter: RedisRateLimiter) -> None:
    """It is not believed: 900 s, and then a probe."""
    await call(limiter, window(0, wait=200_000))
    await flushed(limiter)
    with pytest.raises(RateLimitedError) as refused:
        await call(limiter, max_wait=0)
    assert refused.value.retry_after == pytest.approx(900, abs=1)


async def test_two_answers_without_headers_are_the_documents_window(server: Server) -> None:
    """One may have been lost. After two, it counts 50 in the period from the first, here 3 in 0.5 s."""
    async with RedisRateLimiter(server.url, limit=3, period=0.5) as limiter:
        begin = time.monotonic()
        for _ in range(4):
            await call(limiter)
        assert 0.5 <= time.monotonic() - begin < 3.0


async def test_closed_is_closed_for_all(limiter: RedisRateLimiter, other: RedisRateLimiter) -> None:
    """A 429 closes the window for all processes, for the server's duration, and headers do not open it sooner."""
    async with limiter.slot(APP) as slot:
        slot.observe(window(0, wait=100), time.time())
        slot.close_window(300.0)
    await flushed(limiter)
    with pytest.raises(RateLimitedError) as refused:
        await call(other, max_wait=200)
    assert refused.value.retry_after == pytest.approx(300, abs=1)


@pytest.mark.parametrize(("retry_after", "wait"), [(None, 900), (200, 200)])
async def test_closed_without_a_time(limiter: RedisRateLimiter, retry_after: float | None, wait: float) -> None:
    """If the 429 has no duration, it is the window's end if that is known, and else a whole window."""
    async with limiter.slot(APP) as slot:
        slot.observe(retry_after and window(0, wait=retry_after), time.time())  # type: ignore[arg-type]
        slot.close_window(None)
    await flushed(limiter)
    with pytest.raises(RateLimitedError) as refused:
        await call(limiter, max_wait=0)
    assert refused.value.retry_after == pytest.approx(wait, abs=1)


async def test_refused_and_refused_again_waits_longer(limiter: RedisRateLimiter) -> None:
    """A Retry-After of 0 is one second, and half as long again after the next 429."""
    waits = []
    for _ in range(2):
        async with limiter.slot(APP) as slot:
            slot.close_window(0.0)
        waits.append(slot.waited)
    assert waits[1] == pytest.approx(1, abs=0.8)
    await flushed(limiter)
    with pytest.raises(RateLimitedError) as refused:
        await call(limiter, max_wait=0)
    assert refused.value.retry_after == pytest.approx(1.5, abs=0.3)


async def test_a_refunded_place_is_free_again(limiter: RedisRateLimiter, server: Server) -> None:
    """A request that was surely never sent costs nothing. One whose outcome is unknown counts."""
    await call(limiter, window(2))
    async with limiter.slot(APP) as slot:
        slot.refund()
    await flushed(limiter)
    assert server.state() == {"remaining": 2, "held": 0, "waiting": 0}
    await call(limiter)
    await flushed(limiter)
    assert server.state()["remaining"] == 1


async def test_reserve_is_left_to_others(server: Server) -> None:
    """With a reserve of 3, the last 3 of a window are not taken."""
    async with RedisRateLimiter(server.url, reserve=3) as limiter:
        await call(limiter, window(4))
        await call(limiter)
        await flushed(limiter)
        with pytest.raises(RateLimitedError):
            await call(limiter, max_wait=0)


async def test_redis_clock_set_back(limiter: RedisRateLimiter, server: Server) -> None:
    """Another Redis takes over whose clock is an hour behind. A wait of 300 s is still one of 300 s."""
    await call(limiter, window(0, wait=300))
    await flushed(limiter)
    fleet = server.fleet()
    fleet.window.on_clock_step(3600.0)
    fleet.updated_at += 3600.0
    server.save(fleet)
    with pytest.raises(RateLimitedError) as refused:
        await call(limiter, max_wait=0)
    assert refused.value.retry_after == pytest.approx(300, abs=1)


# -- Leases, tickets, waits -------------------------------------------------------------------------------------------


async def test_a_killed_probe_stalls_no_process(server: Server, limiter: RedisRateLimiter) -> None:
    """A process that is killed with the probe blocks the others for its lease, and no longer."""
    killed = RedisRateLimiter(server.url, lease=0.3)
    await killed.slot(APP).__aenter__()
    assert 0.1 <= await call(limiter, window(7)) < 3.0
    await killed.aclose()


async def test_the_place_of_a_killed_process_counts(server: Server, limiter: RedisRateLimiter) -> None:
    """Its call may have reached the API, until the response to a later call shows whether it did."""
    headers = window(7, wait=600)
    await call(limiter, headers)
    await flushed(limiter)
    killed = RedisRateLimiter(server.url, lease=0.1)
    held = killed.slot(APP)
    await held.__aenter__()
    await asyncio.sleep(0.15)
    async with limiter.slot(APP) as slot:
        slot.refund()
    await flushed(limiter)
    assert server.state() == {"remaining": 6, "held": 0, "waiting": 0}
    await held.__aexit__(None, None, None)  # It was not dead, but slow: its place was counted already.
    await flushed(killed)
    assert server.state()["remaining"] == 6
    await call(limiter, headers)
    await flushed(limiter)
    assert server.state()["remaining"] == 7
    await killed.aclose()


@pytest.mark.parametrize("known", [True, False], ids=["known", "not probed yet"])
async def test_a_late_429_of_the_last_window_closes_nothing(
    limiter: RedisRateLimiter, other: RedisRateLimiter, known: bool
) -> None:
    """It was sent before the window opened. The processes go on in the new one."""
    await call(limiter, window(9, wait=1.5))
    async with limiter.slot(APP) as late:
        await asyncio.sleep(1.7)
        if known:
            await call(other, window(40, wait=600))
            await flushed(other)
        late.close_window(16.0)
    await flushed(limiter)
    assert await call(other, window(39, wait=600), max_wait=1.0) < 1.0


async def test_a_call_that_may_not_wait_is_rejected_behind_anothers_probe(
    limiter: RedisRateLimiter, other: RedisRateLimiter
) -> None:
    """``max_wait`` bounds the wait for another process's response, too."""
    async with limiter.slot(APP):
        begin = time.monotonic()
        for max_wait in (0.0, 0.3):
            with pytest.raises(RateLimitedError, match="another call is finding out"):
                await call(other, max_wait=max_wait)
        assert 0.3 <= time.monotonic() - begin < 2.0


async def test_a_probe_that_cannot_connect_ends_the_waits_behind_it(
    limiter: RedisRateLimiter, other: RedisRateLimiter
) -> None:
    """In its process with the same failure, in another with one that quotes it. Each counts its own attempt."""
    async with limiter.slot(APP) as probe:
        behind = [asyncio.create_task(call(each)) for each in (limiter, limiter, other, other)]
        await asyncio.sleep(0.2)
        probe.fail(TlsError("no trust"))
    results = await asyncio.wait_for(asyncio.gather(*behind, return_exceptions=True), 1)
    assert [type(result) for result in results] == [TlsError, TlsError, ConnectError, ConnectError]
    assert "no trust" in str(results[2])
    await call(limiter, window(9), max_wait=1.0)
    await flushed(limiter)
    await call(other, max_wait=1.0)


async def test_a_swap_that_another_process_outran_is_repeated(
    limiter: RedisRateLimiter, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read, apply, swap; and all of it again on the new state."""
    await call(limiter, window(30, wait=600))
    await flushed(limiter)
    apply, tries = FleetWindow.exchange, []

    def outrun(self: FleetWindow, now: float, request: Exchange) -> Reply:
        tries.append(request.number)
        if len(tries) < 3:
            server.client.hset(KEY, "version", f"another's {len(tries)}")
        return apply(self, now, request)

    monkeypatch.setattr(FleetWindow, "exchange", outrun)
    await call(limiter)
    assert len(set(tries[:3])) == 1
    await flushed(limiter)
    assert server.state() == {"remaining": 29, "held": 0, "waiting": 0}


async def test_first_come_first_served_in_a_process(limiter: RedisRateLimiter) -> None:
    """Calls of one process go in the order in which they came."""
    order: list[int] = []

    async def one(number: int) -> None:
        await call(limiter, window(50 - number))
        order.append(number)

    await asyncio.gather(*(one(number) for number in range(20)))
    assert order == list(range(20))


async def test_first_come_first_served_among_processes(limiter: RedisRateLimiter, other: RedisRateLimiter) -> None:
    """Older turns are served before those of a later process.

    That process waits for the next window if they use up this one. The probe may be any process's.
    """
    order: list[str] = []

    async def one(name: str, who: RedisRateLimiter) -> None:
        async with who.slot(APP) as slot:
            order.append(name)
            slot.observe(window(3 - len(order), wait=600) if len(order) < 4 else None, time.time())

    async with limiter.slot(APP) as probe:
        probe.observe(window(0, wait=0.5), time.time())
    await flushed(limiter)
    first = [asyncio.create_task(one("first", limiter)) for _ in range(2)]
    await asyncio.sleep(0.1)
    second = [asyncio.create_task(one("second", other)) for _ in range(3)]
    await asyncio.wait([*first, *second], timeout=1.5)
    assert sorted(order) == ["first", "first", "second"]
    for task in second:
        task.cancel()


async def test_a_call_after_the_ticket_draws_another(limiter: RedisRateLimiter, server: Server) -> None:
    """Calls that come while others of their process wait stand on a ticket of their own."""
    await call(limiter, window(0, wait=0.5))
    await flushed(limiter)
    calls = [asyncio.create_task(call(limiter, window(20, wait=600)))]
    await asyncio.sleep(0.1)
    calls += [asyncio.create_task(call(limiter)) for _ in range(5)]
    await asyncio.wait_for(asyncio.gather(*calls), 3)
    await flushed(limiter)
    assert server.state()["held"] == server.state()["waiting"] == 0


async def test_a_dead_waiter_blocks_no_process(server: Server, limiter: RedisRateLimiter) -> None:
    """A late turn is passed over, and one whose process stays away is dropped."""
    await call(limiter, window(2, wait=600))
    await flushed(limiter)
    fleet = server.fleet()
    fleet.turns = {name: _Turn(5, fleet.updated_at - late) for name, late in (("late", 1), ("dead", 60))}
    server.save(fleet)
    await asyncio.wait_for(call(limiter), 1)
    await flushed(limiter)
    assert list(server.fleet().turns) == ["late"]


async def test_every_key_has_a_lifetime(limiter: RedisRateLimiter, server: Server) -> None:
    """And a name without a secret, in one slot of a cluster."""
    await call(limiter, window(0, wait=600))
    waiter = asyncio.create_task(call(limiter))
    async with asyncio.timeout(2):
        while not server.state()["waiting"]:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
    keys: Any = server.client.keys("*")
    assert keys == [KEY]
    ttl: Any = server.client.ttl(KEY)
    assert 600 < ttl < 3600
    waiter.cancel()


async def test_it_looks_no_more_than_20_times_a_second(
    limiter: RedisRateLimiter, other: RedisRateLimiter, server: Server
) -> None:
    """While another call's probe is in flight. It is rare while the window is known to be used up."""

    def evals() -> int:
        stats: Any = server.client.info("commandstats")
        return int(stats["cmdstat_evalsha"]["calls"])

    async with limiter.slot(APP) as probe:
        waiters = [asyncio.create_task(call(other)) for _ in range(10)]
        await asyncio.sleep(0.05)
        before = evals()
        await asyncio.sleep(0.5)
        assert 5 <= evals() - before <= 11
        probe.observe(window(0, wait=600), time.time())
    await asyncio.sleep(0.1)
    before = evals()
    await asyncio.sleep(0.5)
    assert evals() == before
    for waiter in waiters:
        waiter.cancel()


async def test_on_wait_gets_a_known_wait(limiter: RedisRateLimiter, other: RedisRateLimiter) -> None:
    """Once, and again only if it changes."""
    waits: list[Wait] = []
    await call(limiter, window(0, wait=300))
    await flushed(limiter)
    waiter = asyncio.create_task(call(limiter, on_wait=waits.append))
    await asyncio.sleep(0.1)
    more = [asyncio.create_task(call(limiter)) for _ in range(3)]
    await asyncio.sleep(0.1)
    assert [round(wait.seconds) for wait in waits] == [300]
    assert waits[0].until.timestamp() == pytest.approx(time.time() + 300, abs=2)
    assert "no calls left" in waits[0].reason
    for task in (waiter, *more):
        task.cancel()


async def test_a_hook_that_fails_is_its_own_calls_matter(limiter: RedisRateLimiter) -> None:
    """The call raises what its hook raised; the others wait on."""
    await call(limiter, window(0, wait=0.5))
    await flushed(limiter)

    def fails(_: Wait) -> None:
        raise ZeroDivisionError

    good = asyncio.create_task(call(limiter, window(5)))
    with pytest.raises(ZeroDivisionError):
        await call(limiter, on_wait=fails)
    await asyncio.wait_for(good, 2)


async def test_a_wait_that_becomes_too_long_raises_immediately(
    limiter: RedisRateLimiter, other: RedisRateLimiter
) -> None:
    """It waited for the probe, and if the probe's response means 300 s, it does not begin to."""
    async with limiter.slot(APP) as probe:
        impatient = asyncio.create_task(call(other, max_wait=100))
        await asyncio.sleep(0.1)
        probe.observe(window(0, wait=300), time.time())
    with pytest.raises(RateLimitedError):
        await asyncio.wait_for(impatient, 1)


async def test_the_wait_of_an_assumed_window(limiter: RedisRateLimiter) -> None:
    """A 429 without headers. The wait is reported by our own wall clock, and there is no RateLimit to show."""
    async with limiter.slot(APP) as slot:
        slot.close_window(400.0)
    await flushed(limiter)
    with pytest.raises(RateLimitedError) as refused:
        await call(limiter, max_wait=0)
    assert refused.value.rate_limit is None
    assert refused.value.retry_at is not None
    assert refused.value.retry_at.timestamp() == pytest.approx(time.time() + 400, abs=2)


# -- Cancelling -------------------------------------------------------------------------------------------------------


async def test_a_call_cancelled_at_any_step_leaves_nothing(limiter: RedisRateLimiter, server: Server) -> None:
    """Queue, window and store are as if it had never come."""
    await call(limiter, window(30, wait=600))
    await flushed(limiter)

    async def refunded() -> None:
        async with limiter.slot(APP) as slot:
            slot.refund()
            await asyncio.sleep(0)

    for steps in range(25):
        task = asyncio.create_task(refunded())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await flushed(limiter)
        assert server.state() == {"remaining": 30, "held": 0, "waiting": 0}, steps


async def test_a_request_that_could_not_connect_is_refunded(limiter: RedisRateLimiter, server: Server) -> None:
    """``fail`` gives the place back, as ``refund`` does: nothing was sent."""
    await call(limiter, window(30, wait=600))
    async with limiter.slot(APP) as slot:
        slot.fail(ConnectError("no route"))
    await flushed(limiter)
    assert server.state() == {"remaining": 30, "held": 0, "waiting": 0}


async def test_a_waiter_cancelled_at_any_step_leaves_nothing(limiter: RedisRateLimiter, server: Server) -> None:
    """The same while no calls are left, and while another waits that must not lose its turn."""
    await call(limiter, window(0, wait=600))
    await flushed(limiter)
    for steps in (*range(12), 200):
        tasks = [asyncio.create_task(call(limiter)) for _ in range(3)]
        for _ in range(steps):
            await asyncio.sleep(0.0001)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        await flushed(limiter)
        assert server.state() == {"remaining": 0, "held": 0, "waiting": 0}, steps


async def test_cancelled_in_the_tick_of_the_grant(limiter: RedisRateLimiter, server: Server) -> None:
    """The place that it was just given is given back."""
    await call(limiter, window(30, wait=600))
    await flushed(limiter)
    task = asyncio.create_task(call(limiter))
    await asyncio.sleep(0)
    app = limiter._connection.app(APP)
    grant = app._waiting.grant

    def grant_and_cancel(place: object) -> bool:
        task.cancel()
        return grant(place)

    app._waiting.grant = grant_and_cancel  # type: ignore[method-assign]
    await asyncio.wait([task])
    assert task.cancelled()
    await flushed(limiter)
    assert server.state() == {"remaining": 30, "held": 0, "waiting": 0}


async def test_closing_sends_the_remaining_reports(server: Server) -> None:
    """Also who no longer is among the peers. Those who wait get an error, and so do those who come later."""
    limiter = RedisRateLimiter(server.url)
    await call(limiter, window(0, wait=600))
    waiter = asyncio.create_task(call(limiter))
    await asyncio.sleep(0.05)
    await limiter.aclose()
    await limiter.aclose()
    with pytest.raises(ClientClosedError):
        await waiter
    with pytest.raises(ClientClosedError):
        await call(limiter)
    assert server.state() == {"remaining": 0, "held": 0, "waiting": 0}
    assert server.fleet().processes == {}


async def test_a_place_held_over_the_end(server: Server) -> None:
    """A limiter that is closed while a call holds a place. The call ends well, and its lease runs out."""
    limiter = RedisRateLimiter(server.url)
    async with limiter.slot(APP):
        limiter.slot("another unused app")
        await limiter.aclose()
    assert server.state()["held"] == 1


# -- Redis gone, frozen, broken ---------------------------------------------------------------------------------------


async def timed(limiter: RedisRateLimiter, headers: RateLimit | None = None) -> float:
    begin = time.perf_counter()
    await call(limiter, headers)
    return time.perf_counter() - begin


async def until_it_is_back(limiter: RedisRateLimiter) -> None:
    async with asyncio.timeout(5):
        while limiter.degraded:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.02)


def break_by(server: Server, how: str) -> None:
    match how:
        case "killed":
            server.kill()
        case "frozen":
            server.freeze()
        case "out of memory":
            server.client.config_set("maxmemory", 1)
        case "read-only":
            server.client.replicaof("127.0.0.1", "1")
        case "wrong type":
            server.client.flushall()
            server.client.set(KEY, "no hash")
        case _:
            server.client.flushall()
            server.client.hset(KEY, mapping={"version": "another's", "state": json.dumps({"format": 0})})


def mend(server: Server, how: str) -> None:
    match how:
        case "killed":
            server.start()
        case "frozen":
            server.thaw()
        case "out of memory":
            server.client.config_set("maxmemory", 0)
        case "read-only":
            server.client.replicaof("NO", "ONE")
        case _:
            server.client.flushall()


HOW = ["killed", "frozen", "out of memory", "read-only", "wrong type", "another format"]


@pytest.mark.parametrize("how", HOW)
async def test_redis_is_lost_and_comes_back(server: Server, how: str, caplog: pytest.LogCaptureFixture) -> None:
    """One call pays less than 250 ms, the next pay nothing. One line when it goes, one when it is back; no error."""
    caplog.set_level(logging.INFO, "twusage")
    async with RedisRateLimiter(server.url) as limiter:
        await call(limiter, window(40, wait=600))
        await flushed(limiter)
        break_by(server, how)
        assert await timed(limiter, window(39, wait=600)) < QUICK
        assert limiter.degraded
        assert sorted([await timed(limiter, window(38, wait=600)) for _ in range(20)])[10] < 0.02
        assert limiter.outages == 1
        mend(server, how)
        await until_it_is_back(limiter)
        await call(limiter)
        await flushed(limiter)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "sock" not in caplog.text
    assert float(server.state()["remaining"]) == 37  # It has reported its calls of the outage.


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_strict_raises_an_error_of_ours(server: Server, how: str) -> None:
    """With ``strict=True`` nothing is sent while Redis is unavailable, and no redis exception is raised."""
    async with RedisRateLimiter(server.url, strict=True) as limiter:
        await call(limiter)
        break_by(server, how)
        for _ in range(2):
            with pytest.raises(ConnectError, match="Redis") as caught:
                await call(limiter)
            assert caught.value.__cause__ is None
        mend(server, how)
        await until_it_is_back(limiter)
        await call(limiter)


async def test_a_redis_that_was_never_there(tmp_path: Path) -> None:
    """It is noticed on entering, and calls go on alone. Strict raises there."""
    url = f"unix://{tmp_path}/none"
    async with RedisRateLimiter(url) as limiter:
        assert limiter.degraded
        assert min([await timed(limiter) for _ in range(3)]) < 0.02
        await asyncio.sleep(1.2)
        assert limiter.degraded
    with pytest.raises(ConnectError):
        async with RedisRateLimiter(url, strict=True):
            pass


async def test_waiters_go_on_alone(server: Server, limiter: RedisRateLimiter, other: RedisRateLimiter) -> None:
    """When Redis is lost, waiters continue by the local rules and the last known state. They return to Redis later."""
    await call(limiter, window(0, wait=1.5))
    waiter = asyncio.create_task(call(limiter, window(30, wait=600)))
    await asyncio.sleep(0.1)
    server.freeze()
    late = asyncio.create_task(call(limiter))  # which finds out
    await asyncio.sleep(0.3)
    assert limiter.degraded
    server.thaw()
    await until_it_is_back(limiter)
    assert not waiter.done()
    await asyncio.wait_for(asyncio.gather(waiter, late), 4)
    await flushed(limiter)
    assert server.state()["remaining"] == 29


async def test_alone_each_keeps_to_its_share(
    server: Server, limiter: RedisRateLimiter, other: RedisRateLimiter
) -> None:
    """Of two known processes, each takes half of what the headers leave. Unknown outcomes count, refunds do not."""
    await call(other, window(41, wait=600))
    await flushed(other)
    await call(limiter, window(40, wait=600))
    await flushed(limiter)
    server.freeze()
    left = 40
    for _ in range(17):
        left -= 1
        await call(limiter, RateLimit(50, left, window(0, wait=600).reset_at.replace(microsecond=0)))
    assert limiter.degraded
    server.thaw()


async def test_a_used_up_window_is_known_alone(server: Server, limiter: RedisRateLimiter) -> None:
    """The last state in Redis still counts when it is unavailable. Then a 429 closes the window."""
    await call(limiter, window(0, wait=300))
    await flushed(limiter)
    with pytest.raises(RateLimitedError):
        await call(limiter, max_wait=0)
    server.freeze()
    with pytest.raises(RateLimitedError) as refused:
        await call(limiter, max_wait=1)
    assert refused.value.retry_after == pytest.approx(300, abs=2)
    server.thaw()


async def test_refunds_and_refusals_alone(server: Server, limiter: RedisRateLimiter) -> None:
    """A slot does alone what it does with Redis. Refund, unknown outcome, close."""
    await call(limiter, window(10, wait=600))
    await flushed(limiter)
    server.freeze()
    async with limiter.slot(APP) as slot:
        slot.refund()
    async with limiter.slot(APP) as slot:
        slot.fail(ConnectError("no route"))
    async with limiter.slot(APP) as slot:
        pass
    async with limiter.slot(APP) as slot:
        slot.close_window(500.0)
    with pytest.raises(RateLimitedError) as refused:
        await call(limiter, max_wait=1)
    assert refused.value.retry_after == pytest.approx(500, abs=1)
    server.thaw()
    await until_it_is_back(limiter)
    with pytest.raises(RateLimitedError):
        await call(limiter, max_wait=1)


async def test_an_exchange_whose_reply_was_lost_is_recognised(
    server: Server, limiter: RedisRateLimiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis swapped, but its reply was lost. The places are received, and the report counts once."""
    await call(limiter, window(30, wait=600))
    await flushed(limiter)
    run = _RedisConnection._run_script
    lost: list[Any] = []

    async def lose(self: _RedisConnection, stored: Any, *swap: Any) -> float:
        now = await run(self, stored, *swap)
        if swap and not lost:
            lost.append(swap)
            self._mark_unavailable(TimeoutError())
            raise StoreUnavailable
        return now

    monkeypatch.setattr(_RedisConnection, "_run_script", lose)
    async with limiter.slot(APP) as slot:
        assert limiter.degraded
        assert server.state()["held"] == 1
        slot.refund()
    await until_it_is_back(limiter)
    await flushed(limiter)
    assert server.state() == {"remaining": 30, "held": 0, "waiting": 0}


async def test_a_failed_probe_ends_the_waits_behind_it_alone(server: Server, limiter: RedisRateLimiter) -> None:
    """Also while Redis is gone."""
    await call(limiter)
    server.freeze()
    async with limiter.slot(APP) as probe:
        behind = asyncio.create_task(call(limiter))
        await asyncio.sleep(0.05)
        probe.fail(ConnectError("no way"))
    with pytest.raises(ConnectError, match="no way"):
        await behind
    server.thaw()


async def test_a_flushed_redis_costs_a_probe(
    limiter: RedisRateLimiter, other: RedisRateLimiter, server: Server
) -> None:
    """SCRIPT FLUSH is not noticed. After FLUSHALL one probe goes, also if a place is held meanwhile."""
    await call(limiter, window(30))
    await flushed(limiter)
    server.client.script_flush()
    async with limiter.slot(APP):
        server.client.flushall()
        async with other.slot(APP) as probe:
            waiter = asyncio.create_task(call(other))
            await asyncio.sleep(0.1)
            assert not waiter.done()
            probe.observe(window(20), time.time())
        await asyncio.wait_for(waiter, 1)
    assert not limiter.degraded
    assert not other.degraded


async def test_a_waiter_whose_ticket_was_flushed_draws_another(limiter: RedisRateLimiter, server: Server) -> None:
    """It waits for what it comes next to know."""
    await call(limiter, window(0, wait=0.4))
    waiter = asyncio.create_task(call(limiter, window(9)))
    await asyncio.sleep(0.1)
    server.client.flushall()
    await asyncio.wait_for(waiter, 2)


async def test_cancelled_in_the_tick_of_the_loss(limiter: RedisRateLimiter, server: Server) -> None:
    """Calls that are cancelled just when Redis is lost, or when the limiter closes, stay cancelled."""
    await call(limiter, window(0, wait=600))
    await flushed(limiter)
    app = limiter._connection.app(APP)

    async def cancelled_with(event: Any) -> None:
        task = asyncio.create_task(call(limiter))
        await asyncio.sleep(0.05)
        (waiter,) = app._waiting._waiting
        waiter.granted.cancel()
        event()
        await asyncio.wait([task])
        assert task.cancelled()

    await cancelled_with(lambda: app._notify_waiters(app.reply, math.inf))  # type: ignore[arg-type]
    await cancelled_with(app.fall_back_to_local)
    await cancelled_with(lambda: app._waiting.grant((0.0, 1)))
    await cancelled_with(lambda: app.reject_waiters(ClientClosedError()))
    server.client.flushall()


async def test_a_place_given_by_a_thawing_redis_is_taken_back(limiter: RedisRateLimiter, server: Server) -> None:
    """It executes old exchanges of which no process waits for a reply. Neither probe nor place is held by it."""
    server.freeze()
    await call(limiter)
    server.thaw()
    await until_it_is_back(limiter)
    assert server.state()["held"] == 0
    assert await timed(limiter) < QUICK


async def test_a_last_word_without_a_time(limiter: RedisRateLimiter, server: Server) -> None:
    """A window counted by the document, with calls left. There is nothing to plant, and a probe goes alone."""
    for _ in range(3):
        await call(limiter)
    await flushed(limiter)
    server.freeze()
    assert await timed(limiter) < QUICK
    server.thaw()


async def test_a_window_that_opened_meanwhile_is_not_planted(limiter: RedisRateLimiter, server: Server) -> None:
    """What was known last is too old to go by when Redis is lost."""
    await call(limiter, window(0, wait=0.3))
    await flushed(limiter)
    with pytest.raises(RateLimitedError):
        await call(limiter, max_wait=0)
    server.freeze()
    await asyncio.sleep(0.4)
    await call(limiter, max_wait=0.5)
    assert limiter.degraded
    server.thaw()


async def test_reports_are_kept_while_redis_is_gone_but_not_all(server: Server, limiter: RedisRateLimiter) -> None:
    """200 of them. The older ones tell of leases that have run out."""
    server.freeze()
    for _ in range(250):
        async with limiter.slot(APP) as slot:
            slot.observe(window(45), time.time())
            slot.refund()
    assert len(limiter._connection.app(APP)._outbox) == 200
    server.thaw()
    await until_it_is_back(limiter)


async def test_lost_while_reporting(server: Server, limiter: RedisRateLimiter) -> None:
    """No call waits for it. The report is sent when Redis is back, and a second app's calls go on alone as well."""
    await call(limiter, window(30))
    async with limiter.slot("another") as elsewhere:
        elsewhere.observe(window(30), time.time())
        server.freeze()
        async with limiter.slot(APP, max_wait=0.0) as slot:
            slot.observe(window(12), None)
    await asyncio.sleep(0.3)
    assert limiter.degraded
    server.thaw()
    await until_it_is_back(limiter)
    assert server.state()["remaining"] == 12


async def test_closing_while_redis_is_gone(server: Server) -> None:
    """It takes no longer than the timeout of Redis."""
    limiter = RedisRateLimiter(server.url)
    await call(limiter)
    server.freeze()
    begin = time.perf_counter()
    await limiter.aclose()
    assert time.perf_counter() - begin < 3.0
    server.thaw()


# -- What it is given -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decode", [True, False])
async def test_a_client_of_the_users_is_not_closed(server: Server, decode: bool) -> None:
    """Whatever its settings are. It is used, and left open."""
    client = aioredis.Redis(unix_socket_path=str(server.socket), decode_responses=decode)
    async with RedisRateLimiter(client, prefix="mine") as limiter:
        await call(limiter, window(3))
    assert await client.exists(f"mine:{{{APP}}}") == 1
    server.freeze()
    async with RedisRateLimiter(client) as limiter:
        assert limiter.degraded
        server.thaw()
        await until_it_is_back(limiter)
    await client.aclose()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": True}, "limit"),
        ({"reserve": 50}, "reserve"),
        ({"reserve": 1.0}, "reserve"),
        ({"period": 0}, "period"),
        ({"lease": math.inf}, "lease"),
        ({"url_or_client": "http://user:hunter2@host"}, "URL"),
        ({"url_or_client": blocking.Redis()}, "redis.asyncio"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    """They are refused before anything is done, and a URL is not quoted."""
    with pytest.raises(ConfigurationError, match=message) as caught:
        RedisRateLimiter(**{"url_or_client": "redis://localhost"} | arguments)
    assert "hunter2" not in str(caught.value)


def test_another_event_loop(server: Server) -> None:
    """A limiter belongs to the loop that used it first."""
    limiter = RedisRateLimiter(server.url)

    async def first() -> None:
        await call(limiter)
        await flushed(limiter)
        await limiter._connection.redis.aclose()

    asyncio.run(first())
    with pytest.raises(ConfigurationError, match="another event loop"):
        asyncio.run(call(limiter))


def test_a_loop_that_ends_immediately() -> None:
    """A task that asyncio.run() cancels before it has begun leaves no coroutine that was never awaited."""

    async def main() -> None:
        connection = RedisRateLimiter("redis://127.0.0.1:1")._connection
        call = asyncio.ensure_future(connection.connect())
        await asyncio.sleep(0)
        for task in connection._tasks:
            task.cancel()
        await asyncio.wait([call])

    asyncio.run(main())
    gc.collect()  # pytest makes an error of the warning.


def test_without_redis_the_import_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one sentence."""
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    monkeypatch.delitem(sys.modules, shared.__name__)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'twusage\[redis\]'"):
        importlib.import_module(shared.__name__)


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (blocking.ResponseError("WRONGTYPE Operation against"), "ResponseError: WRONGTYPE"),
        (blocking.ConnectionError("Error 111 connecting to secret.example"), "ConnectionError"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_the_error_in_the_log(error: Exception, name: str) -> None:
    """Its kind and Redis' own code; no host, no URL."""
    assert shared._error_summary(error) == name


# -- All together -----------------------------------------------------------------------------------------------------


async def test_four_limiters_meet_no_429(server: Server) -> None:
    """Through three windows of a server that keeps 10 calls in a second."""
    api = FakeApi(rate_limit=10, rate_period=1.0)
    limiters = [RedisRateLimiter(server.url) for _ in range(4)]
    clients = [
        UsageClient(api.apps[0].token, transport=FakeTransport(api), limiter=limiter, retry=RetryPolicy(max_attempts=1))
        for limiter in limiters
    ]
    await asyncio.gather(*(client.get_usage() for client in clients for _ in range(7)))
    assert len(api.requests) == 28
    for limiter in limiters:
        await limiter.aclose()
        assert not limiter.outages
