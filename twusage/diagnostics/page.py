"""Detects pages and plain text that the API did not send. Pure.

Firewalls, proxies and the API's edge send them in place of the API's response.
"""

from __future__ import annotations

from twusage.errors import ApiError, DecodeError, RateLimitedError

__all__ = ["holds_page", "is_page"]


def is_page(error: BaseException) -> bool:
    """Return whether an error stands for a page or plain text."""
    match error:
        case RateLimitedError(window_exhausted=True):
            return False  # Its headers are the API's.
        case ApiError() | RateLimitedError():
            return error.from_edge
        case DecodeError(path="$"):
            return _is_not_json(error.excerpt)
        case _:
            return False


def holds_page(body: bytes) -> bool:
    """Return whether the body of a 200 is not JSON."""
    return _is_not_json(body[:1000].decode(errors="replace"))


def _is_not_json(text: str) -> bool:
    return text.lstrip("\ufeff \t\r\n")[:1] not in {"", "{", "["}
