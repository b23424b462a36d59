"""What every transport does alike. One suite of behaviours, over the fake in memory and over real sockets.

Another transport is one more entry in ``WAYS``: an async context manager that leads to a ``FakeApi``.
"""

import datetime as dt
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp.test_utils import TestServer
from attrs import evolve, frozen

from twusage import AppOnlyAuth, Auth, UsageClient, UsageField
from twusage.aiohttp_transport import AiohttpTransport
from twusage.errors import (
    ApiError,
    AuthenticationError,
    BadRequestError,
    ConnectError,
    CreditsDepletedError,
    DecodeError,
    ForbiddenError,
    ProtocolError,
    RateLimitedError,
    RequestTimeoutError,
    ServerError,
    SpendCapReachedError,
    TwUsageError,
    UsageCapExceededError,
)
from twusage.limiter import LocalRateLimiter
from twusage.models import EPOCH, Usage
from twusage.protocol import DEFAULT_BASE_URL, Request, authorize, usage_request
from twusage.retry import RetryPolicy
from twusage.testing import FakeApi, FakeTransport, Fault, RecordingTransport, ReplayTransport, VirtualClock, fake_app
from twusage.transport import Transport

# Seconds; only the tests without a response wait for it, and over a socket in real time.
TIMEOUT = 0.2


@frozen
class Service:
    """A fake API and the way to it."""

    api: FakeApi
    transport: Transport
    base_url: str = DEFAULT_BASE_URL

    def client(self, token: str | Auth | None = None, **keywords: Any) -> UsageClient:
        """A client of the first app, without retries and without a known window."""
        defaults: dict[str, Any] = {
            "transport": self.transport,
            "base_url": self.base_url,
            "retry": RetryPolicy.none(),
            "limiter": LocalRateLimiter(),
        }
        return UsageClient(token or self.api.apps[0].token, **defaults | keywords)

    async def usage(self, *, token: str | None = None, **arguments: Any) -> Usage:
        return await self.client(token).get_usage(**arguments)

    async def refusal(self, kind: type[TwUsageError], *, token: str | None = None, **keywords: Any) -> Any:
        """The error of a call: exactly of this class, and without the token."""
        token = token or self.api.apps[0].token
        with pytest.raises(TwUsageError) as caught:
            await self.client(token, **keywords).get_usage()
        assert type(caught.value) is kind
        assert token not in f"{caught.value}{caught.value!r}"
        return caught.value


@asynccontextmanager
async def in_memory(api: FakeApi, _: Path) -> AsyncIterator[Service]:
    yield Service(api, FakeTransport(api))


@asynccontextmanager
async def over_sockets(api: FakeApi, _: Path) -> AsyncIterator[Service]:
    transport = AiohttpTransport()
    async with TestServer(fake_app(api)) as server:
        yield Service(api, transport, str(server.make_url("")).rstrip("/"))
        await transport.aclose()


@asynccontextmanager
async def recorded(api: FakeApi, directory: Path) -> AsyncIterator[Service]:
    async with in_memory(api, directory) as service:
        yield evolve(service, transport=RecordingTransport(service.transport, directory / "recording.json"))


Way = Callable[[FakeApi, Path], AbstractAsyncContextManager[Service]]
WAYS: dict[str, Way] = {"memory": in_memory, "sockets": over_sockets, "recorded": recorded}


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture(params=WAYS)
async def service(request: pytest.FixtureRequest, api: FakeApi, tmp_path: Path) -> AsyncIterator[Service]:
    way = WAYS[request.param]
    # An in-memory fake's clock advances instead of waiting. The other end of a socket has the real one.
    if way is not over_sockets:
        api.clock = VirtualClock(dt.datetime.now(dt.UTC))
    async with way(api, tmp_path) as service:
        yield service
    api.assert_all_used()


# -- The source of the token -------------------------------------------------------------------------------------------


