"""Every fault of a history's database, and its secrets. Over SQLite and a real PostgreSQL."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
import pickle
import sqlite3
import sys
import tempfile
import traceback
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from twusage import (
    ConfigurationError,
    DailySeries,
    HistoryError,
)

pytest.importorskip("sqlalchemy")
pytest.importorskip("psycopg")

from histories import ALWAYS, DAY, PROJECT, contents, refuse_writes_of, usage
from postgresql import PASSWORD, Server

from twusage.monitor import History
from twusage.monitor import history as module

fault = pytest.mark.fault("history")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks are waited for by 50 ms only."""
    monkeypatch.setattr(module, "LOCK_TIMEOUT", 0.05)


@fault
async def test_locked_sqlite(tmp_path: Path, impatient: None) -> None:
    """Another program's write lock is waited for, and then an error. Readers are not kept out; later all is well."""
    path = tmp_path / "usage.db"
    async with History(f"sqlite:///{path}") as history:
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(HistoryError, match="another program has locked it") as caught:
                await history.record(usage())
            assert (caught.value.kind, caught.value.retryable) == ("locked", True)
            assert await history.projects() == ()
            other.rollback()
        await history.record(usage())


@fault
async def test_locked_postgresql(postgresql: Server, impatient: None) -> None:
    """A table lock of another session."""
    import psycopg

    async with History(postgresql.url) as history:
        with psycopg.connect(
            host=str(postgresql.sockets), port=postgresql.port, user="twusage", dbname="postgres"
        ) as other:
            other.execute("LOCK TABLE twusage_cycles")
            with pytest.raises(HistoryError, match="55P03") as caught:
                await history.record(usage())
            assert (caught.value.kind, caught.value.retryable) == ("locked", True)
        await history.record(usage())


@fault
async def test_full_disk(tmp_path: Path) -> None:
    """SQLite cannot grow. Nothing of the response is stored, what was there is still read."""
    async with History(f"sqlite:///{tmp_path}/usage.db") as history:
        await history.record(usage({DAY: 1}))
        with history._begin(write=False) as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
        many = {DAY + dt.timedelta(days=number): 1 for number in range(1000)}
        with pytest.raises(HistoryError, match=r"no space left.*SQLITE_FULL") as caught:
            await history.record(usage(dict(many)))
        assert caught.value.kind == "full"
        assert (await history.days(PROJECT, *ALWAYS)).dates == (DAY,)


@fault
@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("53100", "full"),
        ("53300", "unreachable"),
        ("XX001", "corrupt"),
        ("25006", "read-only"),
        ("42501", "read-only"),
        ("40P01", "locked"),
        ("57P01", "unreachable"),
        ("22012", "failed"),
    ],
)
async def test_errors_of_postgresql(postgresql: Server, state: str, kind: str) -> None:
    """Each SQLSTATE is of a kind; nothing is stored."""
    async with History(postgresql.url) as history:
        refuse_writes_of(history, PROJECT, state)
        with pytest.raises(HistoryError, match=state) as caught:
            await history.record(usage({DAY: 1}))
        assert caught.value.kind == kind
        assert await contents(history) == (DailySeries(), {}, ())


@fault
@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"project,day\n" * 1000, "not-a-history"), (b"SQLite format 3\0" + b"\xff" * 8176, "not-a-history")],
)
async def test_not_a_database(tmp_path: Path, content: bytes, kind: str) -> None:
    """A file of another kind is left as it is, and nothing is made beside it."""
    path = tmp_path / "usage.db"
    path.write_bytes(content)
    with pytest.raises(HistoryError) as caught:
        await History(f"sqlite:///{path}").__aenter__()
    assert caught.value.kind == kind
    assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["usage.db"]


@fault
@pytest.mark.parametrize("table", ["users (name TEXT)", "twusage_schema (version INT)"])
async def test_another_programs_database(tmp_path: Path, table: str) -> None:
    """A SQLite file with other tables, or with an empty schema, is not taken over."""
    path = tmp_path / "usage.db"
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute(f"CREATE TABLE {table}")
    content = path.read_bytes()
    history = History(f"sqlite:///{path}")
    for _ in range(2):
        with pytest.raises(HistoryError, match="was not changed") as caught:
            await history.projects()
        assert caught.value.kind == "not-a-history"
    await history.aclose()
    assert path.read_bytes() == content


