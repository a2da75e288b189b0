"""One QMP client's conversation: bytes in, bytes out, no socket in sight."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping

from device.machine.machine import Machine
from hmp.monitor import CommandError
from hmp.monitor.dialects import Dialect
from hmp.monitor.faults import Fault, find_fault
from hmp.monitor.monitor import Monitor, Reply
from hmp.monitor.session import Session
from hmp.qjson import codec
from hmp.qjson.codec import Decoder, ParseFailure
from hmp.qmp.commands import NEGOTIATE, run, version
from hmp.qmp.events import EventHub
from hmp.qmp.inventory import commands
from hmp.qmp.schema import QmpCommand

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hmp.monitor.session import Work

SLICE = 1024
"""Bytes of QMP looked at at once, in 4 ms at most: garbage can yield an error message for every byte."""


class QmpSession(Session):
    """The protocol of one client."""

    lingers = True

    def __init__(
        self, machine: Machine, dialect: Dialect, hub: EventHub, send: Callable[[bytes], None], *,
        host_files: bool = False, client: int = 0,
    ) -> None:  # fmt: skip
        """`host_files` and `client` are the Monitor's, for human-monitor-command."""
        super().__init__(Monitor(machine, dialect), send, host_files=host_files, client=client)
        self.hub = hub
        self.dialect = dialect
        self._decoder = Decoder()
        self._messages: deque[object] = deque()  # read, not yet handled
        self._fed = b""
        self._in_command_mode = False
        self._oob = False
        self._id: dict[str, object] = {}
        self._last_id: dict[str, object] = {}

    def greeting(self) -> bytes:
        """Return the greeting."""
        return codec.encode({"QMP": {"version": version(self.machine), "capabilities": ["oob"]}})

    def room(self, data: bytes) -> int:
        """Return how much to feed: what is cut between two messages is read the quick way."""
        return data.rfind(b"}", 0, SLICE) + 1 or SLICE

    def feed(self, data: bytes) -> None:
        """Take what the client sent. Each byte may become a message to be answered: do not feed much at once."""
        self._fed = data
        self._messages += self._decoder.feed(data)

    @property
    def unfinished(self) -> bool:
        """Whether part of a message was fed, and the rest is missing."""
        return self._decoder.held > 0

    def give_up(self, why: str) -> None:
        """Answer an unfinished message with an error, and read afresh."""
        self._decoder = Decoder()
        self._id, self._fault = {}, None
        self.send(self._error(CommandError(f"JSON parse error, {why}")))

    def _tell(self, name: str, data: dict[str, object]) -> None:
        self.send(self.hub.encode(name, data))

    def _otherwise(self, fault: Fault) -> bytes:
        if fault.answer == "return":
            return self._return(fault.value)
        if fault.answer == "error":
            return self._error(CommandError(fault.value[1], fault.value[0]))
        raw: bytes = (fault.value or "").encode("utf-8", "surrogatepass")
        return raw

    def _envelope(self) -> dict[str, object]:
        """Return the id that the reply is to have, as a member of it."""
        own, last = self._id, self._last_id
        self._last_id = own or last
        if self._fault is not None and self._fault.id:
            return last if self._fault.id == "stale" else {}
        return own

    def _next(self) -> tuple[Work, Fault | None] | None:
        if not self._messages:
            return None
        message = self._messages.popleft()
        if self.on_command is not None:
            self.on_command(self._fed if isinstance(message, ParseFailure) else json.dumps(message).encode())
        self._id, fault = {}, None
        try:
            if isinstance(message, ParseFailure):
                raise CommandError(message.desc)
            if not isinstance(message, dict):
                raise CommandError("QMP input must be a JSON object")
            if "id" in message:
                self._id = {"id": message["id"]}
            name, arguments, oob = self._members(message)
        except CommandError as error:
            self._fault = None
            return iter((self._error(error),)), None
        line = arguments.get("command-line") if name == "human-monitor-command" else None
        fault = find_fault(self.machine, self._monitor.client, name, line if isinstance(line, str) else None)
        return self._execute(name, arguments, oob=oob), fault

    def _execute(self, name: str, arguments: Mapping[str, object], *, oob: bool) -> Work:
        try:
            command = self._find(name)
            if oob:
                raise CommandError(f"The command {name} does not support OOB")
            yield from self._run(command, arguments)
        except CommandError as error:
            yield self._error(error)

    def _run(self, command: QmpCommand, arguments: Mapping[str, object]) -> Work:
        """Run a command, wait for it, and reply. Raises CommandError."""
        hub = self.hub
        hub.hold(command.holds)
        try:
            value = run(command, self._monitor, arguments)
            if command.name == NEGOTIATE:
                self._negotiated(oob=bool(arguments.get("enable")))
            if not isinstance(value, Reply):
                yield self._return(value)
            elif not value.pending:
                yield self._return(_text(value))
                value = None
        finally:
            hub.release()
        if isinstance(value, Reply):
            yield value
            if value.error is not None and command.returns == "empty":
                raise CommandError(str(value.error))
            yield self._return({} if command.returns == "empty" else _text(value))
        elif command.asks and self.dialect.balloon_event:
            hub.ask(self)

    def _return(self, value: object) -> bytes:
        return codec.encode({"return": value, **self._envelope()})

    def _error(self, error: CommandError) -> bytes:
        return codec.encode({**self._envelope(), "error": {"class": error.kind, "desc": error.desc}})

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
        command = commands(self.machine).get(name)
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

    def close(self) -> None:
        """As Session, and no more events."""
        self.hub.leave(self)
        self._messages.clear()
        self._decoder = Decoder()
        super().close()


def _text(reply: Reply) -> str:
    return reply.text.replace("\n", "\r\n")
