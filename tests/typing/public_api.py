"""What a type checker sees of the public API. Never run: ``mypy`` reads it, and every line is a claim.

Each ``type: ignore`` here is a claim, too: mypy complains if it has nothing to ignore.
"""

import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import assert_type

import tenacity
import tenacity.asyncio

from twusage import (
    AiohttpTransport,
    ApiError,
    AppOnlyAuth,
    Auth,
    BearerToken,
    ClientAppUsage,
    Clock,
    DailySeries,
    DailyUsage,
    DecodeError,
    LocalRateLimiter,
    Problem,
    ProjectUsage,
    RateLimit,
    RateLimitedError,
    RateLimiter,
    Request,
    Response,
    RetryPolicy,
    Secret,
    Slot,
    SpendCapReachedError,
    SystemClock,
    Transport,
    TwUsageError,
    Usage,
    UsageClient,
    UsageField,
    Wait,
)
from twusage.codec import decode_usage
from twusage.testing import FakeApi, FakeTransport, VirtualClock


async def the_call() -> None:
    """The client and what it gives."""
    async with UsageClient("AAAA") as client:
        assert_type(client, UsageClient)
        assert_type(await client.get_usage(), Usage)
        assert_type(await client.get_usage(days=30, fields=[UsageField.PROJECT_CAP], max_age=60), Usage)
        assert_type(await client.get_usage(fields=("project_cap", "project_id")), Usage)
        assert_type(client.rate_limit, RateLimit | None)
        await client.aclose()
        await client.get_usage(30)  # type: ignore[call-arg]
        await client.get_usage(days="30")  # type: ignore[arg-type]
    UsageClient(b"AAAA")  # type: ignore[arg-type]
    UsageClient(None)  # type: ignore[arg-type]
    assert_type(UsageClient.from_env(timeout=5), UsageClient)


class MyClient(UsageClient):
    """A user's subclass."""


async def a_subclass_stays_itself() -> None:
    """``from_env`` and ``async with`` give the subclass."""
    assert_type(MyClient.from_env(), MyClient)
    async with MyClient("AAAA") as client:
        assert_type(client, MyClient)


def the_values(usage: Usage, app: ClientAppUsage, project: ProjectUsage, series: DailySeries) -> None:
    """Every field of the contract."""
    assert_type(usage.project_id, str | None)
    assert_type(usage.project_cap, int | None)
    assert_type(usage.project_usage, int | None)
    assert_type(usage.cap_reset_day, int | None)
    assert_type(usage.daily_project_usage, ProjectUsage | None)
    assert_type(usage.daily_client_app_usage, tuple[ClientAppUsage, ...])
    assert_type(usage.errors, tuple[Problem, ...])
    assert_type(usage.rate_limit, RateLimit | None)
    assert_type(usage.fetched_at, dt.datetime)
    assert_type(usage.extra, Mapping[str, object])
    assert_type(usage.remaining, int | None)
    assert_type(usage.used_fraction, float | None)
    assert_type(usage.to_dict(), dict[str, object])
    assert_type(usage.to_rows(), list[dict[str, object]])
    assert_type(app.client_app_id, str | None)
    assert_type(app.usage, DailySeries)
    assert_type(app.usage_result_count, int | None)
    assert_type(project.project_id, str | None)
    assert_type(project.usage, DailySeries)
    assert_type(series[0], DailyUsage)
    assert_type(series[1:], DailySeries)
    assert_type(series[0].date, dt.date)
    assert_type(series[0].usage, int | None)
    assert_type(series.dates, tuple[dt.date, ...])
    assert_type(series.counts, tuple[int | None, ...])
    assert_type(series.total, int)
    assert_type(series.on(dt.date(2024, 1, 1)), int | None)
    assert_type(iter(series), Iterator[DailyUsage])
    assert_type([day.usage for day in series], list[int | None])
    assert_type(decode_usage(b"{}"), Usage)
    usage.project_cap = 1  # type: ignore[misc]
    Usage("1", 2, 3, 4, None, (), ())  # type: ignore[call-arg]


def the_errors(error: TwUsageError) -> None:
    """What a caller reads from an error."""
    assert_type(error.retryable, bool)
    assert_type(error.retry_at, dt.datetime | None)
    if isinstance(error, DecodeError):
        assert_type(error.path, str)
        assert_type(error.excerpt, str)
    elif isinstance(error, SpendCapReachedError):
        assert_type(error.reset_date, dt.date | None)
    elif isinstance(error, ApiError | RateLimitedError):
        assert_type(error.status, int | None)
        assert_type(error.headers, Mapping[str, str])
        assert_type(error.body, bytes)
        assert_type(error.problem, Problem)
        assert_type(error.rate_limit, RateLimit | None)
        assert_type(error.request_id, str | None)


