"""The data of the usage endpoint, as frozen classes. No parsing (see ``codec``), no I/O, no clock.

Fields have the names of the JSON. ``None`` always means *the API did not report it*, never zero.
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from operator import lt
from typing import overload

from attrs import field, frozen

__all__ = [
    "ClientAppUsage",
    "DailySeries",
    "DailyUsage",
    "Problem",
    "ProjectUsage",
    "RateLimit",
    "Usage",
    "UsageField",
]

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class UsageField(StrEnum):
    """A value of ``usage.fields``, from the document or the vendor's newer schema.

    Only the two daily fields change the response: the other four are always returned.
    """

    CAP_RESET_DAY = "cap_reset_day"
    DAILY_CLIENT_APP_USAGE = "daily_client_app_usage"
    DAILY_PROJECT_USAGE = "daily_project_usage"
    PROJECT_CAP = "project_cap"
    PROJECT_ID = "project_id"
    PROJECT_USAGE = "project_usage"


@frozen
class RateLimit:
    """The app's 15-minute window, as a response's ``x-rate-limit-*`` headers report it.

    It counts calls of *this endpoint*. The monthly cap of reads is ``Usage.project_cap``.
    """

    limit: int
    """Calls that one window allows: 50 by the API document."""
    remaining: int
    """Calls left in this window when the server wrote the response."""
    reset_at: dt.datetime
    """When the window ends: UTC, whole seconds, by the server's clock."""

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON types; the time is in ISO 8601."""
        return {"limit": self.limit, "remaining": self.remaining, "reset_at": self.reset_at.isoformat()}


@frozen
class Problem:
    """A problem that the API reported. It is an error response's body, or an entry of ``errors`` beside the data."""

    title: str | None = None
    """The kind of problem in words, such as ``UsageCapExceeded``."""
    type: str | None = None
    """The kind of problem as a URL. The last segment identifies it; the host varies."""
    detail: str | None = None
    """A sentence about what happened."""
    status: int | None = None
    """The HTTP status, if the body repeats it."""
    extra: Mapping[str, object] = field(factory=dict, hash=False)
    """All other fields of the problem, unchanged (``reset_date``, ``account_id``, ``code`` and the like)."""

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON types in the API's shape, without absent fields."""
        named = {"title": self.title, "type": self.type, "detail": self.detail, "status": self.status}
        return {name: value for name, value in named.items() if value is not None} | dict(self.extra)


@frozen
class DailyUsage:
    """The posts read on one day (UTC). ``usage`` is ``None`` if the API listed the day without a count."""

    date: dt.date
    """The day, UTC."""
    usage: int | None = None
    """Posts read on that day."""


def _check_columns(series: DailySeries, _: object, counts: tuple[int | None, ...]) -> None:
    dates = series.dates
    if len(dates) != len(counts):
        raise ValueError(f"a series needs one count a date, got {len(dates)} dates and {len(counts)} counts")
    # on() is a binary search: it would miss days of a series that is not sorted.
    if not all(map(lt, dates, dates[1:])):
        raise ValueError("the dates of a series must ascend, each day once")


@frozen
class DailySeries(Sequence[DailyUsage]):
    """Daily counts, stored as two columns and read as rows: ``for day in series: day.date, day.usage``.

    Dates ascend, with gaps: the API omits days without reads.
    """

    dates: tuple[dt.date, ...] = ()
    """The days, UTC, ascending."""
    counts: tuple[int | None, ...] = field(default=(), validator=_check_columns)
    """Posts read on each of ``dates``; ``None`` if the API listed the day without a count."""

    @classmethod
    def _from_columns(cls, dates: tuple[dt.date, ...], counts: tuple[int | None, ...]) -> DailySeries:
        """Return a series of columns that the decoder has already checked."""
        series = _new(cls)
        _set_dates(series, dates)
        _set_counts(series, counts)
        return series

    @property
    def total(self) -> int:
        """The sum of the known counts."""
        return sum(count for count in self.counts if count is not None)

    def on(self, day: dt.date) -> int | None:
        """Return a day's count, or ``None`` if the API reported none."""
        at = bisect_left(self.dates, day)
        return self.counts[at] if at < len(self.dates) and self.dates[at] == day else None

    def __len__(self) -> int:
        return len(self.dates)

    def __iter__(self) -> Iterator[DailyUsage]:
        return map(DailyUsage, self.dates, self.counts)

    @overload
    def __getitem__(self, index: int) -> DailyUsage: ...
    @overload
    def __getitem__(self, index: slice) -> DailySeries: ...
    def __getitem__(self, index: int | slice) -> DailyUsage | DailySeries:
        """Return a row, or for a slice a series: ``series[-7:].total``. Slices must ascend, or raise ``ValueError``."""
        if isinstance(index, slice):
            return DailySeries(self.dates[index], self.counts[index])
        return DailyUsage(self.dates[index], self.counts[index])

    def to_list(self) -> list[dict[str, object]]:
        """Return plain JSON types in the shape of the API."""
        return [{"date": day.isoformat(), "usage": count} for day, count in zip(self.dates, self.counts, strict=True)]


