"""UsageCache: young results (``max_age``), and one request for concurrent equal calls. It sends nothing itself."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Coroutine
from typing import Any

from attrs import frozen

from twusage.clock import Clock
from twusage.errors import ClientClosedError, TwUsageError
from twusage.models import Usage

__all__ = ["UsageCache"]

# More than one program requests; bounds the memory of a program that tries every combination.
_CACHE_SIZE = 16


@frozen
class _CacheEntry:
    usage: Usage
    monotonic: float
    wall: float


class UsageCache:
    """The latest result of each request and the running calls, by URL. Used on one event loop at a time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: dict[str, _CacheEntry] = {}
        self._flights: dict[str, _SingleFlight] = {}

    async def get_or_call(self, url: str, max_age: float, call: Callable[[], Coroutine[Any, Any, Usage]]) -> Usage:
        """Return a cached, a running or a new call's result."""
        entry = self._entries.get(url)
        if entry is not None and self._age(entry) <= max_age:
            await asyncio.sleep(0)  # A polling loop lets other tasks run, and can be cancelled.
            return entry.usage
        flight = self._flights.get(url)
        if flight is None:
            flight = self._flights[url] = _SingleFlight(call())
        try:
            return await flight.wait()
        finally:
            if flight.has_no_waiters and self._flights.get(url) is flight:
                del self._flights[url]

    def store(self, url: str, usage: Usage) -> None:
        """Store the result as the latest of this URL."""
        self._entries.pop(url, None)  # so that the newest is last
        self._entries[url] = _CacheEntry(usage, self._clock.monotonic(), self._clock.time())
        if len(self._entries) > _CACHE_SIZE:
            del self._entries[next(iter(self._entries))]

    def forget_calls(self) -> None:
        """Drop the calls of an event loop that is closed; results stay."""
        self._flights = {}

    async def cancel_calls(self) -> None:
        """Cancel the shared calls under way, and wait until they have ended."""
        if self._flights:  # Without any, no event loop is needed.
            await asyncio.gather(*(flight.cancel() for flight in self._flights.values()))

    def _age(self, entry: _CacheEntry) -> float:
        # The monotonic clock stands still during a suspend; the wall clock may be set back.
        return max(self._clock.monotonic() - entry.monotonic, self._clock.time() - entry.wall)


class _SingleFlight:
    """One call with several waiters. It is cancelled when its last waiter is."""

    def __init__(self, call: Coroutine[Any, Any, Usage]) -> None:
        self._task = asyncio.create_task(call)
        self._waiters = 0

    @property
    def has_no_waiters(self) -> bool:
        """True if the call has ended, or its last waiter was cancelled."""
        return not self._waiters

    async def wait(self) -> Usage:
        """Return or raise what the call did."""
        self._waiters += 1
        try:
            await asyncio.wait([self._task])  # Unlike a bare await, this does not cancel the task with its waiter.
        finally:
            self._waiters -= 1
            if not self._waiters:
                self._task.cancel()
        if self._task.cancelled():
            raise ClientClosedError("the client was closed during this call")
        error = self._task.exception()
        if isinstance(error, TwUsageError):
            # A copy each: one exception raised by 1,000 waiters would collect 1,000 tracebacks.
            raise copy.copy(error).with_traceback(error.__traceback__)
        if error is not None:
            raise error  # Not ours: it may not be copyable.
        return self._task.result()

    async def cancel(self) -> None:
        """Cancel the call, and wait until it has ended."""
        self._task.cancel()
        await asyncio.wait([self._task])
