"""A pair harness: a machine with a balloon device at one end, a driver that the test drives by hand at the other.

The driver end is made of `DriverQueue`s in guest memory, so a test can be a good driver (`up`, `report`, `send`) or a
bad one (`Queue.write_desc`, `poke`, writes of status and configuration in any order). Time is a SimulatedClock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

from device.balloon.device import BalloonDevice
from device.balloon.spec import CONFIG_ACTUAL, F_STATS_VQ, STATS, queue_roles
from device.balloon.stats import encode
from device.clock import SECOND, SimulatedClock
from device.errors import GuestFault
from device.guest.table import make_guest
from device.machine.guest import Guest
from device.machine.machine import Machine
from device.machine.requests import StatsRequest
from device.virtio.driver_queue import DriverQueue, ring_bytes
from device.virtio.memory import GuestMemory
from device.virtio.queue import Element, VirtQueue
from device.virtio.spec import (
    F_EVENT_IDX,
    F_VERSION_1,
    MIB,
    PAGE_SIZE,
    QUEUE_SIZE,
    STATUS_ACKNOWLEDGE,
    STATUS_DRIVER,
    STATUS_DRIVER_OK,
    STATUS_FEATURES_OK,
    bit,
)

VERSION_1 = bit(F_VERSION_1)
FEATURES = VERSION_1 | bit(F_STATS_VQ)
"""What the hand-driven driver accepts unless told otherwise."""

PAIR_SIZE = 8
PAIR_RAM = 4 * MIB
PAIR_DATA = 0x10000
PAIR_TABLE = 0x20000
"""A lone ring's entries and memory, and where its tests put data and indirect tables."""

READY = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK
RINGS = 0x1000
BUFFERS = MIB
"""Guest addresses: rings from one page on, buffers from 1 MiB on."""


class Pair:
    """Both ends of one ring."""

    def __init__(
        self, *, size: int = PAIR_SIZE, event_idx: bool = False, indirect: bool = True, last_avail: int = 0
    ) -> None:
        self.memory = GuestMemory(PAIR_RAM)
        self.driver = DriverQueue(self.memory.regions[0], RINGS, size, event_idx=event_idx)
        self.queue = VirtQueue(0, size)
        self.queue.configure(size, self.driver.desc, self.driver.avail, self.driver.used)
        self.queue.start(self.memory, event_idx=event_idx, indirect=indirect, last_avail=last_avail)

    def poke16(self, address: int, value: int) -> None:
        self.memory.write(address, value.to_bytes(2, "little"))

    def peek16(self, address: int) -> int:
        return int.from_bytes(self.memory.read(address, 2), "little")

    def desc(self, index: int, address: int = PAIR_DATA, length: int = 4, flags: int = 0, following: int = 0) -> None:
        self.driver.write_desc(index, address, length, flags, following)

    def table(self, *entries: tuple[int, int, int, int], at: int = PAIR_TABLE) -> int:
        """Write an indirect table of (address, length, flags, next); returns its bytes."""
        data = b"".join(
            a.to_bytes(8, "little") + n.to_bytes(4, "little") + f.to_bytes(2, "little") + x.to_bytes(2, "little")
            for a, n, f, x in entries
        )
        self.memory.write(at, data)
        return len(data)

    def pop(self) -> Element:
        element = self.queue.pop()
        assert element is not None
        return element

    def fault(self) -> str:
        """Pop a buffer that must be refused; returns the rule that it broke."""
        with pytest.raises(GuestFault) as caught:
            self.queue.pop()
        return caught.value.rule


