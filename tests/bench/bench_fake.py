"""What a call through the fake costs, beside the same call through aioresponses: `nox -s bench`.

Both are measured in one run, in turns and in both orders, as processor time; the figure is the ratio of their medians.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from aioresponses import aioresponses

import conftest  # noqa: F401 - mends aioresponses for today's aiohttp, as in the tests
from twusage import LocalRateLimiter, UsageClient
from twusage.protocol import authorize, usage_request
from twusage.testing import FakeApi, FakeTransport

CALLS = 300
ROUNDS = 21
URL = "https://api.twitter.com/2/usage/tweets"


async def cpu(call: Callable[[], Awaitable[object]]) -> float:
    """Microseconds of processor time for one call."""
    start = time.process_time()
    for _ in range(CALLS):
        await call()
    return (time.process_time() - start) / CALLS * 1e6


async def main() -> None:
    limiter = LocalRateLimiter(limit=10**9)
    api = FakeApi(rate_limit=10**9)
    api.most_requests = 10**9
    body = api.handle(authorize(usage_request(), api.apps[0].token)).body
    through_fake: list[float] = []
    through_aioresponses: list[float] = []
    token = api.apps[0].token
    fake = UsageClient(token, transport=FakeTransport(api), limiter=limiter)
    real = UsageClient(token, limiter=limiter)
    async with fake, real:
        with aioresponses() as mocked:
            mocked.get(URL, body=body, content_type="application/json", repeat=True)
            pairs = [(fake, through_fake), (real, through_aioresponses)]
            for client, _ in pairs:
                await cpu(client.get_usage)
            for turn in range(ROUNDS):
                for client, figures in pairs if turn % 2 else reversed(pairs):
                    figures.append(await cpu(client.get_usage))
                api.requests.clear()
                mocked.requests.clear()
    ratio = statistics.median(through_aioresponses) / statistics.median(through_fake)
    for name, figures in (("FakeTransport", through_fake), ("aioresponses", through_aioresponses)):
        low, _, high = statistics.quantiles(figures, n=4)
        print(f"{name:14} {statistics.median(figures):8.1f} µs a call (quartiles {low:.1f} to {high:.1f})")
    print(f"a call through FakeTransport costs 1/{ratio:.1f} of the same through aioresponses (goal: 1/15)")
    print(json.dumps({"fake_over_aioresponses": 1 / ratio}))


asyncio.run(main())
