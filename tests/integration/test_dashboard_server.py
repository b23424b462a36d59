"""The HTTP server on a real socket. Headers of malformed requests, slow and many clients, a quick end."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from twusage.dashboard import server
from twusage.dashboard.guards import HEADERS, text_response
from twusage.dashboard.server import serving

pytest.importorskip("aiohttp")

from aiohttp import web

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def answer(request: web.BaseRequest) -> web.StreamResponse:
    if request.path == "/bug":
        raise RuntimeError("a bug")
    if request.path == "/slow":
        await asyncio.sleep(60)
    if request.path == "/large":
        return web.Response(body=b"x" * 50_000_000, headers=HEADERS)
    return text_response(200, request.method)


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def exchange(port: int, request: bytes) -> bytes:
    """What the server sends until it closes, or is silent."""
    async with connected(port) as (reader, writer):
        writer.write(request)
        sent = b""
        try:
            async with asyncio.timeout(1):
                while part := await reader.read(65536):
                    sent += part
                    if b"\r\n\r\n" in sent and sent.endswith(b"\n"):
                        break
        except (TimeoutError, ConnectionError):
            pass
        return sent


async def test_get_and_head() -> None:
    """A body for GET, none for HEAD, and the same headers."""
    async with serving(answer, "127.0.0.1", 0) as port:
        assert (await exchange(port, GET)).endswith(b"\r\n\r\nGET\n")
        head = await exchange(port, GET.replace(b"GET", b"HEAD"))
        assert head.endswith(b"\r\n\r\n")
        assert b"Content-Length: 5\r\n" in head


@pytest.mark.parametrize(
    "request_",
    [
        b"BROKEN\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"SECRET" * 2000 + b"\r\n\r\n",
        b"GET /" + b"SECRET" * 2000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /bug HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03SECRET\r\n\r\n",
    ],
)
async def test_malformed_requests(request_: bytes) -> None:
    """The headers of all responses, without a word of aiohttp, Python, or the request."""
    async with serving(answer, "127.0.0.1", 0) as port:
        sent = await exchange(port, request_)
        assert re.match(rb"HTTP/1\.[01] (400|431|500) ", sent)
        for name, value in HEADERS.items():
            assert f"{name}: {value}\r\n".encode() in sent
        for word in (b"aiohttp", b"Python", b"SECRET", b"BROKEN", b"bug", b"Traceback"):
            assert word not in sent.partition(b"\r\n")[2]
        # The server is as good as before.
        assert (await exchange(port, GET)).endswith(b"GET\n")


@pytest.mark.parametrize(
    "more",
    [b"Expect: 100-continue\r\n", b"Expect: 200-maybe\r\n", b"Upgrade: websocket\r\nConnection: Upgrade\r\n"],
)
async def test_expect_and_upgrade(more: bytes) -> None:
    """Neither is a way around the headers."""
    async with serving(answer, "127.0.0.1", 0) as port:
        sent = await exchange(port, GET[:-2] + more + b"\r\n")
        assert sent.startswith(b"HTTP/1.1 200 ")
        assert sent.count(b"HTTP/1.1") == 1
        assert b"Server: twusage\r\n" in sent


async def test_a_body_is_not_read() -> None:
    """A request with a body is answered. The rest of the body does not keep the connection."""
    async with serving(answer, "127.0.0.1", 0) as port, connected(port) as (reader, writer):
        writer.write(GET[:-2] + b"Content-Length: 1000000\r\n\r\nabc")
        async with asyncio.timeout(2):
            assert b"200 OK" in await reader.read()


@pytest.mark.parametrize("drip", [False, True])
async def test_slow_requests(monkeypatch: pytest.MonkeyPatch, drip: bool) -> None:
    """A connection without a whole request in time is closed. The server serves others meanwhile."""
    monkeypatch.setattr(server, "_TIMEOUT", 0.4)
    async with serving(answer, "127.0.0.1", 0) as port, connected(port) as (reader, writer):
        began = time.monotonic()
        writer.write(b"GET / HTTP/1.1\r\nX: ")
        closed = asyncio.create_task(reader.read())
        while not closed.done() and time.monotonic() - began < 6:
            if drip:
                writer.write(b"a")
            await asyncio.wait([closed], timeout=0.05)
            if time.monotonic() - began < 0.3:
                assert (await exchange(port, GET)).endswith(b"GET\n")
        assert 0.3 < time.monotonic() - began < 5


async def test_a_slow_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not read its response is closed, too."""
    monkeypatch.setattr(server, "_TIMEOUT", 0.4)
    async with serving(answer, "127.0.0.1", 0) as port, connected(port) as (reader, writer):
        writer.write(GET.replace(b"/ ", b"/large "))
        await asyncio.sleep(1)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(50_000_000)


async def test_many_connections() -> None:
    """64 connections; one more is closed, and the 64 are served."""
    async with serving(answer, "127.0.0.1", 0) as port:
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(64)]
        await asyncio.sleep(0.05)
        assert await exchange(port, GET) == b""
        for reader, writer in opened:
            writer.write(GET)
            assert b"200 OK" in await reader.readline()
            writer.close()
        await asyncio.sleep(0.05)
        assert (await exchange(port, GET)).endswith(b"GET\n")


async def test_keep_alive() -> None:
    """Several requests on one connection, also sent together."""
    async with serving(answer, "127.0.0.1", 0) as port, connected(port) as (reader, writer):
        for together in (1, 3, 40):
            writer.write(GET * together)
            for _ in range(together):
                assert b"200 OK" in await reader.readline()
                await reader.readuntil(b"GET\n")


async def test_the_end_is_quick() -> None:
    """Open connections and running responses do not delay the end, and the port is free immediately."""
    began = None
    async with serving(answer, "127.0.0.1", 0) as port:
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        opened[0][1].write(GET.replace(b"/ ", b"/slow "))
        opened[1][1].write(b"GET / HT")
        await asyncio.sleep(0.05)
        began = time.monotonic()
    assert time.monotonic() - began < 4  # A running response would take 60 s.
    async with serving(answer, "127.0.0.1", port) as again:
        assert again == port
    for _, writer in opened:
        writer.close()
