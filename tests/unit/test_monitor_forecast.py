"""The forecast of a cycle's end, by numbers worked out by hand."""

import datetime as dt
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twusage import DailySeries, InvalidRequestError, ProjectUsage, Usage
from twusage.monitor import BillingCycle, Forecast, forecast

DAY = dt.timedelta(days=1)
NOON = dt.datetime(2026, 1, 15, 12, tzinfo=dt.UTC)  # a Thursday, 25.5 days before the reset on 10 February
TODAY = NOON.date()
COUNTS = st.integers(0, 10**12)
ABOUT_100: Any = pytest.approx(100)


def project(
    days: Mapping[int, int | None], *, cap: int | None = 10_000, used: int | None = 550, reset_day: int | None = 10
) -> Usage:
    """A response at noon with these days: days ago, reads."""
    ago = sorted(days, reverse=True)
    series = DailySeries(tuple(TODAY - age * DAY for age in ago), tuple(days[age] for age in ago))
    return Usage("1", cap, used, reset_day, ProjectUsage("1", series), fetched_at=NOON)


def daily(reads: Callable[[dt.date], int], days: int = 90) -> dict[int, int | None]:
    """Reads of each of the last full days."""
    return {age: reads(TODAY - age * DAY) for age in range(1, days + 1)}


def totals(found: Forecast) -> tuple[int, int, int]:
    """Those of a forecast that has them."""
    assert found.low is not None
    assert found.expected is not None
    assert found.high is not None
    return found.low, found.expected, found.high


def test_a_steady_project() -> None:
    """25.5 days of 100 posts are 2,550 more. The range comes from the assumed 30 % alone.

    v = 0.09 / 90, n_ahead = 25.5² / 25.25, twelve of the weeks are whole and one has 3 days.
    """
    found = forecast(project(daily(lambda _: 100)))
    weights = [0.5 ** (age / 14) for age in range(1, 91)]
    daily_variance = 0.09 / 90
    weeks: dict[tuple[int, int], int] = {}
    for age in range(1, 91):
        week = (TODAY - age * DAY).isocalendar()[:2]
        weeks[week] = weeks.get(week, 0) + 1
    whole = [size for size in weeks.values() if size > 3]
    assert len(whole) == 12
    weekly_variance = (0.09 - sum(daily_variance / size for size in whole)) / 13
    n_ahead, n_w = 25.5**2 / 25.25, sum(weights) ** 2 / sum(weight**2 for weight in weights)
    sigma = math.sqrt(math.log(1 + daily_variance / n_ahead + daily_variance / n_w + weekly_variance))
    low, high = (550 + round(2550 * math.exp(-(sigma**2) / 2 + z * sigma)) for z in (-1.645, 1.645))
    cycle = BillingCycle.of(10, NOON)
    assert found == Forecast(cycle, 10_000, 550, 90, ABOUT_100, 3100, low, high, None, 370)
    assert found.fits is True


def test_three_days_by_hand() -> None:
    """Mon 100, Tue 200, Wed 300, and a reset on Sunday. The weights are 2^(-age/14), and no week is whole."""
    w3, w2, w1 = 0.5 ** (3 / 14), 0.5 ** (2 / 14), 0.5 ** (1 / 14)
    total = w3 + w2 + w1
    mean = (w3 * 100 + w2 * 200 + w1 * 300) / total
    factors = {reads: (w * reads + 2 * mean) / ((w + 2) * mean) for w, reads in ((w3, 100), (w2, 200), (w1, 300))}
    level = mean * total / (w3 * factors[100] + w2 * factors[200] + w1 * factors[300])
    variance = (0.09 + sum((reads / (level * f) - 1) ** 2 for reads, f in factors.items())) / 3
    shares = [0.5, 1.0, 1.0]  # the rest of Thursday, Friday, Saturday: weekdays without a day in the basis
    n_ahead, n_w = 2.5**2 / 2.25, total**2 / (w3**2 + w2**2 + w1**2)
    sigma = math.sqrt(math.log(1 + variance / n_ahead + variance / n_w + 0.09))
    found = forecast(project({3: 100, 2: 200, 1: 300}, used=1000, reset_day=18))
    assert found.per_day == pytest.approx(level)
    assert totals(found) == (
        1000 + round(level * 2.5 * math.exp(-(sigma**2) / 2 - 1.645 * sigma)),
        1000 + round(level * sum(shares)),
        1000 + round(level * 2.5 * math.exp(-(sigma**2) / 2 + 1.645 * sigma)),
    )


