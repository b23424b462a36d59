"""The fault catalogue, run: each row over a socket and in memory. Faults that need more than one call are elsewhere.

`nox -s faults` runs and counts all that is marked. ``fault_harness`` has the invariants of every row.
"""

import random
from collections.abc import Callable, Iterable, Iterator

import pytest
from fault_cases import CASES, SHORT
from fault_harness import TRIES, Case, check, in_memory, over_the_wire

from twusage.errors import RateLimitedError
from twusage.models import Usage
from twusage.retry import RetryPolicy

# The default policy, which does not wait between two tries.
EAGER = RetryPolicy(wait=lambda _: 0.0)


def rows(kept: Callable[[Case], bool] = lambda _: True) -> pytest.MarkDecorator:
    """The rows of the table for which it is true, each marked with its layer."""
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(case, id=f"{case.layer}-{case}", marks=pytest.mark.fault(case.layer))
            for case in CASES
            if kept(case)
        ],
    )


def is_of_the_window(case: Case) -> bool:
    return case.error is RateLimitedError


def over_a_socket(case: Case) -> bool:
    return case.act is not None or case.place is not None


class TestOverASocket:
    @rows(over_a_socket)
    async def test_one_try(self, case: Case) -> None:
        """Exactly one error of ours, or a response, and nothing left behind."""
        check(case, await over_the_wire(case, RetryPolicy.none()), tries=1)

    @rows(lambda case: over_a_socket(case) and not is_of_the_window(case))
    async def test_tries_as_often_as_it_may_help(self, case: Case) -> None:
        """While the fault lasts, ``retry`` decides: 4, 2 or 1 attempts."""
        if case.act and not case.place and case.error is not None:
            # A fault of one request only does not affect the second, if a second is sent.
            outcome = await over_the_wire(case, EAGER, times=1)
            assert isinstance(outcome.result, Usage) is (case.retry != "never")
            assert outcome.charges == outcome.wire == (1 if case.retry == "never" else 2)
        if case.timeout > SHORT:  # else it would take four timeouts
            check(case, await over_the_wire(case, EAGER), tries=TRIES[case.retry])

    @rows(lambda case: over_a_socket(case) and case.cut)
    async def test_however_it_is_cut_into_packets(self, case: Case) -> None:
        """The outcome does not depend on how the bytes are cut."""
        dice = random.Random(case.name)
        for cut in (one_by_one, lambda data: at_random(data, dice)):
            check(case, await over_the_wire(case, RetryPolicy.none(), cut=cut), tries=1)


def one_by_one(data: bytes) -> Iterable[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


def at_random(data: bytes, dice: random.Random) -> Iterator[bytes]:
    cuts = sorted(dice.randrange(len(data) + 1) for _ in range(3))
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        if begin < end:
            yield data[begin:end]


class TestInMemory:
    @rows(lambda case: case.fault is not None)
    async def test_one_try(self, case: Case) -> None:
        """The fake plays the same fault, and the same comes of it."""
        check(case, await in_memory(case, RetryPolicy.none()), tries=1)

    @rows(lambda case: case.fault is not None and not is_of_the_window(case))
    async def test_tries_as_often_as_it_may_help(self, case: Case) -> None:
        """While the fault lasts, ``retry`` decides: 4, 2 or 1 attempts."""
        check(case, await in_memory(case, EAGER), tries=TRIES[case.retry])
