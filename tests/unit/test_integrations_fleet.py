"""FleetWindow: leases, turns and exchanges around the window's rules, on a store that is a dict."""

from __future__ import annotations

import datetime as dt
import json
import math
from typing import Any

import pytest

from twusage.errors import ConnectError
from twusage.integrations.fleet import CallReport, Exchange, FleetWindow, Place, Reply
from twusage.models import RateLimit

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
LEASE = 35.0


def seen(remaining: int, reset: float = 900, limit: int = 50) -> RateLimit:
    return RateLimit(limit, remaining, EPOCH + dt.timedelta(seconds=reset))


class Store:
    """What Redis does: a state, its version, and a clock. Every state goes through JSON."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = {"lease": LEASE} | arguments
        self.state: str | None = None
        self.now = 0.0
        self.writes = 0
        self.numbers: dict[str, int] = {}
        self.received: dict[str, Place] = {}

    def fleet(self) -> FleetWindow:
        if self.state is None:
            return FleetWindow(**self.arguments)
        return FleetWindow.from_state(json.loads(self.state), **self.arguments)

    def send(self, request: Exchange) -> Reply:
        fleet = self.fleet()
        reply = fleet.exchange(self.now, request)
        if reply.must_save:
            self.state = json.dumps(fleet.to_state(), allow_nan=False)
            self.writes += 1
        return reply

    def exchange(self, process: str, wanted: int = 0, *reports: CallReport, **more: Any) -> Reply:
        self.numbers[process] = self.numbers.get(process, 0) + 1
        return self.send(Exchange(process, self.numbers[process], self.now, wanted, reports=reports, **more))

    def take(self, process: str, wanted: int = 1) -> list[Place]:
        places = self.exchange(process, wanted, received=self.received.get(process)).places
        for place in places:
            self.received[process] = place
        return list(places)

    def report(self, place: Place | None, rate_limit: RateLimit | None = None, **more: Any) -> CallReport:
        arguments = {"wall_time": self.now, "confirmed": False, "server_now": self.now} | more
        return CallReport(place, self.now, rate_limit=rate_limit, **arguments)

    def probed(self, remaining: int) -> None:
        (place,) = self.take("probe")
        self.exchange("probe", 0, self.report(place, seen(remaining)))


@pytest.fixture
def store() -> Store:
    return Store()


def test_one_probe_goes_and_the_others_poll(store: Store) -> None:
    """Any process, 20 times a second at most. The others go by its response."""
    (place,) = store.take("a")
    reply = store.exchange("b", 3)
    assert (reply.places, reply.wait, reply.pause, reply.rate_limit) == ((), None, 0.05, None)
    store.exchange("a", 0, store.report(place, seen(2)))
    reply = store.exchange("b", 3)
    assert len(reply.places) == 2
    assert reply.rate_limit == seen(2)
    assert reply.server_now == 0.0
    assert reply.opens_in == pytest.approx(901.225)
    assert reply.window_length == pytest.approx(900.0 + 901.0 * 0.00025)
    assert (reply.calls_per_window, reply.processes) == (50, 3 - 1)


def test_a_reply_is_relative_to_the_stores_clock(store: Store) -> None:
    """The opening in seconds from now, and the server's time now."""
    store.now = 100.0
    (place,) = store.take("a")
    store.exchange("a", 0, store.report(place, seen(9, reset=1000), server_now=400.0))
    store.now = 110.0
    reply = store.exchange("b", 0)
    assert reply.opens_in == pytest.approx(601.0 * 1.00025 - 10.0)
    assert reply.server_now == 410.0


def test_a_reply_counts_lost_calls(store: Store) -> None:
    """The remaining calls are those that the headers left, less the lost ones."""
    store.probed(2)
    for remaining in (1, 0):
        (place,) = store.take("a")
        reply = store.exchange("a", 0, store.report(place))
        assert reply.rate_limit == seen(remaining)


def test_an_open_window_is_not_waited_for(store: Store) -> None:
    """A process without waiters gets no wait; one with a short wait gets exactly that."""
    store.probed(0)
    opens_at = store.fleet().window.opens_at
    store.now = opens_at - 0.5
    assert store.exchange("a", 1).wait == pytest.approx(0.5)
    store.now = opens_at
    reply = store.exchange("b", 0)
    assert (reply.wait, reply.pause) == (None, 0.05)


