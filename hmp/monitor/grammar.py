"""How a command's arguments are read: QEMU's argument types, strings and integer expressions.

A command's argument types are written as QEMU writes them, `name:type` joined by commas, with a `?` after an optional
one: s a string, S the rest of the line, i a 32 bit integer, l a 64 bit integer, M an amount in MiB, O the key=value
list of device_add, `-x` a flag, and `-xs` a flag with a string. Types of this project's own: Z a size with suffix, T a
duration in seconds.
"""

from __future__ import annotations

from device.errors import MisuseError
from device.units import parse_seconds, parse_size
from hmp.monitor import BLANKS, SyntaxRefused, skip_blanks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

STRING_LIMIT = 1023
"""The most characters of a string argument that are used, as in QEMU's buffer of 1024 bytes; the rest is dropped."""

SWITCH = {"on": True, "yes": True, "true": True, "y": True, "off": False, "no": False, "false": False, "n": False}
"""QEMU's words for yes and no."""

_WRAP = 1 << 64
_HALF = 1 << 63


def signed(value: int) -> int:
    """Return `value` wrapped to a signed 64 bit integer, as C does it for QEMU."""
    return (value + _HALF) % _WRAP - _HALF


def _divide(a: int, b: int) -> int:
    if b == 0:
        raise SyntaxRefused("division by zero")
    # C rounds towards zero, Python's // rounds down: -7 / 2 is -3 in QEMU.
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


_SIGNS: dict[str, Callable[[int], int]] = {"+": lambda a: a, "-": lambda a: -a, "~": lambda a: ~a}

_OPERATORS: dict[str, tuple[int, Callable[[int, int], int]]] = {
    "+": (1, lambda a, b: a + b),
    "-": (1, lambda a, b: a - b),
    "&": (2, lambda a, b: a & b),
    "|": (2, lambda a, b: a | b),
    "^": (2, lambda a, b: a ^ b),
    "*": (3, lambda a, b: a * b),
    "/": (3, _divide),
    "%": (3, lambda a, b: a - b * _divide(a, b)),
}
"""Each operator with its level; a higher level binds more tightly. QEMU has these three levels, C has more."""


def expression(text: str, at: int = 0) -> tuple[int, int]:
    """Read an integer expression at `at`: (its value as a signed 64 bit integer, the position after it).

    Raises SyntaxRefused with QEMU's words for the first error. Open parentheses are kept on a list and not on Python's
    stack, so that a line of 4,000 parentheses raises no RecursionError.
    """
    signs: list[Callable[[int], int]] = []
    pending: list[tuple[int, Callable[[int, int], int], int]] = []  # operators that still need their right side
    opened: list[tuple[list[Callable[[int], int]], list[tuple[int, Callable[[int, int], int], int]]]] = []
    at = skip_blanks(text, at)
    while True:
        char = text[at : at + 1]
        sign = _SIGNS.get(char)
        if sign is not None:
            signs.append(sign)
            at = skip_blanks(text, at + 1)
            continue
        if char == "(":
            opened.append((signs, pending))
            signs, pending = [], []
            at = skip_blanks(text, at + 1)
            continue
        value, at = _atom(text, at)
        while True:  # read what follows a value: an operator, a closing parenthesis, or the end
            while signs:
                # Each step wraps to 64 bits, so -2^63 / -1 is -2^63. The same expression kills QEMU
                # (docs/differs.md).
                value = signed(signs.pop()(value))
            char = text[at : at + 1]
            level, operator = _OPERATORS.get(char, (0, None))
            # Apply the operators that bind at least as tightly: this makes all operators left-associative. At the end
            # of the expression the level is 0, so all of them are applied.
            while pending and pending[-1][0] >= level:
                _, waiting, left = pending.pop()
                value = signed(waiting(left, value))
            if operator is not None:
                pending.append((level, operator, value))
                at = skip_blanks(text, at + 1)
                break
            # QEMU ends an expression at the first character that cannot continue it; the caller decides whether that
            # character may follow.
            if not opened:
                return value, at
            if char != ")":
                raise SyntaxRefused("')' expected")
            signs, pending = opened.pop()
            at = skip_blanks(text, at + 1)


