"""A guest's balloon driver, and `Inflation`, which moves the balloon to its target.

The driver uses the device only through rings, config space and notifications. On the wire it does what Linux's
virtio_balloon does: status bits in order, the statistics queue primed before DRIVER_OK, page lists of up to 256
entries, `actual` written once per list. The balloon moves in portions, at a pace, as far as the kernel has pages.
"""

from __future__ import annotations

from device.balloon.pages import full_list
from device.balloon.spec import (
    CONFIG_ACTUAL,
    CONFIG_NUM_PAGES,
    DEFLATE,
    F_DEFLATE_ON_OOM,
    F_FREE_PAGE_HINT,
    F_REPORTING,
    F_STATS_VQ,
    INFLATE,
    MAX_PFNS_PER_BUFFER,
    STATS,
    queue_roles,
)
from device.clock import MS, SECOND
from device.state import Flag, Integer, Member, Parts, load, reset, slots
from device.virtio.driver_queue import DriverQueue, ring_bytes
from device.virtio.spec import (
    F_EVENT_IDX,
    F_VERSION_1,
    PAGE_SHIFT,
    PAGE_SIZE,
    PROBING,
    STATUS_AGREED,
    STATUS_DRIVER_OK,
    bit,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from device.balloon.device import BalloonDevice
    from device.clock import Timer
    from device.fields import Fields
    from device.guest.model.kernel import Kernel
    from device.machine.guest import Platform
    from device.virtio.memory import Region

    class Owner(Protocol):
        """What the inflation needs of its guest."""

        machine: Platform
        kernel: Kernel | None
        pace: int
        timers: dict[str, Timer]

        @property
        def driver(self) -> BalloonDriver | None:
            """The driver, while there is one."""

        def awake(self) -> bool:
            """Whether it serves its queues now."""
            ...

        def arm(self, name: str, delay: int) -> None:
            """Arm the timer of that name, unless it is armed."""


FEATURES = sum(map(bit, (F_VERSION_1, F_EVENT_IDX, F_STATS_VQ, F_DEFLATE_ON_OOM, F_FREE_PAGE_HINT, F_REPORTING)))
"""What a modelled driver accepts if offered. Linux 6.1 accepts PAGE_POISON too, but only if it fills free pages."""

BASE = 0x1000
"""Guest address of the driver's pages: rings first, then the two page lists, then the statistics buffer."""

TICK = 5 * MS
"""VM time between two portions."""

STUCK, STUCK_LONG = 200 * MS, 10 * SECOND
"""VM time after which a driver that got no page tries again: at first as Linux's driver, then twice as long each time
up to STUCK_LONG, so that years of simulated time with a stuck balloon cost little."""

OOM_PAGES = 256
"""Pages that Linux's driver gives back each time the kernel is out of memory."""

DEFLATE_SPEEDUP = 4
"""How much faster than inflating a driver deflates, because it needs no free pages: measured on Linux."""

PORTION = (256 << 20) >> PAGE_SHIFT
"""The most pages moved at once, at any pace: the monitor must not wait for a guest."""


class BalloonDriver:
    """The driver of one boot. `ballooned` counts the pages it gave away: always the topmost ones of RAM.

    `stats` is its end of the statistics queue, number `stats_index`; None and -1 if that was not negotiated.
    """

    STATE: tuple[Member, ...] = (
        Member("features", loads=lambda part, fields: part._load_features(fields), default=0),
        Integer("ballooned", lambda part: part._top),
        Parts("queues", "is not a list of {}", attribute="_rings"),
    )
    """What the driver remembers; its rings and buffers are in guest memory."""

    DERIVED: tuple[str, ...] = (
        "_buffer",
        "device",
        "ram",
        "_lists",
        "_offset",
        "_queues",
        "_region",
        "_top",
        "stats",
        "stats_index",
    )

    __slots__ = (*DERIVED, "ballooned", "features")

    def __init__(self, device: BalloonDevice, region: Region, ram: int) -> None:
        self.device, self._region, self.ram = device, region, ram
        self._top = ram >> PAGE_SHIFT
        self.ballooned = 0
        self.features = 0
        self.stats: DriverQueue | None = None
        self.stats_index = -1

    def probe(self, wanted: int) -> bool:
        """Negotiate those of the `wanted` features that are offered, and set up the queues.

        Returns whether the device agreed. If it did, prime the statistics queue, if that is wanted, and call `go`.
        """
        device = self.device
        for status in PROBING:
            device.write_status(status)
        self.features = wanted & device.offered
        device.accept_features(self.features)
        device.write_status(STATUS_AGREED)
        if device.status != STATUS_AGREED:
            return False
        self._lay_out(keep=False)
        for index, queue in enumerate(self._queues.values()):
            device.setup_queue(index, queue.size, queue.desc, queue.avail, queue.used)
        return True

    def _lay_out(self, *, keep: bool) -> None:
        """Lay out rings and buffers, one after another; with `keep` the rings keep what is in them."""
        roles = queue_roles(self.features)
        event_idx = bool(self.features & bit(F_EVENT_IDX))
        self._queues: dict[str, DriverQueue] = {}
        address = BASE
        for role, seen in zip(roles, self.device.queues, strict=False):
            # A queue that is not enabled may have any size: nothing has checked what the driver wrote.
            size = seen.size if seen.enabled else seen.offered
            self._queues[role] = DriverQueue(self._region, address, size, event_idx=event_idx, keep=keep)
            address += ring_bytes(size)
        self.stats = self._queues.get(STATS)
        self.stats_index = roles.index(STATS) if STATS in roles else -1
        self._lists = {INFLATE: (0, address), DEFLATE: (1, address + 4 * MAX_PFNS_PER_BUFFER)}
        self._buffer = address + PAGE_SIZE
        self._offset = self._buffer - self._region.base

    @property
    def _rings(self) -> list[DriverQueue]:
        return list(self._queues.values())

    def restore(self, fields: Fields) -> None:
        """Restore the state from a snapshot. Raises SnapshotError naming the member that is wrong."""
        load(self, fields)
        device = self.device
        for queue, seen in zip(self._rings, device.queues, strict=False):
            same = (queue.size, queue.desc, queue.avail, queue.used) == (seen.size, seen.desc, seen.avail, seen.used)
            if not (same and seen.enabled) and not device.broken:
                raise fields.refuse("queues", "are not those that the device was told of")

    def _load_features(self, fields: Fields) -> None:
        device = self.device
        self.features = fields.integer("features")
        if self.features & ~device.offered or (self.features != device.features and not device.broken):
            raise fields.refuse("features", "are not those that the device negotiated")
        self._lay_out(keep=True)

    def go(self) -> None:
        """Set DRIVER_OK."""
        self.device.write_status(self.device.status | STATUS_DRIVER_OK)

    def unload(self) -> None:
        """Take every page back and reset the device, as removing the module does. A broken device gets no lists.

        Linux reports the size only once, at the end (remove_common).
        """
        while self.ballooned and self.device.live:
            self._take_back(min(self.ballooned, MAX_PFNS_PER_BUFFER))
        self.ballooned = 0
        self._write_actual()
        self.device.write_status(0)

    @property
    def target_pages(self) -> int:
        """The balloon size that the device asks for, in pages: num_pages of its config space."""
        return int.from_bytes(self.device.read_config(CONFIG_NUM_PAGES, 4), "little")

    @property
    def deflates_on_oom(self) -> bool:
        """Whether deflate-on-oom was negotiated."""
        return bool(self.features & bit(F_DEFLATE_ON_OOM))

    # The balloon.

    def inflate(self, count: int) -> None:
        """Give the device the next `count` pages (at most 256) and report the new size."""
        self.ballooned += count
        self._send(INFLATE, self._top - self.ballooned, count)
        self._write_actual()

    def deflate(self, count: int) -> None:
        """Take back the last `count` pages (at most 256) that were given, and report the new size."""
        self._take_back(count)
        self._write_actual()

    def _take_back(self, count: int) -> None:
        first = self._top - self.ballooned
        self.ballooned -= count
        self._send(DEFLATE, first, count)

    def _write_actual(self) -> None:
        self.device.write_config(CONFIG_ACTUAL, self.ballooned.to_bytes(4, "little"))

    def _send(self, role: str, first: int, count: int) -> None:
        index, address = self._lists[role]
        offset = address - self._region.base
        if count == MAX_PFNS_PER_BUFFER:
            self._region.buffer[offset : offset + 4 * count] = full_list(first)
        else:
            self._region.u32[offset >> 2 : (offset >> 2) + count] = memoryview(
                b"".join(pfn.to_bytes(4, "little") for pfn in range(first, first + count))
            ).cast("I")
        queue = self._queues[role]
        if queue.free:  # if the device returns no lists, all descriptors are in use and nothing can be sent
            queue.add_out(address, 4 * count)
            if queue.should_notify():
                self.device.notify(index)
            # The device has returned the list by now, unless it lets the driver wait.
            queue.take()

    # Statistics.

    def report(self, records: bytes) -> None:
        """Put a buffer with `records`, in their wire form, on the statistics queue."""
        queue = self.stats
        if queue is not None and queue.free:
            size, offset = len(records), self._offset
            self._region.buffer[offset : offset + size] = records
            queue.add_out(self._buffer, size)
            if queue.should_notify():
                self.device.notify(self.stats_index)


class Inflation:
    """The balloon's work in one guest, on the guest's timer called `work`.

    `worked` is the VM time up to which pages were moved, `stuck` how long it waits if it gets no page. After pages were
    given back on OOM it `rests`, as Linux's driver, until the host asks for a size.
    """

    STATE = (
        Integer("worked", lambda part: part._guest.machine.vm_clock.now()),
        Integer("stuck", STUCK_LONG, STUCK, low=STUCK, late=True),
        Flag("rests", late=True),
    )
    DERIVED = ("_guest",)
    __slots__ = slots(STATE, DERIVED)

    stuck: int

    def __init__(self, guest: Owner) -> None:
        self._guest = guest
        reset(self)

    def start(self) -> None:
        """Start to work if the balloon does not have its target size. Does nothing if it works or the guest sleeps."""
        guest = self._guest
        driver = guest.driver
        if driver is not None and not self.rests and guest.awake() and driver.target_pages != driver.ballooned:
            timer = guest.timers.get("work")
            if timer is None or not timer.armed:
                self.worked = guest.machine.vm_clock.now()
                guest.arm("work", self._tick())

    def target_set(self) -> None:
        """The host asked for a size, perhaps for the same one again."""
        self.rests = False
        self.unstick()

    def unstick(self) -> None:
        """Memory or target changed: a driver that waits because it got no page tries again soon."""
        timer = self._guest.timers.get("work")
        if self.stuck != STUCK and timer is not None:
            timer.cancel()
            self.stuck = STUCK
        self.start()

    def _tick(self) -> int:
        """Return the VM time until at least one page is due."""
        return max(TICK, -(-PAGE_SIZE * SECOND // self._guest.pace))

    def work(self) -> None:
        """Move the pages that are due, and arm the timer again if the target is not reached."""
        guest = self._guest
        driver, kernel, device = guest.driver, guest.kernel, guest.machine.device
        if driver is None or kernel is None or device is None or device.broken or not guest.awake():
            return
        now = guest.machine.vm_clock.now()
        rate = guest.pace
        todo = driver.target_pages - driver.ballooned
        if todo < 0:
            rate *= DEFLATE_SPEEDUP
        due, rest = divmod((now - self.worked) * rate, SECOND << PAGE_SHIFT)
        # The rest is dropped and not owed: after a long sleep the balloon would move faster than its pace.
        if due > PORTION:
            due, rest = PORTION, 0
        self.worked = now - rest // rate  # the time for a part of a page counts for the next portion
        pause = self._tick()
        kernel.tick(now)
        while todo and due:
            count = min(abs(todo), due, MAX_PFNS_PER_BUFFER)
            if todo > 0:
                count = kernel.inflate(count)
                if not count:
                    pause = self.stuck
                    self.stuck = min(2 * self.stuck, STUCK_LONG)
                    break
                self.stuck = STUCK
                driver.inflate(count)
                todo -= count
            else:
                kernel.deflate(count)
                driver.deflate(count)
                todo += count
            due -= count
        if driver is guest.driver and driver.target_pages != driver.ballooned:
            guest.arm("work", pause)

    def relieve(self, pages: int) -> int:
        """Deflate for a kernel that runs out of memory; returns the pages that came back."""
        guest = self._guest
        driver, kernel, device = guest.driver, guest.kernel, guest.machine.device
        if driver is None or kernel is None or device is None or device.broken or not guest.awake():
            return 0
        timer = guest.timers.get("work")
        # Linux looks at its target when the configuration changes, and its work then repeats itself until the target is
        # reached. Giving pages back on OOM does not start that work, but does not stop it either.
        self.rests = timer is None or not timer.armed
        # Whole calls of Linux's notifier: the kernel repeats the call as long as it has too few pages.
        pages = min(-(-pages // OOM_PAGES) * OOM_PAGES, driver.ballooned)
        back = 0
        while back < pages:
            count = min(pages - back, MAX_PFNS_PER_BUFFER)
            kernel.deflate(count)
            driver.deflate(count)
            back += count
        return back
