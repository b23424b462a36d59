"""AiohttpTransport on a real socket. A server on loopback that sends scripted bytes.

What comes of any one fault is in faults/; here is what the transport does around it. In each: the right error and no
other, one request on the wire, the connection closed if it is not reusable, no task left behind, and the token
nowhere to be read.
"""

import asyncio
import gc
import gzip
import socket
import ssl
import sys
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest
import trustme
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from attrs import frozen
from scripted_server import (
    AT_ONCE,
    CANARY_TOKEN,
    CHUNKED,
    GOOD,
    GRACE,
    LOOPBACK,
    OK,
    SHORT,
    ZIPPED,
    Script,
    Server,
    Wire,
    answer,
    bomb,
    hold,
    retry_of,
    says,
    secrets_of,
    zipped,
)

from twusage import RetryPolicy, UsageClient, protocol
from twusage.aiohttp_transport import MAX_BODY, AiohttpTransport
from twusage.errors import (
    ClientClosedError,
    ConfigurationError,
    ConnectError,
    DecodeError,
    ProtocolError,
    RequestTimeoutError,
    TlsError,
    TwUsageError,
)
from twusage.protocol import Request, Response

Serve = Callable[..., Awaitable[Server]]
Open = Callable[..., AiohttpTransport]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Opens servers. At the end, no task may be left."""
    before = asyncio.all_tasks()
    servers: list[Server] = []

    async def serve(script: Script, *, tls: ssl.SSLContext | None = None) -> Server:
        servers.append(Server(script, tls))
        await servers[-1].open()
        return servers[-1]

    yield serve
    for server in servers:
        await server.close()
    assert not asyncio.all_tasks() - before - {asyncio.current_task()}


@pytest.fixture
async def transport(serve: Serve) -> AsyncIterator[AiohttpTransport]:
    transport = AiohttpTransport()
    yield transport
    await transport.aclose()


@asynccontextmanager
async def watched(event: str, **connector: Any) -> AsyncIterator[tuple[aiohttp.ClientSession, asyncio.Event]]:
    """A session, and what is set when aiohttp comes to that point of a request."""
    happened = asyncio.Event()

    async def note(*_: Any) -> None:
        happened.set()

    trace = aiohttp.TraceConfig()
    getattr(trace, event).append(note)
    async with aiohttp.ClientSession(
        trace_configs=[trace], connector=aiohttp.TCPConnector(**connector), cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        yield session, happened


# -- What an error must be ---------------------------------------------------------------------------------------------


async def refusal(
    transport: AiohttpTransport, request: Request, kind: type[TwUsageError], *, within: float = AT_ONCE
) -> TwUsageError:
    """The error of this request: exactly of this class, and without secrets."""
    guard = asyncio.timeout(within + AT_ONCE)
    begun = asyncio.get_running_loop().time()
    with pytest.raises(TwUsageError) as caught:
        async with guard:
            await transport.send(request, timeout=within)
    assert asyncio.get_running_loop().time() - begun < within + GRACE
    error = caught.value
    assert type(error) is kind, error
    assert CANARY_TOKEN not in secrets_of(error)
    assert str(error).isprintable()
    return error


# -- Connecting --------------------------------------------------------------------------------------------------------


class TestConnecting:
    async def test_refused(self, transport: AiohttpTransport) -> None:
        """Without a listener there is no connection: retried."""
        with socket.create_server((LOOPBACK, 0)) as listener:
            port = listener.getsockname()[1]
        error = await refusal(transport, Request("GET", f"http://{LOOPBACK}:{port}/"), ConnectError)
        assert retry_of(error) == "always"
        assert f"{LOOPBACK}:{port} (" in str(error)

    async def test_unknown_name(self, serve: Serve) -> None:
        """A name that cannot be resolved is a connection that cannot be made: retried."""

        class Unknown(AbstractResolver):
            async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
                raise OSError(-2, "Name or service not known")

            async def close(self) -> None:
                """Nothing is open."""

        connector = aiohttp.TCPConnector(resolver=Unknown())
        async with aiohttp.ClientSession(connector=connector) as session:
            request = Request("GET", "https://unknown.test/", {"authorization": f"Bearer {CANARY_TOKEN}"})
            error = await refusal(AiohttpTransport(session), request, ConnectError)
        assert retry_of(error) == "always"
        assert "unknown.test:443 (Name or service not known)" in str(error)

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full backlog refuses")
    async def test_connecting_takes_too_long(self, transport: AiohttpTransport) -> None:
        """A host that does not answer at all. After half of the timeout it is known that nothing was sent: retried."""
        with socket.socket() as listener, socket.socket() as one, socket.socket() as other:
            listener.bind((LOOPBACK, 0))
            listener.listen(0)
            for waiting in (one, other):
                waiting.setblocking(False)
                waiting.connect_ex(listener.getsockname())
            request = Request("GET", f"http://{LOOPBACK}:{listener.getsockname()[1]}/")
            error = await refusal(transport, request, ConnectError, within=SHORT)
        assert retry_of(error) == "always"

    async def test_the_tls_handshake_hangs(self, serve: Serve, transport: AiohttpTransport) -> None:
        """A server without a TLS handshake. Nothing was sent: retried; and the connection is closed."""
        server = await serve(Wire.wait_until_gone)
        request = Request("GET", f"https://{LOOPBACK}:{server.port}/", {"authorization": f"Bearer {CANARY_TOKEN}"})
        error = await refusal(transport, request, ConnectError, within=SHORT)
        assert retry_of(error) == "always"
        assert "no connection within 0.125 s" in str(error)
        await server.all_gone()

    async def test_the_tls_handshake_is_cut(self, serve: Serve, transport: AiohttpTransport) -> None:
        """A connection that ends in the handshake does not prove a bad certificate: retried."""

        async def hang_up(wire: Wire) -> None:
            await wire._reader.read(1)

        server = await serve(hang_up)
        error = await refusal(transport, Request("GET", f"https://{LOOPBACK}:{server.port}/"), ConnectError)
        assert retry_of(error) == "always"

    async def test_the_pool_is_exhausted(self, serve: Serve) -> None:
        """A call that waits too long for one of the client's own connections does not blame the host: retried."""
        server = await serve(hold)
        transport = AiohttpTransport(limit=1)
        async with asyncio.timeout(AT_ONCE), asyncio.TaskGroup() as group:
            busy = group.create_task(transport.send(server.request(), timeout=AT_ONCE))
            await server.heard.wait()
            error = await refusal(transport, server.request(), RequestTimeoutError, within=SHORT)
            busy.cancel()
        assert retry_of(error) == "always"
        assert "connection" not in str(error)
        assert len(server.requests) == 1
        await transport.aclose()

    async def test_a_connection_that_gets_free_is_waited_for(self, serve: Serve) -> None:
        """With one connection allowed, ten calls are sent over it one after the other."""
        server = await serve(says(answer()))
        transport = AiohttpTransport(limit=1)
        answers = await asyncio.gather(*(transport.send(server.request(), timeout=AT_ONCE) for _ in range(10)))
        assert [each.body for each in answers] == [GOOD] * 10
        assert (server.connections, len(server.requests)) == (1, 10)
        await transport.aclose()

    async def test_a_proxy_is_used(self, serve: Serve) -> None:
        """Requests go to the proxy that was given, with the whole address."""
        proxy = await serve(says(answer()))
        transport = AiohttpTransport(proxy=f"http://{LOOPBACK}:{proxy.port}")
        await transport.send(Request("GET", "http://api.test/2/usage/tweets"), timeout=AT_ONCE)
        assert proxy.requests[0].startswith(b"GET http://api.test/2/usage/tweets HTTP/1.1\r\n")
        await transport.aclose()

    async def test_a_proxy_refuses(self, serve: Serve) -> None:
        """A proxy that opens no tunnel is a failed connection: retried. The token never leaves."""
        proxy = await serve(says(answer(status=b"502 Bad Gateway")))
        transport = AiohttpTransport(proxy=f"http://{LOOPBACK}:{proxy.port}")
        request = Request("GET", "https://api.test/", {"authorization": f"Bearer {CANARY_TOKEN}"})
        error = await refusal(transport, request, ConnectError)
        assert retry_of(error) == "always"
        assert "the proxy refused to connect (502)" in str(error)
        assert CANARY_TOKEN.encode() not in b"".join(proxy.requests)
        await transport.aclose()

    async def test_the_environments_proxies_and_netrc_are_ignored(
        self, serve: Serve, transport: AiohttpTransport, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
    ) -> None:
        """Neither HTTP_PROXY nor a netrc file has a say."""
        elsewhere = await serve(hold)
        server = await serve(says(answer()))
        netrc = tmp_path / "netrc"
        netrc.write_text(f"machine {LOOPBACK} login me password secret\n")
        monkeypatch.setenv("NETRC", str(netrc))
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{LOOPBACK}:{elsewhere.port}")
        await transport.send(Request("GET", server.request().url), timeout=AT_ONCE)
        assert elsewhere.connections == 0
        assert b"authorization" not in server.requests[0].lower()


