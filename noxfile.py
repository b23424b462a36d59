"""The project's chores. `nox` runs all that must be green; `nox -l` lists them; CONTRIBUTING.md tells what each proves.

What belongs here: how to run a tool. What it demands is written in pyproject.toml, and nowhere a second time: versions,
dependencies and lowest versions are read from there.
"""

import re
import shutil
import zipfile
from pathlib import Path

import nox
from packaging.requirements import Requirement
from packaging.version import Version

# The first nox that runs an interpreter before it believes in it: an older one takes a pyenv shim of a version that is
# not selected for a Python, and fails instead of skipping.
nox.needs_version = ">=2026.8.10"
nox.options.error_on_missing_interpreters = False
nox.options.download_python = "never"
# Not uv, even where it is installed: pip's settings (an index, a certificate) hold everywhere.
nox.options.default_venv_backend = "virtualenv"
nox.options.sessions = ["lint", "types", "layers", "tests", "tests_plain", "lowest", "docs", "build"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
PROJECT = PYPROJECT["project"]
PYTHONS = nox.project.python_versions(PYPROJECT)
OLDEST = PYTHONS[0]
EXTRAS = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
# What no extra and no other version of a dependency changes.
WITHOUT_LONG = ["--ignore=tests/fuzz", "--ignore=tests/soak"]
WITH_EXTRAS = f".[{','.join(PROJECT['optional-dependencies'])}]"


def group(*names: str) -> tuple[str, ...]:
    """The requirements of these dependency groups."""
    return nox.project.dependency_groups(PYPROJECT, *names)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """All tests, with all extras; on the oldest Python every line and every branch must be run."""
    session.install("-e", WITH_EXTRAS, *group("tests"))
    if session.python != OLDEST or session.posargs:  # Some of the tests cover some of the code.
        session.run("pytest", *session.posargs)
        return
    session.run("coverage", "run", "-m", "pytest")
    # Without a Redis or a PostgreSQL its tests skip themselves, and cover nothing. In CI they may not skip.
    untested = [] if shutil.which("redis-server") else ["twusage/integrations/redis.py"]
    if not (shutil.which("initdb") or any(Path("/usr/lib/postgresql").glob("*/bin/initdb"))):
        untested.append("twusage/monitor/history*.py")
    session.run("coverage", "report", *([f"--omit={','.join(untested)}"] if untested else []))


@nox.session(python=PYTHONS)
def tests_plain(session: nox.Session) -> None:
    """The tests without any extra: what needs one skips itself, and nothing else needs one. Not the fault catalogue, to
    which extras are all one.
    """
    session.install("-e", ".", *group("tests"))
    # A test tool that brings an extra along would make this session prove nothing. 1: pip knows none of them.
    names = sorted({Requirement(line).name for line in EXTRAS})
    session.run("python", "-m", "pip", "show", *names, success_codes=[1], silent=True)
    session.run("pytest", *(session.posargs or ["-m", "not fault", *WITHOUT_LONG]))


@nox.session(python=OLDEST)
def lowest(session: nox.Session) -> None:
    """All tests, on the lowest versions that pyproject.toml allows of everything that a user installs."""
    session.install("-e", WITH_EXTRAS, *group("tests"), *_lowest_versions(session))
    session.run("pytest", *(session.posargs or WITHOUT_LONG))


def _lowest_versions(session: nox.Session) -> list[str]:
    lowest: dict[str, Version] = {}
    for line in [*PROJECT["dependencies"], *EXTRAS]:
        requirement = Requirement(line)
        bounds = [Version(bound.version) for bound in requirement.specifier if bound.operator == ">="]
        if not bounds:
            session.error(f"pyproject.toml gives {requirement.name} no lower bound")
        # Two extras may ask for the same package: together they get the higher of the two.
        lowest[requirement.name] = max(*bounds, lowest.get(requirement.name, Version("0")))
    return [f"{name}=={version}" for name, version in sorted(lowest.items())]


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff's rules and its format. `nox -s lint -- fix` mends what ruff can mend."""
    session.install(*group("lint"))
    mend = "fix" in session.posargs
    session.run("ruff", "check", *(["--fix"] if mend else []), ".")
    session.run("ruff", "format", *([] if mend else ["--check", "--diff"]), ".")


@nox.session(python=OLDEST)
def types(session: nox.Session) -> None:
    """Mypy, strict, over the package, the tests, the docs' own code and this file."""
    session.install("-e", WITH_EXTRAS, *group("tests", "docs", "types"))
    session.run("mypy", *session.posargs)


@nox.session
def layers(session: nox.Session) -> None:
    """Imports point down only: the layers, and who may import what, are drawn in pyproject.toml."""
    session.install(*group("layers"))
    session.run("lint-imports", "--no-cache")


@nox.session
def docs(session: nox.Session) -> None:
    """The site, in docs/_build/html. A reference that leads nowhere is an error."""
    session.install("-e", WITH_EXTRAS, *group("docs"))
    strict = ("-W", "--keep-going", "-n", "-E", "-q")
    session.run("sphinx-build", *strict, "-d", "docs/_build/doctrees", "-b", "html", "docs", "docs/_build/html")


@nox.session(python=OLDEST)
def pictures(session: nox.Session) -> None:
    """Draw the pictures of README and site from the real command, with a fixed clock."""
    session.install("-e", WITH_EXTRAS)
    session.run("python", "docs/pictures.py")


@nox.session(python=OLDEST)
def bench(session: nox.Session) -> None:
    """What a call costs, as a ratio to what people would use instead. It writes docs/speed.md's table and its JSON.

    Not among the defaults: its figures are this machine's. `-- --dry` writes nothing, `-- decode` measures that only.
    """
    session.install("-e", ".", *group("tests", "bench"))
    session.run("python", "tests/bench/bench.py", *session.posargs)


@nox.session(python=OLDEST)
def mutation(session: nox.Session) -> None:
    """Whether the tests of the rate limit would notice: mutmut breaks one small thing after the other, they must fail.

    Not among the defaults: it takes minutes, and its result changes only with these modules. `-- NAME` shows a mutant.
    """
    session.install("-e", WITH_EXTRAS, *group("tests", "mutation"))
    # Away from the checkout, so that no other tool stumbles over a thousand broken copies.
    scratch = Path(session.create_tmp(), "scratch")
    if not session.posargs:
        shutil.rmtree(scratch, ignore_errors=True)
        for name in ("twusage", "tests"):
            shutil.copytree(name, scratch / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy("pyproject.toml", scratch)
    session.chdir(scratch)
    if session.posargs:
        session.run("mutmut", "show", *session.posargs)
        return
    session.run("mutmut", "run", silent=True)  # hundreds of lines of progress; shown where it fails
    results = session.run("mutmut", "results", "--all", "true", silent=True, log=False) or ""
    ends = re.findall(r"^ *(\S+)\.(x\S+__mutmut_\d+): (.+)$", results, re.MULTILINE)  # module, mutant, how it ended
    failed = []
    for module in sorted({module for module, _, _ in ends}):
        alive = [mutant for of, mutant, end in ends if of == module and end not in {"killed", "timeout"}]
        total = sum(of == module for of, _, _ in ends)
        session.log(f"{module}: {total - len(alive)} of {total} killed, {1 - len(alive) / total:.1%}")
        for mutant in alive:
            session.run("mutmut", "show", f"{module}.{mutant}", log=False)
        failed += [module] if len(alive) > 0.05 * total else []
    if failed or not ends:
        session.error(f"more than 5% of the mutants live, or there are none: {failed}")


@nox.session(python=OLDEST)
def fleet(session: nox.Session) -> None:
    """64 processes, a real Redis, and a server that counts 429s: none. `-- --processes 8 --windows 3` is shorter."""
    session.install("-e", ".[redis]")
    session.run("python", "tests/fleet/fleet.py", *session.posargs)


@nox.session(python=OLDEST)
def faults(session: nox.Session) -> None:
    """The fault catalogue, a line a layer. `tests` runs it too; here it is counted."""
    session.install("-e", WITH_EXTRAS, *group("tests"))
    session.run("pytest", "-m", "fault", "-q", "--no-header", "tests", *session.posargs)


@nox.session(python=OLDEST)
def sim(session: nox.Session) -> None:
    """The rate limit, simulated: what 500 calls cost in every world, and by other rules. The tests run a part of it."""
    session.install("-e", ".", *group("tests"))
    session.run("python", "tests/sim/simulate.py", *session.posargs)


@nox.session(python=OLDEST)
def forecast(session: nox.Session) -> None:
    """The forecast's error, and how often its range holds, on 1,100 new projects. `-- --seed 1` repeats a run."""
    session.install("-e", ".")
    session.run("python", "tests/forecast/forecast_table.py", *session.posargs)


@nox.session(python=OLDEST)
def fuzz(session: nox.Session) -> None:
    """A million answers that nobody foresaw, and what must be true of each. `-- --cases 5000000` is the long form."""
    session.install("-e", ".[speed]", *group("tests"))  # so that both readers are compared
    session.run("python", "tests/fuzz/fuzz.py", *session.posargs)


@nox.session(python=OLDEST)
def soak(session: nox.Session) -> None:
    """200,000 requests over a socket, and a year of polling in 30 worlds. `-- --requests 1000000` is the long form."""
    session.install("-e", ".", *group("tests"))
    session.run("python", "tests/soak/soak.py", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """What a user gets: an sdist, a wheel made from it, and the wheel installed where the checkout is out of sight."""
    session.install(*group("build"))
    away = Path(session.create_tmp())
    for old in away.glob("twusage-*"):
        old.unlink()
    session.run("python", "-m", "build", "--outdir", str(away), silent=True)
    (wheel,) = away.glob("*.whl")
    _inspect(session, wheel)
    session.install("--force-reinstall", f"{wheel}[cli]")
    session.chdir(away)
    session.run("python", "-P", "-c", _INSTALLED, PROJECT["name"], log=False)
    session.run("twusage", "--version")


# Run with the installed wheel, by a Python that does not look into the current directory.
_INSTALLED = """
import importlib, importlib.resources, sys, sysconfig, pathlib
package = importlib.import_module(sys.argv[1])
for name in package.__all__:
    getattr(package, name)
assert pathlib.Path(package.__file__).is_relative_to(sysconfig.get_path("purelib")), package.__file__
assert importlib.resources.files(package).joinpath("py.typed").is_file()
"""


def _inspect(session: nox.Session, wheel: Path) -> None:
    """The wheel holds the package, all of it, and metadata: nothing else."""
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = {str(path) for path in Path("twusage").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    if packed != package:
        session.error(f"in the wheel or in twusage/, but not in both: {sorted(packed ^ package)}")
    if "twusage/py.typed" not in packed:
        session.error("twusage/py.typed is missing: type checkers would take the package for untyped")
