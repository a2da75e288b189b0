"""QEMU's character devices, in the forms of its command line, and the addresses of hmp that they become."""

from __future__ import annotations

import os
import re
import socket
import sys
import termios
import tty

from hmp.addresses import LONGEST_PAUSE, Address, is_socket
from hmp.monitor import UsageError
from hmp.monitor.commands.machine import split_options
from hmp.monitor.grammar import SWITCH
from hmp.monitor.qom import valid_id
from hmp.qemu.values import Parameters, size_of, whole

SILENT = ("null", "vc", "ringbuf", "msmouse", "wctablet", "qemu-vdagent")
"""Backends that drop what is written to them. A monitor may use these, but not the others that hmp cannot serve."""

_BACKENDS = ("socket", "stdio", "file", "pty", "pipe", "serial", *SILENT, "testdev", "udp", "parallel", "mux",
             "spicevmc", "spiceport", "dbus", "braille")  # fmt: skip

_NEEDS = {
    "file": ("path", "chardev: file: no filename given"),
    "pipe": ("path", "chardev: pipe: no device path given"),
    "serial": ("path", "chardev: serial/tty: no device path given"),
    "parallel": ("path", "chardev: parallel: no device path given"),
    "udp": ("port", "chardev: udp: remote port not specified"),
    "mux": ("chardev", "chardev: mux: no chardev given"),
    "spicevmc": ("name", "chardev: spice channel: no name given"),
    "spiceport": ("name", "chardev: spice port: no name given"),
    "dbus": ("name", "chardev: dbus: no name given"),
}
"""The option that a backend needs, and QEMU's error without it."""

_UNAVAILABLE = {
    "mux": "mux: base chardev {chardev} not found",
    "spicevmc": "unsupported type name: {name}",
    "spiceport": "spice not enabled",
    "braille": "brlapi__openConnection: connect: No such file or directory",
    "parallel": "not a parallel port: Inappropriate ioctl for device",
}
"""Backends that never work in hmp, and the error that QEMU gives where they do not work."""

_ALIASES = {"memory": "ringbuf", "parport": "parallel", "tty": "serial"}

PARAMETERS = Parameters(
    "id backend path host port fd localaddr localport tls-creds tls-authz name chardev logfile",
    switch="ipv4 ipv6 wait server delay nodelay telnet tn3270 websocket mux signal append logappend mouse clipboard "
    "abstract tight",
    number="to reconnect width height cols rows debug",
    size="size",
)

UNREADABLE = {"serial": "could not connect serial device to character backend '{}'",
          "parallel": "could not connect parallel device to character backend '{}'",
          "debugcon": "invalid character backend '{}'"}  # fmt: skip
"""QEMU's errors for a short form that it cannot read. For the monitor options it is "parse error" instead."""

# As C's scanf reads them.
_PLACE = r"(?:([^:]{1,64}):|:)([^,%s]{1,32})"
_INET = re.compile(_PLACE % "")
_UDP = re.compile(f"{_PLACE % '@'}(?:@{_PLACE % ''})?")
_VC = re.compile(r"vc(?::([0-9]{1,7})(?:x([0-9]{1,7})|Cx([0-9]{1,7}))|(?!:))")


