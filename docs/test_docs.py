"""Tests of the pages. conftest.py at the root runs their code blocks."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import twusage
import twusage.errors
import twusage.monitor
import twusage.testing

DOCS = Path(__file__).parent
README = (DOCS.parent / "README.md").read_text(encoding="utf-8")


def page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def test_the_reference_has_every_public_name() -> None:
    """Each name in an ``__all__`` is on one of the API pages."""
    pages = "".join(page(path.stem) for path in DOCS.glob("api-*.md"))
    documented = set(re.findall(r"^\.\. (?:auto\w+|data):: (\w+)", pages, re.MULTILINE))
    assert {*twusage.__all__, *twusage.monitor.__all__, *twusage.testing.__all__} <= documented


def test_the_architecture_has_every_module_and_layer() -> None:
    """The tree has each file of the package, and the layers are those that ``nox -s layers`` checks."""
    tree, layers = re.findall(r"^```text\n(.*?)^```", page("architecture"), re.MULTILINE | re.DOTALL)[:2]
    modules = {
        path.name for path in (DOCS.parent / "twusage").rglob("*.py") if path.parent.name not in {"cli", "dashboard"}
    }
    assert modules - set(re.findall(r"\w+\.py", tree)) == set()
    contract = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ][0]
    assert layers.splitlines() == contract["layers"]


def test_the_page_of_errors_has_every_error() -> None:
    """Each is in the tree and the table of remedies."""
    text = page("errors")
    for name in twusage.errors.__all__:
        assert re.search(rf"── {name}\b|^{name}\b", text, re.MULTILINE), f"{name} is not in the tree"
        assert name == "TwUsageError" or f"| `{name}` |" in text or name in {"TransportError", "QuotaError"}, name


def test_links_between_pages_lead_somewhere() -> None:
    """Files and headings. Sphinx checks the same for the site, but not for the README."""
    for name in ["README", *sorted(path.stem for path in DOCS.glob("*.md"))]:
        home, text = (DOCS.parent, README) if name == "README" else (DOCS, page(name))
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
            path, _, anchor = target.partition("#")
            linked = (home / path).read_text(encoding="utf-8") if path else text
            anchors = {
                re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
                for heading in re.findall(r"^#+ (.+)$", linked, re.MULTILINE)
            }
            assert not anchor or anchor in anchors, target


def test_the_options_of_the_fake_are_documented() -> None:
    """Those of ``twusage fake`` and their defaults. ``tests/integration/test_cli.py`` does the same for ``show``."""
    click = pytest.importorskip("click")
    pytest.importorskip("rich")
    from twusage.cli.fake import fake

    documented = dict(re.findall(r"^\| [^`|]+ \| `(--[a-z-]+) \S+` \| (.+) \|$", page("fake"), re.MULTILINE))
    context = click.Context(fake)
    options = {parameter.opts[0]: parameter.get_default(context) for parameter in fake.params}
    # What click returns without a default depends on its version.
    assert documented == {name: str(value) if isinstance(value, int) else "made up" for name, value in options.items()}


@pytest.mark.parametrize("script", ["cli_output.py", "pictures.py", "dashboard_picture.py"])
def test_the_pages_and_pictures_show_what_the_commands_print(script: str) -> None:
    """docs/cli.md and docs/_static hold real output: ``python docs/<script>`` renews it."""
    for module in ("sqlalchemy", "rich", "prometheus_client"):
        pytest.importorskip(module)
    command = [sys.executable, str(DOCS / script), "--check"]
    environment = os.environ | {"PYTHONPATH": str(DOCS.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=60)  # noqa: S603 - our own
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_comparison_has_the_measured_figures() -> None:
    """docs/comparison.md quotes the table of docs/speed.md, which ``nox -s bench`` writes."""
    quoted = re.findall(r"(\| [\d.,]+\sµs \| [\d.,]+\sµs \| [\d.]+) \|$", page("comparison"), re.MULTILINE)
    assert len(quoted) == 4
    assert [figures for figures in quoted if figures not in page("speed")] == []
