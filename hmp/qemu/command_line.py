"""`hmp-qemu`: makes a configuration of hmp from QEMU's command line. Errors are QEMU's, one line with exit status 1."""

from __future__ import annotations

import fcntl
import os
import shlex
import sys

from hmp import FAILED, QEMU_VERSION, __version__
from hmp.monitor import CommandError, UsageError, escape
from hmp.monitor.commands.machine import DRIVERS, HELP, device_add, split_options
from hmp.monitor.commands.qom import read_json
from hmp.monitor.qom import BACKEND_TYPE, valid_id
from hmp.options import parse
from hmp.qemu.chardevs import Chardev, from_chardev, from_short
from hmp.qemu.table import DEVICES, HELPS, PCI, WITH_VALUE, WITHOUT
from hmp.qemu.values import check_names, check_switches, size_of, whole
from hmp.qjson import codec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from hmp.config import Config

DEFAULT_MEMORY = 128 << 20
HELP_TEXT = """\
usage: hmp-qemu [QEMU's options]

hmp behind QEMU's command line: -qmp, -monitor, -chardev, -mon, -serial, -m, -name, -uuid, -S, -device
virtio-balloon-pci, -daemonize, -pidfile, -nographic, -no-shutdown, -no-reboot, -action and -version do what they do
in QEMU; its other options are ignored (HMP_QEMU_VERBOSE=1 tells which). HMP_ARGS has options of hmp's own.
"""


