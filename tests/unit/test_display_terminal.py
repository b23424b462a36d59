"""The text for a terminal. Exact columns, every width, with and without colours."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from usages import DAY, NOW, series, usage_of

pytest.importorskip("rich")

from rich.cells import cell_len
from rich.text import Text

from twusage.display.bars import APP_COLORS, Screen, bar, column, text_of
from twusage.display.terminal import Cycle, cycles_text, forecast_text, live_text, show_text
from twusage.display.view import View, view_of
from twusage.models import ClientAppUsage, ProjectUsage
from twusage.monitor import BillingCycle, ThresholdCrossed

NAMES = {"app 0": "collector", "app 1": "alerts bot", "app 2": "research notebook"}


def view(days: int = 7, **fields: Any) -> View:
    return view_of(usage_of(**fields), now=NOW, days=days, names=NAMES)


def lines(text: Text) -> list[str]:
    return text.plain.split("\n")


def shown(
    width: int = 80, days: int = 7, *, ascii_only: bool = False, by_app: bool = False, **fields: Any
) -> list[str]:
    return lines(show_text(view(days, **fields), Screen(width, ascii_only=ascii_only), by_app=by_app))


class TestShow:
    def test_eighty_columns(self) -> None:
        """The whole page, column by column."""
        assert shown(by_app=True) == [
            "✓ On track for 84% of the cap by Thu 10 Dec       Project 1281043626347900822500",
            "",
            "                                           ▼ today, day 16 of 30",
            "  ██████████████████████████████████▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒░░░░░░░░░░░░",
            "  43.6% used                                                  forecast 84%",
            "",
            "  Read  522,849  of 1,200,000    Pace    34,000       a day, safe 47,000",
            "  Left  677,151  56.4%           Resets  in 14 d 9 h  Thu 10 Dec, 00:00 UTC",
            "",
            "Posts read a day (UTC)            █ collector  ▓ alerts bot  ▒ research notebook",
            *(
                f"  {day}  33,999  █████████████████████████████████▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▒▒▒▒▒▒▒▒"
                for day in ("Thu 19 Nov", "Fri 20 Nov", "Sat 21 Nov", "Sun 22 Nov", "Mon 23 Nov", "Tue 24 Nov")
            ),
            "  Wed 25 Nov  16,999  █████████████████▓▓▓▓▓▓▓▓▒▒▒▒  so far",
            "",
            "Apps, the same 7 days",
            "  █ collector          126,282  57.1%  ███████████████████████",
            "  ▓ alerts bot          63,141  28.6%  ▓▓▓▓▓▓▓▓▓▓▓▓",
            "  ▒ research notebook   31,570  14.3%  ▒▒▒▒▒▒",
        ]

    def test_will_run_out(self) -> None:
        """A long verdict pushes the project to a line of its own, and the cap is a mark below the gauge."""
        page = shown(cap=900_000)
        assert page[:2] == [
            "✗ At this pace, the cap runs out on Sun 6 Dec, 4 days before the reset",
            "  Project 1281043626347900822500",
        ]
        assert page[5].startswith("  58.1% used  ")
        assert page[5].endswith("▲ cap")

    def test_used_up(self) -> None:
        """A used-up cap is a full gauge, with the cap's number."""
        page = shown(cap=500_000)
        assert page[4] == "  " + "█" * 78
        assert page[5] == f"  {'104.6% used':67}cap 500,000"
        assert page[7] == "  Read  522,849  of 500,000    Pace    34,000       a day"

    def test_a_tiny_cap(self) -> None:
        """No percentage is above 999 %."""
        page = shown(cap=100)
        assert page[5] == f"  {'more than 9 times the cap':71}cap 100"

    def test_sixty_columns(self) -> None:
        """The facts stand one below another, and the legend below its heading."""
        page = shown(60)
        assert page[7:11] == [
            "  Read    522,849  of 1,200,000",
            "  Left    677,151  56.4%",
            "  Pace    34,000  a day, safe 47,000",
            "  Resets  in 14 d 9 h  Thu 10 Dec, 00:00 UTC",
        ]
        assert page[13] == "  █ collector  ▓ alerts bot  ▒ research notebook"

    def test_forty_columns(self) -> None:
        """Words wrap; phrases that do not fit are omitted."""
        page = shown(40)
        assert page[:3] == ["✓ On track for 84% of the cap by Thu 10", "Dec", "  Project 1281043626347900822500"]
        assert page[4] == "  today, day 16 of 30 ▼"
        assert page[6] == "  43.6% used                forecast 84%"
        assert page[11] == "  Resets  in 14 d 9 h  Thu 10 Dec"
        assert page[14:17] == ["  █ collector", "  ▓ alerts bot", "  ▒ research notebook"]

    def test_no_room_for_today(self) -> None:
        """Where its words fit on neither side, today is a mark only. Without a cycle there is none."""
        moment = dt.datetime(2026, 11, 23, 20, tzinfo=dt.UTC)
        seen = view_of(usage_of(fetched_at=moment), now=moment)
        assert lines(show_text(seen, Screen(39)))[4] == f"{'▼':>20}"
        assert shown(cap_reset_day=None)[2].startswith("  ████")

    def test_ascii(self) -> None:
        """ASCII only, names included."""
        page = shown(ascii_only=True, by_app=True, daily_client_app_usage=(ClientAppUsage("é", series(5), 1),))
        assert "\n".join(page).isascii()
        assert page[0].startswith("ok On track")
        assert r"# \xe9" in page[9]
        assert page[2].strip().startswith("v today")
        assert page[3].strip(" ").strip("#").strip("=").strip(".") == ""

    def test_unknown(self) -> None:
        """Values that the API does not report are unknown, never 0."""
        page = shown(cap=None, used=None, cap_reset_day=None, known_days=0, apps=0, project_id=None, by_app=True)
        assert page == [
            f"- The API does not report the cap{'Project unknown':>47}",
            "",
            "  Read  unknown    Pace    unknown",
            "  Left  unknown    Resets  unknown",
            "",
            "Posts read a day (UTC)",
            "  The response holds no days.",
            "",
            "Apps, the same 7 days",
            "  The response names no client app.",
        ]

    def test_no_pace_yet(self) -> None:
        """The safe pace is known before the pace is."""
        page = shown(known_days=2)
        assert page[6] == "  Read  522,849  of 1,200,000    Pace    unknown      safe 47,000"

    def test_nearly_nothing_used(self) -> None:
        """One post of a million is seen in the gauge, and something is left of the cap."""
        page = shown(used=1)
        assert page[3].count("█") == 1
        assert page[4].startswith("  0.0% used")
        assert page[7].startswith("  Left  1,199,999  99.9%")
        assert shown(used=0)[7].startswith("  Left  1,200,000  100.0%")
        assert "█" not in shown(used=0)[3]

    def test_stale_is_grey(self) -> None:
        """An old response keeps its words and loses its colour."""
        old = view_of(usage_of(), now=NOW + dt.timedelta(hours=2), stale_after=60)
        text = show_text(old, Screen(80, color=True))
        assert text.plain.startswith("✓ On track")
        assert "color(28)" not in {str(span.style) for span in text.spans}

    def test_odd_days(self) -> None:
        """An omitted day is a dash, an unknown one has no bar. Both are explained."""
        days = ProjectUsage("1", series(10, None, 30, end=NOW.date() - DAY))
        page = shown(daily_project_usage=days, apps=0)
        assert page[10:] == [
            "  Thu 19 Nov        –",
            "  Fri 20 Nov        –",
            "  Sat 21 Nov        –",
            "  Sun 22 Nov       10  ███████████████████",
            "  Mon 23 Nov  unknown",
            "  Tue 24 Nov       30  █████████████████████████████████████████████████████████",
            "  Wed 25 Nov        –  so far",
            "  – no reads, so omitted by the API",
        ]

    def test_the_smallest_count_is_seen(self) -> None:
        """A day with one read has a cell."""
        page = shown(daily_project_usage=ProjectUsage("1", series(1, 10**9)), apps=0)
        assert page[15].endswith("            1  █")

    def test_no_room_for_bars(self) -> None:
        """Bars that would be shorter than four cells vanish; numbers stay whole."""
        page = shown(40, daily_project_usage=ProjectUsage("1", series(*[10**15] * 7)), apps=0)
        assert "  Tue 24 Nov  1,000,000,000,000,000" in page
        assert "  Wed 25 Nov  1,000,000,000,000,000" in page

    def test_today_is_the_largest(self) -> None:
        """There is room for "so far" beside the longest bar."""
        page = shown(daily_project_usage=ProjectUsage("1", series(10, 20)), apps=0)
        assert page[16].endswith("█  so far")
        assert len(page[16]) <= 80

    def test_legend_in_colour(self) -> None:
        """Squares of the apps' colours, in the legend and in the list of apps; ASCII keeps its sign."""
        page = lines(show_text(view(), Screen(80, color=True), by_app=True))
        assert page[9].endswith("■ collector  ■ alerts bot  ■ research notebook")
        assert page[19].startswith("  ■ collector ")
        page = lines(show_text(view(), Screen(80, color=True, ascii_only=True)))
        assert page[9].endswith("# collector  # alerts bot  # research notebook")


