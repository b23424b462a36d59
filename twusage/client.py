"""UsageClient: the only conductor. It says in which order the parts work, shares results, and opens and closes."""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
import logging
import os
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar

from twusage import protocol
from twusage.auth import Auth, Credentials, Secret, auth_from_env
from twusage.clock import Clock, SystemClock, Wait
from twusage.errors import (
    AuthenticationError,
    ClientClosedError,
    ConfigurationError,
    InvalidRequestError,
    RateLimitedError,
    TransportError,
    TwUsageError,
)
from twusage.models import RateLimit, Usage, UsageField
from twusage.protocol import DEFAULT_BASE_URL, Request
from twusage.ratelimit import RateLimiter, Slot, default_limiter
from twusage.retry import Patience, RetryBudget, RetryPolicy, budgets_of_loop
from twusage.transport import Transport

if TYPE_CHECKING:
    from twusage.checkup import Checkup

__all__ = ["UsageClient"]

T = TypeVar("T")

_A_DAY = 86_400.0
_log = logging.getLogger("twusage")
# Seconds from which on a wait is worth a line in the log: a person would begin to wonder.
_LONG_WAIT = 3.0
_CLOSED_MEANWHILE = "the client was closed during this call"
_OTHER_LOOP = "this client serves another event loop; make one on each loop and thread, and in each process"
# Enough for every combination that one program asks for; a bound, so that a program that tries all does not keep all.
_KEPT_RESULTS = 16


