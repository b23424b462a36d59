"""RateWindow: the rules of the app's 15-minute window. Pure: time comes in as an argument.

===============================================  =======================================================================
rule                                             reason
===============================================  =======================================================================
``remaining - in_flight - reserve`` calls may    The server may or may not have counted a call in flight: count it
start                                            twice. ``reserve`` is left to other programs on the same credentials.
An unknown window gets one probe                 The server may have lowered its limit: one call finds out, not fifty.
Calls of the last window do not block a probe    A hanging call would keep all others out of a window that is open.
The smaller ``remaining`` counts                 Responses arrive out of order.
An older reset is ignored                        That response describes a window that is over.
Only a 429 of the running window closes it       A late 429 is about the last window, not about this one.
A window opens one second after its reset        The reset comes in whole seconds; starting early costs a second 429.
Near its reset a window is probed                A response is written between the sending of its call and its arrival.
                                                 Until the next window surely opens, one call at a time finds out, until
                                                 one of them has no response.
The largest ``server - local`` offset counts     Latency only makes it smaller. It is measured in each window, and
                                                 each wait is 1/4000 longer, because clocks drift.
A response without a date uses the known offset  The first response with a date replaces what was estimated.
After two probes without a result the document   50 calls in 900 s. One probe may be lost; more than two would each cost
counts                                           a timeout in an outage. From 900 s after the first was sent until 900 s
                                                 after the last ended no call starts: no response would show whether
                                                 the window has reset.
A reset in the past is not a header              It may come from a cache. After a 429 with one, the wait is 1 s and
                                                 grows by half with each 429.
A reset more than a day ahead is one window      This API has no window of that length; a probe finds out.
An unknown outcome counts as a call              The server may have counted it, until a call that was sent later
                                                 reports ``remaining``.
After a suspend the window is unknown            The monotonic clock stood still. A used-up window stays used up,
                                                 because the wall clock may just have been set.
===============================================  =======================================================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

from attrs import Factory, define, field, fields

from twusage.models import RateLimit

__all__ = ["RateWindow"]

LIMIT = 50
PERIOD = 900.0
DAY = 86400.0
# Safety margin of each wait, as a fraction: quartz clocks drift by up to 200 ppm.
DRIFT = 0.00025
# Seconds of the wait after the first and after many 429s without the time at which the window opens.
FIRST_BACKOFF, LAST_BACKOFF = 1.0, 60.0


@define(eq=False)
class RateWindow:
    """The known state of one app's window. The module's table has its rules.

    ``now`` is the caller's clock in seconds. Fields that end in ``_at`` or ``_until`` are instants of that clock.

    Args:
        limit: calls of a window that no header describes.
        period: seconds of a window that no header describes.
        reserve: calls of every window that are left to other programs.
    """

    default_limit: int = field(default=LIMIT, alias="limit")
    period: float = PERIOD
    reserve: int = 0

    limit: int = field(init=False, default=Factory(lambda self: self.default_limit, takes_self=True))
    """Calls of a window, as the last headers reported."""
    remaining: int | None = field(init=False, default=None)
    """Calls left, as the headers reported; ``None`` is an unknown window."""
    reset: float = field(init=False, default=-math.inf)
    """Epoch seconds of the server's clock; in an unknown window, the last window's."""
    server_offset: float = field(init=False, default=-math.inf)
    """Seconds by which the server's clock is ahead of ``now``."""
    offset_is_estimated: bool = field(init=False, default=False)
    """True until a response of this window carries a date."""
    ends_at: float = field(init=False, default=-math.inf)
    """Until then a call surely counts in this window."""
    opens_at: float = field(init=False, default=math.inf)
    """From then on a call surely counts in the next window."""
    drift_margin: float = field(init=False, default=0.0)
    """Seconds that ``opens_at`` includes because our clock may be fast."""
    window_started_at: float = field(init=False, default=math.inf)
    """When this window's first call was sent, if that was one of ours."""
    length: float = field(init=False, default=Factory(lambda self: self.period, takes_self=True))
    """Seconds between the first calls of two windows, as last measured."""
    sent_at: dict[int, float] = field(init=False, factory=dict)
    """When each call in flight was sent, by ticket."""
    last_ticket: int = field(init=False, default=0)
    first_ticket: int = field(init=False, default=1)
    """The first ticket of this window."""
    probe_ticket: int = field(init=False, default=0)
    """The ticket of the probe in flight, or 0."""
    first_probe_at: float = field(init=False, default=math.inf)
    unconfirmed_calls: int = field(init=False, default=0)
    """Calls with an unknown outcome that ``remaining`` may not include."""
    unconfirmed_upto_ticket: int = field(init=False, default=0)
    """The newest ticket when the last of those calls ended."""
    backoff: float = field(init=False, default=FIRST_BACKOFF)
    """Seconds that the next 429 closes the window for at least."""
    closed_until: float = field(init=False, default=-math.inf)

    @property
    def in_flight(self) -> int:
        """Calls that hold a place."""
        return len(self.sent_at)

    @property
    def calls_per_window(self) -> int:
        """Calls of ours that one window allows."""
        return max(1, self.limit - self.reserve)

    def free_places(self, now: float) -> float:
        """Calls that a known window still allows. Infinite if one call at a time probes."""
        if self.remaining is None or now >= self.ends_at:
            return math.inf
        return self.remaining - self.unconfirmed_calls - self.reserve - len(self.sent_at)

    def server_time(self, now: float, wall_time: float) -> float:
        """The server's epoch seconds, or ``wall_time`` if no response has shown them."""
        return now + self.server_offset if math.isfinite(self.server_offset) else wall_time

    def seconds_until_free(self, now: float) -> float:
        """Seconds until a call may start. 0 is now, infinite means *after another call's response*."""
        self._roll_over(now)
        if self.remaining is None:
            return math.inf if self.probe_ticket or len(self.sent_at) >= self.default_limit else 0.0
        free = self.remaining - self.unconfirmed_calls - self.reserve
        if free <= 0 or (now >= self.ends_at and self.reset == -math.inf):
            return self.opens_at - now
        return 0.0 if free > len(self.sent_at) and (now < self.ends_at or not self.probe_ticket) else math.inf

    def acquire(self, now: float) -> int:
        """Take a place if one is free. Returns its ticket, from 1 on, or 0."""
        if self.seconds_until_free(now):
            return 0
        self.last_ticket += 1
        self.sent_at[self.last_ticket] = now
        if self.remaining is None or now >= self.ends_at:
            self.probe_ticket, self.first_probe_at = self.last_ticket, min(self.first_probe_at, now)
        return self.last_ticket

    def release(self, now: float, ticket: int, *, confirmed: bool) -> None:
        """Give a place back. Unless ``confirmed``, nothing shows whether the call counted, so it does."""
        sent_at = self.sent_at.pop(ticket)
        if not confirmed:
            self.unconfirmed_calls, self.unconfirmed_upto_ticket = self.unconfirmed_calls + 1, self.last_ticket
            if self.remaining is not None and sent_at >= self.ends_at:
                self.remaining = 0  # It was to show whether the next window is open.
            elif self.remaining is None and self.unconfirmed_calls > 1 and ticket == self.probe_ticket:
                self.remaining = self.default_limit
                self.ends_at, self.opens_at = self.first_probe_at + self.period, now + self.period
                self.reset = self.server_offset = -math.inf  # By these values the last headers were not usable.
                self.backoff = FIRST_BACKOFF
        if ticket == self.probe_ticket:
            self.probe_ticket = 0

    def observe(
        self, now: float, ticket: int, rate_limit: RateLimit, server_now: float, *, estimated: bool = False
    ) -> bool:
        """Record a response's headers, before the ``release`` of its call. False: they are not usable.

        ``estimated``: the response has no date; ``server_now`` is calculated from earlier ones.
        """
        reset, offset = rate_limit.reset_at.timestamp(), server_now - now
        corrects = self.offset_is_estimated and not estimated and reset == self.reset
        best_offset = offset if corrects else max(self.server_offset, offset)
        wait = reset + 1.0 - server_now
        known = self.remaining is not None
        if (known and reset < self.reset) or reset + 1.0 - best_offset <= now or wait <= 0.0:
            return ticket < self.first_ticket  # True: a late response of a window that is over.
        # Counted before a new window opens: only a call that was sent after them reports them.
        unconfirmed = self.unconfirmed_calls if ticket <= self.unconfirmed_upto_ticket else 0
        if wait > DAY:
            self.ends_at = self.opens_at = self.opens_at if known else now + self.period
        else:
            if reset > self.reset:
                self._open_window(now, ticket, rate_limit, estimated=estimated)
                best_offset = offset
            elif corrects:
                self.offset_is_estimated, self.ends_at, self.opens_at = False, -math.inf, math.inf
            self.reset, self.limit, self.server_offset = reset, rate_limit.limit, best_offset
            self._narrow_end(now, ticket, wait)
        self.remaining = rate_limit.remaining if self.remaining is None else min(self.remaining, rate_limit.remaining)
        self.unconfirmed_calls = unconfirmed
        return True

    def close(self, now: float, ticket: int, retry_after: float | None) -> None:
        """Record a 429: no calls are left for ``retry_after`` seconds. ``None`` means until the known reset."""
        self._roll_over(now)
        if ticket < self.first_ticket:
            return
        if retry_after is None:
            retry_after = self.opens_at - now if math.isfinite(self.opens_at) else self.period
        if now >= self.closed_until:  # The first 429 since it was open, not one of fifty.
            backoff, self.backoff = self.backoff, min(1.5 * self.backoff, LAST_BACKOFF)
            self.closed_until = now + backoff
        self.remaining, self.drift_margin = 0, 0.0
        self.ends_at = self.opens_at = self.closed_until = max(self.closed_until, now + retry_after)

    def on_suspend(self) -> None:
        """Reset what a suspend may have changed. Wall and monotonic time have diverged."""
        self.server_offset = -math.inf
        self.window_started_at = math.inf
        if self.remaining is not None and self.remaining - self.unconfirmed_calls > self.reserve:
            self._reset_to_unknown()

    def on_clock_step(self, seconds: float) -> None:
        """Move all instants by a step of the clock of ``now``."""
        self.window_started_at += seconds
        self.first_probe_at += seconds
        self.ends_at += seconds
        self.opens_at += seconds
        self.closed_until += seconds
        self.server_offset -= seconds
        self.sent_at = {ticket: sent_at + seconds for ticket, sent_at in self.sent_at.items()}

    def to_state(self) -> dict[str, Any]:
        """Return the state in JSON types, without the constructor's arguments. An infinity is null."""
        state: dict[str, Any] = {}
        for name in _STATE:
            value = getattr(self, name)
            state[name] = None if isinstance(value, float) and math.isinf(value) else value
        state["sent_at"] = {str(ticket): sent_at for ticket, sent_at in self.sent_at.items()}
        return state

    @classmethod
    def from_state(cls, state: Mapping[str, Any], limit: int = LIMIT, period: float = PERIOD, reserve: int = 0) -> Self:
        """Return a window with the state that ``to_state`` returned."""
        window = cls(limit, period, reserve)
        for name in _STATE:
            if state[name] is not None:  # Null is the field's initial value.
                setattr(window, name, state[name])
        window.sent_at = {int(ticket): sent_at for ticket, sent_at in state["sent_at"].items()}
        return window

    def _roll_over(self, now: float) -> None:
        if now >= self.opens_at:
            self._reset_to_unknown()

    def _open_window(self, now: float, ticket: int, rate_limit: RateLimit, *, estimated: bool) -> None:
        """Begin the window that a newer reset announces."""
        was_known = self.remaining is not None
        self._reset_to_unknown()
        if was_known:
            self.first_ticket = ticket
        self.backoff, self.closed_until = FIRST_BACKOFF, -math.inf
        self.offset_is_estimated = estimated
        is_first = rate_limit.remaining == rate_limit.limit - 1
        self.window_started_at = self.sent_at.get(ticket, now) if is_first else math.inf

    def _narrow_end(self, now: float, ticket: int, wait: float) -> None:
        """Narrow down this window's end and the next one's opening."""
        self.ends_at = max(self.ends_at, self.sent_at.get(ticket, now) + wait - 1.0)
        if now + wait + wait * DRIFT < self.opens_at:
            self.drift_margin = wait * DRIFT
            self.opens_at = max(self.closed_until, now + wait + self.drift_margin)
            if self.window_started_at < math.inf:
                self.length = now + wait - self.window_started_at

    def _reset_to_unknown(self) -> None:
        if self.remaining is not None:
            self.first_ticket = self.last_ticket + 1
        if self.reset == -math.inf:
            self.unconfirmed_calls = 0
        self.remaining, self.probe_ticket = None, 0
        self.ends_at, self.first_probe_at, self.opens_at = -math.inf, math.inf, math.inf
        self.drift_margin = 0.0


# Slots are set by name: the arguments of the constructor are the caller's, all else is the window's.
_STATE = tuple(each.name for each in fields(RateWindow) if not each.init)
