"""On hosts without memfd_create, MADV_REMOVE or /proc the monitors work all the same (containers, other systems)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from device.errors import MisuseError
from device.guest.table import make_guest
from tests.support.lacking import EVERYTHING, TAKE
from tests.support.programs import Program
from tests.support.real import needs_kernel
from tests.support.shell import ROOT, TIMEOUT, environment
from tests.support.timing import PATIENCE

pytestmark = pytest.mark.slow

SCRIPT = """\
balloon 512
sim sleep 30
info balloon
savevm a
balloon 1024
sim sleep 30
info balloon
loadvm a
info balloon
system_reset
info balloon
"""


def program(lacking: str) -> list[str]:
    return [sys.executable, "-m", "tests.support.lacking", lacking]


def piped(lacking: str, *arguments: str, text: str = SCRIPT) -> tuple[int, str, str]:
    ended = subprocess.run(
        [*program(lacking), *arguments], input=text, capture_output=True, text=True, timeout=TIMEOUT,
        env=environment(), cwd=ROOT,
    )  # fmt: skip
    return ended.returncode, ended.stdout, ended.stderr


LACKING = [*(name for name in TAKE if name != "not-unix"), EVERYTHING, "memfd-EPERM,advice,proc"]


@pytest.fixture(scope="module")
def expected() -> str:
    """What the script prints where nothing is missing."""
    ended = subprocess.run(
        [sys.executable, "-m", "hmp", "--clock", "warp"], input=SCRIPT, capture_output=True, text=True,
        timeout=TIMEOUT, env=environment(), cwd=ROOT,
    )  # fmt: skip
    assert ended.stdout.count("balloon: actual=512,") == 3  # a reset keeps actual
    return ended.stdout


@pytest.mark.parametrize("lacking", LACKING)
def test_a_pipe_gets_the_same_bytes(lacking: str, expected: str) -> None:
    assert piped(lacking, "--clock", "warp") == (0, expected, "")


FILTERED = """
import sys
from device.guest.uml import xstate

xstate.FILTER = (
    (0x20, 0, 0, 0),
    (0x15, 2, 0, 319),  # memfd_create
    (0x15, 1, 0, 28),  # madvise
    (0x06, 0, 0, 0x7FFF0000),
    (0x06, 0, 0, 0x00050026),  # ENOSYS
)
xstate.restriction()()
from hmp.cli import main
sys.exit(main())
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filter is for x86-64")
def test_a_pipe_gets_the_same_bytes_under_a_filter_of_the_kernel(expected: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FILTERED, "--clock", "warp"], input=SCRIPT, capture_output=True, text=True,
        timeout=TIMEOUT, env=environment(), cwd=ROOT,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, expected, "")


@pytest.mark.parametrize("lacking", ["memfd", "advice", "proc", EVERYTHING])
def test_sockets_work(lacking: str, tmp_path: Path) -> None:
    hmp, qmp = f"unix:{tmp_path}/h,wait=off", f"unix:{tmp_path}/q,wait=off"
    with Program("--headless", "--monitor", hmp, "--qmp", qmp, program=program(lacking)) as running:
        with running.connect("monitor") as client, client.makefile("rwb", buffering=0) as stream:
            assert b"monitor" in stream.readline()
            client.sendall(b"info balloon\n")
            while b"balloon: actual=1024,mem_swapped_in=0," not in stream.readline():
                pass
        talker = running.qmp()
        assert talker.ask("query-balloon") == {"return": {"actual": 1 << 30}}
        talker.close()
        assert running.end() == (0, "", "")


