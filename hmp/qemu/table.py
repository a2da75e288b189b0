"""The options of QEMU 7.2, by whether a value follows. What hmp makes of some of them is in hmp.qemu.command_line."""

from __future__ import annotations

_WITH_VALUE_NAMES = (
    "D L accel acpitable action add-fd append audio audiodev bios blockdev boot cdrom chardev chroot compat cpu d "
    "debugcon device dfilter display drive dtb dump-vmstate echr fda fdb fsdev fw_cfg g gdb global hda hdb hdc "
    "hdd icount incoming initrd iscsi k kernel loadvm m machine M mem-path mon monitor msg mtdblock name net "
    "netdev nic numa object option-rom overcommit parallel pflash pidfile plugin prom-env qmp qmp-pretty "
    "readconfig rotate rtc runas sandbox sd seed semihosting-config serial set smbios smp spice tpmdev trace "
    "usbdevice uuid vga virtfs vnc watchdog-action xen-domid"
)
WITH_VALUE = frozenset(_WITH_VALUE_NAMES.split())
_WITHOUT_NAMES = (
    "S async-teardown audio-help daemonize enable-kvm enable-sync-profile full-screen h help mem-prealloc no-acpi "
    "no-fd-bootchk no-hpet no-reboot no-shutdown no-user-config nodefaults nographic old-param only-migratable "
    "portrait preconfig s semihosting singlestep snapshot usb version win2k-hack xen-attach xen-domid-restrict"
)
WITHOUT = frozenset(_WITHOUT_NAMES.split())

OURS = {
    "qmp": "--qmp ADDR",
    "monitor": "--monitor ADDR",
    "chardev": "--qmp ADDR or --monitor ADDR",
    "mon": "--qmp ADDR or --monitor ADDR",
    "device": "--device SPEC",
    "name": "--name TEXT",
    "uuid": "--uuid UUID",
    "seed": "--seed N",
    "help": "--help",
    "version": "--version",
}
"""What hmp calls these of QEMU's options; the others it does not have."""