def _atom(text: str, at: int) -> tuple[int, int]:
    """Read a number or a character constant, and the blanks after it."""
    char = text[at : at + 1]
    if not char:
        raise SyntaxRefused("unexpected end of expression")
    if char == "'":
        return _character(text, at + 1)
    if char == "$":
        # QEMU has registers such as $eax; hmp has no CPU.
        raise SyntaxRefused("unknown register")
    value, end = natural(text, at)
    if end == at:
        raise SyntaxRefused(f"invalid char '{char}' in expression")
    if value >= _WRAP:
        raise SyntaxRefused("number too large")
    return signed(value), skip_blanks(text, end)  # numbers from 2^63 up become negative


def _character(text: str, at: int) -> tuple[int, int]:
    """Read what follows an opening quote. A byte from 0x80 up gives a negative number, because C's char is signed."""
    char = text[at : at + 1]
    if not char:
        raise SyntaxRefused("character constant expected")
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        code -= 0xDC00
    elif code > 0x7F:  # several bytes in QEMU, which expects the closing quote after the first
        code = 0x100
    if text[at + 1 : at + 2] != "'" or code > 0xFF:
        raise SyntaxRefused("missing terminating ' character")
    return code if code < 0x80 else code - 0x100, skip_blanks(text, at + 2)


_OCTAL, _DECIMAL, _HEX = "01234567", "0123456789", "0123456789abcdefABCDEF"

_MAX_DIGITS = 22
"""The most digits that a 64 bit number can have (in octal). Longer ones are too large and are not converted."""


def natural(text: str, at: int) -> tuple[int, int]:
    """Read a number as C's strtoull(…, 0): decimal, octal after 0, hexadecimal after 0x. If too large, it gives 2^64.

    Returns the number and the position after it; if that is still `at`, there was no number.
    """
    base, digits, start = 10, _DECIMAL, at
    if text[at : at + 1] == "0":
        base, digits = 8, _OCTAL
        # `0x` without a digit after it is the number 0, followed by an x.
        if text[at + 1 : at + 2] in ("x", "X") and text[at + 2 : at + 3] in _HEX and at + 2 < len(text):
            base, digits, start = 16, _HEX, at + 2
    end = start
    while end < len(text) and text[end] in digits:
        end += 1
    significant = text[start:end].lstrip("0")
    # Python refuses to convert thousands of digits, and the time grows with the square of their number.
    return int(significant or "0", base) if len(significant) <= _MAX_DIGITS else _WRAP, end


_ESCAPES = {"n": "\n", "r": "\r", "\\": "\\", "'": "'", '"': '"'}


def string(text: str, at: int) -> tuple[str, int] | None:
    """Read a string at `at`, in quotes or up to a blank: (the string, the position after it), or None at the end.

    Raises SyntaxRefused for an unknown escape and for a missing closing quote.
    """
    at = skip_blanks(text, at)
    end = len(text)
    if at == end:
        return None
    if text[at] != '"':
        start = at
        while at < end and text[at] not in BLANKS:
            at += 1
        return text[start : min(at, start + STRING_LIMIT)], at
    at += 1
    found: list[str] = []
    while at < end and text[at] != '"':
        if text[at] == "\\":
            at += 1
            code = text[at] if at < end else ""
            if code not in _ESCAPES or not code:
                # QEMU prints this reason, and the one below, on its own stdout or stderr; here the user who typed the
                # line sees it (docs/differs.md).
                raise SyntaxRefused(f"unsupported escape code: '\\{code}'")
            found.append(_ESCAPES[code])
        else:
            found.append(text[at])
        at += 1
    if at == end:
        raise SyntaxRefused("unterminated string")
    return "".join(found[:STRING_LIMIT]), at + 1


_STRINGS = {"s": "string expected", "F": "filename expected", "B": "block device name expected",
            "-fs": "value expected for -f"}  # fmt: skip


def _read_string(kind: str, name: str, text: str, at: int) -> tuple[object, int]:
    try:
        found = string(text, at)
    except SyntaxRefused as error:
        raise SyntaxRefused(f"{error}\n{name}: {_STRINGS[kind]}") from None
    if found is None:
        raise SyntaxRefused(f"{name}: {_STRINGS[kind]}")
    return found


_FORMATS, _SIZES = "ouxidc", "bhwgL"


