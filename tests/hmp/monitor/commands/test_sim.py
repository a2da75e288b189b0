"""`sim` and `sim stats`: what they show. The controls are in test_sim_controls.py."""

from __future__ import annotations

import pytest

from device.balloon.spec import ABSENT, STATS_TABLE
from device.clock import SECOND
from device.machine.machine import Machine
from hmp.monitor.commands.sim import ago, columns, readable
from hmp.monitor.monitor import Monitor
from tests.support.machines import build, device_of, monitor, monitor_on, run, say


def fields(text: str) -> dict[str, str]:
    """The rows of the overview by their names."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, value = line[:12].strip(), line[12:]
        if name:
            found[name] = value
        else:
            found["guest"] += f"; {value}"
    return found


class TestOverview:
    def test_everything_of_a_fresh_machine(self) -> None:
        subject = monitor_on()
        free = subject.machine.guest.memory_free()
        assert say(subject, "sim") == (
            "guest       linux (its driver is up)\n"
            "run state   running\n"
            "clock       warp, at 0.0 s; the VM ran for 0.0 s\n"
            "RAM         536870912  512M\n"
            "target      536870912  512M\n"
            "actual      536870912  512M\n"
            f"free        {free}  404.3M\n"
            "statistics  last answer 0.0 s ago; no request timed out\n"
            "requests    0 answered, 0 timed out, 0 waiting\n"
        )

    def test_a_guest_that_stopped_answering_is_seen_at_a_glance(self) -> None:
        subject = monitor_on()
        say(subject, "info balloon")
        say(subject, "sim hang")
        for _ in range(3):
            say(subject, "info balloon")
        say(subject, "sim sleep 0.25")
        found = fields(say(subject, "sim"))
        assert (
            found["statistics"] == "last answer 15.2 s ago, asked again since without an answer; 3 requests timed out"
        )
        assert found["requests"] == "1 answered, 3 timed out, 0 waiting"
        assert found["guest"] == "linux (its driver is up); hung: yes"

    def test_a_guest_that_never_answered_says_since_when(self) -> None:
        subject = monitor_on("silent")
        say(subject, "info balloon")
        assert fields(say(subject, "sim"))["statistics"] == (
            "no answer since the device was reset 5.0 s ago; 1 request timed out"
        )

    @pytest.mark.parametrize(
        ("guest", "words"),
        [("nodriver", "the guest's driver is not up"), ("nostats", "the guest's driver does not report statistics")],
    )
    def test_a_guest_that_cannot_answer_says_why(self, guest: str, words: str) -> None:
        assert fields(say(monitor_on(guest), "sim"))["statistics"] == f"none: {words}; no request timed out"

    def test_without_a_device(self) -> None:
        found = fields(say(monitor_on(balloon=False), "sim"))
        assert found["statistics"] == "none: there is no balloon device"
        assert "target" not in found

    def test_a_broken_device_points_to_where_the_reason_is(self) -> None:
        subject = monitor_on()
        device_of(subject).accept_features(0)
        assert "broken until it is reset (see info virtio-status)" in fields(say(subject, "sim"))["statistics"]

    def test_requests_of_other_monitors_that_wait_are_counted(self) -> None:
        machine = build("silent")
        waits = monitor(machine).execute("info balloon")
        assert fields(say(monitor(machine), "sim"))["requests"] == "0 answered, 0 timed out, 1 waiting"
        waits.cancel()

    def test_faults_target_polling_and_state(self) -> None:
        subject = monitor_on("linux,loss=0.5")
        for line in ("sim delay 2.5", "sim drop 7", "sim set oom_kills 1", "balloon 256", "stop",
                     "qom-set balloon0 guest-stats-polling-interval 1"):  # fmt: skip
            assert say(subject, line) == ""
        found = fields(say(subject, "sim"))
        assert found["guest"] == (
            "linux,loss=0.5 (its driver is up); delay: 2.5 s; loss: 0.5; drops left: 7; pinned: 1"
        )
        assert (found["run state"], found["polling"]) == ("paused", "every 1 second of VM time")
        assert (found["target"], found["actual"]) == ("268435456  256M", "536870912  512M")

    def test_a_guest_without_a_model_shows_the_free_memory_that_it_reported(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        subject = monitor_on()
        say(subject, "sim set free_mem 4096")
        say(subject, "info balloon")
        monkeypatch.setattr(subject.machine.guest, "memory_free", lambda: None)
        assert fields(say(subject, "sim"))["free"].split() == ["4096", "4K"]


class TestStats:
    def test_exact_and_human_side_by_side_in_the_order_of_the_table(self) -> None:
        subject = monitor_on("linux-6.12")
        for stat in STATS_TABLE[:16]:  # all that this kernel sends
            assert say(subject, f"sim set {stat.name} {1000 + stat.tag}") == ""
        say(subject, "sim set free_mem 1G")
        say(subject, "sim set disk_caches none")
        say(subject, "sim set 42 1234567")
        say(subject, "sim set 40 5")
        say(subject, "info balloon")
        assert say(subject, "sim stats") == (
            "last answer 0.0 s ago; no request timed out\n"
            "mem_swapped_in           1000      1000B\n"
            "mem_swapped_out          1001      1001B\n"
            "major_page_faults        1002      1,002\n"
            "minor_page_faults        1003      1,003\n"
            "free_mem           1073741824         1G\n"
            "total_mem                1005      1005B\n"
            "available_mem            1006      1006B\n"
            "hugetlb_allocs           1008      1,008\n"
            "hugetlb_failures         1009      1,009\n"
            "oom_kills                1010      1,010\n"
            "alloc_stalls             1011      1,011\n"
            "async_scans              1012      1012B\n"
            "direct_scans             1013      1013B\n"
            "async_reclaims           1014      1014B\n"
            "direct_reclaims          1015      1015B\n"
            "tag 40                      5\n"
            "tag 42                1234567  1,234,567\n"
        )

    def test_the_age_is_shown_in_seconds(self) -> None:
        subject = monitor_on("partial")
        say(subject, "sim sleep 12")
        lines = say(subject, "sim stats").splitlines()
        assert lines[0] == "last answer 12.0 s ago; no request timed out"
        assert [line.split()[0] for line in lines[1:]] == ["free_mem", "total_mem"]

    def test_it_does_not_ask_the_guest(self) -> None:
        subject = monitor_on()
        sample = device_of(subject).stats.sample
        say(subject, "sim stats")
        assert device_of(subject).stats.sample is sample

    def test_a_guest_that_answers_but_knows_nothing(self) -> None:
        subject = monitor_on("empty")
        say(subject, "info balloon")
        assert say(subject, "sim stats").splitlines()[1:] == ["the guest reported no statistic"]

    def test_no_sample_says_why(self) -> None:
        assert say(monitor_on("nodriver"), "sim stats") == "none: the guest's driver is not up; no request timed out\n"

    def test_without_a_device_it_fails_as_info_balloon_does(self) -> None:
        reply = run(monitor_on(balloon=False), "sim stats")
        assert (reply.failed, reply.text) == (True, "Error: No balloon device has been activated\n")

    def test_the_largest_numbers_are_unsigned(self) -> None:
        subject = monitor_on()
        say(subject, f"sim set minor_page_faults {ABSENT - 1}")
        say(subject, "info balloon")
        assert "18446744073709551614  18,446,744,073,709,551,614\n" in say(subject, "sim stats")


class TestWords:
    @pytest.mark.parametrize(
        ("duration", "text"),
        [(0, "0.0 s"), (99_999_999, "0.0 s"), (100_000_000, "0.1 s"), (12 * SECOND, "12.0 s"), (4999999999, "4.9 s")],
    )
    def test_an_age_is_rounded_down(self, duration: int, text: str) -> None:
        assert ago(duration) == text

    def test_columns_are_as_wide_as_their_widest_cell_and_end_without_blanks(self) -> None:
        assert columns([("a", "1", ""), ("long", "200", "x")], right=(1,)) == "a       1\nlong  200  x\n"

    def test_sizes_and_counts_for_people(self) -> None:
        assert [readable(4, 1536), readable(2, 999), readable(2, 1000), readable(99, 12345)] == [
            "1.5K",
            "",
            "1,000",
            "12,345",
        ]


def test_same_seed_and_script_are_the_same_bytes() -> None:
    script = ["sim", "info balloon", "balloon 300", "sim sleep 3", "sim alloc 200M", "sim stats", "sim chart", "sim"]

    def play() -> list[str]:
        subject = monitor_on("flaky,delay=0.2", seed=7)
        return [say(subject, line) for line in script]

    assert play() == play()


def test_a_monitor_on_a_machine_that_ended_still_shows_it() -> None:
    machine: Machine = build()
    subject: Monitor = monitor(machine)
    say(subject, "quit")
    assert fields(say(subject, "sim"))["run state"] == "shutdown"
