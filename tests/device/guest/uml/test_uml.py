"""The uml guest with programs in place of a kernel: an error is reported in one line and leaves no files.

The real kernel is in tests/conformance/test_real_kernel.py.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from device.errors import MisuseError
from device.virtio.spec import MIB
from tests.support.descriptors import open_descriptors
from tests.support.real import Real, living, nobody_lives, state
from tests.support.timing import takes_less_than, until


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the guest's directories are made, by a short name; it must be empty at the end."""
    short = Path(f"/tmp/t{os.getpid()}")
    short.mkdir()
    monkeypatch.setenv("TMPDIR", str(short))
    yield short
    left = os.listdir(short)
    assert left == []
    short.rmdir()


@pytest.fixture
def spec(tmp_path: Path) -> str:
    """A guest whose kernel is the script that `kernel` writes."""
    (tmp_path / "module").write_bytes(b"")
    script(tmp_path / "busybox", "exit 0")
    return f"uml,kernel={tmp_path}/kernel,module={tmp_path}/module,busybox={tmp_path}/busybox"


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def gone(real: Real) -> str:
    real.until(lambda: real.guest.process is None)
    [event] = real.named("GUEST_GONE")
    assert event == {"why": real.guest.gone}
    return str(real.guest.gone)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("echo oops >&2; exit 3", "its kernel ended with status 3: oops"),
        ("echo out; exit 1", "its kernel ended with status 1: out"),
        ("exit 1", "its kernel ended with status 1"),
        ("exit 0", "its kernel ended with status 0"),  # --version or another program: it powered nothing off
        (
            "echo 'Checking that ptrace can change system call numbers...ptrace: Operation not permitted' >&2; exit 1",
            "it needs ptrace, which is not allowed here (",
        ),
        ("echo 'Kernel panic - not syncing: no memory'; kill -ABRT $$", "its kernel panicked: Kernel panic - not sync"),
        ("kill -SEGV $$", "its kernel was killed by SIGSEGV"),
    ],
)
def test_a_kernel_that_ends_says_why(place: Path, spec: str, tmp_path: Path, text: str, why: str) -> None:
    script(tmp_path / "kernel", text)
    with Real(spec, memory=64) as real:
        assert why in gone(real)
        assert os.listdir(place) == []
        state, _ = real.ask(0.1)
        assert state == "unsupported", "no driver was ever there and none will come"


def test_a_request_does_not_wait_for_the_driver_of_a_kernel_that_ended(place: Path, spec: str, tmp_path: Path) -> None:
    """The request waited for its whole timeout and then showed an age, though there had never been a driver."""
    script(tmp_path / "kernel", "sleep 0.1; exit 1")
    with Real(spec, memory=64) as real:
        request = real.machine.request_stats(10**11)
        gone(real)
        assert request.state == "unsupported"


