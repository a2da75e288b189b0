"""What a person sees while a monitor is suspended: the words, for the typed monitor and for recordings of one."""

from __future__ import annotations

from device.clock import MS, SECOND
from device.machine.machine import Machine
from device.units import format_seconds, format_size

AFTER = 300 * MS
"""How long (ns) a wait goes on before it is counted down: most answers come sooner."""

STEP = 100 * MS

_TENTH = SECOND // 10

_WORDS = ("waiting for the guest", "waiting")


class Countdown:
    """The line about one wait, which ends at host time `until` (ns), or nobody knows when. It changes at `due`."""

    def __init__(self, machine: Machine, until: int | None) -> None:
        self._machine = machine
        self._guest = any(request.deadline == until for request in machine.requests.pending)
        self._since = machine.clock.now()
        self._until = until
        self.due = self._since + AFTER

    def line(self, now: int, columns: int = 80) -> str:
        """Return what is waited for, and how much longer or, where nobody knows, for how long already.

        Where that is longer than `columns` it says less, but always the number.
        """
        # Rounded up, so that 0.0 stands for the end only.
        tenths = -(-max(0, self._until - now) // _TENTH) if self._until is not None else (now - self._since) // _TENTH
        number = f"{tenths // 10}.{tenths % 10} s"
        self.due = now + (STEP if tenths < 600 else SECOND)  # nobody reads tenths of hours
        lines = [f"{words} ... {number}" for words in _WORDS[not self._guest :]]
        return next((line for line in lines if len(line) < columns), number)

    def once(self) -> str:
        """Return all that is said of the wait where no line can be taken back."""
        most = ""
        if self._until is not None:
            most = f", {format_seconds(-(-max(0, self._until - self._since) // _TENTH) * _TENTH)} s at most"
        return f"{_WORDS[not self._guest]}{most}; Ctrl-C gives the prompt back"

    def done(self, now: int) -> float | None:
        """Return the share of the wait that is over, or None where nobody knows."""
        since, until = self._since, self._until
        return None if until is None or until <= since else min(1.0, (now - since) / (until - since))

    def inflation(self) -> str:
        """Return how far the guest is on its way to the balloon's target, if it is and is not what is waited for."""
        device = self._machine.device
        if self._guest or device is None or device.target == device.actual or not device.live:
            return ""
        return f", actual {format_size(device.actual)} on the way to {format_size(device.target)}"
