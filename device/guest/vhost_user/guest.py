"""Guests in other processes, which use the balloon device through a vhost-user socket (docs/real-guest.md)."""

from __future__ import annotations

import os
import sys

from device.errors import MisuseError
from device.guest.vhost_user.backend import Backend
from device.guest.vhost_user.listener import UnixListener
from device.guest.vhost_user.port import Port
from device.guest.vhost_user.wire import FrontEndFault, HostFault
from device.machine.events import DriverMissing, GuestGone, RuleBroken
from device.machine.guest import Guest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from device.guest.vhost_user.memory import SharedMemory
    from device.machine.guest import Platform


class VhostUserGuest(Guest):
    """The guest of a VMM that connects as a vhost-user front end. One is served at a time; others wait until it leaves.

    A request for statistics waits, within its timeout, for a front end and its driver. When the front end leaves, the
    device keeps its state, as with a guest that died; the next front end starts with a reset device. `stop` cannot
    freeze another VMM's guest: its queues are not served until `cont`.
    """

    real = True
    snapshot_refusal = "the guest runs in another program, whose state cannot be saved from here"
    _barrier_ends = False

    def __init__(self, name: str, settings: Mapping[str, object], spec: str) -> None:
        """Take the settings; `attach` opens the socket. Raises MisuseError without a path."""
        self.name, self.spec, self._settings = name, spec, settings
        self._listener: UnixListener | None = None
        self._backend: Backend | None = None
        self._booted = False
        self.gone = ""
        """Why the last front end is gone; empty while one is connected, and before the first one."""
        if sys.platform != "linux" or not os.path.isdir("/proc/self/fd"):
            raise MisuseError(f"the {self.name} guest needs Linux, with /proc: it shares memory and descriptors")
        if name == "vhost-user" and "path" not in settings:
            raise MisuseError("guest vhost-user: needs a path (vhost-user,path=SOCKET)")

    def attach(self, machine: Platform) -> None:
        """Belong to `machine` and listen. Raises MisuseError if that is not possible at the path."""
        path = str(self._settings["path"])
        # UML's virtio_uml.device=PATH:ID ends the path at a colon, and its command line ends it at a blank.
        if ":" in path or any(char.isspace() for char in path):
            raise MisuseError(f"'{path}': front ends cannot name a socket with blanks or colons in its path")
        before = machine.guest
        if isinstance(before, VhostUserGuest) and before._listener is not None and before._listener.at(path):
            # The guest that we replace listens there, and nothing can fail any more: take its socket over. A second one
            # at the same path would be refused, because a server uses that path.
            self._listener, before._listener = before._listener, None
        else:
            try:
                self._listener = UnixListener(path)
            except OSError as error:
                raise MisuseError(f"cannot listen on '{path}': {error.strerror or error}") from None
        super().attach(machine)

    # Life.

    def boot(self) -> None:
        """Accept front ends from now on."""
        self._booted = True
        self.booting = True
        self.gone = ""

    def halt(self) -> None:
        """Disconnect the front end, as a power cycle of the device does."""
        self._booted = False
        self.booting = False
        self._disconnect()

    def close(self) -> None:
        """Disconnect the front end and stop listening."""
        self.halt()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def resumed(self) -> None:
        """Serve the rings that were kicked meanwhile."""
        self.serve()

    def release_device(self) -> bool:
        """Return False: the protocol has no message that asks for the device back. A reset removes the device."""
        return False

    def device_added(self) -> None:
        """Give the new device to a front end that has set its rings up already."""
        if self._backend is not None:
            self._backend.port.plug(self.machine.device)

    # From the device.

    def interrupt(self, queue: int) -> None:
        """Signal the ring's call descriptor."""
        if self._backend is not None:
            self._backend.port.interrupt(queue)

    def config_changed(self) -> None:
        """Tell the front end, on the channel that it gave us."""
        if self._backend is not None:
            self._backend.config_changed()

    # From the front end.

    @property
    def memory(self) -> SharedMemory | None:
        """The guest's memory, while a front end shares it."""
        return None if self._backend is None else self._backend.port.memory

    def descriptors(self) -> list[int]:
        """Return what to watch: the listening socket, or the front end and its kicks."""
        if self._backend is not None:
            # A stopped machine takes no kicks: a watched kick descriptor would stay readable and wake us forever.
            kicks = self._backend.port.descriptors() if self.machine.running else []
            return [self._backend.socket.fileno(), *kicks]
        return [self._listener.socket.fileno()] if self._booted and self._listener is not None else []

    def serve(self) -> None:
        """Do what the front end asks for, within bounds; cut it off if it breaks the protocol."""
        if self._booted and self._backend is None:
            self._accept()
        backend = self._backend
        if backend is None:
            return
        fault: FrontEndFault | None = None
        there = True
        try:
            there = backend.answer_messages()  # before the kicks, which may be for rings that the messages set up
            if there:
                # Messages are answered while the VM is stopped too: a front end that gets no answer would hang.
                (backend.port.take_kicks if self.machine.running else backend.port.check_memory)()
        except FrontEndFault as error:
            fault = error
        if self._backend is not backend:  # a reset meanwhile disconnected it
            return
        if fault is not None:
            self._cut_off(fault)
        elif not there:
            self._hung_up()

    def _accept(self) -> None:
        try:
            peer = None if self._listener is None else self._listener.socket.accept()[0]
        except OSError:
            peer = None
        if peer is not None:
            self.gone = ""
            port = Port(self.machine.device, self._driver_changed, self._driver_unusable)
            self._backend = Backend(peer, port, barrier_ends=self._barrier_ends)

    def _driver_changed(self) -> None:
        backend = self._backend
        self.driver_loaded = backend is not None and backend.port.up
        self.booting = False
        if self.driver_loaded:
            self.gone = ""
        else:
            self.machine.driver_released()

    def _driver_unusable(self) -> None:
        self._driver_missing(
            "it keeps using features of its first device that this one does not have; a reset restarts it"
        )

    def _driver_missing(self, why: str) -> None:
        """The driver will not come up by itself: report that once, and let no more requests wait for it."""
        self.booting = False
        if self.gone != why:
            self.gone = why
            self.machine.emit(DriverMissing(why))
        self.machine.driver_changed()

    def _cut_off(self, fault: FrontEndFault) -> None:
        device, why = self.machine.device, str(fault)
        if isinstance(fault, HostFault):
            pass  # not the guest's fault, so it is not counted as one
        elif device is not None:
            device.refuse("front-end", why)
        else:
            self.machine.emit(RuleBroken("front-end", why))
        self._lost(f"its front end was cut off: {why}")

    def _hung_up(self) -> None:
        self._lost("its front end hung up")

    def _lost(self, why: str) -> None:
        """The front end is gone. The device keeps its state, and requests end at their deadlines."""
        self._disconnect()
        self.gone = why
        self.booting = self._booted
        self.machine.emit(GuestGone(why))

    def _disconnect(self) -> None:
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()
        self.driver_loaded = False

    # For monitors.

    def shown(self) -> Mapping[str, str]:
        """Return why the front end is gone, or where one is awaited."""
        if self.gone:
            return {"gone": self.gone}
        if self._backend is None:
            return {"waiting for": f"a front end on {self._settings.get('path')}"} if self._booted else {}
        return {}