def test_many_processes_poll_a_thousand_times_a_second(store: Store) -> None:
    """All together, while a probe is out."""
    store.take("probe")
    pauses = [store.exchange(f"{number}", 1).pause for number in range(100)]
    assert (pauses[0], pauses[-1]) == (0.05, 0.1)


def test_a_poll_that_changes_nothing_writes_nothing(store: Store) -> None:
    """But for its turn, after 2 s: the process is alive."""
    store.take("a")
    store.exchange("b", 1)
    writes = store.writes
    for _ in range(39):
        store.now += 0.05
        store.exchange("b", 1)
    store.now = 2.0
    store.exchange("b", 1)
    assert store.writes == writes
    store.now = 2.01
    store.exchange("b", 1)
    assert store.writes == writes + 1


def test_a_wait_of_known_length_is_written_again_at_its_half(store: Store) -> None:
    """So a look in 5 s costs no write. Shortly before the opening the turns show which processes are alive."""
    store.probed(0)
    store.exchange("a", 1)
    writes = store.writes
    while (wait := store.exchange("a", 1).wait) is not None:
        store.now += min(wait, 5.0)
    assert store.writes - writes == 10
    assert store.fleet().turns == {}


def test_the_wait_for_a_used_up_window_has_stages(store: Store) -> None:
    """A look in 5 s. At the opening, each process a little after those before it, and 0.2 s at most."""
    store.probed(0)
    assert store.exchange("a", 30).pause == 5.0
    store.now = 900.0
    pauses = [store.exchange(name, 30).pause for name in "abcdef"]
    opens_in = store.fleet().window.opens_at - 900.0
    assert [pause - opens_in for pause in pauses] == pytest.approx([0.0, 0.06, 0.12, 0.18, 0.2, 0.2])


def test_turns_are_first_come_first_served(store: Store) -> None:
    """A process that comes later gets what the turns before it leave. Its own later calls draw another turn."""
    store.probed(0)
    store.exchange("a", 2)
    store.exchange("b", 1)
    store.exchange("a", 5)  # three more, which came after b
    store.now = 905.0
    fleet = store.fleet()
    for turn in fleet.turns.values():
        turn.due_at = 910.0
    store.state = json.dumps(fleet.to_state())
    (place,) = store.take("c")  # any process may probe
    assert store.exchange("d", 2).ahead == 3
    store.exchange("c", 0, store.report(place, seen(4, reset=1800)), received=place)
    assert [len(store.take(name, wanted)) for name, wanted in (("d", 2), ("b", 1), ("a", 5))] == [1, 1, 2]
    assert list(store.fleet().turns) == ["d", "a"]
    assert store.exchange("e", 1).ahead == 4


def test_a_turn_that_gets_shorter_keeps_its_position(store: Store) -> None:
    """One of its calls was cancelled."""
    (place,) = store.take("a")
    store.exchange("b", 3)
    store.exchange("c", 1)
    store.exchange("b", 2)
    store.exchange("a", 0, store.report(place, seen(2)), received=place)
    assert [len(store.take(name, wanted)) for name, wanted in (("c", 1), ("b", 2))] == [0, 2]


def test_calls_that_came_after_the_turn_get_what_is_left(store: Store) -> None:
    """In the same exchange, if no other turn is before them."""
    (place,) = store.take("a")
    store.exchange("a", 2, received=place)
    reply = store.exchange("a", 5, store.report(place, seen(9)), received=place)
    assert len(reply.places) == 5
    assert store.fleet().turns == {}


def test_one_exchange_serves_all_turns(store: Store) -> None:
    """The others find their places by reading, until they acknowledge them."""
    (place,) = store.take("a")
    for name in "bcd":
        store.exchange(name, 2)
    store.exchange("a", 0, store.report(place, seen(5)), received=place)
    writes = store.writes
    assert [len(store.exchange(name, 2).places) for name in "bcdb"] == [2, 2, 1, 2]
    assert store.writes == writes
    assert len(store.take("b", 2)) == 2
    assert store.take("b", 0) == []
    assert store.fleet().window.in_flight == 5


