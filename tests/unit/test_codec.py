"""Bytes to values. Every known shape, every refusal with its path, and nothing but DecodeError for anything else."""

import copy
import datetime as dt
import json
import math
import string
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twusage import ClientAppUsage, DailySeries, DecodeError, Problem, ProjectUsage, RateLimit, Usage, json_reader
from twusage.codec import decode_usage
from twusage.json_reader import decode_document, decode_problem, excerpt, problem_from
from twusage.protocol import authorize, usage_request
from twusage.testing import FakeApi

FIXTURES = Path(__file__).parents[1] / "fixtures"
PRINTABLE = set(string.printable) - set("\t\n\r\x0b\x0c")
SLOW = settings(suppress_health_check=[HealthCheck.too_slow])

PROJECT_ID = "1281043626347900822499"
OCTOBER_30, NOVEMBER_1, NOVEMBER_2, NOVEMBER_5 = (
    dt.date(2023, 10, 30),
    dt.date(2023, 11, 1),
    dt.date(2023, 11, 2),
    dt.date(2023, 11, 5),
)
# The content of every usage_*.json that is a variation of the live response.
EXPECTED = Usage(
    project_id=PROJECT_ID,
    project_cap=2_000_000,
    project_usage=407,
    cap_reset_day=5,
    daily_project_usage=ProjectUsage(
        PROJECT_ID, DailySeries((OCTOBER_30, NOVEMBER_1, NOVEMBER_2, NOVEMBER_5), (120, 200, 0, 87))
    ),
    daily_client_app_usage=(
        ClientAppUsage("101111140", DailySeries((OCTOBER_30, NOVEMBER_1, NOVEMBER_2), (120, 150, 0)), 3),
        ClientAppUsage("101111141", DailySeries((NOVEMBER_1, NOVEMBER_5), (50, 87)), 2),
    ),
)
# The list of days with apps does not count its rows.
UNCOUNTED = evolve(
    EXPECTED,
    daily_client_app_usage=tuple(evolve(app, usage_result_count=None) for app in EXPECTED.daily_client_app_usage),
)


BAD_COUNTS = [" 12 ", "12 ", "1_000", "٣", "1.0", "1e3", "+1", "-1", "", "0x10", "²", "1,000", "12\n", "9" * 101]
BAD_COUNT_VALUES = [*BAD_COUNTS, 12.7, 7.0, 1e3, True, False, [], {}, ["1"], -1, 10**100]
BAD_DATES = [
    *("2023-W44-3", "2023-02-30", "2023-11-01T00:00:00", "2023-11-01 00:00:00Z", "20231101", "2023-11-1", "", "now"),
    *("2023-11-01T00:00:00.000z", "2023-11-01T", "2023-11-01Z", " 2023-11-01", "2023-11-01\n", "٢٠٢٣-11-01"),
    *("2023-11-01T25:00:00Z", "2023-11-01T00:00:00+99:00", "2023-305", "0000-01-01", "2023-13-01", "-2023-11-01"),
    *("0001-01-01T00:00:00+14:00", "9999-12-31T23:00:00-14:00", "2023-11-01T00:00:00.Z", "2023-11-01T00:00:00+1"),
    *(1698796800, 20231101, 0.5, True, [], {}, ["2023-11-01"]),
]

FAST_PARSER = json_reader._parser
PARSERS = {"json": json_reader._parse_with_json, "installed": json_reader._parser()}


