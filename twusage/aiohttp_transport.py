"""AiohttpTransport: sends requests with aiohttp. The only core module that imports aiohttp.

What belongs here: connections, timeouts, the bounded body, and the translation of aiohttp's exceptions. What a response
means belongs in ``protocol``. A comment at each guard names the fault and the test that shows it; ``faults`` stands for
``tests/torture/faults``, ``wire`` for ``tests/integration/test_aiohttp_wire.py``.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl as ssl_module
import sys
import threading
import zlib
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from functools import lru_cache, partial
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass
from weakref import WeakSet

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import Connection
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError, LineTooLong
from yarl import URL

from twusage.errors import (
    ClientClosedError,
    ConfigurationError,
    ConnectError,
    ConnectReason,
    ProtocolError,
    RequestTimeoutError,
    TlsError,
    TwUsageError,
)
from twusage.event_loop import LoopBinding, running_task
from twusage.protocol import Headers, Request, Response, is_proxy_url

__all__ = ["AiohttpTransport"]

MAX_BODY = 8 * 2**20
# Inflating this much takes about 1 ms; the event loop runs other tasks between two chunks.
_INFLATE_CHUNK = 2**18
# asyncio reads 256 KiB at a time: full of tiny chunks, they block the event loop for 0.1 s, and allocating them for
# each read costs about 15 us, 5 % of a request (wire: test_little_is_read_at_a_time).
_SOCKET_READ_SIZE = 2**16
# Seconds without a byte of the body after which the connection is checked.
_BODY_POLL_INTERVAL = 0.1
# Bytes of one header line. aiohttp's default of 8,190 refuses a long content-security-policy.
_MAX_HEADER = 2**16
# OpenSSL's X509_V_ERR_* codes.
_CERTIFICATE_REASONS: dict[int, ConnectReason] = {9: "not-yet-valid", 10: "expired", 62: "hostname", 64: "hostname"}
_ISSUER_UNKNOWN = {18, 19, 20, 21}
_SOCKET_REASONS: dict[int | None, ConnectReason] = {
    errno.ECONNREFUSED: "refused",
    errno.ETIMEDOUT: "timeout",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
}
_SESSION_CLOSED = "the connections were closed during this call"
# The proxy is not quoted, because it may hold a password.
_NO_PROXY_URL = "{} must be the URL of an HTTP proxy, such as http://host:3128"
_OTHER_LOOP = "the given aiohttp session is bound to another event loop; create one per loop and process"


class AiohttpTransport:
    """Sends requests with aiohttp, over its own session or the caller's.

    Args:
        session: the caller's session. The transport never closes it; its cookies, proxies and connector apply. Its
            middlewares and its ``raise_for_status`` do not run.
        ssl: a context with the certificates to trust. Verification cannot be turned off.
        proxy: the URL of an HTTP proxy, such as ``http://name:password@host:3128``.
        trust_env: use the proxies of the environment (``HTTPS_PROXY``, ``ALL_PROXY``, ``NO_PROXY``) if ``proxy`` is not
            given. Off by default. A netrc file is never read.
        limit: the maximum number of connections of the transport's own session.
        max_body: the maximum size of a response body in bytes, compressed and decompressed (default: 8 MiB). 1,000 apps
            over 90 days are 5 MB.

    Raises:
        ConfigurationError: an argument is wrong.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession | None = None,
        *,
        ssl: ssl_module.SSLContext | None = None,
        proxy: str | None = None,
        trust_env: bool = False,
        limit: int = 100,
        max_body: int = MAX_BODY,
    ) -> None:
        if not (ssl is None or isinstance(ssl, ssl_module.SSLContext)):
            raise ConfigurationError("ssl must be an ssl.SSLContext; verification cannot be turned off")
        if type(limit) is not int or limit < 1:
            raise ConfigurationError(f"limit must be an int of at least 1, got {limit!r}")
        if not (session is None or (callable(getattr(session, "request", None)) and hasattr(session, "closed"))):
            # Not quoted: it may be a token or a proxy's URL by mistake.
            raise ConfigurationError(f"session must be an aiohttp.ClientSession, got {type(session).__name__}")
        if not (proxy is None or is_proxy_url(proxy)):
            del proxy  # Keeps its password out of tracebacks.
            raise ConfigurationError(_NO_PROXY_URL.format("proxy"))
        self._session = session
        self._owns_session = session is None
        self._limit = limit
        self._semaphore: AbstractAsyncContextManager[None] = nullcontext()
        self._trust_env = trust_env and proxy is None
        self._max_body = max_body
        self._binding = LoopBinding("AiohttpTransport", only_first=session is not None)
        self._closed = False
        # Without the key "proxy", the default of the caller's session applies; None would mean no proxy.
        self._options: dict[str, Any] = {
            "allow_redirects": False,
            "auto_decompress": False,
            "max_field_size": _MAX_HEADER,
            "middlewares": (_send_once,),
            "raise_for_status": False,
            "ssl": ssl or True,
        } | ({} if proxy is None else {"proxy": proxy})

    async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109 - the total, enforced here
        """Send one request and return its response. See ``Transport.send``."""
        session = await self._get_session()
        failure: TwUsageError
        queued = True
        try:
            # aiohttp rounds timeouts above 5 s up to whole seconds, and its pool's queue counts as connecting: the
            # host would be blamed for a busy pool (faults: connect, "ThePool").
            async with asyncio.timeout(timeout), self._semaphore:
                queued = False
                # A frame of its own: its locals hold the response and the proxy's password, and do not stay in the
                # traceback.
                return await self._exchange(session, request, timeout)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if not session.closed or task is None or task.cancelling():
                # aiohttp's frames hold the token in their locals (test_secrets: test_cancelled_by_the_caller).
                error.__context__ = None
                raise error.with_traceback(None)  # noqa: B904 - it is the same error
            # aiohttp cancels calls that wait for a look-up when the session closes (wire: test_closing_ends_calls).
            failure = ClientClosedError(_SESSION_CLOSED)
        except TwUsageError as error:
            # The frames of the traceback hold the headers and the body (wire: test_what_was_refused_is_not_kept).
            failure = error.with_traceback(None)
        except Exception as error:
            # A caller's session raises exceptions of other packages, such as aiohttp-socks (TestForeignErrors). On the
            # own session anything else is a bug and must be visible.
            if self._owns_session and not (session.closed or isinstance(error, _AIOHTTP_ERRORS)):
                raise
            failure = _translate_error(error, request, timeout)
            if queued:
                message = f"all {self._limit} slots were in use for {timeout:g} s; raise limit= or timeout="
                failure = RequestTimeoutError(message, unsent=True)
        # Raised outside the except block: aiohttp's error, which shows the request's headers, must not be the context.
        raise ClientClosedError(_SESSION_CLOSED) if session.closed else failure

    async def aclose(self) -> None:
        """Close the session, if it is the transport's own. Nothing can be sent afterwards."""
        session = self._session if self._owns_session else None
        if session is not None and not self._binding.is_free:
            # A forked process would end the TLS connections of its parent (faults: test_after_a_fork).
            self._binding.bind()
        self._closed = True
        if session is not None:
            self._session = None
            await session.close()

    async def _exchange(
        self,
        session: aiohttp.ClientSession,
        request: Request,
        timeout: float,  # noqa: ASYNC109 - half of it is for connecting
    ) -> Response:
        options = self._options
        if self._trust_env and (proxy := _environment_proxy(request.url)):
            options = options | {"proxy": proxy}
        async with session.request(
            request.method,
            _url(request.url),
            headers=dict(request.headers.items()) | {"accept-encoding": "gzip"},
            data=request.body or None,
            timeout=_client_timeout(timeout, self._owns_session),
            **options,
        ) as response:
            # If the block is left before the end of the body, aiohttp closes the connection.
            headers = Headers(response.headers)
            return Response(response.status, headers, await self._read_body(response, headers))

    async def _read_body(self, response: aiohttp.ClientResponse, headers: Headers) -> bytes:
        # aiohttp would inflate a bomb whole and return a truncated gzip body without an error (faults: reading).
        encoding = headers.get("content-encoding", "").strip().lower()
        if encoding not in {"", "identity", "gzip", "x-gzip"}:  # Not shown: it may echo the token.
            raise ProtocolError("the response's content-encoding is unknown; only gzip was offered")
        if not encoding and response.content.is_eof():  # The usual case: no timer and no copy, 5 % of a request.
            whole = await response.content.readany()
            if len(whole) > self._max_body:
                raise self._oversized()
            return whole
        if (response.content_length or 0) > self._max_body:
            raise self._oversized()
        return await self._read_chunks(response, compressed=encoding.endswith("gzip"))

    async def _read_chunks(self, response: aiohttp.ClientResponse, *, compressed: bool) -> bytes:
        body, received, inflater = bytearray(), 0, None
        while chunk := await _read_chunk(response):
            received += len(chunk)
            if compressed and inflater is None:
                inflater = zlib.decompressobj(wbits=31)  # gzip only; header and CRC are checked
            while chunk:
                part, chunk = (chunk, b"") if inflater is None else _inflate(inflater, chunk)
                body += part
                if max(received, len(body)) > self._max_body:  # An endless gzip stream may inflate to nothing.
                    raise self._oversized()
                if chunk:
                    await asyncio.sleep(0)
        # A response without a body, such as a 204, may still have a content-encoding.
        if not (inflater is None or inflater.eof):
            raise ProtocolError("the response's gzip body is truncated", retryable=True)
        return bytes(body)

    def _oversized(self) -> ProtocolError:
        return ProtocolError(f"the response body is larger than max_body ({self._max_body} bytes)")

    async def _get_session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise ClientClosedError("this transport is closed; make a new one")
        previous = None
        if self._binding.bind() and self._owns_session:
            previous, self._session = self._session, None
            self._semaphore = asyncio.Semaphore(self._limit)
        running_task()  # asyncio.timeout() raises a RuntimeError without one.
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=_Connector(), cookie_jar=aiohttp.DummyCookieJar())
        # Private, because the public ``loop`` is deprecated.
        if not self._owns_session and getattr(self._session, "_loop", None) not in {None, asyncio.get_running_loop()}:
            raise ConfigurationError(_OTHER_LOOP)
        if self._session.closed:
            raise ConfigurationError("the given aiohttp session is closed; keep it open as long as the client")
        session = self._session
        if previous is not None:
            await previous.close()
        return session


