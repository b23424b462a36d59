"""Will the monthly cap last: the billing cycle, a forecast of its end, and a history of the counts.

``History`` and ``CycleRecord`` are loaded on first use, because only they need SQLAlchemy (the extra ``history``).
"""

from typing import TYPE_CHECKING

from twusage.monitor.cycle import AppShare, Attribution, BillingCycle, attribution, cycle_of
from twusage.monitor.forecast import Forecast, forecast

if TYPE_CHECKING:
    from twusage.monitor.history import CycleRecord, History

__all__ = [
    "AppShare",
    "Attribution",
    "BillingCycle",
    "CycleRecord",
    "Forecast",
    "History",
    "attribution",
    "cycle_of",
    "forecast",
]


def __getattr__(name: str) -> object:
    if name in {"CycleRecord", "History"}:
        from twusage.monitor import history

        return getattr(history, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
