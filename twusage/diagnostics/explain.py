"""What an answer, or its absence, says about the set-up, in plain words. Pure: the environment and the times come in.

What belongs here: what each kind of trouble is called, how it is told, and what helps. Making the call is
``UsageClient.check``'s business; how it looks is ``cli``'s. Nothing here quotes a credential, or a part of one.

===========  ===========================================================================================================
subject      its findings are about
===========  ===========================================================================================================
credentials  what the environment holds, or lacks
token, key   a bearer token; an API key and its secret
address      ``base_url``
network      the way to the API, with ``tls`` and ``proxy``
api          the API's own trouble, or its refusal
app          the app's place in a project
window       the 15-minute window of calls
cap          the monthly cap; ``credits`` and ``spending``: what is paid for
clock        this machine's clock beside the server's
===========  ===========================================================================================================
"""

from __future__ import annotations

import binascii
import datetime as dt
import math
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Literal
from urllib.parse import urlsplit

from attrs import evolve, field, frozen

from twusage.auth import KEY_VARIABLES, TOKEN_VARIABLES, Secret, missing_half
from twusage.errors import (
    ApiError,
    AuthenticationError,
    ConfigurationError,
    ConnectError,
    CreditsDepletedError,
    DecodeError,
    ForbiddenError,
    ProtocolError,
    RateLimitedError,
    RequestTimeoutError,
    ServerError,
    SpendCapReachedError,
    TlsError,
    TwUsageError,
    UsageCapExceededError,
)
from twusage.json_reader import excerpt
from twusage.models import Problem, RateLimit, Usage
from twusage.protocol import DEFAULT_BASE_URL, QUOTES, Response, check_base_url, is_visible_ascii, read_date

__all__ = [
    "Checkup",
    "Exchange",
    "Finding",
    "is_assignment",
    "read_address",
    "read_call",
    "read_environment",
    "read_secrets",
    "read_token_text",
    "unasked",
    "unavailable",
]

TOKEN, (KEY, SECRET) = TOKEN_VARIABLES[0], KEY_VARIABLES[0]
# As the vendor's documents call that page.
_PORTAL = "the app's page 'Keys and tokens' in the developer portal"
# Without the names of variables: they may have come from a file, or from the program.
_TAKE_THE_TOKEN = f"Give the app's bearer token exactly as {_PORTAL} shows it, with its %2F and %3D"
_TAKE_THE_PAIR = f"Give the API key and secret, also called consumer keys, from {_PORTAL}"
_AS_A_PAIR = f"in {KEY} and {SECRET}, or as an AppOnlyAuth"
_PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
# Seconds. The date comes in whole ones and takes its time; a clock that is set by the network is nearer than this.
_CLOCKS_APART = 60.0
_NEARLY_USED = 0.9
_FEW_CALLS = 0.1
# As many are told of an answer's.
_MOST_PROBLEMS = 5


@frozen
class Finding:
    """One thing that a check-up found."""

    code: str
    """What it is, for programs: a contract, such as ``token.percent-decoded``. What stands before the dot is the
    subject."""
    level: Literal["ok", "warning", "error"]
    """``error``: calls fail because of it, or reads do. ``warning``: they may, or soon will."""
    said: str
    """What it is, in a sentence that holds no secret."""
    what_to_do: str = ""
    """What helps; empty where all is well."""

    @property
    def subject(self) -> str:
        """What it is about: ``token``, ``network``, ``window``, ``cap``, ``clock`` and the like."""
        return self.code.partition(".")[0]

    def to_dict(self) -> dict[str, object]:
        """Plain JSON types."""
        return {"code": self.code, "level": self.level, "said": self.said, "what_to_do": self.what_to_do}


def _briefly(value: object) -> str:
    return "None" if value is None else f"<{type(value).__name__}>"


