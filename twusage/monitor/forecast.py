"""Forecast of a project's usage at the end of its billing cycle. Pure: time comes in as an argument, in UTC.

A weekday-weighted mean of the recent days, with a lognormal range from two variances: of single days, and of whole
weeks. `nox -s forecast` measures its error and how often the range contains the true total.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from itertools import accumulate

from attrs import evolve, frozen

from twusage.models import DailySeries, Usage
from twusage.monitor.cycle import BillingCycle, cycle_of, instant_of

__all__ = ["Forecast", "forecast"]

_DAY = dt.timedelta(days=1)
_MICROSECOND = dt.timedelta(microseconds=1)
_HALF_LIFE = 14
"""Age in days at which a day's weight is one half."""
_HORIZON = 53 * _HALF_LIFE
"""Ignore days older than this: they weigh less than the rounding error of a float, 2**-53."""
_MIN_DAYS = 3
"""Full days that a forecast needs, and that a week must exceed to show how far weeks differ."""
_PRIOR_DAYS = 2
"""Average days that are mixed into each weekday, so that a single Sunday does not set all Sundays."""
_PRIOR_VARIANCE = 0.3**2
"""One deviation of 30 % that is assumed of days and weeks, so that few equal days do not give an empty range."""
_Z90 = 1.645
"""Standard deviations on either side of the mean that contain 90 % of a normal distribution."""


@frozen
class Forecast:
    """A project's usage at the end of its billing cycle. Posts, or posts a day; ``None`` = unknown.

    Without a reset day the cycle, the total and the allowance are unknown; ``per_day`` is still known.
    """

    cycle: BillingCycle | None
    """The billing cycle, or ``None`` without a reset day."""
    cap: int | None
    """Posts that the project may read in the cycle."""
    used: int | None
    """Posts that it has read so far."""
    basis_days: int
    """Full days with a known count, on which the forecast rests. It needs at least 3."""
    per_day: float | None = None
    """Posts read a day; recent days weigh more, and weekdays are levelled out."""
    expected: int | None = None
    """Posts read by the end of the cycle, ``used`` included."""
    low: int | None = None
    """The lower end of the 90 % range around ``expected``. At or above the cap: expect to reach the cap."""
    high: int | None = None
    """The upper end of the 90 % range around ``expected``."""
    exhausts_on: dt.date | None = None
    """The first day (UTC) by whose end the expected reads use up the cap; ``None`` if no day of the cycle does."""
    daily_allowance: int | None = None
    """Posts that can be read every day so that the cap lasts; with less than a day left, all that remains."""

    @property
    def fits(self) -> bool | None:
        """Whether the expected total is within the cap. False once the cap is used up."""
        if self.cap is None or self.used is None:
            return None
        if self.used >= self.cap:
            return False
        return None if self.expected is None else self.expected <= self.cap


@frozen
class _Pace:
    """A project's pace, and the deviations of its days and weeks."""

    level: float
    factors: tuple[float, ...]
    """By weekday, Monday first: its reads over the level."""
    day_variance: float
    week_variance: float
    effective_days: float
    """The number of equal weights that would be as informative as the basis."""


def forecast(usage: Usage, *, now: dt.datetime | None = None) -> Forecast:
    """The usage at the end of the billing cycle, from the days.

    Pass the result of ``get_usage(days=90)``; fewer days give a wider range. Full days since the first known one count,
    and days that the API omits are zeros. Today's reads are in ``used``, and the rest of today is forecast.

    Args:
        usage: a response with the project's days.
        now: the instant of the forecast, aware (default: ``usage.fetched_at``).

    Raises:
        InvalidRequestError: ``now`` is naive, or is missing while ``fetched_at`` is unknown.
    """
    now = instant_of(usage, now)
    cycle, today = cycle_of(usage, now), now.date()
    basis = [] if usage.daily_project_usage is None else _basis(usage.daily_project_usage.usage, today)
    pace = _pace(basis, today) if len(basis) >= _MIN_DAYS else None
    used, remaining = usage.project_usage, usage.remaining
    result = Forecast(cycle, usage.project_cap, used, len(basis), None if pace is None else pace.level)
    if cycle is None or used is None:
        return result
    if remaining is not None:
        allowance = _allowance(remaining, cycle.resets_at - now)
        result = evolve(result, daily_allowance=allowance, exhausts_on=None if remaining else today)
    if pace is None:
        return result

    shares = _shares(pace, cycle, now)
    sums = list(accumulate(pace.level * share for share in shares))
    low, high = _range(pace, shares, sums[-1])
    if remaining is not None:
        # Rounded like `expected`, so that the two agree on whether the cap is reached.
        ahead = next((index for index, reads in enumerate(sums) if round(reads) >= remaining), None)
        result = evolve(result, exhausts_on=None if ahead is None else today + ahead * _DAY)
    return evolve(result, expected=used + round(sums[-1]), low=used + round(low), high=used + round(high))


