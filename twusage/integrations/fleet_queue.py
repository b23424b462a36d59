"""The waiting calls of one process whose window is in a store.

While the store is unavailable, they use a local limiter.
The store is ``redis.RedisRateLimiter``'s; the rules of the window are ``fleet.FleetWindow``'s.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, Self

from attrs import define, evolve

from twusage.clock import Clock, Wait
from twusage.errors import ConnectError, TransportError
from twusage.integrations.fleet import CallReport, Exchange, Place, Reply
from twusage.limiter import LocalRateLimiter, Slot, Waiter, WaitQueue
from twusage.models import RateLimit

__all__ = ["AppQueue", "FleetSlot", "Store", "StoreUnavailable"]

# Reports buffered during an outage; older ones refer to expired leases.
_MAX_BUFFERED_REPORTS = 200


class StoreUnavailable(Exception):  # noqa: N818 - it never leaves the limiter
    """The store is unavailable; the limiter has already switched to its fallback."""


class Store(Protocol):
    """Holds the states of the windows."""

    clock: Clock
    limit: int
    period: float
    reserve: int
    process: str
    is_unavailable: bool
    is_closed: bool

    def check_usable(self) -> None:
        """Raise if no call can start."""
        ...

    def check_available(self) -> bool:
        """Return whether calls go through the store now. Raises if they must."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that is ended when the limiter closes."""
        ...

    async def exchange(self, app: str, request: Exchange) -> Reply:
        """Apply an exchange to the app's window. Raises ``StoreUnavailable``."""
        ...


