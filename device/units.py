"""Reads and writes counts, sizes, durations and shares as people write them."""

from __future__ import annotations

from device.errors import MisuseError

_SUFFIXES = {"": 20, "B": 0, "K": 10, "M": 20, "G": 30, "T": 40}
"""The power of two of each suffix; a plain number is MiB, as for QEMU's -m."""


def _decimal(text: str, wrong: str) -> tuple[int, int]:
    """Return the number as (value, divisor); the divisor is a power of ten. Raises MisuseError(wrong) for any other."""
    # float() was rejected: it takes "1e3", "nan" and "inf", and cannot hold 0.1 exactly. isdigit() alone is true for
    # the digits of other scripts, hence isascii(). 30 digits keep the arithmetic cheap.
    whole, dot, fraction = text.partition(".")
    digits = whole + fraction
    if not digits or len(digits) > 30 or not (digits.isascii() and digits.isdigit()) or (dot and not fraction):
        raise MisuseError(wrong)
    return int(digits), 10 ** len(fraction)


def parse_count(text: str, high: int, what: str, *, low: int = 0) -> int:
    """Return a whole number from `low` to `high`. Raises MisuseError: the text is not `what`."""
    # isdigit() alone accepts digits of other scripts, and int() would take blanks and underscores. Python refuses to
    # convert thousands of digits.
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(high)) or not low <= int(text) <= high:
        raise MisuseError(f"'{text}' is not {what}")
    return int(text)


def parse_size(text: str) -> int:
    """Return the bytes that `text` means: a number with an optional suffix B, K, M, G or T; plain is MiB.

    Raises MisuseError for anything else, and if it is not a whole number of bytes.
    """
    suffix = text[-1:].upper()
    number = text[:-1] if suffix in _SUFFIXES and suffix else text
    value, divisor = _decimal(number, f"'{text}' is not a size (a number with K, M, G or T; plain is MiB)")
    size, rest = divmod(value << _SUFFIXES[suffix if number != text else ""], divisor)
    if rest:
        raise MisuseError(f"'{text}' is not a whole number of bytes")
    return size


def parse_seconds(text: str) -> int:
    """Return the ns of a duration in seconds, such as 2 or 0.25. Raises MisuseError for anything else."""
    value, divisor = _decimal(text, f"'{text}' is not a number of seconds")
    # A fraction of a ns is dropped, because it changes nothing; parse_size refuses a fraction of a byte.
    return value * 1_000_000_000 // divisor


def parse_share(text: str) -> int:
    """Return a share from 0 to 1 in millionths. Raises MisuseError for anything else."""
    # An integer, so that a snapshot holds it exactly and comparing it with a random number has no rounding.
    wrong = f"'{text}' is not a share from 0 to 1"
    value, divisor = _decimal(text, wrong)
    if value > divisor:
        raise MisuseError(wrong)
    return value * 1_000_000 // divisor


def format_size(size: int) -> str:
    """Return bytes for people: in the largest unit that makes it 1 or more, with one decimal if it is not whole."""
    for shift, suffix in ((40, "T"), (30, "G"), (20, "M"), (10, "K")):
        if size >= 1 << shift:
            tenths = (size * 10 + (1 << shift - 1)) >> shift
            return f"{tenths // 10}{suffix}" if tenths % 10 == 0 else f"{tenths // 10}.{tenths % 10}{suffix}"
    return f"{size}B"


def format_seconds(duration: int) -> str:
    """Return ns as seconds, without zeros at the end."""
    whole, rest = divmod(duration, 1_000_000_000)
    fraction = f"{rest:09}".rstrip("0")
    return f"{whole}.{fraction}" if fraction else str(whole)
