"""A cancelled call leaves no trace, at whichever suspension point it is cancelled.

Each scenario is run once to count the suspension points of its coroutine, then once per point, cancelling there. What
must hold afterwards is in ``Scenario.check``; the seeded bugs at the end are all detected.
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

# More than any scenario has, so that an endless one fails.
MAX_STEPS = 400
# Seconds after which a wait is in its middle: a request takes 1 s, and later calls start after 0.1 s.
MIDDLE = 0.5
# Real seconds that a run may take. Most take milliseconds.
TIMEOUT = 5.0
CoroutineUnderTest = Coroutine[Any, Any, Any]


# -- Cancelling at a step ----------------------------------------------------------------------------------------------


class Stepped:
    """Awaits a coroutine, counts its suspension points, and cancels it at one of them.

    Args:
        call: what is awaited.
        at: the number of the step, from 1 on; 0 does not cancel.
        when: the time in that step: when its wait begins, in the middle, or after its end, before the coroutine
            continues.
    """

    def __init__(self, call: CoroutineUnderTest, at: int, when: str = "first") -> None:
        self._call, self._at, self._when = call, at, when
        self.clock: Clock = SystemClock()
        self.cancel: Callable[[], object] = lambda: None
        self.steps = 0
        self.cancelled = False

    def __await__(self) -> Generator[Any, Any, Any]:
        sent: Callable[[Any], Any] = self._call.send
        value: object = None
        while True:
            try:
                waits_for = sent(value)
            except StopIteration as end:
                return end.value
            self.steps += 1
            assert self.steps < MAX_STEPS, "it never ends"
            canceller = self._cancel(waits_for) if self.steps == self._at else None
            try:
                yield waits_for
                sent, value = self._call.send, None
            except BaseException as error:  # noqa: BLE001 - any error is passed to the coroutine
                sent, value = self._call.throw, error
            if canceller is not None:
                canceller.cancel()

    def _cancel(self, waits_for: Any) -> asyncio.Task[None] | None:
        if self._when == "middle":
            return asyncio.create_task(self._cancel_later())
        if self._when == "last" and waits_for is not None:
            waits_for.add_done_callback(self._cancel_now)
        else:
            self._cancel_now()
        return None

    async def _cancel_later(self) -> None:
        await self.clock.sleep(MIDDLE)
        self._cancel_now()

    def _cancel_now(self, _: object = None) -> None:
        self.cancelled = True
        self.cancel()


How = Callable[[Stepped], Coroutine[Any, Any, Any]]


async def cancel_once(stepped: Stepped) -> Any:
    """``task.cancel()``."""
    task = asyncio.current_task()
    assert task is not None
    stepped.cancel = task.cancel
    return await stepped


async def cancel_twice(stepped: Stepped) -> Any:
    """And once more while it deals with that."""
    task = asyncio.current_task()
    assert task is not None

    def cancel() -> None:
        task.cancel()
        asyncio.get_running_loop().call_soon(task.cancel)

    stepped.cancel = cancel
    return await stepped


async def timed_out(stepped: Stepped) -> Any:
    """By an ``asyncio.timeout`` of the caller's."""
    async with asyncio.timeout(None) as timeout:
        stepped.cancel = lambda: timeout.reschedule(asyncio.get_running_loop().time())
        return await stepped


class BoomError(Exception):
    """What ends a group of tasks."""


async def in_a_group(stepped: Stepped) -> Any:
    """By the failure of another task in its group."""
    boom = asyncio.Event()
    stepped.cancel = boom.set

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
    "immediately": (cancel_once, "first"),
    "in the middle": (cancel_once, "middle"),
    "in the last tick": (cancel_once, "last"),
    "twice": (cancel_twice, "first"),
    "twice in the middle": (cancel_twice, "middle"),
    "by a timeout": (timed_out, "middle"),
    "in a group": (in_a_group, "first"),
    "in a group in the middle": (in_a_group, "middle"),
}


