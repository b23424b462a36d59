"""Documents to models: one private cattrs converter, and the envelopes of the same numbers. No I/O, no clock, no HTTP.

Strict about numbers, for the reason that ``json_reader`` gives. Why so tolerant elsewhere: the live API, its older and
its newer documents disagree about the envelope (numbers for strings, lists for objects), and an added field must not
stop anybody's bot.

===========================  =======================================================================================
what cattrs does             why it is not enough here
===========================  =======================================================================================
``int``                      takes ``" 12 "``, ``"1_000"``, ``12.7``, ``True`` and ``"٣"``
``str``                      turns ``None`` into ``'None'``
``date.fromisoformat``       takes ``2023-W44-3``; ``datetime`` takes times without a zone
lists                        iterate over the letters of a string and the keys of an object
===========================  =======================================================================================

An answer that is just what the live API sends does not come here: ``plain`` reads it, several times faster. What that
one does not take is decided here. The converter runs without detailed validation, which is twice as fast; when it
refuses, a second one with the same hooks and detailed validation runs once more, only to name the path.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, TypeGuard

from attrs import evolve, fields_dict, frozen
from cattrs import BaseValidationError, Converter, IterableValidationError, IterableValidationNote
from cattrs.gen import make_dict_structure_fn, override

from twusage.errors import DecodeError
from twusage.json_reader import (
    MISSING,
    TOO_DEEP,
    Flaw,
    decode_document,
    decode_error,
    excerpt,
    listed,
    problem_from,
    too_deep,
)
from twusage.models import EPOCH, ClientAppUsage, DailySeries, DailyUsage, ProjectUsage, RateLimit, Usage
from twusage.plain import MOST_DIGITS, NOT_PLAIN, plain_series, plain_usage, utc_day

__all__ = ["decode_usage", "usage_from"]


def decode_usage(body: bytes) -> Usage:
    """The whole decoding: one answer's body to its values. ``fetched_at`` stays 1970, for there is no clock here.

    Raises ``DecodeError``, and nothing else, for whatever bytes.
    """
    usage = plain_usage(body)
    return usage_from(decode_document(body)) if usage is None else usage


def usage_from(
    document: Mapping[str, object], *, rate_limit: RateLimit | None = None, fetched_at: dt.datetime = EPOCH
) -> Usage:
    """A decoded document to its values. Raises ``DecodeError`` with the path of what is wrong."""
    data = document.get("data")
    path, flaw = "$.data", MISSING
    usage: Usage | None = None
    if data is not None:
        try:
            usage = _structured(data)
        except (Flaw, BaseValidationError) as error:
            path, flaw = _first_leaf(error)
    if usage is None:
        raise decode_error(path, flaw)  # Outside the except: what a person reads is this error alone.
    errors, extra = listed(document.get("errors")), dict(_unknown_fields(document))
    if too_deep([errors, extra]):
        raise DecodeError(TOO_DEEP)
    return evolve(
        usage, errors=tuple(map(problem_from, errors)), rate_limit=rate_limit, fetched_at=fetched_at, extra=extra
    )


# -- Leaves: what a count, an id and a day may look like ---------------------------------------------------------------


def _count(value: object, _: object = None) -> int:
    # type(), because True is an int to isinstance. isascii(), because isdigit() takes the digits of every script.
    if type(value) is str and value.isascii() and value.isdigit() and len(value) <= MOST_DIGITS:
        return int(value)
    if type(value) is int and 0 <= value < 10**MOST_DIGITS:
        return value
    raise Flaw("a count (digits only)", value)


def _day_of_month(value: object, _: object = None) -> int | None:
    if value is None:
        return None
    day = _count(value)
    if 1 <= day <= 31:
        return day
    raise Flaw("a day of the month (1 to 31)", value)


def _identifier(value: object, _: object = None) -> str:
    # Older documents write ids as numbers.
    if type(value) is str or type(value) is int:
        return str(value)
    raise Flaw("an id", value)


def _day(value: object, _: object = None) -> dt.date:
    if type(value) is str and (day := utc_day(value)):
        return day
    raise Flaw("a date (YYYY-MM-DD, or with a time and a zone)", value)


# -- Shapes: the envelopes that the same numbers come in ---------------------------------------------------------------


@frozen
class _AppReads:
    app_id: str | None = None
    tweets_consumed: int | None = None


@frozen
class _DayOfApps:
    """A row of the list that the vendor's documents show for ``daily_project_usage`` since 2026-01."""

    date: dt.date
    usage: tuple[_AppReads, ...] = ()


def _lists_days(value: object) -> TypeGuard[list[Any]]:
    """Whether a list under ``daily_project_usage`` holds days, not projects."""
    return type(value) is list and any(type(item) is dict and "date" in item for item in value)


