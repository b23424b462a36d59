"""Strict JSON: response bodies to documents and problem documents. Pure: no models of the usage, no HTTP.

Stricter than ``json.loads``, because a bot stops at its cap by these numbers: a guessed count is worse than an error
that names the place.

===========================  =======================================================================================
what json does               what happens here
===========================  =======================================================================================
``json.loads(bytes)``        guesses UTF-16 and UTF-32; the API sends UTF-8 only
NaN, Infinity, 1e999         become floats that compare with nothing: ``DecodeError``
lone surrogates              become strings that cannot be printed or stored: ``DecodeError``
thousands of levels          raise ``RecursionError``: ``DecodeError``
duplicate keys               the last one counts, as in every JSON parser
===========================  =======================================================================================

The fast parser rejects all of these without naming the place. A body that it rejects is read a second time by a slower
parser, which does.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any, TypeAlias

from twusage.errors import DecodeError
from twusage.models import Problem

__all__ = [
    "BACKSLASH",
    "MAX_DIGITS",
    "MAX_PROBLEM",
    "MISSING",
    "TOO_DEEP",
    "Violation",
    "as_list",
    "decode_document",
    "decode_error",
    "decode_problem",
    "excerpt",
    "is_unfamiliar",
    "parse_digits",
    "problem_from",
    "too_deep",
]

_BOM = "\ufeff"
# A number, because ``b"x" in body`` raises and catches a TypeError: 2 % of decoding a small body.
BACKSLASH = ord("\\")
_EXCERPT = 200
# No count has this many digits, and int() of a long string costs quadratic time.
MAX_DIGITS = 100
# 90 days of 1,000 apps have 181,000 commas. 8 KB of gzip inflate to millions, which take seconds to read.
_MAX_VALUES = 400_000
# pickle raises RecursionError at 500 levels, and sooner on a deep stack.
_MAX_LEVELS = 100
# Bytes beyond which a body is not a problem document.
MAX_PROBLEM = 2**16
TOO_DEEP = "$: nested deeper than any response of this API"


def decode_document(body: bytes) -> dict[str, object]:
    """Return the JSON object that a body holds. Raises ``DecodeError``."""
    if _has_too_many_values(body):
        raise DecodeError("$: more values than any response of this API")
    try:
        document = _parser()(body)
    except Exception:  # noqa: BLE001 - json and msgspec raise different classes
        document, error = _parse_strictly(body)
    else:
        # Only an escape can encode half a surrogate pair. One byte first: CPython searches for it with memchr (2 µs in
        # 56 KB), but not for two bytes (60 µs).
        error = _first_violation(document) if BACKSLASH in body and _SURROGATE.search(body) else None
    # Raised here, so that the traceback shows this error alone, without the parser's as its context.
    if error is not None:
        raise error
    if type(document) is not dict:
        raise decode_error("$", Violation("an object", document))
    return document


_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def _has_too_many_values(body: bytes) -> bool:
    return len(body) > _MAX_VALUES and body.count(b",") > _MAX_VALUES


def decode_problem(body: bytes) -> Problem:
    """Return the problem of an error's body. It has no fields if the body is a page. Never raises."""
    if len(body) > MAX_PROBLEM:
        return Problem()
    try:
        document = decode_document(body)
    except DecodeError:
        return Problem()
    if too_deep(document):
        return Problem()
    if document.keys().isdisjoint({"title", "type", "detail"}):
        for problem in as_list(document.get("errors")):
            return problem_from(problem)
        if isinstance(document.get("error"), dict):  # of another service
            return problem_from(document["error"])
    return problem_from(document)


_FAMILIAR = {"title", "type", "detail", "errors", "data", "code"}


def is_unfamiliar(body: bytes) -> bool:
    """Return whether a body is a JSON object with none of the names of this API's problems. Never raises."""
    try:
        document = decode_document(body)
    except DecodeError:
        return False
    return bool(document) and document.keys().isdisjoint(_FAMILIAR)


def problem_from(value: object) -> Problem:
    """Return one problem, from any of the shapes of this API family. Never raises."""
    if not isinstance(value, dict):
        return Problem(detail=value if isinstance(value, str) else None)
    extra = dict(value)
    named: dict[str, Any] = {
        name: extra.pop(name) for name in ("title", "type", "detail") if isinstance(extra.get(name), str)
    }
    if type(extra.get("status")) is int:
        named["status"] = extra.pop("status")
    # "message" is the older shape of this API family, {"code": 89, "message": "..."}; the others are of gateways.
    for name in ("message", "error_description", "error"):
        if isinstance(extra.get(name), str):
            named.setdefault("detail", extra[name])
    return Problem(**named, extra=extra)


def excerpt(value: object) -> str:
    """Return a document's value as printable ASCII of at most 200 characters."""
    if isinstance(value, str):
        return _escaped(value[:_EXCERPT])[:_EXCERPT]
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return ascii(_BRIEF.repr(value))[1:-1][:_EXCERPT]


def as_list(value: object) -> list[object]:
    """Return ``errors`` as a list, whatever its type."""
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


# -- Parsers -----------------------------------------------------------------------------------------------------------


class Violation(ValueError):  # noqa: N818 - used as a value as well as raised
    """A value that a response must not contain, with the expected one."""

    def __init__(self, expected: str, value: object, where: str = "") -> None:
        super().__init__(expected)
        self.expected, self.value, self.where = expected, value, where


