"""Timing of blocks: medians and quartiles, of pairs that take turns or of one block alone.

Time is processor time of this process: its threads count, the server and other programs do not. The two blocks of a
pair take ten milliseconds each and change their order after each pair, so that both meet a clock that slows down and a
cold cache. Each pair gives one ratio.
"""

from __future__ import annotations

import asyncio
import gc
import math
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

Figures = dict[str, Any]
Block = Callable[[int], object]
"""Repeats something a number of times."""

SECONDS = 0.01  # of a block


def compare(ours: Block, theirs: Block, *, rounds: int = 151) -> Figures:
    """Microseconds for one of each, and the ratio: blocks in turns, in both orders."""
    _freeze()
    sides = (ours, _calibrated(ours)), (theirs, _calibrated(theirs))
    pairs = []
    for number in range(rounds):
        first = number % 2
        one, other = timed(*sides[first]), timed(*sides[1 - first])
        pairs.append((other, one) if first else (one, other))
    return figures_of(pairs, unit="µs", scale=1e6)


def measure(block: Block, *, unit: str, scale: float, rounds: int = 151) -> Figures:
    """The time of one, if there is no alternative to compare it with."""
    _freeze()
    count = _calibrated(block)
    low, median, high = statistics.quantiles([scale * timed(block, count) for _ in range(rounds)], n=4)
    return {"unit": unit, "median": median, "low": low, "high": high, "pairs": rounds}


def _freeze() -> None:
    # The garbage collector must not visit what was imported (xdk is large).
    gc.collect()
    gc.freeze()


def figures_of(pairs: Sequence[tuple[float, float]], *, unit: str, scale: float = 1.0) -> Figures:
    """Medians of both and of their ratio, and the ratio's quartiles."""
    low, median, high = statistics.quantiles([one / other for one, other in pairs], n=4)
    ours, theirs = (scale * statistics.median(side) for side in zip(*pairs, strict=True))
    return {
        "unit": unit, "ours": ours, "theirs": theirs, "median": median, "low": low, "high": high, "pairs": len(pairs)
    }  # fmt: skip


def _calibrated(block: Block) -> int:
    count = 1
    while True:
        block(count)  # warms up
        spent = timed(block, count) * count
        if spent > SECONDS / 2:
            return max(1, round(count * SECONDS / spent))
        count *= 2


def timed(block: Block, count: int) -> float:
    """Seconds for one."""
    start = time.process_time()
    block(count)
    return (time.process_time() - start) / count


def times(call: Callable[[], object]) -> Block:
    """The block of a function."""

    def block(count: int) -> None:
        for _ in range(count):
            call()

    return block


def awaited(runner: asyncio.Runner, call: Callable[[], Awaitable[object]], at_a_time: int = 1) -> Block:
    """The block of a coroutine function."""

    async def calls(count: int) -> None:
        for _ in range(count):
            await call()

    async def together(count: int) -> None:
        for _ in range(math.ceil(count / at_a_time)):
            await asyncio.gather(*(call() for _ in range(at_a_time)))

    if at_a_time == 1:
        return lambda count: runner.run(calls(count))
    # Whole groups, so that a block makes the number of calls by which it is divided.
    return lambda count: runner.run(together(count * at_a_time))
