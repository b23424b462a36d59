"""The page of ``twusage serve`` and the report of ``twusage report``, from a view. Pure, but for reading its templates.

What belongs here: the words of the page, and their order. The pictures are in ``svg``, the markup in ``templates/``.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from attrs import frozen
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from twusage._version import __version__
from twusage.display import svg
from twusage.display.format import (
    PARTIAL,
    UNKNOWN,
    clock_time,
    cut,
    day_name,
    duration,
    in_words,
    number,
    plural,
    whole_percent,
)
from twusage.display.view import LARGEST, NOT_BY_ANY_APP, App, Day, View
from twusage.models import ClientAppUsage, DailySeries

__all__ = ["Feed", "Problem", "page", "report", "static_file", "static_hash", "waiting_page"]

_OMITTED = "–"
_MOST_ROWS, _ROWS_BEFORE_MORE, _MOST_APPS = 8, 6, 100
_MOST_EVENTS = 50
_LONGEST_TITLE = 80
_WINDOW = dt.timedelta(minutes=15)
_SPANS = (("7", "7 days"), ("30", "30 days"), ("90", "90 days"), ("this", "this cycle"), ("last", "last cycle"))


@frozen(kw_only=True)
class Problem:
    """Why there are no numbers, or no new ones."""

    headline: str
    """The cause as a sentence without its full stop, such as ``The API does not accept the bearer token``."""
    since: dt.datetime
    """When it began, UTC."""
    detail: str = ""
    """More about the cause; empty if there is nothing more."""
    advice: str = ""
    """What to do."""


@frozen(kw_only=True)
class Feed:
    """How the numbers come to the page: what a view does not contain."""

    now: dt.datetime
    """The instant for which the page is made, UTC."""
    every: float
    """Seconds from one call of the API to the next."""
    title: str | None = None
    """The heading (default: the project's id)."""
    next_at: dt.datetime | None = None
    """When the next call is due; ``None`` while one is under way."""
    problem: Problem | None = None
    """Why the newest call failed; ``None`` if it succeeded."""
    span: str = "30"
    """The days that are shown: ``7``, ``30``, ``90``, another number, ``this`` or ``last`` for a cycle."""
    has_history: bool = False
    """Whether a history is on, and so both cycles can be chosen."""


def page(view: View, feed: Feed) -> str:
    """The page with numbers."""
    return _render(_with_numbers(view, feed), view)


def report(view: View, *, title: str | None = None) -> str:
    """The page as one file, without links and script, with its style sheet inside."""
    feed = Feed(now=view.now, every=0, title=title)
    model = _with_numbers(view, feed) | {
        "css": Markup(static_file("page.css").decode()),  # noqa: S704 - our own file
        "spans": (),
        "freshness": f"{day_name(view.now)} {view.now:%Y}, {clock_time(view.now)} UTC",
        "no_events": "A report shows no events. twusage serve does.",
    }
    if model["calls"]:
        model["calls"]["rest"] = model["calls"]["rest"].partition(". ")[0] + "."
    return _render(model, view)


def waiting_page(feed: Feed) -> str:
    """The page before the first numbers: the first call is under way, or failed."""
    model: dict[str, Any] = _common(feed, "twusage")
    problem = feed.problem
    if problem is None:
        model |= {
            "title": "twusage",
            "freshness": "first call under way",
            "pill": "Waiting",
            "tone": "idle",
            "headline": "No numbers yet.",
            "detail": "The first call to the API is under way. This page shows the numbers as soon as they arrive.",
            "advice": "",
        }
    else:
        since = f"{problem.detail} since" if problem.detail else "Since"
        model |= {
            "title": "No numbers · twusage",
            "freshness": "a call is under way" if feed.next_at is None else f"next try {_utc(feed.next_at)}",
            "pill": "No numbers",
            "tone": "bad",
            "headline": _sentence(problem.headline),
            "detail": f"{since} {_utc(problem.since)}. No numbers have come yet.",
            "advice": _sentence(problem.advice or "This command finds the cause"),
        }
    return _render(model, None)


@cache
def static_file(name: str) -> bytes:
    """The content of a file of ``static/``."""
    return files("twusage.display").joinpath("static", name).read_bytes()


@cache
def static_hash(name: str) -> str:
    """A short hash of a file of ``static/``, for its URL."""
    return sha256(static_file(name)).hexdigest()[:12]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("twusage.display"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["colors"] = svg.COLORS
    return environment


def _render(model: dict[str, Any], view: View | None) -> str:
    return _environment().get_template("page.html").render(page=model, view=view).lstrip()


# -- The words of the page --------------------------------------------------------------------------------------------


def _common(feed: Feed, heading: str) -> dict[str, Any]:
    return {
        "css": "",
        "css_hash": static_hash("page.css"),
        "js_hash": static_hash("page.js"),
        "version": __version__,
        "heading": cut(feed.title, _LONGEST_TITLE) if feed.title else heading,
    }


def _with_numbers(view: View, feed: Feed) -> dict[str, Any]:
    verdict, used = view.verdict, view.used_fraction
    tone = "idle" if view.stale else svg.gauge_tone(verdict.state)
    at = clock_time(view.usage.fetched_at)
    pace = svg.safe_pace(view) if view.cycle is not None and view.cycle.start <= view.days[-1].date else None
    above = ", above this chart" if svg.safe_pace_is_above(view) else ""
    return _common(feed, f"Project {view.project}") | {
        "title": f"{verdict.label if used is None else whole_percent(used) + ' used'} · twusage",
        "freshness": _freshness(view, feed),
        "banner": _banner(view, feed) if view.stale else None,
        "pill": f"{verdict.label} at {at} UTC" if view.stale else verdict.label,
        "tone": tone,
        "headline": _sentence(verdict.headline),
        "detail": verdict.detail,
        "gauge": svg.gauge(view, tone),
        "figures": _figures(view),
        "spans": _spans(feed),
        "no_days": not any(day.reads for day in view.days),
        "safe_pace": "" if pace is None else f"safe pace: {in_words(pace)} a day{above}",
        "columns": svg.columns(view),
        "table": _table(view),
        "period": f"{day_name(view.days[0].date)} to {day_name(view.days[-1].date)}",
        "apps": _apps(view),
        "events": [_event(event.at, event.text) for event in view.events[-_MOST_EVENTS:]],
        "no_events": "Nothing happened yet that would be worth a line.",
        "calls": _calls(view, feed),
    }


def _freshness(view: View, feed: Feed) -> str:
    seconds = view.age.total_seconds()
    age = "just now" if seconds < 60 else f"{duration(seconds)} ago"
    if view.stale:
        return f"updated {age}"
    return f"updated {age} · " + ("a call is under way" if feed.next_at is None else f"next {_utc(feed.next_at)}")


def _banner(view: View, feed: Feed) -> dict[str, str]:
    minutes = int(view.age.total_seconds()) // 60
    age = plural(minutes, "minute") if minutes < 120 else plural(minutes // 60, "hour")
    rest = []
    if feed.problem is not None:
        rest.append(_sentence(f"{feed.problem.headline} since {_utc(feed.problem.since)}"))
        if feed.problem.advice:
            rest.append(_sentence(feed.problem.advice))
    rest.append("A call is under way." if feed.next_at is None else f"Next try at {_utc(feed.next_at)}.")
    return {"first": f"These numbers are {age} old.", "rest": " ".join(rest)}


def _figures(view: View) -> list[dict[str, str]]:
    usage, ahead, left = view.usage, view.forecast, view.usage.remaining
    pace = svg.safe_pace(view)
    part = "" if left is None or not usage.project_cap else f"{left / usage.project_cap:.1%} of the cap"
    figures = [
        _figure("Read in this cycle", number(usage.project_usage), f"of {number(usage.project_cap)}"),
        _figure("Left", number(left), part),
        _figure(
            "Pace",
            UNKNOWN if ahead.per_day is None else in_words(ahead.per_day),
            _pace_note(ahead.per_day is not None, pace),
        ),
    ]
    if view.cycle is None or view.seconds_left is None:
        return [*figures, _figure("Resets in", UNKNOWN, "")]
    end = view.cycle.end
    return [*figures, _figure("Resets in", duration(view.seconds_left), f"{day_name(end)} {end.year}, 00:00 UTC")]


def _pace_note(known: bool, safe: int | None) -> str:
    if not known:
        return "" if safe is None else f"safe: {in_words(safe)} a day"
    return "a day" if safe is None else f"a day; safe: {in_words(safe)}"


def _figure(name: str, value: str, note: str) -> dict[str, str]:
    return {"name": name, "value": value, "note": note}


def _spans(feed: Feed) -> list[dict[str, object]]:
    return [
        {"label": label, "href": f"/?{'days' if key.isdigit() else 'cycle'}={key}", "current": key == feed.span}
        for key, label in _SPANS
        if key.isdigit() or feed.has_history
    ]


def _event(at: dt.datetime, text: str) -> dict[str, str]:
    return {
        "iso": at.isoformat(timespec="seconds"),
        "at": f"{at.day} {at:%b} {clock_time(at)}",
        "text": _sentence(text[:1].upper() + text[1:]),
    }


def _calls(view: View, feed: Feed) -> dict[str, str] | None:
    window = view.window
    if window is None:
        return None
    calls = _WINDOW.total_seconds() / feed.every if feed.every else 0
    often = f"{calls:.0f} in 15 minutes" if calls >= 1 else f"one in {duration(feed.every)}"
    left = window.remaining if window.reset_at > feed.now else window.limit
    ends = f"left in the window that ends at {_utc(window.reset_at)}."
    return {
        "left": f"{left} of {window.limit}",
        "rest": f"{ends if window.reset_at > feed.now else 'left: a new window has begun.'} "
        f"This server makes {often}, however many people look at it.",
    }


# -- Tables ------------------------------------------------------------------------------------------------------------


def _table(view: View) -> list[dict[str, object]]:
    """The days, newest last: the project's count, and those of the apps that have a colour."""
    columns: list[Callable[[int, Day], str]] = []
    for rank, series in enumerate(view.series):
        if series.color < LARGEST:
            columns.append(_column(_days_of(view, rank)))
        else:
            columns.append(_rest(rank))
    return [
        {
            "name": day_name(day.date) + (" so far" if day.today else ""),
            "cells": [
                _OMITTED if day.omitted else number(day.reads),
                *(column(place, day) for place, column in enumerate(columns)),
            ],
        }
        for day in view.days
    ]


def _days_of(view: View, rank: int) -> DailySeries:
    app = view.apps[rank]
    same: Iterable[ClientAppUsage] = (
        each for each in view.shown.daily_client_app_usage if each.client_app_id == app.client_app_id
    )
    return next(each.usage for each in same if each.usage.total == (app.reads or 0))


def _column(series: DailySeries) -> Callable[[int, Day], str]:
    rows = dict(zip(series.dates, series.counts, strict=True))
    return lambda _, day: number(rows[day.date]) if day.date in rows else _OMITTED


def _rest(rank: int) -> Callable[[int, Day], str]:
    return lambda _, day: number(day.parts[rank]) if day.parts else _OMITTED


def _apps(view: View) -> dict[str, object]:
    largest = max((app.fraction or 0 for app in view.apps), default=0)
    total = sum(day.reads or 0 for day in view.days)
    count = len(view.apps)
    first = view.apps if count <= _MOST_ROWS else view.apps[:_ROWS_BEFORE_MORE]
    more = view.apps[len(first) : _MOST_APPS]
    rows = [_app(app, largest) for app in first]
    if view.unattributed:
        part = view.unattributed / total if total else 0.0
        rows.append(
            {
                "label": NOT_BY_ANY_APP,
                "color": LARGEST,
                "reads": number(view.unattributed),
                "share": f"{part:.1%}",
                "bar": svg.share(part / max(largest, part), LARGEST) if part else "",
            }
        )
    rest = view.apps[len(first) :]
    together = sum(app.reads or 0 for app in rest)
    return {
        "first": rows,
        "more": [_app(app, largest) for app in more],
        "summary": f"{plural(len(rest), 'more app')}, {plural(together, 'post')} together",
        "beyond": number(count - _MOST_APPS) if count > _MOST_APPS else "",
    }


def _app(app: App, largest: float) -> dict[str, object]:
    partial = PARTIAL if app.partial else ""
    return {
        "label": app.label,
        "color": app.color,
        "reads": number(app.reads) + partial,
        "share": _OMITTED if app.fraction is None else f"{app.fraction:.1%}",
        "bar": svg.share(app.fraction / largest, app.color) if app.fraction and largest else "",
    }


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _utc(instant: dt.datetime) -> str:
    return f"{clock_time(instant)} UTC"
