"""Response bodies to models, with a private cattrs converter. No I/O, no clock.

Strict about numbers, for the reason that ``json_reader`` gives. Tolerant about the envelope, because the live API and
the vendor's documents disagree about it (numbers for strings, lists for objects), and an added field must not stop a
bot.

===========================  =======================================================================================
what cattrs does             why it is not enough here
===========================  =======================================================================================
``int``                      takes ``" 12 "``, ``"1_000"``, ``12.7``, ``True`` and ``"٣"``
``str``                      turns ``None`` into ``'None'``
``date.fromisoformat``       takes ``2023-W44-3``; ``datetime`` takes times without a zone
lists                        iterate over the letters of a string and the keys of an object
===========================  =======================================================================================

Two configurations of the same converter:

===========  =========================================================================================================
exact        refuses unknown fields and does not name a path; twice as fast. It structures what the live API sends
tolerant     structures what the exact one refuses: it keeps unknown fields, and its errors name the path. It decides
===========  =========================================================================================================
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import lru_cache
from itertools import repeat
from operator import itemgetter, lt
from typing import Any, TypeAlias, TypeGuard

from attrs import evolve, fields_dict, frozen
from cattrs import BaseValidationError, Converter, IterableValidationError, IterableValidationNote
from cattrs.errors import ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn, override

from twusage.errors import DecodeError
from twusage.json_reader import (
    MAX_DIGITS,
    MISSING,
    TOO_DEEP,
    Violation,
    as_list,
    decode_document,
    decode_error,
    excerpt,
    parse_digits,
    problem_from,
    too_deep,
)
from twusage.models import EPOCH, ClientAppUsage, DailySeries, DailyUsage, ProjectUsage, RateLimit, Usage

__all__ = ["decode_usage", "utc_day"]


def decode_usage(body: bytes, *, rate_limit: RateLimit | None = None, fetched_at: dt.datetime = EPOCH) -> Usage:
    """Return the usage that the body of a 200 holds.

    ``rate_limit`` and ``fetched_at`` become fields of the usage: this module reads no headers and no clock.

    Raises ``DecodeError``, and nothing else, whatever the bytes.
    """
    document = decode_document(body)
    usage = _decode_exactly(document)
    if usage is None:
        usage = _decode_tolerantly(document)
    # Frozen, but not shared yet. evolve() would cost a tenth of decoding a small body.
    attributes = usage.__dict__
    attributes["rate_limit"], attributes["fetched_at"] = rate_limit, fetched_at
    return usage


def _decode_exactly(document: dict[str, object]) -> Usage | None:
    if len(document) != 1:
        return None
    try:
        usage: Usage = _EXACT(document["data"], Usage)
    except _IRREGULAR:
        return None
    return usage


def _decode_tolerantly(document: dict[str, Any]) -> Usage:
    data = document.get("data")
    path, violation = "$.data", MISSING
    usage: Usage | None = None
    if data is not None:
        try:
            usage = _TOLERANT(data, Usage)
        except (Violation, BaseValidationError) as error:
            path, violation = _first_leaf(error)
    if data is None or usage is None:
        raise decode_error(path, violation)  # Outside the except, so that the traceback shows this error alone.
    errors, extra = as_list(document.get("errors")), dict(_extra_fields(document, data))
    if usage.cap_reset_day is None and data.get("cap_reset_day") is not None:
        extra["cap_reset_day"] = data["cap_reset_day"]
    if too_deep([errors, extra]):
        raise DecodeError(TOO_DEEP)
    return evolve(usage, errors=tuple(map(problem_from, errors)), extra=extra)


def _first_leaf(error: BaseException) -> tuple[str, Violation]:
    path = "$.data"
    while isinstance(error, BaseValidationError):
        error = error.exceptions[0]
        for note in getattr(error, "__notes__", ()):
            path += f"[{note.index}]" if isinstance(note, IterableValidationNote) else f".{note.name}"
    return path, error if isinstance(error, Violation) else MISSING  # a KeyError


# -- Leaves: counts, ids and days --------------------------------------------------------------------------------------

_COUNT_LIMIT = 10**MAX_DIGITS


def _count(value: object, _: object = None) -> int | None:
    # type(), because True is an int to isinstance. isascii(), because isdigit() takes the digits of every script.
    if type(value) is str:
        if value.isdigit() and value.isascii() and len(value) <= MAX_DIGITS:
            return int(value)
    elif value is None or (type(value) is int and 0 <= value < _COUNT_LIMIT):
        return value
    raise Violation("a count (digits only)", value)


def _reset_day(value: object, _: object = None) -> int | None:
    day = _count(value)
    if day is None or 1 <= day <= 31:
        return day
    raise Violation("a day of the month (1 to 31)", value)


def _reset_day_or_none(value: object, _: object = None) -> int | None:
    # The vendor's OpenAPI description calls it "number of days left" and sets no bounds.
    try:
        return _reset_day(value)
    except Violation:
        return None


def _identifier(value: object, _: object = None) -> str | None:
    if type(value) is str or value is None:
        return value
    if type(value) is int:  # Older documents write ids as numbers.
        return str(value)
    raise Violation("an id", value)


def _day(value: object, _: object = None) -> dt.date:
    if type(value) is str and (day := utc_day(value)):
        return day
    raise Violation("a date (YYYY-MM-DD, or with a time and a zone)", value)


@lru_cache(maxsize=1024)  # Every response repeats the same days.
def utc_day(text: str) -> dt.date | None:
    """Return the UTC day of a date or zoned time, or ``None``."""
    match = _DAY.fullmatch(text)
    if match is None:
        return None
    day, minute, zone = match.groups()
    try:
        # Without the seconds: they do not change the day, and RFC 3339 has a 60th and fractions of any length.
        return dt.datetime.fromisoformat(day + minute + zone).astimezone(dt.UTC).date() if zone else _date(day)
    except (ValueError, OverflowError):  # 2023-02-30; a zone that leads out of the calendar
        return None


_date = dt.date.fromisoformat
_DAY = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:(T[0-9]{2}:[0-9]{2})(?::(?:[0-5][0-9]|60)(?:\.[0-9]+)?)?(Z|[+-][0-9]{2}:?[0-9]{2}))?"
)


# -- Columns: daily rows -----------------------------------------------------------------------------------------------

# Raised for rows in another form than the live API sends.
_IRREGULAR = (AttributeError, LookupError, TypeError, ValueError, ForbiddenExtraKeysError)


def _read_exact_columns(rows: Any, _: object) -> DailySeries:
    """Return the same, of rows without any other field."""
    if sum(map(len, rows)) != 2 * len(rows):
        raise TypeError(rows)
    return _read_columns(rows)


def _read_columns(rows: Any) -> DailySeries:
    """Return the series of rows that ascend and each have a date and a count. Raises one of ``_IRREGULAR``."""
    if type(rows) is not list:
        raise TypeError(rows)
    values = list(map(_get_usage, rows))
    if not values:
        return _NO_DAYS
    if type(values[0]) is str:
        counts = parse_digits(values)
    elif set(map(type, values)) == {int} and min(values) >= 0:
        counts = tuple(values)
    else:  # unknown counts among them
        return _series_from(_read_days(list(map(_get_date, rows))), tuple(map(_count, values)))
    if sum(counts) >= _COUNT_LIMIT:  # Faster than max(), and at least as strict.
        raise ValueError(values)
    return _series_from(_read_days(list(map(_get_date, rows))), counts)


_get_date, _get_usage = itemgetter("date"), itemgetter("usage")  # Faster than a comprehension: no frame per list.
_series_from = DailySeries._from_columns  # noqa: SLF001 - made for this module
_NO_DAYS = DailySeries()


def _read_days(texts: list[str]) -> tuple[dt.date, ...]:
    """Return the days of a column. All apps have the same ones, and share one tuple of them."""
    global _latest_days  # noqa: PLW0603 - replaced as one value: each thread reads a column and its own days
    known, days = _latest_days
    if texts != known:  # Faster than hashing the column.
        days = _parse_days(tuple(texts))
        _latest_days = texts, days
    return days


_latest_days: tuple[list[str], tuple[dt.date, ...]] = ([], ())


@lru_cache(maxsize=8)
def _parse_days(texts: tuple[str, ...]) -> tuple[dt.date, ...]:
    days = tuple(map(_day, texts))
    if all(map(lt, days, days[1:])):
        return days
    raise ValueError(texts)


# -- Shapes: other envelopes of the same numbers -----------------------------------------------------------------------


@frozen
class _AppCount:
    app_id: str | None = None
    tweets_consumed: int | None = None


@frozen
class _DayWithApps:
    """A row of ``daily_project_usage``, as the vendor documents it since 2026-01."""

    date: dt.date
    usage: tuple[_AppCount, ...] = ()


def _lists_days(value: object) -> TypeGuard[list[Any]]:
    """Return whether a list under ``daily_project_usage`` holds days, not projects."""
    return type(value) is list and any(type(item) is dict and "date" in item for item in value)


def _lists_apps(days: list[Any]) -> bool:
    """Return whether those days hold apps, not plain counts."""
    return any(type(day) is dict and type(day.get("usage")) is list for day in days)


def _series_of(days: list[DailyUsage]) -> DailySeries:
    counts: dict[dt.date, int | None] = {}
    for index, day in enumerate(days):
        _add_count(counts, day.date, day.usage, f"[{index}].usage")
    return _sorted_series(counts)


def _sorted_series(counts: Mapping[dt.date, int | None]) -> DailySeries:
    dates = tuple(sorted(counts))
    return DailySeries(dates, tuple(map(counts.__getitem__, dates)))


def _add_count(counts: dict[dt.date, int | None], day: dt.date, count: int | None, where: str) -> None:
    """Add a row. A day may be repeated, but only with the same count."""
    known = counts.get(day)
    if known is None:
        counts[day] = count
    elif count is not None and count != known:
        raise Violation(f"the count of {day} to be {known}, as before", count, where)


def _one_project(projects: list[ProjectUsage]) -> ProjectUsage | None:
    if not projects:
        return None
    first, counts = projects[0], dict[dt.date, int | None]()
    for index, project in enumerate(projects):
        if project.project_id != first.project_id:
            raise Violation(
                f"project {excerpt(first.project_id)}, as before", project.project_id, f"[{index}].project_id"
            )
        for day in project.usage:
            _add_count(counts, day.date, day.usage, f"[{index}].usage")
    return ProjectUsage(first.project_id, _sorted_series(counts))


def _apps_of_days(days: list[_DayWithApps]) -> tuple[ClientAppUsage, ...]:
    apps: dict[str | None, dict[dt.date, int | None]] = {}
    for index, day in enumerate(days):
        for position, app in enumerate(day.usage):
            counts = apps.setdefault(app.app_id, {})
            _add_count(counts, day.date, app.tweets_consumed, f"[{index}].usage[{position}].tweets_consumed")
    return tuple(ClientAppUsage(app_id, _sorted_series(counts)) for app_id, counts in apps.items())


def _project_of_days(days: list[_DayWithApps]) -> ProjectUsage:
    # If a day has no apps, or the count of an app is missing, the sum is None.
    sums: dict[dt.date, int | None] = dict.fromkeys(day.date for day in days)
    of_day: dict[dt.date, list[int | None]] = {}
    for app in _apps_of_days(days):
        for row in app.usage:
            of_day.setdefault(row.date, []).append(row.usage)
    for date, counts in of_day.items():
        sums[date] = None if None in counts else sum(count for count in counts if count is not None)
    return ProjectUsage(usage=_sorted_series(sums))


_Structure: TypeAlias = Callable[[Any, Any], Any]


class _Hooks:
    """The hooks for lists and objects."""

    def __init__(self, converter: Converter) -> None:
        self._hook_for = converter.get_structure_hook
        self.structure_usage: _Structure

    def rows(self, value: object, cls: type) -> list[Any]:
        """Structure a list as cattrs does, but stop at the first error."""
        if value is None:
            return []
        if type(value) is not list:
            raise Violation("a list", value)
        structured: list[Any] = []
        structure = self._hook_for(cls)
        for index, one in enumerate(value):
            try:
                structured.append(structure(one, cls))
            except (Violation, BaseValidationError) as error:
                error.add_note(IterableValidationNote("", index, cls))
                raise IterableValidationError("", [error], list) from None
        return structured

    def items(self, value: object, tuple_type: Any) -> tuple[Any, ...]:
        return tuple(self.rows(value, tuple_type.__args__[0]))

    def series(self, value: Any, _: object = None) -> DailySeries:
        try:
            return _read_columns(value)
        except _IRREGULAR:
            pass
        return _series_of(self.rows(value, DailyUsage))

    def project(self, value: object, _: object) -> ProjectUsage | None:
        if type(value) is not list:
            return None if value is None else self._hook_for(ProjectUsage)(value, ProjectUsage)
        if not _lists_days(value):
            return _one_project(self.rows(value, ProjectUsage))
        if not _lists_apps(value):
            return ProjectUsage(usage=self.series(value))
        return _project_of_days(self.rows(value, _DayWithApps))

    def usage(self, value: object, _: object) -> Usage:
        if type(value) is not dict:
            raise Violation("an object", value)
        usage: Usage = self.structure_usage(value, Usage)
        days = value.get("daily_project_usage")
        if not _lists_days(days):
            return usage
        # These days have no project id, but they list the apps.
        project = evolve(usage.daily_project_usage or ProjectUsage(), project_id=usage.project_id)
        apps = usage.daily_client_app_usage
        if not apps and _lists_apps(days):
            apps = _apps_of_days(self.rows(days, _DayWithApps))
        return evolve(usage, daily_project_usage=project, daily_client_app_usage=apps)


# -- The converter -----------------------------------------------------------------------------------------------------


def _converter(*, exact: bool) -> Converter:
    """Return a converter with the leaves that both configurations share."""
    converter = Converter(detailed_validation=not exact, forbid_extra_keys=exact)
    converter.register_structure_hook_func(lambda cls: cls == (int | None), _count)
    converter.register_structure_hook_func(lambda cls: cls == (str | None), _identifier)
    converter.register_structure_hook(dt.date, _day)
    return converter


def _usage_hook(converter: Converter, reset_day: _Structure) -> _Structure:
    return make_dict_structure_fn(
        Usage,
        converter,
        cap_reset_day=override(struct_hook=reset_day),
        # From the envelope and from the headers, not from the data.
        errors=override(omit=True),
        rate_limit=override(omit=True),
        fetched_at=override(omit=True),
        extra=override(omit=True),
    )


def _exactly() -> _Structure:
    """Return the hook for the live API's shape. Any other value raises one of ``_IRREGULAR``."""
    converter = _converter(exact=True)
    converter.register_structure_hook(DailySeries, _read_exact_columns)
    app = make_dict_structure_fn(ClientAppUsage, converter)
    project = make_dict_structure_fn(ProjectUsage, converter)

    def apps(values: Any, _: object) -> tuple[ClientAppUsage, ...]:
        if type(values) is not list:
            raise TypeError(values)
        return tuple(map(app, values, repeat(ClientAppUsage)))

    def project_or_none(value: Any, _: object) -> ProjectUsage | None:
        return None if value is None else project(value, ProjectUsage)

    converter.register_structure_hook_func(lambda cls: cls == tuple[ClientAppUsage, ...], apps)
    converter.register_structure_hook_func(lambda cls: cls == (ProjectUsage | None), project_or_none)
    return _usage_hook(converter, _reset_day)


