"""The two kinds of clients: the line editor and the QMP conversation, behind a connection."""

from __future__ import annotations

import json
from asyncio import TimerHandle
from collections.abc import Callable, Iterable, Set

from device.machine.machine import Machine
from hmp.monitor import escape
from hmp.monitor.completion import complete
from hmp.monitor.dialects import Dialect
from hmp.monitor.emulated import emulated
from hmp.monitor.faults import GREETING, Answering, Fault, find_fault
from hmp.monitor.monitor import History, Monitor, Reply
from hmp.qjson.codec import ParseFailure
from hmp.qmp.protocol import QmpSession
from hmp.sockets.connection import CUT, IDLE, OPEN, Connection, Host
from hmp.sockets.mux import TERMINATED, Mux
from hmp.sockets.readline import CODEC, PROMPT, LineEditor, Output
from hmp.sockets.telnet import OPENING, TelnetFilter


def banner(machine: Machine) -> bytes:
    """Return what a client of the human monitor sees first."""
    return f"QEMU {emulated(machine).version} monitor - type 'help' for more information\r\n".encode()


UNFINISHED_LIMIT = 60.0
"""Seconds of silence after which an unfinished QMP message is given up: what came of it, up to MAX_MESSAGE_BYTES, is
not kept for ever, and whoever forgot a bracket is told."""

SLICE = 1024
"""Bytes of QMP looked at at once, in 4 ms at most: garbage can yield an error message for every byte."""


def _complete(machine: Machine, line: bytes) -> tuple[bytes, Iterable[bytes]]:
    text = line.decode(*CODEC)
    candidates = complete(machine, text)
    word = text[candidates[0].start :] if candidates else ""
    # What others named in a way that could drive a terminal is not offered; it can be typed.
    return word.encode(*CODEC), [each.text.encode() for each in candidates if each.text.isprintable()]


class HmpConnection(Answering, Connection):
    """A client of the human monitor: line editing, echo, type-ahead while suspended."""

    editor = LineEditor

    def __init__(
        self, host: Host, dialect: Dialect, history: History, *, telnet: bool, host_files: bool, mux: bool = False
    ) -> None:
        super().__init__(host)
        self._telnet = TelnetFilter() if telnet else None
        self._mux = Mux(self.write, self._focus, self._terminate_soon) if mux else None
        self._editor = self.editor(PROMPT, history, lambda line: _complete(host.machine, line))
        self._monitor = (emulated(host.machine).make_monitor or Monitor)(host.machine, dialect, history)
        self._monitor.alone = False
        self._monitor.host_files = host_files
        self._monitor.client = self.number
        self._fault: Fault | None = None
        self._typed: Set[str] = frozenset()
        """Characters of the line that runs. They came from this client, and go back to it as they are."""
        self._reply: Reply | None = None

    def _greet(self) -> None:
        if self._mux is None:
            opening = b"" if self._telnet is None else OPENING
            greeting = opening + banner(self.host.machine) + self._editor.show_prompt()
            self._fault = find_fault(self.host.machine, self.number, GREETING)
            self._begin(lambda: self._deliver(greeting))

    def _focus(self, first: bool) -> None:
        self.write(banner(self.host.machine) + self._editor.show_prompt() if first else PROMPT)

    def _terminate_soon(self) -> None:
        self._loop.call_soon(self._terminate)  # behind the lines that came with it

    def _terminate(self) -> None:
        self.write(TERMINATED)
        self.host.machine.quit()

    def _incoming(self, data: bytes) -> bytes:
        filter = self._telnet or self._mux
        return data if filter is None else filter.feed(data)

    def _pump(self, end: float) -> str:
        editor, now = self._editor, self.host.now
        while True:
            if self._full or self.state == CUT or self._reply is not None:
                self._keep()
                return "blocked"
            event = editor.next_event()
            if event is None:
                if not self._received:
                    return "done"
                self._keep()
            elif isinstance(event, Output):
                self.write(event)
            else:
                self._run(event)
                if self.host.machine.over:
                    return "blocked"
            if now() >= end:
                return "more"

    def _keep(self) -> None:
        """Give the editor what it has room for, so that hanging up is noticed behind it."""
        room = self._editor.room
        if room and self._received:
            self._editor.feed(self._received[:room])
            self._received = self._received[room:]

    def _run(self, line: bytes) -> None:
        self.log("in", line)
        text = line.decode(*CODEC)
        self._typed = frozenset() if text.isprintable() else frozenset(text)
        self._fault = find_fault(self.host.machine, self.number, "", text)
        self._begin(lambda: self._execute(text))

    def _wait(self, duration: int, then: Callable[[], None]) -> None:
        """Suspend the client for `duration` ns of host time."""
        reply = self._reply = Reply()
        timer = self.host.machine.time.after(duration, lambda: reply.finish(""))
        reply.suspend(timer.cancel)
        reply.on_done = lambda _: self._go_on(then)
        self.host.driver.suspend()

    def _go_on(self, then: Callable[[], None]) -> None:
        self._reply = None
        self.host.driver.resume()
        then()
        self._turn_soon()

    def _answer(self, fault: Fault, usual: Callable[[], None]) -> None:
        value = fault.value
        if fault.answer == "usual":
            usual()
            return
        prompt = self._editor.show_prompt() if self._editor.waiting else b""
        if fault.answer in ("never", "cut"):
            self._fault = None
            if fault.answer == "cut":
                self.hang_up()
        elif fault.answer == "raw":
            self._deliver(value.encode(*CODEC))
        else:
            text = (
                f"Error: {value[1]}\n"
                if fault.answer == "error"
                else value
                if isinstance(value, str)
                else json.dumps(value)
            )
            self._deliver(escape(text).replace("\n", "\r\n").encode(*CODEC) + prompt)

    def _deliver(self, data: bytes) -> None:
        """Send a reply, in the manner of the fault that befalls it."""
        fault, self._fault = self._fault, None
        if fault is None:
            self.write(data)
        else:
            self._send_pieces(fault, fault.pieces(data))

    def _send_pieces(self, fault: Fault, pieces: list[bytes]) -> None:
        if pieces:
            self.write(pieces.pop(0))
        if pieces:
            self._wait(fault.pause, lambda: self._send_pieces(fault, pieces))
        elif fault.cut_after is not None:
            self.hang_up()

    def _execute(self, text: str) -> None:
        reply = self._monitor.execute(text)
        if reply.pending:
            self._reply = reply
            reply.on_done = self._resumed
            self.host.driver.suspend()
        elif self.host.machine.over:
            self._deliver(self._rendered(reply))  # and no prompt any more
        else:
            self._deliver(self._rendered(reply) + self._editor.show_prompt())

    def _rendered(self, reply: Reply) -> bytes:
        return escape(reply.text, self._typed).replace("\n", "\r\n").encode(*CODEC)

    def _resumed(self, reply: Reply) -> None:
        self._go_on(lambda: self._deliver(self._rendered(reply) + self._editor.show_prompt()))

    def _close(self) -> None:
        reply, self._reply = self._reply, None
        if reply is not None:
            reply.cancel()
            self.host.driver.resume()


