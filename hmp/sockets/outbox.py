"""What is to be sent to one client and its transport does not have yet."""

from __future__ import annotations

from collections.abc import Callable

from hmp.qmp.events import Latest


class Outbox:
    """Keeps what is written, in order. `size` is the bytes that it has.

    `wake` takes what is written while nobody looks into the box by himself; None while somebody does.
    """

    def __init__(self, wake: Callable[[bytes], None]) -> None:
        self.size = 0
        self.wake: Callable[[bytes], None] | None = wake
        self._parts: list[bytes] = []
        self._latest: Latest | None = None  # which of these a newer one will replace

    def write(self, data: bytes) -> None:
        """Send `data`, now or after the turn that is on."""
        (self.wake or self.add)(data)

    def add(self, data: bytes) -> None:
        """Keep `data`."""
        if isinstance(data, Latest):
            if self._latest is not None:
                self._parts.remove(self._latest)
                self.size -= len(self._latest)
            self._latest = data
        self._parts.append(data)
        self.size += len(data)

    def take(self) -> list[bytes]:
        """Return all that there is, and forget it."""
        parts, self._parts = self._parts, []
        self.size, self._latest = 0, None
        return parts
