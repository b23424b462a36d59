"""What is retried, how often, and how long one call waits. In virtual time, without a client."""

from __future__ import annotations

import asyncio
import math
import random
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
import tenacity
from tenacity.asyncio.retry import retry_if_exception as async_retry_if_exception

from twusage.activity import Activity
from twusage.clock import Wait
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
from twusage.retry import CallBudget, RetryPolicy, RetryTokenBucket, retry_budgets_for_running_loop
from twusage.testing import VirtualClock

CONNECT = ConnectError("no connection")
WINDOW = RateLimitedError("429", status=429, retry_after=100.0)
FOREIGN = RateLimitedError("429", status=429, window_exhausted=False)
GARBLED = DecodeError("not JSON", retry_once=True)


def attempts(
    *outcomes: BaseException | str, bucket: RetryTokenBucket | None = None
) -> tuple[Callable[[CallBudget], Awaitable[str]], list[object]]:
    """An attempt that ends in each of these in turn, and the log of what it did. The budget is its app's."""
    log: list[object] = []
    todo = list(outcomes)

    async def attempt(budget: CallBudget) -> str:
        budget.retry_tokens = bucket or budget.retry_tokens
        outcome = todo.pop(0)
        log.append(outcome)
        if isinstance(outcome, str):
            return outcome
        raise outcome

    return attempt, log


async def run(
    policy: RetryPolicy,
    attempt: Callable[[CallBudget], Awaitable[str]],
    clock: VirtualClock,
    *,
    on_wait: Callable[[Wait], None] | None = None,
) -> str:
    """Make a call as the client does. The first attempt alone, then the policy's retries."""
    budget, began = CallBudget(policy.max_wait), clock.monotonic()
    try:
        result = await attempt(budget)
    except TwUsageError as error:
        async for retry in await policy.retries(error, budget, clock, since=began, on_wait=on_wait):
            with retry:
                result = await attempt(budget)
    budget.record_success()
    return result


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
    assert await run(RetryPolicy(), attempt, clock) == "done"
    assert len(log) == 1
    assert clock.monotonic() == 0.0


@pytest.mark.parametrize(
    "error",
    [CONNECT, RequestTimeoutError("late"), ServerError("503", status=503), ProtocolError("cut", retryable=True)],
    ids=lambda error: type(error).__name__,
)
async def test_what_may_pass_is_tried_four_times(error: TwUsageError, clock: VirtualClock) -> None:
    """At most 4 attempts, with at most 0.5, 1 and 2 s between them. Then the last error itself is raised."""
    attempt, log = attempts(error, error, error, error, "never")
    with pytest.raises(type(error)) as caught:
        await run(RetryPolicy(), attempt, clock)
    assert caught.value is error
    assert len(log) == 4
    assert clock.monotonic() == 0.5 + 1.0 + 2.0


async def test_the_wait_grows_to_twenty_seconds(clock: VirtualClock) -> None:
    """Doubling stops at 20 s."""
    attempt, _ = attempts(*[CONNECT] * 9)
    with pytest.raises(ConnectError):
        await run(RetryPolicy(max_attempts=9), attempt, clock)
    assert clock.monotonic() == 0.5 + 1 + 2 + 4 + 8 + 16 + 20 + 20


async def test_a_recovery_gives_the_result(clock: VirtualClock) -> None:
    """Two failures and a success are a success."""
    attempt, log = attempts(CONNECT, ServerError("500", status=500), "done")
    assert await run(RetryPolicy(), attempt, clock) == "done"
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
async def test_permanent_errors_are_raised_immediately(error: TwUsageError, clock: VirtualClock) -> None:
    """One attempt, no waiting, the error itself."""
    attempt, log = attempts(error, "never")
    with pytest.raises(type(error)) as caught:
        await run(RetryPolicy(), attempt, clock)
    assert caught.value is error
    assert len(log) == 1
    assert clock.monotonic() == 0.0