class TestMinting:
    async def test_a_key_and_its_secret(self, service: Service) -> None:
        """They are exchanged for the app's token once, and the calls go with it."""
        app = service.api.apps[1]
        client = service.client(AppOnlyAuth(app.api_key, app.api_secret))
        usages = [await client.get_usage(), await client.get_usage(days=3)]
        assert {usage.project_id for usage in usages} == {service.api.project.id}
        token_request, *calls = service.api.requests
        assert (token_request.method, urlsplit(token_request.url).path, token_request.body) == (
            "POST",
            "/oauth2/token",
            b"grant_type=client_credentials",
        )
        assert token_request.headers["content-type"] == "application/x-www-form-urlencoded;charset=UTF-8"
        assert [call.headers["authorization"] for call in calls] == [f"Bearer {app.token}"] * 2
        assert usages[0].rate_limit is not None
        assert usages[0].rate_limit.remaining == 49, "a token request costs nothing of the window"

    async def test_a_wrong_secret(self, service: Service) -> None:
        """The API's 403 is about the key and the secret."""
        client = service.client(AppOnlyAuth(service.api.apps[0].api_key, "wrong"))
        with pytest.raises(AuthenticationError, match="consumer keys") as caught:
            await client.get_usage()
        assert (caught.value.status, caught.value.problem.extra["code"]) == (403, 99)

    async def test_a_renewal(self, service: Service) -> None:
        """A token that is refused is renewed, and the call succeeds."""
        app = service.api.apps[0]
        client = service.client(AppOnlyAuth(app.api_key, app.api_secret), retry=RetryPolicy())
        await client.get_usage()
        app.tokens[:] = ["AAAAanother%2Ftoken"]
        assert (await client.get_usage()).project_id == service.api.project.id
        assert [request.method for request in service.api.requests] == ["POST", "GET", "GET", "POST", "GET"]

    async def test_what_may_pass(self, service: Service) -> None:
        """A token request that breaks off is retried."""
        app = service.api.apps[0]
        service.api.fail(Fault.reset())
        clock = VirtualClock(dt.datetime.now(dt.UTC))
        client = service.client(
            AppOnlyAuth(app.api_key, app.api_secret),
            retry=RetryPolicy(),
            clock=clock,
            limiter=LocalRateLimiter(clock=clock),
        )
        assert (await client.get_usage()).project_id == service.api.project.id


async def test_a_recorded_token_request_is_replayed(api: FakeApi, tmp_path: Path) -> None:
    """The recording holds neither the key, nor the secret, nor the token, and still leads to the same usage."""
    app = api.apps[0]
    async with recorded(api, tmp_path) as service:
        usage = await service.client(AppOnlyAuth(app.api_key, app.api_secret)).get_usage()
    text = (tmp_path / "recording.json").read_text()
    assert not [secret for secret in (app.api_key, app.api_secret, app.token) if secret in text]
    client = Service(api, ReplayTransport(tmp_path / "recording.json")).client(AppOnlyAuth("key", "secret"))
    assert evolve(await client.get_usage(), fetched_at=usage.fetched_at) == usage


# -- Results -----------------------------------------------------------------------------------------------------------


