"""The check: the finding for each problem, its message and its cost, without any credential."""

import asyncio
import datetime as dt
import io
import json
import re
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twusage import (
    AppOnlyAuth,
    CheckReport,
    ClientClosedError,
    ConfigurationError,
    ConnectError,
    Finding,
    ForbiddenError,
    LocalRateLimiter,
    ProtocolError,
    RateLimitedError,
    RequestTimeoutError,
    TlsError,
    TransportError,
    TwUsageError,
    Usage,
    UsageCapExceededError,
    UsageClient,
)
from twusage.auth import KEY_VARIABLES, TOKEN_VARIABLES, Secret
from twusage.diagnostics.credentials import check_environment, check_secrets
from twusage.diagnostics.explain import Attempt, explain_call
from twusage.diagnostics.page import is_from_edge
from twusage.diagnostics.report import report_without_call
from twusage.errors import ApiError, ConnectReason, CreditsDepletedError, DecodeError
from twusage.models import Problem, RateLimit
from twusage.protocol import Request, Response
from twusage.testing import FakeApi, FakeTransport, Fault, VirtualClock
from twusage.token_file import MAX_TOKEN_FILE, Flaw, credential_flaw, read_token_file

DECODED = "AAAAAAAAAAAAAAAAAAAAAMLheAAAAAAA0+uSeid/ULvsea4JtiGRiSDSJSI=EUifiRBkKG5E2XzMDjRfl76ZC9Ub0wnz4XsNiRVBChT"
TOKEN = DECODED.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
API_KEY, API_SECRET = "rG9n6402A3dbUJKzXTNX4oWHJ", "Zq7LwT2vXc8RkP4mNd6BhJ1sYf3GaUe9Ki5OoWtQlC0xVbMzEr"
# Those of the vendor's own examples.
CLIENT_ID, CLIENT_SECRET = "WTNrQS14bUhpMl83aU5adTd2NWM6MTpjaQ", "-RoKx3x4J8A8Sm9JIt2fmBjq3q5GX-bqZ3vjJxSeGsdmGtXEPx"
REFRESH_TOKEN = "bWRWa3gzdnRRcTJ5VUxWX1lZTDdJSUtmaWcxbTVxdEFXcW5tOjE2MjIxNDc3NDM5MTQ6MToxOnJ0OjE"
USER_TOKEN = "bWRWa3gzdnRRcTJ5VUxWX1lZTDdJSUtmaWcxbTVxdEFXcW5tOjE2MjIxNDc3NDM5MTQ6MToxOmF0OjE"
OAUTH1 = "1234567890-Ab9Cd8Ef7Gh6Ij5Kl4Mn3Op2Qr1St0Uv9Wx8Yz7"
NOON = dt.datetime(2026, 1, 15, 12, tzinfo=dt.UTC)


def read(content: str | bytes, place: str = "the file") -> str | Flaw:
    """What comes of a token file of this content."""
    raw = content.encode() if isinstance(content, str) else content
    return read_token_file(partial(io.BytesIO, raw), place)


def codes(report: CheckReport, level: str = "error") -> list[str]:
    return [finding.code for finding in report.findings if finding.level == level]


def the(report: CheckReport, code: str) -> Finding:
    [finding] = [finding for finding in report.findings if finding.code == code]
    return finding


def shown(value: object) -> str:
    """All that a program or a person gets to read."""
    if isinstance(value, CheckReport):
        return json.dumps(value.to_dict()) + repr((value, value.usage, value.error))
    return json.dumps(value.to_dict()) + repr(value) if isinstance(value, Finding) else repr(value)


def leaks(secret: str, *texts: str) -> list[str]:
    """The runs of eight letters of a secret that a text contains. The start of a token does not count."""
    return [
        part
        for at in range(8, len(secret) - 7)
        if "AAAA" not in (part := secret[at : at + 8]) and part in "".join(texts)
    ]


