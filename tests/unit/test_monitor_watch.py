"""watch: every event exactly once, over restarts, missed cycles, outages, and a history that fails."""

import asyncio
import datetime as dt
import json
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from memory_history import MemoryHistory

from twusage import (
    AuthenticationError,
    ClientClosedError,
    DailySeries,
    InvalidRequestError,
    ProjectUsage,
    RetryPolicy,
    ServerError,
    Usage,
    UsageClient,
)
from twusage.monitor import (
    BillingCycle,
    CapChanged,
    CycleReset,
    ForecastCrossed,
    ThresholdCrossed,
    UsageSampled,
    WatchEvent,
    WatchFailing,
    WatchRecovered,
    watch,
)
from twusage.monitor.watch import Seen, judge
from twusage.testing import FakeApi, FakeTransport, Fault, VirtualClock

HOUR, DAY = 3600.0, 86_400.0
RESET = dt.datetime(2026, 2, 10, tzinfo=dt.UTC)
NOW = dt.datetime(2026, 1, 15, 12, tzinfo=dt.UTC)
CYCLE = BillingCycle.of(10, NOW)
THRESHOLDS = (0.8, 0.9, 1.0)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def api(clock: VirtualClock) -> FakeApi:
    """A project of one app without reads, a cap of 1,000, and a cycle that resets on the 10th."""
    return FakeApi(apps=1, cap=1000, history_days=0, clock=clock)


@pytest.fixture
async def client(api: FakeApi, clock: VirtualClock) -> AsyncIterator[UsageClient]:
    async with UsageClient(
        api.apps[0].token, transport=FakeTransport(api), clock=clock, retry=RetryPolicy.none()
    ) as client:
        yield client


@pytest.fixture
def history() -> Any:
    return MemoryHistory()


async def take(events: AsyncGenerator[WatchEvent, None], polls: int) -> list[WatchEvent]:
    """What a watch yields until the sample after the next ``polls``, without the samples."""
    taken = []
    while polls >= 0:
        event = await anext(events)
        if isinstance(event, UsageSampled):
            polls -= 1
        else:
            taken.append(event)
    return taken


def names(events: list[WatchEvent] | tuple[WatchEvent, ...]) -> list[str]:
    return [type(event).__name__ for event in events]


def sample(used: int | None = 0, *, days: int = 0, per_day: int = 0, **fields: Any) -> Usage:
    dates = tuple(NOW.date() - dt.timedelta(days=ago) for ago in range(days, 0, -1))
    series = ProjectUsage("7", DailySeries(dates, (per_day,) * days))
    known: dict[str, Any] = {"project_cap": 1000, "cap_reset_day": 10, "fetched_at": NOW}
    return Usage("7", project_usage=used, daily_project_usage=series, **known | fields)


# -- judge -------------------------------------------------------------------------------------------------------------


def test_a_quiet_sample() -> None:
    """Below all thresholds there is nothing but the sample."""
    usage = sample(799)
    (event,) = judge(usage, Seen(CYCLE.start, 700, 1000), THRESHOLDS)
    assert isinstance(event, UsageSampled)
    assert (event.at, event.project_id, event.cycle, event.usage) == (NOW, "7", CYCLE, usage)
    assert event.forecast.used == 799
    assert event.key == f"7/2026-01-10/usage-sampled/{NOW.isoformat()}"


def test_thresholds_ascend() -> None:
    """All that are reached are reported, not only at the edge."""
    _, *events = judge(sample(950), None, (1.0, 0.9, 0.8))
    assert [event.key for event in events] == [
        "7/2026-01-10/threshold-crossed/0.8/1000",
        "7/2026-01-10/threshold-crossed/0.9/1000",
    ]
    assert events[0].to_dict() == {
        "event": "threshold-crossed",
        "key": "7/2026-01-10/threshold-crossed/0.8/1000",
        "at": NOW.isoformat(),
        "project_id": "7",
        "cycle": {"start": "2026-01-10", "end": "2026-02-10", "reset_day": 10},
        "threshold": 0.8,
        "used": 950,
        "cap": 1000,
    }


def test_an_exact_threshold_is_reached() -> None:
    """A threshold is a fraction at or above which the count must be."""
    assert names(judge(sample(800), None, THRESHOLDS)) == ["UsageSampled", "ThresholdCrossed"]


