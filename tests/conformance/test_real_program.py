"""hmp with a real kernel behind it, run as a user runs it: scripts, signals, sockets, and that nothing is left behind."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from device.guest.uml import xstate
from tests.support.real import another_kernel, needs_kernel, nobody_lives, state
from tests.support.timing import PATIENCE, until

pytestmark = [pytest.mark.external, pytest.mark.slow, needs_kernel, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]

PATIENT = ("--timeout", str(PATIENCE))
"""Wait for statistics as long as a busy host takes to boot a kernel."""


@pytest.fixture
def place() -> Iterator[str]:
    """A short place for the guest's directory, which must be empty again at the end."""
    place = tempfile.mkdtemp(prefix="t-", dir="/tmp")
    yield place
    until(lambda: not os.listdir(place))
    os.rmdir(place)


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(place: str) -> Iterator[Start]:
    """Return what starts hmp with a real kernel; the fixture ends what a test left."""
    programs: list[subprocess.Popen[str]] = []

    def start(*options: str) -> subprocess.Popen[str]:
        program = subprocess.Popen(
            [sys.executable, "-m", "hmp", "--guest", "uml,mem=64M", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": place},
            cwd=ROOT,
            start_new_session=True,
            preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGHUP)],
        )
        programs.append(program)
        return program

    yield start
    for program in programs:
        program.kill()
        program.communicate()


def say(program: subprocess.Popen[str], line: str) -> None:
    assert program.stdin is not None
    program.stdin.write(f"{line}\n")
    program.stdin.flush()


def ask(program: subprocess.Popen[str]) -> str:
    """Return what `info balloon` prints."""
    assert program.stdout is not None
    say(program, "info balloon")
    line = program.stdout.readline()
    assert line.startswith("balloon: actual=64"), line
    return line.rstrip("\n")


def fresh(program: subprocess.Popen[str]) -> str:
    """Ask until the guest has answered, which a kernel that still boots does not; returns the line."""
    end = time.monotonic() + PATIENCE
    while not (line := ask(program)).startswith("balloon: actual=64,mem_swapped_in=0,") or ",age=" in line:
        assert time.monotonic() < end, line
    return line


def kernel_of(program: subprocess.Popen[str]) -> int:
    """Have hmp boot its guest, whose statistics are known then; returns the kernel's process."""
    fresh(program)
    say(program, "sim\ninfo status")
    assert program.stdout is not None
    told = list(iter(program.stdout.readline, "VM status: running\n"))
    [kernel] = [line.split()[-1] for line in told if "kernel: process" in line]
    return int(kernel)


def waits(program: subprocess.Popen[str]) -> bool:
    """Whether a program has read all that was written to it and does nothing."""
    assert program.stdin is not None
    unread = struct.unpack("i", fcntl.ioctl(program.stdin, termios.FIONREAD, bytes(4)))[0]
    return unread == 0 and state(program.pid) == "S"


def test_a_script(start: Start) -> None:
    for seconds in (1, 5, 25):  # which is how long a guest may take that has a host to itself, or has not
        program = start(
            *PATIENT, "--echo", "-c", "info balloon", "-c", "balloon 48", "-c", f"sim sleep {seconds}",
            "-c", "info balloon", "-c", "balloon 1", "-c", "savevm", "-c", "sim alloc 1M", "-c", "sim hang",
            "-c", "quit",
        )  # fmt: skip
        out, err = program.communicate(timeout=2 * PATIENCE)
        lines = out.splitlines()
        assert lines[1].startswith("balloon: actual=64,mem_swapped_in=0,mem_swapped_out=0,major_page_faults=")
        assert "would not survive less than" in lines[7]
        assert "cannot be saved" in lines[9]
        assert lines[11] == "the workload took 1M (1048576 bytes)"
        assert lines[13] == "Error: the uml guest cannot hang its driver"
        assert program.returncode == 1
        assert err.count("command failed") == 3
        if lines[5].startswith("balloon: actual=48,"):
            return
    raise AssertionError(lines)


def test_power_off_ends_it(start: Start) -> None:
    program = start(*PATIENT)
    group = kernel_of(program)
    _, err = program.communicate("system_powerdown\nsim sleep 60\n", timeout=2 * PATIENCE)
    assert (program.returncode, err) == (0, "")
    nobody_lives([group])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGHUP])
