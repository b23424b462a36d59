"""watch: yields an event for each relevant change of the usage.

It fetches at intervals, and yields each once per cycle.

``judge`` is pure: it returns the events that a response justifies. The loop fetches, and yields and stores new events.
"""

from __future__ import annotations

import datetime as dt
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import fields, frozen, has

from twusage.client import UsageClient
from twusage.clock import Clock
from twusage.errors import (
    AuthenticationError,
    BadRequestError,
    ClientClosedError,
    ConfigurationError,
    ForbiddenError,
    InvalidRequestError,
)
from twusage.models import Usage
from twusage.monitor.cycle import BillingCycle, cycle_of
from twusage.monitor.forecast import Forecast, forecast

if TYPE_CHECKING:
    from twusage.monitor.history import CycleRecord, History

__all__ = [
    "CapChanged",
    "CycleReset",
    "ForecastCrossed",
    "Seen",
    "ThresholdCrossed",
    "UsageSampled",
    "WatchEvent",
    "WatchFailing",
    "WatchRecovered",
    "judge",
    "watch",
]

_log = logging.getLogger("twusage")
_DAYS = 90  # The forecast is best with all the days that the API has.
_MIN_EVERY = 60.0
# Seconds. A longer sleep would outlast the end of a suspension, which only the wall clock shows (cpython#106940).
_MAX_SLEEP = 300.0
# The API may report the count of the previous cycle for this long after a reset.
_BEHIND = dt.timedelta(days=1)
# Only a change of the program or of its credentials helps.
_FATAL = (
    AuthenticationError,
    BadRequestError,
    ClientClosedError,
    ConfigurationError,
    ForbiddenError,
    InvalidRequestError,
)


# -- Events ------------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class WatchEvent:
    """What a watch yields. Two events with the same ``key`` are one event."""

    kind: ClassVar[str] = "event"
    """The kind of event, for programs: ``threshold-crossed``."""
    at: dt.datetime
    """When the response arrived, or the call failed: UTC."""
    project_id: str | None
    """The project, or ``None`` if it is unknown."""
    cycle: BillingCycle | None
    """The billing cycle, or ``None`` if it is unknown."""

    @property
    def key(self) -> str:
        """The identity of the event: ``{project}/{cycle.start}/{kind}/…``, with ``-`` for what is unknown."""
        return "/".join((_prefix(self.project_id, self.cycle) + self.kind, *map(str, self._identity())))

    def _identity(self) -> tuple[object, ...]:
        """Return the key's parts that distinguish events of one kind and cycle."""
        return (self.at.isoformat(),)

    def to_dict(self) -> dict[str, object]:
        """Plain JSON types: ``event`` (the kind), ``key``, and the fields."""
        return {"event": self.kind, "key": self.key} | {
            each.name: _plain(getattr(self, each.name)) for each in fields(type(self))
        }


@frozen(kw_only=True)
class UsageSampled(WatchEvent):
    """A response arrived. Yielded for each; never stored as delivered."""

    kind = "usage-sampled"
    usage: Usage
    """The response."""
    forecast: Forecast
    """The end of the cycle, as expected now."""


@frozen(kw_only=True)
class ThresholdCrossed(WatchEvent):
    """The count reached a fraction of the cap. Once a cycle, threshold and cap."""

    kind = "threshold-crossed"
    threshold: float
    """The fraction of the cap."""
    used: int
    """Posts read in this cycle."""
    cap: int
    """Posts that may be read in it."""

    def _identity(self) -> tuple[object, ...]:
        return self.threshold, self.cap


@frozen(kw_only=True)
class ForecastCrossed(WatchEvent):
    """The cap will probably not last. The low end of the forecast reaches it. Once a cycle and cap."""

    kind = "forecast-crossed"
    cap: int
    """Posts that may be read in this cycle."""
    expected: int | None
    """Posts expected by the end of the cycle."""
    low: int
    """The low end of the 90 % range around ``expected``."""
    high: int | None
    """The high end of that range."""
    exhausts_on: dt.date | None
    """The day on which the cap is expected to be used up."""

    def _identity(self) -> tuple[object, ...]:
        return (self.cap,)


@frozen(kw_only=True)
class CycleReset(WatchEvent):
    """A new billing cycle began. Once, however many cycles were missed."""

    kind = "cycle-reset"
    previous: dt.date
    """The first day of the last cycle that was seen."""
    used: int | None
    """The last count that was seen of it."""
    cap: int | None
    """The last cap that was seen of it."""

    def _identity(self) -> tuple[object, ...]:
        return ()


@frozen(kw_only=True)
class CapChanged(WatchEvent):
    """The project has another cap. Once a cycle and pair of caps."""

    kind = "cap-changed"
    before: int
    """The cap that was seen last."""
    after: int
    """The cap now."""

    def _identity(self) -> tuple[object, ...]:
        return self.before, self.after


@frozen(kw_only=True)
class WatchFailing(WatchEvent):
    """A call failed. Once, until ``WatchRecovered``."""

    kind = "watch-failing"
    error: Exception
    """The error of the call."""


