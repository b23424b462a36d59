"""RateWindow: each of its rules, pure."""

from __future__ import annotations

import datetime as dt
import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest

from twusage.models import RateLimit
from twusage.window import RateWindow

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def seen(remaining: int, reset: float = 900, limit: int = 50) -> RateLimit:
    return RateLimit(limit, remaining, EPOCH + dt.timedelta(seconds=reset))


def careful(wait: float) -> Any:
    """A wait as the window measures it. 1/4000 longer than reported, because clocks drift."""
    return pytest.approx(wait * 1.00025, abs=1e-6)


def probed(remaining: int, *, now: float = 0.0, reset: float = 900) -> RateWindow:
    """A window whose probe returned this remainder, on a server whose clock is ours."""
    window = RateWindow()
    assert window.acquire(now)
    window.observe(now, 1, seen(remaining, reset), now)
    window.release(now, 1, confirmed=True)
    return window


def test_one_probe_goes_into_an_unknown_window() -> None:
    """Of two calls into an unknown window, the second waits for the response of the first."""
    window = RateWindow()
    assert window.acquire(0.0)
    assert window.seconds_until_free(0.0) == math.inf
    assert not window.acquire(0.0)


def test_as_many_go_as_the_headers_leave() -> None:
    """After the probe, the calls of its remainder go at the same time, and no more."""
    window = probed(3)
    assert [bool(window.acquire(1.0)) for _ in range(4)] == [True, True, True, False]


def test_a_used_up_window_opens_one_second_after_its_reset() -> None:
    """The reset comes in whole seconds. A call at the very second would still be refused."""
    window = probed(0)
    assert window.seconds_until_free(0.0) == careful(901.0)
    assert not window.acquire(901.2)
    assert window.acquire(901.3)


def test_the_server_clock_decides_not_ours() -> None:
    """A server that is 300 s ahead of us resets 300 s earlier by our clock."""
    window = RateWindow()
    window.acquire(1000.0)
    window.observe(1000.0, 1, seen(0, reset=1900), server_now=1300.0)
    window.release(1000.0, 1, confirmed=True)
    assert window.seconds_until_free(1000.0) == careful(601.0)


def test_the_quickest_answer_counts() -> None:
    """A slow answer makes the server look late. The quickest answer of the window is nearest to the truth."""
    window = RateWindow()
    window.observe(10.0, 1, seen(5), server_now=8.0)
    window.observe(15.0, 1, seen(4), server_now=15.0)
    window.observe(16.0, 1, seen(0), server_now=12.0)
    assert window.seconds_until_free(15.0) == careful(886.0)
    assert window.server_offset == 0.0


@pytest.mark.parametrize("ahead", [-100.0, 100.0], ids=["fast", "slow"])
def test_the_first_date_replaces_what_was_reckoned(ahead: float) -> None:
    """Our clock was fast, or slow. The window opens by the server's, neither sooner nor later."""
    window = RateWindow()
    window.observe(0.0, 1, seen(1), 0.0, estimated=True)
    assert window.opens_at == careful(901.0)
    window.observe(10.0, 1, seen(0), 10.0 + ahead)
    assert window.seconds_until_free(10.0) == careful(891.0 - ahead)
    assert window.server_offset == ahead


def test_the_first_date_bounds_the_end_of_the_window() -> None:
    """It had been thought to last longer. From when it may be over, calls only probe."""
    window = RateWindow()
    window.observe(0.0, 1, seen(9), 0.0, estimated=True)
    window.observe(10.0, 1, seen(9), 110.0)
    assert [bool(window.acquire(799.9)) for _ in range(2)] == [True, True]
    assert [bool(window.acquire(800.0)) for _ in range(2)] == [True, False]


def test_the_first_date_alone_does_that() -> None:
    """After it the quickest answer counts, as in every window. One that is slower takes nothing back."""
    window = RateWindow()
    window.observe(0.0, 1, seen(9), 0.0, estimated=True)
    window.observe(10.0, 1, seen(8), -90.0)
    window.observe(20.0, 1, seen(0), -85.0)
    assert window.seconds_until_free(10.0) == careful(991.0)


