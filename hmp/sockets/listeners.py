"""Listening sockets. All are made or none. No other file and no live server's socket is replaced. At the end the files
of unix sockets are removed."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import socket
import time
from collections.abc import Callable

from device.guest.vhost_user.listener import UnixListener
from hmp.addresses import Address
from hmp.monitor import UsageError

BACKLOG = 1024
"""How many connections may wait to be accepted: a thousand clients may come at once."""


_STREAM = socket.SOCK_STREAM


def raise_file_limit() -> None:
    """Raise the soft limit on open files to the hard limit, because a thousand clients exceed the usual 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            pass


LOCK_PATIENCE = 2.0
"""Seconds to wait for another hmp that makes a socket in the same directory. It needs milliseconds."""


CONNECT_PATIENCE = 5.0
"""Seconds to wait until a connection is made (server=off)."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Return (far, near), the ends of a socket pair that carries a terminal or a pipe: so every client has a socket."""
    far, near = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    return far, near


class Listener:
    """An address and its socket. If `listens` is false, the socket is the connection to the only client.

    With reconnect `socket` is None: the connection is made when clients are served, and again each time it ends. For
    stdio, `socket` is one end of a pair and `near` the other, which carries stdin and stdout. A terminal of hmp's own
    (pty) gets such a pair for each client.
    """

    def __init__(self, address: Address) -> None:
        """Bind and listen, or connect.

        Raises UsageError with the address and the reason, and then nothing was created.
        """
        self.address = address
        self._unix: UnixListener | None = None
        self.listens = address.server
        self.near: socket.socket | None = None
        self.socket: socket.socket | None = None
        try:
            if address.scheme == "stdio":
                if not address.terminal:
                    self.socket, self.near = pair()
            elif address.scheme == "fd":
                self.socket = socket.socket(fileno=address.port)
                # The caller may pass a listening socket or a connected one.
                self.listens = bool(self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
                if self.socket.type != _STREAM:
                    raise address.refuse("the descriptor is not a stream socket")
            elif not address.server:
                if address.reconnect is None:
                    self.socket = self._connect()
            else:
                self.socket = self._make_unix() if address.scheme == "unix" else self._make_tcp()
        except socket.gaierror as error:
            why = f"address resolution failed for {address.host}:{address.service}: {error.strerror}"
            raise address.refuse(why if address.spelled else "unknown host") from None
        except OSError as error:
            raise address.refuse(self.explain(error)) from None
        if self.socket is not None:
            self.socket.setblocking(False)

    def _connect(self) -> socket.socket:
        address = self.address
        if address.scheme != "unix":
            return socket.create_connection((address.host or "localhost", address.port), CONNECT_PATIENCE)
        return _unix(socket.socket.connect, address.path)

    def explain(self, error: OSError) -> str:
        """Return the reason of a failure, in QEMU's words if the address has QEMU's form."""
        reason = error.strerror or str(error)
        address = self.address
        if not address.spelled or address.scheme == "fd":
            return reason
        unix = address.scheme == "unix"
        if address.server:
            return f"Failed to bind socket{f' to {address.host}' if unix else ''}: {reason}"
        return f"Failed to connect to '{address.host}{'' if unix else f':{address.service}'}': {reason}"

    def _make_unix(self) -> socket.socket:
        path = self.address.path
        if self.address.abstract:  # there is no file to remove, and the kernel refuses a name in use
            made = _unix(socket.socket.bind, path)
            made.listen(BACKLOG)
            return made
        try:
            # Without the lock another hmp could replace a stale socket file with a live one between our check of the
            # file and its removal.
            lock = _lock(os.path.dirname(path) or ".")
        except FileNotFoundError:
            raise OSError(
                errno.ENOENT, "No such file or directory" if self.address.spelled else "the directory does not exist"
            ) from None
        try:
            self._unix = UnixListener(path, BACKLOG)
        finally:
            if lock >= 0:
                os.close(lock)
        return self._unix.socket

    def _make_tcp(self) -> socket.socket:
        """Listen on the first address of the host that can be bound: localhost may have ::1 where IPv6 is off.

        Raises OSError.
        """
        host, port = self.address.host, self.address.port
        failure = OSError("no address")
        families = {(True, False): socket.AF_INET, (False, True): socket.AF_INET6}
        wanted = families.get(self.address.families, socket.AF_UNSPEC)
        for family, kind, protocol, _, where in socket.getaddrinfo(
            host or None, port, wanted, _STREAM, flags=socket.AI_PASSIVE
        ):
            try:
                made = socket.socket(family, kind, protocol)
            except OSError as error:  # a family that this kernel lacks
                failure = error
                continue
            try:
                # Without it the port could not be used again for a minute after its clients left.
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.bind(where)
                made.listen(BACKLOG)
            except OSError as error:
                made.close()
                failure = error
                # Try the next address only if this host does not have this one. A port that is in use is an error.
                if error.errno != errno.EADDRNOTAVAIL:
                    break
            else:
                return made
        raise failure

    @property
    def name(self) -> str:
        """The address in a form that clients can use, with the real port if 0 was given."""
        address = self.address
        if address.scheme == "unix":
            return f"unix:{address.host}{',abstract=on' if address.abstract else ''}"
        if address.scheme in ("stdio", "fd"):
            return f"fd:{address.port}" if address.scheme == "fd" else address.shown or "stdio"
        host, port = address.host, address.port
        if self.listens and self.socket is not None:
            host, port = self.socket.getsockname()[:2]
        return f"{address.scheme}:[{host}]:{port}" if ":" in host else f"{address.scheme}:{host}:{port}"

    def close(self) -> None:
        """Stop listening. Removes the file of a unix socket if it is still the one that we made."""
        for each in (self.socket, self.near):
            if each is not None:
                each.close()
        if self._unix is not None:
            self._unix.close()


def _unix(use: Callable[[socket.socket, str], object], path: str) -> socket.socket:
    """Return a new unix socket after `use` (bind or connect), or close it if that raises."""
    made = socket.socket(socket.AF_UNIX, _STREAM)
    try:
        # A listening server whose queue is full would block connect() without end.
        made.settimeout(CONNECT_PATIENCE)
        use(made, path)
    except OSError:
        made.close()
        raise
    return made


def _lock(directory: str) -> int:
    """Lock a directory against other hmp processes. Returns the descriptor to close, or -1 if it cannot be opened.

    After LOCK_PATIENCE it goes on without the lock: the process that holds it so long is not hmp. Raises
    FileNotFoundError.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError:
        return -1  # not readable: bind() will show whether a socket can be made
    end = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > end:
                return descriptor
            time.sleep(0.005)
        except OSError:  # a file system without locks
            return descriptor


def listen(addresses: list[Address], *, allow_remote: bool) -> list[Listener]:
    """Listen on all addresses, or on none. Raises UsageError with the address and the reason."""
    for address in addresses:
        # All addresses are checked before any is opened.
        if not address.loopback and not allow_remote:
            raise address.refuse("a monitor has no password; --allow-remote lets other hosts than loopback reach it")
    listeners: list[Listener] = []
    try:
        for address in addresses:
            listeners.append(Listener(address))
    except UsageError:
        for listener in listeners:
            listener.close()
        raise
    return listeners
