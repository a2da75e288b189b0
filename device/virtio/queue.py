"""The device's side of a split virtqueue (virtio 1.2, 2.7). Everything read here is hostile input."""

from __future__ import annotations

from device.errors import GuestFault, MisuseError
from device.state import Flag, Integer, reset, slots
from device.virtio.spec import (
    AVAIL_NO_INTERRUPT,
    DESC_INDIRECT,
    DESC_NEXT,
    DESC_SIZE,
    DESC_WRITE,
    MAX_QUEUE_SIZE,
    U16,
    U32,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from device.fields import Fields
    from device.virtio.memory import Memory, Region

    Segment = tuple[Region, int, int]


class Element:
    """A buffer that the driver made available. `head` is its first descriptor; the device reads `out`, writes `into`.

    Segments are (region, offset, length), checked to lie inside guest memory.
    """

    __slots__ = ("head", "into", "out")

    # The code that makes an Element sets these: an __init__ would be one more call for each buffer.
    head: int
    out: tuple[Segment, ...]
    into: tuple[Segment, ...]

    def state(self) -> dict[str, object]:
        """Return the buffer as plain data."""
        pieces = {"out": self.out, "into": self.into}
        return {
            "head": self.head,
            **{name: [[region.base + at, length] for region, at, length in found] for name, found in pieces.items()},
        }

    @staticmethod
    def restored(fields: Fields, size: int, memory: Memory) -> Element:
        """Make a buffer of a ring of `size` entries from its state. Raises SnapshotError naming what is wrong."""
        head = fields.integer("head", 0, size - 1)
        pieces: list[list[Segment]] = []
        for name in ("out", "into"):
            found: list[Segment] = []
            for address, length in fields.pairs(name, size):
                if not length:
                    raise fields.refuse(name, "holds a piece of no bytes")
                try:
                    found.append((*memory.find(address, length), length))
                except GuestFault as fault:
                    raise fields.refuse(name, f"is not in guest memory ({fault})") from None
            pieces.append(found)
        fields.done()
        element = Element()
        element.head, element.out, element.into = head, tuple(pieces[0]), tuple(pieces[1])
        return element

    def readable(self) -> int:
        """Return how many bytes there are to read."""
        out = self.out
        if len(out) == 1:
            return out[0][2]
        return sum([segment[2] for segment in out])

    def read(self, limit: int) -> bytes:
        """Return the first `limit` readable bytes, or all there are."""
        out = self.out
        if len(out) == 1:
            region, offset, length = out[0]
            return region.buffer[offset : offset + (length if length < limit else limit)]
        parts = []
        for region, offset, length in out:
            take = min(length, limit)
            parts.append(region.buffer[offset : offset + take])
            limit -= take
            if not limit:
                break
        return b"".join(parts)


_NO_VIEW = memoryview(b"")


class VirtQueue:
    """One queue as the device sees it.

    `size`, `desc`, `avail`, `used` are what the driver configured; `start` checks them and makes the queue live.
    `pop` takes the next available buffer, `push` returns one, `wants_interrupt` says whether the driver asked for an
    interrupt. Faults of the driver are raised as GuestFault; the caller decides whether the device is broken.
    """

    STATE = (
        Integer("size", U32),  # what the driver wrote; only a queue that is set up has been checked
        Integer("desc"),
        Integer("avail"),
        Integer("used"),
        Flag("enabled"),
        Flag("event_idx"),
        Flag("indirect"),
        Integer("last_avail", U16),
        Integer("used_idx", U16),
        Integer("signalled", U16),
        Flag("signalled_valid"),
        Integer("in_use", MAX_QUEUE_SIZE),
    )
    DERIVED = ("_avail", "_desc", "_memory", "_ring", "_used", "index", "maximum", "more", "offered")
    __slots__ = slots(STATE, DERIVED)

    def __init__(self, index: int, size: int, maximum: int = MAX_QUEUE_SIZE) -> None:
        """Make queue number `index`, which offers `size` entries and takes up to `maximum`. Raises MisuseError if one
        of them is not a power of two, or too large.
        """
        for entries in (size, maximum):
            if not 0 < entries <= MAX_QUEUE_SIZE or entries & (entries - 1):
                raise MisuseError(f"a queue has 1 to {MAX_QUEUE_SIZE} entries, a power of two, not {entries}")
        self.index = index
        self.offered = size
        self.maximum = maximum
        self.clear()

    def clear(self) -> None:
        """Forget everything, as a device reset does; the size is what the device offers again."""
        reset(self)
        self.size = self.offered
        self.more = False
        """Whether, at the last `pop`, another buffer was waiting already."""
        self._let_go()

    def offer(self, size: int) -> None:
        """Offer `size` entries from now on; a driver that set the queue up already keeps what it chose."""
        if not self.enabled and self.size == self.offered:
            self.size = size
        self.offered = size

    def _let_go(self) -> None:
        """Release the views of guest memory, so that it can be unmapped."""
        self._memory: Memory | None = None
        # Each view begins where its part of the queue begins. A descriptor is two 64-bit words of `_desc`. `_avail` and
        # `_used` are 16-bit words: flags, index, ring, and last the event index. `_ring` has the entries of the used
        # ring as pairs of 32-bit words.
        self._desc = self._avail = self._used = self._ring = _NO_VIEW

    def configure(self, size: int, desc: int, avail: int, used: int) -> None:
        """Take the ring addresses that the driver wrote. Raises GuestFault if the queue is live."""
        if self.enabled:
            raise GuestFault("queue-live", f"queue {self.index} was configured while live")
        self.size, self.desc, self.avail, self.used = size, desc, avail, used

    def start(self, memory: Memory, *, event_idx: bool, indirect: bool, last_avail: int = 0) -> None:
        """Check the rings and make the queue live; `last_avail` is the index of the first buffer to take.

        Raises GuestFault as `map_rings` does.
        """
        self.map_rings(memory)
        self.event_idx = event_idx
        self.indirect = indirect
        self.last_avail = last_avail & U16
        self.used_idx = self._used[1]  # not 0: a vhost-user front end may continue a queue that was in use
        self.signalled = self.used_idx
        self.signalled_valid = False
        self.in_use = 0
        self.enabled = True

    def map_rings(self, memory: Memory) -> None:
        """Check the rings and make views of them, without going live.

        Raises GuestFault if the size is not a power of two up to `maximum`, or a ring is misaligned (virtio 1.2, 2.7:
        16, 2 and 4 bytes) or not wholly inside one region of `memory`.
        """
        size = self.size
        if not 0 < size <= self.maximum or size & (size - 1):
            raise GuestFault("bad-ring", f"queue {self.index} of {size} entries")
        if self.desc % 16 or self.avail % 2 or self.used % 4:
            raise GuestFault("bad-ring", f"queue {self.index}: {self.desc:#x} {self.avail:#x} {self.used:#x}")
        try:
            table_region, table = memory.find(self.desc, size * DESC_SIZE)
            avail_region, avail = memory.find(self.avail, 6 + 2 * size)
            used_region, used = memory.find(self.used, 6 + 8 * size)
        except GuestFault as fault:
            raise GuestFault("bad-ring", f"queue {self.index}: {fault.detail}") from None
        if table % 16 or avail % 2 or used % 4:
            raise GuestFault("bad-ring", f"queue {self.index}: misaligned in its region")
        self._memory = memory
        self._desc = table_region.u64[table // 8 :][: 2 * size]
        self._avail = avail_region.u16[avail // 2 :][: 3 + size]
        self._used = used_region.u16[used // 2 :][: 3 + 4 * size]
        self._ring = used_region.u32[used // 4 + 1 :][: 2 * size]

    def stop(self) -> None:
        """Take the queue out of service, keeping its configuration and indices."""
        self.enabled = False
        self._let_go()

    def pop(self) -> Element | None:
        """Take the next available buffer, or None if there is none. Raises GuestFault for a bad ring or chain."""
        memory = self._memory
        if memory is None:
            return None
        avail = self._avail
        last = self.last_avail
        pending = (avail[1] - last) & U16
        if not pending:
            return None
        size = self.size
        if pending > size:
            raise GuestFault("avail-overrun", f"queue {self.index}: {pending} available, {size} entries")
        # The size is a power of two, so the mask is the remainder. The guest may change the ring at any time: each word
        # is read once, checked, and used from here.
        head = avail[2 + (last & (size - 1))]
        if head >= size:
            raise GuestFault("bad-head", f"queue {self.index}: head {head} of {size}")
        # The driver offers descriptors again that the device still has. QEMU says "Virtqueue size exceeded".
        if self.in_use >= size:
            raise GuestFault("avail-overrun", f"queue {self.index}: {self.in_use} buffers are out already")
        desc = self._desc
        length = desc[2 * head + 1]
        if 0 < length <= U32:  # no flags, no next descriptor: one readable piece, as in nearly all buffers
            region, where = memory.find(desc[2 * head], length)
            element = Element()
            element.head = head
            element.out = ((region, where, length),)
            element.into = ()
        else:
            element = self._chain(memory, head)
        self.last_avail = last = (last + 1) & U16
        self.more = pending > 1
        self.in_use += 1
        if self.event_idx:
            self._used[-1] = last
        return element

    def _chain(self, memory: Memory, head: int) -> Element:
        """Read a chain, direct or indirect, of at most as many descriptors as the queue has entries."""
        table = self._desc
        entries = limit = self.size
        index = head
        steps = 0
        out: list[Segment] = []
        into: list[Segment] = []
        nested = False
        while True:
            address, rest = table[2 * index], table[2 * index + 1]
            length, flags, following = rest & U32, rest >> 32 & U16, rest >> 48
            if flags & DESC_INDIRECT:
                # Chained descriptors before the table are unusual and allowed (2.7.5.3.2).
                # Not in a table again, and no next beside a table (2.7.5.3.1): both would make chains without a bound.
                if not self.indirect or nested or flags & DESC_NEXT:
                    raise GuestFault("bad-indirect", f"queue {self.index}: descriptor {index} flags {flags:#x}")
                if not length or length % DESC_SIZE or length // DESC_SIZE > self.size:
                    raise GuestFault("bad-indirect", f"queue {self.index}: table of {length} bytes at {address:#x}")
                region, where = memory.find(address, length)
                # Copied, because this table may be at any address: only the queue's own has to be aligned.
                table = memoryview(region.buffer[where : where + length]).cast("Q")
                entries = length // DESC_SIZE
                # The descriptors before the table count too: a chain has at most as many as the queue.
                limit = min(limit, steps + entries)
                index = 0
                nested = True
                continue
            if not length:
                raise GuestFault("zero-length", f"queue {self.index}: descriptor {index}")
            region, where = memory.find(address, length)
            if flags & DESC_WRITE:
                into.append((region, where, length))
            elif into:
                raise GuestFault("direction", f"queue {self.index}: descriptor {index} is readable after a writable")
            else:
                out.append((region, where, length))
            steps += 1
            if not flags & DESC_NEXT:
                element = Element()
                element.head, element.out, element.into = head, tuple(out), tuple(into)
                return element
            if steps >= limit:
                raise GuestFault("chain-loop", f"queue {self.index}: more than {limit} descriptors from {head}")
            if following >= entries:
                raise GuestFault("bad-head", f"queue {self.index}: next {following} of {entries}")
            index = following

    def push(self, element: Element, length: int = 0) -> None:
        """Return a buffer to the driver with `length` bytes written into it."""
        if self._memory is None or not self.in_use:  # stopped or started again meanwhile: not this ring's buffer
            return
        used = self.used_idx
        entry = (used & (self.size - 1)) << 1
        ring = self._ring
        ring[entry] = element.head
        ring[entry + 1] = length
        self.used_idx = used = (used + 1) & U16
        # The entry before the index, and the index in one 16-bit store: the driver may read them at any moment.
        self._used[1] = used
        self.in_use -= 1

    def wants_interrupt(self) -> bool:
        """Return whether to interrupt the driver for what was pushed since the last call (virtio 1.2, 2.7.7)."""
        if self._memory is None:
            return False
        if not self.event_idx:
            return not self._avail[0] & AVAIL_NO_INTERRUPT
        old, self.signalled = self.signalled, self.used_idx
        # What an earlier owner of the ring signalled is not known, so the first call says yes, as in QEMU.
        if not self.signalled_valid:
            self.signalled_valid = True
            return True
        new = self.used_idx
        # True if used_event lies in [old, new), modulo 2^16.
        return (new - self._avail[-1] - 1) & U16 < (new - old) & U16

    def available(self) -> int:
        """Return how many buffers wait to be popped. For display only: a driver may claim any number."""
        if self._memory is None:
            return 0
        return (self._avail[1] - self.last_avail) & U16

    def peek(self, position: int) -> tuple[int, int, int, int, int, int]:
        """Return the head index and (address, length, flags), plus avail flags and idx, of an available slot.

        For `info virtio-queue-element`. `position` counts modulo the queue's size. Raises GuestFault when not live.
        """
        if self._memory is None:
            raise GuestFault("notify-dead", f"queue {self.index} is not set up")
        avail = self._avail
        head = avail[2 + position % self.size] % self.size
        address, rest = self._desc[2 * head], self._desc[2 * head + 1]
        return head, address, rest & U32, rest >> 32 & U16, avail[0], avail[1]

    def used_state(self) -> tuple[int, int]:
        """Return the used ring's flags and index, for display; zeros when not live."""
        if self._memory is None:
            return 0, 0
        return self._used[0], self._used[1]
