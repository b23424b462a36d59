"""Build requests and validate their parameters. No I/O, no clock."""

from __future__ import annotations

import operator
import re
import reprlib
from base64 import b64encode
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import quote, urlsplit

from twusage._version import __version__
from twusage.errors import ConfigurationError, InvalidRequestError
from twusage.models import UsageField
from twusage.protocol.messages import Headers, Request, as_headers, is_visible_ascii

__all__ = [
    "DEFAULT_BASE_URL",
    "TOKEN_PATH",
    "authorize",
    "check_base_url",
    "is_proxy_url",
    "short_repr",
    "token_request",
    "usage_request",
]

DEFAULT_BASE_URL = "https://api.twitter.com"
USAGE_PATH = "/2/usage/tweets"
TOKEN_PATH = "/oauth2/token"  # noqa: S105 - a path
_FIXED_HEADERS = Headers({"accept": "application/json", "user-agent": f"twusage/{__version__}"})
_DAILY = (UsageField.DAILY_CLIENT_APP_USAGE, UsageField.DAILY_PROJECT_USAGE)


def usage_request(
    *,
    days: int | None = None,
    fields: Iterable[UsageField | str] | None = None,
    base_url: str = DEFAULT_BASE_URL,
) -> Request:
    """Return ``GET /2/usage/tweets``. Equal arguments give equal requests, in any order of ``fields``.

    Args:
        days: number of days of daily usage, 1 to 90 (the API's default: 7).
        fields: what to request beyond the summary (default with ``days``: both daily fields, because ``days`` alone
            does not change the response).
        base_url: as ``check_base_url`` returned it.

    Raises:
        InvalidRequestError: quotes the invalid value.
    """
    query = []
    if days is not None:
        query.append(f"days={_checked_days(days)}")
    wanted = _checked_fields(fields) if fields is not None else _DAILY if days is not None else ()
    if wanted:
        query.append(f"usage.fields={','.join(wanted)}")
    return _usage_request(base_url, "&".join(query))


@lru_cache(maxsize=64)  # Most requests of a program are equal.
def _usage_request(base_url: str, query: str) -> Request:
    url = base_url + USAGE_PATH
    return Request("GET", f"{url}?{query}" if query else url, _FIXED_HEADERS)


def short_repr(value: object) -> str:
    """Return a truncated repr for error messages; never raises."""
    try:
        return reprlib.repr(value)
    except Exception:  # noqa: BLE001 - an int of more digits than Python writes; a repr that fails
        return f"a {type(value).__name__} that cannot be shown"


def _checked_days(days: object) -> int:
    # bool is a subclass of int, but days=True is a mistake. ``index`` accepts the integers of other libraries.
    try:
        number = operator.index(days)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or type(days).__name__ in {"bool", "bool_"}:
        raise InvalidRequestError(f"days must be an int between 1 and 90, got {short_repr(days)}")
    if not 1 <= number <= 90:
        raise InvalidRequestError(f"days must be between 1 and 90, got {short_repr(days)}")
    return number


def _checked_fields(fields: object) -> tuple[UsageField, ...]:
    if isinstance(fields, str):
        fields = (fields,)
    if not isinstance(fields, Iterable):
        raise InvalidRequestError(f"fields must be a list of UsageField, got {short_repr(fields)}")
    wanted = set()
    for name in fields:
        try:
            wanted.add(UsageField(name))
        except ValueError:
            known = ", ".join(UsageField)
            raise InvalidRequestError(f"fields must be among {known}; got {short_repr(name)}") from None
    return tuple(name for name in UsageField if name in wanted)


def authorize(request: Request, token: str) -> Request:
    """Return the request with an ``Authorization`` header. The token is sent verbatim: its %2F and %3D are literal."""
    headers = as_headers(request.headers).replacing("authorization", f"Bearer {token}")
    return Request(request.method, request.url, headers, request.body)


def token_request(api_key: str, api_secret: str, *, base_url: str = DEFAULT_BASE_URL) -> Request:
    """Return ``POST /oauth2/token``, which exchanges a key and secret for the token.

    It does not count in the window of ``usage_request``.
    """
    # Encoded before they are joined (RFC 6749, 2.3.1), because the key may contain a colon.
    pair = f"{quote(api_key, safe='')}:{quote(api_secret, safe='')}"
    headers = {
        **_FIXED_HEADERS,
        "authorization": f"Basic {b64encode(pair.encode()).decode()}",
        "content-type": "application/x-www-form-urlencoded;charset=UTF-8",
    }
    return Request("POST", base_url + TOKEN_PATH, headers, b"grant_type=client_credentials")


def check_base_url(base_url: object, *, name: str = "base_url") -> str:
    """Return the base URL without a trailing slash.

    ``name`` is its name in error messages. The value of an environment variable is not quoted, because it may be a
    token by mistake.

    Raises:
        ConfigurationError: it is not an https URL (http is allowed on loopback only, because the network could read the
            token), or it contains a user name, a query or a fragment.
    """
    if not isinstance(base_url, str):
        raise ConfigurationError(f"{name} must be a str, got {type(base_url).__name__}")
    if "@" in base_url:  # Not quoted: the part before it is a password.
        raise ConfigurationError(f"{name} must not contain a user name or a password; pass the token to UsageClient")
    shown = f", got {short_repr(base_url)}" if name == "base_url" else ""
    scheme, host = _scheme_and_host(base_url)
    if host and max(map(len, host.split("."))) > _MAX_LABEL_LENGTH:
        raise ConfigurationError(f"{name} is not a URL, and too long for a host name. Is it a token?")
    if not host:
        raise ConfigurationError(f"{name} must look like {DEFAULT_BASE_URL}{shown}")
    if scheme != "https" and not (scheme == "http" and _is_loopback(host)):
        raise ConfigurationError(f"{name} must be https (http is allowed on loopback only){shown}")
    return base_url.rstrip("/")


# Characters between two dots of a host name (RFC 1035, 2.3.4).
_MAX_LABEL_LENGTH = 63


def _scheme_and_host(url: str) -> tuple[str, str | None]:
    if "?" in url or "#" in url or not is_visible_ascii(url):
        return "", None
    try:
        parts = urlsplit(url)
        _ = parts.port  # checked when it is read
    except ValueError:
        return "", None
    return parts.scheme, parts.hostname


def is_proxy_url(proxy: object) -> bool:
    """Return whether this is the URL of an HTTP proxy that can be used."""
    if not isinstance(proxy, str) or not proxy.isprintable() or {" ", "\\"} & set(proxy):
        return False
    try:
        parts = urlsplit(proxy)
        host = parts.hostname or ""
        host.encode("idna")  # a label that is empty or too long
        if re.fullmatch(r"[\d.]+", host):
            ip_address(host)
        return parts.scheme in {"http", "https"} and bool(host) and parts.port != 0
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
