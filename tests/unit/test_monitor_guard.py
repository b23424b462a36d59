"""UsageGuard: no read beyond the cap, whatever is cancelled, fails, is late or resets."""

import asyncio
import datetime as dt
import math
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from guarded_bots import LateApi, run_bots

from twusage import (
    BudgetExceededError,
    ClientClosedError,
    ConfigurationError,
    InvalidRequestError,
    Request,
    Response,
    RetryPolicy,
    ServerError,
    UsageCapExceededError,
    UsageClient,
)
from twusage.monitor import UsageGuard
from twusage.testing import FakeApi, FakeTransport, Fault, VirtualClock

CAP = 1000
RESET = dt.datetime(2026, 2, 10, tzinfo=dt.UTC)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def api(clock: VirtualClock) -> FakeApi:
    """A project with one app, which has read 400 of 1,000 posts. It resets on 10 February."""
    api = FakeApi(apps=1, cap=CAP, history_days=0, clock=clock)
    api.read_posts(api.apps[0], 400)
    return api


@pytest.fixture
async def client(api: FakeApi, clock: VirtualClock) -> AsyncIterator[UsageClient]:
    transport = FakeTransport(api, latency=0.2)
    async with UsageClient(api.apps[0].token, transport=transport, clock=clock, retry=RetryPolicy.none()) as client:
        yield client


async def refused(guard: UsageGuard, reads: int) -> BudgetExceededError:
    with pytest.raises(BudgetExceededError) as caught:
        await guard.spend(reads)
    return caught.value


def until(clock: VirtualClock, instant: dt.datetime) -> float:
    return instant.timestamp() - clock.time()


# -- Reserving ---------------------------------------------------------------------------------------------------------


async def test_reads_pass_up_to_the_cap(client: UsageClient) -> None:
    """The last post of the cap may be read, and the next one may not."""
    guard = UsageGuard(client)
    await guard.spend(599)
    assert await guard.remaining() == 1
    await guard.spend(1)
    assert await guard.remaining() == 0
    await guard.spend(0)
    error = await refused(guard, 1)
    assert (error.requested, error.remaining, error.retryable, error.retry_at) == (1, 0, True, None)
    assert str(error) == (
        "1 reads refused: 0 left in this billing cycle, while 600 reads of this program are unconfirmed; retry later"
    )


async def test_refusal_until_the_reset(client: UsageClient) -> None:
    """If the API's own count is in the way, the error has the time at which the cycle resets."""
    error = await refused(UsageGuard(client), 601)
    assert (error.requested, error.remaining, error.retryable, error.retry_at) == (601, 600, False, RESET)
    assert str(error) == "601 reads refused: 600 left in this billing cycle, which resets at 2026-02-10 00:00+00:00"
    assert error.__cause__ is None


async def test_headroom_is_left(client: UsageClient) -> None:
    """Posts that are left for other programs are not reserved, and ``remaining`` is never negative."""
    assert await UsageGuard(client, headroom=100).remaining() == 500
    guard = UsageGuard(client, headroom=601)
    assert await guard.remaining() == 0
    assert (await refused(guard, 0)).remaining == 0


async def test_a_cap_of_zero_denies(api: FakeApi, client: UsageClient) -> None:
    """A project without reads has none to reserve."""
    api.project.cap = 0
    guard = UsageGuard(client)
    assert await guard.remaining() == 0
    assert (await refused(guard, 1)).retry_at == RESET


async def test_concurrent_callers_share_the_cap_and_one_request(api: FakeApi, client: UsageClient) -> None:
    """Of 100 concurrent callers as many pass as the cap allows, on one request."""
    guard = UsageGuard(client)
    ends = await asyncio.gather(*(guard.spend(50) for _ in range(100)), return_exceptions=True)
    assert Counter(type(end) for end in ends) == {type(None): 12, BudgetExceededError: 88}
    assert len(api.requests) == 1


async def test_settling_gives_back_what_was_not_read(client: UsageClient) -> None:
    """It counts immediately, the last call counts, and the block's end changes nothing."""
    guard = UsageGuard(client)
    async with guard.spending(600) as spending:
        assert (spending.reads, await guard.remaining()) == (600, 0)
        spending.settle(10)
        assert (spending.reads, await guard.remaining()) == (10, 590)
        spending.settle(20)
        assert await guard.remaining() == 580
    assert await guard.remaining() == 580


async def test_settling_more_than_reserved_stops_the_next_caller(client: UsageClient) -> None:
    """Posts that are read already count, even beyond the cap."""
    guard = UsageGuard(client)
    async with guard.spending(500) as spending:
        spending.settle(700)
    assert await guard.remaining() == 0
    assert (await refused(guard, 1)).retryable


