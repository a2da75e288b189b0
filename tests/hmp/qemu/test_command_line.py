"""QEMU's own command line."""

from __future__ import annotations

import json
import os
import re
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from device.machine.machine import NIL_UUID
from hmp.config import Config
from hmp.monitor import UsageError
from hmp.qemu.command_line import read
from hmp.qemu.table import WITH_VALUE, WITHOUT
from hmp.sockets.telnet import OPENING
from tests.support.programs import Talker
from tests.support.qemu import PROGRAM
from tests.support.shell import TIMEOUT, Ended, environment, hmp
from tests.support.timing import PATIENCE

START = "import sys; sys.argv[0] = sys.argv.pop(1); from hmp.cli import main; sys.exit(main())"


def command(*arguments: str, name: str = "hmp-qemu") -> list[str]:
    return [sys.executable, "-c", START, name, *arguments]


def qemu(*arguments: str, name: str = "hmp-qemu", text: str = "", cwd: Path | None = None, **more: str) -> Ended:
    """Run hmp-qemu with `arguments`, `text` coming from a pipe."""
    ended = subprocess.run(command(*arguments, name=name), input=text.encode(), capture_output=True, timeout=TIMEOUT,
                           env=environment() | more, cwd=cwd)  # fmt: skip
    return Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())


def config(*arguments: str, **environ: str) -> Config:
    found = read(list(arguments), environ)
    assert isinstance(found, Config)
    return found


def places(*arguments: str) -> list[tuple[str, str, str]]:
    return [(each.kind, each.spec, each.label) for each in config(*arguments).addresses]


def ask(*requests: str) -> str:
    return "".join(json.dumps({"execute": each}) for each in ("qmp_capabilities", *requests))


def answers(text: str) -> list[Any]:
    return [each["return"] for line in text.splitlines() if "return" in (each := json.loads(line))]


PLACES = {
    ("-qmp", "unix:q"): ("qmp", "unix:q,server=off", "compat_monitor0"),
    ("-qmp", "unix:q,server"): ("qmp", "unix:q,wait=on", "compat_monitor0"),
    ("--qmp", "unix:q,server=on,wait=off"): ("qmp", "unix:q,wait=off", "compat_monitor0"),
    ("-monitor", "unix:a,,b,server,nowait"): ("monitor", "unix:a,,b,wait=off", "compat_monitor0"),
    ("-monitor", "telnet::23,server,nowait"): ("monitor", "telnet:127.0.0.1:23,wait=off", "compat_monitor0"),
    ("-chardev", "socket,id=c,host=::1,port=44,server=on,wait=off,ipv6=on", "-qmp", "chardev:c"):
        ("qmp", "tcp:[::1]:44,ipv6=on,wait=off", "c"),
    ("-qmp", "tcp:localhost:4,reconnect=1"): ("qmp", "tcp:localhost:4,server=off,reconnect=1", "compat_monitor0"),
    ("-qmp", "stdio"): ("qmp", "stdio", "compat_monitor0"),
    ("-chardev", "socket,id=c,path=q,server=on,wait=off", "-mon", "chardev=c,mode=control"):
        ("qmp", "unix:q,wait=off", "c"),
    ("-mon", "c", "-chardev", "socket,id=c,host=localhost,port=5,server=on,wait=off,nodelay"):
        ("monitor", "tcp:localhost:5,nodelay=on,wait=off", "c"),
    ("-chardev", "socket,id=ga,path=ga,server=on,wait=off", "-device", "virtserialport,chardev=ga"):
        ("serial", "unix:ga,wait=off", "ga"),
    ("-serial", "unix:s,server,nowait"): ("serial", "unix:s,wait=off", "serial0"),
    ("-serial", "mon:stdio"): ("monitor", "stdio,mux=on", "serial0-base"),
    ("-nographic",): ("monitor", "stdio,mux=on", "serial0-base"),
    ("-nographic", "-nodefaults", "-qmp", "stdio"): ("qmp", "stdio", "compat_monitor0"),
    ("-nographic", "-serial", "none"): ("monitor", "stdio", "compat_monitor0"),
    ("-nographic", "-device", "isa-serial"): ("monitor", "stdio", "compat_monitor0"),
    ("-nographic", "-monitor", "vc"): ("serial", "stdio", "serial0"),
    ("-nographic", "-serial", "mon:stdio"): ("monitor", "stdio,mux=on", "serial0-base"),
    ("-chardev", "stdio,id=c,signal=off", "-qmp", "chardev:c"): ("qmp", "stdio", "c"),
}  # fmt: skip


