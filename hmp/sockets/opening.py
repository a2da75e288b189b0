"""Recognizes HTTP, TLS and STUN at the start of a connection. A web page can make a browser send these to any port.

Bytes in, a verdict out, no I/O.
"""

from __future__ import annotations

import re

_METHODS = (b"GET ", b"POST ", b"PUT ", b"HEAD ", b"OPTIONS ", b"DELETE ", b"PATCH ", b"CONNECT ", b"TRACE ", b"PRI ")
_VERSION = b" HTTP/"
"""The text before the last three characters of a request line. The method alone is not enough: a page from a name that
was made to resolve to this machine (DNS rebinding) can use any word as its method."""

_TLS = b"\x16\x03"
_STUN, _STUN_BEGINS = b"\x21\x12\xa4\x42", (b"\0", b"\1", b"\2")
"""The cookie of STUN (WebRTC), which is in the first ten bytes, and the possible first bytes of a message. A message
ends in a hash that is new in each try. About one in 80,000 (calculated, not seen) has `q`, `s` or `c` between two line
ends, which the monitor would run as a command. A page can try for as long as it is open."""

_LINE_END = re.compile(rb"[\r\n]")
_BEGINS = re.compile(rb"[\x16!#$%&'*+.^_`|~0-9A-Za-z-]")
"""The first byte of TLS, and those of words that can be methods. QMP's brace is not among them, so a QMP client gets
its verdict without a line end; most clients send none."""

_KEPT = 16
"""How many bytes are kept of each end of the first line."""


class Opening:
    """Judges the first line of one client.

    It does not hold back input. Before a verdict no line end has come, so no command can have run; and a person who
    types `P` sees it echoed at once.
    """

    def __init__(self) -> None:
        self._line = b""

    def feed(self, data: bytes) -> str | None:
        """Take bytes that the client sent, in pieces of any size.

        Returns "HTTP", "TLS" or "STUN" for a client to hang up on before `data` is used, "" for any other client (do
        not call again), and None while more bytes are needed.
        """
        data = self._line + data
        if data[:1] in _STUN_BEGINS:
            self._line = data[:10]
            return "STUN" if _STUN in self._line else "" if len(self._line) == 10 else None
        line, *rest = _LINE_END.split(data, 1)
        if line.startswith(_TLS):
            return "TLS"
        if line.startswith(_METHODS) or (rest and line[-9:-3] == _VERSION):
            return "HTTP"
        if rest or (line and not _BEGINS.match(line)):
            return ""
        # Only the ends of the line matter for the verdict, so an endless line takes no memory.
        self._line = line if len(line) <= 2 * _KEPT else line[:_KEPT] + line[-_KEPT:]
        return None
