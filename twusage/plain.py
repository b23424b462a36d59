"""What the live API sends, read in columns: the fast half of the decoding. No I/O, no clock, no errors to tell.

An answer is read here if it is *just* what the live API sends; of anything else ``plain_usage`` says ``None``, and
``codec`` reads it strictly, takes in the known variations, and names what is wrong. Nothing is accepted here that
``codec`` would refuse, and nothing comes out otherwise than there:

===========================  =======================================================================================
what is done                 why nothing gets by
===========================  =======================================================================================
no hook for duplicate keys   without a backslash, a body has two quotes for each of its strings: a key that came twice,
                             or a field that was not looked at, leaves quotes over
counts are checked joined    digits and nothing else; JSON's own number parser then refuses leading zeros and nothing
days are parsed once         all apps repeat the same list of days; only an equal list gets the same dates
===========================  =======================================================================================

With the extra ``speed`` it is msgspec that reads the JSON. What is asked of an answer is the same.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable
from contextlib import suppress
from functools import cache, lru_cache
from operator import lt
from typing import Any

from attrs import frozen

from twusage.models import EPOCH, ClientAppUsage, DailySeries, ProjectUsage, RateLimit, Usage, unchecked_series

__all__ = ["MOST_DIGITS", "NOT_PLAIN", "plain_series", "plain_usage", "too_many_values", "utc_day"]

# No count has this many digits, and int() of a long string costs quadratic time.
MOST_DIGITS = 100
_TOO_MANY = 10**MOST_DIGITS
# Of an app that has not read on any of these days.
_NO_ROWS: list[Any] = []
# As many commas: 90 days of 1,000 apps have 181,000.
_MOST_VALUES = 400_000
# What reading something else than the live shape raises; StopIteration is how Python's scanner of JSON says no.
NOT_PLAIN = (AttributeError, LookupError, RecursionError, StopIteration, TypeError, ValueError)


def too_many_values(body: bytes) -> bool:
    """Whether it holds more than an answer of two thousand apps over 90 days: 8 KB that inflate to millions of them
    would take seconds to read.
    """
    return body.count(b",") > _MOST_VALUES


def plain_usage(body: bytes, *, rate_limit: RateLimit | None = None, fetched_at: dt.datetime = EPOCH) -> Usage | None:
    """The usage, where the body is just what the live API sends. ``None`` for whatever else. Never raises."""
    if b"\\" in body or (len(body) > _MOST_VALUES and too_many_values(body)):  # An escape may hide a quote.
        return None
    reader = _reader()
    try:
        document = reader.document(body)
        data = document["data"]
        project, apps = data.get("daily_project_usage"), data.get("daily_client_app_usage")
        project_id, reset_day = data["project_id"], data["cap_reset_day"]
        # How many texts there are to be: ``data`` and its four keys, the id and the two numbers in it, ...
        keys, strings, tables = 4, 8, []
        if apps is not None:
            keys += 1
            strings += 1 + len(apps)  # ... the apps' own key, each app's keys and its id, ...
            for app in apps:
                strings += len(app)
                tables.append(app.get("usage", _NO_ROWS))
        if project is not None:
            keys += 1
            strings += 4  # ... the project's own key, its two keys and its id, ...
            tables.append(project["usage"])
        dates, texts = reader.columns(tables)
        strings += 4 * len(texts)  # ... and of each row both keys and both values.
        # Every number that comes as text is checked and read at once: all counts, and the project's two.
        texts += data["project_cap"], data["project_usage"]
        numbers = _numbers(texts, reader)
        if not (
            body.count(b'"') == 2 * strings
            and len(document) == 1
            and len(data) == keys
            and type(project_id) is str
            and type(reset_day) is int
            and 1 <= reset_day <= 31
            and (apps is None or type(apps) is list)
        ):
            return None
        series = _series(dates, numbers)
        return Usage(
            project_id,
            numbers[-2],
            numbers[-1],
            reset_day,
            None if project is None else _project(project, series.pop()),
            () if apps is None else tuple(map(_app, apps, series)),
            rate_limit=rate_limit,
            fetched_at=fetched_at,
        )
    except reader.refusals:
        return None


def _project(project: dict[str, Any], days: DailySeries) -> ProjectUsage:
    project_id = project["project_id"]
    if len(project) != 2 or type(project_id) is not str:
        raise ValueError(project)
    return ProjectUsage(project_id, days)


def _app(app: dict[str, Any], days: DailySeries) -> ClientAppUsage:
    app_id, rows = app["client_app_id"], app["usage_result_count"]
    if (
        len(app) != 2 + ("usage" in app)
        or type(app_id) is not str
        or type(rows) is not int
        or not 0 <= rows < _TOO_MANY
    ):
        raise ValueError(app)
    return ClientAppUsage(app_id, days, rows)


def plain_series(rows: Any) -> DailySeries:
    """The columns of rows that each have a date and a count, both as text, the dates ascending. Raises one of
    ``NOT_PLAIN`` where they are otherwise. Other fields of a row are not looked at.
    """
    dates, texts = _columns([rows])
    (series,) = _series(dates, _numbers(texts, _JSON) if texts else ())
    return series


def _numbers(texts: list[str], reader: _Reader) -> tuple[int, ...]:
    # Joined twice, because a comma is no digit: the one text is checked, the other is read.
    if not "".join(texts).encode().isdigit():
        raise ValueError(texts)
    numbers = tuple(reader.numbers(f"[{','.join(texts)}]", 0)[0])
    if sum(numbers) >= _TOO_MANY:
        raise ValueError(numbers)
    return numbers


def _series(dates: list[list[str]], counts: tuple[int, ...]) -> list[DailySeries]:
    global _newest  # noqa: PLW0603 - one value, replaced whole: whoever reads it has a list and its own dates
    series, end = [], 0
    known, days = _newest
    for wire in dates:
        start, end = end, end + len(wire)
        if wire != known:  # All apps repeat the days of the first, most of the time.
            known, days = _newest = wire, _days(wire)
        series.append(unchecked_series(days, counts[start:end]))
    return series


# The lists of days that were met: comparing two is cheaper than hashing one.
_newest: tuple[list[str], tuple[dt.date, ...]] = ([], ())
_KNOWN: dict[object, tuple[list[str], tuple[dt.date, ...]]] = {}
_MOST_KNOWN = 64


def _days(wire: list[str]) -> tuple[dt.date, ...]:
    if not wire:
        return ()
    key = wire[0], wire[-1], len(wire)
    known, days = _KNOWN.get(key, ((), ()))
    if wire != known:
        days = tuple(map(_day, wire))
        if not all(map(lt, days, days[1:])):
            raise ValueError(wire)
        if len(_KNOWN) >= _MOST_KNOWN:
            _KNOWN.clear()
        _KNOWN[key] = wire, days
    return days


def _day(text: str) -> dt.date:
    day = utc_day(text)
    if day is None:
        raise ValueError(text)
    return day


@lru_cache(maxsize=1024)  # Every answer repeats the same days.
def utc_day(text: str) -> dt.date | None:
    """The UTC day that a date, or an instant with a zone, is on. ``None`` for what is neither."""
    match = _DAY.fullmatch(text)
    try:
        if match and match["time"]:
            return dt.datetime.fromisoformat(text).astimezone(dt.UTC).date()
        return dt.date.fromisoformat(text) if match else None
    except (ValueError, OverflowError):  # 2023-02-30; a zone that leads out of the calendar
        return None


_DAY = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?P<time>T[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?(Z|[+-][0-9]{2}:?[0-9]{2}))?"
)


# -- Who reads the JSON ------------------------------------------------------------------------------------------------


@frozen
class _Reader:
    document: Callable[[bytes], Any]
    columns: Callable[[list[Any]], tuple[list[list[str]], list[str]]]
    """Of lists of rows: their dates, list by list, and all their counts."""
    numbers: Callable[[str, int], tuple[list[int], int]]
    """A JSON list of integers that begins at an index of the text, and where it ends."""
    refusals: tuple[type[Exception], ...] = NOT_PLAIN
    """What it raises of something else."""


# What ``decode`` and ``raw_decode`` call, each by way of a function or two.
_scan: Any = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


def _document(body: bytes) -> Any:
    text = str(body, "utf-8")
    document, end = _scan(text, 0)
    if end != len(text):
        raise ValueError(end)
    return document


def _columns(tables: list[list[dict[str, str]]]) -> tuple[list[list[str]], list[str]]:
    dates: list[list[str]] = []
    counts: list[str] = []
    for rows in tables:
        if type(rows) is not list:
            raise TypeError(rows)
        days = []
        for row in rows:
            days.append(row["date"])  # A comprehension for each of the two is slower.
            counts.append(row["usage"])
        dates.append(days)
    return dates, counts


_JSON = _Reader(_document, _columns, _scan)


@cache
def _readers() -> dict[str, _Reader]:
    """All that there are, the best one last. Found out at the first answer: importing msgspec takes 20 ms."""
    readers = {"json": _JSON}
    with suppress(ImportError):
        from twusage import speed

        readers["msgspec"] = _Reader(speed.document, speed.columns, speed.numbers, (*NOT_PLAIN, speed.MsgspecError))
    return readers


@cache
def _reader() -> _Reader:
    return list(_readers().values())[-1]
