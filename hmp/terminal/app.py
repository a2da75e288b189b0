"""The front end for a person at a terminal. Only this package imports prompt_toolkit.

`Typed` changes the settings of the terminal before it imports anything large. So keys that are typed while the program
starts are not echoed, and reach the first prompt.
"""

from __future__ import annotations

import os
import sys
from signal import SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, sigpending

from device.machine.machine import PRELAUNCH
from hmp import HUNG_UP, INTERRUPTED, __version__
from hmp.pipe import Front
from hmp.streams import hung_up, silence
from hmp.terminal import history_kept, history_path
from hmp.terminal.hints import first_hint, no_history_hint
from hmp.terminal.screen import standard_screen
from hmp.terminal.tty import Tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Event

    from hmp.recording.recorder import Recorder
    from hmp.terminal.session import Prompt

PROMPT = "(qemu) "

BANNER = f"hmp {__version__} monitor - type 'help' for more information"


def _has_history() -> bool:
    try:
        # A person with a history has used hmp before and needs no first hint.
        return os.path.getsize(history_path() or "") > 0
    except OSError:
        return False


class Typed(Front):
    """Serves the person at stdin and stdout, which are terminals, and clients, until the machine ends.

    Lines of scripts run first, with the terminal's settings unchanged. The status is 0, or 128 plus the number of the
    signal that ended it. At the end the terminal has its old settings.
    """

    reports_events = False
    recorder: Recorder | None = None
    """Takes the place of stdout if the session is recorded."""

    _status: int | None = None

    def _use(self) -> int | None:
        stdout = self._stdout = sys.stdout if self.recorder is None else self.recorder.stdout
        self._screen = standard_screen(stdout)
        try:
            # First of all, so that a signal or an error from here on leaves the terminal as it was.
            with Tty(sys.stdin.fileno()) as self._tty:
                origins = [origin for _, origin in self.config.sources]
                if not origins:
                    self._begin()
                    if self.serving is None:
                        # Show the prompt before the editor is loaded, which takes three times as long as all the rest.
                        # Keys are kept meanwhile. Not with sockets: there hmp may first have to wait for a client.
                        self._screen.show_early(PROMPT)
                elif 0 not in origins:  # no script comes from stdin, so keys typed while scripts run are for the prompt
                    self._tty.quiet()
                from asyncio import Runner

                with Runner() as runner:
                    runner.run(self._serve())
                return self._status
        except OSError:
            # A terminal that hung up is an end like Ctrl-D; any other error of stdout is reported.
            if not hung_up(stdout.fileno()):
                raise
            self.machine.quit()
            silence(stdout.fileno())
            return HUNG_UP

    def _begin(self) -> None:
        """Change the terminal's settings and print the banner."""
        self._tty.quiet()
        self._screen.write(f"{BANNER}\n")
        if self.recorder is not None:
            return
        for line in [first_hint] * (not _has_history()) + [no_history_hint] * (not history_kept()):
            # Not with rich: its import would delay the prompt.
            dim, plain = ("\x1b[2m", "\x1b[0m") if self._screen.color else ("", "")
            self._screen.write(f"{dim}{line(self._screen.width())}{plain}\n")

    async def _serve(self) -> None:
        """Run the session, with the driver, the signals and the sockets."""
        import asyncio
        from functools import partial

        from hmp.aiolines import working
        from hmp.drive import MachineDriver
        from hmp.terminal.session import Session

        machine, tty = self.machine, self._tty
        loop = self._loop = asyncio.get_running_loop()
        driver = MachineDriver(machine, loop)
        prompt = self._make_prompt(loop)
        session = self._session = Session(
            machine, self.monitor, driver, self._screen, prompt, on_reply=self.runner.note, flush=tty.flush, keys=tty.fd
        )
        # Handlers of the loop run between callbacks, so a signal never interrupts a command in the middle.
        loop.add_signal_handler(SIGTSTP, self._suspend)
        for signal in (SIGHUP, SIGTERM, SIGQUIT):
            loop.add_signal_handler(signal, self._leave, 128 + signal)
        stop = asyncio.Event()
        loop.add_signal_handler(SIGINT, self._interrupt_scripts, stop)
        if self.recorder is not None:
            self.recorder.on_failure(partial(self._show_failure, prompt))
        if SIGINT in sigpending():  # Ctrl-C during the start: there is no line to clear, so it ends hmp
            self._leave(128 + SIGINT)
        tty.release()
        try:
            async with working(self, driver, session.finished, stop):
                if self.config.sources and not machine.over:
                    self._begin()
                loop.add_signal_handler(SIGINT, session.interrupt)
                self.monitor.asks = True
                await session.run()
        finally:
            tty.hold()
            self._screen.clear()

    def _make_prompt(self, loop: AbstractEventLoop) -> Prompt:
        if not self._screen.ansi:
            # The dumb prompt needs nothing of prompt_toolkit, so that is not imported.
            from hmp.terminal.dumb import DumbPrompt

            return DumbPrompt(self._screen, self._tty, loop)
        from prompt_toolkit.input.vt100 import Vt100Input
        from prompt_toolkit.output import create_output

        from hmp.terminal.prompt import LinePrompt

        input, output = Vt100Input(sys.stdin), create_output(self._stdout)
        # The default dialect is not shown: the toolbar only has room for what is unusual.
        dialect = self.config.dialect.replace("seed", "")
        return LinePrompt(self.machine, self._screen, input, output, suspend=self._suspend, dialect=dialect)

    def _show_failure(self, prompt: Prompt, reason: str) -> None:
        # Not at once: the recording failed while something was drawn, and this text is drawn too.
        self._loop.call_soon(prompt.show, f"[{reason}]\n", "error")

    def _interrupt_scripts(self, stop: Event) -> None:
        """Handle Ctrl-C before the prompt: end the scripts and show the prompt. If nothing runs yet, end hmp."""
        if self._session.waiting:
            self._session.interrupt()
        elif not self.config.sources or (self.machine.run_state == PRELAUNCH and not self.config.paused):
            self._leave(INTERRUPTED)
        stop.set()

    def _leave(self, status: int) -> None:
        self._status = status
        self._session.leave()

    def _suspend(self) -> None:
        """Stop the job for Ctrl-Z, as a key or as a signal, until the shell continues it."""
        self._screen.write("")  # also ends what is drawn again and again
        self._tty.hold()
        self._loop.remove_signal_handler(SIGTSTP)
        self._tty.suspend()
        self._loop.add_signal_handler(SIGTSTP, self._suspend)
        self._tty.release()
