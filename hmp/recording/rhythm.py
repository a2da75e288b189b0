"""How long a person takes to look and to type, in recordings that are played."""

from __future__ import annotations

from device.clock import MS, SECOND
from device.guest.model.kernel import mix

KEY_MIN, KEY_MAX = 60 * MS, 120 * MS
"""The time a key takes, ends included."""

LOOK_MIN, LOOK_MAX = 500 * MS, 900 * MS
"""The time from a prompt to the first key."""

FIND_MIN, FIND_MAX = 250 * MS, 450 * MS
"""The time before a key that is no letter."""

READ = 12 * MS
"""How much more that is for each character printed before, up to READ_MAX."""

READ_MAX = 1500 * MS
END = 2 * SECOND
"""The time the last screen stands."""


class Rhythm:
    """How long a person takes for what, by `seed`."""

    def __init__(self, seed: int) -> None:
        self._key = mix(seed)
        self._count = 0

    def between(self, least: int, most: int) -> int:
        """Return a time from `least` to `most` (ns), in whole milliseconds."""
        self._count += 1
        return least + mix(self._key ^ self._count) % ((most - least) // MS + 1) * MS
