"""The fault catalogue in short. One case of each layer, over a socket. `nox -s faults` runs all of it."""

import pytest
from fault_cases import CASES
from fault_harness import Case, check, over_the_wire

from twusage.retry import RetryPolicy

_OVER_A_SOCKET = [case for case in CASES if case.act is not None or case.place is not None]
_ONE_EACH = {case.layer: case for case in reversed(_OVER_A_SOCKET)}
# A proxy is a layer of its own to a transport.
_PROXIES = [case for case in _OVER_A_SOCKET if "proxy" in str(case)]


@pytest.mark.parametrize("case", [*_ONE_EACH.values(), *_PROXIES], ids=str)
async def test_one_attempt(case: Case) -> None:
    """A fault is exactly one error of ours, or a response, and nothing is left behind."""
    check(case, await over_the_wire(case, RetryPolicy.none()), tries=1)
