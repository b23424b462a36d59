"""``twusage serve``: one page for the whole team."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack, suppress
from importlib import import_module

import click
from attrs import define

from twusage.auth import Secret
from twusage.cli.call import Access, call_options
from twusage.cli.exit_codes import print_error
from twusage.cli.options import credentials, every_option, run_with_client
from twusage.cli.store import history_option, opened
from twusage.client import UsageClient
from twusage.errors import ConfigurationError
from twusage.retry import RetryPolicy

__all__ = ["serve"]

_PASSWORD_VARIABLE = "TWUSAGE_SERVE_PASSWORD"  # noqa: S105 - the name of a variable
_LEAST_PASSWORD = 16
_MOST_PASSWORD = 4096
# A poll that waits longer would hide why there are no new numbers.
_RETRY = RetryPolicy(max_wait=30)


@click.command(short_help="Serve one page for the whole team, with JSON and metrics.")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="HOST", help="The address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8081, show_default=True, metavar="PORT", help="0 takes a free one."
)
@every_option("5m")
@history_option
@click.option("--title", metavar="TEXT", help="The heading of the page.  [default: the project's id]")
@click.option(
    "--allow-host",
    "allowed",
    multiple=True,
    metavar="NAME",
    help="A name by which browsers reach the page, such as usage.example.org; may be repeated.",
)
@click.option(
    "--password-file",
    metavar="PATH",
    help="Demand the password in this file, with any user name. TWUSAGE_SERVE_PASSWORD holds one, too.",
)
@click.option(
    "--metrics-apps",
    type=click.IntRange(0, 10_000),
    default=50,
    show_default=True,
    metavar="N",
    help="Client apps with a metric of their own; the others are summed up.",
)
@call_options
@click.pass_context
def serve(
    ctx: click.Context,
    /,
    *,
    access: Access,
    host: str,
    port: int,
    every: float,
    url: str | None,
    title: str | None,
    allowed: tuple[str, ...],
    password_file: str | None,
    metrics_apps: int,
) -> None:
    """Serve one page for the whole team, with JSON, CSV and Prometheus metrics, until Ctrl-C.

    \b
    $ twusage serve --demo
    $ twusage serve --every 5m --history sqlite:///usage.db
    $ twusage serve --host 0.0.0.0 --allow-host example.org --password-file secret

    It calls the API every five minutes, however many people look at it. By default, only this machine can reach it.
    Elsewhere it demands a password of at least 16 characters; a reverse proxy adds TLS. SIGTERM ends it with 0.
    """  # noqa: D301 - click's mark for lines that are not wrapped
    try:
        import_module("twusage.dashboard.site")
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"serve needs {error.name}: pip install 'twusage[serve]'") from None
    from twusage.dashboard.guards import is_loopback

    password = _password(password_file)
    if password is None and not is_loopback(host):
        raise click.UsageError(
            "--host lets other machines in: set a password of at least 16 characters in TWUSAGE_SERVE_PASSWORD or "
            "--password-file"
        )
    job = _Job(access, host, port, every, url, title, allowed, password, metrics_apps)
    keywords = access.client_keywords()
    if access.token_file not in {None, "-"}:
        keywords["auth"] = _TokenFile(str(access.token_file))
    with suppress(asyncio.CancelledError):  # SIGTERM
        run_with_client(job.run, retry=_RETRY, **keywords)
    ctx.exit(0)


def _password(path: str | None) -> str | None:
    """The password of the file or the environment; neither is quoted in an error."""
    if path is None:
        text = os.environ.get(_PASSWORD_VARIABLE, "")
        if not text:
            return None
    else:
        try:
            with open(path, encoding="utf-8") as file:  # noqa: PTH123 - the path is not shown
                text = file.read(_MOST_PASSWORD)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise click.UsageError(f"the file of --password-file cannot be read: {reason}") from None
        text = text.removesuffix("\n").removesuffix("\r")
    if len(text) < _LEAST_PASSWORD:
        raise click.UsageError(f"the password must have at least {_LEAST_PASSWORD} characters")
    return text


class _TokenFile:
    """The token of a file, read for each request: a rotated token needs no restart."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def token(self) -> Secret:
        return Secret(credentials(self._path)["auth"])


@define
class _Job:
    access: Access
    host: str
    port: int
    every: float
    url: str | None
    title: str | None
    allowed: tuple[str, ...]
    password: str | None
    metrics_apps: int

    async def run(self, client: UsageClient) -> None:
        from twusage.dashboard.guards import Guard, is_loopback
        from twusage.dashboard.poller import Poller
        from twusage.dashboard.server import serving
        from twusage.dashboard.site import Site

        task = asyncio.current_task()
        assert task is not None  # on a loop there is one
        with suppress(NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        async with AsyncExitStack() as stack:
            history = None if self.url is None else await stack.enter_async_context(opened(self.url))
            poller = Poller(client, every=self.every, history=history)
            site = Site(
                poller,
                Guard((self.host, *self.allowed), self.password),
                title=self.title,
                names=self.access.names,
                metrics_apps=self.metrics_apps,
            )
            port = await stack.enter_async_context(serving(site.handle, self.host, self.port))
            poller.start()
            stack.push_async_callback(poller.stop)
            shown = f"[{self.host}]" if ":" in self.host else self.host
            click.echo(f"The page is at http://{shown}:{port}/ until Ctrl-C.")
            if not is_loopback(self.host):
                print_error("the password and the page travel in clear: put a reverse proxy with TLS in front")
            await asyncio.Event().wait()
