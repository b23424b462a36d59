"""Requests as documented, and the meaning of every response. Pure: no transport, no clock."""

import base64
import datetime as dt
import email.utils
import json
import logging
import pickle
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

import twusage
from twusage import (
    ApiError,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    CreditsDepletedError,
    DecodeError,
    ForbiddenError,
    InvalidRequestError,
    Problem,
    ProtocolError,
    QuotaError,
    RateLimit,
    RateLimitedError,
    Request,
    Response,
    ServerError,
    SpendCapReachedError,
    TwUsageError,
    Usage,
    UsageCapExceededError,
    UsageField,
)
from twusage.codec import decode_usage
from twusage.protocol import (
    Headers,
    authorize,
    check_base_url,
    read_date,
    read_rate_limit,
    read_token,
    read_usage,
    redact_credentials,
    token_request,
    usage_request,
)

FIXTURES = Path(__file__).parents[1] / "fixtures"
BASE = "https://api.twitter.com/2/usage/tweets"
NO_DAYS: list[Any] = [True, False, 7.0, float("nan"), "7", b"7", [7], (), {}]
BOTH_DAILY = "usage.fields=daily_client_app_usage,daily_project_usage"
NOW = dt.datetime(2026, 3, 1, 12, 0, 0, tzinfo=dt.UTC)
EPOCH_NOW = int(NOW.timestamp())
HTTP_NOW = email.utils.format_datetime(NOW, usegmt=True)
RESET_AT = NOW + dt.timedelta(minutes=10)
WINDOW = {
    "x-rate-limit-limit": "50",
    "x-rate-limit-remaining": "0",
    "x-rate-limit-reset": str(EPOCH_NOW + 600),
}
TOKEN = "AAAAcanary%2Fcanary%3Dcanary"


def fixture(name: str) -> bytes:
    """The bytes of ``fixtures/<name>.json``."""
    return (FIXTURES / f"{name}.json").read_bytes()


def refusal(response: Response, *, now: dt.datetime | None = NOW, request: Request | None = None) -> Any:
    """The error that a response means."""
    with pytest.raises(TwUsageError) as caught:
        read_usage(response, fetched_at=now, request=request)
    error = caught.value
    assert str(error).isprintable()
    assert str(error).isascii()
    return error


# -- Requests ----------------------------------------------------------------------------------------------------------


class TestUsageRequest:
    def test_as_documented(self) -> None:
        """Without arguments, the request is the document's own: no query at all."""
        request = usage_request()
        assert (request.method, request.url, request.body) == ("GET", BASE, b"")
        assert request.headers == {"accept": "application/json", "user-agent": f"twusage/{twusage.__version__}"}

    @pytest.mark.parametrize("days", [1, 7, 90])
    def test_days_alone_request_both_daily_fields(self, days: int) -> None:
        """Days alone would change nothing in the response, so both daily fields are requested."""
        assert usage_request(days=days).url == f"{BASE}?days={days}&{BOTH_DAILY}"

    @pytest.mark.parametrize(
        ("days", "fields", "query"),
        [
            (None, [], ""),
            (None, (), ""),
            (7, [], "?days=7"),
            (None, [UsageField.PROJECT_CAP], "?usage.fields=project_cap"),
            (None, ["project_cap"], "?usage.fields=project_cap"),
            (90, [UsageField.DAILY_CLIENT_APP_USAGE], "?days=90&usage.fields=daily_client_app_usage"),
            (None, [UsageField.DAILY_PROJECT_USAGE, "daily_client_app_usage"], f"?{BOTH_DAILY}"),
            (None, ["daily_project_usage"] * 3, "?usage.fields=daily_project_usage"),
            (None, (name for name in ("project_id", "project_cap")), "?usage.fields=project_cap,project_id"),
            (None, {"project_id": 1}, "?usage.fields=project_id"),
            (
                None,
                reversed(UsageField),
                f"?usage.fields={','.join(UsageField)}",
            ),
        ],
    )
    def test_query(self, days: int | None, fields: Any, query: str) -> None:
        """Fields are sent once each and in one order, so that equal calls are equal requests."""
        assert usage_request(days=days, fields=fields).url == BASE + query

    def test_equal_questions_are_equal_requests(self) -> None:
        """Order and spelling of the fields make no difference to the request."""
        one = usage_request(days=7, fields=["project_id", UsageField.PROJECT_CAP])
        other = usage_request(days=7, fields={UsageField.PROJECT_ID, "project_cap"})
        assert one == other
        assert hash(one) == hash(other)

    def test_base_url(self) -> None:
        """The base URL is the caller's."""
        assert usage_request(base_url="http://[::1]:8080/x").url == "http://[::1]:8080/x/2/usage/tweets"

    @pytest.mark.parametrize(
        ("days", "quoted"),
        [
            *((days, str(days)) for days in (0, 91, -1, 10**18)),
            *((days, repr(days)) for days in NO_DAYS),
        ],
        ids=repr,
    )
    def test_bad_days(self, days: Any, quoted: str) -> None:
        """Invalid days are refused before any I/O, with the value quoted."""
        with pytest.raises(InvalidRequestError) as caught:
            usage_request(days=days)
        assert isinstance(caught.value, ValueError)
        assert re.fullmatch(r"days must be (an int )?between 1 and 90, got .*", str(caught.value))
        assert str(caught.value).endswith(f"got {quoted}")

    @pytest.mark.parametrize(
        "arguments",
        [
            {"days": 10**5000},
            {"days": -(10**5000)},
            {"days": [10**5000]},
            {"days": "7" * 10_000},
            {"fields": [10**5000]},
            {"fields": 10**5000},
            {"fields": "project_cap" * 1000},
            {"fields": ["x" * 10_000]},
            {"fields": [["x" * 10_000] * 100]},
        ],
        ids=lambda arguments: next(iter(arguments)),
    )
    def test_monstrous_values_are_quoted_shortly(self, arguments: dict[str, Any]) -> None:
        """A wrong value of any size is refused with a short message."""
        with pytest.raises(InvalidRequestError) as caught:
            usage_request(**arguments)
        assert len(str(caught.value)) < 400
        assert caught.value.__cause__ is None

    def test_a_value_that_cannot_be_shown(self) -> None:
        """A wrong value whose repr fails is refused as any other."""

        class Hidden:
            def __repr__(self) -> str:
                raise RuntimeError

        for arguments in ({"days": Hidden()}, {"fields": Hidden()}):
            with pytest.raises(InvalidRequestError):
                usage_request(**arguments)  # type: ignore[arg-type]

    @pytest.mark.parametrize("field", ["project_cap", UsageField.PROJECT_CAP])
    def test_a_single_field(self, field: str) -> None:
        """A single field, or its name, is a list of one."""
        assert usage_request(fields=field) == usage_request(fields=[field])

    def test_whole_numbers_of_other_libraries(self) -> None:
        """Whatever has ``__index__``, such as ``numpy.int64``, is a number of days."""

        class Int64:
            def __index__(self) -> int:
                return 30

        assert usage_request(days=Int64()) == usage_request(days=30)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("fields", "quoted"),
        [
            ("", "''"),
            ("project_cap,project_id", "'project_cap,project_id'"),
            (7, "7"),
            (True, "True"),
            (b"project_cap", "112"),
            ([None], "None"),
            (["projectcap"], "'projectcap'"),
            (["PROJECT_CAP"], "'PROJECT_CAP'"),
            (["project_cap "], "'project_cap '"),
            (["project_cap,project_id"], "'project_cap,project_id'"),
            (["project_cap", []], "[]"),
            (["project_cap", 7], "7"),
            (["a&b=c\r\n"], r"'a&b=c\r\n'"),
            pytest.param((name for name in ("project_cap", "bad")), "'bad'", id="a generator"),
        ],
        ids=ascii,
    )
    def test_bad_fields(self, fields: Any, quoted: str) -> None:
        """A name that is not documented raises before any I/O, and the message quotes the value."""
        with pytest.raises(InvalidRequestError, match=r"^fields must be ") as caught:
            usage_request(fields=fields)
        assert isinstance(caught.value, ValueError)
        assert quoted in str(caught.value)
        assert "During handling" not in "".join(traceback.format_exception(caught.value))

    def test_a_bad_name_is_answered_with_the_good_ones(self) -> None:
        """The message lists what would have been right."""
        with pytest.raises(InvalidRequestError) as caught:
            usage_request(fields=["tweets"])
        assert str(caught.value) == (
            "fields must be among cap_reset_day, daily_client_app_usage, daily_project_usage, "
            "project_cap, project_id, project_usage; got 'tweets'"
        )


