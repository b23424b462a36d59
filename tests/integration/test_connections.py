"""Faults that take more than one call to meet. Connections that are used again, closed, or carried elsewhere."""

import asyncio
import gc
import os
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from fault_cases import GZIP, saying
from fault_harness import CountingLimiter, Place, nothing_left, script_of, served
from scripted_server import (
    AT_ONCE,
    CANARY_TOKEN,
    CHUNKED,
    GOOD,
    LOOPBACK,
    OK,
    Script,
    Server,
    Wire,
    answer,
    bomb,
    hold,
    secrets_of,
)

from twusage import UsageClient
from twusage.aiohttp_transport import MAX_BODY, AiohttpTransport
from twusage.errors import (
    ClientClosedError,
    ConfigurationError,
    ProtocolError,
    RequestTimeoutError,
    TwUsageError,
)
from twusage.retry import RetryPolicy
from twusage.testing import VirtualClock

OTHERS = answer(b'{"data": {"project_cap": "666"}}')


def client_of(place: Place, **keywords: Any) -> UsageClient:
    clock = VirtualClock()
    defaults: dict[str, Any] = {"limiter": CountingLimiter(clock), "retry": RetryPolicy.none(), "clock": clock}
    return UsageClient(
        CANARY_TOKEN, transport=place.transport, base_url=place.base_url, timeout=AT_ONCE, **defaults | keywords
    )


async def refusal(call: Any) -> TwUsageError:
    """The error of the call, without secrets."""
    with pytest.raises(TwUsageError) as caught:
        await call
    assert CANARY_TOKEN not in secrets_of(caught.value)
    return caught.value


@pytest.mark.fault("sending")
class TestUsedAgain:
    @pytest.mark.parametrize("then", ["close", "reset", "half"])
    async def test_the_connection_ended_before_the_second_answer(self, then: str) -> None:
        """On a connection that has served before, too. One charge, one wire request, retried."""
        first, last = saying(answer()), saying(b"", then=then)

        async def script(wire: Wire) -> None:
            await wire.hear()
            await first(wire)
            await wire.hear()
            await last(wire)

        async with nothing_left(), served(script) as place:
            assert place.server is not None
            client = client_of(place)
            await client.get_usage()
            error = await refusal(client.get_usage())
            assert (type(error), error.retryable, error.retry_once) == (ProtocolError, True, False)
            assert (place.server.connections, len(place.server.requests)) == (1, 2)

    @pytest.mark.parametrize(
        "stray",
        [
            OTHERS,
            OTHERS * 3,
            OTHERS[:-5],
            OTHERS[:-40],
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 103 Early Hints\r\n\r\n",
            b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n",
            b"garbage",
            b"\0",
            b"\r\n",
            b"H",
        ],
        ids=[
            "answer",
            "answers",
            "cut answer",
            "cut headers",
            "status",
            "408",
            "103",
            "401",
            "garbage",
            "NUL",
            "CRLF",
            "H",
        ],
    )
    @pytest.mark.parametrize("idle", [True, False], ids=["later", "immediately"])
    async def test_unsolicited_bytes_are_not_a_response(self, stray: bytes, idle: bool) -> None:
        """Bytes that follow a response, in the same packet or on the idle connection, are not the next response."""

        async def script(wire: Wire) -> None:
            while True:
                await wire.hear()
                await wire.say(answer() if idle else answer() + stray)
                if idle:
                    for _ in range(20):  # the response has been read
                        await asyncio.sleep(0)
                    await wire.say(stray)

        async with nothing_left(), served(script) as place:
            client = client_of(place)
            for _ in range(3):
                try:
                    assert (await client.get_usage()).project_cap == 2_000_000
                except ProtocolError as error:
                    # Non-HTTP bytes in the same packet spoil the whole response.
                    assert error.retry_once  # noqa: PT017 - a response is as good
                    assert not idle
                    assert stray[:1] not in b"H\r"
                for _ in range(50):
                    await asyncio.sleep(0)

    async def test_a_second_answer_behind_the_bodys_last_byte(self) -> None:
        """If the headers came first and the rest with another response behind it, that other one is dropped."""

        async def script(wire: Wire) -> None:
            await wire.hear()
            whole = answer()
            await wire.say(whole[:-5])
            await asyncio.sleep(0.02)
            await wire.say(whole[-5:] + OTHERS)
            await wire.hear()
            await wire.say(whole)

        async with nothing_left(), served(script) as place:
            assert place.server is not None
            client = client_of(place)
            assert (await client.get_usage()).project_cap == 2_000_000
            await asyncio.sleep(0.02)
            pending = asyncio.create_task(client.get_usage())
            while place.server.connections < 2 and not pending.done():  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.001)
            assert (await pending).project_cap == 2_000_000
            assert place.server.connections == 2

    async def test_a_good_connection_is_kept(self) -> None:
        """Ten thousand apps poll over it. A connection on which nothing odd came is used again and again."""
        async with nothing_left(), served(script_of(None, 0)) as place:
            assert place.server is not None
            client = client_of(place)
            for _ in range(5):
                await client.get_usage()
            assert (place.server.connections, len(place.server.requests)) == (1, 5)

    async def test_an_edge_that_speaks_first(self) -> None:
        """A 429 that an edge sends before the request counts. It looks like a quick response."""

        async def script(wire: Wire) -> None:
            await wire.say(answer(b"", status=b"503 Full"))
            await wire.hear()

        async with nothing_left(), served(script) as place:
            assert getattr(await refusal(client_of(place).get_usage()), "status", None) == 503


