"""What --log writes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from device.clock import SECOND, SimulatedClock
from hmp.log import LIMIT, SHOWN, Log
from hmp.monitor import UsageError
from hmp.monitor.emulated import emulated
from tests.hmp.qmp.test_protocol import Talk
from tests.support.machines import build
from tests.support.programs import Program, Talker
from tests.support.shell import hmp, start
from tests.support.timing import PATIENCE

NEGOTIATE = '{"execute": "qmp_capabilities"}'


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_everything_both_ways_and_who_it_was(tmp_path: Path) -> None:
    with Program("--headless", "--clock", "warp", "--log", f"{tmp_path}/log", "--qmp", f"unix:{tmp_path}/q",
                 "--monitor", f"unix:{tmp_path}/m") as program:  # fmt: skip
        talker = program.qmp()
        talker.socket.sendall(b'{"execute": "query-name", "id": "x"} {"execute": 1} nonsense\n')
        for _ in range(3):
            talker.message()
        with program.connect("monitor") as human:
            human.sendall(b"info name\n")
            seen = b""
            while seen.count(b"(qemu) ") < 2:
                seen += human.recv(4096)
        assert talker.ask("stop") == {"return": {}}
        talker.close()
        assert program.end()[0] == 0
    found = entries(tmp_path / "log")
    assert all(each["t"] >= 0 and each["wall"] > 1e9 for each in found)
    first = [each for each in found if each["client"] == 1]
    assert {each["monitor"] for each in first} == {f"unix:{tmp_path}/q"}
    assert [each["what"] for each in first] == [
        "connect", "out", "in", "out", "in", "out", "in", "out", "in", "out", "in", "event", "out", "disconnect"]  # fmt: skip
    assert (first[4]["data"], first[4]["id"]) == ({"execute": "query-name", "id": "x"}, "x")
    assert (first[5]["data"], first[5]["id"]) == ({"return": {}, "id": "x"}, "x")
    assert "nonsense" in first[8]["raw"]
    assert "id" not in first[10]
    assert first[11]["data"]["event"] == "STOP"
    second = [each for each in found if each["client"] == 2]
    assert {each["monitor"] for each in second} == {f"unix:{tmp_path}/m"}
    assert "info name" in [each.get("raw") for each in second if each["what"] == "in"]
    assert "".join(each["raw"] for each in second if each["what"] == "out").encode() == seen


def test_a_browser_that_was_hung_up_on_is_in_the_log(tmp_path: Path) -> None:
    with Program("--headless", "--log", f"{tmp_path}/log", "--qmp", "tcp:127.0.0.1:0") as program:
        with program.connect() as browser:
            browser.sendall(b"POST / HTTP/1.1\r\n\r\n")
            while browser.recv(4096):
                pass
        program.end()
    found = entries(tmp_path / "log")
    assert [each["what"] for each in found] == ["connect", "out", "in", "disconnect"]
    assert found[2]["raw"].startswith("POST / HTTP/1.1")
    assert found[3]["why"] == "it spoke HTTP"


def test_lines_of_a_pipe_are_logged_too(tmp_path: Path) -> None:
    assert hmp("--log", "log", text="info name\ninfo status\n", cwd=tmp_path) == (0, "VM status: running\n", "")
    assert [(each["monitor"], each["client"], each["what"], each["raw"]) for each in entries(tmp_path / "log")] == [
        ("stdio", 0, "in", "info name"), ("stdio", 0, "in", "info status"), ("stdio", 0, "out", "VM status: running\n"),
    ]  # fmt: skip


def test_it_is_added_to_and_may_be_stderr(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("before\n")
    hmp("--log", "log", "-c", "info name", cwd=tmp_path)
    assert (tmp_path / "log").read_text().startswith('before\n{"t": ')
    assert json.loads(hmp("--log", "-", "-c", "info name").err)["raw"] == "info name"


def test_the_last_entries_are_shown(tmp_path: Path) -> None:
    ended = hmp("--log", "log", "-c", "info name", "-c", "info uuid", "-c", "sim log 2", "-c", "sim log", "-c", "sim log -1",
                cwd=tmp_path)  # fmt: skip
    shown = [json.loads(line)["raw"] for line in ended.out.splitlines() if line.startswith("{")]
    assert shown[:2] == ["00000000-0000-0000-0000-000000000000\n", "sim log 2"]
    assert "Error: sim log takes a number from 0 up, not -1\n" in ended.out


def test_what_is_long_is_cut(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "log"), SimulatedClock(warps=True))
    log.add("m", 1, "in", json.dumps({"execute": "x" * LIMIT, "id": 4}).encode())
    log.add("m", 1, "out", b"y" * (LIMIT + 1))
    log.close()
    first, second = entries(tmp_path / "log")
    assert (len(first["raw"]), first["bytes"], first["id"]) == (LIMIT, LIMIT + 24, 4)
    assert (len(second["raw"]), second["bytes"]) == (LIMIT, LIMIT + 1)


@pytest.mark.parametrize("depth", [150, 900, 1000, 1020])
def test_what_is_nested_deep_is_answered_and_logged_as_text(depth: int, tmp_path: Path) -> None:
    with Program("--headless", "--log", f"{tmp_path}/log", "--qmp", f"unix:{tmp_path}/q") as program:
        talker = program.qmp()
        id = "[" * depth + "{}" + "]" * depth
        talker.socket.sendall(f'{{"execute": "query-name", "id": {id}}}'.encode())
        answer = talker.line()
        assert talker.ask("query-name") == {"return": {}}
        talker.close()
        assert program.end() == (0, "", "")
    found = entries(tmp_path / "log")
    assert answer == f'{{"return": {{}}, "id": {id}}}\r\n'.encode()
    assert [each.get("raw") for each in found[4:6]] == [f'{{"execute": "query-name", "id": {id}}}', answer.decode()]


def test_every_line_is_json_even_if_a_message_has_infinity(tmp_path: Path) -> None:
    with Program("--headless", "--log", f"{tmp_path}/log", "--qmp", f"unix:{tmp_path}/q") as program:
        talker = program.qmp()
        talker.ask("human-monitor-command", command_line='sim reply stop client self raw "{\\"a\\": NaN}\\r\\n"')
        talker.socket.sendall(b'{"execute": "query-name", "id": 1e999} {"execute": "stop"}')
        assert [talker.line(), talker.line()] == [b'{"return": {}, "id": inf}\r\n', b'{"a": NaN}\r\n']
        talker.close()
    lines = (tmp_path / "log").read_text().splitlines()
    found = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [each.get("raw") for each in found[6:]] == [
        '{"execute": "query-name", "id": inf}', '{"return": {}, "id": inf}\r\n', None, '{"a": NaN}\r\n', None]  # fmt: skip


def test_a_bad_message_in_pieces_is_logged_whole() -> None:
    log = Log(None, SimulatedClock(warps=True))
    machine = build()
    emulated(machine).log = log
    talk = Talk(machine)
    talk.session.on_command = lambda message: log.add("m", 1, "in", message)
    for byte in '{"a" 1}':
        talk.send(byte)
    talk.send('{"execute": "query-name"}')
    for byte in " [1} [1]":
        talk.send(byte)
    assert [json.loads(line).get("raw") for line in log.entries] == ['{"a" 1}', None, "[1}", "[1]"]


def test_times_are_the_machines() -> None:
    clock = SimulatedClock(warps=True)
    log = Log(None, clock)
    log.add("m", 1, "connect")
    clock.move_to(clock.now() + 3 * SECOND)
    for _ in range(SHOWN):
        log.add("m", 1, "in", b'\xff"')
    assert len(log.entries) == SHOWN
    assert json.loads(log.entries[-1]) | {"wall": 0} == {
        "t": 3.0, "wall": 0, "monitor": "m", "client": 1, "what": "in", "raw": "\\xff\""}  # fmt: skip


@pytest.mark.parametrize(("path", "words"), [
    ("nosuch/log", "No such file or directory"), (".", "Is a directory"), ("fifo", "nobody reads this FIFO or socket"),
    ("socket", "nobody reads this FIFO or socket"),
])  # fmt: skip
def test_a_log_that_cannot_be_written_is_refused(path: str, words: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"{tmp_path}/socket")
    ended = hmp("--log", path, "-c", "info name", cwd=tmp_path)
    assert (ended.status, ended.out, ended.err) == (2, "", f"hmp: --log '{path}': {words}\n")
    with pytest.raises(UsageError):
        Log(str(tmp_path), SimulatedClock(warps=True))


def test_a_full_disk_ends_the_log_and_not_the_machine() -> None:
    ended = hmp("--log", "/dev/full", "-c", "info status", "-c", "info status")
    assert ended == (0, "VM status: running\n" * 2,
                     "hmp: --log '/dev/full': No space left on device; nothing more is logged\n")  # fmt: skip


def test_a_reader_that_is_gone_ends_the_log_and_not_the_machine(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    with start("--log", "fifo", cwd=tmp_path, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"info status\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"VM status: running\n"
        os.close(reader)
        out, err = process.communicate(b"info status\n", timeout=PATIENCE)
        assert (process.returncode, out) == (0, b"VM status: running\n")
        assert err == b"hmp: --log 'fifo': Broken pipe; nothing more is logged\n"


def test_a_qmp_client_reads_it_with_sim_log(tmp_path: Path) -> None:
    with Program("--headless", "--log", f"{tmp_path}/log", "--qmp", f"unix:{tmp_path}/q") as program:
        talker: Talker = program.qmp()
        line = talker.ask("human-monitor-command", command_line="sim log 1")["return"]
        assert json.loads(line)["data"]["arguments"] == {"command-line": "sim log 1"}
        talker.close()