class TestAuthorize:
    def test_adds_the_header_verbatim(self) -> None:
        """The token is sent as it is, its %2F and %3D undecoded. The first request stays without it."""
        request = usage_request()
        authorized = authorize(request, TOKEN)
        assert authorized.headers["authorization"] == f"Bearer {TOKEN}"
        assert authorized == evolve(request, headers={**request.headers, "authorization": f"Bearer {TOKEN}"})
        assert "authorization" not in request.headers

    def test_is_not_shown(self, caplog: pytest.LogCaptureFixture) -> None:
        """Neither the request nor its headers show the token, however they are printed."""
        request = authorize(usage_request(), TOKEN)
        with caplog.at_level(logging.DEBUG):
            logging.getLogger("test").debug("%s %r %s", request, request.headers, [request])
        shown = f"{request}{request!r}{request.headers}{request.headers!r}{caplog.text}"
        assert "canary" not in shown
        assert BASE in shown
        assert "authorization" in shown


class TestMessages:
    def test_headers_in_any_case(self) -> None:
        """Headers are kept in lower case and found in any."""
        headers = Headers({"X-Rate-Limit-Reset": "1"})
        assert list(headers) == ["x-rate-limit-reset"]
        assert headers["X-RATE-LIMIT-RESET"] == headers["x-rate-limit-reset"] == "1"
        assert headers.get("X-Rate-Limit-Reset") == "1"
        assert headers.get("nothing") is None
        assert headers.get("nothing", "x") == "x"
        assert "X-Rate-Limit-Reset" in headers
        assert "nothing" not in headers
        assert 7 not in headers  # type: ignore[comparison-overlap]
        with pytest.raises(KeyError):
            headers["nothing"]

    def test_headers_from_pairs(self) -> None:
        """Headers may be given as pairs, or not at all."""
        assert Headers([("A", "1")]) == {"a": "1"}
        assert Headers() == {}

    def test_a_response_takes_any_mapping(self) -> None:
        """A response takes whatever headers a transport has, lowers their names, and shows no value of them."""
        response = Response(200, {"Set-Cookie": "canary"}, b"canary")
        assert response.headers["set-cookie"] == "canary"
        assert isinstance(response.headers, Headers)
        assert repr(response) == "Response(status=200, headers=Headers(set-cookie), body=<6 bytes>)"
        assert Response(204) == Response(204, {}, b"")

    def test_survives_pickling(self) -> None:
        """A response can be pickled to another process. Its repr shows only its attributes."""
        response = Response(200, {"X-Echo": "canary"}, b"{}")
        assert pickle.loads(pickle.dumps(response)) == response

    def test_a_request_hides_its_body(self) -> None:
        """A request's body may hold credentials."""
        assert "canary" not in repr(Request("POST", BASE, {}, b"canary"))


class TestBaseUrl:
    @pytest.mark.parametrize(
        ("url", "checked"),
        [
            ("https://api.twitter.com", "https://api.twitter.com"),
            ("https://api.x.com/", "https://api.x.com"),
            ("https://api.x.com///", "https://api.x.com"),
            ("https://proxy.example:8443/twitter/", "https://proxy.example:8443/twitter"),
            ("http://localhost:8080", "http://localhost:8080"),
            ("http://LOCALHOST", "http://LOCALHOST"),
            ("http://127.0.0.1:1", "http://127.0.0.1:1"),
            ("http://127.255.1.2", "http://127.255.1.2"),
            ("http://[::1]:8080/", "http://[::1]:8080"),
            ("https://[2001:db8::1]", "https://[2001:db8::1]"),
        ],
    )
    def test_good(self, url: str, checked: str) -> None:
        """Https anywhere, http on loopback; without the slash at the end."""
        assert check_base_url(url) == checked

    @pytest.mark.parametrize(
        "url",
        [
            "http://api.twitter.com",
            "http://127.0.0.1.evil.example",
            "http://localhost.evil.example",
            "http://128.0.0.1",
            "http://0.0.0.0",
            "http://[::2]",
            "http://[2001:db8::1]:80",
            "ftp://api.twitter.com",
            "ws://localhost",
            "file://localhost/etc/passwd",
            "//api.twitter.com",
        ],
    )
    def test_not_https(self, url: str) -> None:
        """Anywhere but on loopback the token would be readable on the way."""
        with pytest.raises(ConfigurationError, match="must be https") as caught:
            check_base_url(url)
        assert url[:10] in str(caught.value)

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "/",
            "api.twitter.com",
            "localhost:8080",
            "https://",
            "https:///2",
            "https://:443",
            "https:api.twitter.com",
            "https://api.twitter.com?x=1",
            "https://api.twitter.com#x",
            "https://api.twitter.com?",
            "https://api.twitter.com/?",
            "https://api.twitter.com#",
            "https://api.twitter.com/#",
            "https://api.twitter.com/a b",
            " https://api.twitter.com",
            "https://api.twitter.com ",
            "https://api.twitter.com\n",
            "https://api.twitter.com\r\nX-Evil: 1",
            "https://api.twit\tter.com",
            "https://api.twitter.com\0",
            "https://api.twitter.com/\x7f",
            "https://api.twitter.com\x1b[2J",
            "https://äpi.twitter.com",
            "https://api.twitter.com/\udcff",
            "https://api.twitter.com:99999",
            "https://api.twitter.com:port",
            "https://[::1",
            "https://[nonsense]",
        ],
        ids=ascii,
    )
    def test_malformed(self, url: str) -> None:
        """A path, a query or the like that would change the URL is refused."""
        with pytest.raises(
            ConfigurationError, match=r"^base_url must look like https://api\.twitter\.com, got "
        ) as caught:
            check_base_url(url)
        assert str(caught.value).isprintable()
        assert "During handling" not in "".join(traceback.format_exception(caught.value))

    @pytest.mark.parametrize(
        "url",
        [
            "https://user:canary@api.twitter.com",
            "https://canary@api.twitter.com",
            "https://:canary@api.twitter.com",
            "https://u:canary@h:99999",
            "https://u:canary@h:port",
            "https://u:canary@[::1",
            "https://u:canary@[x]/",
            "https://user:canary@a b/",
            "https://user:canary@a?b",
            "http://user:canary@example",
            "https://api.twitter.com\\@canary",
        ],
    )
    def test_user_information(self, url: str) -> None:
        """A password in the URL is refused and not quoted, whatever else is wrong with the URL."""
        with pytest.raises(ConfigurationError) as caught:
            check_base_url(url)
        assert "canary" not in "".join(traceback.format_exception(caught.value))

    def test_user_information_is_explained(self) -> None:
        """The message names the right place of the token."""
        with pytest.raises(ConfigurationError, match="must not contain a user name or a password"):
            check_base_url("https://@api.twitter.com")

    @pytest.mark.parametrize("url", [None, b"https://api.twitter.com", 7, Path("https://api.twitter.com")], ids=repr)
    def test_not_text(self, url: Any) -> None:
        """A value that is not a str is refused."""
        with pytest.raises(ConfigurationError, match="base_url must be a str, got"):
            check_base_url(url)


# -- Headers of responses ----------------------------------------------------------------------------------------------

NO_DIGITS = [
    "",
    " ",
    "abc",
    "inf",
    "nan",
    "-1",
    "+1",
    "1_0",
    "1.0",
    "1e3",
    " 1",
    "1 ",
    "٣",
    "²",
    "0x1",
    "1,1",
    "9" * 13,
]
NO_DIGITS += ["9" * 400, "1" * 5000, "\udcff", "1\n"]


