"""Lines run inside an event loop, beside clients and before a prompt: neither stdin nor stdout holds anybody up."""

from __future__ import annotations

import asyncio
import os
import select
from contextlib import asynccontextmanager

from device.machine.events import Ended
from hmp.monitor import escape
from hmp.monitor.monitor import Reply
from hmp.streams import Output, naming_stdout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from hmp.drive import MachineDriver
    from hmp.pipe import Front, Server

    Wait = Callable[[Reply], Awaitable[bool]]

AT_ONCE = 1024
"""Bytes of a script that are read, and run, before clients on sockets get their turn."""

PIECE = select.PIPE_BUF
"""Bytes that a pipe takes at once, without blocking, when poll() says that it can be written to."""


async def readable(descriptor: int | None) -> None:
    """Wait until a read would not block; regular files and /dev/null never do, and cannot be watched."""
    loop = asyncio.get_running_loop()
    if descriptor is None:
        await asyncio.sleep(0)
    else:
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

    def add_bytes(self, data: bytes) -> None:
        """Take bytes as they are."""
        self._data += data

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


@asynccontextmanager
async def working(
    front: Front, driver: MachineDriver, wait: Wait | None = None, stop: asyncio.Event | None = None
) -> AsyncIterator[asyncio.Event]:
    """Serve what `front` has to serve; inside, its lines were run. Gives an event that is set when the machine ends.

    `wait` waits for a reply in the front's own way; the lines that are left are dropped when it returns False, or once
    `stop` is set.
    The machine starts once the clients came that are waited for, and ends with the context, or before it where lines
    end it. Raises OSError when stdout cannot be written.
    """
    machine, over = front.machine, asyncio.Event()
    server = None if front.serving is None else front.serving.serve(machine, driver)
    unsubscribe = machine.subscribe(lambda event: over.set() if isinstance(event, Ended) and machine.over else None)
    try:
        if not machine.over:  # else a signal came before we did
            stops = [] if stop is None else [stop.wait()]
            await _first(_work(front, driver, server, wait), over.wait(), *stops)
            front.runner.out.flush()
        if front.runner.over:
            machine.quit(reason="host-ui")
        yield over
    finally:
        machine.quit(reason="host-ui")  # clients hear of the end of stdin; after another end this does nothing
        unsubscribe()
        if server is not None:
            await server.stop()


async def _first(*each: Coroutine[object, object, object]) -> None:
    """Wait for the first of these to end, and cancel the others. Raises what the first raised."""
    tasks = [asyncio.ensure_future(one) for one in each]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _work(front: Front, driver: MachineDriver, server: Server | None, wait: Wait | None) -> None:
    if server is not None:
        await server.clients_came()
    front.machine.start(paused=front.config.paused)
    driver.reschedule()
    out = front.runner.out = PatientOutput()
    sources = front.sources()
    for source in sources:
        source.piece = AT_ONCE
    for awaited in front.runner.steps(sources):
        driver.reschedule()
        await out.drain()
        if isinstance(awaited, Reply) and wait is not None:
            if not await wait(awaited):
                break
        elif isinstance(awaited, Reply):
            await driver.wait(awaited, asyncio.get_running_loop().create_future())
        else:
            await readable(awaited.descriptor)
    driver.reschedule()
    await out.drain()
    if server is not None:
        await server.stdio_ended()
