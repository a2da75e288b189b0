"""The driver's side of a split virtqueue: what the modelled guests drive, and the other end in the tests."""

from __future__ import annotations

from device.state import Integer, Member, reset, slots
from device.virtio.spec import DESC_NEXT, DESC_SIZE, DESC_WRITE, PAGE_SIZE, U16, USED_NO_NOTIFY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from device.fields import Fields
    from device.virtio.memory import Region

_NEXT = DESC_NEXT << 32
"""The flag where it stands in the second word of a descriptor."""


def ring_bytes(size: int) -> int:
    """Return the bytes that a ring of `size` entries needs, from a page boundary to the next."""
    used = (size * DESC_SIZE + 6 + 2 * size + 3) & ~3
    return (used + 6 + 8 * size + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1)


class DriverQueue:
    """A ring in guest memory, laid out from guest address `base` (virtio 1.2, 2.7.2), with its free list.

    `add` makes a buffer available and returns its head, `take` fetches a returned one, `should_notify` says whether
    the device wants a notification.
    """

    STATE = (
        Integer("last_used", U16, attribute="_last_used"),
        Integer("notified", U16, attribute="_notified"),
        Integer("avail_idx", U16),
        Member("free", lambda part, now: list(part.free), lambda part, fields: part._load_free(fields)),
    )
    """What the guest itself remembers of the ring (the ring is in guest memory)."""

    DERIVED = ("_avail", "_desc", "_ring", "_used", "avail", "base", "desc", "event_idx", "size", "used")

    __slots__ = slots(STATE, DERIVED)

    _last_used: int
    _notified: int
    avail_idx: int
    free: list[int]

    def __init__(self, region: Region, base: int, size: int, *, event_idx: bool = False, keep: bool = False) -> None:
        """Lay out an empty ring at guest address `base` (16-byte aligned) inside `region`.

        With `keep` the ring is there already, as after a snapshot, and is left as it is.
        """
        self.base, self.size, self.event_idx = base, size, event_idx
        self.desc = base
        self.avail = base + size * DESC_SIZE
        self.used = (self.avail + 6 + 2 * size + 3) & ~3
        # Views of the parts, as VirtQueue has them: two words make a descriptor; flags, index, ring and event of the
        # available and of the used ring as 16 bits each; the used ring's entries as pairs of 32.
        offset, avail, used = base - region.base, self.avail - region.base, self.used - region.base
        self._desc = region.u64[offset // 8 :][: 2 * size]
        self._avail = region.u16[avail // 2 :][: 3 + size]
        self._used = region.u16[used // 2 :][: 3 + 4 * size]
        self._ring = region.u32[used // 4 + 1 :][: 2 * size]
        reset(self)
        self.free = list(range(size - 1, -1, -1))
        if not keep:
            length = used + 6 + 8 * size - offset
            region.buffer[offset : offset + length] = bytes(length)

    def add(self, out: list[tuple[int, int]], into: list[tuple[int, int]] | None = None) -> int:
        """Make a buffer of (guest address, length) pieces available and return its head.

        `out` is what the device reads, `into` what it writes. Raises IndexError when the ring is full.
        """
        pieces = [(address, length, 0) for address, length in out]
        pieces += [(address, length, DESC_WRITE) for address, length in into or ()]
        if len(pieces) > len(self.free):
            raise IndexError("the ring is full")
        heads = [self.free.pop() for _ in pieces]
        last = len(pieces) - 1
        for position, (address, length, flags) in enumerate(pieces):
            if position < last:
                self.write_desc(heads[position], address, length, flags | DESC_NEXT, heads[position + 1])
            else:
                self.write_desc(heads[position], address, length, flags, 0)
        self.expose(heads[0])
        return heads[0]

    def add_out(self, address: int, length: int) -> int:
        """As `add` with one piece for the device to read, the common case."""
        # Without the lists and loops of `add`: the answer to each request for statistics goes through here.
        head = self.free.pop()
        desc, avail, idx = self._desc, self._avail, self.avail_idx
        desc[2 * head] = address
        desc[2 * head + 1] = length  # no flags, no next descriptor
        avail[2 + (idx & (self.size - 1))] = head
        self.avail_idx = avail[1] = (idx + 1) & U16
        return head

    def write_desc(self, index: int, address: int, length: int, flags: int, following: int) -> None:
        """Write descriptor `index` as given; nothing is checked, so that tests can write bad ones."""
        self._desc[2 * index] = address
        self._desc[2 * index + 1] = length | flags << 32 | following << 48

    def expose(self, head: int) -> None:
        """Put `head` on the available ring and move the index."""
        self._avail[2 + (self.avail_idx & (self.size - 1))] = head
        self.avail_idx = self._avail[1] = (self.avail_idx + 1) & U16

    def set_avail_idx(self, value: int) -> None:
        """Write any available index, as a broken driver might."""
        self.avail_idx = self._avail[1] = value & U16

    def take(self) -> tuple[int, int] | None:
        """Return (head, written bytes) of the next buffer that the device gave back, or None.

        The chain's descriptors are free again.
        """
        last = self._last_used
        if self._used[1] == last:
            return None
        size, ring, free = self.size, self._ring, self.free
        entry = (last & (size - 1)) << 1
        index = head = ring[entry]
        self._last_used = last = (last + 1) & U16
        if self.event_idx:  # used_event: the device interrupts for the next buffer
            self._avail[-1] = last
        while index < size and len(free) < size:  # a damaged ring may name anything, or go in circles
            free.append(index)
            rest = self._desc[2 * index + 1]
            if not rest & _NEXT:
                break
            index = rest >> 48
        return head, ring[entry + 1]

    def should_notify(self) -> bool:
        """Return whether the device wants a notification of what was added since the last call (virtio 1.2, 2.7.10)."""
        if not self.event_idx:
            return not self._used[0] & USED_NO_NOTIFY
        new = self.avail_idx
        old, self._notified = self._notified, new
        # True if avail_event lies in [old, new), modulo 2^16.
        return (new - self._used[-1] - 1) & U16 < (new - old) & U16

    def _load_free(self, fields: Fields) -> None:
        self.free = fields.integers("free", self.size, self.size - 1)
        if len(set(self.free)) != len(self.free):
            raise fields.refuse("free", "names a descriptor twice")
