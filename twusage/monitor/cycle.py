"""Billing cycles and each app's share of one. Pure: time comes in as an argument, in UTC.

What belongs here: the calendar of ``cap_reset_day``, and sums over the days of a cycle. What the rest of the cycle will
bring is in ``forecast``.
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_left
from calendar import monthrange
from typing import Self

from attrs import frozen

from twusage.errors import InvalidRequestError
from twusage.models import EPOCH, DailySeries, Usage

__all__ = ["AppShare", "Attribution", "BillingCycle", "attribution", "cycle_of"]

_DAY = dt.timedelta(days=1)


@frozen
class BillingCycle:
    """The days from one reset of the cap to the next, in UTC.

    In a month without ``reset_day`` the cycle starts on the last day of the month, and the next one starts on
    ``reset_day`` again: 31 January, 28 February, 31 March. Make one with ``of``.
    """

    start: dt.date
    """The first day."""
    end: dt.date
    """The first day of the next cycle."""
    reset_day: int
    """The day of the month on which the cap resets, 1 to 31."""

    @classmethod
    def of(cls, reset_day: int, day: dt.date) -> Self:
        """The cycle that contains this day, or this instant (an aware ``datetime``).

        Raises:
            InvalidRequestError: the reset day is not an int from 1 to 31, or the datetime is naive.
        """
        if type(reset_day) is not int or not 1 <= reset_day <= 31:
            raise InvalidRequestError(f"reset_day must be an int from 1 to 31, got {reset_day!r}")
        day = _utc_day(day)
        month = day.year * 12 + day.month - 1
        if day < _start(month, reset_day):
            month -= 1
        return cls(_start(month, reset_day), _start(month + 1, reset_day), reset_day)

    @property
    def days(self) -> int:
        """The number of days, 28 to 31."""
        return (self.end - self.start).days

    @property
    def resets_at(self) -> dt.datetime:
        """The instant at which the cycle ends: 00:00 UTC on ``end``."""
        return dt.datetime.combine(self.end, dt.time(), dt.UTC)

    def days_left(self, now: dt.datetime) -> float:
        """Days until the reset, with fractions; 0.0 after it.

        Raises:
            InvalidRequestError: ``now`` is naive.
        """
        return max(0.0, (self.resets_at - _utc(now)) / _DAY)

    def next(self) -> Self:
        """The cycle that starts when this one ends."""
        return self.of(self.reset_day, self.end)

    def previous(self) -> Self:
        """The cycle that ends when this one starts."""
        return self.of(self.reset_day, self.start - _DAY)

    def __contains__(self, day: dt.date) -> bool:
        return self.start <= _utc_day(day) < self.end


@frozen
class AppShare:
    """The part of a project's reads that one client app made in a cycle."""

    client_app_id: str
    """The app's id."""
    used: int
    """Posts that it read, by the sum of its days."""
    fraction: float | None
    """``used`` as a fraction of the project's count; ``None`` if that is unknown or 0."""


@frozen
class Attribution:
    """Who used the cap in this cycle: the project's count, by client app."""

    cycle: BillingCycle
    """The billing cycle."""
    used: int | None
    """Posts that the project read, by its own count (``Usage.project_usage``)."""
    apps: tuple[AppShare, ...]
    """The client apps, in the order of the response."""
    unattributed: int | None
    """``used`` without the sum of ``apps``: deleted apps, apps without an id, days that were not requested. Negative if
    the apps add up to more than the project; ``None`` if ``used`` is unknown."""


def cycle_of(usage: Usage, now: dt.datetime | None = None) -> BillingCycle | None:
    """The billing cycle at ``now`` (default: ``fetched_at``), or ``None`` without a reset day.

    Raises:
        InvalidRequestError: ``now`` is naive, or is missing while ``fetched_at`` is unknown.
    """
    if usage.cap_reset_day is None:
        return None
    return BillingCycle.of(usage.cap_reset_day, instant_of(usage, now))


def attribution(usage: Usage, *, now: dt.datetime | None = None) -> Attribution | None:
    """Each client app's part of the current cycle, or ``None`` without a reset day.

    It needs the apps' days: ``get_usage(days=31)`` covers every cycle. An app without an id counts as unattributed,
    because several apps could lack one.

    Raises:
        InvalidRequestError: ``now`` is naive, or is missing while ``fetched_at`` is unknown.
    """
    cycle = cycle_of(usage, now)
    if cycle is None:
        return None
    used = usage.project_usage
    sums = [
        (app.client_app_id, _used_in(cycle, app.usage))
        for app in usage.daily_client_app_usage
        if app.client_app_id is not None
    ]
    return Attribution(
        cycle,
        used,
        tuple(AppShare(app_id, reads, reads / used if used else None) for app_id, reads in sums),
        None if used is None else used - sum(reads for _, reads in sums),
    )


def instant_of(usage: Usage, now: dt.datetime | None) -> dt.datetime:
    """The instant at which a response is judged, in UTC: ``now``, or else ``fetched_at``."""
    if now is None and usage.fetched_at == EPOCH:
        raise InvalidRequestError("fetched_at of this usage is unknown (1970): pass now=")
    return _utc(usage.fetched_at if now is None else now)


def _used_in(cycle: BillingCycle, series: DailySeries) -> int:
    return series[bisect_left(series.dates, cycle.start) : bisect_left(series.dates, cycle.end)].total


def _start(month: int, reset_day: int) -> dt.date:
    """The day on which the cap resets in a month, which is counted from the year 0."""
    year, month = month // 12, month % 12 + 1
    return dt.date(year, month, min(reset_day, monthrange(year, month)[1]))


def _utc_day(day: dt.date) -> dt.date:
    return _utc(day).date() if isinstance(day, dt.datetime) else day


def _utc(instant: dt.datetime) -> dt.datetime:
    if instant.utcoffset() is None:
        raise InvalidRequestError(f"the datetime must be aware (UTC, for example), got the naive {instant.isoformat()}")
    return instant.astimezone(dt.UTC)
