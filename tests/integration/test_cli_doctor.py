"""``twusage doctor``: what it prints, what it costs, and how it ends."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

import click
from click.testing import CliRunner, Result

import twusage as sdk
from twusage.auth import KEY_VARIABLES, TOKEN_VARIABLES
from twusage.cli.app import twusage
from twusage.cli.doctor import doctor
from twusage.cli.exit_codes import EXITS
from twusage.protocol import Request, Response
from twusage.testing import FakeApi, FakeServer, FakeTransport, Fault

DOCS = Path(__file__).parents[2] / "docs" / "cli.md"
# Until 8.2, click's runner mixed the two streams by default.
STREAMS: dict[str, Any] = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
Doctor = Callable[..., Result]


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the environment of the test run."""
    named = {name for pair in KEY_VARIABLES for name in pair}
    for name in {*TOKEN_VARIABLES, *named, "TWUSAGE_BASE_URL", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE"}:
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def examine(api: FakeApi, monkeypatch: pytest.MonkeyPatch, canary: str) -> Iterator[Doctor]:
    """Run the command on the fake. None of its output holds a part of a credential."""
    monkeypatch.setattr("twusage.aiohttp_transport.AiohttpTransport", lambda: FakeTransport(api))
    outputs: list[str] = []

    def run(*arguments: str, stdin: str | None = None, charset: str = "utf-8", **env: str | None) -> Result:
        runner = CliRunner(charset=charset, **STREAMS)
        result = runner.invoke(twusage, ["doctor", *arguments], input=stdin, env=env)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        outputs.append(result.stdout + result.stderr)
        return result

    yield run
    parts = [canary[at : at + 8] for at in range(22, len(canary) - 7)]
    assert [part for part in parts if part in "".join(outputs)] == []


@pytest.fixture
def token(api: FakeApi, canary: str) -> str:
    """The canary, as a token of the fake's first app."""
    api.apps[0].tokens[:] = [canary]
    return canary


def codes(result: Result) -> dict[str, str]:
    return {finding["code"]: finding["level"] for finding in json.loads(result.stdout)["findings"]}


class TestReport:
    def test_all_is_well(self, examine: Doctor, token: str, api: FakeApi) -> None:
        """A line for each thing that is right. One call; code 0; nothing on stderr."""
        result = examine(X_BEARER_TOKEN=token, COLUMNS="100")
        assert (result.exit_code, result.stderr) == (0, "")
        lines = result.stdout.splitlines()
        assert lines[0] == "ok       credentials  the bearer token is in X_BEARER_TOKEN"
        assert [line.split()[1] for line in lines[:6]] == ["credentials", "token", "network", "window", "cap", "clock"]
        assert re.fullmatch(r"ok       window       49 of 50 calls left until \d\d:\d\d:\d\d UTC", lines[3])
        assert lines[6:] == ["", "No problems found."]
        assert len(api.requests) == 1

    def test_one_thing_is_wrong(self, examine: Doctor, token: str, api: FakeApi) -> None:
        """The report is in sentences that fit the terminal, with the advice below."""
        result = examine(X_BEARER_TOKEN=token.replace("%2F", "/"), COLUMNS="60")
        assert result.exit_code == 4
        assert result.stdout.splitlines()[1:8] == [
            "error    token        the API rejects the bearer token: 401",
            "                      Unauthorized. Likely cause: the bearer",
            "                      token looks percent-decoded: it",
            "                      contains /, + or =, but the portal",
            "                      shows %2F, %2B and %3D",
            "                      Use the app's bearer token exactly as",
            "                      the app's page 'Keys and tokens' in",
        ]
        assert result.stdout.splitlines()[-1] == "1 error."
        assert len(api.requests) == 1

    @pytest.mark.parametrize("width", [30, 40, 59, 60, 80])
    def test_it_fits(self, width: int, examine: Doctor, token: str) -> None:
        """No line is longer than the terminal is wide. On a narrow one, the sentences have lines of their own."""
        result = examine(X_BEARER_TOKEN=token.replace("%2F", "/"), COLUMNS=str(width))
        lines = result.stdout.splitlines()
        assert max(map(len, lines)) <= width
        assert ("  the bearer token is in X_BEARER_TOKEN" in lines) is (40 <= width < 60)
        assert ("error    token" in lines) is (width < 60)

    def test_a_narrow_terminal(self, examine: Doctor, token: str) -> None:
        """A word that is too long for it stays whole."""
        lines = examine(X_BEARER_TOKEN=f"{token} ", COLUMNS="12").stdout.splitlines()
        assert lines[:4] == ["error    token", "  X_BEARER_TOKEN", "  contains a", "  space"]

    def test_several_things_are_wrong(self, examine: Doctor) -> None:
        """They are counted."""
        result = examine(X_API_KEY="a", TWUSAGE_BASE_URL="api")
        assert result.exit_code == 3
        assert result.stdout.splitlines()[-1] == "2 errors."

    def test_warnings_are_no_failure(self, examine: Doctor, token: str, api: FakeApi) -> None:
        """Nearly used up is not used up."""
        api.project.cap = int(api.project.usage() / 0.95)
        result = examine(X_BEARER_TOKEN=token)
        assert result.exit_code == 0
        assert "warning  cap" in result.stdout
        assert result.stdout.endswith("\n\n1 warning.\n")

    def test_text_of_the_api_is_only_text(self, examine: Doctor, token: str, api: FakeApi) -> None:
        """Neither rich's markup nor a terminal's escapes do anything."""
        for _ in range(2):
            api.fail(Fault.status(418, {"title": "[red]no[/red]\x1b[2J :smile:", "detail": "a\nb"}))
        result = examine(X_BEARER_TOKEN=token, COLUMNS="200")
        assert r"418 [red]no[/red]" in result.stdout
        assert ":smile:" in result.stdout
        assert "\x1b" not in result.stdout
        assert "\x1b" not in examine("--json", X_BEARER_TOKEN=token).stdout

    def test_colours(self, examine: Doctor, token: str) -> None:
        """In a terminal, and none in a pipe."""
        assert "\x1b" not in examine(X_BEARER_TOKEN=token, TERM="xterm-256color").stdout
        assert "\x1b[38;5;28mok" in examine(X_BEARER_TOKEN=token, FORCE_COLOR="1", TERM="xterm").stdout
        plain = examine(X_BEARER_TOKEN=token, FORCE_COLOR="1", NO_COLOR="1", TERM="xterm").stdout
        assert "\x1b" not in plain

    def test_an_ascii_terminal(self, examine: Doctor, token: str, api: FakeApi) -> None:
        """All of our own is ASCII, and what is not is escaped."""
        api.fail(Fault.status(418, {"title": "n\u00f8"}))
        assert examine(X_BEARER_TOKEN=token, charset="ascii").stdout_bytes.isascii()


class TestJson:
    def test_for_scripts(self, examine: Doctor, token: str) -> None:
        """One ASCII document with stable names; the exit code is the report's."""
        result = examine("--json", X_BEARER_TOKEN=token)
        document = json.loads(result.stdout)
        assert (result.exit_code, result.stderr) == (0, "")
        assert list(document) == ["ok", "error", "findings", "usage"]
        assert (document["ok"], document["error"]) == (True, None)
        assert document["usage"]["project_cap"] == 2_000_000
        assert all(list(found) == ["code", "level", "message", "advice"] for found in document["findings"])
        assert codes(result) == dict.fromkeys(
            (*("credentials.found", "token.accepted", "network.answered", "window.open", "cap.left", "clock.right"),),
            "ok",
        )

    def test_it_is_ascii(self, examine: Doctor, token: str, api: FakeApi) -> None:
        """Whatever the API returns."""
        api.fail(Fault.status(418, {"title": "n\u00f8\x9b"}))
        assert examine("--json", X_BEARER_TOKEN=token).stdout.isascii()


class TestExits:
    @pytest.mark.parametrize(
        ("fault", "finding", "code"),
        [
            (Fault.status(401), "token.refused", 4),
            (Fault.credits_depleted(), "credits.depleted", 5),
            (Fault.spend_cap_reached(), "spending.limit-reached", 5),
            (Fault.usage_capped(), "cap.used-up", 5),
            (Fault.rate_limited(), "window.spent", 6),
            (Fault.connect_error(), "network.refused", 7),
            (Fault.timeout(), "network.timeout", 7),
            (Fault.status(302), "network.redirect", 7),
            (Fault.status(503), "api.trouble", 8),
            (Fault.html(), "network.page", 7),
            (Fault.html(403), "network.page", 7),
            (Fault.status(429, "error code: 1015"), "network.page", 7),
            (Fault.status(404), "api.not-there", 9),
        ],
    )
    @pytest.mark.parametrize("options", [(), ("--json",)])
    def test_each_kind(
        self, options: tuple[str, ...], fault: Fault, finding: str, code: int, examine: Doctor, token: str, api: FakeApi
    ) -> None:
        """The code of that kind of error, one request at most, no wait, and nothing on stderr."""
        api.fail(fault)
        result = examine("--timeout", "0.01", *options, X_BEARER_TOKEN=token)
        assert (result.exit_code, result.stderr) == (code, "")
        if options:
            assert [name for name, level in codes(result).items() if level == "error"] == [finding]
        assert len(api.requests) <= 1

    def test_a_cap_that_is_used_up(self, examine: Doctor, token: str, api: FakeApi) -> None:
        """Wrong, though the call succeeds: other calls will not."""
        api.project.cap = 1000
        assert examine(X_BEARER_TOKEN=token).exit_code == 5

    def test_rejected_requests(self, examine: Doctor, token: str, api: FakeApi) -> None:
        """A user's token and an app outside a project."""
        api.apps[0].project = None
        result = examine("--json", X_BEARER_TOKEN=token)
        assert (result.exit_code, codes(result)["app.no-project"]) == (4, "error")
        api.user_tokens = {token}
        result = examine("--json", X_BEARER_TOKEN=token)
        assert (result.exit_code, codes(result)["token.user-context"]) == (4, "error")

    def test_help(self) -> None:
        """The codes stand in its help, too."""
        text = CliRunner().invoke(twusage, ["doctor", "--help"]).output
        assert all(f"{end.code:>5}  {end.meaning}\n" in text for end in EXITS)


class TestCredentials:
    @pytest.mark.parametrize(
        "spoil",
        [
            lambda token: {"X_BEARER_TOKEN": ""},
            lambda token: {"X_BEARER_TOKEN": f'"{token}"'},
            lambda token: {"X_BEARER_TOKEN": f"Bearer {token}"},
            lambda token: {"X_BEARER_TOKEN": f"{token}\n"},
            lambda token: {"X_BEARER_TOKEN": f"{token[:40]} {token[40:]}"},
            lambda token: {"X_BEARER_TOKEN": f"{token}\u00e9"},
            lambda token: {"X_API_KEY": token},
            lambda token: {"X_API_KEY": token, "X_API_SECRET": f"'{token}'"},
            lambda token: {"X_BEARER_TOKEN": "AAAA", "TWUSAGE_BASE_URL": token},
        ],
    )
    def test_certain_without_a_call(
        self, spoil: Callable[[str], dict[str, str]], examine: Doctor, token: str, api: FakeApi
    ) -> None:
        """What cannot work costs no call: code 3."""
        for options in [(), ("--json",)]:
            result = examine(*options, **spoil(token))
            assert (result.exit_code, result.stderr) == (3, "")
            assert "error" in result.stdout
            assert api.requests == []

    @pytest.mark.parametrize("options", [(), ("--json",)])
    def test_a_pair(self, options: tuple[str, ...], examine: Doctor, token: str, api: FakeApi) -> None:
        """A key and its secret are exchanged, and one call is made. A bearer token in their place is suspected."""
        api.apps[0].api_key = token[22:]
        result = examine(*options, TWITTER_API_KEY=token[22:], TWITTER_API_SECRET=api.apps[0].api_secret)
        assert result.exit_code == 0
        assert [request.method for request in api.requests] == ["POST", "GET"]
        result = examine(*options, X_API_KEY=token, X_API_SECRET=token)
        assert result.exit_code == 4
        assert "looks like a bearer token" in result.stdout

    def test_show_takes_a_pair_as_well(self, examine: Doctor, api: FakeApi) -> None:
        """What the doctor calls good, the other command can use."""
        pair = {"X_API_KEY": api.apps[0].api_key, "X_API_SECRET": api.apps[0].api_secret}
        result = CliRunner(**STREAMS).invoke(twusage, ["show", "--csv"], env=pair)
        assert (result.exit_code, result.stderr) == (0, "")

    def test_from_a_file(self, examine: Doctor, token: str, tmp_path: Path, api: FakeApi) -> None:
        """It goes before the environment, and white space around it does not matter."""
        file = tmp_path / "token"
        file.write_text(f" {token}\n")
        result = examine("--token-file", str(file), X_BEARER_TOKEN="AAAA")
        assert result.exit_code == 0
        assert result.stdout.startswith("ok       credentials  the bearer token comes from the file\n")
        result = examine("--token-file", "-", stdin=token)
        assert result.exit_code == 0
        assert result.stdout.startswith("ok       credentials  the bearer token comes from stdin\n")

    @pytest.mark.parametrize("content", ["", "X_BEARER_TOKEN={}", "{0} {0}", "{}\u00e9", "AAAA{}"])
    def test_the_advice_fits_the_source(
        self, content: str, examine: Doctor, token: str, tmp_path: Path, api: FakeApi
    ) -> None:
        """With a token file, the advice is not to set a variable."""
        file = tmp_path / "token"
        file.write_text(content.format(token), encoding="utf-8")
        result = examine("--json", "--token-file", str(file))
        assert result.exit_code in {3, 4}
        assert "X_BEARER_TOKEN" not in result.stdout

    @pytest.mark.parametrize(
        ("content", "code"),
        [
            ("", "token.file"),
            ("Bearer {}", "token.bearer-prefix"),
            ("'{}'", "token.quoted"),
            ("{0} {0}", "token.space"),
            ("{0}\n{0}", "token.line-break"),
            ("X_BEARER_TOKEN={}", "token.assignment"),
            ("{}%%", "token.percent-doubled"),
            ("{}\\%", "token.backslash"),
            ("{}%", "token.percent-broken"),
            ('export X_BEARER_TOKEN="{}"', "token.assignment"),
            ('{{"token": "{}"}}', "token.assignment"),
        ],
    )
    def test_a_file_without_a_token(
        self, content: str, code: str, examine: Doctor, token: str, tmp_path: Path, api: FakeApi
    ) -> None:
        """Findings of a file equal those of a variable. Neither its path nor its content is shown."""
        file = tmp_path / "token"
        file.write_text(content.format(token))
        result = examine("--json", "--token-file", str(file))
        assert (result.exit_code, codes(result)[code]) == (3, "error")
        assert str(file) not in result.stdout
        assert api.requests == []

    def test_a_file_of_powershell(self, examine: Doctor, token: str, tmp_path: Path, api: FakeApi) -> None:
        """Its > writes UTF-16: the cause is named."""
        file = tmp_path / "token"
        file.write_bytes(token.encode("utf-16"))
        result = examine("--json", "--token-file", str(file))
        assert (result.exit_code, codes(result)) == (3, {"token.utf-16": "error"})
        assert "PowerShell" in result.stdout
        assert api.requests == []

    def test_a_token_for_a_path(self, examine: Doctor, token: str) -> None:
        """A token given by mistake to the option is not quoted."""
        result = examine("--token-file", token)
        assert result.exit_code == 3
        assert "No such file" in result.stdout


class TestOptions:
    @pytest.mark.parametrize(
        ("fault", "option"), [(Fault.timeout(), "--timeout 60"), (Fault.rate_limited(), "--max-wait 960")]
    )
    def test_the_option_that_helps(self, fault: Fault, option: str, examine: Doctor, token: str, api: FakeApi) -> None:
        """The SDK's advice does not know the options of the command. The command adds them."""
        api.fail(fault)
        assert option in examine("--json", "--timeout", "0.01", X_BEARER_TOKEN=token).stdout


class TestProxy:
    @pytest.fixture
    def proxies(self, api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """What a transport was made with, and what became of it."""
        log: list[Any] = []

        class Transport(FakeTransport):
            def __init__(self, *, proxy: str | None, trust_env: bool) -> None:
                super().__init__(api)
                log.append("environment" if trust_env else proxy)

            async def aclose(self) -> None:
                log.append("closed")

        monkeypatch.setattr("twusage.aiohttp_transport.AiohttpTransport", Transport)
        return log

    @pytest.mark.parametrize("command", ["show", "doctor"])
    def test_an_explicit_one(self, command: str, proxies: list[Any], token: str) -> None:
        """It is given to the transport, which is closed in the end."""
        proxy = "http://me:hunter2@proxy.test:3128"
        result = CliRunner(**STREAMS).invoke(twusage, [command, "--proxy", proxy], env={"X_BEARER_TOKEN": token})
        assert result.exit_code == 0
        assert proxies == [proxy, "closed"]
        assert "hunter2" not in result.stdout + result.stderr

    @pytest.mark.parametrize(
        "arguments",
        [["--trust-env", "show"], ["show", "--trust-env"], ["--trust-env", "doctor"], ["doctor", "--trust-env"]],
    )
    def test_those_of_the_environment(self, arguments: list[str], proxies: list[Any], token: str) -> None:
        """Only with --trust-env, which may come before the command or after it."""
        assert CliRunner(**STREAMS).invoke(twusage, arguments, env={"X_BEARER_TOKEN": token}).exit_code == 0
        assert proxies == ["environment", "closed"]

    def test_that_of_the_environment_is_there(self, token: str, api: FakeApi) -> None:
        """Over real sockets. Without --trust-env it is not used, with it it is blamed, and NO_PROXY holds."""
        with FakeServer(api) as server:
            env = {"X_BEARER_TOKEN": token, "TWUSAGE_BASE_URL": server.url, "http_proxy": "http://127.0.0.1:1"}
            runner = CliRunner(**STREAMS)
            assert runner.invoke(twusage, ["show"], env=env | {"no_proxy": ""}).exit_code == 0
            result = runner.invoke(twusage, ["doctor", "--json", "--trust-env"], env=env | {"no_proxy": ""})
            assert codes(result)["proxy.unreachable"] == "error"
            assert runner.invoke(twusage, ["show", "--trust-env"], env=env | {"no_proxy": "127.0.0.1"}).exit_code == 0

    def test_that_of_the_environment_is_malformed(self, token: str) -> None:
        """It is a finding that names the variable, and does not quote its password."""
        env = {"X_BEARER_TOKEN": token, "https_proxy": "socks5://me:hunter2@127.0.0.1:1", "no_proxy": ""}
        result = CliRunner(**STREAMS).invoke(twusage, ["doctor", "--json", "--trust-env"], env=env)
        assert (result.exit_code, codes(result)) == (3, {"credentials.found": "ok", "proxy.malformed": "error"})
        assert "HTTPS_PROXY must be the URL of an HTTP proxy" in result.stdout
        assert "hunter2" not in result.stdout + result.stderr

    def test_the_environment_beside_made_up_data(self, proxies: list[Any]) -> None:
        """There is nothing to go to, and nothing to refuse."""
        assert CliRunner(**STREAMS).invoke(twusage, ["--trust-env", "show", "--demo"]).exit_code == 0
        assert proxies == []

    @pytest.mark.parametrize("command", ["show", "doctor"])
    @pytest.mark.parametrize(
        "proxy", ["me:hunter2", "socks5://me:hunter2@x:1", "http://:hunter2@", "http://me:hunter2@[x"]
    )
    def test_no_proxy(self, proxy: str, command: str) -> None:
        """A value that is not an HTTP proxy is a wrong option, and is not quoted: it may hold a password."""
        result = CliRunner(**STREAMS).invoke(twusage, [command, "--proxy", proxy])
        assert result.exit_code == 2
        assert "--proxy must be the URL of an HTTP proxy, such as http://host:3128" in result.stderr
        assert "hunter2" not in result.stderr

    def test_not_with_made_up_data(self) -> None:
        """There is nothing to go to."""
        result = CliRunner(**STREAMS).invoke(twusage, ["show", "--demo", "--proxy", "http://x:1"])
        assert result.exit_code == 2
        assert "--demo needs no --proxy" in result.stderr

    def test_one_that_is_not_there(self, token: str) -> None:
        """Over real sockets: the proxy is blamed and its password not shown."""
        arguments = ["doctor", "--json", "--proxy", "http://me:hunter2@127.0.0.1:1"]
        result = CliRunner(**STREAMS).invoke(twusage, arguments, env={"X_BEARER_TOKEN": token})
        assert result.exit_code == 7
        assert codes(result)["proxy.unreachable"] == "error"
        assert "hunter2" not in result.stdout + result.stderr


class TestSocket:
    def test_a_proxy_on_the_same_host(self, token: str, api: FakeApi) -> None:
        """One that is not there is blamed by its port, not the API, which is."""
        with FakeServer(api) as server:
            env = {"X_BEARER_TOKEN": token, "TWUSAGE_BASE_URL": server.url}
            arguments = ["doctor", "--json", "--proxy", "http://127.0.0.1:1"]
            result = CliRunner(**STREAMS).invoke(twusage, arguments, env=env)
        assert result.exit_code == 7
        assert codes(result)["proxy.unreachable"] == "error"
        assert "no connection to 127.0.0.1:1 " in result.stdout

    def test_over_a_socket(self, api: FakeApi, token: str) -> None:
        """The whole way, at an address that is not the default."""
        with FakeServer(api) as server:
            env = {"X_BEARER_TOKEN": token, "TWUSAGE_BASE_URL": server.url}
            result = CliRunner(**STREAMS).invoke(twusage, ["doctor", "--json"], env=env)
        assert result.exit_code == 0
        assert codes(result)["address.changed"] == "ok"
        assert len(api.requests) == 1

    def test_no_listener(self, token: str) -> None:
        """A refused connection; the environment's proxy and the address are suspected."""
        env = {
            "X_BEARER_TOKEN": token,
            "TWUSAGE_BASE_URL": "http://127.0.0.1:1",
            "https_proxy": "http://me:hunter2@x:1",
        }
        result = CliRunner(**STREAMS).invoke(twusage, ["doctor", "--json"], env=env)
        assert result.exit_code == 7
        assert codes(result) == {
            "credentials.found": "ok",
            "token.plausible": "ok",
            "network.refused": "error",
            "address.changed": "warning",
            "proxy.not-used": "warning",
        }
        assert "hunter2" not in result.stdout

    def test_a_bug_has_its_traceback(self, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
        """An unexpected exception is not reported as a finding."""

        class Buggy(sdk.testing.FakeTransport):
            async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109
                raise ZeroDivisionError

        monkeypatch.setattr("twusage.aiohttp_transport.AiohttpTransport", lambda: Buggy(FakeApi()))
        result = CliRunner(**STREAMS).invoke(twusage, ["doctor"], env={"X_BEARER_TOKEN": token})
        assert isinstance(result.exception, ZeroDivisionError)


def test_the_documented_options() -> None:
    """docs/cli.md lists the options that exist."""
    section = DOCS.read_text(encoding="utf-8").partition("## twusage doctor\n")[2].partition("\n## ")[0]
    documented = set(re.findall(r"^\| `(--[a-z-]+)", section, re.MULTILINE))
    assert documented == {parameter.opts[0] for parameter in doctor.params if isinstance(parameter, click.Option)}


def test_the_documented_codes() -> None:
    """docs/cli.md lists the codes that exist: scripts compare them."""
    from twusage import token_file
    from twusage.diagnostics import check, credentials, explain

    text = DOCS.read_text(encoding="utf-8").partition("## twusage doctor\n")[2].partition("\n## ")[0]
    documented = set(re.findall(r"`([a-z]+\.[a-z0-9-]+)`", text))
    modules = (check, credentials, explain, token_file)
    source = "".join(map(inspect.getsource, modules))
    known = set(re.findall(r'"([a-z]+\.[a-z0-9-]+)"', source))
    for ending in re.findall(r'f"\{kind\}\.([a-z-]+)"', source):
        known |= {f"token.{ending}", f"key.{ending}"}
    for ending in re.findall(r'f"\{name\}\.([a-z-]+)"', source):
        known |= {f"token.{ending}", f"key.{ending}"}
    assert documented == known
