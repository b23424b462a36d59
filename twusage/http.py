"""AiohttpTransport: requests over real sockets. The only core module that imports aiohttp.

What aiohttp does on its own, and an honest count of calls cannot have:

==========================================  ============================================================================
aiohttp                                     here
==========================================  ============================================================================
sends a GET again when the connection dies  a middleware turns that error into one it does not retry: one charge, one
before the answer's first byte              request on the wire
follows redirects, token and all            refused
stores cookies                              its own session has a jar that keeps none
inflates whatever comes, whole              inflated here as it comes, at most ``max_body`` bytes
takes a cut gzip body for a whole one       the trailer is checked: ``ProtocolError``
keeps the reader of a malformed chunk, or   asked anew now and then, which it answers with an error
of a closed session, waiting for ever
cancels who waits for a connection when     ``ClientClosedError``
the session is closed
rounds timeouts up to whole seconds         one ``asyncio.timeout`` around everything
shows the request's headers in errors       its errors are translated and dropped, not chained
==========================================  ============================================================================
"""

from __future__ import annotations

import asyncio
import re
import ssl as ssl_module
import zlib
from typing import Any

import aiohttp
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
from twusage.protocol import Headers, Request, Response, without_credentials

__all__ = ["AiohttpTransport"]

MAX_BODY = 8 * 2**20
# Inflating this much takes about a millisecond; between two pieces the loop serves others.
_PIECE = 2**18
# Seconds without a byte of the body, after which aiohttp is asked anew.
_PULSE = 0.1
# Names of encodings look like this. Anything else may be whatever the server likes, an echo of the token perhaps.
_ENCODING = re.compile(r"[a-z0-9, -]{1,20}")
# Longer runs of such letters are no words: a token, or the part of one that aiohttp cut off.
_OPAQUE = re.compile(r"[\w%+/=.~-]{24,}")


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
        self._session = session
        self._owns_session = session is None
        self._limit = limit
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
        try:
            async with asyncio.timeout(timeout):
                return await self._exchange(session, request, timeout)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not session.closed or task is None or task.cancelling():
                raise
            failure = ClientClosedError(_CLOSED_MEANWHILE)  # Nobody cancelled this task: aiohttp did.
        except TransportError:
            raise  # Unnamed: a name would keep what was read in a cycle with its own traceback.
        except (aiohttp.ClientError, HttpProcessingError, OSError, RuntimeError, ValueError) as error:
            failure = _translated(error, request, timeout)
        # Raised out here, where aiohttp's own error, which shows the request's headers, is no longer its context.
        raise ClientClosedError(_CLOSED_MEANWHILE) if session.closed else failure

    async def aclose(self) -> None:
        """Close the session, if it is this transport's own. Nothing can be sent any more."""
        self._closed = True
        if self._owns_session and self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def _exchange(self, session: aiohttp.ClientSession, request: Request, timeout: float) -> Response:  # noqa: ASYNC109
        # Half of the time for connecting, so that a host that does not answer at all can be told from one that is
        # slow to answer: after the first, surely nothing was sent.
        patience = aiohttp.ClientTimeout(total=None, sock_connect=timeout / 2)
        async with session.request(
            request.method,
            URL(request.url, encoded=True),
            headers={**request.headers, "accept-encoding": "gzip"},
            data=request.body or None,
            timeout=patience,
            **self._options,
        ) as response:
            # Left with some of the body still to come, aiohttp closes the connection.
            headers = Headers(response.headers.items())
            body = await self._read(response, headers.get("content-encoding", "").strip().lower())
            return Response(response.status, headers, body)

    async def _read(self, response: aiohttp.ClientResponse, encoding: str) -> bytes:
        if encoding not in {"", "identity", "gzip", "x-gzip"}:
            shown = encoding if _ENCODING.fullmatch(encoding) else "not the name of one"
            raise ProtocolError(f"the answer's content-encoding is {shown}; only gzip was offered")
        if (response.content_length or 0) > self._max_body:
            raise self._oversized()
        body = bytearray()
        inflater = None
        while piece := await _next_piece(response):
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
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        if self._loop is not loop:
            raise ConfigurationError(_OTHER_LOOP)
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._limit),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        if self._session.closed:
            raise ConfigurationError("the aiohttp session that was given is closed; keep it open as long as the client")
        return self._session


_CLOSED_MEANWHILE = "the connections were closed during this call"
_OTHER_LOOP = "this transport was opened on another event loop; make a UsageClient on each loop, in each process"


class _BrokenOffError(aiohttp.ClientError):
    """The connection ended before the answer began."""


async def _send_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
        # These two aiohttp would answer by sending the request again.
        raise _BrokenOffError(type(error).__name__) from None


async def _next_piece(response: aiohttp.ClientResponse) -> bytes:
    """More of the body, as it came; nothing at its end."""
    while True:
        try:
            async with asyncio.timeout(_PULSE):
                return await response.content.readany()
        except TimeoutError:
            continue  # Asked anew, aiohttp sees that there is no connection any more, if there is none.
        except RuntimeError:
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
        case TimeoutError():
            return RequestTimeoutError(f"no whole answer within {timeout:g} s")
        case _BrokenOffError() | ConnectionError():
            return ProtocolError("the connection ended before the answer began", retryable=True)
        case aiohttp.ClientPayloadError():
            return ProtocolError("the answer's body was cut short or is malformed", retryable=True)
        case aiohttp.ClientResponseError() | HttpProcessingError():
            said = without_credentials(error.message.encode(errors="replace"), request).decode(errors="replace")
            said = _OPAQUE.sub("...", said)
            return ProtocolError(f"the answer is not HTTP ({ascii(said[:100])[1:-1]})", retry_once=True)
        case RuntimeError():
            return ConfigurationError(_OTHER_LOOP)
        case OSError():  # Of a socket that was never connected: later ones come as _BrokenOffError.
            return ConnectError(f"no connection ({_reason(error)})")
        case _:
            return ProtocolError(f"aiohttp cannot send this request ({type(error).__name__})")


def _reason(error: OSError) -> str:
    return ascii(error.strerror or type(error).__name__)[1:-1]
