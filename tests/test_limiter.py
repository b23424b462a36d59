"""The window's rules, and the queue in front of it, in virtual time."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import math
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from twusage.clock import SystemClock, Wait
from twusage.errors import ConfigurationError, RateLimitedError
from twusage.limiter import LocalRateLimiter, default_limiter
from twusage.models import RateLimit
from twusage.testing import VirtualClock
from twusage.window import RateWindow

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def seen(remaining: int, reset: float = 900, limit: int = 50) -> RateLimit:
    return RateLimit(limit, remaining, EPOCH + dt.timedelta(seconds=reset))


def careful(wait: float) -> Any:
    """A wait as the window measures it: 1/4000 longer than it was told, because clocks drift."""
    return pytest.approx(wait * 1.00025, abs=1e-6)


# -- RateWindow: pure -------------------------------------------------------------------------------------------------


def probed(remaining: int, *, now: float = 0.0, reset: float = 900) -> RateWindow:
    """A window whose probe came back with so many calls left, on a server whose clock is ours."""
    window = RateWindow()
    assert window.take(now)
    window.observe(now, 1, seen(remaining, reset), now)
    window.give_back(now, 1, unknown=False)
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
    assert [bool(window.take(1.0)) for _ in range(4)] == [True, True, True, False]


def test_a_spent_window_opens_one_second_after_its_reset() -> None:
    """The reset comes in whole seconds: a call at the very second would still be refused."""
    window = probed(0)
    assert window.wait(0.0) == careful(901.0)
    assert not window.take(901.2)
    assert window.take(901.3)


def test_the_server_clock_decides_not_ours() -> None:
    """A server that is 300 s ahead of us resets 300 s earlier by our clock."""
    window = RateWindow()
    window.take(1000.0)
    window.observe(1000.0, 1, seen(0, reset=1900), server_now=1300.0)
    window.give_back(1000.0, 1, unknown=False)
    assert window.wait(1000.0) == careful(601.0)


def test_the_quickest_answer_counts() -> None:
    """A slow answer makes the server look late; the quickest answer of the window is nearest to the truth."""
    window = RateWindow()
    window.observe(10.0, 1, seen(5), server_now=8.0)
    window.observe(15.0, 1, seen(4), server_now=15.0)
    window.observe(16.0, 1, seen(0), server_now=12.0)
    assert window.wait(15.0) == careful(886.0)
    assert window.offset == 0.0


@pytest.mark.parametrize("ahead", [-100.0, 100.0], ids=["fast", "slow"])
def test_the_first_date_replaces_what_was_reckoned(ahead: float) -> None:
    """Our clock was fast, or slow: the window opens by the server's, neither sooner nor later."""
    window = RateWindow()
    window.observe(0.0, 1, seen(1), 0.0, guessed=True)
    assert window.opens_at == careful(901.0)
    window.observe(10.0, 1, seen(0), 10.0 + ahead)
    assert window.wait(10.0) == careful(891.0 - ahead)


def test_the_first_date_tells_until_when_a_window_surely_lasts() -> None:
    """It had been thought to last longer. From where it may be over, calls only ask."""
    window = RateWindow()
    window.observe(0.0, 1, seen(9), 0.0, guessed=True)
    window.observe(10.0, 1, seen(9), 110.0)
    assert [bool(window.take(799.9)) for _ in range(2)] == [True, True]
    assert [bool(window.take(800.0)) for _ in range(2)] == [True, False]


def test_the_first_date_alone_does_that() -> None:
    """After it the quickest answer counts, as in every window: one that is slower takes nothing back."""
    window = RateWindow()
    window.observe(0.0, 1, seen(9), 0.0, guessed=True)
    window.observe(10.0, 1, seen(8), -90.0)
    window.observe(20.0, 1, seen(0), -85.0)
    assert window.wait(10.0) == careful(991.0)


def test_an_answer_without_a_date_takes_no_date_back() -> None:
    """A window that was learnt from one stays learnt: what comes without one after it is no reason to begin anew."""
    window = RateWindow()
    window.observe(0.0, 1, seen(9), 0.0)
    window.observe(10.0, 1, seen(8), 10.0, guessed=True)
    window.observe(20.0, 1, seen(0), 15.0)
    assert window.wait(10.0) == careful(891.0)