def test_forecast_crossed() -> None:
    """It needs the low end of the range at the cap, and a count below it."""
    _, event = judge(sample(500, days=30, per_day=100), None, THRESHOLDS)
    assert isinstance(event, ForecastCrossed)
    assert event.key == "7/2026-01-10/forecast-crossed/1000"
    assert event.high is not None
    assert event.expected is not None
    assert event.cap <= event.low < event.expected < event.high
    assert event.exhausts_on == dt.date(2026, 1, 20)
    assert event.to_dict()["exhausts_on"] == "2026-01-20"


def test_forecast_that_may_fit_is_no_event() -> None:
    """An expected overrun whose low end fits raises too many false alarms."""
    usage = sample(0, days=30, per_day=40)
    (event,) = judge(usage, None, THRESHOLDS)
    assert isinstance(event, UsageSampled)
    assert event.forecast.fits is False


def test_forecast_at_the_cap_is_no_event() -> None:
    """A cap that is used up is not a forecast."""
    events = judge(sample(1000, days=30, per_day=100), None, THRESHOLDS)
    assert names(events) == ["UsageSampled", *["ThresholdCrossed"] * 3]


@pytest.mark.parametrize("fields", [{"project_cap": 0}, {"project_cap": None}, {"used": None}])
def test_no_threshold_without_a_cap_or_a_count(fields: dict[str, Any]) -> None:
    """A cap of 0 has no fractions, and unknown is not 0."""
    assert names(judge(sample(**{"used": 5} | fields), None, THRESHOLDS)) == ["UsageSampled"]


def test_without_a_reset_day() -> None:
    """There is no cycle in which something could happen once."""
    (event,) = judge(sample(1000, cap_reset_day=None), Seen(CYCLE.start, 5, 900), THRESHOLDS)
    assert (event.cycle, event.key) == (None, f"7/-/usage-sampled/{NOW.isoformat()}")


def test_reset_and_changed_cap() -> None:
    """A reset reports the last known count, before the events of the new cycle."""
    _, reset, changed, crossed = judge(sample(900, project_cap=1100), Seen(dt.date(2025, 11, 10), 640, 800), (0.8,))
    assert isinstance(reset, CycleReset)
    assert (reset.previous, reset.used, reset.cap) == (dt.date(2025, 11, 10), 640, 800)
    assert reset.key == "7/2026-01-10/cycle-reset"
    assert isinstance(changed, CapChanged)
    assert (changed.before, changed.after, changed.key) == (800, 1100, "7/2026-01-10/cap-changed/800/1100")
    assert isinstance(crossed, ThresholdCrossed)


@pytest.mark.parametrize("last", [Seen(CYCLE.start, 5, None), Seen(CYCLE.next().start, 5, 1000)])
def test_nothing_follows_from_what_is_unknown_or_later(last: Seen) -> None:
    """A cap that becomes known has not changed, and an earlier cycle is not a reset."""
    assert names(judge(sample(5), last, THRESHOLDS)) == ["UsageSampled"]


@pytest.mark.parametrize(
    ("hours", "used", "last", "reset"),
    [
        (1, 950, 950, False),
        (1, 951, 950, False),
        (23.9, 950, 950, False),
        (24, 950, 950, True),
        (1, 949, 950, True),
        (1, None, 950, True),
        (1, 950, None, True),
    ],
)
def test_api_behind_at_the_reset(hours: float, used: int | None, last: int | None, *, reset: bool) -> None:
    """For 24 hours, a count that did not fall is the previous cycle's, and is not judged."""
    usage = sample(used, fetched_at=RESET + dt.timedelta(hours=hours))
    events = names(judge(usage, Seen(CYCLE.start, last, 1000), THRESHOLDS))
    assert events[1:2] == (["CycleReset"] if reset else [])


def test_unknown_replaces_nothing() -> None:
    """A response without a count or a cap leaves what is known. A new cycle has no count yet."""
    first = Seen(dt.date(2026, 1, 10), 5, 1000)
    assert first.then(Seen(dt.date(2026, 1, 10), None, None)) == first
    assert first.then(Seen(dt.date(2026, 2, 10), None, None)) == Seen(dt.date(2026, 2, 10), None, 1000)
    assert first.then(Seen(dt.date(2026, 1, 10), 6, 1100)) == Seen(dt.date(2026, 1, 10), 6, 1100)


