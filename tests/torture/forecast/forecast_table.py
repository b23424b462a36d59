"""How good the forecast is, on synthetic projects: `nox -s forecast`.

Eleven families of projects, with days of every pace. On day 3, 7 and 14 of a billing cycle each method forecasts the
total at its end from the last 90 days and the count so far, as a response of the API has them.

=============  ========================================================================================================
method         what it does
=============  ========================================================================================================
twusage        ``twusage.monitor.forecast``
28-day mean    the rest of the cycle goes on like the mean of the last 28 days
used/elapsed   the rest of the cycle goes on like the cycle so far
=============  ========================================================================================================

The last two get a range, too: days that are independent, normal, and as different as they were. ``error`` is the mean
of ``|expected - true| / true``, and ``inside`` the share of true totals within the 90 % range.

Below it stand two rules for an alarm, judged at noon of each day from the third on, with a cap of 0.7 to 1.5 times the
true total: how many cycles that fit their cap had a false alarm, and how many overruns were announced, how far ahead.
"""

from __future__ import annotations

import argparse
import datetime as dt
import math
import random
import secrets
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from statistics import fmean, median, stdev

from attrs import evolve, frozen

from twusage import DailySeries, ProjectUsage, Usage
from twusage.monitor import BillingCycle, forecast

DAY = dt.timedelta(days=1)
HISTORY = 120
"""Days before the cycle that a series has; a response shows the last 90."""
CHECKED = (3, 7, 14)
"""Days of the cycle on which a forecast is made."""
METHODS = ("twusage", "28-day mean", "used/elapsed")

Rate = Callable[[int, dt.date], float]
Range = tuple[float, float, float]


def _noisy(dice: random.Random, sigma: float) -> float:
    return dice.lognormvariate(-(sigma**2) / 2, sigma)


def _steady(dice: random.Random) -> Rate:
    return lambda _, __: _noisy(dice, 0.1)


def _noise(dice: random.Random) -> Rate:
    return lambda _, __: _noisy(dice, 0.6)


def _workdays(dice: random.Random) -> Rate:
    weekend = dice.uniform(0.0, 0.4)
    return lambda _, day: (weekend if day.weekday() >= 5 else 1.0) * _noisy(dice, 0.25)


def _weekly_job(dice: random.Random) -> Rate:
    job = dice.randrange(7)
    return lambda _, day: (6.0 if day.weekday() == job else 1.0) * _noisy(dice, 0.3)


def _growth(dice: random.Random) -> Rate:
    rate = dice.uniform(0.002, 0.012)
    return lambda index, _: math.exp(rate * index) * _noisy(dice, 0.25)


def _decline(dice: random.Random) -> Rate:
    rate = dice.uniform(0.002, 0.012)
    return lambda index, _: math.exp(-rate * index) * _noisy(dice, 0.25)


def _step(dice: random.Random) -> Rate:
    at, factor = dice.randrange(HISTORY - 60, HISTORY + 10), dice.choice([0.5, 0.7, 1.5, 2.0])
    return lambda index, _: (factor if index >= at else 1.0) * _noisy(dice, 0.25)


def _spikes(dice: random.Random) -> Rate:
    return lambda _, __: _noisy(dice, 0.25) * (dice.uniform(3, 8) if dice.random() < 0.05 else 1.0)


def _gaps(dice: random.Random) -> Rate:
    share = dice.uniform(0.3, 0.8)
    return lambda _, __: _noisy(dice, 0.4) if dice.random() < share else 0.0


