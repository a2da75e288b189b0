"""What the modelled guests do exactly: their calls on the device, their timers, and what `sim` shows of them."""

from __future__ import annotations

from typing import Any

import pytest

from device.balloon.device import BalloonDevice
from device.balloon.spec import ABSENT, F_STATS_VQ, STAT_COUNT
from device.clock import MS, SECOND
from device.errors import MisuseError
from device.guest.model import host_guest as hostguest
from device.guest.model.driver import STUCK, STUCK_LONG, BalloonDriver
from device.state import save
from device.virtio.spec import F_EVENT_IDX, F_VERSION_1, MIB, bit
from tests.support.rig import Modelled

CALLS = ("write_status", "accept_features", "setup_queue", "notify", "write_config")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Every call of a driver on the device, in order."""
    seen: list[tuple[Any, ...]] = []
    depth = [0]

    def spy(name: str) -> None:
        real = getattr(BalloonDevice, name)

        def call(device: BalloonDevice, *args: Any, **options: Any) -> Any:
            if not depth[0]:
                seen.append((name, *args))
            depth[0] += 1
            try:
                return real(device, *args, **options)
            finally:
                depth[0] -= 1

        monkeypatch.setattr(BalloonDevice, name, call)

    for name in CALLS:
        spy(name)
    return seen


class TestOnTheWire:
    def test_a_driver_comes_up_as_linux_does(self, calls: list[tuple[Any, ...]]) -> None:
        """Reset, ACKNOWLEDGE, DRIVER, features, FEATURES_OK, queues, then the statistics buffer, then DRIVER_OK."""
        with Modelled():
            assert calls == [
                ("write_status", 0),
                ("write_status", 1),
                ("write_status", 3),
                ("accept_features", 1 << 32 | 1 << 29 | 1 << 1),
                ("write_status", 11),
                ("setup_queue", 0, 128, 0x1000, 0x1800, 0x1908),
                ("setup_queue", 1, 128, 0x2000, 0x2800, 0x2908),
                ("setup_queue", 2, 128, 0x3000, 0x3800, 0x3908),
                ("notify", 2),
                ("write_status", 15),
            ]

    def test_without_statistics_there_is_one_queue_less(self, calls: list[tuple[Any, ...]]) -> None:
        with Modelled("nostats") as m:
            assert [call[:2] for call in calls if call[0] in ("setup_queue", "notify", "accept_features")] == [
                ("accept_features", 1 << 32 | 1 << 29),
                ("setup_queue", 0),
                ("setup_queue", 1),
            ]
            assert m.guest.driver.stats_index == -1
            assert (m.guest.driver.stats, m.guest.driver.deflates_on_oom) == (None, False)

    def test_lists_of_256_pages_go_down_from_the_top_and_actual_follows(self, calls: list[tuple[Any, ...]]) -> None:
        with Modelled(ram=16 * MIB) as m:
            calls.clear()
            m.machine.set_balloon(16 * MIB - 300 * 4096)
            m.advance(0.006)
            assert calls == [
                ("notify", 0),
                ("write_config", 4, (256).to_bytes(4, "little")),
                ("notify", 0),
                ("write_config", 4, (300).to_bytes(4, "little")),
            ]
            assert m.device.pages.runs() == [(4096 - 300, 300)]
            where, size = 0x4000, 4 * 256  # the list is after the rings; the second, shorter one overwrites the first
            sent = m.machine.memory.read(where, size)
            pages = [int.from_bytes(sent[at : at + 4], "little") for at in range(0, size, 4)]
            assert pages[:44] == list(range(4096 - 300, 4096 - 256))
            assert pages[44:] == list(range(4096 - 256 + 44, 4096))
            calls.clear()
            m.machine.set_balloon(16 * MIB - 4096)
            m.advance(0.006)
            assert calls == [
                ("notify", 1),
                ("write_config", 4, (44).to_bytes(4, "little")),
                ("notify", 1),
                ("write_config", 4, (1).to_bytes(4, "little")),
            ]
            assert m.device.pages.runs() == [(4095, 1)]

    def test_a_driver_that_is_unloaded_takes_its_pages_back_first(self, calls: list[tuple[Any, ...]]) -> None:
        with Modelled(ram=16 * MIB) as m:
            m.machine.set_balloon(16 * MIB - 300 * 4096)
            m.advance(0.006)
            calls.clear()
            m.guest.controls.unload_driver()
            assert calls == [
                ("notify", 1),
                ("notify", 1),
                ("write_config", 4, bytes(4)),
                ("write_status", 0),
            ]
            assert (m.guest.kernel.ballooned, m.guest.driver_loaded) == (0, False)

    def test_an_answer_is_one_buffer_of_ten_bytes_a_statistic(self, calls: list[tuple[Any, ...]]) -> None:
        with Modelled("linux-2.6.34") as m:
            calls.clear()
            m.info()
            assert calls == [("notify", 2)]
            assert m.stats.held.readable() == 60
            assert m.stats.sample.tags == (0, 1, 2, 3, 4, 5)
            assert m.device.refused == {}

    def test_a_driver_that_negotiates_event_indices_lays_its_rings_out_for_them(self) -> None:
        with Modelled("nodriver", ram=16 * MIB) as m:
            driver = BalloonDriver(m.device, m.machine.memory.regions[0], m.machine.ram)
            assert driver.probe(bit(F_VERSION_1) | bit(F_STATS_VQ) | bit(F_EVENT_IDX))
            assert all(queue.event_idx for queue in m.device.queues)
            driver.go()
            driver.inflate(1)
            assert m.machine.memory.read(0x1800 + 4 + 2 * 128, 2) == b"\1\0", "tell me of the next one"

    def test_after_a_reset_nothing_is_left_of_what_the_old_driver_had_to_do(self) -> None:
        with Modelled() as m:
            m.machine.reset()
            m.machine.stop()
            m.machine.cont()
            assert (m.guest.driver_loaded, m.info()) == (True, "answered")
            state = m.guest.state()
            names = ("latched", "release_wanted", "plugged", "holding", "hung", "dead")
            assert [state[name] for name in names] == [False] * 6

    def test_a_driver_loaded_anew_stays(self) -> None:
        with Modelled() as m:
            for act, words in (
                (m.guest.controls.load_driver, "the driver is loaded already"),
                (m.guest.controls.unload_driver, ""),
                (m.guest.controls.unload_driver, "the driver is not loaded"),
                (m.guest.controls.load_driver, ""),
            ):
                if not words:
                    act()
                    continue
                with pytest.raises(MisuseError, match=f"^{words}$"):
                    act()
            m.machine.stop()
            m.machine.cont()
            m.guest.controls.hang()
            m.guest.controls.wake()
            assert (m.guest.driver_loaded, m.info()) == (True, "answered")
            m.machine.device_del("balloon0")
            with pytest.raises(MisuseError, match=r"^there is no balloon device for it$"):
                m.guest.controls.load_driver()
            m.guest.controls.panic()
            with pytest.raises(MisuseError, match=r"^the guest is not running a kernel$"):
                m.guest.controls.load_driver()


class TestPace:
    def test_a_portion_every_five_milliseconds(self) -> None:
        with Modelled("linux,pace=100M") as m:
            m.machine.set_balloon(256 * MIB)
            sizes = []
            for _ in range(4):
                m.advance(0.005)
                sizes.append((512 * MIB - m.device.actual) // 4096)
            assert sizes == [128, 256, 384, 512]
            m.advance(0.0049)
            assert (512 * MIB - m.device.actual) // 4096 == 512

    def test_a_change_of_mind_does_not_start_the_portion_anew(self) -> None:
        with Modelled("linux,pace=100M") as m:
            m.machine.set_balloon(256 * MIB)
            m.advance(0.003)
            m.machine.set_balloon(255 * MIB)
            m.advance(0.002)
            assert (512 * MIB - m.device.actual) // 4096 == 128

    def test_parts_of_a_page_are_not_lost(self) -> None:
        with Modelled("linux,pace=1000K") as m:  # 1.25 pages in each portion
            m.machine.set_balloon(256 * MIB)
            sizes = []
            for _ in range(8):
                m.advance(0.005)
                sizes.append((512 * MIB - m.device.actual) // 4096)
            assert sizes == [1, 2, 3, 5, 6, 7, 8, 10]

    def test_deflating_is_four_times_as_fast(self) -> None:
        with Modelled("linux,pace=100M") as m:
            m.machine.set_balloon(500 * MIB)
            m.advance(1)
            m.machine.set_balloon(512 * MIB)
            m.advance(0.005)
            assert (m.device.actual - 500 * MIB) // 4096 == 512

    def test_a_driver_that_is_done_or_asleep_has_no_timer(self) -> None:
        with Modelled() as m:
            m.machine.set_balloon(500 * MIB)
            assert len(m.machine.vm_timers) == 1
            m.advance(1)
            assert len(m.machine.vm_timers) == 0
            m.machine.set_balloon(500 * MIB)
            assert len(m.machine.vm_timers) == 0, "it is there already"
            m.guest.controls.hang()
            m.machine.set_balloon(400 * MIB)
            assert len(m.machine.vm_timers) == 0
            m.guest.controls.wake()
            assert len(m.machine.vm_timers) == 1
            m.machine.set_balloon(300 * MIB)
            assert len(m.machine.vm_timers) == 1, "one timer does for any number of changes"

    def test_a_stuck_one_waits_longer_and_longer_until_things_change(self) -> None:
        with Modelled("linux,pace=1000T", ram=64 * MIB) as m:
            m.machine.set_balloon(MIB)
            waits = []
            for _ in range(12):
                due = m.machine.time.next_deadline()
                assert due is not None
                waits.append(due - m.clock.now())
                assert m.machine.step(jump=True)
            assert waits == [5 * MS, *[min(STUCK << turn, STUCK_LONG) for turn in range(11)]]
            m.machine.set_balloon(2 * MIB)
            due = m.machine.time.next_deadline()
            assert due is not None
            assert due - m.clock.now() == 5 * MS


class TestRelief:
    def test_pages_come_back_in_lists_as_far_as_there_are_any(self) -> None:
        with Modelled(switches={"deflate-on-oom": True}) as m:
            m.machine.set_balloon(510 * MIB - 4096)
            m.advance(1)
            assert m.guest.inflation.relieve(256) == 256
            assert m.device.actual == 511 * MIB - 4096
            assert m.guest.inflation.relieve(1) == 256
            assert m.guest.inflation.relieve(1000) == 1
            assert m.guest.inflation.relieve(1) == 0

    def test_a_driver_that_sleeps_or_whose_device_is_broken_gives_none(self) -> None:
        with Modelled(switches={"deflate-on-oom": True}) as m:
            m.machine.set_balloon(510 * MIB)
            m.advance(1)
            m.guest.controls.hang()
            assert m.guest.inflation.relieve(300) == 0
            m.guest.controls.wake()
            m.device.refuse("bad-head", "for example")
            assert m.guest.inflation.relieve(300) == 0
            assert m.device.actual == 510 * MIB


class TestOverview:
    def test_each_control_in_words(self) -> None:
        with Modelled("linux,loss=0.25,answers=7") as m:
            m.guest.controls.set_delay(1_500_000_000)
            m.guest.controls.drop(2)
            m.guest.controls.pin(4, 1)
            m.guest.controls.pin(5, None)
            m.guest.controls.hang()
            assert dict(m.guest.shown()) == {
                "hung": "yes",
                "delay": "1.5 s",
                "loss": "0.25",
                "drops left": "2",
                "answers left": "7",
                "pinned": "2",
            }
            m.guest.controls.panic()
            assert m.guest.shown()["panicked"] == "yes"
        with Modelled("linux,loss=1") as m:
            assert dict(m.guest.shown()) == {"loss": "1"}

    def test_of_the_hostile_guest(self) -> None:
        with Modelled("hostile") as m:
            assert dict(m.guest.shown()) == {"breaks": "any rule", "attacks made": "0"}
        with Modelled("hostile,rule=bad-pfn") as m:
            m.advance(2)
            controls = m.guest.shown()
            assert controls["breaks"] == "bad-pfn"
            assert int(controls["attacks made"]) == m.device.refused["bad-pfn"] // 4 > 0

    def test_the_hostile_guest_rests_for_tenths_of_a_second(self) -> None:
        """From one to sixteen of them, by its random numbers."""
        rests = []
        for seed in range(8):
            with Modelled(f"hostile,seed={seed}") as m:
                rests.append(m.guest.timers["attack"].due // (100 * MS))
        assert rests == [15, 15, 6, 4, 8, 11, 12, 16]
        with Modelled("hostile", seed=7) as m:
            assert m.guest.timers["attack"].due == 1600 * MS, "the machine's seed, unless it has its own"

    def test_no_attack_begins_within_another(self) -> None:
        with Modelled("hostile,rule=status-order") as m:
            m.guest._attacking = True
            m.guest.attack()
            assert (m.guest.shown()["attacks made"], m.device.refused) == ("0", {})
            m.guest._attacking = False
            m.guest.attack()
            assert (m.guest.shown()["attacks made"], m.device.refused) == ("1", {"status-order": 1})

    def test_a_hostile_guest_that_hangs_recovers_when_it_wakes(self) -> None:
        with Modelled("hostile,seed=3", ram=4 * MIB) as m:
            while not m.device.broken:
                m.advance(0.1)
            m.guest.controls.hang()
            m.advance(9)
            assert m.device.broken
            assert m.guest.timers["recovery"].armed
            m.guest.controls.wake()
            due = m.guest.timers["recovery"].due
            assert due - m.clock.now() <= 2 * SECOND
            m.machine.advance(due - m.clock.now())
            assert (m.device.broken, m.device.live) == (False, True)

    def test_drops_and_answers_count_down(self) -> None:
        with Modelled("linux,answers=3") as m:
            left = []
            for _ in range(4):
                m.info()
                left.append(m.guest.faults["answers"].value)
            assert left == [2, 1, 0, 0]
            m.guest.controls.wake()
            assert m.guest.faults["answers"].value == -1
            m.guest.controls.drop(2)
            m.info()
            assert m.guest.faults["drop"].value == 1


class TestStatistics:
    def test_a_pinned_tag_is_sent_once_in_its_place_or_last(self) -> None:
        with Modelled("linux-2.6.34") as m:
            m.guest.controls.pin(4, 7)
            m.guest.controls.pin(700, 8)
            m.guest.controls.pin(701, None)
            m.guest.controls.pin(3, None)
            m.info()
            assert m.stats.sample.tags == (0, 1, 2, 4, 5)
            assert m.stats.sample.values[4] == 7
            assert m.stats.sample.unknown == {700: 8}
            assert m.device.refused == {"unknown-tag": 1}
            assert m.stats.held.readable() == 60

    def test_a_tag_that_no_kernel_knows_reads_as_zero(self) -> None:
        with Modelled(f"linux,stats=free_mem+{STAT_COUNT}+1234") as m:
            m.info()
            assert m.stats.sample.unknown == {STAT_COUNT: 0, 1234: 0}
            assert m.stats.sample.values == {4: m.guest.kernel.free}

    def test_what_the_hosts_kernel_does_not_count_is_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hostguest, "read_host_statistics", lambda: {0: 5, 15: 6})
        with Modelled("host") as m:
            assert m.guest.statistics() == (5, *[ABSENT] * 14, 6, *[ABSENT] * (STAT_COUNT - 16))
            assert m.guest.memory_free() is None
            m.info()
            assert m.stats.sample.values == {0: 5, 15: 6}

    def test_before_its_boot_a_guest_knows_nothing(self) -> None:
        with Modelled(paused=True) as m:
            assert m.guest.statistics() == (ABSENT,) * STAT_COUNT

    def test_each_boot_is_a_little_different_and_starts_its_own_time(self) -> None:
        with Modelled() as m:
            first = save(m.guest.kernel, 0)
            m.advance(3)
            m.machine.reset()
            second = save(m.guest.kernel, 0)
            assert (first["boot"], second["boot"], m.guest.boots) == (0, 3 * SECOND, 2)
            assert first["seed"] != second["seed"]
        with Modelled(seed=1) as m:
            assert m.guest.kernel.seed == second["seed"], "as if the machine had the next seed"
