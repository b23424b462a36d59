"""``twusage report``: the page as one file."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from io import BytesIO

import click

from twusage.cli.call import Access, call_options, max_wait_option, viewed
from twusage.cli.output import write
from twusage.display.view import View
from twusage.errors import ConfigurationError
from twusage.protocol import usage_request

__all__ = ["report"]


_PICTURE_WIDTH = 1200
"""Pixels."""


def _checked_output(_: click.Context, __: click.Parameter, output: str) -> str:
    if output != "-" and not output.lower().endswith((".html", ".png")):
        raise click.UsageError("-o takes a file that ends with .html or .png, or - for HTML on stdout")
    return output


def _checked_days(_: click.Context, __: click.Parameter, days: int) -> int:
    usage_request(days=days)  # raises what the call would raise, before anything looks for a token
    return days


@click.command(short_help="Write the page of serve into one file.")
@click.option(
    "-o",
    "--output",
    "output",
    required=True,
    metavar="FILE",
    callback=_checked_output,
    help="The file, which ends with .html or .png; - writes HTML on stdout.",
)
@click.option(
    "--days",
    type=int,
    default=30,
    show_default=True,
    metavar="N",
    callback=_checked_days,
    help="How many days to show, 1 to 90.",
)
@click.option("--title", metavar="TEXT", help="The heading.  [default: the project's id]")
@max_wait_option
@call_options
def report(*, access: Access, output: str, days: int, title: str | None, max_wait: float) -> None:
    """Write whether the cap will last, the days and the apps into one file, for a mail or a CI job.

    \b
    $ twusage report --demo -o report.html
    $ twusage report --days 90 -o report.png

    The HTML file has no script and needs no other file. Where style sheets are forbidden, as in Jenkins, its pictures
    keep their colours. A picture needs the extra plot. One call of GET /2/usage/tweets.
    """  # noqa: D301 - click's mark for lines that are not wrapped
    if output.lower().endswith(".png"):
        _require("matplotlib", "plot")
        _replace(output, _picture(viewed(access, max_wait=max_wait, days=days), access, title))
        return
    _require("jinja2", "cli")
    from twusage.display import html

    text = html.report(viewed(access, max_wait=max_wait, days=days), title=title)
    if output == "-":
        write(text)
    else:
        _replace(output, text.encode())


def _require(module: str, extra: str) -> None:
    try:
        __import__(module)
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"report needs {error.name}: pip install 'twusage[{extra}]'") from None


def _picture(view: View, access: Access, title: str | None) -> bytes:
    from twusage.integrations.matplotlib import plot_usage

    figure = plot_usage(view.shown, names=access.names).get_figure(root=True)
    assert figure is not None  # plot_usage made it
    figure.suptitle(f"{title}: {view.verdict.headline}" if title else view.verdict.headline, parse_math=False)
    content = BytesIO()
    figure.savefig(content, format="png", dpi=_PICTURE_WIDTH / figure.get_figwidth())
    return content.getvalue()


def _replace(path: str, content: bytes) -> None:
    """Replace the file atomically: a reader sees the old one or the new one, and a failure leaves the old one."""
    path = os.path.realpath(path)
    try:
        _write_and_rename(path, content)
    except OSError as error:
        raise OSError(error.errno, f"the report cannot be written: {error.strerror}") from None


def _write_and_rename(path: str, content: bytes) -> None:
    descriptor, draft = tempfile.mkstemp(prefix=".twusage-", dir=os.path.dirname(path))  # noqa: PTH120
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(draft, 0o666 & ~umask)  # noqa: PTH101 - mkstemp gives 0600; a report is for others, too
        os.replace(draft, path)  # noqa: PTH105
    except BaseException:
        with suppress(OSError):
            os.unlink(draft)  # noqa: PTH108
        raise
