"""The state of the device and its queues as plain data, and back. Rings and buffers are in guest memory already."""

from __future__ import annotations

from device.balloon.device import PROPERTIES, BalloonDevice
from device.balloon.spec import ABSENT, MAX_STAT_RECORDS, STAT_COUNT
from device.balloon.stats import Sample
from device.clock import SECOND
from device.errors import RULES, GuestFault
from device.state import FAR, Fields
from device.virtio.queue import Element, VirtQueue
from device.virtio.spec import MAX_QUEUE_SIZE, PAGE_SHIFT, STATUS_DRIVER_OK, STATUS_FAILED, STATUS_NEEDS_RESET, U16, U32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from device.machine.machine import Machine
    from device.virtio.memory import Memory
    from device.virtio.queue import Segment

    Plain = dict[str, object]

MAX_INTERVAL = U32


def save_device(device: BalloonDevice, now: int) -> Plain:
    """Return the device's state; ages count from `now` (host ns)."""
    stats = device.stats
    sample = stats.sample
    return {
        "id": device.id,
        "hotplugged": device.hotplugged,
        "properties": dict(device.properties),
        "status": device.status,
        "features": device.features,
        "isr": device.isr,
        "num_pages": device.num_pages,
        "actual_pages": device.actual_pages,
        "poison_seen": device.poison_seen,
        "refused": dict(device.refused),
        "last_refusal": device.last_refusal,
        "age": now - device.born,
        "queues": [_save_queue(queue) for queue in device.queues],
        "stats": {
            "held": None if stats.held is None else _save_element(stats.held),
            "out": stats.out,
            "poll_interval": stats.poll_interval,
            "poll_remaining": stats.poll_remaining,
            "reset_age": now - stats.reset_at,
            "sample": None if sample is None else _save_sample(sample, now),
        },
    }


def _save_queue(queue: VirtQueue) -> Plain:
    return {
        "size": queue.size,
        "desc": queue.desc,
        "avail": queue.avail,
        "used": queue.used,
        "enabled": queue.enabled,
        "event_idx": queue.event_idx,
        "indirect": queue.indirect,
        "last_avail": queue.last_avail,
        "used_idx": queue.used_idx,
        "signalled": queue.signalled,
        "signalled_valid": queue.signalled_valid,
        "in_use": queue.in_use,
    }


def _save_element(element: Element) -> Plain:
    return {
        "head": element.head,
        "out": [[region.base + offset, length] for region, offset, length in element.out],
        "into": [[region.base + offset, length] for region, offset, length in element.into],
    }


def _save_sample(sample: Sample, now: int) -> Plain:
    return {
        "tags": list(sample.tags),
        "numbers": list(sample.numbers),
        "unknown": [[tag, value] for tag, value in sample.unknown.items()],
        "age": now - sample.collected,
        "wall": sample.wall,
    }


def load_device(machine: Machine, fields: Fields, elapsed: int) -> BalloonDevice:
    """Make a device for `machine` from its state. `elapsed` (ns) is added to every age.

    Raises SnapshotError naming the member that is wrong. The pages in the balloon are not part of the state.
    """
    now = machine.clock.now()
    properties = fields.section("properties")
    switches = {name.replace("-", "_"): properties.flag(name) for name in PROPERTIES}
    properties.done()
    device = BalloonDevice(machine, machine.memory, machine.ram, id=_id(fields), **switches)
    pages = machine.ram >> PAGE_SHIFT
    device.hotplugged = fields.flag("hotplugged")
    device.status = fields.integer("status", 0, 0xFF)
    features = fields.integer("features")
    if features & ~device.offered:
        raise fields.refuse("features", "holds a feature that the device does not offer")
    device.features = features
    device.isr = fields.integer("isr", 0, 3)
    device.num_pages = fields.integer("num_pages", 0, pages)
    device.actual_pages = fields.integer("actual_pages", 0, pages)
    device.poison_seen = fields.flag("poison_seen")
    device.refused = fields.counters("refused", len(RULES))
    if not device.refused.keys() <= RULES.keys():
        raise fields.refuse("refused", "names a rule that does not exist")
    device.last_refusal = fields.text("last_refusal")
    device.born = now - elapsed - fields.integer("age", 0, FAR)
    queues = fields.sections("queues", len(device.queues))
    if len(queues) != len(device.queues):
        raise fields.refuse("queues", f"are not {len(device.queues)}")
    for queue, state in zip(device.queues, queues, strict=True):
        _load_queue(queue, state, machine.memory)
    device.restore_roles()
    _load_stats(device, fields.section("stats"), now - elapsed)
    fields.done()
    device.live = bool(device.status & STATUS_DRIVER_OK) and not device.status & (STATUS_NEEDS_RESET | STATUS_FAILED)
    return device


