"""The code blocks of README.md and docs/*.md are tests. Each page runs from top to bottom, against the fake.

A page's blocks share one namespace and one event loop, and may ``await`` at the top level, as in ``python -m asyncio``.
Each page has its own fake API on loopback, and environment variables that point to it, so that
``UsageClient.from_env()`` works as for a reader. No other host can be reached. The working directory is temporary.

=============================  =====================================================================================
in the page                    effect
=============================  =====================================================================================
a ``python`` block             is run, and so are the ``test_*`` functions that it defines, with twusage's fixtures
a ``text`` block right after   must equal the output of that block
``% invisible-code-block:``    is run but not shown, to prepare the next block
``% skip: start if(...)``      skips the blocks up to ``% skip: end``, if an extra that they need is missing
=============================  =====================================================================================

With ``TWUSAGE_DOCS_WORLD=empty`` the project has no reads, and with ``silent`` the API returns no number; the output is
then not compared (``docs/test_examples.py``).

Two more names are defined: ``fake`` (the page's ``FakeApi``, whose clock is stopped at 2026-01-15 12:00 UTC), and
``new_window()``, which sets a token with a new rate-limit window.
"""

import ast
import asyncio
import inspect
import io
import os
import socket
from collections.abc import Callable
from contextlib import redirect_stdout
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from sybil import Example, Sybil
from sybil.integration.pytest import SybilItem
from sybil.parsers.myst import CodeBlockParser, SkipParser

import twusage.testing.api
from twusage.testing import FakeApi, FakeServer, VirtualClock
from twusage.testing.api import FakeProject

_TOKENS = (
    "X_BEARER_TOKEN",
    "X_BEARER_TOKEN_FILE",
    "TWITTER_BEARER_TOKEN",
    "TWITTER_BEARER_TOKEN_FILE",
    "BEARER_TOKEN",
)
_KEYS = ("X_API_KEY", "X_API_SECRET", "TWITTER_API_KEY", "TWITTER_API_SECRET")


class Stage:
    """The environment of a page: a fake API, an event loop, output."""

    def __init__(self) -> None:
        world = os.environ.get("TWUSAGE_DOCS_WORLD", "busy")
        self.fake = FakeApi(clock=VirtualClock(auto=False), history_days=90 if world == "busy" else 0)
        # Fixed ids, because pages print them.
        self.fake.project.id = "1281043626347900822499"
        for number, app in enumerate(self.fake.apps, start=1):
            app.id = f"2700{number:04}"
        self.printed, self.printed_by = "", -1
        self.runner = asyncio.Runner()
        # In its own thread, so that it also serves the asyncio.run of a page.
        self._server = FakeServer(self.fake)
        self._server.__enter__()
        self._directory = TemporaryDirectory()
        self._tokens = 0
        self._environment = pytest.MonkeyPatch()
        self._environment.setenv("TWUSAGE_BASE_URL", self._server.url)
        for name in (*_TOKENS, *_KEYS):
            self._environment.delenv(name, raising=False)
        self._environment.chdir(self._directory.name)
        self._environment.setattr(socket, "getaddrinfo", _loopback_only(socket.getaddrinfo))
        if world == "silent":
            self._silence(self.fake.project)
        self.new_window()

    def _silence(self, project: FakeProject) -> None:
        data = vars(twusage.testing.api)["_data"]

        def silent(asked: FakeProject, *rest: Any) -> dict[str, object]:
            return {"project_id": asked.id} if asked is project else data(asked, *rest)

        self._environment.setattr("twusage.testing.api._data", silent)

    def new_window(self) -> None:
        """Give the first app an unused window by a new token."""
        self._tokens += 1
        app = self.fake.apps[0]
        app.window_start = None
        app.tokens.append(f"AAAAAAAAAAAAAAAAAAAAADOCS{self._tokens:04}%2Fno%2Freal%2Ftoken%3D")
        self._environment.setenv(_TOKENS[0], app.tokens[-1])

    def close(self) -> None:
        self.runner.close()
        self._environment.undo()
        self._directory.cleanup()
        self._server.__exit__(None, None, None)


def _loopback_only(resolve: Callable[..., Any]) -> Callable[..., Any]:
    def getaddrinfo(host: Any, *rest: Any, **options: Any) -> Any:
        if host not in {"127.0.0.1", "localhost", "::1"}:
            raise AssertionError(f"a page of the docs connects to {host!r}")
        return resolve(host, *rest, **options)

    return getaddrinfo


def _run_python(example: Example) -> None:
    stage, source = example.namespace["_stage"], str(example.parsed)
    # Empty lines in front, so that a traceback shows the line of the page.
    padded = "\n" * (example.line + example.parsed.line_offset) + source
    code = compile(padded, example.path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    with redirect_stdout(io.StringIO()) as printed:
        result = eval(code, example.namespace)  # noqa: S307 - our own pages
        if inspect.iscoroutine(result):
            stage.runner.run(result)
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                arguments = {given.arg: example.namespace[given.arg] for given in node.args.args}
                result = example.namespace[node.name](**arguments)
                if inspect.iscoroutine(result):
                    stage.runner.run(result)
    stage.printed, stage.printed_by = printed.getvalue(), example.region.end


def _check_text(example: Example) -> str | None:
    stage = example.namespace["_stage"]
    between = example.document.text[max(0, stage.printed_by) : example.region.start]
    if stage.printed_by < 0 or between.strip() or "TWUSAGE_DOCS_WORLD" in os.environ:
        return None  # a drawing, not an output; or not that of this world
    expected, printed = str(example.parsed).rstrip("\n"), stage.printed.rstrip("\n")
    return None if printed == expected else f"the page shows\n\n{expected}\n\nbut this was printed:\n\n{printed}"


def pytest_itemcollected(item: Any) -> None:
    """Replace Sybil's traceback filter. It ends the run after an error outside a block, e.g. a client left open."""
    if isinstance(item, SybilItem):
        item.__dict__["_traceback_filter"] = lambda failure: failure.traceback.cut(path=__file__)


def _set_up(namespace: dict[str, Any]) -> None:
    stage = Stage()
    namespace.update(__name__="page", _stage=stage, fake=stage.fake, new_window=stage.new_window)


def _tear_down(namespace: dict[str, Any]) -> None:
    namespace["_stage"].close()


pytest_collect_file = Sybil(
    parsers=[CodeBlockParser("python", _run_python), CodeBlockParser("text", _check_text), SkipParser()],
    patterns=["README.md", "docs/*.md"],
    setup=_set_up,
    teardown=_tear_down,
    fixtures=["twusage_api", "twusage_clock", "twusage_transport", "twusage_client"],
).pytest()
