"""`sim` with a topic: what it controls, and what it refuses."""

from __future__ import annotations

import pytest

from device.balloon.spec import ABSENT, STATS_TABLE
from device.clock import SECOND
from device.machine.guest import Guest
from device.virtio.spec import GIB, MIB
from tests.support.machines import build, complete, device_of, monitor, monitor_on, run, say, state_of


class TestGuest:
    def test_alone_it_shows_the_guest_and_what_that_is(self) -> None:
        text = say(monitor_on("windows,delay=2"), "sim guest")
        assert text.startswith("windows,delay=2 - ")
        assert text.endswith("\n")

    def test_what_its_settings_change_is_shown(self) -> None:
        assert say(monitor_on("slow"), "sim guest") == "slow - answers 2 s after being asked\n"
        text = say(monitor_on("slow,delay=1"), "sim guest")
        assert text == "slow,delay=1 - answers 2 s after being asked; here delay=1\n"

    def test_a_guest_that_the_table_does_not_know_is_shown_by_its_words(self) -> None:
        subject = monitor_on()
        subject.machine.guest.name = "custom"
        assert say(subject, "sim guest") == "linux\n"

    def test_the_machine_reboots_into_another(self) -> None:
        subject = monitor_on()
        assert say(subject, "sim guest linux-6.12,stats=free_mem ") == ""
        assert subject.machine.guest.spec == "linux-6.12,stats=free_mem"
        assert "free_mem=" in say(subject, "info balloon")
        assert "total_mem" not in say(subject, "info balloon")

    def test_a_request_that_waits_is_answered_by_the_new_guest(self) -> None:
        machine = build("silent")
        asker, operator = monitor(machine), monitor(machine)
        reply = asker.execute("info balloon")
        assert reply.pending
        assert say(operator, "sim guest partial") == ""
        assert not reply.pending
        assert reply.text.startswith("balloon: actual=512,free_mem=")
        assert ",age=" not in reply.text

    @pytest.mark.parametrize(
        ("spec", "words"),
        [
            ("foo", "no guest is called 'foo' (one of linux"),
            ("linux,x=1", "guest linux has no key 'x'"),
            ("linux,delay=3601", "guest linux: delay: '3601' is more than 3600 seconds"),
            ("linux,", "guest linux has no key ''"),
            ("linux, delay=2", "guest linux has no key ' delay'"),
        ],
    )
    def test_a_guest_that_cannot_be_made_changes_nothing(self, spec: str, words: str) -> None:
        subject = monitor_on()
        before = state_of(subject.machine)
        reply = run(subject, f"sim guest {spec}")
        assert reply.failed
        assert reply.text.startswith(f"Error: {words}")
        assert reply.text.count("\n") == 1
        assert state_of(subject.machine) == before


class TestFaults:
    def test_hang_and_wake(self) -> None:
        subject = monitor_on()
        assert say(subject, "sim hang") == ""
        assert say(subject, "info balloon").endswith(",age=5000\n")
        assert say(subject, "sim wake") == ""
        assert ",age=" not in say(subject, "info balloon")

    def test_delay(self) -> None:
        subject = monitor_on()
        assert say(subject, "sim delay 1.5") == ""
        say(subject, "info balloon")
        assert subject.machine.clock.now() == 3 * SECOND // 2
        assert say(subject, "sim delay 3600") == ""
        assert say(subject, "sim delay 0") == ""
        assert subject.machine.guest.shown() == {}

    def test_drop_misses_one_or_as_many_as_are_given(self) -> None:
        subject = monitor_on()
        assert say(subject, "sim drop") == ""
        assert ",age=5000" in say(subject, "info balloon")
        assert ",age=" not in say(subject, "info balloon")
        assert say(subject, "sim drop 2") == ""
        assert [",age=" in say(subject, "info balloon") for _ in range(3)] == [True, True, False]
        assert say(subject, "sim drop 2147483648") == ""
        assert say(subject, "sim drop 0") == ""
        assert ",age=" not in say(subject, "info balloon")

    def test_panic_silences_the_guest_until_it_is_reset(self) -> None:
        subject = monitor_on()
        assert say(subject, "sim panic") == ""
        assert ",age=5000" in say(subject, "info balloon")
        assert say(subject, "sim panic") == "Error: the guest is not running a kernel\n"
        say(subject, "system_reset")
        assert ",age=" not in say(subject, "info balloon")

    def test_driver_unload_and_load(self) -> None:
        subject = monitor_on()
        assert say(subject, "sim driver unload") == ""
        assert say(subject, "info balloon") == "balloon: actual=512\n"
        assert say(subject, "sim driver unload") == "Error: the driver is not loaded\n"
        assert say(subject, "sim driver load") == ""
        assert "free_mem=" in say(subject, "info balloon")
        assert say(subject, "sim driver load") == "Error: the driver is loaded already\n"


