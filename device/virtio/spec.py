"""Numbers and names of virtio 1.2 that any device needs. Everything here is data."""

from __future__ import annotations

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
"""Balloon pages are 4 KiB whatever the page size of the guest (virtio 1.2, 5.5.6)."""

MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

MIN_RAM = 4 * MIB
MAX_RAM = 16 * TIB
"""The limits of RAM. Page numbers have 32 bits (virtio 1.2, 5.5.6), which is 16 TiB of 4 KiB pages."""

# Less than 4 MiB would serve nobody: real kernels need more, and below 1.25 MiB the hostile guest's scratch memory is
# outside of RAM (tried: its attacks then fail in hmp itself).

U16 = 0xFFFF
U32 = 0xFFFF_FFFF
U64 = 0xFFFF_FFFF_FFFF_FFFF

QUEUE_SIZE = 128
"""Entries of a queue, unless the device type says otherwise."""

MAX_QUEUE_SIZE = 1024
"""The largest ring a transport may set up (UML asks for 256); a power of two, far below the spec's 32768."""

# Device status bits (virtio 1.2, 2.1).
STATUS_ACKNOWLEDGE = 1
STATUS_DRIVER = 2
STATUS_DRIVER_OK = 4
STATUS_FEATURES_OK = 8
STATUS_NEEDS_RESET = 64
STATUS_FAILED = 128

PROBING = (0, STATUS_ACKNOWLEDGE, STATUS_ACKNOWLEDGE | STATUS_DRIVER)
STATUS_AGREED = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK
"""The status values that a driver writes: those of PROBING one after another, then it accepts features and writes
STATUS_AGREED (virtio 1.2, 3.1.1)."""

# Feature bits (virtio 1.2, 6).
F_INDIRECT_DESC = 28
F_EVENT_IDX = 29
F_VERSION_1 = 32

# Descriptor flags (virtio 1.2, 2.7.5).
DESC_NEXT = 1
DESC_WRITE = 2
DESC_INDIRECT = 4
DESC_SIZE = 16

AVAIL_NO_INTERRUPT = 1
USED_NO_NOTIFY = 1


class Feature:
    """One feature bit: its number, its name in the spec and what `info virtio-status` says of it."""

    __slots__ = ("bit", "help", "name")

    def __init__(self, bit: int, name: str, help: str) -> None:
        self.bit, self.name, self.help = bit, name, help


STATUS_TABLE: tuple[tuple[int, str], ...] = (
    (STATUS_ACKNOWLEDGE, "VIRTIO_CONFIG_S_ACKNOWLEDGE: Valid virtio device found"),
    (STATUS_FAILED, "VIRTIO_CONFIG_S_FAILED: Error in guest, device failed"),
    (STATUS_NEEDS_RESET, "VIRTIO_CONFIG_S_NEEDS_RESET: Irrecoverable error, device needs reset"),
    (STATUS_DRIVER, "VIRTIO_CONFIG_S_DRIVER: Guest OS compatible with device"),
    (STATUS_FEATURES_OK, "VIRTIO_CONFIG_S_FEATURES_OK: Feature negotiation complete"),
    (STATUS_DRIVER_OK, "VIRTIO_CONFIG_S_DRIVER_OK: Driver setup and ready"),
)
"""Status bits and what `info virtio-status` says of them, in QEMU's order."""


def bit(number: int) -> int:
    """Return the mask of feature bit `number`."""
    return 1 << number
