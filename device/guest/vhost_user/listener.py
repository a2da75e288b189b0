"""A listening unix socket at a path: never at the cost of another file, and gone when it is closed."""

from __future__ import annotations

import errno
import os
import socket
import stat


class UnixListener:
    """Listens at `path`, mode 0600, without blocking: `socket` becomes readable when a peer comes."""

    __slots__ = ("_inode", "path", "socket")

    def __init__(self, path: str, backlog: int = 4) -> None:
        """Listen. Raises OSError, with the reason as its last argument."""
        self.path = path
        self._clear_stale()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            self.socket.bind(path)
            self.socket.listen(backlog)
            self.socket.setblocking(False)
            status = os.stat(path)
        except OSError:
            self.socket.close()
            raise
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
            raise OSError(errno.EEXIST, "the path exists and is not a socket; it is left alone")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(self.path)
            except ConnectionRefusedError:
                os.unlink(self.path)
                return
            except PermissionError:
                raise OSError(errno.EPERM, "another user's socket is there; it is left alone") from None
            except OSError:  # a queue that is full, a socket of another type: somebody has it open
                pass
        raise OSError(errno.EADDRINUSE, "a live server uses it")

    def at(self, path: str) -> bool:
        """Whether `path`, however it is spelled, is the socket that we made."""
        try:
            status = os.lstat(path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._inode

    def close(self) -> None:
        """Stop listening; the file goes if it still is the one we made."""
        self.socket.close()
        if self.at(self.path):
            try:
                os.unlink(self.path)
            except OSError:
                pass