# -- A scenario, and what must hold in the end -------------------------------------------------------------------------


class Scenario:
    """A fake, a client of its first app, and the calls that run beside the coroutine under test."""

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
        self.max_wait = 5.0
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
        """Start these calls before the coroutine under test."""
        for call in calls:
            self.others.append(asyncio.create_task(call))
            await asyncio.sleep(0)

    async def check(self) -> None:
        """The cancelled coroutine has left nothing behind, and no other call was affected."""
        for other in await asyncio.gather(*self.others, return_exceptions=True):
            assert isinstance(other, Usage), f"another call: {other!r}"
        for _ in range(5):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}, "a task was left"
        assert not self.client._cache._flights, "a shared call was left"
        assert not self.client._active_calls, "an active call was left"
        assert not any(lock.locked() for lock in self.keys._locks.values()), "a lock was left locked"
        for queue in self.limiter._queues.values():
            assert not queue.window.in_flight, "a place was kept"
            assert not queue._waiting, "the queue still has waiters"
            assert queue._timer is None, "a timer runs without waiters"
        before = self.clock.monotonic()
        async with asyncio.timeout(1):
            assert isinstance(await self.another().get_usage(), Usage), "the next call"
        assert self.clock.monotonic() - before <= self.max_wait, "the next call waited"
        (queue,) = self.limiter._queues.values()
        assert queue.window.remaining == self.api.rate_limit - self.app.window_used, "a place was lost"
        assert not queue.window.unconfirmed_calls, "a place was lost"
        assert not self.complaints, self.complaints


# -- Scenarios ---------------------------------------------------------------------------------------------------------

Setup = Callable[[Scenario], Awaitable[CoroutineUnderTest]]


async def a_plain_call(scenario: Scenario) -> CoroutineUnderTest:
    """On the wire, without other calls."""
    return scenario.client.get_usage()


async def a_known_window(scenario: Scenario) -> CoroutineUnderTest:
    """The same beside others, in a known window."""
    await scenario.client.get_usage()
    await scenario.beside(scenario.client.get_usage(), scenario.another().get_usage())
    return scenario.client.get_usage()


async def behind_a_probe(scenario: Scenario) -> CoroutineUnderTest:
    """In the queue, until another call's response reports the window."""
    await scenario.beside(scenario.client.get_usage(), scenario.client.get_usage())
    return scenario.client.get_usage()


async def before_a_queue(scenario: Scenario) -> CoroutineUnderTest:
    """Others wait for the window that its response reports."""

    async def after() -> Usage:
        await scenario.clock.sleep(0.1)
        return await scenario.client.get_usage()

    await scenario.beside(after(), after())
    return scenario.client.get_usage()


async def for_the_next_window(scenario: Scenario) -> CoroutineUnderTest:
    """In the queue, for a quarter of an hour, among others."""
    await asyncio.gather(*(scenario.client.get_usage() for _ in range(50)))
    await scenario.beside(scenario.client.get_usage())
    scenario.max_wait = 1000.0
    return scenario.client.get_usage()


async def alone_for_the_next_window(scenario: Scenario) -> CoroutineUnderTest:
    """The same, without other waiters."""
    await asyncio.gather(*(scenario.client.get_usage() for _ in range(50)))
    scenario.max_wait = 1000.0
    return scenario.client.get_usage()


async def refused_by_the_window(scenario: Scenario) -> CoroutineUnderTest:
    """A 429, a closed window, and another attempt when it opens."""
    scenario.api.fail(Fault.rate_limited())
    scenario.max_wait = 1000.0
    return scenario.client.get_usage()


async def backing_off(scenario: Scenario) -> CoroutineUnderTest:
    """Between two attempts, twice."""
    scenario.api.fail(Fault.status(503), times=2)
    return scenario.client.get_usage()