def _id(fields: Fields) -> str:
    id = fields.text("id")
    if not (id.isascii() and all(char.isalnum() or char in "-._" for char in id)):
        raise fields.refuse("id", "cannot name a device")
    return id


def _load_queue(queue: VirtQueue, state: Fields, memory: Memory) -> None:
    enabled = state.flag("enabled")
    size = state.integer("size", 0, U32)  # what the driver wrote; only a queue that is set up has been checked
    queue.configure(size, state.integer("desc"), state.integer("avail"), state.integer("used"))
    event_idx, indirect = state.flag("event_idx"), state.flag("indirect")
    last_avail = state.integer("last_avail", 0, U16)
    if enabled:
        try:
            queue.start(memory, event_idx=event_idx, indirect=indirect, last_avail=last_avail)
        except GuestFault as fault:
            raise state.refuse("desc", f"does not describe a queue ({fault})") from None
    queue.event_idx, queue.indirect = event_idx, indirect
    queue.last_avail = last_avail
    queue.used_idx = state.integer("used_idx", 0, U16)
    queue.signalled = state.integer("signalled", 0, U16)
    queue.signalled_valid = state.flag("signalled_valid")
    queue.in_use = state.integer("in_use", 0, MAX_QUEUE_SIZE)
    state.done()


def _load_stats(device: BalloonDevice, state: Fields, then: int) -> None:
    stats = device.stats
    held = state.maybe("held")
    stats.out = state.flag("out")
    interval = state.integer("poll_interval", 0, MAX_INTERVAL)
    remaining = state.perhaps("poll_remaining", 0, MAX_INTERVAL * SECOND)
    stats.reset_at = then - state.integer("reset_age", 0, FAR)
    sample = state.maybe("sample")
    state.done()
    if (held is not None or stats.out) and (stats.index < 0 or not device.queues[stats.index].enabled):
        raise state.refuse("held", "needs a statistics queue, which there is not")
    if held is not None:
        stats.held = _load_element(held, device.queues[stats.index], device.memory)
    if sample is not None:
        stats.sample = _load_sample(sample, then)
    if not interval and remaining is not None:
        raise state.refuse("poll_remaining", "has no interval")
    stats.restore_polling(interval, remaining)


def _load_element(state: Fields, queue: VirtQueue, memory: Memory) -> Element:
    head = state.integer("head", 0, queue.size - 1)
    pieces: list[list[Segment]] = []
    for name in ("out", "into"):
        found: list[Segment] = []
        for address, length in state.pairs(name, queue.size):
            if not length:
                raise state.refuse(name, "holds a piece without a byte")
            try:
                region, offset = memory.find(address, length)
            except GuestFault as fault:
                raise state.refuse(name, f"is not in guest memory ({fault})") from None
            found.append((region, offset, length))
        pieces.append(found)
    state.done()
    if pieces[1] or not queue.in_use:
        raise state.refuse("head", "cannot be held")
    return Element(head, tuple(pieces[0]), tuple(pieces[1]))


def _load_sample(state: Fields, then: int) -> Sample:
    tags = state.integers("tags", STAT_COUNT, STAT_COUNT - 1)
    numbers = state.integers("numbers", STAT_COUNT, ABSENT - 1)
    unknown = state.pairs("unknown", MAX_STAT_RECORDS)
    age, wall = state.integer("age", 0, FAR), state.integer("wall", -FAR, FAR)
    state.done()
    if len(tags) != len(numbers) or len(set(tags)) != len(tags):
        raise state.refuse("tags", "do not match the numbers")
    odd = {tag: value for tag, value in unknown if value is not None}
    if len(odd) != len(unknown):
        raise state.refuse("unknown", "names a statistic twice, or without its value")
    if not all(STAT_COUNT <= tag <= U16 for tag in odd):
        raise state.refuse("unknown", "names a statistic that is known")
    return Sample(tuple(tags), tuple(numbers), odd, then - age, wall)
