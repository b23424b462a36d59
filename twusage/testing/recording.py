"""Record what the real API answered, without its secrets; play it back in tests. JSON to read and to commit.

A recording is a list of exchanges. A request is its method, path and query (not its host: both hosts answer alike); its
headers are not recorded at all. An answer keeps the headers that mean something, and its body as JSON where it is JSON.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from twusage import errors
from twusage.errors import DecodeError, TransportError
from twusage.json_reader import decode_document
from twusage.protocol import Request, Response, redact_credentials
from twusage.transport import Transport

__all__ = ["RecordingTransport", "ReplayTransport"]

_FORMAT = 1
# An allow-list: what is not known to be harmless (cookies, whatever a proxy adds) stays out.
_KEPT_HEADERS = re.compile("content-type|date|retry-after|api-version|x-access-level|x-transaction-id|x-rate-limit-.*")
_SECRET_FIELDS = {"access_token"}
_REDACTED = "redacted"
# The same in an answer that is cut, or no JSON for another reason.
_A_TOKEN = re.compile(rb'("access_token"\s*:\s*"?)[^"\s,}]+')


class RecordingTransport:
    """Sends through another transport, and writes every exchange to a file, secrets taken out.

    Args:
        inner: who really sends. It is closed with this one.
        path: the file. It is written anew: after each exchange it holds all of this transport's.
    """

    def __init__(self, inner: Transport, path: str | os.PathLike[str]) -> None:
        self._inner = inner
        self._path = Path(path)
        self._exchanges: list[dict[str, object]] = []

    async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109 - as Transport has it
        """Send and record. See ``Transport.send``."""
        try:
            response = await self._inner.send(request, timeout=timeout)
        except TransportError as error:
            told = {"type": type(error).__name__, "message": str(error)} | {
                name: True for name in ("retryable", "retry_once") if getattr(error, name)
            }
            self._record(request, error=told)
            raise
        self._record(request, response=_written(request, response))
        return response

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()

    def _record(self, request: Request, **outcome: object) -> None:
        self._exchanges.append({"request": _key(request), **outcome})
        text = json.dumps({"twusage_recording": _FORMAT, "exchanges": self._exchanges}, indent=2)
        # All or nothing: a reader never finds half a recording.
        draft = self._path.with_name(f"{self._path.name}.new")
        draft.write_text(f"{text}\n", encoding="utf-8")
        draft.replace(self._path)


class ReplayTransport:
    """Answers as a recording says: the exchanges of one request in their order, each once.

    Raises:
        ValueError: the file is no recording.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._exchanges: dict[str, list[Response | TransportError]] = {}
        try:
            recording = json.loads(self._path.read_text(encoding="utf-8"))
            if recording["twusage_recording"] != _FORMAT:
                raise ValueError("another format")  # noqa: TRY301 - told below, with the others
            for exchange in recording["exchanges"]:
                answer = _error(exchange["error"]) if "error" in exchange else _read(exchange["response"])
                self._exchanges.setdefault(exchange["request"], []).append(answer)
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"{self._path} is not a recording of RecordingTransport ({error!r})") from None

    async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109, ARG002 - as Transport has it
        """The recorded answer, or the recorded error. ``AssertionError`` for a request that was not recorded, or not as
        often.
        """
        key = _key(request)
        if not self._exchanges.get(key):
            known = "; ".join(f"{key} ({len(left)} left)" for key, left in self._exchanges.items()) or "nothing"
            raise AssertionError(f"{self._path} has no answer (left) to {key}. It holds: {known}. Record it again")
        answer = self._exchanges[key].pop(0)
        if isinstance(answer, TransportError):
            raise answer
        return answer

    async def aclose(self) -> None:
        """Nothing to give back."""

    def assert_all_used(self) -> None:
        """Raise ``AssertionError`` if something was recorded and never asked for."""
        left = {key: len(exchanges) for key, exchanges in self._exchanges.items() if exchanges}
        if left:  # not an assert statement: python -O would leave it out
            raise AssertionError(f"recorded and never asked for: {left}")


def _key(request: Request) -> str:
    url = urlsplit(request.url)
    return f"{request.method} {url.path}{f'?{url.query}' if url.query else ''}"


def _written(request: Request, response: Response) -> dict[str, object]:
    headers = {name: value for name, value in response.headers.items() if _KEPT_HEADERS.fullmatch(name)}
    # As text once more, so that an echo of the credentials is found in whatever field it stands.
    cleaned = json.loads(redact_credentials(json.dumps(headers).encode(), request))
    body = redact_credentials(response.body, request)
    return {"status": response.status, "headers": cleaned} | _written_body(body)


def _written_body(body: bytes) -> dict[str, object]:
    try:
        document = decode_document(body)
    except DecodeError:
        # What is not JSON is kept byte for byte, as text in which every byte is a character; but for a token in it.
        return {"body": _A_TOKEN.sub(rb"\1" + _REDACTED.encode(), body).decode("latin-1")}
    return {"json": _redacted(document)}


def _redacted(value: object) -> object:
    if isinstance(value, dict):
        return {name: _REDACTED if name in _SECRET_FIELDS else _redacted(item) for name, item in value.items()}
    return [_redacted(item) for item in value] if isinstance(value, list) else value


def _read(written: Mapping[str, Any]) -> Response:
    body = json.dumps(written["json"]).encode() if "json" in written else written["body"].encode("latin-1")
    return Response(int(written["status"]), {str(name): str(value) for name, value in written["headers"].items()}, body)


def _error(written: Mapping[str, Any]) -> TransportError:
    kind = getattr(errors, written["type"], None)
    if not (isinstance(kind, type) and issubclass(kind, TransportError)):
        kind = TransportError
    return kind(
        written["message"], retryable=written.get("retryable", False), retry_once=written.get("retry_once", False)
    )