def test_every_event_becomes_json() -> None:
    """Dicts of plain types, the sample's usage and forecast and an error included."""
    common: dict[str, Any] = {"at": NOW, "project_id": None, "cycle": None}
    failing = WatchFailing(error=ServerError("down"), **common)
    assert failing.to_dict() == {
        "event": "watch-failing",
        "key": f"-/-/watch-failing/{NOW.isoformat()}",
        "at": NOW.isoformat(),
        "project_id": None,
        "cycle": None,
        "error": {"type": "ServerError", "message": "down"},
    }
    for event in (*judge(sample(5, days=9, per_day=200), None, THRESHOLDS), failing):
        assert json.loads(json.dumps(event.to_dict())) == event.to_dict()


# -- The loop ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [59, 0, True, None, math.inf, math.nan])
def test_wrong_interval(client: UsageClient, every: Any) -> None:
    """It is refused by the call, not by the first event."""
    with pytest.raises(InvalidRequestError, match="every must be a number of seconds, at least 60"):
        watch(client, every=every)


@pytest.mark.parametrize("threshold", [0, -0.5, math.inf, math.nan, True, "0.8"])
def test_wrong_thresholds(client: UsageClient, threshold: Any) -> None:
    """Fractions above 0; more than 1.0 is allowed."""
    with pytest.raises(InvalidRequestError, match="thresholds must be fractions of the cap above 0"):
        watch(client, thresholds=[0.5, threshold])


async def test_polls_keep_their_distance(api: FakeApi, client: UsageClient, clock: VirtualClock) -> None:
    """From one request to the next, however long the consumer takes. 90 days are requested."""
    events = watch(client, every=900)
    times = []
    for _ in range(4):
        await anext(events)
        times.append(clock.monotonic())
        await clock.sleep(100)
    assert times == [0, 900, 1800, 2700]
    assert all("days=90" in request.url for request in api.requests)


async def test_a_slow_consumer_delays_the_next_poll(client: UsageClient, clock: VirtualClock) -> None:
    """A watch never overlaps itself and never catches up."""
    events = watch(client, every=900)
    await anext(events)
    await clock.sleep(5000)
    await anext(events)
    assert clock.monotonic() == 5000
    await anext(events)
    assert clock.monotonic() == 5900


async def test_a_suspended_machine(client: UsageClient, clock: VirtualClock) -> None:
    """After it wakes, the next poll comes within 300 s, because the wall clock is past it."""
    events = watch(client, every=12 * HOUR)
    await anext(events)
    following = asyncio.create_task(anext(events))
    await clock.sleep(10)
    clock.suspend(20 * HOUR)
    await following
    assert clock.monotonic() == 300


async def test_a_wall_clock_that_is_set_back(client: UsageClient, clock: VirtualClock) -> None:
    """The next poll is not delayed."""
    events = watch(client, every=900)
    await anext(events)
    clock.jump(-DAY)
    await anext(events)
    assert clock.monotonic() == 900


async def test_cancelling_ends_it_immediately(client: UsageClient, clock: VirtualClock) -> None:
    """Also in the middle of a wait."""

    async def program() -> None:
        async for _ in watch(client):
            pass

    task = asyncio.create_task(program())
    await clock.sleep(1000)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert clock.monotonic() == 1000


async def test_events_come_once_a_cycle(api: FakeApi, client: UsageClient, clock: VirtualClock) -> None:
    """Without a history, memory serves."""
    events = watch(client, every=DAY, thresholds=(0.5, 0.8))
    api.read_posts(api.apps[0], 850)
    assert names(await take(events, 1)) == ["ThresholdCrossed", "ThresholdCrossed"]
    rest = names(await take(events, 25))
    assert rest.count("CycleReset") == 1
    assert rest.count("ThresholdCrossed") == 0
    api.read_posts(api.apps[0], 600)
    assert names(await take(events, 2)) == ["ThresholdCrossed"]


async def test_a_cap_that_flips_back_reports_nothing_twice(api: FakeApi, client: UsageClient) -> None:
    """Thresholds are armed again for another cap, once for each."""
    events = watch(client, thresholds=(0.8,))
    api.read_posts(api.apps[0], 850)
    assert names(await take(events, 1)) == ["ThresholdCrossed"]
    api.project.cap = 1050
    assert names(await take(events, 1)) == ["CapChanged", "ThresholdCrossed"]
    api.project.cap = 1000
    assert names(await take(events, 1)) == ["CapChanged"]
    api.project.cap = 1050
    assert names(await take(events, 2)) == []