@frozen
class Checkup:
    """What is right and what is wrong with the credentials and the way to the API: ``await client.check()``."""

    findings: tuple[Finding, ...]
    """What was found, from the credentials to the clock. Where a call failed, its likely cause is the first of the
    errors."""
    usage: Usage | None = field(default=None, repr=_briefly)
    """What the API answered, where it did."""
    error: TwUsageError | None = field(default=None, repr=_briefly)
    """What the call raised, or what stands for trouble that was found without one; ``None`` if ``ok``."""

    @property
    def ok(self) -> bool:
        """Nothing is wrong. There may be warnings."""
        return all(finding.level != "error" for finding in self.findings)

    def to_dict(self) -> dict[str, object]:
        """Plain JSON types. Of the error only its class is told: its sentence is in the findings."""
        return {
            "ok": self.ok,
            "error": None if self.error is None else type(self.error).__name__,
            "findings": [finding.to_dict() for finding in self.findings],
            "usage": None if self.usage is None else self.usage.to_dict(),
        }


@frozen
class Exchange:
    """One request of the call, and what came of it."""

    method: str
    """``GET`` for the usage, ``POST`` for a token."""
    response: Response | None
    """The answer, or ``None`` where none came."""
    seconds: float
    """How long it took."""
    ended_at: float
    """When it ended, by this machine's wall clock: seconds since 1970."""


# -- Before a call: what is certain, and what is suspected -------------------------------------------------------------


def read_environment(environ: Mapping[str, str]) -> tuple[Finding, ...]:
    """What the variables hold that ``UsageClient.from_env`` reads: an ``error`` for each that no call would mend."""
    return (*read_address(environ), _read_credentials(environ))


def read_address(environ: Mapping[str, str]) -> tuple[Finding, ...]:
    """Whether ``TWUSAGE_BASE_URL`` can be used. It is not quoted: somebody may have put a token there."""
    try:
        check_base_url(environ.get("TWUSAGE_BASE_URL") or DEFAULT_BASE_URL)
    except ConfigurationError:
        said = "TWUSAGE_BASE_URL is not the https address of an API (http is for this machine only)"
        return (_error("address.malformed", said, f"Unset it, or let it look like {DEFAULT_BASE_URL}"),)
    return ()


def _read_credentials(environ: Mapping[str, str]) -> Finding:
    names = (*TOKEN_VARIABLES, *chain(*KEY_VARIABLES))
    present = [name for name in names if environ.get(name)]
    if present and present[0] in TOKEN_VARIABLES:
        found = _ok("credentials.found", f"the bearer token is in {present[0]}{_unused(present[1:])}")
        return _malformed(environ[present[0]], present[0], "token") or found
    for pair in KEY_VARIABLES:
        if reason := missing_half(pair, environ):
            return _error("credentials.half", reason, _TAKE_THE_PAIR)
        if pair[0] in present:
            found = _ok("credentials.found", f"the API key and secret are in {_listed(pair)}{_unused(present[2:])}")
            return next(filter(None, (_malformed(environ[name], name, "key") for name in pair)), found)
    empty = [name for name in names if name in environ]
    return _error(
        "credentials.missing",
        f"no credentials in the environment{f' ({empty[0]} is empty)' if empty else ''}",
        f"Set {TOKEN} to the app's bearer token, or {KEY} and {SECRET} to its API key and secret, from {_PORTAL}",
    )


def _unused(names: Sequence[str]) -> str:
    return f"; {_listed(names)} {'is' if len(names) == 1 else 'are'} not used" if names else ""


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def is_assignment(text: str) -> bool:
    """Whether this is a line of an .env file or JSON, which may well hold a token. A percent-decoded token holds an
    equals sign, too.
    """
    return re.match(r"(export\s+)?(?!AAAA)[A-Za-z_]\w*\s*=\s*[^=\s]|[{\[]\s*\"", text) is not None


def read_token_text(text: str, place: str) -> Finding | None:
    """What makes the text of this place, a file or stdin, no bearer token at all."""
    alone = "It must hold the token and nothing else, in one piece"
    if is_assignment(text):
        return _error("token.assignment", f"{place} holds an assignment or JSON", alone)
    found = _malformed(text, "the bearer token", "token")
    if found is None or found.code not in {"token.space", "token.line-break"}:
        return found
    return _error(found.code, f"{place} holds several {'words' if found.code == 'token.space' else 'lines'}", alone)