class TestRateLimitHeaders:
    def test_plain(self) -> None:
        """Three plain numbers are the window; the reset is UTC."""
        seen = read_rate_limit(Response(200, {"X-Rate-Limit-Limit": "50"} | {k.title(): v for k, v in WINDOW.items()}))
        assert seen == RateLimit(50, 0, RESET_AT)
        assert seen.reset_at.tzinfo is dt.UTC

    @pytest.mark.parametrize("name", list(WINDOW))
    def test_one_missing(self, name: str) -> None:
        """Two of the three headers do not make a window."""
        assert read_rate_limit(Response(200, {key: text for key, text in WINDOW.items() if key != name})) is None

    @pytest.mark.parametrize("name", list(WINDOW))
    def test_not_digits(self, name: str) -> None:
        """A header that is not a number of at most twelve digits is ignored."""
        for text in NO_DIGITS:
            assert read_rate_limit(Response(200, WINDOW | {name: text})) is None

    def test_the_last_second(self) -> None:
        """The last instant of the calendar is an instant. The next is none, and no overflow."""
        last = read_rate_limit(Response(200, WINDOW | {"x-rate-limit-reset": "253402300799"}))
        assert last == RateLimit(50, 0, dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC))
        assert read_rate_limit(Response(200, WINDOW | {"x-rate-limit-reset": "253402300800"})) is None
        assert read_rate_limit(Response(200, WINDOW | {"x-rate-limit-reset": "999999999999"})) is None

    def test_of_a_capped_month(self) -> None:
        """A 429 of the cap has another endpoint's window, which is dropped. Every other 429 has ours."""
        headers = WINDOW | {"x-rate-limit-remaining": "39999"}
        assert read_rate_limit(Response(429, headers, fixture("error_429_usage_capped"))) is None
        for body in (b"", b"<html>", fixture("error_429_too_many_requests"), fixture("error_429_code_88")):
            assert read_rate_limit(Response(429, headers, body)) == RateLimit(50, 39999, RESET_AT)

    def test_zero(self) -> None:
        """1970 is an instant, too."""
        seen = read_rate_limit(Response(200, WINDOW | {"x-rate-limit-reset": "0"}))
        assert seen == RateLimit(50, 0, dt.datetime(1970, 1, 1, tzinfo=dt.UTC))


class TestDate:
    @pytest.mark.parametrize(
        "text",
        [
            "Sun, 01 Mar 2026 12:00:00 GMT",
            "Sun, 01 Mar 2026 12:00:00 -0000",
            "Sun, 01 Mar 2026 13:00:00 +0100",
            "Sunday, 01-Mar-26 12:00:00 GMT",
        ],
    )
    def test_an_instant(self, text: str) -> None:
        """A date is an instant in UTC, however it spells its zone."""
        seen = read_date(Response(200, {"Date": text}))
        assert seen == NOW
        assert seen is not None
        assert seen.tzinfo is dt.UTC

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "abc",
            "0",
            "-1",
            "2026-03-01",
            "Sun, 99 Mar 2026 12:00:00 GMT",
            "9" * 5000,
            "\udcff",
            "Mon, 1 Jan 10000 1:1:1 GMT",
        ],
    )
    def test_no_date(self, text: str) -> None:
        """A malformed HTTP date is ignored."""
        assert read_date(Response(200, {"date": text})) is None

    def test_absent(self) -> None:
        """A response may have no date."""
        assert read_date(Response(200)) is None


# -- Good responses ----------------------------------------------------------------------------------------------------


class TestGoodAnswers:
    def test_the_whole_usage(self) -> None:
        """A 200 is the decoded usage, with the window of its headers and the time it came."""
        body = fixture("usage_live")
        usage = read_usage(Response(200, WINDOW, body), fetched_at=NOW)
        assert usage == evolve(decode_usage(body), rate_limit=RateLimit(50, 0, RESET_AT), fetched_at=NOW)

    def test_without_headers_and_time(self) -> None:
        """Without headers the window is unknown; without a time it is 1970."""
        assert read_usage(Response(200, {}, b'{"data":{}}')) == Usage()

    def test_the_content_type_is_ignored(self) -> None:
        """Bytes are parsed, whatever they are called."""
        body = fixture("usage_live")
        assert read_usage(Response(200, {"content-type": "text/html; charset=utf-7"}, body)) == decode_usage(body)

    def test_problems_beside_data(self) -> None:
        """Errors beside data in a 200 are kept with the good data."""
        usage = read_usage(Response(200, {}, b'{"data":{"project_cap":"5"},"errors":[{"title":"Partial"}]}'))
        assert usage == Usage(project_cap=5, errors=(Problem(title="Partial"),))

    @pytest.mark.parametrize("data", [b"", b'"data":null,'])
    def test_problems_without_data(self, data: bytes) -> None:
        """Errors without data in a 200 are an API error."""
        body = b"{" + data + b'"errors":[{"title":"Forbidden","detail":"Not yours.","code":7}]}'
        error = refusal(Response(200, WINDOW, body))
        assert type(error) is ApiError
        assert str(error).startswith("200 Forbidden: Not yours. ")
        assert error.status == 200
        assert error.problem == Problem("Forbidden", detail="Not yours.", extra={"code": 7})
        assert error.rate_limit == RateLimit(50, 0, RESET_AT)
        assert not error.retryable

    def test_a_known_problem_without_data(self) -> None:
        """The problem counts, not the 200."""
        assert type(refusal(Response(200, {}, fixture("error_401_invalid_token")))) is AuthenticationError
        assert type(refusal(Response(200, {}, b'{"errors":[{"title":"UsageCapExceeded"}]}'))) is UsageCapExceededError

    @pytest.mark.parametrize("body", [b"{}", b'{"data":null}', b'{"errors":[]}', b'{"title":"UsageCapExceeded"}'])
    def test_neither_data_nor_problems(self, body: bytes) -> None:
        """A 200 without data and without errors is not a response of this API."""
        error = refusal(Response(200, {}, body))
        assert (type(error), error.path, error.retryable) == (DecodeError, "$.data", False)

    def test_a_page_with_200(self) -> None:
        """A page from the edge with a 200 is worth one more try, and shown escaped."""
        error = refusal(Response(200, {"content-type": "text/html"}, b"<html>\x1b[2J\n</html>"))
        assert (type(error), error.retry_once, error.from_edge) == (DecodeError, True, True)
        assert error.excerpt == r"<html>\u001b[2J\n</html>"
        assert str(error).startswith("200 the response is not JSON")
        assert "A firewall, proxy or CDN sent this response" in str(error)

    def test_a_truncated_200(self) -> None:
        """Truncated JSON is the API's."""
        error = refusal(Response(200, {}, b'{"data": {"project'))
        assert (type(error), error.from_edge) == (DecodeError, False)

    def test_a_page_instead_of_a_token(self) -> None:
        """A page of the edge is reported as one; it is not quoted."""
        with pytest.raises(DecodeError, match="A firewall, proxy or CDN sent this response") as caught:
            read_token(Response(200, {}, b"<html>canary</html>"))
        assert caught.value.from_edge
        assert "canary" not in str(caught.value)

    def test_an_empty_200(self) -> None:
        """An empty 200 is worth one more try."""
        error = refusal(Response(200, WINDOW))
        assert (type(error), error.retryable, error.retry_once) == (ProtocolError, True, True)

    @pytest.mark.parametrize("status", [300, 301, 302, 303, 305, 307, 308, 399])
    def test_redirects(self, status: int) -> None:
        """A redirect is neither followed nor retried; its target is not shown."""
        error = refusal(Response(status, {"location": "https://canary.example"}, b"<html>"))
        assert (type(error), error.retryable) == (ProtocolError, False)
        assert f"unexpected redirect (status {status})" in str(error)
        assert "canary" not in str(error)
        assert "A login page of the network, a firewall or a proxy may have sent it" in str(error)

    def test_a_page_with_an_odd_status(self) -> None:
        """A page is reported as one whatever its status."""
        message = str(refusal(Response(201, {}, b"<html>")))
        assert message.startswith("unexpected status 201. A firewall, proxy or CDN sent this response")

    @pytest.mark.parametrize("status", [0, 100, 101, 199, 201, 202, 204, 206, 299, 304, 600, 999])
    def test_statuses_that_mean_nothing_here(self, status: int) -> None:
        """Another status than 200 is never taken for success, and worth one more try."""
        for body in [b"", b'{"data":{"project_cap":"5"}}']:
            error = refusal(Response(status, {}, body))
            assert (type(error), error.retryable, error.retry_once) == (ProtocolError, True, True)
            assert str(error) == f"unexpected status {status}"


# -- Refusals ----------------------------------------------------------------------------------------------------------

