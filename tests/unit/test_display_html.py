"""The page and the report, as text: every state, every number, nothing that a browser could take for markup."""

from __future__ import annotations

import datetime as dt
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

pytest.importorskip("jinja2")

from attrs import evolve
from usages import DAY, NOW, series, usage_of

from twusage.display import svg
from twusage.display.format import number
from twusage.display.html import Feed, Problem, page, report, static_file, static_hash, waiting_page
from twusage.display.view import View, view_of
from twusage.models import ClientAppUsage, DailySeries, ProjectUsage, RateLimit
from twusage.monitor import BillingCycle, ThresholdCrossed

LATER = NOW + dt.timedelta(minutes=2)
FEED = Feed(now=LATER, every=300, next_at=NOW + dt.timedelta(minutes=5))
HOSTILE = "<script>alert(1)</script>\"'&amp;" + "W" * 40


def view(days: int = 30, *, now: dt.datetime = LATER, **fields: Any) -> View:
    options = {name: fields.pop(name) for name in ("names", "events", "stale_after", "until") if name in fields}
    return view_of(usage_of(**fields), now=now, days=days, **options)


class _Reader(HTMLParser):
    """The text of a page, its tags, and its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def text(html: str) -> str:
    return " ".join(" ".join(_Reader(html).words).split())


class TestStates:
    @pytest.mark.parametrize(
        ("fields", "pill", "sentence"),
        [
            ({}, "On track", "On track for 84% of the cap by Thu 10 Dec."),
            (
                {"cap": 1_050_000},
                "Close to the cap",
                "Close: 96% of the cap by Thu 10 Dec, perhaps more than all of it.",
            ),
            ({"cap": 900_000}, "Will run out", "the cap runs out on Sun 6 Dec, 4 days before the reset."),
            ({"cap": 500_000}, "Cap used up", "The cap is used up. Reading stops until Thu 10 Dec."),
            ({"known_days": 2}, "Too early to tell", "522,849 of 1,200,000 posts read."),
            ({"cap_reset_day": None}, "Too early to tell", "522,849 of 1,200,000 posts read."),
            ({"cap": None}, "Unknown", "The API does not say the cap."),
            ({"used": None}, "Unknown", "The API does not say how much of the cap is used."),
        ],
    )
    def test_verdict(self, fields: dict[str, Any], pill: str, sentence: str) -> None:
        """Each state has its words, one h1, and the days."""
        html = page(view(**fields), FEED)
        assert f"</svg>{pill}</span>" in html
        assert sentence in text(html)
        assert html.count("<h1>") == 1
        assert "Posts read a day" in html

    @pytest.mark.parametrize("fields", [{"cap": None}, {"used": None}, {"cap": 0}])
    def test_without_a_gauge(self, fields: dict[str, Any]) -> None:
        """An unknown cap has no gauge."""
        assert 'class="gauge' not in page(view(**fields), FEED)

    def test_title(self) -> None:
        """The tab says how much is used; without a cap, the state."""
        assert "<title>44% used · twusage</title>" in page(view(), FEED)
        assert "<title>Unknown · twusage</title>" in page(view(cap=None), FEED)

    def test_used_up_has_no_forecast_and_no_safe_pace(self) -> None:
        """When the cap is used up, there is nothing to forecast."""
        html = page(view(cap=500_000), FEED)
        assert "forecast" not in html.partition("This cycle")[0]
        assert "safe" not in html
        assert "104.6% used" in html

    def test_no_days(self) -> None:
        """Days without a read are a sentence, not an empty chart."""
        html = page(view(known_days=0, apps=0), FEED)
        assert "No posts were read on these days." in html
        assert 'class="days"' not in html

    def test_waiting(self) -> None:
        """Before the first response there are no numbers and no links to them."""
        html = waiting_page(Feed(now=NOW, every=300))
        assert "No numbers yet." in html
        assert "first call under way" in html
        assert "usage.json" not in html

    @pytest.mark.parametrize("next_at", [None, NOW])
    def test_never_an_answer(self, next_at: dt.datetime | None) -> None:
        """Without any numbers, the page says why, what to do, and when the next call is."""
        problem = Problem(headline="The API refuses the token", since=NOW, detail="Status 401", advice="Copy it again")
        html = waiting_page(Feed(now=NOW, every=300, next_at=next_at, problem=problem))
        assert "The API refuses the token." in html
        assert "Status 401 since 14:10 UTC. No numbers have come yet." in html
        assert "Copy it again." in html
        assert "<pre>twusage doctor</pre>" in html
        assert ("a call is under way" if next_at is None else "next try 14:10 UTC") in html
        assert "Since 14:10" in waiting_page(Feed(now=NOW, every=300, problem=Problem(headline="x", since=NOW)))

    @pytest.mark.parametrize(
        ("minutes", "age"), [(12, "12 minutes"), (47, "47 minutes"), (119, "119 minutes"), (180, "3 hours")]
    )
    def test_stale(self, minutes: int, age: str) -> None:
        """Old numbers are grey, and a banner names their age and the reason; the sentence stays."""
        now = NOW + dt.timedelta(minutes=minutes)
        problem = Problem(headline="The API is in trouble (503)", since=NOW, advice="Wait")
        html = page(view(now=now, stale_after=660), evolve(FEED, now=now, problem=problem))
        assert f"<b>These numbers are {age} old.</b>" in html
        assert "The API is in trouble (503) since 14:10 UTC. Wait. Next try at 14:15 UTC." in html
        assert "On track at 14:10 UTC" in html
        assert "On track for 84%" in html
        assert 'class="used idle"' in html

    def test_stale_without_a_reason(self) -> None:
        """A suspended machine has old numbers, and a call under way, without a failure."""
        now = NOW + dt.timedelta(hours=9)
        html = page(view(now=now, stale_after=660), Feed(now=now, every=300))
        assert "A call is under way." in html
        problem = Problem(headline="The network is down", since=NOW)
        html = page(view(now=now, stale_after=660), Feed(now=now, every=300, problem=problem))
        assert "The network is down since 14:10 UTC. A call is under way." in html

    def test_fresh(self) -> None:
        """The header says how old the numbers are, and when the next come."""
        assert "updated 2 min ago · next 14:15 UTC" in page(view(), FEED)
        assert "updated just now · a call is under way" in page(view(now=NOW), Feed(now=NOW, every=300))


class TestNumbers:
    def test_figures(self) -> None:
        """The four numbers are those of the response."""
        words = text(page(view(), FEED))
        assert "Read in this cycle 522,849 of 1,200,000" in words
        assert "Left 677,151 56.4% of the cap" in words
        assert re.search(r"Pace 34,000 a day; safe: [\d,]+ Resets in 14 d 9 h Thu 10 Dec 2026, 00:00 UTC", words)

    def test_unknown_figures(self) -> None:
        """What the API does not say is unknown, never 0."""
        words = text(page(view(used=None, cap_reset_day=None, known_days=1), FEED))
        assert "Read in this cycle unknown" in words
        assert "Left unknown" in words
        assert "Pace unknown" in words
        assert "Resets in unknown" in words

    def test_table(self) -> None:
        """The table has a row a day, with the project's and each shown app's count."""
        html = page(view(2), FEED)
        rows = re.findall(r'<tr><th scope="row">(\w{3} \d[^<]*)</th>(.*?)</tr>', html)
        assert [name for name, _ in rows] == ["Tue 24 Nov", "Wed 25 Nov so far"]
        assert re.findall("<td>(.*?)</td>", rows[0][1]) == ["33,999", "19,428", "9,714", "4,857"]

    def test_omitted_and_unknown(self) -> None:
        """A day that the API omitted is a dash, a count that it did not give is unknown."""
        project = ProjectUsage("1", DailySeries((NOW.date() - 2 * DAY, NOW.date()), (None, 40)))
        app = ClientAppUsage("a", series(7, None, 40), 3)
        html = page(view(3, daily_project_usage=project, daily_client_app_usage=(app,)), FEED)
        rows = re.findall(r'<tr><th scope="row">\w{3} \d[^<]*</th>(.*?)</tr>', html)
        cells = [re.findall("<td>(.*?)</td>", row) for row in rows]
        assert cells == [["unknown", "7"], ["–", "unknown"], ["40", "40"]]
        assert "47+" in html
        assert "Tue 24 Nov: –" in html

    def test_other_apps(self) -> None:
        """Apps without a colour share one column."""
        html = page(view(1, apps=6), FEED)
        assert "2 more apps" in html
        project = ProjectUsage("1", DailySeries((NOW.date() - DAY,), (40_000,)))
        assert "<td>–</td>" in page(view(2, apps=6, daily_project_usage=project), FEED)

    def test_an_app_without_numbers(self) -> None:
        """An app of which nothing is known has no share and no bar."""
        apps = (ClientAppUsage("a", series(3), 1), ClientAppUsage("b", DailySeries()))
        html = page(view(1, daily_client_app_usage=apps, daily_project_usage=ProjectUsage("1", series(3))), FEED)
        assert "<td>unknown</td><td>–</td>" in html

    def test_unattributed(self) -> None:
        """What no app accounts for is a row."""
        html = page(view(3, daily_project_usage=ProjectUsage("1", series(100, 40_000, 40_000))), FEED)
        assert "not by any app" in html
        apps = (ClientAppUsage("a", series(0, 0, 0), 3),)
        only = ProjectUsage("1", series(1, 1, 1))
        assert "100.0%" in page(view(3, daily_client_app_usage=apps, daily_project_usage=only), FEED)

    def test_many_apps(self) -> None:
        """Six rows, the rest behind a summary, at most a hundred."""
        html = page(view(apps=50, per_day=34_000_000), FEED)
        assert "44 more apps, " in html
        assert "in the JSON" not in html
        assert "900 more in the JSON." in page(_wide(1000), FEED)

    def test_size(self) -> None:
        """90 days of 1,000 apps stay under 100 kB, whatever their ids are."""
        assert len(page(_wide(1000), FEED).encode()) < 100_000
        assert len(page(_wide(1000, HOSTILE), FEED).encode()) < 100_000


def _wide(apps: int, name: str = "") -> View:
    days = tuple(NOW.date() - n * DAY for n in reversed(range(90)))
    usages = [
        ClientAppUsage(f"{n}{name}", DailySeries(days, tuple(9000 + (n * 37 + day) % 5000 for day in range(90))), 90)
        for n in range(apps)
    ]
    totals = tuple(map(sum, zip(*(app.usage.counts for app in usages), strict=True)))
    project = ProjectUsage("1", DailySeries(days, totals))
    return view(90, cap=10**9, used=10**8, daily_project_usage=project, daily_client_app_usage=tuple(usages))


class TestDays:
    def test_spans(self) -> None:
        """The shown days are marked; with a history, both cycles can be chosen."""
        html = page(view(), FEED)
        assert '<a href="/?days=30" aria-current="page">30 days</a>' in html
        assert "this cycle</a>" not in html
        html = page(view(), evolve(FEED, span="last", has_history=True))
        assert '<a href="/?cycle=last" aria-current="page">last cycle</a>' in html

    def test_safe_pace(self) -> None:
        """The safe pace is a line in the chart, or a word if it is far above it."""
        html = page(view(cap=1_050_000), FEED)
        assert "safe pace: 36,600 a day<" in html
        assert 'stroke-dasharray="5 4"/><line' not in html
        assert "a day, above this chart" in page(view(cap=30_000_000), FEED)

    def test_new_cycle(self) -> None:
        """The first day of the cycle is marked, if it is shown and not the first day."""
        assert "new cycle" in page(view(30), FEED)
        assert "new cycle" in page(view(90), FEED)
        assert "new cycle" not in page(view(7), FEED)
        assert "new cycle" not in page(view(30, cap_reset_day=None), FEED)

    def test_the_last_cycle(self) -> None:
        """Of earlier days none is today, and the safe pace is not theirs."""
        html = page(view(31, until=dt.date(2026, 11, 9), cap=1_050_000), FEED)
        assert "safe pace" not in html
        assert "Sat 10 Oct to Mon 9 Nov" in html
        assert ">today<" not in html
        assert "today is not over" not in html

    @pytest.mark.parametrize("days", [1, 2, 7, 10, 30, 45, 46, 60, 90])
    def test_columns(self, days: int) -> None:
        """A rectangle for each day and app, one for each day's tooltip, and no label outside."""
        picture = svg.columns(view(days))
        assert picture.count('pointer-events="all"') == days
        assert picture.count("<g class=") == 3
        assert all(0 <= float(at) <= 100 for at in re.findall(r' x="([\d.]+)%"', picture))

    def test_without_apps(self) -> None:
        """If the API names no app, the project's count has one colour."""
        html = page(view(7, apps=0), FEED)
        assert 'class="apps"' not in html
        assert '<g class="c0"' in html

    def test_small_counts(self) -> None:
        """An axis of few posts has whole numbers or halves."""
        assert ">1<" in svg.columns(view(3, per_day=1, apps=1))

    @pytest.mark.parametrize(
        ("fields", "lifted"),
        [({}, True), ({"cap": 1_180_000}, False), ({"cap": 900_000}, True), ({"cap": 1_020_000}, False)],
    )
    def test_labels_of_the_gauge(self, fields: dict[str, Any], lifted: bool) -> None:
        """The label of the forecast shares a row with the others only if they cannot touch."""
        assert ("short" in svg.gauge(view(**fields), "ok")) is lifted

    @pytest.mark.parametrize("used", [1, 600_000, 1_199_999])
    def test_labels_at_the_edges(self, used: int) -> None:
        """A label at an edge does not leave the picture."""
        for picture in (svg.gauge(view(used=used), "ok"), svg.gauge(view(used=used, cap_reset_day=None), "ok")):
            assert all(0 <= float(at) <= 100 for at in re.findall(r' x="([\d.]+)%"', picture))


