"""QMP commands that hmp does not model: recorded answers, and a few answers that depend on the machine."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from device.machine.machine import Machine
from hmp.monitor import CommandError
from hmp.monitor.commands.inventory import capabilities
from hmp.monitor.emulated import emulated
from hmp.monitor.monitor import Monitor
from hmp.monitor.pci import pci
from hmp.monitor.replies import Replies, shipped
from hmp.qmp.commands import COMMANDS, run
from hmp.qmp.schema import Arguments, Handler, QmpCommand, schema
from hmp.qmp.visitor import check

UNSIGNED = {"migrate-set-parameters"}
"""Commands whose numbers are all unsigned, which a schema does not say."""


class Answer(QmpCommand):
    """A command that a file or `code` answers, if its arguments fit the schema.

    `over` is the command that it replaces.
    """

    def __init__(
        self, name: str, replies: Replies, code: Handler | None = None, over: QmpCommand | None = None
    ) -> None:
        super().__init__(name, handler=self._answer, holds="" if over is None else over.holds)
        self._replies, self._code, self._over = replies, code, over

    def check(self, given: Arguments) -> None:
        """Raise CommandError in QEMU's words if the arguments do not fit."""
        entry = self._replies.schema.get(self.name)
        if entry is not None:
            try:
                check(self._replies.schema, entry.get("arg-type", ""), dict(given))
            except CommandError as error:
                # QEMU's error names the type uint64 here. The schema has one type for all integers. The fifth word of
                # our error is the quoted name and a comma.
                if self.name in UNSIGNED and error.desc.endswith("integer"):
                    raise CommandError(f"Parameter {error.desc.split()[4][:-1]} expects uint64") from None
                raise

    def _answer(self, monitor: Monitor, arguments: Arguments) -> object:
        if self._code is not None:
            return self._code(monitor, arguments)
        for each in self._replies.qmp[self.name]:
            # An answer that lists no arguments fits any.
            if each.get("arguments", arguments) == arguments:
                if "error" in each:
                    raise CommandError(each["error"]["desc"], each["error"]["class"])
                return each["return"]
        if self._over is None:
            raise CommandError(f"--replies has no answer of {self.name} for these arguments")
        # No answer of the file fits: the command that it replaces still works.
        return run(self._over, monitor, arguments)


def _value(name: str) -> Any:
    """Return the answer that QEMU gives to a command before anything was changed."""
    return shipped().qmp[name][0]["return"]


def _cpus(monitor: Monitor, arguments: Arguments) -> object:
    # The thread of a CPU is this process: hmp has no threads.
    return [{**each, "thread-id": os.getpid()} for each in _value("query-cpus-fast")]


def _set_capabilities(monitor: Monitor, arguments: Arguments) -> object:
    for each in arguments["capabilities"]:
        emulated(monitor.machine).migration[each["capability"]] = each["state"]
    return {}


def _parameters(monitor: Monitor, arguments: Arguments) -> object:
    changed = emulated(monitor.machine).migration
    return {name: changed.get(name, value) for name, value in _value("query-migrate-parameters").items()}


def _set_parameters(monitor: Monitor, arguments: Arguments) -> object:
    given = {name: "" if value is None else value for name, value in arguments.items()}
    emulated(monitor.machine).migration.update(given)
    return {}


def _send_event(monitor: Monitor, arguments: Arguments) -> object:
    if "device" in arguments:
        raise CommandError(f"Device '{arguments['device']}' not found", "DeviceNotFound")
    if not monitor.machine.running:
        raise CommandError("VM not running")
    return {}


def _filters(monitor: Monitor, arguments: Arguments) -> object:
    if "name" in arguments:
        raise CommandError(f"invalid net client name: {arguments['name']}")
    return []


def _screendump(monitor: Monitor, arguments: Arguments) -> object:
    raise CommandError("There is no console to take a screendump from")


CODE: dict[str, Handler] = {
    "query-chardev": lambda monitor, _: emulated(monitor.machine).chardevs(),
    "query-memdev": lambda monitor, _: [{**each, "size": monitor.machine.ram} for each in _value("query-memdev")],
    "query-pci": lambda monitor, _: pci(monitor.machine),
    "query-cpus-fast": _cpus, "query-rx-filter": _filters, "input-send-event": _send_event, "screendump": _screendump,
    "query-migrate-capabilities": lambda monitor, _: capabilities(monitor.machine),
    "query-migrate-parameters": _parameters, "migrate-set-capabilities": _set_capabilities,
    "migrate-set-parameters": _set_parameters, "send-key": lambda monitor, _: {}, "inject-nmi": lambda monitor, _: {},
}  # fmt: skip


def commands(machine: Machine) -> dict[str, QmpCommand]:
    """Return every command for the clients of a machine, by name: hmp's own, recorded ones, and those of --replies."""
    kept = emulated(machine)
    if kept.commands is None:
        kept.schema = partial(whole_schema, machine)
        data = shipped()
        # Made when first needed, because reading the recorded answers takes time. hmp's own commands go
        # before recorded ones, and --replies before both.
        kept.commands = {name: Answer(name, data, CODE.get(name)) for name in (*data.qmp, *CODE)} | COMMANDS
        if kept.replies is not None:
            kept.commands |= {
                name: Answer(name, kept.replies, over=kept.commands.get(name)) for name in kept.replies.qmp
            }
    return kept.commands


def find(machine: Machine, name: str) -> QmpCommand | None:
    """Return the command `name`, or None. The recorded answers, a MiB, are not read before a client needs them."""
    own, kept = COMMANDS.get(name), emulated(machine)
    if own is not None and not own.lists and kept.commands is None and kept.replies is None:
        return own
    return commands(machine).get(name)


def whole_schema(machine: Machine) -> list[dict[str, object]]:
    """Return the SchemaInfo list of all commands.

    An entry of --replies replaces a recorded one, and a recorded one replaces ours.
    """
    found = {str(each["name"]): each for each in schema(COMMANDS.values())}
    replies = emulated(machine).replies
    found |= shipped().schema
    if replies is not None:
        # A command that a file answers without a schema still has to be in the list: libraries look there.
        plain = [each for name, each in commands(machine).items() if name in replies.qmp and name not in found]
        found |= {str(each["name"]): each for each in schema(plain, events=False)}
        found |= replies.schema
    return list(found.values())