class HandGuest(Guest):
    """A guest that does nothing by itself: it notes what the device says and runs the test's hooks."""

    name = "hand"

    def __init__(self) -> None:
        self.interrupts: list[int] = []
        self.config_changes = 0
        self.on_interrupt: Callable[[int], object] | None = None
        self.on_config: Callable[[], object] | None = None
        self.on_boot: Callable[[], object] | None = None

    def boot(self) -> None:
        if self.on_boot is not None:
            self.on_boot()

    def interrupt(self, queue: int) -> None:
        self.interrupts.append(queue)
        if self.on_interrupt is not None:
            self.on_interrupt(queue)

    def config_changed(self) -> None:
        self.config_changes += 1
        if self.on_config is not None:
            self.on_config()


class Rig:
    """A running machine whose guest is a HandGuest; `up` brings a driver up. Use as a context manager."""

    def __init__(
        self, *, ram: int = 16 * MIB, switches: Mapping[str, bool] | None = None, paused: bool = False
    ) -> None:
        self.clock = SimulatedClock(warps=False)
        self.guest = HandGuest()
        self.machine = Machine(self.clock, ram=ram, guest=self.guest, switches=switches)
        self.events: list[tuple[str, Mapping[str, object]]] = []
        self.machine.subscribe(lambda event: self.events.append((event.name, event.data)))
        self.machine.start(paused=paused)
        self.queues: dict[str, DriverQueue] = {}
        self.features = 0
        self.size = QUEUE_SIZE

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        self.queues = {}  # they look into its memory
        self.machine.close()

    @property
    def device(self) -> BalloonDevice:
        assert self.machine.device is not None
        return self.machine.device

    @property
    def refused(self) -> dict[str, int]:
        return self.device.refused

    # The good driver.

    def negotiate(self, features: int = FEATURES) -> None:
        """Go through reset, ACKNOWLEDGE, DRIVER, features and FEATURES_OK."""
        device = self.device
        for status in (0, STATUS_ACKNOWLEDGE, STATUS_ACKNOWLEDGE | STATUS_DRIVER):
            device.write_status(status)
        device.accept_features(features)
        device.write_status(READY)
        self.features = features

    def set_up(self, *, size: int = QUEUE_SIZE) -> None:
        """Lay out and enable every queue that the features bring."""
        address = RINGS
        self.queues = {}
        self.size = size
        for index, role in enumerate(queue_roles(self.features)):
            queue = DriverQueue(
                self.machine.memory.regions[0], address, size, event_idx=bool(self.features & bit(F_EVENT_IDX))
            )
            self.device.setup_queue(index, size, queue.desc, queue.avail, queue.used)
            self.queues[role] = queue
            address += ring_bytes(size)

    def go(self) -> None:
        """Set DRIVER_OK."""
        self.device.write_status(READY | STATUS_DRIVER_OK)
        self.machine.deliver()

    def up(
        self, features: int = FEATURES, *, size: int = QUEUE_SIZE, prime: Iterable[tuple[int, int]] | None = ()
    ) -> Rig:
        """Bring a driver up completely; `prime` are the records of the first statistics buffer, () a buffer of one stray
        byte (so no sample), None no buffer."""
        self.negotiate(features)
        self.set_up(size=size)
        if STATS in self.queues and prime is not None:
            self.prime(encode(list(prime)) or b"\0")
        self.go()
        assert self.device.live
        self.guest.interrupts.clear()
        self.device.refused.clear()
        return self

    def index(self, role: str) -> int:
        return queue_roles(self.features).index(role)

    def prime(self, data: bytes) -> int:
        """Put a statistics buffer on its queue without a notification; returns its head."""
        self.poke(BUFFERS, data)
        return self.queues[STATS].add_out(BUFFERS, len(data))

    def report(self, records: Iterable[tuple[int, int]] | bytes) -> None:
        """Put a buffer of records (or raw bytes) on the statistics queue and notify."""
        self.prime(records if isinstance(records, bytes) else encode(list(records)))
        self.device.notify(self.index(STATS))
        self.machine.deliver()

    def answer_with(self, records: Iterable[tuple[int, int]]) -> None:
        """Answer every statistics request from now on, at once, with these records."""
        kept = list(records)

        def answer(index: int) -> None:
            if STATS in self.queues and index == self.index(STATS) and self.queues[STATS].take() is not None:
                self.report(kept)

        self.guest.on_interrupt = answer

    def send(self, role: str, pfns: Iterable[int] | bytes, *, at: int = BUFFERS + PAGE_SIZE) -> tuple[int, int] | None:
        """Send a page list (numbers or raw bytes) and return (head, bytes written) of the buffer if it came back."""
        data = pfns if isinstance(pfns, bytes) else b"".join(pfn.to_bytes(4, "little") for pfn in pfns)
        self.poke(at, data)
        self.queues[role].add_out(at, len(data))
        self.kick(role)
        return self.queues[role].take()

    def kick(self, role: str) -> None:
        self.device.notify(self.index(role))
        self.machine.deliver()

    def write_actual(self, pages: int) -> None:
        self.device.write_config(CONFIG_ACTUAL, pages.to_bytes(4, "little"))
        self.machine.deliver()

    # Guest memory, raw.

    def poke(self, address: int, data: bytes) -> None:
        self.machine.memory.write(address, data)

    def poke16(self, address: int, value: int) -> None:
        self.poke(address, value.to_bytes(2, "little"))

    def peek(self, address: int, length: int) -> bytes:
        return self.machine.memory.read(address, length)

    def peek16(self, address: int) -> int:
        return int.from_bytes(self.peek(address, 2), "little")

    # The host's side.

    def ask(self, timeout: int | None = 5 * SECOND) -> StatsRequest:
        return self.machine.request_stats(timeout)

    def advance(self, seconds: float) -> None:
        self.machine.advance(round(seconds * SECOND))

    def named(self, *names: str) -> list[Any]:
        """Return the data of the events of these names, in order."""
        return [data for name, data in self.events if name in names]


