"""query-qmp-schema and query-commands: generated from the table, complete, and readable by QAPI's rules."""

from __future__ import annotations

from typing import Any

import pytest

from hmp.qmp.commands import COMMANDS
from hmp.qmp.events import FORWARDED_EVENTS
from hmp.qmp.inventory import commands, whole_schema
from hmp.qmp.schema import OBJECTS, schema
from tests.hmp.qmp.test_protocol import GOOD, Talk
from tests.support.machines import build

ENTRIES: dict[str, dict[str, Any]] = {str(entry["name"]): entry for entry in whole_schema(build())}
META = {
    "command": {"arg-type", "ret-type"},
    "event": {"arg-type"},
    "object": {"members"},
    "array": {"element-type"},
    "builtin": {"json-type"},
    "enum": {"members", "values"},
    "alternate": {"members"},
}
ALSO = {"features", "variants", "tag"}
"""What further keys QEMU's own entries may have."""


def test_a_client_gets_it() -> None:
    assert Talk(build()).ask("query-qmp-schema") == {"return": list(ENTRIES.values())}


def test_no_name_comes_twice() -> None:
    assert len(ENTRIES) == len(whole_schema(build())) > len(schema(COMMANDS.values()))


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_has_what_its_kind_needs_and_names_only_what_is_there(name: str) -> None:
    entry = ENTRIES[name]
    assert set(entry) - ALSO == {"name", "meta-type"} | META[entry["meta-type"]]
    if entry["meta-type"] == "enum":
        return
    for key in ("arg-type", "ret-type", "element-type"):
        assert entry.get(key, "str") in ENTRIES
    for member in entry.get("members", ()):
        assert member["type"] in ENTRIES
        assert set(member) <= {"name", "type", "default", "features"}
    if entry["meta-type"] in ("command", "event"):
        assert ENTRIES[entry["arg-type"]]["meta-type"] == "object"


def test_every_command_and_no_other_is_in_both_lists() -> None:
    listed = {each["name"] for each in Talk(build()).ask("query-commands")["return"]}
    described = {name for name, entry in ENTRIES.items() if entry["meta-type"] == "command"}
    assert listed == described == set(commands(build()))


def test_every_event_is_described() -> None:
    described = {name for name, entry in ENTRIES.items() if entry["meta-type"] == "event"}
    assert described == FORWARDED_EVENTS | {"BALLOON", "BALLOON_CHANGE"}


@pytest.mark.parametrize("name", COMMANDS)
def test_arguments_are_the_tables(name: str) -> None:
    members = ENTRIES[ENTRIES[name]["arg-type"]]["members"]
    assert [(each["name"], "default" in each) for each in members] == [
        (argument, optional) for argument, _, optional in COMMANDS[name].parameters
    ]


JSON = {"str": str, "int": int, "bool": bool}


def fits(value: object, kind: str) -> bool:
    """Whether a value is what the schema says."""
    if kind == "any":
        return True
    if kind.startswith("["):
        return isinstance(value, list) and all(fits(each, kind[1:-1]) for each in value)
    if kind in JSON:
        return type(value) is JSON[kind]
    if not isinstance(value, dict):
        return False
    members = dict(OBJECTS[kind])
    needed = {name for name, type in members.items() if not type.endswith("?")}
    known = needed | set(members)
    if kind == "SchemaInfo":  # its other members depend on the meta-type
        return needed <= set(value)
    return needed <= set(value) <= known and all(fits(value[name], members[name].rstrip("?")) for name in value)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "qmp_capabilities"])
def test_replies_are_what_the_schema_says(name: str) -> None:
    talk = Talk(build(balloon=name != "device_add", name="vm"))
    assert fits(talk.ask(name, **GOOD.get(name, {}))["return"], COMMANDS[name].returns)
