"""The window's rules, and the queue in front of it, in virtual time."""

from __future__ import annotations

import asyncio
import datetime as dt
import math
from collections.abc import AsyncIterator

import pytest

from twusage.clock import SystemClock
from twusage.errors import RateLimitedError
from twusage.models import RateLimit
from twusage.ratelimit import LocalRateLimiter, RateWindow, default_limiter
from twusage.testing import VirtualClock

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def seen(remaining: int, reset: float = 900, limit: int = 50) -> RateLimit:
    return RateLimit(limit, remaining, EPOCH + dt.timedelta(seconds=reset))


# -- RateWindow: pure -------------------------------------------------------------------------------------------------


def probed(remaining: int, *, now: float = 0.0, reset: float = 900) -> RateWindow:
    """A window whose probe came back with so many calls left, on a server whose clock is ours."""
    window = RateWindow()
    assert window.take(now)
    window.observe(now, seen(remaining, reset), now)
    window.give_back(now, unknown=False)
    return window


def test_one_probe_goes_into_an_unknown_window() -> None:
    """Of two calls into an unknown window, the second waits for the answer of the first."""
    window = RateWindow()
    assert window.take(0.0)
    assert window.wait(0.0) == math.inf
    assert not window.take(0.0)


def test_as_many_go_as_the_headers_leave() -> None:
    """After the probe, so many calls go at once as its answer left, and no more."""
    window = probed(3)
    assert [window.take(1.0) for _ in range(4)] == [True, True, True, False]


def test_a_spent_window_opens_one_second_after_its_reset() -> None:
    """The reset comes in whole seconds: a call at the very second would still be refused."""
    window = probed(0)
    assert window.wait(100.0) == 801.0
    assert not window.take(900.9)
    assert window.take(901.0)


def test_the_server_clock_decides_not_ours() -> None:
    """A server that is 300 s ahead of us resets 300 s earlier by our clock."""
    window = RateWindow()
    window.take(1000.0)
    window.observe(1000.0, seen(0, reset=1900), server_now=1300.0)
    window.give_back(1000.0, unknown=False)
    assert window.wait(1000.0) == 601.0


def test_the_largest_offset_counts() -> None:
    """A slow answer makes the server look late; the quickest answer of the window is nearest to the truth."""
    window = RateWindow()
    window.observe(10.0, seen(5), server_now=10.0)
    window.observe(15.0, seen(4), server_now=11.0)
    window.observe(16.0, seen(0), server_now=12.0)
    assert window.wait(20.0) == 881.0


def test_the_smaller_remainder_counts() -> None:
    """Answers arrive out of order: a later one with more calls left is older news."""
    window = probed(5)
    window.observe(1.0, seen(7), 1.0)
    assert [window.take(1.0) for _ in range(6)] == [True] * 5 + [False]


def test_an_older_reset_is_ignored() -> None:
    """An answer out of a window that is over says nothing about this one."""
    window = probed(5, reset=1800)
    window.observe(1.0, seen(0, reset=900), 1.0)
    assert window.take(1.0)


def test_a_newer_reset_opens_a_new_window() -> None:
    """A newer reset brings its own remainder, and the offset is learnt anew."""
    window = probed(0)
    window.observe(5.0, seen(9, reset=1800), 2.0)
    assert window.take(5.0)
    window.observe(6.0, seen(0, reset=1800), 2.5)
    window.give_back(6.0, unknown=False)
    assert window.wait(6.0) == 1801.0 + 3.0 - 6.0


def test_when_the_window_is_over_one_probe_goes_again() -> None:
    """A limit that the server lowered between two windows costs one call, not fifty."""
    window = probed(0)
    assert window.take(901.0)
    assert not window.take(901.0)


def test_a_call_under_way_holds_its_place() -> None:
    """A call that was answered in another order may be counted twice for a while, but never not at all."""
    window = probed(2)
    assert window.take(1.0)
    assert window.take(1.0)
    window.observe(2.0, seen(0), 2.0)  # the second was answered first, and the server has counted both
    window.give_back(2.0, unknown=False)
    assert not window.take(2.0)


def test_a_refunded_place_is_free_again() -> None:
    """A call that was surely never sent gives its place to another."""
    window = probed(1)
    assert window.take(1.0)
    assert window.wait(1.0) == math.inf
    window.give_back(1.0, unknown=False)
    assert window.take(1.0)


def test_an_unknown_outcome_counts_as_a_call() -> None:
    """A call without an answer may have reached the server."""
    window = probed(1)
    assert window.take(1.0)
    window.give_back(1.0, unknown=True)
    assert not window.take(1.0)
    assert window.wait(1.0) == 900.0


def test_without_headers_the_document_counts() -> None:
    """An API that tells nothing is counted against 50 calls in 900 s from the first on."""
    window = RateWindow()
    for _ in range(50):
        assert window.take(10.0)
        window.give_back(10.0, unknown=True)
    assert window.wait(10.0) == 900.0
    assert window.take(910.0)


