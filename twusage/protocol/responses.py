"""Read responses: usage, token, rate limit and date, or an error.

No I/O, no clock: times are arguments, or come from the headers of the response.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from attrs import define

from twusage import json_reader
from twusage.codec import decode_usage, utc_day
from twusage.errors import (
    ApiError,
    AuthenticationError,
    BadRequestError,
    CreditsDepletedError,
    DecodeError,
    ForbiddenError,
    ProtocolError,
    QuotaError,
    RateLimitedError,
    ServerError,
    SpendCapReachedError,
    TwUsageError,
    UsageCapExceededError,
)
from twusage.models import EPOCH, Problem, RateLimit, Usage
from twusage.protocol.messages import QUOTES, Request, Response, as_headers, is_visible_ascii
from twusage.protocol.redaction import redact_credentials
from twusage.protocol.requests import TOKEN_PATH

__all__ = [
    "Reading",
    "is_enrollment",
    "is_page",
    "read_date",
    "read_rate_limit",
    "read_response",
    "read_token",
    "read_usage",
]

_WINDOW = 900.0  # seconds
_DAY = 86400.0
# A 24-hour limit that was just used up, plus an hour for clocks that differ.
_MAX_DAILY_WAIT = 90_000.0


@define
class Reading:
    """The content of one response, read once.

    It is the window, the server's time, and the error that it means, if any.
    """

    response: Response
    request: Request | None
    fetched_at: dt.datetime | None
    rate_limit: RateLimit | None
    """This endpoint's window, or ``None`` if the response does not report it."""
    server_time: float | None
    """The ``Date`` header, in epoch seconds."""
    error: TwUsageError | None

    def usage(self) -> Usage:
        """Return the decoded usage, or raise the error that the response means."""
        if self.error is not None:
            raise self.error
        body = redact_credentials(self.response.body, self.request)
        if not body:
            raise ProtocolError("the API returned status 200 with an empty body", retry_once=True)
        fetched_at = self.fetched_at or EPOCH
        try:
            return decode_usage(body, rate_limit=self.rate_limit, fetched_at=fetched_at)
        except DecodeError as error:
            if is_page(body):
                raise _of_page(error) from None
            if error.path != "$.data" or not _has_errors_only(body):
                raise
        raise _error_from_response(self.response, self.request, self.fetched_at)


def _of_page(error: DecodeError) -> DecodeError:
    """Return the error with what a page or plain text in a 200 means."""
    message = f"200 {error}. {_EDGE_ADVICE}."
    return DecodeError(message, path=error.path, excerpt=error.excerpt, retry_once=error.retry_once, from_edge=True)


def _has_errors_only(body: bytes) -> bool:
    # ``errors`` without ``data`` in a 200 is an API error.
    document = json_reader.decode_document(body)
    return document.get("data") is None and bool(document.get("errors"))


def read_response(
    response: Response, *, request: Request | None = None, fetched_at: dt.datetime | None = None
) -> Reading:
    """Read status, problem, rate limit and date of a response, each once. See ``read_usage`` for the arguments.

    The headers of a ``QuotaError`` and of a ``client-forbidden`` are ignored, because captures show that they describe
    another window (40,000 calls).
    """
    date = read_date(response)
    server_time = None if date is None else date.timestamp()
    if response.status == HTTPStatus.OK:
        rate_limit = _headers_rate_limit(response.headers)
        return Reading(response, request, fetched_at, rate_limit, server_time, None)
    error = _error_from_response(response, request, fetched_at)
    rate_limit = None if _is_about_another_window(error) else _headers_rate_limit(response.headers)
    return Reading(response, request, fetched_at, rate_limit, server_time, error)


def _is_about_another_window(error: TwUsageError) -> bool:
    return isinstance(error, QuotaError) or (isinstance(error, ForbiddenError) and is_enrollment(error.problem))