def test_an_answer_without_a_date_takes_no_date_back() -> None:
    """A window that was learnt from one stays known. Later responses without headers do not reset it."""
    window = RateWindow()
    window.observe(0.0, 1, seen(9), 0.0)
    window.observe(10.0, 1, seen(8), 10.0, estimated=True)
    window.observe(20.0, 1, seen(0), 15.0)
    assert window.seconds_until_free(10.0) == careful(891.0)


def test_a_clock_that_is_fast_does_not_wake_early() -> None:
    """For any arrival. By a clock that is 200 ppm fast, the server's 901.0 is 901.18."""
    for now in (0.0, 450.0, 899.0):
        window = probed(0)
        window.observe(now, 1, seen(0), server_now=now / 1.0002)
        assert 901.18 < window.opens_at < 901.5


def test_the_smaller_remainder_counts() -> None:
    """Answers arrive out of order. A later one with more calls left is older news."""
    window = probed(5)
    window.observe(1.0, 1, seen(7), 1.0)
    assert [bool(window.acquire(1.0)) for _ in range(6)] == [True] * 5 + [False]


def test_an_older_reset_is_ignored() -> None:
    """A response of a window that is over does not describe this one."""
    window = probed(5, reset=1800)
    window.observe(1.0, 1, seen(0, reset=900), 1.0)
    assert window.acquire(1.0)


def test_a_newer_reset_opens_a_new_window() -> None:
    """A newer reset has its own remainder, and the offset is estimated again."""
    window = probed(0)
    window.observe(5.0, 1, seen(9, reset=1800), 2.0)
    ticket = window.acquire(5.0)
    assert ticket
    window.observe(6.0, ticket, seen(0, reset=1800), 2.5)
    window.release(6.0, ticket, confirmed=True)
    assert window.seconds_until_free(5.0) == careful(1799.0)
    assert window.server_offset == -3.0


def test_when_the_window_is_over_one_probe_goes_again() -> None:
    """A limit that the server lowered between two windows costs one call, not fifty."""
    window = probed(0)
    assert window.acquire(902.0)
    assert not window.acquire(902.0)


def test_a_call_under_way_holds_its_place() -> None:
    """A call whose response overtook another may be counted twice for a while, but never not at all."""
    window = probed(2)
    first, second = window.acquire(1.0), window.acquire(1.0)
    assert first
    assert second
    window.observe(2.0, second, seen(0), 2.0)  # the second was answered first, and the server has counted both
    window.release(2.0, second, confirmed=True)
    assert not window.acquire(2.0)


def test_a_refunded_place_is_free_again() -> None:
    """A call that was surely never sent gives its place to another."""
    window = probed(1)
    ticket = window.acquire(1.0)
    assert ticket
    assert window.seconds_until_free(1.0) == math.inf
    window.release(1.0, ticket, confirmed=True)
    assert window.acquire(1.0)


def test_an_unknown_outcome_counts_as_a_call() -> None:
    """A call without a response may have reached the server."""
    window = probed(1)
    window.release(1.0, window.acquire(1.0), confirmed=False)
    assert not window.acquire(1.0)
    assert window.seconds_until_free(0.0) == careful(901.0)


def silent(window: RateWindow, sent: float, answered: float) -> None:
    """A call whose answer has no headers, or that has none."""
    ticket = window.acquire(sent)
    assert ticket
    window.release(answered, ticket, confirmed=False)


def test_without_headers_the_document_counts() -> None:
    """An API without headers is counted against 50 calls in 900 s from the first on."""
    window = RateWindow()
    for _ in range(50):
        silent(window, 10.0, 10.0)
    assert window.seconds_until_free(10.0) == 900.0
    assert window.acquire(910.0)


def test_a_lost_probe_has_one_successor() -> None:
    """One probe without a response may be bad luck, and the next one goes. After two the others wait no longer."""
    window = RateWindow()
    silent(window, 0.0, 30.0)
    second = window.acquire(30.0)
    assert second
    assert not window.acquire(30.0)
    window.release(60.0, second, confirmed=False)
    assert [bool(window.acquire(60.0)) for _ in range(49)] == [True] * 48 + [False]


