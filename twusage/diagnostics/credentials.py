"""Findings from the environment and the form of secrets, before a call. The environment comes in as an
argument; only a token file that it names is read.

A finding of the level ``error`` is certain: no call can succeed. A ``warning`` is a suspicion, which the API's response
confirms or refutes. No message contains a credential or a part of one.
"""

from __future__ import annotations

import binascii
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from itertools import chain

from twusage.auth import KEY_VARIABLES, TOKEN_VARIABLES, Secret, is_file_variable, missing_half, read_file_variable
from twusage.diagnostics.report import Finding
from twusage.errors import ConfigurationError
from twusage.protocol import DEFAULT_BASE_URL, check_base_url
from twusage.token_file import ADVICE_COPY_PAIR, ADVICE_COPY_TOKEN, PORTAL_PAGE, Flaw, credential_flaw

__all__ = ["check_address", "check_environment", "check_secrets", "finding_of", "malformed_proxy"]

TOKEN, (KEY, SECRET) = TOKEN_VARIABLES[0], KEY_VARIABLES[0]
_AS_PAIR = f"in {KEY} and {SECRET}, or as an AppOnlyAuth"
ADVICE_TOKEN_OR_PAIR = f"{ADVICE_COPY_TOKEN}; or its API key and secret, also called consumer keys ({_AS_PAIR})"
USER_TOKENS_REJECTED = "this endpoint does not accept user tokens"


def check_environment(environ: Mapping[str, str]) -> tuple[Finding, ...]:
    """Return findings about the variables that ``UsageClient.from_env`` reads."""
    return (*check_address(environ), _check_credentials(environ))


def check_address(environ: Mapping[str, str]) -> tuple[Finding, ...]:
    """Return an error if ``TWUSAGE_BASE_URL`` is unusable. It is not quoted, because it may hold a token."""
    try:
        check_base_url(environ.get("TWUSAGE_BASE_URL") or DEFAULT_BASE_URL)
    except ConfigurationError:
        message = "TWUSAGE_BASE_URL is not an https address (http is allowed for this machine only)"
        return (Finding("address.malformed", "error", message, f"Unset it, or use the form {DEFAULT_BASE_URL}"),)
    return ()


def _check_credentials(environ: Mapping[str, str]) -> Finding:
    names = (*TOKEN_VARIABLES, *chain(*KEY_VARIABLES))
    present = [name for name in names if environ.get(name)]
    if present and present[0] in TOKEN_VARIABLES:
        variable, unused = present[0], _unused(present[1:])
        if is_file_variable(variable):
            token = read_file_variable(variable, environ)
            message = f"the bearer token is in the file that {variable} names{unused}"
            flaw = token if isinstance(token, Flaw) else None
        else:
            message = f"the bearer token is in {variable}{unused}"
            flaw = credential_flaw(environ[variable], variable, "token")
        return finding_of(flaw) if flaw else Finding("credentials.found", "ok", message)
    for pair in KEY_VARIABLES:
        if reason := missing_half(pair, environ):
            return Finding("credentials.half", "error", reason, ADVICE_COPY_PAIR)
        if pair[0] in present:
            message = f"the API key and secret are in {_enumerate(pair)}{_unused(present[2:])}"
            flaw = next(filter(None, (credential_flaw(environ[name], name, "key") for name in pair)), None)
            return finding_of(flaw) if flaw else Finding("credentials.found", "ok", message)
    empty = [name for name in names if name in environ]
    return Finding(
        "credentials.missing",
        "error",
        f"no credentials in the environment{f' ({empty[0]} is empty)' if empty else ''}",
        f"Set {TOKEN} to the app's bearer token, or {KEY} and {SECRET} to its API key and secret, from {PORTAL_PAGE}",
    )


def _unused(names: Sequence[str]) -> str:
    return f"; {_enumerate(names)} {'is' if len(names) == 1 else 'are'} not used" if names else ""


