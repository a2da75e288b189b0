"""Addresses of --attach: `unix:PATH`, `tcp:HOST:PORT` and `libvirt:DOMAIN`, each with its options."""

from __future__ import annotations

from collections.abc import Container

from hmp.addresses import Address
from hmp.config import Config
from hmp.monitor import UsageError, escape
from hmp.monitor.grammar import SWITCH

PROXMOX = "/var/run/qemu-server/", "/run/qemu-server/"
"""The folders of Proxmox's sockets. QEMU serves one client per socket, and Proxmox connects to them all the time."""

KNOWN = "unix:PATH, tcp:HOST:PORT or libvirt:DOMAIN"


class Place:
    """The address of a running machine. `hold` is None if the options do not say whether to keep the connection."""

    def __init__(self, spec: str) -> None:
        """Read `spec`. Raises UsageError, which says what is wrong in it."""
        self.hold: bool | None = None
        self.uri = ""
        # Two commas stand for one comma in a path, as in QEMU's options.
        place, *options = spec.replace(",,", "\0").split(",")
        self.name = place = place.replace("\0", ",")
        self.scheme, colon, rest = place.partition(":")
        if self.scheme == "libvirt":
            self.host, self.port = rest, 0
            if not rest:
                raise UsageError(f"--attach: '{escape(spec)}': the name of a domain is missing")
            # virsh is fed lines: a name with a newline in it would be two commands.
            if not rest.isprintable():
                raise UsageError(f"--attach: '{escape(spec)}': a domain cannot have this name")
            # virsh would read it as an option.
            if rest.startswith("-"):
                raise UsageError(f"--attach: '{escape(spec)}': a domain's name does not begin with '-'")
        elif colon and self.scheme in ("unix", "tcp"):
            address = Address("attach", place.replace(",", ",,") if "\0" not in spec else spec)
            self.host, self.port = address.host or "localhost", address.port  # as where hmp connects to a client
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
        """A short name for a VM that has none; toolbars are narrow."""
        return f"{self.host}:{self.port}" if self.scheme == "tcp" else self.host.rpartition("/")[2]

    def holds(self, *, wanted: bool) -> bool:
        """Whether to keep the connection while nothing is asked.

        A kept connection gets events, but QEMU serves one client per socket, so other clients have to wait.
        """
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
    "seed": ("--seed", "nothing about a VM is random"),
    "name": ("--name", "the VM has a name of its own"),
    "uuid": ("--uuid", "the VM has one of its own"),
    "qemu_version": ("--qemu-version", "the VM reports its own"),
    "allow_host_files": ("--allow-host-files", "--allow-disruptive says what clients may do"),
}
"""Options that mean nothing to a running VM: the spelling of each, and the reason. They are refused even with their
default value, so that none is ignored silently."""


def check_options(config: Config, given: Container[str]) -> None:
    """Refuse options that do not fit together. `given` has those on the command line. Raises UsageError."""
    if config.attach is None:
        for option, value in (("--allow-disruptive", config.allow_disruptive), ("--save-replies", config.save_replies)):
            if value:
                raise UsageError(f"{option}: only together with --attach")
        return
    for name, (option, why) in REFUSED.items():
        if name in given:
            raise UsageError(f"{option}: not together with --attach: {why}")