def _basis(series: DailySeries, today: dt.date) -> list[tuple[int, int]]:
    """Return ordinal and count of the full days with a known count."""
    counts = dict(zip(map(dt.date.toordinal, series.dates), series.counts, strict=True))
    end = today.toordinal()
    first = max(next((day for day, count in counts.items() if count is not None), end), end - _HORIZON)
    # The API omits days without reads, and also yesterday as long as it has not counted it.
    found = [(day, counts.get(day, 0 if day < end - 1 else None)) for day in range(first, end)]
    return [(day, count) for day, count in found if count is not None]


def _pace(basis: list[tuple[int, int]], today: dt.date) -> _Pace:
    """The fit to the days of the basis; docs/forecast.md has the formulas."""
    end = today.toordinal()
    # Ordinal 1 is a Monday.
    days = [(0.5 ** ((end - day) / _HALF_LIFE), *divmod(day - 1, 7), reads) for day, reads in basis]
    total = sum(weight for weight, *_ in days)
    effective_days = total**2 / sum(weight**2 for weight, *_ in days)
    mean = sum(weight * reads for weight, _, _, reads in days) / total
    if not mean:
        return _Pace(0.0, (1.0,) * 7, 0.0, 0.0, effective_days)

    weight_on, reads_on = [float(_PRIOR_DAYS)] * 7, [_PRIOR_DAYS * mean] * 7
    for weight, _, weekday, reads in days:
        weight_on[weekday] += weight
        reads_on[weekday] += weight * reads
    factors = tuple(reads / (weight * mean) for weight, reads in zip(weight_on, reads_on, strict=True))
    level = mean * total / sum(weight * factors[weekday] for weight, _, weekday, _ in days)

    weeks = dict[int, list[float]]()
    for _, week, weekday, reads in days:
        weeks.setdefault(week, []).append(reads / (level * factors[weekday]) - 1)
    squares = sum(residual**2 for week in weeks.values() for residual in week)
    day_variance = (_PRIOR_VARIANCE + squares) / len(days)
    whole = [week for week in weeks.values() if len(week) > _MIN_DAYS]
    # What single days already explain of a week's deviation is not the week's own.
    own = sum((sum(week) / len(week)) ** 2 - day_variance / len(week) for week in whole)
    week_variance = max(0.0, (_PRIOR_VARIANCE + own) / (1 + len(whole)))
    return _Pace(level, factors, day_variance, week_variance, effective_days)


def _shares(pace: _Pace, cycle: BillingCycle, now: dt.datetime) -> list[float]:
    """Return the reads of each remaining day as multiples of the level. The first one is the rest of today."""
    today = now.date()
    shares = [pace.factors[(today + ahead * _DAY).weekday()] for ahead in range((cycle.end - today).days)]
    shares[0] *= (dt.datetime.combine(today + _DAY, dt.time(), dt.UTC) - now) / _DAY
    return shares


def _range(pace: _Pace, shares: Sequence[float], mean: float) -> tuple[float, float]:
    """The 90 % range of a lognormal sum with this mean."""
    if not mean:
        return 0.0, 0.0
    days_ahead = sum(shares) ** 2 / sum(share**2 for share in shares)
    variance = pace.day_variance / days_ahead + pace.day_variance / pace.effective_days + pace.week_variance
    log_variance = math.log1p(variance)
    middle, reach = math.log(mean) - log_variance / 2, _Z90 * math.sqrt(log_variance)
    # A lognormal so wide that its mean lies above its 95th percentile (a variance above 50,000) ends at the mean.
    return math.exp(middle - reach), max(mean, math.exp(middle + reach))


def _allowance(remaining: int, left: dt.timedelta) -> int:
    # In whole microseconds, because the floor of a quotient of floats can be one too low.
    return remaining * (_DAY // _MICROSECOND) // max(_DAY // _MICROSECOND, left // _MICROSECOND)
