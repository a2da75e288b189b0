"""Monitors that nobody connects to: on stdin and stdout, on a socket that was handed over, and where we connect."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs import Program
from tests.support.shell import HMP, environment, hmp, start
from tests.support.sockets import Served, play
from tests.support.timing import PATIENCE

READY = "hmp: ready pid="
NEGOTIATE = '{"execute": "qmp_capabilities"}'
STATUS = '{"execute": "query-status"}'


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_qmp_on_a_pipe_answers_all_that_came_and_ends() -> None:
    ended = hmp("--qmp", "stdio", text=NEGOTIATE + STATUS * 500)
    assert (ended.status, ended.err.startswith(READY), ended.err.count("\n")) == (0, True, 1)
    greeting, negotiated, *answers = objects(ended.out)
    assert ("QMP" in greeting, negotiated) == (True, {"return": {}})
    assert answers == [{"return": {"status": "running", "singlestep": False, "running": True}}] * 500


def test_what_a_slow_reader_has_not_read_yet_is_not_lost() -> None:
    with start("--qmp", "stdio") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write((NEGOTIATE + '{"execute": "query-qmp-schema"}' * 20 + '{"execute": "quit"}').encode())
        process.stdin.close()
        process.stdin = None
        assert process.stderr is not None
        process.stderr.readline()
        text = process.stdout.read().decode()
        assert len(text) > 1 << 17
        assert [*objects(text)[-1]] == ["return"]
        assert process.wait(PATIENCE) == 0


def test_the_human_monitor_on_a_pipe_is_as_on_a_socket() -> None:
    ended = hmp("--monitor", "stdio", text="info status\n")
    assert ended.status == 0
    assert ended.out.startswith("QEMU 7.2.0 monitor - type 'help' for more information\r\n(qemu) ")
    assert ended.out.endswith("\r\nVM status: running\r\n(qemu) ")


def test_headless_goes_on_behind_the_end_of_stdin(tmp_path: Path) -> None:
    with Program(
        "--headless", "--qmp", "stdio", "--monitor", f"unix:{tmp_path}/m", stdin=subprocess.DEVNULL
    ) as program:
        with program.connect("monitor") as client:
            assert client.recv(4)
        status, out, _ = program.end()
    assert (status, [*objects(out)[0]]) == (0, ["QMP"])


def test_a_reader_that_is_gone_ends_it() -> None:
    with start("--qmp", "stdio") as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        process.stdout = None
        assert process.stdin is not None
        process.stdin.write((NEGOTIATE * 9).encode())
        process.stdin.flush()
        assert process.wait(PATIENCE) == 141


def test_a_terminal_brings_each_key_and_is_as_before_afterwards() -> None:
    import termios

    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    with start("--monitor", "stdio", stdin=theirs, stdout=theirs) as process:
        seen = b""
        while not seen.endswith(b"(qemu) "):
            seen += os.read(ours, 4096)
        flags = termios.tcgetattr(theirs)
        assert not flags[0] & (termios.ICRNL | termios.IXON), "Enter and Ctrl-S come as they are typed"
        assert not flags[3] & termios.ECHO
        os.write(ours, b"info sta")
        while b"info sta" not in seen:
            seen += os.read(ours, 4096)
        os.write(ours, b"tus\rquit\r")
        while b"VM status: running" not in seen:
            seen += os.read(ours, 4096)
        assert process.wait(PATIENCE) == 0
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize(("arguments", "words"), [
    (("--qmp", "stdio", "--monitor", "stdio"), "hmp: --qmp: 'stdio': another monitor has it already\n"),
    (("--qmp", "stdio", "-c", "info status"), "hmp: a monitor on stdio: not together with -c, SCRIPT or -i\n"),
    (("--qmp", "stdio", "-i"), "hmp: a monitor on stdio: not together with -c, SCRIPT or -i\n"),
    (("--qmp", "fd:0"), "hmp: --qmp: 'fd:0': the descriptor is not an open socket\n"),
    (("--qmp", "unix:nosuch,server=off"), "hmp: --qmp: 'unix:nosuch,server=off': No such file or directory\n"),
])  # fmt: skip
def test_impossible_combinations_are_refused(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    ended = hmp(*arguments, cwd=tmp_path)
    assert (ended.status, ended.out, ended.err) == (2, "", words)


@pytest.mark.parametrize("listens", [False, True])
def test_a_socket_that_was_handed_over(listens: bool, tmp_path: Path) -> None:
    if listens:
        handed = socket.socket(socket.AF_UNIX)
        handed.bind(f"{tmp_path}/q")
        handed.listen()
        client = socket.socket(socket.AF_UNIX)
    else:
        client, handed = socket.socketpair()
    with client, handed, start("--headless", "--qmp", f"fd:{handed.fileno()}", pass_fds=[handed.fileno()]) as process:
        handed.close()
        if listens:
            client.connect(f"{tmp_path}/q")
        client.settimeout(PATIENCE)
        with client.makefile() as lines:
            assert "QMP" in lines.readline()
            client.sendall((NEGOTIATE + '{"execute": "quit"}').encode())
            assert "SHUTDOWN" in lines.read()
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("scheme", ["unix", "tcp"])
def test_with_server_off_it_connects_once_at_the_start(scheme: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX if scheme == "unix" else socket.AF_INET) as server:
        server.bind(f"{tmp_path}/q" if scheme == "unix" else ("127.0.0.1", 0))
        server.listen()
        server.settimeout(PATIENCE)
        where = f"{tmp_path}/q" if scheme == "unix" else f"127.0.0.1:{server.getsockname()[1]}"
        with Program("--headless", "--qmp", f"{scheme}:{where},server=off") as program:
            client, _ = server.accept()
            with client, client.makefile() as lines:
                assert "QMP" in lines.readline()
            assert program.end() == (0, "", "")


def test_with_reconnect_it_connects_again_after_a_pause(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        path = served.name("qmp").removeprefix("unix:")
        await served.settle(25)  # nothing listens there, so it tries again
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            server.listen()
            server.setblocking(False)
            for _ in range(3):
                begun = served.loop.time()
                client, _ = await served.loop.sock_accept(server)
                assert served.loop.time() - begun <= 10.1
                with client:
                    assert (await served.loop.sock_recv(client, 4096)).startswith(b'{"QMP"')
                await served.settle(1)
                assert served.server.clients == 0

    play(scene, "linux", "qmp=unix:q,server=off,reconnect=10")


PARENT = """\
import subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=2, stderr=subprocess.PIPE)
print(process.stderr.readline().decode().split()[2])
sys.stdout.flush()
sys.stdin.read()
"""


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    command = [*HMP, "--headless", "--exit-with-parent", "--qmp", f"unix:{tmp_path}/q"]
    with subprocess.Popen([sys.executable, "-c", PARENT, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          env=environment()) as parent:  # fmt: skip
        assert parent.stdout is not None
        watched = os.pidfd_open(int(parent.stdout.readline().removeprefix(b"pid=")))
        parent.kill()
    import select

    assert select.select([watched], [], [], PATIENCE)[0]
    os.close(watched)
    assert not (tmp_path / "q").exists()


def test_it_ends_with_its_stdin(tmp_path: Path) -> None:
    with start("--headless", "--exit-with-parent", "--qmp", f"unix:{tmp_path}/q") as process:
        assert process.stderr is not None
        assert process.stdin is not None
        process.stderr.readline()
        process.stdin.write(b"not read as lines\n")
        process.stdin.close()
        process.stdin = None
        assert process.wait(PATIENCE) == 0
