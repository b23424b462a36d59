"""``twusage fake``: the fake API for programs in any language."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from click.testing import CliRunner, Result

from twusage.cli.app import twusage
from twusage.cli.fake import fake
from twusage.testing import FakeApi

assert fake.callback
# The names that the command itself sees: another test may have imported its module again.
INSIDE = fake.callback.__globals__


# Until 8.2, click's runner mixed the two streams by default.
STREAMS: dict[str, Any] = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
RUNNER = CliRunner(**STREAMS)


def ask(url: str, token: str) -> dict[str, object]:
    request = urllib.request.Request(f"{url}/2/usage/tweets", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        data: dict[str, object] = json.load(answer)["data"]
    return data


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the command, and instead of waiting for ever do this, then press Ctrl-C."""

    def run(*arguments: str, meanwhile: Callable[[], object] = lambda: None) -> Result:
        def until_ctrl_c() -> None:
            meanwhile()
            raise KeyboardInterrupt

        monkeypatch.setitem(INSIDE, "_until_ctrl_c", until_ctrl_c)
        return RUNNER.invoke(twusage, ["fake", "--port", "0", *arguments])

    return run


def test_it_prints_its_address_and_tokens(serve: Callable[..., Result]) -> None:
    """It prints the address, an example, and a token per app. Ctrl-C ends it without a message."""
    result = serve("--apps", "2")
    assert result.exit_code == 130
    assert re.search(r"Serving the fake API at http://127\.0\.0\.1:\d+ until Ctrl-C", result.stdout)
    assert len(re.findall(r"^app \d+: token \S+ \(or API key \S+ and secret \S+\)$", result.stdout, re.MULTILINE)) == 2
    assert result.stderr == ""


def test_many_apps_are_not_all_listed(serve: Callable[..., Result]) -> None:
    """Ten, and how many more there are."""
    result = serve("--apps", "12")
    assert result.stdout.count(": token ") == 10
    assert "and 2 more apps" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [["--tokens", "a,b,c,d"], ["--tokens", "a,a"], ["--port", "70000"], ["--apps", "0"], ["--reset-day", "32"]],
    ids=" ".join,
)
def test_what_makes_no_sense_is_refused(arguments: list[str]) -> None:
    """In a sentence, with exit code 2."""
    result = RUNNER.invoke(twusage, ["fake", *arguments])
    assert result.exit_code == 2
    assert result.stderr.startswith("twusage: ")


def test_a_token_that_no_client_could_send_is_refused() -> None:
    """One with a space in it, for instance."""
    result = RUNNER.invoke(twusage, ["fake", "--tokens", "a b"])
    assert result.exit_code == 3
    assert "the token contains a space" in result.stderr


def test_a_taken_port_is_an_error() -> None:
    """In a sentence, without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = RUNNER.invoke(twusage, ["fake", "--port", str(taken.getsockname()[1])])
    assert result.exit_code == 1
    assert "in use" in result.stderr
    assert "Traceback" not in result.stderr


def test_tokens_are_given_to_the_apps_in_order(serve: Callable[..., Result]) -> None:
    """The other apps keep generated ones."""
    result = serve("--tokens", "one, two,")
    assert [line.split()[3][:4] for line in result.stdout.splitlines()[-3:]] == ["one", "two", "AAAA"]


def test_it_waits_until_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """For ever: on an event that is never set."""

    class Stopped(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is None
            raise KeyboardInterrupt

    monkeypatch.setitem(INSIDE, "threading", SimpleNamespace(Event=Stopped))
    with pytest.raises(KeyboardInterrupt):
        INSIDE["_until_ctrl_c"]()


def test_it_may_be_called_without_end(serve: Callable[..., Result]) -> None:
    """What stops a test's loop without end does not stop a server."""
    made: list[FakeApi] = []

    def remember(**knobs: Any) -> FakeApi:
        made.append(FakeApi(**knobs))
        return made[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(INSIDE, "FakeApi", remember)
        serve()
    assert made[0].max_requests > 10**12


def test_a_program_in_another_process_can_call_it(interruptible: list[str]) -> None:
    """From the shell. Its knobs reach what it answers, its tokens are taken, and Ctrl-C ends it with 130."""
    command = [*interruptible, "fake", "--port", "0", "--cap", "5000", "--tokens", "one,two"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        try:
            assert server.stdout is not None
            first = server.stdout.readline()
            url = re.search(r"http://\S+", first)
            assert url, first
            server.stdout.readline()
            assert ask(url[0], "one")["project_cap"] == "5000"
            assert ask(url[0], "two")["cap_reset_day"] == 10
            server.send_signal(signal.SIGINT)
            _, complaints = server.communicate(timeout=20)
        finally:
            server.kill()  # Leaving it behind would be waiting for it for ever.
    assert complaints == ""
    assert server.returncode == 130
