"""The billing cycle, and each client app's part of it."""

import calendar
import datetime as dt
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twusage import ClientAppUsage, DailySeries, InvalidRequestError, Usage
from twusage.monitor import AppShare, Attribution, BillingCycle, attribution, cycle_of

DAY = dt.timedelta(days=1)
NOON = dt.datetime(2026, 1, 15, 12, tzinfo=dt.UTC)
RESET_DAYS = st.integers(1, 31)
DAYS = st.dates(dt.date(1970, 1, 1), dt.date(2199, 12, 31))


def date(text: str) -> dt.date:
    return dt.date.fromisoformat(text)


@pytest.mark.parametrize(
    ("reset_day", "day", "start", "end"),
    [
        (1, "2026-01-01", "2026-01-01", "2026-02-01"),
        (10, "2026-01-09", "2025-12-10", "2026-01-10"),
        (10, "2026-01-10", "2026-01-10", "2026-02-10"),
        (28, "2026-02-28", "2026-02-28", "2026-03-28"),
        (29, "2026-02-28", "2026-02-28", "2026-03-29"),
        (29, "2028-02-28", "2028-01-29", "2028-02-29"),
        (30, "2026-02-27", "2026-01-30", "2026-02-28"),
        (30, "2028-02-29", "2028-02-29", "2028-03-30"),
        (31, "2026-02-27", "2026-01-31", "2026-02-28"),
        (31, "2026-02-28", "2026-02-28", "2026-03-31"),
        (31, "2026-03-31", "2026-03-31", "2026-04-30"),
        (31, "2026-04-30", "2026-04-30", "2026-05-31"),
        (31, "2026-12-31", "2026-12-31", "2027-01-31"),
    ],
)
def test_of(reset_day: int, day: str, start: str, end: str) -> None:
    """A month without the reset day resets on its last day. The next cycle starts on the wanted day again."""
    assert BillingCycle.of(reset_day, date(day)) == BillingCycle(date(start), date(end), reset_day)


@pytest.mark.parametrize("reset_day", [1, 10, 28, 29, 30, 31])
def test_four_years(reset_day: int) -> None:
    """Each day is in exactly one cycle. It starts on the reset day, or on the last day of a shorter month."""
    day, seen = dt.date(2024, 1, 1), BillingCycle.of(reset_day, dt.date(2023, 12, 31))
    while day < dt.date(2028, 3, 1):
        cycle = BillingCycle.of(reset_day, day)
        if day.day == min(reset_day, calendar.monthrange(day.year, day.month)[1]):
            assert cycle.start == day == seen.end
            assert (seen.next(), cycle.previous()) == (cycle, seen)
            assert 28 <= cycle.days <= 31
            seen = cycle
        assert cycle == seen
        assert day in cycle
        assert day not in seen.previous()
        day += DAY


@given(RESET_DAYS, DAYS)
def test_cycles_follow_each_other_without_a_gap(reset_day: int, day: dt.date) -> None:
    """Each one ends on the day on which the next one starts."""
    cycle = BillingCycle.of(reset_day, day)
    assert day in cycle
    assert cycle.end == cycle.next().start
    assert cycle.start == cycle.previous().end
    assert cycle.next().previous() == cycle == cycle.previous().next()
    assert cycle.end not in cycle


@pytest.mark.parametrize("reset_day", [0, 32, -1, 1.0, "1", None, True])
def test_a_wrong_reset_day(reset_day: Any) -> None:
    """Only an int from 1 to 31 will do, and the message quotes what was passed."""
    with pytest.raises(InvalidRequestError, match=f"int from 1 to 31, got {reset_day!r}"):
        BillingCycle.of(reset_day, date("2026-01-01"))


def test_instants_are_days_in_utc() -> None:
    """An aware datetime counts as its day in UTC, whatever its zone."""
    new_york = dt.timezone(dt.timedelta(hours=-5))
    evening = dt.datetime(2026, 1, 9, 20, tzinfo=new_york)  # the 10th, 01:00 UTC
    cycle = BillingCycle.of(10, evening)
    assert cycle.start == date("2026-01-10")
    assert evening in cycle
    assert evening - dt.timedelta(hours=2) not in cycle


def test_naive_instants_are_refused() -> None:
    """Their day is unknown."""
    naive, cycle = NOON.replace(tzinfo=None), BillingCycle.of(10, NOON)
    for call in (
        lambda: BillingCycle.of(10, naive),
        lambda: cycle.days_left(naive),
        lambda: naive in cycle,
        lambda: cycle_of(Usage(cap_reset_day=10), naive),
        lambda: attribution(Usage(cap_reset_day=10), now=naive),
    ):
        with pytest.raises(InvalidRequestError, match="naive 2026-01-15T12:00:00"):
            call()


