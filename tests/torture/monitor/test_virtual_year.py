"""A short run of the virtual year, over a real history: every event exactly once."""

from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from virtual_year import run


async def test_every_event_exactly_once(tmp_path: Path) -> None:
    """A third of a year, four polls a day."""
    year = await run(120, 6, tmp_path)
    assert year.twice() == []
    assert year.wrong() == set()
    counts = year.counts()
    assert (counts["watch-failing"], counts["watch-recovered"], counts["cap-changed"]) == (1, 1, 1)
    assert counts["cycle-reset"] == 4
    assert counts["threshold-crossed"] >= 3
    assert counts["forecast-crossed"] >= 1
