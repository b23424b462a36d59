"""One tree of exceptions. Each carries data, tells what to do next, and never holds a secret.

::

    TwUsageError(Exception)              retryable · retry_at
    ├── InvalidRequestError(ValueError)  the caller's mistake, found before any I/O
    ├── ConfigurationError               a malformed token, a missing environment variable, a wrong loop
    ├── ClientClosedError                the client was closed before or during the call
    ├── BudgetExceededError              requested · remaining: a guard refuses reads that would exceed the cap
    ├── TransportError                   nothing usable came back
    │   ├── ConnectError                 reason: no connection, nothing was sent
    │   │   └── TlsError                 the server's certificate or TLS handshake failed
    │   ├── RequestTimeoutError          no whole answer in time
    │   └── ProtocolError                broken HTTP, a cut or oversized body, a redirect, an unknown encoding
    ├── DecodeError                      path · excerpt: an answer that is not what the API documents
    ├── RateLimitedError                 the 15-minute window of 50 calls is spent
    ├── HistoryError                     kind: the history cannot be read or written
    └── ApiError                         status · headers · body · problem · rate_limit · request_id
        ├── BadRequestError              400
        ├── AuthenticationError          401
        ├── ForbiddenError               403
        ├── ServerError                  408, 5xx
        └── QuotaError                   paid for reads are used up: never retried
            ├── UsageCapExceededError    the monthly cap
            ├── CreditsDepletedError     no credits left
            └── SpendCapReachedError     the console's spending limit; reset_date

What belongs here: what a caller can catch, and its data. Which answer means which error is ``protocol``'s business.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Literal

from twusage.models import Problem, RateLimit

__all__ = [
    "ApiError",
    "AuthenticationError",
    "BadRequestError",
    "BudgetExceededError",
    "ClientClosedError",
    "ConfigurationError",
    "ConnectError",
    "CreditsDepletedError",
    "DecodeError",
    "ForbiddenError",
    "HistoryError",
    "InvalidRequestError",
    "ProtocolError",
    "QuotaError",
    "RateLimitedError",
    "RequestTimeoutError",
    "ServerError",
    "SpendCapReachedError",
    "TlsError",
    "TransportError",
    "TwUsageError",
    "UsageCapExceededError",
]

# Every __init__ below takes one positional message and keywords with defaults: that is what lets
# BaseException's own __reduce__ pickle and copy them, data and all, with no code here.


class TwUsageError(Exception):
    """The root of everything that twusage raises on purpose."""

    retryable: bool = False
    """Whether the same call may succeed later without anybody changing anything."""
    retry_once: bool = False
    """Whether one more try is all that makes sense: a second garbled answer will not be followed by a good third."""
    retry_at: dt.datetime | None = None
    """The earliest instant (UTC, the server's clock) at which a new call can succeed, where that is known."""

    def __init__(
        self,
        message: str = "",
        *,
        retryable: bool | None = None,
        retry_once: bool = False,
        retry_at: dt.datetime | None = None,
    ) -> None:
        super().__init__(message)
        if retryable is not None:
            self.retryable = retryable
        if retry_once:
            self.retryable = self.retry_once = True
        if retry_at is not None:
            self.retry_at = retry_at


class InvalidRequestError(TwUsageError, ValueError):
    """The call's own arguments are wrong. Raised before any I/O, so none of the window's calls is spent."""


class ConfigurationError(TwUsageError):
    """What the client was given to work with is wrong: a malformed token, a missing variable, another event loop."""


class ClientClosedError(TwUsageError):
    """The client was closed, before the call or while it was under way."""


class BudgetExceededError(TwUsageError):
    """The guard refuses reads, because the project's cap does not allow them or is unknown.

    ``retryable`` is true if only unconfirmed reads of the guard's own callers are in the way. Otherwise ``retry_at`` is
    the time at which the billing cycle resets. If the count is unknown because the API failed, ``__cause__`` is that
    failure, and ``retryable`` and ``retry_at`` are those of the failure.
    """

    requested: int = 0
    """Posts that the caller wanted to read."""
    remaining: int | None = None
    """Posts that may still be read; ``None`` if unknown."""

    def __init__(self, message: str = "", *, requested: int = 0, remaining: int | None = None, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.requested = requested
        self.remaining = remaining


class TransportError(TwUsageError):
    """Nothing usable came back. All that a transport may raise."""

    unsent: bool = False
    """Surely no request was sent, so the call's place in the window is given back."""

    def __init__(self, message: str = "", *, unsent: bool | None = None, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        if unsent is not None:
            self.unsent = unsent


ConnectReason = Literal[
    "dns",
    "refused",
    "timeout",
    "unreachable",
    "proxy",
    "proxy-auth",
    "proxy-unreachable",
    "untrusted",
    "hostname",
    "expired",
    "not-yet-valid",
    "no-ca-store",
    "handshake",
    "other",
]


class ConnectError(TransportError):
    """No connection was made, so nothing was sent."""

    retryable = True
    unsent = True
    reason: ConnectReason = "other"
    """Why: ``dns``, ``refused``, ``timeout``, ``unreachable``; ``proxy`` (the proxy opened no tunnel), ``proxy-auth``
    (it requires a login), ``proxy-unreachable``; of a ``TlsError`` ``untrusted``, ``hostname``, ``expired``,
    ``not-yet-valid``, ``no-ca-store`` (this system has no CA certificates) or ``handshake``; else ``other``."""

    def __init__(self, message: str = "", *, reason: ConnectReason | None = None, **options: Any) -> None:
        super().__init__(message, **options)
        if reason is not None:
            self.reason = reason


class TlsError(ConnectError):
    """The server's certificate is not valid, or the TLS handshake failed.

    Not retryable: certificate problems are not transient.
    """

    retryable = False


class RequestTimeoutError(TransportError):
    """No whole answer came within the timeout. Whether the server counted the call is unknown."""

    retryable = True


class ProtocolError(TransportError):
    """What came back is not a usable HTTP answer: cut, oversized, malformed, redirected, or of an unknown encoding."""


class DecodeError(TwUsageError):
    """An answer that is not what the API documents. Wrong numbers would be worse than none."""

    path: str = "$"
    """Where in the document: ``$.data.daily_client_app_usage[2].usage[7].date``."""
    excerpt: str = ""
    """What stood there: at most 200 characters, escaped, so that it is safe to print and to log."""

    def __init__(self, message: str = "", *, path: str = "$", excerpt: str = "", retry_once: bool = False) -> None:
        super().__init__(message, retry_once=retry_once)
        self.path = path
        self.excerpt = excerpt


class _ResponseError(TwUsageError):
    """What the answer said, for the errors that an answer means."""

    status: int | None = None
    """The HTTP status, or ``None`` where no request was sent."""
    headers: Mapping[str, str]
    """The answer's headers as they came, names in lower case."""
    body: bytes = b""
    """The answer's body as it came."""
    problem: Problem
    """The body as the API's problem document; all its fields are empty where the API did not speak."""
    rate_limit: RateLimit | None = None
    """The window that the answer's headers told. For a ``UsageCapExceededError`` it is that of the endpoints that read
    posts (39,999 calls left), not of this one."""
    request_id: str | None = None
    """The ``x-transaction-id`` header: what the vendor's support asks for."""
    retry_after: float | None = None
    """Seconds from the answer to ``retry_at``, reckoned by the server's clock alone. ``None`` where that is unknown."""
    from_edge: bool = False
    """True if a firewall, proxy or CDN sent the response (a page, or plain text), not the API."""

    def __init__(
        self,
        message: str = "",
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        problem: Problem | None = None,
        rate_limit: RateLimit | None = None,
        request_id: str | None = None,
        retry_at: dt.datetime | None = None,
        retry_after: float | None = None,
        from_edge: bool = False,
    ) -> None:
        super().__init__(message, retry_at=retry_at)
        self.status = status
        self.headers = {} if headers is None else headers
        self.body = body
        self.problem = Problem() if problem is None else problem
        self.rate_limit = rate_limit
        self.request_id = request_id
        self.retry_after = retry_after
        self.from_edge = from_edge


class RateLimitedError(_ResponseError):
    """The app's 15-minute window is spent: a 429, or a wait that would have exceeded ``max_wait`` (then ``status`` is
    ``None`` and nothing was sent). Not the monthly cap: that is ``UsageCapExceededError``.
    """

    retryable = True
    window_exhausted: bool = True
    """False for a 429 that leaves calls in the window: some other limit, of the API's edge perhaps, was met."""

    def __init__(self, message: str = "", *, window_exhausted: bool = True, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.window_exhausted = window_exhausted


class HistoryError(TwUsageError):
    """The history cannot be read or written. Never chained to the driver's error, which may hold a password."""

    kind: str = "failed"
    """Why: ``locked``, ``full``, ``corrupt``, ``not-a-history``, ``read-only``, ``unreachable``, ``newer`` or
    ``failed``."""

    def __init__(self, message: str = "", *, kind: str = "failed", **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.kind = kind


class ApiError(_ResponseError):
    """The API answered, and the answer is no."""


class BadRequestError(ApiError):
    """The API refuses a parameter; ``problem.extra["errors"]`` says which."""


class AuthenticationError(ApiError):
    """The API does not accept the token, or the API key and secret that were to be exchanged for one."""


class ForbiddenError(ApiError):
    """The token is good, but may not do this: a user-context token, or an app outside a project."""


class ServerError(ApiError):
    """The API or its edge is in trouble: 408 and 5xx."""

    retryable = True


class QuotaError(ApiError):
    """What the account has paid for is used up. Never retried: only a new cycle or more money helps."""


class UsageCapExceededError(QuotaError):
    """The project's monthly cap of reads is used up. ``retry_at`` is the reset of the billing cycle, if an earlier
    response of the client reported ``cap_reset_day``.
    """


class CreditsDepletedError(QuotaError):
    """The account has no credits left."""


class SpendCapReachedError(QuotaError):
    """The spending limit set in the developer console is reached, until ``reset_date``."""

    reset_date: dt.date | None = None
    """The day on which the next billing cycle begins, where the API said it. ``retry_at`` is its midnight, UTC."""

    def __init__(self, message: str = "", *, reset_date: dt.date | None = None, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.reset_date = reset_date
