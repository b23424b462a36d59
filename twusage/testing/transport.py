"""FakeTransport: the fake API in memory. No sockets; its waits are the clock's."""

from __future__ import annotations

from twusage.clock import Clock
from twusage.errors import ConnectError, ProtocolError, RequestTimeoutError
from twusage.protocol import Request, Response
from twusage.testing.api import FakeApi
from twusage.testing.faults import Breakage

__all__ = ["FakeTransport"]


class FakeTransport:
    """Carries requests to a ``FakeApi``.

    Args:
        api: who answers.
        clock: what time it is for both; the API's own clock if left out.
        latency: seconds that every answer takes.
    """

    def __init__(self, api: FakeApi, *, clock: Clock | None = None, latency: float = 0.0) -> None:
        self._api = api
        if clock is not None:
            api.clock = clock
        self._latency = latency

    async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109 - as Transport has it
        """One request to the fake. See ``Transport.send``."""
        outcome = self._api.exchange(request)
        delay = self._latency + outcome.delay
        if outcome.breakage is Breakage.CONNECT:
            raise ConnectError("no connection to the fake, as scripted", reason="refused")
        if outcome.breakage is Breakage.TIMEOUT or delay > timeout:
            await self._api.clock.sleep(timeout)
            raise RequestTimeoutError(f"no whole answer within {timeout:g} s, as scripted")
        if delay:
            await self._api.clock.sleep(delay)
        if outcome.breakage is Breakage.DISCONNECT:
            raise ProtocolError("the connection ended before the answer began, as scripted", retryable=True)
        if outcome.breakage is Breakage.RESET:
            raise ProtocolError("the answer's body was cut short, as scripted", retryable=True)
        return outcome.response

    async def aclose(self) -> None:
        """Nothing to give back."""
