"""Fuzz targets for what else people type: options' values, keys on a socket, scripts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from device.clock import SimulatedClock
from device.errors import MisuseError
from device.guest.keys import KEYS
from device.guest.table import PROFILES, make_guest
from device.machine.machine import Machine
from device.units import format_seconds, format_size, parse_seconds, parse_share, parse_size
from hmp.addresses import Address
from hmp.monitor import MAX_LINE, UsageError
from hmp.monitor.commands.machine import DRIVERS
from hmp.monitor.completion import complete
from hmp.monitor.monitor import History
from hmp.monitor.qom import OPTIONS, qom_list
from hmp.options import _device
from hmp.recording.script import HIDE, SHOW, read_steps
from hmp.sockets.readline import LINE_LIMIT, PROMPT, Line, LineEditor
from hmp.sockets.telnet import TelnetFilter
from hmp.streams import Source
from tests.fuzz.clients import ABROAD
from tests.fuzz.lines import CODEC, WORDS, idle_machine

# Other small languages: sizes, durations, shares, guests, addresses, devices.


def words(data: bytes) -> None:
    """Read the bytes as whatever people write on command lines: a value or one clear line."""
    if not data:
        return
    text = data[1:].decode(*CODEC)
    kind = data[0] % 7
    refusal = "none"
    try:
        if kind == 0:
            size = parse_size(text)
            assert size >= 0
            assert not size or abs(parse_size(format_size(size)) - size) * 20 <= size
        elif kind == 1:
            assert parse_seconds(format_seconds(parse_seconds(text))) == parse_seconds(text)
        elif kind == 2:
            assert 0 <= parse_share(text) <= 1_000_000
        elif kind == 3:
            if not any(word in text for word in ABROAD):
                guest = make_guest(text)
                assert make_guest(guest.spec).spec == guest.spec
        elif kind == 6:
            _, id, options = _device(text)
            machine = Machine(
                SimulatedClock(), ram=4 << 20, guest=make_guest("nodriver"), device_id=id, switches=options
            )
            assert qom_list(machine, machine.device_path or "")
            machine.close()
        else:
            address = Address("monitor" if kind == 4 else "qmp", text)
            assert 0 <= address.port < 65536
            assert isinstance(address.loopback, bool)
    except (MisuseError, UsageError) as error:
        refusal = str(error)
    assert refusal


def words_seeds() -> Iterator[bytes]:
    for text in ("1.5G", "64", "3B", ".5K"):
        yield b"\0" + text.encode()
    yield b"\x010.000000001"
    yield b"\x020.3"
    for name in PROFILES:
        yield b"\3" + name.encode() + b",delay=2,loss=0.5,stats=free_mem+4"
    yield b"\4unix:/tmp/a,,b,server=on,wait=off"
    yield b"\5tcp:[::1]:44,server,nowait,dialect=pve"
    yield b"\4telnet:127.0.0.1:0"
    yield b"\6virtio-balloon,id=b,guest-stats-polling-interval=3,iothread=io1"
    yield b"""\6{"driver":"virtio-balloon-pci","id":"b","deflate-on-oom":true,"guest-stats-polling-interval":5}"""


WORDS_WORDS = (
    *DRIVERS,
    *OPTIONS,
    "{",
    '"driver":"',
    "true",
    *KEYS,
    *PROFILES,
    "unix:",
    "tcp:",
    "telnet:",
    "server",
    "wait",
    "nowait",
    "dialect=",
    "127.0.0.1",
    ",,",
)


# Keys: what is echoed, drawn on a terminal, shows the line that the editor holds.

_helper: Machine | None = None


def _offer(line: bytes) -> tuple[bytes, Iterable[bytes]]:
    global _helper
    if _helper is None:
        _helper = idle_machine()
    text = line.decode(*CODEC)
    candidates = complete(_helper, text)
    assert len({candidate.start for candidate in candidates}) <= 1
    word = text[candidates[0].start :] if candidates else ""
    return word.encode(*CODEC), [candidate.text.encode(*CODEC) for candidate in candidates]


_MOVES = re.compile(rb"\x1b\[([CDK]|2J|1;1H)|\r\n|[^\x1b\r\n]+")


class _Row:
    """The row of the cursor on a terminal that is wide enough."""

    def __init__(self) -> None:
        self.cells = b""
        self.at = 0

    def draw(self, output: bytes) -> None:
        end = 0
        for found in _MOVES.finditer(output):
            assert found.start() == end
            end = found.end()
            code, text = found[1], found[0]
            if code == b"C":
                self.at += 1
            elif code == b"D":
                self.at = max(0, self.at - 1)
            elif code == b"K":
                self.cells = self.cells[: self.at]
            elif code is not None or text == b"\r\n":
                self.cells, self.at = b"", 0
            else:
                self.cells = self.cells[: self.at] + text + self.cells[self.at + len(text) :]
                self.at += len(text)
        assert end == len(output)


def _played(keys: bytes, step: int, *, telnet: bool) -> tuple[bytes, list[bytes], LineEditor]:
    through = TelnetFilter()
    editor = LineEditor(PROMPT, History(), _offer)
    out, lines = [editor.show_prompt()], []
    for at in range(0, len(keys), step):
        piece = keys[at : at + step]
        editor.feed(through.feed(piece) if telnet else piece)
        while (event := editor.next_event()) is not None:
            if isinstance(event, Line):
                lines.append(bytes(event))
                out.append(editor.show_prompt())
            else:
                out.append(bytes(event))
    return b"".join(out), lines, editor


def editor(data: bytes) -> None:
    """Type the bytes at once and in pieces: the same comes out, and the terminal shows what is there."""
    if len(data) < 2:
        return
    telnet, keys = bool(data[0] & 1), data[1:]
    out, lines, at_once = _played(keys, len(keys), telnet=telnet)
    assert (out, lines) == _played(keys, 1 + (data[0] >> 1) % 11, telnet=telnet)[:2]
    assert all(len(line) <= LINE_LIMIT for line in lines)
    row = _Row()
    row.draw(out)
    assert row.cells == PROMPT + at_once._line
    assert row.at == len(PROMPT) + at_once._cursor


def editor_seeds() -> Iterator[bytes]:
    yield b"\2info b\t\rbal\t\x01\x1b[C\x04\x17\x1b[A\x1b[B\x0c\x7f\x05x\r"
    yield b"\3\xff\xfd\x01\xff\xfb\x03\xff\xfa\x1f\0\xff\xff\xff\xf0stop\r\0\xff\xffa\r\n"
    yield b"\4qom-set /mach\t\tguest\t\x1bOH\x1bOF\x1b[3~\x1b[1~\x1b[4~\x1b[1;5C\x9bD"


EDITOR_WORDS = (
    "\x1b[A",
    "\x1b[B",
    "\x1b[C",
    "\x1b[D",
    "\x1b[3~",
    "\x1b[1~",
    "\x1b[4~",
    "\x1bOH",
    "\x1bOF",
    "\r\n",
    *WORDS,
)


# Scripts: cut into lines anywhere, and read for a recording.


def script(data: bytes) -> None:
    """Cut the bytes into lines in two ways, and read them as a script: the same lines, or one clear refusal."""
    if not data or data[1:] == b"\xef\xbb\xbf":
        return
    text = data[1:].replace(b"\xfe", b"x" * 9000)  # two of them are more than a line may have
    step = 1 + data[0] % 23 if len(text) < 1000 else 1000 * (1 + data[0] % 23)
    whole, pieces = Source("s", 0), Source("s", 0)
    lines = whole.feed(text) + whole.close()
    cut: list[str | None] = []
    for at in range(0, len(text), step):
        cut += pieces.feed(text[at : at + step])
    assert cut + pieces.close() == lines
    plain = text.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if not plain[-1]:
        plain.pop()
    assert len(lines) == len(plain)
    for line, there in zip(lines, plain, strict=True):
        decoded = there.decode(*CODEC).removesuffix("\r")
        assert line == (decoded if len(decoded) <= MAX_LINE else None)
    refusal = ""
    steps = []
    try:
        steps = read_steps([("s", [line for line in lines if line is not None])])
    except UsageError as error:
        refusal = str(error)
    assert refusal.replace("\t", " ").isprintable()
    if refusal:
        return
    left = [line for line in lines if line is not None and line.lstrip()[:1] not in ("", "#")]
    assert [step_.line for step_ in steps if not step_.direction] == left
    depth = 0
    for step_ in steps:
        depth += {HIDE: 1, SHOW: -1}.get(step_.direction, 0)
        assert depth in (0, 1)


def script_seeds() -> Iterator[bytes]:
    yield b"\3#! chapter One\ninfo balloon\r\n#! hide\nsim sleep 3\n#! show\n#! pause 1.5\nquit"
    yield b"\1#!/usr/bin/env hmp\n#! pause 9999\n\n\r\n"
    yield b"\1#! hide\n#! hide\n"
    yield b"\1a\n\xfe\xfeb\r\nc\n\xfe\n\xfe\xfe"


SCRIPT_WORDS = ("#! ", "#!", "chapter ", "hide", "show", "pause ", "\n", "\r\n", "/")