def _tolerantly() -> _Structure:
    """Return the hook for every known shape. Any other value raises a ``Violation``, with notes of its path."""
    converter = _converter(exact=False)
    hooks = _Hooks(converter)
    converter.register_structure_hook(DailySeries, hooks.series)
    converter.register_structure_hook_func(lambda cls: cls in _TUPLES, hooks.items)
    converter.register_structure_hook_func(lambda cls: cls == (ProjectUsage | None), hooks.project)
    for cls in (DailyUsage, ProjectUsage, ClientAppUsage, _AppCount, _DayWithApps):
        converter.register_structure_hook(cls, _objects_only(make_dict_structure_fn(cls, converter)))
    hooks.structure_usage = _usage_hook(converter, _reset_day_or_none)
    return hooks.usage


def _objects_only(structure: _Structure) -> _Structure:
    def hook(value: object, cls: Any) -> object:
        if type(value) is dict:
            return structure(value, cls)
        raise Violation("an object", value)

    return hook


_TUPLES = (tuple[ClientAppUsage, ...], tuple[_AppCount, ...])
_EXACT = _exactly()
_TOLERANT = _tolerantly()


# -- Unknown fields: kept at every level -------------------------------------------------------------------------------

_KNOWN_ENVELOPE_FIELDS = {"data", "errors"}
_KNOWN_DATA_FIELDS = fields_dict(Usage).keys() - {"errors", "rate_limit", "fetched_at", "extra"}
_KNOWN_PROJECT_FIELDS = fields_dict(ProjectUsage).keys()
_KNOWN_APP_FIELDS = fields_dict(ClientAppUsage).keys()
_KNOWN_ROW_FIELDS = fields_dict(DailyUsage).keys()
_KNOWN_APP_COUNT_FIELDS = fields_dict(_AppCount).keys()