class MyTransport:
    """A hand-written Transport."""

    async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109 - as Transport has it
        """Return a response to the request."""
        return Response(200, {"x-requested": request.url}, request.body)

    async def aclose(self) -> None:
        """Close nothing."""


class MyTextAuth:
    """A hand-written Auth that gives plain text."""

    async def token(self) -> str:
        """The text."""
        return "AAAA"


class MySecretAuth:
    """A hand-written Auth that gives a Secret."""

    async def token(self) -> Secret:
        """The secret."""
        return Secret("AAAA")


class MyLimiter:
    """A hand-written RateLimiter."""

    def slot(
        self, app: str, *, max_wait: float = 60.0, on_wait: Callable[[Wait], None] | None = None
    ) -> AbstractAsyncContextManager[Slot]:
        """Another limiter's place."""
        return LocalRateLimiter().slot(app, max_wait=max_wait, on_wait=on_wait)


class MyGeneratorLimiter:
    """A hand-written RateLimiter, the short way."""

    @contextlib.asynccontextmanager
    async def slot(
        self, app: str, *, max_wait: float = 60.0, on_wait: Callable[[Wait], None] | None = None
    ) -> AsyncIterator[Slot]:
        """Another limiter's place."""
        async with LocalRateLimiter().slot(app, max_wait=max_wait, on_wait=on_wait) as slot:
            yield slot


class MyClock:
    """A hand-written Clock."""

    def time(self) -> float:
        """No time."""
        return 0.0

    def monotonic(self) -> float:
        """No time."""
        return 0.0

    async def sleep(self, seconds: float) -> None:
        """Do not."""


class NoTransport:
    """Lacks the timeout and ``aclose``."""

    async def send(self, request: Request) -> Response:
        """Answer nothing."""
        raise NotImplementedError


class SyncAuth:
    """Its token is not awaited."""

    def token(self) -> str:
        """The text."""
        return "AAAA"


def the_protocols() -> None:
    """Hand-written parts satisfy their protocols, ours do, and incomplete ones do not."""
    transports: list[Transport] = [MyTransport(), AiohttpTransport(), FakeTransport(FakeApi())]
    auths: list[Auth] = [MyTextAuth(), MySecretAuth(), BearerToken("AAAA"), AppOnlyAuth("key", "secret")]
    limiters: list[RateLimiter] = [MyLimiter(), MyGeneratorLimiter(), LocalRateLimiter()]
    clocks: list[Clock] = [MyClock(), SystemClock(), VirtualClock()]
    UsageClient(auths[0], transport=transports[0], limiter=limiters[0], clock=clocks[0], retry=RetryPolicy.none())
    UsageClient("AAAA", transport=NoTransport())  # type: ignore[arg-type]
    UsageClient(SyncAuth())  # type: ignore[arg-type]
    UsageClient(AppOnlyAuth("key", "secret"))
    UsageClient(BearerToken(Secret("AAAA")))
    AppOnlyAuth(Secret("key"), Secret("secret"))
    AppOnlyAuth("key")  # type: ignore[call-arg]
    AppOnlyAuth(b"key", b"secret")  # type: ignore[arg-type]
    UsageClient("AAAA", "https://api.x.com")  # type: ignore[call-arg, arg-type]
    assert_type(RetryPolicy.none(), RetryPolicy)


def the_pieces_of_tenacity() -> None:
    """Its own objects are welcome, and so are functions. What answers something else is not."""
    RetryPolicy(stop=tenacity.stop_after_delay(30) | tenacity.stop_after_attempt(3), wait=tenacity.wait_fixed(1))
    RetryPolicy(retry=tenacity.retry_if_exception_type(OSError))
    RetryPolicy(retry=tenacity.asyncio.retry_if_exception(a_predicate))
    RetryPolicy(wait=lambda state: 1.5 * state.attempt_number)
    RetryPolicy(wait=lambda _: "soon")  # type: ignore[arg-type, return-value]
    UsageClient("AAAA", on_wait=print)


async def a_predicate(error: BaseException) -> bool:
    """The signature that tenacity's async retry expects."""
    return isinstance(error, OSError)