class TestUsage:
    async def test_the_summary(self, service: Service) -> None:
        """Without arguments: the project's four numbers, the window, and nothing by day."""
        usage = await service.usage()
        project = service.api.project
        today = dt.datetime.fromtimestamp(service.api.clock.time(), dt.UTC).date()
        assert usage.project_id == project.id
        assert usage.project_cap == project.cap
        assert usage.project_usage == project.usage(today)
        assert usage.cap_reset_day == project.reset_day
        assert usage.daily_project_usage is None
        assert usage.daily_client_app_usage == ()
        assert not usage.errors
        assert not usage.extra

    async def test_the_days(self, service: Service) -> None:
        """With days: what each app read on each of them, and the project's sums."""
        usage = await service.usage(days=30)
        apps = service.api.apps
        assert [each.client_app_id for each in usage.daily_client_app_usage] == [app.id for app in apps]
        for each, app in zip(usage.daily_client_app_usage, apps, strict=True):
            assert each.usage_result_count == len(each.usage) <= 30
            assert {row.date: row.usage for row in each.usage}.items() <= app.reads.items()
        assert usage.daily_project_usage is not None
        daily = usage.daily_project_usage.usage
        assert len(daily) == 30
        assert all(
            count == sum(app.reads.get(day, 0) for app in apps)
            for day, count in zip(daily.dates, daily.counts, strict=True)
        )

    @pytest.mark.parametrize(
        ("field", "project", "apps"),
        [(UsageField.DAILY_PROJECT_USAGE, True, False), (UsageField.DAILY_CLIENT_APP_USAGE, False, True)],
    )
    async def test_one_field(self, service: Service, field: UsageField, project: bool, apps: bool) -> None:
        """A field alone brings that field, for seven days."""
        usage = await service.usage(fields=[field])
        assert (usage.daily_project_usage is not None) is project
        assert bool(usage.daily_client_app_usage) is apps

    async def test_a_project_without_reads(self, service: Service) -> None:
        """A project that never read has a usage of 0 and apps without days."""
        service.api._history_days = 0
        usage = await service.usage(days=7)
        assert usage.project_usage == 0
        assert all(not each.usage for each in usage.daily_client_app_usage)

    async def test_the_window(self, service: Service) -> None:
        """Each response has the app's window, on the result and on the client, and every call takes one from it."""
        client = service.client()
        first = await client.get_usage()
        second = await client.get_usage()
        assert first.rate_limit is not None
        assert second.rate_limit is not None
        assert (first.rate_limit.limit, first.rate_limit.remaining, second.rate_limit.remaining) == (50, 49, 48)
        assert client.rate_limit == second.rate_limit
        now = dt.datetime.fromtimestamp(service.api.clock.time(), dt.UTC)
        assert dt.timedelta(seconds=890) < second.rate_limit.reset_at - now <= dt.timedelta(seconds=900)

    async def test_the_same_answer_again(self, service: Service) -> None:
        """A cache on the way may repeat a response. It is decoded as it was."""
        client = service.client()
        first = await client.get_usage(days=7)
        service.api.read_posts(service.api.apps[0], 100)
        service.api.fail(Fault.repeated())
        second = await client.get_usage(days=7)
        assert evolve(second, fetched_at=first.fetched_at) == first

    async def test_a_slow_answer(self, service: Service) -> None:
        """A response within the timeout is decoded."""
        service.api.fail(Fault.slow(0.05))
        assert (await service.usage()).project_id == service.api.project.id

    async def test_without_the_windows_headers(self, service: Service) -> None:
        """A response without rate-limit headers is as good as any."""
        service.api.fail(Fault.with_headers(x_rate_limit_reset=None))
        usage = await service.usage()
        assert usage.rate_limit is None
        assert usage.project_id == service.api.project.id


async def test_all_ways_lead_to_the_same_usage(api: FakeApi, tmp_path: Path) -> None:
    """One service over every transport gives equal values. Only the time and the calls left differ."""
    answers = []
    for way in WAYS.values():
        async with way(api, tmp_path) as service:
            answers.append(evolve(await service.usage(days=90), fetched_at=EPOCH, rate_limit=None))
    assert answers == answers[:1] * len(WAYS)


# -- What is sent ------------------------------------------------------------------------------------------------------


class TestRequests:
    async def test_one_call_is_one_request(self, service: Service) -> None:
        """The request arrives once and complete. Method, path, query, token, and the common headers."""
        await service.usage(days=7, fields=[UsageField.DAILY_PROJECT_USAGE])
        (received,) = service.api.requests
        assert received.method == "GET"
        assert urlsplit(received.url)[2:4] == ("/2/usage/tweets", "days=7&usage.fields=daily_project_usage")
        assert received.headers["authorization"] == f"Bearer {service.api.apps[0].token}"
        assert received.headers["accept"] == "application/json"
        assert received.headers["user-agent"].startswith("twusage/")
        assert received.body == b""

    async def test_a_failed_call_is_one_request(self, service: Service) -> None:
        """A failed call was sent once all the same, with any HTTP library."""
        for fault in (Fault.status(503), Fault.disconnected(), Fault.reset()):
            service.api.fail(fault)
            with pytest.raises(TwUsageError):
                await service.usage()
        assert len(service.api.requests) == 3

    async def test_the_body_of_a_request_arrives(self, service: Service) -> None:
        """A request may have a body. A token request has one."""
        request = Request(
            "POST",
            f"{service.base_url}/oauth2/token",
            {"authorization": "Basic bm86Ym9keQ==", "content-type": "application/x-www-form-urlencoded"},
            b"grant_type=client_credentials",
        )
        response = await service.transport.send(request, timeout=5)
        assert response.status == 403
        assert service.api.requests[0].body == b"grant_type=client_credentials"

    async def test_closing_twice(self, service: Service) -> None:
        """A transport may be closed twice, used or not."""
        await service.usage()
        await service.transport.aclose()
        await service.transport.aclose()


