"""AiohttpTransport and its calls of aiohttp. The requests, and the translation of errors. No sockets.

What happens on a wire is in test_aiohttp_wire.py.
"""

import asyncio
import copy
import pickle
import ssl
import threading
import traceback
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import aiohttp
import pytest
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError
from aioresponses import aioresponses
from yarl import URL

from twusage.aiohttp_transport import AiohttpTransport
from twusage.errors import (
    ClientClosedError,
    ConfigurationError,
    ConnectError,
    ProtocolError,
    RequestTimeoutError,
    TlsError,
    TransportError,
)
from twusage.protocol import Request, Response

ADDRESS = "https://api.test/2/usage/tweets"


@pytest.fixture
def web() -> Iterator[aioresponses]:
    with aioresponses() as mocked:
        yield mocked


@pytest.fixture
async def transport() -> AsyncIterator[AiohttpTransport]:
    transport = AiohttpTransport()
    yield transport
    await transport.aclose()


def clear_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def call(web: aioresponses, method: str = "GET", address: str = ADDRESS) -> dict[str, Any]:
    """The arguments of the only request to aiohttp."""
    ((key, calls),) = web.requests.items()
    assert key == (method, URL(address))
    (only,) = calls
    keywords: dict[str, Any] = only.kwargs
    return keywords


