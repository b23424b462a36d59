"""Will the monthly cap last: the billing cycle, a forecast, a guard and a watch."""

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

__all__ = [
    "CapChanged",
    "CycleReset",
    "ForecastCrossed",
    "Spending",
    "ThresholdCrossed",
    "UsageGuard",
    "UsageSampled",
    "WatchEvent",
    "WatchFailing",
    "WatchRecovered",
    "watch",
]
