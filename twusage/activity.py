"""Activity: what a client has sent and received since it was made. Counters for metrics; no I/O, no clock."""

from __future__ import annotations

from attrs import define, field

from twusage.errors import (
    AuthenticationError,
    DecodeError,
    ForbiddenError,
    QuotaError,
    RateLimitedError,
    ServerError,
    TransportError,
    TwUsageError,
)
from twusage.models import Usage

__all__ = ["FAILURE_REASONS", "Activity"]

_REASONS: dict[type[TwUsageError], str] = {
    AuthenticationError: "auth",
    ForbiddenError: "auth",
    QuotaError: "quota",
    RateLimitedError: "rate_limited",
    TransportError: "network",
    ServerError: "server",
    DecodeError: "decode",
}
FAILURE_REASONS = (*dict.fromkeys(_REASONS.values()), "other")
"""The keys of ``Activity.failures``, in the order in which they are documented."""


@define(kw_only=True, eq=False)
class Activity:
    """Counts of a client's requests, failures and waits, and its newest usage. Read it; the client writes it."""

    requests: int = 0
    """Requests sent, retries included."""
    failures: dict[str, int] = field(factory=lambda: dict.fromkeys(FAILURE_REASONS, 0))
    """Requests without a usable response, by reason. Every reason is present from the start."""
    waits: int = 0
    """Waits for the window, or between attempts."""
    waited: float = 0.0
    """Seconds of those waits."""
    up: bool = False
    """Whether the newest call returned a usage; False before the first."""
    usage: Usage | None = None
    """The newest usage, whatever happened since."""

    def record_usage(self, usage: Usage) -> None:
        """Record that a call returned this usage."""
        self.usage, self.up = usage, True

    def record_failure(self, error: TwUsageError) -> None:
        """Record that a request brought this error."""
        self.failures[next((_REASONS[kind] for kind in type(error).__mro__ if kind in _REASONS), "other")] += 1

    def record_wait(self, seconds: float) -> None:
        """Record that a call has waited."""
        if seconds > 0:
            self.waits += 1
            self.waited += seconds
