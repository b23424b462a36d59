"""The history, over SQLite and a real PostgreSQL. What it keeps, how writes merge, what a cancelled call leaves."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twusage import (
    ConfigurationError,
    DailySeries,
    HistoryError,
    InvalidRequestError,
    ProjectUsage,
    Usage,
)
from twusage.testing import VirtualClock

pytest.importorskip("sqlalchemy")
pytest.importorskip("psycopg")

from histories import ALWAYS, DAY, LARGEST, NOW, PROJECT, contents, series, usage
from history_writers import cancel_writes, run_writers

from twusage.monitor import CycleRecord, History
from twusage.monitor import history as module
from twusage.monitor.history_rows import rows_of_days


@pytest.fixture
async def history(history_url: str) -> AsyncIterator[History]:
    async with History(history_url) as history:
        yield history


# -- What it keeps -----------------------------------------------------------------------------------------------------


async def test_what_is_recorded_comes_back(history_url: str) -> None:
    """Days of the project and of each app, and the cycle, also after a restart."""
    days: dict[dt.date, int | None] = {DAY: 7, dt.date(2026, 3, 17): 0}
    async with History(history_url) as history:
        await history.record(usage(days, {"2": {DAY: 3}, "1": {DAY: 4}}))
    async with History(history_url) as history:
        assert await history.projects() == (PROJECT,)
        assert await history.days(PROJECT, *ALWAYS) == series(days)
        assert await history.days(PROJECT, *ALWAYS, app="2") == series({DAY: 3})
        assert list((await history.apps(PROJECT, *ALWAYS)).items()) == [
            ("1", series({DAY: 4})),
            ("2", series({DAY: 3})),
        ]
        assert await history.cycles(PROJECT) == (
            CycleRecord(dt.date(2026, 3, 10), dt.date(2026, 4, 10), 1000, 10, NOW),
        )


async def test_until_is_exclusive(history: History) -> None:
    """``since`` and ``until`` are as the start and the end of a cycle: a cycle's days need no arithmetic."""
    before, after = DAY - dt.timedelta(days=1), DAY + dt.timedelta(days=1)
    await history.record(usage({before: 1, DAY: 2, after: 3}, {"a": {before: 1, DAY: 2, after: 3}}))
    assert await history.days(PROJECT, DAY, after) == series({DAY: 2})
    assert await history.apps(PROJECT, DAY, after) == {"a": series({DAY: 2})}
    assert await history.days(PROJECT, DAY, DAY) == DailySeries()
    assert await history.days("other", *ALWAYS) == DailySeries()
    assert await history.days(PROJECT, *ALWAYS, app="other") == DailySeries()


async def test_unknown_counts_and_apps_without_an_id_are_left_out(history: History) -> None:
    """A day named without a count is not a zero, and several apps could be without an id."""
    await history.record(usage({DAY: None}, {None: {DAY: 5}, "": {DAY: 6}, "a": {DAY: None}}, cap=None, used=None))
    assert await contents(history) == (DailySeries(), {}, ())
    assert await history.projects() == ()


async def test_a_response_without_daily_fields_or_reset_day(history: History) -> None:
    """No days, no cycle: missing values are not stored."""
    await history.record(usage())
    await history.record(usage({DAY: 1}, project="other", reset_day=None))
    assert await history.projects() == (PROJECT, "other")
    assert await history.cycles("other") == ()
    assert await history.days(PROJECT, *ALWAYS) == DailySeries()


async def test_projects_without_an_id(history: History) -> None:
    """The id may stand beside the days only. Without any, the project is ``-``, as in the keys of events."""
    await history.record(Usage(daily_project_usage=ProjectUsage("beside", series({DAY: 1})), fetched_at=NOW))
    await history.record(usage({DAY: 2}, project=None))
    assert await history.projects() == ("-", "beside")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"days": {DAY: LARGEST + 1}}, "2\\*\\*63 - 1, got 9223372036854775808"),
        ({"apps": {"a": {DAY: LARGEST + 1}}}, "2\\*\\*63"),
        ({"used": LARGEST + 1}, "2\\*\\*63"),
        ({"cap": LARGEST + 1}, "2\\*\\*63"),
        ({"days": {DAY: -1}}, "got -1"),
        ({"at": dt.datetime(1970, 1, 1, tzinfo=dt.UTC)}, "fetched_at must be the time of the response"),
        ({"at": NOW.replace(tzinfo=None)}, "fetched_at must be a datetime with a time zone"),
        ({"project": "a\0b"}, "project_id must be a string without NUL"),
        ({"apps": {"\ud800": {DAY: 1}}}, "client_app_id must be a string without NUL and surrogates"),
    ],
)
async def test_what_cannot_be_stored(history: History, change: dict[str, Any], match: str) -> None:
    """It is refused before any I/O, and nothing of the response is stored."""
    with pytest.raises(InvalidRequestError, match=match):
        await history.record(usage(**({"days": {dt.date(2026, 3, 1): 1}} | change)))
    assert await history.projects() == ()


