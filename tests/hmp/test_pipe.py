"""hmp in pipes and scripts, as a program: streams as they really are, and exit statuses."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hmp.config import Config
from hmp.options import parse
from hmp.pipe import Runner, run
from hmp.streams import Source
from tests.support.machines import build, monitor
from tests.support.shell import ROOT, TIMEOUT, environment, hmp, shell, start
from tests.support.torn import torn

STATUS = "VM status: running\n"
KVM = "kvm support: disabled\n"
WARP = ("--clock", "warp")


def finish(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=TIMEOUT)
    return process.returncode, (out or b"").decode(), (err or b"").decode()


# Input as it comes.

INPUTS = [
    ("nothing", b"", "", 0),
    ("blank lines", b"\n \n\t\r\n\n", "", 0),
    ("no final newline", b"info status", STATUS, 0),
    ("CR LF", b"info status\r\ninfo status\r\n", STATUS * 2, 0),
    ("CR at the very end", b"info status\r", STATUS, 0),
    ("comments", b"#!/usr/bin/env hmp\n# one\n  # two\n#! cast: three\ninfo status\n", STATUS, 0),
    ("a comment is no ending", b"info status # no\n", 'status: extraneous characters at the end of line\nTry "help info status" for more information\n', 1),
    ("quit ends it", b"info status\nquit\ninfo status\n", STATUS, 0),
    ("blanks around", b"   info \t status   \n", STATUS, 0),
    ("NUL bytes", b"info\0 status\ninfo status\n", f"unknown command: 'info\\x00'\n{STATUS}", 1),
    ("invalid UTF-8", b"\xff\xfe\xc3(\ninfo status\n", f"unknown command: '\\xff\\xfe\\xc3('\n{STATUS}", 1),
    ("valid UTF-8", "ä€😀\n".encode(), "unknown command: 'ä€😀'\n", 1),
    ("escape sequences", b"\x1b[31mred\x1b]0;title\x07\x9b2J\n", "unknown command: '\\x1b[31mred\\x1b]0;title\\x07\\x9b2J'\n", 1),
    ("C1 and DEL", "a\x7f\x85b\n".encode(), "unknown command: 'a\\x7f\\x85b'\n", 1),
    ("right to left", "\u202eabc\n".encode(), "unknown command: '\\u202eabc'\n", 1),
    ("4095 characters", b"x" * 4095, f"unknown command: '{'x' * 4095}'\n", 1),
    ("4095 characters of four bytes", "😀".encode() * 4095, f"unknown command: '{'😀' * 4095}'\n", 1),
    ("4096 characters", b"x" * 4096 + b"\ninfo status\n", f"line too long: more than 4095 characters\n{STATUS}", 1),
    ("4096 blanks", b" " * 4096 + b"\n", "line too long: more than 4095 characters\n", 1),
    ("a 4096 character comment", b"#" * 4096 + b"\n", "line too long: more than 4095 characters\n", 1),
]  # fmt: skip


@pytest.mark.parametrize(("given", "out", "status"), [each[1:] for each in INPUTS], ids=[each[0] for each in INPUTS])
def test_what_comes_in_a_pipe(given: bytes, out: str, status: int, capfd: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    os.write(writing, given)
    os.close(writing)
    machine = build()
    runner = Runner(machine, monitor(machine), Config())
    run(runner, [Source("<stdin>", reading)])
    assert runner.over is machine.over
    os.close(reading)
    printed = capfd.readouterr()
    assert (printed.out, runner.status) == (out, status)
    assert printed.err.count("\n") == status
    assert printed.err.startswith("hmp: <stdin>:" if status else "")
    assert printed.err.removesuffix("\n").isprintable()


def test_what_was_printed_is_written_before_a_wait(capfd: pytest.CaptureFixture[str]) -> None:
    machine = build("silent")
    seen: list[str] = []
    machine.time.after(1, lambda: seen.append(capfd.readouterr().out))
    run(Runner(machine, monitor(machine), Config()), [Source("-c", ["info status", "info balloon"])])
    assert seen == [STATUS]


REDIRECTIONS = [
    ("</dev/null", "", 0),
    ("<&-", "", 0),
    ("<&- >&-", "", 0),
    ("<&- >&- 2>&-", "", 0),
    ("<regular", STATUS * 2, 0),
    ("<regular >&-", "", 1),
    ("-c stop >&-", "", 0),
    ("-c 'info status' >&-", "", 1),
    ("--version >&-", "", 1),
    ("--help >&- 2>&-", "", 1),
    ("<regular 2>&-", STATUS * 2, 0),
    ("<regular 2>/dev/full", STATUS * 2, 0),
    ("<regular | head -1", STATUS, 0),
    ("0>/dev/null", "", 1),
    ("nosuch 2>/dev/null", "", 2),
    ("<wrong 2>/dev/full", f"unknown command: 'wrong'\n{STATUS}", 1),
    ("<wrong 2>&-", f"unknown command: 'wrong'\n{STATUS}", 1),
]


@pytest.mark.parametrize(("redirection", "out", "status"), REDIRECTIONS)
def test_descriptors_of_all_kinds(tmp_path: Path, redirection: str, out: str, status: int) -> None:
    (tmp_path / "regular").write_text("info status\ninfo status\n")
    (tmp_path / "wrong").write_text("wrong\ninfo status\n")
    ended = shell(f"hmp {redirection}", cwd=tmp_path)
    assert (ended.out, ended.status) == (out, status)
    expected = "hmp: <stdin>: cannot be read: Bad file descriptor\n" if redirection.startswith("0>") else ""
    if status and redirection.endswith(">&-") and "2" not in redirection:
        expected = "hmp: cannot write output: Bad file descriptor\n"
    assert ended.err == expected


@pytest.mark.parametrize("program", ["hmp-qemu -version", "hmp-cast2svg --help", "hmp-cast2svg cast -"])
@pytest.mark.parametrize("to", [">&-", ">/dev/full", "| :"])
def test_the_other_programs_report_output_that_is_lost(tmp_path: Path, program: str, to: str) -> None:
    (tmp_path / "cast").write_bytes((ROOT / "docs/demos/hang.cast").read_bytes())
    ended = shell(f"{{ {program}; echo $? >status; }} {to}", cwd=tmp_path)
    status = int((tmp_path / "status").read_text())
    if to == "| :":  # it may be gone before or after
        assert (status, ended.err) in ((141, ""), (0, ""))
    else:
        why = "Bad file descriptor" if to == ">&-" else "No space left on device"
        assert (status, ended.err) == (1, f"{program.split()[0]}: cannot write output: {why}\n")


@pytest.mark.parametrize(
    "arguments",
    [[], ["-c", "help"], ["-c", "wrong"], ["--echo", "-c", "stop"], ["--help"], ["--version"], ["--list-guests"]],
)
def test_a_stdout_that_is_closed_ends_it_silently(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with start(*arguments, stdout=writing) as process:
        os.close(writing)
        _, err = process.communicate(b"info status\n", timeout=TIMEOUT)
    assert (process.returncode, err) == (141, b"")


def test_head_takes_what_it_wants() -> None:
    ended = shell("yes 'info status' | { hmp; echo $? >&2; } | head -1")
    assert (ended.out, ended.err) == (STATUS, "141\n")


@pytest.mark.parametrize(
    "arguments", ["-c 'info status'", "-c wrongly", "--help", "--version", "--list-guests", "--echo -c help -c help"]
)
def test_a_full_stdout_is_one_line_and_status_1(arguments: str) -> None:
    ended = shell(f"hmp {arguments} >/dev/full")
    assert (ended.status, ended.err) == (1, "hmp: cannot write output: No space left on device\n")


def test_a_line_without_end_takes_no_memory() -> None:
    measure = (
        "import resource, subprocess, sys; "
        "status = subprocess.run('head -c 100M /dev/zero | tr \"\\\\0\" x | hmp; exit ${PIPESTATUS[2]}', shell=True, "
        "executable='/bin/bash').returncode; "
        "print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    ended = shell(f'python3 - <<"END"\n{measure}\nEND')
    assert ended.err == "hmp: <stdin>:1: command failed: line too long: more than 4095 characters\n"
    told, measured = ended.out.splitlines()
    status, kilobytes = map(int, measured.split())
    assert (told, status) == ("line too long: more than 4095 characters", 1)
    assert kilobytes < 60 * 1024


def test_lines_behind_a_long_one_keep_their_numbers() -> None:
    with start(*WARP) as process:
        assert process.stdin is not None
        process.stdin.write(b"x" * 200_000)
        process.stdin.flush()
        process.stdin.write(b"\nwrong\r\n\nworse\n")
        status, _, err = finish(process)
    assert (status, err.splitlines()[1:]) == (1, [
        "hmp: <stdin>:2: command failed: unknown command: 'wrong'",
        "hmp: <stdin>:4: command failed: unknown command: 'worse'",
    ])  # fmt: skip


def test_a_coprocess_gets_each_answer_before_it_sends_the_next_line() -> None:
    with start() as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line, answer in (("stop", None), ("info status", "paused"), ("c", None), ("info status", "running")):
            process.stdin.write(f"{line}\n".encode())
            process.stdin.flush()
            if answer is not None:
                assert process.stdout.readline().decode() == f"VM status: {answer}\n"
        assert finish(process) == (0, "", "")


def test_half_a_line_waits_for_its_other_half() -> None:
    with start() as process:
        assert process.stdin is not None
        for part in ("info ", "status\r", "\ninfo st", "atus\n"):
            process.stdin.write(part.encode())
            process.stdin.flush()
        assert finish(process) == (0, STATUS * 2, "")


def test_a_terminal_that_hangs_up_is_the_end_of_input() -> None:
    master, slave = pty.openpty()
    with start(stdin=slave) as process:
        os.close(slave)
        assert process.stdout is not None
        os.write(master, b"info status\n")
        assert process.stdout.readline().decode() == STATUS
        os.close(master)
        assert finish(process) == (0, "", "")


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ([], 1),
        (["-"], 1),
        (["-e", "-", "-"], 1),
        (["--clock", "warp", "--record", "{dir}/x.cast", "-"], 1),
        (["--monitor", "unix:{dir}/m"], 1),
        (["-i", "-c", "balloon 512", "--monitor", "unix:{dir}/m"], 1),
    ],
)
def test_half_a_line_before_a_read_error_never_runs(tmp_path: Path, options: list[str], status: int) -> None:
    descriptor = torn(b"info status\nwrong 9")
    with start(*[option.replace("{dir}", str(tmp_path)) for option in options], stdin=descriptor) as process:
        out, err = process.communicate(timeout=TIMEOUT)
    os.close(descriptor)
    recorded = "--record" in options
    assert (process.returncode, out.decode()) == (status, "" if recorded else STATUS)
    assert [line for line in err.decode().splitlines() if " ready " not in line] == [
        "hmp: <stdin>: cannot be read: Input/output error"
    ]
    assert not list(tmp_path.iterdir())


def test_a_headless_one_serves_on_after_a_script_that_cannot_be_read(tmp_path: Path) -> None:
    for options, status in ((), 0), (("-e",), 1):
        command = ("--headless", *options, "--qmp", f"unix:{tmp_path}/q", "/proc/self/mem")
        with start(*command) as process:
            assert process.stderr is not None
            told = [process.stderr.readline().decode() for _ in range(2)]
            assert sorted(told)[0] == "hmp: /proc/self/mem: cannot be read: Input/output error\n"
            if not options:
                process.terminate()
            assert finish(process)[0] == status


@pytest.mark.parametrize("options", [[], ["-"], ["--monitor", "unix:{dir}/m"]])
def test_byte_order_marks_in_a_pipe(tmp_path: Path, options: list[str]) -> None:
    options = [option.replace("{dir}", str(tmp_path)) for option in options]
    assert hmp(*options, text=b"\xef\xbb\xbfinfo status\n")[:2] == (0, STATUS)
    ended = hmp(*options, text="\ufeffinfo status\n".encode("utf-16-le"))
    assert (ended.status, ended.out) == (1, "")
    told = ended.err.splitlines()[-1]
    assert told == "hmp: <stdin>: cannot be read: it is UTF-16; make it UTF-8, as iconv -f UTF-16 -t UTF-8 does"


def test_byte_order_marks_in_scripts(tmp_path: Path) -> None:
    script = tmp_path / "marked"
    script.write_bytes(b"\xef\xbb\xbf#! chapter x\ninfo status\n")
    assert hmp(str(script), str(script)) == (0, STATUS * 2, "")
    assert hmp("--clock", "warp", "--record", f"{tmp_path}/x.cast", str(script)) == (0, STATUS, "")
    assert '"m", "x"' in (tmp_path / "x.cast").read_text()


@pytest.mark.parametrize(("name", "told"), [(None, ""), ("/dev/x", ": '/dev/x'")])
def test_other_errors_than_those_of_stdout_are_not_blamed_on_it(name: str | None, told: str) -> None:
    code = f"""
