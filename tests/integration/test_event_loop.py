"""Which event loop a client serves. One at a time, the next one after it; and its error without a loop."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from twusage import (
    AiohttpTransport,
    ClientClosedError,
    ConfigurationError,
    LocalRateLimiter,
    RateLimitedError,
    Request,
    RetryPolicy,
    Transport,
    UsageClient,
)
from twusage.event_loop import LoopBinding
from twusage.protocol import authorize, usage_request
from twusage.testing import FakeApi, FakeServer, FakeTransport, Fault


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture(params=["fake", "live"])
def kept(request: pytest.FixtureRequest, api: FakeApi) -> Iterator[UsageClient]:
    """A client that a program keeps from one event to the next. Over the fake, and over sockets."""
    if request.param == "fake":
        yield UsageClient(api.apps[0].token, transport=FakeTransport(api), retry=RetryPolicy.none())
        return
    with FakeServer(api) as server:
        yield UsageClient(server.token, base_url=server.url, retry=RetryPolicy.none())


def left_in_the_middle(call: Any, api: FakeApi) -> asyncio.Task[Any]:
    """A call of a loop that is closed before the response comes."""
    api.fail(Fault.slow(3600.0))
    loop = asyncio.new_event_loop()
    task = loop.create_task(call)
    while not api.requests:
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    return task


# A loop that is closed with connections open leaves them to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestOneLoopForEachEvent:
    """A client of a module, and asyncio.run() for each event, as on AWS Lambda or in a notebook."""

    @pytest.fixture(autouse=True)
    def garbage(self) -> Iterator[None]:
        """What a closed loop left is collected here, and not during the next test."""
        yield
        gc.collect()

    def test_it_serves_each(self, kept: UsageClient, api: FakeApi) -> None:
        """It keeps its results, and closing it ends, as often as one likes."""
        for number in range(3):
            assert asyncio.run(kept.get_usage(max_age=0)).project_id == api.project.id
            assert kept.rate_limit is not None
            assert kept.rate_limit.remaining == 49 - number
        asyncio.run(kept.get_usage(max_age=60))
        assert len(api.requests) == 3
        assert asyncio.run(kept.check()).ok
        for _ in range(2):
            asyncio.run(kept.aclose())
        with pytest.raises(ClientClosedError):
            asyncio.run(kept.get_usage())

    def test_the_window_is_not_forgotten(self, kept: UsageClient, api: FakeApi) -> None:
        """The default limiter's windows outlive the loop. A used-up one costs no call of the next event."""
        api.apps[0].window_start, api.apps[0].window_used = api.clock.time(), 49
        asyncio.run(kept.get_usage())
        with pytest.raises(RateLimitedError, match="Nothing was sent"):
            asyncio.run(kept.get_usage())
        assert len(api.requests) == 1

    @pytest.mark.parametrize("max_age", [None, 60])
    def test_a_call_that_was_left_in_the_middle(self, kept: UsageClient, api: FakeApi, max_age: float | None) -> None:
        """Closing does not wait for a call of a closed loop, and cannot cancel it."""
        task = left_in_the_middle(kept.get_usage(max_age=max_age), api)
        asyncio.run(asyncio.wait_for(kept.aclose(), 10.0))
        assert not task.done()

    def test_the_next_loop_calls_again(self, kept: UsageClient, api: FakeApi) -> None:
        """It does not wait for a shared call of a closed loop."""
        task = left_in_the_middle(kept.get_usage(max_age=60), api)
        asyncio.run(asyncio.wait_for(kept.get_usage(max_age=60), 10.0))
        asyncio.run(kept.aclose())
        assert not task.done()


class TestDefaultLimiter:
    def test_of_two_clients(self, api: FakeApi) -> None:
        """Clients that shared a limiter share it on the next loop, too."""
        clients = [UsageClient(api.apps[0].token, transport=FakeTransport(api)) for _ in range(2)]

        async def calls() -> set[object]:
            for client in clients:
                await client.get_usage()
            return {client._limiter_in_use for client in clients}

        first, second = asyncio.run(calls()), asyncio.run(calls())
        assert first == second
        assert len(first) == 1

    def test_on_two_loops_at_a_time(self, api: FakeApi) -> None:
        """Clients on threads of their own each get a limiter that works there."""
        clients = [UsageClient(api.apps[0].token, transport=FakeTransport(api)) for _ in range(2)]

        async def calls() -> None:
            for client in clients:
                await client.get_usage()

        asyncio.run(calls())

        async def part() -> None:
            await clients[0].get_usage()
            await asyncio.to_thread(asyncio.run, clients[1].get_usage())

        # One transport for each, as the live client has.
        for client in clients:
            client._transport = FakeTransport(api)
        asyncio.run(part())
        assert clients[0]._limiter_in_use is not clients[1]._limiter_in_use

    def test_a_call_in_flight_counts(self) -> None:
        """A call that a closed loop left behind may have counted. Its place is not given away again."""
        limiter = LocalRateLimiter(limit=2)

        async def enter() -> None:
            await limiter.slot("app").__aenter__()

        for _ in range(2):
            asyncio.run(enter())
        window = limiter._queues["app"].window
        assert window.in_flight == 1
        assert window.unconfirmed_calls == 1


