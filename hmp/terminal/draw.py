"""Draws replies with rich: tables as wide as the window, and colours with a meaning.

It is imported when there is something to draw, because the import of rich takes long. Each function returns text for
Screen.write. The colours are the sixteen of the terminal, which can be read on dark and on light. No information is
only in a colour.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from io import StringIO

from rich.console import Console, ConsoleDimensions, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

from hmp.monitor import escape
from hmp.monitor.drawn import Cell, Drawn
from hmp.terminal.screen import ERASED, Stream, terminal_size

_THEME = Theme({"error": "red", "event": "cyan", "good": "green", "notice": "yellow", "bad": "red", "plot": "cyan",
                "name": "bold"})  # fmt: skip

_MARKS = (
    (r"(?m)^balloon: .*,(?P<notice>age=\d+)$", None),
    (r"(?m)^  (?P<name>[\w ]+:)", "/virtio-backend:\n"),
    (r"(?m)^    (?P<bad> *\d+ x .*|last: .*)$", "/virtio-backend:\n"),
    (r"(?P<plot>[▁▂▃▄▅▆▇█]+)", None),
    (r"(?P<dim>·+)", None),
)
"""What to colour in plain text. The name of the group in a pattern is the style. The second item is a text that must be
there too, because the pattern alone could match something else."""


_INDENT = 4
"""The blanks before the rest of a row if a table is drawn as a list."""


def paint(text: str, style: str) -> str:
    """Return lines in colour, with their words and line breaks unchanged."""
    # rich replaces tabs by blanks, so U+E000 stands for a tab meanwhile. The text has none, because `escape` spells
    # it out.
    return _render(_marked(text.replace("\t", "\ue000"), style), 80, color=True).replace("\ue000", "\t")


def _marked(text: str, style: str = "") -> Text:
    shown = Text(text, style, end="")
    if not style:
        for pattern, needed in _MARKS:
            if needed is None or needed in text:
                shown.highlight_regex(pattern)
    return shown


def table(drawn: Drawn, width: int, *, color: bool) -> str:
    """Return the rows of `drawn` in columns, at most as wide as the window."""
    shown = _render(_fitting(drawn, width), width, color=color)
    # rich fills each row with blanks. If the window is made narrower later, the terminal would wrap them.
    return re.sub(r"(?: |\x1b\[0m)+(?=\n)", lambda end: "\x1b[0m" * ("\x1b" in end[0]), shown)


def _fitting(drawn: Drawn, width: int) -> Group:
    """Return the table. If it would cut words, make the gaps narrower; if it still would, return a list."""
    words = {word for row in drawn.rows for cell in row for word in _cell(cell).plain.split()}
    words = {word for word in words if len(word) <= width - _INDENT}
    # Two blanks between columns read better, one cuts fewer words on a narrow screen.
    for gap in (2, 1):
        made = _table(drawn, gap)
        if words <= {*_render(made, width, color=False).split()}:
            return made
    lines: list[RenderableType] = [_cell(drawn.heading)] * bool(drawn.heading)
    for row in ([("dim", name) for name in drawn.names], *drawn.rows):
        cells = [*map(_cell, row)]
        lines += cells[:1] if cells and cells[0] else []
        rest = [cell for cell in cells[1:] if cell]
        lines += [Padding(Text("  ").join(rest), (0, 0, 0, _INDENT))] if rest else []
    return Group(*lines)


def _table(drawn: Drawn, gap: int) -> Group:
    made = Table(box=None, show_header=bool(drawn.names), padding=(0, gap, 0, 0), pad_edge=False, header_style="dim")
    for number in range(max(map(len, drawn.rows), default=0)):
        name = drawn.names[number] if drawn.names else ""
        made.add_column(name, justify="right" if number in drawn.right else "left", overflow="fold")
    for row in drawn.rows:
        made.add_row(*map(_cell, row))
    heading = _cell(drawn.heading)
    return Group(*[heading] * bool(heading), *[made] * bool(drawn.rows))


def live(write: Callable[[str], None], width: int, rows: int | None, *, color: bool) -> Live:
    """Return a Live of rich, which draws text in place of the last one; its output goes through `write`.

    Live leaves the cursor in the last row and counts the rows back, which is wrong after the terminal has broken them
    anew in a narrower window. Here it stays in the first row, from where all is erased.
    """

    def take(text: str) -> None:
        above = text.count("\n")
        up = f"\r\x1b[{above}A" if above else "\r"
        write(_BACK.sub(ERASED, text) + up * made.is_started)

    # No automatic refresh, which would need a thread. Session asks for a new drawing during a wait.
    made = Live(console=_console(Stream(take), width, rows, color=color), auto_refresh=False, redirect_stdout=False,
                redirect_stderr=False)  # fmt: skip
    return made


_BACK = re.compile(r"\r\x1b\[2K(\x1b\[1A\x1b\[2K)*")
"""What Live sends to go back to the first row."""


def layout(text: str, width: int) -> RenderableType:
    """Return the text of a command in a form that rich draws."""
    return _fitting(text, width) if isinstance(text, Drawn) else _marked(escape(text).rstrip("\n"))


def _cell(cell: Cell) -> Text:
    meaning, text = ("", cell) if isinstance(cell, str) else cell
    return Text(escape(text), meaning)


def _render(what: RenderableType, width: int, *, color: bool) -> str:
    file = StringIO()
    _console(file, width, color=color).print(what, soft_wrap=isinstance(what, Text) and what.end == "", end="")
    return file.getvalue()


def dimensions(width: int, rows: int | None = None) -> ConsoleDimensions:
    """Return the size of the window; `rows` is its height, if it is not that of stdout."""
    # Live needs the height; text that is taller cannot be replaced.
    return ConsoleDimensions(max(1, width), rows or terminal_size(1)[1])


def _console(file: StringIO, width: int, rows: int | None = None, *, color: bool) -> Console:
    size = dimensions(width, rows)
    # Names may have brackets or colons: rich must not take them for markup or emoji. It must not read the environment
    # either, because Screen has decided about colours and width.
    return Console(
        file=file, width=size.width, height=size.height, color_system="standard" if color else None,
        force_terminal=True, no_color=not color, highlight=False, markup=False, emoji=False, legacy_windows=False,
        theme=_THEME, _environ={},
    )  # fmt: skip