@pytest.mark.fault("connect")
class TestThePool:
    async def test_a_waiter_for_a_connection_ends_with_the_timeout(self) -> None:
        """The host is not blamed for the client's own pool. The wait is part of the timeout, and reported as one."""
        async with nothing_left(), served(hold) as place:
            assert place.server is not None
            place.transport.__init__(limit=1)  # type: ignore[misc]
            busy = asyncio.create_task(client_of(place).get_usage())
            await place.server.heard.wait()
            waiting = UsageClient(
                CANARY_TOKEN, transport=place.transport, base_url=place.base_url, timeout=0.1, retry=RetryPolicy.none()
            )
            begun = asyncio.get_running_loop().time()
            error = await refusal(waiting.get_usage())
            assert asyncio.get_running_loop().time() - begun < 0.1 + 0.25
            assert type(error) is RequestTimeoutError
            assert error.unsent
            assert str(place.server.port) not in str(error)
            busy.cancel()
            await asyncio.wait([busy])
            assert len(place.server.requests) == 1


# -- A bomb, while others go on ----------------------------------------------------------------------------------------


@pytest.mark.fault("reading")
class TestTooMuch:
    @pytest.fixture(params=["bomb", "bomb in chunks", "long", "endless"])
    def act(self, request: pytest.FixtureRequest) -> Any:
        large = bomb(512)
        if request.param == "bomb":
            # A byte is missing: after a whole body the connection is clean, and aiohttp keeps it.
            return saying(answer(large, GZIP, length=len(large) + 1), then="silent")
        pieces = [large[at : at + 2**14] for at in range(0, len(large), 2**14)]
        zipped = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces]
        if request.param == "bomb in chunks":
            return saying(CHUNKED[:-2] + GZIP + b"\r\n\r\n", *zipped, then="silent")
        if request.param == "long":
            return saying(CHUNKED, *[b"40000\r\n" + bytes(2**18) + b"\r\n"] * 1024)
        return saying(OK + b"\r\n", *[bytes(2**18)] * 4096)

    async def test_others_go_on_meanwhile(self, act: Any) -> None:
        """The loop is never held for more than 20 ms, and the connection is closed.

        Other calls get their responses meanwhile.

        Measured in this thread's own CPU time: what the machine gives to others is not ours.
        """
        longest, others = 0.0, 0

        async def heart() -> None:
            nonlocal longest
            while True:
                begun = time.thread_time()
                await asyncio.sleep(0)
                longest = max(longest, time.thread_time() - begun)

        async def other(place: Place) -> None:
            nonlocal others
            client = client_of(place)
            while True:
                await client.get_usage()
                others += 1
                client._limiter = CountingLimiter(VirtualClock())  # type: ignore[assignment]  # a window of its own each

        async with nothing_left(), served(script_of(act, 1)) as bad, served(script_of(None, 0)) as good:
            assert bad.server is not None
            await client_of(good).get_usage()
            tasks = [asyncio.create_task(heart()), asyncio.create_task(other(good))]
            error = await refusal(client_of(bad).get_usage())
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert (type(error), error.retryable) == (ProtocolError, False)
            assert "max_body" in str(error)
            assert longest < 0.02
            assert others
            await bad.server.all_gone()

    async def test_the_memory_that_it_takes(self, act: Any) -> None:
        """At most max_body and 8 MiB are held."""
        async with nothing_left(), served(script_of(act, 1)) as place:
            client = client_of(place)
            gc.collect()
            tracemalloc.start()
            try:
                with pytest.raises(ProtocolError):
                    await client.get_usage()
                held = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert held < MAX_BODY + 8 * 2**20


# -- asyncio -----------------------------------------------------------------------------------------------------------

