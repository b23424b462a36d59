"""Tests of the examples: with a new project, unknown numbers, and mypy."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

DOCS = Path(__file__).parent
ROOT = DOCS.parent
# Not testing.md: what its tests expect are the numbers of their own fakes and recordings.
PAGES = [
    "README.md",
    *(f"docs/{name}.md" for name in ("architecture", "components", "errors", "forecast", "guard", "history", "index")),
    *(f"docs/{name}.md" for name in ("rate-limits", "security", "tutorial", "watch")),
]
# An invisible block, with a percent sign before each line; or one that is shown.
BLOCK = re.compile(r"^% invisible-code-block: python\n((?:%[^\n]*\n)*)|^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("world", ["empty", "silent"])
def test_in_another_world(world: str) -> None:
    """No example fails in a project without reads, cap or days."""
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *PAGES],
        env=os.environ | {"TWUSAGE_DOCS_WORLD": world, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout.decode()


@pytest.mark.parametrize("page", PAGES)
def test_types(page: str, tmp_path: Path) -> None:
    """The examples of README and the first page pass ``mypy --strict``. The others may omit annotations."""
    pytest.importorskip("mypy")
    code = "\n".join(
        re.sub("^% ?", "", hidden, flags=re.MULTILINE) or shown
        for hidden, shown in BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    )
    head = "from collections.abc import Callable\nfrom twusage.testing import FakeApi\n"
    frame = f"{head}async def page(fake: FakeApi, new_window: Callable[[], None]) -> None:\n"
    (tmp_path / "page.py").write_text(frame + textwrap.indent(code, "    "), encoding="utf-8")
    is_strict = page in {"README.md", "docs/index.md"}
    options = ["--strict"] if is_strict else ["--check-untyped-defs", "--allow-redefinition"]
    options += ["--follow-imports=silent", "--ignore-missing-imports"]
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "mypy", "--config-file=", f"--cache-dir={ROOT / '.mypy_cache'}", *options, "page.py"],
        env=os.environ | {"MYPYPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout.decode()
