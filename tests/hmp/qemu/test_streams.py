"""Monitors on terminals, pipes and files, as QEMU's command line makes them; compared with the real QEMU where it is installed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hmp.sockets.telnet import OPENING
from tests.hmp.qemu.test_command_line import command, qemu
from tests.support.programs import Talker
from tests.support.qemu import PROGRAM, needs_qemu
from tests.support.shell import environment
from tests.support.timing import PATIENCE, until

BANNER = b"QEMU 7.2 monitor - type 'help' for more information\r\n(qemu) "
GREETING = b'{"QMP": {"version": {}, "capabilities": ["oob"]}}\r\n'
NEGOTIATE = b'{"execute": "qmp_capabilities"}{"execute": "query-name"}'

PROGRAMS = [
    pytest.param(command(), id="hmp-qemu"),
    pytest.param([PROGRAM or "", "-display", "none", "-S"], id="qemu", marks=[*needs_qemu, pytest.mark.slow]),
]

MUXES = {
    "-monitor mon:stdio": 1,
    "-chardev stdio,id=c,mux=on -mon c": 1,
    "-serial mon:stdio": 2,
    "-debugcon mon:stdio": 2,
    "-chardev stdio,id=c,mux=on -serial chardev:c -mon c": 2,
    "-chardev stdio,id=c,mux=on,signal=off -mon c,mode=readline -device isa-serial,chardev=c": 2,
    "-chardev stdio,id=c,mux=on -mon c -serial chardev:c -serial chardev:c": 3,
}
"""How many share the stream: a monitor, which is the first, and serial ports."""

DEFAULTS = {
    "": {"serial0 vc", "parallel0 vc"},
    "-nographic": {"serial0 stdio", "parallel0 null"},
    "-nographic -monitor none": {"serial0 stdio", "parallel0 null"},
    "-nographic -nodefaults": set(),
    "-serial null": {"serial0 null", "parallel0 vc"},
    "-nographic -parallel none": {"serial0 stdio"},
    "-nographic -serial mon:null": {"serial0 mux", "serial0-base null", "parallel0 null"},
    "-nographic -chardev null,id=c -device isa-serial,chardev=c": {"c null", "parallel0 null"},
    "-chardev null,id=c -device isa-parallel,chardev=c": {"c null", "serial0 vc"},
}
"""The character devices beside that of QMP, with which there is no monitor on a screen."""


def plain(data: bytes) -> bytes:
    """Leave out the version's last number and package."""
    data = re.sub(rb'("version": )\{"qemu": \{[^}]*\}, "package": "[^"]*"\}', rb"\1{}", data)
    # The real QEMU greets twice if a program opened the terminal before its first check.
    return re.sub(rb"QEMU 7\.2\.\d+", b"QEMU 7.2", data).replace(BANNER * 2, BANNER).replace(GREETING * 2, GREETING)