def test_a_place_whose_lease_has_ended_is_not_given(store: Store) -> None:
    """Its process was asleep, and comes too late for it."""
    (place,) = store.take("a")
    store.exchange("b", 1)
    store.exchange("a", 0, store.report(place, seen(1)), received=place)
    store.now = LEASE
    assert store.take("b", 1) == []


def test_a_late_turn_is_passed_over_and_then_dropped(store: Store) -> None:
    """Its process was killed, perhaps. 250 ms after it should have come, and 10 s after that."""
    store.probed(3)
    assert len(store.take("a", 9)) == 3
    for now, ahead, turns in ((4.25, 6, "a"), (4.26, 0, "a"), (14.0, 0, "a"), (14.01, 0, "")):
        store.now = now
        store.exchange("b", 0, must_save=True)
        fleet = store.fleet()
        assert fleet._places_ahead(now, "b") == ahead
        assert "".join(fleet.turns) == turns


def test_no_place_is_granted_to_a_late_turn(store: Store) -> None:
    """The next ones get it."""
    (place,) = store.take("a")
    store.exchange("dead", 3)
    store.now = 4.5
    store.exchange("b", 2)
    store.exchange("a", 0, store.report(place, seen(2)), received=place)
    assert len(store.take("b", 2)) == 2


@pytest.mark.parametrize("now", [3.9, 4.25])
def test_a_turn_is_not_late_until_250_ms(store: Store, now: float) -> None:
    """A process that is 250 ms late, and no more, still gets its places."""
    (place,) = store.take("a")
    store.exchange("b", 2)
    store.now = now
    store.exchange("a", 0, store.report(place, seen(2)), received=place)
    assert list(store.fleet().turns) == []
    assert len(store.take("b", 2)) == 2


def test_a_turn_is_given_up(store: Store) -> None:
    """When no call of its process waits any more."""
    store.probed(0)
    store.exchange("a", 2)
    writes = store.writes
    store.exchange("a", 0)
    assert not store.fleet().turns
    assert store.writes == writes + 1


def test_a_lease_that_ends_is_a_call_of_unknown_outcome(store: Store) -> None:
    """It counts; another probe replaces it; and its late outcome is not a second end."""
    (dead,) = store.take("a")
    store.now = LEASE - 0.1
    assert not store.take("b")
    store.now = LEASE
    (place,) = store.take("b")
    assert store.fleet().window.unconfirmed_calls == 1
    store.exchange("a", 0, store.report(dead, confirmed=True))
    assert store.fleet().leases == {place[1]: 2 * LEASE}


def test_two_leases_that_end_are_two_lost_probes(store: Store) -> None:
    """After them the document counts: from the last one's end until 900 s later no call starts."""
    store.take("a")
    store.now = LEASE
    store.take("b")
    store.now = 2 * LEASE
    assert len(store.take("c", 50)) == 48
    assert store.exchange("d", 0).rate_limit is None
    assert store.fleet().window.opens_at == 2 * LEASE + 900.0


def test_two_calls_that_end_without_headers_are_two_lost_probes(store: Store) -> None:
    """By when they ended, not by when the report arrives."""
    (place,) = store.take("a")
    store.exchange("a", 0, store.report(place))
    (place,) = store.take("b")
    store.now = 10.0
    report = store.report(place)
    store.now = 30.0
    store.exchange("b", 0, report)
    assert store.fleet().window.opens_at == 910.0


def test_a_refunded_call_stays_refunded_if_its_headers_are_not_usable(store: Store) -> None:
    """Their reset is in the past. The call was confirmed otherwise."""
    store.probed(9)
    store.now = 2.0
    (place,) = store.take("a")
    store.exchange("a", 0, store.report(place, seen(8, reset=-10), confirmed=True))
    assert store.fleet().window.unconfirmed_calls == 0


def test_the_first_place_of_a_state_may_be_lost_in_its_reply(store: Store) -> None:
    """The repeated exchange returns it again."""
    request = Exchange("a", 1, 0.0, 1)
    first = store.send(request)
    assert len(first.places) == 1
    assert store.send(request).places == first.places


