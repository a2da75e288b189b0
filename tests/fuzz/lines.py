"""Fuzz targets for the human monitor: lines that are run, and their grammar alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from device.balloon.spec import PROPERTIES, STATS_TABLE
from device.guest.table import PROFILES
from device.machine.machine import Machine
from device.virtio.spec import MIB
from hmp.monitor import BLANKS, SyntaxRefused, escape
from hmp.monitor.grammar import arguments, expression, string
from hmp.monitor.monitor import Monitor, find_command
from hmp.monitor.registry import COMMANDS, INFO, SIM
from tests.fuzz.clients import ABROAD, RAM, sound
from tests.support.machines import monitor
from tests.support.rig import Modelled

CODEC = ("utf-8", "surrogateescape")

WORDS = (
    *(name for command in COMMANDS for name in command.name.split("|")),
    *(f"info {topic.name}" for topic in INFO),
    *(f"sim {topic.name} " for topic in SIM),
    *(name for name in PROFILES if not any(word in name for word in ABROAD)),
    *(stat.name for stat in STATS_TABLE[:8]),
    *PROPERTIES,
    "balloon0", "virtio-balloon-pci", ",id=", "=on", "=off", "/machine", "/machine/peripheral/balloon0", "guest-stats",
    "guest-stats-polling-interval", "virtio-balloon-pci-transitional", ",iothread=io1", "none", "load", "unload", "seed=3", "rule=bad-ring", "\n", " ", '"', "-j ", "0x",
)  # fmt: skip
"""What a byte from 128 up stands for in `hmp`, so that a line that means something is short."""


# The monitor: lines that are run.

_ASKING = re.compile(r"[ \t]*info[ \t]+balloon[ \t]*")
_STATS_LINE = re.compile(r"balloon: actual=\d+(,[a-z_]+=\d+)*\n|Error: .*\n")

_monitor: Monitor | None = None
_lines = 0


def hmp(data: bytes) -> None:
    """Execute the bytes as monitor lines: no exception, no wait for ever, a text that a terminal survives."""
    global _monitor, _lines
    if _monitor is None or _lines > 3000 or _monitor.machine.over:
        if _monitor is not None:
            _monitor.machine.close()
        _monitor, _lines = monitor(idle_machine()), 0
    machine = _monitor.machine
    for line in _text(data).split("\n")[:20]:
        if any(word in line for word in ABROAD):
            continue
        _lines += 1
        reply = _monitor.execute(line)
        for _ in range(20_000):
            if not reply.pending or machine.over:
                break
            assert machine.step(jump=True)
        assert not reply.pending or machine.over
        escape(reply.text).encode()
        if machine.over:
            break
        if _ASKING.fullmatch(line):
            assert _STATS_LINE.fullmatch(reply.text)
    if not machine.over:
        sound(machine)
    for tag in machine.snapshot_tags()[3:]:
        machine.store.delete(tag)  # type: ignore[union-attr]


def _text(data: bytes) -> str:
    """Return text in which bytes from 128 up are words; behind a NUL a byte stands for itself."""
    parts = []
    data_ = iter(data)
    for byte in data_:
        if byte >= 128:
            parts.append(WORDS[(byte - 128) % len(WORDS)])
        elif byte == 0:
            parts.append(bytes([next(data_, 0)]).decode(*CODEC))
        else:
            parts.append(chr(byte))
    return "".join(parts)


def idle_machine() -> Machine:
    made = Modelled("linux", ram=RAM)
    made.events = None  # type: ignore[assignment]
    made.machine._listeners.clear()
    return made.machine


def hmp_seeds() -> Iterator[bytes]:
    yield b"\n".join(command.name.encode() for command in COMMANDS)
    yield b"\n".join(b"info " + topic.name.encode() for topic in INFO)
    yield b"balloon (64*'a'+0x10)%3-~1\ninfo balloon\nsim set free_mem 5G\nsim hang\ninfo balloon\nsim wake"
    yield b"savevm a\nsim guest hostile,seed=3\nsim sleep 5\nloadvm a\ninfo snapshots\ndelvm a"
    yield b"device_del balloon0\ndevice_add virtio-balloon-pci,id=b,deflate-on-oom=on\nsim driver unload\nsim alloc 1M"
    yield b"info virtio-queue-element /machine/peripheral/balloon0/virtio-backend 2 1\nqom-list /machine"
    yield b'qom-set /machine/peripheral/balloon0 guest-stats-polling-interval 2\nhelp "x\\n'
    for number in range(0, len(WORDS), 8):
        yield b"\n".join(bytes([128 + at]) + b"1" for at in range(number, min(number + 8, len(WORDS), 128)))


# The grammar alone, against a reader of expressions that calls itself as the grammar is written.

_WRAP = 1 << 64
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*")
_LEVELS = ("+-", "&|^", "*/%")


class _Plain:
    """Reads an expression by recursion. Raises SyntaxRefused with the words expected."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.blanks()

    def blanks(self) -> None:
        self.at += len(self.text[self.at :]) - len(self.text[self.at :].lstrip(BLANKS))

    def next(self) -> str:
        return self.text[self.at : self.at + 1]

    def step(self, count: int = 1) -> None:
        self.at += count
        self.blanks()

    def level(self, number: int = 0) -> int:
        if number == len(_LEVELS):
            return self.unary()
        left = self.level(number + 1)
        while (sign := self.next()) and sign in _LEVELS[number]:
            self.step()
            left = _wrapped(self.applied(sign, left, self.level(number + 1)))
        return left

    def applied(self, sign: str, a: int, b: int) -> int:
        if sign in "/%":
            if not b:
                raise SyntaxRefused("division by zero")
            quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
            return quotient if sign == "/" else a - b * quotient
        return {"+": a + b, "-": a - b, "&": a & b, "|": a | b, "^": a ^ b, "*": a * b}[sign]

    def unary(self) -> int:
        sign = self.next()
        if sign and sign in "+-~":
            self.step()
            value = self.unary()
            return _wrapped({"+": value, "-": -value, "~": ~value}[sign])
        if sign == "(":
            self.step()
            value = self.level()
            if self.next() != ")":
                raise SyntaxRefused("')' expected")
            self.step()
            return value
        return self.atom()

    def atom(self) -> int:
        char = self.next()
        if not char:
            raise SyntaxRefused("unexpected end of expression")
        if char == "$":
            raise SyntaxRefused("unknown register")
        if char == "'":
            constant = self.text[self.at + 1 : self.at + 2]
            if not constant:
                raise SyntaxRefused("character constant expected")
            code = ord(constant) - (0xDC00 if 0xDC80 <= ord(constant) <= 0xDCFF else 0)
            if code > 255 or self.text[self.at + 2 : self.at + 3] != "'":
                raise SyntaxRefused("missing terminating ' character")
            self.step(3)
            return code - (256 if code > 127 else 0)
        found = _NUMBER.match(self.text, self.at)
        if found is None:
            raise SyntaxRefused(f"invalid char '{char}' in expression")
        word = found[0]
        value = int(word, 16) if word[:2] in ("0x", "0X") else int(word, 8 if word[0] == "0" else 10)
        if value >= _WRAP:
            raise SyntaxRefused("number too large")
        self.step(len(word))
        return _wrapped(value)


