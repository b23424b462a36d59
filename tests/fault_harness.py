"""Runs a row of the catalogue, and checks what holds after each.

What belongs here: nothing of any single fault. Those are in ``cases``.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Self

from attrs import define, evolve, field, frozen
from scripted_server import AT_ONCE, CANARY_TOKEN, Retry, Script, Server, Wire, answer, retry_of, secrets_of

from twusage import UsageClient
from twusage.aiohttp_transport import AiohttpTransport
from twusage.clock import Wait
from twusage.errors import TransportError, TwUsageError
from twusage.limiter import LocalRateLimiter
from twusage.models import Usage
from twusage.protocol import DEFAULT_BASE_URL
from twusage.retry import RetryPolicy
from twusage.testing import FakeApi, FakeTransport, Fault, VirtualClock
from twusage.transport import Transport

# How much later than its timeout a call may end.
GRACE = 0.25
# Attempts of a call by the default policy.
TRIES: dict[Retry, int] = {"always": 4, "once": 2, "never": 1}

Act = Callable[[Wire], Awaitable[None]]
"""Server behaviour after it has received a request. It ends the connection with ``EOFError``."""


@frozen
class Place:
    """The target of a call. A transport, its address, and the listener there."""

    base_url: str
    transport: Transport
    server: Server | None = None


@frozen
class Case:
    """A row: what goes wrong, and what must come of it."""

    layer: str
    name: str
    error: type[TwUsageError] | None
    """Exactly the class of the error. ``None`` for a good response."""
    retry: Retry = "never"
    """How often a call may be retried after this error."""
    act: Act | None = None
    """Over a socket: what the server does instead of answering."""
    fault: Fault | None = None
    """The same in memory."""
    place: Callable[[Script], AbstractAsyncContextManager[Place]] | None = None
    """True if there is no such server."""
    sent: bool = True
    """Whether the request gets as far as the wire. If not, its place in the window is refunded."""
    timeout: float = AT_ONCE
    path: str | None = None
    """Of a ``DecodeError``."""
    words: str = ""
    """A part of the error's message."""
    cut: bool = True
    """Whether the server's bytes are also cut into small packets."""

    def __str__(self) -> str:
        return self.name.replace(" ", "_")


# -- The books ---------------------------------------------------------------------------------------------------------


class CountingLimiter:
    """A ``LocalRateLimiter`` whose charges are counted: places taken, less those refunded."""

    def __init__(self, clock: VirtualClock) -> None:
        self.limiter = LocalRateLimiter(clock=clock)
        self.taken = self.refunded = 0

    def slot(self, app: str, *, max_wait: float, on_wait: Callable[[Wait], None] | None) -> "_CountingSlot":
        return _CountingSlot(self, self.limiter.slot(app, max_wait=max_wait, on_wait=on_wait))

    @property
    def charges(self) -> int:
        return self.taken - self.refunded

    @property
    def in_flight(self) -> int:
        return sum(queue.window.in_flight for queue in self.limiter._queues.values())


class _CountingSlot:
    def __init__(self, limiter: CountingLimiter, slot: Any) -> None:
        self._limiter, self._slot = limiter, slot

    async def __aenter__(self) -> Self:
        await self._slot.__aenter__()
        self._limiter.taken += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._slot.__aexit__(kind, error, traceback)

    def refund(self) -> None:
        self._limiter.refunded += 1
        self._slot.refund()

    def fail(self, error: TransportError) -> None:
        self._limiter.refunded += 1
        self._slot.fail(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._slot, name)


@define
class Outcome:
    """What came of one call."""

    result: Usage | TwUsageError
    charges: int
    taken: int
    wire: int
    elapsed: float
    waited: float
    """Virtual seconds."""
    clock: VirtualClock = field(repr=False)


# -- What must hold after each -----------------------------------------------------------------------------------------


