"""A year of a watch, in virtual time: `nox -s monitor -- year`.

Three apps that grow and rest on weekends, a cap that is raised, a reset day of 31, an outage, and two restarts over a
history in SQLite. Each event that the responses justify must be delivered exactly once; what they justify is worked out
from the samples alone, without any memory.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import math
import tempfile
from collections import Counter
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from attrs import Factory, define

from twusage import RetryPolicy, UsageClient
from twusage.monitor import History, UsageSampled, WatchEvent, watch
from twusage.testing import FakeApi, FakeTransport, Fault, VirtualClock

BEGIN = dt.datetime(2026, 1, 5, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
THRESHOLDS = (0.8, 0.9, 1.0)
SHARES = (7, 2, 1)
"""Of ten posts, those that each app reads."""


class InPlace(Executor):
    """Runs functions immediately. A task that waits for a thread seems idle to a virtual clock."""

    def submit(self, function: Any, /, *arguments: Any, **keywords: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments, **keywords))
        except Exception as error:  # noqa: BLE001 - the caller's
            future.set_exception(error)
        return future


@define
class Year:
    """What a year brought."""

    days: int
    events: list[WatchEvent] = Factory(list)
    """All that were delivered, without the samples."""
    samples: list[UsageSampled] = Factory(list)
    history_bytes: int = 0

    def counts(self) -> Counter[str]:
        """The delivered events by kind."""
        return Counter(event.kind for event in self.events)

    def twice(self) -> list[str]:
        """The keys that were delivered more than once."""
        return [key for key, times in Counter(event.key for event in self.events).items() if times > 1]

    def wrong(self) -> set[str]:
        """The keys that were delivered without a reason, or were not delivered."""
        outage = {"watch-failing", "watch-recovered"}
        delivered = {event.key.partition("/")[2] for event in self.events if event.kind not in outage}
        return delivered ^ justified(self.samples)


def justified(samples: list[UsageSampled]) -> set[str]:
    """The keys, without the project, of the events that these samples justify."""
    keys: set[str] = set()
    last: UsageSampled | None = None
    for sample in samples:
        cap, used, low = sample.usage.project_cap, sample.usage.project_usage, sample.forecast.low
        assert sample.cycle is not None
        assert cap is not None
        assert used is not None
        start = sample.cycle.start
        if last is not None and last.cycle is not None and last.cycle.start < start:
            keys.add(f"{start}/cycle-reset")
        if last is not None and last.usage.project_cap != cap:
            keys.add(f"{start}/cap-changed/{last.usage.project_cap}/{cap}")
        keys |= {f"{start}/threshold-crossed/{each}/{cap}" for each in THRESHOLDS if used >= each * cap}
        if low is not None and used < cap <= low:
            keys.add(f"{start}/forecast-crossed/{cap}")
        last = sample
    return keys


def due(now: dt.datetime, hours: float) -> int:
    """Posts read in these hours: they double within a year, and fall on weekends."""
    return round(20 * hours * (1 + (now - BEGIN) / (365 * DAY)) * (0.4 if now.weekday() >= 5 else 1))


async def run(days: int, hours: float, directory: Path) -> Year:
    """Watch for so many days, once every ``hours``; cap, outage and restarts come at fixed parts of them."""
    year = Year(days)
    clock = VirtualClock(BEGIN)
    api = FakeApi(apps=len(SHARES), cap=13_500, reset_day=31, history_days=0, clock=clock)
    api.max_requests = 100_000
    raised, outage = BEGIN + 0.3 * days * DAY, (BEGIN + 0.4 * days * DAY, BEGIN + 0.4 * days * DAY + 3 * DAY)
    api.fail(Fault.status(503), times=math.inf, when=lambda _: outage[0] <= clock.now() < outage[1])
    for stop in (0.35, 0.7, 1):
        client = UsageClient(
            api.apps[0].token, transport=FakeTransport(api), clock=clock, retry=RetryPolicy.none(), timeout=5
        )
        history = History(f"sqlite:///{directory}/usage.db", executor=InPlace())
        async with client, history:
            async for event in watch(client, every=hours * 3600, thresholds=THRESHOLDS, history=history):
                if not isinstance(event, UsageSampled):
                    year.events.append(event)
                    continue
                year.samples.append(event)
                if event.at >= BEGIN + stop * days * DAY:
                    break
                api.project.cap = 13_500 if event.at < raised else 15_000
                _read(api, due(event.at, hours))
        await clock.sleep(3600)
    year.history_bytes = (directory / "usage.db").stat().st_size
    return year


def _read(api: FakeApi, posts: int) -> None:
    for app, share in zip(api.apps, SHARES, strict=True):
        if api.project.usage() < api.project.cap:
            api.read_posts(app, posts * share // 10)


def main() -> None:
    """Print what a year of hourly polls brought."""
    with tempfile.TemporaryDirectory(prefix="tw") as directory:
        year = asyncio.run(run(365, 1, Path(directory)))
    counts = ", ".join(f"{kind} {number}" for kind, number in sorted(year.counts().items()))
    print(f"{year.days} days, {len(year.samples):,} samples, history of {year.history_bytes / 1000:.0f} KB")
    print(f"{len(year.events)} events: {counts}")
    print(f"delivered twice: {len(year.twice())}, missing or without a reason: {len(year.wrong())}")
    if year.twice() or year.wrong():
        raise SystemExit(1)


if __name__ == "__main__":
    main()