def test_between_two_assumed_windows_no_call_goes() -> None:
    """The server's window began between the first call's sending and the last probe's response. Its end is as vague."""
    window = RateWindow()
    silent(window, 0.0, 30.0)
    silent(window, 40.0, 60.0)
    assert window.acquire(899.9)
    assert window.seconds_until_free(900.0) == 60.0
    assert window.acquire(960.0)


def test_lost_calls_of_a_window_without_headers_do_not_count_in_the_next() -> None:
    """After such a window one lost probe is again followed by a second one."""
    window = RateWindow()
    silent(window, 0.0, 30.0)
    silent(window, 40.0, 60.0)
    silent(window, 960.0, 970.0)
    assert window.acquire(970.0)
    assert not window.acquire(970.0)


def test_headers_after_silence_are_believed() -> None:
    """A response replaces what was assumed."""
    window = RateWindow()
    silent(window, 0.0, 0.0)
    silent(window, 0.0, 0.0)
    ticket = window.acquire(0.0)
    assert window.observe(0.0, ticket, seen(3), 0.0)
    window.release(0.0, ticket, confirmed=True)
    assert [bool(window.acquire(0.0)) for _ in range(4)] == [True, True, True, False]


def test_another_endpoints_limit_is_not_this_ones() -> None:
    """A capped month answers with the limits of the reading endpoints. Silence afterwards still means 50."""
    window = RateWindow()
    window.observe(0.0, 1, seen(39_999, limit=40_000), 0.0)
    silent(window, 902.0, 902.0)
    silent(window, 902.0, 902.0)
    assert [bool(window.acquire(902.0)) for _ in range(50)].count(True) == 48


def test_a_reset_more_than_a_day_ahead_is_one_window() -> None:
    """A reset in the far future is a mistake. Wait one window, then probe."""
    window = RateWindow()
    window.observe(0.0, 1, seen(1, reset=10_000_000_000), 0.0)
    window.observe(9.0, 1, seen(0, reset=10_000_000_000), 9.0)
    assert window.seconds_until_free(0.0) == 900.0
    assert window.acquire(900.0)


def test_a_reset_that_was_a_mistake_is_forgotten() -> None:
    """The next one that can be true counts, though it is older."""
    window = RateWindow()
    window.observe(0.0, 1, seen(0, reset=10_000_000_000), 0.0)
    window.observe(9.0, 1, seen(7, reset=900), 9.0)
    assert window.acquire(9.0)
    assert window.seconds_until_free(9.0) == 0.0
    assert window.opens_at == pytest.approx(9.0 + 892.0 * 1.00025)


def test_a_reset_exactly_a_day_ahead_is_believed() -> None:
    """A day is still believable."""
    window = RateWindow()
    window.observe(0.0, 1, seen(0, reset=86_399), 0.0)
    assert window.seconds_until_free(0.0) == careful(86_400.0)


def test_a_reset_in_the_past_is_no_header() -> None:
    """Such answers count by the document, like those without any."""
    window = RateWindow()
    for _ in range(2):
        ticket = window.acquire(2000.0)
        assert not window.observe(2000.0, ticket, seen(7), 2000.0)
        window.release(2000.0, ticket, confirmed=False)
    assert [bool(window.acquire(2000.0)) for _ in range(49)] == [True] * 48 + [False]


def test_a_window_ends_with_its_second() -> None:
    """At the reset it may still be open. A second later it is over."""
    assert RateWindow().observe(900.9, 1, seen(7), 900.9)
    assert not RateWindow().observe(901.0, 1, seen(7), 901.0)


def test_around_its_reset_a_window_is_probed() -> None:
    """The reset is in whole seconds. Until the window surely opens, one call at a time probes."""
    window = probed(5)
    assert window.acquire(899.9)
    probe = window.acquire(900.0)
    assert probe
    assert window.seconds_until_free(900.0) == math.inf
    window.release(900.5, probe, confirmed=True)
    assert window.acquire(900.5)
    assert window.acquire(902.0)


