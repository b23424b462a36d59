"""The fake API on a socket, for programs in any language and for end-to-end tests.

``fake_app`` is the aiohttp application; ``FakeServer`` runs it in a thread of its own, so that a test needs no loop.
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
    """An aiohttp application that answers as the API does: run it with ``aiohttp.web``.

    What breaks an exchange in memory breaks it on the wire: a connection that cannot be made (here: one that is closed
    at once), one that is reset in the middle of a body, an answer that does not come while the client waits. Delays are
    real seconds: the client at the other end of a socket has a clock of its own.
    """

    async def answer(received: web.Request) -> web.StreamResponse:
        request = Request(received.method, str(received.url), dict(received.headers), await received.read())
        outcome = api.exchange(request)
        await asyncio.sleep(outcome.delay)
        if outcome.breakage is Breakage.TIMEOUT:
            await _until_it_hangs_up(received)
        if outcome.breakage is Breakage.RESET:
            return await _cut_short(received, outcome.response)
        if outcome.breakage is not None:
            _hang_up(received)
        response = outcome.response
        return web.Response(status=response.status, headers=dict(response.headers), body=response.body)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
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


async def _until_it_hangs_up(received: web.Request) -> None:
    # aiohttp does not tell a handler that its client has left, unless its runner is made to.
    while received.transport is not None and not received.transport.is_closing():  # noqa: ASYNC110 - there is no event
        await asyncio.sleep(0.02)


class FakeServer:
    """The fake API on a free port of loopback, in a thread of its own: ``with FakeServer(api) as server: ...``.

    Args:
        api: who answers; a new ``FakeApi`` if left out.
        port: the port; 0 takes a free one.
    """

    def __init__(self, api: FakeApi | None = None, *, port: int = 0) -> None:
        self.api = FakeApi() if api is None else api
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._runner = web.AppRunner(fake_app(self.api), access_log=None, shutdown_timeout=0.1)
        self._thread = threading.Thread(target=self._loop.run_forever, name="twusage fake", daemon=True)

    @property
    def url(self) -> str:
        """What ``base_url=`` or ``TWUSAGE_BASE_URL`` takes."""
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
