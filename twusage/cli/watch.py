"""``twusage watch``: a live view, JSON lines, and a command per event."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager, suppress

import click
from attrs import define

from twusage.cli.board import Board
from twusage.cli.call import Access, call_options
from twusage.cli.options import every_option, run_with_client
from twusage.cli.output import is_terminal, write
from twusage.cli.store import history_option, opened
from twusage.client import UsageClient
from twusage.errors import TwUsageError
from twusage.monitor import UsageSampled, WatchEvent
from twusage.monitor import watch as watch_usage

__all__ = ["watch"]

_EXEC_TIMEOUT = 60.0
"""Seconds that the command of ``--exec`` has for one event."""


def _checked_thresholds(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[float, ...]:
    fractions = []
    for each in values:
        number, percent = re.fullmatch(r"(.*?)(%?)", each, re.DOTALL).groups()  # type: ignore[union-attr]
        try:
            fraction = float(number) / (100 if percent else 1)
        except ValueError:
            fraction = 0.0
        if not 0 < fraction < 10:
            raise click.UsageError(f"--threshold takes a part of the cap such as 0.5 or 50%, got {each}")
        fractions.append(fraction)
    return tuple(fractions)


@click.command(short_help="Watch the cap: a live view, or JSON lines on a pipe.")
@every_option("15m")
@click.option(
    "--threshold",
    "thresholds",
    multiple=True,
    default=("80%", "90%", "100%"),
    metavar="PART",
    callback=_checked_thresholds,
    help="Report when this part of the cap is used: 0.5 or 50%; may be repeated.  [default: 80%, 90%, 100%]",
)
@click.option(
    "--exec",
    "command",
    metavar="CMD",
    help="Run CMD in the shell for each event except samples, with the event as JSON on stdin. Timeout: 60 s.",
)
@click.option("--by-app", is_flag=True, help="List the client apps in the live view.")
@history_option
@call_options
@click.pass_context
def watch(
    ctx: click.Context,
    /,
    *,
    access: Access,
    every: float,
    thresholds: tuple[float, ...],
    command: str | None,
    by_app: bool,
    url: str | None,
) -> None:
    """Call the API at intervals; report relevant changes once per billing cycle.

    \b
    $ twusage watch --demo
    $ twusage watch --every 5m --threshold 50% --history sqlite:///usage.db
    $ twusage watch --exec 'mail -s twusage me@example.com' | jq .event

    On a terminal it is a live view, until Ctrl-C. Elsewhere each event is a line of JSON. With a history, a new watch
    continues from the end of the last one, and repeats an event whose delivery was interrupted. If CMD fails, the
    watch ends with 1.
    """  # noqa: D301 - click's mark for lines that are not wrapped
    job = _Job(every, thresholds, command, url, access, by_app)
    try:
        run_with_client(job.run, **access.client_keywords())
    except asyncio.CancelledError:
        ctx.exit(job.ended_with)


@define
class _Job:
    every: float
    thresholds: tuple[float, ...]
    command: str | None
    url: str | None
    access: Access
    by_app: bool
    ended_with: int = 0

    async def run(self, client: UsageClient) -> None:
        live = is_terminal()
        async with AsyncExitStack() as stack:
            history = None if self.url is None else await stack.enter_async_context(opened(self.url))
            stack.enter_context(self._ending())
            board = None
            if live:
                board = await stack.enter_async_context(_drawn(self.every, self.access, by_app=self.by_app))
            events = watch_usage(client, every=self.every, thresholds=self.thresholds, history=history)
            await stack.enter_async_context(aclosing(events))
            async for event in events:
                if board is not None:
                    board.add(event)
                else:
                    write(json.dumps(event.to_dict()) + "\n")
                if self.command is not None and not isinstance(event, UsageSampled):
                    await _run(self.command, event, quiet=live)

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """End silently at SIGTERM, and when a pipe's reader closes it."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def end(code: int) -> None:
            self.ended_with = code
            task.cancel()

        descriptor = _pipe()
        with suppress(NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread
            loop.add_signal_handler(signal.SIGTERM, end, 128 + signal.SIGTERM)
        if descriptor is not None:
            # The writing end of a pipe becomes "readable" when its reader closes it.
            loop.add_reader(descriptor, end, 0)
        try:
            yield
        finally:
            if descriptor is not None:
                loop.remove_reader(descriptor)


def _pipe() -> int | None:
    """Return the file descriptor of stdout if that is a pipe."""
    try:
        descriptor = sys.stdout.fileno()
        return descriptor if stat.S_ISFIFO(os.fstat(descriptor).st_mode) else None
    except (OSError, AttributeError, ValueError):
        return None


@asynccontextmanager
async def _drawn(every: float, access: Access, *, by_app: bool) -> AsyncIterator[Board]:
    """Show the live view, and update its countdown each second."""
    loop = asyncio.get_running_loop()
    with Board(every=every, names=access.names, by_app=by_app) as board:

        async def tick() -> None:
            while True:
                await asyncio.sleep(1)
                board.tick()

        ticker = asyncio.create_task(tick())
        with suppress(NotImplementedError, RuntimeError, ValueError, AttributeError):
            loop.add_signal_handler(signal.SIGWINCH, board.resize)
        try:
            yield board
        finally:
            ticker.cancel()


async def _run(command: str, event: WatchEvent, *, quiet: bool) -> None:
    """Run the command with the event on its stdin.

    Its output goes to stderr, but is discarded below a live view.
    """
    output = asyncio.subprocess.DEVNULL if quiet else sys.stderr.fileno()
    process = await asyncio.create_subprocess_shell(
        command, stdin=asyncio.subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
    )
    try:
        async with asyncio.timeout(_EXEC_TIMEOUT):
            await process.communicate(json.dumps(event.to_dict()).encode() + b"\n")
    except TimeoutError:
        raise TwUsageError(f"the command of --exec did not end within {_EXEC_TIMEOUT:g} s; the watch ends") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if process.returncode:
        raise TwUsageError(f"the command of --exec failed with {process.returncode}; the watch ends")
