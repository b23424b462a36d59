"""``twusage check``: one line and an exit code for monitoring systems, by the convention of their plugins."""

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
_WIDEST = 80


class Level(IntEnum):
    """The exit codes of monitoring plugins."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


@frozen
class Result:
    """What a check found, in a sentence."""

    level: Level
    said: str
    perfdata: str = ""

    @property
    def line(self) -> str:
        """The line on stdout."""
        line = cut(printable(f"{self.level.name}: {self.said}"), _WIDEST)
        return f"{line} | {self.perfdata}" if self.perfdata else line


class _Check(click.Command):
    """A command whose every error is UNKNOWN: the exit code 2 of a wrong option would read as CRITICAL."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        try:
            return super().make_context(*args, **extra)
        except (click.ClickException, TwUsageError) as error:
            said = one_sentence(error) if isinstance(error, click.ClickException) else str(error)
            raise _end(Result(Level.UNKNOWN, said)) from None

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
    help="Used part of the cap that is a WARNING.",
)
@click.option(
    "-c",
    "--critical",
    type=click.FloatRange(min=0),
    default=95,
    show_default=True,
    metavar="PERCENT",
    help="Used part of the cap that is CRITICAL.",
)
@click.option("--no-forecast", is_flag=True, help="Do not warn if even the low end of the forecast reaches the cap.")
@click.option("--perfdata", is_flag=True, help="Add performance data: ' | used=... forecast=...'.")
@call_options
def check(*, access: Access, warning: float, critical: float, no_forecast: bool, perfdata: bool) -> None:
    """Check the cap once, for cron, Nagios, Icinga, Zabbix and the like.

    \b
    $ twusage check -w 80 -c 95 --perfdata
    $ twusage check --demo

    Prints one line on stdout, and ends within 16 s. A used-up cap is CRITICAL, and so is whatever stops the reading
    otherwise (credits, a spending limit); every other error is UNKNOWN, wrong options included.
    """  # noqa: D301 - click's mark for lines that are not wrapped
    if warning > critical:
        raise click.UsageError(f"-w must be at most -c, got {warning:g} and {critical:g}")
    limits = _Limits(warning / 100, critical / 100, forecast=not no_forecast)
    found: list[Result] = []
    worker = threading.Thread(target=lambda: found.append(_checked(access, limits)), daemon=True)
    worker.start()
    worker.join(_DEADLINE)
    if not found:
        # A name server that does not answer blocks a thread, for which the interpreter would wait.
        result = Result(Level.UNKNOWN, f"no response within {_DEADLINE:g} s")
        write(f"{result.line}\n")
        os._exit(result.level)
    result = found[0]
    raise _end(result if perfdata else Result(result.level, result.said))


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


def _checked(access: Access, limits: _Limits) -> Result:
    try:
        usage = fetched(access, retry=RetryPolicy.none(), quiet=True)
        return _judged(view_of(usage, now=usage.fetched_at), limits)
    except QuotaError as error:
        return Result(Level.CRITICAL, _meaning(error))
    except (TwUsageError, OSError) as error:
        return Result(Level.UNKNOWN, _meaning(error))
    except Exception as error:  # noqa: BLE001 - whatever happens, a monitoring system gets its line
        return Result(Level.UNKNOWN, f"{type(error).__name__}: {error}")


def _meaning(error: TwUsageError | OSError) -> str:
    """The meaning of its exit code, which fits into a line, and the status."""
    code = exit_code(error)
    if code < 3:
        return str(error)
    meaning = next(end.meaning for end in EXITS if end.code == code)
    return f"{meaning} ({error.status})" if isinstance(error, ApiError) else meaning


def _judged(view: View, limits: _Limits) -> Result:
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
    said = f"{percent(fraction)} used{limit}"
    if cycle is not None and view.expected_fraction is not None:
        said += f", forecast {whole_percent(view.expected_fraction)} by {day_name(cycle.end)}"
    if ahead.low is not None and ahead.low >= cap and limits.forecast:
        level = max(level, Level.WARNING)
        if ahead.exhausts_on is not None and not limit:
            said += f", runs out {day_name(ahead.exhausts_on)}"
    return Result(level, said, perfdata)


def _perfdata(used: int, cap: int, expected: int | None, limits: _Limits) -> str:
    warning, critical = round(limits.warning * cap), round(limits.critical * cap)
    text = f"used={used};{warning};{critical};0;{cap}"
    return text if expected is None else f"{text} forecast={expected};;;0;{cap}"
