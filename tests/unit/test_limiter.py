"""The queue in front of the app's window, in virtual time. The window's own rules: ``test_window.py``."""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import itertools
import math
import time
import weakref
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from twusage import Request, Response, RetryPolicy, UsageClient
from twusage.clock import SystemClock, Wait
from twusage.errors import ConfigurationError, ConnectError, RateLimitedError
from twusage.limiter import LocalRateLimiter, Slot, Waiter, WaitQueue, _AppQueue, default_limiter
from twusage.models import RateLimit
from twusage.protocol import authorize, usage_request
from twusage.testing import FakeApi, FakeTransport, VirtualClock

APP = "app"


def careful(wait: float) -> Any:
    """A wait as the window measures it. 1/4000 longer than reported, because clocks drift."""
    return pytest.approx(wait * 1.00025, abs=1e-6)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def limiter(clock: VirtualClock) -> AsyncIterator[LocalRateLimiter]:
    yield LocalRateLimiter(clock=clock)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}, "the limiter left a task behind"


def headers(clock: VirtualClock, remaining: int, *, reset_in: float = 899.0) -> RateLimit:
    """Headers that this clock's server would send: with these, the window opens 900 s from now."""
    return RateLimit(50, remaining, clock.now() + dt.timedelta(seconds=reset_in))


async def probe(limiter: LocalRateLimiter, clock: VirtualClock, remaining: int) -> None:
    async with limiter.slot("app") as slot:
        slot.observe(headers(clock, remaining), clock.time())


async def go(limiter: LocalRateLimiter, log: list[object], name: object, *, max_wait: float = math.inf) -> None:
    async with limiter.slot("app", max_wait=max_wait) as slot:
        log.append(name)
        slot.refund()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def call(limiter: LocalRateLimiter, answer: Callable[[Slot], None], **keywords: object) -> float:
    """A call whose answer shows this to its slot. The seconds that it waited."""
    async with limiter.slot(APP, **keywords) as slot:  # type: ignore[arg-type]
        answer(slot)
    return slot.waited


def silent(_: Slot) -> None:
    """A response without headers."""


def left(clock: VirtualClock, remaining: int, *, limit: int = 50) -> Callable[[Slot], None]:
    """A response with this remainder, whose window ends in 900 s."""
    return lambda slot: slot.observe(RateLimit(limit, remaining, clock.now() + timedelta(seconds=900)), clock.time())


def closed(seconds: float) -> Callable[[Slot], None]:
    """A 429 with this Retry-After."""
    return lambda slot: slot.close_window(seconds)