def test_around_its_reset_one_lost_call_is_enough() -> None:
    """It may have opened a window of a lowered limit. The others wait until the next one has surely opened."""
    window = probed(5)
    window.release(900.5, window.acquire(900.0), confirmed=False)
    assert window.seconds_until_free(900.5) == pytest.approx(0.72525)


def test_a_slow_answer_leaves_much_unknown() -> None:
    """It was written at any time since its call was sent. From the reset as seen from there, calls only ask."""
    window = RateWindow()
    probe = window.acquire(0.0)
    assert window.observe(60.0, probe, seen(5, reset=100), server_now=10.0)
    window.release(60.0, probe, confirmed=True)
    first = window.acquire(89.9)
    assert window.acquire(89.9)
    assert window.acquire(90.0)
    assert not window.acquire(90.0)
    assert window.observe(91.0, first, seen(4, reset=100), server_now=40.0)  # at least until 149.9 it is open
    assert window.seconds_until_free(149.8) == 0.0
    assert window.seconds_until_free(149.9) == math.inf
    assert window.opens_at == pytest.approx(60.0 + 91.0 * 1.00025)


def test_an_assumed_window_is_not_probed_around_its_end() -> None:
    """There the responses have no headers."""
    window = RateWindow()
    silent(window, 0.0, 1.0)
    silent(window, 1.0, 2.0)
    assert window.seconds_until_free(900.0) == 2.0


def test_a_call_of_the_last_window_stops_no_probe() -> None:
    """One that hangs over the reset does not block the next window, and is counted in it as under way."""
    window = probed(5)
    old = window.acquire(890.0)
    assert old
    ticket = window.acquire(902.0)
    assert ticket > old
    assert window.observe(902.0, ticket, seen(2, reset=1802), 902.0)
    window.release(902.0, ticket, confirmed=True)
    assert [bool(window.acquire(902.0)) for _ in range(2)] == [True, False]


def test_no_probe_goes_beside_a_whole_window_of_old_calls() -> None:
    """All of them might still arrive, and count in the new window."""
    window = RateWindow(limit=2)
    window.observe(0.0, 1, seen(2, limit=2), 0.0)
    assert window.acquire(1.0)
    assert window.acquire(1.0)
    assert window.seconds_until_free(902.0) == math.inf
    window.release(902.0, 1, confirmed=False)
    assert window.acquire(902.0)


def test_a_late_response_of_the_last_window_is_ignored() -> None:
    """Neither while this one is unknown, whatever its own Date, nor when it is known. It is not ambiguous."""
    window = probed(5)
    old = window.acquire(890.0)
    ticket = window.acquire(902.0)
    assert window.observe(950.0, old, seen(0), server_now=890.0)
    assert window.remaining is None
    assert window.observe(951.0, ticket, seen(49, reset=1802), 951.0)
    assert window.observe(951.0, old, seen(0), server_now=890.0)
    assert window.remaining == 49


def test_a_late_call_that_is_lost_does_not_make_the_window_known() -> None:
    """Only a probe's own end can: others wait for its response. But it counts."""
    window = probed(5)
    old = [window.acquire(890.0) for _ in range(3)]
    probe = window.acquire(902.0)
    for ticket in old:
        window.release(903.0, ticket, confirmed=False)
    assert window.seconds_until_free(903.0) == math.inf
    window.release(904.0, probe, confirmed=False)
    assert [bool(window.acquire(904.0)) for _ in range(47)] == [True] * 46 + [False]


def test_a_lost_call_counts_until_a_later_response_shows_it() -> None:
    """A response to a call that went before the loss may not include it, however late it arrives."""
    window = probed(5)
    early, lost = window.acquire(1.0), window.acquire(1.0)
    window.release(2.0, lost, confirmed=False)
    assert window.observe(3.0, early, seen(4), 3.0)  # the server had not seen the other one yet
    window.release(3.0, early, confirmed=True)
    tickets = [window.acquire(3.0) for _ in range(4)]
    assert [bool(ticket) for ticket in tickets] == [True, True, True, False]
    assert window.observe(4.0, tickets[0], seen(3), 4.0)  # it had never arrived
    window.release(4.0, tickets[0], confirmed=True)
    assert [bool(window.acquire(4.0)) for _ in range(2)] == [True, False]


