"""QEMU's commands about devices that hmp does not have, or of which it has only recorded data."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from device.machine.machine import Machine
from hmp.monitor import CommandError
from hmp.monitor.emulated import emulated
from hmp.monitor.grammar import natural
from hmp.monitor.monitor import Arguments, Monitor, Reply
from hmp.monitor.pci import text
from hmp.monitor.replies import shipped

# Clients and management layers ask for disks, processors and migration before they use the balloon. The answers are
# recorded data, except for what depends on the machine.

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CHARACTERS = {code: chr(code) for code in range(32, 127)} | {39: r"\'", 92: r"\\", 10: r"\n", 13: r"\r"}
"""What `print/c` prints between quotes, some of it escaped; any other character is printed as a hexadecimal number."""

FORMATS: dict[str, Callable[[int], str]] = {
    "d": str,
    "i": str,
    "u": lambda value: str(value % (1 << 64)),
    "x": lambda value: f"{value % (1 << 64):#x}" if value else "0",
    "o": lambda value: f"0{value % (1 << 64):o}" if value else "0",
    "c": lambda value: "'" + _CHARACTERS.get(value & 0xFFFFFFFF, rf"\x{value & 0xFFFFFFFF:02x}") + "'",
}


def info_pci(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """The PCI devices."""
    return text(monitor.machine)


def info_memdev(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """What the RAM is made of."""
    found = dict(shipped().qmp["query-memdev"][0]["return"][0], size=monitor.machine.ram)
    # The order of these lines is QEMU's.
    names = ("size", "merge", "dump", "prealloc", "share", "reserve", "policy")
    rows = [f"  {name}: {' ' * (name == 'size')}{str(found[name]).lower()}\n" for name in names]
    return "".join([f"memory backend: {found['id']}\n", *rows, "  host nodes: \n\n"])


def info_cpus(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """The one processor, which is this process."""
    # QEMU shows the id of the thread that runs the CPU. hmp has no threads, so this is the process.
    return f"* CPU #0: thread_id={os.getpid()}\n"


def info_chardev(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """The character devices."""
    return "".join(f"{each['label']}: filename={each['filename']}\n" for each in emulated(monitor.machine).chardevs())


def capabilities(machine: Machine) -> list[dict[str, Any]]:
    """Return the result of query-migrate-capabilities, with the values that clients have set."""
    changed = emulated(machine).migration
    known = shipped().qmp["query-migrate-capabilities"][0]["return"]
    return [{**each, "state": changed.get(each["capability"], each["state"])} for each in known]


def info_migrate_capabilities(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """The capabilities of migration, with the values that clients have set."""
    found = capabilities(monitor.machine)
    return "".join(f"{each['capability']}: {'on' if each['state'] else 'off'}\n" for each in found)


def info_migrate_parameters(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """The parameters of migration, with the values that clients have set."""
    changed = emulated(monitor.machine).migration
    lines = []
    for line in shipped().hmp["info migrate_parameters"].splitlines():
        name, _, value = line.partition(": ")
        if name in changed:
            new = changed[name]
            # Keep the quotes or the unit of the recorded line: QEMU prints text in quotes and numbers with their
            # unit.
            shown = ("off", "on")[new] if isinstance(new, bool) else str(new)
            value = f"'{shown}'" if value == "''" else f"{shown} {value.partition(' ')[2]}".rstrip()
        lines.append(f"{name}: {value}\n")
    return "".join(lines)


def sendkey(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Check the names of the keys; there is no keyboard that could take them."""
    keys = arguments["keys"]
    # The names are those of QEMU's schema. QEMU's type has a generated name there, so look for one with a known key.
    known = next(each["values"] for each in shipped().schema.values() if "shift_r" in each.get("values", ()))
    for key in keys.split("-"):
        number = key[:2] == "0x" and natural(key, 0)[1] == len(key)
        if not number and key not in (*known, "<"):
            reply.failed = True
            return f"invalid parameter: {key}\n"
    return ""


def find_console(monitor: Monitor, arguments: Mapping[str, Any]) -> None:
    """Raise CommandError in QEMU's words if the arguments name a device: none has a console."""
    if "device" in arguments:
        id, device = arguments["device"], monitor.machine.device
        if device is None or not id or id != device.id:
            raise CommandError(f"Device '{id}' not found", "DeviceNotFound")
        head = (arguments.get("head", 0) + (1 << 31)) % (1 << 32) - (1 << 31)  # an int32
        raise CommandError(f"Device {id} (head {head}) is not bound to a QemuConsole")


def screendump(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Refuse: there is no screen."""
    if arguments.get("format") not in (None, False, "ppm", "png"):
        raise CommandError(f"invalid parameter value: {arguments['format']}")
    find_console(monitor, arguments)
    if "head" in arguments:
        raise CommandError("'head' must be specified together with 'device'")
    raise CommandError("There is no console to take a screendump from")


def no_network(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Print that there is no network."""
    if "arg2" in arguments:
        return f"unrecognized netdev id '{arguments['arg1']}'\n"
    return "user mode network stack not in use\n"


def not_found(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Refuse: there is no such device."""
    raise CommandError(f"Device '{arguments['id']}' not found")


def no_drive(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """As not_found, but QEMU prints this error without `Error: `."""
    reply.failed = True
    return f"Device '{arguments['id']}' not found\n"


def no_chardev(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Refuse: the character devices belong to hmp's own monitors."""
    labels = [each["label"] for each in emulated(monitor.machine).chardevs()]
    found = "is busy" if arguments["id"] in labels else "not found"
    raise CommandError(f"Chardev '{arguments['id']}' {found}")


def no_object(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Refuse: there are no objects."""
    raise CommandError(f"object '{arguments['id']}' not found")


def nothing(monitor: Monitor, arguments: Arguments, reply: Reply) -> None:
    """Accept the command; it has no effect."""


def print_value(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Print the value of an expression."""
    kept = emulated(monitor.machine)
    # As in QEMU, `print` without a format uses the last one.
    kept.format = arguments["fmt"] or kept.format
    return FORMATS[kept.format](arguments["val"]) + "\n"
