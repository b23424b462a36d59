"""The Transport protocol. Implementations are in ``aiohttp_transport`` and ``testing``."""

from __future__ import annotations

from typing import Protocol

from twusage.protocol import Request, Response

__all__ = ["Transport"]


class Transport(Protocol):
    """Sends one request to the API and returns its response.

    Every failure is a ``TransportError``. A ``ConnectError`` means that certainly nothing was sent, because the call's
    place in the rate-limit window is then refunded. One ``send`` is one request on the wire: a transport does not
    retry, wait or decode.
    """

    async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109 - the transport keeps it
        """Send the request and return the complete, decompressed response, whatever its status.

        Args:
            request: what to send. Its headers contain the credentials: never show or log them.
            timeout: seconds in total: waiting for a connection, connecting, sending and reading.

        Raises:
            TransportError: there is no usable response.
        """
        ...

    async def aclose(self) -> None:
        """Close what the transport opened. Idempotent."""
        ...