KINDS: dict[str, type[ApiError | RateLimitedError]] = {
    "error_400_invalid_request": BadRequestError,
    "error_401_unauthorized": AuthenticationError,
    "error_401_invalid_token": AuthenticationError,
    "error_402_credits_depleted": CreditsDepletedError,
    "error_402_credits_depleted_text_id": CreditsDepletedError,
    "error_402_payment_required": CreditsDepletedError,
    "error_403_spend_cap_reached": SpendCapReachedError,
    "error_403_unsupported_authentication": ForbiddenError,
    "error_403_client_forbidden": ForbiddenError,
    "error_403_bad_credentials": ForbiddenError,
    "error_429_too_many_requests": RateLimitedError,
    "error_429_code_88": RateLimitedError,
    "error_429_rate_limit_exceeded": RateLimitedError,
    "error_429_usage_capped": UsageCapExceededError,
    "error_503_service_unavailable": ServerError,
}


def test_every_error_fixture_is_tested() -> None:
    """A new fixture needs a line in ``KINDS``."""
    assert {path.stem for path in FIXTURES.glob("error_*.json")} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_every_known_error(name: str) -> None:
    """Each recorded body raises its class with all its data, whichever host its type names."""
    for host in ["api.twitter.com", "api.x.com"]:
        status = int(name.split("_")[1])
        body = fixture(name).replace(b"https://api.twitter.com/2/", f"https://{host}/2/".encode())
        headers = {} if status == 401 else dict(WINDOW)
        headers |= {"x-transaction-id": "f00d", "date": HTTP_NOW, "sent-type": "application/problem+json"}
        error = refusal(Response(status, headers, body))
        assert type(error) is KINDS[name]
        assert error.status == status
        assert error.headers == headers
        assert error.body == body
        assert error.request_id == "f00d"
        assert error.rate_limit == (None if status == 401 else RateLimit(50, 0, RESET_AT))
        written = json.loads(body)
        sent = written if "title" in written else written["errors"][0]
        assert error.problem.title == sent.get("title")
        assert error.problem.type == sent.get("type")
        assert error.problem.detail == sent.get("detail", sent.get("message"))
        assert error.problem.status == sent.get("status")
        assert error.problem.extra == {k: v for k, v in sent.items() if k not in {"title", "type", "detail", "status"}}
        assert error.retryable is (KINDS[name] in {RateLimitedError, ServerError})
        assert isinstance(error, QuotaError) is issubclass(KINDS[name], QuotaError)
        assert str(error).startswith(f"{status} ")
        assert (error.problem.detail or "").rstrip(".").split("`")[0] in str(error)


def test_messages_have_advice() -> None:
    """The message is the API's text, and the advice."""
    error = refusal(Response(403, {}, fixture("error_403_client_forbidden")))
    assert str(error) == (
        "403 Client Forbidden: When authenticating requests to the Twitter API v2 endpoints, you must use keys and "
        "tokens from a Twitter developer App that is attached to a Project. The API does not let this app use the "
        "endpoint (reason: client-not-enrolled, required_enrollment: Appropriate Level of API Access, "
        "registration_url: https://developer.twitter.com/en/docs/projects/overview). Possible causes: the app is not "
        "attached to a project, or the account is not enrolled in a plan that includes it."
    )
    assert str(refusal(Response(401, {}, fixture("error_401_unauthorized")))).startswith(
        "401 Unauthorized. Use the app's"
    )
    message = str(refusal(Response(429, WINDOW | {"date": HTTP_NOW}, b"")))
    assert message.startswith("429 Too Many Requests. No calls are left in the app's 15-minute window")
    assert message.endswith(" (not before 2026-03-01 12:10:01 UTC).")


class TestKinds:
    @pytest.mark.parametrize(
        ("status", "body", "kind"),
        [
            (429, {"title": "Usage Cap Exceeded"}, UsageCapExceededError),
            (429, {"title": "usagecapexceeded"}, UsageCapExceededError),
            (403, {"title": "UsageCapExceeded"}, UsageCapExceededError),
            (429, {"type": "https://api.x.com/2/problems/usage-capped"}, UsageCapExceededError),
            (429, {"type": "https://api.x.com/2/problems/usage-capped/"}, UsageCapExceededError),
            (429, {"type": "usage-capped"}, UsageCapExceededError),
            (429, {"type": "https://api.x.com/2/problems/not-usage-capped"}, RateLimitedError),
            (429, {"type": "https://usage-capped/other"}, RateLimitedError),
            (403, {"title": "Credits Depleted"}, CreditsDepletedError),
            (403, {"type": "https://api.x.com/2/problems/credits-depleted"}, CreditsDepletedError),
            (403, {"type": "https://api.x.com/2/problems/credits"}, CreditsDepletedError),
            (403, {"title": "Spend Cap Reached", "type": "https://x/credits"}, SpendCapReachedError),
            (402, {"title": "SpendCapReached"}, SpendCapReachedError),
            (402, {"title": "Anything", "type": "about:blank"}, CreditsDepletedError),
            (400, {"type": "https://api.x.com/2/problems/rate-limit-exceeded"}, RateLimitedError),
            (403, {"errors": [{"code": 88}]}, RateLimitedError),
            (400, {"errors": [{"code": 89}]}, AuthenticationError),
            (400, {"errors": [{"code": "89"}]}, BadRequestError),
            (400, {"errors": [{"code": True}]}, BadRequestError),
            (400, {"errors": [{"code": [88]}]}, BadRequestError),
            (403, {"title": 7, "type": [], "errors": None}, ForbiddenError),
            (403, {"title": "", "type": ""}, ForbiddenError),
        ],
        ids=str,
    )
    def test_title_and_type_before_status(
        self, status: int, body: dict[str, Any], kind: type[ApiError | RateLimitedError]
    ) -> None:
        """The title counts first, then the type's last segment, then the code, and the status last."""
        assert type(refusal(Response(status, {}, json.dumps(body).encode()))) is kind

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (400, BadRequestError),
            (401, AuthenticationError),
            (402, CreditsDepletedError),
            (403, ForbiddenError),
            (404, ApiError),
            (405, ApiError),
            (408, ServerError),
            (409, ApiError),
            (418, ApiError),
            (429, RateLimitedError),
            (451, ApiError),
            (499, ApiError),
            (500, ServerError),
            (502, ServerError),
            (503, ServerError),
            (504, ServerError),
            (520, ServerError),
            (599, ServerError),
        ],
    )
    def test_status_alone(self, status: int, kind: type[ApiError | RateLimitedError]) -> None:
        """If the response is not the API's, only the status counts, and a body is never a success."""
        for body in [
            b"",
            b"<html>edge</html>",
            b"{}",
            b"[]",
            b'{"title": "cut',
            b'{"title": NaN, "detail": "cut',
            b'{"data": {"project_cap": "5"}}',
            b"\xff\xfe",
        ]:
            error = refusal(Response(status, {}, body))
            assert type(error) is kind
            assert (error.status, error.body) == (status, body)
            assert error.problem.title is None
            assert error.request_id is None

    @pytest.mark.parametrize(
        ("status", "phrase"),
        [(404, "404 Not Found."), (503, "503 Service Unavailable."), (520, "520 Unknown Status.")],
    )
    def test_without_a_title(self, status: int, phrase: str) -> None:
        """If the body is empty, the message is the status' phrase."""
        assert str(refusal(Response(status, {}, b""))).startswith(phrase)

    def test_an_app_that_is_not_enrolled(self) -> None:
        """The message shows what the API names, escaped and short, and the causes as possibilities."""
        body = {
            "title": "Client Forbidden",
            "reason": "user-not-enrolled\x1b[2J",
            "required_enrollment": 7,
            "registration_url": "https://example.com/" + "x" * 1000,
            "type": "https://api.twitter.com/2/problems/client-forbidden",
        }
        response = Response(403, WINDOW, json.dumps(body).encode())
        message = str(refusal(response))
        assert r"(reason: user-not-enrolled\u001b[2J, registration_url: https://example.com/xxx" in message
        assert "Possible causes:" in message
        assert "required_enrollment" not in message
        assert len(message) < 700
        assert read_rate_limit(response) is None, "captures carry the headers of another window"

    @pytest.mark.parametrize("reason", ["user-not-enrolled", "Client-Not-Enrolled"])
    def test_an_enrollment_without_the_type(self, reason: str) -> None:
        """The reason alone is enough."""
        response = Response(403, WINDOW, json.dumps({"title": "Forbidden", "reason": reason}).encode())
        assert f"(reason: {reason}). Possible causes: the app is not attached" in str(refusal(response))
        assert read_rate_limit(response) is None

    def test_a_client_forbidden_that_names_nothing(self) -> None:
        """The advice stands alone."""
        message = str(refusal(Response(403, {}, b'{"type": "client-forbidden"}')))
        assert "use the endpoint. Possible causes" in message

    def test_no_body_grows_into_the_message(self) -> None:
        """A title and a detail of any length and kind make a short, printable message."""
        body = json.dumps({"title": "t\x1b[2J" * 10**5, "detail": "\n٣\x7f" * 10**5}).encode()
        assert len(str(refusal(Response(500, {}, body)))) < 600