class TestManyDays:
    def test_columns(self) -> None:
        """More than 14 days are columns, with the safe pace above the days of the cycle."""
        page = shown(days=30)
        assert page[9].startswith("Posts read a day (UTC)")
        assert page[10] == f"   50 k {' ' * 28}{'╌' * 32}"
        assert page[14].startswith("   25 k ▓ ▓ ▓ ▓")
        assert page[17] == "        " + " ".join("█" * 30)
        assert page[18] == "      0             2 Nov         9 Nov         16 Nov         today"

    def test_today_is_dim(self) -> None:
        """In all of its cells: none has a ground, which would stay bright."""
        chart = show_text(view(30), Screen(80, color=True)).split("\n")[10:18]
        today = [line.spans[-1] for line in chart if line.cell_len == 8 + 2 * 29 + 1]
        assert len(today) >= 2
        assert all(str(span.style).endswith(" dim") and " on " not in str(span.style) for span in today)

    def test_weeks(self) -> None:
        """Days for which there are no columns are rows of weeks."""
        page = shown(days=90)
        assert page[9].startswith("Posts read a week (UTC)")
        assert page[10].startswith("  24 Aug  101,997  ████")
        assert page[11].startswith("  31 Aug  237,993  ████")
        assert page[-1].startswith("  23 Nov   84,997  ████")
        assert page[-1].endswith("  so far")

    def test_odd_weeks(self) -> None:
        """A week's sum shows what it lacks."""
        counts = [None] * 7 + [5, *[None] * 6] + [1] * 3
        page = shown(40, days=38, daily_project_usage=ProjectUsage("1", series(*counts)), apps=0)
        assert [line[:18].rstrip() for line in page[-7:]] == [
            "  19 Oct        –",
            "  26 Oct        –",
            *("   2 Nov        –", "   9 Nov  unknown"),
            "  16 Nov       5+",
            "  23 Nov        3",
            "  + and days whose",
        ]

    def test_ninety_columns(self) -> None:
        """Ninety days fit into 140 columns, in a higher chart."""
        page = shown(140, days=90)
        assert page[10].startswith("   50 k ")
        assert page[19] == "        " + "█" * 90
        assert page[20].startswith("      0    31 Aug        14 Sep")
        assert page[20].endswith("9 Nov       today")

    def test_a_recorded_chart(self) -> None:
        """A chart that does not end today ends with its last day. Small counts have a small axis."""
        page = shown(days=15, daily_project_usage=ProjectUsage("1", series(1, 1, end=dt.date(2024, 6, 7))), apps=0)
        assert page[10] == "      2"
        assert page[-1].endswith("7 Jun")

    def test_no_safe_line(self) -> None:
        """The safe pace is omitted if the chart would have to be much higher for it."""
        assert "╌" not in "".join(shown(days=30, cap=10**9))