@pytest.mark.parametrize("arguments", PLACES)
def test_where_monitors_are(arguments: tuple[str, ...]) -> None:
    assert places(*arguments) == [PLACES[arguments]]


@pytest.mark.parametrize("arguments", [(), ("-monitor", "none"), ("-monitor", "vc"), ("-serial", "null"),
                                       ("-chardev", "null,id=x", "-mon", "x"), ("-qmp", "null")])  # fmt: skip
def test_monitors_that_nobody_can_reach_are_left_out(arguments: tuple[str, ...]) -> None:
    assert places(*arguments) == []
    assert config(*arguments).headless


def test_defaults_are_those_of_qemu() -> None:
    found = config()
    assert (found.ram, found.balloon, found.dialect, found.paused, found.name) == (
        128 << 20,
        False,
        "qemu",
        False,
        None,
    )


@pytest.mark.parametrize(("arguments", "name", "value"), [
    (("-m", "512"), "ram", 512 << 20),
    (("-m", "1G,slots=2,maxmem=8G"), "ram", 1 << 30),
    (("-m", "size=64M"), "ram", 64 << 20),
    (("-m", "010"), "ram", 10 << 20),
    (("-m", "8191K"), "ram", 8 << 20),
    (("-m", "+64.0"), "ram", 64 << 20),
    (("-m", "64", "-m", "slots=2", "-m", "maxmem=2G"), "ram", 64 << 20),
    (("-m", "0"), "ram", 128 << 20),
    (("-m", "0" * 5000 + "64"), "ram", 64 << 20),
    (("-m", f"64.5{'0' * 5000}M"), "ram", 129 << 19),
    (("-m", f"64,slots={'0' * 5000}1,maxmem=1G"), "ram", 64 << 20),
    (("-name", "guest=vm 1,debug-threads=on,process=x"), "name", "vm 1"),
    (("-name", "-odd"), "name", "-odd"),
    (("-uuid", "0D3D4C1C-7B9D-4A6C-9F5E-1B2A3C4D5E6F"), "uuid", "0d3d4c1c-7b9d-4a6c-9f5e-1b2a3c4d5e6f"),
    (("-smbios", "type=1,uuid=0D3D4C1C-7B9D-4A6C-9F5E-1B2A3C4D5E6F"), "uuid", "0d3d4c1c-7b9d-4a6c-9f5e-1b2a3c4d5e6f"),
    (("-smbios", "type=2,uuid=x"), "uuid", NIL_UUID),
    (("-daemonize", "-nographic", "-nodefaults"), "headless", True),
    (("-daemonize", "-nographic", "-serial", "null", "-parallel", "none", "-monitor", "none"), "headless", True),
    (("-S",), "paused", True),
    (("--no-shutdown",), "no_shutdown", True),
    (("-action", "shutdown=pause"), "no_shutdown", True),
    (("-no-reboot",), "resets", False),
    (("-action", "reboot=shutdown,panic=none"), "resets", False),
    (("-device", "virtio-balloon-pci,id=b,deflate-on-oom=on,bus=pci.0,addr=0x2"), "switches", {"deflate_on_oom": True}),
    (("-device", "virtio-balloon-pci,id=b"), "balloon", True),
    (("-device", "virtio-balloon-pci-non-transitional,id=b"), "device_id", "b"),
    (("-device", "virtio-balloon-pci-transitional,id=b"), "device_id", "b"),
    (("-device", '{"driver":"virtio-balloon-pci","id":"b","bus":"pci.0","deflate-on-oom":true}'), "device_id", "b"),
    (("-device", '{"driver":"virtio-balloon-pci","bus":"pci.0","deflate-on-oom":true}'), "switches", {"deflate_on_oom": True}),
    (("-device", "virtio-net-pci,netdev=n"), "balloon", False),
])  # fmt: skip
def test_each_option_sets_its_value(arguments: tuple[str, ...], name: str, value: object) -> None:
    assert getattr(config(*arguments), name) == value


