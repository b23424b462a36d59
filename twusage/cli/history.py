"""``twusage history``: record, show, export and load what a project has used."""

from __future__ import annotations

import asyncio
import datetime as dt
import io
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
from rich.text import Text

from twusage.cli.call import Access, call_options, fetched, max_wait_option
from twusage.cli.demo import Demo
from twusage.cli.options import retry_policy
from twusage.cli.output import page, write
from twusage.cli.store import history_option, opened, public_url, telling_if_slow
from twusage.clock import SystemClock
from twusage.display.format import number, plural
from twusage.display.terminal import Cycle, cycles_text

if TYPE_CHECKING:
    from twusage.monitor import History

__all__ = ["history"]

T = TypeVar("T")
_DEMO_URL = "sqlite://"
_CYCLES = 3
"""Past cycles of the demo's history."""


@click.group(short_help="Record, show, export and load past days and cycles.")
def history() -> None:
    """Keep what the project has used, longer than the API does: 90 days.

    \b
    $ twusage history record --history sqlite:///usage.db

    The history is in SQLite or PostgreSQL. --history or the variable TWUSAGE_HISTORY says where; there is no default.
    """  # noqa: D301 - click's mark for lines that are not wrapped


def _options(command: Callable[..., None]) -> Callable[..., None]:
    demo = click.option("--demo", is_flag=True, help="A made-up history in memory, unless --history is given.")
    return demo(history_option(command))


@history.command(short_help="Ask the API once, and store the days and the cycle.")
@history_option
@max_wait_option
@call_options
def record(*, access: Access, url: str | None, max_wait: float) -> None:
    """Ask the API for 90 days, and store them and the count of the cycle.

    \b
    $ twusage history record --history sqlite:///usage.db

    Run it every day from cron: what the API changes later is corrected, and nothing is stored twice. The first run
    stores the past 90 days. Several programs may record into one history at the same time.
    """  # noqa: D301 - click's mark for lines that are not wrapped
    place = _place(url, demo=access.demo is not None)
    usage = fetched(access, retry=retry_policy(max_wait))

    async def store(history: History) -> None:
        await history.record(usage)

    _with(place, store)
    project = usage.daily_project_usage
    days = plural(len(project.usage) if project else 0, "day")
    write(f"recorded {days} and {number(usage.project_usage)} posts of this cycle in {public_url(place)}\n")


@history.command(short_help="Show the recorded billing cycles.")
@click.option("--json", "as_json", is_flag=True, help="The cycles as JSON, by project.")
@_options
def show(*, url: str | None, demo: bool, as_json: bool) -> None:
    """Show each recorded billing cycle: what was used of its cap.

    \b
    $ twusage history show --history sqlite:///usage.db
    $ twusage history show --demo
    """  # noqa: D301 - click's mark for lines that are not wrapped
    place = _place(url, demo=demo)
    found = _with(place, _read, demo=demo and url is None)
    if as_json:
        write(json.dumps({project: _plain(cycles) for project, (cycles, *_) in found.items()}, indent=2) + "\n")
        return
    today = dt.datetime.fromtimestamp(SystemClock().time(), dt.UTC).date()
    titles = {
        project: ", ".join((public_url(place), *([f"project {project}"] if len(found) > 1 else []), *_extent(*what)))
        for project, what in found.items()
    }
    write(
        page(
            lambda screen: (
                Text("\n\n").join(
                    cycles_text(cycles, screen, title=titles[project], today=today)
                    for project, (cycles, *_) in found.items()
                )
                if found
                else cycles_text([], screen, title=public_url(place), today=today)
            )
        )
    )


@history.command(short_help="Write all days as CSV.")
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@_options
def export(*, file: Path | None, url: str | None, demo: bool) -> None:
    """Write all recorded days as CSV to FILE, or to stdout.

    \b
    $ twusage history export usage.csv --history sqlite:///usage.db

    The columns are project_id, client_app_id (empty: the project), date, usage and seen_at. 'history load' reads them.
    """  # noqa: D301 - click's mark for lines that are not wrapped
    paper = io.StringIO()

    async def export_to(history: History) -> int:
        with _naming("the file cannot be written"):
            return await history.export(paper if file is None else file)

    with telling_if_slow("exporting the history ..."):
        count = _with(_place(url, demo=demo), export_to, demo=demo and url is None)
    if file is None:
        write(paper.getvalue())
    else:
        write(f"exported {plural(count, 'row')}\n")


@history.command(short_help="Merge what 'export' wrote: all of it or nothing.")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@_options
def load(*, file: Path, url: str | None, demo: bool) -> None:
    """Merge the CSV of 'history export' into the history; - is stdin.

    \b
    $ twusage history load usage.csv --history postgresql://localhost/usage

    All of it or nothing. Of two counts for one day the one seen later wins, so that loading twice changes nothing.
    """  # noqa: D301 - click's mark for lines that are not wrapped

    async def load_from(history: History) -> int:
        with _naming("the file cannot be read"):
            return await history.load(sys.stdin if str(file) == "-" else file)

    with telling_if_slow("loading the history ..."):
        count = _with(_place(url, demo=demo), load_from, demo=demo and url is None)
    write(f"loaded {plural(count, 'row')}\n")


# -- What they share ---------------------------------------------------------------------------------------------------

_Found = dict[str, tuple[list[Cycle], int, dt.date | None]]


def _place(url: str | None, *, demo: bool) -> str:
    if url is None and not demo:
        raise click.UsageError("a history is needed: give --history sqlite:///usage.db, or set TWUSAGE_HISTORY")
    return url or _DEMO_URL


@contextmanager
def _naming(failure: str) -> Iterator[None]:
    """Name what failed in an OSError, of which only the system's reason is shown."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{failure}: {error.strerror}") from None


def _with(url: str, job: Callable[[History], Awaitable[T]], *, demo: bool = False) -> T:
    async def run() -> T:
        async with opened(url) as history:
            if demo:
                await _fill(history)
            return await job(history)

    return asyncio.run(run())


async def _fill(history: History) -> None:
    """Record what the demo's project used in its past cycles and in this one."""
    for usage in Demo().past_and_present(_CYCLES):
        await history.record(usage)


async def _read(history: History) -> _Found:
    found: _Found = {}
    for project in await history.projects():
        cycles = [Cycle(each.start, each.end, each.usage, each.cap) for each in await history.cycles(project)]
        days = await history.days(project, dt.date.min, dt.date.max)
        found[project] = cycles, len(days), days.dates[0] if days else None
    return found


def _extent(cycles: list[Cycle], days: int, oldest: dt.date | None) -> list[str]:
    since = [] if oldest is None else [f"the oldest {oldest.day} {oldest:%b} {oldest.year}"]
    return [plural(len(cycles), "cycle"), plural(days, "day"), *since]


def _plain(cycles: list[Cycle]) -> list[dict[str, object]]:
    return [
        {"start": each.start.isoformat(), "end": each.end.isoformat(), "used": each.used, "cap": each.cap}
        for each in cycles
    ]
