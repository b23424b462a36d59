"""A call that is cancelled leaves everything as if it had never come: at each of its steps, one after the other.

A scenario is run once to count its victim's steps, and then once for each of them, the victim struck down just there.
What must hold afterwards is in ``World.check``; seeded bugs at the end show that it notices.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

import pytest

from twusage import (
    AiohttpTransport,
    AppOnlyAuth,
    ClientClosedError,
    LocalRateLimiter,
    RetryPolicy,
    SystemClock,
    Usage,
    UsageClient,
)
from twusage.auth import TokenEndpoint
from twusage.cache import _SingleFlight
from twusage.clock import Clock
from twusage.limiter import _LocalSlot
from twusage.testing import FakeApi, FakeServer, FakeTransport, Fault, VirtualClock

pytestmark = pytest.mark.fault("asyncio")

# More than any scenario has: one that never ends is told as such.
MOST_STEPS = 400
# Seconds after which a wait is in its midst: a request takes one, whoever comes later is there after 0.1.
MIDST = 0.5
# Real seconds that a run may take, most of which needs milliseconds.
PATIENCE = 5.0
Victim = Coroutine[Any, Any, Any]


# -- Striking at a step ------------------------------------------------------------------------------------------------


class Stepped:
    """Awaits a coroutine, counts where it suspends, and strikes at one of these places.

    Args:
        call: what is awaited.
        at: the number of the step, from 1 on; 0 strikes nowhere.
        when: when in that step: as it begins to wait, in the midst, or when what it waits for has come and it has not
            gone on yet.
    """

    def __init__(self, call: Victim, at: int, when: str = "first") -> None:
        self._call, self._at, self._when = call, at, when
        self.clock: Clock = SystemClock()
        self.strike: Callable[[], object] = lambda: None
        self.steps = 0
        self.struck = False

    def __await__(self) -> Generator[Any, Any, Any]:
        sent: Callable[[Any], Any] = self._call.send
        value: object = None
        while True:
            try:
                waits_for = sent(value)
            except StopIteration as end:
                return end.value
            self.steps += 1
            assert self.steps < MOST_STEPS, "it never ends"
            striker = self._strike(waits_for) if self.steps == self._at else None
            try:
                yield waits_for
                sent, value = self._call.send, None
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is the coroutine's
                sent, value = self._call.throw, error
            if striker is not None:
                striker.cancel()

    def _strike(self, waits_for: Any) -> asyncio.Task[None] | None:
        if self._when == "midst":
            return asyncio.create_task(self._strike_later())
        if self._when == "last" and waits_for is not None:
            waits_for.add_done_callback(self._strike_now)
        else:
            self._strike_now()
        return None

    async def _strike_later(self) -> None:
        await self.clock.sleep(MIDST)
        self._strike_now()

    def _strike_now(self, _: object = None) -> None:
        self.struck = True
        self.strike()


How = Callable[[Stepped], Coroutine[Any, Any, Any]]


async def cancelled(stepped: Stepped) -> Any:
    """``task.cancel()``."""
    task = asyncio.current_task()
    assert task is not None
    stepped.strike = task.cancel
    return await stepped


async def cancelled_twice(stepped: Stepped) -> Any:
    """And once more while it deals with that."""
    task = asyncio.current_task()
    assert task is not None

    def strike() -> None:
        task.cancel()
        asyncio.get_running_loop().call_soon(task.cancel)

    stepped.strike = strike
    return await stepped


async def timed_out(stepped: Stepped) -> Any:
    """By an ``asyncio.timeout`` of the caller's."""
    async with asyncio.timeout(None) as leash:
        stepped.strike = lambda: leash.reschedule(asyncio.get_running_loop().time())
        return await stepped


class BoomError(Exception):
    """What ends a group of tasks."""


async def in_a_group(stepped: Stepped) -> Any:
    """By the failure of another task in its group."""
    boom = asyncio.Event()
    stepped.strike = boom.set

    async def fail() -> None:
        await boom.wait()
        raise BoomError

    async def succeed() -> Any:
        return await stepped

    result = None
    try:
        async with asyncio.TaskGroup() as group:
            failing = group.create_task(fail())
            result = await group.create_task(succeed())
            failing.cancel()
    except ExceptionGroup as errors:
        if errors.split(BoomError)[1] is not None:
            raise
        raise TimeoutError from None
    return result


HOWS: dict[str, tuple[How, str]] = {
    "at once": (cancelled, "first"),
    "in the midst": (cancelled, "midst"),
    "in the last tick": (cancelled, "last"),
    "twice": (cancelled_twice, "first"),
    "twice in the midst": (cancelled_twice, "midst"),
    "by a timeout": (timed_out, "midst"),
    "in a group": (in_a_group, "first"),
    "in a group in the midst": (in_a_group, "midst"),
}