from hmp import cli, config
def fail(*_, **__):
    raise OSError(32, "Broken pipe", {name!r})
config.make_machine = fail
cli.main()
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT, env=environment()
    )
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert ended.stderr.decode() == f"hmp: cannot go on: Broken pipe{told}\n"


def test_descriptors_that_do_not_block_are_waited_for() -> None:
    reading, writing = os.pipe()
    out_reading, out_writing = os.pipe()
    for descriptor in (reading, out_writing):
        os.set_blocking(descriptor, False)
    with start("--echo", stdin=reading, stdout=out_writing) as process:
        os.close(reading)
        os.close(out_writing)
        os.write(writing, b"help\n" * 500)
        os.close(writing)
        with os.fdopen(out_reading, "rb") as output:
            printed = output.read()
        assert finish(process) == (0, "", "")
    assert printed.count(b"(qemu) help\n") == 500
    assert len(printed) > 500_000


# Signals.


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        ([], "info status\n"),
        (["--guest", "silent", "--clock", "real"], "info status\ninfo balloon\n"),
        (["--guest", "silent"], "info status\nsim sleep 100\n"),
        (["--clock", "manual"], "info status\n"),
    ],
)
def test_sigint_ends_it_with_130_and_without_a_word(arguments: list[str], lines: str) -> None:
    with start(*arguments) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(lines.encode())
        process.stdin.flush()
        assert process.stdout.readline().decode() == STATUS
        process.send_signal(signal.SIGINT)
        assert finish(process) == (130, "", "")