def _extra_fields(document: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield each unknown field with its path below ``data``. The converter has accepted the document."""
    for name in document:
        if name not in _KNOWN_ENVELOPE_FIELDS:
            yield (f"$.{name}" if name in data else name), document[name]
    yield from _extra_in(data, _KNOWN_DATA_FIELDS)
    project, apps = data.get("daily_project_usage"), data.get("daily_client_app_usage") or ()
    owners = [(f"daily_client_app_usage[{index}]", app, _KNOWN_APP_FIELDS) for index, app in enumerate(apps)]
    if _lists_days(project):
        yield from _extra_in_rows(project, "daily_project_usage")
    elif type(project) is list:
        owners += [(f"daily_project_usage[{index}]", one, _KNOWN_PROJECT_FIELDS) for index, one in enumerate(project)]
    elif project is not None:
        owners.append(("daily_project_usage", project, _KNOWN_PROJECT_FIELDS))
    for path, owner, known in owners:
        if not owner.keys() <= known:
            yield from _extra_in(owner, known, f"{path}.")
        if rows := owner.get("usage"):
            yield from _extra_in_rows(rows, f"{path}.usage")


def _extra_in_rows(rows: Iterable[Mapping[str, Any]], path: str) -> Iterator[tuple[str, object]]:
    for index, row in enumerate(rows):
        if not row.keys() <= _KNOWN_ROW_FIELDS:
            yield from _extra_in(row, _KNOWN_ROW_FIELDS, f"{path}[{index}].")
        if type(counts := row.get("usage")) is list:
            for position, count in enumerate(counts):
                yield from _extra_in(count, _KNOWN_APP_COUNT_FIELDS, f"{path}[{index}].usage[{position}].")


def _extra_in(value: Mapping[str, object], known: AbstractSet[str], path: str = "") -> Iterator[tuple[str, object]]:
    for name in value:
        if name not in known:
            yield path + name, value[name]