@pytest.fixture(params=PARSERS, scope="module")
def parser(request: pytest.FixtureRequest) -> Iterator[None]:
    """Either JSON parser. Beyond it both take the same path, so shapes are tested with the installed one only."""
    if request.param == "installed" and PARSERS["json"] is PARSERS["installed"]:
        pytest.skip("msgspec is not installed: the extra speed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_reader, "_parser", lambda: PARSERS[request.param])
        yield


def fixture(name: str) -> bytes:
    """The bytes of ``fixtures/<name>.json``."""
    return (FIXTURES / f"{name}.json").read_bytes()


def live() -> dict[str, Any]:
    """The live answer as a document, to be spoilt."""
    document: dict[str, Any] = json.loads(fixture("usage_live"))
    return document


def encoded(document: object) -> bytes:
    """A document as the wire has it."""
    return json.dumps(document).encode()


def decoded(**data: object) -> Usage:
    """What these fields under ``data`` decode to."""
    return decode_usage(encoded({"data": data}))


def refused(body: bytes) -> DecodeError:
    """The error of a body, which in every case is printable."""
    with pytest.raises(DecodeError) as caught:
        decode_usage(body)
    error = caught.value
    assert len(error.excerpt) <= 200
    assert set(error.excerpt) <= PRINTABLE
    assert set(str(error)) <= PRINTABLE
    assert set(error.path) <= PRINTABLE
    assert error.path.startswith("$")
    return error


# -- The known shapes --------------------------------------------------------------------------------------------------


either_parser = pytest.mark.usefixtures("parser")


@either_parser
class TestDocumentedAnswers:
    def test_getting_started(self) -> None:
        """The response that the document's introduction shows."""
        assert decode_usage(fixture("usage_default_1")) == Usage("1369785403853424", 5_000_000_000, 43435, 10)

    def test_default_fields(self) -> None:
        """The document's example of the default fields."""
        assert decode_usage(fixture("usage_default_2")) == Usage(PROJECT_ID, 2_000_000, 2007, 10)

    def test_optional_fields(self) -> None:
        """The document's example of the optional fields."""
        series = DailySeries((NOVEMBER_1,), (200,))
        assert decode_usage(fixture("usage_optional_1")) == Usage(
            PROJECT_ID, 2_000_000, 200, 5, ProjectUsage(PROJECT_ID, series), (ClientAppUsage("101111140", series, 1),)
        )


@pytest.mark.parametrize(
    "name",
    [
        "usage_live",
        "usage_numbers",
        "usage_project_id_number",
        "usage_plain_dates",
        "usage_dates_without_milliseconds",
        "usage_numeric_offsets",
        "usage_unsorted_days",
        "usage_repeated_days",
        "usage_project_list",
        "usage_project_list_split",
        "usage_bare_days",
    ],
)
def test_every_known_variation_decodes_to_the_same(name: str) -> None:
    """Whatever envelope the numbers come in, they are the same values."""
    assert decode_usage(fixture(name)) == EXPECTED


class TestDaysOfApps:
    def test_gives_both_breakdowns(self) -> None:
        """The newest documents' list of days gives the project's days and each app's."""
        assert decode_usage(fixture("usage_days_of_apps")) == UNCOUNTED

    def test_apps_in_their_own_field_win(self) -> None:
        """If the apps are in their own field as well, that one counts."""
        document = json.loads(fixture("usage_days_of_apps"))
        document["data"]["daily_client_app_usage"] = live()["data"]["daily_client_app_usage"]
        assert decode_usage(encoded(document)) == EXPECTED

    def test_an_unknown_app_makes_an_unknown_sum(self) -> None:
        """A day with an app of unknown count, or without apps, has no sum. A zero is a sum."""
        usage = decoded(
            daily_project_usage=[
                {"date": "2024-01-01", "usage": [{"app_id": "1", "tweets_consumed": 5}, {"app_id": "2"}]},
                {"date": "2024-01-02", "usage": []},
                {"date": "2024-01-03", "usage": None},
                {"date": "2024-01-04"},
                {"date": "2024-01-05", "usage": [{"app_id": 1, "tweets_consumed": "0"}]},
                {"date": "2024-01-06", "usage": [{"tweets_consumed": 7}, {"app_id": "1", "tweets_consumed": 8}]},
            ]
        )
        days = tuple(dt.date(2024, 1, day) for day in range(1, 7))
        assert usage.daily_project_usage == ProjectUsage(None, DailySeries(days, (None, None, None, None, 0, 15)))
        assert usage.daily_client_app_usage == (
            ClientAppUsage("1", DailySeries((days[0], days[4], days[5]), (5, 0, 8))),
            ClientAppUsage("2", DailySeries((days[0],), (None,))),
            ClientAppUsage(None, DailySeries((days[5],), (7,))),
        )

    def test_a_day_in_two_rows(self) -> None:
        """A day that comes twice is one day. Its apps are added up, and equal repeats counted once."""
        usage = decoded(
            daily_project_usage=[
                {"date": "2024-01-02", "usage": [{"app_id": "1", "tweets_consumed": 5}]},
                {"date": "2024-01-01", "usage": [{"app_id": "1", "tweets_consumed": 1}]},
                {"date": "2024-01-02", "usage": [{"app_id": "2", "tweets_consumed": 3}]},
                {"date": "2024-01-02", "usage": [{"app_id": "1", "tweets_consumed": 5}]},
            ]
        )
        assert usage.daily_project_usage is not None
        assert usage.daily_project_usage.usage.to_list() == [
            {"date": "2024-01-01", "usage": 1},
            {"date": "2024-01-02", "usage": 8},
        ]


class TestMissing:
    @pytest.mark.parametrize("field", list(live()["data"]))
    def test_a_field(self, field: str) -> None:
        """A top-level field that is absent or null is unknown, and the others stay."""
        for how in ["absent", "null"]:
            document = live()
            if how == "null":
                document["data"][field] = None
            else:
                del document["data"][field]
            unknown: Any = () if field == "daily_client_app_usage" else None
            assert decode_usage(encoded(document)) == evolve(EXPECTED, **{field: unknown})

    def test_all_fields(self) -> None:
        """Empty data is a usage of which nothing is known."""
        assert decode_usage(b'{"data": {}}') == Usage()

    @pytest.mark.parametrize("project", [{}, {"usage": None}, {"usage": []}, {"project_id": None}])
    def test_days_of_the_project(self, project: object) -> None:
        """A project with no usage key, or a null one, has no days."""
        assert decoded(daily_project_usage=project) == Usage(daily_project_usage=ProjectUsage())

    def test_an_empty_list_for_the_project(self) -> None:
        """A list of no projects means no project."""
        assert decoded(daily_project_usage=[]) == Usage()

    @pytest.mark.parametrize(
        "app", [{}, {"client_app_id": None}, {"usage": None}, {"usage": []}, {"usage_result_count": None}]
    )
    def test_parts_of_an_app(self, app: object) -> None:
        """An app with no usage key, or with nulls, has no days and no id."""
        assert decoded(daily_client_app_usage=[app]) == Usage(daily_client_app_usage=(ClientAppUsage(),))

    @pytest.mark.parametrize("day", [{"date": "2023-11-01"}, {"date": "2023-11-01", "usage": None}])
    def test_a_days_count(self, day: object) -> None:
        """A day without a count is unknown, not zero."""
        series = DailySeries((NOVEMBER_1,), (None,))
        assert decoded(daily_client_app_usage=[{"usage": [day]}]).daily_client_app_usage[0].usage == series
        assert decoded(daily_project_usage={"usage": [day]}).daily_project_usage == ProjectUsage(usage=series)
        assert decoded(daily_project_usage=[day]).daily_project_usage == ProjectUsage(usage=series)


@either_parser
class TestLeaves:
    @pytest.mark.parametrize(
        ("text", "day"),
        [
            ("2023-11-01", NOVEMBER_1),
            ("2023-11-01T00:00:00.000Z", NOVEMBER_1),
            ("2023-11-01T00:00:00Z", NOVEMBER_1),
            ("2023-11-01T00:00Z", NOVEMBER_1),
            ("2023-11-01T23:59:59.999999999Z", NOVEMBER_1),
            ("2023-11-01T23:59:60.99999999999999Z", NOVEMBER_1),
            ("2023-11-01T00:00:00+00:00", NOVEMBER_1),
            ("2023-11-01T00:30:00+01:00", dt.date(2023, 10, 31)),
            ("2023-11-01T23:30:00-0100", NOVEMBER_2),
            ("2024-02-29", dt.date(2024, 2, 29)),
            ("0001-01-01", dt.date(1, 1, 1)),
            ("9999-12-31T23:59:59Z", dt.date(9999, 12, 31)),
        ],
    )
    def test_dates(self, text: str, day: dt.date) -> None:
        """A date is taken in every known spelling; with an offset, the UTC date counts."""
        assert decoded(daily_project_usage=[{"date": text}]).daily_project_usage == ProjectUsage(
            usage=DailySeries((day,), (None,))
        )

    @pytest.mark.parametrize(
        ("value", "count"),
        [("0", 0), (0, 0), ("407", 407), (407, 407), ("007", 7), (2**63, 2**63), ("9" * 100, 10**100 - 1)],
    )
    def test_counts(self, value: object, count: int) -> None:
        """A count is digits, as text or as a number, of any size that could be meant."""
        assert decoded(project_cap=value).project_cap == count
        assert decoded(project_usage=value).project_usage == count
        assert decoded(daily_client_app_usage=[{"usage_result_count": value}]).daily_client_app_usage == (
            ClientAppUsage(usage_result_count=count),
        )

    @pytest.mark.parametrize(("value", "day"), [(1, 1), (31, 31), ("10", 10)])
    def test_reset_days(self, value: object, day: int) -> None:
        """The reset day is a day of the month, as a number or as text."""
        assert decoded(cap_reset_day=value).cap_reset_day == day

    def test_reset_days_of_no_month(self) -> None:
        """Any other reset day is unknown, and kept as it came. The vendor's schema counts days left, without bounds."""
        for value in [0, 32, 306, 2**31, "0", "32", "x", "", -1, *BAD_COUNTS[:8], True, 12.7, 5.0, 10**100, [], {}]:
            usage = decode_usage(encoded({"data": live()["data"] | {"cap_reset_day": value}}))
            assert usage == evolve(EXPECTED, cap_reset_day=None, extra={"cap_reset_day": value})

    def test_a_reset_day_beside_the_data(self) -> None:
        """A field of that name beside the data is kept under another path."""
        usage = decode_usage(b'{"data": {"cap_reset_day": 32}, "cap_reset_day": 5}')
        assert usage == Usage(extra={"cap_reset_day": 32, "$.cap_reset_day": 5})

    @pytest.mark.parametrize("value", [PROJECT_ID, int(PROJECT_ID)])
    def test_ids_exceed_every_integer(self, value: object) -> None:
        """An id stays exact text, also if it was a number beyond 2**63."""
        assert decoded(project_id=value).project_id == PROJECT_ID
        apps = decoded(daily_client_app_usage=[{"client_app_id": value}]).daily_client_app_usage
        assert apps == (ClientAppUsage(PROJECT_ID),)

    def test_a_byte_order_mark(self) -> None:
        """A BOM before good JSON is allowed."""
        assert decode_usage(b"\xef\xbb\xbf" + fixture("usage_live")) == EXPECTED

    def test_an_escaped_pair(self) -> None:
        """A whole surrogate pair is one character, and no flaw."""
        assert decode_usage(rb'{"data": {"name": "\ud83d\ude00"}}').extra == {"name": "\U0001f600"}

    def test_a_repeated_row_adds_a_missing_count(self) -> None:
        """Of two rows for one day, the one with a count counts."""
        for counts in [(None, 5), (5, None), (5, 5)]:
            days = [{"date": "2023-11-01", "usage": count} for count in counts]
            assert decoded(daily_project_usage={"usage": days}).daily_project_usage == ProjectUsage(
                usage=DailySeries((NOVEMBER_1,), (5,))
            )


class TestBesideTheData:
    def test_problems_are_kept(self) -> None:
        """Problems beside good data are kept, in their order, whatever their shape."""
        document = live() | {"errors": [{"title": "a", "status": 1, "code": 2}, "plain", {"message": "old"}, 7]}
        assert decode_usage(encoded(document)) == evolve(
            EXPECTED,
            errors=(
                Problem(title="a", status=1, extra={"code": 2}),
                Problem(detail="plain"),
                Problem(detail="old", extra={"message": "old"}),
                Problem(),
            ),
        )

    @pytest.mark.parametrize("errors", [None, []])
    def test_no_problems(self, errors: object) -> None:
        """An empty or null list of problems is none."""
        assert decode_usage(encoded(live() | {"errors": errors})) == EXPECTED

    def test_one_problem_alone(self) -> None:
        """A problem that is not in a list is one problem."""
        assert decode_usage(encoded(live() | {"errors": {"title": "a"}})).errors == (Problem(title="a"),)

    def test_unknown_fields_are_kept(self) -> None:
        """Unknown fields of every level are kept under their path. They change nothing else."""
        document = live()
        data = document["data"]
        document["meta"] = {"took": 1}
        document["project_cap"] = "beside"
        data["plan"] = None
        data["daily_project_usage"]["name"] = "p"
        data["daily_project_usage"]["usage"][1]["note"] = "d"
        data["daily_client_app_usage"][1]["name"] = "a"
        data["daily_client_app_usage"][0]["usage"][2]["note"] = [1]
        usage = decode_usage(encoded(document))
        assert usage.extra == {
            "meta": {"took": 1},
            "$.project_cap": "beside",
            "plan": None,
            "daily_project_usage.name": "p",
            "daily_project_usage.usage[1].note": "d",
            "daily_client_app_usage[1].name": "a",
            "daily_client_app_usage[0].usage[2].note": [1],
        }
        assert evolve(usage, extra={}) == EXPECTED

    def test_unknown_fields_of_a_project_list(self) -> None:
        """They are kept in a list of projects, too."""
        document = json.loads(fixture("usage_project_list"))
        document["data"]["daily_project_usage"][0]["name"] = "p"
        document["data"]["daily_project_usage"][0]["usage"][3]["note"] = "d"
        assert decode_usage(encoded(document)).extra == {
            "daily_project_usage[0].name": "p",
            "daily_project_usage[0].usage[3].note": "d",
        }

    @pytest.mark.parametrize("name", ["usage_bare_days", "usage_days_of_apps"])
    def test_unknown_fields_of_listed_days(self, name: str) -> None:
        """They are kept in both lists of days, too."""
        document = json.loads(fixture(name))
        days = document["data"]["daily_project_usage"]
        days[1]["note"] = "d"
        expected = {"daily_project_usage[1].note": "d"}
        if name == "usage_days_of_apps":
            days[1]["usage"][0]["name"] = "a"
            expected["daily_project_usage[1].usage[0].name"] = "a"
        assert decode_usage(encoded(document)).extra == expected

    def test_what_the_caller_adds(self) -> None:
        """The window and the time are the caller's. Without them they are unknown and 1970."""
        rate_limit, now = (
            RateLimit(50, 49, dt.datetime(2024, 1, 1, tzinfo=dt.UTC)),
            dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        )
        assert decode_usage(fixture("usage_live"), rate_limit=rate_limit, fetched_at=now) == evolve(
            EXPECTED, rate_limit=rate_limit, fetched_at=now
        )
        assert decode_usage(fixture("usage_live")).fetched_at == dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


# -- Columns: rows as the live API sends them, and one oddity among them -----------------------------------------------


@either_parser
class TestColumns:
    @pytest.mark.parametrize(
        "counts",
        [
            ["0", "407", "7"],
            [0, 407, 7],
            ["0", 407, "7"],
            ["0", None, "7"],
            [None, 407, 7],
            ["007", "407", "7"],
            ["9" * 100, "7", "0"],
            [10**100 - 1, 7, 0],
        ],
        ids=ascii,
    )
    def test_counts(self, counts: list[Any]) -> None:
        """Strings, numbers, unknown ones and any mixture are the same counts."""
        days = [dt.date(2024, 1, day) for day in (1, 2, 3)]
        rows = [{"date": f"{day}", "usage": count} for day, count in zip(days, counts, strict=True)]
        expected = DailySeries(tuple(days), tuple(None if count is None else int(count) for count in counts))
        assert decoded(daily_project_usage={"usage": rows}).daily_project_usage == ProjectUsage(usage=expected)

    def test_many_counts(self) -> None:
        """A whole month of strings is read as each of them would be; leading zeros do not change a number."""
        for texts in ([str(day) for day in range(1, 31)], [f"{day:02}" for day in range(1, 31)]):
            rows = [{"date": f"2024-01-{day:02}", "usage": text} for day, text in enumerate(texts, 1)]
            project = decoded(daily_project_usage={"usage": rows}).daily_project_usage
            assert project is not None
            assert project.usage.counts == tuple(range(1, 31))

    @pytest.mark.parametrize(("good", "days"), [("5", 4), (5, 4), ("5", 30)], ids=ascii)
    def test_one_bad_count_among_good_ones(self, good: object, days: int) -> None:
        """One value that is not a count is refused, with its path."""
        for value in BAD_COUNT_VALUES:
            counts = [good, good, value, *[good] * (days - 3)]
            rows = [{"date": f"2024-01-{day:02}", "usage": count} for day, count in enumerate(counts, 1)]
            error = refused(encoded({"data": {"daily_client_app_usage": [{}, {"usage": rows}]}}))
            assert error.path == "$.data.daily_client_app_usage[1].usage[2].usage"
            assert error.excerpt == excerpt(value)

    @pytest.mark.parametrize("field", [{"x": 1}, {"x": "1"}, {"x": None}])
    def test_an_unknown_field_among_the_rows(self, field: dict[str, object]) -> None:
        """A row with a third field is a row, and the field is kept. Another row may lack its count."""
        rows: list[dict[str, object]] = [{"date": "2024-01-01", "usage": "1"}, {"date": "2024-01-02"} | field]
        usage = decoded(daily_project_usage={"usage": rows})
        days = (dt.date(2024, 1, 1), dt.date(2024, 1, 2))
        assert usage.daily_project_usage == ProjectUsage(usage=DailySeries(days, (1, None)))
        assert usage.extra == {f"daily_project_usage.usage[1].{name}": value for name, value in field.items()}

    def test_apps_share_their_days(self) -> None:
        """Ten apps with the same days keep them once, which makes a row small."""
        api = FakeApi(apps=2)
        usage = decode_usage(api.handle(authorize(usage_request(days=30), api.apps[0].token)).body)
        assert usage.daily_project_usage is not None
        first, *others = (app.usage.dates for app in usage.daily_client_app_usage)
        assert all(dates is first for dates in others)
        assert usage.daily_project_usage.usage.dates is first

    def test_a_space_around(self) -> None:
        """White space around a document is not part of it."""
        assert decode_usage(b" " + fixture("usage_live") + b"\r\n") == EXPECTED


# -- What is refused ---------------------------------------------------------------------------------------------------

Place = Callable[[object], dict[str, object]]
COUNT_PLACES: dict[str, Place] = {
    "project_cap": lambda value: {"project_cap": value},
    "project_usage": lambda value: {"project_usage": value},
    "daily_client_app_usage[1].usage_result_count": lambda value: {
        "daily_client_app_usage": [{}, {"usage_result_count": value}]
    },
    "daily_project_usage.usage[2].usage": lambda value: {
        "daily_project_usage": {
            "usage": [{"date": "2023-11-01"}, {"date": "2023-11-02"}, {"date": "2023-11-03", "usage": value}]
        }
    },
    "daily_client_app_usage[0].usage[0].usage": lambda value: {
        "daily_client_app_usage": [{"usage": [{"date": "2023-11-01", "usage": value}]}]
    },
    "daily_project_usage[0].usage[0].usage": lambda value: {
        "daily_project_usage": [{"project_id": "1", "usage": [{"date": "2023-11-01", "usage": value}]}]
    },
    "daily_project_usage[0].usage[1].tweets_consumed": lambda value: {
        "daily_project_usage": [{"date": "2023-11-01", "usage": [{}, {"app_id": "1", "tweets_consumed": value}]}]
    },
}
DATE_PLACES: dict[str, Place] = {
    "daily_project_usage.usage[0].date": lambda value: {"daily_project_usage": {"usage": [{"date": value}]}},
    "daily_client_app_usage[0].usage[1].date": lambda value: {
        "daily_client_app_usage": [{"usage": [{"date": "2023-11-01"}, {"date": value}]}]
    },
    "daily_project_usage[0].date": lambda value: {"daily_project_usage": [{"date": value, "usage": "1"}]},
    "daily_project_usage[1].date": lambda value: {
        "daily_project_usage": [{"date": "2023-11-01", "usage": []}, {"date": value, "usage": []}]
    },
}
ID_PLACES: dict[str, Place] = {
    "project_id": lambda value: {"project_id": value},
    "daily_project_usage.project_id": lambda value: {"daily_project_usage": {"project_id": value}},
    "daily_project_usage[0].project_id": lambda value: {"daily_project_usage": [{"project_id": value}]},
    "daily_client_app_usage[0].client_app_id": lambda value: {"daily_client_app_usage": [{"client_app_id": value}]},
    "daily_project_usage[0].usage[0].app_id": lambda value: {
        "daily_project_usage": [{"date": "2023-11-01", "usage": [{"app_id": value}]}]
    },
}


class TestRefusedLeaves:
    @pytest.mark.parametrize("path", COUNT_PLACES)
    def test_counts(self, path: str) -> None:
        """A malformed count is refused in any place, with its path, and never guessed."""
        for value in BAD_COUNT_VALUES:
            error = refused(encoded({"data": COUNT_PLACES[path](value)}))
            assert error.path == f"$.data.{path}"
            assert not error.retryable
            assert str(error).startswith(f"$.data.{path}: expected a count (digits only), got ")
            assert error.excerpt == excerpt(value)

    def test_the_one_count_that_reads_as_a_list(self) -> None:
        """A list in place of a bare day's count makes it a day of apps. An object there is refused."""
        assert refused(encoded({"data": {"daily_project_usage": [{"date": "2023-11-01", "usage": 1.5}]}})).path == (
            "$.data.daily_project_usage[0].usage"
        )
        mixed = [{"date": "2023-11-01", "usage": []}, {"date": "2023-11-02", "usage": 7}]
        error = refused(encoded({"data": {"daily_project_usage": mixed}}))
        assert error.path == "$.data.daily_project_usage[1].usage"
        assert "expected a list, got 7" in str(error)

    @pytest.mark.parametrize("path", DATE_PLACES)
    def test_dates(self, path: str) -> None:
        """What is not plainly a date is refused. Week dates, impossible days, times without a zone."""
        for value in BAD_DATES:
            error = refused(encoded({"data": DATE_PLACES[path](value)}))
            assert error.path == f"$.data.{path}"
            assert "expected a date" in str(error)
            assert error.excerpt == excerpt(value)
            assert not error.retryable

    @pytest.mark.parametrize("path", list(DATE_PLACES)[:2])
    @pytest.mark.parametrize("how", ["absent", "null"])
    def test_a_day_without_a_date(self, path: str, how: str) -> None:
        """A day must say which one it is."""
        document = {"data": DATE_PLACES[path](None)}
        if how == "null":
            assert refused(encoded(document)).path == f"$.data.{path}"
        else:
            body = encoded(document).replace(b'{"date": null}', b'{"usage": "1"}')
            error = refused(body)
            assert error.path.startswith(f"$.data.{path.removesuffix('.date')}")
            assert error.path.endswith("]") or error.path.endswith(".date")

    @pytest.mark.parametrize("path", ID_PLACES)
    def test_ids(self, path: str) -> None:
        """An id is text or a whole number."""
        for value in [True, 1.5, [], {}, ["1"]]:
            error = refused(encoded({"data": ID_PLACES[path](value)}))
            assert error.path == f"$.data.{path}"
            assert "expected an id" in str(error)


class TestRefusedShapes:
    @pytest.mark.parametrize("body", [b"{}", b'{"data": null}', b'{"errors": []}', b'{"errors": [{"title": "x"}]}'])
    def test_no_data(self, body: bytes) -> None:
        """A response without data, or with null, is not a usage. ``protocol`` interprets its errors."""
        error = refused(body)
        assert (str(error), error.path, error.excerpt) == ("$.data: missing", "$.data", "")
        assert not error.retryable

    @pytest.mark.parametrize("body", [b"[]", b"1", b'"data"', b"null", b"true", b"[{}]", b"1.5"])
    def test_no_object(self, body: bytes) -> None:
        """Good JSON that is not an object is refused. A retry would return it again."""
        error = refused(body)
        assert error.path == "$"
        assert "expected an object" in str(error)
        assert not error.retryable

    @pytest.mark.parametrize(
        ("data", "path", "expected"),
        [
            ([], "$.data", "an object"),
            ("x", "$.data", "an object"),
            (0, "$.data", "an object"),
            (False, "$.data", "an object"),
            ({"daily_client_app_usage": {}}, "$.data.daily_client_app_usage", "a list"),
            ({"daily_client_app_usage": "abc"}, "$.data.daily_client_app_usage", "a list"),
            ({"daily_client_app_usage": 0}, "$.data.daily_client_app_usage", "a list"),
            ({"daily_client_app_usage": [[]]}, "$.data.daily_client_app_usage[0]", "an object"),
            ({"daily_client_app_usage": [{}, None]}, "$.data.daily_client_app_usage[1]", "an object"),
            ({"daily_client_app_usage": [{"usage": {}}]}, "$.data.daily_client_app_usage[0].usage", "a list"),
            ({"daily_client_app_usage": [{"usage": "ab"}]}, "$.data.daily_client_app_usage[0].usage", "a list"),
            ({"daily_client_app_usage": [{"usage": [7]}]}, "$.data.daily_client_app_usage[0].usage[0]", "an object"),
            ({"daily_project_usage": "x"}, "$.data.daily_project_usage", "an object"),
            ({"daily_project_usage": False}, "$.data.daily_project_usage", "an object"),
            ({"daily_project_usage": {"usage": {}}}, "$.data.daily_project_usage.usage", "a list"),
            ({"daily_project_usage": {"usage": [None]}}, "$.data.daily_project_usage.usage[0]", "an object"),
            ({"daily_project_usage": [None]}, "$.data.daily_project_usage[0]", "an object"),
            ({"daily_project_usage": [{"date": "2023-11-01"}, 7]}, "$.data.daily_project_usage[1]", "an object"),
            (
                {"daily_project_usage": [{"date": "2023-11-01", "usage": [7]}]},
                "$.data.daily_project_usage[0].usage[0]",
                "an object",
            ),
        ],
    )
    def test_wrong_containers(self, data: object, path: str, expected: str) -> None:
        """A list, an object and a text are never taken for each other."""
        error = refused(encoded({"data": data}))
        assert error.path == path
        assert str(error).startswith(f"{path}: expected {expected}, got ")

    @pytest.mark.parametrize(
        ("data", "path"),
        [
            (
                {"daily_project_usage": {"usage": [{"date": "2023-11-01", "usage": count} for count in "556"]}},
                "$.data.daily_project_usage.usage[2].usage",
            ),
            (
                {"daily_project_usage": [{"date": "2023-11-01", "usage": count} for count in "56"]},
                "$.data.daily_project_usage[1].usage",
            ),
            (
                {
                    "daily_client_app_usage": [
                        {},
                        {"usage": [{"date": "2023-11-01T12:00:00Z", "usage": 5}, {"date": "2023-11-01", "usage": 0}]},
                    ]
                },
                "$.data.daily_client_app_usage[1].usage[1].usage",
            ),
            (
                {
                    "daily_project_usage": [
                        {"project_id": "1", "usage": [{"date": "2023-11-01", "usage": count}]} for count in "56"
                    ]
                },
                "$.data.daily_project_usage[1].usage",
            ),
            (
                {"daily_project_usage": [{"project_id": "1"}, {"project_id": "2"}]},
                "$.data.daily_project_usage[1].project_id",
            ),
            (
                {
                    "daily_project_usage": [
                        {"date": "2023-11-01", "usage": [{"app_id": "1", "tweets_consumed": count}]} for count in "56"
                    ]
                },
                "$.data.daily_project_usage[1].usage[0].tweets_consumed",
            ),
        ],
        ids=["project", "bare days", "app", "project list", "two projects", "days of apps"],
    )
    def test_contradictions(self, data: object, path: str) -> None:
        """Two different counts for one day contradict each other, in every shape. Neither is chosen."""
        error = refused(encoded({"data": data}))
        assert error.path == path
        assert "as before" in str(error)
        assert not error.retryable

    def test_the_example_of_a_path(self) -> None:
        """A path counts from the document's root, with names and indexes."""
        document = live()
        document["data"]["daily_client_app_usage"][1]["usage"][1]["date"] = "2023-W44-3"
        error = refused(encoded(document))
        assert error.path == "$.data.daily_client_app_usage[1].usage[1].date"
        assert error.excerpt == '"2023-W44-3"'

    @pytest.mark.parametrize("flaw", [b"true", b"NaN", b'"1_000"', b'"\\ud800"'])
    def test_stands_alone(self, flaw: bytes) -> None:
        """The printed traceback is the error alone, without a private or a cattrs exception."""
        error = refused(b'{"data": {"project_cap": ' + flaw + b"}}")
        assert error.__cause__ is None
        assert error.__context__ is None or error.__suppress_context__
        assert "During handling" not in "".join(traceback.format_exception(error))


@either_parser
class TestRefusedJson:
    @pytest.mark.parametrize(
        ("body", "path"),
        [
            (b'{"data": {"project_cap": NaN}}', "$.data.project_cap"),
            (b'{"data": {"project_cap": Infinity}}', "$.data.project_cap"),
            (b'{"data": {"project_cap": -Infinity}}', "$.data.project_cap"),
            (b'{"data": {"project_cap": 1e999}}', "$.data.project_cap"),
            (b'{"data": {"unknown": [0, -1e999]}}', "$.data.unknown[1]"),
            (b'{"data": {"unknown": {"deep": [NaN]}}}', "$.data.unknown.deep[0]"),
            (rb'{"data": {"project_id": "\ud800"}}', "$.data.project_id"),
            (rb'{"data": {"unknown": ["\udfff x"]}}', "$.data.unknown[0]"),
            (rb'{"errors": [{"detail": "\ud83d"}], "data": {}}', "$.errors[0].detail"),
            (b'{"data": {"project_cap": ' + b"9" * 5000 + b"}}", "$.data.project_cap"),
            (b'{"data": {"unknown": [' + b"9" * 5000 + b"]}}", "$.data.unknown[0]"),
            (b'{"data": {"project_cap": -' + b"9" * 5000 + b"}}", "$.data.project_cap"),
            (b'{"data": {"project_cap": "' + b"9" * 5000 + b'"}}', "$.data.project_cap"),
        ],
        ids=lambda value: ascii(value)[:50],
    )
    def test_values_that_json_must_not_contain(self, body: bytes, path: str) -> None:
        """NaN, infinities, half characters and endless numbers are refused, with their path."""
        error = refused(body)
        assert error.path == path
        assert error.excerpt
        assert not error.retryable

    @pytest.mark.parametrize(
        ("body", "usage"),
        [
            (b'{"data": {"project_cap": "1", "project_cap": "2"}}', Usage(project_cap=2)),
            (rb'{"data": {"project_cap": "1", "project\u005fcap": "2"}}', Usage(project_cap=2)),
            (b'{"data": {"project_cap": "1"}, "data": {}}', Usage()),
            (b'{"data": {"x": {"a": 1, "a": 2}}}', Usage(extra={"x": {"a": 2}})),
            (b'{"data": {"project_cap": NaN, "project_cap": 5}}', Usage(project_cap=5)),
        ],
    )
    def test_a_key_twice(self, body: bytes, usage: Usage) -> None:
        """Of a key that comes twice the last one counts, as in every JSON parser."""
        assert decode_usage(body) == usage

    def test_more_values_than_any_response_has(self) -> None:
        """A few kilobytes can inflate to millions of values, which would block the event loop for seconds."""
        body = b'{"data":{"daily_client_app_usage":[' + b"{}," * 400_001 + b"{}]}}"
        assert "more values than any response" in str(refused(body))
        assert decode_usage(b" " * 500_000 + fixture("usage_live")) == EXPECTED

    def test_a_key_that_is_half_a_character(self) -> None:
        """Half a character in a key is refused, and the path that holds it is escaped."""
        error = refused(rb'{"data": {"\ud800": 1}}')
        assert error.path == r"$.data.\ud800"
        assert not error.retryable

    def test_a_path_of_any_length(self) -> None:
        """A path through long keys is cut, for it is shown."""
        error = refused(b'{"data": {"' + b"k" * 5000 + b'": NaN}}')
        assert error.path == "$.data." + "k" * 193

    @pytest.mark.parametrize(
        "body",
        [
            b"[" * 100_000,
            b'{"data": {"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
            b'{"a": ' * 100_000 + b"1" + b"}" * 100_000,
        ],
        ids=["open", "closed", "objects"],
    )
    def test_a_hundred_thousand_levels(self, body: bytes) -> None:
        """Depth is refused, not met with a RecursionError."""
        error = refused(body)
        assert error.path == "$"
        assert "nested deeper" in str(error)
        assert error.excerpt
        assert not error.retryable

    @pytest.mark.parametrize("field", ["data", "errors", "unknown"])
    def test_a_hundred_levels(self, field: str) -> None:
        """Depth that would be kept is refused sooner. A usage can be pickled, copied and shown on every stack."""
        deep: object = None
        for _ in range(150):
            deep = [deep]
        document = {"data": {"unknown": deep}} if field == "data" else {"data": {}, field: deep}
        assert "nested deeper" in str(refused(encoded(document)))
        assert decode_problem(encoded(document)) == Problem()

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b" ",
            b"\xef\xbb\xbf",
            b"<html><body>502 Bad Gateway\x00\x1b[2J\x7f</body></html>" + b"x" * 5000,
            b'{"data": {"project_cap": "1"',
            b'{"data": {}} trailing',
            b'{"data": {}}{"data": {}}',
            b"{'data': {}}",
            b'{"data": {"x": 01}}',
            b'{"data": {"x": "\n"}}',
            b'{"data": {},}',
            b'{"data": {"x": "\\q"}}',
            b"\xef\xbb\xbf\xef\xbb\xbf{}",
            b"+ADw-html+AD4-",
        ],
        ids=lambda body: ascii(body)[:40],
    )
    def test_not_json_at_all(self, body: bytes) -> None:
        """A body that is not JSON is worth one more try, and its start is shown escaped."""
        error = refused(body)
        assert "not JSON" in str(error)
        assert (error.path, error.retryable, error.retry_once) == ("$", True, True)
        assert error.excerpt or not body.strip()

    @pytest.mark.parametrize(
        "body",
        [
            "{}".encode("utf-16"),
            '{"data": {}}'.encode("utf-32"),
            b'{"data": {"x": "\xff"}}',
            b'{"data": {"x": "\xc0\xaf"}}',
            b'{"data": {"x": "\xed\xa0\x80"}}',
            b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
            b'{"data": {"x": "\xc3',
        ],
        ids=ascii,
    )
    def test_not_utf_8(self, body: bytes) -> None:
        """UTF-8 is forced, whatever the header claims. Other bytes are worth one more try."""
        error = refused(body)
        assert "not UTF-8" in str(error)
        assert (error.path, error.retryable, error.retry_once) == ("$", True, True)
        assert error.excerpt

    @pytest.mark.parametrize("flaw", [b"NaN", b"1e999", b"9" * 5000], ids=lambda flaw: flaw[:16])
    def test_a_flaw_before_the_cut(self, flaw: bytes) -> None:
        """A body that is truncated after another error is a DecodeError like any truncated body."""
        for rest in [b"", b",", b"}} trailing", b', "x": tru', b', "x": {"a"']:
            error = refused(b'{"data": {"flaw": ' + flaw + rest)
            assert (error.retryable, error.retry_once) == (True, True)

    @pytest.mark.parametrize("flaw", [b"NaN", b"1e999", b"9" * 5000], ids=lambda flaw: flaw[:16])
    def test_a_flaw_before_the_depth(self, flaw: bytes) -> None:
        """Depth after another error is a DecodeError, too, and not a RecursionError."""
        error = refused(b'{"data": {"flaw": ' + flaw + b', "deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}")
        assert not error.retryable


class TestExcerpt:
    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            ("12", '"12"'),
            ("a\nb", r'"a\nb"'),
            ("٣", r'"\u0663"'),
            (None, "null"),
            (True, "true"),
            (12.7, "12.7"),
            ([], "[]"),
            ({}, "{}"),
            (-1, "-1"),
            ("\x7f", r'"\u007f"'),
        ],
        ids=ascii,
    )
    def test_shows_what_stood_there(self, value: object, shown: str) -> None:
        """An excerpt shows a value as JSON would, in printable ASCII."""
        assert excerpt(value) == shown

    @pytest.mark.parametrize(
        "value",
        ["x" * 10**6, "\x1b" * 1000, "٣" * 1000, ["x" * 1000] * 1000, {"k" * 1000: {"k": [[[[[[[[1]]]]]]]]}}, 10**4000],
        ids=lambda value: ascii(type(value)),
    )
    def test_is_short(self, value: object) -> None:
        """However large a value is, its excerpt is short and printable."""
        assert 0 < len(excerpt(value)) <= 200
        assert set(excerpt(value)) <= PRINTABLE


