"""hmp with a real kernel behind it, run as a user runs it: scripts, signals, sockets, and that nothing is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.real import needs_kernel, nobody_lives

pytestmark = [pytest.mark.external, pytest.mark.slow, needs_kernel, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place() -> Iterator[str]:
    """A short place for the guest's directory, which must be empty again at the end."""
    place = tempfile.mkdtemp(prefix="t-", dir="/tmp")
    yield place
    end = time.monotonic() + 5
    while os.listdir(place):
        assert time.monotonic() < end, os.listdir(place)
        time.sleep(0.01)
    os.rmdir(place)


def start(place: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
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


def kernel_of(program: subprocess.Popen[str]) -> int:
    """Have hmp boot its guest; returns the kernel's process."""
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write("info balloon\nsim\n")
    program.stdin.flush()
    assert program.stdout.readline().startswith("balloon: actual=64,")
    for line in iter(program.stdout.readline, ""):
        if "kernel: process" in line:
            return int(line.split()[-1])
    raise AssertionError("no kernel")


def test_a_script(place: str) -> None:
    program = start(
        place, "--echo", "-c", "info balloon", "-c", "balloon 48", "-c", "sim sleep 1", "-c", "info balloon",
        "-c", "balloon 1", "-c", "savevm", "-c", "sim alloc 1M", "-c", "sim hang", "-c", "quit",
    )  # fmt: skip
    out, err = program.communicate(timeout=60)
    lines = out.splitlines()
    assert lines[1].startswith("balloon: actual=64,mem_swapped_in=0,mem_swapped_out=0,major_page_faults=")
    assert lines[5].startswith("balloon: actual=48,")
    assert "would not survive less than" in lines[7]
    assert "cannot be saved" in lines[9]
    assert lines[11] == "the workload took 1M (1048576 bytes)"
    assert lines[13] == "Error: the uml guest cannot hang its driver"
    assert program.returncode == 1
    assert err.count("command failed") == 3


def test_power_off_ends_it(place: str) -> None:
    program = start(place)
    group = kernel_of(program)
    _, err = program.communicate("system_powerdown\nsim sleep 30\n", timeout=60)
    assert (program.returncode, err) == (0, "")
    nobody_lives([group])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGHUP])
def test_a_signal_leaves_nothing(place: str, number: signal.Signals) -> None:
    program = start(place)
    group = kernel_of(program)
    program.send_signal(number)
    program.communicate(timeout=60)
    assert program.returncode != 0
    nobody_lives([group])


def test_killed_while_the_guest_is_frozen(place: str) -> None:
    program = start(place)
    group = kernel_of(program)
    assert program.stdin is not None
    program.stdin.write("stop\n")
    program.stdin.flush()
    time.sleep(0.2)
    program.kill()
    program.communicate(timeout=60)
    nobody_lives([group])


def test_a_kernel_killed_in_mid_request(place: str) -> None:
    program = start(place, "--timeout", "4")
    group = kernel_of(program)
    os.kill(group, signal.SIGSTOP)  # it will not answer
    assert program.stdin is not None
    program.stdin.write("info balloon\n")
    program.stdin.flush()
    time.sleep(0.3)
    os.kill(group, signal.SIGKILL)
    out, err = program.communicate("system_reset\n" + 3 * "info balloon\n", timeout=60)  # a busy host boots slowly
    assert "hmp: the guest is gone: its kernel was killed by SIGKILL" in err
    stale, _, _, fresh = out.splitlines()[-4:]
    assert stale.startswith("balloon: actual=64,mem_swapped_in=0,")
    assert ",age=4" in stale
    assert fresh.startswith("balloon: actual=64,mem_swapped_in=0,")
    assert ",age=" not in fresh
    nobody_lives([group])


def test_sockets_and_headless(place: str, tmp_path: Path) -> None:
    program = start(place, "--headless", "--qmp", f"unix:{tmp_path}/q,wait=off")
    assert program.stderr is not None
    assert program.stderr.readline().startswith("hmp: ready")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(f"{tmp_path}/q")
        with client.makefile("rw") as stream:
            assert "QMP" in stream.readline()
            stream.write('{"execute": "qmp_capabilities"}{"execute": "query-balloon"}')
            stream.flush()
            assert "return" in stream.readline()
            line = stream.readline()
            assert '"actual": 67108864' in line, line
    program.terminate()
    program.communicate(timeout=60)
    assert program.returncode == 0