@pytest.mark.parametrize("make", [FakeTransport, lambda _: AiohttpTransport()], ids=["fake", "live"])
class TestBothTransportsAlike:
    def test_two_loops_at_a_time(self, make: Any, api: FakeApi) -> None:
        """The second one is refused, and the first is still served."""
        transport: Transport = make(api)
        with FakeServer(api) as server, asyncio.Runner() as one, asyncio.Runner() as other:
            request = request_to(server)
            one.run(transport.send(request, timeout=5.0))
            with pytest.raises(ConfigurationError, match="Transport is bound to another event loop"):
                other.run(transport.send(request, timeout=5.0))
            one.run(transport.send(request, timeout=5.0))
            one.run(transport.aclose())

    async def test_after_closing(self, make: Any, api: FakeApi) -> None:
        """Nothing is sent."""
        transport: Transport = make(api)
        for _ in range(2):
            await transport.aclose()
        with pytest.raises(ClientClosedError, match="this transport is closed"):
            await transport.send(request_to(), timeout=5.0)
        assert api.requests == []

    def test_without_a_loop(self, make: Any, api: FakeApi) -> None:
        """As under trio: the error names asyncio."""
        with pytest.raises(ConfigurationError, match="twusage needs asyncio"):
            make(api).send(request_to(), timeout=5.0).send(None)


def request_to(server: FakeServer | None = None) -> Request:
    base_url, token = (server.url, server.token) if server else ("http://127.0.0.1:1", "AAAA")
    return authorize(usage_request(base_url=base_url), token)


class TestWithoutAsyncio:
    def test_without_a_loop(self, api: FakeApi) -> None:
        """Under trio, or in a child that was forked during a call, each call raises that. The client can be closed."""
        client = UsageClient(api.apps[0].token, transport=FakeTransport(api))
        for call in (client.get_usage, client.check):
            with pytest.raises(ConfigurationError, match="twusage needs asyncio, and no asyncio event loop is running"):
                call().send(None)
        with pytest.raises(StopIteration):
            client.aclose().send(None)

    async def test_a_forked_child_does_not_close_its_parents_client(self, api: FakeApi) -> None:
        """It has no running loop, and the client's own is not closed."""
        client = UsageClient(api.apps[0].token, transport=FakeTransport(api))
        await client.get_usage()
        with mock.patch("asyncio.get_running_loop", side_effect=RuntimeError), pytest.raises(ConfigurationError):
            client.aclose().send(None)
        await client.get_usage()

    async def test_outside_of_a_task(self, api: FakeApi) -> None:
        """nest_asyncio on Python 3.14 runs coroutines in no task. The error names it."""
        client = UsageClient(api.apps[0].token, transport=FakeTransport(api))
        with mock.patch("asyncio.current_task", return_value=None):
            for call in (client.get_usage(), client.check(), AiohttpTransport().send(request_to(), timeout=1.0)):
                with pytest.raises(ConfigurationError, match="nest_asyncio provides none on Python"):
                    await call

    @pytest.mark.parametrize("call", ["get_usage", "check", "async with"])
    def test_under_trio(self, api: FakeApi, call: str) -> None:
        """The error states once that twusage needs asyncio."""
        trio = pytest.importorskip("trio")
        client = UsageClient(api.apps[0].token, transport=FakeTransport(api))

        async def main() -> None:
            if call == "async with":
                async with client:
                    await client.get_usage()
            await getattr(client, call)()

        with pytest.raises(ConfigurationError, match="twusage needs asyncio") as caught:
            trio.run(main)
        assert caught.value.__context__ is None

    def test_a_history(self) -> None:
        """It raises the same error."""
        pytest.importorskip("sqlalchemy")
        from twusage.monitor import History

        history = History("sqlite://")
        for call in (history.projects(), history.aclose()):
            with pytest.raises(ConfigurationError, match="twusage needs asyncio"):
                call.send(None)


class TestLoopBinding:
    def test_it_keeps_no_loop_alive(self) -> None:
        """A limiter lives in a table of its loop. A strong reference would keep both for ever."""
        binding = LoopBinding("Owner")
        assert binding.is_free

        async def bind() -> weakref.ref[asyncio.AbstractEventLoop]:
            assert binding.bind()
            assert not binding.bind()
            assert not binding.is_free
            return weakref.ref(asyncio.get_running_loop())

        loop = asyncio.run(bind())
        gc.collect()
        assert loop() is None
        assert binding.is_free
        asyncio.run(bind())

    def test_the_only_loop(self) -> None:
        """What a caller made for one loop does not serve the next."""
        binding = LoopBinding("Owner", only_first=True)

        async def bind() -> None:
            binding.bind()

        asyncio.run(bind())
        with pytest.raises(ConfigurationError, match=r"^Owner is bound to another event loop"):
            asyncio.run(bind())

    def test_a_thread(self) -> None:
        """Another thread's loop is refused while the first is open."""
        binding = LoopBinding("Owner")
        failures: list[str] = []

        async def bind() -> None:
            binding.bind()

        def elsewhere() -> None:
            try:
                asyncio.run(bind())
            except ConfigurationError as error:
                failures.append(str(error))

        async def main() -> None:
            binding.bind()
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()

        asyncio.run(main())
        assert failures == ["Owner is bound to another event loop; create one per loop and process"]
