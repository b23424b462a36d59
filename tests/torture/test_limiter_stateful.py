"""Both limiters before a server that counts for itself. All events of a call come in any order.

One machine drives the local limiter and, on a store that is a string, the window of several processes. Below it stand
plausible bugs; the machine must find each.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import itertools
import json
import math
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from attrs import define, field
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from twusage import limiter as limiter_module
from twusage.errors import RateLimitedError, TransportError
from twusage.integrations import fleet as fleet_module
from twusage.integrations.fleet import CallReport, Exchange, FleetWindow, Place
from twusage.limiter import LocalRateLimiter, Slot
from twusage.models import RateLimit
from twusage.testing import VirtualClock
from twusage.window import RateWindow

LIMIT, LOWERED, PERIOD = 5, 2, 60.0
# Headers come; they do not; the request is never sent; the connection breaks after it was.
ENDS = st.sampled_from(["headers"] * 6 + ["silent", "refund", "broken"])


@define(eq=False)
class Window:
    """A window of the server."""

    opened: float
    limit: int
    used: int = 0
    refused: int = 0
    excused: bool = False
    """Whether other clients have called in it: then a 429 cannot be excluded."""


@define(eq=False)
class Server:
    """So many calls in a window, which begins with its first."""

    clock: VirtualClock
    limit: int = LIMIT
    windows: list[Window] = field(factory=list)

    def window(self) -> Window:
        """The one that is open now."""
        now = self.clock.time()
        if not self.windows or now >= self.windows[-1].opened + PERIOD:
            self.windows.append(Window(now, self.limit))
        return self.windows[-1]

    def arrive(self) -> tuple[Window, bool, RateLimit, float]:
        """A call arrives: whether it goes, and what its headers say."""
        window = self.window()
        goes = window.used < window.limit
        window.used += goes
        window.refused += not goes
        reset = dt.datetime.fromtimestamp(math.floor(window.opened + PERIOD), dt.UTC)
        return window, goes, RateLimit(window.limit, window.limit - window.used, reset), self.clock.time()


@define(eq=False)
class Call:
    """One call: it waits, it is on the wire, it is over."""

    number: int
    end: str
    answered: asyncio.Future[None]
    task: asyncio.Task[None] = field(init=False)
    on_the_wire: bool = False
    process: str = ""


class Processes:
    """A limiter of three processes that share a window, without a Redis. The state is a string, and polls are steps."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.state = json.dumps(self.fleet(None).to_state())
        self.waiting: dict[str, list[asyncio.Future[Place]]] = {name: [] for name in "abc"}
        self.reports: dict[str, list[CallReport]] = {name: [] for name in "abc"}
        self.received: dict[str, Place | None] = dict.fromkeys("abc")
        self.numbers = dict.fromkeys("abc", 0)
        self.turn = itertools.cycle("abc")

    @staticmethod
    def fleet(state: str | None) -> FleetWindow:
        """The shared window. No lease ends here: no process is killed."""
        arguments = (1e9, LIMIT, PERIOD)
        return FleetWindow.from_state(json.loads(state), *arguments) if state else FleetWindow(*arguments)

    def poll(self) -> None:
        """Let all processes exchange until nothing changes."""
        changed = True
        while changed:
            changed = bool(sum(self.exchange(name) for name in self.waiting))

    def exchange(self, name: str) -> bool:
        """One process reports, and takes its places. True: there was something to report or to take."""
        self.waiting[name] = [waiter for waiter in self.waiting[name] if not waiter.done()]
        reports, self.reports[name] = tuple(self.reports[name]), []
        self.numbers[name] += 1
        now, wanted = self.clock.monotonic(), len(self.waiting[name])
        request = Exchange(name, self.numbers[name], now, wanted, self.received[name], reports)
        fleet = self.fleet(self.state)
        reply = fleet.exchange(now, request)
        if reply.must_save:
            self.state = json.dumps(fleet.to_state())
        for place in reply.places:
            self.received[name] = place
            if self.waiting[name]:
                self.waiting[name].pop(0).set_result(place)
            else:
                self.reports[name].append(CallReport(place, now, 0.0, confirmed=True))
        return bool(reply.places or reports)

    @contextlib.asynccontextmanager
    async def slot(self, name: str) -> AsyncIterator[Slot]:
        """A place of this process."""
        granted: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        self.waiting[name].append(granted)
        try:
            await granted
        except asyncio.CancelledError:
            if not granted.cancelled():
                self.reports[name].append(CallReport(granted.result(), self.clock.monotonic(), 0.0, confirmed=True))
            raise
        slot = ReportingSlot()
        try:
            yield slot
        finally:
            report = {"confirmed": False, **slot.report}
            self.reports[name].append(CallReport(granted.result(), self.clock.monotonic(), 0.0, **report))


