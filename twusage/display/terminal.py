"""A ``View`` as the text that a person reads in a terminal. No I/O; what is shown is decided in ``view``.

No line is wider than the screen from 40 columns on: words wrap, bars shrink and vanish, numbers stay whole.
"""

from __future__ import annotations

import datetime as dt
import textwrap
from collections.abc import Iterable, Sequence

from attrs import frozen
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from twusage.display.bars import Cell, Screen, bar, text_of
from twusage.display.chart import column_chart, fits_columns
from twusage.display.format import (
    PARTIAL,
    UNKNOWN,
    day_name,
    duration,
    number,
    percent,
    plural,
    rounded,
    whole_percent,
)
from twusage.display.view import LARGEST, NOT_BY_ANY_APP, App, Day, Series, State, View

__all__ = [
    "AMBER",
    "GREEN",
    "GREY",
    "RED",
    "SIGNS",
    "STATE_COLORS",
    "Cycle",
    "cycles_text",
    "forecast_text",
    "live_text",
    "show_text",
]

GREEN, AMBER, RED, GREY = "color(28)", "color(130)", "color(160)", "color(244)"
STATE_COLORS = {
    State.ON_TRACK: GREEN,
    State.CLOSE: AMBER,
    State.RUNS_OUT: RED,
    State.USED_UP: RED,
    State.EARLY: GREY,
    State.UNKNOWN: GREY,
}
SIGNS = {GREEN: ("✓", "ok"), AMBER: ("!", "!"), RED: ("✗", "x"), GREY: ("-", "-")}
"""For each colour its sign, and the same in ASCII: colour never says it alone."""

_WIDEST_GAUGE = 140
_WIDEST_APP_BAR = 60
_SHORTEST_BAR = 4
_LISTED_APPS = 20
_MOST_ROWS = 14
"""More days are columns, or rows of weeks."""
_SO_FAR = "so far"


def show_text(view: View, screen: Screen, *, by_app: bool = False, all_apps: bool = False) -> Text:
    """The page of ``twusage show``.

    Args:
        view: what is shown.
        screen: what it is written on.
        by_app: whether to list the client apps, up to 20.
        all_apps: whether to list all of them.
    """
    blocks = [*_head(view, screen), _days(view, screen)]
    if by_app or all_apps:
        blocks.append(_apps(view, screen, None if all_apps else _LISTED_APPS))
    return _page(blocks)


def forecast_text(view: View, screen: Screen) -> Text:
    """The page of ``twusage forecast``."""
    ahead = view.forecast
    expected = UNKNOWN
    if ahead.expected is not None and ahead.low is not None and ahead.high is not None:
        cap = "" if ahead.cap is None else f" of {number(ahead.cap)}"
        expected = f"{rounded(ahead.expected)}{cap}, likely between {rounded(ahead.low)} and {rounded(ahead.high)}"
    pace = UNKNOWN
    if ahead.per_day is not None:
        pace = f"{rounded(ahead.per_day)} a day over the last {plural(ahead.basis_days, 'day')}"
    if (safe := _safe(view)) is not None:
        pace += f"; {safe} a day is safe"
    rows = [("Expected", expected), ("Pace", pace), ("Cap", _reached(view))]
    lines = [Text(line) for name, said in rows for line in _wrapped(said, screen.width, f"  {name:8}  ")]
    return _page([*_head(view, screen)[:2], lines])


def live_text(view: View, screen: Screen, *, status: str, height: int, by_app: bool = False) -> Text:
    """The live view of ``twusage watch``, of at most ``height`` lines; the status is its last."""
    head, days = _head(view, screen), _days(view, screen)
    apps = _apps(view, screen, _LISTED_APPS) if by_app else []
    events = [Text("Events of this cycle", "bold")] if view.events else []
    for event in view.events:
        told = _wrapped(screen.safe(event.text), screen.width, f"  {event.at:%d %b %H:%M}  ")
        events += map(Text, told)
    last = [Text(line) for line in textwrap.wrap(screen.safe(status), screen.width)]

    def lines() -> list[Text]:
        return _lines([*head, days, apps, events, last])

    # A heading, and below it the rows by age; a chart of columns cannot lose rows.
    rows = screen.width and not _has_columns(view, screen)
    while len(lines()) > height and rows and len(days) > 2:
        del days[-min(len(view.days), len(days) - 1)]
    for block in (days, apps, events, *reversed(head[1:])):
        if len(lines()) > height:
            block.clear()
    fitting = lines()
    return Text("\n").join([*fitting[: max(0, height - len(last))], *last] if len(fitting) > height else fitting)


