"""UsageGuard: lets reads pass while the monthly cap allows them. Reserves and counts in one step."""

from __future__ import annotations

import copy
import math
from collections import deque
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Literal

from attrs import define, field, frozen

from twusage.client import UsageClient
from twusage.clock import Clock
from twusage.errors import (
    BudgetExceededError,
    ClientClosedError,
    ConfigurationError,
    InvalidRequestError,
    QuotaError,
    TwUsageError,
)
from twusage.models import Usage
from twusage.monitor.cycle import BillingCycle, cycle_of

__all__ = ["Spending", "UsageGuard"]

_A_DAY = 86_400.0
# Seconds without a request after a failed one, because all callers of a bot would send one.
_PAUSE = 60.0


@define
class _Ledger:
    """Counts the guard's reads that the API's count may not include."""

    total: int = 0
    _settled: deque[tuple[int, int]] = field(factory=deque)

    def settle(self, reads: int, now: float) -> None:
        """Mark reads, which are in the total already, as made by now."""
        second = math.ceil(now)  # One entry a second bounds the ledger, however long the API fails.
        if self._settled and self._settled[-1][0] == second:
            reads += self._settled.pop()[1]
        self._settled.append((second, reads))

    def forget(self, until: float) -> None:
        """Drop the reads that were settled at or before that time."""
        while self._settled and self._settled[0][0] <= until:
            self.total -= self._settled.popleft()[1]


class Spending:
    """The reads that one block has reserved. Made by ``UsageGuard.spending``."""

    def __init__(self, reads: int, ledger: _Ledger) -> None:
        self._reads = reads
        self._ledger: _Ledger | None = ledger

    @property
    def reads(self) -> int:
        """Posts that count for this block: those reserved, or those settled."""
        return self._reads

    def settle(self, reads: int) -> None:
        """Count this many posts instead of those reserved. The last call counts.

        More than reserved is allowed, because those posts have already been read; later callers are rejected sooner.

        Raises:
            InvalidRequestError: not an int of at least 0, or the block has ended.
        """
        _check_reads(reads)
        if self._ledger is None:
            raise InvalidRequestError("this block has ended and its reads are counted; settle inside the block")
        self._ledger.total += reads - self._reads
        self._reads = reads

    def _close(self, now: float) -> None:
        assert self._ledger is not None  # closed once, by the guard
        self._ledger.settle(self._reads, now)
        self._ledger = None


@frozen
class _Seen:
    """The newest response, and when it arrived."""

    usage: Usage
    cycle: BillingCycle | None
    monotonic: float
    ends: float
    """When its billing cycle ends, in epoch seconds."""

    def age(self, clock: Clock) -> float:
        """Seconds since it arrived."""
        # The monotonic clock stands still while the machine sleeps; the wall clock may be set back.
        return max(clock.monotonic() - self.monotonic, clock.time() - self.usage.fetched_at.timestamp())


