"""``twusage show``: its options, one call, and the output. The layout is ``display``'s."""

from __future__ import annotations

import csv
import io
import json

import click

from twusage.cli.call import Access, call_options, max_wait_option, viewed
from twusage.cli.output import page, write
from twusage.display.format import spreadsheet_safe
from twusage.display.terminal import show_text
from twusage.display.view import View
from twusage.protocol import usage_request

__all__ = ["show"]


def _checked_days(_: click.Context, __: click.Parameter, days: int) -> int:
    usage_request(days=days)  # raises what the call would raise, before a token is needed
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
@click.option("--by-app", is_flag=True, help="List the client apps, too: the 20 with most reads.")
@click.option("--all-apps", is_flag=True, help="List all client apps.")
@click.option("--json", "as_json", is_flag=True, help="All fields as JSON, with cycle, forecast and attribution.")
@click.option("--csv", "as_csv", is_flag=True, help="The days as CSV: one row a day, with --by-app one a day and app.")
@max_wait_option
@call_options
def show(
    *, access: Access, days: int, by_app: bool, all_apps: bool, as_json: bool, as_csv: bool, max_wait: float
) -> None:
    """Show whether the monthly cap will last, and the daily reads.

    \b
    $ twusage show --demo --by-app
    $ twusage show --days 30 --name 27002234=collector

    One call of GET /2/usage/tweets, of which an app has 50 in 15 minutes. It fetches 90 days, because the
    forecast needs them; --days is the number that is shown.

    The app-only bearer token comes from the environment (X_BEARER_TOKEN, TWITTER_BEARER_TOKEN or BEARER_TOKEN, the
    first that is set) or from --token-file; without one, an API key and its secret in X_API_KEY and X_API_SECRET
    are exchanged for it. There is no option for the token itself, because every user of the machine could read it.
    """  # noqa: D301 - click's mark for lines that are not wrapped
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other: choose one")
    view = viewed(access, max_wait=max_wait, days=days)
    if as_json:
        # ASCII only: equal to every JSON parser, and safe in any encoding and on any terminal.
        write(json.dumps(view.shown.to_dict() | view.to_dict(), indent=2) + "\n")
    elif as_csv:
        write(_csv(view, by_app=by_app or all_apps))
    else:
        write(page(lambda screen: show_text(view, screen, by_app=by_app, all_apps=all_apps)))


def _csv(view: View, *, by_app: bool) -> str:
    project = view.shown.daily_project_usage
    if by_app:
        names = ["date", "client_app_id", "usage"]
        rows = view.shown.to_rows()
    else:
        names = ["date", "usage"]
        rows = project.usage.to_list() if project else []
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {name: spreadsheet_safe(value) if isinstance(value, str) else value for name, value in row.items()}
        )
    return text.getvalue()
