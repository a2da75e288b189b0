"""`qom-list`, `qom-get` and `qom-set`: the object tree as text."""

from __future__ import annotations

from hmp.monitor import CommandError, qom

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hmp.monitor.monitor import Arguments, Monitor, Reply


def pretty(value: object) -> str:
    """Return a property's value as QEMU prints JSON: four blanks a level, one member on a line."""
    import json  # it is imported already: the tree reads the CPU from a JSON file

    text = json.dumps(value, indent=4)
    if "\\" not in text and "\x7f" not in text:
        return text
    from hmp.qjson.codec import as_qemu  # the import takes milliseconds, and hardly any value needs it

    return as_qemu(text)


def qom_list(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """List the properties of an object; without a path print the root."""
    if "path" not in arguments:
        return "/\n"
    found = qom.qom_list(monitor.machine, arguments["path"])
    return "".join([f"{each['name']} ({each['type']})\n" for each in found])


def qom_get(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Print a property."""
    return pretty(qom.qom_get(monitor.machine, arguments["path"], arguments["property"])) + "\n"


def qom_set(monitor: Monitor, arguments: Arguments, reply: Reply) -> None:
    """Set a property, from JSON with -j, else from text in the form of the property's type."""
    path, name, text = arguments["path"], arguments["property"], arguments["value"]
    value, read = (read_json(text), qom.from_json) if arguments["json"] else (text, qom.from_text)
    qom.qom_set(monitor.machine, path, name, value, read)


def read_json(text: str) -> Any:
    """Return the one value that `text` holds. Raises CommandError in QEMU's words."""
    # Imported here, because the import takes a quarter of the start-up time of a script without JSON.
    from hmp.qjson.codec import Decoder, ParseFailure

    decoder = Decoder()
    # A number or a word is complete only with the byte after it, so add a newline. If that byte makes an error, QEMU's
    # message does not show it.
    items = decoder.feed(text.encode("utf-8", "surrogateescape") + b"\n")
    if items and isinstance(items[0], ParseFailure):
        raise CommandError(items[0].desc.replace("\n'", "'"))
    if len(items) > 1 or (items and decoder.held):
        raise CommandError("Expecting at most one JSON value")
    if not items:
        raise CommandError("JSON parse error, premature EOI" if decoder.fault is None else decoder.fault.desc)
    return items[0]
