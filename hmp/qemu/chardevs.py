"""QEMU's character devices, as the command line spells them, and the addresses of hmp that they come to."""

from __future__ import annotations

import os
import stat

from hmp.addresses import Address
from hmp.monitor import UsageError
from hmp.monitor.commands.machine import split_options
from hmp.monitor.grammar import SWITCH
from hmp.monitor.qom import valid_id
from hmp.qemu.values import check_switches, whole

SILENT = ("null", "vc", "none", "ringbuf", "testdev", "udp", "pipe", "parallel", "msmouse", "wctablet", "spicevmc",
          "spiceport", "qemu-vdagent", "dbus", "braille")  # fmt: skip
"""Backends that nobody reaches, or that are not made: there is nothing behind a silent device."""

_PLACES = {
    "file": "chardev: file: no filename given",
    "pipe": "chardev: pipe: no device path given",
    **dict.fromkeys(("serial", "tty"), "chardev: serial/tty: no device path given"),
    "parallel": "chardev: parallel: no device path given",
}
"""Backends that open a file, and what QEMU says where none is named."""

_ALIASES = {"memory": "ringbuf", "parport": "parallel"}

BACKENDS = ("socket", "stdio", "file", "pty", "serial", "tty", *SILENT)

_OPTIONS_NAMES = (
    "id backend path host port fd to ipv4 ipv6 wait server delay nodelay reconnect telnet tn3270 tls-creds tls- "
    "authz websocket mux logfile logappend signal name debug size chardev append abstract tight width height cols "
    "rows input localaddr localport clipboard mouse width"
)
OPTIONS = frozenset(_OPTIONS_NAMES.split())
_SWITCHES = ("nodelay", "ipv4", "ipv6", "abstract", "tight")


class Chardev:
    """One device. `kind` is monitor, qmp or serial, `spelled` the option and value that errors name.

    `options` are its pairs, the last of a name, in QEMU's words.
    """

    def __init__(self, spelled: str, kind: str, label: str, backend: str, options: dict[str, str]) -> None:
        self.spelled = spelled
        self.kind = kind
        self.label = label
        self.backend = backend
        self.options = options
        for name in options:
            if name not in OPTIONS:
                raise self.refuse(f"Invalid parameter '{name}'")
        switches = "server wait mux telnet tn3270 websocket delay append logappend signal"
        check_switches(options, (*_SWITCHES, *switches.split()), spelled)
        if backend == "socket":
            self._check_socket()

    def refuse(self, why: str) -> UsageError:
        """Return the error for what is wrong with the device."""
        return UsageError(f"{self.spelled}: {why}" if self.spelled else why)

    def _check_socket(self) -> None:
        given = self.options
        for name in ("reconnect", "to"):
            if name in given:
                whole(given[name], name, self.spelled)
        if len(given.keys() & {"path", "fd", "host"}) > 1:
            raise self.refuse("None or one of 'path', 'fd' or 'host' option required.")
        if "host" in given and "port" not in given:
            raise self.refuse("chardev: socket: no port given")
        if not given.keys() & {"path", "host"}:
            fd = given.get("fd", "")
            if not fd.isdecimal():
                raise self.refuse(f"Unable to parse FD number {fd}")
            try:
                is_socket = stat.S_ISSOCK(os.fstat(int(fd)).st_mode)
            except (OSError, OverflowError):
                is_socket = False
            if not is_socket:
                raise self.refuse(f"File descriptor '{fd}' is not a socket")
        for name in ("tn3270", "websocket"):
            if self.on(name):
                raise self.refuse(f"hmp has no {name}")
        if "tls-creds" in given:
            raise self.refuse(f"No TLS credentials with id '{given['tls-creds']}'")

    def on(self, name: str) -> bool:
        """Whether an option is on."""
        return SWITCH[self.options.get(name, "off")]

    def open(self) -> tuple[Address | None, str]:
        """Return the address to serve, or None, and the name of what query-chardev shows for it otherwise.

        What is a file or a terminal is made here, and stays open. Raises UsageError.
        """
        if self.backend in ("socket", "stdio"):
            return self._address(), ""
        path = self.options.get("path", "")
        if self.backend in _PLACES:
            if "path" not in self.options:
                raise self.refuse(_PLACES[self.backend])
            # What QEMU writes to, as long as nothing is written here: there has to be one.
            end = os.O_CREAT | (os.O_APPEND if self.on("append") else os.O_TRUNC) if self.backend == "file" else 0
            try:
                os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | end, 0o666)
            except OSError as error:
                raise self.refuse(f"Could not open '{path}': {error.strerror}") from None
            return None, self.backend
        if self.backend == "pty":
            _, terminal = os.openpty()
            return None, f"pty:{os.ttyname(terminal)}"
        if self.kind != "serial" and self.backend not in ("null", "vc", "none"):
            raise self.refuse(f"hmp has no monitor on a '{self.backend}'")
        return None, self.backend

    def _address(self) -> Address:
        address = Address(self.kind, self._spec(), self.spelled)
        address.label = self.label
        address.pretty = self.on("pretty")
        return address

    def _spec(self) -> str:
        given = self.options
        if self.backend == "stdio":
            return "stdio,mux=on" if self.on("mux") else "stdio"
        if "path" in given:
            place = "unix:" + given["path"].replace(",", ",,")
        elif "host" in given:
            host = given.get("host") or "127.0.0.1"
            place = f"{'telnet' if self.on('telnet') else 'tcp'}:{f'[{host}]' if ':' in host else host}:{given['port']}"
        else:
            return f"fd:{given['fd']}"
        of_scheme = ("abstract", "tight") if "path" in given else ("nodelay", "ipv4", "ipv6")
        words = [f"{name}={given[name]}" for name in of_scheme if name in given]
        if "host" in given and given.get("delay") in ("off", "no"):  # how QEMU reads a bare nodelay
            words.append("nodelay=on")
        if self.on("server"):
            if "reconnect" in given:
                raise self.refuse("'reconnect' option is incompatible with socket in server listen mode")
            words.append(f"wait={given.get('wait', 'on')}")
        else:
            if "wait" in given:
                raise self.refuse("'wait' option is incompatible with socket in client connect mode")
            words.append("server=off")
            if "reconnect" in given:
                words.append(f"reconnect={given['reconnect']}")
        return ",".join([place, *words])


