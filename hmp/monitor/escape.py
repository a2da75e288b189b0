"""Unknown characters made visible, so that neither users nor guests can drive the terminal."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Set


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
