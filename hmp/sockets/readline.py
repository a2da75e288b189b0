"""Line editing for monitors on sockets: bytes in, echoed bytes and whole lines out.

A pure state machine without sockets, clocks or an event loop. It emits byte for byte what QEMU 7.2's monitor emits
for the same keys (its echo, its completion lists, its history), so that programs and people who talk to QEMU over a
socket see no difference. Sources: observed behaviour of QEMU 7.2; tests/conformance feeds both the same keys.

How a server drives one editor per client:

    write(editor.show_prompt())
    editor.feed(received)                          # never more than editor.room bytes at once
    while (event := editor.next_event()) is not None:
        if isinstance(event, Output):
            write(event)
        else:                                      # a Line: the editor now waits
            write(run(event))                      # at once, or much later
            write(editor.show_prompt())            # the editor goes on with what was typed meanwhile

A command that suspends the monitor is just one whose `show_prompt` comes later: until then `next_event` returns None
and what is fed is kept as it came. When `room` is 0, stop reading from the socket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hmp.monitor.monitor import History

Completer = Callable[[bytes], tuple[bytes, Iterable[bytes]]]
"""Takes the line up to the cursor; returns the word being completed and all candidates for it. The word counts by its
length only: so many bytes of each candidate are taken as typed already."""

Action = Callable[["LineEditor", int], None]

PROMPT = b"(qemu) "

LINE_LIMIT = 4095
"""Bytes of one line; QEMU's buffer. What is typed beyond is dropped without a word."""

CANDIDATE_LIMIT = 256
"""Completions looked at, as QEMU."""

TYPE_AHEAD_LIMIT = 4 * 4096
"""Bytes kept unread: four of the longest lines typed ahead of a suspended command."""

OUTPUT_LIMIT = 64 * 1024
"""Bytes after which next_event pauses. QEMU's echo repeats the line for every key, so one long line echoes as 33 MB: a
caller that writes event by event can stop when its client does not read."""

SCREEN_WIDTH = 80
"""Columns that completion lists are laid out for, whatever the client's terminal."""

COLUMN_GAP = 2
COLUMN_MIN = 10

CODEC = ("utf-8", "surrogateescape")
"""How bytes become the history's text and come back unchanged."""

_LEFT = b"\x1b[D"
_RIGHT = b"\x1b[C"
_ERASE = b"\x1b[K"
_CLEAR = b"\x1b[2J\x1b[1;1H"
_NEWLINE = b"\r\n"

_LITERAL = bytes(byte for byte in range(0x20, 0x100) if byte not in (0x7F, 0x9B))
"""Bytes that stand for themselves. 0x9B is CSI in one byte, which QEMU honours even inside UTF-8 text."""

_ONE = tuple(bytes((byte,)) for byte in range(0x100))


class Output(bytes):
    """Bytes to write to the client."""

    __slots__ = ()


class Line(bytes):
    """A line that the client entered, without its line end, at most LINE_LIMIT bytes; run it, then show_prompt()."""

    __slots__ = ()


