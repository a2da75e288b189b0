"""Reads values of options as QEMU does. Each function raises UsageError in QEMU's words, which begin with `spelled`."""

from __future__ import annotations

import re

from hmp.monitor import UsageError
from hmp.monitor.grammar import SWITCH

# Leading zeros are left out, because Python refuses to convert thousands of digits.
_SIZE = re.compile(r"\s*(?:0*(0|[1-9]\d*)(?:\.(\d+))?|0[xX]([0-9a-fA-F]+))([BKMGTPE]?)", re.IGNORECASE | re.ASCII)
_WHOLE = re.compile(r"\s*([-+]?)(?:0*(0|[1-9][0-9]*)|0[xX]([0-9a-fA-F]+))", re.ASCII)
_LONGEST = len(str(1 << 64))


def check_switches(given: dict[str, str], names: tuple[str, ...], spelled: str) -> None:
    """Raise UsageError in QEMU's words if one of `names` is neither on nor off."""
    for name in names:
        if given.get(name, "on") not in SWITCH:
            raise UsageError(f"{spelled}: Parameter '{name}' expects 'on' or 'off'")


def whole(text: str, name: str, spelled: str) -> int:
    """Return a whole number. Raises UsageError in QEMU's words."""
    found = _WHOLE.fullmatch(text)
    if found is None:
        raise UsageError(f"{spelled}: Parameter '{name}' expects a number")
    sign, decimal, hexadecimal = found.groups()
    value = int(hexadecimal, 16) if hexadecimal else int(decimal) if len(decimal) <= _LONGEST else 1 << 64
    if value >= 1 << 64:
        raise UsageError(f"{spelled}: Value '{text}' is too large for parameter '{name}'")
    # As C's strtoull, which takes a minus for the number below 2^64.
    return -value % (1 << 64) if sign == "-" else value


def check_names(given: dict[str, str], known: str, spelled: str) -> None:
    """Raise UsageError in QEMU's words if a parameter is not in `known`."""
    for name in given:
        if name not in known.split():
            raise UsageError(f"{spelled}: Invalid parameter '{name}'")


def size_of(text: str, unit: int, name: str, spelled: str) -> int:
    """Return the bytes of a size, read as QEMU does; `unit` is the unit of a plain number. Raises UsageError."""
    found = _SIZE.fullmatch(text)
    # A fraction of a byte is an error; 1.5 alone is 1.5 MiB where MiB is the unit.
    if found is None or (found[2] and unit == 1 and not found[4]):
        raise UsageError(f"{spelled}: Parameter '{name}' expects a non-negative number below 2^64")
    whole, fraction, hexadecimal, suffix = found.groups()
    unit = 1 << 10 * "BKMGTPE".index(suffix.upper()) if suffix else unit
    size = unit * (int(hexadecimal, 16) if hexadecimal else int(whole) if len(whole) <= _LONGEST else 1 << 64)
    if fraction:
        # With integers, so that large sizes lose no digits; further digits are less than a byte.
        fraction = fraction[:_LONGEST]
        size += int(fraction) * unit // 10 ** len(fraction)
    if size >= 1 << 64:
        raise UsageError(f"{spelled}: Value '{text}' is out of range for parameter '{name}'")
    return size
