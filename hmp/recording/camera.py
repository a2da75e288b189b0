"""A screen, and the control sequences that turn what was recorded of it into what it shows now.

The output of prompt_toolkit and rich is not recorded as it is: another version may draw the same screen with other
bytes. Here the same change always gives the same bytes.
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
"""Surrogates stand for bytes that were no text. They cannot be encoded, so another character is recorded."""


def _color(name: str, base: int) -> list[int]:
    """Return the SGR numbers of a colour that pyte names; `base` is 30 for text, 40 for its background."""
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
    """Return the sequence that sets the colours and style of a character, whatever they were before."""
    flags = [number for name, number in _FLAGS if getattr(char, name)]
    return f"\x1b[{';'.join(map(str, [0, *flags, *_color(char.fg, 30), *_color(char.bg, 40)]))}m".replace("[0m", "[m")


class Camera:
    """A screen that is fed with output; `changes` returns what is new on it since the last call."""

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
        """The rows of the screen, without blanks at their ends. Rows that the edge broke are joined."""
        screen, text = self.screen, ""
        for y in range(screen.lines):
            row = "".join([char.data for char in self.row(y)])
            text = text + row if screen.buffer[y].wrapped else f"{text.rstrip()}\n{row}"
        return text.rstrip().removeprefix("\n")

    def changes(self) -> str:
        """Return what to print so that the screen of the last call looks as it does now."""
        screen = self.screen
        text, place = "", self._place
        scrolled = min(screen.top - self._top, screen.lines)
        self._top = screen.top
        if scrolled:
            text = f"\x1b[{screen.lines};1H" + "\n" * scrolled
            place = screen.lines - 1, 0
            blank = [screen.default_char] * screen.columns
            self._seen = self._seen[scrolled:] + [blank] * scrolled
        # After a scroll all rows are compared: pyte marks only those that were drawn, and the others have moved.
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
        """Return what draws the changed part of a row, and where the cursor is after it (row, column)."""
        columns, plain = len(new), self.screen.default_char
        differing = [x for x in range(columns) if old[x] != new[x]]
        start, end = differing[0], differing[-1] + 1
        while start and not (old[start].data and new[start].data):  # half of a wide character
            start -= 1
        while end < columns and not (old[end].data and new[end].data):
            end += 1
        blank = columns
        # Blanks at the end are erased and not printed: shorter, and a copy of the text has none.
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
        # After the last column terminals differ about where the cursor is: (-1, -1) makes the next move absolute.
        return text, (y, at) if at < columns else (-1, -1)