class TestApps:
    def test_many(self) -> None:
        """Twenty apps are listed and the rest is summed up, or all are listed."""
        page = shown(by_app=True, apps=50, per_day=10**9)
        assert "· 46 more apps" in "\n".join(page)
        assert page[-1].startswith("  and 30 more, ")
        seen = view(apps=50)
        every = lines(show_text(seen, Screen(80), all_apps=True))
        assert len(every) == len(shown(by_app=True, apps=50)) + 29

    def test_partial_and_unknown(self) -> None:
        """A sum that lacks days is marked. An unknown one has no bar; reads by no app are a row."""
        apps = (ClientAppUsage("a", series(5, None)), ClientAppUsage("b", series(None)))
        page = shown(by_app=True, daily_client_app_usage=apps, daily_project_usage=ProjectUsage("1", series(5, 5)))
        assert page[-5:] == [
            "Apps, the same 7 days",
            f"  █ a                    5+  50.0%  {'█' * 22}",
            "  ▓ b               unknown",
            f"  · not by any app        5  50.0%  {'·' * 22}",
            "  + and days whose count is unknown",
        ]


@pytest.mark.parametrize(
    ("days", "fields"),
    [
        (1, {}),
        (14, {"apps": 50}),
        (30, {"cap": 900_000}),
        (90, {"cap": 100}),
        (90, {"cap": None, "used": None}),
        (90, {"apps": 50}),
    ],
)
def test_no_line_is_wider_than_the_screen(days: int, fields: dict[str, Any]) -> None:
    """From 40 to 200 columns, with colours and without, in every page. No line ends with a space."""
    names = {f"app {n}": "長い名前" * 20 for n in range(0, 50, 2)}
    cycle = BillingCycle.of(10, NOW)
    event = ThresholdCrossed(at=NOW, project_id="1", cycle=cycle, threshold=0.25, used=1, cap=4)
    seen = view_of(usage_of(project_id="x" * 5000, **fields), now=NOW, days=days, names=names, events=[event])
    for width in (40, 59, 99, 200):
        for screen in (Screen(width), Screen(width, color=True), Screen(width, color=True, ascii_only=True)):
            pages = [
                show_text(seen, screen, by_app=True),
                forecast_text(seen, screen),
                live_text(seen, screen, status="updated 14:10 UTC", height=30, by_app=True),
                cycles_text(
                    [Cycle(cycle.start, cycle.end, 1, 2)], screen, title="sqlite:///" + "x" * 90, today=NOW.date()
                ),
            ]
            for page in pages:
                for line in lines(page):
                    assert cell_len(line) <= width, (width, line)
                    assert line == line.rstrip()