def from_chardev(text: str) -> Chardev:
    """Read the value of -chardev. Raises UsageError in QEMU's words."""
    spelled, given = f"-chardev {text}", dict(split_options(text, "backend"))
    backend, label = given.pop("backend", None), given.pop("id", None)
    backend = _ALIASES.get(str(backend), backend)
    if label is None:
        raise UsageError(f"{spelled}: chardev: no id specified")
    if not valid_id(label):
        raise UsageError(f"{spelled}: Parameter 'id' expects an identifier")
    if backend not in BACKENDS:
        if backend is None:
            raise UsageError(f'{spelled}: chardev: "{label}" missing backend')
        raise UsageError(f"{spelled}: '{backend}' is not a valid char driver name")
    return Chardev(spelled, "serial", label, backend, given)


def from_short(option: str, text: str, kind: str, label: str) -> Chardev:
    """Read the value of -monitor, -qmp, -serial and the like, such as unix:PATH,server,nowait. Raises UsageError."""
    spelled = f"-{option} {text}"
    backend, colon, rest = text.partition(":")
    given: dict[str, str] = {}
    if backend == "mon" and colon:
        try:
            inner = from_short(option, rest, "monitor", label)
        except UsageError as error:
            raise UsageError(f"{spelled}: {str(error).partition(f'{rest}: ')[2]}") from None
        inner.spelled = spelled
        inner.options["mux"] = "on"
        return inner
    if backend in ("unix", "tcp", "telnet") and colon:
        place, comma, more = rest.partition(",")
        if backend == "unix":
            given = dict(split_options(rest, "path"))
        else:
            host, colon, port = place.rpartition(":")
            if not colon or not port:
                why = f"could not connect serial device to character backend '{text}'"
                raise UsageError(f"{spelled}: {why if option == 'serial' else f'parse error: {text}'}")
            given = {"host": host.strip("[]"), "port": port, **dict(split_options(f"x{comma}{more}", "backend"))}
            given["telnet"] = "on" if backend == "telnet" else "off"
        given.pop("backend", None)
        backend = "socket"
    elif backend in ("file", "pipe", "udp") and colon:
        given = {"path": rest}
    elif backend.startswith("/dev/"):
        backend, given = "parallel" if backend.startswith("/dev/parport") else "serial", {"path": backend}
    elif backend not in ("stdio", "null", "vc", "pty", "msmouse", "braille", "testdev"):
        raise UsageError(f"{spelled}: '{text}' is not a valid char driver")
    return Chardev(spelled, kind, label, backend.partition(",")[0], given)
