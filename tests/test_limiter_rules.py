"""LocalRateLimiter's finer points: what mutation testing found that no other test would have noticed."""

from __future__ import annotations

import asyncio
import gc
import math
import weakref
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from twusage import (
    ConfigurationError,
    LocalRateLimiter,
    RateLimit,
    RateLimitedError,
    RateWindow,
    Request,
    Response,
    RetryPolicy,
    SystemClock,
    UsageClient,
    Wait,
)
from twusage.limiter import Slot, default_limiter
from twusage.protocol import authorize, usage_request
from twusage.testing import FakeApi, FakeTransport, VirtualClock

APP = "app"


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def limiter(clock: VirtualClock) -> LocalRateLimiter:
    return LocalRateLimiter(clock=clock)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def call(limiter: LocalRateLimiter, answer: Callable[[Slot], None], **keywords: object) -> float:
    """A call whose answer shows this to its slot; the seconds that it waited."""
    async with limiter.slot(APP, **keywords) as slot:  # type: ignore[arg-type]
        answer(slot)
    return slot.waited


def silent(_: Slot) -> None:
    """An answer that says nothing."""


def left(clock: VirtualClock, remaining: int, *, limit: int = 50) -> Callable[[Slot], None]:
    """An answer whose headers say that so many calls are left, and the window ends in 900 s."""
    return lambda slot: slot.observe(RateLimit(limit, remaining, clock.now() + timedelta(seconds=900)), clock.time())


def closed(seconds: float) -> Callable[[Slot], None]:
    """A 429 that asks for so many seconds."""
    return lambda slot: slot.close_window(seconds)


async def test_a_refusal_before_any_header_has_none(limiter: LocalRateLimiter) -> None:
    """What was never seen is None; and what is left of no patience is 0 s."""
    await call(limiter, lambda slot: slot.close_window(None))
    with pytest.raises(RateLimitedError, match="max_wait leaves 0 s") as caught:
        await call(limiter, silent, max_wait=0.0)
    assert caught.value.rate_limit is None
    assert caught.value.retry_after == 900.0


