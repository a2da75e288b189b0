"""Descriptors that wake somebody: kicks to us, calls to the guest. They come from a front end that may mean harm.

The other side holds the same open file and can change its flags at any time, so nothing here relies on O_NONBLOCK where
the kernel offers a per-call flag, and only kinds of files are taken that cannot stall by themselves.
"""

from __future__ import annotations

import os
import socket
import stat

from device.guest.vhost_user.wire import FrontEndFault

_EVENTFD = "anon_inode:[eventfd]"
_ONE = (1).to_bytes(8, "little")
_CHUNK = 4096
"""Bytes taken in one read: a socket used for kicks holds eight for each."""


class Wakeup:
    """One end of a kick or call channel: an eventfd, a socket or a pipe. Owns its descriptor."""

    __slots__ = ("_socket", "fd")

    def __init__(self, fd: int, sock: socket.socket | None) -> None:
        self.fd = fd
        self._socket = sock

    @classmethod
    def take(cls, fds: list[int], *, sockets_only: bool = False) -> Wakeup:
        """Take over the one descriptor in `fds`. Raises FrontEndFault, leaving it there, for another kind of file."""
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
        """Take what was signalled. Never blocks.

        Returns None where somebody else took it, and False where the descriptor is at its end or broken: then it would
        stay readable for ever.
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
        buffer = bytearray(_CHUNK)
        try:
            return os.preadv(self.fd, [buffer], -1, os.RWF_NOWAIT)
        except BlockingIOError:
            raise
        except OSError:  # a kernel or a kind of file without the flag
            return len(os.read(self.fd, _CHUNK))

    def give(self) -> None:
        """Signal the other side. One that does not take its signals has enough of them; one that is gone gets none."""
        self.send(_ONE)  # exactly eight bytes, on a socket too: UML reads no other number

    def send(self, data: bytes) -> None:
        """Write `data` whole or not at all, without ever waiting."""
        try:
            if self._socket is not None:
                self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            else:
                os.set_blocking(self.fd, False)
                os.write(self.fd, data)
        except OSError:
            pass

    def close(self) -> None:
        """Let the descriptor go."""
        if self._socket is not None:
            self._socket.close()
        elif self.fd >= 0:
            os.close(self.fd)
        self.fd = -1