class TestSpendCap:
    def test_reset_date(self) -> None:
        """A spend cap has the start of the next cycle. That day's midnight, UTC."""
        error = refusal(Response(403, {}, fixture("error_403_spend_cap_reached")))
        assert error.reset_date == dt.date(2026, 4, 14)
        assert error.retry_at == dt.datetime(2026, 4, 14, tzinfo=dt.UTC)
        assert str(error).endswith("(not before 2026-04-14 00:00:00 UTC).")

    @pytest.mark.parametrize("value", ["soon", "", None, 20260414, "2026-02-30", "2026-W16-2", [], True])
    def test_no_reset_date(self, value: object) -> None:
        """A malformed date is ignored, and the error is still a spend cap."""
        error = refusal(Response(403, {}, json.dumps({"title": "SpendCapReached", "reset_date": value}).encode()))
        assert (type(error), error.reset_date, error.retry_at) == (SpendCapReachedError, None, None)


PLAIN = b'{"title":"Too Many Requests","type":"about:blank","status":429}'


class TestTooManyRequests:
    @pytest.mark.parametrize(
        ("body", "headers", "exhausted"),
        [
            (PLAIN, WINDOW, True),
            (PLAIN, {}, True),
            (PLAIN, WINDOW | {"x-rate-limit-remaining": "abc"}, True),
            (PLAIN, WINDOW | {"x-rate-limit-remaining": "-1"}, True),
            (b"", WINDOW, True),
            (b"<html>", {}, False),
            (b"error code: 1015", {}, False),
            (b"error code: 1015", WINDOW, True),
            (b"{}", {}, True),
            (b"", {}, True),
            (PLAIN, WINDOW | {"x-rate-limit-remaining": "1"}, False),
            (PLAIN, {"x-rate-limit-remaining": "39999"}, False),
            (b"<html>", {"x-rate-limit-remaining": "7"}, False),
            (fixture("error_429_code_88"), WINDOW | {"x-rate-limit-remaining": "7"}, True),
            (fixture("error_429_rate_limit_exceeded"), WINDOW | {"x-rate-limit-remaining": "7"}, True),
        ],
    )
    def test_whose_limit_it_is(self, body: bytes, headers: dict[str, str], exhausted: bool) -> None:
        """A 429 that leaves calls in the window is not about the window, unless it names it."""
        error = refusal(Response(429, headers, body))
        assert (type(error), error.window_exhausted, error.retryable) == (RateLimitedError, exhausted, True)

    @pytest.mark.parametrize("owner", ["app", "user"])
    @pytest.mark.parametrize("window", [{}, WINDOW])
    def test_a_24_hour_limit(self, owner: str, window: dict[str, str]) -> None:
        """A used-up 24-hour limit leaves the window open, and is retried after its own reset."""
        reset = NOW + dt.timedelta(hours=23, minutes=59)
        headers = window | {
            "date": HTTP_NOW,
            f"x-{owner}-limit-24hour-remaining": "0",
            f"x-{owner}-limit-24hour-reset": str(int(reset.timestamp())),
        }
        error = refusal(Response(429, headers, PLAIN))
        assert (type(error), error.window_exhausted) == (RateLimitedError, False)
        assert error.retry_at == reset + dt.timedelta(seconds=1)
        assert "24-hour limit" in str(error)

    def test_a_24_hour_limit_without_a_reset(self) -> None:
        """Its retry time is unknown."""
        error = refusal(Response(429, {"x-app-limit-24hour-remaining": "0"}, PLAIN))
        assert (error.window_exhausted, error.retry_at, error.retry_after) == (False, None, None)

    def test_a_24_hour_limit_with_calls_left(self) -> None:
        """It is not what the 429 is about."""
        assert refusal(Response(429, {"x-app-limit-24hour-remaining": "9"}, PLAIN)).window_exhausted

    @pytest.mark.parametrize(
        "body",
        [
            b"<html>blocked</html>",
            b"error code: 1015",
            b" \xef\xbb\xbf<!doctype html>",
            b"[Access denied] by policy 7",
            b"{{ page }}",
            b" " * 5000 + b"<html>",
        ],
        ids=lambda body: ascii(body)[:20],
    )
    def test_a_page_of_the_edge(self, body: bytes) -> None:
        """A page or plain text comes from a firewall, proxy or CDN. The message names these, and blames no token."""
        for status in [401, 403, 404, 429, 500, 503]:
            error = refusal(Response(status, {}, body))
            assert error.from_edge
            assert "A firewall, proxy or CDN sent this response" in str(error)
            assert "token" not in str(error)

    @pytest.mark.parametrize(
        ("document", "words"),
        [
            ({"message": "Missing Authentication Token"}, "Missing Authentication Token"),
            ({"error": "blocked by policy 7", "status": 403}, "blocked by policy 7"),
            ({"error": {"code": 403, "message": "blocked by policy 7"}}, "blocked by policy 7"),
            ({"type": "https://developers.cloudflare.com/errors/1020/", "title": "Error 1020"}, "Error 1020"),
            ({"type": "http://twitter.com.example/x", "title": "Odd"}, "Odd"),
            ({"login": "octocat"}, None),
        ],
    )
    @pytest.mark.parametrize("status", [401, 402, 403, 429, 500])
    def test_json_of_another_service(self, status: int, document: dict[str, object], words: str | None) -> None:
        """An API gateway or a CDN may send JSON, too: its words are shown, and neither token nor window is blamed."""
        error = refusal(Response(status, {}, json.dumps(document).encode()))
        assert error.from_edge
        assert "A firewall, proxy or CDN sent this response" in str(error)
        assert words is None or words in str(error)
        assert not getattr(error, "window_exhausted", False)

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{}",
            b"[]",
            b'{"title": "Forbidden"}',
            b'{"type": "https://api.x.com/2/problems/new"}',
            b'{"type": "https://x.com/problem"}',
            b'{"errors": [{"code": 64, "message": "suspended"}]}',
            b'{"detail": "cut',
            b"[",
        ],
    )
    def test_a_response_of_the_api(self, body: bytes) -> None:
        """Its own JSON, even if truncated, or nothing, comes from the API."""
        assert not refusal(Response(403, {}, body)).from_edge

    def test_a_transaction_of_the_api(self) -> None:
        """JSON of another kind with the API's transaction id comes from the API."""
        assert not refusal(Response(403, {"x-transaction-id": "1"}, b'{"message": "new"}')).from_edge

    @pytest.mark.parametrize("detail", ["This app has been suspended.", ""])
    def test_a_403_that_names_no_cause(self, detail: str) -> None:
        """The API's words are shown, and the causes are possibilities."""
        message = str(refusal(Response(403, {}, json.dumps({"title": "Forbidden", "detail": detail}).encode())))
        assert detail.rstrip(".") in message
        assert "Possible causes: a user's token" in message

    @pytest.mark.parametrize("remaining", ["39999", "0"])
    def test_the_monthly_cap_is_another_thing(self, remaining: str) -> None:
        """A capped 429 is a quota error whatever the window's headers say, and never retried."""
        headers = WINDOW | {"x-rate-limit-remaining": remaining, "retry-after": "5", "date": HTTP_NOW}
        error = refusal(Response(429, headers, fixture("error_429_usage_capped")))
        assert (type(error), error.retryable, error.retry_at) == (UsageCapExceededError, False, None)
        assert not isinstance(error, RateLimitedError)

    def test_waits_a_second_longer_than_the_reset(self) -> None:
        """The reset comes in whole seconds. The window opens one second after it."""
        error = refusal(Response(429, WINDOW | {"date": HTTP_NOW}, PLAIN))
        assert error.retry_at == RESET_AT + dt.timedelta(seconds=1)
        assert error.retry_after == 601

    def test_the_servers_clock_counts(self) -> None:
        """A wait is computed from the response's own date, not from a client's clock that may be wrong."""
        error = refusal(Response(429, WINDOW | {"date": HTTP_NOW}, PLAIN), now=NOW + dt.timedelta(hours=5))
        assert error.retry_after == 601

    def test_the_clients_clock_without_a_date(self) -> None:
        """Without a date, the time of the response's arrival counts."""
        error = refusal(Response(429, WINDOW, PLAIN), now=NOW + dt.timedelta(seconds=100))
        assert error.retry_after == 501
        assert error.retry_at == RESET_AT + dt.timedelta(seconds=1)

    def test_no_clock_at_all(self) -> None:
        """Without any clock, the instant is known but not how far it is."""
        error = refusal(Response(429, WINDOW, PLAIN), now=None)
        assert (error.retry_at, error.retry_after) == (RESET_AT + dt.timedelta(seconds=1), None)
        error = refusal(Response(429, {"retry-after": "30"}, PLAIN), now=None)
        assert (error.retry_at, error.retry_after) == (None, 30)
        error = refusal(Response(429, {}, PLAIN), now=None)
        assert (error.retry_at, error.retry_after) == (None, None)

    @pytest.mark.parametrize(
        ("retry_after", "seconds"),
        [
            ("0", 601),
            ("600", 601),
            ("602", 602),
            ("3600", 3600),
            (email.utils.format_datetime(NOW + dt.timedelta(seconds=700), usegmt=True), 700),
            (email.utils.format_datetime(NOW + dt.timedelta(seconds=60), usegmt=True), 601),
            (email.utils.format_datetime(NOW - dt.timedelta(days=900), usegmt=True), 601),
            *((garbage, 601) for garbage in NO_DIGITS),
        ],
        ids=lambda value: ascii(value)[:40],
    )
    def test_the_larger_of_reset_and_retry_after(self, retry_after: str, seconds: int) -> None:
        """Of the reset and Retry-After, as seconds or as a date, the later counts. Garbage does not."""
        error = refusal(Response(429, WINDOW | {"date": HTTP_NOW, "retry-after": retry_after}, PLAIN))
        assert error.retry_after == seconds
        assert error.retry_at == NOW + dt.timedelta(seconds=seconds)

    @pytest.mark.parametrize(
        "retry_after", ["30", email.utils.format_datetime(NOW + dt.timedelta(seconds=30), usegmt=True)]
    )
    def test_retry_after_alone(self, retry_after: str) -> None:
        """Retry-After counts without a window, too."""
        error = refusal(Response(429, {"date": HTTP_NOW, "retry-after": retry_after}, PLAIN))
        assert (error.retry_after, error.retry_at) == (30, NOW + dt.timedelta(seconds=30))

    def test_another_limit_does_not_wait_for_our_window(self) -> None:
        """A 429 that is not about the window waits for its Retry-After alone."""
        headers = WINDOW | {"x-rate-limit-remaining": "7", "date": HTTP_NOW}
        assert refusal(Response(429, headers, PLAIN)).retry_at is None
        assert refusal(Response(429, headers | {"retry-after": "20"}, PLAIN)).retry_after == 20

    @pytest.mark.parametrize("reset", [0, 1, EPOCH_NOW - 86400, EPOCH_NOW - 1])
    def test_a_reset_in_the_past(self, reset: int) -> None:
        """A reset in the past means no wait, and never a negative one."""
        error = refusal(Response(429, WINDOW | {"x-rate-limit-reset": str(reset), "date": HTTP_NOW}, PLAIN))
        assert error.retry_after == 0
        assert error.retry_at == dt.datetime.fromtimestamp(reset + 1, dt.UTC)

    @pytest.mark.parametrize("reset", [EPOCH_NOW + 86400, EPOCH_NOW + 10**6, 10**11, 253402300798, 253402300799])
    def test_a_reset_absurdly_far(self, reset: int) -> None:
        """A reset more than a day ahead is implausible. Check again after one window. Nothing overflows."""
        error = refusal(Response(429, WINDOW | {"x-rate-limit-reset": str(reset), "date": HTTP_NOW}, PLAIN))
        assert error.retry_after == 900
        assert error.retry_at == NOW + dt.timedelta(minutes=15)

    @pytest.mark.parametrize("retry_after", ["86401", "999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
    def test_a_retry_after_absurdly_far(self, retry_after: str) -> None:
        """A Retry-After of more than a day is a mistake, too."""
        error = refusal(Response(429, {"retry-after": retry_after, "date": HTTP_NOW}, PLAIN))
        assert error.retry_after == 900
        assert error.retry_at == NOW + dt.timedelta(minutes=15)

    @pytest.mark.parametrize("reset", ["", "-1", "253402300800", "999999999999"])
    def test_no_reset(self, reset: str) -> None:
        """A malformed reset leaves the wait unknown, and the window used up."""
        error = refusal(Response(429, WINDOW | {"x-rate-limit-reset": reset, "date": HTTP_NOW}, PLAIN))
        assert (error.retry_at, error.retry_after, error.rate_limit) == (None, None, None)
        assert error.window_exhausted

    @pytest.mark.parametrize("reset", ["0", "253402300799"])
    def test_a_server_at_the_end_of_time(self, reset: str) -> None:
        """A date at the end of the calendar overflows nothing."""
        for retry_after in ["5", "999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"]:
            headers = {"date": "Fri, 31 Dec 9999 23:59:59 GMT", "retry-after": retry_after, "x-rate-limit-reset": reset}
            assert type(refusal(Response(429, WINDOW | headers, PLAIN))) is RateLimitedError
            assert type(refusal(Response(503, WINDOW | headers, b""))) is ServerError


class TestServerTrouble:
    def test_retry_after(self) -> None:
        """A server error may have a time to retry at. It does not concern the window."""
        error = refusal(Response(503, WINDOW | {"date": HTTP_NOW, "retry-after": "120"}, b""))
        assert (error.retry_at, error.retry_after) == (NOW + dt.timedelta(minutes=2), 120)
        error = refusal(Response(503, WINDOW | {"date": HTTP_NOW}, b""))
        assert (error.retry_at, error.retry_after) == (None, None)

    def test_other_systems_have_no_value(self) -> None:
        """A permanent error has no time to retry at."""
        for status in (400, 401, 402, 403, 404):
            error = refusal(Response(status, WINDOW | {"date": HTTP_NOW, "retry-after": "120"}, b""))
            assert (error.retry_at, error.retry_after, error.retryable) == (None, None, False)


class TestRequestId:
    def test_is_cut_and_escaped(self) -> None:
        """A transaction id is the server's text. Escaped, and at most 200 characters of it."""
        error = refusal(Response(500, {"x-transaction-id": "\x1b[2J" + "x" * 10_000}, b""))
        assert error.request_id.startswith(r"\u001b[2J")
        assert len(error.request_id) <= 200

    @pytest.mark.parametrize("text", ["\udcff", "ab\udc80cd", "é", "\U0001f600"], ids=ascii)
    def test_bytes_that_are_no_text(self, text: str) -> None:
        """Header bytes that are not UTF-8 come from aiohttp as half characters. They are escaped like all others."""
        error = refusal(Response(500, {"x-transaction-id": text}, b""))
        assert type(error) is ServerError
        assert error.request_id
        assert error.request_id.isascii()
        assert error.request_id.isprintable()

    @pytest.mark.parametrize("headers", [{}, {"x-transaction-id": ""}])
    def test_absent(self, headers: dict[str, str]) -> None:
        """A malformed request id is dropped. The vendor's support could not use it."""
        assert not refusal(Response(500, headers, b"")).request_id


# -- Echoes ------------------------------------------------------------------------------------------------------------


def strings_of(value: object) -> Iterator[str]:
    """Whatever of an error a person may come to read. All but its headers and its body."""
    if isinstance(value, BaseException):
        yield from (str(value), repr(value), "".join(traceback.format_exception(value)))
        yield from (repr(item) for name, item in vars(value).items() if name not in {"headers", "body"})
        yield from (repr(value.__cause__), repr(value.__context__))
        yield repr(getattr(value, "headers", ""))
    else:
        yield repr(value)


class TestEchoes:
    REQUEST = authorize(usage_request(), TOKEN)

    @pytest.mark.parametrize(
        "body",
        [
            {"title": TOKEN, "detail": f"Bearer {TOKEN} is wrong", "type": f"https://x/{TOKEN}", "x": [TOKEN]},
            {"errors": [{"message": f"token {TOKEN}", "code": 7, TOKEN: TOKEN}]},
            {"errors": [f"Authorization: Bearer {TOKEN}"]},
        ],
        ids=["problem", "errors", "text"],
    )
    def test_a_refusal_that_echoes_the_token(self, body: dict[str, Any]) -> None:
        """The token of a rejected request is unchanged in the error's headers and body, and nowhere else."""
        for status in [200, 400, 401, 402, 403, 404, 429, 500, 503]:
            response = Response(
                status, {"x-transaction-id": f"id-{TOKEN}-id", "x-echo": TOKEN}, json.dumps(body).encode()
            )
            error = refusal(response, request=self.REQUEST)
            assert not [text for text in strings_of(error) if "canary" in text]
            if isinstance(error, ApiError | RateLimitedError):
                assert TOKEN.encode() in error.body
                assert error.headers["x-echo"] == TOKEN
                assert error.headers["x-transaction-id"] == f"id-{TOKEN}-id"
                assert error.request_id == "id-[Bearer credentials]-id"
                assert "[Bearer credentials]" in repr(error.problem)

    @pytest.mark.parametrize(
        "body",
        [
            f"<html>{TOKEN}</html>".encode(),
            b"\xff" + TOKEN.encode(),
            json.dumps({"data": {"project_cap": TOKEN}}).encode(),
            json.dumps({"data": {TOKEN: {"a": [1]}, "project_cap": -1}}).encode(),
            f'{{"data": {{"{TOKEN}": NaN}}}}'.encode(),
            f'{{"{TOKEN}": 1, "{TOKEN}": 2}}'.encode(),
            b"x" * 180 + TOKEN.encode(),
        ],
        ids=["page", "no text", "value", "beside", "path", "keys", "cut"],
    )
    def test_an_undecodable_answer_that_echoes_the_token(self, body: bytes) -> None:
        """An excerpt and a path are free of the token, also if they are cut in its middle."""
        error = refusal(Response(200, {}, body), request=self.REQUEST)
        assert type(error) is DecodeError
        assert not [text for text in strings_of(error) if "canary" in text or "AAAA" in text]

    def test_a_good_answer_that_echoes_the_token(self) -> None:
        """Good data with an echo is good data without it."""
        body = json.dumps({"data": {"project_cap": "5", "echo": TOKEN}, "errors": [{"detail": TOKEN}]}).encode()
        usage = read_usage(Response(200, {"x-echo": TOKEN}, body), request=self.REQUEST)
        assert usage.project_cap == 5
        assert "canary" not in repr(usage)
        assert "canary" not in json.dumps(usage.to_dict())

    def test_the_whole_header_is_known_by_its_scheme(self) -> None:
        """Credentials of any scheme are redacted, and the scheme is named."""
        request = Request("POST", BASE, {"Authorization": "Basic c2VjcmV0OnNlY3JldA=="})
        assert redact_credentials(b"<c2VjcmV0OnNlY3JldA==>", request) == b"<[Basic credentials]>"

    def test_nothing_to_take_out(self) -> None:
        """Without a request, or with a test's short token, a response stays as it was."""
        assert redact_credentials(b"canary", None) == b"canary"
        assert redact_credentials(b"canary", usage_request()) == b"canary"
        assert redact_credentials(b"data", authorize(usage_request(), "data")) == b"data"
        assert redact_credentials(b"12345678", authorize(usage_request(), "12345678")) == b"[Bearer credentials]"


# -- Anything at all ---------------------------------------------------------------------------------------------------

INSTANTS = st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30))  # noqa: DTZ001 - only their text is used
ZONES = st.sampled_from(["GMT", "-0000", "+2359", "-2359", "+9999", "EST", "", "X", "+99999999999", "٣"])
DATES = st.builds(lambda at, zone: f"{at:%a, %d %b %Y %H:%M:%S} {zone}", INSTANTS, ZONES)
HEADER_TEXT = st.one_of(
    st.text(st.characters(), max_size=20),
    st.text("0123456789 :,+-GMTJanFeb", max_size=30),
    st.integers(0, 10**13).map(str),
    st.sampled_from([*NO_DIGITS, "253402300799", "253402300800", "999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"]),
    DATES,
)
NAMES = [*WINDOW, "date", "retry-after", "x-transaction-id", "content-type", "location", "x-echo"]
HEADERS = st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, HEADER_TEXT))
BODIES = st.one_of(
    st.sampled_from([*map(fixture, KINDS), fixture("usage_live"), b"", PLAIN, b"<html>", b'{"errors":[{"code":88}]}']),
    st.binary(max_size=40),
)
STATUSES = st.sampled_from([200, 204, 301, 304, 400, 401, 402, 403, 404, 408, 429, 500, 503, 999]) | st.integers(
    -1, 1000
)


