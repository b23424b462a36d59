"""How a command comes to the API: its options for that, the token in a file, and the client made of all this."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from itertools import chain
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from twusage.auth import KEY_VARIABLES, TOKEN_VARIABLES
from twusage.client import UsageClient
from twusage.diagnostics.explain import is_assignment
from twusage.errors import ConfigurationError

__all__ = ["access_options", "asked", "credentials", "names_option", "token_text"]

T = TypeVar("T")
# No token is nearly as long; a device or a film given by mistake is not read to its end.
_TOKEN_FILE = 2**16


def _checked_proxy(_: click.Context, __: click.Parameter, proxy: str | None) -> str | None:
    try:
        parts = urlsplit(proxy or "http://none")
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:  # Not quoted: it may hold a password.
        raise click.UsageError("--proxy must be the URL of an HTTP proxy, such as http://host:3128")
    return proxy


def access_options(command: Callable[..., None]) -> Callable[..., None]:
    """``--token-file``, ``--proxy`` and ``--timeout``."""
    for option in (
        click.option(
            "--timeout",
            type=click.FloatRange(min=0, min_open=True),
            default=30,
            show_default=True,
            metavar="SECONDS",
            help="For one request on the wire.",
        ),
        click.option(
            "--proxy",
            metavar="URL",
            callback=_checked_proxy,
            help="Go through this HTTP proxy. Those of the environment are not used.",
        ),
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


def asked(ask: Callable[[UsageClient], Awaitable[T]], *, proxy: str | None, **keywords: Any) -> T:
    """What is asked of a client with these keywords and the environment."""

    async def ask_and_close() -> T:
        async with AsyncExitStack() as opened:
            if proxy is not None:
                from twusage.aiohttp_transport import (
                    AiohttpTransport,  # here, because --demo and --help do not need aiohttp
                )

                keywords["transport"] = await opened.enter_async_context(aclosing(AiohttpTransport(proxy=proxy)))
            return await ask(await opened.enter_async_context(UsageClient.from_env(**keywords)))

    return asyncio.run(ask_and_close())


def credentials(token_file: str | None) -> dict[str, str]:
    """The keyword of a client that says where its credentials are: none where they are in the environment."""
    if token_file is not None:
        token = token_text(token_file)
        if len(token.split()) > 1 or is_assignment(token):
            raise _no_token("it must hold one bearer token and nothing else")
        return {"auth": token}
    if not any(map(os.environ.get, chain(TOKEN_VARIABLES, *KEY_VARIABLES))):
        key, secret = KEY_VARIABLES[0]
        raise ConfigurationError(
            f"no credentials: set {TOKEN_VARIABLES[0]}, or {key} and {secret}, or give --token-file PATH; "
            "to look around without, give --demo"
        )
    return {}


def token_text(path: str) -> str:
    """The text in this file. Neither the path nor the content is ever shown: people mistake the one for the other."""
    try:
        with click.open_file(path, "rb") as file:
            content: bytes = file.read(_TOKEN_FILE + 1)
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        reason = "it is not UTF-8 text"
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except RuntimeError:  # what click says of a closed stdin
        reason = "stdin is closed"
    else:
        if text and len(content) <= _TOKEN_FILE:
            return text
        reason = "it must hold one bearer token and nothing else" if text else "it is empty"
    raise _no_token(reason)


def _no_token(reason: str) -> ConfigurationError:
    return ConfigurationError(f"no token from --token-file: {reason}. Give the path of a readable file, or - for stdin")
