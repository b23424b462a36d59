"""What a call through the fake costs, beside the same call through aioresponses: `nox -s bench`.

Both are measured in one run, in turns and in both orders, as processor time; the figure is the ratio of their medians.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from aioresponses import aioresponses

import conftest  # noqa: F401 - mends aioresponses for today's aiohttp, as in the tests
from twusage import AiohttpTransport, LocalRateLimiter, UsageClient
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


async def compare(
    name: str, pairs: Sequence[tuple[str, Callable[[], Awaitable[object]]]], forget: Callable[[], None]
) -> float:
    """Print both, in turns and in both orders; the ratio of their medians."""
    figures: dict[str, list[float]] = {label: [] for label, _ in pairs}
    for turn in range(ROUNDS + 1):
        for label, call in pairs if turn % 2 else reversed(pairs):
            figures[label].append(await cpu(call))
        forget()
    medians = []
    for label, seen in figures.items():
        low, median, high = statistics.quantiles(seen[1:], n=4)  # the first round warms up
        medians.append(median)
        print(f"{name}: {label:14} {median:8.1f} µs (quartiles {low:.1f} to {high:.1f})")
    print(f"{name}: FakeTransport costs 1/{medians[1] / medians[0]:.1f} of aioresponses (goal: 1/15)")
    return medians[0] / medians[1]


async def main() -> None:
    limiter = LocalRateLimiter(limit=10**9)
    api = FakeApi(rate_limit=10**9)
    api.most_requests = 10**9
    token = api.apps[0].token
    request = authorize(usage_request(), token)
    body = api.handle(request).body
    in_memory, over_aiohttp = FakeTransport(api), AiohttpTransport()
    fake = UsageClient(token, transport=in_memory, limiter=limiter)
    real = UsageClient(token, transport=over_aiohttp, limiter=limiter)
    with aioresponses() as mocked:
        mocked.get(URL, body=body, content_type="application/json", repeat=True)

        def forget() -> None:
            api.requests.clear()
            mocked.requests.clear()

        sends = [
            ("FakeTransport", lambda: in_memory.send(request, timeout=30)),
            ("aioresponses", lambda: over_aiohttp.send(request, timeout=30)),
        ]
        ratios = {
            "send": await compare("transport.send()  ", sends, forget),
            "get_usage": await compare(
                "client.get_usage()", [("FakeTransport", fake.get_usage), ("aioresponses", real.get_usage)], forget
            ),
        }
    await over_aiohttp.aclose()
    print(json.dumps({"fake_over_aioresponses": ratios}))


asyncio.run(main())
