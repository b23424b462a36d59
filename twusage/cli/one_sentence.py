"""click's error messages as one sentence, with possible tokens redacted."""

from __future__ import annotations

import re

import click

__all__ = ["one_sentence"]

# click quotes arguments: a token typed in the wrong place would reach the log of a CI job.
# The names of our own variables are as long, but must stay readable.
_MAYBE_A_TOKEN = re.compile(r"(?<![^\s'\"()])(?!TWUSAGE_[A-Z_]+\b)[^\s'\"()]{20,}")


def one_sentence(error: click.ClickException) -> str:
    """Return the error's message, and a reference to the command's help."""
    message = _MAYBE_A_TOKEN.sub("[...]", error.format_message()).rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{message} (see '{context.command_path} --help')" if context else message
