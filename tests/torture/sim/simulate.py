"""500 calls against one window, in virtual time. What twusage's rules cost, and what the rules in use elsewhere do.

``nox -s sim`` runs all of it; ``simulate.py --short`` a part. It prints a table, and exits with 1 if
twusage met a 429 that its rules could have known of, lost a call, or took longer than 1.005 of the optimum.

Calls go through the real ``UsageClient`` to the real ``FakeApi``; between them lie a clock that drifts, ways that take
a random time there and back, and headers that are floored, ceiled or gone.

The **optimum** is an oracle's: it has the end of each of the server's windows to the microsecond, and sends its calls
then. Its windows are those that the server keeps: so many calls, in so many seconds from the window's first call on. So
it is the time until the last window opens, plus what its last calls took (in the run that is measured).
"""

# ruff: noqa: T201 - a table on the screen is what it is for

from __future__ import annotations

import argparse
import asyncio
import itertools
import math
import random
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

from attrs import define, field, frozen

from twusage import LocalRateLimiter, RateLimitedError, RetryPolicy, UsageClient
from twusage.protocol import Request, Response, read_date, read_rate_limit
from twusage.testing import FakeApi, FakeApp, FakeTransport, VirtualClock
from twusage.window import LIMIT, PERIOD

CALLS = 500
WORKERS = (1, 4, 16, 64)
ALLOWED = 1.005


@frozen
class World:
    """What a run is made of. The server, the way to it, and the clock here."""

    name: str
    skew: float = 0.0
    """Seconds by which the server's clock is ahead."""
    drift: float = 0.0
    """By how much the clock here is too fast."""
    ceiled: bool = False
    """Whether the reset is rounded up, and not down."""
    way: tuple[float, float] = (0.02, 0.4)
    """Seconds that a request may take to the server, and a response back: they overtake each other."""
    limits: tuple[int, ...] = (LIMIT,)
    """What the windows allow, one after the other; the last stays."""
    foreign: float = 0.0
    """Calls a second that another program makes on the same credentials."""
    undated: float = 0.0
    """The part of the responses without ``Date``."""
    silent: bool = False
    """Whether the responses have no ``x-rate-limit`` headers."""


WORLDS = (
    World("plain, on whole seconds", way=(0.0, 0.0)),
    World("plain"),
    World("ceiled resets", ceiled=True),
    World("server 300 s ahead", skew=300.0),
    World("server 300 s behind", skew=-300.0),
    World("our clock 200 ppm fast", drift=2e-4),
    World("our clock 200 ppm slow", drift=-2e-4),
    World("fast clock, quick answers, server ahead", skew=300.0, drift=2e-4, way=(0.0005, 0.02)),
    World("fast clock, ceiled, server behind", skew=-300.0, drift=2e-4, ceiled=True),
    World("slow ways, answers out of order", way=(0.05, 8.0)),
    World("limit lowered to 10", limits=(50, 50, 10)),
    World("limit lowered and raised", limits=(50, 10, 50, 10, 50), drift=2e-4, skew=-300.0),
    World("no Date at all", undated=1.0),
    World("a third without Date", undated=0.33),
    World("no rate-limit headers", silent=True),
    World("a foreign client", foreign=0.01),
    World("a busy foreign client", foreign=0.05, skew=300.0, drift=-2e-4),
)


class LocalClock:
    """The clock here: the true one, at another speed."""

    def __init__(self, true: VirtualClock, drift: float) -> None:
        self._true, self._speed = true, 1.0 + drift
        self._start = true.time() - true.monotonic()

    def time(self) -> float:
        """Wall time, as it is read here."""
        return self._start + self.monotonic()

    def monotonic(self) -> float:
        """Seconds, as they pass here."""
        return self._true.monotonic() * self._speed

    async def sleep(self, seconds: float) -> None:
        """Wait so many of our seconds."""
        await self._true.sleep(seconds / self._speed)


@define(eq=False)
class Window:
    """One window of the server, as it really was."""

    opened: float
    limit: int
    number: int
    foreign: int = 0
    reported: int | None = None
    """The smallest remainder of the responses that have arrived here."""


class Server(FakeApi):
    """The fake, with limits that change from window to window, and a memory of each."""

    def __init__(self, world: World, clock: VirtualClock) -> None:
        super().__init__(clock=clock, history_days=0)
        self.max_requests = 1_000_000
        self.date_skew = world.skew
        self.windows: list[Window] = []
        """All windows that there were; of several apps, those of the one that is called."""
        self._limits = world.limits

    def _open_window(self, app: FakeApp, now: float) -> None:
        before = app.window_start
        super()._open_window(app, now)
        if app.window_start != before or not self.windows:
            number = len(self.windows)
            self.rate_limit = self._limits[min(number, len(self._limits) - 1)]
            self.windows.append(Window(now, self.rate_limit, number))


