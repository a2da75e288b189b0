"""Processors whose registers are more than User-Mode Linux has room for (Intel's AMX), and how its guests live there.

Linux 6.1 as a program saves a guest program's registers with ptrace, in a buffer of ROOM bytes. Where there are more,
putting them back fails and the guest's init dies. The way out has two parts. A seccomp filter lets the question for the
extended state fail in the kernel's process, so that it takes to the 512 bytes of x87 and SSE registers. What is above
those is then lost at each page fault, so a word on its command line, which ends in the guest's environment, keeps the
C library of the guest's programs from using it.
"""

from __future__ import annotations

import os
import struct
import subprocess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

ROOM = 2696
"""Bytes of extended state that User-Mode Linux 6.1 has room for."""

_MOST = 1 << 16

TUNABLES = "GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX2,-AVX512F,-AVX512VL,-AVX512BW,-AVX_Fast_Unaligned_Load,-AVX"
"""The word of the kernel's command line."""

NOTE = "this processor's AVX and AMX registers are kept from it: User-Mode Linux has no room for them"

GETREGSET, NT_X86_XSTATE = 0x4204, 0x202
_SEIZE, _INTERRUPT = 0x4206, 0x4207
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_SECCOMP_MODE_FILTER = 2

_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _EIO = 0x7FFF0000, 0x00050005

FILTER = (
    (_LOAD, 0, 0, 4),  # the architecture, which says what numbers mean
    (_EQUAL, 0, 7, 0xC000003E),  # x86-64
    (_LOAD, 0, 0, 0),
    (_EQUAL, 0, 5, 101),  # ptrace
    (_LOAD, 0, 0, 16),  # its request
    (_EQUAL, 0, 3, GETREGSET),
    (_LOAD, 0, 0, 32),  # which registers
    (_EQUAL, 0, 1, NT_X86_XSTATE),
    (_RETURN, 0, 0, _EIO),
    (_RETURN, 0, 0, _ALLOW),
)
"""BPF instructions as (code, jump if true, jump if false, operand); loads are of struct seccomp_data."""


def program() -> bytes:
    """Return the filter as the kernel takes it."""
    return b"".join([struct.pack("<HBBI", *instruction) for instruction in FILTER])


def state_size() -> int:
    """Return how many bytes of extended state ptrace hands out on this processor; 0 where it tells nothing.

    A shell that waits for input is stopped and asked. Raises OSError where none can be started.
    """
    try:
        import ctypes
    except ImportError:
        return 0
    ptrace = ctypes.CDLL(None).ptrace
    ptrace.restype, ptrace.argtypes = ctypes.c_long, (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    room = ctypes.create_string_buffer(_MOST)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(room), _MOST)  # struct iovec
    # A program of its own and not a fork of ours: that would run Python beside what other threads hold.
    child = subprocess.Popen(["/bin/sh", "-c", "read _"], stdin=subprocess.PIPE, start_new_session=True)
    try:
        if ptrace(_SEIZE, child.pid, None, None) or ptrace(_INTERRUPT, child.pid, None, None):
            return 0
        os.waitpid(child.pid, 0)
        if ptrace(GETREGSET, child.pid, NT_X86_XSTATE, ctypes.addressof(vector)):
            return 0
        return int(vector[1])
    finally:
        child.kill()
        child.wait()
        if child.stdin is not None:
            child.stdin.close()


def needs_help(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Whether User-Mode Linux has too little room on this processor: by ptrace's answer, else by what Linux names."""
    size = state_size()
    if size:
        return size > ROOM
    try:
        with open(cpuinfo, "rb") as file:
            return b" amx_tile" in file.read(1 << 16)
    except OSError:
        return False


def restriction() -> Callable[[], None]:
    """Return what to call in the child before it becomes the kernel: sets the filter, or ends the child with a line.

    Raises ImportError without ctypes.
    """
    import ctypes

    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = (ctypes.c_int,) + (ctypes.c_ulong,) * 4
    code = ctypes.create_string_buffer(program())

    def restrict() -> None:
        whole = (ctypes.c_size_t * 2)(len(FILTER), ctypes.addressof(code))  # struct sock_fprog
        if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(
            _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(whole), 0, 0
        ):
            why = os.strerror(ctypes.get_errno())
            os.write(2, f"this processor needs a seccomp filter, which cannot be set: {why}\n".encode())
            os._exit(1)

    return restrict
