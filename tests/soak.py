"""All abuses at once, for minutes: what hmp's memory does, and how long an honest client waits.

    python -m tests.soak --seconds 300

One hmp on unix sockets, and clients that flood it with help, long lines, TABs, schemas, events, pipelined queries,
snapshots, unfinished messages and endless connects. Prints the resident memory every 10 seconds and at the end the
round trips of one client that asks ten times a second. Exit status 1 if memory grew after the first minute (or the
first half of a shorter run), if hmp ended, or if it said something on stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.programs import Program

GROWTH = 1.1
"""How many times what it was memory may be: the allocator's own coming and going."""

NEGOTIATE = b'{"execute": "qmp_capabilities"}'
LINE = b'{"execute": "human-monitor-command", "arguments": {"command-line": "%s"}}'
ABUSES = {
    "help": ("monitor", b"help\n" * 500),
    "long lines": ("monitor", b"x" * 4000 + b"\n"),
    "TABs": ("monitor", b"qom-get /" + b"\t" * 8000 + b"\n"),
    "TABs for nothing": ("monitor", b"nothing" + b"\t" * 16000 + b"\n"),
    "schema": ("qmp", NEGOTIATE + b'{"execute": "query-qmp-schema"}' * 100),
    "savevm": ("monitor", b"savevm a\n" * 20),
    "events": ("qmp", NEGOTIATE + b'{"execute": "stop"}{"execute": "cont"}' * 100),
    "query-balloon": ("qmp", NEGOTIATE + b'{"execute": "query-balloon"}' * 1000),
    "balloon": ("qmp", NEGOTIATE + b'{"execute": "balloon", "arguments": {"value": 400000000}}' * 100),
    "history": ("monitor", b"\x1b[A\x1b[B" * 500 + b"\ninfo history\n" * 50),
    "garbage": ("qmp", b"}x,\xff{" * 2000),
    "sums": ("qmp", NEGOTIATE + (LINE % (b"balloon 512" + b"+0" * 2000)) * 20),
    "unfinished": ("qmp", b'{"execute": "' + b"x" * (7 << 20)),
    "great ids": ("qmp", b'{"execute": "x", "id": "' + "\u00e9".encode() * 60_000 + b'"}'),
    "comes and goes": ("monitor", b""),
}


class Abuser:
    """One client that sends its piece again and again, reads or does not, and now and then goes and comes back."""

    def __init__(self, path: str, piece: bytes, source: random.Random) -> None:
        self._path, self._piece = path, piece
        self._random = source
        self.socket: socket.socket | None = None
        self._todo = memoryview(b"")

    def act(self) -> None:
        """Send and receive what can be without waiting."""
        try:
            if self.socket is None:
                self.socket = socket.socket(socket.AF_UNIX)
                self.socket.connect(self._path)
                self.socket.setblocking(False)
                self._reads = self._random.random() < 0.8
                self._until = time.monotonic() + self._random.choice((0.0, 0.5, 2, 20))
            if not self._todo:
                self._todo = memoryview(self._piece)
            with contextlib.suppress(BlockingIOError):
                self._todo = self._todo[self.socket.send(self._todo[: 1 << 16]) :]
            with contextlib.suppress(BlockingIOError):
                while self._reads and self.socket.recv(1 << 16):
                    pass
            if time.monotonic() > self._until:
                self.close()
        except OSError:
            self.close()

    def close(self) -> None:
        """Be gone, perhaps in the middle of a message."""
        if self.socket is not None:
            self.socket.close()
        self.socket, self._todo = None, memoryview(b"")


class Honest:
    """A client that asks ten times a second and notes how long each answer took, in seconds."""

    INTERVAL = 0.1

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.trips: list[float] = []
        self._data = b""
        self._asked: float | None = None
        self._next = time.monotonic() + 1.0
        """When to ask, and whether an answer is awaited; the first second belongs to the greeting."""

    def act(self) -> None:
        """Ask if it is time; see whether the answer is here."""
        now = time.monotonic()
        if self._asked is None and now >= self._next:
            self._data, self._asked = b"", now
            self.socket.sendall(b"info status\n")
        while select.select([self.socket], [], [], 0)[0]:
            data = self.socket.recv(1 << 16)
            if not data:
                raise ConnectionError("the honest client was cut off")
            self._data += data
        if self._asked is not None and b"VM status" in self._data and self._data.endswith(b"(qemu) "):
            self.trips.append(now - self._asked)
            self._next, self._asked = self._asked + self.INTERVAL, None


def rss(pid: int) -> float:
    """Resident memory, in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def run(
    process: subprocess.Popen[bytes], abusers: list[tuple[str, bytes]], path: str, seconds: float, every: float = 0.0
) -> tuple[list[tuple[float, float]], list[float]]:
    """Let abusers, each an address and what it sends, and an honest client at `path` have their way with a program.

    Returns (second, MiB) of a look each `every` seconds, which is printed (0: none), and the round trips in seconds.
    """
    source = random.Random(1)
    crowd = [Abuser(*each, source) for each in abusers]
    honest = Honest(path)
    looks: list[tuple[float, float]] = []
    start = time.monotonic()
    while (now := time.monotonic() - start) < seconds and process.poll() is None:
        if every and now >= every * len(looks):
            looks.append((now, rss(process.pid)))
            print(f"{now:6.0f} s {looks[-1][1]:6.0f} MiB", flush=True)
        for abuser in crowd:
            abuser.act()
            honest.act()
        time.sleep(0.001)
    looks.append((now, rss(process.pid)))
    for abuser in crowd:
        abuser.close()
    honest.socket.close()
    return looks, honest.trips


def soak(seconds: float, clients: int = 50, every: float = 10.0) -> tuple[list[tuple[float, float]], list[float], str]:
    """Run; returns (second, MiB) of each look, the honest client's round trips, and what hmp said on stderr."""
    with tempfile.TemporaryDirectory() as directory:
        paths = {kind: f"{directory}/{kind}" for kind in ("monitor", "qmp")}
        options = [word for kind, path in paths.items() for word in (f"--{kind}", f"unix:{path}")]
        with Program("--headless", "-m", "512", *options) as program:
            pieces = (list(ABUSES.values()) * clients)[:clients]
            abusers = [(paths[kind], piece) for kind, piece in pieces]
            looks, trips = run(program.process, abusers, paths["monitor"], seconds, every)
            status, _, said = program.end()
            return looks, trips, said if status == 0 else f"{said}exit status {status}\n"


def grew(looks: list[tuple[float, float]]) -> bool:
    """Whether memory was higher late than early: after the first minute, or in the second half of a shorter run."""
    settled = min(60.0, looks[-1][0] / 2)
    early = [size for when, size in looks if when <= settled]
    late = [size for when, size in looks if when > settled]
    return statistics.median(late) > GROWTH * max(early)


def main() -> int:
    """Soak; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--clients", type=int, default=50)
    options = parser.parse_args()
    looks, trips, said = soak(options.seconds, options.clients)
    print(f"honest client: {len(trips)} round trips, median {statistics.median(trips):.3f} s, worst {max(trips):.3f} s")
    print(said, end="", file=sys.stderr)
    return 1 if said or grew(looks) else 0


if __name__ == "__main__":
    sys.exit(main())
