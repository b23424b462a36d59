"""History: the counts of past days and cycles, in SQLite or PostgreSQL. The only module that imports SQLAlchemy.

What belongs here: storing and merging what the API reported, and the events that were delivered. What the numbers mean
is decided in ``cycle``, ``forecast`` and ``watch``.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from twusage.errors import ConfigurationError, HistoryError, InvalidRequestError
from twusage.event_loop import running_loop
from twusage.models import DailySeries, Usage
from twusage.monitor.history_faults import CAUSES, LOCK_TIMEOUT, postgresql_kind, sqlite_kind
from twusage.monitor.history_rows import (
    PROJECT,
    CycleRecord,
    Row,
    believed_cycles,
    checked_text,
    microseconds,
    read_rows,
    row_of_cycle,
    rows_of_days,
    write_rows,
)

__all__ = ["CycleRecord", "History"]

T = TypeVar("T")

# The thread's only connection.
_POOL: dict[str, Any] = {"poolclass": sa.QueuePool, "pool_size": 1, "max_overflow": 0}
# "twusage" as a number: PostgreSQL's advisory locks are shared by all programs of a database.
_MIGRATION_LOCK = int.from_bytes(b"twusage", "big")

_tables = sa.MetaData()
_days = sa.Table(
    "twusage_days",
    _tables,
    sa.Column("project", sa.Text, primary_key=True),
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("app", sa.Text, primary_key=True),
    sa.Column("reads", sa.BigInteger, nullable=False),
    sa.Column("seen", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
# Cap and reads have a time each: with one for both, a response that lacks the cap would make the result depend on the
# order of writes. The time of an unknown value is 0.
_cycles = sa.Table(
    "twusage_cycles",
    _tables,
    sa.Column("project", sa.Text, primary_key=True),
    sa.Column("start", sa.Date, primary_key=True),
    sa.Column("end", sa.Date, nullable=False),
    sa.Column("cap", sa.BigInteger),
    sa.Column("reads", sa.BigInteger),
    sa.Column("seen", sa.BigInteger, nullable=False),
    sa.Column("cap_seen", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
_events = sa.Table(
    "twusage_events",
    _tables,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("delivered", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
_schema = sa.Table(
    "twusage_schema",
    _tables,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)


def _create_tables(connection: sa.Connection) -> None:
    _tables.create_all(connection, checkfirst=False)


# Each migrates the schema from the version that is its index to the next one.
_MIGRATIONS: tuple[Callable[[sa.Connection], None], ...] = (_create_tables,)

_URL_FORMS = (
    "a history is sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE; "
    "percent-encode special characters in the password"
)


class History:
    """Stores a project's usage by day and app, and by cycle.

    ::

        async with History("sqlite:///usage.db") as history:
            await history.record(usage)

    The database's driver runs in a thread. A cancelled call either completes there or changes nothing. Any number of
    processes may write to one history, in any order: of two counts for a day the one seen later wins, or the larger one
    if both were seen at the same time. Nothing is ever deleted.

    Args:
        url: ``sqlite:///usage.db``, ``sqlite://`` (in memory), or ``postgresql://user:password@host/database``.
        executor: runs the database's driver (default: one thread of the history's own).

    Raises:
        ConfigurationError: the URL is malformed, or a driver is missing. The URL is not quoted.
        HistoryError: from every method. Its ``kind`` is ``locked``, ``full``, ``corrupt``, ``not-a-history``,
            ``read-only``, ``unreachable``, ``newer`` or ``failed``.
    """

    _name = "?"  # in the repr if the URL was rejected

    def __init__(self, url: str, *, executor: Executor | None = None) -> None:
        engine = _engine_of(url)
        del url  # so that no traceback shows a password
        if isinstance(engine, str):
            raise ConfigurationError(engine)
        self._engine = engine
        database = engine.url.database
        self._path = Path(database) if engine.dialect.name == "sqlite" and database else None
        self._name = str(self._path or engine.dialect.name)
        self._file: tuple[int, int] | None = None
        self._ready = False
        self._closed = False
        self._process = os.getpid()
        # An executor of the caller's may have several threads.
        self._lock = threading.Lock()
        self._owns_executor = executor is None
        self._executor = executor or ThreadPoolExecutor(1, thread_name_prefix="twusage-history")
        self._closing: Future[None] | None = None

    def __repr__(self) -> str:
        return f"<History {self._name}>"

    async def __aenter__(self) -> Self:
        try:
            await self._run(lambda _: None)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, error: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the database, after the calls that are under way. Idempotent."""
        self._check_process()
        if self._closing is None:
            self._closing = self._executor.submit(self._close)
            if self._owns_executor:
                self._executor.shutdown(wait=False)
        await asyncio.shield(asyncio.wrap_future(self._closing, loop=running_loop()))

    async def record(self, usage: Usage) -> None:
        """Store a response's days, and the count of its billing cycle.

        Unknown counts and apps without an id are not stored. A response without a project id is stored under ``-``.

        Raises:
            InvalidRequestError: ``fetched_at`` is unknown, or a count is above 2**63 - 1; nothing is stored.
        """
        days, cycle = rows_of_days(usage), row_of_cycle(usage)

        def job(connection: sa.Connection) -> None:
            _merge_days(connection, days)
            if cycle is not None:
                _merge_cycle(connection, cycle)

        await self._run(job, write=True)

    async def days(self, project: str, since: dt.date, until: dt.date, *, app: str | None = None) -> DailySeries:
        """Return a project's or an app's days from ``since`` until before ``until``."""
        if app == PROJECT:
            raise InvalidRequestError("app must be an app's id, or None for the project, got ''")
        name = PROJECT if app is None else checked_text("app", app)
        found = await self._days(project, since, until, _days.c.app == name)
        return found.get(name, DailySeries())

    async def apps(self, project: str, since: dt.date, until: dt.date) -> dict[str, DailySeries]:
        """The recorded days from ``since`` until before ``until``, by app id."""
        return await self._days(project, since, until, _days.c.app != PROJECT)

    async def _days(self, project: str, since: dt.date, until: dt.date, which: Any) -> dict[str, DailySeries]:
        checked_text("project", project)
        for name, day in (("since", since), ("until", until)):
            if not isinstance(day, dt.date) or isinstance(day, dt.datetime):
                raise InvalidRequestError(f"{name} must be a datetime.date, got {day!r}")
        query = (
            sa.select(_days.c.app, _days.c.day, _days.c.reads)
            .where(_days.c.project == project, _days.c.day >= since, _days.c.day < until, which)
            .order_by(_days.c.day)
        )

        def job(connection: sa.Connection) -> dict[str, DailySeries]:
            columns: dict[str, tuple[list[dt.date], list[int]]] = {}
            for app, day, reads in connection.execute(query):
                dates, counts = columns.setdefault(app, ([], []))
                dates.append(day)
                counts.append(reads)
            return {app: DailySeries(tuple(columns[app][0]), tuple(columns[app][1])) for app in sorted(columns)}

        return await self._run(job)

    async def cycles(self, project: str) -> tuple[CycleRecord, ...]:
        """The recorded billing cycles of a project, ascending.

        In the first 24 hours of a cycle the API may still report the count of the previous one. A count of that time
        that is not below the previous cycle's is omitted, until a later one is recorded.
        """
        checked_text("project", project)
        query = sa.select(_cycles).where(_cycles.c.project == project).order_by(_cycles.c.start)
        rows = await self._run(lambda connection: connection.execute(query).mappings().all())
        return believed_cycles(rows)

    async def projects(self) -> tuple[str, ...]:
        """The ids of the recorded projects, sorted."""
        query = sa.select(_days.c.project).union(sa.select(_cycles.c.project))
        return tuple(sorted(await self._run(lambda connection: connection.execute(query).scalars().all())))

    async def export(self, file: TextIO | str | os.PathLike[str]) -> int:
        """Write all days as CSV; return their number. The target is a path or an open text file.

        The columns are ``project_id``, ``client_app_id`` (empty: the project), ``date``, ``usage`` and ``seen_at``.
        """
        query = sa.select(_days).order_by(_days.c.project, _days.c.app, _days.c.day)

        def job(connection: sa.Connection) -> int:
            # In parts: a history of a hundred apps has hundreds of thousands of rows.
            return write_rows(file, connection.execute(query, execution_options={"yield_per": 1000}).mappings())

        return await self._run(job)

    async def load(self, file: TextIO | str | os.PathLike[str]) -> int:
        """Merge a CSV of ``export``; return its number of days. All or nothing is merged.

        Raises:
            InvalidRequestError: a line is malformed; nothing is stored.
        """
        # Before the transaction, so that a slow file does not lock out other writers.
        rows = await self._submit(read_rows, file)
        await self._run(lambda connection: _merge_days(connection, rows), write=True)
        return len(rows)

    async def delivered(self, prefix: str) -> frozenset[str]:
        """The keys of the delivered events that begin with ``prefix``."""
        checked_text("prefix", prefix)
        # Not LIKE: SQLite's ignores case, and % and _ in a project's id would have to be escaped.
        query = sa.select(_events.c.key).where(sa.func.substr(_events.c.key, 1, len(prefix)) == prefix)
        return frozenset(await self._run(lambda connection: connection.execute(query).scalars().all()))

    async def mark_delivered(self, key: str, at: dt.datetime) -> None:
        """Remember that an event was delivered. The earliest time of a key is kept."""
        row = {"key": checked_text("key", key), "delivered": microseconds("at", at)}

        def job(connection: sa.Connection) -> None:
            merge = _insert(connection, _events)
            earlier = merge.excluded.delivered < _events.c.delivered
            connection.execute(
                merge.on_conflict_do_update(
                    index_elements=["key"], set_={"delivered": merge.excluded.delivered}, where=earlier
                ),
                row,
            )

        await self._run(job, write=True)

    async def _run(self, job: Callable[[sa.Connection], T], *, write: bool = False) -> T:
        return await self._submit(self._transact, job, write)

    async def _submit(self, function: Callable[..., T], *arguments: Any) -> T:
        self._check_process()
        if self._closing is not None:
            raise HistoryError("this history is closed")
        return await running_loop().run_in_executor(self._executor, function, *arguments)

    def _check_process(self) -> None:
        # Threads do not survive a fork: a call would wait forever.
        if os.getpid() != self._process:
            raise ConfigurationError("this history was opened before a fork; make one in each process")

    # -- In the thread -------------------------------------------------------------------------------------------------

    def _transact(self, job: Callable[[sa.Connection], T], write: bool) -> T:
        """Run a job in a transaction of its own."""
        with self._lock:
            try:
                self._open()
                with self._begin(write=write) as connection:
                    return job(connection)
            except SQLAlchemyError as error:
                kind, code = self._kind_of(getattr(error, "orig", None))
        # Not chained to the driver's error: the locals of its traceback hold the password.
        raise self._failure(kind, code)

    def _begin(self, *, write: bool) -> AbstractContextManager[sa.Connection]:
        return self._engine.execution_options(twusage_write=write).begin()

    def _open(self) -> None:
        if self._closed:
            raise HistoryError("this history is closed")
        found = self._find_file()
        if self._ready and found == self._file:
            return
        if self._file is not None:
            if found is None:
                raise self._failure("unreachable", "the file was moved or deleted")
            # Another file has taken the place.
            self._engine.dispose()
        self._ready = False
        self._migrate()
        self._file = self._find_file()
        self._ready = True

    def _find_file(self) -> tuple[int, int] | None:
        """Return the identity of SQLite's file. A connection would go on writing to a file that was moved away."""
        if self._path is None:
            return None
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _migrate(self) -> None:
        with self._begin(write=False) as connection:
            version = self._version(connection)
        if version > len(_MIGRATIONS):
            raise self._failure("newer", f"schema {version}")
        if version < len(_MIGRATIONS):
            with self._begin(write=True) as connection:
                if self._engine.dialect.name == "postgresql":
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
                # Another process may have been faster.
                for migrate in _MIGRATIONS[self._version(connection) :]:
                    migrate(connection)
                connection.execute(sa.delete(_schema))
                connection.execute(sa.insert(_schema).values(version=len(_MIGRATIONS)))
        if self._path is not None:
            _use_wal(self._engine)

    def _version(self, connection: sa.Connection) -> int:
        names = sa.inspect(connection).get_table_names()
        if _schema.name in names:
            version: int | None = connection.execute(sa.select(_schema.c.version)).scalar()
            if version is not None:
                return version
        elif not names or self._path is None:
            return 0
        raise self._failure("not-a-history", "other tables")

    def _close(self) -> None:
        with self._lock:
            self._closed = True
            self._engine.dispose()

    def _kind_of(self, error: BaseException | None) -> tuple[str, str]:
        if self._engine.dialect.name == "postgresql":
            return postgresql_kind(error)
        return sqlite_kind(error, readable=self._path is not None and os.access(self._path, os.R_OK))

    def _failure(self, kind: str, code: str) -> HistoryError:
        message = f"the history in {self._name}: {CAUSES[kind]} ({code})"
        return HistoryError(message, kind=kind, retryable=kind in {"locked", "unreachable"})


