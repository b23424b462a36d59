"""The stateful machine over a real Redis: its script, its JSON, and processes that swap at the same instant."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from hypothesis import seed, settings

pytest.importorskip("redis")

from hypothesis.stateful import run_state_machine_as_test
from redis_server import RedisServer
from test_limiter_stateful import (
    LIMIT,
    PERIOD,
    PLAN,
    Call,
    LateRefusalCounts,
    LimiterBeforeServer,
    finds,
)

from twusage.integrations import fleet as fleet_module
from twusage.integrations import redis as redis_module
from twusage.integrations.fleet import FleetWindow
from twusage.integrations.fleet_queue import AppQueue, FleetSlot
from twusage.integrations.redis import _RedisConnection, _Stored
from twusage.limiter import Slot
from twusage.window import RateWindow

LEASE = 1e9  # No process is killed.


class SteppedQueue(AppQueue):
    """Exchanges when the machine requests it: its worker would wait in real time."""

    def ensure_worker(self) -> None:
        pass

    async def step(self) -> bool:
        """Exchange, if there is something to exchange. True: something was reported or granted."""
        if not self._has_news():
            return False
        has_reports = bool(self._outbox)
        await self.exchange()
        return has_reports or bool(self.reply and self.reply.places)


class SteppedConnection(_RedisConnection):
    """Replaces the time that Redis replies by the machine's, and runs one script at a time, in a fixed order.

    Hypothesis repeats a case: processes that race would end it differently.
    """

    scripts: asyncio.Lock

    def app(self, app: str) -> SteppedQueue:
        queue = self._apps.setdefault(app, SteppedQueue(self, app))
        assert isinstance(queue, SteppedQueue)
        return queue

    async def _run_script(self, stored: _Stored, *swap: str | int) -> float:
        async with self.scripts:  # Fair: all read, then all swap, and the first one succeeds.
            await super()._run_script(stored, *swap)
        return self.clock.monotonic()


def machine(server: RedisServer) -> type[LimiterBeforeServer]:
    """Return the machine of three processes that share a window in this Redis."""

    class ProcessesOnRedis(LimiterBeforeServer):
        def start(self) -> None:
            server.client.flushall()
            self.scripts = asyncio.Lock()
            self.connections = {name: self.connect() for name in "abc"}
            self.turn = itertools.cycle("abc")

        def connect(self) -> SteppedConnection:
            connection = SteppedConnection(
                redis=redis_module._client(server.url),
                owned=True,
                strict=True,
                clock=self.clock,
                limit=LIMIT,
                period=PERIOD,
                reserve=0,
                prefix="machine",
                lease=LEASE,
            )
            connection.scripts = self.scripts
            return connection

        def slot(self, call: Call, max_wait: float) -> AbstractAsyncContextManager[Slot]:
            connection = self.connections[call.process]
            return FleetSlot(connection, connection.app("app"), max_wait, None)

        def next_process(self) -> str:
            return next(self.turn)

        @property
        def window(self) -> RateWindow | None:
            state: Any = server.client.hget("machine:{app}", "state")
            return FleetWindow.from_state(json.loads(state), LEASE, LIMIT, PERIOD).window if state else None

        async def settle(self) -> None:
            changed = True
            while changed:
                await self.clock.advance(0.0)
                queues = [connection.app("app") for connection in self.connections.values()]
                changed = any(await asyncio.gather(*(queue.step() for queue in queues)))
            assert not any(connection.outages for connection in self.connections.values()), "Redis was unavailable"

        async def close(self) -> None:
            for connection in self.connections.values():
                await connection.aclose()

    return ProcessesOnRedis


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    # Conflicts of swaps are wanted, their real pauses are not.
    monkeypatch.setattr(redis_module, "_FIRST_SWAP_PAUSE", 0.0)
    with RedisServer.running() as server:
        yield server


def test_no_429_and_no_lost_place_over_redis(server: RedisServer) -> None:
    """All properties of the machine hold, in whatever order calls come, end, are cancelled and lost."""
    run_state_machine_as_test(machine(server), settings=settings(PLAN, max_examples=15))


def test_the_machine_finds_a_late_429_over_redis(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seeded bug in the rules is found through Redis, too: a late 429 closes the new window."""
    monkeypatch.setattr(fleet_module, "RateWindow", LateRefusalCounts)
    # With this seed it takes eight cases, with most others hundreds: each has to get a call into the next window.
    finds(LateRefusalCounts, seed(104)(machine(server)), examples=100)
