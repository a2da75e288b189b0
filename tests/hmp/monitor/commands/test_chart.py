"""`sim chart`: what is drawn, on which scale, and what is not known."""

from __future__ import annotations

import pytest

from device.balloon.stats import Sample
from device.clock import SECOND
from device.guest.table import PROFILES
from device.virtio.spec import MIB
from hmp.monitor.commands.chart import BLOCKS, draw, series
from tests.support.machines import build, device_of, monitor, monitor_on, run, say

Entry = tuple[int, int, Sample | None]


def entry(second: int, actual: int, *, known: dict[int, int] | None = None, collected: int | None = None) -> Entry:
    """An entry of the history; `collected` (s) is when its sample came, by default just then."""
    now = second * SECOND
    if known is None:
        return now, actual, None
    when = now if collected is None else collected * SECOND
    return now, actual, Sample(tuple(known), tuple(known.values()), {}, when, when)


class TestSeries:
    def test_a_value_stands_until_the_next_one(self) -> None:
        entries = [entry(0, 8), entry(5, 4)]
        assert series(entries, None, 10 * SECOND, 11) == [8] * 5 + [4] * 6

    def test_time_is_even_whatever_the_gaps_between_the_entries(self) -> None:
        entries = [entry(0, 1), entry(1, 2), entry(2, 3), entry(90, 4)]
        assert series(entries, None, 100 * SECOND, 11) == [1] + [3] * 8 + [4] * 2

    def test_a_statistic_ends_with_its_last_sample_and_actual_does_not(self) -> None:
        entries = [entry(0, 9, known={4: 7}), entry(4, 9, known={4: 5}), entry(6, 8, known={4: 5}, collected=4)]
        assert series(entries, 4, 10 * SECOND, 11) == [7] * 4 + [5] + [None] * 6
        assert series(entries, None, 10 * SECOND, 11) == [9] * 6 + [8] * 5

    def test_a_statistic_that_was_not_reported_is_a_gap(self) -> None:
        entries = [entry(0, 9, known={4: 7}), entry(5, 9, known={5: 1}), entry(8, 9, known={4: 6})]
        assert series(entries, 4, 8 * SECOND, 9) == [7] * 5 + [None] * 3 + [6]

    def test_a_single_entry_of_this_instant_is_a_single_column(self) -> None:
        assert series([entry(3, 9, known={4: 7})], 4, 3 * SECOND, 3) == [7, None, None]

    def test_the_newest_value_always_shows(self) -> None:
        entries = [entry(0, 1, known={4: 1}), entry(96, 1, known={4: 2})]
        assert 2 in series(entries, 4, 100 * SECOND, 11)


class TestDrawing:
    def test_a_row_has_eight_steps_from_nothing_to_full(self) -> None:
        assert draw(list(range(9)), 8, 1) == [BLOCKS]

    def test_whatever_is_not_zero_shows(self) -> None:
        assert draw([0, 1, None, 999_999], 1_000_000, 1) == [" ▁ █"]

    def test_rows_are_filled_from_the_bottom(self) -> None:
        assert draw([0, 4, 8, 12, 16], 16, 2) == ["   ▄█", " ▄███"]

    def test_what_is_above_the_scale_fills_it(self) -> None:
        assert draw([2**64], 10, 2) == ["█", "█"]

    def test_a_scale_of_nothing_draws_nothing(self) -> None:
        assert draw([0, 0], 0, 1) == ["  "]


