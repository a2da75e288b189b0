"""What went over the wire, as --log writes it and `sim log` shows it: one JSON object a line."""

from __future__ import annotations

import errno
import json
import os
import select
from collections import deque

from hmp.monitor import UsageError, escape
from hmp.streams import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from device.clock import Clock

SHOWN = 1000
"""Entries kept for `sim log`."""

LIMIT = 64 << 10
"""Bytes of one message that an entry holds."""

PIECE = select.PIPE_BUF
PATIENCE = 1000
"""Milliseconds for who reads a pipe that the log goes to; then logging stops, and the machine goes on."""


class Log:
    """A log. `path` None keeps it in memory only, `-` is stderr."""

    def __init__(self, path: str | None, clock: Clock) -> None:
        """Open the file, to add to it. Raises UsageError naming it and the reason."""
        self.entries: deque[str] = deque(maxlen=SHOWN)
        self._clock = clock
        self._name = path or ""
        self._descriptor = -1
        if path == "-":
            self._descriptor = os.dup(2)
        elif path is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
            try:
                self._descriptor = os.open(path, flags, 0o600)
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or str(error)
                if getattr(error, "errno", 0) == errno.ENXIO:
                    why = "nobody reads this FIFO"
                raise UsageError(f"--log '{escape(path)}': {why}") from None

    def add(self, monitor: str, client: int, what: str, message: bytes | None = None, **more: str) -> None:
        """Note that a `client` of `monitor` came, went, or had a message: connect, in, out, event or disconnect."""
        entry: dict[str, object] = {"t": self._clock.now() / 1e9, "wall": self._clock.wall() / 1e9, "monitor": monitor,
                                    "client": client, "what": what}  # fmt: skip
        if message is not None:
            found = _parsed(message)
            if isinstance(found, dict) and len(message) <= LIMIT:
                entry["data"] = found
                if "event" in found and what == "out":
                    entry["what"] = "event"
            else:
                entry["raw"] = message[:LIMIT].decode("utf-8", "backslashreplace")
            if isinstance(found, dict) and "id" in found:
                entry["id"] = found["id"]
            if len(message) > LIMIT:
                entry["bytes"] = len(message)
        line = json.dumps(entry | more)
        self.entries.append(line)
        if self._descriptor >= 0:
            try:
                self._write(f"{line}\n".encode())
            except OSError as error:
                self.close()
                why = "its reader does not read" if isinstance(error, TimeoutError) else error.strerror
                complain(f"--log '{self._name}': {why}; nothing more is logged")

    def _write(self, data: bytes) -> None:
        poller = select.poll()
        poller.register(self._descriptor, select.POLLOUT)
        while data:
            if not poller.poll(PATIENCE):  # a file is ready at once
                raise TimeoutError
            try:
                data = data[os.write(self._descriptor, data[:PIECE]) :]
            except BlockingIOError:
                pass

    def close(self) -> None:
        """Write no more."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _parsed(message: bytes) -> object:
    try:
        return json.loads(message) if message[:1] == b"{" else None
    except (ValueError, RecursionError):
        return None
