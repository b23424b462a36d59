"""Write to stdout, which may be a terminal, a pipe, a file, or closed."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

from rich.console import Console
from rich.text import Text

from twusage.cli.exit_codes import discard_stdout

__all__ = ["page", "write"]


def page(text: Callable[[int, bool], Text]) -> str:
    """Render ``text(width, ascii_only)`` for this stdout."""
    screen = Console()
    paper = io.StringIO()  # not stdout, because rich handles a broken pipe in its own way
    # Soft: the terminal wraps long lines. A truncated number would be misleading.
    content = text(screen.width, screen.options.ascii_only)
    Console(file=paper, force_terminal=screen.is_terminal).print(content, soft_wrap=True)
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