class _Block(AbstractAsyncContextManager[Spending]):
    """What ``UsageGuard.spending`` returns. A class, because ``asynccontextmanager`` costs 5 µs more."""

    def __init__(self, guard: UsageGuard, reads: int) -> None:
        self._guard = guard
        self._reads = reads

    async def __aenter__(self) -> Spending:
        self._spending = await self._guard._reserve(self._reads)  # noqa: SLF001 - a class of this module
        return self._spending

    async def __aexit__(
        self, error: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._spending._close(self._guard._clock.monotonic())  # noqa: SLF001 - classes of this module


class UsageGuard:
    """Rejects reads that would exceed the project's monthly cap.

    ::

        guard = UsageGuard(client)
        async with guard.spending(100) as spending:  # at most 100 posts
            posts = await search(...)
            spending.settle(len(posts))

    Guards do not share their reservations: create one for all callers of an event loop.

    Args:
        client: fetches the usage; concurrent callers share one request.
        headroom: posts to leave for other programs of the project.
        max_age: seconds for which a response is used before the next request.
        stale_after: seconds for which an old response is used while requests fail.
        lag: seconds by which the API's count may be late. Must be at least the client's ``timeout``.
        when_unknown: ``"deny"`` or ``"allow"`` reads while the cap or the count is unknown.

    Raises:
        ConfigurationError: an argument is wrong.
    """

    def __init__(
        self,
        client: UsageClient,
        *,
        headroom: int = 0,
        max_age: float = 300.0,
        stale_after: float = 3600.0,
        lag: float = 900.0,
        when_unknown: Literal["deny", "allow"] = "deny",
    ) -> None:
        if type(headroom) is not int or headroom < 0:
            raise ConfigurationError(f"headroom must be an int of at least 0, got {headroom!r}")
        for name, value in (("max_age", max_age), ("stale_after", stale_after), ("lag", lag)):
            if type(value) not in {int, float} or not value >= 0:
                raise ConfigurationError(f"{name} must be a number of seconds, 0 or more, got {value!r}")
        if when_unknown not in {"deny", "allow"}:
            raise ConfigurationError(f"when_unknown must be 'deny' or 'allow', got {when_unknown!r}")
        self._client = client
        self._clock = client.clock
        self._headroom = headroom
        self._max_age = max_age
        self._stale_after = stale_after
        self._unconfirmed_for = max_age + lag
        self._allow_unknown = when_unknown == "allow"
        self._ledger = _Ledger()
        self._seen: _Seen | None = None
        self._failure: TwUsageError | None = None
        self._failed_at = 0.0

    def spending(self, reads: int) -> AbstractAsyncContextManager[Spending]:
        """Reserve posts for a block. Without ``settle``, all of them count, even if the block fails.

        Raises:
            BudgetExceededError: the cap does not allow these reads, or it is unknown; nothing is reserved.
            InvalidRequestError: ``reads`` is not an int of at least 0.
            QuotaError: the API rejects the request for the usage, because the paid reads are used up.
            ConfigurationError: the client cannot be used on this event loop.
            ClientClosedError: the client is closed.
        """
        return _Block(self, reads)

    async def spend(self, reads: int) -> None:
        """Count posts that are read next, or raise as ``spending`` does."""
        spending = await self._reserve(reads)
        spending._close(self._clock.monotonic())  # noqa: SLF001 - a class of this module

    async def _reserve(self, reads: int) -> Spending:
        _check_reads(reads)
        seen = await self._latest()
        # No await from here to the reservation: concurrent callers would all pass on one count.
        self._check(reads, seen)
        self._ledger.total += reads
        return Spending(reads, self._ledger)

    async def remaining(self) -> int | None:
        """Posts that a caller may reserve now, at least 0. ``None`` if unknown. Raises as ``spending`` does."""
        left = self._left(await self._latest())
        return None if left is None else max(0, left)

    def _left(self, seen: _Seen | None) -> int | None:
        if seen is None or seen.usage.project_cap is None or seen.usage.project_usage is None:
            return None
        return seen.usage.project_cap - self._headroom - seen.usage.project_usage - self._ledger.total

    def _check(self, reads: int, seen: _Seen | None) -> None:
        left = self._left(seen)
        if left is None:
            if not self._allow_unknown:
                raise self._unknown(reads, seen)
        elif reads > left:
            assert seen is not None  # or nothing would be known
            raise self._rejection(reads, left, seen.cycle)

    def _unknown(self, reads: int, seen: _Seen | None) -> BudgetExceededError:
        cause = self._failure if seen is None else None
        why = "the response has no cap or no count" if cause is None else f"{type(cause).__name__}: {cause}"
        error = BudgetExceededError(
            f"{reads} reads refused: the project's usage is unknown ({why})",
            requested=reads,
            retryable=cause is not None and cause.retryable,
            retry_at=cause and cause.retry_at,
        )
        error.__cause__ = cause
        return error

    def _rejection(self, reads: int, left: int, cycle: BillingCycle | None) -> BudgetExceededError:
        remaining, unconfirmed = max(0, left), self._ledger.total
        message = f"{reads} reads refused: {remaining} left in this billing cycle"
        if reads <= left + unconfirmed:
            message += f", while {unconfirmed} reads of this program are unconfirmed; retry later"
            return BudgetExceededError(message, requested=reads, remaining=remaining, retryable=True)
        resets_at = None if cycle is None else cycle.resets_at
        message += "" if resets_at is None else f", which resets at {resets_at.isoformat(' ', 'minutes')}"
        return BudgetExceededError(message, requested=reads, remaining=remaining, retry_at=resets_at)

    async def _latest(self) -> _Seen | None:
        """The newest response that counts, or ``None``."""
        if self._failure is None or self._clock.monotonic() - self._failed_at >= _PAUSE:
            # A response of yesterday may be of an ended cycle: cycles reset at 00:00 UTC.
            max_age = min(self._max_age, self._clock.time() % _A_DAY)
            try:
                usage = await self._client.get_usage(max_age=max_age)
            except (ClientClosedError, ConfigurationError):
                raise  # No later call can succeed.
            except TwUsageError as error:
                self._failure, self._failed_at = error.with_traceback(None), self._clock.monotonic()
            else:
                self._failure = None
                self._take(usage)
        if isinstance(self._failure, QuotaError):
            raise copy.copy(self._failure)  # One exception raised by many callers would collect their tracebacks.
        seen = self._seen
        if seen is None or self._clock.time() >= seen.ends:
            return None
        return seen if self._failure is None or seen.age(self._clock) <= self._stale_after else None

    def _take(self, usage: Usage) -> None:
        if self._seen is not None and usage is self._seen.usage:
            return
        # Another caller of the client may have fetched it, up to max_age ago.
        age = max(0.0, self._clock.time() - usage.fetched_at.timestamp())
        arrived = self._clock.monotonic() - age
        cycle = cycle_of(usage)
        ends = math.inf if cycle is None else cycle.resets_at.timestamp()
        self._seen = _Seen(usage, cycle, arrived, ends)
        self._ledger.forget(arrived - self._unconfirmed_for)


def _check_reads(reads: object) -> None:
    if type(reads) is not int or reads < 0:
        raise InvalidRequestError(f"reads must be an int of at least 0, got {reads!r}")
