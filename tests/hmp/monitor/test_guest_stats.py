"""guest-stats as the host keeps them, whatever becomes of the driver; the rules were measured on QEMU 7.2 with Linux."""

from __future__ import annotations

from typing import Any

import pytest

from device.clock import SECOND, SIMULATED_EPOCH
from hmp.monitor import qom
from hmp.monitor.monitor import Monitor
from tests.hmp.qmp.test_protocol import Talk
from tests.support.machines import device_of, monitor, monitor_on, run, say

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


def play(subject: Monitor, *lines: str) -> None:
    for line in lines:
        reply = run(subject, line)
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

    def test_another_device_knows_nothing(self) -> None:
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
