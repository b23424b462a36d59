"""Real processes on one app, a real Redis, and a real HTTP server that counts: `nox -s fleet`.

Every process makes its calls one after the other. The server keeps a window of 50 calls in 3 s, answers after 20 ms (to
the first request of a connection, after 100 ms more on its way there: so long takes a TLS handshake to another
continent), and counts what it refuses.

=========  ============================================================================================================
run        what is demanded
=========  ============================================================================================================
fleet      no 429, no call lost, and the makespan at most 1.25 of the ideal
killed     the same while a quarter of the processes is killed by SIGKILL halfway (their own calls end with them)
naive      ``INCR`` and ``EXPIRE`` in the place of ``RedisRateLimiter``: the harness must see its 429s
=========  ============================================================================================================

The ideal: each window but the last takes its length and the one second that the rules wait, because a reset comes in
whole seconds; the calls themselves take no time. Beside it stands the ratio to an oracle's ideal, without that second.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Self

from aiohttp import web
from attrs import define
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from twusage import RateLimiter, RetryPolicy, Slot, UsageClient
from twusage.integrations.redis import RedisRateLimiter
from twusage.testing import FakeApi, fake_app

LIMIT = 50
PERIOD = 3.0
LATENCY = 0.02
HANDSHAKE = 0.1
TIMEOUT = 2.0
LEASE = 2.5
RATIO = 1.25

fork = multiprocessing.get_context("fork")  # 64 interpreters would take half a minute to start on two cores


class Naive:
    """What is on the web as *the* Redis limiter. Count with INCR, and let the count expire."""

    def __init__(self, url: str) -> None:
        self._redis = Redis.from_url(url)

    async def __aenter__(self) -> Self:
        await self._redis.ping()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._redis.aclose()

    @asynccontextmanager
    async def slot(self, app: str, **_: Any) -> AsyncIterator[Slot]:
        key = f"naive:{app}"
        while True:
            count = await self._redis.incr(key)
            if count == 1:
                await self._redis.pexpire(key, int(PERIOD * 1000))
            if count <= LIMIT:
                break
            await asyncio.sleep(max(0.05, await self._redis.pttl(key) / 1000))
        yield _Nothing()


class _Nothing:
    waited = 0.0

    def observe(self, *_: object) -> None: ...

    def close_window(self, *_: object) -> None: ...

    def refund(self) -> None: ...

    def fail(self, *_: object) -> None: ...


@define
class Board:
    """Memory that the processes share. Each writes its own cells only."""

    served: Any  # [answers, refusals] of the server
    done: Any  # finished calls of each process
    failed: Any  # calls that raised, of each process
    ended: Any  # the end of the last call of each process
    outages: Any
    port: Any
    ready: Any
    go: Any


def serve(board: Board, api: FakeApi) -> None:
    """The server's process."""
    api.max_requests = 10**9
    known = set()

    @web.middleware
    async def count(request: web.Request, handler: Any) -> web.StreamResponse:
        assert request.transport is not None
        peer = request.transport.get_extra_info("peername")
        if peer not in known:
            known.add(peer)
            await asyncio.sleep(HANDSHAKE)
        response: web.StreamResponse = await handler(request)
        board.served[response.status == 429] += 1
        await asyncio.sleep(LATENCY)
        return response

    async def main() -> None:
        app = fake_app(api)
        app.middlewares.append(count)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=512).start()
        board.port.value = runner.addresses[0][1]
        await asyncio.Event().wait()

    asyncio.run(main())


def work(board: Board, number: int, calls: int, token: str, limiter_of: Callable[[], Any]) -> None:
    """One process of the fleet."""

    async def main() -> None:
        limiter: RateLimiter
        retry = RetryPolicy(max_attempts=100, max_wait=math.inf)
        async with (
            limiter_of() as limiter,
            UsageClient(
                token, limiter=limiter, retry=retry, timeout=TIMEOUT, base_url=f"http://127.0.0.1:{board.port.value}"
            ) as client,
        ):
            with board.ready.get_lock():
                board.ready.value += 1
            board.go.wait()
            for _ in range(calls):
                try:
                    await client.get_usage()
                except Exception as error:  # noqa: BLE001 - counted, and the run fails for it
                    print(f"process {number}: {error!r}", flush=True)
                    board.failed[number] += 1
                else:
                    board.done[number] += 1
                board.ended[number] = time.monotonic()
        board.outages[number] = getattr(limiter, "outages", 0)

    asyncio.run(main())


