"""A machine with a real guest on the real clock, and a loop to drive it: what a front end does, for tests."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from device.balloon.device import BalloonDevice
from device.clock import SECOND, Clock
from device.errors import MisuseError
from device.guest.table import make_guest
from device.guest.uml.parts import build_initramfs, find_parts
from device.machine.machine import Machine
from device.machine.requests import Task
from device.virtio.spec import MIB
from tests.support.timing import PATIENCE, until


class Real:
    """A machine with the guest `spec` that was started. Use as a context manager."""

    def __init__(
        self, spec: str, *, memory: int = 128, paused: bool = False, timeout: float = 5.0, **switches: bool
    ) -> None:
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.guest: Any = make_guest(spec)
        self.machine = Machine(
            Clock("real", time.monotonic_ns, time.time_ns),
            ram=memory * MIB,
            guest=self.guest,
            switches=switches,
            timeout=round(timeout * SECOND),
        )
        self.machine.subscribe(lambda event: self.events.append((event.name, event.data)))
        self.machine.start(paused=paused)

    def __enter__(self) -> Real:
        return self

    def __exit__(self, *_: object) -> None:
        self.machine.close()

    @property
    def device(self) -> BalloonDevice:
        assert self.machine.device is not None
        return self.machine.device

    @property
    def sample(self) -> dict[int, int]:
        """The values of the last sample by tag."""
        assert self.device.stats.sample is not None
        return dict(self.device.stats.sample.values)

    def turn(self, seconds: float = 0.0) -> None:
        """Wait at most that long for the guest or a timer, and serve it."""
        machine = self.machine
        watched, due = machine.wait_for()
        if due is not None:
            seconds = min(seconds, max(0.0, (due - machine.clock.now()) / SECOND))
        poller = select.poll()
        for fd in watched:
            poller.register(fd, select.POLLIN)
        poller.poll(seconds * 1000)
        machine.step()

    def until(self, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
        """Serve until `condition` holds; fails after that long."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds} s; events: {self.events[-5:]}, {self.guest.shown()}"
            self.turn(0.05)

    def idle(self, seconds: float) -> None:
        """Serve for that long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.turn(left)

    def ask(self, timeout: float = PATIENCE) -> tuple[str, float]:
        """Ask for statistics; returns how the request ended and after how many seconds."""
        start = time.perf_counter()
        request = self.machine.request_stats(round(timeout * SECOND))
        while request.state == "pending":
            self.turn(timeout)
        return request.state, time.perf_counter() - start

    def done(self, task: Task | None) -> int:
        """Wait for a task of the guest; returns its result, or raises its error."""
        if task is None:
            return 0
        self.until(lambda: not task.pending)
        if task.error is not None:
            raise task.error
        return task.result

    def shell(self, command: str) -> tuple[int, str]:
        """Have the guest's shell run a line; returns its status and what it printed."""
        answers = []

        def read(answer: Callable[[], tuple[int, str]]) -> int:
            answers.append(answer())
            return 0

        self.done(self.guest.shell(command, read))
        return answers[0]

    def named(self, *names: str) -> list[Any]:
        return [data for name, data in self.events if name in names]


def _status(process: int) -> tuple[str, int] | None:
    """Return a process's state, as in proc(5), and its process group; None if there is none."""
    try:
        with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[2])


def state(process: int) -> str:
    """Return what a process does, in a letter of proc(5); nothing if there is none."""
    found = _status(process)
    return found[0] if found else ""


def living(group: int) -> list[int]:
    """Return the processes of a process group that are not dead; dead ones may still wait for their parent."""
    every = {int(name): _status(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    return [process for process, found in every.items() if found and found[1] == group and found[0] not in "ZX"]


def nobody_lives(groups: list[int]) -> None:
    """Killed processes take a moment to be dead."""
    until(lambda: not any(living(group) for group in groups))


def booted(real: Real) -> Real:
    """Wait for the kernel, its driver and its shell."""
    real.until(lambda: real.guest.process.console.up is not None)
    assert real.guest.process.console.up == 0
    assert real.guest.driver_loaded
    return real


@contextlib.contextmanager
def another_kernel(path: Path) -> Iterator[None]:
    """A User-Mode Linux with 128 MiB that hmp did not start: the front end of the vhost-user socket at `path`."""
    parts = find_parts({})
    with tempfile.TemporaryDirectory(prefix="k-", dir="/tmp") as folder:
        initrd = Path(folder, "initrd")
        initrd.write_bytes(build_initramfs(parts))
        until(path.exists)
        options = [f"initrd={initrd}", "root=/dev/ram0", "con=null", "con0=fd:0,fd:1", "ssl=null", f"uml_dir={folder}"]
        kernel = subprocess.Popen(
            ["setarch", "-R", parts.kernel, "mem=128M", *options, f"virtio_uml.device={path}:5"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert kernel.stdin is not None
        try:
            yield
        finally:
            os.killpg(kernel.pid, signal.SIGKILL)  # its helpers too
            kernel.wait(PATIENCE)
            kernel.stdin.close()


def _missing() -> str:
    try:
        find_parts({})
    except MisuseError as error:
        return str(error)
    return ""


MISSING = _missing()
needs_kernel = pytest.mark.skipif(bool(MISSING), reason=MISSING or "there")
"""For tests of a real kernel: skipped, saying what to install, where its packages are missing."""
