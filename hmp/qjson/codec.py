"""QMP's wire format: bytes to messages, and messages to bytes. There are no sockets and no waiting here.

The behaviour is that of QEMU 7.2. A message needs no newline: it is complete at its closing bracket. Strings may be in
single quotes. Bad input gives errors in QEMU's words, as many as QEMU sends, and the next good message is read.

There are two decoders with the same results. Ordinary messages that arrive whole go through the C decoder of the
standard library. Everything else goes through the automaton of `lexer.py` and the assembler below. These do a fixed
amount of work for each byte, wherever the input is cut.
"""

from __future__ import annotations

import json
import re
from collections import namedtuple

from hmp.qjson import lexer
from hmp.qjson.lexer import Lexer

MAX_MESSAGE_BYTES = 128 << 10
"""The most bytes of tokens in one message; blanks do not count. QEMU allows 64 MiB. An emulator with a thousand
clients cannot keep so much for each, and the longest command that clients send is a monitor line of 4 KiB. All
clients wait while a message is answered. A message of this size takes 80 ms if it is an id that has to be escaped."""

MAX_TOKENS = 32 << 10
"""The most tokens in one message. QEMU allows 2 Mi. A token can take 90 bytes as Python objects (a list of small
lists), so an unfinished message takes at most some 3 MiB."""

MAX_DEPTH = 1024
"""The most open brackets of both kinds, as in QEMU."""

_PIECE = 64 << 10
"""How many bytes go to the C decoder at once. That is less than the limits above, so the C decoder need not check them.
It also keeps errors cheap, because Python counts the lines before an error."""


class ParseFailure(namedtuple("ParseFailure", "desc")):
    """Stands for a message that the decoder could not read.

    `desc` is the text for the `desc` of a `GenericError`. The stream is still good: answer with the error and go on.
    """

    __slots__ = ()


_TOP, _FIRST_ITEM, _ITEM, _FIRST_KEY, _KEY, _MEMBER, _AFTER_ITEM, _AFTER_KEY, _AFTER_MEMBER = range(9)
"""The places in a message where the assembler can be. In those up to _MEMBER a value may come next."""

_CLOSE = -1
_STEPS = {
    (_FIRST_ITEM, lexer.RSQUARE): _CLOSE, (_AFTER_ITEM, lexer.COMMA): _ITEM, (_AFTER_ITEM, lexer.RSQUARE): _CLOSE,
    (_FIRST_KEY, lexer.RCURLY): _CLOSE, (_AFTER_KEY, lexer.COLON): _MEMBER, (_AFTER_MEMBER, lexer.COMMA): _KEY,
    (_AFTER_MEMBER, lexer.RCURLY): _CLOSE,
}  # fmt: skip
"""(place, kind of token): the next place. Any other token is a value, or an error that _FAULTS names by its place."""

# QEMU's words, one for each place where only a separator may follow.
_FAULTS = {
    _AFTER_ITEM: "expected separator in list",
    _AFTER_KEY: "missing : in object pair",
    _AFTER_MEMBER: "expected separator in dict",
}


