"""The virtio-balloon device: its queues, its config space, and the pages in the balloon."""

from __future__ import annotations

from device.balloon.pages import PageSet, page_runs
from device.balloon.spec import (
    ALWAYS_OFFERED,
    CONFIG_ACTUAL,
    CONFIG_POISON_VAL,
    CONFIG_SIZE,
    DEFLATE,
    F_PAGE_POISON,
    HINT,
    HINT_DONE,
    HINT_STOP,
    INFLATE,
    MODELS,
    PROPERTIES,
    QUEUE_SIZES,
    REPORTING,
    STATS,
    queue_roles,
)
from device.balloon.stats_queue import StatsQueue
from device.errors import GuestFault, MisuseError
from device.state import Age, Flag, Integer, Member, Text, load, save
from device.virtio.device import DUE_SERVE, NEWS_ACTUAL, VirtioDevice
from device.virtio.spec import PAGE_SHIFT, PAGE_SIZE, STATUS_DRIVER_OK, STATUS_FAILED, STATUS_NEEDS_RESET, U16, U32, bit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from device.clock import Timeline
    from device.fields import Fields
    from device.virtio.memory import Memory
    from device.virtio.queue import Element

HINT_ROUNDS = 8
"""Rounds of free page hints that are remembered. A driver chooses the ids, so the number must have a limit."""

BUFFERS_AT_ONCE = 512
"""Buffers served in one round: a driver that refills its ring from within interrupts must not keep us for ever."""

WORK_AT_ONCE = 1 << 16
"""Bytes of page lists after which a queue has to wait: each scattered page costs a system call."""


def _no_name(device: BalloonDevice, id: str) -> str:
    return "" if id.isascii() and all(char.isalnum() or char in "-._" for char in id) else "cannot name a device"


def _load_poison(device: BalloonDevice, fields: Fields) -> None:
    negotiated = bool(device.features & bit(F_PAGE_POISON))
    if "poison_seen" in fields:  # an older hmp saved only whether the value was written
        device.poison_val = int(fields.flag("poison_seen") and negotiated)
        return
    device.poison_val = fields.integer("poison_val", 0, U32 * negotiated)


def _load_hints(device: BalloonDevice, fields: Fields) -> None:
    device.hints = {id: pages or 0 for id, pages in fields.pairs("hints", HINT_ROUNDS)}


def _load_stats(device: BalloonDevice, fields: Fields) -> None:
    # This is the last member, because it needs the features and queues, which say where in guest memory the rings are.
    for queue in device.queues:
        if queue.enabled:
            try:
                queue.map_rings(device.memory)
            except GuestFault as fault:
                raise fields.refuse(f"queues[{queue.index}].desc", f"does not describe a queue ({fault})") from None
    device.restore_roles()
    device.stats.restore(fields.section("stats"))


