"""Reads values of options as QEMU does. Each function raises UsageError in QEMU's words, which begin with `spelled`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from hmp.monitor import UsageError
from hmp.monitor.grammar import SWITCH

# Leading zeros are left out, because Python refuses to convert thousands of digits.
_SIZE = re.compile(r"\s*\+?(?:0*(0|[1-9]\d*)(?:\.(\d*))?|0[xX]([0-9a-fA-F]+))([BKMGTPE]?)", re.IGNORECASE | re.ASCII)
_WHOLE = re.compile(r"\s*([-+]?)(?:(0[0-7]*)|([1-9][0-9]*)|0[xX]([0-9a-fA-F]+))", re.ASCII)
_LONGEST = len(str(1 << 64))


class Parameters:
    """The parameters that an option of QEMU has, by the type of their values: text, switches, numbers and sizes."""

    def __init__(self, text: str = "", *, switch: str = "", number: str = "", size: str = "") -> None:
        self._types = dict.fromkeys(text.split())
        for read, names in ((_switch, switch), (whole, number), (size_of, size)):
            self._types |= dict.fromkeys(names.split(), read)

    def check(self, given: Iterable[tuple[str, str]], spelled: str) -> None:
        """Check names and values in the order in which they were given, as QEMU does. Raises UsageError."""
        for name, text in given:
            if name not in self._types:
                raise UsageError(f"{spelled}: Invalid parameter '{name}'")
            read = self._types[name]
            if read is not None:
                read(text, name, spelled)


def _switch(text: str, name: str, spelled: str) -> None:
    if text not in SWITCH:
        raise UsageError(f"{spelled}: Parameter '{name}' expects 'on' or 'off'")


def whole(text: str, name: str, spelled: str) -> int:
    """Return a whole number, read as C's strtoull reads it: decimal, hexadecimal or octal. Raises UsageError."""
    found = _WHOLE.fullmatch(text)
    if found is None:
        raise UsageError(f"{spelled}: Parameter '{name}' expects a number")
    sign, octal, decimal, hexadecimal = found.groups()
    # Python refuses to convert thousands of decimal digits.
    value = int(octal, 8) if octal else int(hexadecimal, 16) if hexadecimal else int(decimal[: _LONGEST + 1])
    if value >= 1 << 64:
        raise UsageError(f"{spelled}: Value '{text}' is too large for parameter '{name}'")
    # As strtoull does, read -N as 2^64 - N.
    return -value % (1 << 64) if sign == "-" else value


def size_of(text: str, name: str, spelled: str) -> int:
    """Return a size such as 1.5G in bytes; without a unit the number is in bytes. Raises UsageError."""
    found = _SIZE.fullmatch(text)
    number, fraction, hexadecimal, suffix = found.groups() if found is not None else ("", "", "", "")
    unit = 1 << 10 * "BKMGTPE".index(suffix.upper() or "B")
    size = int(hexadecimal or number[: _LONGEST + 1] or "0", 16 if hexadecimal else 10)
    # A fraction of a byte is an error. So is a unit after a number that is too large by itself.
    if found is None or ((fraction or "").strip("0") and unit == 1) or (size >= 1 << 64 and suffix):
        raise UsageError(f"{spelled}: Parameter '{name}' expects a non-negative number below 2^64")
    size *= unit
    if fraction:
        # In integers, because a float would lose digits of large sizes. The digits cut off are worth less than a byte.
        fraction = fraction[:_LONGEST]
        size += int(fraction) * unit // 10 ** len(fraction)
    if size >= 1 << 64:
        raise UsageError(f"{spelled}: Value '{text}' is out of range for parameter '{name}'")
    return size
