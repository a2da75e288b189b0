"""The real QEMU and hmp, side by side: the same bytes to both, the same bytes back.

hmp runs in the qemu dialect with a guest that has no driver, which is what QEMU has without an operating system.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs import ENVIRONMENT, HMP
from tests.support.screen import render
from tests.support.timing import PATIENCE, until

QEMU = "qemu-system-x86_64"
FIRMWARE = re.compile(rb'[^\n]*"reason": "guest-reset"[^\n]*\n')
"""What QEMU tells, at some time, of a firmware that finds nothing to boot and begins anew."""
SYNC = {
    "monitor": (b"zz.sync\r", re.compile(rb"unknown command: 'zz.sync'\r\n\(qemu\) $")),
    "qmp": (b'\xff\n{"execute": "zz.sync", "id": "zz.sync"}', re.compile(rb'"id": "zz.sync".*\r\n$')),
}
"""By kind of monitor, what is sent behind everything, and the end of its answer: nothing else comes after it. What was
not a whole message is ended by the first byte, at the price of an error from both."""

pytestmark = [
    pytest.mark.external,
    pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"needs {QEMU} (Debian: qemu-system-x86)"),
]

QMP_LINES = [
    '{"execute": "query-status"}',
    '{"execute": "query-balloon", "id": {"a": [1, 2.5, "é"]}}',
    '{"execute": "balloon", "arguments": {"value": 268435456}}',
    '{"execute": "balloon", "arguments": {"value": 0}, "id": null}',
    '{"execute": "balloon"}',
    '{"execute": "balloon", "arguments": {"value": "x"}}',
    '{"execute": "balloon", "arguments": {"value": 1, "more": 2}}',
    '{"execute": "nosuch", "id": "x"}',
    '{"execute": "query-name"}',
    '{"execute": "query-uuid"}',
    '{"execute": "stop"}',
    '{"execute": "stop", "id": 2}',
    '{"execute": "query-status"}',
    '{"execute": "cont"}',
    '{"execute": "query-status"}',
    "{'execute': 'query-status'}",
    '{"execute": "query-status"}{"execute": "query-name", "id": 1} {"execute":\n"query-uuid"}',
    '{"execute": "qom-get", "arguments": {"path": "/machine/peripheral/balloon0", "property": "type"}}',
    '{"execute": "qom-get", "arguments": {"path": "/machine/peripheral/balloon0", "property": "guest-stats"}}',
    '{"execute": "qom-get", "arguments": {"path": "/machine/peripheral/none", "property": "x"}}',
    '{"execute": "qom-get", "arguments": {"path": "balloon0", "property": "guest-stats-polling-interval"}}',
    '{"execute": "qom-set", "arguments": {"path": "balloon0", "property": "guest-stats-polling-interval", "value": 3}}',
    '{"execute": "qom-get", "arguments": {"path": "balloon0", "property": "guest-stats-polling-interval"}}',
    '{"execute": "qom-set", "arguments": {"path": "balloon0", "property": "guest-stats-polling-interval", "value": -1}}',
    '{"execute": "qom-set", "arguments": {"path": "balloon0", "property": "guest-stats", "value": 1}}',
    '{"execute": "device_del", "arguments": {"id": "none"}}',
    '{"execute": "device_add", "arguments": {"driver": "virtio-balloon-pci", "id": "balloon0"}}',
    '{"execute": "device_add", "arguments": {"driver": "nosuch"}}',
    '{"execute": "human-monitor-command", "arguments": {"command-line": "info status"}}',
    '{"execute": "human-monitor-command", "arguments": {"command-line": "info balloon"}, "id": 7}',
    '{"execute": "human-monitor-command", "arguments": {"command-line": "nosuch x"}}',
    '{"execute": "human-monitor-command", "arguments": {"command-line": "balloon"}}',
    '{"execute": "human-monitor-command", "arguments": {"command-line": ""}}',
    '{"execute": "human-monitor-command"}',
    '{"exec-oob": "query-status"}',
    '{"execute": "query-status", "extra": 1}',
    "[1, 2]",
    "{}",
    '{"execute": 1}',
    '{"execute": "x", "execute": "y"}',
    "}",
    '{"execute" "x"}',
    "xyz\n",
    '"\\ud800"\n',
    "[" * 1025 + "]" * 1025,
    '{"execute": "qmp_capabilities"}',
]

HMP_LINES = [
    "info balloon",
    "info status",
    "balloon 256",
    "balloon 0",
    "balloon -1",
    "balloon 1+",
    "balloon (1",
    "balloon",
    "balloon 64M",
    "balloon 1 2",
    "stop",
    "info status",
    "s",
    "cont",
    "c",
    "info status",
    "nosuch",
    "info nosuch",
    "  info   status  ",
    "# comment",
    "",
    "   ",
    "info uuid",
    "info name",
    "info kvm",
    "info memory_size_summary",
    "info history",
    "qom-list /machine/peripheral",
    "qom-get /machine/peripheral/balloon0 guest-stats",
    "qom-get /machine/peripheral/balloon0 nosuch",
    "qom-set /machine/peripheral/balloon0 guest-stats-polling-interval 2",
    "qom-get /machine/peripheral/balloon0 guest-stats-polling-interval",
    "device_add virtio-balloon-pci,id=balloon0",
    "device_add nosuch",
    "device_del nosuch",
    "info virtio",
    "help nosuch",
    "stop x",
]

KEYS = {
    "echo and enter": b"info status\r",
    "both line ends": b"info status\r\n",
    "editing": b"inxfo statux\x08s\x01\x1b[C\x1b[C\x1b[3~\x05\r",
    "history": b"info name\rinfo uuid\r\x1b[A\x1b[A\x1b[B\r",
    "completion of one": b"inf\tstatu\t\r",
    "control keys": b"abc def\x17\x17info kvm\x0c\r",
    "unknown": b"nosuch\xe9\r",
    "quit": b"quit\r",
}


class Pair:
    """Both programs, and a client of each on a monitor of one kind."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        self.processes = []
        self.clients = []
        for name, command in (
            (
                "qemu",
                [QEMU, *["-accel", "tcg", "-machine", "pc", "-nodefaults", "-display", "none", "-m", "512", "-device"]],
            ),
            ("hmp", [*HMP, *["-m", "512", "--headless", "--guest", "nodriver"]]),
        ):
            where = f"unix:{directory}/{name},server=on,wait=off"
            if name == "qemu":
                command += ["virtio-balloon-pci,id=balloon0", f"-{kind}", where]
            else:
                command += [f"--{kind}", f"{where},dialect=qemu"]
            self.processes.append(
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
            )
            self.clients.append(self._connect(directory / name))

    def _connect(self, path: Path) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE)
        until(lambda: client.connect_ex(str(path)) == 0)
        return client

    def close(self) -> None:
        for client in self.clients:
            client.close()
        for process in self.processes:
            process.terminate()
            process.wait(PATIENCE)

    def read(self, client: socket.socket, end: re.Pattern[bytes] | None) -> bytes:
        """What comes up to what matches `end`, or up to the end of the connection."""
        data = b""
        while end is None or not end.search(data):
            try:
                more = client.recv(1 << 16)
            except ConnectionResetError:
                more = b""
            if not more:
                break
            data += more
        return data

    def greetings(self) -> list[bytes]:
        """What both say first."""
        end = re.compile(rb"\r\n$" if self.kind == "qmp" else rb"\(qemu\) $")
        return [self.read(client, end) for client in self.clients]

    def both(self, data: bytes, *, last: bool = False) -> tuple[bytes, bytes]:
        """Send the same to both; return what QEMU said and what hmp said, to the end if it is the last."""
        sync, end = SYNC[self.kind]
        for client in self.clients:
            client.sendall(data if last else data + sync)
        qemu, ours = (self.read(client, None if last else end) for client in self.clients)
        return FIRMWARE.sub(b"", qemu), ours


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Pair]]:
    pairs: list[Pair] = []

    def make(kind: str) -> Pair:
        (tmp_path / str(len(pairs))).mkdir()
        pairs.append(Pair(kind, tmp_path / str(len(pairs))))
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.close()


