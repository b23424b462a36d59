"""``twusage show``: its options, one call, and where the answer goes. How it looks is ``table``'s business."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import click

from twusage.cli.countdown import Countdown
from twusage.cli.exit_codes import print_error, printable, suggest_doctor
from twusage.cli.options import access_options, credentials, retry_policy, run_with_client
from twusage.cli.output import page, write
from twusage.cli.table import usage_text
from twusage.errors import TwUsageError
from twusage.models import Problem, Usage
from twusage.protocol import DEFAULT_BASE_URL, usage_request

__all__ = ["show"]

# As many problems beside good data are told.
_MOST_WARNINGS = 5
# Letters of each text of theirs: a server may say anything.
_LONGEST = 200


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
@access_options
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
    proxy: str | None,
    timeout: float,
    max_wait: float,
) -> None:
    """Show what the project has used of its monthly cap, and the posts read on each of the last days.

    One call of GET /2/usage/tweets, of which an app has 50 in 15 minutes.

    The app-only bearer token comes from the environment (X_BEARER_TOKEN, TWITTER_BEARER_TOKEN or BEARER_TOKEN, the
    first that is set) or from --token-file; without one, an API key and its secret in X_API_KEY and X_API_SECRET
    bring it. There is no option for the token itself: everybody on the machine could
    read it.
    """
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other: choose one")
    if demo and token_file is not None:
        raise click.UsageError("--demo needs no --token-file: choose one")
    if demo and proxy is not None:
        raise click.UsageError("--demo needs no --proxy: choose one")
    countdown = Countdown()
    try:
        keywords: dict[str, Any] = _demo() if demo else credentials(token_file)
        usage = run_with_client(
            lambda client: client.get_usage(days=days),
            proxy=proxy,
            timeout=timeout,
            retry=retry_policy(max_wait),
            on_wait=countdown,
            **keywords,
        )
    except TwUsageError as error:
        if not demo:
            suggest_doctor(error)
        raise
    finally:
        countdown.clear()
    for problem in usage.errors[:_MOST_WARNINGS]:
        print_error(f"warning: the API says: {_told(problem)}")
    if as_json:
        # ASCII only, which is as good for any reader, and is safe in any encoding and on any terminal.
        write(json.dumps(usage.to_dict(), indent=2) + "\n")
    elif as_csv:
        write(_csv(usage, by_app=by_app))
    else:
        write(_table(usage, by_app=by_app))


def _demo() -> dict[str, Any]:
    from twusage.testing import FakeApi, FakeTransport

    api = FakeApi()
    return {"auth": api.apps[0].token, "transport": FakeTransport(api), "base_url": DEFAULT_BASE_URL}


# -- Where the answer goes ---------------------------------------------------------------------------------------------


def _told(problem: Problem) -> str:
    texts = (problem.title, problem.detail or problem.type)
    return ": ".join(text[:_LONGEST] for text in texts if text) or "something is wrong, but not what"


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
    return page(lambda width, ascii_only: usage_text(usage, by_app=by_app, width=width, ascii_only=ascii_only))