STAGES: dict[str, Callable[[Wire], Any]] = {
    "at the headers": hold,
    "in the headers": saying(OK + b"x: ", then="silent"),
    "in the body": saying(answer(b"{", length=99), then="silent"),
    "in a chunk": saying(CHUNKED + b"10\r\n{", then="silent"),
    "in gzip": saying(answer(b"\x1f\x8b\x08", GZIP, length=99), then="silent"),
}


@pytest.fixture(params=[*STAGES, "in the handshake", "in the pool's queue"])
async def under_way(
    request: pytest.FixtureRequest,
) -> AsyncIterator[tuple[UsageClient, asyncio.Task[Any], CountingLimiter]]:
    """A client whose only call has come to a stage and stays there."""
    where = request.param
    limiter = CountingLimiter(VirtualClock())

    async def shaking(wire: Wire) -> None:
        await wire.wait_until_gone()

    script: Script = (
        shaking if where == "in the handshake" else script_of(STAGES.get(where, wait_for_ever), float("inf"))
    )
    async with nothing_left():
        server = Server(script, None)
        await server.open()
        transport = AiohttpTransport(limit=1)
        scheme = "https" if where == "in the handshake" else "http"
        client = UsageClient(
            CANARY_TOKEN,
            transport=transport,
            base_url=f"{scheme}://{LOOPBACK}:{server.port}",
            limiter=limiter,  # type: ignore[arg-type]
            retry=RetryPolicy.none(),
            timeout=AT_ONCE,
        )
        client._owns_transport = True
        ahead = None
        if where == "in the pool's queue":
            ahead = asyncio.create_task(transport.send(server.request(), timeout=AT_ONCE))
            await server.heard.wait()
        call = asyncio.create_task(client.get_usage())
        await (server.connected if where == "in the handshake" else server.heard).wait()
        await asyncio.sleep(0.02)
        yield client, call, limiter
        await asyncio.wait([call])
        if ahead is not None:
            ahead.cancel()
            await asyncio.wait([ahead])
        await client.aclose()
        await transport.aclose()
        assert limiter.in_flight == 0
        await server.close()


async def wait_for_ever(wire: Wire) -> None:
    await wire.wait_until_gone()


UnderWay = tuple[UsageClient, "asyncio.Task[Any]", CountingLimiter]


@pytest.mark.fault("asyncio")
class TestCancelling:
    async def test_cancelling_passes(self, under_way: UnderWay) -> None:
        """Wherever a call is, cancelling it ends it with CancelledError, and nothing is left."""
        _, call, _ = under_way
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    async def test_before_the_start(self) -> None:
        """A call that is cancelled before its first step takes no place and sends nothing."""
        limiter = CountingLimiter(VirtualClock())
        async with nothing_left(), served(script_of(None, 0)) as place:
            assert place.server is not None
            call = asyncio.create_task(client_of(place, limiter=limiter).get_usage())
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert limiter.taken == len(place.server.requests) == 0

    async def test_while_backing_off(self) -> None:
        """A call that is cancelled between two tries gives nothing away."""
        clock = VirtualClock(auto=False)
        limiter, waits = CountingLimiter(clock), asyncio.Event()
        act = saying(answer(b"", status=b"503 No"))
        async with nothing_left(), served(script_of(act, 9)) as place:
            client = client_of(place, limiter=limiter, clock=clock, retry=RetryPolicy(), on_wait=lambda _: waits.set())
            call = asyncio.create_task(client.get_usage())
            await waits.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert (limiter.taken, limiter.in_flight) == (1, 0)

    async def test_in_the_limiters_queue(self) -> None:
        """A call that waits for its place, behind a probe, leaves the queue when it is cancelled."""
        limiter = CountingLimiter(VirtualClock())
        async with nothing_left(), served(hold) as place:
            assert place.server is not None
            client = client_of(place, limiter=limiter, retry=RetryPolicy(max_attempts=1))
            probe, waiting = (asyncio.create_task(client.get_usage()) for _ in range(2))
            await place.server.heard.wait()
            for call in (waiting, probe):
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
            assert (limiter.taken, limiter.in_flight) == (1, 0)


