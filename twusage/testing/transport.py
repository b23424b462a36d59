"""FakeTransport: the fake API in memory. No sockets; it waits by the clock of the fake."""

from __future__ import annotations

from twusage.clock import Clock
from twusage.errors import ClientClosedError, ConnectError, ProtocolError, RequestTimeoutError
from twusage.event_loop import LoopBinding
from twusage.protocol import Request, Response
from twusage.testing.api import FakeApi
from twusage.testing.faults import Breakage

__all__ = ["FakeTransport"]


class FakeTransport:
    """Passes requests to a ``FakeApi``. Like ``AiohttpTransport``, it serves one event loop at a time.

    Args:
        api: the simulated service.
        clock: the clock of both (default: that of ``api``).
        latency: seconds that every response takes.
    """

    def __init__(self, api: FakeApi, *, clock: Clock | None = None, latency: float = 0.0) -> None:
        self._api = api
        if clock is not None:
            api.clock = clock
        self._latency = latency
        self._binding = LoopBinding("FakeTransport")
        self._closed = False

    async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109 - as Transport has it
        """Pass one request to the fake. See ``Transport.send``."""
        if self._closed:
            raise ClientClosedError("this transport is closed; make a new one")
        self._binding.bind()
        exchange = self._api.exchange(request)
        delay = self._latency + exchange.delay
        if exchange.breakage is Breakage.CONNECT:
            raise ConnectError("no connection to the fake, as scripted", reason="refused")
        if exchange.breakage is Breakage.TIMEOUT or delay > timeout:
            await self._api.clock.sleep(timeout)
            raise RequestTimeoutError(f"no complete response within {timeout:g} s, as scripted")
        if delay:
            await self._api.clock.sleep(delay)
        if exchange.breakage is Breakage.DISCONNECT:
            raise ProtocolError("the connection ended before the response began, as scripted", retryable=True)
        if exchange.breakage is Breakage.RESET:
            raise ProtocolError("the response body is truncated, as scripted", retryable=True)
        return exchange.response

    async def aclose(self) -> None:
        """Close the transport. As with ``AiohttpTransport``, nothing can be sent afterwards."""
        self._closed = True
