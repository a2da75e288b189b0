"""JSON as QEMU reads and writes it, for QMP and for `qom-set -j`."""
