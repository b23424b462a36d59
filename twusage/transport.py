"""What a transport is. No implementation: those are ``http`` and ``testing``."""

from __future__ import annotations

from typing import Protocol

from twusage.protocol import Request, Response

__all__ = ["Transport"]


class Transport(Protocol):
    """Carries one request to the API and one answer back.

    Whatever goes wrong is a ``TransportError``: ``ConnectError`` only where surely nothing was sent, because then the
    call's place in the rate limit's window is given back. Retrying, waiting and decoding are done elsewhere: one
    ``send`` is one request on the wire.
    """

    async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109 - the transport keeps it
        """Send the request and bring back the whole answer, decompressed, whatever its status.

        Args:
            request: what to send, credentials included. Never show its headers to anybody.
            timeout: seconds for all of it: waiting for a connection, connecting, sending, reading.

        Raises:
            TransportError: nothing usable came back.
        """
        ...

    async def aclose(self) -> None:
        """Give back what the transport opened. Calling it twice is fine."""
        ...
