"""A ``Usage`` as the text that a person reads: the cycle, the days, the apps. No I/O, no arithmetic beyond bars."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from attrs import frozen
from rich.text import Text

from twusage.cli.exit_codes import printable
from twusage.models import ClientAppUsage, DailySeries, Usage

__all__ = ["usage_text"]

_UNKNOWN = "unknown"
# Beyond this, a bar is no easier to compare, and its number is far away.
_WIDEST = 100
_SHORTEST_BAR = 4
# The API gives 90 days. Over a longer span something else has happened, and an endless list of gaps says nothing.
_LONGEST_SPAN = dt.timedelta(days=366)


def usage_text(usage: Usage, *, by_app: bool, width: int, ascii_only: bool = False) -> Text:
    """The whole page.

    Args:
        usage: what the API said.
        by_app: whether to tell of the client apps.
        width: columns of the terminal. Bars shrink and vanish in a narrow one; numbers stay whole.
        ascii_only: for a terminal that cannot show blocks.
    """
    paper = _Paper(min(width, _WIDEST), ascii_only)
    project = usage.daily_project_usage
    blocks = [_cycle(usage, paper), _days(project.usage if project else DailySeries(), paper)]
    if by_app:
        blocks.append(_apps(usage.daily_client_app_usage, paper))
    return Text("\n\n").join(blocks)


@frozen
class _Paper:
    """What is written on: how wide it is, and which signs it can hold."""

    width: int
    ascii_only: bool

    @property
    def dash(self) -> str:
        return "-" if self.ascii_only else "–"

    def bar(self, fraction: float, room: int) -> str:
        """A bar of this fraction of the room, at most all of it. What is not nothing is seen."""
        if fraction <= 0:
            return ""
        eighths = max(1, round(min(fraction, 1.0) * room * 8))
        if self.ascii_only:
            return "#" * -(-eighths // 8)
        return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()

    def track(self, length: int) -> str:
        return ("." if self.ascii_only else "░") * length


@frozen
class _Row:
    """A line: a label, a figure, and a bar where there is room for one."""

    label: str
    figure: str
    fraction: float | None = None
    style: str = "cyan"
    gauge: bool = False
    """Whether the bar stands in a track that shows the whole."""
    ragged: bool = False
    """Whether the figure is words, which stand on the left."""


def _lines(rows: Iterable[_Row], paper: _Paper) -> list[Text]:
    rows = list(rows)
    labels = max(len(row.label) for row in rows)
    figures = max((len(row.figure) for row in rows if not row.ragged), default=0)
    room = paper.width - labels - figures - 6
    lines = []
    for row in rows:
        figure = row.figure if row.ragged else row.figure.rjust(figures)
        faint = row.figure in {_UNKNOWN, paper.dash}
        line = Text.assemble("  ", row.label.ljust(labels), "  ", (figure, "dim" if faint else ""))
        if row.fraction is not None and room >= _SHORTEST_BAR:
            bar = paper.bar(row.fraction, room)
            line.append(f"  {bar}" if bar or row.gauge else "", row.style)
            line.append(paper.track(room - len(bar)) if row.gauge else "", "dim")
        lines.append(line)
    return lines


def _block(title: str, lines: Iterable[Text]) -> Text:
    return Text("\n").join([Text(title, "bold"), *lines])


# -- The cycle ---------------------------------------------------------------------------------------------------------


def _cycle(usage: Usage, paper: _Paper) -> Text:
    fraction = usage.used_fraction
    rows = [
        _Row("Used", _number(usage.project_usage)),
        _Row("Cap", _number(usage.project_cap)),
        _Row(
            "Per cent",
            paper.dash if usage.project_cap == 0 else _percent(fraction),
            fraction,
            _alarm(fraction),
            gauge=True,
        ),
        _Row("Remaining", _number(usage.remaining)),
        _Row("Resets", _reset(usage.cap_reset_day), ragged=True),
    ]
    return _block(f"Project {_identifier(usage.project_id)}", _lines(rows, paper))


def _alarm(fraction: float | None) -> str:
    return "green" if fraction is None or fraction < 0.75 else "yellow" if fraction < 0.9 else "red"


def _reset(day: int | None) -> str:
    if day is None:
        return _UNKNOWN
    return f"on day {day} of each month" + (", or its last" if day > 28 else "")


# -- The days ----------------------------------------------------------------------------------------------------------


def _days(series: DailySeries, paper: _Paper) -> Text:
    title = "Posts read a day (UTC)"
    if not series:
        return _block(title, [Text("  The answer holds no days.")])
    most = max((count for count in series.counts if count), default=1)
    rows = [_day(day, series, most, paper) for day in _calendar(series)]
    lines = _lines([*rows, _Row("Total", _total(series))], paper)
    if len(rows) > len(series):
        lines.append(Text(f"  {paper.dash} no reads, so left out by the API", "dim"))
    if _partial(series):
        lines.append(_PARTIAL)
    return _block(title, lines)


def _calendar(series: DailySeries) -> list[dt.date]:
    """Every day from the first to the last, so that the bars stand in time."""
    first, last = series.dates[0], series.dates[-1]
    if last - first > _LONGEST_SPAN:
        return list(series.dates)
    return [first + dt.timedelta(days=number) for number in range((last - first).days + 1)]


def _day(day: dt.date, series: DailySeries, most: int, paper: _Paper) -> _Row:
    label = f"{day:%a} {day.isoformat()}"
    if day not in series.dates:
        return _Row(label, paper.dash)
    count = series.on(day)
    return _Row(label, _number(count), None if count is None else count / most)


# -- The apps ----------------------------------------------------------------------------------------------------------


def _apps(apps: tuple[ClientAppUsage, ...], paper: _Paper) -> Text:
    title = "Posts read by client app, same days"
    if not apps:
        return _block(title, [Text("  The answer names no client app.")])
    whole = sum(app.usage.total for app in apps)
    figures = max(len(_total_of_app(app)) for app in apps)
    lines = _lines([_app(app, whole, figures) for app in apps], paper)
    if any(_partial(app.usage) for app in apps):
        lines.append(_PARTIAL)
    return _block(title, lines)


def _app(app: ClientAppUsage, whole: int, figures: int) -> _Row:
    total = _total_of_app(app)
    if total == _UNKNOWN or not whole:
        return _Row(_identifier(app.client_app_id), f"{total:>{figures}}{'':>8}")
    share = app.usage.total / whole
    return _Row(_identifier(app.client_app_id), f"{total:>{figures}}  {_percent(share):>6}", share, "magenta")


# -- Figures -----------------------------------------------------------------------------------------------------------

_PARTIAL = Text("  + and days whose count is unknown", "dim")


def _number(number: int | None) -> str:
    return _UNKNOWN if number is None else f"{number:,}"


def _percent(fraction: float | None) -> str:
    if fraction is None:
        return _UNKNOWN
    # Rounding must not say that all is used while some is left, nor that the cap holds when it does not.
    if fraction < 1:
        return f"{min(fraction, 0.999):.1%}"
    return f"{fraction if fraction == 1 else max(fraction, 1.001):,.1%}"


def _identifier(text: str | None) -> str:
    return _UNKNOWN if text is None else printable(text)


def _partial(series: DailySeries) -> bool:
    return bool(series) and None in series.counts and any(count is not None for count in series.counts)


def _total_of_app(app: ClientAppUsage) -> str:
    # No rows, and the API says that there are none: no reads, not an unknown number.
    return "0" if app.usage_result_count == 0 and not app.usage else _total(app.usage)


def _total(series: DailySeries) -> str:
    if all(count is None for count in series.counts):
        return _UNKNOWN
    return _number(series.total) + ("+" if _partial(series) else "")