class TestOverview:
    def test_one_row_for_actual_and_each_statistic_that_was_reported(self) -> None:
        subject = monitor_on("partial")
        say(subject, "sim set free_mem 128M")
        say(subject, "sim set total_mem 256M")
        say(subject, "sim set 42 7")
        say(subject, "info balloon")
        say(subject, "sim sleep 1")
        say(subject, "info balloon")
        full, half, quarter = "█" * 38, "▄" * 38, "▂" * 38
        assert say(subject, "sim chart") == (
            "last 1.0 s, 2 points; sizes 0 to 512M, counters 0 to their largest\n"
            f"actual            |{full}| 512M\n"
            f"free_mem          |{quarter}| 128M\n"
            f"total_mem         |{half}| 256M\n"
            f"tag 42            |{full}| 7\n"
        )

    def test_a_guest_that_fell_silent_leaves_a_blank(self) -> None:
        subject = monitor_on("partial")
        say(subject, "sim hang")
        say(subject, "sim sleep 10")
        rows = dict(line.split("|")[:2] for line in say(subject, "sim chart").splitlines()[1:])
        assert rows["actual            "] == "█" * 38
        assert rows["free_mem          "] == "▇" + " " * 37

    def test_a_statistic_no_longer_reported_has_no_value(self) -> None:
        subject = monitor_on("partial")
        say(subject, "sim sleep 1")
        say(subject, "sim set free_mem none")
        say(subject, "info balloon")
        (row,) = [line for line in say(subject, "sim chart").splitlines() if line.startswith("free_mem")]
        assert row.endswith("| -")

    def test_ballooning_shows_at_its_place_in_time(self) -> None:
        subject = monitor_on()
        say(subject, "sim sleep 10")
        say(subject, "balloon 256")
        say(subject, "sim sleep 10")
        row = say(subject, "sim chart").splitlines()[1].split("|")[1]
        assert row.startswith("█" * 18)
        assert row.endswith("▄" * 17)

    @pytest.mark.parametrize("guest", ["linux", "linux-6.12", "host", "windows", "nodriver", "empty"])
    def test_lines_fit_80_columns_whatever_the_numbers(self, guest: str) -> None:
        subject = monitor_on(guest)
        for stat in ("minor_page_faults", "mem_swapped_out", "free_mem", "65535"):
            say(subject, f"sim set {stat} 18446744073709551614")
        say(subject, "balloon 300")
        for _ in range(3):
            say(subject, "sim sleep 333333.3")
            say(subject, "info balloon")
            for names in ("", " actual", " minor_page_faults", " mem_swapped_out free_mem"):
                assert all(len(line) <= 80 for line in say(subject, f"sim chart{names}").splitlines())


@pytest.mark.parametrize("columns", [40, 57])
@pytest.mark.parametrize("line", ["sim chart", "sim chart actual free_mem minor_page_faults"])
def test_a_narrow_screen_gets_narrow_plots(columns: int, line: str) -> None:
    subject = monitor_on()
    subject.columns = lambda: columns
    run(subject, "balloon 256")
    run(subject, "sim sleep 3")
    run(subject, "info balloon")
    text = say(subject, line)
    assert {row for row in text.splitlines() if len(row) > columns} == set()
    assert "sizes 0 to 512M" in text


def test_the_numbers_of_a_larger_machine_have_a_scale_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = monitor_on("host")
    faults = 10**9
    for at in range(3):
        numbers = {3: faults + 100 * at, 4: 4096 * MIB, 5: 8192 * MIB}
        monkeypatch.setattr("device.guest.model.host_guest.read_host_statistics", lambda known=numbers: known)
        run(subject, "info balloon")
        run(subject, "sim sleep 1")
    lines = say(subject, "sim chart").splitlines()
    assert lines[0].endswith("sizes 0 to 8G, counters their lowest to their largest")
    rows = {line.split()[0]: line.split("|")[1] for line in lines[1:]}
    assert set(rows["total_mem"].strip()) == {"█"}
    assert set(rows["free_mem"].strip()) == {"▄"}
    assert set(rows["minor_page_faults"].strip()) > {"▄", "█"} - {"▄"}
    assert len(set(rows["minor_page_faults"])) > 2
    assert f"{faults} |" in say(subject, "sim chart minor_page_faults")


def test_while_the_guest_owes_an_answer_there_is_a_gap() -> None:
    subject = monitor_on()
    for line in ("info balloon", "sim sleep 5", "sim hang", "info balloon", "balloon 500", "sim sleep 5", "sim wake"):
        run(subject, line)
    run(subject, "sim sleep 5")
    run(subject, "info balloon")
    *lines, legend = say(subject, "sim chart").splitlines()[2:]
    assert legend == "· an answer was due"
    for line in lines:
        row = line.split("|")[1]
        assert "·" in row, line
        assert "·" not in row[:8] + row[-8:], line
    assert "·" not in say(subject, "sim chart actual")
    assert say(subject, "sim chart free_mem").count("·") > 20


@pytest.mark.parametrize("columns", [20, 40, 200])
@pytest.mark.parametrize("guest", [name for name, each in PROFILES.items() if name not in ("uml", "vhost-user")])
def test_a_chart_of_each_guest_fits_the_screen_and_explains_its_signs(guest: str, columns: int) -> None:
    subject = monitor_on(guest, timeout=1)
    subject.columns = lambda: columns
    for line in (
        "info balloon",
        "balloon 300",
        "sim sleep 25",
        "info balloon",
        "sim hang",
        "info balloon",
        "sim sleep 9",
    ):
        run(subject, line)
    for line in ("sim chart", "sim chart actual free_mem"):
        reply = run(subject, line)
        if reply.failed or reply.text.startswith("nothing to draw yet: "):
            assert not reply.failed or reply.text == "Error: the guest has not reported free_mem lately\n"
            continue
        assert max(map(len, reply.text.splitlines())) <= max(columns, 22 if guest == "hostile" else 0), reply.text
        rows, legend = reply.text.removesuffix("· an answer was due\n"), reply.text.endswith("· an answer was due\n")
        assert ("·" in rows) == legend


