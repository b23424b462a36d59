"""What is retried, and how long one call may wait in all. The waiting for the app's window is ``ratelimit``'s."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Self, TypeVar
from weakref import WeakKeyDictionary

from attrs import Attribute, define, field, frozen

from twusage.clock import Clock, Wait
from twusage.errors import ConfigurationError, QuotaError, RateLimitedError, TwUsageError

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["Patience", "RetryBudget", "RetryPolicy", "budget_of"]

T = TypeVar("T")
# Seconds to stay away from a limit that is not the window's, of which nothing is known.
_FOREIGN_LIMIT = 15.0


@define
class RetryBudget:
    """What an app may spend on retries, so that its clients do not multiply an outage.

    A retry costs one token; a call that succeeds gives a tenth of one back, up to ten. Waiting for the app's window
    costs nothing: that is no outage.
    """

    tokens: float = 10.0

    def spend(self) -> bool:
        """Pay for one retry, if there is enough left."""
        enough = self.tokens >= 1.0
        self.tokens -= enough
        return enough

    def earn(self) -> None:
        """A call has succeeded."""
        self.tokens = min(10.0, self.tokens + 0.1)


@define
class Patience:
    """What one call may still spend: seconds of waiting, and its app's retries."""

    left: float
    budget: RetryBudget = field(factory=RetryBudget)

    def spend(self, seconds: float) -> None:
        self.left -= seconds


_OF_LOOP: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, RetryBudget]] = WeakKeyDictionary()


def budget_of(app: str) -> RetryBudget:
    """The budget that all clients of an app share on the running loop."""
    return _OF_LOOP.setdefault(asyncio.get_running_loop(), {}).setdefault(app, RetryBudget())


def _at_least(least: int, *types: type) -> Callable[[object, Attribute[Any], Any], None]:
    def check(_: object, attribute: Attribute[Any], value: Any) -> None:
        if type(value) not in types or not value >= least:
            raise ConfigurationError(f"{attribute.name} must be a number of at least {least}, got {value!r}")

    return check


@frozen
class RetryPolicy:
    """How often a call is tried, and how long it may wait.

    Retried are connections that fail or break, timeouts, 408 and 5xx, and the 429 of the 15-minute window; once more,
    answers that are garbled or empty. Never retried is what another try cannot mend, above all a ``QuotaError``.

    Between tries it waits a random time of up to 0.5 s, then 1 s, 2 s and so on up to 20 s, or as the server asks.
    """

    max_attempts: int = field(default=4, kw_only=True, validator=_at_least(1, int))
    """Requests that one call may send."""
    max_wait: float = field(default=960.0, kw_only=True, validator=_at_least(0, int, float))
    """Seconds that one call may spend waiting, for the window and between tries. A wait that would exceed it is not
    begun: the call raises at once, a ``RateLimitedError`` with its ``retry_at``. The default outlasts one window."""

    stop: Callable[[RetryCallState], bool] | None = field(default=None, kw_only=True)
    """A tenacity ``stop`` of your own, besides the two limits above."""
    wait: Callable[[RetryCallState], float] | None = field(default=None, kw_only=True)
    """A tenacity ``wait`` of your own, in the place of the random backoff. What the server asks for still counts."""
    retry: Callable[[RetryCallState], bool] | None = field(default=None, kw_only=True)
    """A tenacity ``retry`` of your own, in the place of ``error.retryable``. A ``QuotaError`` is never retried."""

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
        patience = Patience(self.max_wait)
        try:
            result = await attempt(patience)  # Outside tenacity, which costs as much as all the rest of a good call.
        except TwUsageError as error:
            if self.max_attempts == 1:
                raise
            first = error
        else:
            patience.budget.earn()
            return result
        return await _Retries(self, first, patience, clock, on_wait).run(attempt)


@define(eq=False)
class _Retries:
    """The attempts of one call after its first has failed. Each call has its own: nothing here is shared."""

    policy: RetryPolicy
    first: TwUsageError
    patience: Patience
    clock: Clock
    on_wait: Callable[[Wait], None] | None
    error: TwUsageError | None = None
    garbled: int = 0

    async def run(self, attempt: Callable[[Patience], Awaitable[T]]) -> T:
        # Imported where it is needed: a program whose calls succeed never loads it.
        from tenacity import AsyncRetrying

        untold = [self.first]

        async def next_attempt() -> T:
            if untold:  # Tenacity has not seen the first attempt fail: it is told of it here.
                raise untold.pop()
            result = await attempt(self.patience)
            self.patience.budget.earn()
            return result

        return await AsyncRetrying(
            retry=self._worth_it, stop=self._give_up, wait=self._wait, sleep=self._sleep, reraise=True
        )(next_attempt)

    def _worth_it(self, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        if not isinstance(error, TwUsageError) or isinstance(error, QuotaError) or _refused_by_us(error):
            return False
        self.error = error
        self.garbled += error.retry_once
        if self.policy.retry is not None:
            return self.policy.retry(state)
        return error.retryable and not (error.retry_once and self.garbled > 1)

    def _wait(self, state: RetryCallState) -> float:
        from tenacity.wait import wait_random, wait_random_exponential

        asked = self._asked()
        backoff = self.policy.wait or wait_random_exponential(multiplier=0.5, max=20)
        if not isinstance(self.error, RateLimitedError):
            return max(asked, backoff(state))
        if not self.error.window_spent:
            return max(asked, wait_random(_FOREIGN_LIMIT, 2 * _FOREIGN_LIMIT)(state))
        # The limiter makes everybody wait for the window. A reset that is already past says nothing: back off as well.
        return 0.0 if asked else backoff(state)

    def _give_up(self, state: RetryCallState) -> bool:
        if state.attempt_number >= self.policy.max_attempts or (self.policy.stop and self.policy.stop(state)):
            return True
        if max(state.upcoming_sleep, self._asked()) > self.patience.left:
            return True  # Never sleep in vain.
        return not isinstance(self.error, RateLimitedError) and not self.patience.budget.spend()

    def _asked(self) -> float:
        """Seconds that the server asks to wait."""
        return getattr(self.error, "retry_after", None) or 0.0

    async def _sleep(self, seconds: float) -> None:
        self.patience.spend(seconds)
        if seconds and self.on_wait is not None:
            until = dt.datetime.fromtimestamp(self.clock.time() + seconds, dt.UTC)
            self.on_wait(Wait(seconds, until, f"the last attempt failed ({type(self.error).__name__})"))
        await self.clock.sleep(seconds)


def _refused_by_us(error: TwUsageError) -> bool:
    # Without a status it is our own limiter that refuses: the wait is longer than this call may wait.
    return isinstance(error, RateLimitedError) and error.status is None
