"""The values: what they hold, derive, refuse and write. How they come out of bytes is test_codec's business."""

import copy
import datetime as dt
import json
import pickle
from collections.abc import Sequence

import pytest
from attrs import fields
from attrs.exceptions import FrozenInstanceError

from twusage import (
    ClientAppUsage,
    DailySeries,
    DailyUsage,
    Problem,
    ProjectUsage,
    RateLimit,
    Usage,
    UsageField,
)

MONDAY, TUESDAY, FRIDAY = dt.date(2024, 1, 1), dt.date(2024, 1, 2), dt.date(2024, 1, 5)
SERIES = DailySeries((MONDAY, TUESDAY, FRIDAY), (7, None, 5))
RATE_LIMIT = RateLimit(50, 49, dt.datetime(2024, 1, 5, 12, 15, tzinfo=dt.UTC))
USAGE = Usage(
    project_id="1281043626347900822499",
    project_cap=100,
    project_usage=25,
    cap_reset_day=31,
    daily_project_usage=ProjectUsage("1281043626347900822499", SERIES),
    daily_client_app_usage=(
        ClientAppUsage("101", SERIES, 3),
        ClientAppUsage(None, DailySeries((MONDAY,), (1,))),
    ),
    errors=(Problem(title="Partial", detail="one app is missing", extra={"code": 1}),),
    rate_limit=RATE_LIMIT,
    fetched_at=dt.datetime(2024, 1, 5, 12, 0, 1, tzinfo=dt.UTC),
    extra={"plan": "basic"},
)


class TestUsageField:
    def test_is_text(self) -> None:
        """A field is the wire's own name, as a str."""
        assert f"{UsageField.PROJECT_CAP}" == "project_cap"
        assert UsageField("daily_project_usage") is UsageField.DAILY_PROJECT_USAGE

    def test_names_the_six_documented_fields(self) -> None:
        """The six documented names are there, and no others."""
        assert [str(field) for field in UsageField] == [
            "cap_reset_day",
            "daily_client_app_usage",
            "daily_project_usage",
            "project_cap",
            "project_id",
            "project_usage",
        ]


class TestDailySeries:
    def test_is_a_sequence_of_days(self) -> None:
        """A series reads as rows, with all that a Sequence can do."""
        assert isinstance(SERIES, Sequence)
        assert len(SERIES) == 3
        assert list(SERIES) == [DailyUsage(MONDAY, 7), DailyUsage(TUESDAY, None), DailyUsage(FRIDAY, 5)]
        assert SERIES[0] == DailyUsage(MONDAY, 7)
        assert SERIES[-1] == DailyUsage(FRIDAY, 5)
        assert DailyUsage(TUESDAY) in SERIES
        assert DailyUsage(TUESDAY, 0) not in SERIES
        assert SERIES.index(DailyUsage(FRIDAY, 5)) == 2
        assert next(reversed(SERIES)) == DailyUsage(FRIDAY, 5)

    @pytest.mark.parametrize("index", [3, -4])
    def test_index_beyond_the_end(self, index: int) -> None:
        """An index beyond either end is an IndexError, so that iteration protocols end."""
        with pytest.raises(IndexError):
            SERIES[index]

    def test_slice_is_a_series(self) -> None:
        """A slice is a series again, with its total."""
        assert SERIES[1:] == DailySeries((TUESDAY, FRIDAY), (None, 5))
        assert SERIES[-2:].total == 5
        assert SERIES[::2] == DailySeries((MONDAY, FRIDAY), (7, 5))
        assert SERIES[9:] == DailySeries()

    def test_slice_backwards(self) -> None:
        """A slice that runs backwards is refused, for its days would descend."""
        with pytest.raises(ValueError, match="must ascend"):
            SERIES[::-1]

    def test_total_leaves_unknown_counts_out(self) -> None:
        """The total is the sum of known counts, and 0 without any."""
        assert SERIES.total == 12
        assert DailySeries().total == 0
        assert DailySeries((MONDAY,), (None,)).total == 0

    @pytest.mark.parametrize(
        ("day", "count"),
        [
            (MONDAY, 7),
            (TUESDAY, None),
            (dt.date(2024, 1, 3), None),
            (FRIDAY, 5),
            (dt.date(2023, 12, 31), None),
            (dt.date(2024, 1, 6), None),
        ],
    )
    def test_on_a_day(self, day: dt.date, count: int | None) -> None:
        """The count of a day is found wherever it stands. A day that is missing has none."""
        assert SERIES.on(day) == count

    def test_on_a_day_of_nothing(self) -> None:
        """An empty series has no count for any day."""
        assert DailySeries().on(MONDAY) is None

    @pytest.mark.parametrize("dates", [(TUESDAY, MONDAY), (MONDAY, MONDAY)], ids=["descending", "twice"])
    def test_refuses_days_out_of_order(self, dates: tuple[dt.date, ...]) -> None:
        """Days must ascend, each once: on() would not find them otherwise."""
        with pytest.raises(ValueError, match="the dates of a series must ascend, each day once"):
            DailySeries(dates, (1, 2))

    @pytest.mark.parametrize("counts", [(), (1, 2)])
    def test_refuses_columns_of_unequal_length(self, counts: tuple[int, ...]) -> None:
        """A series has one count a date."""
        with pytest.raises(ValueError, match=f"got 1 dates and {len(counts)} counts"):
            DailySeries((MONDAY,), counts)

    def test_writes_the_wire_shape(self) -> None:
        """A series writes itself in the wire's own shape."""
        assert SERIES.to_list() == [
            {"date": "2024-01-01", "usage": 7},
            {"date": "2024-01-02", "usage": None},
            {"date": "2024-01-05", "usage": 5},
        ]