class TestForm:
    @pytest.mark.parametrize(
        ("text", "code"),
        [
            (" \n", "token.empty"),
            (f'"{TOKEN}"', "token.quoted"),
            (f"'{TOKEN}", "token.quoted"),
            (f"\u201c{TOKEN}\u201d", "token.quoted"),
            (f"Bearer {TOKEN}", "token.bearer-prefix"),
            (f"bearer%20{TOKEN}", "token.bearer-prefix"),
            (f"Authorization: Bearer {TOKEN}", "token.bearer-prefix"),
            (f"{TOKEN}\n", "token.line-break"),
            (f"{TOKEN[:20]}\r\n{TOKEN[20:]}", "token.line-break"),
            (f"{TOKEN} ", "token.space"),
            (f"{TOKEN}\u00e9", "token.not-ascii"),
            (f"{TOKEN}\0", "token.not-ascii"),
            (TOKEN.replace("%", "\\%"), "token.backslash"),
            (TOKEN.replace("%", "%%"), "token.percent-doubled"),
            (f"{TOKEN}%", "token.percent-broken"),
            (f"{TOKEN}%3", "token.percent-broken"),
            (TOKEN.replace("%3D", "%Z"), "token.percent-broken"),
            ("%X_BEARER_TOKEN%", "token.percent-broken"),
        ],
    )
    def test_what_is_certain(self, text: str, code: str) -> None:
        """A string that cannot be a token is an error with its own code, in the environment as in a file."""
        [found] = check_environment({"X_BEARER_TOKEN": text})
        assert (found.code, found.level) == (code, "error")
        assert found.message.startswith("X_BEARER_TOKEN ")
        flaw = credential_flaw(text, "the bearer token", "token")
        assert flaw is not None
        assert (flaw.code, flaw.advice) == (code, found.advice)
        assert found.advice
        assert TOKEN[10:30] not in shown(found)

    def test_nothing_but_white_space(self) -> None:
        """It looks empty, and is not: the shell takes it for set."""
        [found] = check_environment({"X_BEARER_TOKEN": " \n", "BEARER_TOKEN": TOKEN})
        assert (found.code, found.message) == ("token.empty", "X_BEARER_TOKEN is only white space")

    @pytest.mark.parametrize(
        ("text", "code", "message"),
        [
            (f"X_BEARER_TOKEN={TOKEN}", "token.assignment", "stdin contains an assignment or JSON"),
            (f"export X_BEARER_TOKEN='{TOKEN}'", "token.assignment", "stdin contains an assignment or JSON"),
            (f'TOKEN = "{TOKEN}"\nOTHER=1', "token.assignment", "stdin contains an assignment or JSON"),
            (f'{{"token":"{TOKEN}"}}', "token.assignment", "stdin contains an assignment or JSON"),
            (f'[\n  "{TOKEN}"\n]', "token.assignment", "stdin contains an assignment or JSON"),
            (f"{TOKEN} {TOKEN}", "token.space", "stdin contains several words"),
            (f"{TOKEN}\n{TOKEN}", "token.line-break", "stdin contains several lines"),
        ],
    )
    def test_more_than_the_token(self, text: str, code: str, message: str) -> None:
        """A token among other file content is reported like one that is alone, with advice."""
        advice = "The file must contain the token and nothing else, in UTF-8"
        assert read(text, "stdin") == Flaw(code, message, advice)

    @pytest.mark.parametrize(
        "text",
        [TOKEN, "bearerish-token", "bearer-token", "AAAA" + "b" * 90 + "=c", "b" * 90 + "==", DECODED, "{token}"],
    )
    def test_nothing_is_certain(self, text: str) -> None:
        """A token that could be one is left to the API."""
        assert read(text) == text

    @pytest.mark.parametrize(
        ("token", "code"),
        [
            (DECODED, "token.percent-decoded"),
            ("AAAA" + "b" * 90 + "=", "token.percent-decoded"),
            (TOKEN.replace("%", "%25"), "token.encoded-twice"),
            (TOKEN.partition("%")[0], "token.cut-off"),
            (re.sub("%2[BF]|%3D", "", TOKEN), "token.cut-off"),
            ("AAAA...%3D", "token.placeholder"),
            ("$X_BEARER_TOKEN", "token.placeholder"),
            ("<token>", "token.placeholder"),
            ("XXXXX", "token.placeholder"),
            (API_KEY, "token.api-key"),
            (API_SECRET, "token.api-key"),
            (CLIENT_ID, "token.oauth2-client"),
            (CLIENT_SECRET, "token.oauth2-client"),
            (USER_TOKEN, "token.user-context"),
            (REFRESH_TOKEN, "token.user-context"),
            (OAUTH1, "token.oauth1"),
            ("my-token", "token.unfamiliar"),
            (TOKEN + ";", "token.unfamiliar"),
            (TOKEN + ",", "token.unfamiliar"),
        ],
    )
    def test_what_a_token_is_suspected_of(self, token: str, code: str) -> None:
        """Another credential of the portal, or a damaged one, is a warning until the API has rejected it."""
        found = check_secrets(Secret(token))
        assert found is not None
        assert (found.code, found.level) == (code, "warning")
        assert found.advice
        assert leaks(token, shown(found)) == []

    @pytest.mark.parametrize(
        ("key", "secret", "code", "level"),
        [
            (CLIENT_ID, CLIENT_SECRET, "key.oauth2-client", "warning"),
            (CLIENT_ID, API_SECRET, "key.oauth2-client", "warning"),
            (API_KEY, CLIENT_SECRET, "key.oauth2-client", "warning"),
            (OAUTH1, API_SECRET, "key.oauth1", "warning"),
            (API_SECRET, API_KEY, "key.swapped", "warning"),
            (TOKEN, API_SECRET, "key.bearer-token", "warning"),
            (API_KEY, TOKEN, "key.bearer-token", "warning"),
            (f"Bearer:{API_KEY}", API_SECRET, "key.bearer-prefix", "error"),
            (API_KEY, f"bearer%20{API_SECRET}", "key.bearer-prefix", "error"),
        ],
    )
    def test_what_a_pair_is_suspected_of(self, key: str, secret: str, code: str, level: str) -> None:
        """The portal has four pairs that look alike. An API key and its secret are one of them."""
        found = check_secrets(Secret(key), Secret(secret))
        assert found is not None
        assert (found.code, found.level) == (code, level)
        assert not any(part in shown(found) for part in (key[:12], secret[:12]))

    def test_good_ones(self) -> None:
        """Nothing is suspected of what looks as it should."""
        assert check_secrets(Secret(TOKEN)) is None
        assert check_secrets(Secret(API_KEY), Secret(API_SECRET)) is None

    @given(st.text(), st.text())
    def test_nothing_of_it_is_shown(self, before: str, after: str) -> None:
        """Whatever surrounds a token, no part of it is shown and nothing is raised."""
        text = before + TOKEN[24:] + after
        environ = {"X_API_KEY": text, "X_API_SECRET": text, "TWUSAGE_BASE_URL": text}
        found = (
            *check_environment({"X_BEARER_TOKEN": text}),
            *check_environment(environ),
        )
        in_file = read(text.encode("utf-8", "surrogatepass"))
        assert leaks(TOKEN, *map(shown, found), *([repr(in_file)] if isinstance(in_file, Flaw) else [])) == []


class TestTokenFile:
    @pytest.mark.parametrize("content", [f" {TOKEN}\r\n".encode(), b"\xef\xbb\xbf" + TOKEN.encode()])
    def test_its_text(self, content: bytes) -> None:
        """White space around the token, and a byte order mark, do not matter."""
        assert read(content) == TOKEN

    @pytest.mark.parametrize(
        ("content", "code", "message"),
        [
            (TOKEN.encode("utf-16"), "token.utf-16", "the file is UTF-16 text"),
            (TOKEN.encode("utf-16-le"), "token.utf-16", "the file is UTF-16 text"),
            (TOKEN.encode("utf-16-be"), "token.utf-16", "the file is UTF-16 text"),
            (b"\xff", "token.file", "the file is not UTF-8 text"),
            (b"", "token.file", "the file is empty"),
            (b" \n", "token.file", "the file is empty"),
            (b"A" * (MAX_TOKEN_FILE + 1), "token.file", "the file is larger than any token"),
        ],
    )
    def test_what_is_unreadable(self, content: bytes, code: str, message: str) -> None:
        """Each cause has its own message. The > of Windows PowerShell is named."""
        found = read(content)
        assert isinstance(found, Flaw)
        assert (found.code, found.message) == (code, message)
        assert ("PowerShell" in found.advice) is (code == "token.utf-16")
        assert leaks(TOKEN, repr(found)) == []

    @pytest.mark.parametrize("variable", ["X_BEARER_TOKEN_FILE", "TWITTER_BEARER_TOKEN_FILE"])
    def test_the_file_that_a_variable_names(self, tmp_path: Path, variable: str) -> None:
        """It is read by the rules of --token-file. The path is not shown: it may be the token by mistake."""
        file = tmp_path / "secret"
        file.write_text(f"{TOKEN}\n")
        [found] = check_environment({variable: str(file), "BEARER_TOKEN": "b"})
        assert (found.code, found.level) == ("credentials.found", "ok")
        assert found.message == f"the bearer token is in the file that {variable} names; BEARER_TOKEN is not used"
        file.write_bytes(TOKEN.encode("utf-16"))
        [found] = check_environment({variable: str(file)})
        assert (found.code, found.message) == ("token.utf-16", f"the file that {variable} names is UTF-16 text")
        [found] = check_environment({variable: TOKEN})
        assert found.code == "token.file"
        assert found.message.endswith("cannot be read: No such file or directory")
        assert leaks(TOKEN, shown(found)) == []