class TestTls:
    @pytest.fixture(scope="class")
    @staticmethod
    def authority() -> trustme.CA:
        return trustme.CA()

    @staticmethod
    def identity(authority: trustme.CA, name: str) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(name).configure_cert(context)
        return context

    @staticmethod
    def trusting(authority: trustme.CA) -> ssl.SSLContext:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return context

    async def test_a_context_with_the_authority_is_trusted(self, serve: Serve, authority: trustme.CA) -> None:
        """With a context that trusts the server's authority, requests are answered."""
        server = await serve(says(answer()), tls=self.identity(authority, LOOPBACK))
        transport = AiohttpTransport(ssl=self.trusting(authority))
        assert (await transport.send(server.request(), timeout=AT_ONCE)).body == GOOD
        await transport.aclose()

    async def test_an_unknown_authority(self, serve: Serve, authority: trustme.CA) -> None:
        """A certificate of an unknown authority. Not retried, and the token is not sent."""
        server = await serve(says(answer()), tls=self.identity(authority, LOOPBACK))
        transport = AiohttpTransport()
        error = await refusal(transport, server.request(), TlsError)
        assert retry_of(error) == "never"
        assert "unable to get local issuer certificate" in str(error)
        assert not server.requests
        await transport.aclose()

    async def test_another_hosts_certificate(self, serve: Serve, authority: trustme.CA) -> None:
        """A certificate that is another host's. Not retried, and the token is not sent."""
        server = await serve(says(answer()), tls=self.identity(authority, "other.test"))
        transport = AiohttpTransport(ssl=self.trusting(authority))
        error = await refusal(transport, server.request(), TlsError)
        assert retry_of(error) == "never"
        assert "not valid for" in str(error)
        assert not server.requests
        await transport.aclose()

    async def test_a_server_that_speaks_no_tls(self, serve: Serve, transport: AiohttpTransport) -> None:
        """A server of plain HTTP on a TLS port cannot be trusted: not retried."""

        async def plain(wire: Wire) -> None:
            await wire.say(answer(status=b"400 Bad Request"))
            await wire.wait_until_gone()

        server = await serve(plain)
        request = Request("GET", f"https://{LOOPBACK}:{server.port}/", {"authorization": f"Bearer {CANARY_TOKEN}"})
        assert retry_of(await refusal(transport, request, TlsError)) == "never"
        await server.all_gone()

    async def test_a_later_chunk_is_garbled(self, serve: Serve, authority: trustme.CA) -> None:
        """A malformed chunk is reported immediately, though the connection stays open: retried once."""
        heard = asyncio.Event()

        async def script(wire: Wire) -> None:
            await wire.hear()
            await wire.say(CHUNKED + b"2\r\n{}\r\n")
            await heard.wait()
            wire._writer.transport.pause_reading()  # type: ignore[attr-defined]  # a goodbye is not answered
            await wire.say(b"zz\r\n{}\r\n")
            await asyncio.Event().wait()

        server = await serve(script, tls=self.identity(authority, LOOPBACK))
        transport = AiohttpTransport(ssl=self.trusting(authority))
        asyncio.get_running_loop().call_later(0.15, heard.set)
        assert retry_of(await refusal(transport, server.request(), ProtocolError)) == "once"
        await transport.aclose()
        for task in server._tasks:
            task.cancel()

    async def test_cut_in_the_middle_of_the_body(self, serve: Serve, authority: trustme.CA) -> None:
        """A TLS connection that breaks off in the body is a truncated response.

        It is not a fault of the certificate: retried.
        """
        server = await serve(says(answer(length=99), then="reset"), tls=self.identity(authority, LOOPBACK))
        transport = AiohttpTransport(ssl=self.trusting(authority))
        assert retry_of(await refusal(transport, server.request(), ProtocolError)) == "always"
        await transport.aclose()


