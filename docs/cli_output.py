"""Writes the real output of the commands with ``--demo`` into docs/cli.md: ``python docs/cli_output.py``.

With ``--check`` it only compares, and exits with 1 if a page is out of date; a test does so.
"""

from __future__ import annotations

import datetime as dt
import re
import shlex
import sys
from pathlib import Path

from click.testing import CliRunner

from twusage.cli.app import twusage
from twusage.clock import SystemClock
from twusage.testing import api

DOCS = Path(__file__).parent
PAGES = (DOCS / "cli.md",)
NOW = dt.datetime(2026, 11, 25, 14, 10, tzinfo=dt.UTC)
BLOCK = re.compile(r"(?<=```console\n).*?(?=^```$)", re.DOTALL | re.MULTILINE)
EXAMPLE = re.compile(r"^\$ twusage (?P<arguments>[^|\n]*--demo[^|\n]*)\n(?P<output>(?:(?!\$ ).*\n)*)", re.MULTILINE)


def run(arguments: str, *, color: bool = False) -> str:
    """Return what the command prints at ``NOW``, 80 columns wide."""
    SystemClock.time = lambda _: NOW.timestamp()  # type: ignore[method-assign,assignment]
    api._SERIAL = iter(range(1, 100))  # type: ignore[assignment]  # noqa: SLF001 - the ids of a fresh process
    variables = {"COLUMNS": "80", "LANG": "C.UTF-8", "LC_ALL": None, "LC_CTYPE": None, "NO_COLOR": None}
    variables |= {"FORCE_COLOR": "1", "TERM": "xterm-256color"} if color else {"FORCE_COLOR": None}
    return CliRunner().invoke(twusage, shlex.split(arguments), env=variables, color=color).stdout


def renewed(page: str) -> str:
    """Return the page with the present output of its examples."""

    def example(match: re.Match[str]) -> str:
        return f"$ twusage {match['arguments']}\n{run(match['arguments'])}"

    return BLOCK.sub(lambda block: EXAMPLE.sub(example, block[0]), page)


def main() -> int:
    """Renew the page, or only compare it."""
    stale = [path for path in PAGES if renewed(text := path.read_text(encoding="utf-8")) != text]
    if "--check" not in sys.argv:
        for path in stale:
            path.write_text(renewed(path.read_text(encoding="utf-8")), encoding="utf-8")
        return 0
    sys.stderr.writelines(f"{path.name} is out of date: python docs/cli_output.py\n" for path in stale)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
