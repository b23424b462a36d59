"""What time it is, and waiting. The only room that reads the system's clocks."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from typing import Protocol

from attrs import frozen

__all__ = ["Clock", "SystemClock", "Wait"]


class Clock(Protocol):
    """Three readings of time, so that a test can bring its own (``twusage.testing.VirtualClock``)."""

    def time(self) -> float:
        """Wall time: seconds since 1970, UTC. It may jump; never measure a wait by it."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment, never going back. Waits are measured by it."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait that long by the monotonic clock."""
        ...


@frozen
class SystemClock:
    """The system's own clocks. All instances are equal."""

    def time(self) -> float:
        """Seconds since 1970, UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some moment, never going back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait that many seconds."""
        await asyncio.sleep(seconds)


@frozen
class Wait:
    """A wait that a call begins, for whoever shows a countdown: ``UsageClient(..., on_wait=print)``."""

    seconds: float
    """How long, as far as is known now."""
    until: dt.datetime
    """Until when: UTC, the server's clock where it is known."""
    reason: str
    """Why, in words that hold no secret."""
