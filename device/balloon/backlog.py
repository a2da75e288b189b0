"""Queues that have to wait for their turn, because their driver keeps the device busy without end."""

from __future__ import annotations

from device.clock import MS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from device.balloon.device import Owner
    from device.clock import Timer

LONGEST = 128 * MS


class Backlog:
    """Calls `resume` with the queues that were added, one bit each, a while of VM time later.

    The while is a millisecond at first. It doubles, up to LONGEST, as long as the storm goes on: a driver that never
    lets up takes less and less of the host's time, and keeps no waiting monitor from its deadline.
    """

    __slots__ = ("_calm", "_owner", "_pause", "_resume", "_timer", "_waiting")

    def __init__(self, owner: Owner, resume: Callable[[int], None]) -> None:
        self._owner = owner
        self._resume = resume
        self._timer: Timer | None = None
        self._waiting = 0
        self._pause = MS
        self._calm = -1

    def add(self, queues: int) -> None:
        """Let `queues` wait."""
        self._waiting |= queues
        if self._timer is None:
            now = self._owner.vm_clock.now()
            self._pause = MS if now > self._calm else min(2 * self._pause, LONGEST)
            self._calm = now + 2 * self._pause
            self._timer = self._owner.vm_timers.at(now + self._pause, self._go)

    def _go(self) -> None:
        self._timer = None
        waiting, self._waiting = self._waiting, 0
        self._resume(waiting)

    def clear(self) -> None:
        """Forget who waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting, self._calm = 0, -1

    def adopt(self, owner: Owner) -> None:
        """Belong to `owner`, whose clock is another one; nobody may be waiting."""
        self._owner = owner
