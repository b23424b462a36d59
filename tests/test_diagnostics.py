"""The check-up: what each trouble is called, what it says, what it costs, and that no credential is in it."""

import asyncio
import datetime as dt
import json
import re
from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twusage import (
    AppOnlyAuth,
    Checkup,
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
from twusage.diagnostics.explain import (
    Exchange,
    is_assignment,
    read_call,
    read_environment,
    read_secrets,
    read_token_text,
    unasked,
)
from twusage.models import RateLimit
from twusage.protocol import Request, Response
from twusage.testing import FakeApi, FakeTransport, Fault, VirtualClock

DECODED = "AAAAAAAAAAAAAAAAAAAAAMLheAAAAAAA0+uSeid/ULvsea4JtiGRiSDSJSI=EUifiRBkKG5E2XzMDjRfl76ZC9Ub0wnz4XsNiRVBChT"
TOKEN = DECODED.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
API_KEY, API_SECRET = "rG9n6402A3dbUJKzXTNX4oWHJ", "Zq7LwT2vXc8RkP4mNd6BhJ1sYf3GaUe9Ki5OoWtQlC0xVbMzEr"
# Those of the vendor's own examples.
CLIENT_ID, CLIENT_SECRET = "WTNrQS14bUhpMl83aU5adTd2NWM6MTpjaQ", "-RoKx3x4J8A8Sm9JIt2fmBjq3q5GX-bqZ3vjJxSeGsdmGtXEPx"
REFRESH_TOKEN = "bWRWa3gzdnRRcTJ5VUxWX1lZTDdJSUtmaWcxbTVxdEFXcW5tOjE2MjIxNDc3NDM5MTQ6MToxOnJ0OjE"
USER_TOKEN = "bWRWa3gzdnRRcTJ5VUxWX1lZTDdJSUtmaWcxbTVxdEFXcW5tOjE2MjIxNDc3NDM5MTQ6MToxOmF0OjE"
OAUTH1 = "1234567890-Ab9Cd8Ef7Gh6Ij5Kl4Mn3Op2Qr1St0Uv9Wx8Yz7"
NOON = dt.datetime(2026, 1, 15, 12, tzinfo=dt.UTC)


def codes(checkup: Checkup, level: str = "error") -> list[str]:
    return [finding.code for finding in checkup.findings if finding.level == level]


def the(checkup: Checkup, code: str) -> Finding:
    [finding] = [finding for finding in checkup.findings if finding.code == code]
    return finding


def told(value: object) -> str:
    """All that a program or a person gets to read."""
    if isinstance(value, Checkup):
        return json.dumps(value.to_dict()) + repr((value, value.usage, value.error))
    return json.dumps(value.to_dict()) + repr(value) if isinstance(value, Finding) else repr(value)


def leaks(secret: str, *texts: str) -> list[str]:
    """The stretches of eight letters of a secret that stand in a text; its beginning is every token's."""
    return [
        part
        for at in range(8, len(secret) - 7)
        if "AAAA" not in (part := secret[at : at + 8]) and part in "".join(texts)
    ]


class TestForm:
    @pytest.mark.parametrize(
        ("text", "code"),
        [
            ("", "token.empty"),
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
        ],
    )
    def test_what_is_certain(self, text: str, code: str) -> None:
        """What no token can be is an error with a code of its own, in the environment as in a file."""
        found = [read_token_text(text, "the file")]
        if text:
            found += read_environment({"X_BEARER_TOKEN": text})
            assert found[-1] is not None
            assert found[-1].said.startswith("X_BEARER_TOKEN ")
        for each in found:
            assert each is not None
            assert (each.code, each.level) == (code, "error")
            assert each.what_to_do
            assert TOKEN[10:30] not in told(each)

    def test_nothing_but_white_space(self) -> None:
        """It looks empty, and is not: the shell takes it for set."""
        [found] = read_environment({"X_BEARER_TOKEN": " \n", "BEARER_TOKEN": TOKEN})
        assert (found.code, found.said) == ("token.empty", "X_BEARER_TOKEN holds only white space")

    @pytest.mark.parametrize(
        ("text", "code", "said"),
        [
            (f"X_BEARER_TOKEN={TOKEN}", "token.assignment", "stdin holds an assignment or JSON"),
            (f"export X_BEARER_TOKEN='{TOKEN}'", "token.assignment", "stdin holds an assignment or JSON"),
            (f'TOKEN = "{TOKEN}"\nOTHER=1', "token.assignment", "stdin holds an assignment or JSON"),
            (f'{{"token":"{TOKEN}"}}', "token.assignment", "stdin holds an assignment or JSON"),
            (f'[\n  "{TOKEN}"\n]', "token.assignment", "stdin holds an assignment or JSON"),
            (f"{TOKEN} {TOKEN}", "token.space", "stdin holds several words"),
            (f"{TOKEN}\n{TOKEN}", "token.line-break", "stdin holds several lines"),
        ],
    )
    def test_more_than_the_token(self, text: str, code: str, said: str) -> None:
        """What is good in other files is told as what it is in one that must hold the token alone."""
        what_to_do = "It must hold the token and nothing else, in one piece"
        assert read_token_text(text, "stdin") == Finding(code, "error", said, what_to_do)

    @pytest.mark.parametrize(
        "text",
        [TOKEN, "bearerish-token", "bearer-token", "AAAA" + "b" * 90 + "=c", "b" * 90 + "==", DECODED, "{token}"],
    )
    def test_nothing_is_certain(self, text: str) -> None:
        """A token that could be one is left to the API."""
        assert read_token_text(text, "the file") is None
        assert not is_assignment(text)

    @pytest.mark.parametrize(
        ("token", "code"),
        [
            (DECODED, "token.percent-decoded"),
            ("AAAA" + "b" * 90 + "=", "token.percent-decoded"),
            (TOKEN.replace("%", "%25"), "token.encoded-twice"),
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
        ],
    )
    def test_what_a_token_is_suspected_of(self, token: str, code: str) -> None:
        """What is something else of the portal's, or was spoilt, is a warning until the API has spoken."""
        found = read_secrets(Secret(token))
        assert found is not None
        assert (found.code, found.level) == (code, "warning")
        assert found.what_to_do
        assert leaks(token, told(found)) == []

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
        """The portal has four pairs that look alike; an API key and its secret are one of them."""
        found = read_secrets(Secret(key), Secret(secret))
        assert found is not None
        assert (found.code, found.level) == (code, level)
        assert not any(part in told(found) for part in (key[:12], secret[:12]))

    def test_good_ones(self) -> None:
        """Nothing is suspected of what looks as it should."""
        assert read_secrets(Secret(TOKEN)) is None
        assert read_secrets(Secret(API_KEY), Secret(API_SECRET)) is None

    @given(st.text(), st.text())
    def test_nothing_of_it_is_shown(self, before: str, after: str) -> None:
        """Whatever stands around a token, and wherever it was put, nothing of it is told and nothing is raised."""
        text = before + TOKEN[24:] + after
        environ = {"X_API_KEY": text, "X_API_SECRET": text, "TWUSAGE_BASE_URL": text}
        found = (
            read_token_text(text, "the file"),
            *read_environment({"X_BEARER_TOKEN": text}),
            *read_environment(environ),
        )
        assert leaks(TOKEN, *map(told, found)) == []


class TestEnvironment:
    @pytest.mark.parametrize(
        ("environ", "code", "said"),
        [
            ({}, "credentials.missing", "no credentials in the environment"),
            ({"BEARER_TOKEN": ""}, "credentials.missing", "no credentials in the environment (BEARER_TOKEN is empty)"),
            ({"X_API_KEY": "a"}, "credentials.half", "X_API_KEY is set, but X_API_SECRET is not"),
            ({"X_API_SECRET": "a"}, "credentials.half", "X_API_SECRET is set, but X_API_KEY is not"),
            ({"TWITTER_API_KEY": "a"}, "credentials.half", "TWITTER_API_KEY is set, but TWITTER_API_SECRET is not"),
            ({"X_API_KEY": "a", "X_API_SECRET": "b "}, "key.space", "X_API_SECRET holds a space"),
            ({"X_API_KEY": "'a'", "X_API_SECRET": "b"}, "key.quoted", "X_API_KEY has a quotation mark around it"),
            ({"X_API_KEY": "a", "X_API_SECRET": 'b"'}, "key.quoted", "X_API_SECRET has a quotation mark around it"),
            ({"TWUSAGE_BASE_URL": "http://x", "X_BEARER_TOKEN": "a"}, "address.malformed", None),
        ],
    )
    def test_errors(
        self, environ: dict[str, str], code: str, said: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What no call would mend names the variables and says what to set; a client refuses it as well."""
        [found] = [finding for finding in read_environment(environ) if finding.level == "error"]
        assert found.code == code
        assert said in {found.said, None}
        assert found.what_to_do
        for name in (*chain(TOKEN_VARIABLES, *KEY_VARIABLES), "TWUSAGE_BASE_URL"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ConfigurationError):
            UsageClient.from_env()

    @pytest.mark.parametrize(
        ("environ", "said"),
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
    def test_where_they_are(self, environ: dict[str, str], said: str) -> None:
        """It tells which variables count, and which do not though they are set, so that nobody mends the wrong one."""
        assert read_environment(environ) == (Finding("credentials.found", "ok", said),)


def exchange(
    response: Response | None = None, *, seconds: float = 0.2, ahead: float = 0.0, method: str = "GET"
) -> Exchange:
    return Exchange(method, response, seconds, NOON.timestamp() + ahead)


TLS = "the server could not prove who it is ({}). Where it is rightly trusted, give AiohttpTransport an ssl context"
DATED = {"date": "Thu, 15 Jan 2026 12:00:00 GMT"}


def call(outcome: Usage | TwUsageError, **known: Any) -> Checkup:
    return read_call(outcome, **{"exchange": exchange(), **known})


class TestWay:
    """What stands between this machine and the API."""

    @pytest.mark.parametrize(
        ("error", "code", "said"),
        [
            (
                ConnectError("no connection to api.twitter.com:443 (Name or service not known)"),
                "network.name",
                "resolved",
            ),
            (ConnectError("no connection to api.twitter.com:443 (getaddrinfo failed)"), "network.name", "resolved"),
            (ConnectError("no connection to api.twitter.com:443 (Connect call failed)"), "network.refused", "refuses"),
            (ConnectError("no connection within 15 s"), "network.no-answer", "within 15 s"),
            (ConnectError("no connection to proxy.test:3128 (refused)"), "proxy.unreachable", "proxy.test:3128"),
            (ConnectError("the proxy refused to connect (407)"), "proxy.login", "a password"),
            (ConnectError("the proxy refused to connect (403)"), "proxy.refused", "403"),
            (ConnectError("the proxy hung up instead of connecting"), "proxy.refused", "hung up"),
            (RequestTimeoutError("no whole answer within 30 s"), "network.timeout", "within 30 s"),
            (ProtocolError("the answer is not HTTP (SSH-2.0)"), "network.broken", "SSH-2.0"),
            (TransportError("a pigeon died"), "network.failed", "a pigeon died"),
            (TlsError(TLS.format("certificate has expired")), "tls.expired", "has expired"),
            (TlsError(TLS.format("certificate is not yet valid")), "tls.not-yet-valid", "not yet valid"),
            (
                TlsError(TLS.format("Hostname mismatch, certificate is not valid for 'a'")),
                "tls.wrong-host",
                "another host",
            ),
            (TlsError(TLS.format("WRONG_VERSION_NUMBER")), "tls.broken", "WRONG_VERSION_NUMBER"),
            (TlsError(TLS.format("self-signed certificate")), "tls.untrusted", "trusted: self-signed certificate"),
            (TlsError("no"), "tls.untrusted", "not trusted: no"),
        ],
    )
    def test_what_is_in_the_way(self, error: TwUsageError, code: str, said: str) -> None:
        """Each has its code, its sentence and its remedy; the credentials are not blamed."""
        checkup = call(error)
        assert codes(checkup) == [code]
        assert said in the(checkup, code).said
        assert the(checkup, code).what_to_do
        assert codes(checkup, "ok") == ["token.plausible"]
        assert (checkup.ok, checkup.error, checkup.usage) == (False, error, None)

    def test_a_certificate_and_the_clock(self) -> None:
        """A certificate that is out of its time may mean a clock that is; its day is told, where it is known."""
        error = TlsError(TLS.format("certificate is not yet valid"))
        assert "clock, which shows 2026-01-15;" in the(call(error), "tls.not-yet-valid").what_to_do
        assert "clock;" in the(call(error, exchange=None), "tls.not-yet-valid").what_to_do

    def test_a_file_of_certificates(self) -> None:
        """It is named, and looked at first where it is already set."""
        error = TlsError(TLS.format("self-signed certificate"))
        assert "SSL_CERT_FILE is set" not in the(call(error), "tls.untrusted").what_to_do
        found = the(call(error, environ={"SSL_CERT_FILE": "/secret"}), "tls.untrusted")
        assert "SSL_CERT_FILE is set" in found.what_to_do
        assert "/secret" not in told(found)

    @pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
    def test_a_proxy_of_the_environment(self, name: str) -> None:
        """It is told where no answer came, because twusage does not use it; what it holds is not shown."""
        environ = {name: "http://me:hunter2@proxy.test:3128"}
        checkup = call(ConnectError("no connection within 15 s"), environ=environ)
        assert codes(checkup, "warning") == ["proxy.not-used"]
        assert the(checkup, "proxy.not-used").said.startswith(f"{name} names a proxy")
        assert "--proxy URL" in the(checkup, "proxy.not-used").what_to_do
        assert "hunter2" not in told(checkup)
        assert codes(call(Usage(), exchange=exchange(Response(200)), environ=environ), "warning") == []
        answered = call(ProtocolError("cut"), exchange=exchange(Response(200)), environ=environ)
        assert codes(answered, "warning") == []

    @pytest.mark.parametrize(
        ("base_url", "reached", "code"),
        [
            ("http://127.0.0.1:8080", "127.0.0.1:3128", "proxy.unreachable"),
            ("http://127.0.0.1:8080", "127.0.0.1:8080", "network.refused"),
            ("http://localhost", "localhost:80", "network.refused"),
            ("http://[::1]:8080", "::1:8080", "network.refused"),
            ("https://api.test", "api.test:443", "network.refused"),
        ],
    )
    def test_who_was_reached(self, base_url: str, reached: str, code: str) -> None:
        """Whoever does not take the connection is the proxy, where it is not where the API is asked."""
        error = ConnectError(f"no connection to {reached} (Connect call failed)")
        assert codes(call(error, base_url=base_url)) == [code]

    def test_another_address(self) -> None:
        """An address that is not the default is told, and suspected where what answers is not the API."""
        elsewhere = "https://api.test:8443/hidden"
        checkup = call(Usage(), base_url=elsewhere)
        assert codes(checkup, "warning") == []
        assert the(checkup, "address.changed").said == (
            "the API is asked at https://api.test:8443 below a path, not at https://api.twitter.com"
        )
        checkup = call(ConnectError("no connection within 15 s"), base_url="https://api.test")
        assert codes(checkup, "warning") == ["address.changed"]
        assert "TWUSAGE_BASE_URL" in the(checkup, "address.changed").what_to_do
        assert "hidden" not in told(checkup)

    def test_promptness(self) -> None:
        """How long the answer took is told, as far as it matters."""
        assert the(call(Usage()), "network.answered").said == "api.twitter.com answered in 0.2 s"
        assert "less than 0.1 s" in the(call(Usage(), exchange=exchange(seconds=0.04)), "network.answered").said


class TestReads:
    @pytest.mark.parametrize(
        ("used", "cap", "code", "level", "said"),
        [
            (899, 1000, "cap.left", "ok", "899 of 1,000 posts read (89.9%)"),
            (900, 1000, "cap.nearly-used-up", "warning", "900 of 1,000 posts read (90.0%)"),
            (99_999, 100_000, "cap.nearly-used-up", "warning", "99,999 of 100,000 posts read (99.9%)"),
            (1000, 1000, "cap.used-up", "error", "1,000 of 1,000 posts read (100.0%)"),
            (90_000, 1000, "cap.used-up", "error", "90,000 of 1,000 posts read (9,000.0%)"),
            (0, 0, "cap.used-up", "error", "0 of 0 posts read"),
            (None, 1000, "cap.unknown", "ok", "the API does not say how much of it is used"),
            (1000, None, "cap.unknown", "ok", "the API does not say how much of it is used"),
        ],
    )
    def test_the_cap(self, used: int | None, cap: int | None, code: str, level: str, said: str) -> None:
        """Near the cap it warns; a cap that is used up is wrong even where the call itself succeeds."""
        checkup = call(Usage(project_usage=used, project_cap=cap))
        found = the(checkup, code)
        assert (found.level, found.said) == (level, said)
        assert checkup.ok is (level != "error")
        assert isinstance(checkup.error, UsageCapExceededError) is (level == "error")

    @pytest.mark.parametrize(("day", "said"), [(28, "day 28 of each month"), (31, "day 31 of each month, or its last")])
    def test_the_day(self, day: int, said: str) -> None:
        """When the cap resets."""
        assert call(Usage(cap_reset_day=day)).findings[-1].said.endswith(f", resets on {said}")

    @pytest.mark.parametrize(
        ("remaining", "limit", "code"), [(6, 50, "window.open"), (5, 50, "window.low"), (0, 1, "window.low")]
    )
    def test_the_window(self, remaining: int, limit: int, code: str) -> None:
        """The last tenth of the window's calls is a warning."""
        found = the(call(Usage(rate_limit=RateLimit(limit, remaining, NOON))), code)
        assert found.said == f"{remaining} of {limit} calls left until 12:00:00 UTC"


class TestClock:
    @pytest.mark.parametrize(
        ("ahead", "code", "said"),
        [
            (0.0, "clock.right", "within 1 s of the server's"),
            (-60.0, "clock.right", "within 60 s of the server's"),
            (60.5, "clock.fast", "this machine's clock is 61 s ahead of the server's"),
            (-600.0, "clock.slow", "this machine's clock is 10 min 0 s behind the server's"),
            (7260.0, "clock.fast", "this machine's clock is 2 h 1 min ahead of the server's"),
            (-4e6, "clock.slow", "this machine's clock is 46 days 7 h behind the server's"),
        ],
    )
    @pytest.mark.parametrize("outcome", [Usage(), ForbiddenError("no", status=403)])
    def test_beside_the_servers(self, outcome: Usage | TwUsageError, ahead: float, code: str, said: str) -> None:
        """The date of a good answer and of a bad one tell by how much, and which way."""
        found = the(call(outcome, exchange=exchange(Response(200, DATED), ahead=ahead)), code)
        assert found.said == said
        assert found.level == ("ok" if code == "clock.right" else "warning")
        assert ("waits are right all the same" in found.what_to_do) is (found.level == "warning")

    @pytest.mark.parametrize("seen", [None, exchange(), exchange(Response(200))])
    def test_no_date(self, seen: Exchange | None) -> None:
        """Without a date nothing is said of the clock."""
        assert not [found for found in call(Usage(), exchange=seen).findings if found.subject == "clock"]


class TestValues:
    def test_to_dict(self) -> None:
        """Plain JSON types under stable names."""
        finding = Finding("token.quoted", "error", "it is quoted", "do not")
        checkup = unasked(finding)
        assert json.loads(json.dumps(checkup.to_dict())) == {
            "ok": False,
            "error": "ConfigurationError",
            "findings": [
                {"code": "token.quoted", "level": "error", "said": "it is quoted", "what_to_do": "do not"},
            ],
            "usage": None,
        }
        assert finding.subject == "token"
        good = call(Usage(project_cap=5))
        assert good.to_dict()["usage"] == Usage(project_cap=5).to_dict()
        assert (good.ok, good.error, good.to_dict()["error"]) == (True, None, None)

    def test_a_printed_one(self) -> None:
        """It is about the findings: a usage of 90 days, or an error with a body, would bury them."""
        assert repr(unasked(Finding("a.b", "error", "c"))) == (
            "Checkup(findings=(Finding(code='a.b', level='error', said='c', what_to_do=''),), usage=None, "
            "error=<ConfigurationError>)"
        )
        assert repr(call(Usage())).endswith(", usage=<Usage>, error=None)")

    def test_only_the_known_limits(self) -> None:
        """A limit that does not say when it ends is told without a time."""
        error = RateLimitedError("spent", status=429)
        assert the(call(error), "window.spent").said.endswith("(the API said 429)")
        error = RateLimitedError("spent", status=429, retry_at=NOON)
        assert the(call(error), "window.spent").said.endswith("it opens at 12:00:00 UTC")


class Vault:
    """An Auth that gives these, one after the other, and then the last for ever."""

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
        """One call: all that is right, the usage, and the window is the client's to know."""
        async with client_of() as client:
            checkup = await client.check()
            assert checkup.ok
            assert codes(checkup, "ok") == [
                *("token.accepted", "network.answered", "window.open", "cap.left", "clock.right"),
            ]
            assert len(checkup.findings) == 5
            assert checkup.usage is not None
            assert client.rate_limit == checkup.usage.rate_limit
        assert the(checkup, "network.answered").said == "api.twitter.com answered in 0.2 s"
        assert the(checkup, "window.open").said.startswith("49 of 50 calls left until ")
        assert len(api.requests) == 1

    async def test_a_key_and_its_secret(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """An exchange and one call; a second check-up uses the token that is kept."""
        auth = AppOnlyAuth(api.apps[0].api_key, api.apps[0].api_secret)
        async with client_of(auth) as client:
            for _ in range(2):
                assert codes(await client.check(), "ok")[0] == "key.accepted"
        assert [request.method for request in api.requests] == ["POST", "GET", "GET"]

    @pytest.mark.parametrize(
        ("fault", "code", "said"),
        [
            (Fault.status(401), "token.refused", "401 Unauthorized"),
            (Fault.status(403), "api.forbidden", "403 Forbidden"),
            (Fault.status(400), "api.refused", "400 Bad Request"),
            (Fault.status(404), "api.not-there", "404 Not Found"),
            (Fault.status(407), "proxy.login", "407"),
            (Fault.status(503), "api.trouble", "503"),
            (Fault.status(503, "<html>"), "api.trouble", "503"),
            (Fault.status(302, b""), "network.redirect", "not followed"),
            (Fault.status(200, {"errors": [{"title": "Odd"}]}), "api.refused", "Odd"),
            (Fault.status(200, {"data": {"project_cap": "many"}}), "api.unreadable", "$.data.project_cap"),
            (Fault.html(), "network.page", "a web page"),
            (Fault.html(403), "network.page", "a web page"),
            (Fault.status(401, b"Sign in", headers={"content-type": "text/html"}), "network.page", "a web page"),
            (Fault.garbled(), "api.unreadable", "not JSON"),
            (Fault.empty(), "network.broken", "empty"),
            (Fault.usage_capped(), "cap.used-up", "Monthly product cap"),
            (Fault.credits_depleted(), "credits.depleted", "does not have any credits"),
            (Fault.spend_cap_reached("2026-04-14"), "spending.limit-reached", "until 2026-04-14"),
            (Fault.spend_cap_reached("some day"), "spending.limit-reached", "limit of the account is reached: 403"),
            (Fault.rate_limited(), "window.spent", "in 15 min 1 s"),
            (Fault.status(429, headers={"x-rate-limit-remaining": "7"}), "api.other-limit", "another limit"),
            (Fault.timeout(), "network.timeout", "in time"),
            (Fault.connect_error(), "network.refused", "no connection"),
            (Fault.disconnected(), "network.broken", "before the answer began"),
            (Fault.reset(), "network.broken", "cut short"),
        ],
    )
    async def test_each_trouble(
        self, fault: Fault, code: str, said: str, api: FakeApi, client_of: Callable[..., UsageClient]
    ) -> None:
        """Each is told by its own code, raises nothing, is not tried again, waits for nothing, and leaks nothing."""
        api.fail(fault)
        began = api.clock.monotonic()
        async with client_of() as client:
            checkup = await client.check()
            assert codes(checkup) == [code]
            assert said in the(checkup, code).said
            assert the(checkup, code).what_to_do
            assert checkup.error is not None
            assert len(api.requests) <= 1
            assert api.clock.monotonic() - began <= 30.0
        assert leaks(api.apps[0].token, told(checkup)) == []
        api.assert_all_used()

    async def test_a_users_token(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """Refused by the API in its own words, whatever the token looks like."""
        for token in (USER_TOKEN, TOKEN):
            api.user_tokens = {token}
            async with client_of(token) as client:
                checkup = await client.check()
            assert codes(checkup) == ["token.user-context"]
            assert isinstance(checkup.error, ForbiddenError)
            assert leaks(token, told(checkup)) == []

    async def test_an_app_outside_a_project(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """The token is good, and is said to be."""
        async with client_of(api.add_app(attached=False).token) as client:
            checkup = await client.check()
        assert codes(checkup) == ["app.no-project"]
        assert codes(checkup, "ok") == ["token.accepted", "network.answered", "window.open", "clock.right"]

    async def test_a_suspicion_that_is_confirmed(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """The refusal alone would not tell why; it is said as one thing, for certain."""
        async with client_of(DECODED) as client:
            checkup = await client.check()
        assert codes(checkup) == ["token.percent-decoded"]
        assert checkup.findings[0].said.startswith("the API refuses the bearer token: 401 Unauthorized. Why: ")
        assert "%2F" in checkup.findings[0].what_to_do
        assert leaks(DECODED, told(checkup)) == []

    async def test_a_suspicion_that_is_refuted(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """What the API accepts is no longer suspected."""
        api.apps[0].tokens.append("my-token")
        async with client_of("my-token") as client:
            checkup = await client.check()
        assert (codes(checkup), codes(checkup, "warning")) == ([], [])

    async def test_a_suspicion_that_stands(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """Where nothing came of the call, the suspicion is a warning, before what is wrong."""
        api.fail(Fault.timeout())
        async with client_of(DECODED) as client:
            checkup = await client.check()
        assert [finding.code for finding in checkup.findings] == ["token.percent-decoded", "network.timeout"]
        assert codes(checkup, "warning") == ["token.percent-decoded"]

    async def test_what_is_certain_costs_nothing(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """A token that can be none is not sent."""
        async with client_of(f"bearer%20{TOKEN}") as client:
            checkup = await client.check()
        assert [finding.code for finding in checkup.findings] == ["token.bearer-prefix"]
        assert isinstance(checkup.error, ConfigurationError)
        assert api.requests == []

    @pytest.mark.parametrize(
        ("pair", "code"),
        [((API_KEY, API_SECRET), "key.refused"), ((CLIENT_ID, CLIENT_SECRET), "key.oauth2-client")],
    )
    async def test_a_pair_that_is_refused(
        self, pair: tuple[str, str], code: str, api: FakeApi, client_of: Callable[..., UsageClient]
    ) -> None:
        """It is refused at the exchange, and no call is spent."""
        async with client_of(AppOnlyAuth(*pair)) as client:
            checkup = await client.check()
        assert codes(checkup) == [code]
        assert "403 Unable to verify your credentials" in the(checkup, code).said
        assert codes(checkup, "ok") == ["network.answered", "clock.right"]
        assert [request.method for request in api.requests] == ["POST"]
        assert leaks(pair[0], told(checkup)) + leaks(pair[1], told(checkup)) == []

    @pytest.mark.parametrize(
        ("fault", "code"),
        [
            (Fault.status(429), "key.too-many-exchanges"),
            (Fault.status(401), "key.refused"),
            (Fault.status(503), "api.trouble"),
            (Fault.html(), "network.page"),
            (Fault.connect_error(), "network.refused"),
        ],
    )
    async def test_an_exchange_that_fails(
        self, fault: Fault, code: str, api: FakeApi, client_of: Callable[..., UsageClient]
    ) -> None:
        """Trouble at the exchange is told as such, and no call follows."""
        api.fail(fault)
        async with client_of(AppOnlyAuth(api.apps[0].api_key, api.apps[0].api_secret)) as client:
            checkup = await client.check()
        assert codes(checkup) == [code]
        assert all(request.method == "POST" for request in api.requests)

    async def test_a_token_that_was_renewed(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """A kept token that has become invalid is exchanged anew, but no second call is spent to try the new one."""
        auth = AppOnlyAuth(api.apps[0].api_key, api.apps[0].api_secret)
        async with client_of(auth) as client:
            await client.get_usage()
            api.apps[0].tokens[:] = [TOKEN]
            checkup = await client.check()
            assert (checkup.ok, codes(checkup, "warning")) == (True, ["token.renewed"])
            assert [request.method for request in api.requests] == ["POST", "GET", "GET", "POST"]
            assert (await client.check()).usage is not None

    async def test_a_token_that_is_given_again(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """A token that is refused, and that the exchange gives all the same, is no fault of the pair's."""
        api.fail(Fault.status(401), when=lambda request: request.method == "GET")
        async with client_of(AppOnlyAuth(api.apps[0].api_key, api.apps[0].api_secret)) as client:
            checkup = await client.check()
        assert codes(checkup) == ["token.refused"]
        assert [request.method for request in api.requests] == ["POST", "GET", "POST"]

    async def test_our_own_limiter(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """Where a call would have to wait for the window, nothing is sent, and it is told until when."""
        api.fail(Fault.rate_limited())
        async with client_of() as client:
            await client.check()
            checkup = await client.check()
        assert codes(checkup) == ["window.spent"]
        assert re.search(
            r"\(nothing was sent\): it opens at \d\d:\d\d:\d\d UTC, in 15 min 1 s$", the(checkup, "window.spent").said
        )
        assert len(api.requests) == 1

    async def test_it_takes_a_place(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """A check-up counts in the window that the client shares, like any call."""
        limiter = LocalRateLimiter(clock=api.clock, reserve=49)
        async with client_of(limiter=limiter) as client:
            assert (await client.check()).ok
            assert codes(await client.check()) == ["window.spent"]
        assert len(api.requests) == 1

    async def test_an_auth_of_the_users(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """One that gives no token, or raises anything, is told of. Of what is not ours the type alone is told."""
        for gives, kind, said in (
            ("two words", ConfigurationError, "the token holds a space"),
            (ConnectError("no vault"), ConnectError, "no vault"),
            (FileNotFoundError(2, "secret"), ConfigurationError, "it raised FileNotFoundError"),
            (ClientClosedError("no vault"), ClientClosedError, "no vault"),
            (TimeoutError("secret"), ConfigurationError, "it raised TimeoutError"),
        ):
            async with client_of(Vault(gives)) as client:
                checkup = await client.check()
            assert [finding.code for finding in checkup.findings] == ["token.unavailable"]
            assert checkup.findings[0].said.startswith(f"the Auth gives no bearer token: {said}")
            assert type(checkup.error) is kind
            assert checkup.error.__context__ is None
            assert "secret" not in told(checkup)
        assert api.requests == []

    @pytest.mark.parametrize("asked", [1, 2, 3])
    @pytest.mark.parametrize("error", [ConnectError("no vault"), ConfigurationError("no"), ZeroDivisionError("secret")])
    async def test_an_auth_that_fails_later(
        self, asked: int, error: Exception, api: FakeApi, client_of: Callable[..., UsageClient]
    ) -> None:
        """It is asked for the form, for the call, and once more after a 401: whichever fails, it is blamed."""
        async with client_of(Vault(*[TOKEN] * (asked - 1), error)) as client:
            checkup = await client.check()
        assert codes(checkup) == ["token.unavailable"]
        assert type(checkup.error) is (type(error) if isinstance(error, TwUsageError) else ConfigurationError)
        assert len(api.requests) == (asked == 3)
        assert "secret" not in told(checkup)

    async def test_an_auth_that_is_cancelled(self, client_of: Callable[..., UsageClient]) -> None:
        """A cancellation is no finding, whoever is asked just then."""
        for gives in ([asyncio.CancelledError()], [TOKEN, asyncio.CancelledError()]):
            async with client_of(Vault(*gives)) as client:
                with pytest.raises(asyncio.CancelledError):
                    await client.check()

    async def test_what_the_server_says_is_escaped_and_cut(
        self, api: FakeApi, client_of: Callable[..., UsageClient]
    ) -> None:
        """A server may say anything, and as much as it likes: findings are read on terminals and in logs."""
        problem = {"title": "\x1b[2J" + "x" * 10**5, "detail": "\u202e" + "y" * 10**5}
        api.fail(Fault.status(200, {"data": {}, "errors": [problem] * 100}))
        api.fail(Fault.status(400, problem))
        async with client_of() as client:
            for checkup in (await client.check(), await client.check()):
                texts = [finding.said for finding in checkup.findings]
                assert len(texts) < 20
                assert max(map(len, texts)) < 700
                assert all(map(str.isprintable, texts))

    async def test_problems_beside_good_data(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """They are warnings, in the API's words."""
        api.fail(Fault.status(200, {"data": {}, "errors": [{"title": "Partial", "detail": "One app is missing."}]}))
        async with client_of() as client:
            checkup = await client.check()
        assert codes(checkup, "warning") == ["api.problem"]
        assert the(checkup, "api.problem").said == "the API reports a problem: Partial: One app is missing"

    async def test_a_skewed_server(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """The whole way of a date."""
        api.date_skew = -7200
        async with client_of() as client:
            assert codes(await client.check(), "warning") == ["clock.fast"]

    async def test_the_environment_counts_for_our_own_transport(
        self, api: FakeApi, client_of: Callable[..., UsageClient], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A transport of the user's may well have a proxy; ours surely has none."""
        monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test")
        api.fail(Fault.connect_error(), times=2)
        async with client_of() as client:
            assert codes(await client.check(), "warning") == []
        monkeypatch.setattr("twusage.aiohttp_transport.AiohttpTransport", lambda: FakeTransport(api))
        async with client_of(transport=None) as client:
            assert codes(await client.check(), "warning") == ["proxy.not-used"]

    async def test_what_is_raised(self, api: FakeApi, client_of: Callable[..., UsageClient]) -> None:
        """A closed client and a cancelled call are no findings."""
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
        """A ConfigurationError out of the transport is raised, as everywhere: it is about the program. So is a bug."""

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

        with pytest.raises(ConfigurationError, match="bound to the event loop"):
            await asyncio.to_thread(asyncio.run, elsewhere())
