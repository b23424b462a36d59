"""plot_usage: a usage as a matplotlib chart. It needs ``matplotlib`` (the extra ``plot``)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import TYPE_CHECKING

from twusage.models import EPOCH, DailySeries, Usage
from twusage.monitor.cycle import cycle_of
from twusage.monitor.forecast import forecast

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_usage"]

_COLORS = ("#2563eb", "#d9730d", "#0b5f58", "#c05fd0", "#8590a0")
_LARGEST = 4


def plot_usage(usage: Usage, ax: Axes | None = None, *, names: Mapping[str, str] | None = None) -> Axes:
    """Draw the days of a usage as stacked columns, and return the axes.

    Args:
        usage: a response with daily counts.
        ax: where to draw (default: new axes on a figure that ``pyplot`` does not know, so that it can be collected).
        names: names for client apps, by id.
    """
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(11, 5), layout="constrained").subplots()
    days = _days(usage)
    base = dict.fromkeys(days, 0)
    for label, counts, color in _stacks(usage, names or {}, days):
        ax.bar(
            [day.toordinal() for day in days],
            [counts.get(day, 0) for day in days],
            bottom=[base[day] for day in days],
            color=color,
            label=label.replace("$", r"\$"),
            width=0.75,
        )
        for day in days:
            base[day] += counts.get(day, 0)
    _decorate(ax, usage, days)
    return ax


def _days(usage: Usage) -> list[dt.date]:
    project = usage.daily_project_usage
    known = {day for app in usage.daily_client_app_usage for day in app.usage.dates}
    known |= set(project.usage.dates if project else ())
    if not known:
        return []
    first = min(known)
    return [first + dt.timedelta(days=n) for n in range((max(known) - first).days + 1)]


def _stacks(usage: Usage, names: Mapping[str, str], days: list[dt.date]) -> list[tuple[str, dict[dt.date, int], str]]:
    """Label, counts and colour of each layer: the largest apps, and the rest of the project's count."""
    ranked = sorted(usage.daily_client_app_usage, key=lambda app: app.usage.total, reverse=True)
    stacks = []
    for app, color in zip(ranked[:_LARGEST], _COLORS, strict=False):
        app_id = app.client_app_id or "unknown"
        stacks.append((names.get(app_id, app_id), _counts(app.usage), color))
    others = [_counts(app.usage) for app in ranked[_LARGEST:]]
    project = usage.daily_project_usage
    total = _counts(project.usage) if project else {}
    shown = {day: sum(counts.get(day, 0) for _, counts, _ in stacks) for day in days}
    rest = {day: max(total.get(day, 0) - shown[day], sum(counts.get(day, 0) for counts in others), 0) for day in days}
    if any(rest.values()):
        label = f"{len(others)} more apps" if others else "not by any app" if ranked else "project"
        stacks.append((label, rest, _COLORS[-1]))
    return stacks


def _counts(series: DailySeries) -> dict[dt.date, int]:
    return {day: count or 0 for day, count in zip(series.dates, series.counts, strict=True)}


def _decorate(ax: Axes, usage: Usage, days: list[dt.date]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ax.set_ylabel("posts read a day (UTC)")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(_day_label))
    ax.spines[["top", "right"]].set_visible(False)
    cap, used = usage.project_cap, usage.project_usage
    if cap and used is not None:
        ax.set_title(f"{used:,} of {cap:,} posts read in this cycle ({used / cap:.1%})", loc="left")
    if days and usage.fetched_at != EPOCH:
        cycle, ahead = cycle_of(usage), forecast(usage)
        if cycle is not None and days[0] <= cycle.start <= days[-1]:
            ax.axvline(cycle.start.toordinal() - 0.5, color="#16181d", linewidth=1.5)
            if ahead.daily_allowance and used is not None and cap and used < cap:
                ax.hlines(
                    ahead.daily_allowance,
                    cycle.start.toordinal() - 0.5,
                    days[-1].toordinal() + 0.5,
                    colors="#16181d",
                    linestyles="--",
                    linewidth=1.2,
                    label=f"safe pace: {ahead.daily_allowance:,} a day",
                )
    if ax.get_legend_handles_labels()[0]:
        # Space above the columns, so that the legend covers none of them.
        ax.set_ylim(top=ax.get_ylim()[1] * 1.2)
        ax.legend(frameon=False, loc="upper left", fontsize="small", ncols=3)


def _day_label(ordinal: float, _: object) -> str:
    day = dt.date.fromordinal(max(1, round(ordinal)))
    return f"{day.day} {day:%b}"