@pytest.mark.parametrize("columns", [16, 20, 39])
def test_a_very_narrow_screen_gets_plots_below_their_names(columns: int) -> None:
    subject = monitor_on()
    subject.columns = lambda: columns
    run(subject, "sim sleep 3")
    run(subject, "info balloon")
    rows = say(subject, "sim chart").splitlines()
    at = next(number for number, row in enumerate(rows) if row.startswith("actual 512M"))
    assert rows[at + 1] == "|" + "█" * (columns - 3) + "|"
    assert not [row for row in rows[at:] if len(row) > max(columns, 22)]


class TestPlots:
    def test_a_named_statistic_gets_a_plot_with_its_scale_and_times(self) -> None:
        subject = monitor_on("partial")
        say(subject, "sim set free_mem 224M")
        say(subject, "info balloon")
        say(subject, "sim sleep 10")
        say(subject, "info balloon")
        width = 69
        assert say(subject, "sim chart stat-free-memory").splitlines() == [
            "last 10.0 s, 2 points; sizes 0 to 512M, counters 0 to their largest",
            "free_mem: 234881024 (224M)",
            "    512M |",
            *["         |"] * 3,
            "         |" + "▄" * width,
            *["         |" + "█" * width] * 2,
            "       0 |" + "█" * width,
            "          10.0 s ago" + "now".rjust(width - len("10.0 s ago")),
        ]

    def test_each_name_gets_one_however_often_it_is_given(self) -> None:
        subject = monitor_on()
        text = say(subject, "sim chart  actual free_mem 4\tactual stat-free-memory")
        assert [line.partition(":")[0] for line in text.splitlines() if ": " in line] == ["actual", "free_mem"]

    def test_a_counter_is_drawn_from_zero_to_its_largest(self) -> None:
        subject = monitor_on()
        for faults in (500, 1000):
            say(subject, f"sim set minor_page_faults {faults}")
            say(subject, "info balloon")
            say(subject, "sim sleep 1")
        lines = say(subject, "sim chart minor_page_faults").splitlines()
        assert lines[1] == "minor_page_faults: 1000 (1,000)"
        assert lines[2].startswith("    1000 |  ")
        assert lines[6].startswith("         |██")

    def test_one_that_is_not_reported_any_more_says_so(self) -> None:
        subject = monitor_on("partial")
        say(subject, "sim sleep 1")
        say(subject, "sim set free_mem none")
        say(subject, "info balloon")
        assert "free_mem: not reported any more\n" in say(subject, "sim chart free_mem")


class TestRefusals:
    def test_before_anything_was_reported_it_says_so(self) -> None:
        reply = run(monitor_on("nodriver"), "sim chart")
        assert not reply.failed
        assert reply.text == "nothing to draw yet: no statistics have come and actual has not changed\n"
        assert run(monitor_on("silent"), "sim chart free_mem").text == reply.text

    def test_an_unknown_name_is_refused_whether_or_not_there_is_something_to_draw(self) -> None:
        for guest in ("linux", "nodriver"):
            reply = run(monitor_on(guest), "sim chart free_mem nosuch")
            assert reply.failed
            assert reply.text.startswith("Error: 'nosuch' is not a statistic (one of mem_swapped_in, ")

    def test_a_statistic_that_this_guest_does_not_report_is_refused(self) -> None:
        reply = run(monitor_on("linux-2.6.34"), "sim chart oom_kills")
        assert (reply.failed, reply.text) == (True, "Error: the guest has not reported oom_kills lately\n")

    def test_without_a_device_it_fails_as_info_balloon_does(self) -> None:
        reply = run(monitor_on(balloon=False), "sim chart")
        assert (reply.failed, reply.text) == (True, "Error: No balloon device has been activated\n")


def test_a_full_history_is_drawn_from_its_oldest_kept_entry() -> None:
    machine = build()
    subject = monitor(machine)
    for _ in range(1100):
        machine.advance(SECOND)
        say(subject, "info balloon")
    assert say(subject, "sim chart").startswith("last 511.0 s, 512 points; ")


def test_drawing_changes_nothing() -> None:
    subject = monitor_on()
    say(subject, "info balloon")
    first = say(subject, "sim chart")
    say(subject, "sim chart actual free_mem")
    assert say(subject, "sim chart") == first
    assert device_of(subject).actual == 512 * MIB
