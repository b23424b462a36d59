"""Derives findings from a call's result or exception, one per subject.

Pure: the environment and the times come in as arguments. Findings derive from data (an exception's class, status,
problem and attributes), never from the words of its message. No message contains a credential or a part of one.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from urllib.parse import urlsplit

from attrs import evolve, frozen

from twusage.diagnostics.credentials import ADVICE_TOKEN_OR_PAIR, USER_TOKENS_REJECTED
from twusage.diagnostics.page import is_from_edge
from twusage.diagnostics.report import CheckReport, Finding
from twusage.errors import (
    ApiError,
    AuthenticationError,
    ConnectError,
    CreditsDepletedError,
    DecodeError,
    ForbiddenError,
    ProtocolError,
    QuotaError,
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
from twusage.protocol import DEFAULT_BASE_URL, Response, is_enrollment, is_page, read_date
from twusage.token_file import ADVICE_COPY_PAIR, ADVICE_COPY_TOKEN, PORTAL_PAGE

__all__ = ["Attempt", "explain_call"]

_PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
# Seconds. The Date header has whole seconds and is a round trip old; NTP keeps a clock closer than this.
_MAX_CLOCK_SKEW = 60.0
_NEARLY_USED = 0.9
_FEW_CALLS = 0.1
_MAX_PROBLEMS = 5


@frozen
class Attempt:
    """One request and its outcome."""

    method: str
    """``GET`` for the usage, ``POST`` for a token."""
    response: Response | None
    """The response, if there was one."""
    seconds: float
    """Its duration."""
    ended_at: float
    """Its end by this machine's clock, in epoch seconds."""


@frozen
class _Context:
    """The data of a call besides its result."""

    attempt: Attempt | None
    suspicion: Finding | None
    is_pair: bool
    base_url: str
    environ: Mapping[str, str]

    @property
    def response(self) -> Response | None:
        return None if self.attempt is None else self.attempt.response

    @property
    def is_token_request(self) -> bool:
        """True if the call ended with the token request."""
        attempt = self.attempt
        return (
            attempt is not None
            and attempt.method == "POST"
            and not (attempt.response and attempt.response.status == 200)
        )

    @property
    def host(self) -> str:
        return urlsplit(self.base_url).hostname or ""


def explain_call(
    outcome: Usage | TwUsageError,
    *,
    attempt: Attempt | None,
    suspicion: Finding | None = None,
    is_pair: bool = False,
    base_url: str = DEFAULT_BASE_URL,
    environ: Mapping[str, str] | None = None,
) -> CheckReport:
    """Return the report of a call.

    Args:
        outcome: what it returned or raised.
        attempt: its last request; ``None`` if nothing was sent.
        suspicion: the result of ``check_secrets``.
        is_pair: whether the credentials are an API key and its secret.
        base_url: the API's address.
        environ: the environment variables, unless the transport may have its own proxy.
    """
    context = _Context(attempt, suspicion, is_pair, base_url, environ or {})
    usage, error = (outcome, None) if isinstance(outcome, Usage) else (None, outcome)
    failure = None if error is None else _explain_error(error, context)
    findings = [
        *_credential_findings(outcome, failure, context),
        *_network_findings(failure, context),
        *_window_findings(usage.rate_limit if usage else _reported_window(error, failure)),
        *(_usage_findings(usage) if usage else ()),
        *_clock_findings(context),
    ]
    if failure is not None and failure not in findings:
        position = next((n for n, found in enumerate(findings) if found.subject in _LAST_SUBJECTS), len(findings))
        findings.insert(position, failure)
    used_up = next((finding.message for finding in findings if finding.code == "cap.used-up"), None)
    if error is None and used_up is not None:
        error = UsageCapExceededError(used_up)
    report = CheckReport(tuple(findings), usage, error)
    return evolve(report, error=None) if report.ok else report


_LAST_SUBJECTS = {"window", "clock"}


def _credential_findings(outcome: Usage | TwUsageError, failure: Finding | None, context: _Context) -> list[Finding]:
    subject = None if failure is None else failure.subject
    if failure is not None and subject in {"token", "key"}:
        return [failure]
    name = "key" if context.is_pair else "token"
    title = "the API key and secret" if context.is_pair else "the bearer token"
    # The API reports these only for valid credentials.
    if subject == "app" or (isinstance(outcome, Usage | QuotaError) and subject != "network"):
        return [Finding(f"{name}.accepted", "ok", f"the API accepts {title}")]
    if context.suspicion is not None:
        return [context.suspicion]
    return [Finding(f"{name}.plausible", "ok", f"{title} is well-formed; the API has not checked it")]


