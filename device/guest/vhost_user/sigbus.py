"""Survive a front end that cuts the file behind its memory short while we look at it, and a file system that is full.

The kernel answers a touch of a mapped page whose file has ended with SIGBUS, and no check beforehand can be in time:
the other side may cut the file at any moment. The same comes of a page that was never touched where its file system has
no room for it. So a handler puts zeroed memory of our own in place of the region, lets the touch happen again and
tells; the connection is cut off as soon as it is served (`Port.check_memory`).

The handler is called by the thread that touched the page, in the middle of copying bytes, holding the interpreter's
lock and no other: Python may run there. Where ctypes is missing there is no guard, and such a front end ends hmp.
"""

from __future__ import annotations

import mmap
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_SA_SIGINFO = 4
_MAP_FIXED = 0x10
_ADDRESS = 16
"""Where siginfo_t has the address that was touched, on 64-bit Linux."""


class _Guard:
    """The process-wide handler: there while some region is guarded."""

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
        # Kept for ever: the kernel may hold its address.
        self._callback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(self._touched)
        return True

    def add(self, buffer: mmap.mmap, size: int, told: Callable[[], object]) -> int:
        """Guard a mapping of `size` bytes; returns its address, 0 where there is no guard.

        `told` is called when it is lost, in the middle of whatever touched it.
        """
        if not self._prepare():
            return 0
        address: int = self._ctypes.addressof(self._ctypes.c_char.from_buffer(buffer))
        self._ranges[address] = size, told
        if self._before is None:
            self._before = self._action()
            ours = self._action(self._ctypes.cast(self._callback, self._ctypes.c_void_p).value, b"", _SA_SIGINFO, None)
            self._sigaction(signal.SIGBUS, self._ctypes.byref(ours), self._ctypes.byref(self._before))
        return address

    def remove(self, address: int) -> None:
        """Guard a mapping no more: call before it is unmapped."""
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

    def _touched(self, number: int, info: int, context: int) -> None:
        at = self._ctypes.c_void_p.from_address(info + _ADDRESS).value or 0
        for address, (size, told) in self._ranges.items():
            if address <= at < address + size:
                protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
                if self._mmap(address, size, protection, flags | 0x4000, -1, 0) == address:
                    self._lost.add(address)
                    told()
                    return
        self._restore()  # not ours: the touch happens again, and whoever had the signal before us gets it


_GUARD = _Guard()
guard = _GUARD.add
lost = _GUARD.lost
release = _GUARD.remove