def _enumerate(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def finding_of(flaw: Flaw) -> Finding:
    """Return the error that a flaw is."""
    return Finding(flaw.code, "error", flaw.message, flaw.advice)


def malformed_proxy(error: ConfigurationError) -> Finding:
    """Return the error for a variable that is not the URL of an HTTP proxy. ``error`` names it."""
    return Finding("proxy.malformed", "error", str(error), "Use the form http://host:3128, or unset the variable")


def check_secrets(*secrets: Secret) -> Finding | None:
    """Return the flaw of a bearer token or an API key pair."""
    texts = [secret.reveal() for secret in secrets]
    if len(texts) == 1:
        flaw = credential_flaw(texts[0], "the bearer token", "token")
        return finding_of(flaw) if flaw else _suspect_token(texts[0])
    key, secret = texts
    flaw = credential_flaw(key, "the API key", "key") or credential_flaw(secret, "the API secret", "key")
    return finding_of(flaw) if flaw else _suspect_pair(key, secret)


def _suspect_token(token: str) -> Finding | None:  # noqa: PLR0911 - a table
    decoded = _decode_base64(token)
    if re.search(r"[$<>{}]|\.\.\.|^[Xx]+$", token):
        message = "the bearer token looks like a placeholder of an example"
        return Finding("token.placeholder", "warning", message, ADVICE_COPY_TOKEN)
    if re.search(r":[ar]t:\d", decoded):
        message = f"the bearer token looks like a user's access token of OAuth 2; {USER_TOKENS_REJECTED}"
        return Finding("token.user-context", "warning", message, ADVICE_TOKEN_OR_PAIR)
    if decoded.endswith(":ci") or re.fullmatch(r"(?=.*[A-Za-z])(?=.*[-_])(?!\d+-)[\w-]{40,60}", token, re.ASCII):
        message = "the bearer token looks like an OAuth 2 client ID or client secret"
        return Finding("token.oauth2-client", "warning", message, ADVICE_TOKEN_OR_PAIR)
    if token.startswith("AAAA"):
        return _suspect_encoding(token)
    if re.fullmatch(r"\d+-[A-Za-z0-9]+", token):
        message = f"the bearer token looks like a user's access token of OAuth 1; {USER_TOKENS_REJECTED}"
        return Finding("token.oauth1", "warning", message, ADVICE_TOKEN_OR_PAIR)
    if re.fullmatch(r"[A-Za-z0-9]{20,30}|[A-Za-z0-9]{40,60}", token):
        message = "the bearer token looks like an API key or an API secret"
        return Finding("token.api-key", "warning", message, f"Use both of them ({_AS_PAIR}), or the bearer token")
    message = "the bearer token does not look like one: those of the portal begin with AAAA"
    return Finding("token.unfamiliar", "warning", message, ADVICE_COPY_TOKEN)


def _suspect_encoding(token: str) -> Finding | None:
    if "%25" in token:
        message = "the bearer token looks percent-encoded twice: it contains %25"
        return Finding("token.encoded-twice", "warning", message, ADVICE_COPY_TOKEN)
    if set(token) & set("/+="):
        message = "the bearer token looks percent-decoded: it contains /, + or =, but the portal shows %2F, %2B and %3D"
        return Finding("token.percent-decoded", "warning", message, ADVICE_COPY_TOKEN)
    if "%" not in token:  # Every token of the portal contains %3D, the end of a Base64 text.
        message = "the bearer token looks cut off before its first %, or its percent signs are missing"
        advice = (
            f"{ADVICE_COPY_TOKEN}. crontab ends a command at a %, and .bat files remove it: put the token in a file"
        )
        return Finding("token.cut-off", "warning", message, advice)
    if re.search(r"[^\w%-]", token):  # such as the semicolon or the comma of the line that it was copied from
        message = "the bearer token contains a character that tokens of the portal do not contain"
        return Finding("token.unfamiliar", "warning", message, ADVICE_COPY_TOKEN)
    return None


def _suspect_pair(key: str, secret: str) -> Finding | None:
    if re.search(r"^AAAA.*%|\nAAAA.*%", f"{key}\n{secret}"):
        message = "the API key or the API secret looks like a bearer token"
        advice = f"Use it as the bearer token (in {TOKEN}, or UsageClient(token))"
        return Finding("key.bearer-token", "warning", message, advice)
    if _decode_base64(key).endswith(":ci") or re.fullmatch(r"(?=.*[-_])[\w-]{40,60}", secret, re.ASCII):
        message = "the API key and secret look like an OAuth 2 client ID and client secret, which give no bearer token"
        return Finding("key.oauth2-client", "warning", message, ADVICE_COPY_PAIR)
    if re.fullmatch(r"\d+-[A-Za-z0-9]+", key):
        message = "the API key and secret look like a user's access token and its secret, of OAuth 1"
        return Finding("key.oauth1", "warning", message, ADVICE_COPY_PAIR)
    if re.fullmatch(r"[A-Za-z0-9]{40,60}", key) and re.fullmatch(r"[A-Za-z0-9]{20,30}", secret):
        return Finding("key.swapped", "warning", "the API key and the API secret look swapped", "Swap them")
    return None


def _decode_base64(text: str) -> str:
    """Return an OAuth 2 client ID or user token, decoded. It is empty if the text is not Base64."""
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    except (binascii.Error, UnicodeError):
        return ""
