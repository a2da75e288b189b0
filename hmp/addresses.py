"""Where monitors listen: `unix:PATH`, `tcp:HOST:PORT`, `telnet:HOST:PORT`, with QEMU's trailing options."""

from __future__ import annotations

from hmp.monitor.dialects import DIALECTS
from hmp.monitor.errors import UsageError
from hmp.monitor.escape import escape
from hmp.monitor.grammar import SWITCH

UNIX_PATH_LIMIT = 107
"""Bytes of a unix socket's path, as the kernel has room for."""

LOOPBACK_NAMES = ("localhost", "ip6-localhost")


class Address:
    """One address. `kind` is monitor or qmp, `scheme` unix, tcp or telnet; `dialect` is None for the default.

    `wait` holds the guest back until the first client came; `host_files` lets clients start programs and name files of
    this host. For unix, `host` is the path and `port` 0.
    """

    __slots__ = ("dialect", "host", "host_files", "kind", "port", "scheme", "spec", "wait")

    def __init__(self, kind: str, spec: str) -> None:
        """Read `spec`. Raises UsageError that names what is wrong in it."""
        self.kind = kind
        self.spec = spec
        self.dialect: str | None = None
        self.wait = self.host_files = False
        if "\0" in spec:
            raise self._refuse("an address cannot contain NUL")
        # As in QEMU, two commas stand for one that is part of the path.
        place, *options = (part.replace("\0", ",") for part in spec.replace(",,", "\0").split(","))
        self.scheme, colon, rest = place.partition(":")
        if not colon or self.scheme not in ("unix", "tcp", "telnet") or (self.scheme == "telnet" and kind == "qmp"):
            known = "unix:PATH, tcp:HOST:PORT" + (" or telnet:HOST:PORT" if kind == "monitor" else "")
            raise UsageError(f"--{kind}: '{escape(spec)}' is not {known}")
        self.host, self.port = (rest, 0) if self.scheme == "unix" else self._host_and_port(rest)
        if self.scheme == "unix":
            self._check_path()
        for option in options:
            self._option(option)

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
        elif name == "wait" and switched is not None:
            self.wait = switched
        elif name == "nowait" and not value:
            self.wait = False
        elif name != "server" or not switched:
            raise self._refuse(f"'{escape(option)}' is not an option (server=on, wait=on, wait=off, dialect=NAME)")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.scheme == "unix" or self.host in LOOPBACK_NAMES or self.host == "::1":
            return True
        parts = self.host.split(".")
        return len(parts) == 4 and parts[0] == "127" and all(part.isdigit() and int(part) < 256 for part in parts)
