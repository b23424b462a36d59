"""The fault catalogue as a table. Everything that a client of this endpoint can meet, and what must come of it.

A row belongs here when one call meets it. What takes two calls, or a clock, is in ``test_faults``.

Each row states how often its error may be retried: always, once or never.
"""

import asyncio
import datetime as dt
import gzip
import itertools
import json
import socket
import ssl
import threading
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from functools import cache
from typing import Any
from unittest import mock

import aiohttp
import trustme
from fault_harness import Act, Case, Place, served
from scripted_server import (
    CANARY_TOKEN,
    CHUNKED,
    GOOD,
    LOOPBACK,
    OK,
    ZIPPED,
    Retry,
    Script,
    Server,
    Wire,
    answer,
    bomb,
    zipped,
)

from twusage.aiohttp_transport import AiohttpTransport
from twusage.errors import (
    ApiError,
    AuthenticationError,
    BadRequestError,
    ConnectError,
    CreditsDepletedError,
    DecodeError,
    ForbiddenError,
    ProtocolError,
    RateLimitedError,
    RequestTimeoutError,
    ServerError,
    SpendCapReachedError,
    TlsError,
    TwUsageError,
    UsageCapExceededError,
)
from twusage.protocol import Response
from twusage.testing import Fault

# Seconds that a call is given which is about time.
SHORT = 0.1

# aiohttp 3.14 itself refuses what older ones let pass.
NEWEST_AIOHTTP = tuple(map(int, aiohttp.__version__.split(".")[:2])) >= (3, 14)

# -- What a server does ------------------------------------------------------------------------------------------------


def saying(*data: bytes, then: str = "hold") -> Act:
    """Sends these bytes. Then it waits for the next request, closes, resets, or stays silent."""

    async def act(wire: Wire) -> None:
        for piece in data:
            await wire.say(piece)
        if then == "reset":
            wire.reset()
        if then == "silent":
            await wire.wait_until_gone()
        if then == "half":  # its half of the connection is closed, and it goes on listening
            wire._writer.write_eof()
            await wire.wait_until_gone()
        if then != "hold":
            raise EOFError

    return act


def dripping(head: bytes, drop: bytes, *, every: float = 0.01) -> Act:
    """Sends one part, and then another again and again."""

    async def act(wire: Wire) -> None:
        await wire.say(head)
        while True:
            await wire.say(drop)
            await asyncio.sleep(every)

    return act


# -- Other places ------------------------------------------------------------------------------------------------------


def somewhere(
    *, tls: Callable[[], ssl.SSLContext] | None = None, scheme: str = "http", script: Script | None = None, **given: Any
) -> Callable[[Script], AbstractAsyncContextManager[Place]]:
    """A server of our own, called over the passed transport."""

    @asynccontextmanager
    async def place(usual: Script) -> AsyncIterator[Place]:
        server = Server(script or usual, tls() if tls else None)
        transport = AiohttpTransport(**{name: value() for name, value in given.items()})
        await server.open()
        try:
            yield Place(f"{'https' if tls else scheme}://{LOOPBACK}:{server.port}", transport, server)
        finally:
            await transport.aclose()
            await server.close()

    return place


def elsewhere(*addresses: str, silent: bool = False, name: Any = None) -> Callable[[Script], Any]:
    """No listener, or a full backlog without a reply, at each of these addresses.

    ``name``: the result of its look-up, if that is not the addresses.
    """

    @asynccontextmanager
    async def place(usual: Script) -> AsyncIterator[Place]:
        with ExitStack() as open_sockets:
            port = 0
            for address in addresses:
                listener = open_sockets.enter_context(socket.socket())
                listener.bind((address, port))
                port = listener.getsockname()[1]
                if silent:
                    listener.listen(0)
                    for _ in range(2):
                        waiting = open_sockets.enter_context(socket.socket())
                        waiting.setblocking(False)
                        waiting.connect_ex((address, port))
            async with looked_up(name or addresses):
                transport = AiohttpTransport()
                yield Place(f"http://localhost:{port}", transport)
                await transport.aclose()

    return place


@asynccontextmanager
async def looked_up(found: Any) -> AsyncIterator[None]:
    """The name leads to these addresses, or to the function's result."""
    ended = threading.Event()

    def getaddrinfo(_: Any, port: Any, *__: Any, **___: Any) -> Any:
        if callable(found):
            return found(ended)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    with mock.patch.object(socket, "getaddrinfo", getaddrinfo):
        yield
    ended.set()


@asynccontextmanager
async def one_address_of_three(script: Script) -> AsyncIterator[Place]:
    async with served(script) as place, looked_up(["127.0.0.2", "127.0.0.3", LOOPBACK]):
        assert place.server is not None
        yield Place(f"http://localhost:{place.server.port}", place.transport, place.server)


def unknown_name(_: threading.Event) -> None:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def silent_name(ended: threading.Event) -> None:
    """A name server without a response blocks the thread of the look-up."""
    ended.wait()
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


async def cut_handshake(wire: Wire) -> None:
    await wire._reader.read(1)


async def reset_handshake(wire: Wire) -> None:
    await wire._reader.read(1)
    wire.reset()


