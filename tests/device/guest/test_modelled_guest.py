"""The modelled guest at work: inflation, faults that the simulator sets, workloads, drivers, determinism."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from device.balloon.spec import ABSENT, F_DEFLATE_ON_OOM, STAT_COUNT
from device.errors import MisuseError
from device.virtio.spec import GIB, MIB, TIB, bit
from tests.support.rig import Modelled

FREE, TOTAL, AVAILABLE, CACHES, OOM = 4, 5, 6, 7, 10


@pytest.fixture
def m() -> Iterator[Modelled]:
    with Modelled("linux-6.12") as m:
        yield m


def values(m: Modelled) -> dict[int, int]:
    """Fresh statistics."""
    assert m.info() == "answered"
    found: dict[int, int] = m.stats.sample.values
    return found


class TestInflation:
    @pytest.mark.parametrize(
        ("pace", "seconds"),
        [("128M", 2.0), ("2G", 0.125), ("1G", 0.25), ("16M", 16.0), ("15.5M", 256 / 15.5), ("1000T", 0.005)],
    )
    def test_keeps_its_pace(self, pace: str, seconds: float) -> None:
        with Modelled(f"linux,pace={pace}") as m:
            m.machine.set_balloon(256 * MIB)
            m.advance(seconds / 2)
            if seconds > 0.1:
                assert m.device.actual / MIB == pytest.approx(384, abs=12)
            m.advance(seconds / 2 + 0.01)
            assert m.device.actual == 256 * MIB
            assert m.device.pages.count * 4096 == 256 * MIB

    def test_a_pace_below_a_page_a_tick_is_kept_too(self) -> None:
        with Modelled("linux,pace=4K") as m:
            m.machine.set_balloon(256 * MIB)
            m.advance(10)
            assert 512 * MIB - m.device.actual == 10 * 4096

    def test_deflating_is_faster(self) -> None:
        with Modelled("linux,pace=128M") as m:
            m.machine.set_balloon(256 * MIB)
            m.advance(3)
            m.machine.set_balloon(512 * MIB)
            m.advance(0.51)
            assert m.device.actual == 512 * MIB
            assert m.device.pages.count == 0

    def test_gives_pages_back_to_the_host(self, m: Modelled) -> None:
        m.machine.memory.write(400 * MIB, b"x" * (64 * MIB))
        m.machine.set_balloon(256 * MIB)
        m.advance(1)
        assert m.machine.memory.populated() < MIB

    @pytest.mark.parametrize(("ram", "stuck"), [(512, 72), (2048, 153)])
    @pytest.mark.parametrize("target", [64, 1])
    def test_stops_short_where_a_real_kernel_does(self, ram: int, stuck: int, target: int) -> None:
        """A 512 MiB Linux guest that was asked for 64 MiB got stuck at 72 MiB (monitor.md, Guests)."""
        with Modelled(ram=ram * MIB) as m:
            m.machine.set_balloon(target * MIB)
            m.advance(60)
            assert m.device.actual // MIB == stuck
            assert m.named("BALLOON_TARGET") == []
            m.machine.set_balloon(ram * MIB)
            m.advance(10)
            assert m.device.actual == ram * MIB
            assert m.named("BALLOON_TARGET") == [{"actual": ram * MIB}]

    def test_total_shrinks_by_the_balloon_and_the_sums_hold(self, m: Modelled) -> None:
        before = values(m)
        m.machine.set_balloon(256 * MIB)
        m.advance(2)
        after = values(m)
        assert before[TOTAL] - after[TOTAL] == 256 * MIB
        assert after[FREE] + after[CACHES] + m.guest.kernel.used == after[TOTAL]
        assert all(after[tag] >= before[tag] for tag in (0, 1, 2, 3, 10, 11, 12, 13, 14, 15)), "counters only rise"

    def test_a_stopped_or_hung_guest_does_not_inflate_and_does_not_catch_up_in_a_storm(self) -> None:
        with Modelled("linux,pace=128M") as m:
            m.machine.set_balloon(256 * MIB)
            m.advance(1)
            for still, go_on in ((m.machine.stop, m.machine.cont), (m.guest.controls.hang, m.guest.controls.wake)):
                still()
                m.advance(0.1)
                before = m.device.actual
                m.advance(100)
                assert m.device.actual == before
                go_on()
                m.advance(0.1)
                assert 0 <= (before - m.device.actual) / MIB < 16
            m.advance(2)
            assert m.device.actual == 256 * MIB

    @pytest.mark.parametrize("ram", [4 * MIB, 4 * GIB + MIB, TIB])
    def test_guests_of_every_size_inflate(self, ram: int) -> None:
        with Modelled("linux,pace=100T", ram=ram) as m:
            target = ram - min(ram // 4, GIB)
            m.machine.set_balloon(target)
            m.advance(1)
            assert m.device.actual == target
            assert m.device.refused == {}


class TestDeflateOnOom:
    @pytest.fixture
    def m(self) -> Iterator[Modelled]:
        with Modelled("linux-6.12", switches={"deflate-on-oom": True}) as m:
            yield m

    def test_the_balloon_is_not_subtracted(self, m: Modelled) -> None:
        assert m.device.features & bit(F_DEFLATE_ON_OOM)
        before = values(m)
        m.machine.set_balloon(256 * MIB)
        m.advance(2)
        assert values(m)[TOTAL] == before[TOTAL]

    def test_a_workload_takes_pages_back_instead_of_being_killed(self, m: Modelled) -> None:
        m.machine.set_balloon(200 * MIB)
        m.advance(2)
        actual = m.device.actual
        assert m.guest.controls.alloc(600 * MIB) == 600 * MIB
        assert m.device.actual > actual
        assert values(m)[OOM] == 0
        assert m.device.pages.count * 4096 == 512 * MIB - m.device.actual

    def test_a_stuck_balloon_goes_on_when_memory_comes_back(self, m: Modelled) -> None:
        m.guest.controls.alloc(600 * MIB)
        m.machine.set_balloon(100 * MIB)
        m.advance(10)
        stuck = m.device.actual
        assert stuck > 100 * MIB
        m.advance(10)
        assert m.device.actual == stuck
        m.guest.controls.free(600 * MIB)
        m.advance(1)
        assert m.device.actual == 100 * MIB

    def test_a_hung_driver_helps_nobody(self, m: Modelled) -> None:
        m.machine.set_balloon(200 * MIB)
        m.advance(2)
        m.guest.controls.hang()
        actual = m.device.actual
        assert m.guest.controls.alloc(600 * MIB) == 0
        assert m.device.actual == actual

    def test_a_driver_whose_device_is_broken_helps_nobody(self, m: Modelled) -> None:
        m.machine.set_balloon(200 * MIB)
        m.advance(2)
        m.device.refuse("bad-ring", "by the test")
        assert m.guest.controls.alloc(600 * MIB) == 0
        m.guest.controls.unload_driver()
        assert (m.device.broken, m.device.actual) == (False, 512 * MIB)
        m.guest.controls.load_driver()
        assert m.info() == "answered"


class TestFaults:
    def test_hang_and_wake(self, m: Modelled) -> None:
        m.guest.controls.hang()
        m.advance(3)
        assert (m.info(), m.age) == ("timed out", 8)
        m.guest.controls.wake()
        assert m.age == 0, "what came meanwhile is answered"
        assert m.info() == "answered"

    def test_wake_makes_a_silenced_guest_answer_again(self) -> None:
        with Modelled("hung") as m:
            assert [m.info(), m.info()] == ["answered", "timed out"]
            m.guest.controls.wake()
            assert m.age == 0
            assert [m.info(), m.info()] == ["answered", "answered"]

    @pytest.mark.parametrize(
        "order", ["hang stop wake cont", "hang stop cont wake", "stop hang cont wake", "stop hang wake cont"]
    )
    def test_an_answer_that_came_due_while_hung_is_given_after_all(self, order: str) -> None:
        with Modelled("slow,delay=1") as m:
            request = m.ask(None)
            for step in order.split():
                getattr(m.guest.controls if step in ("hang", "wake") else m.machine, step)()
                m.advance(2)
            assert request.state == "answered"
            assert m.info() == "answered"

    def test_delay_may_change_while_an_answer_is_under_way(self, m: Modelled) -> None:
        m.guest.controls.set_delay(3_000_000_000)
        request = m.ask()
        m.guest.controls.set_delay(0)
        m.advance(2.999)
        assert request.state == "pending"
        m.advance(0.001)
        assert request.state == "answered"
        assert m.ask().state == "answered"

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_after_dropped_notifications_a_new_request_notifies_again(self, m: Modelled, count: int) -> None:
        m.guest.controls.drop(count)
        assert [m.info() for _ in range(count)] == ["timed out"] * count
        request = m.ask()
        assert request.state == "answered"

    def test_a_drop_is_made_good_by_the_next_asker(self, m: Modelled) -> None:
        m.guest.controls.drop(1)
        first = m.ask()
        assert first.state == "pending"
        assert m.ask().state == "answered"
        assert first.state == "answered"

    def test_panic(self, m: Modelled) -> None:
        m.guest.controls.panic()
        assert m.named("GUEST_PANICKED") == [{"action": "run"}]
        m.machine.set_balloon(256 * MIB)
        assert m.info() == "timed out"
        assert m.device.actual == 512 * MIB
        m.machine.reset()
        assert m.info() == "answered"

    @pytest.mark.parametrize(
        "act",
        [lambda g: g.panic(), lambda g: g.alloc(4096), lambda g: g.free(4096), lambda g: g.unload_driver()],
    )
    @pytest.mark.parametrize("state", ["dead", "off"])
    def test_nothing_runs_on_a_dead_kernel(self, act: Callable[[object], object], state: str) -> None:
        with Modelled(paused=state == "off") as m:
            if state == "dead":
                m.guest.controls.panic()
            with pytest.raises(MisuseError, match=r"not running a kernel|not loaded"):
                act(m.guest.controls)

    def test_the_overview_names_the_faults_in_force(self, m: Modelled) -> None:
        assert dict(m.guest.shown()) == {}
        m.guest.controls.set_delay(2_500_000_000)
        m.guest.controls.drop(2)
        m.guest.controls.pin(FREE, 1)
        m.guest.controls.hang()
        m.guest.controls.panic()
        controls = m.guest.shown()
        assert set(controls) >= {"panicked", "hung", "delay", "pinned"}
        assert controls["delay"] == "2.5 s"
        with Modelled("flaky,answers=3") as other:
            assert other.guest.shown()["loss"] == "0.3"
            assert any("3" in value for value in other.guest.shown().values())


class TestPins:
    def test_a_value_is_reported_instead_of_the_real_one(self, m: Modelled) -> None:
        m.guest.controls.pin(FREE, 2**63 + 5)
        m.guest.controls.pin(900, 7)
        m.guest.controls.pin(TOTAL, None)
        found = values(m)
        assert (found[FREE], TOTAL in found, m.stats.sample.unknown) == (2**63 + 5, False, {900: 7})
        assert m.guest.controls.pins() == {FREE: 2**63 + 5, 900: 7, TOTAL: None}
        for tag in (FREE, 900, TOTAL, TOTAL, 99):
            m.guest.controls.unpin(tag)
        assert len(values(m)) == 16
        assert (m.guest.controls.pins(), m.stats.sample.unknown) == ({}, {})

    def test_the_absent_value_reads_as_absent(self, m: Modelled) -> None:
        m.guest.controls.pin(FREE, ABSENT)
        assert FREE not in values(m)

    @pytest.mark.parametrize("value", [-1, 2**64])
    def test_a_value_has_64_bits(self, m: Modelled, value: int) -> None:
        with pytest.raises(MisuseError, match="a statistic is from 0 to 18446744073709551615"):
            m.guest.controls.pin(FREE, value)
        assert m.guest.controls.pins() == {}

    def test_a_guest_without_statistics_reports_its_pins_alone(self) -> None:
        with Modelled("empty") as m:
            m.guest.controls.pin(FREE, 5)
            assert values(m) == {FREE: 5}

    @pytest.mark.parametrize("spec", ["linux", "partial", "linux,stats=free_mem", "empty"])
    def test_with_every_statistic_taken_away_it_still_answers(self, spec: str) -> None:
        with Modelled(spec) as m:
            for tag in range(16):
                m.guest.controls.pin(tag, None)
            assert values(m) == {}
            assert m.device.refused == {}

    def test_pins_outlive_a_reset(self, m: Modelled) -> None:
        m.guest.controls.pin(FREE, 5)
        m.machine.reset()
        assert values(m)[FREE] == 5


class TestWorkload:
    def test_takes_and_gives_back(self, m: Modelled) -> None:
        before = values(m)[FREE]
        assert m.guest.controls.alloc(100 * MIB) == 100 * MIB
        assert before - values(m)[FREE] == 100 * MIB
        assert m.guest.memory_free() == values(m)[FREE]
        assert m.guest.controls.free(60 * MIB) == 60 * MIB
        assert m.guest.controls.free(60 * MIB) == 40 * MIB
        assert values(m)[FREE] == before

    def test_pressure_shows_as_swap_and_at_last_as_a_kill(self, m: Modelled) -> None:
        m.guest.controls.alloc(600 * MIB)
        assert values(m)[1] > 0
        assert m.guest.controls.alloc(4 * GIB) == 0
        assert values(m)[OOM] == 1

    def test_before_boot_free_memory_is_unknown(self) -> None:
        with Modelled(paused=True) as m:
            assert m.guest.memory_free() is None
            assert m.guest.statistics() == (ABSENT,) * STAT_COUNT


class TestDriver:
    def test_unloading_deflates_and_loading_inflates_to_the_target(self, m: Modelled) -> None:
        m.machine.set_balloon(256 * MIB)
        m.advance(1)
        m.guest.controls.unload_driver()
        assert (m.device.actual, m.device.pages.count, m.guest.driver_loaded) == (512 * MIB, 0, False)
        assert (m.info(), m.stats.sample) == ("unsupported", None)
        m.advance(5)
        assert m.device.actual == 512 * MIB
        m.guest.controls.load_driver()
        m.advance(1)
        assert m.device.actual == 256 * MIB
        assert values(m)[TOTAL] > 0

    def test_cannot_be_loaded_or_unloaded_twice(self, m: Modelled) -> None:
        with pytest.raises(MisuseError, match="the driver is loaded already"):
            m.guest.controls.load_driver()
        m.guest.controls.unload_driver()
        with pytest.raises(MisuseError, match="the driver is not loaded"):
            m.guest.controls.unload_driver()

    def test_needs_a_kernel_and_a_device(self) -> None:
        with Modelled(balloon=False) as m:
            with pytest.raises(MisuseError, match="there is no balloon device for it"):
                m.guest.controls.load_driver()
            m.guest.controls.panic()
            with pytest.raises(MisuseError, match="not running a kernel"):
                m.guest.controls.load_driver()

    def test_a_device_that_does_not_agree_gets_no_driver(self, m: Modelled) -> None:
        m.guest.controls.unload_driver()
        m.device.offered = 0
        m.guest.controls.load_driver()
        assert not m.guest.driver_loaded
        assert m.info() == "unsupported"


@pytest.mark.parametrize("spec", ["linux", "flaky", "windows,delay=1,loss=0.4"])
def test_the_same_seed_gives_the_same_numbers_and_another_one_others(spec: str) -> None:
    def play(seed: int) -> list[object]:
        with Modelled(spec, seed=seed) as m:
            seen: list[object] = []
            m.machine.set_balloon(300 * MIB)
            for step in range(30):
                m.advance(1.3)
                seen.append((m.info(), m.clock.now(), m.device.actual, m.stats.sample and m.stats.sample.values))
                if step == 10:
                    m.guest.controls.alloc(400 * MIB)
                if step == 20:
                    m.machine.reset()
            return seen

    assert play(7) == play(7)
    assert play(7) != play(8)