@frozen
class Cycle:
    """A billing cycle as a history has it."""

    start: dt.date
    """The first day."""
    end: dt.date
    """The day after the last one."""
    used: int | None
    """Posts read in it."""
    cap: int | None
    """Posts that could be read in it."""


def cycles_text(cycles: Sequence[Cycle], screen: Screen, *, title: str, today: dt.date) -> Text:
    """The page of ``twusage history show``: the cycles, newest first."""
    glyphs = screen.glyphs
    heading = Text("\n").join(Text(line) for line in _wrapped(screen.safe(title), screen.width, "Cycles  "))
    heading.stylize("bold", 0, len("Cycles"))
    rows = []
    for cycle in sorted(cycles, key=lambda each: each.start, reverse=True):
        last = cycle.end - dt.timedelta(days=1)
        label = f"{cycle.start.day} {cycle.start:%b} {glyphs.dash} {last.day} {last:%b} {last.year}"
        fraction = cycle.used / cycle.cap if cycle.cap and cycle.used is not None else None
        rows.append((label, number(cycle.used), "" if fraction is None else percent(fraction), fraction, cycle))
    if not rows:
        return _page([[heading], [Text("  No cycle is recorded.")]])
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:3]]
    room = min(30, screen.width - sum(widths) - 8 - len("  day 31"))
    lines = []
    for label, used, share, fraction, cycle in rows:
        line = Text(f"  {label:{widths[0]}}  {used:>{widths[1]}}  {share:>{widths[2]}}")
        if fraction is not None and room >= _SHORTEST_BAR:
            filled = min(room, round(fraction * room))
            line.append(f"  {glyphs.gauge[0] * filled}", GREY).append(glyphs.gauge[2] * (room - filled), GREY)
        if cycle.start <= today < cycle.end:
            line.append(f"  day {(today - cycle.start).days + 1}", "dim")
        line.rstrip()
        lines.append(line)
    return _page([[heading], lines])


# -- The head ----------------------------------------------------------------------------------------------------------


def _head(view: View, screen: Screen) -> list[list[Text]]:
    return [_verdict(view, screen), _gauge(view, screen), _facts(view, screen)]


def _verdict(view: View, screen: Screen) -> list[Text]:
    color = GREY if view.stale else STATE_COLORS[view.verdict.state]
    sign = SIGNS[STATE_COLORS[view.verdict.state]][screen.ascii_only]
    project = _cut(screen.safe(f"Project {view.project}"), screen.width - 2)
    lines = [Text(line, "bold") for line in textwrap.wrap(f"{sign} {view.verdict.headline}", screen.width)]
    lines[0].stylize(color, 0, len(sign))
    free = screen.width - cell_len(lines[0].plain) - cell_len(project)
    if len(lines) == 1 and free >= 2:
        lines[0].append(" " * free).append(project, "not bold dim")
    else:
        lines.append(Text(f"  {project}", "dim"))
    return lines


