"""Line editing for monitors on sockets: bytes in, echoed bytes and whole lines out.

A state machine without sockets, clocks or an event loop. It emits the same bytes as QEMU 7.2's monitor for the same
keys (echo, completion lists, history), so that programs and people who talk to QEMU over a socket see no difference.
It was written from the observed output of QEMU 7.2; tests/conformance feeds the same keys to both.

How a server drives one editor per client:

    write(editor.show_prompt())
    editor.feed(received)                          # never more than editor.room bytes at once
    while (event := editor.next_event()) is not None:
        if isinstance(event, Output):
            write(event)
        else:                                      # a Line: the editor now waits
            write(run(event))                      # at once, or much later
            write(editor.show_prompt())            # the editor goes on with the keys that came meanwhile

For a command that suspends the monitor, call `show_prompt` later. Until then `next_event` returns None, and the editor
keeps the keys that it is fed. When `room` is 0, stop reading from the socket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hmp.monitor.monitor import History

Completer = Callable[[bytes], tuple[bytes, Iterable[bytes]]]
"""Takes the line up to the cursor. Returns the word to complete and all its candidates. Only the length of the word is
used: that many bytes of each candidate count as typed already."""

Action = Callable[["LineEditor", int], None]

PROMPT = b"(qemu) "

LINE_LIMIT = 4095
"""The most bytes of a line, as in QEMU's buffer. Further keys are dropped silently."""

CANDIDATE_LIMIT = 256
"""The most candidates that are used, as in QEMU."""

TYPE_AHEAD_LIMIT = 4 * 4096
"""The most bytes of type-ahead: four of the longest lines."""

OUTPUT_LIMIT = 64 * 1024
"""The bytes of output after which next_event returns. QEMU's echo repeats the line for every key, so the echo of
one long line has 33 MB. The caller can stop between events if its client does not read."""

SCREEN_WIDTH = 80
"""Completion lists are laid out for so many columns, as in QEMU, which does not know the client's terminal."""

COLUMN_GAP = 2
COLUMN_MIN = 10

CODEC = ("utf-8", "surrogateescape")
"""How bytes become text for the history, and come back unchanged."""

_LEFT = b"\x1b[D"
_RIGHT = b"\x1b[C"
_ERASE = b"\x1b[K"
_CLEAR = b"\x1b[2J\x1b[1;1H"
_NEWLINE = b"\r\n"

_LITERAL = bytes(byte for byte in range(0x20, 0x100) if byte not in (0x7F, 0x9B))
"""Bytes that are inserted as they are. 0x9B is CSI in one byte; QEMU treats it as that even inside UTF-8 text."""

_ONE = tuple(bytes((byte,)) for byte in range(0x100))


class Output(bytes):
    """Bytes to write to the client."""

    __slots__ = ()


class Line(bytes):
    """A line that the client entered, without its line end, of at most LINE_LIMIT bytes. Run it, then show_prompt()."""

    __slots__ = ()