class Chardev:
    """One device. `kind` is monitor, qmp or serial. `spelled` is the option with its value, for errors.

    `options` has its options by QEMU's names. If one is given twice, the last value counts.
    """

    def __init__(self, spelled: str, kind: str, label: str, options: dict[str, str]) -> None:
        self.spelled = spelled
        self.kind = kind
        self.label = label
        named = options.get("backend")
        self.backend = named and _ALIASES.get(named, named)
        self.options = options
        self.users = 0
        """How many monitors and guest devices use it."""
        self.used = False
        """Whether one of them has opened it."""
        self.logfile = -1

    def refuse(self, why: str) -> UsageError:
        """Return an error about the device."""
        return UsageError(f"{self.spelled}: {why}" if self.spelled else why)

    def use(self, more: int = 1, *, opens: bool = True) -> bool:
        """Count `more` users of the device. Returns whether so many can share it."""
        self.users += more
        self.used = self.used or opens
        return self.users <= (4 if self.on("mux") else 1)

    def on(self, name: str) -> bool:
        """Whether an option is on; the default is off."""
        return SWITCH[self.options.get(name, "off")]

    def check(self) -> None:
        """Make the checks that QEMU makes when it creates the device, in QEMU's order.

        Raises UsageError in QEMU's words.
        """
        given, backend = self.options, self.backend
        if not self.label:
            raise self.refuse("chardev: no id specified")
        if backend is None:
            raise self.refuse(f'chardev: "{self.label}" missing backend')
        if backend not in _BACKENDS:
            raise self.refuse(f"'{backend}' is not a valid char driver name")
        needed, missing = _NEEDS.get(backend, ("backend", ""))
        if needed not in given or (backend == "udp" and not given[needed]):
            raise self.refuse(missing)
        if "logfile" in given:
            end = os.O_APPEND if self.on("logappend") else os.O_TRUNC
            self.logfile = self._open(given["logfile"], os.O_WRONLY | os.O_CREAT | end, "create")
        if backend == "socket":
            self._check_socket()
        elif backend == "ringbuf" and size_of(given.get("size", "0"), "size", "").bit_count() > 1:
            raise self.refuse("size of ringbuf chardev must be power of two")
        elif backend == "udp":
            given["host"] = given.get("host") or "localhost"
            self._port("host", "port")
            self._port("localaddr", "localport")
        elif backend == "parallel":
            self._open(given["path"], os.O_RDWR)
        if backend in _UNAVAILABLE:
            raise self.refuse(_UNAVAILABLE[backend].format_map(given))

    def _check_socket(self) -> None:
        given = self.options
        listens = self.on("server")
        if len(given.keys() & {"path", "fd", "host"}) > 1:
            raise self.refuse("None or one of 'path', 'fd' or 'host' option required.")
        if "host" in given and "port" not in given:
            raise self.refuse("chardev: socket: no port given")
        name, mode = ("reconnect", "server listen") if listens else ("wait", "client connect")
        if name in given:
            raise self.refuse(f"'{name}' option is incompatible with socket in {mode} mode")
        if "tls-authz" in given and "tls-creds" not in given:
            raise self.refuse("'tls_authz' option requires 'tls_creds' option")
        if self.on("websocket") and not listens:
            raise self.refuse("Websocket client is not implemented")
        if "tls-creds" in given:
            raise self.refuse(f"No TLS credentials with id '{given['tls-creds']}'")
        # With neither path nor host QEMU reads `fd`. If that is missing too, its error is about an empty number.
        if not given.keys() & {"path", "host"}:
            fd = given.get("fd", "")
            if not re.fullmatch(r"[-+]?[0-9]+", fd, re.ASCII):
                raise self.refuse(f"Unable to parse FD number {fd}")
            if not is_socket(fd):
                raise self.refuse(f"File descriptor '{fd}' is not a socket")
        for name in ("tn3270", "websocket"):
            if self.on(name):
                raise self.refuse(f"hmp has no {name}")
        if "host" in given:
            self._port("host", "port")

    def _port(self, host: str, name: str) -> int:
        """Return a port's number as the C library reads it: a service name is looked up, and only 16 bits are kept.

        Raises UsageError.
        """
        place, port = self.options.get(host, "(null)"), self.options.get(name) or "0"
        try:
            found = socket.getaddrinfo(None, port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise self.refuse(f"address resolution failed for {place}:{port}: {error.strerror}") from None
        return int(found[0][4][1])

    def _open(self, path: str, flags: int, verb: str = "open") -> int:
        try:
            # NOCTTY: a terminal that is opened here must not become the one whose hang-up ends hmp.
            return os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, 0o666)
        except OSError as error:
            raise self.refuse(f"Could not {verb} '{path}': {error.strerror}") from None

    def open(self) -> Address | None:
        """Return the address to serve, or None if no client can reach it. Files, pipes and terminals are opened here.

        Raises UsageError.
        """
        if self.backend in ("socket", "stdio"):
            return self._address(self._spec())
        path = self.options.get("path", "")
        if self.backend == "pty":
            near, terminal = os.openpty()
            tty.setraw(terminal)
            name = os.ttyname(terminal)
            # The client opens the terminal by its name.
            os.close(terminal)
            os.set_blocking(near, False)
            sys.stdout.write(f"char device redirected to {name} (label {self.label})\n")
            sys.stdout.flush()
            return self._stream(near, near, f"pty:{name}")
        if self.backend == "file":
            end = os.O_APPEND if self.on("append") else os.O_TRUNC
            return self._stream(-1, self._open(path, os.O_WRONLY | os.O_CREAT | end))
        # Each pipe is opened both ways, as in QEMU: so it waits for no client, and does not end when one leaves.
        if self.backend == "pipe" and os.path.exists(f"{path}.in") and os.path.exists(f"{path}.out"):
            return self._stream(self._open(f"{path}.in", os.O_RDWR), self._open(f"{path}.out", os.O_RDWR))
        if self.backend in ("pipe", "serial"):
            both = self._open(path, os.O_RDWR)
            try:
                tty.setraw(both)
            except termios.error:  # a pipe or a file
                pass
            return self._stream(both, both)
        if self.kind != "serial" and self.backend not in SILENT:
            raise self.refuse(f"hmp has no monitor on a '{self.backend}'")
        # A monitor greets there, and the log has that.
        if self.logfile >= 0 and self.kind != "serial" and self.backend != "null":
            return self._stream(-1, self._open(os.devnull, os.O_WRONLY))
        return None

    def _stream(self, source: int, target: int, name: str = "") -> Address:
        made = self._address(self._stdio())
        made.ends, made.shown = (source, target), name or str(self.backend)
        return made

    def _address(self, spec: str) -> Address:
        address = Address(self.kind, spec, self.spelled)
        # With mux QEMU makes two devices: the mux has the label, and the stream below it has LABEL-base.
        address.label = f"{self.label}-base" if self.on("mux") else self.label
        address.pretty, address.used = self.on("pretty"), self.used
        address.ports = self.users - (self.kind != "serial") if self.on("mux") else None
        address.service, address.logfile = self.options.get("port", ""), self.logfile
        return address

    def _stdio(self) -> str:
        return "stdio,mux=on" if self.on("mux") else "stdio"

    def _spec(self) -> str:
        given = self.options
        if self.backend == "stdio":
            return self._stdio()
        if "path" in given:
            place = "unix:" + given["path"].replace(",", ",,")
        elif "host" in given:
            host = given.get("host") or "127.0.0.1"
            place = f"{'telnet' if self.on('telnet') else 'tcp'}:{f'[{host}]' if ':' in host else host}:"
            place += str(self._port("host", "port"))
        else:
            return f"fd:{given['fd']}"
        of_scheme = ("abstract", "tight") if "path" in given else ("nodelay", "ipv4", "ipv6")
        words = [f"{name}={given[name]}" for name in of_scheme if name in given]
        if "host" in given and not SWITCH[given.get("delay", "on")]:  # QEMU reads a bare nodelay as delay=off
            words.append("nodelay=on")
        if self.on("server"):
            # QEMU waits for the first client unless wait=off is given; hmp's own options do not wait by default.
            words.append(f"wait={given.get('wait', 'on')}")
        else:
            words.append("server=off")
            if "reconnect" in given:
                pause = whole(given["reconnect"], "reconnect", self.spelled)
                # A number that is negative in 64 bits means the same as 0. A pause longer than hmp's longest is cut.
                words.append(f"reconnect={0 if pause >> 63 else min(pause, LONGEST_PAUSE)}")
        return ",".join([place, *words])


