"""Lines that a guest can cause as often as it likes are told at most once in a while."""

from __future__ import annotations

from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

GONE_BURST, GONE_SPACING = 10, 10.0
"""Lines about a guest that is gone, in so many seconds: a front end may come and go as fast as it can."""


class Spacing:
    """At most `burst` lines of a kind in any span of `seconds` that begins with one; the others are counted."""

    __slots__ = ("_burst", "_end", "_left", "_now", "_seconds", "_untold")

    def __init__(self, seconds: float, *, burst: int = 1, now: Callable[[], float] = monotonic) -> None:
        self._seconds = seconds
        self._burst = burst
        self._now = now
        self._end = float("-inf")
        self._left = 0
        self._untold = 0

    def untold(self) -> int | None:
        """Return how many lines were held back since the last one was told, or None if this one is to be, too."""
        now = self._now()
        if now >= self._end:
            self._end = now + self._seconds
            self._left = self._burst
        if not self._left:
            self._untold += 1
            return None
        self._left -= 1
        untold, self._untold = self._untold, 0
        return untold
