"""A short run of the grid: no post over the cap as long as the API lag is within the guard's."""

import pytest
from guard_grid import run


@pytest.mark.parametrize(
    ("lag", "cancelled", "reset"), [(900, 0.05, "no"), (0, 0.3, "in time"), (900, 0.05, "behind"), (450, 0.3, "behind")]
)
async def test_no_post_over_the_cap(lag: float, cancelled: float, reset: str) -> None:
    """At least 98 % of the cap is used, with about one request every five minutes."""
    cell = await run(lag, cancelled, reset, bots=20)
    assert cell.over == 0
    assert cell.unused < 0.02 * cell.cap
    assert cell.calls <= 80


async def test_the_grid_can_tell() -> None:
    """If the API is later than the guard expects, posts over the cap pass."""
    assert (await run(3600, 0.05, "no", bots=20, expected_lag=0.0)).over > 0