def _weeks(dice: random.Random) -> Rate:
    weeks = [_noisy(dice, 0.35) for _ in range(60)]
    return lambda index, _: weeks[index // 7] * _noisy(dice, 0.2)


def _new(dice: random.Random) -> Rate:
    since = HISTORY - dice.randrange(2, 21)
    return lambda index, _: _noisy(dice, 0.3) if index >= since else 0.0


FAMILIES: dict[str, Callable[[random.Random], Rate]] = {
    "steady": _steady,
    "noise": _noise,
    "workdays": _workdays,
    "weekly job": _weekly_job,
    "growth": _growth,
    "decline": _decline,
    "step": _step,
    "spikes": _spikes,
    "gaps": _gaps,
    "weeks": _weeks,
    "new project": _new,
}


@frozen
class Project:
    """A synthetic project. What it reads on each day, up to the end of a cycle."""

    cycle: BillingCycle
    reads: dict[dt.date, int]

    @property
    def total(self) -> int:
        return sum(reads for day, reads in self.reads.items() if day in self.cycle)

    def response(self, now: dt.datetime) -> Usage:
        """What the API returns at this instant. Days without reads are omitted, and today is not over."""
        today = now.date()
        part = (now - dt.datetime.combine(today, dt.time(), dt.UTC)) / DAY
        known = {day: reads for day, reads in self.reads.items() if today - 89 * DAY <= day < today}
        known[today] = round(self.reads[today] * part)
        used = sum(reads for day, reads in known.items() if day in self.cycle)
        days = [(day, reads) for day, reads in known.items() if reads]
        series = DailySeries(tuple(day for day, _ in days), tuple(reads for _, reads in days))
        return Usage("1", 10**9, used, self.cycle.reset_day, ProjectUsage("1", series), fetched_at=now)


def project(family: str, dice: random.Random) -> Project:
    """A project of a family, with a billing cycle somewhere in eight years."""
    day = dt.date(2020, 1, 1) + dice.randrange(8 * 365) * DAY
    cycle = BillingCycle.of(dice.randint(1, 31), day)
    level, rate = 10 ** dice.uniform(2, 5), FAMILIES[family](dice)
    first = cycle.start - HISTORY * DAY
    days = [first + index * DAY for index in range(HISTORY + cycle.days)]
    return Project(cycle, {day: round(level * rate(index, day)) for index, day in enumerate(days)})


def by_twusage(usage: Usage, _: Project, now: dt.datetime) -> Range | None:
    found = forecast(usage, now=now)
    if found.low is None or found.expected is None or found.high is None:
        return None
    return found.low, found.expected, found.high


def by_mean(usage: Usage, known: Project, now: dt.datetime) -> Range | None:
    # A new project's mean is that of its own days: zeros before its first would only make it worse.
    return _independent(usage, known, now, [day for day in _full_days(known, now) if day >= now.date() - 28 * DAY])


def by_elapsed(usage: Usage, known: Project, now: dt.datetime) -> Range | None:
    return _independent(usage, known, now, [day for day in _full_days(known, now) if day in known.cycle])


def _full_days(known: Project, now: dt.datetime) -> Iterable[dt.date]:
    first = min(day for day, reads in known.reads.items() if reads)
    return (day for day in known.reads if first <= day < now.date())


def _independent(usage: Usage, known: Project, now: dt.datetime, days: Sequence[dt.date]) -> Range | None:
    if len(days) < 2:
        return None
    counts = [known.reads[day] for day in days]
    left, used = known.cycle.days_left(now), usage.project_usage or 0
    expected, reach = used + left * fmean(counts), 1.645 * stdev(counts) * math.sqrt(left)
    return max(used, expected - reach), expected, expected + reach


def measure(series: int, seed: int) -> dict[tuple[str, str, int], tuple[float, float]]:
    """By family, method and day of the cycle. The mean error, and the share of true totals inside the range."""
    dice = random.Random(seed)
    methods = dict(zip(METHODS, (by_twusage, by_mean, by_elapsed), strict=True))
    results: dict[tuple[str, str, int], tuple[float, float]] = {}
    for family in FAMILIES:
        found: dict[tuple[str, int], list[tuple[float, bool]]] = {}
        for _ in range(series):
            case = project(family, dice)
            for day in CHECKED:
                now = dt.datetime.combine(case.cycle.start, dt.time(), dt.UTC) + (day - 1 + dice.random()) * DAY
                usage, total = case.response(now), case.total
                for name, method in methods.items():
                    if total and (forecasted := method(usage, case, now)):
                        low, expected, high = forecasted
                        hit = abs(expected - total) / total, low <= total <= high
                        found.setdefault((name, day), []).append(hit)
        for (name, day), hits in found.items():
            results[family, name, day] = fmean(error for error, _ in hits), fmean(inside for _, inside in hits)
    return results


def overall(results: dict[tuple[str, str, int], tuple[float, float]], method: str, day: int) -> tuple[float, float]:
    """The mean over all families: error, share inside."""
    errors, inside = zip(*(results[family, method, day] for family in FAMILIES), strict=True)
    return fmean(errors), fmean(inside)


def alarms(series: int, seed: int) -> dict[str, tuple[float, float, float]]:
    """By rule: shares of false alarms and announced overruns, and the median lead in days."""
    dice = random.Random(seed)
    false: dict[str, list[bool]] = {"low": [], "expected": []}
    ahead: dict[str, list[int | None]] = {"low": [], "expected": []}
    for family in FAMILIES:
        for _ in range(series):
            case = project(family, dice)
            cap = round(case.total * dice.uniform(0.7, 1.5))
            alarm, reached = _first_alarms(case, cap)
            for rule, day in alarm.items():
                if case.total <= cap:
                    false[rule].append(day is not None)
                else:
                    ahead[rule].append(None if day is None else (reached or case.cycle.days) - day)
    found = {rule: [days for days in ahead[rule] if days is not None] for rule in ahead}
    return {rule: (fmean(false[rule]), len(found[rule]) / len(ahead[rule]), median(found[rule])) for rule in false}


def _first_alarms(case: Project, cap: int) -> tuple[dict[str, int | None], int | None]:
    """By rule, the first day of the cycle with an alarm. The second value is the day on which the cap was reached."""
    first: dict[str, int | None] = {"low": None, "expected": None}
    for day in range(3, case.cycle.days + 1):
        now = dt.datetime.combine(case.cycle.start, dt.time(12), dt.UTC) + (day - 1) * DAY
        found = forecast(evolve(case.response(now), project_cap=cap))
        if found.used is not None and found.used >= cap:
            return first, day
        for rule, total in (("low", found.low), ("expected", found.expected)):
            if first[rule] is None and total is not None and total >= cap:
                first[rule] = day
    return first, None


def table(results: dict[tuple[str, str, int], tuple[float, float]]) -> str:
    """The results as text, one line a family. Each method has error and share inside on each day, in per cent."""
    columns = [(method, day) for method in METHODS for day in CHECKED]
    lines = [
        " " * 14 + "".join(f"{method + ', day 3 / 7 / 14':^40}" for method in METHODS).rstrip(),
        f"{'':14}" + "".join(f"{'error':>20}{'inside':>20}" for _ in METHODS),
    ]
    rows = {family: [results[family, *column] for column in columns] for family in FAMILIES}
    rows["all"] = [overall(results, *column) for column in columns]
    starts = [*range(0, len(columns) + 1, len(CHECKED))]
    for name, cells in rows.items():
        parts = [cells[start:end] for start, end in pairwise(starts)]
        shown = "".join(f"{_percent(e for e, _ in part):>20}{_percent(i for _, i in part):>20}" for part in parts)
        lines.append(f"{name:14}{shown}")
    return "\n".join(lines)


def _percent(values: Iterable[float]) -> str:
    return " / ".join(f"{value:.0%}" for value in values)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--series", type=int, default=100, help="projects of each family (default: 100)")
    parser.add_argument("--seed", type=int, default=None, help="repeat a run (default: a new seed)")
    options = parser.parse_args()
    seed = secrets.randbits(32) if options.seed is None else options.seed
    print(f"{len(FAMILIES)} families x {options.series} projects, --seed {seed}\n")
    print(table(measure(options.series, seed)), end="\n\n")
    for rule, (false, announced, days) in alarms(options.series, seed).items():
        print(
            f"{rule + ' >= cap':16} {false:.1%} false alarms, {announced:.0%} announced, {days:g} days ahead (median)"
        )


if __name__ == "__main__":
    main()