# -- Problems ----------------------------------------------------------------------------------------------------------


@either_parser
class TestProblems:
    @pytest.mark.parametrize(
        ("body", "problem"),
        [
            (b'{"title":"t","type":"y","detail":"d","status":403}', Problem("t", "y", "d", 403)),
            (b'{"title":"t","errors":[{"message":"m"}]}', Problem("t", extra={"errors": [{"message": "m"}]})),
            (
                b'{"errors":[{"message":"m","code":89},{"message":"n"}]}',
                Problem(detail="m", extra={"message": "m", "code": 89}),
            ),
            (b'{"errors":{"title":"t"}}', Problem("t")),
            (b'{"errors":"plain"}', Problem(detail="plain")),
            (b'{"errors":[]}', Problem(extra={"errors": []})),
            (b'{"errors":null,"code":7}', Problem(extra={"errors": None, "code": 7})),
            (b'{"detail":"d","message":"m"}', Problem(detail="d", extra={"message": "m"})),
            (b'{"title":7,"type":null,"detail":[],"status":"403"}', None),
            (b'{"title":"t","status":true}', Problem("t", extra={"status": True})),
            (b"{}", Problem()),
            (b"", Problem()),
            (b"[]", Problem()),
            (b"<html>", Problem()),
            (b"\xff", Problem()),
            (b"[" * 100_000, Problem()),
            (b'{"title": NaN}', Problem()),
            (b'{"title": NaN', Problem()),
        ],
        ids=lambda value: ascii(value)[:40],
    )
    def test_decode_problem(self, body: bytes, problem: Problem | None) -> None:
        """A problem's body returns its content, in each of its shapes. A page from the edge returns nothing."""
        if problem is None:  # Fields of the wrong type are kept as they came.
            problem = Problem(extra=json.loads(body))
        assert decode_problem(body) == problem

    def test_leaves_what_it_reads_alone(self) -> None:
        """Reading a problem does not change the document that holds it."""
        value = {"title": "t", "status": 1, "message": "m"}
        before = copy.deepcopy(value)
        problem_from(value)
        assert value == before


