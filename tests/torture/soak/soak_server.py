"""The other end of the soak. A raw HTTP server that responds as the API does, and spoils some of its responses.

It is run as a process of its own, and needs nothing but Python: ``soak_server.py FAULTY MARKS``. It prints its port,
and adds one to the byte of MARKS, a file, that the ``x-call`` header of each request names: so it is known of every
request how often it came.
"""

# ruff: noqa: T201 - its port, for the parent process

from __future__ import annotations

import asyncio
import gzip
import json
import mmap
import random
import sys
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

LIMIT = 1_000_000_000
# Short, so that windows turn over while it runs.
PERIOD = 20
BODY = json.dumps(
    {
        "data": {
            "cap_reset_day": 5,
            "project_cap": "2000000",
            "project_id": "1281043626347900822499",
            "project_usage": "407",
            "daily_project_usage": {
                "project_id": "1281043626347900822499",
                "usage": [{"date": f"2026-01-{day:02}T00:00:00.000Z", "usage": str(day * 7)} for day in range(1, 20)],
            },
        }
    }
).encode()


def problem(status: int, title: str) -> bytes:
    """A problem document."""
    return json.dumps({"title": title, "detail": title, "type": "about:blank", "status": status}).encode()


CAPPED = json.dumps({"title": "UsageCapExceeded", "type": "https://api.twitter.com/2/problems/usage-capped"}).encode()
WRONG_SUM = gzip.compress(BODY)[:-8] + b"\0" * 8


class Peer(asyncio.Protocol):
    """One connection."""

    def __init__(self, faulty: float, marks: mmap.mmap, dice: random.Random) -> None:
        self._faulty, self._marks, self._dice = faulty, marks, dice
        self._buffer = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connects."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every request that is whole."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head, self._buffer = self._buffer[:end].lower(), self._buffer[end + 4 :]
            self._marks[int(head.partition(b"\r\nx-call: ")[2].partition(b"\r\n")[0])] += 1
            if self._dice.random() < self._faulty:
                self._dice.choice(FAULTS)(self._transport)
            else:
                send(self._transport)


def send(
    transport: asyncio.Transport, status: int = 200, body: bytes = BODY, headers: str = "", length: int | None = None
) -> None:
    """A response with all its headers."""
    now = int(time.time())
    head = (
        f"HTTP/1.1 {status} Whatever\r\ncontent-type: application/json\r\ndate: {formatdate(now, usegmt=True)}\r\n"
        f"x-rate-limit-limit: {LIMIT}\r\nx-rate-limit-remaining: {LIMIT - 1}\r\n"
        f"x-rate-limit-reset: {now - now % PERIOD + PERIOD}\r\nx-transaction-id: 8f3c6a1e9d2b4705\r\n{headers}"
    )
    if "chunked" not in headers:
        head += f"content-length: {len(body) if length is None else length}\r\n"
    transport.write(f"{head}\r\n".encode() + body)


def reset_in_body(transport: asyncio.Transport) -> None:
    """Half of the body, and a reset."""
    send(transport, length=2 * len(BODY))
    transport.abort()


def short_body(transport: asyncio.Transport) -> None:
    """Less than was announced."""
    send(transport, length=2 * len(BODY))
    transport.close()


def cut_chunk(transport: asyncio.Transport) -> None:
    """The connection ends within a chunk."""
    send(transport, body=b"fff\r\n" + BODY, headers="transfer-encoding: chunked\r\n")
    transport.close()


def bad_chunk(transport: asyncio.Transport) -> None:
    """A chunk without a size."""
    send(transport, body=b"size?\r\n" + BODY, headers="transfer-encoding: chunked\r\n")


def garbage(transport: asyncio.Transport) -> None:
    """No HTTP."""
    transport.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n\0\0\0")
    transport.close()


def too_slow(transport: asyncio.Transport) -> None:
    """A response that no caller waits for."""
    asyncio.get_running_loop().call_later(3.0, transport.abort)


FAULTS: tuple[Callable[[asyncio.Transport], object], ...] = (
    lambda transport: transport.abort(),
    lambda transport: transport.close(),
    reset_in_body,
    short_body,
    cut_chunk,
    bad_chunk,
    garbage,
    too_slow,
    lambda transport: send(transport, 503, problem(503, "Service Unavailable")),
    lambda transport: send(transport, 500, b""),
    lambda transport: send(transport, 401, problem(401, "Unauthorized")),
    lambda transport: send(transport, 429, problem(429, "Too Many Requests")),  # with calls left: not our window
    lambda transport: send(transport, 429, CAPPED),
    lambda transport: send(transport, 302, headers="location: /elsewhere\r\n"),
    lambda transport: send(transport, body=b""),
    lambda transport: send(transport, body=b"<!DOCTYPE html><title>Over capacity</title>"),
    lambda transport: send(transport, body=BODY.replace(b'"407"', b'"4_7"')),
    lambda transport: send(transport, body=WRONG_SUM, headers="content-encoding: gzip\r\n"),
    lambda transport: send(transport, body=WRONG_SUM[:-8], headers="content-encoding: gzip\r\n"),
    lambda transport: send(transport, headers="content-encoding: br\r\n"),
    lambda transport: send(transport, headers="set-cookie: a=b\r\n"),
)


async def main(faulty: float, marks: Path) -> None:
    """Serve until the input ends, which means that the parent process is gone."""
    dice = random.Random("soak")
    with marks.open("r+b") as file, mmap.mmap(file.fileno(), 0) as counts:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Peer(faulty, counts, dice), "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await loop.run_in_executor(None, sys.stdin.read)
        server.close()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), Path(sys.argv[2])))