_new = object.__new__
_set_dates, _set_counts = DailySeries.dates.__set__, DailySeries.counts.__set__  # type: ignore[attr-defined]


@frozen
class ProjectUsage:
    """Daily usage of the whole project."""

    project_id: str | None = None
    """The project's id."""
    usage: DailySeries = DailySeries()
    """Posts read by all its apps, day by day."""


@frozen
class ClientAppUsage:
    """Daily usage of one client app."""

    client_app_id: str | None = None
    """The app's id."""
    usage: DailySeries = DailySeries()
    """Posts read by this app, day by day."""
    usage_result_count: int | None = None
    """The number of daily rows that the API sent (not of posts)."""


@frozen(slots=False)  # a third faster to construct; there is one per response
class Usage:
    """A project's usage of its cap: one response of ``GET /2/usage/tweets``."""

    project_id: str | None = None
    """The project's id: a string, because real ids exceed 2**63."""
    project_cap: int | None = None
    """Posts that the project may read in one billing cycle."""
    project_usage: int | None = None
    """Posts that the project has read in the current billing cycle."""
    cap_reset_day: int | None = None
    """The day of the month, 1 to 31, on which the billing cycle resets and the count returns to zero.

    ``None`` if the API sent another value, which is then in ``extra["cap_reset_day"]``.
    """
    daily_project_usage: ProjectUsage | None = None
    """The project's days, if ``UsageField.DAILY_PROJECT_USAGE`` was requested (``days=`` alone requests it)."""
    daily_client_app_usage: tuple[ClientAppUsage, ...] = ()
    """Each app's days, if ``UsageField.DAILY_CLIENT_APP_USAGE`` was requested (``days=`` alone requests it)."""

    errors: tuple[Problem, ...] = field(default=(), kw_only=True)
    """Problems that the API reported beside the data."""
    rate_limit: RateLimit | None = field(default=None, kw_only=True)
    """The app's 15-minute window, or ``None`` if the response does not report it."""
    fetched_at: dt.datetime = field(default=EPOCH, kw_only=True)
    """When the response arrived (UTC, client clock); 1970 if decoded without a client (``codec.decode_usage``)."""
    extra: Mapping[str, object] = field(factory=dict, kw_only=True, hash=False)
    """Fields that this version does not define, unchanged, by their path below ``data``:
    ``extra["plan"]``, ``extra["daily_client_app_usage[0].name"]``. A field beside ``data`` has its own name as key."""

    @property
    def remaining(self) -> int | None:
        """Posts left in this cycle, at least 0. ``None`` if the cap or the usage is unknown."""
        if self.project_cap is None or self.project_usage is None:
            return None
        return max(0, self.project_cap - self.project_usage)

    @property
    def used_fraction(self) -> float | None:
        """Usage divided by cap. 0.25 is a quarter, above 1.0 is over the cap. ``None`` if unknown or the cap is 0."""
        if not self.project_cap or self.project_usage is None:
            return None
        return self.project_usage / self.project_cap

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON types by field name. Dates are in ISO 8601, counts are numbers, ``None`` is null.

        The fields that the API sends under ``data`` decode to the same values again.
        """
        project = self.daily_project_usage
        return {
            "project_id": self.project_id,
            "project_cap": self.project_cap,
            "project_usage": self.project_usage,
            "cap_reset_day": self.cap_reset_day,
            "daily_project_usage": project and {"project_id": project.project_id, "usage": project.usage.to_list()},
            "daily_client_app_usage": [
                {
                    "client_app_id": app.client_app_id,
                    "usage": app.usage.to_list(),
                    "usage_result_count": app.usage_result_count,
                }
                for app in self.daily_client_app_usage
            ],
            "errors": [problem.to_dict() for problem in self.errors],
            "rate_limit": self.rate_limit and self.rate_limit.to_dict(),
            "fetched_at": self.fetched_at.isoformat(),
            "extra": dict(self.extra),
        }

    def to_rows(self) -> list[dict[str, object]]:
        """Return one dict per day and app, ready for ``csv.DictWriter`` or ``pandas.DataFrame``.

        The keys are ``date`` (a ``datetime.date``), ``client_app_id`` and ``usage``. Without any app, as when only the
        project's days were requested, the rows are the project's, and ``client_app_id`` is ``None``.
        """
        series = [(app.client_app_id, app.usage) for app in self.daily_client_app_usage]
        if not series and self.daily_project_usage is not None:
            series = [(None, self.daily_project_usage.usage)]
        return [
            {"date": day, "client_app_id": app, "usage": count}
            for app, days in series
            for day, count in zip(days.dates, days.counts, strict=True)
        ]