# Scripts, -c and the options that go with them.


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    (tmp_path / "good").write_text("#!/usr/bin/env hmp\ninfo status\n\ninfo name\n")
    (tmp_path / "bad").write_text("# comment\nwrong\n\ninfo status\nballoon x\n")
    (tmp_path / "stale").write_text("sim hang\ninfo balloon\n")
    (tmp_path / "quits").write_text("quit\ninfo status\n")
    (tmp_path / "fold\x1bers").mkdir()
    return tmp_path


RUNS: list[tuple[list[str], str, list[str], int]] = [
    (["good"], f"{STATUS}vm\n", [], 0),
    (["good", "good"], f"{STATUS}vm\n" * 2, [], 0),
    (["-"], KVM, [], 0),
    (["good", "-"], f"{STATUS}vm\n{KVM}", [], 0),
    (["quits", "good"], "", [], 0),
    (["-c", "info name", "-c", "info status"], f"vm\n{STATUS}", [], 0),
    (["-c", "", "-c", "  ", "-c", "# no", "-c", "info name"], "vm\n", [], 0),
    (["-c", "quit", "-c", "info name"], "", [], 0),
    (["-c", "info name", "-c", "wrong"], "vm\nunknown command: 'wrong'\n", ["-c:2: command failed: unknown command: 'wrong'"], 1),
    (["-c", "info\nname"], "vm\n", [], 0),  # a newline is a blank to the grammar
    (["-e", "-c", "wrong", "-c", "info name"], "unknown command: 'wrong'\n", ["-c:1: command failed: unknown command: 'wrong'"], 1),
    (["-e", "bad", "good"], "unknown command: 'wrong'\n", ["bad:2: command failed: unknown command: 'wrong'"], 1),
    (["-e", "-c", "wrong", "-i"], "unknown command: 'wrong'\n", ["-c:1: command failed: unknown command: 'wrong'"], 1),
    (["bad"], f"unknown command: 'wrong'\n{STATUS}invalid char 'x' in expression\nTry \"help balloon\" for more information\n",
     ["bad:2: command failed: unknown command: 'wrong'", "bad:5: command failed: invalid char 'x' in expression"], 1),
    (["-i", "-c", "stop"], KVM, [], 0),
    (["-i", "good"], f"{STATUS}vm\n{KVM}", [], 0),
    (["-i", "-c", "quit"], "", [], 0),
    (["--echo", "-c", " info  name", "-c", "# no", "-c", "stop"], "(qemu)  info  name\nvm\n(qemu) stop\n", [], 0),
    (["--echo", "good"], f"(qemu) info status\n{STATUS}(qemu) info name\nvm\n", [], 0),
    (["--echo", "-c", "a\x1bb"], "(qemu) a\\x1bb\nunknown command: 'a\\x1bb'\n", ["-c:1: command failed: unknown command: 'a\\x1bb'"], 1),
    (["stale"], "balloon: actual=1024,age=5000\n", [], 0),
    (["--fail-stale", "stale"], "balloon: actual=1024,age=5000\n", [], 3),
    (["--fail-stale", "-c", "wrong", "-c", "info balloon"], "unknown command: 'wrong'\nballoon: actual=1024,age=5000\n",
     ["-c:1: command failed: unknown command: 'wrong'"], 1),
    (["--fail-stale", "good"], f"{STATUS}vm\n", [], 0),
    (["-S", "-c", "info status"], "VM status: paused (prelaunch)\n", [], 0),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "out", "err", "status"), RUNS)