@lru_cache(maxsize=16)
def _client_timeout(timeout: float, own_session: bool) -> aiohttp.ClientTimeout:
    # Half of the time for connecting, from the look-up to the TLS handshake and the proxy's tunnel: afterwards it is
    # certain that nothing was sent. On a caller's session, whose pool may be busy, for each address only.
    half = timeout / 2
    return aiohttp.ClientTimeout(total=None, connect=half if own_session else None, sock_connect=half)


@lru_cache(maxsize=64)  # A program sends the same request again and again.
def _url(text: str) -> URL:
    return URL(text, encoded=True)


def _environment_proxy(url: str) -> str | None:
    # Not aiohttp's trust_env: it also reads netrc, and a login found there fails beside our Authorization header.
    parts, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc):
        return None
    proxy = proxy.strip()
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not is_proxy_url(proxy):
        raise ConfigurationError(_NO_PROXY_URL.format(f"{parts.scheme.upper()}_PROXY"))
    return proxy


class _DisconnectedBeforeResponse(aiohttp.ClientError):
    """The connection ended before the response began."""


class _ProxyDisconnected(aiohttp.ClientError):
    """The proxy closed the connection instead of opening the tunnel. Nothing was sent to the server."""


_AIOHTTP_ERRORS = (aiohttp.ClientError, HttpProcessingError, OSError, ValueError)


