"""The rows of docs/speed.md. What is measured against what, the goal of each, and how figures become a table. Pure.

What is measured is in ``measures.py``. A figure stands nowhere but in docs/bench.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

DOCS = Path(__file__).parents[2] / "docs"
FIGURES, PAGE = DOCS / "bench.json", DOCS / "speed.md"
BEGIN, END = "% the table: `nox -s bench` writes it\n\n", "\n% the table ends\n"


@frozen
class Row:
    """One comparison. Its figure is the first unit over the second, unless there is nothing to divide by."""

    key: str
    what: str
    against: str
    goal: float | None = None
    """What its median is to be at most; ``None`` for what is shown only because it is worth knowing."""
    written: str = ""
    """The goal, if it is not just a number."""


_CALL = "a typed call over a socket, small body"
_DECODE = "decode 90 days × 10 apps"
# A space at which no line is broken: the columns of figures are narrow.
_TOGETHER = "\u00a0"
_SPEED = f"{_DECODE}, with msgspec"
_MONTH = "`History` (SQLite) with ten years of 100 apps: a month"

ROWS = (
    Row("call/aiohttp", f"{_CALL}, one at a time", "bare aiohttp: `session.get` and `json`", 1.30),
    Row("call/aiohttp-50", f"{_CALL}, 50 at a time", "the same", 1.45),
    Row("call/aiohttp-30-headers", f"{_CALL}, 30 headers as the live API sends", "the same"),
    Row("call/xdk", _CALL, "xdk", 0.30),
    Row("call/tweepy", _CALL, "tweepy's `AsyncBaseClient.request` with an aiohttp session, and `json`", 1.20),
    Row("call/httpx", _CALL, "httpx: `AsyncClient.get` and `json`", 0.22),
    Row("pacing", "limiter and retry, on a call that succeeds", "–", 3.0, "3 µs"),
    Row("decode/json", _DECODE, "`json.loads` alone, untyped", 1.80),
    Row("decode/cattrs", _DECODE, "`json.loads` and cattrs as it comes", 0.40),
    Row("decode/xdk", _DECODE, "`json.loads` and xdk's models (all text)", 0.55),
    Row("decode/pydantic", _DECODE, "pydantic: `model_validate_json`", 0.65),
    Row("decode/orjson", _DECODE, "`orjson.loads` alone, untyped"),
    Row("unknown/json", f"{_DECODE}, one unknown field", "`json.loads` alone, untyped", 4.5),
    Row("numbers/json", f"{_DECODE}, counts as numbers", "`json.loads` alone, untyped", 3.2),
    Row("sparse/json", "decode the fake's response for 10 apps: every third is sparse", "`json.loads` alone, untyped"),
    Row("speed/msgspec", _SPEED, "msgspec alone, into its Structs"),
    Row("speed/json", _SPEED, "`json.loads` alone, untyped", 1.00),
    Row("speed/sparse", "decode the fake's response for 10 apps, with msgspec", "`json.loads` alone, untyped"),
    Row("small/xdk", "decode 1 day × 1 app", "`json.loads` and xdk's models (all text)", 1.25),
    Row("speed/small", "decode 1 day × 1 app, with msgspec", "the same"),
    Row("memory", "memory kept for a row, 90 days × 100 apps", "–", 45.0, "45 bytes"),
    Row("history/project", f"{_MONTH} of a project", "–", 5.0, "5 ms"),
    Row("history/apps", f"{_MONTH} of 100 apps", "–", 25.0, "25 ms"),
    Row("forecast", "`forecast()` from 90 days", "–", 0.5, "0.5 ms"),
    Row("guard", "a reservation of `UsageGuard` on a fresh response", "–", 30.0, "30 µs"),
    Row(
        "import/aiohttp",
        "`import twusage` and a call on the fake, the whole process",
        "the same with aiohttp loaded",
        0.60,
    ),
    Row("import/xdk", "`import twusage` and a call on the fake, the whole process", "`import xdk`", 0.20),
    Row("fake/send", "a call through `FakeTransport`: `transport.send()`", "through aioresponses", 1 / 25, "1/25"),
    Row("fake/call", "… with the rest of the client: `client.get_usage()`", "the same through aioresponses"),
    Row("fleet", "10,000 apps polled once each, one process", "bare aiohttp doing the same", 1.70),
    Row("growth/apps", "an app of 10,000 that are polled", "an app of 10", 1.1),
    Row("growth/apps-alone", "the same, with Python's garbage collector off", "an app of 10"),
    Row("growth/waiting", "a call of 10,000 that wait for one response", "a call of 10", 1.1),
    Row("growth/waiting-alone", "the same, with Python's garbage collector off", "a call of 10"),
    Row("growth/queue", "a call of 10,000 that wait, 50 in each window", "a call of 50", 1.1),
    Row("growth/queue-alone", "the same, with Python's garbage collector off", "a call of 50"),
)


def table(figures: Mapping[str, Any]) -> str:
    """The table as docs/speed.md shows it, without a figure that is not in docs/bench.json."""
    lines = ["| what | against | twusage | alternative | ratio | goal | result |", "|---|---|---:|---:|---:|---:|---|"]
    lines += [line(row, figures["rows"][row.key]) for row in ROWS]
    return "\n".join([_told(figures), "", *lines, ""])


def page_with(page: str, figures: Mapping[str, Any]) -> str:
    """The page with the table of these figures in the place of the one that it has."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError("the page has lost the marks of its table")
    return before + begin + table(figures) + end + after


def load() -> dict[str, Any]:
    """What was measured last."""
    figures: dict[str, Any] = json.loads(FIGURES.read_text(encoding="utf-8"))
    return figures


def verdict(row: Row, figure: Mapping[str, Any]) -> str:
    """Whether the median keeps to the goal."""
    if row.goal is None:
        return ""
    return "reached" if figure["median"] <= row.goal else "**missed**"


def line(row: Row, figure: Mapping[str, Any]) -> str:
    unit = figure["unit"]
    if figure.get("theirs") is None:
        ours, theirs, ratio = _with_unit(figure["median"], unit, figure), "–", "–"
    else:
        ours, theirs = _with_unit(figure["ours"], unit), _with_unit(figure["theirs"], unit)
        ratio = _number(figure["median"]) + _spread(figure)
    goal = "" if row.goal is None else f"≤{_TOGETHER}{row.written or f'{row.goal:.2f}'}"
    return f"| {row.what} | {row.against} | {ours} | {theirs} | {ratio} | {goal} | {verdict(row, figure)} |"


def _with_unit(value: float, unit: str, spread: Mapping[str, Any] | None = None) -> str:
    return f"{_number(value)}{_TOGETHER}{unit}" + (_spread(spread) if spread else "")


def _spread(figure: Mapping[str, Any]) -> str:
    low, high = _number(figure["low"]), _number(figure["high"])
    return "" if low == high else f" ({low}{_TOGETHER}to{_TOGETHER}{high})"


def _number(value: float) -> str:
    """Three figures of it: what follows them is noise."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def _told(figures: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    return f"Measured on {figures['day']} on {figures['machine']}, with {versions}."
