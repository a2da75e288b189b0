"""The typed monitor on a real terminal: what a person sees. A handful; most tests type under a virtual clock."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pexpect
import pyte
import pytest

from tests.support.timing import PATIENCE

pytestmark = pytest.mark.slow


COUNTED = r"waiting[^\n]*"


class TooLate(Exception):
    """The wait was over before the person could do anything."""


def in_time(scene: Callable[[tuple[str, ...]], None]) -> None:
    """Play a scene in which a person acts while a silent guest is waited for; on a busy machine that is longer."""
    for seconds in (1.5, 6, 24):
        try:
            return scene(("--guest", "silent", "--timeout", str(seconds)))
        except TooLate:
            continue
    raise AssertionError("always too late")


class Seat:
    """A person in front of a terminal: `screen` is what they see."""

    def __init__(self, args: list[str], environment: dict[str, str], *, columns: int, rows: int) -> None:
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.Stream(self.screen)
        self.raw = ""
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "hmp", *args],
            env=environment,
            dimensions=(rows, columns),
            encoding="utf-8",
            timeout=PATIENCE,
        )
        # The settings before the program, which it has to restore; read through the master side.
        self.settings = termios.tcgetattr(self.child.child_fd)
        self.child.logfile_read = self
        self.screen.write_process_input = self.child.send  # the terminal's own answers: where its cursor is

    def write(self, text: str) -> None:
        """Take what the child printed: pexpect's log."""
        self.raw += text
        self._stream.feed(text)

    def flush(self) -> None:
        """pexpect asks for it."""

    def type(self, keys: str) -> None:
        self.child.send(keys)

    def see(self, pattern: str) -> str:
        """Wait until the screen shows what matches; returns that."""
        while not (found := re.search(pattern, "\n".join(self.lines))):
            self.child.expect(r".+")
        return found[0]

    def counts(self) -> None:
        """Wait until the countdown is seen to go on; raises TooLate if the wait is over."""
        first = self.see(f"{COUNTED}|age=")
        if first == "age=" or self.see(f"(?!{re.escape(first)}){COUNTED}|age=") == "age=":
            raise TooLate

    def prompt(self) -> None:
        """Wait for a prompt that takes keys: the cursor is after it, and the toolbar below."""
        self.see(r"\(qemu\)[^\n]*\n (running|paused)[^\n]*$")

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display if line.strip()]

    def resize(self, columns: int, rows: int) -> None:
        self.screen.resize(rows, columns)
        self.child.setwinsize(rows, columns)

    def ends(self) -> int | None:
        self.child.expect(pexpect.EOF)
        self.child.wait()
        return self.child.exitstatus


@pytest.fixture
def seat(tmp_path):
    seats: list[Seat] = []

    def sit(*args: str, columns: int = 80, rows: int = 24, **environment: str) -> Seat:
        if "XDG_STATE_HOME" not in environment:
            (tmp_path / "hmp").mkdir(exist_ok=True)
            (tmp_path / "hmp" / "history").write_text("info mem\n")
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "VIRTUAL_ENV") if name in os.environ}
        state = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        found = Seat(list(args), {**kept, **state, **environment}, columns=columns, rows=rows)
        seats.append(found)
        return found

    yield sit
    for found in seats:
        found.child.close(force=True)


SILENT = ("--guest", "silent", "--timeout", "1.5")


def test_commands_typed_ahead_run_after_the_wait(seat):
    def scene(silent):
        desk = seat(*silent)
        desk.prompt()
        desk.type("info balloon\r")
        desk.counts()
        desk.type("info status\rinfo na")
        desk.counts()
        assert "info status" not in desk.raw, "what is typed during the wait is not echoed"
        desk.type("me\r\x04")
        assert desk.ends() == 0
        assert [re.sub(r"age=\d{4,}$", "age=", line) for line in desk.lines] == [
            "hmp 0.1.0 monitor - type 'help' for more information",
            "(qemu) info balloon",
            "balloon: actual=1024,age=",
            "(qemu) info status",
            "VM status: running",
            "(qemu) info name",
            "(qemu)",
        ]

    in_time(scene)


@pytest.mark.parametrize(("columns", "narrower"), [(80, 40), (40, 30), (30, 80)])
def test_the_countdown_leaves_no_trace_also_when_the_window_is_resized(seat, columns, narrower):
    def scene(silent):
        desk = seat(*silent, columns=columns)
        desk.see("more")
        desk.type("info balloon\r")
        desk.counts()
        desk.resize(narrower, 24)
        desk.counts()
        desk.see("balloon: actual=1024")
        desk.type("\x04")
        assert desk.ends() == 0
        assert not [line for line in desk.lines if "wait" in line or re.match(r"\d+\.\d s", line)]

    in_time(scene)


