"""Processes that write to one history, and cancelled writes: for the tests of the history and for its table."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import random
import signal
import subprocess
import sys
from collections.abc import Sequence

from attrs import frozen
from histories import ALWAYS, DAY, contents, usage

from twusage.monitor import History

WRITER = """
import asyncio, datetime as dt, sys
from twusage import DailySeries, ProjectUsage, Usage
from twusage.monitor import History

async def main(url, writer, writes):
    async with History(url) as history:
        for number in range(1, writes + 1):
            first = dt.date(2026, 1, 1)
            days = DailySeries((first, first + dt.timedelta(days=1000 * (writer + 1) + number)), (number, number))
            at = dt.datetime(2026, 3, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=number, microseconds=writer)
            await history.record(Usage("p", 5, number, 1, ProjectUsage("p", days), fetched_at=at))
            print(number, flush=True)

asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
"""
COMMAND = [sys.executable, "-W", "error", "-c", WRITER]


@frozen
class Written:
    """What processes wrote, and what a history has of it."""

    exits: list[int | None]
    acknowledged: list[int]
    """By writer, the writes of which ``record`` returned."""
    own: list[list[int | None]]
    """By writer, the counts that are stored of the days that only it writes."""
    shared: list[int | None]
    """The newest count of the day, and of the cycle, that all of them write."""

    @property
    def lost(self) -> int:
        """Acknowledged writes that are not stored, and stored ones that are wrong."""
        pairs = zip(self.acknowledged, self.own, strict=True)
        lost = sum(max(0, told - len(counts)) + _wrong(counts) for told, counts in pairs)
        return lost + sum(count != max(map(len, self.own)) for count in self.shared)

    @property
    def unacknowledged(self) -> int:
        """Stored writes that were not acknowledged: at most the last one of a killed process."""
        return sum(max(0, len(counts) - told) for told, counts in zip(self.acknowledged, self.own, strict=True))


def _wrong(counts: list[int | None]) -> int:
    return sum(count != number for number, count in enumerate(counts, start=1))


async def run_writers(url: str, writes: Sequence[int], *, killed: int, after: int) -> Written:
    """Run a process for each number of writes. Kill the one with this index after so many acknowledged writes."""
    processes = [
        await asyncio.create_subprocess_exec(*COMMAND, url, str(writer), str(number), stdout=subprocess.PIPE)
        for writer, number in enumerate(writes)
    ]

    async def acknowledged(writer: int) -> int:
        stdout, last = processes[writer].stdout, 0
        assert stdout is not None
        async for line in stdout:
            last = int(line)
            if writer == killed and last == after:
                processes[writer].send_signal(signal.SIGKILL)
        await processes[writer].wait()
        return last

    async with asyncio.timeout(300):
        numbers = await asyncio.gather(*map(acknowledged, range(len(writes))))
    async with History(url) as history:
        days = await history.days("p", *ALWAYS)
        (cycle,) = await history.cycles("p")
    own = [[day.usage for day in days if _writer_of(day.date) == writer] for writer in range(len(writes))]
    return Written([process.returncode for process in processes], numbers, own, [days.counts[0], cycle.usage])


def _writer_of(day: dt.date) -> int:
    return (day - dt.date(2026, 1, 1)).days // 1000 - 1


@frozen
class Cancelled:
    """What cancelled writes left."""

    whole: int
    nothing: int
    part: int
    """Writes of which only a part is stored."""


async def cancel_writes(url: str, dice: random.Random, times: int) -> Cancelled:
    """Cancel writes at random steps, the opening included. Another writer writes after each."""
    ends = {"whole": 0, "nothing": 0, "part": 0}
    days: dict[dt.date, int | None] = {DAY - dt.timedelta(days=number): 1 for number in range(40)}
    async with History(url) as other:
        for number in range(times):
            project, history = f"cancelled {number}", History(url)
            task = asyncio.create_task(_record_and_close(history, project, days))
            for _ in range(dice.randrange(10)):
                await asyncio.sleep(0)
            await asyncio.sleep(dice.choice([0, 0.001, 0.003, 0.01]))
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await history.aclose()
            stored, _, cycles = await contents(other, project)
            whole, nothing = (len(stored), len(cycles)) == (40, 1), (len(stored), len(cycles)) == (0, 0)
            ends["whole" if whole else "nothing" if nothing else "part"] += 1
            await other.record(usage({DAY: number}, project="next"))  # raises if a lock was left
    return Cancelled(**ends)


async def _record_and_close(history: History, project: str, days: dict[dt.date, int | None]) -> None:
    async with history:
        await history.record(usage(days, project=project))
