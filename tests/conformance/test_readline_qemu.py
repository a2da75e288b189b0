"""The same keys to a live QEMU monitor and to our line editor: the echoed bytes must be equal.

Each test starts a QEMU of its own, because a monitor keeps its history, and the place in it, over reconnects.
What commands print is skipped: this is about the editor.
"""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from hmp.monitor.monitor import History
from hmp.sockets.readline import PROMPT, Line, LineEditor
from hmp.sockets.telnet import OPENING, TelnetFilter
from tests.support.timing import PATIENCE

QEMU = shutil.which("qemu-system-x86_64")
pytestmark = [
    pytest.mark.external,
    pytest.mark.skipif(QEMU is None, reason="needs qemu-system-x86_64 on PATH to compare with"),
]

TIMEOUT = PATIENCE  # seconds without a byte; only reached when QEMU sends less than we do

UP, DOWN, RIGHT, LEFT, DELETE, HOME, END = (b"\x1b[" + key for key in (b"A", b"B", b"C", b"D", b"3~", b"1~", b"4~"))

# Typed after every sequence. Two bytes end any escape sequence; entering a line forgets the place in the history.
SYNC = b"zz.sync\r"

KEYS: dict[str, bytes] = {
    "typing": b"wyz wyz",
    "enter with CR": b"wy\r",
    "enter with LF": b"wy\n",
    "CR LF enters twice": b"wy\r\nzz\r\n",
    "LF CR enters twice": b"wy\n\rzz",
    "lines in one packet": b"wa\nyb\rzc\n",
    "empty lines": b"\r\r\n\n",
    "blank line": b"   \r",
    "left and insert": b"wyz" + LEFT * 2 + b"WW",
    "left beyond the start": b"wy" + LEFT * 5 + b"z",
    "right beyond the end": b"wy" + LEFT * 2 + RIGHT * 5 + b"z",
    "home and end by control": b"wyz\x01W\x05Z",
    "home and end twice": b"wyz\x01\x01W\x05\x05Z",
    "home and end by CSI": b"wyz" + HOME + b"W" + END + b"Z",
    "home and end by SS3": b"wyz\x1bOHW\x1bOFZ",
    "home and end by letter": b"wyz\r\x1b[Hw\x1b[Fz",
    "seven and eight are not home and end": b"wyz\x1b[7~W\x1b[8~Z",
    "arrows by SS3": b"wyz\x1bOD\x1bOC\x1bOA\x1bOB",
    "backspace": b"wyz\x7f\x08\x08\x08\x08",
    "backspace in the middle": b"wyz" + LEFT + b"\x7f\x7f\x7f",
    "delete": b"wyz\x01\x04\x04\x04\x04",
    "delete at the end": b"wyz\x04" + DELETE,
    "delete by CSI": b"wyz" + LEFT * 2 + DELETE * 3,
    "delete word": b"wy yz zw\x17\x17\x17\x17",
    "delete word over blanks": b"wy  yz   \x17\x17",
    "delete word in the middle": b"wy yz zw" + LEFT + b"\x17\x17\x17",
    "delete word after one leading blank": b" wy\x17",
    "delete word after two leading blanks": b"  wy\x17",
    "delete only blanks": b"    \x17",
    "delete word at the start": b"wy\x01\x17",
    "delete word over high bytes": b"wy \xa0\x85\xe9 \x17\x17",
    "clear screen": b"\x0cwyz\x0c" + LEFT + b"\x0c\x01\x0cW",
    "control bytes do nothing": b"wy" + bytes({*range(0x20)} - {*b"\x01\x04\x05\x08\t\n\x0c\r\x17\x1b"}) + b"z",
    "high bytes": bytes(byte for byte in range(0x80, 0x100) if byte != 0x9B),
    "CSI in one byte": b"wy\x9bDz\x9b3~",
    "UTF-8 with a CSI byte in it": "wy\u00dbDz".encode(),
    "unknown escapes": b"w\x1bqy\x1b[Zz\x1bOQw\x1b\x1b[D",
    "modified arrow": b"wyz\x1b[1;5Dy",
    "escape inside an escape": b"wyz\x1b[\x1b[Dy\x1bO\x1bOHw",
    "enter inside an escape": b"wyz\x1b\ry\x1b[\nz\x1bO\rw",
    "control inside an escape": b"wyz\x1b\x01y\x1b[\x01z\x1bO\x01w\x1b[1\x7f",
    "numbers wrap at 2**32": b"wyz\x1b[4294967297~W\x1b[4294967300~Z\x1b[99999999999999999999~",
    "number with leading zeros": b"wyz\x1b[0001~W\x1b[~\x1b[0~Z",
    "number before a letter": b"wyz\x1b[3Dy\x1b[2Cz",
    "history up and down": b"wa\ryb\rzc\r" + UP * 5 + DOWN * 5,
    "history by other letters": b"wa\ryb\r\x1b[F\x1b[F\x1b[E\x1b[E",
    "history empty": UP + DOWN + b"wy" + UP + DOWN,
    "history drops a half line": b"wa\rhalf" + UP + DOWN,
    "history edit and enter": b"wa\ryb\r" + UP * 2 + b"z\r" + UP * 3,
    "history enter again": b"wa\ryb\rzc\r" + UP * 3 + b"\r" + UP * 3,
    "history repeated line": b"wa\ryb\rwa\r" + UP * 4,
    "history place survives an empty line": b"wa\ryb\rzc\r" + UP * 2 + b"\x17\r" + UP + DOWN * 2,
    "history same text is not drawn again": b"wa\ryb\ryb" + UP + LEFT + UP * 2,
    "history keeps blank lines": b"  \rwa\r" + UP * 2,
    "history of 64": b"".join(b"w%d\r" % i for i in range(70)) + UP * 70 + DOWN * 70,
    "history of 64 with repeats": b"".join(b"w%d\r" % (i * 7 % 67) for i in range(150)) + UP * 66 + DOWN * 3,
    "history of 64, its last line again": b"".join(b"w%d\r" % i for i in range(64))
    + UP
    + b"\r"
    + UP * 2
    + b"\rwy\r"
    + UP,
    "tab completes": b"ballo\t",
    "tab completes an alias": b"con\t12\r",
    "tab lists": b"s\t",
    "tab inserts the common prefix": b"sn\t\t",
    "tab on nothing": b"\t",
    "tab on blanks": b"  \t",
    "tab on something unknown": b"wyz\t",
    "tab in the middle": b"sn rest" + LEFT * 5 + b"\t",
    "tab in the middle completes": b"ballo rest" + LEFT * 5 + b"\t",
    "tab inside a word": b"ballast" + LEFT * 3 + b"\t\t",
    "tab on info topics": b"info b\t\x7f\t",
    "tab after info": b"info\t\t",
    "tab on help": b"help ballo\t\x17\x17? inf\tba\t",
    "tab on help of help": b"help help b\t",
    "tab on no argument": b"balloon \tinfo balloon \t",
    "tab on device ids": b"device_del \t\t",
    "tab with an escape before": b"s\x1b\t\x1b[\t\t",
    "tab then edit": b"sn\t\x7f\x01W\x05\r",
}