# -- Engines -----------------------------------------------------------------------------------------------------------


def _engine_of(url: str) -> sa.Engine | str:
    """An engine for this URL, or what is wrong with it."""
    try:
        parsed = sa.make_url(str(url))
        if parsed.drivername in {"sqlite", "sqlite+pysqlite"}:
            return _sqlite_engine(parsed)
        if parsed.drivername in {"postgres", "postgresql", "postgresql+psycopg"}:
            return _postgresql_engine(parsed)
    except ImportError:
        return "PostgreSQL needs psycopg: pip install 'twusage[postgres]'"
    except (ArgumentError, ValueError):
        pass
    return _URL_FORMS


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    if url.host or url.username or url.query:
        raise ValueError
    if url.database in {None, "", ":memory:"}:
        place, pool = sa.URL.create("sqlite"), {"poolclass": sa.StaticPool}
    else:
        # Absolute: the program may change its directory.
        place, pool = sa.URL.create("sqlite", database=str(Path(url.database or "").absolute())), _POOL
    connect = {"check_same_thread": False, "timeout": LOCK_TIMEOUT}
    engine = sa.create_engine(place, connect_args=connect, hide_parameters=True, **pool)
    sa.event.listen(engine, "connect", _set_up_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # the driver begins no transactions: we do
    connection.execute("PRAGMA synchronous=NORMAL")


def _begin_sqlite(connection: sa.Connection) -> None:
    # A deferred transaction that begins to write later ignores the busy timeout.
    write = connection.get_execution_options()["twusage_write"]
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _use_wal(engine: sa.Engine) -> None:
    """Let readers and a writer work at the same time. Another process may prevent the change just now."""
    # With an error the next process that opens the history tries again.
    with closing(engine.raw_connection()) as raw, suppress(engine.dialect.loaded_dbapi.Error):
        raw.cursor().execute("PRAGMA journal_mode=WAL")


def _postgresql_engine(url: sa.URL) -> sa.Engine:
    connect: dict[str, Any] = {
        "connect_timeout": 5,
        # A server that vanished is noticed after 25 s, and not after hours.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 25_000,
    }
    connect = {name: value for name, value in connect.items() if name not in url.query}
    # No prepared statements: behind pgbouncer the next transaction may be on another connection.
    connect["prepare_threshold"] = None
    place = url.set(drivername="postgresql+psycopg")
    engine = sa.create_engine(place, connect_args=connect, hide_parameters=True, pool_pre_ping=True, **_POOL)
    sa.event.listen(engine, "begin", _begin_postgresql)
    return engine


def _begin_postgresql(connection: sa.Connection) -> None:
    # Not as a startup option, because pgbouncer rejects those.
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}s'")


