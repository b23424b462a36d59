"""The HTTP server: aiohttp's, with limits and other error pages. The limits are against slow and many clients."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from aiohttp import web

from twusage.dashboard.guards import HEADERS, text_response

__all__ = ["serving"]

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_log = logging.getLogger("twusage")
_MAX_CONNECTIONS = 64
_MAX_HEADER_BYTES = 8192
_TIMEOUT = 10.0
"""Seconds to send a whole request, and to read its response."""
_KEEP_ALIVE = 10.0
_SHUTDOWN = 0.3
"""Seconds that running responses have when the server ends."""
_TOO_LARGE = b"".join(
    (
        b"HTTP/1.1 431 Request Header Fields Too Large\r\n",
        *(f"{name}: {value}\r\n".encode() for name, value in HEADERS.items()),
        b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 28\r\nConnection: close\r\n\r\n",
        b"431: the header is too large",
    )
)


class _Connection(web.RequestHandler):
    """One connection, closed if a request is slow or large.

    Responses to malformed requests get the headers of all responses.
    """

    def __init__(self, server: _Server, **keywords: Any) -> None:
        super().__init__(server, **keywords)
        self._server = server
        self._timer: asyncio.TimerHandle | None = None
        self._received = 0
        self._socket: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._socket = cast("asyncio.Transport", transport)
        if len(self._server.connections) > _MAX_CONNECTIONS:
            self.force_close()
            return
        self._begin()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > _MAX_HEADER_BYTES:
            self._socket.write(_TOO_LARGE)
            self._socket.close()
            return
        if self._timer is None:
            self._begin()
        super().data_received(data)

    def handling(self) -> None:
        """Note that a whole request has arrived. From now on the client has time to read the response."""
        self._received = 0
        self._begin()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._end()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's message names aiohttp and quotes the request
    ) -> web.StreamResponse:
        """Return the response to a malformed request or after a bug."""
        del request
        if status >= 500:
            _log.error("a request failed", exc_info=exc)
        response = text_response(status, f"{status}: {'the server failed' if status >= 500 else 'malformed request'}")
        response.force_close()
        return response

    def _begin(self) -> None:
        self._end()
        self._timer = asyncio.get_running_loop().call_later(_TIMEOUT, self._abort)

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _abort(self) -> None:
        self._timer = None
        self._socket.abort()  # Not close(), which waits for a client that takes nothing.


class _Server(web.Server):
    """Makes a ``_Connection`` for each connection."""

    def __call__(self) -> web.RequestHandler:
        return _Connection(
            self,
            loop=asyncio.get_running_loop(),
            access_log=None,
            keepalive_timeout=_KEEP_ALIVE,
            lingering_time=0,  # A body is never read.
        )


@asynccontextmanager
async def serving(handler: Handler, host: str, port: int) -> AsyncIterator[int]:
    """Serve this handler while the block runs; the value is the port.

    Raises:
        OSError: the address cannot be bound.
    """

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, _Connection)
        connection.handling()
        return await handler(request)

    runner = web.ServerRunner(_Server(handle), shutdown_timeout=_SHUTDOWN)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, reuse_address=True).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