def test_a_clock_that_is_fast_does_not_wake_early() -> None:
    """Whenever an answer came: by a clock that is 200 ppm fast, the server's 901.0 is 901.18."""
    for now in (0.0, 450.0, 899.0):
        window = probed(0)
        window.observe(now, 1, seen(0), server_now=now / 1.0002)
        assert 901.18 < window.opens_at < 901.5


def test_the_smaller_remainder_counts() -> None:
    """Answers arrive out of order: a later one with more calls left is older news."""
    window = probed(5)
    window.observe(1.0, 1, seen(7), 1.0)
    assert [bool(window.take(1.0)) for _ in range(6)] == [True] * 5 + [False]


def test_an_older_reset_is_ignored() -> None:
    """An answer out of a window that is over says nothing about this one."""
    window = probed(5, reset=1800)
    window.observe(1.0, 1, seen(0, reset=900), 1.0)
    assert window.take(1.0)


def test_a_newer_reset_opens_a_new_window() -> None:
    """A newer reset brings its own remainder, and the offset is learnt anew."""
    window = probed(0)
    window.observe(5.0, 1, seen(9, reset=1800), 2.0)
    ticket = window.take(5.0)
    assert ticket
    window.observe(6.0, ticket, seen(0, reset=1800), 2.5)
    window.give_back(6.0, ticket, unknown=False)
    assert window.wait(5.0) == careful(1799.0)
    assert window.offset == -3.0


def test_when_the_window_is_over_one_probe_goes_again() -> None:
    """A limit that the server lowered between two windows costs one call, not fifty."""
    window = probed(0)
    assert window.take(902.0)
    assert not window.take(902.0)


def test_a_call_under_way_holds_its_place() -> None:
    """A call that was answered in another order may be counted twice for a while, but never not at all."""
    window = probed(2)
    first, second = window.take(1.0), window.take(1.0)
    assert first
    assert second
    window.observe(2.0, second, seen(0), 2.0)  # the second was answered first, and the server has counted both
    window.give_back(2.0, second, unknown=False)
    assert not window.take(2.0)


def test_a_refunded_place_is_free_again() -> None:
    """A call that was surely never sent gives its place to another."""
    window = probed(1)
    ticket = window.take(1.0)
    assert ticket
    assert window.wait(1.0) == math.inf
    window.give_back(1.0, ticket, unknown=False)
    assert window.take(1.0)


def test_an_unknown_outcome_counts_as_a_call() -> None:
    """A call without an answer may have reached the server."""
    window = probed(1)
    window.give_back(1.0, window.take(1.0), unknown=True)
    assert not window.take(1.0)
    assert window.wait(0.0) == careful(901.0)


def silent(window: RateWindow, sent: float, answered: float) -> None:
    """A call whose answer has no headers, or that has none."""
    ticket = window.take(sent)
    assert ticket
    window.give_back(answered, ticket, unknown=True)


def test_without_headers_the_document_counts() -> None:
    """An API that tells nothing is counted against 50 calls in 900 s from the first on."""
    window = RateWindow()
    for _ in range(50):
        silent(window, 10.0, 10.0)
    assert window.wait(10.0) == 900.0
    assert window.take(910.0)


def test_a_lost_probe_has_one_successor() -> None:
    """One probe without an answer may be bad luck, and the next one goes; after two the others wait no longer."""
    window = RateWindow()
    silent(window, 0.0, 30.0)
    second = window.take(30.0)
    assert second
    assert not window.take(30.0)
    window.give_back(60.0, second, unknown=True)
    assert [bool(window.take(60.0)) for _ in range(49)] == [True] * 48 + [False]


def test_between_two_windows_that_nobody_told_of_nobody_goes() -> None:
    """The server's window began between the first call's sending and the last probe's answer; its end is as vague."""
    window = RateWindow()
    silent(window, 0.0, 30.0)
    silent(window, 40.0, 60.0)
    assert window.take(899.9)
    assert window.wait(900.0) == 60.0
    assert window.take(960.0)


def test_headers_after_silence_are_believed() -> None:
    """What an answer says replaces what was assumed."""
    window = RateWindow()
    silent(window, 0.0, 0.0)
    silent(window, 0.0, 0.0)
    ticket = window.take(0.0)
    assert window.observe(0.0, ticket, seen(3), 0.0)
    window.give_back(0.0, ticket, unknown=False)
    assert [bool(window.take(0.0)) for _ in range(4)] == [True, True, True, False]


