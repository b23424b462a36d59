"""The measurements. ``bench.py`` runs each function in a process of its own; ``timing.py`` has the method."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from aioresponses import aioresponses
from loopback import serving
from timing import Block, Figures, awaited, compare, figures_of, measure, timed, times

from twusage import AiohttpTransport, LocalRateLimiter, RateLimit, Request, Response, RetryPolicy, UsageClient
from twusage.clock import SystemClock
from twusage.codec import decode_usage
from twusage.protocol import authorize, usage_request
from twusage.retry import CallBudget, RetryTokenBucket, retry_budgets_for_running_loop
from twusage.testing import FakeApi, FakeTransport, VirtualClock

TOKEN = "AAAAAAAAAAAAAAAAAAAAABENCH%2Fno%2Freal%2Ftoken%3Dat0all"
NO_END = 10**9
SMALL = Path(__file__).parents[1] / "fixtures" / "usage_optional_1.json"


def settle() -> None:
    """Have twusage choose who reads its JSON. A peer may need the one that it is not to have."""
    decode_usage(small())


# -- Bodies ------------------------------------------------------------------------------------------------------------


def answer(apps: int, days: int, *, until: date = date(2026, 1, 15)) -> bytes:
    """A response in which every app has read on every day, written as the fake writes it."""
    dice = random.Random(1)
    dates = [f"{until - timedelta(days=days - 1 - ago)}T00:00:00.000Z" for ago in range(days)]

    def rows() -> list[dict[str, str]]:
        return [{"date": day, "usage": str(dice.randrange(1_000, 40_000))} for day in dates]

    data = {
        "cap_reset_day": 10,
        "project_cap": "2000000",
        "project_id": "1281043626347900822499",
        "project_usage": "201082",
        "daily_project_usage": {"project_id": "1281043626347900822499", "usage": rows()},
        "daily_client_app_usage": [
            {"client_app_id": str(27_000_000 + app), "usage_result_count": days, "usage": rows()} for app in range(apps)
        ],
    }
    return json.dumps({"data": data}).encode()


def with_unknown_field(body: bytes) -> bytes:
    """The response with a field that the API may add one day."""
    document = json.loads(body)
    document["data"]["project_tier"] = "pro"
    return json.dumps(document).encode()


def with_numbers(body: bytes) -> bytes:
    """The response with numbers for the counts, as the vendor's documents show them."""
    document = json.loads(body)
    data = document["data"]
    for name in ("project_cap", "project_usage"):
        data[name] = int(data[name])
    for series in (data["daily_project_usage"], *data["daily_client_app_usage"]):
        for row in series["usage"]:
            row["usage"] = int(row["usage"])
    return json.dumps(document).encode()


def small() -> bytes:
    """The example of the API's own document: one day, one app."""
    return json.dumps(json.loads(SMALL.read_bytes())).encode()


def sparse() -> bytes:
    """What the fake answers for ten apps. Every third of them has days without reads."""
    api = FakeApi(apps=10, clock=VirtualClock())
    return api.handle(authorize(usage_request(days=90), api.apps[0].token)).body


# -- Calls over a socket -----------------------------------------------------------------------------------------------


def calls() -> Figures:
    """A typed call, and what others do in its place."""
    import peers

    figures = {}
    with serving(small()) as (url, with_30_headers), asyncio.Runner() as runner:
        opened = AsyncExitStack()

        def ours(address: str) -> Callable[[], Awaitable[object]]:
            client = runner.run(opened.enter_async_context(UsageClient(TOKEN, base_url=address)))
            runner.run(client.get_usage())  # opens the window: until then one goes at a time
            return client.get_usage

        def theirs(make: Any, address: str = url) -> peers.Call:
            call: peers.Call = runner.run(make(address, TOKEN, opened))
            return call

        call = awaited(runner, ours(url))
        figures["call/aiohttp"] = compare(call, awaited(runner, theirs(peers.aiohttp_call)), rounds=401)
        figures["call/aiohttp-50"] = _each(
            50, compare(awaited(runner, ours(url), 50), awaited(runner, theirs(peers.aiohttp_call), 50), rounds=201)
        )
        figures["call/aiohttp-30-headers"] = compare(
            awaited(runner, ours(with_30_headers)), awaited(runner, theirs(peers.aiohttp_call, with_30_headers))
        )
        figures["call/tweepy"] = compare(call, awaited(runner, theirs(peers.tweepy_call)))
        figures["call/httpx"] = compare(call, awaited(runner, theirs(peers.httpx_call)))
        figures["call/xdk"] = compare(call, times(peers.xdk_call(url, TOKEN)))
        runner.run(opened.aclose())
    return figures


