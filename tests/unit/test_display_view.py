"""The view: what is shown, in which words, and that its parts agree with one another."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from usages import DAY, NOW, series, usage_of

from twusage.display.format import (
    clock_time,
    cut,
    duration,
    in_words,
    number,
    percent,
    plural,
    printable,
    rounded,
    short_number,
    spreadsheet_safe,
    whole_percent,
)
from twusage.display.view import LARGEST, State, View, view_of
from twusage.models import EPOCH, ClientAppUsage, ProjectUsage, Usage
from twusage.monitor import (
    BillingCycle,
    CapChanged,
    CycleReset,
    ForecastCrossed,
    ThresholdCrossed,
    UsageSampled,
    WatchEvent,
    WatchFailing,
    WatchRecovered,
    forecast,
)


def view(days: int = 7, *, now: dt.datetime = NOW, **fields: Any) -> View:
    return view_of(usage_of(**fields), now=now, days=days)


class TestVerdict:
    @pytest.mark.parametrize(
        ("fields", "state", "headline"),
        [
            ({}, State.ON_TRACK, "On track for 84% of the cap by Thu 10 Dec"),
            ({"cap": 1_050_000}, State.CLOSE, "Close: 96% of the cap by Thu 10 Dec, perhaps more than all of it"),
            ({"cap": 900_000}, State.RUNS_OUT, "At this pace, the cap runs out on Sun 6 Dec, 4 days before the reset"),
            ({"cap": 500_000}, State.USED_UP, "The cap is used up. Reading stops until Thu 10 Dec"),
            ({"cap": 0}, State.USED_UP, "The cap is used up. Reading stops until Thu 10 Dec"),
            ({"cap": 500_000, "cap_reset_day": None}, State.USED_UP, "The cap is used up"),
            ({"used": 12_345, "known_days": 3}, State.EARLY, "12,345 of 1,200,000 posts read"),
            ({"cap_reset_day": None}, State.EARLY, "522,849 of 1,200,000 posts read"),
            ({"cap": None}, State.UNKNOWN, "The API does not say the cap"),
            ({"used": None}, State.UNKNOWN, "The API does not say how much of the cap is used"),
        ],
    )
    def test_headline(self, fields: dict[str, Any], state: State, headline: str) -> None:
        """Each state answers whether the cap will last in one sentence."""
        verdict = view(**fields).verdict
        assert (verdict.state, verdict.headline) == (state, headline)

    @pytest.mark.parametrize(
        ("fields", "detail"),
        [
            ({"cap": 900_000}, "To last until Thu 10 Dec, read at most 26,200 posts a day. The pace is 34,000."),
            (
                {"cap": 500_000},
                (
                    "522,849 of 500,000 posts read, 22,849 over. The next cycle begins on Thu 10 Dec 2026, "
                    "00:00 UTC, in 14 d 9 h."
                ),
            ),
            ({"cap": 522_849, "cap_reset_day": None}, "522,849 of 522,849 posts read."),
            ({"known_days": 3}, "A forecast needs at least 3 full days; 2 days known."),
            ({"cap_reset_day": None}, "The API does not say on which day of the month the cap resets."),
            ({"cap": None}, "522,849 posts read in this cycle."),
            ({"used": None}, ""),
        ],
    )
    def test_detail(self, fields: dict[str, Any], detail: str) -> None:
        """And in a second one what that means."""
        assert view(**fields).verdict.detail == detail

    def test_the_likely_range(self) -> None:
        """While the cap lasts, the detail is the range of the forecast."""
        detail = view().verdict.detail
        assert detail.startswith("About 1.01 million of 1.2 million posts; likely between 9")
        assert detail.endswith(" and 1.08 million.")


class TestGauge:
    def test_the_scale_is_the_cap(self) -> None:
        """Used, forecast and today are fractions of the cap."""
        gauge = view().gauge
        assert gauge is not None
        assert gauge.cap == 1
        assert gauge.used == pytest.approx(522_849 / 1_200_000)
        assert gauge.today == pytest.approx((15 + 14 / 24 + 10 / 1440) / 30)
        assert gauge.used < (gauge.expected or 0) < 1

    def test_the_scale_reaches_beyond_the_cap(self) -> None:
        """A forecast beyond the cap fits into the gauge, and the cap is a mark in it."""
        seen = view(cap=900_000)
        assert seen.gauge is not None
        assert seen.gauge.cap == pytest.approx(900_000 / (seen.forecast.high or 0))
        assert seen.gauge.cap < (seen.gauge.expected or 0) < 1

    def test_used_up(self) -> None:
        """A used-up cap is a full gauge without a forecast."""
        gauge = view(cap=500_000).gauge
        assert gauge is not None
        assert (gauge.used, gauge.expected, gauge.cap) == (1, None, 1)

    @pytest.mark.parametrize("fields", [{"cap": None}, {"cap": 0}, {"used": None}])
    def test_none(self, fields: dict[str, Any]) -> None:
        """There is no gauge if there is nothing to measure by."""
        assert view(**fields).gauge is None

    def test_without_a_cycle(self) -> None:
        """Without a reset day, nothing says where a steady pace would be."""
        seen = view(cap_reset_day=None)
        assert seen.gauge is not None
        assert (seen.gauge.today, seen.day, seen.seconds_left) == (None, None, None)


class TestDays:
    def test_the_days_end_today(self) -> None:
        """The last days until today, which is not over."""
        days = view().days
        assert [day.date for day in days] == [NOW.date() - n * DAY for n in reversed(range(7))]
        assert [day.today for day in days] == [False] * 6 + [True]

    def test_parts_add_up(self) -> None:
        """The parts of a day belong to the series and add up to its reads."""
        seen = view(apps=50)
        assert [each.label for each in seen.series] == ["app 0", "app 1", "app 2", "app 3", "46 more apps"]
        assert [each.color for each in seen.series] == [0, 1, 2, 3, LARGEST]
        assert all(sum(day.parts) == day.reads and len(day.parts) == 5 for day in seen.days)

    def test_reads_by_no_app(self) -> None:
        """What no app accounts for is a series and a number of its own."""
        seen = view(apps=1, daily_project_usage=ProjectUsage("1", series(*[40_000] * 90)))
        assert [each.label for each in seen.series] == ["app 0", "not by any app"]
        assert seen.unattributed == 7 * 40_000 - 6 * 34_000 - 17_000
        assert seen.apps[0].fraction == pytest.approx((6 * 34_000 + 17_000) / (7 * 40_000))

    def test_apps_that_add_up_to_more(self) -> None:
        """A day is never longer than the project's own count."""
        seen = view(daily_project_usage=ProjectUsage("1", series(*[20_000] * 90)))
        assert all(sum(day.parts) == 20_000 for day in seen.days)
        assert seen.unattributed == 0

    def test_without_apps(self) -> None:
        """Without apps a day is one part, and there is no series."""
        seen = view(apps=0)
        assert (seen.series, seen.apps) == ((), ())
        assert seen.days[0].parts == (34_000,)

    def test_without_the_project(self) -> None:
        """Without the project's days, the sums of the apps stand for them."""
        seen = view(daily_project_usage=None)
        assert seen.days[0].reads == sum(seen.days[0].parts) > 32_000
        assert view(daily_project_usage=None, apps=0).days[0].omitted

    def test_unknown_and_omitted_days(self) -> None:
        """A day without a count is unknown, and a day that is not there was omitted; neither is 0."""
        days = view(days=2, daily_project_usage=ProjectUsage("1", series(None)), apps=0).days
        assert [(day.reads, day.omitted, day.parts) for day in days] == [(None, True, ()), (None, False, ())]

    def test_a_recorded_response(self) -> None:
        """A response without recent days is shown by its own."""
        days = view(daily_project_usage=ProjectUsage("1", series(1, 2, end=dt.date(2024, 6, 7))), apps=0).days
        assert (days[-1].date, days[-1].reads, days[-1].today) == (dt.date(2024, 6, 7), 2, False)

    def test_no_days(self) -> None:
        """A response without days still has its calendar."""
        assert [day.omitted for day in view(known_days=0).days] == [True] * 7


