"""FleetWindow: one app's window, shared by several processes. Pure.

Time is an argument, and a store keeps the state.

===============================================  =======================================================================
rule, besides those of ``RateWindow``            reason
===============================================  =======================================================================
A place is a lease with an end                   A killed process releases nothing. Its call counts, and another probe
                                                 replaces a dead one.
A process draws one turn for all its waiters     First come first served among processes. Calls that come later are on
                                                 the process's next turn, so that no process takes all places.
An exchange serves all turns                     One process writes the places of all, and the others find theirs by
                                                 reading: fifty at the same instant would outrun each other's writes.
Any process gets the probe's place               Waiting for the first in line could stall all.
A turn that is late by 250 ms is passed over;    A process that was killed while it waited does not block the others. So
after 10 s it is dropped                         a process announces its next exchange, and is on time.
A probe's failure is counted                     A process whose waiters waited for that probe ends their wait with the
                                                 failure: see ``limiter.Slot.fail``.
Places stay until they are acknowledged, and     A reply may be lost: the process repeats the exchange, and gets the
an exchange has a number                         same places; no report counts twice.
A store whose clock steps back moves the state   Each instant keeps its distance from now.
===============================================  =======================================================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Self, TypeAlias

from attrs import define, field, frozen

from twusage.errors import TransportError
from twusage.models import RateLimit
from twusage.window import DAY, LIMIT, PERIOD, RateWindow

__all__ = ["CallReport", "Exchange", "FleetWindow", "Place", "Reply"]

FORMAT = 1
# Seconds between two exchanges of a waiting process: while it waits for another call's response, and at most.
POLL, MAX_PAUSE = 0.05, 5.0
# Seconds for which a polling process's turn counts, so that 20 exchanges a second need not write it each time.
POLL_TURN = 4.0
# Seconds without an exchange after which a process's turn is passed over, and dropped.
SKIP_AFTER, DROP_AFTER = 0.25, 10.0
# Processes that wait for the same opening are spread: seconds per place ahead, and at most.
STAGGER, MAX_STAGGER = 0.002, 0.2

Place: TypeAlias = tuple[float, int]
"""When the state was created, and a ticket: after a flush, tickets begin again at 1."""


@frozen
class CallReport:
    """The outcome of a call, by the clocks of its process."""

    place: Place | None
    """``None`` for a call that started without the store."""
    ended_at: float
    """Monotonic seconds."""
    wall_time: float
    confirmed: bool
    rate_limit: RateLimit | None = None
    server_now: float | None = None
    closed: bool = False
    retry_after: float | None = None
    failure: TransportError | None = None


@frozen
class Exchange:
    """The reports and the wishes of a process."""

    process: str
    number: int
    sent_at: float
    """Monotonic seconds of the process."""
    wanted: int
    """Calls that wait for a place; 0 gives up the process's turn."""
    received: Place | None = None
    """The newest place that it has received."""
    reports: tuple[CallReport, ...] = ()
    leaving: bool = False
    must_save: bool = False
    """Write even an unchanged state, to check that the store is writable."""


@frozen
class Reply:
    """The store's reply to an exchange."""

    places: tuple[Place, ...]
    ahead: int
    """Places that other processes get before this one."""
    wait: float | None
    """Seconds until the window opens, if this process has to wait for that."""
    pause: float
    """Seconds until its next exchange."""
    opens_in: float | None
    rate_limit: RateLimit | None
    server_now: float | None
    calls_per_window: int
    window_length: float
    processes: int
    failed_probes: int
    failure: str
    must_save: bool


@define
class _Turn:
    places: int
    due_at: float
    """The time of the process's next exchange."""


@define
class _Process:
    seen_at: float = -math.inf
    exchange: int = 0
    """The number of its last exchange."""
    tickets: list[int] = field(factory=list)
    """The granted places that it has not acknowledged."""


