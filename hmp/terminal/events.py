"""Which events of the machine are shown to the person at the prompt, and their text."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

from device.machine import events
from device.virtio.spec import MIB
from hmp.ratelimit import GONE_BURST, GONE_SECONDS, RateLimit

FAULT_SPACING = 10.0
"""The least seconds between two lines about broken rules: a hostile guest can break them at any rate."""

_DETAIL = 60
"""The most characters of the detail of a broken rule. It has numbers from the guest, which must not fill the screen."""


ALWAYS: dict[type[events.Event], Callable[[Any], str]] = {
    events.TargetReached: lambda event: f"balloon target reached: {event.actual // MIB} MiB",
    events.ClientRefused: lambda event: f"hung up on a client: {event.why}",
    events.Panicked: lambda event: "guest panic: nothing answers until system_reset",
    events.Relayed: lambda event: event.text,
    events.GuestGone: lambda event: f"the guest is gone: {event.why}",
    events.DriverMissing: lambda event: f"the guest's driver does not come up: {event.why}",
    events.SnapshotDone: lambda event: f"snapshot {event.tag} is done",
}
"""Shown for every cause: these events come after the command that caused them, or say more than its output."""

FROM_ELSEWHERE: dict[type[events.Event], Callable[[Any], str]] = {
    events.DeviceDeleted: lambda event: f"the guest released device {event.device or event.path}",
    events.WasReset: lambda event: "the guest rebooted" if event.guest else "the machine was reset",
    events.Resumed: lambda event: "the VM runs",
    events.Ended: lambda event: (
        "the guest switched itself off" if event.guest else "the machine was ended from elsewhere"
    ),
    events.Stopped: lambda event: "the VM is stopped",
}
"""Shown only if no command of this person was the cause."""


class Announcer:
    """Turns events into lines and calls `show` with them. Set `own` while a command of this person runs."""

    def __init__(self, show: Callable[[str], None], *, now: Callable[[], float] = monotonic) -> None:
        self.own = False
        self._show = show
        self._limits = {
            events.RuleBroken: RateLimit(FAULT_SPACING, now=now),
            events.GuestGone: RateLimit(GONE_SECONDS, burst=GONE_BURST, now=now),
        }

    def on_event(self, event: events.Event) -> None:
        """Handle an event of the machine."""
        kind = type(event)
        # Only kinds of events that a guest or a front end can cause without end are limited.
        dropped = self._limits[kind].admit() if kind in self._limits else 0
        if dropped is None:
            return
        if isinstance(event, events.RuleBroken):
            more = f" and {dropped} times before" if dropped else ""
            self._show(f"the guest broke a rule{more}: {event.rule} ({event.detail[:_DETAIL]})")
            return
        words = ALWAYS.get(kind)
        # The person knows what their own command did; the same event from a client is news.
        if words is None and not self.own:
            words = FROM_ELSEWHERE.get(kind)
        line = "" if words is None else words(event)
        if line:
            self._show(line)