class TestAsking:
    async def test_sends_what_it_is_given(
        self, web: aioresponses, transport: AiohttpTransport, canary_request: Request
    ) -> None:
        """The method, the address and the headers are the request's. Only the accepted encoding is the transport's."""
        web.get(ADDRESS, body=b"{}")
        await transport.send(canary_request, timeout=1)
        assert call(web)["headers"] == {**canary_request.headers, "accept-encoding": "gzip"}
        assert call(web)["data"] is None

    async def test_requests_gzip_whatever_the_request_has(self, web: aioresponses, transport: AiohttpTransport) -> None:
        """An encoding that the transport could not undo is never offered."""
        web.get(ADDRESS)
        await transport.send(Request("GET", ADDRESS, {"Accept-Encoding": "br"}), timeout=1)
        assert call(web)["headers"] == {"accept-encoding": "gzip"}

    async def test_sends_a_body(self, web: aioresponses, transport: AiohttpTransport) -> None:
        """A request's body is sent as it is."""
        web.post(ADDRESS)
        await transport.send(Request("POST", ADDRESS, body=b"grant_type=client_credentials"), timeout=1)
        assert call(web, "POST")["data"] == b"grant_type=client_credentials"

    async def test_switches_off_the_defaults_of_aiohttp(
        self, web: aioresponses, transport: AiohttpTransport, canary_request: Request
    ) -> None:
        """No redirects, no inflating, no raising for a status, no total timeout rounded up to whole seconds."""
        web.get(ADDRESS)
        await transport.send(canary_request, timeout=7)
        arguments = call(web)
        assert arguments["allow_redirects"] is False
        assert arguments["auto_decompress"] is False
        assert arguments["raise_for_status"] is False
        assert arguments["timeout"] == aiohttp.ClientTimeout(total=None, connect=3.5, sock_connect=3.5)
        assert len(arguments["middlewares"]) == 1
        assert "proxy" not in arguments

    async def test_verifies_certificates(
        self, web: aioresponses, transport: AiohttpTransport, canary_request: Request
    ) -> None:
        """Without a context of the caller's, aiohttp verifies with the system's certificates."""
        web.get(ADDRESS)
        await transport.send(canary_request, timeout=1)
        assert call(web)["ssl"] is True

    async def test_trusts_the_given_context(self, web: aioresponses, canary_request: Request) -> None:
        """A context with the caller's certificates is the one that is used."""
        context = ssl.create_default_context()
        transport = AiohttpTransport(ssl=context)
        web.get(ADDRESS)
        await transport.send(canary_request, timeout=1)
        assert call(web)["ssl"] is context
        await transport.aclose()

    @pytest.mark.parametrize("ssl", [False, True, 0, "no"])
    def test_verification_cannot_be_turned_off(self, ssl: Any) -> None:
        """A value that is not an SSLContext is refused. Verification cannot be switched off."""
        with pytest.raises(ConfigurationError, match="verification cannot be turned off"):
            AiohttpTransport(ssl=ssl)

    async def test_uses_the_given_proxy(self, web: aioresponses, canary_request: Request) -> None:
        """A proxy is used when, and only when, it is given."""
        transport = AiohttpTransport(proxy="http://proxy.test:3128")
        web.get(ADDRESS)
        await transport.send(canary_request, timeout=1)
        assert call(web)["proxy"] == "http://proxy.test:3128"
        await transport.aclose()

    @pytest.mark.parametrize(
        "proxy",
        [
            *("127.0.0.1:8080", 8080, "socks5://host:1080", "http://", "http://host:0", "http://[", b"http://host", ""),
            *(
                "http://my host:1",
                "http://host:1\n",
                "http://a..b",
                f"http://{'a' * 64}",
                "http://.",
                "http://256.1.1.1",
            ),
            *("http://a\\b", "http://a:1:2", "http:host:1", [], {"https": "http://host"}),
        ],
    )
    def test_a_proxy_that_is_no_url(self, proxy: Any) -> None:
        """A proxy that aiohttp could not use is refused on creation. It is not quoted: it may hold a password."""
        with pytest.raises(ConfigurationError, match=r"^proxy must be the URL of an HTTP proxy, such as http://"):
            AiohttpTransport(proxy=proxy)

    async def test_a_proxys_password_is_not_in_a_traceback(
        self, canary_request: Request, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No frame of twusage keeps the proxy in its locals, whether it is malformed or cannot be reached."""
        clear_proxies(monkeypatch)

        def password_in_ours(error: BaseException) -> bool:
            frames = traceback.TracebackException.from_exception(error, capture_locals=True).stack[1:]
            return "secret" in str([frame.locals for frame in frames])

        with pytest.raises(ConfigurationError) as caught:
            AiohttpTransport(proxy="socks5://me:secret@proxy.test")
        assert not password_in_ours(caught.value)
        for proxy in ("http://me:secret@127.0.0.1:1", "socks5://me:secret@proxy.test"):
            monkeypatch.setenv("https_proxy", proxy)
            transport = AiohttpTransport(trust_env=True)
            with (
                pytest.raises((ConnectError, ConfigurationError)) as failed,
                mock.patch.object(aiohttp.ClientSession, "_request", side_effect=OSError(5, proxy)),
            ):
                await transport.send(canary_request, timeout=1)
            assert not password_in_ours(failed.value)
            await transport.aclose()

    @pytest.mark.parametrize(
        ("environment", "proxy"),
        [
            ({"https_proxy": "http://me:secret@proxy.test:3128"}, "http://me:secret@proxy.test:3128"),
            ({"https_proxy": "proxy.test:3128"}, "http://proxy.test:3128"),
            ({"https_proxy": "http://proxy.test:3128\n"}, "http://proxy.test:3128"),
            ({"all_proxy": "http://proxy.test"}, "http://proxy.test"),
            ({"http_proxy": "http://proxy.test"}, None),
            ({"https_proxy": "http://proxy.test", "no_proxy": "api.test"}, None),
            ({}, None),
        ],
    )
    async def test_trust_env_uses_the_environments_proxies(
        self,
        web: aioresponses,
        canary_request: Request,
        monkeypatch: pytest.MonkeyPatch,
        environment: dict[str, str],
        proxy: str | None,
    ) -> None:
        """With trust_env=True the proxy of the environment is used, unless NO_PROXY excludes the host."""
        clear_proxies(monkeypatch)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        web.get(ADDRESS)
        transport = AiohttpTransport(trust_env=True)
        await transport.send(canary_request, timeout=1)
        assert call(web).get("proxy") == proxy
        await transport.aclose()

    async def test_a_given_proxy_takes_precedence(
        self, web: aioresponses, canary_request: Request, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """proxy= is used even if the environment names another one."""
        monkeypatch.setenv("https_proxy", "http://other.test")
        web.get(ADDRESS)
        transport = AiohttpTransport(proxy="http://proxy.test", trust_env=True)
        await transport.send(canary_request, timeout=1)
        assert call(web)["proxy"] == "http://proxy.test"
        await transport.aclose()

    @pytest.mark.parametrize("given", [False, True])
    async def test_an_environments_proxy_that_cannot_be_used(
        self, canary_request: Request, monkeypatch: pytest.MonkeyPatch, given: bool
    ) -> None:
        """A SOCKS proxy in the environment is a ConfigurationError that names the variable."""
        clear_proxies(monkeypatch)
        monkeypatch.setenv("https_proxy", "socks5://proxy.test:1080")
        async with aiohttp.ClientSession() as session:
            transport = AiohttpTransport(session if given else None, trust_env=True)
            with pytest.raises(ConfigurationError, match="HTTPS_PROXY must be the URL of an HTTP proxy"):
                await transport.send(canary_request, timeout=1)
            await transport.aclose()


class TestAnswers:
    @pytest.mark.parametrize("status", [200, 201, 302, 400, 401, 404, 429, 500, 503, 599])
    async def test_every_status_is_an_answer(
        self, web: aioresponses, transport: AiohttpTransport, canary_request: Request, status: int
    ) -> None:
        """No status is an error here: what it means is protocol's business."""
        web.get(ADDRESS, status=status, body=b'{"title": "x"}', headers={"location": "https://other.test/"})
        response = await transport.send(canary_request, timeout=1)
        assert (response.status, response.body) == (status, b'{"title": "x"}')

    async def test_brings_headers_in_lower_case(
        self, web: aioresponses, transport: AiohttpTransport, canary_request: Request
    ) -> None:
        """Names of headers are lower-cased, their values are as they came."""
        web.get(ADDRESS, headers={"X-Rate-Limit-Limit": "50", "Date": "Thu, 15 Jan 2026 12:00:00 GMT"})
        response = await transport.send(canary_request, timeout=1)
        assert dict(response.headers) == {
            "content-type": "application/json",
            "x-rate-limit-limit": "50",
            "date": "Thu, 15 Jan 2026 12:00:00 GMT",
        }


def refused(kind: type[TransportError], error: Exception) -> Any:
    return pytest.param(error, kind, id=type(error).__name__)


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            refused(ConnectError, aiohttp.ConnectionTimeoutError()),
            refused(ConnectError, OSError(101, "Network is unreachable")),
            refused(RequestTimeoutError, TimeoutError()),
            refused(RequestTimeoutError, aiohttp.SocketTimeoutError()),
            refused(ProtocolError, ConnectionResetError(104, "Connection reset by peer")),
            refused(ProtocolError, aiohttp.ClientConnectionResetError("Cannot write to closing transport")),
            refused(ProtocolError, aiohttp.ClientPayloadError("Response payload is not completed")),
        ],
    )
    async def test_what_may_pass_is_retryable(
        self,
        web: aioresponses,
        transport: AiohttpTransport,
        canary_request: Request,
        error: Exception,
        kind: type[TransportError],
    ) -> None:
        """Failures of the network have the class of their known cause, and may be retried."""
        web.get(ADDRESS, exception=error)
        with pytest.raises(kind) as caught:
            await transport.send(canary_request, timeout=1)
        assert type(caught.value) is kind
        assert caught.value.retryable
        assert not caught.value.retry_once

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            refused(TlsError, ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number")),
            refused(TlsError, aiohttp.ServerFingerprintMismatch(b"e", b"g", "api.test", 443)),
            refused(ProtocolError, aiohttp.InvalidURL("https://")),
            refused(ProtocolError, ValueError("Newline, carriage return, or null byte detected in headers")),
            refused(ProtocolError, aiohttp.ClientConnectionError("Connector is closed.")),
        ],
    )
    async def test_permanent_errors_are_not_retried(
        self,
        web: aioresponses,
        transport: AiohttpTransport,
        canary_request: Request,
        error: Exception,
        kind: type[TransportError],
    ) -> None:
        """An untrusted server, or a request that aiohttp cannot send, is not retried."""
        web.get(ADDRESS, exception=error)
        with pytest.raises(kind) as caught:
            await transport.send(canary_request, timeout=1)
        assert type(caught.value) is kind
        assert not caught.value.retryable

    async def test_a_parsers_own_error_is_translated(
        self, web: aioresponses, transport: AiohttpTransport, canary_request: Request, canary: str
    ) -> None:
        """The Python parser of aiohttp raises an error that is not a ClientError. It is caught, and not quoted."""
        web.get(ADDRESS, exception=HttpProcessingError(message=f"bad chunk\n{canary}\x07"))
        with pytest.raises(ProtocolError, match=r"^the response is not valid HTTP$") as caught:
            await transport.send(canary_request, timeout=1)
        assert caught.value.retry_once

    async def test_aiohttps_error_is_not_chained(
        self, web: aioresponses, transport: AiohttpTransport, canary_request: Request
    ) -> None:
        """Errors of aiohttp show the request's headers when printed. They are neither cause nor context."""
        web.get(ADDRESS, exception=aiohttp.ClientPayloadError("x"))
        with pytest.raises(ProtocolError) as caught:
            await transport.send(canary_request, timeout=1)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None

    async def test_a_foreign_error_passes(
        self, web: aioresponses, transport: AiohttpTransport, canary_request: Request
    ) -> None:
        """A bug, here or in aiohttp, is not reported as a failure of the network."""
        web.get(ADDRESS, exception=AttributeError("a bug"))
        with pytest.raises(AttributeError, match="a bug"):
            await transport.send(canary_request, timeout=1)


