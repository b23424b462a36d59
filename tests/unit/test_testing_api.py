"""FakeApi answers as the live service does, and counts as it counts."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import json
import math
from typing import Any
from urllib.parse import quote

import pytest

from twusage.errors import UsageCapExceededError
from twusage.protocol import Request, Response, authorize, usage_request
from twusage.testing import FakeApi, FakeApp, FakeProject, Fault, VirtualClock
from twusage.testing.api import Runaway

URL = "https://api.twitter.com/2/usage/tweets"


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def api(clock: VirtualClock) -> FakeApi:
    return FakeApi(clock=clock)


def ask(api: FakeApi, query: str = "", *, token: str | None = None, now: float | None = None) -> Response:
    request = Request("GET", f"{URL}?{query}" if query else URL)
    return api.handle(authorize(request, api.apps[0].token if token is None else token), now)


def body(response: Response) -> Any:
    return json.loads(response.body)


def shapes(value: Any) -> Any:
    """The kinds of a document's values, without the values."""
    if isinstance(value, dict):
        return {name: shapes(item) for name, item in value.items()}
    return [shapes(value[0])] if isinstance(value, list) else type(value).__name__


def test_the_summary_is_the_live_ones(api: FakeApi) -> None:
    """Four fields; counts as strings, the reset day as a number, an id beyond 2**63."""
    data = body(ask(api))["data"]
    assert shapes(data) == {"cap_reset_day": "int", "project_cap": "str", "project_id": "str", "project_usage": "str"}
    assert int(data["project_id"]) > 2**63


def test_the_daily_fields_are_the_documents(api: FakeApi) -> None:
    """Requested with both daily fields, it responds in the shape of the document's own example."""
    data = body(ask(api, "days=30&usage.fields=daily_client_app_usage,daily_project_usage"))["data"]
    rows = [{"date": "str", "usage": "str"}]
    assert shapes(data) == {
        "cap_reset_day": "int",
        "project_cap": "str",
        "project_id": "str",
        "project_usage": "str",
        "daily_project_usage": {"project_id": "str", "usage": rows},
        "daily_client_app_usage": [{"client_app_id": "str", "usage_result_count": "int", "usage": rows}],
    }
    assert data["daily_project_usage"]["usage"][-1]["date"] == "2026-01-15T00:00:00.000Z"


def test_days_alone_change_nothing(api: FakeApi) -> None:
    """As live: without the daily fields there is only the summary."""
    assert body(ask(api, "days=30")) == body(ask(api))


def test_seven_days_are_the_default(api: FakeApi) -> None:
    """Without days, a week."""
    data = body(ask(api, "usage.fields=daily_project_usage"))["data"]
    assert len(data["daily_project_usage"]["usage"]) == 7


def test_its_project_is_believable(api: FakeApi) -> None:
    """Three apps and 90 days of reads. The project's days are the sums of its apps'; some days are missing."""
    data = body(ask(api, "days=90&usage.fields=daily_client_app_usage,daily_project_usage"))["data"]
    apps = data["daily_client_app_usage"]
    assert [len(app["usage"]) == 90 for app in apps] == [True, True, False]
    sums: dict[str, int] = {}
    for app in apps:
        assert app["usage_result_count"] == len(app["usage"])
        for row in app["usage"]:
            sums[row["date"]] = sums.get(row["date"], 0) + int(row["usage"])
    assert {row["date"]: int(row["usage"]) for row in data["daily_project_usage"]["usage"]} == sums
    since = f"2026-01-{data['cap_reset_day']}"
    assert int(data["project_usage"]) == sum(count for day, count in sums.items() if day >= since)
    assert 0 < int(data["project_usage"]) < int(data["project_cap"])


def test_two_fakes_have_the_same_history_and_other_credentials() -> None:
    """What is read is the same in every run. Tokens are not, so that two fakes never share a window."""
    one, two = FakeApi(clock=VirtualClock()), FakeApi(clock=VirtualClock())
    assert body(ask(one))["data"]["project_usage"] == body(ask(two))["data"]["project_usage"]
    assert {app.token for app in one.apps}.isdisjoint(app.token for app in two.apps)


