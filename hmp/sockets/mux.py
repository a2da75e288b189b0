"""A monitor that shares its stream with serial ports, switched with Ctrl-A, as with `-serial mon:stdio`."""

from __future__ import annotations

from collections.abc import Callable

ESCAPE = 1
HELP = (b"\r\nC-a h    this list\r\nC-a x    end the machine\r\nC-a c    to the monitor, or back to the serial port\r\n"
        b"C-a C-a  a C-a itself\r\n")  # fmt: skip
# QEMU's words, with its line end in this order.
TERMINATED = b"QEMU: Terminated\n\r"


class Mux:
    """Finds the keys for the monitor in one client's stream. All other keys go to serial ports, which ignore them.

    `ports` is their number. As in QEMU the last of them has the focus first, C-a c goes from each user of the stream to
    the next, and the monitor is the first user, unless `monitor` is false: then only ports use it. `write` sends to the
    client. `focus` is called when the client switches to the monitor; its argument is true the first time. `ended` is
    true after C-a x, and later keys are dropped.
    """

    def __init__(
        self, write: Callable[[bytes], None], focus: Callable[[bool], None], ports: int, *, monitor: bool = True
    ) -> None:
        self._write, self._focus, self._ports = write, focus, ports
        # The monitor is user 0, and ports are 1, 2 and so on.
        self._first, self._user = int(not monitor), ports
        self._came = self.inside
        self._escaped = self.ended = False

    @property
    def inside(self) -> bool:
        """Whether the monitor gets the keys."""
        return self._user == 0

    def feed(self, data: bytes) -> bytes:
        """Return the part of `data` that is for the monitor."""
        typed = bytearray()
        for byte in data:
            if self.ended:
                break
            if self._escaped:
                self._escaped = False
                self._order(byte, typed)
            elif byte == ESCAPE:
                self._escaped = True
            elif self.inside:
                typed.append(byte)
        return bytes(typed)

    def _order(self, byte: int, typed: bytearray) -> None:
        if byte == ESCAPE and self.inside:
            typed.append(byte)
        elif byte in b"h?":
            self._write(HELP)
        elif byte == ord("x"):
            self.ended = True
        elif byte == ord("c"):
            if self.inside:
                self._write(b"\r\n")
            self._user = self._user + 1 if self._user < self._ports else self._first
            if self.inside:
                first, self._came = not self._came, True
                self._focus(first)
