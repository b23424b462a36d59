"""AiohttpTransport: requests over real sockets. The only core module that imports aiohttp.

What aiohttp does on its own, and an honest count of calls cannot have:

==========================================  ============================================================================
aiohttp                                     here
==========================================  ============================================================================
sends a GET again when the connection dies  a middleware turns that error into one it does not retry: one charge, one
before the answer's first byte              request on the wire
follows redirects, token and all            refused
stores cookies                              its own session has a jar that keeps none
inflates whatever comes, whole              inflated here as it comes, at most ``max_body`` bytes before and after
takes a cut gzip body for a whole one       the trailer is checked: ``ProtocolError``
keeps the reader of a malformed chunk, or   asked anew now and then, which it answers with an error
of a closed session, waiting for ever
takes what came on an idle connection for   such a connection is closed, another one used (RFC 9112, 6.3: extra data
the next answer                             is no response). Not so on a caller's session: its connector is the caller's
takes a connection back at the body's last  where that body is refused, the connection is closed all the same
byte, inflated or not
begins to count anew with each address,     who waits for a place in the pool waits here; connecting has half of the
and not before the name is looked up        time, from the name to the handshake and the proxy's tunnel
cancels who waits for a connection when     ``ClientClosedError``
the session is closed
rounds timeouts up to whole seconds         one ``asyncio.timeout`` around everything
shows the request's headers in errors,      its errors are translated and dropped, not chained; tracebacks begin here
and the answer's in its repr
==========================================  ============================================================================
"""

from __future__ import annotations

import asyncio
import math
import re
import ssl as ssl_module
import zlib
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import Context, ContextVar
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from twusage.errors import (
    ClientClosedError,
    ConfigurationError,
    ConnectError,
    ProtocolError,
    RequestTimeoutError,
    TlsError,
    TransportError,
    TwUsageError,
)
from twusage.protocol import Headers, Request, Response, redact_credentials

__all__ = ["AiohttpTransport"]

MAX_BODY = 8 * 2**20
# Inflating this much takes about a millisecond; between two pieces the loop serves others.
_PIECE = 2**18
# How much asyncio reads of a connection at a time. Its own 256 KiB may be mapped into memory and taken out again each
# time, which costs more than reading an answer; and full of tiny chunks, they keep the loop for a tenth of a second.
_READ = 2**16
# Seconds without a byte of the body, after which aiohttp is asked anew.
_PULSE = 0.1
# As many as aiohttp 3.14 takes; the API sends 30.
_MOST_HEADERS = 128
# Names of encodings look like this. Anything else may be whatever the server likes, an echo of the token perhaps.
_ENCODING = re.compile(r"[a-z0-9, -]{1,20}")
# What may be a token, or a part of one: aiohttp shows what came as it was cut.
_OPAQUE = re.compile(r"[\w%+/=.~-]{6,}")
# A word is shorter.
_LONG = 24


