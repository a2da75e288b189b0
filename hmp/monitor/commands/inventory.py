"""Commands of QEMU's about devices that are not there, or that hmp only stands in for."""

from __future__ import annotations

import os

from hmp.monitor import CommandError
from hmp.monitor.emulated import emulated
from hmp.monitor.grammar import natural
from hmp.monitor.pci import text
from hmp.monitor.replies import shipped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from hmp.monitor.grammar import Arguments
    from hmp.monitor.monitor import Monitor, Reply

_CHARACTERS = {code: chr(code) for code in range(32, 127)} | {39: r"\'", 92: r"\\", 10: r"\n", 13: r"\r"}
"""What stands as it is between the quotes of `print/c`, or behind a backslash; all else is a hexadecimal number."""

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
    shown = {
        name: str(found[name]).lower() for name in ("size", "merge", "dump", "prealloc", "share", "reserve", "policy")
    }
    rows = [f"  {name}: {' ' * (name == 'size')}{value}\n" for name, value in shown.items()]
    return "".join([f"memory backend: {found['id']}\n", *rows, "  host nodes: \n\n"])


def info_cpus(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """The one processor, which is this process."""
    return f"* CPU #0: thread_id={os.getpid()}\n"


def info_chardev(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """The character devices."""
    return "".join(f"{each['label']}: filename={each['filename']}\n" for each in emulated(monitor.machine).chardevs())


def info_migrate_capabilities(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """What is set of migration's capabilities."""
    changed = emulated(monitor.machine).migration
    known = shipped().qmp["query-migrate-capabilities"][0]["return"]
    states = {each["capability"]: changed.get(each["capability"], each["state"]) for each in known}
    return "".join(f"{name}: {'on' if state else 'off'}\n" for name, state in states.items())


def info_migrate_parameters(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """What is set of migration's parameters."""
    changed = emulated(monitor.machine).migration
    lines = []
    for line in shipped().hmp["info migrate_parameters"].splitlines():
        name, _, value = line.partition(": ")
        if name in changed:
            new = changed[name]
            shown = ("off", "on")[new] if isinstance(new, bool) else str(new)
            value = f"'{shown}'" if value == "''" else f"{shown} {value.partition(' ')[2]}".rstrip()
        lines.append(f"{name}: {value}\n")
    return "".join(lines)


def sendkey(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Take keys: there is no keyboard, but their names are checked."""
    keys = arguments["keys"]
    known = next(each["values"] for each in shipped().schema.values() if "shift_r" in each.get("values", ()))
    for key in keys.split("-"):
        number = key[:2] == "0x" and natural(key, 0)[1] == len(key)
        if not number and key not in (*known, "<"):
            reply.failed = True
            return f"invalid parameter: {key}\n"
    return ""


def screendump(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """There is nothing to be seen."""
    raise CommandError("There is no console to take a screendump from")


def no_network(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """There is no network."""
    return "user mode network stack not in use\n"


def not_found(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """There is no such device."""
    raise CommandError(f"Device '{arguments['id']}' not found")


def no_drive(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """There is no such device either."""
    reply.failed = True
    return f"Device '{arguments['id']}' not found\n"


def no_chardev(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """No character device can go while hmp runs."""
    labels = [each["label"] for each in emulated(monitor.machine).chardevs()]
    found = "is busy" if arguments["id"] in labels else "not found"
    raise CommandError(f"Chardev '{arguments['id']}' {found}")


def no_object(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """There are no objects."""
    raise CommandError(f"object '{arguments['id']}' not found")


def nothing(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Accepted, and there is nobody to notice."""
    return ""


def print_value(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Print the value of an expression."""
    kept = emulated(monitor.machine)
    kept.format = arguments["fmt"] or kept.format
    return FORMATS[kept.format](arguments["val"]) + "\n"
