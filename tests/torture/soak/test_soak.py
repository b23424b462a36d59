"""A short soak, and whether it sees what it is there for. Leaks of every kind, seeded. `nox -s soak` is the whole."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import soak
from attrs import define, field

from twusage import limiter, window
from twusage.protocol import Request, Response
from twusage.transport import Transport

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from Linux's /proc")

CALLS = 400


def short(wrap: Callable[[Transport], Transport] = lambda inner: inner) -> soak.Soak:
    """A soak of a second."""
    return asyncio.run(soak.soak(CALLS, rounds=4, wrap=wrap))


Send = Callable[[], Awaitable[Response]]


@define(eq=False)
class Leaky:
    """A transport with a bug, and what that keeps."""

    inner: Transport
    bug: Callable[[Send, list[Any]], Awaitable[Response]]
    kept: list[Any] = field(factory=list)

    async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109 - as Transport has it
        """One request, as the bug has it."""
        return await self.bug(lambda: self.inner.send(request, timeout=timeout), self.kept)

    async def aclose(self) -> None:
        """Close it."""
        await self.inner.aclose()


async def keeps_answers(send: Send, kept: list[Any]) -> Response:
    """Every response stays, with as much again as a long one would take."""
    response = await send()
    kept.append(response.body + bytes(range(256)) * 200)
    return response


async def keeps_files(send: Send, kept: list[Any]) -> Response:
    """A file is opened for each request, and none closed."""
    kept.append(os.open(os.devnull, os.O_RDONLY))
    return await send()


async def keeps_tasks(send: Send, kept: list[Any]) -> Response:
    """A task is left behind."""
    kept.append(asyncio.create_task(asyncio.sleep(3600)))
    return await send()


async def sends_twice(send: Send, _: list[Any]) -> Response:
    """A successful response is sent again."""
    await send()
    return await send()


async def sends_nothing(_: Send, __: list[Any]) -> Response:
    """The response is known already."""
    await asyncio.sleep(0)
    return Response(200, {}, b'{"data": {}}')


async def stumbles(send: Send, _: list[Any]) -> Response:
    """An error that is none of twusage's."""
    await send()
    raise KeyError("x-transaction-id")


def test_a_short_soak() -> None:
    """Four hundred calls, some of them spoilt, cancelled or shared. Nothing grows, leaks or is sent twice."""
    result = short()
    assert result.misses() == []
    assert result.outcomes.total() == CALLS
    assert result.outcomes["Usage"] > 0.9 * CALLS
    assert result.arrived > 0.8 * CALLS


@pytest.mark.parametrize(
    ("bug", "symptom"),
    [
        (keeps_answers, "MiB more memory"),
        (keeps_tasks, "tasks at rest"),
        (sends_twice, "requests came twice"),
        (sends_nothing, "requests never came"),
        (stumbles, "not ours: "),
    ],
)
def test_a_seeded_leak_is_found(bug: Callable[[Send, list[Any]], Awaitable[Response]], symptom: str) -> None:
    """A soak that misses a real leak would prove nothing."""
    assert any(symptom in miss for miss in short(lambda inner: Leaky(inner, bug)).misses())


def test_a_leak_of_files_is_seen() -> None:
    """So are files that stay open, while it runs and after it."""
    kept: list[int] = []
    try:
        misses = short(lambda inner: Leaky(inner, keeps_files, kept)).misses()
    finally:
        for number in kept:
            os.close(number)
    assert any("files open" in miss for miss in misses)
    assert any("files left" in miss for miss in misses)


def test_a_place_that_is_never_given_back_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """One place in fifty stays taken."""
    real = limiter._AppQueue.release

    def forgetful(self: limiter._AppQueue, ticket: int, **outcome: Any) -> None:
        if ticket % 50:
            real(self, ticket, **outcome)

    monkeypatch.setattr(limiter._AppQueue, "release", forgetful)
    assert any("places held at rest" in miss for miss in short().misses())


def test_three_weeks() -> None:
    """Three weeks of polling in three profiles. No 429, nothing fails, nothing grows."""
    for world in soak.profiles()[:3]:
        weeks = asyncio.run(soak.year(world, days=21))
        assert weeks.misses() == []
        assert weeks.calls == 21 * 24 + 7 * 74
        assert weeks.held[0] > 10


def test_a_limiter_that_lets_all_go_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its rules, the bursts are refused."""
    monkeypatch.setattr(window.RateWindow, "seconds_until_free", lambda _self, _now: 0.0)
    weeks = asyncio.run(soak.year(soak.profiles()[2], days=8))
    assert any("calls refused" in miss for miss in weeks.misses())


def test_a_limiter_that_remembers_all_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that grows by one with each call."""
    real = limiter._AppQueue.release

    def hoarding(self: limiter._AppQueue, ticket: int, **outcome: Any) -> None:
        vars(self).setdefault("history", []).append(str(ticket))
        real(self, ticket, **outcome)

    monkeypatch.setattr(limiter._AppQueue, "release", hoarding)
    weeks = asyncio.run(soak.year(soak.profiles()[2], days=8))
    assert any("the limiter held" in miss for miss in weeks.misses())
