"""Numbers, dates and ids as text, the same in every output. Pure."""

from __future__ import annotations

import datetime as dt

__all__ = [
    "PARTIAL",
    "UNKNOWN",
    "clock_time",
    "cut",
    "day_name",
    "duration",
    "in_words",
    "number",
    "percent",
    "plural",
    "printable",
    "rounded",
    "short_number",
    "spreadsheet_safe",
    "whole_percent",
]

UNKNOWN = "unknown"
PARTIAL = "+"
"""Follows a sum that lacks days whose count is unknown."""
_FORMULA = ("=", "+", "-", "@", "\t")
# A larger percentage is harder to read than words.
_MOST_PERCENT = 9.99
_MANY_TIMES = "more than 9 times the cap"


def number(count: int | None) -> str:
    """A count with its thousands grouped: ``1,200,000``."""
    return UNKNOWN if count is None else f"{count:,}"


def rounded(count: float) -> str:
    """A count with three figures: ``33,800``."""
    unit: int = 10 ** max(0, len(str(int(count))) - 3)
    return f"{round(count / unit) * unit:,}"


def in_words(count: float) -> str:
    """A count for a sentence, with three figures: ``33,800``, ``1.01 million``."""
    text = rounded(count)
    figures = int(text.replace(",", ""))
    for unit, name in ((10**9, "billion"), (10**6, "million")):
        if figures >= unit:
            return f"{figures / unit:,g} {name}"
    return text


def short_number(count: float) -> str:
    """A count for an axis: ``50 k``, ``1.5 M``."""
    for unit, name in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if count >= unit:
            return f"{count / unit:g}{name}"
    return f"{count:g}"


def percent(fraction: float) -> str:
    """A fraction of the cap with one decimal; words above 999 %."""
    if fraction > _MOST_PERCENT:
        return _MANY_TIMES
    # Rounding must not say that all is used while some is left, nor that the cap holds when it does not.
    if fraction < 1:
        return f"{min(fraction, 0.999):.1%}"
    return f"{fraction if fraction == 1 else max(fraction, 1.001):.1%}"


def whole_percent(fraction: float) -> str:
    """A fraction of the cap without decimals; words above 999 %."""
    if fraction > _MOST_PERCENT:
        return _MANY_TIMES
    if 0 < fraction < 0.005:
        return "less than 1%"
    if fraction < 1:
        return f"{min(round(fraction * 100), 99)}%"
    return f"{100 if fraction == 1 else max(round(fraction * 100), 101)}%"


def plural(count: int, noun: str) -> str:
    """A count and its noun: ``1 day``, ``4 days``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def day_name(day: dt.date) -> str:
    """A day with its weekday: ``Thu 10 Dec``."""
    return f"{day:%a} {day.day} {day:%b}"


def clock_time(instant: dt.datetime) -> str:
    """The time of day in UTC: ``14:10``."""
    return f"{instant.astimezone(dt.UTC):%H:%M}"


def duration(seconds: float) -> str:
    """A duration in its two largest units: ``14 d 9 h``, ``9 h 12 min``, ``47 min``, ``30 s``."""
    whole = max(0, int(seconds))
    minutes, hours, days = whole // 60 % 60, whole // 3600 % 24, whole // 86400
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{whole} s"


def printable(text: str) -> str:
    """The text on one line, with control characters and bidirectional marks escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def cut(text: str, length: int) -> str:
    """The text, or its beginning and three dots if it is longer."""
    return text if len(text) <= length else f"{text[: max(0, length - 3)]}..."


def spreadsheet_safe(text: str) -> str:
    """The text for a CSV cell that no spreadsheet takes for a formula."""
    return f"'{printable(text)}" if text.startswith(_FORMULA) else printable(text)
