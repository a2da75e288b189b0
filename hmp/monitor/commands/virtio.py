"""`info virtio` and the commands `info virtio-*`: the device as its transport sees it, in QEMU's layout."""

from __future__ import annotations

from device.balloon.device import BalloonDevice
from device.balloon.spec import DEVICE_ID, FEATURES_TABLE
from device.errors import RULES, GuestFault
from device.virtio.memory import Memory
from device.virtio.queue import VirtQueue
from device.virtio.spec import DESC_INDIRECT, DESC_NEXT, DESC_SIZE, DESC_WRITE, STATUS_DRIVER_OK, STATUS_TABLE, U16
from hmp.monitor import CommandError
from hmp.monitor.monitor import Arguments, Monitor, Reply
from hmp.monitor.qom import backend_path

Descriptor = tuple[int, int, int]

NAME = "virtio-balloon"
ALIGN = 4096

_FLAGS = ((1 << 15, "used"), (1 << 7, "avail"), (DESC_INDIRECT, "indirect"), (DESC_WRITE, "write"), (DESC_NEXT, "next"))

_RING_FEATURES = [feature for feature in FEATURES_TABLE if "_BALLOON_" not in feature.name]
_OWN_FEATURES = [feature for feature in FEATURES_TABLE if "_BALLOON_" in feature.name][::-1]
"""The features that any virtio device may offer, and those of the balloon. QEMU lists them separately, and the
balloon's from the last bit down."""


def _find(monitor: Monitor, path: object, words: str) -> BalloonDevice:
    """Return the device at `path`. Unlike qom-get, QEMU takes only the exact full path here."""
    device = monitor.machine.device
    if device is None or path != backend_path(monitor.machine):
        raise CommandError(f"Path {path} is not a {words}")
    return device


def _queue(device: BalloonDevice, argument: int) -> VirtQueue:
    number = argument & U16  # QEMU keeps 16 bits of the number
    if number >= len(device.queues):
        raise CommandError(f"Invalid virtqueue number {number}")
    return device.queues[number]


def _truth(value: object) -> str:
    return "true" if value else "false"


