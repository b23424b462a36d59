"""``twusage forecast``: will the cap last."""

from __future__ import annotations

import json

import click

from twusage.cli.call import Access, call_options, max_wait_option, viewed
from twusage.cli.output import page, write
from twusage.display.terminal import forecast_text

__all__ = ["forecast"]


@click.command(short_help="Forecast the end of the billing cycle.")
@click.option("--json", "as_json", is_flag=True, help="The forecast as JSON; null is unknown.")
@max_wait_option
@call_options
def forecast(*, access: Access, as_json: bool, max_wait: float) -> None:
    """Forecast the used part of the cap at the cycle's end.

    \b
    $ twusage forecast --demo
    $ twusage forecast --json

    One call of GET /2/usage/tweets, for 90 days. The range contains the true total in 9 of 10 cycles.
    """  # noqa: D301 - click's mark for lines that are not wrapped
    view = viewed(access, max_wait=max_wait)
    if as_json:
        write(json.dumps(view.to_dict()["forecast"], indent=2) + "\n")
    else:
        write(page(lambda screen: forecast_text(view, screen)))
