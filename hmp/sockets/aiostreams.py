"""stdin and stdout beside sockets: waited for in the event loop, so that neither holds the clients up."""

from __future__ import annotations

import asyncio
import os
import select

from hmp.monitor.escape import escape
from hmp.streams import Output, naming_stdout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PIECE = select.PIPE_BUF
"""Bytes that a pipe takes at once, without blocking, when poll() says that it can be written to."""


async def readable(descriptor: int) -> None:
    """Wait until a read would not block; regular files and /dev/null never do, and cannot be watched."""
    loop = asyncio.get_running_loop()
    await _ready(lambda found: loop.add_reader(descriptor, found), lambda: loop.remove_reader(descriptor))


async def writable(descriptor: int) -> None:
    """Wait until something can be written."""
    loop = asyncio.get_running_loop()
    await _ready(lambda found: loop.add_writer(descriptor, found), lambda: loop.remove_writer(descriptor))


async def _ready(watch: Callable[[Callable[[], None]], object], unwatch: Callable[[], object]) -> None:
    ready = asyncio.get_running_loop().create_future()

    def found() -> None:
        if not ready.done():
            ready.set_result(None)

    try:
        watch(found)
    except PermissionError:
        await asyncio.sleep(0)
        return
    try:
        await ready
    finally:
        unwatch()


class PatientOutput(Output):
    """stdout that never blocks: `drain` waits, in the loop, for what did not fit yet."""

    __slots__ = ("_data",)

    def __init__(self, descriptor: int = 1) -> None:
        super().__init__(descriptor)
        self._data = bytearray()

    @property
    def size(self) -> int:
        """Bytes that wait to be written."""
        return len(self._data)

    def add(self, text: str) -> None:
        """Take text that goes out later; `drain` now and then."""
        self._data += escape(text).encode()

    def flush(self) -> None:
        """Write what can be written now. Raises OSError; the text is dropped then, for it will not fit later either."""
        data, poller = self._data, select.poll()
        poller.register(self._descriptor, select.POLLOUT)
        try:
            while data and poller.poll(0):
                with naming_stdout():
                    del data[: os.write(self._descriptor, data[:PIECE])]
        except BlockingIOError:
            pass
        except OSError:
            data.clear()
            raise

    async def drain(self) -> None:
        """Write all of it, however long that takes. Raises OSError."""
        self.flush()
        while self._data:
            await writable(self._descriptor)
            self.flush()
