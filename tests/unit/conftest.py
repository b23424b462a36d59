"""Holds the tier's rule: a unit test opens no socket and starts no process."""

import socket
import subprocess
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def no_network_and_no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise where a test would connect, listen or start a process."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a unit test opens no socket and starts no process: put it into tests/integration")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "bind", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