def test_options_of_hmps_own() -> None:
    found = config(
        "-m", "64", HMP_ARGS="--guest 'slow,swap=0' --clock warp --dialect seed --device virtio-balloon-pci,id=x"
    )
    assert (found.guest, found.clock, found.dialect, found.balloon, found.device_id, found.ram) == (
        "slow,swap=0", "warp", "seed", True, "x", 64 << 20)  # fmt: skip


@pytest.mark.parametrize("own", ["-c quit", "-i", "script", "--nosuch", "--version", "--guest nosuch"])
def test_options_of_hmps_own_that_cannot_be(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError):
        config(HMP_ARGS=own)


def test_other_options_of_qemu_are_ignored_with_their_values(capfd: pytest.CaptureFixture[str]) -> None:
    ignored = [f"-{name}" for name in sorted(WITHOUT - {"S", "h", "help", "nographic", "version"})]
    for name in sorted(WITH_VALUE - {"action", "chardev", "device", "m", "mon", "monitor", "name", "pidfile", "qmp",
                                     "qmp-pretty", "serial", "parallel", "debugcon", "uuid", "watchdog-action"}):  # fmt: skip
        ignored += [f"-{name}", "-S"]
    found = config(*ignored, "disk.img")
    assert (found.paused, found.ram) == (False, 128 << 20)
    assert capfd.readouterr().err == ""
    config("-enable-kvm", "-cpu", "host", "disk.img", HMP_QEMU_VERBOSE="1")
    assert capfd.readouterr().err == (
        "hmp-qemu: ignores -enable-kvm\nhmp-qemu: ignores -cpu host\nhmp-qemu: ignores disk.img\n"
    )


WRONG = [
    ("-foo",), ("-m",), ("-m", "3x"), ("-m", "4G,x=1"), ("-m", "size="), ("-mon", "nosuch"), ("-mon", "mode=control"),
    ("-mon", "x,mode=foo"), ("-chardev", "nosuch,id=a"), ("-chardev", "socket"), ("-chardev", "null,id=1a"),
    ("-chardev", "socket,id=a,path=x,server=maybe"), ("-chardev", "null,id=x", "-chardev", "null,id=x"),
    ("-chardev", "socket,id=a,fd=77"), ("-name", "x,foo=1"), ("-uuid", "x"), ("-action", "foo=bar"),
    ("-action", "reboot=x"), ("-device", "virtio-balloon-pci,id=b,foo=1"), ("-device", '{"driver":'),
    ("-device", '{"driver":"virtio-balloon-pci","id":"a","x":1}'), ("-device", "virtio-balloon-pci,id=1"),
    ("-device", "virtio-balloon-pci", "-device", "virtio-balloon-pci"), ("-qmp", "unix:x,server=off,wait=off"),
    ("-qmp", "unix:x,server=on,wait=off,reconnect=1"), ("-qmp", "none"), ("-qmp", ""),
    ("-chardev", "file,id=x"), ("-pidfile", "/nonexistent/x"), ("-chardev", "null,id=x,foo=1"),
    ("-qmp", "stdio", "-monitor", "stdio"), ("-chardev", "file,id=x,path=/nonexistent/x"), ("-no-such-option", "-S"),
]  # fmt: skip


