"""A machine's time: the host clock, the VM's clock, the timers of both, and how they are run in order."""

from __future__ import annotations

from device.clock import Clock, SimulatedClock, TimerQueue, VmClock
from device.errors import MisuseError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from device.clock import Timer

STORM_STEPS = 100_000
"""Timers fired in one `run_due`: a guest that re-arms one without end cannot keep us in there."""


class Timeline:
    """Host and VM time of one machine. Deadlines and ages live on `host_timers`, the guest on `vm_timers`."""

    __slots__ = ("clock", "host_timers", "vm_clock", "vm_timers")

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.vm_clock = VmClock(clock)
        self.host_timers = TimerQueue()
        self.vm_timers = TimerQueue()

    def after(self, delay: int, callback: Callable[[], None]) -> Timer:
        """Arm a timer on the host clock, `delay` ns from now."""
        return self.host_timers.at(self.clock.now() + delay, callback)

    def next_deadline(self) -> int | None:
        """Return the host time (ns) of the next timer that will come, or None."""
        due = self.host_timers.next_due()
        if self.vm_clock.running:
            vm_due = self.vm_timers.next_due()
            if vm_due is not None:
                vm_due = self.vm_clock.to_host(vm_due)
                if due is None or vm_due < due:
                    return vm_due
        return due

    def run_due(self) -> bool:
        """Fire every timer that is due, in order of time; returns whether any was.

        In the same instant the guest's come first: an answer at the deadline is an answer.
        """
        fired = False
        if not self.host_timers._heap and not self.vm_timers._heap:  # called for every line: be quick
            return False
        now = self.clock.now()  # once: what comes due while we are at work has to wait, or slow work would never end
        for _ in range(STORM_STEPS):
            host_due = self.host_timers.next_due()
            vm_due = self.vm_timers.next_due() if self.vm_clock.running else None
            if vm_due is not None:
                vm_due = self.vm_clock.to_host(vm_due)
                if vm_due <= now and (host_due is None or vm_due <= host_due):
                    self.vm_timers.fire_next()
                    fired = True
                    continue
            if host_due is None or host_due > now:
                break
            self.host_timers.fire_next()
            fired = True
        return fired

    def warp(self) -> bool:
        """Jump the warp clock to the next timer and do what is due; returns False if there is none.

        Only for a front end whose monitor is suspended. Raises MisuseError on a clock that does not warp.
        """
        clock = self.clock
        if not isinstance(clock, SimulatedClock) or not clock.warps:
            raise MisuseError(f"the {clock.name} clock does not jump")
        due = self.next_deadline()
        if due is None:
            return False
        if due > clock.now():
            clock.move_to(due)
        self.run_due()
        return True

    def advance(self, duration: int) -> None:
        """Move a simulated clock forward by `duration` ns, through every timer on the way.

        Raises MisuseError on a real clock and for a negative duration.
        """
        clock = self.clock
        if not isinstance(clock, SimulatedClock):
            raise MisuseError("real time cannot be moved")
        if duration < 0:
            raise MisuseError("time does not go back")
        end = clock.now() + duration
        self.run_due()
        while (due := self.next_deadline()) is not None and due <= end:
            clock.move_to(max(due, clock.now()))
            self.run_due()
        clock.move_to(end)
