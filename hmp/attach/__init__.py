"""The monitor of a running virtual machine: QEMU's QMP, or libvirt, in place of the simulated machine."""
