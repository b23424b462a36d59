"""Test doubles for whoever builds on twusage: the API as it answers live, without a network and in virtual time.

Nothing but the public names. What not every test needs is loaded when it is first asked for: ``fake_app`` and
``FakeServer``, which serve the fake over a socket with aiohttp, and the two transports that keep recordings.
"""

from typing import TYPE_CHECKING

from twusage.testing.api import FakeApi, FakeApp, FakeProject, Runaway
from twusage.testing.clock import VirtualClock
from twusage.testing.faults import Fault
from twusage.testing.transport import FakeTransport

if TYPE_CHECKING:
    from twusage.testing.recording import RecordingTransport, ReplayTransport
    from twusage.testing.server import FakeServer, fake_app

__all__ = [
    "FakeApi",
    "FakeApp",
    "FakeProject",
    "FakeServer",
    "FakeTransport",
    "Fault",
    "RecordingTransport",
    "ReplayTransport",
    "Runaway",
    "VirtualClock",
    "fake_app",
]


def __getattr__(name: str) -> object:
    if name in {"FakeServer", "fake_app"}:
        from twusage.testing import server

        return getattr(server, name)
    if name in {"RecordingTransport", "ReplayTransport"}:
        from twusage.testing import recording

        return getattr(recording, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
