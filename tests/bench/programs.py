"""What is measured: hmp and the real QEMU, started alike, with one raw client for both."""

from __future__ import annotations

import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

QEMU = "qemu-system-x86_64"
MACHINE = ["-machine", "pc", "-m", "512", "-nodefaults", "-display", "none", "-S", "-device", "virtio-balloon-pci"]

PROMPT = b"(qemu) "
QUERY = b'{"execute": "query-balloon"}\n'


def script(name: str) -> str:
    """Return the path of a console script that belongs to this interpreter."""
    return str(Path(sys.executable).with_name(name))


HMP = [script("hmp")]
PYTHON = [sys.executable]
OTHERS = [sys.executable, "-I", "-S", str(Path(__file__).with_name("others.py"))]
"""Small programs that stand for what a user would take instead, and for the limit; see there."""


def qemu() -> list[str] | None:
    """Return the command of the real QEMU with our machine, or None where it is not installed."""
    return [QEMU, *MACHINE] if shutil.which(QEMU) else None


def monitors(name: str, addresses: Iterable[tuple[str, str]]) -> list[str]:
    """Return the words that have the program called `name` serve (kind, path) each: qmp or monitor."""
    if name in ("instead", "limit"):  # of others.py: paths alone
        return [path for _, path in addresses]
    dash = "-" if name == "qemu" else "--"
    return [word for kind, path in addresses for word in (f"{dash}{kind}", f"unix:{path},server=on,wait=off")]


def started(command: list[str]) -> subprocess.Popen[bytes]:
    """Start a program that talks on sockets alone."""
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def connect(process: subprocess.Popen[bytes], path: str) -> socket.socket:
    """Return a client of a program's socket, once it listens. Raises SystemExit if it ended, or does not within 20 s."""
    deadline = time.monotonic() + 20
    while True:
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(path)
            return client
        except OSError:
            client.close()
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{process.args!r} did not come up") from None
            time.sleep(0.01)


class Subject:
    """A program with a QMP and an HMP monitor on unix sockets, and one client on each.

    `name` tells QEMU's options from ours. Raises SystemExit if the program does not come up.
    """

    def __init__(self, name: str, command: list[str], directory: str) -> None:
        self.name = name
        paths = [f"{directory}/{name}.{kind}" for kind in ("qmp", "hmp")]
        self.process = started([*command, *monitors(name, zip(("qmp", "monitor"), paths, strict=True))])
        self.paths = paths
        self.qmp, self.hmp = (self.connect(path) for path in paths)
        self._rest = b""
        self._line()
        self.qmp.sendall(b'{"execute": "qmp_capabilities"}')
        self._line()
        self.until_prompt()

    def connect(self, path: str) -> socket.socket:
        """Return a further client of `path`."""
        return connect(self.process, path)

    def _line(self) -> bytes:
        while b"\r\n" not in self._rest:
            self._rest += self._received(self.qmp)
        line, _, self._rest = self._rest.partition(b"\r\n")
        return line

    def _received(self, client: socket.socket) -> bytes:
        data = client.recv(1 << 16)
        if not data:
            raise SystemExit(f"{self.name} hung up")
        return data

    def until_prompt(self) -> None:
        """Read what the human monitor says, up to its next prompt."""
        data = b""
        while not data.endswith(PROMPT):
            data = data[-len(PROMPT) :] + self._received(self.hmp)

    def qmp_round_trip(self) -> float:
        """Seconds from a query-balloon to its reply; events are read and passed over."""
        start = time.perf_counter()
        self.qmp.sendall(QUERY)
        while not self._line().startswith(b'{"return"'):
            pass
        return time.perf_counter() - start

    def hmp_round_trip(self) -> float:
        """Seconds from an `info balloon` line to the next prompt."""
        start = time.perf_counter()
        self.hmp.sendall(b"info balloon\n")
        self.until_prompt()
        return time.perf_counter() - start

    def pipelined(self, count: int) -> float:
        """Replies a second to `count` query-balloon that are sent without waiting."""
        todo = memoryview(QUERY * count)
        seen, tail = 0, b""
        self.qmp.setblocking(False)
        start = time.perf_counter()
        while seen < count:
            readable, writable, _ = select.select([self.qmp], [self.qmp] if todo else [], [])
            if writable:
                todo = todo[self.qmp.send(todo[: 1 << 16]) :]
            if readable:
                data = tail + self._received(self.qmp)
                seen += data.count(b'{"return"')
                tail = data[-9:] if not data.endswith(b"\n") else b""
                seen -= tail.count(b'{"return"')
        rate = count / (time.perf_counter() - start)
        self.qmp.setblocking(True)
        while select.select([self.qmp], [], [], 0.1)[0]:
            self._received(self.qmp)
        self._rest = b""
        return rate

    def close(self) -> None:
        """End the program."""
        self.qmp.close()
        self.hmp.close()
        self.process.terminate()
        self.process.wait(10)


def seconds(command: list[str], lines: bytes = b"") -> float:
    """Return how long `command` takes for `lines` on stdin."""
    start = time.perf_counter()
    subprocess.run(command, input=lines, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


@contextmanager
def folder() -> Iterator[str]:
    """A short path for sockets and files, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="b", ignore_cleanup_errors=True) as made:
        yield made
