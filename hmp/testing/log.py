"""What the clients of a machine said and heard, one entry each, in order."""

from __future__ import annotations

import json

from hmp.qjson.codec import Decoder
from hmp.sockets.clients import QmpConnection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from device.clock import Clock
    from hmp.sockets.connection import Connection

    Entry = dict[str, Any]


class Log:
    """The entries of one machine's clients: dicts with `t` (host clock, s), `wall` (s), `monitor`, `client` (number),
    `what` (connect, in, out, event, disconnect) and for QMP `data`, else `raw`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._clients: dict[Connection, tuple[int, Decoder]] = {}
        self._count = 0
        self.entries: list[Entry] = []

    def note(self, client: Connection, what: str, data: bytes) -> None:
        """Note that `client` came, sent or was sent something, or went."""
        if what == "connect":
            self._count += 1
            self._clients[client] = self._count, Decoder()
        number, decoder = self._clients[client]
        if what == "disconnect":
            del self._clients[client]
        if not data:
            self._add(client, number, what, {})
        elif not isinstance(client, QmpConnection):
            self._add(client, number, what, {"raw": data.decode("utf-8", "backslashreplace")})
        elif what == "in":
            for message in decoder.feed(data):
                if isinstance(message, dict):
                    self._add(client, number, what, {"data": message})
                else:
                    self._add(client, number, what, {"raw": str(getattr(message, "desc", message))})
        else:
            for line in data.splitlines():
                message = json.loads(line)
                self._add(client, number, "event" if "event" in message else what, {"data": message})

    def _add(self, client: Connection, number: int, what: str, more: Entry) -> None:
        monitor = "qmp" if isinstance(client, QmpConnection) else "monitor"
        entry = {"t": self._clock.now() / 1e9, "wall": self._clock.wall() / 1e9, "monitor": monitor, "client": number}
        self.entries.append(entry | {"what": what} | more)

    def commands(self) -> list[Entry]:
        """Return the QMP commands that clients sent."""
        return [entry["data"] for entry in self.entries if entry["what"] == "in" and "data" in entry]

    def text(self) -> str:
        """Return the log for people."""
        lines = []
        for entry in self.entries:
            said = json.dumps(entry["data"]) if "data" in entry else repr(entry["raw"]) if "raw" in entry else ""
            lines.append(f"{entry['t']:10.3f} {entry['monitor']} {entry['client']} {entry['what']:10} {said}".rstrip())
        return "\n".join(lines)
