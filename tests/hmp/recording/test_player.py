"""Scripts recorded as if a person typed them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pexpect
import pyte
import pytest

from hmp.config import Config
from hmp.recording.cast import Cast
from hmp.recording.player import Player
from hmp.recording.rhythm import LOOK, MS, STROKE
from hmp.recording.script import MAX_SCRIPT, read_steps
from tests.support.casts import DEMOS, environment, hmp, output, read, record, screen, session
from tests.support.machines import build, monitor
from tests.support.shell import shell
from tests.support.timing import PATIENCE, takes_less_than, until

WORDS = "chapter, hide, show, pause, speed, key, after, type or wait"

HANG = "info balloon\nsim hang\ninfo balloon\n"


@pytest.fixture
def script(tmp_path):
    def write(text: str):
        path = tmp_path / "demo.hmp"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def cast(tmp_path):
    return tmp_path / "demo.cast"


@pytest.fixture
def play(cast):
    def run(machine, *lines: str) -> Player:
        file = os.open(cast, os.O_CREAT | os.O_WRONLY)
        made = Cast(file, columns=80, rows=24, title="", on_failure=pytest.fail)
        player = Player(machine, monitor(machine), Config(), made, size=(80, 24))
        with asyncio.Runner(loop_factory=player.make_loop) as runner:
            runner.run(player.play(read_steps([("-c", [*lines])])))
        made.close()
        return player

    return run


class TestTyping:
    def test_banner_prompt_keys_and_output(self, script, cast):
        record(script("info status\n"), cast)
        assert session(cast) == [
            screen(cast, 0)[0],
            "(qemu) info status",
            "VM status: running",
            "(qemu)",
        ]
        assert re.fullmatch(r"hmp \S+ monitor - type 'help' for more information", screen(cast)[0])

    def test_one_key_at_a_time_at_a_persons_pace(self, script, cast):
        record(script("info status\n"), cast)
        _, events = read(cast)
        keys = events[1 : len("info status") + 2]
        lines = [screen(cast, at)[1][: len("(qemu) ") + number].rstrip() for number, (at, _, _) in enumerate(keys, 1)]
        assert lines[:-1] == [
            f"(qemu) {'info status'[:number]}".rstrip() for number in range(1, len("info status") + 1)
        ]
        assert keys[0][0] * 1e9 >= LOOK[0]
        gaps = {round((after[0] - before[0]) * 1e9) for before, after in pairwise(keys)}
        assert len(gaps) > 3
        assert STROKE[0] - MS <= min(gaps) <= max(gaps) <= STROKE[1] + MS

    def test_what_was_printed_is_read_before_the_next_line_but_not_for_ever(self, play, cast):
        def pause(line: str, printed: str) -> float:
            play(build(), line, "info kvm")
            times = [(at, printed in text) for at, _, text in read(cast)[1]]
            cast.unlink()
            return next(after - at for (at, there), (after, _) in pairwise(times) if there) * 1e9

        assert LOOK[0] <= pause("info uuid", "00000000-") <= LOOK[1] + 750 * MS
        assert LOOK[0] + 1500 * MS <= pause("help", "sim wire") <= LOOK[1] + 1501 * MS

    def test_the_rhythm_comes_from_the_seed(self, script, cast, tmp_path):
        path = script("info status\n")
        casts = []
        for seed in (0, 0, 1):
            record(path, cast, "--seed", seed, "--overwrite")
            casts.append(cast.read_bytes())
        assert casts[0] == casts[1] != casts[2]

    def test_errors_are_red_and_the_age_stands_out(self, script, cast):
        record(script("nonsense\nsim hang\ninfo balloon\n"), cast)
        assert "\x1b[0;31munknown command: 'nonsense'\x1b[m" in output(cast)
        assert ",\x1b[0;33mage=5000\x1b[m" in output(cast)

    def test_what_could_drive_a_terminal_is_spelled_out(self, script, cast):
        path = script("")
        path.write_bytes(b"\x1b[2Jevil\xff\n")
        record(path, cast)
        assert "(qemu) ^[[2Jevil\ufffd" in screen(cast)
        assert "unknown command: '\\x1b[2Jevil\\xff'" in screen(cast)
        assert "\\ud" not in cast.read_text()

    def test_events_show_when_they_come(self, script, cast):
        record(script("balloon 512\nsim sleep 2\n"), cast)
        assert any("512 MiB]" in line for line in screen(cast))

    def test_the_environment_changes_nothing(self, script, cast):
        path = script(HANG)
        made = set()
        for more in ({}, {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "20"}, {"LC_ALL": "C", "PYTHONHASHSEED": "7"}):
            subprocess.run(
                [sys.executable, "-m", "hmp", "--clock", "warp", "--overwrite", "--record", cast, path],
                env=environment(**more),
                stdout=subprocess.DEVNULL,
                check=True,
            )
            made.add(cast.read_bytes())
        assert len(made) == 1

    def test_a_line_too_long_is_refused_in_the_cast_too(self, script, cast):
        done = record(script("x" * 5000 + "\ninfo status\n"), cast)
        assert done.returncode == 1
        assert "line too long" in output(cast)
        assert "VM status: running" in screen(cast)


class TestWaiting:
    def test_the_countdown_shows_and_leaves_no_trace(self, script, cast):
        record(script(HANG), cast)
        end = read(cast)[1][-1][0] - 2
        counted = []
        for tenth in range(51):
            shown = screen(cast, end - 5 + tenth / 10 + 0.01)
            counted.append(next((line[:31] for line in shown if "waiting" in line), ""))
        assert counted[:3] == [""] * 3
        assert counted[3:50] == [f"waiting for the guest ... {tenth / 10} s" for tenth in range(47, 0, -1)]
        assert not any("waiting" in line for line in screen(cast))
        assert "".join(session(cast)).endswith("age=5000(qemu)")

    def test_time_never_goes_back(self, script, cast):
        text = f"info status\n{HANG}#! hide\nsim sleep 3\n#! show\nsim sleep 2\n#! pause 1\nballoon 64\nsim sleep 1\n"
        record(script(text), cast)
        times = [at for at, _, _ in read(cast)[1]]
        assert times == sorted(times)
        assert 5 + 2 + 1 + 1 + 2 < times[-1] < 5 + 2 + 1 + 1 + 2 + 30

    def test_what_was_printed_is_written_before_a_wait(self, play, capfd):
        machine, seen = build("silent"), []
        machine.time.after(1, lambda: seen.append(capfd.readouterr().out))
        play(machine, "info status", "info balloon")
        assert seen == ["VM status: running\n"]

    def test_a_key_draws_the_prompt_once(self, play):
        player = play(build("silent"), *["info status"] * 5)
        assert 60 < player._prompt._session.app.render_counter < 90  # it is drawn again once a second, without a key

    def test_sim_sleep_takes_its_time(self, script, cast):
        record(script("sim sleep 30\n"), cast)
        assert 30 < read(cast)[1][-1][0] < 36

    def test_the_manual_clock_passes_too(self, script, cast):
        done = hmp("--clock", "manual", "--record", cast, script("sim sleep 30\n"))
        assert done.returncode == 0
        assert 30 < read(cast)[1][-1][0] < 36

    @pytest.mark.slow
    def test_a_minute_is_made_in_a_second(self, script, cast):
        path = script("info balloon\nsim hang\n" + "info balloon\n" * 8)

        def making() -> float:
            begin, before = time.monotonic(), os.times()
            record(path, cast, "--overwrite")
            assert time.monotonic() - begin < PATIENCE  # it does not wait for what it shows
            after = os.times()
            return after.children_user + after.children_system - before.children_user - before.children_system

        # Processor time, which a busy machine changes least; the start of Python included, and machines differ.
        takes_less_than(1.0, making)
        assert read(cast)[1][-1][0] > 60

    @pytest.mark.slow
    def test_an_endless_recording_ends(self, script, cast):
        done = record(script("sim sleep 100000\ninfo status\n"), cast)
        assert done.stdout == "VM status: running\n"
        assert "the recording ends here: it is longer than 3600 seconds" in done.stderr
        assert done.stderr.count("\n") == 1
        assert done.returncode == 1
        assert read(cast)[1][-1][0] <= 3600


class TestDirections:
    def test_chapters_are_markers(self, script, cast):
        record(script("#! chapter One two\ninfo status\n#!chapter Three\n"), cast)
        assert [data for _, kind, data in read(cast)[1] if kind == "m"] == ["One two", "Three"]

    def test_hidden_lines_run_and_do_not_show(self, script, cast):
        done = record(script("#! hide\nsim hang\ninfo balloon\n#! chapter no\n#! show\ninfo status\n"), cast)
        assert "age=5000" in done.stdout
        assert session(cast)[1:] == ["(qemu) info status", "VM status: running", "(qemu)"]
        assert read(cast)[1][-1][0] < 6
        assert not any(kind == "m" for _, kind, _ in read(cast)[1])

    def test_pauses_are_of_the_recording_only(self, script, cast, tmp_path):
        without = record(script("info status\nsim\n"), cast)
        end = read(cast)[1][-1][0]
        paused = record(script("info status\n#! pause 2.5\n#! pause 1\nsim\n"), cast, "--overwrite")
        assert paused.stdout == without.stdout
        assert read(cast)[1][-1][0] > end + 3

    def test_a_shebang_line_is_no_direction(self, script, cast):
        assert record(script("#!/usr/bin/env -S hmp --clock warp\ninfo status\n"), cast).returncode == 0

    @pytest.mark.parametrize(
        ("line", "complaint"),
        [
            ("#! chapte X", f"#! chapte: is not {WORDS}"),
            ("#! chapter", "#! chapter: needs a text"),
            ("#!", "#!: needs a word after it"),
            ("#! pause", "#! pause: needs a number of seconds"),
            ("#! pause soon", "#! pause: 'soon' is not a number of seconds"),
            ("#! pause 4000", "#! pause: '4000' is more than 3600 seconds"),
            ("#! hide now", "#! hide: takes nothing, not 'now'"),
            ("#! show", "#! show: nothing is hidden"),
            ("#! \x1b[2J", f"#! \\x1b[2J: is not {WORDS}"),
            ("#!/bin/sh", f"#! /bin/sh: is not {WORDS}"),
        ],
    )
    def test_others_are_refused_before_anything_runs(self, script, cast, line, complaint):
        path = script(f"info status\n{line}\n")
        done = record(path, cast)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"hmp: {path}:2: {complaint}\n"
        assert not cast.exists()
        assert hmp("--clock", "warp", path).stdout == "VM status: running\n"  # without --record it is a comment

    def test_a_script_that_cannot_be_read_is_refused(self, cast):
        ended = shell(f"hmp --clock warp --record {cast} - 0>/dev/null")
        assert (ended.status, ended.out) == (1, "")
        assert ended.err == "hmp: <stdin>: cannot be read: Bad file descriptor\n"
        assert not cast.exists()

    def test_a_script_without_end_is_refused(self, cast):
        done = hmp("--clock", "warp", "--record", cast, stdin="# x\n" * (MAX_SCRIPT // 4 + 1))
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert not cast.exists()


class TestStdout:
    @pytest.mark.parametrize("options", [(), ("--echo",), ("-e",), ("--fail-stale",)])
    def test_of_a_script_is_as_without_a_recording(self, script, cast, options):
        path = script(HANG + "nonsense\n#! pause 3\nballoon 512\nsim sleep 3\nsim stats\nquit\ninfo status\n")
        plain = hmp("--clock", "warp", *options, path)
        recorded = record(path, cast, *options)
        assert (recorded.stdout, recorded.stderr) == (plain.stdout, plain.stderr)
        assert recorded.returncode == plain.returncode

    def test_of_a_demo(self, cast):
        demo = DEMOS / "overinflate.hmp"
        assert record(demo, cast).stdout == hmp("--clock", "warp", demo).stdout

    def test_commands_and_stdin_are_recorded_as_well(self, cast):
        hmp("--clock", "warp", "--record", cast, "-c", "info status")
        assert "(qemu) info status" in screen(cast)
        hmp("--clock", "warp", "--overwrite", "--record", cast, stdin="info kvm")
        assert "(qemu) info kvm" in screen(cast)


FULL = """
import resource, sys
from hmp import cli
from hmp.recording import cast
write_all = cast.write_all
def full(descriptor, data):
    resource.setrlimit(resource.RLIMIT_FSIZE, (9, resource.RLIM_INFINITY))
    write_all(descriptor, data)