class LineEditor:
    """The line editor of one client. New ones wait: keys are kept until the first show_prompt().

    `prompt` is what show_prompt emits; `history` belongs to the address; `complete` is asked when TAB is typed (see
    Completer above; what it raises passes through next_event, and the editor is still usable).
    """

    left, erase = _LEFT, _ERASE

    def __init__(self, prompt: bytes, history: History, complete: Completer) -> None:
        self._prompt = prompt
        self._history = history
        self._me = object()  # the history's name for this client; not the editor, which would live on in there
        self._complete = complete
        self._keys = bytearray()  # fed, not yet looked at
        self._out = bytearray()  # made, not yet handed out
        self._line, self._cursor = b"", 0
        self._shown, self._shown_cursor = b"", 0  # what the client's screen shows behind the prompt
        self._place = -1  # index into the history while browsing, else -1
        self._table = _TEXT
        self._param = 0
        self._entered: bytes | None = None
        self._waiting = True

    @property
    def waiting(self) -> bool:
        """True from a Line event (and from the start) until show_prompt(): a command runs, nothing is edited.

        After the client's EOF, everything it sent is answered as soon as next_event() is None and this is False.
        """
        return self._waiting

    @property
    def room(self) -> int:
        """How many bytes feed() takes now, 0 to TYPE_AHEAD_LIMIT. At 0 leave the client's bytes in its socket."""
        return TYPE_AHEAD_LIMIT - len(self._keys)

    def show_prompt(self) -> bytes:
        """The prompt to write when a command is done; the next events come from what was typed meanwhile.

        Raises RuntimeError, and changes nothing, when no command is running.
        """
        if not self._waiting:
            raise RuntimeError("show_prompt() at the prompt: it follows a Line event")
        self._waiting = False
        return self._prompt

    def feed(self, data: bytes) -> None:
        """Keep what the client sent; call next_event() until it returns None.

        Raises ValueError, and keeps nothing, if `data` is longer than `room`.
        """
        if len(data) > TYPE_AHEAD_LIMIT - len(self._keys):
            raise ValueError(f"{len(data)} bytes fed, room for {self.room}")
        self._keys += data

    def next_event(self) -> Output | Line | None:
        """The next thing that follows from what was fed: bytes to write, or a line to run; None when there is none.

        A Line ends the events until show_prompt(). Output is handed out in pieces of about OUTPUT_LIMIT bytes, and
        behind every TAB, empty if need be; a caller may stop asking when its client does not read, or when others are
        to have their turn, and go on later.
        """
        if self._entered is not None:
            line, self._entered = Line(self._entered), None
            self._waiting = True
            return line
        if self._waiting:
            return None
        out = self._out  # not empty if a completion raised last time
        used = 0
        try:
            for key in self._keys:
                used += 1
                self._table[key](self, key)
                # Identity is enough here: _redraw compares in earnest.
                if self._line is not self._shown or self._cursor != self._shown_cursor:
                    self._redraw()
                if self._entered is not None or len(out) >= OUTPUT_LIMIT or key == 9:
                    break  # behind a TAB as well: a completion may take as long as a command
        finally:
            del self._keys[:used]  # also if a completion raises: the next call goes on behind it
        if not out and not self._keys:
            return None
        self._out = bytearray()
        return Output(out)

    # -- what the client sees

    def _redraw(self) -> None:
        """Bring the client's screen up to date, with the bytes that QEMU uses for it."""
        if self._line != self._shown:
            self._out += self.left * self._shown_cursor + self._line + self.erase
            self._shown_cursor = len(self._line)
        self._shown = self._line
        ahead = self._cursor - self._shown_cursor
        self._out += self._forth(ahead) if ahead > 0 else self.left * -ahead
        self._shown_cursor = self._cursor

    def _forth(self, count: int) -> bytes:
        """What moves the cursor that far on."""
        return _RIGHT * count

    def _list(self, candidates: list[bytes]) -> None:
        width = max(map(len, candidates)) + COLUMN_GAP
        width = min(max(width, COLUMN_MIN), SCREEN_WIDTH)
        columns = SCREEN_WIDTH // width
        rows = [_NEWLINE]
        for start in range(0, len(candidates), columns):
            rows += [each.ljust(width) for each in candidates[start : start + columns]] + [_NEWLINE]
        self._fresh_row(b"".join(rows) + self._prompt)

    def _fresh_row(self, text: bytes) -> None:
        """Emit `text`, after which the cursor is at a place where nothing of the line is shown yet."""
        self._out += text
        self._shown = b""
        self._shown_cursor = 0

    # -- what keys do; each takes the key, for the tables' sake

    def _type(self, key: int) -> None:
        line, cursor = self._line, self._cursor
        if cursor != len(line):
            self._insert(_ONE[key])
        elif cursor < LINE_LIMIT:
            # Typing at the end is nearly all that ever happens: draw it here, without the detour of _redraw.
            self._shown = self._line = line = line + _ONE[key]
            self._out += self.left * cursor + line + self.erase
            self._shown_cursor = self._cursor = cursor + 1

    def _ignore(self, key: int) -> None:
        pass

    def _enter(self, key: int) -> None:
        line = self._line
        if self._history.add(line.decode(*CODEC), self._me):  # else QEMU also stays where it is in the history
            self._place = -1
        self._entered = line
        self._line = b""
        self._cursor = 0
        self._fresh_row(_NEWLINE)

    def _home(self, key: int) -> None:
        self._cursor = 0

    def _end(self, key: int) -> None:
        self._cursor = len(self._line)

    def _backward(self, key: int) -> None:
        self._cursor = max(self._cursor - 1, 0)

    def _forward(self, key: int) -> None:
        self._cursor = min(self._cursor + 1, len(self._line))

    def _delete(self, key: int) -> None:
        self._cut(self._cursor, self._cursor + 1)

    def _backspace(self, key: int) -> None:
        if self._cursor:
            self._cut(self._cursor - 1, self._cursor)

    def _delete_word(self, key: int) -> None:
        # As QEMU: a blank in the very first column belongs to the first word.
        head = self._line[: self._cursor].rstrip(b" ")
        start = head.rfind(b" ") + 1
        self._cut(0 if start == 1 else start, self._cursor)

    def _clear_screen(self, key: int) -> None:
        self._fresh_row(_CLEAR + self._prompt)

    def _older(self, key: int) -> None:
        place = self._place if self._place >= 0 else len(self._history)
        if place > 0:
            self._recall(place - 1)

    def _newer(self, key: int) -> None:
        if self._place >= 0:
            self._recall(self._place + 1)

    def _tab(self, key: int) -> None:
        word, offered = self._complete(self._line[: self._cursor])
        candidates = _usable(offered)
        if not candidates:
            return
        first, last = candidates[0], candidates[-1]
        if first == last:
            # A directory goes on behind its slash; everything else is followed by a next word.
            self._insert(first[len(word) :] + (b"" if first[-1:] in (b"", b"/") else b" "))
            return
        common = 0
        while first[common : common + 1] == last[common : common + 1] != b"":
            common += 1
        self._insert(first[len(word) : common])
        self._list(candidates)

    # -- changes of the line

    def _insert(self, text: bytes) -> None:
        text = text[: LINE_LIMIT - len(self._line)]
        self._line = self._line[: self._cursor] + text + self._line[self._cursor :]
        self._cursor += len(text)

    def _cut(self, start: int, end: int) -> None:
        self._line = self._line[:start] + self._line[end:]
        self._cursor = start

    def _recall(self, place: int) -> None:
        """Put a line of the history into the editor, or an empty one behind its end."""
        inside = place < len(self._history)
        self._place = place if inside else -1
        # Escaped, what another client typed may be longer.
        self._line = self._history.shown(place, self._me).encode(*CODEC)[:LINE_LIMIT] if inside else b""
        self._cursor = len(self._line)

    # -- escape sequences

    def _escape(self, key: int) -> None:
        self._table = _ESCAPE

    def _open_csi(self, key: int) -> None:
        self._table = _CSI
        self._param = 0

    def _open_ss3(self, key: int) -> None:
        self._table = _SS3

    def _digit(self, key: int) -> None:
        # Wraps as QEMU's int does, which also bounds it.
        self._param = (self._param * 10 + key - ord("0")) & 0xFFFFFFFF

    def _numbered(self, key: int) -> None:
        _NUMBERED.get(self._param, LineEditor._ignore)(self, key)

    def _close(self, key: int) -> None:
        self._table = _TEXT


