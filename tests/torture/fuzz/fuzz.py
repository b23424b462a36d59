"""Answers that nobody foresaw, a million of them, and what must be true of every one: `nox -s fuzz`.

``-- --cases 5000000`` is the long form; ``--seed`` makes another million. What is fed in is made by ``fuzz_cases``; it
depends on the seed alone, not on how many processors share the work.

==========  ===========================================================================================================
oracle      what is demanded of every case
==========  ===========================================================================================================
escape      ``read_usage`` gives a ``Usage``, a ``DecodeError``, an ``ApiError``, a ``RateLimitedError`` or a
            ``ProtocolError``; ``decode_usage`` a ``Usage`` or a ``DecodeError``; nothing gives a warning
slow        at most 200 times the time of an ordinary response of 50 kB; for more, in proportion to the size
lie         what decodes is what stands there, by a second, plain reading of the same bytes
shape       days ascend, counts are ints from 0 on or ``None``, ``to_dict()`` is JSON and decodes to the same values
leak        the token of the request is in nothing that an error or a ``Usage`` shows, whatever the answer repeats
error       it pickles and copies; its text can be printed; its excerpt and its path have 200 characters at most
differ      all ``DECODERS`` give the same result, or refuse at the same path
==========  ===========================================================================================================

A case that fails is printed as a command that runs it again, and the exit status is 1.
"""

# ruff: noqa: T201 - the figures on the screen are what it is for

from __future__ import annotations

import argparse
import base64
import copy
import datetime as dt
import faulthandler
import gc
import itertools
import json
import os
import pickle
import random
import re
import resource
import sys
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from attrs import evolve, frozen
from fuzz_cases import FETCHED_AT, HUGE, PLAIN, REQUEST, SLOW_SIZE, TOKEN, Case, cases, huge_cases, slow_cases

from twusage import (
    ApiError,
    DailySeries,
    DecodeError,
    ProtocolError,
    RateLimitedError,
    Response,
    Usage,
    codec,
    json_reader,
)
from twusage.codec import decode_usage
from twusage.errors import TwUsageError
from twusage.protocol import read_date, read_rate_limit, read_usage

# Seconds that are fast in any case; a slower case is compared with ORDINARY in the same process. The slowest shapes
# take 50 times as long as that, a seeded quadratic step 900 times.
SURELY_FAST = 0.02
SLOWEST_RATIO = 200
_DAYS = [{"date": str(dt.date(2020, 1, 1) + dt.timedelta(days=day)), "usage": str(day)} for day in range(1200)]
ORDINARY = json.dumps({"data": {"daily_project_usage": {"project_id": "1", "usage": _DAYS}}}).encode()
"""About 50 kB, decoded by the tolerant converter: what SLOWEST_RATIO multiplies."""
SHOWN = 200
# So much of a token in one piece is a part of it, and no coincidence.
PART = 24
BLOCK = 2_000
# What the decoder takes for a count has at most a hundred digits.
MOST = 10**100
MEMORY = 3 * 2**30


def _tolerantly(body: bytes) -> Usage:
    return codec._decode_tolerantly(json_reader.decode_document(body))


def _parsed_by(parse: Callable[[bytes | str], Any]) -> Callable[[bytes], Usage]:
    def decode(body: bytes) -> Usage:
        usual = json_reader._parser
        vars(json_reader)["_parser"] = lambda: parse
        try:
            return decode_usage(body)
        finally:
            vars(json_reader)["_parser"] = usual

    return decode


DECODERS: dict[str, Callable[[bytes], Usage]] = {
    "tolerant": _tolerantly,
    "json": _parsed_by(json_reader._parse_with_json),
    "installed": _parsed_by(json_reader._parser()),
}
"""Every way to decode a body. The first is the reference; the others must agree with it in each case."""


class Complaint(Exception):  # noqa: N818 - it is what an oracle says
    """What is wrong with a case: the oracle's name, and the finding."""


@frozen
class Failure:
    """A case that failed, and why."""

    case: Case
    why: str


# -- One case ----------------------------------------------------------------------------------------------------------


