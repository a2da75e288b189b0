"""The lines of a monitor, for its editor and for `info history`."""

from __future__ import annotations

HISTORY_LIMIT = 64
"""Lines kept, as QEMU 7.2."""


class History:
    """Lines, oldest first; shared by the clients of an address and kept when they go.

    QEMU 7.2 behaviour: HISTORY_LIMIT lines; a repeated line moves to the end; empty lines are not kept, blank ones are.
    """

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines: list[str] = []

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> str:
        return self._lines[index]

    def add(self, line: str) -> bool:
        """Note `line` as the newest, at the cost of the oldest if there are too many. False: there was nothing to do.

        The number of lines never falls, so an editor's place in the history stays valid while other clients add lines.
        """
        lines = self._lines
        full = len(lines) == HISTORY_LIMIT
        if not line:
            return False
        if lines and lines[-1] == line:
            return not full
        if line in lines:
            lines.remove(line)
        elif full:
            del lines[0]
        lines.append(line)
        return True

    def entries(self) -> list[str]:
        """All lines, oldest first, as `info history` numbers them from 0. A copy."""
        return self._lines.copy()