# -- Anything at all ---------------------------------------------------------------------------------------------------

COUNTS = st.integers(0, 10**25)
IDS = st.one_of(
    st.integers(0, 2**80).map(str), st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=8)
)
DAYS = st.dates(dt.date(1900, 1, 1), dt.date(2200, 1, 1))
SPELLINGS = ["{}", "{}T00:00:00.000Z", "{}T00:00:00Z", "{}T05:00:00+05:00", "{}T18:59-0500"]
TABLES = st.dictionaries(DAYS, st.none() | COUNTS, max_size=6)


def series(table: dict[dt.date, int | None]) -> DailySeries:
    """A table of days as the series that it must become."""
    days = sorted(table)
    return DailySeries(tuple(days), tuple(table[day] for day in days))


def written_count(draw: st.DrawFn, value: int | None) -> object:
    """A count as one of the wire's two types."""
    return value if value is None or draw(st.booleans()) else str(value)


def written_date(draw: st.DrawFn, day: dt.date) -> str:
    """A day in one of its spellings."""
    return draw(st.sampled_from(SPELLINGS)).format(day)


def written_rows(draw: st.DrawFn, table: dict[dt.date, int | None]) -> list[dict[str, object]]:
    """A table of days as rows in any order, one of them repeated perhaps."""
    ordered = draw(st.permutations(list(table)))
    rows: list[dict[str, object]] = [
        {"date": written_date(draw, day), "usage": written_count(draw, table[day])} for day in ordered
    ]
    return rows + rows[:1] if draw(st.booleans()) else rows