class TestForecast:
    def test_it_fits(self) -> None:
        """The verdict, the gauge, and what is expected."""
        page = lines(forecast_text(view(), Screen(80)))
        assert page[0] == shown()[0]
        assert page[6].startswith("  Expected  1,010,000 of 1,200,000, likely between ")
        assert page[7:] == [
            "  Pace      34,000 a day over the last 89 days; 47,000 a day is safe",
            "  Cap       not reached in this cycle",
        ]

    @pytest.mark.parametrize(
        ("fields", "cap"),
        [
            ({"cap": 900_000}, "reached on Sun 6 Dec, 4 days before the reset"),
            ({"cap": 500_000}, "reached; resets on Thu 10 Dec"),
            ({"cap": None}, "unknown"),
            ({"known_days": 0}, "unknown"),
        ],
    )
    def test_the_cap(self, fields: dict[str, Any], cap: str) -> None:
        """When the cap is reached, if that is known."""
        assert lines(forecast_text(view(**fields), Screen(80)))[-1] == f"  Cap       {cap}"

    def test_nothing_known(self) -> None:
        """What is unknown is called that. Without a cap the total is still expected."""
        assert lines(forecast_text(view(known_days=0, cap=None), Screen(80)))[-3:] == [
            "  Expected  unknown",
            "  Pace      unknown",
            "  Cap       unknown",
        ]
        assert "  Expected  1,010,000, likely between" in forecast_text(view(cap=None), Screen(80)).plain


