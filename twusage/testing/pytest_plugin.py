"""The pytest fixtures, which pytest loads automatically if twusage is installed.

They are synchronous fixtures, so they work the same in pytest-asyncio's auto and strict mode, and under anyio. Each
imports what it returns on first use.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from twusage.client import UsageClient
    from twusage.models import Usage
    from twusage.monitor import History
    from twusage.testing import FakeApi, FakeTransport, VirtualClock
    from twusage.testing.server import FakeServer

__all__ = [
    "twusage_api",
    "twusage_client",
    "twusage_clock",
    "twusage_history",
    "twusage_server",
    "twusage_transport",
]

T = TypeVar("T")


@pytest.fixture
def twusage_clock() -> VirtualClock:
    """A virtual clock, on which fifteen minutes take milliseconds."""
    from twusage.testing import VirtualClock

    return VirtualClock()


@pytest.fixture
def twusage_api(twusage_clock: VirtualClock) -> FakeApi:
    """The simulated service with a realistic project, on ``twusage_clock``."""
    from twusage.testing import FakeApi

    return FakeApi(clock=twusage_clock)


@pytest.fixture
def twusage_transport(twusage_api: FakeApi) -> FakeTransport:
    """The transport to ``twusage_api``."""
    from twusage.testing import FakeTransport

    return FakeTransport(twusage_api)


@pytest.fixture
def twusage_client(
    twusage_api: FakeApi, twusage_transport: FakeTransport, twusage_clock: VirtualClock
) -> Iterator[UsageClient]:
    """A client of the first app of ``twusage_api``. The test fails if it does not await a ``get_usage()``."""
    from twusage.client import UsageClient

    calls: list[Coroutine[Any, Any, Usage]] = []

    class WatchedClient(UsageClient):
        def get_usage(self, **keywords: Any) -> Coroutine[Any, Any, Usage]:
            calls.append(super().get_usage(**keywords))
            return calls[-1]

    yield WatchedClient(twusage_api.apps[0].token, transport=twusage_transport, clock=twusage_clock)
    forgotten = [call for call in calls if inspect.getcoroutinestate(call) == inspect.CORO_CREATED]
    for call in forgotten:
        call.close()
    if forgotten:
        pytest.fail(f"{len(forgotten)} get_usage() of twusage_client never awaited: write `await client.get_usage()`")


@pytest.fixture
def twusage_server(twusage_api: FakeApi) -> Iterator[FakeServer]:
    """``twusage_api`` on a real socket of the loopback interface: ``.url``, ``.token``, ``.api``."""
    from twusage.testing.server import FakeServer

    with FakeServer(twusage_api) as server:
        yield server


@pytest.fixture
def twusage_history() -> Iterator[History]:
    """An empty history in memory. It needs the extra ``history``."""
    from twusage.monitor import History

    history = History("sqlite://", executor=_InPlace())
    yield history
    history._close()  # noqa: SLF001 - aclose() needs an event loop, which a plain fixture does not have


class _InPlace(Executor):
    """Runs functions in the caller's thread. A task that waits for a thread seems idle to a VirtualClock."""

    def submit(self, function: Callable[..., T], /, *arguments: Any, **keywords: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(function(*arguments, **keywords))
        except BaseException as error:  # noqa: BLE001 - any error of the function is its result
            future.set_exception(error)
        return future
