"""Which of the machine's events a person at the monitor wants to be told, and in which words."""

from __future__ import annotations

from time import monotonic

from device.machine.events import (
    ClientRefused,
    DeviceDeleted,
    DriverMissing,
    Ended,
    Event,
    GuestGone,
    Panicked,
    Resumed,
    RuleBroken,
    SnapshotDone,
    Stopped,
    TargetReached,
    WasReset,
)
from device.virtio.spec import MIB
from hmp.ratelimit import GONE_BURST, GONE_SECONDS, RateLimit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

FAULT_SPACING = 10.0
"""Seconds between two lines about the guest breaking rules, however often it does."""

_DETAIL = 60
"""Characters of what a guest's fault was about: the numbers are the guest's, the line is ours."""


def _deleted(event: DeviceDeleted) -> str:
    return f"the guest let go of device {event.device or event.path}"


def _reset(event: WasReset) -> str:
    return "the guest rebooted" if event.guest else "the machine was reset"


def _ended(event: Ended) -> str:
    return "the guest switched itself off" if event.guest else "the machine was ended from elsewhere"


ALWAYS: dict[type[Event], Callable[[Any], str]] = {
    TargetReached: lambda event: f"balloon target reached: {event.actual // MIB} MiB",
    ClientRefused: lambda event: f"hung up on a client: {event.why}",
    Panicked: lambda event: "guest panic: nothing answers until system_reset",
    GuestGone: lambda event: f"the guest is gone: {event.why}",
    DriverMissing: lambda event: f"the guest's driver does not come up: {event.why}",
    SnapshotDone: lambda event: f"snapshot {event.tag} is done",
}
"""Told whoever was the cause: they come later than the command, or say more than it did."""

FROM_ELSEWHERE: dict[type[Event], Callable[[Any], str]] = {
    DeviceDeleted: _deleted,
    WasReset: _reset,
    Resumed: lambda event: "the VM runs",
    Ended: _ended,
    Stopped: lambda event: "the VM is stopped",
}
"""Told only if no command typed here was the cause."""


class Announcer:
    """Turns events into lines for `say`. Set `own` while a command typed here runs."""

    def __init__(self, say: Callable[[str], None], *, now: Callable[[], float] = monotonic) -> None:
        self.own = False
        self._say = say
        self._limits = {
            RuleBroken: RateLimit(FAULT_SPACING, now=now),
            GuestGone: RateLimit(GONE_SECONDS, burst=GONE_BURST, now=now),
        }

    def hear(self, event: Event) -> None:
        """Take an event; subscribe this to the machine."""
        kind = type(event)
        dropped = self._limits[kind].admit() if kind in self._limits else 0
        if dropped is None:
            return
        if isinstance(event, RuleBroken):
            more = f" and {dropped} times before" if dropped else ""
            self._say(f"the guest broke a rule{more}: {event.rule} ({event.detail[:_DETAIL]})")
            return
        words = ALWAYS.get(kind)
        if words is None and not self.own:
            words = FROM_ELSEWHERE.get(kind)
        if words is not None:
            self._say(words(event))
