"""Request, Response and Headers: what a transport sends and receives. No I/O, no clock."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping
from typing import Any

from attrs import field, frozen

__all__ = ["QUOTES", "Headers", "Request", "Response", "as_headers", "is_visible_ascii"]

# Valid in a header, but not at either end of a token.
QUOTES = "\"'`"


def is_visible_ascii(text: str) -> bool:
    """Return whether ``text`` is visible ASCII, as in headers and URLs."""
    return text.isascii() and text.isprintable() and " " not in text


class Headers(Mapping[str, str]):
    """Immutable HTTP headers with case-insensitive names, stored in lower case.

    The repr shows no values, because some are secret. The values of a repeated header are joined by commas (RFC 9110,
    5.3).
    """

    __slots__ = ("_values",)

    def __init__(self, headers: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        pairs = list(headers.items() if hasattr(headers, "items") else headers)
        self._values: dict[str, str] = {name.lower(): value for name, value in pairs}
        if len(self._values) < len(pairs):
            self._values = {}
            for name, value in pairs:
                key = name.lower()
                self._values[key] = f"{self._values[key]}, {value}" if key in self._values else value

    def replacing(self, name: str, value: str) -> Headers:
        """Return a copy with this header instead of any of that name."""
        more = Headers()
        more._values = {**self._values, name.lower(): value}
        return more

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value, or the default."""
        return self._values.get(name.lower(), default)

    def get_many(self, *names: str) -> Iterator[str | None]:
        """Return the values of these lower-case names; ``None`` for a missing one."""
        return map(self._values.get, names)

    def items(self) -> ItemsView[str, str]:
        """Return the names, in lower case, and the values."""
        return self._values.items()

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return self._values == dict(other) if isinstance(other, Mapping) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[type[Headers], tuple[dict[str, str]]]:
        return Headers, (self._values,)

    def __repr__(self) -> str:
        return f"Headers({', '.join(self)})"


def as_headers(headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> Headers:
    return headers if type(headers) is Headers else Headers(headers)


def _size(body: bytes) -> str:
    return f"<{len(body)} bytes>"


@frozen
class Request:
    """What a transport sends. The repr shows neither header values nor the body."""

    method: str
    """``GET``, or ``POST`` for a token."""
    url: str
    """The complete URL, already encoded."""
    headers: Mapping[str, str] = field(factory=Headers, converter=as_headers, hash=False)
    """The headers to send in addition to the transport's own. They contain the credentials."""
    body: bytes = field(default=b"", repr=_size)
    """The body, empty for a ``GET``."""


@frozen
class Response:
    """What a transport returns. The repr shows neither header values nor the body."""

    status: int
    """The HTTP status."""
    headers: Mapping[str, str] = field(factory=Headers, converter=as_headers, hash=False)
    """The headers, names in lower case. The values of a repeated header are joined by commas."""
    body: bytes = field(default=b"", repr=_size)
    """The complete, decompressed body."""
