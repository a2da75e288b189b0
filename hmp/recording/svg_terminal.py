"""pyte's screen with what xterm does and pyte does not, as far as a picture shows it.

pyte's own parser is not used, because it prints the rest of a sequence that it does not know; its tables are. Of its
screen this replaces the widths of characters, erasing (in the current background), the alternate screen and resizing.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from copy import copy
from functools import lru_cache
from itertools import pairwise
from typing import Any
from unicodedata import category

import pyte
from pyte import modes
from pyte.charsets import LAT1_MAP, VT100_MAP
from pyte.screens import Char, Cursor, Margins, Savepoint, StaticDefaultDict
from wcwidth import wcwidth

_SGR = {2: (5,), 5: (), 6: (), 8: (), 21: (4,), 22: (22, 25), 25: ()}
"""The numbers of SGR for which pyte gets others: its "blink" is faint here, because nothing blinks."""

_COLORS, _UNDERLINE = {38: (30, 90), 48: (40, 100)}, 58
"""By the SGR number that sets any colour (text, background): the numbers of its first plain and first bright colour."""

_TOKEN = re.compile(
    r"(?P<text>[^\x00-\x1f\x7f-\x9f]+)"
    r"|(?:\x1b\[|\x9b)(?P<body>[\x00-\x17\x19\x1c-?]*)(?P<final>[@-~])"
    r"|(?P<string>\x1b[]PX^_]|[\x90\x98\x9d-\x9f])"
    r"|\x1b(?P<escape>[ -/]*[0-Z\\`-~])"
    r"|(?P<control>[\x00-\x1a\x1c-\x1f\x7f-\x9a\x9c])"
)
_BEGUN = re.compile(r"(?:\x1b\[|\x9b)[\x00-\x17\x19\x1c-?]*|\x1b[ -/]*")
_CSI = re.compile(r"([<-?]*)([0-9:;]*)([ -/]*)")
_STRING_END = re.compile(r"[\x07\x18\x1a\x9c]|\x1b\\?")
_PICTURE = re.compile(r"(?:\x1bP|\x90)[0-9;]*q|(?:\x1b_|\x9f)G|(?:\x1b\]|\x9d)1337;File")
_C0 = re.compile(r"[\x00-\x1f]")
_MAX_SEQUENCE = 4096
"""The most characters of an unfinished sequence; a longer one is not a sequence."""

_HISTORY = 1000
"""Lines above the screen that come back when it grows, as in xterm.js."""

# pyte's table has no control characters of eight bits.
_CONTROLS = {**pyte.Stream.basic, "\x84": "index", "\x85": "next_line", "\x88": "set_tab_stop", "\x8d": "reverse_index"}
# pyte takes ESC E for a line feed, which keeps the column.
_ESCAPES = {**pyte.Stream.escape, "E": "next_line", "#8": "alignment_display"}
_SEQUENCES = pyte.Stream.csi | {"b": "repeat", "S": "scroll_up", "T": "scroll_down", "I": "tab", "Z": "back_tab"}
_SEQUENCES |= {"`": "cursor_to_column", "e": "descend", "s": "save_cursor", "u": "restore_cursor", "!p": "soft_reset"}
_SEQUENCES |= {"?J": "erase_in_display", "?K": "erase_in_line", "?h": "set_mode", "?l": "reset_mode"}
_UNSEEN = frozenset((*"cntx", "?c", "?m", "?n", "?r", "?s", "?u", " q", "$p", "?$p", "%m"))
"""Sequences that ask the terminal something or set what no picture shows, as do all that begin with <, = or >."""

_NOT_DRAWN = {5: "blinking text", 6: "blinking text", 8: "hidden text"}
# xterm has three ways to the alternate screen; 1049 also saves the cursor, and 1048 does only that. 132 columns are
# left out, as in xterm, which ignores that mode unless a user allows it: pyte would change the size.
_ALTERNATE, _CURSOR_TOO = {47, 1047, 1049}, {1048, 1049}
_COLUMNS_132, _REVERSED = 3, 5
_SPECIAL = _ALTERNATE | _CURSOR_TOO | {_COLUMNS_132, _REVERSED}
_INSERT, _NEW_LINE = 4, 20
_GAP = 2
_MAX_JOINED = 32
"""The most characters in one cell: a program may print any number of accents."""

_GRAPHICS = "".join([*map(chr, range(0x60)), *VT100_MAP[0x60:0x7F]]).replace("░", "␤")
"""Lines and corners in place of small letters; pyte's table replaces digits too."""


