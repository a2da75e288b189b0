"""Parts of the prompt: colours, completion, the colouring of the line, its history, and the reading of keys."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from select import select

from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.enums import EditingMode
from prompt_toolkit.filters import Filter, has_completions
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.input.posix_utils import PosixStdinReader
from prompt_toolkit.layout.containers import Container, FloatContainer
from prompt_toolkit.layout.dimension import Dimension
from prompt_toolkit.layout.mouse_handlers import MouseHandlers
from prompt_toolkit.layout.screen import Char, Screen, WritePosition
from prompt_toolkit.lexers import Lexer

from device.machine.machine import Machine
from hmp.monitor.completion import complete
from hmp.terminal import hints
from hmp.terminal.toolbar import Segment

# noreverse, where prompt_toolkit's own style is reversed.
COLORS = {
    # Faint, not a colour: bright black is the background of Solarized dark, and a fixed grey is its text when light.
    "prompt": "ansigreen", "wrong": "ansired", "usage": "dim", "auto-suggestion": "ansidefault dim",
    "bottom-toolbar": "noreverse bg:#303030 #b2b2b2", "bar.plain": "",
    "bar.dim": "#808080", "bar.good": "#87d787", "bar.notice": "#ffd787", "bar.bad": "#ff8787",
    "completion-menu.completion": "bg:#303030 #d0d0d0",
    "completion-menu.completion.current": "noreverse bg:#005f87 #ffffff",
    "completion-menu.meta.completion": "bg:#262626 #8a8a8a",
    "completion-menu.meta.completion.current": "bg:#262626 #d0d0d0",
}  # fmt: skip
SIXTEEN = COLORS | {
    "bottom-toolbar": "noreverse bg:ansiblue ansiwhite", "bar.dim": "ansigray", "bar.good": "ansibrightgreen",
    "bar.notice": "ansibrightyellow", "bar.bad": "bg:ansired ansiwhite",
    "completion-menu.completion": "bg:ansicyan ansiblack",
    "completion-menu.completion.current": "noreverse bg:ansiblue ansiwhite",
    "completion-menu.meta.completion": "bg:ansigray ansiblack",
    "completion-menu.meta.completion.current": "bg:ansigray ansiblack",
}  # fmt: skip
"""For terminals with 16 colours, such as the console, which would show all greys of COLORS as one."""

NO_COLORS = {"bottom-toolbar": "reverse"}


def editing_mode() -> EditingMode:
    """Return the editing mode of the person's inputrc, which other programs use too."""
    mode = EditingMode.EMACS
    try:
        with open(os.environ.get("INPUTRC") or os.path.expanduser("~/.inputrc"), errors="replace") as file:
            for line in file.read(1 << 16).splitlines():
                if line.split()[:2] == ["set", "editing-mode"]:
                    mode = EditingMode.VI if line.split()[2:3] == ["vi"] else EditingMode.EMACS
    except OSError:
        pass
    return mode


class LineCompleter(Completer):
    """Passes the candidates of hmp.monitor.completion to prompt_toolkit."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        line = document.text_before_cursor
        last = not document.text_after_cursor
        for candidate in complete(self._machine, line, examples=True):
            # In the middle of a line the blank is there already.
            text = f"{candidate.text} " if candidate.more and last else candidate.text
            yield Completion(text, candidate.start - len(line), display=candidate.text, display_meta=candidate.help)


class LineLexer(Lexer):
    """Colours the part of a line that the grammar refuses, whatever follows."""

    def lex_document(self, document: Document) -> Callable[[int], StyleAndTextTuples]:
        line = document.text
        at = hints.wrong(line)
        return lambda number: [("", line[:at]), ("class:wrong", line[at:])]


class Reader(PosixStdinReader):
    """prompt_toolkit's reader, but a terminal that has hung up is closed. The original would read it again for ever."""

    @property
    def ready(self) -> bool:
        """Whether there is something to read, or the terminal has hung up."""
        return bool(select([self.stdin_fd], [], [], 0)[0])

    def read(self, count: int = 1024) -> str:
        try:
            data = os.read(self.stdin_fd, count)
        except OSError as error:
            # Any other error means that the terminal is gone.
            if error.errno not in (errno.EINTR, errno.EAGAIN):
                self.closed = True
            return ""
        if not data:
            self.closed = True
        return self._stdin_decoder.decode(data)


class Line(Buffer):
    """prompt_toolkit's line, with a history that is loaded before the first key is handled.

    The original loads it in a task of the loop, after the keys that came in the same packet as the last line. Then Up
    in that packet found no history, and a different line ran than when the same keys were typed slowly.
    """

    def reset(self, document: Document | None = None, append_to_history: bool = False) -> None:
        super().reset(document, append_to_history)
        # Changing the working lines moves the cursor.
        at = self.cursor_position
        if not self.history._loaded:
            self.history._loaded_strings = list(self.history.load_history_strings())
            self.history._loaded = True
        self._working_lines.extendleft(self.history._loaded_strings)
        self.working_index = len(self._working_lines) - 1
        self.cursor_position = at

    def load_history_if_not_yet_loaded(self) -> None:
        """Do nothing: `reset` has loaded it."""


_BAR = "class:bottom-toolbar"


class Rows(Container):
    """The line, and while `shown` a toolbar in the last row: what is drawn at each key.

    A split window of prompt_toolkit looks the same, but asks each part several times how high it wants to be. `line`
    shows one of `windows`. All are returned as children, because the focus can only move to a window of the layout.
    """

    def __init__(
        self, line: FloatContainer, windows: Sequence[Container], bar: Callable[[], list[Segment]], shown: Filter
    ) -> None:
        self._line = line
        self._windows = windows
        self._bar = bar
        self._shown = shown
        self._drawn: object = None
        self._cells: dict[int, Char] = {}

    def reset(self) -> None:
        self._line.reset()

    def preferred_width(self, max_available_width: int) -> Dimension:
        return self._line.preferred_width(max_available_width)

    def preferred_height(self, width: int, max_available_height: int) -> Dimension:
        line = self._line.preferred_height(width, max_available_height)
        return Dimension(preferred=line.preferred + self._shown())

    def write_to_screen(
        self,
        screen: Screen,
        mouse_handlers: MouseHandlers,
        write_position: WritePosition,
        parent_style: str,
        erase_bg: bool,
        z_index: int | None,
    ) -> None:
        x, y, width, height = (getattr(write_position, name) for name in ("xpos", "ypos", "width", "height"))
        rows = height - (self._shown() and height > 1)
        line = WritePosition(x, y, width, rows)
        # Only a menu floats above the line; drawing an empty one takes as long as a toolbar.
        shown = self._line if has_completions() else self._line.content
        shown.write_to_screen(screen, mouse_handlers, line, parent_style, erase_bg, z_index)
        if rows < height:
            found = width, self._bar()
            if found != self._drawn:
                self._drawn = found
                cells = [Char(char, f"{_BAR} class:bar.{meaning}") for meaning, text in found[1] for char in text]
                self._cells = dict(enumerate([*cells[:width], *[Char(" ", _BAR)] * (width - len(cells))]))
            screen.data_buffer[y + rows].update(self._cells)
            screen.height = max(screen.height, y + height)

    def get_children(self) -> list[Container]:
        return [self._line, *self._windows]
