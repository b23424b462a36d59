"""What the environment and the form of the secrets show before a call. Pure: the environment comes in as an argument.

A finding of the level ``error`` is certain: no call can succeed. A ``warning`` is a suspicion, which the API's response
confirms or refutes. No message contains a credential or a part of one.
"""

from __future__ import annotations

import binascii
import codecs
import re
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from twusage.auth import KEY_VARIABLES, TOKEN_VARIABLES, Secret, missing_half
from twusage.diagnostics.report import Finding
from twusage.errors import ConfigurationError
from twusage.protocol import DEFAULT_BASE_URL, QUOTES, check_base_url, is_visible_ascii

__all__ = [
    "MAX_TOKEN_FILE",
    "check_address",
    "check_environment",
    "check_secrets",
    "check_token_text",
    "read_token_file",
]

TOKEN, (KEY, SECRET) = TOKEN_VARIABLES[0], KEY_VARIABLES[0]
# The vendor's name of that page.
PORTAL_PAGE = "the app's page 'Keys and tokens' in the developer portal"
# Without names of variables: the credentials may come from a file or from the program.
ADVICE_COPY_TOKEN = f"Use the app's bearer token exactly as {PORTAL_PAGE} shows it, with its %2F and %3D"
ADVICE_COPY_PAIR = f"Use the API key and secret, also called consumer keys, from {PORTAL_PAGE}"
_AS_PAIR = f"in {KEY} and {SECRET}, or as an AppOnlyAuth"
ADVICE_TOKEN_OR_PAIR = f"{ADVICE_COPY_TOKEN}; or its API key and secret, also called consumer keys ({_AS_PAIR})"
USER_TOKENS_REJECTED = "this endpoint does not accept user tokens"
# Bytes. No token is nearly as long; the rest of a larger file is not read.
MAX_TOKEN_FILE = 2**16
_FILE_ADVICE = "The file must contain the token and nothing else, in UTF-8"


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
        found = Finding("credentials.found", "ok", f"the bearer token is in {present[0]}{_unused(present[1:])}")
        return _malformed(environ[present[0]], present[0], "token") or found
    for pair in KEY_VARIABLES:
        if reason := missing_half(pair, environ):
            return Finding("credentials.half", "error", reason, ADVICE_COPY_PAIR)
        if pair[0] in present:
            message = f"the API key and secret are in {_enumerate(pair)}{_unused(present[2:])}"
            return _first(_malformed(environ[name], name, "key") for name in pair) or Finding(
                "credentials.found", "ok", message
            )
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


def _first(findings: Iterable[Finding | None]) -> Finding | None:
    return next(filter(None, findings), None)


def read_token_file(content: bytes, place: str) -> str | Finding:
    """Return the text of a token file, or the error that makes it unreadable.

    Args:
        content: at most ``MAX_TOKEN_FILE + 1`` bytes of it.
        place: its name in messages, such as ``the file`` or ``stdin``.
    """
    # PowerShell's > writes UTF-16. Without a byte order mark, every second byte of ASCII text is zero.
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content[:2]:
        advice = f"{_FILE_ADVICE}: the > of Windows PowerShell writes UTF-16; use Set-Content -Encoding ascii"
        return Finding("token.utf-16", "error", f"{place} is UTF-16 text", advice)
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return Finding("token.file", "error", f"{place} is not UTF-8 text", _FILE_ADVICE)
    if not text:
        return Finding("token.file", "error", f"{place} is empty", _FILE_ADVICE)
    if len(content) > MAX_TOKEN_FILE:
        return Finding("token.file", "error", f"{place} is larger than any token", _FILE_ADVICE)
    return text


def check_token_text(text: str, place: str) -> Finding | None:
    """Return the error that makes the text of a file or of stdin unusable as a token."""
    # A line of an .env file, or JSON. A percent-decoded token contains an equals sign, too.
    if re.match(r"(export\s+)?(?!AAAA)[A-Za-z_]\w*\s*=\s*[^=\s]|[{\[]\s*\"", text):
        return Finding("token.assignment", "error", f"{place} contains an assignment or JSON", _FILE_ADVICE)
    found = _malformed(text, "the bearer token", "token")
    if found is None or found.code not in {"token.space", "token.line-break"}:
        return found
    several = "words" if found.code == "token.space" else "lines"
    return Finding(found.code, "error", f"{place} contains several {several}", _FILE_ADVICE)


def check_secrets(*secrets: Secret) -> Finding | None:
    """Return what is wrong with a bearer token, or with an API key and its secret."""
    texts = [secret.reveal() for secret in secrets]
    if len(texts) == 1:
        return _malformed(texts[0], "the bearer token", "token") or _suspect_token(texts[0])
    key, secret = texts
    certain = _malformed(key, "the API key", "key") or _malformed(secret, "the API secret", "key")
    return certain or _suspect_pair(key, secret)


_QUOTES = f"{QUOTES}\u2018\u2019\u201c\u201d"


def _malformed(text: str, name: str, kind: str) -> Finding | None:  # noqa: PLR0911 - a table
    """Return why no credential of this kind has this form. ``Secret`` rejects most of it, with less detail."""
    copy = ADVICE_COPY_TOKEN if kind == "token" else ADVICE_COPY_PAIR
    bare = text.strip()
    if not bare:
        return Finding(f"{kind}.empty", "error", f"{name} {'is only white space' if text else 'is empty'}", copy)
    if bare[0] in _QUOTES or bare[-1] in _QUOTES:
        advice = "Remove it: a shell strips quotation marks, an .env file or a YAML value may not"
        return Finding(f"{kind}.quoted", "error", f"{name} has a quotation mark around it", advice)
    if re.match(r"(authorization:\s*)?bearer(\s|:|%20|$)", bare, re.IGNORECASE):
        return Finding(f"{kind}.bearer-prefix", "error", f"{name} begins with 'Bearer'", "Remove it: twusage adds it")
    if {"\r", "\n"} & set(text):
        return Finding(f"{kind}.line-break", "error", f"{name} contains a line break", "Remove the line break")
    if any(map(str.isspace, text)):
        return Finding(f"{kind}.space", "error", f"{name} contains a space", "Remove the space")
    if not is_visible_ascii(text):
        return Finding(
            f"{kind}.not-ascii", "error", f"{name} contains a character that is invalid in a credential", copy
        )
    return _damaged(text, name) if kind == "token" else None


def _damaged(token: str, name: str) -> Finding | None:
    """Return how a configuration format has damaged a token's percent signs."""
    if "\\" in token:
        advice = "Remove the backslashes. crontab needs \\% only in a command; put the token into a file instead"
        return Finding("token.backslash", "error", f"{name} contains a backslash", advice)
    if "%%" in token:
        advice = "Write each % once. Only .bat files, systemd units and configparser need %%"
        return Finding("token.percent-doubled", "error", f"{name} contains %%: its percent signs are doubled", advice)
    if re.search("%(?![0-9A-Fa-f]{2})", token):
        message = f"{name} contains a % that is not followed by two hex digits: it is cut off or altered"
        return Finding("token.percent-broken", "error", message, ADVICE_COPY_TOKEN)
    return None


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
    """Return the decoded form of an OAuth 2 client ID or user token; empty if the text is not Base64."""
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    except (binascii.Error, UnicodeError):
        return ""
