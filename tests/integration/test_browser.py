"""The page in a real browser: Debian's Chromium, axe, the policy, the keyboard, and without JavaScript.

It needs Debian's ``chromium``, ``playwright`` and ``axe-playwright-python``. With CI set, a missing one is a failure.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

CHROMIUM = Path("/usr/bin/chromium")
_MISSING = []
if not CHROMIUM.exists():
    _MISSING.append("chromium: apt-get install chromium")
try:
    from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
    from playwright.sync_api import Browser, Error, Page, sync_playwright
except ModuleNotFoundError as error:
    _MISSING.append(f"{error.name}: pip install playwright axe-playwright-python")
if _MISSING:
    # tests_plain has no extra, and so nothing to show: there it may skip in CI, too.
    try:
        import jinja2  # noqa: F401
    except ModuleNotFoundError:
        pytest.skip("the page needs jinja2", allow_module_level=True)
    if os.environ.get("CI"):
        raise RuntimeError(f"CI demands {_MISSING}")
    pytest.skip(f"missing: {_MISSING}", allow_module_level=True)

pytest.importorskip("jinja2")
pytest.importorskip("prometheus_client.aiohttp")

from attrs import evolve
from usages import series, usage_of

from twusage import UsageClient
from twusage.dashboard.guards import HEADERS, Guard
from twusage.dashboard.poller import Failure, Poller
from twusage.dashboard.server import serving
from twusage.dashboard.site import Site
from twusage.display.html import report
from twusage.display.view import view_of
from twusage.errors import AuthenticationError, ServerError
from twusage.models import ClientAppUsage, DailySeries, ProjectUsage, Usage
from twusage.monitor import CycleReset, ForecastCrossed, ThresholdCrossed, cycle_of

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run"),
)
NOW = dt.datetime(2026, 11, 25, 14, 12, tzinfo=dt.UTC)
HOSTILE = "<script>alert(1)</script>\"'&amp;" + "W" * 60


class _Clock:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = NOW

    def time(self) -> float:
        return self.now.timestamp()

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Server:
    """The site on a real socket, in a thread of its own, whose poller the tests set."""

    def __init__(self) -> None:
        self.clock = _Clock()
        self.poller = Poller(UsageClient("AAAA" + "x" * 40, clock=self.clock))
        self.port = 0
        self._stop: asyncio.Event
        self._loop: asyncio.AbstractEventLoop
        self._ready = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._run(),), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        site = Site(self.poller, Guard(("127.0.0.1",)), names={"app 0": "collector", "app 1": "alerts bot"})
        async with serving(site.handle, "127.0.0.1", self.port) as self.port:
            self._ready.set()
            await self._stop.wait()

    def show(self, state: str) -> None:
        """Put the poller into a state."""
        poller, self.clock.now = self.poller, NOW
        poller.usage, poller.failure, poller.events = _STATES[state], None, []
        poller.next_at = NOW + dt.timedelta(minutes=3)
        poller.version += 1
        if state == "never":
            error = AuthenticationError("no", status=401)
            advice = "Copy it exactly as the portal shows it"
            poller.failure = Failure(error, NOW, "the API does not accept the bearer token", advice)
        if state == "stale":
            poller.failure = Failure(ServerError("no", status=503), NOW)
            self.clock.now = NOW + dt.timedelta(minutes=45)
        if poller.usage is not None and poller.usage.cap_reset_day is not None:
            common: dict[str, Any] = {"project_id": "1", "cycle": cycle_of(poller.usage)}
            poller.events = [
                CycleReset(at=NOW - dt.timedelta(days=15), previous=dt.date(2026, 10, 10), used=1, cap=2, **common),
                ThresholdCrossed(at=NOW - dt.timedelta(days=4), threshold=0.25, used=1, cap=4, **common),
            ]
            if state == "runs out":
                low: dict[str, Any] = {"expected": 2, "low": 2, "high": 3, "exhausts_on": dt.date(2026, 12, 6)}
                poller.events.append(ForecastCrossed(at=NOW, cap=1, **low, **common))


def _big(apps: int) -> Usage:
    days = tuple(NOW.date() - dt.timedelta(days=n) for n in reversed(range(90)))
    usages = tuple(
        ClientAppUsage(f"{27_000_000 + n}", DailySeries(days, tuple(9_000 + n * day % 5_000 for day in range(90))), 90)
        for n in range(apps)
    )
    totals = tuple(map(sum, zip(*(app.usage.counts for app in usages), strict=True)))
    project = ProjectUsage("1", DailySeries(days, totals))
    return usage_of(cap=30_000_000, used=7_939_694, daily_project_usage=project, daily_client_app_usage=usages)


_STATES: dict[str, Usage | None] = {
    "on track": usage_of(),
    "close": usage_of(cap=1_050_000),
    "runs out": usage_of(cap=900_000),
    "used up": usage_of(cap=500_000),
    "early": usage_of(known_days=2),
    "unknown": usage_of(cap=None),
    "no days": usage_of(known_days=0, apps=0),
    "waiting": None,
    "never": None,
    "stale": usage_of(),
    "big": _big(50),
    "hostile": usage_of(
        project_id=HOSTILE,
        daily_client_app_usage=tuple(
            ClientAppUsage(f"{n}{HOSTILE}", series(*[9_000 - n * 999] * 90), 90) for n in range(3)
        ),
    ),
}


@pytest.fixture(scope="module")
def server() -> Iterator[_Server]:
    with _Server() as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context(viewport={"width": 1200, "height": 900}) as context:
        yield context.new_page()


def opened(context: BrowserContext | Page, url: str) -> tuple[Page, list[str]]:
    """A page, and the errors of its console and its requests."""
    page = context if isinstance(context, Page) else context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
    page.on("request", lambda request: None if "127.0.0.1" in request.url else complaints.append(request.url))
    page.goto(url)
    return page, complaints


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_state(server: _Server, browser: Browser, width: int, scheme: Any) -> None:
    """Axe finds nothing, the console is empty, no other host is called, and nothing is wider than the window."""
    with browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme) as context:
        page = context.new_page()
        for state in _STATES:
            server.show(state)
            page, complaints = opened(page, f"{server.url}/?days={90 if state == 'big' else 30}")
            if width == 390 and state != "big":  # Long tables take axe seconds, and one is like the others.
                page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
            assert page.evaluate("document.documentElement.scrollWidth") == width, state
            violations = [(each["id"], each["nodes"][0]["html"]) for each in _axe(page)]
            assert (violations, complaints) == ([], []), state
            assert page.locator("h1").count() == 1


def _axe(page: Page) -> list[Any]:
    found: list[Any] = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return found


def _overlaps(page: Page, selector: str) -> list[str]:
    """Pairs of texts in a picture that touch."""
    found: list[str] = page.evaluate(
        """(selector) => {
            const boxes = [...document.querySelectorAll(selector)]
                .map((each) => [each.textContent, each.getBoundingClientRect()])
                .filter(([, box]) => box.width);
            return boxes.flatMap(([one, a], at) => boxes.slice(at + 1).filter(([, b]) =>
                a.left < b.right && b.left < a.right && a.top < b.bottom - 3 && b.top < a.bottom - 3)
                .map(([other]) => `${one} | ${other}`));
        }""",
        selector,
    )
    return found


def test_no_label_on_another(server: _Server, page: Page) -> None:
    """The labels of the gauge and of the chart are apart, at every width."""
    states = ("on track", "close", "runs out", "used up", "early", "big")
    for state, days in (*((state, 30) for state in states), ("on track", 7), ("big", 90)):
        server.show(state)
        page.goto(f"{server.url}/?days={days}")
        for width in (320, 390, 600, 794, 1000, 1080, 1200, 1600):
            page.set_viewport_size({"width": width, "height": 900})
            for selector in (".gauge text", ".days > text"):
                assert _overlaps(page, selector) == [], (width, state, days)


def test_targets(server: _Server, page: Page) -> None:
    """Every link and summary is at least 24 pixels high."""
    server.show("big")
    page.goto(server.url)
    heights = page.evaluate(
        "[...document.querySelectorAll('nav a, footer a, summary')].map((each) => each.getBoundingClientRect().height)"
    )
    assert len(heights) >= 8
    assert min(heights) >= 24


def test_keyboard(server: _Server, page: Page) -> None:
    """Tab goes to each link, the days, the table and the apps. Each shows a ring of 3 px."""
    server.show("big")
    page.goto(server.url)
    order = []
    for _ in range(9):
        page.keyboard.press("Tab")
        found = page.evaluate(
            "[document.activeElement.textContent.trim(), getComputedStyle(document.activeElement).outlineWidth]"
        )
        order.append(found[0])
        assert found[1] == "3px"
    assert order[:6] == [
        "Skip to the numbers",
        "7 days",
        "30 days",
        "90 days",
        "Show the days as a table",
        order[5],
    ]
    assert order[5].startswith("44 more apps")
    assert order[6:] == ["JSON", "CSV", "Metrics"]


def test_without_javascript(server: _Server, browser: Browser) -> None:
    """Everything is there without JavaScript: the chart, the table, the apps."""
    server.show("on track")
    with browser.new_context(java_script_enabled=False) as context:
        page, complaints = opened(context, server.url)
        assert page.locator(".days g rect").count() == 90
        page.locator("#table summary").click()
        assert page.get_by_role("row", name="Wed 25 Nov so far").is_visible()
        assert page.get_by_role("link", name="90 days").is_visible()
        assert complaints == []


def test_an_update(server: _Server, page: Page) -> None:
    """New numbers come without a reload. What was opened stays open, and the focus stays."""
    server.show("on track")
    page.clock.install()
    page, complaints = opened(page, server.url)
    page.locator("#table summary").click()
    link = page.get_by_role("link", name="90 days")
    link.focus()
    server.show("runs out")
    page.clock.run_for(15_500)
    page.locator("h1", has_text="runs out").wait_for()
    assert page.title() == "58% used · twusage"
    assert page.locator("#table").get_attribute("open") is not None
    assert page.evaluate("document.activeElement.textContent") == "90 days"
    page.locator("#table summary").focus()
    server.show("close")
    page.clock.run_for(15_500)
    page.locator("h1", has_text="Close").wait_for()
    assert page.evaluate("document.activeElement.textContent") == "Show the days as a table"
    assert complaints == []


def test_an_unchanged_page(server: _Server, page: Page) -> None:
    """A page that is the same costs a 304."""
    server.show("on track")
    page.clock.install()
    statuses: list[int] = []
    page.on("response", lambda response: statuses.append(response.status) if response.url.endswith("/") else None)
    page.goto(server.url)
    for expected in (2, 3):
        page.clock.run_for(15_500)
        for _ in range(100):
            if len(statuses) >= expected:
                break
            page.wait_for_timeout(20)
    assert statuses == [200, 200, 304]


def test_a_server_that_is_gone(browser: Browser) -> None:
    """After two polls that failed, the page shows since when. When the server is back, the banner goes."""
    with browser.new_context() as context:
        page = context.new_page()
        page.clock.install(time=NOW)
        with _Server() as gone:
            gone.show("on track")
            page.goto(gone.url)
            assert page.locator("#lost").is_hidden()
        for _ in range(2):
            page.clock.run_for(15_500)
            page.wait_for_timeout(200)
        page.locator("#lost").wait_for(state="visible", timeout=5000)
        assert "twusage serve has not responded since 14:12 UTC." in page.locator("#lost").inner_text()
        again = _Server()
        again.port = gone.port
        with again:
            again.show("on track")
            page.clock.run_for(15_500)
            page.locator("#lost").wait_for(state="hidden", timeout=5000)


def test_first_paint(server: _Server, page: Page) -> None:
    """The page is there immediately, and small."""
    server.show("on track")
    page.goto(server.url)
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint').map((each) => each.startTime)")
    assert not paint or paint[0] < 2_000


def test_forced_colours_and_print(server: _Server, browser: Browser) -> None:
    """In forced colours and on paper, the chart and the numbers are there."""
    server.show("on track")
    with browser.new_context(forced_colors="active") as context:
        page = context.new_page()
        page.goto(server.url)
        assert page.locator(".days text").first.is_visible()
        page.emulate_media(media="print", forced_colors="none")
        assert page.locator("nav").is_hidden()
        assert page.locator(".days").is_visible()


def test_text_at_200_percent(server: _Server, browser: Browser) -> None:
    """At 200 % nothing is cut off. It is a window of half the width."""
    server.show("hostile")
    with browser.new_context(viewport={"width": 320, "height": 800}) as context:
        page = context.new_page()
        page.goto(server.url)
        assert page.evaluate("document.documentElement.scrollWidth") == 320


def test_the_policy_holds(server: _Server, page: Page) -> None:
    """What an id could smuggle in would not run. The policy refuses inline scripts and other hosts."""
    server.show("on track")
    response = page.goto(server.url)
    assert response is not None
    assert response.headers["content-security-policy"] == HEADERS["Content-Security-Policy"]
    page.evaluate("const s = document.createElement('script'); s.text = 'window.hit = 1'; document.head.append(s)")
    assert page.evaluate("window.hit") is None
    with pytest.raises(Error):
        page.evaluate("fetch('http://localhost:1/')")


def test_report_under_the_policy_of_jenkins(browser: Browser, tmp_path: Path) -> None:
    """Without style sheets and scripts the shapes have their colours. The console reports only the style sheet."""
    usage = evolve(usage_of(), fetched_at=NOW)
    html = report(view_of(usage, now=NOW, days=30))
    policy = "sandbox; default-src 'none'; img-src 'self'; style-src 'self';"
    with browser.new_context(viewport={"width": 1000, "height": 800}) as context:
        page = context.new_page()
        page.route(
            "http://jenkins.test/report.html",
            lambda route: route.fulfill(
                body=html, content_type="text/html", headers={"Content-Security-Policy": policy}
            ),
        )
        page.goto("http://jenkins.test/report.html")
        fill = page.locator(".days g").first.get_attribute("fill")
        assert fill == "#2563eb"
        box = page.locator(".days").bounding_box()
        assert box is not None
        assert box["width"] > 900
        assert _overlaps(page, ".gauge text") == []
