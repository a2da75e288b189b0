"""Fuzz targets for QMP: the codec, and whole conversations."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from device.guest.hostile.driver import HostileDriver
from device.guest.model.guest import ModelledGuest
from device.machine.machine import Machine
from device.virtio.spec import MIB, PAGE_SIZE
from hmp.monitor.dialects import DIALECTS
from hmp.qjson.codec import Decoder, ParseFailure, encode
from hmp.qmp.commands import COMMANDS
from hmp.qmp.events import EventHub
from hmp.qmp.protocol import QmpSession
from tests.support.rig import Modelled

RAM = 4 * MIB
ABROAD = ("host", "uml", "vhost")
"""Guests outside of this process: what names one is not run."""


def sound(machine: Machine) -> None:
    """Fail unless nobody waits, and the device's and the guest's books agree."""
    device, guest = machine.device, machine.guest
    assert isinstance(guest, ModelledGuest)
    assert not [request for request in machine.requests.pending if request.deadline is not None]
    if device is None:
        assert guest.driver is None
        return
    assert 0 <= device.actual <= machine.ram
    driver = guest.driver
    if isinstance(driver, HostileDriver):
        return
    assert not device.broken
    pages = 0 if driver is None else driver.ballooned
    assert (device.actual, device.pages.count) == (machine.ram - PAGE_SIZE * pages, pages)
    for queue in device.queues:
        assert queue.in_use == (queue.enabled and queue.index == device.stats.index and device.stats.held is not None)


# The codec: cut anywhere, the outcome is the same.


def qmp(data: bytes) -> None:
    """Decode the bytes whole and in pieces; what could be read is written, and read again."""
    if not data:
        return
    step, stream = 1 + data[0] % 17, data[1:]
    decoder = Decoder()
    messages = decoder.feed(stream)
    in_pieces = Decoder()
    pieces: list[Any] = []
    for at in range(0, len(stream), step):
        pieces += in_pieces.feed(stream[at : at + step])
    assert (in_pieces.held, in_pieces.fault) == (decoder.held, decoder.fault)
    assert repr(pieces) == repr(messages)
    for message in messages:
        if isinstance(message, ParseFailure):
            message.desc.encode()
            continue
        line = encode({"return": message})
        if _plain(message):
            assert Decoder().feed(line) == [{"return": message}]
    if stream[:1] == b"{" and stream[-1:] == b"}" and stream.isascii():
        _as_the_library_reads_it(stream, messages)


def _as_the_library_reads_it(stream: bytes, messages: list[Any]) -> None:
    """Compare with the standard library where the bytes are one object to it; it knows no rule about double keys."""
    double = False

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal double
        double = double or len(dict(pairs)) != len(pairs)
        return dict(pairs)

    try:
        value = json.loads(stream, object_pairs_hook=members)
    except (ValueError, RecursionError):
        return
    if double:
        assert [type(message) for message in messages] == [ParseFailure]
    elif b"\\u" not in stream and b"0e" not in stream.lower() and b"n" not in stream.lower():
        assert len(messages) == 1
        assert messages[0] == value


def _plain(value: object) -> bool:
    """Return whether JSON has a word for all of `value`; it has none for infinity, which the decoder makes of 1e999."""
    if isinstance(value, dict):
        return all(_plain(item) for item in value.values())
    if isinstance(value, list):
        return all(_plain(item) for item in value)
    return not isinstance(value, float) or math.isfinite(value)


def qmp_seeds() -> Iterator[bytes]:
    for text in (
        '{"execute":"qmp_capabilities","id":[1,2.5e3,null,true]}',
        "{'execute':'query-balloon'} {\"a\":\"\\u00e9\\ud83d\\ude00\\n\"}",
        '{"a":[{},[[]],-0,1e400,18446744073709551616]}\xff}',
        "[1,,2] {]",
        '{"a":1,"b":{"c":2,"c":3}}',
    ):
        yield b"\5" + text.encode()


QMP_WORDS = (
    "true", "false", "null", "\\u", "\\ud83d", "\\ude00", "\\n", "\\'", "18446744073709551616", "-9223372036854775809",
    "1e400", "0e", "0.5", "{", "}", "[", "]", '":', '"a":', "'", "\udcc0\udc80", "\ufdd0", "\uffff", "\U0001ffff", "\0",
)  # fmt: skip

# Conversations: the bytes are a program that composes messages, so that commands run and not only their refusal.

_NAMES = tuple(COMMANDS)
_KEYS = tuple(dict.fromkeys(name for command in COMMANDS.values() for name, _, _ in command.parameters)) + (
    "deflate-on-oom", "x",
)  # fmt: skip
_VALUES: tuple[object, ...] = (
    "balloon0", "/machine/peripheral/balloon0", "/machine", "", "guest-stats", "guest-stats-polling-interval", "type",
    "virtio-balloon-pci", "info balloon", "sim hang", "sim wake", "sim sleep 1", "savevm a", "loadvm a", "sim panic",
    "sim guest slow", "sim guest hostile,seed=1", "sim driver unload", "sim guest linux", "balloon 3", "help", "é\ud83d",
    0, 1, -1, 4 << 20, 2**63 - 1, 2**64, 1.5, 1e300, True, None, [], ["oob"], {}, "on", "off", "deflate-on-oom", "b",
)  # fmt: skip


def _composed(data: bytes) -> Iterator[bytes]:
    """Yield the messages that the bytes say: a command, an id, arguments; or what stands there as it is."""
    at = 0
    while at < len(data):
        op = data[at]
        at += 1
        if op >= 240:
            size = op - 238
            yield data[at : at + size]
            at += size
            continue
        message: dict[str, object] = {"execute": _NAMES[op % len(_NAMES)]}
        count = data[at] & 3 if at < len(data) else 0
        if at < len(data) and data[at] & 4:
            message["id"] = _VALUES[data[at] >> 3]
        at += 1
        if count:
            message["arguments"] = arguments = {}
            for _ in range(count):
                pair = data[at : at + 2]
                if len(pair) == 2:
                    arguments[_KEYS[pair[0] % len(_KEYS)]] = _VALUES[pair[1] % len(_VALUES)]
                at += 2
        yield json.dumps(message).encode()


_machine: Machine | None = None
_hub: EventHub | None = None
_talks = 0


def session(data: bytes) -> None:
    """Hold a conversation: every message gets one reply, with its id; nothing else but events is sent."""
    global _machine, _hub, _talks
    if not data:
        return
    if _machine is None or _machine.over or _talks > 1000:
        if _machine is not None:
            _machine.close()
        made = Modelled("linux", ram=RAM)
        made.machine._listeners.clear()
        _machine, _talks = made.machine, 0
        _hub = EventHub(_machine)
    assert _hub is not None
    machine = _machine
    _talks += 1
    sent: list[bytes] = []
    dialect = DIALECTS[tuple(DIALECTS)[data[0] % len(DIALECTS)]]
    talk = QmpSession(machine, dialect, _hub, sent.append)
    reader = Decoder()
    due: list[object] = []
    messages = _composed(data[1:]) if data[0] < 128 else (data[at : at + 40] for at in range(1, len(data), 40))
    for message in (b'{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}', *messages):
        if any(word.encode() in message for word in ABROAD):
            continue
        due += reader.feed(message)
        talk.feed(message)
        while True:
            while talk.step():
                pass
            if not talk.suspended or machine.over:
                break
            assert machine.step(jump=True), "suspended for ever"
        if machine.over:
            break
    if not machine.over:
        machine.advance(10**9)
        sound(machine)
    talk.close()
    lines = b"".join(sent).split(b"\r\n")
    assert lines.pop() == b""
    replies = [line for line in lines if b'"event": ' not in line[:90] or b'"return"' in line[:9]]
    if not machine.over:
        assert len(replies) == len(due)
    for asked, line in zip(due, replies, strict=False):
        answer = json.loads(line.replace(b": inf", b": 0").replace(b" inf", b" 0"))
        assert ("return" in answer) != ("error" in answer)
        assert ("id" in answer) == (isinstance(asked, dict) and "id" in asked)


def session_seeds() -> Iterator[bytes]:
    yield bytes([0]) + bytes(byte for number in range(len(_NAMES)) for byte in (number, 4 | number << 3 & 0xF8))
    for name, command in COMMANDS.items():
        keys = [_KEYS.index(name) for name, _, _ in command.parameters][:3]
        for value in (0, 5, 22):
            pairs = bytes(byte for key in keys for byte in (key, value))
            yield bytes([1, _NAMES.index(name), len(keys)]) + pairs + bytes([2, 0, 3, 0])
    yield bytes([128]) + b'{"execute":"query-balloon","id":1}{"exec-oob":"stop"} [] {"execute":1} {"a'
