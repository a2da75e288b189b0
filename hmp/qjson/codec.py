"""QMP's wire format: bytes in, messages out, and back. No sockets, no waiting, no state but the stream's own.

Behaviour is QEMU 7.2's: a message needs no newline, it is complete at its closing bracket; strings may be single
quoted; bad input yields errors in QEMU's words, as many as QEMU sends, and the next good message is read. Two ways lead
to the same result: ordinary messages that arrive whole go through the standard library's C decoder, everything else
through the automaton of `lexer.py` and the assembler below, which do a fixed amount of work per byte however the
bytes are cut.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from hmp.qjson import lexer
from hmp.qjson.lexer import Lexer

MAX_MESSAGE_BYTES = 128 << 10
"""Bytes of tokens (blanks do not count) that one message may have. QEMU allows 64 MiB; an emulator that serves a
thousand clients cannot hold that for each, and the longest command that anybody sends is a monitor line of 4 KiB.
All clients wait while a message is answered: one of this size, all of it an id to be escaped, takes 80 ms."""

MAX_TOKENS = 32 << 10
"""Tokens in one message. QEMU allows 2 Mi; a token costs up to 90 bytes as Python objects (a list of small lists), so
this bounds what an unfinished message holds to some 3 MiB."""

MAX_DEPTH = 1024
"""Open brackets of both kinds; QEMU's own figure."""

_PIECE = 64 << 10
"""What is given to the C decoder at once: far below the limits above, so that these cannot be overstepped there, and
small enough that a decoding error, which counts the lines before it, costs little."""


class ParseFailure:
    """What a decoder delivers in place of a message that it could not read.

    `desc` is the text for the `desc` of a `GenericError`; the stream goes on, answer and carry on.
    """

    def __init__(self, desc: str) -> None:
        self.desc = desc

    def __repr__(self) -> str:
        return f"ParseFailure({self.desc!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ParseFailure) and self.desc == other.desc

    def __hash__(self) -> int:
        return hash(self.desc)


_TOP, _FIRST_ITEM, _ITEM, _FIRST_KEY, _KEY, _MEMBER, _AFTER_ITEM, _AFTER_KEY, _AFTER_MEMBER = range(9)
"""Where in a message the assembler stands. Up to MEMBER a value may come next."""

_CLOSE = -1
_STEPS: dict[int, dict[int, int]] = {
    _TOP: {},
    _FIRST_ITEM: {lexer.RSQUARE: _CLOSE},
    _ITEM: {},
    _FIRST_KEY: {lexer.RCURLY: _CLOSE},
    _KEY: {},
    _MEMBER: {},
    _AFTER_ITEM: {lexer.COMMA: _ITEM, lexer.RSQUARE: _CLOSE},
    _AFTER_KEY: {lexer.COLON: _MEMBER},
    _AFTER_MEMBER: {lexer.COMMA: _KEY, lexer.RCURLY: _CLOSE},
}
"""place: {kind of token: the next place}. What is not listed is a value or a fault, which the place then names."""

_FAULTS = {
    _AFTER_ITEM: "expected separator in list",
    _AFTER_KEY: "missing : in object pair",
    _AFTER_MEMBER: "expected separator in dict",
}


class _Assembler:
    """Builds one message from tokens, and knows, by counting brackets alone, when QEMU would look at what it has.

    The first fault is kept and nothing more is built, but the count goes on: QEMU answers at the last bracket.
    """

    def __init__(self, limits: tuple[int, int, int]) -> None:
        self._limits = limits
        self.size = 0  # bytes of tokens so far; 0: the message has not begun
        self.fault: ParseFailure | None = None
        self._count = self._curly = self._square = 0
        self._place = _TOP
        self._value: object = None  # the container that is open; at the end the message
        self._key = ""
        self._stack: list[tuple[object, str, int]] = []  # the containers around it: value, key, place

    @property
    def outcome(self) -> object:
        """The message, or why there is none, once `add` has returned true."""
        return self.fault or self._value

    def add(self, kind: int, word: bytes) -> bool:
        """Take a token; true: the message ended here, and the next token needs a new assembler."""
        if kind == lexer.ERROR:
            self.fault = ParseFailure(f"JSON parse error, stray '{lexer.legible(word)}'")
            return True
        self._curly += (kind == lexer.LCURLY) - (kind == lexer.RCURLY)
        self._square += (kind == lexer.LSQUARE) - (kind == lexer.RSQUARE)
        self.size += len(word)
        self._count += 1
        max_bytes, max_tokens, max_depth = self._limits
        exceeded = ""
        if self.size >= max_bytes or kind == lexer.RECOVERY:  # QEMU counts a NUL behind the last token
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
                self._stack.clear()
        return self._curly + self._square == 0 or self._curly < 0 or self._square < 0

    def _build(self, kind: int, word: bytes) -> None:
        place = self._place
        step = _STEPS[place].get(kind)
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
        """A value is complete: it belongs to the place where the assembler stands."""
        place, around = self._place, self._value
        if isinstance(around, dict):
            if place == _MEMBER:
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
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate key")
    return members


