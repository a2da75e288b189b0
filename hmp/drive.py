"""Drives a machine's time from an asyncio loop, for the prompt and for sockets. Pipes do it with poll() (pipe.py).

Nothing else in hmp lets time pass. On the real clock the loop wakes up for the next timer and for the guest's
descriptors. The warp clock jumps from timer to timer, but only while a monitor waits for a reply: waiting for input
must not move it. Nothing here moves the manual clock.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, Future, Handle

from device.machine.machine import Machine
from hmp.monitor.monitor import Reply
from hmp.pipe import first_wait

_SLICE = 0.01
"""Seconds of real time for which the warp clock may jump before the loop serves other events."""


class MachineDriver:
    """Runs what is due on `machine` from within `loop`. Call all methods from callbacks of the loop.

    After any use of the machine (a command, a client) call `reschedule` in the same callback, because there may be a
    nearer timer or another descriptor. To wait for a reply call `suspend`, and call `resume` from within the reply's
    `on_done`. If it was called later, the warp clock would go on although nobody waits.
    """

    def __init__(self, machine: Machine, loop: AbstractEventLoop) -> None:
        self._machine = machine
        self._loop = loop
        self._handle: Handle | None = None
        self._due: int | None = None  # what the handle is for (host ns), if it is a timer
        self._watched: list[int] = []
        self._started = False
        self._waiting = 0

    def start(self) -> None:
        """Start to drive the machine."""
        self._started = True
        self.reschedule()

    def stop(self) -> None:
        """Stop driving the machine. Call this before it is closed."""
        self._started = False
        self._disarm()
        self._unwatch()

    def suspend(self) -> None:
        """Count one more monitor that waits for a reply."""
        self._waiting += 1
        self.reschedule()

    def resume(self) -> None:
        """Count one monitor less that waits."""
        self._waiting -= 1

    async def wait(self, reply: Reply, released: Future[None]) -> bool:
        """Wait for a suspended reply; cancel it if `released` is done first. Returns whether it is complete."""

        def done(_: Reply) -> None:
            self.resume()
            if not released.done():
                released.set_result(None)

        reply.on_done = done
        self.suspend()
        try:
            await released
            return not reply.pending
        finally:
            if reply.pending:
                # Ctrl-C, or the end of the machine: a late answer is stored, but not shown.
                reply.cancel()
                self.resume()
                self.reschedule()

    def reschedule(self) -> None:
        """Find out again when something is due and which descriptors to watch."""
        if not self._started:
            return
        machine, loop = self._machine, self._loop
        wanted, due = machine.wait_for()
        self._watch(wanted)
        if due is not None and due == self._due and not machine.over:
            return  # a thousand clients that wait need one timer
        self._disarm()
        if machine.over:
            return
        if machine.clock.warps:
            if self._waiting:
                # Not at once: other callbacks of this round, such as a client's input, come first.
                self._handle = loop.call_soon(self._warp)
            return
        if due is not None:
            self._due = due
            self._handle = loop.call_later(first_wait(due - machine.clock.now()) / 1e9, self._run_due)

    def _disarm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._due = None

    def _run_due(self) -> None:
        self._due = None
        self._machine.step()
        self.reschedule()

    def _warp(self) -> None:
        self._handle = None
        machine, loop = self._machine, self._loop
        end = loop.time() + _SLICE
        while self._waiting and not machine.over:
            if not machine.step(jump=True):
                self._watch(machine.wait_for()[0])
                return  # no timer is left: only another monitor can add one, and it calls reschedule
            if loop.time() >= end:
                break
        self.reschedule()

    # Descriptors of the guest.

    def _watch(self, wanted: list[int]) -> None:
        """Watch the descriptors that the guest has open now: `wanted`.

        They are registered again each time: a guest may have closed a descriptor and opened another with the same
        number. The kernel has then forgotten the first, and the selector does not know.
        """
        if not wanted and not self._watched:
            return
        self._unwatch()
        for descriptor in wanted:
            self._loop.add_reader(descriptor, self._run_due)
        self._watched = wanted

    def _unwatch(self) -> None:
        for descriptor in self._watched:
            self._loop.remove_reader(descriptor)
        self._watched = []
