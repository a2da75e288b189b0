"""hmp with sockets: its addresses, and the front end without a typed prompt (headless, or beside a pipe).

asyncio is imported after the addresses listen, so that a client that is started at the same time can connect.
"""

from __future__ import annotations

import gc
import os
import signal

from hmp import OK
from hmp.monitor import escape
from hmp.pipe import Front
from hmp.sockets.listeners import listen, raise_file_limit
from hmp.streams import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

    from device.machine.machine import Machine
    from hmp.config import Config
    from hmp.drive import MachineDriver
    from hmp.sockets.listeners import Listener
    from hmp.sockets.server import Server


class Serving:
    """The addresses of a machine, and its server once a loop runs."""

    def __init__(self, config: Config) -> None:
        self._config = config
        # Asked now, because the parent may be gone by the time the server watches it.
        self._parent = os.getppid()
        self._listeners: list[Listener] = []
        self._clean: Callable[[], None] | None = None

    def listen(self) -> None:
        """Listen on all addresses, or on none. Raises UsageError with the address and the reason."""
        raise_file_limit()
        self._listeners = listen(self._config.addresses, allow_remote=self._config.allow_remote)
        if self._config.on_listening is not None:
            self._clean = self._config.on_listening()

    def close(self) -> None:
        """Stop listening."""
        for listener in self._listeners:
            listener.close()
        if self._clean is not None:
            self._clean()

    def serve(self, machine: Machine, driver: MachineDriver) -> Server:
        """Serve clients of `machine` in the running loop, and print the ready line.

        Call `stop()` of the server at the end.
        """
        from hmp.sockets.server import Server  # this imports asyncio

        # Each transport of asyncio is a reference cycle, and main() made the collector run rarely. So let it run more
        # often, but not over the objects made at the start: freeze() exempts them, because they stay.
        gc.freeze()
        gc.set_threshold(5_000, 10, 10)
        server = Server(machine, driver, self._listeners, self._config.dialect)
        server.others = self._config.chardevs
        server.start()
        if self._config.exit_with_parent:
            server.watch_parent(self._parent, stdin=self._config.headless and not self._config.stdio)
        ready(self._listeners)
        return server


class Served(Front):
    """Serves clients, and runs lines at the same time.

    It ends with the last line; headless, with a signal or the machine.
    """

    _status: int | None = None

    def _use(self) -> int | None:
        from asyncio import Runner

        # asyncio.run() would also warn of a coroutine that was not awaited if it cannot make a loop.
        with Runner() as loops:
            loops.run(self._serve())
        return self._status

    async def _serve(self) -> None:
        from asyncio import get_running_loop

        from hmp.aiolines import working
        from hmp.drive import MachineDriver

        loop = get_running_loop()
        prepare(loop, self._signalled)
        async with working(self, MachineDriver(self.machine, loop)) as over:
            if self.config.headless and not self.machine.over:
                await over.wait()

    def _signalled(self, number: int) -> None:
        self._status = OK if self.config.headless and number == signal.SIGTERM else 128 + number
        self.machine.quit(reason="host-signal")


def prepare(loop: AbstractEventLoop, signalled: Callable[[int], None]) -> None:
    """Let `loop` report errors in its callbacks, and call `signalled` with the number of a signal."""
    # An error in the callback of one client must not end the service of the others.
    loop.set_exception_handler(report)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            loop.add_signal_handler(number, signalled, number)


def ready(listeners: list[Listener], count: str = "") -> None:
    """Print the ready line."""
    names = [f"{each.address.kind}={escape(each.name)}" for each in listeners]
    complain(" ".join([f"ready pid={os.getpid()}{count}", *names]))


def report(loop: AbstractEventLoop, context: dict[str, object]) -> None:
    """Report an error in a callback of the loop, in one line. The service goes on."""
    error = context.get("exception")
    what = f"{context.get('message')}: {error!r}" if error is not None else str(context.get("message"))
    complain(f"internal error: {escape(what).replace(chr(10), ' ')}")
