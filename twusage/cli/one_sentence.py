"""click's complaints as one sentence, without what may be a token."""

from __future__ import annotations

import re

import click

__all__ = ["one_sentence"]

# A token typed in the wrong place would be quoted, and from there go into the log of a CI.
# The names of our own variables are as long, and have to stay readable.
_MAYBE_A_TOKEN = re.compile(r"(?<![^\s'\"()])(?!TWUSAGE_[A-Z_]+\b)[^\s'\"()]{20,}")


def one_sentence(error: click.ClickException) -> str:
    """The complaint, and where the options are explained."""
    said = _MAYBE_A_TOKEN.sub("[...]", error.format_message()).rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{said} (see '{context.command_path} --help')" if context else said
