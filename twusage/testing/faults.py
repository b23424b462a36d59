"""Faults as values: what can go wrong with one response.

A ``Fault`` changes the response or breaks the exchange, independently of the transport. How a broken exchange looks is
defined in ``transport`` (in memory) and in ``server`` (on a socket).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from enum import Enum, auto
from http import HTTPStatus
from typing import Self

from attrs import frozen

from twusage.protocol import Response

__all__ = ["Breakage", "Fault", "problem"]

# Captures of quota errors carry the headers of another window than this endpoint's.
_OTHER_WINDOW = {"x-rate-limit-limit": "40000", "x-rate-limit-remaining": "39999"}
_PROBLEMS = "https://api.twitter.com/2/problems/"


class Breakage(Enum):
    """How an exchange ends without a complete response."""

    CONNECT = auto()
    """No connection: the request is never sent, and not counted."""
    TIMEOUT = auto()
    """The request arrives and is counted, but no response is sent."""
    DISCONNECT = auto()
    """The connection is closed before the first byte of the response."""
    RESET = auto()
    """The connection is reset in the middle of the body."""


def problem(status: int, **fields: object) -> bytes:
    """Return a problem document of the API's form for a status."""
    phrase = HTTPStatus(status).phrase
    return json.dumps({"title": phrase, "detail": phrase, "type": "about:blank", "status": status} | fields).encode()


