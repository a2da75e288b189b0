"""Scripts that press keys: what a person sees at the prompt is in the cast, in the same bytes wherever it is made."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hmp.config import Config
from hmp.monitor.monitor import Reply
from hmp.recording.cast import Cast
from hmp.recording.player import Player
from hmp.recording.script import _READERS, read_steps
from hmp.terminal.keys import KEYS
from tests.support.casts import environment, hmp, output, read, record, screen, session
from tests.support.machines import build, monitor

EVERYTHING = """\
#! chapter Complete
#! type info ball
#! key TAB ENTER
#! type sim g
#! key TAB TAB DOWN
#! pause 1
#! key ESC C-u
sim hang
info balloon
#! after 2.5
#! key C-c
#! speed 3
balloon 512
#! wait reached: 512
sim sleep 2
#! key UP UP RIGHT ENTER
#! key C-r
#! type hang
#! key ENTER ENTER F4 F1
guest héllo 漢字
quit
"""


@pytest.fixture
def play(tmp_path):
    """Record a script; gives what the run said, its status and the cast."""

    def make(text: str, *options: object):
        script, cast = tmp_path / "demo.hmp", tmp_path / "demo.cast"
        script.write_text(text)
        return record(script, cast, "--overwrite", *options), cast

    return make


def moments(cast, text: str) -> list[float]:
    """The time at which the screen showed a text."""
    return [at for at, kind, _ in read(cast)[1] if kind == "o" and any(text in line for line in screen(cast, at))]


class TestKeys:
    def test_tab_completes_and_enter_runs(self, play):
        done, cast = play("#! type info ball\n#! key TAB\n#! key ENTER\n")
        assert done.stdout.startswith("balloon: actual=1024")
        assert "(qemu) info balloon" in session(cast)

    def test_the_menu_opens_moves_and_closes(self, play):
        _, cast = play("#! type sim d\n#! key TAB TAB\n#! pause 1\n#! key ESC\n#! pause 1\n")
        opened = moments(cast, "let the driver answer that much later")
        assert opened
        assert "(qemu) sim d" in screen(cast, opened[0])
        assert "let the driver" not in "".join(screen(cast))

    def test_a_window_of_few_rows_has_the_menu_too(self, play):
        _, cast = play("#! type sim d\n#! key TAB TAB\n#! pause 1\n", "--size", "40x5")
        assert len(moments(cast, "delay")) > 0
        assert "too small" not in output(cast)
        assert screen(cast)[-1].startswith(" running")

    def test_the_toolbar_and_the_usage_are_there(self, play):
        _, cast = play("#! type balloon \nsim hang\n#! key C-u\nsim hang\n")
        assert screen(cast, 0)[-1].startswith(" running │ linux │ ████")
        assert "warp" not in output(cast)
        assert " hung " in screen(cast)[-1]

    def test_what_was_typed_before_is_suggested(self, play):
        _, cast = play("info status\n#! type inf\n#! pause 1\n#! key RIGHT ENTER\n")
        assert "(qemu) info status" in screen(cast, moments(cast, "VM status")[-1])
        assert session(cast)[1:] == ["(qemu) info status", "VM status: running"] * 2 + ["(qemu)"]

    def test_a_line_goes_on_with_what_was_typed(self, play):
        done, cast = play("#! type info st\natus\n")
        assert done.stdout == "VM status: running\n"
        assert session(cast)[1] == "(qemu) info status"

    def test_every_key_can_be_pressed(self, play):
        names = [name for name in KEYS if name not in ("ENTER", "C-m", "C-j")]
        lines = [f"#! type info mice\n#! key {name}{' F4' * (name == 'F4')} C-c C-c C-c\n" for name in names]
        done, _ = play(f"#! speed 100\n{''.join(lines)}info status\n", "--size", "80x10")
        assert (done.returncode, done.stdout.splitlines()[-1], done.stderr) == (0, "VM status: running", "")

    def test_the_end_of_input_ends_it(self, play):
        done, cast = play("#! key C-d\ninfo status\n")
        assert (done.returncode, done.stdout) == (0, "")
        assert session(cast)[1:] == ["(qemu)"]

    def test_without_recording_they_are_comments(self, tmp_path):
        script = tmp_path / "x"
        script.write_text("#! type nonsense\n#! key ENTER\ninfo status\n#! wait never\n")
        assert hmp("--clock", "warp", script).stdout == "VM status: running\n"

    def test_comments_are_not_typed(self, play):
        _, cast = play("# not for the eye\ninfo status\n")
        assert session(cast)[1:] == ["(qemu) info status", "VM status: running", "(qemu)"]


class TestWhileItWaits:
    @pytest.mark.parametrize(("line", "seconds"), [("", 1.0), ("#! after 3\n", 3.0), ("#! after 0.2\n", 0.2)])
    def test_a_key_directly_behind_a_command_is_pressed_in_the_wait(self, play, line, seconds):
        done, cast = play(f"sim hang\ninfo balloon\n{line}#! key C-c\ninfo status\n")
        assert (done.returncode, done.stdout) == (0, "VM status: running\n")
        entered = next(at for at in moments(cast, "(qemu) info balloon") if not screen(cast, at)[-1].startswith(" "))
        assert round(moments(cast, "cancelled")[0] - entered, 3) == seconds
        assert bool(moments(cast, "waiting for the guest ... 4.7 s")) == (seconds > 0.3)

    def test_elsewhere_it_is_pressed_at_the_prompt(self, play):
        done, _ = play("sim hang\ninfo balloon\n#! pause 0\n#! key C-c\ninfo status\n")
        assert "age=5000" in done.stdout

    def test_what_is_typed_meanwhile_runs_behind(self, play):
        done, cast = play("sim hang\ninfo balloon\n#! after 1\n#! type info status\n#! key ENTER\n")
        assert done.stdout.splitlines()[-1] == "VM status: running"
        assert not any(line.startswith("info status") for line in session(cast))

    def test_a_pattern_on_the_screen_is_waited_for(self, play):
        _, cast = play("sim hang\ninfo balloon\n#! wait guest \\.\\.\\. 2\\.0 s\n#! key C-c\n")
        assert moments(cast, "... 2.0 s")
        assert not moments(cast, "... 1.0 s")

    def test_events_come_while_somebody_looks_on(self, play):
        done, cast = play("balloon 512\n#! wait reached: 512 MiB\ninfo balloon\n")
        assert "actual=512" in done.stdout
        assert moments(cast, "[balloon target reached: 512 MiB]")

    @pytest.mark.parametrize("before", ["", "sim hang\ninfo balloon\n"])
    def test_what_never_comes_fails_with_its_line(self, play, before):
        done, cast = play(f"info status\n{before}#! wait no such thing\ninfo kvm\n")
        place = cast.with_suffix(".hmp")
        number = 2 + before.count("\n")
        assert done.returncode == 1
        assert done.stderr == (f"hmp: {place}:{number}: #! wait: nothing that is still to come shows 'no such thing'\n")
        assert "kvm" not in done.stdout
        assert read(cast)[1][-1][0] < 20

    def test_a_wait_that_nothing_ends_is_given_up(self, tmp_path, capfd):
        machine, cast = build(), tmp_path / "x.cast"
        asked = monitor(machine)
        never = Reply()
        never.suspend(lambda: None)
        asked.execute = lambda line: never
        made = Cast(os.open(cast, os.O_CREAT | os.O_WRONLY), columns=80, rows=24, title="", on_failure=pytest.fail)
        player = Player(machine, asked, Config(), made, size=(80, 24))
        with asyncio.Runner(loop_factory=player.make_loop) as runner:
            runner.run(player.play(read_steps([("-c", ["info status"])])))
        made.close()
        assert "cancelled" in session(cast)
        assert capfd.readouterr().out == ""


class TestLive:
    def test_what_is_watched_is_shown_in_its_place_and_printed(self, play):
        done, cast = play("sim watch 1 3 info status\n")
        assert done.stdout == "VM status: running\n" * 3
        assert session(cast)[1:] == ["(qemu) sim watch 1 3 info status", "VM status: running", "(qemu)"]

    def test_what_is_sourced_is_shown_and_printed(self, play, tmp_path):
        (tmp_path / "more").write_text("info status\ninfo kvm\n")
        done, cast = play(
            f"sim source {tmp_path}/more\n#! hide\nsim source {tmp_path}/more\n#! show\n", "--size", "150x20"
        )
        assert done.stdout.count("VM status: running\n") == 2
        assert "".join(session(cast)).count("VM status: running") == 1


class TestPace:
    def test_speed_makes_only_typing_faster(self, play):
        lines = "info status\n" * 10
        slow = read(play(lines)[1])[1][-1][0] - 2
        fast = read(play(f"#! speed 10\n{lines}")[1])[1][-1][0] - 2
        assert slow * 0.09 < fast < slow * 0.11

    def test_waits_keep_theirs(self, play):
        _, cast = play("#! speed 100\nsim sleep 30\n")
        assert 32 < read(cast)[1][-1][0] < 33


class TestRefusals:
    @pytest.mark.parametrize(
        ("line", "complaint"),
        [
            ("#! key", "#! key: needs the name of a key"),
            ("#! key TAB TABB", "#! key: 'TABB' is not a key: TAB, ENTER, "),
            ("#! key C-z", "#! key: 'C-z' is not a key: "),
            ("#! key \x1b[A", "#! key: '\\x1b[A' is not a key: "),
            ("#! speed", "#! speed: needs a number"),
            ("#! speed 0", "#! speed: '0' is not a number from 0.01 to 100\n"),
            ("#! speed -1", "#! speed: '-1' is not a number from 0.01 to 100\n"),
            ("#! speed nan", "#! speed: 'nan' is not a number from 0.01 to 100\n"),
            ("#! speed inf", "#! speed: 'inf' is not a number from 0.01 to 100\n"),
            ("#! speed 1e3", "#! speed: '1e3' is not a number from 0.01 to 100\n"),
            ("#! wait", "#! wait: needs a pattern\n"),
            ("#! wait (", "#! wait: '(' is not a regular expression: "),
            ("#! type", "#! type: needs a text\n"),
            ("#! after", "#! after: needs a number of seconds\n"),
            ("#! after -1\n#! key TAB", "#! after: "),
            ("#! after 1", "#! after: stands before a key or type line\n"),
            ("#! after 1\ninfo status", "#! after: stands before a key or type line\n"),
        ],
    )
    def test_bad_lines_end_it_before_it_begins(self, play, line, complaint):
        done, cast = play(f"info status\n{line}\n")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"hmp: {cast.with_suffix('.hmp')}:2: {complaint}")
        assert done.stderr.count("\n") == 1
        assert not cast.exists()

    @pytest.mark.parametrize("line", ["#! key TAB", "#! type x", "#! wait x", "#! after 1"])
    def test_keys_in_a_hidden_part_are_refused(self, play, line):
        done, cast = play(f"#! hide\n{line}\n#! key TAB\n#! show\n")
        word = line.split()[1]
        assert done.stderr == (f"hmp: {cast.with_suffix('.hmp')}:2: #! {word}: nobody sees it between hide and show\n")


ELSEWHERE = [
    {},
    {"PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo", "LC_ALL": "C", "LANG": "C", "TERM": "dumb", "COLUMNS": "20",
     "LINES": "9", "NO_COLOR": "1", "PROMPT_TOOLKIT_COLOR_DEPTH": "DEPTH_1_BIT"},
    {"PYTHONHASHSEED": "77", "TZ": "America/Lima", "LC_ALL": "", "LANG": "de_DE.UTF-8", "TERM": "linux",
     "COLUMNS": "200", "FORCE_COLOR": "1", "PROMPT_TOOLKIT_NO_CPR": "1", "INPUTRC": "{home}/inputrc"},
]  # fmt: skip


class TestDeterminism:
    def test_the_same_bytes_everywhere(self, play, tmp_path):
        _, cast = play(EVERYTHING, "--size", "64x18")
        made = {cast.read_bytes()}
        for number, more in enumerate(ELSEWHERE):
            home = tmp_path / f"home{number}"
            (home / ".local/state/hmp").mkdir(parents=True)
            (home / ".local/state/hmp/history").write_text("info mice\nsim guest windows\n" * number)
            (home / "inputrc").write_text("set editing-mode vi\n")
            variables = {name: value.format(home=home) for name, value in more.items()}
            subprocess.run(
                [sys.executable, "-m", "hmp", "--clock", "warp", "--size", "64x18", "--overwrite", "--record", cast,
                 cast.with_suffix(".hmp")],
                env=environment(HOME=str(home), XDG_STATE_HOME="", **variables),
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
            )  # fmt: skip
            made.add(cast.read_bytes())
        assert len(made) == 1
        assert {"Complete"} == {text for _, kind, text in read(cast)[1] if kind == "m"}

    def test_only_escapes_of_our_own(self, play):
        _, cast = play(EVERYTHING, "--size", "64x18")
        found = set(re.findall(r"\x1b(?:\[[?\d;]*)?(.)", output(cast)))
        assert found <= {"H", "K", "m", "h", "l"}


class TestRealTime:
    @pytest.mark.slow
    def test_a_script_is_typed_in_real_time(self, tmp_path):
        script, cast = tmp_path / "x.hmp", tmp_path / "x.cast"
        script.write_text(
            "#! speed 20\n#! chapter Now\nsim hang\ninfo balloon\n#! after 0.5\n#! key C-c\ninfo status\n"
        )
        done = hmp("--record", cast, script)
        assert (done.returncode, done.stdout) == (0, "VM status: running\n")
        assert "cancelled" in session(cast)
        assert [text for _, kind, text in read(cast)[1] if kind == "m"] == ["Now"]
        assert moments(cast, "waiting for the guest")


def test_page_and_manual_name_every_direction():
    page, manual = (Path("docs", name).read_text() for name in ("record.md", "hmp.1"))
    assert sorted(re.findall(r"(?m)^\| `#! (\w+)", page)) == sorted(_READERS)
    assert sorted(re.findall(r"(?m)^\\fB#! (\w+)", manual)) == sorted(_READERS)
