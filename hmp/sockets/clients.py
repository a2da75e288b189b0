"""The session of a client of the human monitor: a line editor in front of the monitor."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Set

from device.machine.machine import Machine
from hmp.monitor import escape
from hmp.monitor.completion import complete
from hmp.monitor.dialects import Dialect
from hmp.monitor.emulated import emulated
from hmp.monitor.faults import Fault, find_fault
from hmp.monitor.monitor import History, Monitor, Reply
from hmp.monitor.session import Session, Work
from hmp.sockets.mux import TERMINATED, Mux
from hmp.sockets.readline import CODEC, PROMPT, LineEditor, Output


def banner(machine: Machine) -> bytes:
    """Return the first line that a client of the human monitor gets."""
    return f"QEMU {emulated(machine).version} monitor - type 'help' for more information\r\n".encode()


def _complete(machine: Machine, line: bytes) -> tuple[bytes, Iterable[bytes]]:
    text = line.decode(*CODEC)
    candidates = complete(machine, text)
    # All candidates of one answer begin at the same place.
    word = text[candidates[0].start :] if candidates else ""
    # A name from another client could control this terminal. It is not offered, but it can be typed.
    return word.encode(*CODEC), [each.text.encode() for each in candidates if each.text.isprintable()]


class HmpSession(Session):
    """A client of the human monitor: line editing, echo, and type-ahead while it is suspended."""

    ahead = True
    editor = LineEditor

    def __init__(
        self, machine: Machine, dialect: Dialect, history: History, send: Callable[[bytes], None], *,
        ports: int | None = None, served: bool = True, host_files: bool = False, client: int = 0
    ) -> None:  # fmt: skip
        """`ports` is the number of serial ports that share the stream, None for one without the keys of a mux.

        `served` says whether the stream has a monitor at all. `host_files` and `client` are passed to the Monitor.
        """
        # With --attach the lines go to a running QEMU.
        monitor = (emulated(machine).make_monitor or Monitor)(machine, dialect, history)
        super().__init__(monitor, send, host_files=host_files, client=client)
        self._mux = None if ports is None else Mux(send, self._focus, ports, monitor=served)
        self._unfed = 0  # bytes that passed the filter and wait for room in the editor
        self._editor = self.editor(PROMPT, history, lambda line: _complete(machine, line))

    def greeting(self) -> bytes:
        """Return the banner and a prompt, or nothing if a serial port of a shared stream has the focus first."""
        if self._mux is not None and not self._mux.inside:
            return b""
        return banner(self.machine) + self._editor.show_prompt()

    def _focus(self, first: bool) -> None:
        if first:
            self.send(banner(self.machine) + self._editor.show_prompt())
        elif not self._editor.waiting:  # else the prompt comes after the answer
            self.send(self._editor.restart())

    def filter(self, data: bytes) -> bytes:
        """Return the bytes that were typed for the monitor."""
        if self._mux is None:
            return data
        data = self._mux.feed(data)
        self._unfed += len(data)
        if self._mux.ended and self.suspended:
            self._terminate()
        return data

    def _terminate(self) -> None:
        if not self.machine.over:
            self.send(TERMINATED)
            self.machine.quit()

    def room(self, data: bytes) -> int:
        """Return how many bytes the editor can take."""
        return self._editor.room

    def feed(self, data: bytes) -> None:
        """Take keys, at most as many as there is room for."""
        self._unfed -= len(data)
        self._editor.feed(data)

    def _next(self) -> tuple[Work, Fault | None] | None:
        event = self._editor.next_event()
        if event is None:
            # C-a x ends the machine after the lines that were typed before it have run, as in QEMU.
            if self._mux is not None and self._mux.ended and not self._unfed:
                self._terminate()
            return None
        # The editor's echo is not a command, so no fault affects it.
        if isinstance(event, Output):
            return iter((event,)), None
        if self.on_command is not None:
            self.on_command(event)
        text = event.decode(*CODEC)
        return self._execute(text), find_fault(self.machine, self._monitor.client, "", text)

    def _execute(self, text: str) -> Work:
        reply = self._monitor.execute(text)
        if reply.pending:
            yield reply
        # The characters of its own line go back to the client unchanged, as from QEMU; all other text is escaped.
        answer = self._rendered(reply, frozenset() if text.isprintable() else frozenset(text))
        # QEMU prints no prompt after quit.
        yield answer if self.machine.over else answer + self._editor.show_prompt()

    def _rendered(self, reply: Reply, typed: Set[str]) -> bytes:
        return escape(reply.text, typed).replace("\n", "\r\n").encode(*CODEC)

    def _faulty_answer(self, fault: Fault) -> bytes:
        value = fault.value
        # Even if no reply is sent, the command is over, and the next line runs.
        prompt = self._editor.show_prompt() if self._editor.waiting else b""
        if fault.answer not in ("return", "error"):
            return fault.raw
        text = f"Error: {value[1]}\n" if fault.answer == "error" else value
        # `return` may have any JSON value; the human monitor has only text.
        if not isinstance(text, str):
            text = json.dumps(text)
        return escape(text).replace("\n", "\r\n").encode(*CODEC) + prompt
