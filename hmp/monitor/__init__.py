"""The human monitor: a QEMU monitor without a terminal and without a socket.

This module has what the whole package shares: the length limit of a line, its blanks, the errors, and the escaping of
text.
"""

from __future__ import annotations

# Not typing.TYPE_CHECKING: importing typing takes longer than most of hmp's own modules, and each run of a pipe would
# pay for it. Type checkers know this spelling too.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Set

MAX_LINE = 4095
"""The most characters that a line may have; QEMU's monitor has the same limit."""

TOO_LONG = f"line too long: more than {MAX_LINE} characters"
UTF_16 = "it is UTF-16; make it UTF-8, as iconv -f UTF-16 -t UTF-8 does"

BLANKS = " \t\n\v\f\r"
"""The blanks of C's isspace() in the C locale, which QEMU uses; Python's str.isspace accepts many more."""


def skip_blanks(text: str, at: int) -> int:
    """Return the first position from `at` on that is not a blank, or the length of `text`."""
    end = len(text)
    while at < end and text[at] in BLANKS:
        at += 1
    return at


class CommandError(Exception):
    """A command failed. `desc` has QEMU's words; HMP prints them after `Error: `, QMP sends them with `kind`."""

    def __init__(self, desc: str, kind: str = "GenericError") -> None:
        super().__init__(desc)
        self.desc = desc
        self.kind = kind


class HostRefused(CommandError):
    """A client of a socket asked for something that starts programs or names files of this host."""

    def __init__(self) -> None:
        # A class of its own and not a plain CommandError: human-monitor-command answers this one as a QMP error,
        # while it returns all other errors as text.
        super().__init__("not from a socket: --allow-host-files allows it")


class SyntaxRefused(Exception):
    """A line does not parse. The text is what QEMU's monitor prints, without the hint to use `help`."""


class UnreadableError(Exception):
    """A file that was named, or stdin, cannot be read or written; the message says why. Exit status 1."""


class UsageError(Exception):
    """The command line of hmp is wrong; the message names the option and the value. Exit status 2."""


def escape(text: str, kept: Set[str] = frozenset()) -> str:
    """Return `text` with all unprintable characters but newline and tab written as escapes.

    C0, C1, DEL and undecodable bytes (`surrogateescape` makes lone surrogates of them) become \\xNN; other invisible
    characters, such as bidirectional overrides, become \\uNNNN. Characters from 0x80 up that are in `kept` stay as
    they are: an HMP client gets back what it typed itself, as from QEMU.
    """
    # This test nearly always succeeds, and it is many times faster than a loop over the characters.
    if text.isascii() and not text.encode("ascii").translate(None, _HARMLESS):
        return text
    return "\n".join([line if line.isprintable() else _spell(line, kept) for line in text.split("\n")])


_HARMLESS = bytes((9, 10, *range(32, 127)))


def _spell(line: str, kept: Set[str]) -> str:
    found = []
    # Text of a script, of a name or of another client must not control the reader's terminal: an ESC could move the
    # cursor, and a bidirectional override could show a line in another order than it runs.
    for char in line:
        code = ord(char)
        if char == "\t" or char.isprintable() or (code >= 0x80 and char in kept):
            found.append(char)
        # `surrogateescape` stores the byte N as the surrogate 0xDC00 + N; the user should see the byte.
        elif code < 0x80 or 0xDC80 <= code <= 0xDCFF:
            found.append(f"\\x{code & 0xFF:02x}")
        else:
            found.append(char.encode("ascii", "backslashreplace").decode())
    return "".join(found)


class ConnectError(Exception):
    """There is nothing to attach to; the message says why. Exit status 4."""
