"""Write to stdout, which may be a terminal, a pipe, a file, or closed."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.text import Text

from twusage.cli.exit_codes import discard_stdout
from twusage.display.bars import Screen

__all__ = ["is_terminal", "page", "screen_of", "write"]


def is_terminal() -> bool:
    """Return whether stdout is a terminal that supports escape codes."""
    screen = Console()
    return screen.is_terminal and not screen.is_dumb_terminal


def screen_of() -> Screen:
    """Return what stdout can show."""
    screen = Console()
    color = is_terminal() and not screen.no_color
    return Screen(width=screen.width, color=color, ascii_only=_is_ascii_only(os.environ))


def page(text: Callable[[Screen], Text]) -> str:
    """Return the text for this stdout, with escape codes if it shows colours."""
    screen = screen_of()
    content = text(screen)
    if not screen.color:
        return f"{content.plain}\n"
    paper = io.StringIO()  # not stdout, because rich handles a broken pipe in its own way
    # 256 colours whatever TERM is: the 16 colours of a terminal may be anything, and some are unreadable on white.
    console = Console(file=paper, force_terminal=True, color_system="256", width=screen.width)
    console.print(content, soft_wrap=True, highlight=False)
    return paper.getvalue()


def write(text: str) -> None:
    """Write the text, with escapes for characters that the encoding does not have."""
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


def _is_ascii_only(environ: Mapping[str, str]) -> bool:
    """Return whether stdout cannot encode blocks, or the locale is C."""
    try:
        "█".encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return True
    names = ["LC_ALL", "LC_CTYPE", "LANG"]
    if sys.flags.utf8_mode and environ.get("PYTHONUTF8") != "1" and environ.get("LC_CTYPE") == "C.UTF-8":
        names.remove("LC_CTYPE")  # Python has set it itself, because it found the C locale (PEP 538, PEP 540)
    return next((environ[name] for name in names if environ.get(name)), "") in {"C", "POSIX"}
