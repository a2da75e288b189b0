"""How long the person of a recorded script takes to read and to type. All times are in ns."""

from __future__ import annotations

from device.clock import MS, SECOND
from device.guest.model.kernel import mix

STROKE = 60 * MS, 120 * MS
"""The time that a typed character takes: the least and the most."""

LOOK = 500 * MS, 900 * MS
"""The same from a prompt to the first key."""

FIND = 250 * MS, 450 * MS
"""The same before a named key, such as TAB, within a line."""

READ = 12 * MS
"""How much longer that is for each character that was printed before, up to READ_MAX."""

READ_MAX = 1500 * MS
END = 2 * SECOND
"""How long the last screen is shown."""


class Rhythm:
    """Random times, the same for the same `seed`."""

    def __init__(self, seed: int) -> None:
        self._key = mix(seed)
        self._count = 0

    def between(self, least: int, most: int) -> int:
        """Return a time from `least` to `most` (ns), in whole milliseconds."""
        self._count += 1
        return least + mix(self._key ^ self._count) % ((most - least) // MS + 1) * MS