def _lists_apps(days: list[Any]) -> bool:
    """Whether those days hold apps, not plain counts."""
    return any(type(day) is dict and type(day.get("usage")) is list for day in days)


def _series(days: list[DailyUsage]) -> DailySeries:
    counts: dict[dt.date, int | None] = {}
    for index, day in enumerate(days):
        _put(counts, day.date, day.usage, f"[{index}].usage")
    return _columns(counts)


def _columns(counts: Mapping[dt.date, int | None]) -> DailySeries:
    dates = tuple(sorted(counts))
    return DailySeries(dates, tuple(map(counts.__getitem__, dates)))


def _put(counts: dict[dt.date, int | None], day: dt.date, count: int | None, where: str) -> None:
    """The same day twice is one day; two different counts for it are a contradiction."""
    known = counts.get(day)
    if known is None:
        counts[day] = count
    elif count is not None and count != known:
        raise Flaw(f"the count of {day} to be {known}, as before", count, where)


def _one_project(projects: list[ProjectUsage]) -> ProjectUsage | None:
    if not projects:
        return None
    first, counts = projects[0], dict[dt.date, int | None]()
    for index, project in enumerate(projects):
        if project.project_id != first.project_id:
            raise Flaw(f"project {excerpt(first.project_id)}, as before", project.project_id, f"[{index}].project_id")
        for day in project.usage:
            _put(counts, day.date, day.usage, f"[{index}].usage")
    return ProjectUsage(first.project_id, _columns(counts))


def _apps_of_days(days: list[_DayOfApps]) -> tuple[ClientAppUsage, ...]:
    apps: dict[str | None, dict[dt.date, int | None]] = {}
    for index, day in enumerate(days):
        for position, app in enumerate(day.usage):
            counts = apps.setdefault(app.app_id, {})
            _put(counts, day.date, app.tweets_consumed, f"[{index}].usage[{position}].tweets_consumed")
    return tuple(ClientAppUsage(app_id, _columns(counts)) for app_id, counts in apps.items())


def _project_of_days(days: list[_DayOfApps]) -> ProjectUsage:
    # A day whose apps are not all known, or not named at all, has no known sum.
    sums: dict[dt.date, int | None] = dict.fromkeys(day.date for day in days)
    of_day: dict[dt.date, list[int | None]] = {}
    for app in _apps_of_days(days):
        for row in app.usage:
            of_day.setdefault(row.date, []).append(row.usage)
    for date, counts in of_day.items():
        sums[date] = None if None in counts else sum(count for count in counts if count is not None)
    return ProjectUsage(usage=_columns(sums))


class _Shapes:
    """The hooks for everything that is more than a leaf."""

    def __init__(self, converter: Converter) -> None:
        self._structure = converter.structure
        self._hook = converter.get_structure_hook
        self.whole: Callable[[Mapping[str, Any], Any], Usage]

    def rows(self, value: object, item: type) -> list[Any]:
        """As cattrs structures a list; but it ends with the first item that is wrong, instead of telling of each."""
        if value is None:
            return []
        if type(value) is not list:
            raise Flaw("a list", value)
        structured: list[Any] = []
        structure = self._hook(item)
        for index, one in enumerate(value):
            try:
                structured.append(structure(one, item))
            except (Flaw, BaseValidationError) as error:
                error.add_note(IterableValidationNote("", index, item))
                raise IterableValidationError("", [error], list) from None
        return structured

    def items(self, value: object, cls: Any) -> tuple[Any, ...]:
        return tuple(self.rows(value, cls.__args__[0]))

    def series(self, value: object, _: object = None) -> DailySeries:
        try:
            return plain_series(value)
        except NOT_PLAIN:
            return _series(self.rows(value, DailyUsage))

    def project(self, value: object, _: object) -> ProjectUsage | None:
        if type(value) is not list:
            return None if value is None else self._structure(value, ProjectUsage)
        if not _lists_days(value):
            return _one_project(self.rows(value, ProjectUsage))
        if not _lists_apps(value):
            return ProjectUsage(usage=self.series(value))
        return _project_of_days(self.rows(value, _DayOfApps))

    def usage(self, value: object, _: object) -> Usage:
        if type(value) is not dict:
            raise Flaw("an object", value)
        usage = self.whole(value, Usage)
        days = value.get("daily_project_usage")
        if not _lists_days(days):
            return usage
        # Those days name no project, but tell of the apps as well.
        project = evolve(usage.daily_project_usage or ProjectUsage(), project_id=usage.project_id)
        apps = usage.daily_client_app_usage
        if not apps and _lists_apps(days):
            apps = _apps_of_days(self.rows(days, _DayOfApps))
        return evolve(usage, daily_project_usage=project, daily_client_app_usage=apps)