def test_reads_count(api: FakeApi) -> None:
    """What an app reads stands in its day, in the project's day and in the cycle."""
    fields = "days=1&usage.fields=daily_client_app_usage,daily_project_usage"
    before = body(ask(api, fields))["data"]
    api.read_posts(api.apps[1], 200)
    api.read_posts(api.apps[1].id, 50)
    after = body(ask(api, fields))["data"]
    assert int(after["project_usage"]) - int(before["project_usage"]) == 250
    rows = [data["daily_client_app_usage"][1]["usage"][0]["usage"] for data in (before, after)]
    assert int(rows[1]) - int(rows[0]) == 250


def test_reads_of_an_unknown_app_are_a_mistake_of_the_test(api: FakeApi) -> None:
    """A wrong id raises, and does not count in vain."""
    with pytest.raises(LookupError, match=r"pass one of api\.apps"):
        api.read_posts("unknown", 1)


@pytest.mark.parametrize("count", [-1, 1.5, None, True])
def test_reads_without_sense_are_a_mistake_of_the_test(api: FakeApi, count: Any) -> None:
    """Posts are read by the whole piece."""
    with pytest.raises(ValueError, match="count must be"):
        api.read_posts(api.apps[0], count)


def test_its_history_exists_before_the_first_request(api: FakeApi) -> None:
    """A test may set the cap by the usage before its first request."""
    assert len(api.apps[0].reads) == 90
    before = api.project.usage()
    assert before > 0
    assert body(ask(api))["data"]["project_usage"] == str(before)
    assert FakeProject("1", 10, 1).usage() == 0


@pytest.mark.parametrize(
    "knobs",
    [{"cap": -1}, {"reset_day": 0}, {"reset_day": 32}, {"apps": -1}, {"rate_limit": 0}, {"rate_period": math.inf}],
    ids=str,
)
def test_a_project_that_cannot_be_is_refused(knobs: dict[str, Any]) -> None:
    """On creation, not on a request."""
    with pytest.raises(ValueError, match="reset_day 1 to 31"):
        FakeApi(**knobs)


def test_an_app_may_leave_its_project(api: FakeApi) -> None:
    """What it read is no longer the project's."""
    before = int(body(ask(api))["data"]["project_usage"])
    api.project.apps.pop()
    assert int(body(ask(api))["data"]["project_usage"]) < before


def test_a_program_that_reads_for_ever_is_stopped(clock: VirtualClock) -> None:
    """A loop round refused reads ends as one round refused requests does."""
    api = FakeApi(cap=0, history_days=0, clock=clock)
    api.max_requests = 10

    def loop() -> None:
        while True:
            with contextlib.suppress(Exception):
                api.read_posts(api.apps[0], 1)

    with pytest.raises(Runaway, match="10 requests"):
        loop()


def test_an_invalid_fault_raises_immediately(api: FakeApi) -> None:
    """A forgotten call, or no times at all, is a mistake of the test, raised on creation."""
    with pytest.raises(TypeError, match="takes a Fault"):
        api.fail(Fault.rate_limited)  # type: ignore[arg-type]
    for times in (0, -1, math.nan):
        with pytest.raises(ValueError, match="times must be"):
            api.fail(Fault.rate_limited(), times=times)


def test_a_project_at_its_cap_is_refused_its_reads(clock: VirtualClock) -> None:
    """As the reading endpoints do. The read that reaches the cap goes, the one after it does not."""
    api = FakeApi(cap=100, history_days=0, clock=clock)
    api.read_posts(api.apps[0], 99)
    api.read_posts(api.apps[1], 1)
    with pytest.raises(UsageCapExceededError):
        api.read_posts(api.apps[2], 1)
    assert body(ask(api))["data"]["project_usage"] == "100"


def test_an_app_outside_a_project_reads_without_a_cap(clock: VirtualClock) -> None:
    """Its reads are counted against nothing."""
    api = FakeApi(cap=0, history_days=0, clock=clock)
    api.read_posts(api.add_app(attached=False), 10)
    assert body(ask(api))["data"]["project_usage"] == "0"


def test_a_project_that_never_read_has_no_rows(clock: VirtualClock) -> None:
    """As live: no rows, no usage key."""
    api = FakeApi(history_days=0, clock=clock)
    data = body(ask(api, "usage.fields=daily_client_app_usage,daily_project_usage"))["data"]
    assert data["project_usage"] == "0"
    assert data["daily_project_usage"] == {"project_id": api.project.id}
    assert data["daily_client_app_usage"][0] == {"client_app_id": api.apps[0].id, "usage_result_count": 0}


