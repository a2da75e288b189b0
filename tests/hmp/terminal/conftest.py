"""A person at the typed monitor under a virtual clock: keys in, results out."""

from __future__ import annotations

import asyncio

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from device.guest.table import make_guest
from device.machine.machine import Machine
from device.virtio.spec import MIB
from hmp.drive import MachineDriver
from hmp.monitor.dialects import DIALECTS
from hmp.monitor.monitor import Monitor
from hmp.terminal.prompt import LinePrompt
from hmp.terminal.screen import Screen
from hmp.terminal.session import Session
from tests.support.loop import VirtualLoop


class Person:
    """Types at a monitor: `at` says what happens when (seconds of virtual time)."""

    def __init__(
        self, loop: VirtualLoop, machine: Machine, pipe, *, history=None, color=False, ansi=True, attached=False
    ) -> None:
        self.loop = loop
        self.machine = machine
        self.pipe = pipe
        self.written: list[tuple[float, str]] = []
        self.replies: list[str] = []
        self.driver = MachineDriver(machine, loop)
        self.columns = 80
        screen = Screen(
            lambda text: self.written.append((loop.time(), text)), ansi=ansi, color=color, width=lambda: self.columns
        )
        if attached:
            machine.offers = lambda line: []
        self.prompt = LinePrompt(machine, screen, pipe, DummyOutput(), history=history or InMemoryHistory())
        self.session = Session(
            machine,
            Monitor(machine, DIALECTS["seed"]),
            self.driver,
            screen,
            self.prompt,
            on_reply=lambda reply: self.replies.append(reply.text),
        )

    def type(self, keys: str, at: float = 0) -> Person:
        self.loop.call_at(at, self.pipe.send_text, keys)
        return self

    def does(self, what, at: float) -> Person:
        self.loop.call_at(at, what)
        return self

    async def run_session(self) -> None:
        self.driver.start()
        try:
            await self.session.run()
        finally:
            self.driver.stop()

    @property
    def shown(self) -> str:
        """What the session printed, without the countdown."""
        return "".join(text for _, text in self.written if not text.startswith("\r"))

    @property
    def everything(self) -> str:
        return "".join(text for _, text in self.written)

    @property
    def countdown(self) -> list[tuple[float, str]]:
        return [(at, text[1:].partition("\x1b")[0]) for at, text in self.written if text.startswith("\rw")]


@pytest.fixture
def typed_session(monkeypatch):
    """Return a function that runs `script(person)` before a session at a machine, and the person afterwards."""
    monkeypatch.setenv("TERM", "xterm")

    def start(script, *, guest: str = "linux", clock=None, **options) -> Person:
        async def everything() -> Person:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            machine = Machine(clock or loop.machine_clock(), ram=64 * MIB, guest=make_guest(guest))
            machine.start()
            try:
                with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
                    person = Person(loop, machine, pipe, **options)
                    script(person)
                    await person.run_session()
                    assert machine.over
                    return person
            finally:
                machine.close()

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(everything())

    return start