@fault
async def test_a_shared_postgresql_database(postgresql: Server) -> None:
    """Other tables beside are fine. One with a name of ours is not touched."""
    postgresql.execute("CREATE TABLE users (name TEXT)")
    async with History(postgresql.url) as history:
        await history.record(usage())
    postgresql.execute("DROP TABLE twusage_schema")
    with pytest.raises(HistoryError, match="42P07") as caught:
        await History(postgresql.url).__aenter__()
    assert caught.value.kind == "not-a-history"
    assert postgresql.execute("SELECT project FROM twusage_cycles") == [(PROJECT,)]


@fault
async def test_corrupt(tmp_path: Path) -> None:
    """Damaged pages are an error; the file stays as it is."""
    path = tmp_path / "usage.db"
    async with History(f"sqlite:///{path}") as history:
        await history.record(usage({DAY + dt.timedelta(days=number): 1 for number in range(1000)}))
    content = bytearray(path.read_bytes())
    content[4096 * 3 :] = b"\xa5" * len(content[4096 * 3 :])
    path.write_bytes(content)
    with pytest.raises(HistoryError, match="SQLITE_CORRUPT") as caught:
        async with History(f"sqlite:///{path}") as history:
            await history.days(PROJECT, *ALWAYS)
    assert caught.value.kind == "corrupt"
    assert path.read_bytes() == content


@fault
async def test_newer_schema(history_url: str) -> None:
    """What a later version wrote is not touched."""
    async with History(history_url) as history:
        with history._begin(write=True) as connection:
            connection.exec_driver_sql("UPDATE twusage_schema SET version = 99")
    with pytest.raises(HistoryError, match="upgrade twusage \\(schema 99\\)") as caught:
        await History(history_url).__aenter__()
    assert (caught.value.kind, caught.value.retryable) == ("newer", False)


@fault
async def test_an_older_schema_is_migrated(history_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each missing step is run once, by the first that opens the history."""
    async with History(history_url) as history:
        await history.record(usage())
    ran: list[str] = []
    monkeypatch.setattr(module, "_MIGRATIONS", (*module._MIGRATIONS, lambda _: ran.append("second")))
    for _ in range(2):
        async with History(history_url) as history:
            assert await history.projects() == (PROJECT,)
    assert ran == ["second"]


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Drop root's rights on files for the duration."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def guarded() -> Iterator[Path]:
    """A directory that every user may read. Pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="tw") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)
        Path(directory).chmod(0o755)


@fault
async def test_read_only_sqlite(guarded: Path) -> None:
    """In a read-only directory a history cannot be created. An existing one is read-only."""
    url = f"sqlite:///{guarded}/usage.db"
    guarded.chmod(0o555)
    with as_nobody(), pytest.raises(HistoryError) as caught:
        await History(url).__aenter__()
    assert caught.value.kind == "unreachable"
    guarded.chmod(0o755)
    async with History(url) as history:
        await history.record(usage())
    guarded.chmod(0o555)
    with as_nobody(), pytest.raises(HistoryError, match="writing is not permitted") as caught:
        async with History(url) as history:
            await history.record(usage())
    assert caught.value.kind == "read-only"


@fault
async def test_read_only_postgresql(postgresql: Server) -> None:
    """A standby, or a database that is set so: reading works."""
    async with History(postgresql.url) as history:
        await history.record(usage())
    read_only = f"{postgresql.url}&options=-cdefault_transaction_read_only%3Don"
    async with History(read_only) as history:
        assert await history.projects() == (PROJECT,)
        with pytest.raises(HistoryError, match="25006") as caught:
            await history.record(usage())
        assert caught.value.kind == "read-only"


@fault
async def test_moved_away(tmp_path: Path) -> None:
    """Nothing is written to a file that was moved, and none is created in its place.

    Once it is back, writes continue.
    """
    path = tmp_path / "usage.db"
    async with History(f"sqlite:///{path}") as history:
        await history.record(usage(project="old"))
        with history._begin(write=False) as connection:
            connection.exec_driver_sql("COMMIT")
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.exec_driver_sql("BEGIN")
        path.rename(tmp_path / "moved.db")
        for _ in range(2):
            with pytest.raises(HistoryError, match="moved or deleted") as caught:
                await history.record(usage())
            assert caught.value.kind == "unreachable"
        assert not path.exists()
        (tmp_path / "moved.db").rename(path)
        assert await history.projects() == ("old",)
        async with History(f"sqlite:///{tmp_path}/other.db") as other:
            await other.record(usage(project="new"))
        (tmp_path / "other.db").replace(path)
        assert await history.projects() == ("new",)


