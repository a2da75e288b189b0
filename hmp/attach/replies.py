"""Saves the answers of a VM in a file for --replies, so that tests can use a double of this VM."""

from __future__ import annotations

import json
import os
from typing import Any

from device.clock import SECOND
from hmp.attach.link import LinkError, QmpError
from hmp.attach.machine import Attached, Steps
from hmp.monitor import ConnectError, UsageError
from hmp.monitor.registry import TABLE
from hmp.monitor.replies import shipped
from hmp.newfile import NewFile
from hmp.streams import write_all

LIMIT = 60 * SECOND
"""The most time (ns) for all queries."""

LEFT_OUT = {"tlb", "trace-events", "mtree", "qdm"}
"""Topics of `info` that print too much for a file, and one that changes the VM: `info qdm` loads all modules of QEMU
into the process, after which other queries answer more. It aborts QEMU 8.2 and 10.0 if the modules on disk are of
another version, as after an upgrade."""


def _ask(name: str, arguments: dict[str, object] | None = None) -> Steps:
    """Return the answer in the form of the file."""
    try:
        return {"return": (yield name, arguments)}
    except QmpError as error:
        return {"error": {"class": error.kind, "desc": str(error)}}


def questions(schema: list[dict[str, Any]]) -> list[str]:
    """Return the names of the query commands that need no argument and that hmp does not model."""
    from hmp.qmp.commands import COMMANDS

    members = {each["name"]: each.get("members", ()) for each in schema}
    return [
        each["name"]
        for each in schema
        if each["meta-type"] == "command"
        and each["name"].startswith("query-")
        and each["name"] not in COMMANDS
        # In a schema a member that may be left out has a default.
        and all("default" in member for member in members.get(each["arg-type"], ()))
    ]


def topics(help: str) -> list[str]:
    """Return the topics of `info` that need no argument, from the output of `help info`."""
    # hmp answers these from its own machine; a recorded answer would never change.
    own = {name for name in TABLE["info"].topics or {} if f"info {name}" not in shipped().hmp}
    found = []
    for line in help.splitlines():
        usage = line.partition(" -- ")[0].split()
        if usage[:1] == ["info"] and len(usage) > 1 and all(word.startswith("[") for word in usage[2:]):
            found += [name for name in usage[1].split("|") if name not in own and name not in LEFT_OUT]
    return found


def collect(machine: Attached) -> Steps:
    """Send all queries to a machine. Returns the contents of the file."""
    schema = yield "query-qmp-schema", None
    version = machine.link.greeting.get("version") or (yield "query-version", None)
    number = ".".join(str(version["qemu"][part]) for part in ("major", "minor", "micro"))
    qmp = {}
    for name in questions(schema):
        qmp[name] = [(yield from _ask(name))]
    hmp = {}
    for topic in topics((yield "human-monitor-command", {"command-line": "help info"})):
        answer = yield from _ask("human-monitor-command", {"command-line": f"info {topic}"})
        if "return" in answer:
            hmp[f"info {topic}"] = answer["return"].replace("\r\n", "\n")
    return {"version": 1, "qemu": number, "schema": schema, "qmp": qmp, "hmp": hmp}


def save(machine: Attached, path: str) -> None:
    """Write the file, with mode 0600.

    Raises UsageError if it cannot be made, ConnectError if the VM does not answer.
    """
    try:
        file = NewFile(path, overwrite=False, private=True)
    except (OSError, ValueError) as error:
        raise UsageError(f"--save-replies '{path}': {getattr(error, 'strerror', error)}") from None
    good = False
    try:
        found = machine.ask(collect(machine), LIMIT)
        write_all(file.descriptor, json.dumps(found, indent=1, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        good = True
    except (QmpError, LinkError) as error:
        raise ConnectError(f"--save-replies: {error}") from None
    finally:
        os.close(file.descriptor)
        file.settle(good)
