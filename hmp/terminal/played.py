"""The prompt of a script that is played: keys come from the program, and what it draws goes to a function."""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context

from prompt_toolkit.data_structures import Size
from prompt_toolkit.enums import EditingMode
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import DummyInput
from prompt_toolkit.input.vt100_parser import Vt100Parser
from prompt_toolkit.key_binding import KeyPress
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output

from device.machine.machine import Machine
from hmp.terminal.prompt import LinePrompt
from hmp.terminal.screen import Screen, Stream


class Keyboard(DummyInput):
    """Keys that `press` sends. Those that come while there is no prompt are kept for the next one."""

    def __init__(self) -> None:
        self._keys: list[KeyPress] = []
        self._parser = Vt100Parser(self._keys.append)
        self._keys_ready: Callable[[], object] = lambda: None

    def press(self, data: str) -> None:
        """Send what a terminal sends for a key."""
        self._parser.feed(data)
        self._keys_ready()

    def clear(self) -> None:
        """Drop the keys that were not read yet."""
        self._keys.clear()

    def read_keys(self) -> list[KeyPress]:
        found = self._keys[:]
        self._keys.clear()
        return found

    def flush_keys(self) -> list[KeyPress]:
        self._parser.flush()
        return self.read_keys()

    @contextmanager
    def attach(self, input_ready_callback: Callable[[], None]) -> Iterator[None]:
        loop, context, before = get_running_loop(), copy_context(), self._keys_ready
        # In this context prompt_toolkit finds its application.
        self._keys_ready = lambda: loop.call_soon(input_ready_callback, context=context)
        if self._keys:
            self._keys_ready()
        try:
            yield
        finally:
            self._keys_ready = before

    @contextmanager
    def detach(self) -> Iterator[None]:
        before, self._keys_ready = self._keys_ready, lambda: None
        try:
            yield
        finally:
            self._keys_ready = before

    @property
    def closed(self) -> bool:
        return False


class _Output(Vt100_Output):
    """A terminal that knows at once how many rows there are below its cursor."""

    def __init__(self, write: Callable[[str], None], columns: int, rows: int, below: Callable[[], int]) -> None:
        # Nothing is asked of the environment: a script has the same recording on every terminal.
        super().__init__(
            Stream(write), lambda: Size(rows, columns), term="xterm-256color",
            default_color_depth=ColorDepth.DEPTH_8_BIT, enable_bell=False,
        )  # fmt: skip
        self._below = below

    def get_rows_below_cursor_position(self) -> int:
        # Without this prompt_toolkit asks the terminal, and nothing here would answer.
        return self._below()


class PlayedPrompt(LinePrompt):
    """The prompt on a screen of `columns` and `rows`; `below` counts the rows from the cursor's on.

    It uses no files of the user: no history, no inputrc. While `hidden` is true nothing is shown above it.
    """

    shows_clock = False  # waits are seen to take their time

    def __init__(
        self, machine: Machine, screen: Screen, keyboard: Keyboard, *, write: Callable[[str], None],
        columns: int, rows: int, below: Callable[[], int], dialect: str,
    ) -> None:  # fmt: skip
        output = _Output(write, columns, rows, below)
        super().__init__(
            machine, screen, keyboard, output, history=InMemoryHistory(), mode=EditingMode.EMACS, dialect=dialect
        )
        self.hidden = False
        self._session.app.max_render_postpone_time = None  # it is measured on the computer's clock

    def show(self, text: str, style: str = "") -> None:
        if not self.hidden:
            super().show(text, style)