class _Connector(aiohttp.TCPConnector):
    def __init__(self) -> None:
        super().__init__(limit=0, resolver=_Resolver())
        self._seen: WeakSet[Any] = WeakSet()

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: Any,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - as it is inherited
    ) -> Connection:
        try:
            connection = await super().connect(req, traces, timeout)
            # aiohttp 3.14 takes bytes received on an idle connection, such as a load balancer's 408, for the response
            # to the next request (RFC 9112, 6.3; faults: test_unsolicited_bytes_are_not_a_response).
            while (protocol := connection.protocol) is not None and protocol in self._seen:
                if not protocol.should_close:
                    return connection
                connection.close()
                connection = await super().connect(req, traces, timeout)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            # After the request the same exceptions mean that it may have been counted (faults: "proxy sends nothing").
            raise _ProxyDisconnected(type(error).__name__) from None
        self._seen.add(protocol)
        transport: Any = connection.transport
        if getattr(transport, "max_size", 0) > _SOCKET_READ_SIZE:  # a new connection without TLS
            transport.max_size = _SOCKET_READ_SIZE
        return connection


class _Resolver(AbstractResolver):
    """Resolves names with the system's resolver, in a daemon thread per look-up.

    aiohttp uses asyncio's executor, for whose threads ``asyncio.run`` and the end of the interpreter wait: with a dead
    name server, neither a timeout nor Ctrl-C ended the program (test_cli: test_a_name_server_that_does_not_answer).
    c-ares (aiodns) needs no thread, but ignores nsswitch.conf, mDNS and the split DNS of a VPN.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[ResolveResult]] = loop.create_future()

        def look_up() -> None:
            try:
                settle = partial(found.set_result, _look_up(host, port, family))
            except Exception as error:  # noqa: BLE001 - passed on
                settle = partial(found.set_exception, error)
            with suppress(RuntimeError):  # The loop was closed in the meantime.
                loop.call_soon_threadsafe(lambda: found.done() or settle())

        try:
            threading.Thread(target=look_up, name="twusage look-up", daemon=True).start()
        except RuntimeError:  # The process may have no more threads, as with the pids limit of a container.
            raise OSError(errno.EAGAIN, "no thread for the look-up") from None
        return await found

    async def close(self) -> None:
        """Leave running look-ups behind."""


def _look_up(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    # On Windows without a network, AI_ADDRCONFIG finds no localhost.
    flags = 0 if sys.platform == "win32" else socket.AI_ADDRCONFIG
    numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    results = []
    for kind, _, proto, _, address in socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=flags):
        # A link-local address keeps its scope: fe80::1%eth0.
        numbers, _ = socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
        results.append(ResolveResult(hostname=host, host=numbers, port=port, family=kind, proto=proto, flags=numeric))
    return results


async def _send_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    # After these two exceptions aiohttp would silently send a GET again (wire: test_aiohttp_would_have_sent_it_twice).
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
        raise _DisconnectedBeforeResponse(type(error).__name__) from None


async def _read_chunk(response: aiohttp.ClientResponse) -> bytes:
    """Return the next bytes of the body, not inflated. They are empty at its end."""
    if response.content.is_eof():  # The usual case: a timer would cost more than the read.
        return await response.content.readany()
    while True:
        connection = response.connection
        closed = connection is None or connection.protocol is None or not connection.protocol.is_connected()
        try:
            async with asyncio.timeout(_BODY_POLL_INTERVAL):
                return await response.content.readany()
        except (TimeoutError, RuntimeError):
            # After a malformed chunk aiohttp 3.14 closes the connection, but its reader waits forever (faults: "chunk
            # with ..."). Checked before the wait: the end of a body without a length closes the connection as well.
            if closed:
                raise HttpProcessingError(message="a malformed body") from None


def _inflate(inflater: Any, chunk: bytes) -> tuple[bytes, bytes]:
    """Return some inflated bytes and the rest of the chunk."""
    try:
        part = inflater.decompress(chunk, _INFLATE_CHUNK)
        corrupt = bool(inflater.unused_data)
    except zlib.error:
        corrupt = True
    if corrupt:
        raise ProtocolError("the response's gzip body is corrupt", retry_once=True)
    return part, inflater.unconsumed_tail


def _translate_error(error: Exception, request: Request, timeout: float) -> TwUsageError:  # noqa: C901, PLR0911 - a table
    """Return aiohttp's error as ours, with only type and system reason."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return ConnectError(f"no connection within {timeout / 2:g} s", reason="timeout")
        case aiohttp.ClientSSLError() | aiohttp.ServerFingerprintMismatch() | ssl_module.SSLError():
            return _tls_error(error)
        case aiohttp.ClientConnectorError():
            return _connect_error(error, request)
        case aiohttp.ClientHttpProxyError():
            reason: ConnectReason = "proxy-auth" if error.status == 407 else "proxy"
            return ConnectError(f"the proxy refused to connect ({error.status})", reason=reason)
        case _ProxyDisconnected():
            return ConnectError("the proxy closed the connection instead of connecting", reason="proxy")
        case TimeoutError() if type(error) is TimeoutError or isinstance(error, aiohttp.ClientError):
            return RequestTimeoutError(f"no complete response within {timeout:g} s")
        case _DisconnectedBeforeResponse() | ConnectionError():
            return ProtocolError("the connection ended before the response began", retryable=True)
        case aiohttp.ClientPayloadError():
            return ProtocolError("the response body is truncated or malformed", retryable=True)
        case aiohttp.ClientResponseError() | HttpProcessingError():
            return ProtocolError(f"the response is not valid HTTP{_flaw(error)}", retry_once=True)
        case OSError():  # Of a socket that was never connected; later ones are _DisconnectedBeforeResponse.
            return ConnectError(f"no connection ({_system_reason(error)})", reason=_SOCKET_REASONS.get(error.errno))
        case aiohttp.ClientError() | ValueError():
            return ProtocolError(f"aiohttp cannot send this request ({type(error).__name__})")
        case _:
            return ConnectError(f"the given aiohttp session could not connect ({type(error).__name__})")


