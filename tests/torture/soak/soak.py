"""What only time shows: `nox -s soak`. ``-- --requests 1000000`` is the long form.

**Over a socket**: 200,000 requests of one client, fifty at a time, to a server in another process that spoils one
answer in fifty in every way that the wire allows. Some calls are cancelled, some share a result. Between the rounds
no call runs, so that all is at rest when it is counted:

==========  ===========================================================================================================
memory      at most 4 MiB more than after the first rounds
files       no more than the connections that are kept open
tasks       none but this one
places      none held in the window
wire        each request came to the server exactly once (one that was cancelled, or never sent: at most once)
==========  ===========================================================================================================

Memory is what the kernel counts as resident after a collection of garbage and a ``malloc_trim``. Single readings swing
by what the allocator happens to keep, so medians are compared: of the readings in the second tenth of the run, after
the caches have filled, and in the last.

**A year**: on a virtual clock, a program that calls every hour, and every third day 75 times together, one and a half
windows: so windows are met at their beginning and end, used up and idle. In 30 profiles of skew, drift and latency the
server must never refuse, nothing may fail, and the limiter holds no more at the end than after a week.
"""

# ruff: noqa: T201 - the table on the screen is what it is for

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import math
import mmap
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from attrs import define, evolve, field, frozen

sys.path.insert(0, str(Path(__file__).parents[1] / "sim"))

from simulate import Line, LocalClock, Server, World

from twusage import AiohttpTransport, ConnectError, LocalRateLimiter, RetryPolicy, TwUsageError, UsageClient
from twusage.protocol import Request, Response
from twusage.testing import VirtualClock
from twusage.transport import Transport

SERVER = Path(__file__).with_name("soak_server.py")
CALLERS = 50
ROUNDS = 50
FAULTY = 0.02
CANCELLED = 0.02
SHARED = 0.05
TIMEOUT = 0.5
GROWTH = 4 * 2**20
YEAR = 365
PROFILES = 30


# -- Over a socket -----------------------------------------------------------------------------------------------------