def _wrapped(value: int) -> int:
    value %= _WRAP
    return value - _WRAP if value >= _WRAP // 2 else value


def _outcome(read: Callable[[str], Any], text: str) -> Any:
    """Return what `read` makes of the text, or the words with which it refuses."""
    try:
        return read(text)
    except SyntaxRefused as error:
        return str(error)


def _by_recursion(text: str) -> tuple[int, int]:
    reader = _Plain(text)
    return reader.level(), reader.at


_ALL = (*COMMANDS, *INFO, *SIM)


def grammar(data: bytes) -> None:
    """Read the bytes as an expression, a string, a command's name and its arguments, without running anything."""
    if not data:
        return
    text = data[1:].decode(*CODEC)
    if len(text) <= 200:
        assert _outcome(expression, text) == _outcome(_by_recursion, text)
    found = _outcome(lambda typed: string(typed, 0), text)
    if isinstance(found, tuple):
        assert len(found[0]) <= len(text)
        assert 0 < found[1] <= len(text)
    command = _ALL[data[0] % len(_ALL)]
    read = _outcome(lambda typed: arguments(command.parameters, command.name, typed, 0), text)
    if isinstance(read, dict):
        kinds = {name: kind for name, kind, _ in command.parameters}
        needed = {name for name, _, optional in command.parameters if not optional}
        assert needed <= read.keys() <= kinds.keys()
        for name, value in read.items():
            kind = kinds[name]
            if kind == "i":
                assert isinstance(value, int)
                assert 0 <= value < 1 << 32
            elif kind in "lMZT":
                assert isinstance(value, int)
                assert kind == "l" or (kind == "M" and not value % MIB) or (kind in "ZT" and value >= 0)
            elif kind[0] == "-":
                assert isinstance(value, bool)
            else:
                assert isinstance(value, str)
    named = _outcome(find_command, text)
    if isinstance(named, str):
        assert named.startswith("unknown command: '")
    else:
        assert named[0] is None or 0 < named[1] <= len(text)


def grammar_seeds() -> Iterator[bytes]:
    yield b"\0(64*'a'+0x10)%3-~1 / 7 | 077 ^ 1 & 3"
    yield b"\1 18446744073709551615 + 9223372036854775808"
    yield b'\2"a\\n\\"b" c'
    for number, command in enumerate(_ALL):
        yield bytes([number]) + b"-j a 1 2M 'b'"
        yield bytes([number]) + command.name.encode() + b" 0x10 +1"
