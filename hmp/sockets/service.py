"""hmp with sockets, without a typed prompt: headless, or beside a pipe. One event loop drives all of it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from contextlib import asynccontextmanager

from hmp.aiodrive import MachineDriver
from hmp.monitor.errors import UnreadableError
from hmp.monitor.escape import escape
from hmp.pipe import OK
from hmp.sockets.aiostreams import PatientOutput, readable
from hmp.sockets.server import Server
from hmp.streams import CHUNK, LineSplitter, complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from contextlib import AbstractAsyncContextManager

    from device.machine.machine import Machine
    from hmp.monitor.monitor import Reply
    from hmp.pipe import Runner, Source
    from hmp.sockets.listeners import Listener

LINES_AT_ONCE = 64
"""Lines of a script that run before clients on sockets get their turn."""


def ready_line(listeners: list[Listener]) -> str:
    """Return what stderr says once all addresses listen."""
    return " ".join(
        [f"ready pid={os.getpid()}", *(f"{listener.address.kind}={escape(listener.name)}" for listener in listeners)]
    )


def open_server(machine: Machine, driver: MachineDriver, listeners: list[Listener], dialect: str) -> Server:
    """Serve on `listeners`, and say so on stderr. `stop()` it at the end."""
    # Each of asyncio's transports is a cycle of its own; main() set the collector to be rare.
    gc.freeze()
    gc.set_threshold(5_000, 10, 10)
    server = Server(machine, driver, listeners, dialect)
    server.start()
    complain(ready_line(listeners))
    return server


def beside(
    machine: Machine,
    listeners: list[Listener],
    runner: Runner,
    sources: Iterable[Source],
    *,
    dialect: str,
    paused: bool,
) -> Callable[[MachineDriver], AbstractAsyncContextManager[object]]:
    """Return what serves `machine` beside a typed prompt and inside its loop, and runs `sources` before the prompt.

    The machine starts once the clients came that are waited for; it ends where a failed command is to stop `runner`.
    """

    @asynccontextmanager
    async def serving(driver: MachineDriver) -> AsyncIterator[None]:
        server = open_server(machine, driver, listeners, dialect)
        try:
            await _work(machine, driver, server, runner, sources, paused=paused)
            if runner.over:
                machine.quit(reason="host-ui")
            yield
        finally:
            await server.stop()

    return serving


def run_service(
    machine: Machine,
    listeners: list[Listener],
    runner: Runner,
    sources: Iterable[Source],
    *,
    dialect: str,
    paused: bool,
    headless: bool,
    fail_stale: bool,
) -> int:
    """Start the machine, serve it, and run `sources` beside; returns the exit status.

    Headless, serving goes on behind the last line until SIGTERM, SIGINT or the machine's end; else that line is the
    end. Raises OSError when stdout cannot be written.
    """
    status: int | None = None

    def signalled(number: int) -> None:
        nonlocal status
        status = OK if headless and number == signal.SIGTERM else 128 + number
        machine.quit(reason="host-signal")

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(report)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                loop.add_signal_handler(number, signalled, number)
        driver = MachineDriver(machine, loop)
        driver.start()
        server = open_server(machine, driver, listeners, dialect)
        try:
            await _work(machine, driver, server, runner, sources, paused=paused, headless=headless)
        finally:
            machine.quit(reason="host-ui")  # clients hear of the end of stdin; after another end this does nothing
            await server.stop()
            driver.stop()

    with asyncio.Runner() as loops:  # not asyncio.run(): where no loop can be made it warns of what was never awaited
        loops.run(serve())
    return runner.status(fail_stale=fail_stale) if status is None else status


def report(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """Tell of a fault in one of the loop's callbacks, in one line; the service goes on."""
    error = context.get("exception")
    what = f"{context.get('message')}: {error!r}" if error is not None else str(context.get("message"))
    complain(f"internal error: {escape(what).replace(chr(10), ' ')}")


async def _work(
    machine: Machine,
    driver: MachineDriver,
    server: Server,
    runner: Runner,
    sources: Iterable[Source],
    *,
    paused: bool,
    headless: bool = False,
) -> None:
    """Start the machine once the clients came that are waited for, then run `sources`, while others are served.

    `headless` waits on, unless a failed command is to stop `runner`. The machine's end is the end of it all. Raises
    OSError when stdout cannot be written.
    """

    async def work() -> None:
        await server.clients_came()
        machine.start(paused=paused)
        driver.kick()
        await _Lines(driver, runner).run(sources)
        if headless and not runner.over:
            await over.wait()

    if machine.over:  # a signal came before we did
        return
    over = asyncio.Event()
    unsubscribe = machine.subscribe(lambda name, data: over.set() if name == "SHUTDOWN" else None)
    tasks = [asyncio.ensure_future(each) for each in (work(), over.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            tasks[0].result()
    finally:
        unsubscribe()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    runner.flush()


class _Lines:
    """Runs the lines of sources inside the loop, waiting for none of it in a way that holds the clients up."""

    def __init__(self, driver: MachineDriver, runner: Runner) -> None:
        self._driver = driver
        self._runner = runner
        self._out = PatientOutput()
        runner.print_to(self._out)

    async def run(self, sources: Iterable[Source]) -> None:
        """Run them all. Raises OSError when stdout cannot be written."""
        for name, source in sources:
            try:
                await self._run(name, source)
            except UnreadableError as error:
                self._runner.unreadable(name, error)
            if self._runner.over:
                break
        await self._out.drain()

    async def _run(self, name: str, source: int | list[str]) -> None:
        """Run the lines of one source. Raises UnreadableError."""
        number = 0
        async for raw in self._lines(source):
            number += 1
            reply = self._runner.begin(name, number, raw)
            if reply is not None:
                if reply.pending:
                    await self._out.drain()
                    await self._wait(reply)
                self._runner.end(name, number, reply)
            self._driver.kick()
            if self._runner.over:
                return
            if number % LINES_AT_ONCE == 0:
                await asyncio.sleep(0)
            if self._out.size > CHUNK:
                await self._out.drain()

    async def _wait(self, reply: Reply) -> None:
        done = asyncio.get_running_loop().create_future()

        def finished(_: Reply) -> None:
            self._driver.resume()
            if not done.done():
                done.set_result(None)

        reply.on_done = finished
        self._driver.suspend()
        try:
            await done
        except asyncio.CancelledError:
            reply.cancel()
            raise

    async def _lines(self, source: int | list[str]) -> AsyncIterator[bytes | None]:
        if isinstance(source, list):
            for line in source:
                yield line.encode("utf-8", "surrogateescape")
            return
        splitter = LineSplitter()
        while not splitter.over:
            await self._out.drain()
            await readable(source)
            for raw in splitter.read(source):
                yield raw