def test_another_endpoints_limit_is_not_this_ones() -> None:
    """A capped month answers with the limits of the reading endpoints; silence afterwards still means 50."""
    window = RateWindow()
    window.observe(0.0, 1, seen(39_999, limit=40_000), 0.0)
    silent(window, 902.0, 902.0)
    silent(window, 902.0, 902.0)
    assert [bool(window.take(902.0)) for _ in range(50)].count(True) == 48


def test_a_reset_more_than_a_day_ahead_is_one_window() -> None:
    """A reset in the far future is a mistake: wait one window, then probe."""
    window = RateWindow()
    window.observe(0.0, 1, seen(1, reset=10_000_000_000), 0.0)
    window.observe(9.0, 1, seen(0, reset=10_000_000_000), 9.0)
    assert window.wait(0.0) == 900.0
    assert window.take(900.0)


def test_a_reset_that_was_a_mistake_is_forgotten() -> None:
    """The next one that can be true counts, though it is older."""
    window = RateWindow()
    window.observe(0.0, 1, seen(0, reset=10_000_000_000), 0.0)
    window.observe(9.0, 1, seen(7, reset=900), 9.0)
    assert window.take(9.0)
    assert window.wait(9.0) == 0.0
    assert window.opens_at == pytest.approx(9.0 + 892.0 * 1.00025)


def test_a_reset_exactly_a_day_ahead_is_believed() -> None:
    """A day is still believable."""
    window = RateWindow()
    window.observe(0.0, 1, seen(0, reset=86_399), 0.0)
    assert window.wait(0.0) == careful(86_400.0)


def test_a_reset_in_the_past_is_no_header() -> None:
    """Such answers count by the document, like those without any."""
    window = RateWindow()
    for _ in range(2):
        ticket = window.take(2000.0)
        assert not window.observe(2000.0, ticket, seen(7), 2000.0)
        window.give_back(2000.0, ticket, unknown=True)
    assert [bool(window.take(2000.0)) for _ in range(49)] == [True] * 48 + [False]


def test_a_window_ends_with_its_second() -> None:
    """At the reset it may still be open; a second later it is over."""
    assert RateWindow().observe(900.9, 1, seen(7), 900.9)
    assert not RateWindow().observe(901.0, 1, seen(7), 901.0)


def test_around_its_reset_a_window_is_probed() -> None:
    """The reset comes in whole seconds: until the window surely opens, one call at a time asks whether it has."""
    window = probed(5)
    assert window.take(899.9)
    probe = window.take(900.0)
    assert probe
    assert window.wait(900.0) == math.inf
    window.give_back(900.5, probe, unknown=False)
    assert window.take(900.5)
    assert window.take(902.0)


def test_around_its_reset_one_lost_call_is_enough() -> None:
    """It may have opened a window of a lowered limit: the others wait until the next one has surely opened."""
    window = probed(5)
    window.give_back(900.5, window.take(900.0), unknown=True)
    assert window.wait(900.5) == pytest.approx(0.72525)


def test_a_slow_answer_leaves_much_unknown() -> None:
    """It was written at any time since its call was sent: from the reset as seen from there, calls only ask."""
    window = RateWindow()
    probe = window.take(0.0)
    assert window.observe(60.0, probe, seen(5, reset=100), server_now=10.0)
    window.give_back(60.0, probe, unknown=False)
    first = window.take(89.9)
    assert window.take(89.9)
    assert window.take(90.0)
    assert not window.take(90.0)
    assert window.observe(91.0, first, seen(4, reset=100), server_now=40.0)  # at least until 149.9 it is open
    assert window.wait(149.8) == 0.0
    assert window.wait(149.9) == math.inf
    assert window.opens_at == pytest.approx(60.0 + 91.0 * 1.00025)


def test_a_window_that_nobody_told_of_is_not_probed_around_its_end() -> None:
    """There the answers tell nothing."""
    window = RateWindow()
    silent(window, 0.0, 1.0)
    silent(window, 1.0, 2.0)
    assert window.wait(900.0) == 2.0


def test_a_call_of_the_last_window_stops_no_probe() -> None:
    """One that hangs over the window's turn keeps nobody from the next one, and is counted in it as under way."""
    window = probed(5)
    old = window.take(890.0)
    assert old
    ticket = window.take(902.0)
    assert ticket > old
    assert window.observe(902.0, ticket, seen(2, reset=1802), 902.0)
    window.give_back(902.0, ticket, unknown=False)
    assert [bool(window.take(902.0)) for _ in range(2)] == [True, False]


