"""Bytes to JSON documents and problems: stricter than ``json.loads``, and with a path to what is wrong. Pure.

Why so strict: whoever stops a bot at its cap acts on these numbers. A count that was guessed is worse than an error
that says what is odd. What the documents mean is ``codec``'s business.

===========================  =======================================================================================
what json does               why it is not enough here
===========================  =======================================================================================
``json.loads(bytes)``        guesses UTF-16 and UTF-32; the API speaks UTF-8
NaN, Infinity, 1e999         become floats that compare with nothing
duplicate keys               the last one silently wins
lone surrogates              become strings that cannot be printed or stored
===========================  =======================================================================================
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeAlias

from twusage.errors import DecodeError
from twusage.models import Problem
from twusage.plain import MOST_DIGITS, too_many_values

__all__ = [
    "MISSING",
    "MOST_PROBLEM",
    "TOO_DEEP",
    "Flaw",
    "decode_document",
    "decode_error",
    "decode_problem",
    "excerpt",
    "listed",
    "problem_from",
    "too_deep",
]

_BOM = "\ufeff"
_EXCERPT = 200
# Python's own pickle gives up at 500 levels, and sooner where the stack is deep already.
_MOST_LEVELS = 100
# Bytes beyond which a body is no problem document.
MOST_PROBLEM = 2**16
TOO_DEEP = "$: nested deeper than any answer of this API"


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
        raise decode_error("$", Flaw("an object", document))
    return document


def _read(body: bytes) -> tuple[object, DecodeError | None]:
    text = str(body, "utf-8").removeprefix(_BOM)
    document = _READER.decode(text)
    # Only an escape can write half a surrogate pair.
    return document, _first_flaw(document) if "\\u" in text else None


def decode_problem(body: bytes) -> Problem:
    """The problem that an error's body tells. Never raises: a page from the edge is a problem without fields."""
    if len(body) > MOST_PROBLEM:
        return Problem()
    try:
        document, flaw = _read(body)
    except (RecursionError, ValueError):
        return Problem()
    if flaw is not None or type(document) is not dict or too_deep(document):
        return Problem()
    if document.keys().isdisjoint({"title", "type", "detail"}):
        for problem in listed(document.get("errors")):
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


def listed(value: object) -> list[object]:
    """``errors`` as a list, whatever it is."""
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


# -- JSON, strictly --------------------------------------------------------------------------------------------------


class Flaw(ValueError):  # noqa: N818 - it is found, marked and carried as often as it is raised
    """Something that may not stand in an answer: what was expected, and what was there."""

    def __init__(self, expected: str, value: object, where: str = "") -> None:
        super().__init__(expected)
        self.expected, self.value, self.where = expected, value, where


MISSING = Flaw("a value", None)


def _decoder(found: Callable[[Flaw], object], parse_int: Callable[[str], object] | None = None) -> json.JSONDecoder:
    def unique_keys(pairs: list[tuple[str, object]]) -> object:
        value = dict(pairs)
        return value if len(value) == len(pairs) else found(Flaw("each key once", [key for key, _ in pairs]))

    def finite(digits: str) -> object:
        number = float(digits)
        return number if number - number == 0 else found(Flaw("a finite number", digits))

    return json.JSONDecoder(
        object_pairs_hook=unique_keys,
        parse_float=finite,
        parse_int=parse_int,
        parse_constant=lambda name: found(Flaw("a JSON value", name)),
    )


def _raise(flaw: Flaw) -> NoReturn:
    raise flaw


def _short_int(digits: str) -> object:
    return int(digits) if len(digits) <= MOST_DIGITS else Flaw(f"at most {MOST_DIGITS} digits", digits)


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
            todo.extend(((path, key), Flaw("text", key)) for key in value if not _printable(key))
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
        if isinstance(value, Flaw):
            return decode_error(_written(path), value)
        if isinstance(value, str) and not _printable(value):
            return decode_error(_written(path), Flaw("text, not half a character", value))
    return None


def too_deep(value: object) -> bool:
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
        return DecodeError(TOO_DEEP, excerpt=shown)
    else:
        return flaw or DecodeError("$: not readable", excerpt=shown)
    return DecodeError(f"{what}: {shown}", excerpt=shown, retry_once=True)


def decode_error(path: str, flaw: Flaw) -> DecodeError:
    # A path may hold keys of the document, and those may hold anything.
    path = ascii(path + flaw.where)[1:-1][:_EXCERPT]
    if flaw is MISSING:
        return DecodeError(f"{path}: missing", path=path)
    shown = excerpt(flaw.value)
    return DecodeError(f"{path}: expected {flaw.expected}, got {shown}", path=path, excerpt=shown)


def _readable(body: bytes) -> str:
    return _escaped(body[:_EXCERPT].decode("utf-8", "replace"))[1:-1][:_EXCERPT]


def _escaped(text: str) -> str:
    return json.dumps(text).replace("\x7f", "\\u007f")  # the one control character that JSON lets through


_BRIEF = reprlib.Repr()
_BRIEF.maxother = _BRIEF.maxlong = _BRIEF.maxstring = _EXCERPT
