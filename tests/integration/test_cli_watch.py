"""``twusage watch``: JSON lines on a pipe, the live view on a terminal, the command of --exec."""

from __future__ import annotations

import datetime as dt
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from test_cli import Wire, _plain_environment, run, sentence, wire
from usages import NOW, usage_of

from twusage.cli import board as board_module
from twusage.cli import watch as module
from twusage.cli.board import Board
from twusage.cli.call import Access
from twusage.errors import TwUsageError
from twusage.monitor import BillingCycle, CycleReset, ThresholdCrossed, UsageSampled, WatchFailing, forecast
from twusage.protocol import Response

__all__ = ["_plain_environment", "wire"]

ROOT = Path(__file__).parents[2]
CYCLE = BillingCycle.of(10, NOW)
CROSSED = ThresholdCrossed(at=NOW, project_id="1", cycle=CYCLE, threshold=0.25, used=1, cap=4)
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals, pipes and terminals of POSIX")


@pytest.fixture(autouse=True)
def _no_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TWUSAGE_HISTORY", raising=False)


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


class TestOptions:
    @pytest.mark.parametrize("every", ["30s", "0.5m", "1", "1d", "", "m", "-5m"])
    def test_every(self, every: str) -> None:
        """A duration of at least a minute."""
        result = run("watch", "--demo", "--every", every)
        assert result.exit_code == 2
        assert "--every takes a duration" in sentence(result)

    @pytest.mark.parametrize("part", ["0", "-1", "x", "%", "1001%", "nan"])
    def test_threshold(self, part: str) -> None:
        """A part of the cap, as a fraction or a percentage."""
        result = run("watch", "--demo", "--threshold", part)
        assert result.exit_code == 2
        assert "--threshold takes a part of the cap" in sentence(result)


class TestPipe:
    def test_lines(self, wire: Wire) -> None:
        """Each event is one line of JSON, until the API refuses the credentials."""
        document = {"data": {"project_id": "7", "project_cap": 100, "project_usage": 60, "cap_reset_day": 10}}
        wire.says(document)
        wire.answers.append(Response(401, {}, b"{}"))
        result = self.ended(wire, "--threshold", "0.5", "--threshold", "60%", "--every", "1m")
        assert result.exit_code == 4
        found = events(result.stdout)
        assert [event["event"] for event in found] == ["usage-sampled", "threshold-crossed", "threshold-crossed"]
        assert all({"event", "at", "project_id", "cycle", "key"} <= set(event) for event in found)
        assert [event["threshold"] for event in found[1:]] == [0.5, 0.6]

    def ended(self, wire: Wire, *options: str, **env: str) -> Any:
        """Run it without the minutes between two requests."""
        patch = pytest.MonkeyPatch()

        async def skip(*_: object) -> None:
            pass

        with patch.context() as patched:
            patched.setattr(sys.modules["twusage.monitor.watch"], "_sleep_until", skip)
            return run("watch", *options, **env)

    def test_a_history(self, wire: Wire, tmp_path: Path) -> None:
        """With a history, a restarted watch does not repeat what was delivered."""
        pytest.importorskip("sqlalchemy")
        document = {"data": {"project_id": "7", "project_cap": 100, "project_usage": 60, "cap_reset_day": 10}}
        options = ("--threshold", "50%", "--history", f"sqlite:///{tmp_path}/usage.db")
        kinds = []
        for _ in range(2):
            wire.says(document)
            wire.answers.append(Response(401, {}, b"{}"))
            kinds.append([event["event"] for event in events(self.ended(wire, *options).stdout)])
        assert kinds == [["usage-sampled", "threshold-crossed"], ["usage-sampled"]]

    def test_a_stream_that_is_no_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A replaced stdout is not a pipe; neither is a closed one."""
        monkeypatch.setattr(sys, "stdout", io.StringIO())
        assert module._pipe() is None
        monkeypatch.setattr(sys, "stdout", None)
        assert module._pipe() is None


@posix
class TestExec:
    async def test_it_gets_the_event(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """The command has the event on stdin. What it prints goes to stderr, or nowhere below a live view."""
        file = tmp_path / "event"
        monkey = pytest.MonkeyPatch()
        with monkey.context() as patched, open(2, "w", closefd=False) as stderr:  # noqa: ASYNC230
            patched.setattr(sys, "stderr", stderr)
            await module._run(f"tee {file}", CROSSED, quiet=False)
        assert json.loads(file.read_text()) == CROSSED.to_dict() == json.loads(capfd.readouterr().err)
        await module._run("cat", CROSSED, quiet=True)
        assert capfd.readouterr() == ("", "")

    async def test_it_fails(self) -> None:
        """A command that fails ends the watch, so that a history delivers the event again."""
        with pytest.raises(TwUsageError, match="failed with 3; the watch ends"):
            await module._run("exit 3", CROSSED, quiet=True)

    async def test_it_hangs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A command that does not end is killed, with its children."""
        monkeypatch.setattr(module, "_EXEC_TIMEOUT", 0.05)
        with pytest.raises(TwUsageError, match="did not end within"):
            await module._run("sleep 60 | sleep 60", CROSSED, quiet=True)

    def test_from_the_command(self, wire: Wire, tmp_path: Path) -> None:
        """It runs for every event but samples."""
        wire.says({"data": {"project_id": "7", "project_cap": 100, "project_usage": 60, "cap_reset_day": 10}})
        file = tmp_path / "events"
        with open(2, "w", closefd=False) as stderr, pytest.MonkeyPatch().context() as patched:
            patched.setattr(module, "sys", type("Sys", (), {"stderr": stderr, "stdout": sys.stdout}))
            result = run("watch", "--threshold", "50%", "--exec", f"cat >> {file}; exit 1")
        assert result.exit_code == 1
        assert [event["event"] for event in events(file.read_text())] == ["threshold-crossed"]


