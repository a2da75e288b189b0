"""A recording played on pyte's screen: which line showed what, when. This module alone knows pyte.

Lines are numbered from the first of the session on, and keep their number when the screen scrolls: so a scrolled
screen is no new picture of every line, but one more step of the window that looks at them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import pyte

from hmp.recording.cast import OUTPUT, RESIZE
from hmp.recording.svg_cast import CastError, Event, Recording

FRAME = 30
"""Changes less than so many ms after one another are one change: nobody sees them apart."""

_FAINT, _NORMAL, _GRAY, _DEFAULT = 2, 22, 90, 39
_EXTENDED = {5: 2, 2: 4}
"""Numbers that follow 38 and 48 in a colour, by the kind of colour."""


class Style(NamedTuple):
    """How characters look. Colours are pyte's names or six hex digits; "foreground" and "background" when reversed."""

    fg: str = "default"
    bg: str = "default"
    bold: bool = False
    italic: bool = False
    underline: bool = False
    strike: bool = False


class Run(NamedTuple):
    """Characters of one style: text from column `x` on, `cells` wide."""

    x: int
    cells: int
    text: str
    style: Style


Value = TypeVar("Value")
Row = tuple[Run, ...]
Cursor = tuple[int, int] | None
"""Column and line, or None while it is hidden."""


class Playback:
    """What was to be seen: for each line, the window's first line and the cursor, the (ms, value) of each change."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns = columns
        self.rows = rows
        self.lines: dict[int, list[tuple[int, Row]]] = {}
        self.top: list[tuple[int, int]] = [(0, 0)]
        self.cursor: list[tuple[int, Cursor]] = [(0, (0, 0))]

    @property
    def last_change(self) -> int:
        """When (ms) the screen changed for the last time."""
        return max([self.top[-1][0], self.cursor[-1][0], *(versions[-1][0] for versions in self.lines.values())])


class _Screen(pyte.Screen):
    """pyte's screen, counting the lines that scrolled away, and showing faint text as gray."""

    top = 0

    def index(self) -> None:
        if self.margins is None and self.cursor.y == self.lines - 1:
            self.top += 1
        super().index()

    def select_graphic_rendition(self, *attrs: int, **options: Any) -> None:
        found: list[int] = []
        rest = list(attrs)
        while rest:
            number = rest.pop(0)
            if number in (38, 48):
                count = _EXTENDED.get(rest[0], 0) if rest else 0
                found += [number, *rest[:count]]
                del rest[:count]
            elif number == _FAINT:
                found.append(_GRAY)
            elif number == _NORMAL and self.cursor.attrs.fg == "brightblack":
                found += [number, _DEFAULT]
            else:
                found.append(number)
        super().select_graphic_rendition(*found)


def play(recording: Recording, *, until: int | None = None) -> Playback:
    """Play a recording, or its beginning up to `until` ms. Raises CastError for output that can't be drawn."""
    screen = _Screen(recording.columns, recording.rows)
    stream = pyte.Stream(screen)
    playback = Playback(recording.columns, recording.rows)
    for at, events in _frames(recording.events, until):
        for event in events:
            try:
                if event.kind == OUTPUT:
                    stream.feed(event.text)
                elif event.kind == RESIZE:
                    screen.resize(lines=event.size[1], columns=event.size[0])
                    playback.columns = max(playback.columns, screen.columns)
                    playback.rows = max(playback.rows, screen.lines)
            except (TypeError, ValueError, LookupError) as error:  # a sequence that pyte stumbles over
                raise CastError(f"the output at {event.at / 1000} s can't be drawn: {error}") from None
        _note_changes(playback, screen, at)
    return playback


def _frames(events: list[Event], until: int | None) -> Iterator[tuple[int, list[Event]]]:
    """Yield events in groups that are seen as one."""
    group: list[Event] = []
    for event in events:
        if until is not None and event.at > until:
            break
        if group and event.at >= group[0].at + FRAME:
            yield group[0].at, group
            group = []
        group.append(event)
    if group:
        yield group[0].at, group


def _note_changes(playback: Playback, screen: _Screen, at: int) -> None:
    """Note what changed."""
    top = screen.top
    for y in sorted(screen.dirty):
        if y < screen.lines:
            row = _row(screen, y)
            _note(playback.lines.setdefault(top + y, [(0, ())]), at, row)
    screen.dirty.clear()
    _note(playback.top, at, top)
    cursor = screen.cursor
    _note(playback.cursor, at, None if cursor.hidden else (min(cursor.x, screen.columns - 1), top + cursor.y))


def _note(track: list[tuple[int, Value]], at: int, value: Value) -> None:
    if track[-1][0] == at:
        track.pop()
    if not track or track[-1][1] != value:
        track.append((at, value))


def _row(screen: _Screen, y: int) -> Row:
    line = screen.buffer[y]
    runs: list[Run] = []
    end = max(line, default=-1) + 1
    for x in range(min(end, screen.columns)):
        char = line[x]
        style = _style(char)
        last = runs[-1] if runs else None
        if last is not None and last.style == style and last.x + last.cells == x:
            runs[-1] = Run(last.x, last.cells + 1, last.text + char.data, style)
        elif char.data != " " or style != Style():
            runs.append(Run(x, 1, char.data, style))
    return tuple([found for run in runs if (found := _trimmed(run)) is not None])


def _trimmed(run: Run) -> Run | None:
    """Return a run without the blanks at its ends, or None for one of blanks, unless they can be seen."""
    style = run.style
    if style.bg != "default" or style.underline or style.strike:
        return run
    text = run.text.lstrip(" ")
    before = len(run.text) - len(text)
    shorter = text.rstrip(" ")
    if not shorter:
        return None
    return Run(run.x + before, run.cells - before - (len(text) - len(shorter)), shorter, style)


def _style(char: Any) -> Style:
    fg, bg = char.fg, char.bg
    if char.reverse:
        fg, bg = bg if bg != "default" else "background", fg if fg != "default" else "foreground"
    return Style(fg, bg, char.bold, char.italics, char.underscore, char.strikethrough)