class ReportingSlot:
    """Collects the data of a call's report."""

    waited = 0.0

    def __init__(self) -> None:
        self.report: dict[str, Any] = {}

    def observe(self, rate_limit: RateLimit | None, server_now: float | None) -> None:
        self.report.update(rate_limit=rate_limit, server_now=server_now)

    def close_window(self, retry_after: float | None) -> None:
        self.report.update(confirmed=True, closed=True, retry_after=retry_after)

    def refund(self) -> None:
        self.report.update(confirmed=True)

    def fail(self, error: TransportError) -> None:
        self.report.update(confirmed=True, failure=error)


class LimiterBeforeServer(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = VirtualClock(auto=False)
        self.server = Server(self.clock)
        self.start()
        self.calls: list[Call] = []
        self.overtaken: list[Call] = []
        self.document_counted_at = -math.inf

    def start(self) -> None:
        """Make the limiter."""
        self.limiter = LocalRateLimiter(clock=self.clock, limit=LIMIT, period=PERIOD)

    def slot(self, call: Call, max_wait: float) -> contextlib.AbstractAsyncContextManager[Slot]:
        """A place for this call."""
        return self.limiter.slot("app", max_wait=max_wait)

    @property
    def window(self) -> RateWindow | None:
        """The limiter's window, as it is now."""
        queue = self.limiter._queues.get("app")
        return None if queue is None else queue.window

    def next_process(self) -> str:
        """The process of the next call."""
        return ""

    async def settle(self) -> None:
        """Let everything run until all wait again."""
        await self.clock.advance(0.0)

    async def close(self) -> None:
        """Close what the limiter has opened."""

    # -- What is what --------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> list[Call]:
        return [call for call in self.calls if not call.on_the_wire and not call.task.done()]

    @property
    def on_the_wire(self) -> list[Call]:
        return [call for call in self.calls if call.on_the_wire]

    @property
    def document_counts(self) -> bool:
        """Whether two probes have reported nothing. Then only the document's limits are known, no lowered ones."""
        window = self.window
        return window is not None and window.remaining is not None and window.reset == -math.inf

    def do(self, what: Coroutine[Any, Any, None] | None = None) -> None:
        """Do it, and let everything run until all wait again."""

        async def do() -> None:
            if what is not None:
                await what
            await self.settle()

        self.loop.run_until_complete(do())

    async def live(self, call: Call, max_wait: float) -> None:
        """The whole life of a call."""
        async with self.slot(call, max_wait) as slot:
            self.overtaken += [
                other for other in self.waiting if other.number < call.number and other.process == call.process
            ]
            call.on_the_wire = True
            try:
                if call.end == "refund":
                    await call.answered
                    slot.refund()
                    return
                window, goes, headers, date = self.server.arrive()
                # A call that was granted before the first headers arrived may start after them, in the same instant.
                documented = self.document_counts or self.document_counted_at == self.clock.monotonic()
                assert goes or window.excused or (window.limit < LIMIT and documented), (
                    f"the server got more than the {window.limit} that it allows"
                )
                await call.answered
                if self.document_counts:
                    self.document_counted_at = self.clock.monotonic()
                if call.end == "headers" or not goes:
                    slot.observe(headers, date)
                if not goes:
                    slot.close_window(headers.reset_at.timestamp() + 1 - date)
                elif call.end == "silent":
                    slot.observe(None, date)
            finally:
                call.on_the_wire = False

    # -- What happens --------------------------------------------------------------------------------------------------

    @rule(
        end=ENDS,
        max_wait=st.sampled_from([math.inf, math.inf, 30.0]),
        count=st.sampled_from([1, 1, 2, 7]),
        busy=st.sampled_from([0.0, 0.0, 0.0, 1.0, 62.0]),
    )
    def acquire(self, end: str, max_wait: float, count: int, busy: float) -> None:
        """Calls arrive, perhaps after the loop was busy and before the queue has read the clock."""
        self.clock._monotonic += busy
        for _ in range(count):
            call = Call(len(self.calls), end, self.loop.create_future(), process=self.next_process())
            call.task = self.loop.create_task(self.live(call, max_wait))
            self.calls.append(call)
        self.do()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """One that waits is cancelled."""
        data.draw(st.sampled_from(self.waiting), label="who").task.cancel()
        self.do()

    @precondition(lambda self: self.on_the_wire)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        """One that is on the wire is cancelled. It may have counted or not."""
        call = data.draw(st.sampled_from(self.on_the_wire), label="who")
        call.task.cancel()
        self.do()

    @precondition(lambda self: self.on_the_wire)
    @rule(data=st.data())
    def respond(self, data: st.DataObject) -> None:
        """A response arrives, or a failure: of any call, so in any order."""
        data.draw(st.sampled_from(self.on_the_wire), label="who").answered.set_result(None)
        self.do()

    @rule()
    def respond_to_all(self) -> None:
        """All answers come, in the order of the calls."""
        for call in self.on_the_wire:
            call.answered.set_result(None)
        self.do()

    @precondition(lambda self: self.waiting and self.on_the_wire)
    @rule(data=st.data(), ticks=st.integers(-1, 3))
    def cancel_in_the_tick_of_the_grant(self, data: st.DataObject, ticks: int) -> None:
        """A response arrives, and the first waiter is cancelled just before the grant, or just after."""
        first = self.waiting[0]
        data.draw(st.sampled_from(self.on_the_wire), label="whose answer").answered.set_result(None)
        if ticks < 0:
            first.task.cancel()

        async def cancel() -> None:
            for _ in range(ticks):
                await asyncio.sleep(0)
            if not first.on_the_wire:
                first.task.cancel()

        self.do(cancel())

    @rule(seconds=st.sampled_from([0.5, 1.0, 10.0, 59.0, 59.5, 60.0, 61.0, 62.0, 300.0]))
    def pass_time(self, seconds: float) -> None:
        """Time passes."""
        self.do(self.clock.advance(seconds))

    @rule(limit=st.sampled_from([LIMIT, LOWERED]))
    def change_the_limit(self, limit: int) -> None:
        """From the next window on."""
        self.server.limit = limit

    @rule(calls=st.sampled_from([1, LIMIT]))
    def others_call(self, calls: int) -> None:
        """Another program calls with the same credentials."""
        window = self.server.window()
        window.excused = True
        window.used = min(window.limit, window.used + calls)

    # Two scenes that random steps rarely compose.

    @rule()
    def a_refusal_comes_late(self) -> None:
        """A call meets a window that others have used up, and its 429 arrives after the next window's first headers."""
        self.acquire("headers", math.inf, 1, 0.0)
        self.respond_to_all()
        self.others_call(LIMIT)
        self.acquire("headers", math.inf, 1, 0.0)
        self.pass_time(62.0)
        self.acquire("headers", math.inf, 1, 0.0)
        for call in reversed(self.on_the_wire):
            call.answered.set_result(None)
            self.do()

    @rule()
    def a_call_waits_for_the_next_window(self) -> None:
        """More calls come than the window allows, and time passes until shortly before it opens."""
        self.pass_time(0.5)
        self.acquire("headers", math.inf, LIMIT + 1, 0.0)
        for _ in range(2):
            self.respond_to_all()
        self.pass_time(59.5)

    # -- What must hold ------------------------------------------------------------------------------------------------

    @invariant()
    def places_are_who_holds_them(self) -> None:
        """No place is lost, and none is held twice."""
        window = self.window
        if window is not None:
            assert window.in_flight == len(self.on_the_wire), "places are not those that are held"
            free = not window.seconds_until_free(self.clock.monotonic())
            assert not (self.waiting and free), "a place is free, and no call starts"

    @invariant()
    def a_window_is_closed_by_its_own_429(self) -> None:
        """A late one was sent in the last window."""
        window, last = self.window, self.server.windows[-1] if self.server.windows else None
        if window is not None and last is not None and window.reset == math.floor(last.opened + PERIOD):
            assert last.refused or window.closed_until == -math.inf, "a late 429 has closed the new window"

    @invariant()
    def first_come_first_served(self) -> None:
        """A waiter that a later call overtook got a place in the same instant, or was cancelled in it."""
        assert not [call for call in self.overtaken if call in self.waiting], "it has overtaken another"
        self.overtaken.clear()

    @invariant()
    def nothing_fails(self) -> None:
        """A call ends normally, by a cancellation, or because it may not wait so long."""
        for call in self.calls:
            if call.task.done() and not call.task.cancelled() and (error := call.task.exception()):
                if not isinstance(error, RateLimitedError):
                    raise error
                assert call.number >= 0

    def teardown(self) -> None:
        """When responses arrive and time passes, every waiter is served, and nothing runs on."""
        try:
            for _ in range(2 * len(self.calls) + 10):
                for call in self.on_the_wire:
                    call.answered.set_result(None)
                self.do(self.clock.advance(PERIOD + 3.0))
                self.nothing_fails()
                self.first_come_first_served()
            assert not self.waiting, "a call waits for ever"
            assert not self.on_the_wire
            assert not asyncio.all_tasks(self.loop), "a task is left behind"
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.do()
            for call in self.calls:  # whatever they ended with has been seen
                _ = call.task.cancelled() or call.task.exception()
            self.loop.run_until_complete(self.close())
            self.loop.close()


class ProcessesBeforeServer(LimiterBeforeServer):
    """The same with three processes, whose calls wait without a limit."""

    def start(self) -> None:
        self.processes = Processes(self.clock)

    def slot(self, call: Call, max_wait: float) -> contextlib.AbstractAsyncContextManager[Slot]:
        return self.processes.slot(call.process)

    def next_process(self) -> str:
        return next(self.processes.turn)

    @property
    def window(self) -> RateWindow:
        return self.processes.fleet(self.processes.state).window

    async def settle(self) -> None:
        for _ in range(3):  # a place that a cancelled call was granted goes to the next one
            await self.clock.advance(0.0)
            self.processes.poll()
        await self.clock.advance(0.0)


PLAN = settings(
    max_examples=300,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("machine", [LimiterBeforeServer, ProcessesBeforeServer], ids=["local", "processes"])
def test_everybody_is_served_and_the_server_never_gets_too_much(machine: type[LimiterBeforeServer]) -> None:
    """In whatever order calls come, go, are answered, cancelled and lost."""
    # Each exchange of a process loads the state again, which takes its time.
    plan = PLAN if machine is LimiterBeforeServer else settings(PLAN, max_examples=60)
    run_state_machine_as_test(machine, settings=plan)


# -- Seeded bugs -------------------------------------------------------------------------------------------------------
#
#   bug                   what is wrong                                           what finds it
#   --------------------  ------------------------------------------------------  -----------------------------
#   LostPlace             cancelled in the tick of the grant: its place is gone   places are not those held
#   GrantToTheCancelled   who was cancelled a moment ago gets the place           places are not those held
#   LastComeFirstServed   the queue is a stack                                    overtaken
#   Overtaking            a new call takes a free place before waiters            overtaken
#   NewestCounts          of two remainders the newer one counts                  more than the server allows
#   OnTheWireIsForgotten  calls under way are not counted                         more than the server allows
#   NoProbe               a window that nothing is known of is taken to be full   more than allowed, or for ever
#   OpensAtTheReset       and not a second later                                  more than the server allows
#   UnknownIsFree         a call without a response does not count               more than the server allows
#   LateAnswersCount      a response of an older window is believed              more than the server allows
#   DeadProbe             a probe that dies leaves all others waiting             a call waits for ever
#   NoTimer               no timer wakes the waiters at the reset                 a place is free, a call waits
#   LateRefusalCounts     a 429 of the last window closes this one                a late 429 has closed
#   RefundWakesNoWaiter   a place that is given back stays empty                  a place is free, a call waits


class _Queue(limiter_module._AppQueue):
    """With the loop that grants places replaceable."""

    def _grant(self, now: float) -> None:
        """Give away what is free."""

    def _grant_places(self) -> None:
        self._grant(self._now())
        super()._grant_places()


class LostPlace(limiter_module._AppQueue):
    async def wait_for_place(self, max_wait: float, on_wait: Callable[..., None] | None) -> tuple[int, float]:
        waiter = limiter_module.Waiter(max_wait, 0.0, on_wait)
        self._waiting.add(waiter)
        try:
            self._grant_places()
            return await waiter.granted, 0.0
        finally:
            self._waiting.discard(waiter)
            self._grant_places()


class GrantToTheCancelled(_Queue):
    def _grant(self, now: float) -> None:
        waiting = self._waiting._waiting
        while waiting and (ticket := self.window.acquire(now)):
            first, _ = waiting.popitem(last=False)
            if not first.granted.done():
                first.granted.set_result(ticket)


class LastComeFirstServed(_Queue):
    def _grant(self, now: float) -> None:
        waiting = self._waiting._waiting
        while waiting and not next(reversed(waiting)).granted.done() and (ticket := self.window.acquire(now)):
            waiting.popitem()[0].granted.set_result(ticket)


class Overtaking(limiter_module._AppQueue):
    def try_acquire(self) -> int:
        return self.window.acquire(self._now())


class NoTimer(limiter_module._AppQueue):
    def _arm_timer(self, at: float) -> None:
        pass


class RefundWakesNoWaiter(limiter_module._AppQueue):
    def release(self, ticket: int, *, confirmed: bool, **_: Any) -> None:
        self.window.release(self.clock.monotonic(), ticket, confirmed=confirmed)


class NewestCounts(RateWindow):
    def observe(
        self, now: float, ticket: int, rate_limit: RateLimit, server_now: float, *, estimated: bool = False
    ) -> bool:
        headers = super().observe(now, ticket, rate_limit, server_now, estimated=estimated)
        if rate_limit.reset_at.timestamp() == self.reset and self.remaining is not None:
            self.remaining = rate_limit.remaining
        return headers


class OnTheWireIsForgotten(RateWindow):
    def seconds_until_free(self, now: float) -> float:
        held, self.sent_at = self.sent_at, {}
        wait = super().seconds_until_free(now)
        self.sent_at = held
        return wait


class NoProbe(RateWindow):
    def _reset_to_unknown(self) -> None:
        super()._reset_to_unknown()
        self.remaining, self.ends_at = self.limit, math.inf


class OpensAtTheReset(RateWindow):
    def observe(
        self, now: float, ticket: int, rate_limit: RateLimit, server_now: float, *, estimated: bool = False
    ) -> bool:
        headers = super().observe(now, ticket, rate_limit, server_now, estimated=estimated)
        self.opens_at = min(self.opens_at, now + rate_limit.reset_at.timestamp() - server_now)
        return headers


class UnknownIsFree(RateWindow):
    def release(self, now: float, ticket: int, *, confirmed: bool) -> None:
        super().release(now, ticket, confirmed=True)


class LateAnswersCount(RateWindow):
    def observe(
        self, now: float, ticket: int, rate_limit: RateLimit, server_now: float, *, estimated: bool = False
    ) -> bool:
        self.reset = self.server_offset = -math.inf
        return super().observe(now, ticket, rate_limit, server_now, estimated=estimated)


class LateRefusalCounts(RateWindow):
    def close(self, now: float, ticket: int, retry_after: float | None) -> None:
        super().close(now, max(ticket, self.first_ticket), retry_after)


class DeadProbe(RateWindow):
    def release(self, now: float, ticket: int, *, confirmed: bool) -> None:
        probe = self.probe_ticket
        super().release(now, ticket, confirmed=confirmed)
        if not confirmed and self.remaining is None:
            self.probe_ticket = probe


FOUND_BY = {
    LostPlace: "places are not those that are held|a call waits for ever",
    GrantToTheCancelled: "places are not those that are held|a call waits for ever",
    LastComeFirstServed: "it has overtaken another",
    Overtaking: "it has overtaken another",
    NewestCounts: "more than the . that it allows",
    OnTheWireIsForgotten: "more than the . that it allows",
    NoProbe: "more than the . that it allows|a call waits for ever",
    OpensAtTheReset: "more than the . that it allows",
    UnknownIsFree: "more than the . that it allows",
    LateAnswersCount: "more than the . that it allows",
    LateRefusalCounts: "a late 429 has closed the new window|more than the . that it allows",
    DeadProbe: "a call waits for ever",
    NoTimer: "a place is free, and no call starts|a call waits for ever",
    RefundWakesNoWaiter: "a place is free, and no call starts|a call waits for ever",
}


@pytest.mark.parametrize("bug", FOUND_BY, ids=lambda bug: bug.__name__)
def test_the_machine_finds_seeded_bugs(bug: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by the property that it breaks, in the same cases that the limiter itself passes."""
    monkeypatch.setattr(limiter_module, "RateWindow" if issubclass(bug, RateWindow) else "_AppQueue", bug)
    finds(bug, LimiterBeforeServer)


@pytest.mark.parametrize("bug", [bug for bug in FOUND_BY if issubclass(bug, RateWindow)], ids=lambda bug: bug.__name__)
def test_the_machine_finds_the_windows_bugs_among_processes(bug: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """They have the same rules."""
    monkeypatch.setattr(fleet_module, "RateWindow", bug)
    finds(bug, ProcessesBeforeServer)


def finds(bug: type[Any], machine: type[LimiterBeforeServer], *, examples: int = 2000) -> None:
    """Run the machine until it fails for that reason."""
    plan = settings(PLAN, max_examples=examples, phases=[Phase.generate], report_multiple_bugs=False)
    with pytest.raises(AssertionError, match=FOUND_BY[bug]):
        run_state_machine_as_test(machine, settings=plan)
