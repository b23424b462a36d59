"""The plain reading: what it takes is what the strict one makes of it, and it takes nothing else."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from twusage import DecodeError, RateLimit, Usage, plain
from twusage.codec import decode_usage, usage_from
from twusage.json_reader import decode_document
from twusage.plain import plain_usage
from twusage.protocol import authorize, usage_request
from twusage.testing import FakeApi

LIVE = (
    b'{"data":{"daily_client_app_usage":['
    b'{"usage":[{"date":"2023-11-01T00:00:00.000Z","usage":"200"},{"date":"2023-11-02T00:00:00.000Z","usage":"7"}],'
    b'"client_app_id":"101111140","usage_result_count":2},'
    b'{"usage":[],"client_app_id":"2","usage_result_count":0}],"project_cap":"2000000",'
    b'"daily_project_usage":{"project_id":"1281043626347900822499",'
    b'"usage":[{"date":"2023-11-01T00:00:00.000Z","usage":"200"}]},'
    b'"project_usage":"200","cap_reset_day":5,"project_id":"1281043626347900822499"}}'
)
SUMMARY = b'{"data":{"cap_reset_day":10,"project_cap":"2000000","project_id":"12","project_usage":"2007"}}'


@pytest.fixture(params=["json", "msgspec"], autouse=True)
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to read the JSON."""
    if request.param not in plain._readers():
        pytest.skip("msgspec is not installed: the extra speed")
    reader = plain._readers()[request.param]
    monkeypatch.setattr(plain, "_reader", lambda: reader)
    return str(request.param)


def strictly(body: bytes) -> Usage:
    return usage_from(decode_document(body))


def outcome(decode: Callable[[bytes], Usage], body: bytes) -> object:
    """What comes out: the usage, or the sentence of the error and its path."""
    try:
        return decode(body)
    except DecodeError as error:
        return str(error), error.path


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    """The live answer, with changed data."""
    document = json.loads(LIVE)
    change(document["data"])
    return json.dumps(document).encode()


def app_with(**fields: object) -> bytes:
    """The live answer, with other fields of its first app."""
    return changed(lambda data: data["daily_client_app_usage"][0].update(fields))


def answers() -> Iterator[bytes]:
    """What the fake sends: the summary, and days of many apps, some of them sparse."""
    api = FakeApi(apps=12)
    for days in (None, 1, 7, 90):
        yield api.handle(authorize(usage_request(days=days), api.apps[0].token)).body


# -- What it takes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [LIVE, SUMMARY, json.dumps(json.loads(LIVE)).encode(), *answers()])
def test_what_the_live_api_sends(body: bytes) -> None:
    """It is read, with or without spaces, and it is what the strict reading makes of it."""
    usage = plain_usage(body)
    assert usage is not None
    assert usage == strictly(body)
    assert repr(usage) == repr(strictly(body))


def test_what_the_caller_knows() -> None:
    """The window and the time are put in."""
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    window = RateLimit(50, 49, now)
    usage = plain_usage(LIVE, rate_limit=window, fetched_at=now)
    assert usage is not None
    assert (usage.rate_limit, usage.fetched_at) == (window, now)


def test_apps_share_their_days() -> None:
    """Ten apps with the same days have them once: that is what keeps a row small."""
    api = FakeApi(apps=2)
    usage = plain_usage(api.handle(authorize(usage_request(days=30), api.apps[0].token)).body)
    assert usage is not None
    assert usage.daily_project_usage is not None
    first, *others = (app.usage.dates for app in usage.daily_client_app_usage)
    assert all(dates is first for dates in others)
    assert usage.daily_project_usage.usage.dates is first


def test_days_are_remembered_for_a_while() -> None:
    """However many lists of days are met, only some are kept."""
    for day in range(200):
        first = dt.date(2020, 1, 1) + dt.timedelta(day)
        rows = [{"date": f"{first}T00:00:00.000Z", "usage": "1"}]
        assert plain.plain_series(rows).dates == (first,)
    assert len(plain._KNOWN) <= plain._MOST_KNOWN


# -- What it leaves to the strict reading ------------------------------------------------------------------------------

