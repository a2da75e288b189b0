"""What the typed monitor prints between prompts: text, and one transient line that leaves no trace."""

from __future__ import annotations

import os

from hmp.monitor import escape
from hmp.monitor.drawn import Drawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

    from rich.live import Live

DUMB = frozenset({"", "dumb", "unknown", "emacs"})
"""Values of TERM that promise no control sequences at all; "" is an unset one."""

OWN = frozenset({"event", "dim"})
"""Styles of lines that are ours: they break at words. QEMU's lines are left to the terminal."""


def _wrapped(text: str, width: int) -> str:
    """Return whole lines with none longer than `width` where a blank allows it."""
    if max(map(len, text.splitlines()), default=0) <= width:
        return text
    from textwrap import fill

    return "".join([f"{fill(line, width)}\n" for line in text.splitlines()])


class Screen:
    """The terminal's output. `write` takes text and shows it at once; it raises OSError for a terminal that is gone.

    `ansi` says whether it knows control sequences, `color` whether to use colours; `width` asks for its columns;
    `rows` is said where it has others than stdout.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        *,
        ansi: bool = True,
        color: bool = True,
        width: Callable[[], int] | None = None,
        rows: int | None = None,
    ) -> None:
        self.ansi = ansi
        self.color = color and ansi
        self.width = width if width is not None else lambda: 80
        self._write = write
        self._rows = rows
        self._transient = False
        self._live: Live | None = None
        self._draw: Callable[[], str] = str
        self._drawn = ""

    def write(self, text: str) -> None:
        """Show text of our own as it is, in place of the transient line if there is one."""
        self.clear()
        self.settle()
        self._write(text)

    def show(self, text: str, style: str = "") -> None:
        """Show what a command or an event says: whole lines, escaped, coloured where colour is wanted; tables drawn.

        rich is imported when there is something to draw.
        """
        if isinstance(text, Drawn):
            from hmp.terminal.draw import table

            text = table(text, self.width(), color=self.color)
        else:
            text = escape(text)
            if style in OWN:
                text = _wrapped(text, self.width())
            if self.color and (style or ",age=" in text or "/virtio-backend:\n" in text or not text.isascii()):
                from hmp.terminal.draw import paint

                text = paint(text, style)
        if text:
            self.write(text)

    def transient(self, text: str, done: float | None = None) -> None:
        """Show one line that the next output replaces, and how much of it is done. The cursor stays at its start.

        What `live` shows is drawn anew instead.

        There it stays when the window is made narrower and the line comes to lie on two rows, so that erasing from the
        cursor on leaves nothing behind.
        """
        if self._live is not None:
            self._renew(self._live)
        elif self.ansi:
            from hmp.terminal.draw import progress

            room = max(0, self.width() - 1)
            self._write(f"\r{progress(text[:room], done, room, color=self.color)}\x1b[J\r")
            self._transient = True

    def foretell(self, text: str) -> None:
        """Show what soon will be drawn in its place by somebody else, who calls `clear` first."""
        if self.ansi:
            self.write(f"\x1b[0;32m{text}\x1b[0m" if self.color else text)
            self._transient = True

    def live(self, draw: Callable[[], str]) -> None:
        """Show what `draw` returns in place of what was shown so before; below it on a terminal that cannot.

        It is asked again while something is waited for; the same object means that nothing has changed.
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
        text = self._draw()
        if text is not self._drawn:
            from hmp.terminal.draw import layout

            self._drawn = text
            live.console.width = self.width()
            live.update(layout(text, self.width()), refresh=True)

    def settle(self) -> bool:
        """Leave what `live` shows as it is; returns whether there was something."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()
        return live is not None

    def clear(self) -> None:
        """Take the transient line away."""
        if self._transient:
            self._transient = False
            self._write("\r\x1b[J")


_SIGNS = str.maketrans("▁▂▃▄▅▆▇█·━╸╺", "_.:-=+*#?==-")
"""What charts and waits are drawn with, for terminals whose encoding has none of it: an escape for each cell would say
nothing, and the line would no longer fit its row."""

_CONSOLE = str.maketrans("▁▂▃▅▆▇━╸╺", "__▄▄██==-")
"""The same for the Linux console, whose font is that of code page 437."""


def encode(text: str, encoding: str) -> bytes:
    """Return `text` for a terminal: in ASCII's signs or escaped where the encoding does not have it."""
    try:
        return text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_SIGNS).encode(encoding, "backslashreplace")


def standard_screen(stdout: TextIO) -> Screen:
    """Return the screen that `stdout`, a terminal, is, as TERM and NO_COLOR say."""
    stream, encoding = stdout.buffer, stdout.encoding or "utf-8"

    term = os.environ.get("TERM", "").lower()
    font = _CONSOLE if term == "linux" else {}

    def write(text: str) -> None:
        stream.write(encode(text.translate(font), encoding))
        stream.flush()

    def width() -> int:
        try:
            return os.get_terminal_size(stdout.fileno()).columns or 80
        except OSError:
            return 80

    return Screen(write, ansi=term not in DUMB, color=not os.environ.get("NO_COLOR"), width=width)
