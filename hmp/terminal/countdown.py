"""The text that a person sees while a monitor is suspended, at the prompt and in recordings."""

from __future__ import annotations

from device.clock import MS, SECOND
from device.machine.machine import Machine
from device.units import format_seconds, format_size

AFTER = 300 * MS
"""How long (ns) a wait lasts before its countdown is shown. Most answers come sooner."""

STEP = 100 * MS
"""How often (ns) the countdown changes."""

_TENTH = SECOND // 10

_WORDS = ("waiting for the guest", "waiting")


class Countdown:
    """The line about one wait, which ends at host time `until` (ns), or None if that is not known.

    It changes at `due`.
    """

    def __init__(self, machine: Machine, until: int | None) -> None:
        self._machine = machine
        # A reply does not say what it waits for, but a request of the guest has the same deadline.
        self._guest = any(request.deadline == until for request in machine.requests.pending)
        self._since = machine.clock.now()
        self._until = until
        self.due = self._since + AFTER

    def line(self, now: int, columns: int = 80) -> str:
        """Return what the wait is for, and the time left; if the end is not known, the time since the start.

        On a narrow screen it has fewer words, but always the number.
        """
        # The time left is rounded up, so that 0.0 is only shown at the end.
        tenths = -(-max(0, self._until - now) // _TENTH) if self._until is not None else (now - self._since) // _TENTH
        number = f"{tenths // 10}.{tenths % 10} s"
        self.due = now + (STEP if tenths < 600 else SECOND)  # nobody reads tenths of hours
        lines = [f"{words} ... {number}" for words in _WORDS[not self._guest :]]
        # Without the words if they do not fit: a line that was only cut lost its number at 20 columns.
        return next((line for line in lines if len(line) < columns), number)

    def once(self) -> str:
        """Return one line about the wait, for terminals that cannot replace a line."""
        most = ""
        if self._until is not None:
            most = f", {format_seconds(-(-max(0, self._until - self._since) // _TENTH) * _TENTH)} s at most"
        return f"{_WORDS[not self._guest]}{most}; Ctrl-C gives the prompt back"

    def done(self, now: int) -> float | None:
        """Return the part of the wait that is over (0 to 1), or None if its end is not known."""
        since, until = self._since, self._until
        return None if until is None or until <= since else min(1.0, (now - since) / (until - since))

    def inflation(self) -> str:
        """Return how far the balloon is on its way to the target; "" if it is not, or if the wait is for statistics."""
        device = self._machine.device
        if self._guest or device is None or device.target == device.actual or not device.live:
            return ""
        return f", actual {format_size(device.actual)} on the way to {format_size(device.target)}"
