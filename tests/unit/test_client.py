"""One call from end to end over the fake. What a user of UsageClient sees."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from twusage import (
    AuthenticationError,
    ClientClosedError,
    ConfigurationError,
    ConnectError,
    InvalidRequestError,
    LocalRateLimiter,
    QuotaError,
    RateLimitedError,
    Request,
    RequestTimeoutError,
    Response,
    RetryPolicy,
    Secret,
    SystemClock,
    TwUsageError,
    Usage,
    UsageCapExceededError,
    UsageClient,
    UsageField,
    Wait,
)
from twusage.cache import _CACHE_SIZE
from twusage.monitor import cycle_of
from twusage.testing import FakeApi, FakeTransport, Fault, VirtualClock


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def api(clock: VirtualClock) -> FakeApi:
    return FakeApi(clock=clock)


def make_client(api: FakeApi, *, app: int = 0, **keywords: Any) -> UsageClient:
    keywords.setdefault("transport", FakeTransport(api))
    keywords.setdefault("clock", api.clock)
    return UsageClient(api.apps[app].token, **keywords)


@pytest.fixture
async def client(api: FakeApi) -> AsyncIterator[UsageClient]:
    async with make_client(api) as client:
        yield client
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}, "the client left a task behind"


class Gate:
    """A transport that responds on release, and counts."""

    def __init__(self, api: FakeApi) -> None:
        self.inner = FakeTransport(api)
        self.open = asyncio.Event()
        self.begun = 0
        self.closed = 0

    async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109
        self.begun += 1
        await self.open.wait()
        return await self.inner.send(request, timeout=timeout)

    async def aclose(self) -> None:
        self.closed += 1


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


# -- The call ----------------------------------------------------------------------------------------------------------


async def test_the_plain_call_is_the_documents_request(client: UsageClient, api: FakeApi) -> None:
    """Without arguments: the URL of the document, the token unchanged, and the user agent."""
    usage = await client.get_usage()
    (request,) = api.requests
    assert request.method == "GET"
    assert request.url == "https://api.twitter.com/2/usage/tweets"
    assert request.headers["authorization"] == f"Bearer {api.apps[0].token}"
    assert request.headers["user-agent"].startswith("twusage/")
    assert usage.project_cap == api.project.cap
    assert usage.daily_project_usage is None
    assert usage.daily_client_app_usage == ()


async def test_days_alone_bring_both_daily_fields(client: UsageClient, api: FakeApi) -> None:
    """Days without fields would change nothing: both daily fields are requested."""
    usage = await client.get_usage(days=30)
    assert usage.daily_project_usage is not None
    assert len(usage.daily_project_usage.usage) == 30
    assert [app.client_app_id for app in usage.daily_client_app_usage] == [app.id for app in api.apps]


async def test_fields_choose(client: UsageClient) -> None:
    """Only the requested fields are returned."""
    usage = await client.get_usage(days=90, fields=[UsageField.DAILY_CLIENT_APP_USAGE])
    assert usage.daily_project_usage is None
    assert len(usage.daily_client_app_usage[0].usage) == 90


async def test_a_result_has_its_arrival_and_the_calls_left(client: UsageClient, clock: VirtualClock) -> None:
    """fetched_at is the client's clock; rate_limit is the response's own."""
    assert client.rate_limit is None
    usage = await client.get_usage()
    assert usage.fetched_at == clock.now()
    assert usage.rate_limit is not None
    assert (usage.rate_limit.limit, usage.rate_limit.remaining) == (50, 49)
    assert client.rate_limit == usage.rate_limit


async def test_the_newest_rate_limit_is_kept(client: UsageClient, api: FakeApi) -> None:
    """Out of order: a response of this window with more calls left is older. One of the next window is newer."""
    await client.get_usage()
    api.fail(Fault.slow(5.0))
    slow = asyncio.create_task(client.get_usage())
    await settle()
    await client.get_usage()
    await slow
    assert client.rate_limit is not None
    assert client.rate_limit.remaining == 47
    await api.clock.sleep(1000)
    await client.get_usage()
    assert client.rate_limit.remaining == 49


async def test_a_mistake_of_the_caller_costs_no_call(client: UsageClient, api: FakeApi) -> None:
    """Wrong arguments raise before a call is counted, and quote the value."""
    for keywords in ({"days": 91}, {"fields": ["reads"]}, {"max_age": -1}, {"max_age": "60"}, {"max_age": True}):
        with pytest.raises(InvalidRequestError, match=r"91|reads|-1|60|True"):
            await client.get_usage(**keywords)
    assert api.requests == []


async def test_an_error_of_the_api_is_raised_as_its_class(client: UsageClient, api: FakeApi) -> None:
    """A capped month is raised immediately, after one request."""
    api.fail(Fault.usage_capped())
    with pytest.raises(UsageCapExceededError):
        await client.get_usage()
    assert len(api.requests) == 1


@pytest.mark.parametrize("skew", [-300.0, 300.0])
async def test_the_servers_clock_decides_when_the_window_opens(
    client: UsageClient, api: FakeApi, clock: VirtualClock, skew: float
) -> None:
    """A server whose clock is wrong sends its resets by it. The wait is right all the same, by its Date."""
    api.date_skew = skew
    await asyncio.gather(*(client.get_usage() for _ in range(51)))
    assert len(api.requests) == 51, "none was refused"
    assert 900.0 <= clock.monotonic() <= 902.0


async def test_a_capped_month_does_not_close_the_window(client: UsageClient, api: FakeApi, clock: VirtualClock) -> None:
    """The monthly cap is not the rate limit. The next call goes immediately."""
    api.fail(Fault.usage_capped())
    with pytest.raises(UsageCapExceededError):
        await client.get_usage()
    await client.get_usage()
    assert clock.monotonic() == 0.0


async def test_a_capped_month_leaves_the_window_unchanged(api: FakeApi, clock: VirtualClock) -> None:
    """Its headers are another endpoint's, with 39,999 calls left. They open no place here, and are not reported."""
    async with make_client(api, transport=FakeTransport(api, latency=1)) as client:
        api.fail(Fault.usage_capped())
        with pytest.raises(UsageCapExceededError) as caught:
            await client.get_usage()
        assert client.rate_limit is None
        assert caught.value.rate_limit is not None, "what came can be looked at"
        await asyncio.gather(*(client.get_usage() for _ in range(90)))
    assert len(api.requests) == 91


