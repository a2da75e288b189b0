"""Checks arguments against a schema, in the order and words of QEMU's input visitor.

Without it, a client could send wrong arguments to a command that hmp answers with recorded data, and its author would
notice the mistake only with a real QEMU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hmp.monitor import CommandError

Types = Mapping[str, dict[str, Any]]

_EXPECTED = {"string": "string", "int": "integer", "number": "number", "boolean": "boolean", "null": "null"}


_JSON = {"object": "dict", "array": "list", "enum": "string"}
"""The JSON type of a value of an alternative, by its meta-type. A builtin type names its JSON type itself."""


def _is(json_type: str, value: object) -> bool:
    # The schema has one type for all integers; nearly all of them are int64.
    if json_type == "int":
        return type(value) is int and -(1 << 63) <= value < 1 << 63
    if json_type == "number":
        return type(value) in (int, float)
    kinds: dict[str, type] = {"string": str, "boolean": bool, "null": type(None), "dict": dict, "list": list}
    return json_type == "value" or isinstance(value, kinds[json_type])


def stored(names: Iterable[str]) -> list[str]:
    """Return names in the order of QEMU's dictionary, a hash table: it decides which of several mistakes is named."""

    def place(name: str) -> int:
        data = name.encode("utf-8", "surrogatepass")
        total = 0x238F13AF * len(data) + sum(byte << at * 5 % 24 for at, byte in enumerate(data))
        return (1103515243 * total + 12345) % 512

    found = [*names]
    found.reverse()  # of two names in one place the newer one comes first
    return sorted(found, key=place)


def visited(names: Iterable[str]) -> list[str]:
    """Return names in the order of the visitor's table, GLib's; more than seven, for which it grows, as `stored`."""
    found = stored(names)
    places = [""] * 8
    for name in found if len(found) < 8 else ():
        total = 5381
        for byte in name.encode("utf-8", "surrogatepass"):
            total = total * 33 + byte - (byte >> 7 << 8)  # a byte is signed
        at, step = total * 11 % (1 << 32) % 7, 0
        while places[at]:
            step += 1
            at = (at + step) % 8
        places[at] = f".{name}"  # a name may be empty
    return [each[1:] for each in places if each] or found


def check(types: Types, kind: str, value: object, path: str = "", name: str = "null") -> None:
    """Raise CommandError if `value` is not of the type `kind`.

    `path` is the full name of the value in errors, `name` the last part of it.
    """
    entry = types.get(kind)
    # A file of --replies may have only a part of a schema: accept what it does not describe.
    if entry is None:
        return
    meta = entry["meta-type"]
    if bits := entry.get("bits"):
        if type(value) is not int or not -(1 << 63) <= value < 1 << 64:
            raise CommandError(f"Parameter '{path}' expects uint64")
        if value % (1 << 64) >> bits:
            raise CommandError(f"Parameter '{path}' expects uint{bits}_t")
    elif meta == "builtin":
        if not _is(entry["json-type"], value):
            raise _expected(path, _EXPECTED[entry["json-type"]])
    elif meta == "enum":
        if not isinstance(value, str):
            raise _expected(path, "string")
        # Older schemas have the members of an enum as strings, newer ones have an object for each.
        known = entry.get("values") or [each["name"] for each in entry["members"]]
        if value not in known:
            raise CommandError(f"Parameter '{name}' does not accept value '{value}'")
    elif meta == "array":
        if not isinstance(value, list):
            raise _expected(path, "array")
        for index, each in enumerate(value):
            check(types, entry["element-type"], each, f"{path}[{index}]")
    elif meta == "alternate":
        _alternate(types, entry, value, path, name)
    elif meta == "object":
        if not isinstance(value, dict):
            raise _expected(path, "object")
        _object(types, entry, value, path)


def _expected(path: str, what: str) -> CommandError:
    return CommandError(f"Invalid parameter type for '{path or 'null'}', expected: {what}")


def _alternate(types: Types, entry: dict[str, Any], value: object, path: str, name: str) -> None:
    names = []
    for each in entry["members"]:
        # The JSON type of the value decides which alternative is meant, as in QAPI.
        kind = types.get(each["type"], {})
        names.append(each["type"])
        json_type = _JSON.get(kind.get("meta-type", ""), kind.get("json-type"))
        if json_type is not None and _is(json_type, value):
            return check(types, each["type"], value, path, name)
    raise _expected(path, "StrOrNull" if set(names) == {"str", "null"} else "alternate")


def _object(types: Types, entry: dict[str, Any], given: dict[str, Any], path: str) -> None:
    # Missing and wrong members are reported before unexpected ones.
    known = _members(types, entry, given, path)
    for name in visited(given):
        if name not in known:
            raise CommandError(f"Parameter '{_join(path, name)}' is unexpected")


def _members(types: Types, entry: dict[str, Any], given: dict[str, Any], path: str) -> set[str]:
    """Check the members of an object, and those of the variant that its tag selects. Returns their names."""
    known = set()
    for member in entry["members"]:
        name = member["name"]
        known.add(name)
        if name in given:
            check(types, member["type"], given[name], _join(path, name), name)
        elif "default" not in member:
            raise CommandError(f"Parameter '{_join(path, name)}' is missing")
    for variant in entry.get("variants", ()):
        kind = types.get(variant["type"], {})
        if variant["case"] == given.get(entry["tag"]) and kind.get("meta-type") == "object":
            known |= _members(types, kind, given, path)
    return known


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