# -- What the API refuses ----------------------------------------------------------------------------------------------


class TestRefusals:
    async def test_a_bad_token(self, service: Service) -> None:
        """A token that no app has: 401, without a window."""
        error = await service.refusal(AuthenticationError, token="AAAAAAAAAAAAAAAAAAAAAnobodys%2Ftoken")
        assert error.status == 401
        assert error.rate_limit is None
        assert not error.retryable

    async def test_a_user_context_token(self, service: Service) -> None:
        """A token that is not app-only: 403, with the API's own words."""
        service.api.user_tokens.add("user-context-token")
        error = await service.refusal(ForbiddenError, token="user-context-token")
        assert error.status == 403
        assert error.problem.title == "Unsupported Authentication"

    async def test_an_app_outside_a_project(self, service: Service) -> None:
        """An app that is attached to no project. 403, and which one it is."""
        app = service.api.add_app(attached=False)
        error = await service.refusal(ForbiddenError, token=app.token)
        assert error.problem.title == "Client Forbidden"
        assert error.problem.extra["client_id"] == app.id

    @pytest.mark.parametrize("query", ["days=91", "days=x", "usage.fields=likes", "day=7"])
    async def test_a_bad_parameter(self, service: Service, query: str) -> None:
        """The API itself refuses what the client would never send. 400, and names the parameter."""
        request = authorize(usage_request(base_url=service.base_url), service.api.apps[0].token)
        response = await service.transport.send(evolve(request, url=f"{request.url}?{query}"), timeout=5)
        assert response.status == 400
        assert list(json.loads(response.body)["errors"][0]["parameters"]) == [query.partition("=")[0]]

    async def test_a_bad_parameter_as_an_error(self, service: Service) -> None:
        """A 400 is a BadRequestError, with the API's words."""
        service.api.fail(Fault.status(400))
        assert (await service.refusal(BadRequestError)).problem.status == 400

    async def test_an_unknown_path(self, service: Service) -> None:
        """What is not there is a 404, and an ApiError of no closer kind."""
        error = await service.refusal(ApiError, base_url=f"{service.base_url}/elsewhere")
        assert error.status == 404
        assert urlsplit(service.api.requests[0].url).path == "/elsewhere/2/usage/tweets"

    async def test_the_window_is_used_up(self, service: Service) -> None:
        """The call after the last of the window. 429, the window's headers, and when to retry."""
        service.api.rate_limit = 2
        await service.usage()
        last = (await service.usage()).rate_limit
        error = await service.refusal(RateLimitedError)
        assert last is not None
        assert error.status == 429
        assert error.window_exhausted
        assert error.rate_limit == evolve(last, remaining=0)
        # The header shows whole seconds, and the window ends within the last.
        assert error.retry_at == last.reset_at + dt.timedelta(seconds=1)
        assert error.headers["x-rate-limit-reset"] == f"{last.reset_at.timestamp():.0f}"
        assert len(service.api.requests) == 3

    async def test_the_monthly_cap(self, service: Service) -> None:
        """A 429 of the cap is not one of the window. It is not retried."""
        service.api.fail(Fault.usage_capped())
        error = await service.refusal(UsageCapExceededError)
        assert (error.status, error.retryable) == (429, False)
        assert error.problem.extra["period"] == "Monthly"

    async def test_no_credits(self, service: Service) -> None:
        """A 402 means that no credits are left."""
        service.api.fail(Fault.credits_depleted())
        assert (await service.refusal(CreditsDepletedError)).status == 402

    async def test_the_spending_limit(self, service: Service) -> None:
        """A 403 of the spending limit has its end."""
        service.api.fail(Fault.spend_cap_reached("2026-04-14"))
        error = await service.refusal(SpendCapReachedError)
        assert (error.status, error.reset_date) == (403, dt.date(2026, 4, 14))

    @pytest.mark.parametrize("status", [408, 500, 502, 503, 504, 520])
    async def test_the_server_is_in_trouble(self, service: Service, status: int) -> None:
        """408 and all of 5xx are retryable, and never a success, whatever the body."""
        good = json.dumps({"data": {"project_usage": "1"}})
        service.api.fail(Fault.status(status, good))
        error = await service.refusal(ServerError)
        assert (error.status, error.retryable, error.body) == (status, True, good.encode())

    async def test_trouble_that_passes(self, service: Service) -> None:
        """A 503 and then a response. The caller gets the response, the API gets two requests."""
        service.api.fail(Fault.status(503))
        clock = VirtualClock(dt.datetime.now(dt.UTC))
        usage = await service.client(
            retry=RetryPolicy(), clock=clock, limiter=LocalRateLimiter(clock=clock)
        ).get_usage()
        assert usage.project_id == service.api.project.id
        assert len(service.api.requests) == 2


