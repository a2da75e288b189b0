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
    from device.balloon.stats import Sample
    from device.guest.vhost_user.memory import SharedMemory
    from device.guest.vhost_user.wakeup import Wakeup

MIN_QUEUES = 5
"""Rings that are offered at the least: Linux's driver asks for room for five whatever it negotiates."""

_READY = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK


class Ring:
    """What a front end said of one ring. `base` is where it goes on, `last_avail` by another name."""

    __slots__ = ("address", "base", "call", "enabled", "index", "kick", "size")

    def __init__(self, index: int) -> None:
        self.index = index
        self.size = self.base = 0
        self.address: tuple[int, int, int] | None = None
        self.kick: Wakeup | None = None
        self.call: Wakeup | None = None
        self.enabled = False

    @property
    def ready(self) -> bool:
        """Whether nothing is missing for the ring to run."""
        return self.enabled and self.size > 0 and self.address is not None and self.kick is not None

    def set_kick(self, kick: Wakeup | None) -> None:
        """Take over the kick descriptor, in place of the one before."""
        if self.kick is not None:
            self.kick.close()
        self.kick = kick

    def set_call(self, call: Wakeup | None) -> None:
        """Take over the call descriptor, in place of the one before."""
        if self.call is not None:
            self.call.close()
        self.call = call


def _nobody() -> None:
    """Tell nobody."""


class Port:
    """The rings of one front end, and the device behind them, None while there is none. Close it when that is gone.

    `changed` is called after a driver came up or went, `unusable` where it cannot come up because it keeps to features
    that an earlier device had.
    """

    def __init__(
        self,
        device: BalloonDevice | None,
        changed: Callable[[], object] = _nobody,
        unusable: Callable[[], object] = _nobody,
    ) -> None:
        self._changed = changed
        self._unusable = unusable
        self._features = 0
        self._again: tuple[int, tuple[int, ...] | None, Sample | None] | None = None
        """Where the statistics buffer was that the device held when its ring was parked, and its sample."""
        self.memory: SharedMemory | None = None
        """The guest's memory, once the front end shared it."""
        self.rings = [Ring(index) for index in range(MIN_QUEUES)]
        self.plug(device)

    def plug(self, device: BalloonDevice | None) -> None:
        """Another device is there: a driver that is ready gets it."""
        self._device = device
        self._again = None
        if device is not None:
            self._own = device.memory, device.ram
        self.up = False
        """Whether the device was told that a driver is there."""
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
        """Take what the driver accepted, the transport's own bit included; other features are another driver."""
        if features == self._features:
            return
        self.take_down()
        self._again = None
        self._features = features
        if not features >> F_PROTOCOL_FEATURES & 1:
            for ring in self.rings:  # without them there is no message to enable a ring with
                ring.enabled = True
        self.start_ready()

    def set_memory(self, memory: SharedMemory) -> None:
        """Take a memory table; rings that run go on in it. Raises FrontEndFault where one has no place there."""
        running = self._park_all()
        self._drop_memory()
        self.memory = memory
        device = self.device
        if device is not None:
            device.use_memory(memory, memory.top)
            for ring in running:
                self._start(ring, device, memory)
            for ring in running:
                device.notify(ring.index)  # a buffer that was held is found again
        self.start_ready()

    # Rings, and the driver behind them.

    def start_ready(self) -> None:
        """Start the device once every ring is ready, or a ring that came back."""
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
            device.write_status(0)
            device.use_memory(memory, memory.top)
            device.write_status(STATUS_ACKNOWLEDGE)
            device.write_status(STATUS_ACKNOWLEDGE | STATUS_DRIVER)
            device.accept_features(features)
            device.write_status(_READY)
            self.up = True
            for ring in wanted:
                self._start(ring, device, memory)
            self._changed()
            device.write_status(_READY | STATUS_DRIVER_OK)

    def _start(self, ring: Ring, device: BalloonDevice, memory: SharedMemory) -> None:
        desc, avail, used = [memory.guest_address(user) for user in ring.address or ()]
        device.setup_queue(ring.index, ring.size, desc, avail, used, last_avail=ring.base)
        if ring.index == device.stats.index:
            again, self._again = self._again, None
            if again is not None and again[:2] == (ring.base, ring.address):
                device.stats.again = again[2]

    def park(self, ring: Ring) -> None:
        """Take a ring out of service, if it runs; it goes on where it was when it is started again."""
        device = self.device
        if device is not None and ring in self.running():
            stats = device.stats
            held = ring.index == stats.index and stats.held is not None
            ring.base = device.park_queue(ring.index)
            if held:
                self._again = ring.base, ring.address, stats.sample

    def _park_all(self) -> list[Ring]:
        running = self.running()
        for ring in running:
            self.park(ring)
        return running

    def down_if_idle(self) -> None:
        """The driver is gone once no ring of it runs."""
        if not self.running():
            self.take_down()

    def reconfigure(self, ring: Ring) -> None:
        """The driver configures a ring: if that is in use, it is a new driver and nothing of the old one stays."""
        if self.up and ring in self.running():
            self.take_down()
            self._again = None
            for each in self.rings:
                each.address = None

    def let_go(self) -> None:
        """The driver lets go of the device: if it comes back, it says everything anew."""
        self.take_down()
        self._again = None
        self._close_rings()

    def _close_rings(self) -> None:
        for ring in self.rings:
            ring.set_kick(None)
            ring.set_call(None)
            ring.address = None

    def take_down(self) -> None:
        """The driver is gone: the device forgets it."""
        if self.up:
            self.up = False
            device = self.device
            if device is not None:
                device.write_status(0)
            self._changed()

    # Kicks, calls and the end.

    def memory_lost(self) -> None:
        """A page could not be had, in the middle of something: have us served as soon as that is done."""
        if self.device is not None:
            self.device.time.after(0, _nobody)

    def check_memory(self) -> None:
        """Raise FrontEndFault where memory went away, by the front end's deed or this host's."""
        memory = self.memory
        if memory is not None and memory.shrunk():
            raise FrontEndFault("a file of the memory table was cut short")
        if memory is not None and memory.lost:
            raise HostFault("this host has no page for its memory: the file system behind it is full, or fails")

    def descriptors(self) -> list[int]:
        """Return the kick descriptors of rings that run."""
        return [ring.kick.fd for ring in self.running() if ring.kick is not None]

    def take_kicks(self) -> None:
        """Serve every ring that was kicked. Raises FrontEndFault where a kick descriptor broke, or memory went away."""
        device = self.device
        if self.memory is None or device is None:
            return
        self.check_memory()
        poller = select.poll()
        kicks = {ring.kick.fd: (ring, ring.kick) for ring in self.running() if ring.kick is not None}
        for fd in kicks:
            poller.register(fd, select.POLLIN)
        for fd, events in poller.poll(0):
            ring, kick = kicks[fd]
            taken = kick.taken()
            if taken is False or (taken is None and events != select.POLLIN):
                raise FrontEndFault(f"the kick descriptor of ring {ring.index} broke")
            if self.up and ring in self.running():
                device.notify(ring.index)
        self.check_memory()

    def interrupt(self, index: int) -> None:
        """Tell the driver that buffers of ring `index` came back."""
        if index < len(self.rings):
            call = self.rings[index].call
            if call is not None:
                call.give()

    def close(self) -> None:
        """The front end is gone: touch its memory no more, let all descriptors go. The device is not reset."""
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