def _network_findings(failure: Finding | None, context: _Context) -> list[Finding]:
    """Return findings about the address, the connection and the proxy."""
    findings = []
    is_network = failure is not None and failure.subject in {"network", "tls", "proxy"}
    if context.base_url != DEFAULT_BASE_URL:
        parts = urlsplit(context.base_url)
        port = f":{parts.port}" if parts.port else ""
        # Not the path: it may hold a token.
        message = f"the API's address is {parts.scheme}://{parts.hostname}{port}{' with a path' if parts.path else ''}"
        message += f", not {DEFAULT_BASE_URL}"
        suspect = is_network or (failure is not None and failure.code == "api.not-there")
        advice = "If this is not intended, unset TWUSAGE_BASE_URL, or remove base_url="
        findings.append(Finding("address.changed", *(("warning", message, advice) if suspect else ("ok", message))))
    if failure is not None and is_network:
        findings.insert(0, failure)
    elif context.attempt is not None:
        message = f"{context.host} responded in {_format_latency(context.attempt.seconds)}"
        findings.append(Finding("network.answered", "ok", message))
    if proxy := next((name for name in _PROXY_VARIABLES if context.environ.get(name)), None):
        message = f"{proxy} is set, but twusage does not use the environment's proxy"
        advice = "If this network requires the proxy, use AiohttpTransport(proxy=...)"
        findings.append(Finding("proxy.not-used", *(("warning", message, advice) if is_network else ("ok", message))))
    return findings