@pytest.fixture
def watching() -> Iterator[Any]:
    """Starts the command as a process, and kills what is left of it."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*options: str, **keywords: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "twusage", "watch", "--demo", "--threshold", "1%", *options],
            stdout=keywords.pop("stdout", subprocess.PIPE),
            stderr=subprocess.PIPE,
            cwd=ROOT,
            **keywords,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()


class TestTerminal:
    def test_the_live_view(self, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a terminal the events are drawn, not written as JSON."""
        monkeypatch.setattr(module, "is_terminal", lambda: True)
        wire.answers.append(Response(401, {}, b"{}"))
        result = run("watch", FORCE_COLOR="1", TERM="xterm-256color")
        assert result.exit_code == 4
        assert "waiting for the first response" in result.stdout
        wire.says({"data": {"project_id": "7"}})
        wire.answers.append(Response(401, {}, b"{}"))
        drawn = TestPipe().ended(wire, FORCE_COLOR="1", TERM="xterm-256color").stdout
        assert "Project 7" in drawn
        assert "{" not in drawn


@posix
class TestEnding:
    def job(self) -> Any:
        return module._Job(60.0, (), None, None, Access(None, None, None, 30.0, {}), by_app=False)

    async def cancelled(self, job: Any, cause: Callable[[], object]) -> None:
        import asyncio

        async def body() -> None:
            with job._ending():
                cause()
                await asyncio.sleep(20)

        task = asyncio.create_task(body())
        with pytest.raises(asyncio.CancelledError):
            await task

    async def test_sigterm(self) -> None:
        """SIGTERM ends the watch with 143."""
        job = self.job()
        await self.cancelled(job, lambda: signal.raise_signal(signal.SIGTERM))
        assert job.ended_with == 143

    async def test_a_reader_that_leaves(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A closed pipe ends it with 0."""
        reader, writer = os.pipe()
        with os.fdopen(writer, "w") as stdout:
            monkeypatch.setattr(sys, "stdout", stdout)
            job = self.job()
            await self.cancelled(job, lambda: os.close(reader))
            monkeypatch.undo()
        assert job.ended_with == 0

    def test_the_exit_code(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The command ends with the code of what ended it."""
        import asyncio

        async def end(job: Any, _: object) -> None:
            job.ended_with = 143
            raise asyncio.CancelledError

        monkeypatch.setattr(module._Job, "run", end)
        assert run("watch", "--demo").exit_code == 143


@posix
class TestProcess:
    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
    def test_signals(self, watching: Any, number: int, code: int) -> None:
        """SIGTERM and Ctrl-C end it quietly, after whole lines."""
        process = watching(preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
        first, second = process.stdout.readline(), process.stdout.readline()
        process.send_signal(number)
        rest, errors = process.communicate(timeout=20)
        assert (process.returncode, errors, rest) == (code, b"", b"")
        assert [event["event"] for event in events((first + second).decode())] == ["usage-sampled", "threshold-crossed"]

    def test_a_reader_that_leaves(self, watching: Any) -> None:
        """``| head -1`` ends it quietly, although nothing more is written for minutes."""
        process = watching()
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(20) == 0
        assert process.stderr.read() == b""

    def test_the_live_view(self, watching: Any) -> None:
        """On a terminal it is redrawn in place, also after a resize, and leaves the terminal clean."""
        import fcntl
        import pty
        import struct
        import termios

        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
        env = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
        process = watching(stdout=theirs, env=env | {"TERM": "xterm-256color", "LANG": "C.UTF-8"})
        os.set_blocking(ours, False)

        def until(piece: bytes) -> bytes:
            shown, end = b"", time.monotonic() + 20
            while piece not in shown and time.monotonic() < end:
                try:
                    shown += os.read(ours, 65536)
                except BlockingIOError:
                    time.sleep(0.05)
            assert piece in shown
            return shown

        try:
            assert b"\x1b[?25l" in until(b"1% of the cap used")
            assert b"\r" in until(b"\x1b[K")
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
            process.send_signal(signal.SIGWINCH)
            assert "█".encode() in until(b"\x1b[2J")
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 143
            until(b"\x1b[?25h")
            assert process.stderr.read() == b""
        finally:
            os.close(theirs)
            os.close(ours)


def sampled(**fields: Any) -> UsageSampled:
    usage = usage_of(**fields)
    return UsageSampled(at=NOW, project_id="1", cycle=CYCLE, usage=usage, forecast=forecast(usage))


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Callable[[], io.StringIO]:
    """Makes stdout a terminal of 80 columns and 40 lines. In the test itself: pytest replaces stdout before it."""

    def replace() -> io.StringIO:
        file = io.StringIO()
        monkeypatch.setattr(sys, "stdout", file)
        for name, value in {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "40"}.items():
            monkeypatch.setenv(name, value)
        return file

    return replace


class TestBoard:
    def board(self, now: list[dt.datetime]) -> Board:
        return Board(every=300, names={}, by_app=False, now=lambda: now[0])

    def test_the_status(self, screen: Callable[[], io.StringIO]) -> None:
        """The last line counts down; as many of its phrases as fit."""
        terminal = screen()
        now = [NOW]
        board = self.board(now)
        assert board._status(80) == "waiting for the first response | Ctrl-C ends"
        with board:
            board.add(
                UsageSampled(at=NOW, project_id="1", cycle=CYCLE, usage=usage_of(), forecast=forecast(usage_of()))
            )
            now[0] += dt.timedelta(seconds=48)
            board.tick()
            expected = "updated 14:10 UTC, next in 4:12 | 47 of 50 calls left until 14:21 | Ctrl-C ends"
            assert terminal.getvalue().endswith(f"\r{expected}\x1b[K")
            assert board._status(60) == "updated 14:10 UTC, next in 4:12 | Ctrl-C ends"
            assert board._status(40) == "updated 14:10 UTC, next in 4:12"
            board.add(sampled(rate_limit=None))
            assert board._status(80) == "updated 14:10 UTC, next in 4:12 | Ctrl-C ends"

    def test_events(self, screen: Callable[[], io.StringIO]) -> None:
        """Events are listed until a new cycle begins. Without a response there is nothing to show."""
        terminal = screen()
        board = self.board([NOW])
        with board:
            board.add(WatchFailing(at=NOW, project_id=None, cycle=None, error=OSError("no luck")))
            board.add(CROSSED)
            assert len(board._events) == 2
            reset = CycleReset(at=NOW, project_id="1", cycle=CYCLE, previous=CYCLE.previous().start, used=1, cap=2)
            board.add(reset)
            assert board._events == [reset]
        assert "waiting for the first response" in terminal.getvalue()

    def test_a_resize(self, screen: Callable[[], io.StringIO]) -> None:
        """After a resize everything is drawn again on an empty screen."""
        terminal = screen()
        with self.board([NOW]) as board:
            board.resize()
        assert "\x1b[2J\x1b[H" in terminal.getvalue()

    def test_without_colours(self, screen: Callable[[], io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
        """NO_COLOR leaves only what moves the cursor."""
        terminal = screen()
        monkeypatch.setenv("NO_COLOR", "1")
        with self.board([NOW]) as board:
            board.add(
                UsageSampled(at=NOW, project_id="1", cycle=CYCLE, usage=usage_of(), forecast=forecast(usage_of()))
            )
        assert "\x1b[1m" not in terminal.getvalue()
        assert "▓" in terminal.getvalue()

    def test_the_present(self) -> None:
        """Without a clock of its own, the system's counts."""
        assert abs(board_module._now() - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=1)

    async def test_it_ticks(self, screen: Callable[[], io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
        """The seconds pass without an event."""
        import asyncio

        terminal = screen()
        ticked = asyncio.Event()
        monkeypatch.setattr(Board, "tick", lambda _: ticked.set())
        real = asyncio.sleep
        monkeypatch.setattr(asyncio, "sleep", lambda _: real(0))
        access = Access(None, None, None, 30.0, {})
        async with module._drawn(300, access, by_app=False):
            await asyncio.wait_for(ticked.wait(), 5)
        assert terminal.getvalue()
