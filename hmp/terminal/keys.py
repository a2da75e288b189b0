"""Keys by their names, as scripts press them, and what a terminal sends for each."""

from __future__ import annotations

from string import ascii_lowercase

_NAMED = {
    "TAB": "\t", "ENTER": "\r", "ESC": "\x1b", "SPACE": " ", "BACKSPACE": "\x7f", "UP": "\x1b[A", "DOWN": "\x1b[B",
    "RIGHT": "\x1b[C", "LEFT": "\x1b[D", "HOME": "\x1b[H", "END": "\x1b[F", "INSERT": "\x1b[2~", "DELETE": "\x1b[3~",
    "PGUP": "\x1b[5~", "PGDN": "\x1b[6~", "F1": "\x1bOP", "F2": "\x1bOQ", "F3": "\x1bOR", "F4": "\x1bOS",
}  # fmt: skip
_FUNCTIONS = dict(zip(range(5, 13), (15, 17, 18, 19, 20, 21, 23, 24), strict=True))

INTERRUPT = "C-c"

KEYS = (
    _NAMED
    | {f"F{number}": f"\x1b[{code}~" for number, code in _FUNCTIONS.items()}
    | {f"C-{char}": chr(ord(char) & 31) for char in ascii_lowercase if char != "z"}  # that would stop the recording
    | {f"M-{char}": f"\x1b{char}" for char in ascii_lowercase}
)


def typed(char: str) -> str:
    """Return what a terminal sends for a character of text; an unprintable one is sent as if it were pasted."""
    return char if char.isprintable() else f"\x1b[200~{char}\x1b[201~"
