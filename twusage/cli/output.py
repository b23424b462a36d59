"""What a command writes on stdout, whatever that is: a terminal, a pipe, a file, or closed."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.text import Text

from twusage.cli.exit_codes import discard_stdout

__all__ = ["is_ascii_only", "page", "write"]

# What Python sets LC_CTYPE to when it finds the C locale (PEP 538): the terminal's own setting is then unknown.
_COERCED = {"C.UTF-8", "C.utf8", "UTF-8"}


def page(text: Callable[[int, bool], Text]) -> str:
    """A text, made for so many columns and, if that is true, for ASCII only, as what is written on this stdout."""
    screen = Console()
    paper = io.StringIO()  # not stdout itself, on which rich has its own way with a broken pipe
    # Soft: what does not fit is wrapped by the terminal. A number that is cut short would lie.
    content = text(screen.width, is_ascii_only(os.environ))
    Console(file=paper, force_terminal=screen.is_terminal).print(content, soft_wrap=True)
    return paper.getvalue()


def is_ascii_only(environ: Mapping[str, str]) -> bool:
    """Return whether stdout cannot encode blocks, or the locale is C: its terminal takes UTF-8 for control codes."""
    try:
        "█".encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return True
    ctype = environ.get("LC_CTYPE")
    if sys.flags.utf8_mode and ctype in _COERCED:
        ctype = _ctype_at_start()
    return (environ.get("LC_ALL") or ctype or environ.get("LANG")) in {"C", "POSIX"}


def _ctype_at_start() -> str | None:
    """Return LC_CTYPE as it was before Python set it, where the system tells."""
    with suppress(OSError):
        for entry in Path("/proc/self/environ").read_bytes().split(b"\0"):
            if entry.startswith(b"LC_CTYPE="):
                return entry.partition(b"=")[2].decode("ascii", "replace")
    return None


def write(text: str) -> None:
    """Write it, with escapes for what the encoding lacks."""
    # Not click.echo: it would write UTF-8 where ASCII is asked for, and judge the colours once more.
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        if sys.stdout is not None:  # closed with >&-
            sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
            sys.stdout.flush()
    except OSError as error:
        discard_stdout()
        # Of a broken pipe, this makes a BrokenPipeError again.
        raise OSError(error.errno, f"the output cannot be written: {error.strerror}") from None
