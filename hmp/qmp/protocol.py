"""The session of one QMP client: bytes in, bytes out, without a socket."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from device.machine.machine import Machine
from hmp.monitor import CommandError
from hmp.monitor.dialects import Dialect
from hmp.monitor.faults import Fault, find_fault
from hmp.monitor.monitor import Monitor, Reply
from hmp.monitor.session import Session, Work
from hmp.qjson import codec
from hmp.qjson.codec import MAX_MESSAGE_BYTES, Decoder, ParseFailure
from hmp.qmp.commands import COMMANDS, HUMAN, NEGOTIATE, run, version
from hmp.qmp.events import EventHub
from hmp.qmp.inventory import find
from hmp.qmp.schema import QmpCommand
from hmp.qmp.visitor import stored

SLICE = 1024
"""How many bytes of QMP are read at once. Garbage can give an error message for every byte; this takes at most 4 ms."""


class QmpSession(Session):
    """The protocol of one client."""

    lingers = True

    def __init__(
        self, machine: Machine, dialect: Dialect, hub: EventHub, send: Callable[[bytes], None], *,
        host_files: bool = False, client: int = 0,
    ) -> None:  # fmt: skip
        """`host_files` and `client` are passed to the Monitor of human-monitor-command."""
        super().__init__(Monitor(machine, dialect), send, host_files=host_files, client=client)
        self.hub = hub
        self.dialect = dialect
        self._decoder = Decoder()
        self._messages: deque[object] = deque()  # messages that were read and not yet handled
        self._fed = b""  # the text of the messages in _messages, for the log
        self._in_command_mode = False
        self._oob = False
        self._fault: Fault | None = None  # of the present answer
        self._id: dict[str, object] = {}
        self._last_id: dict[str, object] = {}

    def greeting(self) -> bytes:
        """Return the greeting. QEMU always offers oob, so hmp does too, although no command supports it."""
        return codec.encode({"QMP": {"version": version(self.machine), "capabilities": ["oob"]}})

    def room(self, data: bytes) -> int:
        """Return how many bytes to feed: up to the end of a message if possible, so that the fast decoder reads it."""
        end = data.rfind(b"}", 0, SLICE) + 1 or SLICE
        # The newline after it is fed with it, because it would take a turn of its own.
        return end + (data[end : end + 1] == b"\n")

    def feed(self, data: bytes) -> None:
        """Take bytes that the client sent. Each byte may become a message with an answer: do not feed much at once."""
        if not self.unfinished:
            self._fed = b""
        if self.on_command is not None and len(self._fed) < MAX_MESSAGE_BYTES:  # blanks do not end
            self._fed += data
        self._messages += self._decoder.feed(data)

    @property
    def unfinished(self) -> bool:
        """Whether part of a message was fed, and the rest is missing."""
        return self._decoder.held > 0

    def give_up(self, why: str) -> None:
        """Answer an unfinished message with an error. The next byte begins a new message."""
        self._decoder = Decoder()
        if self.on_command is not None:
            self.on_command(self._fed)
        self._id, self._fault = {}, None
        self.send(self._error(CommandError(f"JSON parse error, {why}")))

    def _send_event(self, name: str, data: dict[str, object]) -> None:
        self.send(self.hub.encode(name, data))

    def _faulty_answer(self, fault: Fault) -> bytes:
        if fault.answer == "return":
            return self._return(fault.value)
        if fault.answer == "error":
            return self._error(CommandError(fault.value[1], fault.value[0]))
        return fault.raw

    def _envelope(self) -> dict[str, object]:
        """Return the members that give the reply its id; empty without an id."""
        own, last = self._id, self._last_id
        self._last_id = own or last
        if self._fault is not None and self._fault.id:
            # `stale` answers with the id of an earlier command, `none` without one: faults that a client should
            # notice.
            return last if self._fault.id == "stale" else {}
        return own

    def _next(self) -> tuple[Work, Fault | None] | None:
        if not self._messages:
            return None
        message = self._messages.popleft()
        if self.on_command is not None:
            # The decoder does not keep the text of a message that it cannot read.
            self.on_command(self._fed if isinstance(message, ParseFailure) else codec.encode(message).rstrip())
        self._id, self._fault = {}, None
        try:
            if isinstance(message, ParseFailure):
                raise CommandError(message.desc)
            if not isinstance(message, dict):
                raise CommandError("QMP input must be a JSON object")
            if "id" in message:
                self._id = {"id": message["id"]}
            try:
                name, arguments, oob = self._members(message)
            except CommandError:
                # Of several mistakes QEMU names the first one in the order of its dictionary.
                name, arguments, oob = self._members({each: message[each] for each in stored(message)})
        except CommandError as error:
            return iter((self._error(error),)), None
        # A fault that is set for a line of the human monitor also applies when the line comes through QMP.
        line = arguments.get("command-line") if name == HUMAN else None
        self._fault = find_fault(self.machine, self._monitor.client, name, line if isinstance(line, str) else None)
        return self._execute(name, arguments, oob=oob), self._fault

    def _execute(self, name: str, arguments: Mapping[str, object], *, oob: bool) -> Work:
        try:
            command = self._find(name)
            if oob:
                raise CommandError(f"The command {name} does not support OOB")
            yield from self._run(command, arguments)
        except CommandError as error:
            yield self._error(error)

    def _run(self, command: QmpCommand, arguments: Mapping[str, object]) -> Work:
        """Run a command, wait for it if necessary, and reply. Raises CommandError."""
        hub = self.hub
        # A real guest takes a moment, so in QEMU these events come after the reply, and clients expect them there.
        # The modelled guest acts at once.
        holds = command.holds
        if command.name == HUMAN:
            words = str(arguments.get("command-line")).split(None, 1)
            holds = COMMANDS[words[0]].holds if words and words[0] in COMMANDS else ""
        if holds:
            hub.hold(holds)
        try:
            # The reply is yielded, and so sent, inside the try: the events are released only after it.
            value = run(command, self._monitor, arguments)
            if command.name == NEGOTIATE:
                self._negotiated(oob=bool(arguments.get("enable")))
            if not isinstance(value, Reply):
                yield self._return(value)
            elif not value.pending:
                yield self._return(_text(value))
                value = None
        finally:
            if holds:
                hub.release()
        if isinstance(value, Reply):
            yield value
            if value.error is not None and command.returns == "empty":
                raise CommandError(str(value.error))
            yield self._return({} if command.returns == "empty" else _text(value))
        elif command.asks and self.dialect.balloon_event:
            # After the reply: the patch of 2010 sends the size at once, and the statistics as an event.
            self._ask_guest()

    def _ask_guest(self) -> None:
        """Ask the guest for new statistics, or remind it if it was asked before."""
        machine, hub = self.machine, self.hub
        # Asked here and not by the hub, which listens to the machine: the call would come back to it.
        if not hub.waiting:
            # Without a deadline: the reply was sent, so nobody waits.
            hub.send_when_answered(machine.request_stats(None), self)
        elif machine.device is not None:
            machine.device.stats.ask()
            machine.deliver()

    def _return(self, value: object) -> bytes:
        return codec.encode({"return": value, **self._envelope()})

    def _error(self, error: CommandError) -> bytes:
        return codec.encode({**self._envelope(), "error": {"class": error.kind, "desc": error.desc}})

    def _members(self, message: dict[str, object]) -> tuple[str, Mapping[str, object], bool]:
        """Return (command, arguments, whether out of band) of a message. Raises CommandError in QEMU's words."""
        name = ""
        verb = ""
        arguments: Mapping[str, object] = {}
        for key, value in message.items():
            if key == "execute" or (key == "exec-oob" and self._oob):
                if not isinstance(value, str):
                    raise CommandError(f"QMP input member '{key}' must be a string")
                if verb:
                    raise CommandError("QMP input member 'execute' clashes with 'exec-oob'")
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
        # QEMU uses the class CommandNotFound for this too: before negotiation there is only one command.
        if not self._in_command_mode and name != NEGOTIATE:
            raise CommandError(f"Expecting capabilities negotiation with '{NEGOTIATE}'", "CommandNotFound")
        command = find(self.machine, name)
        if command is None:
            raise CommandError(f"The command {name} has not been found", "CommandNotFound")
        return command

    def _negotiated(self, *, oob: bool) -> None:
        """Enter command mode; events are sent from now on. Raises CommandError in QEMU's words the second time."""
        if self._in_command_mode:
            raise CommandError("Capabilities negotiation is already complete, command ignored", "CommandNotFound")
        self._in_command_mode = True
        self._oob = oob
        self.hub.join(self)

    def close(self) -> None:
        """As Session.close, and get no more events."""
        self.hub.leave(self)
        # Drop the messages that were not handled, so that their memory is freed at once.
        self._messages.clear()
        self._decoder = Decoder()
        super().close()


def _text(reply: Reply) -> str:
    # QEMU's human-monitor-command returns \r\n, as its monitor on a socket does.
    return reply.text.replace("\n", "\r\n")
