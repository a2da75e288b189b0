"""The monitor typed at a terminal. This package, and no other, knows prompt_toolkit.

`Typed` takes the terminal over before it imports anything heavy, so that keys typed while the program starts are not
echoed and reach the first prompt.
"""

from __future__ import annotations

import os
import sys

from device.machine.machine import PRELAUNCH
from hmp import HUNG_UP, INTERRUPTED, __version__
from hmp.pipe import Front
from hmp.streams import hung_up, silence
from hmp.terminal import history_path
from hmp.terminal.hints import first
from hmp.terminal.screen import standard_screen
from hmp.terminal.tty import Tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Event
    from typing import TextIO

    from hmp.recording.recorder import Recorder
    from hmp.terminal.screen import Screen
    from hmp.terminal.session import Prompt, Session

PROMPT = "(qemu) "

BANNER = f"hmp {__version__} monitor - type 'help' for more information"


def _has_history() -> bool:
    try:
        return os.path.getsize(history_path() or "") > 0
    except OSError:
        return False


class Typed(Front):
    """Talks with the person at stdin and stdout, terminals both, until the machine is over; serves clients beside.

    Lines of scripts run before, with the terminal left as it is. The status is 0 or 128 and the number of the signal
    that ended it; the terminal is then as it was.
    """

    tells = False
    recorder: Recorder | None = None
    """What takes the place of stdout, if the session is recorded."""

    _status: int | None = None
    _tty: Tty
    _screen: Screen
    _stdout: TextIO
    _loop: AbstractEventLoop
    _session: Session

    def _use(self) -> int | None:
        stdout = self._stdout = sys.stdout if self.recorder is None else self.recorder.stdout
        self._screen = standard_screen(stdout)
        try:
            with Tty(sys.stdin.fileno()) as self._tty:
                origins = [origin for _, origin in self.config.sources]
                if not origins:
                    self._begin()
                    if self.serving is None:
                        # Before the editor is there, which takes three times as long to load as all the rest: keys
                        # typed meanwhile are kept. With clients to be waited for it would be a promise.
                        self._screen.foretell(PROMPT)
                elif 0 not in origins:  # keys are for the prompt, whatever runs before it
                    self._tty.quiet()
                from asyncio import Runner

                with Runner() as runner:
                    runner.run(self._serve())
                return self._status
        except OSError:
            if not hung_up(stdout.fileno()):
                raise
            self.machine.quit()
            silence(stdout.fileno())
            return HUNG_UP

    def _begin(self) -> None:
        """Take the terminal over."""
        self._tty.quiet()
        self._screen.write(f"{BANNER}\n")
        if self.recorder is None and not _has_history():
            dim, plain = ("\x1b[2m", "\x1b[0m") if self._screen.color else ("", "")  # rich would take its time now
            self._screen.write(f"{dim}{first(self._screen.width())}{plain}\n")

    async def _serve(self) -> None:
        """Run the session with everything around it."""
        import asyncio
        from functools import partial
        from signal import SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, sigpending

        from hmp.aiolines import working
        from hmp.drive import MachineDriver
        from hmp.terminal.session import Session

        machine, tty = self.machine, self._tty
        loop = self._loop = asyncio.get_running_loop()
        driver = MachineDriver(machine, loop)
        prompt = self._make_prompt(loop)
        session = self._session = Session(
            machine,
            self.monitor,
            driver,
            self._screen,
            prompt,
            on_reply=self.runner.note,
            flush=tty.flush,
            keys=tty.fd,
        )
        loop.add_signal_handler(SIGTSTP, self._suspend)
        for signal in (SIGHUP, SIGTERM, SIGQUIT):
            loop.add_signal_handler(signal, self._leave, 128 + signal)
        stop = asyncio.Event()
        loop.add_signal_handler(SIGINT, self._interrupt_scripts, stop)
        if self.recorder is not None:
            self.recorder.on_failure(partial(self._show_failure, prompt))
        driver.start()
        if SIGINT in sigpending():  # typed while we were starting: it is no line that it should clear
            self._leave(128 + SIGINT)
        tty.release()
        try:
            async with working(self, driver, session.finished, stop):
                if self.config.sources and not machine.over:
                    self._begin()
                loop.add_signal_handler(SIGINT, session.interrupt)
                await session.run()
        finally:
            tty.hold()
            self._screen.clear()
            driver.stop()

    def _make_prompt(self, loop: AbstractEventLoop) -> Prompt:
        if not self._screen.ansi:
            from hmp.terminal.dumb import DumbPrompt

            return DumbPrompt(self._screen, self._tty, loop)
        from prompt_toolkit.input.vt100 import Vt100Input
        from prompt_toolkit.output import create_output

        from hmp.terminal.prompt import LinePrompt

        return LinePrompt(
            self.machine,
            self._screen,
            Vt100Input(sys.stdin),
            create_output(self._stdout),
            suspend=self._suspend,
            dialect=self.config.dialect.replace("seed", ""),
        )

    def _show_failure(self, prompt: Prompt, reason: str) -> None:
        # Not at once: what failed is the recording of something that is just being drawn.
        self._loop.call_soon(prompt.show, f"[{reason}]\n", "error")

    def _interrupt_scripts(self, stop: Event) -> None:
        """Ctrl-C before there is a prompt: scripts end and the prompt comes. Where nothing runs yet, all ends."""
        if self._session.waiting:
            self._session.interrupt()
        elif not self.config.sources or (self.machine.run_state == PRELAUNCH and not self.config.paused):
            self._leave(INTERRUPTED)
        stop.set()

    def _leave(self, status: int) -> None:
        self._status = status
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
