"""fake_app: the fake API on a socket, for programs in any language and for end-to-end tests."""

from __future__ import annotations

from aiohttp import web

from twusage.protocol import Request, Response
from twusage.testing.api import FakeApi
from twusage.testing.faults import Breakage

__all__ = ["fake_app"]


def fake_app(api: FakeApi) -> web.Application:
    """An aiohttp application that answers as the API does: run it with ``aiohttp.web`` or ``aiohttp.test_utils``.

    What breaks an exchange in memory breaks it on the wire: a connection that cannot be made (here: one that is closed
    at once), one that is reset in the middle of a body, an answer that does not come while the client waits.
    """

    async def answer(received: web.Request) -> web.StreamResponse:
        request = Request(received.method, str(received.url), dict(received.headers), await received.read())
        outcome = api.exchange(request)
        if outcome.breakage is Breakage.TIMEOUT:
            await api.clock.sleep(float("inf"))
        if outcome.delay:
            await api.clock.sleep(outcome.delay)
        if outcome.breakage in {Breakage.CONNECT, Breakage.DISCONNECT}:
            _hang_up(received)
        return await _sent(received, outcome.response, whole=outcome.breakage is None)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    return app


async def _sent(received: web.Request, response: Response, *, whole: bool) -> web.StreamResponse:
    headers = {name: value for name, value in response.headers.items() if name != "content-length"}
    if whole:
        return web.Response(status=response.status, headers=headers, body=response.body)
    stream = web.StreamResponse(status=response.status, headers=headers)
    stream.content_length = len(response.body)
    await stream.prepare(received)
    await stream.write(response.body[: len(response.body) // 2])
    _hang_up(received)
    return stream


def _hang_up(received: web.Request) -> None:
    if received.transport is not None:
        received.transport.abort()
