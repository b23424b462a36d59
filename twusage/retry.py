"""What is retried, and how long one call may wait in all. The waiting for the app's window is ``ratelimit``'s."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Self, TypeVar

from attrs import Attribute, define, field, frozen

from twusage.clock import Clock
from twusage.errors import ConfigurationError, RateLimitedError, TwUsageError

__all__ = ["Patience", "RetryPolicy"]

T = TypeVar("T")
_FOREIGN_LIMIT = 15.0


@define
class Patience:
    """What is left of the seconds that one call may spend waiting."""

    left: float

    def spend(self, seconds: float) -> None:
        self.left -= seconds


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

    @classmethod
    def none(cls) -> Self:
        """One attempt, no waiting."""
        return cls(max_attempts=1, max_wait=0.0)

    async def run(self, attempt: Callable[[Patience], Awaitable[T]], clock: Clock) -> T:
        """Make the attempt, and again as this policy says. Raises what the last attempt raised."""
        patience = Patience(self.max_wait)
        try:
            return await attempt(patience)  # Outside tenacity, which costs as much as all the rest of a good call.
        except TwUsageError as error:
            if self.max_attempts == 1 or not _may_succeed(error):
                raise
            first = error
        return await self._again(first, attempt, patience, clock)

    async def _again(
        self, first: TwUsageError, attempt: Callable[[Patience], Awaitable[T]], patience: Patience, clock: Clock
    ) -> T:
        # Imported where it is needed: a program whose calls succeed never loads it.
        from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
        from tenacity.wait import wait_random, wait_random_exponential

        untold: list[TwUsageError] = [first]
        failures: list[TwUsageError] = []

        async def next_attempt() -> T:
            if untold:  # Tenacity has not seen the first attempt fail: it is told of it here.
                raise untold.pop()
            return await attempt(patience)

        def worth_it(error: BaseException) -> bool:
            if not isinstance(error, TwUsageError) or not _may_succeed(error):
                return False
            failures.append(error)
            return not error.retry_once or sum(failure.retry_once for failure in failures) == 1

        enough = stop_after_attempt(self.max_attempts)
        backoff = wait_random_exponential(multiplier=0.5, max=20)
        elsewhere = wait_random(_FOREIGN_LIMIT, 2 * _FOREIGN_LIMIT)

        def wait(state: RetryCallState) -> float:
            error = failures[-1]
            if isinstance(error, RateLimitedError):
                # The limiter makes everybody wait for the window. Another limit is for this call to sit out.
                return 0.0 if error.window_spent else max(error.retry_after or 0.0, elsewhere(state))
            return max(getattr(error, "retry_after", None) or 0.0, backoff(state))

        def give_up(state: RetryCallState) -> bool:
            asked = getattr(failures[-1], "retry_after", None) or 0.0
            return enough(state) or max(state.upcoming_sleep, asked) > patience.left

        async def sleep(seconds: float) -> None:
            patience.spend(seconds)
            await clock.sleep(seconds)

        # One for each call: a shared AsyncRetrying mixes up the results of concurrent calls.
        retrying = AsyncRetrying(
            retry=retry_if_exception(worth_it),
            stop=give_up,
            wait=wait,
            sleep=sleep,
            reraise=True,
        )
        return await retrying(next_attempt)


def _may_succeed(error: TwUsageError) -> bool:
    # Without a status it is our own limiter that refuses: the wait is longer than this call may wait.
    return error.retryable and not (isinstance(error, RateLimitedError) and error.status is None)
