"""The face: what `import twusage` gives, and what it leaves unloaded."""

import importlib
import inspect
import json
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest

import twusage
import twusage.monitor
import twusage.testing

FACES = ["twusage", "twusage.monitor", "twusage.testing"]
needs_history = pytest.mark.skipif(find_spec("sqlalchemy") is None, reason="needs the extra history")
# Without an extra its names are listed, and using one is an ImportError.
WITH_EXTRA = {"twusage.monitor": needs_history}
EACH_FACE = pytest.mark.parametrize("face", [pytest.param(face, marks=WITH_EXTRA.get(face, ())) for face in FACES])


def in_a_fresh_interpreter(code: str) -> Any:
    """What the code printed as JSON. ``-W error``: an import that warns is a defect, too."""
    command = [sys.executable, "-W", "error", "-c", f"import json, sys\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("twusage", {"aiohttp", "click", "rich", "tenacity", "pytest", "redis", "sqlalchemy", "msgspec"}),
        ("twusage.monitor", {"aiohttp", "click", "rich", "tenacity", "sqlalchemy"}),
        ("twusage.testing", {"aiohttp", "pytest", "click", "rich"}),
        ("twusage.protocol", {"aiohttp", "tenacity", "click", "rich"}),
    ],
)
def test_import_loads_no_more_than_it_needs(module: str, unwanted: set[str]) -> None:
    """No dependency is imported before it is used."""
    loaded = in_a_fresh_interpreter(f"import {module}\nprint(json.dumps(list(sys.modules)))")
    assert module in loaded
    assert unwanted & set(loaded) == set()


@pytest.mark.parametrize(("module", "name"), [("twusage", "AiohttpTransport"), ("twusage.testing", "fake_app")])
def test_aiohttp_is_loaded_on_first_use(module: str, name: str) -> None:
    """The names that need aiohttp load it on their first use, and no earlier."""
    code = f"""
import {module}
before = "aiohttp" in sys.modules
found = {module}.{name}.__name__
print(json.dumps([before, found, "aiohttp" in sys.modules]))
"""
    assert in_a_fresh_interpreter(code) == [False, name, True]


@pytest.mark.parametrize("face", FACES)
def test_all_is_sorted(face: str) -> None:
    """``__all__`` is sorted and holds no name twice."""
    names = importlib.import_module(face).__all__
    assert names == sorted(set(names))


@pytest.mark.parametrize("face", FACES)
def test_all_is_complete(face: str) -> None:
    """Every public class or function that a face imports is in its ``__all__``."""
    module = importlib.import_module(face)
    imported = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value))
    }
    assert imported <= set(module.__all__)


def test_promised_names_are_there() -> None:
    """The names that the design promises to other code are importable."""
    promised = {
        *("UsageClient", "UsageField", "Usage", "ProjectUsage", "ClientAppUsage", "DailySeries", "DailyUsage"),
        *("RateLimit", "Problem", "Request", "Response", "Transport", "Auth", "BearerToken", "RateLimiter"),
        *("LocalRateLimiter", "RetryPolicy", "Clock", "AiohttpTransport", *twusage.errors.__all__),
    }
    assert promised <= set(twusage.__all__)
    assert {"FakeApi", "FakeTransport", "VirtualClock", "Fault"} <= set(twusage.testing.__all__)


@EACH_FACE
def test_star_import(face: str) -> None:
    """A star import gives every name of ``__all__``, the lazy ones as well."""
    namespace: dict[str, object] = {}
    exec(f"from {face} import *", namespace)
    assert set(importlib.import_module(face).__all__) <= namespace.keys()


@pytest.mark.parametrize("face", FACES)
def test_dir_lists_every_name(face: str) -> None:
    """``dir`` and a shell's completion list the lazy names before they are loaded."""
    code = f"import {face}\nprint(json.dumps(dir({face})))"
    listed = in_a_fresh_interpreter(code)
    module = importlib.import_module(face)
    assert set(module.__all__) <= set(listed)
    assert set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize("face", FACES)
def test_unknown_name(face: str) -> None:
    """A missing name is an AttributeError that names the module."""
    with pytest.raises(AttributeError, match=f"module '{face}' has no attribute 'SyncClient'"):
        importlib.import_module(face).SyncClient  # noqa: B018 - the asking is the test


@EACH_FACE
def test_every_name_has_a_docstring(face: str) -> None:
    """Every public name, and every public method of its own, has a docstring."""
    public = {name: getattr(importlib.import_module(face), name) for name in importlib.import_module(face).__all__}
    public.pop("__version__", None)
    assert [name for name, value in public.items() if not (value.__doc__ or "").strip()] == []
    classes = {name: vars(value) for name, value in public.items() if inspect.isclass(value)}
    assert [name for name, members in classes.items() if not members.get("__doc__")] == [], "only inherited docstrings"
    for name, members in classes.items():
        for member, function in members.items():
            plain = function.__func__ if isinstance(function, classmethod | staticmethod) else function
            if not member.startswith("_") and (inspect.isfunction(plain) or isinstance(plain, property)):
                assert (plain.__doc__ or "").strip(), f"{name}.{member}"


def test_version() -> None:
    """The version is a plain release number, the one of the installed package."""
    assert [part.isdigit() for part in twusage.__version__.split(".")[:2]] == [True, True]
