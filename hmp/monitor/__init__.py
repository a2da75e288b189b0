"""The human monitor: a QEMU monitor without a terminal and without a socket.

Here is what all of it shares: the longest line, what a blank is, its errors, and how text is made harmless.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Set

MAX_LINE = 4095
"""Characters of a line, as QEMU's monitor takes them."""

TOO_LONG = f"line too long: more than {MAX_LINE} characters"

BLANKS = " \t\n\v\f\r"
"""What isspace() says yes to in the C locale; Python's own str.isspace knows many more."""


def skip_blanks(text: str, at: int) -> int:
    """Return the first position from `at` on that is no blank."""
    end = len(text)
    while at < end and text[at] in BLANKS:
        at += 1
    return at


class CommandError(Exception):
    """A command failed. `desc` is QEMU's words; HMP prints them behind `Error: `, QMP sends them with `kind`."""

    def __init__(self, desc: str, kind: str = "GenericError") -> None:
        super().__init__(desc)
        self.desc = desc
        self.kind = kind


class HostRefused(CommandError):
    """What starts programs or names files of this host was asked for by somebody who may not: a client of a socket."""

    def __init__(self) -> None:
        super().__init__("not from a socket: --allow-host-files allows it")


class SyntaxRefused(Exception):
    """A line does not parse. The text is what QEMU's monitor prints, without the hint at `help`."""


class UnreadableError(Exception):
    """A script or stdin turned out not to be readable; the message says why."""


class UsageError(Exception):
    """The command line of hmp is wrong; the message names the option and the value. Exit status 2."""


def escape(text: str, kept: Set[str] = frozenset()) -> str:
    """Return `text` with everything unprintable but newline and tab spelled out.

    C0, C1, DEL and undecodable bytes (kept as lone surrogates by `surrogateescape`) become \\xNN; other characters
    that would not show, such as bidirectional overrides, become \\uNNNN. Those from 0x80 up that are in `kept` stay
    as they are: an HMP client gets back what it typed itself, as from QEMU.
    """
    # Nearly always true, and many times faster than looking at each character.
    if text.isascii() and not text.encode("ascii").translate(None, _HARMLESS):
        return text
    return "\n".join([line if line.isprintable() else _spell(line, kept) for line in text.split("\n")])


_HARMLESS = bytes((9, 10, *range(32, 127)))


def _spell(line: str, kept: Set[str]) -> str:
    found = []
    for char in line:
        code = ord(char)
        if char == "\t" or char.isprintable() or (code >= 0x80 and char in kept):
            found.append(char)
        elif code < 0x100:
            found.append(f"\\x{code:02x}")
        elif 0xDC80 <= code <= 0xDCFF:
            found.append(f"\\x{code - 0xDC00:02x}")
        elif code <= 0xFFFF:
            found.append(f"\\u{code:04x}")
        else:
            found.append(f"\\U{code:08x}")
    return "".join(found)


class ConnectError(Exception):
    """There is nothing to attach to; the message says why. Exit status 4."""
