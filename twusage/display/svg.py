"""The gauge, the chart of the days, and the favicon as SVG. Pure.

Widths are percentages and heights are pixels, without a viewBox: shapes stretch, text keeps its size, and one picture
serves a phone and a desktop. Every colour is a presentation attribute, which CSS overrides in dark mode: the picture is
readable in places that forbid CSS, such as Jenkins.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Iterator
from itertools import accumulate

from markupsafe import Markup

from twusage.display.format import UNKNOWN, day_name, number, percent, plural, short_number, whole_percent
from twusage.display.view import Day, Gauge, State, View

__all__ = ["COLORS", "columns", "favicon", "gauge", "gauge_tone", "safe_pace", "safe_pace_is_above", "share"]

COLORS = ("#2563eb", "#d9730d", "#0b5f58", "#c05fd0", "#8590a0")
"""The colours of ``Series.color`` on white. The style sheet has those of dark mode."""
_TONES = {"ok": "#20883c", "warn": "#b06a00", "bad": "#d12a24", "idle": "#6b7683"}
_INK, _MUTED, _GRID, _TRACK = "#16181d", "#545b66", "#dfe2e7", "#e7eaee"
_PLOT = 192
"""Height of the columns, pixels."""
_TOP = 30
_FLOOR = _TOP + _PLOT
_GUTTER = 46
"""Width of the axis on the left, pixels."""
_COLUMN = 0.65
"""Width of a column as a part of its day's; it is a little more on narrow screens."""
_LOWEST_HEADROOM = 1.3
"""The safe pace is drawn if it is at most this many times the highest day."""
_MAX_HAIRLINES = 45
_DAY = dt.timedelta(days=1)
_STEPS = (1, 2, 2.5, 3, 4, 5, 6, 8, 10)


def gauge_tone(state: State) -> str:
    """The colour of a state: ``ok``, ``warn``, ``bad`` or ``idle``."""
    if state is State.ON_TRACK:
        return "ok"
    if state is State.CLOSE:
        return "warn"
    return "bad" if state in {State.RUNS_OUT, State.USED_UP} else "idle"


# -- The gauge ---------------------------------------------------------------------------------------------------------


def gauge(view: View, tone: str) -> Markup:
    """Return the cap as a bar: used, forecast and range, today, cap. Empty without a cap."""
    bar = view.gauge
    if bar is None:
        return Markup()
    color = _TONES[tone]
    kind, height = ("gauge short" if _is_lifted(bar) else "gauge", 78 if bar.expected is None else 96)
    parts = [
        Markup('<svg class="{}" role="img" width="100%" height="{}" font-family="sans-serif" font-size="13">').format(
            kind, height
        ),
        _tag("title", _gauge_title(view)),
        _rect("track", 0, 1, _TRACK),
    ]
    if bar.expected is not None:
        parts.append(_rect(f"forecast {tone}", 0, bar.expected, color, opacity=0.33))
    parts.append(_rect(f"used {tone}", 0, bar.used, color))
    parts += [*_range(view, bar), *_marks(view, bar), Markup("</svg>")]
    return Markup("").join(parts)


def _gauge_title(view: View) -> str:
    usage = view.usage
    text = (
        f"{percent(view.used_fraction or 0)} used: {number(usage.project_usage)} of {number(usage.project_cap)} posts"
    )
    if view.gauge and view.gauge.expected is not None:
        text += f"; forecast {whole_percent(view.expected_fraction or 0)}"
    return text


def _range(view: View, bar: Gauge) -> Iterator[Markup]:
    low, high, cap = view.forecast.low, view.forecast.high, view.forecast.cap
    if bar.expected is None or low is None or high is None or not cap:
        return
    left, right = (min(1.0, each / cap * bar.cap) for each in (low, high))
    yield _line("range", left, right, 39, 39, _MUTED, 1.5)
    for at in (left, right):
        yield _line("range", at, at, 34, 44, _MUTED, 1.5)


def _marks(view: View, bar: Gauge) -> Iterator[Markup]:
    if bar.today is not None and view.cycle is not None:
        yield _line("ink", bar.today, bar.today, 18, 58, _INK, 2)
        yield _label("ink", bar.today, 12, f"today, day {view.day} of {view.cycle.days}", _INK, bold=True)
    yield _label("ink", 0.0, 72, f"{percent(view.used_fraction or 0)} used", _INK, bold=True)
    # The rows below the bar keep the labels apart at every width. The style sheet lifts the forecast on wide screens.
    cap = f"cap {number(view.usage.project_cap)}"
    if bar.cap < 1:
        yield _line("ink", bar.cap, bar.cap, 20, 58, _INK, 2)
        yield _label("ink", bar.cap, 72, cap, _INK, bold=True, end=bar.cap > 0.6)
    else:
        yield _label("muted cap", 1.0, 72, cap, _MUTED)
    if bar.expected is not None:
        lifted = " lift" if _is_lifted(bar) else ""
        text = f"forecast {whole_percent(view.expected_fraction or 0)}"
        yield _label(f"muted{lifted}", bar.expected, 90, text, _MUTED)