@pytest.mark.parametrize(
    ("reset_day", "today", "start"),
    [
        (10, "2026-01-15", "2026-01-10"),
        (10, "2026-01-10", "2026-01-10"),
        (10, "2026-01-09", "2025-12-10"),
        (31, "2026-02-28", "2026-02-28"),
        (31, "2026-02-27", "2026-01-31"),
        (30, "2028-02-29", "2028-02-29"),
        (29, "2026-03-01", "2026-02-28"),
        (1, "2026-05-31", "2026-05-01"),
    ],
)
def test_the_cycle_turns_on_its_day(reset_day: int, today: str, start: str) -> None:
    """On the reset day, or on the last day of a shorter month."""
    project = FakeApi(reset_day=reset_day).project
    assert project.cycle_start(dt.date.fromisoformat(today)) == dt.date.fromisoformat(start)


async def test_usage_returns_to_zero_when_the_cycle_turns() -> None:
    """At 00:00 UTC of the reset day the count begins again. The days stay."""
    clock = VirtualClock(dt.datetime(2026, 1, 9, 23, 59, 59, tzinfo=dt.UTC))
    api = FakeApi(reset_day=10, clock=clock)
    assert int(body(ask(api))["data"]["project_usage"]) > 0
    await clock.sleep(1)
    data = body(ask(api, "days=2&usage.fields=daily_project_usage"))["data"]
    assert data["project_usage"] == "0"
    assert len(data["daily_project_usage"]["usage"]) == 1


# -- Refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "name", "value"),
    [
        ("days=91", "days", "91"),
        ("days=0", "days", "0"),
        ("days=x", "days", "x"),
        ("days=", "days", ""),
        ("days=%D9%A7", "days", "٧"),
        ("days=99999999999", "days", "99999999999"),
        ("usage.fields=reads", "usage.fields", "reads"),
        ("usage.fields=", "usage.fields", ""),
        ("day=7", "day", "7"),
    ],
)
def test_a_bad_parameter_is_the_familys_400(api: FakeApi, query: str, name: str, value: str) -> None:
    """It names the parameter and its value, and counts against the window."""
    response = ask(api, query)
    assert response.status == 400
    assert body(response)["title"] == "Invalid Request"
    assert body(response)["type"].endswith("/invalid-request")
    (error,) = body(response)["errors"]
    assert error["parameters"] == {name: [value]}
    assert f"[{value}]" in error["message"] or name == "day"
    assert response.headers["x-rate-limit-remaining"] == "49"


@pytest.mark.parametrize("name", ["usage.fields", "days"])
def test_a_parameter_given_twice_is_refused(api: FakeApi, name: str) -> None:
    """As live: the values of a list stand in one parameter, with commas between."""
    value = {"days": "7"}.get(name, "daily_project_usage")
    response = ask(api, f"{name}={value}&{name}={value}")
    assert response.status == 400
    (error,) = body(response)["errors"]
    assert error["parameters"] == {name: [value, value]}
    assert error["message"] == f"Duplicate parameters are not allowed: the `{name}` query parameter"


@pytest.mark.parametrize("scheme", ["bearer", "BEARER"])
def test_the_scheme_in_any_case(api: FakeApi, scheme: str) -> None:
    """HTTP does not tell the case of a scheme apart."""
    request = Request("GET", URL, {"authorization": f"{scheme} {api.apps[0].token}"})
    assert api.handle(request).status == 200


@pytest.mark.parametrize("authorization", ["Bearer unknown", "Basic abc", "", "Bearer"])
def test_an_unknown_token_is_a_401_without_rate_headers(api: FakeApi, authorization: str) -> None:
    """As live: a rejected credential gets no window."""
    response = api.handle(Request("GET", URL, {"authorization": authorization} if authorization else {}))
    assert response.status == 401
    assert body(response) == {"title": "Unauthorized", "detail": "Unauthorized", "type": "about:blank", "status": 401}
    assert not [name for name in response.headers if name.startswith("x-rate")]


def test_a_user_token_is_refused(api: FakeApi) -> None:
    """This endpoint takes app-only tokens."""
    api.user_tokens.add("user")
    response = ask(api, token="user")
    assert response.status == 403
    assert body(response)["type"].endswith("/unsupported-authentication")


def test_an_app_outside_a_project_is_refused(api: FakeApi) -> None:
    """With the body of the document, and its own window counted."""
    response = ask(api, token=api.add_app(attached=False).token)
    assert response.status == 403
    assert body(response)["reason"] == "client-not-enrolled"
    assert response.headers["x-rate-limit-remaining"] == "49"


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/2/tweets"), ("POST", "/2/usage/tweets"), ("GET", "/oauth2/token")]
)
def test_another_path_is_a_404(api: FakeApi, method: str, path: str) -> None:
    """There is one endpoint, and the one that issues tokens."""
    assert api.handle(Request(method, f"https://api.twitter.com{path}")).status == 404