def _read_format(kind: str, name: str, text: str, at: int) -> tuple[object, int]:
    """Read `/`, a count, and letters for format and size. Without a letter for a format the result is "": print
    then uses its last format."""
    if text[at : at + 1] != "/":
        return "", at
    at += 1
    while at < len(text) and text[at] in _DECIMAL:
        at += 1
    found = ""
    while at < len(text) and text[at] not in BLANKS:
        if text[at] in _FORMATS:
            found = text[at]
        elif text[at] not in _SIZES:
            raise SyntaxRefused(f"invalid char in format: '{text[at]}'")
        at += 1
    return found, at


def _read_number(kind: str, name: str, text: str, at: int) -> tuple[object, int]:
    value, at = expression(text, at)
    # As in QEMU, this refuses all negative numbers too: their upper 32 bits are set.
    if kind == "i" and (value >> 32) & 0xFFFFFFFF:
        raise SyntaxRefused(f"'{name}' has failed: integer is for 32-bit values")
    if kind == "M":
        if value < 0:
            raise SyntaxRefused("enter a positive value")
        # The shift may overflow and then wraps as in QEMU. Machine.set_balloon limits the result to the RAM.
        value = signed(value << 20)
    return value, at


def _read_word(kind: str, name: str, text: str, at: int) -> tuple[object, int]:
    start = skip_blanks(text, at)
    at = start
    while at < len(text) and text[at] not in BLANKS:
        at += 1
    parse, expected = _OWN[kind]
    if start == at:
        raise SyntaxRefused(f"{name}: {expected} expected")
    try:
        return parse(text[start:at]), at
    except MisuseError as error:
        raise SyntaxRefused(f"{name}: {error}") from None


_OWN: dict[str, tuple[Callable[[str], object], str]] = {
    "Z": (parse_size, "size"),
    "T": (parse_seconds, "number of seconds"),
}


def _read_rest(kind: str, name: str, text: str, at: int) -> tuple[object, int]:
    at = skip_blanks(text, at)
    if at == len(text):
        raise SyntaxRefused(f"{name}: string expected")
    # No escapes and no quotes: the value of qom-set may be JSON, which has its own.
    return text[at:], len(text)


def _read_options(kind: str, name: str, text: str, at: int) -> tuple[object, int]:
    return string(text, at) or ("", len(text))


_READERS: dict[str, Callable[[str, str, str, int], tuple[object, int]]] = {
    "s": _read_string, "F": _read_string, "B": _read_string, "/": _read_format, "S": _read_rest, "O": _read_options,
    "i": _read_number, "l": _read_number, "M": _read_number, "Z": _read_word, "T": _read_word,
}  # fmt: skip

Parameter = tuple[str, str, bool]


def parameters(types: str) -> list[Parameter]:
    """Return the (name, type, optional) of each argument in `types`."""
    found = []
    for item in types.split(",") if types else ():
        name, _, kind = item.partition(":")
        found.append((name, kind.rstrip("?"), kind.endswith("?")))
    return found


def arguments(
    types: list[Parameter], name: str, text: str, at: int, found: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Read a command's arguments from `text` at `at` into `found`. `name` is how QEMU names the command in errors.

    Raises SyntaxRefused with QEMU's words if they do not fit the types; `found` then has those before the wrong one.
    """
    found = {} if found is None else found
    for index, (key, kind, optional) in enumerate(types):
        at = skip_blanks(text, at)
        if kind[0] == "-":
            found[key] = False
            if at < len(text) and text[at] == "-":
                letter = text[at + 1 : at + 2] or "\0"
                # Flags are read in the order of the table. The letter of a later flag is left for that flag.
                if letter == kind[1]:
                    found[key], at = _read_string(kind, name, text, at + 2) if kind[2:] else (True, at + 2)
                elif letter not in [other[1] for _, other, _ in types[index:] if other[0] == "-"]:
                    raise SyntaxRefused(f"{name}: unsupported option -{letter}")
            continue
        if optional and at == len(text):
            continue
        found[key], at = _READERS[kind](kind, name, text, at)
    if skip_blanks(text, at) < len(text):
        raise SyntaxRefused(f"{name}: extraneous characters at the end of line")
    return found
