"""A listening unix socket at a path: never at the cost of another file, and gone when it is closed."""

from __future__ import annotations

import os
import socket
import stat

from device.errors import MisuseError

MAX_PATH = 107
"""Bytes of a socket's path: the kernel's limit."""


class UnixListener:
    """Listens at `path` for one peer at a time. Mode 0600: whoever connects lends us its memory."""

    __slots__ = ("_inode", "_socket", "path")

    def __init__(self, path: str) -> None:
        """Listen. Raises MisuseError naming the path and the reason."""
        if len(os.fsencode(path)) > MAX_PATH:
            raise MisuseError(f"'{path}' is longer than the {MAX_PATH} bytes of a socket's path")
        self.path = path
        self._clear_stale()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            self._socket.bind(path)
            self._socket.listen(4)
            self._socket.setblocking(False)
            status = os.stat(path)
        except OSError as error:
            self._socket.close()
            raise MisuseError(f"cannot listen on '{path}': {error.strerror}") from None
        finally:
            os.umask(mask)
        self._inode = (status.st_dev, status.st_ino)

    def _clear_stale(self) -> None:
        """Remove a socket that nobody listens on; refuse a live one and everything that is no socket."""
        try:
            status = os.lstat(self.path)
        except OSError:
            return  # nothing there, or a reason that bind() will name
        if not stat.S_ISSOCK(status.st_mode):
            raise MisuseError(f"'{self.path}' exists and is not a socket: it is left alone")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(self.path)
            except ConnectionRefusedError:
                os.unlink(self.path)
                return
            except OSError:
                pass
        raise MisuseError(f"'{self.path}' is in use: something listens there")

    @property
    def fd(self) -> int:
        """The descriptor that becomes readable when a peer comes."""
        return self._socket.fileno()

    def accept(self) -> socket.socket | None:
        """Return the next peer's connection, which does not block, or None if there is none."""
        try:
            connection, _ = self._socket.accept()
        except OSError:
            return None
        connection.setblocking(False)
        return connection

    def at(self, path: str) -> bool:
        """Whether `path`, however it is spelled, is the socket that we made."""
        try:
            status = os.lstat(path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._inode

    def close(self) -> None:
        """Stop listening; the file goes if it still is the one we made."""
        self._socket.close()
        if self.at(self.path):
            try:
                os.unlink(self.path)
            except OSError:
                pass
