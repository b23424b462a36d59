"""FakeApi: a simulation of the service. Its responses match the live API, down to the types of the numbers. No I/O.

The behaviour follows the API's document and captures of live traffic (docs/spec-notes.md). If neither covers a case,
the likeliest behaviour is the default of a setting. For instance, a window ends at a fraction of a second while its
header shows whole seconds, so that a client that retries at the second of the header gets a 429.
"""

from __future__ import annotations

import base64
import binascii
import calendar
import datetime as dt
import itertools
import json
import math
import random
from collections.abc import Callable, Iterable, Mapping
from email.utils import format_datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from attrs import define, field, frozen

from twusage.clock import Clock, SystemClock
from twusage.models import UsageField
from twusage.protocol import Request, Response, read_usage
from twusage.testing.faults import Breakage, Fault, problem

__all__ = ["FakeApi", "FakeApp", "FakeProject", "Runaway", "SimulatedExchange"]

_SERIAL = itertools.count(1)
_TYPE = "https://api.twitter.com/2/problems/"


class Runaway(BaseException):
    """Raised after ``max_requests`` requests: the program under test does not stop.

    A BaseException, so that ``except Exception`` retry loops cannot swallow it.
    """


@define(eq=False)
class FakeApp:
    """A client app: its credentials, reads by day, and 15-minute window."""

    id: str
    """The client app's id."""
    tokens: list[str] = field(repr=False)
    """Its app-only bearer tokens. All of them share the app's window."""
    project: FakeProject | None = field(repr=False)
    """The project that the app is attached to. With ``None`` the API returns a 403."""
    api_key: str = field(repr=False)
    """The API key, for ``POST /oauth2/token``."""
    api_secret: str = field(repr=False)
    """The API key's secret."""
    _reads: dict[dt.date, int] = field(factory=dict, repr=False)
    _before_reading: Callable[[], object] = field(default=lambda: None, repr=False)
    window_start: float | None = None
    """When its window opened, in epoch seconds; ``None`` before the first call."""
    window_used: int = 0
    """Calls counted in its window."""

    @property
    def token(self) -> str:
        """The app's first bearer token."""
        return self.tokens[0]

    @property
    def reads(self) -> Mapping[dt.date, int]:
        """Posts read by day (UTC), without the days that have none. ``FakeApi.read_posts`` adds to them."""
        self._before_reading()
        return MappingProxyType(self._reads)


@define(eq=False)
class FakeProject:
    """A project: its cap, its reset day and its apps. All of them may be changed at any time."""

    id: str
    """The project's id: above 2**63, like live ids."""
    cap: int
    """Posts that the project may read in a billing cycle."""
    reset_day: int
    """The day of the month on which the cycle resets."""
    apps: list[FakeApp] = field(factory=list)
    """The attached client apps."""
    _today: Callable[[], dt.date] = field(default=lambda: dt.datetime.now(dt.UTC).date(), repr=False)

    def cycle_start(self, today: dt.date) -> dt.date:
        """Return the first day of the billing cycle. In a short month the cycle resets on the last day."""
        year, month = today.year, today.month
        if today.day < self._reset_in(year, month).day:
            year, month = (year, month - 1) if month > 1 else (year - 1, 12)
        return self._reset_in(year, month)

    def usage(self, today: dt.date | None = None) -> int:
        """Return the posts read in this day's cycle, up to the day. The default is today, by the fake's clock."""
        today = self._today() if today is None else today
        start = self.cycle_start(today)
        return sum(count for app in self.apps for day, count in app.reads.items() if start <= day <= today)

    def _reset_in(self, year: int, month: int) -> dt.date:
        return dt.date(year, month, min(self.reset_day, calendar.monthrange(year, month)[1]))


@frozen
class SimulatedExchange:
    """The outcome of a request: response, delay, and fault."""

    response: Response
    delay: float = 0.0
    breakage: Breakage | None = None


