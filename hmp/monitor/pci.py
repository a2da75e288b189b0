"""The machine's PCI devices, for query-pci and `info pci`: the chipset's as recorded, the balloon's as it is."""

from __future__ import annotations

import copy

from hmp.monitor.replies import shipped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from device.machine.machine import Machine

BOOTED = {1: ({}, {4: 0xC040}), 3: ({"irq": 9}, {}), 0: ({"irq": 10}, {0: 0xC000, 4: 0xFEBFC000})}
"""What the firmware gave to each function, by its number: the interrupt, and the addresses of the BARs."""


def pci(machine: Machine) -> list[dict[str, Any]]:
    """Return what query-pci does. Before the machine first ran no address is set."""
    buses: list[dict[str, Any]] = copy.deepcopy(shipped().qmp["query-pci"][0]["return"])
    devices: list[dict[str, Any]] = buses[0]["devices"]
    if machine.device is None:
        del devices[-1]
    else:
        devices[-1]["qdev_id"] = machine.device.id
    if machine.vm_clock.now():
        for device in devices:
            if "irq" in device or device["regions"]:
                values, addresses = BOOTED[device["function"]]
                device.update(values)
                for region in device["regions"]:
                    region["address"] = addresses[region["bar"]]
    return buses


def _region(region: dict[str, Any]) -> str:
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