def judge(case: Case) -> str:
    """Run one case: the name of what came out. Raises ``Complaint``."""
    answer, seconds = _timed(lambda: _answer(case))
    if seconds > SURELY_FAST and (ratio := _slowness(case)) > SLOWEST_RATIO:
        raise Complaint(f"slow: {ratio:.0f} times an ordinary response, allowed are {SLOWEST_RATIO}")
    outcomes = [_outcome(decode, case.response.body) for decode in DECODERS.values()]
    for name, outcome in zip(list(DECODERS)[1:], outcomes[1:], strict=True):
        _same(name, outcomes[0], outcome)
    if isinstance(outcomes[0], Usage):
        _check_usage(outcomes[0], case.response.body)
    if isinstance(answer, Usage):
        if answer.fetched_at != FETCHED_AT or answer.rate_limit != read_rate_limit(case.response):
            raise Complaint("lie: read_usage gave another time or rate limit than it was told")
        if not case.echo and outcomes[0] != evolve(answer, rate_limit=None, fetched_at=outcomes[0].fetched_at):
            raise Complaint("differ: read_usage and decode_usage")
    else:
        _check_error(answer)
    if case.echo:
        _check_secret(answer)
    return type(answer).__name__


def _slowness(case: Case) -> float:
    """How many times longer than an ordinary response of the same size this case takes.

    A ratio, and the least of several: on a busy machine, and while coverage is measured, both take longer.
    """
    slowest, ordinary = (
        min(_timed(act)[1] for _ in range(3)) for act in (lambda: _answer(case), lambda: _tolerantly(ORDINARY))
    )
    return slowest / ordinary / max(1.0, len(case.response.body) / SLOW_SIZE)


def _timed(act: Callable[[], Any]) -> tuple[Any, float]:
    gc.disable()  # Its time depends on all that the process holds, and not on the case.
    began = time.thread_time()
    try:
        return act(), time.thread_time() - began
    finally:
        gc.enable()


def _answer(case: Case) -> Usage | TwUsageError:
    try:
        read_date(case.response)
        read_rate_limit(case.response)
    except Exception as error:
        raise Complaint(f"escape: reading the headers raised {_told(error)}") from error
    try:
        return read_usage(case.response, request=case.request, fetched_at=FETCHED_AT)
    except (DecodeError, ApiError, RateLimitedError, ProtocolError) as error:
        return error.with_traceback(None)
    except Exception as error:
        raise Complaint(f"escape: read_usage raised {_told(error)}") from error


def _outcome(decode: Callable[[bytes], Usage], body: bytes) -> Any:
    try:
        return decode(body)
    except DecodeError as error:
        return type(error), error.path, error.retry_once
    except Exception as error:
        raise Complaint(f"escape: decoding raised {_told(error)}") from error


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {ascii(error)[:200]}"


def _same(name: str, first: Any, other: Any) -> None:
    # repr as well, because 1 == 1.0 == True.
    if first != other or repr(first) != repr(other):
        raise Complaint(f"differ: {name} gives {ascii(other)[:200]}, the first decoder {ascii(first)[:200]}")


# -- What decodes must be true -----------------------------------------------------------------------------------------

_WIRE_COUNT = re.compile("[0-9]{1,100}")
_WIRE_DATE = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}(T.+)?")
_SCALARS = ("project_cap", "project_usage", "cap_reset_day")


def _check_usage(usage: Usage, body: bytes) -> None:
    project, apps = usage.daily_project_usage, usage.daily_client_app_usage
    series = [app.usage for app in apps] + ([project.usage] if project else [])
    for name in _SCALARS:
        _check_count(getattr(usage, name))
    if usage.cap_reset_day is not None and not 1 <= usage.cap_reset_day <= 31:
        raise Complaint(f"shape: cap_reset_day is {usage.cap_reset_day}")
    for one in series:
        _check_series(one)
    for app in apps:
        _check_count(app.usage_result_count)
    _check_wire(usage, json.loads(body.decode("utf-8-sig")), series)
    text = json.dumps(usage.to_dict(), allow_nan=False, ensure_ascii=False).encode()
    if any(count is not None and count >= MOST for one in series for count in one.counts):
        return  # The sum of what two apps read may be longer than a count may be.
    if json_reader._has_too_many_values(text):
        return  # Of 150,000 empty apps, what is null is written out.
    if _values(decode_usage(b'{"data":' + text + b"}")) != _values(usage):
        raise Complaint("shape: what to_dict() writes decodes to something else")