ALPHABET = [b"w", b"y", b"z", b" ", b"  ", b"\xe9", b"\x9b", b"\x1b", b"\x1b[", b"\x1bO", b"3", b"~", b"\x00", b"\x03"]
ALPHABET += [b"\x01", b"\x05", b"\x04", b"\x7f", b"\x17", b"\x0c", b"\t", b"\r", b"\n", b"wzy", b" zw "] * 2
ALPHABET += [UP, DOWN, LEFT, RIGHT, HOME, END, DELETE, b"\x1bOH", b"\x1bOF"] * 3


class Twins:
    """One client of QEMU beside one of our editors."""

    def __init__(self, link: socket.socket, *, telnet: bool) -> None:
        self.link = link
        self.unread = b""
        self.filter = TelnetFilter() if telnet else None
        self.history = History()
        self.editor = LineEditor(PROMPT, self.history, self.complete)
        self.commands: list[bytes] = []
        self.topics: list[bytes] = []
        self.opening = self.reply()
        self.editor.show_prompt()

    def expect(self, size: int) -> None:
        while len(self.unread) < size:
            try:
                chunk = self.link.recv(1 << 20)
            except TimeoutError:
                return
            if not chunk:
                return
            self.unread += chunk

    def reply(self) -> bytes:
        """What a command prints, and the prompt, which must come."""
        while PROMPT not in self.unread:
            before = len(self.unread)
            self.expect(before + 1)
            assert len(self.unread) > before, f"no prompt after {self.unread!r}"
        text, _, self.unread = self.unread.partition(PROMPT)
        return text

    def learn(self) -> None:
        """Fill the table that our completion uses from QEMU's own lists."""
        for line, before, names in ((b"help", b"", self.commands), (b"info", b"info ", self.topics)):
            for row in self.enter(line).split(b"\r\n"):
                head = row.removeprefix(before).split(b" ")[0]
                if head[:1].isalpha():  # the others go on where a long row broke off
                    names += head.split(b"|")

    def enter(self, line: bytes) -> bytes:
        self.compare(line)
        self.link.sendall(b"\r")
        self.editor.feed(b"\r")
        self.editor.next_event()
        self.editor.next_event()
        self.editor.show_prompt()
        self.expect(2)
        self.unread = self.unread[2:]
        return self.reply()

    def complete(self, head: bytes) -> tuple[bytes, Iterable[bytes]]:
        words = head.split()
        if not words or head.endswith(b" "):
            words.append(b"")
        word = words[-1]
        while len(words) > 1 and words[0] in (b"help", b"?"):
            del words[0]
        table: dict[bytes, list[bytes]] = {b"info": self.topics, b"device_del": [b"balloon0"]}
        names = self.commands if len(words) == 1 else table.get(words[0], []) if len(words) == 2 else []
        return word, [name for name in names if name.startswith(word)]

    def compare(self, keys: bytes) -> None:
        self.link.sendall(keys)
        typed = self.filter.feed(keys) if self.filter else keys
        while typed:
            piece, typed = typed[: self.editor.room], typed[self.editor.room :]
            self.editor.feed(piece)
            while (event := self.editor.next_event()) is not None:
                if isinstance(event, Line):
                    self.reply()
                    self.editor.show_prompt()
                    continue
                self.expect(len(event))
                theirs, self.unread = self.unread[: len(event)], self.unread[len(event) :]
                assert theirs == event, f"after {keys[:200]!r}"