async def plain_http(wire: Wire) -> None:
    await wire.say(answer(status=b"400 Bad Request"))
    await wire.wait_until_gone()


def refusing_proxy(status: bytes) -> Callable[[Script], AbstractAsyncContextManager[Place]]:
    @asynccontextmanager
    async def place(_: Script) -> AsyncIterator[Place]:
        async def script(wire: Wire) -> None:
            await wire._reader.readuntil(b"\r\n\r\n")
            if status:
                await wire.say(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n")

        proxy = Server(script, None)
        await proxy.open()
        transport = AiohttpTransport(proxy=f"http://{LOOPBACK}:{proxy.port}")
        yield Place("https://api.test", transport, proxy)
        await transport.aclose()
        await proxy.close()

    return place


@cache
def authority() -> trustme.CA:
    return trustme.CA()


def identity(name: str, **when: Any) -> Callable[[], ssl.SSLContext]:
    def context() -> ssl.SSLContext:
        made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority().issue_cert(name, **when).configure_cert(made)
        return made

    return context


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority().configure_trust(context)
    return context


# -- connect -----------------------------------------------------------------------------------------------------------


def unsent(
    name: str, place: Any, *, retry: Retry = "always", error: type[TwUsageError] = ConnectError, **more: Any
) -> Case:
    return Case("connect", name, error, retry, place=place, sent=False, cut=False, **more)


def connect_cases() -> Iterator[Case]:
    silent: dict[str, Any] = {"timeout": SHORT}
    yield unsent("refused", elsewhere(LOOPBACK), fault=Fault.connect_error(), words="")
    yield unsent("refused at every address", elsewhere(LOOPBACK, "127.0.0.2", "127.0.0.3"))
    yield unsent("unknown name", elsewhere(name=unknown_name), words="Name or service not known")
    yield unsent("a name without a DNS response", elsewhere(name=silent_name), **silent)
    yield unsent("connect timeout", elsewhere(LOOPBACK, silent=True), words="no connection within", **silent)
    yield unsent(
        "three addresses that do not answer", elsewhere(LOOPBACK, "127.0.0.2", "127.0.0.3", silent=True), **silent
    )
    yield Case("connect", "two dead addresses and a good one", None, place=one_address_of_three)
    yield unsent("TLS handshake hangs", somewhere(scheme="https", script=Wire.wait_until_gone), **silent)
    yield unsent("TLS handshake is cut", somewhere(scheme="https", script=cut_handshake))
    yield unsent("TLS handshake is reset", somewhere(scheme="https", script=reset_handshake))
    yield unsent("untrusted CA", somewhere(tls=identity(LOOPBACK)), retry="never", error=TlsError)
    yield unsent("wrong host name", somewhere(tls=identity("other.test"), ssl=trusting), retry="never", error=TlsError)
    past = {"not_before": dt.datetime(2019, 1, 1, tzinfo=dt.UTC), "not_after": dt.datetime(2020, 1, 1, tzinfo=dt.UTC)}
    expired = somewhere(tls=identity(LOOPBACK, **past), ssl=trusting)
    yield unsent("expired certificate", expired, retry="never", error=TlsError)
    yield unsent("no TLS spoken", somewhere(scheme="https", script=plain_http), retry="never", error=TlsError)
    yield Case("connect", "a CA of one's own", None, place=somewhere(tls=identity(LOOPBACK), ssl=trusting))
    for status in (b"502 Bad Gateway", b"407 Proxy Authentication Required", b""):
        yield unsent(f"proxy sends {status.decode() or 'nothing'}", refusing_proxy(status))


# -- sending -----------------------------------------------------------------------------------------------------------


def broken(name: str, retry: Retry, *data: bytes, layer: str = "reading", then: str = "hold", **more: Any) -> Case:
    return Case(layer, name, ProtocolError, retry, saying(*data, then=then), **more)


def sending_cases() -> Iterator[Case]:
    begun = {
        "any byte": b"",
        "the status is whole": b"HTTP/1.1 20",
        "the headers are whole": OK + b"content-le",
        "the last line": OK + b"content-length: 2\r\n",
        "the final response": b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n",
    }
    for (name, data), then in itertools.product(begun.items(), ("close", "reset", "half")):
        fault = Fault.disconnected() if not data and then == "close" else None
        yield broken(f"{then} before {name}", "always", data, layer="sending", then=then, fault=fault)


# -- reading -----------------------------------------------------------------------------------------------------------

GZIP = b"content-encoding: gzip"


def reading_cases() -> Iterator[Case]:
    yield from slow_cases()
    yield from cut_cases()
    yield from garbled_cases()
    yield from foreign_cases()
    yield from gzip_cases()
    yield from large_cases()
    yield from encoding_cases()
    yield from good_cases()


def slow_cases() -> Iterator[Case]:
    def slow(name: str, act: Act, **more: Any) -> Case:
        return Case("reading", name, RequestTimeoutError, "always", act, timeout=SHORT, cut=False, **more)

    yield slow("no response", saying(then="silent"), fault=Fault.timeout())
    yield slow("stall in the status", saying(b"HTTP/1.1 2", then="silent"))
    yield slow("stall in the headers", saying(OK + b"content-le", then="silent"))
    yield slow("stall in the body", saying(answer(b"{", length=99), then="silent"))
    yield slow("stall in a chunk", saying(CHUNKED + b"10\r\n{", then="silent"))
    yield slow("stall in a chunk's size", saying(CHUNKED + b"1", then="silent"))
    yield slow("stall in the trailers", saying(CHUNKED + b"2\r\n{}\r\n0\r\nx: ", then="silent"))
    yield slow("stall in gzip", saying(answer(ZIPPED[:9], GZIP, length=99), then="silent"))
    yield slow("a 100 and nothing", saying(b"HTTP/1.1 100 Continue\r\n\r\n", then="silent"))
    yield slow("endless 1xx", dripping(b"", b"HTTP/1.1 102 Processing\r\n\r\n"))
    yield slow("a flood of 1xx", dripping(b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 50, every=0))
    yield slow("slow headers", dripping(OK, b"x: y\r\n"))
    yield slow("a slow header", dripping(OK + b"x: ", b"y"))
    yield slow("a slow body", dripping(answer(b"", length=9999), b"x"))
    yield slow("slow chunks", dripping(CHUNKED, b"1\r\nx\r\n"))
    yield slow("a slow chunk's extension", dripping(CHUNKED + b"1;", b"x"))
    yield slow("slow trailers", dripping(CHUNKED + b"0\r\n", b"x: y\r\n"))
    yield slow("a slow endless body", dripping(OK + b"\r\n", b"x"))
    yield slow("a half closed connection and no end", dripping(OK + b"\r\n{", b" "))


def cut_cases() -> Iterator[Case]:
    for then in ("close", "reset", "half"):
        fault = Fault.reset() if then == "reset" else None
        yield broken(f"body: {then}", "always", answer(b"{", length=99), then=then, fault=fault)
        yield broken(f"body not begun: {then}", "always", answer(b"", length=99), then=then)
        yield broken(f"chunk: {then}", "always", CHUNKED + b"10\r\n{", then=then)
        yield broken(f"between chunks: {then}", "always", CHUNKED + b"2\r\n{}\r\n", then=then)
        yield broken(f"chunk not begun: {then}", "always", CHUNKED, then=then)
    yield broken("cut in a chunk's size", "always", CHUNKED + b"2\r\n{}\r\n1", then="close")
    yield broken("cut in the last chunk", "always", CHUNKED + b"2\r\n{}\r\n0\r\n", then="close")
    yield broken("cut in the trailers", "always", CHUNKED + b"2\r\n{}\r\n0\r\nx: y\r\n", then="close")
    for name, kept in {"its header": 5, "its middle": len(ZIPPED) - 12, "its CRC": -6, "its length": -2}.items():
        yield broken(f"gzip cut in {name}", "always", zipped(ZIPPED[:kept]))
    yield broken("gzip cut with the connection", "always", OK + GZIP + b"\r\n\r\n" + ZIPPED[:-9], then="close")


def garbled_cases() -> Iterator[Case]:
    def chunked(*chunks: bytes) -> bytes:
        return CHUNKED + b"".join(chunks)

    bad_chunks = {
        "no size": b"zz\r\n{}\r\n",
        "an empty size": b"\r\n{}\r\n",
        "a negative size": b"-2\r\n{}\r\n",
        "a size with a 0x": b"0x2\r\n{}\r\n0\r\n\r\n",
        "a size with an underscore": b"0_2\r\n{}\r\n0\r\n\r\n",
        "too much in it": b"2\r\n{}{}{}\r\n",
        "a size that overflows": b"f" * 21 + b"\r\n{}\r\n",
        "a later bad size": b"2\r\n{}\r\nzz\r\n",
    }
    for name, chunks in bad_chunks.items():
        yield broken(f"chunk with {name}", "once", chunked(chunks))
        yield broken(f"chunk with {name}, and the end", "once", chunked(chunks), then="close")
    lengths = {
        "negative": b"-5",
        "no number": b"2x",
        "signed": b"+2",
        "empty": b"",
        "hexadecimal": b"0x2",
        "in other digits": "٢".encode(),
        "with an underscore": b"0_2",
        "a list of two": b"2, 3",
        "400 digits": b"9" * 400,
    }
    for name, length in lengths.items():
        yield broken(f"content-length: {name}", "once", OK + b"content-length: " + length + b"\r\n\r\n{}")
    yield broken("the same content-length twice", "once", OK + b"content-length: 2\r\n" * 2 + b"\r\n{}")
    yield broken("two content-lengths", "once", OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}")
    te = b"transfer-encoding: chunked\r\n"
    body = b"2\r\n{}\r\n0\r\n\r\n"
    yield broken("content-length with chunks", "once", OK + b"content-length: 2\r\n" + te + b"\r\n" + body)
    yield broken("chunks with content-length", "once", OK + te + b"content-length: 2\r\n\r\n" + body)
    bad_headers = {
        "NUL in a name": b"x\0y: 1",
        "NUL in a value": b"x: 1\x002",
        "a space in a name": b"x y: 1",
        "a space before the colon": b"x : 1",
        "no colon": b"nothing",
        "no name": b": 1",
        "a bare CR in a value": b"x: 1\r2",
        "letters beyond ASCII in a name": "ü: 1".encode(),
        "a long value": b"x: " + b"y" * 70_000,
        "a long name": b"x" * 70_000 + b": y",
        "a huge cookie": b"set-cookie: a=" + b"y" * 70_000,
    }
    if not NEWEST_AIOHTTP:  # Older ones accept it, which is harmless.
        del bad_headers["NUL in a value"]
    for name, header in bad_headers.items():
        yield broken(f"header: {name}", "once", answer(GOOD, header), cut=len(header) < 99)
    yield broken("header without an end", "once", OK + b"x: " + b"y" * 90_000, cut=False)
    if NEWEST_AIOHTTP:  # Older ones accept any number of them.
        many = (b"x-%d: 1" % number for number in range(5000))
        yield broken("too many headers", "once", answer(GOOD, *many), cut=False)
    yield broken("a long reason", "once", answer(status=b"200 " + b"y" * 9000), cut=False)
    yield broken("a long trailer", "once", CHUNKED + b"2\r\n{}\r\n0\r\nx: " + b"y" * 90_000, cut=False)


def foreign_cases() -> Iterator[Case]:
    spoken = {
        "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
        "SMTP": b"220 mail.test ESMTP\r\n",
        "FTP": b"220 (vsFTPd 3.0.5)\r\n",
        "TLS": b"\x15\x03\x01\x00\x02\x02\x46",
        "HTTP/2": b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80",
        "Redis": b"-ERR unknown command\r\n",
        "control characters": b"\x1b]0;owned\x07\x1b[2J\r\n\r\n",
        "a request": b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        "JSON without HTTP": GOOD + b"\r\n\r\n",
        "HTML without HTTP": b"<html><body>503</body></html>\r\n\r\n",
        "ICY": b"ICY 200 OK\r\n\r\n",
        "HTTP/3.7": b"HTTP/3.7 200 OK\r\n\r\n",
        "HTTP/11": b"HTTP/11 200 OK\r\n\r\n",
        "HTTP without a version": b"HTTP 200 OK\r\n\r\n",
        "http in lower case": b"http/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        "two spaces": b"HTTP/1.1  200 OK\r\ncontent-length: 2\r\n\r\n{}",
        "status 2000": answer(status=b"2000 OK"),
        "status 20": answer(status=b"20 OK"),
        "status abc": answer(status=b"abc OK"),
        "status -20": answer(status=b"-20 OK"),
        "status 2e2": answer(status=b"2e2 OK"),
        "no status": answer(status=b""),
    }
    for name, data in spoken.items():
        yield broken(name, "once", data)
    yield broken("HTTP/0.9", "once", GOOD, then="close")
    echo = CANARY_TOKEN.encode()
    for name, data in {
        "first line": echo + b" is not HTTP\r\n\r\n",
        "reason": b"HTTP/1.1 200 " + echo + b"y" * 9000 + b"\r\n\r\n",
        "name": OK + b"x\0" + echo + b": 1\r\n\r\n",
        "length": OK + b"content-length: " + echo + b"\r\n\r\n",
        "chunk size": CHUNKED + echo + b"\r\n",
    }.items():
        yield broken(f"the token in the {name}", "once", data, cut=len(data) < 999)
    for status in (b"000", b"099", b"201", b"202", b"206", b"226", b"600", b"999"):
        yield broken(f"status {status.decode()}", "once", answer(status=status + b" X"))
    switched = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: %s\r\nconnection: upgrade\r\n\r\n\x81\x05hello"
    for protocol in (b"websocket", b"h2c", b"tcp"):
        yield broken(f"101 {protocol.decode()}", "once", switched % protocol)
    yield broken("101 without upgrade", "once", b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    for status, fault in ((b"204 No Content", 204), (b"304 Not Modified", 304)):
        head = b"HTTP/1.1 " + status + b"\r\n"
        yield broken(f"{fault}", "once", head + b"\r\n", fault=Fault.status(fault, b""))
        yield broken(f"{fault} with a length", "once", head + b"content-length: 10\r\n\r\n")
        yield broken(f"{fault} with a body", "once", head + b"content-length: 2\r\n\r\n{}")
        yield broken(f"{fault} with chunks", "once", head + te_chunked() + b"2\r\n{}\r\n0\r\n\r\n")
        yield broken(f"{fault} with an encoding", "once", head + GZIP + b"\r\n\r\n")
    yield broken("205", "once", answer(b"", status=b"205 Reset Content"))
    yield broken("an empty 200", "once", answer(b""), fault=Fault.empty())
    yield broken("an empty chunked 200", "once", CHUNKED + b"0\r\n\r\n")
    yield broken("an empty gzip 200", "once", zipped(gzip.compress(b"")))
    yield broken("an empty 200 that ends with the connection", "once", OK + b"\r\n", then="close")


def te_chunked() -> bytes:
    return b"transfer-encoding: chunked\r\n\r\n"


def gzip_cases() -> Iterator[Case]:
    damaged = {
        "a broken middle": ZIPPED[:12] + b"\xff\xff\xff" + ZIPPED[15:],
        "a wrong CRC": ZIPPED[:-8] + b"\1\2\3\4" + ZIPPED[-4:],
        "a wrong length": ZIPPED[:-4] + b"\1\2\3\4",
        "bytes after it": ZIPPED + b"!",
        "another after it": ZIPPED + ZIPPED,
        "zeros after it": ZIPPED + bytes(8),
        "no gzip": GOOD,
        "zlib": zlib.compress(GOOD),
        "raw deflate": zlib.compress(GOOD)[2:-4],
        "a reserved flag": ZIPPED[:3] + b"\xe0" + ZIPPED[4:],
        "another method": ZIPPED[:2] + b"\x07" + ZIPPED[3:],
        "a bad magic": b"\x1f\x8c" + ZIPPED[2:],
    }
    for name, data in damaged.items():
        yield broken(f"gzip with {name}", "once", zipped(data))
        chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data)
        yield broken(f"chunked gzip with {name}", "once", CHUNKED[:-2] + GZIP + b"\r\n\r\n" + chunks)


def large_cases() -> Iterator[Case]:
    piece = bytes(2**16)

    async def endless(wire: Wire) -> None:
        await wire.say(OK + b"\r\n")
        while True:
            await wire.say(piece)

    async def bombed(wire: Wire) -> None:
        await wire.say(answer(bomb(512), GZIP))
        await wire.wait_until_gone()

    def repeating(head: bytes, block: bytes) -> Act:
        many = block * 2**14
        chunk = b"%x\r\n%s\r\n" % (len(many), many)
        start = CHUNKED[:-2] + GZIP + b"\r\n\r\n" + b"%x\r\n%s\r\n" % (len(head), head)
        return dripping(start, chunk, every=0)

    def large(name: str, act: Act) -> Case:
        return Case("reading", name, ProtocolError, "never", act, words="max_body", cut=False, timeout=30.0)

    yield large("a gzip bomb", bombed)
    yield large("gzip whose name has no end", repeating(ZIPPED[:3] + b"\x08" + ZIPPED[4:10], b"x"))
    yield large("gzip of empty blocks without end", repeating(ZIPPED[:10], b"\0\0\0\xff\xff"))
    yield large("256 MiB in chunks", saying(CHUNKED, *[b"100000\r\n" + bytes(2**20) + b"\r\n"] * 256))
    yield large("256 MiB announced", saying(answer(b"", length=256 * 2**20)))
    yield large("an endless body", endless)


def encoding_cases() -> Iterator[Case]:
    for name in (b"br", b"ZSTD", b"deflate", b"compress", b"gzip, gzip", b"gzip, identity, br", b"*", b"utf-8"):
        yield broken(f"content-encoding: {name.decode()}", "never", answer(ZIPPED, b"content-encoding: " + name))
    yield broken("content-encoding twice", "never", answer(ZIPPED, b"content-encoding: br", GZIP))
    yield broken("content-encoding: the token", "never", answer(GOOD, b"content-encoding: " + CANARY_TOKEN.encode()))
    yield broken(
        "the token in a header of a damaged answer", "once", answer(b"!!", GZIP, b"x: " + CANARY_TOKEN.encode())
    )
    yield broken("content-encoding: garbage", "never", answer(GOOD, b"content-encoding: \x1b[2J\xff" + b"x" * 99))


def good_cases() -> Iterator[Case]:
    one = b"%x\r\n%s\r\n" % (len(GOOD), GOOD)
    good = {
        "plain": answer(),
        "gzip": zipped(ZIPPED),
        "x-gzip": answer(ZIPPED, b"content-encoding:  X-GZIP "),
        "identity": answer(GOOD, b"content-encoding: identity"),
        "one chunk": CHUNKED + one + b"0\r\n\r\n",
        "a chunk a byte": CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in GOOD) + b"0\r\n\r\n",
        "a chunk with zeros before its size": CHUNKED + b"000" + one + b"0\r\n\r\n",
        "chunk extensions": CHUNKED + one.replace(b"\r\n", b';a="b";c\r\n', 1) + b"0;d\r\n\r\n",
        "trailers": CHUNKED + one + b"0\r\nx-trailer: 1\r\n\r\n",
        "1xx first": b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + answer(),
        "an unknown 1xx first": b"HTTP/1.1 199 X\r\n\r\n" + answer(),
        "a header that is not ASCII": answer(GOOD, b"x: \xff\xfe"),
        "an empty header": answer(GOOD, b"x:"),
        "no reason": answer(status=b"200"),
        "an empty reason": answer(status=b"200 "),
        "a reason that is not ASCII": answer(status="200 Gut \xfc".encode("latin-1")),
        "a line end before it": b"\r\n" + answer(),
        "a folded header": answer(GOOD, b"x: 1\r\n 2"),
        "many cookies": answer(GOOD, *(b"set-cookie: c%d=%d; Path=/" % (number, number) for number in range(50))),
        "zeros before the length": OK + b"content-length: 000%d\r\n\r\n" % len(GOOD) + GOOD,
        "text/html in the header": answer(GOOD, b"content-type: text/html; charset=utf-7"),
        "UTF-16 in the header": answer(GOOD, b"content-type: application/json; charset=utf-16"),
        "no known charset": answer(GOOD, b"content-type: application/json; charset=klingon"),
        "no content-type": answer(GOOD),
        "a garbled content-type": answer(GOOD, b"content-type: ;;=\xff"),
        "a BOM": answer(b"\xef\xbb\xbf" + GOOD),
        "HTTP/1.0": answer().replace(b"HTTP/1.1", b"HTTP/1.0"),
    }
    for name, data in good.items():
        yield Case("reading", f"good: {name}", None, act=saying(data))
    closed = {"no length": OK + b"\r\n" + GOOD, "HTTP/1.0 without a length": b"HTTP/1.0 200 OK\r\n\r\n" + GOOD}
    for name, data in closed.items():
        yield Case("reading", f"good: {name}", None, act=saying(data, then="close"))
        yield Case("reading", f"good: {name}, half closed", None, act=saying(data, then="half"))
    yield Case("reading", "good: a complete response, then a reset", None, act=saying(answer(), then="close"))