def read_secrets(*secrets: Secret) -> Finding | None:
    """What is wrong with the form of a bearer token, or of an API key and its secret.

    An ``error`` is certain. A ``warning`` is a suspicion, which the API's answer confirms or refutes.
    """
    texts = [secret.reveal() for secret in secrets]
    kind = "token" if len(texts) == 1 else "key"
    names = ["the bearer token"] if len(texts) == 1 else ["the API key", "the API secret"]
    certain = (_malformed(text, name, kind) for text, name in zip(texts, names, strict=True))
    return next(filter(None, certain), None) or (_odd_token if kind == "token" else _odd_pair)(*texts)


_QUOTES = f"{QUOTES}\u2018\u2019\u201c\u201d"


def _malformed(text: str, name: str, kind: str) -> Finding | None:  # noqa: PLR0911 - a table
    """What no credential of that kind is. ``Secret`` refuses most of it, in fewer words."""
    take = _TAKE_THE_TOKEN if kind == "token" else _TAKE_THE_PAIR
    bare = text.strip()
    if not bare:
        return _error(f"{kind}.empty", f"{name} {'holds only white space' if text else 'is empty'}", take)
    if bare[0] in _QUOTES or bare[-1] in _QUOTES:
        what_to_do = "Remove it: a shell strips quotation marks, an .env file or a YAML value may not"
        return _error(f"{kind}.quoted", f"{name} has a quotation mark around it", what_to_do)
    if re.match(r"(authorization:\s*)?bearer(\s|:|%20|$)", bare, re.IGNORECASE):
        return _error(f"{kind}.bearer-prefix", f"{name} begins with 'Bearer'", "Leave that word out: twusage adds it")
    if {"\r", "\n"} & set(text):
        return _error(f"{kind}.line-break", f"{name} holds a line break", "Take the line break away")
    if any(map(str.isspace, text)):
        return _error(f"{kind}.space", f"{name} holds a space", "Take the space away; nothing else may stand there")
    if not is_visible_ascii(text):
        return _error(f"{kind}.not-ascii", f"{name} holds a character that no credential has", take)
    return None


def _odd_token(token: str) -> Finding | None:  # noqa: PLR0911 - a table
    decoded = _base64(token)
    if re.search(r"[$<>{}]|\.\.\.|^[Xx]+$", token):
        return _warning("token.placeholder", "the bearer token looks like a placeholder of an example", _TAKE_THE_TOKEN)
    if re.search(r":[ar]t:\d", decoded):
        said = f"the bearer token looks like a user's access token of OAuth 2; {_NO_USER}"
        return _warning("token.user-context", said, _INSTEAD)
    if decoded.endswith(":ci") or re.fullmatch(r"(?=.*[A-Za-z])(?=.*[-_])(?!\d+-)[\w-]{40,60}", token, re.ASCII):
        said = "the bearer token looks like an OAuth 2 client id or client secret"
        return _warning("token.oauth2-client", said, _INSTEAD)
    if token.startswith("AAAA"):
        if "%25" in token:
            said = "the bearer token looks percent-encoded twice: it holds %25"
            return _warning("token.encoded-twice", said, _TAKE_THE_TOKEN)
        if set(token) & set("/+="):
            said = (
                "the bearer token looks percent-decoded: it holds a raw /, + or =, where the portal shows %2F, %2B, %3D"
            )
            return _warning("token.percent-decoded", said, _TAKE_THE_TOKEN)
        return None
    if re.fullmatch(r"\d+-[A-Za-z0-9]+", token):
        said = f"the bearer token looks like a user's access token of OAuth 1; {_NO_USER}"
        return _warning("token.oauth1", said, _INSTEAD)
    if re.fullmatch(r"[A-Za-z0-9]{20,30}|[A-Za-z0-9]{40,60}", token):
        said = "the bearer token looks like an API key or an API secret"
        return _warning("token.api-key", said, f"Give the two of them ({_AS_A_PAIR}), or the bearer token")
    said = "the bearer token does not look like one: those of the portal begin with AAAA"
    return _warning("token.unfamiliar", said, _TAKE_THE_TOKEN)


