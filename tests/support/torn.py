"""A file that cannot be read to its end, as on a disk that fails."""

from __future__ import annotations

import ctypes
import mmap
import os

_KEEP: list[mmap.mmap] = []


def torn(data: bytes) -> int:
    """Return a descriptor that gives `data` and then EIO: our own memory, where the last page ends.

    At most a page of data.
    """
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 2 * page)
    memory[page - len(data) : page] = data
    memory.resize(page)  # in place: after the page there is no memory now
    _KEEP.append(memory)
    descriptor = os.open("/proc/self/mem", os.O_RDONLY)
    os.lseek(descriptor, ctypes.addressof(ctypes.c_char.from_buffer(memory)) + page - len(data), os.SEEK_SET)
    return descriptor
