"""Draws the terminal pictures of the README and the site: ``python docs/pictures.py``, or ``nox -s pictures``.

They show the real output of ``twusage show --demo`` at a fixed time, as SVG. Block characters are rectangles, because
fonts leave gaps between them. With ``--check`` it only compares, and exits with 1 if a picture is out of date.
"""

from __future__ import annotations

import re
import sys
from itertools import groupby
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from cli_output import run
from rich.console import Console
from rich.text import Text

STATIC = Path(__file__).parent / "_static"
COMMAND = "show --demo"
CELL, LINE, MARGIN = 9, 20, 12
FONT = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
PAPER_AND_INK = {"light": ("#ffffff", "#1f2328"), "dark": ("#0d1117", "#e6edf3")}
EIGHTHS = " ▏▎▍▌▋▊▉█"
SHADES = {"▒": 0.55, "░": 0.3}
BARS = {*EIGHTHS[1:], *SHADES}


class Style(NamedTuple):
    """Return a character's style: colours as ``#rrggbb``, or None for the default."""

    color: str | None
    background: str | None
    bold: bool
    dim: bool


def picture(mode: str) -> str:
    """Return the SVG of the command's output, ``light`` or ``dark``."""
    paper, ink = PAPER_AND_INK[mode]
    screen = run(COMMAND, color=True)
    lines = Text.from_ansi(f"$ twusage {COMMAND}\n{screen}".rstrip("\n")).split("\n")
    width, height = 80 * CELL + 2 * MARGIN, len(lines) * LINE + 2 * MARGIN
    drawn = [_line(line, MARGIN + row * LINE, ink) for row, line in enumerate(lines)]
    plain = "\n".join(line.plain.rstrip() for line in lines)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n'
        f"<desc>{escape(plain)}</desc>\n"
        f'<rect width="{width}" height="{height}" rx="8" fill="{paper}" stroke="{ink}" stroke-opacity=".25"/>\n'
        f'<g font-family="{FONT}" font-size="15" fill="{ink}" shape-rendering="crispEdges">\n'
        f"{''.join(drawn)}</g>\n</svg>\n"
    )


def _line(line: Text, top: int, ink: str) -> str:
    console = Console()
    cells = []
    for offset, character in enumerate(line.plain):
        style = line.get_style_at_offset(console, offset)
        color = style.color.get_truecolor().hex if style.color else None
        background = style.bgcolor.get_truecolor().hex if style.bgcolor else None
        cells.append((character, Style(color, background, bold=bool(style.bold), dim=bool(style.dim))))
    drawn, column = "", 0
    for style, group in groupby(cells, key=lambda cell: cell[1]):
        for is_bar, part in groupby((character for character, _ in group), key=BARS.__contains__):
            text = "".join(part)
            drawn += (_bar if is_bar else _words)(text, column, top, style, ink)
            column += len(text)
    return drawn


def _bar(text: str, column: int, top: int, style: Style, ink: str) -> str:
    """Return rectangles: one per run, and one per partial cell's background."""
    drawn = ""
    for character, equal in groupby(text):
        count = len(list(equal))
        left, color = MARGIN + column * CELL, style.color or ink
        if style.background:
            drawn += _rectangle(left, top + 2, count * CELL, style.background)
        part = 8 if character in SHADES else EIGHTHS.index(character)
        drawn += _rectangle(left, top + 2, (count - 1) * CELL + CELL * part / 8, color, SHADES.get(character, 1))
        column += count
    return drawn


def _rectangle(left: float, top: float, width: float, color: str, opacity: float = 1) -> str:
    shade = "" if opacity == 1 else f' fill-opacity="{opacity}"'
    return f'<rect x="{left}" y="{top}" width="{width:g}" height="{LINE - 4}" fill="{color}"{shade}/>\n'


def _words(text: str, column: int, top: int, style: Style, ink: str) -> str:
    """Return text elements, one per column of words. Renderers collapse runs of spaces."""
    looks = ' font-weight="bold"' * style.bold + ' fill-opacity=".7"' * style.dim
    looks += f' fill="{style.color}"' if style.color not in {None, ink} else ""
    drawn = ""
    for words in re.finditer(r"\S+(?: \S+)*", text):
        left, length = MARGIN + (column + words.start()) * CELL, len(words[0]) * CELL
        drawn += f'<text x="{left}" y="{top + 15}" textLength="{length}"{looks}>{escape(words[0])}</text>\n'
    return drawn


def main() -> int:
    """Draw the pictures, or only compare them."""
    stale = 0
    for mode in PAPER_AND_INK:
        path, drawn = STATIC / f"terminal-{mode}.svg", picture(mode)
        if "--check" not in sys.argv:
            path.write_text(drawn, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != drawn:
            sys.stderr.write(f"{path.name} is out of date: python docs/pictures.py\n")
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main())