# -- Merging -----------------------------------------------------------------------------------------------------------


def _insert(connection: sa.Connection, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


def _merge_days(connection: sa.Connection, rows: list[Row]) -> None:
    if not rows:
        return
    merge = _insert(connection, _days)
    new, old = merge.excluded, _days.c
    newer = sa.or_(new.seen > old.seen, sa.and_(new.seen == old.seen, new.reads > old.reads))
    merge = merge.on_conflict_do_update(
        index_elements=["project", "day", "app"], set_={"reads": new.reads, "seen": new.seen}, where=newer
    )
    connection.execute(merge, rows)


def _merge_cycle(connection: sa.Connection, row: Row) -> None:
    merge = _insert(connection, _cycles)
    new, old = merge.excluded, _cycles.c
    reads_newer = sa.or_(new.seen > old.seen, sa.and_(new.seen == old.seen, new.reads > old.reads))
    cap_newer = sa.or_(new.cap_seen > old.cap_seen, sa.and_(new.cap_seen == old.cap_seen, new.cap > old.cap))
    # A change of the reset day may leave the start and move the end. Its time is that of the row.
    now = max(row["seen"], row["cap_seen"])
    end_newer = sa.or_(
        sa.and_(old.seen < now, old.cap_seen < now), sa.and_(old.seen <= now, old.cap_seen <= now, new.end > old.end)
    )
    connection.execute(
        merge.on_conflict_do_update(
            index_elements=["project", "start"],
            set_={
                "reads": sa.case((reads_newer, new.reads), else_=old.reads),
                "seen": sa.case((reads_newer, new.seen), else_=old.seen),
                "cap": sa.case((cap_newer, new.cap), else_=old.cap),
                "cap_seen": sa.case((cap_newer, new.cap_seen), else_=old.cap_seen),
                "end": sa.case((end_newer, new.end), else_=old.end),
            },
        ),
        row,
    )