@frozen(kw_only=True)
class WatchRecovered(WatchEvent):
    """Calls succeed again, after ``WatchFailing``."""

    kind = "watch-recovered"
    since: dt.datetime
    """When they began to fail."""


def _prefix(project_id: str | None, cycle: BillingCycle | None) -> str:
    return f"{_project(project_id)}/{'-' if cycle is None else cycle.start}/"


def _project(project_id: str | None) -> str:
    return "-" if project_id is None else project_id


def _plain(value: Any) -> object:
    if callable(to_dict := getattr(value, "to_dict", None)):
        return to_dict()
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, Exception):
        return {"type": type(value).__name__, "message": str(value)}
    if has(type(value)):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(type(value))}
    return value


# -- Which events ------------------------------------------------------------------------------------------------------


@frozen
class Seen:
    """The last seen state of a project: cycle start, count and cap."""

    start: dt.date
    """The first day of the cycle."""
    used: int | None
    """The count; ``None`` if unknown."""
    cap: int | None
    """The cap; ``None`` if unknown."""

    def then(self, newer: Seen) -> Seen:
        """Return these values updated by newer ones. An unknown value replaces nothing."""
        used = self.used if newer.used is None and newer.start == self.start else newer.used
        return Seen(newer.start, used, self.cap if newer.cap is None else newer.cap)


def judge(usage: Usage, last: Seen | None, thresholds: Iterable[float]) -> tuple[WatchEvent, ...]:
    """Return all events that a response justifies, delivered or not. Pure.

    Args:
        usage: the response, with ``fetched_at``.
        last: what was seen of the project before, if anything.
        thresholds: fractions of the cap.
    """
    cycle, ahead = cycle_of(usage), forecast(usage)
    common = _where(usage, usage.fetched_at)
    sampled = UsageSampled(usage=usage, forecast=ahead, **common)
    if cycle is None or _is_behind(usage, cycle, last):
        return (sampled,)
    events: list[WatchEvent] = [sampled]
    if last is not None and last.start < cycle.start:
        events.append(CycleReset(previous=last.start, used=last.used, cap=last.cap, **common))
    used, cap = usage.project_usage, usage.project_cap
    if last is not None and last.cap is not None and cap is not None and cap != last.cap:
        events.append(CapChanged(before=last.cap, after=cap, **common))
    if used is None or not cap:
        return tuple(events)
    events += [
        ThresholdCrossed(threshold=threshold, used=used, cap=cap, **common)
        for threshold in sorted(thresholds)
        if used / cap >= threshold
    ]
    if ahead.low is not None and used < cap <= ahead.low:
        crossed = {name: getattr(ahead, name) for name in ("expected", "low", "high", "exhausts_on")}
        events.append(ForecastCrossed(cap=cap, **crossed, **common))
    return tuple(events)


def _is_behind(usage: Usage, cycle: BillingCycle, last: Seen | None) -> bool:
    """Whether the count is still that of the previous cycle."""
    if last is None or last.used is None or usage.project_usage is None or not last.start < cycle.start:
        return False
    return usage.fetched_at - cycle.previous().resets_at < _BEHIND and usage.project_usage >= last.used


# -- The loop ----------------------------------------------------------------------------------------------------------


class _Memory:
    """The recorded and delivered events. They are in memory, and in the history while it works."""

    def __init__(self, history: History | None, clock: Clock) -> None:
        self.last: Seen | None = None
        self._history = history
        self._clock = clock
        self._failed = False
        self._project: str | None = None
        self._knows_history = False
        self._delivered: set[str] = set()
        self._unstored: dict[str, dt.datetime] = {}

    def begin(self) -> None:
        """Begin a poll. The history is tried again if it failed in the last one."""
        self._failed = False

    async def recall(self, usage: Usage) -> None:
        """Read what other watches and earlier runs saw and delivered."""
        project, cycle = _project(usage.project_id), cycle_of(usage)
        if project != self._project:
            self._project, self._knows_history, self.last = project, False, None
        if cycle is not None:
            await self._attempt(lambda history: self._read(history, project, cycle))

    async def _read(self, history: History, project: str, cycle: BillingCycle) -> None:
        prefix = _prefix(project, cycle)
        self._delivered.update(await history.delivered(prefix))
        if self._knows_history:
            return
        records = await history.cycles(project)
        earlier = [record for record in records if record.start < cycle.start]
        # Another program may have recorded this cycle already, but only a delivered event was reported.
        if prefix + CycleReset.kind not in self._delivered and earlier:
            self.last = _seen(earlier[-1])
        elif self.last is None and records:
            self.last = _seen(records[-1])
        self._knows_history = True

    def has_delivered(self, event: WatchEvent) -> bool:
        """Whether the consumer has this event already."""
        return event.key in self._delivered

    async def deliver(self, event: WatchEvent) -> None:
        """Remember that the consumer has this event."""
        if isinstance(event, UsageSampled):
            return
        self._delivered.add(event.key)
        self._unstored[event.key] = _now(self._clock)
        await self._attempt(self._store)

    async def _store(self, history: History) -> None:
        for key, at in tuple(self._unstored.items()):
            await history.mark_delivered(key, at)
            del self._unstored[key]

    async def remember(self, usage: Usage) -> None:
        """Record a response, unless its count is of the previous cycle. Its events are delivered."""
        cycle = cycle_of(usage)
        if cycle is not None:
            if _is_behind(usage, cycle, self.last):
                return
            seen = Seen(cycle.start, usage.project_usage, usage.project_cap)
            self.last = seen if self.last is None else self.last.then(seen)
        await self._attempt(self._store)
        await self._attempt(lambda history: history.record(usage))

    async def _attempt(self, job: Callable[[History], Awaitable[None]]) -> None:
        if self._history is None or self._failed:
            return
        try:
            await job(self._history)
        except Exception as error:  # noqa: BLE001 - a watch outlives every failure of its history
            self._failed = True  # One line a poll, not one for each event.
            _log.warning("the history failed; the watch continues in memory: %s: %s", type(error).__name__, error)


