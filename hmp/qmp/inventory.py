"""QMP commands that hmp does not model: recorded answers, and a few answers that depend on the machine."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from device.machine.machine import Machine
from hmp.monitor import CommandError
from hmp.monitor.commands.inventory import capabilities, find_console, screendump
from hmp.monitor.emulated import emulated
from hmp.monitor.monitor import Monitor, Reply
from hmp.monitor.pci import pci
from hmp.monitor.replies import Replies, shipped
from hmp.qmp.commands import COMMANDS, run
from hmp.qmp.schema import Arguments, Handler, QmpCommand, schema
from hmp.qmp.visitor import Types, check

_VALUE, _RANGE = "a value between {} and {}", "an integer in the range of {} to {}"
PARAMETERS: dict[str, tuple[int, int, int, str]] = {
    "compress-level": (8, 0, 9, _VALUE), "compress-threads": (8, 1, 255, _VALUE),
    "decompress-threads": (8, 1, 255, _VALUE), "throttle-trigger-threshold": (8, 1, 100, _RANGE),
    "cpu-throttle-initial": (8, 1, 99, _RANGE), "cpu-throttle-increment": (8, 1, 99, _RANGE),
    "downtime-limit": (64, 0, 2_000_000, "an integer in the range of 0 to (2000 * 1000) ms"),
    "x-checkpoint-delay": (32, 0, (1 << 32) - 1, ""), "multifd-channels": (8, 1, 255, _VALUE),
    "multifd-zlib-level": (8, 0, 255, ""), "multifd-zstd-level": (8, 0, 255, ""),
    "xbzrle-cache-size": (64, 1 << 12, 1 << 63, "a power of two no less than the target page size"),
    "max-cpu-throttle": (8, 1, 99, "an integer in the range of cpu_throttle_initial to 99"),
    "announce-initial": (64, 0, 100_000, _VALUE), "announce-max": (64, 0, 100_000, _VALUE),
    "announce-rounds": (64, 0, 1000, _VALUE), "announce-step": (64, 1, 10_000, "a value between 0 and 10000"),
}  # fmt: skip
"""What a schema does not say about the parameters of migration: bits, the least and the most value, and QEMU's words,
in the order of QEMU's checks. The other numbers have 64 bits."""


def _unsigned(types: Types, kind: str) -> Types:
    """Return `types` with the numbers of the object `kind` as unsigned ones."""
    made = {f"uint{bits}": {"meta-type": "builtin", "bits": bits} for bits in (8, 32, 64)}
    members = [
        each | ({"type": f"uint{PARAMETERS.get(each['name'], (64,))[0]}"} if each["type"] == "int" else {})
        for each in types[kind]["members"]
    ]
    return {**types, **made, kind: {**types[kind], "members": members}}


def _same(one: object, other: object) -> bool:
    """Whether two values of JSON are the same; to Python, 1 and true are."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other and isinstance(one, bool) is isinstance(other, bool)


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
            kind = entry.get("arg-type", "")
            unsigned = self._code is _set_parameters
            check(_unsigned(self._replies.schema, kind) if unsigned else self._replies.schema, kind, dict(given))

    def _answer(self, monitor: Monitor, arguments: Arguments) -> object:
        if self._code is not None:
            return self._code(monitor, arguments)
        for each in self._replies.qmp[self.name]:
            # An answer that lists no arguments fits any.
            if "arguments" not in each or _same(each["arguments"], arguments):
                if "error" in each:
                    raise CommandError(each["error"]["desc"], each["error"]["class"])
                return each["return"]
        if self._over is None:
            raise CommandError(f"--replies has no answer for {self.name} with these arguments")
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


def _parameters(monitor: Monitor, arguments: Arguments) -> dict[str, Any]:
    changed = emulated(monitor.machine).migration
    return {name: changed.get(name, value) for name, value in _value("query-migrate-parameters").items()}


def _set_parameters(monitor: Monitor, arguments: Arguments) -> object:
    given = {
        name: "" if value is None else value % (1 << 64) if type(value) is int else value
        for name, value in arguments.items()
        if name not in ("multifd-zlib-level", "multifd-zstd-level")  # QEMU 7.2 accepts them, and changes nothing
    }
    found = {**_parameters(monitor, {}), **given}
    for name, (_, least, most, words) in PARAMETERS.items():
        value, least = found[name], found["cpu-throttle-initial"] if name == "max-cpu-throttle" else least
        if not least <= value <= most or ("power" in words and value & (value - 1)):
            raise CommandError(f"Parameter '{name.replace('-', '_')}' expects {words.format(least, most)}")
    emulated(monitor.machine).migration.update(given)
    return {}


def _send_event(monitor: Monitor, arguments: Arguments) -> object:
    find_console(monitor, arguments)
    if not monitor.machine.running:
        raise CommandError("VM not running")
    return {}


def _filters(monitor: Monitor, arguments: Arguments) -> object:
    if "name" in arguments:
        raise CommandError(f"invalid net client name: {arguments['name']}")
    return []


CODE: dict[str, Handler] = {
    "query-chardev": lambda monitor, _: emulated(monitor.machine).chardevs(),
    "query-memdev": lambda monitor, _: [{**each, "size": monitor.machine.ram} for each in _value("query-memdev")],
    "query-pci": lambda monitor, _: pci(monitor.machine),
    "query-cpus-fast": _cpus, "query-rx-filter": _filters, "input-send-event": _send_event,
    "screendump": lambda monitor, given: screendump(monitor, dict(given), Reply()),
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