def _each(count: int, figures: Figures) -> Figures:
    return figures | {"ours": figures["ours"] / count, "theirs": figures["theirs"] / count}


def pacing() -> Figures:
    """What the window and the retries take of a call, without the call."""
    limiter, policy, clock = LocalRateLimiter(), RetryPolicy(), SystemClock()
    seen = RateLimit(NO_END, NO_END, datetime.fromtimestamp(int(time.time()) + 900, UTC))

    budgets: dict[str, RetryTokenBucket] | None = None

    async def nothing() -> None: ...

    async def attempt(budget: CallBudget) -> None:
        nonlocal budgets
        if budgets is None:
            budgets = retry_budgets_for_running_loop()  # as a client does at its first call
        budget.retry_tokens = budgets["app"]
        async with limiter.slot("app", max_wait=budget.wait_left) as slot:
            budget.charge_wait(slot.waited)
            await nothing()
            slot.observe(seen, clock.time())

    async def paced() -> None:
        budget = CallBudget(policy.max_wait)
        await attempt(budget)
        budget.record_success()

    with asyncio.Runner() as runner:
        figures = compare(awaited(runner, paced), awaited(runner, nothing))
    # Only the added cost is compared: a ratio to nothing has no meaning.
    nothing_at_all = figures["theirs"]
    added = {name: figures[name] * nothing_at_all - nothing_at_all for name in ("median", "low", "high")}
    return {"pacing": added | {"unit": "µs", "pairs": figures["pairs"]}}


# -- Decoding ----------------------------------------------------------------------------------------------------------


def decode() -> Figures:
    """Ten apps over ninety days, with what Python itself brings."""
    import peers

    body, small_body, sparse_body = answer(10, 90), small(), sparse()
    ours = _decoding(decode_usage, body)
    others = {
        "json": peers.json_decode,
        "cattrs": peers.cattrs_decode(),
        "xdk": peers.xdk_decode,
        "pydantic": peers.pydantic_decode,
        "orjson": peers.orjson_decode,
    }
    figures = {f"decode/{name}": compare(ours, _decoding(decoder, body)) for name, decoder in others.items()}
    figures["sparse/json"] = compare(_decoding(decode_usage, sparse_body), _decoding(json.loads, sparse_body))
    for name, odd in (("unknown", with_unknown_field(body)), ("numbers", with_numbers(body))):
        figures[f"{name}/json"] = compare(_decoding(decode_usage, odd), _decoding(json.loads, odd))
    figures["small/xdk"] = compare(_decoding(decode_usage, small_body), _decoding(peers.xdk_decode, small_body))
    return figures


def decode_with_msgspec() -> Figures:
    """The same, with msgspec reading the JSON."""
    import peers

    body, small_body, sparse_body = answer(10, 90), small(), sparse()
    ours = _decoding(decode_usage, body)
    return {
        "speed/msgspec": compare(ours, _decoding(peers.msgspec_decode, body)),
        "speed/json": compare(ours, _decoding(json.loads, body)),
        "speed/sparse": compare(_decoding(decode_usage, sparse_body), _decoding(json.loads, sparse_body)),
        "speed/small": compare(_decoding(decode_usage, small_body), _decoding(peers.xdk_decode, small_body)),
    }


def _decoding(decoder: Callable[[bytes], object], body: bytes) -> Block:
    return times(lambda: decoder(body))


def memory() -> Figures:
    """Bytes that are still there when everything but the result is gone. The caches that it fills count."""
    apps, days = 100, 90
    decode_usage(answer(1, 1))
    body = answer(apps, days, until=date(2025, 6, 30))  # other days than before, or its dates would be there already
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    usage = decode_usage(body)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(usage.daily_client_app_usage) == apps
    kept = (after - before) / (apps * days)
    return {"memory": {"unit": "bytes", "median": kept, "low": kept, "high": kept, "pairs": 1}}


# -- Will the cap last? ------------------------------------------------------------------------------------------------


def monitor() -> Figures:
    """One month from ten years of days, a forecast, and a reservation."""
    from twusage.monitor import History, UsageGuard, forecast  # Loads SQLAlchemy.

    month = date(2025, 11, 10), date(2025, 12, 10)
    limiter = LocalRateLimiter(limit=NO_END)
    api = FakeApi(cap=NO_END)
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        history = History(f"sqlite:///{folder}/usage.db")
        runner.run(history.load(io.StringIO(ten_years(apps=100))))
        client = UsageClient(api.apps[0].token, transport=FakeTransport(api), limiter=limiter)
        usage = runner.run(client.get_usage(days=90))
        guard = UsageGuard(client)
        project = awaited(runner, lambda: history.days("1", *month))
        apps = awaited(runner, lambda: history.apps("1", *month))
        figures = {
            "history/project": measure(project, unit="ms", scale=1e3, rounds=51),
            "history/apps": measure(apps, unit="ms", scale=1e3, rounds=51),
            "forecast": measure(times(lambda: forecast(usage)), unit="ms", scale=1e3),
            "guard": measure(awaited(runner, lambda: guard.spend(1)), unit="µs", scale=1e6),
        }
        runner.run(history.aclose())
        runner.run(client.aclose())
    return figures


