"""Guest RAM: bounds-checked access, and pages given back to the host."""

from __future__ import annotations

import mmap
import os
import sys

from device.errors import GuestFault, MisuseError
from device.virtio.spec import MAX_RAM, MIN_RAM, PAGE_SIZE

_LINUX = sys.platform == "linux"
_MAP_NORESERVE = 0x4000 if _LINUX else 0
"""Linux's flag; the mmap module names it only from Python 3.13 on, and the number means other things elsewhere."""

_LARGEST_SEARCH = 1 << 30
"""The most bytes that are read to find the pages in use, on hosts that cannot list them. That takes about a second."""

_PIECE = 1 << 20

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

if sys.byteorder != "little":  # pragma: no cover - no such machine in CI
    raise ImportError("device: the rings are read as native words and virtio is little-endian; this host is not")


class Region:
    """A run of guest memory mapped here: `base` is its guest address, `size` its bytes.

    The views address it in bytes and in aligned 16, 32 and 64 bit words; a store through one is a single store, which
    is what the ring indices need (virtio 1.2, 2.7.13.1).
    """

    __slots__ = ("base", "buffer", "size", "u8", "u16", "u32", "u64")

    def __init__(self, base: int, size: int, buffer: mmap.mmap) -> None:
        self.base, self.size, self.buffer = base, size, buffer
        self.u8 = memoryview(buffer)
        self.u16 = self.u8.cast("H")
        self.u32 = self.u8.cast("I")
        self.u64 = self.u8.cast("Q")

    def close(self) -> None:
        """Unmap. The region's views cannot be used afterwards; a slice in use elsewhere keeps the memory mapped."""
        for view in (self.u16, self.u32, self.u64, self.u8):
            view.release()
        try:
            self.buffer.close()
        except BufferError:  # a slice is still in use: the mapping is removed with the slice
            pass


class Memory:
    """Guest-physical memory made of regions. Every address a guest names goes through `find`."""

    __slots__ = ("regions",)
    # Not MADV_DONTNEED: the pages of a shared mapping would come back from its file with their content.
    _advice = "MADV_REMOVE"

    def __init__(self, regions: list[Region]) -> None:
        self.regions = regions

    @property
    def lost(self) -> bool:
        """Whether this host lost some of the memory: bad values that are read there are not the guest's fault."""
        return False

    def find(self, address: int, length: int) -> tuple[Region, int]:
        """Return the region that holds `length` bytes at guest `address`, and the offset in it.

        Raises GuestFault if the range is not wholly inside one region (so it cannot wrap 2^64 either).
        """
        for region in self.regions:
            offset = address - region.base
            if offset >= 0 and offset + length <= region.size:
                return region, offset
        raise GuestFault("bad-address", f"{length} bytes at {address:#x}")

    def read(self, address: int, length: int) -> bytes:
        """Return `length` bytes at guest `address`; raises GuestFault out of bounds."""
        region, offset = self.find(address, length)
        return region.buffer[offset : offset + length]

    def write(self, address: int, data: bytes) -> None:
        """Store `data` at guest `address`; raises GuestFault out of bounds."""
        region, offset = self.find(address, len(data))
        region.buffer[offset : offset + len(data)] = data

    def discard(self, address: int, length: int) -> bool:
        """Give the pages of a range back to the host: they read as zeros afterwards.

        `address` and `length` in bytes, multiples of the page size. Returns whether the host took them: a backing
        that cannot punch holes keeps its pages, which is no fault of the guest. Raises GuestFault out of bounds.
        """
        region, offset = self.find(address, length)
        try:
            region.buffer.madvise(getattr(mmap, self._advice), offset, length)
        except (AttributeError, OSError):  # other systems than Linux have no such advice, some not even madvise
            return False
        return True

    def close(self) -> None:
        """Unmap everything."""
        for region in self.regions:
            region.close()
        self.regions = []


def check_ram_size(size: int) -> int:
    """Return `size` (bytes) if a machine can have that much RAM, else raise MisuseError."""
    if not MIN_RAM <= size <= MAX_RAM:
        raise MisuseError(f"guest memory must be between 4M and 16T, not {size} bytes")
    if size % PAGE_SIZE:
        raise MisuseError(f"guest memory must be a multiple of {PAGE_SIZE} bytes, not {size}")
    return size


class GuestMemory(Memory):
    """RAM of `size` bytes from guest address 0. A page takes memory of the host when it is first used, if possible.

    It is a shared memfd. Where there is none (seccomp filters, other systems than Linux) it is an anonymous private
    mapping and `fd` is -1. A temporary file was rejected: touching it on a full file system is a SIGBUS.
    """

    __slots__ = ("_advice", "fd", "size")

    def __init__(self, size: int) -> None:
        """Map the memory. Raises MisuseError for an impossible size or where the host refuses the mapping."""
        self.size = check_ram_size(size)
        self._advice = "MADV_REMOVE"
        self.fd = -1
        try:
            try:
                self.fd = os.memfd_create("guest-ram", os.MFD_CLOEXEC)
                os.ftruncate(self.fd, size)  # refused beyond RLIMIT_FSIZE
                buffer = mmap.mmap(self.fd, size, flags=mmap.MAP_SHARED | _MAP_NORESERVE)
            except (AttributeError, OSError):
                self._close_file()
                self._advice = "MADV_DONTNEED" if _LINUX else "none"  # on other systems it may keep the content
                buffer = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        except (OSError, ValueError, OverflowError) as error:
            self._close_file()
            raise MisuseError(f"cannot map {size} bytes of guest memory: {error} (a smaller -m may do)") from None
        super().__init__([Region(0, size, buffer)])

    def find(self, address: int, length: int) -> tuple[Region, int]:
        """As Memory.find; there is just one region, at 0."""
        if address >= 0 and address + length <= self.size:
            return self.regions[0], address
        raise GuestFault("bad-address", f"{length} bytes at {address:#x}")

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yield the runs of RAM that may hold something, as (first address, end address), in rising order.

        Raises MisuseError if the host cannot list them and reading all of the RAM would take too long.
        """
        if self.fd < 0:
            if self.size > _LARGEST_SEARCH:
                raise MisuseError("this host cannot list the memory in use (no memfd), so it saves at most 1G (-m)")
            zeros = bytes(_PIECE)
            for at in range(0, self.size, _PIECE):
                end = min(at + _PIECE, self.size)
                if self.regions[0].buffer[at:end] != zeros[: end - at]:
                    yield at, end
            return
        end = 0
        while end < self.size:
            try:
                start = os.lseek(self.fd, end, os.SEEK_DATA)
            except OSError:  # no data from here on
                return
            end = os.lseek(self.fd, start, os.SEEK_HOLE)
            yield start, end

    def populated(self) -> int:
        """Return how many bytes of the RAM are backed by memory of the host now, as far as the host can say."""
        if self.fd < 0:
            return sum(end - start for start, end in self.runs())
        return os.fstat(self.fd).st_blocks * 512

    def _close_file(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def close(self) -> None:
        """Unmap and give the descriptor back."""
        super().close()
        self._close_file()
