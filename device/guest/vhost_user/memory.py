"""The memory that a vhost-user front end shares with us: checks its table and maps it as a Memory of Regions."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Callable

from device.guest.vhost_user.sigbus import guard, lost, release
from device.guest.vhost_user.wire import MAX_REGIONS, PAIR, REGION, FrontEndFault, HostFault
from device.virtio.memory import Memory, Region
from device.virtio.spec import MAX_RAM, PAGE_SIZE

_SLOW_FILE_SYSTEMS = ("fuse", "9p", "nfs", "cifs", "smb", "ceph", "afs", "virtiofs", "autofs")
"""File systems on which reading a mapped page may wait for a server, and so could stop the monitor."""


class SharedRegion(Region):
    """A region. `user` is its address in the front end; `fd` is the file behind it, which `close` closes."""

    def __init__(
        self, base: int, size: int, buffer: mmap.mmap, user: int, fd: int, end: int, on_lost: Callable[[], object]
    ) -> None:
        super().__init__(base, size, buffer)
        self.user = user
        self.fd = fd
        self.end = end
        """The least size of the file, in bytes, for which every page of the region exists."""
        self._guarded = guard(buffer, size, on_lost)

    @property
    def lost(self) -> bool:
        """Whether a page of it was not available, so that the region was replaced by zeros."""
        return lost(self._guarded)

    def close(self) -> None:
        """Unmap, and close the file."""
        # The guard first, because another mapping may get the address as soon as this one is gone.
        if self._guarded:
            release(self._guarded)
            self._guarded = 0
        super().close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class SharedMemory(Memory):
    """A front end's memory table."""

    def __init__(self, regions: list[SharedRegion]) -> None:
        super().__init__(list(regions))
        self._shared = regions

    @property
    def lost(self) -> bool:
        """Whether a page was not available (sigbus.py): the file was cut short, or its file system is full."""
        return any(region.lost for region in self._shared)

    @property
    def top(self) -> int:
        """The guest address after the last byte."""
        return max(region.base + region.size for region in self.regions)

    def guest_address(self, user: int) -> int:
        """Return the guest address of a user address. Raises FrontEndFault if it is in no region."""
        # The protocol gives ring addresses as addresses in the front end's own process.
        for region in self._shared:
            if region.user <= user < region.user + region.size:
                return user - region.user + region.base
        raise FrontEndFault(f"ring address {user:#x} is in no region of the memory table")

    def discard(self, address: int, length: int) -> bool:
        """As Memory.discard, for a range that may span regions. Parts outside of all regions are ignored."""
        given = False
        end = address + length
        for region in self.regions:
            first = max(address, region.base)
            last = min(end, region.base + region.size)
            if first < last:
                given |= super().discard(first, last - first)
        return given

    def shrunk(self) -> bool:
        """Whether a file became shorter than its region: using the missing pages is a SIGBUS (sigbus.py)."""
        return any(os.fstat(region.fd).st_size < region.end for region in self._shared)

    def populated(self) -> int:
        """Return how many bytes of the host's memory the files take now."""
        # By file: several regions may be parts of one. stat(2) counts in units of 512 bytes.
        statuses = [os.fstat(region.fd) for region in self._shared]
        files = {(status.st_dev, status.st_ino): status.st_blocks for status in statuses}
        return sum(files.values()) * 512


def map_table(payload: bytes, fds: list[int], on_lost: Callable[[], object] = int) -> SharedMemory:
    """Map the regions of a SET_MEM_TABLE message; takes over all descriptors in `fds`.

    `on_lost` is called when a region is lost. Bytes after the last region are ignored. Raises FrontEndFault for a table
    that contradicts itself or its files; then nothing is mapped, and `fds` is as it was.
    """
    count, _ = PAIR.unpack_from(payload)
    if not 0 < count <= MAX_REGIONS:
        raise FrontEndFault(f"a memory table of {count} regions")
    if count != len(fds):
        raise FrontEndFault(f"a memory table of {count} regions with {len(fds)} descriptors")
    if len(payload) < PAIR.size + count * REGION.size:
        raise FrontEndFault(f"a memory table of {count} regions in {len(payload)} bytes")
    rows = [REGION.unpack_from(payload, PAIR.size + number * REGION.size) for number in range(count)]
    for base, size, user, offset in rows:
        _check_row(base, size, user, offset)
    # Each pair is compared, as there are at most eight regions.
    for number, (base, size, user, _) in enumerate(rows):
        for other, other_size, other_user, _ in rows[:number]:
            if base < other + other_size and other < base + size:
                raise FrontEndFault(f"regions at {base:#x} and {other:#x} overlap")
            if user < other_user + other_size and other_user < user + size:
                raise FrontEndFault(f"regions at user addresses {user:#x} and {other_user:#x} overlap")
    for fd, (_, size, _, offset) in zip(fds, rows, strict=True):
        _check_file(fd, offset + size)
    mapped: list[SharedRegion] = []
    size = 0
    try:
        for fd, (base, size, user, offset) in zip(fds, rows, strict=True):
            buffer = mmap.mmap(fd, size, flags=mmap.MAP_SHARED, offset=offset)
            mapped.append(SharedRegion(base, size, buffer, user, fd, offset + size, on_lost))
    except (OSError, ValueError, OverflowError) as error:
        for region in mapped:
            region.fd = -1  # the caller closes it
            region.close()
        limit = isinstance(error, OSError) and error.errno == errno.ENOMEM  # of this process: ulimit -v
        raise (HostFault if limit else FrontEndFault)(
            f"{size} bytes of guest memory cannot be mapped: {error}"
        ) from None
    fds.clear()
    return SharedMemory(mapped)


def _check_row(base: int, size: int, user: int, offset: int) -> None:
    # Whole pages, because mmap() takes no other offsets.
    if not size or (base | size | offset) % PAGE_SIZE:
        raise FrontEndFault(f"a region of {size:#x} bytes at {base:#x}, file offset {offset:#x}")
    if base + size > MAX_RAM or user + size > 1 << 64 or offset + size > 1 << 62:
        raise FrontEndFault(f"a region of {size:#x} bytes at {base:#x}, user address {user:#x}, offset {offset:#x}")


def _check_file(fd: int, end: int) -> None:
    # Regular files only: fstat() gives the size of no others, and the check below needs it.
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise FrontEndFault("a memory region that is not a file")
    if status.st_size < end:
        raise FrontEndFault(f"a memory region up to {end:#x} of a file of {status.st_size:#x} bytes")
    kind = _file_system(status.st_dev)
    if kind.startswith(_SLOW_FILE_SYSTEMS):
        raise FrontEndFault(f"a memory region on {kind}")


def _file_system(device: int) -> str:
    """Return the type of the file system with that device number; "" if not known: that of a memfd is not mounted."""
    # statfs(2) would say it, but Python's os.statvfs leaves the type out.
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as table:
            for line in table:
                fields = line.split()
                if fields[2] == wanted:
                    return fields[fields.index("-") + 1]
    except (OSError, ValueError, IndexError):
        pass
    return ""
