"""What a monitor's client never begins with: HTTP, TLS and STUN, which a page can make a browser speak to any port.

Pure bytes in, a verdict out.
"""

from __future__ import annotations

import re

_METHODS = (b"GET ", b"POST ", b"PUT ", b"HEAD ", b"OPTIONS ", b"DELETE ", b"PATCH ", b"CONNECT ", b"TRACE ", b"PRI ")
_VERSION = b" HTTP/"
"""What stands before the three last characters of a request line. A page from a name that was made to mean this machine
(DNS rebinding) may choose any word as its method, so the method alone does not tell."""

_TLS = b"\x16\x03"
_STUN, _STUN_BEGINS = b"\x21\x12\xa4\x42", (b"\0", b"\1", b"\2")
"""WebRTC's cookie, in the first ten bytes, and what these begin with. A hash follows, new for each try: by our count
one in some 80,000 holds `q` or `s` or `c` between two line ends, and a page may try for as long as it is open."""

_LINE_END = re.compile(rb"[\r\n]")
_BEGINS = re.compile(rb"[\x16!#$%&'*+.^_`|~0-9A-Za-z-]")
"""First bytes of TLS, and of words that can be methods. QMP's brace is none: most of its clients send no line end."""

_KEPT = 16
"""Bytes of either end of the first line that are kept."""


class Opening:
    """Judges the first line of one client. It runs nothing and holds nothing back: what came before a verdict has no
    line end, so no command has run yet, and whoever types `P` sees it echoed.
    """

    def __init__(self) -> None:
        self._line = b""

    def feed(self, data: bytes) -> str | None:
        """Take what the client sent, cut anywhere. Returns "HTTP", "TLS" or "STUN" for one to hang up on without
        looking at `data`, "" for any other, which is not to be fed any more, and None while that cannot be told.
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
        self._line = line if len(line) <= 2 * _KEPT else line[:_KEPT] + line[-_KEPT:]
        return None
