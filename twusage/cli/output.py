"""What a command writes on stdout, whatever that is: a terminal, a pipe, a file, or closed."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

from rich.console import Console
from rich.text import Text

from twusage.cli.exit_codes import discard_stdout

__all__ = ["page", "write"]


def page(text: Callable[[int, bool], Text]) -> str:
    """A text, made for so many columns and, if that is true, for ASCII only, as what is written on this stdout."""
    screen = Console()
    paper = io.StringIO()  # not stdout itself, on which rich has its own way with a broken pipe
    # Soft: what does not fit is wrapped by the terminal. A number that is cut short would lie.
    content = text(screen.width, screen.options.ascii_only)
    Console(file=paper, force_terminal=screen.is_terminal).print(content, soft_wrap=True)
    return paper.getvalue()


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
