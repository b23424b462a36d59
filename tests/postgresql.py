"""A PostgreSQL of the tests' own. Started in a temporary directory, gone with it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

PASSWORD = "CANARY%word/of:the@database"
_USER = "twusage"


def find_initdb() -> str | None:
    """Where initdb is: on PATH, or where Debian keeps it."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return str(debian[-1]) if debian else shutil.which("initdb")


class Server:
    """A server on a Unix socket without a password, and on loopback with one."""

    def __init__(self, directory: Path) -> None:
        initdb = find_initdb()
        assert initdb is not None
        self._programs = Path(initdb).parent
        self._data = directory / "data"
        self.sockets = directory
        # It refuses to run as root.
        self._identity: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []}
        if os.geteuid() != 0:
            self._identity = {}
        else:
            shutil.chown(directory, "postgres", "postgres")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        secret = directory / "password"
        secret.write_text(PASSWORD, encoding="utf-8")
        secret.chmod(0o644)
        command = [initdb, "-D", str(self._data), "-U", _USER, "-E", "UTF8", "--locale=C", "--no-sync"]
        command += ["--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={secret}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=directory, **self._identity)
        self.start()

    @property
    def url(self) -> str:
        """The database on the socket, whose directory stands in for the host."""
        return f"postgresql://{_USER}@/postgres?host={self.sockets}&port={self.port}"

    def loopback_url(self, password: str) -> str:
        """The database on loopback, with a password that is percent-encoded already."""
        return f"postgresql://{_USER}:{password}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        command = [f"{self._programs}/postgres", "-D", str(self._data), "-k", str(self.sockets), "-p", str(self.port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "logging_collector=off"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.sockets, **self._identity
        )
        for _ in range(1000):
            if self.process.poll() is not None:
                raise AssertionError("postgres does not start")
            ready = [f"{self._programs}/pg_isready", "-q", "-h", str(self.sockets), "-p", str(self.port)]
            if subprocess.run(ready, check=False).returncode == 0:
                return
            time.sleep(0.02)
        raise AssertionError("postgres does not answer")

    def stop(self) -> None:
        """Immediately, as in a crash."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait()

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run these, and return the rows of the last one."""
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []
