"""Read responses: the usage, the token, the rate limit and the date, or the error that a response means.

No I/O, no clock: times come in as arguments or stand in the response's own headers.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus
from typing import Any

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
from twusage.protocol.messages import QUOTES, Request, Response, as_headers, visible
from twusage.protocol.redaction import without_credentials
from twusage.protocol.requests import TOKEN_PATH

__all__ = ["read_date", "read_rate_limit", "read_token", "read_usage"]

_WINDOW = 900.0  # seconds
_DAY = 86400.0


def read_rate_limit(response: Response) -> RateLimit | None:
    """The app's window at this endpoint, from the ``x-rate-limit-*`` headers.

    ``None`` unless all three are plain digits: a number that is not plainly one would be a guess. ``None`` too for a
    capped month: seen live, its headers are those of the endpoints that read posts (39,999 calls left).
    """
    if response.status == 429:
        kind = _kind(response.status, json_reader.decode_problem(response.body))
        if issubclass(kind, QuotaError):
            return None
    return _headers_rate_limit(response.headers)


def _headers_rate_limit(headers: Mapping[str, str]) -> RateLimit | None:
    values = as_headers(headers).texts("x-rate-limit-limit", "x-rate-limit-remaining", "x-rate-limit-reset")
    return _rate_limit(*values)


def read_date(response: Response) -> dt.datetime | None:
    """The server's own clock, from the ``Date`` header: whole seconds, UTC."""
    return _http_date(response.headers.get("date"))


def read_usage(response: Response, *, request: Request | None = None, fetched_at: dt.datetime | None = None) -> Usage:
    """The usage, or the error that the response means.

    Args:
        response: what the transport brought back.
        request: what was sent. Whatever of its credentials an answer echoes is taken out of all that is read here;
            only an error's ``headers`` and ``body`` hold what came.
        fetched_at: when the answer came: ``Usage.fetched_at``, and the start of ``Retry-After`` where there is no date.

    Raises:
        ApiError: or one of its kinds, by the title and the type of the body first, then by the status.
        RateLimitedError: the 15-minute window is spent.
        DecodeError: a 200 whose body is not what the API documents.
        ProtocolError: a redirect, an answer without a body, a status that HTTP does not have.
    """
    if response.status != 200:
        raise _refusal(response, request, fetched_at)
    body = without_credentials(response.body, request)
    if not body:
        raise ProtocolError("the API answered 200 with an empty body", retry_once=True)
    rate_limit, fetched_at = _headers_rate_limit(response.headers), fetched_at or EPOCH
    try:
        return decode_usage(body, rate_limit=rate_limit, fetched_at=fetched_at)
    except DecodeError as error:
        if error.path != "$.data" or not _has_errors_only(body):
            raise
    raise _refusal(response, request, fetched_at)


def _has_errors_only(body: bytes) -> bool:
    # `errors` without `data` in a 200 is an API error.
    document = json_reader.decode_document(body)
    return document.get("data") is None and bool(document.get("errors"))


def read_token(response: Response, *, request: Request | None = None, fetched_at: dt.datetime | None = None) -> str:
    """The bearer token that answers a ``token_request``, or the error that the response means.

    Raises:
        AuthenticationError: the API does not accept the key and the secret.
        RateLimitedError: too many tokens were asked for. It is not the window of ``usage_request`` that is spent.
        ApiError: or one of its other kinds, as in ``read_usage``.
        DecodeError: a 200 without a bearer token. What stood there is not quoted: it may well be one.
        ProtocolError: as in ``read_usage``.
    """
    if response.status != HTTPStatus.OK:
        raise _refusal(response, request, fetched_at, minting=True)
    token = _token_in(response.body)
    if token is None:
        raise DecodeError(
            f"$.access_token: the answer to POST {TOKEN_PATH} holds no bearer token",
            path="$.access_token",
            retry_once=True,
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
    quoted_itself = token[:1] in QUOTES or token[-1:] in QUOTES  # The empty text is in it, too.
    return None if quoted_itself or not visible(token) else token


def _refusal(
    response: Response, request: Request | None, now: dt.datetime | None, *, minting: bool = False
) -> TwUsageError:
    status = response.status
    if 300 <= status < 400 and status != HTTPStatus.NOT_MODIFIED:
        return ProtocolError(
            f"the server answered with a redirect ({status}), which this API never does; it was not followed. "
            "Check base_url"
        )
    if not (status == HTTPStatus.OK or 400 <= status < 600):
        return ProtocolError(f"the server answered with status {status}, which means nothing here", retry_once=True)
    # A large one is no problem document, and to look through it takes time.
    large = len(response.body) > json_reader.MOST_PROBLEM
    problem = json_reader.decode_problem(b"" if large else without_credentials(response.body, request))
    rate_limit = _headers_rate_limit(response.headers)
    kind = _kind(status, problem)
    if minting and kind in {BadRequestError, ForbiddenError}:  # Wrong keys are a 403 there.
        kind = AuthenticationError
    request_id = response.headers.get("x-transaction-id")
    answer: dict[str, Any] = {
        "status": status,
        "headers": response.headers,
        "body": response.body,
        "problem": problem,
        "rate_limit": rate_limit,
        "request_id": request_id and _clean(request_id, request),
    }
    if kind is SpendCapReachedError:
        told = problem.extra.get("reset_date")
        answer["reset_date"] = day = utc_day(told) if isinstance(told, str) else None
        answer["retry_at"] = day and dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC)
    elif kind is RateLimitedError:
        answer["window_spent"] = spent = not minting and _window_spent(response, problem)
        answer |= _retry(response, now, rate_limit if spent or minting else None)
    elif kind is ServerError:
        answer |= _retry(response, now, None)
    what_to_do = _WHAT_TO_DO[kind] if answer.get("window_spent", True) else _ANOTHER_LIMIT
    if minting:
        answer["rate_limit"] = None  # that of the tokens
        what_to_do = _MINTING.get(kind, what_to_do)
    return kind(_sentence(status, problem, what_to_do, answer.get("retry_at")), **answer)


