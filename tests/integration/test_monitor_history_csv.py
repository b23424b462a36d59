"""Export and load of a history: all of a file or nothing."""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from twusage import (
    HistoryError,
    InvalidRequestError,
)

pytest.importorskip("sqlalchemy")
pytest.importorskip("psycopg")

from histories import DAY, LARGEST, NOW, PROJECT, contents, refuse_writes_of, usage

from twusage.monitor import History


@pytest.fixture
async def history(history_url: str) -> AsyncIterator[History]:
    async with History(history_url) as history:
        yield history


async def test_export_and_load(history: History, tmp_path: Path) -> None:
    """An export loads into another history, by path or open file, and a second load changes nothing."""
    await history.record(usage({DAY: 5}, {'a,"b"\n': {DAY: 2}}, at=NOW + dt.timedelta(microseconds=7)))
    path, text = tmp_path / "export.csv", io.StringIO()
    assert await history.export(path) == await history.export(str(path)) == await history.export(text) == 2
    assert path.read_text(encoding="utf-8") == text.getvalue()
    assert text.getvalue().splitlines()[:2] == [
        "project_id,client_app_id,date,usage,seen_at",
        f"{PROJECT},,2026-03-19,5,2026-03-20T12:00:00.000007+00:00",
    ]
    async with History("sqlite://") as other:
        for source in (path, io.StringIO(text.getvalue())):
            assert await other.load(source) == 2
            assert (await contents(other))[:2] == (await contents(history))[:2]
    assert await history.load(path) == 2


async def test_an_empty_export(history: History) -> None:
    """It has its header only, and loads."""
    text = io.StringIO()
    assert await history.export(text) == 0
    assert await history.load(io.StringIO(text.getvalue())) == 0


GOOD = ["p", "", "2026-03-19", "5", "2026-03-20T12:00:00+00:00"]
HEADER = ["project_id", "client_app_id", "date", "usage", "seen_at"]


@pytest.mark.parametrize(
    "row",
    [
        GOOD[:4],
        [*GOOD, "x"],
        ["", *GOOD[1:]],
        ["a\0b", *GOOD[1:]],
        [*GOOD[:2], "20260319", *GOOD[3:]],
        [*GOOD[:2], "2026-02-30", *GOOD[3:]],
        [*GOOD[:2], "２０２６-03-19", *GOOD[3:]],
        [*GOOD[:3], "-1", GOOD[4]],
        [*GOOD[:3], "1_0", GOOD[4]],
        [*GOOD[:3], "", GOOD[4]],
        [*GOOD[:3], str(LARGEST + 1), GOOD[4]],
        [*GOOD[:4], "2026-03-20T12:00:00"],
        [*GOOD[:4], "yesterday"],
        [*GOOD[:4], "1970-01-01T00:00:00+00:00"],
    ],
    ids=repr,
)
async def test_a_malformed_line_loads_nothing(history: History, row: list[str]) -> None:
    """All of a file or nothing; the error names the line."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([HEADER, GOOD, row, GOOD])
    file.seek(0)
    with pytest.raises(InvalidRequestError, match="line 3 of the CSV is malformed") as caught:
        await history.load(file)
    assert caught.value.__suppress_context__
    assert await history.projects() == ()


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "\ufeff" + ",".join(HEADER) + "\n"])
async def test_a_file_that_is_no_export(history: History, text: str) -> None:
    """It is recognised by its first line."""
    with pytest.raises(
        InvalidRequestError, match="the CSV must begin with project_id,client_app_id,date,usage,seen_at"
    ):
        await history.load(io.StringIO(text))


async def test_bytes_that_are_no_text(history: History, tmp_path: Path) -> None:
    """A file in another encoding, and a quote that is never closed."""
    path = tmp_path / "export.csv"
    for content in (b"\xff\xfe", b'"project_id'):
        path.write_bytes(content)
        with pytest.raises(InvalidRequestError, match="malformed"):
            await history.load(path)


async def test_a_load_that_fails_halfway_leaves_nothing(history_url: str) -> None:
    """The database refuses the last row: those before it are rolled back."""
    async with History(history_url) as history:
        await history.record(usage({DAY: 1}, project="zz"))
        refuse_writes_of(history, "zz", "53100")
        file = io.StringIO()
        csv.writer(file).writerows([HEADER, GOOD, ["zz", *GOOD[1:]]])
        file.seek(0)
        with pytest.raises(HistoryError):
            await history.load(file)
        assert await history.projects() == ("zz",)
