"""Requests and responses of the API. No I/O, no clock."""

from twusage.protocol.messages import QUOTES, Headers, Request, Response, is_visible_ascii
from twusage.protocol.redaction import redact_credentials
from twusage.protocol.requests import (
    DEFAULT_BASE_URL,
    authorize,
    check_base_url,
    is_proxy_url,
    short_repr,
    token_request,
    usage_request,
)
from twusage.protocol.responses import (
    Reading,
    is_enrollment,
    is_page,
    read_date,
    read_rate_limit,
    read_response,
    read_token,
    read_usage,
)

__all__ = [
    "DEFAULT_BASE_URL",
    "QUOTES",
    "Headers",
    "Reading",
    "Request",
    "Response",
    "authorize",
    "check_base_url",
    "is_enrollment",
    "is_page",
    "is_proxy_url",
    "is_visible_ascii",
    "read_date",
    "read_rate_limit",
    "read_response",
    "read_token",
    "read_usage",
    "redact_credentials",
    "short_repr",
    "token_request",
    "usage_request",
]
