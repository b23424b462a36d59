"""Monitoring of the monthly cap: cycle, forecast, guard, watch and history.

``History`` and ``CycleRecord`` are loaded on first use, because only they need SQLAlchemy (the extra ``history``).
"""

from typing import TYPE_CHECKING

from twusage.monitor.cycle import AppShare, Attribution, BillingCycle, attribution, cycle_of
from twusage.monitor.forecast import Forecast, forecast
from twusage.monitor.guard import Spending, UsageGuard
from twusage.monitor.watch import (
    CapChanged,
    CycleReset,
    ForecastCrossed,
    ThresholdCrossed,
    UsageSampled,
    WatchEvent,
    WatchFailing,
    WatchRecovered,
    watch,
)

if TYPE_CHECKING:
    from twusage.monitor.history import CycleRecord, History

__all__ = [
    "AppShare",
    "Attribution",
    "BillingCycle",
    "CapChanged",
    "CycleRecord",
    "CycleReset",
    "Forecast",
    "ForecastCrossed",
    "History",
    "Spending",
    "ThresholdCrossed",
    "UsageGuard",
    "UsageSampled",
    "WatchEvent",
    "WatchFailing",
    "WatchRecovered",
    "attribution",
    "cycle_of",
    "forecast",
    "watch",
]


def __getattr__(name: str) -> object:
    if name in {"CycleRecord", "History"}:
        from twusage.monitor import history

        return getattr(history, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