@define(eq=False)
class Line:
    """A transport: the fake behind a way that takes its time, and headers as the world will have them.

    It keeps count of the 429s, and of those that could have been known of: in a window that no foreign client has
    called in; or when the call was sent, the responses that had arrived from that window left nothing for it, beside
    the calls under way; or none had arrived, and another call was already under way to ask.
    """

    world: World
    server: Server
    true: VirtualClock
    dice: random.Random
    refused: int = 0
    known: int = 0
    under_way: int = 0
    inner: FakeTransport = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.inner = FakeTransport(self.server)

    async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109 - as Transport has it
        """There, and back again."""
        windows, beside = self.server.windows, self.under_way
        reported = (windows[-1], windows[-1].reported) if windows else None
        self.under_way += 1
        await self._way()
        response = await self.inner.send(request, timeout=timeout)
        window = windows[-1]
        if response.status == 429:
            left = reported[1] if reported is not None and reported[0] is window else None
            self.refused += 1
            self.known += not window.foreign or (beside > 0 if left is None else left <= beside)
        response = self._as_the_world_has_it(response, window)
        await self._way()
        self.under_way -= 1
        headers = read_rate_limit(response)
        if headers is not None:
            window.reported = min(headers.remaining, LIMIT if window.reported is None else window.reported)
        return response

    async def aclose(self) -> None:
        """Nothing to close."""

    async def _way(self) -> None:
        # Most ways are quick and a few are long.
        least, most = self.world.way
        await self.true.sleep(least + (most - least) * self.dice.random() ** 3)

    def _as_the_world_has_it(self, response: Response, window: Window) -> Response:
        headers = dict(response.headers)
        if self.world.ceiled:
            headers["x-rate-limit-reset"] = str(math.ceil(window.opened + PERIOD + self.world.skew))
        if self.dice.random() < self.world.undated:
            del headers["date"]
        if self.world.silent:
            for name in [name for name in headers if name.startswith("x-rate-limit")]:
                del headers[name]
        return Response(response.status, headers, response.body)

    async def foreigner(self, app: FakeApp) -> None:
        """Another program on the same credentials. It comes when it likes, and stays away once it is refused."""
        request = Request("GET", "https://api.twitter.com/2/usage/tweets", {"authorization": f"Bearer {app.token}"})
        while self.world.foreign:
            await self.true.sleep(self.dice.expovariate(self.world.foreign))
            if self.server.handle(request).status == 200:
                self.server.windows[-1].foreign += 1


@define
class Result:
    """What a run came to."""

    refused: int
    known: int
    lost: int
    makespan: float
    optimum: float

    @property
    def ratio(self) -> float:
        """How much longer it took than the oracle."""
        return self.makespan / self.optimum


Call = Callable[[], Coroutine[Any, Any, None]]
Policy = Callable[[Line, "LocalClock", random.Random], Any]


async def run(policy: Policy, world: World, workers: int, seed: int) -> Result:
    """Make the calls, split over so many workers, in that world, by that policy."""
    dice = random.Random(f"{world.name}/{workers}/{seed}")
    true = VirtualClock()
    if world.way[1]:
        await true.advance(dice.random())  # a window's start is not on a whole second
    start = true.monotonic()
    server = Server(world, true)
    line = Line(world, server, true, dice)
    clock = LocalClock(true, world.drift)
    outsider = asyncio.create_task(line.foreigner(server.apps[0]))
    lost = 0
    left = iter(range(CALLS))

    async def work(call: Call) -> None:
        nonlocal lost
        for _ in left:
            try:
                await call()
            except RateLimitedError:
                lost += 1

    async with policy(line, clock, dice) as new_call:
        await asyncio.gather(*(work(new_call()) for _ in range(workers)))
    outsider.cancel()
    end = true.monotonic()
    return Result(line.refused, line.known, lost, end - start, _optimum(server, start, end, true))


def _optimum(server: Server, start: float, end: float, true: VirtualClock) -> float:
    """An oracle's time for the same calls: see the module's docstring."""
    epoch = true.time() - true.monotonic()
    first = server.windows[0].opened - epoch - start
    left, windows = CALLS, 0
    for window in server.windows:  # what a foreign client takes is missing to the others
        left -= max(0, window.limit - window.foreign)
        windows += 1
        if left <= 0:
            break
    last = end - (server.windows[-1].opened - epoch)
    return first + (windows - 1) * PERIOD + last


# -- Policies: twusage's own, and those of RATE_LIMIT.md ---------------------------------------------------------------