def _values(usage: Usage) -> tuple[object, ...]:
    return (
        usage.project_id,
        usage.project_cap,
        usage.project_usage,
        usage.cap_reset_day,
        usage.daily_project_usage,
        usage.daily_client_app_usage,
    )


def _check_count(count: object) -> None:
    if count is not None and (type(count) is not int or count < 0):
        raise Complaint(f"shape: {count!r} is no count")


def _check_series(series: DailySeries) -> None:
    if any(type(day) is not dt.date for day in series.dates):
        raise Complaint("shape: a day is no date")
    if any(one >= other for one, other in itertools.pairwise(series.dates)) or len(series.dates) != len(series.counts):
        raise Complaint("shape: days do not ascend, each with its count")
    for count in series.counts:
        _check_count(count)


def _check_wire(usage: Usage, document: Any, series: list[DailySeries]) -> None:
    """Read the same bytes once more, plainly: whatever became a number was one, and no day was made up or lost."""
    data = document["data"]
    for name in _SCALARS:
        if name in usage.extra and name == "cap_reset_day":
            continue  # No day of any month: kept as it came.
        if _plain(data.get(name)) != getattr(usage, name):
            raise Complaint(f"lie: {name} is {getattr(usage, name)!r}, but {data.get(name)!r:.100} stands there")
    told: set[int] = set()
    for row in _wire_rows(data):
        date = row["date"]
        if type(date) is not str or not _WIRE_DATE.fullmatch(date):
            raise Complaint(f"lie: {date!r:.100} became a date")
        told.add(dt.date.fromisoformat(date[:10]).toordinal())
        counts = row.get("usage")
        for count in [item.get("tweets_consumed") for item in counts] if type(counts) is list else [counts]:
            _plain(count)
    got = {day.toordinal() for one in series for day in one.dates}
    # A zone may move a day by one.
    for missing in got ^ told:
        if told.isdisjoint({missing - 1, missing, missing + 1}) or got.isdisjoint({missing - 1, missing, missing + 1}):
            raise Complaint(f"lie: {dt.date.fromordinal(missing)} was made up, or lost")


def _plain(value: object) -> int | None:
    if value is None or (type(value) is int and value >= 0):
        return value
    if type(value) is str and _WIRE_COUNT.fullmatch(value):
        return int(value)
    raise Complaint(f"lie: {value!r:.100} became a count")


def _wire_rows(data: Any) -> Iterator[Any]:
    project = data.get("daily_project_usage")
    owners = [*(project if type(project) is list else [project]), *(data.get("daily_client_app_usage") or ())]
    if type(project) is list and any("date" in item for item in project):  # a list of days
        yield from project
        del owners[: len(project)]
    for owner in owners:
        yield from (owner and owner.get("usage")) or ()


# -- What is refused must be told well ---------------------------------------------------------------------------------


def _check_error(error: TwUsageError) -> None:
    said = str(error)
    if not (said and said.isprintable()):
        raise Complaint(f"error: its text cannot be printed: {ascii(said)[:200]}")
    said.encode()
    if isinstance(error, DecodeError) and max(len(error.excerpt), len(error.path)) > SHOWN:
        raise Complaint(f"error: {len(error.excerpt)} characters of excerpt, {len(error.path)} of path")
    try:
        twins = copy.copy(error), pickle.loads(pickle.dumps(error))
    except Exception as trouble:
        raise Complaint(f"error: it does not copy and pickle: {_told(trouble)}") from trouble
    for twin in twins:
        if type(twin) is not type(error) or str(twin) != said or vars(twin).keys() != vars(error).keys():
            raise Complaint("error: its copy is another")


_PARTS = [spelling[at : at + PART] for spelling in (TOKEN, PLAIN) for at in range(len(spelling) - PART + 1)]
_ESCAPE = re.compile(r"\\+u([0-9a-fA-F]{4})|\\+/")


def _check_secret(answer: Usage | TwUsageError) -> None:
    shown = [str(answer), repr(answer)]
    if isinstance(answer, Usage):
        shown.append(ascii(answer.to_dict()))
    else:
        fields = {name: value for name, value in vars(answer).items() if name not in {"headers", "body"}}
        shown += [ascii(answer.args), ascii(fields)]
    for text in shown:
        # Whoever reads escapes reads what they stand for.
        plain = _ESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] else "/", text)
        if any(part in text or part in plain for part in _PARTS):
            raise Complaint(f"leak: {ascii(text)[:300]}")