class TestCards:
    @pytest.mark.parametrize(
        ("fields", "note"),
        [
            ({}, "Pace 34,000 a day; safe: 47,000"),
            ({"known_days": 2}, "Pace unknown safe: 47,000 a day"),
            ({"known_days": 2, "cap": None}, "Pace unknown Resets in"),
            ({"cap": 500_000}, "Pace 34,000 a day Resets in"),
            ({"cap": 30_000_000, "per_day": 2_345_678}, "Pace 2.35 million a day; safe: 2.05 million"),
        ],
    )
    def test_pace(self, fields: dict[str, Any], note: str) -> None:
        """The pace and the safe one, as far as they are known."""
        assert note in text(page(view(**fields), FEED))

    def test_events(self) -> None:
        """What happened in this cycle, with its time."""
        crossed = ThresholdCrossed(
            at=NOW, project_id="1", cycle=BillingCycle.of(10, NOW), threshold=0.25, used=1, cap=4
        )
        assert "25 Nov 14:10 25% of the cap used." in text(page(view(events=[crossed]), FEED))
        assert "Nothing happened yet" in page(view(), FEED)

    @pytest.mark.parametrize(
        ("every", "often"), [(300, "makes 3 in 15 minutes"), (900, "makes 1 in 15"), (3600, "makes one in 1 h 0 min")]
    )
    def test_calls(self, every: float, often: str) -> None:
        """The window, and how few calls the server makes."""
        words = text(page(view(), evolve(FEED, every=every)))
        assert "47 of 50 left in the window that ends at 14:21 UTC." in words
        assert often in words

    def test_a_window_that_is_over(self) -> None:
        """A window that has ended says nothing of the present one."""
        over = RateLimit(50, 3, NOW)
        assert "50 of 50 left: a new window has begun." in text(page(view(rate_limit=over), FEED))

    def test_without_a_window(self) -> None:
        """Without the headers of the window there is no card."""
        assert "API calls" not in page(view(rate_limit=None), FEED)


