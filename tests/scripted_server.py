"""A server on loopback that sends scripted bytes, and checks of the outcome.

For ``test_aiohttp_wire`` and the fault catalogue in ``faults/``: what a server may do is here, the outcome there.
"""

import asyncio
import copy
import gzip
import pickle
import socket
import ssl
import struct
import traceback
import zlib
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, Literal

from twusage.errors import TwUsageError
from twusage.protocol import Request

LOOPBACK = "127.0.0.1"
# Marked, so that tests can search all output for it. As long as a real token.
CANARY_TOKEN = "AAAAAAAAAAAAAAAAAAAAACANARY%2Fcanary%3D0a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6"
Retry = Literal["always", "once", "never"]
# Seconds within which everything here happens that is not about time. No test ever waits that long.
AT_ONCE = 5.0
# The timeout of the tests that are about time, and how much later than that is still in time.
SHORT, GRACE = 0.25, 0.75
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
GOOD = b'{"data": {"project_cap": "2000000"}}'
ZIPPED = gzip.compress(GOOD, mtime=0)


def answer(body: bytes = GOOD, *headers: bytes, status: bytes = b"200 OK", length: int | None = None) -> bytes:
    """A complete response, with a correct content-length unless another is passed."""
    content_length = b"content-length: %d" % (len(body) if length is None else length)
    return b"\r\n".join((b"HTTP/1.1 " + status, *headers, content_length, b"", body))


def zipped(body: bytes) -> bytes:
    return answer(body, b"content-encoding: gzip")


# -- The server --------------------------------------------------------------------------------------------------------


class Wire:
    """One connection, as the server sees it."""

    def __init__(self, server: "Server", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer

    async def hear(self) -> bytes:
        """The next request, whole. ``EOFError`` when the client has gone."""
        request = await self._reader.readuntil(b"\r\n\r\n")
        self._server.requests.append(request)
        self._server.heard.set()
        return request

    async def say(self, data: bytes) -> None:
        for piece in self._server.cut(data):
            self._writer.write(piece)
            await self._writer.drain()
            if piece is not data:
                for _ in range(3):  # so that the client, on the same loop, has read it before the next one comes
                    await asyncio.sleep(0)

    async def wait_until_gone(self) -> None:
        """Until the client closes the connection."""
        while await self._reader.read(2**16):
            pass

    def reset(self) -> None:
        """End it with a RST, so that the client's kernel reports an error and not an end."""
        connection = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


Script = Callable[[Wire], Awaitable[None]]


class Server:
    """Runs one script for every connection, and counts."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None) -> None:
        self._script = script
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self.cut: Callable[[bytes], Iterable[bytes]] = lambda data: [data]
        """How its bytes are cut into packets."""
        self.connections = 0
        self.requests: list[bytes] = []
        self.connected = asyncio.Event()
        """A connection was made."""
        self.heard = asyncio.Event()
        """A request has arrived."""

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, LOOPBACK, 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.connected.set()
        try:
            with suppress(EOFError, OSError):
                await self._script(Wire(self, reader, writer))
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            self._tasks.discard(task)

    async def all_gone(self) -> None:
        """Until no connection is open any more."""
        async with asyncio.timeout(AT_ONCE):
            while self._tasks:
                await asyncio.wait(self._tasks)

    async def close(self) -> None:
        self._server.close()
        await self.all_gone()
        await self._server.wait_closed()

    def request(self, host: str = LOOPBACK, query: str = "", **extra: Any) -> Request:
        """A request to this server, with the canary."""
        scheme = "https" if self._tls else "http"
        url = f"{scheme}://{host}:{self.port}/2/usage/tweets{query}"
        return Request("GET", url, {"authorization": f"Bearer {CANARY_TOKEN}"}, **extra)


def says(*data: bytes, then: str = "hold") -> Script:
    """Answers every request of a connection with these bytes. Then it holds, closes or resets the connection."""

    async def script(wire: Wire) -> None:
        while True:
            await wire.hear()
            for piece in data:
                await wire.say(piece)
            if then == "reset":
                wire.reset()
            if then != "hold":
                return

    return script


async def hold(wire: Wire) -> None:
    """Reads the request and never responds."""
    await wire.hear()
    await wire.wait_until_gone()


def bomb(megabytes: int) -> bytes:
    """Gzip of so many MiB of zeros, made without inflating them. A block that ends on a byte may be repeated."""
    deflate = zlib.compressobj(9, wbits=31)
    head = deflate.compress(bytes(2**20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    block = deflate.compress(bytes(2**20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    return head + block * (megabytes - 1) + deflate.flush()


# -- What an error must be ---------------------------------------------------------------------------------------------


def retry_of(error: TwUsageError) -> Retry:
    """How often a call may be retried after this error."""
    return "once" if error.retry_once else "always" if error.retryable else "never"


def secrets_of(error: BaseException) -> str:
    """All that a person can get to read of an error. Its chain, its traceback with the locals of this package.

    Not a response's body and headers: they hold what arrived, also an echo of the token.
    """
    bare = copy.copy(error)
    for what_came in vars(bare).keys() & {"body", "headers"}:
        setattr(bare, what_came, None)
    seen = [str(error), repr(error), repr(error.args), repr(vars(bare)), str(pickle.dumps(bare))]
    trace = traceback.TracebackException.from_exception(error, capture_locals=True)
    seen += [repr(frame.locals) for frame in trace.stack if "twusage" in frame.filename.rpartition("/")[0]]
    for chained in (error.__cause__, error.__context__):
        if chained is not None:
            assert not type(chained).__module__.startswith("aiohttp"), chained
            seen.append(secrets_of(chained))
    return "\n".join(seen)