class AiohttpTransport:
    """Sends requests with aiohttp: over a session of its own, opened at the first call, or over the caller's.

    Args:
        session: the caller's session. It stays the caller's: never closed here, its cookies, proxies and connector
            are as it was made. Its own middlewares and ``raise_for_status`` do not run.
        ssl: a context with the certificates to trust. There is no switch that turns verification off.
        proxy: the URL of an HTTP proxy. The environment's proxies and netrc are not read.
        limit: how many connections the own session opens at most.
        max_body: bytes of an answer's body, decompressed, beyond which it is refused: 8 MiB. A thousand apps over 90
            days are 5 MB.

    Raises:
        ConfigurationError: an argument is wrong.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession | None = None,
        *,
        ssl: ssl_module.SSLContext | None = None,
        proxy: str | None = None,
        limit: int = 100,
        max_body: int = MAX_BODY,
    ) -> None:
        if not (ssl is None or isinstance(ssl, ssl_module.SSLContext)):
            raise ConfigurationError("ssl must be an ssl.SSLContext; verification cannot be turned off")
        if type(limit) is not int or limit < 1:
            raise ConfigurationError(f"limit must be an int of at least 1, got {limit!r}")
        self._session = session
        self._owns_session = session is None
        self._places: AbstractAsyncContextManager[None] = nullcontext() if session else asyncio.Semaphore(limit)
        self._deadlines = _Deadlines()
        self._max_body = max_body
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        # What every request is sent with. None as a proxy means none; the session's own default is still used.
        self._options: dict[str, Any] = {
            "allow_redirects": False,
            "auto_decompress": False,
            "middlewares": (_send_once,),
            "raise_for_status": False,
            "ssl": ssl or True,
        } | ({"proxy": proxy} if proxy is not None else {})

    async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109 - kept here, for all of it
        """One request on the wire, and its whole answer. See ``Transport.send``."""
        session = self._usable_session()
        failure: TwUsageError
        queued = True
        over = self._deadlines.timeout(timeout)
        try:
            async with over, self._places:
                queued = False
                return await self._exchange(session, request, timeout)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if not session.closed or task is None or task.cancelling():
                # It came through aiohttp's frames, whose variables hold the request's headers.
                error.__context__ = None
                raise error.with_traceback(None)  # noqa: B904 - it is the same error
            failure = ClientClosedError(_CLOSED_MEANWHILE)  # Nobody cancelled this task: aiohttp did.
        except TransportError as error:
            # Its traceback would show the headers that came, an echo of the token maybe, and keep the body alive.
            failure = error.with_traceback(None)
        except (aiohttp.ClientError, HttpProcessingError, OSError, RuntimeError, ValueError) as error:
            failure = _translated(error, request, timeout)
            if queued:
                said = f"this transport was busy for {timeout:g} s: as many calls as its limit allows were under way"
                failure = RequestTimeoutError(said, unsent=True)
        finally:
            self._deadlines.forget(over)
        # Raised out here, where aiohttp's own error, which shows the request's headers, is no longer its context.
        raise ClientClosedError(_CLOSED_MEANWHILE) if session.closed else failure

    async def aclose(self) -> None:
        """Close the session, if it is this transport's own. Nothing can be sent any more."""
        session = self._session if self._owns_session else None
        if session is not None and self._loop is not _running_loop():
            raise ConfigurationError(_OTHER_LOOP)  # A forked process would hang up on its parent's server.
        self._closed = True
        if session is not None:
            self._session = None
            await session.close()

    async def _exchange(self, session: aiohttp.ClientSession, request: Request, timeout: float) -> Response:  # noqa: ASYNC109
        # Half of the time for connecting, so that a host that does not answer at all can be told from one that is
        # slow to answer: after the first, surely nothing was sent.
        _lent.set(None)
        async with session.request(
            request.method,
            _url(request.url),
            headers=dict(request.headers.items()) | {"accept-encoding": "gzip"},
            data=request.body or None,
            timeout=_patience(timeout, self._owns_session),
            **self._options,
        ) as response:
            # Left with some of the body still to come, aiohttp closes the connection.
            headers = Headers(response.headers.items())
            try:
                _check_head(response)
                encoding = headers.get("content-encoding", "").strip().lower()
                if not encoding and response.content.is_eof():  # All of it is there, and as it is: mostly so.
                    body = await response.content.readany()
                    if len(body) > self._max_body:
                        raise self._oversized()
                else:
                    body = await self._read(response, encoding)
            except ProtocolError:
                _condemn_connection()
                raise
            if response.status != 200 and response.status < 400:
                _condemn_connection()  # Nobody knows where such an answer ends: 101 has no end, 204 may bring a body.
            return Response(response.status, headers, body)

    async def _read(self, response: aiohttp.ClientResponse, encoding: str) -> bytes:
        _check_encoding(encoding)
        if (response.content_length or 0) > self._max_body:
            raise self._oversized()
        body = bytearray()
        inflater, came = None, 0
        while piece := await _next_piece(response):
            came += len(piece)
            if came > self._max_body:  # Not only what it holds: gzip can go on for ever and hold nothing.
                raise self._oversized()
            if inflater is None and encoding.endswith("gzip"):
                inflater = zlib.decompressobj(wbits=31)  # gzip only, header and CRC checked
            while piece:
                part, piece = (piece, b"") if inflater is None else _inflated(inflater, piece)
                body += part
                if len(body) > self._max_body:
                    raise self._oversized()
                if piece:
                    await asyncio.sleep(0)
        # An answer without a body, such as a 204, may still tell how it would have been encoded.
        if not (inflater is None or inflater.eof):
            raise ProtocolError("the answer's gzip body is cut short", retryable=True)
        return bytes(body)

    def _oversized(self) -> ProtocolError:
        return ProtocolError(f"the answer's body is larger than max_body ({self._max_body} bytes)")

    def _usable_session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise ClientClosedError("this transport is closed; make a new one")
        loop = _running_loop()
        if self._loop is None:
            self._loop = loop
        if loop is None or self._loop is not loop:
            raise ConfigurationError(_OTHER_LOOP)
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=_Connector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        if self._session.closed:
            raise ConfigurationError("the aiohttp session that was given is closed; keep it open as long as the client")
        return self._session


