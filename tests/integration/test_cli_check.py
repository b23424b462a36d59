"""``twusage check`` and ``twusage forecast``: the line, the exit code, the JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from test_cli import TOKEN, Wire, _plain_environment, run, wire
from usages import usage_of

from twusage.cli import check as module
from twusage.models import Usage
from twusage.protocol import Response

ROOT = Path(__file__).parents[2]
__all__ = ["_plain_environment", "wire"]


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The call of the command returns a usage with these fields."""

    def give(**fields: Any) -> None:
        usage: Usage = usage_of(**fields)
        monkeypatch.setattr(module, "fetched", lambda *_, **__: usage)

    monkeypatch.setenv("X_BEARER_TOKEN", TOKEN)
    return give


@pytest.mark.parametrize(
    ("fields", "options", "code", "line"),
    [
        ({}, (), 0, "OK: 43.6% used, forecast 84% by Thu 10 Dec"),
        ({}, ("-w", "40"), 1, "WARNING: 43.6% used (warning from 40%), forecast 84% by Thu 10 Dec"),
        ({}, ("-w", "1", "-c", "40.5"), 2, "CRITICAL: 43.6% used (critical from 40.5%), forecast 84% by Thu 10 Dec"),
        ({"cap": 500_000}, (), 2, "CRITICAL: cap used up, 522,849 of 500,000, resets Thu 10 Dec"),
        ({"cap": 500_000, "cap_reset_day": None}, (), 2, "CRITICAL: cap used up, 522,849 of 500,000"),
        ({"cap": 900_000}, (), 1, "WARNING: 58.1% used, forecast 113% by Thu 10 Dec, runs out Sun 6 Dec"),
        ({"cap": 900_000}, ("--no-forecast",), 0, "OK: 58.1% used, forecast 113% by Thu 10 Dec"),
        (
            {"cap": 900_000},
            ("-w", "50"),
            1,
            "WARNING: 58.1% used (warning from 50%), forecast 113% by Thu 10 Dec",
        ),
        ({"cap": None}, (), 3, "UNKNOWN: The API does not say the cap"),
        ({"used": None}, (), 3, "UNKNOWN: The API does not say how much of the cap is used"),
        ({"cap_reset_day": None}, (), 0, "OK: 43.6% used"),
    ],
)
def test_levels(answer: Any, fields: dict[str, Any], options: tuple[str, ...], code: int, line: str) -> None:
    """What is used is judged by -w and -c; the forecast only warns, and only if its low end reaches the cap."""
    answer(**fields)
    result = run("check", *options)
    assert (result.exit_code, result.stdout, result.stderr) == (code, f"{line}\n", "")


def test_perfdata(answer: Any) -> None:
    """Warning and critical in posts, for both numbers; without a forecast one number."""
    answer()
    used, expected = run("check", "-c", "90", "--perfdata").stdout.rstrip("\n").partition(" | ")[2].split(" ")
    assert used == "used=522849;960000;1080000;0;1200000"
    assert expected.startswith("forecast=10")
    assert expected.endswith(";;;0;1200000")
    answer(cap_reset_day=None)
    assert run("check", "--perfdata").stdout == "OK: 43.6% used | used=522849;960000;1140000;0;1200000\n"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--nonsense",), "UNKNOWN: No such option"),
        (("-w", "x"), "UNKNOWN: Invalid value for '-w'"),
        (("-w", "99"), "UNKNOWN: -w must be at most -c, got 99 and 95"),
        (("--demo", "--token-file", "x"), "UNKNOWN: --demo needs no --token-file"),
        (("--token-file", "/nowhere"), "UNKNOWN: no credentials or malformed ones"),
        (("--demo", "--name", "x"), "UNKNOWN: --name takes ID=NAME"),
    ],
)
def test_wrong_options(options: tuple[str, ...], line: str) -> None:
    """Every error is UNKNOWN, on stdout, in at most 80 columns: exit code 2 would read as CRITICAL."""
    result = run("check", *options)
    assert (result.exit_code, result.stderr) == (3, "")
    assert result.stdout.startswith(line)
    assert len(result.stdout) <= 81
    assert result.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("response", "code", "line"),
    [
        (Response(503, {}, b"{}"), 3, "UNKNOWN: the API is unavailable (503)"),
        (Response(401, {}, b"{}"), 3, "UNKNOWN: the API rejects the credentials (401)"),
        (OSError(5, "no\nluck"), 3, r"UNKNOWN: [Errno 5] no\nluck"),
        (ValueError("a bug"), 3, "UNKNOWN: ValueError: a bug"),
        (
            Response(429, {}, json.dumps({"title": "UsageCapExceeded", "type": "/usage-capped"}).encode()),
            2,
            "CRITICAL: the cap, the credits or the spending limit is used up (429)",
        ),
    ],
)
def test_failures(wire: Wire, response: Any, code: int, line: str) -> None:
    """A used-up quota is CRITICAL, because it is known; whatever else happens is UNKNOWN. One request, no retry."""
    wire.answers.append(response)
    result = run("check")
    assert (result.exit_code, result.stdout, result.stderr) == (code, f"{line}\n", "")
    assert wire.timeouts == [10.0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_the_line_cannot_be_written() -> None:
    """A full disk is UNKNOWN, without a word on stderr: exit code 1 would read as WARNING."""
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "twusage", "check", "--demo"]
        done = subprocess.run(command, check=False, stdout=full, stderr=subprocess.PIPE, cwd=ROOT)
    assert (done.returncode, done.stderr) == (3, b"")


def test_a_closed_stdout_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The level of a line that is lost is UNKNOWN."""

    def fail(_: str) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(module, "write", fail)
    assert run("check", "--demo").exit_code == 3


def test_the_deadline(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A call that hangs below the event loop does not hang the check."""

    class Left(BaseException):
        pass

    def leave(code: int) -> None:
        raise Left(code)

    hang = threading.Event()
    monkeypatch.setattr(module, "fetched", lambda *_, **__: hang.wait(5))
    monkeypatch.setattr(module, "_DEADLINE", 0.01)
    monkeypatch.setattr(os, "_exit", leave)
    began = time.monotonic()
    with pytest.raises(Left) as left:
        run("check", "--demo")
    hang.set()
    assert left.value.args == (3,)
    assert time.monotonic() - began < 4


class TestForecast:
    def test_the_demo(self) -> None:
        """The verdict of show, and what is expected."""
        result = run("forecast", "--demo", COLUMNS="80")
        assert (result.exit_code, result.stderr) == (0, "")
        assert "  Expected  " in result.stdout
        # The demo's project has another id in each run of a process.
        first = [run(name, "--demo", COLUMNS="80").stdout.partition("  ")[0] for name in ("forecast", "show")]
        assert first[0] == first[1]

    def test_json(self) -> None:
        """The fields of a Forecast by their names; the same as in show."""
        alone = json.loads(run("forecast", "--demo", "--json").stdout)
        assert {"cycle", "cap", "used", "basis_days", "per_day", "expected", "low", "high"} < set(alone)
        assert set(alone["cycle"]) == {"start", "end", "reset_day"}
        shown = json.loads(run("show", "--demo", "--json", "--days", "3").stdout)
        assert set(shown["forecast"]) == set(alone)
        assert shown["cycle"] == alone["cycle"]
        assert [app["client_app_id"] for app in shown["attribution"]["apps"]]
        assert len(shown["daily_project_usage"]["usage"]) == 3
