"""RetryPolicy: what is retried, and how long one call may wait. Waiting for the app's window is in ``limiter``."""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakKeyDictionary

from attrs import Attribute, define, field, frozen

from twusage.activity import Activity
from twusage.clock import Clock, Wait
from twusage.errors import AuthenticationError, ConfigurationError, QuotaError, RateLimitedError, TwUsageError

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["CallBudget", "RetryPolicy", "RetryTokenBucket", "retry_budgets_for_running_loop"]


@define
class RetryTokenBucket:
    """Retry token bucket of one app: prevents retry storms during an outage.

    It holds ten tokens. A retry takes one, a successful call gives back a tenth. Waiting for the app's window is free,
    because an exhausted window is not an outage.
    """

    tokens_x10: int = 100
    """Tenths of a token: integers, because ten times 0.1 is less than 1."""

    def take(self) -> bool:
        """Take one token, if there is one."""
        enough = self.tokens_x10 >= 10
        self.tokens_x10 -= 10 * enough
        return enough

    def record_success(self) -> None:
        """Give back a tenth of a token after a successful call."""
        if self.tokens_x10 < 100:
            self.tokens_x10 += 1


@define
class CallBudget:
    """Remaining wait time and retry tokens of one call."""

    wait_left: float
    """Seconds that the call may still spend waiting."""
    retry_tokens: RetryTokenBucket | None = None
    """The app's bucket; ``None`` until the app is known, then a bucket of this call's own."""
    activity: Activity | None = None
    """Counts the waits of the client."""

    def charge_wait(self, seconds: float) -> None:
        """Subtract seconds that the call has waited."""
        self.wait_left -= seconds
        if self.activity is not None:
            self.activity.record_wait(seconds)

    def take_retry_token(self) -> bool:
        """Take one token for a retry, if there is one."""
        if self.retry_tokens is None:
            self.retry_tokens = RetryTokenBucket()
        return self.retry_tokens.take()

    def record_success(self) -> None:
        """Give back a tenth of a token after a successful call."""
        if self.retry_tokens is not None:
            self.retry_tokens.record_success()


_budgets_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, defaultdict[str, RetryTokenBucket]] = WeakKeyDictionary()


def retry_budgets_for_running_loop() -> defaultdict[str, RetryTokenBucket]:
    """Return the running loop's retry token buckets by app key. All clients of an app share one."""
    return _budgets_by_loop.setdefault(asyncio.get_running_loop(), defaultdict(RetryTokenBucket))


def _check_positive_int(_: object, attribute: Attribute[Any], value: object) -> None:
    if type(value) is not int or value < 1:
        raise ConfigurationError(f"{attribute.name} must be an int of at least 1, got {value!r}")


def _check_seconds(_: object, attribute: Attribute[Any], value: Any) -> None:
    if type(value) not in {int, float} or not value >= 0:  # not <, because all comparisons with NaN are false
        raise ConfigurationError(f"{attribute.name} must be a number of seconds, 0 or more, got {value!r}")


def _check_tenacity_callable(_: object, attribute: Attribute[Any], value: object) -> None:
    if value is not None and not callable(value):
        raise ConfigurationError(f"{attribute.name} must be a tenacity {attribute.name} or None, got {value!r}")


@frozen
class RetryPolicy:
    """How often a call is attempted, and how long it may wait.

    Retried are failed and broken connections, timeouts, 408 and 5xx, and the 429 of the 15-minute window. Garbled and
    empty responses are retried once. Errors that a retry cannot fix are never retried, above all ``QuotaError``.

    Between attempts it waits a random time of up to 0.5 s, then 1 s, 2 s and so on up to 20 s, or as long as the server
    requests. The clients of an app share a budget of ten retries, and ten successful calls restore one: in an outage,
    each call soon makes a single attempt.

    ``stop``, ``wait`` and ``retry`` take tenacity objects, or any function of a ``RetryCallState``.
    """

    max_attempts: int = field(default=4, kw_only=True, validator=_check_positive_int)
    """Requests that one call may send."""
    max_wait: float = field(default=960.0, kw_only=True, validator=_check_seconds)
    """Seconds that one call may spend waiting, for the window and between attempts. If a wait would exceed it, the call
    raises immediately, a ``RateLimitedError`` with its ``retry_at``. The default is longer than one window."""

    stop: Callable[[RetryCallState], bool] | None = field(
        default=None, kw_only=True, validator=_check_tenacity_callable
    )
    """A tenacity ``stop``, in addition to the two limits above. It receives times of the client's clock, counted from
    the beginning of the call."""
    wait: Callable[[RetryCallState], float] | None = field(
        default=None, kw_only=True, validator=_check_tenacity_callable
    )
    """A tenacity ``wait`` instead of the random backoff. A longer wait that the server requests takes precedence."""
    retry: Callable[[RetryCallState], bool | Awaitable[bool]] | None = field(
        default=None, kw_only=True, validator=_check_tenacity_callable
    )
    """A tenacity ``retry``, sync or async, instead of ``error.retryable``. It is called only for a ``TwUsageError``
    other than ``QuotaError``."""

    @classmethod
    def none(cls) -> Self:
        """Return a policy of one attempt and no waiting."""
        return cls(max_attempts=1, max_wait=0.0)

    async def retries(
        self,
        first_failure: TwUsageError,
        budget: CallBudget,
        clock: Clock,
        *,
        since: float,
        on_wait: Callable[[Wait], None] | None = None,
    ) -> AsyncIterator[AbstractContextManager[Any]]:
        """Return the retries of a failed call, to iterate. Each comes after its wait.

        ::

            async for retry in await policy.retries(error, budget, clock, since=began):
                with retry:
                    usage = await attempt()

        The iteration raises the latest error when this policy stops, and ends after an attempt that succeeded.

        Args:
            first_failure: what the first attempt raised.
            budget: the remaining wait time and retry tokens of the call.
            clock: measures the waits.
            since: when the call began, by ``clock.monotonic()``.
            on_wait: called when a wait between two attempts begins.
        """
        if self.max_attempts == 1:
            raise first_failure
        # Imported here: a program whose calls succeed never loads tenacity.
        from tenacity import AsyncRetrying

        loop = _RetryLoop(self, first_failure, budget, clock, since, on_wait)
        retrying = AsyncRetrying(
            retry=loop.should_retry, stop=loop.should_stop, wait=loop.wait, sleep=loop.sleep, reraise=True
        )
        retries = aiter(retrying)
        attempt = await anext(retries)  # Replay the first failure, so that tenacity counts it as attempt 1.
        attempt.retry_state.set_exception((type(first_failure), first_failure, first_failure.__traceback__))
        return _Started(retries)


