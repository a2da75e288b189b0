"""The prompt on a terminal without control sequences: the kernel's own line editing, nothing drawn."""

from __future__ import annotations

import os
import select

from hmp.monitor import MAX_LINE, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future

    from hmp.terminal.screen import Screen
    from hmp.terminal.tty import Tty

PROMPT = "(qemu) "

_CHUNK = 8192
_ERASE = b"\x7f\x08"
_KILL = b"\x15"
_END = b"\x04"


class DumbPrompt:
    """The same as LinePrompt, for TERM=dumb.

    The terminal edits lines while one is asked for and is quiet in between. What was typed ahead is echoed here when
    its turn comes, unless the terminal did not echo from the start (as under an editor's shell window).
    """

    def __init__(self, screen: Screen, tty: Tty, loop: AbstractEventLoop) -> None:
        self._screen = screen
        self._tty = tty
        self._loop = loop
        self._ahead = b""
        self._asked: Future[bool] | None = None
        self._later: list[tuple[str, str]] = []

    async def read(self) -> str | None:
        """As LinePrompt.read; None also after Ctrl-C."""
        self._screen.write(PROMPT)
        while select.select([self._tty.fd], [], [], 0)[0]:
            if not self._take():
                break
        self._edit_ahead()
        if self._ahead and self._tty.echoes:
            shown = self._ahead.partition(b"\n")[0]
            self._screen.write(escape(shown.decode("utf-8", "surrogateescape")))
        if b"\n" in self._ahead:
            self._screen.write("\n")
            return self._line()
        if self._ahead == _END:
            self._screen.write("\n")
            raise EOFError
        self._tty.restore()
        try:
            return self._line() if await self._whole_line() else None
        finally:
            self._tty.quiet()
            self._show_later()

    async def _whole_line(self) -> bool:
        """Wait until a whole line is there; False after Ctrl-C."""
        while b"\n" not in self._ahead:
            self._asked = self._loop.create_future()
            self._loop.add_reader(self._tty.fd, self._tell, True)
            try:
                if not await self._asked:
                    return False
            finally:
                self._loop.remove_reader(self._tty.fd)
                self._asked = None
            if not self._take() and not self._ahead:
                self._screen.write("\n")
                raise EOFError
        return True

    def _tell(self, ready: bool) -> None:
        if self._asked is not None and not self._asked.done():
            self._asked.set_result(ready)

    def _take(self) -> bool:
        """Read what is there; False at the end of the input."""
        try:
            data = os.read(self._tty.fd, _CHUNK)
        except OSError:
            self._ahead = b""
            return False
        self._ahead += data.replace(b"\r", b"\n")
        return bool(data)

    def _edit_ahead(self) -> None:
        """Do what erasing keys typed ahead ask for, which the kernel left to us."""
        if not any(key in self._ahead for key in _ERASE + _KILL):
            return
        done = bytearray()
        for key in self._ahead:
            if key in _ERASE:
                if done and done[-1:] != b"\n":
                    del done[-1:]
            elif key in _KILL:
                del done[done.rfind(b"\n") + 1 :]
            else:
                done.append(key)
        self._ahead = bytes(done)

    def _line(self) -> str:
        raw, _, self._ahead = self._ahead.partition(b"\n")
        line = raw.decode("utf-8", "surrogateescape")
        if len(raw) == MAX_LINE:
            # The kernel keeps that many bytes of a line and drops the rest without a word: better refused than cut.
            line += " "
        return line

    def end(self) -> None:
        """Take the prompt away: `read` raises EOFError."""
        if self._asked is not None and not self._asked.done():
            self._asked.set_exception(EOFError())
            self._screen.write("\n")

    def interrupt(self) -> None:
        """Leave the line, as Ctrl-C does: the kernel has echoed and forgotten it."""
        self.drop()
        if self._asked is not None:
            self._screen.write("\n")
            self._tell(False)

    def drop(self) -> None:
        """Forget what was typed ahead and already read."""
        self._ahead = b""

    def interrupted(self) -> bool:
        """Whether a Ctrl-C was typed ahead as a key: never, it is a signal here."""
        return False

    def show(self, text: str, style: str = "") -> None:
        """Show whole lines; while a line is being typed, once it is entered, for nothing can be drawn above it."""
        if self._asked is not None:
            self._later.append((text, style))
        else:
            self._screen.show(text, style)

    def _show_later(self) -> None:
        later, self._later = self._later, []
        for text, style in later:
            self._screen.show(text, style)

    def refresh(self) -> None:
        """Nothing is drawn here."""