# -- A million of them -------------------------------------------------------------------------------------------------


def block(seed: str, number: int, count: int) -> tuple[Counter[str], list[Failure]]:
    """Judge one block of the cases that the seed makes."""
    return judge_all(itertools.islice(cases(random.Random(f"{seed}/{number}")), count))


def judge_all(several: Iterable[Case]) -> tuple[Counter[str], list[Failure]]:
    """What came out of how many, and the failures."""
    came: Counter[str] = Counter()
    failures = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for case in several:
            try:
                came[judge(case)] += 1
            except Complaint as complaint:
                failures.append(Failure(case, str(complaint)))
            except Exception as error:  # noqa: BLE001 - an oracle that stumbles has found something, too
                failures.append(Failure(case, f"escape: an oracle met {_told(error)}"))
    return came, failures


def _huge(number: int) -> tuple[Counter[str], list[Failure]]:
    return judge_all(itertools.islice(huge_cases(), number, number + 1))


def _slow() -> tuple[Counter[str], list[Failure]]:
    return judge_all(slow_cases())


def _watched(act: Callable[..., tuple[Counter[str], list[Failure]]], *arguments: Any) -> Any:
    faulthandler.dump_traceback_later(120, exit=True)  # a case that hangs: the traceback shows where
    try:
        return act(*arguments)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _prepare() -> None:
    # A case that asks for gigabytes is a failure, and no reason to take the machine down.
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    gc.freeze()


def command(case: Case) -> str:
    """A shell command that runs the case again."""
    response = case.response
    packed = json.dumps(
        {
            "status": response.status,
            "headers": dict(response.headers),
            "body": base64.b64encode(response.body).decode(),
            "request": case.request is not None,
            "echo": case.echo,
        }
    )
    return f"python tests/torture/fuzz/fuzz.py --case {base64.b64encode(zlib.compress(packed.encode(), 9)).decode()}"


def unpacked(packed: str) -> Case:
    """The case of such a command."""
    told = json.loads(zlib.decompress(base64.b64decode(packed)))
    response = Response(told["status"], told["headers"], base64.b64decode(told["body"]))
    return Case(response, REQUEST if told["request"] else None, echo=told["echo"])


def _again(case: Case) -> int:
    print(f"{case.response.status} {dict(case.response.headers)}\n{case.response.body[:2000]!r}")
    print(f"{len(case.response.body)} bytes")
    came, failures = judge_all([case])
    print(failures[0].why if failures else f"as demanded: {next(iter(came))}")
    return bool(failures)


def main() -> int:
    """Fuzz, print what came out, and exit with 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", default="twusage")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--case", metavar="PACKED", help="run one case that failed, as it was printed")
    asked = parser.parse_args()
    if asked.case:
        return _again(unpacked(asked.case))
    print(f"{asked.cases} cases and all slow and huge ones, seed {asked.seed!r}, {asked.jobs} processes", flush=True)
    began = time.monotonic()
    came: Counter[str] = Counter()
    failures: list[Failure] = []
    counts = [min(BLOCK, asked.cases - start) for start in range(0, asked.cases, BLOCK)]
    with ProcessPoolExecutor(asked.jobs, initializer=_prepare) as pool:
        jobs = [pool.submit(_watched, _huge, number) for number in range(len(HUGE))]
        jobs.append(pool.submit(_watched, _slow))
        jobs += [pool.submit(_watched, block, asked.seed, number, count) for number, count in enumerate(counts)]
        for job in jobs:
            some, failed = job.result()
            came += some
            failures += failed
    for name, count in came.most_common():
        print(f"{name:24} {count:10}")
    kinds: dict[str, list[Failure]] = {}
    for failure in failures:
        kinds.setdefault(failure.why[:40], []).append(failure)
    for several in kinds.values():
        smallest = min(several, key=lambda failure: len(failure.case.response.body))
        print(f"\n{len(several)} times: {smallest.why}\n{command(smallest.case)}")
    seconds = time.monotonic() - began
    print(f"\n{came.total() + len(failures)} cases in {seconds:.0f} s, {len(failures)} failed (seed {asked.seed!r})")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