async def test_it_stops_when_a_retry_ends_in_a_permanent_error(clock: VirtualClock) -> None:
    """A retry that meets a capped month raises that, with attempts left."""
    attempt, log = attempts(CONNECT, UsageCapExceededError("capped", status=429), "never")
    with pytest.raises(UsageCapExceededError):
        await run(RetryPolicy(), attempt, clock)
    assert len(log) == 2


async def test_a_garbled_answer_is_tried_once_more(clock: VirtualClock) -> None:
    """A second garbled answer is enough."""
    attempt, log = attempts(GARBLED, GARBLED, "never")
    with pytest.raises(DecodeError):
        await run(RetryPolicy(), attempt, clock)
    assert len(log) == 2


async def test_garbled_answers_are_counted_among_other_failures(clock: VirtualClock) -> None:
    """An outage between two garbled answers does not give the second another chance."""
    attempt, log = attempts(GARBLED, CONNECT, GARBLED, "never")
    with pytest.raises(DecodeError):
        await run(RetryPolicy(), attempt, clock)
    assert len(log) == 3


@pytest.mark.parametrize("budget", [RetryTokenBucket(), RetryTokenBucket(0)], ids=["full", "empty"])
async def test_another_token_is_tried_immediately_and_costs_nothing(
    budget: RetryTokenBucket, clock: VirtualClock
) -> None:
    """A 401 for which another token is at hand. No wait and nothing of the budget, and a second one ends the call."""
    error = AuthenticationError("401", status=401)
    error.retryable = error.retry_once = True
    before = budget.tokens_x10
    attempt, log = attempts(error, error, "never", bucket=budget)
    with pytest.raises(AuthenticationError):
        await run(RetryPolicy(max_wait=0.0), attempt, clock)
    assert len(log) == 2
    assert clock.monotonic() == 0.0
    assert budget.tokens_x10 == before


async def test_a_foreign_exception_passes(clock: VirtualClock) -> None:
    """An exception of a user's transport that is not a TwUsageError is not retried, first or later."""
    for before in ([], [CONNECT]):
        attempt, _ = attempts(*before, ZeroDivisionError())
        with pytest.raises(ZeroDivisionError):
            await run(RetryPolicy(), attempt, clock)


