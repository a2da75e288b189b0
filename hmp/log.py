"""The log of the wire: --log writes it, one JSON object a line; `sim log` shows it; FakeQemu.log returns it."""

from __future__ import annotations

import errno
import json
import os
import re
from collections import deque
from collections.abc import Callable
from typing import Any

from device.clock import Clock
from hmp.monitor import UsageError, escape
from hmp.monitor.replies import STRICT
from hmp.streams import complain, write_ready

Entry = dict[str, Any]

SHOWN = 1000
"""How many entries are kept for `sim log`."""

LIMIT = 64 << 10
"""The most bytes of a message in an entry."""

DEEPEST = 100
"""How deep an object may be nested, at least, to be `data`. Python's json fails at some depth below a thousand."""

_OTHER = re.compile(rb'"(?:[^"\\]|\\.)*"|[^][{}]+')

PATIENCE = 1000
"""Milliseconds to wait for the reader of a pipe that the log goes to.

After that logging stops and the machine goes on.
"""


class Log:
    """A log. With `path` None it is only kept in memory; `-` is stderr."""

    def __init__(self, path: str | None, clock: Clock) -> None:
        """Open the file to append to it. Raises UsageError with its name and the reason."""
        self.entries: deque[str] = deque(maxlen=SHOWN)
        self.on_entry: Callable[[Entry], None] = lambda entry: None
        """Called with each entry, which has its whole message."""
        self._clock = clock
        self._name = path or ""
        self._descriptor = -1
        if path == "-":
            self._descriptor = os.dup(2)
        elif path is not None:
            # O_NONBLOCK, because opening a FIFO that nobody reads would block for ever.
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
            try:
                self._descriptor = os.open(path, flags, 0o600)
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or str(error)
                if getattr(error, "errno", 0) == errno.ENXIO:
                    why = "nobody reads this FIFO or socket"
                raise UsageError(f"--log '{escape(path)}': {why}") from None

    def add(self, monitor: str, client: int, what: str, message: bytes | None = None, **more: str) -> None:
        """Add an entry about a `client` of `monitor`; `what` is connect, in, out, event or disconnect."""
        entry: Entry = {"t": self._clock.now() / 1e9, "wall": self._clock.wall() / 1e9, "monitor": monitor,
                                    "client": client, "what": what}  # fmt: skip
        if message is not None:
            found = _parsed(message)
            if isinstance(found, dict):
                entry["data"] = found
                # The connection sends events and replies in the same way, so the message tells them apart.
                if "event" in found and what == "out":
                    entry["what"] = "event"
                if "id" in found:
                    entry["id"] = found["id"]
            else:
                entry["raw"] = message.decode("utf-8", "backslashreplace")
        entry |= more
        self.on_entry(entry)
        if message is not None and len(message) > LIMIT:
            # A fault may pad a reply to 64 MiB; the entry says how long it was.
            short = {"raw": message[:LIMIT].decode("utf-8", "backslashreplace"), "bytes": len(message)}
            entry = {key: value for key, value in entry.items() if key != "data"} | short
        line = json.dumps(entry)
        self.entries.append(line)
        if self._descriptor >= 0:
            try:
                data = bytearray(f"{line}\n".encode())
                write_ready(self._descriptor, data, PATIENCE)
                if data:
                    raise TimeoutError
            except OSError as error:
                self.close()
                why = "nobody reads it" if isinstance(error, TimeoutError) else error.strerror
                complain(f"--log '{self._name}': {why}; nothing more is logged")

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _parsed(message: bytes) -> object:
    """Return the JSON object, or None for any other text, and for an object that readers of JSON may refuse."""
    if message[:1] != b"{":
        return None
    brackets = _OTHER.sub(b"", message) if message.count(b"{") + message.count(b"[") > DEEPEST else b""
    for _ in range(DEEPEST):
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    try:
        return None if brackets else json.loads(message, **STRICT)
    except ValueError:
        return None
