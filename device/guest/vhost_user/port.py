"""The balloon device as a vhost-user transport has it: rings that come and go, and the driver's status told for it.

A front end never tells the driver's status, so the device is taken through it here: once every ring of the negotiated
features is set up, enabled and has a kick descriptor, the device sees a reset, the features and DRIVER_OK, in that
order; when the last ring goes, it sees a reset. A driver that sets rings up anew without having let go of them (UML's
reset sends no message) has the device start from nothing.
"""

from __future__ import annotations

import select

from device.balloon.spec import queue_roles
from device.guest.vhost_user.wire import F_PROTOCOL_FEATURES, FrontEndFault, HostFault
from device.virtio.spec import F_VERSION_1, STATUS_ACKNOWLEDGE, STATUS_DRIVER, STATUS_DRIVER_OK, STATUS_FEATURES_OK, bit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from device.balloon.device import BalloonDevice
    from device.guest.vhost_user.memory import SharedMemory
    from device.guest.vhost_user.wakeup import Wakeup
    from device.machine.guest import Platform

LEAST_QUEUES = 5
"""Rings that are offered at the least: Linux's driver asks for room for five whatever it negotiates."""

_READY = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK


class Ring:
    """What a front end said of one ring. `base` is where it goes on, `last_avail` by another name."""

    __slots__ = ("address", "base", "call", "enabled", "kick", "size")

    def __init__(self) -> None:
        self.size = 0
        self.base = 0
        self.address: tuple[int, int, int] | None = None
        self.kick: Wakeup | None = None
        self.call: Wakeup | None = None
        self.enabled = False

    @property
    def ready(self) -> bool:
        """Whether nothing is missing for the ring to run."""
        return self.enabled and self.size > 0 and self.address is not None and self.kick is not None

    def close(self) -> None:
        """Let the descriptors go."""
        for end in (self.kick, self.call):
            if end is not None:
                end.close()
        self.kick = self.call = None


