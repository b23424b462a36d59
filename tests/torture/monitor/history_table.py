"""What a history loses: `nox -s monitor -- history`. On SQLite, and on PostgreSQL if it is installed.

Five processes write to one history at the same time, and one of them is killed; the days that a process reported as
stored must be there, and the day and the cycle that all of them write must have the newest count. Then writes are
cancelled at random moments: each is stored as a whole or not at all, and no lock is left.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests/, as pytest has it

from history_writers import cancel_writes, run_writers
from postgresql import Server, find_initdb

WRITES, ROUNDS, CANCELLATIONS = 200, 5, 300


def main() -> None:
    """Print what was lost."""
    seed = secrets.randbits(32)
    dice, wrong = random.Random(seed), 0
    print(
        f"seed {seed}\n{'database':12}{'killed':>8}{'stored':>8}{'lost':>6}{'cancelled':>11}{'part':>6}{'seconds':>9}"
    )
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tw", ignore_cleanup_errors=True)))
        wrong += _check("SQLite", (f"sqlite:///{directory}/{number}.db" for number in count()), dice)
        if find_initdb() is not None:
            server = Server(directory)
            stack.callback(server.stop)
            wrong += _check("PostgreSQL", _emptied(server), dice)
    if wrong:
        raise SystemExit(1)


def _emptied(server: Server) -> Iterator[str]:
    while True:
        server.execute("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
        yield server.url


def _check(name: str, urls: Iterator[str], dice: random.Random) -> int:
    began, stored, lost = time.perf_counter(), 0, 0
    for _ in range(ROUNDS):
        killed, after = dice.randrange(5), dice.randint(1, WRITES - 20)
        written = asyncio.run(run_writers(next(urls), [WRITES] * 5, killed=killed, after=after))
        stored += sum(map(len, written.own))
        lost += written.lost
    cancelled = asyncio.run(cancel_writes(next(urls), dice, CANCELLATIONS))
    print(
        f"{name:12}{ROUNDS:8}{stored:8,}{lost:6}{CANCELLATIONS:11}{cancelled.part:6}{time.perf_counter() - began:9.1f}",
        flush=True,
    )
    return lost + cancelled.part


if __name__ == "__main__":
    main()