class TestPins:
    def test_a_pinned_statistic_is_what_the_guest_reports_until_it_is_released(self) -> None:
        subject = monitor_on()
        real = say(subject, "info balloon")
        assert say(subject, "sim set free_mem 12345") == ""
        assert ",free_mem=12345," in say(subject, "info balloon")
        assert say(subject, "sim set free_mem none") == ""
        assert "free_mem" not in say(subject, "info balloon")
        assert say(subject, "sim unset free_mem") == ""
        assert say(subject, "info balloon") == real

    @pytest.mark.parametrize("name", ["free_mem", "stat-free-memory", "4"])
    def test_every_name_of_a_statistic_will_do(self, name: str) -> None:
        subject = monitor_on()
        say(subject, f"sim set {name} 1")
        assert subject.machine.guest.controls.pins() == {4: 1}
        assert say(subject, f"sim unset {name}") == ""
        assert subject.machine.guest.controls.pins() == {}

    @pytest.mark.parametrize(
        ("stat", "text", "value"),
        [
            ("free_mem", "0", 0),
            ("free_mem", "1", 1),
            ("free_mem", "2K", 2048),
            ("free_mem", "1.5g", 3 * GIB // 2),
            ("free_mem", "512M", 512 * MIB),
            ("oom_kills", "18446744073709551615", ABSENT),
            ("42", "7", 7),
            ("42", "1M", MIB),
        ],
    )
    def test_a_plain_number_is_exact_and_bytes_may_have_a_suffix(self, stat: str, text: str, value: int) -> None:
        subject = monitor_on()
        assert say(subject, f"sim set {stat} {text}") == ""
        assert list(subject.machine.guest.controls.pins().values()) == [value]

    def test_alone_it_lists_what_is_pinned(self) -> None:
        subject = monitor_on()
        assert say(subject, "sim set") == "no statistic is set\n"
        for line in ("42 12345", "oom_kills none", "free_mem 2G"):
            say(subject, f"sim set {line}")
        assert say(subject, "sim set") == (
            "free_mem   2147483648      2G\noom_kills        none\ntag 42          12345  12,345\n"
        )

    def test_the_first_tag_without_a_name_is_listed_too(self) -> None:
        subject, tag = monitor_on(), len(STATS_TABLE)
        assert say(subject, f"sim set {tag} 12345") == ""
        assert say(subject, "sim set") == f"tag {tag}  12345  12,345\n"

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("set foo 1", "'foo' is not a statistic (one of mem_swapped_in, "),
            ("set 65536 1", "'65536' is not a statistic"),
            ("set free_mem", "sim set free_mem needs a value, or none"),
            ("set free_mem -1", "'-1' is not a value for free_mem: a number from 0 to 18446744073709551615, or none"),
            ("set free_mem 1.5", "'1.5' is not a value for free_mem"),
            ("set free_mem 5x", "'5x' is not a value for free_mem"),
            ("set free_mem None", "'None' is not a value for free_mem"),
            ('set free_mem ""', "'' is not a value for free_mem"),
            (
                "set free_mem 18446744073709551616",
                "a statistic is from 0 to 18446744073709551615, not 184467440737095516",
            ),
            (f"set free_mem {'9' * 4000}", "'9999"),
            ("set free_mem 16777217T", "a statistic is from 0 to"),
            ("set oom_kills 5K", "'5K' is not a count for oom_kills: a plain number, or none"),
            ("unset foo", "'foo' is not a statistic"),
            ("unset free_mem", "free_mem is not set"),
        ],
    )
    def test_what_cannot_be_pinned_or_released_changes_nothing(self, line: str, words: str) -> None:
        subject = monitor_on()
        before = state_of(subject.machine)
        reply = run(subject, f"sim {line}")
        assert reply.failed
        assert reply.text.startswith(f"Error: {words}")
        assert reply.text.count("\n") == 1
        assert state_of(subject.machine) == before