@settings(max_examples=60)
@given(STATUSES, HEADERS, BODIES, st.sampled_from([NOW, None]), st.sampled_from([None, TestEchoes.REQUEST]))
def test_any_answer(
    status: int, headers: dict[str, str], body: bytes, now: dt.datetime | None, request: Request | None
) -> None:
    """Any status, headers and body are a Usage or a TwUsageError with a sane time to retry at."""
    response = Response(status, headers, body)
    seen, date = read_rate_limit(response), read_date(response)
    assert seen is None or seen.reset_at.tzinfo is dt.UTC
    assert date is None or date.tzinfo is dt.UTC
    error: Any = None
    try:
        usage = read_usage(response, fetched_at=now, request=request)
    except TwUsageError as caught:
        error = caught
    if error is None:
        assert status == 200
        assert usage.rate_limit == seen
        return
    assert str(error).isascii()
    assert str(error).isprintable()
    if isinstance(error, RateLimitedError | ServerError) and (date or now):
        assert error.retry_after is None or 0 <= error.retry_after <= 86400


class TestEchoesInDisguise:
    TOKEN = "AAAA%2Fcanary%3Dcanary"

    @pytest.mark.parametrize(
        "echo",
        [
            TOKEN,
            "AAAA/canary=canary",
            r"\u0041AAA%2F\u0063anary%3Dcanary",
            r"AAAA\/canary\u003dcanary",
            "AAAA%2fcanary%3dcanary",
            "AAAA%252Fcanary%253Dcanary",
        ],
        ids=["verbatim", "percent-decoded", "escaped", "both", "in lower case", "encoded once more"],
    )
    def test_is_found_in_whatever_spelling(self, echo: str) -> None:
        """An echo of the token is redacted in any spelling of JSON or a URL."""
        request = authorize(usage_request(), self.TOKEN)
        response = Response(403, {}, f'{{"title": "Odd", "detail": "you sent {echo}"}}'.encode())
        with pytest.raises(ForbiddenError) as caught:
            read_usage(response, request=request)
        assert "canary" not in f"{caught.value} {caught.value!r} {caught.value.problem}"
        assert caught.value.body == response.body

    def test_leaves_the_rest_of_the_document_readable(self) -> None:
        """What else is escaped stays escaped. A quotation mark in another field does not cost the problem."""
        request = authorize(usage_request(), self.TOKEN)
        body = rb'{"title": "a \"word\"", "detail": "AAAA\/canary\u003dcanary"}'
        with pytest.raises(ForbiddenError) as caught:
            read_usage(Response(403, {}, body), request=request)
        assert (caught.value.problem.title, caught.value.problem.detail) == ('a "word"', "[Bearer credentials]")

    def test_leaves_what_is_no_json_as_it_is(self) -> None:
        """A backslash in a page from the edge is not an escape."""
        request = authorize(usage_request(), self.TOKEN)
        assert redact_credentials(rb"<p>\u0041</p>", request) == rb"<p>\u0041</p>"
        assert redact_credentials(rb'{"a": "\u0041"}', request) == rb'{"a": "\u0041"}'


