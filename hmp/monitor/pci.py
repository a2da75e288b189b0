"""The PCI devices for query-pci and `info pci`: the chipset as it was recorded, and the balloon as it is now."""

from __future__ import annotations

import copy

from hmp.monitor.replies import shipped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from device.machine.machine import Machine

# The values that QEMU 7.2's firmware chose when the shipped replies were recorded. hmp has no PCI bus, so nothing
# else could change them.
BOOTED = {1: ({}, {4: 0xC040}), 3: ({"irq": 9}, {}), 0: ({"irq": 10}, {0: 0xC000, 4: 0xFEBFC000})}
"""What the firmware assigns to each PCI function, by its number: the interrupt, and the addresses of the BARs."""


def pci(machine: Machine) -> list[dict[str, Any]]:
    """Return the result of query-pci. Before the machine has run for the first time no address is set."""
    # A copy, because the recorded reply is shared by all machines of the process.
    buses: list[dict[str, Any]] = copy.deepcopy(shipped().qmp["query-pci"][0]["return"])
    devices: list[dict[str, Any]] = buses[0]["devices"]
    if machine.device is None:
        del devices[-1]
    else:
        # The balloon was the last device when the reply was recorded.
        devices[-1]["qdev_id"] = machine.device.id
    # VM time is 0 until the machine runs, as with -S: the firmware has assigned nothing yet.
    if machine.vm_clock.now():
        for device in devices:
            if "irq" in device or device["regions"]:
                values, addresses = BOOTED[device["function"]]
                device.update(values)
                for region in device["regions"]:
                    region["address"] = addresses[region["bar"]]
    return buses


def _region(region: dict[str, Any]) -> str:
    # An address that is not assigned is -1; QEMU prints it as an unsigned number.
    first = region["address"] & 0xFFFFFFFFFFFFFFFF
    last = (region["address"] + region["size"] - 1) & 0xFFFFFFFFFFFFFFFF
    if region["type"] == "io":
        return f"      BAR{region['bar']}: I/O at 0x{first:04x} [0x{last:04x}].\n"
    kind = f"{64 if region['mem_type_64'] else 32} bit{' prefetchable' if region['prefetch'] else ''}"
    return f"      BAR{region['bar']}: {kind} memory at 0x{first:08x} [0x{last:08x}].\n"


def text(machine: Machine) -> str:
    """Return what `info pci` prints."""
    parts = []
    for device in pci(machine)[0]["devices"]:
        ids, kind = device["id"], device["class_info"]
        parts.append(f"  Bus{0:3}, device{device['slot']:4}, function {device['function']}:\n")
        parts.append(f"    {kind.get('desc') or 'Class {:04d}'.format(kind['class'])}: ")
        parts.append(f"PCI device {ids['vendor']:04x}:{ids['device']:04x}\n")
        parts.append(f"      PCI subsystem {ids['subsystem-vendor']:04x}:{ids['subsystem']:04x}\n")
        if "irq" in device:
            parts.append(f"      IRQ {device['irq']}, pin {'?ABCD'[device['irq_pin']]}\n")
        parts += map(_region, device["regions"])
        parts.append(f'      id "{device["qdev_id"]}"\n')
    return "".join(parts)
