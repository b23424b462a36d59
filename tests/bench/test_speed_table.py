"""docs/speed.md and docs/bench.json agree, and that has every line. Nothing is measured here."""

from typing import Any

import pytest
import speed_table
from speed_table import Row


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    """What was measured last."""
    return speed_table.load()


def test_the_page_has_the_table_of_the_figures(figures: dict[str, Any]) -> None:
    """No number was changed by hand, on the page or in the file."""
    page = speed_table.PAGE.read_text(encoding="utf-8")
    assert speed_table.page_with(page, figures) == page


def test_every_row_was_measured_and_nothing_else(figures: dict[str, Any]) -> None:
    """A row that was lost, or never measured, does not count as won."""
    assert [row.key for row in speed_table.ROWS] == list(dict.fromkeys(row.key for row in speed_table.ROWS))
    assert {row.key for row in speed_table.ROWS} == figures["rows"].keys()


def test_every_goal_of_the_project_has_its_row() -> None:
    """The goals of issues 12 and 15, and those of issue 6 that remain. Rows without a goal inform only."""
    assert {row.key: row.goal for row in speed_table.ROWS if row.goal is not None} == {
        "call/aiohttp": 1.30,
        "call/aiohttp-50": 1.45,
        "call/xdk": 0.30,
        "call/tweepy": 1.20,
        "call/httpx": 0.22,
        "pacing": 3.0,
        "decode/json": 1.80,
        "decode/cattrs": 0.40,
        "decode/xdk": 0.55,
        "decode/pydantic": 0.65,
        "unknown/json": 4.5,
        "numbers/json": 3.2,
        "speed/json": 1.0,
        "small/xdk": 1.25,
        "memory": 45.0,
        "history/project": 5.0,
        "history/apps": 25.0,
        "forecast": 0.5,
        "guard": 30.0,
        "import/aiohttp": 0.6,
        "import/xdk": 0.2,
        "fake/send": 1 / 25,
        "fleet": 1.7,
        "growth/apps": 1.1,
        "growth/waiting": 1.1,
        "growth/queue": 1.1,
    }


def test_ratios_are_shown_with_their_quartiles(figures: dict[str, Any]) -> None:
    """A median without its spread would hide how sure it is."""
    for key, figure in figures["rows"].items():
        assert figure["low"] <= figure["median"] <= figure["high"], key
        assert key == "memory" or (figure["pairs"] > 1 and figure["low"] < figure["high"]), key


@pytest.mark.parametrize(("median", "verdict"), [(0.5, "reached"), (0.501, "**missed**")])
def test_a_goal_is_reached_by_the_median(median: float, verdict: str) -> None:
    """And not by the better quartile."""
    row = Row("key", "this", "that", 0.5)
    assert speed_table.verdict(row, {"median": median, "low": 0.4, "high": 0.6}) == verdict


def test_a_page_without_its_marks_is_refused(figures: dict[str, Any]) -> None:
    """Else the table would silently stay as it was."""
    with pytest.raises(ValueError, match="marks"):
        speed_table.page_with("# What a call costs\n", figures)
