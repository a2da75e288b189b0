"""The human monitor: an emulator of QEMU's HMP, on the virtio-balloon core in ``device``."""

__version__ = "0.1.0"

QEMU_VERSION = "7.2.0"
"""The QEMU whose monitor is emulated."""

OK, FAILED, USAGE, STALE, UNCONNECTED, HUNG_UP, INTERRUPTED, BROKEN_PIPE, TERMINATED = 0, 1, 2, 3, 4, 129, 130, 141, 143
"""Exit statuses; those from 129 on are 128 plus the number of a signal."""
