"""hmp with sockets as a process: how it starts, what runs beside it, how it ends."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import select
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hmp.sockets.service import report
from tests.support.programs import ENVIRONMENT, HMP, Program, Talker
from tests.support.timing import PATIENCE

QUICK = ("-m", "512", "--timeout", "0.5")


def addresses(path: Path) -> list[str]:
    return ["--qmp", f"unix:{path}/q", "--monitor", f"unix:{path}/m"]


def test_a_fault_of_ours_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    loop = asyncio.new_event_loop()
    report(loop, {"message": "callback\nfailed", "exception": ValueError("a\nb")})
    report(loop, {"message": "odd"})
    loop.close()
    assert capfd.readouterr().err == (
        "hmp: internal error: callback failed: ValueError('a\\nb')\nhmp: internal error: odd\n"
    )


@pytest.mark.parametrize(("headless", "number", "status", "reason"), [
    (True, signal.SIGTERM, 0, "host-signal"),
    (True, signal.SIGINT, 130, "host-signal"),
    (False, signal.SIGTERM, 143, "host-signal"),
    (False, 0, 0, "host-ui"),
])  # fmt: skip
def test_clients_get_the_reason_when_it_ends(
    headless: bool, number: int, status: int, reason: str, tmp_path: Path
) -> None:
    options = ["--headless"] if headless else []
    with Program(*options, "--qmp", f"unix:{tmp_path}/q", stdin=subprocess.PIPE) as program:
        talker = program.qmp()
        if number:
            program.process.send_signal(number)
        else:
            assert program.process.stdin is not None
            program.process.stdin.close()
            program.process.stdin = None
        while (message := talker.message()).get("event") != "SHUTDOWN":
            pass
        assert message["data"] == {"guest": False, "reason": reason}
        talker.close()
        assert program.end(0)[0] == status


@pytest.mark.slow
class TestStarting:
    def test_the_ready_line(self, tmp_path: Path) -> None:
        with Program(
            "--headless", "--qmp", "tcp:127.0.0.1:0", *addresses(tmp_path), "--monitor", "telnet:localhost:0"
        ) as program:
            assert re.fullmatch(
                rf"hmp: ready pid={program.process.pid} monitor=unix:{tmp_path}/m monitor=telnet:\S+:\d+ "
                rf"qmp=tcp:127\.0\.0\.1:[1-9]\d* qmp=unix:{tmp_path}/q\n",
                program.ready,
            )
            assert program.end() == (0, "", "")

    def test_wait_holds_the_guest_back_until_the_client_came(self, tmp_path: Path) -> None:
        with Program(
            "--headless", "--qmp", f"unix:{tmp_path}/q", "--monitor", f"unix:{tmp_path}/m,wait=on", "-c", "info status"
        ) as program:
            talker = program.qmp()
            assert talker.ask("query-status")["return"]["status"] == "prelaunch"
            with program.connect("monitor"):
                assert talker.message()["event"] == "RESUME"
                assert talker.ask("query-status")["return"]["status"] == "running"
            talker.close()
            assert program.end() == (0, "VM status: running\n", "")

    @pytest.mark.parametrize("way", ["script", "two", "-c", "pipe", "-i"])
    def test_wait_holds_every_source_back(self, way: str, tmp_path: Path) -> None:
        script = tmp_path / "script"
        script.write_text("info status\n")
        twice = [str(script), str(script)]
        options = {"script": twice[:1], "two": twice, "-c": ["-c", "info status"], "pipe": [], "-i": ["-i", *twice]}[
            way
        ]
        with (
            open(script) as stdin,
            Program(*addresses(tmp_path), f"--monitor=unix:{tmp_path}/w,wait=on", *options, stdin=stdin) as program,
        ):
            talker = program.qmp()
            assert talker.ask("query-status")["return"]["status"] == "prelaunch"
            assert program.process.stdout is not None
            assert not select.select([program.process.stdout], [], [], 0)[0]
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(f"{tmp_path}/w")
                times = {"two": 2, "-i": 3}.get(way, 1)
                assert program.end(0) == (0, "VM status: running\n" * times, "")
            talker.close()

    def test_it_can_be_ended_while_it_waits(self, tmp_path: Path) -> None:
        with Program("--headless", "--qmp", f"unix:{tmp_path}/q,wait=on") as program:
            assert program.end() == (0, "", "")
        assert not list(tmp_path.iterdir())

    def test_started_with_S_it_stays_paused_after_the_wait(self, tmp_path: Path) -> None:
        with Program("--headless", "-S", "--qmp", f"unix:{tmp_path}/q,wait=on") as program:
            talker = program.qmp()
            assert talker.ask("query-status")["return"]["status"] == "prelaunch"
            talker.close()


WRONG = {
    "is not unix:PATH": ["--qmp", "nosuch"],
    "a unix socket takes 107": ["--qmp", "unix:/" + "x" * 200],
    "the directory does not exist": ["--qmp", "unix:none/q"],
    "is not a socket; it is left alone": ["--monitor", "unix:file"],
    "--allow-remote": ["--monitor", "tcp:0.0.0.0:0"],
    "unknown host": ["--allow-remote", "--qmp", "tcp:host.invalid:0"],
    "is not a dialect": ["--qmp", "unix:q,dialect=xen"],
    "needs a --monitor or --qmp": ["--headless"],
    "--qmp: 'unix:./q': --monitor names the same address": ["--qmp", "unix:./q", "--monitor", "unix:q"],
    "--monitor: 'telnet:127.0.0.1:4": ["--monitor", "tcp:127.0.0.1:4444", "--monitor", "telnet:127.0.0.1:4444"],
    "--qmp: 'unix:q%d': --qmp names": ["--count", "2", "--qmp", "unix:q%d", "--qmp", "unix:q%d"],
    "'nosuch'": ["--qmp", "unix:q", "--guest", "nosuch"],
}
"""Wrong uses of addresses, by what the one line says."""


@pytest.mark.slow
@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_use_is_one_line_and_exit_2_and_nothing_is_created(words: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    done = subprocess.run(
        [*HMP, *WRONG[words]],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("hmp: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "precious"


def test_ctrl_c_ends_it_also_where_it_was_ignored(tmp_path: Path) -> None:
    """As with `&` in a script, which has no job control."""
    ignore: Callable[[], object] = lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)  # noqa: E731
    with Program("--headless", *addresses(tmp_path), preexec_fn=ignore) as program:
        program.process.send_signal(signal.SIGINT)
        assert program.end(0) == (130, "", "")


@pytest.mark.slow
class TestEnding:
    @pytest.mark.parametrize(
        ("number", "headless", "status"),
        [
            (signal.SIGTERM, True, 0),
            (signal.SIGINT, True, 130),
            (signal.SIGHUP, True, 129),
            (signal.SIGTERM, False, 143),
            (signal.SIGINT, False, 130),
        ],
    )
    def test_signals(self, number: int, headless: bool, status: int, tmp_path: Path) -> None:
        options = [*addresses(tmp_path), *(["--headless"] if headless else [])]
        with Program(*options, stdin=subprocess.PIPE) as program:
            talker = program.qmp()
            program.process.send_signal(number)
            event = talker.message()
            assert (event["event"], event["data"]["reason"]) == ("SHUTDOWN", "host-signal")
            assert talker.socket.recv(1) == b""
            talker.close()
            assert program.end(0) == (status, "", "")
        assert not list(tmp_path.iterdir())

    def test_nohup_is_respected(self, tmp_path: Path) -> None:
        ignore: Callable[[], object] = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
        with Program("--headless", *addresses(tmp_path), preexec_fn=ignore) as program:
            program.process.send_signal(signal.SIGHUP)
            program.qmp().close()
            assert program.end()[0] == 0

    @pytest.mark.parametrize("headless", [True, False])
    @pytest.mark.parametrize("way", ["qmp", "hmp"])
    def test_quit_with_others_connected(self, headless: bool, way: str, tmp_path: Path) -> None:
        options = [*addresses(tmp_path), "--guest", "silent", *(["--headless"] if headless else [])]
        with Program(*options, stdin=subprocess.PIPE) as program:
            other, waits, human = program.qmp(), program.connect("monitor"), program.connect("monitor")
            waits.sendall(b"info balloon\n")
            if way == "qmp":
                asks = program.qmp()
                assert asks.ask("quit") == {"return": {}}
                assert asks.socket.recv(1) == b""
                asks.close()
            else:
                human.sendall(b"quit\n")
            assert other.message()["event"] == "SHUTDOWN"
            assert other.socket.recv(1) == b""
            for client in (waits, human):
                while client.recv(1 << 16):
                    pass
                client.close()
            other.close()
            assert program.end(0) == (0, "", "")
        assert not list(tmp_path.iterdir())

    def test_a_guest_that_shuts_down_ends_it(self, tmp_path: Path) -> None:
        with Program("--headless", *addresses(tmp_path)) as program:
            talker = program.qmp()
            talker.ask("system_powerdown")
            while talker.message().get("event") != "SHUTDOWN":
                pass
            talker.close()
            assert program.end(0) == (0, "", "")

    def test_a_stdout_that_nobody_reads_holds_neither_clients_nor_signals_up(self, tmp_path: Path) -> None:
        with Program(*addresses(tmp_path), stdin=subprocess.PIPE) as program:
            assert program.process.stdin is not None
            program.process.stdin.write(b"help\n" * 5000)
            talker = program.qmp()
            assert talker.ask("query-name") == {"return": {}}
            program.process.terminate()
            talker.close()
            assert program.process.wait(PATIENCE) == 143

    @pytest.mark.parametrize("status", [1, 141])
    def test_a_stdout_that_cannot_be_written(self, status: int, tmp_path: Path) -> None:
        if status == 1:
            target = os.open("/dev/full", os.O_WRONLY)
        else:
            reading, target = os.pipe()
            os.close(reading)
        with Program("--headless", "-c", "info status", *addresses(tmp_path), stdout=target) as program:
            os.close(target)
            found, _, complaints = program.end(0)
        assert found == status
        assert complaints == ("hmp: cannot write output: No space left on device\n" if status == 1 else "")
        assert not list(tmp_path.iterdir())


@pytest.mark.slow
class TestBeside:
    """Lines from stdin, -c and scripts, while sockets are served."""

    def test_the_end_of_stdin_ends_everything(self, tmp_path: Path) -> None:
        with Program(*addresses(tmp_path), stdin=subprocess.PIPE) as program:
            talker = program.qmp()
            stdin = program.process.stdin
            assert stdin is not None
            stdin.write(b"stop\n")
            stdin.flush()
            assert talker.message()["event"] == "STOP"
            stdin.write(b"info status")
            stdin.close()
            program.process.stdin = None
            assert talker.message()["event"] == "SHUTDOWN"
            assert talker.socket.recv(1) == b""
            talker.close()
            assert program.end(0) == (0, "VM status: paused\n", "")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("kind", ["file", "null", "closed"])
    def test_a_stdin_that_has_an_end_at_once(self, kind: str, tmp_path: Path) -> None:
        if kind == "file":
            (tmp_path / "lines").write_bytes(b"info name\r\nnosuch\ninfo status")
            with open(tmp_path / "lines") as file, Program(*addresses(tmp_path), "--name", "vm", stdin=file) as program:
                status, out, complaints = program.end(0)
            assert (status, out) == (1, "vm\nunknown command: 'nosuch'\nVM status: running\n")
            assert complaints == "hmp: <stdin>:2: command failed: unknown command: 'nosuch'\n"
            return
        close: dict[str, Any] = {"preexec_fn": lambda: os.close(0)} if kind == "closed" else {}
        with Program(*addresses(tmp_path), **close) as program:
            assert program.end(0) == (0, "", "")

    def test_a_stdin_that_cannot_be_read(self, tmp_path: Path) -> None:
        with open(os.devnull, "wb") as wrong, Program(*addresses(tmp_path), stdin=wrong) as program:
            assert program.end(0) == (1, "", "hmp: <stdin>: cannot be read: Bad file descriptor\n")

    @pytest.mark.parametrize("kind", ["null", "closed", "pipe"])
    def test_headless_goes_on(self, kind: str, tmp_path: Path) -> None:
        close: dict[str, Any] = {"preexec_fn": lambda: os.close(0)} if kind == "closed" else {}
        stdin = subprocess.PIPE if kind == "pipe" else subprocess.DEVNULL
        with Program("--headless", *addresses(tmp_path), stdin=stdin, **close) as program:
            if program.process.stdin is not None:
                program.process.stdin.close()
                program.process.stdin = None
            talker = program.qmp()
            assert talker.ask("query-name") == {"return": {}}
            talker.close()
            assert program.end() == (0, "", "")

    def test_headless_runs_commands_and_scripts_then_serves(self, tmp_path: Path) -> None:
        (tmp_path / "script").write_text("# comment\nstop\ninfo status\n")
        with Program("--headless", "--echo", str(tmp_path / "script"), *addresses(tmp_path)) as program:
            talker = program.qmp()
            while talker.ask("query-status")["return"]["running"]:
                pass
            talker.close()
            assert program.end() == (0, "(qemu) stop\n(qemu) info status\nVM status: paused\n", "")

    def test_exit_on_error_ends_a_headless_one(self, tmp_path: Path) -> None:
        with Program("--headless", "-e", "-c", "nosuch", "-c", "stop", *addresses(tmp_path)) as program:
            status, out, complaints = program.end(0)
        assert (status, out) == (1, "unknown command: 'nosuch'\n")
        assert complaints == "hmp: -c:1: command failed: unknown command: 'nosuch'\n"

    def test_a_line_of_stdin_waits_and_clients_do_not(self, tmp_path: Path) -> None:
        with Program(*QUICK, "--guest", "silent", *addresses(tmp_path), stdin=subprocess.PIPE) as program:
            talker = program.qmp()
            stdin = program.process.stdin
            assert stdin is not None
            stdin.write(b"info balloon\nstop\n")
            stdin.close()
            program.process.stdin = None
            assert talker.ask("query-name") == {"return": {}}
            assert talker.message()["event"] == "STOP"
            talker.close()
            status, out, _ = program.end(0)
            assert (status, out[:24]) == (0, "balloon: actual=512,age=")

    def test_a_coprocess_gets_each_answer_before_it_sends_the_next_line(self, tmp_path: Path) -> None:
        with Program(*addresses(tmp_path), stdin=subprocess.PIPE) as program:
            stdin, stdout = program.process.stdin, program.process.stdout
            assert stdin is not None
            assert stdout is not None
            for line, answer in ((b"info status\n", b"VM status: running\n"), (b"# x\ninfo name\nnosuch\n", b"unkn")):
                stdin.write(line)
                stdin.flush()
                assert stdout.readline().startswith(answer)


@pytest.mark.slow
@pytest.mark.parametrize("descriptors", [24, 64, 96])
def test_clients_beyond_the_descriptors_are_reported_and_the_next_one_is_served(
    tmp_path: Path, descriptors: int
) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    with Program("--headless", *addresses(tmp_path), preexec_fn=limit) as program:
        clients: list[socket.socket] = []
        try:
            while True:
                clients.append(program.connect("qmp"))
                greeting = clients[-1].recv(4096)
                if not greeting.startswith(b'{"QMP"'):
                    break
                assert len(clients) < descriptors
            free = descriptors - len(os.listdir(f"/proc/{program.process.pid}/fd"))
            assert free <= max(3, descriptors // 8) + 1, f"{free} unused, {len(clients) - 1} clients"
            assert greeting == b'{"error": {"class": "GenericError", "desc": "too many clients"}}\r\n'
            assert clients[-1].recv(1) == b""
            with program.connect("monitor") as human:
                assert human.recv(4096) == b"too many clients\r\n"
            for client in clients[:2]:
                client.close()
            while True:  # until it saw them go
                talker = Talker(program.connect("qmp"))
                first = talker.message()
                if "QMP" in first:
                    assert talker.ask("qmp_capabilities") == {"return": {}}
                    talker.close()
                    break
                talker.close()
        finally:
            for client in clients:
                client.close()
        assert program.end() == (0, "", "")