class Port:
    """The rings of one front end, and the device of `machine` behind them. Close it when the front end is gone.

    `coming` is called just before a driver comes up, `changed` after it came or went, `unusable` where it cannot come
    up because it keeps to features that an earlier device had.
    """

    def __init__(
        self, machine: Platform, coming: Callable[[], None], changed: Callable[[], None], unusable: Callable[[], None]
    ) -> None:
        self._machine = machine
        self._coming = coming
        self._changed = changed
        self._unusable = unusable
        self._features = 0
        self.memory: SharedMemory | None = None
        """The guest's memory, once the front end shared it."""
        self.rings = [Ring() for _ in range(LEAST_QUEUES)]
        self.up = False
        """Whether the device was told that a driver is there."""

    @property
    def device(self) -> BalloonDevice | None:
        """The machine's device, while there is one."""
        return self._machine.device

    def running(self, index: int) -> bool:
        """Whether the device serves a ring."""
        device = self.device
        return device is not None and index < len(device.queues) and device.queues[index].enabled

    # What the front end sets.

    def set_features(self, features: int) -> None:
        """Take what the driver accepted, the transport's own bit included; other features are another driver."""
        if features == self._features:
            return
        self.take_down()
        self._features = features
        if not features >> F_PROTOCOL_FEATURES & 1:
            for ring in self.rings:  # without them there is no message to enable a ring with
                ring.enabled = True
        self.look()

    def set_memory(self, memory: SharedMemory) -> None:
        """Take a memory table; rings that run go on in it. Raises FrontEndFault where one has no place there."""
        running = [index for index in range(len(self.rings)) if self.running(index)]
        for index in running:
            self.park(index)
        self._drop_memory()
        self.memory = memory
        device = self.device
        if device is not None:
            device.use_memory(memory, memory.top)
        for index in running:
            self._start(index)
        for index in running:
            if device is not None:
                device.notify(index)  # a buffer that was held is found again
        self.look()

    # Rings, and the driver behind them.

    def look(self) -> None:
        """Bring the device up if all it takes is there; start a ring that came back."""
        device = self.device
        if device is None or self.memory is None or not self._features & bit(F_VERSION_1):
            return
        wanted = range(min(len(queue_roles(self._features)), len(device.queues)))
        if self.up:
            for index in wanted:
                if self.rings[index].ready and not device.queues[index].enabled:
                    self._start(index)
                    device.notify(index)
        elif all(self.rings[index].ready for index in wanted):
            if self._features & ~bit(F_PROTOCOL_FEATURES) & ~device.offered:
                self._unusable()
            else:
                self._bring_up(device, self.memory, wanted)

    def _bring_up(self, device: BalloonDevice, memory: SharedMemory, wanted: range) -> None:
        self._coming()
        device.write_status(0)
        device.use_memory(memory, memory.top)
        device.write_status(STATUS_ACKNOWLEDGE)
        device.write_status(STATUS_ACKNOWLEDGE | STATUS_DRIVER)
        device.accept_features(self._features & ~bit(F_PROTOCOL_FEATURES))
        device.write_status(_READY)
        self.up = True
        for index in wanted:
            self._start(index)
        self._changed()
        device.write_status(_READY | STATUS_DRIVER_OK)

    def _start(self, index: int) -> None:
        device, memory, ring = self.device, self.memory, self.rings[index]
        if device is None or memory is None or ring.address is None:
            return
        desc, avail, used = [memory.guest_address(user) for user in ring.address]
        device.setup_queue(index, ring.size, desc, avail, used, last_avail=ring.base)

    def park(self, index: int) -> None:
        """Take a ring out of service; it goes on where it was when it is started again."""
        device = self.device
        if device is not None:
            self.rings[index].base = device.park_queue(index)

    def down_if_idle(self) -> None:
        """The driver is gone once no ring of it runs."""
        if self.up and not any(self.running(index) for index in range(len(self.rings))):
            self.take_down()

    def renew(self, index: int) -> None:
        """The driver sets up a ring: if that is in use, it is a new driver and nothing of the old one stays."""
        if self.up and self.running(index):
            self.take_down()
            for ring in self.rings:
                ring.address = None

    def let_go(self) -> None:
        """The driver lets go of the device: if it comes back, it says everything anew."""
        self.take_down()
        for ring in self.rings:
            ring.close()
            ring.address = None

    def take_down(self) -> None:
        """The driver is gone: the device forgets it."""
        if self.up:
            self.up = False
            device = self.device
            if device is not None:
                device.write_status(0)
            self._changed()

    def device_added(self) -> None:
        """A device was plugged in: a driver that is ready gets it."""
        self.up = False
        self.look()

    # Kicks, calls and the end.

    def memory_lost(self) -> None:
        """A page could not be had, in the middle of something: have it looked at as soon as that is done."""
        self._machine.time.after(0, self._machine.guest.serve)

    def check_memory(self) -> None:
        """Raise FrontEndFault where memory went away, by the front end's deed or this host's."""
        memory = self.memory
        if memory is not None and memory.shrunk():
            raise FrontEndFault("a file of the memory table was cut short")
        if memory is not None and memory.lost:
            raise HostFault("this host has no page for its memory: the file system behind it is full, or fails")

    def descriptors(self) -> list[int]:
        """Return the kick descriptors of rings that run."""
        return [ring.kick.fd for index, ring in enumerate(self.rings) if ring.kick is not None and self.running(index)]

    def take_kicks(self) -> None:
        """Serve every ring that was kicked. Raises FrontEndFault where a kick descriptor broke, or memory went away."""
        memory, device = self.memory, self.device
        if memory is None or device is None:
            return
        self.check_memory()
        poller = select.poll()
        ends = {}
        for index, ring in enumerate(self.rings):
            if ring.kick is not None and self.running(index):
                ends[ring.kick.fd] = (index, ring.kick)
                poller.register(ring.kick.fd, select.POLLIN)
        for fd, events in poller.poll(0):
            index, kick = ends[fd]
            taken = kick.taken()
            if taken is False or (taken is None and events != select.POLLIN):
                raise FrontEndFault(f"the kick descriptor of ring {index} broke")
            if self.up and self.running(index):
                device.notify(index)

    def interrupt(self, index: int) -> None:
        """Tell the driver that buffers of ring `index` came back."""
        if index < len(self.rings):
            call = self.rings[index].call
            if call is not None:
                call.give()

    def close(self) -> None:
        """The front end is gone: touch its memory no more, let all descriptors go. The device is not reset."""
        for index in range(len(self.rings)):
            if self.running(index):
                self.park(index)
        for ring in self.rings:
            ring.close()
        self._drop_memory()
        self.up = False

    def _drop_memory(self) -> None:
        memory, self.memory = self.memory, None
        device = self.device
        if device is not None and device.memory is memory:
            device.use_memory(self._machine.memory, self._machine.ram)
        if memory is not None:
            memory.close()
