"""Site: responds to requests from what the poller has. It never calls the API, and reads nothing but a history."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import cast

from aiohttp import web
from attrs import frozen
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler

from twusage.dashboard.guards import HEADERS, Guard, text_response
from twusage.dashboard.poller import Poller
from twusage.display import html, svg
from twusage.display.format import spreadsheet_safe
from twusage.display.view import FETCHED_DAYS, View, view_of
from twusage.integrations.prometheus import UsageCollector
from twusage.models import Usage
from twusage.monitor.cycle import cycle_of

__all__ = ["Site"]

_DAY = dt.timedelta(days=1)
_FOREVER = "public, max-age=31536000, immutable"
_TYPES = {"page.css": "text/css", "page.js": "text/javascript"}
_PAGES_KEPT = 16


@frozen
class _Span:
    """The days to show."""

    key: str
    days: int
    until: dt.date | None = None


class _BadQueryError(Exception):
    """A parameter of the query is wrong. Its message is the response, and does not quote the parameter."""


class Site:
    """Responds to requests: the page, JSON, CSV, metrics, health.

    Args:
        poller: has the numbers.
        guard: decides which requests are allowed.
        title: the heading of the page (default: the project's id).
        names: names for client apps, by id.
        metrics_apps: client apps with a series of their own; the others are summed up.
    """

    def __init__(
        self,
        poller: Poller,
        guard: Guard,
        *,
        title: str | None = None,
        names: Mapping[str, str] | None = None,
        metrics_apps: int = 50,
    ) -> None:
        self._poller = poller
        self._guard = guard
        self._title = title
        self._names = dict(names or {})
        registry = CollectorRegistry()
        registry.register(UsageCollector(poller.client, max_apps=metrics_apps))
        self._metrics = make_aiohttp_handler(registry)
        self._pages: dict[object, str] = {}
        self._routes = {
            "/": self._page,
            "/api/usage.json": self._json,
            "/api/days.csv": self._csv,
            "/metrics": self._metrics_page,
            "/healthz": self._health,
            "/favicon.svg": self._favicon,
            "/robots.txt": self._robots,
            **{f"/static/{name}": self._static for name in _TYPES},
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return the response to a request."""
        path = request.raw_path.partition("?")[0]
        refusal = self._guard.refusal(request, path)
        if refusal is not None:
            return refusal
        route = self._routes.get(path)
        if route is None:
            return text_response(404, "404: there is nothing at this address")
        try:
            response = await route(request)
        except _BadQueryError as error:
            return text_response(400, f"400: {error}")
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    # -- The page ------------------------------------------------------------------------------------------------------

    async def _page(self, request: web.BaseRequest) -> web.StreamResponse:
        span = self._span(request)
        poller, now = self._poller, self._poller.now
        age = 0.0 if poller.usage is None else (now - poller.usage.fetched_at).total_seconds()
        # The text of a page changes with these only.
        key = (span, poller.version, age // 60, age > poller.stale_after, now.timestamp() // 60)
        text = self._pages.get(key)
        if text is None:
            if len(self._pages) >= _PAGES_KEPT:
                self._pages.clear()
            text = self._pages[key] = self._render(span, now)
        return _cached(request, text, "text/html")

    def _render(self, span: _Span, now: dt.datetime) -> str:
        poller = self._poller
        failure = poller.failure
        problem = None if failure is None else failure.problem(refused_only=poller.usage is not None)
        feed = html.Feed(
            now=now,
            every=poller.every,
            title=self._title,
            next_at=poller.next_at,
            problem=problem,
            span=span.key,
            has_history=poller.history is not None,
        )
        if poller.usage is None:
            return html.waiting_page(feed)
        return html.page(self._view(poller.usage, now, span), feed)

    def _view(self, usage: Usage, now: dt.datetime, span: _Span) -> View:
        poller = self._poller
        return view_of(
            usage,
            now=now,
            days=span.days,
            until=span.until,
            names=self._names,
            events=poller.events,
            stale_after=poller.stale_after,
        )

    def _span(self, request: web.BaseRequest) -> _Span:
        cycles = request.query.getall("cycle", [])
        days = _days_of(request)
        if not cycles:
            days = 30 if days is None else _at_most(days, FETCHED_DAYS)
            return _Span(str(days), days)
        if days is not None or len(cycles) > 1 or cycles[0] not in {"this", "last"}:
            raise _BadQueryError("cycle is this or last, once, and without days")
        usage = self._poller.usage
        cycle = None if usage is None else cycle_of(usage)
        if usage is None or cycle is None:
            return _Span("30", 30)
        if cycles[0] == "this":
            return _Span("this", (usage.fetched_at.date() - cycle.start).days + 1)
        last = cycle.previous()
        return _Span("last", last.days, last.end - _DAY)

    # -- Data ----------------------------------------------------------------------------------------------------------

    async def _json(self, _: web.BaseRequest) -> web.StreamResponse:
        poller, now = self._poller, self._poller.now
        if poller.usage is None:
            code = "waiting" if poller.failure is None else poller.failure.code
            return _json_response({"schema": 1, "error": code}, status=503)
        view = self._view(poller.usage, now, _Span("90", FETCHED_DAYS))
        facts = view.to_dict()
        return _json_response(
            {
                "schema": 1,
                "fetched_at": poller.usage.fetched_at.isoformat(),
                "age_seconds": round(view.age.total_seconds(), 3),
                "stale": view.stale,
                "usage": poller.usage.to_dict(),
                "forecast": facts["forecast"],
                "cycle": facts["cycle"],
                "events": [event.to_dict() for event in poller.events if event.cycle in {None, view.cycle}],
            }
        )

    async def _csv(self, request: web.BaseRequest) -> web.StreamResponse:
        usage = self._poller.usage
        days = _days_of(request)
        if usage is None:
            _at_most(days or 1, FETCHED_DAYS)
            return text_response(503, "503: no numbers yet")
        if days is None or days <= FETCHED_DAYS:
            first = usage.fetched_at.date() - (days or FETCHED_DAYS) * _DAY
            rows = [(row["date"], row["client_app_id"], row["usage"]) for row in usage.to_rows()]
            rows = [row for row in rows if days is None or row[0] > first]  # type: ignore[operator]
        else:
            rows = await self._old_rows(usage, days)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("date", "client_app_id", "usage"))
        for day, app, count in rows:
            writer.writerow((day, spreadsheet_safe(app) if isinstance(app, str) else app, count))
        response = web.Response(text=text.getvalue(), content_type="text/csv", charset="utf-8")
        response.headers["Content-Disposition"] = 'attachment; filename="twusage-days.csv"'
        return response

    async def _old_rows(self, usage: Usage, days: int) -> list[tuple[object, object, object]]:
        """The rows of a history, for more days than the API has."""
        history, project = self._poller.history, usage.project_id or "-"
        if history is None:
            raise _BadQueryError(f"days is a number from 1 to {FETCHED_DAYS}")
        today = usage.fetched_at.date()
        recorded = await history.days(project, dt.date.min, today + _DAY)
        _at_most(days, max(FETCHED_DAYS, (today - recorded.dates[0]).days + 1 if recorded else 0))
        apps = await history.apps(project, today - (days - 1) * _DAY, today + _DAY)
        return [(row.date, app, row.usage) for app, series in apps.items() for row in series]

    async def _metrics_page(self, request: web.BaseRequest) -> web.StreamResponse:
        # Its handler expects a Request, but reads only parts of a BaseRequest: the query and two headers.
        return await self._metrics(cast("web.Request", request))

    # -- The rest ------------------------------------------------------------------------------------------------------

    async def _health(self, _: web.BaseRequest) -> web.StreamResponse:
        return text_response(200, "ok") if self._poller.is_alive else text_response(503, "the poller has ended")

    async def _favicon(self, request: web.BaseRequest) -> web.StreamResponse:
        usage, now = self._poller.usage, self._poller.now
        view = None if usage is None else self._view(usage, now, _Span("7", 7))
        return _cached(request, svg.favicon(view), "image/svg+xml")

    async def _robots(self, _: web.BaseRequest) -> web.StreamResponse:
        return text_response(200, "User-agent: *\nDisallow: /")

    async def _static(self, request: web.BaseRequest) -> web.StreamResponse:
        name = request.raw_path.partition("?")[0].rpartition("/")[2]
        response = web.Response(body=html.static_file(name), content_type=_TYPES[name], charset="utf-8")
        if request.query_string == f"v={html.static_hash(name)}":
            response.headers["Cache-Control"] = _FOREVER
        return response


def _days_of(request: web.BaseRequest) -> int | None:
    given = request.query.getall("days", [])
    if not given:
        return None
    if len(given) > 1 or not re.fullmatch(r"[0-9]{1,6}", given[0]) or not int(given[0]):
        raise _BadQueryError("days is a number of days, 1 or more")
    return int(given[0])


def _at_most(days: int, most: int) -> int:
    if days > most:
        raise _BadQueryError(f"days is a number from 1 to {most}")
    return days


def _cached(request: web.BaseRequest, text: str, kind: str) -> web.Response:
    """The text, or 304 if the client has it."""
    body = text.encode()
    etag = sha256(body).hexdigest()[:32]
    known = request.if_none_match or ()
    if any(each.value in {etag, "*"} for each in known):
        response = web.Response(status=304)
    else:
        response = web.Response(body=body, content_type=kind, charset="utf-8")
    response.etag = etag
    return response


def _json_response(content: dict[str, object], *, status: int = 200) -> web.Response:
    return web.Response(text=json.dumps(content), status=status, content_type="application/json")
