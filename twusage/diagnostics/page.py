"""Tells a page or plain text of a firewall, a proxy or the API's edge from a response of the API. Pure."""

from __future__ import annotations

from twusage.errors import ApiError, DecodeError, RateLimitedError

__all__ = ["holds_page", "is_page"]


def is_page(error: BaseException) -> bool:
    """Return whether an error stands for a page or plain text, whatever its status."""
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
    """Return whether this body of a 200 is a page or plain text."""
    return _is_not_json(body[:1000].decode(errors="replace"))


def _is_not_json(text: str) -> bool:
    return text.lstrip("\ufeff \t\r\n")[:1] not in {"", "{", "["}
