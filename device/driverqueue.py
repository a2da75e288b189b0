"""The driver's side of a split virtqueue: what the modelled guests drive, and the other end in the tests."""

from __future__ import annotations

from device.spec import DESC_NEXT, DESC_SIZE, DESC_WRITE, PAGE_SIZE, U16, USED_NO_NOTIFY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from device.memory import Region
    from device.plain import Fields


def ring_bytes(size: int) -> int:
    """Return the bytes that a ring of `size` entries needs, from a page boundary to the next."""
    used = (size * DESC_SIZE + 6 + 2 * size + 3) & ~3
    return (used + 6 + 8 * size + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1)


class DriverQueue:
    """A ring in guest memory, laid out from guest address `base` (virtio 1.2, 2.7.2), with its free list.

    `add` makes a buffer available and returns its head, `take` fetches a returned one, `should_notify` says whether
    the device wants to be told.
    """

    __slots__ = (
        "_avail",
        "_desc",
        "_idx",
        "_last_used",
        "_notified",
        "_region",
        "_ring",
        "_u16",
        "_u32",
        "_u64",
        "_used",
        "_used_idx",
        "avail",
        "avail_idx",
        "base",
        "desc",
        "event_idx",
        "free",
        "size",
        "used",
    )

    def __init__(self, region: Region, base: int, size: int, *, event_idx: bool = False, keep: bool = False) -> None:
        """Lay out an empty ring at guest address `base` (16-byte aligned) inside `region`.

        With `keep` the ring is there already, as after a snapshot, and is left as it is.
        """
        self._region = region
        # The views themselves: each is used several times for every buffer.
        self._u16, self._u32, self._u64 = region.u16, region.u32, region.u64
        self.base = base
        self.size = size
        self.event_idx = event_idx
        self.desc = base
        self.avail = base + size * DESC_SIZE
        self.used = (self.avail + 6 + 2 * size + 3) & ~3
        offset = base - region.base
        self._desc = offset
        self._avail = (self.avail - region.base) >> 1
        self._idx = self._avail + 1
        self._used = self.used - region.base
        self._used_idx = (self._used >> 1) + 1
        self._ring = (self._used >> 2) + 1
        self._last_used = 0
        self._notified = 0
        self.avail_idx = 0
        self.free = list(range(size - 1, -1, -1))
        if not keep:
            length = self._used + 6 + 8 * size - offset
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
        head = self.free.pop()
        offset = self._desc + head * DESC_SIZE
        u16 = self._u16
        self._u64[offset >> 3] = address
        self._u32[(offset >> 2) + 2] = length
        u16[(offset >> 1) + 6] = 0
        idx, at = self.avail_idx, self._idx
        u16[at + 1 + (idx & (self.size - 1))] = head
        self.avail_idx = u16[at] = (idx + 1) & U16
        return head

    def write_desc(self, index: int, address: int, length: int, flags: int, following: int) -> None:
        """Write descriptor `index` as given; nothing is checked, so that tests can write bad ones."""
        offset = self._desc + index * DESC_SIZE
        region = self._region
        region.u64[offset >> 3] = address
        region.u32[(offset >> 2) + 2] = length
        region.u16[(offset >> 1) + 6] = flags
        region.u16[(offset >> 1) + 7] = following

    def expose(self, head: int) -> None:
        """Put `head` on the available ring and move the index."""
        u16 = self._region.u16
        u16[self._avail + 2 + (self.avail_idx & (self.size - 1))] = head
        self.avail_idx = (self.avail_idx + 1) & U16
        u16[self._avail + 1] = self.avail_idx

    def set_avail_idx(self, value: int) -> None:
        """Write the available index outright, as a broken driver might."""
        self.avail_idx = value & U16
        self._region.u16[self._avail + 1] = self.avail_idx

    def take(self) -> tuple[int, int] | None:
        """Return (head, written bytes) of the next buffer that the device gave back, or None.

        The chain's descriptors are free again.
        """
        u16 = self._u16
        last = self._last_used
        if u16[self._used_idx] == last:
            return None
        size = self.size
        entry = self._ring + ((last & (size - 1)) << 1)
        head, length = self._u32[entry], self._u32[entry + 1]
        self._last_used = last = (last + 1) & U16
        if self.event_idx:  # used_event: interrupt me at the next one
            u16[self._avail + 2 + size] = last
        index = head
        free = self.free
        while index < size and len(free) < size:  # a damaged ring may name anything, or lead round in circles
            free.append(index)
            at = (self._desc + index * DESC_SIZE) >> 1
            if not u16[at + 6] & DESC_NEXT:
                break
            index = u16[at + 7]
        return head, length

    def should_notify(self) -> bool:
        """Return whether the device asked to be notified of what was added since the last time (2.7.10)."""
        u16 = self._region.u16
        if not self.event_idx:
            return not u16[self._used >> 1] & USED_NO_NOTIFY
        event = u16[(self._used + 4 + 8 * self.size) >> 1]
        old, self._notified = self._notified, self.avail_idx
        return (self.avail_idx - event - 1) & U16 < (self.avail_idx - old) & U16

    def state(self) -> dict[str, object]:
        """Return what the guest itself remembers of the ring (the ring is in guest memory)."""
        return {
            "last_used": self._last_used,
            "notified": self._notified,
            "avail_idx": self.avail_idx,
            "free": list(self.free),
        }

    def restore(self, state: Fields) -> None:
        """Remember again what `state` said. Raises SnapshotError naming the member that is wrong."""
        self._last_used = state.integer("last_used", 0, U16)
        self._notified = state.integer("notified", 0, U16)
        self.avail_idx = state.integer("avail_idx", 0, U16)
        self.free = state.integers("free", self.size, self.size - 1)
        state.done()
        if len(set(self.free)) != len(self.free):
            raise state.refuse("free", "names a descriptor twice")