@pytest.mark.parametrize("arguments", WRONG)
def test_an_error_is_one_line_and_status_1(arguments: tuple[str, ...], tmp_path: Path) -> None:
    ended = qemu(*arguments, cwd=tmp_path)
    assert (ended.status, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert ended.err.startswith("hmp-qemu: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("arguments", "told"), [
    (("-mon", "x,mode=control,pretty=maybe"),
     "-mon x,mode=control,pretty=maybe: Parameter 'pretty' expects 'on' or 'off'"),
    (("-chardev", "socket,id=a,fd="), "-chardev socket,id=a,fd=: Unable to parse FD number "),
    (("-chardev", "socket,id=a,fd=77"), "-chardev socket,id=a,fd=77: File descriptor '77' is not a socket"),
    (("-chardev", f"socket,id=a,fd={'9' * 5000}"),
     f"-chardev socket,id=a,fd={'9' * 5000}: File descriptor '{'9' * 5000}' is not a socket"),
    (("-m", f"64,slots={1 << 64}"), f"-m 64,slots={1 << 64}: Value '{1 << 64}' is too large for parameter 'slots'"),
    (("-m", "64,slots=-1,maxmem=1G"), f"unsupported amount of memory slots: {(1 << 64) - 1}"),
    (("-m", f"64,slots={'9' * 5000}"),
     f"-m 64,slots={'9' * 5000}: Value '{'9' * 5000}' is too large for parameter 'slots'"),
    (("-m", "9" * 5000), f"-m {'9' * 5000}: Value '{'9' * 5000}' is out of range for parameter 'size'"),
    (("-m", "64,slots=2"), "slots specified but no max-size"),
    (("-device", "nosuch", "-device", "other"), "-device nosuch: 'nosuch' is not a valid device model name"),
    (("-m", "\u0663"), "-m \u0663: Parameter 'size' expects a non-negative number below 2^64"),
])  # fmt: skip
def test_errors_are_those_of_qemu(arguments: tuple[str, ...], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        config(*arguments)
    assert str(caught.value) == told


@pytest.mark.external
@pytest.mark.skipif(PROGRAM is None, reason="needs qemu-system-x86_64 on PATH to compare with")
@pytest.mark.slow
def test_the_options_with_a_value_are_qemus() -> None:
    assert PROGRAM is not None

    def says(name: str) -> bool:
        assert PROGRAM is not None
        command = [PROGRAM, "-display", "none", f"-{name}"]
        told = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT)
        return b"requires an argument" in told.stderr

    assert [name for name in sorted(WITH_VALUE) if not says(name)] == []
    usage = subprocess.run([PROGRAM, "-help"], capture_output=True, timeout=TIMEOUT).stdout.decode()
    named = {line.split()[0][1:] for line in usage.splitlines() if line.startswith("-")}
    assert named - {"h", "hda/-hdb", "hdc/-hdd", "fda/-fdb", "-preconfig"} <= WITH_VALUE | WITHOUT


@pytest.mark.parametrize(("arguments", "words"), [
    (("-machine", "help"), "Supported machines are:\npc "),
    (("-M", "?"), "Supported machines are:\npc "),
    (("-cpu", "help"), "Available CPUs:\n"),
    (("-accel", "help"), "Accelerators supported in QEMU binary:\ntcg\n"),
    (("-device", "help"), 'Misc devices:\nname "virtio-balloon-pci", bus PCI, alias "virtio-balloon"\n'),
    (("-device", "virtio-balloon-pci,help"), "virtio-balloon-pci options:\n"),
    (("--version",), "QEMU emulator version 7.2.0 (hmp-emulator "),
    (("-h",), "usage: hmp-qemu "),
])  # fmt: skip
def test_options_that_print_something_print_it(arguments: tuple[str, ...], words: str) -> None:
    ended = qemu(*arguments)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.startswith(words)


def test_the_program_called_qemu_system_takes_qemus_options(tmp_path: Path) -> None:
    ended = qemu("-qmp", "stdio", "-m", "256", "-device", "virtio-balloon-pci", name="/opt/bin/qemu-system-aarch64",
                 text=ask("query-balloon", "quit"))  # fmt: skip
    assert (ended.status, answers(ended.out)) == (0, [{}, {"actual": 256 << 20}, {}])


def test_no_shutdown_keeps_a_machine_that_its_guest_switched_off() -> None:
    ended = qemu("-qmp", "stdio", "-no-shutdown", text=ask("system_powerdown", "query-status", "cont", "system_reset",
                 "query-status", "cont", "query-status", "quit"), HMP_ARGS="--clock warp --device virtio-balloon-pci")  # fmt: skip
    assert ended.status == 0
    lines = [json.loads(line) for line in ended.out.splitlines()]
    events = [each["event"] for each in lines if "event" in each]
    assert events == ["POWERDOWN", "SHUTDOWN", "STOP", "RESET", "RESUME", "SHUTDOWN"]
    assert [each["return"]["status"] for each in lines if each.get("return", {}).get("status")] == [
        "shutdown", "prelaunch", "running"]  # fmt: skip
    assert [each["error"]["desc"] for each in lines if "error" in each] == [
        "Resetting the Virtual Machine is required"]  # fmt: skip