async def fetching_token(scenario: Scenario) -> CoroutineUnderTest:
    """It fetches the token that others wait for."""

    async def after(client: UsageClient) -> Usage:
        await scenario.clock.sleep(0.1)
        return await client.get_usage()

    await scenario.beside(after(scenario.client), after(scenario.another()))
    return scenario.client.get_usage()


async def waiting_for_a_token(scenario: Scenario) -> CoroutineUnderTest:
    """It waits for the token that another call fetches."""
    await scenario.beside(scenario.another().get_usage(), scenario.client.get_usage())
    return scenario.client.get_usage()


async def renewing(scenario: Scenario) -> CoroutineUnderTest:
    """Its token is refused, and it is the first to fetch another."""
    await scenario.client.get_usage()
    scenario.app.tokens[:] = ["AAAAanother%2Ftoken"]

    async def after() -> Usage:
        await scenario.clock.sleep(0.1)
        return await scenario.client.get_usage()

    await scenario.beside(after(), after())
    return scenario.client.get_usage()


async def waiting_for_a_renewal(scenario: Scenario) -> CoroutineUnderTest:
    """Its token is refused, and others fetch another."""
    await scenario.client.get_usage()
    scenario.app.tokens[:] = ["AAAAanother%2Ftoken"]
    await scenario.beside(scenario.another().get_usage(), scenario.client.get_usage())
    return scenario.client.get_usage()


async def sharing_first(scenario: Scenario) -> CoroutineUnderTest:
    """It began the call that others share."""

    async def after() -> Usage:
        await scenario.clock.sleep(0.1)
        return await scenario.client.get_usage(max_age=60)

    await scenario.beside(after(), after())
    return scenario.client.get_usage(max_age=60)


async def sharing_last(scenario: Scenario) -> CoroutineUnderTest:
    """It shares the call of others."""
    await scenario.beside(scenario.client.get_usage(max_age=60), scenario.client.get_usage(max_age=60))
    return scenario.client.get_usage(max_age=60)


async def sharing_alone(scenario: Scenario) -> CoroutineUnderTest:
    """No other caller waits for the shared call. It ends with its only caller."""
    return scenario.client.get_usage(max_age=60)


async def sharing_all_cancelled(scenario: Scenario) -> CoroutineUnderTest:
    """All callers of it are cancelled together, also one just granted a place."""

    async def all_of_them() -> None:
        await asyncio.gather(*(scenario.client.get_usage(max_age=60) for _ in range(3)))

    return all_of_them()


async def a_young_result(scenario: Scenario) -> CoroutineUnderTest:
    """It is there already."""
    await scenario.client.get_usage()
    return scenario.client.get_usage(max_age=60)


