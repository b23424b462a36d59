"""What is retried, and how long one call may wait in all. The waiting for the app's window is ``ratelimit``'s."""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Self, TypeVar
from weakref import WeakKeyDictionary

from attrs import Attribute, define, field, frozen

from twusage.clock import Clock, Wait
from twusage.errors import AuthenticationError, ConfigurationError, QuotaError, RateLimitedError, TwUsageError

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["Patience", "RetryBudget", "RetryPolicy", "budgets_of_loop"]

T = TypeVar("T")


@define
class RetryBudget:
    """What an app may spend on retries, so that its clients do not multiply an outage.

    There are ten tokens. A retry costs one; a call that succeeds gives a tenth of one back. Waiting for the app's
    window costs nothing: that is no outage.
    """

    tenths: int = 100
    """Of a token. Whole numbers, because ten times 0.1 is less than 1."""

    def spend(self) -> bool:
        """Pay for one retry, if there is enough left."""
        enough = self.tenths >= 10
        self.tenths -= 10 * enough
        return enough

    def earn(self) -> None:
        """A call has succeeded."""
        if self.tenths < 100:
            self.tenths += 1


@define
class Patience:
    """What one call may still spend: seconds of waiting, and its app's retries."""

    left: float
    budget: RetryBudget | None = None
    """``None`` where nobody has said yet whose: then it is this call's alone."""

    def spend(self, seconds: float) -> None:
        self.left -= seconds

    def spend_a_retry(self) -> bool:
        """Pay for one, if there is enough left."""
        if self.budget is None:
            self.budget = RetryBudget()
        return self.budget.spend()

    def earn(self) -> None:
        """The call has succeeded."""
        if self.budget is not None:
            self.budget.earn()


_OF_LOOP: WeakKeyDictionary[asyncio.AbstractEventLoop, defaultdict[str, RetryBudget]] = WeakKeyDictionary()


def budgets_of_loop() -> defaultdict[str, RetryBudget]:
    """The budgets of the apps on the running loop, by the key of the app: all its clients share one."""
    return _OF_LOOP.setdefault(asyncio.get_running_loop(), defaultdict(RetryBudget))


def _is_count(_: object, attribute: Attribute[Any], value: object) -> None:
    if type(value) is not int or value < 1:
        raise ConfigurationError(f"{attribute.name} must be an int of at least 1, got {value!r}")


def _is_seconds(_: object, attribute: Attribute[Any], value: Any) -> None:
    if type(value) not in {int, float} or not value >= 0:  # not: a NaN is no number of seconds
        raise ConfigurationError(f"{attribute.name} must be a number of seconds, 0 or more, got {value!r}")


def _is_piece(_: object, attribute: Attribute[Any], value: object) -> None:
    if value is not None and not callable(value):
        raise ConfigurationError(f"{attribute.name} must be a tenacity {attribute.name} or None, got {value!r}")


@frozen
class RetryPolicy:
    """How often a call is tried, and how long it may wait.

    Retried are connections that fail or break, timeouts, 408 and 5xx, and the 429 of the 15-minute window; once more,
    answers that are garbled or empty. Never retried is what another try cannot mend, above all a ``QuotaError``.

    Between tries it waits a random time of up to 0.5 s, then 1 s, 2 s and so on up to 20 s, or as long as the server
    asks. The clients of an app share a budget of ten retries, of which ten calls that succeed give one back: in an
    outage, each call soon makes one attempt only.

    ``stop``, ``wait`` and ``retry`` take tenacity's own objects, or any function of a ``RetryCallState``.
    """

    max_attempts: int = field(default=4, kw_only=True, validator=_is_count)
    """Requests that one call may send."""
    max_wait: float = field(default=960.0, kw_only=True, validator=_is_seconds)
    """Seconds that one call may spend waiting, for the window and between tries. A wait that would exceed it is not
    begun: the call raises at once, a ``RateLimitedError`` with its ``retry_at``. The default outlasts one window."""

    stop: Callable[[RetryCallState], bool] | None = field(default=None, kw_only=True, validator=_is_piece)
    """A tenacity ``stop`` of your own, besides the two limits above. Its time is the client's clock's, and counts from
    the call's beginning."""
    wait: Callable[[RetryCallState], float] | None = field(default=None, kw_only=True, validator=_is_piece)
    """A tenacity ``wait`` of your own, in the place of the random backoff. What the server asks for still counts."""
    retry: Callable[[RetryCallState], bool | Awaitable[bool]] | None = field(
        default=None, kw_only=True, validator=_is_piece
    )
    """A tenacity ``retry`` of your own, sync or async, in the place of ``error.retryable``. It is asked of a
    ``TwUsageError`` only, and never of a ``QuotaError``."""

    @classmethod
    def none(cls) -> Self:
        """One attempt, no waiting."""
        return cls(max_attempts=1, max_wait=0.0)

    async def run(
        self,
        attempt: Callable[[Patience], Awaitable[T]],
        clock: Clock,
        *,
        on_wait: Callable[[Wait], None] | None = None,
    ) -> T:
        """Make the attempt, and again as this policy says. Raises what the last attempt raised.

        Args:
            attempt: one attempt. It is given the patience that is left, spends of it what it waits itself, and tells it
                whose budget pays for the retries.
            clock: what the waits are measured by.
            on_wait: called when a wait between two attempts begins.
        """
        patience, since = Patience(self.max_wait), clock.monotonic()
        try:
            result = await attempt(patience)  # Outside tenacity, which costs as much as all the rest of a good call.
        except TwUsageError as error:
            if self.max_attempts == 1:
                raise
            first = error
        else:
            patience.earn()
            return result
        return await _Retries(self, first, patience, clock, since, on_wait).run(attempt)