# -- Sending -----------------------------------------------------------------------------------------------------------


class TestSending:
    @pytest.mark.parametrize("query", ["?days=7&usage.fields=a,b", "?q=%2C%2f%41+x", "?a=b;c=%7E&empty="])
    async def test_the_address_is_sent_as_it_is(self, serve: Serve, transport: AiohttpTransport, query: str) -> None:
        """What the request's URL quotes stays quoted as it is, and what it does not quote stays plain."""
        server = await serve(says(answer()))
        await transport.send(server.request(query=query), timeout=AT_ONCE)
        assert server.requests[0].startswith(f"GET /2/usage/tweets{query} HTTP/1.1\r\n".encode())

    async def test_the_token_is_sent_as_it_is(self, serve: Serve, transport: AiohttpTransport) -> None:
        """One Authorization header, with the literal %2F and %3D of the token."""
        server = await serve(says(answer()))
        await transport.send(server.request(), timeout=AT_ONCE)
        lines = server.requests[0].lower().split(b"\r\n")
        assert [line for line in lines if line.startswith(b"authorization")] == [
            f"authorization: bearer {CANARY_TOKEN.lower()}".encode()
        ]
        assert b"accept-encoding: gzip" in lines

    @pytest.mark.parametrize("then", ["close", "reset"])
    @pytest.mark.parametrize("data", [b"", b"HTTP/1.1 20", OK + b"content-le"], ids=["nothing", "status", "headers"])
    async def test_the_connection_ends_before_the_headers(
        self, serve: Serve, transport: AiohttpTransport, data: bytes, then: str
    ) -> None:
        """One charge, one wire request. What aiohttp would silently send again is ours to retry: retried."""
        server = await serve(says(data, then=then))
        error = await refusal(transport, server.request(), ProtocolError)
        assert retry_of(error) == "always"
        assert (server.connections, len(server.requests)) == (1, 1)

    @pytest.mark.parametrize("then", ["close", "reset"])
    async def test_a_used_connection_ends_before_the_headers(
        self, serve: Serve, transport: AiohttpTransport, then: str
    ) -> None:
        """On a connection that served before as well. The second request is sent once."""

        async def once(wire: Wire) -> None:
            await wire.hear()
            await wire.say(answer())
            await wire.hear()
            if then == "reset":
                wire.reset()

        server = await serve(once)
        await transport.send(server.request(), timeout=AT_ONCE)
        error = await refusal(transport, server.request(), ProtocolError)
        assert retry_of(error) == "always"
        assert (server.connections, len(server.requests)) == (1, 2)

    async def test_a_connection_that_ended_meanwhile_is_replaced(
        self, serve: Serve, transport: AiohttpTransport
    ) -> None:
        """A connection that the server closed between two calls is not used again, and no call fails."""
        server = await serve(says(answer(GOOD, b"connection: close"), then="close"))
        for _ in range(2):
            assert (await transport.send(server.request(), timeout=AT_ONCE)).body == GOOD
            await server.all_gone()
        assert (server.connections, len(server.requests)) == (2, 2)

    async def test_aiohttp_would_have_sent_it_twice(self, serve: Serve) -> None:
        """Why there is a middleware: without it, one GET is two requests. When this fails, it may go."""
        server = await serve(says(b"", then="close"))
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ServerDisconnectedError):
                await session.get(server.request().url)
        assert len(server.requests) == 2

    async def test_cookies_are_not_sent_back(self, serve: Serve, transport: AiohttpTransport) -> None:
        """What a server wants to be remembered is not."""
        server = await serve(says(answer(GOOD, b"set-cookie: guest_id=v1; Path=/", b"set-cookie: b=2")))
        for _ in range(2):
            # By name: aiohttp keeps no cookies of bare addresses anyway.
            response = await transport.send(server.request(host="localhost"), timeout=AT_ONCE)
        assert response.headers["set-cookie"] == "guest_id=v1; Path=/, b=2"
        assert len(server.requests) == 2
        assert not any(b"cookie" in request.lower() for request in server.requests)

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_redirects_are_not_followed(self, serve: Serve, transport: AiohttpTransport, status: int) -> None:
        """The second host sees no connection, let alone the token: not retried."""
        other = await serve(says(answer()))
        location = f"location: http://{LOOPBACK}:{other.port}/2/usage/tweets".encode()
        server = await serve(says(answer(b"", location, status=b"%d Moved" % status)))
        response = await transport.send(server.request(), timeout=AT_ONCE)
        with pytest.raises(ProtocolError, match="redirect") as caught:
            protocol.read_usage(response, request=server.request())
        assert retry_of(caught.value) == "never"
        assert other.connections == 0
        assert len(server.requests) == 1