@frozen
class _Started:
    """A started iteration: ``async for`` over AsyncRetrying itself would start it again."""

    retries: AsyncIterator[AbstractContextManager[Any]]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AbstractContextManager[Any]:
        return await anext(self.retries)


@define(eq=False)
class _RetryLoop:
    """Tenacity's callables for the retries of one call. Not shared between calls."""

    policy: RetryPolicy
    error: TwUsageError
    """The error of the latest attempt."""
    budget: CallBudget
    clock: Clock
    since: float
    on_wait: Callable[[Wait], None] | None
    retry_once_count: int = 0

    # Tenacity calls these three after each attempt, in this order.

    async def should_retry(self, state: RetryCallState) -> bool:
        # Tenacity measures by the system clock, and without the first attempt: stop_after_delay would count real
        # seconds, from a later start.
        state.start_time, state.outcome_timestamp = self.since, self.clock.monotonic()
        error = state.outcome and state.outcome.exception()
        if not isinstance(error, TwUsageError) or isinstance(error, QuotaError) or _is_local_rejection(error):
            return False  # A user's retry callable must never see a CancelledError.
        self.error = error
        self.retry_once_count += error.retry_once
        if self.policy.retry is not None:
            verdict = self.policy.retry(state)
            return await verdict if inspect.isawaitable(verdict) else verdict
        return error.retryable and not (error.retry_once and self.retry_once_count > 1)

    def wait(self, state: RetryCallState) -> float:
        from tenacity.wait import wait_random_exponential

        retry_after = self._server_retry_after
        if self._is_window_exhausted and retry_after != 0.0:
            return 0.0  # The limiter waits for the window.
        if self._has_new_token:
            return 0.0
        least, base = 0.0, 0.5
        if self._is_window_exhausted:  # Its reset is in the past.
            least = 1.0
        elif isinstance(self.error, RateLimitedError):  # An unknown limit, not the window.
            least = base = 15.0
        backoff = self.policy.wait or wait_random_exponential(multiplier=base, max=40 * base)
        return max(retry_after or 0.0, least + backoff(state))

    def should_stop(self, state: RetryCallState) -> bool:
        if state.attempt_number >= self.policy.max_attempts or (self.policy.stop and self.policy.stop(state)):
            return True
        if max(state.upcoming_sleep, self._server_retry_after or 0.0) > self.budget.wait_left:
            return True  # The wait would exceed max_wait: fail now, not after sleeping.
        # Exhausted windows and renewed tokens are not outages, and hit all concurrent calls at the same time: free.
        return not (self._is_window_exhausted or self._has_new_token or self.budget.take_retry_token())

    @property
    def _has_new_token(self) -> bool:
        return isinstance(self.error, AuthenticationError) and self.error.retry_once

    @property
    def _is_window_exhausted(self) -> bool:
        return isinstance(self.error, RateLimitedError) and self.error.window_exhausted

    @property
    def _server_retry_after(self) -> float | None:
        """Return the seconds that the server requests to wait. 0 if its instant is past, ``None`` without one."""
        return getattr(self.error, "retry_after", None)

    async def sleep(self, seconds: float) -> None:
        self.budget.charge_wait(seconds)
        if seconds and self.on_wait is not None:
            until = dt.datetime.fromtimestamp(self.clock.time() + seconds, dt.UTC)
            self.on_wait(Wait(seconds, until, f"the last attempt failed ({type(self.error).__name__})"))
        await self.clock.sleep(seconds)


def _is_local_rejection(error: TwUsageError) -> bool:
    # Without a status, the limiter rejected the call before sending: the wait exceeds max_wait.
    return isinstance(error, RateLimitedError) and error.status is None
