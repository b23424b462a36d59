"""Test doubles: a simulation of the live API, in virtual time.

Public names only. Loaded on first use, because few tests need them: ``fake_app`` and ``FakeServer``, which serve the
fake over a socket with aiohttp, and the two transports of recordings.
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
