"""Record the live API's responses without secrets, and replay them. The files are JSON, safe to commit.

A recording is a list of exchanges. Of a request it has the method, path and query; not the host, because both hosts
return the same, and no headers. Of a response it has the status, the known headers, and the body (as JSON if it is).
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
# An allow-list: other headers, such as cookies and those of a proxy, may be confidential.
_KEPT_HEADERS = re.compile("content-type|date|retry-after|api-version|x-access-level|x-transaction-id|x-rate-limit-.*")
_SECRET_FIELDS = {"access_token"}
_REDACTED = "redacted"
# The same field in a body that is not JSON, for instance because it is truncated.
_A_TOKEN = re.compile(rb'("access_token"\s*:\s*"?)[^"\s,}]+')


class RecordingTransport:
    """Sends through another transport, and records the exchanges without secrets.

    Args:
        inner: sends the requests. It is closed together with this transport.
        path: the file. It is overwritten, and contains all exchanges of this transport after each of them.
    """

    def __init__(self, inner: Transport, path: str | os.PathLike[str]) -> None:
        self._inner = inner
        self._path = Path(path)
        self._exchanges: list[dict[str, object]] = []

    async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109 - as Transport has it
        """Send and record one request. See ``Transport.send``."""
        try:
            response = await self._inner.send(request, timeout=timeout)
        except TransportError as error:
            document = {"type": type(error).__name__, "message": str(error)} | {
                name: True for name in ("retryable", "retry_once") if getattr(error, name)
            }
            self._record(request, error=document)
            raise
        self._record(request, response=_response_document(request, response))
        return response

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()

    def _record(self, request: Request, **outcome: object) -> None:
        self._exchanges.append({"request": _key(request), **outcome})
        text = json.dumps({"twusage_recording": _FORMAT, "exchanges": self._exchanges}, indent=2)
        # Replaced as a whole, so that a reader never sees half a recording.
        draft = self._path.with_name(f"{self._path.name}.new")
        draft.write_text(f"{text}\n", encoding="utf-8")
        draft.replace(self._path)


class ReplayTransport:
    """Returns recorded responses. Those of equal requests are returned in their order, each once.

    Raises:
        ValueError: the file is not a recording.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._exchanges: dict[str, list[Response | TransportError]] = {}
        try:
            recording = json.loads(self._path.read_text(encoding="utf-8"))
            if recording["twusage_recording"] != _FORMAT:
                raise ValueError("another format")  # noqa: TRY301 - reported below, like the others
            for exchange in recording["exchanges"]:
                outcome = _error(exchange["error"]) if "error" in exchange else _read(exchange["response"])
                self._exchanges.setdefault(exchange["request"], []).append(outcome)
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"{self._path} is not a recording of RecordingTransport ({error!r})") from None

    async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109, ARG002 - as Transport has it
        """Return the recorded response, or raise the recorded error.

        Raises ``AssertionError`` if the request was not recorded, or not as often.
        """
        key = _key(request)
        if not self._exchanges.get(key):
            known = "; ".join(f"{key} ({len(left)} left)" for key, left in self._exchanges.items()) or "nothing"
            raise AssertionError(f"{self._path} has no response (left) to {key}. It contains: {known}. Record it again")
        outcome = self._exchanges[key].pop(0)
        if isinstance(outcome, TransportError):
            raise outcome
        return outcome

    async def aclose(self) -> None:
        """Do nothing: there is no connection to close."""

    def assert_all_used(self) -> None:
        """Raise ``AssertionError`` if a recorded exchange was never requested."""
        left = {key: len(exchanges) for key, exchanges in self._exchanges.items() if exchanges}
        if left:  # not an assert statement, because python -O removes those
            raise AssertionError(f"recorded and never requested: {left}")


def _key(request: Request) -> str:
    url = urlsplit(request.url)
    return f"{request.method} {url.path}{f'?{url.query}' if url.query else ''}"


def _response_document(request: Request, response: Response) -> dict[str, object]:
    headers = {name: value for name, value in response.headers.items() if _KEPT_HEADERS.fullmatch(name)}
    # Serialized first, so that an echo of the credentials is found in any header.
    cleaned = json.loads(redact_credentials(json.dumps(headers).encode(), request))
    body = redact_credentials(response.body, request)
    return {"status": response.status, "headers": cleaned} | _body_document(body)


def _body_document(body: bytes) -> dict[str, object]:
    try:
        document = decode_document(body)
    except DecodeError:
        # Other bodies are stored byte for byte as Latin-1, apart from a token in them.
        return {"body": _A_TOKEN.sub(rb"\1" + _REDACTED.encode(), body).decode("latin-1")}
    return {"json": _redacted(document)}


def _redacted(value: object) -> object:
    if isinstance(value, dict):
        return {name: _REDACTED if name in _SECRET_FIELDS else _redacted(item) for name, item in value.items()}
    return [_redacted(item) for item in value] if isinstance(value, list) else value


def _read(document: Mapping[str, Any]) -> Response:
    body = json.dumps(document["json"]).encode() if "json" in document else document["body"].encode("latin-1")
    headers = {str(name): str(value) for name, value in document["headers"].items()}
    return Response(int(document["status"]), headers, body)


def _error(document: Mapping[str, Any]) -> TransportError:
    kind = getattr(errors, document["type"], None)
    if not (isinstance(kind, type) and issubclass(kind, TransportError)):
        kind = TransportError
    return kind(
        document["message"], retryable=document.get("retryable", False), retry_once=document.get("retry_once", False)
    )