def test_a_repeated_report_does_not_close_a_later_window(store: Store) -> None:
    """Its 429 was recorded before the reply was lost; another process has found the window open since."""
    store.probed(5)
    request = Exchange("a", 1, 0.0, 0, None, (store.report(None, confirmed=True, closed=True, retry_after=10.0),))
    store.send(request)
    store.now = 11.0
    (place,) = store.take("b")
    store.exchange("b", 0, store.report(place, seen(40)), received=place)
    store.send(request)
    assert len(store.take("c", 3)) == 3


def test_an_exchange_whose_reply_was_lost_is_recognised(store: Store) -> None:
    """The same places again, and no report counts twice, whatever others did meanwhile."""
    store.probed(9)
    (place,) = store.take("a")
    request = Exchange("a", 2, 0.0, 2, place, (store.report(place, confirmed=True, closed=True, retry_after=0.0),))
    store.send(request)
    store.take("b")
    store.now = 1.0
    first, backoff = store.send(request), store.fleet().window.backoff
    assert backoff == 1.5
    assert len(first.places) == 1  # the probe
    store.exchange("c", 1)
    store.now = 2.0
    again = store.send(request)
    assert again.places == first.places
    assert store.fleet().window.backoff == backoff
    assert store.fleet().window.in_flight == 1


def test_a_report_is_dated_back(store: Store) -> None:
    """By how long ago its call ended, on its process's own clock."""
    (place,) = store.take("a")
    store.now = 100.0
    report = CallReport(place, 5000.0, 7.0, confirmed=False, rate_limit=seen(3), server_now=50.0)
    store.send(Exchange("a", 2, 5040.0, 0, place, (report,)))
    assert store.fleet().window.server_offset == -10.0  # 50 was at 60


@pytest.mark.parametrize("offset", [None, 300.0])
def test_a_response_without_a_date_uses_the_known_offset(store: Store, offset: float | None) -> None:
    """Else its process's wall clock."""
    if offset is not None:
        (place,) = store.take("a")
        store.exchange("a", 0, store.report(place, seen(9), server_now=offset))
    (place,) = store.take("a")
    store.exchange("a", 0, store.report(place, seen(8), server_now=None, wall_time=77.0))
    window = store.fleet().window
    assert window.server_offset == (77.0 if offset is None else offset)
    assert window.offset_is_estimated is (offset is None)


def test_a_late_429_of_the_last_window_does_not_close_this_one(store: Store) -> None:
    """For all processes: it was sent before this window opened."""
    store.probed(5)
    (late,) = store.take("a")
    store.now = 903.0
    (probe,) = store.take("b")
    store.exchange("b", 0, store.report(probe, seen(40, reset=1800)))
    store.exchange("a", 0, store.report(late, confirmed=True, closed=True, retry_after=16.0))
    assert len(store.take("c", 5)) == 5


@pytest.mark.parametrize(("retry_after", "wait"), [(None, 901.225), (30.0, 30.0), (1e9, 86400.0)])
def test_a_429_closes_the_window_for_all(store: Store, retry_after: float | None, wait: float) -> None:
    """For the server's duration, a day at most; else until the reset. Also from a call that started without a place."""
    store.probed(5)
    store.exchange("a", 0, store.report(None, confirmed=True, closed=True, retry_after=retry_after))
    assert store.exchange("b", 1).wait == pytest.approx(wait)


def test_what_a_process_learnt_alone_counts(store: Store) -> None:
    """Its response's headers; it holds no place here."""
    store.exchange("a", 0, store.report(None, seen(7)))
    assert len(store.take("b", 9)) == 7


def test_a_place_of_a_flushed_state_is_none_of_this_one(store: Store) -> None:
    """Tickets begin again. A report of the old one releases nothing, but its headers count."""
    (old,) = store.take("a")
    store.state, store.now = None, 10.0
    (new,) = store.take("b")
    assert old[1] == new[1]
    store.exchange("a", 0, store.report(old, seen(4), confirmed=True))
    fleet = store.fleet()
    assert fleet.leases == {new[1]: 10.0 + LEASE}
    assert fleet.window.remaining == 4


def test_a_probes_failure_is_counted(store: Store) -> None:
    """Its waiters get its failure and the reason. Another call's failure does not concern them."""
    (probe,) = store.take("a")
    before = store.exchange("b", 1)
    store.exchange("a", 0, store.report(probe, confirmed=True, failure=ConnectError("no way")))
    after = store.exchange("b", 1)
    assert (before.failed_probes, after.failed_probes, after.failure) == (0, 1, "no way")
    assert len(after.places) == 1
    store.exchange("b", 0, store.report(after.places[0], seen(9)))
    (place,) = store.take("a")
    reply = store.exchange("a", 0, store.report(place, confirmed=True, failure=ConnectError("again")))
    assert reply.failed_probes == 1