def _odd_pair(key: str, secret: str) -> Finding | None:
    if re.search(r"^AAAA.*%|\nAAAA.*%", f"{key}\n{secret}"):
        said = "the API key or the API secret looks like a bearer token"
        return _warning("key.bearer-token", said, f"Give it as the bearer token (in {TOKEN}, or UsageClient(token))")
    if _base64(key).endswith(":ci") or re.fullmatch(r"(?=.*[-_])[\w-]{40,60}", secret, re.ASCII):
        said = "the API key and secret look like an OAuth 2 client id and client secret, which give no bearer token"
        return _warning("key.oauth2-client", said, _TAKE_THE_PAIR)
    if re.fullmatch(r"\d+-[A-Za-z0-9]+", key):
        said = "the API key and secret look like a user's access token and its secret, of OAuth 1"
        return _warning("key.oauth1", said, _TAKE_THE_PAIR)
    if re.fullmatch(r"[A-Za-z0-9]{40,60}", key) and re.fullmatch(r"[A-Za-z0-9]{20,30}", secret):
        return _warning("key.swapped", "the API key and the API secret look as if they had changed places", "Swap them")
    return None


_NO_USER = "this endpoint takes none"
_INSTEAD = f"{_TAKE_THE_TOKEN}; or its API key and secret, also called consumer keys ({_AS_A_PAIR})"


def _base64(text: str) -> str:
    """What an OAuth 2 client id or a user's token says when it is decoded; empty for what is not of that form."""
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    except (binascii.Error, UnicodeError):
        return ""


def unavailable(error: Exception) -> Checkup:
    """The check-up that ends because an ``Auth`` of the user's raised this, or gave what is no token."""
    ours = error.with_traceback(None) if isinstance(error, TwUsageError) else None
    told = ours or f"it raised {type(error).__name__}"  # What is not ours may say anything.
    said = f"the Auth gives no bearer token: {told}"
    return unasked(_error("token.unavailable", said, "See to the Auth, or what it asks"), error=ours)


def unasked(*findings: Finding, error: TwUsageError | None = None) -> Checkup:
    """The check-up that ends before a call, because these findings make one useless."""
    said = next(finding.said for finding in findings if finding.level == "error")
    return Checkup(findings, error=error or ConfigurationError(said))


# -- After the call ----------------------------------------------------------------------------------------------------


@frozen
class _Call:
    """What is known of the call, for those who tell of its end."""

    exchange: Exchange | None
    suspicion: Finding | None
    is_pair: bool
    base_url: str
    environ: Mapping[str, str]

    @property
    def response(self) -> Response | None:
        return None if self.exchange is None else self.exchange.response

    @property
    def minting(self) -> bool:
        """It ended where the token was asked for."""
        exchange = self.exchange
        return (
            exchange is not None
            and exchange.method == "POST"
            and not (exchange.response is not None and exchange.response.status == 200)
        )

    @property
    def host(self) -> str:
        return urlsplit(self.base_url).hostname or ""

    @property
    def port(self) -> int:
        parts = urlsplit(self.base_url)
        return parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def page(self) -> bool:
        """The answer is a page for people, which the API never writes."""
        response = self.response
        return response is not None and (
            response.body.lstrip()[:1] == b"<" or "html" in response.headers.get("content-type", "").lower()
        )


