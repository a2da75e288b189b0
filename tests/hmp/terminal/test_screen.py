"""What a typed monitor shows besides its prompt: the screen and the toolbar."""

from __future__ import annotations

import os

import pytest

from device.clock import SECOND, SimulatedClock
from device.guest.table import make_guest
from device.machine.machine import Machine
from device.virtio.spec import MIB
from hmp.terminal import toolbar
from hmp.terminal.screen import Screen, encode, standard_screen


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

    @pytest.mark.parametrize(
        ("text", "encoding", "shown"),
        [
            ("total |▁▄█ é|", "utf-8", "total |▁▄█ é|".encode()),
            ("total |▁▄█ é|", "latin-1", b"total |_-# \xe9|"),
            ("name é→", "ascii", b"name \\xe9\\u2192"),
        ],
    )
    def test_a_chart_is_drawn_in_what_the_terminals_encoding_has(self, text, encoding, shown):
        assert encode(text, encoding) == shown

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


class TestToolbar:
    @pytest.fixture
    def machine(self):
        machine = Machine(SimulatedClock(), ram=1024 * MIB, guest=make_guest("linux"))
        yield machine
        machine.close()

    def test_it_tells_state_guest_memory_and_age(self, machine):
        assert toolbar.text(machine, 80) == f" not started │ linux │ {'█' * 20} 1G of 1G │ no statistics"
        machine.start()
        machine.advance(3 * SECOND)
        assert toolbar.text(machine, 80) == f" running │ linux │ {'█' * 20} 1G of 1G │ statistics 3 s old"
        machine.stop()
        machine.set_balloon(256 * MIB)
        assert toolbar.text(machine, 80, toolbar.ASCII).startswith(
            " paused | linux | #################### 1G->256M of 1G |"
        )

    def test_the_bar_is_actual_of_ram(self, machine):
        machine.start()
        machine.set_balloon(512 * MIB)
        machine.advance(2 * SECOND)
        assert f"{'█' * 10}{'░' * 10} 512M of 1G" in toolbar.text(machine, 80)

    @pytest.mark.parametrize("columns", [*range(1, 12), 20, 30, 40, 60, 80, 200])
    def test_it_fits(self, machine, columns):
        machine.start()
        assert len(toolbar.text(machine, columns)) <= columns

    def test_forty_columns_still_say_everything(self, machine):
        machine.start()
        assert toolbar.text(machine, 40) == " running  linux  ██████ 1G/1G  0 s"

    @pytest.mark.parametrize(
        ("guest", "sign"), [("silent", "no answer"), ("nodriver", "no driver"), ("linux", ""), ("nostats", "")]
    )
    def test_signs(self, guest, sign):
        machine = Machine(SimulatedClock(), ram=64 * MIB, guest=make_guest(guest))
        machine.start()
        machine.advance(6 * SECOND)
        assert toolbar.guest_sign(machine) == sign
        machine.close()

    def test_a_hung_or_dead_guest_shows(self, machine):
        machine.start()
        machine.guest.controls.hang()
        assert "linux hung" in toolbar.text(machine, 80)
        machine.guest.controls.panic()
        assert "linux panicked" in toolbar.text(machine, 80)

    def test_without_a_device(self, machine):
        machine.start()
        machine.device_del("balloon0")
        assert toolbar.text(machine, 80) == " running │ linux │ no balloon"

    @pytest.mark.parametrize(
        ("age", "text"), [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3600, "1 h"), (172_800, "2 days")]
    )
    def test_ages(self, age, text):
        assert toolbar.format_age(int(age * SECOND)) == text


@pytest.mark.parametrize(("value", "color"), [(None, True), ("", True), ("1", False), ("0", False)])
def test_no_color_counts_unless_it_is_empty(monkeypatch: pytest.MonkeyPatch, value: str | None, color: bool) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if value is not None:
        monkeypatch.setenv("NO_COLOR", value)
    with open(os.devnull, "w") as stdout:
        assert standard_screen(stdout).color is color
