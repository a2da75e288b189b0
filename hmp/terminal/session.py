"""One typed session: it asks for a line, runs it, and waits for its reply. It draws nothing itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from device.clock import SECOND
from device.machine.events import Ended, Event
from device.machine.machine import Machine
from hmp.drive import MachineDriver
from hmp.monitor import MAX_LINE, TOO_LONG
from hmp.monitor.drawn import Drawn
from hmp.monitor.monitor import Monitor, Reply
from hmp.pipe import catching_up
from hmp.terminal.countdown import AFTER, Countdown
from hmp.terminal.events import Announcer
from hmp.terminal.hints import TIPS, advice
from hmp.terminal.screen import Screen


class Prompt(Protocol):
    """The methods of a prompt that a session uses. LinePrompt and DumbPrompt describe them."""

    async def read(self) -> str | None:
        """Ask for a line."""

    def end(self) -> None:
        """Remove the prompt."""

    def interrupt(self) -> None:
        """Clear the line."""

    def drop(self) -> None:
        """Drop type-ahead."""

    def interrupted(self) -> bool:
        """Whether there was a Ctrl-C in the type-ahead."""
        ...

    def show(self, text: str, style: str = "") -> None:
        """Show lines above the prompt."""

    def refresh(self) -> None:
        """Update the toolbar soon."""


CANCELLED = "cancelled"
"""What the screen shows after a wait that Ctrl-C ended."""

_REMEMBERED = 10_000
"""How many typed lines are kept for `sim save`."""


class _Ticker:
    """Shows the countdown of a wait."""

    def __init__(self, machine: Machine, screen: Screen, loop: asyncio.AbstractEventLoop, reply: Reply) -> None:
        self._machine, self._screen, self._loop, self._reply = machine, screen, loop, reply
        self._until, self._countdown = reply.until, Countdown(machine, reply.until)
        self._handle = loop.call_later(AFTER / SECOND, self._step)

    def _step(self) -> None:
        if self._reply.until != self._until:  # the next line of a script waits now
            self._until, self._countdown = self._reply.until, Countdown(self._machine, self._reply.until)
        countdown, now, columns = self._countdown, self._machine.clock.now(), self._screen.width()
        if not self._screen.ansi:
            # A terminal without control sequences cannot replace a line, so it gets one line and no more.
            self._screen.show(f"{countdown.once()}\n")
            return
        line, more = countdown.line(now, columns), countdown.inflation()
        self._handle = self._loop.call_later((countdown.due - now) / SECOND, self._step)
        self._screen.transient(line + more * (len(line + more) < columns), countdown.done(now))

    def stop(self) -> None:
        """Stop, and remove the countdown from the screen."""
        self._handle.cancel()
        self._screen.clear()


class Session:
    """A person at a monitor. `run` asks for lines and runs them until the machine or the input ends.

    `on_reply` is called with every reply that was shown. `flush` drops the keys that were not read yet. `keys` is the
    descriptor of the keys. `begin` runs a line in place of the monitor. `counts` says whether to show countdowns; the
    default is no on simulated clocks, where waits take no time.
    """

    def __init__(
        self, machine: Machine, monitor: Monitor, driver: MachineDriver, screen: Screen, prompt: Prompt, *,
        on_reply: Callable[[Reply], None] | None = None, flush: Callable[[], None] = lambda: None,
        keys: int | None = None, begin: Callable[[str], Reply] | None = None, counts: bool | None = None,
    ) -> None:  # fmt: skip
        self._catch_up = catching_up(machine)
        monitor.live, monitor.show_reply, monitor.columns = screen.live, self._show_reply, screen.width
        self._machine, self._monitor, self._driver = machine, monitor, driver
        self._screen, self._prompt = screen, prompt
        self._on_reply, self._flush, self._keys = on_reply, flush, keys
        self._begin = begin if begin is not None else self._execute
        self._counts = not machine.clock.simulated if counts is None else counts
        self._announcer = Announcer(self._announce, now=asyncio.get_running_loop().time)
        self._tips = {} if hasattr(machine, "offers") else dict(TIPS)  # the tips are about the simulated guest
        self._wait: asyncio.Future[None] | None = None
        self._failure: BaseException | None = None

    async def run(self) -> None:
        """Serve the person. Raises OSError if the terminal is gone, and any error of the loop's callbacks."""
        loop = asyncio.get_running_loop()
        before = loop.get_exception_handler()
        loop.set_exception_handler(self._failed)
        unsubscribe = self._machine.subscribe(self._on_event)
        try:
            while not self._machine.over:
                try:
                    line = await self._prompt.read()
                except EOFError:
                    self.leave()
                else:
                    if line is not None:
                        await self._run_line(line)
                if self._failure is not None:
                    raise self._failure
        finally:
            unsubscribe()
            loop.set_exception_handler(before)

    def leave(self) -> None:
        """End the machine and the session."""
        self._announcer.own = True
        self._machine.quit()

    @property
    def waiting(self) -> bool:
        """Whether it waits for a reply."""
        return self._wait is not None

    def interrupt(self) -> None:
        """Handle Ctrl-C: end the wait and show the prompt again, or clear the line at the prompt."""
        if self._wait is not None:
            self._flush()
            self._prompt.drop()
            self._release()
        else:
            self._prompt.interrupt()

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """Handle an error of a callback or a task: remove the prompt and let `run` raise the error."""
        if self._failure is None:
            error = context.get("exception")
            self._failure = error if isinstance(error, BaseException) else RuntimeError(str(context.get("message")))
            self._prompt.end()
            self._release()

    def _release(self) -> None:
        if self._wait is not None and not self._wait.done():
            self._wait.set_result(None)

    # Commands.

    async def _run_line(self, line: str) -> None:
        if len(line) > MAX_LINE:
            self._screen.show(f"{TOO_LONG}\n", "error")
            return
        # A command should see the machine as it is now, with all timers that are due.
        if self._catch_up is not None:
            self._catch_up()
        if self._machine.over:  # it ended after the line was entered, and nothing would answer the line
            return
        self._announcer.own = True
        try:
            reply = self._begin(line)
        finally:
            self._announcer.own = False
        if reply.question is not None and reply.go_on is not None and await self._agreed(reply.question):
            reply.go_on()
        self._driver.reschedule()
        done = not reply.pending or await self.finished(reply)
        # A saved script that saves itself would fail: the file is there already.
        if line.strip() and line.split()[:2] != ["sim", "save"]:
            self._monitor.typed = [*self._monitor.typed[-_REMEMBERED:], (line, done and not reply.failed)]
        if not done:
            return
        self._show_reply(reply, line)
        hint = advice(line, reply.text) if reply.failed else self._tips.pop(line.strip(), "")
        self._screen.show(f"{hint}\n" * bool(hint), "dim")
        if self._on_reply is not None:
            self._on_reply(reply)

    def _execute(self, line: str) -> Reply:
        self._monitor.history.add(line)
        return self._monitor.execute(line)

    def _show_reply(self, reply: Reply, line: str = "") -> None:
        text, style = reply.text, "error" if reply.failed else ""
        if style and line.split()[:1] == ["sim"]:  # hmp's own text, not QEMU's: it may be wrapped between words
            text = Drawn.of(text, (), heading=(style, text.rstrip("\n")))
        self._screen.show(text, style)

    async def _agreed(self, question: str) -> bool:
        """Ask for one key. Type-ahead and pasted text do not count as an answer."""
        from hmp.terminal.question import agreed

        self._flush()
        self._prompt.drop()
        loop = asyncio.get_running_loop()
        self._wait = loop.create_future()
        try:
            return self._keys is not None and await agreed(self._screen, self._keys, self._wait, question, self._flush)
        finally:
            self._wait = None

    async def finished(self, reply: Reply) -> bool:
        """Wait for a suspended reply. Returns false after Ctrl-C or the end of the machine; then it is not shown."""
        loop = asyncio.get_running_loop()
        self._wait = loop.create_future()
        ticker = _Ticker(self._machine, self._screen, loop, reply) if self._counts else None
        try:
            # Ctrl-C may have been typed ahead, in the same packet as the line.
            if self._prompt.interrupted():
                self._release()
            complete = await self._driver.wait(reply, self._wait)
        finally:
            self._wait = None
            if ticker is not None:
                ticker.stop()
        if not (self._screen.settle() or complete or self._machine.over):
            self._screen.show(f"{CANCELLED}\n", "dim")
        return complete

    # Events.

    def _on_event(self, event: Event) -> None:
        self._announcer.on_event(event)
        if isinstance(event, Ended):
            self._prompt.end()
            self._release()
        else:
            self._prompt.refresh()

    def _announce(self, line: str) -> None:
        line = line.replace("\n", "\\n")  # a part of it may come from the guest
        self._prompt.show(f"[{line}]\n", "event")
