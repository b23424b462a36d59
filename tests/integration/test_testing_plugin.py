"""The pytest plugin, as a project that has nothing else uses it. In a fresh directory, in a process of its own."""

from __future__ import annotations

import http.client
import threading
import urllib.error
import urllib.request

import pytest

from twusage.testing import FakeApi, FakeServer, Fault

BOT = '''
from twusage import QuotaError, UsageClient

async def may_read(client: UsageClient, count: int) -> bool:
    """Ten lines of a bot: it stops before the cap."""
    try:
        usage = await client.get_usage(max_age=60)
    except QuotaError:
        return False
    return usage.remaining is not None and usage.remaining >= count
'''


def run(pytester: pytest.Pytester, mode: str, tests: str) -> pytest.RunResult:
    pytester.makeini(f"[pytest]\nasyncio_mode = {mode}\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(bot=BOT)
    pytester.makepyfile(test_bot=tests)
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", "-q", plugins=[])


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_the_fixtures_work_in_both_modes_of_pytest_asyncio(pytester: pytest.Pytester, mode: str) -> None:
    """One line each, in auto and in strict mode."""
    mark = "@pytest.mark.asyncio\n" if mode == "strict" else ""
    result = run(
        pytester,
        mode,
        f"""
import pytest, bot
from twusage.testing import Fault

{mark}async def test_stops_at_the_cap(twusage_api, twusage_client):
    twusage_api.project.cap = twusage_api.project.usage(twusage_api.clock.now().date()) + 10
    assert await bot.may_read(twusage_client, 10) in (True, False)

{mark}async def test_stops_in_a_capped_month(twusage_api, twusage_client):
    twusage_api.fail(Fault.usage_capped())
    assert not await bot.may_read(twusage_client, 1)
    assert len(twusage_api.requests) == 1

{mark}async def test_fifteen_minutes(twusage_api, twusage_client, twusage_clock, twusage_transport):
    twusage_api.fail(Fault.rate_limited())
    await twusage_client.get_usage()
    assert twusage_clock.monotonic() >= 900
""",
    )
    result.assert_outcomes(passed=3)


def test_a_missing_await_fails_the_test(pytester: pytest.Pytester) -> None:
    """A call that was never awaited does nothing. The fixture fails, though Python only warns."""
    result = run(
        pytester,
        "auto",
        """
async def test_forgets(twusage_client):
    twusage_client.get_usage()
""",
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*get_usage() of twusage_client never awaited*await client.get_usage()*"])


def test_a_retry_loop_on_a_capped_month_is_stopped(pytester: pytest.Pytester) -> None:
    """A bot that retries for ever does not hang its test."""
    result = run(
        pytester,
        "auto",
        """
import math
from twusage.testing import Fault

async def test_loops(twusage_api, twusage_client):
    twusage_api.fail(Fault.usage_capped(), times=math.inf)
    while True:
        try:
            await twusage_client.get_usage()
        except Exception:
            continue
""",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Runaway: 10000 requests to one fake*"])


def test_the_server_fixture_is_a_real_socket(pytester: pytest.Pytester) -> None:
    """A program in any language can ask it. It shares its API with the other fixtures."""
    result = run(
        pytester,
        "strict",
        """
import json, urllib.request

def test_over_a_socket(twusage_server, twusage_api):
    request = urllib.request.Request(
        f"{twusage_server.url}/2/usage/tweets", headers={"Authorization": f"Bearer {twusage_server.token}"}
    )
    with urllib.request.urlopen(request) as answer:
        data = json.load(answer)["data"]
    assert data["project_id"] == twusage_api.project.id
    assert len(twusage_api.requests) == 1
""",
    )
    result.assert_outcomes(passed=1)


def test_an_unused_plugin_imports_nothing_heavy(pytester: pytest.Pytester) -> None:
    """A project that only has it installed pays for neither aiohttp nor tenacity."""
    pytester.makepyfile(
        """
import sys

def test_nothing():
    assert not {"aiohttp", "tenacity", "click", "rich"} & sys.modules.keys()
"""
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:asyncio", "-q")
    result.assert_outcomes(passed=1)


def ask(server: FakeServer) -> int:
    request = urllib.request.Request(
        f"{server.url}/2/usage/tweets", headers={"Authorization": f"Bearer {server.token}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_a_server_can_be_had_without_pytest() -> None:
    """With FakeServer() as server: what fails in memory fails on the wire. Afterwards its port is free again."""
    with FakeServer() as server:
        assert ask(server) == 200
        server.api.fail(Fault.status(503))
        assert ask(server) == 503
        for fault in (Fault.disconnected(), Fault.connect_error(), Fault.reset()):
            server.api.fail(fault)
            with pytest.raises((OSError, http.client.HTTPException)):
                ask(server)
        port = int(server.url.rpartition(":")[2])
    with FakeServer(FakeApi(), port=port) as again:
        assert ask(again) == 200


def test_a_server_on_a_taken_port_raises() -> None:
    """And leaves nothing behind: its thread ends."""
    with FakeServer() as first:
        port = int(first.url.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"), FakeServer(port=port):
            pytest.fail("two servers on one port")
    assert "twusage fake" not in {thread.name for thread in threading.enumerate()}
