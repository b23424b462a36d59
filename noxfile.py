"""The sessions of nox. `nox` runs all that must pass, `nox -l` lists them, CONTRIBUTING.md describes them.

What belongs here: how to run a tool. Its settings are in pyproject.toml, from which versions and dependencies are read,
so that nothing is written twice.
"""

import re
import shutil
import zipfile
from pathlib import Path

import nox
from packaging.requirements import Requirement
from packaging.version import Version

# Older versions of nox take the pyenv shim of a Python that is not selected for that Python, and fail instead of
# skipping it.
nox.needs_version = ">=2026.8.10"
nox.options.error_on_missing_interpreters = False
nox.options.download_python = "never"
# Not uv, even if it is installed, so that pip's settings (an index, a certificate) always apply.
nox.options.default_venv_backend = "virtualenv"
nox.options.sessions = ["lint", "types", "layers", "tests", "tests_plain", "lowest", "torture", "docs", "build"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
PROJECT = PYPROJECT["project"]
PYTHONS = nox.project.python_versions(PYPROJECT)
OLDEST = PYTHONS[0]
EXTRAS = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
WITH_EXTRAS = f".[{','.join(PROJECT['optional-dependencies'])}]"


def group(*names: str) -> tuple[str, ...]:
    """Return the requirements of these dependency groups."""
    return nox.project.dependency_groups(PYPROJECT, *names)


@nox.session(python=OLDEST)
def quick(session: nox.Session) -> None:
    """Run the unit tests: no socket, no process, no real wait."""
    session.install("-e", WITH_EXTRAS, *group("tests"))
    # The bytecode is kept even if the environment forbids it: compiling the tests takes longer than running them.
    session.run("pytest", "tests/unit", *session.posargs, env={"PYTHONDONTWRITEBYTECODE": ""})


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run unit and integration tests with all extras. On the oldest Python they must cover every line and branch."""
    session.install("-e", WITH_EXTRAS, *group("tests"))
    if session.python != OLDEST or session.posargs:  # Selected tests do not cover everything.
        session.run("pytest", *session.posargs)
        return
    session.run("coverage", "run", "-m", "pytest")
    # Without Redis or PostgreSQL their tests are skipped, or in CI fail.
    untested = [] if shutil.which("redis-server") else ["twusage/integrations/redis.py"]
    if not (shutil.which("initdb") or any(Path("/usr/lib/postgresql").glob("*/bin/initdb"))):
        untested.append("twusage/monitor/history*.py")
    session.run("coverage", "report", *([f"--omit={','.join(untested)}"] if untested else []))


@nox.session(python=OLDEST)
def tests_plain(session: nox.Session) -> None:
    """Run the tests without extras. Those that need one are skipped, and no other fails."""
    session.install("-e", ".", *group("tests"))
    # If a test tool depended on an extra, this session would prove nothing. Exit code 1: pip finds none of them.
    names = sorted({Requirement(line).name for line in EXTRAS})
    session.run("python", "-m", "pip", "show", *names, success_codes=[1], silent=True)
    session.run("pytest", *session.posargs)


@nox.session(python=OLDEST)
def lowest(session: nox.Session) -> None:
    """Run all tests with the lowest allowed versions of the dependencies."""
    session.install("-e", WITH_EXTRAS, *group("tests"), *_lowest_versions(session))
    session.run("pytest", *session.posargs)


def _lowest_versions(session: nox.Session) -> list[str]:
    lowest: dict[str, Version] = {}
    for line in [*PROJECT["dependencies"], *EXTRAS]:
        requirement = Requirement(line)
        bounds = [Version(bound.version) for bound in requirement.specifier if bound.operator == ">="]
        if not bounds:
            session.error(f"pyproject.toml gives {requirement.name} no lower bound")
        # Two extras may require the same package: together they get the higher bound.
        lowest[requirement.name] = max(*bounds, lowest.get(requirement.name, Version("0")))
    return [f"{name}=={version}" for name, version in sorted(lowest.items())]


@nox.session
def lint(session: nox.Session) -> None:
    """Check ruff's rules and format, and the words of the prose. `nox -s lint -- fix` fixes what ruff can."""
    session.install(*group("lint"))
    fix = "fix" in session.posargs
    session.run("ruff", "check", *(["--fix"] if fix else []), ".")
    session.run("ruff", "format", *([] if fix else ["--check", "--diff"]), ".")
    session.run("python", "tests/lint_language.py")


@nox.session(python=OLDEST)
def types(session: nox.Session) -> None:
    """Check package, tests, docs' code and this file with mypy --strict."""
    session.install("-e", WITH_EXTRAS, *group("tests", "docs", "types"))
    session.run("mypy", *session.posargs)


@nox.session
def layers(session: nox.Session) -> None:
    """Check that imports point down only, by the layers in pyproject.toml."""
    session.install(*group("layers"))
    session.run("lint-imports", "--no-cache")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site in docs/_build/html. A broken reference is an error."""
    session.install("-e", WITH_EXTRAS, *group("docs"))
    strict = ("-W", "--keep-going", "-n", "-E", "-q")
    session.run("sphinx-build", *strict, "-d", "docs/_build/doctrees", "-b", "html", "docs", "docs/_build/html")


@nox.session(python=OLDEST)
def pictures(session: nox.Session) -> None:
    """Draw the pictures of README and site from the real command. It needs Debian's Chromium."""
    session.install("-e", WITH_EXTRAS, *group("tests"))
    session.run("python", "docs/pictures.py")
    session.run("python", "docs/dashboard_picture.py")


@nox.session(python=OLDEST)
def bench(session: nox.Session) -> None:
    """Measure the cost of a call relative to the alternatives. It writes the table of docs/speed.md and its JSON.

    Not a default session, because the figures depend on the machine. `-- --dry` writes nothing, `-- decode` measures
    only decoding.
    """
    session.install("-e", ".", *group("tests", "bench"))
    session.run("python", "tests/bench/bench.py", *session.posargs)


@nox.session(python=OLDEST)
def mutation(session: nox.Session) -> None:
    """Break the rate limit's modules with mutmut; a test must fail.

    Not a default session: it takes minutes, and the result changes only with these modules. `-- NAME` shows a mutant.
    """
    session.install("-e", WITH_EXTRAS, *group("tests", "mutation"))
    # Outside the checkout, so that other tools do not find a thousand broken copies.
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
    session.run("mutmut", "run", silent=True)  # hundreds of lines of progress, shown if it fails
    results = session.run("mutmut", "results", "--all", "true", silent=True, log=False) or ""
    ends = re.findall(r"^ *(\S+)\.(x\S+__mutmut_\d+): (.+)$", results, re.MULTILINE)  # module, mutant, result
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
    """Run 64 processes with a real Redis. The server must count no 429. `-- --processes 8 --windows 3` is shorter."""
    session.install("-e", ".[redis]")
    session.run("python", "tests/torture/fleet/fleet.py", *session.posargs)


@nox.session(python=OLDEST)
def torture(session: nox.Session) -> None:
    """Run the fault catalogue, and short forms of the other torture tests.

    They are fuzz, soak, simulation, forecast, monitor and the stateful machine.
    """
    session.install("-e", WITH_EXTRAS, *group("tests"))
    session.run("pytest", "tests/torture", *session.posargs)


@nox.session(python=OLDEST)
def faults(session: nox.Session) -> None:
    """Run the fault catalogue, and count it by layer. `torture` runs it, too."""
    session.install("-e", WITH_EXTRAS, *group("tests"))
    session.run("pytest", "-m", "fault", "-q", "--no-header", "tests", *session.posargs)


@nox.session(python=OLDEST)
def sim(session: nox.Session) -> None:
    """Simulate the cost of 500 calls in every world, by all rules. The tests run a part."""
    session.install("-e", ".", *group("tests"))
    session.run("python", "tests/torture/sim/simulate.py", *session.posargs)


@nox.session(python=OLDEST)
def forecast(session: nox.Session) -> None:
    """Measure the forecast's error and its range's coverage on 1,100 projects. `-- --seed 1` repeats a run."""
    session.install("-e", ".")
    session.run("python", "tests/torture/forecast/forecast_table.py", *session.posargs)


@nox.session(python=OLDEST)
def monitor(session: nox.Session) -> None:
    """Print what a guard lets over the cap, a year of a watch, and what a history loses. `-- guard` runs one of them.

    The other names are `year` and `history`. The tests run short forms.
    """
    session.install("-e", ".[history,postgres]")
    scripts = {"guard": "guard_grid", "year": "virtual_year", "history": "history_table"}
    for name in session.posargs or scripts:
        session.run("python", f"tests/torture/monitor/{scripts[name]}.py")


@nox.session(python=OLDEST)
def fuzz(session: nox.Session) -> None:
    """Decode a million generated responses and check each result. `-- --cases 5000000` is the long form."""
    session.install("-e", ".[speed]", *group("tests"))  # so that both readers are compared
    session.run("python", "tests/torture/fuzz/fuzz.py", *session.posargs)


@nox.session(python=OLDEST)
def soak(session: nox.Session) -> None:
    """Send 200,000 requests over a socket. Poll for a year in 30 worlds. `-- --requests 1000000` is the long form."""
    session.install("-e", ".", *group("tests"))
    session.run("python", "tests/torture/soak/soak.py", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build an sdist and from it a wheel. Install the wheel outside the checkout."""
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


# Run with the installed wheel, without the current directory on sys.path.
_INSTALLED = """
import importlib, importlib.resources, sys, sysconfig, pathlib
package = importlib.import_module(sys.argv[1])
for name in package.__all__:
    getattr(package, name)
assert pathlib.Path(package.__file__).is_relative_to(sysconfig.get_path("purelib")), package.__file__
assert importlib.resources.files(package).joinpath("py.typed").is_file()
"""


def _inspect(session: nox.Session, wheel: Path) -> None:
    """Check that the wheel is complete, and contains nothing else."""
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = {str(path) for path in Path("twusage").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    if packed != package:
        session.error(f"in the wheel or in twusage/, but not in both: {sorted(packed ^ package)}")
    if "twusage/py.typed" not in packed:
        session.error("twusage/py.typed is missing: type checkers would treat the package as untyped")
