"""Reads page lists, and keeps the set of pages in the balloon as a bitmap that takes memory only where bits are set."""

from __future__ import annotations

import mmap

from device.balloon.spec import MAX_PFNS_PER_BUFFER
from device.errors import GuestFault, MisuseError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from device.virtio.queue import Element

_CHUNK = 1024
"""Bytes of the bitmap that `runs` reads as one number. It shifts the number for each run, so the time grows with the
square of this."""

_LARGE = 1 << 16
"""Bytes that are compared with zeros at once, to skip the empty parts of the bitmap: for 16 TiB it has 512 MiB."""


PFN_LIMIT = 1 << 14
"""Bytes of one page list that are read: 4096 pages, 16 times as many as Linux sends."""


# As one number, a list of neighbours is its first page in each place, plus 0, 1, 2 ...
_ONES, _STEPS = (
    int.from_bytes(b"".join(n.to_bytes(4, "little") for n in numbers), "little")
    for numbers in ([1] * MAX_PFNS_PER_BUFFER, range(MAX_PFNS_PER_BUFFER))
)


def full_list(first: int) -> bytes:
    """Return the page list of as many neighbours as Linux sends at once, from `first` on.

    Arithmetic on one long number takes a fifth of the time of 256 small ones, and nearly all lists are of this kind.
    """
    return (first * _ONES + _STEPS).to_bytes(4 * MAX_PFNS_PER_BUFFER, "little")


def page_runs(element: Element, limit: int, refuse: Callable[[str, str, int], None]) -> list[tuple[int, int]]:
    """Return the page numbers below `limit` in a page list as (first, length) runs of neighbours; `refuse` the others.

    Raises GuestFault for a list that is writable.
    """
    # A bad page number is left out and the other pages of the list count. So the fault is not raised.
    size = element.readable()
    if element.into:
        raise GuestFault("direction", "a page list must be readable only")
    if size > PFN_LIMIT:
        # The pages that are read still count: a driver with long lists is odd, but its pages are in the balloon.
        refuse("huge-buffer", f"a page list of {size} bytes", 1)
    data = element.read(PFN_LIMIT)
    if len(data) % 4:
        refuse("ragged-pfns", f"a page list of {len(data)} bytes", 1)
        data = data[: len(data) & ~3]
    first = int.from_bytes(data[:4], "little")
    if len(data) == 4 * MAX_PFNS_PER_BUFFER and first + MAX_PFNS_PER_BUFFER <= limit and data == full_list(first):
        return [(first, MAX_PFNS_PER_BUFFER)]
    pfns: list[int] = memoryview(data).cast("I").tolist()
    count = len(pfns)
    if not count:
        return []
    # Drivers may list pages in any order (Linux: as they were allocated). Duplicates stay, and are counted by the
    # caller.
    pfns.sort()
    last = pfns[-1]
    while pfns and pfns[-1] >= limit:
        pfns.pop()
    if last >= limit:
        refuse("bad-pfn", f"pages up to {last:#x} of {limit:#x}", count - len(pfns))
    runs: list[tuple[int, int]] = []
    start = length = 0
    for pfn in pfns:
        if length and pfn == start + length:
            length += 1
        else:
            if length:
                runs.append((start, length))
            start, length = pfn, 1
    if length:
        runs.append((start, length))
    return runs


class PageSet:
    """A set of page numbers below `limit`, with operations on runs of neighbours.

    It is a bitmap that is mapped but takes memory only where it is used: at most 1/32768 of the guest's RAM, however a
    guest scatters its pages.
    """

    # A set of ints or a list of runs would be smaller for most guests, but a hostile guest could make either of them
    # huge.

    __slots__ = ("_bits", "_high", "_low", "count", "limit")

    def __init__(self, limit: int) -> None:
        """Make an empty set. Raises MisuseError if the host cannot map it."""
        self.limit = limit
        self._reset()

    def _reset(self) -> None:
        # mmap() refuses a length of 0, which RAM of less than a page would give.
        size = max(1, (self.limit + 7) // 8)
        try:
            self._bits = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise MisuseError(
                f"cannot map {size} bytes for the balloon's pages: {error} (a smaller -m may do)"
            ) from None
        self.count = 0
        self._low, self._high = size, 0  # only bytes from _low up to _high may hold set bits

    def add(self, first: int, length: int) -> int:
        """Put pages [first, first+length) in; return how many were new. The range must be below `limit`."""
        start, stop, mask = _span(first, length)
        bits = int.from_bytes(self._bits[start:stop], "little")
        new = length - (bits & mask).bit_count()
        if new:
            self._bits[start:stop] = (bits | mask).to_bytes(stop - start, "little")
            self.count += new
            if start < self._low:
                self._low = start
            if stop > self._high:
                self._high = stop
        return new

    def remove(self, first: int, length: int) -> int:
        """Take pages [first, first+length) out; return how many were in. The range must be below `limit`."""
        start, stop, mask = _span(first, length)
        bits = int.from_bytes(self._bits[start:stop], "little")
        old = (bits & mask).bit_count()
        if old:
            self._bits[start:stop] = (bits & ~mask).to_bytes(stop - start, "little")
            self.count -= old
            if not self.count:  # gives the bitmap's memory back, and makes `runs` quick
                self.clear()
        return old

    def __contains__(self, page: int) -> bool:
        return 0 <= page < self.limit and bool(self._bits[page >> 3] >> (page & 7) & 1)

    def clear(self) -> None:
        """Take every page out, and give the bitmap's memory back."""
        # A new mapping: clearing the old one would touch all of it, and keep its memory.
        if self._high:
            self._bits.close()
            self._reset()

    def _chunks(self) -> Iterator[int]:
        """Yield the offset of each chunk with set bits. Empty parts are skipped in large pieces."""
        zeros = bytes(_LARGE)
        for start in range(self._low, self._high, _LARGE):
            piece = self._bits[start : min(start + _LARGE, self._high)]
            if piece != zeros[: len(piece)]:
                for offset in range(0, len(piece), _CHUNK):
                    if piece[offset : offset + _CHUNK].strip(b"\0"):
                        yield start + offset

    def runs(self) -> list[tuple[int, int]]:
        """Return the pages as sorted (first, length) runs."""
        found: list[tuple[int, int]] = []
        for base in self._chunks():
            chunk = self._bits[base : min(base + _CHUNK, self._high)]
            bits = int.from_bytes(chunk, "little")
            page = base * 8
            while bits:
                # The lowest set bit ends the gap; adding 1 to the rest carries through the run to its end.
                gap = (bits & -bits).bit_length() - 1
                bits >>= gap
                page += gap
                length = (~bits & (bits + 1)).bit_length() - 1
                bits >>= length
                if found and found[-1][0] + found[-1][1] == page:
                    found[-1] = (found[-1][0], found[-1][1] + length)
                else:
                    found.append((page, length))
                page += length
        return found


def _span(first: int, length: int) -> tuple[int, int, int]:
    """Return the bytes [start, stop) that hold the bits of a run, and the run's mask in them."""
    return first >> 3, (first + length + 7) >> 3, ((1 << length) - 1) << (first & 7)