# -- A token for an API key and its secret -----------------------------------------------------------------------------

KEY, API_SECRET = "key-canary", "secret-canary"
MINTED = "AAAAminted%2Fcanary%3D"


def token_request_error(response: Response, request: Request | None = None) -> Any:
    """The error of a response to a token request."""
    with pytest.raises(TwUsageError) as caught:
        read_token(response, request=request or token_request(KEY, API_SECRET), fetched_at=NOW)
    error = caught.value
    assert not [text for text in strings_of(error) if "canary" in text]
    return error


class TestTokenRequest:
    def test_as_documented(self) -> None:
        """A POST of the grant's type, with the two halves as Basic credentials."""
        request = token_request("xvz1evFS4wEEPTGEFPHBog", "L8qq9PZyRg6ieKGEKhZolGC0vJWLw8iEJ88DRdyOg")
        assert (request.method, request.url) == ("POST", "https://api.twitter.com/oauth2/token")
        assert request.body == b"grant_type=client_credentials"
        # The very example of the vendor's documents.
        assert request.headers["authorization"] == (
            "Basic eHZ6MWV2RlM0d0VFUFRHRUZQSEJvZzpMOHFxOVBaeVJnNmllS0dFS2hab2xHQzB2SldMdzhpRUo4OERSZHlPZw=="
        )
        assert request.headers["content-type"] == "application/x-www-form-urlencoded;charset=UTF-8"
        assert request.headers["accept"] == "application/json"
        assert request.headers["user-agent"] == f"twusage/{twusage.__version__}"

    def test_the_halves_are_encoded(self) -> None:
        """A colon in a half is not the end of it, and a percent sign is not an escape."""
        request = token_request("a:b%2F", "c:/+= ~d", base_url="https://api.x.com")
        pair = base64.b64decode(request.headers["authorization"].removeprefix("Basic "))
        assert pair == b"a%3Ab%252F:c%3A%2F%2B%3D%20~d"
        assert request.url == "https://api.x.com/oauth2/token"

    def test_shows_nothing(self) -> None:
        """Its repr shows no header's value."""
        assert "canary" not in repr(token_request(KEY, API_SECRET))


