"""The prompt on a terminal that knows control sequences: prompt_toolkit's line editor, dressed for this monitor."""

from __future__ import annotations

import errno
import os
from collections import deque
from functools import partial

from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.input.posix_utils import PosixStdinReader
from prompt_toolkit.input.typeahead import clear_typeahead, get_typeahead, store_typeahead
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.keys import Keys
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.shortcuts import PromptSession
from prompt_toolkit.styles import Style

from hmp.monitor import MAX_LINE, escape
from hmp.monitor.completion import complete
from hmp.terminal import toolbar
from hmp.terminal.history import FileHistory, history_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prompt_toolkit.document import Document
    from prompt_toolkit.formatted_text import StyleAndTextTuples
    from prompt_toolkit.history import History
    from prompt_toolkit.input import Input
    from prompt_toolkit.key_binding.key_processor import KeyPressEvent
    from prompt_toolkit.output import Output

    from device.machine.machine import Machine
    from hmp.terminal.screen import Screen

PROMPT = "(qemu) "

MENU_ROWS = 8
"""Rows kept free below the line while a completion menu is open."""

_REFRESH = 1.0
"""Seconds between two looks of the toolbar at the machine."""

_SOON = 0.1
"""Seconds from an event to the toolbar showing it: events come in bursts."""

_CPR_WAIT = 0.1
"""Seconds that a line entered waits for the terminal to say where its cursor is: many never say."""

_COLORS = {
    "prompt": "ansigreen",
    "bottom-toolbar": "noreverse bg:#303030 #b2b2b2",
    "bottom-toolbar.text": "",
    "bar.plain": "",
    "bar.dim": "#808080",
    "bar.good": "#87d787",
    "bar.notice": "#ffd787",
    "bar.bad": "#ff8787",
    "completion-menu.completion": "bg:#303030 #d0d0d0",
    "completion-menu.completion.current": "noreverse bg:#005f87 #ffffff",
    "completion-menu.meta.completion": "bg:#262626 #8a8a8a",
    "completion-menu.meta.completion.current": "bg:#262626 #d0d0d0",
}
_NO_COLORS = {"bottom-toolbar": "reverse"}


class _Completer(Completer):
    """Hands completion.py's candidates on."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        line = document.text_before_cursor
        last = not document.text_after_cursor
        for candidate in complete(self._machine, line):
            text = f"{candidate.text} " if candidate.more and last else candidate.text
            yield Completion(text, candidate.start - len(line), display=candidate.text, display_meta=candidate.help)


class _Reader(PosixStdinReader):
    """prompt_toolkit's reader, which takes a terminal that has hung up for one without news, and asks for ever."""

    def read(self, count: int = 1024) -> str:
        try:
            data = os.read(self.stdin_fd, count)
        except OSError as error:
            if error.errno not in (errno.EINTR, errno.EAGAIN):
                self.closed = True
            return ""
        if not data:
            self.closed = True
        return self._stdin_decoder.decode(data)