async def test_a_free_place_is_taken_immediately(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """A free place costs no time and no round of the loop."""
    await probe(limiter, clock, 5)
    slot = limiter.slot("app")
    with pytest.raises(StopIteration):
        slot.__aenter__().send(None)
    assert slot.waited == 0.0
    await slot.__aexit__(None, None, None)


async def test_waiters_go_in_the_order_they_came(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """First come, first served, through a closed window and its probe."""
    await probe(limiter, clock, 0)
    log: list[object] = []
    async with asyncio.TaskGroup() as group:
        for name in range(20):
            group.create_task(go(limiter, log, name))
    assert log == list(range(20))
    assert clock.monotonic() == careful(900.0)


async def test_waiters_are_not_overtaken(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """A call that arrives as the window opens goes behind the waiters."""
    await probe(limiter, clock, 0)
    log: list[object] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(go(limiter, log, "early"))
        await clock.advance(899.0)
        clock._monotonic += 1.5  # the window is open, and its timer has not run yet
        group.create_task(go(limiter, log, "late"))
    assert log == ["early", "late"]


async def test_the_time_waited_is_reported(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """The slot of a call that waited has the seconds."""
    await probe(limiter, clock, 0)
    async with limiter.slot("app") as slot:
        assert slot.waited == careful(900.0)
        slot.refund()


async def test_apps_do_not_wait_for_each_other(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """One app's closed window is nothing to another's."""
    await probe(limiter, clock, 0)
    async with limiter.slot("another") as slot:
        assert slot.waited == 0.0


async def test_a_wait_that_is_too_long_raises_immediately(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """It raises now, with the time to retry at, and never sleeps first."""
    await probe(limiter, clock, 0)
    with pytest.raises(
        RateLimitedError, match="until 2026-01-15 12:15:00 UTC: 900 s, and max_wait leaves 899 s"
    ) as caught:
        async with limiter.slot("app", max_wait=899.0):
            pytest.fail("a place was given")
    assert clock.monotonic() == 0.0
    assert caught.value.retry_at == clock.now() + dt.timedelta(seconds=900)
    assert caught.value.retry_after == 900.0
    assert caught.value.rate_limit == headers(clock, 0)
    assert caught.value.status is None


async def test_the_place_in_the_queue_counts(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """The fifty-first in the queue has two windows to wait, and is rejected before it waits for the first."""
    await probe(limiter, clock, 0)
    log: list[object] = []
    waiting = [asyncio.create_task(go(limiter, log, name)) for name in range(50)]
    await asyncio.sleep(0)
    with pytest.raises(RateLimitedError, match="1800 s"):
        async with limiter.slot("app", max_wait=1799.0):
            pytest.fail("a place was given")
    await asyncio.gather(*waiting)


async def test_waiters_of_a_probe_are_rejected_by_a_used_up_window(
    limiter: LocalRateLimiter, clock: VirtualClock
) -> None:
    """The probe's response rejects waiters with a small max_wait immediately. The others stay."""
    log: list[object] = []
    async with limiter.slot("app") as slot:
        patient = asyncio.create_task(go(limiter, log, "patient"))
        impatient = asyncio.create_task(go(limiter, log, "impatient", max_wait=10.0))
        await asyncio.sleep(0)
        slot.observe(headers(clock, 0), clock.time())
    with pytest.raises(RateLimitedError, match="900 s"):
        await impatient
    assert clock.monotonic() == 0.0
    await patient
    assert log == ["patient"]


async def test_waiters_behind_the_last_places_are_rejected_when_these_are_used(
    limiter: LocalRateLimiter, clock: VirtualClock
) -> None:
    """While the last places are under way a wait is not certain. Once they are used up, waiters are rejected."""
    await probe(limiter, clock, 1)
    log: list[object] = []
    async with limiter.slot("app") as slot:
        impatient = asyncio.create_task(go(limiter, log, "impatient", max_wait=10.0))
        await asyncio.sleep(0)
        assert not impatient.done()
        slot.observe(headers(clock, 0), clock.time())
    with pytest.raises(RateLimitedError, match="900 s"):
        await impatient
    assert clock.monotonic() == 0.0


async def test_a_refund_lets_the_next_one_go(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """A call that was never sent frees its place for a waiter immediately."""
    await probe(limiter, clock, 1)
    log: list[object] = []
    async with limiter.slot("app") as slot:
        next_one = asyncio.create_task(go(limiter, log, "next"))
        await asyncio.sleep(0)
        slot.refund()
    await next_one
    assert clock.monotonic() == 0.0


async def test_a_cancelled_waiter_leaves_the_queue_as_it_was(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """A waiter that is cancelled takes no place, and the others keep theirs."""
    await probe(limiter, clock, 0)
    log: list[object] = []
    tasks = [asyncio.create_task(go(limiter, log, name)) for name in "abc"]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert tasks[1].cancelled()
    assert log == ["a", "c"]


async def test_the_last_cancelled_waiter_takes_the_timer_along(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """Without waiters, nothing runs on; and the next call still gets its place."""
    await probe(limiter, clock, 0)
    log: list[object] = []
    task = asyncio.create_task(go(limiter, log, "a"))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await go(limiter, log, "b")
    assert log == ["b"]


async def test_a_place_granted_in_the_tick_of_the_cancellation_is_passed_on(
    limiter: LocalRateLimiter, clock: VirtualClock
) -> None:
    """Granted and cancelled in one tick. The place goes to the next one, not into nothing."""
    await probe(limiter, clock, 1)
    log: list[object] = []
    async with limiter.slot("app") as slot:
        first = asyncio.create_task(go(limiter, log, "first"))
        second = asyncio.create_task(go(limiter, log, "second"))
        await asyncio.sleep(0)
        slot.refund()
    first.cancel()  # it has been granted the place, and has not run since
    await asyncio.gather(first, second, return_exceptions=True)
    assert first.cancelled()
    assert log == ["second"]
    assert clock.monotonic() == 0.0


async def test_a_waiter_cancelled_before_the_place_is_free_is_passed_over(
    limiter: LocalRateLimiter, clock: VirtualClock
) -> None:
    """Cancelled first and granted later in one tick: the grant skips it."""
    await probe(limiter, clock, 1)
    log: list[object] = []
    async with limiter.slot("app") as slot:
        first = asyncio.create_task(go(limiter, log, "first"))
        second = asyncio.create_task(go(limiter, log, "second"))
        await asyncio.sleep(0)
        first.cancel()
        slot.refund()
    await asyncio.gather(first, second, return_exceptions=True)
    assert log == ["second"]
    assert clock.monotonic() == 0.0


async def test_a_cancelled_waiter_is_not_rejected(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """Cancelled in the tick in which its wait turns out too long, it stays cancelled."""
    async with limiter.slot("app") as slot:
        impatient = asyncio.create_task(go(limiter, [], "impatient", max_wait=1.0))
        patient = asyncio.create_task(go(limiter, [], "patient"))
        behind = asyncio.create_task(go(limiter, [], "behind", max_wait=1.0))
        await asyncio.sleep(0)
        behind.cancel()
        slot.observe(headers(clock, 0), clock.time())
    results = await asyncio.gather(impatient, behind, patient, return_exceptions=True)
    assert isinstance(results[0], RateLimitedError)
    assert isinstance(results[1], asyncio.CancelledError)
    assert results[2] is None


async def test_a_waiter_cancelled_in_the_tick_of_its_rejection_is_cancelled(
    limiter: LocalRateLimiter, clock: VirtualClock
) -> None:
    """It has been refused, and has not run since. A cancellation is never swallowed."""
    async with limiter.slot("app") as slot:
        impatient = asyncio.create_task(go(limiter, [], "impatient", max_wait=1.0))
        await asyncio.sleep(0)
        slot.observe(headers(clock, 0), clock.time())
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    assert impatient.cancelled()


async def test_a_dead_probe_does_not_stall_the_others(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """A probe that is cancelled on the wire counts as a call, and the others go on."""
    log: list[object] = []

    async def dying() -> None:
        async with limiter.slot("app"):
            await asyncio.Event().wait()

    dead = asyncio.create_task(dying())
    await asyncio.sleep(0)
    others = [asyncio.create_task(go(limiter, log, name)) for name in range(3)]
    await asyncio.sleep(0)
    dead.cancel()
    await asyncio.gather(dead, *others, return_exceptions=True)
    assert log == [0, 1, 2]
    assert clock.monotonic() == 0.0


async def test_a_429_makes_everybody_wait_for_the_same_instant(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """One refused call closes the window for all of its app."""
    async with limiter.slot("app") as slot:
        slot.close_window(600.0)
    log: list[object] = []
    await asyncio.gather(*(go(limiter, log, name) for name in range(3)))
    assert clock.monotonic() == 600.0


async def test_a_timer_follows_a_window_that_closes_later(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """A reset that moves on while some wait moves their waking too."""
    await probe(limiter, clock, 1)
    log: list[object] = []
    async with limiter.slot("app") as slot:
        waiting = asyncio.create_task(go(limiter, log, "a"))
        await asyncio.sleep(0)
        slot.observe(headers(clock, 0), clock.time())
        slot.observe(headers(clock, 0, reset_in=1799.0), clock.time())
    await waiting
    assert clock.monotonic() == careful(1800.0)


async def test_an_answer_without_a_date_is_reckoned_by_the_wall_clock(
    limiter: LocalRateLimiter, clock: VirtualClock
) -> None:
    """Without the server's time, ours has to do."""
    async with limiter.slot("app") as slot:
        slot.observe(headers(clock, 0), None)
    async with limiter.slot("app") as slot:
        assert slot.waited == careful(900.0)
        slot.refund()


@pytest.mark.parametrize("ahead", [-100.0, 100.0], ids=["fast", "slow"])
async def test_a_date_corrects_what_a_wrong_wall_clock_made_of_the_window(
    limiter: LocalRateLimiter, clock: VirtualClock, ahead: float
) -> None:
    """The first response had no Date, so the local clock counted. From the first Date on the server's clock counts."""
    reset = clock.now() + dt.timedelta(seconds=ahead + 899.0)
    async with limiter.slot("app") as slot:
        slot.observe(RateLimit(50, 1, reset), None)
    async with limiter.slot("app") as slot:
        slot.observe(RateLimit(50, 0, reset), clock.time() + ahead)
    async with limiter.slot("app") as slot:
        assert slot.waited == careful(900.0)
        slot.refund()


async def test_a_clock_that_fails_does_not_leave_its_waiters_asleep() -> None:
    """Whatever a user's clock raises reaches who waits on it."""

    class Broken(VirtualClock):
        async def sleep(self, seconds: float) -> None:
            raise RuntimeError("no time")

    clock = Broken()
    limiter = LocalRateLimiter(clock=clock)
    await probe(limiter, clock, 0)
    tasks = [asyncio.create_task(go(limiter, [], name)) for name in "ab"]
    await asyncio.sleep(0)
    tasks[1].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [RuntimeError, asyncio.CancelledError]


async def test_a_refusal_before_any_header_has_none(limiter: LocalRateLimiter) -> None:
    """An unknown value is None, and the remaining wait is at least 0 s."""
    await call(limiter, lambda slot: slot.close_window(None))
    with pytest.raises(RateLimitedError, match="max_wait leaves 0 s") as caught:
        await call(limiter, silent, max_wait=0.0)
    assert caught.value.rate_limit is None
    assert caught.value.retry_after == 900.0


async def test_a_slot_has_the_seconds_waited(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """From the request of the place on, whatever the clock showed then."""
    await clock.sleep(100.0)
    await call(limiter, closed(50.0))
    await clock.sleep(10.0)
    assert await call(limiter, silent) == 40.0


async def test_a_probe_that_is_cancelled_as_it_is_let_go_leaves_its_turn(limiter: LocalRateLimiter) -> None:
    """In an unknown window one call goes. If it is cancelled in the very tick, the next one goes immediately."""
    first = limiter.slot(APP)
    await first.__aenter__()
    second, third = (asyncio.create_task(call(limiter, silent)) for _ in range(2))
    await settle()
    await first.__aexit__(None, None, None)
    second.cancel()
    await settle()
    assert second.cancelled()
    assert third.done()
    await third


async def test_the_last_waiter_leaves_no_timer_behind(limiter: LocalRateLimiter) -> None:
    """A call in the tick in which the queue became empty waits as any other."""
    await call(limiter, closed(50.0))
    first = asyncio.create_task(call(limiter, silent))
    await settle()
    first.cancel()
    second = asyncio.create_task(call(limiter, silent))
    assert await second == 50.0
    assert first.cancelled()
    await settle()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_call_at_the_opening_waits_for_another_response(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """However long that takes. The queue's timer, which was to wake them now, is over for both."""

    async def just_in_time() -> float:
        await clock.sleep(50.0)
        return await call(limiter, silent)

    async def slow() -> float:
        async with limiter.slot(APP) as slot:
            await clock.sleep(7.0)
            left(clock, 10)(slot)
        return slot.waited

    late = asyncio.create_task(just_in_time())
    await settle()
    await call(limiter, closed(50.0))
    early = asyncio.create_task(slow())
    assert await early == 50.0
    assert await late == 7.0


async def test_without_a_known_wait_no_timer_runs() -> None:
    """Waiters of another's response are woken by that. A clock never gets a sleep without an end."""
    slept: list[float] = []

    class Listening(VirtualClock):
        async def sleep(self, seconds: float) -> None:
            slept.append(seconds)
            await super().sleep(seconds)

    clock = Listening()
    limiter = LocalRateLimiter(clock=clock)
    async with limiter.slot(APP) as probe:
        behind = asyncio.create_task(call(limiter, silent))
        await settle()
        assert slept == []
        closed(50.0)(probe)
    assert await behind == 50.0
    assert slept == [50.0]


async def test_the_last_second_is_a_wait_too(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """Half a second is more than this call's max_wait of 0."""
    await call(limiter, closed(900.0))
    await clock.sleep(899.5)
    with pytest.raises(RateLimitedError):
        await call(limiter, silent, max_wait=0.0)
    assert await call(limiter, silent, max_wait=0.5) == 0.5


async def test_max_wait_runs_while_the_wait_is_unknown(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """Ten seconds behind a probe are ten seconds less for the window."""
    probe = limiter.slot(APP)
    await probe.__aenter__()
    waiting = asyncio.create_task(call(limiter, silent, max_wait=905.0))
    await clock.sleep(10.0)
    left(clock, 0)(probe)
    await probe.__aexit__(None, None, None)
    with pytest.raises(RateLimitedError, match="901 s, and max_wait leaves 895 s"):
        await waiting
    assert clock.monotonic() == 10.0


# -- Behind another call's probe --------------------------------------------------------------------------------------


async def test_max_wait_bounds_the_wait_behind_a_probe(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """However long the probe hangs. The others wait on, and the next deadline is theirs."""
    ends: dict[float, float] = {}

    async def impatient(max_wait: float) -> None:
        with pytest.raises(RateLimitedError, match=f"max_wait allows no more than {max_wait:.0f} s") as caught:
            await call(limiter, silent, max_wait=max_wait)
        assert caught.value.retry_after == 1.0
        assert caught.value.retry_at == clock.now() + timedelta(seconds=1)
        ends[max_wait] = clock.monotonic()

    async with limiter.slot(APP) as slot:
        patient = asyncio.create_task(call(limiter, silent))
        gone = asyncio.create_task(call(limiter, silent, max_wait=4.0))
        others = [asyncio.create_task(impatient(seconds)) for seconds in (20.0, 5.0)]
        await settle()
        gone.cancel()
        await clock.sleep(30.0)
        left(clock, 9)(slot)
    await asyncio.gather(patient, *others)
    assert ends == {5.0: 5.0, 20.0: 20.0}
    assert patient.result() == 30.0
    assert gone.cancelled()


async def test_a_call_that_may_not_wait_is_rejected_behind_a_probe(limiter: LocalRateLimiter) -> None:
    """Immediately: ``max_wait=0`` is *no waiting*. A free place it takes."""
    async with limiter.slot(APP) as slot:
        with pytest.raises(RateLimitedError, match="no more than 0 s"):
            await call(limiter, silent, max_wait=0.0)
        slot.refund()
    await call(limiter, silent, max_wait=0.0)


async def test_a_deadline_does_not_cut_a_known_wait(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """The window opens a fraction later than estimated, because clocks drift. The waiter has waited for it."""
    await call(limiter, left(clock, 0))
    assert await call(limiter, silent, max_wait=901.0) == careful(901.0)


async def test_a_waiter_that_is_cancelled_in_the_tick_of_its_deadline_is_cancelled() -> None:
    """A cancellation is never swallowed."""
    queue, waiter = WaitQueue(), Waiter(5.0, 0.0, None)
    queue.add(waiter)
    waiter.granted.cancel()
    assert queue.reject_overdue(5.0, 0.0, None) == math.inf
    assert waiter.granted.cancelled()
    assert not len(queue)


async def test_a_probe_that_cannot_connect_ends_the_wait_of_those_behind_it(
    limiter: LocalRateLimiter, clock: VirtualClock
) -> None:
    """With the same failure, each its own copy. Its place is refunded, and the next call is the next probe."""
    error = ConnectError("cannot connect")
    async with limiter.slot(APP) as slot:
        tasks = [asyncio.create_task(call(limiter, silent, max_wait=100.0)) for _ in range(3)]
        await settle()
        tasks[0].cancel()
        await clock.sleep(30.0)
        slot.fail(error)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError, ConnectError, ConnectError]
    assert str(results[1]) == "cannot connect"
    assert len({id(error), *map(id, results)}) == 4
    assert await call(limiter, left(clock, 1)) == 0.0
    assert limiter._queues[APP].window.unconfirmed_calls == 0


async def test_only_a_probes_failure_ends_the_wait_of_others(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """In a known window a call that cannot connect frees its place for the next one."""
    await call(limiter, left(clock, 1))
    async with limiter.slot(APP) as slot:
        other = asyncio.create_task(call(limiter, silent))
        await settle()
        slot.fail(ConnectError("cannot connect"))
    assert await other == 0.0


async def test_an_outage_costs_a_call_its_attempts_and_no_more(clock: VirtualClock) -> None:
    """Fifty concurrent calls, four attempts each, 30 s timeout, an unreachable host. 120 s and the backoffs.

    Each waiting call as the next probe took 1,800 s.
    """
    limiter, sent = LocalRateLimiter(clock=clock), []

    async def attempt() -> None:
        async with limiter.slot(APP, max_wait=960.0) as slot:
            sent.append(clock.monotonic())
            await clock.sleep(30.0)
            error = ConnectError("cannot connect")
            slot.fail(error)
            raise error

    async def get_usage(number: int) -> None:
        for tries in range(4):
            with pytest.raises(ConnectError):
                await attempt()
            await clock.sleep(number / 50 * 0.5 * 2**tries)

    await asyncio.gather(*(get_usage(number) for number in range(50)))
    assert clock.monotonic() <= 4 * 30.0 + 0.5 + 1 + 2 + 4
    assert len(sent) < 50


# -- Telling of a wait ------------------------------------------------------------------------------------------------


class WaitLog:
    """An ``on_wait`` that remembers, with the time at which it was called."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.waits: list[tuple[float, Wait]] = []

    def __call__(self, wait: Wait) -> None:
        self.waits.append((self.clock.monotonic(), wait))

    def seconds(self) -> list[tuple[float, float]]:
        return [(now, wait.seconds) for now, wait in self.waits]


async def waits(limiter: LocalRateLimiter, reported: Callable[[Wait], None], **keywords: Any) -> None:
    async with limiter.slot("app", on_wait=reported, **keywords) as slot:
        slot.refund()


async def test_a_wait_is_reported_once(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """Its length, its end by the server's clock, and its reason. Without a change there is no further call."""
    await probe(limiter, clock, 0)
    reported = WaitLog(clock)
    await asyncio.gather(waits(limiter, reported), go(limiter, [], "other"))
    ((now, wait),) = reported.waits
    assert now == 0.0
    assert wait.seconds == pytest.approx(900.0)
    assert wait.until == dt.datetime(2026, 1, 15, 12, 15, tzinfo=dt.UTC)
    assert wait.reason == "no calls left in the app's 15-minute window"


async def test_the_server_clock_is_reported(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """A server that is ten minutes ahead of us. Its time is what the reset means."""
    ahead = dt.timedelta(minutes=10)
    async with limiter.slot("app") as slot:
        slot.observe(RateLimit(50, 0, clock.now() + ahead + dt.timedelta(seconds=899)), clock.time() + 600.0)
    wait = WaitLog(clock)
    await waits(limiter, wait)
    assert wait.waits[0][1].until == dt.datetime(2026, 1, 15, 12, 25, tzinfo=dt.UTC)


async def test_a_call_without_a_wait_reports_nothing(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """Nor does one that waits for another's response, whose duration is unknown."""
    reported = WaitLog(clock)
    async with limiter.slot("app") as slot:
        waiting = asyncio.create_task(waits(limiter, reported))
        await asyncio.sleep(0)
        slot.refund()
    await waiting
    assert reported.waits == []


async def test_a_changed_wait_is_reported_again(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """When the probe that all waited for is refused, for instance. A change of a second at most is none."""
    await probe(limiter, clock, 0)
    reported = WaitLog(clock)
    waiting = [asyncio.create_task(waits(limiter, reported)) for _ in range(2)]
    await clock.advance(100.0)
    limiter._queues["app"].window.close(100.0, 1, 1200.0)
    limiter._queues["app"]._grant_places()
    limiter._queues["app"].window.close(100.0, 1, 1200.9)
    limiter._queues["app"]._grant_places()
    await asyncio.gather(*waiting)
    assert [now for now, _ in reported.seconds()] == [0.0, 0.0, 100.0, 100.0]
    assert [seconds for _, seconds in reported.seconds()] == pytest.approx([900.0, 900.0, 1200.0, 1200.0])


async def test_a_call_behind_the_last_place_is_notified_later(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """Another waiter was notified of the same instant before. This one was not."""
    await probe(limiter, clock, 1)
    first, second = WaitLog(clock), WaitLog(clock)
    holder = limiter.slot("app")
    await holder.__aenter__()
    holder.observe(headers(clock, 0), clock.time())
    tasks = [asyncio.create_task(waits(limiter, first))]
    await asyncio.sleep(0)
    limiter._queues["app"].window.remaining = 1  # as if another place had been given back
    tasks.append(asyncio.create_task(waits(limiter, second)))
    await asyncio.sleep(0)
    assert (len(first.waits), len(second.waits)) == (1, 0)
    holder.observe(headers(clock, 0), clock.time())
    await holder.__aexit__(None, None, None)
    assert (len(first.waits), len(second.waits)) == (1, 1)
    await asyncio.gather(*tasks)


async def test_a_hook_that_fails_fails_its_own_call_only(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """Whether it is called when its call comes or later. The others get their places."""

    def broken(wait: Wait) -> None:
        raise LookupError(wait.reason)

    log: list[object] = []
    async with limiter.slot("app") as slot:
        failing = asyncio.create_task(waits(limiter, broken))
        other = asyncio.create_task(go(limiter, log, "other"))
        await asyncio.sleep(0)
        slot.observe(headers(clock, 0), clock.time())
    with pytest.raises(LookupError, match="no calls left"):
        await failing
    with pytest.raises(LookupError, match="no calls left"):
        await waits(limiter, broken)
    await other
    assert log == ["other"]


@pytest.mark.parametrize(("reserve", "second"), [(0, 50), (10, 40), (49, 1)])
async def test_a_position_beyond_one_window_waits_for_another(clock: VirtualClock, reserve: int, second: int) -> None:
    """The calls of one window, less the reserve, go in the first. The rest of the queue in the next."""
    limiter = LocalRateLimiter(clock=clock, reserve=reserve)
    await probe(limiter, clock, 0)
    heard = WaitLog(clock)
    tasks = [asyncio.create_task(waits(limiter, heard)) for _ in range(second + 1)]
    await asyncio.sleep(0)
    assert [round(seconds) for _, seconds in heard.seconds()] == [900] * second + [1800]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_server_with_other_windows_is_believed(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """A window that was observed from its first call shows its length, here three seconds.

    The next one is one of ours.
    """
    async with limiter.slot("app") as slot:
        slot.observe(RateLimit(2, 1, clock.now() + dt.timedelta(seconds=3)), clock.time())
    async with limiter.slot("app") as slot:
        slot.observe(RateLimit(2, 0, clock.now() + dt.timedelta(seconds=3)), clock.time())
    heard = WaitLog(clock)
    tasks = [asyncio.create_task(waits(limiter, heard, max_wait=12.1)) for _ in range(7)]
    await asyncio.sleep(0)
    assert [seconds for _, seconds in heard.seconds()] == pytest.approx([4.0, 4.0, 8.0, 8.0, 12.0, 12.0], abs=0.01)
    with pytest.raises(RateLimitedError, match="16 s"):
        await tasks[-1]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_window_that_was_not_seen_from_its_first_call_shows_no_length(
    limiter: LocalRateLimiter, clock: VirtualClock
) -> None:
    """Other calls were before, since an unknown time. This window ends in 300 s, the next one is the document's."""
    async with limiter.slot("app") as slot:
        slot.observe(headers(clock, 0, reset_in=299.0), clock.time())
    heard = WaitLog(clock)
    tasks = [asyncio.create_task(waits(limiter, heard)) for _ in range(51)]
    await asyncio.sleep(0)
    assert [seconds for _, seconds in heard.seconds()] == pytest.approx([300.0] * 50 + [1200.0], abs=0.1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_server_at_the_end_of_time_is_still_reported(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """A Date in the last second of the year 9999 is nonsense, and no crash."""
    end = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
    async with limiter.slot("app") as slot:
        slot.observe(RateLimit(50, 0, end), end.timestamp())
    heard = WaitLog(clock)
    await waits(limiter, heard)
    assert heard.waits[0][1].until == end


async def test_a_wait_is_reported_again_when_it_changes(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """By more than a second. A smaller change is ignored, also for waiters at their max_wait."""
    reported: dict[str, list[float]] = {"early": [], "late": []}
    await call(limiter, left(clock, 10))
    first, second = limiter.slot(APP), limiter.slot(APP)
    await first.__aenter__()
    await second.__aenter__()
    await call(limiter, closed(1000.0))
    impatient = asyncio.create_task(call(limiter, silent, max_wait=1000.5))
    early = asyncio.create_task(call(limiter, silent, on_wait=lambda wait: reported["early"].append(wait.seconds)))
    await settle()
    first.close_window(1001.0)
    await first.__aexit__(None, None, None)
    late = asyncio.create_task(call(limiter, silent, on_wait=lambda wait: reported["late"].append(wait.seconds)))
    await settle()
    assert reported == {"early": [1000.0], "late": [1001.0]}
    assert not impatient.done()
    second.close_window(1002.0)
    await second.__aexit__(None, None, None)
    assert reported == {"early": [1000.0, 1002.0], "late": [1001.0]}
    with pytest.raises(RateLimitedError):
        await impatient
    assert [await early, await late] == [1002.0, 1002.0]


async def test_a_call_at_the_opening_gets_no_wait(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """Before the queue has noticed. There is a queue, but nothing to wait for but another's answer."""
    reported: list[Wait] = []

    async def just_in_time() -> None:
        await clock.sleep(50.0)
        await call(limiter, silent, on_wait=reported.append)

    late = asyncio.create_task(just_in_time())
    await settle()
    await call(limiter, closed(50.0))
    early = asyncio.create_task(call(limiter, left(clock, 10)))
    await asyncio.gather(early, late)
    assert reported == []
    assert clock.monotonic() == 50.0


async def test_every_waiter_is_notified_of_its_own_window(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """With one call a window, the third in the queue waits for three. A waiter that has left does not count."""
    reported: dict[str, float] = {}

    def hook(name: str, wait: Wait) -> None:
        reported[name] = wait.seconds

    probe = limiter.slot(APP)
    await probe.__aenter__()
    tasks = [asyncio.create_task(call(limiter, silent, on_wait=partial(hook, name))) for name in "abcd"]
    await settle()
    assert reported == {}
    left(clock, 0, limit=1)(probe)
    tasks[1].cancel()
    await probe.__aexit__(None, None, None)
    assert {name: round(wait) for name, wait in reported.items()} == {"a": 901, "c": 1802, "d": 2703}
    for task in tasks:
        task.cancel()
    await settle()


async def test_waiters_behind_one_that_leaves_are_notified_in_the_next_window(
    limiter: LocalRateLimiter, clock: VirtualClock
) -> None:
    """Their wait is one window shorter. Notifying them immediately would cost O(waiters) for each that leaves."""
    reported: list[tuple[str, float]] = []

    async def ask(name: str) -> None:
        async with limiter.slot(APP, on_wait=lambda wait: reported.append((name, round(wait.seconds)))) as slot:
            left(clock, 0, limit=1)(slot)

    await call(limiter, left(clock, 0, limit=1))
    tasks = [asyncio.create_task(ask(name)) for name in "abcd"]
    await settle()
    assert reported == [("a", 901), ("b", 1802), ("c", 2703), ("d", 3605)]
    reported.clear()
    tasks[1].cancel()
    await settle()
    assert reported == []
    await tasks[0]
    assert reported == [("c", 901), ("d", 1802)]
    for task in tasks:
        task.cancel()
    await settle()


async def test_the_wait_reported_after_a_429_is_kept(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """Its duration counts, and a concurrent response with the same headers does not shorten it."""
    reported: list[Wait] = []
    await call(limiter, left(clock, 2))
    async with limiter.slot(APP) as refused, limiter.slot(APP) as good:
        refused.close_window(None)
        left(clock, 1)(good)
    waited = await call(limiter, silent, on_wait=reported.append)
    assert [wait.seconds for wait in reported] == [waited]


async def test_the_documents_window_is_waited_for_to_the_second(clock: VirtualClock) -> None:
    """Without any headers. 900 s after the second call, neither shortened nor extended; and again each time."""
    limiter, reported = LocalRateLimiter(clock=clock, limit=2), list[float]()
    for _ in range(3):
        await call(limiter, silent, on_wait=lambda wait: reported.append(wait.seconds))
        await call(limiter, silent)
    assert reported == [900.0, 900.0]


# -- A machine that sleeps --------------------------------------------------------------------------------------------


async def test_after_a_suspend_one_probe_goes(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """The window had calls left. It may be over by now, or another program's: one call finds out."""
    await probe(limiter, clock, 40)
    clock.suspend(3600.0)
    log: list[object] = []
    async with limiter.slot("app") as slot:
        other = asyncio.create_task(go(limiter, log, "other"))
        await asyncio.sleep(0)
        assert log == []
        slot.observe(headers(clock, 40), clock.time())
    await other
    assert clock.monotonic() == 0.0


@pytest.mark.parametrize("seconds", [3600.0, -3600.0, 5.1, -5.1])
async def test_a_used_up_window_stays_so_whatever_the_wall_clock_shows(
    limiter: LocalRateLimiter, clock: VirtualClock, seconds: float
) -> None:
    """The clock may just have been set. Waits are monotonic: they neither end early nor grow; then a probe goes."""
    await probe(limiter, clock, 0)
    heard = WaitLog(clock)
    tasks = [asyncio.create_task(waits(limiter, heard)) for _ in range(2)]
    await clock.advance(100.0)
    clock.jump(seconds)
    late = asyncio.create_task(waits(limiter, heard))
    await asyncio.gather(*tasks, late)
    assert clock.monotonic() == careful(900.0)
    assert [round(seconds) for _, seconds in heard.seconds()] == [900, 900, 800]
    # Whose clock is right is not known any more; ours it is.
    assert abs(heard.waits[2][1].until.timestamp() - clock.time()) < 1.0


@pytest.mark.parametrize("seconds", [4.9, -4.9])
async def test_a_clock_that_is_corrected_by_little_is_no_suspend(
    limiter: LocalRateLimiter, clock: VirtualClock, seconds: float
) -> None:
    """Time servers do that, again and again."""
    await probe(limiter, clock, 40)
    for _ in range(3):
        clock.jump(seconds)
        async with limiter.slot("app") as slot, limiter.slot("app") as other:
            assert slot.waited == other.waited == 0.0
            slot.refund()
            other.refund()


async def test_without_a_date_the_last_one_counts(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """The known offset of a server clock that is ten minutes ahead survives a response without a Date."""
    ahead = dt.timedelta(minutes=10)
    reset = clock.now() + ahead + dt.timedelta(seconds=899)
    async with limiter.slot("app") as slot:
        slot.observe(RateLimit(50, 1, reset), clock.time() + 600.0)
    async with limiter.slot("app") as slot:
        slot.observe(RateLimit(50, 0, reset), None)
    await go(limiter, [], "a")
    assert clock.monotonic() == careful(900.0)


@pytest.mark.parametrize("seconds", [5.0, -5.0])
async def test_a_clock_that_is_set_by_five_seconds_was_not_suspended(
    limiter: LocalRateLimiter, clock: VirtualClock, seconds: float
) -> None:
    """Time servers do that. What is known of the window stays known, and more than a probe may go."""
    await call(limiter, left(clock, 10))
    clock.jump(seconds)
    async with limiter.slot(APP):
        other = asyncio.create_task(call(limiter, silent))
        await settle()
        assert other.done()
    assert await other == 0.0


# -- Many, and misfortune ---------------------------------------------------------------------------------------------


async def test_ten_thousand_are_cancelled_in_no_time(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """Leaving the queue does not take longer the longer it is."""
    await probe(limiter, clock, 0)
    tasks = [asyncio.create_task(go(limiter, [], name)) for name in range(10_000)]
    await asyncio.sleep(0)
    began = time.process_time()
    for task in reversed(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert time.process_time() - began < 2.0  # 0.2 s; a deque takes 5 s
    assert not len(limiter._queues["app"]._waiting)


async def test_cancelling_all_tasks_does_not_stall_the_waiters(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """Some programs cancel all tasks that they find. The queue's own is replaced while calls wait."""
    await probe(limiter, clock, 0)
    log: list[object] = []
    task = asyncio.create_task(go(limiter, log, "a"))
    await asyncio.sleep(0)
    timer = limiter._queues["app"]._timer
    assert timer is not None
    await asyncio.sleep(0)
    timer.cancel()
    await task
    assert log == ["a"]
    assert clock.monotonic() == careful(900.0)


async def test_a_call_that_hangs_over_the_windows_end_blocks_no_waiter(
    limiter: LocalRateLimiter, clock: VirtualClock
) -> None:
    """It holds the last place. The wait for it is unknown, but when the window is over the waiters go."""
    await probe(limiter, clock, 1)
    log: list[object] = []
    async with limiter.slot("app"):
        await go(limiter, log, "a")
        assert clock.monotonic() == careful(900.0)


async def test_a_storm_of_refusals_is_no_busy_loop(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """A server that rejects everything and always sends *now* gets fewer and fewer calls.

    It gets nine in the first minute.
    """
    calls = []

    async def refused() -> None:
        while clock.monotonic() < 60.0:
            async with limiter.slot("app") as slot:
                calls.append(clock.monotonic())
                slot.observe(headers(clock, 0, reset_in=-5.0), clock.time())
                slot.close_window(0.0)

    await asyncio.gather(*(refused() for _ in range(20)))
    assert len([at for at in calls if at < 60.0]) == 9
    assert min(b - a for a, b in itertools.pairwise(calls)) >= 1.0


async def test_a_hook_that_ends_the_program_loses_no_place(clock: VirtualClock) -> None:
    """Even a BaseException that is not an Exception leaves the queue intact."""

    class EndError(BaseException):
        pass

    def end(wait: Wait) -> None:
        raise EndError

    limiter = LocalRateLimiter(clock=clock)
    holder = limiter.slot("app")
    await holder.__aenter__()
    task = asyncio.create_task(go(limiter, [], "a"))
    await asyncio.sleep(0)
    limiter._queues["app"].window.close(0.0, 1, 100.0)
    with pytest.raises(EndError):
        await waits(limiter, end)
    assert len(limiter._queues["app"]._waiting) == 1
    await holder.__aexit__(None, None, None)
    await task
    assert limiter._queues["app"].window.in_flight == 0


@pytest.mark.parametrize("reserve", [-1, 50, 1.5, True, "1"])
def test_a_reserve_that_leaves_nothing_is_a_mistake(reserve: Any) -> None:
    """It is from 0 to what leaves one call a window, and the value is quoted."""
    with pytest.raises(ConfigurationError, match=f"reserve must be an int from 0 to 49, got {reserve!r}"):
        LocalRateLimiter(reserve=reserve)


async def test_clients_of_one_loop_share_the_default_limiter() -> None:
    """The system's clocks are all the same. Another clock is another time, and has its own limiter."""
    mine, yours = VirtualClock(), VirtualClock()
    assert default_limiter(SystemClock()) is default_limiter(SystemClock())
    assert default_limiter(mine) is default_limiter(mine)
    assert default_limiter(mine) is not default_limiter(yours)
    assert default_limiter(mine) is not default_limiter(SystemClock())


def test_every_loop_has_its_own_default_limiter() -> None:
    """Two loops share nothing: their futures do not mix."""

    async def mine() -> LocalRateLimiter:
        return default_limiter(SystemClock())

    assert asyncio.run(mine()) is not asyncio.run(mine())


async def test_answers_without_headers_count(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """Fifty calls to a server without headers, and the next one waits for the document's window to end."""

    async def call() -> None:
        async with limiter.slot("app") as slot:
            slot.observe(None, clock.time())

    for _ in range(50):
        await call()
    assert clock.monotonic() == 0.0
    await call()
    assert clock.monotonic() == 900.0


async def test_a_limiter_made_by_hand_reads_the_system_clock() -> None:
    """Without a clock it is real time, and a free place is free."""
    async with LocalRateLimiter().slot("app") as slot:
        assert slot.waited == 0.0


async def test_the_cancelled_do_not_count_in_the_queue(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """Fifty calls that were just cancelled do not delay the next one by a window."""
    await probe(limiter, clock, 0)
    tasks = [asyncio.create_task(go(limiter, [], name)) for name in range(50)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await go(limiter, log := [], "next", max_wait=905.0)  # type: ignore[var-annotated]
    assert log == ["next"]
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_late_refusal_of_the_last_window_closes_nothing(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """A 429 that was on its way at the reset belongs to the window that is over. It was not a call of this one."""
    await probe(limiter, clock, 5)
    async with limiter.slot("app") as late:
        await clock.advance(1000.0)
        await probe(limiter, clock, 1)
        late.close_window(16.0)
    async with limiter.slot("app") as slot:
        assert slot.waited == 0.0
        slot.refund()


async def test_a_limiter_serves_one_loop_at_a_time(limiter: LocalRateLimiter) -> None:
    """Another thread's loop is refused, with what to do."""

    async def elsewhere() -> None:
        limiter.slot("app")

    limiter.slot("app")
    with pytest.raises(
        ConfigurationError,
        match=r"^LocalRateLimiter is bound to another event loop; create one per loop and process$",
    ):
        await asyncio.to_thread(asyncio.run, elsewhere())


def test_a_loop_that_is_over_is_let_go() -> None:
    """A program that runs one loop after the other keeps none of them alive through its default limiter."""
    loops = []

    async def one_call() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        async with default_limiter(SystemClock()).slot(APP):
            pass

    for _ in range(3):
        asyncio.run(one_call())
    gc.collect()
    assert [loop() for loop in loops] == [None] * 3


@pytest.mark.parametrize(
    "wrong", [{"limit": 0}, {"limit": 1.5}, {"limit": True}, {"period": 0.0}, {"period": math.inf}, {"period": "900"}]
)
def test_a_limiter_of_no_calls_or_no_time(wrong: dict[str, Any]) -> None:
    """Windows have a whole number of calls, and a length."""
    ((name, value),) = wrong.items()
    with pytest.raises(ConfigurationError, match=f"{name} must be .*, got {value!r}"):
        LocalRateLimiter(**wrong)


async def test_the_smallest_limiter_there_is(clock: VirtualClock) -> None:
    """One call, half a second."""
    limiter = LocalRateLimiter(clock=clock, limit=1, period=0.5)
    await asyncio.gather(*(call(limiter, silent) for _ in range(2)))


@pytest.mark.parametrize("taken", [1, 3])
@pytest.mark.parametrize("slow", [1, 2, 3])
async def test_a_queue_slower_than_predicted_is_notified_immediately(
    clock: VirtualClock, slow: int, taken: int
) -> None:
    """A long queue is not notified of each window that opens as predicted. But when another program takes its places,
    be it one, waiters that would wait too long are rejected immediately, after any number of good windows.
    """
    api = FakeApi(clock=clock, rate_limit=4)
    token = api.apps[0].token

    class Shared(FakeTransport):
        async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109
            if len(api.requests) == 4 * slow:
                for _ in range(taken):
                    await super().send(authorize(usage_request(), token), timeout=timeout)
            return await super().send(request, timeout=timeout)

    policy = RetryPolicy(max_wait=902.0 * (slow + 1))
    client = UsageClient(token, transport=Shared(api), clock=clock, retry=policy)
    ended: list[float] = []

    async def ask() -> None:
        try:
            await client.get_usage()
        except RateLimitedError:
            ended.append(clock.monotonic())

    await asyncio.gather(*(ask() for _ in range(4 * (slow + 2))))
    assert len(ended) == taken
    assert all(900.0 * slow < at < 902.0 * slow for at in ended), ended


@pytest.mark.parametrize(("limit", "reserve"), [(4, 0), (4, 1), (1, 0)])
async def test_waiters_are_notified_once_a_window_at_most(
    clock: VirtualClock, limit: int, reserve: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That costs O(waiters). ``on_wait`` is only called when the estimate has changed by more than a second: here
    each window is a few tenths longer than estimated, so a waiter is notified in every fifth window.
    """
    api = FakeApi(clock=clock, rate_limit=limit)
    reported: list[tuple[float, Wait]] = []
    passes: list[float] = []
    notify = _AppQueue._notify_or_reject

    def counting(self: _AppQueue, waiter: Waiter, position: int, now: float) -> None:
        if position == 0:
            passes.append(now)
        notify(self, waiter, position, now)

    monkeypatch.setattr(_AppQueue, "_notify_or_reject", counting)
    client = UsageClient(
        api.apps[0].token,
        transport=FakeTransport(api, latency=0.1),
        clock=clock,
        limiter=LocalRateLimiter(clock=clock, reserve=reserve),
        retry=RetryPolicy(max_wait=math.inf),
        on_wait=lambda wait: reported.append((clock.monotonic(), wait)),
    )
    each = limit - reserve
    await asyncio.gather(*(client.get_usage() for _ in range(each * 60)))
    assert len(passes) <= 61
    assert len(reported) <= each * 59 * 30 / 4
    assert clock.monotonic() == pytest.approx(max(now + wait.seconds for now, wait in reported), rel=0.001)


# -- Predictions -------------------------------------------------------------------------------------------------------


class Server:
    """Windows of these limits and lengths, one after the other, the last of each for ever."""

    def __init__(self, clock: VirtualClock, *windows: tuple[int, float]) -> None:
        self.clock = clock
        self.windows = list(windows)
        self.reset = -math.inf
        self.limit = self.left = 0

    def answer(self, slot: Slot) -> None:
        now = self.clock.time()
        if now >= self.reset:
            self.limit, length = self.windows.pop(0) if len(self.windows) > 1 else self.windows[0]
            self.left, self.reset = self.limit, math.ceil(now + length)
        self.left -= 1
        assert self.left >= 0, "a call too many"
        slot.observe(RateLimit(self.limit, self.left, datetime.fromtimestamp(self.reset, UTC)), math.floor(now))


async def predictions(
    clock: VirtualClock, calls: int, *windows: tuple[int, float], max_wait: float = math.inf
) -> list[tuple[float, float | None]]:
    """Concurrent calls: when each went or was rejected, and the last time that it was notified of."""
    limiter, server = LocalRateLimiter(clock=clock), Server(clock, *windows)

    async def ask() -> tuple[float, float | None]:
        reported: list[float] = []
        try:
            async with limiter.slot(
                APP, max_wait=max_wait, on_wait=lambda wait: reported.append(clock.monotonic() + wait.seconds)
            ) as slot:
                went = clock.monotonic()
                await clock.sleep(0.2)
                server.answer(slot)
                return went, reported[-1] if reported else None
        except RateLimitedError:
            return -clock.monotonic(), None

    return await asyncio.gather(*(ask() for _ in range(calls)))


@pytest.mark.parametrize(
    "windows",
    [[(5, 900.0)], [(5, 900.0), (5, 1200.0)], [(5, 900.0), (5, 300.0)], [(10, 900.0), (10, 900.0), (2, 900.0)]],
    ids=["the same", "longer", "shorter", "fewer calls"],
)
async def test_every_waiter_is_notified_of_its_start(clock: VirtualClock, windows: list[tuple[int, float]]) -> None:
    """However the windows turn out. To a thousandth, and to a second or two."""
    for went, reported in await predictions(clock, 40, *windows):
        assert reported is None or reported == pytest.approx(went, abs=2.0, rel=0.001)


@pytest.mark.parametrize(
    "windows", [[(5, 900.0), (5, 1200.0)], [(10, 900.0), (2, 900.0)]], ids=["longer", "fewer calls"]
)
async def test_no_waiter_exceeds_its_max_wait(clock: VirtualClock, windows: list[tuple[int, float]]) -> None:
    """When a window turns out longer or smaller than the last one, waiters beyond their max_wait are rejected."""
    ends = [when for when, _ in await predictions(clock, 15, *windows, max_wait=1900.0)]
    assert max(ends) < 1900.0
    assert min(ends) == pytest.approx(-902.0, abs=2.0)  # by the second window's first response