def test_no_reboot_ends_with_a_reset() -> None:
    ended = qemu("-qmp", "stdio", "-no-reboot", text=ask("system_reset"))
    assert ended.status == 0
    assert json.loads(ended.out.splitlines()[2]) | {"timestamp": 0} == {
        "timestamp": 0, "event": "SHUTDOWN", "data": {"guest": False, "reason": "host-qmp-system-reset"}}  # fmt: skip


def test_a_daemon_serves_when_its_parent_ends_and_leaves_nothing(tmp_path: Path) -> None:
    options = ("-daemonize", "-pidfile", "pid", "-qmp", "unix:q,server=on,wait=off")
    assert qemu(*options, cwd=tmp_path) == (0, "", "")
    number = int((tmp_path / "pid").read_text())
    watched = os.pidfd_open(number)
    assert os.getsid(number) == number
    again = qemu(*options, cwd=tmp_path)
    assert again.status == 1
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(f"{tmp_path}/q")
        talker = Talker(client)
        talker.message()
        talker.ask("qmp_capabilities")
        talker.ask("quit")
    assert select.select([watched], [], [], PATIENCE)[0]
    os.close(watched)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("arguments", "told"), [
    (("-monitor", "stdio"), "-monitor stdio: cannot use stdio with -daemonize"),
    (("-chardev", "stdio,id=a"), "-chardev stdio,id=a: cannot use stdio with -daemonize"),
    (("-serial", "mon:stdio"), "-serial mon:stdio: cannot use stdio with -daemonize"),
    (("-nographic",), "-nographic cannot be used with -daemonize"),
])  # fmt: skip
def test_no_daemon_on_stdio(arguments: tuple[str, ...], told: str, tmp_path: Path) -> None:
    assert qemu(*arguments, "-daemonize", "-pidfile", "pid", cwd=tmp_path) == (1, "", f"hmp-qemu: {told}\n")
    assert list(tmp_path.iterdir()) == []  # a daemon would have written its pid


def test_qmp_pretty() -> None:
    line = json.dumps({"execute": "query-name", "id": [{"a": '{", '}, {}, []]})
    ended = qemu("-qmp-pretty", "stdio", "-name", "x", text=ask() + line + ask("quit")[31:])
    assert '{\r\n    "return": {\r\n    }\r\n}\r\n' in ended.out
    assert (
        '    "return": {\r\n        "name": "x"\r\n    },\r\n    "id": [\r\n        {\r\n            "a": "{\\", "\r\n'
        "        },\r\n        {\r\n        },\r\n        [\r\n        ]\r\n    ]\r\n}\r\n"
    ) in ended.out
    assert qemu("-chardev", "stdio,id=a", "-mon", "a,mode=control,pretty=on", text=ask("quit")).out.startswith(
        '{\r\n    "QMP": {\r\n'
    )