def test_scripts_and_commands(scripts: Path, arguments: list[str], out: str, err: list[str], status: int) -> None:
    ended = hmp(*WARP, "--guest", "silent", "--name", "vm", *arguments, text="info kvm\n", cwd=scripts)
    assert (ended.out, ended.status) == (out, status)
    assert ended.err.splitlines() == [f"hmp: {line}" for line in err]


def test_a_command_may_hold_any_bytes() -> None:
    ended = hmp("-c", b"info \xff\xfe")
    assert (ended.out, ended.status) == ("unknown command: 'info \\xff\\xfe'\n", 1)
    assert ended.err == "hmp: -c:1: command failed: unknown command: 'info \\xff\\xfe'\n"


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("nosuch", "SCRIPT 'nosuch': No such file or directory"),
        ("", "SCRIPT '': No such file or directory"),
        ("good/x", "SCRIPT 'good/x': Not a directory"),
        ("fold\x1bers", "SCRIPT 'fold\\x1bers': is a directory"),
        ("two\nlines", "SCRIPT 'two\\x0alines': No such file or directory"),
    ],
)
def test_scripts_are_opened_before_any_runs(scripts: Path, script: str, told: str) -> None:
    ended = hmp("good", script, cwd=scripts)
    assert (ended.status, ended.out, ended.err) == (2, "", f"hmp: {told}\n")


