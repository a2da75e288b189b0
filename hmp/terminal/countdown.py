"""What a person sees while a monitor is suspended: the words, for the typed monitor and for recordings of one."""

from __future__ import annotations

from device.clock import MS, SECOND
from device.machine.machine import Machine

AFTER = 300 * MS
"""How long (ns) a wait goes on before it is counted down: most answers come sooner."""

STEP = 100 * MS

_TENTH = SECOND // 10


class Countdown:
    """The line about one wait, which ends at host time `until` (ns), or nobody knows when. It changes at `due`."""

    def __init__(self, machine: Machine, until: int | None) -> None:
        self._guest = any(request.deadline == until for request in machine.requests.pending)
        self._since = machine.clock.now()
        self._until = until
        self.due = self._since + AFTER

    def line(self, now: int) -> str:
        """Return what is waited for, and how much longer or, where nobody knows, for how long already."""
        self.due = now + STEP
        waiting = "waiting for the guest" if self._guest else "waiting"
        # Rounded up, so that 0.0 stands for the end only.
        tenths = -(-max(0, self._until - now) // _TENTH) if self._until is not None else (now - self._since) // _TENTH
        return f"{waiting} ... {tenths // 10}.{tenths % 10} s"