def test_a_lost_call_of_an_unknown_window_counts_as_well() -> None:
    """The response that makes the window known belongs to a call that went before the loss."""
    window = probed(5)
    old = window.acquire(890.0)
    probe = window.acquire(902.0)
    window.release(903.0, old, confirmed=False)
    assert window.observe(904.0, probe, seen(2, reset=1802), 904.0)
    window.release(904.0, probe, confirmed=True)
    assert [bool(window.acquire(904.0)) for _ in range(2)] == [True, False]


def test_a_server_with_a_constant_reset_is_counted_by_the_document() -> None:
    """The believed window is impossible by now, and the next response is believed again."""
    window = probed(5)
    for _ in range(2):
        ticket = window.acquire(902.0)
        assert not window.observe(902.0, ticket, seen(49), 902.0)
        window.release(902.0, ticket, confirmed=False)
    assert [bool(window.acquire(902.0)) for _ in range(49)] == [True] * 48 + [False]
    assert window.observe(903.0, 9, seen(9, reset=800), server_now=100.0)
    assert window.remaining == 9


def test_a_place_of_the_last_window_may_be_given_back_in_this_one() -> None:
    """It ends no probe."""
    window = probed(5)
    old = window.acquire(1.0)
    assert window.acquire(902.0)
    window.release(902.0, old, confirmed=True)
    assert window.in_flight == 1
    assert window.seconds_until_free(902.0) == math.inf


@pytest.mark.parametrize(
    ("retry_after", "wait"),
    [(30.0, 30.0), (0.0, 1.0), (-5.0, 1.0), (None, 801.22525)],
    ids=["as sent", "now", "in the past", "not sent"],
)
def test_a_429_closes_the_window(retry_after: float | None, wait: float) -> None:
    """The server's duration closes the window, for a second at least. Without one, until the known reset."""
    window = probed(5)
    window.close(100.0, 1, retry_after)
    assert window.seconds_until_free(100.0) == pytest.approx(wait)


def test_429s_without_headers_space_out() -> None:
    """Each makes the next one wait half as long again, up to a minute; a new window ends that."""
    window = RateWindow()
    now, waits = 0.0, []
    for _ in range(15):
        ticket = window.acquire(now)
        window.close(now, ticket, 0.0)
        window.release(now, ticket, confirmed=True)
        waits.append(window.seconds_until_free(now))
        now += waits[-1]
    assert waits[:4] == pytest.approx([1.0, 1.5, 2.25, 3.375])
    assert waits[-1] == 60.0
    ticket = window.acquire(now)
    window.observe(now, ticket, seen(9, reset=now + 900), now)
    window.close(now, ticket, 0.0)
    assert window.seconds_until_free(now) == 1.0


def test_fifty_concurrent_429s_count_as_one() -> None:
    """A whole window of calls that is refused together waits no longer than one call that is."""
    window = probed(50)
    for _ in range(50):
        window.close(1.0, 1, 0.0)
    assert window.seconds_until_free(1.0) == 1.0


def test_headerless_calls_that_go_end_the_spacing_out() -> None:
    """If no header ever describes a window, the document's is used for a new one."""
    window = RateWindow()
    window.close(0.0, 1, 0.0)
    silent(window, 1.0, 1.0)
    silent(window, 1.0, 1.0)
    window.close(2.0, window.acquire(2.0), 0.0)
    assert window.seconds_until_free(2.0) == 1.0


def test_the_longest_closing_counts() -> None:
    """A longer closing is not shortened by another one. Nor by a response that is late."""
    window = probed(5)
    window.close(1.0, 1, 2000.0)
    window.close(1.0, 1, 3.0)
    assert window.observe(2.0, 1, seen(3), 2.5)
    assert window.seconds_until_free(1.0) == 2000.0
    window.observe(3.0, 1, seen(9, reset=1800), 3.0)
    assert window.seconds_until_free(3.0) == 0.0
    window.observe(3.0, 1, seen(0, reset=1800), 3.0)
    assert window.seconds_until_free(3.0) == careful(1798.0)


