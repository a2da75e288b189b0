"""What is left on a terminal's screen, as far as a monitor's echo needs it."""

from __future__ import annotations

import re

_CSI = re.compile(r"\x1b\[([0-9;]*)([A-Za-z])")


def render(output: str) -> str:
    """Return the lines that `output` leaves, with cursor moves and erasures applied, joined by newlines."""
    lines: list[str] = []
    line: list[str] = []
    at = position = 0
    while position < len(output):
        if match := _CSI.match(output, position):
            position = match.end()
            count = int(match[1]) if match[1].isdigit() else 1
            if match[2] == "K":
                del line[at:]
            elif match[2] == "D":
                at = max(0, at - count)
            elif match[2] == "C":
                at += count
            continue
        char = output[position]
        position += 1
        if char == "\n":
            lines.append("".join(line))
            line, at = [], 0
        elif char == "\r":
            at = 0
        else:
            line += [" "] * (at - len(line))
            line[at : at + 1] = [char]
            at += 1
    return "\n".join([*lines, "".join(line)])
