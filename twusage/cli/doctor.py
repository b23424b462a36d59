"""``twusage doctor``: its options, one check, and its output. The findings are made in ``diagnostics``."""

from __future__ import annotations

import json
import os
import textwrap
from typing import Any

import click
from attrs import evolve
from rich.text import Text

from twusage.cli.exit_codes import exit_code
from twusage.cli.options import access_options, place_of, read_token, run_with_client
from twusage.cli.output import page, write
from twusage.client import UsageClient
from twusage.diagnostics.credentials import check_address, check_environment, finding_of, malformed_proxy
from twusage.diagnostics.report import CheckReport, Finding, report_without_call
from twusage.display.format import printable
from twusage.display.terminal import AMBER, GREEN, RED
from twusage.errors import ConfigurationError
from twusage.token_file import Flaw

__all__ = ["doctor"]

_STYLES = {"ok": GREEN, "warning": AMBER, "error": f"bold {RED}"}
# Longer lines are not easier to read.
_MAX_WIDTH = 100
# Below this width, messages beside the subjects would be columns of single words.
_MIN_COLUMNS = 60
# Options of the command, which the findings of the SDK do not name.
_OPTIONS = {
    "network.timeout": "--timeout 60",
    "window.spent": "twusage show --max-wait 960 waits for it",
    "proxy.login": "--proxy URL",
    "proxy.unreachable": "--proxy URL",
    "proxy.not-used": "--trust-env",
}


@click.command(short_help="Find out what is wrong with the set-up.")
@access_options
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON, with a code for each.")
@click.pass_context
def doctor(ctx: click.Context, *, token_file: str | None, proxy: str | None, timeout: float, as_json: bool) -> None:
    """Check the credentials and the connection; report problems and advice.

    \b
    $ twusage doctor

    Uses at most one call of GET /2/usage/tweets, of which an app has 50 in 15 minutes; none if the credentials are
    missing or malformed. It does not retry, and waits only for the response.

    The credentials are those of twusage show. No part of them is shown. Warnings alone are not a failure.
    """  # noqa: D301 - click's mark for lines that are not wrapped
    report = _check(token_file, proxy=proxy, timeout=timeout)
    report = evolve(report, findings=tuple(map(_with_option, report.findings)))
    if as_json:
        # ASCII only, as in show.
        write(json.dumps(report.to_dict(), indent=2) + "\n")
    else:
        write(page(lambda screen: _format_report(report, width=min(screen.width, _MAX_WIDTH))))
    ctx.exit(0 if report.error is None else exit_code(report.error))


def _check(token_file: str | None, **keywords: Any) -> CheckReport:
    if token_file is None:
        found = check_environment(os.environ)
    else:
        token = read_token(token_file)
        if isinstance(token, Flaw):
            return report_without_call(*check_address(os.environ), finding_of(token))
        message = f"the bearer token comes from {place_of(token_file)}"
        found = (*check_address(os.environ), Finding("credentials.found", "ok", message))
        keywords["auth"] = token
    if any(finding.level == "error" for finding in found):
        return report_without_call(*found)
    try:
        report = run_with_client(UsageClient.check, **keywords)
    except ConfigurationError as error:  # With --trust-env, the environment's proxy.
        return report_without_call(*found, malformed_proxy(error), error=error)
    return evolve(report, findings=(*found, *report.findings))


def _with_option(finding: Finding) -> Finding:
    option = _OPTIONS.get(finding.code)
    return evolve(finding, advice=f"{finding.advice} ({option})") if option and finding.advice else finding


def _format_report(report: CheckReport, *, width: int) -> Text:
    subjects = max(len(finding.subject) for finding in report.findings)
    indent = 2 if width < _MIN_COLUMNS else 11 + subjects
    lines = []
    for finding in report.findings:
        head = Text.assemble((f"{finding.level:7}", _STYLES[finding.level]), f"  {finding.subject:{subjects}}")
        message, advice = (_wrap(text, width, indent) for text in (finding.message, finding.advice))
        if width >= _MIN_COLUMNS:
            head.append("  " + message.pop(0).strip())
        head.rstrip()
        lines += [head, *map(Text, message), *(Text(line, "bold") for line in advice)]
    return Text("\n").join([*lines, Text(""), _summary(report)])


def _wrap(text: str, width: int, indent: int) -> list[str]:
    margin = " " * indent
    return textwrap.wrap(
        printable(text),
        width,
        initial_indent=margin,
        subsequent_indent=margin,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _summary(report: CheckReport) -> Text:
    counts = [(level, sum(finding.level == level for finding in report.findings)) for level in ("error", "warning")]
    parts = [f"{count} {level}{'s' if count > 1 else ''}" for level, count in counts if count]
    return Text(f"{', '.join(parts) or 'No problems found'}.", "bold")
