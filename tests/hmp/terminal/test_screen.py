"""What a typed monitor shows besides its prompt: the screen and the toolbar."""

from __future__ import annotations

import os
import re
import sys

import pyte
import pytest

from device.clock import SECOND, SimulatedClock
from device.guest.table import PROFILES, make_guest
from device.machine.machine import Machine
from device.virtio.spec import MIB
from hmp.terminal import draw, toolbar
from hmp.terminal.screen import Screen, encode, standard_screen
from tests.support.machines import monitor_on, run
from tests.support.rig import HandGuest


class TestScreen:
    def test_colour_changes_no_text(self):
        written: list[str] = []
        Screen(written.append, color=True).show("Error: no\nway\n", "error")
        assert written == ["\x1b[31mError: no\x1b[0m\n\x1b[31mway\x1b[0m\n"]

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("balloon: actual=1,age=5000\n", "balloon: actual=1,\x1b[33mage=5000\x1b[0m\n"),
            ("balloon: actual=1\n", "balloon: actual=1\n"),
            ("image,age=5000\n", "image,age=5000\n"),
            ("balloon: x,age=old\n", "balloon: x,age=old\n"),
        ],
    )
    def test_the_age_of_old_statistics_stands_out(self, text, shown):
        for color in (True, False):
            written: list[str] = []
            Screen(written.append, color=color).show(text)
            assert written == [shown if color else text]

    @pytest.mark.parametrize("color", [True, False])
    @pytest.mark.parametrize(
        ("style", "shown"),
        [
            ("event", "[guest panic: nothing answers until\nsystem_reset]\n"),
            ("dim", "[guest panic: nothing answers until\nsystem_reset]\n"),
            ("error", "[guest panic: nothing answers until system_reset]\n"),  # may be QEMU's
        ],
    )
    def test_lines_of_ours_break_at_words(self, style, shown, color):
        written: list[str] = []
        Screen(written.append, color=color, width=lambda: 40).show(
            "[guest panic: nothing answers until system_reset]\n", style
        )
        assert re.sub(r"\x1b\[\d*m", "", written[0]) == shown
        Screen(written.append, color=color, width=lambda: 49).show(
            "[guest panic: nothing answers until system_reset]\n", style
        )
        assert written[1].count("\n") == 1

    @pytest.mark.parametrize(
        ("text", "encoding", "shown"),
        [
            ("total |▁▄█ é|", "utf-8", "total |▁▄█ é|".encode()),
            ("total |▁▄█ é|", "latin-1", b"total |_-# \xe9|"),
            ("name é→", "ascii", b"name \\xe9\\u2192"),
            ("4 s  ━━╸━ ╺━", "latin-1", b"4 s  ==== -="),
            ("|▁··█|", "ascii", b"|_??#|"),
        ],
    )
    def test_a_chart_is_drawn_in_what_the_terminals_encoding_has(self, text, encoding, shown):
        assert encode(text, encoding) == shown

    def test_the_linux_console_gets_what_its_font_has(self, monkeypatch, tmp_path):
        for term, shown in (("linux", "__▄▄▄███·░→ ==-"), ("xterm", "▁▂▃▄▅▆▇█·░→ ━╸╺")):
            monkeypatch.setenv("TERM", term)
            with open(tmp_path / term, "w", encoding="utf-8") as stdout:
                standard_screen(stdout).write("▁▂▃▄▅▆▇█·░→ ━╸╺")
            assert (tmp_path / term).read_text(encoding="utf-8") == shown

    def test_without_control_sequences_there_is_no_transient_line(self):
        written: list[str] = []
        screen = Screen(written.append, ansi=False)
        screen.transient("waiting")
        screen.show("text\n", "error")
        assert written == ["text\n"]

    def test_a_transient_line_never_fills_the_row(self):
        written: list[str] = []
        Screen(written.append, color=False, width=lambda: 10).transient("waiting for the guest")
        assert written == ["\rwaiting f\x1b[J\r"]


def drawn(
    line: str, *, width: int = 80, color: bool = False, guest: str = "linux", before: tuple[str, ...] = ()
) -> str:
    """What a terminal shows of a command."""
    subject = monitor_on(guest)
    written: list[str] = []
    screen = Screen(written.append, color=color, width=lambda: width)
    for each in before:
        run(subject, each)
    screen.show(run(subject, line).text)
    return "".join(written)


class Tmux(pyte.HistoryScreen):
    """A screen that keeps what is erased from its first cell on, as tmux does."""

    def erase_in_display(self, how: int = 0, *args, **kwargs) -> None:
        if (how, self.cursor.x, self.cursor.y) == (0, 0, 0):
            self.history.top.append(self.buffer[0])
        super().erase_in_display(how, *args, **kwargs)