class TestApps:
    def test_sorted_by_reads(self) -> None:
        """The largest first, whatever the order of the response; unknown ones last."""
        apps = (
            ClientAppUsage("silent", series(), 0),
            ClientAppUsage("unknown", series(None)),
            ClientAppUsage("absent", series(), None),
            ClientAppUsage(None, series(5, None)),
            ClientAppUsage("old", series(3, *[0] * 9)[:1], 1),
        )
        seen = view_of(usage_of(daily_client_app_usage=apps), now=NOW, names={"old": "older\u202e"})
        assert [(app.label, app.reads, app.partial) for app in seen.apps] == [
            ("unknown", 5, True),
            ("silent", 0, False),
            (r"older\u202e", 0, False),
            ("unknown", None, False),
            ("absent", None, False),
        ]
        assert [app.color for app in seen.apps] == [0, 1, 2, 3, LARGEST]

    def test_hostile_ids(self) -> None:
        """An id of 5,000 letters or control characters is cut and escaped."""
        apps = (ClientAppUsage("\x1b[31m" + "x" * 5000, series(5), 1),)
        label = view(daily_client_app_usage=apps).apps[0].label
        assert label == r"\x1b[31m" + "x" * 29 + "..."


class TestTime:
    def test_age(self) -> None:
        """The age is that of the response, and the forecast is of its instant."""
        old = view_of(usage_of(), now=NOW + dt.timedelta(hours=1), stale_after=1800)
        assert (old.age, old.stale) == (dt.timedelta(hours=1), True)
        assert old.forecast == view().forecast
        assert old.seconds_left == (view().seconds_left or 0) - 3600
        assert not view().stale

    def test_an_unknown_instant(self) -> None:
        """A response whose arrival is unknown is taken for a new one."""
        seen = view_of(usage_of(fetched_at=EPOCH), now=NOW)
        assert (seen.age, seen.day) == (dt.timedelta(), 16)

    def test_the_window(self) -> None:
        """The window is the response's."""
        assert view().window == usage_of().rate_limit


