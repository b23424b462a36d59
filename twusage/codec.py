"""Bytes to models: strict JSON first, then one private cattrs converter. No I/O, no clock, no HTTP.

Why so strict: whoever stops a bot at its cap acts on these numbers. A count that was guessed is worse than an error
that says what is odd. Why so tolerant elsewhere: the live API, its older and its newer documents disagree about the
envelope of the same numbers (numbers for strings, lists for objects), and an added field must not stop anybody's bot.

===========================  =======================================================================================
what json and cattrs do      why it is not enough here
===========================  =======================================================================================
``json.loads(bytes)``        guesses UTF-16 and UTF-32; the API speaks UTF-8
NaN, Infinity, 1e999         become floats that compare with nothing
duplicate keys               the last one silently wins
lone surrogates              become strings that cannot be printed or stored
``int`` in cattrs            takes ``" 12 "``, ``"1_000"``, ``12.7``, ``True`` and ``"٣"``
``str`` in cattrs            turns ``None`` into ``'None'``
``date.fromisoformat``       takes ``2023-W44-3``; ``datetime`` takes times without a zone
lists in cattrs              iterate over the letters of a string and the keys of an object
===========================  =======================================================================================

An answer that is just what the live API sends does not come here: ``plain`` reads it, several times faster. What that
one does not take is decided here. The converter runs without detailed validation, which is twice as fast; when it
refuses, a second one with the same hooks and detailed validation runs once more, only to name the path.
"""

from __future__ import annotations

import datetime as dt
import json
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, NoReturn, TypeAlias, TypeGuard

from attrs import evolve, fields_dict, frozen
from cattrs import BaseValidationError, Converter, IterableValidationError, IterableValidationNote
from cattrs.gen import make_dict_structure_fn, override

from twusage.errors import DecodeError
from twusage.models import EPOCH, ClientAppUsage, DailySeries, DailyUsage, Problem, ProjectUsage, RateLimit, Usage
from twusage.plain import MOST_DIGITS, NOT_PLAIN, plain_series, plain_usage, too_many_values, utc_day

__all__ = ["decode_document", "decode_problem", "decode_usage", "excerpt", "problem_from", "usage_from"]

_BOM = "\ufeff"
_EXCERPT = 200
# Python's own pickle gives up at 500 levels, and sooner where the stack is deep already.
_MOST_LEVELS = 100
# Bytes beyond which a body is no problem document.
MOST_PROBLEM = 2**16
_TOO_DEEP = "$: nested deeper than any answer of this API"


def decode_usage(body: bytes, *, rate_limit: RateLimit | None = None, fetched_at: dt.datetime = EPOCH) -> Usage:
    """The whole decoding: one answer's body to its values. ``fetched_at`` stays 1970, for there is no clock here.

    Raises ``DecodeError``, and nothing else, for whatever bytes.
    """
    usage = plain_usage(body, rate_limit=rate_limit, fetched_at=fetched_at)
    if usage is None:
        usage = usage_from(decode_document(body), rate_limit=rate_limit, fetched_at=fetched_at)
    return usage


def decode_document(body: bytes) -> dict[str, object]:
    """The body as a JSON object, by a stricter reading than ``json.loads``. Raises ``DecodeError``."""
    if too_many_values(body):
        raise DecodeError("$: more values than any answer of this API")
    try:
        document, flaw = _read(body)
    except (RecursionError, ValueError):
        document, flaw = None, _reason(body)
    # Raised out here: what a person reads is this error alone, without Python's own as its context.
    if flaw is not None:
        raise flaw
    if type(document) is not dict:
        raise _decode_error("$", _Flaw("an object", document))
    return document


def _read(body: bytes) -> tuple[object, DecodeError | None]:
    text = str(body, "utf-8").removeprefix(_BOM)
    document = _READER.decode(text)
    # Only an escape can write half a surrogate pair.
    return document, _first_flaw(document) if "\\u" in text else None


def usage_from(
    document: Mapping[str, object], *, rate_limit: RateLimit | None = None, fetched_at: dt.datetime = EPOCH
) -> Usage:
    """A decoded document to its values. Raises ``DecodeError`` with the path of what is wrong."""
    data = document.get("data")
    data = document.get("data")
    path, flaw = "$.data", _MISSING
    usage: Usage | None = None
    if data is not None:
        try:
            usage = _structured(data)
        except (_Flaw, BaseValidationError) as error:
            path, flaw = _first_leaf(error)
    if usage is None:
        raise _decode_error(path, flaw)  # Outside the except: what a person reads is this error alone.
    errors, extra = _listed(document.get("errors")), dict(_unknown_fields(document))
    if _too_deep([errors, extra]):
        raise DecodeError(_TOO_DEEP)
    return evolve(
        usage, errors=tuple(map(problem_from, errors)), rate_limit=rate_limit, fetched_at=fetched_at, extra=extra
    )