ROW = b'{"date":"2023-11-01T00:00:00.000Z","usage":"200"}'
ODD: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"<html>",
    "cut": LIVE[:-1],
    "more": LIVE + b"{}",
    "a byte order mark": b"\xef\xbb\xbf" + LIVE,
    "no UTF-8": LIVE.replace(b"101111140", b"10111114\xff"),
    "a list": b"[]",
    "no data": b'{"data":null}',
    "data that is a list": b'{"data":[]}',
    "data that is text": b'{"data":"x"}',
    "too deep": b'{"data":' + b"[" * 100_000,
    "an escape": LIVE.replace(b"101111140", rb"10111114\u0030"),
    "a field beside the data": LIVE[:-1] + b',"meta":1}',
    "errors beside the data": LIVE[:-1] + b',"errors":[]}',
    "an unknown field": LIVE.replace(b'"project_cap"', b'"plan":"basic","project_cap"'),
    "an unknown number": LIVE.replace(b'"project_cap"', b'"plan":7,"project_cap"'),
    "an unknown field of a project": LIVE.replace(b'{"project_id"', b'{"name":1,"project_id"'),
    "an unknown field of an app": LIVE.replace(b'"client_app_id":"1', b'"name":1,"client_app_id":"1'),
    "an unknown field of a row": LIVE.replace(b'"usage":"7"', b'"usage":"7","x":1'),
    "an unknown text of a row": LIVE.replace(b'"usage":"7"', b'"usage":"7","x":"1"'),
    "a null project": changed(lambda data: data.update(daily_project_usage=None)),
    "null apps": changed(lambda data: data.update(daily_client_app_usage=None)),
    "apps that are an object": changed(lambda data: data.update(daily_client_app_usage={})),
    "apps that are text": changed(lambda data: data.update(daily_client_app_usage="")),
    "an app that is a number": changed(lambda data: data.update(daily_client_app_usage=[1])),
    "an app without an id": changed(lambda data: data["daily_client_app_usage"][0].pop("client_app_id")),
    "an app with a null id": app_with(client_app_id=None),
    "a count of rows that is text": changed(
        lambda data: data["daily_client_app_usage"][0].update(usage_result_count="2")
    ),
    "a negative count of rows": app_with(usage_result_count=-1),
    "a count of rows that is true": changed(
        lambda data: data["daily_client_app_usage"][0].update(usage_result_count=True)
    ),
    "a project as a list": changed(lambda data: data.update(daily_project_usage=[])),
    "a project without an id": changed(lambda data: data["daily_project_usage"].pop("project_id")),
    "a project whose id is a number": changed(lambda data: data["daily_project_usage"].update(project_id=12)),
    "rows that are an object": changed(lambda data: data["daily_project_usage"].update(usage={})),
    "rows that are null": changed(lambda data: data["daily_project_usage"].update(usage=None)),
    "a row that is a number": changed(lambda data: data["daily_project_usage"].update(usage=[1])),
    "a row without a date": LIVE.replace(ROW, b'{"usage":"200"}', 1),
    "a row without a count": LIVE.replace(ROW, b'{"date":"2023-11-01T00:00:00.000Z"}', 1),
    "a null count": LIVE.replace(b'"7"', b"null"),
    "a count that is a number": LIVE.replace(b'"7"', b"7"),
    "a count that is not finite": LIVE.replace(b'"7"', b"1e999"),
    "an empty count": LIVE.replace(b'"7"', b'""'),
    "a negative count": LIVE.replace(b'"7"', b'"-7"'),
    "a count with a space": LIVE.replace(b'"7"', b'" 7"'),
    "a count with an underscore": LIVE.replace(b'"7"', b'"1_000"'),
    "a count with a comma": LIVE.replace(b'"7"', b'"7,7"'),
    "a count with a point": LIVE.replace(b'"7"', b'"7.0"'),
    "a count with an exponent": LIVE.replace(b'"7"', b'"1e2"'),
    "a count of another script": LIVE.replace(b'"7"', '"\u0663"'.encode()),
    "a count with a leading zero": LIVE.replace(b'"7"', b'"07"'),
    "a count that is too long": LIVE.replace(b'"7"', b'"%s"' % (b"9" * 101)),
    "a count that Python refuses": LIVE.replace(b'"7"', b'"%s"' % (b"9" * 5000)),
    "a date that is none": LIVE.replace(b"2023-11-02T", b"2023-02-30T"),
    "a week": LIVE.replace(b"2023-11-02T00:00:00.000Z", b"2023-W44-3"),
    "a date that is a number": LIVE.replace(b'"2023-11-02T00:00:00.000Z"', b"20231102"),
    "days out of order": LIVE.replace(b"2023-11-02T", b"2023-10-02T"),
    "the same day twice": LIVE.replace(b"2023-11-02T", b"2023-11-01T"),
    "a reset day that is text": LIVE.replace(b'"cap_reset_day":5', b'"cap_reset_day":"5"'),
    "a reset day of 0": LIVE.replace(b'"cap_reset_day":5', b'"cap_reset_day":0'),
    "a reset day of 32": LIVE.replace(b'"cap_reset_day":5', b'"cap_reset_day":32'),
    "a reset day that is no whole number": LIVE.replace(b'"cap_reset_day":5', b'"cap_reset_day":5.0'),
    "no reset day": LIVE.replace(b'"cap_reset_day":5,', b""),
    "a cap that is a number": LIVE.replace(b'"2000000"', b"2000000"),
    "a null cap": LIVE.replace(b'"2000000"', b"null"),
    "no cap": SUMMARY.replace(b'"project_cap":"2000000",', b""),
    "a project_id that is a number": SUMMARY.replace(b'"12"', b"12"),
    "a raw control character": LIVE.replace(b"101111140", b"10111\n1140"),
}
# A key twice, with whatever value, at each level: the first of it, or all of it, would be lost.
for key, where in {
    "data": b'{"data"',
    "project_cap": b'"project_cap"',
    "cap_reset_day": b'"cap_reset_day"',
    "client_app_id": b'"client_app_id":"2"',
    "usage_result_count": b'"usage_result_count":0',
    "usage": b'"usage":"7"',
    "date": b'"date":"2023-11-02',
    "project_id": b'"project_id":"1281043626347900822499","usage"',
}.items():
    for value in (b"1", b'"1"', b"null", b"[]"):
        brace = b"{" if where.startswith(b"{") else b""
        twice = brace + b'"%s":%s,' % (key.encode(), value) + where.removeprefix(brace)
        ODD[f"{key} twice, {value.decode()}"] = LIVE.replace(where, twice, 1)


