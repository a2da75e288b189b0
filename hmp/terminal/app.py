"""The monitor typed at a terminal. This package, and no other, knows prompt_toolkit.

`run` takes the terminal over before it imports anything heavy, so that keys typed while the program starts are not
echoed and reach the first prompt.
"""

from __future__ import annotations

import os
import sys

from hmp import __version__
from hmp.streams import hung_up
from hmp.terminal.screen import standard_screen
from hmp.terminal.tty import Tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from typing import TextIO

    from device.machine.machine import Machine
    from hmp.aiodrive import MachineDriver
    from hmp.monitor.completion import Tags
    from hmp.monitor.monitor import Monitor, Reply
    from hmp.recording.recorder import Recorder
    from hmp.terminal.screen import Screen
    from hmp.terminal.session import Prompt

    Service = Callable[[MachineDriver], AbstractAsyncContextManager[object]]

BANNER = f"hmp {__version__} monitor - type 'help' for more information"

HUNG_UP, TERMINATED = 129, 143
"""Exit statuses: 128 and the signal's number."""


def run(
    machine: Machine,
    monitor: Monitor,
    *,
    banner: bool = True,
    stdin: TextIO | None = None,
    stdout: TextIO | None = None,
    on_reply: Callable[[Reply], None] | None = None,
    services: Sequence[Service] = (),
    scripted: bool = False,
    snapshots: Tags | None = None,
    recorder: Recorder | None = None,
) -> int:
    """Talk with the person at `stdin` and `stdout` (the process's own, terminals both) until the machine is over.

    `on_reply` is told each reply shown. `services` are entered inside the loop, with what drives the machine, and left
    at the end: sockets that serve the same machine. `scripted` leaves them the terminal as it is, for scripts that they
    run; the session begins behind these. `snapshots` returns the tags to complete. `recorder` takes the
    place of `stdout`. Returns the exit status, 0 or 128 and the number of the signal that ended it; the terminal is
    then as it was.
    """
    stdin, stdout = stdin or sys.stdin, stdout or sys.stdout
    if recorder is not None:
        stdout = recorder.stdout
    screen = standard_screen(stdout)
    try:
        with Tty(stdin.fileno()) as tty:
            terminal = _Terminal(machine, monitor, tty, screen, stdin, stdout)
            terminal.on_reply, terminal.services, terminal.snapshots = on_reply, services, snapshots
            terminal.recorder, terminal.banner, terminal.scripted = recorder, banner, scripted
            if not scripted:
                terminal.begin()
            from asyncio import Runner

            with Runner() as runner:
                runner.run(terminal.serve())
            return terminal.status
    except OSError:
        if not hung_up(stdout.fileno()):
            raise
        machine.quit()
        _silence(stdout)
        return HUNG_UP


def _silence(stdout: TextIO) -> None:
    """Let nothing more be written to a terminal that is gone."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stdout.fileno())
        os.close(null)
    except OSError:
        pass


class _Terminal:
    """What holds for the length of one `run`: the loop's signals and errors, the machine's driver, the session."""

    on_reply: Callable[[Reply], None] | None = None
    services: Sequence[Service] = ()
    snapshots: Tags | None = None
    recorder: Recorder | None = None
    banner = True
    scripted = False

    def __init__(
        self, machine: Machine, monitor: Monitor, tty: Tty, screen: Screen, stdin: TextIO, stdout: TextIO
    ) -> None:
        self.status = 0
        self._machine = machine
        self._monitor = monitor
        self._tty = tty
        self._screen = screen
        self._stdin = stdin
        self._stdout = stdout

    def begin(self) -> None:
        """Take the terminal over."""
        self._tty.quiet()
        if self.banner:
            self._screen.write(f"{BANNER}\n")

    async def serve(self) -> None:
        """Run the session with everything around it."""
        import asyncio
        from contextlib import AsyncExitStack
        from functools import partial
        from signal import SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, sigpending

        from hmp.aiodrive import MachineDriver
        from hmp.terminal.session import Session

        loop = self._loop = asyncio.get_running_loop()
        driver = MachineDriver(self._machine, loop)
        prompt = self._make_prompt(loop)
        session = self._session = Session(
            self._machine,
            self._monitor,
            driver,
            self._screen,
            prompt,
            on_reply=self.on_reply,
            flush=self._tty.flush,
        )
        loop.add_signal_handler(SIGINT, self._leave, 128 + SIGINT)  # while a service waits for its client
        loop.add_signal_handler(SIGTSTP, self._suspend)
        for signal in (SIGHUP, SIGTERM, SIGQUIT):
            loop.add_signal_handler(signal, self._leave, 128 + signal)
        if self.recorder is not None:
            self.recorder.on_failure(partial(self._tell, prompt))
        driver.start()
        if SIGINT in sigpending():  # typed while we were starting: it is no line that it should clear
            self._leave(128 + SIGINT)
        self._tty.release()
        try:
            async with AsyncExitStack() as stack:
                for service in self.services:
                    await stack.enter_async_context(service(driver))
                if self.scripted and not self._machine.over:
                    self.begin()
                loop.add_signal_handler(SIGINT, session.interrupt)
                await session.run()
        finally:
            self._tty.hold()
            driver.stop()

    def _make_prompt(self, loop: AbstractEventLoop) -> Prompt:
        if not self._screen.ansi:
            from hmp.terminal.dumb import DumbPrompt

            return DumbPrompt(self._screen, self._tty, loop)
        from prompt_toolkit.input.vt100 import Vt100Input
        from prompt_toolkit.output import create_output

        from hmp.terminal.prompt import LinePrompt

        return LinePrompt(
            self._machine,
            self._screen,
            Vt100Input(self._stdin),
            create_output(self._stdout),
            snapshots=self.snapshots,
            suspend=self._suspend,
        )

    def _tell(self, prompt: Prompt, reason: str) -> None:
        # Not at once: what failed is the recording of something that is just being drawn.
        self._loop.call_soon(prompt.show, f"[{reason}]\n", "error")

    def _leave(self, status: int) -> None:
        self.status = status
        self._session.leave()

    def _suspend(self) -> None:
        """Stop the job for Ctrl-Z, here and as a signal, and go on when it is continued."""
        from signal import SIGTSTP

        self._screen.clear()
        self._tty.hold()
        self._loop.remove_signal_handler(SIGTSTP)
        self._tty.suspend()
        self._loop.add_signal_handler(SIGTSTP, self._suspend)
        self._tty.release()
