"""Write to stdout: a terminal, a pipe, a file, or closed."""

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
from twusage.display.bars import Screen

__all__ = ["is_ascii_only", "is_terminal", "page", "screen_of", "write"]

# What Python sets LC_CTYPE to when it finds the C locale (PEP 538): the terminal's own setting is then unknown.
_COERCED = {"C.UTF-8", "C.utf8", "UTF-8"}


def is_terminal() -> bool:
    """Return whether stdout is a terminal that supports escape codes."""
    screen = Console()
    return screen.is_terminal and not screen.is_dumb_terminal


def screen_of() -> Screen:
    """Return what stdout can show."""
    screen = Console()
    color = is_terminal() and not screen.no_color
    return Screen(width=screen.width, color=color, ascii_only=is_ascii_only(os.environ))


def page(text: Callable[[Screen], Text]) -> str:
    """Return the text for this stdout, in colour if it has colours."""
    screen = screen_of()
    content = text(screen)
    if not screen.color:
        return f"{content.plain}\n"
    paper = io.StringIO()  # not stdout, because rich handles a broken pipe in its own way
    # 256 colours whatever TERM is: the 16 colours of a terminal may be anything, and some are unreadable on white.
    console = Console(file=paper, force_terminal=True, color_system="256", width=screen.width)
    console.print(content, soft_wrap=True, highlight=False)
    return paper.getvalue()


def is_ascii_only(environ: Mapping[str, str]) -> bool:
    """Return whether stdout is ASCII only. In the C locale, a terminal takes UTF-8 for control codes."""
    try:
        "█".encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return True
    ctype = environ.get("LC_CTYPE")
    if sys.flags.utf8_mode and ctype in _COERCED:
        ctype = _ctype_at_start()
    return (environ.get("LC_ALL") or ctype or environ.get("LANG")) in {"C", "POSIX"}


def _ctype_at_start() -> str | None:
    """Return LC_CTYPE before Python set it, if the system provides it."""
    with suppress(OSError):
        for entry in Path("/proc/self/environ").read_bytes().split(b"\0"):
            if entry.startswith(b"LC_CTYPE="):
                return entry.partition(b"=")[2].decode("ascii", "replace")
    return None


def write(text: str) -> None:
    """Write the text, and escape characters that the encoding does not have."""
    # Not click.echo, which would write UTF-8 to an ASCII stdout, and decide about colours again.
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        if sys.stdout is not None:  # closed with >&-
            sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
            sys.stdout.flush()
    except OSError as error:
        discard_stdout()
        # For a broken pipe this creates a BrokenPipeError again.
        raise OSError(error.errno, f"the output cannot be written: {error.strerror}") from None