class UsageClient:
    """How much of the X/Twitter API a project has used.

    ::

        async with UsageClient("AAAA...") as client:
            usage = await client.get_usage(days=30)
            print(usage.project_usage, "of", usage.project_cap)

    One client serves any number of concurrent calls on one event loop. Clients of the same token on the same loop share
    its rate limit by themselves.

    Args:
        auth: the app-only bearer token as a ``str``, or an ``Auth`` that brings one.
        transport: what carries requests: by default an ``AiohttpTransport`` of the client's own.
        limiter: who keeps the app's window: by default the running loop's, shared by all its clients.
        retry: what is tried again, and how long one call may wait.
        clock: what time it is.
        base_url: where the API is: https, or http on loopback.
        timeout: seconds for one request on the wire, from waiting for a connection to the answer's last byte.
        on_wait: called with a ``Wait`` whenever a call begins to wait, and again when it turns out to be another wait:
            for a countdown. It must not block.

    Raises:
        ConfigurationError: an argument is wrong. A token is never quoted.
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
            self._credentials = Credentials(auth, self._mint)
        except ConfigurationError as error:
            refusal: ConfigurationError | None = error.with_traceback(None)
        else:
            refusal = None
        del auth  # so that no traceback shows a token
        if refusal is not None:
            raise refusal
        self._transport = _checked_part("transport", transport, "send", "aclose")
        self._owns_transport = transport is None
        self._limiter = _checked_part("limiter", limiter, "slot")
        self._retry = RetryPolicy() if retry is None else _checked_part("retry", retry, "run")
        self._clock: Clock = (
            SystemClock() if clock is None else _checked_part("clock", clock, "time", "monotonic", "sleep")
        )
        self._base_url = protocol.check_base_url(base_url)
        self._timeout = _checked_timeout(timeout)
        if not (on_wait is None or callable(on_wait)):
            raise ConfigurationError(f"on_wait must be callable, got {type(on_wait).__name__}")
        self._on_wait = on_wait
        self._rate_limit: RateLimit | None = None
        self._closed = False
        self._authorized: tuple[Request, Secret, Request] | None = None
        self._leashes: dict[object, asyncio.Task[Any]] = {}
        self._kept: dict[str, _Kept] = {}
        # What is the event loop's, from the first call on.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots: RateLimiter
        self._budgets: dict[str, RetryBudget]
        self._shared: dict[str, _SharedCall] = {}

    @classmethod
    def from_env(cls, **keywords: Any) -> Self:
        """A client with what the environment holds: the token in ``X_BEARER_TOKEN``, ``TWITTER_BEARER_TOKEN`` or
        ``BEARER_TOKEN`` (the first that is set); without one, the API key and secret in ``X_API_KEY`` and
        ``X_API_SECRET``, or ``TWITTER_API_KEY`` and ``TWITTER_API_SECRET``; and ``TWUSAGE_BASE_URL``. Takes the
        keywords of the constructor, which go before the environment: with ``auth=`` it needs no credentials there.

        Raises:
            ConfigurationError: no variable is set, or what it holds is malformed.
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
        """The newest that the API's answers said of the app's 15-minute window, or ``None`` before the first."""
        return self._rate_limit

    async def get_usage(
        self,
        *,
        days: int | None = None,
        fields: Iterable[UsageField | str] | None = None,
        max_age: float | None = None,
    ) -> Usage:
        """``GET /2/usage/tweets``: what the project has used of its cap, and by day and client app if asked for.

        Args:
            days: 1 to 90 days of daily usage. Alone, it asks for both daily fields.
            fields: what to ask for beyond the summary, from ``UsageField``.
            max_age: seconds. A result of an equal call that is not older will do, and concurrent equal calls share one
                request. ``None`` always asks.

        Raises:
            InvalidRequestError: an argument is wrong; nothing was sent.
            ConfigurationError: a malformed token out of an ``Auth``, another event loop, a closed session.
            RateLimitedError: the app's 15-minute window is spent, for longer than the call may wait.
            QuotaError: the project's cap, credits or spending limit is used up.
            ApiError: the API refuses, in its several kinds.
            TransportError: nothing usable came back.
            DecodeError: an answer that is not what the API documents.
            ClientClosedError: the client was closed.
        """
        request = protocol.usage_request(days=days, fields=fields, base_url=self._base_url)
        if max_age is None:
            return await self._while_open(self._call(request))
        return await self._while_open(self._recent(request, _checked_age(max_age)))

    async def check(self) -> Checkup:
        """What is right and what is wrong with the credentials and the way to the API, in plain words, and what to do.

        It spends at most one call of the window, waits for nothing but the answer, and tries nothing twice. What it can
        tell it returns and does not raise: a refusal, a spent window, a network that is down.

        Raises:
            ConfigurationError: another event loop, a closed session.
            ClientClosedError: the client was closed.
        """
        return await self._while_open(self._check())

    # -- One call -----------------------------------------------------------------------------------------------------

    async def _call(self, request: Request) -> Usage:
        usage = await self._retry.run(partial(self._attempt, request), self._clock, on_wait=self._announce)
        self._keep(request, usage)
        return usage

    async def _attempt(self, request: Request, patience: Patience) -> Usage:
        app = self._credentials.known_app
        if app is not None:
            patience.budget = self._budgets[app]  # It pays for the retries of a mint, too.
        token = await self._credentials.token()
        if app is None:
            app = token.fingerprint
            patience.budget = self._budgets[app]
        try:
            async with self._slots.slot(app, max_wait=patience.left, on_wait=self._announce) as slot:
                if slot.waited:
                    patience.spend(slot.waited)
                token = self._credentials.newest(token)  # It may have been renewed while this call waited.
                return await self._exchange(self._authorize(request, token), slot)
        except AuthenticationError as error:
            if await self._credentials.token(refused=token) != token:
                error.retryable = error.retry_once = True  # With another token, it may succeed.
            raise

    def _authorize(self, request: Request, token: Secret) -> Request:
        if self._authorized is None or self._authorized[0] is not request or self._authorized[1] is not token:
            self._authorized = request, token, protocol.authorize(request, token.reveal())
        return self._authorized[2]  # Most calls of a program are the same again.

    async def _exchange(self, request: Request, slot: Slot) -> Usage:
        try:
            response = await self._the_transport().send(request, timeout=self._timeout)
        except TransportError as error:
            if error.unsent:
                slot.refund()
            raise
        now = self._now()
        rate_limit = protocol.read_rate_limit(response)
        date = protocol.read_date(response)
        slot.observe(rate_limit, date.timestamp() if date else None)
        self._rate_limit = _newest(rate_limit, self._rate_limit)
        try:
            return protocol.read_usage(response, request=request, fetched_at=now)
        except RateLimitedError as error:
            if error.window_spent:
                slot.close_window(error.retry_after)
            raise

    async def _mint(self, api_key: Secret, api_secret: Secret) -> Secret:
        """A bearer token for an ``AppOnlyAuth``. It costs no place in the window."""
        request = protocol.token_request(api_key.reveal(), api_secret.reveal(), base_url=self._base_url)
        response = await self._the_transport().send(request, timeout=self._timeout)
        return Secret(protocol.read_token(response, request=request, fetched_at=self._now()))

    async def _check(self) -> Checkup:
        from twusage.examine import examine  # here, because few programs ever check

        async def ask(auth: Auth, transport: Transport) -> Usage:
            client = UsageClient(
                auth,
                transport=transport,
                limiter=self._slots,
                retry=RetryPolicy.none(),
                clock=self._clock,
                base_url=self._base_url,
                timeout=self._timeout,
            )
            try:
                return await client.get_usage()
            finally:
                self._rate_limit = _newest(client.rate_limit, self._rate_limit)

        return await examine(
            self._credentials,
            ask,
            transport=self._the_transport(),
            clock=self._clock,
            base_url=self._base_url,
            # A transport of the user's may have a proxy of its own.
            environ=os.environ if self._owns_transport else {},
        )

    def _now(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self._clock.time(), dt.UTC)

    # -- max_age: results that are young enough, and calls that are under way -----------------------------------------

    async def _recent(self, request: Request, max_age: float) -> Usage:
        kept = self._kept.get(request.url)
        if kept is not None and self._age(kept) <= max_age:
            await asyncio.sleep(0)  # Whoever polls in a loop lets others run, and can be cancelled.
            return kept[0]
        shared = self._shared.get(request.url)
        if shared is None:
            shared = self._shared[request.url] = _SharedCall(self._call(request))
        try:
            return await shared.join()
        finally:
            if shared.abandoned and self._shared.get(request.url) is shared:
                del self._shared[request.url]

    def _age(self, kept: _Kept) -> float:
        # The monotonic clock stands still while the machine sleeps; the wall clock may be set back.
        _, monotonic, wall = kept
        return max(self._clock.monotonic() - monotonic, self._clock.time() - wall)

    def _keep(self, request: Request, usage: Usage) -> None:
        self._kept.pop(request.url, None)  # so that the newest stands last
        self._kept[request.url] = usage, self._clock.monotonic(), self._clock.time()
        if len(self._kept) > _KEPT_RESULTS:
            del self._kept[next(iter(self._kept))]

    def _announce(self, wait: Wait) -> None:
        if wait.seconds >= _LONG_WAIT:
            _log.info("waiting %.0f s, until %s: %s", wait.seconds, wait.until.isoformat(" ", "seconds"), wait.reason)
        if self._on_wait is not None:
            self._on_wait(wait)

    # -- Opening and closing ------------------------------------------------------------------------------------------

    def _the_transport(self) -> Transport:
        if self._closed:  # in the very step in which this call went on: nobody would close what it opens now
            raise ClientClosedError(_CLOSED_MEANWHILE)
        if self._transport is None:
            from twusage.http import AiohttpTransport  # here, so that a program on the fake never loads aiohttp

            self._transport = AiohttpTransport()
        return self._transport

    async def _while_open(self, call: Coroutine[Any, Any, T]) -> T:
        """Make a call that ``aclose`` can end."""
        loop = _running_loop()
        if self._closed or loop is None or loop is not self._loop:
            try:
                self._bind(loop)
            except TwUsageError:
                call.close()
                raise
        task = asyncio.current_task(loop)
        assert task is not None  # on a loop there is one
        leash, cancelled = object(), task.cancelling()
        self._leashes[leash] = task
        try:
            return await call
        except asyncio.CancelledError:
            # Either aclose has let it go, or somebody else cancels it, or both.
            if leash in self._leashes or task.uncancel() > cancelled:
                raise
        finally:
            self._leashes.pop(leash, None)
        raise ClientClosedError(_CLOSED_MEANWHILE)

    def _bind(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Take what belongs to an event loop, where this client may serve that one."""
        if self._closed:
            raise ClientClosedError("this client is closed; make a new one")
        if loop is None or not (self._loop is None or self._loop.is_closed()):
            raise ConfigurationError(_OTHER_LOOP)
        self._loop, self._shared = loop, {}
        self._slots = default_limiter(self._clock) if self._limiter is None else self._limiter
        self._budgets = budgets_of_loop()

    async def aclose(self) -> None:
        """End the calls under way with ``ClientClosedError``, and close what the client itself opened. Calling it twice
        is fine.

        Raises ``ConfigurationError`` on another event loop than that which the client serves.
        """
        loop = _running_loop()
        if loop is None or not (self._loop is None or loop is self._loop or self._loop.is_closed()):
            raise ConfigurationError(_OTHER_LOOP)
        self._closed = True
        while self._leashes:
            self._leashes.popitem()[1].cancel()
        if self._owns_transport and self._transport is not None:
            await self._transport.aclose()
        await asyncio.gather(*(shared.end() for shared in self._shared.values()))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


# A result, and when it came by both clocks.
_Kept: TypeAlias = tuple[Usage, float, float]


class _SharedCall:
    """One request that several callers wait for. It ends early only when the last of them has gone."""

    def __init__(self, call: Coroutine[Any, Any, Usage]) -> None:
        self._task = asyncio.create_task(call)
        self._callers = 0

    @property
    def abandoned(self) -> bool:
        """Nobody waits for it any more: its answer came, or its last caller was cancelled."""
        return not self._callers

    async def join(self) -> Usage:
        self._callers += 1
        try:
            await asyncio.wait([self._task])  # which, unlike a bare await, does not cancel the task with the caller
        finally:
            self._callers -= 1
            if not self._callers:
                self._task.cancel()
        if self._task.cancelled():
            raise ClientClosedError(_CLOSED_MEANWHILE)
        error = self._task.exception()
        if isinstance(error, TwUsageError):
            # A copy each: one exception raised by a thousand callers would gather a thousand tracebacks.
            raise copy.copy(error).with_traceback(error.__traceback__)
        if error is not None:
            raise error  # Somebody else's: who knows whether it can be copied.
        return self._task.result()

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:  # A process that was forked in the middle of a call has none.
        return None


def _newest(one: RateLimit | None, other: RateLimit | None) -> RateLimit | None:
    """Answers arrive out of order: the later window counts, and in one window the fewer calls left."""
    if one is None or other is None:
        return one or other
    return one if (one.reset_at, -one.remaining) >= (other.reset_at, -other.remaining) else other


def _checked_part(name: str, part: T, *methods: str) -> T:
    # Not quoted: who mixes up the arguments may have given a token.
    if part is None or (not isinstance(part, type) and all(callable(getattr(part, each, None)) for each in methods)):
        return part
    given = "the class itself" if isinstance(part, type) else type(part).__name__
    raise ConfigurationError(f"{name} must have {' and '.join(methods)}, got {given}")


def _checked_timeout(timeout: object) -> float:
    if type(timeout) in {int, float} and 0 < timeout <= _A_DAY:  # type: ignore[operator]
        return timeout  # type: ignore[return-value]
    raise ConfigurationError(f"timeout must be a number of seconds above 0, got {protocol.quoted(timeout)}")


def _checked_age(max_age: object) -> float:
    if type(max_age) in {int, float} and max_age >= 0:  # type: ignore[operator]
        return max_age  # type: ignore[return-value]
    raise InvalidRequestError(f"max_age must be a number of seconds, 0 or more, got {protocol.quoted(max_age)}")