MISSING = Violation("a value", None)


def _finite(digits: str) -> float:
    number = float(digits)
    if number - number != 0:
        raise Violation("a finite number", digits)
    return number


def _reject_constant(name: str) -> object:
    raise Violation("a JSON value", name)


# Its hooks cost nothing on valid bodies, which never call them.
_JSON = json.JSONDecoder(parse_float=_finite, parse_constant=_reject_constant)


def _parse_with_json(body: bytes | str) -> Any:
    text = (body if isinstance(body, str) else str(body, "utf-8")).strip(" \t\n\r")
    # decode() finds the two ends with regular expressions, which take a quarter of the time of a small body.
    document, end = _JSON.raw_decode(text)
    if end != len(text):
        raise ValueError(end)
    return document


@cache  # Not at import time: importing msgspec takes 20 ms.
def _parser() -> Callable[[bytes | str], Any]:
    """Return the fast parser: msgspec's with the extra ``speed``. Both reject the same."""
    with suppress(ImportError):
        from msgspec.json import decode

        return decode
    return _parse_with_json


def parse_digits(texts: list[str]) -> tuple[int, ...]:
    """Return strings of ASCII digits as numbers. Raises ``TypeError`` or ``ValueError``."""
    if not "".join(texts).encode().isdigit():
        raise ValueError(texts)
    # For 90 counts json takes three quarters of int()'s time, and msgspec a third.
    if len(texts) > _FEW:
        try:
            return tuple(_parser()(f"[{','.join(texts)}]"))
        except Exception:  # noqa: BLE001, S110 - JSON has no leading zeros
            pass
    return tuple(map(int, texts))


_FEW = 10


def _finite_or_violation(digits: str) -> object:
    try:
        return _finite(digits)
    except Violation as violation:
        return violation


def _int_or_violation(digits: str) -> object:
    try:
        return int(digits)
    except ValueError:  # more digits than sys.get_int_max_str_digits()
        return Violation(f"at most {MAX_DIGITS} digits", digits)


# Leaves each violation in its place, so that a walk over the document finds its path.
_LOCATOR = json.JSONDecoder(
    parse_float=_finite_or_violation,
    parse_int=_int_or_violation,
    parse_constant=lambda name: Violation("a JSON value", name),
)


def _parse_strictly(body: bytes) -> tuple[object, DecodeError | None]:
    shown = _printable_prefix(body)
    try:
        document = _LOCATOR.decode(str(body, "utf-8").removeprefix(_BOM))
    except UnicodeDecodeError as error:
        reason = f"the response is not UTF-8 (at byte {error.start})"
    except json.JSONDecodeError as error:
        reason = f"the response is not JSON ({error.msg}, at character {error.pos})"
    except RecursionError:
        return None, DecodeError(TOO_DEEP, excerpt=shown)
    else:
        return document, _first_violation(document)
    return None, DecodeError(f"{reason}: {shown}", excerpt=shown, retry_once=True)


# A linked list: the path before, and the step. Formatted only for errors, because strings for each value would cost
# quadratic time for a long list below a long key.
_Path: TypeAlias = "tuple[_Path | None, str | int]"


_ENCODABLE = "a string without lone surrogates"


def _walk(document: object) -> Iterator[tuple[_Path, object]]:
    """Yield every value with its path, without recursion."""
    todo: list[tuple[_Path, object]] = [((None, "$"), document)]
    while todo:
        path, value = todo.pop()
        yield path, value
        if isinstance(value, dict):
            todo.extend(((path, key), item) for key, item in value.items())
            todo.extend(((path, key), Violation(_ENCODABLE, key)) for key in value if not _printable(key))
        elif isinstance(value, list):
            todo.extend(((path, index), item) for index, item in enumerate(value))


def _first_violation(document: object) -> DecodeError | None:
    for path, value in _walk(document):
        if isinstance(value, Violation):
            return decode_error(_format_path(path), value)
        if isinstance(value, str) and not _printable(value):
            return decode_error(_format_path(path), Violation(_ENCODABLE, value))
    return None


def _format_path(path: _Path) -> str:
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


def too_deep(value: object) -> bool:
    """Return whether a value's nesting is too deep for pickle and copy."""
    level: list[Any] = [value]
    for _ in range(_MAX_LEVELS):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def decode_error(path: str, violation: Violation) -> DecodeError:
    """Return the error that names a path and what is wrong there."""
    # The path may contain keys of the document, which may contain anything.
    path = ascii(path + violation.where)[1:-1][:_EXCERPT]
    if violation is MISSING:
        return DecodeError(f"{path}: missing", path=path)
    shown = excerpt(violation.value)
    return DecodeError(f"{path}: expected {violation.expected}, got {shown}", path=path, excerpt=shown)


def _printable_prefix(body: bytes) -> str:
    return _escaped(body[:_EXCERPT].decode("utf-8", "replace"))[1:-1][:_EXCERPT]


def _escaped(text: str) -> str:
    return json.dumps(text).replace("\x7f", "\\u007f")  # the only control character that json.dumps does not escape


_BRIEF = reprlib.Repr()
_BRIEF.maxother = _BRIEF.maxlong = _BRIEF.maxstring = _EXCERPT