@frozen(repr=False)
class Fault:
    """One fault, to script with ``FakeApi.fail``. The class methods below create them."""

    name: str
    """The call that created it, for the repr."""
    change: Callable[[Response], Response] | None = None
    """Returns the response that replaces the good one; ``None``: the good one is sent."""
    breakage: Breakage | None = None
    """How the exchange breaks; ``None``: it does not."""
    delay: float = 0.0
    """Seconds until the response is sent."""
    spends_window: bool = False
    """True if the app's window has no calls left afterwards."""
    repeats: bool = False
    """True if the app's previous response is sent once more."""

    def __repr__(self) -> str:
        return f"Fault.{self.name}"

    def changed(self, good: Response) -> Response:
        """Return the response that replaces the good one."""
        return good if self.change is None else self.change(good)

    @classmethod
    def status(
        cls,
        status: int,
        body: bytes | str | Mapping[str, object] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Self:
        """A response with this status, body and additional headers. The default body is the API's problem document."""
        if body is None:
            content = problem(status) if status in HTTPStatus._value2member_map_ else b""
        elif isinstance(body, bytes):
            content = body
        else:
            content = (body if isinstance(body, str) else json.dumps(dict(body))).encode()
        # In live captures a 401 has no headers of the window. A 5xx of the edge has none, either.
        silent = status >= 500 or status == HTTPStatus.UNAUTHORIZED

        def change(good: Response) -> Response:
            usual = {name: value for name, value in good.headers.items() if not (silent and name.startswith("x-rate-"))}
            return Response(status, usual | dict(headers or {}), content)

        return cls(f"status({status})", change)

    @classmethod
    def rate_limited(cls, *, headers: Mapping[str, str | None] | None = None) -> Self:
        """No calls are left in the 15-minute window. The 429 is also the response to later calls until the reset.

        ``headers`` replaces headers of the response, or with ``None`` removes them, to simulate a server that reports
        wrong values. Then only this response is a 429, and the window stays open.
        """

        def change(good: Response) -> Response:
            changed: dict[str, str | None] = {**good.headers, "x-rate-limit-remaining": "0", **(headers or {})}
            return Response(429, {name: value for name, value in changed.items() if value is not None}, problem(429))

        return cls("rate_limited()", change, spends_window=headers is None)

    @classmethod
    def usage_capped(cls) -> Self:
        """The monthly cap is used up: a 429 unrelated to the window."""
        return cls._problem(
            "usage_capped()",
            429,
            {
                "account_id": 1,
                "product_name": "standard-basic",
                "title": "UsageCapExceeded",
                "period": "Monthly",
                "scope": "Product",
                "detail": "Usage cap exceeded: Monthly product cap",
                "type": f"{_PROBLEMS}usage-capped",
            },
            _OTHER_WINDOW,
        )

    @classmethod
    def credits_depleted(cls) -> Self:
        """The account has no credits left: a 402."""
        return cls._problem(
            "credits_depleted()",
            402,
            {
                "account_id": 2051096097834344448,
                "title": "CreditsDepleted",
                "detail": "Your enrolled account [2051096097834344448] does not have any credits to fulfill this "
                "request.",
                "type": f"{_PROBLEMS}credits",
            },
            _OTHER_WINDOW,
        )

    @classmethod
    def spend_cap_reached(cls, reset_date: str = "2026-04-14") -> Self:
        """The console's spending limit is reached until that day: a 403."""
        return cls._problem(
            "spend_cap_reached()",
            403,
            {
                "title": "SpendCapReached",
                "detail": "Your account has reached its billing cycle spend cap. API requests will be blocked until "
                f"the next cycle begins on {reset_date}.",
                "reset_date": reset_date,
                "account_id": 1,
                "type": f"{_PROBLEMS}credits",
            },
            _OTHER_WINDOW,
        )

    @classmethod
    def html(cls, status: int = 200) -> Self:
        """An HTML page, sent by the edge instead of the API."""
        page = b"<!DOCTYPE html><html><head><title>Something went wrong</title></head><body></body></html>"

        def change(good: Response) -> Response:
            return Response(status, {"content-type": "text/html", "date": good.headers["date"]}, page)

        return cls(f"html({status})", change)

    @classmethod
    def garbled(cls) -> Self:
        """A good response whose JSON is cut in the middle."""
        return cls("garbled()", lambda good: Response(good.status, good.headers, good.body[: len(good.body) // 2]))

    @classmethod
    def empty(cls) -> Self:
        """A 200 without a body."""
        return cls("empty()", lambda good: Response(200, good.headers, b""))

    @classmethod
    def with_headers(cls, **headers: str | None) -> Self:
        """A good response with other headers. In names, ``_`` stands for ``-``; ``None`` removes one."""
        changes = {name.replace("_", "-"): value for name, value in headers.items()}

        def change(good: Response) -> Response:
            changed: dict[str, str | None] = {**good.headers, **changes}
            return Response(good.status, {k: v for k, v in changed.items() if v is not None}, good.body)

        return cls(f"with_headers({', '.join(changes)})", change)

    @classmethod
    def slow(cls, seconds: float) -> Self:
        """A good response after a delay. Together with a fast one it also arrives out of order."""
        return cls(f"slow({seconds:g})", delay=seconds)

    @classmethod
    def repeated(cls) -> Self:
        """The app's previous response once more, as from a cache."""
        return cls("repeated()", repeats=True)

    @classmethod
    def connect_error(cls) -> Self:
        """No connection: the request is never sent."""
        return cls("connect_error()", breakage=Breakage.CONNECT)

    @classmethod
    def timeout(cls) -> Self:
        """The request arrives, but no response is sent."""
        return cls("timeout()", breakage=Breakage.TIMEOUT)

    @classmethod
    def disconnected(cls) -> Self:
        """The connection ends before the response begins."""
        return cls("disconnected()", breakage=Breakage.DISCONNECT)

    @classmethod
    def reset(cls) -> Self:
        """The connection ends in the middle of the body."""
        return cls("reset()", breakage=Breakage.RESET)

    @classmethod
    def _problem(
        cls, name: str, status: int, fields: Mapping[str, object], headers: Mapping[str, str] | None = None
    ) -> Self:
        body = json.dumps(dict(fields)).encode()
        return cls(
            name,
            lambda good: Response(
                status, {**good.headers, "content-type": "application/problem+json", **(headers or {})}, body
            ),
        )
