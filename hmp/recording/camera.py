"""A screen whose changes are written down in control sequences of our own: few kinds, the same for the same change.

What a program printed is not: the same picture comes in other bytes from the next version of a library.
"""

from __future__ import annotations

import re
from itertools import repeat

from pyte.graphics import FG_BG_256
from pyte.screens import Char

from hmp.recording.svg_terminal import Terminal

_NAMES = ("black", "red", "green", "brown", "blue", "magenta", "cyan", "white")
_SHADES = {name: number for number, name in enumerate(_NAMES)}
_INDEX = {color: number for number, color in reversed([*enumerate(FG_BG_256)][16:])}
_FLAGS = (("bold", 1), ("italics", 3), ("underscore", 4), ("reverse", 7), ("strikethrough", 9))
_SURROGATES, _UNSEEN = re.compile("[\ud800-\udfff]"), "\ufffd"
"""Bytes that are no text, and what is written in their place: no file of text can hold them."""


def _color(name: str, base: int) -> list[int]:
    """Return the numbers of a colour as pyte names it; `base` is 30 for text, 40 for what is behind it."""
    name = name.replace("bf", "br")  # pyte spells one of its colours wrong
    if name == "default":
        return []
    if name in _SHADES:
        return [base + _SHADES[name]]
    if name.startswith("bright"):
        shade = name.removeprefix("bright").replace("yellow", "brown")
        # Faint: on many terminals bright black cannot be read.
        return [2] if shade == "black" and base == 30 else [base + 60 + _SHADES[shade]]
    if name in _INDEX:
        return [base + 8, 5, _INDEX[name]]
    return [base + 8, 2, *bytes.fromhex(name)]


def _look(char: Char) -> str:
    """Return the sequence that switches a character's looks on, whatever they were before."""
    flags = [number for name, number in _FLAGS if getattr(char, name)]
    return f"\x1b[{';'.join(map(str, [0, *flags, *_color(char.fg, 30), *_color(char.bg, 40)]))}m".replace("[0m", "[m")


class Camera:
    """A screen that is fed with what is drawn, and what was seen of it last."""

    def __init__(self, columns: int, rows: int) -> None:
        self.screen = Terminal(columns, rows)
        self._top = 0
        self._seen = [self.row(y) for y in range(rows)]
        self._place: tuple[int, int] = (0, 0)
        self._hidden = False

    def row(self, y: int) -> list[Char]:
        """Return the cells of a row."""
        line = self.screen.buffer[y]
        return [*map(line.get, range(self.screen.columns), repeat(line.default))]

    @property
    def text(self) -> str:
        """The rows of the screen, without the blanks at their ends; one that goes on with the row before is joined."""
        screen, text = self.screen, ""
        for y in range(screen.lines):
            row = "".join([char.data for char in self.row(y)])
            text = text + row if screen.buffer[y].wrapped else f"{text.rstrip()}\n{row}"
        return text.rstrip().removeprefix("\n")

    def changes(self) -> str:
        """Return what to print to make of the screen as it was the last time what it is now."""
        screen = self.screen
        text, place = "", self._place
        scrolled = min(screen.top - self._top, screen.lines)
        self._top = screen.top
        if scrolled:
            text = f"\x1b[{screen.lines};1H" + "\n" * scrolled
            place = screen.lines - 1, 0
            blank = [screen.default_char] * screen.columns
            self._seen = self._seen[scrolled:] + [blank] * scrolled
        for y in sorted(screen.dirty) if not scrolled else range(screen.lines):
            if y < screen.lines and (row := self.row(y)) != self._seen[y]:
                drawn, place = self._draw(y, self._seen[y], row, place)
                text += drawn
                self._seen[y] = row
        screen.dirty.clear()
        cursor = screen.cursor
        now = cursor.y, min(cursor.x, screen.columns - 1)
        text += self._move(place, now)
        self._place = now
        if cursor.hidden != self._hidden:
            self._hidden = cursor.hidden
            text += "\x1b[?25l" if cursor.hidden else "\x1b[?25h"
        return text

    def _move(self, before: tuple[int, int], to: tuple[int, int]) -> str:
        if before == to:
            return ""
        if to[1] == 0 and to[0] == before[0]:
            return "\r"
        if to == (before[0] + 1, 0):
            return "\r\n"
        return f"\x1b[{to[0] + 1};{to[1] + 1}H"

    def _draw(self, y: int, old: list[Char], new: list[Char], place: tuple[int, int]) -> tuple[str, tuple[int, int]]:
        """Return what draws the part of a row that changed, and where the cursor is then."""
        columns, plain = len(new), self.screen.default_char
        differing = [x for x in range(columns) if old[x] != new[x]]
        start, end = differing[0], differing[-1] + 1
        while start and not (old[start].data and new[start].data):  # half of a wide character
            start -= 1
        while end < columns and not (old[end].data and new[end].data):
            end += 1
        blank = columns
        while blank > start and new[blank - 1] == plain:
            blank -= 1
        text, look = self._move(place, (y, start)), plain
        for char in new[start : min(end, blank)]:
            if char[1:] != look[1:]:
                look = char
                text += _look(char)
            text += _SURROGATES.sub(_UNSEEN, char.data)
        text += "\x1b[m" * (look[1:] != plain[1:])
        if end > blank:
            text += "\x1b[K"
        at = min(end, blank)
        # Behind the last column a cursor is in two places, as terminals go.
        return text, (y, at) if at < columns else (-1, -1)