def ten_years(apps: int) -> str:
    """A history's export: the days of a project and of its apps."""
    dice, start = random.Random(1), date(2016, 1, 1)
    names = ["", *(str(27_000_000 + app) for app in range(apps))]
    lines = [
        f"1,{name},{start + timedelta(days=day)},{dice.randrange(1_000, 40_000)},2026-01-01T00:00:00+00:00"
        for day in range(3652)
        for name in names
    ]
    return "\n".join(["project_id,client_app_id,date,usage,seen_at", *lines, ""])


# -- Without a network -------------------------------------------------------------------------------------------------


def fake() -> Figures:
    """A call in a test, by the fake and by the usual way to mock aiohttp."""
    import conftest  # noqa: F401 - repairs aioresponses for today's aiohttp, as in the tests

    limiter = LocalRateLimiter(limit=NO_END)
    api = FakeApi(rate_limit=NO_END)
    api.max_requests = NO_END
    token = api.apps[0].token
    request = authorize(usage_request(), token)
    in_memory, over_aiohttp = FakeTransport(api), AiohttpTransport()
    by_fake = UsageClient(token, transport=in_memory, limiter=limiter)
    by_mock = UsageClient(token, transport=over_aiohttp, limiter=limiter)
    with asyncio.Runner() as runner, aioresponses() as mocked:
        mocked.get(request.url, body=api.handle(request).body, content_type="application/json", repeat=True)

        def forgetting(call: Callable[[], Awaitable[object]], requests: Any) -> Block:
            block = awaited(runner, call)

            def forgetful(count: int) -> None:
                block(count)
                requests.clear()

            return forgetful

        figures = {
            "fake/send": compare(
                forgetting(lambda: in_memory.send(request, timeout=30), api.requests),
                forgetting(lambda: over_aiohttp.send(request, timeout=30), mocked.requests),
            ),
            "fake/call": compare(
                forgetting(by_fake.get_usage, api.requests), forgetting(by_mock.get_usage, mocked.requests)
            ),
        }
        runner.run(over_aiohttp.aclose())
    return figures


def imports() -> Figures:
    """Whole processes, as a test or a cron job starts them."""
    call = """
import asyncio
from twusage import UsageClient
from twusage.testing import FakeApi, FakeTransport
api = FakeApi()
client = UsageClient(api.apps[0].token, transport=FakeTransport(api))
asyncio.run(client.get_usage())
"""
    without_msgspec = "import sys; sys.modules['msgspec'] = None\n"
    ours = without_msgspec + call
    return {
        "import/aiohttp": _processes(ours, without_msgspec + "import aiohttp\n" + call),
        "import/xdk": _processes(ours, "import xdk"),
    }


def _processes(ours: str, theirs: str, *, rounds: int = 21) -> Figures:
    pairs = []
    for number in range(rounds + 1):
        turns = (ours, theirs) if number % 2 else (theirs, ours)
        spent = {code: _process(code) for code in turns}
        pairs.append((spent[ours], spent[theirs]))
    return figures_of(pairs[1:], unit="ms", scale=1e3)  # the first writes the bytecode


def _process(code: str) -> float:
    # Bytecode may be disabled here; then only the compiler's time would be compared.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environ)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, code
    return used.ru_utime + used.ru_stime


# -- Many --------------------------------------------------------------------------------------------------------------


def fleet() -> Figures:
    """10,000 apps, each polled once: processes of their own, in turns."""
    pairs, resident = [], []
    with serving(small()) as (url, _):
        for number in range(7):
            turns = ("ours", "theirs") if number % 2 else ("theirs", "ours")
            told = {who: _polled(who, url) for who in turns}
            pairs.append((told["ours"]["seconds"], told["theirs"]["seconds"]))
            resident.append((told["ours"]["megabytes"], told["theirs"]["megabytes"]))
    ours, theirs = (statistics.median(side) for side in zip(*resident, strict=True))
    return {"fleet": figures_of(pairs, unit="s") | {"megabytes": {"ours": ours, "theirs": theirs}}}


def _polled(who: str, url: str) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).with_name("bench.py")), "--measure", f"poll_{who}", url]
    told: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return told


