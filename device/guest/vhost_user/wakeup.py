"""Descriptors that wake the other side: kicks to us, calls to the guest. They come from a front end, perhaps hostile.

The front end holds the same open file and can change its flags at any time. So where the kernel has a flag against
blocking for a single call, that is used and not O_NONBLOCK; and only eventfds, sockets and pipes are accepted.
"""

from __future__ import annotations

import os
import socket
import stat

from device.guest.vhost_user.wire import FrontEndFault

_EVENTFD = "anon_inode:[eventfd]"
_ONE = (1).to_bytes(8, "little")
_CHUNK = 4096
"""Bytes taken in one read. On a socket each kick has eight, so this takes many at once."""


class Wakeup:
    """One end of a kick or call channel: an eventfd, a socket or a pipe. Owns its descriptor."""

    def __init__(self, fd: int, sock: socket.socket | None) -> None:
        self.fd = fd
        self._socket = sock

    @classmethod
    def take(cls, fds: list[int], *, sockets_only: bool = False) -> Wakeup:
        """Take over the one descriptor in `fds`. Raises FrontEndFault for other files, and leaves it in `fds`."""
        # stat(2) has no type for an eventfd; only its name in /proc shows it.
        fd = fds[0]
        mode = os.fstat(fd).st_mode
        try:
            if stat.S_ISSOCK(mode):
                sock = socket.socket(fileno=fd)
                fds.clear()
                return cls(fd, sock)
            if not sockets_only and (stat.S_ISFIFO(mode) or os.readlink(f"/proc/self/fd/{fd}") == _EVENTFD):
                os.set_blocking(fd, False)
                fds.clear()
                return cls(fd, None)
        except OSError as error:
            raise FrontEndFault(f"a wake-up descriptor that cannot be used: {error.strerror}") from None
        raise FrontEndFault("a wake-up descriptor that is neither eventfd, socket nor pipe")

    def taken(self) -> bool | None:
        """Take what was signalled, and return True. Never blocks.

        Returns None if another reader took it, and False if the descriptor is at its end or broken: then it would stay
        readable forever.
        """
        try:
            if self._socket is not None:
                return bool(self._socket.recv(_CHUNK, socket.MSG_DONTWAIT))
            return bool(self._read())
        except BlockingIOError:
            return None
        except OSError:
            return False

    def _read(self) -> int:
        # RWF_NOWAIT does not block even if the front end has cleared O_NONBLOCK; os.read has no such flag. The offset
        # -1 is for files without a position, such as these.
        buffer = bytearray(_CHUNK)
        try:
            return os.preadv(self.fd, [buffer], -1, os.RWF_NOWAIT)
        except BlockingIOError:
            raise
        except OSError:  # the kernel or the kind of file does not support the flag
            return len(os.read(self.fd, _CHUNK))

    def give(self) -> None:
        """Signal the other side. Errors are ignored: a full channel wakes the reader anyway, a closed one has none."""
        self.send(_ONE)  # eight bytes on a socket too: UML reads exactly that many

    def send(self, data: bytes) -> None:
        """Write `data` whole or not at all. Never waits."""
        try:
            if self._socket is not None:
                self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            else:
                # Before each write, because the front end may have cleared the flag.
                os.set_blocking(self.fd, False)
                os.write(self.fd, data)
        except OSError:
            pass

    def close(self) -> None:
        """Close the descriptor. A second call does nothing."""
        if self._socket is not None:
            self._socket.close()
        elif self.fd >= 0:
            os.close(self.fd)
        self.fd = -1