@contextmanager
def redis_server() -> Iterator[str]:
    """A Redis of our own on a Unix socket: its URL."""
    binary = shutil.which("redis-server")
    if binary is None:
        sys.exit("redis-server is missing: apt-get install redis-server")
    with tempfile.TemporaryDirectory() as directory:
        socket = Path(directory, "redis.sock")
        command = [binary, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", directory]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            for _ in range(200):
                if socket.exists():
                    break
                time.sleep(0.05)
            yield f"unix://{socket}"
        finally:
            process.kill()
            process.wait()


@define
class Figures:
    """What one run came to."""

    name: str
    processes: int
    killed: int
    answered: int
    refused: int
    lost: int
    outages: int
    makespan: float
    ratio: float
    oracle: float
    evals: float

    def row(self) -> str:
        return (
            f"{self.name:8} {self.processes:9} {self.killed:6} {self.answered:8} {self.refused:5} {self.lost:5} "
            f"{self.outages:8} {self.makespan:8.2f} s {self.ratio:7.3f} {self.oracle:7.3f} {self.evals:11.1f}"
        )


HEADER = "run      processes killed answered  429s  lost  outages   makespan  /ideal /oracle  evals/call"


def run(name: str, processes: int, windows: int, *, kill: bool = False, naive: bool = False) -> Figures:
    """One run of the fleet, through as many windows."""
    board = Board(
        fork.Array("i", 2), fork.Array("i", processes), fork.Array("i", processes), fork.Array("d", processes),
        fork.Array("i", processes), fork.Value("i", 0), fork.Value("i", 0), fork.Event(),
    )  # fmt: skip
    api = FakeApi(rate_limit=LIMIT, rate_period=PERIOD)
    total = LIMIT * windows
    share = [total // processes + (number < total % processes) for number in range(processes)]
    with redis_server() as url, contextlib.ExitStack() as stack:

        def limiter_of() -> Any:
            return Naive(url) if naive else RedisRateLimiter(url, lease=LEASE)

        def start(target: Any, *arguments: Any) -> Any:
            process = fork.Process(target=target, args=arguments, daemon=True)
            process.start()
            stack.callback(process.join)
            stack.callback(process.kill)
            return process

        start(serve, board, api)
        _until(lambda: board.port.value, 30)
        fleet = [
            start(work, board, number, share[number], api.apps[0].token, limiter_of) for number in range(processes)
        ]
        _until(lambda: board.ready.value == processes, 120)
        began = time.monotonic()
        board.go.set()
        victims = range(0, processes, 4) if kill else range(0)
        # Just after a window has opened: some hold a place, and some wait.
        middle = began + (windows // 2) * (PERIOD + 1.0) + 0.03
        if kill:
            time.sleep(middle - time.monotonic())
            for number in victims:
                os.kill(fleet[number].pid, signal.SIGKILL)
        for process in fleet:
            process.join(timeout=(windows + 3) * (PERIOD + 2) * 2)
        ended = max(board.ended[number] for number in range(processes) if number not in victims)
        stats: Any = BlockingRedis.from_url(url).info("commandstats")
    answered, refused = board.served[0], board.served[1]
    living = [number for number in range(processes) if number not in victims]
    lost = sum(share[number] - board.done[number] for number in living)
    needed = (math.ceil(answered / LIMIT) - 1) * PERIOD
    makespan = ended - began
    evals = sum(stats.get(f"cmdstat_{command}", {}).get("calls", 0) for command in ("evalsha", "incrby"))
    return Figures(
        name, processes, len(victims), answered, refused, lost, sum(board.outages), makespan,
        makespan / (needed * (PERIOD + 1.0) / PERIOD), makespan / needed, evals / max(1, answered),
    )  # fmt: skip


def _until(true: Callable[[], Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            sys.exit("the fleet did not get ready")
        time.sleep(0.02)


def main() -> int:
    """Run all three, print the table, and exit with 1 if anything was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=64)
    parser.add_argument("--windows", type=int, default=10)
    options = parser.parse_args()
    print(HEADER, flush=True)
    missed = []
    for name, kind in (("fleet", {}), ("killed", {"kill": True}), ("naive", {"naive": True})):
        figures = run(name, options.processes, options.windows, **kind)
        print(figures.row(), flush=True)
        if name == "naive":
            if not figures.refused:
                missed.append("the naive limiter met no 429: this harness proves nothing")
            continue
        if figures.refused:
            missed.append(f"{name}: {figures.refused} calls were refused")
        if figures.lost:
            missed.append(f"{name}: {figures.lost} calls were lost")
        if figures.ratio > RATIO:
            missed.append(f"{name}: the makespan is {figures.ratio:.3f} of the ideal")
    print("\n".join(missed) or "as demanded: no 429, no call lost, makespan at most 1.25 of the ideal")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
