"""``twusage serve`` and ``twusage report``: options, processes, files."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")
pytest.importorskip("jinja2")
pytest.importorskip("prometheus_client.aiohttp")

import click
from test_cli import TOKEN, Wire, _plain_environment, run, sentence, wire

from twusage.cli import serve as module
from twusage.testing import FakeApi, Fault
from twusage.testing.server import FakeServer

__all__ = ["_plain_environment", "wire"]

ROOT = Path(__file__).parents[2]
PASSWORD = "correct horse: battery staple"
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.fixture(autouse=True)
def _no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TWUSAGE_SERVE_PASSWORD", "TWUSAGE_HISTORY", "TWUSAGE_APP_NAMES"):
        monkeypatch.delenv(name, raising=False)


class Served:
    """A ``twusage serve`` in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def get(self, path: str, **headers: str) -> SimpleNamespace:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return SimpleNamespace(status=answer.status, headers=answer.headers, text=text)

    def wait_for(self, path: str, words: str) -> str:
        """The response, as soon as it contains these words."""
        for _ in range(200):
            text: str = self.get(path).text
            if words in text:
                return text
            time.sleep(0.05)
        raise AssertionError(f"{words!r} is not in {text}")

    def end(self, number: int) -> tuple[int, float, str]:
        """The exit code, the seconds until then, and stderr."""
        began = time.monotonic()
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=20)
        return self.process.returncode, time.monotonic() - began, errors


@contextmanager
def served(interruptible: list[str], *options: str, **environment: str) -> Iterator[Served]:
    command = [*interruptible, "serve", "--port", "0", *options]
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("X_", "TWUSAGE_"))}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**plain, "PYTHONUNBUFFERED": "1", **environment},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.search(r"http://\S+:(\d+)/", line)
        assert match is not None, (line, process.communicate())
        yield Served(process, int(match[1]))
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