def _format_latency(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 0.1 else "less than 0.1 s"


# -- Errors ------------------------------------------------------------------------------------------------------------

_ADVICE_CAPTIVE_PORTAL = "Check for a login page of this network, a proxy or a firewall"
_ADVICE_BASE_URL = "TWUSAGE_BASE_URL if it is set"
_ADVICE_PROXY_LOGIN = "Use its address in the form http://name:password@host:port"


def _explain_error(error: TwUsageError, context: _Context) -> Finding:  # noqa: C901, PLR0911 - a table
    response = context.response
    match error:
        case ConnectError():
            return _explain_connect_error(error, context)
        case RequestTimeoutError():
            message = f"{context.host} did not respond in time: {error}"
            return Finding("network.timeout", "error", message, "Try again, or with a longer timeout")
        case ProtocolError() if response is not None and 300 <= response.status < 400:
            message = f"unexpected redirect (status {response.status}); it was not followed: the API never redirects"
            return Finding("network.redirect", "error", message, f"{_ADVICE_CAPTIVE_PORTAL}, and {_ADVICE_BASE_URL}")
        case ApiError(status=407):
            message = "the proxy requires a user name and a password (407)"
            return Finding("proxy.login", "error", message, _ADVICE_PROXY_LOGIN)
        case ApiError() | RateLimitedError() | DecodeError() if is_from_edge(error):
            return _explain_edge(error, response)
        case RateLimitedError():
            return _explain_rate_limit(error, context)
        case ServerError():
            message = f"the API is unavailable: {_server_message(error.status, error.problem)}"
            return Finding("api.trouble", "error", message, "Try again later. Your set-up is not the cause")
        case ApiError():
            return _explain_api_error(error, context)
        case DecodeError():
            message = f"the response does not match the API's documentation: {error}"
            return Finding("api.unreadable", "error", message, "Try again, then update twusage, or report this")
        case ProtocolError():
            message = f"invalid response from {context.host}: {error}"
            return Finding("network.broken", "error", message, f"Try again. {_ADVICE_CAPTIVE_PORTAL}")
        case _:
            return Finding("network.failed", "error", str(error), "Check the network and the transport")


def _explain_edge(error: ApiError | RateLimitedError | DecodeError, response: Response | None) -> Finding:
    advice = f"{_ADVICE_CAPTIVE_PORTAL}. If there is none, the API's edge may block this machine's address"
    what, words = "a page or plain text", ""
    if response is not None and not is_page(response.body) and not isinstance(error, DecodeError):
        what, words = "JSON of another service", f" (its message: {_server_message(None, error.problem)})"
        advice += f". Check {_ADVICE_BASE_URL}"
    status = f" (status {response.status})" if response else ""
    message = f"{what} came instead of the API's response{status}: a firewall, a proxy or the API's edge sent it"
    return Finding("network.page", "error", message + words, advice)


# By ConnectError.reason: the code, the message and the advice. {error} is the exception's own message.
_CONNECT_FINDINGS = {
    "dns": (
        "network.name",
        "the name {host} cannot be resolved: {error}",
        f"Check the network and its DNS, and {_ADVICE_BASE_URL}",
    ),
    "refused": (
        "network.refused",
        "{host} refuses the connection: {error}",
        f"Check the network, and {_ADVICE_BASE_URL}. {_ADVICE_CAPTIVE_PORTAL}",
    ),
    "timeout": (
        "network.no-answer",
        "{host} does not accept the connection in time: {error}",
        f"Check the network. {_ADVICE_CAPTIVE_PORTAL}",
    ),
    "unreachable": ("network.unreachable", "no route to {host}: {error}", "Check this machine's network connection"),
    "proxy": ("proxy.refused", "{error}", "Ask the proxy's administrator to allow {host}:{port}"),
    "proxy-auth": ("proxy.login", "the proxy requires a user name and a password (407)", _ADVICE_PROXY_LOGIN),
    "proxy-unreachable": (
        "proxy.unreachable",
        "the proxy cannot be reached: {error}",
        "Check the proxy's address and port",
    ),
    "hostname": (
        "tls.wrong-host",
        "the certificate is for another host than {host}",
        f"{_ADVICE_CAPTIVE_PORTAL}, and {_ADVICE_BASE_URL}",
    ),
    "expired": ("tls.expired", "the certificate of {host} has expired", "{clock}"),
    "not-yet-valid": ("tls.not-yet-valid", "the certificate of {host} is not yet valid", "{clock}"),
    "no-ca-store": (
        "tls.no-ca-store",
        "the certificate of {host} cannot be verified: this system has no CA certificates",
        "Install the package ca-certificates, or let SSL_CERT_FILE name a file of CA certificates",
    ),
    "handshake": (
        "tls.broken",
        "the TLS handshake with {host} failed: {error}",
        f"{_ADVICE_CAPTIVE_PORTAL}, and {_ADVICE_BASE_URL}",
    ),
    "untrusted": (
        "tls.untrusted",
        "the certificate of {host} is not trusted: {error}",
        "If a proxy of your organization inspects the traffic, let SSL_CERT_FILE name a file with its CA certificate",
    ),
    "other": ("network.failed", "{error}", "Check the network and the transport"),
}


def _explain_connect_error(error: ConnectError, context: _Context) -> Finding:
    reason = error.reason
    if isinstance(error, TlsError) and reason == "other":
        reason = "untrusted"
    code, message, advice = _CONNECT_FINDINGS[reason]
    parts = urlsplit(context.base_url)
    today = f", which shows {_utc(context.attempt.ended_at):%Y-%m-%d}" if context.attempt else ""
    values = {
        "host": context.host,
        "port": parts.port or (443 if parts.scheme == "https" else 80),
        "error": error,
        "clock": f"Check this machine's clock{today}. If it is right, a proxy or a firewall responds for the API",
    }
    if reason == "untrusted" and context.environ.get("SSL_CERT_FILE"):
        advice += "; SSL_CERT_FILE is set: check that the file exists and contains the right certificates"
    return Finding(code, "error", message.format_map(values), advice.format_map(values))


def _explain_rate_limit(error: RateLimitedError, context: _Context) -> Finding:
    if context.is_token_request:
        message = "too many bearer tokens were requested with this API key and secret (429)"
        advice = f"Share one AppOnlyAuth among all clients, or use the bearer token itself. {_retry_advice(error)}"
        return Finding("api.other-limit", "error", message, advice)
    if not error.window_exhausted:
        message = "another limit than the app's window, which has calls left, was exceeded (429)"
        return Finding("api.other-limit", "error", message, _retry_advice(error))
    source = "nothing was sent" if error.status is None else "the API responded with 429"
    message = f"no calls are left in the app's 15-minute window ({source}){_format_reset(error)}"
    advice = "Wait for it to reset. All programs with the app's credentials share these calls"
    return Finding("window.spent", "error", message, advice)


def _format_reset(error: RateLimitedError) -> str:
    when = f": it resets at {error.retry_at:%H:%M:%S} UTC" if error.retry_at else ""
    return f"{when}, in {_format_duration(error.retry_after)}" if when and error.retry_after is not None else when


def _retry_advice(error: RateLimitedError) -> str:
    return f"Try again in {_format_duration(error.retry_after or 30.0)}"


def _explain_api_error(error: ApiError, context: _Context) -> Finding:  # noqa: C901, PLR0911 - a table
    reply = _server_message(error.status, error.problem)
    kind = (error.problem.type or "").rstrip("/").rpartition("/")[2]
    match error:
        case AuthenticationError(retry_once=True) if not context.is_token_request:
            message = "the cached token is no longer accepted; a new one was fetched, but not yet used"
            return Finding("token.renewed", "warning", message, "Nothing: the next call uses it")
        case AuthenticationError() if context.is_token_request or error.status != 401:  # Perhaps of another client.
            message, advice = f"the API rejects the API key and secret: {reply}", ADVICE_COPY_PAIR
            advice += ". They are not the client ID and secret of OAuth 2"
            return _blame_suspicion(context, Finding("key.refused", "error", message, advice))
        case AuthenticationError() if context.is_pair:
            message = f"the API rejects the token that it returned for the API key and secret: {reply}"
            return Finding("token.refused", "error", message, f"Regenerate them on {PORTAL_PAGE}, and use the new ones")
        case AuthenticationError():
            message = f"the API rejects the bearer token: {reply}"
            advice = f"{ADVICE_COPY_TOKEN}. It may be cut off, or have been regenerated since"
            return _blame_suspicion(context, Finding("token.refused", "error", message, advice))
        case ForbiddenError() if kind == "unsupported-authentication":
            message = f"the bearer token is a user's; {USER_TOKENS_REJECTED}: {reply}"
            return Finding("token.user-context", "error", message, ADVICE_TOKEN_OR_PAIR)
        case ForbiddenError() if is_enrollment(error.problem):
            return _explain_client_forbidden(error)
        case ForbiddenError():
            advice = (
                "Possible causes: a user's token instead of the app-only bearer token, a suspended app or account, or "
                "a firewall. Check the app in the developer portal"
            )
            finding = Finding("api.forbidden", "error", f"the API forbids this call: {reply}", advice)
            return _blame_suspicion(context, finding)
        case CreditsDepletedError():
            message = f"the account has no credits left: {reply}"
            return Finding("credits.depleted", "error", message, "Buy credits in the developer console")
        case SpendCapReachedError():
            until = f" until {error.reset_date}" if error.reset_date else ""
            message = f"the account's spending limit is reached{until}: {reply}"
            advice = f"Raise it in the developer console, or wait{until or ' for the next billing cycle'}"
            return Finding("spending.limit-reached", "error", message, advice)
        case UsageCapExceededError():
            return Finding("cap.used-up", "error", f"the project's monthly cap is used up: {reply}", _ADVICE_CAP)
        case ApiError(status=404):
            message = f"there is no Usage API at this address: {reply}"
            advice = "Unset TWUSAGE_BASE_URL, or remove base_url=, or use the host alone: twusage adds the path"
            return Finding("api.not-there", "error", message, advice)
        case _:
            return Finding(
                "api.refused", "error", f"the API rejects the request: {reply}", "Update twusage, or report it"
            )


_ADVICE_CAP = "Wait until it resets, or buy a larger plan"


def _explain_client_forbidden(error: ForbiddenError) -> Finding:
    """Return the finding for an app that may not call this endpoint.

    Its message has all fields of the problem, because the API sends the same one for an app outside a project and for
    an app whose account lacks an access level.
    """
    problem = error.problem
    extra = {
        "reason": problem.extra.get("reason"),
        "required enrollment": problem.extra.get("required_enrollment"),
        "see": problem.extra.get("registration_url"),
    }
    details = "; ".join(f"{name}: {_escape(value)}" for name, value in extra.items() if isinstance(value, str))
    message = f"the API forbids this app the call: {_server_message(error.status, problem)}"
    message += f" ({details})" if details else ""
    names_project = "project" in (problem.detail or "").lower()
    reason = str(problem.extra.get("reason")).lower()
    if reason == "user-not-enrolled" or (reason.endswith("not-enrolled") and not names_project):
        advice = (
            "Possible causes: the account or the app lacks the access level that this endpoint requires, or the app is "
            "not attached to a project. Check both in the developer portal"
        )
        return Finding("app.not-enrolled", "error", message, advice)
    advice = (
        "Possible causes: the app is not attached to a project, or it lacks the access level that this endpoint "
        "requires. Check both in the developer portal"
    )
    return Finding("app.no-project", "error", message, advice)


def _blame_suspicion(context: _Context, failure: Finding) -> Finding:
    """Return the failure, with a suspicion about the credentials as its cause."""
    if context.suspicion is None:
        return failure
    message = f"{failure.message}. Likely cause: {context.suspicion.message}"
    return evolve(context.suspicion, level="error", message=message)


def _server_message(status: int | None, problem: Problem) -> str:
    texts = (_escape(text).rstrip(".") for text in (problem.title, problem.detail) if text)
    words = ": ".join(dict.fromkeys(texts))
    return f"{'' if status is None else status} {words or 'without an explanation'}".strip()


def _escape(text: str) -> str:
    return excerpt(text)[1:-1]


# -- Window, cap and clock ---------------------------------------------------------------------------------------------


def _reported_window(error: TwUsageError | None, failure: Finding | None) -> RateLimit | None:
    # The headers of a QuotaError and of client-forbidden are those of another window (captures: 40,000 calls).
    if not isinstance(error, ApiError) or isinstance(error, QuotaError):
        return None
    return None if failure is not None and failure.subject in {"app", "network"} else error.rate_limit


def _window_findings(window: RateLimit | None) -> list[Finding]:
    if window is None:
        return []
    message = f"{window.remaining} of {window.limit} calls left until {window.reset_at:%H:%M:%S} UTC"
    if window.remaining > window.limit * _FEW_CALLS:
        return [Finding("window.open", "ok", message)]
    advice = "Call less often: all programs with the app's credentials share these calls"
    return [Finding("window.low", "warning", message, advice)]


def _usage_findings(usage: Usage) -> list[Finding]:
    problems = [
        Finding(
            "api.problem",
            "warning",
            f"the API reports a problem: {_server_message(problem.status, problem)}",
            "Read its explanation; the numbers may be incomplete",
        )
        for problem in usage.errors[:_MAX_PROBLEMS]
    ]
    return [*problems, _cap_finding(usage)]


def _cap_finding(usage: Usage) -> Finding:
    day = usage.cap_reset_day
    reset = "" if day is None else f", resets on day {day} of each month{', or its last' if day > 28 else ''}"
    if usage.project_cap is None or usage.project_usage is None:
        return Finding("cap.unknown", "ok", f"the API does not report how much of it is used{reset}")
    fraction = usage.project_usage / usage.project_cap if usage.project_cap else math.inf
    message = f"{usage.project_usage:,} of {usage.project_cap:,} posts read"
    message += f" ({min(fraction, 0.999) if fraction < 1 else fraction:,.1%}){reset}" if fraction < math.inf else reset
    if fraction >= 1:
        return Finding("cap.used-up", "error", message, _ADVICE_CAP)
    if fraction >= _NEARLY_USED:
        return Finding("cap.nearly-used-up", "warning", message, "Read less until it resets, or buy a larger plan")
    return Finding("cap.left", "ok", message)


def _clock_findings(context: _Context) -> list[Finding]:
    date = read_date(context.response) if context.response is not None else None
    if date is None or context.attempt is None:
        return []
    ahead = context.attempt.ended_at - date.timestamp()
    if abs(ahead) <= _MAX_CLOCK_SKEW:
        return [Finding("clock.right", "ok", f"within {max(1, math.ceil(abs(ahead)))} s of the server's")]
    code, direction = ("clock.fast", "ahead of") if ahead > 0 else ("clock.slow", "behind")
    message = f"this machine's clock is {_format_duration(abs(ahead))} {direction} the server's"
    advice = "Synchronize it over the network (NTP). The waits of twusage are right: they use the server's clock"
    return [Finding(code, "warning", message, advice)]


def _utc(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def _format_duration(seconds: float) -> str:
    whole = math.ceil(seconds)
    for unit, name, smaller, its_name in ((86400, "days", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= 2 * unit:
            return f"{whole // unit} {name} {whole % unit // smaller} {its_name}"
    return f"{whole} s"