class TestLive:
    def live(self, height: int, days: int = 7, **fields: Any) -> list[str]:
        event = ThresholdCrossed(at=NOW, project_id="1", cycle=BillingCycle.of(10, NOW), threshold=0.25, used=1, cap=4)
        seen = view_of(usage_of(**fields), now=NOW, days=days, names=NAMES, events=[event])
        return lines(live_text(seen, Screen(80), status="updated 14:10 UTC", height=height, by_app=True))

    def test_everything_fits(self) -> None:
        """Head, days, apps, events, and the status as the last line."""
        page = self.live(40)
        assert page[:17] == shown()
        assert page[-5:] == ["", "Events of this cycle", "  25 Nov 14:10  25% of the cap used", "", "updated 14:10 UTC"]

    @pytest.mark.parametrize("days", [7, 30, 90])
    def test_never_taller_than_the_terminal(self, days: int) -> None:
        """Whatever its height, the first line is the verdict and the last one the status."""
        for height in range(2, 45, 3):
            page = self.live(height, days)
            assert len(page) <= height
            assert page[0].startswith("✓ On track")
            assert page[-1] == "updated 14:10 UTC"

    def test_the_oldest_days_go_first(self) -> None:
        """Then the apps."""
        page = self.live(24)
        assert "Thu 19 Nov" not in "".join(page)
        assert any(line.startswith("  Wed 25 Nov") for line in page)
        assert "Apps, the same 7 days" in page

    def test_one_line(self) -> None:
        """A terminal of one line shows the status."""
        assert self.live(1) == ["updated 14:10 UTC"]


class TestCycles:
    def test_the_page(self) -> None:
        """The newest first, with the day of the present one."""
        present = BillingCycle.of(10, NOW)
        past, older = present.previous(), present.previous().previous()
        cycles = [
            Cycle(older.start, older.end, 5, None),
            Cycle(past.start, past.end, 1_200_000, 1_200_000),
            Cycle(present.start, present.end, 522_849, 1_200_000),
        ]
        assert lines(cycles_text(cycles, Screen(80), title="sqlite:///usage.db", today=NOW.date())) == [
            "Cycles  sqlite:///usage.db",
            "",
            f"  10 Nov – 9 Dec 2026    522,849   43.6%  {'█' * 13}{'░' * 17}  day 16",
            f"  10 Oct – 9 Nov 2026  1,200,000  100.0%  {'█' * 30}",
            "  10 Sep – 9 Oct 2026          5",
        ]

    def test_none(self) -> None:
        """An empty history is reported as such."""
        assert lines(cycles_text([], Screen(80), title="sqlite://", today=NOW.date()))[-1] == "  No cycle is recorded."


class TestBars:
    def test_eighths(self) -> None:
        """With colours a bar ends on an eighth of a cell, and so does each of its parts."""
        screen = Screen(80, color=True)
        assert bar([12, 4], [0, 1], scale=16, length=2, screen=screen) == [
            ("█", APP_COLORS[0]),
            ("▌", f"{APP_COLORS[0]} on {APP_COLORS[1]}"),
        ]
        assert column([3], [2], scale=16, length=2, screen=screen) == [("▃", APP_COLORS[2]), (" ", "")]

    def test_nothing(self) -> None:
        """Nothing has no cell, and the least has one."""
        assert bar([0, 0], [0, 1], scale=1, length=9, screen=Screen(80)) == []
        assert bar([0, 1], [0, 1], scale=10**9, length=9, screen=Screen(80)) == [("▓", APP_COLORS[1])]

    def test_runs(self) -> None:
        """Cells of one style are one span."""
        text = text_of([("a", "bold"), ("b", "bold"), ("c", "")])
        assert (text.plain, len(text.spans)) == ("abc", 1)

    @pytest.mark.parametrize("color", APP_COLORS)
    def test_contrast(self, color: str) -> None:
        """Every colour has 3:1 on white, on #0d1117 and on black."""
        from rich.color import Color

        def luminance(triplet: tuple[int, ...]) -> float:
            red, green, blue = (
                part / 255 / 12.92 if part / 255 <= 0.04045 else ((part / 255 + 0.055) / 1.055) ** 2.4
                for part in triplet
            )
            return 0.2126 * red + 0.7152 * green + 0.0722 * blue

        own = luminance(tuple(Color.parse(color).get_truecolor()))
        for ground in ((255, 255, 255), (13, 17, 23), (0, 0, 0)):
            light, dark = sorted((own, luminance(ground)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 3
