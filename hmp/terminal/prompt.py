"""The prompt on a terminal with control sequences: prompt_toolkit's line editor, set up for this monitor."""

from __future__ import annotations

from asyncio import get_running_loop, sleep
from collections import deque
from collections.abc import Callable
from functools import partial

from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.buffer import Buffer, CompletionState
from prompt_toolkit.completion import CompleteEvent, get_common_complete_suffix
from prompt_toolkit.enums import DEFAULT_BUFFER, EditingMode
from prompt_toolkit.filters import (
    Condition,
    completion_is_selected,
    emacs_insert_mode,
    has_completions,
    has_focus,
    is_done,
    renderer_height_is_known,
    vi_insert_mode,
)  # fmt: skip
from prompt_toolkit.history import History
from prompt_toolkit.input import Input
from prompt_toolkit.input.posix_utils import PosixStdinReader
from prompt_toolkit.input.typeahead import clear_typeahead, get_typeahead, store_typeahead
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.key_binding.key_processor import KeyPressEvent, KeyProcessor
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout.containers import DynamicContainer, FloatContainer, Window
from prompt_toolkit.layout.controls import BufferControl
from prompt_toolkit.layout.menus import CompletionsMenu
from prompt_toolkit.layout.processors import AfterInput
from prompt_toolkit.output import ColorDepth, Output
from prompt_toolkit.shortcuts import PromptSession
from prompt_toolkit.styles import Style

from device.machine.machine import Machine
from hmp.monitor import MAX_LINE, escape
from hmp.terminal import hints, toolbar
from hmp.terminal.app import PROMPT
from hmp.terminal.history import FileHistory, history_path
from hmp.terminal.parts import COLORS, NO_COLORS, SIXTEEN, Line, LineCompleter, LineLexer, Reader, Rows, editing_mode
from hmp.terminal.screen import ERASED, Screen

MENU_ROWS = 8
"""Rows that are kept free for a completion menu below the line."""

_REFRESH = 1.0
"""Seconds between two updates of the toolbar."""

_SOON = 0.1
"""Seconds from an event to the update of the toolbar. Events come in bursts, and one update shows them all."""

_PAUSE = 0.5
"""Seconds without a key after which Up looks for lines that begin with what is typed."""

_CPR_WAIT = 0.1
"""Seconds to wait, after a line was entered, for the terminal to report its cursor position: many never do."""