async def test_the_largest_count(history: History) -> None:
    """2**63 - 1 is stored exactly."""
    await history.record(usage({DAY: LARGEST}, cap=LARGEST, used=LARGEST))
    days, _, cycles = await contents(history)
    assert days.counts == (LARGEST,)
    assert (cycles[0].cap, cycles[0].usage) == (LARGEST, LARGEST)


async def test_arguments_are_checked(history: History) -> None:
    """A caller's mistake is an InvalidRequestError that quotes the value."""
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("since must be a datetime.date", lambda: history.days(PROJECT, NOW, DAY)),
        ("until must be a datetime.date, got '2026", lambda: history.apps(PROJECT, DAY, "2026-03-20")),  # type: ignore[arg-type]
        ("app must be an app's id", lambda: history.days(PROJECT, DAY, DAY, app="")),
        ("project must be a string", lambda: history.cycles(5)),  # type: ignore[arg-type]
        ("at must be a datetime with a time zone", lambda: history.mark_delivered("key", NOW.replace(tzinfo=None))),
        ("key must be a string", lambda: history.mark_delivered("\0", NOW)),
        ("prefix must be a string", lambda: history.delivered("\0")),
    ]
    for match, call in calls:
        with pytest.raises(InvalidRequestError, match=match):
            await call()


async def test_delivered_events(history_url: str) -> None:
    """Keys are found by their exact beginning, wildcards and case included, and survive a restart."""
    async with History(history_url) as history:
        for key in ("p%/2026-03-10/threshold/0.8/1000", "p%/2026-03-10/reset", "P%/2026-03-10/reset", "px/2026-03-10"):
            await history.mark_delivered(key, NOW)
        await history.mark_delivered("px/2026-03-10", NOW)
    async with History(history_url) as history:
        assert await history.delivered("p%/2026-03-10/") == {
            "p%/2026-03-10/threshold/0.8/1000",
            "p%/2026-03-10/reset",
        }
        assert len(await history.delivered("")) == 4


# -- Merging -----------------------------------------------------------------------------------------------------------


async def test_a_later_count_wins_and_at_equal_times_the_larger(history: History) -> None:
    """Also if it is smaller: the API may correct itself."""
    await history.record(usage({DAY: 5}, used=5))
    await history.record(usage({DAY: 9}, used=9, at=NOW - dt.timedelta(microseconds=1)))
    assert (await history.days(PROJECT, *ALWAYS)).counts == (5,)
    await history.record(usage({DAY: 7}, used=7))
    await history.record(usage({DAY: 6}, used=6))
    assert (await history.days(PROJECT, *ALWAYS)).counts == (7,)
    await history.record(usage({DAY: 1}, used=1, at=NOW + dt.timedelta(microseconds=1)))
    days, _, cycles = await contents(history)
    assert (days.counts, cycles[0].usage) == ((1,), 1)


async def test_unknown_never_replaces_known(history: History) -> None:
    """A missing day deletes nothing, and of the cap and the count each stays until it is known again."""
    later = NOW + dt.timedelta(hours=1)
    await history.record(usage({DAY: 5}, used=5))
    await history.record(usage({DAY: None}, cap=None, used=6, at=later))
    await history.record(usage({}, cap=None, used=None, at=later + dt.timedelta(hours=1)))
    days, _, cycles = await contents(history)
    assert days.counts == (5,)
    assert cycles == (CycleRecord(dt.date(2026, 3, 10), dt.date(2026, 4, 10), 1000, 6, later),)
    await history.record(usage(cap=2000, used=None, at=NOW + dt.timedelta(minutes=1)))
    assert (await history.cycles(PROJECT))[0].cap == 2000


async def test_another_reset_day_is_another_cycle(history: History) -> None:
    """One that leaves the start and moves the end (31 and 28, in February) moves it if it was seen later."""
    march = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
    await history.record(usage(reset_day=31, at=march))
    await history.record(usage(reset_day=28, at=march - dt.timedelta(hours=1)))
    assert [record.end for record in await history.cycles(PROJECT)] == [dt.date(2026, 3, 31)]
    await history.record(usage(reset_day=28, at=march + dt.timedelta(hours=1)))
    assert [record.end for record in await history.cycles(PROJECT)] == [dt.date(2026, 3, 28)]
    await history.record(usage(reset_day=20, at=march + dt.timedelta(hours=2)))
    assert [record.start.day for record in await history.cycles(PROJECT)] == [20, 28]


