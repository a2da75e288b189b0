"""The options of QEMU 7.2, by whether a value follows. What hmp makes of some of them is in hmp.qemu.command_line."""

from __future__ import annotations

from device.balloon.spec import MODELS

TYPE_CHECKING = False
if TYPE_CHECKING:
    import click

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

_ACTS = (
    "S action chardev daemonize device h help m mon monitor name no-reboot no-shutdown nodefaults nographic pidfile "
    "qmp qmp-pretty serial uuid version"
)
ACTS = frozenset(_ACTS.split())
"""The options that mean something to hmp-qemu; it ignores the others."""

_PC = "pc pc-i440fx-7.2 q35"
OFFERS = {"M": _PC, "machine": _PC, "action": "reboot= shutdown= panic= watchdog=", "device": " ".join(MODELS),
          "chardev": "socket stdio file pty null"}  # fmt: skip
"""What a shell offers as the value of an option."""

FILES = "D bios cdrom hda hdb hdc hdd initrd kernel mem-path pidfile readconfig".split()  # noqa: SIM905
"""The options whose value is a file's name."""


def command() -> click.Command:
    """Return QEMU's options as a click command, for completion in a shell only: click could not read them."""
    import click

    from hmp.command_line import value

    made: list[click.Parameter] = [click.Argument(["disk"], nargs=-1, type=click.Path())]
    # Numbered, because click's own names for -d and -D are the same.
    for number, name in enumerate(sorted(WITH_VALUE | WITHOUT)):
        flags, help = [f"-{name}", f"option{number}"], "as in QEMU" if name in ACTS else "ignored"
        if name in WITHOUT:
            made.append(click.Option(flags, is_flag=True, help=help))
        else:
            files, offers = "file" if name in FILES else "", dict.fromkeys(OFFERS.get(name, "").split(), "")
            made.append(value(flags, "VALUE", str, help, offers=offers, files=files, multiple=True))
    return click.Command("hmp-qemu", params=made, add_help_option=False)
