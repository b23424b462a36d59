"""plot_usage: what the chart shows."""

from __future__ import annotations

import datetime as dt
from io import BytesIO
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure
from usages import series, usage_of

from twusage.integrations.matplotlib import plot_usage
from twusage.models import EPOCH, ClientAppUsage, ProjectUsage, Usage


def legend(usage: Usage, **options: Any) -> list[str]:
    found = plot_usage(usage, **options).get_legend()
    return [] if found is None else [text.get_text() for text in found.get_texts()]


def test_stacks() -> None:
    """A layer per app, whose columns add up to the project's days.

    The safe pace and the used part of the cap are shown.
    """
    usage = usage_of(known_days=30)
    axes = plot_usage(usage, names={"app 0": "collector"})
    assert len(axes.containers) == 3
    tops = [bar.get_y() + bar.get_height() for bar in axes.containers[-1]]
    assert usage.daily_project_usage is not None
    assert tops == list(usage.daily_project_usage.usage.counts)
    assert "collector" in legend(usage, names={"app 0": "collector"})
    assert axes.get_title(loc="left") == "522,849 of 1,200,000 posts read in this cycle (43.6%)"


def test_given_axes() -> None:
    """The chart is drawn on the caller's axes."""
    axes = Figure().subplots()
    assert plot_usage(usage_of(), axes) is axes


def test_many_apps() -> None:
    """Four apps have a colour, the others share one."""
    assert "2 more apps" in legend(usage_of(apps=6))


def test_no_app_accounts_for_it() -> None:
    """Reads of no app, and reads of a project whose apps are not named."""
    apps = (ClientAppUsage(None, series(3), 1),)
    found = legend(usage_of(daily_client_app_usage=apps, daily_project_usage=ProjectUsage("1", series(9))))
    assert {"unknown", "not by any app"} <= set(found)
    assert "project" in legend(usage_of(apps=0))
    assert legend(usage_of(daily_client_app_usage=apps, daily_project_usage=None, known_days=0)) == ["unknown"]
    assert legend(usage_of(apps=0, known_days=0)) == []


@pytest.mark.parametrize(
    ("fields", "safe"),
    [
        ({}, True),
        ({"cap": 500_000}, False),
        ({"cap": None}, False),
        ({"cap_reset_day": None}, False),
        ({"known_days": 5}, False),
        ({"known_days": 0}, False),
        ({"fetched_at": EPOCH}, False),
    ],
)
def test_safe_pace(fields: dict[str, Any], safe: bool) -> None:
    """The safe pace is drawn if there is one, and the cycle is shown."""
    assert any(text.startswith("safe pace") for text in legend(usage_of(**fields))) is safe


def test_the_legend_covers_no_column() -> None:
    """It stands above the highest one, also with all of its entries."""
    axes = plot_usage(usage_of(apps=6, cap=900_000))
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.savefig(BytesIO())
    top = max(bar.get_window_extent().y1 for container in axes.containers for bar in container)
    found = axes.get_legend()
    assert found is not None
    assert found.get_window_extent().y0 > top


def test_picture() -> None:
    """The picture can be written; a name is not taken for mathematics."""
    apps = (ClientAppUsage("$\\frac{$", series(*[5] * 40), 40),)
    axes = plot_usage(usage_of(daily_client_app_usage=apps))
    content = BytesIO()
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.savefig(content, format="png")
    assert content.getvalue().startswith(b"\x89PNG")
    label = axes.xaxis.get_major_formatter()(dt.date(2026, 11, 9).toordinal(), 0)
    assert label == "9 Nov"