async def test_an_outage_is_ridden_out(client: UsageClient, api: FakeApi) -> None:
    """Three failures of three kinds, then the result."""
    for fault in (Fault.status(503), Fault.timeout(), Fault.reset()):
        api.fail(fault)
    assert (await client.get_usage()).project_id == api.project.id
    api.assert_all_used()


async def test_every_attempt_takes_a_place(client: UsageClient, api: FakeApi) -> None:
    """Requests on the wire are what the window counts, not calls."""
    await client.get_usage()
    api.fail(Fault.disconnected(), times=2)
    await client.get_usage()
    assert client.rate_limit is not None
    assert client.rate_limit.remaining == 50 - 4


async def test_a_connection_that_fails_takes_no_place(api: FakeApi, clock: VirtualClock) -> None:
    """Nothing was sent, so the place is given back. 50 good calls still go in one window."""
    async with make_client(api, retry=RetryPolicy.none()) as client:
        await client.get_usage()
        api.fail(Fault.connect_error(), times=60)
        for _ in range(60):
            with pytest.raises(ConnectError):
                await client.get_usage()
        for _ in range(49):
            await client.get_usage()
    assert clock.monotonic() == 0.0
    assert len(api.requests) == 50


async def test_a_timeout_before_the_sending_takes_no_place(api: FakeApi, clock: VirtualClock) -> None:
    """A transport marks an error as ``unsent`` if nothing was sent, whatever its class."""

    class Busy(FakeTransport):
        async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109
            if len(busy) < 60:
                busy.append(request)
                raise RequestTimeoutError("busy", unsent=True)
            return await super().send(request, timeout=timeout)

    busy: list[Request] = []
    async with make_client(api, transport=Busy(api), retry=RetryPolicy.none()) as client:
        for _ in range(60):
            with pytest.raises(RequestTimeoutError):
                await client.get_usage()
        for _ in range(50):
            await client.get_usage()
    assert clock.monotonic() == 0.0


async def test_a_timeout_takes_a_place(api: FakeApi) -> None:
    """It may have reached the server, so it counts."""
    async with make_client(api, retry=RetryPolicy.none(), timeout=1) as client:
        await client.get_usage()
        api.fail(Fault.timeout(), times=49)
        for _ in range(49):
            with pytest.raises(RequestTimeoutError):
                await client.get_usage()
        with pytest.raises(RateLimitedError):
            await client.get_usage()
    assert len(api.requests) == 50


async def test_the_fifty_first_call_waits_for_the_next_window(
    client: UsageClient, api: FakeApi, clock: VirtualClock
) -> None:
    """No 429 is ever provoked.

    A call too many waits until a second after the reset, and a little longer for a fast clock.
    """
    await asyncio.gather(*(client.get_usage() for _ in range(51)))
    assert len(api.requests) == 51
    assert 901.0 <= clock.monotonic() <= 901.0 * 1.00025


async def test_a_429_is_waited_for(client: UsageClient, api: FakeApi, clock: VirtualClock) -> None:
    """A window that another program has used up. One 429, one wait until its reset, one result."""
    api.fail(Fault.rate_limited())
    await client.get_usage()
    assert len(api.requests) == 2
    assert 900.0 <= clock.monotonic() <= 901.0


