"""Redact the credentials that a response echoes. No I/O."""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode
from collections.abc import Iterator
from urllib.parse import quote, unquote

from twusage.json_reader import BACKSLASH
from twusage.protocol.messages import Request

__all__ = ["redact_credentials"]

# Shortest prefix of a secret that counts as a leak.
_MIN_LEAK_CHARS = 8


def redact_credentials(body: bytes, request: Request | None) -> bytes:
    """Return ``body`` with credentials redacted, in every encoding of an echo."""
    scheme, _, sent = (request.headers.get("authorization", "") if request else "").partition(" ")
    start = sent[:_MIN_LEAK_CHARS]
    if scheme == "Bearer" and start.isalnum() and body.find(start.encode()) < 0 and BACKSLASH not in body:
        return body  # Every encoding starts with these characters.
    spellings = {spelling.encode() for part in _secret_parts(scheme, sent) for spelling in _encodings_of(part)}
    instead = f"[{scheme} credentials]".encode()
    body = _redact(body, spellings, instead)
    if not spellings or BACKSLASH not in body:
        return body
    # JSON may escape any character. The body is rewritten only if an escape hides an echo.
    plain = _decode_escapes(body)
    cleaned = _redact(plain, spellings, instead)
    return body if cleaned == plain else cleaned


_ESCAPE = re.compile("%[0-9A-F]{2}")


def _encodings_of(secret: str) -> Iterator[str]:
    # Also without its beginning, because an escape before it may absorb its first characters.
    for part in (
        (secret, secret[_MIN_LEAK_CHARS:])
        if len(secret) >= 3 * _MIN_LEAK_CHARS
        else (secret,) * (len(secret) >= _MIN_LEAK_CHARS)
    ):
        plain = unquote(part)
        yield from (part, plain, quote(part, safe=""))
        yield plain.replace("/", r"\/")  # as in a page's scripts
        yield _ESCAPE.sub(lambda escape: escape[0].lower(), part)


def _secret_parts(scheme: str, sent: str) -> list[str]:
    """Return the request's secrets. Of Basic credentials, these include the API key and secret."""
    try:
        pair = b64decode(sent, validate=True).decode() if scheme == "Basic" else ""
    except (binascii.Error, UnicodeDecodeError):  # not built by token_request
        pair = ""
    halves = pair.split(":")
    return [sent, *halves, *map(unquote, halves)]


def _redact(body: bytes, spellings: set[bytes], instead: bytes) -> bytes:
    for spelling in sorted(spellings, key=len, reverse=True):  # longest first: one may contain another
        body = body.replace(spelling, instead)
        if spelling[:_MIN_LEAK_CHARS] in body:  # The body may be cut within its echo.
            shown = next(
                (end for end in range(len(spelling), _MIN_LEAK_CHARS - 1, -1) if body.endswith(spelling[:end])), 0
            )
            body = body[: len(body) - shown] + instead * bool(shown)
    return body


def _decode_escapes(body: bytes) -> bytes:
    try:
        return json.dumps(json.loads(body), ensure_ascii=False).encode(errors="replace")
    except (ValueError, RecursionError):
        # Not JSON, possibly because it is cut, even within an escape.
        return _JSON_ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode()) if match[1] else match[2] or b"", body)


_JSON_ESCAPE = re.compile(rb"\\(?:u00([0-7][0-9a-fA-F])|(/)|(?:u[0-9a-fA-F]{0,3})?\Z)")
