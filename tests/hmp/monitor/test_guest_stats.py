"""guest-stats as the host keeps them, whatever happens to the driver; the rules were measured on QEMU 7.2 with Linux."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from device.clock import SECOND, SIMULATED_EPOCH, Clock
from device.guest.table import make_guest
from device.machine.machine import Machine
from device.virtio.spec import MIB
from hmp.monitor import qom
from hmp.monitor.monitor import Monitor
from hmp.monitor.snapshots import DirectoryStore, MemoryStore
from tests.hmp.qmp.test_protocol import Talk
from tests.support.machines import device_of, monitor, monitor_on, say

Store = DirectoryStore | MemoryStore
POLLING = "guest-stats-polling-interval"
NEVER = {"stats": dict.fromkeys(("free", "total"), 2**64 - 1), "at": 0}


def told(subject: Monitor) -> dict[str, Any]:
    """Return free and total memory of guest-stats, and the simulated second of its last-update: by HMP and QMP alike."""
    found: Any = qom.qom_get(subject.machine, "balloon0", "guest-stats")
    assert Talk(subject.machine).ask("qom-get", path="balloon0", property="guest-stats") == {"return": found}
    assert say(subject, "qom-get balloon0/virtio-backend guest-stats") == say(subject, "qom-get balloon0 guest-stats")
    at = found["last-update"]
    stats = {name: found["stats"][f"stat-{name}-memory"] for name in ("free", "total")}
    return {"stats": stats, "at": at - SIMULATED_EPOCH // SECOND if at else 0}


@pytest.fixture(params=["memory", "directory"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Where snapshots are kept."""
    return MemoryStore() if request.param == "memory" else DirectoryStore(str(tmp_path))


@pytest.fixture(params=["warp", "manual"])
def subject(request: pytest.FixtureRequest, kept: Store) -> Monitor:
    subject = monitor_on(warps=request.param == "warp")
    subject.machine.store = kept
    return subject


def play(subject: Monitor, *lines: str) -> None:
    for line in lines:
        reply = subject.execute(line)
        while reply.pending:
            assert subject.machine.step(jump=subject.machine.clock.warps)
        assert not reply.failed, (line, reply.text)


class TestOfADriverThatIsGone:
    @pytest.mark.parametrize("polling", [0, 1])
    def test_a_reset_keeps_them_until_the_new_driver_reports(self, polling: int) -> None:
        subject = monitor_on("linux,boot=10")
        play(subject, "sim sleep 20", f"qom-set balloon0 {POLLING} {polling}", "sim alloc 100M", "info balloon")
        before = told(subject)
        assert before["at"] == 20
        play(subject, "system_reset", "sim sleep 9")
        assert told(subject) == before
        assert device_of(subject).stats.sample is None
        play(subject, "sim sleep 2")
        after = told(subject)
        assert after["at"] >= 30
        assert after["stats"] != before["stats"]

    def test_a_reset_of_a_stopped_machine_keeps_them(self) -> None:
        subject = monitor_on()
        play(subject, "sim sleep 3", "info balloon")
        before = told(subject)
        play(subject, "stop", "system_reset", "sim sleep 5")
        assert (told(subject), before["at"]) == (before, 3)

    @pytest.mark.parametrize("how", ["sim driver unload", "sim guest nodriver", "sim guest silent"])
    def test_without_a_driver_they_stay_as_they_are(self, how: str) -> None:
        subject = monitor_on()
        play(subject, "sim sleep 3", "info balloon")
        before = told(subject)
        play(subject, how, f"qom-set balloon0 {POLLING} 1", "sim sleep 60", "stop", "cont")
        assert (told(subject), before["at"]) == (before, 3)

    def test_a_driver_that_comes_back_reports_anew(self) -> None:
        subject = monitor_on()
        play(subject, "sim driver unload", "sim sleep 7", "sim driver load")
        assert told(subject)["at"] == 7

    def test_a_guest_that_primes_its_queue_with_nothing_changes_nothing(self) -> None:
        subject = monitor_on()
        before = told(subject)
        play(subject, "sim sleep 7", "sim guest nostats")
        assert told(subject) == before

    def test_another_device_starts_without_statistics(self) -> None:
        subject = monitor_on()
        play(subject, "info balloon", "sim driver unload", "device_del balloon0", "system_reset")
        play(subject, "sim guest nodriver", "device_add virtio-balloon-pci,id=balloon0")
        assert told(subject) == NEVER

    def test_the_seeds_line_and_sim_stats_forget_them(self) -> None:
        subject = monitor_on()
        play(subject, "info balloon", "sim driver unload", "sim sleep 100")
        assert say(subject, "info balloon") == "balloon: actual=512\n"
        assert say(subject, "sim stats").startswith("none: the guest's driver is not up")

    def test_proxmoxs_line_shows_them_only_while_a_driver_is_up(self) -> None:
        subject = monitor_on()
        pve = monitor(subject.machine, "pve")
        play(subject, f"qom-set balloon0 {POLLING} 1", "sim sleep 3")
        assert "total_mem" in say(pve, "info balloon")
        play(subject, "sim driver unload")
        assert say(pve, "info balloon") == "balloon: actual=512 max_mem=512\n"


