"""The fake API on a socket, for any language and end-to-end tests.

``fake_app`` is the aiohttp application; ``FakeServer`` runs it in its own thread, so that a test needs no event loop.
"""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Self

from aiohttp import web

from twusage.protocol import Request, Response
from twusage.testing.api import FakeApi
from twusage.testing.faults import Breakage

__all__ = ["FakeServer", "fake_app"]


def fake_app(api: FakeApi) -> web.Application:
    """Return an aiohttp application that serves the fake, to run with ``aiohttp.web``.

    Scripted faults break the exchange on the wire: a connection that is refused (here: closed immediately) or reset in
    the middle of a body, or a response that is never sent. Delays are real seconds, because the client at the other end
    of the socket has its own clock.
    """

    async def handle(received: web.Request) -> web.StreamResponse:
        request = Request(received.method, str(received.url), dict(received.headers), await received.read())
        exchange = api.exchange(request)
        await asyncio.sleep(exchange.delay)
        if exchange.breakage is Breakage.TIMEOUT:
            await _until_client_disconnects(received)
        if exchange.breakage is Breakage.RESET:
            return await _cut_short(received, exchange.response)
        if exchange.breakage is not None:
            _hang_up(received)
        response = exchange.response
        return web.Response(status=response.status, headers=dict(response.headers), body=response.body)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    return app


async def _cut_short(received: web.Request, response: Response) -> web.StreamResponse:
    stream = web.StreamResponse(status=response.status, headers=dict(response.headers))
    stream.content_length = len(response.body)
    await stream.prepare(received)
    await stream.write(response.body[: len(response.body) // 2])
    _hang_up(received)
    return stream


def _hang_up(received: web.Request) -> None:
    if received.transport is not None:
        received.transport.abort()


async def _until_client_disconnects(received: web.Request) -> None:
    # By default aiohttp does not cancel a handler whose client has disconnected.
    while received.transport is not None and not received.transport.is_closing():  # noqa: ASYNC110 - aiohttp has no event for it
        await asyncio.sleep(0.02)


class FakeServer:
    """The fake API on a free loopback port, in its own thread: ``with FakeServer(api) as server: ...``.

    Args:
        api: the fake to serve (default: a new ``FakeApi``).
        port: the port (default: a free one).
    """

    def __init__(self, api: FakeApi | None = None, *, port: int = 0) -> None:
        self.api = FakeApi() if api is None else api
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._runner = web.AppRunner(fake_app(self.api), access_log=None, shutdown_timeout=0.1)
        self._thread = threading.Thread(target=self._loop.run_forever, name="twusage fake", daemon=True)

    @property
    def url(self) -> str:
        """The value for ``base_url=`` or ``TWUSAGE_BASE_URL``."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def token(self) -> str:
        """The bearer token of the fake's first app."""
        return self.api.apps[0].token

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._stop()

    async def _start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
