"""`device_add` and `device_del`, and how options of a device are read."""

from __future__ import annotations

from device.balloon.spec import MODELS, PROPERTIES
from hmp.monitor import CommandError, SyntaxRefused
from hmp.monitor.qom import BACKEND_TYPE, OPTIONS, device_to_unplug, from_option, read_options, valid_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from device.machine.machine import Machine
    from hmp.monitor.monitor import Arguments, Monitor, Reply

ALIAS = "virtio-balloon"
"""QEMU's other name for the first model."""

DRIVERS = {MODELS[0]: MODELS[0], ALIAS: MODELS[0]} | {model: model for model in MODELS}
"""Each name that device_add takes, and the model that it means."""


HELP = ("help", "?")


def _value(spec: str, at: int) -> tuple[str, int]:
    """Return the value at `at` and the position of the next option. In a value two commas stand for one."""
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


def split_options(spec: str, implied: str | None) -> list[tuple[str, str]]:
    """Return the pairs of `value[,key=value...]`, as QEMU reads them: a first value without key belongs to `implied`.

    `key` alone is `key=on`, and `nokey` is `key=off`.
    """
    pairs: list[tuple[str, str]] = []
    at = 0
    while at < len(spec):
        end = at
        # Not split(","): a value may have commas, written twice, and a key ends before its value begins.
        while end < len(spec) and spec[end] not in "=,":
            end += 1
        key = spec[at:end]
        if spec[end : end + 1] == "=":
            value, at = _value(spec, end + 1)
        elif at == 0 and implied is not None:
            key = implied
            value, at = _value(spec, 0)
        else:
            at = end + 1
            value = "on"
            # QEMU reads every key that begins with `no` this way, even if the whole key is the name of an option.
            if key.startswith("no"):
                key, value = key[2:], "off"
        pairs.append((key, value))
    return pairs


def split_device(spec: str) -> tuple[str | None, str | None, list[tuple[str, str]]]:
    """Return (driver, id, other pairs) of `driver[,key=value...]`. A missing driver or id is None.

    If they are given twice, the last driver and the first id are used, as in QEMU.
    """
    pairs = split_options(spec, "driver")
    others = [pair for pair in pairs if pair[0] not in ("driver", "id")]
    return dict(pairs).get("driver"), dict(reversed(pairs)).get("id"), others


def _option_lines(model: str) -> str:
    lines = []
    for name, kind in sorted(OPTIONS.items()):
        text = f"{name}=<{kind}>"
        if name in PROPERTIES:
            text = f"{text:22} - on/off (default: {'on' if PROPERTIES[name][1] else 'off'})"
        lines.append(f"  {text}\n")
    return f"{model} options:\n" + "".join(lines)


def check_driver(driver: object) -> str:
    """Return the device model that `driver` names. Raises CommandError in QEMU's words if it names none."""
    if not isinstance(driver, str):
        raise CommandError("Parameter 'driver' is missing")
    # QEMU knows this type, but it needs the bus that only a balloon device has.
    if driver == BACKEND_TYPE:
        raise CommandError(f"No 'virtio-bus' bus found for device '{driver}'")
    if driver not in DRIVERS:
        raise CommandError(f"'{driver}' is not a valid device model name")
    return DRIVERS[driver]


def check_iothread(options: Mapping[str, object]) -> None:
    """Raise CommandError in QEMU's words for free page hints without an iothread.

    Any id is accepted: hmp has no threads.
    """
    if options.get("free_page_hint") and not options.get("iothread"):
        raise CommandError("'free-page-hint' requires 'iothread' to be set")


def plug(machine: Machine, driver: object, id: str, pairs: Iterable[tuple[str, Any]]) -> None:
    """Plug in a device with the options in `pairs`.

    Raises CommandError and MisuseError in QEMU's words. Of several errors it raises the one that QEMU reports.
    """
    model, device = check_driver(driver), machine.device
    # If there is a device already, Machine.device_add raises QEMU's error. For the same id QEMU reads no options first.
    options = {} if device is not None and device.id == id != "" else read_options(model, pairs, from_option)
    if device is None:
        check_iothread(options)
    machine.device_add(id, options)


def device_add(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Plug in a balloon device."""
    driver, id, pairs = split_device(arguments["device"])
    if driver in HELP:
        names = [f'name "{model}", bus PCI' for model in MODELS]
        names[0] += f', alias "{ALIAS}"'
        return "\n".join(["Misc devices:", *names, ""])
    if driver in DRIVERS and any(key in HELP for key, _ in pairs):
        return _option_lines(DRIVERS[driver])
    if id is not None and not valid_id(id):
        # QEMU prints the reason on its own stderr, where the user of the monitor cannot see it.
        raise SyntaxRefused(
            "Parameter 'id' expects an identifier\n"
            "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.\n"
            'Try "help device_add" for more information'
        )
    plug(monitor.machine, driver, id or "", pairs)
    return ""


def device_del(monitor: Monitor, arguments: Arguments, reply: Reply) -> None:
    """Ask the guest to release the device."""
    machine = monitor.machine
    machine.device_del(device_to_unplug(machine, arguments["id"]))
