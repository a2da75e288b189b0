"""Signals end hmp without leaving files behind, also where no loop handles them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from hmp.termination import CleanEnd, Terminated
from tests.support.shell import HMP, TIMEOUT, environment

SIGNALS = [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]


def start(*arguments: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*HMP, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment(), **options},  # type: ignore[dict-item]
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number, _ in SIGNALS],
    )


def await_file(path: Path) -> None:
    end = time.monotonic() + TIMEOUT
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), SIGNALS)
@pytest.mark.parametrize("how", ["option", "command"])
def test_a_vhost_user_socket_goes_with_a_piped_hmp(tmp_path: Path, number: int, status: int, how: str) -> None:
    path = tmp_path / "socket"
    spec = f"vhost-user,path={path}"
    program = start("--guest", spec) if how == "option" else start()
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write(f"sim guest {spec}\n" if how == "command" else "info kvm\n")
    program.stdin.write("info status\n")
    program.stdin.flush()
    while "running" not in program.stdout.readline():
        pass
    assert path.exists()
    program.send_signal(number)
    assert program.communicate(timeout=TIMEOUT) == ("", "")
    assert (program.returncode, os.listdir(tmp_path)) == (status, [])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_monitors_socket_goes_with_an_hmp_that_was_still_starting(tmp_path: Path, number: int) -> None:
    """The file used to stay: asyncio is imported between listening and the loop's own handlers."""
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "asyncio.py").write_text("import time\ntime.sleep(60)\n")
    program = start("--headless", "--monitor", f"unix:{tmp_path}/socket", PYTHONPATH=f"{tmp_path}/slow:{os.getcwd()}")
    await_file(tmp_path / "socket")
    program.send_signal(number)
    assert program.communicate(timeout=TIMEOUT) == ("", "")
    assert (program.returncode, sorted(os.listdir(tmp_path))) == (128 + number, ["slow"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo oops; exit 3", "the guest is gone: its kernel ended with status 3: oops"),
        (
            "echo '@@up 1'; sleep 100",
            "the guest's driver does not come up: its kernel did not accept the driver: is the module of another version?",
        ),
    ],
)
def test_a_real_guest_that_came_by_command_says_what_is_wrong(tmp_path: Path, script: str, words: str) -> None:
    kernel, part = tmp_path / "kernel", tmp_path / "part"
    kernel.write_text(f"#!/bin/sh\n{script}\n")
    part.write_text("#!/bin/sh\n")
    kernel.chmod(0o755)
    part.chmod(0o755)
    program = start()
    text = f"sim guest uml,kernel={kernel},module={part},busybox={part}\nsim sleep 0.5\n"
    assert program.communicate(text, timeout=TIMEOUT) == ("", f"hmp: {words}\n")


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_does_not_cut_the_clean_up_short(number: int, early: bool) -> None:
    before = {each: signal.signal(each, signal.SIG_DFL) for each in (signal.SIGTERM, signal.SIGHUP)}
    cleaned: list[int] = []

    def use(end: CleanEnd) -> None:
        try:
            end.allow()
            os.kill(os.getpid(), number)
        finally:
            for each in before:
                os.kill(os.getpid(), each)
                cleaned.append(each)

    try:
        end = CleanEnd()
        if early:
            os.kill(os.getpid(), number)
        with pytest.raises(Terminated) as told:
            use(end)
        assert told.value.code == 128 + number
        assert cleaned == list(before)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