@fault
async def test_a_missing_directory(tmp_path: Path) -> None:
    """SQLite makes files, no directories. A later attempt of the same history may succeed."""
    history = History(f"sqlite:///{tmp_path}/away/usage.db")
    with pytest.raises(HistoryError, match="SQLITE_CANTOPEN") as caught:
        await history.projects()
    assert (caught.value.kind, caught.value.retryable) == ("unreachable", True)
    (tmp_path / "away").mkdir()
    assert await history.projects() == ()
    await history.aclose()


@fault
async def test_a_server_that_goes_away_and_comes_back(postgresql: Server) -> None:
    """While it is away each call fails. Then the history goes on, with what was stored."""
    async with History(postgresql.url) as history:
        await history.record(usage())
        postgresql.stop()
        with pytest.raises(HistoryError) as caught:
            await history.projects()
        assert (caught.value.kind, caught.value.retryable) == ("unreachable", True)
        postgresql.start()
        assert await history.projects() == (PROJECT,)


@fault
async def test_the_readers_and_the_first_writer_of_wal(tmp_path: Path) -> None:
    """The write-ahead log is on, so that a reader sees the last state during a write."""
    path = tmp_path / "usage.db"
    async with History(f"sqlite:///{path}"):
        with contextlib.closing(sqlite3.connect(path)) as other:
            assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# -- Configuration and secrets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "usage.db",
        "sqlite://usage.db",
        "sqlite:///usage.db?mode=ro",
        "sqlite://user:CANARY@/usage.db",
        "mysql://user:CANARY@host/db",
        "postgresql+asyncpg://user:CANARY@host/db",
        "postgresql://user:CANARY@host:port/db",
        "postgresql://user:CANARY@host/db?plugin=CANARY",
        "",
        None,
    ],
)
def test_a_url_that_cannot_be(url: Any) -> None:
    """A ConfigurationError lists the supported forms, and quotes nothing."""
    with pytest.raises(ConfigurationError, match="a history is sqlite:///PATH or postgresql://") as caught:
        History(url)
    trace = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "CANARY" not in trace.partition("twusage/monitor")[2]
    assert caught.value.__context__ is None


def test_a_missing_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without psycopg the error names the extra."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'twusage\[postgres\]'"):
        History("postgresql://host/db")


def test_urls_of_postgresql() -> None:
    """Both schemes that are in use mean psycopg. Options of the URL go before ours."""
    for scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        history = History(f"{scheme}://host/db?connect_timeout=1")
        assert history._engine.url.drivername == "postgresql+psycopg"
        assert repr(history) == "<History postgresql>"


async def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the program changes its directory."""
    monkeypatch.chdir(tmp_path)
    async with History("sqlite:///usage.db") as history:
        monkeypatch.chdir("/")
        await history.record(usage())
        assert repr(history) == f"<History {tmp_path}/usage.db>"
    assert (tmp_path / "usage.db").exists()


@fault
@pytest.mark.parametrize("right", [True, False])
async def test_the_password_is_shown_nowhere(
    postgresql: Server, right: bool, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not in an error with its traceback, a pickle, a repr, or a log at DEBUG. The URL may be refused or accepted."""
    caplog.set_level(logging.DEBUG)
    password = urllib.parse.quote(PASSWORD + ("" if right else "x"), safe="")
    history = History(postgresql.loopback_url(password))
    if right:
        await history.record(usage())
        postgresql.execute("DROP TABLE twusage_days")
    with pytest.raises(HistoryError) as caught:
        await history.apps(PROJECT, *ALWAYS)
    error = caught.value
    assert error.kind == ("failed" if right else "unreachable")
    assert error.__cause__ is None
    assert error.__context__ is None
    trace = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    trace = trace.replace(repr(password), "")  # this test's own locals
    pickled = pickle.dumps(error).decode("latin-1")
    shown = [
        trace,
        pickled,
        repr(error),
        str(error),
        repr(history),
        repr(vars(history)),
        caplog.text,
        *capfd.readouterr(),
    ]
    await history.aclose()
    for text in shown:
        assert "CANARY" not in text
    with pytest.raises((TypeError, AttributeError)):  # the lock, or the engine, whichever is met first
        pickle.dumps(history)
