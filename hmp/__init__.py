"""The human monitor: a QEMU HMP emulator on the shared virtio-balloon core in ``device``."""

__version__ = "0.1.0"

QEMU_VERSION = "7.2.0"
"""The QEMU whose monitor is emulated."""
