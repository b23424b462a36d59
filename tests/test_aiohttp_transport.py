"""AiohttpTransport as aiohttp sees it: what it is asked for, and what becomes of what it raises. No sockets.

What happens on a wire is in test_aiohttp_wire.py.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import HttpVersion, HttpVersion10, HttpVersion11
from aiohttp.http_exceptions import HttpProcessingError
from aioresponses import aioresponses
from multidict import CIMultiDict
from yarl import URL

from twusage.aiohttp_transport import AiohttpTransport, _check_head
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


def call(web: aioresponses, method: str = "GET", address: str = ADDRESS) -> dict[str, Any]:
    """What aiohttp was asked for, in the only call."""
    ((key, calls),) = web.requests.items()
    assert key == (method, URL(address))
    (only,) = calls
    keywords: dict[str, Any] = only.kwargs
    return keywords


class TestAsking:
    async def test_sends_what_it_is_given(
        self, web: aioresponses, transport: AiohttpTransport, canary_request: Request
    ) -> None:
        """The method, the address and the headers are the request's; only the accepted encoding is the transport's."""
        web.get(ADDRESS, body=b"{}")
        await transport.send(canary_request, timeout=1)
        assert call(web)["headers"] == {**canary_request.headers, "accept-encoding": "gzip"}
        assert call(web)["data"] is None

    async def test_asks_for_gzip_whatever_the_request_asks_for(
        self, web: aioresponses, transport: AiohttpTransport
    ) -> None:
        """An encoding that the transport could not undo is never offered."""
        web.get(ADDRESS)
        await transport.send(Request("GET", ADDRESS, {"Accept-Encoding": "br"}), timeout=1)
        assert call(web)["headers"] == {"accept-encoding": "gzip"}

    async def test_sends_a_body(self, web: aioresponses, transport: AiohttpTransport) -> None:
        """A request's body is sent as it is."""
        web.post(ADDRESS)
        await transport.send(Request("POST", ADDRESS, body=b"grant_type=client_credentials"), timeout=1)
        assert call(web, "POST")["data"] == b"grant_type=client_credentials"

    async def test_switches_off_what_aiohttp_would_do_by_itself(
        self, web: aioresponses, transport: AiohttpTransport, canary_request: Request
    ) -> None:
        """No redirects, no inflating, no raising for a status, no total timeout rounded up to whole seconds."""
        web.get(ADDRESS)
        await transport.send(canary_request, timeout=7)
        asked = call(web)
        assert asked["allow_redirects"] is False
        assert asked["auto_decompress"] is False
        assert asked["raise_for_status"] is False
        assert asked["timeout"] == aiohttp.ClientTimeout(total=None, connect=3.5, sock_connect=3.5)
        assert len(asked["middlewares"]) == 1
        assert "proxy" not in asked

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
        """Whatever is no SSLContext is refused: there is no switch."""
        with pytest.raises(ConfigurationError, match="verification cannot be turned off"):
            AiohttpTransport(ssl=ssl)

    async def test_uses_the_given_proxy(self, web: aioresponses, canary_request: Request) -> None:
        """A proxy is used when, and only when, it is given."""
        transport = AiohttpTransport(proxy="http://proxy.test:3128")
        web.get(ADDRESS)
        await transport.send(canary_request, timeout=1)
        assert call(web)["proxy"] == "http://proxy.test:3128"
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
        """Failures of the network are of the kind that says what is known, and may be tried again."""
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
    async def test_what_will_not_mend_itself_is_final(
        self,
        web: aioresponses,
        transport: AiohttpTransport,
        canary_request: Request,
        error: Exception,
        kind: type[TransportError],
    ) -> None:
        """A server that cannot be trusted, or a request that aiohttp cannot send, is not tried again."""
        web.get(ADDRESS, exception=error)
        with pytest.raises(kind) as caught:
            await transport.send(canary_request, timeout=1)
        assert type(caught.value) is kind
        assert not caught.value.retryable

    async def test_a_parsers_own_error_is_translated(
        self, web: aioresponses, transport: AiohttpTransport, canary_request: Request, canary: str
    ) -> None:
        """The Python parser of aiohttp lets an error of its own out, which is no ClientError: it is caught."""
        web.get(ADDRESS, exception=HttpProcessingError(message=f"bad chunk\n{canary}\x07"))
        with pytest.raises(ProtocolError, match="not HTTP") as caught:
            await transport.send(canary_request, timeout=1)
        assert caught.value.retry_once
        assert str(caught.value).isprintable()
        assert canary not in str(caught.value)

    async def test_aiohttps_error_is_not_chained(
        self, web: aioresponses, transport: AiohttpTransport, canary_request: Request
    ) -> None:
        """Errors of aiohttp show the request's headers to whoever prints them: they are neither cause nor context."""
        web.get(ADDRESS, exception=aiohttp.ClientPayloadError("x"))
        with pytest.raises(ProtocolError) as caught:
            await transport.send(canary_request, timeout=1)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None

    async def test_a_foreign_error_passes(
        self, web: aioresponses, transport: AiohttpTransport, canary_request: Request
    ) -> None:
        """What is a bug, here or in aiohttp, is not dressed up as a failure of the network."""
        web.get(ADDRESS, exception=AttributeError("a bug"))
        with pytest.raises(AttributeError, match="a bug"):
            await transport.send(canary_request, timeout=1)