def written_days_of_apps(
    draw: st.DrawFn, table: dict[dt.date, int | None]
) -> tuple[list[dict[str, object]], tuple[ClientAppUsage, ...]]:
    """A table of days as days of two apps, which share each count."""
    halves = {
        day: (count, count) if count is None else (count // 2, count - count // 2) for day, count in table.items()
    }
    rows: list[dict[str, object]] = [
        {
            "date": written_date(draw, day),
            "usage": [
                {"app_id": name, "tweets_consumed": written_count(draw, half)}
                for name, half in zip("12", halves[day], strict=True)
            ],
        }
        for day in draw(st.permutations(list(table)))
    ]
    apps = tuple(
        ClientAppUsage(name, series({day: half[index] for day, half in halves.items()}))
        for index, name in enumerate("12")
    )
    return rows, apps


@st.composite
def shaped(draw: st.DrawFn) -> tuple[dict[str, Any], Usage]:
    """A document of one of the known shapes, and what it must decode to."""
    project_id, cap, used = draw(st.none() | IDS), draw(st.none() | COUNTS), draw(st.none() | COUNTS)
    reset_day = draw(st.none() | st.integers(1, 31))
    named = draw(st.lists(st.tuples(IDS, TABLES), max_size=3, unique_by=lambda pair: pair[0]))
    table = draw(TABLES)
    shape = draw(st.sampled_from(["none", "object", "projects", "bare", "apps"]))
    apps = tuple(ClientAppUsage(name, series(days), len(days)) for name, days in named)
    project: ProjectUsage | None = ProjectUsage(project_id, series(table))
    data: dict[str, Any] = {
        "project_id": project_id,
        "project_cap": written_count(draw, cap),
        "project_usage": written_count(draw, used),
        "cap_reset_day": reset_day,
        "daily_client_app_usage": [
            {"client_app_id": name, "usage": written_rows(draw, days), "usage_result_count": len(days)}
            for name, days in named
        ],
    }
    if shape == "object":
        data["daily_project_usage"] = {"project_id": project_id, "usage": written_rows(draw, table)}
    elif shape == "projects":
        rows = written_rows(draw, table)
        data["daily_project_usage"] = [{"project_id": project_id, "usage": rows}, {"project_id": project_id}]
    elif shape == "bare" and table:
        data["daily_project_usage"] = written_rows(draw, table)
    elif shape == "apps" and table:
        data["daily_project_usage"], apps = written_days_of_apps(draw, table)
        data["daily_client_app_usage"] = draw(st.sampled_from([None, []]))
    else:
        project = None
    document = {"data": {name: value for name, value in data.items() if value is not None or draw(st.booleans())}}
    return document, Usage(project_id, cap, used, reset_day, project, apps)


@either_parser
@SLOW
@given(shaped())
def test_any_known_shape_decodes(shape: tuple[dict[str, Any], Usage]) -> None:
    """A document of any known shape decodes to its values, and so does what ``to_dict`` writes.

    ``to_rows`` has a row for each day of each app, or without apps for each day of the project.
    """
    document, usage = shape
    assert decode_usage(encoded(document)) == usage
    ours = {"errors", "rate_limit", "fetched_at", "extra"}
    data = {name: value for name, value in usage.to_dict().items() if name not in ours}
    assert decode_usage(encoded({"data": data})) == usage
    series = [app.usage for app in usage.daily_client_app_usage]
    if not series and usage.daily_project_usage is not None:
        series = [usage.daily_project_usage.usage]
    assert [(row["date"], row["usage"]) for row in usage.to_rows()] == [
        (day.date, day.usage) for days in series for day in days
    ]


def decodes_or_refuses(body: bytes) -> None:
    """Decode: a Usage or a DecodeError that is fit to be shown. Anything else is raised."""
    error = DecodeError()
    try:
        assert isinstance(decode_usage(body), Usage)
    except DecodeError as refusal:
        error = refusal
    assert len(error.excerpt) <= 200
    assert set(str(error) + error.path + error.excerpt) <= PRINTABLE


GOOD = [fixture(path.stem) for path in sorted(FIXTURES.glob("usage_*.json"))]
# Fragments that mean something to a parser: single random bytes seldom make them.
FRAGMENTS = [
    *(b"NaN", b"Infinity", b"1e999", b"null", b"true", b"[]", b"{}", b'"', b"\\", b"\\ud800", b"\\u0000", b"{", b"["),
    *(b"}", b"]", b",", b":", b"-", b".", b"9" * 5000, b"\xff", b"\xef\xbb\xbf", b'"date":', b'"a":1,"a":1,'),
    *(b'"usage":', b"[" * 3000, b"\x00", b"\x7f", b" ", b"2023-02-30"),
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A good body, spoilt in a few places."""
    body = bytearray(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body)))
        end = min(len(body), at + draw(st.integers(0, 20)))
        how = draw(st.sampled_from(["flip", "delete", "insert", "truncate", "splice", "repeat"]))
        if how == "flip" and at < len(body):
            body[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "delete":
            del body[at:end]
        elif how == "insert":
            body[at:at] = draw(st.sampled_from(FRAGMENTS) | st.binary(max_size=4))
        elif how == "truncate":
            del body[at:]
        elif how == "splice":
            body[at:end] = draw(st.sampled_from(FRAGMENTS) | st.sampled_from(GOOD))
        else:
            body[at:at] = body[at:end]
    return bytes(body)


@either_parser
@settings(SLOW, max_examples=60)
@given(mutated())
def test_spoilt_bytes(body: bytes) -> None:
    """A good body with any change gives a Usage or a DecodeError."""
    decodes_or_refuses(body)


@either_parser
@SLOW
@given(st.binary(max_size=200))
def test_any_bytes(body: bytes) -> None:
    """Any bytes give a Usage or a DecodeError, and as an error's body a Problem."""
    decodes_or_refuses(body)
    assert isinstance(decode_problem(body), Problem)


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(), max_size=6),
    st.sampled_from([" 12 ", "1_000", "٣", "2023-11-01", "2023-W44-3", 10**100, 10**4000, "\ud800", "\x7f", "9" * 101]),
)
NAMES = st.sampled_from(
    [
        "data",
        "errors",
        "date",
        "usage",
        "app_id",
        "tweets_consumed",
        "project_id",
        "daily_project_usage",
        "title",
        "x",
        "\ud800",
    ]
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8
)
DOCUMENTS = [json.loads(body) for body in GOOD]