class LinePrompt:
    """Asks for lines on the terminal `input` and `output`. Make and use it inside a running loop."""

    def __init__(
        self, machine: Machine, screen: Screen, input: Input, output: Output, *, history: History | None = None,
        suspend: Callable[[], None] | None = None, dialect: str = "", mode: EditingMode | None = None,
    ) -> None:  # fmt: skip
        """`suspend` stops the job for Ctrl-Z; without it the key does nothing. The toolbar shows `dialect`.

        `mode` selects the keys of emacs or vi; None takes the mode of the person's inputrc.
        """
        self._machine, self._screen, self._input, self._suspend = machine, screen, input, suspend
        self._dialect = dialect
        self._interrupts = 0
        self._late = False
        self._typed = 0.0
        self._lines: deque[str] = deque()
        self._rest = ""
        self._soon = False
        self._completer = LineCompleter(machine)
        # With --attach QEMU has commands that our table does not know, so hints and colours would be wrong.
        self._ours = not hasattr(machine, "offers")
        # Tests pass inputs that have no reader.
        reader = getattr(input, "stdin_reader", None)
        self._reader = None
        if type(reader) is PosixStdinReader:
            self._reader = input.stdin_reader = Reader(reader.stdin_fd)  # type: ignore[attr-defined]
        # prompt_toolkit erases from the first column on, which makes copies in the history of tmux.
        output.erase_down = lambda: output.write_raw(ERASED)  # type: ignore[method-assign]
        try:
            "█░│→".encode(output.encoding())
            self._signs = toolbar.LINES
        except (UnicodeError, LookupError):
            self._signs = toolbar.ASCII
        if not screen.color:  # in reverse video a full block looks like an empty one
            self._signs = self._signs._replace(full="#", empty=".")
        colors = SIXTEEN if output.get_default_color_depth() is ColorDepth.DEPTH_4_BIT else COLORS
        self._session: PromptSession[str] = PromptSession(
            PROMPT, input=input, output=output, history=FileHistory(history_path()) if history is None else history,
            completer=self._completer, complete_while_typing=False,
            validate_while_typing=False,  # there is no validator, and the search for one draws again after each key
            reserve_space_for_menu=MENU_ROWS, refresh_interval=_REFRESH,
            search_ignore_case=True, editing_mode=mode or editing_mode(), key_bindings=self._bindings(),
            lexer=LineLexer() if screen.color and self._ours else None,
            input_processors=[AfterInput(self._after_cursor, "class:usage")] if screen.color else None,
            style=Style.from_dict(colors if screen.color else NO_COLORS),
            color_depth=None if screen.color else ColorDepth.DEPTH_1_BIT,
        )  # fmt: skip
        # At each key the whole layout is drawn, so it has only what this prompt can show.
        layout = self._session.layout
        line, control = layout.current_window, layout.current_control
        search = Window(control.search_buffer_control if isinstance(control, BufferControl) else None)
        main = next(each for each in layout.walk() if isinstance(each, FloatContainer))
        main.content = DynamicContainer(lambda: search if layout.is_searching else line)
        main.floats = [each for each in main.floats if isinstance(each.content, CompletionsMenu)]
        layout.container = Rows(main, (line, search), self._toolbar, ~is_done & renderer_height_is_known)
        # PromptSession makes its buffer itself and takes no other class.
        self._session.default_buffer.__class__ = Line
        buffer = self._session.default_buffer
        buffer.enable_history_search = Condition(lambda: self._by_prefix(buffer))
        self._session.app.key_processor.after_key_press += self._note_key
        if screen.color:  # without colour a suggestion would look as if it was typed
            self._session.default_buffer.on_text_insert += self._suggest
        renderer = self._session.app.renderer
        renderer.cpr_not_supported_callback = None  # no warning: on such a terminal there is only no toolbar
        renderer.wait_for_cpr_responses = partial(  # type: ignore[method-assign]
            renderer.wait_for_cpr_responses,
            timeout=_CPR_WAIT,  # type: ignore[arg-type]  # declared as int, but passed to sleep()
        )

    shows_clock = True
    """Whether the toolbar names a simulated clock."""

    # Asking.

    @property
    def asking(self) -> bool:
        """Whether a prompt is shown and takes keys."""
        app = self._session.app
        return app.is_running and not app.is_done

    async def read(self) -> str | None:
        """Show the prompt and return the line, or None if there is no line but more may come.

        Raises EOFError at the end of the input: Ctrl-D on an empty line, a terminal that hung up, or `end`.
        """
        self._interrupts = 0
        if self._lines:  # Ctrl-C, and what is due, can come between the lines of a paste
            await sleep(0)
        if self._lines:  # lines of a paste are shown as if they were typed
            line = self._lines.popleft()
            self._screen.write(f"{PROMPT}{escape(line)}\n")
            # prompt_toolkit does this for typed lines only.
            self._session.history.append_string(line)
            return line
        self.interrupted()  # a Ctrl-C drops the keys before it, so that it ends a paste without brackets
        rest, self._rest = self._rest, ""
        self._screen.clear()
        line = await self._session.prompt_async(
            pre_run=self._begin_asking, default=rest, handle_sigint=False, set_exception_handler=False
        )
        # Ctrl-Q and the `o` of vi can put a line break into it, which would be two lines in the file of `sim save`.
        return line.replace("\n", " ")

    def _begin_asking(self) -> None:
        self._late = False

    def end(self) -> None:
        """Remove the prompt: `read` raises EOFError."""
        if self.asking:
            self._session.app.exit(exception=EOFError, style="class:exiting")

    def interrupt(self) -> None:
        """Clear the line. The third time in a row, say how to leave."""
        self.drop()
        if self.asking:
            buffer = self._session.default_buffer
            buffer.reset()
            self._session.layout.focus(buffer)
            self._session.app.vi_state.reset()  # each line begins in insert mode
            # Ctrl-C does not end hmp, unlike other programs, so a person may not know how to leave.
            self._interrupts += 1
            if self._interrupts % 3 == 0:
                self.show(f"{hints.LEAVE}\n", "dim")
        else:  # the line is entered, and its wait has not begun: `interrupted` will end it
            self._late = True

    def drop(self) -> None:
        """Drop the type-ahead that was already read."""
        self._lines.clear()
        self._rest = ""
        clear_typeahead(self._input)

    def interrupted(self) -> bool:
        """Whether a Ctrl-C came after the line that now runs, before its wait began. If so, drop the keys before it."""
        keys = get_typeahead(self._input)
        # A Ctrl-C that came before the terminal was quiet again is no signal, and still waits to be read. The kernel
        # holds at most 4 KiB of such keys, and one read takes 1 KiB.
        for _ in range(4):
            if self._reader is not None and self._reader.ready:
                keys += self._input.read_keys()
        found = [at for at, key in enumerate(keys) if key.key == Keys.ControlC]
        store_typeahead(self._input, keys[found[-1] + 1 :] if found else keys)
        late, self._late = self._late, False
        return bool(found) or late

    # Output.

    def show(self, text: str, style: str = "") -> None:
        """Show whole lines; if there is a prompt, above it and what is typed there."""
        if not self.asking:
            self._screen.show(text, style)
            return
        app = self._session.app
        app.renderer.erase()
        self._screen.show(text, style)
        self._redraw()

    def refresh(self) -> None:
        """Update the toolbar soon, because the machine has changed."""
        if self.asking and not self._soon and (loop := self._session.app.loop) is not None:
            self._soon = True
            loop.call_later(_SOON, self._refresh)

    def _refresh(self) -> None:
        self._soon = False
        if self.asking:
            self._session.app.invalidate()

    def _redraw(self) -> None:
        app = self._session.app
        # The request for the cursor position belongs to the context of the running prompt.
        if app.context is not None:
            app.context.copy().run(app.renderer.request_absolute_cursor_position)
        app.invalidate()

    def _toolbar(self) -> list[toolbar.Segment]:
        columns = self._session.app.output.get_size().columns
        # Without colour it would look typed after the cursor.
        if not self._screen.color and (usage := self._usage(columns - 1)):
            return [("plain", f" {usage}")]
        return toolbar.segments(self._machine, columns, self._signs, self._dialect, clock=self.shows_clock)

    def _after_cursor(self) -> str:
        """Return the dim text after the cursor."""
        typed = len(self._session.default_buffer.text)
        return self._usage(self._session.app.output.get_size().columns - len(PROMPT) - typed - 1)

    def _usage(self, room: int) -> str:
        """Return the arguments of the command, in at most `room` columns; "" if there is a suggestion or a menu."""
        buffer = self._session.default_buffer
        if (buffer.suggestion is not None and buffer.suggestion.text) or buffer.complete_state is not None:
            return ""
        found = hints.usage(buffer.text) if self.asking and self._ours else ""
        return next((text for text in (found, found.partition(": ")[0]) if len(text) <= room), "")

    # Keys.

    def _bindings(self) -> KeyBindings:
        keys = KeyBindings()
        at_line = has_focus(DEFAULT_BUFFER)
        keys.add("c-c", filter=at_line)(lambda event: self.interrupt())
        keys.add("<sigint>")(lambda event: self.interrupt())
        keys.add("tab", filter=at_line)(self._tab)
        # prompt_toolkit completes with these keys too, in a task that comes after an Enter of the same packet. Then a
        # different line ran than when the keys were typed slowly.
        keys.add("escape", "/", filter=emacs_insert_mode & at_line)(self._tab)
        keys.add("c-p", filter=vi_insert_mode & at_line)(lambda event: event.current_buffer.auto_up())
        keys.add("c-n", filter=vi_insert_mode & at_line)(lambda event: event.current_buffer.auto_down())
        # Enter takes an entry of the menu and runs nothing: `quit` in a menu ended a machine.
        keys.add("enter", filter=completion_is_selected)(lambda event: self._close_menu())
        keys.add("escape", filter=has_completions, eager=True)(lambda event: event.current_buffer.cancel_completion())
        keys.add("c-z")(lambda event: self._stop_job())
        keys.add("f1")(lambda event: self.show(hints.keys()))
        keys.add("f4")(self._switch_mode)
        keys.add(Keys.BracketedPaste, filter=at_line)(self._paste)
        return keys

    def _tab(self, event: KeyPressEvent) -> None:
        """Insert what all candidates have in common, and open a menu if there are several.

        prompt_toolkit does this in a task; by then an Enter that was typed ahead has run half a word.
        """
        buffer = event.current_buffer
        if buffer.complete_state is not None:
            buffer.complete_next()
            return
        document = buffer.document
        found = list(self._completer.get_completions(document, CompleteEvent()))
        if found:
            buffer.insert_text(get_common_complete_suffix(document, found))
        if len(found) > 1:
            found = list(self._completer.get_completions(buffer.document, CompleteEvent()))
            buffer.complete_state = CompletionState(buffer.document, found)

    def _note_key(self, keys: KeyProcessor) -> None:
        self._typed = get_running_loop().time()

    def _by_prefix(self, buffer: Buffer) -> bool:
        """Whether Up looks for lines that begin with what is typed: only after a pause, as a person makes.

        Keys that come at once, from a program or as type-ahead, get the last line, as at QEMU's prompt.
        """
        if buffer.working_index < len(buffer._working_lines) - 1:
            return buffer.history_search_text is not None
        return bool(buffer.text) and get_running_loop().time() - self._typed >= _PAUSE

    def _close_menu(self) -> None:
        """Take the selected entry of the menu, and run nothing."""
        self._session.default_buffer.complete_state = None

    def _suggest(self, buffer: Buffer) -> None:
        """Look for a suggestion now and not in a task: the key that takes it may be in the same packet."""
        buffer.suggestion = AutoSuggestFromHistory().get_suggestion(buffer, buffer.document)

    def _switch_mode(self, event: KeyPressEvent) -> None:
        vi = event.app.editing_mode == EditingMode.VI
        event.app.editing_mode = EditingMode.EMACS if vi else EditingMode.VI
        self.show(f"[the keys of {'emacs' if vi else 'vi'}]\n", "event")

    def _stop_job(self) -> None:
        if self._suspend is not None:
            self._session.app.renderer.erase()
            self._suspend()
            self._redraw()

    def _paste(self, event: KeyPressEvent) -> None:
        """Insert pasted text; each line end in it enters the line."""
        text = event.data.replace("\r\n", "\n").replace("\r", "\n")
        if any(line.startswith(PROMPT) for line in text.split("\n")):  # a transcript: all other lines are output
            text = "".join([f"{line[len(PROMPT) :]}\n" for line in text.split("\n") if line.startswith(PROMPT)])
        # A longer line is refused anyway, and one character too many is enough for that.
        lines = [line[: MAX_LINE + 1] for line in text.split("\n")]
        if len(lines) > 1:
            # In a pasted script a line with # is a comment. A typed # is an unknown command, as in QEMU.
            lines = [line for line in lines[:-1] if line.strip() and not line.lstrip().startswith("#")] + lines[-1:]
        buffer = event.current_buffer
        buffer.insert_text(lines[0])
        if len(lines) > 1:
            self._lines.extend(lines[1:-1])
            self._rest = lines[-1]
            # The first line is entered now, the middle ones come from `read`, and the last stays to be edited.
            buffer.validate_and_handle()
