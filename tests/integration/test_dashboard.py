"""The poller, the site and its guards, without a socket."""

from __future__ import annotations

import base64
import csv
import datetime as dt
import io
import json
from contextlib import suppress

import pytest

pytest.importorskip("jinja2")
pytest.importorskip("prometheus_client.aiohttp")

from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from attrs import evolve

from twusage import RetryPolicy, UsageClient
from twusage.dashboard.guards import HEADERS, Guard, is_loopback
from twusage.dashboard.poller import Failure, Poller
from twusage.dashboard.site import Site
from twusage.display.html import static_hash
from twusage.errors import (
    BadRequestError,
    ConnectError,
    DecodeError,
    ProtocolError,
    QuotaError,
    RateLimitedError,
    RequestTimeoutError,
    ServerError,
    TwUsageError,
)
from twusage.models import ClientAppUsage
from twusage.monitor import History, ThresholdCrossed, WatchFailing, WatchRecovered
from twusage.testing import FakeApi, FakeTransport, Fault, VirtualClock

LOCAL = Guard(("127.0.0.1",))
PASSWORD = "correct horse: battery staple"
DAY = dt.timedelta(days=1)


@pytest.fixture
def client(twusage_api: FakeApi, twusage_transport: FakeTransport, twusage_clock: VirtualClock) -> UsageClient:
    token = twusage_api.apps[0].token
    return UsageClient(token, transport=twusage_transport, clock=twusage_clock, retry=RetryPolicy.none())


@pytest.fixture
def poller(client: UsageClient) -> Poller:
    return Poller(client, every=300)


async def ask(site: Site, path: str = "/", method: str = "GET", **headers: str) -> web.Response:
    names = {"Host": "localhost:8081"} | {name.replace("_", "-"): value for name, value in headers.items()}
    response = await site.handle(make_mocked_request(method, path, headers=names))
    assert isinstance(response, web.Response)
    return response


async def body(site: Site, path: str = "/") -> str:
    response = await ask(site, path)
    assert response.status == 200, response.text
    return response.text or ""


async def poll(poller: Poller) -> None:
    """One poll, as the watch makes it."""
    with suppress(TwUsageError):
        await poller.get_usage(days=90)


async def run_for(poller: Poller, seconds: float) -> None:
    """The poller's own task for some virtual seconds."""
    poller.start()
    await poller.clock.sleep(seconds)
    await poller.stop()


