"""Detects responses of a firewall, a proxy or the API's edge. Pure."""

from __future__ import annotations

from twusage.errors import ApiError, DecodeError, RateLimitedError

__all__ = ["is_from_edge"]


def is_from_edge(error: BaseException) -> bool:
    """Return whether an error stands for a response of another server."""
    if isinstance(error, RateLimitedError) and error.window_exhausted:
        return False  # Its headers are the API's.
    return isinstance(error, ApiError | RateLimitedError | DecodeError) and error.from_edge
