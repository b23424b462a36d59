"""Whether a terminal gets blocks or ASCII."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from twusage.cli import output
from twusage.cli.output import is_ascii_only

ROOT = Path(__file__).parents[2]
NAMES = ("LC_ALL", "LC_CTYPE", "LANG", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONCOERCECLOCALE")
# What the user set, and whether the output is ASCII.
LOCALES = [
    ("", False),
    ("LC_ALL=C", True),
    ("LC_ALL=POSIX LANG=en_US.UTF-8", True),
    ("LC_ALL= LANG=C", True),
    ("LANG=C", True),
    ("LANG=POSIX", True),
    ("LANG=C PYTHONUTF8=1", True),
    ("LANG=C PYTHONCOERCECLOCALE=0", True),
    ("LC_ALL=C PYTHONUTF8=0", True),
    ("LANG=C.UTF-8", False),
    ("LANG=en_US.UTF-8", False),  # installed or not
    ("LC_ALL=C.UTF-8 LANG=C", False),
    ("PYTHONIOENCODING=ascii LANG=C.UTF-8", True),
    ("PYTHONIOENCODING=latin-1 LANG=C.UTF-8", True),
]
# Only if the system provides LC_CTYPE as it was before Python set it.
CTYPES = [
    ("LC_CTYPE=C", True),
    ("LC_CTYPE=POSIX LANG=en_US.UTF-8", True),
    ("LC_CTYPE=C.UTF-8 LANG=C", False),
    ("LC_CTYPE=C.UTF-8 LANG=C PYTHONUTF8=1", False),
]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locales")
@pytest.mark.parametrize(("environ", "ascii_only"), LOCALES + (CTYPES if Path("/proc/self/environ").exists() else []))
def test_the_locale_decides(environ: str, ascii_only: bool) -> None:
    """The first set one of LC_ALL, LC_CTYPE and LANG decides. Python itself sets LC_CTYPE in the C locale."""
    clean = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", "import os; from twusage.cli.output import *; print(is_ascii_only(os.environ))"],
        env=clean | {"PYTHONPATH": str(ROOT)} | dict(pair.split("=") for pair in environ.split()),
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == [str(ascii_only).encode()]


@pytest.mark.parametrize(("at_start", "ascii_only"), [(None, True), ("C", True), ("C.UTF-8", False)])
def test_what_python_set(at_start: str | None, ascii_only: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In UTF-8 mode, an LC_CTYPE that may be Python's own does not count."""
    monkeypatch.setattr(sys, "flags", _Flags())
    monkeypatch.setattr(output, "_ctype_at_start", lambda: at_start)
    assert is_ascii_only({"LC_CTYPE": "C.UTF-8", "LANG": "C"}) is ascii_only


@pytest.mark.parametrize(
    ("content", "found"), [(b"A=1\0LC_CTYPE=C\0", "C"), (b"A=1\0", None), (b"", None), (None, None)]
)
def test_the_systems_value(content: bytes | None, found: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux has the environment that the process started with. Other systems do not."""

    def read_bytes(_: Path) -> bytes:
        if content is None:
            raise FileNotFoundError
        return content

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert output._ctype_at_start() == found


def test_a_closed_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure to read it is ignored."""
    monkeypatch.setattr(sys, "stdout", None)
    assert is_ascii_only({}) is False


class _Flags:
    utf8_mode = 1