class TestUsage:
    @pytest.mark.parametrize(
        ("cap", "used", "remaining", "fraction"),
        [
            (100, 25, 75, 0.25),
            (100, 100, 0, 1.0),
            (100, 150, 0, 1.5),
            (100, 0, 100, 0.0),
            (0, 0, 0, None),
            (0, 3, 0, None),
            (None, 25, None, None),
            (100, None, None, None),
            (None, None, None, None),
        ],
    )
    def test_remaining_and_fraction(
        self, cap: int | None, used: int | None, remaining: int | None, fraction: float | None
    ) -> None:
        """What remains is never below 0. A fraction of an unknown or empty cap is unknown, not an error."""
        usage = Usage(project_cap=cap, project_usage=used)
        assert usage.remaining == remaining
        assert usage.used_fraction == fraction

    def test_to_dict(self) -> None:
        """A whole usage as plain JSON types, under the names of its fields."""
        rows = [
            {"date": "2024-01-01", "usage": 7},
            {"date": "2024-01-02", "usage": None},
            {"date": "2024-01-05", "usage": 5},
        ]
        written = USAGE.to_dict()
        assert json.loads(json.dumps(written)) == written
        assert written == {
            "project_id": "1281043626347900822499",
            "project_cap": 100,
            "project_usage": 25,
            "cap_reset_day": 31,
            "daily_project_usage": {"project_id": "1281043626347900822499", "usage": rows},
            "daily_client_app_usage": [
                {"client_app_id": "101", "usage": rows, "usage_result_count": 3},
                {
                    "client_app_id": None,
                    "usage": [{"date": "2024-01-01", "usage": 1}],
                    "usage_result_count": None,
                },
            ],
            "errors": [{"title": "Partial", "detail": "one app is missing", "code": 1}],
            "rate_limit": {"limit": 50, "remaining": 49, "reset_at": "2024-01-05T12:15:00+00:00"},
            "fetched_at": "2024-01-05T12:00:01+00:00",
            "extra": {"plan": "basic"},
        }

    def test_to_dict_of_nothing(self) -> None:
        """What the API did not say is null, never 0."""
        assert Usage().to_dict() == {
            "project_id": None,
            "project_cap": None,
            "project_usage": None,
            "cap_reset_day": None,
            "daily_project_usage": None,
            "daily_client_app_usage": [],
            "errors": [],
            "rate_limit": None,
            "fetched_at": "1970-01-01T00:00:00+00:00",
            "extra": {},
        }

    def test_to_dict_is_a_copy(self) -> None:
        """Changing what to_dict gave changes no frozen value."""
        usage = Usage(extra={"plan": "basic"}, errors=(Problem(extra={"code": 1}),))
        written = usage.to_dict()
        written["extra"].clear()  # type: ignore[attr-defined]
        written["errors"][0].clear()  # type: ignore[index]
        assert usage == Usage(extra={"plan": "basic"}, errors=(Problem(extra={"code": 1}),))

    def test_to_dict_has_every_field(self) -> None:
        """A new field is not lost."""
        assert list(Usage().to_dict()) == [field.name for field in fields(Usage)]

    def test_to_rows(self) -> None:
        """One row a day and app, with a real date. An unknown count stays unknown."""
        assert USAGE.to_rows() == [
            {"date": MONDAY, "client_app_id": "101", "usage": 7},
            {"date": TUESDAY, "client_app_id": "101", "usage": None},
            {"date": FRIDAY, "client_app_id": "101", "usage": 5},
            {"date": MONDAY, "client_app_id": None, "usage": 1},
        ]
        assert Usage().to_rows() == []

    def test_to_rows_of_the_project(self) -> None:
        """Where only the project's days were requested, the rows are the project's. Not silently none."""
        usage = Usage(daily_project_usage=ProjectUsage("1", DailySeries((MONDAY, TUESDAY), (7, None))))
        assert usage.to_rows() == [
            {"date": MONDAY, "client_app_id": None, "usage": 7},
            {"date": TUESDAY, "client_app_id": None, "usage": None},
        ]

    def test_the_unpositional_fields(self) -> None:
        """What is not the API's own data is given by name only."""
        with pytest.raises(TypeError):
            Usage("1", 2, 3, 4, None, (), ())  # type: ignore[call-arg]


class TestProblem:
    def test_absent_fields_are_left_out(self) -> None:
        """A problem writes what it has, in the wire's own shape."""
        assert Problem().to_dict() == {}
        problem = Problem("t", "about:blank", "d", 403, {"reset_date": "2026-04-14"})
        assert problem.to_dict() == {
            "title": "t",
            "type": "about:blank",
            "detail": "d",
            "status": 403,
            "reset_date": "2026-04-14",
        }


VALUES = [
    USAGE,
    SERIES,
    SERIES[0],
    RATE_LIMIT,
    USAGE.errors[0],
    USAGE.daily_client_app_usage[0],
    USAGE.daily_project_usage,
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
class TestEveryValue:
    def test_is_frozen(self, value: object) -> None:
        """No attribute of a value can be set, known or unknown."""
        name = type(value).__attrs_attrs__[0].name  # type: ignore[attr-defined]
        with pytest.raises(FrozenInstanceError):
            setattr(value, name, None)
        with pytest.raises((FrozenInstanceError, AttributeError)):
            value.surprise = 1  # type: ignore[attr-defined]

    def test_hashes_as_it_compares(self, value: object) -> None:
        """Equal values have equal hashes, so that they go into sets and keys."""
        twin = copy.deepcopy(value)
        assert twin == value
        assert len({twin, value}) == 1

    def test_pickles(self, value: object) -> None:
        """A value survives pickling whole."""
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            assert pickle.loads(pickle.dumps(value, protocol)) == value
