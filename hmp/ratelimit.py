"""Limits how often a line is printed that a guest or a client can cause at any rate."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

GONE_BURST, GONE_SECONDS = 10, 10.0
"""How many lines about a guest that is gone are printed in how many seconds. A front end that is cut off and connects
again for ever wrote 284 lines a second."""


class RateLimit:
    """Allows `burst` lines within `seconds` after the first of them; all others are counted and dropped."""

    def __init__(self, seconds: float, *, burst: int = 1, now: Callable[[], float] = monotonic) -> None:
        self._seconds, self._burst, self._now = seconds, burst, now
        self._end = float("-inf")
        self._left = self._dropped = 0

    def admit(self) -> int | None:
        """Return the number of lines dropped since the last admitted one, or None if this line should be dropped
        too."""
        now = self._now()
        if now >= self._end:
            self._end, self._left = now + self._seconds, self._burst
        if not self._left:
            # The next line that is printed says how many were left out.
            self._dropped += 1
            return None
        self._left -= 1
        dropped, self._dropped = self._dropped, 0
        return dropped