class TestReadToken:
    @pytest.mark.parametrize("kind", ["bearer", "Bearer", "BEARER"])
    def test_the_token(self, kind: str) -> None:
        """It comes verbatim, whatever else stands there."""
        body = json.dumps({"token_type": kind, "access_token": MINTED, "expires_in": None}).encode()
        assert read_token(Response(200, {}, body)) == MINTED

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"<html>canary</html>",
            b'{"token_type": "bearer", "access_token": "canary',
            b"[]",
            b'{"token_type": "bearer"}',
            b'{"access_token": "canary"}',
            b'{"token_type": "mac", "access_token": "canary"}',
            b'{"token_type": ["bearer"], "access_token": "canary"}',
            b'{"token_type": "bearer", "access_token": null}',
            b'{"token_type": "bearer", "access_token": ""}',
            b'{"token_type": "bearer", "access_token": ["canary"]}',
            b'{"token_type": "bearer", "access_token": "canary canary"}',
            b'{"token_type": "bearer", "access_token": "canary\\r\\nX-Evil: 1"}',
            '{"token_type": "bearer", "access_token": "canaryé"}'.encode(),
            b'{"errors": [{"code": 99, "message": "canary"}]}',
        ],
    )
    def test_no_token(self, body: bytes) -> None:
        """A malformed token is one kind of error, retried once. It is not quoted, because it may be a part of one."""
        error = token_request_error(Response(200, {}, body))
        assert type(error) is DecodeError
        assert (error.path, error.excerpt, error.retry_once) == ("$.access_token", "", True)

    @pytest.mark.parametrize(
        ("status", "body", "kind", "advice"),
        [
            (400, b"{}", AuthenticationError, "consumer keys"),
            (401, b"{}", AuthenticationError, "consumer keys"),
            (403, b'{"errors":[{"code":99,"message":"m"}]}', AuthenticationError, "consumer keys"),
            (403, fixture("error_403_client_forbidden"), AuthenticationError, "consumer keys"),
            (404, b"", ApiError, "did not return a token"),
            (429, b"", RateLimitedError, "Too many tokens"),
            (500, b"", ServerError, "API is unavailable"),
            (204, b"", ProtocolError, "204"),
            (301, b"", ProtocolError, "redirect"),
        ],
    )
    def test_refusals(self, status: int, body: bytes, kind: type[TwUsageError], advice: str) -> None:
        """Each has advice about a key, not about a token. None mentions the window of the calls."""
        error = token_request_error(Response(status, WINDOW, body))
        assert type(error) is kind
        assert advice in str(error)
        assert getattr(error, "rate_limit", None) is None
        assert not getattr(error, "window_exhausted", False)

    def test_a_429_waits_for_its_own_window(self) -> None:
        """The reset in its headers is that of the token requests."""
        assert token_request_error(Response(429, WINDOW | {"date": HTTP_NOW})).retry_after == 601

    def test_an_echo_is_taken_out(self) -> None:
        """Of the key, of the secret, of both as they were sent, in whatever spelling."""
        request = token_request("key/canary", "secret=canary")
        sent = request.headers["authorization"]
        echo = (
            f"{sent} {sent.removeprefix('Basic ')} key/canary:secret=canary key%2Fcanary secret%3Dcanary key%2fcanary"
        )
        assert redact_credentials(echo.encode(), request).count(b"canary") == 0
        error = token_request_error(
            Response(403, {"x-transaction-id": echo}, json.dumps({"title": echo}).encode()), request
        )
        assert "[Basic credentials]" in str(error)

    @pytest.mark.parametrize("sent", ["not base64!", "/w==", "eA=="], ids=["no base64", "no text", "no pair"])
    def test_basic_credentials_of_another_make(self, sent: str) -> None:
        """In a request built by hand the credentials may be malformed. All of them are redacted all the same."""
        request = Request("POST", BASE, {"authorization": f"Basic {sent * 3}"})
        assert sent.encode() not in redact_credentials(f"<{sent * 3}>".encode(), request)


TOKEN_LIKE = "AAAAAAAAAAAAAAAAAAAAACANARY%2Fsinging%3Din0the1mine2that3nobody4may5hear6at7all8"


@pytest.mark.parametrize("prefix", ["https://", "http://", "https://api."])
@pytest.mark.parametrize("name", ["base_url", "TWUSAGE_BASE_URL"])
def test_a_token_in_the_place_of_a_host(prefix: str, name: str) -> None:
    """It is refused before a look-up of that host, and not quoted."""
    with pytest.raises(ConfigurationError, match="a token") as caught:
        check_base_url(prefix + TOKEN_LIKE, name=name)
    assert "AAAA" not in str(caught.value)


@pytest.mark.parametrize("value", [TOKEN_LIKE, "ftp://AAAAx", "http://AAAAx", "https://AAAAx?"])
def test_a_variable_is_not_quoted(value: str) -> None:
    """If two variables are mixed up, a token is in the wrong one."""
    with pytest.raises(ConfigurationError, match="TWUSAGE_BASE_URL must") as caught:
        check_base_url(value, name="TWUSAGE_BASE_URL")
    assert "AAAA" not in str(caught.value)


def test_a_large_error_body_is_read_by_its_status() -> None:
    """A body beyond 64 KiB is not a problem document, and parsing it would block other tasks."""
    body = b'{"title": "UsageCapExceeded", "detail": "' + b"x" * 2**16 + b'"}'
    with pytest.raises(RateLimitedError) as caught:
        read_usage(Response(429, {}, body))
    assert caught.value.problem == Problem()
    assert caught.value.body == body


@pytest.mark.parametrize("token", ["", '\\"AAAA\\"', "'AAAA", "AAAA`", "AA AA", "AA\u00e9"])
def test_a_malformed_token_in_a_response(token: str) -> None:
    """A string that no header can carry, or a quoted one, is not a bearer token: and it is not shown."""
    body = f'{{"token_type": "bearer", "access_token": "{token}"}}'.encode()
    with pytest.raises(DecodeError, match="contains no bearer token") as caught:
        read_token(Response(200, {}, body))
    assert "AAAA" not in str(caught.value)


def test_an_echo_whose_first_letters_belong_to_an_escape() -> None:
    r"""Text that is not JSON may have ``\u000A`` before a token that begins with A: the rest is redacted, too."""
    request = authorize(usage_request(), TOKEN_LIKE)
    body = rb'{"data": "\u000' + TOKEN_LIKE.replace("CANARY", r"\u0043ANARY").encode() + b' {"'
    with pytest.raises(DecodeError) as caught:
        read_usage(Response(200, {}, body), request=request)
    assert "ANARY" not in f"{caught.value}{caught.value.excerpt}"
    assert "sing" not in f"{caught.value}{caught.value.excerpt}"
