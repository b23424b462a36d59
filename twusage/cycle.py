"""BillingCycle: the calendar of ``cap_reset_day``. Pure: time comes in as an argument, in UTC.

Here, and not in ``monitor``, because the client needs it for the ``retry_at`` of a used-up cap.
"""

from __future__ import annotations

import datetime as dt
from calendar import monthrange
from typing import Self

from attrs import frozen

from twusage.errors import InvalidRequestError

__all__ = ["BillingCycle", "as_utc"]

_DAY = dt.timedelta(days=1)


@frozen
class BillingCycle:
    """The days between two resets of the cap, in UTC.

    In a month without ``reset_day`` the cycle starts on the last day of the month, and the next one starts on
    ``reset_day`` again: 31 January, 28 February, 31 March. Use ``of`` to create one.
    """

    start: dt.date
    """The first day."""
    end: dt.date
    """The first day of the next cycle."""
    reset_day: int
    """The day of the month on which the cap resets, 1 to 31."""

    @classmethod
    def of(cls, reset_day: int, day: dt.date) -> Self:
        """Return the cycle that contains this day or this aware ``datetime``.

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
        """Return the days until the reset, with fractions; 0.0 after it.

        Raises:
            InvalidRequestError: ``now`` is naive.
        """
        return max(0.0, (self.resets_at - as_utc(now)) / _DAY)

    def next(self) -> Self:
        """Return the cycle that starts when this one ends."""
        return self.of(self.reset_day, self.end)

    def previous(self) -> Self:
        """Return the cycle that ends when this one starts."""
        return self.of(self.reset_day, self.start - _DAY)

    def __contains__(self, day: dt.date) -> bool:
        return self.start <= _utc_day(day) < self.end


def _start(month: int, reset_day: int) -> dt.date:
    """Return the reset day of a month, counted from year 0."""
    year, month = month // 12, month % 12 + 1
    return dt.date(year, month, min(reset_day, monthrange(year, month)[1]))


def _utc_day(day: dt.date) -> dt.date:
    return as_utc(day).date() if isinstance(day, dt.datetime) else day


def as_utc(instant: dt.datetime) -> dt.datetime:
    """Return an aware datetime in UTC. Raises ``InvalidRequestError`` if it is naive."""
    if instant.utcoffset() is None:
        raise InvalidRequestError(f"the datetime must be aware (UTC, for example), got the naive {instant.isoformat()}")
    return instant.astimezone(dt.UTC)
