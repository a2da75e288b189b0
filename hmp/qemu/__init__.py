"""QEMU's own command line, for programs that start QEMU: `hmp-qemu`, and hmp under a name such as
qemu-system-x86_64."""