class Running:
    """A program with a QMP socket beside the monitor that is tested."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, wanted: int) -> None:
        assert process.stdout is not None
        self.folder = folder
        self.told = [process.stdout.readline().decode() for _ in range(wanted)]
        self.names = [line.split()[4] for line in self.told]

    def ask(self, name: str) -> object:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            until(lambda: client.connect_ex(str(self.folder / "zz")) == 0)
            talker = Talker(client)
            talker.message()
            talker.ask("qmp_capabilities")
            return talker.ask(name)["return"]


@contextlib.contextmanager
def running(program: list[str], folder: Path, *options: str, bare: bool = True) -> Iterator[Running]:
    line = [*program, *["-nodefaults"] * bare, *options, "-qmp", "unix:zz,server,nowait"]
    with subprocess.Popen(line, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          env=environment()) as process:  # fmt: skip
        try:
            yield Running(process, folder, options.count("pty"))
        finally:
            process.kill()


def heard(descriptor: int, end: bytes) -> bytes:
    """Read until `end` came."""
    found, late = b"", time.monotonic() + PATIENCE
    while not found.endswith(end):
        assert select.select([descriptor], [], [], max(0, late - time.monotonic()))[0], found
        found += os.read(descriptor, 4096)
    return found


@contextlib.contextmanager
def opened(*names: str | Path) -> Iterator[list[int]]:
    found = [os.open(name, os.O_RDWR | os.O_NOCTTY) for name in names]
    try:
        yield found
    finally:
        for each in found:
            os.close(each)


@pytest.mark.parametrize("program", PROGRAMS)
class TestStreams:
    def test_a_terminal_serves_one_program_after_the_other(self, program: list[str], tmp_path: Path) -> None:
        with running(program, tmp_path, "-monitor", "pty", "-qmp", "pty") as found:
            assert [re.sub(r"\d+ ", "N ", line) for line in found.told] == [
                f"char device redirected to /dev/pts/N (label compat_monitor{number})\n" for number in (0, 1)]  # fmt: skip
            for _ in range(2):
                with opened(*found.names) as (human, machine):
                    assert plain(heard(human, b"(qemu) ")) == BANNER
                    os.write(human, b"info uuid\r")
                    heard(human, b"\r\n00000000-0000-0000-0000-000000000000\r\n(qemu) ")
                    assert plain(heard(machine, b"\n")) == GREETING
                    os.write(machine, NEGOTIATE)
                    heard(machine, b'{"return": {}}\r\n' * 2)
                # Both notice in their loop that a program left, which takes a few turns. If the next one came before that,
                # they would continue as if it was the same program.
                for _ in range(3):
                    found.ask("query-name")

    def test_a_pipe_has_a_name_for_each_direction(self, program: list[str], tmp_path: Path) -> None:
        for end in ("in", "out"):
            os.mkfifo(tmp_path / f"p.{end}")
        with running(program, tmp_path, "-qmp", "pipe:p"), opened(tmp_path / "p.in", tmp_path / "p.out") as (into, out):
            assert plain(heard(out, b"\n")) == GREETING
            os.write(into, NEGOTIATE)
            assert heard(out, b'{}}\r\n{"return": {}}\r\n') == b'{"return": {}}\r\n' * 2

    def test_a_file_has_the_greeting(self, program: list[str], tmp_path: Path) -> None:
        (tmp_path / "g").write_bytes(b"before\n")
        options = ("-monitor", "file:f", "-chardev", "file,id=g,path=g,append=on", "-mon", "g,mode=control")
        with running(program, tmp_path, *options, "-serial", "mon:file:h") as found:
            until(lambda: (tmp_path / "f").exists() and plain((tmp_path / "f").read_bytes()) == BANNER)
            until(lambda: plain((tmp_path / "g").read_bytes()) == b"before\n" + GREETING)
            found.ask("query-name")  # the serial port is made last
            assert (tmp_path / "h").read_bytes() == b""

    def test_a_logfile_has_what_clients_were_sent(self, program: list[str], tmp_path: Path) -> None:
        for name in "lk":
            (tmp_path / name).write_bytes(b"before\n")
        served = "server=on,wait=off,logfile="
        options = (f"-monitor unix:a,{served}l -qmp-pretty unix:b,{served}k,logappend=on "
                   f"-chardev socket,id=t,host=127.0.0.1,port=0,telnet=on,{served}j -mon t "
                   "-chardev ringbuf,id=r,logfile=i -mon r -chardev file,id=f,path=f,logfile=h -mon f "
                   "-chardev null,id=n,logfile=g -mon n")  # fmt: skip
        talks = {"a": (b"(qemu) ", b"info uuid\n", b"0\r\n(qemu) "), "b": (b"\r\n}\r\n", NEGOTIATE[:31], b"}\r\n}\r\n")}
        with running(program, tmp_path, *options.split()) as found:
            port = int(re.findall(r"telnet:127\.0\.0\.1:(\d+)", str(found.ask("query-chardev")))[0])
            told = {"a": b"", "b": b""}
            for name in ("a", "b", "a"):
                greeting, talk, end = talks[name]
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(tmp_path / name))
                    told[name] += heard(client.fileno(), greeting)
                    client.sendall(talk)
                    told[name] += heard(client.fileno(), end)
            with socket.create_connection(("127.0.0.1", port)) as client:
                greeting = heard(client.fileno(), b"(qemu) ")[len(OPENING) :]
            logs = {"l": told["a"], "k": b"before\n" + told["b"], **dict.fromkeys("jih", greeting), "g": b""}
            # QEMU writes the log after the socket.
            until(lambda: {name: (tmp_path / name).read_bytes() for name in logs} == logs)

    @pytest.mark.parametrize("options", MUXES)
    def test_the_last_user_of_a_stream_has_the_keys_first(
        self, program: list[str], options: str, tmp_path: Path
    ) -> None:
        with subprocess.Popen([*program, "-nodefaults", *options.split()], cwd=tmp_path, stdin=subprocess.PIPE, bufsize=0,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()) as process:  # fmt: skip
            try:
                self._switch(process, MUXES[options])
            finally:
                process.kill()

    def _switch(self, process: subprocess.Popen[bytes], places: int) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        screen = process.stdout.fileno()
        if places > 1:
            process.stdin.write(b"quit\r\x01c")  # for a port, which drops it
        assert plain(heard(screen, b"(qemu) ")) == BANNER
        process.stdin.write(b"qui")
        heard(screen, b"qui\x1b[K")
        for place in range(places):
            process.stdin.write(b"\x01c")
            # The monitor ends its line when it loses the keys, and begins a new one when it gets them again.
            if place == 0:
                heard(screen, b"\r\n" if places > 1 else b"\r\n(qemu) ")
        if places > 1:
            assert heard(screen, b"(qemu) ") == b"(qemu) "
        process.stdin.write(b"info uuid\r")
        heard(screen, b"0\r\n(qemu) ")
        process.stdin.write(b"\x01x")
        assert heard(screen, b"\n\r") == b"QEMU: Terminated\n\r"
        assert process.wait(PATIENCE) == 0

    def test_what_query_chardev_shows(self, program: list[str], tmp_path: Path) -> None:
        for end in ("in", "out"):
            os.mkfifo(tmp_path / f"p.{end}")
        options = ("-monitor pty -monitor file:f -monitor pipe:p -qmp null -chardev ringbuf,id=r -mon r -serial pty "
                   "-serial vc -serial mon:file:h -parallel null -chardev file,id=g,path=g -chardev null,id=n "
                   "-device virtio-serial -chardev null,id=p -device virtserialport,chardev=p "
                   "-chardev null,id=d -device isa-debugcon,chardev=d")  # fmt: skip
        with running(program, tmp_path, *options.split()) as found:
            shown = found.ask("query-chardev")
        assert isinstance(shown, list)
        told = {f"{each['label']} {each['filename']} {each['frontend-open']}" for each in shown}
        assert told == {
            f"compat_monitor0 pty:{found.names[0]} True", "compat_monitor1 file True", "compat_monitor2 pipe True",
            "compat_monitor3 null True", "compat_monitor4 unix:zz,server=on True", "r ringbuf True", "serial1 vc True",
            f"serial0 pty:{found.names[1]} True", "serial2 mux True", "serial2-base file True", "parallel0 null True",
            "g file False", "n null False", "p null False", "d null True"}  # fmt: skip

    @pytest.mark.parametrize("options", DEFAULTS)
    def test_what_a_machine_has_unless_told_otherwise(self, program: list[str], options: str, tmp_path: Path) -> None:
        with running(program, tmp_path, *options.split(), bare=False) as found:
            shown = found.ask("query-chardev")
        assert isinstance(shown, list)
        assert {f"{each['label']} {each['filename']}" for each in shown if "zz" not in each["filename"]} == DEFAULTS[
            options
        ]


def test_a_logfile_that_cannot_be_written_is_given_up(tmp_path: Path) -> None:
    ended = qemu("-chardev", "stdio,id=a,logfile=/dev/full", "-mon", "a", text="info uuid\nquit\n", cwd=tmp_path)
    assert "0\r\n(qemu) " in ended.out
    lines = ended.err.splitlines()
    wrong = "-chardev stdio,id=a,logfile=/dev/full: logfile: No space left on device; nothing more is logged"
    assert lines[1:] == [f"hmp: {wrong}"]


def test_a_line_that_was_written_and_left_runs(tmp_path: Path) -> None:
    with running(command(), tmp_path, "-monitor", "pty", "-chardev", "pty,id=unused") as found:
        with opened(found.names[0]) as (human,):
            os.write(human, b"stop\r")
        until(lambda: json.dumps(found.ask("query-status")).count("paused") == 1)


def test_quit_at_a_terminal_ends_the_program(tmp_path: Path) -> None:
    with subprocess.Popen(command("-qmp", "pty"), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          env=environment()) as process:  # fmt: skip
        assert process.stdout is not None
        name = process.stdout.readline().split()[4].decode()
        with opened(name) as (client,):
            heard(client, b"\n")
            os.write(client, b'{"execute": "qmp_capabilities"} {"execute": "quit"}')
            assert b"SHUTDOWN" in heard(client, b'"}}\r\n{"return": {}}\r\n')
            assert process.wait(PATIENCE) == 0
