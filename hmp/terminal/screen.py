"""The output of the typed monitor between prompts: text, and one transient line that is removed again."""

from __future__ import annotations

import os
from io import StringIO

from hmp.monitor import escape
from hmp.monitor.drawn import Drawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

    from rich.live import Live

DUMB = frozenset({"", "dumb", "unknown", "emacs"})
"""Values of TERM of terminals without control sequences; "" is an unset TERM."""

ERASED = "\r \x1b[J\r"
"""Erases from the cursor's row on. Not from its first column: in the first row tmux takes that for a clearing of the
whole screen, and keeps what it erases in its history."""

OWN = frozenset({"event", "dim"})
"""Styles of lines that are ours: they break at words. QEMU's lines are left to the terminal."""


def _wrapped(text: str, width: int) -> str:
    """Return whole lines with none longer than `width` where a blank allows it."""
    if max(map(len, text.splitlines()), default=0) <= width:
        return text
    from textwrap import fill

    return "".join([f"{fill(line, width)}\n" for line in text.splitlines()])


def _progress(text: str, done: float | None, width: int, *, color: bool) -> str:
    """Return one line: `text`, and a bar with the part of the wait that is over (None: not known).

    It is drawn ten times a second. rich's bar looks the same and takes a hundred times as long.
    """
    room = min(30, width - len(text) - 3)
    shown = f"\x1b[2m{text}\x1b[0m" if color else text
    # A bar of fewer columns shows nothing.
    if done is None or room < 6:
        return shown
    full, half = divmod(int(2 * room * done), 2)
    over, rest = "━" * full + "╸" * half, ("╺" * (full > 0 == half) + "━" * room)[: room - full - half]
    return f"{shown}  \x1b[36m{over}\x1b[0;2m{rest}\x1b[0m" if color else f"{shown}  {over}"


class Screen:
    """The output of the terminal. `write` shows text at once; it raises OSError if the terminal is gone.

    `ansi` says whether the terminal knows control sequences, `color` whether to use colours. `width` returns its
    columns. `rows` is set if it does not have the rows of stdout.
    """

    def __init__(
        self, write: Callable[[str], None], *, ansi: bool = True, color: bool = True,
        width: Callable[[], int] = lambda: 80, rows: int | None = None,
    ) -> None:  # fmt: skip
        self.ansi, self.color, self.width = ansi, color and ansi, width
        self._write, self._rows = write, rows
        self._transient = False
        self._live: Live | None = None
        self._draw: Callable[[], str] = str
        self._drawn = ""

    def write(self, text: str) -> None:
        """Show text unchanged, in place of the transient line if there is one. The text must be safe."""
        self.clear()
        self.settle()
        self._write(text)

    def show(self, text: str, style: str = "") -> None:
        """Show the text of a command or an event: whole lines, escaped, in colour if wanted, and tables laid out.

        rich is imported when there is something to draw.
        """
        if isinstance(text, Drawn):
            from hmp.terminal.draw import table

            text = table(text, self.width(), color=self.color)
        else:
            text = escape(text)
            if style in OWN:
                text = _wrapped(text, self.width())
            # The import of rich is only worth it if there is something to colour.
            if self.color and (style or ",age=" in text or "/virtio-backend:\n" in text or not text.isascii()):
                from hmp.terminal.draw import paint

                text = paint(text, style)
        if text:
            self.write(text)

    def transient(self, text: str, done: float | None = None) -> None:
        """Show one line that the next output replaces, with a bar for `done` (0 to 1). The cursor stays at its start.

        So the line can be erased from the cursor on, even if the window was made narrower and the line has two rows.
        While `live` shows something, that is drawn again instead.
        """
        if self._live is not None:
            self._renew(self._live)
        elif self.ansi:
            room = max(0, self.width() - 1)
            self._write(f"\r{_progress(text[:room], done, room, color=self.color)}\x1b[J\r")
            self._transient = True

    def show_early(self, text: str) -> None:
        """Show text that other code will soon draw in the same place; call `clear` before that."""
        if self.ansi:
            self.write(f"\x1b[0;32m{text}\x1b[0m" if self.color else text)
            self._transient = True

    def live(self, draw: Callable[[], str]) -> None:
        """Show the text of `draw` in place of the last one; on a terminal that cannot do that, below it.

        `draw` is called again during a wait. If it returns the same object, nothing has changed.
        """
        if not self.ansi:
            self.show(draw())
            return
        self.clear()
        self._draw, self._drawn = draw, ""
        if self._live is None:
            from hmp.terminal.draw import live

            self._live = live(self._write, self.width(), self._rows, color=self.color)
            self._live.start()
        self._renew(self._live)

    def _renew(self, live: Live) -> None:
        from hmp.terminal.draw import dimensions, layout

        text, size = self._draw(), dimensions(self.width(), self._rows)
        if text is not self._drawn or live.console.size != size:
            self._drawn, live.console.size = text, size
            live.update(layout(text, size.width), refresh=True)

    def settle(self) -> bool:
        """End `live` and leave its text on the screen. Returns whether there was any."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()
        return live is not None

    def clear(self) -> None:
        """Remove the transient line."""
        if self._transient:
            self._transient = False
            self._write(ERASED)


class Stream(StringIO):
    """A text file for libraries that print: it passes everything to `take` and keeps nothing."""

    encoding = "utf-8"

    def __init__(self, take: Callable[[str], None]) -> None:
        super().__init__()
        self._take = take

    def write(self, text: str, /) -> int:
        self._take(text)
        return len(text)


_SIGNS = str.maketrans("▁▂▃▄▅▆▇█·━╸╺", "_.:-=+*#?==-")
"""ASCII in place of the characters of charts and bars, for encodings that lack them. An escape for each cell could
not be read, and the line would be longer than its row."""

_CONSOLE = str.maketrans("▁▂▃▅▆▇━╸╺", "__▄▄██==-")
"""The same for the Linux console, whose font has only the characters of code page 437."""


def encode(text: str, encoding: str) -> bytes:
    """Return `text` for a terminal. Characters that the encoding lacks are replaced (_SIGNS) or escaped."""
    try:
        return text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_SIGNS).encode(encoding, "backslashreplace")


def terminal_size(descriptor: int) -> tuple[int, int]:
    """Return columns and rows of a terminal; 80x24 where it does not know."""
    try:
        columns, rows = os.get_terminal_size(descriptor)
    except OSError:
        columns = rows = 0
    return columns or 80, rows or 24


def standard_screen(stdout: TextIO) -> Screen:
    """Return the Screen of `stdout`, a terminal, by TERM and NO_COLOR."""
    stream, encoding = stdout.buffer, stdout.encoding or "utf-8"

    term = os.environ.get("TERM", "").lower()
    font = _CONSOLE if term == "linux" else {}

    def write(text: str) -> None:
        # The bytes directly: the text layer would raise for a character that the encoding lacks.
        stream.write(encode(text.translate(font), encoding))
        stream.flush()

    return Screen(write, ansi=term not in DUMB, color=not os.environ.get("NO_COLOR"),
                  width=lambda: terminal_size(stdout.fileno())[0])  # fmt: skip
