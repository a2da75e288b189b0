"""The output of one client that its transport does not have yet."""

from __future__ import annotations

from collections.abc import Callable

from hmp.qmp.events import Latest


class Outbox:
    """Keeps output in order. `size` is its number of bytes.

    During the client's turn `wake` is None: output stays here, and the connection takes it at the end of the turn. At
    all other times `wake` is called with the output.
    """

    def __init__(self, wake: Callable[[bytes], None]) -> None:
        self.size = 0
        self.wake: Callable[[bytes], None] | None = wake
        self._parts: list[bytes] = []
        self._latest: Latest | None = None  # the part that a newer one will replace

    def write(self, data: bytes) -> None:
        """Send `data` now, or after the present turn."""
        (self.wake or self.add)(data)

    def add(self, data: bytes) -> None:
        """Keep `data`."""
        # Only the newest BALLOON matters. Else a client that reads slowly would be cut off because others ask often.
        if isinstance(data, Latest):
            if self._latest is not None:
                self._parts.remove(self._latest)
                self.size -= len(self._latest)
            self._latest = data
        self._parts.append(data)
        self.size += len(data)

    def take(self) -> list[bytes]:
        """Return all output and remove it from here."""
        parts, self._parts = self._parts, []
        self.size, self._latest = 0, None
        return parts