class CommandLine:
    """Reads QEMU's options. `hmp` has the options for hmp, `ignored` those that have no effect.

    274 command lines are compared with QEMU 7.2: the exit status, and the error after the program's name.
    """

    def __init__(self) -> None:
        self.hmp: list[str] = []
        self.memory = DEFAULT_MEMORY
        self.device: str | None = None
        self.chardevs: dict[str, Chardev] = {}
        self.monitors: list[Chardev] = []
        self.made: list[Chardev] = []
        """The devices in the order in which QEMU makes them; those of serial ports are made after them."""
        self.serial: list[Chardev] = []
        # QEMU keeps an id once for each kind of object; the same id may name a device and a monitor.
        self.ids: dict[str, set[str]] = {"device": set(), "mon": set()}
        self.unknown: UsageError | None = None
        """The error for a device that QEMU 7.2 does not have. A newer QEMU may have it (--qemu-version in HMP_ARGS)."""
        self.mons: list[tuple[str, dict[str, str]]] = []
        self.serials = 0
        self.nographic = self.defaults = False
        self.daemonize = False
        self.pidfile: str | None = None
        self.actions = {"reboot": "reset", "shutdown": "poweroff"}
        self.ignored: list[str] = []
        self.printed: str | None = None

    def read(self, argv: list[str]) -> None:
        """Read the arguments; each option has one or two dashes. Raises UsageError in QEMU's words."""
        # Not with click: QEMU's long options have one dash.
        rest = iter(argv)
        for word in rest:
            if not word.startswith("-"):
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
        spelled = f"-{option} {value}"
        backend, _, id = value.partition(":")
        pretty = {"pretty": "on"} if option == "qmp-pretty" else {}
        if backend == "chardev":
            given = {"chardev": id, "mode": {"qmp": "control", "monitor": "readline"}.get(kind, kind)} | pretty
            if kind != "serial":
                self._id("mon", id, spelled)
            self.mons.append((spelled, given))
            return
        made = from_short(option, value, kind, label)
        made.options |= pretty
        if kind == "serial":
            self.serial.append(made)
            if made.kind == "serial":
                self.chardevs[label] = made
                return
        else:
            self._add(made)
        self.monitors.append(made)

    def _add(self, made: Chardev) -> None:
        """Add a device that has an id of its own."""
        # A device of -monitor has a generated id, which -chardev may not use again.
        if any(made.label == each.label for each in self.made):
            raise made.refuse(f"Duplicate ID '{made.label}' for chardev")
        self.made.append(made)

    def _id(self, what: str, id: str, spelled: str) -> None:
        if not valid_id(id):
            raise UsageError(f"{spelled}: Parameter 'id' expects an identifier")
        if id in self.ids[what]:
            raise UsageError(f"{spelled}: Duplicate ID '{id}' for {what}")
        self.ids[what].add(id)

    def _chardev(self, value: str, spelled: str) -> None:
        if value in HELP:
            self.printed = "Available chardev backend types: \n  socket\n  stdio\n  file\n  pty\n  null\n"
            return
        made = from_chardev(value)
        self._add(made)
        self.chardevs[made.label] = made

    def _mon(self, value: str, spelled: str) -> None:
        given = dict(split_options(value, "chardev"))
        check_names(given, "chardev mode pretty id", spelled)
        check_switches(given, ("pretty",), spelled)
        if "id" in given:
            self._id("mon", given["id"], spelled)
        if "chardev" not in given:
            raise UsageError(f"{spelled}: Parameter 'chardev' is missing")
        if given.setdefault("mode", "readline") not in ("readline", "control"):
            raise UsageError(f"{spelled}: Parameter 'mode' does not accept value '{given['mode']}'")
        if given["mode"] == "readline" and "pretty" in given:
            raise UsageError(f"{spelled}: 'pretty' is not compatible with HMP monitors")
        self.mons.append((spelled, given))

    def _memory(self, value: str, spelled: str) -> None:
        given = dict(split_options(value, "size"))
        check_names(given, "size slots maxmem", spelled)
        # hmp cannot plug memory, but a wrong value is an error in QEMU, so all are checked.
        slots = whole(given["slots"], "slots", spelled) if "slots" in given else None
        most = size_of(given["maxmem"], 1, "maxmem", spelled) if "maxmem" in given else None
        size = size_of(given.get("size", "0"), 1 << 20, "size", spelled) or DEFAULT_MEMORY
        if not 4 << 20 <= size <= 16 << 40:
            raise UsageError(f"{spelled}: hmp has machines from 4M to 16T, not of {size} bytes")
        self.memory = size
        if most is None and slots is not None:
            raise UsageError("slots specified but no max-size")
        if slots is not None and slots > 256:
            raise UsageError(f"unsupported amount of memory slots: {slots}")
        if most is not None and most < size:
            raise UsageError(f"invalid value of maxmem: maximum memory size ({most:#x}) must be at least the initial "
                             f"memory size ({size:#x})")  # fmt: skip
        if slots and most == size:
            raise UsageError(f"invalid value of maxmem: memory slots were specified but maximum memory size "
                             f"({size:#x}) is equal to the initial memory size ({size:#x})")  # fmt: skip

    def _name(self, value: str, spelled: str) -> None:
        given = dict(split_options(value, "guest"))
        check_names(given, "guest process debug-threads", spelled)
        check_switches(given, ("debug-threads",), spelled)
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
        for name, word in split_options(value, None):
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
        elif not isinstance(driver, str):
            raise UsageError(f"{spelled}: Parameter 'driver' is missing")
        elif driver not in DRIVERS:
            self._other_device(driver, pairs, spelled)
        elif dict(pairs).get("id") in self.ids["device"]:
            raise UsageError(f"{spelled}: Duplicate ID '{dict(pairs)['id']}' for device")
        elif self.device is not None:
            raise UsageError(f"{spelled}: Only one balloon device is supported")
        else:
            kept = [(key, word) for key, word in pairs if key not in PCI]
            if value.startswith("{"):
                self.device = codec.encode({"driver": driver, **dict(kept)}).decode().strip()
                if "id" in dict(kept):
                    self.ids["device"].add(str(dict(kept)["id"]))
            else:
                for word in [word for key, word in reversed(kept) if key == "id"][-1:]:
                    self._id("device", word, spelled)
                self.device = ",".join([driver, *[f"{key}={word.replace(',', ',,')}" for key, word in kept]])
            try:
                # hmp's own option checks the properties; its error gets QEMU's beginning.
                parse(["--device", self.device])
            except UsageError as error:
                raise UsageError(f"{spelled}: {str(error).removeprefix(f'--device {self.device!r}: ')}") from None

    def _other_device(self, driver: str, pairs: list[tuple[str, Any]], spelled: str) -> None:
        """Check the model and id of a device that is not the balloon. hmp ignores all its other properties."""
        if any(key in HELP for key, _ in pairs):
            known = driver in DEVICES
            self.printed = f"hmp ignores {driver} and its properties\n" if known else ""
            if not known:
                sys.stderr.write(escape(f"Device '{driver}' not found\n"))
            return
        if driver == BACKEND_TYPE:
            raise UsageError(f"{spelled}: No 'virtio-bus' bus found for device '{driver}'")
        for word in [word for key, word in reversed(pairs) if key == "id"][-1:]:
            self._id("device", word, spelled)
        model = driver.removesuffix("-transitional").removesuffix("-non")
        if model not in DEVICES and not model.endswith(("-cpu", "-ccw")):
            self.unknown = self.unknown or UsageError(f"{spelled}: '{driver}' is not a valid device model name")
        self.ignored.append(spelled)

    def _finish(self) -> None:
        """Connect monitors (-mon) with their devices, apply -nographic, and check the use of stdio."""
        # A daemon has no terminal, so nobody could reach its monitor.
        if self.daemonize and self.nographic:
            raise UsageError("-nographic cannot be used with -daemonize")
        for spelled, given in self.mons:
            found = next((each for each in self.made if each.label == given["chardev"]), None)
            serial = given["mode"] == "serial"
            if found is None and serial:
                raise UsageError(f"{spelled}: could not connect serial device to character backend '{spelled[8:]}'")
            if found is None:
                raise UsageError(f'{spelled}: chardev "{given["chardev"]}" not found')
            if self.chardevs.pop(found.label, None) is None:
                if not found.on("mux"):
                    raise UsageError(f"{spelled}: Device '{found.label}' is in use")
                continue  # with mux the first monitor has the device; hmp does not switch to further ones
            found.options |= {"pretty": given["pretty"]} if "pretty" in given else {}
            if serial:
                self.chardevs[found.label] = found
            else:
                found.kind = {"control": "qmp", "readline": "monitor"}[given["mode"]]
                self.monitors.append(found)
        # QEMU gives the terminal to a serial port then, with the monitor behind Ctrl-A c unless there is another one.
        if self.nographic and not self.defaults and not self.serials:
            own = any(each.kind == "monitor" for each in self.monitors)
            self._short("serial", "stdio" if own else "mon:stdio", "serial", "serial0")
            self.serial[0].spelled = ""
        taken = False
        for each in (*self.made, *self.serial):
            if each.backend == "stdio":
                if self.daemonize or taken:
                    how = "with -daemonize" if self.daemonize else "by multiple character devices"
                    raise each.refuse(f"cannot use stdio {how}")
                taken = True

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
        config = parse([f"--memory={self.memory}B", *argv, *own])
        if config is None:
            raise UsageError("HMP_ARGS: --help and the like are for hmp")
        if config.scripted or config.interactive or config.record is not None:
            raise UsageError("HMP_ARGS: SCRIPT, -c, -i and --record are for hmp")
        # Another version of QEMU has other devices.
        if self.unknown is not None and config.qemu_version is None:
            raise self.unknown
        for each in (*self.monitors, *self.chardevs.values()):
            address, shown = each.open()
            if address is None:
                config.chardevs.append((each.label, shown))
            else:
                address.host_files = config.allow_host_files
                config.addresses.append(address)
        config.stdio = any(each.scheme == "stdio" for each in config.addresses)
        # QEMU without a monitor on stdio runs until it is ended.
        config.headless = True
        config.stays = self.actions["shutdown"] == "pause"
        config.resets = self.actions["reboot"] == "reset"
        if self.daemonize or self.pidfile is not None:
            config.on_listening = self._detach
        return config

    def _detach(self) -> Callable[[], None]:
        """Become a daemon and write the pid file, if wanted. Returns a function that removes the file."""
        told = -1
        if self.daemonize:
            heard, told = os.pipe()
            if os.fork():
                os.close(told)
                # The parent ends only when the sockets listen and the pid file is written: a program that started us
                # can connect at once.
                os._exit(0 if os.read(heard, 1) else FAILED)
            os.close(heard)
            os.setsid()
        clean = (lambda: None) if self.pidfile is None else _write_pid(self.pidfile)
        if told >= 0:
            # Only now, so that errors before this point reach the terminal.
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            os.close(null)
            os.write(told, b".")
            os.close(told)
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
