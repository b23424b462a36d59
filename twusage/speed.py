"""What ``plain`` reads, read by msgspec: the extra ``speed``. Imported only where msgspec is installed.

Only the rows are told to msgspec; all else comes as it is, so that the same functions judge it. A row's other fields
are left out here, and counted there.
"""

from __future__ import annotations

from typing import Any, TypedDict

import msgspec
from msgspec import MsgspecError

__all__ = ["MsgspecError", "columns", "document", "numbers"]


class _Row(msgspec.Struct, gc=False):
    date: str
    usage: str


class _Project(TypedDict, total=False):
    project_id: Any
    usage: list[_Row]


class _App(TypedDict, total=False):
    client_app_id: Any
    usage: list[_Row]
    usage_result_count: Any


class _Data(TypedDict, total=False):
    cap_reset_day: Any
    daily_client_app_usage: list[_App]
    daily_project_usage: _Project
    project_cap: Any
    project_id: Any
    project_usage: Any


class _Document(TypedDict, total=False):
    data: _Data


document = msgspec.json.Decoder(_Document).decode
_integers = msgspec.json.Decoder(list[int]).decode


def columns(tables: list[list[_Row]]) -> tuple[list[list[str]], list[str]]:
    """Of lists of rows: their dates, list by list, and all their counts."""
    return [[row.date for row in rows] for rows in tables], [row.usage for rows in tables for row in rows]


def numbers(text: str, start: int) -> tuple[list[int], int]:
    """A JSON list of integers that begins at an index of the text, and where it ends."""
    return _integers(text[start:]), len(text)