_CLOSED_MEANWHILE = "the connections were closed during this call"
_OTHER_LOOP = "this transport was opened on another event loop; make a UsageClient on each loop, in each process"


@lru_cache(maxsize=16)
def _patience(timeout: float, own_session: bool) -> aiohttp.ClientTimeout:
    half = timeout / 2
    # On a session of the caller's, whose pool may be in use: for each address.
    return aiohttp.ClientTimeout(total=None, connect=half if own_session else None, sock_connect=half)


@lru_cache(maxsize=64)  # A program asks the same again and again.
def _url(text: str) -> URL:
    return URL(text, encoded=True)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:  # A process that was forked in the middle of a call has none.
        return None


class _Deadlines:
    """Timeouts with one timer for all. One for each, hardly ever needed, costs more than the reading of an answer."""

    def __init__(self) -> None:
        self._ends: dict[asyncio.Timeout, float] = {}
        self._timer: asyncio.Handle | None = None
        self._looks_at = math.inf

    def timeout(self, seconds: float) -> asyncio.Timeout:
        """An ``asyncio.timeout``, to be entered at once and forgotten in the end."""
        timeout = asyncio.timeout(None)
        self._ends[timeout] = end = asyncio.get_running_loop().time() + seconds
        if end < self._looks_at:
            self._set_timer(end)
        return timeout

    def forget(self, timeout: asyncio.Timeout) -> None:
        self._ends.pop(timeout, None)

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # In no context: it would keep that of the first call for all the others.
        self._timer = asyncio.get_running_loop().call_at(at, self._look, context=Context())
        self._looks_at = at

    def _look(self) -> None:
        # Some loops come a little early, and would come again at once.
        now = max(asyncio.get_running_loop().time(), self._looks_at)
        self._timer, self._looks_at = None, math.inf
        for timeout in [timeout for timeout, end in self._ends.items() if not end > now]:
            del self._ends[timeout]
            timeout.reschedule(now)
        if self._ends:  # Most of the time those for whom it was set are long over, and others are under way.
            self._set_timer(min(self._ends.values()))


class _BrokenOffError(aiohttp.ClientError):
    """The connection ended before the answer began."""


class _NoTunnelError(aiohttp.ClientError):
    """The connection ended before the request was sent: a proxy's, which was to lead to the server."""


class _Connector(aiohttp.TCPConnector):
    """Lends connections: new ones, and used ones on which nothing has come since their last answer.

    It remembers each one's newest loan: aiohttp takes a connection back before the body's last byte is read here.

    What comes on a new one before it is asked cannot be told from a quick answer: an overloaded edge says 503 so.
    """

    def __init__(self, *, limit: int) -> None:
        super().__init__(limit=limit)
        self._loans: WeakKeyDictionary[Any, Connection] = WeakKeyDictionary()

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: Any,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - as it is inherited
    ) -> Connection:
        try:
            while True:
                connection = await super().connect(req, traces, timeout)
                protocol: Any = connection.protocol
                if protocol not in self._loans or not protocol.should_close:
                    break
                connection.close()
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            raise _NoTunnelError(type(error).__name__) from None
        transport: Any = connection.transport
        if getattr(transport, "max_size", 0) > _READ:  # a new one, and not TLS
            transport.max_size = _READ
        self._loans[protocol] = connection
        _lent.set((self._loans, protocol))
        return connection


# What the running call was lent: the loans of its connector, and the connection's protocol.
_lent: ContextVar[tuple[Mapping[Any, Connection], Any] | None] = ContextVar("twusage.aiohttp_transport.lent")


def _condemn_connection() -> None:
    """See to it that the connection of the running call is closed, even if aiohttp keeps it for another one."""
    if lent := _lent.get():
        loans, protocol = lent
        protocol.force_close()  # when whoever may have borrowed it meanwhile gives it back
        if loans[protocol].protocol is None:  # nobody has
            protocol.close()


async def _send_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
        # These two aiohttp would answer by sending the request again.
        raise _BrokenOffError(type(error).__name__) from None


