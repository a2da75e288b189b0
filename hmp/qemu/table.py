"""The options of QEMU 7.2, with and without a value. hmp.qemu.command_line handles those that have a meaning here."""

from __future__ import annotations

import click

from device.balloon.spec import MODELS
from hmp.command_line import value

# All of QEMU's options are listed, because an unknown one may or may not take the next word as its value.
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
"""hmp's names for QEMU's options. It has none for the others."""

_ACTS = (
    "S action chardev daemonize debugcon device h help m mon monitor name no-reboot no-shutdown nodefaults nographic "
    "parallel pidfile qmp qmp-pretty serial uuid version watchdog-action"
)
ACTS = frozenset(_ACTS.split())
"""The options that have an effect in hmp-qemu; it ignores the others."""

_PC = "pc pc-i440fx-7.2 q35"
OFFERS = {"M": _PC, "machine": _PC, "action": "reboot= shutdown= panic= watchdog=", "device": " ".join(MODELS),
          "chardev": "socket stdio file pty null"}  # fmt: skip
"""The values of an option that a shell offers."""

FILES = "D bios cdrom hda hdb hdc hdd initrd kernel mem-path pidfile readconfig".split()  # noqa: SIM905
"""The options whose value is a file name."""


def command() -> click.Command:
    """Return QEMU's options as a click command.

    It is only for completion in a shell: click cannot read such options.
    """
    made: list[click.Parameter] = [click.Argument(["disk"], nargs=-1, type=click.Path())]
    # Each gets a number as its name, because click would name -d and -D the same.
    for number, name in enumerate(sorted(WITH_VALUE | WITHOUT)):
        flags, help = [f"-{name}", f"option{number}"], "as in QEMU" if name in ACTS else "ignored"
        if name in WITHOUT:
            made.append(click.Option(flags, is_flag=True, help=help))
        else:
            files, offers = "file" if name in FILES else "", dict.fromkeys(OFFERS.get(name, "").split(), "")
            made.append(value(flags, "VALUE", str, help, offers=offers, files=files, multiple=True))
    return click.Command("hmp-qemu", params=made, add_help_option=False)


# A mistyped model has to be an error, as with QEMU, although hmp has none of these devices.
_DEVICE_NAMES = (
    "AC97 AMDVI-PCI ES1370 VGA ac97 acpi-erst adlib ahci am53c974 amd-iommu ati-vga bochs-display "
    "ccid-card-emulated ccid-card-passthru cirrus-vga cs4231a ctucan_pci cxl-downstream cxl-rp cxl-type3 "
    "cxl-upstream dc390 e1000 e1000-82540em e1000-82544gc e1000-82545em e1000e edu es1370 floppy guest-loader gus "
    "hda-duplex hda-micro hda-output hv-syndbg hyperv-testdev i2c-ddc i6300esb i8042 i82550 i82551 i82557a i82557b "
    "i82557c i82558a i82558b i82559a i82559b i82559c i82559er i82562 i82801 i82801b11-bridge ib700 ich9-ahci "
    "ich9-intel-hda ich9-usb-ehci1 ich9-usb-ehci2 ich9-usb-uhci1 ich9-usb-uhci2 ich9-usb-uhci3 ich9-usb-uhci4 "
    "ich9-usb-uhci5 ich9-usb-uhci6 ide-cd ide-hd intel-hda intel-iommu ioh3420 ipmi-bmc-extern ipmi-bmc-sim "
    "ipoctal232 isa-applesmc isa-cirrus-vga isa-debug-exit isa-debugcon isa-fdc isa-ide isa-ipmi-bt isa-ipmi-kcs "
    "isa-parallel isa-serial isa-vga ivshmem-doorbell ivshmem-plain kvaser_pci loader lsi lsi53c810 lsi53c895a "
    "mc146818rtc megasas megasas-gen2 mioe3680_pci mptsas1068 ne2k_isa ne2k_pci nec-usb-xhci nvdimm nvme nvme-ns "
    "nvme-subsys pc-dimm pc-testdev pci-bridge pci-bridge-seat pci-ipmi-bt pci-ipmi-kcs pci-ohci pci-serial "
    "pci-serial-2x pci-serial-4x pci-testdev pcie-pci-bridge pcie-root-port pcm3680_pci pcnet piix3-ide "
    "piix3-usb-uhci piix4-ide piix4-usb-uhci pvpanic pvpanic-pci pvrdma pvscsi pxb pxb-cxl pxb-pcie qemu-xhci qxl "
    "qxl-vga ramfb rocker rtl8139 sb16 scsi-block scsi-cd scsi-generic scsi-hd sd-card sdhci-pci secondary-vga sga "
    "smbus-ipmi tpci200 tpm-crb tpm-tis tulip u2f-passthru usb-audio usb-bot usb-braille usb-ccid usb-ehci usb-host "
    "usb-hub usb-kbd usb-mouse usb-mtp usb-net usb-redir usb-serial usb-storage usb-tablet usb-uas usb-wacom-tablet "
    "vfio-pci vfio-pci-igd-lpc-bridge vfio-pci-nohotplug vhost-scsi vhost-scsi-pci vhost-user-blk "
    "vhost-user-blk-pci vhost-user-fs-device vhost-user-fs-pci vhost-user-gpio-device vhost-user-gpio-pci "
    "vhost-user-gpu vhost-user-gpu-pci vhost-user-i2c-device vhost-user-i2c-pci vhost-user-input "
    "vhost-user-input-pci vhost-user-rng vhost-user-rng-pci vhost-user-scsi vhost-user-scsi-pci vhost-user-vga "
    "vhost-user-vsock-device vhost-user-vsock-pci vhost-vsock-device vhost-vsock-pci virtconsole virtio-9p "
    "virtio-9p-device virtio-9p-pci virtio-blk virtio-blk-device virtio-blk-pci virtio-crypto-device "
    "virtio-crypto-pci virtio-gpu virtio-gpu-device virtio-gpu-gl virtio-gpu-gl-pci virtio-gpu-pci "
    "virtio-input-host virtio-input-host-device virtio-input-host-pci virtio-iommu virtio-iommu-device "
    "virtio-iommu-pci virtio-keyboard virtio-keyboard-device virtio-keyboard-pci virtio-mem virtio-mem-pci "
    "virtio-mouse virtio-mouse-device virtio-mouse-pci virtio-net virtio-net-device virtio-net-pci virtio-pmem "
    "virtio-pmem-pci virtio-rng virtio-rng-device virtio-rng-pci virtio-scsi virtio-scsi-device virtio-scsi-pci "
    "virtio-serial virtio-serial-device virtio-serial-pci virtio-tablet virtio-tablet-device virtio-tablet-pci "
    "virtio-vga virtio-vga-gl virtserialport vmbus-bridge vmcoreinfo vmgenid vmmouse vmware-svga vmxnet3 "
    "x-pci-proxy-dev x3130-upstream xio3130-downstream"
)
DEVICES = frozenset(_DEVICE_NAMES.split())
"""The device models of QEMU 7.2 for x86 and their aliases, without the balloon."""