def test_whether_a_file_can_be_read_is_seen_when_it_is_opened(scripts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *what, **how: False)  # click would ask, and root is never refused
    read = parse([str(scripts / "good"), "--replies", str(scripts / "good"), "--log", str(scripts / "good")])
    assert read is not None
    for _, descriptor in read.sources:
        os.close(descriptor)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_script_that_may_not_be_read_is_an_error(scripts: Path) -> None:
    (scripts / "good").chmod(0)
    ended = hmp("good", cwd=scripts)
    assert (ended.status, ended.out, ended.err) == (2, "", "hmp: SCRIPT 'good': Permission denied\n")


def test_the_same_script_prints_the_same_bytes() -> None:
    lines = "info balloon\nballoon 300\nsim sleep 3\ninfo balloon\nsim\nsim stats\nsim alloc 400M\ninfo balloon\nsim chart\n"
    arguments = (*WARP, "--guest", "flaky,delay=1", "--seed", "7")
    first, second = (hmp(*arguments, text=lines) for _ in range(2))
    assert first == second
    assert first.status == 0
    other = hmp(*arguments[:-1], "8", text=lines)
    assert other.out != first.out


def test_an_empty_name_is_no_name() -> None:
    ended = hmp("--name", "", "-c", "info name")
    assert (ended.out, ended.err, ended.status) == ("", "", 0)