def read_call(
    outcome: Usage | TwUsageError,
    *,
    exchange: Exchange | None,
    suspicion: Finding | None = None,
    is_pair: bool = False,
    base_url: str = DEFAULT_BASE_URL,
    environ: Mapping[str, str] | None = None,
) -> Checkup:
    """What the call's end says.

    Args:
        outcome: what it returned or raised.
        exchange: the last of its requests; ``None`` where nothing was sent.
        suspicion: what ``read_secrets`` said.
        is_pair: whether an API key and its secret were given.
        base_url: where it went.
        environ: the environment, if its proxies could have been meant for this call.
    """
    call = _Call(exchange, suspicion, is_pair, base_url, environ or {})
    usage, error = (outcome, None) if isinstance(outcome, Usage) else (None, outcome)
    failure = None if error is None else _failure(error, call)
    findings = [
        *_credentials(outcome, failure, call),
        *_way(failure, call),
        *_window(usage.rate_limit if usage else _window_of(error)),
        *(_reads(usage) if usage else ()),
        *_clock(call),
    ]
    if failure is not None and failure not in findings:
        # Where something failed that has no line of its own.
        findings.insert(next((n for n, f in enumerate(findings) if f.subject in _LATER), len(findings)), failure)
    used_up = next((finding.said for finding in findings if finding.code == "cap.used-up"), None)
    if error is None and used_up is not None:
        error = UsageCapExceededError(used_up)
    checkup = Checkup(tuple(findings), usage, error)
    return evolve(checkup, error=None) if checkup.ok else checkup


_LATER = {"window", "clock"}


def _credentials(outcome: Usage | TwUsageError, failure: Finding | None, call: _Call) -> list[Finding]:
    if failure is not None and failure.subject in {"token", "key"}:
        return [failure]
    name = "key" if call.is_pair else "token"
    called = "the API key and secret" if call.is_pair else "the bearer token"
    # These come only after the API has seen whose call it is.
    known = (Usage, UsageCapExceededError, CreditsDepletedError, SpendCapReachedError)
    if isinstance(outcome, known) or (failure is not None and failure.code == "app.no-project"):
        return [_ok(f"{name}.accepted", f"the API accepts {called}")]
    if call.suspicion is not None:
        return [call.suspicion]
    return [_ok(f"{name}.plausible", f"nothing is wrong with the form of {called}; the API has not said more")]


def _way(failure: Finding | None, call: _Call) -> list[Finding]:
    """The address, and how the API was reached."""
    findings = []
    lost = failure is not None and (failure.subject in {"network", "tls", "proxy"} or failure.code == "api.not-there")
    if call.base_url != DEFAULT_BASE_URL:
        parts = urlsplit(call.base_url)
        port = f":{parts.port}" if parts.port else ""
        # Not the path: nobody knows what somebody put there.
        said = f"the API is asked at {parts.scheme}://{parts.hostname}{port}{' below a path' if parts.path else ''}"
        said += f", not at {DEFAULT_BASE_URL}"
        what_to_do = "Is that meant? Else unset TWUSAGE_BASE_URL, or leave out base_url="
        findings.append(_warning("address.changed", said, what_to_do) if lost else _ok("address.changed", said))
    if failure is not None and failure.subject in {"network", "tls", "proxy"}:
        findings.insert(0, failure)
        findings += _unused_proxy(call)
    elif call.exchange is not None:
        findings.append(_ok("network.answered", f"{call.host} answered in {_promptness(call.exchange.seconds)}"))
    return findings


