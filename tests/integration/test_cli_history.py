"""``twusage history``: record, show, export, load."""

from __future__ import annotations

import builtins
import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")
pytest.importorskip("sqlalchemy")

from test_cli import DOCUMENT, Wire, _plain_environment, run, sentence, wire

from twusage.cli import store

__all__ = ["_plain_environment", "wire"]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of a history that does not exist yet."""
    return f"sqlite:///{tmp_path}/usage.db"


@pytest.fixture(autouse=True)
def _no_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TWUSAGE_HISTORY", raising=False)


def test_record_and_show(url: str) -> None:
    """What was recorded is shown; recording twice changes nothing."""
    for _ in range(2):
        recorded = run("history", "record", "--demo", TWUSAGE_HISTORY=url)
        assert (recorded.exit_code, recorded.stderr) == (0, "")
        assert recorded.stdout.startswith("recorded 90 days and ")
    result = run("history", "show", "--history", url, COLUMNS="200")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(f"Cycles  {url}, ")
    assert ", 90 days, the oldest " in result.stdout
    assert "  day " in result.stdout


def test_several_projects(url: str, wire: Wire) -> None:
    """Each project has its own part, which names it."""
    run("history", "record", "--demo", "--history", url)
    wire.says(DOCUMENT)
    assert "recorded 3 days" in run("history", "record", "--history", url).stdout
    assert run("history", "show", "--history", url, COLUMNS="200").stdout.count(", project ") == 2
    wire.says({"data": {"project_id": "9", "cap_reset_day": 1, "project_usage": 5}})
    assert "recorded 0 days and 5 posts" in run("history", "record", "--history", url).stdout
    assert "project 9, 1 cycle, 0 days\n" in run("history", "show", "--history", url, COLUMNS="200").stdout


def test_an_empty_history(url: str) -> None:
    """A history without cycles says so."""
    assert (
        run("history", "show", "--history", url, COLUMNS="200").stdout == f"Cycles  {url}\n\n  No cycle is recorded.\n"
    )


def test_json(url: str) -> None:
    """The cycles by project, ascending, as plain JSON."""
    cycles = next(iter(json.loads(run("history", "show", "--demo", "--json").stdout).values()))
    assert len(cycles) == 4
    assert set(cycles[0]) == {"start", "end", "used", "cap"}
    assert cycles == sorted(cycles, key=lambda cycle: cycle["start"])


def test_export_and_load(url: str, tmp_path: Path) -> None:
    """What one history exports, another one loads: from a file, and from stdin."""
    file = tmp_path / "usage.csv"
    run("history", "record", "--demo", "--history", url)
    assert run("history", "export", str(file), "--history", url).stdout == "exported 360 rows\n"
    exported = run("history", "export", "--history", url).stdout
    assert exported.startswith("project_id,client_app_id,date,usage,seen_at\n")
    other = f"sqlite:///{tmp_path}/other.db"
    assert run("history", "load", str(file), "--history", other).stdout == "loaded 360 rows\n"
    assert run("history", "load", "-", "--history", other, stdin=exported).stdout == "loaded 360 rows\n"
    assert run("history", "export", "--history", other).stdout == exported


def test_the_demo() -> None:
    """Without a URL, the demo's history is in memory: four cycles."""
    assert "sqlite://, 4 cycles, 1" in run("history", "show", "--demo", COLUMNS="200").stdout
    assert run("history", "export", "--demo").stdout.count("\n") > 400


@pytest.mark.parametrize("command", [("record",), ("show",), ("export",), ("load", "x.csv")])
def test_no_url(command: tuple[str, ...]) -> None:
    """There is no default: one sentence, and exit code 2."""
    result = run("history", *command)
    assert result.exit_code == 2
    assert sentence(result).startswith("a history is needed: give --history sqlite:///usage.db, or set TWUSAGE_HISTORY")


def test_a_corrupt_file(tmp_path: Path) -> None:
    """One sentence; the file is left as it is."""
    file = tmp_path / "usage.db"
    file.write_text("this is not a database" * 100)
    result = run("history", "show", "--history", f"sqlite:///{file}")
    assert result.exit_code == 1
    assert str(file) in sentence(result)
    assert file.read_text().startswith("this is not a database")


def test_a_malformed_line(url: str, tmp_path: Path) -> None:
    """A file with a wrong line is not loaded at all."""
    file = tmp_path / "usage.csv"
    file.write_text("project_id,client_app_id,date,usage,seen_at\n1,,2026-01-01,x,2026-01-01T00:00:00+00:00\n")
    result = run("history", "load", str(file), "--history", url)
    assert result.exit_code == 2
    sentence(result)


@pytest.mark.parametrize(("command", "verb"), [("load", "read"), ("export", "written")])
def test_a_file_that_fails(url: str, tmp_path: Path, command: str, verb: str) -> None:
    """The sentence says what failed, not only why."""
    result = run("history", command, str(tmp_path / "none" / "usage.csv"), "--history", url)
    assert result.exit_code == 1
    assert sentence(result) == f"the file cannot be {verb}: No such file or directory"


def test_without_sqlalchemy(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra: one sentence that says what to install. Another missing module is a bug."""
    real = builtins.__import__
    missing = "sqlalchemy"

    def refuse(name: str, *args: Any, **keywords: Any) -> Any:
        if name == "twusage.monitor" and "History" in (args[2] if len(args) > 2 else ()):
            raise ModuleNotFoundError(name=missing)
        return real(name, *args, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    result = run("history", "show", "--history", url)
    assert result.exit_code == 3
    assert sentence(
        result
    ) == "a history needs SQLAlchemy: pip install 'twusage[history]'. Run 'twusage doctor' for details" or (
        "pip install 'twusage[history]'" in result.stderr
    )
    missing = "else"
    with pytest.raises(ModuleNotFoundError):
        run("history", "show", "--history", url)


def test_passwords_stay_hidden() -> None:
    """What is shown of a URL has neither user nor password."""
    assert store.public_url("postgresql://me:se@cret@host/usage") == "postgresql://host/usage"
    assert store.public_url("sqlite:///usage.db") == "sqlite:///usage.db"


def test_a_slow_job_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes longer than a second has a line on stderr, and nothing after its end."""
    told = threading.Event()
    monkeypatch.setattr(store, "_SLOW", 0.0)
    monkeypatch.setattr(store, "print_error", lambda _: told.set())
    with store.telling_if_slow("loading ..."):
        assert told.wait(5)


def test_two_recorders_at_once(url: str) -> None:
    """Two processes may create and fill one history at the same time."""
    import subprocess

    command = [sys.executable, "-m", "twusage", "history", "record", "--demo", "--history", url]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    for process in running:
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, b"")