def _usable(offered: Iterable[bytes]) -> list[bytes]:
    """The candidates sorted, each once; without those that nobody can type, which could drive a client's terminal."""
    seen: set[bytes] = set()
    for candidate in offered:
        if len(seen) == CANDIDATE_LIMIT:
            break
        if not candidate.translate(None, _LITERAL):
            seen.add(candidate)
    return sorted(seen)


def _keymap(keys: dict[bytes, Action], otherwise: Action) -> tuple[Action, ...]:
    """One action for every byte; each of the bytes in `keys` gets the action they map to."""
    actions = {key: action for each, action in keys.items() for key in each}
    return tuple(actions.get(key, otherwise) for key in range(0x100))


def _closing(action: Action) -> Action:
    """What the last key of an escape sequence does, then back to text."""

    def act(editor: LineEditor, key: int) -> None:
        editor._close(key)
        action(editor, key)

    return act


_TEXT = _keymap(
    {
        _LITERAL: LineEditor._type,
        b"\x01": LineEditor._home,  # ^A
        b"\x04": LineEditor._delete,  # ^D
        b"\x05": LineEditor._end,  # ^E
        b"\x08\x7f": LineEditor._backspace,
        b"\t": LineEditor._tab,
        b"\r\n": LineEditor._enter,  # either, so both in a row enter the line and then an empty one
        b"\x0c": LineEditor._clear_screen,  # ^L
        b"\x17": LineEditor._delete_word,  # ^W
        b"\x1b": LineEditor._escape,
        b"\x9b": LineEditor._open_csi,
    },
    LineEditor._ignore,
)
"""What each byte does, state by state. A byte that is not listed ends an escape sequence and is swallowed with it, so
that ESC [ 1 ; 5 C (Ctrl-Right in xterm) leaves "5C" on the line, as in QEMU."""

_ESCAPE = _keymap({b"[": LineEditor._open_csi, b"O": LineEditor._open_ss3}, LineEditor._close)
_CSI = _keymap(
    {
        b"0123456789": LineEditor._digit,
        b"AF": _closing(LineEditor._older),
        b"BE": _closing(LineEditor._newer),
        b"C": _closing(LineEditor._forward),
        b"D": _closing(LineEditor._backward),
        b"~": _closing(LineEditor._numbered),
    },
    LineEditor._close,
)
_SS3 = _keymap({b"F": _closing(LineEditor._end), b"H": _closing(LineEditor._home)}, LineEditor._close)
_NUMBERED: dict[int, Action] = {1: LineEditor._home, 3: LineEditor._delete, 4: LineEditor._end}