async def test_settling_after_the_block_is_an_error(client: UsageClient) -> None:
    """The reads of a block that has ended are counted."""
    guard = UsageGuard(client)
    async with guard.spending(5) as spending:
        pass
    with pytest.raises(InvalidRequestError, match="settle inside the block"):
        spending.settle(3)
    assert await guard.remaining() == 595


async def test_a_block_that_fails_counts_in_full(client: UsageClient) -> None:
    """Whether a read that failed was counted by the API is unknown."""
    guard = UsageGuard(client)
    with pytest.raises(ZeroDivisionError):
        async with guard.spending(100):
            raise ZeroDivisionError
    assert await guard.remaining() == 500


@pytest.mark.parametrize("reads", [-1, 1.0, True, "1", None])
async def test_wrong_reads(client: UsageClient, reads: Any) -> None:
    """They are refused before anything is requested or counted."""
    guard = UsageGuard(client)
    with pytest.raises(InvalidRequestError, match="reads must be an int of at least 0"):
        await guard.spend(reads)
    async with guard.spending(5) as spending:
        with pytest.raises(InvalidRequestError, match="reads must be an int of at least 0"):
            spending.settle(reads)
    assert await guard.remaining() == 595


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("headroom", -1),
        ("headroom", 1.5),
        ("headroom", True),
        ("max_age", -1),
        ("max_age", math.nan),
        ("stale_after", None),
        ("lag", "900"),
        ("when_unknown", "raise"),
    ],
)
async def test_wrong_options(client: UsageClient, option: str, value: Any) -> None:
    """The message names the option and quotes its value."""
    with pytest.raises(ConfigurationError, match=rf"^{option} must be .*, got {value!r}$"):
        UsageGuard(client, **{option: value})


# -- Confirmation ------------------------------------------------------------------------------------------------------


async def test_own_reads_leave_only_with_a_new_response(client: UsageClient, clock: VirtualClock) -> None:
    """Reads count until a response arrives at least ``max_age + lag`` after them.

    The API's own count may grow before.
    """
    guard = UsageGuard(client, max_age=300, lag=900)
    await guard.spend(100)  # settled at 0.2 s
    assert await guard.remaining() == 500
    await clock.sleep(1199)
    assert await guard.remaining() == 500  # a new response, which arrives at 1199.4 s
    await clock.sleep(299)
    assert await guard.remaining() == 500  # old enough, but without a new response
    await clock.sleep(2)
    assert await guard.remaining() == 600


async def test_a_response_that_another_caller_fetched_confirms_by_its_arrival(
    client: UsageClient, clock: VirtualClock
) -> None:
    """Reads within ``max_age + lag`` before it count, although the guard sees it later."""
    guard = UsageGuard(client, max_age=300, lag=900)
    await guard.spend(100)  # settled at 0.2 s
    await clock.sleep(1100)
    await client.get_usage()  # arrives 1,100 s after them
    await clock.sleep(200)
    assert await guard.remaining() == 500
    await clock.sleep(101)
    assert await guard.remaining() == 600


async def test_reads_of_one_second_are_one_entry(client: UsageClient, clock: VirtualClock) -> None:
    """A guard in use for hours without a response keeps one entry a second, rounded up."""
    guard = UsageGuard(client)
    for _ in range(3):
        await guard.spend(1)
    await clock.sleep(1)
    await guard.spend(1)
    assert list(guard._ledger._settled) == [(1, 3), (2, 1)]


async def test_open_reservations_do_not_age(client: UsageClient, clock: VirtualClock) -> None:
    """A block may last for hours. Its reads may be still to come."""
    guard = UsageGuard(client)
    async with guard.spending(100):
        await clock.sleep(7200)
        assert await guard.remaining() == 500
    await clock.sleep(1500)
    assert await guard.remaining() == 600


async def test_reads_of_others_count(api: FakeApi, client: UsageClient, clock: VirtualClock) -> None:
    """Growth of the API's count confirms no own reads. Other apps may have caused it."""
    guard = UsageGuard(client)
    await guard.spend(100)
    api.read_posts(api.apps[0], 200)
    await clock.sleep(301)
    assert await guard.remaining() == 300


# -- Cancellation ------------------------------------------------------------------------------------------------------


async def test_a_reservation_cancelled_during_its_request_reserves_nothing(
    client: UsageClient, clock: VirtualClock
) -> None:
    """The caller is gone, and so is its claim."""
    guard = UsageGuard(client)
    task = asyncio.create_task(guard.spend(600))
    await clock.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await guard.remaining() == 600


