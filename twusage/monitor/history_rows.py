"""The rows of a history, from responses, and from and to CSV. No database.

What belongs here: what is stored of a response, and which values are rejected before anything is stored.
"""

from __future__ import annotations

import csv
import datetime as dt
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, TypeAlias

from attrs import frozen

from twusage.errors import InvalidRequestError
from twusage.models import EPOCH, Usage
from twusage.monitor.cycle import cycle_of

__all__ = [
    "PROJECT",
    "CycleRecord",
    "Row",
    "believed_cycles",
    "checked_text",
    "instant_of",
    "microseconds",
    "read_rows",
    "row_of_cycle",
    "rows_of_days",
    "write_rows",
]

Row: TypeAlias = dict[str, Any]
Key: TypeAlias = tuple[str, dt.date, str]

_HEADER = ["project_id", "client_app_id", "date", "usage", "seen_at"]
# The app id under which the project's own days are stored.
PROJECT = ""
# The project id of a response without one; event keys have the same.
_UNKNOWN = "-"
_LARGEST = 2**63 - 1
_MICROSECOND = dt.timedelta(microseconds=1)


@frozen
class CycleRecord:
    """The newest counts that were recorded of one billing cycle."""

    start: dt.date
    """The first day, UTC."""
    end: dt.date
    """The day after the last one."""
    cap: int | None
    """Posts that the project may read in the cycle; ``None`` if unknown."""
    usage: int | None
    """Posts read in the cycle; ``None`` if unknown."""
    seen_at: dt.datetime
    """When the newest response with one of these counts arrived, UTC."""


def believed_cycles(rows: Sequence[Mapping[Any, Any]]) -> tuple[CycleRecord, ...]:
    """Return the rows of a project's cycles. Counts that may still be those of the cycle before are omitted."""
    previous = {row["end"]: row["reads"] for row in rows}
    return tuple(
        CycleRecord(row["start"], row["end"], row["cap"], row["reads"], instant_of(max(row["seen"], row["cap_seen"])))
        for row in rows
        if not _is_left_over(row, previous.get(row["start"]))
    )


def _is_left_over(row: Mapping[Any, Any], previous: int | None) -> bool:
    if row["reads"] is None or previous is None or row["reads"] < previous:
        return False
    return instant_of(row["seen"]) < dt.datetime.combine(row["start"], dt.time(), dt.UTC) + dt.timedelta(days=1)


def rows_of_days(usage: Usage) -> list[Row]:
    """Return the known counts of the project and the identified apps."""
    project, seen = _project_of(usage), _seen(usage)
    series = [(app.client_app_id, app.usage) for app in usage.daily_client_app_usage if app.client_app_id]
    if usage.daily_project_usage is not None:
        series.append((PROJECT, usage.daily_project_usage.usage))
    return _sorted_rows(
        ((project, day, checked_text("client_app_id", app)), _checked_count(count), seen)
        for app, days in series
        for day, count in zip(days.dates, days.counts, strict=True)
        if count is not None
    )


def _sorted_rows(rows: Iterable[tuple[Key, int, int]]) -> list[Row]:
    """The rows in one order for all writers: PostgreSQL locks them one by one, and would find a deadlock."""
    return [
        {"project": project, "day": day, "app": app, "reads": reads, "seen": seen}
        for (project, day, app), reads, seen in sorted(rows)
    ]


def row_of_cycle(usage: Usage) -> Row | None:
    """Return cap and count of the billing cycle. ``None`` if the cycle or both are unknown."""
    cap, reads, seen = usage.project_cap, usage.project_usage, _seen(usage)
    cycle = cycle_of(usage)
    if cycle is None or (cap is None and reads is None):
        return None
    return {
        "project": _project_of(usage),
        "start": cycle.start,
        "end": cycle.end,
        "cap": None if cap is None else _checked_count(cap),
        "reads": None if reads is None else _checked_count(reads),
        "seen": 0 if reads is None else seen,
        "cap_seen": 0 if cap is None else seen,
    }


def _project_of(usage: Usage) -> str:
    days = usage.daily_project_usage
    return checked_text("project_id", usage.project_id or (days and days.project_id) or _UNKNOWN)


def _seen(usage: Usage) -> int:
    seen = microseconds("fetched_at", usage.fetched_at)
    if seen <= 0:
        raise InvalidRequestError(f"fetched_at must be the time of the response, got {usage.fetched_at.isoformat()}")
    return seen


def microseconds(name: str, instant: dt.datetime) -> int:
    """Microseconds since 1970."""
    if not isinstance(instant, dt.datetime) or instant.tzinfo is None:
        raise InvalidRequestError(f"{name} must be a datetime with a time zone, got {instant!r}")
    return (instant - EPOCH) // _MICROSECOND


def instant_of(microseconds: int) -> dt.datetime:
    """The instant that many microseconds after 1970, UTC."""
    return EPOCH + microseconds * _MICROSECOND


def _checked_count(count: int) -> int:
    if not 0 <= count <= _LARGEST:
        raise InvalidRequestError(f"a count must be between 0 and 2**63 - 1, got {count}")
    return count


def checked_text(name: str, text: str) -> str:
    """The text, if both databases can store it."""
    # PostgreSQL refuses NUL, and neither stores a lone surrogate.
    if not isinstance(text, str) or "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise InvalidRequestError(f"{name} must be a string without NUL and surrogates, got {text!r}")
    return text


@contextmanager
def _text_file(file: TextIO | str | os.PathLike[str], mode: str) -> Iterator[TextIO]:
    if isinstance(file, str | os.PathLike):
        with Path(file).open(mode, encoding="utf-8", newline="") as opened:
            yield opened  # type: ignore[misc]  # the mode is one of text
    else:
        yield file


def write_rows(file: TextIO | str | os.PathLike[str], rows: Iterable[Mapping[Any, Any]]) -> int:
    """Write these rows as CSV, and return their number."""
    number = 0
    with _text_file(file, "w") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_HEADER)
        for row in rows:
            seen_at = instant_of(row["seen"]).isoformat()
            writer.writerow([row["project"], row["app"], row["day"], row["reads"], seen_at])
            number += 1
    return number


def read_rows(file: TextIO | str | os.PathLike[str]) -> list[Row]:
    """Return the rows of ``write_rows``, or an ``InvalidRequestError`` that names the line."""
    with _text_file(file, "r") as text:
        reader = csv.reader(text, strict=True)
        try:
            header = next(reader, None)
            rows = [_read_row(fields) for fields in reader] if header == _HEADER else None
        except (csv.Error, ValueError) as error:
            raise InvalidRequestError(f"line {reader.line_num} of the CSV is malformed: {error}") from None
    if rows is None:
        raise InvalidRequestError(f"the CSV must begin with {','.join(_HEADER)}, got {header!r:.200}")
    return _sorted_rows(rows)


def _read_row(fields: list[str]) -> tuple[Key, int, int]:
    project, app, day, reads, seen_at = fields
    if not (project and re.fullmatch(r"\d{4}-\d\d-\d\d", day) and re.fullmatch(r"[0-9]{1,19}", reads)):
        raise ValueError(f"{fields!r:.200}")
    seen = microseconds("seen_at", dt.datetime.fromisoformat(seen_at))
    if seen <= 0:
        raise ValueError(f"{seen_at!r} is not after 1970")
    key = checked_text("project_id", project), dt.date.fromisoformat(day), checked_text("client_app_id", app)
    return key, _checked_count(int(reads)), seen