# -- The world of a scenario, and what must hold in the end ------------------------------------------------------------


class World:
    """A fake, a client of its first app, and what runs beside the victim."""

    def __init__(self, *, with_keys: bool) -> None:
        self.with_keys = with_keys
        self.clock = VirtualClock()
        self.api = FakeApi(clock=self.clock, history_days=2)
        self.app = self.api.apps[0]
        self.limiter = LocalRateLimiter(clock=self.clock)
        self.keys = AppOnlyAuth(self.app.api_key, self.app.api_secret)
        self.client = self.another()
        self.others: list[asyncio.Task[Any]] = []
        self.complaints: list[object] = []
        self.most_patience = 5.0
        """Seconds that the next call may wait."""

    def another(self) -> UsageClient:
        """A client of the same app."""
        return UsageClient(
            self.keys if self.with_keys else self.app.token,
            transport=FakeTransport(self.api, latency=1),
            clock=self.clock,
            limiter=self.limiter,
        )

    async def beside(self, *calls: Coroutine[Any, Any, Any]) -> None:
        """These are under way when the victim comes."""
        for call in calls:
            self.others.append(asyncio.create_task(call))
            await asyncio.sleep(0)

    async def check(self) -> None:
        """Nothing is left of the victim, and nobody has noticed it."""
        for other in await asyncio.gather(*self.others, return_exceptions=True):
            assert isinstance(other, Usage), f"another call: {other!r}"
        for _ in range(5):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}, "a task was left"
        assert not self.client._cache._flights, "a shared call was left"
        assert not self.client._active_calls, "a leash was left"
        assert not any(lock.locked() for lock in self.keys._locks.values()), "a lock was left locked"
        for queue in self.limiter._queues.values():
            assert not queue.window.in_flight, "a place was kept"
            assert not queue._waiting, "the queue still waits for somebody"
            assert queue._timer is None, "a timer runs for nobody"
        before = self.clock.monotonic()
        async with asyncio.timeout(1):
            assert isinstance(await self.another().get_usage(), Usage), "the next call"
        assert self.clock.monotonic() - before <= self.most_patience, "the next call waited"
        (queue,) = self.limiter._queues.values()
        assert queue.window.remaining == self.api.rate_limit - self.app.window_used, "a place was lost"
        assert not queue.window.unconfirmed_calls, "a place was lost"
        assert not self.complaints, self.complaints


# -- Scenarios ---------------------------------------------------------------------------------------------------------

Scenario = Callable[[World], Awaitable[Victim]]


async def a_plain_call(world: World) -> Victim:
    """On the wire, nobody else there."""
    return world.client.get_usage()


async def a_known_window(world: World) -> Victim:
    """The same, where the window is known, beside others."""
    await world.client.get_usage()
    await world.beside(world.client.get_usage(), world.another().get_usage())
    return world.client.get_usage()


async def behind_a_probe(world: World) -> Victim:
    """In the queue, until another call's answer tells the window."""
    await world.beside(world.client.get_usage(), world.client.get_usage())
    return world.client.get_usage()


async def before_a_queue(world: World) -> Victim:
    """Others wait for what the victim's answer tells."""

    async def after() -> Usage:
        await world.clock.sleep(0.1)
        return await world.client.get_usage()

    await world.beside(after(), after())
    return world.client.get_usage()


async def for_a_spent_window(world: World) -> Victim:
    """In the queue, for a quarter of an hour, among others."""
    await asyncio.gather(*(world.client.get_usage() for _ in range(50)))
    await world.beside(world.client.get_usage())
    world.most_patience = 1000.0
    return world.client.get_usage()


async def alone_for_a_spent_window(world: World) -> Victim:
    """The same, and the timer runs for nobody else."""
    await asyncio.gather(*(world.client.get_usage() for _ in range(50)))
    world.most_patience = 1000.0
    return world.client.get_usage()


async def refused_by_the_window(world: World) -> Victim:
    """A 429, a closed window, and another attempt when it opens."""
    world.api.fail(Fault.rate_limited())
    world.most_patience = 1000.0
    return world.client.get_usage()


async def backing_off(world: World) -> Victim:
    """Between two attempts, twice."""
    world.api.fail(Fault.status(503), times=2)
    return world.client.get_usage()


async def minting(world: World) -> Victim:
    """It fetches the token that others wait for."""

    async def after(client: UsageClient) -> Usage:
        await world.clock.sleep(0.1)
        return await client.get_usage()

    await world.beside(after(world.client), after(world.another()))
    return world.client.get_usage()