class AppQueue:
    """One app in this process: its waiters, and the unsent reports.

    One task exchanges them with the store, only while there are any. Calls wait for futures: cancelling a call never
    cuts an exchange.
    """

    def __init__(self, store: Store, app: str) -> None:
        self.app = app
        self.reply: Reply | None = None
        self.replied_at = 0.0
        self._store = store
        self._clock = store.clock
        self._waiting = WaitQueue()
        self._outbox: list[CallReport] = []
        self._exchanges = 0
        self._pending_exchange: Exchange | None = None
        self._received: Place | None = None
        self._sent_at = -math.inf  # when the newest exchange that has a reply was sent
        self._has_turn = self._leaving = False
        self._wake = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._fallback: tuple[LocalRateLimiter, LocalShare] | None = None

    async def wait_for_place(self, max_wait: float, on_wait: Callable[[Wait], None] | None) -> Place | None:
        """Wait for a place and return it. ``None`` if the store is unavailable."""
        waiter = Waiter(max_wait, self._clock.monotonic(), on_wait)
        self._waiting.add(waiter)
        self._waiting.must_notify = True
        self.ensure_worker()
        try:
            place: Place | None = await waiter.granted
        except BaseException:
            if self._waiting.discard(waiter):
                self.ensure_worker()  # to give up the turn, if it was the last waiter
            elif waiter.has_place and waiter.granted.result() is not None:
                self._give_back(waiter.granted.result())  # Cancelled in the tick of the grant.
            raise
        return place

    def report(self, report: CallReport) -> None:
        """Send a report with the next exchange, soon."""
        self._outbox.append(report)
        del self._outbox[:-_MAX_BUFFERED_REPORTS]
        self.ensure_worker()

    def deregister(self) -> None:
        """Remove this process from those that share the window."""
        if self.reply is not None:
            self._leaving = True
            self.ensure_worker()

    def reject_waiters(self, error: Exception) -> None:
        self._waiting.reject_all(error)
        self._wake.set()

    def fall_back_to_local(self) -> None:
        """Let all waiters continue without the store."""
        self._fallback = None
        self._has_turn = False
        while self._waiting.grant(None):
            pass
        self._wake.set()

    def ensure_worker(self) -> None:
        self._wake.set()
        if self._store.is_unavailable or self._store.is_closed:
            return
        if self._worker is None or self._worker.done():
            self._worker = self._store.spawn(self._worker_loop())

    async def _worker_loop(self) -> None:
        try:
            while not self._store.is_unavailable and self._has_news():
                self._wake.clear()
                pause = await self.exchange()
                if len(self._waiting):
                    await _wait_for_event(self._wake, pause)
        except StoreUnavailable:
            pass

    def _has_news(self) -> bool:
        return bool(len(self._waiting) or self._outbox or self._pending_exchange or self._has_turn or self._leaving)

    async def exchange(self, *, must_save: bool = False) -> float:
        """Exchange reports for places; return the seconds until the next exchange."""
        now = self._clock.monotonic()
        if self._pending_exchange is not None:
            # The store may have applied it: repeat its number, and request nothing new.
            request = evolve(self._pending_exchange, sent_at=now, wanted=0, must_save=must_save)
        else:
            self._exchanges += 1
            reports, self._outbox = tuple(self._outbox), []
            wanted = self._waiting.position_at_end()
            process, leaving = self._store.process, self._leaving
            request = Exchange(
                process, self._exchanges, now, wanted, self._received, reports, leaving, must_save or leaving
            )
        self._pending_exchange = request
        reply = await self._store.exchange(self.app, request)
        self._pending_exchange, self._leaving = None, self._leaving and not request.leaving
        self._has_turn = len(reply.places) < request.wanted
        self._end_waits_for_failed_probe(request, reply)
        for place in reply.places:
            self._received = place
            if not self._waiting.grant(place):
                self._give_back(place)
        self.reply, self.replied_at, self._sent_at = reply, self._clock.monotonic(), now
        self._notify_waiters(reply, now)
        return reply.pause

    def _end_waits_for_failed_probe(self, request: Exchange, reply: Reply) -> None:
        if self.reply is None or reply.failed_probes == self.reply.failed_probes:
            return
        ours = [report.failure for report in request.reports if report.failure is not None]
        error = ours[-1] if ours else ConnectError(f"another process's call failed: {reply.failure}")
        self._waiting.reject_all(error, came_until=self._sent_at)

    def _give_back(self, place: Place) -> None:
        self.report(CallReport(place, self._clock.monotonic(), self._clock.time(), confirmed=True))

    def _notify_waiters(self, reply: Reply, sent_at: float) -> None:
        now = self._clock.monotonic()
        server_now = self._clock.time() if reply.server_now is None else reply.server_now
        if reply.wait is None:
            self._waiting.reject_overdue(now, server_now, reply.rate_limit, came_until=sent_at)
            self._waiting.must_notify = True
            return
        wait = reply.wait

        def notify(waiter: Waiter, position: int) -> None:
            windows = (reply.ahead + position) // reply.calls_per_window
            waiter.notify_or_reject(now, wait + windows * reply.window_length, server_now, reply.rate_limit)

        self._waiting.notify(now + wait, notify)

    async def local_fallback(self) -> tuple[LocalRateLimiter, LocalShare]:
        """Return the limiter for an outage of the store. It starts from the last reply."""
        if self._fallback is None:
            store, reply = self._store, self.reply
            share = LocalShare(reply.processes if reply else 1)
            limit = max(1, store.limit // share.processes)
            reserve = min(limit - 1, math.ceil(store.reserve / share.processes))
            local = LocalRateLimiter(clock=self._clock, limit=limit, period=store.period, reserve=reserve)
            self._fallback = local, share
            if reply is not None:
                async with local.slot(self.app) as slot:  # It is new: its first place is free.
                    self._seed_from_last_reply(slot, reply, share)
        return self._fallback

    def _seed_from_last_reply(self, slot: Slot, reply: Reply, share: LocalShare) -> None:
        age = self._clock.monotonic() - self.replied_at
        if reply.rate_limit is not None and reply.server_now is not None:
            slot.observe(share.scale(reply.rate_limit), reply.server_now + age)
        if reply.wait is not None and reply.wait > age:
            slot.close_window(reply.wait - age)
        slot.refund()  # Nothing was sent.


@define(eq=False)
class LocalShare:
    """This process's share of a window while the processes cannot exchange."""

    processes: int
    reset_at: datetime | None = None
    remaining: int = 0

    def scale(self, rate_limit: RateLimit) -> RateLimit:
        """Return the headers with ``remaining`` reduced to this process's share."""
        if rate_limit.reset_at != self.reset_at:
            self.reset_at, self.remaining = rate_limit.reset_at, rate_limit.remaining // self.processes
        else:
            self.remaining -= 1
        remaining = max(0, min(rate_limit.remaining, self.remaining))
        return RateLimit(rate_limit.limit, remaining, rate_limit.reset_at)


class FleetSlot:
    __slots__ = ("_app", "_local", "_max_wait", "_on_wait", "_place", "_report", "_store", "waited")

    def __init__(self, store: Store, app: AppQueue, max_wait: float, on_wait: Callable[[Wait], None] | None) -> None:
        self._store = store
        self._app = app
        self._max_wait = max_wait
        self._on_wait = on_wait
        self._place: Place | None = None
        self._local: tuple[Slot, LocalShare, AsyncExitStack] | None = None
        self._report: dict[str, Any] = {}
        self.waited = 0.0

    async def __aenter__(self) -> Self:
        clock = self._store.clock
        since = clock.monotonic()
        while not await self._enter(self._max_wait - self.waited):
            self.waited = clock.monotonic() - since
        self.waited = clock.monotonic() - since
        return self

    async def _enter(self, wait_left: float) -> bool:
        """Wait for a place; return False if the call must start again.

        That is the case if the store became unavailable or available during the wait.
        """
        self._store.check_usable()
        if self._store.check_available():
            self._place = await self._app.wait_for_place(wait_left, self._on_wait)
            return self._place is not None
        local, share = await self._app.local_fallback()
        async with AsyncExitStack() as stack:
            slot = await stack.enter_async_context(local.slot(self._app.app, max_wait=wait_left, on_wait=self._on_wait))
            if not self._store.is_unavailable:
                slot.refund()
                return False
            self._local = slot, share, stack.pop_all()
        return True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        clock, report = self._store.clock, {"confirmed": False, **self._report}
        if self._place is not None or self._report:
            self._app.report(CallReport(self._place, clock.monotonic(), clock.time(), **report))
        if self._local is not None:
            _, share, stack = self._local
            share.remaining -= not self._report
            await stack.aclose()

    def observe(self, rate_limit: RateLimit | None, server_now: float | None) -> None:
        if rate_limit is None:
            return
        self._report.update(rate_limit=rate_limit, server_now=server_now)
        if self._local is not None:
            slot, share, _ = self._local
            slot.observe(share.scale(rate_limit), server_now)

    def close_window(self, retry_after: float | None) -> None:
        self._report.update(confirmed=True, closed=True, retry_after=retry_after)
        if self._local is not None:
            self._local[0].close_window(retry_after)

    def refund(self) -> None:
        self._report.update(confirmed=True)
        if self._local is not None:
            self._local[0].refund()

    def fail(self, error: TransportError) -> None:
        self._report.update(confirmed=True, failure=error)
        if self._local is not None:
            self._local[0].fail(error)


async def _wait_for_event(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
