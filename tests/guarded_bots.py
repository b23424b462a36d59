"""Bots that share a guard, and an API whose count is late: for the tests of the guard and for its grid."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import re
from collections import Counter, deque

from twusage import BudgetExceededError, Request, Response
from twusage.monitor import BillingCycle, UsageGuard
from twusage.testing import FakeApi, FakeTransport, VirtualClock


class LateApi(FakeTransport):
    """The fake API, whose count is ``lag`` seconds late. Reads count on the day on which they were made.

    With ``behind``, it reports the count of the ended cycle for that long after the reset.
    """

    def __init__(self, api: FakeApi, lag: float, *, behind: bool = False) -> None:
        super().__init__(api, latency=0.2)
        self._fake, self._late, self._behind = api, lag, behind
        self._uncounted: deque[tuple[float, dt.date, int]] = deque()
        self.read: Counter[dt.date] = Counter()
        """By first day of the cycle, the posts that were read in it."""

    def read_posts(self, count: int) -> None:
        now = self._now()
        self.read[self._cycle(now).start] += count
        self._uncounted.append((now.timestamp() + self._late, now.date(), count))

    async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109 - as Transport has it
        app, now = self._fake.apps[0], self._now()
        while self._uncounted and self._uncounted[0][0] <= now.timestamp():
            _, day, count = self._uncounted.popleft()
            app._reads[day] = app._reads.get(day, 0) + count
            self._fake._bodies.clear()
        cycle = self._cycle(now)
        ended = self._fake.project.usage(cycle.start - dt.timedelta(days=1))
        response = await super().send(request, timeout=timeout)
        if not self._behind or now - cycle.previous().resets_at >= dt.timedelta(seconds=self._late):
            return response
        body = re.sub(rb'("project_usage": )"\d+"', rb'\1"%d"' % ended, response.body)
        return Response(response.status, response.headers, body)

    def _now(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self._fake.clock.time(), dt.UTC)

    def _cycle(self, now: dt.datetime) -> BillingCycle:
        return BillingCycle.of(self._fake.project.reset_day, now)


async def run_bots(
    clock: VirtualClock, transport: LateApi, guard: UsageGuard, cancelled: float, until: float, *, bots: int = 10
) -> None:
    """Run bots that read up to ten posts at a time, some of which are cancelled at any time."""
    dice = random.Random(7)

    async def read() -> None:
        wanted = dice.randint(1, 10)
        async with guard.spending(wanted) as spending:
            got = dice.randint(0, wanted)
            transport.read_posts(got)
            await clock.sleep(dice.uniform(0, 5))
            spending.settle(got)

    async def bot() -> None:
        while clock.time() < until:
            task = asyncio.create_task(read())
            if dice.random() < cancelled:
                await clock.sleep(dice.uniform(0, 5))
                task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                assert task.exception() is None or isinstance(task.exception(), BudgetExceededError)
            await clock.sleep(dice.uniform(10, 200))

    await asyncio.gather(*(bot() for _ in range(bots)))
