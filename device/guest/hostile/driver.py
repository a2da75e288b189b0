"""The hostile guest's balloon driver: an honest one, but attacks can write to its rings and spoil its answers."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from device.balloon.device import BalloonDevice
from device.balloon.spec import DEFLATE, INFLATE, STAT_COUNT, STAT_RECORD, STATS
from device.balloon.stats import WIRE_LIMIT
from device.guest.model.driver import BalloonDriver
from device.state import Flag, Integer, Text
from device.virtio.device import MAX_ROUNDS
from device.virtio.driver_queue import DriverQueue
from device.virtio.memory import Region
from device.virtio.spec import DESC_SIZE, PAGE_SHIFT

Roll = Callable[[int], int]
Descriptor = tuple[int, int, int, int]

SCRATCH = 0x10_0000
"""Guest address of what the attacks write: above the driver's own pages, below all that go into a balloon."""

TABLE = SCRATCH + 0x1_0000
SPARE_PAGE = (SCRATCH + 0x4_0000) >> PAGE_SHIFT
"""The guest address of indirect tables, and the page that attacks put into the balloon and take out."""

_DESCRIPTOR = Struct("<QIHH")

ANSWERS: dict[str, Callable[[bytes, Roll], bytes]] = {
    "partial-record": lambda data, roll: data + bytes(1 + roll(STAT_RECORD - 1)),
    "duplicate-tag": lambda data, roll: data + data[: STAT_RECORD * (1 + roll(4))],
    "unknown-tag": lambda data, roll: data + (STAT_COUNT + roll(1000)).to_bytes(2, "little") + bytes(8),
    "huge-buffer": lambda data, roll: data + bytes(WIRE_LIMIT + roll(1 << 16)),
}
"""Functions that spoil an answer, by the rule that the answer then breaks."""


class HostileDriver(BalloonDriver):
    """A balloon driver whose rings can be written to directly.

    `spoil` is the rule that its next statistics report will break, or "". `storm` is how many page lists it will still
    send from within interrupts, alternately to inflate and to deflate. With `ambush` it resets the device from within
    the next interrupt.
    """

    STATE = (
        Text(
            "odd",
            attribute="spoil",
            check=lambda part, rule: "is not a known answer" if {rule} - {"", *ANSWERS} else "",
        ),
        Integer("storm", 2 * MAX_ROUNDS),
        Flag("ambush", late=True),
        *BalloonDriver.STATE,
    )
    DERIVED = (*BalloonDriver.DERIVED, "roll")
    __slots__ = ("ambush", "roll", "spoil", "storm")

    def __init__(self, device: BalloonDevice, region: Region, ram: int, roll: Roll) -> None:
        super().__init__(device, region, ram)
        self.roll = roll
        self.spoil = ""
        self.storm = 0
        self.ambush = False

    def report(self, records: bytes) -> None:
        """As BalloonDriver.report; with `spoil` the report breaks that rule."""
        rule, self.spoil = self.spoil, ""
        super().report(ANSWERS[rule](records, self.roll) if rule else records)

    def interrupted(self, queue: int) -> None:
        """A page list came back: continue a storm or an ambush."""
        # This runs within an interrupt. A device that called its owner in the middle of its work once kept pages of the
        # old boot in the new balloon when it was reset here.
        if self.ambush:
            self.ambush = False
            self.device.write_status(0)
        elif self.storm:
            self.storm -= 1
            came, other = (INFLATE, DEFLATE) if queue == 0 else (DEFLATE, INFLATE)
            self.ring(came).take()
            if self.ring(other).free:
                self.ring(other).add_out(SCRATCH, 4)
                self.notify(other)

    # What the attacks use.

    def ring(self, role: str) -> DriverQueue:
        """Return the driver's side of the queue in that role."""
        return self._queues[role]

    def poke(self, address: int, data: bytes) -> None:
        """Write guest memory."""
        self._region.buffer[address - self._region.base : address - self._region.base + len(data)] = data

    def notify(self, role: str = INFLATE) -> None:
        """Notify the device that the queue in that role has buffers."""
        self.device.notify(self.stats_index if role == STATS else int(role == DEFLATE))

    def lay(self, *descriptors: Descriptor, role: str = INFLATE) -> None:
        """Write (address, length, flags, next) to the descriptors from 0 on, offer the first, and notify."""
        ring = self.ring(role)
        for index, descriptor in enumerate(descriptors):
            ring.write_desc(index, *descriptor)
        ring.expose(0)
        self.notify(role)

    def table(self, *descriptors: Descriptor) -> int:
        """Write an indirect table and return its length in bytes."""
        self.poke(TABLE, b"".join(_DESCRIPTOR.pack(*descriptor) for descriptor in descriptors))
        return len(descriptors) * DESC_SIZE

    def send(self, role: str, pfns: bytes) -> None:
        """Send a page list as an honest driver would; `pfns` may be anything."""
        ring = self.ring(role)
        while ring.take() is not None:  # buffers that a storm did not collect
            pass
        if ring.free:
            self.post(role, pfns)

    def post(self, role: str, data: bytes) -> None:
        """Put a buffer with `data` on the queue in that role, which is not full, and collect it if it came back."""
        self.poke(SCRATCH, data)
        self.ring(role).add_out(SCRATCH, len(data))
        self.notify(role)
        self.ring(role).take()
