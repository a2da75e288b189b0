"""The lines of a monitor, for its editor and for `info history`."""

from __future__ import annotations

import os

from hmp.monitor.escape import escape

HISTORY_LIMIT = 64
"""Lines kept, as QEMU 7.2."""


class History:
    """Lines, oldest first; shared by the clients of an address and kept when they go.

    Who typed a line gets it back as it was; others get it escaped, so that no client drives another's terminal.
    QEMU 7.2 behaviour: HISTORY_LIMIT lines; a repeated line moves to the end; empty lines are not kept, blank ones are.
    """

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines: dict[str, object] = {}  # to who typed it last

    def __len__(self) -> int:
        return len(self._lines)

    def shown(self, index: int, reader: object) -> str:
        """Return the line at `index` as `reader` may see it."""
        line, owner = list(self._lines.items())[index]
        return line if owner is reader else escape(line)

    def add(self, line: str, owner: object = None) -> bool:
        """Note `line`, typed by `owner`, as the newest, at the cost of the oldest if there are too many.

        False: there was nothing to do.

        The number of lines never falls, so an editor's place in the history stays valid while other clients add lines.
        """
        lines = self._lines
        full = len(lines) == HISTORY_LIMIT
        if not line:
            return False
        again = bool(lines) and next(reversed(lines)) == line
        if line in lines:
            del lines[line]
        elif full:
            del lines[next(iter(lines))]
        lines[line] = owner
        return not (again and full)

    def entries(self) -> list[str]:
        """All lines, oldest first, as `info history` numbers them from 0. A copy."""
        return list(self._lines)


def history_path() -> str | None:
    """Return where the history belongs, or None where the environment names no sensible place."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # the XDG rules: a relative path is to be ignored
        state = os.path.expanduser("~/.local/state")
    return os.path.join(state, "hmp", "history") if os.path.isabs(state) else None