def _promptness(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 0.1 else "less than 0.1 s"


def _unused_proxy(call: _Call) -> list[Finding]:
    names = [name for name in _PROXY_VARIABLES if call.environ.get(name)]
    if not names or call.response is not None:
        return []
    said = f"{names[0]} names a proxy, but twusage does not read that variable"
    what_to_do = (
        "If this network needs the proxy, give the command --proxy URL, or AiohttpTransport(proxy=...) the client"
    )
    return [_warning("proxy.not-used", said, what_to_do)]


# -- What failed -------------------------------------------------------------------------------------------------------


def _failure(error: TwUsageError, call: _Call) -> Finding:  # noqa: C901, PLR0911 - a table
    match error:
        case TlsError():
            return _tls(error, call)
        case ConnectError():
            return _no_connection(error, call)
        case RequestTimeoutError():
            said = f"{call.host} did not answer in time: {error}"
            return _error("network.timeout", said, "Try again, or give it longer (--timeout 60, timeout=60)")
        case ProtocolError() if call.response is not None and 300 <= call.response.status < 400:
            said = "a redirect came instead of the API's answer, and was not followed: the API never sends one"
            return _error("network.redirect", said, f"{_LOGIN} Check TWUSAGE_BASE_URL if it is set")
        case RateLimitedError():
            return _limited(error, call)
        case ApiError(status=407):
            return _error("proxy.login", "the proxy wants a user name and a password (407)", _PROXY_LOGIN)
        case ServerError():
            said = f"the API or its edge is in trouble: {_told(error.status, error.problem)}"
            return _error("api.trouble", said, "Try again later. It is not your set-up")
        case ApiError() | DecodeError() if call.page:
            said = "a web page came instead of the API's answer: something on the way speaks in its place"
            return _error(
                "network.page",
                said,
                f"{_LOGIN} If not, the API's edge may have blocked this machine's address",
            )
        case ApiError():
            return _refused(error, call)
        case DecodeError():
            said = f"the answer is not what the API documents: {error}"
            return _error("api.unreadable", said, "Try again, then update twusage, or report this")
        case ProtocolError():
            what_to_do = f"Try again. {_LOGIN}"
            return _error("network.broken", f"what came from {call.host} is no usable answer: {error}", what_to_do)
        case _:
            return _error("network.failed", str(error), "Check the network, and the transport or the Auth that is used")


_LOGIN = "Does this network want a login in a browser, or is there a proxy or a firewall in the way?"
_PROXY_LOGIN = "Give its address as http://name:password@host:port (--proxy, or AiohttpTransport(proxy=...))"


def _tls(error: TlsError, call: _Call) -> Finding:
    reason = str(error).partition(" (")[2]
    if "not yet valid" in reason or "expired" in reason:
        code = "tls.not-yet-valid" if "not yet" in reason else "tls.expired"
        today = f", which shows {_instant(call.exchange.ended_at):%Y-%m-%d}" if call.exchange else ""
        said = f"the certificate of {call.host} {'is not yet valid' if 'not yet' in reason else 'has expired'}"
        return _error(code, said, f"Check this machine's clock{today}; else something on the way speaks for the API")
    if "mismatch" in reason:
        said = f"whoever answers is not {call.host}: the certificate is another host's"
        return _error("tls.wrong-host", said, f"{_LOGIN} Check TWUSAGE_BASE_URL if it is set")
    if re.search(r"[A-Z]+_[A-Z]+", reason):  # OpenSSL's name for what another protocol is to it, such as a plain page
        said = f"whoever answers at {call.host} does not speak TLS as it should: {reason.partition(')')[0]}"
        return _error("tls.broken", said, f"{_LOGIN} Check TWUSAGE_BASE_URL if it is set")
    said = f"the certificate of {call.host} is not trusted: {reason.partition(')')[0] or error}"
    what_to_do = (
        "Where a firm's proxy inspects the traffic, let SSL_CERT_FILE name a file that holds its authority's "
        "certificate, or give AiohttpTransport an ssl context"
    )
    if call.environ.get("SSL_CERT_FILE"):
        what_to_do += "; SSL_CERT_FILE is set, so see that the file is there and holds the right ones"
    return _error("tls.untrusted", said, what_to_do)


def _no_connection(error: ConnectError, call: _Call) -> Finding:
    said = str(error)
    if said.startswith("the proxy"):
        if "(407)" in said:
            return _error("proxy.login", "the proxy wants a user name and a password (407)", _PROXY_LOGIN)
        return _error("proxy.refused", said, f"Ask whoever runs the proxy to allow {call.host}:{call.port}")
    reached = re.match(r"no connection to (\S+:\d+) ", said)
    if reached and reached[1] != f"{call.host}:{call.port}":
        return _error("proxy.unreachable", f"the proxy cannot be reached: {said}", "Check the proxy's address and port")
    reason = said.partition(" (")[2]
    if re.search(r"name|resol|getaddrinfo|dns", reason, re.IGNORECASE):
        said = f"the name {call.host} is not resolved: {said}"
        return _error("network.name", said, "Check the network and its DNS, and TWUSAGE_BASE_URL if it is set")
    if "within" in said:
        said = f"{call.host} does not take the connection: {said}"
        return _error("network.no-answer", said, f"Check the network. {_LOGIN}")
    said = f"{call.host} refuses the connection: {said}"
    return _error("network.refused", said, f"Check the network, and TWUSAGE_BASE_URL if it is set. {_LOGIN}")


def _limited(error: RateLimitedError, call: _Call) -> Finding:
    if call.minting:
        said = "too many bearer tokens were asked for with this API key and secret"
        what_to_do = f"Keep one AppOnlyAuth for all clients, or give the bearer token itself. {_later(error)}"
        return _error("key.too-many-exchanges", said, what_to_do)
    if not error.window_exhausted:
        said = "calls are left in the app's window, but another limit was met (429)"
        return _error("api.other-limit", said, _later(error))
    by_whom = "nothing was sent" if error.status is None else "the API said 429"
    said = f"the app's 15-minute window of calls is spent ({by_whom}){_opens(error)}"
    what_to_do = "Wait for it (--max-wait 960 does). All programs that use the app's credentials share these calls"
    return _error("window.spent", said, what_to_do)


def _opens(error: RateLimitedError) -> str:
    when = f": it opens at {error.retry_at:%H:%M:%S} UTC" if error.retry_at else ""
    return f"{when}, in {_duration(error.retry_after)}" if when and error.retry_after is not None else when


def _later(error: RateLimitedError) -> str:
    return f"Try again in {_duration(error.retry_after or 30.0)}"


def _refused(error: ApiError, call: _Call) -> Finding:  # noqa: C901, PLR0911 - a table
    told = _told(error.status, error.problem)
    kind = (error.problem.type or "").rpartition("/")[2]
    match error:
        case AuthenticationError() if error.retry_once and not call.minting:
            said = "the token that was kept is no longer accepted; another has been fetched, and not been tried"
            return _warning("token.renewed", said, "Nothing: the next call uses it")
        case AuthenticationError() if call.minting or error.status != 401:  # Another client may have asked for it.
            said, what_to_do = f"the API refuses the API key and secret: {told}", _TAKE_THE_PAIR
            return _suspected(call, _error("key.refused", said, f"{what_to_do}. They are not the OAuth 2 client's"))
        case AuthenticationError() if call.is_pair:
            said = f"the API refuses the token that it gave for the API key and secret: {told}"
            return _error("token.refused", said, f"Regenerate them on {_PORTAL}, and give the new ones")
        case AuthenticationError():
            what_to_do = f"{_TAKE_THE_TOKEN}. Was it cut short, or regenerated since?"
            return _suspected(call, _error("token.refused", f"the API refuses the bearer token: {told}", what_to_do))
        case ForbiddenError() if kind == "unsupported-authentication":
            return _error("token.user-context", f"the bearer token is a user's; {_NO_USER}: {told}", _INSTEAD)
        case ForbiddenError() if (
            kind == "client-forbidden" or error.problem.extra.get("reason") == "client-not-enrolled"
        ):
            said = "the credentials are good, but their app is not attached to a project"
            return _error(
                "app.no-project", said, "Attach the app to a project in the developer portal, or use one that is"
            )
        case ForbiddenError():
            return _suspected(call, _error("api.forbidden", f"the API forbids it: {told}", _TAKE_THE_TOKEN))
        case CreditsDepletedError():
            said = f"the account has no credits left: {told}"
            return _error("credits.depleted", said, "Buy credits in the developer console; trying again is useless")
        case SpendCapReachedError():
            day = f" until {error.reset_date}" if error.reset_date else ""
            said = f"the spending limit of the account is reached{day}: {told}"
            what_to_do = f"Raise it in the developer console, or wait{day or ' for the next billing cycle'}"
            return _error("spending.limit-reached", said, what_to_do)
        case UsageCapExceededError():
            said = f"the project's monthly cap is used up: {told}"
            return _error("cap.used-up", said, "Wait for the day on which it resets, or buy a larger plan")
        case ApiError(status=404):
            said = f"there is no Usage API at this address: {told}"
            what_to_do = "Unset TWUSAGE_BASE_URL or leave out base_url=, or give the host alone: twusage adds the path"
            return _error("api.not-there", said, what_to_do)
        case _:
            return _error("api.refused", f"the API refuses: {told}", "Update twusage, or report this")


def _suspected(call: _Call, failure: Finding) -> Finding:
    """The failure, or what had been suspected before it: now that is certain enough."""
    if call.suspicion is None:
        return failure
    return evolve(call.suspicion, level="error", said=f"{failure.said}. Why: {call.suspicion.said}")


def _told(status: int | None, problem: Problem) -> str:
    # Escaped and cut, because it is the server's.
    texts = (excerpt(text)[1:-1].rstrip(".") for text in (problem.title, problem.detail) if text)
    said = ": ".join(dict.fromkeys(texts))
    return f"{'' if status is None else status} {said or 'without a word'}".strip()


# -- What is right, and what soon is not ------------------------------------------------------------------------------


def _window_of(error: TwUsageError | None) -> RateLimit | None:
    # A capped month tells another endpoint's window; a spent one has its own finding.
    if not isinstance(error, ApiError) or isinstance(error, UsageCapExceededError):
        return None
    return error.rate_limit


def _window(seen: RateLimit | None) -> list[Finding]:
    if seen is None:
        return []
    said = f"{seen.remaining} of {seen.limit} calls left until {seen.reset_at:%H:%M:%S} UTC"
    if seen.remaining > seen.limit * _FEW_CALLS:
        return [_ok("window.open", said)]
    return [
        _warning("window.low", said, "Call less often: all programs that use the app's credentials share these calls")
    ]


def _reads(usage: Usage) -> list[Finding]:
    problems = [
        _warning("api.problem", f"the API reports a problem: {_told(problem.status, problem)}", "See what it says")
        for problem in usage.errors[:_MOST_PROBLEMS]
    ]
    return [*problems, _cap(usage)]


def _cap(usage: Usage) -> Finding:
    day = usage.cap_reset_day
    reset = "" if day is None else f", resets on day {day} of each month{', or its last' if day > 28 else ''}"
    if usage.project_cap is None or usage.project_usage is None:
        return _ok("cap.unknown", f"the API does not say how much of it is used{reset}")
    fraction = usage.project_usage / usage.project_cap if usage.project_cap else math.inf
    said = f"{usage.project_usage:,} of {usage.project_cap:,} posts read"
    said += f" ({min(fraction, 0.999) if fraction < 1 else fraction:,.1%}){reset}" if fraction < math.inf else reset
    if fraction >= 1:
        return _error("cap.used-up", said, "Wait for the day on which it resets, or buy a larger plan")
    if fraction >= _NEARLY_USED:
        return _warning("cap.nearly-used-up", said, "Read less until it resets, or buy a larger plan")
    return _ok("cap.left", said)


def _clock(call: _Call) -> list[Finding]:
    date = read_date(call.response) if call.response is not None else None
    if date is None or call.exchange is None:
        return []
    ahead = call.exchange.ended_at - date.timestamp()
    if abs(ahead) <= _CLOCKS_APART:
        return [_ok("clock.right", f"within {max(1, math.ceil(abs(ahead)))} s of the server's")]
    code, way = ("clock.fast", "ahead of") if ahead > 0 else ("clock.slow", "behind")
    said = f"this machine's clock is {_duration(abs(ahead))} {way} the server's"
    what_to_do = "Let the system set it by the network. twusage's waits are right all the same: they go by the server's"
    return [_warning(code, said, what_to_do)]


def _instant(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def _duration(seconds: float) -> str:
    whole = math.ceil(seconds)
    for unit, name, smaller, its_name in ((86400, "days", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= 2 * unit:
            return f"{whole // unit} {name} {whole % unit // smaller} {its_name}"
    return f"{whole} s"


def _ok(code: str, said: str) -> Finding:
    return Finding(code, "ok", said)


def _warning(code: str, said: str, what_to_do: str) -> Finding:
    return Finding(code, "warning", said, what_to_do)


def _error(code: str, said: str, what_to_do: str) -> Finding:
    return Finding(code, "error", said, what_to_do)