def test_a_window_that_was_closed_for_less_than_it_lasts_is_probed_and_believed_again() -> None:
    """Closed by a Retry-After that ends before its reset. The probe's answer speaks of the same window."""
    window = probed(5)
    window.close(1.0, 1, 30.0)
    ticket = window.acquire(31.0)
    assert window.observe(31.0, ticket, seen(4), 31.0)
    window.release(31.0, ticket, confirmed=True)
    assert [bool(window.acquire(31.0)) for _ in range(5)] == [True] * 4 + [False]


def test_reserved_calls_are_left() -> None:
    """The last calls of a window are other programs'."""
    window = RateWindow(reserve=3)
    window.observe(0.0, 1, seen(5), 0.0)
    assert [bool(window.acquire(0.0)) for _ in range(3)] == [True, True, False]
    window.observe(0.0, 1, seen(3), 0.0)
    assert window.seconds_until_free(0.0) == careful(901.0)


def test_a_limit_below_the_reserve_leaves_one_call_a_window() -> None:
    """No call waits for ever: in each window the probe goes."""
    window = RateWindow(reserve=3)
    for now in (0.0, 1000.0, 2000.0):
        ticket = window.acquire(now)
        assert ticket
        window.observe(now, ticket, seen(1, reset=now + 900, limit=2), now)
        window.release(now, ticket, confirmed=True)
        assert not window.acquire(now + 1)


def test_after_a_suspend_the_window_is_unknown() -> None:
    """It may have reset, or been used up by others. The same window is believed again."""
    window = probed(5)
    window.on_suspend()
    ticket = window.acquire(10.0)
    assert window.seconds_until_free(10.0) == math.inf
    assert window.observe(10.0, ticket, seen(2), 400.0)
    assert window.remaining == 2
    assert window.opens_at == pytest.approx(10.0 + 501.0 * 1.00025)


def test_after_a_suspend_a_used_up_window_stays_used_up() -> None:
    """The wall clock may just have been set. Reserved calls are not used to probe."""
    window = probed(3)
    window.reserve = 3
    window.on_suspend()
    assert window.seconds_until_free(0.0) == careful(901.0)
    assert window.server_offset == -math.inf


def test_a_suspend_in_an_unknown_window_lets_no_second_probe_go() -> None:
    """The first is still under way."""
    window = RateWindow()
    window.acquire(0.0)
    window.on_suspend()
    assert window.seconds_until_free(0.0) == math.inf


def test_a_429_out_of_the_blue_closes_for_one_window() -> None:
    """A 429 without headers into an unknown window. Nothing is known but the document."""
    window = RateWindow()
    window.acquire(7.0)
    window.close(7.0, 1, None)
    window.release(7.0, 1, confirmed=True)
    assert window.seconds_until_free(7.0) == 900.0


def test_a_suspend_does_not_open_a_window_whose_last_call_was_lost() -> None:
    """A call of unknown end may have been the last. The window is used up, and stays so while clocks are set."""
    window = probed(1)
    ticket = window.acquire(1.0)
    window.release(1.0, ticket, confirmed=False)
    before = window.seconds_until_free(1.0)
    assert before > 800.0
    window.on_suspend()
    assert window.seconds_until_free(1.0) == before


def test_a_suspended_machine_does_not_know_how_long_a_window_is() -> None:
    """Its clock stood still. The time since the window's first call is not what passed."""
    window = RateWindow()
    window.acquire(0.0)
    window.observe(0.0, 1, RateLimit(50, 49, datetime.fromtimestamp(900, UTC)), 0.0)
    window.release(0.0, 1, confirmed=True)
    window.on_suspend()
    window.acquire(10.0)
    window.observe(10.0, 2, RateLimit(50, 48, datetime.fromtimestamp(900, UTC)), 610.0)
    assert window.length == 901.0


def test_a_refusal_does_not_make_windows_longer() -> None:
    """A Retry-After beyond the reset closes this window for longer, and no other."""
    window, seen = RateWindow(), RateLimit(50, 49, datetime.fromtimestamp(900, UTC))
    window.acquire(0.0)
    window.observe(0.0, 1, seen, 0.0)
    window.acquire(0.0)
    window.close(0.0, 1, 3000.0)
    window.observe(0.5, 2, seen, 1.0)
    assert window.length == pytest.approx(901.0, abs=1.0)
    assert window.seconds_until_free(0.5) == pytest.approx(2999.5)


