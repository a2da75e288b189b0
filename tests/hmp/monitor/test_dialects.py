"""The lines that `info balloon` prints: which fields, in which order, and when an age."""

from __future__ import annotations

import pytest

from device.balloon.spec import SEED_STATS, STATS_TABLE, TOTAL
from device.clock import SECOND, SIMULATED_EPOCH
from device.guest.table import PROFILES
from device.virtio.spec import MIB
from hmp.monitor.dialects import DIALECTS
from hmp.monitor.monitor import Monitor
from tests.support.machines import device_of, monitor_on, run, say

SIX = ["mem_swapped_in", "mem_swapped_out", "major_page_faults", "minor_page_faults", "free_mem", "total_mem"]


def fields(line: str, separator: str = ",") -> dict[str, int]:
    """The fields of a line, in order."""
    assert line.startswith("balloon: ")
    assert line.endswith("\n")
    assert line.count("\n") == 1
    pairs = [pair.split("=") for pair in line.removeprefix("balloon: ").strip().split(separator)]
    assert all(value.isdigit() for _, value in pairs), "unsigned"
    return {key: int(value) for key, value in pairs}


def keys(subject: Monitor, line: str = "info balloon") -> list[str]:
    return list(fields(say(subject, line)))


# The seed's line.

SHAPES = [
    ("linux", ["actual", *SIX], ["actual", *SIX]),
    ("linux-2.6.34", ["actual", *SIX], ["actual", *SIX]),
    ("linux-6.12", ["actual", *SIX], ["actual", *SIX]),
    ("windows", ["actual", "age"], ["actual", "age"]),
    ("slow", ["actual", *SIX], ["actual", *SIX]),
    ("partial", ["actual", "free_mem", "total_mem"], ["actual", "free_mem", "total_mem"]),
    ("empty", ["actual"], ["actual"]),
    ("nostats", ["actual"], ["actual"]),
    ("nodriver", ["actual"], ["actual"]),
    ("silent", ["actual", "age"], ["actual", "age"]),
    ("hung", ["actual", *SIX], ["actual", *SIX, "age"]),
    ("linux,stats=total_mem+mem_swapped_in", ["actual", "mem_swapped_in", "total_mem"], ["actual", "mem_swapped_in", "total_mem"]),
    ("linux,delay=5.1", ["actual", *SIX, "age"], ["actual", *SIX]),
    ("linux,delay=4.9", ["actual", *SIX], ["actual", *SIX]),
]  # fmt: skip


@pytest.mark.parametrize(("guest", "first", "second"), SHAPES)
def test_the_seed_line_shows_the_guests_statistics_in_the_documented_order(
    guest: str, first: list[str], second: list[str]
) -> None:
    subject = monitor_on(guest)
    assert keys(subject) == first
    assert keys(subject) == second


def test_every_modelled_guest_has_a_shape_above() -> None:
    tested = {guest.partition(",")[0] for guest, _, _ in SHAPES}
    elsewhere = {"flaky", "host", "hostile", "uml", "vhost-user"}  # by chance, live, or not modelled
    assert tested | elsewhere >= set(PROFILES)


def test_windows_reports_six_statistics_once_its_service_runs() -> None:
    subject = monitor_on("windows")
    run(subject, "sim sleep 20")
    assert keys(subject) == ["actual", *SIX]


def test_the_six_statistics_are_printed_with_their_names() -> None:
    subject = monitor_on(memory=1024)
    for number, name in enumerate(SIX):
        assert say(subject, f"sim set {name} {number}") == ""
    assert say(subject, "info balloon") == (
        "balloon: actual=1024,mem_swapped_in=0,mem_swapped_out=1,major_page_faults=2,minor_page_faults=3,free_mem=4,"
        "total_mem=5\n"
    )