def test_a_signal_leaves_nothing(start: Start, number: signal.Signals) -> None:
    program = start(*PATIENT)
    group = kernel_of(program)
    program.send_signal(number)
    program.communicate(timeout=PATIENCE)
    assert program.returncode != 0
    nobody_lives([group])


def test_hmp_killed_while_the_guest_is_frozen_leaves_nothing(start: Start) -> None:
    program = start(*PATIENT)
    group = kernel_of(program)
    say(program, "stop")
    until(lambda: state(group) == "T")
    program.kill()
    program.communicate(timeout=PATIENCE)
    nobody_lives([group])


def test_a_kernel_killed_in_mid_request(start: Start) -> None:
    program = start("--timeout", "4")
    group = kernel_of(program)
    os.kill(group, signal.SIGSTOP)  # it will not answer
    say(program, "info balloon")
    until(lambda: waits(program))
    os.kill(group, signal.SIGKILL)
    assert program.stdout is not None
    error = "Error: the guest is gone: its kernel was killed by SIGKILL\n"
    assert program.stdout.readline() == error, "at the deadline"
    say(program, "info balloon")
    assert program.stdout.readline() == error
    say(program, "system_reset")
    fresh(program)
    _, err = program.communicate(timeout=PATIENCE)
    assert "hmp: the guest is gone: its kernel was killed by SIGKILL" in err
    assert program.returncode == 1
    nobody_lives([group])


FORCED = """
import sys
from device.guest.uml import xstate
xstate.needs_help = lambda: True
from hmp.cli import main
sys.exit(main())
"""


def test_a_kernel_runs_on_a_processor_with_too_many_registers(place: str) -> None:
    """As on a processor with AMX: the same kernel answers, balloons, is frozen and thawed."""
    script = "info balloon\nballoon 96\nsim sleep 3\ninfo balloon\nstop\ninfo balloon\ncont\ninfo balloon\nsim guest\n"
    ended = subprocess.run(
        [sys.executable, "-c", FORCED, "--guest", "uml,mem=128M", "--timeout", "10"], input=script,
        capture_output=True, text=True, timeout=3 * PATIENCE, env={**os.environ, "TMPDIR": place}, cwd=ROOT,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    first, second, stopped, thawed, _, processor = ended.stdout.splitlines()
    assert first.startswith("balloon: actual=128,mem_swapped_in=0,")
    assert second.startswith("balloon: actual=96,mem_swapped_in=0,")
    assert ",age=1" in stopped
    assert thawed.startswith("balloon: actual=96,")
    assert ",age=" not in thawed
    assert processor == xstate.NOTE


def test_sockets_and_headless(start: Start, tmp_path: Path) -> None:
    program = start("--headless", "--qmp", f"unix:{tmp_path}/q,wait=off")
    assert program.stderr is not None
    assert program.stderr.readline().startswith("hmp: ready")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(f"{tmp_path}/q")
        with client.makefile("rw") as stream:
            assert "QMP" in stream.readline()
            stream.write('{"execute": "qmp_capabilities"}{"execute": "query-balloon"}')
            stream.flush()
            assert "return" in stream.readline()
            line = stream.readline()
            assert '"actual": 67108864' in line, line
    program.terminate()
    program.communicate(timeout=PATIENCE)
    assert program.returncode == 0


def test_a_kernel_that_another_program_started_is_served(place: str) -> None:
    """A User-Mode Linux that hmp did not start, as docs/real-guest.md shows it."""
    path = Path(place, "b.sock")
    command = [sys.executable, "-m", "hmp", "--timeout", "30", "-m", "128", "--guest", f"vhost-user,path={path}"]
    program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write("info balloon\n")
    program.stdin.flush()
    try:
        with another_kernel(path):
            assert program.stdout.readline().startswith("balloon: actual=128,mem_swapped_in=0,")
            program.stdin.write("balloon 96\nsim sleep 1\ninfo balloon\nquit\n")
            program.stdin.flush()
            assert program.stdout.readline().startswith("balloon: actual=96,")
            assert program.wait(20) == 0
    finally:
        program.kill()
        program.wait(20)
        program.stdout.close()
        program.stdin.close()
