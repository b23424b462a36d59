"""What the fuzzer feeds in. Answers that are nearly right, cut, spliced, odd, slow to read, or echo the token.

What belongs here: making cases out of a seeded generator, and nothing that judges them. The same dice make the same
cases, on every machine.
"""

from __future__ import annotations

import datetime as dt
import json
import marshal
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from attrs import evolve, frozen

from twusage.clock import SystemClock
from twusage.protocol import Request, Response, authorize, usage_request
from twusage.testing import FakeApi

FIXTURES = Path(__file__).parents[2] / "fixtures"
# Of a real token's letters, and used nowhere else: any part of it in an output is an echo.
TOKEN = "AAAAAAAAAAAAAAAAAAAAAFUZZ%2Fwho0reads1this2has%3Dseen3what4nobody5may6see"
PLAIN = TOKEN.replace("%2F", "/").replace("%3D", "=")
SPELLINGS = (TOKEN, TOKEN, PLAIN, PLAIN, quote(TOKEN), TOKEN.replace("%2F", "%2f").replace("%3D", "%3d"))
REQUEST = authorize(usage_request(days=7), TOKEN)
FETCHED_AT = dt.datetime(2026, 1, 15, 12, tzinfo=dt.UTC)
# Of a response: ninety days of six apps.
SLOW_SIZE = 50_000


@frozen
class Case:
    """One response, and the request that it belongs to."""

    response: Response
    request: Request | None = None
    echo: bool = False
    """Whether it repeats the request's token, whole or cut."""


# -- The corpus: answers as they come ----------------------------------------------------------------------------------


def _faked() -> Iterator[tuple[int, bytes]]:
    api = FakeApi(clock=_Standing())
    token = api.apps[0].token
    for days in (None, 1, 7, 90):
        yield 200, api.handle(authorize(usage_request(days=days), token)).body
    for request in (
        usage_request(),
        Request("GET", "https://api.twitter.com/2/usage/tweets?days=91"),
        Request("GET", "https://api.twitter.com/2/no"),
    ):
        response = api.handle(authorize(request, token if request.url.endswith("1") else "unknown"))
        yield response.status, response.body


class _Standing(SystemClock):
    def time(self) -> float:
        return FETCHED_AT.timestamp()


def _recorded() -> Iterator[tuple[int, bytes]]:
    for path in sorted(FIXTURES.glob("*.json")):
        kind, status = path.stem.split("_")[:2]
        yield (int(status) if kind == "error" else 200), path.read_bytes()


_ODD = (
    (200, b""),
    (200, b"{}"),
    (200, b"null"),
    (200, b'{"data": {}}'),
    (200, b'\xef\xbb\xbf{"data": {}}'),
    (200, b'{"errors": [{"message": "Sorry, that page does not exist", "code": 34}]}'),
    (200, b'{"data": {"project_cap": "5"}, "errors": [{"title": "Partial", "detail": "half of it", "status": 200}]}'),
    (200, "<!DOCTYPE html><html><title>Über capacity</title></html>".encode()),
    (503, b"<html><head><title>503 Service Unavailable</title></head></html>"),
    (502, b"upstream connect error or disconnect/reset before headers"),
    (429, b""),
    (302, b"<a href='https://elsewhere.test/'>Found</a>"),
)
# Responses of ninety days are long: short ones have most of the same faults.
_ALL = [*_recorded(), *_faked(), *_ODD]
CORPUS = [entry for entry in _ALL if len(entry[1]) < 5_000]
LONG = [entry for entry in _ALL if len(entry[1]) >= 5_000]
_DOCUMENTS = [(status, marshal.dumps(json.loads(body))) for status, body in CORPUS if body[:1] == b"{"]

_HEADERS = {
    "content-type": "application/json; charset=utf-8",
    "date": "Thu, 15 Jan 2026 12:00:00 GMT",
    "x-rate-limit-limit": "50",
    "x-rate-limit-remaining": "41",
    "x-rate-limit-reset": "1768479300",
    "x-transaction-id": "8f3c6a1e9d2b4705",
    "retry-after": "30",
}
_NAMES = tuple(_HEADERS)

