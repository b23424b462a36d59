"""No secret is ever shown. Canary tokens go through every failure, and all readable output is searched.

What may hold what came is the ``headers`` and the ``body`` of an error, by contract; a ``Request`` and a ``Response``
hold what they carry, which their reprs do not show. ``Sweep`` is the search, itself tested with seeded leaks.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import gzip
import itertools
import json
import logging
import os
import pickle
import re
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import CodeType
from typing import Any
from urllib.parse import quote, unquote

import pytest
from attrs import evolve
from scripted_server import Script, Server, Wire, answer, says

import twusage
from twusage import (
    AiohttpTransport,
    AppOnlyAuth,
    BearerToken,
    ConfigurationError,
    HistoryError,
    LocalRateLimiter,
    ProtocolError,
    Request,
    RetryPolicy,
    Secret,
    TwUsageError,
    UsageClient,
)
from twusage import aiohttp_transport as http_module
from twusage.monitor import UsageGuard, WatchFailing, watch
from twusage.protocol import Headers, token_request, usage_request
from twusage.testing import FakeApi, FakeServer, FakeTransport, Fault, RecordingTransport, VirtualClock

pytestmark = pytest.mark.fault("secrets")

PACKAGE = f"{Path(twusage.__file__).parent}{os.sep}"
TOKEN = "AAAAAAAAAAAAAAAAAAAAATOKENCANARYONE%2FtokenCanaryTwo%2BtokenCanaryThree%3DtokenCanaryFour"
KEY = "keyCanary1keyCanary2keyCanary"
SECRET = "secretCanary1:secretCanary2/secretCanary3%41secretCanary4"
FETCHED_TOKEN = "AAAAAAAAAAAAAAAAAAAAAMINTEDCANARY%2FmintedCanaryTwo%3DmintedCanaryThree"
SECRETS = (TOKEN, KEY, SECRET, FETCHED_TOKEN)


def needles() -> re.Pattern[str]:
    """Detects a secret. Each of its words, in plain letters or in base64, however it begins there. In lower
    case, because a header may be put so.
    """
    found = []
    for word in itertools.chain(*(re.findall(r"[A-Za-z0-9]{12,}", secret) for secret in SECRETS)):
        found.append(word)
        for shift in range(3):
            coded = base64.b64encode(b"." * shift + word.encode()).decode().rstrip("=")
            found.append(coded[(0, 2, 3)[shift] : -1])
    return re.compile("|".join(map(re.escape, found)).lower())


NEEDLES = needles()


# -- The sweep ---------------------------------------------------------------------------------------------------------


class Sweep(logging.Handler):
    """Reads all output that a person can read, and records the places of secrets."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(logging.DEBUG)
        self.hits: list[str] = []
        self.read = 0
        self.case = ""
        self._capsys = capsys
        self._records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record)

    def look(self, where: str, text: object) -> None:
        """At one text, or at the repr of one thing."""
        self.read += 1
        shown = text if isinstance(text, str) else repr(text)
        if hit := NEEDLES.search(shown.lower()):
            self.hits.append(f"{self.case}: {where}: ...{shown[max(0, hit.start() - 40) : hit.end()]}")

    def look_at(self, where: str, thing: Any) -> None:
        """At an object. Its repr, str and format, what it holds, and its pickle."""
        for shown in (repr(thing), str(thing), f"{thing}", ascii(thing)):
            self.look(where, shown)
        self.look(f"{where}'s attributes", dict(getattr(thing, "__dict__", {})))
        self.look_at_pickle(where, thing)

    def look_at_pickle(self, where: str, thing: object) -> None:
        try:
            pickled = pickle.dumps(thing)
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            self.look(f"why {where} does not pickle", str(error))
        else:
            self.look(f"{where}'s pickle", pickled.decode("latin-1"))

    def look_at_error(self, error: BaseException, visited: set[int] | None = None) -> None:
        """In an error: its text, data, notes, chain, and our frames in its traceback."""
        visited = set() if visited is None else visited
        if id(error) in visited:
            return
        visited.add(id(error))
        name = type(error).__name__
        for shown in (repr(error), str(error), f"{error}", ascii(error), repr(error.args)):
            self.look(name, shown)
        self.look(f"{name}'s traceback", "".join(traceback.format_exception(error)))
        trace = traceback.TracebackException.from_exception(error, capture_locals=True)
        for frame in trace.stack:
            if frame.filename.startswith(PACKAGE):
                self.look(f"a local of {frame.name} in {name}'s traceback", repr(frame.locals))
        held = {key: value for key, value in vars(error).items() if key not in {"headers", "body"}}
        for container in containers(held):
            self.look(f"what {name} holds", container)
        if isinstance(error, TwUsageError):
            bare = pickle.loads(pickle.dumps(error))
            vars(bare).update(dict.fromkeys(vars(bare).keys() & {"headers", "body"}))
            self.look_at_pickle(name, bare)
            self.look(f"{name}'s headers", repr(getattr(error, "headers", None)))
        for chained in (error.__cause__, error.__context__):
            if chained is not None:
                self.look_at_error(chained, visited)

    def finish(self, caught: list[warnings.WarningMessage], unraisable: list[Any]) -> None:
        for record in self._records:
            self.look(f"the log of {record.name}", f"{record.msg!r} {record.args!r} {record.getMessage()}")
            self.look(f"the log of {record.name}", logging.Formatter().format(record))
            if record.exc_info and record.exc_info[1]:
                self.look_at_error(record.exc_info[1])
        for warning in caught:
            self.look("a warning", str(warning.message))
        for hook in unraisable:
            self.look("unraisable", f"{hook.exc_value!r} {hook.object!r} {hook.err_msg!r}")
        for stream, text in zip(("stdout", "stderr"), self._capsys.readouterr(), strict=True):
            self.look(stream, text)


