"""The cost of a call, as a ratio to that of its alternatives: `nox -s bench`.

It prints a line for each row of docs/speed.md, and writes docs/bench.json and that page's table. ``--dry`` writes
nothing; a name, such as ``decode``, measures that only, and writes nothing either.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import speed_table

# In the order of the table. Only decode_with_msgspec can import msgspec, because twusage uses it if it can.
MEASURES = (
    "calls", "pacing", "decode", "decode_with_msgspec", "memory", "monitor", "imports", "fake", "fleet", "growth"
)  # fmt: skip
PEERS = ("twusage", "aiohttp", "aioresponses", "cattrs", "httpx", "msgspec", "orjson", "pydantic", "tweepy", "xdk")


def main() -> None:
    """Measure, print and write. Or, as a child of that, measure one thing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *MEASURES], help="measure these only")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(*given.measure)
        return
    page = speed_table.PAGE.read_text(encoding="utf-8")
    rows: dict[str, Any] = {}
    for name in given.names or MEASURES:
        start = time.perf_counter()
        command = [sys.executable, __file__, "--measure", name]
        measured = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        rows |= measured
        for row in speed_table.ROWS:
            if row.key in measured:
                print(speed_table.line(row, measured[row.key]), flush=True)
        print(f"({name}: {time.perf_counter() - start:.0f} s)", flush=True)
    if given.dry or given.names:
        return
    figures = {
        "day": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": machine(),
        "versions": {name: metadata.version(name) for name in PEERS},
        "rows": rows,
    }
    speed_table.FIGURES.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    speed_table.PAGE.write_text(speed_table.page_with(page, figures), encoding="utf-8")


def measure(name: str, *arguments: str) -> None:
    """Measure one thing in this process, and print it as JSON."""
    with_msgspec = name == "decode_with_msgspec"
    if not with_msgspec:
        sys.modules["msgspec"] = None  # type: ignore[assignment]  # as if it were not installed
    # So that the tests' own conftest is found, too.
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import measures

    measures.settle()
    if not with_msgspec:
        del sys.modules["msgspec"]  # a peer needs it
    elif "msgspec" not in sys.modules:
        sys.exit("twusage does not use msgspec, though it is installed")
    print(json.dumps(getattr(measures, name)(*arguments)))


def machine() -> str:
    """In words."""
    cpu = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = {line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line}
        virtual = "hypervisor" in info.read_text()
        cpu = f"{'a virtual machine with ' if virtual else ''}{os.cpu_count()} cores of {' and '.join(sorted(names))}"
    return f"{cpu}, {platform.system()}, {platform.python_implementation()} {platform.python_version()}"


if __name__ == "__main__":
    main()
