"""``twusage fake``: serves the fake API on a port, for any language."""

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
    help="The port on 127.0.0.1; 0 selects a free one.",
)
@click.option(
    "--cap",
    type=click.IntRange(min=0),
    default=2_000_000,
    show_default=True,
    metavar="N",
    help="Posts that the project may read in a billing cycle.",
)
@click.option(
    "--reset-day",
    type=click.IntRange(1, 31),
    default=10,
    show_default=True,
    metavar="N",
    help="The day of the month on which the cycle resets.",
)
@click.option(
    "--apps",
    type=click.IntRange(1, 10_000),
    default=3,
    show_default=True,
    metavar="N",
    help="Number of client apps of the project.",
)
@click.option(
    "--history-days",
    type=click.IntRange(0, 365),
    default=90,
    show_default=True,
    metavar="N",
    help="Number of days with reads; 0 for a project without reads.",
)
@click.option("--tokens", metavar="A,B,...", help="Bearer tokens for the apps, in order, instead of generated ones.")
def fake(*, port: int, cap: int, reset_day: int, apps: int, history_days: int, tokens: str | None) -> None:
    """Serve a fake of the X/Twitter Usage API until Ctrl-C.

    \b
    $ twusage fake --port 8080 --cap 1200000

    It responds to GET /2/usage/tweets and POST /oauth2/token as the API does: with realistic data, and with a limit of
    50 calls in 15 minutes per app. Only programs on this machine can reach it.
    """  # noqa: D301 - click's mark for lines that are not wrapped
    from twusage.testing import FakeServer  # imported here, because it needs aiohttp

    api = FakeApi(apps=apps, cap=cap, reset_day=reset_day, history_days=history_days)
    api.max_requests = 2**63  # no limit: this is not a test
    given = [token.strip() for token in (tokens or "").split(",") if token.strip()]
    if len(given) > apps or len(set(given)) < len(given):
        raise click.UsageError(f"--tokens takes distinct tokens, at most one per app; got {len(given)} for {apps}")
    for token in given:
        Secret(token)  # raises for a token that no client could send
    for app, token in zip(api.apps, given, strict=False):
        app.tokens[:] = [token]
    with FakeServer(api, port=port) as server:
        click.echo(f"Serving the fake API at {server.url} until Ctrl-C. To try it:")
        click.echo(f"  TWUSAGE_BASE_URL={server.url} X_BEARER_TOKEN='{server.token}' twusage show")
        for app in api.apps[:10]:
            click.echo(f"app {app.id}: token {app.token} (or API key {app.api_key} and secret {app.api_secret})")
        if apps > 10:
            click.echo(f"and {apps - 10} more apps")
        _until_ctrl_c()


def _until_ctrl_c() -> None:
    threading.Event().wait()