class Modelled:
    """A running machine with a modelled guest. Use as a context manager."""

    def __init__(
        self,
        spec: str = "linux",
        *,
        ram: int = 512 * MIB,
        seed: int = 0,
        paused: bool = False,
        warps: bool = True,
        switches: Mapping[str, bool] | None = None,
        balloon: bool = True,
    ) -> None:
        self.clock = SimulatedClock(warps=warps)
        self.guest: Any = make_guest(spec)
        self.machine = Machine(self.clock, ram=ram, guest=self.guest, seed=seed, switches=switches, balloon=balloon)
        self.events: list[tuple[str, Mapping[str, object]]] = []
        self.machine.subscribe(lambda event: self.events.append((event.name, event.data)))
        self.machine.start(paused=paused)

    def __enter__(self) -> Modelled:
        return self

    def __exit__(self, *_: object) -> None:
        self.machine.close()

    @property
    def device(self) -> BalloonDevice:
        assert self.machine.device is not None
        return self.machine.device

    @property
    def stats(self) -> Any:
        """The statistics queue of the device."""
        return self.device.stats

    def ask(self, timeout: int | None = 5 * SECOND) -> StatsRequest:
        """Open a request and do not wait for it."""
        return self.machine.request_stats(timeout)

    def info(self, timeout: int = 5 * SECOND) -> str:
        """Ask, let simulated time run until the request ends, and return how it ended."""
        request = self.machine.request_stats(timeout)
        end = self.clock.now() + timeout
        while request.state == "pending" and self.clock.now() < end:
            due = self.machine.time.next_deadline()
            assert due is not None, "a suspended monitor without a timer never comes back"
            self.machine.advance(max(0, due - self.clock.now()))
        return request.state

    def advance(self, seconds: float) -> None:
        self.machine.advance(round(seconds * SECOND))

    @property
    def age(self) -> float:
        """The age of the statistics in seconds."""
        age: int = self.stats.age
        return age / SECOND

    def named(self, *names: str) -> list[Any]:
        return [data for name, data in self.events if name in names]
