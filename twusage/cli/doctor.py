"""``twusage doctor``: its options, a check-up, and how that is shown. What it finds is ``checkup``'s business."""

from __future__ import annotations

import json
import os
import textwrap
from typing import Any

import click
from attrs import evolve
from rich.text import Text

from twusage.cli.exit_codes import exit_code, printable
from twusage.cli.options import access_options, asked, token_text
from twusage.cli.output import page, write
from twusage.client import UsageClient
from twusage.diagnostics.explain import Checkup, Finding, read_address, read_environment, read_token_text, unasked
from twusage.errors import ConfigurationError

__all__ = ["doctor"]

_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}
# Beyond this, a sentence is no easier to read.
_WIDEST = 100
# Below this, sentences beside the subjects would be columns of single words.
_NARROW = 60


@click.command(short_help="Tell what is wrong with the set-up, and what helps.")
@access_options
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON, with a code for each.")
@click.pass_context
def doctor(ctx: click.Context, *, token_file: str | None, proxy: str | None, timeout: float, as_json: bool) -> None:
    """Check the credentials and the way to the API, and tell in plain words what is wrong and what helps.

    At most one call of GET /2/usage/tweets, of which an app has 50 in 15 minutes; none where the credentials cannot
    work at all. It waits for nothing but the answer.

    The credentials come from where show takes them. No part of them is ever shown. Warnings alone are no failure.
    """
    checkup = _checkup(token_file, proxy=proxy, timeout=timeout)
    if as_json:
        # ASCII only, as show has it.
        write(json.dumps(checkup.to_dict(), indent=2) + "\n")
    else:
        write(page(lambda screen: _report(checkup, width=min(screen.width, _WIDEST))))
    ctx.exit(0 if checkup.error is None else exit_code(checkup.error))


def _checkup(token_file: str | None, **keywords: Any) -> Checkup:
    token = None
    if token_file is None:
        found = read_environment(os.environ)
    else:
        try:
            token = token_text(token_file)
        except ConfigurationError as error:
            said, _, what_to_do = str(error).partition(". ")
            return unasked(Finding("token.file", "error", said, what_to_do))
        place = {"-": "stdin"}.get(token_file, "the file")
        found = (*read_address(os.environ), read_token_text(token, place) or _found_in(place))
    if any(finding.level == "error" for finding in found):
        return unasked(*found)
    if token is not None:
        keywords["auth"] = token
    checkup = asked(UsageClient.check, **keywords)
    return evolve(checkup, findings=(*found, *checkup.findings))


def _found_in(place: str) -> Finding:
    return Finding("credentials.found", "ok", f"the bearer token comes from {place}")


def _report(checkup: Checkup, *, width: int) -> Text:
    subjects = max(len(finding.subject) for finding in checkup.findings)
    indent = 2 if width < _NARROW else 11 + subjects
    lines = []
    for finding in checkup.findings:
        head = Text.assemble((f"{finding.level:7}", _STYLES[finding.level]), f"  {finding.subject:{subjects}}")
        said, helps = (_wrapped(text, width, indent) for text in (finding.said, finding.what_to_do))
        if width >= _NARROW:
            head.append("  " + said.pop(0).strip())
        head.rstrip()
        lines += [head, *map(Text, said), *(Text(line, "bold") for line in helps)]
    return Text("\n").join([*lines, Text(""), _verdict(checkup)])


def _wrapped(text: str, width: int, indent: int) -> list[str]:
    margin = " " * indent
    return textwrap.wrap(
        printable(text),
        width,
        initial_indent=margin,
        subsequent_indent=margin,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _verdict(checkup: Checkup) -> Text:
    wrong = sum(finding.level == "error" for finding in checkup.findings)
    warnings = sum(finding.level == "warning" for finding in checkup.findings)
    if not wrong:
        return Text("Nothing is wrong." if warnings else "All is well.", "bold")
    return Text("One thing is wrong." if wrong == 1 else f"{wrong} things are wrong.", "bold")
