"""One value that every output draws: the terminal, the page, the report, JSON, metrics. Pure.

What belongs here: what is shown, in which order, and in which words. How it looks (columns, colours, SVG) belongs to
the outputs. Time comes in as an argument, in UTC::

    view = view_of(usage, now=now, days=30, names={"27002234": "collector"})
    view.verdict.headline           # "On track for 84% of the cap by Thu 10 Dec"
    view.gauge                      # fractions of its width, or None without a cap
    for day in view.days:           # ascending, one per calendar day
        day.reads, day.parts        # parts[i] belongs to view.series[i]; they add up to reads
    view.apps                       # all apps, most reads first
    view.to_dict()                  # cycle, forecast and attribution as plain JSON types

Every text of a view is safe on one line: control characters and bidirectional marks are escaped, ids and names cut.
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

from attrs import asdict, evolve, frozen

from twusage.display.format import (
    UNKNOWN,
    cut,
    day_name,
    duration,
    in_words,
    number,
    plural,
    printable,
    whole_percent,
)
from twusage.models import EPOCH, ClientAppUsage, DailySeries, RateLimit, Usage
from twusage.monitor.cycle import Attribution, BillingCycle, attribution, cycle_of
from twusage.monitor.forecast import Forecast, forecast
from twusage.monitor.watch import (
    CapChanged,
    CycleReset,
    ForecastCrossed,
    ThresholdCrossed,
    UsageSampled,
    WatchEvent,
    WatchFailing,
    WatchRecovered,
)

__all__ = [
    "FETCHED_DAYS",
    "LARGEST",
    "NOT_BY_ANY_APP",
    "App",
    "Day",
    "Event",
    "Gauge",
    "Series",
    "State",
    "Verdict",
    "View",
    "last_days",
    "view_of",
]

LARGEST = 4
"""Apps that have a colour of their own; the other ones share the colour with this index."""
FETCHED_DAYS = 90
"""Days to ask the API for: the forecast is best with all of them."""
NOT_BY_ANY_APP = "not by any app"
"""The label of reads that no client app accounts for."""
_LONGEST_NAME = 40
_LONGEST_REASON = 200
_DAY = dt.timedelta(days=1)


class State(StrEnum):
    """Whether the cap will last. The outputs choose sign and colour by it."""

    ON_TRACK = "on-track"
    """Even the upper end of the forecast is below the cap."""
    CLOSE = "close"
    """The expected total is below the cap, the upper end of the forecast is not."""
    RUNS_OUT = "runs-out"
    """The expected total reaches the cap."""
    USED_UP = "used-up"
    """The cap is reached."""
    EARLY = "early"
    """There is no forecast yet."""
    UNKNOWN = "unknown"
    """The API does not say the cap, or how much of it is used."""


@frozen
class Verdict:
    """The answer to "will it last?", in words."""

    state: State
    """What the words mean."""
    label: str
    """Two or three words: ``Will run out``."""
    headline: str
    """One sentence without its full stop: ``On track for 84% of the cap by Thu 10 Dec``."""
    detail: str
    """One or two sentences more."""


@frozen
class Gauge:
    """The cap as a bar. Every number is a fraction of the bar's width, 0 to 1."""

    used: float
    """Where the used part ends."""
    expected: float | None
    """Where the forecast ends; ``None`` without a forecast, and once the cap is used up."""
    cap: float
    """Where the cap is: 1.0, unless the upper end of the forecast lies beyond it."""
    today: float | None
    """Where a steady pace would be now; ``None`` without a cycle."""


@frozen
class Series:
    """What one colour stands for in the chart of the days."""

    label: str
    """The app's name, or ``46 more apps``, or ``not by any app``."""
    color: int
    """The index of its colour: 0 to 3 for the largest apps, ``LARGEST`` for the rest."""


@frozen
class Day:
    """The posts read on one day (UTC)."""

    date: dt.date
    """The day."""
    reads: int | None
    """Posts read; ``None`` if the API omitted the day or did not give its count."""
    omitted: bool
    """Whether the API omitted the day, as it does with days without reads."""
    today: bool
    """Whether the day is not over: its count is of the day so far."""
    parts: tuple[int, ...]
    """``reads`` by ``View.series``, or as one number if the API names no app; empty if ``reads`` is unknown."""


@frozen
class App:
    """The posts that one client app read on the days that are shown."""

    client_app_id: str | None
    """The id as the API gives it: not safe to print."""
    label: str
    """Its name, or else its id."""
    reads: int | None
    """Posts read; ``None`` if no count is known."""
    partial: bool
    """Whether ``reads`` lacks days whose count is unknown."""
    fraction: float | None
    """Its part of all reads of these days; ``None`` if unknown."""
    color: int
    """The index of its colour, as in ``Series``."""