@define
class _Scripted:
    fault: Fault
    times: float
    when: Callable[[Request], bool] | None
    hits: int = 0

    def __str__(self) -> str:
        return f"{self.fault} (used {self.hits} of {self.times} times)"


class FakeApi:
    """A simulated service: one project, three apps, 90 days of reads.

    Args:
        apps: number of client apps of the project.
        cap: posts that the project may read in a billing cycle.
        reset_day: the day of the month on which the cycle resets, at 00:00 UTC.
        history_days: number of days with reads, including today; 0 for a project without reads.
        rate_limit: calls in one window of an app.
        rate_period: seconds from the first call of a window to its end.
        clock: the time of the service (default: the system's). ``FakeTransport(api, clock=...)`` sets it, too.
    """

    def __init__(
        self,
        *,
        apps: int = 3,
        cap: int = 2_000_000,
        reset_day: int = 10,
        history_days: int = 90,
        rate_limit: int = 50,
        rate_period: float = 900.0,
        clock: Clock | None = None,
    ) -> None:
        if not (1 <= reset_day <= 31 and cap >= 0 and apps >= 0 and rate_limit >= 1 and 0 < rate_period < math.inf):
            raise ValueError(
                "apps and cap must be 0 or more, reset_day 1 to 31, rate_limit 1 or more, rate_period above 0"
            )
        self.clock: Clock = SystemClock() if clock is None else clock
        self.rate_limit = rate_limit
        self.rate_period = rate_period
        self.date_skew = 0.0
        """Seconds by which the server's clock is ahead, in its ``Date`` header and its resets."""
        self.requests: list[Request] = []
        """All requests that arrived, in order."""
        self.max_requests = 10_000
        """Requests after which the fake raises ``Runaway``, because the program may be in an endless loop."""
        project_id = f"{1281043626347900822499 + next(_SERIAL)}"
        self.project = FakeProject(project_id, cap, reset_day, today=lambda: self._today(self.clock.time()))
        self.user_tokens: set[str] = set()
        """User-context tokens: rejected with a 403, as by the live endpoint."""
        self._apps: list[FakeApp] = []
        self._scripted: list[_Scripted] = []
        self._last: dict[str, Response] = {}
        self._bodies: dict[tuple[object, ...], bytes] = {}
        self._history_days = history_days
        self._refused_reads = 0
        self._transactions = itertools.count(0x9A3C)
        for _ in range(apps):
            self.add_app()

    @property
    def apps(self) -> tuple[FakeApp, ...]:
        """All client apps, of all projects and of none."""
        return tuple(self._apps)

    def add_app(self, *, project: FakeProject | None = None, attached: bool = True) -> FakeApp:
        """Add a client app and return it.

        It belongs to the project, to another one, or (``attached=False``) to none.
        """
        serial = next(_SERIAL)
        app = FakeApp(
            id=str(27_000_000 + serial * 1_117),
            tokens=[f"AAAAAAAAAAAAAAAAAAAAAFAKE{serial:04}%2Fno%2Freal%2Ftoken%3D{serial * 7919:x}"],
            project=(project or self.project) if attached else None,
            api_key=f"fakekey{serial:04}",
            api_secret=f"fakesecret{serial:04}",
            before_reading=lambda: self._today(self.clock.time()),
        )
        self._apps.append(app)
        self._bodies.clear()
        if app.project is not None:
            app.project.apps.append(app)
        return app

    def read_posts(self, app: FakeApp | str, count: int) -> None:
        """Count posts that an app read now through another endpoint. They count against its project's cap.

        If the project has already reached its cap, it counts nothing and raises ``UsageCapExceededError``, as the
        endpoints that read posts do. The last read before that may exceed the cap.
        """
        reader = next((known for known in self._apps if known is app or known.id == app), None)
        if reader is None:
            raise LookupError("this fake has no such app; pass one of api.apps, or its id")
        if type(count) is not int or count < 0:
            raise ValueError(f"count must be an int, 0 or more, got {count!r}")
        now = self.clock.time()
        today = self._today(now)
        if reader.project is not None and reader.project.usage(today) >= reader.project.cap:
            self._refused_reads += 1
            self._stop_runaway(self._refused_reads)
            read_usage(Fault.usage_capped().changed(Response(200, self._headers(now))))
        reader._reads[today] = reader._reads.get(today, 0) + count  # noqa: SLF001 - a class of this module
        self._bodies.clear()

    # -- Scripted faults -------------------------------------------------------------------------------------------

    def fail(self, fault: Fault, *, times: float = 1, when: Callable[[Request], bool] | None = None) -> None:
        """Apply a fault to the next ``times`` matching requests. ``math.inf``: to all.

        If several faults match a request, the one that was scripted first applies.
        """
        if not isinstance(fault, Fault):
            raise TypeError(f"fail() takes a Fault, such as Fault.status(503), got {fault!r}")
        if not times >= 1:
            raise ValueError(f"times must be 1 or more, got {times!r}")
        self._scripted.append(_Scripted(fault, times, when))

    def assert_all_used(self) -> None:
        """Raise ``AssertionError`` if a scripted fault was used less often than scripted.

        A fault with ``times=math.inf`` must have been used once. Otherwise the test did not reach the code that it is
        about.
        """
        left = [scripted for scripted in self._scripted if math.isfinite(scripted.times) or not scripted.hits]
        if left:  # not an assert statement, because python -O removes those
            raise AssertionError(f"scripted and not used: {', '.join(map(str, left))}")

    def _stop_runaway(self, requests: int) -> None:
        if requests > self.max_requests:
            raise Runaway(
                f"{self.max_requests} requests to one fake: is the program in an endless loop? "
                "If not, increase api.max_requests"
            )

    def _next_fault(self, request: Request) -> Fault | None:
        for scripted in self._scripted:
            if scripted.when is None or scripted.when(request):
                scripted.hits += 1
                if scripted.hits >= scripted.times:
                    self._scripted.remove(scripted)
                return scripted.fault
        return None

    # -- Responses ---------------------------------------------------------------------------------------------------

    def handle(self, request: Request, now: float | None = None) -> Response:
        """Return the response to a request at ``now``. It is in epoch seconds (default: the clock's time)."""
        return self.exchange(request, now).response

    def exchange(self, request: Request, now: float | None = None) -> SimulatedExchange:
        """Return the response to a request, and its scripted fault."""
        now = self.clock.time() if now is None else now
        fault = self._next_fault(request)
        if fault is not None and fault.breakage is Breakage.CONNECT:
            return SimulatedExchange(Response(503), breakage=fault.breakage)
        self.requests.append(request)
        self._stop_runaway(len(self.requests))
        app = self._app_of(request)
        if fault is not None and fault.spends_window and app is not None:
            self._open_window(app, now)
            app.window_used = self.rate_limit
        key = "" if app is None else app.id
        response = self._respond(request, app, now)
        if fault is not None:
            if fault.repeats:
                response = self._last.get(key, response)
            return SimulatedExchange(fault.changed(response), fault.delay, fault.breakage)
        self._last[key] = response
        return SimulatedExchange(response)

    def _respond(self, request: Request, app: FakeApp | None, now: float) -> Response:  # noqa: PLR0911 - a table
        path, query = urlsplit(request.url).path, urlsplit(request.url).query
        if path == "/oauth2/token" and request.method == "POST":
            return self._token_response(request, now)
        if path != "/2/usage/tweets" or request.method != "GET":
            return Response(404, self._headers(now), problem(404, type=f"{_TYPE}resource-not-found"))
        token = _credentials(request, "Bearer")
        if token in self.user_tokens:
            return Response(403, self._headers(now), _USER_CONTEXT)
        if app is None:
            return Response(401, self._headers(now), problem(401))
        headers = self._headers(now) | self._count_call(app, now)
        if headers.pop("exhausted", None):
            return Response(429, headers, problem(429))
        if app.project is None:
            return Response(403, headers, _not_enrolled(app))
        parameters = parse_qs(query, keep_blank_values=True)
        if rejection := _check_parameters(parameters):
            return Response(400, headers, rejection)
        days = int(parameters["days"][0]) if "days" in parameters else 7
        fields = parameters.get("usage.fields", [""])[0].split(",")
        return Response(200, headers, self._body(app.project, self._today(now), days, fields))

    def _body(self, project: FakeProject, today: dt.date, days: int, fields: list[str]) -> bytes:
        # Cached, because most requests of a test are equal, and adding up 90 days is slow.
        key = (project.id, project.cap, project.reset_day, today, days, *(app.id for app in project.apps), *fields)
        if key not in self._bodies:
            self._bodies[key] = json.dumps({"data": _data(project, today, days, fields)}).encode()
        return self._bodies[key]

    def _token_response(self, request: Request, now: float) -> Response:
        for app in self._apps:
            if _credentials(request, "Basic") == f"{app.api_key}:{app.api_secret}":
                document = {"token_type": "bearer", "access_token": app.token}
                return Response(200, self._headers(now), json.dumps(document).encode())
        refusal = {"code": 99, "label": "authenticity_token_error", "message": "Unable to verify your credentials"}
        return Response(403, self._headers(now), json.dumps({"errors": [refusal]}).encode())

    def _app_of(self, request: Request) -> FakeApp | None:
        token = _credentials(request, "Bearer")
        return next((app for app in self._apps if token in app.tokens), None)

    # -- The window of each app ---------------------------------------------------------------------------------------

    def _count_call(self, app: FakeApp, now: float) -> dict[str, str]:
        self._open_window(app, now)
        assert app.window_start is not None
        exhausted = app.window_used >= self.rate_limit
        app.window_used += not exhausted
        reset = int(app.window_start + self.rate_period + self.date_skew)
        headers = {
            "x-rate-limit-limit": str(self.rate_limit),
            "x-rate-limit-remaining": str(max(0, self.rate_limit - app.window_used)),
            "x-rate-limit-reset": str(reset),
        }
        return headers | ({"exhausted": "yes"} if exhausted else {})

    def _open_window(self, app: FakeApp, now: float) -> None:
        if app.window_start is None or now >= app.window_start + self.rate_period:
            app.window_start, app.window_used = now, 0

    # -- Time ---------------------------------------------------------------------------------------------------------

    def _headers(self, now: float) -> dict[str, str]:
        return {
            "content-type": "application/json; charset=utf-8",
            "date": _http_date(int(now + self.date_skew)),
            "api-version": "2.163",
            "x-access-level": "read",
            "x-transaction-id": f"{next(self._transactions):016x}",
        }

    def _today(self, now: float) -> dt.date:
        today = dt.datetime.fromtimestamp(now, dt.UTC).date()
        if days := self._history_days:
            self._history_days = 0
            # The history ends today, by a clock that may be set after the fake is created.
            for position, app in enumerate(self._apps):
                app._reads |= _history(position, today, days)  # noqa: SLF001
        return today