class TestServe:
    @posix
    def test_demo(self, interruptible: list[str]) -> None:
        """The demo serves every path, and SIGTERM ends it with 0 within a second, whatever is open."""
        with served(interruptible, "--demo", "--title", "Our usage") as server:
            assert "Our usage" in server.wait_for("/", "Posts read a day")
            assert "collector" in server.get("/?days=90").text
            assert json.loads(server.get("/api/usage.json").text)["schema"] == 1
            assert "twusage_up 1.0" in server.get("/metrics").text
            assert server.get("/healthz").text == "ok\n"
            opened = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
            code, seconds, errors = server.end(signal.SIGTERM)
            assert (code, errors) == (0, "")
            assert seconds < 5
            for each in opened:
                each.close()

    @posix
    def test_ctrl_c_while_the_api_hangs(self, interruptible: list[str]) -> None:
        """Ctrl-C ends it with 130, also while a call is under way."""
        api = FakeApi()
        api.fail(Fault.timeout(), times=99)
        with (
            FakeServer(api) as fake,
            served(interruptible, TWUSAGE_BASE_URL=fake.url, X_BEARER_TOKEN=fake.token) as server,
        ):
            assert "No numbers yet" in server.get("/").text
            assert server.get("/healthz").status == 200
            code, seconds, _ = server.end(signal.SIGINT)
            assert code == 130
            assert seconds < 5

    def test_history_and_password(self, interruptible: list[str], tmp_path: Path) -> None:
        """A password is enforced on loopback, too; a history adds both cycles."""
        pytest.importorskip("sqlalchemy")
        file = tmp_path / "password"
        file.write_text(f"{PASSWORD}\n")
        options = ("--history", f"sqlite:///{tmp_path / 'usage.db'}", "--password-file", str(file))
        with served(interruptible, "--demo", *options) as server:
            assert server.get("/").status == 401
            given = "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode()
            for _ in range(100):
                answer = server.get("/", Authorization=given)
                if "last cycle" in answer.text:
                    break
                time.sleep(0.05)
            assert "last cycle" in answer.text

    def test_a_rotated_token_file(self, interruptible: list[str], tmp_path: Path) -> None:
        """A token file that is replaced is read again, without a restart."""
        api = FakeApi()
        file = tmp_path / "token"
        file.write_text(api.apps[0].token)
        auth = module._TokenFile(str(file))
        first = run_token(auth)
        file.write_text(api.apps[1].token)
        assert first != run_token(auth)
        with (
            FakeServer(api) as fake,
            served(interruptible, "--token-file", str(file), TWUSAGE_BASE_URL=fake.url) as server,
        ):
            page = server.wait_for("/", "Posts read a day")
            assert api.apps[1].token not in page

    def test_elsewhere(self, interruptible: list[str]) -> None:
        """With a password it listens elsewhere, and warns once that a proxy must add TLS."""
        options = ("--demo", "--host", "0.0.0.0", "--allow-host", "usage.example.org")
        with served(interruptible, *options, TWUSAGE_SERVE_PASSWORD=PASSWORD) as server:
            assert server.get("/healthz").status == 200
            assert server.get("/", Host="usage.example.org").status == 401
            if sys.platform != "win32":
                code, _, errors = server.end(signal.SIGTERM)
                assert code == 0
                assert errors.count("TLS") == 1

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "usage.example.org"])
    def test_no_password(self, host: str) -> None:
        """Elsewhere than on loopback it does not start without a password."""
        result = run("serve", "--demo", "--host", host)
        assert result.exit_code == 2
        assert "password" in sentence(result)
        assert "TWUSAGE_SERVE_PASSWORD" in sentence(result)

    @pytest.mark.parametrize("given", ["short", "x" * 15])
    def test_short_password(self, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A password has 16 characters or more; it is not quoted."""
        file = tmp_path / "password"
        file.write_text(given)
        result = run("serve", "--demo", "--password-file", str(file))
        assert result.exit_code == 2
        assert "at least 16 characters" in sentence(result)
        assert given not in sentence(result)
        monkeypatch.setenv("TWUSAGE_SERVE_PASSWORD", given)
        assert run("serve", "--demo").exit_code == 2

    @pytest.mark.parametrize("content", [None, b"\xff\xfe" * 20])
    def test_unreadable_password(self, content: bytes | None, tmp_path: Path) -> None:
        """An unreadable file is an error without its name, which may be the password by mistake."""
        file = tmp_path / "secret-name"
        if content is not None:
            file.write_bytes(content)
        result = run("serve", "--demo", "--password-file", str(file))
        assert result.exit_code == 2
        assert "secret-name" not in sentence(result)
        assert "cannot be read" in sentence(result)

    def test_no_token(self) -> None:
        """Without credentials it does not start."""
        assert run("serve").exit_code == 3

    def test_a_busy_port(self) -> None:
        """A port in use is one sentence."""
        with socket.create_server(("127.0.0.1", 0)) as busy:
            result = run("serve", "--demo", "--port", str(busy.getsockname()[1]))
        assert result.exit_code == 1
        assert sentence(result)

    def test_incomplete_installation(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without prometheus-client, the message names the extra."""

        def missing(name: str) -> None:
            raise ModuleNotFoundError("no", name="prometheus_client")

        monkeypatch.setattr(module, "import_module", missing)
        result = run("serve", "--demo")
        assert result.exit_code == 3
        assert "serve needs prometheus_client: pip install 'twusage[serve]'" in sentence(result)

    def test_options(self) -> None:
        """The help names all options with their defaults."""
        text = run("serve", "--help").stdout
        for option in ("--host", "--port", "--every", "--history", "--title", "--name", "--allow-host"):
            assert option in text
        for option in ("--password-file", "--metrics-apps", "--demo", "--token-file", "--proxy", "--timeout"):
            assert option in text
        for default in ("[default: 127.0.0.1]", "8081", "[default: 5m]", "50"):
            assert default in text


def run_token(auth: Any) -> str:
    """The token that an Auth returns, without an event loop."""
    try:
        auth.token().send(None)
    except StopIteration as end:
        token: str = end.value.reveal()
        return token
    raise AssertionError("the token was awaited")


@posix
class TestInThisProcess:
    """The same without a process of its own: SIGTERM comes as soon as the server runs."""

    @pytest.fixture(autouse=True)
    def _ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        write = click.echo

        def written(text: str) -> None:
            write(text)
            asyncio.get_running_loop().call_later(0.2, os.kill, os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(click, "echo", written)

    def test_ipv6(self) -> None:
        """An IPv6 address is shown in brackets."""
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("no IPv6 on loopback")
        result = run("serve", "--demo", "--host", "::1", "--port", "0")
        assert result.exit_code == 0
        assert "http://[::1]:" in result.stdout

    def test_elsewhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The start warns once that a proxy must add TLS."""
        monkeypatch.setenv("TWUSAGE_SERVE_PASSWORD", PASSWORD)
        result = run("serve", "--demo", "--host", "0.0.0.0", "--port", "0")
        assert result.exit_code == 0
        assert "TLS" in result.stderr

    @pytest.mark.usefixtures("wire")
    def test_token_file(self, tmp_path: Path) -> None:
        """The token of a file is read for each request."""
        file = tmp_path / "token"
        file.write_text(TOKEN)
        assert run("serve", "--token-file", str(file), "--port", "0").exit_code == 0

    def test_history(self, tmp_path: Path) -> None:
        """A history is opened and closed."""
        pytest.importorskip("sqlalchemy")
        file = tmp_path / "usage.db"
        assert run("serve", "--demo", "--history", f"sqlite:///{file}", "--port", "0").exit_code == 0
        assert file.exists()


class TestReport:
    def test_html(self, tmp_path: Path) -> None:
        """One file without a script, that others may read."""
        file = tmp_path / "report.html"
        assert run("report", "--demo", "-o", str(file), "--title", "Our usage").exit_code == 0
        html = file.read_text("utf-8")
        assert "Our usage" in html
        assert "<script" not in html
        assert "<style>" in html
        if sys.platform != "win32":
            umask = os.umask(0)
            os.umask(umask)
            assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask

    def test_stdout(self) -> None:
        """- is stdout."""
        result = run("report", "--demo", "-o", "-")
        assert result.exit_code == 0
        assert result.stdout.startswith("<!doctype html>")

    def test_replaces(self, tmp_path: Path, wire: Wire) -> None:
        """An existing file is replaced, also through a link. A call that fails leaves it."""
        file = tmp_path / "report.html"
        link = tmp_path / "link.html"
        file.write_text("old")
        link.symlink_to(file)
        wire.says({"title": "Unauthorized"}, 401)
        assert run("report", "-o", str(file), "--max-wait", "0").exit_code == 4
        assert file.read_text() == "old"
        assert run("report", "--demo", "-o", str(link)).exit_code == 0
        assert "Posts read a day" in file.read_text("utf-8")
        assert link.is_symlink()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["link.html", "report.html"]

    def test_cannot_be_written(self, tmp_path: Path) -> None:
        """A directory that does not exist is one sentence, and so is a directory in the file's place."""
        assert run("report", "--demo", "-o", str(tmp_path / "none" / "report.html")).exit_code == 1
        (tmp_path / "taken.html").mkdir()
        result = run("report", "--demo", "-o", str(tmp_path / "taken.html"))
        assert result.exit_code == 1
        assert sentence(result).startswith("the report cannot be written: ")
        assert [path.name for path in tmp_path.iterdir()] == ["taken.html"]

    @pytest.mark.parametrize("name", ["report", "report.txt", "report.pdf", ""])
    def test_other_endings(self, tmp_path: Path, name: str) -> None:
        """A file of another kind is a wrong option, and nothing is written."""
        result = run("report", "--demo", "-o", str(tmp_path / name))
        assert result.exit_code == 2
        assert "ends with .html or .png" in sentence(result)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("title", [(), ("--title", "$x$")])
    def test_png(self, tmp_path: Path, title: tuple[str, ...]) -> None:
        """A name that ends with .png makes a picture, 1200 pixels wide."""
        pytest.importorskip("matplotlib")
        file = tmp_path / "report.PNG"
        assert run("report", "--demo", "-o", str(file), *title).exit_code == 0
        assert file.read_bytes().startswith(b"\x89PNG")
        assert int.from_bytes(file.read_bytes()[16:20], "big") == 1200

    @pytest.mark.parametrize(("name", "extra"), [("report.png", "plot"), ("report.html", "cli")])
    def test_incomplete_installation(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, extra: str
    ) -> None:
        """Without its package, the message names the extra, before a call is made."""
        for package in ("matplotlib", "jinja2"):
            monkeypatch.setitem(sys.modules, package, None)
        result = run("report", "--demo", "-o", str(tmp_path / name))
        assert result.exit_code == 3
        assert f"pip install 'twusage[{extra}]'" in sentence(result)

    @pytest.mark.parametrize("days", ["0", "91"])
    def test_days(self, days: str) -> None:
        """1 to 90 days."""
        assert run("report", "--demo", "-o", "-", "--days", days).exit_code == 2

    def test_needs_a_file(self) -> None:
        """There is no default for the file."""
        assert run("report", "--demo").exit_code == 2


def test_the_token_is_nowhere(wire: Wire) -> None:
    """A report does not hold the token."""
    wire.says({"data": {"project_id": "1", "project_cap": "10", "project_usage": "5", "cap_reset_day": 1}})
    result = run("report", "-o", "-")
    assert result.exit_code == 0
    assert TOKEN not in result.stdout
