"""fake_app: the fake API on a socket, beyond the contract of transports."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import cast

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from twusage.aiohttp_transport import AiohttpTransport
from twusage.errors import ProtocolError, TransportError
from twusage.protocol import Request, authorize, usage_request
from twusage.testing import FakeApi, Fault, fake_app
from twusage.testing import server as server_module

AT_ONCE = 5.0


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
async def server(api: FakeApi) -> AsyncIterator[TestServer]:
    server = TestServer(fake_app(api))
    await server.start_server()
    yield server
    await server.close()


@pytest.fixture
def request_to(api: FakeApi, server: TestServer) -> Request:
    """What a client of the first app sends."""
    return authorize(usage_request(base_url=str(server.make_url("")).rstrip("/")), api.apps[0].token)


@pytest.fixture
async def transport() -> AsyncIterator[AiohttpTransport]:
    transport = AiohttpTransport()
    yield transport
    await transport.aclose()


async def raw(server: TestServer, request: bytes) -> bytes:
    """All bytes of the server in reply to these, until it closes the connection."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    async with asyncio.timeout(AT_ONCE):
        writer.write(request)
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


def get(api: FakeApi, path: str = "/2/usage/tweets") -> bytes:
    token = api.apps[0].token
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/2/tweets", "/2/usage/tweets/", "/favicon.ico"])
async def test_every_path_is_the_apis(api: FakeApi, server: TestServer, method: str, path: str) -> None:
    """What the API does not have is its own 404, not the web server's, whatever the method."""
    async with aiohttp.ClientSession() as session, session.request(method, server.make_url(path)) as response:
        assert response.status == 404
        assert (await response.json())["type"].endswith("/resource-not-found")
    assert [received.method for received in api.requests] == [method]


async def test_tokens_are_issued(api: FakeApi, server: TestServer) -> None:
    """POST /oauth2/token gives the app's token for its key and secret."""
    app = api.apps[1]
    authorization = "Basic " + base64.b64encode(f"{app.api_key}:{app.api_secret}".encode()).decode()
    async with (
        aiohttp.ClientSession(headers={"authorization": authorization}) as session,
        session.post(server.make_url("/oauth2/token"), data={"grant_type": "client_credentials"}) as response,
    ):
        assert (await response.json())["access_token"] == app.token
    assert api.requests[0].body == b"grant_type=client_credentials"


async def test_headers_come_once(api: FakeApi, server: TestServer) -> None:
    """The API's headers are not doubled by the web server's own. One Date, one type, one length."""
    head, _, body = (await raw(server, get(api))).partition(b"\r\n\r\n")
    names = [line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:]]
    assert len(names) == len(set(names))
    assert {b"date", b"content-type", b"content-length", b"x-rate-limit-limit", b"x-transaction-id"} <= set(names)
    assert json.loads(body)["data"]["project_id"] == api.project.id


async def test_the_query_arrives_as_it_was_sent(api: FakeApi, server: TestServer) -> None:
    """A client's percent-encoding reaches the fake unchanged."""
    await raw(server, get(api, "/2/usage/tweets?days=7&usage.fields=project_id,project_cap"))
    assert api.requests[0].url.endswith("/2/usage/tweets?days=7&usage.fields=project_id,project_cap")


@pytest.mark.parametrize("fault", [Fault.connect_error(), Fault.disconnected()], ids=str)
async def test_a_closed_connection_without_a_byte(api: FakeApi, server: TestServer, fault: Fault) -> None:
    """A connection that is refused or closed immediately ends without a byte."""
    api.fail(fault)
    assert await raw(server, get(api)) == b""


async def test_a_connection_that_cannot_be_made_is_not_counted(
    api: FakeApi, transport: AiohttpTransport, request_to: Request
) -> None:
    """A server cannot refuse what it has accepted. It hangs up, counts nothing, and the client may try again."""
    api.fail(Fault.connect_error())
    with pytest.raises(ProtocolError) as caught:
        await transport.send(request_to, timeout=AT_ONCE)
    assert caught.value.retryable
    assert not api.requests
    assert (await transport.send(request_to, timeout=AT_ONCE)).status == 200


async def test_a_reset_comes_in_the_middle_of_the_body(api: FakeApi, server: TestServer) -> None:
    """The headers promise all of the body, and half of it comes."""
    whole = (await raw(server, get(api))).partition(b"\r\n\r\n")[2]
    api.fail(Fault.reset())
    head, _, body = (await raw(server, get(api))).partition(b"\r\n\r\n")
    assert f"content-length: {len(whole)}".encode() in head.lower()
    assert body == whole[: len(whole) // 2]


async def test_a_client_that_leaves_is_not_waited_for(
    api: FakeApi, transport: AiohttpTransport, request_to: Request, server: TestServer
) -> None:
    """A response that never comes does not keep the server from closing once its client has left."""
    api.fail(Fault.timeout())
    with pytest.raises(TransportError):
        await transport.send(request_to, timeout=0.1)
    async with asyncio.timeout(AT_ONCE):
        await server.close()


async def test_others_are_served_while_one_waits(
    api: FakeApi, transport: AiohttpTransport, request_to: Request
) -> None:
    """A slow response does not delay other ones: they overtake it."""
    api.fail(Fault.slow(0.2))
    order: list[str] = []

    async def ask(name: str) -> None:
        await transport.send(request_to, timeout=AT_ONCE)
        order.append(name)

    async with asyncio.TaskGroup() as group:
        group.create_task(ask("slow"))
        group.create_task(ask("quick"))
    assert order == ["quick", "slow"]


async def test_an_app_can_be_served_again(api: FakeApi, transport: AiohttpTransport) -> None:
    """One fake may be behind several servers, one after the other, and keeps its state."""
    for _ in range(2):
        async with TestServer(fake_app(api)) as server:
            base_url = str(server.make_url("")).rstrip("/")
            request = authorize(usage_request(base_url=base_url), api.apps[0].token)
            assert (await transport.send(request, timeout=AT_ONCE)).status == 200
    assert len(api.requests) == 2


async def test_a_connection_that_is_gone_is_not_hung_up_again() -> None:
    """A client that left before its fault is ignored."""
    gone = cast(web.Request, SimpleNamespace(transport=None))
    server_module._hang_up(gone)
    await server_module._until_client_disconnects(gone)