class BalloonDevice(VirtioDevice):
    """The device (virtio 1.2, 5.5). `ram` is the guest's memory in bytes.

    `target` is the size that the host asked for, `actual` the size that the guest reports. Both are in bytes: RAM
    without the balloon. `num_pages` and `actual_pages` are the size of the balloon, as in the configuration space.
    """

    __slots__ = (
        "_actual_pages", "_roles", "_sized", "actual", "born", "gone", "hint_id", "hints", "hotplugged", "id",
        "iothread", "model", "num_pages", "pages", "poison_val", "properties", "ram", "stats",
    )  # fmt: skip

    STATE = (
        Text("id", kept=True, check=_no_name),
        Text(
            "model",
            MODELS[0],
            kept=True,
            late=True,
            check=lambda device, model: "" if model in MODELS else "is no model of this device",
        ),
        Text("iothread", kept=True, late=True),
        Flag("hotplugged", kept=True),
        Member("properties", lambda device, now: dict(device.properties), kept=True),
        *VirtioDevice.STATE[:3],
        Integer("num_pages", lambda device: device.pages.limit, kept=True),
        Integer("actual_pages", lambda device: device.pages.limit, kept=True),
        Member("poison_val", loads=_load_poison, default=0),
        Integer("hint_id", U32, late=True),
        Member("hints", lambda device, now: [[*each] for each in device.hints.items()], _load_hints, dict, late=True),
        *VirtioDevice.STATE[3:5],
        Age("age", attribute="born", kept=True),
        *VirtioDevice.STATE[5:],
        Member("stats", lambda device, now: save(device.stats, now), _load_stats, kept=True),
    )
    DERIVED = (*VirtioDevice.DERIVED, "_actual_pages", "_roles", "_sized", "actual", "gone", "pages", "ram")

    hotplugged: bool
    hints: dict[int, int]
    """The number of hinted pages by command id, for the last HINT_ROUNDS ids; id 0 is for hints without one."""

    def __init__(
        self,
        time: Timeline,
        memory: Memory,
        ram: int,
        *,
        id: str = "",
        model: str = MODELS[0],
        iothread: str = "",
        guest_stats_polling_interval: int = 0,
        sizes: Sequence[int] = (),
        **switches: bool,
    ) -> None:
        """Create the device. `model` and `iothread` are only stored; a polling interval (seconds) starts polling.

        `sizes` are those of VirtioDevice. `switches` are names of PROPERTIES with underscores. Raises MisuseError for
        an impossible size, an interval out of range, and an unknown switch.
        """
        properties = {name: default for name, (_, default) in PROPERTIES.items()}
        for switch, value in switches.items():
            name = switch.replace("_", "-")
            if name not in properties:
                raise MisuseError(f"no such balloon property: {name}")
            properties[name] = value
        # MUST_TELL_HOST has no switch: see spec.py.
        offered = ALWAYS_OFFERED | sum([bit(feature) for name, (feature, _) in PROPERTIES.items() if properties[name]])
        self.ram = ram
        self.pages = PageSet(ram >> PAGE_SHIFT)
        super().__init__(time, memory, offered, len(queue_roles(offered)), sizes)
        self.id, self.model, self.iothread, self.properties = id, model, iothread, properties
        self.born = time.clock.now()
        self._sized = len(sizes)
        self.gone = False
        """Whether the device was removed from its machine: writes of a driver have no effect any more."""
        self.stats = StatsQueue(self, time)
        self.restore_roles()
        self.stats.set_poll_interval(guest_stats_polling_interval)

    @staticmethod
    def restored(time: Timeline, memory: Memory, ram: int, fields: Fields) -> BalloonDevice:
        """Make a device from its state, without the pages in its balloon. Raises SnapshotError for a wrong member."""
        properties = fields.section("properties")
        switches: dict[str, Any] = {name.replace("-", "_"): properties.flag(name) for name in PROPERTIES}
        properties.done()
        device = BalloonDevice(time, memory, ram, **switches)
        load(device, fields)
        # Not saved: it follows from the status, and a file could contradict that.
        device.live = bool(device.status & STATUS_DRIVER_OK) and not device.status & (
            STATUS_NEEDS_RESET | STATUS_FAILED
        )
        return device

    # Size.

    @property
    def actual_pages(self) -> int:
        """The number of pages that the guest reports in the balloon. Setting it sets `actual` too."""
        # `actual` is kept as an attribute, because each printed line reads it.
        return self._actual_pages

    @actual_pages.setter
    def actual_pages(self, pages: int) -> None:
        self._actual_pages = pages
        self.actual = self.ram - (pages << PAGE_SHIFT)

    @property
    def target(self) -> int:
        """The memory that the guest should keep, in bytes."""
        return self.ram - (self.num_pages << PAGE_SHIFT)

    def set_target(self, size: int) -> None:
        """Ask the guest to keep `size` bytes; more than RAM means all of it. Raises MisuseError below one byte."""
        # 0 is no special value: in the first implementation it asked for statistics, and crashed. The words are QEMU's.
        if size <= 0:
            raise MisuseError("Parameter 'target' expects a size")
        # Rounded down to whole pages, as in QEMU: the guest keeps at least `size`.
        self.num_pages = (self.ram - min(size, self.ram)) >> PAGE_SHIFT
        self.config_interrupt()

    # Config space (virtio 1.2, 5.5.4).

    def config_bytes(self) -> bytes:
        """Return the 16 bytes of the configuration space."""
        # The hint's command id is always STOP: only a migration would ask for hints. The fields have 32 bits, and a
        # balloon of 16 TiB has 2^32 pages.
        fields = (min(self.num_pages, U32), min(self.actual_pages, U32), HINT_STOP, self.poison_val)
        return b"".join([field.to_bytes(4, "little") for field in fields])

    def read_config(self, offset: int, size: int) -> bytes:
        """Return `size` bytes at `offset`; those beyond the space read as zeros."""
        # `size` is limited, because a vhost-user front end may ask for gigabytes of zeros.
        # A negative offset would be counted from the end of the space.
        if offset < 0 or size < 0:
            return b""
        size = min(size, CONFIG_SIZE)
        return self.config_bytes()[offset : offset + size].ljust(size, b"\0")

    def write_config(self, offset: int, data: bytes) -> None:
        """Take the driver's write of `actual` or `poison_val` (le32 at 4 and 12). Other writes are refused and counted.

        Without PAGE_POISON, `poison_val` is ignored, as in QEMU.
        """
        if self.gone:
            return
        if len(data) != 4 or offset not in (CONFIG_ACTUAL, CONFIG_POISON_VAL):
            self.refuse("config-write", f"{len(data)} bytes at {offset}")
            return
        if offset == CONFIG_POISON_VAL:
            if self.features & bit(F_PAGE_POISON):
                self.poison_val = int.from_bytes(data, "little")
            return
        pages = int.from_bytes(data, "little")
        limit = self.ram >> PAGE_SHIFT
        if pages > limit:
            self.refuse("bad-actual", f"{pages} of {limit} pages")
            pages = limit
        if pages != self.actual_pages:
            self.actual_pages = pages
            self.due |= NEWS_ACTUAL

    # Queues.

    def write_status(self, value: int) -> None:
        """As VirtioDevice.write_status, while the device is plugged in."""
        if not self.gone:
            super().write_status(value)

    def accept_features(self, features: int) -> None:
        """As VirtioDevice.accept_features; the features say which queue is which."""
        super().accept_features(features)
        self.restore_roles()

    def restore_roles(self) -> None:
        """Work out from the features which queue has which role, and its size."""
        # Before the driver accepts features, sizes follow the offered ones: a driver may read them that early.
        self._roles = queue_roles(self.features)
        roles = self._roles if self.features else queue_roles(self.offered)
        for queue, role in [*zip(self.queues, roles, strict=False)][self._sized :]:
            queue.offer(QUEUE_SIZES[role])
        self.stats.negotiated(self._roles.index(STATS) if STATS in self._roles else -1)

    def notify(self, index: int) -> None:
        """As VirtioDevice.notify. Statistics take a short path, because every request for them comes through here."""
        stats = self.stats
        if not (index == stats.index >= 0 and self.live and (queue := self.queues[index]).enabled):
            super().notify(index)
            return
        try:
            if stats.serve(queue):
                self.due |= DUE_SERVE << index
        except GuestFault as fault:
            self.refuse(fault.rule, fault.detail)

    def serve(self, index: int) -> None:
        """Handle what the driver put on queue `index`, which is not that of statistics."""
        if index >= len(self._roles):
            self.refuse("notify-dead", f"queue {index} was not negotiated")
            return
        # A limit on buffers and one on bytes: full buffers cost more than short ones. After too many bytes the queue
        # waits for some VM time; after too many buffers it is only due again.
        queue = self.queues[index]
        handle = _HANDLERS[self._roles[index]]
        served = work = 0
        while served < BUFFERS_AT_ONCE and work < WORK_AT_ONCE and (element := queue.pop()) is not None:
            work += element.readable()
            handle(self, element)
            queue.push(element)
            served += 1
        if work >= WORK_AT_ONCE:
            self.defer(DUE_SERVE << index)
        elif served == BUFFERS_AT_ONCE:
            self.due |= DUE_SERVE << index
        if served and queue.wants_interrupt():
            self.interrupt(index)

    # Pages that are already in the balloon are discarded again: that is harmless, and the guest may have written to
    # them.
    def _inflate(self, element: Element) -> None:
        twice = 0
        for first, length in page_runs(element, self.pages.limit, self.refuse):
            twice += length - self.pages.add(first, length)
            self.memory.discard(first << PAGE_SHIFT, length << PAGE_SHIFT)
        if twice:
            self.refuse("double-inflate", f"{twice} pages of a list", twice)

    # Nothing to do for memory: a discarded page comes back as zeros when the guest uses it.
    def _deflate(self, element: Element) -> None:
        missing = 0
        for first, length in page_runs(element, self.pages.limit, self.refuse):
            missing += length - self.pages.remove(first, length)
        if missing:
            self.refuse("double-deflate", f"{missing} pages of a list", missing)

    def _hint(self, element: Element) -> None:
        """Count hinted pages by the command id that came before them (virtio 1.2, 5.5.6.5).

        The pages keep their content: they may be dropped only while a migration asks for hints, and hmp has none.
        """
        if element.out:
            if element.readable() != 4:
                self.refuse("ragged-pfns", f"a command id of {element.readable()} bytes")
                return
            id = int.from_bytes(element.read(4), "little")
            self.hint_id = HINT_STOP if id == HINT_DONE else id
        # A STOP or DONE without pages ends a round and counts nothing; it must not push a real round out.
        if self.hint_id or element.into:
            # A dict keeps the order in which the ids came, so its first key is the oldest round.
            if self.hint_id not in self.hints and len(self.hints) == HINT_ROUNDS:
                del self.hints[next(iter(self.hints))]
            pages = sum([length for _, _, length in element.into]) >> PAGE_SHIFT
            self.hints[self.hint_id] = self.hints.get(self.hint_id, 0) + pages

    def _report(self, element: Element) -> None:
        """Give reported free pages back to the host (virtio 1.2, 5.5.6.7), unless the guest poisons its pages."""
        # A page that was given back reads as zeros, and such a guest expects its poison value there. As in QEMU.
        if self.poison_val:
            return
        for region, offset, length in element.into:
            # Only whole pages inside the segment: the rest of the first and last page may be in use.
            address = region.base + offset
            first = (address + PAGE_SIZE - 1) & -PAGE_SIZE
            last = (address + length) & -PAGE_SIZE
            if last > first:
                self.memory.discard(first, last - first)

    # For transports.

    def use_memory(self, memory: Memory, top: int) -> None:
        """Use `memory`, which ends at guest address `top`, for rings and buffers from now on. No queue may be live."""
        self.memory = memory
        if top >> PAGE_SHIFT != self.pages.limit:
            self.pages = PageSet(top >> PAGE_SHIFT)

    def park_queue(self, index: int) -> int:
        """As VirtioDevice.park_queue. A held statistics buffer counts as not taken, so that the device takes it again
        when the queue continues.
        """
        held = self.stats.let_go() if index == self.stats.index else 0
        return super().park_queue(index) - held & U16

    # Life.

    @property
    def can_report(self) -> bool:
        """Whether a driver is up that negotiated the statistics queue."""
        # A broken device counts too: its driver is there and gives no answer, like one that hangs. So requests wait and
        # time out, and the line shows the age. Without this they would end at once, and old numbers would look new.
        return self.stats.index >= 0 and (self.live or self.broken)

    def driver_gone(self) -> None:
        """Forget what the driver told us: statistics, the held buffer, the pages in the balloon.

        `actual` stays, as in QEMU (measured on 7.2): only a driver writes it.
        """
        self.restore_roles()
        self.stats.forget()
        self.pages.clear()

    def wake(self) -> None:
        """Serve the queues that have buffers left, after a snapshot was loaded that does not say which they are."""
        # Only queues with buffers, so that no timer is armed for nothing.
        waiting = sum(DUE_SERVE << queue.index for queue in self.queues if queue.available())
        if waiting:
            self.defer(waiting)

    def detach(self) -> None:
        """Remove the device from its machine, with all its timers."""
        self.stats.set_poll_interval(0)
        self.forget_later()
        for queue in self.queues:
            queue.stop()
        self.gone = True
        self.live = False


_HANDLERS = {
    INFLATE: BalloonDevice._inflate,
    DEFLATE: BalloonDevice._deflate,
    HINT: BalloonDevice._hint,
    REPORTING: BalloonDevice._report,
}