class LinePrompt:
    """Asks for one line after the other on the terminal `input` and `output`. Made and used inside a running loop."""

    def __init__(
        self,
        machine: Machine,
        screen: Screen,
        input: Input,
        output: Output,
        *,
        history: History | None = None,
        suspend: Callable[[], None] | None = None,
    ) -> None:
        """`suspend` stops the job for Ctrl-Z; without it the key does nothing."""
        self._machine = machine
        self._screen = screen
        self._input = input
        self._suspend = suspend
        self._lines: deque[str] = deque()
        self._rest = ""
        self._soon = False
        self._completer = _Completer(machine)
        reader = getattr(input, "stdin_reader", None)
        if type(reader) is PosixStdinReader:
            input.stdin_reader = _Reader(reader.stdin_fd)  # type: ignore[attr-defined]
        try:
            "█░│→".encode(output.encoding())
            self._signs = toolbar.LINES
        except (UnicodeError, LookupError):
            self._signs = toolbar.ASCII
        self._session: PromptSession[str] = PromptSession(
            PROMPT,
            input=input,
            output=output,
            history=FileHistory(history_path()) if history is None else history,
            completer=self._completer,
            complete_while_typing=False,
            reserve_space_for_menu=MENU_ROWS,
            # Without colour a suggestion would look like something typed.
            auto_suggest=AutoSuggestFromHistory() if screen.color else None,
            bottom_toolbar=self._toolbar,
            refresh_interval=_REFRESH,
            search_ignore_case=True,
            key_bindings=self._bindings(),
            style=Style.from_dict(_COLORS if screen.color else _NO_COLORS),
            color_depth=None if screen.color else ColorDepth.DEPTH_1_BIT,
        )
        renderer = self._session.app.renderer
        renderer.cpr_not_supported_callback = None  # a warning; without it there is just no toolbar
        renderer.wait_for_cpr_responses = partial(  # type: ignore[method-assign]
            renderer.wait_for_cpr_responses,
            timeout=_CPR_WAIT,  # type: ignore[arg-type]  # declared as whole seconds, handed to sleep()
        )

    # Asking.

    @property
    def asking(self) -> bool:
        """Whether a prompt is on the screen and takes keys."""
        app = self._session.app
        return app.is_running and not app.is_done

    async def read(self) -> str | None:
        """Show the prompt and return the line entered; None if there is none but more may come.

        Raises EOFError when the input has ended: Ctrl-D on an empty line, a terminal that hung up, or `end`.
        """
        if self._lines:  # of a paste: shown as if typed
            line = self._lines.popleft()
            self._screen.write(f"{PROMPT}{escape(line)}\n")
            self._session.history.append_string(line)
            return line
        rest, self._rest = self._rest, ""
        return await self._session.prompt_async(default=rest, handle_sigint=False, set_exception_handler=False)

    def end(self) -> None:
        """Take the prompt away: `read` raises EOFError."""
        if self.asking:
            self._session.app.exit(exception=EOFError, style="class:exiting")

    def interrupt(self) -> None:
        """Clear the line."""
        self.drop()
        if self.asking:
            buffer = self._session.default_buffer
            buffer.reset()
            self._session.layout.focus(buffer)

    def drop(self) -> None:
        """Forget what was typed ahead and already read."""
        self._lines.clear()
        self._rest = ""
        clear_typeahead(self._input)

    def interrupted(self) -> bool:
        """Whether a Ctrl-C came as a key, behind the line that now runs; if so, drop what was typed before it."""
        keys = get_typeahead(self._input)
        found = [at for at, key in enumerate(keys) if key.key == Keys.ControlC]
        store_typeahead(self._input, keys[found[-1] + 1 :] if found else keys)
        return bool(found)

    # Showing.

    def show(self, text: str, style: str = "") -> None:
        """Show whole lines: above the prompt and what is typed there, if there is one."""
        if not self.asking:
            self._screen.show(text, style)
            return
        app = self._session.app
        app.renderer.erase()
        self._screen.show(text, style)
        self._redraw()

    def refresh(self) -> None:
        """The machine changed: let the toolbar show it soon."""
        if self.asking and not self._soon and (loop := self._session.app.loop) is not None:
            self._soon = True
            loop.call_later(_SOON, self._refresh)

    def _refresh(self) -> None:
        self._soon = False
        if self.asking:
            self._session.app.invalidate()

    def _redraw(self) -> None:
        app = self._session.app
        if app.context is not None:
            app.context.copy().run(app.renderer.request_absolute_cursor_position)
        app.invalidate()

    def _toolbar(self) -> StyleAndTextTuples:
        columns = self._session.app.output.get_size().columns
        return [
            (f"class:bar.{meaning}", text) for meaning, text in toolbar.segments(self._machine, columns, self._signs)
        ]

    # Keys of our own.

    def _bindings(self) -> KeyBindings:
        keys = KeyBindings()
        at_line = has_focus(DEFAULT_BUFFER)
        keys.add("c-c", filter=at_line)(lambda event: self.interrupt())
        keys.add("<sigint>")(lambda event: self.interrupt())
        keys.add("tab", filter=at_line)(self._tab)
        keys.add("c-z")(lambda event: self._stop_job())
        keys.add(Keys.BracketedPaste, filter=at_line)(self._paste)
        return keys

    def _tab(self, event: KeyPressEvent) -> None:
        """Complete at once as far as there is no choice, then offer it.

        prompt_toolkit's own key does so a little later, when an Enter typed ahead has run the half of a word.
        """
        buffer = event.current_buffer
        if buffer.complete_state is not None:
            buffer.complete_next()
            return
        document = buffer.document
        found = list(self._completer.get_completions(document, CompleteEvent()))
        if found:
            first, last = min(each.text for each in found), max(each.text for each in found)
            common = next((at for at, char in enumerate(first) if char != last[at]), len(first))
            buffer.insert_text(first[-found[0].start_position : common])
        if len(found) > 1:
            buffer.start_completion()

    def _stop_job(self) -> None:
        if self._suspend is not None:
            self._session.app.renderer.erase()
            self._suspend()
            self._redraw()

    def _paste(self, event: KeyPressEvent) -> None:
        """Insert what was pasted; each line end in it enters the line, as if typed."""
        text = event.data.replace("\r\n", "\n").replace("\r", "\n")
        # What is longer is refused anyway: one character too many is enough to tell.
        lines = [line[: MAX_LINE + 1] for line in text.split("\n")]
        buffer = event.current_buffer
        buffer.insert_text(lines[0])
        if len(lines) > 1:
            self._lines.extend(lines[1:-1])
            self._rest = lines[-1]
            buffer.validate_and_handle()
