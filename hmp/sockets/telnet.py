"""The server's side of telnet for a monitor: negotiation out of the way, only what was typed left.

Pure bytes in, bytes out. The monitor writes its output as it is: QEMU 7.2 does not double 0xFF on the way out, and
passes \\r\\0 and \\r\\n on as they come (the line editor ignores the NUL; \\r\\n enters an empty line after the line).
"""

from __future__ import annotations

IAC, DONT, DO, WONT, WILL, SB, SE = 0xFF, 0xFE, 0xFD, 0xFC, 0xFB, 0xFA, 0xF0
_BINARY, _ECHO, _SUPPRESS_GO_AHEAD = 0, 1, 3

# What QEMU 7.2 sends first, without waiting for an answer: the client shall send key by key and not echo.
OPENING = bytes((IAC, WILL, _ECHO, IAC, WILL, _SUPPRESS_GO_AHEAD, IAC, WILL, _BINARY, IAC, DO, _BINARY))

# Bytes swallowed between SB and SE. Nothing is asked of the client that would need more than a few; one that never
# sends SE gets its keyboard back instead of typing into nowhere.
SUBNEGOTIATION_LIMIT = 1024

# Where the filter stands: in text, behind IAC, before the option of WILL and its like, between SB and SE, behind an
# IAC in there.
_TEXT, _COMMAND, _OPTION, _INSIDE, _INSIDE_COMMAND = range(5)

# The state behind a command that is longer than two bytes.
_LONGER = dict.fromkeys((WILL, WONT, DO, DONT), _OPTION) | {SB: _INSIDE}


class TelnetFilter:
    """Takes telnet's commands out of what one client sends. Write OPENING to the client first.

    The client's answers are not answered in turn: whatever it wills, the monitor stays as it is. Commands of two bytes
    (BRK, AYT, IP and the like) are ignored, IAC IAC is one byte 0xFF. What a command means, and how long it is, follows
    RFC 854; QEMU 7.2 takes each command but BRK for three bytes long and so loses a key, or keeps pieces of a
    subnegotiation.
    """

    def __init__(self) -> None:
        self._state = _TEXT
        self._inside = 0  # bytes of the present subnegotiation

    def feed(self, data: bytes) -> bytes:
        """What of `data` was typed, never longer than `data`. Takes anything, cut anywhere; never raises."""
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
        """One byte between SB and SE; IAC IAC stands for a byte 0xFF there too."""
        self._inside += 1
        if self._inside >= SUBNEGOTIATION_LIMIT or (self._state == _INSIDE_COMMAND and byte == SE):
            self._state = _TEXT
        elif self._state == _INSIDE and byte == IAC:
            self._state = _INSIDE_COMMAND
        else:
            self._state = _INSIDE
