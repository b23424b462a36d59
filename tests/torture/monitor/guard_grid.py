"""Posts over the cap that a guard lets pass: `nox -s monitor -- guard`.

A hundred bots share one guard for six hours of virtual time, and want more than the cap allows. Each cell of the grid
is an API lag (how late a read enters the API's count), a share of bots that are cancelled at any moment, and a billing
cycle that resets in the middle or not. With ``behind``, the API also reports the old count for that long after it.

As long as the API lag is within the guard's ``lag`` (900 s), no post is over the cap. The last rows show that the grid
can tell: a guard that expects no lag lets posts over the cap pass.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import sys
import time
from itertools import product
from pathlib import Path

from attrs import frozen

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests/, as pytest has it

from guarded_bots import LateApi, run_bots

from twusage import UsageClient
from twusage.monitor import UsageGuard
from twusage.testing import FakeApi, VirtualClock

RESET = dt.datetime(2026, 2, 10, tzinfo=dt.UTC)
HOURS = 6
LAGS = (0, 450, 900)
CANCELLED = (0.05, 0.3)
RESETS = ("no", "in time", "behind")


@frozen
class Cell:
    """One run, and what came of it."""

    lag: float
    cancelled: float
    reset: str
    cap: int
    over: int
    """Posts over the cap, in all cycles."""
    unused: int
    """Posts of the cap that no bot got, in the cycle that has most of them."""
    calls: int
    """Requests to the API."""


async def run(lag: float, cancelled: float, reset: str, *, bots: int = 100, expected_lag: float = 900.0) -> Cell:
    """Run one cell; ``expected_lag`` is the guard's ``lag``."""
    # The bots want about 1.4 times the cap of each cycle.
    cap = bots * (390 if reset == "no" else 150)
    start = RESET - dt.timedelta(days=5) if reset == "no" else RESET - dt.timedelta(hours=HOURS / 2)
    clock = VirtualClock(start)
    api = FakeApi(apps=1, cap=cap, history_days=0, clock=clock)
    transport = LateApi(api, lag, behind=reset == "behind")
    async with UsageClient(api.apps[0].token, transport=transport, clock=clock) as client:
        guard = UsageGuard(client, lag=expected_lag)
        await run_bots(clock, transport, guard, cancelled, start.timestamp() + HOURS * 3600, bots=bots)
    read = transport.read.values()
    return Cell(
        lag=lag,
        cancelled=cancelled,
        reset=reset,
        cap=cap,
        over=sum(max(0, count - cap) for count in read),
        unused=max(cap - count for count in read),
        calls=len(api.requests),
    )


def main() -> None:
    """Print the grid."""
    print(f"100 bots, {HOURS} h, one guard with lag=900\n")
    print(f"{'API lag':>8}{'cancelled':>11}{'reset':>9}{'cap':>9}{'over':>6}{'unused':>8}{'calls':>7}{'seconds':>9}")
    worst = 0
    for lag, cancelled, reset in product(LAGS, CANCELLED, RESETS):
        worst += _print(lag, cancelled, reset).over
    print("\na guard with lag=0, which the API's lag exceeds:")
    beyond = sum(_print(lag, 0.05, "no", expected_lag=0.0).over for lag in (900, 3600))
    print(f"\nposts over the cap: {worst} with an API lag within `lag`, {beyond} with one beyond it")
    if worst or not beyond:
        raise SystemExit(1)


def _print(lag: float, cancelled: float, reset: str, *, expected_lag: float = 900.0) -> Cell:
    began = time.perf_counter()
    cell = asyncio.run(run(lag, cancelled, reset, expected_lag=expected_lag))
    print(
        f"{cell.lag:7.0f}s{cell.cancelled:11.0%}{cell.reset:>9}{cell.cap:9,}{cell.over:6}{cell.unused:8}{cell.calls:7}"
        f"{time.perf_counter() - began:9.1f}",
        flush=True,
    )
    return cell


if __name__ == "__main__":
    main()