# -- What is put in ----------------------------------------------------------------------------------------------------

# As they stand in JSON text: most of them no JSON library would write.
_TOKENS = (
    "null", "true", "false", "0", "-0", "-1", "1", "31", "32", "12.7", "1.0", "1e3", "1E+2", "1e999", "-1e999",
    "1e-999", "NaN", "Infinity", "-Infinity", "9223372036854775808", "9" * 100, "9" * 101, "9" * 4300, "9" * 5000,
    "01", "+1", "0x10", '""', '" 12 "', '"12 "', '"1_000"', '"1,000"', '"-1"', '"+1"', '"1e3"', '"12.7"', '"٣"',
    '"１２"', '"0x10"', '"007"', '"\\u0031"', '"\\ud800"', '"\\udc00x"', '"\\ud83d\\ude00"', '"\\u0000"', '"\x7f"',
    '"\u202e"', '"NaN"', '"null"', '"true"', '"' + "9" * 100 + '"', '"' + "9" * 101 + '"', '"' + "9" * 5000 + '"',
    '"' + "x" * 300 + '"', '"' + "\\u0001" * 300 + '"', '"2023-10-30"', '"2023-02-30"', '"0000-00-00"',
    '"2023-W44-3"', '"20231030"', '"2023-10-30T00:00:00"', '"2023-10-30T00:00:00.000Z"', '"2023-10-30T23:59:60Z"',
    '"2023-10-30T24:00:00Z"', '"2023-10-30T00:00:00+14:00"', '"2023-10-30T00:00:00+99:99"',
    '"0001-01-01T00:00:00+23:59"', '"9999-12-31T23:59:59-23:59"', '"٢٠٢٣-10-30"', "[]", "[null]", "[[]]", "[1]",
    '["1"]', "{}", '{"usage":null}', '{"usage":"1"}', '{"date":null}', '{"a":1,"a":2}',
    '[{"date":"2023-10-30","usage":"1"}]', '[{"date":"2023-10-30","usage":"1"},{"date":"2023-10-30","usage":"2"}]',
    '[{"date":"2023-10-30","usage":[{"app_id":1,"tweets_consumed":5}]}]', "[" * 40 + "]" * 40,
    '{"x":' * 40 + "1" + "}" * 40, "[" * 3000 + "]" * 3000, "[" * 900 + "]" * 900, "\ufeff1", "/* 1 */1", "1 1",
    "'1'", "", "\t1",
)  # fmt: skip
_PIECES = (
    *(token.encode("utf-8", "surrogatepass") for token in _TOKENS), b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff",
    b"\x00", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xff", b"+AHs-", b"\\", b'"', b"{", b"}", b"[",
    b"]", b",", b":", b"\n", b"\r\n", b"\x1b[31m", b"\\u", b"\\ud800", b"\\x41", b"{" * 50,
)  # fmt: skip
_KEYS = (
    "data", "errors", "usage", "date", "project_id", "project_cap", "project_usage", "cap_reset_day",
    "daily_project_usage", "daily_client_app_usage", "client_app_id", "usage_result_count", "app_id",
    "tweets_consumed", "title", "type", "detail", "status", "code", "message", "reset_date", "parameters", "",
    "__class__", "self", "extra", "k" * 300, "a.b[0]", "\x00", "é",
)  # fmt: skip
_WORDS = (
    "UsageCapExceeded", "SpendCapReached", "CreditsDepleted", "Too Many Requests",
    "https://api.x.com/2/problems/credits", "https://api.twitter.com/2/problems/usage-capped",
    "https://api.x.com/2/problems/rate-limit-exceeded/", "about:blank", "2026-04-14", "2026-13-41", "9999-12-31", "/",
    "\n\x1b[2J", "%s %d {0} {x}", "x" * 5000,
)  # fmt: skip
_VALUES = (
    "", " ", "0", "1", "50", "-1", "+1", "1_0", "1.5", "1e3", "٣", "²", "abc", "inf", "nan", "0x10", "999999999999",
    "1000000000000", "9" * 400, "9" * 5000, "00000000000050", "50, 50", "1768479300", "1", "253402300799",
    "253402300800", "null", "\x00", "\udc80", "Thu, 15 Jan 2026 12:00:00 GMT", "Thu, 15 Jan 2026 12:00:00 -0000",
    "Thu, 15 Jan 2026 12:00:00 +9999", "Thu, 15 Jan 2026 12:00:00 -2400", "Fri, 31 Dec 9999 23:59:59 -1200",
    "Mon, 01 Jan 0001 00:00:00 +1200", "Sun Nov  6 08:49:37 1994", "Sunday, 06-Nov-94 08:49:37 GMT",
    "Thu, 32 Jan 2026 12:00:00 GMT", "Thu, 15 Jan 99999999999 1:1:1 GMT", "Thu, 15 Jan 2026 12:00:61 GMT",
    "Thu, 15 Jan 2026 99:99:99 GMT", "15 Jan", ", , ,", ":::", "1 2 3 4 5 6 7 8 9",
    "Thu, 15 Jan 2026 12:00:00 GMT, Thu, 15 Jan 2026 12:00:01 GMT", "(((((((", '"""', "\r\nx-evil: 1", "x" * 8000,
    "(" * 8000, "text/html", "application/json; charset=utf-7", "application/json; charset=utf-16",
    "application/problem+json",
)  # fmt: skip
_STATUSES = (
    *(200,) * 8,
    400,
    401,
    402,
    403,
    404,
    408,
    418,
    429,
    429,
    429,
    500,
    502,
    503,
    504,
    100,
    204,
    206,
    301,
    304,
    307,
    599,
    600,
    0,
    999,
    -1,
)