def _connect_error(error: aiohttp.ClientConnectorError, request: Request) -> ConnectError:
    reason = _SOCKET_REASONS.get(error.os_error.errno)
    if isinstance(error, aiohttp.ClientProxyConnectionError) or error.host != _url(request.url).host:
        reason = "proxy-unreachable"
    elif isinstance(error, aiohttp.ClientConnectorDNSError):
        reason = "dns"
    return ConnectError(f"no connection to {error.host}:{error.port} ({_system_reason(error.os_error)})", reason=reason)


def _tls_error(error: Exception) -> TlsError:
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    code = getattr(cause, "verify_code", None)
    if code is None and isinstance(cause, ssl_module.SSLError):
        message = f"the TLS handshake failed ({ascii(getattr(cause, 'reason', None) or type(cause).__name__)[1:-1]})"
        return TlsError(f"{message}. Check that this address serves https", reason="handshake")
    detail = ascii(getattr(cause, "verify_message", None) or type(cause).__name__)[1:-1]
    message = f"TLS certificate verification failed ({detail}). "
    if code in _ISSUER_UNKNOWN and not _has_ca_store():
        message += "This system has no CA certificates: install the package ca-certificates, or pass ssl= to "
        return TlsError(message + "AiohttpTransport", reason="no-ca-store")
    message += "If you trust this server, pass ssl= to AiohttpTransport"
    return TlsError(message, reason=_CERTIFICATE_REASONS.get(code or 0, "untrusted"))


def _has_ca_store() -> bool:
    # Slim container images have none, or an empty file; Windows has a store of its own.
    paths = ssl_module.get_default_verify_paths()
    has_file = bool(paths.cafile and os.path.getsize(paths.cafile))  # noqa: PTH202
    return sys.platform == "win32" or has_file or bool(paths.capath and os.listdir(paths.capath))  # noqa: PTH208


def _flaw(error: BaseException | None) -> str:
    # aiohttp's own sentences quote what was received, perhaps an echo of the token: only the type is used.
    while error is not None:
        if isinstance(error, LineTooLong):
            return ": its status line or a header is too large"
        if isinstance(error, BadHttpMessage) and error.message.startswith("Too many headers"):
            return ": it has too many headers"
        error = error.__cause__
    return ""


def _system_reason(error: OSError) -> str:
    # Not the text of the exception, unless the resolver's, because it may quote a proxy's password.
    known = type(error).__module__ in {"builtins", "socket"} or isinstance(error, aiohttp.ClientError)
    text = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
    return ascii((known and text) or type(error).__name__)[1:-1]