@pytest.mark.parametrize("lacking", ["memfd", "advice", "proc", EVERYTHING])
def test_a_person_types(lacking: str, tmp_path: Path) -> None:
    command = program(lacking)
    child = pexpect.spawn(
        command[0], command[1:], env=environment() | {"XDG_STATE_HOME": str(tmp_path), "TERM": "xterm"},
        cwd=str(ROOT), dimensions=(24, 100), encoding="utf-8", timeout=PATIENCE,
    )  # fmt: skip
    child.expect(r"\(qemu\)")
    child.send("info balloon\r")
    child.expect("balloon: actual=1024,mem_swapped_in=0,")
    child.send("quit\r")
    child.expect(pexpect.EOF)
    child.close()
    assert (child.exitstatus, child.signalstatus) == (0, None)


def test_the_hosts_own_numbers_without_proc_are_none() -> None:
    assert piped("proc", "--guest", "host", text="info balloon\n") == (0, "balloon: actual=1024\n", "")


@pytest.mark.parametrize("guest", ["uml", "vhost-user,path=/tmp/none"])
def test_real_guests_say_what_they_need(guest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    status, out, err = piped("proc", "--guest", guest, text="info balloon\n")
    name = guest.partition(",")[0]
    words = f"the {name} guest needs Linux, with /proc: it shares memory and descriptors"
    assert (status, out, err) == (2, "", f"hmp: --guest '{guest}': {words}\n")
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(MisuseError, match=words):
        make_guest(guest)


@pytest.mark.external
@needs_kernel
def test_a_real_kernel_needs_no_memfd_of_ours() -> None:
    status, out, err = piped("memfd,advice", "--guest", "uml,mem=64M", "--timeout", "60", text="info balloon\n")
    assert (status, err) == (0, "")
    assert out.startswith("balloon: actual=64,mem_swapped_in=0,")


def test_16_tib_that_the_system_refuses_name_the_option() -> None:
    ended = subprocess.run(
        ["sh", "-c", 'ulimit -v 4000000; exec "$@"', "sh", *program("memfd"), "-m", "16T"],
        input="info balloon\n", capture_output=True, text=True, timeout=TIMEOUT, env=environment(), cwd=ROOT,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (2, "")
    [line] = ended.stderr.splitlines()
    assert (
        line
        == "hmp: cannot map 17592186044416 bytes of guest memory: [Errno 12] Cannot allocate memory (a smaller -m may do)"
    )


def test_a_search_that_would_take_hours_is_refused() -> None:
    status, out, err = piped("memfd", "-m", "16T", text="savevm a\ninfo balloon\n")
    assert status == 1
    assert out.startswith(
        "Error: this host cannot list the memory in use (no memfd), so it saves at most 1G (-m)\nballoon: actual="
    )
    assert "command failed" in err


MONITOR = """
import sys
sys.path.insert(0, {root!r})
from tests.support.lacking import TAKE
for what in ("memfd", "advice", "proc", "not-unix"):
    TAKE[what]()
from device.clock import SimulatedClock
from device.guest.table import PROFILES, make_guest
from device.machine.machine import Machine
from hmp.monitor.dialects import DIALECTS
from hmp.monitor.monitor import Monitor

machine = Machine(SimulatedClock(warps=True), ram=64 << 20, guest=make_guest("linux"))
machine.start()
monitor = Monitor(machine, DIALECTS["seed"])
monitor.host_files = True
for line in sys.stdin.read().splitlines():
    reply = monitor.execute(line)
    while reply.pending:
        machine.step(jump=True)
    print(reply.text, end="")
"""


def test_the_monitor_runs_where_there_are_no_processes() -> None:
    """As on WebAssembly: no fcntl, termios, resource, subprocess, ctypes, no fork."""
    text = SCRIPT.replace("512", "48").replace("1024", "64") + "sim guest uml\nhelp\nsim chart\ninfo virtio\n"
    ended = subprocess.run(
        [sys.executable, "-c", MONITOR.format(root=str(ROOT))], input=text, capture_output=True, text=True,
        timeout=TIMEOUT, env=environment(),
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.count("balloon: actual=48,") == 3
    assert "Error: the uml guest cannot run here: this Python has no" in ended.stdout
