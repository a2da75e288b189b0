"""Addresses of monitors: `unix:PATH`, `tcp:HOST:PORT`, `telnet:HOST:PORT`, `fd:N` or `stdio`, with QEMU's options."""

from __future__ import annotations

import os
import stat

from device.errors import MisuseError
from device.units import parse_seconds
from hmp.monitor import UsageError, escape
from hmp.monitor.dialects import DIALECTS
from hmp.monitor.grammar import SWITCH
from hmp.streams import complain

UNIX_PATH_LIMIT = 107
"""The most bytes of a unix socket's path: the kernel has room for 108 with the NUL."""

LOOPBACK_NAMES = ("localhost", "ip6-localhost")

PLACES = {"unix": "unix:PATH", "tcp": "tcp:HOST:PORT", "fd": "fd:N", "stdio": "stdio", "telnet": "telnet:HOST:PORT"}
"""The schemes, and the form of an address of each. QMP has telnet only on QEMU's command line (hmp-qemu)."""

SWITCHES = {
    "server": ("unix", "tcp", "telnet"), "mux": ("stdio",), "wait": ("unix", "tcp", "telnet"),
    "abstract": ("unix",), "tight": ("unix",), "nodelay": ("tcp", "telnet"), "ipv4": ("tcp", "telnet"),
    "ipv6": ("tcp", "telnet"),
}  # fmt: skip
"""QEMU's options that are on or off, and the schemes that take each. `nodelay` and `tight` have no effect, because hmp
always works like that. With `mux` a serial port shares the stream, and Ctrl-A c switches to the monitor."""

LONGEST_PAUSE = 3600
"""The most seconds between two tries to connect; a larger number is most likely a typing error."""


def is_socket(text: str) -> bool:
    """Whether `text` is the number of a descriptor that is an open socket."""
    try:
        # Python converts thousands of digits slowly or not at all.
        return text.isascii() and text.isdigit() and len(text) < 8 and stat.S_ISSOCK(os.fstat(int(text)).st_mode)
    except OSError:
        return False


