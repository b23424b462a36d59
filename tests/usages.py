"""Usages whose forecast is known, for the tests of what people see."""

from __future__ import annotations

import datetime as dt
from typing import Any

from twusage.models import ClientAppUsage, DailySeries, ProjectUsage, RateLimit, Usage

__all__ = ["DAY", "NOW", "series", "usage_of"]

NOW = dt.datetime(2026, 11, 25, 14, 10, tzinfo=dt.UTC)
"""Day 16 of the 30 days from 10 November, reset on Thu 10 Dec."""
TODAY = NOW.date()
DAY = dt.timedelta(days=1)


def series(*counts: int | None, end: dt.date = TODAY) -> DailySeries:
    """Days that end on this one."""
    return DailySeries(tuple(end - n * DAY for n in reversed(range(len(counts)))), counts)


def usage_of(
    *,
    cap: int | None = 1_200_000,
    used: int | None = 522_849,
    known_days: int = 90,
    per_day: int = 34_000,
    apps: int = 3,
    **fields: Any,
) -> Usage:
    """A project whose apps read the same every day. The first app reads most. Today is half over."""
    shares = [2 ** (apps - n) for n in range(apps)]
    whole = sum(shares) or 1
    parts = [per_day * share // whole for share in shares]
    total = sum(parts) or per_day

    def rows(reads: int) -> DailySeries:
        return series(*[reads] * (known_days - 1), reads // 2) if known_days else DailySeries()

    return Usage(
        **{
            "project_id": "1281043626347900822500",
            "project_cap": cap,
            "project_usage": used,
            "cap_reset_day": 10,
            "daily_project_usage": ProjectUsage("1281043626347900822500", rows(total)),
            "daily_client_app_usage": tuple(
                ClientAppUsage(f"app {n}", rows(reads), known_days) for n, reads in enumerate(parts)
            ),
            "rate_limit": RateLimit(50, 47, NOW + dt.timedelta(minutes=11)),
            "fetched_at": NOW,
        }
        | fields
    )