async def test_another_reset_day_is_another_cycle(api: FakeApi, client: UsageClient) -> None:
    """A later start is a reset, and an earlier one is not. Thresholds are armed again."""
    events = watch(client, thresholds=(0.8,))
    api.read_posts(api.apps[0], 850)
    assert names(await take(events, 1)) == ["ThresholdCrossed"]
    api.project.reset_day = 12
    assert names(await take(events, 1)) == ["CycleReset", "ThresholdCrossed"]
    api.project.reset_day = 5
    assert names(await take(events, 1)) == ["ThresholdCrossed"]


async def test_another_project_starts_again(api: FakeApi, client: UsageClient, history: Any) -> None:
    """An app that moves to another project has changed no cap."""
    events = watch(client, history=history)
    await take(events, 1)
    api.project.id = "5"
    api.project.cap = 7
    assert names(await take(events, 1)) == []
    assert {"5"} < set(history.records)


# -- Outages -----------------------------------------------------------------------------------------------------------


async def test_an_outage_is_reported_once(api: FakeApi, client: UsageClient, clock: VirtualClock) -> None:
    """When it begins and when it ends, whatever the errors between."""
    events = watch(client, every=900)
    await anext(events)
    api.fail(Fault.status(503), times=2)
    api.fail(Fault.usage_capped())
    api.fail(Fault.garbled())
    failing, recovered = await take(events, 0)
    assert isinstance(failing, WatchFailing)
    assert isinstance(failing.error, ServerError)
    assert (failing.project_id, failing.cycle) == (api.project.id, CYCLE)
    assert isinstance(recovered, WatchRecovered)
    assert recovered.since == failing.at == NOW + dt.timedelta(seconds=900)
    assert recovered.at == NOW + dt.timedelta(seconds=4500)
    assert clock.now() == recovered.at


async def test_an_outage_at_the_start(api: FakeApi, client: UsageClient) -> None:
    """The project is not known yet."""
    api.fail(Fault.connect_error())
    failing = await anext(watch(client))
    assert failing.key == f"-/-/watch-failing/{NOW.isoformat()}"