def head(version: HttpVersion | None = HttpVersion11, *headers: tuple[str, str]) -> Any:
    return SimpleNamespace(version=version, headers=CIMultiDict(headers))


class TestHeads:
    @pytest.mark.parametrize(
        ("answer", "told"),
        [
            (head(HttpVersion(3, 7)), "HTTP/3.7"),
            (head(HttpVersion11, ("content-length", "2"), ("Content-Length", "2")), "two content-lengths"),
            (head(HttpVersion11, *(("x", "y") for _ in range(129))), "129 headers"),
            (head(HttpVersion11, ("x", "a\0b")), "a NUL"),
        ],
        ids=["version", "lengths", "many", "NUL"],
    )
    def test_what_some_aiohttp_lets_pass(self, answer: Any, told: str) -> None:
        """What only some versions of aiohttp refuse is refused here: R1."""
        with pytest.raises(ProtocolError, match=told) as caught:
            _check_head(answer)
        assert caught.value.retry_once

    @pytest.mark.parametrize("answer", [head(None), head(HttpVersion10), head(HttpVersion11, *[("x", "y")] * 128)])
    def test_what_is_fine(self, answer: Any) -> None:
        """HTTP/1.0 and 128 headers are fine."""
        _check_head(answer)

    async def test_a_body_is_refused_on_the_callers_session(self, web: aioresponses, canary_request: Request) -> None:
        """What becomes of the connection is the caller's connector's business."""
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

    def test_where_no_loop_runs(self, canary_request: Request) -> None:
        """A process that was forked in the middle of a call has no running loop: it is told what to do."""
        with pytest.raises(ConfigurationError, match="in each process"):
            AiohttpTransport().send(canary_request, timeout=1).send(None)

    async def test_opens_none_before_the_first_call(self) -> None:
        """A transport that is never used opens nothing and needs no closing."""
        assert AiohttpTransport()._session is None

    def test_can_be_made_without_a_loop(self) -> None:
        """A transport may be made where no event loop runs, at the top of a module for instance."""
        AiohttpTransport()

    async def test_keeps_one_session(self, web: aioresponses, canary_request: Request) -> None:
        """All calls share one session; closing the transport closes it, twice as well as once."""
        web.get(ADDRESS, repeat=True)
        transport = AiohttpTransport()
        await asyncio.gather(*(transport.send(canary_request, timeout=1) for _ in range(3)))
        session = transport._session
        assert session is not None
        await transport.aclose()
        await transport.aclose()
        assert session.closed

    async def test_closing_from_two_tasks(self, web: aioresponses, canary_request: Request) -> None:
        """Two tasks may close at once."""
        web.get(ADDRESS)
        transport = AiohttpTransport()
        await transport.send(canary_request, timeout=1)
        await asyncio.gather(transport.aclose(), transport.aclose())

    @pytest.mark.parametrize("used", [False, True])
    async def test_nothing_is_sent_after_closing(self, web: aioresponses, canary_request: Request, used: bool) -> None:
        """A closed transport stays closed: it would otherwise open a session that nobody closes."""
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
        """A session that its owner has closed is a mistake of configuration, told in words."""
        session = aiohttp.ClientSession()
        await session.close()
        with pytest.raises(ConfigurationError, match="keep it open"):
            await AiohttpTransport(session).send(canary_request, timeout=1)

    @pytest.mark.parametrize("given", [False, True])
    def test_another_loop_is_refused(self, web: aioresponses, canary_request: Request, given: bool) -> None:
        """Connections belong to a loop: on another one the transport says so, and what to do."""
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
            with pytest.raises(ConfigurationError, match="another event loop; make a UsageClient on each loop"):
                other.run(transport.send(canary_request, timeout=1))
            one.run(last())

    async def test_a_response_shows_no_header(
        self, web: aioresponses, transport: AiohttpTransport, canary_request: Request, canary: str
    ) -> None:
        """An answer that echoes the token keeps it out of its own repr."""
        web.get(ADDRESS, headers={"x-echo": canary}, body=canary)
        response: Response = await transport.send(canary_request, timeout=1)
        assert canary in response.headers["x-echo"]
        assert canary not in repr(response)