def test_headers_after_silence_are_believed() -> None:
    """What an answer says replaces what was assumed."""
    window = RateWindow()
    window.take(0.0)
    window.give_back(0.0, unknown=True)
    window.take(0.0)
    window.observe(0.0, seen(3), 0.0)
    window.give_back(0.0, unknown=False)
    assert [window.take(0.0) for _ in range(4)] == [True, True, True, False]


def test_another_endpoints_limit_is_not_this_ones() -> None:
    """A capped month answers with the limits of the reading endpoints; silence afterwards still means 50."""
    window = RateWindow()
    window.observe(0.0, seen(39_999, limit=40_000), 0.0)
    window.take(901.0)
    window.give_back(901.0, unknown=True)
    assert [window.take(901.0) for _ in range(50)].count(True) == 49


def test_a_reset_more_than_a_day_ahead_is_one_window() -> None:
    """A reset in the far future is a mistake: wait one window, then probe."""
    window = RateWindow()
    window.observe(0.0, seen(0, reset=10_000_000_000), 0.0)
    assert window.wait(0.0) == 900.0
    assert window.take(900.0)


def test_a_reset_exactly_a_day_ahead_is_believed() -> None:
    """A day is still believable."""
    window = RateWindow()
    window.observe(0.0, seen(0, reset=86_399), 0.0)
    assert window.wait(0.0) == 86_400.0


@pytest.mark.parametrize(
    ("retry_after", "wait"),
    [(30.0, 30.0), (0.0, 1.0), (-5.0, 1.0), (None, 901.0 - 100.0)],
    ids=["as told", "now", "in the past", "not told"],
)
def test_a_429_closes_the_window(retry_after: float | None, wait: float) -> None:
    """The server's word closes the window, for a second at least; where it says nothing, until the known reset."""
    window = probed(5)
    window.close(100.0, retry_after)
    assert window.wait(100.0) == wait


def test_a_429_out_of_the_blue_closes_for_one_window() -> None:
    """A 429 without headers into an unknown window: nothing is known but the document."""
    window = RateWindow()
    window.take(7.0)
    window.close(7.0, None)
    window.give_back(7.0, unknown=False)
    assert window.wait(7.0) == 900.0


# -- LocalRateLimiter -------------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def limiter(clock: VirtualClock) -> AsyncIterator[LocalRateLimiter]:
    yield LocalRateLimiter(clock=clock)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}, "the limiter left a task behind"


def told(clock: VirtualClock, remaining: int, *, reset_in: float = 899.0) -> RateLimit:
    """Headers that this clock's server would send: with these, the window opens 900 s from now."""
    return RateLimit(50, remaining, clock.now() + dt.timedelta(seconds=reset_in))


async def probe(limiter: LocalRateLimiter, clock: VirtualClock, remaining: int) -> None:
    async with limiter.slot("app") as slot:
        slot.observe(told(clock, remaining), clock.time())


async def go(limiter: LocalRateLimiter, log: list[object], name: object, *, max_wait: float = math.inf) -> None:
    async with limiter.slot("app", max_wait=max_wait) as slot:
        log.append(name)
        slot.refund()