def decode_problem(body: bytes) -> Problem:
    """The problem that an error's body tells. Never raises: a page from the edge is a problem without fields."""
    if len(body) > MOST_PROBLEM:
        return Problem()
    try:
        document, flaw = _read(body)
    except (RecursionError, ValueError):
        return Problem()
    if flaw is not None or type(document) is not dict or _too_deep(document):
        return Problem()
    if document.keys().isdisjoint({"title", "type", "detail"}):
        for problem in _listed(document.get("errors")):
            return problem_from(problem)
    return problem_from(document)


def problem_from(value: object) -> Problem:
    """One problem, in any of the shapes that this API family has. Never raises."""
    if not isinstance(value, dict):
        return Problem(detail=value if isinstance(value, str) else None)
    extra = dict(value)
    named: dict[str, Any] = {
        name: extra.pop(name) for name in ("title", "type", "detail") if isinstance(extra.get(name), str)
    }
    if type(extra.get("status")) is int:
        named["status"] = extra.pop("status")
    if isinstance(extra.get("message"), str):  # The family's older shape: {"code": 89, "message": "..."}
        named.setdefault("detail", extra["message"])
    return Problem(**named, extra=extra)


def excerpt(value: object) -> str:
    """What stood in the document: escaped, so that it is safe to print, and at most 200 characters."""
    if isinstance(value, str):
        return _escaped(value[:_EXCERPT])[:_EXCERPT]
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return ascii(_BRIEF.repr(value))[1:-1][:_EXCERPT]


# -- JSON, strictly --------------------------------------------------------------------------------------------------


class _Flaw(ValueError):  # noqa: N818 - it is found, marked and carried as often as it is raised
    """Something that may not stand in an answer: what was expected, and what was there."""

    def __init__(self, expected: str, value: object, where: str = "") -> None:
        super().__init__(expected)
        self.expected, self.value, self.where = expected, value, where


_MISSING = _Flaw("a value", None)


def _decoder(found: Callable[[_Flaw], object], parse_int: Callable[[str], object] | None = None) -> json.JSONDecoder:
    def unique_keys(pairs: list[tuple[str, object]]) -> object:
        value = dict(pairs)
        return value if len(value) == len(pairs) else found(_Flaw("each key once", [key for key, _ in pairs]))

    def finite(digits: str) -> object:
        number = float(digits)
        return number if number - number == 0 else found(_Flaw("a finite number", digits))

    return json.JSONDecoder(
        object_pairs_hook=unique_keys,
        parse_float=finite,
        parse_int=parse_int,
        parse_constant=lambda name: found(_Flaw("a JSON value", name)),
    )


def _raise(flaw: _Flaw) -> NoReturn:
    raise flaw


def _short_int(digits: str) -> object:
    return int(digits) if len(digits) <= MOST_DIGITS else _Flaw(f"at most {MOST_DIGITS} digits", digits)


_READER = _decoder(_raise)
# Leaves a flaw where it stands, so that a walk over the document finds its path.
_LOCATOR = _decoder(lambda flaw: flaw, parse_int=_short_int)


# A path as it is walked: the step, and the path before it. Written out only where it is told: for every value of a
# long list below a long key, it would be as long as the key.
_Path: TypeAlias = "tuple[_Path | None, str | int]"


def _walk(document: object) -> Iterator[tuple[_Path, object]]:
    """Every value with its path, without recursion."""
    todo: list[tuple[_Path, object]] = [((None, "$"), document)]
    while todo:
        path, value = todo.pop()
        yield path, value
        if isinstance(value, dict):
            todo.extend(((path, key), item) for key, item in value.items())
            todo.extend(((path, key), _Flaw("text", key)) for key in value if not _printable(key))
        elif isinstance(value, list):
            todo.extend(((path, index), item) for index, item in enumerate(value))


def _written(path: _Path) -> str:
    steps: list[str] = []
    at: _Path | None = path
    while at is not None:
        at, step = at
        steps.append(f"[{step}]" if isinstance(step, int) else f".{step[:_EXCERPT]}")
    return "".join(reversed(steps))[1:]