# -- Reading -----------------------------------------------------------------------------------------------------------


@frozen
class Row:
    """Bytes of a bad response, the state of the connection afterwards, and what may be retried."""

    data: bytes
    retry: str
    then: str = "hold"


GARBLED = {
    "chunk size": Row(CHUNKED + b"zz\r\n{}\r\n", "once"),
    "chunk without an end": Row(CHUNKED + b"2\r\n{}{}{}\r\n", "once"),
    "chunk size overflow": Row(CHUNKED + b"f" * 21 + b"\r\n{}\r\n", "once"),
    "negative content-length": Row(OK + b"content-length: -5\r\n\r\n{}", "once"),
    "content-length that is not a number": Row(OK + b"content-length: 2x\r\n\r\n{}", "once"),
    "two content-lengths": Row(OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}", "once"),
    "content-length with chunks": Row(
        OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "once"
    ),
    "chunks with content-length": Row(CHUNKED[:-2] + b"content-length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "once"),
    "NUL in a name": Row(answer(GOOD, b"x\0y: 1"), "once"),
    "NUL in a value": Row(answer(GOOD, b"x: 1\x002"), "once"),
    "a long header": Row(answer(GOOD, b"x: " + b"y" * 70_000), "once"),
    "a header without an end": Row(OK + b"x: " + b"y" * 90_000, "once"),
    "too many headers": Row(answer(GOOD, *(b"x-%d: 1" % number for number in range(5000))), "once"),
    "a long reason": Row(answer(status=b"200 " + b"y" * 9000), "once"),
    "SSH": Row(b"SSH-2.0-OpenSSH_9.6\r\n", "once"),
    "SMTP": Row(b"220 mail.test ESMTP\r\n", "once"),
    "TLS": Row(b"\x15\x03\x01\x00\x02\x02\x46", "once"),
    "HTTP/2": Row(b"\0\0\x12\x04\0\0\0\0\0", "once"),
    "control characters": Row(b"\x1b]0;owned\x07\x1b[2J\r\n\r\n", "once"),
    "no version of HTTP": Row(b"HTTP/3.7 200 OK\r\n\r\n", "once"),
    "status 2000": Row(answer(status=b"2000 OK"), "once"),
    "status abc": Row(answer(status=b"abc OK"), "once"),
    "status -20": Row(answer(status=b"-20 OK"), "once"),
    "gzip with a broken middle": Row(zipped(ZIPPED[:12] + b"\xff\xff\xff" + ZIPPED[15:]), "once"),
    "gzip with a wrong CRC": Row(zipped(ZIPPED[:-8] + b"\1\2\3\4" + ZIPPED[-4:]), "once"),
    "gzip with a wrong length": Row(zipped(ZIPPED[:-4] + b"\1\2\3\4"), "once"),
    "bytes after gzip": Row(zipped(ZIPPED + b"!"), "once"),
    "gzip after gzip": Row(zipped(ZIPPED + ZIPPED), "once"),
    "no gzip": Row(zipped(GOOD), "once"),
    "zlib for gzip": Row(zipped(zlib.compress(GOOD)), "once"),
}

if tuple(map(int, aiohttp.__version__.split(".")[:2])) < (3, 14):  # aiohttp accepts them
    del GARBLED["NUL in a value"], GARBLED["too many headers"]


def rows(table: dict[str, Row]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", [pytest.param(row, id=name) for name, row in table.items()])


class TestBrokenAnswers:
    @rows({name: row for name, row in GARBLED.items() if not name.endswith("gzip") and "gzip " not in name})
    async def test_a_garbled_connection_is_closed(self, serve: Serve, transport: AiohttpTransport, row: Row) -> None:
        """If the start of the next response is ambiguous, the connection is not used again."""
        server = await serve(says(row.data))
        await refusal(transport, server.request(), ProtocolError)
        await server.all_gone()

    @pytest.mark.parametrize("tail", [b"zz\r\n{}\r\n", b"2\r\n{}{}{}\r\n"], ids=["size", "end"])
    async def test_a_later_chunk_is_garbled(self, serve: Serve, tail: bytes) -> None:
        """A malformed chunk after the headers is reported immediately, not by the timeout: retried once.

        aiohttp closes the connection then, and lets the reader of the body wait for ever.
        """
        async with watched("on_request_end") as (session, headers_read):

            async def script(wire: Wire) -> None:
                await wire.hear()
                await wire.say(CHUNKED + b"2\r\n{}\r\n")
                await headers_read.wait()
                await wire.say(tail)
                await wire.wait_until_gone()

            server = await serve(script)
            error = await refusal(AiohttpTransport(session), server.request(), ProtocolError)
            assert retry_of(error) == "once"
            await server.all_gone()

    @pytest.mark.parametrize(
        "data",
        [
            f"{CANARY_TOKEN} is not HTTP\r\n\r\n".encode(),
            f"HTTP/1.1 200 {CANARY_TOKEN}{'y' * 9000}\r\n\r\n".encode(),
            f"HTTP/1.1 200 OK\r\nx: {'y ' * 15}{CANARY_TOKEN}{'y' * 90_000}\r\n\r\n".encode(),
            f"HTTP/1.1 200 OK\r\nx\0{CANARY_TOKEN}: 1\r\n\r\n".encode(),
            f"HTTP/1.1 200 OK\r\ncontent-length: {CANARY_TOKEN}\r\n\r\n".encode(),
        ],
        ids=["first line", "reason", "cut by aiohttp", "name", "value"],
    )
    async def test_an_echo_of_the_token_is_not_shown(
        self, serve: Serve, transport: AiohttpTransport, data: bytes
    ) -> None:
        """Bytes that are not HTTP and hold the token, or a part of it, are not quoted."""
        server = await serve(says(data))
        error = await refusal(transport, server.request(), ProtocolError)
        assert CANARY_TOKEN[20:40] not in str(error)
        assert "CANARY" not in str(error)

    @pytest.mark.parametrize("then", ["close", "reset"])
    async def test_a_body_without_a_length(self, serve: Serve, transport: AiohttpTransport, then: str) -> None:
        """A body that ends with the connection may be truncated. Its JSON decides."""
        server = await serve(says(OK + b"\r\n" + GOOD[:-1], then=then))
        response = await transport.send(server.request(), timeout=AT_ONCE)
        with pytest.raises(DecodeError):
            protocol.read_usage(response)

    @pytest.mark.parametrize(
        "data",
        [
            answer(status=b"000 X"),
            answer(status=b"099 X"),
            answer(status=b"999 X"),
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n\x81\x05hello",
            b"HTTP/1.1 204 No Content\r\ncontent-encoding: gzip\r\n\r\n",
            b"HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\n\r\n",
            answer(b""),
            zipped(b""),
        ],
        ids=["000", "099", "999", "101", "204", "304", "empty", "empty gzip"],
    )
    async def test_a_status_that_means_nothing(self, serve: Serve, transport: AiohttpTransport, data: bytes) -> None:
        """Statuses that this API does not have, and responses without a body, reach protocol: retried once."""
        server = await serve(says(data))
        response = await transport.send(server.request(), timeout=AT_ONCE)
        with pytest.raises(ProtocolError) as caught:
            protocol.read_usage(response, request=server.request())
        assert retry_of(caught.value) == "once"
        assert len(server.requests) == 1

    async def test_a_switched_connection_is_not_used_again(self, serve: Serve, transport: AiohttpTransport) -> None:
        """After a 101 the connection speaks something else."""
        server = await serve(says(b"HTTP/1.1 101 X\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n\x81\x05hello"))
        await transport.send(server.request(), timeout=AT_ONCE)
        await server.all_gone()

    async def test_many_headers(self, serve: Serve, transport: AiohttpTransport) -> None:
        """100 headers, one of them of 20 kB, are read."""
        headers = (b"x-%d: y" % number for number in range(99))
        server = await serve(says(answer(GOOD, b"content-security-policy: " + b"z" * 20_000, *headers)))
        assert (await transport.send(server.request(), timeout=AT_ONCE)).body == GOOD

    @pytest.mark.parametrize("where", ["value", "name", "reason"])
    async def test_an_absurd_header_is_named(self, serve: Serve, transport: AiohttpTransport, where: str) -> None:
        """The error names what is too large: retried once."""
        size = 70_000 if where != "reason" else 9000
        data = {
            "value": answer(GOOD, b"x: " + b"y" * size),
            "name": answer(GOOD, b"x" * size + b": y"),
            "reason": answer(status=b"200 " + b"y" * size),
        }[where]
        server = await serve(says(data))
        error = await refusal(transport, server.request(), ProtocolError)
        assert retry_of(error) == "once"
        assert "its status line or a header is too large" in str(error)


class TestGoodAnswers:
    @pytest.mark.parametrize(
        "data",
        [
            answer(),
            zipped(ZIPPED),
            answer(ZIPPED, b"content-encoding:  X-GZIP "),
            answer(GOOD, b"content-encoding: identity"),
            CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD),
            CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in GOOD) + b"0\r\n\r\n",
            b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + answer(),
            answer(GOOD, b"content-type: text/html; charset=utf-7"),
            answer(GOOD, b"x: \xff\xfe"),
            answer(GOOD, b"content-security-policy: " + b"y" * 10_000),
        ],
        ids=[
            "plain",
            "gzip",
            "x-gzip",
            "identity",
            "chunk",
            "chunks",
            "1xx",
            "lying type",
            "latin header",
            "long header",
        ],
    )
    async def test_a_good_answer(self, serve: Serve, transport: AiohttpTransport, data: bytes) -> None:
        """In any framing and content type, the body is complete, and the connection is used again."""
        server = await serve(says(data))
        for _ in range(2):
            response = await transport.send(server.request(), timeout=AT_ONCE)
            assert (response.status, response.body) == (200, GOOD)
        assert (server.connections, len(server.requests)) == (1, 2)

    @pytest.mark.parametrize("size", [1, 7, 2**12])
    async def test_gzip_in_pieces(self, serve: Serve, transport: AiohttpTransport, size: int) -> None:
        """Compressed bytes are inflated as they come, wherever they are cut, and longer ones than a piece as well."""
        body = bytes(range(256)) * 4096
        compressed = gzip.compress(body, mtime=0)
        chunks = [compressed[at : at + size] for at in range(0, len(compressed), size)]
        head = CHUNKED.replace(b"chunked", b"chunked\r\ncontent-encoding: gzip")
        server = await serve(says(head, *(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks), b"0\r\n\r\n"))
        assert (await transport.send(server.request(), timeout=AT_ONCE)).body == body

    async def test_a_repeated_header_is_joined(self, serve: Serve, transport: AiohttpTransport) -> None:
        """A header that came twice is one with two values, so that neither is taken for all."""
        server = await serve(says(answer(GOOD, b"X-Rate-Limit-Remaining: 3", b"x-rate-limit-remaining: 40")))
        response = await transport.send(server.request(), timeout=AT_ONCE)
        assert response.headers["x-rate-limit-remaining"] == "3, 40"

    async def test_a_second_answer_is_dropped(self, serve: Serve, transport: AiohttpTransport) -> None:
        """An unsolicited response is not taken for the next one."""
        server = await serve(says(answer() + answer(b"not yours")))
        for _ in range(2):
            assert (await transport.send(server.request(), timeout=AT_ONCE)).body == GOOD
        assert server.connections == 2

    async def test_a_broken_gzip_leaves_the_connection_whole(self, serve: Serve, transport: AiohttpTransport) -> None:
        """Garbage in a well framed body does not cost the connection. The next response uses it, or a new one."""
        bodies = iter([zipped(ZIPPED[:-8] + b"\1\2\3\4" + ZIPPED[-4:]), zipped(ZIPPED)])

        async def script(wire: Wire) -> None:
            while True:
                await wire.hear()
                await wire.say(next(bodies))

        server = await serve(script)
        await refusal(transport, server.request(), ProtocolError)
        assert (await transport.send(server.request(), timeout=AT_ONCE)).body == GOOD


