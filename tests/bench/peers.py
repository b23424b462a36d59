"""What people would use instead, as they would write it. Each read from its own documentation."""

# mypy: ignore-errors
# Where types are checked, most of these are not installed.

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import attrs
import httpx
import msgspec
import orjson
import pydantic
from cattrs import Converter
from tweepy.asynchronous import AsyncClient
from xdk import Client
from xdk.usage.models import GetResponse

PATH = "/2/usage/tweets"
Call = Callable[[], Awaitable[object]]

# -- Calls over a socket -----------------------------------------------------------------------------------------------


async def aiohttp_call(url: str, token: str, opened: AsyncExitStack) -> Call:
    """One session, as aiohttp's documents say."""
    session = await opened.enter_async_context(aiohttp.ClientSession(headers={"authorization": f"Bearer {token}"}))
    address = url + PATH

    async def call() -> Any:
        async with session.get(address) as response:
            return await response.json()

    return call


async def httpx_call(url: str, token: str, opened: AsyncExitStack) -> Call:
    """One AsyncClient."""
    headers = {"authorization": f"Bearer {token}"}
    client = await opened.enter_async_context(httpx.AsyncClient(base_url=url, headers=headers))

    async def call() -> Any:
        return (await client.get(PATH)).json()

    return call


async def tweepy_call(url: str, token: str, opened: AsyncExitStack) -> Call:
    """Its generic request: it does not know this endpoint. Without a session it would open one for every call."""
    client = AsyncClient(token)
    client.session = _Elsewhere(await opened.enter_async_context(aiohttp.ClientSession()), url)

    async def call() -> Any:
        return await (await client.request("GET", PATH)).json()

    return call


class _Elsewhere:
    """A session that leads to the loopback. Tweepy has its host in the code."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._request = session.request
        self._url = url

    def request(self, method: str, url: str, **options: Any) -> Any:
        return self._request(method, self._url + url[len("https://api.twitter.com") :], **options)


def xdk_call(url: str, token: str) -> Callable[[], object]:
    """The official client. It blocks, so there is no 50 at a time."""
    return Client(base_url=url, bearer_token=token).usage.get


# -- Decoding ----------------------------------------------------------------------------------------------------------

Decode = Callable[[bytes], object]


@attrs.frozen
class _Row:
    date: dt.datetime
    usage: int


@attrs.frozen
class _Project:
    project_id: str
    usage: list[_Row]


@attrs.frozen
class _App:
    client_app_id: str
    usage: list[_Row]
    usage_result_count: int


@attrs.frozen
class _Usage:
    project_id: str
    project_cap: int
    project_usage: int
    cap_reset_day: int
    daily_project_usage: _Project | None = None
    daily_client_app_usage: list[_App] = attrs.field(factory=list)


@attrs.frozen
class _Answer:
    data: _Usage


def cattrs_decode() -> Decode:
    """A converter as it comes, with the one hook that it lacks."""
    converter = Converter()
    converter.register_structure_hook(dt.datetime, lambda text, _: dt.datetime.fromisoformat(text))
    return lambda body: converter.structure(json.loads(body), _Answer)


class _PydanticRow(pydantic.BaseModel):
    date: dt.datetime
    usage: int


class _PydanticProject(pydantic.BaseModel):
    project_id: str
    usage: list[_PydanticRow]


class _PydanticApp(pydantic.BaseModel):
    client_app_id: str
    usage: list[_PydanticRow]
    usage_result_count: int


class _PydanticUsage(pydantic.BaseModel):
    project_id: str
    project_cap: int
    project_usage: int
    cap_reset_day: int
    daily_project_usage: _PydanticProject | None = None
    daily_client_app_usage: list[_PydanticApp] = []


class _PydanticAnswer(pydantic.BaseModel):
    data: _PydanticUsage


pydantic_decode: Decode = _PydanticAnswer.model_validate_json


class _StructRow(msgspec.Struct):
    date: dt.datetime
    usage: int


class _StructProject(msgspec.Struct):
    project_id: str
    usage: list[_StructRow]


class _StructApp(msgspec.Struct):
    client_app_id: str
    usage: list[_StructRow]
    usage_result_count: int


class _StructUsage(msgspec.Struct):
    project_id: str
    project_cap: int
    project_usage: int
    cap_reset_day: int
    daily_project_usage: _StructProject | None = None
    daily_client_app_usage: list[_StructApp] = []


class _StructAnswer(msgspec.Struct):
    data: _StructUsage


# Not strict: the counts come as text.
msgspec_decode: Decode = msgspec.json.Decoder(_StructAnswer, strict=False).decode
orjson_decode: Decode = orjson.loads
json_decode: Decode = json.loads


def xdk_decode(body: bytes) -> object:
    """As its client does it. Its dates and counts stay text."""
    return GetResponse.model_validate(json.loads(body))