def cases(dice: random.Random) -> Iterator[Case]:
    """Cases for ever."""
    while True:
        kind = dice.random()
        if kind < 0.5:
            status, body = _mutated(dice)
        elif kind < 0.85:
            status, body = _structured(dice)
        elif kind < 0.999:
            status, body = dice.choice(CORPUS)
        else:
            yield _shaped(Response(200, _HEADERS, dice.choice(SHAPES)(dice.randrange(SLOW_SIZE // 10))))
            continue
        headers = _headers(dice) if kind >= 0.85 or dice.random() < 0.1 else _HEADERS
        if dice.random() < 0.1:
            status = dice.choice(_STATUSES)
        response = Response(status, headers, body)
        if dice.random() < 0.08:
            yield _echoing(dice, response)
        else:
            yield Case(response, REQUEST if dice.random() < 0.5 else None)


def _shaped(response: Response) -> Case:
    return Case(response, REQUEST, echo=TOKEN.encode() in response.body)


def slow_cases() -> Iterator[Case]:
    """Every shape that may be slow to read, at its full size, as good and as bad news."""
    for shape in SHAPES:
        body = shape(SLOW_SIZE)
        for status in (200, 403, 429):
            yield _shaped(Response(status, _HEADERS, body))


def huge_cases() -> Iterator[Case]:
    """As much as a transport lets through. 5 to 8 MiB, of some shapes."""
    for number, shape in enumerate(HUGE):
        body = shape((5 + number % 4) * 2**20 - 1024)
        yield _shaped(Response((200, 200, 403)[number % 3], _HEADERS, body))


# -- Bytes -------------------------------------------------------------------------------------------------------------


def _mutated(dice: random.Random) -> tuple[int, bytes]:
    status, old = dice.choice(CORPUS if dice.random() < 0.98 else LONG)
    body = bytearray(old)
    for _ in range(dice.choice((1, 1, 1, 2, 3, 6))):
        at = dice.randrange(len(body) + 1)
        dice.choice(_MUTATIONS)(dice, body, at)
    return status, bytes(body)


def _flip(dice: random.Random, body: bytearray, at: int) -> None:
    if at < len(body):
        body[at] ^= 1 << dice.randrange(8)


def _replace(dice: random.Random, body: bytearray, at: int) -> None:
    body[at : at + 1] = bytes((dice.randrange(256),))


def _insert(dice: random.Random, body: bytearray, at: int) -> None:
    body[at:at] = dice.choice(_PIECES)


def _overwrite(dice: random.Random, body: bytearray, at: int) -> None:
    body[at : at + dice.randrange(12)] = dice.choice(_PIECES)


def _delete(dice: random.Random, body: bytearray, at: int) -> None:
    del body[at : at + dice.choice((1, 1, 2, 5, 50))]


def _truncate(_: random.Random, body: bytearray, at: int) -> None:
    del body[at:]


def _repeat(dice: random.Random, body: bytearray, at: int) -> None:
    piece = body[at : at + dice.choice((1, 5, 40, 200))]
    body[at:at] = piece * dice.choice((1, 1, 2, 20))


def _splice(dice: random.Random, body: bytearray, at: int) -> None:
    other = dice.choice(CORPUS)[1]
    start = dice.randrange(len(other) + 1)
    body[at:] = other[start:]


def _digit(dice: random.Random, body: bytearray, at: int) -> None:
    """Change one number in place: wrong numbers do the most harm."""
    for place in range(at, min(at + 60, len(body))):
        if 48 <= body[place] <= 57:
            body[place : place + 1] = dice.choice((b"_", b" ", b"-", b".", b"e", b"0", b"9", b"", "٣".encode(), b"1_0"))
            return


_MUTATIONS = (_flip, _flip, _replace, _insert, _overwrite, _delete, _truncate, _repeat, _splice, _digit, _digit)


# -- Documents: close to what is documented, with something else in some places ----------------------------------------


def _structured(dice: random.Random) -> tuple[int, bytes]:
    status, packed = dice.choice(_DOCUMENTS)
    document = marshal.loads(packed)
    raw: list[str] = []
    for _ in range(dice.choice((1, 1, 2, 4))):
        _spoil(dice, document, raw)
    text = json.dumps(document, ensure_ascii=dice.random() < 0.5)
    for number, token in enumerate(raw):
        text = text.replace(f'"@{number}@"', token)
    return status, text.encode("utf-8", "surrogatepass")


def _spoil(dice: random.Random, node: Any, raw: list[str]) -> None:
    while True:
        if not node:
            return
        key = dice.choice(list(node)) if isinstance(node, dict) else dice.randrange(len(node))
        inner = node[key]
        if not isinstance(inner, dict | list) or dice.random() < 0.15:
            break
        node = inner
    action = dice.random()
    if action < 0.55:
        node[key] = _raw(dice.choice(_TOKENS), raw)
    elif action < 0.65:
        node[key] = dice.choice(_WORDS)
    elif action < 0.75:
        del node[key]
    elif action < 0.85:
        node[key] = [inner] if dice.random() < 0.5 else {dice.choice(_KEYS): inner}
    elif isinstance(node, list):
        node.insert(dice.randrange(len(node) + 1), inner)
    elif action < 0.95:
        node[dice.choice(_KEYS)] = node.pop(key) if dice.random() < 0.5 else _raw(dice.choice(_TOKENS), raw)
    else:  # the same key twice
        node[key] = _raw(f"1,{json.dumps(key)}:2", raw)


def _raw(token: str, raw: list[str]) -> str:
    raw.append(token)
    return f"@{len(raw) - 1}@"


# -- Headers, and echoes of the token ----------------------------------------------------------------------------------


def _headers(dice: random.Random) -> dict[str, str]:
    headers = dict(_HEADERS)
    for _ in range(dice.choice((1, 1, 2, 3))):
        name = dice.choice(_NAMES)
        change = dice.random()
        if change < 0.6:
            headers[name] = dice.choice(_VALUES)
        elif change < 0.7:
            headers.pop(name, None)
        elif change < 0.8:
            headers[name] = str(dice.randrange(10 ** dice.randrange(1, 15)))
        else:
            value = headers.get(name, "")
            at = dice.randrange(len(value) + 1)
            headers[name] = (
                value[:at] + chr(dice.choice((0, 9, 32, 43, 45, 48, 58, 127, 233, 0x663, 0xDC80))) + value[at + 1 :]
            )
    return headers


def _echoing(dice: random.Random, response: Response) -> Case:
    token = dice.choice(SPELLINGS)
    if dice.random() < 0.1:
        value = dice.choice(("", "id ", "é")) + token
        return Case(evolve(response, headers={**response.headers, "x-transaction-id": value}), REQUEST, echo=True)
    echo = _spelled(dice, token)
    body = response.body
    kind = dice.random()
    if kind < 0.4:
        member = f'"{echo}":1' if kind < 0.1 else f'"{dice.choice(_KEYS[:22])}":"{echo}"'
        body = b"{" + member.encode() + b"," + body[1:] if len(body) > 2 else f"{{{member}}}".encode()
    elif kind < 0.7:
        at = dice.randrange(len(body) + 1)
        if b"\\" in body[max(0, at - 6) : at]:  # In the middle of an escape it would be something else.
            at = len(body)
        body = body[:at] + echo.encode() + body[at:]
    elif kind < 0.85:
        body = f'{{"title":"Unauthorized","detail":"Bearer {echo} is not valid"}}'.encode()
    else:  # the response breaks off within the echo
        body = body[: dice.randrange(100)] + echo.encode()[: dice.randrange(len(echo))]
    return Case(evolve(response, body=body), REQUEST, echo=True)


def _spelled(dice: random.Random, token: str) -> str:
    """As JSON may spell it: any letter as an escape."""
    much = dice.choice((0.0, 0.0, 0.1, 1.0))
    return "".join(_letter(dice, letter) if dice.random() < much else letter for letter in token)


def _letter(dice: random.Random, letter: str) -> str:
    if letter == "/" and dice.random() < 0.5:
        return "\\/"
    return f"\\u{ord(letter):04{dice.choice('xX')}}"


# -- Shapes that are slow to read with a careless algorithm ------------------------------------------------------------


def _filled(size: int, head: str, unit: str, tail: str, comma: str = ",") -> bytes:
    count = max(1, (size - len(head) - len(tail)) // (len(unit) + len(comma)))
    return (head + comma.join([unit] * count) + tail).encode()


def _numbered(size: int, head: str, unit: Callable[[int], str], tail: str) -> bytes:
    pieces: list[str] = []
    room = size - len(head) - len(tail)
    while room > 0:
        pieces.append(unit(len(pieces)))
        room -= len(pieces[-1]) + 1
    return (head + ",".join(pieces) + tail).encode()


def _nth_day(number: int) -> str:
    return str(dt.date.fromordinal(1 + number % 3_000_000))


def _flat(head: str, unit: str, tail: str, comma: str = ",") -> Callable[[int], bytes]:
    return lambda size: _filled(size, head, unit, tail, comma)


def _rising(head: str, unit: Callable[[int], str], tail: str) -> Callable[[int], bytes]:
    return lambda size: _numbered(size, head, unit, tail)


_ROWS = '{"data":{"daily_project_usage":{"usage":['
_APPS = '{"data":{"daily_client_app_usage":['
SHAPES: tuple[Callable[[int], bytes], ...] = (
    _flat('{"data":{"project_cap":', "9", "}}", ""),
    _flat('{"data":{"project_cap":"', "9", '"}}', ""),
    _flat('{"data":{"x":', "9", ".5}}", ""),
    _flat('{"data":{"x":0.', "9", "e-5}}", ""),
    _flat('{"data":{"x":1e', "9", "}}", ""),
    _flat('{"data":{"x":[', "9" * 4300, "]}}"),
    _flat('{"data":{"x":[', "9" * 4301, "]}}"),
    _flat('{"data":{"x":[', "1e999", "]}}"),
    _flat('{"data":{"x":[', "NaN", "]}}"),
    _flat("", "[", "", ""),
    _flat("", '{"a":', "", ""),
    _flat('{"data":{"x":', "[" * 400 + "]" * 400, "}}"),
    _flat('{"data":{"x":[', "[" * 400 + "]" * 400, "]}}"),
    _flat('{"title":"', "\\u00e9", '"}', ""),
    _flat('{"title":"', "\\ud83d\\ude00", '"}', ""),
    _flat('{"title":"', "\\ud800", '"}', ""),
    _flat('{"data":{"project_id":"', "\x7f", '"}}', ""),
    _flat('{"data":{"x":"', "\\\\", '"}}', ""),
    _flat('{"data":{"x":"', "\\", "", ""),
    _flat('{"data":{"cap_reset_day":"', "\\n", '"}}', ""),
    _flat(_ROWS, "0", "]}}}"),
    _flat(_ROWS, "{}", "]}}}"),
    _flat(_ROWS, '{"date":"x"}', "]}}}"),
    _flat(_ROWS, '{"date":"2023-10-30","usage":"1_0"}', "]}}}"),
    _flat(_ROWS, '{"date":"2023-10-30","usage":"10"}', "]}}}"),
    _flat(_APPS, "0", "]}}"),
    _flat(_APPS, "{}", "]}}"),
    _flat(_APPS, '{"usage":[0,0]}', "]}}"),
    _flat('{"data":{"daily_project_usage":[', "0", "]}}"),
    _flat('{"data":{"daily_project_usage":[', "{}", "]}}"),
    _flat('{"data":{"daily_project_usage":[{"date":"2023-10-30","usage":[', "0", "]}]}}"),
    _flat(
        '{"data":{"daily_project_usage":[{"date":"2023-10-30","usage":[', '{"app_id":1,"tweets_consumed":2}', "]}]}}"
    ),
    _flat('{"data":{"daily_project_usage":[', '{"date":"2023-10-30","usage":[{}]}', "]}}"),
    _flat('{"data":{},"errors":[', "{}", "]}"),
    _flat('{"errors":[', "0", "]}"),
    _flat("", "<html>", "", ""),
    _flat("", " ", "", ""),
    _flat("", "\u00e9", "", ""),
    _rising('{"data":{', lambda n: f'"{n}":0', "}}"),
    _rising('{"data":{', lambda n: f'"{n % 5000}":0', "}}"),
    _rising('{"data":{"x":"\\ud800",', lambda n: f'"{n}":0', "}}"),
    _rising("{", lambda n: f'"{n}":0', "}"),
    _rising(_ROWS, lambda n: f'{{"date":"{_nth_day(n)}","usage":"{n}"}}', "]}}}"),
    _rising(_ROWS, lambda n: f'{{"date":"{_nth_day(n + 9)}T01:00:00+02:00","x{n}":{n}}}', "]}}}"),
    _rising(_APPS, lambda n: f'{{"client_app_id":"{n}","usage":[{{"date":"2023-10-30","usage":1}}]}}', "]}}"),
    _rising('{"data":{"daily_project_usage":[', lambda n: f'{{"project_id":"{n}"}}', "]}}"),
    _rising(
        '{"data":{"daily_project_usage":[',
        lambda n: f'{{"date":"{_nth_day(n)}","usage":[{{"app_id":"{n}","tweets_consumed":1}}]}}',
        "]}}",
    ),
    # Long keys over many values: a path for each would be as long again.
    lambda size: _filled(size, '{"data":{"x":"\\ud800","' + "k" * (size // 2) + '":[', "0", "]}}"),
    lambda size: _filled(size, '{"data":{"x":"\\u00e9","' + "k" * (size // 2) + '":[', "0", "]}}"),
    lambda size: _filled(size, '{"data":{"x":NaN,"' + "k" * (size // 2) + '":[', "0", "]}}"),
    lambda size: _filled(size, '{"data":' + ('{"' + "k" * (size // 800) + '":') * 400, "\\ud800", "}" * 400 + "}", ""),
    lambda size: (TOKEN[: -1 - size % 20] * (size // 70)).encode(),
    lambda size: ('{"data":{"\\u0041":"' + TOKEN * (size // 75) + '"}}').encode(),
    lambda size: ('{"title":"' + "".join(f"\\u{ord(letter):04x}" for letter in TOKEN) * (size // 450) + '"}').encode(),
)
HUGE = SHAPES[2::7]