async def test_after_a_429_no_call_of_the_app_goes_before_the_reset(
    client: UsageClient, api: FakeApi, clock: VirtualClock
) -> None:
    """One refusal is enough for all."""
    await client.get_usage()
    api.fail(Fault.rate_limited())
    with pytest.raises(RateLimitedError) as caught:
        async with make_client(api, retry=RetryPolicy.none()) as other:
            await other.get_usage()
    assert caught.value.status == 429
    await asyncio.gather(*(client.get_usage() for _ in range(10)))
    assert len(api.requests) == 12
    assert caught.value.retry_at is not None
    assert clock.now() >= caught.value.retry_at


async def test_a_429_without_any_header_closes_for_a_window(
    client: UsageClient, api: FakeApi, clock: VirtualClock
) -> None:
    """A 429 without headers means the document's window."""
    names = ("x-rate-limit-limit", "x-rate-limit-remaining", "x-rate-limit-reset")
    api.fail(Fault.rate_limited(headers=dict.fromkeys(names)))
    await client.get_usage()
    assert clock.monotonic() == 900.0


async def test_a_foreign_limit_does_not_close_the_window(
    client: UsageClient, api: FakeApi, clock: VirtualClock
) -> None:
    """Only the call that got a 429 with calls left waits; others go on."""
    await client.get_usage()
    api.fail(Fault.rate_limited(headers={"x-rate-limit-remaining": "12"}))
    met = asyncio.create_task(client.get_usage())
    await settle()
    await client.get_usage()
    assert clock.monotonic() == 0.0
    await met
    api.fail(Fault.rate_limited(headers={"x-rate-limit-remaining": "12"}))
    hasty = make_client(api, retry=RetryPolicy.none())
    with pytest.raises(RateLimitedError, match="15-minute window has calls left"):
        await hasty.get_usage()
    assert 15.0 <= clock.monotonic() <= 30.0


async def test_clients_of_one_app_share_its_window(api: FakeApi, clock: VirtualClock) -> None:
    """By default, two clients draw on one window. Another app has its own."""
    async with make_client(api) as one, make_client(api) as two, make_client(api, app=1) as other:
        await asyncio.gather(*(client.get_usage() for client in (one, two) for _ in range(25)), other.get_usage())
        assert clock.monotonic() == 0.0
        await two.get_usage()
    assert clock.monotonic() >= 900.0


async def test_a_limiter_of_ones_own_is_used(api: FakeApi) -> None:
    """limiter= replaces the shared one."""
    limiter = LocalRateLimiter(clock=api.clock)
    async with make_client(api, limiter=limiter) as client:
        await client.get_usage()
    assert list(limiter._queues) == [Secret(api.apps[0].token).fingerprint]


async def test_a_users_auth_is_called_before_every_call(api: FakeApi) -> None:
    """A token may change between two calls; a plain str will do."""

    class Rotating:
        tokens: tuple[Secret | str, ...] = (api.apps[0].token, Secret(api.apps[1].token))
        calls = 0

        async def token(self) -> Secret | str:
            self.calls += 1
            return self.tokens[self.calls - 1]

    async with UsageClient(Rotating(), transport=FakeTransport(api), clock=api.clock) as client:
        await client.get_usage()
        await client.get_usage()
    assert [request.headers["authorization"][7:] for request in api.requests] == [api.apps[0].token, api.apps[1].token]


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "30", None, True])
def test_a_timeout_without_sense_is_refused(timeout: Any) -> None:
    """timeout= is a number of seconds above 0."""
    with pytest.raises(ConfigurationError, match="timeout must be"):
        UsageClient("AAAA", timeout=timeout)


@pytest.mark.parametrize(
    ("keyword", "methods"),
    {
        "transport": "send and aclose",
        "limiter": "slot",
        "retry": "retries",
        "clock": "time and monotonic and sleep",
    }.items(),
)
def test_a_part_that_is_none_is_refused(keyword: str, methods: str) -> None:
    """An unusable component is refused by its keyword, on creation, and not quoted."""
    for part, given in ((5, "int"), ("canary", "str"), (SystemClock, "the class itself"), (False, "bool")):
        with pytest.raises(ConfigurationError) as caught:
            UsageClient("AAAA", **{keyword: part})  # type: ignore[arg-type]
        assert str(caught.value) == f"{keyword} must have {methods}, got {given}"


@pytest.mark.parametrize("on_wait", [5, "print", False, 0])
def test_a_hook_that_cannot_be_called_is_refused(on_wait: Any) -> None:
    """on_wait= is a function."""
    with pytest.raises(ConfigurationError, match="on_wait must be callable, got "):
        UsageClient("AAAA", on_wait=on_wait)


async def test_the_timeout_reaches_the_transport(api: FakeApi) -> None:
    """A slow answer is given up after timeout= seconds."""
    api.fail(Fault.slow(6.0))
    async with make_client(api, timeout=5, retry=RetryPolicy.none()) as client:
        with pytest.raises(RequestTimeoutError, match="within 5 s"):
            await client.get_usage()
    assert api.clock.monotonic() == 5.0


