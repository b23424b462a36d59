"""Shared fixtures, among them the canary token and databases. The fault catalogue is counted here, too."""

import gc
import inspect
import os
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import aioresponses.core
import hypothesis
import pytest
from postgresql import Server, find_initdb
from scripted_server import CANARY_TOKEN

from twusage.protocol import Request

UNIT = Path(__file__).with_name("unit")
# Properties of bytes and of the limiter get a million cases in tests/torture. A deadline would fail on a busy machine.
hypothesis.settings.register_profile("tests", max_examples=30, deadline=None)
hypothesis.settings.load_profile("tests")


class _Response(aiohttp.ClientResponse):
    """The response of aioresponses 0.7.9, with the argument that aiohttp 3.14 requires (aioresponses#289)."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        keywords.setdefault("stream_writer", SimpleNamespace(output_size=0))
        super().__init__(*args, **keywords)


if "stream_writer" in inspect.signature(aiohttp.ClientResponse.__init__).parameters:
    vars(aioresponses.core)["ClientResponse"] = _Response


def pytest_collection_finish(session: pytest.Session) -> None:
    """Before a run of the unit tier alone, exempt the collected tests from garbage collection.

    Otherwise each full collection visits them again, which is a tenth of that run.
    """
    if all(UNIT in item.path.parents for item in session.items):
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def unit_tests_stay_alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold the rule of the tier. A unit test opens no socket and starts no process."""
    if UNIT not in request.path.parents:
        return

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a unit test opens no socket and starts no process: put it into tests/integration")

    for owner, name in ((socket.socket, "connect"), (socket.socket, "bind"), (subprocess, "Popen")):
        monkeypatch.setattr(owner, name, refuse)


@pytest.fixture
def canary() -> str:
    """A token as long as a real one, to search for in all output."""
    return CANARY_TOKEN


@pytest.fixture
def canary_request() -> Request:
    """A request with the canary, to a host that does not exist."""
    return Request("GET", "https://api.test/2/usage/tweets", {"authorization": f"Bearer {CANARY_TOKEN}"})


@pytest.fixture
def interruptible() -> list[str]:
    """The beginning of a twusage command line that handles Ctrl-C, which background jobs of a shell ignore."""
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    return [sys.executable, "-c", f"{listen}; from twusage.__main__ import main; main()"]


@pytest.fixture(scope="session")
def _postgresql() -> Iterator[Server]:
    if find_initdb() is None:
        if os.environ.get("CI"):
            pytest.fail("PostgreSQL is missing, and CI demands it: apt-get install postgresql")
        pytest.skip("PostgreSQL is not installed")
    with tempfile.TemporaryDirectory(prefix="tw", ignore_cleanup_errors=True) as directory:
        server = Server(Path(directory))
        yield server
        server.stop()


@pytest.fixture
def postgresql(_postgresql: Server) -> Server:
    """A server that runs, with an empty database."""
    if _postgresql.process.poll() is not None:
        _postgresql.start()
    _postgresql.execute("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    return _postgresql


@pytest.fixture(params=["sqlite", "postgresql"])
def history_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty history, in each database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/usage.db"
    server: Server = request.getfixturevalue("postgresql")
    return server.url


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Add the layer to each report, because reports have no markers."""
    for item in items:
        marker = item.get_closest_marker("fault")
        if marker is not None:
            item.user_properties.append(("fault", marker.args[0]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print a line for each layer of the fault catalogue, and a total."""
    if config.getoption("markexpr") != "fault":
        return
    cases: dict[str, Counter[str]] = {}
    for how in ("passed", "failed", "error", "skipped", "xfailed", "xpassed"):
        for report in terminalreporter.getreports(how):
            if layer := dict(report.user_properties).get("fault"):
                cases.setdefault(layer, Counter())[how] += 1
    terminalreporter.section("the fault catalogue")
    for layer, ends in [*cases.items(), ("in all", sum(cases.values(), Counter()))]:
        counts = ", ".join(f"{number} {how}" for how, number in ends.items())
        terminalreporter.line(f"{layer:10} {ends.total():4} cases: {counts}")
