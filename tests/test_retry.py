"""What is retried, how often, and how long one call waits: in virtual time, without a client."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable

import pytest

from twusage.errors import (
    ApiError,
    AuthenticationError,
    ClientClosedError,
    ConfigurationError,
    ConnectError,
    DecodeError,
    ProtocolError,
    RateLimitedError,
    RequestTimeoutError,
    ServerError,
    TlsError,
    TwUsageError,
    UsageCapExceededError,
)
from twusage.retry import Patience, RetryPolicy
from twusage.testing import VirtualClock

CONNECT = ConnectError("no connection")
GARBLED = DecodeError("not JSON", retry_once=True)


def attempts(*outcomes: Exception | str) -> tuple[Callable[[Patience], Awaitable[str]], list[object]]:
    """An attempt that ends in each of these in turn, and the log of what it did."""
    log: list[object] = []
    todo = list(outcomes)

    async def attempt(patience: Patience) -> str:
        outcome = todo.pop(0)
        log.append(outcome)
        if isinstance(outcome, str):
            return outcome
        raise outcome

    return attempt, log


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture(autouse=True)
def most_patient_dice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every random wait is the longest that it can be, so that a wait is a number."""
    monkeypatch.setattr(random, "uniform", lambda _, high: high)
    monkeypatch.setattr(random, "random", lambda: 1.0)


async def test_a_call_that_succeeds_is_made_once(clock: VirtualClock) -> None:
    """No failure, no second attempt, no waiting."""
    attempt, log = attempts("done")
    assert await RetryPolicy().run(attempt, clock) == "done"
    assert len(log) == 1
    assert clock.monotonic() == 0.0


@pytest.mark.parametrize(
    "error",
    [CONNECT, RequestTimeoutError("late"), ServerError("503", status=503), ProtocolError("cut", retryable=True)],
    ids=lambda error: type(error).__name__,
)
async def test_what_may_pass_is_tried_four_times(error: TwUsageError, clock: VirtualClock) -> None:
    """At most 4 attempts, with 0.5, 1 and 2 s between them at the longest; then the last error itself."""
    attempt, log = attempts(error, error, error, error, "never")
    with pytest.raises(type(error)) as caught:
        await RetryPolicy().run(attempt, clock)
    assert caught.value is error
    assert len(log) == 4
    assert clock.monotonic() == 0.5 + 1.0 + 2.0


async def test_the_wait_grows_to_twenty_seconds(clock: VirtualClock) -> None:
    """Doubling stops at 20 s."""
    attempt, _ = attempts(*[CONNECT] * 9)
    with pytest.raises(ConnectError):
        await RetryPolicy(max_attempts=9).run(attempt, clock)
    assert clock.monotonic() == 0.5 + 1 + 2 + 4 + 8 + 16 + 20 + 20


async def test_a_recovery_gives_the_result(clock: VirtualClock) -> None:
    """Two failures and a success are a success."""
    attempt, log = attempts(CONNECT, ServerError("500", status=500), "done")
    assert await RetryPolicy().run(attempt, clock) == "done"
    assert len(log) == 3