def _window_spent(response: Response, problem: Problem) -> bool:
    """A 429 that leaves calls in the window is about something else, unless it names the window."""
    remaining = _digits(response.headers.get("x-rate-limit-remaining"))
    return not remaining or RateLimitedError in (_BY_TYPE.get(_segment(problem)), _BY_CODE.get(_code(problem)))


def _retry(response: Response, now: dt.datetime | None, rate_limit: RateLimit | None) -> dict[str, Any]:
    """When to come back: the larger of the window's reset and ``Retry-After``, by the server's own clock."""
    now = read_date(response) or now
    asked = response.headers.get("retry-after")
    date = _http_date(asked)
    # In seconds, because a datetime ends with the year 9999. The window's reset comes in whole seconds: waking at that
    # very second costs a second 429.
    instants = [rate_limit.reset_at.timestamp() + 1] if rate_limit else []
    instants += [date.timestamp()] if date else []
    waits = [instant - now.timestamp() for instant in instants] if now else []
    if (seconds := _digits(asked)) is not None:
        waits.append(seconds)
    wait = max(waits, default=None)
    if wait is not None and wait > _DAY:  # No limit of this API lasts that long. After one window we shall know.
        wait = _WINDOW
    if now is None or wait is None:
        return {"retry_at": _instant(max(instants, default=None)), "retry_after": wait}
    return {"retry_at": _instant(now.timestamp() + wait), "retry_after": max(0.0, wait)}


def _instant(seconds: float | None) -> dt.datetime | None:
    try:
        return None if seconds is None else dt.datetime.fromtimestamp(seconds, dt.UTC)
    except (ValueError, OverflowError, OSError):  # past the year 9999
        return None


# Title and type say what a status alone cannot: 403 is a spend cap as well as a wrong kind of token, and 429 is the
# monthly cap as well as the 15-minute window. Both hosts write these types, so only their last segment counts.
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


def _kind(status: int, problem: Problem) -> type[ApiError | RateLimitedError]:
    title = (problem.title or "").replace(" ", "").lower()
    return (
        _BY_TITLE.get(title)
        or _BY_TYPE.get(_segment(problem))
        or _BY_CODE.get(_code(problem))
        or _BY_STATUS.get(status)
        or (ServerError if status >= 500 else ApiError)
    )


def _segment(problem: Problem) -> str:
    return (problem.type or "").rstrip("/").rpartition("/")[2].lower()


def _code(problem: Problem) -> int | None:
    code = problem.extra.get("code")
    return code if type(code) is int else None


_WHAT_TO_DO: dict[type[TwUsageError], str] = {
    BadRequestError: "The API refuses a parameter of the request; problem.extra['errors'] says which",
    AuthenticationError: "Use the app's bearer token exactly as the developer portal shows it, with its %2F and %3D",
    ForbiddenError: "This endpoint takes the app-only bearer token of an app that is attached to a project",
    CreditsDepletedError: "Buy credits in the developer console, or wait for new ones; retrying is useless",
    SpendCapReachedError: "Raise the spending limit in the developer console, or wait for the next billing cycle",
    UsageCapExceededError: "The project's monthly cap of reads is used up; retrying is useless until it resets",
    RateLimitedError: "The app's 15-minute window is spent",
    ServerError: "The API is in trouble; try again later",
    ApiError: "The API does not give the usage; check base_url",
}

# The same, where a token was asked for.
_MINTING: dict[type[TwUsageError], str] = {
    AuthenticationError: "Use the app's API key and secret (consumer keys) from the developer portal, not its OAuth 2 "
    "client id and secret; where they are right, tokens were asked for too often",
    RateLimitedError: "Too many tokens were asked for; keep one AppOnlyAuth for all clients of the app, or give the "
    "bearer token itself",
    ApiError: "The API gives no token; check base_url",
}
_ANOTHER_LIMIT = "Calls are left in the app's 15-minute window: some other limit was met. Try again in half a minute"


def _sentence(status: int, problem: Problem, what_to_do: str, retry_at: dt.datetime | None) -> str:
    said = ": ".join(dict.fromkeys(json_reader.excerpt(text)[1:-1] for text in (problem.title, problem.detail) if text))
    when = f" (not before {retry_at:%Y-%m-%d %H:%M:%S} UTC)" if retry_at else ""
    return f"{status} {said.rstrip('.') or _phrase(status)}. {what_to_do}{when}."


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "without a known meaning"


def _clean(text: str, request: Request | None) -> str:
    # A header that is no UTF-8 comes with its bytes smuggled in as half characters: these become question marks.
    return json_reader.excerpt(without_credentials(text.encode(errors="replace"), request).decode())[1:-1]


@lru_cache(maxsize=64)  # Each answer's are read twice: for the window, and for who asked.
def _rate_limit(*texts: str | None) -> RateLimit | None:
    limit, remaining, reset = map(_digits, texts)
    reset_at = _instant(reset)
    if limit is None or remaining is None or reset_at is None:
        return None
    return RateLimit(limit, remaining, reset_at)


def _digits(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) <= 12 else None


@lru_cache(maxsize=64)  # A date is the same for a whole second, and slow to read.
def _http_date(text: str | None) -> dt.datetime | None:
    try:
        date = parsedate_to_datetime(text or "")
        # RFC 9110 dates are GMT; Python leaves "-0000" without a zone.
        return date.replace(tzinfo=dt.UTC) if date.tzinfo is None else date.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        return None