def _is_lifted(bar: Gauge) -> bool:
    """Return whether the forecast's label fits beside the others on wide screens."""
    if bar.expected is None:
        return False
    if bar.cap == 1:
        return 0.2 < bar.expected < 0.85
    return bar.cap > 0.6 and bar.expected > max(0.75, bar.cap + 0.07)


def _label(kind: str, at: float, y: int, text: str, color: str, *, bold: bool = False, end: bool = False) -> Markup:
    anchor = "end" if end or at > 0.75 else "start" if at < 0.25 else "middle"
    if 0.75 < at < 1 and not end:  # Not clipped at the edge, and not far from its mark.
        at = min(1.0, at + 0.04)
    weight = Markup(' font-weight="bold"') if bold else ""
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}" fill="{}"{}>{}</text>').format(
        kind, _percent(at), y, anchor, color, weight, text
    )


def _rect(kind: str, left: float, right: float, color: str, opacity: float | None = None) -> Markup:
    paler = "" if opacity is None else Markup(' fill-opacity="{}"').format(opacity)
    return Markup('<rect class="{}" x="{}" y="24" width="{}" height="30" rx="5" fill="{}"{}/>').format(
        kind, _percent(left), _percent(right - left), color, paler
    )


def _line(kind: str, x1: float, x2: float, y1: float, y2: float, color: str, width: float) -> Markup:
    return Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}" stroke="{}" stroke-width="{}"/>').format(
        kind, _percent(x1), _percent(x2), f"{y1:g}", f"{y2:g}", color, width
    )


# -- The days ----------------------------------------------------------------------------------------------------------


def safe_pace(view: View) -> int | None:
    """Return the safe pace in posts a day. ``None`` if it is unknown, or if the cap is used up."""
    return None if view.verdict.state is State.USED_UP else view.forecast.daily_allowance


def safe_pace_is_above(view: View) -> bool:
    """Return whether the safe pace is too high to be drawn."""
    pace, highest = safe_pace(view), _highest(view.days)
    return pace is not None and pace > _LOWEST_HEADROOM * highest


def columns(view: View) -> Markup:
    """Return the days as stacked columns. Each day has a rectangle per app, and a transparent one with its numbers."""
    days = view.days
    drawn = None if safe_pace_is_above(view) else safe_pace(view)
    top = _nice(max(_highest(days), drawn or 0))
    parts = [
        Markup('<svg class="days" role="img" width="100%" height="250" font-family="sans-serif" font-size="12">'),
        _tag("title", _days_title(view)),
    ]
    for level, y in ((top, _TOP), (top / 2, _TOP + _PLOT / 2), (0, _FLOOR)):
        parts.append(
            Markup(
                '<text class="muted" x="{}" y="{}" text-anchor="end" fill="{}">{}</text>'
                '<line class="grid" x1="{}" x2="100%" y1="{}" y2="{}" stroke="{}"/>'
            ).format(_GUTTER - 8, f"{y + 4:g}", _MUTED, short_number(level), _GUTTER, f"{y:g}", f"{y:g}", _GRID)
        )
    parts += _segments(view, top)
    parts += _pace_line(view, drawn, top)
    parts += _cycle_line(view)
    parts += _dates(days)
    step = 1 / len(days)
    parts += [
        Markup(
            '<rect {} y="{}" width="{}" height="{}" fill="none" pointer-events="all"><title>{}</title></rect>'
        ).format(_at(place * step), _TOP, _percent(step * 0.95), _PLOT, _day_title(view, day))
        for place, day in enumerate(days)
    ]
    parts.append(Markup("</svg>"))
    return Markup("").join(parts)


def _at(fraction: float, name: str = "x") -> Markup:
    """A place in the chart: pixels from the left to 100 %."""
    return Markup('{}="{}" transform="translate({})"').format(
        name, _percent(fraction), f"{_GUTTER * (1 - fraction):.1f}"
    )


def _highest(days: Iterable[Day]) -> int:
    return max((day.reads or 0 for day in days), default=0)


def _nice(highest: float) -> float:
    """Return the axis' top: a round number, at least the highest value."""
    if highest <= 2:
        return 2
    unit = 10.0 ** math.floor(math.log10(highest))
    return next(unit * step for step in _STEPS if unit * step >= highest)


def _segments(view: View, top: float) -> Iterator[Markup]:
    count = len(view.days)
    gap = 1 if count <= _MAX_HAIRLINES else 0
    slot = 1 / count
    sums = [(0, *accumulate(day.parts)) for day in view.days]
    for rank in range(max(map(len, sums)) - 1):
        color = view.series[rank].color if view.series else 0
        yield Markup('<g class="c{}" fill="{}">').format(color, COLORS[color])
        for place, (day, heights) in enumerate(zip(view.days, sums, strict=True)):
            if rank + 1 >= len(heights) or heights[rank] == heights[rank + 1]:
                continue
            low, high = (heights[rank + each] / top * _PLOT for each in (0, 1))
            # Of a stack, each part but the lowest gives way for the hairline, and none vanishes.
            height = max(high - low - (gap if rank else 0), 0.8)
            paler = Markup(' opacity=".55"') if day.today else ""
            yield Markup('<rect {} y="{}" width="{}" height="{}"{}/>').format(
                _at((place + (1 - _COLUMN) / 2) * slot),
                f"{_FLOOR - high:.1f}",
                _percent(_COLUMN * slot),
                f"{height:.1f}",
                paler,
            )
        yield Markup("</g>")