def test_days_left() -> None:
    """Days with fractions until the reset at 00:00 UTC, and never less than 0."""
    cycle = BillingCycle.of(10, NOON)
    assert cycle.resets_at == dt.datetime(2026, 2, 10, tzinfo=dt.UTC)
    assert cycle.days_left(dt.datetime(2026, 1, 10, tzinfo=dt.UTC)) == cycle.days == 31
    assert cycle.days_left(NOON) == 25.5
    assert cycle.days_left(NOON.astimezone(dt.timezone(dt.timedelta(hours=9)))) == 25.5
    assert cycle.days_left(cycle.resets_at) == 0.0
    assert cycle.days_left(cycle.resets_at + DAY) == 0.0


def test_cycle_of_usage() -> None:
    """The cycle at ``now``, or else at the time of the response. None without a reset day."""
    usage = Usage(cap_reset_day=10, fetched_at=NOON)
    assert cycle_of(usage) == BillingCycle.of(10, NOON)
    assert cycle_of(usage, NOON + 31 * DAY) == BillingCycle.of(10, NOON).next()
    assert cycle_of(Usage(fetched_at=NOON)) is None
    assert cycle_of(Usage()) is None


def test_a_response_of_unknown_time() -> None:
    """A response that was decoded without a clock needs ``now``."""
    for judge in (cycle_of, attribution):
        with pytest.raises(InvalidRequestError, match="pass now="):
            judge(Usage(cap_reset_day=10))


def app(app_id: str | None, days: dict[str, int | None]) -> ClientAppUsage:
    return ClientAppUsage(app_id, DailySeries(tuple(map(date, days)), tuple(days.values())))


def test_attribution() -> None:
    """Each app's days in the cycle, as a part of the project's count; the rest is unattributed."""
    usage = Usage(
        project_usage=500,
        cap_reset_day=10,
        daily_client_app_usage=(
            app("a", {"2026-01-09": 1000, "2026-01-10": 200, "2026-01-12": None, "2026-01-15": 50}),
            app("b", {"2026-01-11": 125, "2026-02-10": 1000}),
            app("idle", {}),
            app(None, {"2026-01-11": 60}),
        ),
        fetched_at=NOON,
    )
    shares = (AppShare("a", 250, 0.5), AppShare("b", 125, 0.25), AppShare("idle", 0, 0.0))
    assert attribution(usage) == Attribution(BillingCycle.of(10, NOON), 500, shares, 125)
    later = attribution(usage, now=NOON + 31 * DAY)
    assert later is not None
    assert [share.used for share in later.apps] == [0, 1000, 0]


def test_apps_that_add_up_to_more_than_the_project() -> None:
    """The counts are not scaled to each other: the rest is negative."""
    usage = Usage(project_usage=80, cap_reset_day=10, daily_client_app_usage=(app("a", {"2026-01-11": 100}),))
    found = attribution(usage, now=NOON)
    assert found is not None
    assert (found.apps, found.unattributed) == ((AppShare("a", 100, 1.25),), -20)


@pytest.mark.parametrize(("used", "unattributed"), [(None, None), (0, -100)])
def test_no_fraction_of_nothing(used: int | None, unattributed: int | None) -> None:
    """There is no fraction of an unknown count, and none of 0."""
    usage = Usage(project_usage=used, cap_reset_day=10, daily_client_app_usage=(app("a", {"2026-01-11": 100}),))
    found = attribution(usage, now=NOON)
    assert found == Attribution(BillingCycle.of(10, NOON), used, (AppShare("a", 100, None),), unattributed)


def test_no_attribution_without_a_cycle() -> None:
    """Without a reset day no cycle is known, and a calendar month would be a guess."""
    assert attribution(Usage(project_usage=80, daily_client_app_usage=(app("a", {"2026-01-11": 100}),))) is None


@given(
    RESET_DAYS,
    st.lists(st.dictionaries(st.dates(dt.date(2025, 12, 1), dt.date(2026, 2, 28)), st.integers(0, 10**12)), max_size=3),
    st.integers(0, 10**13),
)
def test_nothing_is_lost(reset_day: int, apps: list[dict[dt.date, int]], used: int) -> None:
    """The apps and the rest are the project's count, to the post."""
    cycle = BillingCycle.of(reset_day, NOON)
    series = [DailySeries(tuple(sorted(days)), tuple(days[day] for day in sorted(days))) for days in apps]
    named = tuple(ClientAppUsage(str(number), days) for number, days in enumerate(series))
    found = attribution(Usage(None, None, used, reset_day, None, named), now=NOON)
    assert found is not None
    assert found.unattributed == used - sum(share.used for share in found.apps)
    in_cycle = [count for day, count in itertools.chain.from_iterable(map(dict.items, apps)) if day in cycle]
    assert sum(share.used for share in found.apps) == sum(in_cycle)
