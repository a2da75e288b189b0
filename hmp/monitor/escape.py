"""Unknown characters made visible, so that neither users nor guests can drive the terminal."""

from __future__ import annotations


def escape(text: str) -> str:
    """Return `text` with everything unprintable but newline and tab spelled out.

    C0, C1, DEL and undecodable bytes (kept as lone surrogates by `surrogateescape`) become \\xNN; other characters
    that would not show, such as bidirectional overrides, become \\uNNNN.
    """
    # Nearly always true, and many times faster than looking at each character.
    if text.isascii() and not text.encode("ascii").translate(None, _HARMLESS):
        return text
    return "\n".join([line if line.isprintable() else _spell(line) for line in text.split("\n")])


_HARMLESS = bytes((9, 10, *range(32, 127)))


def _spell(line: str) -> str:
    found = []
    for char in line:
        code = ord(char)
        if char == "\t" or char.isprintable():
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


def escape_controls(text: str) -> str:
    """Return `text` with C0 controls but newline and tab, and DEL, spelled out; the rest is the client's affair.

    For HMP sockets, where bytes from 0x80 up come back as they were sent, as from QEMU.
    """
    if text.isprintable():
        return text
    return "".join(
        [f"\\x{ord(char):02x}" if (char < " " and char not in "\n\t") or char == "\x7f" else char for char in text]
    )
