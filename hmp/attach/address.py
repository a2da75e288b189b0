"""Where a running virtual machine is: `unix:PATH`, `tcp:HOST:PORT`, `libvirt:DOMAIN`, with options of their own."""

from __future__ import annotations

from hmp.addresses import Address
from hmp.monitor import UsageError, escape
from hmp.monitor.grammar import SWITCH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container

    from hmp.config import Config

PROXMOX = "/var/run/qemu-server/", "/run/qemu-server/"
"""Where Proxmox keeps its sockets; it needs them itself, all the time."""

KNOWN = "unix:PATH, tcp:HOST:PORT or libvirt:DOMAIN"


class Place:
    """A running machine's address. `hold` is None where it was not told whether to keep the connection."""

    __slots__ = ("hold", "host", "name", "port", "scheme", "uri")

    def __init__(self, spec: str) -> None:
        """Read `spec`. Raises UsageError that names what is wrong in it."""
        self.hold: bool | None = None
        self.uri = ""
        place, *options = spec.replace(",,", "\0").split(",")
        self.name = place = place.replace("\0", ",")
        self.scheme, _, rest = place.partition(":")
        if self.scheme == "libvirt":
            self.host, self.port = rest, 0
            if not rest:
                raise UsageError(f"--attach: '{escape(spec)}': the name of a domain is missing")
            if not rest.isprintable():
                raise UsageError(f"--attach: '{escape(spec)}': no domain has such a name")
            if rest.startswith("-"):
                raise UsageError(f"--attach: '{escape(spec)}': a domain's name does not begin with '-'")
        elif self.scheme in ("unix", "tcp"):
            address = Address("attach", spec.partition(",")[0] if "\0" not in spec else place.replace(",", ",,"))
            self.host, self.port = address.host, address.port
        else:
            raise UsageError(f"--attach: '{escape(spec)}' is not {KNOWN}")
        for option in options:
            self._option(spec, option.replace("\0", ","))

    def _option(self, spec: str, option: str) -> None:
        name, _, value = option.partition("=")
        if name == "hold" and value in SWITCH and self.scheme != "libvirt":
            self.hold = SWITCH[value]
        elif name == "uri" and value and self.scheme == "libvirt":
            self.uri = value
        else:
            known = "uri=URI" if self.scheme == "libvirt" else "hold=on|off"
            raise UsageError(f"--attach: '{escape(spec)}': '{escape(option)}' is not an option ({known})")

    @property
    def short(self) -> str:
        """What a VM without a name is called: toolbars are narrow."""
        return f"{self.host}:{self.port}" if self.scheme == "tcp" else self.host.rpartition("/")[2]

    def holds(self, *, wanted: bool) -> bool:
        """Whether the connection is kept: QEMU serves one client per socket, and without it there are no events."""
        if self.hold is not None:
            return self.hold
        if self.scheme == "libvirt":
            return True  # virsh does not hold the socket
        return wanted and not (self.scheme == "unix" and self.host.startswith(PROXMOX))


REFUSED = {
    "memory": ("-m", "the VM has its memory already"),
    "guest": ("--guest", "the guest is the VM's own"),
    "device": ("--device", "the device is the VM's own"),
    "no_balloon": ("--no-balloon", "the device is the VM's own"),
    "clock": ("--clock", "a VM runs in real time"),
    "paused": ("-S", "the VM was started already"),
    "snapshot_dir": ("--snapshot-dir", "QEMU keeps its snapshots in its disks"),
    "count": ("--count", "there is one VM"),
    "replies": ("--replies", "the VM answers itself"),
    "seed": ("--seed", "nothing about a VM is made up"),
    "name": ("--name", "the VM has a name of its own"),
    "uuid": ("--uuid", "the VM has one of its own"),
    "qemu_version": ("--qemu-version", "the VM tells its own"),
    "allow_host_files": ("--allow-host-files", "--allow-disruptive says what clients may do"),
}
"""Options that mean nothing to a VM that runs, whatever their value: how each is spelled, and why not."""


def check_options(config: Config, given: Container[str]) -> None:
    """Refuse options that do not fit together; `given` are those on the command line. Raises UsageError."""
    if config.attach is None:
        for option, value in (("--allow-disruptive", config.allow_disruptive), ("--save-replies", config.save_replies)):
            if value:
                raise UsageError(f"{option}: only together with --attach")
        return
    for name, (option, why) in REFUSED.items():
        if name in given:
            raise UsageError(f"{option}: not together with --attach: {why}")