def poll_ours(url: str) -> Figures:
    """One limiter, one transport, a client for each app."""

    async def poll() -> None:
        limiter, transport = LocalRateLimiter(), AiohttpTransport()
        clients = [
            UsageClient(f"{TOKEN}{app}", limiter=limiter, transport=transport, base_url=url) for app in range(10_000)
        ]
        await asyncio.gather(*(client.get_usage() for client in clients))
        await transport.aclose()

    return _process_of(poll)


def poll_theirs(url: str) -> Figures:
    """Bare aiohttp. As many connections at a time as ours: 100, its own default."""
    import aiohttp

    async def get(session: aiohttp.ClientSession, app: int) -> Any:
        headers = {"authorization": f"Bearer {TOKEN}{app}"}
        async with session.get(f"{url}/2/usage/tweets", headers=headers) as response:
            return await response.json()

    async def poll() -> None:
        # No limit of time for all of it: by default aiohttp ends the last of them after five minutes.
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout()) as session:
            await asyncio.gather(*(get(session, app) for app in range(10_000)))

    return _process_of(poll)


def _process_of(poll: Callable[[], Any]) -> Figures:
    start = time.process_time()
    asyncio.run(poll())
    spent = time.process_time() - start
    return {"seconds": spent, "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


class _Same:
    """A transport that returns the same response immediately. The growth is then the client's own."""

    def __init__(self) -> None:
        headers = {
            "x-rate-limit-limit": f"{NO_END}",
            "x-rate-limit-remaining": f"{NO_END}",
            "x-rate-limit-reset": f"{int(time.time()) + 900}",
        }
        self.response = Response(200, headers, small())

    async def send(self, _: Request, *, timeout: float) -> Response:  # noqa: ASYNC109 - as Transport has it
        return self.response

    async def aclose(self) -> None: ...


def growth() -> Figures:
    """What one costs among few, and among 10,000. Without the garbage collector, too: it looks at all that there is."""
    sizes, windows = (10, 100, 1_000, 10_000), (50, 500, 2_000, 10_000)
    figures = {}
    with asyncio.Runner() as runner:
        blocks: dict[str, tuple[Block, tuple[int, ...]]] = {
            "apps": (lambda count: runner.run(_poll_apps(count)), sizes),
            "waiting": (lambda count: runner.run(_wait_for_one(count)), sizes),
            "queue": (lambda count: runner.run(_wait_for_windows(count)), windows),
        }
        gc.collect()
        gc.freeze()
        for name, (block, of) in blocks.items():
            figures[f"growth/{name}"] = _grown(block, of)
            gc.disable()
            figures[f"growth/{name}-alone"] = _grown(block, of)
            gc.enable()
    return figures


def _grown(block: Block, sizes: Sequence[int], *, rounds: int = 5) -> Figures:
    """Microseconds for one of the most and for one of the fewest, and the ratio. A turn of the fewer: a tenth of the
    most, in as many blocks as that takes.
    """
    turns = []
    for number in range(rounds + 1):
        turn = {}
        for size in sizes if number % 2 else reversed(sizes):
            repeats = max(1, sizes[-1] // 10 // size)
            turn[size] = timed(times(partial(block, size)), repeats) / size
            gc.collect()  # before the next one's clock runs
        turns.append(turn)
    del turns[0]  # warms up
    figures = figures_of([(turn[sizes[-1]], turn[sizes[0]]) for turn in turns], unit="µs", scale=1e6)
    return figures | {"each": {str(size): 1e6 * statistics.median(turn[size] for turn in turns) for size in sizes}}


async def _poll_apps(count: int) -> None:
    limiter, transport = LocalRateLimiter(), _Same()
    clients = [UsageClient(f"{TOKEN}{app}", limiter=limiter, transport=transport) for app in range(count)]
    await asyncio.gather(*(client.get_usage() for client in clients))


async def _wait_for_one(count: int) -> None:
    """The window is unknown. One call probes, all others wait for its response."""
    client = UsageClient(TOKEN, limiter=LocalRateLimiter(), transport=_Slow())
    await asyncio.gather(*(client.get_usage() for _ in range(count)))


class _Slow(_Same):
    async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109 - as Transport has it
        await asyncio.sleep(0)
        return await super().send(request, timeout=timeout)


async def _wait_for_windows(count: int) -> None:
    """All at the same time, and the API allows 50 in 15 minutes: the clock is virtual."""
    clock = VirtualClock()
    api = FakeApi(clock=clock)
    api.max_requests = NO_END
    client = UsageClient(
        api.apps[0].token,
        transport=FakeTransport(api, latency=0.1),
        limiter=LocalRateLimiter(clock=clock),
        clock=clock,
        retry=RetryPolicy(max_wait=math.inf),
    )
    await asyncio.gather(*(client.get_usage() for _ in range(count)))