class LineEditor:
    """The line editor of one client. It keeps keys and handles none until the first show_prompt().

    `prompt` is what show_prompt returns. `history` is shared by the clients of an address. `complete` is called for TAB
    (see Completer above). If it raises, the error passes through next_event, and the editor is still usable.
    """

    left, erase = _LEFT, _ERASE

    def __init__(self, prompt: bytes, history: History, complete: Completer) -> None:
        self._prompt = prompt
        self._history = history
        # Identifies this client in the history. The editor itself was rejected: the history would keep it alive after
        # the client left.
        self._me = object()
        self._complete = complete
        self._keys = bytearray()  # keys that are not handled yet
        self._out = bytearray()  # output that next_event has not returned yet
        self._line, self._cursor = b"", 0
        self._shown, self._shown_cursor = b"", 0  # what the client's screen shows after the prompt
        self._place = -1  # index into the history while browsing, else -1
        self._table = _TEXT
        self._param = 0
        self._entered: bytes | None = None
        self.waiting = True
        """True at the start, and from a Line event until show_prompt(): a command runs, and no keys are handled.

        After the client's EOF everything is answered when next_event() returns None and this is False.
        """

    @property
    def room(self) -> int:
        """How many bytes feed() takes now, 0 to TYPE_AHEAD_LIMIT. At 0 do not read from the client's socket."""
        return TYPE_AHEAD_LIMIT - len(self._keys)

    def show_prompt(self) -> bytes:
        """Return the prompt to write after a command. The next events come from keys that were typed meanwhile.

        Raises RuntimeError, and changes nothing, when no command is running.
        """
        if not self.waiting:
            raise RuntimeError("show_prompt() at the prompt: it follows a Line event")
        self.waiting = False
        return self._prompt

    def restart(self) -> bytes:
        """Forget what was typed at the prompt, and return the prompt to write again."""
        self._line, self._cursor = b"", 0
        self._shown, self._shown_cursor = b"", 0
        return self._prompt

    def feed(self, data: bytes) -> None:
        """Take bytes that the client sent. Then call next_event() until it returns None.

        Raises ValueError, and keeps nothing, if `data` is longer than `room`.
        """
        if len(data) > TYPE_AHEAD_LIMIT - len(self._keys):
            raise ValueError(f"{len(data)} bytes fed, room for {self.room}")
        self._keys += data

    def next_event(self) -> Output | Line | None:
        """Return the next event: bytes to write, or a line to run. None if all keys are handled.

        After a Line there are no events until show_prompt(). Output comes in pieces of about OUTPUT_LIMIT bytes, and
        after every TAB, even if it is empty. A caller may stop between events, because its client does not read or
        others should get their turn, and go on later.
        """
        if self._entered is not None:
            line, self._entered = Line(self._entered), None
            self.waiting = True
            return line
        if self.waiting:
            return None
        out = self._out  # not empty if a completion raised in the last call
        used = 0
        try:
            for key in self._keys:
                used += 1
                self._table[key](self, key)
                # A comparison by identity is enough here, because _redraw compares the text.
                if self._line is not self._shown or self._cursor != self._shown_cursor:
                    self._redraw()
                if self._entered is not None or len(out) >= OUTPUT_LIMIT or key == 9:
                    break  # after a TAB too, because a completion may take as long as a command
        finally:
            del self._keys[:used]  # if a completion raised, the next call goes on after its TAB
        if not out and not self._keys:
            return None
        self._out = bytearray()
        return Output(out)

    # -- output

    def _redraw(self) -> None:
        """Update the client's screen, with the same bytes as QEMU."""
        if self._line != self._shown:
            # QEMU writes the whole line again, whatever changed.
            self._out += self.left * self._shown_cursor + self._line + self.erase
            self._shown_cursor = len(self._line)
        self._shown = self._line
        ahead = self._cursor - self._shown_cursor
        self._out += self._forth(ahead) if ahead > 0 else self.left * -ahead
        self._shown_cursor = self._cursor

    def _forth(self, count: int) -> bytes:
        """Return the bytes that move the cursor `count` columns to the right."""
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
        """Emit `text`. After it the cursor is in a row that shows nothing of the line yet."""
        self._out += text
        self._shown = b""
        self._shown_cursor = 0

    # -- actions of keys; each takes the key, because the tables call them all in the same way

    def _type(self, key: int) -> None:
        line, cursor = self._line, self._cursor
        if cursor != len(line):
            self._insert(_ONE[key])
        elif cursor < LINE_LIMIT:
            # Nearly all keys are typed at the end of the line. Draw them here: a call of _redraw for each takes longer.
            self._shown = self._line = line = line + _ONE[key]
            self._out += self.left * cursor + line + self.erase
            self._shown_cursor = self._cursor = cursor + 1

    def _ignore(self, key: int) -> None:
        pass

    def _enter(self, key: int) -> None:
        line = self._line
        # When add() returns false, QEMU's editor keeps its place in the history.
        if self._history.add(line.decode(*CODEC), self._me):
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
        # As in QEMU, a blank in the first column belongs to the first word.
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
            # After a directory and its slash the word goes on; after anything else comes the next word.
            self._insert(first[len(word) :] + (b"" if first[-1:] in (b"", b"/") else b" "))
            return
        # The candidates are sorted, so a common prefix of the first and the last is common to all.
        common = 0
        while first[common : common + 1] == last[common : common + 1] != b"":
            common += 1
        self._insert(first[len(word) : common])
        self._list(candidates)

    # -- editing

    def _insert(self, text: bytes) -> None:
        text = text[: LINE_LIMIT - len(self._line)]
        self._line = self._line[: self._cursor] + text + self._line[self._cursor :]
        self._cursor += len(text)

    def _cut(self, start: int, end: int) -> None:
        self._line = self._line[:start] + self._line[end:]
        self._cursor = start

    def _recall(self, place: int) -> None:
        """Put a line of the history into the editor, or an empty line if `place` is after the newest."""
        inside = place < len(self._history)
        self._place = place if inside else -1
        # A line from another client is escaped, which may make it longer than a line may be.
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
        # Wraps like QEMU's int. That also keeps the number small, however many digits come.
        self._param = (self._param * 10 + key - ord("0")) & 0xFFFFFFFF

    def _numbered(self, key: int) -> None:
        _NUMBERED.get(self._param, LineEditor._ignore)(self, key)

    def _close(self, key: int) -> None:
        self._table = _TEXT


def _usable(offered: Iterable[bytes]) -> list[bytes]:
    """Return the candidates in order, each once. Leaves out names with control characters: nobody can type them."""
    seen: set[bytes] = set()
    for candidate in offered:
        if len(seen) == CANDIDATE_LIMIT:
            break
        if not candidate.translate(None, _LITERAL):
            seen.add(candidate)
    return sorted(seen)


def _keymap(keys: dict[bytes, Action], otherwise: Action) -> tuple[Action, ...]:
    """Return the action of every byte: that in `keys`, or `otherwise`."""
    actions = {key: action for each, action in keys.items() for key in each}
    return tuple(actions.get(key, otherwise) for key in range(0x100))


def _closing(action: Action) -> Action:
    """Return `action` for the last key of an escape sequence: it also returns to text."""

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
        b"\r\n": LineEditor._enter,  # either one; \r\n enters the line and then an empty line
        b"\x0c": LineEditor._clear_screen,  # ^L
        b"\x17": LineEditor._delete_word,  # ^W
        b"\x1b": LineEditor._escape,
        b"\x9b": LineEditor._open_csi,
    },
    LineEditor._ignore,
)
"""The action of each byte in text; the tables below have those in escape sequences. A byte that is not listed ends the
sequence and is dropped, so ESC [ 1 ; 5 C (Ctrl-Right in xterm) leaves "5C" on the line, as in QEMU."""

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