def _check_head(response: aiohttp.ClientResponse) -> None:
    """Refuse what some aiohttp or other lets pass: 3.12, or any of them where it is not compiled."""
    headers, version = response.headers, response.version
    if version is not None and version.major != 1:
        flaw = f"HTTP/{version.major}.{version.minor} where HTTP/1.1 was spoken"
    elif len(headers.getall("content-length", ())) > 1:
        flaw = "two content-lengths"
    elif len(headers) > _MOST_HEADERS:
        flaw = f"{len(headers)} headers"
    elif "\0" in "".join(headers.values()):
        flaw = "a NUL in a header"
    else:
        return
    raise ProtocolError(f"the answer is not HTTP ({flaw})", retry_once=True)


def _check_encoding(encoding: str) -> None:
    if encoding not in {"", "identity", "gzip", "x-gzip"}:
        shown = encoding if _ENCODING.fullmatch(encoding) else "not the name of one"
        raise ProtocolError(f"the answer's content-encoding is {shown}; only gzip was offered")


async def _next_piece(response: aiohttp.ClientResponse) -> bytes:
    """More of the body, as it came; nothing at its end."""
    if response.content.is_eof():  # All of it is there: nobody can hang, and a timer would cost more than the reading.
        return await response.content.readany()
    while True:
        try:
            async with asyncio.timeout(_PULSE):
                return await response.content.readany()
        except (TimeoutError, RuntimeError) as error:
            # Asked anew, aiohttp says with the one that there is no connection any more. Over TLS it does not: there it
            # knows that the answer is malformed, and waits for the other side to say goodbye.
            lent = response.connection
            broken = lent is not None and (lent.protocol is None or lent.protocol.exception() is not None)
            if broken or isinstance(error, RuntimeError):
                break
    raise HttpProcessingError(message="a malformed body")


def _inflated(inflater: Any, piece: bytes) -> tuple[bytes, bytes]:
    """Some of what the piece holds, and the rest of the piece."""
    try:
        part = inflater.decompress(piece, _PIECE)
        corrupt = bool(inflater.unused_data)
    except zlib.error:
        corrupt = True
    if corrupt:
        raise ProtocolError("the answer's gzip body is corrupt", retry_once=True)
    return part, inflater.unconsumed_tail


def _translated(error: Exception, request: Request, timeout: float) -> TwUsageError:  # noqa: C901, PLR0911 - a table
    """Aiohttp's error as ours. Of its text only the kind and the system's own reason are kept."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return ConnectError(f"no connection within {timeout / 2:g} s")
        case (
            aiohttp.ClientConnectorCertificateError()
            | aiohttp.ClientConnectorSSLError()
            | aiohttp.ServerFingerprintMismatch()
            | ssl_module.SSLError()
        ):
            reason = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
            reason = getattr(reason, "verify_message", None) or getattr(reason, "reason", None) or type(reason).__name__
            return TlsError(
                f"the server could not prove who it is ({ascii(reason)[1:-1]}). "
                "Where it is rightly trusted, give AiohttpTransport an ssl context that does"
            )
        case aiohttp.ClientConnectorError():
            return ConnectError(f"no connection to {error.host}:{error.port} ({_reason(error.os_error)})")
        case aiohttp.ClientHttpProxyError():
            return ConnectError(f"the proxy refused to connect ({error.status})")
        case _NoTunnelError():
            return ConnectError("the proxy hung up instead of connecting")
        case TimeoutError():
            return RequestTimeoutError(f"no whole answer within {timeout:g} s")
        case _BrokenOffError() | ConnectionError():
            return ProtocolError("the connection ended before the answer began", retryable=True)
        case aiohttp.ClientPayloadError():
            return ProtocolError("the answer's body was cut short or is malformed", retryable=True)
        case aiohttp.ClientResponseError() | HttpProcessingError():
            said = redact_credentials(error.message.encode(errors="replace"), request).decode(errors="replace")
            said = _OPAQUE.sub(lambda word: _shown(word[0], request), said)
            return ProtocolError(f"the answer is not HTTP ({ascii(said[:100])[1:-1]})", retry_once=True)
        case RuntimeError():
            return ConfigurationError(_OTHER_LOOP)
        case OSError():  # Of a socket that was never connected: later ones come as _BrokenOffError.
            return ConnectError(f"no connection ({_reason(error)})")
        case _:
            return ProtocolError(f"aiohttp cannot send this request ({type(error).__name__})")


def _shown(word: str, request: Request) -> str:
    return "..." if len(word) >= _LONG or word in request.headers.get("authorization", "") else word


def _reason(error: OSError) -> str:
    return ascii(error.strerror or type(error).__name__)[1:-1]
