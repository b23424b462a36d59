"""UsageCollector: a project's usage as Prometheus metrics. It needs ``prometheus-client`` (the extra ``serve``).

A scrape reads the client's newest response, and never calls the API: the app has 50 calls in 15 minutes.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from twusage._version import __version__
from twusage.client import UsageClient
from twusage.errors import InvalidRequestError
from twusage.models import EPOCH, Usage
from twusage.monitor.cycle import attribution
from twusage.monitor.forecast import forecast

__all__ = ["UsageCollector"]

OTHER_APPS = "other"
"""The label ``app`` of the apps beyond ``max_apps``."""

_GAUGES = {
    "project_cap_posts": "Posts that the project may read in one cycle.",
    "project_used_posts": "Posts that the project has read in this cycle. It falls at the reset.",
    "forecast_posts": "Posts expected by the end of the cycle.",
    "forecast_low_posts": "The low end of the likely range of forecast_posts.",
    "forecast_high_posts": "The high end of the likely range of forecast_posts.",
    "cap_reached_timestamp_seconds": "When the cap is expected to be reached; absent if not in this cycle.",
    "cycle_start_timestamp_seconds": "When the cycle began.",
    "cycle_reset_timestamp_seconds": "When the cap resets.",
}
_PLAIN = {
    "window_limit_calls": "Calls of the API in the 15-minute window.",
    "window_left_calls": "Calls left in the window, as the newest response reported.",
    "window_reset_timestamp_seconds": "When the window ends, by the server's clock.",
    "up": "1 if the newest poll brought a response.",
    "last_success_timestamp_seconds": "When the newest good response arrived.",
}
_COUNTERS = {
    "requests": "Requests sent to the API.",
    "waits": "Waits for the window or between attempts.",
    "wait_seconds": "Seconds of these waits.",
}
_APP_HELP = "Posts that the app has read on the days of this cycle."
_FAILED_HELP = "Requests without a usable response, by reason."


class UsageCollector(Collector):
    """The metrics of a client, for ``REGISTRY.register``. An unknown number is an absent series, never 0.

    ::

        REGISTRY.register(UsageCollector(client))
        async for event in watch(client): ...     # or any other calls of this client

    Args:
        client: the client whose calls are shown: its own calls, a ``watch`` of it, or a guard.
        max_apps: client apps with a series of their own, most reads first; the others are ``app="other"``.

    Raises:
        InvalidRequestError: ``max_apps`` is not an int of at least 0.
    """

    def __init__(self, client: UsageClient, *, max_apps: int = 50) -> None:
        if type(max_apps) is not int or max_apps < 0:
            raise InvalidRequestError(f"max_apps must be an int of at least 0, got {max_apps!r}")
        self._client = client
        self._max_apps = max_apps

    def describe(self) -> Iterator[Metric]:
        """The metrics without samples, so that registering costs no scrape."""
        yield from _families().values()

    def collect(self) -> Iterator[Metric]:
        """The metrics of the newest response. It does no I/O."""
        families = _families()
        activity = self._client.activity
        families["up"].add_metric([], float(activity.up))
        for name, count in (("requests", activity.requests), ("waits", activity.waits)):
            families[name].add_metric([], count)
        families["wait_seconds"].add_metric([], activity.waited)
        for reason, count in activity.failures.items():
            families["requests_failed"].add_metric([reason], count)
        families["build_info"].add_metric([__version__], 1)
        window = self._client.rate_limit
        if window is not None:
            families["window_limit_calls"].add_metric([], window.limit)
            families["window_left_calls"].add_metric([], window.remaining)
            families["window_reset_timestamp_seconds"].add_metric([], window.reset_at.timestamp())
        if activity.usage is not None and activity.usage.fetched_at != EPOCH:
            families["last_success_timestamp_seconds"].add_metric([], activity.usage.fetched_at.timestamp())
            self._add_usage(families, activity.usage)
        yield from families.values()

    def _add_usage(self, families: dict[str, GaugeMetricFamily | CounterMetricFamily], usage: Usage) -> None:
        ahead = forecast(usage)
        cycle = ahead.cycle
        project = usage.project_id or ""
        values = {
            "project_cap_posts": usage.project_cap,
            "project_used_posts": usage.project_usage,
            "forecast_posts": ahead.expected,
            "forecast_low_posts": ahead.low,
            "forecast_high_posts": ahead.high,
            "cap_reached_timestamp_seconds": None if usage.remaining == 0 else _midnight(ahead.exhausts_on),
            "cycle_start_timestamp_seconds": _midnight(None if cycle is None else cycle.start),
            "cycle_reset_timestamp_seconds": _midnight(None if cycle is None else cycle.end),
        }
        for name, value in values.items():
            if value is not None:
                families[name].add_metric([project], value)
        shares = attribution(usage)
        used: dict[str, int] = {}
        for share in () if shares is None else shares.apps:
            used[share.client_app_id] = used.get(share.client_app_id, 0) + share.used
        ranked = sorted(used.items(), key=lambda pair: pair[1], reverse=True)
        shown = dict(ranked[: self._max_apps])
        if rest := ranked[self._max_apps :]:
            # An app may have this id, and Prometheus refuses a series that comes twice.
            shown[OTHER_APPS] = shown.get(OTHER_APPS, 0) + sum(count for _, count in rest)
        for app, count in shown.items():
            families["app_used_posts"].add_metric([project, app], count)


def _families() -> dict[str, GaugeMetricFamily | CounterMetricFamily]:
    """All metrics, new on each scrape, in the order in which they are documented."""

    def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"twusage_{name}", text, labels=labels)

    return {
        **{name: gauge(name, text, ("project",)) for name, text in _GAUGES.items()},
        "app_used_posts": gauge("app_used_posts", _APP_HELP, ("project", "app")),
        **{name: gauge(name, text) for name, text in _PLAIN.items()},
        **{name: CounterMetricFamily(f"twusage_{name}", text, labels=()) for name, text in _COUNTERS.items()},
        "requests_failed": CounterMetricFamily("twusage_requests_failed", _FAILED_HELP, labels=("reason",)),
        "build_info": gauge("build_info", "The version of twusage.", ("version",)),
    }


def _midnight(day: dt.date | None) -> float | None:
    return None if day is None else dt.datetime.combine(day, dt.time(), dt.UTC).timestamp()
