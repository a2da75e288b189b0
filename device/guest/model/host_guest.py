"""The `host` guest: its modelled driver reports the memory statistics of this host."""

from __future__ import annotations

from device.balloon.spec import ABSENT, FREE, STAT_COUNT
from device.guest.model.guest import ModelledGuest
from device.guest.model.host import read_host_statistics


class HostGuest(ModelledGuest):
    """As ModelledGuest, but the statistics are the host's: only `actual` follows the balloon."""

    foreign = True

    def statistics(self) -> tuple[int, ...]:
        """Return the host's statistics by tag, 2^64-1 if its kernel does not count one."""
        found = read_host_statistics()
        return tuple([found.get(tag, ABSENT) for tag in range(STAT_COUNT)])

    def memory_free(self) -> int | None:
        """Return the host's free memory in bytes, or None if its kernel does not say."""
        return read_host_statistics().get(FREE)
