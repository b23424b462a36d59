"""The project of ``--demo``: three apps and a cap of 1,200,000. Its last day is not over. No network."""

from __future__ import annotations

import datetime as dt
import random
from typing import Any

from attrs import evolve

from twusage.clock import Clock, SystemClock
from twusage.display.view import FETCHED_DAYS
from twusage.models import Usage
from twusage.monitor.cycle import BillingCycle
from twusage.protocol import DEFAULT_BASE_URL, authorize, read_usage, usage_request

__all__ = ["Demo"]

_CAP = 1_200_000
_RESET_DAY = 10
_DAYS = 120
_DAY = dt.timedelta(days=1)
# Name, and typical reads on a working day.
_APPS = (("collector", 27_000), ("alerts bot", 9_600), ("research notebook", 1_500))


class Demo:
    """A fake API with plausible reads up to the clock's present minute.

    Args:
        clock: the present (default: the system's).
    """

    def __init__(self, clock: Clock | None = None) -> None:
        from twusage.testing import FakeApi, FakeTransport, VirtualClock

        present = SystemClock() if clock is None else clock
        now = dt.datetime.fromtimestamp(present.time(), dt.UTC)
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        past = VirtualClock(midnight - (_DAYS - 1) * _DAY)
        self.api = FakeApi(cap=_CAP, reset_day=_RESET_DAY, history_days=0, clock=past)
        for ago in reversed(range(_DAYS)):
            day = midnight - ago * _DAY
            past.jump(day.timestamp() - past.time())
            elapsed = 1.0 if ago else (now - midnight) / _DAY
            for app, (name, typical) in zip(self.api.apps, _APPS, strict=True):
                self.api.read_posts(app, round(_reads(name, typical, day.date()) * elapsed))
        self.api.clock = self._present = present
        self.names = {app.id: name for app, (name, _) in zip(self.api.apps, _APPS, strict=True)}
        """Names of the client apps, by id."""
        self.keywords: dict[str, Any] = {
            "auth": self.api.apps[0].token,
            "transport": FakeTransport(self.api),
            "base_url": DEFAULT_BASE_URL,
            "clock": present,
        }
        """The keywords of a ``UsageClient`` for this API."""

    def past_and_present(self, cycles: int) -> list[Usage]:
        """Return the responses at the ends of past cycles, and now."""
        now = dt.datetime.fromtimestamp(self._present.time(), dt.UTC)
        cycle, instants = BillingCycle.of(_RESET_DAY, now), [now]
        for _ in range(cycles):
            instants.append(cycle.previous().resets_at - dt.timedelta(minutes=1))
            cycle = cycle.previous()
        request = authorize(usage_request(days=FETCHED_DAYS), self.keywords["auth"])
        return [
            evolve(read_usage(self.api.handle(request, instant.timestamp())), fetched_at=instant)
            for instant in reversed(instants)
        ]


def _reads(name: str, typical: int, day: dt.date) -> float:
    """Return an app's reads on a day, the same in each run."""
    dice = random.Random(f"{name} {day}")  # noqa: S311 - believable, not secret
    busy = 1.0 if day.weekday() < 5 else 0.6
    return typical * busy * dice.uniform(0.75, 1.25)