async def test_cancelled_in_the_block_counts_in_full_and_ages_out(client: UsageClient, clock: VirtualClock) -> None:
    """The whole reservation counts, and nothing leaks."""
    guard = UsageGuard(client)

    async def bot() -> None:
        async with guard.spending(600):
            await clock.sleep(math.inf)

    task = asyncio.create_task(bot())
    await clock.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await guard.remaining() == 0
    await clock.sleep(1500)
    assert await guard.remaining() == 600


async def test_cancelled_at_every_step(api: FakeApi, client: UsageClient, clock: VirtualClock) -> None:
    """Wherever a caller is cancelled, either nothing or its whole reservation counts."""
    for steps in range(1, 40):
        clock.jump(301)  # so that each calls the API
        guard = UsageGuard(client)

        async def bot(guard: UsageGuard = guard) -> None:
            async with guard.spending(600):
                await asyncio.sleep(0)

        task = asyncio.create_task(bot())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert await guard.remaining() in {0, 600}
        assert guard._ledger.total == sum(reads for _, reads in guard._ledger._settled)


# -- Failures ----------------------------------------------------------------------------------------------------------


async def test_an_old_response_serves_while_the_api_fails(
    api: FakeApi, client: UsageClient, clock: VirtualClock
) -> None:
    """Up to ``stale_after``; the API is called every 60 s. Then the cause is attached to the error."""
    guard = UsageGuard(client, stale_after=1000)
    await guard.spend(100)
    api.fail(Fault.status(503), times=math.inf)
    await clock.sleep(301)
    for _ in range(5):
        await guard.spend(10)
    assert len(api.requests) == 2
    await clock.sleep(59)
    await guard.spend(10)
    assert len(api.requests) == 2
    await clock.sleep(1)
    await guard.spend(10)
    assert len(api.requests) == 3
    await clock.sleep(700)
    error = await refused(guard, 10)
    assert (error.requested, error.remaining, error.retryable, error.retry_at) == (10, None, True, None)
    assert isinstance(error.__cause__, ServerError)
    assert str(error) == f"10 reads refused: the project's usage is unknown (ServerError: {error.__cause__})"
    assert await guard.remaining() is None


@pytest.mark.parametrize("how", ["suspend", "sleep", "jump back and sleep"])
async def test_age_is_the_larger_of_both_clocks(
    api: FakeApi, client: UsageClient, clock: VirtualClock, how: str
) -> None:
    """A suspended machine ages a response, and setting the wall clock back makes none young."""
    guard = UsageGuard(client)
    await guard.spend(100)
    api.fail(Fault.status(503), times=math.inf)
    if how == "suspend":
        clock.suspend(3700)
    else:
        clock.jump(-7200 if "back" in how else 0)
        await clock.sleep(3700)
    assert (await refused(guard, 1)).remaining is None


async def test_recovery(api: FakeApi, client: UsageClient, clock: VirtualClock) -> None:
    """After a failure, one good response is enough."""
    guard = UsageGuard(client)
    api.fail(Fault.disconnected())
    assert (await refused(guard, 1)).remaining is None
    assert (await refused(guard, 1)).remaining is None
    assert len(api.requests) == 1
    await clock.sleep(60)
    await guard.spend(1)


async def test_allow_when_unknown(api: FakeApi, client: UsageClient, clock: VirtualClock) -> None:
    """Reads pass while the API fails, and count when it is back."""
    guard = UsageGuard(client, when_unknown="allow")
    api.fail(Fault.status(503))
    await guard.spend(300)
    assert await guard.remaining() is None
    await clock.sleep(60)
    assert await guard.remaining() == 300


@pytest.mark.parametrize("when_unknown", ["deny", "allow"])
async def test_quota_errors_pass_through(
    api: FakeApi, client: UsageClient, clock: VirtualClock, when_unknown: Any
) -> None:
    """An account without reads is not unknown. Each caller gets its own copy, and the API is called once a minute."""
    guard = UsageGuard(client, when_unknown=when_unknown)
    await guard.spend(1)
    await clock.sleep(301)
    api.fail(Fault.usage_capped())
    caught = []
    for _ in range(2):
        with pytest.raises(UsageCapExceededError) as error:
            await guard.spend(1)
        caught.append(error.value)
    assert caught[0] is not caught[1]
    assert len(api.requests) == 2
    await clock.sleep(60)
    await guard.spend(1)


async def test_a_closed_client_is_not_unknown(client: UsageClient) -> None:
    """A bug of the program is raised, whatever ``when_unknown`` is."""
    guard = UsageGuard(client, when_unknown="allow")
    await client.aclose()
    with pytest.raises(ClientClosedError):
        await guard.spend(1)


