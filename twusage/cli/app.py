"""The command group: exit codes, and click's error messages."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any, NoReturn

import click

from twusage._version import __version__
from twusage.cli.check import check
from twusage.cli.doctor import doctor
from twusage.cli.exit_codes import EXITS, exit_code, print_error, run_to_exit_code
from twusage.cli.fake import fake
from twusage.cli.forecast import forecast
from twusage.cli.history import history
from twusage.cli.one_sentence import one_sentence
from twusage.cli.options import trust_env_option
from twusage.cli.report import report
from twusage.cli.serve import serve
from twusage.cli.show import show
from twusage.cli.watch import watch

__all__ = ["twusage"]


class _Commands(click.Group):
    """A group that always exits with a code of the table. It prints at most one sentence on stderr."""

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        try:
            # Standalone, click reports a wrong option in several lines.
            code = super().main(*args, **extra | {"standalone_mode": False})
        except click.ClickException as error:
            print_error(one_sentence(error))
            code = error.exit_code
        except click.Abort:  # Ctrl-C before a command has begun
            code = exit_code(KeyboardInterrupt())
        sys.exit(code)

    def invoke(self, ctx: click.Context) -> NoReturn:
        ctx.exit(run_to_exit_code(partial(super().invoke, ctx)))


_EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {end.code:>3}  {end.meaning}" for end in EXITS)
for command in (show, forecast, watch, serve, report, doctor, *history.commands.values()):
    command.epilog = _EPILOG


@click.group(cls=_Commands, epilog=_EPILOG, invoke_without_command=True)
@trust_env_option
@click.version_option(__version__, prog_name="twusage", message="%(prog)s %(version)s")
@click.pass_context
def twusage(ctx: click.Context) -> None:
    """Report your X/Twitter API usage, and whether the monthly cap will last.

    \b
    $ twusage show --demo

    The app-only bearer token is read from the environment: X_BEARER_TOKEN, TWITTER_BEARER_TOKEN or BEARER_TOKEN, the
    first that is set; otherwise an API key and its secret: X_API_KEY and X_API_SECRET. X_BEARER_TOKEN_FILE and
    TWITTER_BEARER_TOKEN_FILE are paths of files with the token.
    """  # noqa: D301 - click's mark for lines that are not wrapped
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for command in (show, forecast, check, watch, serve, report, history, doctor, fake):
    twusage.add_command(command)
