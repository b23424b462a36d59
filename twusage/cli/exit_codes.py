"""Exit codes, and error messages on stderr. Works without click and rich, to report that they are missing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress

from attrs import frozen

from twusage.diagnostics.page import is_from_edge
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

__all__ = [
    "EXITS",
    "Exit",
    "discard_stdout",
    "exit_code",
    "print_error",
    "run_to_exit_code",
    "suggest_doctor",
]


@frozen
class Exit:
    """An exit code, its meaning, and its exception classes."""

    code: int
    meaning: str
    kinds: tuple[type[BaseException], ...] = ()


# A contract: scripts compare these numbers. The help and a test of docs/cli.md read this table.
EXITS = (
    Exit(0, "success"),
    Exit(1, "an unexpected error", (TwUsageError, OSError)),
    Exit(2, "an invalid option or argument", (InvalidRequestError,)),
    Exit(3, "no credentials or malformed ones, or an incomplete installation", (ConfigurationError,)),
    Exit(4, "the API rejects the credentials", (AuthenticationError, ForbiddenError)),
    Exit(5, "the cap, the credits or the spending limit is used up", (QuotaError,)),
    Exit(6, "no calls left in the 15-minute window", (RateLimitedError,)),
    Exit(7, "no usable response from the network", (TransportError,)),
    Exit(8, "the API is unavailable", (ServerError,)),
    Exit(9, "the API rejects the request, or its response is invalid", (ApiError, DecodeError)),
    Exit(130, "interrupted by Ctrl-C", (KeyboardInterrupt,)),
)
_CODES = {kind: end.code for end in EXITS for kind in end.kinds}

# Options and variables of this command, which the SDK's messages do not name.
_HINTS: dict[type[BaseException], str] = {
    RateLimitedError: "Retry later, or wait with --max-wait 960",
    RequestTimeoutError: "Try again, or with --timeout 60",
    TlsError: "Or let the variable SSL_CERT_FILE name a file of certificates to trust",
    DecodeError: "Try again, then update twusage, or report this",
    TransportError: "Check the network, and TWUSAGE_BASE_URL if it is set",
}
_PAGE_HINT = "A login page of this network, a firewall or a proxy may have sent it"
# For these, twusage doctor reports more than the message.
_DOCTOR_CODES = {3, 4, 7, 9}


def exit_code(error: BaseException) -> int:
    """Return the exit code of an exception, by its nearest class.

    A response that the API did not send, such as a page, counts as a network failure, whatever its status.
    """
    kinds = (TransportError,) if is_from_edge(error) else type(error).__mro__
    return next(_CODES[kind] for kind in kinds if kind in _CODES)


def run_to_exit_code(command: Callable[[], object]) -> int:
    """Run a command, print a known error, and return the exit code. A bug is not caught."""
    try:
        command()
    except KeyboardInterrupt as error:
        return exit_code(error)
    except BrokenPipeError:
        return 0  # The reader of the output has closed the pipe: this is not a failure.
    except (TwUsageError, OSError) as error:
        print_error(_message(error))
        return exit_code(error)
    return 0


def _message(error: TwUsageError | OSError) -> str:
    message = (error.strerror if isinstance(error, OSError) else None) or str(error)
    hint = next((_HINTS[kind] for kind in type(error).__mro__ if kind in _HINTS), "")
    if is_from_edge(error):
        hint = _PAGE_HINT
    notes = getattr(error, "__notes__", [])
    if not (hint or notes):
        return message
    return " ".join(f"{sentence.rstrip('.')}." for sentence in (message, hint, *notes) if sentence)


def suggest_doctor(error: TwUsageError) -> None:
    """Add a note about ``twusage doctor`` to an error that it explains."""
    if exit_code(error) in _DOCTOR_CODES:
        error.add_note("Run 'twusage doctor' to find the cause")


def print_error(message: str) -> None:
    """Print one line on stderr, unless stderr is closed."""
    if sys.stderr is not None:  # closed with 2>&-
        with suppress(OSError):
            sys.stderr.write(f"twusage: {printable(message)}\n")
            sys.stderr.flush()


def discard_stdout() -> None:
    """Redirect a broken stdout to /dev/null. Python would print an error when it flushes it at exit."""
    with suppress(OSError):  # stdout is not a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