class Changed:
    """A transport that changes the body of each response."""

    def __init__(self, api: FakeApi, old: bytes, new: bytes) -> None:
        self._inner, self._old, self._new = FakeTransport(api), old, new

    async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109 - as Transport has it
        response = await self._inner.send(request, timeout=timeout)
        return Response(response.status, response.headers, response.body.replace(self._old, self._new))

    async def aclose(self) -> None:
        await self._inner.aclose()


async def test_a_response_without_a_cap_is_unknown(api: FakeApi, clock: VirtualClock) -> None:
    """There is no cause to attach, and nothing to retry."""
    transport = Changed(api, b'"project_cap": "1000", ', b"")
    async with UsageClient(api.apps[0].token, transport=transport, clock=clock) as client:
        error = await refused(UsageGuard(client), 1)
        assert (error.remaining, error.retryable, error.__cause__) == (None, False, None)
        assert str(error) == "1 reads refused: the project's usage is unknown (the response has no cap or no count)"
        await UsageGuard(client, when_unknown="allow").spend(10_000)


async def test_without_a_reset_day(api: FakeApi, clock: VirtualClock) -> None:
    """The guard works, and when the cap resets is unknown."""
    transport = Changed(api, b'"cap_reset_day": 10, ', b"")
    async with UsageClient(api.apps[0].token, transport=transport, clock=clock) as client:
        guard = UsageGuard(client)
        await guard.spend(100)
        error = await refused(guard, 601)
        assert (error.remaining, error.retryable, error.retry_at) == (500, False, None)
        assert str(error) == "601 reads refused: 500 left in this billing cycle"


# -- The reset ---------------------------------------------------------------------------------------------------------


async def test_a_response_of_an_ended_cycle_never_counts(
    api: FakeApi, client: UsageClient, clock: VirtualClock
) -> None:
    """At 00:00 UTC of the reset day the API is called again, however young the response is."""
    guard = UsageGuard(client)
    await clock.sleep(until(clock, RESET) - 60)
    assert await guard.remaining() == 600
    await clock.sleep(until(clock, RESET))
    assert await guard.remaining() == 1000
    assert len(api.requests) == 2


async def test_a_reset_while_the_api_fails(api: FakeApi, client: UsageClient, clock: VirtualClock) -> None:
    """The old response does not describe the new cycle."""
    guard = UsageGuard(client)
    await clock.sleep(until(clock, RESET) - 60)
    await guard.spend(1)
    api.fail(Fault.status(503))
    await clock.sleep(until(clock, RESET) + 1)
    assert (await refused(guard, 1)).remaining is None


async def test_a_response_of_an_ended_cycle_that_another_caller_fetched(
    client: UsageClient, clock: VirtualClock
) -> None:
    """The client's cache may hold it. A guard that is made after the reset does not use it."""
    await clock.sleep(until(clock, RESET) - 10)
    await client.get_usage()
    await clock.sleep(until(clock, RESET) + 10)
    assert await UsageGuard(client).remaining() == 1000


# -- All together ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lag", "cancelled"), [(0, 0.5), (900, 0.05)])
async def test_no_post_beyond_the_cap(lag: float, cancelled: float) -> None:
    """Two cycles, a count that is late by up to ``lag``, cancelled bots.

    None is over the cap, and fewer than 20 are unused.
    """
    clock = VirtualClock(RESET - dt.timedelta(hours=2))
    api = FakeApi(apps=1, cap=400, history_days=0, clock=clock)
    transport = LateApi(api, lag)
    async with UsageClient(api.apps[0].token, transport=transport, clock=clock) as client:
        end = RESET + dt.timedelta(hours=2)
        await run_bots(clock, transport, UsageGuard(client), cancelled, end.timestamp())
    unused = [400 - read for read in transport.read.values()]
    assert len(unused) == 2
    assert all(0 <= left < 20 for left in unused), unused
    assert len(api.requests) <= 4 * 12 + 10


async def test_no_post_beyond_the_cap_while_the_api_fails() -> None:
    """An API that fails, for minutes and then for longer than ``stale_after``, makes no read exceed the cap."""

    def failing(minute: int) -> bool:
        return minute % 7 < 4 if minute < 30 else minute < 100

    clock = VirtualClock(RESET - dt.timedelta(hours=2))
    api = FakeApi(apps=1, cap=400, history_days=0, clock=clock)
    transport = LateApi(api, 900)
    start = clock.time()
    api.fail(Fault.status(503), times=math.inf, when=lambda _: failing(int(clock.time() - start) // 60))
    async with UsageClient(api.apps[0].token, transport=transport, clock=clock) as client:
        end = RESET + dt.timedelta(hours=3)
        await run_bots(clock, transport, UsageGuard(client), 0.05, end.timestamp())
    assert len(transport.read) == 2
    assert all(350 < read <= 400 for read in transport.read.values()), transport.read
