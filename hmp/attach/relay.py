"""QMP for many clients over one connection to QEMU: it passes commands on, and answers and events back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hmp.attach.link import ANSWER_LIMIT, LONG_LIMIT, QmpError
from hmp.attach.machine import Attached, Steps
from hmp.attach.monitor import FREE, first_word
from hmp.monitor import CommandError
from hmp.monitor.dialects import Dialect
from hmp.monitor.monitor import Reply
from hmp.monitor.session import Work
from hmp.qjson import codec
from hmp.qmp.commands import NEGOTIATE
from hmp.qmp.events import EventHub
from hmp.qmp.protocol import QmpSession
from hmp.qmp.schema import QmpCommand

FREE_COMMANDS = ("query-", "x-query-", "qom-list", "qom-get", "balloon", "device-list-properties")
"""Prefixes of the names of commands that change nothing permanently."""


class RelaySession(QmpSession):
    """The protocol of one client of an attached machine."""

    def __init__(self, machine: Attached, allowed: bool, dialect: Dialect, hub: EventHub, send: Any, **_: bool) -> None:
        super().__init__(machine, dialect, hub, send)  # type: ignore[arg-type]
        self._attached = machine
        self._allowed = allowed

    def greeting(self) -> bytes:
        """Return a greeting with QEMU's version. It offers no oob, because commands go to QEMU one at a time."""
        version = dict(self._attached.link.greeting.get("version", {}))
        return codec.encode({"QMP": {"version": version, "capabilities": []}})

    def _find(self, name: str) -> QmpCommand:
        if name == NEGOTIATE or not self._in_command_mode:
            return super()._find(name)
        # QEMU checks the names and arguments of commands, and its errors are passed on.
        return QmpCommand(name, open=True)

    def _run(self, command: QmpCommand, arguments: Mapping[str, object]) -> Work:
        """Pass the command on to QEMU. Raises CommandError."""
        name = command.name
        if name == NEGOTIATE:
            yield from super()._run(command, arguments)
            return
        free = name.startswith(FREE_COMMANDS) or (
            # Through QMP a line of the human monitor needs the same permission as at the prompt.
            name == "human-monitor-command" and first_word(str(arguments.get("command-line", ""))) in FREE
        )
        if not free and not self._allowed:
            raise CommandError(f"The command {name} may change or stop this VM: hmp --allow-disruptive allows it")
        reply = Reply()
        came: list[tuple[object, Exception | None]] = []
        reply.suspend(lambda: None)

        # Called when QEMU has answered; finishing the reply resumes this generator.
        def relayed(value: object, error: Exception | None) -> None:
            came.append((value, error))
            reply.finish("")

        limit = ANSWER_LIMIT if free else LONG_LIMIT
        self._attached.run(self._ask(name, arguments, limit), relayed)
        yield reply
        value, error = came[0]
        if error is not None:
            raise CommandError(str(error), error.kind if isinstance(error, QmpError) else "GenericError")
        yield self._return(value)

    def _ask(self, name: str, arguments: Mapping[str, object], limit: int) -> Steps:
        return (yield name, arguments, limit)
