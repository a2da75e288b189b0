"""The arguments and results of QMP's commands and events, as data. query-qmp-schema and the docs are made from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from device.balloon.spec import SEED_STATS, STATS_TABLE
from device.machine.events import QMP_EVENTS
from hmp.monitor import grammar
from hmp.monitor.monitor import Monitor
from hmp.qmp.visitor import check

Arguments = Mapping[str, Any]
Handler = Callable[[Monitor, Arguments], object]

Members = tuple[tuple[str, str], ...]

OBJECTS: dict[str, Members] = {
    "empty": (),
    "BalloonInfo": (("actual", "int"),),
    "MemoryInfo": (("base-memory", "int"), ("plugged-memory", "int?")),
    "StatusInfo": (("status", "str"), ("singlestep", "bool"), ("running", "bool")),
    "VersionTriple": (("major", "int"), ("minor", "int"), ("micro", "int")),
    "VersionInfo": (("qemu", "VersionTriple"), ("package", "str")),
    "NameInfo": (("name", "str?"),),
    "UuidInfo": (("UUID", "str"),),
    "KvmInfo": (("enabled", "bool"), ("present", "bool")),
    "CommandInfo": (("name", "str"),),
    "SchemaInfo": (("name", "str"), ("meta-type", "str")),
    "ObjectPropertyInfo": (("name", "str"), ("type", "str")),
    "BalloonStats": (("actual", "int"), *((STATS_TABLE[tag].name, "int?") for tag in SEED_STATS)),
    "BalloonChange": (("actual", "int"),),
    "ResetInfo": (("guest", "bool"), ("reason", "str")),
    "DeviceDeleted": (("device", "str?"), ("path", "str")),
    "GuestPanicked": (("action", "str"),),
}
"""Objects that commands return and events carry. A `?` marks a member that may be missing."""

EVENTS: dict[str, str] = {
    "BALLOON": "BalloonStats",
    "BALLOON_CHANGE": "BalloonChange",
    **{event.name: carried for event, carried in QMP_EVENTS.items()},
}
"""Each event with the object that it carries. All but the first two are sent as the machine makes them."""

BUILTIN = {"str": "string", "int": "int", "bool": "boolean", "any": "value"}
"""QAPI's built-in types, by JSON type."""

TYPES = {"string": "str", "integer": "int", "array": "[QMPCapability]", "any": "any"}
"""The types of arguments: their names in the command table, and in the schema."""


class QmpCommand:
    """One command. `types` has its arguments, in the form of the human monitor's, with the names of TYPES.

    `handler` gets a monitor and the arguments. It returns the value of `return`, or the monitor's reply, which may
    still be pending. Without a handler the human monitor's command of the same name runs, and the result is empty.
    `returns` names the result in the schema. `open` says that any further arguments are accepted. `holds` names an
    event that is sent after the reply, with all events after it. `asks` says that the guest is asked for its
    statistics after the reply. `lists` says that the result is about all commands, the recorded ones too.
    """

    def __init__(
        self, name: str, types: str = "", handler: Handler | None = None, *,
        returns: str = "empty", open: bool = False, holds: str = "", asks: bool = False, lists: bool = False,
    ) -> None:  # fmt: skip
        self.name, self.parameters, self.handler = name, grammar.parameters(types), handler
        self.returns, self.open, self.holds, self.asks, self.lists = returns, open, holds, asks, lists
        self._types: dict[str, dict[str, Any]] | None = None

    def check(self, given: Arguments) -> None:
        """Raise CommandError in QEMU's words where the arguments do not fit."""
        if self._types is None:
            self._types = {str(each["name"]): each for each in schema([self], events=False)}
        known = given
        if self.open:
            known = {name: given[name] for name, _, _ in self.parameters if name in given}
        check(self._types, str(self._types[self.name]["arg-type"]), known)


def _object(name: str, members: Iterable[tuple[str, str]]) -> dict[str, object]:
    found = [
        {"name": key, "type": kind.rstrip("?")} | ({"default": None} if "?" in kind else {}) for key, kind in members
    ]
    return {"name": name, "members": found, "meta-type": "object"}


def schema(commands: Iterable[QmpCommand], *, events: bool = True) -> list[dict[str, object]]:
    """Return the SchemaInfo list of the commands, the events, and all types that they use."""
    entries: list[dict[str, object]] = []
    # An array needs an entry of its own, as all types do.
    arrays = {TYPES["array"]}
    for command in commands:
        taken = "empty"
        if command.parameters:
            taken = f"{command.name}-arg"
            members = [(name, TYPES[kind] + "?" * optional) for name, kind, optional in command.parameters]
            entries.append(_object(taken, members))
        entries.append({"name": command.name, "ret-type": command.returns, "meta-type": "command", "arg-type": taken})
        if command.returns.startswith("["):
            arrays.add(command.returns)
    entries.extend({"name": name, "meta-type": "event", "arg-type": kind} for name, kind in EVENTS.items() if events)
    entries += [_object(name, members) for name, members in OBJECTS.items()]
    entries.append({"name": "QMPCapability", "members": [{"name": "oob"}], "values": ["oob"], "meta-type": "enum"})
    entries.extend({"name": name, "element-type": name[1:-1], "meta-type": "array"} for name in sorted(arrays))
    entries.extend({"name": name, "json-type": kind, "meta-type": "builtin"} for name, kind in BUILTIN.items())
    return entries