async def closing(scenario: Scenario) -> CoroutineUnderTest:
    """The closing itself, with calls under way. They end all the same, and it can be closed again."""
    client = scenario.another()
    under_way = [asyncio.create_task(client.get_usage(max_age=age)) for age in (None, 0, 0, None)]
    await asyncio.sleep(0)

    async def ended() -> Usage:
        outcomes = await asyncio.gather(*under_way, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {ClientClosedError}, outcomes
        await client.aclose()
        return await scenario.client.get_usage()

    await scenario.beside(ended())
    return client.aclose()


WITH_KEYS: tuple[Setup, ...] = (fetching_token, waiting_for_a_token, renewing, waiting_for_a_renewal)
PLAIN: tuple[Setup, ...] = (
    a_plain_call,
    a_known_window,
    behind_a_probe,
    before_a_queue,
    for_the_next_window,
    alone_for_the_next_window,
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
    """What a task has come to. Its result, its error, or that it was cancelled."""
    if task.cancelled():
        return asyncio.CancelledError()
    return task.exception() or task.result()


async def run(setup: Setup, how: str, at: int) -> Stepped:
    """Run a scenario once, and cancel its coroutine at that step."""
    scenario = Scenario(with_keys=setup in WITH_KEYS)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: scenario.complaints.append(context))
    by, when = HOWS[how]
    stepped = Stepped(await setup(scenario), at, when)
    stepped.clock = scenario.clock
    try:
        async with asyncio.timeout(TIMEOUT):
            task = asyncio.create_task(by(stepped))
            await asyncio.wait([task])
            outcome = outcome_of(task)
            ended = isinstance(outcome, asyncio.CancelledError | TimeoutError)
            assert ended or outcome is None or isinstance(outcome, Usage), repr(outcome)
            assert ended <= stepped.cancelled
            assert ended or not stepped.cancelled or stepped.steps == at, "the cancellation was swallowed"
            await scenario.check()
    finally:
        loop.set_exception_handler(None)
    return stepped


async def sweep(setup: Setup, how: str) -> int:
    """Run a scenario once per step, cancelling there. Returns how often it was cancelled."""
    steps = (await run(setup, how, 0)).steps
    cancelled = 0
    for at in range(1, steps + 1):
        try:
            cancelled += (await run(setup, how, at)).cancelled
        except BaseException as error:
            error.add_note(f"cancelled {how} at step {at} of {steps}")
            raise
    return cancelled


@pytest.mark.parametrize("setup", PLAIN + WITH_KEYS, ids=lambda setup: setup.__name__)
async def test_cancelled_at_each_step(setup: Setup) -> None:
    """Whenever it is. It leaves nothing behind, no other call is affected, and the next call succeeds."""
    for how in HOWS:
        # These two have no wait that takes time.
        assert await sweep(setup, how) or (HOWS[how][1] == "middle" and setup in {a_young_result, closing})


# -- Over a socket -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["immediately", "in the last tick", "twice", "in a group"])
@pytest.mark.parametrize("with_keys", [False, True], ids=["token", "keys"])
async def test_cancelled_at_each_step_over_a_socket(how: str, with_keys: bool) -> None:
    """A plain fetch by aiohttp. Connecting, sending, at the headers, in the body, while a token is fetched."""
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
            assert ended or not stepped.cancelled or stepped.steps == at, "the cancellation was swallowed"
            assert isinstance(await client.get_usage(), Usage)
            assert not any(queue.window.in_flight or len(queue._waiting) for queue in limiter._queues.values())
            await transport.aclose()
            async with asyncio.timeout(TIMEOUT):
                while others := asyncio.all_tasks() - {asyncio.current_task()}:
                    await asyncio.wait(others)
            steps, at = (stepped.steps if at == 0 else steps), at + 1
    assert steps >= 3


# -- The tests detect --------------------------------------------------------------------------------------------------


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
    fetch_token = TokenEndpoint.fetch_token

    async def confusing(self: Any, *given: Any) -> Any:
        try:
            return await fetch_token(self, *given)
        except asyncio.CancelledError:
            raise ClientClosedError("a call was cancelled") from None

    patch.setattr(TokenEndpoint, "fetch_token", confusing)


async def sweep_all(setup: Setup) -> None:
    for how in HOWS:
        await sweep(setup, how)


@pytest.mark.parametrize(
    ("bug", "setup"),
    [
        (a_place_is_kept, a_plain_call),
        (a_lock_stays_locked, fetching_token),
        (a_lock_stays_locked, renewing),
        (the_first_caller_takes_all_along, sharing_first),
        (it_is_swallowed, backing_off),
        (the_cancelled_one_speaks_for_all, renewing),
    ],
    ids=lambda part: part.__name__,
)
async def test_a_seeded_bug_is_found(
    bug: Callable[[pytest.MonkeyPatch], None], setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of these bugs is noticed at some step."""
    bug(monkeypatch)
    monkeypatch.setattr("test_cancellation.TIMEOUT", 0.3)
    with pytest.raises((AssertionError, TimeoutError)):
        await sweep_all(setup)
    monkeypatch.undo()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.sleep(0)
