"""One QMP client's conversation: bytes in, bytes out, no socket in sight."""

from __future__ import annotations

from collections import deque

from hmp.monitor.errors import CommandError
from hmp.monitor.monitor import Monitor, Reply
from hmp.qjson import codec
from hmp.qjson.codec import Decoder, ParseFailure
from hmp.qmp.commands import NEGOTIATE, run, version
from hmp.qmp.inventory import commands

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from device.machine.machine import Machine
    from hmp.monitor.dialects import Dialect
    from hmp.qmp.events import EventHub
    from hmp.qmp.schema import QmpCommand


def _drop(data: bytes) -> None:
    """Send to nobody."""


class QmpSession:
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

    __slots__ = (
        "_decoder", "_id", "_in_command_mode", "_messages", "_monitor", "_oob", "_waits_for", "dialect", "hub",
        "on_resume", "send",
    )  # fmt: skip

    def __init__(
        self,
        machine: Machine,
        dialect: Dialect,
        hub: EventHub,
        send: Callable[[bytes], None],
        *,
        host_files: bool = False,
    ) -> None:
        """`host_files` is the Monitor's, for human-monitor-command."""
        self._monitor = Monitor(machine, dialect)
        self._monitor.sole = False
        self._monitor.host_files = host_files
        self.hub = hub
        self.dialect = dialect
        self.send = send
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

    def feed(self, data: bytes) -> None:
        """Take what the client sent. Each byte may become a message to be answered: do not feed much at once."""
        self._messages += self._decoder.feed(data)

    def step(self) -> bool:
        """Handle the next message; False if there is none, the client is suspended, or the machine ended."""
        if self.suspended or not self._messages or self._monitor.machine.over:
            return False
        self._handle(self._messages.popleft())
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

    def _handle(self, message: object) -> None:
        self._id = {}
        try:
            if isinstance(message, ParseFailure):
                raise CommandError(message.desc)
            if not isinstance(message, dict):
                raise CommandError("QMP input must be a JSON object")
            if "id" in message:
                self._id = {"id": message["id"]}
            name, arguments, oob = self._members(message)
            command = self._find(name)
            if oob:
                raise CommandError(f"The command {name} does not support OOB")
            self._run(command, arguments)
        except CommandError as error:
            self._fail(error)

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
                    value.on_done = self._resume
                    return
                value = _text(value)
            self._reply(value)
        finally:
            hub.release()
        if command.asks and self.dialect.balloon_event:
            hub.ask(self)

    def _reply(self, value: object) -> None:
        self.send(codec.encode({"return": value, **self._id}))

    def _fail(self, error: CommandError) -> None:
        self.send(codec.encode({**self._id, "error": {"class": error.kind, "desc": error.desc}}))

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

    def _resume(self, reply: Reply) -> None:
        """Answer the command that waited; what was kept is for the next `step`.

        Not handled here: the caller may be in the middle of another client's command, or of the device.
        """
        self._waits_for = None
        self._reply(_text(reply))
        if self.on_resume is not None:
            self.on_resume()

    def close(self) -> None:
        """The client is gone: nothing is sent any more, what it waits for is cancelled, and nothing of it is kept."""
        self.hub.leave(self)
        self._messages.clear()
        self._decoder = Decoder()
        self.send, self.on_resume = _drop, None  # they hold who holds this session
        reply, self._waits_for = self._waits_for, None
        if reply is not None:
            reply.cancel()


def _text(reply: Reply) -> str:
    return reply.text.replace("\n", "\r\n")
