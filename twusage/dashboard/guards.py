"""Decides which requests are allowed, and sets the headers of all responses.

A request is checked by its Host, origin, password and method.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import re
from collections.abc import Iterable, Mapping

from aiohttp import web
from attrs import field, frozen

__all__ = ["HEADERS", "Guard", "is_loopback", "text_response"]

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Server": "twusage",
    "Cache-Control": "private, no-cache",
}
"""On all responses, errors too. Only static files have another Cache-Control."""
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::\d{1,5})?", re.IGNORECASE | re.ASCII)
_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that binds this host."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def text_response(status: int, text: str, **headers: str) -> web.Response:
    """Return a plain response. Nothing of the request is in it."""
    response = web.Response(status=status, text=f"{text}\n", headers=HEADERS)
    for name, value in headers.items():
        response.headers[name.replace("_", "-")] = value
    return response


def _as_hosts(names: Iterable[str]) -> frozenset[str]:
    bracketed = (f"[{name}]" if ":" in name and not name.startswith("[") else name for name in names)
    return frozenset(name.lower() for name in (*_LOOPBACK_NAMES, *bracketed))


@frozen
class Guard:
    """Decides which requests are allowed.

    Args:
        hosts: the bound host and other names that ``Host`` may have.
        password: required by HTTP Basic, with any user name; ``None`` requires none.
    """

    hosts: frozenset[str] = field(converter=_as_hosts)
    password: str | None = field(default=None, repr=False)

    def refusal(self, request: web.BaseRequest, path: str) -> web.Response | None:
        """Return the response to a request that is not allowed, or ``None``."""
        is_probe = path == "/healthz"  # Probes of Kubernetes and load balancers use the address.
        if not is_probe:
            refusal = self._wrong_host(request) or _wrong_site(request) or self._wrong_password(request)
            if refusal is not None:
                return refusal
        if request.method not in {"GET", "HEAD"}:
            return text_response(405, "405: GET and HEAD only", Allow="GET, HEAD")
        return None

    def _wrong_host(self, request: web.BaseRequest) -> web.Response | None:
        # Without this check, a web page could read the dashboard by DNS rebinding.
        given = request.headers.getall("Host", [])
        if len(given) != 1 or not given[0]:
            return text_response(400, "400: a request needs one Host header")
        match = _HOST.fullmatch(given[0])
        if match is None or match[1].lower() not in self.hosts:
            return text_response(403, "403: this Host is not allowed; start twusage serve with --allow-host")
        return None

    def _wrong_password(self, request: web.BaseRequest) -> web.Response | None:
        if self.password is None:
            return None
        given = _password_of(request.headers.getall("Authorization", []))
        if given is not None and hmac.compare_digest(given, self.password.encode()):
            return None
        challenge = 'Basic realm="twusage", charset="UTF-8"'
        return text_response(401, "401: a password is needed; any user name will do", WWW_Authenticate=challenge)


def _wrong_site(request: web.BaseRequest) -> web.Response | None:
    site, mode = (request.headers.get(f"Sec-Fetch-{name}", "").lower() for name in ("Site", "Mode"))
    if site == "cross-site" and mode != "navigate":
        return text_response(403, "403: requests of other sites are rejected")
    return None


def _password_of(headers: list[str]) -> bytes | None:
    scheme, _, encoded = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
    if scheme.lower() != "basic":
        return None
    try:
        user_and_password = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
    _, colon, password = user_and_password.partition(b":")
    return password if colon else None
