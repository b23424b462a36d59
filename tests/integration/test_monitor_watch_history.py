"""watch and the real history: restarts, a changed cap, a reset, an outage. Its other tests use one in memory."""

import datetime as dt
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from twusage import RetryPolicy, UsageClient
from twusage.monitor import UsageSampled, WatchEvent, watch
from twusage.testing import FakeApi, FakeTransport, Fault, VirtualClock

pytest.importorskip("sqlalchemy")

RESET = dt.datetime(2026, 2, 10, tzinfo=dt.UTC)


async def names(events: AsyncGenerator[WatchEvent, None]) -> list[str]:
    """The kinds of events until the second sample."""
    found, samples = [], 0
    while samples < 2:
        event = await anext(events)
        samples += isinstance(event, UsageSampled)
        found.append(type(event).__name__)
    return [name for name in found if name != "UsageSampled"]


async def test_the_real_history(twusage_history: Any, twusage_clock: VirtualClock) -> None:
    """A restarted watch repeats no event, and a cycle keeps its last cap and count."""
    clock = twusage_clock
    api = FakeApi(apps=1, cap=1000, history_days=0, clock=clock)
    async with UsageClient(
        api.apps[0].token, transport=FakeTransport(api), clock=clock, retry=RetryPolicy.none()
    ) as client:
        api.read_posts(api.apps[0], 850)
        assert await names(watch(client, history=twusage_history)) == ["ThresholdCrossed"]
        api.project.cap = 900
        restarted = ["CapChanged", "ThresholdCrossed", "ThresholdCrossed"]
        assert await names(watch(client, history=twusage_history)) == restarted
        await clock.sleep(RESET.timestamp() - clock.time() + 3600.0)
        api.fail(Fault.status(503))
        reset = ["WatchFailing", "WatchRecovered", "CycleReset"]
        assert await names(watch(client, history=twusage_history)) == reset
        assert await names(watch(client, history=twusage_history)) == []
        assert len(await twusage_history.delivered(f"{api.project.id}/2026-01-10/")) >= len(restarted)
        cycles = [(cycle.cap, cycle.usage) for cycle in await twusage_history.cycles(api.project.id)]
        assert cycles == [(900, 850), (900, 0)]