def _seen(record: CycleRecord) -> Seen:
    return Seen(record.start, record.usage, record.cap)


def watch(
    client: UsageClient,
    *,
    every: float = 900.0,
    thresholds: Iterable[float] = (0.8, 0.9, 1.0),
    history: History | None = None,
) -> AsyncGenerator[WatchEvent, None]:
    """Yield an event for each sample and each relevant change.

    Changes are a crossed threshold, an expected overrun, a reset, a changed cap and an outage.

    ::

        async for event in watch(client):
            if not isinstance(event, UsageSampled):
                await notify(event.to_dict())

    An event counts as delivered when the next one is requested. With a history, a new watch continues after the last
    delivered event; one that was not fully handled is delivered again. Failures of the API are events; failures of the
    history are logged.

    Args:
        client: fetches the usage.
        every: seconds from one request to the next, at least 60.
        thresholds: fractions of the cap, above 0.
        history: an open ``History``; without it, events repeat after a restart.

    Raises:
        InvalidRequestError: an argument is wrong.
        ConfigurationError: the client cannot be used on this event loop.
        ClientClosedError: the client is closed.
        AuthenticationError: the API rejects the credentials.
        ForbiddenError: the credentials do not allow this request.
        BadRequestError: the API rejects a parameter.
    """
    if type(every) not in {int, float} or not _MIN_EVERY <= every < math.inf:
        raise InvalidRequestError(f"every must be a number of seconds, at least {_MIN_EVERY:g}, got {every!r}")
    fractions = tuple(thresholds)
    for each in fractions:
        if type(each) not in {int, float} or not 0 < each < math.inf:
            raise InvalidRequestError(f"thresholds must be fractions of the cap above 0, such as 0.8, got {each!r}")
    return _watch(client, every, sorted({float(each) for each in fractions}), _Memory(history, client.clock))


async def _watch(
    client: UsageClient, every: float, thresholds: Sequence[float], memory: _Memory
) -> AsyncGenerator[WatchEvent, None]:
    clock = client.clock
    usage: Usage | None = None
    failing_since: dt.datetime | None = None
    while True:
        due = clock.monotonic() + every, clock.time() + every
        memory.begin()
        events: tuple[WatchEvent, ...] = ()
        sample: Usage | None = None
        try:
            sample = await client.get_usage(days=_DAYS)
        except _FATAL:
            raise
        except Exception as error:  # noqa: BLE001 - reported, whatever it is; a watch outlives every outage
            if failing_since is None:
                failing_since = _now(clock)
                events = (WatchFailing(error=error, **_where(usage, failing_since)),)
        else:
            usage = sample
            await memory.recall(usage)
            events = judge(usage, memory.last, thresholds)
            if failing_since is not None:
                recovered = WatchRecovered(since=failing_since, **_where(usage, usage.fetched_at))
                events, failing_since = (recovered, *events), None
        for event in events:
            if not memory.has_delivered(event):
                yield event
                await memory.deliver(event)
        if sample is not None:
            # Not earlier: a record of the new cycle would hide a reset that is not delivered yet.
            await memory.remember(sample)
        await _sleep_until(clock, *due)


def _where(usage: Usage | None, at: dt.datetime) -> dict[str, Any]:
    """Return the common fields of all events, from the last response."""
    if usage is None:
        return {"at": at, "project_id": None, "cycle": None}
    return {"at": at, "project_id": usage.project_id, "cycle": cycle_of(usage, at)}


async def _sleep_until(clock: Clock, monotonic: float, wall: float) -> None:
    """Sleep until either clock has reached its time."""
    while (left := min(monotonic - clock.monotonic(), wall - clock.time())) > 0:
        await clock.sleep(min(left, _MAX_SLEEP))


def _now(clock: Clock) -> dt.datetime:
    return dt.datetime.fromtimestamp(clock.time(), dt.UTC)