class TestWorkload:
    def test_alloc_and_free_say_what_happened(self) -> None:
        subject = monitor_on()
        assert say(subject, "sim alloc 100") == "the workload took 100M (104857600 bytes)\n"
        assert say(subject, "sim free 60M") == "the workload gave back 60M (62914560 bytes)\n"
        assert say(subject, "sim free 60M") == "the workload gave back 40M (41943040 bytes): it had no more\n"

    def test_more_than_there_is_ends_with_the_oom_killer(self) -> None:
        subject = monitor_on()
        reply = run(subject, "sim alloc 4G")
        assert not reply.failed
        assert reply.text == "out of memory: no room for 4G (4294967296 bytes); the OOM killer ended the workload\n"
        say(subject, "info balloon")
        sample = device_of(subject).stats.sample
        assert sample is not None
        assert say(subject, "sim free 1M").endswith("gave back 0B (0 bytes): it had no more\n")

    def test_an_amount_of_0_changes_nothing(self) -> None:
        subject = monitor_on()
        assert say(subject, "sim alloc 0") == "the workload took 0B (0 bytes)\n"
        assert say(subject, "sim free 0") == "the workload gave back 0B (0 bytes)\n"


REFUSED = [
    ("sim delay 3600.1", "sim delay takes at most 3600 seconds, not 3600.1"),
    ("sim sleep 1000000.5", "sim sleep takes at most 1000000 seconds, not 1000000.5"),
    ("sim sleep 999999999999999999999", "sim sleep takes at most 1000000 seconds, not 999999999999999999999"),
    ("sim drop -1", "sim drop takes a number from 0 to 2147483648, not -1"),
    ("sim drop 2147483649", "sim drop takes a number from 0 to 2147483648, not 2147483649"),
    ("sim alloc 17T", "sim alloc takes at most 16T, not 17T"),
    ("sim free 17T", "sim free takes at most 16T, not 17T"),
    ("sim driver reload", "sim driver takes load or unload, not 'reload'"),
]


@pytest.mark.parametrize(("line", "words"), REFUSED)
def test_beyond_a_limit_one_line_says_what_and_why_and_nothing_changes(line: str, words: str) -> None:
    subject = monitor_on()
    before = state_of(subject.machine)
    reply = run(subject, line)
    assert (reply.failed, reply.text) == (True, f"Error: {words}\n")
    assert state_of(subject.machine) == before


@pytest.mark.parametrize(
    "line", ["sim hang", "sim wake", "sim delay 1", "sim drop 1", "sim set free_mem 1", "sim alloc 1M", "sim free 1M",
             "sim driver load", "sim driver unload", "sim panic"],
)  # fmt: skip
def test_what_a_guest_cannot_do_is_refused_with_its_name(line: str) -> None:
    machine = build()
    machine.replace_guest(_Bare())
    reply = run(monitor(machine), line)
    assert reply.failed
    assert reply.text.startswith("Error: the bare guest cannot ")


class _Bare(Guest):
    name = spec = "bare"


class TestSleep:
    def test_on_the_warp_clock_it_waits_and_the_clock_jumps(self) -> None:
        subject = monitor_on()
        reply = subject.execute("sim sleep 20.5")
        assert reply.pending
        assert reply.until == subject.machine.clock.now() + 41 * SECOND // 2
        assert complete(subject, reply).text == ""
        assert subject.machine.clock.now() == 41 * SECOND // 2
        assert not reply.failed

    def test_on_the_manual_clock_time_passes_step_by_step_through_every_timer(self) -> None:
        machine = build("silent", warps=False)
        waits, other = monitor(machine), monitor(machine)
        waits.alone = other.alone = False
        reply = waits.execute("info balloon")
        slept = other.execute("sim sleep 4")
        assert slept.pending
        while slept.pending:
            machine.step()
        assert reply.pending
        slept = other.execute("sim sleep 1")
        while slept.pending:
            machine.step()
        assert reply.text == "balloon: actual=512,age=5000\n"
        assert machine.clock.now() == 5 * SECOND

    def test_no_time_is_no_wait(self) -> None:
        assert not monitor_on().execute("sim sleep 0").pending

    def test_a_cancelled_sleep_leaves_no_timer(self) -> None:
        subject = monitor_on("nodriver")
        reply = subject.execute("sim sleep 5")
        reply.cancel()
        assert not reply.pending
        assert subject.machine.time.next_deadline() is None

    def test_guest_time_does_not_pass_while_the_vm_is_stopped(self) -> None:
        subject = monitor_on()
        say(subject, "stop")
        say(subject, "sim sleep 10")
        assert (subject.machine.clock.now(), subject.machine.vm_clock.now()) == (10 * SECOND, 0)

    def test_two_sleepers_wake_in_the_order_of_their_times(self) -> None:
        machine = build()
        first, second = monitor(machine), monitor(machine)
        long, short = first.execute("sim sleep 2"), second.execute("sim sleep 1")
        complete(second, short)
        assert long.pending
        complete(first, long)
        assert machine.clock.now() == 2 * SECOND
