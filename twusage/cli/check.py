"""``twusage check``: a monitoring plugin that prints one line."""

from __future__ import annotations

import os
import threading
from enum import IntEnum
from typing import Any

import click
from attrs import frozen

from twusage.cli.call import Access, call_options, fetched
from twusage.cli.exit_codes import EXITS, exit_code
from twusage.cli.one_sentence import one_sentence
from twusage.cli.output import write
from twusage.display.format import cut, day_name, number, percent, printable, whole_percent
from twusage.display.view import View, view_of
from twusage.errors import ApiError, QuotaError, TwUsageError
from twusage.retry import RetryPolicy

__all__ = ["check"]

_TIMEOUT = 10.0
"""Seconds for one request."""
_DEADLINE = 15.0
"""Seconds for everything: monitoring systems stop a check after 30 to 60 s, and then report nothing useful."""
_MAX_WIDTH = 80


class Level(IntEnum):
    """The exit codes of monitoring plugins."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


@frozen
class Result:
    """The result of a check, in a sentence."""

    level: Level
    message: str
    perfdata: str = ""

    @property
    def line(self) -> str:
        """The line on stdout."""
        line = cut(printable(f"{self.level.name}: {self.message}"), _MAX_WIDTH)
        return f"{line} | {self.perfdata}" if self.perfdata else line


class _Check(click.Command):
    """A command whose errors are UNKNOWN.

    click's exit code for a wrong option is 2, which a monitoring system reads as CRITICAL.
    """

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        try:
            return super().make_context(*args, **extra)
        except (click.ClickException, TwUsageError) as error:
            message = one_sentence(error) if isinstance(error, click.ClickException) else str(error)
            raise _end(Result(Level.UNKNOWN, message)) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            raise _end(Result(Level.UNKNOWN, one_sentence(error))) from None


@click.command(
    cls=_Check,
    short_help="One line and an exit code, for monitoring systems.",
    context_settings={"default_map": {"timeout": _TIMEOUT}},
)
@click.option(
    "-w",
    "--warning",
    type=click.FloatRange(min=0),
    default=80,
    show_default=True,
    metavar="PERCENT",
    help="Report WARNING from this used part of the cap on.",
)
@click.option(
    "-c",
    "--critical",
    type=click.FloatRange(min=0),
    default=95,
    show_default=True,
    metavar="PERCENT",
    help="Report CRITICAL from this used part of the cap on.",
)
@click.option("--no-forecast", is_flag=True, help="Do not warn if even the low end of the forecast reaches the cap.")
@click.option("--perfdata", is_flag=True, help="Add performance data: ' | used=... forecast=...'.")
@call_options
def check(*, access: Access, warning: float, critical: float, no_forecast: bool, perfdata: bool) -> None:
    """Check the cap once, for cron, Nagios, Icinga, Zabbix and the like.

    \b
    $ twusage check -w 80 -c 95 --perfdata
    $ twusage check --demo

    Prints one line on stdout, and ends within 16 s. A used-up cap is CRITICAL, and so are the other causes that stop
    reads (credits, a spending limit); every other error is UNKNOWN, wrong options included.
    """  # noqa: D301 - click's mark for lines that are not wrapped
    if warning > critical:
        raise click.UsageError(f"-w must be at most -c, got {warning:g} and {critical:g}")
    limits = _Limits(warning / 100, critical / 100, forecast=not no_forecast)
    results: list[Result] = []
    worker = threading.Thread(target=lambda: results.append(_run_check(access, limits)), daemon=True)
    worker.start()
    worker.join(_DEADLINE)
    if not results:
        # An unresponsive name server blocks a thread, for which the interpreter would wait at exit.
        result = Result(Level.UNKNOWN, f"no response within {_DEADLINE:g} s")
        write(f"{result.line}\n")
        os._exit(result.level)
    result = results[0]
    raise _end(result if perfdata else Result(result.level, result.message))


@frozen
class _Limits:
    """Fractions of the cap."""

    warning: float
    critical: float
    forecast: bool


def _end(result: Result) -> click.exceptions.Exit:
    try:
        write(f"{result.line}\n")
    except OSError:
        # The line is lost: exit code 1 would read as WARNING.
        return click.exceptions.Exit(int(Level.UNKNOWN))
    return click.exceptions.Exit(int(result.level))


def _run_check(access: Access, limits: _Limits) -> Result:
    try:
        usage = fetched(access, retry=RetryPolicy.none(), quiet=True)
        return _judge(view_of(usage, now=usage.fetched_at), limits)
    except QuotaError as error:
        return Result(Level.CRITICAL, _meaning(error))
    except (TwUsageError, OSError) as error:
        return Result(Level.UNKNOWN, _meaning(error))
    except Exception as error:  # noqa: BLE001 - a monitoring system gets its line in any case
        return Result(Level.UNKNOWN, f"{type(error).__name__}: {error}")


def _meaning(error: TwUsageError | OSError) -> str:
    """Return the meaning of the exit code, and the status. They fit on a line."""
    code = exit_code(error)
    if code < 3:
        return str(error)
    meaning = next(end.meaning for end in EXITS if end.code == code)
    return f"{meaning} ({error.status})" if isinstance(error, ApiError) else meaning


def _judge(view: View, limits: _Limits) -> Result:
    ahead, usage, cycle = view.forecast, view.usage, view.cycle
    cap, used = usage.project_cap, usage.project_usage
    if cap is None or used is None:
        return Result(Level.UNKNOWN, view.verdict.headline)
    perfdata = _perfdata(used, cap, ahead.expected, limits)
    if used >= cap:
        resets = "" if cycle is None else f", resets {day_name(cycle.end)}"
        return Result(Level.CRITICAL, f"cap used up, {number(used)} of {number(cap)}{resets}", perfdata)
    fraction = used / cap
    level, limit = Level.OK, ""
    if fraction >= limits.critical:
        level, limit = Level.CRITICAL, f" (critical from {limits.critical * 100:g}%)"
    elif fraction >= limits.warning:
        level, limit = Level.WARNING, f" (warning from {limits.warning * 100:g}%)"
    message = f"{percent(fraction)} used{limit}"
    if cycle is not None and view.expected_fraction is not None:
        message += f", forecast {whole_percent(view.expected_fraction)} by {day_name(cycle.end)}"
    if ahead.low is not None and ahead.low >= cap and limits.forecast:
        level = max(level, Level.WARNING)
        if ahead.exhausts_on is not None and not limit:
            message += f", runs out {day_name(ahead.exhausts_on)}"
    return Result(level, message, perfdata)


def _perfdata(used: int, cap: int, expected: int | None, limits: _Limits) -> str:
    warning, critical = round(limits.warning * cap), round(limits.critical * cap)
    text = f"used={used};{warning};{critical};0;{cap}"
    return text if expected is None else f"{text} forecast={expected};;;0;{cap}"