class Gateway:
    """A transport to a gateway that responds instead of the API."""

    def __init__(self, status: int, document: object) -> None:
        self.response = Response(status, {}, json.dumps(document).encode())

    async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109 - see Transport
        return self.response

    async def aclose(self) -> None: ...


class TestPage:
    """A page or plain text is not the API's, whatever its status."""

    @pytest.mark.parametrize(
        "body", ["<!DOCTYPE html><html></html>", "\n  <html>", "error code: 1015", "Access denied"]
    )
    async def test_every_status(self, body: str) -> None:
        """The credentials, the cap and the window are not blamed."""
        for status in [200, 400, 401, 402, 403, 404, 418, 429, 500, 502, 503, 520]:
            api = FakeApi(clock=VirtualClock())
            api.fail(Fault.status(status, body))
            async with UsageClient(DECODED, transport=FakeTransport(api), clock=api.clock) as client:
                report = await client.check()
            assert codes(report) == ["network.page"]
            assert f"(status {status})" in the(report, "network.page").message
            assert {finding.subject for finding in report.findings} <= {"token", "network", "clock"}
            assert report.error is not None
            assert is_from_edge(report.error)

    @pytest.mark.parametrize("status", [401, 402, 403, 429, 503])
    @pytest.mark.parametrize(
        "problem", [{"message": "No upstream"}, {"type": "https://cdn.test/1", "title": "No upstream"}]
    )
    async def test_json_of_another_service(self, status: int, problem: dict[str, str]) -> None:
        """JSON of a gateway or a CDN blames neither the credentials nor the window; its words are shown."""
        async with UsageClient(DECODED, transport=Gateway(status, problem)) as client:
            report = await client.check()
        assert codes(report) == ["network.page"]
        found = the(report, "network.page")
        assert found.message.startswith(f"JSON of another service came instead of the API's response (status {status})")
        assert found.message.endswith("(its message: No upstream)")
        assert "TWUSAGE_BASE_URL" in found.advice

    def test_the_windows_own_headers(self) -> None:
        """A 429 whose headers report an exhausted window is the API's."""
        error = RateLimitedError("", status=429, from_edge=True, rate_limit=RateLimit(50, 0, NOON))
        assert codes(call(error)) == ["window.spent"]

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (ApiError("", status=403), False),
            (ApiError("", status=403, from_edge=True), True),
            (CreditsDepletedError("", status=402, from_edge=True), True),
            (RateLimitedError("", status=429, from_edge=True), False),
            (RateLimitedError("", status=429, from_edge=True, window_exhausted=False), True),
            (DecodeError("", from_edge=True), True),
            (DecodeError(""), False),
            (ZeroDivisionError(), False),
        ],
    )
    def test_what_is_one(self, error: Exception, expected: bool) -> None:
        """Edge errors of the protocol, unless their headers report an exhausted window."""
        assert is_from_edge(error) is expected

    def test_a_proxys_login(self) -> None:
        """It comes as a page, but has a status of its own."""
        assert codes(call(ApiError("", status=407, from_edge=True))) == ["proxy.login"]


class TestClientForbidden:
    """A 403 about the app, with the API's own details."""

    DETAIL = "When authenticating requests, you must use keys from an App that is attached to a Project."

    @pytest.mark.parametrize(
        ("reason", "detail", "code"),
        [
            ("user-not-enrolled", DETAIL, "app.not-enrolled"),
            ("User-Not-Enrolled", DETAIL, "app.not-enrolled"),
            ("client-not-enrolled", "Enrollment is required.", "app.not-enrolled"),
            ("client-not-enrolled", None, "app.not-enrolled"),
            ("client-not-enrolled", DETAIL, "app.no-project"),
            ("suspended", "Client Forbidden", "app.no-project"),
            (None, DETAIL, "app.no-project"),
            (7, DETAIL, "app.no-project"),
        ],
    )
    def test_the_reason(self, reason: object, detail: str | None, code: str) -> None:
        """A missing enrollment has its own code. The token is good; the causes are possibilities."""
        for host in ["api.x.com", "api.twitter.com"]:
            extra = {
                "reason": reason,
                "required_enrollment": "Appropriate Level of API Access",
                "registration_url": "https://developer.test/register",
            }
            problem = Problem("Client Forbidden", f"https://{host}/2/problems/client-forbidden", detail, extra=extra)
            window = RateLimit(40_000, 39_999, NOON)
            report = call(ForbiddenError("", status=403, problem=problem, rate_limit=window))
            assert codes(report) == [code]
            found = the(report, code)
            for text in (detail, reason, "Appropriate Level of API Access", "https://developer.test/register"):
                assert not isinstance(text, str) or text.rstrip(".") in found.message
            assert found.advice.startswith("Possible causes: ")
            assert "attached to a project" in found.advice
            assert codes(report, "ok") == ["token.accepted", "network.answered"]

    def test_without_a_type(self) -> None:
        """The reason alone is enough; without details there are no empty brackets."""
        problem = Problem(extra={"reason": "user-not-enrolled"})
        report = call(ForbiddenError("", status=403, problem=problem))
        assert the(report, "app.not-enrolled").message.endswith(
            "403 without an explanation (reason: user-not-enrolled)"
        )
        problem = Problem(type="https://api.x.com/2/problems/client-forbidden")
        assert the(call(ForbiddenError("", status=403, problem=problem)), "app.no-project").message.endswith("tion")

    def test_the_reply_is_escaped_and_cut(self) -> None:
        """The server may send anything."""
        extra = dict.fromkeys(("reason", "required_enrollment", "registration_url"), "\x1b[2J" + "x" * 10**5)
        problem = Problem(type="client-forbidden", extra=extra)
        message = call(ForbiddenError("", status=403, problem=problem)).findings[1].message
        assert message.isprintable()
        assert len(message) < 900