@pytest.fixture
def twins(request: pytest.FixtureRequest) -> Iterator[Twins]:
    """QEMU listens on a socket that exists before it starts, so that nobody has to wait for one."""
    telnet = getattr(request, "param", "plain") == "telnet"
    with (
        TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX) as link,
    ):
        path = str(Path(folder, "m"))
        listener.bind(path)
        listener.listen(1)
        number = listener.fileno()
        chardev = f"socket,id=m,fd={number},server=on,wait=off,telnet={'on' if telnet else 'off'}"
        machine = "-accel tcg -machine pc -m 512 -nodefaults -display none -S -device virtio-balloon-pci,id=balloon0"
        command = [str(QEMU), *machine.split(), "-chardev", chardev, "-mon", "chardev=m,mode=readline"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[number]) as process:
            try:
                link.settimeout(TIMEOUT)
                link.connect(path)
                yield Twins(link, telnet=telnet)
            finally:
                process.kill()


@pytest.mark.parametrize("name", KEYS)
def test_keys_echo_the_same_bytes(twins: Twins, name: str) -> None:
    if b"\t" in KEYS[name]:
        twins.learn()
    twins.compare(KEYS[name])
    twins.compare(SYNC)
    assert twins.unread == b""


@pytest.mark.parametrize("seed", range(8))
def test_random_keys_echo_the_same_bytes(twins: Twins, seed: int) -> None:
    # Only w, y and z are typed: no command that does anything is made of them.
    dice = random.Random(seed)
    twins.learn()
    for _ in range(50):
        twins.compare(b"".join(dice.choices(ALPHABET, k=dice.randrange(5, 60))))
        twins.compare(SYNC)
    assert twins.unread == b""


@pytest.mark.slow
def test_a_line_ends_at_4095_bytes(twins: Twins) -> None:
    # Only typed at its end: a key in the middle of a full line makes QEMU 7.2 write beyond its buffer. We drop it.
    twins.compare(b"w" * 4090 + b"yyyyyyyy" + b"\x7f" + b"zz" + LEFT * 2 + b"\x7f\x7fyz\x05")
    twins.compare(SYNC)
    assert twins.unread == b""


def test_history_lists_the_same_lines(twins: Twins) -> None:
    twins.compare(b"".join(b"w%d\r" % (i * 7 % 67) for i in range(150)) + b"  \r\rwy \xe9\r")
    text = twins.enter(b"info history")
    assert text == "".join(f"{number}: '{line}'\r\n" for number, line in enumerate(twins.history.entries())).encode(
        "utf-8", "surrogateescape"
    )


TELNET: dict[str, bytes] = {
    "lines as clients send them": b"wy\r\0zz\r\nw\rz\n",
    "options": b"w\xff\xfd\x01y\xff\xfd\x03\xff\xfd\x00\xff\xfb\x00z\xff\xfc\x18\xff\xfe\x22w",
    "option 255": b"w\xff\xfb\xffy",
    "byte 255 is echoed as one": b"w\xff\xffy\x7f\x7fz",
    "break": b"w\xff\xf3y",
}


@pytest.mark.parametrize("twins", ["telnet"], indirect=True)
@pytest.mark.parametrize("name", TELNET)
def test_telnet_clients_see_the_same_bytes(twins: Twins, name: str) -> None:
    assert twins.opening.startswith(OPENING + b"QEMU ")
    for byte in TELNET[name]:
        twins.compare(bytes((byte,)))
    twins.compare(SYNC)
    assert twins.unread == b""