class SilentConnection(Connection):
    """A client of a device that says nothing: a serial port of a guest without one."""

    def _greet(self) -> None:
        pass

    def _pump(self, end: float) -> str:
        self._received = b""
        return "done"

    def _close(self) -> None:
        pass


class QmpConnection(Connection):
    """A client of QMP."""

    lingers = True

    def __init__(self, host: Host, dialect: Dialect, *, host_files: bool) -> None:
        super().__init__(host)
        self._session = (emulated(host.machine).make_session or QmpSession)(
            host.machine, dialect, host.hub, self.write, host_files=host_files, client=self.number
        )
        self._session.on_cut = self.hang_up
        if self._log is not None:
            self._session.on_message = self._log_message
        self._fed = b""
        self._session.on_resume = self._resumed
        self._waiting = False
        self._unfinished: TimerHandle | None = None

    def _greet(self) -> None:
        self._session.greet()
        if self._session.suspended:
            self._turn_soon()

    def _pump(self, end: float) -> str:
        session, now = self._session, self.host.now
        while True:
            if self._full or self.state == CUT:
                return "blocked"
            if session.step():
                if now() >= end:
                    return "more"
                continue
            if session.suspended:
                if not self._waiting:
                    self._waiting = True
                    self.host.driver.suspend()
                return "blocked"
            if self.host.machine.over:
                return "blocked"
            if not self._received:
                return "done"
            # What is cut between two messages is read the quick way.
            size = self._received.rfind(b"}", 0, SLICE) + 1 or SLICE
            self._fed = self._received[:size]
            session.feed(self._fed)
            self._received = self._received[size:]
            self._watch_unfinished()
            if now() >= end:
                return "more"

    def _resumed(self) -> None:
        if self._waiting:
            self._waiting = False
            self.host.driver.resume()
        self._turn_soon()

    def _log_message(self, message: object) -> None:
        read = not isinstance(message, ParseFailure)
        self.log("in", json.dumps(message).encode() if read else self._fed)

    def _watch_unfinished(self) -> None:
        if self._unfinished is not None:
            self._unfinished.cancel()
            self._unfinished = None
        if self._session.unfinished and self.state in OPEN:
            self._unfinished = self._loop.call_later(UNFINISHED_LIMIT, self._give_up)

    def _give_up(self) -> None:
        self._unfinished = None
        if self.state != IDLE or self._received:  # the rest may be here, unread because of what comes before it
            self._watch_unfinished()
        else:
            self._session.give_up(f"the rest of the message did not come within {UNFINISHED_LIMIT:.0f} seconds")

    def _close(self) -> None:
        self._session.close()
        if self._unfinished is not None:
            self._unfinished.cancel()
        if self._waiting:
            self._waiting = False
            self.host.driver.resume()
