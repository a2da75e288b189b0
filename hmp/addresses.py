"""Where monitors listen: `unix:PATH`, `tcp:HOST:PORT`, `telnet:HOST:PORT`, with QEMU's trailing options."""

from __future__ import annotations

from hmp.monitor import UsageError, escape
from hmp.monitor.dialects import DIALECTS
from hmp.monitor.grammar import SWITCH

UNIX_PATH_LIMIT = 107
"""Bytes of a unix socket's path, as the kernel has room for."""

LOOPBACK_NAMES = ("localhost", "ip6-localhost")

SWITCHES = {
    "wait": ("unix", "tcp", "telnet"),
    "abstract": ("unix",),
    "tight": ("unix",),
    "nodelay": ("tcp", "telnet"),
    "ipv4": ("tcp", "telnet"),
    "ipv6": ("tcp", "telnet"),
}
"""QEMU's options that are on or off, and the schemes that take each. `nodelay` and `tight` are so in any case."""


class Address:
    """One address. `kind` is monitor or qmp, `scheme` unix, tcp or telnet; `dialect` is None for the default.

    `switches` are the options that were set on or off. `host_files` lets clients start programs and name files of this
    host. For unix, `host` is the path, or the name in the abstract namespace, and `port` 0.
    """

    def __init__(self, kind: str, spec: str) -> None:
        """Read `spec`. Raises UsageError that names what is wrong in it."""
        self.kind = kind
        self.spec = spec
        self.dialect: str | None = None
        self.host_files = False
        self.switches: dict[str, bool] = {}
        if "\0" in spec:
            raise self._refuse("an address cannot contain NUL")
        # As in QEMU, two commas stand for one that is part of the path.
        place, *options = (part.replace("\0", ",") for part in spec.replace(",,", "\0").split(","))
        self.scheme, colon, rest = place.partition(":")
        if not colon or self.scheme not in ("unix", "tcp", "telnet") or (self.scheme == "telnet" and kind == "qmp"):
            known = "unix:PATH, tcp:HOST:PORT" + (" or telnet:HOST:PORT" if kind == "monitor" else "")
            raise UsageError(f"--{kind}: '{escape(spec)}' is not {known}")
        self.host, self.port = (rest, 0) if self.scheme == "unix" else self._host_and_port(rest)
        for option in options:
            self._option(option)
        if self.scheme == "unix":
            self._check_path()
        if not any(self.families):
            raise self._refuse("ipv4=off and ipv6=off leave nothing")

    def _refuse(self, why: str) -> UsageError:
        return UsageError(f"--{self.kind}: '{escape(self.spec)}': {why}")

    def _check_path(self) -> None:
        if not self.host:
            raise self._refuse("a path is missing")
        size = len(self.host.encode("utf-8", "surrogateescape"))
        if size > UNIX_PATH_LIMIT:
            raise self._refuse(f"the path has {size} bytes, a unix socket takes {UNIX_PATH_LIMIT}")

    def _host_and_port(self, rest: str) -> tuple[str, int]:
        host, colon, port = rest.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        if not colon or not (port.isascii() and port.isdigit()) or len(port) > 5 or int(port) > 65535:
            raise self._refuse("a port from 0 to 65535 must follow the host")
        return host, int(port)

    def _option(self, option: str) -> None:
        name, _, value = option.partition("=")
        switched = SWITCH.get(value or "on")  # an option without a value says yes
        if name == "dialect":
            if value not in DIALECTS:
                raise self._refuse(f"'{escape(value)}' is not a dialect ({', '.join(DIALECTS)})")
            self.dialect = value
        elif self.scheme in SWITCHES.get(name, ()) and switched is not None:
            self.switches[name] = switched
        elif name == "nowait" and not value:
            self.switches["wait"] = False
        elif name != "server" or not switched:
            known = [f"{switch}=on|off" for switch, schemes in SWITCHES.items() if self.scheme in schemes]
            raise self._refuse(f"'{escape(option)}' is not an option (server=on, {', '.join(known)}, dialect=NAME)")

    @property
    def wait(self) -> bool:
        """Whether the guest is held back until the first client came."""
        return self.switches.get("wait", False)

    @property
    def abstract(self) -> bool:
        """Whether a unix socket has a name in Linux's abstract namespace and no file."""
        return self.switches.get("abstract", False)

    @property
    def families(self) -> tuple[bool, bool]:
        """Whether IPv4 and IPv6 may be used: both unless told; one that is on turns the other off, as in QEMU."""
        four, six = self.switches.get("ipv4"), self.switches.get("ipv6")
        return (not six if four is None else four, not four if six is None else six)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.scheme == "unix" or self.host in LOOPBACK_NAMES or self.host == "::1":
            return True
        parts = self.host.split(".")
        return len(parts) == 4 and parts[0] == "127" and all(part.isdigit() and int(part) < 256 for part in parts)
