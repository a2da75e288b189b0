"""Makes User-Mode Linux run on processors with more register state than it has room for (Intel's AMX).

User-Mode Linux 6.1 saves the registers of a guest's program with ptrace, in a buffer of ROOM bytes. If the processor
has more, restoring them fails and the guest's init dies. The way around this has two parts. A seccomp filter makes the
ptrace request for the extended state fail in the kernel's process, so that the kernel falls back to the 512 bytes of
x87 and SSE registers. All other registers are then lost at each page fault. So an option on the kernel's command line,
which becomes part of the guest's environment, tells the C library of the guest's programs not to use them.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable

ROOM = 2696
"""Bytes of extended state that User-Mode Linux 6.1 has room for. A processor with AMX has 11,008 (measured); Linux 6.13
makes its buffer as large as needed."""

_MOST = 1 << 16

# With the filter alone busybox mostly crashed in a string function of glibc, which picks the AVX versions by processor.
TUNABLES = "GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX2,-AVX512F,-AVX512VL,-AVX512BW,-AVX_Fast_Unaligned_Load,-AVX"
"""The option for the kernel's command line: UML passes unknown ones that contain a "=" to init as its environment."""

NOTE = "it runs without this processor's AVX and AMX registers: User-Mode Linux has no room for them"

GETREGSET, NT_X86_XSTATE = 0x4204, 0x202
_SEIZE, _INTERRUPT = 0x4206, 0x4207
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_SECCOMP_MODE_FILTER = 2

_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _EIO = 0x7FFF0000, 0x00050005

# Only this one request fails, with EIO; everything else is allowed. The filter needs no root.
FILTER = (
    (_LOAD, 0, 0, 4),  # the architecture: system call numbers depend on it
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
    """Return the filter in the binary form that the kernel takes."""
    return b"".join([struct.pack("<HBBI", *instruction) for instruction in FILTER])


def state_size() -> int:
    """Return how many bytes of extended state ptrace returns on this processor; 0 if it does not say.

    It stops a shell that waits for input and reads its registers. Raises OSError if no shell can be started.
    """
    try:
        import ctypes
    except ImportError:
        return 0
    ptrace = ctypes.CDLL(None).ptrace
    ptrace.restype, ptrace.argtypes = ctypes.c_long, (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    buffer = ctypes.create_string_buffer(_MOST)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), _MOST)  # struct iovec
    # A new program and not a fork of ours: a fork runs Python while other threads of the parent may hold locks.
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
    """Whether User-Mode Linux has too little room on this processor: by ptrace's answer, else by /proc/cpuinfo."""
    # ptrace first: it gives the size itself, so it is also right for processors with extensions other than AMX.
    size = state_size()
    if size:
        return size > ROOM
    try:
        with open(cpuinfo, "rb") as file:
            return b" amx_tile" in file.read(1 << 16)
    except OSError:
        return False


def restriction() -> Callable[[], None]:
    """Return a function for the child to call before exec: it sets the filter, or prints why not and exits.

    Raises ImportError without ctypes.
    """
    import ctypes

    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = (ctypes.c_int,) + (ctypes.c_ulong,) * 4
    # Made before the fork: the child should do as little in Python as possible.
    code = ctypes.create_string_buffer(program())

    def restrict() -> None:
        whole = (ctypes.c_size_t * 2)(len(FILTER), ctypes.addressof(code))  # struct sock_fprog
        # The kernel lets a process without privileges set a filter only after NO_NEW_PRIVS.
        if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(
            _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(whole), 0, 0
        ):
            why = os.strerror(ctypes.get_errno())
            os.write(2, f"this processor needs a seccomp filter, which cannot be set: {why}\n".encode())
            os._exit(1)

    return restrict
