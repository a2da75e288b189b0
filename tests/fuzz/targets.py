"""What is fuzzed. A target is a function of bytes; it may raise nothing. `seeds` makes the corpus it starts from."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Iterator

from device.balloon import BalloonDevice
from device.errors import RULES
from device.machine import Machine
from device.plain import SnapshotError
from device.snapshot import load
from device.spec import (
    CONFIG_ACTUAL,
    F_EVENT_IDX,
    F_INDIRECT_DESC,
    MAX_QUEUE_SIZE,
    MIB,
    PAGE_SIZE,
    STATUS_DRIVER_OK,
    bit,
)
from hmp.escape import escape
from hmp.monitor import Monitor
from hmp.qmp.codec import Decoder, ParseFailure, encode
from tests.support.machines import monitor
from tests.support.rig import BUFFERS, FEATURES, READY, RINGS, Modelled, Rig
from tests.support.snapshots import members, replaced, saved, signed

RAM = 4 * MIB


# Guest memory and rings: the bytes are a program for a driver that does what no driver should.


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
            machine.time.advance(value & 0xFFF_FFFF)
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
        elif op < 240:
            queue.take()
        else:
            device.write_config(CONFIG_ACTUAL, data[at : at + 4])

    for at in range(2, min(len(data) - 5, 400), 5):
        step(at)
    rig.guest.on_interrupt = None
    assert device.refused.keys() <= RULES.keys()
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


def _ring_seeds() -> Iterator[bytes]:
    yield bytes([0, 7, 0, 0, 0x10, 0, 0, 96, 0, 0, 0, 0, 200, 255, 255, 255, 255])
    yield bytes([0x1E, 3, 32, 2, 0x20, 0, 0, 128, 4, 0, 0, 0, 97, 2, 0, 0, 0, 192, 0, 0, 16, 0])
    yield bytes(range(2, 250))


# The QMP codec: cut anywhere, the outcome is the same.


def qmp(data: bytes) -> None:
    """Decode the bytes whole and in pieces; what could be read is written again."""
    if not data:
        return
    step, stream = 1 + data[0] % 17, data[1:]
    decoder = Decoder()
    whole = [_line(message) for message in decoder.feed(stream)]
    pieces = []
    in_pieces = Decoder()
    for at in range(0, len(stream), step):
        pieces += [_line(message) for message in in_pieces.feed(stream[at : at + step])]
    assert pieces == whole
    assert (in_pieces.held, in_pieces.fault) == (decoder.held, decoder.fault)


def _line(message: object) -> bytes:
    return message.desc.encode() if isinstance(message, ParseFailure) else encode({"return": message})


def _qmp_seeds() -> Iterator[bytes]:
    for text in (
        '{"execute":"qmp_capabilities","id":[1,2.5e3,null,true]}',
        "{'execute':'query-balloon'} {\"a\":\"\\u00e9\\ud83d\\ude00\\n\"}",
        '{"a":[{},[[]],-0,1e400,18446744073709551616]}\xff}',
        "[1,,2] {]",
    ):
        yield b"\5" + text.encode()


# The monitor's grammar.

_monitor: Monitor | None = None
_lines = 0


def hmp(data: bytes) -> None:
    """Execute the bytes as monitor lines: no exception, a text that a terminal survives."""
    global _monitor, _lines
    if _monitor is None or _lines > 3000 or _monitor.machine.over:
        if _monitor is not None:
            _monitor.machine.close()
        _monitor, _lines = monitor(_machine()), 0
    machine = _monitor.machine
    for line in data.decode("utf-8", "surrogateescape").split("\n")[:20]:
        if "host" in line or "uml" in line or "vhost" in line:  # guests outside of this process
            continue
        _lines += 1
        reply = _monitor.execute(line)
        for _ in range(20_000):
            if not reply.pending or machine.over:
                break
            assert machine.time.warp()
        assert not reply.pending or machine.over
        escape(reply.text).encode()
        if machine.over:
            break
    for tag in machine.snapshot_tags()[3:]:
        machine.store.delete(tag)  # type: ignore[union-attr]


def _machine() -> Machine:
    made = Modelled("linux", ram=RAM)
    made.events = None  # type: ignore[assignment]
    made.machine._listeners.clear()
    return made.machine


def _hmp_seeds() -> Iterator[bytes]:
    from hmp.registry import COMMANDS, INFO

    yield b"\n".join(command.name.encode() for command in COMMANDS)
    yield b"\n".join(b"info " + topic.name.encode() for topic in INFO)
    yield b"balloon (64*'a'+0x10)%3-~1\ninfo balloon\nsim set free_mem 5G\nsim hang\ninfo balloon\nsim wake"
    yield b"savevm a\nsim guest hostile,seed=3\nsim sleep 5\nloadvm a\ninfo snapshots\ndelvm a"
    yield b"device_del balloon0\ndevice_add virtio-balloon-pci,id=b,deflate-on-oom=on\nsim driver unload\nsim alloc 1M"
    yield b"info virtio-queue-element /machine/peripheral/balloon0/virtio-backend 2 1\nqom-list /machine"
    yield b'qom-set /machine/peripheral/balloon0 guest-stats-polling-interval 2\nhelp "x\\n'


# The snapshot loader, with the checksum made right.

_bases: list[bytes] = []
_victim: Modelled | None = None
_loads = 0


def _snapshots() -> list[bytes]:
    if not _bases:
        for spec in ("linux", "slow", "hostile,seed=3"):
            with Modelled(spec, ram=RAM) as m:
                m.machine.set_balloon(3 * MIB)
                m.ask()
                m.advance(0.7)
                _bases.append(saved(m.machine))
    return _bases


def snapshot(data: bytes) -> None:
    """Load the bytes as a snapshot whose checksum fits; an accepted one makes a machine that works."""
    global _victim, _loads
    _loads += 1
    if _victim is None or _loads % 2000 == 0:
        if _victim is not None:
            _victim.machine.close()
        _victim = Modelled("linux", ram=RAM)
    m = _victim
    try:
        load(m.machine, io.BytesIO(signed(data)))
        words = ""
    except SnapshotError as error:
        words = str(error)
    assert words.isprintable()
    if words:
        return
    if m.machine.over:
        _victim = None
        return
    there = monitor(m.machine)
    for line in ("cont", "info balloon", "balloon 3", "sim sleep 1", "info balloon", "system_reset", "sim"):
        reply = there.execute(line)
        for _ in range(20_000):
            if not reply.pending or m.machine.over:
                break
            m.machine.time.warp()
        assert not reply.pending or m.machine.over
    saved(m.machine)
    if m.machine.over:
        _victim = None


def _snapshot_seeds() -> Iterator[bytes]:
    for base in _snapshots():
        yield base[:-32]
        length = int.from_bytes(base[12:16], "little")
        yield base[: 16 + length] + bytes(16)  # without memory: small, so that the state is what gets mutated
        json.loads(base[16 : 16 + length])


def respell_state(data: bytes, limit: int, seed: int) -> bytes:
    """Mutate a snapshot by its meaning: put another value in one place of its state. Anything else stays."""
    dice = random.Random(seed)
    length = int.from_bytes(data[12:16], "little")
    try:
        state = json.loads(data[16 : 16 + length])
        path, old = dice.choice(list(members(state)))
    except (ValueError, IndexError, RecursionError):
        return data
    values = (None, True, False, 0, -1, 1 << dice.randrange(66), "", "x", [], {}, dice.randrange(1 << 16))
    value = dice.choice(values)
    if type(old) is int and dice.random() < 0.7:
        value = dice.choice(
            (old + 1, old - 1, old ^ 1 << dice.randrange(64), dice.randrange(1 << dice.randrange(1, 64)))
        )
    packed = json.dumps(replaced(state, path, value), separators=(",", ":")).encode()
    made = data[:12] + len(packed).to_bytes(4, "little") + packed + data[16 + length :]
    return made if len(made) <= limit else data


TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], Iterator[bytes]], int]] = {
    "rings": (rings, _ring_seeds, 250),
    "qmp": (qmp, _qmp_seeds, 256),
    "hmp": (hmp, _hmp_seeds, 600),
    "snapshot": (snapshot, _snapshot_seeds, 8 * PAGE_SIZE),
}
"""Name: the function, its seeds, and the longest input worth trying."""