async def test_any_exception_of_a_component_is_an_outage(client: UsageClient, monkeypatch: Any) -> None:
    """A transport of the user's that breaks its contract does not end the watch."""

    async def send(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(client._transport, "send", send)
    failing = await anext(watch(client))
    assert isinstance(failing, WatchFailing)
    assert isinstance(failing.error, OSError)


@pytest.mark.parametrize(("status", "error"), [(401, AuthenticationError), (None, ClientClosedError)])
async def test_fatal_errors_are_raised(
    api: FakeApi, client: UsageClient, status: int | None, error: type[Exception]
) -> None:
    """Waiting does not help against them."""
    events = watch(client)
    await anext(events)
    if status is None:
        await client.aclose()
    else:
        api.fail(Fault.status(status))
    with pytest.raises(error):
        await anext(events)


# -- History -----------------------------------------------------------------------------------------------------------


async def test_a_restart_repeats_nothing(api: FakeApi, client: UsageClient, history: Any) -> None:
    """What was delivered stays delivered; what came meanwhile is reported."""
    api.read_posts(api.apps[0], 850)
    assert names(await take(watch(client, history=history), 1)) == ["ThresholdCrossed"]
    api.project.cap = 900
    events = await take(watch(client, history=history), 1)
    assert [event.key.partition("/")[2] for event in events] == [
        "2026-01-10/cap-changed/1000/900",
        "2026-01-10/threshold-crossed/0.8/900",
        "2026-01-10/threshold-crossed/0.9/900",
    ]
    assert names(await take(watch(client, history=history), 1)) == []
    assert len(history.keys) == 4


async def test_an_event_over_which_the_consumer_died_comes_again(
    api: FakeApi, client: UsageClient, clock: VirtualClock, history: Any
) -> None:
    """An event counts as delivered when the next one is requested. This holds for a reset, too."""
    api.read_posts(api.apps[0], 100)
    await take(watch(client, history=history), 1)
    await clock.sleep(RESET.timestamp() - clock.time() + HOUR)
    for _ in range(2):
        events = watch(client, history=history)
        assert isinstance(await anext(events), UsageSampled)
        assert isinstance(await anext(events), CycleReset)
        await events.aclose()
    assert names(await take(watch(client, history=history), 1)) == ["CycleReset"]
    assert names(await take(watch(client, history=history), 1)) == []


async def test_missed_cycles_are_one_reset(
    api: FakeApi, client: UsageClient, clock: VirtualClock, history: Any
) -> None:
    """Its ``previous`` is the last cycle that was seen."""
    api.read_posts(api.apps[0], 100)
    await take(watch(client, history=history), 1)
    await clock.sleep(100 * DAY)
    (reset,) = await take(watch(client, history=history), 1)
    assert isinstance(reset, CycleReset)
    assert (reset.previous, reset.used, reset.cap) == (CYCLE.start, 100, 1000)
    assert reset.key == f"{api.project.id}/2026-04-10/cycle-reset"


async def test_a_reset_that_another_program_recorded(
    api: FakeApi, client: UsageClient, clock: VirtualClock, history: Any
) -> None:
    """A record of the new cycle is not a delivered event."""
    api.read_posts(api.apps[0], 100)
    await take(watch(client, history=history), 1)
    await clock.sleep(30 * DAY)
    await history.record(await client.get_usage())
    assert names(await take(watch(client, history=history), 1)) == ["CycleReset"]
    assert names(await take(watch(client, history=history), 1)) == []


async def test_two_watches_on_one_history(api: FakeApi, client: UsageClient, history: Any) -> None:
    """An event that one watch has delivered is omitted by the other."""
    one, other = (watch(client, history=history) for _ in range(2))
    await take(one, 1)
    await take(other, 1)
    api.read_posts(api.apps[0], 850)
    assert names(await take(one, 1)) == ["ThresholdCrossed"]
    assert names(await take(other, 1)) == []


async def test_a_count_of_the_previous_cycle_is_not_recorded(
    api: FakeApi, client: UsageClient, clock: VirtualClock, history: Any
) -> None:
    """It is sampled only, until it falls or the cycle is a day old."""
    app = api.apps[0]
    api.read_posts(app, 850)
    events = watch(client, every=6 * HOUR, history=history)
    await anext(events)
    await clock.sleep(RESET.timestamp() - clock.time() + HOUR)
    app._reads[RESET.date()] = 850
    api._bodies.clear()
    assert names(await take(events, 2)) == ["ThresholdCrossed"]
    assert len(history.recorded) == 1
    app._reads[RESET.date()] = 30
    api._bodies.clear()
    (reset,) = await take(events, 1)
    assert isinstance(reset, CycleReset)
    assert reset.used == 850
    assert len(history.recorded) == 2


async def test_a_response_without_a_reset_day_is_recorded(client: UsageClient, history: Any, monkeypatch: Any) -> None:
    """Its days are good, although it belongs to no cycle."""
    usage = sample(1000, cap_reset_day=None)

    async def get_usage(**_: Any) -> Usage:
        return usage

    monkeypatch.setattr(client, "get_usage", get_usage)
    assert await take(watch(client, history=history), 1) == []
    assert history.recorded == [usage]


async def test_a_history_that_fails(
    api: FakeApi, client: UsageClient, history: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """One line a poll, and the watch continues in memory. When it works again, what was delivered is stored."""
    api.read_posts(api.apps[0], 950)
    events = watch(client, history=history)
    history.broken = True
    with caplog.at_level(logging.WARNING, "twusage"):
        assert names(await take(events, 2)) == ["ThresholdCrossed", "ThresholdCrossed"]
    assert [record.getMessage() for record in caplog.records] == [
        "the history failed; the watch continues in memory: OSError: the disk is full"
    ] * 3
    assert (history.keys, history.recorded) == ({}, [])
    history.broken = False
    assert names(await take(events, 1)) == []
    assert len(history.keys) == 2
    assert history.recorded


async def test_a_history_that_could_not_be_read_at_the_start(
    api: FakeApi, client: UsageClient, clock: VirtualClock, history: Any
) -> None:
    """A reset that was missed while the watch was down is reported when the history works again."""
    api.read_posts(api.apps[0], 100)
    await take(watch(client, history=history), 1)
    await clock.sleep(30 * DAY)
    history.broken = True
    events = watch(client, history=history)
    await take(events, 1)
    history.broken = False
    assert names(await take(events, 1)) == ["CycleReset"]
    assert names(await take(events, 1)) == []
