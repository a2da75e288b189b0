"""The tokens of QMP's JSON: how bytes become tokens, and how the text of a token becomes a value.

QEMU 7.2's dialect is JSON with single-quoted strings, and the stream is usable after an error. The automaton never goes
back in its input. It is a table: `TABLE` has the next state for every state and byte. Objects and messages are built in
`codec.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

START, RECOVERY = 0, 1
"""States. In START and RECOVERY there are no bytes of a token; in all later states there are."""

DOUBLE, DOUBLE_ESCAPE, SINGLE, SINGLE_ESCAPE, WORD, MINUS, ZERO = range(2, 9)
DIGITS, POINT, FRACTION, EXPONENT, EXPONENT_SIGN, EXPONENT_DIGITS = range(9, 15)

ERROR, LCURLY, RCURLY, LSQUARE, RSQUARE, COLON, COMMA, STRING, INTEGER, FLOAT, KEYWORD = range(32, 43)
"""The kinds of a finished token.

ERROR means that the byte cannot follow in this state; it belongs to the stray text.
"""

FIRST_KIND = ERROR
"""Numbers below this are states, the others are kinds: one comparison tells them apart."""

PUT_BACK = 0x80
"""A flag on a state or kind: the byte only ended the token before it, so it is read again in the new state."""

_BLANK = b" \t\r\n"
_DIGIT = b"0123456789"
_LOWER = b"abcdefghijklmnopqrstuvwxyz"
_BRACKETS = {b"{": LCURLY, b"}": RCURLY, b"[": LSQUARE, b"]": RSQUARE, b":": COLON, b",": COMMA}
_TEXT = bytes(range(0x20, 0xFE))
"""The bytes that may be in a string: all but control characters and the two bytes that never occur in UTF-8."""

_RESYNC = bytes(set(range(0x20)) - {0x09}) + b"{}[]:,\xfe\xff"
"""After an error, input is skipped up to one of these bytes: a control character (a tab is not one here), a bracket, a
comma, a colon, 0xFE or 0xFF. A quote is not among them: QEMU 7.2 also skips a string after a stray character."""

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
"""state: (the next state for any other byte, {bytes: the next state for these}).

Later entries override earlier ones.
"""


# The rules become a row of 256 bytes for each state, so that every byte costs one look-up.
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
    """Cuts a byte stream, which may arrive in pieces of any size, into tokens.

    `longest` is the most bytes of an unfinished token. A longer token is dropped.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._state = START
        self._held = bytearray()

    @property
    def held(self) -> int:
        """The number of bytes that are kept of an unfinished token."""
        return len(self._held)

    @property
    def at_start(self) -> bool:
        """Whether the next byte begins a token: none is open, and no input is being skipped."""
        return self._state == START

    def scan(self, data: bytes, pos: int, token: Callable[[int, bytes], bool]) -> tuple[int, bool]:
        """Call `token(kind, bytes)` for every token that `data` completes from `pos` on.

        Returns (position, stopped): stopped is true if it stops after a token for which `token` returned true, and
        false at the end of `data`. Kind `ERROR` comes with the stray bytes. `RECOVERY` in place of a kind means that a
        token was too long; its bytes are dropped, and the next byte begins a new token.
        """
        # Local names, because this loop runs for every byte.
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
            # Only a state inside a token keeps bytes, so blanks and skipped input may have any length.
            elif target > RECOVERY and pos - begin > room:
                target, state, word = RECOVERY, START, b""
            else:
                state = target
                if state <= RECOVERY:
                    begin = pos
                continue
            # A token is complete, or dropped.
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
"""The most characters of an error about a keyword: QEMU writes it into a buffer of 1024 bytes."""

_ESCAPES = dict(zip(b"\"'\\/bfnrt", "\"'\\/\b\f\n\r\t", strict=True))
_HEX4 = re.compile(rb"[0-9A-Fa-f]{4}").match
_NONCHARACTER = re.compile(
    rb"\xef(?:\xb7[\x90-\xaf]|\xbf[\xbe\xbf])|[\xf0-\xf4][\x8f\x9f\xaf\xbf]\xbf[\xbe\xbf]"
).search
"""Finds the UTF-8 of characters that QEMU refuses and Python accepts: U+FDD0 to U+FDEF, and the last two code points of
each plane."""

_SEQUENCE = (
    rb"[\x00-\x7f]+|[\xc0-\xdf][\x80-\xbf]?|[\xe0-\xef][\x80-\xbf]{0,2}|[\xf0-\xf7][\x80-\xbf]{0,3}"
    rb"|[\xf8-\xfb][\x80-\xbf]{0,4}|[\xfc\xfd][\x80-\xbf]{0,5}|[\x80-\xbf\xfe\xff]"
)
"""One UTF-8 sequence as QEMU cuts it: a lead byte, and those of its continuation bytes that are there."""

_json_string = json.JSONDecoder(strict=False).raw_decode


class Refused(ValueError):
    """A token is wrong, or wrong in its place. The argument is QEMU's text."""


def is_clean(text: str) -> bool:
    """Whether QEMU accepts all characters of `text`: it has no surrogates and no noncharacters."""
    if text.isascii():
        return True
    try:
        return _NONCHARACTER(text.encode()) is None
    except UnicodeEncodeError:
        return False


def _utf8(raw: bytes) -> str:
    """Decode as strictly as QEMU: NUL is C0 80, and noncharacters are refused."""
    if raw.isascii():
        return raw.decode("ascii")
    try:
        if not _NONCHARACTER(raw):
            return raw.replace(b"\xc0\x80", b"\0").decode()
    except UnicodeDecodeError:
        pass
    raise Refused("invalid UTF-8 sequence in string")


def legible(raw: bytes) -> str:
    """Decode text for an error: up to a NUL, and with one U+FFFD in place of each bad sequence."""
    # In QEMU the text is a C string, which ends at a NUL.
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
    """Return the value of a string token, which includes its quotes. Raises `Refused` for its first error."""
    if b"\\" not in raw:
        return _utf8(raw[1:-1])
    if raw[0] == 0x22:
        # The C decoder knows all escapes but \'. It accepts surrogates and noncharacters, which QEMU refuses.
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
        # Two \u escapes that are a surrogate pair are one character; a lone surrogate is refused below.
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
    """Return an int if the number fits into int64 or uint64, else a float."""
    if len(digits) < 19:
        return int(digits)
    if len(digits) < 22:  # a longer one is no uint64, and Python refuses to convert thousands of digits
        value = int(digits)
        if _INT64_MIN <= value <= _UINT64_MAX:
            return value
    return float(digits)


def keyword(word: bytes) -> bool | None:
    """Return the value of true, false or null. Raises `Refused` for any other word."""
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
"""The kinds of token that are a value, and the function that makes the value from the bytes."""