@pytest.mark.parametrize("body", ODD.values(), ids=ODD)
def test_anything_else_is_left_to_the_strict_reading(body: bytes) -> None:
    """Whatever is odd is not taken, be it good or bad; and the whole decoding makes of it what the strict one does."""
    assert body not in {LIVE, SUMMARY}
    assert plain_usage(body) is None
    assert outcome(decode_usage, body) == outcome(strictly, body)


def test_more_digits_together_than_one_may_have() -> None:
    """Many long counts are too many for a look at their sum; each of them is fine, and read strictly."""
    body = LIVE.replace(b'"200"', b'"%s"' % (b"9" * 100))
    assert plain_usage(body) is None
    assert decode_usage(body) == strictly(body)


def test_a_space_around_is_no_oddity(reader: str) -> None:
    """Space before or behind an answer is read by the one reader, and left to the strict reading by the other."""
    for body in (LIVE + b"\n", b" " + LIVE):
        assert decode_usage(body) == strictly(LIVE)
        assert plain_usage(body) == (strictly(LIVE) if reader == "msgspec" else None)


def test_more_values_than_any_answer_has() -> None:
    """A few kilobytes can inflate to millions of values, which would keep everybody else waiting for seconds."""
    body = b'{"data":{"daily_client_app_usage":[' + b"{}," * 400_001 + b"{}]}}"
    assert plain_usage(body) is None
    with pytest.raises(DecodeError, match="more values than any answer"):
        decode_usage(body)
    assert plain_usage(b" " * 500_000 + LIVE) == plain_usage(b" " + LIVE)