@pytest.mark.parametrize(
    ("asleep", "age"), [("4.999", None), ("4.9999999", None), ("5", 5000), ("5.0019", 5001), ("3600", 3_600_000)]
)
@pytest.mark.parametrize("guest", ["linux", "silent"])
def test_an_age_is_shown_from_the_timeout_on_and_rounded_down(guest: str, asleep: str, age: int | None) -> None:
    subject = monitor_on(guest)
    device = device_of(subject)
    subject.machine.stop()  # otherwise the guest would be asked
    run(subject, f"sim sleep {asleep}")
    line = DIALECTS["seed"].line(device, subject.machine.timeout)
    assert fields(line).get("age") == age


@pytest.mark.parametrize(("timeout", "age"), [(100_000_000, 100), (SECOND, 1000), (3600 * SECOND, 3_600_000)])
def test_the_timeout_is_the_age_threshold_too(timeout: int, age: int) -> None:
    subject = monitor_on("silent", timeout=timeout)
    assert say(subject, "info balloon") == f"balloon: actual=512,age={age}\n"
    assert subject.machine.clock.now() == timeout


@pytest.mark.parametrize("guest", ["nostats", "nodriver"])
def test_a_guest_that_does_not_report_has_no_age(guest: str) -> None:
    subject = monitor_on(guest)
    run(subject, "sim sleep 60")
    assert say(subject, "info balloon") == "balloon: actual=512\n"


def test_unloading_the_driver_forgets_statistics_and_age() -> None:
    subject = monitor_on()
    assert keys(subject) == ["actual", *SIX]
    run(subject, "sim driver unload")
    run(subject, "sim sleep 60")
    assert keys(subject) == ["actual"]
    run(subject, "sim driver load")
    assert keys(subject) == ["actual", *SIX]


def test_a_machine_that_has_not_started_has_no_age() -> None:
    subject = monitor_on(paused=True)
    run(subject, "sim sleep 60")
    assert say(subject, "info balloon") == "balloon: actual=512\n"
    run(subject, "cont")
    assert keys(subject) == ["actual", *SIX]


def test_a_stopped_machine_shows_the_age_of_its_last_statistics() -> None:
    subject = monitor_on()
    fresh = fields(say(subject, "info balloon"))
    run(subject, "stop")
    assert fields(say(subject, "info balloon")) == fresh | {"age": 5000}
    assert fields(say(subject, "info balloon")) == fresh | {"age": 10000}


@pytest.mark.parametrize("name", SIX)
def test_a_statistic_the_guest_leaves_out_is_left_out(name: str) -> None:
    subject = monitor_on()
    run(subject, f"sim set {name} none")
    assert keys(subject) == ["actual", *[each for each in SIX if each != name]]


@pytest.mark.parametrize("name", SIX)
def test_never_again_8_the_value_that_means_absent_is_left_out(name: str) -> None:
    subject = monitor_on()
    run(subject, f"sim set {name} {2**64 - 1}")
    assert name not in keys(subject)


@pytest.mark.parametrize("number", [2**63, 2**63 - 1, 2**64 - 2, 0])
def test_never_again_8_large_values_are_unsigned(number: int) -> None:
    subject = monitor_on()
    for name in SIX:
        run(subject, f"sim set {name} {number}")
    assert fields(say(subject, "info balloon")) == {"actual": 512} | dict.fromkeys(SIX, number)


@pytest.mark.parametrize(
    ("memory", "target", "actual"), [(512, "256", 256), (512, "100000", 512), (8192, "6000", 6000)]
)
def test_actual_is_what_the_balloon_leaves(memory: int, target: str, actual: int) -> None:
    subject = monitor_on(memory=memory)
    run(subject, f"balloon {target}")
    run(subject, "sim sleep 30")
    assert fields(say(subject, "info balloon"))["actual"] == actual


def test_every_subset_of_statistics_in_any_order_keeps_the_documented_order() -> None:
    for mask in range(1 << len(SIX)):
        sent = [name for bit, name in enumerate(reversed(SIX)) if mask >> bit & 1]
        subject = monitor_on(f"linux,stats={'+'.join(sent) or 'none'}")
        assert keys(subject) == ["actual", *[name for name in SIX if name in sent]]


