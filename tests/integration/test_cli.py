"""The command: what it prints, where, and how it ends."""

from __future__ import annotations

import csv
import datetime as dt
import inspect
import io
import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import IO, Any, NoReturn

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

import click
from click.testing import CliRunner, Result

import twusage as sdk
from twusage import __main__ as entry
from twusage.auth import TOKEN_VARIABLES
from twusage.cli.app import twusage
from twusage.cli.countdown import Countdown
from twusage.cli.exit_codes import EXITS, exit_code, print_error, run_to_exit_code
from twusage.cli.show import show
from twusage.display.format import printable
from twusage.protocol import Request, Response

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "cli.md"
TOKEN = "AAAAAAAAAAAAAAAAAAAAAMLheAAAAAAA0%2BuSeid%2BULvsea4JtiGRiSDSJSI%3DEUifiRBkKG5E2XzMDjRfl76ZC9Ub0wnz4XsNiRVBChT"
VARIABLES = (*TOKEN_VARIABLES, "TWUSAGE_BASE_URL")

DOCUMENT = {
    "data": {
        "cap_reset_day": 10,
        "project_cap": "2000000",
        "project_id": "1369785403853424",
        "project_usage": "1234567",
        "daily_project_usage": {
            "project_id": "1369785403853424",
            "usage": [
                {"date": "2024-06-06T00:00:00.000Z", "usage": "800"},
                {"date": "2024-06-07T00:00:00.000Z", "usage": "400"},
                {"date": "2024-06-10T00:00:00.000Z", "usage": None},
            ],
        },
        "daily_client_app_usage": [
            {
                "client_app_id": "29462387",
                "usage": [
                    {"date": "2024-06-06T00:00:00.000Z", "usage": "600"},
                    {"date": "2024-06-07T00:00:00.000Z", "usage": None},
                ],
                "usage_result_count": 2,
            },
            {
                "client_app_id": "31",
                "usage": [{"date": "2024-06-06T00:00:00.000Z", "usage": "200"}],
                "usage_result_count": 1,
            },
        ],
    }
}