def test_a_kernel_that_is_no_program_is_a_guest_that_ended(place: Path, spec: str, tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(b"\x7fELF but no more")
    (tmp_path / "kernel").chmod(0o755)
    with Real(spec, memory=64) as real:
        assert "ended with status 12" in gone(real)


def test_a_kernel_that_switches_itself_off_ends_the_machine(place: Path, spec: str, tmp_path: Path) -> None:
    script(tmp_path / "kernel", "echo '@@total 50000'; exit 0")
    with Real(spec, memory=64) as real:
        real.until(lambda: real.machine.over)
        assert real.named("SHUTDOWN") == [{"guest": True, "reason": "guest-shutdown"}]


def test_a_kernel_that_aborts_while_it_powers_off_is_off_too(place: Path, spec: str, tmp_path: Path) -> None:
    """Debian's does at times, at the very end, on a busy host."""
    script(tmp_path / "kernel", "read line; kill -ABRT $$")
    with Real(spec, memory=64) as real:
        real.machine.power_down()
        real.until(lambda: real.machine.over)
        assert real.named("SHUTDOWN") == [{"guest": True, "reason": "guest-shutdown"}]
        assert real.named("GUEST_GONE") == []


def test_a_wedged_kernel_keeps_nobody_waiting(place: Path, spec: str, tmp_path: Path) -> None:
    """It prints nothing and reads nothing: requests end at their deadline, controls say that it is not up."""
    script(tmp_path / "kernel", "sleep 1000 & wait")
    before = open_descriptors()
    with Real(spec, memory=64) as real:

        def request() -> float:
            state, seconds = real.ask(0.2)
            assert state == "timed out"
            return seconds

        takes_less_than(1, request)
        with pytest.raises(MisuseError, match="it is not up yet"):
            real.guest.controls.alloc(MIB)
        group = real.guest.process.pid
        assert len(living(group)) >= 2
        real.machine.power_down()
        assert not real.machine.over
        real.machine.set_balloon(60 * MIB)  # at once, because its floor is an estimate
        with pytest.raises(MisuseError, match="would not survive less than"):
            real.machine.set_balloon(16 * MIB)
    assert open_descriptors() == before
    nobody_lives([group])


def test_a_shell_that_does_not_answer(place: Path, spec: str, tmp_path: Path) -> None:
    script(tmp_path / "kernel", "echo '@@total 50000'; echo '@@up 0'; sleep 1000")
    with Real(spec, memory=64) as real:
        real.until(lambda: real.guest.process.console.up == 0)
        real.until(lambda: "CONFIG_VIRTIO_UML" in real.guest.shown().get("gone", ""))
        assert real.ask()[0] == "unsupported"

        def unanswered() -> float:
            start = time.monotonic()
            with pytest.raises(MisuseError, match="is not done after"):
                real.done(real.guest.shell("true", lambda answer: answer()[0], 100_000_000))
            return time.monotonic() - start

        takes_less_than(1, unanswered)
        for size in (4000, 1):
            for _ in range(5000):
                real.guest._send("x" * size)  # as far as the pipe holds it
        with pytest.raises(MisuseError, match="its console does not read"):
            real.shell("true")
        assert real.machine.running


def test_a_module_of_another_kernel(place: Path, spec: str, tmp_path: Path) -> None:
    script(tmp_path / "kernel", "echo '@@total 50000'; echo '@@up 1'; sleep 1000")
    with Real(spec, memory=64) as real:
        request = real.machine.request_stats(10**10)
        real.until(lambda: request.state != "pending")
        assert request.state == "unsupported"
        assert "is the module of another version?" in real.guest.shown()["gone"]
        assert real.named("DRIVER_MISSING") == [{"why": real.guest.gone}]


def test_the_kernel_gets_its_command_line_and_a_plain_environment(
    place: Path, spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "x")
    script(
        tmp_path / "kernel",
        f'echo "$@" > {tmp_path}/args; env > {tmp_path}/env; ls -l /proc/self/fd > {tmp_path}/fds; exit 1',
    )
    with Real(spec, memory=64) as real:
        gone(real)
    words = (tmp_path / "args").read_text().split()
    assert "mem=65536K" in words
    assert {"con=null", "con0=fd:0,fd:1", "ssl=null", "root=/dev/ram0"} <= set(words)
    [device] = [word for word in words if word.startswith("virtio_uml.device=")]
    assert device.endswith("/balloon:5")
    assert "SECRET" not in (tmp_path / "env").read_text()
    assert len((tmp_path / "fds").read_text().splitlines()) <= 6, "three, the listing's own, and none of ours"


SHELL = """
exec 3<&0
echo '@@total 50000'; echo '@@up 0'
while read -r number <&3 && read -r line <&3; do
    case "$line" in
        alloc*) echo 1048576; status=0;;
        *meminfo*) echo 'MemTotal: 50000 kB'; echo 'MemAvailable: 40000 kB'; status=0;;
        *insmod*) echo 'insmod: odd'; status=1;;
        *sysrq*) echo 'Kernel panic - not syncing: sysrq'; exit 1;;
        *rmmod*) read -r _ < GATE; status=0;;
    esac
    echo "@@$number $status"
done
"""
"""A kernel that boots and has a shell. It answers as a real one does, except that rmmod waits for a line in GATE."""


@pytest.fixture
def shell(place: Path, spec: str, tmp_path: Path) -> Iterator[Real]:
    os.mkfifo(tmp_path / "gate")
    script(tmp_path / "kernel", SHELL.replace("GATE", str(tmp_path / "gate")))
    with Real(spec, memory=64) as real:
        real.until(lambda: real.guest.process.console.up == 0)
        yield real


class TestTasks:
    """What takes the guest's shell a while is a task, and the monitor that asked waits for it."""

    def test_a_task_ends_with_its_result(self, shell: Real) -> None:
        task = shell.guest.controls.alloc(MIB)
        ended: list[int] = []
        task.on_done = lambda task: ended.append(task.result)
        assert task.pending
        assert shell.done(task) == MIB
        assert ended == [MIB]
        assert task.error is None

    def test_a_target_is_set_once_the_floor_is_known(self, shell: Real) -> None:
        task = shell.machine.set_balloon(48 * MIB)
        assert task is not None
        assert shell.device.target == 64 * MIB
        shell.done(task)
        assert shell.device.target == 48 * MIB
        floor = 64 * MIB - (40000 << 10) + 4 * MIB
        with pytest.raises(MisuseError, match=f"would not survive less than {-(-floor // MIB)}M"):
            shell.done(shell.machine.set_balloon(floor - MIB))
        assert shell.device.target == 48 * MIB

    def test_a_target_for_a_device_that_went_meanwhile(self, shell: Real) -> None:
        task = shell.machine.set_balloon(48 * MIB)
        shell.machine.device_del("balloon0")
        shell.machine.driver_released()
        with pytest.raises(MisuseError, match="No balloon device"):
            shell.done(task)

    def test_a_reset_ends_what_waits(self, shell: Real) -> None:
        task = shell.guest.controls.unload_driver()
        shell.machine.reset()
        with pytest.raises(MisuseError, match="cannot do that: it was reset"):
            shell.done(task)
        late = shell.machine.set_balloon(60 * MIB)
        assert late is None, "a kernel that boots has no shell: its floor is a guess"
        assert shell.device.target == 60 * MIB

    def test_a_cancelled_task_reports_no_result(self, shell: Real, tmp_path: Path) -> None:
        task = shell.guest.controls.unload_driver()
        task.on_done = lambda task: pytest.fail("nobody waits for it")
        task.cancel()
        (tmp_path / "gate").write_text("go\n")
        assert shell.done(shell.guest.controls.alloc(MIB)) == MIB, "the shell has gone on"
        shell.machine.reset()
        assert not task.pending

    def test_an_error_of_the_shell_is_shown(self, shell: Real) -> None:
        with pytest.raises(MisuseError, match="the uml guest's shell failed: insmod: odd"):
            shell.done(shell.guest.controls.load_driver())
        assert not shell.guest.booting

    def test_a_panic_is_what_was_asked_for(self, shell: Real) -> None:
        assert shell.done(shell.guest.controls.panic()) == 0
        assert shell.named("GUEST_PANICKED") == [{"action": "run"}]

    def test_a_kernel_that_dies_under_a_task(self, shell: Real) -> None:
        task = shell.guest.controls.unload_driver()
        os.killpg(shell.guest.process.pid, signal.SIGKILL)
        with pytest.raises(MisuseError, match="cannot do that: its kernel was killed by SIGKILL"):
            shell.done(task)


@pytest.mark.parametrize("act", ["stop", "stop cont"])
def test_a_kernel_that_died_just_before_a_stop_is_missed_all_the_same(
    place: Path, spec: str, tmp_path: Path, act: str
) -> None:
    """Sending the signal to freeze it reaped it, so its end was never reported and its descriptor stayed readable."""
    script(tmp_path / "kernel", "echo '@@total 50000'; echo '@@up 0'; read -r _")
    with Real(spec, memory=64) as real:
        real.until(lambda: real.guest.process.console.up == 0)
        process = real.guest.process.pid
        os.kill(process, signal.SIGKILL)
        until(lambda: state(process) == "Z")
        for each in act.split():
            getattr(real.machine, each)()
        real.until(lambda: real.named("GUEST_GONE"))
        assert real.guest.ended == "its kernel was killed by SIGKILL"
