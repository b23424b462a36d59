"""Every document that is valid by the vendor's OpenAPI description decodes. Each of its daily rows must have a date."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twusage.codec import decode_usage

SCHEMA: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "vendor_schema.json").read_text(encoding="utf-8")
)
INT32 = 2**31
# A zone may move a day by one: the years at both ends of Python's calendar would leave it.
TIMES = st.datetimes(dt.datetime(2, 1, 1), dt.datetime(9998, 1, 1))  # noqa: DTZ001 - the zone is drawn
OFFSETS = st.none() | st.integers(-23 * 60 - 59, 23 * 60 + 59)
SCALARS = st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


def values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return a strategy of valid values of a schema with the vendor's few keywords."""
    schema = SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema
    match schema:
        case {"type": "object"}:
            return objects(schema)
        case {"type": "array"}:
            return st.lists(values(schema["items"]), max_size=4).map(one_count_a_day)
        case {"type": "integer"}:
            low = schema.get("minimum", -INT32)
            return st.integers(low, INT32 - 1) | st.integers(low, 40)
        case {"format": "date-time"}:
            return st.builds(date_time, TIMES, OFFSETS, st.text("0123456789", max_size=12), st.booleans())
        case {"pattern": pattern}:
            return st.from_regex(pattern.replace("$", r"\Z"), fullmatch=True)
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def objects(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return objects of known fields, with an unknown one sometimes. Nothing forbids it."""
    fields = {name: values(field) for name, field in schema["properties"].items()}
    required = {name: fields.pop(name) for name in schema.get("required", ())}
    return st.fixed_dictionaries(required, optional=fields | {"unknown": SCALARS})


def date_time(time: dt.datetime, offset: int | None, fraction: str, leap: bool) -> str:
    """Return an RFC 3339 time; its 60th second is a leap second's."""
    seconds = "60" if leap else f"{time:%S}"
    zone = "Z" if offset is None else f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02}:{abs(offset) % 60:02}"
    return f"{time.year:04}-{time:%m-%dT%H:%M}:{seconds}{fraction and '.'}{fraction}{zone}"


def one_count_a_day(items: list[Any]) -> list[Any]:
    """Return the rows without those of a day that another row has."""
    rows = {utc_day(item["date"]) if "date" in item else index: item for index, item in enumerate(items)}
    return list(rows.values())


def utc_day(text: str) -> dt.date:
    """Return the UTC day of such a time, by another way than the decoder's."""
    zone = 0 if text.endswith("Z") else int(text[-6] + "1") * (int(text[-5:-3]) * 60 + int(text[-2:]))
    local = dt.datetime(*map(int, (text[:4], text[5:7], text[8:10], text[11:13], text[14:16])))  # type: ignore[arg-type]  # noqa: DTZ001
    return (local - dt.timedelta(minutes=zone)).date()


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(values(SCHEMA))
def test_all_that_is_valid_decodes(document: dict[str, Any]) -> None:
    """No valid document is refused, and every count, day and unknown field is decoded."""
    usage = decode_usage(json.dumps(document).encode())
    data = document["data"]
    assert (usage.project_id, usage.project_cap) == (data.get("project_id"), data.get("project_cap"))
    day = data.get("cap_reset_day")
    assert usage.cap_reset_day == (day if day in range(1, 32) else None)
    assert usage.extra.get("cap_reset_day") == (None if day in range(1, 32) else day)
    assert len(usage.errors) == len(document.get("errors", ()))
    assert ("unknown" in usage.extra) == ("unknown" in data or "unknown" in document)
    for app, written in zip(usage.daily_client_app_usage, data.get("daily_client_app_usage", ()), strict=True):
        counts = {utc_day(row["date"]): row.get("usage") for row in written.get("usage", ())}
        assert dict(zip(app.usage.dates, app.usage.counts, strict=True)) == counts