class _Assembler:
    """Builds one message from tokens. It only counts brackets to find the end of a message, as QEMU does.

    After the first error it builds nothing more, but it goes on counting: QEMU sends the error at the last bracket.
    """

    def __init__(self, limits: tuple[int, int, int]) -> None:
        self._limits = limits
        self.size = 0  # bytes of tokens so far; 0 means that the message has not begun
        self.fault: ParseFailure | None = None
        self._count = self._curly = self._square = 0
        self._place = _TOP
        self._value: object = None  # the innermost open list or dict; at the end the message
        self._key = ""
        self._stack: list[tuple[object, str, int]] = []  # the lists and dicts around it: value, key, place

    @property
    def outcome(self) -> object:
        """The message, or the failure in place of it, after `add` has returned true."""
        return self.fault or self._value

    def add(self, kind: int, word: bytes) -> bool:
        """Take a token. Returns true if the message ends here; the next token needs a new assembler."""
        if kind == lexer.ERROR:
            self.fault = ParseFailure(f"JSON parse error, stray '{lexer.legible(word)}'")
            return True
        # Curly and square brackets are counted separately, as in QEMU: `[}` ends a message too.
        self._curly += (kind == lexer.LCURLY) - (kind == lexer.RCURLY)
        self._square += (kind == lexer.LSQUARE) - (kind == lexer.RSQUARE)
        self.size += len(word)
        self._count += 1
        max_bytes, max_tokens, max_depth = self._limits
        exceeded = ""
        if self.size >= max_bytes or kind == lexer.RECOVERY:  # QEMU counts a NUL after the last token
            exceeded = "token size"
        elif self._count > max_tokens:
            exceeded = "token count"
        elif self._curly + self._square > max_depth:
            exceeded = "nesting depth"
        if exceeded:
            self.fault = ParseFailure(f"JSON {exceeded} limit exceeded")
            return True
        if self.fault is None:
            try:
                self._build(kind, word)
            except lexer.Refused as refusal:
                self.fault = ParseFailure(f"JSON parse error, {refusal}")
                self._value = None
                # Free what was built: a client may let an unfinished bad message stand for a minute.
                self._stack.clear()
        return self._curly + self._square == 0 or self._curly < 0 or self._square < 0

    def _build(self, kind: int, word: bytes) -> None:
        place = self._place
        step = _STEPS.get((place, kind))
        if step == _CLOSE:
            value = self._value
            self._value, self._key, self._place = self._stack.pop()
            self._put(value)
        elif step is not None:
            self._place = step
        elif place > _MEMBER:
            raise lexer.Refused(_FAULTS[place])
        elif kind in lexer.SCALARS:
            self._put(lexer.SCALARS[kind](word))
        elif kind in (lexer.LCURLY, lexer.LSQUARE):
            self._stack.append((self._value, self._key, place))
            self._value, self._place = ({}, _FIRST_KEY) if kind == lexer.LCURLY else ([], _FIRST_ITEM)
        else:
            raise lexer.Refused("expecting value")

    def _put(self, value: object) -> None:
        """Put a complete value into the open list or dict, as an item, a key or a member; without one it is the
        message."""
        place, around = self._place, self._value
        if isinstance(around, dict):
            if place == _MEMBER:
                # Python would let the last one win. QEMU refuses the message.
                if self._key in around:
                    raise lexer.Refused("duplicate key")
                around[self._key] = value
                self._place = _AFTER_MEMBER
            elif isinstance(value, str):
                self._key = value
                self._place = _AFTER_KEY
            else:
                raise lexer.Refused("key is not a string in object")
        elif isinstance(around, list):
            around.append(value)
            self._place = _AFTER_ITEM
        else:
            self._value = value


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    # After this error the other decoder reads the message and names the error in QEMU's words.
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate key")
    return members


def _real(text: str) -> float:
    if text.lstrip("-")[:2] in ("0e", "0E"):  # in QEMU not one number, see lexer.ZERO
        raise ValueError(text)
    return float(text)


def _constant(name: str) -> float:  # NaN, Infinity, -Infinity
    raise ValueError(name)


_decode_one = json.JSONDecoder(
    object_pairs_hook=_members, parse_int=lexer.integer, parse_float=_real, parse_constant=_constant
).raw_decode


class Decoder:
    """Turns the bytes of a client into messages, in order, with QEMU 7.2's error recovery.

    The limits bound what it keeps between calls for any input: for each message `max_bytes` of tokens, `max_tokens`
    tokens, and `max_depth` open brackets. A message over a limit gives one failure. Reading goes on after that point,
    inside the client's message, so more failures follow, as in QEMU.
    """

    def __init__(
        self, *, max_bytes: int = MAX_MESSAGE_BYTES, max_tokens: int = MAX_TOKENS, max_depth: int = MAX_DEPTH
    ) -> None:
        self._piece = max(1, min(_PIECE, max_bytes - 1, max_tokens))
        self._lexer = Lexer(max_bytes)
        self._limits = (max_bytes, max_tokens, max_depth)
        self._assembler = _Assembler(self._limits)

    @property
    def held(self) -> int:
        """Bytes of an unfinished message that were read so far; 0 between messages."""
        return self._lexer.held + self._assembler.size

    @property
    def fault(self) -> ParseFailure | None:
        """The error in an unfinished message, if there is one.

        `feed` returns it when the brackets of the message are closed.
        """
        return self._assembler.fault

    def feed(self, data: bytes) -> list[object]:
        """Read `data` and return the messages that it completes: JSON values of any type, and failures where QEMU
        sends one.

        Integers beyond int64 and uint64 become floats; QEMU makes doubles of them. A number or word outside brackets is
        complete with the byte after it. Every byte of `data` may give an item, so feed no more at once than you can
        keep replies for.
        """
        items: list[object] = []
        for start in range(0, len(data), self._piece):
            self._read(data[start : start + self._piece], items)
        return items

    def _read(self, data: bytes, items: list[object]) -> None:
        pos, size = 0, len(data)
        words = self._lexer
        text: str | None = None
        while pos < size:
            if words.at_start and not self._assembler.size:
                if text is None:
                    # Escaped and raw non-ASCII characters need QEMU's own checks.
                    ordinary = b"}" in data and b"\\u" not in data and data.isascii()
                    text = data.decode("ascii") if ordinary else ""
                if text:
                    pos = self._read_ordinary(text, pos, items)
                    if pos == size:
                        break
            pos, ended = words.scan(data, pos, self._assembler.add)
            if ended:
                items.append(self._assembler.outcome)
                self._assembler = _Assembler(self._limits)

    def _read_ordinary(self, text: str, pos: int, items: list[object]) -> int:
        """Read whole objects for which the C decoder and QEMU agree. Returns the position of the first other text."""
        size = len(text)
        while pos < size:
            char = text[pos]
            if char == "{":
                # Without a closing bracket the C decoder would read to the end and fail, again for every piece.
                if text.find("}", pos) < 0:
                    break
                try:
                    # Any failure is left to the other decoder. It finds the same error again and words it as QEMU
                    # does.
                    value, end = _decode_one(text, pos)
                except (ValueError, RecursionError):
                    break
                max_depth = self._limits[2]
                if end - pos > max_depth and text.count("{", pos, end) + text.count("[", pos, end) > max_depth:
                    break  # too deep, or the brackets are in strings: the other decoder finds out
                items.append(value)
                pos = end
            elif char in " \t\r\n":
                pos += 1
            else:
                break
        return pos