class TestPoller:
    async def test_polls_at_intervals(self, poller: Poller, twusage_api: FakeApi) -> None:
        """One call each five minutes, and the newest response stands."""
        await run_for(poller, 1500)
        assert len(twusage_api.requests) == 5
        assert poller.usage is not None
        assert poller.now - poller.usage.fetched_at <= dt.timedelta(minutes=5)
        assert poller.next_at is not None
        assert poller.failure is None

    async def test_alive(self, poller: Poller, twusage_api: FakeApi) -> None:
        """A poller lives in every state of the API, and is dead when its client is closed."""
        twusage_api.fail(Fault.status(503), times=4)
        alive = [poller.is_alive]
        await poller.stop()
        poller.start()
        await poller.clock.sleep(600)
        alive.append(poller.is_alive)
        await poller.client.aclose()
        await poller.clock.sleep(600)
        alive.append(poller.is_alive)
        await poller.stop()
        assert alive == [False, True, False]

    async def test_refused_credentials_do_not_end_it(self, poller: Poller, twusage_api: FakeApi) -> None:
        """A 401 is a state. The poller goes on, recovers, and reports both once."""
        await poll(poller)
        twusage_api.fail(Fault.status(401), times=9)
        await run_for(poller, 1000)
        failing, *rest = poller.events
        assert isinstance(failing, WatchFailing)
        assert not rest
        assert failing.to_dict()["error"] == {"type": "AuthenticationError", "message": str(failing.error)}
        assert poller.failure is not None
        assert poller.failure.code == "auth"
        assert poller.usage is not None

    async def test_recovers(self, poller: Poller, twusage_api: FakeApi) -> None:
        """After an outage the failure is gone, and the events have its duration."""
        twusage_api.fail(Fault.status(503), times=3)
        await run_for(poller, 1000)
        kinds = [type(event) for event in poller.events]
        assert kinds[:2] == [WatchFailing, WatchRecovered]
        assert poller.failure is None

    async def test_one_check_for_each_kind_of_failure(self, poller: Poller, twusage_api: FakeApi) -> None:
        """Without numbers, client.check() explains the first failure. It does not run at each poll."""
        twusage_api.fail(Fault.status(401), times=99)
        for _ in range(3):
            await poll(poller)
        assert len(twusage_api.requests) == 4
        assert poller.failure is not None
        assert poller.failure.message

    async def test_no_check_for_an_outage_with_numbers(self, poller: Poller, twusage_api: FakeApi) -> None:
        """With numbers, a 503 explains itself."""
        await poll(poller)
        twusage_api.fail(Fault.status(503))
        await poll(poller)
        assert len(twusage_api.requests) == 2

    async def test_a_check_that_finds_nothing(self, poller: Poller, twusage_api: FakeApi) -> None:
        """If the check succeeds, the error itself is shown."""
        twusage_api.fail(Fault.status(503))
        await poll(poller)
        assert poller.failure is not None
        assert not poller.failure.message

    async def test_a_check_that_fails(self, poller: Poller, monkeypatch: pytest.MonkeyPatch) -> None:
        """If even the check fails, the error itself is shown."""

        async def refuse(*_: object, **__: object) -> None:
            raise TwUsageError("no")

        monkeypatch.setattr(poller.client, "check", refuse)
        monkeypatch.setattr(poller.client, "get_usage", refuse)
        await poll(poller)
        assert poller.failure is not None
        assert poller.failure.code == "other"

    async def test_since(self, poller: Poller, twusage_api: FakeApi, twusage_clock: VirtualClock) -> None:
        """A failure began with the first failed poll, even if the reason changes."""
        await poll(poller)
        began = poller.now
        for fault in (Fault.status(503), Fault.timeout()):
            twusage_api.fail(fault)
            await poll(poller)
            twusage_clock.jump(60)
        assert poller.failure is not None
        assert poller.failure.since == began
        assert poller.failure.code == "network"

    async def test_forgets_old_events(self, poller: Poller, monkeypatch: pytest.MonkeyPatch) -> None:
        """The events of years do not fill the memory."""
        monkeypatch.setattr("twusage.dashboard.poller._MAX_EVENTS", 1)
        poller.client.activity.requests = 0
        await run_for(poller, 10)
        assert len(poller.events) <= 1


@pytest.mark.parametrize(
    ("error", "words", "code"),
    [
        (ServerError("x", status=503), "The API is unavailable (503)", "server"),
        (QuotaError("x", status=403), "the cap, the credits or the spending limit is used up", "quota"),
        (RateLimitedError("x"), "No calls are left in the 15-minute window", "rate_limited"),
        (BadRequestError("x", status=400), "The API refuses the request (400)", "other"),
        (RequestTimeoutError("x"), "The API does not respond in time", "network"),
        (ConnectError("x", reason="refused"), "There is no connection to the API", "network"),
        (ProtocolError("x"), "The network breaks the API's responses", "network"),
        (DecodeError("x", path="$.data", excerpt="1"), "The API's response cannot be read", "decode"),
        (DecodeError("x", from_edge=True), "A page of a proxy or firewall came", "decode"),
        (ValueError("x"), "The call of the API fails", "other"),
    ],
)
def test_failures_in_words(error: Exception, words: str, code: str) -> None:
    """Each failure has a sentence for the page and a code for programs."""
    failure = Failure(error, dt.datetime.now(dt.UTC))
    assert words in failure.problem(refused_only=True).headline
    assert failure.code == code


def test_the_finding_of_a_check() -> None:
    """The finding stands on the page without numbers. Beside numbers only if the credentials are refused."""
    failure = Failure(ServerError("x", status=503), dt.datetime.now(dt.UTC), "the network is down", "check it")
    assert failure.problem(refused_only=False).headline == "The network is down"
    assert failure.problem(refused_only=False).detail == "The API returns status 503"
    assert failure.problem(refused_only=True).headline == "The API is unavailable (503)"
    finding = Failure(ConnectError("x", reason="dns"), dt.datetime.now(dt.UTC), "no such host")
    assert not finding.problem(refused_only=False).detail


