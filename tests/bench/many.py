"""Memory, many machines in one process, and inflation of great guests."""

from __future__ import annotations

import mmap
import os
import socket
import statistics
import subprocess
import time
from collections.abc import Callable
from functools import partial

from tests.bench.programs import HMP, OTHERS, Subject, folder, qemu, seconds
from tests.bench.turns import Bench, Goal
from tests.soak import rss

_PFNS = 256
"""Pages that Linux's driver gives up at once (VIRTIO_BALLOON_ARRAY_PFNS_MAX)."""


def memory(bench: Bench) -> None:
    """What an idle program with two sockets and a client on each holds."""

    def held(column: str, command: list[str]) -> float:
        with folder() as directory:
            subject = Subject(column, command, directory)
            try:
                subject.hmp_round_trip()
                return rss(subject.process.pid)
            finally:
                subject.close()

    real = qemu()
    bench.figure(
        "idle",
        "resident memory, idle, two sockets",
        "MiB",
        {
            "hmp": partial(held, "hmp", [*HMP, "-m", "512", "--headless"]),
            "qemu": partial(held, "qemu", real) if real else None,
            "instead": partial(held, "instead", [*OTHERS, "fake"]),
            "limit": partial(held, "limit", [*OTHERS, "echo"]),
        },
        Goal("qemu", most=0.4),
    )


class Fleet:
    """So many machines in one process, in the folder given."""

    def __init__(self, column: str, count: int, directory: str) -> None:
        self.directory = directory
        command = [*OTHERS, "fakes", str(count), directory]
        if column == "hmp":
            command = [*HMP, "--headless", "--count", str(count), "-m", "64"]
            for kind, end in (("qmp", "qmp"), ("monitor", "hmp")):
                command += [f"--{kind}", f"unix:{directory}/%d.{end}"]
        begun = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self.process.stdout is not None
        ready = self.process.stdout.readline()
        self.seconds = time.perf_counter() - begun
        if b"ready" not in ready:
            raise SystemExit(f"{command[0]} is not ready: {ready!r}")

    def trip(self, number: int) -> float:
        """Return the round trip of `info balloon` to one machine in us, the median of 30."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{self.directory}/{number}.hmp")
            taken = []
            for line in (b"", *[b"info balloon\n"] * 30):
                begun = time.perf_counter()
                client.sendall(line)
                data = b""
                while not data.endswith(b"(qemu) "):
                    data += client.recv(4096)
                taken.append(time.perf_counter() - begun)
        return statistics.median(taken[1:]) * 1e6

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def fleet(bench: Bench) -> None:
    """Many machines with two sockets each: until they serve, what they hold, how fast the last answers."""
    count = 200 if bench.quick else 1000
    up: dict[str, list[float]] = {}
    held: dict[str, list[float]] = {}
    trips: dict[str, list[float]] = {"hmp": [], "limit": []}
    for _ in range(bench.turns(0.4)):
        for column in ("hmp", "instead"):
            with folder() as directory:
                made = Fleet(column, count, directory)
                try:
                    up.setdefault(column, []).append(made.seconds)
                    if column == "hmp":
                        trips["limit"].append(made.trip(0))
                        trips["hmp"].append(made.trip(count - 1))
                    held.setdefault(column, []).append(rss(made.process.pid))
                finally:
                    made.close()
    machines = f"{count:,} machines in one process"
    bench.note("fleet-up", f"{machines}, two sockets each: up after", "s", up, Goal("", most=3))
    bench.note("fleet-memory", f"{machines}: resident memory", "MiB", held, Goal("", most=150))
    bench.note(
        "fleet-trip", f"{machines}: the last one's round trip; limit: the first's", "us", trips, Goal("limit", most=1.2)
    )


def _removed(size: int) -> float:
    """Return the seconds that it takes to give half of so much memory back to the host, by MADV_REMOVE, that alone."""
    file = os.memfd_create("bench")
    try:
        os.ftruncate(file, size)
        with mmap.mmap(file, size) as memory:
            begun = time.perf_counter()
            step = _PFNS * mmap.PAGESIZE
            for offset in range(0, size >> 1, step):
                memory.madvise(mmap.MADV_REMOVE, offset, step)
            return time.perf_counter() - begun
    finally:
        os.close(file)


def inflation(bench: Bench) -> None:
    """Guests of 4 GiB to 1 TiB give half of their memory up, on the warp clock."""
    sizes = (4,) if bench.quick else (4, 64, 1024)

    def inflated(gigabytes: int) -> float:
        half = gigabytes << 9
        lines = f"balloon {half}\nsim sleep 100000\ninfo balloon\n".encode()
        command = [*HMP, "-m", f"{gigabytes}G", "--clock", "warp"]
        return seconds(command, lines) - seconds(command, b"info balloon\n")

    for gigabytes in sizes:
        measures: dict[str, Callable[[], float] | None] = {
            "hmp": partial(inflated, gigabytes),
            "limit": partial(_removed, gigabytes << 30),
        }
        goals = [Goal("", most=15)] if gigabytes == 1024 else []
        name = "1 TiB" if gigabytes == 1024 else f"{gigabytes} GiB"
        bench.figure(
            f"inflate-{gigabytes}",
            f"{name} inflated to half",
            "s",
            measures,
            *goals,
            share=0.4 if gigabytes > 64 else 1,
            plot=("inflate", gigabytes),
        )


def measure(bench: Bench) -> None:
    """All of them."""
    memory(bench)
    fleet(bench)
    inflation(bench)