_encode_plain = json.JSONEncoder(check_circular=False, allow_nan=False).encode
_ESCAPED = re.compile(r"\\(?:u(d[89ab]..)\\u(d[c-f]..)|u(....)|.)")
r"""An escape in encoded text: a surrogate pair, another \u, or any other, so that an escaped backslash is skipped."""

_FLOAT = re.compile(r"[ \[]-?\d+[.e]").search
"""Finds a float in encoded text, or a string that looks like one: a quick test, which may say yes too often."""


def _respell(match: re.Match[str]) -> str:
    high, low, single = match.groups()
    if high:
        code = 0x10000 + ((int(high, 16) & 0x3FF) << 10 | int(low, 16) & 0x3FF)
        return rf"\u{high.upper()}\u{low.upper()}" if lexer.is_clean(chr(code)) else r"\uFFFD"
    if single:
        return rf"\u{single.upper()}" if lexer.is_clean(chr(int(single, 16))) else r"\uFFFD"
    return match[0]


def as_qemu(text: str) -> str:
    """Write escapes as QEMU does: in uppercase, DEL escaped too, and U+FFFD in place of an invalid character."""
    if "\\u" in text:
        text = _ESCAPED.sub(_respell, text)
    return text.replace("\x7f", r"\u007F")


def encode(message: object) -> bytes:
    r"""Return the line that QEMU 7.2 would send for `message`, a value that JSON has, `\r\n` included.

    Members keep their order; QEMU's order is that of a hash table. Floats have 17 digits and no ".0", infinity is
    `inf`. Raises TypeError for a value that JSON does not have, and ValueError for a value that contains itself.
    """
    try:
        # The C encoder handles nearly all messages. But it writes floats differently from QEMU, and refuses infinity.
        text = _encode_plain(message)
        if ("." in text or "e-" in text or "e+" in text) and _FLOAT(text):
            text = _encode_by_steps(message)
    except (ValueError, RecursionError):
        text = _encode_by_steps(message)
    return (as_qemu(text) + "\r\n").encode("ascii")


_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|[^\[\]{},"]+|.')

_EMPTY = re.compile(rb"([{\[])\r\n *(\r\n *[}\]])")


def indented(message: bytes) -> bytes:
    """Return a message from `encode` in the form of QEMU's -qmp-pretty: a line for each member, indented by four spaces
    for each level."""
    parts, depth = [], 0
    for token in _TOKENS.findall(message):
        depth += (token in b"{[") - (token in b"}]")
        line = b"\r\n" + b"    " * depth
        parts.append(token + line if token in b"{[," else line + token if token in b"}]" else token.lstrip(b" "))
    return _EMPTY.sub(rb"\1\2", b"".join(parts))


def _encode_by_steps(message: object) -> str:
    """As the C encoder, but with QEMU's floats, and without a limit from the interpreter's stack."""
    parts: list[str] = []
    # For each open list or dict: its closing bracket, and what is left to write, last first.
    stack: list[tuple[str, list[tuple[str, object]]]] = []
    todo: list[tuple[str, object]] = [("", message)]
    close = ""
    while True:
        if not todo:
            parts.append(close)
            if not stack:
                return "".join(parts)
            close, todo = stack.pop()
            continue
        lead, value = todo.pop()
        parts.append(lead)
        if isinstance(value, (dict, list, tuple)):
            # An id may be as deep as a message. Deeper values only exist if one contains itself.
            if len(stack) > 2 * MAX_DEPTH:
                raise ValueError("message is nested too deeply")
            stack.append((close, todo))
            if isinstance(value, dict):
                parts.append("{")
                close, todo = "}", [(f", {_encode_plain(key)}: ", item) for key, item in value.items()]
            else:
                parts.append("[")
                close, todo = "]", [(", ", item) for item in value]
            if todo:
                todo[0] = (todo[0][0][2:], todo[0][1])
                todo.reverse()
        elif isinstance(value, float):
            parts.append(f"{value:.17g}")
        else:
            parts.append(_encode_plain(value))