def read_rate_limit(response: Response) -> RateLimit | None:
    """Return the app's window at this endpoint, from the ``x-rate-limit-*`` headers.

    ``None`` if one of the three is missing or not plain digits, or if they describe another window: see
    ``read_response``.
    """
    return read_response(response).rate_limit


def _headers_rate_limit(headers: Mapping[str, str]) -> RateLimit | None:
    values = as_headers(headers).get_many("x-rate-limit-limit", "x-rate-limit-remaining", "x-rate-limit-reset")
    return _rate_limit(*values)


def read_date(response: Response) -> dt.datetime | None:
    """Return the server's time from the ``Date`` header: whole seconds, UTC."""
    return _http_date(response.headers.get("date"))


def read_usage(response: Response, *, request: Request | None = None, fetched_at: dt.datetime | None = None) -> Usage:
    """Return the usage, or raise the error that the response means.

    Args:
        response: what the transport returned.
        request: what was sent. Its credentials are redacted from everything that is read here; only an error's
            ``headers`` and ``body`` hold the raw response.
        fetched_at: when the response arrived: ``Usage.fetched_at``, and the start of ``Retry-After`` without a date.

    Raises:
        ApiError: or a subclass, by the title and the type of the body first, then by the status.
        RateLimitedError: no calls are left in the 15-minute window.
        DecodeError: the body of a 200 does not match the documented schema.
        ProtocolError: a redirect, a 200 without a body, an invalid status.
    """
    return read_response(response, request=request, fetched_at=fetched_at).usage()


def read_token(response: Response, *, request: Request | None = None, fetched_at: dt.datetime | None = None) -> str:
    """Return the token of a ``token_request``'s response, or raise its error.

    Raises:
        AuthenticationError: the API rejects the key and the secret.
        RateLimitedError: too many tokens were requested. This is another limit than the window of ``usage_request``.
        ApiError: or another subclass, as in ``read_usage``.
        DecodeError: a 200 without a bearer token. The value is not quoted, because it may be a token.
        ProtocolError: as in ``read_usage``.
    """
    if response.status != HTTPStatus.OK:
        raise _error_from_response(response, request, fetched_at, is_token_request=True)
    token = _token_in(response.body)
    if token is None:
        from_edge = is_page(response.body)
        raise DecodeError(
            f"$.access_token: the response to POST {TOKEN_PATH} contains no bearer token"
            + (f". {_EDGE_ADVICE}" if from_edge else ""),
            path="$.access_token",
            retry_once=True,
            from_edge=from_edge,
        )
    return token


def _token_in(body: bytes) -> str | None:
    try:
        document = json_reader.decode_document(body)
    except DecodeError:
        return None
    kind, token = document.get("token_type"), document.get("access_token")
    if not (isinstance(kind, str) and kind.lower() == "bearer" and isinstance(token, str)):
        return None
    has_quotes = token[:1] in QUOTES or token[-1:] in QUOTES  # True for the empty string, too.
    return None if has_quotes or not is_visible_ascii(token) else token


