"""Poller: calls the API at intervals; keeps the newest response and events."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

from attrs import frozen

from twusage.client import UsageClient
from twusage.clock import Clock
from twusage.diagnostics.page import is_from_edge
from twusage.display.html import Problem
from twusage.errors import (
    ApiError,
    AuthenticationError,
    BadRequestError,
    ClientClosedError,
    ConfigurationError,
    ConnectError,
    DecodeError,
    ForbiddenError,
    QuotaError,
    RateLimitedError,
    RequestTimeoutError,
    ServerError,
    TransportError,
    TwUsageError,
)
from twusage.models import Usage
from twusage.monitor.watch import UsageSampled, WatchEvent, watch

if TYPE_CHECKING:
    from twusage.monitor import History

__all__ = ["Failure", "Poller"]

_log = logging.getLogger("twusage")
# watch() ends at these. A server goes on: the credentials may be good again at the next poll.
_REFUSALS = (AuthenticationError, BadRequestError, ConfigurationError, ForbiddenError)
_MAX_EVENTS = 1000
_CODES: tuple[tuple[type[TwUsageError], str], ...] = (
    (AuthenticationError, "auth"),
    (ForbiddenError, "auth"),
    (ConfigurationError, "auth"),
    (QuotaError, "quota"),
    (RateLimitedError, "rate_limited"),
    (TransportError, "network"),
    (ServerError, "server"),
    (DecodeError, "decode"),
)


class _RefusalError(TwUsageError):
    """An error that does not end the watch. Its text and its JSON are those of the error itself."""

    def to_dict(self) -> dict[str, object]:
        return {"type": type(self.__cause__).__name__, "message": str(self.__cause__)}


@frozen
class Failure:
    """The failure of the newest poll."""

    error: Exception
    """The newest error."""
    since: dt.datetime
    """When the polls began to fail."""
    message: str = ""
    """What ``client.check()`` found, if it was called."""
    advice: str = ""
    """What to do, by ``client.check()``."""

    @property
    def code(self) -> str:
        """For programs: ``auth``, ``quota``, ``rate_limited``, ``network``, ``server``, ``decode``, ``other``."""
        return next((code for kind, code in _CODES if isinstance(self.error, kind)), "other")

    def problem(self, *, refused_only: bool) -> Problem:
        """The failure in words for the page.

        Args:
            refused_only: use the finding of ``client.check()`` for refused credentials only.
        """
        if self.message and (self.code == "auth" or not refused_only):
            return Problem(
                headline=_capital(self.message), since=self.since, detail=_status_of(self.error), advice=self.advice
            )
        return Problem(headline=_in_words(self.error), since=self.since)


class Poller:
    """Calls the API every ``every`` seconds. Pages and scrapes read its attributes, and so cost no call.

    Args:
        client: calls the API.
        every: seconds from one call to the next, at least 60.
        history: an open history, in which the counts and the events are kept.
    """

    def __init__(self, client: UsageClient, *, every: float = 300.0, history: History | None = None) -> None:
        self.client = client
        self.every = every
        self.history = history
        self.version = 0
        """Grows with everything that changes what a page shows."""
        self.next_at: dt.datetime | None = None
        """When the next call is due; ``None`` while one is under way."""
        self.usage: Usage | None = None
        """The newest response."""
        self.failure: Failure | None = None
        """Why the newest call failed; ``None`` if it did not."""
        self.events: list[WatchEvent] = []
        """What the watch reported, without samples, ascending."""
        self._task: asyncio.Task[None] | None = None

    @property
    def clock(self) -> Clock:
        """The client's clock."""
        return self.client.clock

    @property
    def now(self) -> dt.datetime:
        """The present instant, UTC."""
        return dt.datetime.fromtimestamp(self.clock.time(), dt.UTC)

    @property
    def stale_after(self) -> float:
        """Seconds from which on the newest response is stale."""
        return 2 * self.every + 60

    @property
    def is_alive(self) -> bool:
        """Whether the poller runs, whatever the API does."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begin to poll."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop polling, and wait until it has ended."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def get_usage(self, **keywords: Any) -> Usage:
        """One poll of the watch: the client's call, recorded."""
        self.next_at, due = None, self.now + dt.timedelta(seconds=self.every)
        self.version += 1
        try:
            usage = await self.client.get_usage(**keywords)
        except _REFUSALS as error:
            await self._record(error)
            raise _RefusalError(str(error)) from error
        except ClientClosedError:
            raise
        except Exception as error:
            await self._record(error)
            raise
        else:
            self.usage, self.failure = usage, None
            return usage
        finally:
            self.next_at = due
            self.version += 1

    async def _run(self) -> None:
        try:
            # The watch uses two members of a client, which this has.
            events = watch(cast("UsageClient", self), every=self.every, history=self.history)
            async with aclosing(events):
                async for event in events:
                    if not isinstance(event, UsageSampled):
                        self.events = [*self.events, event][-_MAX_EVENTS:]
                        self.version += 1
        except Exception as error:  # noqa: BLE001
            # A bug, or a closed client. /healthz shows it; the text of the error may hold anything.
            _log.error("the poller has ended: %s", type(error).__name__)

    async def _record(self, error: Exception) -> None:
        last, self.failure = self.failure, Failure(error, self.now)
        if last is not None:
            self.failure = Failure(error, last.since, last.message, last.advice)
            if last.code == self.failure.code and type(last.error) is type(error):
                return
        # At most one check for each kind of failure, because it costs a call of the window.
        self.failure = Failure(error, self.failure.since)
        if self.failure.code == "auth" or self.usage is None:
            self.failure = await self._explained(self.failure)

    async def _explained(self, failure: Failure) -> Failure:
        try:
            report = await self.client.check()
        except TwUsageError:
            return failure
        finding = next((each for each in report.findings if each.level == "error"), None)
        if finding is None:
            return failure
        return Failure(failure.error, failure.since, finding.message, finding.advice)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _status_of(error: Exception) -> str:
    return f"The API returns status {error.status}" if isinstance(error, ApiError) else ""


def _in_words(error: Exception) -> str:  # noqa: PLR0911 - a table
    """Return the cause as a clause before "since 13:25 UTC"."""
    match error:
        case TwUsageError() if is_from_edge(error):
            return "A page of a proxy or firewall came instead of the API's response"
        case ServerError():
            return f"The API is unavailable ({error.status})"
        case QuotaError():
            return "The API refuses the request, because the cap, the credits or the spending limit is used up"
        case RateLimitedError():
            return "No calls are left in the 15-minute window"
        case ApiError():
            return f"The API refuses the request ({error.status})"
        case RequestTimeoutError():
            return "The API does not respond in time"
        case ConnectError():
            return "There is no connection to the API"
        case TransportError():
            return "The network breaks the API's responses"
        case DecodeError():
            return "The API's response cannot be read"
        case _:
            return "The call of the API fails"