# -- JSON and model ----------------------------------------------------------------------------------------------------


def reply(
    layer: str,
    name: str,
    error: type[TwUsageError] | None,
    retry: Retry,
    body: bytes,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    fault: Fault | None = None,
    **more: Any,
) -> Case:
    """A row that is a complete response. Over a socket, and from the fake."""
    headers = {} if headers is None else headers
    lines = [f"{name}: {value}".encode() for name, value in headers.items()]
    raw = answer(body, *lines, status=b"%d Status" % status)
    return Case(layer, name, error, retry, saying(raw), fault or Fault.status(status, body, headers=headers), **more)


def undecodable(layer: str, name: str, document: str | bytes, path: str, *, retry: Retry = "never") -> Case:
    body = document if isinstance(document, bytes) else document.encode()
    return reply(layer, name, DecodeError, retry, body, path=path, cut=len(body) < 999)


def json_cases() -> Iterator[Case]:
    def bad(name: str, document: str | bytes, path: str = "$", **more: Any) -> Case:
        return undecodable("JSON", name, document, path, **more)

    for number in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999"):
        yield bad(number, f'{{"data": {{"project_cap": {number}}}}}', "$.data.project_cap")
        yield bad(f"{number} in an unknown field", f'{{"data": {{"new": [{number}]}}}}', "$.data.new[0]")
    # Of a key that comes twice the last one counts, as in every JSON parser.
    for name, twice in {
        "a key twice": rb'{"data": {"project_cap": "1", "project_cap": "2"}}',
        "a key twice, spelled otherwise": rb'{"data": {"project_cap": "1", "project\u005fcap": "2"}}',
        "data twice": b'{"data": {"project_cap": "x"}, "data": {}}',
    }.items():
        yield reply("JSON", name, None, "never", twice)
    yield bad("a lone high surrogate", '{"data": {"project_id": "\\ud800"}}', "$.data.project_id")
    yield bad("a lone low surrogate", '{"data": {"new": "\\udc00x"}}', "$.data.new")
    yield bad("a lone surrogate in a key", '{"data": {"\\ud800": 1}}', "$.data.\\ud800")
    yield bad("surrogates the wrong way round", '{"data": {"new": "\\udc00\\ud800"}}', "$.data.new")
    yield bad("100,000 lists deep", b'{"data": {"new": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}")
    yield bad("100,000 objects deep", b'{"data": ' * 100_000 + b"1" + b"}" * 100_000)
    yield bad("100,000 brackets open", b"[" * 100_000)
    yield bad("a number of 5,000 digits", b'{"data": {"project_cap": ' + b"9" * 5000 + b"}}", "$.data.project_cap")
    yield bad("5,000 digits in an unknown field", b'{"data": {"new": ' + b"9" * 5000 + b"}}", "$.data.new")
    yield bad("5,000 digits in a string", b'{"data": {"project_cap": "' + b"9" * 5000 + b'"}}', "$.data.project_cap")
    for name, document in {
        "a list": "[]",
        "a string": '"data"',
        "null": "null",
        "a number": "1",
        "true": "true",
    }.items():
        yield bad(f"{name} as the document", document)
    garbled = {
        "half a response": GOOD[:-3],
        "no JSON": b"OK",
        "a page": b"<!DOCTYPE html><html><title>\x1b[2J</title></html>",
        "spaces": b"   ",
        "two documents": GOOD + GOOD,
        "single quotes": b"{'data': {}}",
        "a comma too many": b'{"data": {},}',
        "a comment": b'{"data": {} /* none */}',
        "NUL": GOOD + b"\0",
        "a control character in a string": b'{"data": {"project_id": "\x01"}}',
        "UTF-16": GOOD.decode().encode("utf-16"),
        "UTF-32": GOOD.decode().encode("utf-32"),
        "Latin-1": '{"data": {"project_id": "ü"}}'.encode("latin-1"),
        "UTF-7": b"+AHs-+ACI-data+ACI-:+AHs-+AH0-+AH0-",
        "an overlong UTF-8": b'{"data": {"project_id": "\xc0\xaf"}}',
        "a surrogate in UTF-8": b'{"data": {"project_id": "\xed\xa0\x80"}}',
        "two BOMs": b"\xef\xbb\xbf\xef\xbb\xbf" + GOOD,
    }
    for name, body in garbled.items():
        fault = {"a page": Fault.html(), "half a response": Fault.garbled()}.get(name)
        case = reply("JSON", name, DecodeError, "once", body, path="$", fault=fault)
        yield case


def model_cases() -> Iterator[Case]:
    def bad(name: str, data: object, path: str) -> Case:
        return undecodable("model", name, json.dumps({"data": data}), path)

    counts: dict[str, object] = {
        "spaces": " 12 ",
        "an underscore": "1_000",
        "an Arabic digit": "٣",
        "a full-width digit": "３",
        "a superscript": "²",
        "a fraction": 12.7,
        "a whole float": 12.0,
        "a fraction as text": "12.7",
        "an exponent": "1e3",
        "true": True,
        "a list": [],
        "an object": {},
        "negative": -1,
        "negative as text": "-1",
        "signed": "+1",
        "hexadecimal": "0x10",
        "an empty text": "",
        "a word": "many",
        "thousands": "1,000",
    }
    for name, value in counts.items():
        yield bad(f"project_cap: {name}", {"project_cap": value}, "$.data.project_cap")
        day = {"date": "2023-11-01", "usage": value}
        series = {"project_id": "1", "usage": [day]}
        # A list is how newer documents write what the apps of a day read: an empty one has no sum.
        if value != []:
            path = "$.data.daily_project_usage.usage[0].usage"
            yield bad(f"usage of a day: {name}", {"daily_project_usage": series}, path)
    for value in (0, 32, 99, "0", "32", -1, 1.5, True, "ten", []):
        # It is then unknown: the number of the day does not touch the counts.
        document = json.dumps({"data": {"cap_reset_day": value}})
        yield reply("model", f"cap_reset_day: {value!r}", None, "never", document.encode())
    dates: list[object] = [
        "2023-W44-3",
        "2023-02-30",
        "2023-13-01",
        "2023-11-01T00:00:00",
        "2023-11-01T00:00:00.000",
        "2023-11-01 00:00:00Z",
        "20231101",
        "01-11-2023",
        "2023-11-01T25:00:00Z",
        "2023-305",
        "２０２３-11-01",
        "0001-01-01T00:00:00+23:59",
        "",
        1698796800,
        None,
        [],
    ]
    for date in dates:
        days = {"daily_project_usage": {"usage": [{"date": date, "usage": 1}]}}
        yield bad(f"date: {date!r}", days, "$.data.daily_project_usage.usage[0].date")
    for name, shape in {"a list": [], "a text": "x", "a number": 1, "true": True}.items():
        yield bad(f"data: {name}", shape, "$.data")
    for name, document in {"missing": "{}", "null": '{"data": null}', "only unknown fields": '{"meta": {}}'}.items():
        yield undecodable("model", f"data: {name}", document, "$.data")
    yield bad("a series that is a text", {"daily_project_usage": {"usage": "x"}}, "$.data.daily_project_usage.usage")
    yield bad("apps that are an object", {"daily_client_app_usage": {}}, "$.data.daily_client_app_usage")
    twice = [{"date": "2023-11-01", "usage": 1}, {"date": "2023-11-01", "usage": 2}]
    path = "$.data.daily_project_usage.usage[1].usage"
    yield bad("a day twice with two counts", {"daily_project_usage": {"usage": twice}}, path)
    problem = {"errors": [{"title": "Not Found Error", "detail": "none", "type": "about:blank"}]}
    for name, data in {"without data": {}, "with null data": {"data": None}}.items():
        yield reply("model", f"errors {name}", ApiError, "never", json.dumps(problem | data).encode())
    good = {
        "partial errors": {"data": {"project_cap": "1"}} | problem,
        "unknown fields": {"data": {"project_cap": "1", "new": {"a": [1.5, None]}}, "meta": {}},
        "days out of order": {
            "data": {"daily_project_usage": {"usage": [*twice[:1], {"date": "2023-10-31", "usage": 0}]}}
        },
        "a day twice with one count": {"data": {"daily_project_usage": {"usage": twice[:1] * 2}}},
        "ids beyond 64 bits": {"data": {"project_id": 2**70}},
        "numbers for texts": {"data": {"project_cap": 5, "project_usage": 4, "cap_reset_day": 31}},
        "nulls": {"data": {"project_cap": None, "daily_project_usage": None, "daily_client_app_usage": None}},
        "no field requested": {"data": {}},
    }
    for name, whole in good.items():
        yield reply("model", name, None, "never", json.dumps(whole).encode())


# -- HTTP --------------------------------------------------------------------------------------------------------------


def http_cases() -> Iterator[Case]:
    good = json.dumps({"data": {"project_cap": "1"}}).encode()
    for status in (300, 301, 302, 303, 305, 306, 307, 308, 399):
        headers = {"location": "http://127.0.0.1:9/"}
        yield reply("HTTP", f"{status}", ProtocolError, "never", b"", status=status, headers=headers, words="redirect")
    yield reply("HTTP", "302 without a location", ProtocolError, "never", b"", status=302)
    refusals: dict[int, type[TwUsageError]] = {
        400: BadRequestError,
        401: AuthenticationError,
        403: ForbiddenError,
        404: ApiError,
        402: CreditsDepletedError,
        405: ApiError,
        410: ApiError,
        418: ApiError,
        451: ApiError,
        499: ApiError,
    }
    bodies = {"no body": b"", "a page": b"<html>\x1b[2J", "a good body": good}
    for (status, error), (name, body) in itertools.product(refusals.items(), bodies.items()):
        if status < 405 or name == "a good body":
            yield reply("HTTP", f"{status} with {name}", error, "never", body, status=status)
    for status, name in itertools.product((408, 500, 501, 502, 503, 504, 520, 530, 599), bodies):
        if status in {408, 503} or name == "a good body":
            yield reply("HTTP", f"{status} with {name}", ServerError, "always", bodies[name], status=status)
    echo, titled = (
        CANARY_TOKEN.encode(),
        json.dumps({"title": CANARY_TOKEN, "detail": f"no such token: {CANARY_TOKEN}"}).encode(),
    )
    for status, error in (refusals | {503: ServerError}).items():
        retry: Retry = "always" if status == 503 else "never"
        for name, body in {"an echo": echo, "an echo in its title": titled}.items():
            response = answer(body, b"x-transaction-id: " + echo, status=b"%d X" % status)
            yield Case("HTTP", f"{status} with {name}", error, retry, saying(response))
    yield from quota_cases()
    yield from window_cases()


def quota_cases() -> Iterator[Case]:
    def over(name: str, fault: Fault, error: type[TwUsageError]) -> Case:
        changed = fault.changed(Response(200))
        lines = [f"{key}: {value}".encode() for key, value in changed.headers.items()]
        return Case(
            "HTTP",
            name,
            error,
            "never",
            saying(answer(changed.body, *lines, status=b"%d No" % changed.status)),
            fault,
        )

    yield over("402", Fault.credits_depleted(), CreditsDepletedError)
    yield over("capped 429", Fault.usage_capped(), UsageCapExceededError)
    yield over("spend cap", Fault.spend_cap_reached(), SpendCapReachedError)
    yield over("spend cap without a date", Fault.spend_cap_reached("soon"), SpendCapReachedError)


def window_cases() -> Iterator[Case]:
    """429s that say something odd of the window. The clock of both sides begins on 2026-01-15 at 12:00 UTC."""
    now, date = 1768478400, {"date": "Thu, 15 Jan 2026 12:00:00 GMT"}

    def window(name: str, reset: str | None, **more: str) -> Case:
        window_headers = {} if reset is None else {"limit": "50", "remaining": "0", "reset": reset}
        headers = date | {f"x-rate-limit-{key}": value for key, value in window_headers.items()}
        headers |= {key.replace("_", "-"): value for key, value in more.items()}
        lying: dict[str, str | None] = {"x-rate-limit-reset": None, "x-rate-limit-limit": None, **headers}
        lines = [f"{key}: {value}".encode() for key, value in headers.items()]
        said_bytes = answer(b"", *lines, status=b"429 Too Many Requests")
        return Case(
            "HTTP",
            f"429 {name}",
            RateLimitedError,
            "always",
            saying(said_bytes),
            Fault.rate_limited(headers=lying),
            cut=False,
        )

    yield window("without headers", None)
    yield window("with a reset to come", f"{now + 100}")
    yield window("with a reset in the past", f"{now - 100}")
    yield window("with a reset of now", f"{now}")
    yield window("with a reset of 0", "0")
    yield window("with a reset in a year", f"{now + 31_536_000}")
    yield window("with a reset absurdly far", "999999999999")
    for reset in ("abc", "inf", "nan", "-1", "1_0", "9" * 400, "1e9", "٣", "", " ", "0x10", "1.5"):
        shown = reset if len(reset) < 10 else "of 400 digits"
        yield window(f"with a reset {shown!r}", reset)
    for name, value in {
        "seconds": "30",
        "0": "0",
        "a date": "Thu, 15 Jan 2026 12:01:00 GMT",
        "a date in the past": "Thu, 15 Jan 2015 12:01:00 GMT",
        "a date beyond the calendar": "Fri, 31 Dec 9999 23:59:59 GMT",
        "garbage": "soon",
        "negative": "-30",
        "a fraction": "1.5",
        "400 digits": "9" * 400,
        "infinity": "inf",
    }.items():
        yield window(f"with Retry-After: {name}", None, retry_after=value)
    yield window("twice", f"{now + 100}, {now + 200}")
    for name, value in {"seconds": "3", "garbage": "soon", "400 digits": "9" * 400, "negative": "-3"}.items():
        headers = {"retry-after": value}
        yield reply("HTTP", f"503 with Retry-After: {name}", ServerError, "always", b"", status=503, headers=headers)


CASES = (*connect_cases(), *sending_cases(), *reading_cases(), *json_cases(), *model_cases(), *http_cases())