def messages(data: bytes) -> list[dict[str, Any]]:
    """The messages without what is never the same, which is times."""
    found = [json.loads(line) for line in data.split(b"\r\n") if line]
    for each in found:
        each.pop("timestamp", None)
    return found


def test_qmp(start: Callable[[str], Pair]) -> None:
    pair = start("qmp")
    greetings = [json.loads(each) for each in pair.greetings()]
    for greeting in greetings:
        greeting["QMP"]["version"]["package"] = ""
        greeting["QMP"]["version"]["qemu"]["micro"] = 0
    assert greetings[0] == greetings[1]
    for line in ['{"execute": "query-status"}', '{"execute": "qmp_capabilities"}', *QMP_LINES]:
        qemu, ours = pair.both(line.encode())
        assert (line, messages(ours)) == (line, messages(qemu))
        if "guest-stats" not in line:  # whose members are a table in QEMU, in no order
            assert (line, re.sub(rb"\d{10}|\d+}, \"ev", b"", ours)) == (line, re.sub(rb"\d{10}|\d+}, \"ev", b"", qemu))


def test_hmp_text(start: Callable[[str], Pair]) -> None:
    pair = start("monitor")
    pair.greetings()
    for line in HMP_LINES:
        qemu, ours = (render(data.decode("latin-1")) for data in pair.both(line.encode() + b"\n"))
        assert (line, ours) == (line, qemu)


@pytest.mark.parametrize("name", KEYS)
def test_hmp_bytes(name: str, start: Callable[[str], Pair]) -> None:
    pair = start("monitor")
    banners = pair.greetings()
    banner = re.compile(rb"QEMU 7\.2\.\d+ monitor - type 'help' for more information\r\n\(qemu\) $")
    assert all(banner.match(each) for each in banners)
    qemu, ours = pair.both(KEYS[name], last=name == "quit")
    assert ours == qemu


@pytest.mark.parametrize("kind", ["qmp", "monitor"])
def test_quit_ends_both_alike(kind: str, start: Callable[[str], Pair]) -> None:
    pair = start(kind)
    pair.greetings()
    if kind == "qmp":
        pair.both(b'{"execute": "qmp_capabilities"}')
        qemu, ours = pair.both(b'{"execute": "quit", "id": 1}', last=True)
        assert messages(ours) == messages(qemu)
    else:
        qemu, ours = pair.both(b"quit\n", last=True)
        assert ours == qemu
    assert [process.wait(PATIENCE) for process in pair.processes] == [0, 0]