def test_qmp_over_telnet(tmp_path: Path) -> None:
    options = ("-qmp", "telnet:127.0.0.1:0,server,nowait", "-qmp", "unix:q,server,nowait")
    with subprocess.Popen(command(*options), cwd=tmp_path, env=environment(), stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        port = int(re.findall(rb"telnet:127.0.0.1:(\d+)", process.stderr.readline())[0])
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as client, client.makefile("rb") as lines:
            assert lines.readline().startswith(OPENING + b'{"QMP"')
            client.sendall(b'{"execute": \xff\xf9"qmp_capabilities"} {"execute": "quit"}')
            assert lines.readline() == b'{"return": {}}\r\n'
        assert process.wait(PATIENCE) == 0


def test_a_pid_file_of_a_live_process_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(command("-pidfile", "pid", "-qmp", "stdio"), cwd=tmp_path, env=environment(),
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline()
        ended = qemu("-pidfile", "pid", cwd=tmp_path)
        assert (ended.status, ended.err.startswith("hmp-qemu: cannot create PID file: Cannot lock")) == (1, True)
        assert int((tmp_path / "pid").read_text()) == process.pid
        process.stdin.write(ask("quit").encode())
        process.stdin.close()
        process.stdin = None
        assert process.wait(PATIENCE) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_pid_file_that_somebody_removed_is_no_error(tmp_path: Path) -> None:
    with subprocess.Popen(command("-pidfile", "pid", "-qmp", "stdio"), cwd=tmp_path, env=environment(),
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline()
        (tmp_path / "pid").unlink()
        _, told = process.communicate(ask("quit").encode(), PATIENCE)
    assert (process.returncode, told.decode().count("\n")) == (0, 1), "the ready line, and nothing more"


def test_a_serial_port_is_there_and_silent(tmp_path: Path) -> None:
    with subprocess.Popen(command("-qmp", "stdio", "-serial", "unix:s,server,nowait", "-serial", "file:log", "-serial", "pty"),
                          cwd=tmp_path, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process, socket.socket(socket.AF_UNIX) as client:  # fmt: skip
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline().startswith(b"char device redirected to /dev/pts/")
        process.stdout.readline()
        client.settimeout(PATIENCE)
        client.connect(f"{tmp_path}/s")
        client.sendall(b"hello\n" * 9)
        process.stdin.write(ask("quit").encode())
        process.stdin.close()
        process.stdin = None
        assert client.recv(99) == b""
        assert process.wait(PATIENCE) == 0
    assert [each.name for each in tmp_path.iterdir()] == ["log"]


def test_a_monitor_behind_a_serial_port() -> None:
    ended = qemu("-nographic", text="lost\r\1h\1cinfo name\r\1cquit\r\1cinfo kvm\r\1c\1x")
    assert ended.status == 0
    assert "C-a x    end the machine\r\n" in ended.out
    assert ended.out.count("QEMU 7.2.0 monitor") == 1
    assert "kvm support: disabled\r\n" in ended.out
    assert ended.out.endswith("QEMU: Terminated\n\r")


def test_the_lines_before_the_key_that_ends_the_machine_all_run() -> None:
    """More than a turn and more than the line editor has room for. QEMU takes the keys of a packet in their order."""
    ended = qemu("-nographic", text="\1c" + "help balloon\r" * 3000 + "\1xinfo name\r")
    assert ended.out.count("balloon target -- ") == 3000
    assert ended.out.endswith("QEMU: Terminated\n\r")


def test_the_key_that_ends_the_machine_does_not_wait_for_a_guest() -> None:
    arguments = "--dialect", "seed", "--guest", "silent", "--timeout", "3600", "--monitor", "stdio,mux=on"
    started = subprocess.Popen(command(*arguments, name="hmp"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, env=environment(), bufsize=0)  # fmt: skip
    with started:
        assert started.stdin is not None
        assert started.stdout is not None
        started.stdin.write(b"\1cinfo balloon\r")
        said = b""
        while said.count(b"\r\n") < 2:  # after the banner, and after the command
            came = started.stdout.read(1)
            said += came
            assert came, said
        started.stdin.write(b"\1x")
        assert started.stdout.read().endswith(b"QEMU: Terminated\n\r")
        assert started.wait(TIMEOUT) == 0


@pytest.mark.parametrize(("word", "told"), [
    ("-qmp", "hmp: -qmp is an option of QEMU: hmp calls it --qmp ADDR; hmp-qemu takes QEMU's command line\n"),
    ("-monitor", "hmp: -monitor is an option of QEMU: hmp calls it --monitor ADDR; hmp-qemu takes QEMU's command line\n"),
    ("-nodefaults", "hmp: -nodefaults is an option of QEMU; hmp-qemu takes QEMU's command line\n"),
])  # fmt: skip
def test_an_option_of_qemus_given_to_hmp_is_an_error_with_hmps_name(word: str, told: str) -> None:
    ended = hmp(word, "unix:q")
    assert (ended.status, ended.out, ended.err) == (2, "", told)
