"""A machine's time driven from an asyncio loop, for the prompt and for sockets. Pipes do it with poll() (pipe.py).

Nothing else in hmp lets time pass. On the real clock whoever waits wakes up for the next timer and for the guest's
descriptors. The warp clock jumps from timer to timer while some monitor waits for a reply, and only then. The manual
clock is left alone.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, Future, Handle

from device.machine.machine import Machine
from hmp.monitor.monitor import Reply

_SLICE = 0.01
"""Seconds of loop time that the warp clock may jump on before the loop's other business gets its turn."""


class MachineDriver:
    """Runs what is due on `machine` from within `loop`. Everything here is called from the loop's own callbacks.

    Whoever did something to the machine (ran a command, served a client) calls `kick` in the same callback, because a
    nearer timer or another descriptor may have come of it. Whoever waits for a reply calls `suspend`, and `resume`
    from within the reply's `on_done`: later, and the warp clock would have gone on without anybody waiting.
    """

    def __init__(self, machine: Machine, loop: AbstractEventLoop) -> None:
        self._machine = machine
        self._loop = loop
        self._handle: Handle | None = None
        self._watched: list[int] = []
        self._started = False
        self._waiting = 0

    def start(self) -> None:
        """Drive from now on."""
        self._started = True
        self.kick()

    def stop(self) -> None:
        """Leave the machine alone; call before it is closed."""
        self._started = False
        self._disarm()
        self._unwatch()

    def suspend(self) -> None:
        """One more monitor waits for its reply."""
        self._waiting += 1
        self.kick()

    def resume(self) -> None:
        """One monitor less waits."""
        self._waiting -= 1

    async def wait(self, reply: Reply, released: Future[None]) -> bool:
        """Wait for a suspended reply; take it back if `released` is done first. Returns whether it is complete."""

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
                reply.cancel()
                self.resume()
                self.kick()

    def kick(self) -> None:
        """Look again when something is due, and which descriptors matter."""
        if not self._started:
            return
        machine, loop = self._machine, self._loop
        self._watch()
        self._disarm()
        if machine.over:
            return
        if machine.clock.warps:
            if self._waiting:
                self._handle = loop.call_soon(self._warp)
            return
        _, due = machine.wait_for()
        if due is not None:
            self._handle = loop.call_later(max(0, due - machine.clock.now()) / 1e9, self._run_due)

    def _disarm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _run_due(self) -> None:
        self._machine.step()
        self.kick()

    def _warp(self) -> None:
        self._handle = None
        machine, loop = self._machine, self._loop
        end = loop.time() + _SLICE
        while self._waiting and not machine.over:
            if not machine.step(jump=True):
                self._watch()
                return  # no timer left: only another monitor, and its kick, can bring one
            if loop.time() >= end:
                break
        self.kick()

    # The guest's descriptors.

    def _watch(self) -> None:
        """Watch what the guest has open now.

        Registered anew each time: a guest may have closed a descriptor and opened another of the same number, and the
        kernel forgot the first without the selector knowing.
        """
        wanted, _ = self._machine.wait_for()
        if not wanted and not self._watched:
            return
        self._unwatch()
        for descriptor in wanted:
            self._loop.add_reader(descriptor, self._serve)
        self._watched = list(wanted)

    def _unwatch(self) -> None:
        for descriptor in self._watched:
            self._loop.remove_reader(descriptor)
        self._watched = []

    def _serve(self) -> None:
        self._run_due()
