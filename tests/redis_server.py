"""A Redis of the tests' own: started on a Unix socket in a temporary directory, killed with it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest
import redis


class RedisServer:
    """A Redis that tests can freeze, kill and restart."""

    def __init__(self, directory: str) -> None:
        self.socket = Path(directory, "redis.sock")
        self.url = f"unix://{self.socket}"
        self.start()

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Self]:
        """Start a server for a fixture. Without a redis-server the tests are skipped, and in CI they fail."""
        if shutil.which("redis-server") is None:
            if os.environ.get("CI") == "true":
                pytest.fail("redis-server is missing, and CI demands it: apt-get install redis-server")
            pytest.skip("redis-server is not installed")
        with tempfile.TemporaryDirectory(prefix="tw") as directory:
            server = cls(directory)
            try:
                yield server
            finally:
                server.kill()

    def start(self) -> None:
        command = ["redis-server", "--port", "0", "--unixsocket", str(self.socket), "--save", ""]
        command += ["--dir", str(self.socket.parent)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.client = redis.Redis(unix_socket_path=str(self.socket), decode_responses=True)
        for _ in range(500):
            time.sleep(0.01)
            if not self.socket.exists():  # redis-py 5.0 leaves a socket open that cannot connect
                continue
            try:
                self.client.ping()
            except redis.ConnectionError:
                continue
            return
        raise AssertionError("redis-server does not start")

    def kill(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()
        self.socket.unlink()

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)