def open_files() -> int:
    """How many file descriptors this process has."""
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0  # noqa: PTH208 - names, not paths


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Neither a task nor a file descriptor stays behind."""
    tasks, files = asyncio.all_tasks(), open_files()
    yield
    async with asyncio.timeout(AT_ONCE):
        # A socket is closed in the round of the loop after the one in which its end was decided.
        while asyncio.all_tasks() - tasks - {asyncio.current_task()} or open_files() > files:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.001)


def check(case: Case, outcome: Outcome, *, tries: int) -> None:
    """The right error, retried as often as allowed, and correct counts."""
    result = outcome.result
    if case.error is None:
        assert isinstance(result, Usage), result
    else:
        assert type(result) is case.error, result
        assert retry_of(result) == case.retry
        assert str(result).isprintable()
        assert case.words in str(result)
        assert case.path is None or getattr(result, "path", None) == case.path
        assert CANARY_TOKEN not in secrets_of(result)
    assert outcome.taken == tries
    assert outcome.charges == outcome.wire == (tries if case.sent else 0)


async def _called(
    place: Place, token: str, policy: RetryPolicy, patience: float, clock: VirtualClock, heard: Callable[[], int]
) -> Outcome:
    limiter, loop = CountingLimiter(clock), asyncio.get_running_loop()
    client = UsageClient(
        token,
        transport=place.transport,
        base_url=place.base_url,
        limiter=limiter,  # type: ignore[arg-type]  # its slot is typed Any
        retry=policy,
        clock=clock,
        timeout=patience,
    )
    begun, since = loop.time(), clock.monotonic()
    result: Usage | TwUsageError
    try:
        # Any other exception ends the test: nothing else may come out.
        result = await client.get_usage(days=7)
    except TwUsageError as error:
        result = error
    elapsed = loop.time() - begun
    await client.aclose()
    assert limiter.in_flight == 0
    return Outcome(result, limiter.charges, limiter.taken, heard(), elapsed, clock.monotonic() - since, clock)


# -- Over a socket -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def served(script: Script) -> AsyncIterator[Place]:
    """The usual place: a server of our own, spoken to without TLS."""
    server, transport = Server(script, None), AiohttpTransport()
    await server.open()
    try:
        yield Place(f"http://127.0.0.1:{server.port}", transport, server)
    finally:
        await transport.aclose()
        await server.close()


def script_of(act: Act | None, times: float) -> Script:
    """So many requests are met by the fault, over however many connections. The others are answered."""
    left = times

    async def script(wire: Wire) -> None:
        nonlocal left
        while True:
            await wire.hear()
            left -= 1
            if left < 0 or act is None:
                await wire.say(answer())
            else:
                await act(wire)

    return script


async def over_the_wire(
    case: Case,
    policy: RetryPolicy,
    *,
    times: float = float("inf"),
    cut: Callable[[bytes], Iterable[bytes]] | None = None,
) -> Outcome:
    """One call of a real client over a real socket.

    It must end in time. A virtual machine may pause for longer than that, which no clock distinguishes from a late
    call: so the time, and nothing else, is the best of three.
    """
    best: Outcome | None = None
    for _ in range(3):
        outcome = await _over_the_wire(case, policy, times, cut)
        best = outcome if best is None else evolve(outcome, elapsed=min(best.elapsed, outcome.elapsed))
        if best.elapsed <= case.timeout * outcome.taken + GRACE:
            break
    assert best is not None
    assert best.elapsed <= case.timeout * best.taken + GRACE
    return best


async def _over_the_wire(
    case: Case, policy: RetryPolicy, times: float, cut: Callable[[bytes], Iterable[bytes]] | None
) -> Outcome:
    async with nothing_left(), (case.place or served)(script_of(case.act, times)) as place:
        server = place.server
        if server is not None and cut is not None:
            server.cut = cut
        heard = (lambda: len(server.requests)) if server is not None else (lambda: 0)
        return await _called(place, CANARY_TOKEN, policy, case.timeout, VirtualClock(), heard)


# -- In memory ---------------------------------------------------------------------------------------------------------


async def in_memory(case: Case, policy: RetryPolicy, *, times: float = float("inf")) -> Outcome:
    """One call of a real client to the fake."""
    clock = VirtualClock()
    api = FakeApi(clock=clock)
    assert case.fault is not None
    api.fail(case.fault, times=times)
    place = Place(DEFAULT_BASE_URL, FakeTransport(api))
    async with nothing_left():
        outcome = await _called(place, api.apps[0].token, policy, case.timeout, clock, lambda: len(api.requests))
    assert api.apps[0].token not in secrets_of_result(outcome)
    return outcome


def secrets_of_result(outcome: Outcome) -> str:
    """What a person can read of the error, if it is one."""
    return secrets_of(outcome.result) if isinstance(outcome.result, TwUsageError) else repr(outcome.result)
