"""Will the monthly cap last: the billing cycle, a forecast, a guard and a watch."""

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

__all__ = [
    "AppShare",
    "Attribution",
    "BillingCycle",
    "CapChanged",
    "CycleReset",
    "Forecast",
    "ForecastCrossed",
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
