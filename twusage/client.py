"""UsageClient: runs the steps of a call, and owns the lifecycle. What a step does is in the module that it calls."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from twusage import protocol
from twusage.activity import Activity
from twusage.auth import Auth, Secret, TokenEndpoint, TokenProvider, as_auth, auth_from_env
from twusage.cache import UsageCache
from twusage.clock import Clock, SystemClock, Wait
from twusage.cycle import BillingCycle
from twusage.errors import (
    AuthenticationError,
    ClientClosedError,
    ConfigurationError,
    ConnectError,
    InvalidRequestError,
    RateLimitedError,
    TransportError,
    TwUsageError,
    UsageCapExceededError,
)
from twusage.event_loop import LoopBinding, running_task
from twusage.limiter import LocalRateLimiter, RateLimiter, Slot, default_limiter
from twusage.models import RateLimit, Usage, UsageField
from twusage.protocol import DEFAULT_BASE_URL, Request, Response
from twusage.retry import CallBudget, RetryPolicy, RetryTokenBucket, retry_budgets_for_running_loop
from twusage.transport import Transport

if TYPE_CHECKING:
    from twusage.diagnostics.report import CheckReport

__all__ = ["UsageClient"]

T = TypeVar("T")

_A_DAY = 86_400.0
_log = logging.getLogger("twusage")
# Log waits of at least this many seconds.
_LONG_WAIT = 3.0
_CLOSED_MEANWHILE = "the client was closed during this call"


class UsageClient:
    """Client of ``GET /2/usage/tweets``, which returns a project's usage of the API.

    ::

        async with UsageClient("AAAA...") as client:
            usage = await client.get_usage(days=30)
            print(usage.project_usage, "of", usage.project_cap)

    One client serves any number of concurrent calls on one event loop. Clients of the same token on the same loop share
    its rate limit automatically.

    Args:
        auth: the app-only bearer token as a ``str``, or an ``Auth`` that returns one.
        transport: sends the requests (default: an ``AiohttpTransport`` that the client opens and closes).
        limiter: keeps the app's window (default: the running loop's, shared by all its clients).
        retry: what is retried, and how long one call may wait.
        clock: measures time (default: the system's).
        base_url: the API's address: https, or http on loopback.
        timeout: seconds for one request, from waiting for a connection to the last byte of the response.
        on_wait: called with a ``Wait`` when a call begins to wait, and again if the estimate changes, for a countdown.
            It must not block.

    Raises:
        ConfigurationError: an argument is invalid. The message never quotes a token.
    """

    def __init__(
        self,
        auth: str | Auth,
        *,
        transport: Transport | None = None,
        limiter: RateLimiter | None = None,
        retry: RetryPolicy | None = None,
        clock: Clock | None = None,
        base_url: str = DEFAULT_BASE_URL,
        timeout: float = 30.0,
        on_wait: Callable[[Wait], None] | None = None,
    ) -> None:
        try:
            checked_auth = as_auth(auth)
        except ConfigurationError as error:
            refusal: ConfigurationError | None = error.with_traceback(None)
        else:
            refusal = None
        del auth  # so that no traceback shows a token
        if refusal is not None:
            raise refusal
        self._owns_transport = transport is None
        self._transport: Transport = (
            _default_transport() if transport is None else _require_methods("transport", transport, "send", "aclose")
        )
        self._limiter = _require_methods("limiter", limiter, "slot")
        self._retry = RetryPolicy() if retry is None else _require_methods("retry", retry, "retries")
        self._clock: Clock = (
            SystemClock() if clock is None else _require_methods("clock", clock, "time", "monotonic", "sleep")
        )
        self._base_url = protocol.check_base_url(base_url)
        self._timeout = _checked_timeout(timeout)
        if not (on_wait is None or callable(on_wait)):
            raise ConfigurationError(f"on_wait must be callable, got {type(on_wait).__name__}")
        self._on_wait = on_wait
        self._credentials = self._provider(checked_auth, self._transport)
        self._rate_limit: RateLimit | None = None
        self._activity = Activity()
        self._cap_reset_day: int | None = None
        self._closed = False
        self._authorized: tuple[Request, Secret, Request] | None = None
        self._active_calls: set[asyncio.Task[Any]] = set()
        self._cache = UsageCache(self._clock)
        self._binding = LoopBinding("UsageClient")
        self._default_limiter: LocalRateLimiter | None = None
        # Set when a loop is bound.
        self._limiter_in_use: RateLimiter
        self._budgets: dict[str, RetryTokenBucket]

    @classmethod
    def from_env(cls, **keywords: Any) -> Self:
        """Return a client with the credentials of the environment.

        The token is the first that is set of ``X_BEARER_TOKEN``, ``X_BEARER_TOKEN_FILE``, ``TWITTER_BEARER_TOKEN``,
        ``TWITTER_BEARER_TOKEN_FILE`` and ``BEARER_TOKEN``; a ``_FILE`` is the path of a file with the token. Without
        one, the API key and secret are read from ``X_API_KEY`` and ``X_API_SECRET``, or ``TWITTER_API_KEY`` and
        ``TWITTER_API_SECRET``. ``TWUSAGE_BASE_URL`` is read, too. Takes the keywords of the constructor, which override
        the environment: with ``auth=`` no credentials are read.

        Raises:
            ConfigurationError: no variable is set, or its value is malformed.
        """
        if "base_url" not in keywords and (base_url := os.environ.get("TWUSAGE_BASE_URL")):
            keywords["base_url"] = protocol.check_base_url(base_url, name="TWUSAGE_BASE_URL")
        auth = keywords.pop("auth") if "auth" in keywords else auth_from_env()
        return cls(auth, **keywords)

    @property
    def clock(self) -> Clock:
        """The clock by which this client measures time."""
        return self._clock

    @property
    def rate_limit(self) -> RateLimit | None:
        """The newest reported state of the app's 15-minute window, or ``None``."""
        return self._rate_limit

    @property
    def activity(self) -> Activity:
        """Counters of what this client has sent and received, for metrics."""
        return self._activity

    async def get_usage(
        self,
        *,
        days: int | None = None,
        fields: Iterable[UsageField | str] | None = None,
        max_age: float | None = None,
    ) -> Usage:
        """Return the project's usage, with daily counts if requested.

        Args:
            days: 1 to 90 days of daily usage. Without ``fields``, it requests both daily fields.
            fields: what to request beyond the summary, from ``UsageField``: one, or several.
            max_age: seconds. Accept a cached result of an equal call up to this old; concurrent equal calls share one
                request. ``None`` always sends a request.

        Raises:
            InvalidRequestError: an argument is invalid; nothing was sent.
            ConfigurationError: an ``Auth`` returned a malformed token, another event loop, a closed session.
            RateLimitedError: no calls are left in the app's 15-minute window, for longer than the call may wait.
            QuotaError: the project's cap, credits or spending limit is used up.
            ApiError: the API returned an error response.
            TransportError: no usable response.
            DecodeError: the response body does not match the documented schema.
            ClientClosedError: the client was closed.
        """
        request = protocol.usage_request(days=days, fields=fields, base_url=self._base_url)
        if max_age is None:
            return await self._run_cancellable(self._call(request))
        return await self._run_cancellable(
            self._cache.get_or_call(request.url, _checked_age(max_age), partial(self._call, request))
        )

    async def check(self) -> CheckReport:
        """Check the credentials and the connection; return problems and advice.

        It uses at most one call of the window, does not wait for a window, and does not retry. An error response, an
        exhausted window and a network failure are findings of the report, not exceptions.

        Raises:
            ConfigurationError: another event loop, a closed session.
            ClientClosedError: the client was closed.
        """
        return await self._run_cancellable(self._check())

    # -- One call -----------------------------------------------------------------------------------------------------

    async def _call(self, request: Request) -> Usage:
        budget, began = CallBudget(self._retry.max_wait, activity=self._activity), self._clock.monotonic()
        try:
            # The first attempt runs without tenacity: AsyncRetrying adds 15 to 30 µs, as much as the rest of the call.
            usage = await self._attempt(request, budget, self._credentials, self._transport)
        except TwUsageError as error:
            failure = error
        else:
            return self._succeed(request, usage, budget)
        return self._succeed(request, await self._repeat(request, budget, failure, began), budget)

    async def _repeat(self, request: Request, budget: CallBudget, failure: TwUsageError, began: float) -> Usage:
        try:
            retries = await self._retry.retries(failure, budget, self._clock, since=began, on_wait=self._notify_wait)
            async for retry in retries:
                with retry:
                    usage = await self._attempt(request, budget, self._credentials, self._transport)
        except TwUsageError:
            self._activity.up = False
            raise
        return usage

    def _succeed(self, request: Request, usage: Usage, budget: CallBudget) -> Usage:
        budget.record_success()
        self._cap_reset_day = usage.cap_reset_day or self._cap_reset_day
        self._activity.record_usage(usage)
        self._cache.store(request.url, usage)
        return usage

    async def _attempt(
        self, request: Request, budget: CallBudget, credentials: TokenProvider, transport: Transport
    ) -> Usage:
        app = credentials.app_key
        if app is not None:
            budget.retry_tokens = self._budgets[app]  # Retries of a token request take from it, too.
        token = await credentials.token()
        if app is None:
            app = token.fingerprint
            budget.retry_tokens = self._budgets[app]
        queued_at: float | None = self._clock.monotonic()
        try:
            async with self._limiter_in_use.slot(app, max_wait=budget.wait_left, on_wait=self._notify_wait) as slot:
                queued_at = None
                if slot.waited:
                    budget.charge_wait(slot.waited)
                token = credentials.current(token)  # Another call may have renewed it during the wait.
                return await self._exchange(self._authorize(request, token), slot, transport)
        except TransportError:
            if queued_at is not None:  # The probe that this call waited for could not connect.
                budget.charge_wait(self._clock.monotonic() - queued_at)
            raise
        except AuthenticationError as error:
            # A page does not mean that the token is wrong.
            if not error.from_edge and await credentials.token(refused=token) != token:
                error.retryable = error.retry_once = True  # Retry with the new token.
            raise

    def _authorize(self, request: Request, token: Secret) -> Request:
        if self._authorized is None or self._authorized[0] is not request or self._authorized[1] is not token:
            self._authorized = request, token, protocol.authorize(request, token.reveal())
        return self._authorized[2]  # Most calls of a program are equal.

    async def _exchange(self, request: Request, slot: Slot, transport: Transport) -> Usage:
        self._activity.requests += 1
        try:
            response = await transport.send(request, timeout=self._timeout)
            return self._read(response, request, slot)
        except TwUsageError as error:
            self._activity.record_failure(error)
            if isinstance(error, ConnectError):
                slot.fail(error)
            elif isinstance(error, TransportError) and error.unsent:
                slot.refund()
            raise

    def _read(self, response: Response, request: Request, slot: Slot) -> Usage:
        now = dt.datetime.fromtimestamp(self._clock.time(), dt.UTC)
        reading = protocol.read_response(response, request=request, fetched_at=now)
        slot.observe(reading.rate_limit, reading.server_time)
        self._rate_limit = _latest_rate_limit(reading.rate_limit, self._rate_limit)
        if isinstance(reading.error, RateLimitedError) and reading.error.window_exhausted:
            slot.close_window(reading.error.retry_after)
        if isinstance(reading.error, UsageCapExceededError) and self._cap_reset_day is not None:
            reading.error.retry_at = BillingCycle.of(self._cap_reset_day, now).resets_at
        return reading.usage()

    async def _check(self) -> CheckReport:
        from twusage.diagnostics.check import run_check  # Imported here: few programs call check().

        async def ask(auth: Auth, transport: Transport) -> Usage:
            request = protocol.usage_request(base_url=self._base_url)
            return await self._attempt(request, CallBudget(0.0), self._provider(auth, transport), transport)

        return await run_check(
            self._credentials,
            ask,
            transport=self._transport,
            clock=self._clock,
            base_url=self._base_url,
            # A transport that the caller passed may have its own proxy.
            environ=os.environ if self._owns_transport else {},
        )

    def _provider(self, auth: Auth, transport: Transport) -> TokenProvider:
        return TokenProvider(auth, TokenEndpoint(transport, self._clock, self._base_url, self._timeout))

    def _notify_wait(self, wait: Wait) -> None:
        if wait.seconds >= _LONG_WAIT:
            _log.info("waiting %.0f s, until %s: %s", wait.seconds, wait.until.isoformat(" ", "seconds"), wait.reason)
        if self._on_wait is not None:
            self._on_wait(wait)

    # -- Opening and closing ------------------------------------------------------------------------------------------

    async def _run_cancellable(self, call: Coroutine[Any, Any, T]) -> T:
        """Run a call that ``aclose`` can cancel."""
        try:
            if self._closed:
                raise ClientClosedError("this client is closed; create a new one")
            if self._binding.bind():
                self._begin_loop()
            task = running_task()
        except TwUsageError:
            call.close()
            raise
        cancelled = task.cancelling()
        self._active_calls.add(task)
        try:
            return await call
        except asyncio.CancelledError:
            # Tell our own cancellation (aclose) from an external one.
            if task in self._active_calls or task.uncancel() > cancelled:
                raise
        finally:
            self._active_calls.discard(task)
        raise ClientClosedError(_CLOSED_MEANWHILE)

    def _begin_loop(self) -> None:
        """Take the loop's limiter and retry tokens. Calls of an earlier loop are dropped."""
        self._forget_calls()
        self._budgets = retry_budgets_for_running_loop()
        if self._limiter is None:
            self._limiter_in_use = self._default_limiter = default_limiter(self._clock, self._default_limiter)
        else:
            self._limiter_in_use = self._limiter

    def _forget_calls(self) -> None:
        # Those of a closed loop never end, and cannot be cancelled.
        self._active_calls = set()
        self._cache.forget_calls()

    async def aclose(self) -> None:
        """Cancel the running calls with ``ClientClosedError``, and close what the client opened. Idempotent.

        Raises ``ConfigurationError`` while another event loop than the client's runs it.
        """
        if self._binding.is_free:
            self._forget_calls()
        else:
            self._binding.bind()
        self._closed = True
        while self._active_calls:
            self._active_calls.pop().cancel()
        if self._owns_transport:
            await self._transport.aclose()
        await self._cache.cancel_calls()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


def _default_transport() -> Transport:
    # Imported here, so that a program on the fake never loads aiohttp.
    from twusage.aiohttp_transport import AiohttpTransport

    return AiohttpTransport()


def _latest_rate_limit(one: RateLimit | None, other: RateLimit | None) -> RateLimit | None:
    """Return the newer one. It has the later window, or fewer calls left. Responses arrive out of order."""
    if one is None or other is None:
        return one or other
    return one if (one.reset_at, -one.remaining) >= (other.reset_at, -other.remaining) else other


def _require_methods(name: str, part: T, *methods: str) -> T:
    # Not quoted: swapped arguments may be a token.
    if part is None or (not isinstance(part, type) and all(callable(getattr(part, each, None)) for each in methods)):
        return part
    given = "the class itself" if isinstance(part, type) else type(part).__name__
    raise ConfigurationError(f"{name} must have {' and '.join(methods)}, got {given}")


def _checked_timeout(timeout: object) -> float:
    if type(timeout) in {int, float} and 0 < timeout <= _A_DAY:  # type: ignore[operator]
        return timeout  # type: ignore[return-value]
    raise ConfigurationError(f"timeout must be a number of seconds above 0, got {protocol.short_repr(timeout)}")


def _checked_age(max_age: object) -> float:
    if type(max_age) in {int, float} and max_age >= 0:  # type: ignore[operator]
        return max_age  # type: ignore[return-value]
    raise InvalidRequestError(f"max_age must be a number of seconds, 0 or more, got {protocol.short_repr(max_age)}")
