"""A recording: responses of the real API, without secrets, replayed in a test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from twusage.client import UsageClient
from twusage.errors import (
    AuthenticationError,
    ConnectError,
    DecodeError,
    ProtocolError,
    TransportError,
    TwUsageError,
    UsageCapExceededError,
)
from twusage.protocol import Request
from twusage.retry import RetryPolicy
from twusage.testing import FakeApi, FakeTransport, Fault, RecordingTransport, ReplayTransport, VirtualClock


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def api(clock: VirtualClock) -> FakeApi:
    return FakeApi(clock=clock)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "usage.json"


def recorded_by(api: FakeApi, path: Path) -> UsageClient:
    transport = RecordingTransport(FakeTransport(api), path)
    return UsageClient(api.apps[0].token, transport=transport, clock=api.clock, retry=RetryPolicy.none())


def replayed_by(path: Path, clock: VirtualClock) -> UsageClient:
    return UsageClient("another-token", transport=ReplayTransport(path), clock=clock, retry=RetryPolicy.none())


async def test_what_was_recorded_is_played_back(api: FakeApi, path: Path, clock: VirtualClock) -> None:
    """The same calls give the same values, without the API and with any token."""
    async with recorded_by(api, path) as client:
        recorded = [await client.get_usage(), await client.get_usage(days=30)]
    async with replayed_by(path, clock) as client:
        assert [await client.get_usage(), await client.get_usage(days=30)] == recorded


async def test_errors_are_played_back_too(api: FakeApi, path: Path, clock: VirtualClock) -> None:
    """Errors, garbled responses and broken connections, unchanged and in their order."""
    faults: dict[Fault, type[TwUsageError]] = {
        Fault.usage_capped(): UsageCapExceededError,
        Fault.status(401): AuthenticationError,
        Fault.html(): DecodeError,
        Fault.empty(): ProtocolError,
        Fault.reset(): ProtocolError,
        Fault.connect_error(): ConnectError,
    }
    seen = []
    async with recorded_by(api, path) as client:
        for fault, kind in faults.items():
            api.fail(fault)
            with pytest.raises(kind) as recorded:
                await client.get_usage()
            seen.append((str(recorded.value), recorded.value.retryable, recorded.value.retry_once))
    async with replayed_by(path, clock) as client:
        for kind, expected in zip(faults.values(), seen, strict=True):
            with pytest.raises(kind) as played:
                await client.get_usage()
            assert (str(played.value), played.value.retryable, played.value.retry_once) == expected


async def test_no_secret_reaches_the_file(api: FakeApi, path: Path) -> None:
    """Neither the token, nor an echo in a body or header, nor a fetched one, nor cookies."""
    token = api.apps[0].token
    headers = {"x-transaction-id": token, "set-cookie": "id=secret7"}
    api.fail(Fault.status(400, {"detail": f"you sent {token}"}, headers=headers))
    api.fail(Fault.status(500, f"<p>{token}</p>"))
    transport = RecordingTransport(FakeTransport(api), path)
    request = Request("GET", "https://api.x.com/2/usage/tweets", {"authorization": f"Bearer {token}"})
    for _ in range(3):
        await transport.send(request, timeout=1)
    api.fail(Fault.status(200, {"token_type": "bearer", "access_token": "issued-secret"}))
    token_request = Request("POST", "https://api.x.com/oauth2/token", {"authorization": "Basic c2VjcmV0"})
    await transport.send(token_request, timeout=1)
    text = path.read_text()
    assert not [secret for secret in (token, "secret7", "issued-secret", "c2VjcmV0") if secret in text]
    assert "[Bearer credentials]" in text


async def test_a_fetched_token_is_found_in_any_place(api: FakeApi, path: Path) -> None:
    """Deep in the document as well as on top."""
    api.fail(Fault.status(200, {"data": [{"access_token": "issued-secret"}, 1]}))
    await RecordingTransport(FakeTransport(api), path).send(Request("GET", "https://api.x.com/"), timeout=1)
    assert "issued-secret" not in path.read_text()


async def test_a_header_that_is_no_text_is_recorded(api: FakeApi, path: Path) -> None:
    """Aiohttp passes bytes that are not UTF-8 as half characters. A paid response is not lost for them."""
    api.fail(Fault.with_headers(x_transaction_id="caf\udce9"))
    request = Request("GET", "https://api.x.com/2/usage/tweets", {"authorization": f"Bearer {api.apps[0].token}"})
    recorded = await RecordingTransport(FakeTransport(api), path).send(request, timeout=1)
    played = await ReplayTransport(path).send(request, timeout=1)
    assert (played.status, played.headers["x-transaction-id"]) == (200, recorded.headers["x-transaction-id"])


async def test_a_person_can_read_it(api: FakeApi, path: Path) -> None:
    """Indented JSON: the request as a line, the response's document as a document."""
    async with recorded_by(api, path) as client:
        await client.get_usage(days=1)
    recording = json.loads(path.read_text())
    (exchange,) = recording["exchanges"]
    fields = "daily_client_app_usage,daily_project_usage"
    assert exchange["request"] == f"GET /2/usage/tweets?days=1&usage.fields={fields}"
    assert exchange["response"]["status"] == 200
    assert exchange["response"]["json"]["data"]["project_id"] == api.project.id
    assert exchange["response"]["headers"]["x-rate-limit-remaining"] == "49"
    assert path.read_text().count("\n") > 20