def test_ctrl_c_gives_the_prompt_back_at_once(seat):
    desk = seat("--guest", "silent", "--timeout", "60")
    desk.prompt()
    desk.type("sim sleep 60\r")
    desk.see(r"waiting \.\.\. 5\d\.\d s")
    desk.type("info status\r")
    desk.see(r"waiting")
    desk.type("\x03")
    desk.prompt()
    desk.type("info name\r\x04")
    assert desk.ends() == 0
    assert desk.lines[1:] == ["(qemu) sim sleep 60", "cancelled", "(qemu) info name", "(qemu)"]


def test_the_terminal_is_as_it_was(seat):
    desk = seat(*SILENT)
    desk.prompt()
    assert termios.tcgetattr(desk.child.child_fd)[3] != desk.settings[3]
    desk.type("quit\r")
    assert desk.ends() == 0
    assert desk.raw.count("\x1b[?2004h") == desk.raw.count("\x1b[?2004l")
    assert not desk.screen.cursor.hidden


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_end_it_with_the_terminal_as_it_was(seat, number, status):
    desk = seat(*SILENT)
    desk.prompt()
    desk.type("half a line")
    desk.see("line")
    desk.child.kill(number)
    assert desk.ends() == status
    assert "Traceback" not in desk.raw


@pytest.mark.parametrize(("way", "status"), [("\x03", 130), ("\x1c", 131), (signal.SIGTERM, 143), ("quit", 0)])
def test_it_can_be_ended_while_a_client_is_waited_for(seat, tmp_path, way, status):
    person = seat("--qmp", f"unix:{tmp_path}/q,wait=on", "--monitor", f"unix:{tmp_path}/m")
    person.see("ready")
    if isinstance(way, int):
        person.child.kill(way)
    elif len(way) == 1:
        person.type(way)
    else:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{tmp_path}/m")
            client.sendall(b"quit\n")
            person.ends()
    assert person.ends() == status
    assert "(qemu)" not in person.raw
    assert not (tmp_path / "q").exists()


class TestScriptsBesideSockets:
    """-i with --monitor and --qmp: scripts run in the loop that serves."""

    def hear(self, path, words: bytes) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE)
        client.connect(str(path))
        heard = b""
        while words not in heard:
            data = client.recv(4096)
            assert data, heard
            heard += data
        return client

    def test_a_client_is_served_while_a_script_sleeps(self, seat, tmp_path):
        (tmp_path / "one").write_text("info kvm\n")
        (tmp_path / "two").write_text("sim sleep 1000\n")
        person = seat("-i", f"{tmp_path}/one", f"{tmp_path}/two", "--monitor", f"unix:{tmp_path}/m")
        person.see("kvm support")
        with self.hear(tmp_path / "m", b"(qemu) ") as client:
            client.sendall(b"quit\n")
            assert person.ends() == 0
        assert "monitor - type" not in person.raw
        assert termios.tcgetattr(person.child.child_fd) == person.settings

    def test_nothing_runs_before_the_client_that_is_waited_for(self, seat, tmp_path):
        person = seat(
            *("-i", "-c", "info status", "-c", "wrong"),
            *("--monitor", f"unix:{tmp_path}/m", "--qmp", f"unix:{tmp_path}/q,wait=on"),
        )
        person.see("ready")
        with self.hear(tmp_path / "m", b"(qemu) ") as client:
            client.sendall(b"info status\n")
            heard = b""
            while b"\r\n(qemu) " not in heard:
                heard += client.recv(4096)
            assert b"VM status: paused (prelaunch)" in heard
            assert "VM status" not in person.raw
            with self.hear(tmp_path / "q", b"QMP"):
                person.see("(?s)VM status: running.*unknown command: 'wrong'.*monitor - type")
                person.prompt()
                person.type("quit\r")
                assert person.ends() == 1

    @pytest.mark.parametrize(
        ("options", "status"), [(["-e", "-c", "wrong", "-c", "sim sleep 1000"], 1), (["-c", "quit"], 0)]
    )
    def test_a_script_may_end_it_all(self, seat, tmp_path, options, status):
        person = seat("-i", *options, "--monitor", f"unix:{tmp_path}/m")
        assert person.ends() == status
        assert "(qemu)" not in person.raw
        assert not (tmp_path / "m").exists()

    @pytest.mark.parametrize("served", [True, False])
    def test_a_script_counts_down_and_ctrl_c_leads_to_the_prompt(self, seat, tmp_path, served):
        more = ("--monitor", f"unix:{tmp_path}/m") if served else ()
        person = seat("-i", "-c", "info kvm", "-c", "sim sleep 1000", "-c", "quit", *more)
        person.see(r"waiting \.\.\. 99\d\.\d s")
        person.type("\x03")
        person.prompt()
        person.type("info name\r\x04")
        assert person.ends() == 0
        assert "cancelled" in person.lines
        assert termios.tcgetattr(person.child.child_fd) == person.settings

    def test_the_terminal_itself_can_be_a_script(self, seat, tmp_path):
        person = seat("-i", "-", "--monitor", f"unix:{tmp_path}/m")
        person.see("ready")
        person.type("info kxm\x7f\x7fvm\r")
        person.see("info kvm\nkvm support: disabled")
        person.type("\x04")
        person.prompt()
        person.type("quit\r")
        assert person.ends() == 0