async def test_a_free_place_is_taken_at_once(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """A place that is free costs no time and no trip round the loop."""
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
    assert clock.monotonic() == 900.0


async def test_nobody_overtakes_those_who_wait(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """A call that comes in the instant the window opens goes behind those who waited for it."""
    await probe(limiter, clock, 0)
    log: list[object] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(go(limiter, log, "early"))
        await clock.advance(899.0)
        clock._monotonic += 1.0  # the window is open, and its timer has not run yet
        group.create_task(go(limiter, log, "late"))
    assert log == ["early", "late"]


async def test_the_time_waited_is_told(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """Whoever waited knows how long."""
    await probe(limiter, clock, 0)
    async with limiter.slot("app") as slot:
        assert slot.waited == 900.0
        slot.refund()


async def test_apps_do_not_wait_for_each_other(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """One app's closed window is nothing to another's."""
    await probe(limiter, clock, 0)
    async with limiter.slot("another") as slot:
        assert slot.waited == 0.0


async def test_a_wait_that_is_too_long_is_refused_at_once(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """It raises now, with when to come back, and never sleeps first."""
    await probe(limiter, clock, 0)
    with pytest.raises(
        RateLimitedError, match="until 2026-01-15 12:15:00 UTC: 900 s, and max_wait leaves 899 s"
    ) as caught:
        async with limiter.slot("app", max_wait=899.0):
            pytest.fail("a place was given")
    assert clock.monotonic() == 0.0
    assert caught.value.retry_at == clock.now() + dt.timedelta(seconds=900)
    assert caught.value.retry_after == 900.0
    assert caught.value.rate_limit == told(clock, 0)
    assert caught.value.status is None


async def test_the_place_in_the_queue_counts(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """The fifty-first in the queue has two windows to wait, and is told so before it waits for the first."""
    await probe(limiter, clock, 0)
    log: list[object] = []
    waiting = [asyncio.create_task(go(limiter, log, name)) for name in range(50)]
    await asyncio.sleep(0)
    with pytest.raises(RateLimitedError, match="1800 s"):
        async with limiter.slot("app", max_wait=1799.0):
            pytest.fail("a place was given")
    await asyncio.gather(*waiting)


async def test_those_who_wait_for_a_probe_hear_of_a_spent_window(
    limiter: LocalRateLimiter, clock: VirtualClock
) -> None:
    """The probe's answer tells the impatient at once that their wait would be too long; the patient stay."""
    log: list[object] = []
    async with limiter.slot("app") as slot:
        patient = asyncio.create_task(go(limiter, log, "patient"))
        impatient = asyncio.create_task(go(limiter, log, "impatient", max_wait=10.0))
        await asyncio.sleep(0)
        slot.observe(told(clock, 0), clock.time())
    with pytest.raises(RateLimitedError, match="900 s"):
        await impatient
    assert clock.monotonic() == 0.0
    await patient
    assert log == ["patient"]


async def test_those_behind_the_last_places_hear_when_these_are_spent(
    limiter: LocalRateLimiter, clock: VirtualClock
) -> None:
    """While the last places are under way a wait is not certain; once they are spent, the impatient are told."""
    await probe(limiter, clock, 1)
    log: list[object] = []
    async with limiter.slot("app") as slot:
        impatient = asyncio.create_task(go(limiter, log, "impatient", max_wait=10.0))
        await asyncio.sleep(0)
        assert not impatient.done()
        slot.observe(told(clock, 0), clock.time())
    with pytest.raises(RateLimitedError, match="900 s"):
        await impatient
    assert clock.monotonic() == 0.0


async def test_a_refund_lets_the_next_one_go(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """A call that was never sent frees its place for who waits, at once."""
    await probe(limiter, clock, 1)
    log: list[object] = []
    async with limiter.slot("app") as slot:
        next_one = asyncio.create_task(go(limiter, log, "next"))
        await asyncio.sleep(0)
        slot.refund()
    await next_one
    assert clock.monotonic() == 0.0


async def test_a_cancelled_waiter_leaves_the_queue_as_it_was(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """Who is cancelled while waiting takes no place, and the others keep theirs."""
    await probe(limiter, clock, 0)
    log: list[object] = []
    tasks = [asyncio.create_task(go(limiter, log, name)) for name in "abc"]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert tasks[1].cancelled()
    assert log == ["a", "c"]


async def test_the_last_cancelled_waiter_takes_the_timer_along(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """When nobody waits any more, nothing runs on; and the next one still gets its place."""
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
    """Granted and cancelled in one tick: the place goes to the next one, not into nothing."""
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


async def test_a_cancelled_waiter_is_not_told_that_it_waits_too_long(
    limiter: LocalRateLimiter, clock: VirtualClock
) -> None:
    """Cancelled in the tick in which its wait turns out too long, it stays cancelled."""
    async with limiter.slot("app") as slot:
        impatient = asyncio.create_task(go(limiter, [], "impatient", max_wait=1.0))
        patient = asyncio.create_task(go(limiter, [], "patient"))
        behind = asyncio.create_task(go(limiter, [], "behind", max_wait=1.0))
        await asyncio.sleep(0)
        behind.cancel()
        slot.observe(told(clock, 0), clock.time())
    results = await asyncio.gather(impatient, behind, patient, return_exceptions=True)
    assert isinstance(results[0], RateLimitedError)
    assert isinstance(results[1], asyncio.CancelledError)
    assert results[2] is None


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
        slot.observe(told(clock, 0), clock.time())
        slot.observe(told(clock, 0, reset_in=1799.0), clock.time())
    await waiting
    assert clock.monotonic() == 1800.0


async def test_an_answer_without_a_date_is_reckoned_by_the_wall_clock(
    limiter: LocalRateLimiter, clock: VirtualClock
) -> None:
    """Without the server's time, ours has to do."""
    async with limiter.slot("app") as slot:
        slot.observe(told(clock, 0), None)
    async with limiter.slot("app") as slot:
        assert slot.waited == 900.0
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


async def test_clients_of_one_loop_share_the_default_limiter() -> None:
    """The system's clocks are all the same; another clock is another time, and has its own limiter."""
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


async def test_a_limiter_made_by_hand_reads_the_system_clock() -> None:
    """Without a clock it is real time, and a free place is free."""
    async with LocalRateLimiter().slot("app") as slot:
        assert slot.waited == 0.0