@lru_cache(maxsize=64)
def _http_date(now: int) -> str:
    return format_datetime(dt.datetime.fromtimestamp(now, dt.UTC), usegmt=True)


def _history(position: int, today: dt.date, days: int) -> dict[dt.date, int]:
    """Return plausible reads of an app. Working days have more; every third app has days without reads."""
    dice = random.Random(position)  # noqa: S311 - not for cryptography
    typical = (24_000, 9_000, 1_500)[position % 3]
    reads = {}
    for ago in range(days - 1, -1, -1):
        day = today - dt.timedelta(days=ago)
        busy = 1.0 if day.weekday() < 5 else 0.6
        count = int(typical * busy * dice.uniform(0.6, 1.4))
        if position % 3 != 2 or dice.random() < 0.6:
            reads[day] = count
    return reads


def _data(project: FakeProject, today: dt.date, days: int, fields: Iterable[str]) -> dict[str, object]:
    data: dict[str, object] = {
        "cap_reset_day": project.reset_day,
        "project_cap": str(project.cap),
        "project_id": project.id,
        "project_usage": str(project.usage(today)),
    }
    since = today - dt.timedelta(days=days - 1)
    if UsageField.DAILY_PROJECT_USAGE in fields:
        sums: dict[dt.date, int] = {}
        for app in project.apps:
            for day, count in app.reads.items():
                sums[day] = sums.get(day, 0) + count
        data["daily_project_usage"] = {"project_id": project.id} | _rows(sums, since, today)
    if UsageField.DAILY_CLIENT_APP_USAGE in fields:
        data["daily_client_app_usage"] = [
            {"client_app_id": app.id, "usage_result_count": len(rows.get("usage", ()))} | rows
            for app in project.apps
            for rows in [_rows(app.reads, since, today)]
        ]
    return data