def test_only_a_known_reset_has_a_margin_for_drift() -> None:
    """It is part of ``opens_at``: a window that a 429 closes, or that is unknown, includes none."""
    window = probed(5)
    assert window.drift_margin == pytest.approx(901.0 * 0.00025)
    window.close(1.0, 1, 30.0)
    assert window.drift_margin == 0.0
    window = probed(5)
    assert window.seconds_until_free(902.0) == 0.0
    assert window.drift_margin == 0.0


def test_the_server_time_is_known_from_responses() -> None:
    """Until one has a date, the wall time replaces it."""
    window = RateWindow()
    assert window.server_time(5.0, 77.0) == 77.0
    window.observe(10.0, 1, seen(9), 310.0)
    assert window.server_time(20.0, 77.0) == 320.0


def test_a_window_that_opens_now_is_ignored() -> None:
    """A response may be written in the very second in which its window opens.

    A float may be rounded up as well as down.
    """
    over = RateLimit(50, 49, datetime.fromtimestamp(1_700_000_000, UTC))
    for tenths in range(0, 10_000, 7):
        window, now = RateWindow(), 0.1 * tenths
        window.acquire(now)
        assert not window.observe(now, 1, over, 1_700_000_001.0)
        assert window.length == 900.0


@pytest.mark.parametrize(("remaining", "server_now"), [(5, 901.0), (0, -90_000.0)], ids=["at its end", "days before"])
def test_a_date_that_makes_no_sense_closes_nothing(remaining: int, server_now: float) -> None:
    """The first date may be a proxy's own. If the response is not believed, the previous estimate still holds."""
    window = RateWindow()

    def seen(left: int) -> RateLimit:
        return RateLimit(50, left, datetime.fromtimestamp(900, UTC))

    ticket = window.acquire(0.0)
    window.observe(0.0, ticket, seen(1), 0.0, estimated=True)
    window.release(0.0, ticket, confirmed=True)
    ticket = window.acquire(10.0)
    window.observe(10.0, ticket, seen(remaining), server_now)
    window.release(10.0, ticket, confirmed=False)
    assert window.seconds_until_free(10.0) == pytest.approx(891.0, abs=1.0)
    assert window.acquire(902.0)


def test_how_far_apart_windows_are() -> None:
    """From the sending of a window's first call to the next window's.

    It includes the latency of that first response.
    """
    window = RateWindow()
    window.acquire(100.0)
    window.observe(100.4, 1, RateLimit(50, 49, datetime.fromtimestamp(900, UTC)), 0.0)
    assert window.length == pytest.approx(901.4)


def test_a_window_that_another_program_opened_has_no_known_length() -> None:
    """Its first call is not known, so the document's 900 s count."""
    window = RateWindow()
    window.acquire(100.0)
    window.observe(100.4, 1, seen(30), 0.0)
    assert window.length == 900.0


@pytest.mark.parametrize("now", [901.0, 901.5])
def test_a_response_of_a_window_that_is_over_by_other_responses(now: float) -> None:
    """It was long under way. By its own Date the window would still last, by an earlier answer's it is over."""
    window, seen = RateWindow(), RateLimit(50, 9, datetime.fromtimestamp(900, UTC))
    window.acquire(0.0)
    window.acquire(0.0)
    window.observe(0.0, 1, seen, 0.0)
    assert not window.observe(now, 2, seen, 900.5)


# -- Late 429s, and a state that is kept elsewhere ---------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False], ids=["of a known window", "before its first response"])
def test_a_late_429_of_the_last_window_does_not_close_this_one(known: bool) -> None:
    """It was sent in a window that is over."""
    window = probed(5)
    late = window.acquire(890.0)
    if known:
        probe = window.acquire(902.0)
        window.observe(902.0, probe, seen(9, reset=1802), 902.0)
        window.release(902.0, probe, confirmed=True)
    window.close(903.0, late, 16.0)
    assert window.seconds_until_free(903.0) == 0.0