def test_no_probe_goes_beside_a_whole_window_of_old_calls() -> None:
    """All of them might still arrive, and count in the new window."""
    window = RateWindow(limit=2)
    window.observe(0.0, 1, seen(2, limit=2), 0.0)
    assert window.take(1.0)
    assert window.take(1.0)
    assert window.wait(902.0) == math.inf
    window.give_back(902.0, 1, unknown=True)
    assert window.take(902.0)


def test_a_late_answer_out_of_the_last_window_says_nothing_of_this_one() -> None:
    """Neither while this one is unknown, whatever its own Date makes of it, nor when it is known. It is no riddle."""
    window = probed(5)
    old = window.take(890.0)
    ticket = window.take(902.0)
    assert window.observe(950.0, old, seen(0), server_now=890.0)
    assert window.remaining is None
    assert window.observe(951.0, ticket, seen(49, reset=1802), 951.0)
    assert window.observe(951.0, old, seen(0), server_now=890.0)
    assert window.remaining == 49


def test_a_late_call_that_is_lost_does_not_make_the_window_known() -> None:
    """Only a probe's own end can: others wait for its answer. But it counts."""
    window = probed(5)
    old = [window.take(890.0) for _ in range(3)]
    probe = window.take(902.0)
    for ticket in old:
        window.give_back(903.0, ticket, unknown=True)
    assert window.wait(903.0) == math.inf
    window.give_back(904.0, probe, unknown=True)
    assert [bool(window.take(904.0)) for _ in range(47)] == [True] * 46 + [False]


def test_a_lost_call_counts_until_a_later_one_tells_of_it() -> None:
    """An answer to a call that went before it was lost may not know of it, however late it comes."""
    window = probed(5)
    early, lost = window.take(1.0), window.take(1.0)
    window.give_back(2.0, lost, unknown=True)
    assert window.observe(3.0, early, seen(4), 3.0)  # the server had not seen the other one yet
    window.give_back(3.0, early, unknown=False)
    tickets = [window.take(3.0) for _ in range(4)]
    assert [bool(ticket) for ticket in tickets] == [True, True, True, False]
    assert window.observe(4.0, tickets[0], seen(3), 4.0)  # it had never arrived
    window.give_back(4.0, tickets[0], unknown=False)
    assert [bool(window.take(4.0)) for _ in range(2)] == [True, False]


def test_a_lost_call_of_an_unknown_window_counts_as_well() -> None:
    """The answer that makes the window known belongs to a call that went before it was lost."""
    window = probed(5)
    old = window.take(890.0)
    probe = window.take(902.0)
    window.give_back(903.0, old, unknown=True)
    assert window.observe(904.0, probe, seen(2, reset=1802), 904.0)
    window.give_back(904.0, probe, unknown=False)
    assert [bool(window.take(904.0)) for _ in range(2)] == [True, False]


def test_a_server_that_always_tells_the_same_reset_is_counted_by_the_document() -> None:
    """What was believed once makes no sense any more, and what comes after it is believed again."""
    window = probed(5)
    for _ in range(2):
        ticket = window.take(902.0)
        assert not window.observe(902.0, ticket, seen(49), 902.0)
        window.give_back(902.0, ticket, unknown=True)
    assert [bool(window.take(902.0)) for _ in range(49)] == [True] * 48 + [False]
    assert window.observe(903.0, 9, seen(9, reset=800), server_now=100.0)
    assert window.remaining == 9


def test_a_place_of_the_last_window_may_be_given_back_in_this_one() -> None:
    """It ends no probe."""
    window = probed(5)
    old = window.take(1.0)
    assert window.take(902.0)
    window.give_back(902.0, old, unknown=False)
    assert window.in_flight == 1
    assert window.wait(902.0) == math.inf


@pytest.mark.parametrize(
    ("retry_after", "wait"),
    [(30.0, 30.0), (0.0, 1.0), (-5.0, 1.0), (None, 801.22525)],
    ids=["as told", "now", "in the past", "not told"],
)
def test_a_429_closes_the_window(retry_after: float | None, wait: float) -> None:
    """The server's word closes the window, for a second at least; where it says nothing, until the known reset."""
    window = probed(5)
    window.close(100.0, retry_after)
    assert window.wait(100.0) == pytest.approx(wait)