def _error_from_response(
    response: Response, request: Request | None, now: dt.datetime | None, *, is_token_request: bool = False
) -> TwUsageError:
    status = response.status
    if 300 <= status < 400 and status != HTTPStatus.NOT_MODIFIED:
        return ProtocolError(
            f"unexpected redirect (status {status}); it was not followed, because this API never redirects. A login "
            "page of the network, a firewall or a proxy may have sent it: check the network and base_url"
        )
    if not (status == HTTPStatus.OK or 400 <= status < 600):
        source = f". {_EDGE_ADVICE}" if is_page(response.body) else ""
        return ProtocolError(f"unexpected status {status}{source}", retry_once=True)
    # A large body is not a problem document, and searching it takes time.
    large = len(response.body) > json_reader.MAX_PROBLEM
    body = b"" if large else redact_credentials(response.body, request)
    problem = json_reader.decode_problem(body)
    rate_limit = _headers_rate_limit(response.headers)
    kind = _error_class(status, problem)
    if is_token_request and kind in {BadRequestError, ForbiddenError}:  # The token endpoint returns 403 for wrong keys.
        kind = AuthenticationError
    request_id = response.headers.get("x-transaction-id")
    data: dict[str, Any] = {
        "status": status,
        "headers": response.headers,
        "body": response.body,
        "problem": problem,
        "rate_limit": rate_limit,
        "request_id": request_id and _clean(request_id, request),
    }
    data["from_edge"] = from_edge = is_page(response.body) or _is_foreign(problem, body, request_id)
    advice = (_TOKEN_ADVICE if is_token_request else _ADVICE).get(kind, _ADVICE[kind])
    if kind is SpendCapReachedError:
        reset_date = problem.extra.get("reset_date")
        data["reset_date"] = day = utc_day(reset_date) if isinstance(reset_date, str) else None
        data["retry_at"] = day and dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC)
    elif kind is RateLimitedError:
        limit = _limit_of(response, problem, from_edge=from_edge, is_token_request=is_token_request)
        data["window_exhausted"] = limit.is_window
        data |= _retry_hints(response, now, limit.reset_at, longest=limit.longest)
        advice = limit.advice or advice
    elif kind is ServerError:
        data |= _retry_hints(response, now, None, longest=_DAY)
    elif kind is ForbiddenError:
        advice = _forbidden_advice(problem)
    if is_token_request:
        data["rate_limit"] = None  # the token endpoint's
    if from_edge:
        advice = _EDGE_ADVICE
    return kind(_message(status, problem, advice, data.get("retry_at")), **data)


# The API sends a JSON object or array, perhaps truncated.
_JSON_START = re.compile(rb"(\xef\xbb\xbf)?\s*(\Z|\{\s*(\Z|[\"}])|\[\s*(\Z|[\]\[{\"\d-]))")


def is_page(body: bytes) -> bool:
    """Return whether it is a page or plain text. The API sends JSON, or nothing."""
    return _JSON_START.match(body) is None


def _is_foreign(problem: Problem, body: bytes, request_id: str | None) -> bool:
    """Return whether it is JSON of another service, such as Cloudflare."""
    named = re.match(r"https?:/(/[^/?#:]+)", problem.type or "", re.IGNORECASE)
    if named is not None:
        return not named[1].lower().endswith((".twitter.com", ".x.com", "/twitter.com", "/x.com"))
    return request_id is None and json_reader.is_unfamiliar(body)


@define
class _Limit:
    """The limit that a 429 is about."""

    is_window: bool
    """True for the app's 15-minute window."""
    reset_at: float | None = None
    """Epoch seconds by the server's clock."""
    advice: str | None = None
    """``None``: the advice of the error's class."""
    longest: float = _DAY
    """Seconds beyond which a wait is implausible."""


def _limit_of(response: Response, problem: Problem, *, from_edge: bool, is_token_request: bool) -> _Limit:
    headers = response.headers
    remaining, reset = (_digits(headers.get(f"x-rate-limit-{name}")) for name in ("remaining", "reset"))
    reset_at = None if _headers_rate_limit(headers) is None or reset is None else float(reset)
    if is_token_request:
        return _Limit(is_window=False, reset_at=reset_at)
    for owner in ("app", "user"):
        if _digits(headers.get(f"x-{owner}-limit-24hour-remaining")) == 0:
            daily_reset = _digits(headers.get(f"x-{owner}-limit-24hour-reset"))
            return _Limit(is_window=False, reset_at=daily_reset, advice=_DAILY_LIMIT_ADVICE, longest=_MAX_DAILY_WAIT)
    names_window = RateLimitedError in (_BY_TYPE.get(_type_slug(problem)), _BY_CODE.get(_code(problem)))
    if names_window or remaining == 0 or (remaining is None and not from_edge):
        return _Limit(is_window=True, reset_at=reset_at)
    return _Limit(is_window=False, advice=_OTHER_LIMIT_ADVICE)