class Line(StaticDefaultDict[int, Char]):
    """Cells by column; a missing one is `default`. `wrapped` is 1 if the line continues the one before, _GAP if that
    has a blank at its end because a wide character did not fit."""

    def __init__(self, default: Char, cells: Iterable[Char] = (), *, wrapped: int = 0) -> None:
        super().__init__(default)
        self.update(enumerate(cells))
        self.wrapped = wrapped


class Terminal(pyte.Screen):
    """A screen that is fed with what programs print.

    `top` counts the lines that scrolled away; `unsupported` names what the output had that is not drawn.
    """

    buffer: dict[int, Line]  # type: ignore[assignment]
    margins: Margins

    def __init__(self, columns: int, lines: int) -> None:
        self.top = 0
        self.unsupported: dict[str, None] = {}
        self._history: deque[Line] = deque(maxlen=_HISTORY)
        self._main: tuple[dict[int, Line], list[Savepoint]] | None = None
        self._rest = ""
        self._in_string = self._printed = False
        super().__init__(columns, lines)
        self.margins = Margins(0, lines - 1)

    # Parsing.

    def feed(self, text: str) -> None:
        """Take output; a sequence may be cut anywhere."""
        text, self._rest = self._rest + text, ""
        at = 0
        while at < len(text):
            if self._in_string:
                end = _STRING_END.search(text, at)
                if end is None or (end[0] == "\x1b" and end.end() == len(text)):
                    self._rest = end[0] if end else ""
                    return
                self._in_string = False
                # ESC ends a string even without the backslash, and then begins the next sequence.
                at = end.start() if end[0] == "\x1b" else end.end()
            elif token := _TOKEN.match(text, at):
                self._take(token)
                at = token.end()
            else:
                begun = _BEGUN.match(text, at)
                # An ESC that begins nothing is dropped, as is a sequence that another one cuts off.
                at = begun.end() if begun else at + 1
                if begun and at == len(text) and len(begun[0]) < _MAX_SEQUENCE:
                    self._rest = begun[0]

    def _take(self, token: re.Match[str]) -> None:
        if token["text"]:
            self.draw(token["text"])
            self._printed = True
            return
        if token["final"]:
            # A control character within a sequence acts at once, and the sequence goes on after it.
            for control in _C0.findall(token["body"]):
                self._call(_CONTROLS, control)
            self._sequence(_C0.sub("", token["body"]), token["final"])
        elif token["string"]:
            self._in_string = True
            if _PICTURE.match(token.string, token.start()):
                self.unsupported["pictures"] = None
        elif token["control"]:
            self._call(_CONTROLS, token["control"])
            # All other charsets are drawn as ASCII: they replace a few characters for the keyboards of one country.
        elif token["escape"][0] in "()":
            name = token["escape"][1:]
            setattr(self, f"g{'()'.index(token['escape'][0])}_charset", _GRAPHICS if name == "0" else LAT1_MAP)
            if name not in ("0", "1", "2", "B"):
                self.unsupported["national character sets"] = None
        elif token["escape"][0] == "#" and token["escape"] != "#8":
            self.unsupported["lines of double size"] = None
        else:
            self._call(_ESCAPES, token["escape"])
        self._printed = False

    def _call(self, table: dict[str, str], name: str, *numbers: int, **options: bool) -> None:
        if name in table:
            getattr(self, table[name])(*numbers, **options)

    def _sequence(self, body: str, final: str) -> None:
        """Do what a control sequence says; `body` is what stands between its introducer and its last character."""
        parts = _CSI.fullmatch(body)
        if parts is None or parts[1][:1] in ("<", "=", ">") or (key := parts[1] + parts[3] + final) in _UNSEEN:
            return
        if key == "m":
            self._style(parts[2])
        elif key in _SEQUENCES:
            numbers = [min(_number(number.partition(":")[0]), 9999) for number in parts[2].split(";")]
            if final in "hl":
                self._call(_SEQUENCES, key, *numbers, private=parts[1] == "?")
                return
            if final not in "IJKSTZbgprsu":
                self.cursor.x = min(self.cursor.x, self.columns - 1)  # it may be after the last column
            self._call(_SEQUENCES, key, *numbers[: 2 if final in "Hfr" else 0 if final in "su" or key == "!p" else 1])
        else:
            self.unsupported[f"ESC[{key}"] = None

    def _style(self, text: str) -> None:
        """Set colours and styles from the numbers of SGR, with colons or without."""
        given = [[_number(part) for part in number.split(":")] for number in text.split(";")]
        found: list[int] = []
        while given:
            number, *more = given.pop(0)
            # Colours come as 38;5;N and 38;2;R;G;B, or with colons; then a colour space, mostly empty, may precede R.
            if number in (*_COLORS, _UNDERLINE):
                if not more and given:
                    count = {5: 1, 2: 3}.get(given[0][0], 0)
                    more = [part[0] for part in given[: count + 1]]
                    del given[: count + 1]
                    more += [0] * (count + 1 - len(more))
                # The colour of underlines. Its numbers must be taken, or they would count as styles.
                if number not in _COLORS:
                    continue
                plain, bright = _COLORS[number]
                if more[:1] == [5] and len(more) > 1 and more[1] < 256:
                    index = more[1]
                    found += (
                        [plain + index] if index < 8 else [bright + index - 8] if index < 16 else [number, 5, index]
                    )
                elif more[:1] == [2] and len(more) > 3:
                    found += [number, 2, *[min(part, 255) for part in (more[2:5] if len(more) > 4 else more[1:4])]]
            # 4:0 ends an underline; 4:1 to 4:5 are kinds of it, all drawn as one line.
            elif number == 4 and more:
                found.append(4 if more[0] else 24)
            else:
                found += _SGR.get(number, (number,))
                if number in _NOT_DRAWN:
                    self.unsupported[_NOT_DRAWN[number]] = None
        if found:
            self.select_graphic_rendition(*found)

    # Text.

    @property
    def _blank(self) -> Char:
        return self.default_char._replace(bg=self.cursor.attrs.bg)

    def draw(self, data: str) -> None:
        """Print characters; one without a width joins the one before it."""
        cursor = self.cursor
        for char in data.translate(self.g1_charset if self.charset else self.g0_charset):
            width = min(_width(char), self.columns)
            line = self.buffer[cursor.y]
            if width <= 0:
                # The right half of a wide character has no text: an accent belongs to the left half.
                x = cursor.x - 1 if cursor.x < 2 or line[cursor.x - 1].data else cursor.x - 2
                if x >= 0 and len(line[x].data) < _MAX_JOINED:
                    line[x] = line[x]._replace(data=line[x].data + char)
                continue
            # At the edge and not before it: the cursor stays after the last column until another character comes.
            if cursor.x + width > self.columns:
                if modes.DECAWM in self.mode:
                    self.dirty.add(cursor.y)
                    gap = cursor.x < self.columns
                    if gap:
                        line[cursor.x] = _drawn(cursor.attrs, " ")
                    self.next_line()
                    line = self.buffer[cursor.y]
                    line.wrapped = _GAP if gap else 1
                else:
                    cursor.x = self.columns - 1
                    if width > 1:
                        continue
            if modes.IRM in self.mode:
                self.insert_characters(width)
                line = self.buffer[cursor.y]
            if not line[cursor.x].data and cursor.x:  # blank the other half of a wide character that is overwritten
                line[cursor.x - 1] = _drawn(cursor.attrs, " ")
            if not line[cursor.x + width].data:
                line[cursor.x + width] = _drawn(cursor.attrs, " ")
            for x in range(width):
                line[cursor.x + x] = _drawn(cursor.attrs, "" if x else char)
            cursor.x += width
        self.dirty.add(cursor.y)

    def repeat(self, count: int = 1) -> None:
        """Print the last character again."""
        line, x = self.buffer[self.cursor.y], self.cursor.x - 1
        if self._printed:
            most = self.columns * self.lines + count % self.columns  # more looks the same
            self.draw((line[x].data or line[x - 1].data) * min(count or 1, most))

    def next_line(self) -> None:
        """Go to the start of the next line."""
        self.index()
        self.carriage_return()

    def tab(self, count: int = 1) -> None:
        """Go to a tab stop, but not from after the last column."""
        x, last = self.cursor.x, self.columns - 1
        stops = [*sorted([stop for stop in self.tabstops if x < stop < last]), last]
        self.cursor.x = max(x, stops[min(count or 1, len(stops)) - 1])

    def back_tab(self, count: int = 1) -> None:
        """Go back to a tab stop, but not from after the last column."""
        stops = [0, *sorted([stop for stop in self.tabstops if stop < self.cursor.x])]
        if self.cursor.x < self.columns:
            self.cursor.x = stops[-min(count or 1, len(stops))]

    # Erasing and moving: blanks get the current background, and no half of a wide character is left.

    def _cells(self, line: Line) -> list[Char]:
        return [line[x] for x in range(self.columns)]

    def _replace(self, start: int, removed: int, added: int, *, padded: bool) -> None:
        line = self.buffer[self.cursor.y]
        cells = self._cells(line)
        for x in (start, start + removed):
            if x < self.columns and not cells[x].data:
                cells[x - 1 : x + 1] = [char._replace(data=" ") for char in cells[x - 1 : x + 1]]
        cells[start : start + removed] = [self._blank] * min(added, self.columns)
        cells = (cells + [self._blank] * (removed if padded else 0))[: self.columns]
        if _wide(cells[-1]):
            cells[-1] = cells[-1]._replace(data=" ")
        self.buffer[self.cursor.y] = Line(line.default, cells, wrapped=line.wrapped)
        self.dirty.add(self.cursor.y)

    def insert_characters(self, count: int | None = None) -> None:
        """Move the rest of the line to the right."""
        self._replace(self.cursor.x, 0, count or 1, padded=False)

    def delete_characters(self, count: int | None = None) -> None:
        """Move the rest of the line to the left."""
        self._replace(self.cursor.x, min(count or 1, self.columns - self.cursor.x), 0, padded=True)

    def erase_characters(self, count: int | None = None) -> None:
        """Blank so many cells."""
        size = min(count or 1, self.columns - self.cursor.x)
        self._replace(self.cursor.x, size, size, padded=False)

    def erase_in_line(self, how: int = 0, private: bool = False) -> None:
        """Blank the line from the cursor on (0), up to it (1) or all of it (2)."""
        x, columns = self.cursor.x, self.columns
        start, end = {0: (x, columns), 1: (0, min(x + 1, columns)), 2: (0, columns)}.get(how, (0, 0))
        self._replace(start, end - start, end - start, padded=False)
        if (start, end) == (0, columns):
            self.buffer[self.cursor.y].wrapped = 0

    def erase_in_display(self, how: int = 0, *args: Any, **kwargs: Any) -> None:
        """Blank what is after the cursor (0), before it (1) or everything (2), or forget the lines above (3)."""
        y = self.cursor.y
        rows = {0: range(y + 1, self.lines), 1: range(y), 2: range(self.lines)}.get(how, range(0))
        blank = self._blank
        self.dirty.update([row for row in rows if (line := self.buffer[row]) or line.default != blank])
        self.buffer.update({row: Line(blank) for row in rows})
        if how < 2:
            self.erase_in_line(how)
        elif how == 3:
            self._history.clear()

    def _shift(self, top: int, count: int) -> None:
        """Move the lines from `top` to the lower margin up, or down if `count` is negative."""
        bottom = self.margins.bottom
        rows = [self.buffer[y] for y in range(top, bottom + 1)]
        blanks = [Line(self._blank) for _ in rows[: abs(count)]]
        rows = rows[count:] + blanks if count > 0 else [*blanks, *rows[: len(rows) - len(blanks)]]
        self.buffer.update(enumerate(rows, top))
        self.dirty.update(range(top, bottom + 1))

    def insert_lines(self, count: int | None = None) -> None:
        """Move lines down from the cursor's on, or up if `count` is negative."""
        if self.margins.top <= self.cursor.y <= self.margins.bottom:
            self._shift(self.cursor.y, -(count or 1))
            self.carriage_return()

    def delete_lines(self, count: int | None = None) -> None:
        """Move lines up to the cursor's."""
        self.insert_lines(-(count or 1))

    def index(self) -> None:
        """Go down a line, scrolling at the end."""
        self.cursor.x = min(self.cursor.x, self.columns - 1)
        top, bottom = self.margins
        if self.cursor.y != bottom:
            self.cursor_down()
        else:
            # Only lines that scroll off the whole main screen are kept, as in a terminal's scrollback.
            if (top, bottom) == (0, self.lines - 1) and self._main is None:
                self.top += 1
                self._history.append(self.buffer[0])
            self._shift(top, 1)
        self.buffer[self.cursor.y].wrapped = 0

    def reverse_index(self) -> None:
        """Go up a line, scrolling at the beginning."""
        self.cursor.x = min(self.cursor.x, self.columns - 1)
        if self.cursor.y == self.margins.top:
            self._shift(self.margins.top, -1)
        else:
            self.cursor_up()

    def scroll_up(self, count: int = 1) -> None:
        """Move all lines between the margins up."""
        self._shift(self.margins.top, count or 1)

    def scroll_down(self, count: int = 1) -> None:
        """Move all lines between the margins down."""
        self._shift(self.margins.top, -(count or 1))

    def cursor_down(self, count: int | None = None) -> None:
        """Go down, to the margin at most, or to the edge from below it."""
        y, bottom = self.cursor.y, self.margins.bottom
        self.cursor.y = min(y + (count or 1), bottom if y <= bottom else self.lines - 1)

    def cursor_up(self, count: int | None = None) -> None:
        """Go up, to the margin at most, or to the edge from above it."""
        y, top = self.cursor.y, self.margins.top
        self.cursor.y = max(y - (count or 1), top if y >= top else 0)

    def set_margins(self, top: int | None = None, bottom: int | None = None) -> None:
        """Let lines scroll from `top` to `bottom` alone, and go to the first cell."""
        last = self.lines - 1
        top, bottom = (top or 1) - 1, min((bottom or self.lines) - 1, last)
        if top < bottom:
            self.margins = Margins(top, bottom)
            self.cursor_position()

    def cursor_position(self, line: int | None = None, column: int | None = None) -> None:
        """Go to a cell; in origin mode lines count from the upper margin, and the cursor stays between the margins."""
        top = self.margins.top if modes.DECOM in self.mode else 0
        self.cursor.x, self.cursor.y = min((column or 1), self.columns) - 1, (line or 1) - 1 + top
        self.ensure_vbounds()

    def descend(self, count: int = 1) -> None:
        """Go down, past a margin too."""
        self.cursor.y += count or 1
        self.ensure_vbounds()

    def cursor_to_line(self, line: int | None = None) -> None:
        """Go to a line, counted from the upper margin in origin mode."""
        self.cursor_position(line, min(self.cursor.x, self.columns - 1) + 1)

    def alignment_display(self) -> None:
        """Fill the screen with E."""
        super().alignment_display()
        self.cursor_position()

    # States.

    def reset(self) -> None:
        """Return to the initial state."""
        super().reset()
        self.g1_charset = LAT1_MAP
        self.savepoints = []
        self._main = None
        self.margins = Margins(0, self.lines - 1)
        self.buffer.update({y: Line(self.default_char) for y in range(self.lines)})

    def soft_reset(self) -> None:
        """Reset styles, margins and modes; the text stays."""
        self.margins = Margins(0, self.lines - 1)
        self.select_graphic_rendition(0)
        self.reset_mode(_INSERT)
        self.cursor.hidden = False
        self.charset, self.g0_charset, self.g1_charset, self.savepoints = 0, LAT1_MAP, LAT1_MAP, []

    def save_cursor(self) -> None:
        """Save the place of the cursor; only one place is kept."""
        # pyte keeps a stack of places; terminals have one.
        self.savepoints.clear()
        super().save_cursor()

    def restore_cursor(self) -> None:
        """Go to the saved place, which stays saved."""
        hidden = self.cursor.hidden
        home = Savepoint(Cursor(0, 0, self.default_char), LAT1_MAP, LAT1_MAP, 0, False, False)
        saved, self.g0_charset, self.g1_charset, self.charset = [*self.savepoints, home][0][:4]
        self.cursor = copy(saved)
        # Whether the cursor is shown is not among what DECSC saves.
        self.cursor.hidden = hidden
        self.cursor.x, self.cursor.y = min(saved.x, self.columns - 1), min(saved.y, self.lines - 1)

    def set_mode(self, *modes: int, private: bool = False, **options: Any) -> None:
        """Switch modes on."""
        if not private:
            super().set_mode(*[mode for mode in modes if mode in (_INSERT, _NEW_LINE)])
            return
        # Before the screens are switched: each screen has a saved place of its own.
        if _CURSOR_TOO & set(modes):
            self.save_cursor()
        if _ALTERNATE & set(modes) and self._main is None:
            self._main = self.buffer.copy(), self.savepoints
            self.savepoints = []
            self.erase_in_display(2)
        if _REVERSED in modes:  # a flash instead of a bell; pyte would forget what was reversed before
            self.unsupported["a reversed screen"] = None
        super().set_mode(*[mode for mode in modes if mode not in _SPECIAL], private=True)

    def reset_mode(self, *modes: int, private: bool = False, **options: Any) -> None:
        """Switch modes off."""
        if not private:
            super().reset_mode(*[mode for mode in modes if mode in (_INSERT, _NEW_LINE)])
            return
        super().reset_mode(*[mode for mode in modes if mode not in _SPECIAL], private=True)
        if _ALTERNATE & set(modes) and self._main is not None:
            lines, self.savepoints = self._main
            self._main = None
            self.buffer.update(lines)
            self.dirty.update(range(self.lines))
        if _CURSOR_TOO & set(modes):
            self.restore_cursor()

    # Size.

    def resize(self, lines: int | None = None, columns: int | None = None) -> None:
        """Change the size: text is wrapped again, and lines move between the screen and those that scrolled away."""
        lines, columns = lines or self.lines, columns or self.columns
        if (lines, columns) == (self.lines, self.columns):
            return
        if self._main is None:
            self._refit(self.buffer, self.cursor, lines, columns, flows=True)
        else:
            main, saved = self._main
            self._refit(main, saved[0].cursor if saved else Cursor(0, 0), lines, columns, flows=True)
            self._refit(self.buffer, self.cursor, lines, columns, flows=False)
        # Those of the old columns stay, because a program may have set or removed some.
        self.tabstops |= {stop for stop in range(8, columns, 8) if stop >= self.columns}
        self.lines, self.columns = lines, columns
        self.margins = Margins(0, lines - 1)  # pyright: ignore[reportIncompatibleVariableOverride]
        self.dirty.update(range(lines))

    def _refit(self, buffer: dict[int, Line], cursor: Cursor, lines: int, columns: int, *, flows: bool) -> None:
        # As xterm.js. With the cursor in the last row the text stays at the bottom, so lines come back from above when
        # the screen grows. Otherwise the first row stays, and goes up only if the text below would not fit. If rows
        # were wrapped again, the cursor's row keeps its place on the screen instead.
        above = len(self._history) if flows else 0
        rows = [*self._history] * flows + [buffer[y] for y in range(self.lines)]
        at = above + cursor.y
        full = at == len(rows) - 1
        base = above
        if flows and columns != self.columns:
            rows, at = self._flow(rows, at, columns)
            base = max(0, at - cursor.y) if above else 0
        last = max([at, *[number for number, row in enumerate(rows) if flows and number > at and _text(row, columns)]])
        least = max(0, last + 1 - lines)
        base = least if full else min(max(base, least), at)
        if flows:
            self.top += base - above
            self._history = deque(rows[:base], _HISTORY)
        buffer.clear()
        blank = self.default_char
        rows = rows[base : base + lines]
        buffer.update(enumerate(map(self._ended, rows) if columns > self.columns else rows))
        buffer.update({y: Line(blank) for y in range(lines) if y not in buffer})
        cursor.x, cursor.y = min(cursor.x, columns - 1), max(0, min(at - base, lines - 1))

    def _ended(self, line: Line) -> Line:
        """Return a line whose colour ends where the screen ends now. Cells beyond the edge come back if it grows."""
        plain = line.default == self.default_char
        return line if plain else Line(self.default_char, self._cells(line), wrapped=line.wrapped)

    def _flow(self, rows: list[Line], at: int, columns: int) -> tuple[list[Line], int]:
        """Return the rows wrapped for `columns`, and the new index of row `at`. The text around that row is not wrapped
        again, because the program that prints it will redraw it."""
        flown: list[Line] = []
        place = number = 0
        while number < len(rows):
            end = number + 1
            while end < len(rows) and rows[end].wrapped:
                end += 1
            group = rows[number:end]
            size = _text(group[-1], self.columns)
            if number <= at < end or (len(group) == 1 and size <= columns):
                place = len(flown) + at - number if at >= number else place
                flown += group
            else:
                cells: list[Char] = []
                for row, after in pairwise(group):
                    cells += self._cells(row)[: self.columns - (after.wrapped == _GAP)]
                cells += self._cells(group[-1])[:size]
                wrapped = 0  # an empty line stays a line
                while cells or not wrapped:
                    # A wide character that would be cut at the edge goes to the next row.
                    gap = len(cells) > columns > 1 and not cells[columns].data
                    flown.append(Line(self.default_char, cells[: columns - gap], wrapped=wrapped))
                    cells, wrapped = cells[columns - gap :], _GAP if gap else 1
            number = end
        return flown, place


@lru_cache(4096)
def _width(char: str) -> int:
    """Return how many cells a character takes. Half a flag and a mark beside a letter take one, as for C's wcwidth."""
    return 1 if "\U0001f1e6" <= char <= "\U0001f1ff" or category(char) == "Mc" else wcwidth(char)


def _number(digits: str) -> int:
    # Python refuses to convert thousands of digits. Ten are more than any sequence has a use for.
    return int(digits.lstrip("0")[:10] or 0)


@lru_cache(1024)  # _replace takes longer than all other work for a character
def _drawn(look: Char, data: str) -> Char:
    return look._replace(data=data)


def _text(line: Line, columns: int) -> int:
    """Return how many cells of a line hold something; blanks that only have a background were erased."""
    texts = [x for x, char in line.items() if char.data != " " or char.fg != line.default.fg or any(char[3:])]
    return max([x + 1 for x in texts if x < columns], default=0)


def _wide(char: Char) -> bool:
    return char.data != "" and _width(char.data[0]) == 2
