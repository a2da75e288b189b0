"""Lines on a pipe: how many a second, and whether their number changes that or the memory."""

from __future__ import annotations

import subprocess
import tempfile
import time
from functools import partial

from device.virtio.driver_queue import DriverQueue
from device.virtio.memory import GuestMemory
from device.virtio.queue import VirtQueue
from tests.bench.programs import HMP, OTHERS, PYTHON, qemu, seconds
from tests.bench.turns import Bench, Goal

RECORDS = 100
"""Bytes of ten statistics."""


def rate(command: list[str], count: int, more: bytes = b"") -> float:
    """Return how many lines of `info balloon` the program runs a second, its start and end not counted.

    A thousand lines take less time than starts differ by, so few lines are run more often.
    """
    runs = max(1, 10_000 // count)
    empty = sum(seconds(command, more) for _ in range(runs))
    return runs * count / (sum(seconds(command, b"info balloon\n" * count + more) for _ in range(runs)) - empty)


def rings(count: int) -> float:
    """Return how many times a second one buffer of statistics goes round through rings in guest memory, that alone."""
    memory = GuestMemory(4 << 20)
    region = memory.regions[0]
    driver, queue = DriverQueue(region, 0, 128), VirtQueue(2, 128)
    queue.configure(128, driver.desc, driver.avail, driver.used)
    queue.start(memory, event_idx=False, indirect=False)
    records = bytes(range(RECORDS))
    begun = time.perf_counter()
    for _ in range(count):
        region.buffer[0x10000 : 0x10000 + RECORDS] = records
        driver.add_out(0x10000, RECORDS)
        element = queue.pop()
        assert element is not None
        element.read(RECORDS)
        queue.push(element)
        driver.take()
    taken = time.perf_counter() - begun
    queue.stop()
    memory.close()
    return count / taken


PEAK = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
print(os.wait4(process.pid, 0)[2].ru_maxrss)
"""
"""A process counts the memory that its parent had when it forked, so that has to be a small one."""


def peak(command: list[str], count: int) -> float:
    """Return the most MiB that the program had for so many lines."""
    with tempfile.TemporaryFile() as lines:
        lines.write(b"info balloon\n" * count)
        lines.seek(0)
        return int(subprocess.check_output([*PYTHON, "-I", "-S", "-c", PEAK, *command], stdin=lines)) / 1024


def measure(bench: Bench) -> None:
    """10^3 to 10^6 lines; QEMU gets fewer, for it takes its time."""
    real = qemu()
    for digits in (4, 5) if bench.quick else (3, 4, 5, 6):
        count = 10**digits
        bench.figure(
            f"piped-{digits}",
            f"10^{digits} piped `info balloon`",
            "lines a second",
            {
                "hmp": partial(rate, HMP, count),
                "qemu": partial(rate, [*real, "-monitor", "stdio"], min(count, 10_000), b"quit\n") if real else None,
                "instead": partial(rate, [*OTHERS, "lines"], count) if digits > 4 else None,  # its start is longer
                "limit": partial(rings, min(count, 100_000)),
            },
            *([Goal("qemu", least=10)] if digits > 3 else []),
            share=1 if digits < 6 else 0.4,
            plot=("piped", count),
        )
    least, most = (1000, 100_000) if bench.quick else (1000, 1_000_000)
    bench.figure(
        "piped-memory",
        f"most memory for {most:,} lines; the limit is what {least:,} take",
        "MiB",
        {"hmp": partial(peak, HMP, most), "limit": partial(peak, HMP, least)},
        Goal("limit", most=1.05),
        share=0.4,
    )
