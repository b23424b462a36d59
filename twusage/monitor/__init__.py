"""Will the monthly cap last: the billing cycle, and a forecast of its end."""

from twusage.monitor.cycle import AppShare, Attribution, BillingCycle, attribution, cycle_of
from twusage.monitor.forecast import Forecast, forecast

__all__ = [
    "AppShare",
    "Attribution",
    "BillingCycle",
    "Forecast",
    "attribution",
    "cycle_of",
    "forecast",
]
