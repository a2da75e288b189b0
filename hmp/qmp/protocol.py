"""One QMP client's conversation: bytes in, bytes out, no socket in sight."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from device.machine.machine import Machine
from hmp.monitor import CommandError
from hmp.monitor.dialects import Dialect
from hmp.monitor.faults import GREETING, Answering, Fault, find_fault
from hmp.monitor.monitor import Monitor, Reply
from hmp.qjson import codec
from hmp.qjson.codec import Decoder, ParseFailure
from hmp.qmp.commands import NEGOTIATE, run, version
from hmp.qmp.events import EventHub
from hmp.qmp.inventory import commands
from hmp.qmp.schema import QmpCommand


def _drop(data: bytes) -> None:
    """Send to nobody."""


class QmpSession(Answering):
    """The protocol of one client.

    How a server drives one session per client:

        write(session.greeting())
        session.feed(received)
        while session.step():                 # handle one message: replies go to `send`, events too
            ...                               # a caller may stop here while its client does not read
        if session.suspended:                 # a command waits for a guest; what was fed behind it is kept
            ...                               # read no more, until on_resume() is called; then go on with step()

    `send` is also called between the steps, with events and with the reply of a command that waited. `close` when the
    client is gone: what it waits for is cancelled.
    """

    def __init__(
        self,
        machine: Machine,
        dialect: Dialect,
        hub: EventHub,
        send: Callable[[bytes], None],
        *,
        host_files: bool = False,
        client: int = 0,
    ) -> None:
        """`host_files` and `client` are the Monitor's, for human-monitor-command."""
        self._monitor = Monitor(machine, dialect)
        self._monitor.alone = False
        self._monitor.host_files = host_files
        self._monitor.client = client
        self.hub = hub
        self.dialect = dialect
        self.send = self._write = send
        self.on_cut: Callable[[], None] = lambda: None
        """Called to hang up, once what was sent is out."""
        self.on_message: Callable[[object], None] | None = None
        """Called with each message, or failure to read one, before it is handled."""
        self._held: list[bytes] = []  # events that came while a reply goes out in pieces
        self._last_id: dict[str, object] = {}
        self.on_resume: Callable[[], None] | None = None
        self._decoder = Decoder()
        self._messages: deque[object] = deque()  # read, not yet handled
        self._in_command_mode = False
        self._oob = False
        self._id: dict[str, object] = {}
        self._waits_for: Reply | None = None

    def greeting(self) -> bytes:
        """Return the greeting."""
        return codec.encode({"QMP": {"version": version(self._monitor.machine), "capabilities": ["oob"]}})

    def greet(self) -> None:
        """Send the greeting, or what a fault makes of it."""
        self._fault = self._find_fault(GREETING, {})
        self._begin(lambda: self._deliver(self.greeting()))

    def feed(self, data: bytes) -> None:
        """Take what the client sent. Each byte may become a message to be answered: do not feed much at once."""
        self._messages += self._decoder.feed(data)

    def step(self) -> bool:
        """Handle the next message; False if there is none, the client is suspended, or the machine ended."""
        if self.suspended or not self._messages or self._monitor.machine.over:
            return False
        message = self._messages.popleft()
        if self.on_message is not None:
            self.on_message(message)
        self._handle(message)
        return True

    @property
    def suspended(self) -> bool:
        """Whether a command waits for a guest, and the next commands for it."""
        return self._waits_for is not None

    @property
    def unfinished(self) -> bool:
        """Whether part of a message was fed, and the rest is missing."""
        return self._decoder.held > 0

    def give_up(self, why: str) -> None:
        """Answer an unfinished message with an error, and read afresh."""
        self._decoder = Decoder()
        self._id = {}
        self._fail(CommandError(f"JSON parse error, {why}"))

    def _find_fault(self, name: str, arguments: Mapping[str, object]) -> Fault | None:
        line = arguments.get("command-line") if name == "human-monitor-command" else None
        return find_fault(self._monitor.machine, self._monitor.client, name, line if isinstance(line, str) else None)

    def _wait(self, duration: int, then: Callable[[], None]) -> None:
        """Suspend the client for `duration` ns of host time."""
        reply = Reply()
        timer = self._monitor.machine.time.after(duration, lambda: reply.finish(""))
        reply.suspend(timer.cancel)
        reply.on_done = lambda _: self._go_on(then)
        self._waits_for = reply

    def _go_on(self, then: Callable[[], None]) -> None:
        self._waits_for = None
        then()
        if self._waits_for is None and self.on_resume is not None:
            self.on_resume()

    def _answer(self, fault: Fault, usual: Callable[[], None]) -> None:
        for name, data in fault.events:
            self.send(self.hub.encode(name, data))
        if fault.answer == "usual":
            try:
                usual()
            except CommandError as error:
                self._fail(error)
        elif fault.answer == "return":
            self._reply(fault.value)
        elif fault.answer == "error":
            self._fail(CommandError(fault.value[1], fault.value[0]))
        elif fault.answer == "raw":
            self._deliver(fault.value.encode("utf-8", "surrogatepass"))
        else:
            self._fault = None
            if fault.answer == "cut":
                self.on_cut()

    def _deliver(self, data: bytes) -> None:
        """Send a reply, in the manner of the fault that befalls it."""
        fault, self._fault = self._fault, None
        if fault is None:
            self.send(data)
        elif not fault.split or fault.answer in ("never", "cut"):
            for piece in fault.pieces(data):
                self.send(piece)
            if fault.cut_after is not None:
                self.on_cut()
        else:
            self._split(fault, fault.pieces(data))

    def _split(self, fault: Fault, pieces: list[bytes]) -> None:
        """Send pieces with a pause before the next; what else is to be sent has to wait."""
        self.send = self._held.append
        self._write(pieces.pop(0))
        if pieces:
            self._wait(fault.pause, lambda: self._split(fault, pieces))
            return
        self.send, held, self._held = self._write, self._held, []
        for data in held:
            self.send(data)
        if fault.cut_after is not None:
            self.on_cut()

    def _envelope(self) -> dict[str, object]:
        """Return the id that the reply is to have, as a member of it."""
        own, last = self._id, self._last_id
        self._last_id = own or last
        if self._fault is not None and self._fault.id:
            return last if self._fault.id == "stale" else {}
        return own

    def _handle(self, message: object) -> None:
        self._id = {}
        self._fault = None
        try:
            if isinstance(message, ParseFailure):
                raise CommandError(message.desc)
            if not isinstance(message, dict):
                raise CommandError("QMP input must be a JSON object")
            if "id" in message:
                self._id = {"id": message["id"]}
            name, arguments, oob = self._members(message)
            self._fault = self._find_fault(name, arguments)
            self._begin(lambda: self._execute(name, arguments, oob=oob))
        except CommandError as error:
            self._fail(error)

    def _execute(self, name: str, arguments: Mapping[str, object], *, oob: bool) -> None:
        command = self._find(name)
        if oob:
            raise CommandError(f"The command {name} does not support OOB")
        self._run(command, arguments)

    def _run(self, command: QmpCommand, arguments: Mapping[str, object]) -> None:
        """Run a command and reply, or wait. Raises CommandError."""
        hub = self.hub
        hub.hold(command.holds)
        try:
            value = run(command, self._monitor, arguments)
            if command.name == NEGOTIATE:
                self._negotiated(oob=bool(arguments.get("enable")))
            if isinstance(value, Reply):
                if value.pending:
                    self._waits_for = value
                    value.on_done = lambda reply: self._resume(command, reply)
                    return
                value = _text(value)
            self._reply(value)
        finally:
            hub.release()
        if command.asks and self.dialect.balloon_event:
            hub.ask(self)

    def _reply(self, value: object) -> None:
        self._deliver(codec.encode({"return": value, **self._envelope()}))

    def _fail(self, error: CommandError) -> None:
        self._deliver(codec.encode({**self._envelope(), "error": {"class": error.kind, "desc": error.desc}}))

    def _members(self, message: dict[str, object]) -> tuple[str, Mapping[str, object], bool]:
        """Return (command, arguments, out of band) of a message. Raises CommandError in QEMU's words."""
        name = ""
        verb = ""
        arguments: Mapping[str, object] = {}
        for key, value in message.items():
            if key == "execute" or (key == "exec-oob" and self._oob):
                if verb:
                    raise CommandError("QMP input member 'execute' clashes with 'exec-oob'")
                if not isinstance(value, str):
                    raise CommandError(f"QMP input member '{key}' must be a string")
                name, verb = value, key
            elif key == "arguments":
                if not isinstance(value, dict):
                    raise CommandError("QMP input member 'arguments' must be an object")
                arguments = value
            elif key != "id":
                raise CommandError(f"QMP input member '{key}' is unexpected")
        if not verb:
            raise CommandError("QMP input lacks member 'execute'")
        return name, arguments, verb == "exec-oob"

    def _find(self, name: str) -> QmpCommand:
        if not self._in_command_mode and name != NEGOTIATE:
            raise CommandError(f"Expecting capabilities negotiation with '{NEGOTIATE}'", "CommandNotFound")
        command = commands(self._monitor.machine).get(name)
        if command is None:
            raise CommandError(f"The command {name} has not been found", "CommandNotFound")
        return command

    def _negotiated(self, *, oob: bool) -> None:
        """Go into command mode: events are sent from now on. Raises CommandError, in QEMU's words, the second time."""
        if self._in_command_mode:
            raise CommandError("Capabilities negotiation is already complete, command ignored", "CommandNotFound")
        self._in_command_mode = True
        self._oob = oob
        self.hub.join(self)

    def _resume(self, command: QmpCommand, reply: Reply) -> None:
        """Answer the command that waited; what was kept is for the next `step`.

        Not handled here: the caller may be in the middle of another client's command, or of the device.
        """
        self._go_on(lambda: self._tell(command, reply))

    def _tell(self, command: QmpCommand, reply: Reply) -> None:
        if command.returns != "empty":
            self._reply(_text(reply))
        elif reply.error is None:
            self._reply({})
        else:
            self._fail(CommandError(str(reply.error)))

    def close(self) -> None:
        """The client is gone: nothing is sent any more, what it waits for is cancelled, and nothing of it is kept."""
        self.hub.leave(self)
        self._messages.clear()
        self._decoder = Decoder()
        self.send = self._write = _drop  # they hold who holds this session
        self.on_resume, self.on_message, self.on_cut = None, None, lambda: None
        self._held.clear()
        reply, self._waits_for = self._waits_for, None
        if reply is not None:
            reply.cancel()


def _text(reply: Reply) -> str:
    return reply.text.replace("\n", "\r\n")