class TestDrawing:
    EVERY = ("sim", "sim stats", "help", "help sim guest", "help info", "info", "info snapshots", "sim set")
    BEFORE = ("savevm", 'savevm "a tag"', "sim set free_mem 100M", "sim set oom_kills none", "info balloon")

    @pytest.mark.parametrize("line", EVERY)
    @pytest.mark.parametrize("guest", ["linux", "windows", "nodriver"])
    def test_it_fits_the_window_and_colour_changes_no_text(self, line, guest):
        for width in (40, 80, 200):
            plain = drawn(line, width=width, guest=guest, before=self.BEFORE)
            assert max(map(len, plain.splitlines())) <= width
            colored = drawn(line, width=width, guest=guest, before=self.BEFORE, color=True)
            assert re.sub(r"\x1b\[[0-9;]*m", "", colored) == plain

    @pytest.mark.parametrize("line", EVERY)
    def test_every_fact_of_the_text_is_in_the_drawing(self, line):
        subject = monitor_on()
        for each in self.BEFORE:
            run(subject, each)
        text = run(subject, line).text.replace("ICOUNT", "").replace("--", " ").replace("ID  ", "").replace(",", "")
        shown = drawn(line, width=200, before=self.BEFORE).replace(",", "")
        assert not {word for word in text.split() if word not in shown}

    @pytest.mark.parametrize("line", [*EVERY, "sim guest"])
    @pytest.mark.parametrize("width", [40, 60, 80])
    def test_no_word_is_cut(self, line, width):
        wide = drawn(line, width=500, before=self.BEFORE)
        assert {word for word in wide.split() if len(word) < width - 4} <= {
            *drawn(line, width=width, before=self.BEFORE).split()
        }

    def test_the_state_of_the_statistics_has_a_colour(self):
        for before, code in (((), 32), (("sim sleep 9",), 33), (("sim hang",), 31)):
            assert f"\x1b[{code}mlast answer" in drawn("sim stats", color=True, before=before)

    def test_a_guest_cannot_write_markup_or_escapes(self):
        text = drawn("info snapshots", before=('savevm "[red]x :smile:"',), color=True)
        assert "[red]x :smile: " in text

    def test_help_of_guests_names_them_and_their_keys(self):
        assert {*PROFILES, "delay=SEC"} <= set(drawn("help sim guest").split())
        headings = [
            line for line in drawn("help sim guest", color=True).splitlines() if "[guests]" in line or "[keys]" in line
        ]
        assert [line.strip() for line in headings] == ["\x1b[2m[guests]\x1b[0m", "\x1b[2m[keys]\x1b[0m"]

    def test_what_is_shown_again_and_again_has_the_same_colours(self):
        subject = monitor_on()
        written: list[str] = []
        screen = Screen(written.append, width=lambda: 80)
        subject.live = screen.live
        run(subject, "sim sleep 2")
        run(subject, "sim watch 1 1 sim chart")
        screen.settle()
        blocks = [line for line in "".join(written).split("\n") if "█" in line]
        assert blocks
        assert all("\x1b[36m█" in line for line in blocks)

    def test_what_is_shown_again_and_again_follows_the_window(self, monkeypatch):
        """Its cursor stays in the first row, from which all can be erased, however the terminal broke its lines."""
        terminal = Tmux(80, 24)
        stream = pyte.Stream(terminal)
        size = lambda *_: os.terminal_size((terminal.columns, terminal.lines))  # noqa: E731
        monkeypatch.setattr(os, "get_terminal_size", size)
        screen = Screen(lambda text: stream.feed(text.replace("\n", "\r\n")), width=lambda: terminal.columns)
        subject = monitor_on()
        subject.live = screen.live
        screen.write("above\n")
        run(subject, "sim watch 1 1")
        assert (terminal.cursor.y, terminal.cursor.x) == (1, 0)
        terminal.resize(8, 40)
        terminal.cursor_position(2, 1)
        for _ in range(5):
            screen.transient("")
        assert len(terminal.history.top) == 1
        assert [line.strip() for line in terminal.display][::7] == ["last answer 0.0 s ago; no request timed", "..."]
        assert (terminal.cursor.y, terminal.cursor.x) == (0, 0)
        screen.settle()
        assert terminal.display[terminal.cursor.y - 1].startswith("hugetlb_failures ")

    def test_a_transient_line_in_the_first_row_is_not_kept_by_the_terminal(self):
        terminal = Tmux(20, 3)
        stream = pyte.Stream(terminal)
        screen = Screen(stream.feed, width=lambda: 20)
        for _ in range(3):
            screen.transient("waiting")
        screen.clear()
        assert not terminal.history.top
        assert [line.strip() for line in terminal.display] == [""] * 3

    def test_errors_of_hmp_itself_go_past_what_is_shown_again_and_again(self):
        before = sys.stdout, sys.stderr
        with draw.live(lambda text: None, 80, 24, color=False):
            assert (sys.stdout, sys.stderr) == before

    def test_words_of_qemu_keep_their_breaks(self):
        line = "info virtio-status /machine/peripheral/balloon0/virtio-backend"
        plain = run(monitor_on(), line).text
        assert drawn(line, width=20, color=False) == plain
        assert re.sub(r"\x1b\[[0-9;]*m", "", drawn(line, width=20, color=True)) == plain


def bar(machine, columns, signs=toolbar.LINES):
    return "".join(part for _, part in toolbar.segments(machine, columns, signs))