def _objects_only(converter: Converter, cls: type[Any], *, detailed: bool) -> None:
    structure = make_dict_structure_fn(cls, converter, _cattrs_detailed_validation=detailed)

    def hook(value: object, _: object) -> object:
        if type(value) is dict:
            return structure(value, cls)
        raise Flaw("an object", value)

    converter.register_structure_hook(cls, hook)


def _converter(*, detailed: bool) -> Converter:
    converter = Converter(detailed_validation=detailed)
    shapes = _Shapes(converter)
    converter.register_structure_hook(int, _count)
    converter.register_structure_hook(str, _identifier)
    converter.register_structure_hook(dt.date, _day)
    converter.register_structure_hook(DailySeries, shapes.series)
    converter.register_structure_hook_func(lambda cls: cls in _TUPLES, shapes.items)
    converter.register_structure_hook_func(lambda cls: cls == (ProjectUsage | None), shapes.project)
    for cls in (DailyUsage, ProjectUsage, ClientAppUsage, _AppReads, _DayOfApps):
        _objects_only(converter, cls, detailed=detailed)
    shapes.whole = make_dict_structure_fn(
        Usage,
        converter,
        _cattrs_detailed_validation=detailed,
        cap_reset_day=override(struct_hook=_day_of_month),
        # Told by the envelope and by the headers, not by the data.
        errors=override(omit=True),
        rate_limit=override(omit=True),
        fetched_at=override(omit=True),
        extra=override(omit=True),
    )
    converter.register_structure_hook(Usage, shapes.usage)
    return converter


_TUPLES = (tuple[ClientAppUsage, ...], tuple[_AppReads, ...])
_QUICK = _converter(detailed=False)
_DETAILED = _converter(detailed=True)


def _structured(data: object) -> Usage:
    usage: Usage
    try:
        usage = _QUICK.structure(data, Usage)
    except (BaseValidationError, LookupError, ValueError):
        usage = _DETAILED.structure(data, Usage)  # Once more, to say where it is wrong.
    return usage


def _first_leaf(error: BaseException) -> tuple[str, Flaw]:
    path = "$.data"
    while isinstance(error, BaseValidationError):
        error = error.exceptions[0]
        for note in getattr(error, "__notes__", ()):
            path += f"[{note.index}]" if isinstance(note, IterableValidationNote) else f".{note.name}"
    return path, error if isinstance(error, Flaw) else MISSING  # a KeyError


# -- Unknown fields: kept, wherever they are ---------------------------------------------------------------------------

_ENVELOPE = {"data", "errors"}
_IN_DATA = fields_dict(Usage).keys() - {"errors", "rate_limit", "fetched_at", "extra"}
_IN_PROJECT = fields_dict(ProjectUsage).keys()
_IN_APP = fields_dict(ClientAppUsage).keys()
_IN_DAY = fields_dict(DailyUsage).keys()
_IN_READS = fields_dict(_AppReads).keys()


def _unknown_fields(document: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Each unknown field with its path below ``data``. Runs on what the converter has accepted."""
    data = document["data"]
    for name in document:
        if name not in _ENVELOPE:
            yield (f"$.{name}" if name in data else name), document[name]
    yield from _beyond(data, _IN_DATA)
    project, apps = data.get("daily_project_usage"), data.get("daily_client_app_usage") or ()
    owners = [(f"daily_client_app_usage[{index}]", app, _IN_APP) for index, app in enumerate(apps)]
    if _lists_days(project):
        yield from _beyond_days(project, "daily_project_usage")
    elif type(project) is list:
        owners += [(f"daily_project_usage[{index}]", item, _IN_PROJECT) for index, item in enumerate(project)]
    elif project is not None:
        owners.append(("daily_project_usage", project, _IN_PROJECT))
    for path, owner, known in owners:
        if not owner.keys() <= known:
            yield from _beyond(owner, known, f"{path}.")
        if days := owner.get("usage"):
            yield from _beyond_days(days, f"{path}.usage")


def _beyond_days(days: Iterable[Mapping[str, Any]], path: str) -> Iterator[tuple[str, object]]:
    for index, day in enumerate(days):
        if not day.keys() <= _IN_DAY:
            yield from _beyond(day, _IN_DAY, f"{path}[{index}].")
        if type(reads := day.get("usage")) is list:
            for position, app in enumerate(reads):
                yield from _beyond(app, _IN_READS, f"{path}[{index}].usage[{position}].")


def _beyond(value: Mapping[str, object], known: AbstractSet[str], path: str = "") -> Iterator[tuple[str, object]]:
    for name in value:
        if name not in known:
            yield path + name, value[name]