def info_virtio(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """List the virtio devices; there is at most one."""
    path = backend_path(monitor.machine)
    return "No VirtIO devices\n" if path is None else f"{path} [{NAME}]\n"


# Status.


def _list(words: list[str]) -> str:
    return ",\n".join([f"\t{word}" for word in words]) + "\n"


def _features(features: int) -> str:
    common, own = (
        [f"{feature.name}: {feature.help}" for feature in table if features >> feature.bit & 1]
        for table in (_RING_FEATURES, _OWN_FEATURES)
    )
    return _list(common) + (_list(own) if own else "")


def _refusals(device: BalloonDevice) -> str:
    """Return what hmp adds to QEMU's text: the rules that the guest broke, how often, and the last case with its
    numbers."""
    if not device.refused:
        return ""
    counts = [f"{count} x" for count in device.refused.values()]
    width = max(map(len, counts))
    rows = zip(counts, device.refused, strict=True)
    lines = [f"    {count:>{width}} {RULES.get(rule, rule)} ({rule})\n" for count, rule in rows]
    return f"  Refused:\n{''.join(lines)}    last: {device.last_refusal}\n"


def _hints(device: BalloonDevice) -> str:
    """Return the number of free pages that the driver hinted at, by command id. QEMU does not show them."""
    lines = [f"    command {id:#x}: {pages} pages\n" for id, pages in device.hints.items()]
    return "  Free page hints:\n" + "".join(lines) if lines else ""


def info_virtio_status(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Show the status and features of a device, its free page hints, and what it refused."""
    path = arguments["path"]
    device = _find(monitor, path, "VirtIODevice")
    fields = (
        # After the blank QEMU prints whether vhost serves the device.
        ("device_name", f"{NAME} "), ("device_id", DEVICE_ID), ("vhost_started", "false"), ("bus_name", "(null)"),
        ("broken", _truth(device.broken)), ("disabled", "false"), ("disable_legacy_check", "false"),
        ("started", _truth(device.status & STATUS_DRIVER_OK)), ("use_started", "true"), ("start_on_kick", "false"),
        ("use_guest_notifier_mask", "true"), ("vm_running", _truth(monitor.machine.running)),
        # queue_sel is a register of the PCI transport, which hmp does not model.
        ("num_vqs", len(device.queues)), ("queue_sel", 0), ("isr", device.isr), ("endianness", "little"),
    )  # fmt: skip
    lines = [f"{path}:\n", *[f"  {name + ':':<24} {value}\n" for name, value in fields]]
    status = [text for flag, text in STATUS_TABLE if device.status & flag]
    lines.append(f"  status:\n{_list(status)}")
    lines.append(f"  Guest features:\n{_features(device.features)}")
    lines.append(f"  Host features:\n{_features(device.offered)}")
    lines.append(f"  Backend features:\n{_features(0)}")
    # At the end, so that programs that read QEMU's lines find them in their places.
    lines.append(_hints(device) + _refusals(device))
    return "".join(lines)


# Queues.


def info_virtio_queue_status(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Show the indices of a queue and the addresses of its rings."""
    path = arguments["path"]
    queue = _queue(_find(monitor, path, "VirtIODevice"), arguments["queue"])
    fields = (
        ("device_name", NAME), ("queue_index", queue.index), ("inuse", queue.in_use), ("used_idx", queue.used_idx),
        ("signalled_used", queue.signalled), ("signalled_used_valid", _truth(queue.signalled_valid)),
        ("last_avail_idx", queue.last_avail),
        # QEMU shows the index that it read last. hmp does not keep that, so it reads the ring now.
        ("shadow_avail_idx", (queue.last_avail + queue.available()) & U16),
    )  # fmt: skip
    ring = (("num", queue.size), ("num_default", queue.offered), ("align", ALIGN), ("desc", f"0x{queue.desc:016x}"),
            ("avail", f"0x{queue.avail:016x}"), ("used", f"0x{queue.used:016x}"))  # fmt: skip
    lines = [f"{path}:\n", *[f"  {name + ':':<21} {value}\n" for name, value in fields], "  VRing:\n"]
    return "".join([*lines, *[f"    {name + ':':<13} {value}\n" for name, value in ring]])


def _descriptor(memory: Memory, table: int, index: int) -> tuple[Descriptor, int]:
    """Return ((address, length, flags), next) of a descriptor; zeros if there is no memory at the address, as in
    QEMU."""
    try:
        data = memory.read(table + index * DESC_SIZE, DESC_SIZE)
    except GuestFault:
        data = bytes(DESC_SIZE)
    address, length = int.from_bytes(data[:8], "little"), int.from_bytes(data[8:12], "little")
    return (address, length, int.from_bytes(data[12:14], "little")), int.from_bytes(data[14:], "little")


def _chain(device: BalloonDevice, queue: VirtQueue, head: int) -> list[Descriptor]:
    """Return the chain of descriptors that begins at `head`, at most as many as the queue has entries.

    The chain is in the guest's memory, and a hostile guest can make it a loop.
    """
    table, entries = queue.desc, queue.size
    descriptor, following = _descriptor(device.memory, table, head)
    if descriptor[2] & DESC_INDIRECT:
        table, entries = descriptor[0], descriptor[1] // DESC_SIZE
        descriptor, following = _descriptor(device.memory, table, 0)
    found = [descriptor]
    while descriptor[2] & DESC_NEXT and following < entries and len(found) < queue.size:
        descriptor, following = _descriptor(device.memory, table, following)
        found.append(descriptor)
    return found


def _show(descriptor: Descriptor) -> str:
    address, length, flags = descriptor
    words = [word for flag, word in _FLAGS if flags & flag]
    length -= (length & 1 << 31) << 1  # QEMU prints it as a signed number
    return f"        addr {address:#x} len {length}" + (f" ({', '.join(words)})" if words else "")


def info_virtio_queue_element(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Show a buffer on a queue's available ring: the next one, or the one at an index."""
    path = arguments["path"]
    device = _find(monitor, path, "VirtIO device")
    queue = _queue(device, arguments["queue"])
    index = arguments.get("index", queue.last_avail)
    try:
        head, *_, avail_flags, avail_idx = queue.peek(index & U16)
    except GuestFault:
        raise CommandError("Region caches not initialized") from None
    used_flags, used_idx = queue.used_state()
    # QEMU lists a chain from its last descriptor to its first.
    descriptors = ",\n".join(map(_show, reversed(_chain(device, queue, head))))
    return (
        f"{path}:\n"
        f"  device_name: {NAME}\n"
        f"  index:   {head}\n"
        f"  desc:\n    descs:\n{descriptors}\n"
        f"  avail:\n    flags: {avail_flags}\n    idx:   {avail_idx}\n    ring:  {head}\n"
        f"  used:\n    flags: {used_flags}\n    idx:   {used_idx}\n"
    )