@define(eq=False)
class FleetWindow:
    """The shared state of one app's window. ``now`` is the store's clock.

    Args:
        lease: seconds for which a place is held at most.
        limit: calls of a window that no header describes.
        period: seconds of a window that no header describes.
        reserve: calls of each window that are left to other programs.
    """

    lease: float
    limit: int = LIMIT
    period: float = PERIOD
    reserve: int = 0
    window: RateWindow = field(init=False)
    created_at: float = field(init=False, default=-math.inf)
    updated_at: float = field(init=False, default=-math.inf)
    leases: dict[int, float] = field(init=False, factory=dict)
    """The end of each ticket's lease."""
    turns: dict[str, _Turn] = field(init=False, factory=dict)
    """By process, in the order in which they were drawn."""
    processes: dict[str, _Process] = field(init=False, factory=dict)
    failed_probes: int = field(init=False, default=0)
    failure: str = field(init=False, default="")

    def __attrs_post_init__(self) -> None:
        self.window = RateWindow(self.limit, self.period, self.reserve)

    def exchange(self, now: float, request: Exchange) -> Reply:
        """Apply the reports, grant places, and reply."""
        self._follow_clock(now)
        self._end_leases(now)
        process = self.processes.setdefault(request.process, _Process())
        received = self._ticket(request.received)
        process.tickets = [ticket for ticket in process.tickets if ticket > received and ticket in self.leases]
        is_new, must_save = process.exchange < request.number, request.must_save
        if is_new:
            for report in request.reports:
                self._record(now - max(0.0, request.sent_at - report.ended_at), report)
            must_save |= bool(request.reports) | self._update_turn(now, request)
        must_save |= self._serve(now, request.process)
        if is_new and self._update_turn(now, request):  # The turn is over, but not the waiters: they draw the next one.
            self._serve(now, request.process)
        reply = self._reply(now, request.process, process.tickets, must_save=must_save)
        process.seen_at, process.exchange = now, max(process.exchange, request.number)
        if request.leaving:
            del self.processes[request.process]
            self.turns.pop(request.process, None)
        return reply

    def lifetime(self, now: float) -> float:
        """Return the seconds after which the state is obsolete."""
        ahead = self.window.opens_at - now
        return max(self.period, ahead if ahead < math.inf else 0.0) + self.period + self.lease

    def to_state(self) -> dict[str, Any]:
        """Return the state in JSON types."""
        return {
            "format": FORMAT,
            "window": self.window.to_state(),
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "leases": {str(ticket): ends_at for ticket, ends_at in self.leases.items()},
            "turns": {name: [turn.places, turn.due_at] for name, turn in self.turns.items()},
            "processes": {
                name: [process.seen_at, process.exchange, process.tickets] for name, process in self.processes.items()
            },
            "failed_probes": self.failed_probes,
            "failure": self.failure,
        }

    @classmethod
    def from_state(
        cls, state: Mapping[str, Any], lease: float, limit: int = LIMIT, period: float = PERIOD, reserve: int = 0
    ) -> Self:
        """Return a window with a state of ``to_state``. Raises ``ValueError`` for another format."""
        if state["format"] != FORMAT:
            raise ValueError("the state was written by another version of twusage")
        fleet = cls(lease, limit, period, reserve)
        fleet.window = RateWindow.from_state(state["window"], limit, period, reserve)
        fleet.created_at, fleet.updated_at = state["created_at"], state["updated_at"]
        fleet.leases = {int(ticket): ends_at for ticket, ends_at in state["leases"].items()}
        fleet.turns = {name: _Turn(*turn) for name, turn in state["turns"].items()}
        fleet.processes = {name: _Process(*process) for name, process in state["processes"].items()}
        fleet.failed_probes, fleet.failure = state["failed_probes"], state["failure"]
        return fleet

    def _follow_clock(self, now: float) -> None:
        step = now - self.updated_at
        if step == math.inf:
            self.created_at = now
        elif step < 0:
            self.window.on_clock_step(step)
            self.leases = {ticket: ends_at + step for ticket, ends_at in self.leases.items()}
            for turn in self.turns.values():
                turn.due_at += step
            for process in self.processes.values():
                process.seen_at += step
        self.updated_at = now

    def _end_leases(self, now: float) -> None:
        for ticket in [ticket for ticket, ends_at in self.leases.items() if ends_at <= now]:
            del self.leases[ticket]
            self.window.release(now, ticket, confirmed=False)
        gone = now - self.period - self.lease
        for name in [name for name, process in self.processes.items() if process.seen_at <= gone]:
            del self.processes[name]
            self.turns.pop(name, None)

    def _ticket(self, place: Place | None) -> int:
        """The place's ticket, or 0 if this state did not grant it."""
        return place[1] if place is not None and place[0] == self.created_at else 0

    def _record(self, at: float, report: CallReport) -> None:
        ticket = self._ticket(report.place)
        holds = ticket in self.leases
        if not ticket:  # Granted elsewhere: assume a call of the running window.
            ticket = max(self.window.first_ticket, self.window.last_ticket)
        confirmed = report.confirmed
        if report.rate_limit is not None:
            server_now = report.server_now
            estimated = server_now is None
            server_now = self.window.server_time(at, report.wall_time) if server_now is None else server_now
            confirmed |= self.window.observe(at, ticket, report.rate_limit, server_now, estimated=estimated)
        if report.closed:
            self.window.close(at, ticket, report.retry_after and min(report.retry_after, DAY))
        if holds:
            if report.failure is not None and ticket == self.window.probe_ticket:
                self.failed_probes, self.failure = self.failed_probes + 1, str(report.failure)
            del self.leases[ticket]
            self.window.release(at, ticket, confirmed=confirmed)

    def _update_turn(self, now: float, request: Exchange) -> bool:
        """Adapt the process's turn to its waiters, and return whether it changed."""
        name, turn = request.process, self.turns.get(request.process)
        waiting = request.wanted - len(self.processes[name].tickets)
        if waiting <= 0:
            return self.turns.pop(name, None) is not None
        if turn is None:
            self.turns[name] = _Turn(waiting, now + POLL_TURN)
        elif waiting < turn.places:
            turn.places = waiting
        elif turn.due_at < now + POLL_TURN / 2:
            turn.due_at = now + POLL_TURN
        else:
            return False
        return True

    def _serve(self, now: float, requester: str) -> bool:
        """Grant free places to the turns in order; return whether any existed."""
        served = False
        for name, turn in list(self.turns.items()):
            if turn.due_at + DROP_AFTER < now:
                del self.turns[name]
            if turn.due_at + SKIP_AFTER < now or (name != requester and self.window.free_places(now) == math.inf):
                continue
            while turn.places and (ticket := self.window.acquire(now)):
                self.leases[ticket] = now + self.lease
                self.processes[name].tickets.append(ticket)
                turn.places -= 1
                served = True
            if not turn.places:
                del self.turns[name]
        return served

    def _places_ahead(self, now: float, name: str) -> int:
        places = 0
        for other, turn in self.turns.items():
            if other == name:
                break
            if turn.due_at + SKIP_AFTER >= now:
                places += turn.places
        return places

    def _reply(self, now: float, name: str, tickets: list[int], *, must_save: bool) -> Reply:
        window, turn = self.window, self.turns.get(name)
        ahead, wait = self._places_ahead(now, name), window.seconds_until_free(now)
        known = 0.0 < wait < math.inf
        # While a probe is in flight, all processes together exchange at most a thousand times a second.
        pause = max(POLL, len(self.turns) / 1000)
        if known:
            pause = min(wait + min(MAX_STAGGER, ahead * STAGGER), MAX_PAUSE)
            if turn is not None and turn.due_at < now + pause:
                # Half the wait: most exchanges need no write, and the live processes are known shortly before it opens.
                turn.due_at, must_save = now + max(pause, wait / 2), True
        rate_limit = None
        if window.remaining is not None and window.reset > -math.inf:
            reset_at = datetime.fromtimestamp(window.reset, UTC)
            rate_limit = RateLimit(window.limit, max(0, window.remaining - window.unconfirmed_calls), reset_at)
        return Reply(
            places=tuple((self.created_at, ticket) for ticket in tickets),
            ahead=ahead,
            wait=wait if known else None,
            pause=pause,
            opens_in=window.opens_at - now if window.opens_at < math.inf else None,
            rate_limit=rate_limit,
            server_now=now + window.server_offset if window.server_offset > -math.inf else None,
            calls_per_window=window.calls_per_window,
            window_length=window.length + window.drift_margin,
            processes=len(self.processes),
            failed_probes=self.failed_probes,
            failure=self.failure,
            must_save=must_save,
        )
