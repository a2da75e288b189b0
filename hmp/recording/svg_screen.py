"""A recording played on pyte's screen: what each line showed, and when.

Lines are numbered from the start of the session, and keep their number when the screen scrolls. So scrolling does not
draw every line again: it only moves the window one more step.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

from hmp.recording.cast import OUTPUT, RESIZE
from hmp.recording.svg_cast import Event, Recording
from hmp.recording.svg_terminal import Terminal

_HEX = re.compile("[0-9a-f]{6}")

FRAME = 30
"""Changes less than so many ms after the first are one change: nobody can see them separately."""


class Style(NamedTuple):
    """How characters look. Colours are pyte's names, "on ..." for backgrounds, or six hex digits; "foreground" and
    "background" when reversed."""

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
    """What the screen showed: the (ms, value) of each change of each line, of the window's first line, and of the
    cursor."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns = columns
        self.rows = rows
        self.lines: dict[int, list[tuple[int, Row]]] = {}
        self.top: list[tuple[int, int]] = [(0, 0)]
        self.cursor: list[tuple[int, Cursor]] = [(0, (0, 0))]
        self.unsupported: list[str] = []
        """What the output had that is not drawn."""

    @property
    def last_change(self) -> int:
        """When (ms) the screen changed for the last time."""
        return max([self.top[-1][0], self.cursor[-1][0], *(versions[-1][0] for versions in self.lines.values())])


def play(recording: Recording, *, until: int | None = None) -> Playback:
    """Play a recording, or its beginning up to `until` ms."""
    screen = Terminal(recording.columns, recording.rows)
    playback = Playback(recording.columns, recording.rows)
    for at, events in _frames(recording.events, until):
        for event in events:
            if event.kind == OUTPUT:
                screen.feed(event.text)
            elif event.kind == RESIZE:
                screen.resize(lines=event.size[1], columns=event.size[0])
                playback.columns = max(playback.columns, screen.columns)
                playback.rows = max(playback.rows, screen.lines)
        _note_changes(playback, screen, at)
    playback.unsupported = list(screen.unsupported)
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


def _note_changes(playback: Playback, screen: Terminal, at: int) -> None:
    """Note what changed."""
    top = screen.top
    for y in sorted(screen.dirty):
        if y < screen.lines:
            _note(playback.lines.setdefault(top + y, [(0, ())]), at, _row(screen, y))
    for y in range(screen.lines, playback.rows):  # a window that is smaller now
        if top + y in playback.lines:
            _note(playback.lines[top + y], at, ())
    screen.dirty.clear()
    _note(playback.top, at, top)
    cursor = screen.cursor
    _note(playback.cursor, at, None if cursor.hidden else (min(cursor.x, screen.columns - 1), top + cursor.y))


def _note(track: list[tuple[int, Value]], at: int, value: Value) -> None:
    # Of several values at one time only the last was seen.
    if track[-1][0] == at:
        track.pop()
    if not track or track[-1][1] != value:
        track.append((at, value))


def _row(screen: Terminal, y: int) -> Row:
    line = screen.buffer[y]
    runs: list[Run] = []
    whole = True
    for x in range(screen.columns):
        char = line[x]
        style = _style(char)
        # Wide and joined characters stand alone: their own width depends on the reader's font.
        alone = char.data not in ("", " ") and (len(char.data) > 1 or not line[x + 1].data)
        last = runs[-1] if runs else None
        if (
            last is not None
            and last.x + last.cells == x
            # pyte gives the second cell of a wide character no text.
            and (not char.data or (whole and not alone and last.style == style))
        ):
            runs[-1] = Run(last.x, last.cells + 1, last.text + char.data, last.style)
        elif char.data != " " or style != Style():
            runs.append(Run(x, 1, char.data, style))
        # Nothing joins a character that stands alone.
        if char.data:
            whole = not alone
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
    fg, bg = [color.replace("bf", "br") for color in (char.fg, char.bg)]  # pyte spells one of its colours wrong
    if bg != "default" and not _HEX.fullmatch(bg):
        bg = f"on {bg}"
    if char.reverse:  # each keeps its shade: the pair is as easy to read as before
        fg, bg = bg if bg != "default" else "background", fg if fg != "default" else "foreground"
    return Style(fg, bg, char.bold, char.italics, char.underscore, char.strikethrough)