def test_weekends() -> None:
    """The cycle ends on Monday: Thursday's half and Friday are ahead, and a weekend on which little is read."""
    found = forecast(project(daily(lambda day: 700 if day.weekday() < 5 else 0), reset_day=19))
    _, expected, _ = totals(found)
    assert found.per_day == pytest.approx(500, rel=0.03)
    # 1,050 is the truth, 3.5 days of the mean would be 1,750; two average days are mixed into each weekday.
    assert 1050 < expected - 550 < 1400


def test_recent_days_weigh_more() -> None:
    """After 14 days a day weighs half: a new pace takes over."""
    found = forecast(project(daily(lambda day: 100 if day < TODAY - 14 * DAY else 300)))
    assert found.per_day is not None
    assert 195 < found.per_day < 210


def test_missing_days_are_zeros() -> None:
    """The API omits days without reads. Between the first known day and the day before yesterday they are zeros."""
    assert forecast(project({10: 100, 3: 100, 1: 100})) == forecast(
        project({10: 100, 3: 100, 1: 100} | dict.fromkeys([9, 8, 7, 6, 5, 4, 2], 0))
    )


def test_yesterday_may_not_be_counted_yet() -> None:
    """Without its count, yesterday is omitted. It does not count as a day without reads."""
    found = forecast(project(dict.fromkeys(range(2, 30), 100)))
    assert (found.basis_days, found.per_day) == (28, ABOUT_100)


def test_days_without_a_count_are_unknown() -> None:
    """A day that is named with ``None`` is omitted. One at the beginning is not the first known day."""
    found = forecast(project({50: None, 5: 100, 4: None, 3: 100, 2: 100, 1: None}))
    assert (found.basis_days, found.per_day) == (3, ABOUT_100)


def test_a_new_project_is_not_thinned() -> None:
    """Days before its first one are unknown, not zeros."""
    assert forecast(project(dict.fromkeys(range(1, 6), 100))).basis_days == 5


def test_today_and_later_are_no_basis() -> None:
    """Today is not over: its reads are in ``used``."""
    assert forecast(project({2: 100, 1: 100, 0: 7, -1: 9})).basis_days == 2
    assert forecast(project({0: 7})).basis_days == 0


def test_two_days_are_too_few() -> None:
    """Then only the allowance is known: 9,450 posts for 25.5 days."""
    found = forecast(project({2: 100, 1: 100}))
    assert found == Forecast(BillingCycle.of(10, NOON), 10_000, 550, 2, daily_allowance=370)
    assert found.fits is None


@pytest.mark.parametrize("days", [None, {}])
def test_no_days(days: dict[int, int | None] | None) -> None:
    """A response without the project's days, or an empty project."""
    usage = project({}) if days is not None else Usage("1", 10_000, 550, 10, fetched_at=NOON)
    assert forecast(usage) == Forecast(BillingCycle.of(10, NOON), 10_000, 550, 0, daily_allowance=370)


def test_zeros() -> None:
    """A project that reads nothing stays at its count."""
    found = forecast(project(daily(lambda _: 0)))
    assert found == Forecast(BillingCycle.of(10, NOON), 10_000, 550, 90, 0.0, 550, 550, 550, None, 370)
    assert found.fits is True


def test_the_day_on_which_the_cap_is_used_up() -> None:
    """400 posts remain: 50 today, then 100 a day. So the fourth day from today uses up the last."""
    steady = daily(lambda _: 100)
    assert forecast(project(steady, cap=950)).exhausts_on == TODAY + 4 * DAY
    assert forecast(project(steady, cap=900)).exhausts_on == TODAY + 3 * DAY
    assert forecast(project(steady, cap=551)).exhausts_on == TODAY
    assert forecast(project(steady, cap=950)).fits is False


def test_a_cap_that_is_just_enough() -> None:
    """3,100 expected fit a cap of 3,100, which the last day of the cycle uses up."""
    steady = daily(lambda _: 100)
    enough, short = forecast(project(steady, cap=3100)), forecast(project(steady, cap=3099))
    assert (enough.fits, enough.exhausts_on) == (True, dt.date(2026, 2, 9))
    assert (short.fits, short.exhausts_on) == (False, dt.date(2026, 2, 9))
    assert forecast(project(steady, cap=3101)).exhausts_on is None


@pytest.mark.parametrize("cap", [0, 500, 550])
@pytest.mark.parametrize("days", [{}, dict.fromkeys(range(1, 10), 0), dict.fromkeys(range(1, 10), 100)])
def test_at_the_cap(cap: int, days: dict[int, int | None]) -> None:
    """It is used up today, whatever else is known."""
    found = forecast(project(days, cap=cap))
    assert (found.exhausts_on, found.fits, found.daily_allowance) == (TODAY, False, 0)