def test_the_six_are_those_of_the_table() -> None:
    assert [STATS_TABLE[tag].name for tag in SEED_STATS] == SIX


# QEMU's line.


@pytest.mark.parametrize("guest", ["linux", "silent", "nodriver", "slow"])
def test_the_qemu_line_is_the_size_at_once(guest: str) -> None:
    subject = monitor_on(guest, dialect="qemu")
    reply = subject.execute("info balloon")
    assert (reply.pending, reply.stale, reply.text) == (False, False, "balloon: actual=512\n")
    assert subject.machine.requests.answered == subject.machine.requests.timed_out == 0


# Proxmox's line.

PVE = ["actual", "max_mem", "total_mem", "free_mem", "mem_swapped_in", "mem_swapped_out", "major_page_faults",
       "minor_page_faults", "last_update"]  # fmt: skip


def test_the_pve_line_shows_what_polling_brought_at_once() -> None:
    subject = monitor_on(dialect="pve")
    run(subject, "qom-set /machine/peripheral/balloon0 guest-stats-polling-interval 2")
    run(subject, "sim sleep 3")
    run(subject, "stop")
    reply = subject.execute("info balloon")
    assert not reply.pending
    shown = fields(reply.text, " ")
    assert list(shown) == PVE
    assert (shown["actual"], shown["max_mem"]) == (512, 512)
    assert 400 < shown["total_mem"] < 512
    assert 0 < shown["free_mem"] < shown["total_mem"]
    assert shown["last_update"] == SIMULATED_EPOCH // SECOND + 2


def test_pve_shows_statistics_while_polling_is_on_and_a_driver_answered() -> None:
    subject = monitor_on(dialect="pve")
    sizes = "balloon: actual=512 max_mem=512\n"
    interval = "qom-set /machine/peripheral/balloon0 guest-stats-polling-interval "
    assert say(subject, "info balloon") == sizes, "the buffer that primed the queue is not told"
    run(subject, f"{interval}1")
    run(subject, "sim sleep 2")
    assert list(fields(say(subject, "info balloon"), " ")) == PVE
    run(subject, f"{interval}0")
    assert say(subject, "info balloon") == sizes
    run(subject, f"{interval}1")
    run(subject, "sim driver unload")
    assert say(subject, "info balloon") == sizes


def test_pves_query_balloon_has_the_fields_of_the_line_in_bytes() -> None:
    subject = monitor_on(dialect="pve")
    device, query = device_of(subject), DIALECTS["pve"].query
    assert query(device) == {"actual": 512 * MIB, "max_mem": 512 * MIB}
    run(subject, "qom-set /machine/peripheral/balloon0 guest-stats-polling-interval 1")
    run(subject, "sim sleep 2")
    told = query(device)
    assert list(told) == PVE
    assert device.stats.sample is not None
    assert told["total_mem"] == device.stats.sample.values[TOTAL]


def test_the_pve_line_of_a_guest_that_never_answered_is_the_sizes() -> None:
    assert say(monitor_on("silent", dialect="pve"), "info balloon") == "balloon: actual=512 max_mem=512\n"


def test_the_pve_line_leaves_out_what_is_not_known() -> None:
    subject = monitor_on("partial", dialect="pve")
    run(subject, "qom-set /machine/peripheral/balloon0 guest-stats-polling-interval 1")
    run(subject, "balloon 300")
    run(subject, "sim sleep 2")
    shown = fields(say(subject, "info balloon"), " ")
    assert list(shown) == ["actual", "max_mem", "total_mem", "free_mem", "last_update"]
    assert (shown["actual"], shown["max_mem"]) == (300, 512)


@pytest.mark.parametrize("dialect", list(DIALECTS))
def test_without_a_device_every_dialect_says_so(dialect: str) -> None:
    reply = run(monitor_on(dialect=dialect, balloon=False), "info balloon")
    assert (reply.failed, reply.text) == (True, "Error: No balloon device has been activated\n")