def from_chardev(text: str, spelled: str) -> Chardev:
    """Read the value of -chardev. Raises UsageError in QEMU's words."""
    given = split_options(text, "backend")
    label = dict(reversed(given)).get("id")
    if label is not None and not valid_id(label):
        raise UsageError(f"{spelled}: Parameter 'id' expects an identifier")
    PARAMETERS.check(given, spelled)
    # It counts as a serial port until -mon makes it a monitor.
    return Chardev(spelled, "serial", label or "", dict(given))


def from_short(option: str, text: str, kind: str, label: str, spelled: str) -> Chardev:
    """Read the value of -monitor, -qmp, -serial and so on, such as unix:PATH,server,nowait. Raises UsageError."""
    wrong = UsageError(f"{spelled}: {UNREADABLE.get(option, 'parse error: {}').format(text)}")
    place, mux = (text[4:], {"mux": "on"}) if text.startswith("mon:") else (text, {})
    backend, colon, rest = place.partition(":")
    given: dict[str, str] = {}
    if text.startswith("chardev:"):  # only -debugcon gets here: for the other options the caller handles chardev:
        raise wrong
    if place in ("stdio", "null", "pty", "msmouse", "braille", "testdev", "wctablet"):
        given = {"backend": place}
    elif place.startswith("vc"):
        size = _VC.match(place)
        if size is None:
            raise wrong
        given = {"backend": "vc"}
    elif colon and backend == "unix":
        pairs = split_options(rest, "path")
        PARAMETERS.check(pairs, spelled)
        given = dict(pairs) | {"backend": "socket"}
    elif colon and backend in ("tcp", "telnet", "tn3270", "websocket"):
        found = _INET.match(rest)
        if found is None:
            raise wrong
        pairs = split_options(rest[found.end() + 1 :], None)
        PARAMETERS.check(pairs, spelled)
        given = {"backend": "socket", "host": found[1] or "", "port": found[2], **dict(pairs)}
        given |= {backend: "on"} if backend != "tcp" else {}
    elif colon and backend == "udp":
        found = _UDP.match(rest)
        if found is None:
            raise wrong
        given = {"backend": backend, "host": found[1] or "", "port": found[2], "localport": found[4] or "0"}
    elif colon and backend in ("file", "pipe"):
        given = {"backend": backend, "path": rest}
    elif place.startswith(("/dev/", "COM")):
        parallel = place.startswith(("/dev/parport", "/dev/ppi"))
        given = {"backend": "parallel" if parallel else "serial", "path": place}
    elif place == "con:":
        given = {"backend": "console"}
    else:
        raise UsageError(f"{spelled}: '{place}' is not a valid char driver")
    made = Chardev(spelled, "monitor" if mux and kind == "serial" else kind, label, given | mux)
    made.use(1 + bool(mux and kind == "serial"))
    return made