def _real(text: str) -> float:
    if text.lstrip("-")[:2] in ("0e", "0E"):  # no number to QEMU
        raise ValueError(text)
    return float(text)


def _constant(name: str) -> float:  # NaN, Infinity, -Infinity
    raise ValueError(name)


_decode_one = json.JSONDecoder(
    object_pairs_hook=_members, parse_int=lexer.integer, parse_float=_real, parse_constant=_constant
).raw_decode


class Decoder:
    """Turns what a client sends into messages, in order, with QEMU 7.2's error recovery.

    What it holds between calls is bounded by the limits, whatever comes: `max_bytes` of tokens per message,
    `max_tokens` tokens, `max_depth` open brackets. Beyond a limit one failure says so and reading goes on behind
    it, inside what was meant as one message, so that more failures follow, as in QEMU.
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
        """Bytes of an unfinished message that were read already; 0 when nothing is awaited."""
        return self._lexer.held + self._assembler.size

    @property
    def fault(self) -> ParseFailure | None:
        """What is wrong already with an unfinished message; feeding tells it once the message's brackets are closed."""
        return self._assembler.fault

    def feed(self, data: bytes) -> list[object]:
        """Read `data` and return what it completes: JSON values of any type, and a failure wherever QEMU sends one.

        Integers beyond int64 and uint64 are floats, as they are doubles in QEMU. A number or word that is not in
        brackets is complete with the byte after it. There can be one item for every byte of `data`: feed no more at
        once than the replies that can be kept.
        """
        items: list[object] = []
        if len(data) <= self._piece:
            self._read(data, items)
        else:
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
        """Read whole objects as far as the C decoder and QEMU agree; return where the first other thing begins."""
        size = len(text)
        while pos < size:
            char = text[pos]
            if char == "{":
                if text.find("}", pos) < 0:
                    break
                try:
                    value, end = _decode_one(text, pos)
                except (ValueError, RecursionError):
                    break
                max_depth = self._limits[2]
                if end - pos > max_depth and text.count("{", pos, end) + text.count("[", pos, end) > max_depth:
                    break  # perhaps too deep, perhaps brackets in strings
                items.append(value)
                pos = end
            elif char in " \t\r\n":
                pos += 1
            else:
                break
        return pos


_encode_plain = json.JSONEncoder(check_circular=False, allow_nan=False).encode
_ESCAPED = re.compile(r"\\(?:u(d[89ab]..)\\u(d[c-f]..)|u(....)|.)")
r"""An escape in encoded text: a surrogate pair, another \u, or (so that an escaped backslash is passed over) any."""

_FLOAT = re.compile(r"[ \[]-?\d+[.e]").search


def _respell(match: re.Match[str]) -> str:
    high, low, single = match.groups()
    if high:
        code = 0x10000 + ((int(high, 16) & 0x3FF) << 10 | int(low, 16) & 0x3FF)
        return rf"\u{high.upper()}\u{low.upper()}" if lexer.is_clean(chr(code)) else r"\uFFFD"
    if single:
        return rf"\u{single.upper()}" if lexer.is_clean(chr(int(single, 16))) else r"\uFFFD"
    return match[0]


def _as_qemu(text: str) -> str:
    """Spell escapes as QEMU: uppercase, DEL escaped too, U+FFFD for what is no character."""
    if "\\u" in text:
        text = _ESCAPED.sub(_respell, text)
    return text.replace("\x7f", r"\u007F")


def encode(message: Mapping[str, object]) -> bytes:
    r"""The line that QEMU 7.2 would send for `message` (a dict with string keys), `\r\n` included.

    Members keep their order (QEMU's is that of a hash table). Floats have 17 digits and no ".0", infinity is `inf`.
    Raises TypeError for what JSON has no word for, ValueError for what contains itself.
    """
    try:
        text = _encode_plain(message)
        if ("." in text or "e-" in text or "e+" in text) and _FLOAT(text):  # or a string that looks so
            text = _encode_by_steps(message)
    except (ValueError, RecursionError):
        text = _encode_by_steps(message)
    return (_as_qemu(text) + "\r\n").encode("ascii")


_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|[^\[\]{},"]+|.')

_EMPTY = re.compile(rb"([{\[])\r\n *(\r\n *[}\]])")


def indented(message: bytes) -> bytes:
    """Return what `encode` made as QEMU's -qmp-pretty writes it: a line for each member, four spaces for each level."""
    parts, depth = [], 0
    for token in _TOKENS.findall(message):
        depth += (token in b"{[") - (token in b"}]")
        line = b"\r\n" + b"    " * depth
        parts.append(token + line if token in b"{[," else line + token if token in b"}]" else token.lstrip(b" "))
    return _EMPTY.sub(rb"\1\2", b"".join(parts))


def _encode_by_steps(message: object) -> str:
    """As the C encoder, but floats are QEMU's and nesting is not bounded by the interpreter's stack."""
    parts: list[str] = []
    stack: list[tuple[str, list[tuple[str, object]]]] = []  # closing bracket; what is still to write, last first
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
