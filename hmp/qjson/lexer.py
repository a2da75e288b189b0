"""The words of QMP's JSON: how bytes become tokens, and what a token's text means.

QEMU 7.2's dialect is JSON with single-quoted strings and with errors that leave the stream usable. The automaton never
looks back, and it is data: `TABLE` says for every state and byte what follows. Nothing here knows about objects or
about messages; see `codec.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

# States. START and RECOVERY hold no bytes of a token, all later ones do.
START, RECOVERY = 0, 1
(DOUBLE, DOUBLE_ESCAPE, SINGLE, SINGLE_ESCAPE, WORD, MINUS, ZERO, DIGITS, POINT, FRACTION, EXPONENT, EXPONENT_SIGN) = (
    range(2, 14)
)
EXPONENT_DIGITS = 14

# What a finished token is. ERROR is the state's "this byte cannot follow"; the byte belongs to the stray text.
ERROR, LCURLY, RCURLY, LSQUARE, RSQUARE, COLON, COMMA, STRING, INTEGER, FLOAT, KEYWORD = range(32, 43)
FIRST_KIND = ERROR

# Set beside a state or kind: the byte only ended what came before, it is looked at again in the new state.
PUT_BACK = 0x80

_BLANK = b" \t\r\n"
_DIGIT = b"0123456789"
_LOWER = b"abcdefghijklmnopqrstuvwxyz"
_BRACKETS = {b"{": LCURLY, b"}": RCURLY, b"[": LSQUARE, b"]": RSQUARE, b":": COLON, b",": COMMA}
# Inside a string everything may stand but control characters and the two bytes that no UTF-8 contains.
_TEXT = bytes(range(0x20, 0xFE))
# Garbage is skipped up to a control character (a tab is not one here), a bracket, a comma, a colon or 0xFE, 0xFF.
# A quote does not end it: QEMU 7.2 eats the string that follows a stray character.
_RESYNC = bytes(set(range(0x20)) - {0x09}) + b"{}[]:,\xfe\xff"

# state: (what an unlisted byte leads to, {bytes: what these lead to}); a later entry overrides an earlier one.
_RULES: dict[int, tuple[int, dict[bytes, int]]] = {
    START: (
        ERROR,
        {_BLANK: START, b'"': DOUBLE, b"'": SINGLE, b"-": MINUS, _DIGIT: DIGITS, b"0": ZERO, _LOWER: WORD} | _BRACKETS,
    ),
    RECOVERY: (RECOVERY, {_RESYNC: START | PUT_BACK}),
    DOUBLE: (ERROR, {_TEXT: DOUBLE, b"\\": DOUBLE_ESCAPE, b'"': STRING}),
    DOUBLE_ESCAPE: (ERROR, {_TEXT: DOUBLE}),
    SINGLE: (ERROR, {_TEXT: SINGLE, b"\\": SINGLE_ESCAPE, b"'": STRING}),
    SINGLE_ESCAPE: (ERROR, {_TEXT: SINGLE}),
    WORD: (KEYWORD | PUT_BACK, {_LOWER: WORD}),
    MINUS: (ERROR, {_DIGIT: DIGITS, b"0": ZERO}),
    ZERO: (INTEGER | PUT_BACK, {_DIGIT: ERROR, b".": POINT}),  # no exponent: to QEMU "0e5" is 0, e, 5
    DIGITS: (INTEGER | PUT_BACK, {_DIGIT: DIGITS, b".": POINT, b"eE": EXPONENT}),
    POINT: (ERROR, {_DIGIT: FRACTION}),
    FRACTION: (FLOAT | PUT_BACK, {_DIGIT: FRACTION, b"eE": EXPONENT}),
    EXPONENT: (ERROR, {_DIGIT: EXPONENT_DIGITS, b"+-": EXPONENT_SIGN}),
    EXPONENT_SIGN: (ERROR, {_DIGIT: EXPONENT_DIGITS}),
    EXPONENT_DIGITS: (FLOAT | PUT_BACK, {_DIGIT: EXPONENT_DIGITS}),
}


def _row(state: int) -> bytes:
    default, rules = _RULES[state]
    row = bytearray([default]) * 256
    for members, target in rules.items():
        for byte in members:
            row[byte] = target
    return bytes(row)


TABLE = tuple(_row(state) for state in range(len(_RULES)))
"""`TABLE[state][byte]`: the next state, or a token's kind, either with `PUT_BACK`."""