def test_watch_draws_in_place_until_ctrl_c(seat):
    person = seat("--guest", "linux")
    person.prompt()
    person.type("sim watch 0.2\r")
    person.see(r"minor_page_faults +[\d,]+ +\+[\d,]+ +\S+ *\n")
    person.see(r"minor_page_faults .* \S{3}\n")
    person.type("\x03")
    person.prompt()
    person.type("info kvm\r\x04")
    assert person.ends() == 0
    assert len([line for line in person.lines if line.startswith("minor_page_faults")]) == 1
    assert person.lines[-3:] == ["(qemu) info kvm", "kvm support: disabled", "(qemu)"]
    assert "cancelled" not in person.lines
    assert not person.screen.cursor.hidden


def test_the_prompt_is_there_before_its_editor_and_keys_typed_then_count(seat):
    person = seat("--guest", "linux")
    person.child.expect_exact("(qemu)")
    assert "\x1b[6n" not in person.raw  # which the editor asks
    person.type("info kvm\r\x04")
    assert person.ends() == 0
    assert person.lines[1:] == ["(qemu) info kvm", "kvm support: disabled", "(qemu)"]


def test_from_typing_to_a_script(seat, tmp_path):
    person = seat("--guest", "linux")
    person.prompt()
    person.type("info kvm\rwrong\rsim sleep 99\r")
    person.see("waiting")
    person.type("\x03")
    person.prompt()
    person.type(f"sim save {tmp_path}/s\rsim source {tmp_path}/s\r\x04")
    assert person.ends() == 0
    assert (tmp_path / "s").read_text() == "info kvm\n# wrong\n# sim sleep 99\n"
    assert person.lines.count("kvm support: disabled") == 2


def test_the_first_session_suggests_what_to_try(seat, tmp_path):
    for _ in range(2):
        person = seat("--guest", "linux", XDG_STATE_HOME=str(tmp_path / "new"))
        person.prompt()
        person.type("quit\r")
        assert person.ends() == 0
    assert not any("try: help" in line for line in person.lines)
    other = seat("--guest", "linux", XDG_STATE_HOME=str(tmp_path / "newer"), columns=40)
    other.see("try: help, sim, TAB")
    other.prompt()
    other.type("\x04")
    assert other.ends() == 0


def test_without_a_file_for_the_history_a_hint_says_so_and_up_works(seat, tmp_path):
    (tmp_path / "hmp").write_text("in place of a directory")
    person = seat("--guest", "linux", XDG_STATE_HOME=str(tmp_path), columns=120)
    person.see("no history is kept|not kept for the next session: cannot write ")
    person.prompt()
    person.type("info status\r")
    person.see("VM status: running")
    person.prompt()
    person.type("\x1b[A\r")
    person.see(r"(?s)VM status: running.*VM status: running")
    person.prompt()
    person.type("\x04")
    assert person.ends() == 0


def test_without_colour_the_text_is_the_same(seat):
    texts = []
    for environment in ({}, {"NO_COLOR": "1"}):
        desk = seat("--guest", "linux", **environment)
        desk.prompt()
        desk.type("nonsense\rinfo name\rquit\r")
        assert desk.ends() == 0
        texts.append(desk.lines)
        colored = re.findall(r"\x1b\[[0-9;]*(?:3[0-7]|9[0-7]|[34]8;[25])[0-9;]*m", desk.raw)
        assert bool(colored) is not bool(environment)
    assert texts[0] == texts[1]


def test_colours_are_those_of_recorded_scripts(seat):
    desk = seat(*SILENT)
    desk.prompt()
    assert {desk.screen.buffer[1][x].fg for x in range(len("(qemu)"))} == {"green"}
    desk.type("info balloon\r")
    desk.see(r"age=\d+\n\(qemu\)")
    row = next(y for y, line in enumerate(desk.screen.display) if "age=" in line)
    at = desk.screen.display[row].index("age=")
    assert desk.screen.buffer[row][at].fg == "brown"
    assert desk.screen.buffer[row][at - 1].fg == "default"
    desk.type("\x04")
    assert desk.ends() == 0