# -- The budget of retries ---------------------------------------------------------------------------------------------


async def failing_calls(client: UsageClient, api: FakeApi, calls: int) -> list[int]:
    """How many requests each of so many calls in a row sends, where all of them fail."""
    sent = [len(api.requests)]
    for _ in range(calls):
        with pytest.raises(TwUsageError):
            await client.get_usage()
        sent.append(len(api.requests))
    return [after - before for before, after in pairwise(sent)]


async def test_an_outage_is_not_multiplied(client: UsageClient, api: FakeApi) -> None:
    """Ten retries in all. From then on each call makes one attempt, until calls have succeeded."""
    api.fail(Fault.status(503), times=16)
    assert await failing_calls(client, api, 6) == [4, 4, 4, 2, 1, 1]
    for _ in range(10):
        await client.get_usage()
    api.fail(Fault.status(503), times=3)
    assert await failing_calls(client, api, 2) == [2, 1]


async def test_the_clients_of_an_app_share_its_budget(api: FakeApi) -> None:
    """Two clients of one app have ten retries together. Another app has its own."""
    async with make_client(api) as one, make_client(api) as two, make_client(api, app=1) as other:
        api.fail(Fault.status(503), times=100)
        assert await failing_calls(one, api, 3) == [4, 4, 4]
        assert await failing_calls(two, api, 2) == [2, 1]
        assert await failing_calls(other, api, 1) == [4]


async def test_a_window_waited_for_is_no_retry_of_an_outage(client: UsageClient, api: FakeApi) -> None:
    """With nothing left in the budget, a 429 of the window is waited for all the same."""
    api.fail(Fault.status(503), times=15)
    await failing_calls(client, api, 5)
    api.fail(Fault.rate_limited())
    await client.get_usage()
    api.assert_all_used()


async def test_a_429_whose_reset_is_past_is_no_busy_loop(
    client: UsageClient, api: FakeApi, clock: VirtualClock
) -> None:
    """Each further attempt comes a second later at least."""
    api.fail(Fault.rate_limited(headers={"x-rate-limit-reset": "1000000000"}), times=4)
    with pytest.raises(RateLimitedError):
        await client.get_usage()
    assert len(api.requests) == 4
    assert 3.0 <= clock.monotonic() <= 3.0 + 0.5 + 1 + 2


# -- Reports of waits --------------------------------------------------------------------------------------------------


def at(moment: datetime, seconds: float) -> datetime:
    return moment + timedelta(seconds=seconds)


async def test_a_wait_for_the_window_is_reported(api: FakeApi, clock: VirtualClock) -> None:
    """When it begins. Its length, its end by the server's clock, its reason. A call without a wait reports nothing."""
    waits: list[tuple[float, Wait]] = []
    noon = clock.now()
    async with make_client(api, on_wait=lambda wait: waits.append((clock.monotonic(), wait))) as client:
        for _ in range(50):
            await client.get_usage()
        await clock.sleep(100.0)
        assert waits == []
        await client.get_usage()
    assert waits == [(100.0, Wait(801.0, at(noon, 901), "no calls left in the app's 15-minute window"))]


async def test_a_backoff_is_reported(api: FakeApi, clock: VirtualClock) -> None:
    """The wait between two attempts, too."""
    waits: list[Wait] = []
    noon = clock.now()
    api.fail(Fault.status(503, headers={"retry-after": "45"}))
    async with make_client(api, on_wait=waits.append) as client:
        await client.get_usage()
    assert waits == [Wait(45.0, at(noon, 45), "the last attempt failed (ServerError)")]


async def test_a_429_is_reported_once(api: FakeApi) -> None:
    """The one wait until the window opens, and no other."""
    waits: list[Wait] = []
    api.fail(Fault.rate_limited())
    async with make_client(api, on_wait=waits.append) as client:
        await client.get_usage()
    assert [wait.seconds for wait in waits] == [901.0]


async def test_calls_that_share_a_request_share_its_wait(api: FakeApi) -> None:
    """Equal calls with max_age= wait for one request: that is one wait."""
    waits: list[Wait] = []
    api.fail(Fault.rate_limited())
    async with make_client(api, on_wait=waits.append) as client:
        await asyncio.gather(*(client.get_usage(max_age=60) for _ in range(10)))
    assert len(waits) == 1


@pytest.mark.parametrize("fault", [Fault.rate_limited(), Fault.status(503, headers={"retry-after": "45"})], ids=repr)
async def test_a_hook_that_raises_ends_its_call_only(fault: Fault, api: FakeApi, clock: VirtualClock) -> None:
    """What it raises is raised to its caller. It leaves no place in the queue: another client's calls all go."""

    def hook(_: Wait) -> None:
        raise ZeroDivisionError

    api.fail(fault)
    async with make_client(api, on_wait=hook) as client, make_client(api) as other:
        with pytest.raises(ZeroDivisionError):
            await client.get_usage()
        await asyncio.gather(*(other.get_usage() for _ in range(49)))
    assert clock.monotonic() < 902.0