@frozen
class Event:
    """Something that happened in this cycle."""

    at: dt.datetime
    """When, UTC."""
    text: str
    """What, as a clause: ``25% of the cap used``."""


@frozen(kw_only=True)
class View:
    """What is shown of a usage. Made by ``view_of``."""

    usage: Usage
    """The response."""
    shown: Usage
    """The same with only the days that are shown, for JSON and CSV."""
    now: dt.datetime
    """The instant for which the view was made."""
    stale: bool
    """Whether the response is older than it should be."""
    project: str
    """The project's id, or ``unknown``."""
    verdict: Verdict
    cycle: BillingCycle | None
    day: int | None
    """Today's number in the cycle, from 1."""
    forecast: Forecast
    attribution: Attribution | None
    """Each app's part of the cycle."""
    gauge: Gauge | None
    """``None`` if the cap or the usage is unknown, or the cap is 0."""
    days: tuple[Day, ...]
    """The days that are shown, ascending, without gaps."""
    series: tuple[Series, ...]
    """What ``Day.parts`` stand for; empty if the API names no app."""
    apps: tuple[App, ...]
    """All client apps, most reads on these days first."""
    unattributed: int
    """Posts of the shown days that no app accounts for; 0 if the apps add up to as many or more."""
    events: tuple[Event, ...]
    """What happened in this cycle, ascending."""

    @property
    def age(self) -> dt.timedelta:
        """The age of the response; 0 if it is unknown when that arrived."""
        return max(dt.timedelta(), self.now - _moment(self.usage, self.now))

    @property
    def used_fraction(self) -> float | None:
        """The used fraction of the cap; ``None`` if unknown, or if the cap is 0."""
        return self.usage.used_fraction

    @property
    def expected_fraction(self) -> float | None:
        """The expected total as a fraction of the cap; ``None`` if unknown."""
        expected, cap = self.forecast.expected, self.forecast.cap
        return expected / cap if cap and expected is not None else None

    @property
    def window(self) -> RateLimit | None:
        """The 15-minute window of API calls, as the response shows it."""
        return self.usage.rate_limit

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the cap resets; ``None`` without a cycle."""
        return None if self.cycle is None else max(0.0, (self.cycle.resets_at - self.now).total_seconds())

    def to_dict(self) -> dict[str, object]:
        """``cycle``, ``forecast`` and ``attribution`` as plain JSON types, by the names of their fields."""
        return {
            "cycle": None if self.cycle is None else _plain(self.cycle),
            "forecast": _plain(self.forecast),
            "attribution": None if self.attribution is None else _plain(self.attribution),
        }


def view_of(
    usage: Usage,
    *,
    now: dt.datetime,
    days: int = 7,
    until: dt.date | None = None,
    names: Mapping[str, str] | None = None,
    events: Iterable[WatchEvent] = (),
    stale_after: float | None = None,
) -> View:
    """What is shown of a response.

    Args:
        usage: a response with the days of the project and of its apps, ``FETCHED_DAYS`` of them for the forecast.
        now: the present instant, aware. The forecast is of the instant at which the response arrived.
        days: the number of days to show.
        until: the last day to show (default: today).
        names: names for client apps, by id.
        events: what a watch yielded; samples and other cycles are left out.
        stale_after: seconds from which on the response is stale (default: never).
    """
    moment = _moment(usage, now)
    cycle, ahead = cycle_of(usage, moment), forecast(usage, now=moment)
    end = until or _last_day(usage, moment.date())
    shown = last_days(usage, days, end=end)
    ranked = _ranked(usage, shown, names or {})
    found = _days(shown, ranked, days, end, moment.date())
    series = _series(ranked, found)
    return View(
        usage=usage,
        shown=shown,
        now=now,
        stale=stale_after is not None and (now - moment).total_seconds() > stale_after,
        project=_label(usage.project_id),
        verdict=_verdict(usage, ahead, cycle, now),
        cycle=cycle,
        day=None if cycle is None else (moment.date() - cycle.start).days + 1,
        forecast=ahead,
        attribution=attribution(usage, now=moment),
        gauge=_gauge(usage, ahead, cycle, moment),
        days=tuple(_trimmed(day, series) for day in found),
        series=series,
        apps=tuple(app for app, _ in ranked),
        unattributed=_unattributed(shown),
        events=tuple(_events(events, cycle)),
    )


def last_days(usage: Usage, days: int, *, end: dt.date) -> Usage:
    """The same response with only the ``days`` days up to ``end``."""

    def shorter(series: DailySeries) -> DailySeries:
        return series[bisect_right(series.dates, end - days * _DAY) : bisect_right(series.dates, end)]

    def of_app(app: ClientAppUsage) -> ClientAppUsage:
        series = shorter(app.usage)
        count = app.usage_result_count
        return evolve(app, usage=series, usage_result_count=count and len(series))

    project = usage.daily_project_usage
    return evolve(
        usage,
        daily_project_usage=project and evolve(project, usage=shorter(project.usage)),
        daily_client_app_usage=tuple(map(of_app, usage.daily_client_app_usage)),
    )


def _moment(usage: Usage, now: dt.datetime) -> dt.datetime:
    """The instant that the response describes."""
    return now if usage.fetched_at == EPOCH else usage.fetched_at


def _last_day(usage: Usage, today: dt.date) -> dt.date:
    """Today; of a recorded response that has no recent days, its last one."""
    project = usage.daily_project_usage
    series = [project.usage] if project else []
    last = max(
        (each.dates[-1] for each in (*series, *(app.usage for app in usage.daily_client_app_usage)) if each),
        default=today,
    )
    return last if not today - FETCHED_DAYS * _DAY < last <= today else today


# -- The verdict -------------------------------------------------------------------------------------------------------


def _verdict(usage: Usage, ahead: Forecast, cycle: BillingCycle | None, now: dt.datetime) -> Verdict:
    cap, used = usage.project_cap, usage.project_usage
    if cap is None or used is None:
        missing = "the cap" if cap is None else "how much of the cap is used"
        known = "" if used is None else f"{plural(used, 'post')} read in this cycle."
        return Verdict(State.UNKNOWN, "Unknown", f"The API does not say {missing}", known)
    if used >= cap:
        return _used_up(used, cap, cycle, now)
    if ahead.expected is None or ahead.high is None or cycle is None:
        why = (
            "The API does not say on which day of the month the cap resets."
            if cycle is None
            else f"A forecast needs at least 3 full days; {plural(ahead.basis_days, 'day')} known."
        )
        return Verdict(State.EARLY, "Too early to tell", f"{number(used)} of {plural(cap, 'post')} read", why)
    if ahead.expected >= cap:
        return _runs_out(ahead, cycle)
    likely = f"likely between {in_words(ahead.low or 0)} and {in_words(ahead.high)}"
    about = f"About {in_words(ahead.expected)} of {in_words(cap)} posts; {likely}."
    end = f"{whole_percent(ahead.expected / cap)} of the cap by {day_name(cycle.end)}"
    if ahead.high >= cap:
        return Verdict(State.CLOSE, "Close to the cap", f"Close: {end}, perhaps more than all of it", about)
    return Verdict(State.ON_TRACK, "On track", f"On track for {end}", about)


def _used_up(used: int, cap: int, cycle: BillingCycle | None, now: dt.datetime) -> Verdict:
    headline = "The cap is used up"
    detail = f"{number(used)} of {plural(cap, 'post')} read" + (f", {number(used - cap)} over." if used > cap else ".")
    if cycle is not None:
        headline += f". Reading stops until {day_name(cycle.end)}"
        left = duration((cycle.resets_at - now).total_seconds())
        detail += f" The next cycle begins on {day_name(cycle.end)} {cycle.end.year}, 00:00 UTC, in {left}."
    return Verdict(State.USED_UP, "Cap used up", headline, detail)


def _runs_out(ahead: Forecast, cycle: BillingCycle) -> Verdict:
    # expected >= cap: the day on which the cap is used up is known, and so is what can be read until then.
    day, allowance, pace = ahead.exhausts_on or cycle.end, ahead.daily_allowance or 0, ahead.per_day or 0.0
    early = plural((cycle.end - day).days, "day")
    return Verdict(
        State.RUNS_OUT,
        "Will run out",
        f"At this pace, the cap runs out on {day_name(day)}, {early} before the reset",
        f"To last until {day_name(cycle.end)}, read at most {in_words(allowance)} posts a day. "
        f"The pace is {in_words(pace)}.",
    )


def _gauge(usage: Usage, ahead: Forecast, cycle: BillingCycle | None, moment: dt.datetime) -> Gauge | None:
    cap, used = usage.project_cap, usage.project_usage
    if not cap or used is None:
        return None
    expected = None if used >= cap else ahead.expected
    scale = max(cap, ahead.high or 0) if expected is not None else cap
    steady = None if cycle is None else 1 - cycle.days_left(moment) / cycle.days
    return Gauge(
        used=min(1.0, used / scale),
        expected=None if expected is None else expected / scale,
        cap=cap / scale,
        today=None if steady is None else steady * cap / scale,
    )


# -- Days and apps -----------------------------------------------------------------------------------------------------


def _label(text: str | None) -> str:
    return UNKNOWN if text is None else cut(printable(text), _LONGEST_NAME)


def _ranked(usage: Usage, shown: Usage, names: Mapping[str, str]) -> list[tuple[App, DailySeries]]:
    """The client apps, most reads first, and their shown days."""
    project = shown.daily_project_usage
    known = sum(app.usage.total for app in shown.daily_client_app_usage)
    known = max(known, project.usage.total if project else 0)
    ranked = []
    for whole, app in zip(usage.daily_client_app_usage, shown.daily_client_app_usage, strict=True):
        counts = app.usage.counts
        # An app without any row is silent if the API says that it has none; else nothing is known of it.
        unknown = (
            all(count is None for count in counts) if counts else not (whole.usage or whole.usage_result_count == 0)
        )
        reads = None if unknown else app.usage.total
        name = None if whole.client_app_id is None else names.get(whole.client_app_id, whole.client_app_id)
        fraction = reads / known if known and reads is not None else None
        partial = reads is not None and None in counts
        ranked.append((App(whole.client_app_id, _label(name), reads, partial, fraction, LARGEST), app.usage))
    ranked.sort(key=lambda pair: -1 if pair[0].reads is None else pair[0].reads, reverse=True)
    return [(evolve(app, color=min(rank, LARGEST)), series) for rank, (app, series) in enumerate(ranked)]


def _days(
    shown: Usage, ranked: Sequence[tuple[App, DailySeries]], days: int, end: dt.date, today: dt.date
) -> list[Day]:
    """The days, whose last part is what the largest apps did not read."""
    project = shown.daily_project_usage
    result = []
    for date in (end - n * _DAY for n in reversed(range(days))):
        reads: int | None
        if project is not None:
            reads, omitted = project.usage.on(date), date not in project.usage.dates
        else:
            counts = [count for _, series in ranked if (count := series.on(date)) is not None]
            reads, omitted = sum(counts) if counts else None, not counts
        parts = []
        left = reads or 0
        for _, series in ranked[:LARGEST]:
            # The API does not promise that the apps add up to the project.
            parts.append(min(left, series.on(date) or 0))
            left -= parts[-1]
        result.append(Day(date, reads, omitted, date == today, () if reads is None else (*parts, left)))
    return result


def _series(ranked: Sequence[tuple[App, DailySeries]], days: Sequence[Day]) -> tuple[Series, ...]:
    series = [Series(app.label, app.color) for app, _ in ranked[:LARGEST]]
    if len(ranked) > LARGEST:
        series.append(Series(plural(len(ranked) - LARGEST, "more app"), LARGEST))
    elif ranked and any(day.parts and day.parts[-1] for day in days):
        series.append(Series(NOT_BY_ANY_APP, LARGEST))
    return tuple(series)


def _trimmed(day: Day, series: Sequence[Series]) -> Day:
    return evolve(day, parts=day.parts[: len(series)]) if series else day


def _unattributed(shown: Usage) -> int:
    project, apps = shown.daily_project_usage, shown.daily_client_app_usage
    return max(0, project.usage.total - sum(app.usage.total for app in apps)) if project and apps else 0


# -- Events ------------------------------------------------------------------------------------------------------------


def _events(events: Iterable[WatchEvent], cycle: BillingCycle | None) -> list[Event]:
    return [
        Event(event.at, printable(_sentence(event)))
        for event in events
        if not isinstance(event, UsageSampled) and event.cycle in {None, cycle}
    ]


def _sentence(event: WatchEvent) -> str:  # noqa: PLR0911 - one for each kind of event
    match event:
        case ThresholdCrossed():
            return f"{event.threshold:.0%} of the cap used"
        case ForecastCrossed():
            day = "" if event.exhausts_on is None else f", on {day_name(event.exhausts_on)}"
            return f"the cap will probably run out{day}"
        case CycleReset():
            last = "" if event.used is None else f"; {plural(event.used, 'post')} in the last one"
            return f"a new cycle began{last}"
        case CapChanged():
            return f"the cap changed from {number(event.before)} to {number(event.after)}"
        case WatchFailing():
            return f"no usable response: {cut(str(event.error), _LONGEST_REASON)}"
        case WatchRecovered():
            return f"responses again, after {duration((event.at - event.since).total_seconds())}"
        case _:
            return event.kind


def _plain(value: BillingCycle | Forecast | Attribution) -> dict[str, object]:
    return asdict(value, value_serializer=lambda _, __, each: each.isoformat() if isinstance(each, dt.date) else each)