# -- Responses of other servers ----------------------------------------------------------------------------------------


class TestGarbage:
    async def test_a_page(self, service: Service) -> None:
        """HTML with a 200 is not JSON: tried once more."""
        service.api.fail(Fault.html())
        error = await service.refusal(DecodeError)
        assert error.retry_once
        assert "DOCTYPE" in error.excerpt

    async def test_a_page_with_a_status(self, service: Service) -> None:
        """HTML with a 502 is trouble of the edge's."""
        service.api.fail(Fault.html(502))
        assert (await service.refusal(ServerError)).problem.title is None

    async def test_half_an_answer(self, service: Service) -> None:
        """JSON that ends in the middle: tried once more."""
        service.api.fail(Fault.garbled())
        assert (await service.refusal(DecodeError)).retry_once

    async def test_nothing(self, service: Service) -> None:
        """A 200 without a body: tried once more."""
        service.api.fail(Fault.empty())
        assert (await service.refusal(ProtocolError)).retry_once

    @pytest.mark.parametrize("status", [204, 304])
    async def test_a_status_without_a_body(self, service: Service, status: int) -> None:
        """Statuses that never have a body mean nothing here: tried once more."""
        service.api.fail(Fault.status(status, b""))
        assert (await service.refusal(ProtocolError)).retry_once

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_a_redirect(self, service: Service, status: int) -> None:
        """Redirects are not followed, and not tried again."""
        service.api.fail(Fault.status(status, b"", headers={"location": f"{service.base_url}/elsewhere"}))
        error = await service.refusal(ProtocolError)
        assert not error.retryable
        assert "redirect" in str(error)
        assert len(service.api.requests) == 1


# -- What goes wrong on the way ----------------------------------------------------------------------------------------


class TestTheWay:
    async def test_no_answer(self, service: Service) -> None:
        """A missing response ends the call with the timeout."""
        service.api.fail(Fault.timeout())
        error = await service.refusal(RequestTimeoutError, timeout=TIMEOUT)
        assert error.retryable
        assert len(service.api.requests) == 1

    async def test_too_slow_an_answer(self, service: Service) -> None:
        """So does one that comes too late."""
        service.api.fail(Fault.slow(2 * TIMEOUT))
        assert (await service.refusal(RequestTimeoutError, timeout=TIMEOUT)).retryable

    @pytest.mark.parametrize("fault", [Fault.disconnected(), Fault.reset()], ids=str)
    async def test_a_broken_connection(self, service: Service, fault: Fault) -> None:
        """A connection that ends before or within the response. Retryable, and sent once."""
        service.api.fail(fault)
        error = await service.refusal(ProtocolError)
        assert error.retryable
        assert not error.retry_once
        assert len(service.api.requests) == 1

    async def test_a_broken_connection_is_replaced(self, service: Service) -> None:
        """After any of them, the next call is answered."""
        for fault in (Fault.disconnected(), Fault.reset()):
            service.api.fail(fault)
            await service.refusal(ProtocolError)
            assert (await service.usage()).project_id == service.api.project.id


class TestNoConnection:
    async def test_in_memory(self, api: FakeApi) -> None:
        """The fake plays it: nothing arrives, and it may be tried again."""
        api.fail(Fault.connect_error())
        service = Service(api, FakeTransport(api))
        assert (await service.refusal(ConnectError)).retryable
        assert not api.requests
        assert await service.usage()

    async def test_over_sockets(self, api: FakeApi) -> None:
        """A server that has gone: the same error, and nothing arrives."""
        transport = AiohttpTransport()
        async with TestServer(fake_app(api)) as server:
            service = Service(api, transport, str(server.make_url("")).rstrip("/"))
        assert (await service.refusal(ConnectError)).retryable
        assert not api.requests
        await transport.aclose()