def _gauge(view: View, screen: Screen) -> list[Text]:
    gauge, glyphs = view.gauge, screen.glyphs
    fraction = view.used_fraction
    if gauge is None or fraction is None:
        return []
    width = min(screen.width - 2, _WIDEST_GAUGE)
    color = GREY if view.stale else STATE_COLORS[view.verdict.state]
    used = max(round(gauge.used * width), 1 if fraction else 0)
    expected = used if gauge.expected is None else max(used, round(gauge.expected * width))
    line = Text("  ")
    line.append(glyphs.gauge[0] * used, color)
    line.append(glyphs.gauge[1] * (expected - used), color)
    line.append(glyphs.gauge[2] * (width - expected), GREY)
    below = _Below(f"{percent(fraction)} used" if fraction < 10 else percent(fraction), width)
    if gauge.cap < 1:
        below.put(f"{glyphs.cap} cap", int(gauge.cap * width))
    if view.verdict.state is State.USED_UP:
        label = f"cap {number(view.usage.project_cap)}"
        below.put(label, width - len(label))
    elif gauge.expected is not None and view.expected_fraction is not None:
        label = f"forecast {whole_percent(view.expected_fraction)}"
        below.put(label, min(width - len(label), expected - len(label) // 2))
    return [*_above(view, width, glyphs.today), line, Text(f"  {below.line}")]


def _above(view: View, width: int, sign: str) -> list[Text]:
    if view.gauge is None or view.gauge.today is None or view.cycle is None:
        return []
    at = min(width - 1, round(view.gauge.today * width))
    label = f"today, day {view.day} of {view.cycle.days}"
    if at + 2 + len(label) <= width:
        return [Text(f"  {' ' * at}{sign} {label}")]
    if len(label) + 1 <= at + 2:
        return [Text(f"{f'{label} {sign}':>{at + 3}}")]
    return [Text(f"  {' ' * at}{sign}")]


class _Below:
    """The labels below the gauge: each only if it fits with two spaces."""

    def __init__(self, first: str, width: int) -> None:
        self.line = first
        self._width = width

    def put(self, label: str, at: int) -> None:
        """Put a label at this column if it fits."""
        if at >= len(self.line) + 2 and at + len(label) <= self._width:
            self.line = f"{self.line:{at}}{label}"


@frozen
class _Fact:
    label: str
    value: str
    extra: tuple[str, ...] = ()
    """Phrases, as many as fit."""
    count: bool = False


def _facts(view: View, screen: Screen) -> list[Text]:
    usage, cycle = view.usage, view.cycle
    cap = () if usage.project_cap is None else (f"of {number(usage.project_cap)}",)
    left = () if view.used_fraction is None else (f"{_left(view.used_fraction)}",)
    pace, safe = view.forecast.per_day, _safe(view)
    facts = [
        _Fact("Read", number(usage.project_usage), cap, count=True),
        _Fact("Left", number(usage.remaining), left, count=True),
        _Fact("Pace", UNKNOWN) if pace is None else _Fact("Pace", rounded(pace), ("a day",)),
        _Fact("Resets", UNKNOWN),
    ]
    if safe is not None:
        facts[2] = _Fact("Pace", facts[2].value, ("a day", f", safe {safe}") if pace is not None else (f"safe {safe}",))
    if cycle is not None and view.seconds_left is not None:
        facts[3] = _Fact("Resets", f"in {duration(view.seconds_left)}", (day_name(cycle.end), ", 00:00 UTC"))
    beside = [f"{one}  {two}" for one, two in zip(_table(facts[:2]), _table(facts[2:]), strict=True)]
    if max(map(len, beside)) > screen.width:
        beside = _table(facts, screen.width)
    return [Text(line.rstrip()) for line in beside]


def _table(facts: Sequence[_Fact], width: int | None = None) -> list[str]:
    """The facts as columns: counts stand on the right; phrases that do not fit are left out."""
    labels = max(len(fact.label) for fact in facts)
    counts = max((len(fact.value) for fact in facts if fact.count), default=0)
    narrow = width is not None
    values = max(counts, 0 if narrow else max(len(fact.value) for fact in facts))
    extras = 0 if narrow else max(len("".join(fact.extra)) for fact in facts)
    lines = []
    for fact in facts:
        value = f"{fact.value:>{counts}}" if fact.count else fact.value
        line = f"  {fact.label:{labels}}  {value if narrow else f'{value:{values}}'}"
        said = "  "
        for phrase in fact.extra:
            if width is None or len(line) + len(said) + len(phrase) <= width:
                said += phrase
        lines.append(f"{line}{said.rstrip()}" if narrow or not extras else f"{line}{said:{extras + 2}}")
    return lines


def _left(used: float) -> str:
    # As in percent(): rounding must not say that all is left, or nothing, when it is not so.
    return f"{min(max(1 - used, 0.001 if used < 1 else 0.0), 0.999 if used else 1.0):.1%}"


def _safe(view: View) -> str | None:
    allowance = view.forecast.daily_allowance
    return None if not allowance else rounded(allowance)


def _reached(view: View) -> str:
    ahead, cycle = view.forecast, view.cycle
    if ahead.cap is None or ahead.used is None or cycle is None:
        return UNKNOWN
    if ahead.used >= ahead.cap:
        return f"reached; resets on {day_name(cycle.end)}"
    if ahead.expected is None:
        return UNKNOWN
    if ahead.exhausts_on is None:
        return "not reached in this cycle"
    early = plural((cycle.end - ahead.exhausts_on).days, "day")
    return f"reached on {day_name(ahead.exhausts_on)}, {early} before the reset"


# -- Days --------------------------------------------------------------------------------------------------------------


@frozen
class _Row:
    """A line: a label, a figure, and a bar if there is room for one."""

    label: Text
    figure: str
    parts: Sequence[int] = ()
    suffix: str = ""


def _has_columns(view: View, screen: Screen) -> bool:
    return len(view.days) > _MOST_ROWS and fits_columns(view, screen)


def _days(view: View, screen: Screen) -> list[Text]:
    weeks = len(view.days) > _MOST_ROWS and not fits_columns(view, screen)
    lines = _heading(f"Posts read a {'week' if weeks else 'day'}", view.series, screen)
    if not any(day.parts for day in view.days) and all(day.omitted for day in view.days):
        return [*lines, Text("  The response holds no days.")]
    if _has_columns(view, screen):
        return [*lines, *column_chart(view, screen)]
    rows = _weeks(view.days, screen) if weeks else [_day(day, screen) for day in view.days]
    colors = [series.color for series in view.series] or [0]
    lines += _bars(rows, colors, screen)
    if not weeks and any(day.omitted for day in view.days):
        lines.append(Text(f"  {screen.glyphs.dash} no reads, so left out by the API", "dim"))
    if any(row.figure.endswith(PARTIAL) for row in rows):
        lines.append(Text(f"  {PARTIAL} and days whose count is unknown", "dim"))
    return lines


def _heading(title: str, series: Sequence[Series], screen: Screen) -> list[Text]:
    head = Text.assemble((title, "bold"), (" (UTC)", "bold dim"))
    names = [
        Text.assemble(screen.key(each.color), " ", (_cut(screen.safe(each.label), screen.width - 4), "bold"))
        for each in series
    ]
    if not names:
        return [head]
    legend = Text("  ").join(names)
    free = screen.width - head.cell_len - legend.cell_len
    if free >= 2:
        return [head.append(" " * free).append_text(legend)]
    if legend.cell_len + 2 <= screen.width:
        return [head, Text("  ").append_text(legend)]
    return [head, *(Text("  ").append_text(name) for name in names)]


def _day(day: Day, screen: Screen) -> _Row:
    figure = screen.glyphs.dash if day.omitted else number(day.reads)
    label = Text(f"{day.date:%a} {day.date.day:>2} {day.date:%b}")
    return _Row(label, figure, day.parts, _SO_FAR if day.today else "")


def _weeks(days: Sequence[Day], screen: Screen) -> list[_Row]:
    weeks = dict[dt.date, list[Day]]()
    for day in days:
        weeks.setdefault(day.date - dt.timedelta(days=day.date.weekday()), []).append(day)
    rows = []
    for monday, members in weeks.items():
        known = [day for day in members if day.reads is not None]
        figure = number(sum(day.reads or 0 for day in known))
        if any(day.reads is None and not day.omitted for day in members):
            figure = f"{figure}{PARTIAL}" if known else UNKNOWN
        elif not known:
            figure = screen.glyphs.dash
        parts = [sum(column) for column in zip(*(day.parts for day in known), strict=True)]
        suffix = _SO_FAR if any(day.today for day in members) else ""
        rows.append(_Row(Text(f"{monday.day:>2} {monday:%b}"), figure, parts, suffix))
    return rows


def _bars(rows: Sequence[_Row], colors: Sequence[int], screen: Screen) -> list[Text]:
    labels = max(row.label.cell_len for row in rows)
    figures = max(len(row.figure) for row in rows)
    room = screen.width - labels - figures - 6
    scale = max((sum(row.parts) for row in rows), default=0) or 1
    # What follows a bar needs its room, too.
    for row in rows:
        if row.suffix and sum(row.parts):
            room = min(room, int((screen.width - labels - figures - 8 - len(row.suffix)) * scale / sum(row.parts)))
    lines = []
    for row in rows:
        line = Text("  ").append_text(row.label)
        line.append(" " * (labels - row.label.cell_len + 2))
        faint = row.figure in {UNKNOWN, screen.glyphs.dash}
        line.append(f"{row.figure:>{figures}}", "dim" if faint else "")
        cells: list[Cell] = []
        if room >= _SHORTEST_BAR:
            cells = bar(row.parts, colors, scale=scale, length=room, screen=screen)
        if cells:
            line.append("  ").append_text(text_of(cells))
        if row.suffix and line.cell_len + 2 + len(row.suffix) <= screen.width:
            line.append(f"  {row.suffix}", "dim")
        lines.append(line)
    return lines


# -- Apps --------------------------------------------------------------------------------------------------------------


def _apps(view: View, screen: Screen, most: int | None) -> list[Text]:
    lines = [Text(f"Apps, the same {plural(len(view.days), 'day')}", "bold")]
    if not view.apps:
        return [*lines, Text("  The response names no client app.")]
    listed = list(view.apps if most is None else view.apps[:most])
    if view.unattributed:
        whole = sum(app.reads or 0 for app in view.apps) + view.unattributed
        share = view.unattributed / whole
        listed.append(App(None, NOT_BY_ANY_APP, view.unattributed, partial=False, fraction=share, color=LARGEST))
    reads = [number(app.reads) + (PARTIAL if app.partial else "") for app in listed]
    shares = ["" if app.fraction is None else percent(app.fraction) for app in listed]
    figures = [
        f"{read:>{max(map(len, reads))}}  {share:>{max(map(len, shares))}}"
        for read, share in zip(reads, shares, strict=True)
    ]
    names = [_cut(screen.safe(app.label), screen.width - len(figures[0]) - 6) for app in listed]
    widest = max(map(cell_len, names))
    room = min(screen.width - widest - len(figures[0]) - 8, _WIDEST_APP_BAR)
    for app, name, figure in zip(listed, names, figures, strict=True):
        line = Text.assemble("  ", screen.key(app.color), f" {set_cell_size(name, widest)}  {figure}")
        cells: list[Cell] = []
        if app.fraction and room >= _SHORTEST_BAR:
            cells = bar(
                [app.reads or 0], [app.color], scale=(app.reads or 0) / app.fraction, length=room, screen=screen
            )
        line.append("  ").append_text(text_of(cells))
        line.rstrip()
        lines.append(line)
    rest = view.apps[len(view.apps) if most is None else most :]
    if rest:
        lines.append(Text(f"  and {len(rest)} more, {plural(sum(app.reads or 0 for app in rest), 'post')}"))
    if any(app.partial for app in listed):
        lines.append(Text(f"  {PARTIAL} and days whose count is unknown", "dim"))
    return lines


# -- Lines -------------------------------------------------------------------------------------------------------------


def _lines(blocks: Iterable[Sequence[Text]]) -> list[Text]:
    """The lines of the blocks that have any, with an empty line between two blocks."""
    lines: list[Text] = []
    for block in blocks:
        if block:
            lines += [Text(), *block] if lines else block
    return lines


def _page(blocks: Iterable[Sequence[Text]]) -> Text:
    return Text("\n").join(_lines(blocks))


def _wrapped(said: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(said, width, initial_indent=indent, subsequent_indent=" " * len(indent)) or [indent.rstrip()]


def _cut(text: str, width: int) -> str:
    """The text in at most so many columns, with three dots if something is missing."""
    return text if cell_len(text) <= width else f"{set_cell_size(text, max(0, width - 3)).rstrip()}..."
