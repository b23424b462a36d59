"""What the tests of the history share. Responses, what is known of a project, and a database that refuses."""

from __future__ import annotations

import datetime as dt
from typing import Any

from twusage import ClientAppUsage, DailySeries, ProjectUsage, Usage
from twusage.monitor import History

NOW = dt.datetime(2026, 3, 20, 12, tzinfo=dt.UTC)
DAY = dt.date(2026, 3, 19)
ALWAYS = (dt.date(1970, 1, 1), dt.date(9999, 12, 31))
LARGEST = 2**63 - 1
PROJECT = "1281043626347900822499"  # beyond 2**63, as real ones


def series(counts: dict[dt.date, int | None]) -> DailySeries:
    return DailySeries(tuple(sorted(counts)), tuple(counts[day] for day in sorted(counts)))


def usage(
    days: dict[dt.date, int | None] | None = None,
    apps: dict[str | None, dict[dt.date, int | None]] | None = None,
    *,
    at: dt.datetime = NOW,
    project: str | None = PROJECT,
    cap: int | None = 1000,
    used: int | None = 10,
    reset_day: int | None = 10,
) -> Usage:
    return Usage(
        project,
        cap,
        used,
        reset_day,
        None if days is None else ProjectUsage(project, series(days)),
        tuple(ClientAppUsage(app, series(counts)) for app, counts in (apps or {}).items()),
        fetched_at=at,
    )


async def contents(history: History, project: str = PROJECT) -> tuple[Any, ...]:
    """All that is known of a project."""
    return (
        await history.days(project, *ALWAYS),
        await history.apps(project, *ALWAYS),
        await history.cycles(project),
    )


def refuse_writes_of(history: History, project: str, state: str) -> None:
    """A trigger that fails, in PostgreSQL with this SQLSTATE."""
    if history._engine.dialect.name == "sqlite":
        statements = [
            f"CREATE TRIGGER refuse BEFORE {what} ON twusage_days WHEN new.project = '{project}' "
            "BEGIN SELECT RAISE(ABORT, 'refused'); END"
            for what in ("INSERT", "UPDATE")
        ][:1]
    else:
        statements = [
            f"""CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF new.project = '{project}' THEN RAISE EXCEPTION 'refused' USING ERRCODE = '{state}'; END IF;
            RETURN new; END $$""",
            "CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON twusage_days FOR EACH ROW EXECUTE FUNCTION refuse()",
        ]
    with history._begin(write=True) as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
