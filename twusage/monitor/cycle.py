"""The billing cycle of a usage, and each app's share of it. Pure: time comes in as an argument, in UTC.

What belongs here: sums over the days of a cycle. The calendar is in ``twusage.cycle``, the rest of the cycle in
``forecast``.
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_left

from attrs import frozen

from twusage.cycle import BillingCycle, as_utc
from twusage.errors import InvalidRequestError
from twusage.models import EPOCH, DailySeries, Usage

__all__ = ["AppShare", "Attribution", "BillingCycle", "attribution", "cycle_of"]


@frozen
class AppShare:
    """One client app's part of a project's reads in a cycle."""

    client_app_id: str
    """The app's id."""
    used: int
    """Posts that it read, by the sum of its days."""
    fraction: float | None
    """``used`` as a fraction of the project's count; ``None`` if that is unknown or 0."""


@frozen
class Attribution:
    """The reads of this cycle by client app, and the project's count."""

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
    """Return the billing cycle at ``now`` (default: ``fetched_at``), or ``None`` without a reset day.

    Raises:
        InvalidRequestError: ``now`` is naive, or is missing while ``fetched_at`` is unknown.
    """
    if usage.cap_reset_day is None:
        return None
    return BillingCycle.of(usage.cap_reset_day, instant_of(usage, now))


def attribution(usage: Usage, *, now: dt.datetime | None = None) -> Attribution | None:
    """Return each app's part of the cycle. ``None`` without a reset day.

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
    """Return ``now``, or else ``fetched_at``, in UTC."""
    if now is None and usage.fetched_at == EPOCH:
        raise InvalidRequestError("fetched_at of this usage is unknown (1970): pass now=")
    return as_utc(usage.fetched_at if now is None else now)


def _used_in(cycle: BillingCycle, series: DailySeries) -> int:
    return series[bisect_left(series.dates, cycle.start) : bisect_left(series.dates, cycle.end)].total