def test_refusals_that_tell_nothing_space_out() -> None:
    """Each makes the next one wait half as long again, up to a minute; a new window ends that."""
    window = RateWindow()
    now, waits = 0.0, []
    for _ in range(15):
        ticket = window.take(now)
        window.close(now, 0.0)
        window.give_back(now, ticket, unknown=False)
        waits.append(window.wait(now))
        now += waits[-1]
    assert waits[:4] == pytest.approx([1.0, 1.5, 2.25, 3.375])
    assert waits[-1] == 60.0
    window.observe(now, window.take(now), seen(9, reset=now + 900), now)
    window.close(now, 0.0)
    assert window.wait(now) == 1.0


def test_fifty_refusals_at_once_are_one() -> None:
    """A whole window of calls that is refused together waits no longer than one call that is."""
    window = probed(50)
    for _ in range(50):
        window.close(1.0, 0.0)
    assert window.wait(1.0) == 1.0


def test_headerless_calls_that_go_end_the_spacing_out() -> None:
    """Where no window is ever told of, the document's does for a new one."""
    window = RateWindow()
    window.close(0.0, 0.0)
    silent(window, 1.0, 1.0)
    silent(window, 1.0, 1.0)
    window.close(2.0, 0.0)
    assert window.wait(2.0) == 1.0


def test_the_longest_closing_counts() -> None:
    """What one refusal asks for, another that asks for less does not take back; nor does an answer that is late."""
    window = probed(5)
    window.close(1.0, 2000.0)
    window.close(1.0, 3.0)
    assert window.observe(2.0, 1, seen(3), 2.5)
    assert window.wait(1.0) == 2000.0
    window.observe(3.0, 1, seen(9, reset=1800), 3.0)
    assert window.wait(3.0) == 0.0
    window.observe(3.0, 1, seen(0, reset=1800), 3.0)
    assert window.wait(3.0) == careful(1798.0)


def test_a_window_that_was_closed_for_less_than_it_lasts_is_probed_and_believed_again() -> None:
    """Closed by a Retry-After that ends before its reset: the probe's answer speaks of the same window."""
    window = probed(5)
    window.close(1.0, 30.0)
    ticket = window.take(31.0)
    assert window.observe(31.0, ticket, seen(4), 31.0)
    window.give_back(31.0, ticket, unknown=False)
    assert [bool(window.take(31.0)) for _ in range(5)] == [True] * 4 + [False]


def test_reserved_calls_are_left() -> None:
    """The last calls of a window are other programs'."""
    window = RateWindow(reserve=3)
    window.observe(0.0, 1, seen(5), 0.0)
    assert [bool(window.take(0.0)) for _ in range(3)] == [True, True, False]
    window.observe(0.0, 1, seen(3), 0.0)
    assert window.wait(0.0) == careful(901.0)


def test_a_limit_below_the_reserve_leaves_one_call_a_window() -> None:
    """Nobody waits for ever: in each window the probe goes."""
    window = RateWindow(reserve=3)
    for now in (0.0, 1000.0, 2000.0):
        ticket = window.take(now)
        assert ticket
        window.observe(now, ticket, seen(1, reset=now + 900, limit=2), now)
        window.give_back(now, ticket, unknown=False)
        assert not window.take(now + 1)


def test_after_a_suspend_the_window_is_unknown() -> None:
    """It may have turned, or been spent by others; the same window is believed again."""
    window = probed(5)
    window.suspended()
    ticket = window.take(10.0)
    assert window.wait(10.0) == math.inf
    assert window.observe(10.0, ticket, seen(2), 400.0)
    assert window.remaining == 2
    assert window.opens_at == pytest.approx(10.0 + 501.0 * 1.00025)


def test_after_a_suspend_a_spent_window_stays_spent() -> None:
    """The wall clock may just have been set; and what is reserved for others is not there to probe with."""
    window = probed(3)
    window.reserve = 3
    window.suspended()
    assert window.wait(0.0) == careful(901.0)
    assert window.offset == -math.inf


def test_a_suspend_in_an_unknown_window_lets_no_second_probe_go() -> None:
    """The first is still under way."""
    window = RateWindow()
    window.take(0.0)
    window.suspended()
    assert window.wait(0.0) == math.inf


def test_a_429_out_of_the_blue_closes_for_one_window() -> None:
    """A 429 without headers into an unknown window: nothing is known but the document."""
    window = RateWindow()
    window.take(7.0)
    window.close(7.0, None)
    window.give_back(7.0, 1, unknown=False)
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
    assert clock.monotonic() == careful(900.0)