# -- Too much ----------------------------------------------------------------------------------------------------------


class TestTooMuch:
    @pytest.fixture(params=["gzip bomb", "long body", "endless body"])
    def script(self, request: pytest.FixtureRequest) -> Script:
        piece = bytes(2**16)
        if request.param == "gzip bomb":
            return says(answer(dangerous := bomb(512), b"content-encoding: gzip", length=len(dangerous) + 1))
        if request.param == "long body":
            return says(CHUNKED, *[b"10000\r\n" + piece + b"\r\n"] * (256 * 16))

        async def endless(wire: Wire) -> None:
            await wire.hear()
            await wire.say(OK + b"\r\n")
            while True:
                await wire.say(piece)

        return endless

    async def test_at_most_max_body_is_held(self, serve: Serve, transport: AiohttpTransport, script: Script) -> None:
        """A body beyond ``max_body`` is refused early, and not retried.

        The connection is closed, and other tasks run meanwhile.
        """
        server = await serve(script)
        turns = 0

        async def heart() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beating = asyncio.create_task(heart())
        gc.collect()
        tracemalloc.start()
        try:
            # Not with refusal(): its look into the traceback takes more memory than anything here.
            with pytest.raises(ProtocolError) as caught:
                await transport.send(server.request(), timeout=AT_ONCE)
            held = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            beating.cancel()
        assert retry_of(caught.value) == "never"
        assert f"max_body ({MAX_BODY} bytes)" in str(caught.value)
        assert held < MAX_BODY * 1.5
        # A piece at a time: between any two, all other tasks ran.
        assert turns > MAX_BODY / 2**19
        await server.all_gone()
        assert len(server.requests) == 1

    async def test_a_length_that_is_too_large_is_not_waited_for(
        self, serve: Serve, transport: AiohttpTransport
    ) -> None:
        """A body that announces itself as too large is refused before a byte of it: not retried."""
        server = await serve(says(answer(b"", length=256 * 2**20)))
        assert retry_of(await refusal(transport, server.request(), ProtocolError)) == "never"
        await server.all_gone()

    async def test_what_was_refused_is_not_kept(self, serve: Serve, transport: AiohttpTransport) -> None:
        """When the error is forgotten, so is the body, without a garbage collector: it is in no cycle."""
        server = await serve(says(CHUNKED, *[b"10000\r\n" + bytes(2**16) + b"\r\n"] * 256))
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            with suppress(ProtocolError):
                await transport.send(server.request(), timeout=AT_ONCE)
            await server.all_gone()
            kept = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
            gc.enable()
        assert kept < MAX_BODY / 4

    async def test_little_is_read_at_a_time(
        self, serve: Serve, transport: AiohttpTransport, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One read is parsed without a break for other tasks. 64 KiB are enough."""
        sizes: list[int] = []
        feed = ResponseHandler.data_received

        def measured(self: ResponseHandler, data: bytes) -> None:
            sizes.append(len(data))
            feed(self, data)

        monkeypatch.setattr(ResponseHandler, "data_received", measured)
        server = await serve(says(answer(bytes(2**20))))
        for _ in range(2):
            assert len((await transport.send(server.request(), timeout=AT_ONCE)).body) == 2**20
        assert max(sizes) == 2**16

    @pytest.mark.parametrize(
        "encode",
        [
            answer,
            lambda body: zipped(gzip.compress(body)),
            lambda body: CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body),
        ],
        ids=["plain", "gzip", "chunk"],
    )
    async def test_max_body_is_the_callers(self, serve: Serve, encode: Callable[[bytes], bytes]) -> None:
        """Just as much as max_body is fine, a byte more is not, compressed or plain."""
        transport = AiohttpTransport(max_body=1000)
        server = await serve(says(encode(bytes(1000))))
        assert (await transport.send(server.request(), timeout=AT_ONCE)).body == bytes(1000)
        server = await serve(says(encode(bytes(1001))))
        error = await refusal(transport, server.request(), ProtocolError)
        assert "max_body (1000 bytes)" in str(error)
        await transport.aclose()


# -- Time --------------------------------------------------------------------------------------------------------------


class TestTime:
    async def test_everybody_has_their_own_timeout(self, serve: Serve, transport: AiohttpTransport) -> None:
        """Each call ends with its own timeout, however many run at the same time."""
        server = await serve(hold)
        quick = await serve(says(answer()))
        loop = asyncio.get_running_loop()

        async def waits(seconds: float) -> float:
            start = loop.time()
            with pytest.raises(RequestTimeoutError, match=f"within {seconds:g} s"):
                await transport.send(server.request(), timeout=seconds)
            return loop.time() - start - seconds

        async with asyncio.timeout(AT_ONCE):
            await transport.send(quick.request(), timeout=2 * SHORT)
            late = await asyncio.gather(*(waits(SHORT * times) for times in (3, 0.5, 1, 0.5)))
            await transport.send(quick.request(), timeout=2 * SHORT)
            late.append(await waits(SHORT / 5))
        assert min(late) > -0.01

    async def test_a_pause_is_no_end(self, serve: Serve) -> None:
        """A body that pauses is waited for. Only its silence beyond the timeout ends the call."""
        async with watched("on_request_end") as (session, headers_read):

            async def script(wire: Wire) -> None:
                await wire.hear()
                await wire.say(answer(GOOD[:5], length=len(GOOD)))
                await headers_read.wait()
                await asyncio.sleep(0.25)
                await wire.say(GOOD[5:])
                await wire.wait_until_gone()

            server = await serve(script)
            response = await AiohttpTransport(session).send(server.request(), timeout=AT_ONCE)
        assert response.body == GOOD


# -- Cancelling and closing --------------------------------------------------------------------------------------------


@frozen
class Stage:
    """A call that has come to a stage, and the call before it."""

    transport: AiohttpTransport
    task: asyncio.Task[Response]
    ahead: list[asyncio.Task[Response]]
    server: Server


@pytest.fixture(params=["queue", "handshake", "headers", "body"])
async def stage(request: pytest.FixtureRequest, serve: Serve) -> AsyncIterator[Stage]:
    where = request.param
    event = {"queue": "on_connection_queued_start", "body": "on_request_end"}.get(where, "on_request_start")
    script = {"handshake": Wire.wait_until_gone, "body": says(answer(b"{", length=99))}.get(where, hold)
    server = await serve(script)
    wanted = server.request()
    if where == "handshake":
        wanted = Request("GET", wanted.url.replace("http:", "https:"), wanted.headers)
    async with watched(event, limit=1) as (session, reached), asyncio.timeout(AT_ONCE):
        transport = AiohttpTransport(session)
        transport._owns_session = True  # so that closing the one closes the other
        transport._binding.bind()
        ahead = []
        if where == "queue":
            ahead.append(asyncio.create_task(transport.send(wanted, timeout=AT_ONCE)))
            await server.heard.wait()
        # aiohttp does not end a handshake when its session is closed: only half of the timeout does.
        timeout = SHORT if where == "handshake" else AT_ONCE
        task = asyncio.create_task(transport.send(wanted, timeout=timeout))
        await reached.wait()
        await (server.connected if where == "handshake" else server.heard).wait()
        yield Stage(transport, task, ahead, server)
        await asyncio.gather(*ahead, task, return_exceptions=True)


class TestCancelling:
    async def test_cancelling_passes(self, stage: Stage) -> None:
        """A call that is cancelled, wherever it is, ends with CancelledError, and its connection with it."""
        for task in (stage.task, *stage.ahead):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await stage.server.all_gone()

    async def test_closing_ends_calls(self, stage: Stage) -> None:
        """Closing the transport ends every running call with ClientClosedError.

        It ends neither with a cancellation nor with the timeout.
        """
        await stage.transport.aclose()
        for task in (stage.task, *stage.ahead):
            with pytest.raises(ClientClosedError) as caught:
                await task
            assert CANARY_TOKEN not in secrets_of(caught.value)
        await stage.server.all_gone()

    async def test_cancelled_while_closing(self, stage: Stage) -> None:
        """A call that is cancelled in the moment of closing is cancelled."""
        closing = asyncio.create_task(stage.transport.aclose())
        stage.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stage.task
        await closing


class TestLoops:
    def test_a_session_of_another_loop(self) -> None:
        """A session of another loop is a configuration error with advice."""

        async def opened() -> aiohttp.ClientSession:
            return aiohttp.ClientSession()

        async def ask() -> None:
            async with asyncio.timeout(AT_ONCE):
                with socket.create_server((LOOPBACK, 0)) as listener:
                    request = Request("GET", f"http://{LOOPBACK}:{listener.getsockname()[1]}/")
                    await AiohttpTransport(session).send(request, timeout=SHORT)

        with asyncio.Runner() as one, asyncio.Runner() as other:
            session = one.run(opened())
            with pytest.raises(ConfigurationError, match="another event loop"):
                other.run(ask())
            one.run(session.close())


async def test_a_transport_of_its_own_is_closed(monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int) -> None:
    """Without transport= the client makes an AiohttpTransport, and closes it."""
    closed = []
    close = AiohttpTransport.aclose

    async def aclose(self: AiohttpTransport) -> None:
        closed.append(self)
        await close(self)

    monkeypatch.setattr(AiohttpTransport, "aclose", aclose)
    base_url = f"http://127.0.0.1:{unused_tcp_port}"
    async with UsageClient("AAAA", base_url=base_url, retry=RetryPolicy.none()) as client:
        with pytest.raises(ConnectError):
            await client.get_usage()
    assert len(closed) == 1