# -- The log -----------------------------------------------------------------------------------------------------------


async def test_a_long_wait_is_a_line_in_the_log(
    api: FakeApi, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """One line at INFO, when it begins: how long, until when, why. No token, and nothing when the wait is over."""
    caplog.set_level(logging.INFO, "twusage")
    noon = clock.now()
    api.fail(Fault.rate_limited())
    async with make_client(api) as client:
        await client.get_usage()
    assert clock.now() > at(noon, 900)
    assert caplog.record_tuples == [
        (
            "twusage",
            logging.INFO,
            "waiting 901 s, until 2026-01-15 12:15:01+00:00: no calls left in the app's 15-minute window",
        )
    ]
    assert api.apps[0].token not in caplog.text


@pytest.mark.parametrize(("seconds", "lines"), [(3, 1), (2, 0)])
async def test_a_short_wait_is_no_line_in_the_log(
    seconds: int, lines: int, api: FakeApi, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waits of three seconds are logged. A hook also gets the shorter ones."""
    monkeypatch.setattr(random, "uniform", lambda low, _: low)
    caplog.set_level(logging.INFO, "twusage")
    waits: list[Wait] = []
    api.fail(Fault.status(503, headers={"retry-after": str(seconds)}))
    async with make_client(api, on_wait=waits.append) as client:
        await client.get_usage()
    assert [wait.seconds for wait in waits] == [seconds]
    assert len(caplog.records) == lines
    if lines:
        assert caplog.messages[0].endswith(": the last attempt failed (ServerError)")


# -- max_age -----------------------------------------------------------------------------------------------------------


async def test_a_thousand_concurrent_calls_make_one_request(client: UsageClient, api: FakeApi) -> None:
    """With max_age, equal calls at one time share one request and its result."""
    results = await asyncio.gather(*(client.get_usage(max_age=60) for _ in range(1000)))
    assert len(api.requests) == 1
    assert all(result is results[0] for result in results)


async def test_a_young_result_is_reused_and_an_old_one_is_not(
    client: UsageClient, api: FakeApi, clock: VirtualClock
) -> None:
    """Up to max_age seconds old will do; a second more will not."""
    first = await client.get_usage(max_age=60)
    await clock.sleep(60)
    assert await client.get_usage(max_age=60) is first
    await clock.sleep(1)
    assert await client.get_usage(max_age=60) is not first
    assert len(api.requests) == 2


async def test_a_reused_result_lets_others_run(client: UsageClient) -> None:
    """A loop that polls with max_age neither starves its program nor outlives its timeout."""
    await client.get_usage()

    async def poll() -> None:
        while True:
            await client.get_usage(max_age=60)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(poll(), 0.01)


async def test_a_suspended_machine_calls_again(client: UsageClient, api: FakeApi, clock: VirtualClock) -> None:
    """A result grows old while the machine is suspended, though its monotonic clock stands still."""
    first = await client.get_usage()
    clock.suspend(8 * 3600)
    assert await client.get_usage(max_age=60) is not first
    clock.jump(-3600)
    assert (await client.get_usage(max_age=60)).fetched_at > clock.now(), "a clock set back makes nothing old"
    assert len(api.requests) == 2


async def test_a_result_of_a_plain_call_is_reused_too(client: UsageClient, api: FakeApi) -> None:
    """The caller's identity does not matter."""
    first = await client.get_usage(days=7)
    assert await client.get_usage(days=7, max_age=1) is first


async def test_without_max_age_it_always_calls(client: UsageClient, api: FakeApi) -> None:
    """None never uses the cache, and max_age=0 only a response of this very instant."""
    await client.get_usage()
    await client.get_usage()
    assert len(api.requests) == 2
    await api.clock.sleep(0.001)
    await client.get_usage(max_age=0)
    assert len(api.requests) == 3


async def test_other_arguments_are_another_result(client: UsageClient, api: FakeApi) -> None:
    """Only equal calls share: the same days and fields, in whatever order."""
    one = await client.get_usage(days=7, fields=["project_cap", "daily_project_usage"], max_age=60)
    same = await client.get_usage(days=7, fields=["daily_project_usage", UsageField.PROJECT_CAP], max_age=60)
    other = await client.get_usage(days=8, max_age=60)
    assert one is same
    assert other is not one
    assert len(api.requests) == 2


async def test_no_more_than_a_few_results_are_kept(client: UsageClient, api: FakeApi) -> None:
    """The oldest goes first."""
    for days in range(1, _CACHE_SIZE + 2):
        await client.get_usage(days=days)
    await client.get_usage(days=_CACHE_SIZE + 1, max_age=60)
    await client.get_usage(days=2, max_age=60)
    assert len(api.requests) == _CACHE_SIZE + 1
    await client.get_usage(days=1, max_age=60)
    assert len(api.requests) == _CACHE_SIZE + 2


async def test_a_cancelled_caller_does_not_cancel_the_others(api: FakeApi) -> None:
    """The first of three, who began the request, is cancelled. The others get their result from that same request."""
    gate = Gate(api)
    async with make_client(api, transport=gate) as client:
        tasks = [asyncio.create_task(client.get_usage(max_age=60)) for _ in range(3)]
        await settle()
        tasks[0].cancel()
        await settle()
        gate.open.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert isinstance(results[1], Usage)
    assert results[2] is results[1]
    assert gate.begun == 1


async def test_the_last_caller_takes_the_request_along(api: FakeApi) -> None:
    """If every caller is cancelled, nothing runs on. The next caller starts a new call."""
    gate = Gate(api)
    async with make_client(api, transport=gate) as client:
        tasks = [asyncio.create_task(client.get_usage(max_age=60)) for _ in range(2)]
        await settle()
        for task in tasks:
            task.cancel()
        # In the very tick of the cancellation: it must not join a request that is about to die.
        late = asyncio.create_task(client.get_usage(max_age=60))
        await settle()
        gate.open.set()
        assert isinstance(await late, Usage)
        assert gate.begun == 2
        assert not client._cache._flights
    assert all(task.cancelled() for task in tasks)


async def test_nothing_runs_on_without_a_caller(api: FakeApi) -> None:
    """With its only caller gone, the shared request ends. No task is left, and its place is given back."""
    gate = Gate(api)
    async with make_client(api, transport=gate) as client:
        only = asyncio.create_task(client.get_usage(max_age=60))
        await settle()
        only.cancel()
        await settle()
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_shared_failure_is_everybodys_own(api: FakeApi) -> None:
    """Each caller gets the error, as an exception of its own. Tracebacks do not grow into each other."""
    api.fail(Fault.status(401))
    async with make_client(api) as client:
        results = await asyncio.gather(*(client.get_usage(max_age=60) for _ in range(3)), return_exceptions=True)
        assert {type(result) for result in results} == {AuthenticationError}
        assert len({id(result) for result in results}) == 3
        assert all(result.status == 401 for result in results if isinstance(result, AuthenticationError))
        assert isinstance(await client.get_usage(max_age=60), Usage), "a failure is not kept"


async def test_a_timeout_of_the_callers_own_ends_only_its_wait(api: FakeApi) -> None:
    """asyncio.timeout around one of two shared calls ends that one."""
    gate = Gate(api)
    async with make_client(api, transport=gate) as client:
        patient = asyncio.create_task(client.get_usage(max_age=60))
        await settle()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await client.get_usage(max_age=60)
        gate.open.set()
        assert isinstance(await patient, Usage)


# -- Closing -----------------------------------------------------------------------------------------------------------


async def test_closing_ends_the_calls_under_way(api: FakeApi, clock: VirtualClock) -> None:
    """On the wire, in the window's queue, backing off, sharing. Every call ends immediately with ClientClosedError."""
    gate = Gate(api)
    client = make_client(api, transport=gate)
    on_the_wire = asyncio.create_task(client.get_usage())
    shared = [asyncio.create_task(client.get_usage(max_age=60)) for _ in range(2)]
    in_the_queue = asyncio.create_task(client.get_usage(days=3))
    await settle()
    await client.aclose()
    results = await asyncio.gather(on_the_wire, *shared, in_the_queue, return_exceptions=True)
    assert {type(result) for result in results} == {ClientClosedError}
    assert clock.monotonic() == 0.0
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_closing_ends_a_call_that_backs_off(api: FakeApi) -> None:
    """A call between two attempts ends too."""
    manual = VirtualClock(auto=False)
    api.fail(Fault.status(503), times=4)
    client = UsageClient(api.apps[0].token, transport=FakeTransport(api, clock=manual), clock=manual)
    call = asyncio.create_task(client.get_usage())
    await settle()
    await client.aclose()
    with pytest.raises(ClientClosedError):
        await call


async def test_a_closed_client_raises(api: FakeApi) -> None:
    """No call begins on a closed client, not even one with a young result."""
    client = make_client(api)
    await client.get_usage()
    await client.aclose()
    for max_age in (None, 60):
        with pytest.raises(ClientClosedError, match="create a new one"):
            await client.get_usage(max_age=max_age)
    gc.collect()  # a coroutine that was never awaited would warn here


async def test_closing_twice_and_from_two_tasks_is_fine(api: FakeApi) -> None:
    """Aclose is idempotent, also while it runs."""
    gate = Gate(api)
    client = make_client(api, transport=gate)
    call = asyncio.create_task(client.get_usage(max_age=5))
    await settle()
    await asyncio.gather(client.aclose(), client.aclose())
    await client.aclose()
    with pytest.raises(ClientClosedError):
        await call


async def test_a_caller_cancelled_while_it_closes_stays_cancelled(api: FakeApi) -> None:
    """CancelledError is not turned into something else."""
    gate = Gate(api)
    client = make_client(api, transport=gate)
    call = asyncio.create_task(client.get_usage())
    await settle()
    call.cancel()
    await client.aclose()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_timeout_of_the_callers_own_stays_a_timeout(api: FakeApi) -> None:
    """A TimeoutError that the client did not cause passes."""
    gate = Gate(api)
    async with make_client(api, transport=gate) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await client.get_usage()


async def test_a_timeout_error_out_of_the_transport_passes(api: FakeApi) -> None:
    """A transport that breaks its promise is not mistaken for a closed client."""

    class Careless(FakeTransport):
        async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109
            raise TimeoutError("mine")

    async with make_client(api, transport=Careless(api)) as client:
        with pytest.raises(TimeoutError, match="mine"):
            await client.get_usage()


async def test_a_cancelled_shared_request_is_a_closed_client(api: FakeApi) -> None:
    """A program that cancels all tasks of a loop ends the shared request. Its callers get that, and do not hang."""
    gate = Gate(api)
    client = make_client(api, transport=gate)
    call = asyncio.create_task(client.get_usage(max_age=5))
    await settle()
    (shared,) = client._cache._flights.values()
    shared._task.cancel()
    with pytest.raises(ClientClosedError):
        await call


async def test_a_client_that_closes_in_the_step_of_a_call_opens_nothing() -> None:
    """A call that continues in the step of the closing does not open a transport. It would leak."""
    ready = asyncio.get_running_loop().create_future()

    class Slow:
        async def token(self) -> str:
            await ready
            return "B" * 30

    client = UsageClient(Slow(), base_url="http://127.0.0.1:9")
    call = asyncio.create_task(client.get_usage())
    await settle()
    ready.set_result(None)
    await client.aclose()
    with pytest.raises(ClientClosedError):
        await call
    assert client._transport._session is None  # type: ignore[attr-defined]


async def test_a_foreign_error_is_shared_unchanged(api: FakeApi) -> None:
    """What a user's transport raises may not be made to be copied."""

    class OddError(Exception):
        def __init__(self, one: str, two: str) -> None:
            super().__init__(one + two)

    class Odd(FakeTransport):
        async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109
            raise OddError("a", "b")

    async with make_client(api, transport=Odd(api)) as client:
        with pytest.raises(OddError, match="ab"):
            await client.get_usage(max_age=1)


async def test_a_client_serves_one_loop_at_a_time(api: FakeApi) -> None:
    """A call on another thread's loop raises with advice."""
    async with make_client(api, limiter=LocalRateLimiter(clock=api.clock)) as client:
        await client.get_usage()

        def elsewhere() -> None:
            asyncio.run(client.get_usage(max_age=5))

        with pytest.raises(ConfigurationError, match="UsageClient is bound to another event loop; create one per loop"):
            await asyncio.to_thread(elsewhere)
        await client.get_usage()


async def test_a_transport_of_the_callers_stays_open(api: FakeApi) -> None:
    """Closing closes only what the client opened."""
    gate = Gate(api)
    async with make_client(api, transport=gate):
        pass
    assert gate.closed == 0


# -- The environment ---------------------------------------------------------------------------------------------------


async def test_from_env_reads_the_token_and_the_base_url(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """X_BEARER_TOKEN and TWUSAGE_BASE_URL are all it needs."""
    monkeypatch.setenv("X_BEARER_TOKEN", api.apps[2].token)
    monkeypatch.setenv("TWUSAGE_BASE_URL", "https://api.x.com/")
    async with UsageClient.from_env(transport=FakeTransport(api), clock=api.clock) as client:
        await client.get_usage()
    assert api.requests[0].url == "https://api.x.com/2/usage/tweets"
    assert api.requests[0].headers["authorization"] == f"Bearer {api.apps[2].token}"


async def test_keywords_go_before_the_environment(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """from_env takes the keywords of the constructor; base_url= wins."""
    monkeypatch.setenv("X_BEARER_TOKEN", api.apps[0].token)
    monkeypatch.setenv("TWUSAGE_BASE_URL", "https://nowhere.example")
    async with UsageClient.from_env(
        transport=FakeTransport(api), clock=api.clock, base_url="http://localhost:1"
    ) as client:
        await client.get_usage(days=1)
    assert api.requests[0].url.startswith("http://localhost:1/2/usage/tweets?days=1&")


def test_a_wrong_base_url_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who never wrote base_url learns which variable it is."""
    monkeypatch.setenv("X_BEARER_TOKEN", "AAAA")
    monkeypatch.setenv("TWUSAGE_BASE_URL", "http://api.x.com")
    with pytest.raises(ConfigurationError, match="TWUSAGE_BASE_URL must be https"):
        UsageClient.from_env()


def test_a_token_given_needs_none_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """auth= goes before the environment."""
    for name in ("X_BEARER_TOKEN", "TWITTER_BEARER_TOKEN", "BEARER_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert isinstance(UsageClient.from_env(auth="AAAA"), UsageClient)
    with pytest.raises(ConfigurationError, match="the token is empty"):
        UsageClient.from_env(auth="")


def test_an_empty_base_url_in_the_environment_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is set to nothing is as good as unset."""
    monkeypatch.setenv("X_BEARER_TOKEN", "AAAA")
    monkeypatch.setenv("TWUSAGE_BASE_URL", "")
    assert UsageClient.from_env()._base_url == "https://api.twitter.com"


def test_an_environment_without_a_token_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable to set."""
    for name in ("X_BEARER_TOKEN", "TWITTER_BEARER_TOKEN", "BEARER_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError, match="set X_BEARER_TOKEN"):
        UsageClient.from_env()


async def test_closing_from_elsewhere(api: FakeApi) -> None:
    """Another thread with its own loop cannot close a client in use."""
    client = make_client(api, retry=RetryPolicy.none())
    await client.get_usage()

    def elsewhere() -> None:
        asyncio.run(client.aclose())

    with pytest.raises(ConfigurationError, match="bound to another event loop"):
        await asyncio.to_thread(elsewhere)
    await client.get_usage()
    await client.aclose()


@pytest.mark.parametrize(
    "fault", [Fault.credits_depleted(), Fault.spend_cap_reached(), Fault.usage_capped()], ids=lambda fault: fault.name
)
async def test_a_quota_error_reports_no_window(client: UsageClient, api: FakeApi, fault: Fault) -> None:
    """Its headers are those of another window (40,000 calls). The client's rate limit stays as it was."""
    await client.get_usage()
    before = client.rate_limit
    api.fail(fault)
    with pytest.raises(QuotaError) as caught:
        await client.get_usage()
    assert caught.value.headers["x-rate-limit-limit"] == "40000"
    assert client.rate_limit == before


def test_the_clock_is_public() -> None:
    """``client.clock`` is the clock that the client was given, and cannot be replaced."""
    clock = VirtualClock()
    client = UsageClient("token", transport=FakeTransport(FakeApi()), clock=clock)
    assert client.clock is clock
    with pytest.raises(AttributeError):
        client.clock = clock  # type: ignore[misc]


async def test_an_outage_ends_for_all_that_wait(api: FakeApi, clock: VirtualClock) -> None:
    """Fifty calls that cannot connect end within their attempts' timeouts and backoffs, whatever the queue."""

    class Unreachable:
        async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109 - as Transport has it
            await clock.sleep(timeout)
            raise ConnectError("no route")

        async def aclose(self) -> None: ...

    limiter = LocalRateLimiter(clock=clock)
    async with UsageClient("token", transport=Unreachable(), limiter=limiter, clock=clock, timeout=30) as client:
        outcomes = await asyncio.gather(*(client.get_usage() for _ in range(50)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {ConnectError}
    assert clock.monotonic() <= 200.0


async def test_a_used_up_cap_has_a_date(client: UsageClient, api: FakeApi) -> None:
    """``retry_at`` is the reset of the cycle, once a response has reported ``cap_reset_day``."""
    api.fail(Fault.usage_capped(), times=1)
    with pytest.raises(UsageCapExceededError) as first:
        await client.get_usage()
    usage = await client.get_usage()
    api.fail(Fault.usage_capped(), times=1)
    with pytest.raises(UsageCapExceededError) as later:
        await client.get_usage()
    assert first.value.retry_at is None
    assert later.value.retry_at == cycle_of(usage).resets_at  # type: ignore[union-attr]


async def test_a_wait_that_ends_with_another_calls_failure_is_charged(api: FakeApi, clock: VirtualClock) -> None:
    """The wait behind a probe that could not connect counts against ``max_wait``."""

    class Unreachable:
        async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109 - as Transport has it
            await clock.sleep(timeout)
            raise ConnectError("no route")

        async def aclose(self) -> None: ...

    retry = RetryPolicy(max_wait=70.0, max_attempts=50)
    limiter = LocalRateLimiter(clock=clock)
    client = UsageClient("token", transport=Unreachable(), limiter=limiter, clock=clock, timeout=30, retry=retry)
    async with client:
        outcomes = await asyncio.gather(*(client.get_usage() for _ in range(5)), return_exceptions=True)
    assert clock.monotonic() <= 400.0
    assert all(isinstance(outcome, ConnectError | RateLimitedError) for outcome in outcomes)
