"""RateWindow: the rules of the app's 15-minute window. Pure: time comes in as an argument."""

from __future__ import annotations

import math

from twusage.models import RateLimit

__all__ = ["RateWindow"]

LIMIT = 50
PERIOD = 900.0
DAY = 86400.0
# Of each wait, what is added to it: clocks are up to 200 ppm fast, and a little.
DRIFT = 0.00025
# Seconds of waiting after one refusal and after many: where they do not tell when to come back, this is all there is.
FIRST_BACKOFF, LAST_BACKOFF = 1.0, 60.0


class RateWindow:
    """One app's window as far as it is known. Pure: ``now`` is monotonic seconds, given by the caller.

    ===========================================  ====================================================================
    rule                                         why
    ===========================================  ====================================================================
    ``remaining - in_flight - reserve`` may go   a call under way may be counted already or not yet: count it twice;
                                                 ``reserve`` is left to other programs on the same credentials
    in an unknown window one probe goes          the server may have lowered its limit; one call finds out, not fifty
    calls of the last window stop no probe       one that hangs would keep all others from a window that is open
    of two remainders the smaller counts         answers arrive out of order
    an older reset is ignored                    that answer speaks of a window that is over
    it opens one second after its reset          the reset comes in whole seconds; waking early costs a second 429
    near its reset it is unknown as well         an answer was written between its call's sending and its coming: until
                                                 the window surely opens, one call at a time asks whether it has,
                                                 until one is lost
    the soonest that an answer tells is right    its way only makes ``server - ours`` smaller; learnt anew in each
                                                 window, and for each wait 1/4000 of it longer, because clocks drift
    an answer without a date is reckoned by      until one with a date comes: then that window is learnt anew from it
    what earlier answers told
    two probes were lost: the document counts    50 in 900 s. One may have been lost; behind more than that nobody
                                                 waits in an outage. Between 900 s after the first was sent and
                                                 900 s after the last ended nobody goes: no answer would tell
                                                 whether the window has turned
    a reset in the past is no header             it may come from a cache; after a 429 with one it waits
                                                 1 s, and half as long again each time
    a reset more than a day ahead is one window  no window of this API is that long; a probe will tell
    an unknown outcome counts as a call          it may have reached the server; until a call that was sent later tells
    a suspended machine knows nothing any more   its monotonic clock stood still; a spent window stays spent, though:
                                                 the wall clock may just have been set
    ===========================================  ====================================================================
    """

    def __init__(self, limit: int = LIMIT, period: float = PERIOD, reserve: int = 0) -> None:
        self.documented = limit
        self.period = period
        self.reserve = reserve
        self.limit = limit  # as the headers last said it
        self.began = math.inf  # when this window's first call went, if we saw it
        self.length = period  # from one window's first call to the next one's, as one showed that was seen from it
        self.sent: dict[int, float] = {}  # the tickets of calls under way, and when they went
        self.tickets = 0  # counts calls
        self.first = 1  # the first ticket of this window
        self.probe = 0  # the ticket of the probe that is under way
        self.probed_at = math.inf  # when its first probe went
        self.lost = 0  # calls of unknown end that remaining may not tell of
        self.lost_by = 0  # the newest ticket when the last of them was lost
        self.remaining: int | None = None  # None: an unknown window
        self.reset = -math.inf  # the server's clock; in an unknown window, the last one's
        self.offset = -math.inf  # the server's clock minus ours
        self.guessed = False  # whether no answer of this window has told the server's time yet
        self.ends_at = -math.inf  # our clock: until then calls surely count in this window
        self.opens_at = math.inf  # our clock: from then on surely in the next one
        self.slack = 0.0  # seconds of that which are there in case our clock is fast
        self.backoff = FIRST_BACKOFF
        self.closed_until = -math.inf

    @property
    def in_flight(self) -> int:
        """Places that are held."""
        return len(self.sent)

    def wait(self, now: float) -> float:
        """Seconds until a call may go: 0 is now, infinite is *not before another call's answer*."""
        if now >= self.opens_at:
            self._forget()
        if self.remaining is None:
            return math.inf if self.probe or len(self.sent) >= self.documented else 0.0
        free = self.remaining - self.lost - self.reserve
        if free <= 0 or (now >= self.ends_at and self.reset == -math.inf):
            return self.opens_at - now
        return 0.0 if free > len(self.sent) and (now < self.ends_at or not self.probe) else math.inf

    def take(self, now: float) -> int:
        """Take a place, if one is free: its ticket, from 1 on, or 0."""
        if self.wait(now):
            return 0
        self.tickets += 1
        self.sent[self.tickets] = now
        if self.remaining is None or now >= self.ends_at:
            self.probe, self.probed_at = self.tickets, min(self.probed_at, now)
        return self.tickets

    def give_back(self, now: float, ticket: int, *, unknown: bool) -> None:
        """End a call. ``unknown``: nothing told whether it counted, so it does."""
        sent = self.sent.pop(ticket)
        if unknown:
            self.lost, self.lost_by = self.lost + 1, self.tickets
            if self.remaining is not None and sent >= self.ends_at:
                self.remaining = 0  # it asked whether the next window is open; without its answer nobody knows
            elif self.remaining is None and self.lost > 1 and ticket == self.probe:
                self.remaining = self.documented
                self.ends_at, self.opens_at = self.probed_at + self.period, now + self.period
                self.reset = self.offset = -math.inf  # whatever they were, they made no sense of these answers
                self.backoff = FIRST_BACKOFF
        if ticket == self.probe:
            self.probe = 0

    def observe(self, now: float, ticket: int, seen: RateLimit, server_now: float, *, guessed: bool = False) -> bool:
        """Take in what an answer's headers said, before that call's ``give_back``. False: they say nothing.

        ``guessed``: the answer told no time; ``server_now`` is reckoned from what earlier ones told.
        """
        reset, offset = seen.reset_at.timestamp(), server_now - now
        dated = self.guessed and not guessed and reset == self.reset  # What was reckoned is known now.
        known, soonest = self.remaining is not None, self.offset
        if dated or offset > soonest:
            soonest = offset
        wait = reset + 1.0 - server_now
        if (known and reset < self.reset) or reset + 1.0 - soonest <= now or wait <= 0.0:
            return ticket < self.first  # an answer that is late, out of a window that is over; or else nonsense
        lost = self.lost if ticket <= self.lost_by else 0  # a call that went after them tells of them, too
        if wait > DAY:
            self.ends_at = self.opens_at = self.opens_at if known else now + self.period
        else:
            if reset > self.reset:
                self._forget()
                soonest, self.backoff, self.closed_until = offset, FIRST_BACKOFF, -math.inf
                self.guessed = guessed
                self.began = self.sent.get(ticket, now) if seen.remaining == seen.limit - 1 else math.inf
            elif dated:
                self.guessed, self.ends_at, self.opens_at = False, -math.inf, math.inf
            self.reset, self.limit, self.offset = reset, seen.limit, soonest
            ends_at = self.sent.get(ticket, now) + wait - 1.0
            if ends_at > self.ends_at:  # noqa: PLR1730 - every call comes by here, and max() costs three times as much
                self.ends_at = ends_at
            if now + wait + wait * DRIFT < self.opens_at:
                self.slack = wait * DRIFT
                self.opens_at = max(self.closed_until, now + wait + self.slack)
                if self.began < math.inf:
                    self.length = now + wait - self.began
        if self.remaining is None or seen.remaining < self.remaining:
            self.remaining = seen.remaining
        self.lost = lost
        return True

    def close(self, now: float, retry_after: float | None) -> None:
        """The server says that the window is spent."""
        if retry_after is None:
            retry_after = self.opens_at - now if math.isfinite(self.opens_at) else self.period
        if now >= self.closed_until:  # the first to be refused since it was open, not one of fifty
            backoff, self.backoff = self.backoff, min(1.5 * self.backoff, LAST_BACKOFF)
            self.closed_until = now + backoff
        self.remaining, self.slack = 0, 0.0
        self.ends_at = self.opens_at = self.closed_until = max(self.closed_until, now + retry_after)

    def suspended(self) -> None:
        """Wall and monotonic time have come apart: the machine slept, or somebody set its clock."""
        self.offset = -math.inf
        self.began = math.inf
        if self.remaining is not None and self.remaining - self.lost > self.reserve:
            self._forget()

    def _forget(self) -> None:
        if self.remaining is not None:
            self.first = self.tickets + 1
        if self.reset == -math.inf:
            self.lost = 0
        self.remaining, self.probe = None, 0
        self.ends_at, self.probed_at = -math.inf, math.inf
        self.opens_at = math.inf
        self.slack = 0.0