class TestSafety:
    def test_hostile_names(self) -> None:
        """Nothing of a name is markup, in no place of the page."""
        apps = (ClientAppUsage(HOSTILE, series(5), 1),)
        hostile = view(1, project_id=HOSTILE, daily_client_app_usage=apps)
        for html in (page(hostile, evolve(FEED, title=HOSTILE)), report(hostile, title=HOSTILE)):
            assert "<script>alert" not in html
            assert _Reader(html).tags.count("script") == (0 if "<style>" in html else 1)

    def test_nothing_inline(self) -> None:
        """The policy forbids inline styles, scripts and handlers."""
        reader = _Reader(page(view(), FEED))
        assert "style" not in reader.tags
        assert not [name for name, _ in reader.attributes if name == "style" or name.startswith("on")]

    def test_no_other_host(self) -> None:
        """All addresses are of this server."""
        links = [value for name, value in _Reader(page(view(), FEED)).attributes if name in {"href", "src"}]
        assert links
        assert all(link.startswith(("/", "#")) for link in links)


class TestReport:
    def test_one_file(self) -> None:
        """The report has its style inside, no script, and no link but the one past the header."""
        html = report(view(), title="Our project")
        reader = _Reader(html)
        assert "script" not in reader.tags
        assert "link" not in reader.tags
        assert [value for name, value in reader.attributes if name == "href"] == ["#main"]
        assert "Wed 25 Nov 2026, 14:12 UTC" in html
        assert "<b>Our project</b>" in html
        assert "This server" not in html

    def test_without_a_window(self) -> None:
        """A report without the window has no card of calls."""
        assert "API calls" not in report(view(rate_limit=None))

    def test_colours_without_a_style_sheet(self) -> None:
        """Every shape has its colour as an attribute: Jenkins forbids CSS."""
        for tag in re.findall(r"<rect [^>]*>", re.sub(r"<g [^>]*>.*?</g>", "", report(view()))):
            assert "fill=" in tag
        assert all("fill=" in tag for tag in re.findall(r"<g [^>]*>", report(view())))


def test_favicon() -> None:
    """The icon is a ring, as much of it coloured as is used."""
    assert 'stroke-dasharray="32.85 75.40"' in svg.favicon(view())
    assert 'stroke-dasharray="0.00 75.40"' in svg.favicon(None)
    assert 'stroke="#6b7683"' in svg.favicon(view(now=NOW + DAY, stale_after=60))


def test_static_files() -> None:
    """The script is short, and its address changes with it."""
    assert len(static_file("page.js").splitlines()) <= 50
    assert re.fullmatch("[0-9a-f]{12}", static_hash("page.js"))


def test_contrast_of_the_palette() -> None:
    """Each colour of an app is at least 3:1 on its ground, in light and in dark mode."""
    css = static_file("page.css").decode()
    for colors, ground in zip(re.findall(r"--c0: (.*?);\n", css), ("#ffffff", "#161b22"), strict=True):
        for color in re.findall("#[0-9a-f]{6}", colors):
            assert _contrast(color, ground) >= 3.0, color


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: str) -> float:
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_numbers_of_page_and_json_agree() -> None:
    """The page shows the numbers of the response."""
    shown = view()
    assert number(json.loads(json.dumps(shown.usage.to_dict()))["project_usage"]) in page(shown, FEED)
