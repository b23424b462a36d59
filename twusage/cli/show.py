"""``twusage show``: its options, one call, and where the answer goes. How it looks is ``table``'s business."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import sys
from typing import Any

import click
from rich.console import Console

from twusage.auth import TOKEN_VARIABLES
from twusage.cli.countdown import Countdown
from twusage.cli.exits import complain, let_go, printable
from twusage.cli.table import usage_text
from twusage.client import UsageClient
from twusage.errors import ConfigurationError
from twusage.models import Problem, Usage
from twusage.protocol import usage_request
from twusage.retry import RetryPolicy

__all__ = ["show"]

# No token is nearly as long; a device or a film given by mistake is not read to its end.
_TOKEN_FILE = 2**16


def _checked_days(_: click.Context, __: click.Parameter, days: int) -> int:
    usage_request(days=days)  # raises what the call would raise, before anybody looks for a token
    return days


@click.command(short_help="Show the cycle, the days and the apps.")
@click.option(
    "--days",
    type=int,
    default=7,
    show_default=True,
    metavar="N",
    callback=_checked_days,
    help="How many days to show, 1 to 90.",
)
@click.option("--by-app", is_flag=True, help="The reads of each client app, too.")
@click.option("--json", "as_json", is_flag=True, help="The whole answer as JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="The days as CSV: one row a day, with --by-app one a day and app.")
@click.option("--demo", is_flag=True, help="Made-up data from a fake API. Needs neither token nor network.")
@click.option("--token-file", metavar="PATH", help="Read the bearer token from this file; - is stdin.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="For one request on the wire.",
)
@click.option(
    "--max-wait",
    type=click.FloatRange(min=0),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait in all, for the rate limit and between tries.",
)
def show(
    *,
    days: int,
    by_app: bool,
    as_json: bool,
    as_csv: bool,
    demo: bool,
    token_file: str | None,
    timeout: float,
    max_wait: float,
) -> None:
    """Show what the project has used of its monthly cap, and the posts read on each of the last days.

    One call of GET /2/usage/tweets, of which an app has 50 in 15 minutes.

    The app-only bearer token comes from the environment (X_BEARER_TOKEN, TWITTER_BEARER_TOKEN or BEARER_TOKEN, the
    first that is set) or from --token-file. There is no option for the token itself: everybody on the machine could
    read it.
    """
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other: choose one")
    if demo and token_file is not None:
        raise click.UsageError("--demo needs no --token-file: choose one")
    countdown = Countdown()
    if demo:
        client = _demo_client()
    else:
        client = _client(token_file, timeout=timeout, retry=RetryPolicy(max_wait=max_wait), on_wait=countdown)
    try:
        usage = asyncio.run(_usage(client, days))
    finally:
        countdown.clear()
    for problem in usage.errors:
        complain(f"warning: the API says: {_told(problem)}")
    if as_json:
        # ASCII only, which is as good for any reader, and is safe in any encoding and on any terminal.
        _write(json.dumps(usage.to_dict(), indent=2) + "\n")
    elif as_csv:
        _write(_csv(usage, by_app=by_app))
    else:
        _write(_table(usage, by_app=by_app))


# -- The call ----------------------------------------------------------------------------------------------------------


async def _usage(client: UsageClient, days: int) -> Usage:
    async with client:
        return await client.get_usage(days=days)


def _client(token_file: str | None, **keywords: Any) -> UsageClient:
    if token_file is not None:
        return UsageClient.from_env(auth=_token_from(token_file), **keywords)
    if not any(map(os.environ.get, TOKEN_VARIABLES)):
        raise ConfigurationError(
            f"no bearer token: set {TOKEN_VARIABLES[0]} or give --token-file PATH; to look around without, give --demo"
        )
    return UsageClient.from_env(**keywords)


def _demo_client() -> UsageClient:
    from twusage.testing import FakeApi, FakeTransport

    api = FakeApi()
    return UsageClient(api.apps[0].token, transport=FakeTransport(api))


def _token_from(path: str) -> str:
    """The token in this file. Neither the path nor the content is ever shown: people mistake the one for the other."""
    try:
        with click.open_file(path, "rb") as file:
            content: bytes = file.read(_TOKEN_FILE + 1)
        token = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        reason = "it is not UTF-8 text"
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except RuntimeError:  # what click says of a closed stdin
        reason = "stdin is closed"
    else:
        if token and len(content) <= _TOKEN_FILE and len(token.split()) == 1:
            return token
        reason = "it must hold one bearer token and nothing else" if token else "it is empty"
    raise ConfigurationError(f"no token from --token-file: {reason}. Give the path of a readable file, or - for stdin")


# -- Where the answer goes ---------------------------------------------------------------------------------------------


def _told(problem: Problem) -> str:
    texts = (problem.title, problem.detail or problem.type)
    return ": ".join(text for text in texts if text) or "something is wrong, but not what"


def _csv(usage: Usage, *, by_app: bool) -> str:
    project = usage.daily_project_usage
    if by_app:
        names = ["date", "client_app_id", "usage"]
        rows = usage.to_rows()
    else:
        names = ["date", "usage"]
        rows = project.usage.to_list() if project else []
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: printable(value) if isinstance(value, str) else value for name, value in row.items()})
    return text.getvalue()


def _table(usage: Usage, *, by_app: bool) -> str:
    screen = Console()
    text = usage_text(usage, by_app=by_app, width=screen.width, ascii_only=screen.options.ascii_only)
    page = io.StringIO()  # not stdout itself, on which rich has its own way with a broken pipe
    # Soft: what does not fit is wrapped by the terminal. A number that is cut short would lie.
    Console(file=page, force_terminal=screen.is_terminal).print(text, soft_wrap=True)
    return page.getvalue()


def _write(text: str) -> None:
    # Not click.echo: it would write UTF-8 where ASCII is asked for, and judge the colours once more.
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        if sys.stdout is not None:  # closed with >&-
            sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
            sys.stdout.flush()
    except OSError as error:
        let_go()
        # Of a broken pipe, this makes a BrokenPipeError again.
        raise OSError(error.errno, f"the output cannot be written: {error.strerror}") from None