async def test_nobody_overtakes_those_who_wait(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """A call that comes in the instant the window opens goes behind those who waited for it."""
    await probe(limiter, clock, 0)
    log: list[object] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(go(limiter, log, "early"))
        await clock.advance(899.0)
        clock._monotonic += 1.5  # the window is open, and its timer has not run yet
        group.create_task(go(limiter, log, "late"))
    assert log == ["early", "late"]


async def test_the_time_waited_is_told(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """Whoever waited knows how long."""
    await probe(limiter, clock, 0)
    async with limiter.slot("app") as slot:
        assert slot.waited == careful(900.0)
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


async def test_who_is_cancelled_as_its_wait_turns_out_too_long_is_cancelled(
    limiter: LocalRateLimiter, clock: VirtualClock
) -> None:
    """It has been refused, and has not run since: a cancellation is never swallowed."""
    async with limiter.slot("app") as slot:
        impatient = asyncio.create_task(go(limiter, [], "impatient", max_wait=1.0))
        await asyncio.sleep(0)
        slot.observe(told(clock, 0), clock.time())
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
        slot.observe(told(clock, 0), clock.time())
        slot.observe(told(clock, 0, reset_in=1799.0), clock.time())
    await waiting
    assert clock.monotonic() == careful(1800.0)


async def test_an_answer_without_a_date_is_reckoned_by_the_wall_clock(
    limiter: LocalRateLimiter, clock: VirtualClock
) -> None:
    """Without the server's time, ours has to do."""
    async with limiter.slot("app") as slot:
        slot.observe(told(clock, 0), None)
    async with limiter.slot("app") as slot:
        assert slot.waited == careful(900.0)
        slot.refund()


@pytest.mark.parametrize("ahead", [-100.0, 100.0], ids=["fast", "slow"])
async def test_a_date_corrects_what_a_wrong_wall_clock_made_of_the_window(
    limiter: LocalRateLimiter, clock: VirtualClock, ahead: float
) -> None:
    """The first answer had none, and ours had to do. From the first Date on the server's clock counts."""
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


# -- Telling of a wait ------------------------------------------------------------------------------------------------


class Told:
    """An ``on_wait`` that remembers, with the time at which it was called."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.waits: list[tuple[float, Wait]] = []

    def __call__(self, wait: Wait) -> None:
        self.waits.append((self.clock.monotonic(), wait))

    def seconds(self) -> list[tuple[float, float]]:
        return [(now, wait.seconds) for now, wait in self.waits]


async def waits(limiter: LocalRateLimiter, told: Callable[[Wait], None], **keywords: Any) -> None:
    async with limiter.slot("app", on_wait=told, **keywords) as slot:
        slot.refund()


async def test_a_wait_is_told_once(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """How long, until when by the server's clock, and why; and not again while nothing changes."""
    await probe(limiter, clock, 0)
    told = Told(clock)
    await asyncio.gather(waits(limiter, told), go(limiter, [], "other"))
    ((now, wait),) = told.waits
    assert now == 0.0
    assert wait.seconds == pytest.approx(900.0)
    assert wait.until == dt.datetime(2026, 1, 15, 12, 15, tzinfo=dt.UTC)
    assert wait.reason == "the app's 15-minute window is spent"


async def test_the_server_clock_is_told(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """A server that is ten minutes ahead of us: its time is what the reset means."""
    ahead = dt.timedelta(minutes=10)
    async with limiter.slot("app") as slot:
        slot.observe(RateLimit(50, 0, clock.now() + ahead + dt.timedelta(seconds=899)), clock.time() + 600.0)
    wait = Told(clock)
    await waits(limiter, wait)
    assert wait.waits[0][1].until == dt.datetime(2026, 1, 15, 12, 25, tzinfo=dt.UTC)


async def test_a_call_that_goes_at_once_tells_nothing(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """Nor does one that waits for another's answer: nobody knows for how long."""
    told = Told(clock)
    async with limiter.slot("app") as slot:
        waiting = asyncio.create_task(waits(limiter, told))
        await asyncio.sleep(0)
        slot.refund()
    await waiting
    assert told.waits == []


async def test_a_wait_that_becomes_another_is_told_again(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """When the probe that all waited for is refused, for instance; a change of a second at most is none."""
    await probe(limiter, clock, 0)
    told = Told(clock)
    waiting = [asyncio.create_task(waits(limiter, told)) for _ in range(2)]
    await clock.advance(100.0)
    limiter._queues["app"].window.close(100.0, 1200.0)
    limiter._queues["app"]._serve()
    limiter._queues["app"].window.close(100.0, 1200.9)
    limiter._queues["app"]._serve()
    await asyncio.gather(*waiting)
    assert [now for now, _ in told.seconds()] == [0.0, 0.0, 100.0, 100.0]
    assert [seconds for _, seconds in told.seconds()] == pytest.approx([900.0, 900.0, 1200.0, 1200.0])


async def test_who_comes_while_the_last_place_is_under_way_is_told_later(
    limiter: LocalRateLimiter, clock: VirtualClock
) -> None:
    """Another was told of the same instant before; this one was not."""
    await probe(limiter, clock, 1)
    first, second = Told(clock), Told(clock)
    holder = limiter.slot("app")
    await holder.__aenter__()
    holder.observe(told(clock, 0), clock.time())
    tasks = [asyncio.create_task(waits(limiter, first))]
    await asyncio.sleep(0)
    limiter._queues["app"].window.remaining = 1  # as if another place had been given back
    tasks.append(asyncio.create_task(waits(limiter, second)))
    await asyncio.sleep(0)
    assert (len(first.waits), len(second.waits)) == (1, 0)
    holder.observe(told(clock, 0), clock.time())
    await holder.__aexit__(None, None, None)
    assert (len(first.waits), len(second.waits)) == (1, 1)
    await asyncio.gather(*tasks)


async def test_a_hook_that_fails_fails_its_own_call_only(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """Whether it is called when its call comes or later; the others get their places."""

    def broken(wait: Wait) -> None:
        raise LookupError(wait.reason)

    log: list[object] = []
    async with limiter.slot("app") as slot:
        failing = asyncio.create_task(waits(limiter, broken))
        other = asyncio.create_task(go(limiter, log, "other"))
        await asyncio.sleep(0)
        slot.observe(told(clock, 0), clock.time())
    with pytest.raises(LookupError, match="spent"):
        await failing
    with pytest.raises(LookupError, match="spent"):
        await waits(limiter, broken)
    await other
    assert log == ["other"]


@pytest.mark.parametrize(("reserve", "second"), [(0, 50), (10, 40), (49, 1)])
async def test_a_position_beyond_one_window_waits_for_another(clock: VirtualClock, reserve: int, second: int) -> None:
    """So many as one window has, less those that are reserved, go in the first; whoever stands behind, in the next."""
    limiter = LocalRateLimiter(clock=clock, reserve=reserve)
    await probe(limiter, clock, 0)
    heard = Told(clock)
    tasks = [asyncio.create_task(waits(limiter, heard)) for _ in range(second + 1)]
    await asyncio.sleep(0)
    assert [round(seconds) for _, seconds in heard.seconds()] == [900] * second + [1800]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_server_with_other_windows_is_believed(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """A window that was seen from its first call shows how long one is: here three seconds, and one of ours."""
    async with limiter.slot("app") as slot:
        slot.observe(RateLimit(2, 1, clock.now() + dt.timedelta(seconds=3)), clock.time())
    async with limiter.slot("app") as slot:
        slot.observe(RateLimit(2, 0, clock.now() + dt.timedelta(seconds=3)), clock.time())
    heard = Told(clock)
    tasks = [asyncio.create_task(waits(limiter, heard, max_wait=12.0)) for _ in range(7)]
    await asyncio.sleep(0)
    assert [seconds for _, seconds in heard.seconds()] == pytest.approx([4.0, 4.0, 8.0, 8.0, 12.0, 12.0])
    with pytest.raises(RateLimitedError, match="16 s"):
        await tasks[-1]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_window_that_was_not_seen_from_its_first_call_shows_no_length(
    limiter: LocalRateLimiter, clock: VirtualClock
) -> None:
    """Others were there before, nobody knows since when: this one ends in 300 s, the next one lasts the document's."""
    async with limiter.slot("app") as slot:
        slot.observe(told(clock, 0, reset_in=299.0), clock.time())
    heard = Told(clock)
    tasks = [asyncio.create_task(waits(limiter, heard)) for _ in range(51)]
    await asyncio.sleep(0)
    assert [seconds for _, seconds in heard.seconds()] == pytest.approx([300.0] * 50 + [1200.0])
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_server_at_the_end_of_time_is_still_told_of(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """A Date in the last second of the year 9999 is nonsense, and no crash."""
    end = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
    async with limiter.slot("app") as slot:
        slot.observe(RateLimit(50, 0, end), end.timestamp())
    heard = Told(clock)
    await waits(limiter, heard)
    assert heard.waits[0][1].until == end


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
        slot.observe(told(clock, 40), clock.time())
    await other
    assert clock.monotonic() == 0.0


@pytest.mark.parametrize("seconds", [3600.0, -3600.0, 5.1, -5.1])
async def test_a_spent_window_stays_spent_whatever_the_wall_clock_says(
    limiter: LocalRateLimiter, clock: VirtualClock, seconds: float
) -> None:
    """Somebody may just have set it. Waits are monotonic: they neither end early nor grow; then a probe goes."""
    await probe(limiter, clock, 0)
    heard = Told(clock)
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
    """A server whose clock is known to be ten minutes ahead does not lose that by an answer without a Date."""
    ahead = dt.timedelta(minutes=10)
    reset = clock.now() + ahead + dt.timedelta(seconds=899)
    async with limiter.slot("app") as slot:
        slot.observe(RateLimit(50, 1, reset), clock.time() + 600.0)
    async with limiter.slot("app") as slot:
        slot.observe(RateLimit(50, 0, reset), None)
    await go(limiter, [], "a")
    assert clock.monotonic() == careful(900.0)


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
    assert not limiter._queues["app"]._waiting


async def test_who_cancels_all_tasks_does_not_put_the_others_to_sleep(
    limiter: LocalRateLimiter, clock: VirtualClock
) -> None:
    """Some programs cancel whatever task they find. The queue's own is replaced while anybody waits."""
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


async def test_a_call_that_hangs_over_the_windows_end_keeps_nobody(
    limiter: LocalRateLimiter, clock: VirtualClock
) -> None:
    """It holds the last place. Nobody knows how long they wait for it, but when the window is over they go."""
    await probe(limiter, clock, 1)
    log: list[object] = []
    async with limiter.slot("app"):
        await go(limiter, log, "a")
        assert clock.monotonic() == careful(900.0)


async def test_a_storm_of_refusals_is_no_busy_loop(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """A server that refuses everything and always says *now* gets fewer and fewer calls: nine in the first minute."""
    calls = []

    async def refused() -> None:
        while clock.monotonic() < 60.0:
            async with limiter.slot("app") as slot:
                calls.append(clock.monotonic())
                slot.observe(told(clock, 0, reset_in=-5.0), clock.time())
                slot.close_window(0.0)

    await asyncio.gather(*(refused() for _ in range(20)))
    assert len([at for at in calls if at < 60.0]) == 9
    assert min(b - a for a, b in itertools.pairwise(calls)) >= 1.0


async def test_a_hook_that_ends_the_program_loses_no_place(clock: VirtualClock) -> None:
    """Even what is no Exception leaves the queue as it was."""

    class EndError(BaseException):
        pass

    def end(wait: Wait) -> None:
        raise EndError

    limiter = LocalRateLimiter(clock=clock)
    holder = limiter.slot("app")
    await holder.__aenter__()
    task = asyncio.create_task(go(limiter, [], "a"))
    await asyncio.sleep(0)
    limiter._queues["app"].window.close(0.0, 100.0)
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


async def test_answers_without_headers_count(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """Fifty calls to a server that tells nothing, and the next one waits for the document's window to end."""

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
    """Fifty who were cancelled a moment ago do not make the next one wait for a second window."""
    await probe(limiter, clock, 0)
    tasks = [asyncio.create_task(go(limiter, [], name)) for name in range(50)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await go(limiter, log := [], "next", max_wait=905.0)  # type: ignore[var-annotated]
    assert log == ["next"]
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_late_refusal_of_the_last_window_closes_nothing(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """A 429 that was on its way while the window turned speaks of the one that is over. It was no call of this one."""
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
        ConfigurationError, match=r"^this limiter serves another event loop; give each loop its own, or none$"
    ):
        await asyncio.to_thread(asyncio.run, elsewhere())


def test_a_suspend_does_not_open_a_window_whose_last_call_was_lost() -> None:
    """A call of unknown end may have been the last: the window is spent, and stays so while clocks are set."""
    window = probed(1)
    ticket = window.take(1.0)
    window.give_back(1.0, ticket, unknown=True)
    before = window.wait(1.0)
    assert before > 800.0
    window.suspended()
    assert window.wait(1.0) == before