@define(eq=False)
class _Retries:
    """The attempts of one call after its first has failed. Each call has its own: nothing here is shared."""

    policy: RetryPolicy
    error: TwUsageError
    """What the newest attempt raised."""
    patience: Patience
    clock: Clock
    since: float
    on_wait: Callable[[Wait], None] | None
    garbled: int = 0

    async def run(self, attempt: Callable[[Patience], Awaitable[T]]) -> T:
        # Imported where it is needed: a program whose calls succeed never loads it.
        from tenacity import AsyncRetrying

        untold = [self.error]

        async def next_attempt() -> T:
            if untold:  # Tenacity has not seen the first attempt fail: it is told of it here.
                raise untold.pop()
            result = await attempt(self.patience)
            self.patience.earn()
            return result

        return await AsyncRetrying(
            retry=self._worth_it, stop=self._give_up, wait=self._wait, sleep=self._sleep, reraise=True
        )(next_attempt)

    # Tenacity asks these three after each attempt, in this order.

    async def _worth_it(self, state: RetryCallState) -> bool:
        # Tenacity looks at the system's clock, and does not know of the first attempt: its stop_after_delay would wait
        # for real seconds, and begin to count too late.
        state.start_time, state.outcome_timestamp = self.since, self.clock.monotonic()
        error = state.outcome and state.outcome.exception()
        if not isinstance(error, TwUsageError) or isinstance(error, QuotaError) or _refused_by_us(error):
            return False  # a CancelledError among others, whatever a piece of the user's would say to it
        self.error = error
        self.garbled += error.retry_once
        if self.policy.retry is not None:
            verdict = self.policy.retry(state)
            return await verdict if inspect.isawaitable(verdict) else verdict
        return error.retryable and not (error.retry_once and self.garbled > 1)

    def _wait(self, state: RetryCallState) -> float:
        from tenacity.wait import wait_random_exponential

        asked = self._asked
        if self._window_spent and asked != 0.0:
            return 0.0  # It is the limiter that makes everybody wait for the window.
        if self._refused:
            return 0.0  # Another token is at hand.
        least, base = 0.0, 0.5
        if self._window_spent:  # Its reset is already past, and says nothing.
            least = 1.0
        elif isinstance(self.error, RateLimitedError):  # Another limit was met, of which nothing is known.
            least = base = 15.0
        backoff = self.policy.wait or wait_random_exponential(multiplier=base, max=40 * base)
        return max(asked or 0.0, least + backoff(state))

    def _give_up(self, state: RetryCallState) -> bool:
        if state.attempt_number >= self.policy.max_attempts or (self.policy.stop and self.policy.stop(state)):
            return True
        if max(state.upcoming_sleep, self._asked or 0.0) > self.patience.left:
            return True  # Never sleep in vain.
        # No outage is behind these two, and all the calls of an app meet them at once.
        return not (self._window_spent or self._refused or self.patience.spend_a_retry())

    @property
    def _refused(self) -> bool:
        return isinstance(self.error, AuthenticationError) and self.error.retry_once

    @property
    def _window_spent(self) -> bool:
        return isinstance(self.error, RateLimitedError) and self.error.window_spent

    @property
    def _asked(self) -> float | None:
        """Seconds that the server asks to wait: 0 for an instant that is past, ``None`` where it does not say."""
        return getattr(self.error, "retry_after", None)

    async def _sleep(self, seconds: float) -> None:
        self.patience.spend(seconds)
        if seconds and self.on_wait is not None:
            until = dt.datetime.fromtimestamp(self.clock.time() + seconds, dt.UTC)
            self.on_wait(Wait(seconds, until, f"the last attempt failed ({type(self.error).__name__})"))
        await self.clock.sleep(seconds)


def _refused_by_us(error: TwUsageError) -> bool:
    # Without a status it is our own limiter that refuses: the wait is longer than this call may wait.
    return isinstance(error, RateLimitedError) and error.status is None
