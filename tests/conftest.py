"""What several test modules share: the mend of aioresponses, and the token that nobody may ever read."""

import inspect
from types import SimpleNamespace
from typing import Any

import aiohttp
import aioresponses.core
import pytest

from twusage.protocol import Request

CANARY = "AAAAAAAAAAAAAAAAAAAAACANARY%2Fsinging%3Din0the1mine2that3nobody4may5hear"


class _Response(aiohttp.ClientResponse):
    """What aioresponses 0.7.9 makes, with the argument that aiohttp 3.14 asks for (aioresponses#289)."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        keywords.setdefault("stream_writer", SimpleNamespace(output_size=0))
        super().__init__(*args, **keywords)


if "stream_writer" in inspect.signature(aiohttp.ClientResponse.__init__).parameters:
    vars(aioresponses.core)["ClientResponse"] = _Response


@pytest.fixture
def canary() -> str:
    """A token of the real ones' length and letters: to be looked for wherever it must not be."""
    return CANARY


@pytest.fixture
def canary_request() -> Request:
    """A request with the canary, to a host that does not exist."""
    return Request("GET", "https://api.test/2/usage/tweets", {"authorization": f"Bearer {CANARY}"})