class TestGuards:
    @pytest.mark.parametrize(
        "host",
        ["127.0.0.1", "localhost", "LOCALHOST:1", "[::1]:8081", "10.0.0.7", "usage.example.org:443", "[fe80::1]"],
    )
    async def test_allowed_hosts(self, poller: Poller, host: str) -> None:
        """Loopback, the bound host and --allow-host, without regard to case and port."""
        site = Site(poller, Guard(("10.0.0.7", "usage.example.org", "fe80::1")))
        assert (await ask(site, Host=host)).status == 200

    @pytest.mark.parametrize(
        ("host", "status"),
        [
            ("evil.example", 403),
            ("localhost.", 403),
            ("127.0.0.1.evil.example", 403),
            ("localhost:x", 403),
            ("localhost:1:2", 403),
            ("user@localhost", 403),
            ("[::1", 403),
            (" localhost", 403),
            ("::1", 403),
            ("", 400),
        ],
    )
    async def test_other_hosts(self, poller: Poller, host: str, status: int) -> None:
        """Any other Host is refused, and not repeated."""
        response = await ask(Site(poller, LOCAL), Host=host)
        assert response.status == status
        assert "evil" not in (response.text or "")

    async def test_no_host(self, poller: Poller) -> None:
        """A request without Host is malformed."""
        response = await Site(poller, LOCAL).handle(make_mocked_request("GET", "/", headers={}))
        assert response.status == 400

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
    async def test_methods(self, poller: Poller, method: str) -> None:
        """GET and HEAD only."""
        for path in ("/", "/healthz", "/nothing"):
            response = await ask(Site(poller, LOCAL), path, method)
            assert response.status == 405
            assert response.headers["Allow"] == "GET, HEAD"

    @pytest.mark.parametrize(
        ("mode", "site", "status"),
        [
            ("cors", "cross-site", 403),
            ("no-cors", "cross-site", 403),
            ("navigate", "cross-site", 200),
            ("cors", "same-origin", 200),
            ("", "cross-site", 403),
            ("navigate", "none", 200),
        ],
    )
    async def test_other_sites(self, poller: Poller, mode: str, site: str, status: int) -> None:
        """Another site may link to the page, and not load it."""
        response = await ask(Site(poller, LOCAL), Sec_Fetch_Site=site, Sec_Fetch_Mode=mode)
        assert response.status == status

    @pytest.mark.parametrize("user", ["", "any-name", "prometheus"])
    async def test_password(self, poller: Poller, user: str) -> None:
        """Any user name will do, and the password may hold a colon."""
        site = Site(poller, Guard(("127.0.0.1",), PASSWORD))
        given = base64.b64encode(f"{user}:{PASSWORD}".encode()).decode()
        assert (await ask(site, Authorization=f"Basic {given}")).status == 200
        assert (await ask(site, Authorization=f"basic  {given} ")).status == 200

    @pytest.mark.parametrize(
        "given",
        [
            "",
            "Basic",
            "Basic !!!!",
            "Basic é",
            "Bearer " + base64.b64encode(f"x:{PASSWORD}".encode()).decode(),
            "Basic " + base64.b64encode(PASSWORD.replace(":", "").encode()).decode(),
            "Basic " + base64.b64encode(f"x:{PASSWORD} ".encode()).decode(),
            "Basic " + base64.b64encode(b"x:\xff\xff").decode(),
        ],
    )
    async def test_wrong_password(self, poller: Poller, given: str) -> None:
        """A wrong password, or none, is 401 on every path but /healthz."""
        site = Site(poller, Guard(("127.0.0.1",), PASSWORD))
        for path in ("/", "/metrics", "/api/usage.json", "/static/page.css", "/nothing"):
            response = await ask(site, path, Authorization=given)
            assert response.status == 401
            assert response.headers["WWW-Authenticate"] == 'Basic realm="twusage", charset="UTF-8"'
        assert (await ask(site, "/healthz", Host="10.1.2.3")).status == 503
        assert PASSWORD not in repr(Guard(("x",), PASSWORD))

    @pytest.mark.parametrize(
        ("host", "expected"),
        [
            *(("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("LocalHost", True), ("0.0.0.0", False)),
            *(("::", False), ("10.0.0.1", False), ("usage.example.org", False), ("", False)),
        ],
    )
    def test_loopback(self, host: str, expected: bool) -> None:
        """Only loopback needs no password."""
        assert is_loopback(host) is expected


EVERYWHERE = (
    *("/", "/?days=7", "/?days=0", "/api/usage.json", "/api/days.csv", "/api/days.csv?days=x", "/metrics", "/healthz"),
    *("/favicon.svg", "/static/page.css", "/static/page.js", "/robots.txt", "/nothing", "/static/../x", "//x"),
)


class TestAnswers:
    @pytest.mark.parametrize("path", EVERYWHERE)
    async def test_headers(self, poller: Poller, path: str) -> None:
        """The same headers on every response."""
        for _ in range(2):
            for headers in ({}, {"Host": "evil"}):
                response = await ask(Site(poller, LOCAL), path, **headers)
                for name, value in HEADERS.items():
                    if name != "Cache-Control":
                        assert response.headers.getall(name) == [value]
                assert response.headers["Cache-Control"] == "private, no-cache"
                assert "Set-Cookie" not in response.headers
            await poll(poller)

    def test_policy(self) -> None:
        """The policy, byte for byte."""
        assert HEADERS["Content-Security-Policy"] == (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )

    async def test_pages_cost_no_call(self, poller: Poller, twusage_api: FakeApi) -> None:
        """A thousand pages and scrapes, and not one call of the API."""
        await poll(poller)
        site = Site(poller, LOCAL)
        for _ in range(1000):
            await body(site)
        for _ in range(20):
            for path in ("/metrics", "/api/usage.json", "/api/days.csv", "/?days=7"):
                await body(site, path)
        assert len(twusage_api.requests) == 1

    async def test_no_token(
        self, twusage_api: FakeApi, twusage_transport: FakeTransport, twusage_clock: VirtualClock, canary: str
    ) -> None:
        """The token is on no path in no state."""
        client = UsageClient(canary, transport=twusage_transport, clock=twusage_clock, retry=RetryPolicy.none())
        poller = Poller(client)
        site = Site(poller, LOCAL)
        for tokens in ([], [canary], []):
            twusage_api.apps[0].tokens[1:] = tokens
            await poll(poller)
            twusage_clock.jump(3600)
            for path in EVERYWHERE:
                response = await ask(site, path)
                assert canary[20:40] not in f"{response.headers} {response.text}"


class TestPage:
    async def test_waiting_then_numbers(self, poller: Poller, twusage_api: FakeApi) -> None:
        """Before the first response the page waits; then it has the numbers."""
        site = Site(poller, LOCAL, title="Our project", names={twusage_api.apps[0].id: "collector"})
        assert "No numbers yet." in await body(site)
        await poll(poller)
        html = await body(site)
        assert "Our project" in html
        assert "collector" in html
        assert "Posts read a day" in html

    async def test_never_an_answer(self, poller: Poller, twusage_api: FakeApi) -> None:
        """Without numbers, the page has the finding of client.check()."""
        twusage_api.fail(Fault.status(401), times=2)
        await poll(poller)
        html = await body(Site(poller, LOCAL))
        assert "No numbers" in html
        assert "twusage doctor" in html
        assert "status 401" in html

    async def test_stale(self, poller: Poller, twusage_api: FakeApi, twusage_clock: VirtualClock) -> None:
        """Numbers older than two intervals and a minute are stale. Younger ones are not, whatever failed."""
        await poll(poller)
        site = Site(poller, LOCAL)
        twusage_api.fail(Fault.status(503))
        await poll(poller)
        twusage_clock.jump(660)
        assert "minutes old" not in await body(site)
        assert (await ask(site, "/api/usage.json")).status == 200
        twusage_clock.jump(1)
        assert "These numbers are 11 minutes old." in await body(site)
        assert json.loads(await body(site, "/api/usage.json"))["stale"] is True

    async def test_etag(self, poller: Poller, twusage_api: FakeApi, twusage_clock: VirtualClock) -> None:
        """304 as long as the text is the same. It changes with the age, and with the numbers."""
        await poll(poller)
        site = Site(poller, LOCAL)
        etag = (await ask(site)).headers["ETag"]
        for known in (etag, f"W/{etag}", f'"x", {etag}', "*"):
            response = await ask(site, If_None_Match=known)
            assert response.status == 304
            assert not response.body
        twusage_clock.jump(61)
        aged = (await ask(site, If_None_Match=etag)).headers["ETag"]
        assert aged != etag
        await poll(poller)
        assert (await ask(site, If_None_Match=aged)).status == 200

    async def test_keeps_few_pages(self, poller: Poller, monkeypatch: pytest.MonkeyPatch) -> None:
        """Pages that were made are kept, but not without bound."""
        site = Site(poller, LOCAL)
        await poll(poller)
        for days in range(1, 25):
            await body(site, f"/?days={days}")
        assert len(site._pages) <= 16

    @pytest.mark.parametrize(
        "query",
        [
            *("days=0", "days=91", "days=-1", "days=", "days=7.0", "days=%2B7", "days=٧", "days=1e1", "days=7&days=8"),
            *("days=9999999", "cycle=next", "cycle=", "cycle=this&cycle=last", "cycle=this&days=7"),
        ],
    )
    async def test_bad_queries(self, poller: Poller, query: str) -> None:
        """Anything but plain digits from 1 to 90 is 400, without an echo."""
        response = await ask(Site(poller, LOCAL), f"/?{query}")
        assert response.status == 400
        assert query.partition("=")[2] not in {*(response.text or "").split()} - {"90"}

    async def test_cycles(self, poller: Poller, twusage_api: FakeApi) -> None:
        """This cycle and the last one. Before the first response, and without a cycle, 30 days."""
        site = Site(poller, LOCAL)
        assert "No numbers yet" in await body(site, "/?cycle=last")
        await poll(poller)
        assert poller.usage is not None
        cycle = await _cycle(site)
        for which, first in (("this", cycle[0]), ("last", cycle[0] - DAY)):
            html = await body(site, f"/?cycle={which}")
            assert f"{first:%a} {first.day} {first:%b}" in html
        poller.usage = evolve(poller.usage, cap_reset_day=None)
        poller.version += 1
        assert "Posts read a day" in await body(site, "/?cycle=this")


async def _cycle(site: Site) -> tuple[dt.date, dt.date]:
    cycle = json.loads(await body(site, "/api/usage.json"))["cycle"]
    return dt.date.fromisoformat(cycle["start"]), dt.date.fromisoformat(cycle["end"])


class TestData:
    async def test_json(self, poller: Poller) -> None:
        """The response, forecast, cycle and events, by the names of their fields."""
        await run_for(poller, 100)
        crossed = ThresholdCrossed(at=poller.now, project_id=None, cycle=None, threshold=0.5, used=1, cap=2)
        poller.events.append(crossed)
        answer = json.loads(await body(Site(poller, LOCAL), "/api/usage.json"))
        assert list(answer) == ["schema", "fetched_at", "age_seconds", "stale", "usage", "forecast", "cycle", "events"]
        assert answer["schema"] == 1
        assert poller.usage is not None
        assert answer["usage"] == poller.usage.to_dict()
        assert answer["age_seconds"] == pytest.approx(100, abs=1)
        assert set(answer["cycle"]) == {"start", "end", "reset_day"}
        assert answer["forecast"]["expected"] > answer["forecast"]["used"]
        assert answer["events"][-1] == crossed.to_dict()

    @pytest.mark.parametrize(("status", "code"), [(None, "waiting"), (401, "auth"), (503, "server")])
    async def test_json_before_the_first_response(
        self, poller: Poller, twusage_api: FakeApi, status: int | None, code: str
    ) -> None:
        """503 with the reason, as long as there was never a response."""
        if status is not None:
            twusage_api.fail(Fault.status(status), times=2)
            await poll(poller)
        response = await ask(Site(poller, LOCAL), "/api/usage.json")
        assert response.status == 503
        assert json.loads(response.text or "") == {"schema": 1, "error": code}

    async def test_csv(self, poller: Poller) -> None:
        """The days of the newest response: 90, or the requested number."""
        site = Site(poller, LOCAL)
        assert (await ask(site, "/api/days.csv")).status == 503
        assert (await ask(site, "/api/days.csv?days=91")).status == 400
        await poll(poller)
        assert poller.usage is not None
        whole = await ask(site, "/api/days.csv")
        assert whole.headers["Content-Disposition"] == 'attachment; filename="twusage-days.csv"'
        rows = list(csv.DictReader(io.StringIO(whole.text or "")))
        assert list(rows[0]) == ["date", "client_app_id", "usage"]
        assert len(rows) == len(poller.usage.to_rows())
        today = poller.now.date()
        week = {row["date"] for row in csv.DictReader(io.StringIO(await body(site, "/api/days.csv?days=7")))}
        assert week <= {(today - n * DAY).isoformat() for n in range(7)}
        assert len(week) == 7
        assert (await ask(site, "/api/days.csv?days=91")).status == 400

    async def test_csv_of_hostile_ids(self, poller: Poller) -> None:
        """An id is never a formula of a spreadsheet. A missing one is empty."""
        await poll(poller)
        assert poller.usage is not None
        apps = poller.usage.daily_client_app_usage
        hostile = (evolve(apps[0], client_app_id="=cmd()"), ClientAppUsage(None, apps[1].usage))
        poller.usage = evolve(poller.usage, daily_client_app_usage=hostile)
        text = await body(Site(poller, LOCAL), "/api/days.csv?days=1")
        assert ",'=cmd()," in text
        assert ",," in text

    async def test_metrics(self, poller: Poller) -> None:
        """The metrics are of the poller's client."""
        await poll(poller)
        assert "twusage_requests_total 1.0" in await body(Site(poller, LOCAL), "/metrics")

    async def test_static_files(self, poller: Poller) -> None:
        """With its hash a file may be kept for ever, else not."""
        site = Site(poller, LOCAL)
        version = static_hash("page.css")
        kept = await ask(site, f"/static/page.css?v={version}")
        assert kept.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert kept.content_type == "text/css"
        other = await ask(site, "/static/page.js?v=0")
        assert other.headers["Cache-Control"] == "private, no-cache"
        assert other.content_type == "text/javascript"

    async def test_health(self, poller: Poller) -> None:
        """200 while the poller lives, for any Host. 503 when it is dead."""
        site = Site(poller, LOCAL)
        poller.start()
        assert await body(site, "/healthz") == "ok\n"
        assert (await ask(site, "/healthz", Host="10.0.0.1:1")).status == 200
        await poller.stop()
        assert (await ask(site, "/healthz")).status == 503

    async def test_favicon_and_robots(self, poller: Poller) -> None:
        """The ring follows the numbers, and search engines stay away."""
        site = Site(poller, LOCAL)
        empty = await body(site, "/favicon.svg")
        await poll(poller)
        assert await body(site, "/favicon.svg") != empty
        assert await body(site, "/robots.txt") == "User-agent: *\nDisallow: /\n"


async def test_history(
    client: UsageClient, twusage_clock: VirtualClock, twusage_api: FakeApi, request: pytest.FixtureRequest
) -> None:
    """With a history, days.csv goes back as far as the history does."""
    pytest.importorskip("sqlalchemy")
    history: History = request.getfixturevalue("twusage_history")
    poller = Poller(client, history=history)
    site = Site(poller, LOCAL)
    await poll(poller)
    # Nothing is recorded yet: the history is as long as the API's days.
    assert (await ask(site, "/api/days.csv?days=91")).status == 400
    for _ in range(2):
        assert poller.usage is not None
        await history.record(poller.usage)
        twusage_clock.jump(20 * 86400)
        await poll(poller)
    assert poller.usage is not None
    await history.record(poller.usage)
    text = await body(site, "/api/days.csv?days=120")
    days = {row["date"] for row in csv.DictReader(io.StringIO(text))}
    assert min(days) < (poller.now.date() - 91 * DAY).isoformat()
    assert (await ask(site, "/api/days.csv?days=4000")).status == 400
    assert "last cycle</a>" in await body(site)
