"""The server's side of telnet for a monitor: it removes the negotiation and leaves the keys.

Bytes in, bytes out. The monitor's output is sent unchanged: QEMU 7.2 does not double 0xFF on the way out. It also
passes on \\r\\0 and \\r\\n as they come (the line editor ignores the NUL, and \\r\\n enters an empty line after the
line).
"""

from __future__ import annotations

IAC, DONT, DO, WONT, WILL, SB, SE = 0xFF, 0xFE, 0xFD, 0xFC, 0xFB, 0xFA, 0xF0
_BINARY, _ECHO, _SUPPRESS_GO_AHEAD = 0, 1, 3

OPENING = bytes((IAC, WILL, _ECHO, IAC, WILL, _SUPPRESS_GO_AHEAD, IAC, WILL, _BINARY, IAC, DO, _BINARY))
"""What QEMU 7.2 sends first, without waiting for an answer: the client should send each key and not echo."""

SUBNEGOTIATION_LIMIT = 1024
"""The most bytes that are dropped between SB and SE. Nothing that we ask for needs more than a few. With this limit a
client that never sends SE can type again after a while."""

_TEXT, _COMMAND, _OPTION, _INSIDE, _INSIDE_COMMAND = range(5)
"""The states of the filter: in text; after IAC; before the option of WILL, WONT, DO or DONT; between SB and SE;
after an IAC between SB and SE."""

_LONGER = dict.fromkeys((WILL, WONT, DO, DONT), _OPTION) | {SB: _INSIDE}
"""The state after a command that is longer than two bytes."""


class TelnetFilter:
    """Removes telnet commands from one client's input. Write OPENING to the client first.

    The client's options get no answer, because the monitor works the same way with any of them. Commands of two
    bytes (BRK, AYT, IP and so on) are ignored. IAC IAC is one byte 0xFF. The lengths of commands follow RFC 854. QEMU
    7.2 takes three bytes for each command but BRK, and so it loses a key or keeps parts of a subnegotiation.
    """

    def __init__(self) -> None:
        self._state = _TEXT
        self._inside = 0  # bytes of the present subnegotiation so far

    def feed(self, data: bytes) -> bytes:
        """Return the keys in `data`, never more than its length.

        Accepts any bytes in pieces of any size; never raises.
        """
        if self._state == _TEXT and IAC not in data:
            return data
        typed = bytearray()
        for byte in data:
            state = self._state
            if state == _TEXT:
                if byte == IAC:
                    self._state = _COMMAND
                else:
                    typed.append(byte)
            elif state == _COMMAND:
                self._state = _LONGER.get(byte, _TEXT)
                self._inside = 0
                if byte == IAC:
                    typed.append(byte)
            elif state == _OPTION:
                self._state = _TEXT
            else:
                self._skip(byte)
        return bytes(typed)

    def _skip(self, byte: int) -> None:
        """Drop one byte between SB and SE. IAC IAC is a byte 0xFF there too, and does not end it."""
        self._inside += 1
        if self._inside >= SUBNEGOTIATION_LIMIT or (self._state == _INSIDE_COMMAND and byte == SE):
            self._state = _TEXT
        elif self._state == _INSIDE and byte == IAC:
            self._state = _INSIDE_COMMAND
        else:
            self._state = _INSIDE