async def test_a_count_of_the_ended_cycle_is_not_the_new_ones(history: History) -> None:
    """For 24 hours the API may lag behind the reset. A count that did not fall is shown only if it stays."""
    reset = dt.datetime(2026, 3, 10, tzinfo=dt.UTC)
    await history.record(usage(used=900, at=reset - dt.timedelta(minutes=1)))
    await history.record(usage(used=900, at=reset + dt.timedelta(minutes=1)))
    assert [record.usage for record in await history.cycles(PROJECT)] == [900]
    await history.record(usage(cap=5, used=None, at=reset + dt.timedelta(minutes=2)))
    assert [record.usage for record in await history.cycles(PROJECT)] == [900]
    await history.record(usage(used=2, at=reset + dt.timedelta(minutes=3)))
    assert [record.usage for record in await history.cycles(PROJECT)] == [900, 2]
    await history.record(usage(used=901, at=reset + dt.timedelta(hours=24)))
    assert [record.usage for record in await history.cycles(PROJECT)] == [900, 901]


COUNTS = st.none() | st.integers(0, 3)
RESPONSES = st.builds(
    usage,
    st.dictionaries(st.sampled_from([DAY, NOW.date()]), COUNTS),
    st.dictionaries(st.sampled_from(["a", "b"]), st.dictionaries(st.just(DAY), COUNTS)),
    at=st.integers(0, 3).map(lambda minutes: NOW.replace(month=3, day=1) + dt.timedelta(minutes=minutes)),
    cap=COUNTS,
    used=COUNTS,
    reset_day=st.sampled_from([28, 31]),
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(responses=st.lists(RESPONSES, min_size=1, max_size=6), shuffled=st.randoms(use_true_random=False))
def test_order_repetition_and_number_of_writers_do_not_matter(
    history_url: str, responses: list[Usage], shuffled: random.Random
) -> None:
    """Every order gives the same history. Two concurrent writers that repeat themselves, and one after the other."""

    async def run() -> None:
        async with History(history_url) as first, History(history_url) as second:
            known = []
            for attempt in range(2):
                project = f"{id(responses)}-{random.random()}-{attempt}"
                again = [_of_project(response, project) for response in responses]
                if attempt:
                    again += shuffled.sample(again, len(again) // 2)
                    shuffled.shuffle(again)
                    writers = (first, second)
                    await asyncio.gather(*(writers[at % 2].record(response) for at, response in enumerate(again)))
                else:
                    for response in again:
                        await first.record(response)
                known.append(await contents(first, project))
            assert known[0] == known[1]

    asyncio.run(run())


def _of_project(response: Usage, project: str) -> Usage:
    days = response.daily_project_usage
    assert days is not None
    return usage(
        dict(zip(days.usage.dates, days.usage.counts, strict=True)),
        {
            app.client_app_id: dict(zip(app.usage.dates, app.usage.counts, strict=True))
            for app in response.daily_client_app_usage
        },
        at=response.fetched_at,
        project=project,
        cap=response.project_cap,
        used=response.project_usage,
        reset_day=response.cap_reset_day,
    )


async def test_five_processes_and_one_is_killed(history_url: str) -> None:
    """A confirmed record is stored, whatever happens to its process. The others lose nothing."""
    # Enough for the killed one not to be done before it is killed.
    written = await run_writers(history_url, [20, 20, 900, 20, 20], killed=2, after=10)
    assert written.exits == [0, 0, -signal.SIGKILL, 0, 0]
    assert written.lost == 0
    assert written.unacknowledged <= 1  # one may have been stored and not confirmed


async def test_many_processes_create_the_same_history(history_url: str) -> None:
    """The tables are made once, by the first that gets the lock."""
    async with contextlib.AsyncExitStack() as stack:
        histories = await asyncio.gather(*(stack.enter_async_context(History(history_url)) for _ in range(6)))
        await asyncio.gather(*(one.record(usage({DAY: 1}, {str(at): {DAY: 1}})) for at, one in enumerate(histories)))
        assert len(await histories[0].apps(PROJECT, *ALWAYS)) == 6


# -- Cancellation and closing ------------------------------------------------------------------------------------------


async def test_cancelled_at_every_step(history_url: str) -> None:
    """A cancelled write is complete or absent, and the next one meets no lock."""
    cancelled = await cancel_writes(history_url, random.Random(15), 30)
    assert cancelled.part == 0
    assert cancelled.nothing > 0


class Held(ThreadPoolExecutor):
    """One thread that begins nothing before it is let go."""

    def __init__(self) -> None:
        super().__init__(1)
        self.gate = threading.Event()

    def hold(self) -> None:
        self.gate.clear()
        super().submit(self.gate.wait)


async def test_cancelled_before_the_thread_began(history_url: str) -> None:
    """Nothing is written; the executor, which is the caller's, goes on."""
    executor = Held()
    async with History(history_url, executor=executor) as history:
        executor.hold()
        task = asyncio.create_task(history.record(usage({DAY: 1})))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        executor.gate.set()
        assert await history.projects() == ()
    assert executor.submit(int).result() == 0
    executor.shutdown()


async def test_closing_waits_for_a_cancelled_write(history_url: str) -> None:
    """A write that had begun is completed before ``aclose`` returns. That holds even if the closing is cancelled."""
    began, gate = threading.Event(), threading.Event()
    history = await History(history_url).__aenter__()

    def job(connection: Any) -> None:
        began.set()
        gate.wait()
        module._merge_days(connection, rows_of_days(usage({DAY: 1})))

    write = asyncio.create_task(history._run(job, write=True))
    await asyncio.to_thread(began.wait)
    write.cancel()
    closing = [asyncio.create_task(history.aclose()) for _ in range(3)]
    await asyncio.sleep(0)
    closing[0].cancel()
    done, waiting = await asyncio.wait(closing, timeout=0.01)
    assert (len(done), len(waiting)) == (1, 2)
    gate.set()
    await asyncio.gather(*closing[1:])
    async with History(history_url) as again:
        assert await again.projects() == (PROJECT,)


async def test_closed(history_url: str) -> None:
    """Closing is idempotent, a closed history raises, and its thread ends."""
    history = History(history_url)
    await history.record(usage())  # it opens automatically
    await history.aclose()
    await history.aclose()
    with pytest.raises(HistoryError, match="this history is closed") as caught:
        await history.record(usage())
    assert caught.value.kind == "failed"
    # A call that was on its way to the thread when it was closed.
    with pytest.raises(HistoryError, match="this history is closed"):
        history._transact(lambda _: None, write=False)


async def test_several_event_loops(history_url: str) -> None:
    """A history is bound to no event loop. Its thread serves them all."""
    async with History(history_url) as history:
        await asyncio.to_thread(asyncio.run, history.record(usage()))
        assert await history.projects() == (PROJECT,)


async def test_in_memory_with_an_executor_of_several_threads() -> None:
    """All threads share the one database, one after the other."""
    with ThreadPoolExecutor(4) as executor:
        async with History("sqlite:///:memory:", executor=executor) as history:
            await asyncio.gather(*(history.record(usage({DAY: 1}, project=str(number))) for number in range(8)))
            assert len(await history.projects()) == 8


async def test_after_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child has no thread of it. An error names the remedy, because a call would hang."""
    async with History("sqlite://") as history:
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: -1)
            for call in (history.projects, history.aclose):
                with pytest.raises(ConfigurationError, match="before a fork; make one in each process"):
                    await call()


# -- The package and the plugin ----------------------------------------------------------------------------------------


def test_names_are_lazy() -> None:
    """``import twusage.monitor`` loads no SQLAlchemy; the first use of the history does."""
    code = """
    import json, sys, twusage.monitor
    before = "sqlalchemy" in sys.modules
    listed = {"History", "CycleRecord"} <= set(dir(twusage.monitor))
    print(json.dumps([before, listed, twusage.monitor.CycleRecord.__name__, "sqlalchemy" in sys.modules]))
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == [False, True, "CycleRecord", True]


def test_unknown_name() -> None:
    """A name that is not there is an AttributeError."""
    with pytest.raises(AttributeError, match=r"module 'twusage\.monitor' has no attribute 'Future'"):
        importlib.import_module("twusage.monitor").Future  # noqa: B018 - the asking is the test


async def test_the_fixture_works_in_place(twusage_history: History, twusage_clock: VirtualClock) -> None:
    """While a task uses the history the virtual clock stands still. Errors come through as they are."""
    sleeper = asyncio.create_task(twusage_clock.sleep(900))
    await asyncio.sleep(0)
    await twusage_history.record(usage({DAY: 1}))
    assert twusage_clock.monotonic() == 0
    await sleeper
    assert await twusage_history.projects() == (PROJECT,)
    with pytest.raises(HistoryError):
        await twusage_history._run(lambda connection: connection.exec_driver_sql("nonsense"))