class TestOverLoadvm:
    def test_they_are_the_snapshots_and_came_when_the_vm_ran_again(self, subject: Monitor) -> None:
        play(subject, "sim sleep 10", "info balloon", "savevm a")
        saved = told(subject)
        play(subject, "sim alloc 100M", "sim sleep 10", "info balloon")
        assert told(subject)["stats"] != saved["stats"]
        play(subject, "sim sleep 10", "loadvm a")
        assert told(subject) == {**saved, "at": 30}
        assert device_of(subject).stats.age == 20 * SECOND, "they were collected long before"

    def test_a_stopped_machine_shows_the_old_ones_until_cont(self, subject: Monitor) -> None:
        play(subject, "sim sleep 10", "info balloon", "savevm a")
        saved = told(subject)
        play(subject, "sim alloc 100M", "sim sleep 10", "info balloon")
        before = told(subject)
        play(subject, "sim sleep 10", "stop", "loadvm a", "sim sleep 10")
        assert told(subject) == before
        play(subject, "cont")
        assert told(subject) == {**saved, "at": 40}
        assert device_of(subject).stats.age == 30 * SECOND
        play(subject, "sim sleep 10", "stop", "sim sleep 10", "cont")
        assert told(subject) == {**saved, "at": 40}, "it is the first time only"

    def test_a_snapshot_without_statistics_leaves_them_alone(self, subject: Monitor) -> None:
        play(subject, "sim driver unload", "savevm none", "sim driver load", "sim sleep 10", "info balloon")
        before = told(subject)
        play(subject, "sim sleep 10", "loadvm none", "sim sleep 10")
        assert (told(subject), before["at"]) == (before, 10)

    def test_a_buffer_that_the_guest_had_updates_them_when_it_comes_back(self, subject: Monitor) -> None:
        play(subject, "sim sleep 10", "info balloon", "sim delay 60")
        before = told(subject)
        subject.machine.request_stats(SECOND)
        play(subject, "sim sleep 5", "savevm out", "loadvm out")
        assert told(subject) == before
        play(subject, "sim sleep 60")
        assert told(subject)["at"] == 70

    def test_in_another_process_they_came_when_the_vm_ran_again(self, kept: Store) -> None:
        first, second = monitor_on(), monitor_on("nodriver")
        first.machine.store = second.machine.store = kept
        play(first, "sim sleep 10", "info balloon", "savevm a", "sim sleep 2")
        play(second, "stop", "loadvm a", "sim sleep 5")
        assert told(second)["at"] == 0
        play(second, "cont")
        assert told(second) == {**told(first), "at": 5}
        assert device_of(second).stats.age == 5 * SECOND

    def test_on_a_real_clock_too(self) -> None:
        now = [100 * SECOND]
        clock = Clock("real", lambda: now[0], lambda: SIMULATED_EPOCH + now[0] - 100 * SECOND)
        machine = Machine(clock, ram=512 * MIB, guest=make_guest("linux"))
        machine.start()
        subject = monitor(machine)
        now[0] += 10 * SECOND
        play(subject, "info balloon", "savevm a")
        saved = told(subject)
        now[0] += 40 * SECOND
        play(subject, "info balloon", "loadvm a")
        assert told(subject) == {**saved, "at": 50}
        assert device_of(subject).stats.age == 40 * SECOND
        machine.close()

    def test_proxmoxs_line_dates_them_alike(self, subject: Monitor) -> None:
        pve = monitor(subject.machine, "pve")
        play(subject, f"qom-set balloon0 {POLLING} 100", "sim sleep 10", "info balloon", "savevm a")
        play(subject, "sim sleep 50", "loadvm a")
        assert say(pve, "info balloon").endswith(f" last_update={SIMULATED_EPOCH // SECOND + 60}\n")


class TestTheInterval:
    """The value belongs to the host: QEMU does not save it in a snapshot."""

    @pytest.mark.parametrize(("saved", "then"), [(0, 2), (2, 0), (300, 200), (0, 0)])
    def test_loadvm_leaves_it_alone(self, subject: Monitor, saved: int, then: int) -> None:
        play(subject, f"qom-set balloon0 {POLLING} {saved}", "sim sleep 1", "savevm a")
        play(subject, f"qom-set balloon0 {POLLING} {then}", "loadvm a")
        assert say(subject, f"qom-get balloon0 {POLLING}") == f"{then}\n"
        assert len(subject.machine.vm_timers) == (then > 0)

    def test_polls_go_on_a_whole_interval_after_the_load(self, subject: Monitor) -> None:
        play(subject, "savevm a", "sim sleep 10", f"qom-set balloon0 {POLLING} 4", "sim sleep 3", "loadvm a")
        assert told(subject)["at"] == 13
        play(subject, "sim sleep 3.9")
        assert told(subject)["at"] == 13
        play(subject, "sim sleep 0.2")
        assert told(subject)["at"] == 17
        play(subject, "sim sleep 4")
        assert told(subject)["at"] == 21

    def test_a_stopped_machine_polls_after_cont(self, subject: Monitor) -> None:
        play(subject, "savevm a", f"qom-set balloon0 {POLLING} 4", "stop", "loadvm a", "sim sleep 50", "cont")
        assert told(subject)["at"] == 50
        play(subject, "sim sleep 5")
        assert told(subject)["at"] == 54

    def test_a_device_that_comes_with_the_snapshot_polls_nobody(self, subject: Monitor) -> None:
        play(subject, f"qom-set balloon0 {POLLING} 4", "savevm a", "device_del balloon0", "loadvm a")
        assert say(subject, f"qom-get balloon0 {POLLING}") == "0\n"
