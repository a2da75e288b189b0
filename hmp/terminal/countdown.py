"""What a person sees while a monitor is suspended: the words, for the typed monitor and for recordings of one."""

from __future__ import annotations

from device.clock import MS, SECOND
from device.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from device.machine.machine import Machine

AFTER = 300 * MS
"""How long (ns) a wait goes on before it is counted down: most answers come sooner."""

STEP = 100 * MS

_TENTH = SECOND // 10


def waits_for_guest(machine: Machine, until: int | None) -> bool:
    """Whether what ends at host time `until` is a request for statistics."""
    return any(request.deadline == until for request in machine.requests.pending)


def countdown_line(now: int, since: int, until: int | None, *, guest: bool, columns: int = 80) -> str:
    """Return what is waited for, and how much longer or, where nobody knows, for how long already.

    Where that is longer than `columns` it says less, but always the number.
    """
    # Rounded up, so that 0.0 stands for the end only.
    tenths = -(-max(0, until - now) // _TENTH) if until is not None else (now - since) // _TENTH
    number = f"{tenths // 10}.{tenths % 10} s"
    lines = [f"{words} ... {number}" for words in ("waiting for the guest", "waiting")[not guest :]]
    return next((line for line in lines if len(line) < columns), number)


def inflation(machine: Machine) -> str:
    """Return how far the guest is on its way to the balloon's target, if it is."""
    device = machine.device
    if device is None or device.target == device.actual or not device.live:
        return ""
    return f", actual {format_size(device.actual)} on the way to {format_size(device.target)}"
