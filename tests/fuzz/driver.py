"""Fuzz targets for the device's side: what a driver may do to it, one ring, statistics records, vhost-user messages."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from device.balloon.device import HINT_ROUNDS, BalloonDevice
from device.balloon.spec import (
    ABSENT,
    CONFIG_ACTUAL,
    CONFIG_POISON_VAL,
    F_PAGE_POISON,
    MAX_STAT_RECORDS,
    STAT_COUNT,
    STAT_RECORD,
)
from device.balloon.stats import decode, encode
from device.errors import FATAL_RULES, RULES, GuestFault
from device.guest.vhost_user.wire import HEADER, MAX_PAYLOAD, MAX_REGIONS, SHAPES, Decoder, FrontEndFault, check_shape
from device.virtio.queue import Element
from device.virtio.spec import (
    DESC_INDIRECT,
    DESC_NEXT,
    DESC_SIZE,
    DESC_WRITE,
    F_EVENT_IDX,
    F_INDIRECT_DESC,
    MAX_QUEUE_SIZE,
    MIB,
    STATUS_DRIVER_OK,
    U16,
    U32,
    U64,
    bit,
)
from tests.support.rig import BUFFERS, FEATURES, PAIR_DATA, PAIR_RAM, PAIR_TABLE, READY, RINGS, Pair, Rig

RAM = 4 * MIB


# The whole device: the bytes are a program for a driver that does what no driver should.


class _Driver:
    """A machine with a hand-driven guest, built once and reset for each input."""

    def __init__(self) -> None:
        self.rig = Rig(ram=RAM, switches={"free-page-hint": True, "free-page-reporting": True})
        self.size = 8

    def start(self, features: int) -> BalloonDevice:
        rig = self.rig
        if rig.machine.device is None:
            rig.machine.device_add("balloon0")
        rig.guest.on_interrupt = rig.guest.on_config = None
        rig.guest.interrupts.clear()
        rig.events.clear()
        rig.machine.cont()
        rig.negotiate(features)
        rig.set_up(size=self.size)
        rig.device.refused.clear()
        return rig.device


_driver: _Driver | None = None


def rings(data: bytes) -> None:
    """Run the bytes as operations of a driver on its rings, status, configuration and memory."""
    global _driver
    if _driver is None:
        _driver = _Driver()
    rig = _driver.rig
    if len(data) < 2:
        return
    features = FEATURES | data[0] << 1 & 0x3C
    features |= bit(F_INDIRECT_DESC) if data[1] & 1 else 0
    features |= bit(F_EVENT_IDX) if data[1] & 2 else 0
    device = _driver.start(features & rig.device.offered)
    device.write_status(READY | STATUS_DRIVER_OK)
    queues = list(rig.queues.values())
    machine = rig.machine
    calls = [0]

    def call_back(_: int) -> None:
        calls[0] += 1
        if calls[0] < 40:
            step(calls[0] * 7 % (len(data) - 1))

    if data[1] & 4:
        rig.guest.on_interrupt = call_back

    def number(at: int) -> int:
        return int.from_bytes(data[at : at + 4], "little")

    def step(at: int) -> None:
        op, value = data[at], number(at + 1)
        queue = queues[value % len(queues)]
        base = queue.base
        if op < 96:  # a descriptor, with addresses where they hurt
            places = (BUFFERS, RINGS, base, RAM - 8, RAM, 2**64 - 8, 2**63, value << 12)
            queue.write_desc(op & 7, places[value >> 4 & 7], value >> 8 & 0xFFF, op >> 3 & 7, value >> 20 & 15)
        elif op < 128:
            queue.expose(value >> 8 & (15 if op & 1 else 7))
            device.notify(value % len(queues))
        elif op < 144:
            rig.poke(BUFFERS + (value & 0xFF8), data[at : at + 64])
        elif op < 152:
            rig.poke(base + (value >> 8 & 0x1FF), data[at + 4 : at + 12])
            device.notify(value % len(queues))
        elif op < 160:
            device.notify((value & 15) - 2)
        elif op < 168:
            device.write_status(value & 0xFF)
        elif op < 176:
            device.accept_features(value | value << 28)
        elif op < 184:
            device.write_config(value & 31, data[at : at + (value >> 8 & 7)])
        elif op < 192:
            device.setup_queue(value & 7, value >> 3 & 2 * MAX_QUEUE_SIZE - 1, base, base + 128, base + 256)
        elif op < 200:
            machine.request_stats((value & 0xFFFF) * 1000 if value & 1 << 20 else None)
        elif op < 208:
            machine.advance(value & 0xFFF_FFFF)
        elif op < 212:
            device.stats.set_poll_interval(value & 7)
        elif op < 216:
            machine.reset()
        elif op < 220 and machine.device is not None:
            machine.set_balloon(1 + value % RAM)
        elif op < 224:
            machine.stop() if value & 1 else machine.cont()
        elif op < 228 and machine.device is not None and not machine.unplugging:
            rig.guest.driver_loaded = True
            machine.device_del("balloon0")
        elif op < 236:
            queue.take()
        elif op < 240:
            device.reset_queue((value & 7) - 1)
        elif op < 244:  # as a transport does that takes rings back for a while
            index = value % len(device.queues)
            ring, stats = device.queues[index], device.stats
            if ring.enabled:
                sample = stats.sample if index == stats.index and stats.held is not None else None
                last = device.park_queue(index)
                device.setup_queue(index, ring.size, ring.desc, ring.avail, ring.used, last_avail=last)
                stats.read_before = sample
                device.notify(index)
        else:
            device.write_config(CONFIG_ACTUAL if op < 248 else CONFIG_POISON_VAL, data[at : at + 4])

    for at in range(2, min(len(data) - 5, 400), 5):
        step(at)
    rig.guest.on_interrupt = None
    assert device.refused.keys() <= RULES.keys()
    assert device.poison_val == 0 or device.features & bit(F_PAGE_POISON)
    assert len(device.hints) <= HINT_ROUNDS
    for request in tuple(machine.requests.pending):
        machine.requests.cancel(request)
    for ring in device.queues:
        assert 0 <= ring.in_use <= max(ring.size, 1)
    # Whatever happened: a reset heals, and the next good request is answered.
    device = _driver.start(FEATURES)
    rig.machine.cont()
    rig.prime(b"\0")
    device.write_status(READY | STATUS_DRIVER_OK)
    rig.answer_with([(4, 1)])
    if rig.queues["stats"].take() is not None:
        rig.report([(4, 1)])
    assert rig.ask().state == "answered", device.last_refusal
    assert device.stats.qom_sample is device.stats.sample is not None


def rings_seeds() -> Iterator[bytes]:
    yield bytes([0, 7, 0, 0, 0x10, 0, 0, 96, 0, 0, 0, 0, 200, 255, 255, 255, 255])
    yield bytes([0x1E, 3, 32, 2, 0x20, 0, 0, 128, 4, 0, 0, 0, 97, 2, 0, 0, 0, 192, 0, 0, 16, 0])
    yield bytes(range(2, 250))


# One ring, against a reading of the specification that is as plain as can be.

_DESC = Struct("<QIHH")
_PLACES = (PAIR_DATA, PAIR_DATA + 64, PAIR_TABLE, PAIR_TABLE + 48, RINGS, PAIR_RAM - 8, PAIR_RAM, 2**64 - 8)
_LENGTHS = (0, 1, 4, 8, 10, 16, 32, 48, 64, 128, 256, 4096, PAIR_RAM, 2**31, 2**32 - 16, 2**32 - 1)
_ENTRY = 5
_TABLE_ENTRIES = 12

_pair: Pair | None = None


def _entry(data: bytes) -> tuple[int, int, int, int]:
    """Return a descriptor from five bytes, with addresses and lengths where they hurt."""
    place, length, flags, following, more = data
    return (
        _PLACES[place & 7] + (place >> 3) & U64,
        _LENGTHS[length & 15] + (length >> 4 if length >= 128 else 0) & U32,
        flags & 7 | (more << 8 & 0xFF00 if flags & 128 else 0),
        following & 15 | (more << 8 if following & 128 else 0),
    )


def _plain_pop(size: int, head: int, *, indirect: bool) -> tuple[str, list[tuple[int, int]], list[tuple[int, int]]]:
    """Return the rule that the chain from `head` breaks first, or "" and its readable and writable pieces."""
    out: list[tuple[int, int]] = []
    into: list[tuple[int, int]] = []
    entries, at, left, inside = _words(RINGS, size), head, size, False
    while True:
        address, length, flags, following = entries[at]
        if flags & DESC_INDIRECT:
            count = length // DESC_SIZE
            if inside or not indirect or flags & DESC_NEXT:
                return "bad-indirect", out, into
            if length % DESC_SIZE or not 0 < count <= size:
                return "bad-indirect", out, into
            if address + length > PAIR_RAM:
                return "bad-address", out, into
            entries, at, inside = _words(address, count), 0, True
            left = min(left, count)
            continue
        if not length:
            return "zero-length", out, into
        if address + length > PAIR_RAM:
            return "bad-address", out, into
        if flags & DESC_WRITE:
            into.append((address, length))
        elif into:
            return "direction", out, into
        else:
            out.append((address, length))
        left -= 1
        if not flags & DESC_NEXT:
            return "", out, into
        if not left:
            return "chain-loop", out, into
        if following >= len(entries):
            return "bad-head", out, into
        at = following


def _words(address: int, count: int) -> list[tuple[int, int, int, int]]:
    """Return the descriptors that memory holds at `address`, whatever they were meant to be."""
    assert _pair is not None
    data = _pair.memory.read(address, count * DESC_SIZE)
    return [_DESC.unpack_from(data, at) for at in range(0, len(data), DESC_SIZE)]


def ring(data: bytes) -> None:
    """Pop what the bytes describe, and give it back; what comes is what the plain reading says."""
    global _pair
    if len(data) < 8:
        return
    if _pair is None:
        _pair = Pair()
    memory, queue = _pair.memory, _pair.queue
    size = 1 << (data[0] & 3)
    event_idx, indirect = bool(data[0] & 4), bool(data[0] & 8)
    last = int.from_bytes(data[1:3], "little")
    rounds = data[3] & 7
    heads = data[4:8]
    entries = [_entry(data[at : at + _ENTRY]) for at in range(8, len(data) - _ENTRY + 1, _ENTRY)]
    entries += [(PAIR_DATA, 4, 0, 0)] * (size + _TABLE_ENTRIES - len(entries))
    packed = b"".join([_DESC.pack(*entry) for entry in entries])
    memory.write(RINGS, packed[: size * DESC_SIZE])
    memory.write(PAIR_TABLE, packed[size * DESC_SIZE : (size + _TABLE_ENTRIES) * DESC_SIZE])
    avail = RINGS + size * DESC_SIZE
    used = avail + 6 + 2 * size + 2 & ~3
    queue.clear()
    queue.configure(size, RINGS, avail, used)
    memory.write(avail, bytes(6 + 2 * size))
    memory.write(used, bytes(6 + 8 * size))
    queue.start(memory, event_idx=event_idx, indirect=indirect, last_avail=last)
    held: list[Element] = []
    for turn in range(rounds):
        head = heads[turn & 3] & 15
        ahead = 1 + (heads[turn & 3] >> 4 if turn == rounds - 1 else 0)
        memory.write(avail + 4 + 2 * (queue.last_avail % size), head.to_bytes(2, "little"))
        memory.write(avail + 2, (queue.last_avail + ahead & U16).to_bytes(2, "little"))
        before = queue.last_avail, queue.in_use
        expected: tuple[str, list[tuple[int, int]], list[tuple[int, int]]] = ("avail-overrun", [], [])
        if ahead <= size and head >= size:
            expected = ("bad-head", [], [])
        elif ahead <= size and len(held) < size:
            expected = _plain_pop(size, head, indirect=indirect)
        element, broken = None, ""
        try:
            element = queue.pop()
        except GuestFault as fault:
            broken = fault.rule
        assert broken == expected[0]
        if broken:
            assert broken in FATAL_RULES
            assert (queue.last_avail, queue.in_use) == before
            return
        assert element is not None
        assert element.head == head
        assert [(region.base + offset, length) for region, offset, length in element.out] == expected[1]
        assert [(region.base + offset, length) for region, offset, length in element.into] == expected[2]
        assert element.readable() == sum(length for _, length in expected[1])
        assert len(element.read(100)) == min(100, element.readable())
        held.append(element)
        if not data[3] >> 4 & 1 << (turn & 3):
            given = held.pop(0)
            queue.push(given, data[4])
            at = used + 4 + 8 * ((queue.used_idx - 1) % size)
            assert memory.read(at, 8) == given.head.to_bytes(4, "little") + data[4].to_bytes(4, "little")
        assert queue.in_use == len(held)
        assert _pair.peek16(used + 2) == queue.used_idx
        if event_idx:
            assert _pair.peek16(used + 4 + 8 * size) == queue.last_avail
        queue.wants_interrupt()
        queue.peek(data[4])


def ring_seeds() -> Iterator[bytes]:
    yield bytes([3, 0, 0, 4, 0, 1, 2, 3]) + bytes([0, 2, 0, 0, 0]) * 8
    yield bytes([15, 254, 255, 7, 0, 1, 0, 2]) + bytes([0, 2, 1, 1, 0, 8, 4, 3, 2, 0, 0, 3, 2, 0, 0]) * 3
    yield bytes([9, 0, 0, 1, 0, 0, 0, 0]) + bytes([0, 2, 1, 1, 0, 2, 7, 4, 0, 0, 0, 2, 1, 1, 0, 0, 2, 0, 0, 0])
    yield bytes([10, 1, 0, 1, 0, 0, 0, 0]) + bytes([2, 6, 4, 0, 0]) + bytes([0, 2, 1, 1, 0, 8, 4, 2, 2, 0]) * 6


# Statistics records.


def stats(data: bytes) -> None:
    """Read the bytes as a statistics buffer; what comes out is what a record by record reading says."""
    count, tags, numbers, unknown, faults = decode(data)
    known: dict[int, int] = {}
    odd: dict[int, int] = {}
    records = []
    for at in range(0, min(len(data), MAX_STAT_RECORDS * STAT_RECORD) - STAT_RECORD + 1, STAT_RECORD):
        tag = int.from_bytes(data[at : at + 2], "little")
        value = int.from_bytes(data[at + 2 : at + STAT_RECORD], "little")
        records.append((tag, value))
        (known if tag < STAT_COUNT else odd)[tag] = value
    assert count == len(records)
    assert dict(zip(tags, numbers, strict=True)) == {tag: value for tag, value in known.items() if value != ABSENT}
    assert unknown == {tag: value for tag, value in odd.items() if value != ABSENT}
    told = [rule for rule, _ in faults]
    whole = len(data) >= MAX_STAT_RECORDS * STAT_RECORD or len(data) == count * STAT_RECORD
    assert ("partial-record" in told) == (not whole)
    assert ("duplicate-tag" in told) == (len(known) + len(odd) != count)
    assert ("unknown-tag" in told) == bool(odd)
    assert len(told) == len(set(told))
    assert encode(records) == data[: count * STAT_RECORD]


def stats_seeds() -> Iterator[bytes]:
    yield encode([(tag, tag << 20) for tag in range(10)])
    yield encode([(4, 1), (4, 2), (5, ABSENT), (99, 1), (99, ABSENT)]) + b"abc"
    yield encode([(tag, 1) for tag in range(70)])


# vhost-user messages.


def vhost(data: bytes) -> None:
    """Cut the bytes into messages in two ways that a stream may come: the outcome is the same, and bounded."""
    if not data:
        return
    step, descriptors, stream = 1 + data[0] % 13, data[0] // 13 % 10, data[1:]
    whole = _messages(stream, len(stream), descriptors)
    assert whole == _messages(stream, step, descriptors)
    for number, _, size, trouble in whole:
        assert trouble or number in SHAPES
        assert size <= len(stream)


def _messages(stream: bytes, step: int, descriptors: int) -> list[tuple[int, bool, int, str]]:
    """Return (number, reply wanted, payload's size, what is wrong) of each message; a fault of the stream ends it."""
    decoder = Decoder()
    found = []
    at = 0
    while at < len(stream):
        assert 0 < decoder.wanted <= MAX_PAYLOAD
        piece = stream[at : at + min(step, decoder.wanted)]
        fds = [] if at else list(range(1000, 1000 + descriptors))
        at += len(piece)
        try:
            request = decoder.feed(piece, fds)
        except FrontEndFault as fault:
            found.append((-1, False, 0, str(fault)))
            break
        if request is None:
            continue
        assert len(request.fds) <= MAX_REGIONS
        try:
            check_shape(request)
            trouble = ""
        except FrontEndFault as fault:
            trouble = str(fault)
        found.append((request.number, request.need_reply, len(request.payload), trouble))
    return found


def vhost_seeds() -> Iterator[bytes]:
    yield b"\5" + b"".join(HEADER.pack(number, 1, shape.size) + bytes(shape.size) for number, shape in SHAPES.items())
    yield b"\1" + HEADER.pack(24, 9, 20) + bytes(20) + HEADER.pack(5, 1, 40) + bytes(40) + HEADER.pack(99, 1, 5000)
