"""What the API says, as frozen values. No parsing (codec), no I/O, no clock.

Every field is the wire's own name. ``None`` always means *the API did not say*, never zero.
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
    """A name that ``usage.fields`` takes (the API document, and the vendor's newer schema).

    Only the two daily ones change an answer: the other four come back whatever is asked.
    """

    CAP_RESET_DAY = "cap_reset_day"
    DAILY_CLIENT_APP_USAGE = "daily_client_app_usage"
    DAILY_PROJECT_USAGE = "daily_project_usage"
    PROJECT_CAP = "project_cap"
    PROJECT_ID = "project_id"
    PROJECT_USAGE = "project_usage"


@frozen
class RateLimit:
    """The app's 15-minute window, as the ``x-rate-limit-*`` headers of one answer told it.

    It counts calls of *this endpoint*. The monthly cap of reads is another thing: ``Usage.project_cap``.
    """

    limit: int
    """Calls that one window allows, 50 by the API document."""
    remaining: int
    """Calls left in this window when the answer was written."""
    reset_at: dt.datetime
    """When the window ends: UTC, whole seconds, on the server's clock."""

    def to_dict(self) -> dict[str, object]:
        """Plain JSON types; the time in ISO 8601."""
        return {"limit": self.limit, "remaining": self.remaining, "reset_at": self.reset_at.isoformat()}


@frozen
class Problem:
    """One problem that the API reported: the body of an error, or an entry of ``errors`` beside good data."""

    title: str | None = None
    """The kind of problem in words: ``UsageCapExceeded``."""
    type: str | None = None
    """The kind of problem as a URL. Its last segment says it; its host varies."""
    detail: str | None = None
    """What happened, in a sentence."""
    status: int | None = None
    """The HTTP status, where the body repeats it."""
    extra: Mapping[str, object] = field(factory=dict, hash=False)
    """Every other field of the problem, as it came (``reset_date``, ``account_id``, ``code`` and the like)."""

    def to_dict(self) -> dict[str, object]:
        """Plain JSON types, in the wire's own shape: absent fields are left out."""
        named = {"title": self.title, "type": self.type, "detail": self.detail, "status": self.status}
        return {name: value for name, value in named.items() if value is not None} | dict(self.extra)


@frozen
class DailyUsage:
    """The posts read on one day (UTC). ``usage`` is ``None`` where the API named the day but not its count."""

    date: dt.date
    """The day, UTC."""
    usage: int | None = None
    """Posts read on it."""


def _check_columns(series: DailySeries, _: object, counts: tuple[int | None, ...]) -> None:
    dates = series.dates
    if len(dates) != len(counts):
        raise ValueError(f"a series needs one count a date, got {len(dates)} dates and {len(counts)} counts")
    # on() searches by halves: in a series out of order it would not find days that are there.
    if not all(map(lt, dates, dates[1:])):
        raise ValueError("the dates of a series must ascend, each day once")


@frozen
class DailySeries(Sequence[DailyUsage]):
    """Daily counts, kept as two columns and read as rows: ``for day in series: day.date, day.usage``.

    Days ascend and may be missing: the API leaves out days without reads.
    """

    dates: tuple[dt.date, ...] = ()
    """The days, UTC, ascending."""
    counts: tuple[int | None, ...] = field(default=(), validator=_check_columns)
    """Posts read on each of ``dates``; ``None`` where the API named the day but not its count."""

    @classmethod
    def _from_columns(cls, dates: tuple[dt.date, ...], counts: tuple[int | None, ...]) -> DailySeries:
        """Return a series of columns that the decoder has checked already."""
        series = _new(cls)
        _set_dates(series, dates)
        _set_counts(series, counts)
        return series

    @property
    def total(self) -> int:
        """The sum of the counts that are known."""
        return sum(count for count in self.counts if count is not None)

    def on(self, day: dt.date) -> int | None:
        """The count of one day, or ``None`` where the API gave none."""
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
        """A row, or a shorter series: ``series[-7:].total``. A slice that runs backwards is a ``ValueError``."""
        if isinstance(index, slice):
            return DailySeries(self.dates[index], self.counts[index])
        return DailyUsage(self.dates[index], self.counts[index])

    def to_list(self) -> list[dict[str, object]]:
        """Plain JSON types, in the wire's own shape."""
        return [{"date": day.isoformat(), "usage": count} for day, count in zip(self.dates, self.counts, strict=True)]


_new = object.__new__
_set_dates, _set_counts = DailySeries.dates.__set__, DailySeries.counts.__set__  # type: ignore[attr-defined]


@frozen
class ProjectUsage:
    """The whole project's daily usage."""

    project_id: str | None = None
    """The project's id."""
    usage: DailySeries = DailySeries()
    """Posts read by all its apps, day by day."""


@frozen
class ClientAppUsage:
    """One client app's daily usage."""

    client_app_id: str | None = None
    """The app's id."""
    usage: DailySeries = DailySeries()
    """Posts read by this app, day by day."""
    usage_result_count: int | None = None
    """The number of daily rows that the API sent, not of posts."""


@frozen(slots=False)  # made a third sooner so, and there is one an answer
class Usage:
    """What a project has used of its monthly cap: one answer of ``GET /2/usage/tweets``."""

    project_id: str | None = None
    """The project's id. Text, because real ids exceed 2**63."""
    project_cap: int | None = None
    """Posts that the project may read in one billing cycle."""
    project_usage: int | None = None
    """Posts that the project has read in the current billing cycle."""
    cap_reset_day: int | None = None
    """The day of the month, 1 to 31, on which a new cycle begins and the count returns to zero.

    ``None`` too if the API sent anything else: the raw value is then in ``extra["cap_reset_day"]``.
    """
    daily_project_usage: ProjectUsage | None = None
    """The project's days, where ``UsageField.DAILY_PROJECT_USAGE`` was asked for (``days=`` alone asks)."""
    daily_client_app_usage: tuple[ClientAppUsage, ...] = ()
    """Each app's days, where ``UsageField.DAILY_CLIENT_APP_USAGE`` was asked for (``days=`` alone asks)."""

    errors: tuple[Problem, ...] = field(default=(), kw_only=True)
    """Problems that the API reported beside good data."""
    rate_limit: RateLimit | None = field(default=None, kw_only=True)
    """The app's 15-minute window as this answer told it, or ``None`` where it did not."""
    fetched_at: dt.datetime = field(default=EPOCH, kw_only=True)
    """When the answer came: UTC, the client's clock. 1970 where nobody told (``codec.decode_usage`` has no clock)."""
    extra: Mapping[str, object] = field(factory=dict, kw_only=True, hash=False)
    """Fields that this version does not know, as they came, under their path below ``data``:
    ``extra["plan"]``, ``extra["daily_client_app_usage[0].name"]``. A field beside ``data`` is under its own name."""

    @property
    def remaining(self) -> int | None:
        """Posts left to read in this cycle, never below 0; ``None`` where the cap or the usage is unknown."""
        if self.project_cap is None or self.project_usage is None:
            return None
        return max(0, self.project_cap - self.project_usage)

    @property
    def used_fraction(self) -> float | None:
        """Usage over cap: 0.25 is a quarter, above 1.0 is overdrawn. ``None`` where unknown, or where the cap is 0."""
        if not self.project_cap or self.project_usage is None:
            return None
        return self.project_usage / self.project_cap

    def to_dict(self) -> dict[str, object]:
        """Plain JSON types under the names of the fields: dates in ISO 8601, counts as numbers, ``None`` as null.

        What stands under ``data`` on the wire decodes to the same values again.
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
        """Return one dict a day and app, ready for ``csv.DictWriter`` or ``pandas.DataFrame``.

        Its keys are ``date`` (a ``datetime.date``), ``client_app_id`` and ``usage``. Without any app, as when only the
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