def _pace_line(view: View, pace: int | None, top: float) -> Iterator[Markup]:
    if pace is None or view.cycle is None:
        return
    y = _TOP + _PLOT * (1 - pace / top)
    left = _place_of(view, view.cycle.start)
    if left < 1:
        yield Markup(
            '<line class="ink" {} x2="100%" y1="{}" y2="{}" stroke="{}" stroke-width="1.5" stroke-dasharray="5 4"/>'
        ).format(_at(max(0.0, left), "x1"), f"{y:.1f}", f"{y:.1f}", _INK)


def _cycle_line(view: View) -> Iterator[Markup]:
    if view.cycle is None or not 0 < (at := _place_of(view, view.cycle.start)) < 1:
        return
    shift, anchor = (7, "start") if at < 0.7 else (-5, "end")
    yield Markup(
        '<rect class="ink" {} y="10" width="2" height="{}" fill="{}" stroke="none"/>'
        '<text class="ink" {} dx="{}" y="20" text-anchor="{}" fill="{}" font-weight="bold">new cycle</text>'
    ).format(_at(at), _FLOOR - 10, _INK, _at(at), shift, anchor, _INK)


def _place_of(view: View, day: dt.date) -> float:
    return (day - view.days[0].date).days / len(view.days)


def _dates(days: tuple[Day, ...]) -> Iterator[Markup]:
    """Return the dates below the columns. They are all days of a week, else Mondays, and today at the right edge."""
    count = len(days)
    every = 1 if count <= 10 else 14 if count > 60 else 7
    y = _FLOOR + 18
    mondays = [place for place, day in enumerate(days) if every == 1 or day.date.weekday() == 0]
    shown = mondays[:: 2 if every == 14 else 1]
    for rank, place in enumerate(shown):
        at = (place + 0.5) / count
        if (days[-1].today and at > 0.9) or not 0.03 < at < 0.97:
            continue
        day = days[place].date
        yield Markup('<text class="muted{}" {} y="{}" text-anchor="middle" fill="{}">{}</text>').format(
            " alt" if (len(shown) - rank) % 2 or at > 0.78 else "", _at(at), y, _MUTED, f"{day.day} {day:%b}"
        )
    if days[-1].today:
        yield Markup(
            '<text class="ink" x="100%" y="{}" text-anchor="end" fill="{}" font-weight="bold">today</text>'
        ).format(y, _INK)


def _day_title(view: View, day: Day) -> str:
    text = f"{day_name(day.date)}: {'–' if day.omitted else plural_or_unknown(day.reads)}"
    if day.today:
        text += " so far"
    if len(view.days) <= _MAX_HAIRLINES:
        parts = zip(view.series, day.parts, strict=False)
        text += "".join(f"\n{series.label}: {number(part)}" for series, part in parts)
    return text


def plural_or_unknown(count: int | None) -> str:
    """A count of posts, or ``unknown``."""
    return UNKNOWN if count is None else plural(count, "post")


def _days_title(view: View) -> str:
    first, last = view.days[0], view.days[-1]
    highest = max(view.days, key=lambda day: day.reads or 0)
    total = sum(day.reads or 0 for day in view.days)
    return (
        f"Posts read a day, {day_name(first.date)} to {day_name(last.date)}: {number(total)} in all, "
        f"most on {day_name(highest.date)} with {number(highest.reads)}"
    )


# -- Small pictures ----------------------------------------------------------------------------------------------------


def share(fraction: float, color: int) -> Markup:
    """An app's part as a bar; 1 is the whole width."""
    return Markup(
        '<svg class="share" width="100%" height="10" aria-hidden="true"><rect class="c{}" width="{}" height="10" rx="3"'
        ' fill="{}"/></svg>'
    ).format(color, _percent(max(fraction, 0.004)), COLORS[color])


def favicon(view: View | None) -> str:
    """Return a ring, coloured as far as the cap is used."""
    used = 0.0 if view is None else min(1.0, view.used_fraction or 0.0)
    color = _TONES["idle" if view is None or view.stale else gauge_tone(view.verdict.state)]
    around = 2 * math.pi * 12
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" fill="none" stroke-width="7">'
        '<circle cx="16" cy="16" r="12" stroke="#9aa4b1" stroke-opacity=".45"/>'
        f'<circle cx="16" cy="16" r="12" stroke="{color}" stroke-dasharray="{used * around:.2f} {around:.2f}" '
        'transform="rotate(-90 16 16)"/></svg>'
    )


def _tag(name: str, text: str) -> Markup:
    return Markup("<{}>{}</{}>").format(Markup(name), text, Markup(name))  # noqa: S704 - a constant


def _percent(fraction: float) -> str:
    return f"{fraction * 100:.2f}".rstrip("0").rstrip(".") + "%"