async def test_bytes_that_are_no_json_are_kept(api: FakeApi, path: Path) -> None:
    """Whatever came comes again, byte for byte."""
    odd = bytes(range(256))
    api.fail(Fault.status(502, odd))
    request = Request("GET", "https://api.x.com/2/usage/tweets")
    await RecordingTransport(FakeTransport(api), path).send(request, timeout=1)
    assert (await ReplayTransport(path).send(request, timeout=1)).body == odd


async def test_an_unrecorded_request_raises(api: FakeApi, path: Path, clock: VirtualClock) -> None:
    """It names the request, and what the file has."""
    async with recorded_by(api, path) as client:
        await client.get_usage()
    async with replayed_by(path, clock) as client:
        with pytest.raises(AssertionError, match=r"no response \(left\) to GET .*days=2&.*contains: GET /2/usage"):
            await client.get_usage(days=2)


async def test_each_exchange_is_played_once(api: FakeApi, path: Path, clock: VirtualClock) -> None:
    """A request that was recorded once and is made twice is not in the recording."""
    async with recorded_by(api, path) as client:
        await client.get_usage()
    async with replayed_by(path, clock) as client:
        await client.get_usage()
        with pytest.raises(AssertionError, match="0 left"):
            await client.get_usage()


async def test_unused_recordings_are_reported(api: FakeApi, path: Path) -> None:
    """assert_all_used fails if a test made fewer requests than were recorded."""
    async with recorded_by(api, path) as client:
        await client.get_usage()
    replay = ReplayTransport(path)
    with pytest.raises(AssertionError, match=r"never requested: \{'GET /2/usage/tweets': 1\}"):
        replay.assert_all_used()
    await replay.send(Request("GET", "https://api.twitter.com/2/usage/tweets"), timeout=1)
    replay.assert_all_used()
    await replay.aclose()


async def test_an_unknown_error_is_a_transport_error(path: Path) -> None:
    """A recording of another version may name an error that this one does not have."""
    for name in ("NoSuchError", "ApiError", "TYPE_CHECKING"):
        exchange = {"request": "GET /", "error": {"type": name, "message": "gone"}}
        path.write_text(json.dumps({"twusage_recording": 1, "exchanges": [exchange]}))
        with pytest.raises(TransportError, match="gone") as caught:
            await ReplayTransport(path).send(Request("GET", "https://api.x.com/"), timeout=1)
        assert type(caught.value) is TransportError


async def test_an_empty_recording_raises(path: Path) -> None:
    """An empty recording has no responses."""
    path.write_text('{"twusage_recording": 1, "exchanges": []}')
    with pytest.raises(AssertionError, match="It contains: nothing"):
        await ReplayTransport(path).send(Request("GET", "https://api.x.com/"), timeout=1)


HOSTILE = [
    "[]",
    "{}",
    "no JSON",
    "[" * 100_000,
    '{"twusage_recording": 2, "exchanges": []}',
    '{"twusage_recording": 1}',
    '{"twusage_recording": 1, "exchanges": null}',
    *(
        f'{{"twusage_recording": 1, "exchanges": [{exchange}]}}'
        for exchange in (
            "1",
            '{"request": "GET /"}',
            '{"response": {"status": 200, "headers": {}, "body": ""}}',
            '{"request": "GET /", "response": {"status": 200, "headers": {}}}',
            '{"request": "GET /", "response": {"status": "x", "headers": {}, "body": ""}}',
            '{"request": "GET /", "response": {"status": 200, "headers": 1, "body": ""}}',
            '{"request": "GET /", "response": {"status": 200, "headers": {}, "body": "\u20ac"}}',
            '{"request": "GET /", "error": {}}',
        )
    ),
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_another_file_is_no_recording(path: Path, text: str) -> None:
    """A malformed recording raises when it is opened."""
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="is not a recording"):
        ReplayTransport(path)


async def test_the_inner_transport_is_closed_with_it(api: FakeApi, path: Path) -> None:
    """Closing the recording transport closes what really sends."""
    closed = []

    class Inner(FakeTransport):
        async def aclose(self) -> None:
            closed.append(self)

    await RecordingTransport(Inner(api), path).aclose()
    assert len(closed) == 1