async def waiting_for_a_mint(world: World) -> Victim:
    """It waits for the token that another call fetches."""
    await world.beside(world.another().get_usage(), world.client.get_usage())
    return world.client.get_usage()


async def renewing(world: World) -> Victim:
    """Its token is refused, and it is the first to fetch another."""
    await world.client.get_usage()
    world.app.tokens[:] = ["AAAAanother%2Ftoken"]

    async def after() -> Usage:
        await world.clock.sleep(0.1)
        return await world.client.get_usage()

    await world.beside(after(), after())
    return world.client.get_usage()


async def waiting_for_a_renewal(world: World) -> Victim:
    """Its token is refused, and others fetch another."""
    await world.client.get_usage()
    world.app.tokens[:] = ["AAAAanother%2Ftoken"]
    await world.beside(world.another().get_usage(), world.client.get_usage())
    return world.client.get_usage()


async def sharing_first(world: World) -> Victim:
    """It began the call that others share."""

    async def after() -> Usage:
        await world.clock.sleep(0.1)
        return await world.client.get_usage(max_age=60)

    await world.beside(after(), after())
    return world.client.get_usage(max_age=60)


async def sharing_last(world: World) -> Victim:
    """It shares the call of others."""
    await world.beside(world.client.get_usage(max_age=60), world.client.get_usage(max_age=60))
    return world.client.get_usage(max_age=60)


async def sharing_alone(world: World) -> Victim:
    """Nobody else waits for the shared call: it ends with its only caller."""
    return world.client.get_usage(max_age=60)


async def sharing_all_cancelled(world: World) -> Victim:
    """All who share it are cancelled together, among them the one who was just granted a place."""

    async def all_of_them() -> None:
        await asyncio.gather(*(world.client.get_usage(max_age=60) for _ in range(3)))

    return all_of_them()


async def a_young_result(world: World) -> Victim:
    """It is there already."""
    await world.client.get_usage()
    return world.client.get_usage(max_age=60)


async def closing(world: World) -> Victim:
    """The closing itself, with calls under way: they end all the same, and it can be closed again."""
    client = world.another()
    under_way = [asyncio.create_task(client.get_usage(max_age=age)) for age in (None, 0, 0, None)]
    await asyncio.sleep(0)

    async def ended() -> Usage:
        outcomes = await asyncio.gather(*under_way, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {ClientClosedError}, outcomes
        await client.aclose()
        return await world.client.get_usage()

    await world.beside(ended())
    return client.aclose()


WITH_KEYS: tuple[Scenario, ...] = (minting, waiting_for_a_mint, renewing, waiting_for_a_renewal)
PLAIN: tuple[Scenario, ...] = (
    a_plain_call,
    a_known_window,
    behind_a_probe,
    before_a_queue,
    for_a_spent_window,
    alone_for_a_spent_window,
    refused_by_the_window,
    backing_off,
    sharing_first,
    sharing_last,
    sharing_alone,
    sharing_all_cancelled,
    a_young_result,
    closing,
)


def outcome_of(task: asyncio.Task[Any]) -> object:
    """What a task has come to: its result, its error, or that it was cancelled."""
    if task.cancelled():
        return asyncio.CancelledError()
    return task.exception() or task.result()


async def run(scenario: Scenario, how: str, at: int) -> Stepped:
    """One run of a scenario, its victim struck at that step."""
    world = World(with_keys=scenario in WITH_KEYS)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: world.complaints.append(context))
    by, when = HOWS[how]
    stepped = Stepped(await scenario(world), at, when)
    stepped.clock = world.clock
    try:
        async with asyncio.timeout(PATIENCE):
            task = asyncio.create_task(by(stepped))
            await asyncio.wait([task])
            outcome = outcome_of(task)
            ended = isinstance(outcome, asyncio.CancelledError | TimeoutError)
            assert ended or outcome is None or isinstance(outcome, Usage), repr(outcome)
            assert ended <= stepped.struck
            assert ended or not stepped.struck or stepped.steps == at, "the cancellation was swallowed"
            await world.check()
    finally:
        loop.set_exception_handler(None)
    return stepped


async def sweep(scenario: Scenario, how: str) -> int:
    """A scenario, its victim struck at each of its steps: how often it was."""
    steps = (await run(scenario, how, 0)).steps
    struck = 0
    for at in range(1, steps + 1):
        try:
            struck += (await run(scenario, how, at)).struck
        except BaseException as error:
            error.add_note(f"struck {how} at step {at} of {steps}")
            raise
    return struck


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("scenario", PLAIN + WITH_KEYS, ids=lambda scenario: scenario.__name__)
async def test_cancelled_at_each_step(scenario: Scenario, how: str) -> None:
    """Whenever it is: nothing is left of it, nobody else notices, and the next call succeeds."""
    # These two wait for nothing that takes its time.
    assert await sweep(scenario, how) or (HOWS[how][1] == "midst" and scenario in {a_young_result, closing})