async def test_too_many_headers(web: aioresponses, transport: AiohttpTransport, canary_request: Request) -> None:
    """More than 128 headers are too many for aiohttp 3.14: the error names the cause."""
    error = aiohttp.ClientResponseError(mock.Mock(), ())
    error.__cause__ = BadHttpMessage("Too many headers received")
    web.get(ADDRESS, exception=error)
    with pytest.raises(ProtocolError, match=r"^the response is not valid HTTP: it has too many headers$"):
        await transport.send(canary_request, timeout=1)


class ProxyError(Exception):
    """As python_socks, under aiohttp-socks, raises it."""


class ProxyConnectionError(OSError):
    """So is this one."""


class ProxyTimeoutError(TimeoutError):
    """And this one."""


class TestForeignErrors:
    @pytest.mark.parametrize(
        "error",
        [
            ProxyError("bad login: secret"),
            ProxyConnectionError(111, "Could not connect to proxy secret"),
            ProxyTimeoutError("Proxy connection timed out: secret"),
            LookupError("secret"),
            RuntimeError("secret"),
            ExceptionGroup("secret", [OSError("secret")]),
            type("LoopError", (RuntimeError,), {})("secret"),
        ],
        ids=lambda error: type(error).__name__,
    )
    async def test_of_a_callers_session(self, web: aioresponses, canary_request: Request, error: Exception) -> None:
        """What a caller's connector raises is a ConnectError. Its text may hold a login and is not quoted."""
        web.get(ADDRESS, exception=error)
        async with aiohttp.ClientSession() as session:
            with pytest.raises(ConnectError, match=type(error).__name__) as caught:
                await AiohttpTransport(session).send(canary_request, timeout=1)
        assert "secret" not in str(caught.value)
        assert caught.value.__cause__ is caught.value.__context__ is None
        frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
        assert frames == ["test_of_a_callers_session", "send"]

    async def test_of_the_system(self, web: aioresponses, canary_request: Request) -> None:
        """An OSError is shown in the system's words: its own text may hold a login."""
        web.get(ADDRESS, exception=OSError(5, "secret"))
        async with aiohttp.ClientSession() as session:
            with pytest.raises(ConnectError, match=r"^no connection \(Input/output error\)$"):
                await AiohttpTransport(session).send(canary_request, timeout=1)

    async def test_of_the_closed_session(
        self, web: aioresponses, transport: AiohttpTransport, canary_request: Request
    ) -> None:
        """Whatever aiohttp raises on a session that was closed during the call is a ClientClosedError."""

        async def close_and_fail(*_: object, **__: object) -> None:
            assert transport._session is not None
            await transport._session.close()
            raise RuntimeError("Session is closed")

        web.get(ADDRESS, callback=close_and_fail)
        with pytest.raises(ClientClosedError):
            await transport.send(canary_request, timeout=1)

    @pytest.mark.parametrize("session", ["http://me:secret@proxy", 7, object(), {}, aiohttp])
    def test_no_session(self, session: Any) -> None:
        """What is not a session is rejected when it is given, and not quoted."""
        with pytest.raises(ConfigurationError, match=r"^session must be an aiohttp.ClientSession, got") as caught:
            AiohttpTransport(session)
        assert "secret" not in str(caught.value)

    async def test_no_thread_for_the_look_up(
        self, transport: AiohttpTransport, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the process has no more threads, the name cannot be looked up: a ConnectError."""
        monkeypatch.setattr(threading.Thread, "start", mock.Mock(side_effect=RuntimeError("can't start new thread")))
        with pytest.raises(ConnectError, match="Resource temporarily unavailable") as caught:
            await transport.send(Request("GET", "http://host.invalid/"), timeout=1)
        assert caught.value.reason == "dns"


def connector_error(kind: type[aiohttp.ClientConnectorError], error: OSError, host: str = "api.test") -> Exception:
    return kind(SimpleNamespace(host=host, port=443, is_ssl=True, ssl=True), error)  # type: ignore[arg-type]


def certificate_error(code: int, message: str) -> Exception:
    error = ssl.SSLCertVerificationError(1, "failed")
    error.verify_code, error.verify_message = code, message
    key: Any = SimpleNamespace(host="api.test", port=443, is_ssl=True)
    return aiohttp.ClientConnectorCertificateError(key, error)


class TestReasons:
    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (connector_error(aiohttp.ClientConnectorError, OSError(111, "Connection refused")), "refused"),
            (connector_error(aiohttp.ClientConnectorError, OSError(113, "No route to host")), "unreachable"),
            (connector_error(aiohttp.ClientConnectorError, OSError(110, "Timed out")), "timeout"),
            (connector_error(aiohttp.ClientConnectorError, OSError(9999, "Odd")), "other"),
            (connector_error(aiohttp.ClientConnectorDNSError, OSError(-2, "Name not known")), "dns"),
            (connector_error(aiohttp.ClientConnectorDNSError, OSError(-2, "x"), "proxy.test"), "proxy-unreachable"),
            (connector_error(aiohttp.ClientProxyConnectionError, OSError(111, "x")), "proxy-unreachable"),
            (aiohttp.ConnectionTimeoutError(), "timeout"),
            (OSError(101, "Network is unreachable"), "unreachable"),
            (certificate_error(9, "certificate is not yet valid"), "not-yet-valid"),
            (certificate_error(10, "certificate has expired"), "expired"),
            (certificate_error(18, "self-signed certificate"), "untrusted"),
            (certificate_error(20, "unable to get local issuer certificate"), "untrusted"),
            (certificate_error(62, "Hostname mismatch"), "hostname"),
            (certificate_error(64, "IP address mismatch"), "hostname"),
            (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]"), "handshake"),
            (aiohttp.ServerFingerprintMismatch(b"e", b"g", "api.test", 443), "untrusted"),
        ],
    )
    async def test_is_an_attribute(
        self, web: aioresponses, transport: AiohttpTransport, canary_request: Request, error: Exception, reason: str
    ) -> None:
        """A ConnectError has its cause as data, which pickling and copying keep."""
        web.get(ADDRESS, exception=error)
        with pytest.raises(ConnectError) as caught:
            await transport.send(canary_request, timeout=1)
        assert isinstance(caught.value, TlsError) is isinstance(
            error, ssl.SSLError | aiohttp.ServerFingerprintMismatch | aiohttp.ClientSSLError
        )
        assert caught.value.reason == reason
        for twin in (pickle.loads(pickle.dumps(caught.value)), copy.copy(caught.value)):
            assert (type(twin), twin.reason, str(twin)) == (type(caught.value), reason, str(caught.value))

    @pytest.mark.parametrize("code", [18, 19, 20, 21])
    @pytest.mark.parametrize("has_empty_file", [False, True])
    async def test_a_machine_without_ca_certificates(
        self,
        web: aioresponses,
        transport: AiohttpTransport,
        canary_request: Request,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        code: int,
        has_empty_file: bool,
    ) -> None:
        """A slim container image has no CA store, or an empty one. The error names the package to install."""
        file, directory = tmp_path / "ca.crt", tmp_path / "certs"
        file.touch()
        directory.mkdir()
        paths = SimpleNamespace(cafile=str(file) if has_empty_file else None, capath=str(directory))
        monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
        web.get(ADDRESS, exception=certificate_error(code, "unable to get local issuer certificate"))
        with pytest.raises(TlsError, match="install the package ca-certificates") as caught:
            await transport.send(canary_request, timeout=1)
        assert caught.value.reason == "no-ca-store"


class TestBodies:
    async def test_a_body_is_refused_on_the_callers_session(self, web: aioresponses, canary_request: Request) -> None:
        """A body that is not gzip is refused on a caller's session, too."""
        web.get(ADDRESS, body=b"no gzip", headers={"content-encoding": "gzip"})
        async with aiohttp.ClientSession() as session:
            with pytest.raises(ProtocolError, match="corrupt"):
                await AiohttpTransport(session).send(canary_request, timeout=1)


class TestSessions:
    @pytest.mark.parametrize("limit", [0, -1, True, 1.5, None])
    def test_a_limit_is_a_number_of_connections(self, limit: Any) -> None:
        """No connections are none to send over."""
        with pytest.raises(ConfigurationError, match="limit must be an int of at least 1"):
            AiohttpTransport(limit=limit)

    def test_without_a_running_loop(self, canary_request: Request) -> None:
        """A process that was forked in the middle of a call has no running loop: the error has advice."""
        with pytest.raises(ConfigurationError, match="in each process"):
            AiohttpTransport().send(canary_request, timeout=1).send(None)

    async def test_opens_none_before_the_first_call(self) -> None:
        """A transport that is never used opens nothing and needs no closing."""
        assert AiohttpTransport()._session is None

    def test_can_be_made_without_a_loop(self) -> None:
        """A transport may be created without an event loop, at the top of a module for instance."""
        AiohttpTransport()

    async def test_keeps_one_session(self, web: aioresponses, canary_request: Request) -> None:
        """All calls share one session. Closing the transport closes it, twice as well as once."""
        web.get(ADDRESS, repeat=True)
        transport = AiohttpTransport()
        await asyncio.gather(*(transport.send(canary_request, timeout=1) for _ in range(3)))
        session = transport._session
        assert session is not None
        await transport.aclose()
        await transport.aclose()
        assert session.closed

    async def test_closing_from_two_tasks(self, web: aioresponses, canary_request: Request) -> None:
        """Two tasks may close at the same time."""
        web.get(ADDRESS)
        transport = AiohttpTransport()
        await transport.send(canary_request, timeout=1)
        await asyncio.gather(transport.aclose(), transport.aclose())

    @pytest.mark.parametrize("used", [False, True])
    async def test_nothing_is_sent_after_closing(self, web: aioresponses, canary_request: Request, used: bool) -> None:
        """A closed transport stays closed. It would otherwise open a session that is never closed."""
        web.get(ADDRESS, repeat=True)
        transport = AiohttpTransport()
        if used:
            await transport.send(canary_request, timeout=1)
        await transport.aclose()
        with pytest.raises(ClientClosedError, match="this transport is closed"):
            await transport.send(canary_request, timeout=1)
        assert transport._session is None

    async def test_the_callers_session_stays_the_callers(self, web: aioresponses, canary_request: Request) -> None:
        """A session that was given is used and never closed."""
        web.get(ADDRESS)
        async with aiohttp.ClientSession(headers={"x-mine": "yes"}) as session:
            transport = AiohttpTransport(session)
            await transport.send(canary_request, timeout=1)
            await transport.aclose()
            assert not session.closed
            assert call(web)["headers"]["x-mine"] == "yes"

    async def test_a_session_that_raises_for_a_status_does_not_here(
        self, web: aioresponses, canary_request: Request
    ) -> None:
        """The caller's raise_for_status=True does not turn a 429 into broken HTTP."""
        web.get(ADDRESS, status=429)
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            assert (await AiohttpTransport(session).send(canary_request, timeout=1)).status == 429

    async def test_a_closed_session_is_refused(self, canary_request: Request) -> None:
        """A session that its owner has closed is a configuration error with advice."""
        session = aiohttp.ClientSession()
        await session.close()
        with pytest.raises(ConfigurationError, match="keep it open"):
            await AiohttpTransport(session).send(canary_request, timeout=1)

    @pytest.mark.parametrize("given", [False, True])
    def test_another_loop_is_refused(self, web: aioresponses, canary_request: Request, given: bool) -> None:
        """Connections belong to a loop. On another one the transport raises, with advice."""
        web.get(ADDRESS, repeat=True)

        async def first() -> tuple[AiohttpTransport, aiohttp.ClientSession | None]:
            session = aiohttp.ClientSession() if given else None
            transport = AiohttpTransport(session)
            await transport.send(canary_request, timeout=1)
            return transport, session

        async def last() -> None:
            await transport.aclose()
            if session is not None:
                await session.close()

        with asyncio.Runner() as one, asyncio.Runner() as other:
            transport, session = one.run(first())
            if not given:
                with pytest.raises(ConfigurationError, match="another event loop"):
                    other.run(transport.aclose())
            with pytest.raises(ConfigurationError, match="AiohttpTransport is bound to another event loop"):
                other.run(transport.send(canary_request, timeout=1))
            one.run(last())

    @pytest.mark.parametrize("closed", [False, True], ids=["left open", "closed"])
    def test_the_next_loop_is_served(self, web: aioresponses, canary_request: Request, closed: bool) -> None:
        """One asyncio.run() for each event, as on AWS Lambda. A closed loop's session is replaced, and closing ends."""
        web.get(ADDRESS, repeat=True)
        transport = AiohttpTransport(limit=1)
        sessions = []

        async def calls() -> None:
            for response in await asyncio.gather(*(transport.send(canary_request, timeout=1) for _ in range(3))):
                assert response.status == 200
            assert transport._session is not None
            if closed:
                await transport._session.close()
            sessions.append(transport._session)

        for _ in range(3):
            asyncio.run(calls())
        assert len({id(session) for session in sessions}) == 3
        asyncio.run(transport.aclose())
        asyncio.run(transport.aclose())
        assert all(session.closed for session in sessions)
        with pytest.raises(ClientClosedError):
            asyncio.run(transport.send(canary_request, timeout=1))

    def test_a_given_session_does_not_serve_the_next_loop(self, web: aioresponses, canary_request: Request) -> None:
        """A caller's session is bound to its loop. Closing the transport ends all the same."""
        web.get(ADDRESS, repeat=True)

        async def first() -> AiohttpTransport:
            async with aiohttp.ClientSession() as session:
                transport = AiohttpTransport(session)
                await transport.send(canary_request, timeout=1)
                return transport

        transport = asyncio.run(first())
        with pytest.raises(ConfigurationError, match="another event loop"):
            asyncio.run(transport.send(canary_request, timeout=1))
        asyncio.run(transport.aclose())

    async def test_a_response_shows_no_header(
        self, web: aioresponses, transport: AiohttpTransport, canary_request: Request, canary: str
    ) -> None:
        """A response that echoes the token keeps it out of its own repr."""
        web.get(ADDRESS, headers={"x-echo": canary}, body=canary)
        response: Response = await transport.send(canary_request, timeout=1)
        assert canary in response.headers["x-echo"]
        assert canary not in repr(response)
