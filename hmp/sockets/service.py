"""hmp with sockets, without a typed prompt: headless, or beside a pipe. One event loop drives all of it."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager

from device.machine.machine import PRELAUNCH
from hmp.aiodrive import MachineDriver
from hmp.monitor.errors import UnreadableError
from hmp.monitor.escape import escape
from hmp.pipe import INTERRUPTED, OK
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

HUNG_UP, TERMINATED = 129, 143
"""Exit statuses of a run with sockets that got SIGHUP, or SIGTERM while not headless: 128 and the signal's number."""

LINES_AT_ONCE = 64
"""Lines of a script that run before clients on sockets get their turn."""


def ready_line(listeners: list[Listener]) -> str:
    """Return what stderr says once all addresses listen."""
    return " ".join(
        [f"ready pid={os.getpid()}", *(f"{listener.address.kind}={escape(listener.name)}" for listener in listeners)]
    )


def open_server(machine: Machine, driver: MachineDriver, listeners: list[Listener], dialect: str) -> Server:
    """Serve on `listeners`, and say so on stderr. `stop()` it at the end."""
    server = Server(machine, driver, listeners, dialect)
    server.start()
    complain(ready_line(listeners))
    return server


def beside(
    machine: Machine, listeners: list[Listener], dialect: str, *, paused: bool
) -> Callable[[MachineDriver], AbstractAsyncContextManager[object]]:
    """Return what serves `machine` beside a typed prompt and inside its loop.

    A machine that has not started does so once the clients came that are waited for.
    """

    @asynccontextmanager
    async def serving(driver: MachineDriver) -> AsyncIterator[Server]:
        server = open_server(machine, driver, listeners, dialect)
        try:
            if machine.run_state == PRELAUNCH:
                await _clients_or_end(server, machine)
                if not machine.over:
                    machine.start(paused=paused)
                    driver.kick()
            yield server
        finally:
            await server.stop()

    return serving


async def _clients_or_end(server: Server, machine: Machine) -> None:
    """Return once the clients came that are waited for, or the machine ended: a signal or another client did that."""
    over = asyncio.Event()
    unsubscribe = machine.subscribe(lambda name, data: over.set() if name == "SHUTDOWN" else None)
    waits = [asyncio.ensure_future(server.clients_came()), asyncio.ensure_future(over.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        unsubscribe()
        for task in waits:
            task.cancel()


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
    service = _Service(machine, listeners, runner, sources, headless=headless)
    status = asyncio.run(service.run(dialect, paused=paused))
    return runner.status(fail_stale=fail_stale) if status is None else status


def report(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """Tell of a fault in one of the loop's callbacks, in one line; the service goes on."""
    error = context.get("exception")
    what = f"{context.get('message')}: {error!r}" if error is not None else str(context.get("message"))
    complain(f"internal error: {escape(what).replace(chr(10), ' ')}")


class _Service:
    """One run."""

    def __init__(
        self,
        machine: Machine,
        listeners: list[Listener],
        runner: Runner,
        sources: Iterable[Source],
        *,
        headless: bool,
    ) -> None:
        self._machine = machine
        self._listeners = listeners
        self._runner = runner
        self._sources = sources
        self._headless = headless
        self._status: int | None = None
        self._out = PatientOutput()
        runner.print_to(self._out)

    async def run(self, dialect: str, *, paused: bool) -> int | None:
        """Serve until the end; returns the exit status if a signal decided it."""
        machine = self._machine
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(report)
        self._end = asyncio.Event()
        self._handle_signals(loop)
        unsubscribe = machine.subscribe(lambda name, data: self._end.set() if name == "SHUTDOWN" else None)
        self._driver = driver = MachineDriver(machine, loop)
        driver.start()
        server = open_server(machine, driver, self._listeners, dialect)
        work = asyncio.ensure_future(self._work(server, paused=paused))
        ending = asyncio.ensure_future(self._end.wait())
        try:
            await asyncio.wait([work, ending], return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()  # a stdout that cannot be written ends everything
                if self._headless and not self._runner.over:
                    await ending
        finally:
            for task in (work, ending):
                task.cancel()
            await asyncio.gather(work, ending, return_exceptions=True)
            machine.quit(reason="host-ui")  # clients hear of the end of stdin; after another end this does nothing
            await server.stop()
            unsubscribe()
            driver.stop()
        self._runner.flush()
        return self._status

    def _handle_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.add_signal_handler(signal.SIGINT, self._signalled, INTERRUPTED)
        loop.add_signal_handler(signal.SIGTERM, self._signalled, OK if self._headless else TERMINATED)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
            loop.add_signal_handler(signal.SIGHUP, self._signalled, HUNG_UP)

    def _signalled(self, status: int) -> None:
        self._status = status
        self._machine.quit(reason="host-signal")
        self._end.set()

    async def _work(self, server: Server, *, paused: bool) -> None:
        """Start the machine once the clients came that are waited for, then run the lines of every source."""
        await server.clients_came()
        self._machine.start(paused=paused)
        self._driver.kick()
        for name, source in self._sources:
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
