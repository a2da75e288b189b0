"""Survives a front end that shortens the file of its memory while we use it, and a file system that is full.

Linux sends SIGBUS to a process that uses a mapped page beyond the end of its file. A check before the access does not
help, because the front end can shorten the file at any moment. SIGBUS also comes for the first use of a page if the
file system has no room for it. So a handler maps zeroed memory in place of the region, reports the loss, and returns,
which repeats the access. The connection is cut off when it is served next (`Port.check_memory`).

The handler runs in the thread that used the page, while it copies bytes. That thread holds the interpreter's lock and
no other, so Python may run there. Without ctypes there is no guard, and such a front end ends hmp.
"""

from __future__ import annotations

import mmap
import signal
from collections.abc import Callable
from typing import Any

_SA_SIGINFO = 4
_MAP_FIXED = 0x10
_ADDRESS = 16
"""The offset in siginfo_t of the address that was used, on 64-bit Linux."""

# Python's signal module cannot do this: its handlers run only after the interrupted C function returns, and that
# function would get the same SIGBUS again and again.


class _Guard:
    """The handler of the process. It is installed while at least one region is guarded."""

    def __init__(self) -> None:
        self._ranges: dict[int, tuple[int, Callable[[], object]]] = {}
        self._lost: set[int] = set()
        self._before: Any = None

    def _prepare(self) -> bool:
        if hasattr(self, "_action"):
            return True
        try:
            import ctypes
        except ImportError:
            return False

        class Action(ctypes.Structure):
            """struct sigaction of the C library."""

            _fields_ = (
                ("handler", ctypes.c_void_p),
                ("mask", ctypes.c_char * 128),
                ("flags", ctypes.c_int),
                ("restorer", ctypes.c_void_p),
            )

        library = ctypes.CDLL(None, use_errno=True)
        self._mmap: Callable[..., int | None] = library.mmap
        library.mmap.restype = ctypes.c_void_p
        library.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t) + (ctypes.c_int,) * 3 + (ctypes.c_long,)
        self._sigaction: Callable[..., int] = library.sigaction
        self._ctypes, self._action = ctypes, Action
        # Never freed: the kernel may still hold its address.
        self._callback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(self._on_sigbus)
        return True

    def add(self, buffer: mmap.mmap, size: int, on_lost: Callable[[], object]) -> int:
        """Guard a mapping of `size` bytes; returns its address, or 0 if there is no guard.

        `on_lost` is called when the mapping is lost, in the middle of the access to it.
        """
        if not self._prepare():
            return 0
        address: int = self._ctypes.addressof(self._ctypes.c_char.from_buffer(buffer))
        self._ranges[address] = size, on_lost
        if self._before is None:
            self._before = self._action()
            ours = self._action(self._ctypes.cast(self._callback, self._ctypes.c_void_p).value, b"", _SA_SIGINFO, None)
            self._sigaction(signal.SIGBUS, self._ctypes.byref(ours), self._ctypes.byref(self._before))
        return address

    def remove(self, address: int) -> None:
        """Stop guarding a mapping: call this before it is unmapped."""
        self._lost.discard(address)
        if self._ranges.pop(address, None) is not None and not self._ranges:
            self._restore()

    def lost(self, address: int) -> bool:
        """Whether the guarded mapping at `address` was replaced by zeros."""
        return address in self._lost

    def _restore(self) -> None:
        if self._before is not None:
            self._sigaction(signal.SIGBUS, self._ctypes.byref(self._before), None)
            self._before = None

    def _on_sigbus(self, number: int, info: int, context: int) -> None:
        # The whole region is replaced, not the page: more pages may be missing, and the connection is cut off anyway.
        # 0x4000 is MAP_NORESERVE: Linux reserves no memory for the zeros.
        at = self._ctypes.c_void_p.from_address(info + _ADDRESS).value or 0
        for address, (size, on_lost) in self._ranges.items():
            if address <= at < address + size:
                protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
                if self._mmap(address, size, protection, flags | 0x4000, -1, 0) == address:
                    self._lost.add(address)
                    on_lost()
                    return
        self._restore()  # not our memory: the access happens again, and the previous handler gets the signal


_GUARD = _Guard()
guard = _GUARD.add
lost = _GUARD.lost
release = _GUARD.remove