@contextmanager
def server(faulty: float, most: int) -> Iterator[tuple[str, mmap.mmap]]:
    """A server in a process of its own. Its URL, and how often each request came."""
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(most)
        process = subprocess.Popen(
            [sys.executable, str(SERVER), str(faulty), file.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with process, mmap.mmap(file.fileno(), 0) as marks:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}", marks


@define(eq=False)
class Counted:
    """A transport that numbers each request, and remembers how each ended."""

    inner: Transport
    unsure: set[int] = field(factory=set)
    """Cancelled, or never connected."""
    sent: int = 0

    async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109 - as Transport has it
        """One request. It must come to the server once."""
        number, self.sent = self.sent, self.sent + 1
        request = evolve(request, headers={**request.headers, "x-call": str(number)})
        try:
            return await self.inner.send(request, timeout=timeout)
        except (asyncio.CancelledError, ConnectError):
            self.unsure.add(number)
            raise

    async def aclose(self) -> None:
        """Close the connections."""
        await self.inner.aclose()


@frozen
class Reading:
    """What is held while no call runs."""

    memory: int
    files: int
    tasks: int
    places: int


@define
class Soak:
    """What a run came to."""

    readings: list[Reading] = field(factory=list)
    outcomes: Counter[str] = field(factory=Counter)
    odd: list[str] = field(factory=list)
    """Exceptions that are none of ours."""
    sent: int = 0
    unsure: int = 0
    arrived: int = 0
    twice: int = 0
    never: int = 0
    left: Reading | None = None
    """After the client was closed."""
    files_before: int = 0
    seconds: float = 0.0

    @property
    def growth(self) -> int:
        """Bytes, from the second tenth of the readings to the last."""
        tenth = max(1, len(self.readings) // 10)
        early, late = self.readings[tenth : 2 * tenth], self.readings[-tenth:]
        return int(statistics.median(r.memory for r in late) - statistics.median(r.memory for r in early))

    def misses(self) -> list[str]:
        """What is not as it must be."""
        assert self.left is not None
        tasks, places = max(r.tasks for r in self.readings), max(r.places for r in self.readings)
        files = max(r.files for r in self.readings) - self.files_before
        found = {
            f"{self.growth / 2**20:.1f} MiB more memory": self.growth > GROWTH,
            f"{files} files open": files > CALLERS + FEW,
            f"{self.left.files - self.files_before} files left": self.left.files > self.files_before,
            f"{tasks} tasks at rest": tasks > 1,
            f"{places} places held at rest": places > 0,
            f"{self.twice} requests came twice": self.twice > 0,
            f"{self.never} requests never came": self.never > 0,
            f"not ours: {self.odd[:3]}": bool(self.odd),
        }
        return [what for what, wrong in found.items() if wrong]


# The loop's own, which come with its first connection.
FEW = 3
_libc = ctypes.CDLL(None)


def _files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _read(limiter: LocalRateLimiter) -> Reading:
    gc.collect()
    _libc.malloc_trim(0)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    places = sum(queue.window.in_flight for queue in limiter._queues.values())
    return Reading(resident, _files(), len(asyncio.all_tasks()), places)


async def soak(
    requests: int, *, rounds: int = ROUNDS, wrap: Callable[[Transport], Transport] = lambda inner: inner
) -> Soak:
    """Make about that many calls. A test seeds its bugs by ``wrap``."""
    result = Soak()
    limiter = LocalRateLimiter()
    dice = random.Random("soak")
    began = time.monotonic()
    with server(FAULTY, 8 * requests + 1000) as (url, marks):
        result.files_before = _files()
        transport = Counted(wrap(AiohttpTransport()))
        client = UsageClient(
            "AAAAAAAAAAAAAAAAAAAAASOAK%2Fno%2Freal%2Ftoken%3D",
            transport=transport,
            limiter=limiter,
            # What waits longer than this gives up: 15 s for a limit that is not ours.
            retry=RetryPolicy(max_wait=10.0, wait=lambda _: 0.0),
            base_url=url,
            timeout=TIMEOUT,
        )
        for number in range(rounds):
            left = iter(range(number * requests // rounds, (number + 1) * requests // rounds))
            await asyncio.gather(*(_caller(client, left, dice, result) for _ in range(CALLERS)))
            await asyncio.sleep(0.01)  # what was cancelled ends, and connections close
            result.readings.append(_read(limiter))
        await transport.aclose()
        await asyncio.sleep(0.05)
        result.left = _read(limiter)
        result.sent, result.unsure = transport.sent, len(transport.unsure)
        counts = marks[: transport.sent]
        result.arrived = sum(counts) + sum(marks[transport.sent :])
        result.twice = sum(times > 1 for times in counts)
        result.never = sum(not times and number not in transport.unsure for number, times in enumerate(counts))
    result.seconds = time.monotonic() - began
    return result


async def _caller(client: UsageClient, left: Iterator[int], dice: random.Random, result: Soak) -> None:
    for _ in left:
        max_age = 0.02 if dice.random() < SHARED else None
        days = dice.choice((None, 1, 7))
        call = client.get_usage(days=days, max_age=max_age)
        try:
            if dice.random() < CANCELLED:
                task = asyncio.ensure_future(call)
                alarm = asyncio.get_running_loop().call_later(dice.random() * 0.02, task.cancel)
                try:
                    await task
                finally:
                    alarm.cancel()
            else:
                await call
        except asyncio.CancelledError:
            result.outcomes["cancelled"] += 1
        except TwUsageError as error:
            result.outcomes[type(error).__name__] += 1
        except Exception as error:  # noqa: BLE001 - it is counted, and the run fails for it
            result.odd.append(ascii(error)[:200])
        else:
            result.outcomes["Usage"] += 1


# -- A year ------------------------------------------------------------------------------------------------------------


def profiles() -> list[World]:
    """Thirty clocks, ways and servers."""
    dice = random.Random("profiles")
    ways = ((0.0, 0.0), (0.0005, 0.02), (0.02, 0.4), (0.05, 8.0))
    return [
        World(
            f"profile {number:2}",
            skew=dice.choice((0.0, 1.0, -1.0)) * dice.uniform(0.0, 300.0),
            drift=dice.choice((0.0, 1.0, -1.0)) * dice.uniform(0.0, 2e-4),
            way=ways[number % len(ways)],
            ceiled=dice.random() < 0.3,
            # Not all: a client without the server's time, whose clock is wrong, cannot predict the end of its window.
            undated=dice.choice((0.0, 0.0, 0.33)),
        )
        for number in range(PROFILES)
    ]


# Of the limiter's numbers some are infinite at one time, and then they are all the same object. A leak is thousands.
_AS_MANY_NUMBERS = 8


@frozen
class Year:
    """What a year in one profile came to."""

    world: World
    calls: int
    failed: int
    refused: int
    held: tuple[int, int]
    """Objects that the limiter held after a week, and at the end."""
    seconds: float

    def misses(self) -> list[str]:
        """What is not as it must be."""
        found = {
            f"{self.refused} calls refused": self.refused > 0,
            f"{self.failed} calls failed": self.failed > 0,
            f"the limiter held {self.held[0]} objects after a week, {self.held[1]} at the end": self.held[1]
            > self.held[0] + _AS_MANY_NUMBERS,
        }
        return [f"{self.world.name}: {what}" for what, wrong in found.items() if wrong]


async def year(world: World, days: int = YEAR) -> Year:
    """Poll for so many days."""
    began = time.monotonic()
    dice = random.Random(world.name)
    true = VirtualClock()
    await true.advance(dice.random())  # a window's start is not on a whole second
    api = Server(world, true)
    api.max_requests = sys.maxsize
    line = Line(world, api, true, dice)
    clock = LocalClock(true, world.drift)
    limiter = LocalRateLimiter(clock=clock)
    retry = RetryPolicy(max_attempts=10, max_wait=math.inf)
    client = UsageClient(api.apps[0].token, transport=line, clock=clock, limiter=limiter, retry=retry, timeout=60.0)
    calls = failed = after_a_week = 0
    for hour in range(days * 24):
        burst = 75 if hour % 72 == 60 else 1
        came = await asyncio.gather(*(client.get_usage() for _ in range(burst)), return_exceptions=True)
        calls += burst
        failed += sum(isinstance(one, BaseException) for one in came)
        api.requests.clear()
        del api.windows[:-1]
        if hour == 7 * 24:
            after_a_week = _held(limiter)
        await clock.sleep(dice.uniform(0.9, 1.1) * 3600)
    return Year(world, calls, failed, line.refused, (after_a_week, _held(limiter)), time.monotonic() - began)


def _held(limiter: LocalRateLimiter) -> int:
    """The number of objects that the limiter holds, besides its clock and shared ones."""
    strangers = (type, ModuleType, FunctionType, LocalClock, VirtualClock, asyncio.AbstractEventLoop)
    visited: dict[int, object] = {}
    todo: list[Any] = [limiter]
    while todo:
        one = todo.pop()
        if id(one) not in visited and not isinstance(one, strangers):
            visited[id(one)] = one
            todo.extend(gc.get_referents(one))
    return len(visited)


def _year(world: World) -> Year:
    return asyncio.run(year(world))


# -- The tables --------------------------------------------------------------------------------------------------------


def _over_a_socket(requests: int) -> list[str]:
    print(f"{requests} calls over a socket, {CALLERS} at a time, {FAULTY:.0%} of the responses spoilt\n", flush=True)
    result = asyncio.run(soak(requests))
    print(f"{'calls':>8} {'resident':>12} {'files':>6} {'tasks':>6} {'places':>7}")
    for number, reading in enumerate(result.readings, 1):
        if number % max(1, len(result.readings) // 10) == 0:
            done = requests * number // len(result.readings)
            print(f"{done:8} {reading.memory / 2**20:8.1f} MiB {reading.files:6} {reading.tasks:6} {reading.places:7}")
    print("\n" + ", ".join(f"{name} {count}" for name, count in result.outcomes.most_common()))
    unsure = f"of which {result.unsure} were cancelled or never connected"
    print(f"{result.sent} sent, {unsure}; {result.arrived} came, {result.twice} of them twice")
    print(f"{result.growth / 2**20:+.2f} MiB, {result.seconds:.0f} s, {requests / result.seconds:.0f} calls/s\n")
    return result.misses()


def _years(jobs: int | None) -> list[str]:
    print(f"A year of polling in {PROFILES} profiles\n", flush=True)
    print(f"{'':12}{'skew':>8} {'drift':>9} {'way':>14} {'calls':>7} {'429s':>5} {'failed':>7} {'held':>9}")
    missed = []
    with ProcessPoolExecutor(jobs) as pool:
        for one in pool.map(_year, profiles()):
            world = one.world
            clocks = f"{world.skew:6.0f} s {world.drift * 1e6:5.0f} ppm {world.way[0]:7.4f}-{world.way[1]:4.2f} s"
            limiter = f"{one.held[0]:4} {one.held[1]:4}"
            print(f"{world.name}  {clocks} {one.calls:7} {one.refused:5} {one.failed:7} {limiter}", flush=True)
            missed += one.misses()
    return missed


def main() -> int:
    """Print the tables, and exit with 1 if anything was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many years run in parallel")
    options = parser.parse_args()
    missed = _over_a_socket(options.requests)
    began = time.monotonic()
    missed += _years(options.jobs)
    print(f"\n{time.monotonic() - began:.0f} s")
    print("\n".join(missed) or "as demanded: nothing grows, nothing is left, nothing is sent twice, no 429 in any year")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