# -- Over a socket -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["at once", "in the last tick", "twice", "in a group"])
@pytest.mark.parametrize("with_keys", [False, True], ids=["token", "keys"])
async def test_cancelled_at_each_step_over_a_socket(how: str, with_keys: bool) -> None:
    """A plain fetch by aiohttp: connecting, sending, at the headers, in the body, while a token is fetched."""
    api = FakeApi(history_days=2, rate_limit=1000)
    app = api.apps[0]
    by, when = HOWS[how]
    with FakeServer(api) as server:
        steps, at = 1, 0
        while at <= steps:
            transport = AiohttpTransport()
            limiter = LocalRateLimiter()
            auth = AppOnlyAuth(app.api_key, app.api_secret) if with_keys else app.token
            client = UsageClient(
                auth, transport=transport, base_url=server.url, limiter=limiter, retry=RetryPolicy.none(), timeout=5
            )
            stepped = Stepped(client.get_usage(days=2), at, when)
            task = asyncio.create_task(by(stepped))
            await asyncio.wait([task])
            outcome = outcome_of(task)
            ended = isinstance(outcome, asyncio.CancelledError | TimeoutError)
            assert ended or isinstance(outcome, Usage), f"{outcome!r} at {at}"
            assert ended or not stepped.struck or stepped.steps == at, "the cancellation was swallowed"
            assert isinstance(await client.get_usage(), Usage)
            assert not any(queue.window.in_flight or len(queue._waiting) for queue in limiter._queues.values())
            await transport.aclose()
            async with asyncio.timeout(PATIENCE):
                while others := asyncio.all_tasks() - {asyncio.current_task()}:
                    await asyncio.wait(others)
            steps, at = (stepped.steps if at == 0 else steps), at + 1
    assert steps >= 3


# -- The sweep itself --------------------------------------------------------------------------------------------------


def a_place_is_kept(patch: pytest.MonkeyPatch) -> None:
    leave = _LocalSlot.__aexit__

    async def forgetful(self: Any, kind: Any, *rest: Any) -> None:
        if kind is not asyncio.CancelledError:
            await leave(self, kind, *rest)

    patch.setattr(_LocalSlot, "__aexit__", forgetful)


def a_lock_stays_locked(patch: pytest.MonkeyPatch) -> None:
    release = asyncio.Lock.__aexit__

    async def forgetful(self: Any, kind: Any, *rest: Any) -> None:
        if kind is not asyncio.CancelledError:
            await release(self, kind, *rest)

    patch.setattr(asyncio.Lock, "__aexit__", forgetful)


def the_first_caller_takes_all_along(patch: pytest.MonkeyPatch) -> None:
    async def wait(self: _SingleFlight) -> Usage:
        return await self._task

    patch.setattr(_SingleFlight, "wait", wait)


def it_is_swallowed(patch: pytest.MonkeyPatch) -> None:
    attempt = UsageClient._attempt

    async def stubborn(self: Any, *given: Any) -> Usage:
        try:
            return await attempt(self, *given)
        except asyncio.CancelledError:
            return await attempt(self, *given)

    patch.setattr(UsageClient, "_attempt", stubborn)


def the_cancelled_one_speaks_for_all(patch: pytest.MonkeyPatch) -> None:
    mint = TokenEndpoint.fetch_token

    async def confusing(self: Any, *given: Any) -> Any:
        try:
            return await mint(self, *given)
        except asyncio.CancelledError:
            raise ClientClosedError("somebody was cancelled") from None

    patch.setattr(TokenEndpoint, "fetch_token", confusing)


async def sweep_all(scenario: Scenario) -> None:
    for how in HOWS:
        await sweep(scenario, how)


@pytest.mark.parametrize(
    ("bug", "scenario"),
    [
        (a_place_is_kept, a_plain_call),
        (a_lock_stays_locked, minting),
        (a_lock_stays_locked, renewing),
        (the_first_caller_takes_all_along, sharing_first),
        (it_is_swallowed, backing_off),
        (the_cancelled_one_speaks_for_all, renewing),
    ],
    ids=lambda part: part.__name__,
)
async def test_a_seeded_bug_is_found(
    bug: Callable[[pytest.MonkeyPatch], None], scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of these bugs is noticed at some step."""
    bug(monkeypatch)
    monkeypatch.setattr("test_cancellation.PATIENCE", 0.3)
    with pytest.raises((AssertionError, TimeoutError)):
        await sweep_all(scenario)
    monkeypatch.undo()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.sleep(0)
