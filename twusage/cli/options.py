"""The commands' shared options, the token file, and the call's client."""

from __future__ import annotations

import asyncio
import math
import os
import re
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import click

from twusage.auth import KEY_VARIABLES, TOKEN_VARIABLES
from twusage.client import UsageClient
from twusage.errors import ConfigurationError, ConnectError, RequestTimeoutError
from twusage.protocol import is_proxy_url
from twusage.retry import RetryPolicy
from twusage.token_file import Flaw, read_token_file

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = [
    "access_options",
    "credentials",
    "every_option",
    "names_option",
    "place_of",
    "read_token",
    "retry_policy",
    "run_with_client",
    "trust_env_option",
]

T = TypeVar("T")
_TRUST_ENV = "twusage.trust_env"

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _checked_proxy(_: click.Context, __: click.Parameter, proxy: str | None) -> str | None:
    if not (proxy is None or is_proxy_url(proxy)):  # Not quoted: it may hold a password.
        raise click.UsageError("--proxy must be the URL of an HTTP proxy, such as http://host:3128")
    return proxy


def _store_trust_env(ctx: click.Context, _: click.Parameter, trust_env: bool) -> None:
    # Not a parameter: the commands and their group share it.
    ctx.meta[_TRUST_ENV] = trust_env or ctx.meta.get(_TRUST_ENV, False)


trust_env_option = click.option(
    "--trust-env",
    is_flag=True,
    expose_value=False,
    callback=_store_trust_env,
    help="Use the proxies of the environment (HTTPS_PROXY, ALL_PROXY, NO_PROXY).",
)


def access_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--token-file``, ``--proxy``, ``--trust-env`` and ``--timeout`` to a command."""
    for option in (
        click.option(
            "--timeout",
            type=click.FloatRange(min=0, min_open=True),
            default=30,
            show_default=True,
            metavar="SECONDS",
            help="Timeout of one request.",
        ),
        click.option(
            "--proxy",
            metavar="URL",
            callback=_checked_proxy,
            help="Use this HTTP proxy.",
        ),
        trust_env_option,
        click.option("--token-file", metavar="PATH", help="Read the bearer token from this file; - is stdin."),
    ):
        command = option(command)
    return command


def names_option(command: Callable[..., None]) -> Callable[..., None]:
    """``--name ID=NAME``, and the variable TWUSAGE_APP_NAMES."""
    return click.option(
        "--name",
        "names",
        multiple=True,
        metavar="ID=NAME",
        callback=_checked_names,
        help="A name for a client app; may be repeated. TWUSAGE_APP_NAMES holds several, with commas between.",
    )(command)


def _checked_names(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    listed = [pair for pair in os.environ.get("TWUSAGE_APP_NAMES", "").split(",") if pair.strip()]
    names = {}
    for place, pairs in (("TWUSAGE_APP_NAMES", listed), ("--name", given)):
        for pair in pairs:
            app, equals, name = (part.strip() for part in pair.partition("="))
            if not (app and equals and name):
                raise click.UsageError(f"{place} takes ID=NAME, such as 27002234=collector")
            names[app] = name
    return names


def every_option(default: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """``--every TIME``, in seconds."""
    return click.option(
        "--every",
        default=default,
        show_default=True,
        metavar="TIME",
        callback=_checked_every,
        help="From one request to the next: 5m, 1h; at least 1m.",
    )


def _checked_every(_: click.Context, __: click.Parameter, given: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", given, re.ASCII)
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 60 <= seconds < math.inf:
        raise click.UsageError(f"--every takes a duration such as 5m or 1h, at least one minute, got {given}")
    return seconds


def run_with_client(call: Callable[[UsageClient], Awaitable[T]], *, proxy: str | None, **keywords: Any) -> T:
    """Return the result of a call, with a client of these keywords."""
    context = click.get_current_context(silent=True)
    trust_env = context is not None and context.meta.get(_TRUST_ENV, False)

    async def run() -> T:
        async with AsyncExitStack() as opened:
            if (proxy is not None or trust_env) and "transport" not in keywords:
                # Imported here, because --demo and --help do not need aiohttp.
                from twusage.aiohttp_transport import AiohttpTransport

                keywords["transport"] = await opened.enter_async_context(
                    aclosing(AiohttpTransport(proxy=proxy, trust_env=trust_env))
                )
            return await call(await opened.enter_async_context(UsageClient.from_env(**keywords)))

    return asyncio.run(run())


def retry_policy(max_wait: float) -> RetryPolicy:
    """Return the retries of a command. A request that took its whole timeout is not repeated: a person waits."""
    return RetryPolicy(max_wait=max_wait, stop=_has_timed_out)


def _has_timed_out(state: RetryCallState) -> bool:
    error = state.outcome and state.outcome.exception()
    return isinstance(error, RequestTimeoutError) or (isinstance(error, ConnectError) and error.reason == "timeout")


def credentials(token_file: str | None) -> dict[str, str]:
    """Return the client's keyword for a file's token. It is empty if the environment has credentials."""
    if token_file is not None:
        token = read_token(token_file)
        if isinstance(token, Flaw):
            raise ConfigurationError(f"no token from --token-file: {token.message}. {token.advice}")
        return {"auth": token}
    if not any(map(os.environ.get, chain(TOKEN_VARIABLES, *KEY_VARIABLES))):
        key, secret = KEY_VARIABLES[0]
        raise ConfigurationError(
            f"no credentials: set {TOKEN_VARIABLES[0]}, or {key} and {secret}, or use --token-file PATH; "
            "to try the command without credentials, use --demo"
        )
    return {}


def place_of(token_file: str) -> str:
    """Return a token file's name in messages. It is never the path, which may be a token by mistake."""
    return {"-": "stdin"}.get(token_file, "the file")


def read_token(token_file: str) -> str | Flaw:
    """Return the token in this file, or why there is none. Neither the path nor the content is shown."""
    return read_token_file(partial(click.open_file, token_file, "rb"), place_of(token_file))