cast.write_all = full
sys.exit(cli.main())
"""
"""hmp, for whose recordings there are nine bytes left."""


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            (["--size", "80x24"], "--size: only together with --record"),
            (["--overwrite"], "--overwrite: only together with --record"),
            (["--record", "{cast}", "--size", "80"], "--size: '80' is not COLSxROWS, such as 80x24"),
            (["--record", "{cast}", "--size", "8x24"], "--size: '8x24' is not between 20x4 and 500x200"),
            (["--record", "{dir}", "--clock", "warp"], "--record: '{dir}': exists; --overwrite replaces it"),
            (["--record", "{dir}", "--overwrite", "--clock", "warp"], "--record: '{dir}': Is a directory"),
            (["--record", "-", "--clock", "warp"], "--record: '-': a recording needs a file, stdout has the session"),
            (["--record", "{dir}/no/x", "--clock", "warp"], "--record: '{dir}/no/x': No such file or directory"),
        ],
    )
    def test_one_line_and_status_2(self, script, cast, tmp_path, options, complaint):
        def fill(text: str) -> str:
            return text.replace("{cast}", str(cast)).replace("{dir}", str(tmp_path))

        done = hmp(*map(fill, options), script("info status\n"))
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"hmp: {fill(complaint)}\n")
        assert not cast.exists()

    def test_a_file_that_exists_is_left_alone(self, script, cast):
        cast.write_text("precious")
        done = record(script("info status\n"), cast)
        assert (done.returncode, done.stdout) == (2, "")
        assert cast.read_text() == "precious"
        assert record(script("info status\n"), cast, "--overwrite").returncode == 0
        assert "VM status: running" in screen(cast)

    def test_the_script_is_never_overwritten(self, script):
        path = script("info status\n")
        done = record(path, path, "--overwrite")
        assert (done.returncode, done.stderr) == (2, f"hmp: --record: '{path}': is the script itself\n")
        link = path.with_name("link")
        os.link(path, link)
        done = record(path, link, "--overwrite")
        assert (done.returncode, done.stderr) == (2, f"hmp: --record: '{link}': is the script itself\n")
        assert path.read_text() == "info status\n"

    @pytest.mark.parametrize(
        ("to", "what"),
        [("> {cast}", "stdout, which takes what commands print"), ("2> {cast}", "stderr"), (">&1 | cat", "stdout, which takes what commands print")],
    )  # fmt: skip
    def test_no_other_file_that_is_written_is_overwritten(self, script, cast, to, what):
        path = cast if "{cast}" in to else "/dev/stdout"
        to = to.replace("{cast}", str(cast))
        ended = shell(f"set -o pipefail; hmp --clock warp --record {path} --overwrite {script('info status')} {to}")
        told = cast.read_text() if to.startswith("2") else ended.err
        assert (ended.status, ended.out, told) == (2, "", f"hmp: --record: '{path}': is {what}\n")

    def test_a_recording_that_cannot_begin_leaves_the_old_one(self, script, cast):
        cast.write_text("precious")
        for there in (True, False):
            options = ["--overwrite"] if there else []
            with subprocess.Popen(
                [sys.executable, "-c", FULL, "--clock", "warp", "--record", cast, *options, script("info status\n")],
                env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            ) as child:  # fmt: skip
                out, errors = child.communicate(timeout=PATIENCE)
            assert (child.returncode, out) == (1, "VM status: running\n")
            assert errors == f"hmp: --record: '{cast}': the recording ends here: File too large\n"
            assert [each.name for each in cast.parent.iterdir() if each.suffix != ".hmp"] == [cast.name][: int(there)]
            if there:
                assert cast.read_text() == "precious"
                cast.unlink()

    def test_the_size_is_the_headers(self, script, cast):
        record(script("info status\n"), cast, "--size", "100x30")
        header, _ = read(cast)
        assert (header["width"], header["height"], header["title"]) == (100, 30, "hmp: demo")
        assert not {"timestamp", "env", "command", "theme"} & set(header)


class TestCutOff:
    """The cast is valid up to where the run was stopped."""

    LONG = "#! hide\nsim guest\n#! show\n" + "sim stats\ninfo balloon\n" * 4000

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
    def test_by_a_signal(self, script, cast, number):
        command = [sys.executable, "-m", "hmp", "--clock", "warp", "--record", cast, script(self.LONG)]
        with subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
            until(lambda: cast.exists() and cast.stat().st_size > 5000)
            child.send_signal(number)
            _, errors = child.communicate(timeout=PATIENCE)
        assert child.returncode == (130 if number == signal.SIGINT else -number)
        assert errors == b""
        assert len(read(cast)[1]) > 50

    def test_by_a_stdout_that_closes(self, script, cast):
        command = [sys.executable, "-m", "hmp", "--clock", "warp", "--record", cast, script(self.LONG)]
        with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            child.stdout.close()
            assert child.wait(PATIENCE) == 141
        assert len(read(cast)[1]) > 5

    @pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
    @pytest.mark.slow
    def test_by_a_full_disk(self, script, tmp_path):
        disk = tmp_path / "disk"
        disk.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=16k", "none", disk], check=False, capture_output=True
        )
        if mounted.returncode:
            pytest.skip("no mounting here")
        try:
            path = script("sim stats\n" * 60)
            done = record(path, disk / "x.cast")
            assert done.returncode == 1
            assert done.stdout == hmp("--clock", "warp", path).stdout
            assert done.stderr.count("\n") == 1
            assert done.stderr.endswith("the recording ends here: No space left on device\n")
            assert len(read(disk / "x.cast")[1]) > 20
        finally:
            subprocess.run(["umount", disk], check=True)

    def test_by_a_disk_full_from_the_start(self, script):
        done = record(script("info status\n"), "/dev/full", "--overwrite")
        assert done.stdout == "VM status: running\n"
        assert done.stderr == "hmp: --record: '/dev/full': the recording ends here: No space left on device\n"
        assert done.returncode == 1


@pytest.mark.parametrize("cast", sorted(DEMOS.glob("*.cast")), ids=lambda path: path.stem)
class TestAsciinema:
    def test_plays_the_demo(self, cast):
        pytest.importorskip("asciinema", reason="asciinema is not installed")
        done = subprocess.run(
            [sys.executable, "-m", "asciinema", "cat", cast], env=environment(), capture_output=True, check=False
        )
        assert (done.returncode, done.stdout.decode()) == (0, output(cast))

    def test_plays_it_on_a_terminal(self, cast):
        pytest.importorskip("asciinema", reason="asciinema is not installed")
        header, _ = read(cast)
        seen = pyte.Screen(header["width"], header["height"])
        stream = pyte.Stream(seen)
        child = pexpect.spawn(
            sys.executable,
            ["-m", "asciinema", "play", "--speed", "100", "--idle-time-limit", "0.5", str(cast)],
            env=environment(TERM="xterm-256color"),
            dimensions=(header["height"], header["width"]),
            encoding="utf-8",
            timeout=30,
        )
        child.expect(pexpect.EOF)
        stream.feed(child.before)
        child.close()
        assert child.exitstatus == 0
        assert "\n".join(line.rstrip() for line in seen.display).rstrip().split("\n") == screen(cast)