def test_a_store_whose_clock_steps_back_keeps_all_waits(store: Store) -> None:
    """Another Redis has taken over. Windows, leases, turns and processes are as far ahead as before."""
    store.probed(1)
    store.take("a")
    store.exchange("b", 1)
    before = store.fleet()
    store.now = -3600.0
    store.exchange("c", 1)
    after = store.fleet()
    assert after.window.opens_at == pytest.approx(before.window.opens_at - 3600.0)
    assert list(after.leases.values()) == [LEASE - 3600.0]
    assert after.turns["b"].due_at == pytest.approx(before.turns["b"].due_at - 3600.0)
    assert after.processes["a"].seen_at == -3600.0


def test_a_process_is_seen_by_the_stores_new_clock(store: Store) -> None:
    """It was seen 90 s ago, and still is."""
    store.now = 10.0
    store.exchange("a", 0, must_save=True)
    store.now = 100.0
    store.exchange("b", 0, must_save=True)
    store.now = 50.0
    store.exchange("b", 0, must_save=True)
    assert store.fleet().processes["a"].seen_at == 50.0 - 90.0


def test_a_process_that_leaves_or_is_gone_gives_up_its_turn(store: Store) -> None:
    """Also if its turn is not late yet: a window that is closed for a day lets it come again after hours."""
    store.exchange("a", 0, store.report(None, confirmed=True, closed=True, retry_after=86400.0))
    store.exchange("a", 1)
    store.exchange("b", 1)
    store.exchange("b", 1, leaving=True, must_save=True)
    assert list(store.fleet().turns) == ["a"]
    store.now = 900.0 + LEASE
    store.exchange("c", 1)
    assert list(store.fleet().turns) == ["c"]


def test_processes_are_counted_while_they_are_seen(store: Store) -> None:
    """For a window and a lease; and until they leave."""
    store.probed(9)
    store.exchange("a", 1)
    assert store.exchange("b", 1).processes == 3
    store.exchange("a", 0, leaving=True, must_save=True)
    assert store.exchange("b", 1).processes == 2
    store.now = 900.0 + LEASE
    assert store.exchange("c", 1).processes == 1


def test_a_state_has_a_lifetime(store: Store) -> None:
    """Until it is obsolete. A window after the next opening, and the last lease."""
    fleet = FleetWindow(LEASE, period=60.0)
    assert fleet.lifetime(0.0) == 120.0 + LEASE
    fleet.window.close(0.0, 1, 500.0)
    assert fleet.lifetime(0.0) == 560.0 + LEASE
    assert fleet.lifetime(100.0) == 460.0 + LEASE
    assert FleetWindow(LEASE, period=0.5).lifetime(0.0) == 1.0 + LEASE


def test_a_state_of_another_version_is_refused() -> None:
    """Rather than misread."""
    state = FleetWindow(LEASE).to_state() | {"format": 0}
    with pytest.raises(ValueError, match=r"^the state was written by another version of twusage$"):
        FleetWindow.from_state(state, LEASE)


def test_arguments_are_the_processs_own(store: Store) -> None:
    """They are not part of the state."""
    store.probed(9)
    store.arguments = {"lease": 7.0, "limit": 40, "period": 60.0, "reserve": 5}
    fleet = store.fleet()
    assert (fleet.lease, fleet.limit, fleet.period, fleet.reserve) == (7.0, 40, 60.0, 5)
    assert (fleet.window.default_limit, fleet.window.period, fleet.window.reserve) == (40, 60.0, 5)
    assert len(store.take("a", 9)) == 4
    assert FleetWindow(**store.arguments).window.calls_per_window == 35


def test_a_malformed_window_is_ignored(store: Store) -> None:
    """No limit, no server's time, no opening."""
    reply = store.exchange("a", 1)
    assert (reply.rate_limit, reply.server_now, reply.opens_in, reply.window_length) == (None, None, None, 900.0)
    assert math.isfinite(reply.pause)