class Lexer:
    """Cuts a byte stream into tokens, however it arrives.

    `longest` is the length in bytes that an unfinished token may reach; one more, and it is given up.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._state = START
        self._held = bytearray()

    @property
    def held(self) -> int:
        """How many bytes of an unfinished token wait for the rest."""
        return len(self._held)

    @property
    def at_start(self) -> bool:
        """Whether the next byte begins afresh: no token is open and no garbage is being skipped."""
        return self._state == START

    def scan(self, data: bytes, pos: int, token: Callable[[int, bytes], bool]) -> tuple[int, bool]:
        """Hand every token that `data` completes from `pos` on to `token(kind, bytes)`.

        Returns where it stopped and why: true after a token for which `token` returned true, false at the end of
        `data`. Kind `ERROR` comes with the stray bytes; `RECOVERY`, no kind at all, says that a token
        grew longer than allowed (its bytes are dropped, what follows is read afresh).
        """
        table, size, state = TABLE, len(data), self._state
        begin, room = pos, self._longest - len(self._held)
        while pos < size:
            target = table[state][data[pos]]
            if target & PUT_BACK:
                target ^= PUT_BACK
            else:
                pos += 1
            if target >= FIRST_KIND:
                word = bytes(self._held) + data[begin:pos]
                state = RECOVERY if target == ERROR else START
            elif target > RECOVERY and pos - begin > room:
                target, state, word = RECOVERY, START, b""
            else:
                state = target
                if state <= RECOVERY:
                    begin = pos
                continue
            self._held.clear()
            self._state = state
            begin, room = pos, self._longest
            if token(target, word):
                return pos, True
        self._state = state
        self._held += data[begin:pos]
        return pos, False


_INT64_MIN, _UINT64_MAX = -(1 << 63), (1 << 64) - 1
_MAX_COMPLAINT = 1023
"""QEMU words the complaints about tokens in a buffer of 1024 bytes, its end included."""

_ESCAPES = dict(zip(b"\"'\\/bfnrt", "\"'\\/\b\f\n\r\t", strict=True))
_HEX4 = re.compile(rb"[0-9A-Fa-f]{4}").match
# UTF-8 of what QEMU refuses and Python does not: U+FDD0 to U+FDEF, and the last two code points of every plane.
_NONCHARACTER = re.compile(
    rb"\xef(?:\xb7[\x90-\xaf]|\xbf[\xbe\xbf])|[\xf0-\xf4][\x8f\x9f\xaf\xbf]\xbf[\xbe\xbf]"
).search
# One UTF-8 sequence as QEMU steps over it: a lead byte and as many of the continuation bytes that it promises as came.
_SEQUENCE = (
    rb"[\x00-\x7f]+|[\xc0-\xdf][\x80-\xbf]?|[\xe0-\xef][\x80-\xbf]{0,2}|[\xf0-\xf7][\x80-\xbf]{0,3}"
    rb"|[\xf8-\xfb][\x80-\xbf]{0,4}|[\xfc\xfd][\x80-\xbf]{0,5}|[\x80-\xbf\xfe\xff]"
)
_json_string = json.JSONDecoder(strict=False).raw_decode


class Refused(ValueError):
    """A token is no good where it stands, or not at all; the argument is QEMU's complaint."""


def is_clean(text: str) -> bool:
    """Whether `text` has only characters that QEMU takes for such: no surrogates, no noncharacters."""
    if text.isascii():
        return True
    try:
        return _NONCHARACTER(text.encode()) is None
    except UnicodeEncodeError:
        return False


def _utf8(raw: bytes) -> str:
    """Decode strictly as QEMU does: NUL travels as C0 80, noncharacters are refused."""
    if raw.isascii():
        return raw.decode("ascii")
    try:
        if not _NONCHARACTER(raw):
            return raw.replace(b"\xc0\x80", b"\0").decode()
    except UnicodeDecodeError:
        pass
    raise Refused("invalid UTF-8 sequence in string")


def legible(raw: bytes) -> str:
    """Decode text that goes into an error: up to a NUL, every bad sequence replaced by one U+FFFD."""
    raw = raw.partition(b"\0")[0]
    if raw.isascii():
        return raw.decode("ascii")
    parts = []
    for sequence in re.findall(_SEQUENCE, raw):
        try:
            parts.append(_utf8(sequence))
        except Refused:
            parts.append("\ufffd")
    return "".join(parts)


def string(raw: bytes) -> str:
    """The value of a string token, quotes included; raises `Refused` at its first fault."""
    if b"\\" not in raw:
        return _utf8(raw[1:-1])
    if raw[0] == 0x22:
        # The C decoder knows all escapes but \'. What it lets pass and QEMU does not are surrogates and noncharacters.
        try:
            value: str = _json_string(_utf8(raw))[0]
            if is_clean(value):
                return value
        except ValueError:
            pass
    return _string_by_steps(raw)


def _string_by_steps(raw: bytes) -> str:
    parts = []
    pos, end = 1, len(raw) - 1
    while True:
        escape = raw.find(b"\\", pos, end)
        parts.append(_utf8(raw[pos : escape if escape >= 0 else end]))
        if escape < 0:
            return "".join(parts)
        pos = escape + 2
        if raw[escape + 1] != 0x75:  # anything but \u
            try:
                parts.append(_ESCAPES[raw[escape + 1]])
            except KeyError:
                raise Refused("invalid escape sequence in string") from None
            continue
        code = _hex4(raw, pos)
        pos += 4
        if 0xD800 <= code <= 0xDBFF and raw.startswith(b"\\u", pos):
            low = _hex4(raw, pos + 2)
            if 0xDC00 <= low <= 0xDFFF:
                code = 0x10000 + ((code & 0x3FF) << 10 | low & 0x3FF)
                pos += 6
        if code < 0 or not is_clean(chr(code)):
            raise Refused(f"{legible(raw[escape:pos])} is not a valid Unicode character")
        parts.append(chr(code))


def _hex4(raw: bytes, pos: int) -> int:
    return int(raw[pos : pos + 4], 16) if _HEX4(raw, pos) else -1


def integer(digits: str | bytes) -> int | float:
    """int64 or uint64 if it fits, else a double."""
    if len(digits) < 19:
        return int(digits)
    if len(digits) < 22:  # what is longer is no uint64, and Python refuses to convert thousands of digits
        value = int(digits)
        if _INT64_MIN <= value <= _UINT64_MAX:
            return value
    return float(digits)


def keyword(word: bytes) -> bool | None:
    """true, false or null; raises `Refused` for any other word."""
    try:
        return _KEYWORDS[word]
    except KeyError:
        raise Refused(f"invalid keyword '{word.decode('ascii')}'"[:_MAX_COMPLAINT]) from None


_KEYWORDS = {b"true": True, b"false": False, b"null": None}
SCALARS: dict[int, Callable[[bytes], str | int | float | bool | None]] = {
    STRING: string,
    INTEGER: integer,
    FLOAT: float,
    KEYWORD: keyword,
}
"""The kinds of token that are a value, and what makes it from the token's bytes."""