# -- The window --------------------------------------------------------------------------------------------------------


def test_fifty_calls_go_and_the_next_is_refused_until_the_window_is_over(api: FakeApi) -> None:
    """50 in 900 s from the first call, whose header has whole seconds. Waking at that second is too early."""
    start = 1_000_000.4
    answers = [ask(api, now=start + at) for at in range(51)]
    assert [answer.status for answer in answers] == [200] * 50 + [429]
    assert [answer.headers["x-rate-limit-remaining"] for answer in answers[:2]] == ["49", "48"]
    assert {answer.headers["x-rate-limit-reset"] for answer in answers} == {"1000900"}
    assert ask(api, now=1_000_900.0).status == 429
    assert ask(api, now=start + 900).status == 200


def test_a_refused_call_does_not_count(api: FakeApi) -> None:
    """Hammering a closed window neither prolongs it nor spends the next."""
    for _ in range(60):
        ask(api, now=0.0)
    assert ask(api, now=900.0).headers["x-rate-limit-remaining"] == "49"


def test_tokens_of_one_app_share_its_window(api: FakeApi) -> None:
    """The window is the app's, not the token's. Another app of the project has its own."""
    api.apps[0].tokens.append("second")
    ask(api)
    assert ask(api, token="second").headers["x-rate-limit-remaining"] == "48"
    assert ask(api, token=api.apps[1].token).headers["x-rate-limit-remaining"] == "49"


def test_the_servers_clock_may_be_wrong(api: FakeApi) -> None:
    """date_skew moves its Date and its resets together, as a wrong clock does."""
    api.date_skew = 300.0
    headers = ask(api, now=0.0).headers
    assert headers["date"] == "Thu, 01 Jan 1970 00:05:00 GMT"
    assert headers["x-rate-limit-reset"] == "1200"


# -- Minting -----------------------------------------------------------------------------------------------------------


def fetch_token(api: FakeApi, key: str, secret: str, scheme: str = "Basic") -> Response:
    credentials = base64.b64encode(f"{quote(key)}:{quote(secret)}".encode()).decode()
    headers = {"authorization": f"{scheme} {credentials}"}
    return api.handle(Request("POST", "https://api.x.com/oauth2/token", headers, b"grant_type=client_credentials"))


def test_an_app_fetches_its_token(api: FakeApi) -> None:
    """Key and secret give the app's one token, time and again."""
    app = api.apps[1]
    assert body(fetch_token(api, app.api_key, app.api_secret)) == {"token_type": "bearer", "access_token": app.token}


@pytest.mark.parametrize("authorization", ["Basic %%%", "Basic /w==", "Basic a2V5OnNlY3JldA==", "Bearer x", ""])
def test_bad_credentials_get_no_token(api: FakeApi, authorization: str) -> None:
    """As documented: 403 with code 99."""
    response = api.handle(Request("POST", "https://api.x.com/oauth2/token", {"authorization": authorization}))
    assert response.status == 403
    assert body(response)["errors"][0]["code"] == 99


# -- Faults ------------------------------------------------------------------------------------------------------------


def test_faults_queue_up_and_run_out(api: FakeApi) -> None:
    """Two of one, then one of another, then all is well."""
    api.fail(Fault.status(503), times=2)
    api.fail(Fault.status(500))
    assert [ask(api).status for _ in range(4)] == [503, 503, 500, 200]


def test_a_fault_can_choose_its_requests(api: FakeApi) -> None:
    """when= leaves the others alone, also those that come first."""
    api.fail(Fault.status(503), when=lambda request: "days=9" in request.url)
    assert ask(api).status == 200
    assert ask(api, "days=9").status == 503


def test_an_unused_fault_is_reported(api: FakeApi) -> None:
    """A test that does not reach its target is not a test."""
    api.fail(Fault.status(503), times=2)
    ask(api)
    with pytest.raises(AssertionError, match=r"Fault\.status\(503\) \(used 1 of 2 times\)"):
        api.assert_all_used()
    ask(api)
    api.assert_all_used()