async def test_a_slot_knows_how_long_it_was_waited_for(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """From when it was asked for, whatever the clock said then."""
    await clock.sleep(100.0)
    await call(limiter, closed(50.0))
    await clock.sleep(10.0)
    assert await call(limiter, silent) == 40.0


async def test_a_probe_that_is_cancelled_as_it_is_let_go_leaves_its_turn(limiter: LocalRateLimiter) -> None:
    """In an unknown window one call goes. Cancelled in the very tick, it is the next one's turn at once."""
    first = limiter.slot(APP)
    await first.__aenter__()
    second, third = (asyncio.create_task(call(limiter, silent)) for _ in range(2))
    await settle()
    await first.__aexit__(None, None, None)
    second.cancel()
    await settle()
    assert second.cancelled()
    assert third.done()
    await third


async def test_the_last_waiter_leaves_no_timer_behind(limiter: LocalRateLimiter) -> None:
    """Who comes in the tick in which the queue became empty waits as any other."""
    await call(limiter, closed(50.0))
    first = asyncio.create_task(call(limiter, silent))
    await settle()
    first.cancel()
    second = asyncio.create_task(call(limiter, silent))
    assert await second == 50.0
    assert first.cancelled()
    await settle()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_wait_is_told_again_when_it_changes(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """By more than a second. Less is nobody's matter, not even of those who have no more patience."""
    told: dict[str, list[float]] = {"early": [], "late": []}
    await call(limiter, left(clock, 10))
    first, second = limiter.slot(APP), limiter.slot(APP)
    await first.__aenter__()
    await second.__aenter__()
    await call(limiter, closed(1000.0))
    impatient = asyncio.create_task(call(limiter, silent, max_wait=1000.5))
    early = asyncio.create_task(call(limiter, silent, on_wait=lambda wait: told["early"].append(wait.seconds)))
    await settle()
    first.close_window(1001.0)
    await first.__aexit__(None, None, None)
    late = asyncio.create_task(call(limiter, silent, on_wait=lambda wait: told["late"].append(wait.seconds)))
    await settle()
    assert told == {"early": [1000.0], "late": [1001.0]}
    assert not impatient.done()
    second.close_window(1002.0)
    await second.__aexit__(None, None, None)
    assert told == {"early": [1000.0, 1002.0], "late": [1001.0]}
    with pytest.raises(RateLimitedError):
        await impatient
    assert [await early, await late] == [1002.0, 1002.0]


async def test_whoever_comes_as_the_window_opens_is_told_of_no_wait(
    limiter: LocalRateLimiter, clock: VirtualClock
) -> None:
    """Before the queue has noticed: there is a queue, but nothing to wait for but another's answer."""
    told: list[Wait] = []

    async def just_in_time() -> None:
        await clock.sleep(50.0)
        await call(limiter, silent, on_wait=told.append)

    late = asyncio.create_task(just_in_time())
    await settle()
    await call(limiter, closed(50.0))
    early = asyncio.create_task(call(limiter, left(clock, 10)))
    await asyncio.gather(early, late)
    assert told == []
    assert clock.monotonic() == 50.0


async def test_whoever_comes_as_the_window_opens_waits_for_another_answer(
    limiter: LocalRateLimiter, clock: VirtualClock
) -> None:
    """However long that takes: the queue's timer, which was to wake them now, is over for both."""

    async def just_in_time() -> float:
        await clock.sleep(50.0)
        return await call(limiter, silent)

    async def slow() -> float:
        async with limiter.slot(APP) as slot:
            await clock.sleep(7.0)
            left(clock, 10)(slot)
        return slot.waited

    late = asyncio.create_task(just_in_time())
    await settle()
    await call(limiter, closed(50.0))
    early = asyncio.create_task(slow())
    assert await early == 50.0
    assert await late == 7.0


async def test_while_nobody_knows_how_long_no_timer_runs() -> None:
    """Whoever waits for another's answer is woken by that. A clock is never asked for a sleep without an end."""
    slept: list[float] = []

    class Listening(VirtualClock):
        async def sleep(self, seconds: float) -> None:
            slept.append(seconds)
            await super().sleep(seconds)

    clock = Listening()
    limiter = LocalRateLimiter(clock=clock)
    async with limiter.slot(APP) as probe:
        behind = asyncio.create_task(call(limiter, silent))
        await settle()
        assert slept == []
        closed(50.0)(probe)
    assert await behind == 50.0
    assert slept == [50.0]


async def test_everybody_is_told_of_their_own_window(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """With one call a window, the third in the queue waits for three; whoever has just left stands in nobody's way."""
    told: dict[str, float] = {}

    def hook(name: str, wait: Wait) -> None:
        told[name] = wait.seconds

    probe = limiter.slot(APP)
    await probe.__aenter__()
    tasks = [asyncio.create_task(call(limiter, silent, on_wait=partial(hook, name))) for name in "abcd"]
    await settle()
    assert told == {}
    left(clock, 0, limit=1)(probe)
    tasks[1].cancel()
    await probe.__aexit__(None, None, None)
    assert told == {"a": 901.0, "c": 1802.0, "d": 2703.0}
    await settle()
    assert told == {"a": 901.0, "c": 1802.0, "d": 2703.0}
    for task in tasks:
        task.cancel()
    await settle()


async def test_who_leaves_the_queue_moves_up_those_behind(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """They hear at once that their wait is shorter now; whoever stood before it has nothing new to hear."""
    told: list[tuple[str, float]] = []
    await call(limiter, left(clock, 0, limit=1))
    tasks = [
        asyncio.create_task(call(limiter, silent, on_wait=lambda wait, name=name: told.append((name, wait.seconds))))
        for name in "abcd"
    ]
    await settle()
    assert told == [("a", 901.0), ("b", 1802.0), ("c", 2703.0), ("d", 3604.0)]
    told.clear()
    tasks[1].cancel()
    await settle()
    assert told == [("c", 1802.0), ("d", 2703.0)]
    for task in tasks:
        task.cancel()
    await settle()


async def test_what_is_told_after_a_refusal_is_what_is_waited(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """It says how long, and nothing is taken off that, nor by an answer that comes beside it and tells the same."""
    told: list[Wait] = []
    await call(limiter, left(clock, 2))
    async with limiter.slot(APP) as refused, limiter.slot(APP) as good:
        refused.close_window(None)
        left(clock, 1)(good)
    waited = await call(limiter, silent, on_wait=told.append)
    assert [wait.seconds for wait in told] == [waited]


async def test_the_last_second_is_a_wait_too(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """Half a second is more than nothing, and nothing is what this call may wait."""
    await call(limiter, closed(900.0))
    await clock.sleep(899.5)
    with pytest.raises(RateLimitedError):
        await call(limiter, silent, max_wait=0.0)
    assert await call(limiter, silent, max_wait=0.5) == 0.5


async def test_patience_is_spent_while_nothing_is_known(limiter: LocalRateLimiter, clock: VirtualClock) -> None:
    """Ten seconds behind a probe are ten seconds less for the window."""
    probe = limiter.slot(APP)
    await probe.__aenter__()
    waiting = asyncio.create_task(call(limiter, silent, max_wait=905.0))
    await clock.sleep(10.0)
    left(clock, 0)(probe)
    await probe.__aexit__(None, None, None)
    with pytest.raises(RateLimitedError, match="901 s, and max_wait leaves 895 s"):
        await waiting
    assert clock.monotonic() == 10.0


@pytest.mark.parametrize("seconds", [5.0, -5.0])
async def test_a_clock_that_is_set_by_five_seconds_was_not_suspended(
    limiter: LocalRateLimiter, clock: VirtualClock, seconds: float
) -> None:
    """Time servers do that. What is known of the window stays known, and more than a probe may go."""
    await call(limiter, left(clock, 10))
    clock.jump(seconds)
    async with limiter.slot(APP):
        other = asyncio.create_task(call(limiter, silent))
        await settle()
        assert other.done()
    assert await other == 0.0


async def test_the_documents_window_is_waited_for_to_the_second(clock: VirtualClock) -> None:
    """Where no answer says anything: 900 s after the second call, and nothing is taken off or added; each time anew."""
    limiter, told = LocalRateLimiter(clock=clock, limit=2), list[float]()
    for _ in range(3):
        await call(limiter, silent, on_wait=lambda wait: told.append(wait.seconds))
        await call(limiter, silent)
    assert told == [900.0, 900.0]


def test_a_loop_that_is_over_is_let_go() -> None:
    """A program that runs one loop after the other keeps none of them alive through its default limiter."""
    loops = []

    async def one_call() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        async with default_limiter(SystemClock()).slot(APP):
            pass

    for _ in range(3):
        asyncio.run(one_call())
    gc.collect()
    assert [loop() for loop in loops] == [None] * 3


@pytest.mark.parametrize("taken", [1, 3])
@pytest.mark.parametrize("slow", [1, 2, 3])
async def test_a_queue_that_is_slower_than_foreseen_is_told_at_once(clock: VirtualClock, slow: int, taken: int) -> None:
    """A long queue is not told of each window that opens as it was foreseen. But when somebody else takes its places,
    be it one, those who now would wait too long hear that at once, however many windows went well before.
    """
    api = FakeApi(clock=clock, rate_limit=4)
    token = api.apps[0].token

    class Shared(FakeTransport):
        async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109
            if len(api.requests) == 4 * slow:
                for _ in range(taken):
                    await super().send(authorize(usage_request(), token), timeout=timeout)
            return await super().send(request, timeout=timeout)

    policy = RetryPolicy(max_wait=902.0 * (slow + 1))
    client = UsageClient(token, transport=Shared(api), clock=clock, retry=policy)
    ended: list[float] = []

    async def ask() -> None:
        try:
            await client.get_usage()
        except RateLimitedError:
            ended.append(clock.monotonic())

    await asyncio.gather(*(ask() for _ in range(4 * (slow + 2))))
    assert len(ended) == taken
    assert all(900.0 * slow < at < 902.0 * slow for at in ended), ended


@pytest.mark.parametrize(("limit", "reserve"), [(4, 0), (4, 1), (1, 0)])
async def test_a_queue_over_many_windows_is_told_once(clock: VirtualClock, limit: int, reserve: int) -> None:
    """Resets come in whole seconds, answers take their time, and each wait is a little longer than told: all of that is
    seen in the first window, and none of it adds up until those behind have to be told anew.
    """
    api = FakeApi(clock=clock, rate_limit=limit)
    told: list[tuple[float, Wait]] = []
    client = UsageClient(
        api.apps[0].token,
        transport=FakeTransport(api, latency=0.1),
        clock=clock,
        limiter=LocalRateLimiter(clock=clock, reserve=reserve),
        retry=RetryPolicy(max_wait=math.inf),
        on_wait=lambda wait: told.append((clock.monotonic(), wait)),
    )
    each = limit - reserve
    await asyncio.gather(*(client.get_usage() for _ in range(each * 60)))
    assert len(told) == each * 59
    foreseen = max(now + wait.seconds for now, wait in told)
    assert clock.monotonic() == pytest.approx(foreseen, rel=0.001)


async def test_seeded_bug_a_window_that_is_thought_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second too much in each window, and the queue is told again and again."""
    observe = RateWindow.observe

    def longer(self: RateWindow, *seen: Any, **more: Any) -> bool:
        told = observe(self, *seen, **more)
        self.length += 0.5
        return told

    monkeypatch.setattr(RateWindow, "observe", longer)
    with pytest.raises(AssertionError):
        await test_a_queue_over_many_windows_is_told_once(VirtualClock(), limit=4, reserve=0)


# -- What is foretold --------------------------------------------------------------------------------------------------


class Server:
    """Windows of these limits and lengths, one after the other, the last of each for ever."""

    def __init__(self, clock: VirtualClock, *windows: tuple[int, float]) -> None:
        self.clock = clock
        self.windows = list(windows)
        self.reset = -math.inf
        self.limit = self.left = 0

    def answer(self, slot: Slot) -> None:
        now = self.clock.time()
        if now >= self.reset:
            self.limit, length = self.windows.pop(0) if len(self.windows) > 1 else self.windows[0]
            self.left, self.reset = self.limit, math.ceil(now + length)
        self.left -= 1
        assert self.left >= 0, "a call too many"
        slot.observe(RateLimit(self.limit, self.left, datetime.fromtimestamp(self.reset, UTC)), math.floor(now))


async def foretold(
    clock: VirtualClock, calls: int, *windows: tuple[int, float], max_wait: float = math.inf
) -> list[tuple[float, float | None]]:
    """So many calls at once: when each went, or was refused, and for when it was told last."""
    limiter, server = LocalRateLimiter(clock=clock), Server(clock, *windows)

    async def ask() -> tuple[float, float | None]:
        told: list[float] = []
        try:
            async with limiter.slot(
                APP, max_wait=max_wait, on_wait=lambda wait: told.append(clock.monotonic() + wait.seconds)
            ) as slot:
                went = clock.monotonic()
                await clock.sleep(0.2)
                server.answer(slot)
                return went, told[-1] if told else None
        except RateLimitedError:
            return -clock.monotonic(), None

    return await asyncio.gather(*(ask() for _ in range(calls)))


@pytest.mark.parametrize(
    "windows",
    [[(5, 900.0)], [(5, 900.0), (5, 1200.0)], [(5, 900.0), (5, 300.0)], [(10, 900.0), (10, 900.0), (2, 900.0)]],
    ids=["the same", "longer", "shorter", "fewer calls"],
)
async def test_everybody_is_told_when_they_go(clock: VirtualClock, windows: list[tuple[int, float]]) -> None:
    """However the windows turn out: to a thousandth, and to a second or two."""
    for went, told in await foretold(clock, 40, *windows):
        assert told is None or told == pytest.approx(went, abs=2.0, rel=0.001)


@pytest.mark.parametrize(
    "windows", [[(5, 900.0), (5, 1200.0)], [(10, 900.0), (2, 900.0)]], ids=["longer", "fewer calls"]
)
async def test_nobody_waits_longer_than_they_would(clock: VirtualClock, windows: list[tuple[int, float]]) -> None:
    """When a window turns out longer, or smaller, than the last one, those whom that makes wait too long hear it."""
    ends = [when for when, _ in await foretold(clock, 15, *windows, max_wait=1900.0)]
    assert max(ends) < 1900.0
    assert min(ends) == pytest.approx(-902.0, abs=2.0)  # by the second window's first answer


def test_a_suspended_machine_does_not_know_how_long_a_window_is() -> None:
    """Its clock stood still: the time since the window's first call is not what passed."""
    window = RateWindow()
    window.take(0.0)
    window.observe(0.0, 1, RateLimit(50, 49, datetime.fromtimestamp(900, UTC)), 0.0)
    window.give_back(0.0, 1, unknown=False)
    window.suspended()
    window.take(10.0)
    window.observe(10.0, 2, RateLimit(50, 48, datetime.fromtimestamp(900, UTC)), 610.0)
    assert window.length == 901.0


def test_a_refusal_does_not_make_windows_longer() -> None:
    """A Retry-After beyond the reset closes this window for longer, and no other."""
    window, seen = RateWindow(), RateLimit(50, 49, datetime.fromtimestamp(900, UTC))
    window.take(0.0)
    window.observe(0.0, 1, seen, 0.0)
    window.take(0.0)
    window.close(0.0, 3000.0)
    window.observe(0.5, 2, seen, 1.0)
    assert window.length == pytest.approx(901.0, abs=1.0)
    assert window.wait(0.5) == pytest.approx(2999.5)


def test_a_window_that_opens_now_says_nothing() -> None:
    """An answer that was written in the very second in which its window opens, at whatever time by our clock: a float
    may be rounded up as well as down.
    """
    over = RateLimit(50, 49, datetime.fromtimestamp(1_700_000_000, UTC))
    for tokens_x10 in range(0, 10_000, 7):
        window, now = RateWindow(), 0.1 * tokens_x10
        window.take(now)
        assert not window.observe(now, 1, over, 1_700_000_001.0)
        assert window.length == 900.0


@pytest.mark.parametrize(
    "wrong", [{"limit": 0}, {"limit": 1.5}, {"limit": True}, {"period": 0.0}, {"period": math.inf}, {"period": "900"}]
)
def test_a_limiter_of_no_calls_or_no_time(wrong: dict[str, Any]) -> None:
    """Windows have a whole number of calls, and a length."""
    ((name, value),) = wrong.items()
    with pytest.raises(ConfigurationError, match=f"{name} must be .*, got {value!r}"):
        LocalRateLimiter(**wrong)


@pytest.mark.parametrize(("remaining", "server_now"), [(5, 901.0), (0, -90_000.0)], ids=["at its end", "days before"])
def test_a_date_that_makes_no_sense_closes_nothing(remaining: int, server_now: float) -> None:
    """The first date may be a proxy's own: where the answer is not believed, what was reckoned before still holds."""
    window = RateWindow()

    def seen(left: int) -> RateLimit:
        return RateLimit(50, left, datetime.fromtimestamp(900, UTC))

    ticket = window.take(0.0)
    window.observe(0.0, ticket, seen(1), 0.0, guessed=True)
    window.give_back(0.0, ticket, unknown=False)
    ticket = window.take(10.0)
    window.observe(10.0, ticket, seen(remaining), server_now)
    window.give_back(10.0, ticket, unknown=True)
    assert window.wait(10.0) == pytest.approx(891.0, abs=1.0)
    assert window.take(902.0)


def test_how_far_apart_windows_are() -> None:
    """From the sending of a window's first call to the next window's, the way of that first answer included."""
    window = RateWindow()
    window.take(100.0)
    window.observe(100.4, 1, RateLimit(50, 49, datetime.fromtimestamp(900, UTC)), 0.0)
    assert window.length == pytest.approx(901.4)


@pytest.mark.parametrize("now", [901.0, 901.5])
def test_an_answer_out_of_a_window_that_is_over_by_what_others_told(now: float) -> None:
    """It was long under way: by its own Date the window would still last, by an earlier answer's it is over."""
    window, seen = RateWindow(), RateLimit(50, 9, datetime.fromtimestamp(900, UTC))
    window.take(0.0)
    window.take(0.0)
    window.observe(0.0, 1, seen, 0.0)
    assert not window.observe(now, 2, seen, 900.5)


async def test_the_smallest_limiter_there_is(clock: VirtualClock) -> None:
    """One call, half a second."""
    limiter = LocalRateLimiter(clock=clock, limit=1, period=0.5)
    await asyncio.gather(*(call(limiter, silent) for _ in range(2)))
