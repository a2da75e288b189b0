"""`hmp-qemu`: QEMU's command line in, a configuration of hmp out. Errors are QEMU's own, in one line; exit status 1."""

from __future__ import annotations

import fcntl
import os
import shlex
import sys

from device.errors import MisuseError
from device.units import parse_size
from hmp import FAILED, QEMU_VERSION, __version__
from hmp.monitor import CommandError, UsageError, escape
from hmp.monitor.commands.machine import DRIVERS, HELP, device_add, split_options
from hmp.monitor.commands.qom import read_json
from hmp.monitor.qom import valid_id
from hmp.options import parse
from hmp.qemu.chardevs import Chardev, from_chardev, from_short
from hmp.qemu.table import WITH_VALUE, WITHOUT
from hmp.qjson import codec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from hmp.config import Config

DEFAULT_MEMORY = "128M"
_PCI_NAMES = (
    "bus addr multifunction disable-legacy disable-modern iommu_platform ats packed romfile rombar romsize acpi- "
    "index event_idx indirect_desc use-started use-disabled-flag notify_on_empty any_layout class "
    "vectors qemu-4-0-config-size x-pcie-lnksta-dllla x-pcie-extcap-init migrate-extra modern-pio-notify page- "
    "per-vq failover_pair_id"
)
PCI = frozenset(_PCI_NAMES.split())
"""Properties of the balloon's device that are PCI's and virtio's: there is no bus here that they could change."""

HELPS = {
    "machine": f"Supported machines are:\n{'pc':20} what hmp stands in for (alias of pc-i440fx-7.2)\n"
    f"{'pc-i440fx-7.2':20} what hmp stands in for (default)\n{'q35':20} taken for the same\n",
    "cpu": "Available CPUs:\nx86 qemu64                (there is no processor: any name will do)\n",
    "accel": "Accelerators supported in QEMU binary:\ntcg\n",
}
HELP_TEXT = """\
usage: hmp-qemu [QEMU's options]

hmp behind QEMU's command line: -qmp, -monitor, -chardev, -mon, -serial, -m, -name, -uuid, -S, -device
virtio-balloon-pci, -daemonize, -pidfile, -nographic, -no-shutdown, -no-reboot, -action and -version do what they do
in QEMU; its other options are ignored (HMP_QEMU_VERBOSE=1 tells which). HMP_ARGS has options of hmp's own.
"""


