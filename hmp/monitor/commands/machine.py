"""Hot-plug."""

from __future__ import annotations

from device.balloon.device import PROPERTIES
from hmp.monitor import CommandError, SyntaxRefused
from hmp.monitor.grammar import SWITCH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from hmp.monitor.grammar import Arguments
    from hmp.monitor.monitor import Monitor, Reply

DRIVERS = ("virtio-balloon-pci", "virtio-balloon")
"""The device models that can be plugged in; the second is QEMU's alias of the first."""


def parse_switches(pairs: Iterable[tuple[str, str]]) -> tuple[str, dict[str, bool]]:
    """Return (id, switches) of a balloon device's key=value pairs. Raises CommandError in QEMU's words.

    The first id counts, and the last of anything else given twice, as in QEMU.
    """
    id: str | None = None
    switches: dict[str, bool] = {}
    for key, value in pairs:
        if key == "id":
            id = value if id is None else id
        elif key not in PROPERTIES:
            raise CommandError(f"Property 'virtio-balloon-pci.{key}' not found")
        elif value not in SWITCH:
            raise CommandError(f"Parameter '{key}' expects 'on' or 'off'")
        else:
            switches[key.replace("-", "_")] = SWITCH[value]
    return id or "", switches


def valid_id(id: str) -> bool:
    """Whether `id` can name a device: a letter, then letters, digits, '-', '.' and '_'."""
    return id.isascii() and id[:1].isalpha() and all(char.isalnum() or char in "-._" for char in id)


HELP = ("help", "?")


def _value(spec: str, at: int) -> tuple[str, int]:
    """Return the value at `at` and where the next option begins; in values two commas stand for one."""
    value = ""
    while True:
        end = spec.find(",", at)
        if end < 0:
            return value + spec[at:], len(spec)
        value += spec[at:end]
        if spec[end + 1 : end + 2] != ",":
            return value, end + 1
        value += ","
        at = end + 2


def split_options(spec: str, implied: str) -> list[tuple[str, str]]:
    """Return the pairs of `value[,key=value...]`, as QEMU reads them: the first value is that of `implied`.

    `key` alone is `key=on`, and `nokey` is `key=off`.
    """
    pairs: list[tuple[str, str]] = []
    at = 0
    while at < len(spec):
        end = at
        while end < len(spec) and spec[end] not in "=,":
            end += 1
        key = spec[at:end]
        if spec[end : end + 1] == "=":
            value, at = _value(spec, end + 1)
        elif at == 0:
            key = implied
            value, at = _value(spec, 0)
        else:
            at = end + 1
            value = "on"
            if key.startswith("no"):
                key, value = key[2:], "off"
        pairs.append((key, value))
    return pairs


def split_device(spec: str) -> tuple[str | None, list[tuple[str, str]]]:
    """Return (driver, pairs) of `driver[,key=value...]`; driver None without one."""
    pairs = split_options(spec, "driver")
    return dict(pairs).get("driver"), [pair for pair in pairs if pair[0] != "driver"]


def _switch_lines() -> str:
    width = max(map(len, PROPERTIES))
    lines = [f"  {name + '=<bool>':{width + 8}} - on/off (default: {'on' if on else 'off'})\n"
             for name, (_, on) in sorted(PROPERTIES.items())]  # fmt: skip
    return f"{DRIVERS[0]} options:\n" + "".join(lines)


def check_driver(driver: str | None) -> None:
    """Raise CommandError in QEMU's words for a device model that cannot be plugged in, or None where one is missing."""
    if driver is None:
        raise CommandError("Parameter 'driver' is missing")
    if driver not in DRIVERS:
        raise CommandError(f"'{driver}' is not a valid device model name")


def device_add(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Plug in a balloon device."""
    driver, pairs = split_device(arguments["device"])
    if driver in HELP:
        return f'Misc devices:\nname "{DRIVERS[0]}", bus PCI, alias "{DRIVERS[1]}"\n'
    if driver in DRIVERS and any(key in HELP for key, _ in pairs):
        return _switch_lines()
    id = next((value for key, value in pairs if key == "id"), None)
    if id is not None and not valid_id(id):
        # QEMU tells the reason on its stderr only, where the monitor's user cannot see it.
        raise SyntaxRefused(
            "Parameter 'id' expects an identifier\n"
            "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.\n"
            'Try "help device_add" for more information'
        )
    check_driver(driver)
    monitor.machine.device_add(*parse_switches(pairs))
    return ""


def device_del(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Ask the guest to let go of the device."""
    from hmp.monitor.qom import device_to_unplug

    machine = monitor.machine
    machine.device_del(device_to_unplug(machine, arguments["id"]))
    return ""