def _printable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _first_flaw(document: object) -> DecodeError | None:
    for path, value in _walk(document):
        if isinstance(value, _Flaw):
            return _decode_error(_written(path), value)
        if isinstance(value, str) and not _printable(value):
            return _decode_error(_written(path), _Flaw("text, not half a character", value))
    return None


def _too_deep(value: object) -> bool:
    """Whether it is nested so deep that a value which keeps it could not be pickled, copied or shown on every stack."""
    level: list[Any] = [value]
    for _ in range(_MOST_LEVELS):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _reason(body: bytes) -> DecodeError:
    """Why the reader refuses the body."""
    shown = _readable(body)
    try:
        flaw = _first_flaw(_LOCATOR.decode(str(body, "utf-8").removeprefix(_BOM)))
    except UnicodeDecodeError as error:
        what = f"the answer is not UTF-8 (at byte {error.start})"
    except json.JSONDecodeError as error:
        what = f"the answer is not JSON ({error.msg}, at character {error.pos})"
    except RecursionError:
        return DecodeError(_TOO_DEEP, excerpt=shown)
    else:
        return flaw or DecodeError("$: not readable", excerpt=shown)
    return DecodeError(f"{what}: {shown}", excerpt=shown, retry_once=True)


def _decode_error(path: str, flaw: _Flaw) -> DecodeError:
    # A path may hold keys of the document, and those may hold anything.
    path = ascii(path + flaw.where)[1:-1][:_EXCERPT]
    if flaw is _MISSING:
        return DecodeError(f"{path}: missing", path=path)
    shown = excerpt(flaw.value)
    return DecodeError(f"{path}: expected {flaw.expected}, got {shown}", path=path, excerpt=shown)


def _readable(body: bytes) -> str:
    return _escaped(body[:_EXCERPT].decode("utf-8", "replace"))[1:-1][:_EXCERPT]


def _escaped(text: str) -> str:
    return json.dumps(text).replace("\x7f", "\\u007f")  # the one control character that JSON lets through


_BRIEF = reprlib.Repr()
_BRIEF.maxother = _BRIEF.maxlong = _BRIEF.maxstring = _EXCERPT


# -- Leaves: what a count, an id and a day may look like ---------------------------------------------------------------


def _count(value: object, _: object = None) -> int:
    # type(), because True is an int to isinstance. isascii(), because isdigit() takes the digits of every script.
    if type(value) is str and value.isascii() and value.isdigit() and len(value) <= MOST_DIGITS:
        return int(value)
    if type(value) is int and 0 <= value < 10**MOST_DIGITS:
        return value
    raise _Flaw("a count (digits only)", value)


def _day_of_month(value: object, _: object = None) -> int | None:
    if value is None:
        return None
    day = _count(value)
    if 1 <= day <= 31:
        return day
    raise _Flaw("a day of the month (1 to 31)", value)


def _identifier(value: object, _: object = None) -> str:
    # Older documents write ids as numbers.
    if type(value) is str or type(value) is int:
        return str(value)
    raise _Flaw("an id", value)


def _day(value: object, _: object = None) -> dt.date:
    if type(value) is str and (day := utc_day(value)):
        return day
    raise _Flaw("a date (YYYY-MM-DD, or with a time and a zone)", value)


def _listed(value: object) -> list[object]:
    """``errors`` as a list, whatever it is."""
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


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
        raise _Flaw(f"the count of {day} to be {known}, as before", count, where)


def _one_project(projects: list[ProjectUsage]) -> ProjectUsage | None:
    if not projects:
        return None
    first, counts = projects[0], dict[dt.date, int | None]()
    for index, project in enumerate(projects):
        if project.project_id != first.project_id:
            raise _Flaw(f"project {excerpt(first.project_id)}, as before", project.project_id, f"[{index}].project_id")
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
            raise _Flaw("a list", value)
        structured: list[Any] = []
        structure = self._hook(item)
        for index, one in enumerate(value):
            try:
                structured.append(structure(one, item))
            except (_Flaw, BaseValidationError) as error:
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
            raise _Flaw("an object", value)
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
        raise _Flaw("an object", value)

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


def _first_leaf(error: BaseException) -> tuple[str, _Flaw]:
    path = "$.data"
    while isinstance(error, BaseValidationError):
        error = error.exceptions[0]
        for note in getattr(error, "__notes__", ()):
            path += f"[{note.index}]" if isinstance(note, IterableValidationNote) else f".{note.name}"
    return path, error if isinstance(error, _Flaw) else _MISSING  # a KeyError


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
