"""query-qmp-schema: the introspection of what is implemented, generated from the command table."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from hmp.qmp.commands import QmpCommand

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
    "BalloonStats": (
        ("actual", "int"),
        ("mem_swapped_in", "int?"),
        ("mem_swapped_out", "int?"),
        ("major_page_faults", "int?"),
        ("minor_page_faults", "int?"),
        ("free_mem", "int?"),
        ("total_mem", "int?"),
    ),
    "BalloonChange": (("actual", "int"),),
    "ResetInfo": (("guest", "bool"), ("reason", "str")),
    "DeviceDeleted": (("device", "str?"), ("path", "str")),
    "GuestPanicked": (("action", "str"),),
}
"""Objects that commands return and events carry; a `?` marks what may be absent."""

EVENTS: dict[str, str] = {
    "BALLOON": "BalloonStats",
    "BALLOON_CHANGE": "BalloonChange",
    "STOP": "empty",
    "RESUME": "empty",
    "RESET": "ResetInfo",
    "POWERDOWN": "empty",
    "SHUTDOWN": "ResetInfo",
    "DEVICE_DELETED": "DeviceDeleted",
    "GUEST_PANICKED": "GuestPanicked",
}

BUILTIN = {"str": "string", "int": "int", "bool": "boolean", "any": "value"}
"""QAPI's built-in types, by JSON type."""

_ARGUMENT_TYPES = {"string": "str", "integer": "int", "array": "[str]", "any": "any"}


def _object(name: str, members: list[dict[str, object]]) -> dict[str, object]:
    return {"name": name, "members": members, "meta-type": "object"}


def _members(members: Members) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for name, kind in members:
        member: dict[str, object] = {"name": name, "type": kind.rstrip("?")}
        if kind.endswith("?"):
            member["default"] = None
        found.append(member)
    return found


def schema(commands: Mapping[str, QmpCommand]) -> list[dict[str, object]]:
    """Return the SchemaInfo list of the commands, the events, and every type they use."""
    entries: list[dict[str, object]] = []
    arrays: set[str] = {"[str]"}
    for command in commands.values():
        argument_type = "empty"
        if command.arguments:
            argument_type = f"{command.name}-arg"
            members = tuple(
                (argument.name, _ARGUMENT_TYPES[argument.kind] + ("?" if argument.optional else ""))
                for argument in command.arguments
            )
            entries.append(_object(argument_type, _members(members)))
        entries.append(
            {
                "name": command.name,
                "ret-type": command.returns,
                "meta-type": "command",
                "arg-type": argument_type,
            }
        )
        if command.returns.startswith("["):
            arrays.add(command.returns)
    entries += [{"name": name, "meta-type": "event", "arg-type": kind} for name, kind in EVENTS.items()]
    entries += [_object(name, _members(members)) for name, members in OBJECTS.items()]
    entries += [{"name": name, "element-type": name[1:-1], "meta-type": "array"} for name in sorted(arrays)]
    entries += [{"name": name, "json-type": kind, "meta-type": "builtin"} for name, kind in BUILTIN.items()]
    return entries
