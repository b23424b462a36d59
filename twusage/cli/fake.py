"""``twusage fake``: the fake API on a port of this machine, for programs in any language."""

from __future__ import annotations

import threading

import click

from twusage.auth import Secret
from twusage.testing import FakeApi

__all__ = ["fake"]


@click.command(short_help="Serve a fake of the API on this machine.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    metavar="N",
    help="The port on 127.0.0.1; 0 takes a free one.",
)
@click.option(
    "--cap",
    type=click.IntRange(min=0),
    default=2_000_000,
    show_default=True,
    metavar="N",
    help="Posts that the project may read in a cycle.",
)
@click.option(
    "--reset-day",
    type=click.IntRange(1, 31),
    default=10,
    show_default=True,
    metavar="N",
    help="The day of the month on which the cycle turns.",
)
@click.option(
    "--apps",
    type=click.IntRange(1, 10_000),
    default=3,
    show_default=True,
    metavar="N",
    help="How many client apps the project has.",
)
@click.option(
    "--history-days",
    type=click.IntRange(0, 365),
    default=90,
    show_default=True,
    metavar="N",
    help="For how many days its apps have been reading; 0 for a project that never read.",
)
@click.option("--tokens", metavar="A,B,...", help="Bearer tokens for the apps, in order, instead of made-up ones.")
def fake(*, port: int, cap: int, reset_day: int, apps: int, history_days: int, tokens: str | None) -> None:
    """Serve a fake of the X/Twitter Usage API on this machine, until Ctrl-C.

    \b
    $ twusage fake --port 8080 --cap 1200000

    It answers GET /2/usage/tweets and POST /oauth2/token as the API does: with believable data, and with 50 calls in
    15 minutes for each app. Only programs on this machine can reach it.
    """  # noqa: D301 - click's mark for lines that are not wrapped
    from twusage.testing import FakeServer  # here, because it needs aiohttp, which the other commands may not

    api = FakeApi(apps=apps, cap=cap, reset_day=reset_day, history_days=history_days)
    api.most_requests = 2**63  # it is not a test that asks
    given = [token.strip() for token in (tokens or "").split(",") if token.strip()]
    if len(given) > apps or len(set(given)) < len(given):
        raise click.UsageError(f"--tokens needs at most one token an app, each another: {len(given)} for {apps}")
    for token in given:
        Secret(token)  # a token that no client could send helps nobody
    for app, token in zip(api.apps, given, strict=False):
        app.tokens[:] = [token]
    with FakeServer(api, port=port) as server:
        click.echo(f"The fake API answers at {server.url} until Ctrl-C. For instance, with twusage:")
        click.echo(f"  TWUSAGE_BASE_URL={server.url} X_BEARER_TOKEN='{server.token}' twusage show")
        for app in api.apps[:10]:
            click.echo(f"app {app.id}: token {app.token} (or API key {app.api_key} and secret {app.api_secret})")
        if apps > 10:
            click.echo(f"and {apps - 10} apps more")
        _until_ctrl_c()


def _until_ctrl_c() -> None:
    threading.Event().wait()