@pytest.mark.parametrize(
    "error",
    [
        UsageCapExceededError("capped", status=429),
        AuthenticationError("401", status=401),
        ApiError("404", status=404),
        TlsError("untrusted"),
        DecodeError("wrong count"),
        ProtocolError("redirect"),
        ClientClosedError("closed"),
        RateLimitedError("our own limiter refuses"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_another_try_cannot_mend_is_raised_at_once(error: TwUsageError, clock: VirtualClock) -> None:
    """One attempt, no waiting, the error itself."""
    attempt, log = attempts(error, "never")
    with pytest.raises(type(error)) as caught:
        await RetryPolicy().run(attempt, clock)
    assert caught.value is error
    assert len(log) == 1
    assert clock.monotonic() == 0.0


async def test_it_stops_where_a_retry_ends_in_something_final(clock: VirtualClock) -> None:
    """A retry that meets a capped month raises that, with attempts left."""
    attempt, log = attempts(CONNECT, UsageCapExceededError("capped", status=429), "never")
    with pytest.raises(UsageCapExceededError):
        await RetryPolicy().run(attempt, clock)
    assert len(log) == 2


async def test_a_garbled_answer_is_tried_once_more(clock: VirtualClock) -> None:
    """A second garbled answer is enough."""
    attempt, log = attempts(GARBLED, GARBLED, "never")
    with pytest.raises(DecodeError):
        await RetryPolicy().run(attempt, clock)
    assert len(log) == 2


async def test_garbled_answers_are_counted_among_other_failures(clock: VirtualClock) -> None:
    """An outage between two garbled answers does not give the second another chance."""
    attempt, log = attempts(GARBLED, CONNECT, GARBLED, "never")
    with pytest.raises(DecodeError):
        await RetryPolicy().run(attempt, clock)
    assert len(log) == 3


async def test_an_exception_of_somebody_elses_passes(clock: VirtualClock) -> None:
    """What a user's transport raises that is no TwUsageError is not ours to retry, first or later."""
    for before in ([], [CONNECT]):
        attempt, _ = attempts(*before, ZeroDivisionError())
        with pytest.raises(ZeroDivisionError):
            await RetryPolicy().run(attempt, clock)


async def test_a_cancellation_passes(clock: VirtualClock) -> None:
    """CancelledError is never swallowed, not even while it waits between two attempts."""
    attempt, log = attempts(CONNECT, "never")
    manual = VirtualClock(auto=False)
    call = asyncio.create_task(RetryPolicy().run(attempt, manual))
    await manual.advance(0.1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert len(log) == 1


async def test_a_cancellation_inside_an_attempt_passes(clock: VirtualClock) -> None:
    """An attempt that is cancelled while it runs is not an attempt that failed."""
    begun = 0

    async def attempt(_: Patience) -> str:
        nonlocal begun
        begun += 1
        if begun == 1:
            raise CONNECT
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await RetryPolicy().run(attempt, clock)
    assert begun == 2


async def test_a_window_that_is_spent_is_left_to_the_limiter(clock: VirtualClock) -> None:
    """The next attempt begins at once: it is its place in the window that it waits for."""
    attempt, _ = attempts(RateLimitedError("429", status=429, retry_after=900.0), "done")
    assert await RetryPolicy().run(attempt, clock) == "done"
    assert clock.monotonic() == 0.0


async def test_a_window_that_opens_too_late_is_not_waited_for(clock: VirtualClock) -> None:
    """A 429 whose reset lies beyond max_wait is raised as it came, with its retry_at."""
    error = RateLimitedError("429", status=429, retry_after=100.0)
    attempt, _ = attempts(error, "never")
    with pytest.raises(RateLimitedError) as caught:
        await RetryPolicy(max_wait=99.0).run(attempt, clock)
    assert caught.value is error
    assert clock.monotonic() == 0.0


async def test_a_429_that_is_not_the_windows_is_sat_out(clock: VirtualClock) -> None:
    """With calls left in the window, another limit was met: 15 to 30 s, or what the server asks for."""
    attempt, _ = attempts(RateLimitedError("429", status=429, window_spent=False), "done")
    assert await RetryPolicy().run(attempt, clock) == "done"
    assert clock.monotonic() == 30.0
    attempt, _ = attempts(RateLimitedError("429", status=429, window_spent=False, retry_after=77.0), "done")
    assert await RetryPolicy().run(attempt, clock) == "done"
    assert clock.monotonic() == 30.0 + 77.0


async def test_a_429_that_is_not_the_windows_waits_fifteen_seconds_at_least(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the dice say, a foreign limit is not met again at once."""
    monkeypatch.setattr(random, "uniform", lambda low, _: low)
    monkeypatch.setattr(random, "random", lambda: 0.0)
    attempt, _ = attempts(RateLimitedError("429", status=429, window_spent=False), "done")
    await RetryPolicy().run(attempt, clock)
    assert clock.monotonic() == 15.0


async def test_a_server_that_says_when_is_obeyed(clock: VirtualClock) -> None:
    """Retry-After of a 503 is the least that is waited."""
    attempt, _ = attempts(ServerError("503", status=503, retry_after=45.0), "done")
    assert await RetryPolicy().run(attempt, clock) == "done"
    assert clock.monotonic() == 45.0


async def test_a_server_that_asks_for_too_much_is_not_waited_for(clock: VirtualClock) -> None:
    """A wait that would exceed max_wait is not begun."""
    attempt, _ = attempts(ServerError("503", status=503, retry_after=45.0), "never")
    with pytest.raises(ServerError):
        await RetryPolicy(max_wait=44.0).run(attempt, clock)
    assert clock.monotonic() == 0.0


async def test_max_wait_is_for_the_whole_call(clock: VirtualClock) -> None:
    """Waits add up: with 1.6 s in all, the third wait, of 2 s, is not begun."""
    attempt, log = attempts(*[CONNECT] * 4)
    with pytest.raises(ConnectError):
        await RetryPolicy(max_wait=1.6).run(attempt, clock)
    assert len(log) == 3
    assert clock.monotonic() == 1.5


async def test_an_attempt_is_told_how_long_it_may_wait(clock: VirtualClock) -> None:
    """What was waited before is gone from the patience of the next attempt, and what an attempt waits as well."""
    told = []

    async def attempt(patience: Patience) -> str:
        told.append(patience.left)
        patience.spend(10.0)
        if len(told) == 1:
            raise CONNECT
        return "done"

    await RetryPolicy(max_wait=60.0).run(attempt, clock)
    assert told == [60.0, 49.5]


async def test_none_makes_one_attempt(clock: VirtualClock) -> None:
    """RetryPolicy.none(): one attempt, no waiting, the error itself."""
    attempt, log = attempts(CONNECT, "never")
    with pytest.raises(ConnectError):
        await RetryPolicy.none().run(attempt, clock)
    assert len(log) == 1
    assert RetryPolicy.none().max_wait == 0.0


async def test_no_waiting_is_no_retry(clock: VirtualClock) -> None:
    """max_wait=0 raises at once, however many attempts are left."""
    attempt, log = attempts(CONNECT, "never")
    with pytest.raises(ConnectError):
        await RetryPolicy(max_wait=0).run(attempt, clock)
    assert len(log) == 1


async def test_concurrent_calls_do_not_mix(clock: VirtualClock) -> None:
    """Each call has a tenacity of its own: results and failures stay with their calls."""
    policy = RetryPolicy()

    async def call(name: int) -> str:
        attempt, _ = attempts(*[CONNECT] * (name % 4), f"done {name}")
        return await policy.run(attempt, clock)

    assert await asyncio.gather(*map(call, range(40))) == [f"done {name}" for name in range(40)]


@pytest.mark.parametrize(
    "keywords",
    [
        {"max_attempts": 0},
        {"max_attempts": 1.5},
        {"max_attempts": True},
        {"max_wait": -1},
        {"max_wait": math.nan},
        {"max_wait": "60"},
    ],
    ids=str,
)
def test_a_policy_without_sense_is_refused(keywords: dict[str, float]) -> None:
    """It is told when it is made, with the value."""
    ((name, value),) = keywords.items()
    with pytest.raises(ConfigurationError, match=f"{name} must be .* got {value!r}"):
        RetryPolicy(**keywords)  # type: ignore[arg-type]
