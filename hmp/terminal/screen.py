"""What the typed monitor prints between prompts: text, and one transient line that leaves no trace."""

from __future__ import annotations

import os

from hmp.monitor import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

DUMB = frozenset({"", "dumb", "unknown", "emacs"})
"""Values of TERM that promise no control sequences at all; "" is an unset one."""

_STYLES = {"error": "\x1b[31m", "event": "\x1b[36m", "dim": "\x1b[2m"}
_PLAIN = "\x1b[0m"

_AGE, _OLD = ",age=", "\x1b[33m"


def tint(text: str) -> str:
    """Return what a command printed with the age in a balloon line coloured: it says that the rest is old."""
    if _AGE not in text:
        return text
    lines = text.split("\n")
    for number, line in enumerate(lines):
        before, age, value = line.rpartition(_AGE)
        if before.startswith("balloon: ") and value.isdigit():
            lines[number] = f"{before},{_OLD}{age[1:]}{value}{_PLAIN}"
    return "\n".join(lines)


class Screen:
    """The terminal's output. `write` takes text and shows it at once; it raises OSError for a terminal that is gone.

    `ansi` says whether it knows control sequences, `color` whether to use colours; `width` asks for its columns.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        *,
        ansi: bool = True,
        color: bool = True,
        width: Callable[[], int] | None = None,
    ) -> None:
        self.ansi = ansi
        self.color = color and ansi
        self.width = width if width is not None else lambda: 80
        self._write = write
        self._transient = False

    def write(self, text: str) -> None:
        """Show text of our own as it is, in place of the transient line if there is one."""
        self.clear()
        self._write(text)

    def show(self, text: str, style: str = "") -> None:
        """Show what a command or an event says: whole lines, escaped, coloured line by line where colour is wanted.

        Without a style only the age of old statistics is coloured.
        """
        if not text:
            return
        text = escape(text)
        before = _STYLES.get(style, "") if self.color else ""
        if before:
            text = "".join([f"{before}{line}{_PLAIN}\n" for line in text.removesuffix("\n").split("\n")])
        elif self.color:
            text = tint(text)
        self.write(text)

    def transient(self, text: str) -> None:
        """Show one line that the next output replaces. The cursor stays at its start.

        There it stays when the window is made narrower and the line comes to lie on two rows, so that erasing from the
        cursor on leaves nothing behind.
        """
        if self.ansi:
            text = text[: max(0, self.width() - 1)]
            shown = f"{_STYLES['dim']}{text}{_PLAIN}" if self.color else text
            self._write(f"\r{shown}\x1b[J\r")
            self._transient = True

    def clear(self) -> None:
        """Take the transient line away."""
        if self._transient:
            self._transient = False
            self._write("\r\x1b[J")


_BLOCKS = str.maketrans("▁▂▃▄▅▆▇█", "_.:-=+*#")
"""What charts are drawn with, for terminals whose encoding has no blocks: an escape for each cell says nothing."""


def encode(text: str, encoding: str) -> bytes:
    """Return `text` for a terminal: in ASCII's signs or escaped where the encoding does not have it."""
    try:
        return text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_BLOCKS).encode(encoding, "backslashreplace")


def standard_screen(stdout: TextIO) -> Screen:
    """Return the screen that `stdout`, a terminal, is, as TERM and NO_COLOR say."""
    stream, encoding = stdout.buffer, stdout.encoding or "utf-8"

    def write(text: str) -> None:
        stream.write(encode(text, encoding))
        stream.flush()

    def width() -> int:
        try:
            return os.get_terminal_size(stdout.fileno()).columns or 80
        except OSError:
            return 80

    ansi = os.environ.get("TERM", "").lower() not in DUMB
    return Screen(write, ansi=ansi, color=not os.environ.get("NO_COLOR"), width=width)