def test_without_a_reset_day() -> None:
    """The pace is known, and no total: there is no cycle."""
    found = forecast(project(daily(lambda _: 100), reset_day=None))
    assert found == Forecast(None, 10_000, 550, 90, ABOUT_100)
    assert found.fits is None


def test_without_a_cap() -> None:
    """The total is known, and not whether it fits."""
    found = forecast(project(daily(lambda _: 100), cap=None))
    assert (found.expected, found.exhausts_on, found.daily_allowance, found.fits) == (3100, None, None, None)


def test_without_a_count() -> None:
    """The pace is known, and nothing that includes the reads so far."""
    found = forecast(project(daily(lambda _: 100), used=None))
    assert found == Forecast(BillingCycle.of(10, NOON), 10_000, None, 90, ABOUT_100)
    assert found.fits is None


@pytest.mark.parametrize(
    ("hours", "allowance"), [(30, 80), (24, 100), (23, 100), (0.001, 100), (36, 66), (72, 33), (71.999, 33)]
)
def test_the_allowance(hours: float, allowance: int) -> None:
    """100 posts over the days that are left, rounded down. All of them with less than a day left."""
    now = dt.datetime(2026, 2, 10, tzinfo=dt.UTC) - dt.timedelta(hours=hours)
    assert forecast(project({}, cap=650), now=now).daily_allowance == allowance


def test_now() -> None:
    """The instant of the response, if not given; any zone will do."""
    usage = project(daily(lambda _: 100))
    assert forecast(usage, now=NOON.astimezone(dt.timezone(dt.timedelta(hours=-11)))) == forecast(usage)
    assert totals(forecast(usage, now=NOON + DAY / 4))[1] == 3075


def test_now_must_be_known() -> None:
    """A naive time is refused, and so is a response of unknown time."""
    with pytest.raises(InvalidRequestError, match="naive"):
        forecast(project({}), now=NOON.replace(tzinfo=None))
    for reset_day in (None, 10):
        with pytest.raises(InvalidRequestError, match="pass now="):
            forecast(Usage(cap_reset_day=reset_day))


def test_an_extreme_range_still_contains_the_expected_total() -> None:
    """A lognormal this wide has its mean above its 95th percentile."""
    found = forecast(project({742: 10**12} | dict.fromkeys(range(1, 742), 0)), now=NOON)
    low, expected, high = totals(found)
    assert low <= expected == high


def test_days_beyond_the_horizon_do_not_count() -> None:
    """They weigh less than a rounding error. Decades of days cost nothing, and overflow nothing."""
    found = forecast(project({10_000: 10**12} | dict.fromkeys(range(1, 800), 100)))
    assert (found.basis_days, found.per_day) == (742, ABOUT_100)


@given(
    days=st.dictionaries(st.integers(-2, 120), st.none() | COUNTS),
    cap=st.none() | COUNTS,
    used=st.none() | COUNTS,
    reset_day=st.none() | st.integers(1, 31),
    now=st.integers(-45 * 86_400, 45 * 86_400).map(lambda seconds: NOON + dt.timedelta(seconds=seconds)),
)
def test_what_holds_of_every_forecast(
    days: dict[int, int | None], cap: int | None, used: int | None, reset_day: int | None, now: dt.datetime
) -> None:
    """The parts agree with each other, whatever the response."""
    found = forecast(project(days, cap=cap, used=used, reset_day=reset_day), now=now)
    assert (found.per_day is None) == (found.basis_days < 3)
    if found.cycle is None or used is None:
        assert (found.expected, found.exhausts_on, found.daily_allowance) == (None, None, None)
        return
    assert (found.daily_allowance is None) == (cap is None)
    if found.per_day is not None:
        low, expected, high = totals(found)
        assert used <= low <= expected <= high
        if cap is not None:
            assert (found.exhausts_on is not None) == (expected >= cap or used >= cap)
            assert found.fits == (expected <= cap and used < cap)
    if found.exhausts_on is not None:
        assert now.date() <= found.exhausts_on < found.cycle.end
    if found.daily_allowance is not None and cap is not None:
        assert found.daily_allowance * max(1.0, found.cycle.days_left(now)) <= max(0, cap - used) * (1 + 1e-12)


@given(days=st.dictionaries(st.integers(1, 89), st.integers(0, 10**6), min_size=3), factor=st.integers(2, 1000))
def test_the_pace_scales_with_the_reads(days: dict[int, int | None], factor: int) -> None:
    """A project that reads ``factor`` times as much is forecast ``factor`` times as much."""
    once = forecast(project(days))
    scaled = forecast(project({age: reads * factor for age, reads in days.items() if reads is not None}))
    assert once.basis_days == scaled.basis_days
    assert once.per_day is None or scaled.per_day == pytest.approx(once.per_day * factor)