_CHARDEV_USERS = (
    "virtconsole virtserialport isa-debugcon isa-parallel usb-serial usb-redir usb-braille ivshmem-doorbell"
)
CHARDEV_USERS = {name: name for name in _CHARDEV_USERS.split()} | {"isa-serial": "serial", "pci-serial": "serial"}
"""The device models that use a character device, and the owner that QEMU's errors name."""

_PCI_SWITCHES = (
    "multifunction disable-modern iommu_platform ats aer packed event_idx indirect_desc queue_reset use-started "
    "use-disabled-flag notify_on_empty any_layout qemu-4-0-config-size migrate-extra modern-pio-notify page-per-vq "
    "virtio-pci-bus-master-bug-migration x-disable-pcie x-disable-legacy-check x-ignore-backend-features "
    "x-ats-page-aligned x-pcie-deverr-init x-pcie-extcap-init x-pcie-flr-init x-pcie-lnkctl-init "
    "x-pcie-lnksta-dllla x-pcie-pm-init"
)
PCI = {
    **dict.fromkeys(_PCI_SWITCHES.split(), "bool"),
    **dict.fromkeys(("rombar", "romsize", "acpi-index"), "int"),
    **dict.fromkeys(("bus", "addr", "disable-legacy", "romfile", "failover_pair_id"), "text"),
}
"""Properties of the balloon device that belong to PCI and virtio, with their types. Programs that start QEMU set some
of them. Their values are checked and have no effect, because hmp has no bus."""

HELPS = {
    "machine": f"Supported machines are:\n{'pc':20} the machine of hmp (alias of pc-i440fx-7.2)\n"
    f"{'pc-i440fx-7.2':20} the machine of hmp (default)\n{'q35':20} the same machine here\n",
    "cpu": "Available CPUs:\nx86 qemu64                (there is no processor: any name will do)\n",
    "accel": "Accelerators supported in QEMU binary:\ntcg\n",
    **{
        name: f"hmp has nothing for -{name} to choose from, and ignores it\n"
        for name in ["L", "audio", "audiodev", "boot", "display", "netdev", "object", "smp", "trace", "vga"]
    },
}
HELPS["M"] = HELPS["machine"]
"""What the value help prints, for the options for which QEMU prints a list and ends with status 0."""
