"""The prompt on a terminal without control sequences: the kernel edits the line, and nothing is drawn."""

from __future__ import annotations

import os
import select
from asyncio import AbstractEventLoop, Future

from hmp.monitor import MAX_LINE, escape
from hmp.terminal.screen import Screen
from hmp.terminal.tty import Tty

PROMPT = "(qemu) "

_CHUNK = 8192
_END = b"\x04"
_CHARACTER = rb"(?:[\xc0-\xff][\x80-\xbf]*|[^\n])\Z"
_ERASES = {0x7F: _CHARACTER, 0x08: _CHARACTER, 0x15: rb"[^\n]*\Z", 0x17: rb"\w*[^\w\n]*\Z"}
"""For each erasing key the part before it that goes: a character, the line, a word."""


class DumbPrompt:
    """As LinePrompt, for TERM=dumb.

    The terminal edits and echoes a line while the prompt waits for one, and is quiet in between. Type-ahead is echoed
    here when its turn comes, unless the terminal did not echo at the start (as in the shell window of an editor).
    """

    def __init__(self, screen: Screen, tty: Tty, loop: AbstractEventLoop) -> None:
        self._screen, self._tty, self._loop = screen, tty, loop
        self._ahead = b""
        self._ready: Future[bool] | None = None
        self._later: list[tuple[str, str]] = []

    async def read(self) -> str | None:
        """As LinePrompt.read, but also returns None after Ctrl-C."""
        self._screen.write(PROMPT)
        # Read the type-ahead. The terminal was quiet, so it was neither echoed nor edited.
        while select.select([self._tty.fd], [], [], 0)[0]:
            if not self._take():
                break
        if self._ahead.startswith(_END):  # Ctrl-D on an empty line
            self._screen.write("\n")
            raise EOFError
        if self._ahead and self._tty.echoes:
            shown = self._ahead.partition(b"\n")[0]
            self._screen.write(escape(shown.decode("utf-8", "surrogateescape")))
        if b"\n" in self._ahead:
            self._screen.write("\n")
            return self._line()
        self._tty.restore()
        try:
            return self._line() if await self._whole_line() else None
        finally:
            self._tty.quiet()
            later, self._later = self._later, []
            for text, style in later:
                self._screen.show(text, style)

    async def _whole_line(self) -> bool:
        """Wait for a whole line. Returns false after Ctrl-C."""
        while b"\n" not in self._ahead:
            self._ready = self._loop.create_future()
            self._loop.add_reader(self._tty.fd, self._set_ready, True)
            try:
                if not await self._ready:
                    return False
            finally:
                self._loop.remove_reader(self._tty.fd)
                self._ready = None
            if not select.select([self._tty.fd], [], [], 0)[0]:  # a Ctrl-C has just dropped what was there to read
                continue
            if (not self._take() and not self._ahead) or self._ahead.startswith(_END):
                self._screen.write("\n")
                raise EOFError
        return True

    def _set_ready(self, ready: bool) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(ready)

    def _take(self) -> bool:
        """Read what is there. Returns false at the end of the input."""
        try:
            data = os.read(self._tty.fd, _CHUNK)
        except OSError:
            self._ahead = b""
            return False
        # While the terminal is quiet, Enter arrives as a carriage return.
        self._edit(data.replace(b"\r", b"\n"))
        return bool(data)

    def _edit(self, data: bytes) -> None:
        """Add type-ahead, apply erasing keys in it, and drop Ctrl-D within a line.

        The kernel has not done this with what came while the terminal was quiet.
        """
        import re

        done = self._ahead
        for piece in re.split(rb"([\x04\x08\x15\x17\x7f])", data):
            if piece[:1] == _END:
                done += _END * (done[-1:] in (b"", b"\n", _END))
            elif piece and piece[0] in _ERASES:
                done = re.sub(_ERASES[piece[0]], b"", done)
            else:
                done += piece
        self._ahead = done

    def _line(self) -> str:
        raw, _, self._ahead = self._ahead.partition(b"\n")
        line = raw.decode("utf-8", "surrogateescape")
        if len(raw) == MAX_LINE:
            # The kernel keeps so many bytes of a line and drops the rest silently. The blank makes it too long, so it
            # is refused: half a command should not run.
            line += " "
        return line

    def end(self) -> None:
        """Remove the prompt: `read` raises EOFError."""
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(EOFError())
            self._screen.write("\n")

    def interrupt(self) -> None:
        """Drop the line after Ctrl-C, which the kernel has echoed."""
        self.drop()
        if self._ready is not None:
            self._screen.write("\n")
            self._set_ready(False)

    def drop(self) -> None:
        """Drop the type-ahead that was already read."""
        self._ahead = b""

    def interrupted(self) -> bool:
        """Return false: Ctrl-C is never a key here but always a signal."""
        return False

    def show(self, text: str, style: str = "") -> None:
        """Show whole lines.

        While a line is typed they wait until it is entered, because nothing can be drawn above it.
        """
        if self._ready is not None:
            self._later.append((text, style))
        else:
            self._screen.show(text, style)

    def refresh(self) -> None:
        """Do nothing: there is no toolbar."""