class CommandLine:
    """What QEMU's options said. `hmp` are options for hmp, `ignored` those that mean nothing here."""

    def __init__(self) -> None:
        self.hmp: list[str] = []
        self.memory = DEFAULT_MEMORY
        self.device: str | None = None
        self.chardevs: dict[str, Chardev] = {}
        self.monitors: list[Chardev] = []
        self.mons: list[tuple[str, dict[str, str]]] = []
        self.serials = 0
        self.nographic = self.defaults = False
        self.daemonize = False
        self.pidfile: str | None = None
        self.actions = {"reboot": "reset", "shutdown": "poweroff"}
        self.ignored: list[str] = []
        self.printed: str | None = None

    def read(self, argv: list[str]) -> None:
        """Read the arguments, one or two dashes before each option. Raises UsageError, in QEMU's words."""
        rest = iter(argv)
        for word in rest:
            if not word.startswith("-") or word == "-":
                self.ignored.append(word)  # a disk image
                continue
            name = word[2:] if word.startswith("--") else word[1:]
            if name in WITH_VALUE:
                value = next(rest, None)
                if value is None:
                    raise UsageError(f"{word}: requires an argument")
                if value in HELP and name in HELPS | {"M": ""}:
                    self.printed = HELPS["machine" if name == "M" else name]
                    return
                self._value(name, value, f"{word} {value}")
            elif name in WITHOUT:
                self._switch(name)
            else:
                raise UsageError(f"{word}: invalid option")
            if self.printed is not None:
                return
        self._finish()

    def _switch(self, name: str) -> None:
        if name in ("h", "help"):
            self.printed = HELP_TEXT
        elif name == "version":
            self.printed = f"QEMU emulator version {QEMU_VERSION} (hmp-emulator {__version__})\n"
        elif name == "S":
            self.hmp.append("--paused")
        elif name == "no-shutdown":
            self.actions["shutdown"] = "pause"
        elif name == "no-reboot":
            self.actions["reboot"] = "shutdown"
        elif name in ("daemonize", "nographic"):
            setattr(self, name, True)
        elif name == "nodefaults":
            self.defaults = True
        else:
            self.ignored.append(f"-{name}")

    def _value(self, name: str, value: str, spelled: str) -> None:
        read: dict[str, Callable[[str, str], None]] = {
            "m": self._memory, "device": self._device, "name": self._name, "uuid": self._uuid, "mon": self._mon,
            "action": self._action, "chardev": self._chardev,
        }  # fmt: skip
        if name in read:
            read[name](value, spelled)
        elif name in ("qmp", "qmp-pretty", "monitor"):
            if name == "monitor" and value == "none":
                self.defaults = True
            else:
                self._short(name, value, "monitor" if name == "monitor" else "qmp",
                            f"compat_monitor{len(self.monitors)}")  # fmt: skip
        elif name == "serial":
            label = f"serial{self.serials}"
            self.serials += 1
            if value != "none":
                self._short(name, value, "serial", label)
        elif name == "pidfile":
            self.pidfile = value
        else:
            self.ignored.append(spelled)

    def _short(self, option: str, value: str, kind: str, label: str) -> None:
        backend, _, id = value.partition(":")
        if backend == "chardev":
            self.mons.append((f"-{option} {value}", {"chardev": id, "mode": {"qmp": "control"}.get(kind, kind)}))
            return
        made = from_short(option, value, kind, label)
        if kind == "serial" and made.kind == "serial":
            self.chardevs[label] = made
        else:
            self.monitors.append(made)

    def _chardev(self, value: str, spelled: str) -> None:
        if value in HELP:
            self.printed = "Available chardev backend types: \n  socket\n  stdio\n  file\n  pty\n  null\n"
            return
        made = from_chardev(value)
        if made.label in self.chardevs:
            raise made.refuse(f"Duplicate ID '{made.label}' for chardev")
        self.chardevs[made.label] = made

    def _mon(self, value: str, spelled: str) -> None:
        given = dict(split_options(value, "chardev"))
        if "chardev" not in given:
            raise UsageError(f"{spelled}: Parameter 'chardev' is missing")
        if given.setdefault("mode", "readline") not in ("readline", "control"):
            raise UsageError(f"{spelled}: Parameter 'mode' does not accept value '{given['mode']}'")
        for name in given.keys() - {"chardev", "mode", "pretty", "id", "default"}:
            raise UsageError(f"{spelled}: Invalid parameter '{name}'")
        self.mons.append((spelled, given))

    def _memory(self, value: str, spelled: str) -> None:
        given = dict(split_options(value, "size"))
        for name in given.keys() - {"size", "slots", "maxmem"}:
            raise UsageError(f"{spelled}: Invalid parameter '{name}'")
        sizes = {}
        for name in ("size", "maxmem"):
            try:
                sizes[name] = parse_size(given.get(name, "0"))
            except MisuseError:
                raise UsageError(f"{spelled}: Parameter '{name}' expects a non-negative number below 2^64") from None
        if sizes["size"]:
            self.memory = f"{sizes['size']}B"
        if "maxmem" in given and sizes["maxmem"] < (sizes["size"] or parse_size(DEFAULT_MEMORY)):
            raise UsageError(f"{spelled}: maxmem is less than the memory at start")

    def _name(self, value: str, spelled: str) -> None:
        given = dict(split_options(value, "guest"))
        for name in given.keys() - {"guest", "process", "debug-threads"}:
            raise UsageError(f"{spelled}: Invalid parameter '{name}'")
        if "guest" in given:
            self.hmp.append(f"--name={given['guest']}")

    def _uuid(self, value: str, spelled: str) -> None:
        try:
            parse(["--uuid", value])
        except UsageError:
            raise UsageError(f"{spelled}: failed to parse UUID string: wrong format") from None
        self.hmp.append(f"--uuid={value}")

    def _action(self, value: str, spelled: str) -> None:
        allowed = {"reboot": ("reset", "shutdown"), "shutdown": ("poweroff", "pause"),
                   "panic": ("pause", "shutdown", "exit-failure", "none"),
                   "watchdog": ("reset", "shutdown", "poweroff", "pause", "debug", "none", "inject-nmi")}  # fmt: skip
        for name, word in split_options(value, "action"):
            if name not in allowed:
                raise UsageError(f"{spelled}: Invalid parameter '{name}'")
            if word not in allowed[name]:
                raise UsageError(f"{spelled}: Parameter '{name}' does not accept value '{word}'")
            self.actions[name] = word

    def _device(self, value: str, spelled: str) -> None:
        pairs: list[tuple[str, Any]]
        if value.startswith("{"):
            try:
                given = read_json(value)
            except CommandError as error:
                raise UsageError(f"{spelled}: {error.desc}") from None
            driver, pairs = given.get("driver"), [pair for pair in given.items() if pair[0] != "driver"]
        else:
            pairs = split_options(value, "driver")
            driver, pairs = dict(pairs).get("driver"), [pair for pair in pairs if pair[0] != "driver"]
        if driver in HELP or (driver in DRIVERS and any(key in HELP for key, _ in pairs)):
            self.printed = device_add(None, {"device": value}, None)  # type: ignore[arg-type]
        elif driver is None:
            raise UsageError(f"{spelled}: Parameter 'driver' is missing")
        elif driver not in DRIVERS:
            self.ignored.append(spelled)
        elif self.device is not None:
            raise UsageError(f"{spelled}: Only one balloon device is supported")
        else:
            kept = [(key, word) for key, word in pairs if key not in PCI]
            if value.startswith("{"):
                self.device = codec.encode({"driver": driver, **dict(kept)}).decode().strip()
            elif not all(valid_id(word) for key, word in kept if key == "id"):
                raise UsageError(f"{spelled}: Parameter 'id' expects an identifier")
            else:
                self.device = ",".join([driver, *[f"{key}={word.replace(',', ',,')}" for key, word in kept]])
            try:
                parse(["--device", self.device])
            except UsageError as error:
                raise UsageError(f"{spelled}: {str(error).rpartition(': ')[2]}") from None

    def _finish(self) -> None:
        """Give the devices that were named to the monitors that use them, and -nographic what it means."""
        for spelled, given in self.mons:
            found = self.chardevs.pop(given["chardev"], None)
            if found is None:
                raise UsageError(f'{spelled}: chardev "{given["chardev"]}" not found')
            found.kind = {"control": "qmp", "readline": "monitor"}.get(given["mode"], "serial")
            self.monitors.append(found)
        if self.nographic and not self.defaults and not self.serials:
            own = any(each.kind == "monitor" for each in self.monitors)
            self.monitors.append(from_short("serial", "stdio" if own else "mon:stdio", "serial", "serial0"))

    def config(self, environ: Mapping[str, str]) -> Config:
        """Return what hmp is to do. Raises UsageError."""
        own = shlex.split(environ.get("HMP_ARGS", ""))
        argv = [f"--memory={self.memory}", "--dialect=qemu", *self.hmp]
        if self.device is not None:
            argv.append(f"--device={self.device}")
        elif not any(word.startswith("--device") for word in own):
            argv.append("--no-balloon")
        config = parse(argv + own)
        if config is None:
            raise UsageError("HMP_ARGS: --help and the like are for hmp")
        if config.scripted or config.interactive or config.record is not None:
            raise UsageError("HMP_ARGS: SCRIPT, -c, -i and --record are for hmp")
        for each in (*self.monitors, *self.chardevs.values()):
            address, shown = each.open()
            if address is None:
                config.chardevs.append((each.label, shown))
            else:
                address.host_files = config.allow_host_files
                config.addresses.append(address)
        config.stdio = any(each.scheme == "stdio" for each in config.addresses)
        if sum(each.scheme == "stdio" for each in config.addresses) > 1:
            raise UsageError("cannot use stdio by multiple character devices")
        config.headless = True
        config.stays = self.actions["shutdown"] == "pause"
        config.resets = self.actions["reboot"] == "reset"
        if self.daemonize or self.pidfile is not None:
            config.on_listening = self._detach
        return config

    def _detach(self) -> Callable[[], None]:
        """Become a daemon and write the pid file, as asked; returns what takes the file away."""
        told = -1
        if self.daemonize:
            heard, told = os.pipe()
            if os.fork():
                os.close(told)
                os._exit(0 if os.read(heard, 1) else FAILED)
            os.close(heard)
            os.setsid()
        clean = (lambda: None) if self.pidfile is None else _write_pid(os.path.abspath(self.pidfile))
        if told >= 0:
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            os.close(null)
            os.write(told, b".")
            os.close(told)
        return clean


def _write_pid(path: str) -> Callable[[], None]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(f"cannot create PID file: Could not create '{path}': {error.strerror}") from None
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # whose process lives keeps it
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    except OSError as error:
        os.close(descriptor)
        raise UsageError(f"cannot create PID file: Cannot lock pid file '{path}': {error.strerror}") from None

    def remove() -> None:
        try:
            os.unlink(path)
        except OSError:
            pass
        os.close(descriptor)

    return remove


def read(argv: list[str], environ: Mapping[str, str]) -> Config | str:
    """Return what QEMU's command line means to hmp, or what it asks to be printed. Raises UsageError."""
    line = CommandLine()
    try:
        line.read(argv)
    except CommandError as error:
        raise UsageError(error.desc) from None
    if line.printed is not None:
        return line.printed
    if environ.get("HMP_QEMU_VERBOSE", "") not in ("", "0") and line.ignored:
        sys.stderr.write(escape("".join(f"hmp-qemu: ignores {each}\n" for each in line.ignored)))
    return line.config(environ)