@pytest.mark.fault("asyncio")
class TestClosing:
    @pytest.mark.parametrize("closers", [1, 2, 5])
    async def test_calls_under_way_end(self, under_way: UnderWay, closers: int) -> None:
        """Closing, once or from several tasks, ends every call with ClientClosedError within 100 ms."""
        client, call, _ = under_way
        begun = asyncio.get_running_loop().time()
        await asyncio.gather(*(client.aclose() for _ in range(closers)))
        error = await refusal(call)
        assert type(error) is ClientClosedError
        assert asyncio.get_running_loop().time() - begun < 0.1
        assert type(await refusal(client.get_usage())) is ClientClosedError

    async def test_twice(self) -> None:
        """Closing again is fine, used or not."""
        async with nothing_left(), served(script_of(None, 0)) as place:
            for used in (True, False):
                client = client_of(place)
                if used:
                    await client.get_usage()
                await client.aclose()
                await client.aclose()


def _serving() -> tuple[asyncio.AbstractEventLoop, threading.Thread, Server]:
    """A server in a thread of its own. It outlives the loops of the test."""
    loop, server = asyncio.new_event_loop(), Server(script_of(None, 0), None)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.open(), loop).result(AT_ONCE)
    return loop, thread, server


@pytest.fixture
def address() -> Any:
    loop, thread, server = _serving()
    yield f"http://{LOOPBACK}:{server.port}"
    asyncio.run_coroutine_threadsafe(server.close(), loop).result(AT_ONCE)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.mark.fault("asyncio")
class TestElsewhere:
    def test_another_loop(self, address: str) -> None:
        """A client on another loop raises with advice. On its own loop it still works."""
        with asyncio.Runner() as one, asyncio.Runner() as other:
            client = UsageClient(CANARY_TOKEN, base_url=address, timeout=AT_ONCE)
            one.run(client.get_usage())
            assert isinstance(other.run(refusal(client.get_usage())), ConfigurationError)
            assert one.run(client.get_usage()).project_cap == 2_000_000
            one.run(client.aclose())

    def test_another_thread(self, address: str) -> None:
        """So does one that is used from another thread."""
        errors: list[TwUsageError] = []
        with asyncio.Runner() as runner:
            client = UsageClient(CANARY_TOKEN, base_url=address, timeout=AT_ONCE)
            runner.run(client.get_usage())
            thread = threading.Thread(target=lambda: errors.append(asyncio.run(refusal(client.get_usage()))))
            thread.start()
            thread.join(AT_ONCE)
            assert isinstance(errors[0], ConfigurationError)
            assert runner.run(client.get_usage()).project_cap == 2_000_000
            runner.run(client.aclose())

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_after_a_fork(self, address: str) -> None:
        """A forked child must create its own client, and the error states it; the parent's connection still works."""
        with asyncio.Runner() as runner:
            client = UsageClient(CANARY_TOKEN, base_url=address, timeout=AT_ONCE)
            runner.run(client.get_usage())

            def child() -> int:
                for call in (client.get_usage, client._transport.aclose):
                    try:
                        asyncio.new_event_loop().run_until_complete(call())
                    except ConfigurationError:
                        continue
                    return 1
                return 0

            if not (process := os.fork()):
                try:
                    os._exit(child())
                finally:
                    os._exit(2)
            assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
            assert runner.run(client.get_usage()).project_cap == 2_000_000
            runner.run(client.aclose())

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_forked_within_a_call(self, address: str) -> None:
        """A child that is forked on the running loop has no loop. Calls, close and check raise with that cause."""

        async def child(client: UsageClient) -> int:
            for call in (client.get_usage, client.check, client.aclose):
                coroutine = call()
                try:
                    coroutine.send(None)
                except ConfigurationError:
                    continue
                return 1
            return 0

        async def parent() -> None:
            async with UsageClient(CANARY_TOKEN, base_url=address, timeout=AT_ONCE) as client:
                await client.get_usage()
                if not (process := os.fork()):
                    try:
                        os._exit(await child(client))
                    finally:
                        os._exit(2)
                assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0  # noqa: ASYNC222 - the child is at its end
                assert (await client.get_usage()).project_cap == 2_000_000

        asyncio.run(parent())

    @pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # the sockets of the closed loop
    def test_a_closed_loop(self, address: str) -> None:
        """A transport whose loop has been closed serves the next one, and closing it ends."""
        transport = AiohttpTransport()

        async def ask() -> None:
            client = client_of(Place(address, transport))
            assert (await client.get_usage()).project_cap == 2_000_000

        for _ in range(3):
            asyncio.run(ask())
        asyncio.run(transport.aclose())
        gc.collect()  # a closed loop's sockets are closed with their last reference


