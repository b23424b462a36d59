"""VirtualClock: fifteen minutes in milliseconds, and never a test that hangs."""

from __future__ import annotations

import asyncio
import datetime as dt
import math

import pytest

from twusage.testing import VirtualClock
from twusage.testing import clock as clock_module


async def test_ten_concurrent_sleeps_of_900_s_move_it_900_s() -> None:
    """Sleeps that overlap are waited for together."""
    clock = VirtualClock()
    await asyncio.gather(*(clock.sleep(900) for _ in range(10)))
    assert clock.monotonic() == 900.0


async def test_sleepers_wake_in_their_order() -> None:
    """The shortest sleep ends first, and at one instant the first come."""
    clock = VirtualClock()
    log: list[tuple[str, float]] = []

    async def sleep(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        log.append((name, clock.monotonic()))

    await asyncio.gather(sleep("c", 30), sleep("a", 10), sleep("b", 20), sleep("b2", 20))
    assert log == [("a", 10.0), ("b", 20.0), ("b2", 20.0), ("c", 30.0)]


async def test_it_stands_still_while_a_task_runs() -> None:
    """Time does not pass under a task that is still running, however many steps it takes."""
    clock = VirtualClock()
    sleeper = asyncio.create_task(clock.sleep(5))
    for _ in range(100):
        await asyncio.sleep(0)
        assert clock.monotonic() == 0.0
    await sleeper
    assert clock.monotonic() == 5.0


async def test_a_sleep_of_nothing_lets_others_run() -> None:
    """Zero and less end immediately, after one round of the loop."""
    clock = VirtualClock()
    ran = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(ran.set_result, None)
    await clock.sleep(0)
    assert ran.done()
    await clock.sleep(-1)
    assert clock.monotonic() == 0.0


async def test_advance_moves_it_by_hand() -> None:
    """advance(900) wakes all shorter sleepers, at their own times, and no longer one."""
    clock = VirtualClock(auto=False)
    log: list[float] = []

    async def every(seconds: float) -> None:
        while True:
            await clock.sleep(seconds)
            log.append(clock.monotonic())

    task = asyncio.create_task(every(400))
    await clock.advance(900)
    assert log == [400.0, 800.0]
    assert clock.monotonic() == 900.0
    await clock.advance(300)
    assert log == [400.0, 800.0, 1200.0]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_advance_works_on_a_clock_that_moves_itself() -> None:
    """By hand up to a point, then automatically again."""
    clock = VirtualClock()
    sleeper = asyncio.create_task(clock.sleep(100))
    await clock.advance(40)
    assert clock.monotonic() == 40.0
    assert not sleeper.done()
    await sleeper
    assert clock.monotonic() == 100.0


async def test_a_cancelled_sleep_is_forgotten() -> None:
    """Time does not wait for who has left."""
    clock = VirtualClock()
    gone = asyncio.create_task(clock.sleep(10))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    await clock.sleep(50)
    assert clock.monotonic() == 50.0


async def test_a_real_timeout_inside_is_no_work() -> None:
    """asyncio.timeout around a virtual sleep neither stops the clock nor fires in virtual time."""
    clock = VirtualClock()
    async with asyncio.timeout(30):
        await clock.sleep(900)
    assert clock.monotonic() == 900.0


async def test_a_real_timeout_that_fires_cancels_the_sleep() -> None:
    """A timeout that is over cancels a virtual sleep like any other."""
    clock = VirtualClock(auto=False)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await clock.sleep(900)


async def test_wall_time_moves_with_it() -> None:
    """It begins on 2026-01-15 at noon by default, and keeps pace."""
    clock = VirtualClock()
    assert clock.now() == dt.datetime(2026, 1, 15, 12, tzinfo=dt.UTC)
    await clock.sleep(3600)
    assert clock.now() == dt.datetime(2026, 1, 15, 13, tzinfo=dt.UTC)
    start = dt.datetime(2026, 2, 28, tzinfo=dt.UTC)
    assert VirtualClock(start).time() == start.timestamp()


async def test_wall_and_monotonic_time_can_be_pulled_apart() -> None:
    """A jump and a suspend move the wall clock alone."""
    clock = VirtualClock()
    before = clock.time()
    clock.jump(-3600)
    assert (clock.time() - before, clock.monotonic()) == (-3600.0, 0.0)
    clock.suspend(7200)
    assert (clock.time() - before, clock.monotonic()) == (3600.0, 0.0)


async def test_a_stalled_test_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """With auto=False and no advance, the sleep raises with advice, instead of hanging."""
    monkeypatch.setattr(clock_module, "_STALLED_AFTER", 0.01)
    clock = VirtualClock(auto=False)
    with pytest.raises(RuntimeError, match=r"sleeps for 900 s of virtual time.*clock\.advance"):
        await clock.sleep(900)


async def test_a_sleep_without_end_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a clock that moves itself cannot reach infinity."""
    monkeypatch.setattr(clock_module, "_STALLED_AFTER", 0.01)
    with pytest.raises(RuntimeError, match="sleeps for inf s of virtual time, which never end"):
        await VirtualClock().sleep(math.inf)


async def test_a_sleep_whose_time_still_moves_is_not_given_up() -> None:
    """A slow test has not stalled. As long as it advances the clock, a sleep waits."""
    clock = VirtualClock(auto=False)
    sleeper = asyncio.create_task(clock.sleep(10))
    for since in range(9):
        await clock.advance(1)
        (sleeping,) = clock._sleepers
        clock._on_stall(sleeping, 10, since)
    assert not sleeper.done()
    await clock.advance(1)
    await sleeper


async def test_a_woken_sleep_is_not_called_stalled() -> None:
    """The alarm of a sleep that has ended does nothing."""
    clock = VirtualClock()
    await clock.sleep(1)
    sleeper = clock_module._Sleeper(1.0, 0, asyncio.get_running_loop().create_future())
    sleeper.woken.set_result(None)
    clock._on_stall(sleeper, 1.0, 0.0)
    assert sleeper.woken.result() is None


async def test_two_clocks_on_one_loop_do_not_wait_for_each_other() -> None:
    """Neither takes the other's watching for work."""
    one, two = VirtualClock(), VirtualClock()
    async with asyncio.timeout(5):
        await asyncio.gather(one.sleep(10), two.sleep(20))
    assert (one.monotonic(), two.monotonic()) == (10.0, 20.0)
    by_hand, other = VirtualClock(auto=False), VirtualClock(auto=False)
    async with asyncio.timeout(5):
        await asyncio.gather(by_hand.advance(5), other.advance(6))
    assert (by_hand.monotonic(), other.monotonic()) == (5.0, 6.0)


async def test_one_clock_is_advanced_by_one_at_a_time() -> None:
    """Two would wait for each other: the second raises."""
    clock = VirtualClock(auto=False)
    results = await asyncio.gather(clock.advance(5), clock.advance(5), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), RuntimeError]
    assert clock.monotonic() == 5.0


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
async def test_it_moves_forward_only(seconds: float) -> None:
    """It cannot be advanced by less than nothing, or without an end."""
    with pytest.raises(ValueError, match="0 or more"):
        await VirtualClock().advance(seconds)


def test_it_serves_one_loop_after_another() -> None:
    """Plain asyncio.run, twice, the first one left with a sleeper."""
    clock = VirtualClock()

    async def first() -> None:
        task = asyncio.create_task(clock.sleep(10_000))
        await asyncio.sleep(0)
        assert not task.done()

    async def second() -> None:
        await clock.sleep(900)

    asyncio.run(first())
    asyncio.run(second())
    assert clock.monotonic() == 900.0