def _retry_hints(
    response: Response, now: dt.datetime | None, reset_at: float | None, *, longest: float
) -> dict[str, Any]:
    """Return when to retry, by the server's clock. It is the larger of the limit's reset and ``Retry-After``."""
    now = read_date(response) or now
    retry_after = response.headers.get("retry-after")
    date = _http_date(retry_after)
    # In seconds, because datetimes end in the year 9999. Resets are rounded down to whole seconds: a retry within that
    # second costs a second 429.
    instants = [] if reset_at is None else [reset_at + 1]
    instants += [date.timestamp()] if date else []
    waits = [instant - now.timestamp() for instant in instants] if now else []
    if (seconds := _digits(retry_after)) is not None:
        waits.append(seconds)
    wait = max(waits, default=None)
    if wait is not None and wait > longest:  # Implausible: wait one window and check again.
        wait = _WINDOW
    if now is None or wait is None:
        return {"retry_at": _datetime_or_none(max(instants, default=None)), "retry_after": wait}
    return {"retry_at": _datetime_or_none(now.timestamp() + wait), "retry_after": max(0.0, wait)}


def _datetime_or_none(seconds: float | None) -> dt.datetime | None:
    try:
        return None if seconds is None else dt.datetime.fromtimestamp(seconds, dt.UTC)
    except (ValueError, OverflowError, OSError):  # past the year 9999
        return None