@asynccontextmanager
async def twusage(line: Line, clock: LocalClock, _: random.Random) -> Any:
    """The rules: one limiter for all workers, each with a client of its own."""
    limiter = LocalRateLimiter(clock=clock)
    retry = RetryPolicy(max_attempts=10, max_wait=math.inf)

    def new_call() -> Call:
        client = UsageClient(
            line.server.apps[0].token, transport=line, clock=clock, limiter=limiter, retry=retry, timeout=60.0
        )

        async def call() -> None:
            await client.get_usage()

        return call

    yield new_call
    # Its places are all given back, and nothing runs on.
    assert not limiter._queues or next(iter(limiter._queues.values())).window.in_flight == 0


def _request(line: Line) -> Request:
    token = line.server.apps[0].token
    return Request("GET", "https://api.twitter.com/2/usage/tweets", {"authorization": f"Bearer {token}"})


@asynccontextmanager
async def backoff(line: Line, clock: LocalClock, dice: random.Random) -> Any:
    """Exponential backoff with jitter, from one second to one minute. The default of a retry library."""

    async def call() -> None:
        for attempt in itertools.count():
            if (await line.send(_request(line), timeout=60.0)).status == 200:
                return
            await clock.sleep(dice.uniform(0.5, 1.0) * min(60.0, 2.0**attempt))

    yield lambda: call


@asynccontextmanager
async def alone(line: Line, clock: LocalClock, _: random.Random) -> Any:
    """Sleep to the reset, each worker on its own. The common client's policy."""

    async def call() -> None:
        while (response := await line.send(_request(line), timeout=60.0)).status != 200:
            headers = read_rate_limit(response)
            await clock.sleep(max(1.0, headers.reset_at.timestamp() + 1 - clock.time()) if headers else PERIOD)

    yield lambda: call


@asynccontextmanager
async def newest(line: Line, clock: LocalClock, _: random.Random) -> Any:
    """A gate for all workers, which trusts the header that came last."""
    until, remaining = -math.inf, 1

    async def call() -> None:
        nonlocal until, remaining
        while True:
            if remaining <= 0 and clock.monotonic() < until:
                await clock.sleep(until - clock.monotonic())
                continue
            response = await line.send(_request(line), timeout=60.0)
            headers, date = read_rate_limit(response), read_date(response)
            if headers is not None:
                server = date.timestamp() if date else clock.time()
                until = clock.monotonic() + max(1.0, headers.reset_at.timestamp() - server)
                remaining = headers.remaining
            if response.status == 200:
                return

    yield lambda: call


OTHERS: dict[str, Policy] = {
    "exponential backoff": backoff,
    "sleep to the reset, each alone": alone,
    "a gate that trusts the newest header": newest,
}


# -- The table ---------------------------------------------------------------------------------------------------------


def _runs(policy: Policy, world: World, seeds: int) -> Iterator[tuple[int, list[Result]]]:
    for workers in WORKERS:
        yield workers, [asyncio.run(run(policy, world, workers, seed)) for seed in range(seeds)]


def _row(name: str, runs: list[tuple[int, list[Result]]]) -> str:
    cells = []
    for _, results in runs:
        known, refused = sum(r.known for r in results), sum(r.refused for r in results)
        cells.append(f"{known} of {refused}" if refused else "0")
    worst = max(result.ratio for _, results in runs for result in results)
    return f"{name:<42}" + "".join(f"{cell:>15}" for cell in cells) + f"{worst:>10.4f}"


def misses(world: World, workers: int, result: Result) -> list[str]:
    """What is not as it must be."""
    where = f"{world.name}, {workers} workers"
    found = []
    if result.known:
        found.append(f"{where}: {result.known} 429s that could have been known of")
    if result.lost:
        found.append(f"{where}: {result.lost} calls lost")
    # If a foreign client takes places while we wait, no rule can predict how many it will leave.
    if result.ratio > ALLOWED and not world.foreign:
        found.append(f"{where}: {result.ratio:.4f} of the optimum")
    return found


def main() -> int:
    """Print the table; 1 where something is missed."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--short", action="store_true", help="one seed, and no comparison")
    options.add_argument("--seeds", type=int, default=3)
    given = options.parse_args()
    seeds = 1 if given.short else given.seeds
    began = time.monotonic()
    head = f"{'429s that could be known of, of all; N =':<42}" + "".join(f"{n:>15}" for n in WORKERS) + f"{'worst':>10}"
    print(f"{CALLS} calls, {seeds} seeds a cell; worst: makespan over the optimum, which may be {ALLOWED}\n\n{head}")
    wrong: list[str] = []
    for world in WORLDS:
        runs = list(_runs(twusage, world, seeds))
        print(_row(world.name, runs), flush=True)
        wrong += [miss for workers, results in runs for result in results for miss in misses(world, workers, result)]
    if not given.short:
        print("\nFor comparison, in the plain world, one seed:")
        for name, policy in OTHERS.items():
            print(_row(name, list(_runs(policy, World("plain"), 1))), flush=True)
    print(f"\n{time.monotonic() - began:.0f} s")
    print("\n".join(wrong) or "no 429 that could have been known of, no call lost, nothing too late")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
