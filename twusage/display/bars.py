"""Bars and columns of character cells: parts of a number as coloured blocks or as textures. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate, groupby

from attrs import frozen
from rich.text import Text

__all__ = ["APP_COLORS", "Cell", "Glyphs", "Screen", "bar", "column", "text_of"]

APP_COLORS = ("color(33)", "color(166)", "color(30)", "color(170)", "color(244)")
"""At least 3:1 on white, #0d1117 and black; the last one is for what has no colour of its own."""
_TO_THE_RIGHT = " ▏▎▍▌▋▊▉█"
_UPWARDS = " ▁▂▃▄▅▆▇█"
_EIGHTHS = 8


@frozen
class Glyphs:
    """The characters that a terminal can show."""

    textures: str
    """One for each colour of ``APP_COLORS``."""
    gauge: str
    """Used, forecast, rest."""
    today: str
    cap: str
    dash: str
    safe: str
    """The line of the safe pace."""


_UNICODE = Glyphs("█▓▒░·", "█▒░", "▼", "▲", "–", "╌")
_ASCII = Glyphs("#+-o.", "#=.", "v", "^", "-", "~")


@frozen
class Screen:
    """What is written on."""

    width: int
    """Columns."""
    color: bool = False
    """Whether it shows 256 colours; otherwise parts of a bar differ by texture."""
    ascii_only: bool = False
    """Whether it shows ASCII only."""

    @property
    def glyphs(self) -> Glyphs:
        """The characters for this screen."""
        return _ASCII if self.ascii_only else _UNICODE

    def safe(self, text: str) -> str:
        """The text, with escapes for what the screen cannot show."""
        return text.encode("ascii", "backslashreplace").decode() if self.ascii_only else text

    def mark(self, color: int) -> Cell:
        """The full cell of a part."""
        return (self.glyphs.textures[0 if self.color else color], APP_COLORS[color])

    def key(self, color: int) -> Cell:
        """What stands for a part in a legend: its texture, or a square of its colour."""
        sign, style = self.mark(color)
        return ("■" if self.color and not self.ascii_only else sign, style)


Cell = tuple[str, str]
"""A character and its style."""
_EMPTY = (" ", "")


def text_of(cells: Iterable[Cell]) -> Text:
    """The cells as one text, with one span for each run of a style."""
    text = Text()
    for style, run in groupby(cells, key=lambda cell: cell[1]):
        text.append("".join(character for character, _ in run), style)
    return text


def bar(parts: Sequence[int], colors: Sequence[int], *, scale: float, length: int, screen: Screen) -> list[Cell]:
    """A horizontal bar of at most ``length`` cells; what is not nothing has at least one."""
    cells = _cells(parts, colors, scale, length, screen, _TO_THE_RIGHT)
    return [cell for cell in cells if cell[0] != " "]


def column(parts: Sequence[int], colors: Sequence[int], *, scale: float, length: int, screen: Screen) -> list[Cell]:
    """A column of ``length`` cells, from its foot up; empty cells are spaces."""
    return _cells(parts, colors, scale, length, screen, _UPWARDS)


def _cells(
    parts: Sequence[int], colors: Sequence[int], scale: float, length: int, screen: Screen, blocks: str
) -> list[Cell]:
    # Textures have no eighths.
    steps = _EIGHTHS if screen.color and not screen.ascii_only else 1
    bounds = [min(length * steps, round(end / scale * length * steps)) for end in accumulate(parts)]
    if not sum(parts):
        return [_EMPTY] * length
    if not bounds[-1]:
        bounds = [int(end > 0) for end in accumulate(parts)]
    owners = [bisect_right(bounds, position) for position in range(length * steps)]
    return [_cell(owners[start : start + steps], colors, screen, blocks) for start in range(0, length * steps, steps)]


def _cell(owners: Sequence[int], colors: Sequence[int], screen: Screen, blocks: str) -> Cell:
    first = owners[0]
    if first == len(colors):
        return _EMPTY
    filled = owners.count(first)
    if filled == len(owners):
        return screen.mark(colors[first])
    behind = owners[filled]
    ground = "" if behind == len(colors) else f" on {APP_COLORS[colors[behind]]}"
    return (blocks[filled], f"{APP_COLORS[colors[first]]}{ground}")
