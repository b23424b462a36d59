"""Build requests and read responses. No I/O, no clock.

``usage_request`` and ``authorize`` make what a transport sends; ``read_rate_limit`` and ``read_usage`` say what came
back means. Times come in as arguments or stand in the answer's own headers.
"""

from __future__ import annotations

import binascii
import datetime as dt
import json
import re
import reprlib
from base64 import b64decode, b64encode
from collections.abc import ItemsView, Iterable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from attrs import field, frozen

from twusage import documents
from twusage._version import __version__
from twusage.errors import (
    ApiError,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    CreditsDepletedError,
    DecodeError,
    ForbiddenError,
    InvalidRequestError,
    ProtocolError,
    QuotaError,
    RateLimitedError,
    ServerError,
    SpendCapReachedError,
    TwUsageError,
    UsageCapExceededError,
)
from twusage.models import EPOCH, Problem, RateLimit, Usage, UsageField
from twusage.plain import plain_usage, utc_day

__all__ = [
    "DEFAULT_BASE_URL",
    "Headers",
    "Request",
    "Response",
    "authorize",
    "check_base_url",
    "quoted",
    "read_date",
    "read_rate_limit",
    "read_token",
    "read_usage",
    "token_request",
    "usage_request",
    "visible",
    "without_credentials",
]

DEFAULT_BASE_URL = "https://api.twitter.com"
USAGE_PATH = "/2/usage/tweets"
TOKEN_PATH = "/oauth2/token"  # noqa: S105 - a path
# What no token begins or ends with, though a header could carry it.
QUOTES = "\"'`"
_WINDOW = 900.0  # seconds
_DAY = 86400.0
_DAILY = (UsageField.DAILY_CLIENT_APP_USAGE, UsageField.DAILY_PROJECT_USAGE)