CYCLE = BillingCycle.of(10, NOW)


def event_of(kind: type[WatchEvent], cycle: BillingCycle | None = CYCLE, **fields: Any) -> WatchEvent:
    return kind(at=NOW, project_id="1", cycle=cycle, **fields)


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (event_of(ThresholdCrossed, threshold=0.25, used=1, cap=4), "25% of the cap used"),
        (
            event_of(ForecastCrossed, cap=1, expected=2, low=1, high=3, exhausts_on=dt.date(2026, 12, 6)),
            "the cap will probably run out, on Sun 6 Dec",
        ),
        (
            event_of(ForecastCrossed, cap=1, expected=2, low=1, high=3, exhausts_on=None),
            "the cap will probably run out",
        ),
        (
            event_of(CycleReset, previous=dt.date(2026, 10, 10), used=1_008_311, cap=None),
            "a new cycle began; 1,008,311 posts in the last one",
        ),
        (event_of(CycleReset, previous=dt.date(2026, 10, 10), used=None, cap=None), "a new cycle began"),
        (event_of(CapChanged, before=1000, after=2000), "the cap changed from 1,000 to 2,000"),
        (event_of(WatchFailing, error=OSError("a\nb")), r"no usable response: a\nb"),
        (event_of(WatchRecovered, cycle=None, since=NOW - dt.timedelta(hours=2)), "responses again, after 2 h 0 min"),
        (event_of(WatchEvent), "event"),
    ],
)
def test_events(event: WatchEvent, text: str) -> None:
    """Each event of the cycle is a clause; samples and other cycles are left out."""
    sample = event_of(UsageSampled, usage=Usage(), forecast=forecast(usage_of()))
    old = event_of(CapChanged, cycle=CYCLE.previous(), before=1, after=2)
    seen = view_of(usage_of(), now=NOW, events=[sample, old, event])
    assert [(each.at, each.text) for each in seen.events] == [(NOW, text)]


def test_to_dict() -> None:
    """Cycle, forecast and attribution are plain JSON types, by the names of their fields; unknown is null."""
    plain = view().to_dict()
    assert plain["cycle"] == {"start": "2026-11-10", "end": "2026-12-10", "reset_day": 10}
    assert isinstance(plain["forecast"], dict)
    assert plain["forecast"]["cycle"] == plain["cycle"]
    assert plain["forecast"]["cap"] == 1_200_000
    assert isinstance(plain["attribution"], dict)
    assert plain["attribution"]["used"] == 522_849
    assert plain["attribution"]["apps"][0]["client_app_id"] == "app 0"
    nothing = view(cap_reset_day=None).to_dict()
    assert nothing["cycle"] is nothing["attribution"] is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (number(None), "unknown"),
        (rounded(33_849), "33,800"),
        (rounded(0.4), "0"),
        (in_words(33_849), "33,800"),
        (in_words(999_600), "1 million"),
        (in_words(1_012_280), "1.01 million"),
        (in_words(1_200_000_000_000), "1,200 billion"),
        (short_number(50_000), "50 k"),
        (short_number(1_500_000), "1.5 M"),
        (short_number(2_000_000_000), "2 G"),
        (short_number(2.5), "2.5"),
        (percent(0.9999), "99.9%"),
        (percent(1.0), "100.0%"),
        (percent(1.00001), "100.1%"),
        (percent(5438.72), "more than 9 times the cap"),
        (whole_percent(0.0), "0%"),
        (whole_percent(0.001), "less than 1%"),
        (whole_percent(0.999), "99%"),
        (whole_percent(1.0), "100%"),
        (whole_percent(1.001), "101%"),
        (whole_percent(10.0), "more than 9 times the cap"),
        (plural(1, "day"), "1 day"),
        (plural(1_000, "day"), "1,000 days"),
        (duration(14 * 86400 + 9 * 3600 + 59), "14 d 9 h"),
        (duration(9 * 3600 + 12 * 60), "9 h 12 min"),
        (duration(47 * 60 + 5), "47 min"),
        (duration(-5), "0 s"),
        (clock_time(NOW.astimezone(dt.timezone(dt.timedelta(hours=5)))), "14:10"),
        (printable("a\x1b\u202e\u00e9"), "a\\x1b\\u202e\u00e9"),
        (cut("abcdef", 6), "abcdef"),
        (cut("abcdefg", 6), "abc..."),
        (spreadsheet_safe("=1+1"), "'=1+1"),
        (spreadsheet_safe("\t1"), "'\\t1"),
        (spreadsheet_safe("27002234"), "27002234"),
    ],
)
def test_format(text: str, expected: str) -> None:
    """Numbers are grouped, rounded to what can be read, and never rounded into a lie."""
    assert text == expected