class TestToolbar:
    @pytest.fixture
    def machine(self):
        machine = Machine(SimulatedClock(), ram=1024 * MIB, guest=make_guest("linux"))
        yield machine
        machine.close()

    def test_it_shows_state_guest_memory_and_age(self, machine):
        assert bar(machine, 90) == f" not started │ linux │ warp clock │ {'█' * 20} 1G of 1G │ no statistics"
        machine.start()
        machine.advance(3 * SECOND)
        assert bar(machine, 90) == f" running │ linux │ warp clock │ {'█' * 20} 1G of 1G │ statistics 3 s old"
        machine.stop()
        machine.set_balloon(256 * MIB)
        assert bar(machine, 90, toolbar.ASCII).startswith(
            " paused | linux | warp clock | #################### 1G->256M of 1G |"
        )

    def test_the_bar_is_actual_of_ram(self, machine):
        machine.start()
        machine.set_balloon(512 * MIB)
        machine.advance(2 * SECOND)
        assert f"{'█' * 10}{'░' * 10} 512M of 1G" in bar(machine, 90)

    def test_a_size_that_the_guest_has_not_reached_yet_leads_to_the_one_that_is_wanted(self):
        subject = monitor_on("nodriver")
        subject.machine.set_balloon(256 * MIB)
        assert " 512M→256M of 512M " in bar(subject.machine, 90)
        assert " 512M->256M of 512M " in bar(subject.machine, 90, toolbar.ASCII)

    @pytest.mark.parametrize("columns", [*range(1, 12), 20, 30, 40, 60, 80, 200])
    def test_it_fits(self, machine, columns):
        machine.start()
        assert len(bar(machine, columns)) <= columns

    def test_forty_columns_still_say_everything(self, machine):
        machine.start()
        assert bar(machine, 40) == " running  linux  warp  ██████ 1G/1G  0 s"

    def test_the_age_goes_before_the_run_state(self):
        machine = Machine(SimulatedClock(), ram=1024 * MIB, guest=make_guest("windows"))
        machine.start()
        assert bar(machine, 42) == " running  windows service not up  warp  1G"
        machine.close()

    @pytest.mark.parametrize(
        ("guest", "sign"),
        [
            ("silent", "no answer"),
            ("nodriver", "no driver"),
            ("linux", ""),
            ("nostats", ""),
            ("windows", "service not up"),
            ("windows,service=2", ""),
            ("linux,boot=9", "booting"),
        ],
    )
    def test_each_state_of_a_guest_has_its_sign(self, guest, sign):
        machine = Machine(SimulatedClock(), ram=64 * MIB, guest=make_guest(guest))
        machine.start()
        machine.advance(6 * SECOND)
        assert toolbar.guest_sign(machine) == sign
        machine.close()

    def test_a_real_guest_that_is_dead_or_not_there_is_not_one_without_a_driver(self, machine):
        machine.start()
        for shown, ended, sign in (
            ({}, "its kernel was killed", "gone"),
            ({"gone": "hung up"}, "", "gone"),
            ({"waiting for": "a front end"}, "", "not connected"),
        ):
            guest = HandGuest()
            guest.ended = ended
            guest.shown = lambda shown=shown: shown
            machine.guest = guest
            assert toolbar.guest_sign(machine) == sign

    def test_old_statistics_are_a_warning_only_where_the_guest_was_asked(self, machine):
        def meaning() -> str:
            return toolbar.segments(machine, 80)[-1][0]

        machine.start()
        machine.advance(60 * SECOND)
        assert meaning() == "plain"
        machine.guest.controls.hang()
        machine.request_stats(machine.timeout)
        machine.advance(SECOND)
        assert meaning() == "notice"
        machine.guest.controls.wake()
        assert meaning() == "plain"

    def test_it_says_which_dialect_is_spoken(self, machine):
        machine.start()
        shown = "".join(part for _, part in toolbar.segments(machine, 100, dialect="pve"))
        assert "│ pve dialect │" in shown

    def test_a_hung_or_dead_guest_shows(self, machine):
        machine.start()
        machine.guest.controls.hang()
        assert "linux hung" in bar(machine, 80)
        machine.guest.controls.panic()
        assert "linux panicked" in bar(machine, 80)

    def test_without_a_device(self, machine):
        machine.start()
        machine.device_del("balloon0")
        assert bar(machine, 80) == " running │ linux │ warp clock │ no balloon"

    @pytest.mark.parametrize(
        ("age", "text"), [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3600, "1 h"), (172_800, "2 days")]
    )
    def test_an_age_is_written_short(self, age, text):
        assert toolbar.format_age(int(age * SECOND)) == text


@pytest.mark.parametrize(("value", "color"), [(None, True), ("", True), ("1", False), ("0", False)])
def test_no_color_counts_unless_it_is_empty(monkeypatch: pytest.MonkeyPatch, value: str | None, color: bool) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if value is not None:
        monkeypatch.setenv("NO_COLOR", value)
    with open(os.devnull, "w") as stdout:
        assert standard_screen(stdout).color is color