class TestEnvironment:
    @pytest.mark.parametrize(
        ("environ", "code", "message"),
        [
            ({}, "credentials.missing", "no credentials in the environment"),
            ({"BEARER_TOKEN": ""}, "credentials.missing", "no credentials in the environment (BEARER_TOKEN is empty)"),
            ({"X_API_KEY": "a"}, "credentials.half", "X_API_KEY is set, but X_API_SECRET is not"),
            ({"X_API_SECRET": "a"}, "credentials.half", "X_API_SECRET is set, but X_API_KEY is not"),
            ({"TWITTER_API_KEY": "a"}, "credentials.half", "TWITTER_API_KEY is set, but TWITTER_API_SECRET is not"),
            ({"X_API_KEY": "a", "X_API_SECRET": "b "}, "key.space", "X_API_SECRET contains a space"),
            ({"X_API_KEY": "'a'", "X_API_SECRET": "b"}, "key.quoted", "X_API_KEY has a quotation mark around it"),
            ({"X_API_KEY": "a", "X_API_SECRET": 'b"'}, "key.quoted", "X_API_SECRET has a quotation mark around it"),
            ({"TWUSAGE_BASE_URL": "http://x", "X_BEARER_TOKEN": "a"}, "address.malformed", None),
        ],
    )
    def test_errors(
        self, environ: dict[str, str], code: str, message: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An error that no call could repair names the variables to set. A client refuses it as well."""
        [found] = [finding for finding in check_environment(environ) if finding.level == "error"]
        assert found.code == code
        assert message in {found.message, None}
        assert found.advice
        for name in (*chain(TOKEN_VARIABLES, *KEY_VARIABLES), "TWUSAGE_BASE_URL"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ConfigurationError):
            UsageClient.from_env()

    @pytest.mark.parametrize(
        ("environ", "message"),
        [
            ({"BEARER_TOKEN": "a"}, "the bearer token is in BEARER_TOKEN"),
            (
                {"X_BEARER_TOKEN": "a", "BEARER_TOKEN": "b"},
                "the bearer token is in X_BEARER_TOKEN; BEARER_TOKEN is not used",
            ),
            (
                {"TWITTER_API_KEY": "a", "TWITTER_API_SECRET": "b"},
                "the API key and secret are in TWITTER_API_KEY and TWITTER_API_SECRET",
            ),
            (
                {"X_BEARER_TOKEN": "a", "TWITTER_BEARER_TOKEN": "b", "BEARER_TOKEN": "c"},
                "the bearer token is in X_BEARER_TOKEN; TWITTER_BEARER_TOKEN and BEARER_TOKEN are not used",
            ),
            (
                {"TWITTER_BEARER_TOKEN": "a", "BEARER_TOKEN": "", "X_API_KEY": "b", "X_API_SECRET": "c"},
                "the bearer token is in TWITTER_BEARER_TOKEN; X_API_KEY and X_API_SECRET are not used",
            ),
            (
                {"X_BEARER_TOKEN": "a", "BEARER_TOKEN": "b", "X_API_KEY": "c", "TWITTER_API_SECRET": "d"},
                "the bearer token is in X_BEARER_TOKEN; BEARER_TOKEN, X_API_KEY and TWITTER_API_SECRET are not used",
            ),
            (
                {"X_API_KEY": "a", "X_API_SECRET": "b", "TWITTER_API_KEY": "c"},
                "the API key and secret are in X_API_KEY and X_API_SECRET; TWITTER_API_KEY is not used",
            ),
        ],
    )
    def test_found_variables(self, environ: dict[str, str], message: str) -> None:
        """It names the variables that count, and those that are set but do not. So the right one is changed."""
        assert check_environment(environ) == (Finding("credentials.found", "ok", message),)


def attempt(
    response: Response | None = None, *, seconds: float = 0.2, ahead: float = 0.0, method: str = "GET"
) -> Attempt:
    return Attempt(method, response, seconds, NOON.timestamp() + ahead)


DATED = {"date": "Thu, 15 Jan 2026 12:00:00 GMT"}


def call(outcome: Usage | TwUsageError, **known: Any) -> CheckReport:
    return explain_call(outcome, **{"attempt": attempt(), **known})


class TestWay:
    """What stands between this machine and the API."""

    @pytest.mark.parametrize(
        ("error", "code", "message"),
        [
            (ConnectError("no", reason="dns"), "network.name", "cannot be resolved: no"),
            (ConnectError("no", reason="refused"), "network.refused", "refuses the connection: no"),
            (ConnectError("no", reason="timeout"), "network.no-answer", "in time: no"),
            (ConnectError("no", reason="unreachable"), "network.unreachable", "no route to api.twitter.com: no"),
            (ConnectError("no {host}"), "network.failed", "no {host}"),
            (ConnectError("no", reason="proxy-unreachable"), "proxy.unreachable", "the proxy cannot be reached: no"),
            (ConnectError("no", reason="proxy-auth"), "proxy.login", "a password"),
            (ConnectError("the proxy refused", reason="proxy"), "proxy.refused", "the proxy refused"),
            (RequestTimeoutError("30 s"), "network.timeout", "did not respond in time: 30 s"),
            (ProtocolError("not HTTP"), "network.broken", "invalid response from api.twitter.com: not HTTP"),
            (TransportError("a pigeon died"), "network.failed", "a pigeon died"),
            (TlsError("no", reason="expired"), "tls.expired", "has expired"),
            (TlsError("no", reason="not-yet-valid"), "tls.not-yet-valid", "not yet valid"),
            (TlsError("no", reason="hostname"), "tls.wrong-host", "another host"),
            (TlsError("no", reason="handshake"), "tls.broken", "handshake with api.twitter.com failed: no"),
            (TlsError("no", reason="untrusted"), "tls.untrusted", "not trusted: no"),
            (TlsError("no", reason="no-ca-store"), "tls.no-ca-store", "this system has no CA certificates"),
            (TlsError("no"), "tls.untrusted", "not trusted: no"),
        ],
    )
    def test_what_is_in_the_way(self, error: TwUsageError, code: str, message: str) -> None:
        """Each has its code, its sentence and its remedy. The credentials are not blamed."""
        report = call(error)
        assert codes(report) == [code]
        assert message in the(report, code).message
        assert the(report, code).advice
        assert codes(report, "ok") == ["token.plausible"]
        assert (report.ok, report.error, report.usage) == (False, error, None)

    def test_a_certificate_and_the_clock(self) -> None:
        """An expired certificate may mean a wrong clock. The clock's day is shown, if it is known."""
        error = TlsError("no", reason="not-yet-valid")
        assert "clock, which shows 2026-01-15." in the(call(error), "tls.not-yet-valid").advice
        assert "clock. If" in the(call(error, attempt=None), "tls.not-yet-valid").advice

    def test_a_file_of_certificates(self) -> None:
        """It is named, and checked first if it is already set."""
        error = TlsError("no", reason="untrusted")
        assert "SSL_CERT_FILE is set" not in the(call(error), "tls.untrusted").advice
        found = the(call(error, environ={"SSL_CERT_FILE": "/secret"}), "tls.untrusted")
        assert "SSL_CERT_FILE is set" in found.advice
        assert "/secret" not in shown(found)

    @pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
    def test_a_proxy_of_the_environment(self, name: str) -> None:
        """It is reported, because twusage does not use it. As a warning if the network failed. Its value is secret."""
        environ = {name: "http://me:hunter2@proxy.test:3128"}
        report = call(ConnectError("no", reason="timeout"), environ=environ)
        assert codes(report, "warning") == ["proxy.not-used"]
        assert the(report, "proxy.not-used").message.startswith(f"{name} is set")
        assert "AiohttpTransport(proxy=" in the(report, "proxy.not-used").advice
        assert "hunter2" not in shown(report)
        good = call(Usage(), attempt=attempt(Response(200)), environ=environ)
        assert (the(good, "proxy.not-used").level, good.ok) == ("ok", True)
        assert codes(call(ForbiddenError("no", status=403, from_edge=True), environ=environ), "warning") != []

    @pytest.mark.parametrize(
        ("base_url", "host"), [("http://localhost", "localhost:80"), ("https://api.test", "api.test:443")]
    )
    def test_what_the_proxy_must_allow(self, base_url: str, host: str) -> None:
        """The host and the port that it must connect to."""
        report = call(ConnectError("no", reason="proxy"), base_url=base_url)
        assert host in the(report, "proxy.refused").advice

    def test_the_options_of_the_command_stay_out(self) -> None:
        """A program has no command line: advice names keywords and variables only."""
        for reason in get_args(ConnectReason):
            for error in (ConnectError("no", reason=reason), TlsError("no", reason=reason), RequestTimeoutError("no")):
                assert "--" not in shown(call(error, environ={"HTTPS_PROXY": "x"}))
        assert "--" not in shown(call(RateLimitedError("no", status=429)))

    def test_another_address(self) -> None:
        """An address that is not the default is reported, and suspected if the response is not the API's."""
        elsewhere = "https://api.test:8443/hidden"
        report = call(Usage(), base_url=elsewhere)
        assert codes(report, "warning") == []
        assert the(report, "address.changed").message == (
            "the API's address is https://api.test:8443 with a path, not https://api.twitter.com"
        )
        report = call(ConnectError("no connection within 15 s"), base_url="https://api.test")
        assert codes(report, "warning") == ["address.changed"]
        assert "TWUSAGE_BASE_URL" in the(report, "address.changed").advice
        assert "hidden" not in shown(report)

    def test_promptness(self) -> None:
        """The latency of the response is reported, rounded."""
        assert the(call(Usage()), "network.answered").message == "api.twitter.com responded in 0.2 s"
        assert "less than 0.1 s" in the(call(Usage(), attempt=attempt(seconds=0.04)), "network.answered").message


class TestReads:
    @pytest.mark.parametrize(
        ("used", "cap", "code", "level", "message"),
        [
            (899, 1000, "cap.left", "ok", "899 of 1,000 posts read (89.9%)"),
            (900, 1000, "cap.nearly-used-up", "warning", "900 of 1,000 posts read (90.0%)"),
            (99_999, 100_000, "cap.nearly-used-up", "warning", "99,999 of 100,000 posts read (99.9%)"),
            (1000, 1000, "cap.used-up", "error", "1,000 of 1,000 posts read (100.0%)"),
            (90_000, 1000, "cap.used-up", "error", "90,000 of 1,000 posts read (9,000.0%)"),
            (0, 0, "cap.used-up", "error", "0 of 0 posts read"),
            (None, 1000, "cap.unknown", "ok", "the API does not report how much of it is used"),
            (1000, None, "cap.unknown", "ok", "the API does not report how much of it is used"),
        ],
    )
    def test_the_cap(self, used: int | None, cap: int | None, code: str, level: str, message: str) -> None:
        """Near the cap it warns. A used-up cap is an error even if the call itself succeeds."""
        report = call(Usage(project_usage=used, project_cap=cap))
        found = the(report, code)
        assert (found.level, found.message) == (level, message)
        assert report.ok is (level != "error")
        assert isinstance(report.error, UsageCapExceededError) is (level == "error")

    @pytest.mark.parametrize(
        ("day", "message"), [(28, "day 28 of each month"), (31, "day 31 of each month, or its last")]
    )
    def test_the_day(self, day: int, message: str) -> None:
        """When the cap resets."""
        assert call(Usage(cap_reset_day=day)).findings[-1].message.endswith(f", resets on {message}")

    @pytest.mark.parametrize(
        ("remaining", "limit", "code"), [(6, 50, "window.open"), (5, 50, "window.low"), (0, 1, "window.low")]
    )
    def test_the_window(self, remaining: int, limit: int, code: str) -> None:
        """The last tenth of the window's calls is a warning."""
        found = the(call(Usage(rate_limit=RateLimit(limit, remaining, NOON))), code)
        assert found.message == f"{remaining} of {limit} calls left until 12:00:00 UTC"


class TestClock:
    @pytest.mark.parametrize(
        ("ahead", "code", "message"),
        [
            (0.0, "clock.right", "within 1 s of the server's"),
            (-60.0, "clock.right", "within 60 s of the server's"),
            (60.5, "clock.fast", "this machine's clock is 61 s ahead of the server's"),
            (-600.0, "clock.slow", "this machine's clock is 10 min 0 s behind the server's"),
            (7260.0, "clock.fast", "this machine's clock is 2 h 1 min ahead of the server's"),
            (-4e6, "clock.slow", "this machine's clock is 46 days 7 h behind the server's"),
        ],
    )
    def test_beside_the_servers(self, ahead: float, code: str, message: str) -> None:
        """The date of a good response and of a bad one show the difference, and its direction."""
        outcomes: list[Usage | TwUsageError] = [Usage(), ForbiddenError("no", status=403)]
        for outcome in outcomes:
            found = the(call(outcome, attempt=attempt(Response(200, DATED), ahead=ahead)), code)
            assert found.message == message
            assert found.level == ("ok" if code == "clock.right" else "warning")
            assert ("The waits of twusage are right" in found.advice) is (found.level == "warning")

    @pytest.mark.parametrize("seen", [None, attempt(), attempt(Response(200))])
    def test_no_date(self, seen: Attempt | None) -> None:
        """Without a date nothing is reported about the clock."""
        assert not [found for found in call(Usage(), attempt=seen).findings if found.subject == "clock"]


class TestValues:
    def test_to_dict(self) -> None:
        """Plain JSON types under stable names."""
        finding = Finding("token.quoted", "error", "it is quoted", "do not")
        report = report_without_call(finding)
        assert json.loads(json.dumps(report.to_dict())) == {
            "ok": False,
            "error": "ConfigurationError",
            "findings": [
                {"code": "token.quoted", "level": "error", "message": "it is quoted", "advice": "do not"},
            ],
            "usage": None,
        }
        assert finding.subject == "token"
        good = call(Usage(project_cap=5))
        assert good.to_dict()["usage"] == Usage(project_cap=5).to_dict()
        assert (good.ok, good.error, good.to_dict()["error"]) == (True, None, None)

    def test_a_printed_one(self) -> None:
        """It is about the findings. A usage of 90 days, or an error with a body, would hide them."""
        assert repr(report_without_call(Finding("a.b", "error", "c"))) == (
            "CheckReport(findings=(Finding(code='a.b', level='error', message='c', advice=''),), usage=None, "
            "error=<ConfigurationError>)"
        )
        assert repr(call(Usage())).endswith(", usage=<Usage>, error=None)")

    def test_only_the_known_limits(self) -> None:
        """A limit without a known end is reported without a time."""
        error = RateLimitedError("used up", status=429)
        assert the(call(error), "window.spent").message.endswith("(the API responded with 429)")
        error = RateLimitedError("used up", status=429, retry_at=NOON)
        assert the(call(error), "window.spent").message.endswith("it resets at 12:00:00 UTC")


class Vault:
    """An Auth that returns these, one after the other, and then the last."""

    def __init__(self, *gives: str | BaseException) -> None:
        self.gives = list(gives)

    async def token(self) -> str:
        given = self.gives.pop(0) if len(self.gives) > 1 else self.gives[0]
        if isinstance(given, BaseException):
            raise given
        return given


class TestCheck:
    """``await client.check()``: the whole way, over the fake."""

    @pytest.fixture
    def api(self) -> FakeApi:
        return FakeApi(clock=VirtualClock())

    @pytest.fixture
    def client_of(self, api: FakeApi) -> Callable[..., UsageClient]:
        def client(auth: Any = None, **keywords: Any) -> UsageClient:
            keywords.setdefault("transport", FakeTransport(api, latency=0.2))
            return UsageClient(auth or api.apps[0].token, clock=api.clock, **keywords)

        return client

    async def test_all_is_well(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """One call: all findings are ok, and the usage and the window are the client's."""
        async with client_of() as client:
            report = await client.check()
            assert report.ok
            assert codes(report, "ok") == [
                *("token.accepted", "network.answered", "window.open", "cap.left", "clock.right"),
            ]
            assert len(report.findings) == 5
            assert report.usage is not None
            assert client.rate_limit == report.usage.rate_limit
        assert the(report, "network.answered").message == "api.twitter.com responded in 0.2 s"
        assert the(report, "window.open").message.startswith("49 of 50 calls left until ")
        assert len(api.requests) == 1

    async def test_a_key_and_its_secret(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """An exchange and one call. A second check-up uses the token that is kept."""
        auth = AppOnlyAuth(api.apps[0].api_key, api.apps[0].api_secret)
        async with client_of(auth) as client:
            for _ in range(2):
                assert codes(await client.check(), "ok")[0] == "key.accepted"
        assert [request.method for request in api.requests] == ["POST", "GET", "GET"]

    @pytest.mark.parametrize(
        ("fault", "code", "message"),
        [
            (Fault.status(401), "token.refused", "401 Unauthorized"),
            (Fault.status(403), "api.forbidden", "403 Forbidden"),
            (Fault.status(400), "api.refused", "400 Bad Request"),
            (Fault.status(404), "api.not-there", "404 Not Found"),
            (Fault.status(407), "proxy.login", "407"),
            (Fault.status(503), "api.trouble", "503"),
            (Fault.status(503, "<html>"), "network.page", "(status 503)"),
            (Fault.status(302, b""), "network.redirect", "not followed"),
            (Fault.status(200, {"errors": [{"title": "Odd"}]}), "api.refused", "Odd"),
            (Fault.status(200, {"data": {"project_cap": "many"}}), "api.unreadable", "$.data.project_cap"),
            (Fault.html(), "network.page", "a page or plain"),
            (Fault.html(403), "network.page", "a page or plain"),
            (
                Fault.status(401, b"Sign in", headers={"content-type": "text/html"}),
                "network.page",
                "a page or plain text",
            ),
            (Fault.garbled(), "api.unreadable", "not JSON"),
            (Fault.empty(), "network.broken", "empty"),
            (Fault.usage_capped(), "cap.used-up", "Monthly product cap"),
            (Fault.credits_depleted(), "credits.depleted", "does not have any credits"),
            (Fault.spend_cap_reached("2026-04-14"), "spending.limit-reached", "until 2026-04-14"),
            (Fault.spend_cap_reached("some day"), "spending.limit-reached", "spending limit is reached: 403"),
            (Fault.rate_limited(), "window.spent", "in 15 min 1 s"),
            (Fault.status(429, headers={"x-rate-limit-remaining": "7"}), "api.other-limit", "another limit"),
            (Fault.timeout(), "network.timeout", "in time"),
            (Fault.connect_error(), "network.refused", "no connection"),
            (Fault.disconnected(), "network.broken", "before the response began"),
            (Fault.reset(), "network.broken", "truncated"),
        ],
    )
    async def test_each_trouble(
        self, fault: Fault, code: str, message: str, api: FakeApi, client_of: Callable[..., UsageClient]
    ) -> None:
        """Each has its own code, raises nothing, is not retried, does not wait, and leaks nothing."""
        api.fail(fault)
        began = api.clock.monotonic()
        async with client_of() as client:
            report = await client.check()
            assert codes(report) == [code]
            assert message in the(report, code).message
            assert the(report, code).advice
            assert report.error is not None
            assert len(api.requests) <= 1
            assert api.clock.monotonic() - began <= 30.0
        assert leaks(api.apps[0].token, shown(report)) == []
        api.assert_all_used()

    async def test_a_users_token(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """Rejected by the API, whatever the token looks like."""
        for token in (USER_TOKEN, TOKEN):
            api.user_tokens = {token}
            async with client_of(token) as client:
                report = await client.check()
            assert codes(report) == ["token.user-context"]
            assert isinstance(report.error, ForbiddenError)
            assert leaks(token, shown(report)) == []

    async def test_an_app_outside_a_project(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """The token is good, and is reported as such."""
        async with client_of(api.add_app(attached=False).token) as client:
            report = await client.check()
        assert codes(report) == ["app.no-project"]
        assert codes(report, "ok") == ["token.accepted", "network.answered", "clock.right"]

    async def test_a_suspicion_that_is_confirmed(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """The rejection alone would not name the cause. It is one finding, without doubt."""
        async with client_of(DECODED) as client:
            report = await client.check()
        assert codes(report) == ["token.percent-decoded"]
        assert report.findings[0].message.startswith(
            "the API rejects the bearer token: 401 Unauthorized. Likely cause: "
        )
        assert "%2F" in report.findings[0].advice
        assert leaks(DECODED, shown(report)) == []

    async def test_a_suspicion_that_is_refuted(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """What the API accepts is no longer suspected."""
        api.apps[0].tokens.append("my-token")
        async with client_of("my-token") as client:
            report = await client.check()
        assert (codes(report), codes(report, "warning")) == ([], [])

    async def test_a_suspicion_that_stands(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """If the call had no result, the suspicion is a warning, before the error."""
        api.fail(Fault.timeout())
        async with client_of(DECODED) as client:
            report = await client.check()
        assert [finding.code for finding in report.findings] == ["token.percent-decoded", "network.timeout"]
        assert codes(report, "warning") == ["token.percent-decoded"]

    async def test_what_is_certain_costs_nothing(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """A token that can be none is not sent."""
        async with client_of(f"bearer%20{TOKEN}") as client:
            report = await client.check()
        assert [finding.code for finding in report.findings] == ["token.bearer-prefix"]
        assert isinstance(report.error, ConfigurationError)
        assert api.requests == []

    @pytest.mark.parametrize(
        ("pair", "code"),
        [((API_KEY, API_SECRET), "key.refused"), ((CLIENT_ID, CLIENT_SECRET), "key.oauth2-client")],
    )
    async def test_a_pair_that_is_refused(
        self, pair: tuple[str, str], code: str, api: FakeApi, client_of: Callable[..., UsageClient]
    ) -> None:
        """It is rejected at the exchange, and no call is made."""
        async with client_of(AppOnlyAuth(*pair)) as client:
            report = await client.check()
        assert codes(report) == [code]
        assert "403 Unable to verify your credentials" in the(report, code).message
        assert codes(report, "ok") == ["network.answered", "clock.right"]
        assert [request.method for request in api.requests] == ["POST"]
        assert leaks(pair[0], shown(report)) + leaks(pair[1], shown(report)) == []

    @pytest.mark.parametrize(
        ("fault", "code"),
        [
            (Fault.status(429), "api.other-limit"),
            (Fault.status(401), "key.refused"),
            (Fault.status(503), "api.trouble"),
            (Fault.html(), "network.page"),
            (Fault.connect_error(), "network.refused"),
        ],
    )
    async def test_an_exchange_that_fails(
        self, fault: Fault, code: str, api: FakeApi, client_of: Callable[..., UsageClient]
    ) -> None:
        """Trouble at the exchange is reported as such, and no call follows."""
        api.fail(fault)
        async with client_of(AppOnlyAuth(api.apps[0].api_key, api.apps[0].api_secret)) as client:
            report = await client.check()
        assert codes(report) == [code]
        assert all(request.method == "POST" for request in api.requests)

    async def test_a_token_that_was_renewed(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """A cached token that has become invalid is exchanged. No second call is made to try the new one."""
        auth = AppOnlyAuth(api.apps[0].api_key, api.apps[0].api_secret)
        async with client_of(auth) as client:
            await client.get_usage()
            api.apps[0].tokens[:] = [TOKEN]
            report = await client.check()
            assert (report.ok, codes(report, "warning")) == (True, ["token.renewed"])
            assert [request.method for request in api.requests] == ["POST", "GET", "GET", "POST"]
            assert (await client.check()).usage is not None

    async def test_a_token_that_is_given_again(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """A rejected token that the exchange returns again is not a fault of the pair."""
        api.fail(Fault.status(401), when=lambda request: request.method == "GET")
        async with client_of(AppOnlyAuth(api.apps[0].api_key, api.apps[0].api_secret)) as client:
            report = await client.check()
        assert codes(report) == ["token.refused"]
        assert [request.method for request in api.requests] == ["POST", "GET", "POST"]

    async def test_our_own_limiter(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """If a call would have to wait for the window, nothing is sent, and its end is reported."""
        api.fail(Fault.rate_limited())
        async with client_of() as client:
            await client.check()
            report = await client.check()
        assert codes(report) == ["window.spent"]
        assert re.search(
            r"\(nothing was sent\): it resets at \d\d:\d\d:\d\d UTC, in 15 min 1 s$",
            the(report, "window.spent").message,
        )
        assert len(api.requests) == 1

    async def test_it_takes_a_place(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """A check counts in the window that the client shares, like any call."""
        limiter = LocalRateLimiter(clock=api.clock, reserve=49)
        async with client_of(limiter=limiter) as client:
            assert (await client.check()).ok
            assert codes(await client.check()) == ["window.spent"]
        assert len(api.requests) == 1

    async def test_an_auth_of_the_users(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """An Auth that returns no token, or raises, is reported. Of foreign exceptions only the type is shown."""
        for gives, kind, message in (
            ("two words", ConfigurationError, "the token contains a space"),
            (ConnectError("no vault"), ConnectError, "no vault"),
            (FileNotFoundError(2, "secret"), ConfigurationError, "it raised FileNotFoundError"),
            (ClientClosedError("no vault"), ClientClosedError, "no vault"),
            (TimeoutError("secret"), ConfigurationError, "it raised TimeoutError"),
        ):
            async with client_of(Vault(gives)) as client:
                report = await client.check()
            assert [finding.code for finding in report.findings] == ["token.unavailable"]
            assert report.findings[0].message.startswith(f"the Auth returned no bearer token: {message}")
            assert type(report.error) is kind
            assert report.error.__context__ is None
            assert "secret" not in shown(report)
        assert api.requests == []

    @pytest.mark.parametrize("failing_call", [1, 2, 3])
    @pytest.mark.parametrize("error", [ConnectError("no vault"), ConfigurationError("no"), ZeroDivisionError("secret")])
    async def test_an_auth_that_fails_later(
        self, failing_call: int, error: Exception, api: FakeApi, client_of: Callable[..., UsageClient]
    ) -> None:
        """It is called for the form, for the call, and once more after a 401. Whichever fails, it is blamed."""
        async with client_of(Vault(*[TOKEN] * (failing_call - 1), error)) as client:
            report = await client.check()
        assert codes(report) == ["token.unavailable"]
        assert type(report.error) is (type(error) if isinstance(error, TwUsageError) else ConfigurationError)
        assert len(api.requests) == (failing_call == 3)
        assert "secret" not in shown(report)

    async def test_an_auth_that_is_cancelled(self, client_of: Callable[..., UsageClient]) -> None:
        """A cancellation is not a finding, at any point."""
        for gives in ([asyncio.CancelledError()], [TOKEN, asyncio.CancelledError()]):
            async with client_of(Vault(*gives)) as client:
                with pytest.raises(asyncio.CancelledError):
                    await client.check()

    async def test_the_servers_text_is_escaped_and_cut(
        self, api: FakeApi, client_of: Callable[..., UsageClient]
    ) -> None:
        """A server may say anything, and as much as it likes. Findings are read on terminals and in logs."""
        problem = {"title": "\x1b[2J" + "x" * 10**4, "detail": "\u202e" + "y" * 10**4}
        api.fail(Fault.status(200, {"data": {}, "errors": [problem] * 50}))
        api.fail(Fault.status(400, problem))
        async with client_of() as client:
            for report in (await client.check(), await client.check()):
                texts = [finding.message for finding in report.findings]
                assert len(texts) < 20
                assert max(map(len, texts)) < 700
                assert all(map(str.isprintable, texts))

    async def test_problems_beside_good_data(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """They are warnings, in the API's words."""
        api.fail(Fault.status(200, {"data": {}, "errors": [{"title": "Partial", "detail": "One app is missing."}]}))
        async with client_of() as client:
            report = await client.check()
        assert codes(report, "warning") == ["api.problem"]
        assert the(report, "api.problem").message == "the API reports a problem: Partial: One app is missing"

    async def test_a_skewed_server(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """The whole way of a date."""
        api.date_skew = -7200
        async with client_of() as client:
            assert codes(await client.check(), "warning") == ["clock.fast"]

    async def test_the_environment_counts_for_our_own_transport(
        self, api: FakeApi, client_of: Callable[..., UsageClient], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A transport of the user's may well have a proxy. Ours surely has none."""
        monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test")
        api.fail(Fault.connect_error(), times=2)
        async with client_of() as client:
            assert codes(await client.check(), "warning") == []
        monkeypatch.setattr("twusage.aiohttp_transport.AiohttpTransport", lambda: FakeTransport(api))
        async with client_of(transport=None) as client:
            assert codes(await client.check(), "warning") == ["proxy.not-used"]

    async def test_what_is_raised(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """A closed client and a cancelled call are not findings."""
        client = client_of()
        api.fail(Fault.slow(10), times=2)
        checking = asyncio.create_task(client.check())
        await asyncio.sleep(0)
        checking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await checking
        checking = asyncio.create_task(client.check())
        await asyncio.sleep(0)
        await client.aclose()
        for check in (lambda: checking, client.check):
            with pytest.raises(ClientClosedError):
                await check()

    @pytest.mark.parametrize("error", [ConfigurationError("another loop"), ZeroDivisionError("a bug")])
    @pytest.mark.parametrize("auth", [Vault(TOKEN), AppOnlyAuth(API_KEY, API_SECRET)])
    async def test_a_transport_that_is_set_up_wrongly(
        self, auth: Any, error: Exception, client_of: Callable[..., UsageClient]
    ) -> None:
        """A ConfigurationError out of the transport is raised, as everywhere. It is about the program. So is a bug."""

        class Wrong:
            async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109
                raise error

            async def aclose(self) -> None: ...

        async with client_of(auth, transport=Wrong()) as client:
            with pytest.raises(type(error)) as caught:
                await client.check()
        assert caught.value is error

    async def test_another_loop(self, client_of: Callable[..., UsageClient]) -> None:
        """So is a wrong loop."""
        client = client_of()
        await client.check()

        async def elsewhere() -> None:
            await client.check()

        with pytest.raises(ConfigurationError, match="bound to another event loop"):
            await asyncio.to_thread(asyncio.run, elsewhere())