def _rows(counts: Mapping[dt.date, int], since: dt.date, until: dt.date) -> dict[str, Any]:
    rows = [
        {"date": f"{day.isoformat()}T00:00:00.000Z", "usage": str(count)}
        for day, count in sorted(counts.items())
        if since <= day <= until and count
    ]
    return {"usage": rows} if rows else {}  # The live API omits the key if there are no rows.


def _credentials(request: Request, scheme: str) -> str | None:
    given, _, value = request.headers.get("authorization", "").partition(" ")
    if given.lower() != scheme.lower():  # RFC 9110, 11.1
        return None
    if scheme != "Basic":
        return str(value)
    try:
        return unquote(base64.b64decode(value, validate=True).decode())
    except (binascii.Error, UnicodeDecodeError):
        return None


def _check_parameters(parameters: Mapping[str, list[str]]) -> bytes | None:
    for name, values in parameters.items():
        if len(values) > 1:  # seen live, with another name: abraham/twitteroauth#1028
            return _invalid(name, values, f"Duplicate parameters are not allowed: the `{name}` query parameter")
        if name == "days":
            value = values[0]
            if not (value.isascii() and value.isdigit() and len(value) < 10 and 1 <= int(value) <= 90):
                return _invalid(name, values, f"The `days` query parameter value [{value}] is not between 1 and 90")
        elif name == "usage.fields":
            for value in values[0].split(","):
                if value not in set(UsageField):
                    known = ",".join(UsageField)
                    return _invalid(
                        name, values, f"The `usage.fields` query parameter value [{value}] is not one of [{known}]"
                    )
        else:
            return _invalid(name, values, f"The query parameter [{name}] is not one of [days,usage.fields]")
    return None


def _invalid(name: str, values: list[str], message: str) -> bytes:
    return json.dumps(
        {
            "errors": [{"parameters": {name: values}, "message": message}],
            "title": "Invalid Request",
            "detail": "One or more parameters to your request was invalid.",
            "type": f"{_TYPE}invalid-request",
        }
    ).encode()


_USER_CONTEXT = problem(
    403,
    title="Unsupported Authentication",
    detail="Authenticating with OAuth 2.0 User Context is forbidden for this endpoint. Supported authentication types "
    "are [OAuth 2.0 Application-Only].",
    type=f"{_TYPE}unsupported-authentication",
)


def _not_enrolled(app: FakeApp) -> bytes:
    return json.dumps(
        {
            "client_id": app.id,
            "detail": "When authenticating requests to the Twitter API v2 endpoints, you must use keys and tokens from "
            "a Twitter developer App that is attached to a Project. You can create a project via the developer portal.",
            "registration_url": "https://developer.twitter.com/en/docs/projects/overview",
            "title": "Client Forbidden",
            "required_enrollment": "Appropriate Level of API Access",
            "reason": "client-not-enrolled",
            "type": f"{_TYPE}client-forbidden",
        }
    ).encode()