async def test_a_cancellation_passes(clock: VirtualClock) -> None:
    """CancelledError is never swallowed, not even while it waits between two attempts."""
    attempt, log = attempts(CONNECT, "never")
    manual = VirtualClock(auto=False)
    call = asyncio.create_task(run(RetryPolicy(), attempt, manual))
    await manual.advance(0.1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert len(log) == 1


async def test_a_cancellation_inside_an_attempt_passes(clock: VirtualClock) -> None:
    """An attempt that is cancelled while it runs is not an attempt that failed."""
    begun = 0

    async def attempt(_: CallBudget) -> str:
        nonlocal begun
        begun += 1
        if begun == 1:
            raise CONNECT
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await run(RetryPolicy(), attempt, clock)
    assert begun == 2


async def test_a_used_up_window_is_left_to_the_limiter(clock: VirtualClock) -> None:
    """The next attempt begins immediately. It waits for its place in the window."""
    attempt, _ = attempts(RateLimitedError("429", status=429, retry_after=900.0), "done")
    assert await run(RetryPolicy(), attempt, clock) == "done"
    assert clock.monotonic() == 0.0


async def test_a_window_that_opens_too_late_is_not_waited_for(clock: VirtualClock) -> None:
    """A 429 whose reset lies beyond max_wait is raised as it came, with its retry_at."""
    error = RateLimitedError("429", status=429, retry_after=100.0)
    attempt, _ = attempts(error, "never")
    with pytest.raises(RateLimitedError) as caught:
        await run(RetryPolicy(max_wait=99.0), attempt, clock)
    assert caught.value is error
    assert clock.monotonic() == 0.0


@pytest.mark.parametrize("retry_after", [100.0, None])
async def test_the_limiter_decides_before_a_sleep(retry_after: float | None, clock: VirtualClock) -> None:
    """With or without a duration in the 429. The limiter has it, and rejects immediately if it is too long."""
    refusal = RateLimitedError("our own limiter refuses")
    attempt, log = attempts(RateLimitedError("429", status=429, retry_after=retry_after), refusal, "never")
    with pytest.raises(RateLimitedError) as caught:
        await run(RetryPolicy(), attempt, clock)
    assert caught.value is refusal
    assert len(log) == 2
    assert clock.monotonic() == 0.0


async def test_a_reset_that_is_past_is_no_busy_loop(clock: VirtualClock) -> None:
    """A server whose clock is wrong. A second, and the backoff on top, each time."""
    attempt, log = attempts(*[RateLimitedError("429", status=429, retry_after=0.0)] * 4)
    with pytest.raises(RateLimitedError):
        await run(RetryPolicy(), attempt, clock)
    assert len(log) == 4
    assert clock.monotonic() == 1.5 + 2.0 + 3.0


async def test_a_429_that_is_not_the_windows_is_sat_out(clock: VirtualClock) -> None:
    """With calls left in the window, another limit was exceeded. 15 to 30 s, or the server's duration."""
    attempt, _ = attempts(FOREIGN, "done")
    assert await run(RetryPolicy(), attempt, clock) == "done"
    assert clock.monotonic() == 30.0
    attempt, _ = attempts(RateLimitedError("429", status=429, window_exhausted=False, retry_after=77.0), "done")
    assert await run(RetryPolicy(), attempt, clock) == "done"
    assert clock.monotonic() == 30.0 + 77.0


async def test_a_429_that_is_not_the_windows_is_met_ever_more_slowly(clock: VirtualClock) -> None:
    """The random part doubles, up to ten minutes."""
    attempt, _ = attempts(*[FOREIGN] * 9)
    with pytest.raises(RateLimitedError):
        await run(RetryPolicy(max_attempts=9, max_wait=math.inf), attempt, clock)
    assert clock.monotonic() == 8 * 15 + 15 + 30 + 60 + 120 + 240 + 480 + 600 + 600


async def test_a_429_that_is_not_the_windows_waits_fifteen_seconds_at_least(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By no roll of the dice is a foreign limit called again immediately."""
    monkeypatch.setattr(random, "uniform", lambda low, _: low)
    monkeypatch.setattr(random, "random", lambda: 0.0)
    attempt, _ = attempts(FOREIGN, "done")
    await run(RetryPolicy(), attempt, clock)
    assert clock.monotonic() == 15.0


async def test_the_servers_retry_after_is_obeyed(clock: VirtualClock) -> None:
    """Retry-After of a 503 is the least that is waited."""
    attempt, _ = attempts(ServerError("503", status=503, retry_after=45.0), "done")
    assert await run(RetryPolicy(), attempt, clock) == "done"
    assert clock.monotonic() == 45.0


async def test_a_retry_after_beyond_max_wait_raises(clock: VirtualClock) -> None:
    """A wait that would exceed max_wait is not begun."""
    attempt, _ = attempts(ServerError("503", status=503, retry_after=45.0), "never")
    with pytest.raises(ServerError):
        await run(RetryPolicy(max_wait=44.9), attempt, clock)
    assert clock.monotonic() == 0.0


async def test_what_may_just_be_waited_is_waited(clock: VirtualClock) -> None:
    """max_wait itself is not too long."""
    for error in (ServerError("503", status=503, retry_after=45.0), CONNECT):
        attempt, _ = attempts(error, "done")
        assert await run(RetryPolicy(max_wait=45 if error is not CONNECT else 0.5), attempt, clock) == "done"
    attempt, _ = attempts(RateLimitedError("429", status=429), "done")
    assert await run(RetryPolicy(max_wait=0), attempt, clock) == "done", "the limiter decides, and it had no objection"


async def test_max_wait_is_for_the_whole_call(clock: VirtualClock) -> None:
    """Waits add up: with 1.6 s in all, the third wait, of 2 s, is not begun."""
    attempt, log = attempts(*[CONNECT] * 4)
    with pytest.raises(ConnectError):
        await run(RetryPolicy(max_wait=1.6), attempt, clock)
    assert len(log) == 3
    assert clock.monotonic() == 1.5


async def test_an_attempt_gets_the_wait_that_is_left(clock: VirtualClock) -> None:
    """Earlier waits are charged to the next attempt's budget, and so are an attempt's own."""
    budgets = []

    async def attempt(budget: CallBudget) -> str:
        budgets.append(budget.wait_left)
        budget.charge_wait(10.0)
        if len(budgets) == 1:
            raise CONNECT
        return "done"

    await run(RetryPolicy(max_wait=60.0), attempt, clock)
    assert budgets == [60.0, 49.5]


def test_a_wait_counts_in_the_clients_activity() -> None:
    """Each with its seconds, whatever it was for."""
    activity = Activity()
    budget = CallBudget(10.0, activity=activity)
    budget.charge_wait(4.0)
    assert (budget.wait_left, activity.waits, activity.waited) == (6.0, 1, 4.0)


async def test_none_makes_one_attempt(clock: VirtualClock) -> None:
    """RetryPolicy.none(): one attempt, no waiting, the error itself."""
    attempt, log = attempts(CONNECT, "never")
    with pytest.raises(ConnectError):
        await run(RetryPolicy.none(), attempt, clock)
    assert len(log) == 1
    assert clock.monotonic() == 0.0
    assert RetryPolicy.none() == RetryPolicy(max_attempts=1, max_wait=0.0)


async def test_no_waiting_is_no_retry(clock: VirtualClock) -> None:
    """max_wait=0 raises immediately, however many attempts are left."""
    attempt, log = attempts(CONNECT, "never")
    with pytest.raises(ConnectError):
        await run(RetryPolicy(max_wait=0), attempt, clock)
    assert len(log) == 1


async def test_concurrent_calls_do_not_mix(clock: VirtualClock) -> None:
    """Each call has a tenacity of its own. Results and failures stay with their calls."""
    policy = RetryPolicy()

    async def call(name: int) -> str:
        attempt, _ = attempts(*[CONNECT] * (name % 4), f"done {name}")
        return await run(policy, attempt, clock)

    assert await asyncio.gather(*map(call, range(40))) == [f"done {name}" for name in range(40)]


# -- The budget --------------------------------------------------------------------------------------------------------


def test_ten_retries_are_what_there_is() -> None:
    """Ten tokens, and not an eleventh."""
    budget = RetryTokenBucket()
    assert [budget.take() for _ in range(12)] == [True] * 10 + [False] * 2


def test_ten_successes_earn_a_retry() -> None:
    """Nine do not, and an eleventh token is never kept."""
    budget = RetryTokenBucket(tokens_x10=0)
    for _ in range(9):
        budget.record_success()
    assert not budget.take()
    budget.record_success()
    assert budget.take()
    assert not budget.take()
    for _ in range(1000):
        budget.record_success()
    assert budget == RetryTokenBucket()


async def test_an_outage_is_not_multiplied(clock: VirtualClock) -> None:
    """The app's calls share the budget. When it is used up, each makes one attempt, and fails as itself."""
    budget = RetryTokenBucket()
    made = []
    for _ in range(6):
        attempt, log = attempts(*[CONNECT] * 4, bucket=budget)
        with pytest.raises(ConnectError):
            await run(RetryPolicy(), attempt, clock)
        made.append(len(log))
    assert made == [4, 4, 4, 2, 1, 1]


async def test_calls_that_succeed_earn_it_back(clock: VirtualClock) -> None:
    """First attempts and retries alike. Nine of the one and one of the other, and there is a retry again."""
    budget = RetryTokenBucket(tokens_x10=10)
    attempt, log = attempts(CONNECT, "done", bucket=budget)
    assert await run(RetryPolicy(), attempt, clock) == "done"
    for _ in range(8):
        attempt, _ = attempts("done", bucket=budget)
        await run(RetryPolicy(), attempt, clock)
    assert budget == RetryTokenBucket(tokens_x10=9)
    attempt, _ = attempts("done", bucket=budget)
    await run(RetryPolicy(), attempt, clock)
    attempt, log = attempts(CONNECT, CONNECT, "never", bucket=budget)
    with pytest.raises(ConnectError):
        await run(RetryPolicy(), attempt, clock)
    assert len(log) == 2


async def test_the_window_costs_nothing(clock: VirtualClock) -> None:
    """A wait for the app's own window is not a retry of an outage. A retry after another limit is."""
    budget = RetryTokenBucket(tokens_x10=0)
    for past in (WINDOW, RateLimitedError("429", status=429, retry_after=0.0)):
        attempt, _ = attempts(past, "done", bucket=budget)
        assert await run(RetryPolicy(), attempt, clock) == "done"
    attempt, _ = attempts(FOREIGN, "never", bucket=budget)
    with pytest.raises(RateLimitedError):
        await run(RetryPolicy(), attempt, clock)


@pytest.mark.parametrize(
    "policy",
    [RetryPolicy(max_attempts=2), RetryPolicy(max_wait=0.5), RetryPolicy(stop=tenacity.stop_after_attempt(2))],
    ids=["attempts", "max_wait", "stop"],
)
async def test_a_retry_that_is_not_made_costs_nothing(policy: RetryPolicy, clock: VirtualClock) -> None:
    """One retry was made, and one is paid for."""
    budget = RetryTokenBucket()
    attempt, log = attempts(*[CONNECT] * 4, bucket=budget)
    with pytest.raises(ConnectError):
        await run(policy, attempt, clock)
    assert len(log) == 2
    assert budget == RetryTokenBucket(tokens_x10=90)


def test_a_budget_is_the_apps_on_its_loop() -> None:
    """One for all who ask for that app on the running loop. Another app and another loop have their own."""

    async def two_apps() -> tuple[RetryTokenBucket, RetryTokenBucket]:
        assert retry_budgets_for_running_loop()["a"] is retry_budgets_for_running_loop()["a"]
        assert retry_budgets_for_running_loop()["a"] == RetryTokenBucket()
        return retry_budgets_for_running_loop()["a"], retry_budgets_for_running_loop()["b"]

    (a, b), (a_elsewhere, _) = asyncio.run(two_apps()), asyncio.run(two_apps())
    assert a is not b
    assert a is not a_elsewhere


# -- Reports of waits --------------------------------------------------------------------------------------------------


async def test_a_wait_between_two_attempts_is_reported(clock: VirtualClock) -> None:
    """How long, until when, and why: before it begins. The window's waits are the limiter's to tell."""
    attempt, _ = attempts(ServerError("503", status=503, retry_after=45.0), WINDOW, CONNECT, "done")
    waits: list[tuple[float, Wait]] = []
    await run(RetryPolicy(), attempt, clock, on_wait=lambda wait: waits.append((clock.monotonic(), wait)))
    noon = VirtualClock().now()
    assert waits == [
        (0.0, Wait(45.0, noon + timedelta(seconds=45), "the last attempt failed (ServerError)")),
        (45.0, Wait(2.0, noon + timedelta(seconds=47), "the last attempt failed (ConnectError)")),
    ]


async def test_a_hook_that_raises_ends_its_call(clock: VirtualClock) -> None:
    """Its exception is the caller's, whatever it is. It does not count as a failed attempt."""

    def hook(_: Wait) -> None:
        raise CONNECT

    attempt, log = attempts(ServerError("503", status=503), "never")
    with pytest.raises(ConnectError):
        await run(RetryPolicy(), attempt, clock, on_wait=hook)
    assert len(log) == 1
    assert clock.monotonic() == 0.0


# -- Pieces of the user's own ------------------------------------------------------------------------------------------


async def test_a_stop_of_ones_own(clock: VirtualClock) -> None:
    """It ends the policy's retries, and the error is the last attempt's. It cannot prolong anything."""
    attempt, log = attempts(*[CONNECT] * 4)
    with pytest.raises(ConnectError):
        await run(RetryPolicy(stop=tenacity.stop_after_attempt(2)), attempt, clock)
    assert len(log) == 2
    attempt, log = attempts(*[CONNECT] * 4)
    with pytest.raises(ConnectError):
        await run(RetryPolicy(stop=tenacity.stop_never), attempt, clock)
    assert len(log) == 4


@pytest.mark.parametrize(
    ("stop", "tries"),
    [
        (tenacity.stop_after_delay(10), 1),
        (tenacity.stop_after_delay(10.5), 2),
        (tenacity.stop_after_delay(timedelta(seconds=11)), 3),
        (tenacity.stop_before_delay(11.4), 2),
        (tenacity.stop_before_delay(11.5) | tenacity.stop_after_delay(99), 2),
        (tenacity.stop_before_delay(11.6) & tenacity.stop_after_attempt(2), 3),
    ],
)
async def test_tenacitys_time_is_the_clients(stop: Callable[..., bool], tries: int, clock: VirtualClock) -> None:
    """stop_after_delay counts on the client's clock. It starts with the first attempt, which takes 10 s."""
    tried = 0

    async def attempt(_: CallBudget) -> str:
        nonlocal tried
        tried += 1
        if tried == 1:
            await clock.sleep(10.0)
        raise CONNECT

    with pytest.raises(ConnectError):
        await run(RetryPolicy(stop=stop), attempt, clock)
    assert tried == tries


@pytest.mark.parametrize(
    ("wait", "waited"),
    [
        (tenacity.wait_fixed(5), 5.0 + 5.0 + 5.0),
        (tenacity.wait_none(), 0.0),
        (tenacity.wait_incrementing(start=1, increment=2), 1.0 + 3.0 + 5.0),
        (tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(7)), 1.0 + 7.0 + 7.0),
        (tenacity.wait_fixed(3) + tenacity.wait_random(0, 2), 15.0),
        (lambda state: float(state.attempt_number), 1.0 + 2.0 + 3.0),
    ],
)
async def test_a_wait_of_ones_own(wait: Callable[..., float], waited: float, clock: VirtualClock) -> None:
    """In the place of the random backoff."""
    attempt, log = attempts(*[CONNECT] * 4)
    with pytest.raises(ConnectError):
        await run(RetryPolicy(wait=wait), attempt, clock)
    assert len(log) == 4
    assert clock.monotonic() == waited


async def test_a_wait_of_ones_own_does_not_overrule_the_server(clock: VirtualClock) -> None:
    """Retry-After, the window, 15 s for a limit of which nothing is known: these are waited all the same."""
    failures = (ServerError("503", status=503, retry_after=45.0), WINDOW, FOREIGN)
    attempt, _ = attempts(*failures, "done")
    await run(RetryPolicy(wait=tenacity.wait_fixed(2)), attempt, clock)
    assert clock.monotonic() == 45.0 + 0.0 + 17.0


async def test_a_wait_of_ones_own_is_bounded(clock: VirtualClock) -> None:
    """max_wait holds for it too."""
    attempt, log = attempts(CONNECT, "never")
    with pytest.raises(ConnectError):
        await run(RetryPolicy(wait=tenacity.wait_fixed(61), max_wait=60), attempt, clock)
    assert len(log) == 1


async def _no_connection(error: BaseException) -> bool:
    return isinstance(error, ConnectError)


@pytest.mark.parametrize(
    ("retry", "tries"),
    [
        (tenacity.retry_if_exception_type(ConnectError), 3),
        (tenacity.retry_if_exception_type((ConnectError, ServerError)), 4),
        (tenacity.retry_if_not_exception_type(ConnectError), 1),
        (tenacity.retry_if_exception_message(match="no conn"), 3),
        (tenacity.retry_if_exception_type(ServerError) | tenacity.retry_if_exception_type(ConnectError), 4),
        (async_retry_if_exception(_no_connection), 3),
        (tenacity.retry_never, 1),
        (tenacity.retry_always, 4),
    ],
    ids=[*"abcdefgh"],
)
async def test_a_retry_of_ones_own(retry: Callable[..., bool], tries: int, clock: VirtualClock) -> None:
    """In the place of error.retryable; an async one is awaited."""
    attempt, log = attempts(CONNECT, CONNECT, ServerError("500", status=500), GARBLED, "never")
    with pytest.raises(TwUsageError):
        await run(RetryPolicy(retry=retry), attempt, clock)
    assert len(log) == tries


async def test_a_retry_of_ones_own_may_try_what_is_not_tried_otherwise(clock: VirtualClock) -> None:
    """A user's Auth may return another token for a 401. A garbled response may be retried more than once."""
    attempt, _ = attempts(AuthenticationError("401", status=401), GARBLED, GARBLED, "done")
    policy = RetryPolicy(retry=tenacity.retry_if_exception_type((AuthenticationError, DecodeError)))
    assert await run(policy, attempt, clock) == "done"


@pytest.mark.parametrize(
    "final",
    [
        UsageCapExceededError("capped", status=429),
        RateLimitedError("our own limiter refuses"),
        asyncio.CancelledError(),
        KeyboardInterrupt(),
        ZeroDivisionError(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("before", [(), (CONNECT,)], ids=["first", "later"])
async def test_permanent_errors_override_a_users_retry(
    before: tuple[Exception, ...], final: BaseException, clock: VirtualClock
) -> None:
    """Quota errors, our own rejections, cancellations, foreign exceptions. The user's retry= is not called."""
    attempt, log = attempts(*before, final, "never")
    with pytest.raises(type(final)) as caught:
        await run(RetryPolicy(retry=tenacity.retry_if_exception(lambda _: True)), attempt, clock)
    assert caught.value is final
    assert log == [*before, final]


async def test_a_result_overrides_a_users_retry(clock: VirtualClock) -> None:
    """retry= is called with errors: a good response is never thrown away."""
    for before in ([], [CONNECT]):
        attempt, _ = attempts(*before, "done", "never")
        assert await run(RetryPolicy(retry=tenacity.retry_always), attempt, clock) == "done"


async def test_an_exception_of_a_users_piece_is_raised(clock: VirtualClock) -> None:
    """A bug in a piece of the user's own is not hidden."""
    for policy in (RetryPolicy(stop=lambda _: 1 / 0 > 0), RetryPolicy(wait=lambda _: 1 / 0)):
        attempt, _ = attempts(CONNECT, "never")
        with pytest.raises(ZeroDivisionError):
            await run(policy, attempt, clock)


def test_a_policy_is_a_value() -> None:
    """Frozen, comparable and hashable, with tenacity's pieces too. They are equal to themselves."""
    stop, wait = tenacity.stop_after_delay(3), tenacity.wait_fixed(1)
    assert RetryPolicy(stop=stop, wait=wait) == RetryPolicy(stop=stop, wait=wait)
    assert len({RetryPolicy(stop=stop), RetryPolicy(stop=stop), RetryPolicy(), RetryPolicy(max_wait=960.0)}) == 2


async def test_a_call_that_succeeds_does_not_load_tenacity(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a failure is worth its price."""
    monkeypatch.setitem(sys.modules, "tenacity", None)
    attempt, _ = attempts("done")
    assert await run(RetryPolicy(), attempt, clock) == "done"
    attempt, _ = attempts(CONNECT)
    with pytest.raises(ConnectError):
        await run(RetryPolicy.none(), attempt, clock)


# -- Policies without sense --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keywords",
    [
        {"max_attempts": 0},
        {"max_attempts": 1.5},
        {"max_attempts": True},
        {"max_wait": -1},
        {"max_wait": math.nan},
        {"max_wait": "60"},
        {"max_wait": True},
        {"stop": 5},
        {"wait": 1.5},
        {"retry": "always"},
    ],
    ids=str,
)
def test_a_policy_without_sense_is_refused(keywords: dict[str, Any]) -> None:
    """It raises on creation, with the value."""
    ((name, value),) = keywords.items()
    with pytest.raises(ConfigurationError, match=f"{name} must be .* got {value!r}"):
        RetryPolicy(**keywords)