class Headers(Mapping[str, str]):
    """HTTP headers: frozen, kept in lower case, found in any case, and shown without their values: some are secret.

    A header that comes twice is one with two values (RFC 9110, 5.3), so that nobody takes the first for all.
    """

    __slots__ = ("_values",)

    def __init__(self, headers: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        pairs = list(headers.items() if hasattr(headers, "items") else headers)
        self._values: dict[str, str] = {name.lower(): value for name, value in pairs}
        if len(self._values) < len(pairs):
            self._values = {}
            for name, value in pairs:
                key = name.lower()
                self._values[key] = f"{self._values[key]}, {value}" if key in self._values else value

    def with_one_more(self, name: str, value: str) -> Headers:
        """The same, and this one in the place of any of that name."""
        more = Headers()
        more._values = {**self._values, name.lower(): value}
        return more

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def get(self, name: str, default: Any = None) -> Any:
        """The value, or the default."""
        return self._values.get(name.lower(), default)

    def texts(self, *names: str) -> Iterator[str | None]:
        """The values of these names, given in lower case; ``None`` for one that there is not."""
        return map(self._values.get, names)

    def items(self) -> ItemsView[str, str]:
        """The names, in lower case, and the values."""
        return self._values.items()

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return self._values == dict(other) if isinstance(other, Mapping) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[type[Headers], tuple[dict[str, str]]]:
        return Headers, (self._values,)

    def __repr__(self) -> str:
        return f"Headers({', '.join(self)})"


def _as_headers(headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> Headers:
    return headers if type(headers) is Headers else Headers(headers)


def _size(body: bytes) -> str:
    return f"<{len(body)} bytes>"


@frozen
class Request:
    """What a transport sends. Its repr shows no header's value and no body."""

    method: str
    """``GET``, or ``POST`` for a token."""
    url: str
    """The whole URL, encoded: it is sent as it is."""
    headers: Mapping[str, str] = field(factory=Headers, converter=_as_headers, hash=False)
    """What to send besides what the transport itself adds. Holds the credentials."""
    body: bytes = field(default=b"", repr=_size)
    """The body, empty for a ``GET``."""


@frozen
class Response:
    """What a transport brings back: the body whole, and decompressed. Its repr shows no header's value and no body."""

    status: int
    """The HTTP status."""
    headers: Mapping[str, str] = field(factory=Headers, converter=_as_headers, hash=False)
    """The headers, names in lower case. One that came twice is one with its values joined by a comma."""
    body: bytes = field(default=b"", repr=_size)
    """The body, whole and decompressed."""


_FIXED_HEADERS = Headers({"accept": "application/json", "user-agent": f"twusage/{__version__}"})


# -- Requests ----------------------------------------------------------------------------------------------------------


def usage_request(
    *, days: int | None = None, fields: Iterable[UsageField | str] | None = None, base_url: str = DEFAULT_BASE_URL
) -> Request:
    """``GET /2/usage/tweets``. Equal arguments give equal requests, whatever the order of ``fields``.

    Args:
        days: how many days of daily usage, 1 to 90; the API gives 7 when it is left out.
        fields: what to ask for beyond the summary; without it, ``days`` asks for both daily fields, because ``days``
            alone changes nothing in the answer.
        base_url: as ``check_base_url`` returned it.

    Raises:
        InvalidRequestError: quotes the value that is wrong.
    """
    query = []
    if days is not None:
        query.append(f"days={_checked_days(days)}")
    wanted = _checked_fields(fields) if fields is not None else _DAILY if days is not None else ()
    if wanted:
        query.append(f"usage.fields={','.join(wanted)}")
    return _usage_request(base_url, "&".join(query))


@lru_cache(maxsize=64)  # A program asks for the same again and again.
def _usage_request(base_url: str, query: str) -> Request:
    url = base_url + USAGE_PATH
    return Request("GET", f"{url}?{query}" if query else url, _FIXED_HEADERS)


def quoted(value: object) -> str:
    """A value as an error shows it: short, whatever it is."""
    try:
        return reprlib.repr(value)
    except Exception:  # noqa: BLE001 - an int of more digits than Python writes; a repr that fails
        return f"a {type(value).__name__} that cannot be shown"


def _checked_days(days: object) -> int:
    # A bool is an int to Python, but nobody means days=True.
    if type(days) is not int:
        raise InvalidRequestError(f"days must be an int between 1 and 90, got {quoted(days)}")
    if not 1 <= days <= 90:
        raise InvalidRequestError(f"days must be between 1 and 90, got {quoted(days)}")
    return days


def _checked_fields(fields: object) -> tuple[UsageField, ...]:
    if isinstance(fields, str) or not isinstance(fields, Iterable):
        raise InvalidRequestError(f"fields must be a list of UsageField, got {quoted(fields)}")
    wanted = set()
    for name in fields:
        try:
            wanted.add(UsageField(name))
        except ValueError:
            known = ", ".join(UsageField)
            raise InvalidRequestError(f"fields must be among {known}; got {quoted(name)}") from None
    return tuple(name for name in UsageField if name in wanted)


def authorize(request: Request, token: str) -> Request:
    """The same request with its ``Authorization`` header. The token is sent verbatim: its %2F and %3D are literal."""
    headers = _as_headers(request.headers).with_one_more("authorization", f"Bearer {token}")
    return Request(request.method, request.url, headers, request.body)


def token_request(api_key: str, api_secret: str, *, base_url: str = DEFAULT_BASE_URL) -> Request:
    """``POST /oauth2/token``: an app's API key and secret for its bearer token (the vendor's OAuth 2 documents).

    It does not count in the window of ``usage_request``.
    """
    # Encoded before they are joined (RFC 6749, 2.3.1), so that a colon in the one is not taken for the end of it.
    pair = f"{quote(api_key, safe='')}:{quote(api_secret, safe='')}"
    headers = {
        **_FIXED_HEADERS,
        "authorization": f"Basic {b64encode(pair.encode()).decode()}",
        "content-type": "application/x-www-form-urlencoded;charset=UTF-8",
    }
    return Request("POST", base_url + TOKEN_PATH, headers, b"grant_type=client_credentials")


def check_base_url(base_url: object, *, name: str = "base_url") -> str:
    """The base URL without a trailing slash. ``name`` is what an error calls it: that of a variable, which is not
    quoted, for somebody may have put a token there.

    Raises:
        ConfigurationError: it is no https URL (http is allowed on loopback only, because the token would be readable
            on the way), or it holds a user name, a query or a fragment.
    """
    if not isinstance(base_url, str):
        raise ConfigurationError(f"{name} must be a str, got {type(base_url).__name__}")
    if "@" in base_url:  # Not quoted: what stands before it is a password.
        raise ConfigurationError(f"{name} must not hold a user name or a password; give the token to the client")
    shown = f", got {quoted(base_url)}" if name == "base_url" else ""
    scheme, host = _scheme_and_host(base_url)
    if host and max(map(len, host.split("."))) > _LONGEST_LABEL:
        raise ConfigurationError(f"{name} has no host but something longer: a token?")
    if not host:
        raise ConfigurationError(f"{name} must look like {DEFAULT_BASE_URL}{shown}")
    if scheme != "https" and not (scheme == "http" and _is_loopback(host)):
        raise ConfigurationError(f"{name} must be https (http is for loopback only){shown}")
    return base_url.rstrip("/")


# Of a host's name, between two dots (RFC 1035, 2.3.4).
_LONGEST_LABEL = 63


def visible(text: str) -> bool:
    """Whether it is of visible ASCII alone: what a header or a URL can carry, without a space."""
    return text.isascii() and text.isprintable() and " " not in text


def _scheme_and_host(url: str) -> tuple[str, str | None]:
    if "?" in url or "#" in url or not visible(url):
        return "", None
    try:
        parts = urlsplit(url)
        _ = parts.port  # checked when it is read
    except ValueError:
        return "", None
    return parts.scheme, parts.hostname


def _is_loopback(host: str) -> bool:
    from ipaddress import ip_address

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# -- Responses ---------------------------------------------------------------------------------------------------------


def read_rate_limit(response: Response) -> RateLimit | None:
    """The app's window at this endpoint, from the ``x-rate-limit-*`` headers.

    ``None`` unless all three are plain digits: a number that is not plainly one would be a guess. ``None`` too for a
    capped month: seen live, its headers are those of the endpoints that read posts (39,999 calls left).
    """
    if response.status == 429:
        kind = _kind(response.status, documents.decode_problem(response.body))
        if issubclass(kind, QuotaError):
            return None
    return _headers_rate_limit(response.headers)


def _headers_rate_limit(headers: Mapping[str, str]) -> RateLimit | None:
    values = _as_headers(headers).texts("x-rate-limit-limit", "x-rate-limit-remaining", "x-rate-limit-reset")
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
    usage = plain_usage(body, rate_limit=rate_limit, fetched_at=fetched_at)
    if usage is None:
        document = documents.decode_document(body)
        if document.get("data") is None and document.get("errors"):
            raise _refusal(response, request, fetched_at)
        from twusage.codec import usage_from  # here, because cattrs takes 20 ms to load, and is mostly not needed

        usage = usage_from(document, rate_limit=rate_limit, fetched_at=fetched_at)
    return usage


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
        document = documents.decode_document(body)
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
    large = len(response.body) > documents.MOST_PROBLEM
    problem = documents.decode_problem(b"" if large else without_credentials(response.body, request))
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
    said = ": ".join(dict.fromkeys(documents.excerpt(text)[1:-1] for text in (problem.title, problem.detail) if text))
    when = f" (not before {retry_at:%Y-%m-%d %H:%M:%S} UTC)" if retry_at else ""
    return f"{status} {said.rstrip('.') or _phrase(status)}. {what_to_do}{when}."


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "without a known meaning"


# So many letters of a secret, from its first on, are an echo of it.
_SHOWN = 8


def without_credentials(body: bytes, request: Request | None) -> bytes:
    """What an answer said, with the request's own credentials taken out where it echoes them, in whatever spelling."""
    scheme, _, sent = (request.headers.get("authorization", "") if request else "").partition(" ")
    start = sent[:_SHOWN]
    if scheme == "Bearer" and start.isalnum() and start.encode() not in body and b"\\" not in body:
        return body  # However it is spelled, it begins so.
    # A secret that is very short is a test's, and may well be a word of the document.
    spellings = {spelling.encode() for part in _parts(scheme, sent) for spelling in _spellings(part)}
    instead = f"[{scheme} credentials]".encode()
    body = _replaced(body, spellings, instead)
    if not spellings or b"\\" not in body:
        return body
    # JSON may spell any letter as an escape. Only where that hides an echo is the document written anew.
    plain = _unescaped(body)
    cleaned = _replaced(plain, spellings, instead)
    return body if cleaned == plain else cleaned


_ESCAPE = re.compile("%[0-9A-F]{2}")


def _spellings(secret: str) -> Iterator[str]:
    # Its end alone as well: its first letters may be taken for those of an escape before it.
    for part in (secret, secret[_SHOWN:]) if len(secret) >= 3 * _SHOWN else (secret,) * (len(secret) >= _SHOWN):
        plain = unquote(part)
        yield from (part, plain, quote(part, safe=""))
        yield plain.replace("/", r"\/")  # as scripts in a page have it
        yield _ESCAPE.sub(lambda escape: escape[0].lower(), part)


def _parts(scheme: str, sent: str) -> list[str]:
    """A token, or the API key and secret that make up Basic credentials, besides the whole of them."""
    try:
        pair = b64decode(sent, validate=True).decode() if scheme == "Basic" else ""
    except (binascii.Error, UnicodeDecodeError):  # not of our making
        pair = ""
    halves = pair.split(":")
    return [sent, *halves, *map(unquote, halves)]


def _replaced(body: bytes, spellings: set[bytes], instead: bytes) -> bytes:
    for spelling in sorted(spellings, key=len, reverse=True):  # the longest first: one may be a part of another
        body = body.replace(spelling, instead)
        if spelling[:_SHOWN] in body:  # An answer may break off within its echo.
            shown = next((end for end in range(len(spelling), _SHOWN - 1, -1) if body.endswith(spelling[:end])), 0)
            body = body[: len(body) - shown] + instead * bool(shown)
    return body


def _unescaped(body: bytes) -> bytes:
    try:
        return json.dumps(json.loads(body), ensure_ascii=False).encode(errors="replace")
    except (ValueError, RecursionError):
        # Escapes for a token's letters, in what is no JSON; perhaps because it breaks off, within an escape even.
        return _LETTER.sub(lambda match: bytes.fromhex(match[1].decode()) if match[1] else match[2] or b"", body)


_LETTER = re.compile(rb"\\(?:u00([0-7][0-9a-fA-F])|(/)|(?:u[0-9a-fA-F]{0,3})?\Z)")


def _clean(text: str, request: Request | None) -> str:
    # A header that is no UTF-8 comes with its bytes smuggled in as half characters: these become question marks.
    return documents.excerpt(without_credentials(text.encode(errors="replace"), request).decode())[1:-1]


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
