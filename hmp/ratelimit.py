"""Lines that a guest can cause as often as it likes are told at most once in a while."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

GONE_BURST, GONE_SECONDS = 10, 10.0
"""Lines about a guest that is gone, in so many seconds: a front end may come and go as fast as it can."""


class RateLimit:
    """At most `burst` lines of a kind in any span of `seconds` that begins with one; the others are counted."""

    def __init__(self, seconds: float, *, burst: int = 1, now: Callable[[], float] = monotonic) -> None:
        self._seconds = seconds
        self._burst = burst
        self._now = now
        self._end = float("-inf")
        self._left = self._dropped = 0

    def admit(self) -> int | None:
        """Return how many lines were dropped since the last one admitted, or None if this one is to be dropped too."""
        now = self._now()
        if now >= self._end:
            self._end, self._left = now + self._seconds, self._burst
        if not self._left:
            self._dropped += 1
            return None
        self._left -= 1
        dropped, self._dropped = self._dropped, 0
        return dropped
