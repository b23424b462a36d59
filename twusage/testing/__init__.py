"""Test doubles for whoever builds on twusage: the API as it answers live, without a network and in virtual time.

Nothing but the public names. ``fake_app``, which serves the fake over a socket, is loaded when it is first asked for,
because it needs aiohttp.
"""

from typing import TYPE_CHECKING

from twusage.testing.api import FakeApi, FakeApp, FakeProject
from twusage.testing.clock import VirtualClock
from twusage.testing.faults import Fault
from twusage.testing.transport import FakeTransport

if TYPE_CHECKING:
    from twusage.testing.server import fake_app

__all__ = ["FakeApi", "FakeApp", "FakeProject", "FakeTransport", "Fault", "VirtualClock", "fake_app"]


def __getattr__(name: str) -> object:
    if name == "fake_app":
        from twusage.testing.server import fake_app

        return fake_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
