"""A slice of the fuzzer, always the same, and whether it finds what it is there for. `nox -s fuzz` is the whole."""

import datetime as dt
import itertools
import random
from collections.abc import Callable
from typing import Any

import fuzz
import pytest
from attrs import evolve
from fuzz_cases import cases, slow_cases

from twusage import DecodeError, Request, Usage, codec, json_reader
from twusage.protocol import responses

SLICE = 2_000


def failures(block: int = 0) -> list[str]:
    """What a slice finds."""
    return [failure.why for failure in fuzz.block("slice", block, SLICE)[1]]


def test_a_slice() -> None:
    """Two thousand answers that nobody foresaw: every oracle is content, and all kinds of outcome come up."""
    came, failed = fuzz.block("slice", 0, SLICE)
    assert [(failure.why, fuzz.command(failure.case)) for failure in failed] == []
    assert came.total() == SLICE
    assert {"Usage", "DecodeError", "RateLimitedError", "ProtocolError", "UsageCapExceededError"} <= came.keys()


def test_what_is_slow_to_read() -> None:
    """Every shape that invites quadratic time is read in proportion to its size."""
    _, failed = fuzz.judge_all(itertools.islice(slow_cases(), 0, None, 3))
    assert [(failure.why, failure.case.response.body[:80]) for failure in failed] == []


def test_the_seed_says_it_all() -> None:
    """The same seed makes the same cases, and another seed others."""
    one, same, other = (
        [case.response.body for case in itertools.islice(cases(random.Random(seed)), 50)] for seed in ("a", "a", "b")
    )
    assert one == same != other


def test_a_failure_can_be_run_again() -> None:
    """The command that a failure prints holds the whole case, headers that are no ASCII among them."""
    for case in itertools.islice(cases(random.Random("again")), 500):
        assert fuzz.unpacked(fuzz.command(case).split()[-1]) == case


# -- Seeded bugs: each is found, and by the oracle that is there for it ------------------------------------------------


def lax_count(value: Any, _: object = None) -> int | None:
    """Count as cattrs does by itself: it takes 1_000."""
    try:
        return None if value is None else abs(int(value))
    except (TypeError, OverflowError) as error:
        raise json_reader.Violation("a count", value) from error


def clumsy(value: Any) -> str:
    """Quote it without looking what it is."""
    return ascii(value.strip())


def lax_day(text: str) -> Any:
    """Read any date that Python reads."""
    try:
        return dt.date.fromisoformat(text[:10])
    except ValueError:
        return None


def unbounded(value: object) -> str:
    """Quote all of it."""
    return ascii(value)


def quadratic(text: str) -> bool:
    """Whether it can be printed, found out letter by letter, and again for each of them."""
    return all(text[:at].isprintable() or True for at in range(len(text)))


def forgetful(body: bytes, _: Request | None) -> bytes:
    """Take nothing out."""
    return body


@pytest.mark.parametrize(
    ("module", "name", "bug", "oracle"),
    [
        (codec, "_count", lax_count, "lie: "),
        (json_reader, "excerpt", clumsy, "escape: "),
        (codec, "utc_day", lax_day, "lie: "),
        (json_reader, "excerpt", unbounded, "error: "),
        (responses, "redact_credentials", forgetful, "leak: "),
    ],
)
def test_a_seeded_bug_is_found(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, bug: Callable[..., Any], oracle: str
) -> None:
    """The harness that never complained would prove nothing."""
    monkeypatch.setattr(module, name, bug)
    # The converters keep the hooks that they were made with.
    monkeypatch.setattr(codec, "_EXACT", codec._exactly())
    monkeypatch.setattr(codec, "_TOLERANT", codec._tolerantly())
    assert any(why.startswith(oracle) for block in range(20) for why in failures(block))


def test_a_slow_decoder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quadratic time is told by the shapes that invite it."""
    monkeypatch.setattr(json_reader, "_printable", quadratic)
    long_keys = next(
        case for case in slow_cases() if b"ud800" in case.response.body and b"k" * 20_000 in case.response.body
    )
    _, failed = fuzz.judge_all([long_keys])
    assert [failure.why[:5] for failure in failed] == ["slow:"]


def strayed(body: bytes) -> Usage:
    """A second decoder that takes a missing cap for nothing used, and calls another place wrong."""
    try:
        usage = codec.decode_usage(body)
    except DecodeError as error:
        raise DecodeError(str(error), path=error.path.replace("usage", "use"), retry_once=error.retry_once) from None
    return evolve(usage, project_cap=usage.project_cap or 0)


def test_decoders_that_disagree_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second decoder must accept and refuse the same, with the same values and paths."""
    monkeypatch.setitem(fuzz.DECODERS, "twin", codec.decode_usage)
    assert failures() == []
    monkeypatch.setitem(fuzz.DECODERS, "twin", strayed)
    found = failures()
    assert all(why.startswith("differ: twin") for why in found)
    assert any("DecodeError" in why for why in found)
    assert any("project_cap=0" in why for why in found)
