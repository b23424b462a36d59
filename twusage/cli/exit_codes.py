"""How the command ends: an exit code for each kind of error, and one sentence on stderr.

Loads neither click nor rich, so that even their absence can be told in a sentence.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress

from attrs import frozen

from twusage.display.format import printable
from twusage.errors import (
    ApiError,
    AuthenticationError,
    ConfigurationError,
    DecodeError,
    ForbiddenError,
    InvalidRequestError,
    QuotaError,
    RateLimitedError,
    RequestTimeoutError,
    ServerError,
    TlsError,
    TransportError,
    TwUsageError,
)

__all__ = ["EXITS", "Exit", "complain", "exit_code", "finish", "let_go", "printable", "refer_to_doctor"]


@frozen
class Exit:
    """An exit code, what it means, and the errors that it stands for."""

    code: int
    meaning: str
    kinds: tuple[type[BaseException], ...] = ()


# A contract: scripts compare these numbers. The help and a test of docs/cli.md read this table.
EXITS = (
    Exit(0, "all is well"),
    Exit(1, "something unexpected", (TwUsageError, OSError)),
    Exit(2, "a wrong option or argument", (InvalidRequestError,)),
    Exit(3, "no token or a malformed one, or twusage is not set up", (ConfigurationError,)),
    Exit(4, "the API does not accept the token", (AuthenticationError, ForbiddenError)),
    Exit(5, "the cap, the credits or the spending limit is used up", (QuotaError,)),
    Exit(6, "the 15-minute window of calls is spent", (RateLimitedError,)),
    Exit(7, "the network gave no usable answer", (TransportError,)),
    Exit(8, "the API is in trouble", (ServerError,)),
    Exit(9, "the API refused, or its answer makes no sense", (ApiError, DecodeError)),
    Exit(130, "stopped by Ctrl-C", (KeyboardInterrupt,)),
)
_CODES = {kind: end.code for end in EXITS for kind in end.kinds}

# What the SDK's own sentence cannot know: which option or variable of this command helps.
_HINTS: dict[type[BaseException], str] = {
    RateLimitedError: "Come back later, or wait for it with --max-wait 960",
    RequestTimeoutError: "Try again, or give it longer with --timeout 60",
    TlsError: "Here, the variable SSL_CERT_FILE names a file of certificates to trust",
    DecodeError: "Try again, then update twusage, or report this",
    TransportError: "Check the network, and TWUSAGE_BASE_URL if it is set",
}
# Where a check-up tells more than the sentence.
_DOCTORS = {3, 4, 7, 9}


def exit_code(error: BaseException) -> int:
    """The code of the nearest kind that the table names."""
    return next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)


def finish(command: Callable[[], object]) -> int:
    """Run it to its end, whatever that is: an exit code, and for a known error one sentence. A bug is not caught."""
    try:
        command()
    except KeyboardInterrupt as error:
        return exit_code(error)
    except BrokenPipeError:
        return 0  # whoever reads our output has had enough: nothing failed
    except (TwUsageError, OSError) as error:
        complain(_sentence(error))
        return exit_code(error)
    return 0


def _sentence(error: TwUsageError | OSError) -> str:
    said = (error.strerror if isinstance(error, OSError) else None) or str(error)
    hint = next((_HINTS[kind] for kind in type(error).__mro__ if kind in _HINTS), None)
    notes = getattr(error, "__notes__", [])
    if not (hint or notes):
        return said
    return " ".join(f"{sentence.rstrip('.')}." for sentence in (said, hint, *notes) if sentence)


def refer_to_doctor(error: TwUsageError) -> None:
    """Let the sentence on this error end with who knows more, where that is so."""
    if exit_code(error) in _DOCTORS:
        error.add_note("'twusage doctor' tells what is wrong")


def complain(sentence: str) -> None:
    """One line on stderr, if anybody reads that."""
    if sys.stderr is not None:  # closed with 2>&-
        with suppress(OSError):
            sys.stderr.write(f"twusage: {printable(sentence)}\n")
            sys.stderr.flush()


def let_go() -> None:
    """Give up a stdout that cannot be written to: at exit, Python would flush it, fail, and say so."""
    with suppress(OSError):  # a stdout that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
