"""All exceptions, in one tree. Each carries data and advice, and never contains a secret.

::

    TwUsageError(Exception)              retryable · retry_at
    ├── InvalidRequestError(ValueError)  an invalid argument, found before any I/O
    ├── ConfigurationError               a malformed token, a missing environment variable, a wrong event loop
    ├── ClientClosedError                the client was closed before or during the call
    ├── BudgetExceededError              requested · remaining: a guard rejects reads that would exceed the cap
    ├── TransportError                   no usable response
    │   ├── ConnectError                 reason: no connection, nothing was sent
    │   │   └── TlsError                 the server's certificate or TLS handshake failed
    │   ├── RequestTimeoutError          no complete response in time
    │   └── ProtocolError                malformed HTTP, a truncated or oversized body, a redirect, an unknown encoding
    ├── DecodeError                      path · excerpt: the body does not match the documented schema
    ├── RateLimitedError                 no calls are left in the 15-minute window
    ├── HistoryError                     kind: the history cannot be read or written
    └── ApiError                         status · headers · body · problem · rate_limit · request_id
        ├── BadRequestError              400
        ├── AuthenticationError          401
        ├── ForbiddenError               403
        ├── ServerError                  408, 5xx
        └── QuotaError                   paid reads are used up: never retried
            ├── UsageCapExceededError    the monthly cap
            ├── CreditsDepletedError     no credits left
            └── SpendCapReachedError     the console's spending limit is reached; reset_date

What belongs here: what a caller can catch, and its data. Which response means which error is in ``protocol``.
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

# Every __init__ below takes one positional message and keywords with defaults, so that BaseException.__reduce__ can
# pickle and copy the exceptions with their data.


class TwUsageError(Exception):
    """Base class of all exceptions raised by twusage."""

    retryable: bool = False
    """True if repeating the unchanged call may succeed."""
    retry_once: bool = False
    """True if the call is worth exactly one retry, e.g. after a garbled response."""
    retry_at: dt.datetime | None = None
    """The earliest time (UTC, server clock) at which a new call can succeed, or ``None`` if unknown."""

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
    """An argument of the call is invalid. Raised before any I/O, so the call does not count in the window."""


class ConfigurationError(TwUsageError):
    """The setup is invalid. A token is malformed, a variable is missing, or the event loop is another one."""


class ClientClosedError(TwUsageError):
    """The client was closed before or during the call."""


class BudgetExceededError(TwUsageError):
    """The guard rejects reads beyond the cap, or of an unknown cap.

    ``retryable`` is true if the reads would fit without the guard's unconfirmed reads. Otherwise ``retry_at`` is
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
    """There is no usable response. Transports raise only this class and its subclasses."""

    unsent: bool = False
    """True if certainly no request was sent: the call does not count in the window."""

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
    """The connection could not be opened, so nothing was sent."""

    retryable = True
    unsent = True
    reason: ConnectReason = "other"
    """Why: ``dns``, ``refused``, ``timeout``, ``unreachable``; ``proxy`` (it did not open the tunnel), ``proxy-auth``
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
    """No complete response arrived within the timeout. Whether the server counted the call is unknown."""

    retryable = True


class ProtocolError(TransportError):
    """The HTTP response is not usable. It is truncated, oversized, malformed, redirected, or of an unknown encoding."""


class DecodeError(TwUsageError):
    """The response body does not match the documented schema. Wrong numbers would be worse than none."""

    path: str = "$"
    """The place in the document, such as ``$.data.daily_client_app_usage[2].usage[7].date``."""
    excerpt: str = ""
    """The value at that place: at most 200 characters, escaped, safe to print and to log."""
    from_edge: bool = False
    """True if a firewall, proxy or CDN sent the response (a page, or plain text), not the API."""

    def __init__(
        self,
        message: str = "",
        *,
        path: str = "$",
        excerpt: str = "",
        retry_once: bool = False,
        from_edge: bool = False,
    ) -> None:
        super().__init__(message, retry_once=retry_once)
        self.path = path
        self.excerpt = excerpt
        self.from_edge = from_edge


class _ResponseError(TwUsageError):
    """Base class of errors that a response means, with its data."""

    status: int | None = None
    """The HTTP status, or ``None`` if no request was sent."""
    headers: Mapping[str, str]
    """The unchanged headers, names in lower case."""
    body: bytes = b""
    """The unchanged body."""
    problem: Problem
    """The body as the API's problem document; all fields are empty if the API did not send one."""
    rate_limit: RateLimit | None = None
    """The window that the headers report. For a ``UsageCapExceededError`` it is that of the endpoints that read posts
    (39,999 calls left), not of this one."""
    request_id: str | None = None
    """The ``x-transaction-id`` header, for requests to the vendor's support."""
    retry_after: float | None = None
    """Seconds from the response to ``retry_at``, both by the server's clock. ``None`` if unknown."""
    from_edge: bool = False
    """True if a firewall, proxy or CDN sent the response (a page, plain text, or JSON of another service), not the
    API."""

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
    """No calls are left in the app's 15-minute window.

    Raised for a 429, or if the wait would exceed ``max_wait`` (then ``status`` is ``None`` and nothing was sent). The
    monthly cap is another limit: see ``UsageCapExceededError``.
    """

    retryable = True
    window_exhausted: bool = True
    """False for a 429 with calls left in the window: another limit was reached, possibly one of the API's edge."""

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
    """The API returned an error response."""


class BadRequestError(ApiError):
    """The API rejects a parameter; ``problem.extra["errors"]`` names it."""


class AuthenticationError(ApiError):
    """The API rejects the token, or a token request's key and secret."""


class ForbiddenError(ApiError):
    """The token is valid, but not for this endpoint. It is a user-context token, or its app is outside a project."""


class ServerError(ApiError):
    """Server error: 408 or 5xx, from the API or its CDN."""

    retryable = True


class QuotaError(ApiError):
    """The reads that the account has paid for are used up. Never retried, because only a new cycle or payment helps."""


class UsageCapExceededError(QuotaError):
    """The project's monthly cap of reads is used up. ``retry_at`` is the reset of the billing cycle, if an earlier
    response of the client reported ``cap_reset_day``.
    """


class CreditsDepletedError(QuotaError):
    """The account has no credits left."""


class SpendCapReachedError(QuotaError):
    """The spending limit set in the developer console is reached, until ``reset_date``."""

    reset_date: dt.date | None = None
    """The first day of the next billing cycle, if the API reported it. ``retry_at`` is its midnight, UTC."""

    def __init__(self, message: str = "", *, reset_date: dt.date | None = None, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.reset_date = reset_date
