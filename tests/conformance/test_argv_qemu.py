"""QEMU's command line: hmp-qemu ends with the same status and the same words as QEMU 7.2, or runs as it does."""

from __future__ import annotations

import shlex
import socket
import subprocess
from pathlib import Path

import pytest

from hmp.qemu.table import DEVICES
from tests.hmp.qemu.test_command_line import command, qemu
from tests.support.qemu import PROGRAM, needs_qemu
from tests.support.shell import TIMEOUT, environment
from tests.support.timing import until

ARGV = [shlex.split(line) for line in (Path(__file__).parent / "scenes/argv.txt").read_text().splitlines()]
NOISE = ("warning: ", "terminating on signal", "Please use ", "hmp: ready")
"""What QEMU and hmp say besides: QEMU warns of what it takes all the same, hmp does not."""

TOLD = {
    "-m 1K": "-m 1K: hmp has machines from 4M to 16T, not of 8192 bytes",
    "-m 17T": "-m 17T: hmp has machines from 4M to 16T, not of 18691697672192 bytes",
    "-qmp unix:": "-qmp unix:: Unable to parse FD number ",
    "-chardev socket,id=a,path=": "-chardev socket,id=a,path=: a path is missing",
    "-chardev socket,id=a,path=x,server,websocket": "-chardev socket,id=a,path=x,server,websocket: hmp has no websocket",
    "-mon x,help": "-mon x,help: Invalid parameter 'help'",
    "-qmp tcp:192.0.2.1:5,server,nowait": "-qmp tcp:192.0.2.1:5,server,nowait: a monitor has no password; "
        "--allow-remote lets other hosts than loopback reach it",
    "-monitor udp:localhost:1": "-monitor udp:localhost:1: hmp has no monitor on a 'udp'",
}  # fmt: skip
"""What hmp refuses in words of its own, where QEMU does without the reason or goes on."""


def outcome(argv: list[str], folder: Path) -> tuple[object, str]:
    """Return the exit status, or "runs" once QMP answers, and the first line of what is wrong, without the name."""
    errors = folder / "errors"
    # QEMU tries to connect in a thread, and its QMP can answer before it tells that this failed.
    last = "Unable to connect" if any("reconnect=" in word for word in argv) else ""
    daemon = "-daemonize" in argv  # it answers before its parent ends
    with errors.open("w") as target, subprocess.Popen(
        [*argv, "-qmp", "unix:zz,server=on,wait=off"], cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=target, env=environment(),
    ) as process:  # fmt: skip
        try:
            until(lambda: process.poll() is not None
                  or (not daemon and answers(folder / "zz") and last in errors.read_text()))  # fmt: skip
            runs = process.returncode is None
        finally:
            process.terminate()
        process.wait(TIMEOUT)
    if daemon:
        answers(folder / "zz", "quit")
    first = next((line for line in errors.read_text().splitlines() if not any(each in line for each in NOISE)), "")
    return "runs" if runs else process.returncode, first.partition(": ")[2]


def answers(path: Path, command: str = "query-status") -> bool:
    """Whether a QMP server there does what it is told: QEMU greets before it has made its devices."""
    try:
        with socket.socket(socket.AF_UNIX) as client, client.makefile() as lines:
            client.settimeout(TIMEOUT)
            client.connect(str(path))
            client.sendall(b'{"execute": "qmp_capabilities"} {"execute": "%s"}' % command.encode())
            return "return" in [lines.readline() for _ in range(3)][2]
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("argv", ARGV, ids=shlex.join)
class TestBoth:
    pytestmark = needs_qemu

    def test_an_option_is_taken_or_refused_by_both(self, argv: list[str], tmp_path: Path) -> None:
        assert PROGRAM is not None
        found = []
        for name, program in (("real", [PROGRAM]), ("fake", command(name="qemu-system-x86_64"))):
            (tmp_path / name).mkdir()
            found.append(outcome([*program, "-display", "none", *argv], tmp_path / name))
        assert found[0] == found[1]


@pytest.mark.parametrize("argv", TOLD)
def test_options_that_hmp_refuses_in_its_own_words(argv: str, tmp_path: Path) -> None:
    ended = qemu(*shlex.split(argv), cwd=tmp_path)
    assert (ended.status, ended.out, ended.err) == (1, "", f"hmp-qemu: {TOLD[argv]}\n")


@pytest.mark.external
@pytest.mark.skipif(PROGRAM is None, reason="needs qemu-system-x86_64 on PATH to compare with")
def test_the_device_models_are_qemus() -> None:
    assert PROGRAM is not None
    ended = subprocess.run([PROGRAM, "-device", "help"], capture_output=True, text=True, timeout=TIMEOUT)
    words = ended.stdout.split('"')[1::2]
    of_qemu = {word.removesuffix("-transitional").removesuffix("-non") for word in words if " " not in word}
    missing = {each for each in of_qemu - DEVICES if not each.endswith("-cpu") and "balloon" not in each}
    assert missing == set()
