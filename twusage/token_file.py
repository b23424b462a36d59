"""The form of credentials, and token files.

It excludes strings that cannot be a key or a token. No message quotes them.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import IO

from attrs import frozen

from twusage.protocol import QUOTES, is_visible_ascii

__all__ = ["ADVICE_COPY_PAIR", "ADVICE_COPY_TOKEN", "PORTAL_PAGE", "Flaw", "credential_flaw", "read_token_file"]

# The vendor's name of that page.
PORTAL_PAGE = "the app's page 'Keys and tokens' in the developer portal"
# Without names of variables: the credentials may come from a file or from the program.
ADVICE_COPY_TOKEN = f"Use the app's bearer token exactly as {PORTAL_PAGE} shows it, with its %2F and %3D"
ADVICE_COPY_PAIR = f"Use the API key and secret, also called consumer keys, from {PORTAL_PAGE}"
# Bytes. No token is nearly as long; the rest of a larger file is not read.
MAX_TOKEN_FILE = 2**16
_FILE_ADVICE = "The file must contain the token and nothing else, in UTF-8"
_QUOTES = f"{QUOTES}\u2018\u2019\u201c\u201d"


@frozen
class Flaw:
    """The reason why a string is not a credential. No call can succeed with it."""

    code: str
    """A stable identifier for programs, such as ``token.quoted``."""
    message: str
    """The reason, without the text."""
    advice: str
    """What to do."""


def read_token_file(open_file: Callable[[], AbstractContextManager[IO[bytes]]], place: str) -> str | Flaw:
    """Return the token in a file, or why there is none.

    Args:
        open_file: opens the file.
        place: its name in messages, such as ``the file`` or ``stdin``: never its path, which may be a token by mistake.
    """
    try:
        with open_file() as file:
            content = file.read(MAX_TOKEN_FILE + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except RuntimeError:  # click's, for a closed stdin
        reason = "it is closed"
    else:
        text = _decode(content, place)
        return text if isinstance(text, Flaw) else _file_flaw(text, place) or text
    return Flaw("token.file", f"{place} cannot be read: {reason}", "Give the path of a readable file")


def _decode(content: bytes, place: str) -> str | Flaw:
    # PowerShell's > writes UTF-16. Without a byte order mark, every second byte of ASCII text is zero.
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content[:2]:
        advice = f"{_FILE_ADVICE}: the > of Windows PowerShell writes UTF-16; use Set-Content -Encoding ascii"
        return Flaw("token.utf-16", f"{place} is UTF-16 text", advice)
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return Flaw("token.file", f"{place} is not UTF-8 text", _FILE_ADVICE)
    if not text:
        return Flaw("token.file", f"{place} is empty", _FILE_ADVICE)
    if len(content) > MAX_TOKEN_FILE:
        return Flaw("token.file", f"{place} is larger than any token", _FILE_ADVICE)
    return text


def _file_flaw(text: str, place: str) -> Flaw | None:
    # A line of an .env file, or JSON. A percent-decoded token contains an equals sign, too.
    if re.match(r"(export\s+)?(?!AAAA)[A-Za-z_]\w*\s*=\s*[^=\s]|[{\[]\s*\"", text):
        return Flaw("token.assignment", f"{place} contains an assignment or JSON", _FILE_ADVICE)
    found = credential_flaw(text, "the bearer token", "token")
    if found is None or found.code not in {"token.space", "token.line-break"}:
        return found
    several = "words" if found.code == "token.space" else "lines"
    return Flaw(found.code, f"{place} contains several {several}", _FILE_ADVICE)


def credential_flaw(text: str, name: str, kind: str) -> Flaw | None:  # noqa: PLR0911 - a table
    """Return why no credential of this kind has this form. ``Secret`` rejects most of it, with less detail."""
    copy = ADVICE_COPY_TOKEN if kind == "token" else ADVICE_COPY_PAIR
    bare = text.strip()
    if not bare:
        return Flaw(f"{kind}.empty", f"{name} {'is only white space' if text else 'is empty'}", copy)
    if bare[0] in _QUOTES or bare[-1] in _QUOTES:
        advice = "Remove it: a shell strips quotation marks, an .env file or a YAML value may not"
        return Flaw(f"{kind}.quoted", f"{name} has a quotation mark around it", advice)
    if re.match(r"(authorization:\s*)?bearer(\s|:|%20|$)", bare, re.IGNORECASE):
        return Flaw(f"{kind}.bearer-prefix", f"{name} begins with 'Bearer'", "Remove it: twusage adds it")
    if {"\r", "\n"} & set(text):
        return Flaw(f"{kind}.line-break", f"{name} contains a line break", "Remove the line break")
    if any(map(str.isspace, text)):
        return Flaw(f"{kind}.space", f"{name} contains a space", "Remove the space")
    if not is_visible_ascii(text):
        return Flaw(f"{kind}.not-ascii", f"{name} contains a character that is invalid in a credential", copy)
    return _damaged(text, name) if kind == "token" else None


def _damaged(token: str, name: str) -> Flaw | None:
    """Return how a configuration format has damaged a token's percent signs."""
    if "\\" in token:
        advice = "Remove the backslashes. crontab needs \\% only in a command; put the token into a file instead"
        return Flaw("token.backslash", f"{name} contains a backslash", advice)
    if "%%" in token:
        advice = "Write each % once. Only .bat files, systemd units and configparser need %%"
        return Flaw("token.percent-doubled", f"{name} contains %%: its percent signs are doubled", advice)
    if re.search("%(?![0-9A-Fa-f]{2})", token):
        message = f"{name} contains a % that is not followed by two hex digits: it is cut off or altered"
        return Flaw("token.percent-broken", message, ADVICE_COPY_TOKEN)
    return None
