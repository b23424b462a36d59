"""The days as columns, for a terminal that is wide enough. No I/O."""

from __future__ import annotations

import math

from rich.text import Text

from twusage.display.bars import Cell, Screen, column, text_of
from twusage.display.format import short_number
from twusage.display.view import View

__all__ = ["column_chart", "fits_columns"]

_AXIS = 8
"""Columns for the numbers of the axis."""
_WIDE = 100
"""From so many columns on, the chart is higher."""
_TOPS = (1, 2, 3, 4, 5, 6, 8, 10)
"""Tops of the axis, by power of ten: their halves are short numbers, too."""


def fits_columns(view: View, screen: Screen) -> bool:
    """Whether there is a column for every day."""
    return len(view.days) <= screen.width - _AXIS


def column_chart(view: View, screen: Screen) -> list[Text]:
    """The chart: its rows, and below them some dates."""
    rows = 10 if screen.width >= _WIDE else 8
    slot = (screen.width - _AXIS) // len(view.days)
    thick = max(1, slot - 1)
    most, safe = max((day.reads or 0 for day in view.days), default=0), view.forecast.daily_allowance or 0
    # The safe pace is worth a higher chart, but not one in which the days are low.
    top = _top(safe if most < safe <= most * 1.5 else most)
    colors = [series.color for series in view.series] or [0]
    columns = [column(day.parts, colors, scale=top, length=rows, screen=screen) for day in view.days]
    safe_row = _safe_row(safe, top, rows)
    lines = []
    for row in reversed(range(rows)):
        label = {rows - 1: short_number(top), rows // 2 - 1: short_number(top / 2)}.get(row, "")
        cells: list[Cell] = [(character, "") for character in f"{label:>{_AXIS - 1}} "]
        for day, parts in zip(view.days, columns, strict=True):
            sign, style = parts[row]
            gap = " "
            if sign == " " and row == safe_row and view.cycle is not None and day.date in view.cycle:
                sign, gap, style = screen.glyphs.safe, screen.glyphs.safe, "dim"
            elif day.today and style:
                sign, style = _dimmed(sign, style)
            cells += [(sign, style)] * thick
            cells += [(gap, style if gap != " " else "")] * (slot - thick)
        line = text_of(cells)
        line.rstrip()
        lines.append(line)
    return [*lines, _dates(view, slot)]


def _dimmed(sign: str, style: str) -> Cell:
    """The cell, dim; of two colours only the lower one, because terminals do not dim a ground."""
    color, _, ground = style.partition(" on ")
    return ("█" if ground else sign, f"{color} dim")


def _safe_row(safe: int, top: float, rows: int) -> int | None:
    """The row in which the safe pace lies."""
    return math.ceil(safe / top * rows) - 1 if 0 < safe <= top else None


def _top(most: int) -> float:
    power = 10 ** (len(str(max(most, 2))) - 1)
    return next(float(step * power) for step in _TOPS if step * power >= max(most, 2))


def _dates(view: View, slot: int) -> Text:
    """Mondays, as many as fit, and the last day."""
    last = view.days[-1]
    end = f"{'today' if last.today else f'{last.date.day} {last.date:%b}'}"
    ends_at = _AXIS + slot * len(view.days)
    line = f"{'0':>{_AXIS - 1}} "
    for index, day in enumerate(view.days):
        at = _AXIS + index * slot
        label = f"{day.date.day} {day.date:%b}"
        fits = len(line.rstrip()) + 2 <= at and at + len(label) < ends_at - len(end)
        if day.date.weekday() == 0 and fits:
            line = f"{line:{at}}{label}"
    return Text(f"{line:{ends_at - len(end)}}{end}")
