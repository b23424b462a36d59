"""The history of a command: its option, and how it is opened."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import click

from twusage.cli.exit_codes import print_error
from twusage.errors import ConfigurationError

if TYPE_CHECKING:
    from twusage.monitor import History

__all__ = ["history_option", "opened", "public_url", "telling_if_slow"]

_SLOW = 1.0
"""Seconds after which a person begins to wonder."""


def history_option(command: Callable[..., None]) -> Callable[..., None]:
    """``--history URL``, and the variable TWUSAGE_HISTORY."""
    return click.option(
        "--history",
        "url",
        metavar="URL",
        envvar="TWUSAGE_HISTORY",
        help="The history: sqlite:///usage.db or postgresql://host/database. "
        "TWUSAGE_HISTORY sets it, too, and keeps a password off the command line.",
    )(command)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[History]:
    """The open history at this URL."""
    try:
        from twusage.monitor import History
    except ModuleNotFoundError as error:
        if error.name != "sqlalchemy":
            raise
        raise ConfigurationError("a history needs SQLAlchemy: pip install 'twusage[history]'") from None
    async with History(url) as history:
        yield history


def public_url(url: str) -> str:
    """The URL without user and password."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


@contextmanager
def telling_if_slow(what: str) -> Iterator[None]:
    """Write a line on stderr if it takes longer than a second."""
    timer = threading.Timer(_SLOW, print_error, [what])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