class Wire:
    """A transport that gives the answers it was told to give, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Response | BaseException] = []
        self.requests: list[Request] = []
        self.timeouts: list[float] = []
        self.closed = False

    def says(self, document: object, status: int = 200, **headers: str) -> None:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.append(Response(status, names, body))

    async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109
        self.requests.append(request)
        self.timeouts.append(timeout)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def aclose(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No token, no colour and no width of whoever runs the tests."""
    for name in (*VARIABLES, "NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    """What the command's own client sends goes here. A token is in the environment."""
    wire = Wire()
    monkeypatch.setattr("twusage.aiohttp_transport.AiohttpTransport", lambda: wire)
    monkeypatch.setenv("X_BEARER_TOKEN", TOKEN)
    return wire


def _all_commands(group: click.Group, prefix: str = "") -> Iterator[str]:
    """The names of all commands, groups and their subcommands included."""
    for name, command in group.commands.items():
        yield f"{prefix}{name}"
        if isinstance(command, click.Group):
            yield from _all_commands(command, f"{prefix}{name} ")


def run(*arguments: str, stdin: str | None = None, charset: str = "utf-8", **env: str | None) -> Result:
    # Until 8.2, click's runner mixed the two streams unless it was told otherwise.
    apart: dict[str, Any] = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
    result = CliRunner(charset=charset, **apart).invoke(twusage, arguments, input=stdin, env=env)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def sentence(result: Result) -> str:
    """The one line on stderr, without the name; nothing is on stdout."""
    assert result.stdout == ""
    assert re.fullmatch(r"twusage: [^\n]+\n", result.stderr), result.stderr
    assert TOKEN not in result.stderr
    return result.stderr.removeprefix("twusage: ").rstrip("\n")


class TestPage:
    def test_the_page(self, wire: Wire) -> None:
        """The verdict, the gauge, the facts, and the days with their gaps."""
        wire.says(DOCUMENT)
        result = run("show", COLUMNS="80")
        assert result.exit_code == 0
        assert result.stderr == ""
        lines = result.stdout.splitlines()
        assert lines[0].endswith("Project 1369785403853424")
        assert "  61.7% used" in result.stdout
        assert re.search(r"  Read  1,234,567  of 2,000,000    Pace    0 +a day, safe ", result.stdout)
        assert "  Thu  6 Jun      800  ████" in result.stdout
        assert "  Sat  8 Jun        –" in result.stdout
        assert "  Mon 10 Jun  unknown" in result.stdout
        assert "Apps" not in result.stdout

    def test_by_app(self, wire: Wire) -> None:
        """The apps with their sums and their shares; a sum that lacks days says so; names replace ids."""
        wire.says(DOCUMENT)
        result = run("show", "--by-app", "--name", "31=bot", TWUSAGE_APP_NAMES="29462387=collector,31=no", COLUMNS="60")
        assert [line[:24].rstrip() for line in result.stdout.splitlines()[-5:]] == [
            "Apps, the same 7 days",
            "  █ collector       600+",
            "  ▓ bot              200",
            "  · not by any app   400",
            "  + and days whose count",
        ]

    def test_all_apps(self, wire: Wire) -> None:
        """--by-app lists 20 apps, --all-apps all of them."""
        apps = [
            {"client_app_id": str(n), "usage": [{"date": "2024-06-06T00:00:00.000Z", "usage": n}]} for n in range(50)
        ]
        for _ in range(2):
            wire.says({"data": {"daily_client_app_usage": apps}})
        some, every = run("show", "--by-app").stdout, run("show", "--all-apps").stdout
        assert "  and 30 more, 435 posts\n" in some
        assert "more," not in every
        assert len(every.splitlines()) == len(some.splitlines()) + 29

    @pytest.mark.parametrize("pair", ["27002234", "=a", "1="])
    def test_a_name_that_is_none(self, pair: str) -> None:
        """A name needs an id, and an id a name; of both ways to give it."""
        assert "takes ID=NAME" in sentence(run("show", "--demo", "--name", pair))
        assert "TWUSAGE_APP_NAMES takes ID=NAME" in sentence(run("show", "--demo", TWUSAGE_APP_NAMES=pair))

    def test_text_of_the_api_is_only_text(self, wire: Wire) -> None:
        """Neither rich's markup nor its emoji nor a terminal's escapes do anything."""
        wire.says(
            {
                "data": {
                    "project_id": "[red]p[/red]\x1b[31m\x07\n:smile:\u202e\x9b",
                    "daily_client_app_usage": [{"client_app_id": "\x1b]0;title\x07[bold]a"}],
                }
            }
        )
        output = run("show", "--by-app", FORCE_COLOR="1", TERM="xterm").stdout
        assert r"Project [red]p[/red]\x1b[31m\x07\n:smi" in output
        assert r"\x1b]0;title\x07[bold]a" in output
        codes = set(re.findall(r"\x1b.?[^a-z]*.?", output))
        # Bold and dim, the grey sign, the app's mark.
        assert codes == {"\x1b[1m", "\x1b[1;2m", "\x1b[2m", "\x1b[0m", "\x1b[1;38;5;244m", "\x1b[38;5;33m"}

    def test_no_colours_in_a_pipe(self, wire: Wire) -> None:
        """What is no terminal gets no escape codes."""
        wire.says(DOCUMENT)
        assert "\x1b" not in run("show", "--by-app", TERM="xterm-256color").stdout

    def test_colours_can_be_forced_and_forbidden(self, wire: Wire) -> None:
        """FORCE_COLOR colours a pipe too; NO_COLOR takes every escape code out again."""
        wire.says(DOCUMENT)
        wire.says(DOCUMENT)
        assert "\x1b[38;5;28m" in run("show", FORCE_COLOR="1", TERM="xterm").stdout
        assert "\x1b" not in run("show", FORCE_COLOR="1", NO_COLOR="1", TERM="xterm").stdout

    @pytest.mark.parametrize("term", ["dumb", "unknown"])
    def test_a_dumb_terminal(self, wire: Wire, term: str) -> None:
        """No escape code at all on a terminal that knows none."""
        wire.says(DOCUMENT)
        assert "\x1b" not in run("show", FORCE_COLOR="1", TERM=term).stdout

    def test_an_ascii_terminal(self, wire: Wire) -> None:
        """A terminal without UTF-8 gets signs it can show, and escapes for the API's others."""
        document = json.loads(json.dumps(DOCUMENT))
        document["data"]["project_id"] = "prøject"
        wire.says(document)
        output = run("show", charset="ascii").stdout_bytes
        assert rb"Project pr\xf8ject" in output
        assert b"  #####" in output
        assert output.isascii()


class TestJson:
    def test_the_whole_answer(self, wire: Wire) -> None:
        """Stdout is one JSON document, indented, with the values of Usage.to_dict()."""
        wire.says(DOCUMENT, x_rate_limit_limit="50", x_rate_limit_remaining="49", x_rate_limit_reset="1718000000")
        result = run("show", "--json")
        document = json.loads(result.stdout)
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.startswith('{\n  "project_id": "1369785403853424",\n')
        assert result.stdout.endswith("\n}\n")
        assert document["project_cap"] == 2_000_000
        assert document["daily_project_usage"]["usage"][2] == {"date": "2024-06-10", "usage": None}
        assert document["daily_client_app_usage"][1]["client_app_id"] == "31"
        assert document["rate_limit"]["remaining"] == 49

    def test_it_is_ascii(self, wire: Wire) -> None:
        """So that no encoding spoils it and no terminal obeys it, whatever the API says."""
        wire.says({"data": {"project_id": "é\x9b\x1b[31m"}})
        result = run("show", "--json", charset="ascii")
        assert result.stdout.isascii()
        assert "\x1b" not in result.stdout
        assert json.loads(result.stdout)["project_id"] == "é\x9b\x1b[31m"


class TestCsv:
    def test_the_project_by_day(self, wire: Wire) -> None:
        """One row a day; an unknown count is an empty cell, a day left out is no row."""
        wire.says(DOCUMENT)
        result = run("show", "--csv")
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout_bytes == b"date,usage\n2024-06-06,800\n2024-06-07,400\n2024-06-10,\n"

    def test_by_app(self, wire: Wire) -> None:
        """One row a day and app."""
        wire.says(DOCUMENT)
        assert run("show", "--csv", "--by-app").stdout_bytes == (
            b"date,client_app_id,usage\n2024-06-06,29462387,600\n2024-06-07,29462387,\n2024-06-06,31,200\n"
        )

    @pytest.mark.parametrize(
        ("options", "header"), [((), "date,usage\n"), (("--by-app",), "date,client_app_id,usage\n")]
    )
    def test_an_empty_answer_has_its_header(self, wire: Wire, options: tuple[str, ...], header: str) -> None:
        """A program that reads the columns by name finds them."""
        wire.says({"data": {"project_id": "1"}})
        assert run("show", "--csv", *options).stdout == header

    def test_odd_ids(self, wire: Wire) -> None:
        """An id that is missing is an empty cell; separators are quoted, and control characters cannot act."""
        day = [{"date": "2024-06-06", "usage": "1"}]
        ids = [None, 'a,"b', "\x1b[31m\n"]
        wire.says({"data": {"daily_client_app_usage": [{"client_app_id": name, "usage": day} for name in ids]}})
        rows = list(csv.reader(io.StringIO(run("show", "--csv", "--by-app").stdout)))
        assert [row[1] for row in rows[1:]] == ["", 'a,"b', r"\x1b[31m\n"]

    def test_ascii(self, wire: Wire) -> None:
        """An encoding that lacks a letter gets an escape, not a crash."""
        day = [{"date": "2024-06-06", "usage": "1"}]
        wire.says({"data": {"daily_client_app_usage": [{"client_app_id": "é", "usage": day}]}})
        assert run("show", "--csv", "--by-app", charset="ascii").stdout_bytes.endswith(b"2024-06-06,\\xe9,1\n")


class TestRequest:
    def test_ninety_days_of_both_kinds(self, wire: Wire) -> None:
        """One request, for all the days of the project and of its apps, because the forecast rests on them."""
        wire.says(DOCUMENT)
        run("show")
        assert [request.url for request in wire.requests] == [
            "https://api.twitter.com/2/usage/tweets?days=90&usage.fields=daily_client_app_usage,daily_project_usage"
        ]
        assert wire.requests[0].headers["authorization"] == f"Bearer {TOKEN}"
        assert wire.timeouts == [30.0]
        assert wire.closed

    def test_options(self, wire: Wire) -> None:
        """The days that are shown and the timeout are the caller's."""
        wire.says(DOCUMENT)
        shown = json.loads(run("show", "--days", "4", "--timeout", "2.5", "--json").stdout)
        assert len(shown["daily_project_usage"]["usage"]) == 2
        assert wire.timeouts == [2.5]

    def test_the_environment_says_where(self, wire: Wire) -> None:
        """TWUSAGE_BASE_URL holds, wherever the token comes from."""
        for options in ((), ("--token-file", "-")):
            wire.says(DOCUMENT)
            run("show", *options, stdin=TOKEN, TWUSAGE_BASE_URL="http://127.0.0.1:8080")
        assert {request.url.partition("/2/")[0] for request in wire.requests} == {"http://127.0.0.1:8080"}

    def test_the_older_variables(self, wire: Wire) -> None:
        """TWITTER_BEARER_TOKEN and BEARER_TOKEN do, where X_BEARER_TOKEN is not set."""
        for name in ("TWITTER_BEARER_TOKEN", "BEARER_TOKEN"):
            wire.says(DOCUMENT)
            assert run("show", X_BEARER_TOKEN=None, **{name: f"of-{name}"}).exit_code == 0
        assert [request.headers["authorization"] for request in wire.requests] == [
            "Bearer of-TWITTER_BEARER_TOKEN",
            "Bearer of-BEARER_TOKEN",
        ]

    def test_many_and_long_problems(self, wire: Wire) -> None:
        """A server may say anything, and as much as it likes: a few lines of it are told."""
        wire.says(DOCUMENT | {"errors": [{"title": "x" * 10**6, "detail": "y" * 10**6}] * 100})
        lines = run("show", "--csv").stderr.splitlines()
        assert len(lines) == 5
        assert max(map(len, lines)) < 500

    def test_problems_beside_good_data(self, wire: Wire) -> None:
        """They are warnings on stderr, one line each, and the data is shown all the same."""
        problems = [
            {"title": "Partial\x1b[2J", "detail": "One app\nis missing"},
            {"type": "https://api.twitter.com/2/problems/x", "title": "Odd"},
            {"code": 7},
        ]
        wire.says(DOCUMENT | {"errors": problems})
        result = run("show", "--csv")
        assert result.exit_code == 0
        assert result.stdout.startswith("date,usage\n2024-06-06,800\n")
        assert result.stderr.splitlines() == [
            r"twusage: warning: the API says: Partial\x1b[2J: One app\nis missing",
            "twusage: warning: the API says: Odd: https://api.twitter.com/2/problems/x",
            "twusage: warning: the API says: something is wrong, but not what",
        ]


class TestToken:
    def test_from_a_file(self, wire: Wire, tmp_path: Path) -> None:
        """White space around it, and Windows' byte order mark before it, do not matter. It beats the environment."""
        file = tmp_path / "token"
        file.write_bytes(b"\xef\xbb\xbf \r\n other-token%3D \r\n")
        wire.says(DOCUMENT)
        assert run("show", "--token-file", str(file)).exit_code == 0
        assert wire.requests[0].headers["authorization"] == "Bearer other-token%3D"

    def test_from_stdin(self, wire: Wire) -> None:
        """A dash is stdin."""
        wire.says(DOCUMENT)
        assert run("show", "--token-file", "-", stdin=f"{TOKEN}\n", X_BEARER_TOKEN=None).exit_code == 0
        assert wire.requests[0].headers["authorization"] == f"Bearer {TOKEN}"

    def test_none(self) -> None:
        """Without a token: three ways on, and nothing is sent. An empty variable is none."""
        result = run("show", X_BEARER_TOKEN="")
        assert result.exit_code == 3
        assert sentence(result) == (
            "no credentials: set X_BEARER_TOKEN, or X_API_KEY and X_API_SECRET, or use --token-file PATH; "
            f"to try the command without credentials, use --demo. {DOCTOR}"
        )

    def test_malformed(self, wire: Wire) -> None:
        """The variable is named, its value is not shown."""
        result = run("show", X_BEARER_TOKEN=f"Bearer {TOKEN}")
        assert result.exit_code == 3
        assert sentence(result).startswith("X_BEARER_TOKEN: the value contains a space")

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "the file is empty. The file must contain"),
            (b" \n\t ", "the file is empty. The file must contain"),
            (TOKEN.encode("utf-16"), "the file is UTF-16 text. The file must contain"),
            (f"Bearer {TOKEN}".encode(), "the bearer token begins with 'Bearer'. Remove it"),
            (TOKEN.encode() * 4000, "the file is larger than any token. The file must contain"),
            (f"X_BEARER_TOKEN={TOKEN}".encode(), "the file contains an assignment or JSON. The file must contain"),
            (f'{{"token":"{TOKEN}"}}'.encode(), "the file contains an assignment or JSON. The file must contain"),
        ],
    )
    def test_a_file_without_a_token(self, wire: Wire, tmp_path: Path, content: bytes, reason: str) -> None:
        """One sentence, and nothing of the content in it."""
        file = tmp_path / "token"
        file.write_bytes(content)
        result = run("show", "--token-file", str(file))
        assert result.exit_code == 3
        assert sentence(result).startswith(f"no token from --token-file: {reason}")
        assert sentence(result).endswith(DOCTOR)
        assert wire.requests == []

    def test_a_file_of_the_wrong_letters(self, wire: Wire, tmp_path: Path) -> None:
        """A character that no header can carry is an error, unquoted."""
        file = tmp_path / "token"
        file.write_text("tökén-of-mine", encoding="utf-8")
        result = run("show", "--token-file", str(file))
        assert result.exit_code == 3
        assert "a character that is invalid in a credential" in sentence(result)
        assert "mine" not in result.stderr

    def test_no_such_file(self, wire: Wire) -> None:
        """The path is not quoted: whoever mistakes the option gives the token itself."""
        result = run("show", "--token-file", TOKEN)
        assert result.exit_code == 3
        assert "No such file or directory" in sentence(result)

    def test_a_file_that_a_variable_names(self, wire: Wire, tmp_path: Path) -> None:
        """A container's secret is read by the rules of --token-file; the path is not shown."""
        file = tmp_path / "token"
        file.write_text(f"{TOKEN}\n")
        wire.says(DOCUMENT)
        assert run("show", X_BEARER_TOKEN=None, TWITTER_BEARER_TOKEN_FILE=str(file)).exit_code == 0
        assert wire.requests[0].headers["authorization"] == f"Bearer {TOKEN}"
        result = run("show", X_BEARER_TOKEN=None, X_BEARER_TOKEN_FILE=TOKEN)
        assert result.exit_code == 3
        assert "the file that X_BEARER_TOKEN_FILE names cannot be read: No such file" in sentence(result)

    def test_a_directory(self, wire: Wire, tmp_path: Path) -> None:
        """What cannot be read is one sentence, too."""
        result = run("show", "--token-file", str(tmp_path))
        assert result.exit_code == 3
        assert sentence(result).startswith("no token from --token-file: ")

    def test_a_closed_stdin(self, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
        """Click's own error for it is told in our words."""

        def closed(*_: object) -> NoReturn:
            raise RuntimeError("Was not able to determine binary stream for sys.stdin.")

        monkeypatch.setattr(click, "open_file", closed)
        assert "stdin cannot be read: it is closed" in sentence(run("show", "--token-file", "-"))

    @pytest.mark.parametrize(
        "arguments", [("show", TOKEN), (TOKEN,), ("show", "--days", TOKEN), ("show", f"--{TOKEN}")]
    )
    def test_a_token_that_strayed(self, arguments: tuple[str, ...]) -> None:
        """A token among the arguments is not quoted back, where a log would keep it."""
        result = run(*arguments)
        assert result.exit_code == 2
        assert "[...]" in sentence(result)

    def test_there_is_no_option_for_it(self) -> None:
        """Everybody on the machine can read the arguments; the one that exists is named."""
        result = run("show", "--token", "secret")
        assert result.exit_code == 2
        assert "--token-file" in sentence(result)
        assert "secret" not in result.stderr


class TestUsageErrors:
    @pytest.mark.parametrize("days", ["0", "91", "-1", "999999999999999999999999999999"])
    def test_days(self, days: str) -> None:
        """The SDK's own sentence, before anybody asks for a token."""
        result = run("show", "--days", days)
        assert result.exit_code == 2
        assert sentence(result).startswith("days must be between 1 and 90, got ")

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (("--days", "many"), "'many' is not a valid integer"),
            (("--json", "--csv"), "--json and --csv exclude each other"),
            (("--demo", "--token-file", "x"), "--demo needs no --token-file"),
            (("--timeout", "0"), "'--timeout'"),
            (("--max-wait", "-1"), "'--max-wait'"),
            (("--nonsense",), "--nonsense"),
        ],
    )
    def test_options(self, options: tuple[str, ...], said: str) -> None:
        """One line that says what is wrong and where to look it up."""
        result = run("show", *options)
        assert result.exit_code == 2
        assert said in sentence(result)
        assert result.stderr.endswith("(see 'twusage show --help')\n")

    def test_an_unknown_command(self) -> None:
        """The group has its own page."""
        result = run("shoe")
        assert result.exit_code == 2
        assert sentence(result).endswith("(see 'twusage --help')")

    def test_another_complaint_of_click(self) -> None:
        """One without a command behind it keeps its own words and its own code."""

        @twusage.command("print_error")
        def _complain() -> NoReturn:
            raise click.ClickException("words of its own.")

        try:
            result = run("print_error")
        finally:
            twusage.commands.pop("print_error")
        assert (result.exit_code, sentence(result)) == (1, "words of its own")