# By title and type first, because a status is ambiguous: 403 is a spend cap or a wrong kind of token, and 429 is the
# monthly cap or the 15-minute window. The types have either of two hosts, so only their last segment counts.
_BY_TITLE: dict[str, type[ApiError | RateLimitedError]] = {
    "usagecapexceeded": UsageCapExceededError,
    "spendcapreached": SpendCapReachedError,
    "creditsdepleted": CreditsDepletedError,
}
_BY_TYPE: dict[str, type[ApiError | RateLimitedError]] = {
    "usage-capped": UsageCapExceededError,
    "credits-depleted": CreditsDepletedError,
    "credits": CreditsDepletedError,  # a spend cap has this type too, so titles come first
    "rate-limit-exceeded": RateLimitedError,
    "invalid-request": BadRequestError,
    "unsupported-authentication": ForbiddenError,
    "client-forbidden": ForbiddenError,
}
_BY_CODE: dict[int | None, type[ApiError | RateLimitedError]] = {88: RateLimitedError, 89: AuthenticationError}
_BY_STATUS: dict[int, type[ApiError | RateLimitedError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    402: CreditsDepletedError,  # 402 has no other use here
    403: ForbiddenError,
    408: ServerError,
    429: RateLimitedError,
}


def _error_class(status: int, problem: Problem) -> type[ApiError | RateLimitedError]:
    title = (problem.title or "").replace(" ", "").lower()
    return (
        _BY_TITLE.get(title)
        or _BY_TYPE.get(_type_slug(problem))
        or _BY_CODE.get(_code(problem))
        or _BY_STATUS.get(status)
        or (ServerError if status >= 500 else ApiError)
    )


def _type_slug(problem: Problem) -> str:
    return (problem.type or "").rstrip("/").rpartition("/")[2].lower()


def is_enrollment(problem: Problem) -> bool:
    """True if the app or the account is not enrolled in what the endpoint requires."""
    reason = problem.extra.get("reason")
    return _type_slug(problem) == "client-forbidden" or (
        isinstance(reason, str) and reason.lower().endswith("not-enrolled")
    )


def _code(problem: Problem) -> int | None:
    code = problem.extra.get("code")
    return code if type(code) is int else None


_ADVICE: dict[type[TwUsageError], str] = {
    BadRequestError: "The API rejects a parameter of the request; problem.extra['errors'] names it",
    AuthenticationError: "Use the app's bearer token exactly as the developer portal shows it, with its %2F and %3D",
    ForbiddenError: "Possible causes: a user's token instead of the app-only bearer token of an app, a suspended app "
    "or account, or a firewall",
    CreditsDepletedError: "Buy credits in the developer console, or wait for new ones; a retry fails until then",
    SpendCapReachedError: "Raise the spending limit in the developer console, or wait for the next billing cycle",
    UsageCapExceededError: "The project's monthly cap of reads is used up; a retry fails until it resets",
    RateLimitedError: "No calls are left in the app's 15-minute window",
    ServerError: "The API is unavailable; retry later",
    ApiError: "The API did not return the usage; check base_url",
}

# The same for a token request.
_TOKEN_ADVICE: dict[type[TwUsageError], str] = {
    AuthenticationError: "Use the app's API key and secret (consumer keys) from the developer portal, not its OAuth 2 "
    "client id and secret. If they are right, tokens were requested too often",
    RateLimitedError: "Too many tokens were requested; share one AppOnlyAuth among all clients of the app, or use the "
    "bearer token itself",
    ApiError: "The API did not return a token; check base_url",
}
_OTHER_LIMIT_ADVICE = "The app's 15-minute window has calls left: this is another limit. Try again in 30 seconds"


_DAILY_LIMIT_ADVICE = "The app's 24-hour limit is used up"
_APP_ONLY_ADVICE = "This endpoint takes the app-only bearer token of an app, not a user's token"
_EDGE_ADVICE = "A firewall, proxy or CDN sent this response, not the API: check the network and base_url"


def _forbidden_advice(problem: Problem) -> str:
    if _type_slug(problem) == "unsupported-authentication":
        return _APP_ONLY_ADVICE
    if not is_enrollment(problem):
        return _ADVICE[ForbiddenError]
    named = [
        f"{name}: {json_reader.excerpt(value)[1:-1]}"
        for name in ("reason", "required_enrollment", "registration_url")
        if isinstance(value := problem.extra.get(name), str)
    ]
    reasons = f" ({', '.join(named)})" if named else ""
    return (
        f"The API does not let this app use the endpoint{reasons}. Possible causes: the app is not attached to a "
        "project, or the account is not enrolled in a plan that includes it"
    )


def _message(status: int, problem: Problem, advice: str, retry_at: dt.datetime | None) -> str:
    texts = [json_reader.excerpt(text)[1:-1] for text in (problem.title, problem.detail) if text]
    message = ": ".join(dict.fromkeys(texts))
    when = f" (not before {retry_at:%Y-%m-%d %H:%M:%S} UTC)" if retry_at else ""
    return f"{status} {message.rstrip('.') or _reason_phrase(status)}. {advice}{when}."


def _reason_phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown Status"


def _clean(text: str, request: Request | None) -> str:
    # aiohttp decodes non-UTF-8 header bytes with surrogateescape; replace them with "?".
    return json_reader.excerpt(redact_credentials(text.encode(errors="replace"), request).decode())[1:-1]


@lru_cache(maxsize=64)  # Responses within a second repeat the same values.
def _rate_limit(*texts: str | None) -> RateLimit | None:
    limit, remaining, reset = map(_digits, texts)
    reset_at = _datetime_or_none(reset)
    if limit is None or remaining is None or reset_at is None:
        return None
    return RateLimit(limit, remaining, reset_at)


def _digits(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) <= 12 else None


@lru_cache(maxsize=64)  # Slow to parse, and the same for a whole second.
def _http_date(text: str | None) -> dt.datetime | None:
    try:
        date = parsedate_to_datetime(text or "")
        # RFC 9110 dates are GMT; Python leaves "-0000" without a zone.
        return date.replace(tzinfo=dt.UTC) if date.tzinfo is None else date.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        return None
