"""The recent past of `actual` and the statistics, for charts. Bounded, whatever happens."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from device.balloon.stats import Sample

KEEP = 512
"""Entries kept: more than a terminal has columns."""

SPACING = 50_000_000
"""ns between entries: what comes sooner replaces the entry before it, so that a burst does not push out the past."""


class History:
    """Entries of (host ns, actual bytes, sample or None), oldest first."""

    __slots__ = ("_anchor", "entries")

    def __init__(self) -> None:
        self.entries: list[tuple[int, int, Sample | None]] = []
        self._anchor = -SPACING

    def add(self, now: int, actual: int, sample: Sample | None) -> None:
        """Note what is known at host time `now`."""
        entries = self.entries
        if entries and now - self._anchor < SPACING:
            entries[-1] = (now, actual, sample)
            return
        self._anchor = now
        entries.append((now, actual, sample))
        if len(entries) > 2 * KEEP:
            del entries[:-KEEP]

    def recent(self) -> list[tuple[int, int, Sample | None]]:
        """Return at most KEEP entries, oldest first."""
        return self.entries[-KEEP:]
