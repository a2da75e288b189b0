"""The transport between a vhost-user front end and the balloon device: starts and stops rings, and writes the status.

The protocol has no message for the driver's status, so it is worked out here. Once every ring of the negotiated
features is set up, enabled and has a kick descriptor, the device gets a reset, the features and DRIVER_OK, in that
order. When the last ring stops, it gets a reset. UML sends no message for a reset, so a driver that sets up a ring that
is still in use counts as a new driver, and the device is reset.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Literal

from device.balloon.device import BalloonDevice
from device.balloon.spec import CONFIG_POISON_VAL, queue_roles
from device.balloon.stats import Sample
from device.guest.vhost_user.memory import SharedMemory
from device.guest.vhost_user.wakeup import Wakeup
from device.guest.vhost_user.wire import F_PROTOCOL_FEATURES, FrontEndFault, HostFault
from device.virtio.spec import F_VERSION_1, PROBING, STATUS_AGREED, STATUS_DRIVER_OK, bit

MIN_QUEUES = 5
"""The number of rings that are offered: Linux's driver asks for five, whatever features it negotiates."""


class Ring:
    """What a front end said about one ring. `base` is the available index at which it continues."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.size = self.base = 0
        self.address: tuple[int, int, int] | None = None
        self.kick: Wakeup | None = None
        self.call: Wakeup | None = None
        self.enabled = False

    @property
    def ready(self) -> bool:
        """Whether the ring has everything that it needs to run."""
        return self.enabled and self.size > 0 and self.address is not None and self.kick is not None

    def hold(self, what: Literal["kick", "call"], end: Wakeup | None) -> None:
        """Take over a kick or call descriptor, and close the previous one."""
        before: Wakeup | None = getattr(self, what)
        if before is not None:
            before.close()
        setattr(self, what, end)


def _nothing() -> None:
    """Do nothing."""


class Port:
    """The rings of one front end, and the device that serves them, or None. Close it when the front end is gone.

    `changed` is called after a driver came up or went. `unusable` is called if a driver cannot come up because it keeps
    using features of an earlier device.
    """

    def __init__(
        self,
        device: BalloonDevice | None,
        changed: Callable[[], object] = _nothing,
        unusable: Callable[[], object] = _nothing,
    ) -> None:
        self._changed = changed
        self._unusable = unusable
        self._features = 0
        self._parked_stats: tuple[int, tuple[int, ...] | None, Sample | None] | None = None
        """Where the ring of a held statistics buffer was when it was parked (index, addresses), and the buffer's
        sample.

        If the ring continues there, the device finds the same buffer again, and must not take it for new numbers.
        """
        self.memory: SharedMemory | None = None
        """The guest's memory, once the front end shared it."""
        self.rings = [Ring(index) for index in range(MIN_QUEUES)]
        self._poison = bytes(4)
        self.plug(device)

    def plug(self, device: BalloonDevice | None) -> None:
        """Take another device, and start it if a driver is ready for it."""
        self._device = device
        self._parked_stats = None
        if device is not None:
            self._own = device.memory, device.ram  # the device gets these back when the front end's memory is unmapped
        self.up = False
        """Whether the device was started for a driver."""
        self.start_ready()

    @property
    def device(self) -> BalloonDevice | None:
        """The device, while it is plugged in."""
        return None if self._device is None or self._device.gone else self._device

    def running(self) -> list[Ring]:
        """Return the rings that the device serves."""
        device = self.device
        queues = [] if device is None else device.queues
        return [ring for ring, queue in zip(self.rings, queues, strict=False) if queue.enabled]

    # What the front end sets.

    def set_features(self, features: int) -> None:
        """Take the features that the driver accepted, with the transport's own bit."""
        # Features cannot change while a driver is up, so other features mean another driver.
        if features == self._features:
            return
        self.take_down()
        self._parked_stats = None
        self._features = features
        if not features >> F_PROTOCOL_FEATURES & 1:
            for ring in self.rings:  # without protocol features there is no message that enables a ring
                ring.enabled = True
        self.start_ready()

    def write_config(self, field: int, data: bytes) -> None:
        """Take a field that the driver wrote.

        The driver writes poison_val before its rings are set up. It is kept here, because the reset at their start
        clears it in the device.
        """
        if field == CONFIG_POISON_VAL:
            self._poison = data
        if self.device is not None:
            self.device.write_config(field, data)

    def set_memory(self, memory: SharedMemory) -> None:
        """Take a memory table; rings that run continue in it. Raises FrontEndFault if one of them is not inside it."""
        # A VMM sends a new table when memory is plugged in, with the driver up: that is no reset.
        running = self._park_all()
        self._drop_memory()
        self.memory = memory
        device = self.device
        if device is not None:
            device.use_memory(memory, memory.top)
            for ring in running:
                self._start(ring, device, memory)
            for ring in running:
                device.notify(ring.index)  # the device takes a buffer that it held before again
        self.start_ready()

    # Rings and their driver.

    def start_ready(self) -> None:
        """Start the device once every ring is ready, or a single ring that was parked."""
        # A driver without VERSION_1 is a legacy driver, which the device does not support.
        device, memory = self.device, self.memory
        if device is None or memory is None or not self._features & bit(F_VERSION_1):
            return
        wanted = self.rings[: min(len(queue_roles(self._features)), len(device.queues))]
        if self.up:
            for ring in wanted:
                if ring.ready and not device.queues[ring.index].enabled:
                    self._start(ring, device, memory)
                    device.notify(ring.index)
        elif all(ring.ready for ring in wanted):
            features = self._features & ~bit(F_PROTOCOL_FEATURES)
            if features & ~device.offered:
                self._unusable()
                return
            # In the order of virtio 1.2, 3.1.1, as if the driver wrote the status itself. DRIVER_OK comes after
            # `changed`, because it makes the device read the statistics buffer.
            device.write_status(0)
            device.use_memory(memory, memory.top)
            for status in PROBING[1:]:
                device.write_status(status)
            device.accept_features(features)
            device.write_config(CONFIG_POISON_VAL, self._poison)
            device.write_status(STATUS_AGREED)
            self.up = True
            for ring in wanted:
                self._start(ring, device, memory)
            self._changed()
            device.write_status(STATUS_AGREED | STATUS_DRIVER_OK)

    def _start(self, ring: Ring, device: BalloonDevice, memory: SharedMemory) -> None:
        desc, avail, used = [memory.guest_address(user) for user in ring.address or ()]
        device.setup_queue(ring.index, ring.size, desc, avail, used, last_avail=ring.base)
        if ring.index == device.stats.index:
            parked, self._parked_stats = self._parked_stats, None
            if parked is not None and parked[:2] == (ring.base, ring.address):
                device.stats.read_before = parked[2]

    def park(self, ring: Ring) -> None:
        """Take a running ring out of service; when it is started again it continues where it was."""
        device = self.device
        if device is not None and ring in self.running():
            stats = device.stats
            held = ring.index == stats.index and stats.held is not None
            ring.base = device.park_queue(ring.index)
            if held:
                self._parked_stats = ring.base, ring.address, stats.sample

    def _park_all(self) -> list[Ring]:
        running = self.running()
        for ring in running:
            self.park(ring)
        return running

    def down_if_idle(self) -> None:
        """If none of the driver's rings runs, the driver is gone: `take_down`."""
        if not self.running():
            self.take_down()

    def reconfigure(self, ring: Ring) -> None:
        """A message sets up `ring`. If the ring is in use, this is a new driver: forget the old one."""
        if self.up and ring in self.running():
            self.take_down()
            self._parked_stats = None
            # The other rings still have the old driver's addresses: each must be set up again before it may start.
            for each in self.rings:
                each.address = None

    def let_go(self) -> None:
        """The driver releases the device. If it comes back, it sets everything up again."""
        self.take_down()
        self._parked_stats = None
        self._close_rings()

    def _close_rings(self) -> None:
        for ring in self.rings:
            ring.hold("kick", None)
            ring.hold("call", None)
            ring.address = None

    def take_down(self) -> None:
        """The driver is gone: the device forgets it."""
        if self.up:
            self.up = False
            self._poison = bytes(4)
            device = self.device
            if device is not None:
                device.write_status(0)
            self._changed()

    # Kicks, calls and the end.

    def memory_lost(self) -> None:
        """A page was not available, in the middle of an access: make the machine serve the guest right after it."""
        # This runs within the access, so nothing can be served here. A timer that is due at once makes the machine
        # step.
        if self.device is not None:
            self.device.time.after(0, _nothing)

    def check_memory(self) -> None:
        """Raise FrontEndFault if the front end took memory away, HostFault if this host did."""
        memory = self.memory
        if memory is not None and memory.shrunk():
            raise FrontEndFault("a file of the memory table was cut short")
        if memory is not None and memory.lost:
            raise HostFault("this host has no page for its memory: the file system behind it is full, or fails")

    def descriptors(self) -> list[int]:
        """Return the kick descriptors of rings that run."""
        return [ring.kick.fd for ring in self.running() if ring.kick is not None]

    def take_kicks(self) -> None:
        """Serve every ring that was kicked. Raises FrontEndFault if a kick descriptor broke, or memory went away."""
        device = self.device
        if self.memory is None or device is None:
            return
        self.check_memory()
        # Not select(), which refuses descriptors from 1024 up.
        poller = select.poll()
        kicks = {ring.kick.fd: (ring, ring.kick) for ring in self.running() if ring.kick is not None}
        for fd in kicks:
            poller.register(fd, select.POLLIN)
        for fd, events in poller.poll(0):
            ring, kick = kicks[fd]
            taken = kick.taken()
            if taken is False or (taken is None and events != select.POLLIN):
                raise FrontEndFault(f"the kick descriptor of ring {ring.index} broke")
            if self.up and ring in self.running():  # serving an earlier ring may have ended this one
                device.notify(ring.index)
        self.check_memory()  # again, because memory may have been lost while the rings were served

    def interrupt(self, index: int) -> None:
        """Tell the driver that buffers of ring `index` were returned."""
        if index < len(self.rings):
            call = self.rings[index].call
            if call is not None:
                call.give()

    def close(self) -> None:
        """The front end is gone: unmap its memory and close all descriptors. The device is not reset."""
        self._park_all()
        self._close_rings()
        self._drop_memory()
        self.up = False

    def _drop_memory(self) -> None:
        memory, self.memory = self.memory, None
        device = self.device
        if device is not None and device.memory is memory:
            device.use_memory(*self._own)
        if memory is not None:
            memory.close()
