"""The first file to read: one call, one 429 and one cap, as a user meets them.

The service is a FakeApi and the time is a VirtualClock: no network, and no wait.
"""

import pytest

from twusage import UsageCapExceededError, UsageClient
from twusage.testing import FakeApi, FakeTransport, Fault, VirtualClock


async def test_one_call() -> None:
    """A call returns typed numbers, and uses one of the window's fifty calls."""
    clock = VirtualClock()
    api = FakeApi(clock=clock, cap=1_000, history_days=0)
    api.read_posts(api.apps[0], 400)

    async with UsageClient(api.apps[0].token, transport=FakeTransport(api), clock=clock) as client:
        usage = await client.get_usage()

    assert (usage.project_cap, usage.project_usage, usage.remaining) == (1_000, 400, 600)
    assert usage.rate_limit is not None
    assert (usage.rate_limit.limit, usage.rate_limit.remaining) == (50, 49)


async def test_one_429() -> None:
    """If the window has no calls left, the client waits for its reset, and then retries: the caller sees no error."""
    clock = VirtualClock()
    api = FakeApi(clock=clock)
    api.fail(Fault.rate_limited())

    async with UsageClient(api.apps[0].token, transport=FakeTransport(api), clock=clock) as client:
        await client.get_usage()

    assert len(api.requests) == 2
    assert clock.monotonic() == pytest.approx(901, abs=1)  # fifteen minutes and a second, in milliseconds


async def test_one_cap() -> None:
    """The monthly cap is a 429 as well, but no wait helps: it raises immediately, after one request."""
    clock = VirtualClock()
    api = FakeApi(clock=clock)
    api.fail(Fault.usage_capped())

    async with UsageClient(api.apps[0].token, transport=FakeTransport(api), clock=clock) as client:
        with pytest.raises(UsageCapExceededError):
            await client.get_usage()

    assert len(api.requests) == 1
    assert clock.monotonic() == 0