@pytest.mark.fault("HTTP")
class TestTheCallersSession:
    async def test_what_it_was_made_with(self) -> None:
        """A session that raises for a status, traces, and stores cookies changes no response and no count."""
        events: list[str] = []

        async def note(*_: Any) -> None:
            events.append("request")

        trace = aiohttp.TraceConfig()
        trace.on_request_start.append(note)
        act = saying(answer(b"{}", b"set-cookie: a=b", status=b"500 No"))
        async with nothing_left(), served(script_of(act, 1)) as place:
            assert place.server is not None
            async with aiohttp.ClientSession(
                raise_for_status=True, trace_configs=[trace], cookie_jar=aiohttp.CookieJar(unsafe=True)
            ) as session:
                given = Place(place.base_url, AiohttpTransport(session))
                policy = RetryPolicy(wait=lambda _: 0.0)
                assert (await client_of(given, retry=policy).get_usage()).project_cap == 2_000_000
            assert len(events) == len(place.server.requests) == 2

    async def test_cookies(self) -> None:
        """Over the own session nothing is stored, and nothing sent back."""
        act = saying(answer(GOOD, b"set-cookie: guest_id=v1; Path=/", b"set-cookie: b=2"))
        async with nothing_left(), served(script_of(act, 3)) as place:
            assert place.server is not None
            client = client_of(Place(place.base_url.replace(LOOPBACK, "localhost"), place.transport))
            for _ in range(3):
                await client.get_usage()
            assert not any(b"cookie" in request.lower() for request in place.server.requests)

    @pytest.mark.parametrize("status", [300, 301, 302, 303, 305, 307, 308])
    async def test_the_second_host(self, status: int) -> None:
        """No connection is opened to the target of a redirect."""
        async with nothing_left(), served(script_of(None, 0)) as other:
            assert other.server is not None
            to = f"location: {other.base_url}/2/usage/tweets".encode()
            act = saying(answer(b"", to, status=b"%d Moved" % status))
            async with served(script_of(act, float("inf"))) as place:
                error = await refusal(client_of(place).get_usage())
            assert (type(error), error.retryable) == (ProtocolError, False)
            assert other.server.connections == 0


@pytest.mark.fault("time")
class TestTime:
    """The wall clock is set, or the machine sleeps, while a call waits for the next window."""

    @pytest.mark.parametrize("way", ["jump", "suspend"])
    @pytest.mark.parametrize("seconds", [3600.0, -3600.0, 7200.0])
    async def test_waits_stay_right(self, way: str, seconds: float) -> None:
        """If the wall clock is set, the wait for a used-up window is still measured on the monotonic one."""
        clock = VirtualClock(auto=False)
        reset = int(clock.time()) + 100
        headers = (b"x-rate-limit-limit: 50", b"x-rate-limit-remaining: 0", b"x-rate-limit-reset: %d" % reset)
        date = b"date: Thu, 15 Jan 2026 12:00:00 GMT"
        act = saying(answer(b"", date, *headers, status=b"429 No"))
        limiter, waits = CountingLimiter(clock), asyncio.Event()
        async with nothing_left(), served(script_of(act, 1)) as place:
            assert place.server is not None
            client = client_of(place, limiter=limiter, clock=clock, retry=RetryPolicy(), on_wait=lambda _: waits.set())
            call = asyncio.create_task(client.get_usage())
            await waits.wait()
            getattr(clock, way)(seconds)
            await clock.advance(99.0)
            assert not call.done()
            assert len(place.server.requests) == 1
            await clock.advance(3.0)
            assert (await call).project_cap == 2_000_000
            assert limiter.charges == len(place.server.requests) == 2

    async def test_after_a_long_sleep_one_probe_goes(self) -> None:
        """After a suspend the window is unknown. One call goes, the others wait for its response."""
        clock = VirtualClock(auto=False)
        limiter = CountingLimiter(clock)
        act = saying(answer(), then="hold")
        release = asyncio.Event()

        async def slow(wire: Wire) -> None:
            await release.wait()
            await act(wire)

        headers = (
            b"x-rate-limit-limit: 50",
            b"x-rate-limit-remaining: 40",
            b"x-rate-limit-reset: %d" % (clock.time() + 900),
        )
        left = iter([saying(answer(GOOD, b"date: Thu, 15 Jan 2026 12:00:00 GMT", *headers))])

        async def act_now(wire: Wire) -> None:
            await next(left, slow)(wire)

        async with nothing_left(), served(script_of(act_now, float("inf"))) as place:
            assert place.server is not None
            client = client_of(place, limiter=limiter, clock=clock, retry=RetryPolicy(max_attempts=1))
            await client.get_usage()
            clock.suspend(7200)
            calls = [asyncio.create_task(client.get_usage()) for _ in range(5)]
            await asyncio.sleep(0.05)
            assert limiter.in_flight == 1
            release.set()
            await asyncio.gather(*calls)
            assert limiter.charges == len(place.server.requests) == 6
