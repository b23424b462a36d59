"""watch, over months: growth, an outage, a raised cap, two restarts."""

import datetime as dt
import math
from typing import Any

from memory_history import MemoryHistory

from twusage import RetryPolicy, UsageClient
from twusage.monitor import CycleReset, UsageSampled, watch
from twusage.testing import FakeApi, FakeTransport, Fault, VirtualClock

HOUR = 3600.0
THRESHOLDS = (0.8, 0.9, 1.0)


def expected_of(year: list[tuple[dt.datetime, int, int, dt.date]], thresholds: tuple[float, ...]) -> set[str]:
    """The keys of the events that the truth justifies, without forecasts and outages."""
    keys: set[str] = set()
    last: tuple[int, dt.date] | None = None
    for _, used, cap, start in year:
        if last is not None and last[1] < start:
            keys.add(f"{start}/cycle-reset")
        if last is not None and last[0] != cap:
            keys.add(f"{start}/cap-changed/{last[0]}/{cap}")
        keys |= {f"{start}/threshold-crossed/{each}/{cap}" for each in thresholds if used / cap >= each}
        last = cap, start
    return keys


def due_reads(day: dt.date, since: dt.date) -> int:
    """Growth of a third in 100 days, and quiet weekends."""
    return int(250 * (1 + (day - since).days / 300) * (0.4 if day.weekday() >= 5 else 1))


async def test_four_months() -> None:
    """Growth, weekends, an outage, a raised cap, reset day 31, two restarts: every event exactly once.

    A whole year takes three times as long and finds no more.
    """
    clock = VirtualClock(dt.datetime(2026, 1, 5, tzinfo=dt.UTC))
    api = FakeApi(apps=1, cap=7000, reset_day=31, history_days=0, clock=clock)
    begin = clock.now()
    outage = [begin + dt.timedelta(days=day) for day in (50, 53)]
    api.fail(Fault.status(503), times=math.inf, when=lambda _: outage[0] <= clock.now() < outage[1])
    history: Any = MemoryHistory()
    seen, truth = [], []
    stops = [begin + dt.timedelta(days=days) for days in (40, 90, 120)]
    transport = FakeTransport(api)
    async with UsageClient(api.apps[0].token, transport=transport, clock=clock, retry=RetryPolicy.none()) as client:
        for stop in stops:
            async for event in watch(client, every=12 * HOUR, history=history):
                if isinstance(event, UsageSampled):
                    now, usage = event.at, event.usage
                    assert event.cycle is not None
                    assert usage.project_usage is not None
                    assert usage.project_cap is not None
                    truth.append((now, usage.project_usage, usage.project_cap, event.cycle.start))
                    if now >= stop:
                        break
                    api.project.cap = 7000 if now < begin + dt.timedelta(days=70) else 8000
                    if api.project.usage() < api.project.cap:
                        api.read_posts(api.apps[0], due_reads(now.date(), begin.date()) // 2)
                else:
                    seen.append(event)
    keys = [event.key for event in seen]
    kinds = [event.kind for event in seen]
    assert len(keys) == len(set(keys))
    assert {
        key.partition("/")[2]
        for key, event in zip(keys, seen, strict=True)
        if event.kind not in {"forecast-crossed", "watch-failing", "watch-recovered"}
    } == (expected_of(truth, THRESHOLDS))
    assert kinds.count("cycle-reset") == 4
    assert kinds.count("cap-changed") == 1
    assert kinds.count("watch-failing") == kinds.count("watch-recovered") == 1
    assert 1 <= kinds.count("forecast-crossed") <= 5
    starts = [event.cycle.start for event in seen if isinstance(event, CycleReset) and event.cycle]
    assert starts[:3] == [dt.date(2026, 1, 31), dt.date(2026, 2, 28), dt.date(2026, 3, 31)]