def containers(value: object) -> Iterator[object]:
    """What a garbage collector finds from here. Containers, and the plain values in them."""
    todo, visited = [value], set()
    while todo:
        found = todo.pop()
        if id(found) in visited:
            continue
        visited.add(id(found))
        yield found
        if isinstance(found, dict | list | tuple | set | frozenset):
            todo += gc.get_referents(found)
        elif attributes := getattr(type(found), "__attrs_attrs__", None):
            todo += [getattr(found, attribute.name) for attribute in attributes]


@contextmanager
def listening(capsys: pytest.CaptureFixture[str]) -> Iterator[Sweep]:
    """Records every logger at DEBUG, every warning, every unraisable error, stdout and stderr."""
    sweep = Sweep(capsys)
    root = logging.getLogger()
    level, hook = root.level, sys.unraisablehook
    unraisable: list[Any] = []
    root.addHandler(sweep)
    root.setLevel(logging.DEBUG)
    sys.unraisablehook = unraisable.append
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield sweep
            gc.collect()
        sweep.finish(caught, unraisable)
    finally:
        sys.unraisablehook = hook
        root.setLevel(level)
        root.removeHandler(sweep)


def needs(*packages: str) -> pytest.MarkDecorator:
    """Skip the test without these packages, before its fixtures run: a sweep that reads nothing is an error."""
    missing = [package for package in packages if find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {' and '.join(missing)}")


@pytest.fixture
async def sweep(capsys: pytest.CaptureFixture[str]) -> Any:
    """The sweep over one test, which must have found nothing. The loop logs every step."""
    with listening(capsys) as sweep:
        debug_everything()
        yield sweep
    assert sweep.read > 20
    assert not sweep.hits, "\n".join(sweep.hits[:20])


def debug_everything() -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0  # every callback is shown, as one that was slow is


AUTHS: dict[str, Callable[[], Any]] = {
    "text": lambda: TOKEN,
    "token": lambda: BearerToken(TOKEN),
    "keys": lambda: AppOnlyAuth(KEY, SECRET),
}


async def call(sweep: Sweep, client: UsageClient, **keywords: Any) -> None:
    """One call, and all that can be read after it."""
    task = asyncio.create_task(client.get_usage(**keywords))
    await asyncio.sleep(0)
    for each in asyncio.all_tasks():
        sweep.look("a task", each)
    try:
        usage = await task
    except TwUsageError as error:
        sweep.look_at_error(error)
    else:
        sweep.look_at("the usage", usage)
        sweep.look("the usage as JSON", json.dumps(usage.to_dict()))
    sweep.look_at("the client", client)
    sweep.look_at("the credentials", client._credentials)
    sweep.look_at("the auth", client._credentials._auth)
    sweep.look_at("the transport", client._transport)
    if isinstance(client._limiter, LocalRateLimiter):
        sweep.look(
            "the limiter", f"{vars(client._limiter)} {[vars(each) for each in client._limiter._queues.values()]}"
        )


# -- What goes wrong in memory -----------------------------------------------------------------------------------------


def spellings(secret: str) -> list[str]:
    """However a server may write down what it was sent."""
    return [
        secret,
        unquote(secret),
        quote(secret, safe=""),
        re.sub("%..", lambda escape: escape[0].lower(), secret),
        json.dumps(unquote(secret)).replace("/", r"\/")[1:-1],
        "".join(f"\\u{ord(letter):04x}" for letter in secret),
    ]


def echoed(sent: str) -> list[str]:
    """What a server may echo. The header whole, what it holds, and what that was made of; in every spelling."""
    _, _, given = sent.partition(" ")
    halves = base64.b64decode(given).decode().split(":") if sent.startswith("Basic") else []
    parts = [given, *halves, *map(unquote, halves)]
    return [sent, *itertools.chain(*map(spellings, parts))]


def echo_faults(echo: str) -> Iterator[Fault]:
    header = echo.encode("ascii", "replace").decode()
    problem = f'{{"title": "{echo}", "detail": "you sent {echo}", "type": "https://x/{echo}", "x": ["{echo}"]}}'
    for status in (400, 401, 402, 403, 404, 429, 500, 503):
        yield Fault.status(status, problem, headers={"x-transaction-id": header, "retry-after": header})
    for body in (
        f"<html>{echo}</html>",
        f'{{"data": {{"project_cap": "{echo}"}}}}',
        f'{{"data": {{"project_cap": "5", "{echo}": "{echo}"}}, "errors": [{{"message": "{echo}"}}]}}',
        f'{{"errors": ["{echo}"]}}',
        f'{{"data": {{"daily_client_app_usage": [{{"{echo}": NaN}}]}}}}',
        f'{{"token_type": "bearer", "access_token": "{echo} "}}',
        f'{{"token_type": "{echo}", "access_token": "AAAA"}}',
    ):
        yield Fault.status(200, body)
    for status in (204, 302, 304, 700):
        yield Fault.status(status, problem, headers={"location": header})
    names = ("content_type", "date", "location", "content_encoding", "x_transaction_id", "x_rate_limit_reset", "x_echo")
    yield Fault.with_headers(**dict.fromkeys(names, header))
    yield Fault.with_headers(x_rate_limit_limit=header, x_rate_limit_remaining=header, set_cookie=f"a={header}")


PLAIN_FAULTS = [
    *map(Fault.status, (400, 401, 402, 403, 404, 408, 429, 500, 503)),
    Fault.rate_limited(headers={}),
    Fault.usage_capped(),
    Fault.credits_depleted(),
    Fault.spend_cap_reached(),
    Fault.html(),
    Fault.html(502),
    Fault.garbled(),
    Fault.empty(),
    Fault.slow(3),
    Fault.repeated(),
    Fault.connect_error(),
    Fault.timeout(),
    Fault.disconnected(),
    Fault.reset(),
]


def fake_of(clock: VirtualClock) -> FakeApi:
    """A fake whose first app has the canaries."""
    api = FakeApi(clock=clock, history_days=3)
    app = api.apps[0]
    app.tokens[:] = [FETCHED_TOKEN, TOKEN]
    app.api_key, app.api_secret = KEY, SECRET
    return api


def is_token_request(request: Request) -> bool:
    return request.method == "POST"


def sent_headers(auth: str) -> list[tuple[str, Callable[[Request], bool]]]:
    """The credentials that a client with that auth sends, by request."""
    if auth != "keys":
        return [(f"Bearer {TOKEN}", lambda _: True)]
    pair = base64.b64encode(f"{quote(KEY, safe='')}:{quote(SECRET, safe='')}".encode()).decode()
    return [
        (f"Basic {pair}", is_token_request),
        (f"Bearer {FETCHED_TOKEN}", lambda request: not is_token_request(request)),
    ]


@pytest.mark.parametrize("auth", AUTHS)
async def test_in_memory(auth: str, sweep: Sweep) -> None:
    """All faults of the fake, and a server that echoes the request."""
    clock = VirtualClock()
    api = fake_of(clock)
    made = AUTHS[auth]()
    for sent, when in sent_headers(auth):
        for fault in [*PLAIN_FAULTS, *itertools.chain(*map(echo_faults, echoed(sent)))]:
            sweep.case = f"{auth}, {sent.partition(' ')[0]}, {fault}"
            api.fail(fault, when=when)
            if when is is_token_request:
                made = AUTHS[auth]()
            client = UsageClient(
                made,
                transport=FakeTransport(api),
                clock=clock,
                limiter=LocalRateLimiter(clock=clock),
                retry=RetryPolicy.none(),
            )
            await call(sweep, client)
            api._scripted.clear()
            api.apps[0].window_start = None
    sweep.look("the requests of the fake", api.requests)
    sweep.look("the requests of the fake", [request.headers for request in api.requests])
    assert len(api.requests) > 50


@pytest.mark.parametrize("auth", AUTHS)
async def test_the_course_of_a_program(auth: str, sweep: Sweep) -> None:
    """Retries, renewals, waits for the window, rejections, sharing, and closing amid calls."""
    clock = VirtualClock()
    api = fake_of(clock)
    waits: list[object] = []
    limiter = LocalRateLimiter(clock=clock)
    keywords: dict[str, Any] = {"clock": clock, "limiter": limiter, "on_wait": waits.append}
    made = AUTHS[auth]()
    async with UsageClient(made, transport=FakeTransport(api, latency=1), **keywords) as client:
        for fault in (
            Fault.status(503),
            Fault.disconnected(),
            Fault.timeout(),
            Fault.rate_limited(),
            Fault.status(401),
        ):
            sweep.case = f"{auth}, {fault}"
            api.fail(fault)
            await call(sweep, client, max_age=0, days=2)
        await asyncio.gather(*(call(sweep, client) for _ in range(60)))
        sweep.case = f"{auth}, the limiter refuses"
        hasty = UsageClient(made, transport=FakeTransport(api), retry=RetryPolicy(max_wait=1), **keywords)
        for _ in range(60):
            await call(sweep, hasty)
        sweep.case = f"{auth}, closing"
        under_way = [asyncio.create_task(call(sweep, client, max_age=age)) for age in (None, 0, 0)]
        await asyncio.sleep(0)
    await asyncio.gather(*under_way)
    sweep.case = f"{auth}, closed"
    await call(sweep, client)
    sweep.look("what was reported of the waits", waits)
    sweep.look("the keys of the windows", list(limiter._queues))
    assert waits


# -- What goes wrong on the wire ---------------------------------------------------------------------------------------


def sent_in(heard: bytes) -> bytes:
    """The credentials of a request: all of the header's value."""
    found = re.search(rb"\r\nauthorization: ([^\r]*)", heard, re.IGNORECASE)
    assert found is not None
    return found[1]


def echoes(say: Callable[[bytes], bytes]) -> Script:
    """A server that echoes the request, its credentials put into these bytes."""

    async def script(wire: Wire) -> None:
        await wire.say(say(sent_in(await wire.hear())))

    return script


def with_header(name: bytes, status: bytes = b"200 OK") -> Callable[[bytes], bytes]:
    return lambda sent: answer(b"{}", name + b": " + sent, status=status)


def chunked(*parts: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"".join(parts)


def zipped(body: bytes) -> bytes:
    return answer(body, b"content-encoding: gzip")


WIRE: dict[str, Callable[[bytes], bytes]] = {
    "a body": answer,
    "a refusal": lambda sent: answer(b'{"title": "' + sent + b'"}', status=b"403 " + sent),
    "a phrase": lambda sent: answer(status=b"500 " + sent),
    "a status line": lambda sent: b"HTTP/1.1 " + sent + b"\r\n\r\n",
    "no status line": lambda sent: sent + b"\r\n\r\n",
    "a version": lambda sent: b"HTTP/" + sent + b" 200 OK\r\n\r\n",
    "a header without a colon": lambda sent: b"HTTP/1.1 200 OK\r\n" + sent.replace(b":", b"") + b"\r\n\r\n",
    "a header's name": lambda sent: b"HTTP/1.1 200 OK\r\n" + sent.split()[-1] + b"\xff: 1\r\n\r\n",
    "a folded header": lambda sent: b"HTTP/1.1 200 OK\r\nx: 1\r\n " + sent + b"\r\n\r\n",
    "a control character": lambda sent: b"HTTP/1.1 200 OK\r\nx: \0" + sent + b"\r\n\r\n",
    "a length": lambda sent: b"HTTP/1.1 200 OK\r\ncontent-length: " + sent + b"\r\n\r\n",
    "a transfer-encoding": with_header(b"transfer-encoding"),
    "a content-encoding": with_header(b"content-encoding"),
    "a content-type": with_header(b"content-type"),
    "a location": with_header(b"location", b"302 Found"),
    "a request's id": with_header(b"x-transaction-id", b"500 Oops"),
    "a retry-after": with_header(b"retry-after", b"503 Wait"),
    "a cookie": with_header(b"set-cookie"),
    "a challenge": with_header(b"www-authenticate", b"401 No"),
    "a long header": lambda sent: b"HTTP/1.1 200 OK\r\nx: " + sent * 300 + b"\r\n\r\n",
    "a long status": lambda sent: b"HTTP/1.1 200 " + sent * 300 + b"\r\n\r\n",
    "an upgrade": lambda sent: b"HTTP/1.1 101 " + sent + b"\r\nupgrade: " + sent + b"\r\nconnection: upgrade\r\n\r\n",
    "a chunk's size": lambda sent: chunked(sent, b"\r\n"),
    "a chunk's extension": lambda sent: chunked(b"2;" + sent + b"\r\n{}\r\n0\r\n\r\n"),
    "a trailer": lambda sent: chunked(b"2\r\n{}\r\n0\r\n" + sent + b"\r\n\r\n"),
    "a chunk that is cut": lambda sent: chunked(b"ffff\r\n", sent),
    "a body that is cut": lambda sent: answer(sent, length=9999),
    "gzip that is none": zipped,
    "gzip that is cut": lambda sent: zipped(gzip.compress(sent)[:-3]),
    "gzip that is corrupt": lambda sent: zipped(gzip.compress(sent)[:-8] + bytes(8)),
    "gzip with more behind it": lambda sent: zipped(gzip.compress(sent) + sent),
    "a body that is too large": lambda sent: answer(sent * 60),
    "gzip that is too large": lambda sent: zipped(gzip.compress(sent * 60)),
}


async def over_the_wire(sweep: Sweep, auth: str, script: Script) -> None:
    server = Server(script, None)
    await server.open()
    transport = AiohttpTransport(max_body=4000)
    client = UsageClient(
        AUTHS[auth](),
        transport=transport,
        base_url=f"http://127.0.0.1:{server.port}",
        retry=RetryPolicy.none(),
        limiter=LocalRateLimiter(),
        timeout=2,
    )
    await call(sweep, client)
    await transport.aclose()
    await call(sweep, client)
    await server.close()
    assert server.requests


@pytest.mark.parametrize("auth", ["text", "keys"])
async def test_on_the_wire(auth: str, sweep: Sweep) -> None:
    """Every broken response of a server, with credentials in all its parts."""
    for name, say in WIRE.items():
        sweep.case = f"{auth}, {name}"
        await over_the_wire(sweep, auth, echoes(say))


TOKEN_BODY = json.dumps({"token_type": "bearer", "access_token": FETCHED_TOKEN}).encode()
BROKEN_MINTS = {
    "gzip that is cut": zipped(gzip.compress(TOKEN_BODY)[:-3]),
    "gzip that is corrupt": zipped(gzip.compress(TOKEN_BODY)[:-8] + bytes(8)),
    "gzip with more behind it": zipped(gzip.compress(TOKEN_BODY) + TOKEN_BODY),
    "a body that is cut": answer(TOKEN_BODY, length=9999),
    "JSON that is cut": answer(TOKEN_BODY[:-4]),
    "another type": answer(TOKEN_BODY.replace(b"bearer", b"mac")),
    "two of them": answer(TOKEN_BODY[:-1] + b', "access_token": "' + FETCHED_TOKEN.encode() + b'"}'),
    "another status": answer(TOKEN_BODY, status=b"201 Created"),
    "a redirect": answer(TOKEN_BODY, b"location: /" + FETCHED_TOKEN.encode(), status=b"302 Found"),
    "a refusal": answer(b"{}", b"x-transaction-id: 1", status=b"403 No"),
    "a body that is too large": answer(TOKEN_BODY * 60),
    "gzip that is too large": zipped(gzip.compress(TOKEN_BODY * 60)),
}


async def test_broken_token_responses(sweep: Sweep) -> None:
    """A token in a broken response is redacted, too."""
    for name, data in BROKEN_MINTS.items():
        sweep.case = name
        await over_the_wire(sweep, "keys", says(data, then="close"))


@pytest.mark.parametrize("first_bytes", [b"", answer(b"{", length=99)], ids=["before the headers", "in the body"])
@pytest.mark.parametrize("auth", ["text", "keys"])
async def test_cancelled_by_the_caller(auth: str, first_bytes: bytes, sweep: Sweep) -> None:
    """What the caller's own timeout brings up shows no frame of aiohttp's. Their locals hold the request's headers."""

    async def script(wire: Wire) -> None:
        await wire.hear()
        await wire.say(first_bytes)
        await wire.wait_until_gone()

    server = Server(script, None)
    await server.open()
    async with UsageClient(AUTHS[auth](), base_url=f"http://127.0.0.1:{server.port}") as client:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.2):
                await client.get_usage()
    error: BaseException | None = caught.value
    while error is not None:
        trace = traceback.TracebackException.from_exception(error, capture_locals=True)
        for frame in trace.stack:
            if frame.filename != __file__:
                sweep.look(f"a local of {frame.name} in {frame.filename}", repr(frame.locals))
        error = error.__cause__ or error.__context__
    await server.close()
    assert server.requests


async def test_nothing_listens(sweep: Sweep, unused_tcp_port: int) -> None:
    """No connection, and the errors of aiohttp and of the system that come of it."""
    for auth, url in itertools.product(AUTHS, (f"http://127.0.0.1:{unused_tcp_port}", "https://api.invalid")):
        async with UsageClient(AUTHS[auth](), base_url=url, retry=RetryPolicy.none(), timeout=2) as client:
            await call(sweep, client)


# -- Where secrets come in ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoil", ["\n", "\r\nX: 1", "\0", " ", "é", "\udcff"], ids=ascii)
async def test_malformed_credentials(spoil: str, sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret with a line break is a secret. Given, in the environment, or out of an Auth of the user's."""

    class Odd:
        async def token(self) -> str:
            return TOKEN + spoil

    token, key, secret = (each + spoil for each in (TOKEN, KEY, SECRET))
    makers: list[Callable[[], object]] = [
        lambda: Secret(token),
        lambda: BearerToken(token),
        lambda: AppOnlyAuth(key, SECRET),
        lambda: AppOnlyAuth(KEY, secret),
        lambda: UsageClient(token),
        lambda: UsageClient(token.encode("utf-8", "replace")),  # type: ignore[arg-type]
        UsageClient.from_env,
    ]
    for name in list(os.environ):
        if name.endswith(("BEARER_TOKEN", "API_KEY", "API_SECRET")):
            monkeypatch.delenv(name)
    for environ in ({"X_BEARER_TOKEN": token}, {"X_API_KEY": key, "X_API_SECRET": SECRET}, {"X_API_SECRET": SECRET}):
        with monkeypatch.context() as patch:
            for name, text in environ.items():
                if "\0" not in text:
                    patch.setenv(name, text)
            for make in makers if key not in environ.values() and token not in environ.values() else makers[-1:]:
                with pytest.raises(ConfigurationError) as caught:
                    make()
                sweep.look_at_error(caught.value)
    await call(sweep, UsageClient(Odd(), transport=FakeTransport(FakeApi())))


# -- Files, commands and stores ----------------------------------------------------------------------------------------


async def test_recordings(sweep: Sweep, tmp_path: Path) -> None:
    """A file that is committed: echoes, token requests, errors."""
    clock = VirtualClock()
    api = fake_of(clock)
    path = tmp_path / "recording.json"
    for auth in ("text", "keys"):
        for sent, when in sent_headers(auth):
            # No header is spelled as JSON is.
            spelt = [echo for echo in echoed(sent) if r"\/" not in echo]
            for fault in [Fault.slow(0), *itertools.chain(*map(echo_faults, spelt))]:
                sweep.case = f"{auth}, {fault}"
                api.fail(fault, when=when)
                request = token_request(KEY, SECRET) if when is is_token_request else usage_request()
                transport = RecordingTransport(FakeTransport(api), path)
                await transport.send(evolve(request, headers={**request.headers, "authorization": sent}), timeout=1)
                sweep.look("the recording", path.read_text())
                api._scripted.clear()


async def test_recordings_of_broken_token_responses(tmp_path: Path) -> None:
    """A token in a truncated response is redacted, too."""
    api = fake_of(VirtualClock())
    path = tmp_path / "recording.json"
    for body in (
        TOKEN_BODY[:-4],
        TOKEN_BODY[:-1] + b', "access_token": "' + FETCHED_TOKEN.encode() + b'"}',
        b"<html>" + TOKEN_BODY,
    ):
        api.fail(Fault.status(200, body))
        await RecordingTransport(FakeTransport(api), path).send(token_request(KEY, SECRET), timeout=1)
        assert not NEEDLES.search(path.read_text().lower())


def was_sent(sent: str, request: Request) -> bool:
    return bool(request.headers["authorization"] == sent)


@pytest.mark.parametrize("debug", ["0", "1"])
def test_the_command(debug: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Show and doctor: their output, against an API that echoes. Nothing of them takes a token as an argument."""
    pytest.importorskip("click")
    pytest.importorskip("rich")
    from twusage.cli.app import twusage as command

    options = {option for each in command.commands.values() for given in each.params for option in given.opts}
    assert "--token" not in options
    api = FakeApi()
    api.apps[0].tokens[:] = [FETCHED_TOKEN, TOKEN]
    api.apps[0].api_key, api.apps[0].api_secret = KEY, SECRET
    clean = {name: text for name, text in os.environ.items() if not name.endswith(("TOKEN", "_KEY", "_SECRET"))}
    credentials = [
        {"X_BEARER_TOKEN": TOKEN},
        {"X_API_KEY": KEY, "X_API_SECRET": SECRET},
        {"X_BEARER_TOKEN": f"{TOKEN} "},
    ]
    for auth in ("text", "keys"):
        sent, _ = sent_headers(auth)[0]
        echo = Fault.status(403, {"title": "echo", "detail": " ".join(echoed(sent)[:3])})
        api.fail(echo, when=partial(was_sent, sent))
    with listening(capsys) as sweep, FakeServer(api) as server:
        for environ, verb in itertools.product(credentials, ["show", "doctor"] if debug == "1" else ["show"]):
            done = subprocess.run(
                [sys.executable, "-m", "twusage", verb],
                env=clean | environ | {"TWUSAGE_BASE_URL": server.url, "PYTHONASYNCIODEBUG": debug},
                capture_output=True,
                text=True,
                check=False,
            )
            sweep.case = f"{verb} with {', '.join(environ)}"
            sweep.look("stdout", done.stdout)
            sweep.look("stderr", done.stderr)
            assert "Traceback" not in done.stderr
    assert not sweep.hits, sweep.hits


@needs("redis")
async def test_the_shared_store(sweep: Sweep) -> None:
    """What is kept in Redis: its keys and its values."""
    from redis_server import RedisServer

    from twusage.integrations.redis import RedisRateLimiter

    api = FakeApi()
    api.apps[0].tokens[:] = [FETCHED_TOKEN, TOKEN]
    api.apps[0].api_key, api.apps[0].api_secret = KEY, SECRET
    with RedisServer.running() as redis:
        limiter = RedisRateLimiter(redis.url)
        for make in AUTHS.values():
            async with UsageClient(make(), transport=FakeTransport(api), limiter=limiter) as client:
                await asyncio.gather(*(call(sweep, client) for _ in range(3)))
        keys: Any = redis.client.keys()
        assert len(keys) >= 2
        for key in keys:
            sweep.look("a key", key)
            sweep.look("a value", str(redis.client.dump(key)))
        await limiter.aclose()


@pytest.mark.parametrize("auth", AUTHS)
async def test_the_monitor(auth: str, sweep: Sweep) -> None:
    """A guard's refusal with its cause, and a watch's events, against a server that echoes what it was sent."""
    clock = VirtualClock()
    for sent, when in sent_headers(auth):
        for fault in [*PLAIN_FAULTS, *itertools.chain(*map(echo_faults, echoed(sent)[:3]))]:
            sweep.case = f"{auth}, {sent.partition(' ')[0]}, {fault}"
            api = fake_of(clock)
            api.fail(fault, times=2, when=when)
            transport = FakeTransport(api)
            async with UsageClient(
                AUTHS[auth](), transport=transport, clock=clock, retry=RetryPolicy.none(), timeout=2
            ) as client:
                guard = UsageGuard(client)
                try:
                    await guard.spend(1)
                except TwUsageError as error:
                    sweep.look_at_error(error)
                sweep.look_at("the guard", guard)
                events = watch(client)
                try:
                    for _ in range(3):
                        event = await anext(events)
                        sweep.look("an event", event)
                        if isinstance(event, WatchFailing):
                            sweep.look_at_error(event.error)
                        sweep.look("an event as JSON", json.dumps(event.to_dict()))
                except TwUsageError as error:
                    sweep.look_at_error(error)
                sweep.look_at("the watch", events)
                await events.aclose()


@needs("psycopg", "sqlalchemy")
async def test_a_watched_history(sweep: Sweep, tmp_path: Path, unused_tcp_port: int) -> None:
    """The history's file; and a PostgreSQL that is down, whose URL has a secret as its password."""
    from twusage.monitor import History

    clock = VirtualClock(auto=False)
    client = UsageClient(TOKEN, transport=FakeTransport(fake_of(clock)), clock=clock)
    unreachable = f"postgresql://user:{quote(SECRET, safe='')}@127.0.0.1:{unused_tcp_port}/db"
    async with client, History(f"sqlite:///{tmp_path}/usage.db") as history, aclosing(History(unreachable)) as down:
        for each in (history, down):
            events = watch(client, thresholds=[0.0001], history=each)
            for _ in range(2):
                sweep.look_at("an event", await anext(events))
            await events.aclose()
            sweep.look_at("the history", each)
        with pytest.raises(HistoryError) as caught:
            await down.record(await client.get_usage())
        sweep.look_at_error(caught.value)
    for file in tmp_path.iterdir():
        sweep.look(file.name, file.read_bytes().decode("latin-1"))


# -- The sweep itself --------------------------------------------------------------------------------------------------


SENT = """
async def send(self, request, *, timeout):
    sent = request.headers["authorization"]
    try:
        leak(self, sent)
    finally:
        del sent
    raise ProtocolError("no")
"""


def leaking(leak: Callable[[Any, str], object]) -> Any:
    """A ``send`` that counts as the package's own, and does this with what it sends."""
    code: CodeType = compile(SENT, f"{PACKAGE}seeded.py", "exec")
    names: dict[str, Any] = {"leak": leak, "ProtocolError": ProtocolError}
    exec(code, names)
    return names["send"]


def leaves_a_local() -> Any:
    code: CodeType = compile(SENT.replace("del sent", "pass"), f"{PACKAGE}seeded.py", "exec")
    names: dict[str, Any] = {"leak": lambda _, __: None, "ProtocolError": ProtocolError}
    exec(code, names)
    return names["send"]


def in_a_note(_: object, sent: str) -> None:
    error = ProtocolError("no")
    error.add_note(sent)
    raise error


def in_an_attribute(_: object, sent: str) -> None:
    error = ProtocolError("no")
    vars(error)["sent"] = [{1: (sent,)}]
    raise error


def in_a_message(_: object, sent: str) -> None:
    raise ProtocolError(sent)


def in_base64(_: object, sent: str) -> None:
    raise ProtocolError(base64.b64encode(sent.encode()).decode())


def percent_decoded(_: object, sent: str) -> None:
    raise ProtocolError(unquote(sent))


def in_a_cause(_: object, sent: str) -> None:
    raise ProtocolError("no") from ValueError({"authorization": sent})


def in_a_context(_: object, sent: str) -> None:
    try:
        int(sent)
    except ValueError:
        raise ProtocolError("no")  # noqa: B904 - that is the leak


def in_the_log(_: object, sent: str) -> None:
    logging.getLogger("seeded").debug("sending %s", {"authorization": sent})


def in_a_record(_: object, sent: str) -> None:
    try:
        int(sent)
    except ValueError:
        logging.getLogger("seeded").debug("no", exc_info=True)


def in_a_warning(_: object, sent: str) -> None:
    warnings.warn(sent, stacklevel=1)


def on_stdout(_: object, sent: str) -> None:
    sys.stdout.write(sent)


def on_a_transport(transport: Any, sent: str) -> None:
    transport.last = {"authorization": sent}


def in_a_tasks_name(_: object, sent: str) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.set_name(sent)


def in_a_finalizer(_: object, sent: str) -> None:
    class Odd:
        def __del__(self) -> None:
            raise ValueError(sent)

    Odd()


LEAKS = {
    leak.__name__: leaking(leak)
    for leak in (
        in_a_note,
        in_an_attribute,
        in_a_message,
        in_base64,
        percent_decoded,
        in_a_cause,
        in_a_context,
        in_the_log,
        in_a_record,
        in_a_warning,
        on_stdout,
        on_a_transport,
        in_a_tasks_name,
        in_a_finalizer,
    )
} | {"in_a_local": leaves_a_local()}


@pytest.mark.parametrize("leak", LEAKS)
async def test_a_seeded_leak_is_found(
    leak: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of leak makes the sweep fail. It covers what it claims to cover."""
    monkeypatch.setattr(FakeTransport, "send", LEAKS[leak])
    with listening(capsys) as sweep:
        debug_everything()
        await call(sweep, UsageClient(TOKEN, transport=FakeTransport(FakeApi()), retry=RetryPolicy.none()))
    assert sweep.hits


async def test_a_repr_that_shows_is_found(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A Secret that shows itself, a pickle that keeps it, a header that is shown."""
    seeds = [
        (Secret, "__repr__", lambda self: self.reveal()),
        (Secret, "__reduce__", lambda self: (str, (self.reveal(),))),
        (Headers, "__repr__", lambda self: repr(self._values)),
    ]
    for kind, name, method in seeds:
        with monkeypatch.context() as patch, listening(capsys) as sweep:
            patch.setattr(kind, name, method)
            api = FakeApi()
            api.fail(Fault.status(403, headers={"x-echo": TOKEN}))
            await call(sweep, UsageClient(TOKEN, transport=FakeTransport(api), retry=RetryPolicy.none()))
        assert sweep.hits, name


async def test_an_error_of_aiohttps_is_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its errors hold the request's headers: chained, they would show them."""
    translated = http_module._translate_error

    def chaining(error: Exception, request: Request, timeout: float) -> Any:
        ours = translated(error, request, timeout)
        ours.__cause__ = error
        return ours

    monkeypatch.setattr(http_module, "_translate_error", chaining)
    with listening(capsys) as sweep:
        await over_the_wire(sweep, "text", says(b"HTTP/1.1 abc\r\n\r\n"))
    assert sweep.hits


async def test_without_the_cleaning_an_echo_is_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes echoes out is what keeps them out."""
    monkeypatch.setattr("twusage.protocol.responses.redact_credentials", lambda body, _: body)
    api = FakeApi()
    api.fail(Fault.status(403, {"title": TOKEN}))
    with listening(capsys) as sweep:
        await call(sweep, UsageClient(TOKEN, transport=FakeTransport(api), retry=RetryPolicy.none()))
    assert sweep.hits