def nodes(document: Any) -> list[tuple[Any, Any]]:
    """Every place in a document: its container and its key there."""
    found = []
    todo = [document]
    while todo:
        container = todo.pop()
        items = container.items() if isinstance(container, dict) else enumerate(container)
        for key, value in items:
            found.append((container, key))
            if isinstance(value, dict | list):
                todo.append(value)
    return found


@either_parser
@SLOW
@given(st.data())
def test_any_value_anywhere(data: st.DataObject) -> None:
    """With any part of a good document replaced, the result is a Usage or a DecodeError."""
    document = copy.deepcopy(data.draw(st.sampled_from(DOCUMENTS)))
    for _ in range(data.draw(st.integers(1, 2))):
        container, key = data.draw(st.sampled_from(nodes(document)))
        container[key] = data.draw(VALUES)
        if not nodes(document):
            break
    decodes_or_refuses(encoded(document))


@either_parser
@SLOW
@given(VALUES)
def test_any_value_is_a_problem(value: Any) -> None:
    """A problem is read from any value, and keeps it unchanged."""
    assert isinstance(problem_from(value), Problem)
    for document in (value, {"errors": value}, {"errors": [value]}):
        assert isinstance(decode_problem(encoded(document)), Problem)


@either_parser
@SLOW
@given(VALUES)
def test_any_value_as_unknown(value: Any) -> None:
    """An unknown field is kept whole if JSON allows it, and then changes nothing else."""
    body = encoded(live() | {"surprise": value})
    try:
        usage = decode_usage(body)
    except DecodeError as error:
        path = error.path
    else:
        assert usage.extra == {"surprise": value}
        assert evolve(usage, extra={}) == EXPECTED
        return
    assert path.startswith("$.surprise")


def test_a_document_is_a_plain_dict() -> None:
    """A decoded document is what json gives, no more."""
    assert decode_document(b'{"a": [1, 1.5, "x", null, true]}') == {"a": [1, 1.5, "x", None, True]}
    assert math.isclose(decode_document(b'{"a": 1e308}')["a"], 1e308)  # type: ignore[arg-type]


def test_without_msgspec(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra ``speed`` is optional: without it json parses."""
    monkeypatch.setitem(sys.modules, "msgspec.json", None)
    assert FAST_PARSER.__wrapped__() is json_reader._parse_with_json


def test_a_large_body_is_no_problem_document() -> None:
    """It is not parsed. It may be a page, or an attempt to keep this program busy."""
    assert decode_problem(b'{"title": "' + b"x" * 2**16 + b'"}') == Problem()
    assert decode_problem(b'{"title": "' + b"x" * 2**15 + b'"}').title == "x" * 2**15
