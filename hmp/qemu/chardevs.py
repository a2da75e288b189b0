"""QEMU's character devices, in the forms of its command line, and the addresses of hmp that they become."""

from __future__ import annotations

import os

from hmp.addresses import Address, is_socket
from hmp.monitor import UsageError
from hmp.monitor.commands.machine import split_options
from hmp.monitor.grammar import SWITCH
from hmp.monitor.qom import valid_id
from hmp.qemu.values import check_switches, whole

SILENT = ("null", "vc", "none", "ringbuf", "testdev", "udp", "pipe", "parallel", "msmouse", "wctablet", "spicevmc",
          "spiceport", "qemu-vdagent", "dbus", "braille")  # fmt: skip
"""Backends that hmp accepts and ignores, because nothing is ever written to such a device."""

_PLACES = {
    "file": "chardev: file: no filename given",
    "pipe": "chardev: pipe: no device path given",
    **dict.fromkeys(("serial", "tty"), "chardev: serial/tty: no device path given"),
    "parallel": "chardev: parallel: no device path given",
}
"""Backends that open a file, and QEMU's error if no file is named."""

_ALIASES = {"memory": "ringbuf", "parport": "parallel"}

BACKENDS = ("socket", "stdio", "file", "pty", "serial", "tty", *SILENT)

# All names of QEMU 7.2, also those without a meaning here: a mistyped name has to be an error.
_OPTIONS_NAMES = (
    "id backend path host port fd to ipv4 ipv6 wait server delay nodelay reconnect telnet tn3270 tls-creds tls- "
    "authz websocket mux logfile logappend signal name debug size chardev append abstract tight width height cols "
    "rows input localaddr localport clipboard mouse width"
)
OPTIONS = frozenset(_OPTIONS_NAMES.split())
_SWITCHES = ("nodelay", "ipv4", "ipv6", "abstract", "tight")


class Chardev:
    """One device. `kind` is monitor, qmp or serial. `spelled` is the option with its value, for errors.

    `options` has its options by QEMU's names; of one that is given twice it has the last value.
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
        """Return an error about the device."""
        return UsageError(f"{self.spelled}: {why}" if self.spelled else why)

    def _check_socket(self) -> None:
        given = self.options
        for name in ("reconnect", "to"):
            if name in given:
                whole(given[name], name, self.spelled)
        # The checks are in QEMU's order, because QEMU reports the first error.
        if len(given.keys() & {"path", "fd", "host"}) > 1:
            raise self.refuse("None or one of 'path', 'fd' or 'host' option required.")
        if "host" in given and "port" not in given:
            raise self.refuse("chardev: socket: no port given")
        # A socket needs a path, a host or a descriptor. QEMU takes a missing descriptor for one without a number.
        if not given.keys() & {"path", "host"}:
            fd = given.get("fd", "")
            if not fd.isdecimal():
                raise self.refuse(f"Unable to parse FD number {fd}")
            if not is_socket(fd):
                raise self.refuse(f"File descriptor '{fd}' is not a socket")
        for name in ("tn3270", "websocket"):
            if self.on(name):
                raise self.refuse(f"hmp has no {name}")
        if "tls-creds" in given:
            raise self.refuse(f"No TLS credentials with id '{given['tls-creds']}'")

    def on(self, name: str) -> bool:
        """Whether an option is on; the default is off."""
        return SWITCH[self.options.get(name, "off")]

    def open(self) -> tuple[Address | None, str]:
        """Return (address to serve, ""), or (None, name for query-chardev) if there is nothing to serve.

        A file or a terminal is opened here and stays open. Raises UsageError.
        """
        if self.backend in ("socket", "stdio"):
            return self._address(), ""
        path = self.options.get("path", "")
        if self.backend in _PLACES:
            if "path" not in self.options:
                raise self.refuse(_PLACES[self.backend])
            # hmp writes nothing to it. But QEMU makes the file, and a path that cannot be opened is an error.
            end = os.O_CREAT | (os.O_APPEND if self.on("append") else os.O_TRUNC) if self.backend == "file" else 0
            try:
                os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | end, 0o666)
            except OSError as error:
                raise self.refuse(f"Could not open '{path}': {error.strerror}") from None
            return None, self.backend
        if self.backend == "pty":
            # Programs look for the name of the terminal and open it.
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
        if "host" in given and given.get("delay") in ("off", "no"):  # QEMU reads a bare nodelay as delay=off
            words.append("nodelay=on")
        if self.on("server"):
            if "reconnect" in given:
                raise self.refuse("'reconnect' option is incompatible with socket in server listen mode")
            # QEMU waits for the first client unless it is told not to; hmp's own options do not.
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
    # A serial port until -mon makes a monitor of it.
    return Chardev(spelled, "serial", label, backend, given)


def from_short(option: str, text: str, kind: str, label: str) -> Chardev:
    """Read the value of -monitor, -qmp, -serial and so on, such as unix:PATH,server,nowait. Raises UsageError."""
    spelled = f"-{option} {text}"
    backend, colon, rest = text.partition(":")
    given: dict[str, str] = {}
    if backend == "mon" and colon:
        try:
            inner = from_short(option, rest, "monitor", label)
        except UsageError as error:
            # Errors name the whole option and not the part after mon:.
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
            # split_options takes a first word without key as the backend, so a dummy word stands there; it is dropped
            # below.
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
    return Chardev(spelled, kind, label, backend, given)