class Address:
    """One address. `kind` is monitor, qmp or serial (which sends nothing). `label` is its name in query-chardev,
    `scheme` one of PLACES. `dialect` is None for the default.

    `switches` has the options that were set on or off. `host_files` lets clients start programs and name files of this
    host. For unix, `host` is the path or the abstract name, and `port` is 0; for fd, `port` is the descriptor. If hmp
    connects to the address, `reconnect` is the pause (ns) before it connects again, or None for never. `pretty` indents
    the output of QMP. For stdio, `ends` are the descriptors to read (-1: none) and to write.

    On QEMU's command line `ends` can be a terminal, a file or a pipe, and `shown` is its name in query-chardev; `used`
    is false for a device that no monitor and no serial port uses; `service` is the port as it was written. What clients
    are sent is also written to the descriptor `logfile` (-1: none).
    """

    def __init__(self, kind: str, spec: str, spelled: str = "") -> None:
        """Read `spec`. Raises UsageError, which names what is wrong.

        `spelled` is the option of QEMU that it comes from.
        """
        self.kind, self.spec, self.spelled = kind, spec, spelled
        self.dialect: str | None = None
        self.host_files = False
        self.label = ""
        self.ends: tuple[int, int] = (0, 1)
        self.shown = ""
        self.used = True
        self.service = ""
        self.logfile = -1
        self.pretty = False
        self.reconnect: int | None = None
        self.switches: dict[str, bool] = {}
        # Below NUL stands for a comma that is part of the path.
        if "\0" in spec:
            raise self.refuse("an address cannot contain NUL")
        # As in QEMU, two commas stand for one comma in the path.
        place, *options = (part.replace("\0", ",") for part in spec.replace(",,", "\0").split(","))
        self.scheme, colon, rest = place.partition(":")
        if (
            self.scheme not in PLACES
            or bool(colon) is (self.scheme == "stdio")
            or ((kind, self.scheme) == ("qmp", "telnet") and not spelled)
        ):
            known = list(PLACES.values())[: -1 if kind == "qmp" else None]
            raise UsageError(f"--{kind}: '{escape(spec)}' is not {', '.join(known[:-1])} or {known[-1]}")
        self.host, self.port = rest, 0
        if self.scheme == "fd":
            self.port = self._descriptor(rest)
        elif self.scheme in ("tcp", "telnet"):
            self.host, self.port = self._host_and_port(rest)
        for option in options:
            self._option(option)
        self.server = self.scheme in SWITCHES["server"] and self.switches.get("server", True)
        """Whether clients connect to the address. If not, hmp connects to it, or it is open already."""
        self.ports = 1 if self.switches.get("mux") else None
        """How many serial ports share the stream, or None if it has no keys to switch between its users."""
        self.wait = self.switches.get("wait", False)
        """Whether the machine starts only after the first client has come."""
        self.abstract = self.switches.get("abstract", False)
        """Whether a unix socket has a name in Linux's abstract namespace in place of a file."""
        if self.server and self.reconnect is not None:
            raise self.refuse("reconnect=SEC needs server=off: hmp connects to nobody here")
        if not self.server and "wait" in self.switches:
            raise self.refuse("server=off has no client to wait for")
        if self.scheme == "unix":
            self._check_path()
        if not any(self.families):
            # For an option of QEMU's command line the error has QEMU's words.
            nothing = "Cannot disable IPv4 and IPv6 at same time", "ipv4=off and ipv6=off leave no address family"
            raise self.refuse(nothing[not spelled])

    def refuse(self, why: str) -> UsageError:
        """Return an error about the address."""
        where = escape(self.spelled) or f"--{self.kind}: '{escape(self.spec)}'"
        return UsageError(f"{where}: {why}")

    def keep(self, data: bytes) -> None:
        """Write `data` to the logfile, if there is one. If that fails, one line says so, and nothing more is logged."""
        while data and self.logfile >= 0:
            try:
                data = data[os.write(self.logfile, data) :]
            except OSError as error:
                os.close(self.logfile)
                self.logfile = -1
                complain(f"{self.spelled}: logfile: {error.strerror}; nothing more is logged")

    def _check_path(self) -> None:
        if not self.host:
            raise self.refuse("a path is missing")
        size = len(self.host.encode("utf-8", "surrogateescape"))
        if size > UNIX_PATH_LIMIT:
            raise self.refuse(f"the path has {size} bytes, a unix socket takes {UNIX_PATH_LIMIT}")

    def _host_and_port(self, rest: str) -> tuple[str, int]:
        # From the right, because an IPv6 address has colons itself.
        host, colon, port = rest.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        # Five digits are enough for 65535; Python need not convert longer ones.
        if not colon or not (port.isascii() and port.isdigit()) or len(port) > 5 or int(port) > 65535:
            raise self.refuse("a port from 0 to 65535 must follow the host")
        try:
            host.encode("idna")  # as getaddrinfo does it later
        except UnicodeError:
            raise self.refuse("not a host name") from None
        return host, int(port)

    def _descriptor(self, text: str) -> int:
        """Read a descriptor that the caller passed.

        It is checked now: later the number could be a descriptor of our own.
        """
        # A file or a pipe cannot be a client: it has one direction and no half-close.
        if not is_socket(text):
            raise self.refuse("the descriptor is not an open socket")
        return int(text)

    def _option(self, option: str) -> None:
        name, _, value = option.partition("=")
        switched = SWITCH.get(value or "on")  # an option without a value is on
        if name == "dialect":
            if value not in DIALECTS:
                raise self.refuse(f"'{escape(value)}' is not a dialect ({', '.join(DIALECTS)})")
            self.dialect = value
        elif self.scheme in SWITCHES.get(name, ()) and switched is not None:
            self.switches[name] = switched
        # QEMU's old word for wait=off; programs that start QEMU still write it.
        elif name == "nowait" and not value:
            self.switches["wait"] = False
        elif name == "reconnect" and self.scheme in SWITCHES["server"]:
            try:
                self.reconnect = parse_seconds(value) or None  # 0 is never, as in QEMU
            except MisuseError as error:
                raise self.refuse(f"reconnect: {error}") from None
            if (self.reconnect or 0) > LONGEST_PAUSE * 10**9:
                raise self.refuse(f"reconnect takes at most {LONGEST_PAUSE} seconds")
        else:
            known = [f"{switch}=on|off" for switch, schemes in SWITCHES.items() if self.scheme in schemes]
            raise self.refuse(f"'{escape(option)}' is not an option ({', '.join([*known, 'dialect=NAME'])})")

    @property
    def terminal(self) -> bool:
        """Whether it is a pseudoterminal of our own, which programs open one after the other."""
        return self.shown.startswith("pty:")

    @property
    def path(self) -> str:
        """The name of a unix socket, as bind() and connect() take it."""
        return f"\0{self.host}" if self.abstract else self.host

    @property
    def families(self) -> tuple[bool, bool]:
        """Whether IPv4 and IPv6 may be used. The default is both; if one is set on, the other is off, as in QEMU."""
        four, six = self.switches.get("ipv4"), self.switches.get("ipv6")
        return (not six if four is None else four, not four if six is None else six)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        # Only names that mean loopback everywhere. Others are not looked up: the answer could change before the
        # socket is made.
        if self.scheme not in ("tcp", "telnet") or self.host in LOOPBACK_NAMES or self.host == "::1":
            return True
        parts = self.host.split(".")
        return len(parts) == 4 and parts[0] == "127" and all(part.isdigit() and int(part) < 256 for part in parts)
