"""`hmp-qemu`: makes a configuration of hmp from QEMU's command line. Errors are QEMU's, one line with exit status 1."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from typing import Any

from hmp import FAILED, QEMU_VERSION, __version__
from hmp.config import Config
from hmp.monitor import CommandError, UsageError, escape
from hmp.monitor.commands.machine import DRIVERS, HELP, device_add, split_options
from hmp.monitor.commands.qom import read_json
from hmp.monitor.qom import BACKEND_TYPE, from_json, from_option, valid_id
from hmp.options import parse
from hmp.qemu.chardevs import UNREADABLE, Chardev, from_chardev, from_short
from hmp.qemu.table import CHARDEV_USERS, DEVICES, HELPS, PCI, WITH_VALUE, WITHOUT
from hmp.qemu.values import Parameters, size_of, whole
from hmp.qjson import codec

DEFAULT_MEMORY = 128 << 20
HELP_TEXT = """\
usage: hmp-qemu [QEMU's options]

hmp with QEMU's command line. -qmp, -monitor, -chardev, -mon, -serial, -m, -name, -uuid, -S, -device
virtio-balloon-pci, -daemonize, -pidfile, -nographic, -no-shutdown, -no-reboot, -action and -version do what they do
in QEMU; its other options are ignored (HMP_QEMU_VERBOSE=1 names them). HMP_ARGS adds options of hmp's own.
"""


_MON = Parameters("chardev mode id", switch="pretty")
_MEMORY = Parameters(number="slots", size="size maxmem")
_NAME = Parameters("guest process", switch="debug-threads")
_ACTIONS = {"reboot": ("reset", "shutdown"), "shutdown": ("poweroff", "pause"),
            "panic": ("pause", "shutdown", "exit-failure", "none"),
            "watchdog": ("reset", "shutdown", "poweroff", "pause", "debug", "none", "inject-nmi")}  # fmt: skip
_SERIAL: tuple[str, ...] = ("serial", "parallel", "debugcon")
"""The options that make guest devices, in the order in which QEMU makes them."""

_ADDRESS = re.compile(r"\s*\+?(?:0x)?0*[01]?[0-9a-f](?:\.[0-7])?", re.ASCII | re.IGNORECASE)


class CommandLine:
    """Reads QEMU's options. `hmp` has the options for hmp, `ignored` those that have no effect.

    3,400 generated command lines, and 3,100 of the kinds that libvirt, Proxmox, kata, avocado, labgrid and scripts
    write, were compared with QEMU 7.2: the exit status, and the error after the program's name.
    QEMU first reads all options, and then makes character devices, memory, monitors, serial ports and devices, in this
    order. This class does the same, so that of two errors it reports the one that QEMU reports.
    """

    def __init__(self) -> None:
        self.hmp: list[str] = []
        self.memory: dict[str, str] = {}
        self.device: str | None = None
        self.monitors: list[Chardev] = []
        self.made: list[Chardev] = []
        """The devices of -chardev, -monitor and -qmp, in the order in which QEMU makes them."""
        self.serial: list[tuple[str, str, str]] = []
        """Option, value and both as they were written ("" for a default) of each -serial, -parallel and -debugcon."""
        # In QEMU an id is unique within one kind of object: a device and a monitor may have the same id.
        self.ids: dict[str, set[str]] = {"device": set(), "mon": set()}
        self.devices: list[tuple[str, str, Any, list[tuple[str, Any]]]] = []
        self.unknown: UsageError | None = None
        """The error for a device that QEMU 7.2 does not have. A newer QEMU may have it (--qemu-version in HMP_ARGS)."""
        self.serials: list[Chardev] = []
        """The character devices that no monitor uses."""
        self.mons: list[tuple[str, dict[str, str]]] = []
        self.defaults = {"serial", "parallel", "monitor"}
        """What QEMU makes unless told otherwise."""
        self.nographic = False
        self.daemonize = False
        self.pidfile: str | None = None
        self.actions = {"reboot": "reset", "shutdown": "poweroff"}
        self.ignored: list[str] = []
        self.foreign_bus = "pcie.0"
        """The root bus of the other machine type (pc or q35): an error here. Other names may be buses of bridges."""
        self.printed: str | None = None

    def read(self, argv: list[str]) -> None:
        """Read the arguments; each option has one or two dashes. Raises UsageError in QEMU's words."""
        # Not with click: QEMU's long options have one dash.
        rest = iter(argv)
        found: list[tuple[str, str, str | None]] = []
        for word in rest:
            name = word[2:] if word.startswith("--") else word[1:]
            value = next(rest, None) if word.startswith("-") and name in WITH_VALUE else None
            if not word.startswith("-"):
                found.append(("", word, None))  # a disk image
            elif name not in WITH_VALUE and name not in WITHOUT:
                raise UsageError(f"{word}: invalid option")
            elif name in WITH_VALUE and value is None:
                raise UsageError(f"{word}: requires an argument")
            else:
                found.append((name, word, value))
        for name, word, value in found:
            if name in ("h", "help", "version"):
                version = f"QEMU emulator version {QEMU_VERSION} (hmp-emulator {__version__})\n"
                self.printed = version if name == "version" else HELP_TEXT
                return
            if value is None:
                self._switch(name, word)
            elif value in HELP and name in HELPS:
                self._print(HELPS[name])
            else:
                self._value(name, value, f"{word} {value}")
        if self.printed is None:
            self._finish()

    def _print(self, text: str) -> None:
        """Print `text` instead of starting a machine, after all options were read without an error. The first wins."""
        self.printed = text if self.printed is None else self.printed

    def _switch(self, name: str, spelled: str) -> None:
        if name == "S":
            self.hmp.append("--paused")
        elif name == "no-shutdown":
            self.actions["shutdown"] = "pause"
        elif name == "no-reboot":
            self.actions["reboot"] = "shutdown"
        elif name in ("daemonize", "nographic"):
            setattr(self, name, True)
        elif name == "nodefaults":
            self.defaults.clear()
        else:
            self.ignored.append(spelled)

    def _value(self, name: str, value: str, spelled: str) -> None:
        read: dict[str, Callable[[str, str], None]] = {
            "m": self._memory, "device": self._device, "name": self._name, "uuid": self._uuid, "mon": self._mon,
            "action": self._action, "chardev": self._chardev, "smbios": self._smbios,
            "watchdog-action": lambda value, spelled: self._action(f"watchdog={value}", spelled),
        }  # fmt: skip
        if name in read:
            read[name](value, spelled)
        elif name in ("qmp", "qmp-pretty", "monitor"):
            self.defaults.discard("monitor")
            mode = "readline" if name == "monitor" else "control"
            pretty = {"pretty": "on"} if name == "qmp-pretty" else {}
            if value.startswith("chardev:"):
                self._id("mon", value[8:], spelled)
                self.mons.append((spelled, {"chardev": value[8:], "mode": mode, **pretty}))
            elif name != "monitor" or not value.startswith("none"):  # QEMU looks at four letters only
                self._monitor(name, value, spelled).options |= pretty
        elif name in _SERIAL:
            self.defaults -= {name, "monitor"} if value.startswith("mon:") and name != "debugcon" else {name}
            self.serial.append((name, value, spelled))
        elif name == "pidfile":
            self.pidfile = value
        elif name in ("machine", "M"):
            self.foreign_bus = "pci.0" if "q35" in value else "pcie.0"
            self.ignored.append(spelled)
        else:
            self.ignored.append(spelled)

    def _monitor(self, name: str, value: str, spelled: str) -> Chardev:
        kind = "monitor" if name == "monitor" else "qmp"
        made = from_short(name, value, kind, f"compat_monitor{len(self.monitors)}", spelled)
        self._add(made)
        self.monitors.append(made)
        return made

    def _add(self, made: Chardev) -> None:
        self._alone(made)
        self.made.append(made)

    def _alone(self, made: Chardev) -> None:
        """Refuse a device that has the id of another. A device of -monitor and the like has a generated id."""
        if made.label and self._found(made.label) not in (None, made):
            raise made.refuse(f"Duplicate ID '{made.label}' for chardev")

    def _id(self, what: str, id: str, spelled: str) -> None:
        if not valid_id(id):
            raise UsageError(f"{spelled}: Parameter 'id' expects an identifier")
        if id in self.ids[what]:
            raise UsageError(f"{spelled}: Duplicate ID '{id}' for {what}")
        self.ids[what].add(id)

    def _chardev(self, value: str, spelled: str) -> None:
        made = from_chardev(value, spelled)
        if made.backend in HELP:
            self._print("Available chardev backend types: \n  socket\n  stdio\n  file\n  pty\n  pipe\n  null\n")
        else:
            self._add(made)

    def _mon(self, value: str, spelled: str) -> None:
        self.defaults.discard("monitor")
        pairs = split_options(value, "chardev")
        given = dict(pairs)
        if "id" in given:
            self._id("mon", given["id"], spelled)
        _MON.check(pairs, spelled)
        self.mons.append((spelled, given))

    def _memory(self, value: str, spelled: str) -> None:
        pairs = split_options(value, "size")
        _MEMORY.check(pairs, spelled)
        self.memory |= {**dict(pairs), "": spelled}

    def _ram(self) -> int:
        """Return the memory size in bytes. hmp cannot hot-plug memory, but wrong slots or maxmem are errors as in QEMU.

        Raises UsageError.
        """
        given, spelled = self.memory, self.memory.get("", "")
        text = given.get("size", "0")
        size = size_of(text, "size", spelled)
        # As in QEMU, a size whose last character is a digit is in MiB.
        size = (size << 20 if text[-1:].isdigit() else size) or DEFAULT_MEMORY
        if size >= 1 << 64:
            raise UsageError("too large 'size' option value")
        # QEMU rounds up to a multiple of 8 KiB: 4097K becomes 4104K (seen with 7.2).
        size = -(-size // 8192) * 8192
        if not 4 << 20 <= size <= 16 << 40:
            raise UsageError(f"{spelled}: hmp has machines from 4M to 16T, not of {size} bytes")
        slots = whole(given["slots"], "slots", spelled) if "slots" in given else None
        if "maxmem" not in given:
            if slots is not None:
                raise UsageError("slots specified but no max-size")
            return size
        if slots is not None and slots > 256:
            raise UsageError(f"unsupported amount of memory slots: {slots}")
        most = size_of(given["maxmem"], "maxmem", spelled)
        wrong = "invalid value of maxmem: "
        if most < size:
            raise UsageError(
                f"{wrong}maximum memory size ({most:#x}) must be at least the initial memory size ({size:#x})"
            )
        if slots and most == size:
            raise UsageError(f"{wrong}memory slots were specified but maximum memory size ({size:#x}) is equal to the "
                             f"initial memory size ({size:#x})")  # fmt: skip
        return size

    def _name(self, value: str, spelled: str) -> None:
        pairs = split_options(value, "guest")
        _NAME.check(pairs, spelled)
        self.hmp += [f"--name={word}" for key, word in pairs if key == "guest"]

    def _uuid(self, value: str, spelled: str, wrong: str = "failed to parse UUID string: wrong format") -> None:
        try:
            parse(["--uuid", value])
        except UsageError:
            raise UsageError(f"{spelled}: {wrong}") from None
        self.hmp.append(f"--uuid={value}")

    def _smbios(self, value: str, spelled: str) -> None:
        given = dict(split_options(value, None))
        if given.get("type") == "1" and "uuid" in given:
            self._uuid(given["uuid"], spelled, "Invalid UUID")
        self.ignored.append(spelled)

    def _action(self, value: str, spelled: str) -> None:
        pairs = split_options(value, None)
        Parameters(" ".join(_ACTIONS)).check(pairs, spelled)
        for name, word in pairs:
            if word not in _ACTIONS[name]:
                raise UsageError(f"{spelled}: Parameter '{name}' does not accept value '{word}'")
            self.actions[name] = word

    def _device(self, value: str, spelled: str) -> None:
        pairs: list[tuple[str, Any]]
        if value.startswith("{"):
            try:
                pairs = list(read_json(value).items())
            except CommandError as error:
                raise UsageError(f"{spelled}: {error.desc}") from None
        else:
            pairs = split_options(value, "driver")
            # Of several ids QEMU uses the first; of all other options the last.
            for word in [word for key, word in reversed(pairs) if key == "id"][-1:]:
                self._id("device", word, spelled)
        driver = dict(pairs).get("driver")
        self.defaults -= {"isa-serial": {"serial"}, "isa-parallel": {"parallel"}}.get(str(driver), set())
        pairs = [pair for pair in pairs if pair[0] != "driver"]
        helps = any(key in HELP for key, _ in pairs)
        if driver in HELP or (driver in DRIVERS and helps):
            self._print(device_add(None, {"device": value}, None))  # type: ignore[arg-type]
        elif helps and isinstance(driver, str):
            known = driver in DEVICES
            self._print(f"hmp ignores {driver} and its properties\n" if known else "")
            if not known:
                sys.stderr.write(escape(f"hmp-qemu: {spelled}: Device '{driver}' not found\n"))
        else:
            self.devices.append((spelled, value, driver, pairs))

    def _plug(self, spelled: str, value: str, driver: str | None, pairs: list[tuple[str, Any]]) -> None:
        """Check a device. hmp has the balloon; of others it checks the model and ignores all properties."""
        if not isinstance(driver, str):
            raise UsageError(f"{spelled}: Parameter 'driver' is missing")
        if driver == BACKEND_TYPE:
            raise UsageError(f"{spelled}: No 'virtio-bus' bus found for device '{driver}'")
        if driver not in DRIVERS:
            model = driver.removesuffix("-transitional").removesuffix("-non")
            if model not in DEVICES and not model.endswith("-cpu"):
                self.unknown = self.unknown or UsageError(f"{spelled}: '{driver}' is not a valid device model name")
            label = dict(pairs).get("chardev")
            if model in CHARDEV_USERS and isinstance(label, str):
                self._use(f"{spelled}: Property '{CHARDEV_USERS[model]}.chardev' can't", model, label)
            self.ignored.append(spelled)
            return
        if self.device is not None:
            raise UsageError(f"{spelled}: Only one balloon device is supported")
        kept = [(key, word) for key, word in pairs if key not in PCI]
        json = value.startswith("{")
        if json:
            self.device = codec.encode({"driver": driver, **dict(kept)}).decode().strip()
        else:
            self.device = ",".join([driver, *[f"{key}={word.replace(',', ',,')}" for key, word in kept]])
        set_to: dict[str, Any] = {}
        try:
            for key, word in pairs:
                if key in PCI:
                    set_to[key] = self._check_pci(DRIVERS[driver], key, word, json=json)
            # hmp's own --device checks the other properties. Its error then gets the prefix that QEMU's would have.
            parse(["--device", self.device])
            self._check_modes(DRIVERS[driver], set_to)
        except CommandError as error:
            raise UsageError(f"{spelled}: {error.desc}") from None
        except UsageError as error:
            raise UsageError(f"{spelled}: {str(error).removeprefix(f'--device {self.device!r}: ')}") from None

    def _use(self, wrong: str, model: str, label: str) -> None:
        found = self._found(label)
        if found is None:
            raise UsageError(f"{wrong} find value '{label}'")
        # A virtserialport opens its device when the guest opens the port, all others do so at once.
        if not found.use(opens=model != "virtserialport"):
            raise UsageError(f"{wrong} take value '{label}': Device '{label}' is in use")

    def _check_pci(self, model: str, name: str, value: Any, *, json: bool) -> object:
        """Return the value of a property as it is read. Raises CommandError."""
        kind, wrong, read = PCI[name], "", value
        if name.startswith("disable-") and model.endswith("-transitional"):
            wrong = f"Property '{model}.{name}' not found"
        elif kind != "text":
            read = (from_json if json else from_option)(value, name, kind)
            if kind == "int" and not 0 <= read < 1 << 32:  # type: ignore[operator]
                wrong = f"Parameter '{name}' expects uint32_t"
            elif name == "romsize" and read.bit_count() != 1:  # type: ignore[union-attr]
                wrong = f"ROM size {read} is not a power of two"
            elif name == "acpi-index" and read > 16383:  # type: ignore[operator]
                wrong = "acpi-index should be less or equal to 16383"
        elif not isinstance(value, str):
            if name == "disable-legacy":
                wrong = f"Invalid parameter type for '{name}', expected: string"
        elif name == "disable-legacy" and value not in ("on", "off", "auto"):
            wrong = f"Parameter '{name}' does not accept value '{value}'"
        elif name == "addr" and not _ADDRESS.fullmatch(value):
            wrong = f"Property '{model}.addr' doesn't take value '{value}'"
        elif (
            name == "bus"
            and value not in self.ids["device"]
            and (value == self.foreign_bus or not re.fullmatch(r"pcie?\.\d+", value))
        ):
            wrong = f"Bus '{value}' not found"
        elif name == "romfile" and value and not os.path.exists(value):
            wrong = f'failed to find romfile "{value}"'
        if wrong:
            raise CommandError(wrong)
        return read

    def _check_modes(self, model: str, set_to: dict[str, Any]) -> None:
        """Check that the device has a mode of virtio that fits its properties. Raises CommandError."""
        legacy = not model.endswith("-non-transitional") and set_to.get("disable-legacy") != "on"
        if not legacy and set_to.get("disable-modern"):
            raise CommandError("device cannot work as neither modern nor legacy mode is enabled")
        # Behind a port of PCI Express it is never legacy; hmp does not know which bus is one.
        if legacy and set_to.get("iommu_platform") and set_to.get("bus") not in self.ids["device"]:
            raise CommandError("VIRTIO_F_IOMMU_PLATFORM was supported by neither legacy nor transitional device")

    def _finish(self) -> None:
        """Make the checks that QEMU makes when it creates its objects, in QEMU's order, and connect monitors with their
        devices. Raises UsageError."""
        self._make_defaults()
        free = [each for each in self.made if each not in self.monitors]
        for each in self.made:
            self._check(each)
        self.hmp.append(f"--memory={self._ram()}B")
        for spelled, given in self.mons:
            self._connect(spelled, given, free)
        numbers = dict.fromkeys(_SERIAL, 0)
        for option, value, spelled in sorted(self.serial, key=lambda each: _SERIAL.index(each[0])):
            label = "debugcon" if option == "debugcon" else f"{option}{numbers[option]}"
            numbers[option] += 1
            if value == "none" and option != "debugcon":
                continue
            if value.startswith("chardev:") and option != "debugcon":
                self._connect(spelled, {"chardev": value[8:], "mode": option}, free)
                continue
            made = from_short(option, value, "serial", label, spelled)
            self.made.append(made)
            self._check(made)
            self._alone(made)
            (free if made.kind == "serial" else self.monitors).append(made)
        self.serials = free
        for device in self.devices:
            self._plug(*device)

    def _make_defaults(self) -> None:
        """Add the ports and the monitor that QEMU makes unless they are given. Raises UsageError."""
        if self.daemonize and self.nographic and self.defaults:
            # A daemon has no terminal, so nobody could reach them.
            raise UsageError("-nographic cannot be used with -daemonize")
        stdio, null = ("stdio", "null") if self.nographic else ("vc:80Cx24C",) * 2
        if self.nographic and self.defaults >= {"serial", "monitor"}:
            # Both share the terminal, and Ctrl-A c switches to the monitor.
            self.defaults.discard("monitor")
            stdio = "mon:stdio"
        self.serial += [(name, stdio if name == "serial" else null, "") for name in self.defaults - {"monitor"}]
        if "monitor" in self.defaults:
            self._monitor("monitor", stdio, "")

    def _check(self, made: Chardev) -> None:
        made.check()
        if made.backend == "stdio":
            taken = any(each.backend == "stdio" for each in self.made[: self.made.index(made)])
            if self.daemonize or taken:
                how = "with -daemonize" if self.daemonize else "by multiple character devices"
                raise made.refuse(f"cannot use stdio {how}")

    def _found(self, label: str) -> Chardev | None:
        return next((each for each in self.made if each.label == label), None)

    def _connect(self, spelled: str, given: dict[str, str], free: list[Chardev]) -> None:
        """Connect a monitor or a serial port with its device. `free` has the devices that are not used yet.

        Raises UsageError.
        """
        mode = given.get("mode", "readline")
        if "chardev" not in given:
            raise UsageError(f"{spelled}: Parameter 'chardev' is missing")
        if mode not in ("readline", "control", *_SERIAL):
            raise UsageError(f"{spelled}: Parameter 'mode' does not accept value '{mode}'")
        found = self._found(given["chardev"])
        if found is None:
            label = given["chardev"]
            why = UNREADABLE[mode].format(f"chardev:{label}") if mode in UNREADABLE else f'chardev "{label}" not found'
            raise UsageError(f"{spelled}: {why}")
        if mode == "readline" and "pretty" in given:
            raise UsageError(f"{spelled}: 'pretty' is not compatible with HMP monitors")
        # With mux QEMU lets four share one device. hmp gives it to the first monitor, and the others stay silent.
        if not found.use():
            raise UsageError(f"{spelled}: Device '{found.label}' is in use")
        if found not in free:
            return
        found.options |= {"pretty": given["pretty"]} if "pretty" in given else {}
        if mode not in _SERIAL:
            free.remove(found)
            found.kind = "qmp" if mode == "control" else "monitor"
            self.monitors.append(found)

    def config(self, environ: Mapping[str, str]) -> Config:
        """Return the configuration of hmp. Raises UsageError."""
        own = shlex.split(environ.get("HMP_ARGS", ""))
        argv = ["--dialect=qemu", *self.hmp]
        if self.device is not None:
            argv.append(f"--device={self.device}")
        # QEMU has no balloon unless it is asked for; hmp has one by default.
        elif not any(word.startswith("--device") for word in own):
            argv.append("--no-balloon")
        # hmp's own options come last, so that HMP_ARGS can change everything.
        config = parse([*argv, *own])
        if config is None:
            raise UsageError("HMP_ARGS: --help and the like work with hmp only")
        if config.scripted or config.interactive or config.record is not None:
            raise UsageError("HMP_ARGS: SCRIPT, -c, -i and --record work with hmp only")
        # Another version of QEMU has other devices.
        if self.unknown is not None and config.qemu_version is None:
            raise self.unknown
        for each in (*self.monitors, *self.serials):
            address = each.open()
            if each.on("mux"):
                config.chardevs.append((each.label, "mux", True))
            if address is None:
                name = f"{each.label}-base" if each.on("mux") else each.label
                config.chardevs.append((name, str(each.backend), each.used))
            else:
                address.host_files = config.allow_host_files
                config.addresses.append(address)
        config.stdio = any(each.scheme == "stdio" and not each.shown for each in config.addresses)
        # QEMU without a monitor on stdio runs until it is ended.
        config.headless = True
        config.no_shutdown = self.actions["shutdown"] == "pause"
        config.resets = self.actions["reboot"] == "reset"
        if self.daemonize or self.pidfile is not None:
            config.on_listening = self._detach
        return config

    def _detach(self) -> Callable[[], None]:
        """Become a daemon and write the pid file, if wanted. Returns a function that removes the file.

        Raises UsageError.
        """
        ready = -1
        if self.daemonize:
            parent_end, ready = os.pipe()
            if os.fork():
                os.close(ready)
                # The parent ends only when the sockets listen and the pid file is written: a program that started us
                # can connect at once.
                os._exit(0 if os.read(parent_end, 1) else FAILED)
            os.close(parent_end)
            os.setsid()
        clean = (lambda: None) if self.pidfile is None else _write_pid(self.pidfile)
        if ready >= 0:
            # Only now, so that errors before this point reach the terminal.
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            os.close(null)
            os.write(ready, b".")
            os.close(ready)
        return clean


def _write_pid(path: str) -> Callable[[], None]:
    place = os.path.abspath(path)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(f"cannot create PID file: Could not create '{path}': {error.strerror}") from None
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the lock stays as long as this process lives
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    except OSError as error:
        os.close(descriptor)
        raise UsageError(f"cannot create PID file: Cannot lock pid file '{path}': {error.strerror}") from None

    def remove() -> None:
        try:
            os.unlink(place)
        except OSError:
            pass
        os.close(descriptor)

    return remove


def read(argv: list[str], environ: Mapping[str, str]) -> Config | str:
    """Return the configuration for QEMU's command line, or a text to print, as for -version. Raises UsageError."""
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
