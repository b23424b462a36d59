"""Clock protocol, SystemClock and Wait. The only module that reads the system clocks."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from typing import Protocol

from attrs import frozen

__all__ = ["Clock", "SystemClock", "Wait"]


class Clock(Protocol):
    """Wall time, monotonic time and sleep. Tests use ``twusage.testing.VirtualClock``."""

    def time(self) -> float:
        """Return wall time: seconds since 1970, UTC. It may jump, so it does not measure waits."""
        ...

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start. They never decrease, so they measure waits."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Sleep for this many seconds of the monotonic clock."""
        ...


@frozen
class SystemClock:
    """The system clocks. All instances are equal."""

    def time(self) -> float:
        """Return seconds since 1970, UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Sleep for this many seconds."""
        await asyncio.sleep(seconds)


@frozen
class Wait:
    """A wait that a call begins, for a countdown: ``UsageClient(..., on_wait=print)``."""

    seconds: float
    """The estimated length."""
    until: dt.datetime
    """The estimated end: UTC, by the server's clock if it is known."""
    reason: str
    """The reason, in words without secrets."""
