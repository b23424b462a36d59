"""A short run of the simulation. Every world once, with four workers and with sixty-four."""

import asyncio

import pytest
from simulate import OTHERS, WORLDS, World, misses, run, twusage


@pytest.mark.parametrize("workers", [4, 64])
@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_no_429_that_could_have_been_known_of(world: World, workers: int) -> None:
    """Five hundred calls: none lost, none rejected without need, none far too late."""
    assert misses(world, workers, asyncio.run(run(twusage, world, workers, seed=0))) == []


@pytest.mark.parametrize("name", OTHERS)
def test_the_simulation_distinguishes_policies(name: str) -> None:
    """The rules that are in use elsewhere do meet 429s in it. A simulation without any would prove nothing."""
    world = World("plain")
    assert misses(world, 16, asyncio.run(run(OTHERS[name], world, 16, seed=0)))
