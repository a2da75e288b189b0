"""A listening unix socket at a path. It replaces no other file, and its own file is removed when it is closed."""

from __future__ import annotations

import errno
import os
import socket
import stat


class UnixListener:
    """Listens at `path`, mode 0600, without blocking: `socket` becomes readable when a peer connects."""

    def __init__(self, path: str, backlog: int = 4) -> None:
        """Listen. Raises OSError, with the reason as its last argument."""
        self.path = path
        self._clear_stale()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # The umask sets the mode of the file. With a chmod after bind(), others could connect in between.
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
        """Remove a socket that nobody listens on. Raises OSError for a live one and for any other file."""
        try:
            status = os.lstat(self.path)
        except OSError:
            return  # nothing is there, or bind() will say what is wrong
        if not stat.S_ISSOCK(status.st_mode):
            raise OSError(errno.EEXIST, "the path exists and is not a socket; it is left alone")
        # bind() fails for any file that exists, even for one that a killed process left. Only a connection shows if
        # somebody listens; it must not block, as it would on a server whose queue is full.
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(self.path)
            except ConnectionRefusedError:
                os.unlink(self.path)
                return
            except PermissionError:
                raise OSError(errno.EPERM, "another user's socket is there; it is left alone") from None
            except OSError:  # its queue is full, or it is of another type: some process has it open
                pass
        raise OSError(errno.EADDRINUSE, "a live server uses it")

    def at(self, path: str) -> bool:
        """Whether `path` is the socket that we made, even if the path is spelled in another way."""
        try:
            status = os.lstat(path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._inode

    def close(self) -> None:
        """Stop listening, and remove the file if it still is the one we made."""
        # By then another process may have made its own socket at the path.
        self.socket.close()
        if self.at(self.path):
            try:
                os.unlink(self.path)
            except OSError:
                pass
