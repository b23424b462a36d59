"""The command group: exit codes, and click's error messages."""

from __future__ import annotations

import re
import sys
from functools import partial
from typing import Any, NoReturn

import click

from twusage._version import __version__
from twusage.cli.doctor import doctor
from twusage.cli.exit_codes import EXITS, exit_code, print_error, run_to_exit_code
from twusage.cli.fake import fake
from twusage.cli.show import show

__all__ = ["twusage"]

# click quotes an invalid argument, which may be a token by mistake. It must not get into the log of a CI job.
_MAYBE_A_TOKEN = re.compile(r"[^\s'\"()]{20,}")


class _Commands(click.Group):
    """A command group that always exits with a code of the table, and prints at most one sentence on stderr."""

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        try:
            # Standalone, click reports a wrong option in several lines.
            code = super().main(*args, **extra | {"standalone_mode": False})
        except click.ClickException as error:
            print_error(_one_sentence(error))
            code = error.exit_code
        except click.Abort:  # Ctrl-C before a command has begun
            code = exit_code(KeyboardInterrupt())
        sys.exit(code)

    def invoke(self, ctx: click.Context) -> NoReturn:
        ctx.exit(run_to_exit_code(partial(super().invoke, ctx)))


def _one_sentence(error: click.ClickException) -> str:
    message = _MAYBE_A_TOKEN.sub("[...]", error.format_message()).rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{message} (see '{context.command_path} --help')" if context else message


_EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {end.code:>3}  {end.meaning}" for end in EXITS)
show.epilog = doctor.epilog = _EPILOG


@click.group(cls=_Commands, epilog=_EPILOG, invoke_without_command=True)
@click.version_option(__version__, prog_name="twusage", message="%(prog)s %(version)s")
@click.pass_context
def twusage(ctx: click.Context) -> None:
    """How much of its monthly cap of the X/Twitter API your project has used.

    The app-only bearer token is read from the environment: X_BEARER_TOKEN, TWITTER_BEARER_TOKEN or BEARER_TOKEN, the
    first that is set; otherwise an API key and its secret: X_API_KEY and X_API_SECRET.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


twusage.add_command(show)
twusage.add_command(doctor)
twusage.add_command(fake)