def test_a_fault_can_last_for_ever(api: FakeApi) -> None:
    """times=math.inf is an outage without end, used once it was met."""
    api.fail(Fault.status(503), times=math.inf)
    with pytest.raises(AssertionError, match="used 0 of inf times"):
        api.assert_all_used()
    assert {ask(api).status for _ in range(60)} == {503}
    api.assert_all_used()


def test_a_program_that_calls_without_end_is_stopped(api: FakeApi) -> None:
    """An endless retry loop ends here instead of hanging the test. It may even catch every Exception."""
    api.max_requests = 100

    def loop() -> None:
        while True:
            with contextlib.suppress(Exception):
                ask(api)

    with pytest.raises(Runaway, match="100 requests"):
        loop()


def test_a_used_up_window_stays_used_up(api: FakeApi) -> None:
    """Fault.rate_limited() is consistent: until the reset every call is rejected."""
    api.fail(Fault.rate_limited())
    first = ask(api, now=100.0)
    assert (first.status, first.headers["x-rate-limit-remaining"]) == (429, "0")
    assert ask(api, now=900.0).status == 429
    assert ask(api, now=1000.0).status == 200


def test_an_unknown_token_spends_no_window(api: FakeApi) -> None:
    """A 429 for an unknown token is only a response."""
    api.fail(Fault.rate_limited())
    assert ask(api, token="unknown").status == 429
    assert ask(api).status == 200


@pytest.mark.parametrize(
    ("fault", "status", "title"),
    [
        (Fault.usage_capped(), 429, "UsageCapExceeded"),
        (Fault.credits_depleted(), 402, "CreditsDepleted"),
        (Fault.spend_cap_reached("2026-02-10"), 403, "SpendCapReached"),
        (Fault.status(401), 401, "Unauthorized"),
        (Fault.status(503), 503, "Service Unavailable"),
    ],
    ids=repr,
)
def test_each_refusal_has_the_family_body(api: FakeApi, fault: Fault, status: int, title: str) -> None:
    """Bodies seen in real traffic."""
    api.fail(fault)
    response = ask(api)
    assert response.status == status
    assert body(response)["title"] == title
    silent = status in {401, 503}
    assert ("x-rate-limit-remaining" not in response.headers) == silent


def test_any_status_with_any_body(api: FakeApi) -> None:
    """Text, bytes, a document, and headers besides the usual. An unknown status has none of its own."""
    for content, expected in (("text", b"text"), (b"\xff", b"\xff"), ({"a": 1}, b'{"a": 1}')):
        api.fail(Fault.status(418, content, headers={"x-a": "b"}))
        response = ask(api)
        assert (response.status, response.body, response.headers["x-a"]) == (418, expected, "b")
    api.fail(Fault.status(599))
    assert ask(api).body == b""


def test_a_server_can_lie_in_its_headers(api: FakeApi) -> None:
    """Any header can be changed or removed, on an error and on a good response."""
    api.fail(Fault.rate_limited(headers={"x-rate-limit-reset": "abc", "x-rate-limit-limit": None}))
    refused = ask(api)
    assert refused.headers["x-rate-limit-reset"] == "abc"
    assert "x-rate-limit-limit" not in refused.headers
    assert ask(api).status == 200, "a lie spends nothing"
    api.fail(Fault.with_headers(x_rate_limit_remaining="7", date=None))
    good = ask(api)
    assert (good.status, good.headers["x-rate-limit-remaining"]) == (200, "7")
    assert "date" not in good.headers


def test_an_answer_can_come_again(api: FakeApi) -> None:
    """A cache on the way repeats the app's last response, old headers included."""
    first = ask(api)
    api.fail(Fault.repeated(), times=2)
    assert ask(api) == first
    assert ask(api, token=api.apps[1].token).headers["x-rate-limit-remaining"] == "49", "nothing to repeat"


def test_a_connection_that_fails_never_arrives(api: FakeApi) -> None:
    """It is neither recorded nor counted; a timeout is both."""
    api.fail(Fault.connect_error())
    ask(api)
    assert api.requests == []
    api.fail(Fault.timeout())
    ask(api)
    assert len(api.requests) == 1
    assert ask(api).headers["x-rate-limit-remaining"] == "48"


def test_it_shows_no_token(api: FakeApi) -> None:
    """The record, the apps and their project can be printed."""
    ask(api)
    shown = repr([api.requests, api.apps, api.project, vars(api)])
    assert not [app for app in api.apps if app.token in shown or app.api_secret in shown]
    assert isinstance(api.apps[0], FakeApp)
    assert usage_request().url == URL
