"""The API call of every command that shows a usage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import click
from attrs import frozen

from twusage.cli.countdown import Countdown
from twusage.cli.demo import Demo
from twusage.cli.exit_codes import print_error, suggest_doctor
from twusage.cli.options import access_options, credentials, names_option, retry_policy, run_with_client
from twusage.client import UsageClient
from twusage.display.view import FETCHED_DAYS, View, view_of
from twusage.errors import TwUsageError
from twusage.models import Problem, Usage
from twusage.retry import RetryPolicy

__all__ = ["Access", "call_options", "fetched", "max_wait_option", "viewed"]

# Limits of what is printed about problems beside good data, because a server may send anything.
_MAX_WARNINGS = 5
_MAX_TEXT_LENGTH = 200


@frozen
class Access:
    """How a command reaches the API: its options as one value."""

    demo: Demo | None
    token_file: str | None
    proxy: str | None
    timeout: float
    names: Mapping[str, str]

    def client_keywords(self) -> dict[str, Any]:
        """Return the keywords for ``run_with_client``."""
        keywords: dict[str, Any] = credentials(self.token_file) if self.demo is None else self.demo.keywords
        return keywords | {"proxy": self.proxy, "timeout": self.timeout}

    @classmethod
    def of(
        cls,
        *,
        demo: bool,
        token_file: str | None,
        proxy: str | None,
        timeout: float,  # of a request; nothing here waits
        names: Mapping[str, str],
    ) -> Access:
        """Return the options as one value; ``--demo`` excludes ``--token-file`` and ``--proxy``."""
        if demo and token_file is not None:
            raise click.UsageError("--demo needs no --token-file: choose one")
        if demo and proxy is not None:
            raise click.UsageError("--demo needs no --proxy: choose one")
        made_up = Demo() if demo else None
        return cls(made_up, token_file, proxy, timeout, {**(made_up.names if made_up else {}), **names})


def call_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--demo``, ``--name`` and the access options, passed as one ``access``."""

    @wraps(command)
    def packed(**options: Any) -> None:
        access = {name: options.pop(name) for name in ("demo", "token_file", "proxy", "timeout", "names")}
        command(access=Access.of(**access), **options)

    demo = click.option("--demo", is_flag=True, help="Made-up data from a fake API. Needs neither token nor network.")
    return demo(names_option(access_options(packed)))


max_wait_option = click.option(
    "--max-wait",
    type=click.FloatRange(min=0),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait in all, for the rate limit and between tries.",
)


def fetched(access: Access, *, retry: RetryPolicy, quiet: bool = False) -> Usage:
    """Return the response to one call, with all days of the API.

    Args:
        access: how to reach the API.
        retry: what is retried, and how long the call may wait.
        quiet: write nothing to stderr.
    """
    countdown = Countdown()
    on_wait = None if quiet else countdown
    try:
        usage = run_with_client(_get_usage, retry=retry, on_wait=on_wait, **access.client_keywords())
    except TwUsageError as error:
        if access.demo is None:
            suggest_doctor(error)
        raise
    finally:
        countdown.clear()
    for problem in usage.errors[: 0 if quiet else _MAX_WARNINGS]:
        print_error(f"warning: the API reports a problem: {_summary(problem)}")
    return usage


def viewed(access: Access, *, max_wait: float, days: int = 7) -> View:
    """Return the view of one call's response."""
    usage = fetched(access, retry=retry_policy(max_wait))
    return view_of(usage, now=usage.fetched_at, days=days, names=access.names)


async def _get_usage(client: UsageClient) -> Usage:
    return await client.get_usage(days=FETCHED_DAYS)


def _summary(problem: Problem) -> str:
    texts = (problem.title, problem.detail or problem.type)
    return ": ".join(text[:_MAX_TEXT_LENGTH] for text in texts if text) or "without an explanation"
