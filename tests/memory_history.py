"""A history in memory, for the tests of ``watch``."""

from __future__ import annotations

import datetime as dt

from attrs import frozen

from twusage import Usage
from twusage.monitor import cycle_of

__all__ = ["MemoryHistory"]


@frozen
class Record:
    start: dt.date
    cap: int | None
    usage: int | None


class MemoryHistory:
    """A history in memory, which fails on demand."""

    def __init__(self) -> None:
        self.records: dict[str, dict[dt.date, Record]] = {}
        self.recorded: list[Usage] = []
        self.keys: dict[str, dt.datetime] = {}
        self.broken = False

    def _check(self) -> None:
        if self.broken:
            raise OSError("the disk is full")

    async def record(self, usage: Usage) -> None:
        self._check()
        self.recorded.append(usage)
        cycle = cycle_of(usage)
        if cycle is not None:
            project = self.records.setdefault(usage.project_id or "-", {})
            project[cycle.start] = Record(cycle.start, usage.project_cap, usage.project_usage)

    async def cycles(self, project: str) -> tuple[Record, ...]:
        self._check()
        return tuple(record for _, record in sorted(self.records.get(project, {}).items()))

    async def delivered(self, prefix: str) -> frozenset[str]:
        self._check()
        return frozenset(key for key in self.keys if key.startswith(prefix))

    async def mark_delivered(self, key: str, at: dt.datetime) -> None:
        self._check()
        assert key not in self.keys, "delivered twice"
        self.keys[key] = at