# How a sentence ends where the other command knows more.
DOCTOR = "Run 'twusage doctor' to find the cause."


def problem(title: str, type_: str = "about:blank", **extra: object) -> dict[str, object]:
    return {"title": title, "detail": title, "type": type_, **extra}


WINDOW = {"x_rate_limit_limit": "50", "x_rate_limit_remaining": "0", "x_rate_limit_reset": "4102444800"}


class TestFailures:
    @pytest.mark.parametrize(
        ("status", "document", "headers", "code", "said"),
        [
            (400, problem("Invalid Request"), {}, 9, "400 Invalid Request"),
            (401, problem("Unauthorized"), {}, 4, "bearer token"),
            (
                403,
                problem("Client Forbidden", "https://api.x.com/2/problems/client-forbidden"),
                {},
                4,
                "attached to a project",
            ),
            (402, problem("CreditsDepleted"), {}, 5, "credits"),
            (403, problem("SpendCapReached", reset_date="2026-04-14"), {}, 5, "spending limit"),
            (429, problem("UsageCapExceeded"), {}, 5, "monthly cap"),
            (429, problem("Too Many Requests"), WINDOW, 6, "or wait with --max-wait 960."),
            (503, problem("Service Unavailable"), {}, 8, "503 Service Unavailable"),
            (418, problem("Teapot"), {}, 9, "418 Teapot"),
            (302, b"", {}, 7, "redirect"),
            (200, b"<html>", {}, 7, "A login page of this network, a firewall or a proxy may have sent it."),
            (403, b"<html>", {}, 7, "403 Forbidden. A firewall, proxy or CDN sent this response, not the API"),
            (429, b"error code: 1015", {}, 7, "A firewall, proxy or CDN sent this response"),
            (503, b"<html>", {}, 7, "A firewall, proxy or CDN sent this response"),
            (200, b'{"data":', {}, 9, "not JSON"),
            (200, {"data": {"project_cap": "many"}}, {}, 9, "$.data.project_cap"),
            (200, {"errors": [problem("Odd")]}, {}, 9, "Odd"),
        ],
    )
    def test_answers(
        self, wire: Wire, status: int, document: object, headers: dict[str, str], code: int, said: str
    ) -> None:
        """Each kind of refusal has its exit code and says what to do in one sentence."""
        wire.says(document, status, **headers)
        result = run("show", "--max-wait", "0")
        assert result.exit_code == code
        assert said in sentence(result)
        assert sentence(result).endswith(DOCTOR) is (code in {4, 7, 9})
        assert wire.closed

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (sdk.ConnectError("no connection to x"), "no connection to x. Check the network, and TWUSAGE_BASE_URL"),
            (sdk.RequestTimeoutError("no answer"), "no answer. Try again, or with --timeout 60."),
            (sdk.TlsError("not who it is."), "not who it is. Or let the variable SSL_CERT_FILE name"),
            (sdk.ProtocolError("not HTTP"), "not HTTP. Check the network"),
        ],
    )
    def test_transports(self, wire: Wire, error: BaseException, said: str) -> None:
        """What no answer came of is code 7, with the option or the variable that helps."""
        wire.answers.append(error)
        result = run("show", "--max-wait", "0")
        assert result.exit_code == 7
        assert sentence(result).startswith(said)
        assert sentence(result).endswith(f". {DOCTOR}")

    def test_not_of_made_up_data(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The doctor examines the real set-up, which a demo has nothing to do with."""
        wire = Wire()
        wire.answers.append(sdk.TlsError("made up"))
        monkeypatch.setattr("twusage.testing.FakeTransport", lambda _: wire)
        result = run("show", "--demo", "--max-wait", "0")
        assert result.exit_code == 7
        assert "doctor" not in sentence(result)

    def test_text_of_the_api_in_errors(self, wire: Wire) -> None:
        """Escapes in a refusal's own words do nothing, and do not break its line."""
        wire.says(problem("No\x1b[2J\nway"), 403)
        assert r"No\u001b[2J\nway" in sentence(run("show"))

    @pytest.mark.parametrize(
        ("options", "asked_for", "code"),
        [((), 60, 0), ((), 61, 8), (("--max-wait", "61"), 61, 0), (("--max-wait", "0"), 1, 8)],
    )
    def test_max_wait(
        self, wire: Wire, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], asked_for: int, code: int
    ) -> None:
        """A person at a terminal waits for a minute, or as long as they say; a longer wait is not begun."""
        slept: list[float] = []

        async def sleep(_: object, seconds: float) -> None:
            slept.append(seconds)

        monkeypatch.setattr("twusage.clock.SystemClock.sleep", sleep)
        wire.says(problem("Service Unavailable"), 503, retry_after=str(asked_for))
        wire.says(DOCUMENT)
        assert run("show", *options).exit_code == code
        assert slept == ([] if code else [asked_for])

    def test_ctrl_c(self, wire: Wire) -> None:
        """It leaves without a word."""
        wire.answers.append(KeyboardInterrupt())
        result = run("show")
        assert (result.exit_code, result.stdout, result.stderr) == (130, "", "")

    def test_ctrl_c_before_the_command(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Even while the arguments are read."""

        def interrupted(*_: object, **__: object) -> NoReturn:
            raise KeyboardInterrupt

        monkeypatch.setattr(twusage, "make_context", interrupted)
        result = run("show")
        assert (result.exit_code, result.stdout, result.stderr.strip()) == (130, "", "")

    def test_a_bug_has_its_traceback(self, wire: Wire) -> None:
        """What nobody foresaw is not hidden."""
        wire.answers.append(ZeroDivisionError("a bug"))
        with pytest.raises(ZeroDivisionError):
            run("show")


class TestExits:
    def test_every_error_has_a_code(self) -> None:
        """All that the SDK raises ends in a code of its own kind; a plain failure is 1."""
        kinds = [value for value in vars(sdk.errors).values() if isinstance(value, type)]
        codes = {kind.__name__: exit_code(kind("x")) for kind in kinds if issubclass(kind, sdk.TwUsageError)}
        assert codes["TlsError"] == codes["TransportError"] == 7
        assert codes["SpendCapReachedError"] == codes["QuotaError"] == 5
        assert codes["InvalidRequestError"] == 2
        assert codes["ClientClosedError"] == codes["TwUsageError"] == exit_code(OSError()) == 1
        assert set(codes.values()) == {end.code for end in EXITS} - {0, 130}

    def test_the_documented_table(self) -> None:
        """docs/cli.md and the help list the codes that exist, and mean the same by them."""
        rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
        assert [(int(code), meaning) for code, meaning in rows] == [(end.code, end.meaning) for end in EXITS]
        for page_of_help in (run("--help").stdout, run("show", "--help").stdout):
            for end in EXITS:
                assert f"{end.code:>5}  {end.meaning}\n" in page_of_help

    def test_a_failure_of_the_system(self, capsys: pytest.CaptureFixture[str]) -> None:
        """An OSError is told in the system's words, without its number; one without words by its own."""

        def refuse() -> NoReturn:
            raise OSError(24, "Too many open files")

        def odd() -> NoReturn:
            raise OSError("odd")

        assert [run_to_exit_code(refuse), run_to_exit_code(odd)] == [1, 1]
        assert capsys.readouterr().err == "twusage: Too many open files\ntwusage: odd\n"

    def test_nobody_reads_stderr(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Closed or broken: there is nobody left to print_error to, and the exit code still tells."""

        class Broken(io.StringIO):
            def write(self, _: str) -> NoReturn:
                raise BrokenPipeError

        for stderr in (None, Broken()):
            monkeypatch.setattr(sys, "stderr", stderr)
            print_error("x")

    def test_a_stderr_that_is_closed_is_not_replaced_by_stdout(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Errors never reach the pipe of the data."""
        monkeypatch.setattr(sys, "stderr", None)
        print_error("x")
        assert capsys.readouterr().out == ""

    def test_printable(self) -> None:
        """One line of plain signs, whatever came; letters of any script stay."""
        assert printable("añ日 \t\x1b\x85\u2028\u202e\ud800") == r"añ日 \t\x1b\x85\u2028\u202e\ud800"


class TestHelp:
    def test_version(self) -> None:
        """The version, and nothing else."""
        assert run("--version").stdout == f"twusage {sdk.__version__}\n"

    @pytest.mark.parametrize("command", sorted(_all_commands(twusage)))
    def test_every_command(self, command: str) -> None:
        """An example among the first 12 lines, and no line beyond 80 columns."""
        lines = run(*command.split(), "--help").stdout.splitlines()
        assert any(line.strip().startswith("$ twusage ") for line in lines[:12])
        assert [line for line in lines if len(line) > 80] == []

    def test_bare(self) -> None:
        """Without a command: the help, and all is well."""
        bare = run()
        assert (bare.exit_code, bare.stderr) == (0, "")
        assert bare.stdout == run("--help").stdout
        assert "X_BEARER_TOKEN" in bare.stdout

    def test_show(self) -> None:
        """Every option is explained, and the docs have the same ones."""
        shown = set(re.findall(r"^  (--[a-z-]+)", run("show", "--help").stdout, re.MULTILINE)) - {"--help"}
        assert shown == {option for parameter in show.params for option in parameter.opts}
        assert "--token-file" in shown
        documented = re.findall(r"^\| `(--[a-z-]+)", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(documented) == shown

    def test_defaults(self) -> None:
        """The help tells what holds when an option is left out."""
        text = run("show", "--help").stdout
        assert re.findall(r"\[default: ([0-9.]+)", text) == ["7", "60", "30"]
        assert re.findall(r"--[a-z-]+ [A-Z]+ ", text) == [
            *("--days N ", "--max-wait SECONDS ", "--token-file PATH ", "--proxy URL ", "--timeout SECONDS ")
        ]


class TestDemo:
    def test_the_table(self) -> None:
        """Three apps and a cycle, without a token; the cap is neither unused nor used up."""
        result = run("show", "--demo", "--by-app", COLUMNS="80")
        assert (result.exit_code, result.stderr) == (0, "")
        assert "unknown" not in result.stdout
        head, _, apps = result.stdout.partition("Apps, the same 7 days")
        assert len(apps.splitlines()) == 4
        assert {"collector", "alerts bot", "research notebook"} <= set(re.findall(r"[█▓▒] ([a-z ]+[a-z])", head))
        assert 0 < float(re.findall(r"([\d.]+)% used", head)[0]) < 100
        assert "  of 1,200,000  " in head

    def test_ninety_days(self) -> None:
        """Every day until today has its reads, or is believably without."""
        rows = list(csv.DictReader(io.StringIO(run("show", "--demo", "--csv", "--days", "90").stdout)))
        assert len(rows) == 90
        assert all(int(row["usage"]) > 0 for row in rows)

    def test_the_environment_is_left_alone(self, wire: Wire) -> None:
        """Neither the real token nor the real API is touched."""
        assert run("show", "--demo", TWUSAGE_BASE_URL="nonsense").exit_code == 0
        assert wire.requests == []


class TestEntry:
    def test_the_script(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """The installed script calls main(), which reads the process's own arguments."""
        monkeypatch.setattr(sys, "argv", ["whatever", "show", "--nonsense"])
        with pytest.raises(SystemExit) as left:
            entry.main()
        assert left.value.code == 2
        assert capsys.readouterr().err.endswith("(see 'twusage show --help')\n")

    def test_as_a_module(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """``python -m twusage`` does the same."""
        monkeypatch.setattr(sys, "argv", ["twusage", "--version"])
        with pytest.raises(SystemExit) as left:
            # By its path: pytest's own importer, which a package with a plugin comes through, cannot run modules.
            runpy.run_path(str(ROOT / "twusage" / "__main__.py"), run_name="__main__")
        assert left.value.code == 0
        assert capsys.readouterr().out == f"twusage {sdk.__version__}\n"

    @pytest.mark.parametrize("missing", ["click", "rich"])
    def test_without_the_extra(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
    ) -> None:
        """Without click or rich: one sentence that says what to install."""
        for name in list(sys.modules):
            if name.startswith(("twusage.cli.", "rich")) and name != "twusage.cli.exit_codes":
                monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, missing, None)
        with pytest.raises(SystemExit) as left:
            entry.main()
        assert left.value.code == 3
        assert capsys.readouterr().err == f"twusage: the command needs {missing}: pip install 'twusage[cli]'\n"

    def test_another_missing_module(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Any other missing module is a bug, not a missing extra."""
        monkeypatch.delitem(sys.modules, "twusage.cli.app")
        monkeypatch.setitem(sys.modules, "twusage.cli.show", None)
        with pytest.raises(ModuleNotFoundError, match=r"twusage\.cli\.show"):
            entry.main()

    def test_ctrl_c_while_loading(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """Loading takes a moment, too."""

        def interrupted(**_: object) -> NoReturn:
            raise KeyboardInterrupt

        monkeypatch.setattr("twusage.cli.app.twusage", interrupted)
        with pytest.raises(SystemExit) as left:
            entry.main()
        assert left.value.code == 130
        assert capsys.readouterr() == ("", "")


class TestBrokenOutput:
    def test_a_reader_that_has_had_enough(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """``| head`` is no failure, and Python's own flush at exit does not fail once more."""
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "w", encoding="utf-8") as stdout:
            monkeypatch.setattr(sys, "stdout", stdout)
            with pytest.raises(SystemExit) as left:
                twusage(["show", "--demo", "--csv"])
            stdout.write("x")
            stdout.flush()
        assert left.value.code == 0
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize(
        ("error", "code", "said"),
        [
            (
                OSError(28, "No space left on device"),
                1,
                "twusage: the output cannot be written: No space left on device\n",
            ),
            (BrokenPipeError(32, "Broken pipe"), 0, ""),
        ],
    )
    def test_an_output_that_is_no_file(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        error: BaseException,
        code: int,
        said: str,
    ) -> None:
        """What cannot be written is told; where stdout is no file there is nothing to let go."""

        class Full(io.StringIO):
            def write(self, _: str) -> NoReturn:
                raise error

        monkeypatch.setattr(sys, "stdout", Full())
        with pytest.raises(SystemExit) as left:
            twusage(["show", "--demo", "--json"])
        assert left.value.code == code
        assert capsys.readouterr().err == said

    def test_a_stdout_that_is_closed(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """Whoever closes stdout wants the exit code alone."""
        monkeypatch.setattr(sys, "stdout", None)
        with pytest.raises(SystemExit) as left:
            twusage(["show", "--demo"])
        assert left.value.code == 0
        assert capsys.readouterr().err == ""


# -- The countdown -----------------------------------------------------------------------------------------------------


class Screen(io.StringIO):
    """A terminal of one line and a cursor that returns: what is seen, each time that something was written."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = [""]

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return -1

    def write(self, text: str) -> int:
        assert text.count("\r") == 1
        assert text.endswith("\r"), "the next to write would not overwrite it"
        self.seen.append((text[:-1] + self.seen[-1][len(text) - 1 :]).rstrip())
        return super().write(text)


class Loop:
    """A loop whose time a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.calls: list[tuple[float, Any]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Any, *arguments: Any) -> Any:
        planned = (when, lambda: call(*arguments))
        self.calls.append(planned)

        def cancel() -> None:
            if planned in self.calls:
                self.calls.remove(planned)

        return SimpleNamespace(cancel=cancel)

    def move(self, seconds: float) -> None:
        until = self.now + seconds
        while self.calls and (first := min(self.calls, key=lambda planned: planned[0]))[0] <= until:
            self.calls.remove(first)
            self.now = first[0]
            first[1]()
        self.now = until


NOON = dt.datetime(2026, 1, 15, 12, tzinfo=dt.UTC)
EXHAUSTED = "no calls left in the app's 15-minute window"


def wait_of(seconds: float, reason: str = EXHAUSTED) -> sdk.Wait:
    return sdk.Wait(seconds, NOON + dt.timedelta(seconds=seconds), reason)


class TestCountdown:
    @pytest.fixture
    def loop(self, monkeypatch: pytest.MonkeyPatch) -> Loop:
        loop = Loop()
        monkeypatch.setattr("twusage.cli.countdown.asyncio.get_running_loop", lambda: loop)
        return loop

    @pytest.fixture
    def screen(self) -> Screen:
        return Screen()

    def test_it_counts_down(self, loop: Loop, screen: Screen) -> None:
        """Once a second, on one line, and in the end there is nothing."""
        with redirect_stderr(screen):
            Countdown()(wait_of(62.5))
            loop.move(100)
        times = ["1:03", "1:02", "1:01", "1:00", *(f"0:{left:02}" for left in range(59, 0, -1))]
        assert screen.seen == ["", *(f"waiting {left}, until 12:01:02 UTC: {EXHAUSTED}" for left in times), ""]
        assert loop.calls == []

    def test_no_escape_sequence(self, loop: Loop, screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
        """So NO_COLOR has nothing to forbid, nor has a dumb terminal anything to show."""
        monkeypatch.setenv("FORCE_COLOR", "1")
        with redirect_stderr(screen):
            Countdown()(wait_of(3, "because\x1b[2J"))
            loop.move(10)
        assert "\x1b" not in screen.getvalue()
        assert r"because\x1b[2J" in screen.getvalue()

    def test_it_goes_when_the_answer_comes(self, loop: Loop, screen: Screen) -> None:
        """However much was left; and it does not come back."""
        with redirect_stderr(screen):
            countdown = Countdown()
            countdown(wait_of(900))
            loop.move(1.5)
            countdown.clear()
            assert screen.seen[-2:] == [f"waiting 14:59, until 12:15:00 UTC: {EXHAUSTED}", ""]
            loop.move(100)
            countdown.clear()
        assert len(screen.seen) == 4

    def test_another_wait_takes_its_place(self, loop: Loop, screen: Screen) -> None:
        """Nothing of a longer line is left behind it, and the first does not tick on."""
        with redirect_stderr(screen):
            countdown = Countdown()
            countdown(wait_of(900))
            countdown(wait_of(45, "a"))
            loop.move(1)
            assert screen.seen[-2:] == ["waiting 0:45, until 12:00:45 UTC: a", "waiting 0:44, until 12:00:45 UTC: a"]
            countdown(wait_of(0.5))
        assert screen.seen[-1] == ""
        assert loop.calls == []

    @pytest.mark.parametrize(
        ("columns", "line"),
        [
            (79, f"waiting 15:00, until 12:15:00 UTC: {EXHAUSTED}"),
            (78, "waiting 15:00, until 12:15:00 UTC"),
            (34, "waiting 15:00, until 12:15:00 UTC"),
            (33, "waiting 15:00"),
            (14, "waiting 15:00"),
            (13, ""),
            (1, ""),
            (0, f"waiting 15:00, until 12:15:00 UTC: {EXHAUSTED}"),
        ],
    )
    def test_a_narrow_terminal(
        self, columns: int, line: str, loop: Loop, screen: Screen, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What does not fit is left out whole, and the last column stays free: the line would not stay one. A terminal
        that does not know its width says 0.
        """
        monkeypatch.setattr("os.get_terminal_size", lambda fd: {-1: os.terminal_size((columns, 24))}[fd])
        with redirect_stderr(screen):
            Countdown()(wait_of(900))
            assert screen.seen == ["", line]
            loop.move(1)
        assert screen.seen[-1] == line.replace("15:00", "14:59", 1)

    def test_a_wait_too_short_to_read(self, loop: Loop, screen: Screen) -> None:
        """Below a second nothing is shown."""
        with redirect_stderr(screen):
            Countdown()(wait_of(0.9))
            assert screen.seen == [""]
            Countdown()(wait_of(1))
        assert len(screen.seen) == 2

    def test_no_terminal(self, loop: Loop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """One plain line a wait, for the mail of a cron job; FORCE_COLOR makes no terminal of a file."""
        monkeypatch.setenv("FORCE_COLOR", "1")
        countdown = Countdown()
        for seconds in (900, 0.5, 45.4):
            countdown(wait_of(seconds))
            countdown.clear()
        out, err = capsys.readouterr()
        assert out == ""
        assert err.splitlines() == [
            f"twusage: waiting 900 s, until 2026-01-15 12:15:00 UTC: {EXHAUSTED}",
            f"twusage: waiting 45 s, until 2026-01-15 12:00:45 UTC: {EXHAUSTED}",
        ]
        assert loop.calls == []

    def test_a_stderr_that_is_gone(self, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
        """Closed, or a terminal that was hung up: the call goes on."""
        monkeypatch.setattr(sys, "stderr", None)
        Countdown()(wait_of(900))

        class HungUp(Screen):
            def write(self, _: str) -> NoReturn:
                raise OSError

        monkeypatch.setattr(sys, "stderr", HungUp())
        countdown = Countdown()
        countdown(wait_of(900))
        loop.move(2)
        countdown.clear()

    @pytest.mark.parametrize("options", [("--json",), ("--csv",), ()])
    def test_stdout_stays_clean(self, options: tuple[str, ...], wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
        """The wait is told on stderr, and is not in the data."""

        async def sleep(_: object, seconds: float) -> None:
            pass

        monkeypatch.setattr("twusage.clock.SystemClock.sleep", sleep)
        wire.says(DOCUMENT)
        plain = run("show", *options)
        wire.says(problem("Service Unavailable"), 503, retry_after="45")
        wire.says(DOCUMENT)
        waited = run("show", *options)
        assert waited.exit_code == 0
        assert waited.stdout == plain.stdout or "--json" in options
        assert "waiting" not in waited.stdout
        assert re.fullmatch(
            r"twusage: waiting 45 s, until [\d: -]{19} UTC: the last attempt failed \(ServerError\)\n", waited.stderr
        )


# -- Real processes ----------------------------------------------------------------------------------------------------


def command(
    *arguments: str,
    stdin: bytes = b"",
    stdout: int | IO[bytes] = subprocess.PIPE,
    env: Mapping[str, str] = MappingProxyType({}),
) -> subprocess.CompletedProcess[bytes]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "0", **env}
    arguments = (sys.executable, "-m", "twusage", *arguments)
    return subprocess.run(
        arguments, input=stdin, stdout=stdout, stderr=subprocess.PIPE, env=env, timeout=60, check=False
    )


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        yield server


def url(server: socket.socket) -> str:
    return f"http://127.0.0.1:{server.getsockname()[1]}"


def with_silent_name_server(command: list[str]) -> list[str]:
    """The command, with look-ups that never end; each writes a question mark on stdout."""
    silent = "import os, socket, threading; socket.getaddrinfo = lambda *_, **__: os.write(1, b'?') and STOP.wait()"
    return [*command[:-1], f"{silent}; STOP = threading.Event(); {command[-1]}"]


class TestProcess:
    def test_over_a_socket(self) -> None:
        """The whole way: a token from stdin, a request on the wire, CSV on stdout."""
        body = json.dumps(DOCUMENT).encode()
        asked: list[bytes] = []

        def serve(server: socket.socket) -> None:
            connection, _ = server.accept()
            with connection:
                asked.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))

        with listening() as server:
            thread = threading.Thread(target=serve, args=(server,))
            thread.start()
            done = command(
                "show", "--csv", "--token-file", "-", stdin=TOKEN.encode(), env={"TWUSAGE_BASE_URL": url(server)}
            )
            thread.join()
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.replace(b"\r", b"") == b"date,usage\n2024-06-06,800\n2024-06-07,400\n2024-06-10,\n"
        assert f"Bearer {TOKEN}".encode() in asked[0]

    def test_nobody_listens(self) -> None:
        """A refused connection: one sentence, no traceback, no token."""
        with listening() as server:
            nowhere = url(server)
        done = command("show", "--max-wait", "0", env={"TWUSAGE_BASE_URL": nowhere, "X_BEARER_TOKEN": TOKEN})
        assert (done.returncode, done.stdout) == (7, b"")
        assert done.stderr.startswith(b"twusage: no connection to 127.0.0.1:")
        assert done.stderr.count(b"\n") == 1
        assert TOKEN.encode() not in done.stderr

    @pytest.mark.skipif(sys.platform == "win32", reason="signals")
    def test_ctrl_c(self, interruptible: list[str]) -> None:
        """SIGINT in the middle of a request: 130 and silence."""
        env = os.environ | {"PYTHONPATH": str(ROOT), "X_BEARER_TOKEN": TOKEN}
        with listening() as server:
            process = subprocess.Popen(
                [*interruptible, "show"],
                env=env | {"TWUSAGE_BASE_URL": url(server)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                process.send_signal(signal.SIGINT)
                assert process.communicate(timeout=30) == (b"", b"")
        assert process.returncode == 130

    @pytest.mark.parametrize("name", ["show", "doctor"])
    def test_a_name_server_that_does_not_answer(self, name: str, interruptible: list[str]) -> None:
        """The command ends with its timeout: neither the look-up nor a second try holds it."""
        began = time.monotonic()
        done = subprocess.run(
            [*with_silent_name_server(interruptible), name, "--timeout", "0.5"],
            env=os.environ | {"PYTHONPATH": str(ROOT), "X_BEARER_TOKEN": TOKEN},
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 7
        assert b"no connection within 0.25 s" in b" ".join((done.stdout + done.stderr).split())
        assert time.monotonic() - began < 20  # Most of it is the start of a Python on a busy machine.

    @pytest.mark.skipif(sys.platform == "win32", reason="signals")
    def test_ctrl_c_during_a_look_up(self, interruptible: list[str]) -> None:
        """SIGINT while the name server does not answer: 130 immediately."""
        process = subprocess.Popen(
            [*with_silent_name_server(interruptible), "show", "--timeout", "600"],
            env=os.environ | {"PYTHONPATH": str(ROOT), "X_BEARER_TOKEN": TOKEN},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.read(1) == b"?"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == (b"", b"")
        assert process.returncode == 130

    @pytest.mark.skipif(sys.platform == "win32", reason="ptys and signals")
    def test_ctrl_c_during_the_countdown(self, interruptible: list[str]) -> None:
        """130, and the terminal's line is empty again: nothing but spaces where it was."""
        import pty  # POSIX only

        env = os.environ | {"PYTHONPATH": str(ROOT), "X_BEARER_TOKEN": TOKEN, "COLUMNS": "80", "TERM": "xterm"}
        ours, theirs = pty.openpty()
        with listening() as server, os.fdopen(ours, "rb", buffering=0) as screen:
            process = subprocess.Popen(
                [*interruptible, "show", "--max-wait", "900", "--csv"],
                env=env | {"TWUSAGE_BASE_URL": url(server)},
                stdout=subprocess.PIPE,
                stderr=theirs,
            )
            os.close(theirs)
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 429 Too Many\r\nretry-after: 600\r\ncontent-length: 0\r\n\r\n")
                first = screen.read(65536)
                process.send_signal(signal.SIGINT)
                rest = b""
                try:
                    while piece := screen.read(65536):
                        rest += piece
                except OSError:  # Linux's way of saying that the other side is closed
                    pass
            assert process.communicate(timeout=30)[0] == b""
        assert process.returncode == 130
        line = rb"waiting 10:00, until [\d:]{8} UTC: no calls left in the app's 15-minute window\r"
        assert re.fullmatch(line, first), first
        assert re.fullmatch(rb"(9:59 [^\r\n]+\r)* +\r", rest), rest

    @pytest.mark.parametrize("env", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C"}])
    def test_poor_encodings(self, env: dict[str, str]) -> None:
        """A terminal or a cron job without UTF-8 does not crash it."""
        done = command("show", "--demo", "--by-app", env=env)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"Posts read a day" in done.stdout
        assert done.stdout.isascii() or "LC_ALL" in env

    def test_a_broken_pipe(self) -> None:
        """Quiet to the very end, Python's flush at exit included."""
        reader, writer = os.pipe()
        os.close(reader)
        try:
            done = command("show", "--demo", "--csv", stdout=writer)
        finally:
            os.close(writer)
        assert (done.returncode, done.stderr) == (0, b"")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
    def test_a_full_disk(self) -> None:
        """One sentence, and no second complaint at exit."""
        with Path("/dev/full").open("wb") as full:
            done = command("show", "--demo", stdout=full)
        assert done.returncode == 1
        assert done.stderr == b"twusage: the output cannot be written: No space left on device\n"

    @pytest.mark.skipif(sys.platform == "win32", reason="ptys")
    @pytest.mark.parametrize(("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
    def test_a_terminal(self, env: dict[str, str], coloured: bool) -> None:
        """A terminal gets colours, unless NO_COLOR says otherwise, and bars as wide as it is."""
        import pty  # POSIX only

        ours, theirs = pty.openpty()
        with os.fdopen(ours, "rb", buffering=0) as screen:
            screen_of = {"TERM": "xterm-256color", "COLUMNS": "50", "PYTHONUTF8": "1"}
            done = command("show", "--demo", stdout=theirs, env=screen_of | env)
            os.close(theirs)
            shown = b""
            try:
                while piece := screen.read(65536):
                    shown += piece
            except OSError:  # Linux's way of saying that the other side is closed
                pass
        assert (done.returncode, done.stderr) == (0, b"")
        assert (b"\x1b[38;5;33m" in shown) is coloured
        plain = re.sub(rb"\x1b\[[0-9;]*m", b"", shown).decode()
        assert max(map(len, plain.splitlines())) == 50
        assert coloured or b"\x1b" not in shown

    def test_the_sdk_loads_neither_click_nor_rich(self) -> None:
        """Nor does ``twusage.__main__``, before it has to."""
        program = (
            "import sys, twusage, twusage.__main__; sys.exit(len({'click', 'rich', 'aiohttp'} & sys.modules.keys()))"
        )
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60, check=False)
        assert done.returncode == 0
