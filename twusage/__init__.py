"""Asyncio SDK for ``GET /2/usage/tweets``: a project's usage of the X/Twitter API.

Public names only. ``AiohttpTransport`` is loaded on first use, because programs that use the fake do not need aiohttp;
so are ``CheckReport`` and ``Finding``.
"""

from typing import TYPE_CHECKING

from twusage._version import __version__
from twusage.auth import AppOnlyAuth, Auth, BearerToken, Secret
from twusage.client import UsageClient
from twusage.clock import Clock, SystemClock, Wait
from twusage.errors import (
    ApiError,
    AuthenticationError,
    BadRequestError,
    BudgetExceededError,
    ClientClosedError,
    ConfigurationError,
    ConnectError,
    CreditsDepletedError,
    DecodeError,
    ForbiddenError,
    HistoryError,
    InvalidRequestError,
    ProtocolError,
    QuotaError,
    RateLimitedError,
    RequestTimeoutError,
    ServerError,
    SpendCapReachedError,
    TlsError,
    TransportError,
    TwUsageError,
    UsageCapExceededError,
)
from twusage.limiter import LocalRateLimiter, RateLimiter, Slot
from twusage.models import (
    ClientAppUsage,
    DailySeries,
    DailyUsage,
    Problem,
    ProjectUsage,
    RateLimit,
    Usage,
    UsageField,
)
from twusage.protocol import Request, Response
from twusage.retry import RetryPolicy
from twusage.transport import Transport
from twusage.window import RateWindow

if TYPE_CHECKING:
    from twusage.aiohttp_transport import AiohttpTransport
    from twusage.diagnostics.report import CheckReport, Finding

__all__ = [
    "AiohttpTransport",
    "ApiError",
    "AppOnlyAuth",
    "Auth",
    "AuthenticationError",
    "BadRequestError",
    "BearerToken",
    "BudgetExceededError",
    "CheckReport",
    "ClientAppUsage",
    "ClientClosedError",
    "Clock",
    "ConfigurationError",
    "ConnectError",
    "CreditsDepletedError",
    "DailySeries",
    "DailyUsage",
    "DecodeError",
    "Finding",
    "ForbiddenError",
    "HistoryError",
    "InvalidRequestError",
    "LocalRateLimiter",
    "Problem",
    "ProjectUsage",
    "ProtocolError",
    "QuotaError",
    "RateLimit",
    "RateLimitedError",
    "RateLimiter",
    "RateWindow",
    "Request",
    "RequestTimeoutError",
    "Response",
    "RetryPolicy",
    "Secret",
    "ServerError",
    "Slot",
    "SpendCapReachedError",
    "SystemClock",
    "TlsError",
    "Transport",
    "TransportError",
    "TwUsageError",
    "Usage",
    "UsageCapExceededError",
    "UsageClient",
    "UsageField",
    "Wait",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name == "AiohttpTransport":
        from twusage.aiohttp_transport import AiohttpTransport

        return AiohttpTransport
    if name in {"CheckReport", "Finding"}:
        from twusage.diagnostics import report

        return getattr(report, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