def test_hints_are_faint_text_of_the_terminals_own_colour(seat):
    """A colour of its own, such as bright black, is the background in some schemes (Solarized dark)."""
    desk = seat("--guest", "linux")
    for typed, hint in (("sim delay ", "seconds"), ("info m", "em")):  # `info mem` is in the history
        desk.prompt()
        desk.type(typed)
        desk.see(re.escape(typed + hint))
        at = len("(qemu) " + typed)
        assert {desk.screen.buffer[1][x].fg for x in range(at - 1, at + len(hint))} == {"default"}
        assert re.search(rf"\x1b\[0;(39;)?2m{hint}", desk.raw)
        desk.type("\x03")
    desk.type("\x04")
    assert desk.ends() == 0


def test_a_dumb_terminal_gets_no_control_sequence(seat):
    desk = seat(*SILENT, TERM="dumb")
    desk.see(r"\(qemu\)")
    desk.type("info balloon\r")
    desk.see("info balloon")
    desk.type("info status\r")
    desk.see("running")
    desk.type("\x04")
    assert desk.ends() == 0
    assert "\x1b" not in desk.raw
    waiting = "waiting for the guest, 1.5 s at most; Ctrl-C gives the prompt back"
    assert desk.lines[1:3] == ["(qemu) info balloon", waiting]
    assert desk.raw.count("waiting") == 1
    assert desk.lines[3].startswith("balloon: actual=1024")
    assert desk.lines[4::2] == ["(qemu) info status", "(qemu)"]


def test_a_dumb_terminal_edits_what_was_typed_ahead_as_the_kernel_does(seat):
    def scene(silent):
        desk = seat(*silent, TERM="dumb")
        desk.see(r"\(qemu\)")
        desk.type("info balloon\r")
        desk.see("waiting for")
        ahead = (
            "wrong, \x17info names\x7f\r",
            "x\n",
            "info ué\x7f\x7fkvm\x04\r",
            "no\x15info status\r",
            "\x04info uuid\r",
        )
        desk.type("".join(ahead))
        assert desk.ends() == 0
        if "(qemu) info name" not in desk.lines:
            raise TooLate
        assert [line for line in desk.lines if "(qemu)" in line][1:] == [
            "(qemu) info name", "(qemu) x", "(qemu) info kvm", "(qemu) info status", "(qemu)",
        ]  # fmt: skip

    in_time(scene)


def test_a_menu_describes_what_it_offers(seat):
    desk = seat("--guest", "linux")
    desk.prompt()
    desk.type("info \t")
    desk.see("ask the guest for its memory statistics")
    desk.type("sta\t\r")
    desk.see("VM status: running")
    desk.type("\x04")
    assert desk.ends() == 0


def test_an_event_is_printed_above_the_line_being_typed(seat):
    desk = seat("--guest", "linux")
    desk.prompt()
    desk.type("balloon 512\rinfo sta")
    desk.see("target reached")
    desk.type("tus\rquit\r")
    assert desk.ends() == 0
    assert desk.lines[1:4] == [
        "(qemu) balloon 512",
        "[balloon target reached: 512 MiB]",
        "(qemu) info status",
    ]


KEYS = {
    "Enter": "\r",
    "TAB": "\t",
    "Escape": "\x1b",
    "F1": "\x1bOP",
    "Ctrl-C": "\x03",
    "Ctrl-D": "\x04",
    "Ctrl-U": "\x15",
}


def test_the_typed_part_of_the_tutorial_shows_what_it_says(seat):
    """Each row: what is typed, then what has to be on the screen from the line of that command on, in this order."""
    page = (Path(__file__).parents[3] / "docs/tutorial.md").read_text()
    rows = re.findall(
        r"^\| ([^-|].*?) \| (.*) \|$", page.partition("| type | you see |")[2].partition("\n\n")[0], re.MULTILINE
    )
    assert len(rows) > 6
    desk = seat()
    desk.prompt()
    for typed, seen in rows:
        for text, key in re.findall(r"`([^`]+)`|([A-Z][\w-]+)", typed):
            desk.type(text or KEYS[key])
            if key == "Escape":  # what follows at once would be one key with it
                while re.search(r"^ +hang ", "\n".join(desk.lines), re.MULTILINE):
                    desk.child.expect(r".+")
            elif text:
                desk.see(rf"\(qemu\) {re.escape(text.strip())}")
        for piece in re.findall(r"`([^`]+)`", seen):
            desk.see(rf"(?s)\(qemu\) [^\n]*(?!.*\(qemu\) \w).*?{re.escape(piece)}")
        if typed.endswith(("Enter", "Ctrl-C")):
            desk.prompt()
            if "without an age" in seen:
                assert "age=" not in "\n".join(desk.lines).rpartition("(qemu) info balloon")[2]
    assert desk.ends() == 0