def test_a_429_of_the_call_that_shows_the_new_window_closes_it() -> None:
    """The call went near the reset. Its headers are the new window's, and Retry-After is beyond the new reset."""
    window = probed(5)
    ticket = window.acquire(900.5)
    window.observe(900.6, ticket, seen(0, reset=1800), 900.6)
    window.close(900.6, ticket, 2000.0)
    assert window.seconds_until_free(900.6) == 2000.0


def states() -> dict[str, RateWindow]:
    """Windows in all their states."""
    exhausted, document = probed(0), RateWindow()
    exhausted.close(1.0, 1, 1000.5)
    silent(document, 0.1, 30.2)
    silent(document, 40.3, 60.7)
    held = probed(5)
    held.acquire(1.1)
    held.acquire(2.2)
    return {
        "unknown": RateWindow(),
        "first call": probed(49),
        "probed": probed(3),
        "closed": exhausted,
        "document": document,
        "in flight": held,
    }


@pytest.mark.parametrize("name", states())
def test_a_state_survives_json(name: str) -> None:
    """The state is exact, with infinities as null. The loaded window goes on like the saved one."""
    window = states()[name]
    text = json.dumps(window.to_state(), allow_nan=False)
    assert json.loads(text) == window.to_state()
    loaded = RateWindow.from_state(json.loads(text))
    assert json.dumps(loaded.to_state()) == text
    for each in (window, loaded):
        for now in (50.0, 61.0, 890.0, 2000.0):
            each.acquire(now)
        for ticket in list(each.sent_at):
            each.release(2001.0, ticket, confirmed=False)
    assert loaded.to_state() == window.to_state()


def test_a_loaded_window_has_its_callers_arguments() -> None:
    """They are not part of the state. Another program may reserve more calls for others."""
    loaded = RateWindow.from_state(probed(5).to_state(), 40, 60.0, 3)
    assert (loaded.default_limit, loaded.period, loaded.reserve, loaded.limit) == (40, 60.0, 3, 50)
    assert [bool(loaded.acquire(1.0)) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("name", states())
def test_a_clock_that_is_set_changes_no_wait(name: str) -> None:
    """Whatever is behind ``now`` was set back an hour. What was so many seconds ahead still is."""
    window, stepped = states()[name], states()[name]
    stepped.on_clock_step(-3600.0)
    for now in (61.0, 899.5, 902.0, 1100.0):
        assert stepped.seconds_until_free(now - 3600.0) == pytest.approx(window.seconds_until_free(now))
        assert stepped.server_time(now - 3600.0, 7.0) == pytest.approx(window.server_time(now, 7.0))
        assert stepped.free_places(now - 3600.0) == window.free_places(now)
        ticket = stepped.acquire(now - 3600.0)
        assert ticket == window.acquire(now)
        if ticket:
            assert stepped.sent_at[ticket] + 3600.0 == pytest.approx(window.sent_at[ticket])


@pytest.mark.parametrize("name", states())
def test_a_clock_that_is_set_moves_each_instant(name: str) -> None:
    """Every instant moves with the clock, the server's offset moves against it, and nothing else changes."""
    before, window = states()[name].to_state(), states()[name]
    window.on_clock_step(-3600.0)
    after = window.to_state()
    for field, value in before.items():
        if field == "sent_at":
            assert after[field] == {ticket: sent_at - 3600.0 for ticket, sent_at in value.items()}
        elif value is not None and field.endswith(("_at", "_until")):
            assert after[field] == value - 3600.0, field
        elif value is not None and field == "server_offset":
            assert after[field] == value + 3600.0
        else:
            assert after[field] == value, field


def test_free_places_are_those_that_may_go() -> None:
    """Less what is in flight and what is reserved. In an unknown window, or near its reset, one probe may."""
    window = RateWindow(reserve=2)
    assert window.free_places(0.0) == math.inf
    window.observe(0.0, 1, seen(5), 0.0)
    window.acquire(1.0)
    assert window.free_places(1.0) == 2
    assert window.free_places(900.0) == math.inf
    window.release(2.0, 1, confirmed=False)
    assert window.free_places(2.0) == 2
    assert window.calls_per_window == 48
