"""Runs lines inside an event loop, beside clients or before a prompt: neither stdin nor stdout blocks the loop."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from device.machine.events import Ended
from hmp.monitor import escape
from hmp.monitor.monitor import Reply
from hmp.streams import Output, naming_stdout, write_ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from hmp.drive import MachineDriver
    from hmp.pipe import Front, Server

    Wait = Callable[[Reply], Awaitable[bool]]

AT_ONCE = 1024
"""How many bytes of a script are read and run before clients on sockets get their turn."""


async def readable(descriptor: int | None) -> None:
    """Wait until a read would not block. Regular files and /dev/null never block, and epoll cannot watch them."""
    loop = asyncio.get_running_loop()
    if descriptor is None:
        await asyncio.sleep(0)
    else:
        await _ready(lambda found: loop.add_reader(descriptor, found), lambda: loop.remove_reader(descriptor))


async def writable(descriptor: int) -> None:
    """Wait until a write would not block."""
    loop = asyncio.get_running_loop()
    await _ready(lambda found: loop.add_writer(descriptor, found), lambda: loop.remove_writer(descriptor))


async def _ready(watch: Callable[[Callable[[], None]], object], unwatch: Callable[[], object]) -> None:
    ready = asyncio.get_running_loop().create_future()

    def found() -> None:
        if not ready.done():
            ready.set_result(None)

    try:
        watch(found)
    except PermissionError:  # epoll's error for regular files
        await asyncio.sleep(0)
        return
    try:
        await ready
    finally:
        unwatch()


class PatientOutput(Output):
    """stdout that never blocks: `drain` waits in the loop until all is written."""

    def __init__(self, descriptor: int = 1) -> None:
        super().__init__(descriptor)
        self._data = bytearray()

    @property
    def size(self) -> int:
        """The number of bytes that are not written yet."""
        return len(self._data)

    def add(self, text: str) -> None:
        """Add text to write later. Call `drain` from time to time."""
        self._data += escape(text).encode()

    def add_bytes(self, data: bytes) -> None:
        """Add bytes to write later, unchanged."""
        self._data += data

    def flush(self) -> None:
        """Write what can be written now.

        Raises OSError; then the text is dropped, because later writes would fail too.
        """
        try:
            with naming_stdout():
                write_ready(self._descriptor, self._data, 0)
        except OSError:
            self._data.clear()
            raise

    async def drain(self) -> None:
        """Write all text, however long that takes. Raises OSError."""
        self.flush()
        while self._data:
            await writable(self._descriptor)
            self.flush()


@asynccontextmanager
async def working(
    front: Front, driver: MachineDriver, wait: Wait | None = None, stop: asyncio.Event | None = None
) -> AsyncIterator[asyncio.Event]:
    """Drive the machine of `front`, serve its clients and run its lines; then enter the context. Yields an event that
    the machine's end sets.

    `wait` waits for a reply in the way of the front end. If it returns False, or `stop` is set, the remaining lines
    are dropped. The machine starts after the first clients of `wait` addresses have come. It ends with the context, or
    earlier if a line ends it. Raises OSError if stdout cannot be written.
    """
    machine, over, server = front.machine, asyncio.Event(), None
    unsubscribe = machine.subscribe(lambda event: over.set() if isinstance(event, Ended) and machine.over else None)
    driver.start()
    try:
        if front.serving is not None:  # sockets first: a client may come while the lines run
            server = front.serving.serve(machine, driver)
        if not machine.over:  # else a signal has come already
            stops = [] if stop is None else [stop.wait()]
            await first(_work(front, driver, server, wait), over.wait(), *stops)
            front.runner.out.flush()
        if front.runner.over:
            machine.quit(reason="host-ui")
        yield over
    finally:
        machine.quit(reason="host-ui")  # clients learn that stdin has ended; after another end this does nothing
        unsubscribe()
        if server is not None:
            await server.stop()
        driver.stop()


async def first(*each: Coroutine[object, object, object]) -> None:
    """Wait for the first of these to end, and cancel the others. Raises its error, if there is one."""
    tasks = [asyncio.ensure_future(one) for one in each]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        # Wait for the cancelled ones too: what they clean up must be done before the caller goes on.
        await asyncio.gather(*tasks, return_exceptions=True)


async def _work(front: Front, driver: MachineDriver, server: Server | None, wait: Wait | None) -> None:
    if server is not None:
        # Lines run only after the clients that wait=on asks for are there.
        await server.clients_came()
    front.machine.start(paused=front.config.paused)
    driver.reschedule()
    out = front.runner.out = PatientOutput()
    sources = front.sources()
    for source in sources:
        # A script may be a megabyte; clients should not wait until all of it has run.
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
        # A monitor on stdin and stdout takes the place of lines, so hmp ends with it.
        await server.stdio_ended()
