"""What a modelled guest is given besides faults: swap, and the time that booting and shutting down take."""

from __future__ import annotations

import pytest

from device.clock import SECOND, Clock
from device.errors import MisuseError
from device.guest.model.guest import ModelledGuest
from device.guest.table import make_guest
from device.machine.machine import Machine
from device.virtio.spec import MIB
from tests.support.rig import Modelled
from tests.support.snapshots import restore, saved, settled


class TestSwap:
    @pytest.mark.parametrize(
        ("spec", "swap"),
        [("linux", 256), ("linux,swap=0", 0), ("linux,swap=64", 64), ("windows,swap=3G", 3072), ("host,swap=1", 1)],
    )
    def test_is_as_large_as_the_key_says(self, spec: str, swap: int) -> None:
        with Modelled(spec) as m:
            assert m.guest.kernel.swap_total == swap * MIB
            m.machine.reset()
            assert m.guest.kernel.swap_total == swap * MIB

    def test_half_of_ram_is_not_capped(self) -> None:
        with Modelled(ram=16 << 30) as m:
            assert m.guest.kernel.swap_total == 8 << 30

    def test_without_it_the_oom_killer_comes_earlier(self) -> None:
        with Modelled("linux") as m, Modelled("linux,swap=0") as bare:
            assert (m.guest.controls.alloc(500 * MIB), bare.guest.controls.alloc(500 * MIB)) == (500 * MIB, 0)
            assert bare.guest.kernel.values()[1] == 0

    @pytest.mark.parametrize("text", ["17T", "-1", "x", "1.5B"])
    def test_a_value_that_is_no_size_is_refused(self, text: str) -> None:
        with pytest.raises(MisuseError, match=f"guest linux: swap: '{text}' is not"):
            make_guest(f"linux,swap={text}")

    def test_is_shown(self) -> None:
        with Modelled("linux,swap=0,boot=2.5,shutdown=never") as m:
            assert m.guest.shown() == {"swap": "0B", "boot": "2.5 s", "shutdown": "never"}


class TestBoot:
    def test_the_driver_is_up_after_that_much_vm_time(self) -> None:
        with Modelled("linux,boot=3") as m:
            m.machine.stop()
            m.advance(100)
            m.machine.cont()
            m.advance(2.999)
            assert (m.guest.booting, m.guest.driver_loaded, m.device.live) == (True, False, False)
            m.advance(0.001)
            assert (m.guest.booting, m.guest.driver_loaded, m.info()) == (False, True, "answered")

    def test_a_request_waits_for_it_within_the_timeout(self) -> None:
        with Modelled("linux,boot=3") as m:
            assert (m.info(), m.clock.now()) == ("answered", 3 * SECOND)
            m.machine.reset()
            assert (m.info(2 * SECOND), m.guest.booting) == ("timed out", True)
            assert (m.info(), m.clock.now()) == ("answered", 6 * SECOND)

    @pytest.mark.parametrize("name", ["nodriver", "nostats"])
    def test_a_request_ends_when_nobody_came_up_who_answers(self, name: str) -> None:
        with Modelled(f"{name},boot=3") as m:
            assert (m.info(), m.clock.now()) == ("unsupported", 3 * SECOND)
            assert m.info() == "unsupported"

    def test_it_boots_again_after_each_reset_and_not_before_cont(self) -> None:
        with Modelled("linux,boot=3", paused=True) as m:
            assert (m.guest.booting, m.info()) == (False, "unsupported")
            m.machine.cont()
            m.advance(3)
            assert m.guest.driver_loaded
            m.machine.stop()
            m.machine.reset()
            assert (m.guest.booting, m.info()) == (False, "unsupported")
            m.machine.cont()
            m.advance(2)
            m.machine.reset()
            m.advance(2)
            assert m.guest.booting
            m.advance(1)
            assert m.guest.driver_loaded

    def test_a_driver_loaded_by_hand_is_not_loaded_again(self) -> None:
        with Modelled("linux,boot=3") as m:
            with pytest.raises(MisuseError, match="the driver is not loaded"):
                m.guest.controls.unload_driver()
            m.guest.controls.load_driver()
            assert not m.guest.booting
            m.guest.controls.unload_driver()
            m.advance(10)
            assert not m.guest.driver_loaded

    def test_a_kernel_that_dies_in_it_answers_nobody(self) -> None:
        with Modelled("linux,boot=3") as m:
            asked = m.ask()
            m.guest.controls.panic()
            assert (asked.state, m.info()) == ("unsupported", "unsupported")
            m.advance(10)
            assert not m.guest.driver_loaded

    def test_a_device_goes_and_comes_with_the_driver(self) -> None:
        with Modelled("linux,boot=3") as m:
            m.machine.device_del("balloon0")
            assert m.machine.device is not None
            m.advance(3)
            assert m.machine.device is None
            m.machine.reset()
            m.machine.device_add("b")
            m.advance(1)
            assert not m.guest.driver_loaded
            m.advance(2)
            assert m.guest.driver_loaded

    def test_a_snapshot_goes_on_with_it(self) -> None:
        with Modelled("linux,boot=3") as m, Modelled() as other:
            m.advance(1)
            restore(other.machine, saved(m.machine))
            assert other.machine.guest.booting
            other.advance(1.999)
            assert other.info(0) == "pending"
            other.advance(0.001)
            assert other.machine.guest.driver_loaded

    def test_target_and_hang_are_as_with_any_driver(self) -> None:
        with Modelled("linux,boot=1") as m:
            m.machine.set_balloon(256 * MIB)
            m.guest.controls.hang()
            m.advance(2)
            assert (m.guest.driver_loaded, m.device.actual, m.info()) == (True, 512 * MIB, "timed out")
            m.guest.controls.wake()
            m.advance(1)
            assert m.device.actual == 256 * MIB


class TestShutdown:
    def test_is_at_once_on_a_simulated_clock(self) -> None:
        with Modelled() as m:
            m.machine.power_down()
            assert [name for name, _ in m.events[-2:]] == ["POWERDOWN", "SHUTDOWN"]
            assert m.machine.over

    def test_takes_a_second_on_the_real_one(self) -> None:
        now = 0
        guest = make_guest("linux")
        machine = Machine(Clock("real", lambda: now, lambda: now), ram=64 * MIB, guest=guest)
        machine.start()
        try:
            machine.power_down()
            assert not machine.over
            assert machine.time.next_deadline() == SECOND
            now = SECOND
            machine.step()
            assert machine.over
        finally:
            machine.close()

    def test_takes_as_long_as_the_key_says_and_answers_meanwhile(self) -> None:
        with Modelled("linux,shutdown=10") as m:
            m.machine.power_down()
            m.advance(5)
            m.machine.power_down()
            assert m.info() == "answered"
            m.guest.controls.unload_driver()
            m.machine.stop()
            m.advance(100)
            assert not m.machine.over
            m.machine.cont()
            m.advance(4.999)
            assert not m.machine.over
            m.advance(0.001)
            assert m.machine.over
            assert m.named("SHUTDOWN") == [{"guest": True, "reason": "guest-shutdown"}]

    def test_of_a_guest_that_ignores_the_button_never_comes(self) -> None:
        with Modelled("linux,shutdown=never") as m:
            m.machine.power_down()
            m.machine.stop()
            m.machine.power_down()
            m.machine.cont()
            m.advance(3600)
            assert not m.machine.over

    def test_is_not_begun_without_a_driver(self) -> None:
        for spec in ("nodriver,shutdown=0", "linux,boot=5,shutdown=0"):
            with Modelled(spec) as m:
                m.machine.power_down()
                m.advance(10)
                assert not m.machine.over

    @pytest.mark.parametrize("what", ["reset", "panic"])
    def test_ends_with_its_kernel(self, what: str) -> None:
        with Modelled("linux,shutdown=5") as m:
            m.machine.power_down()
            (m.machine.reset if what == "reset" else m.guest.controls.panic)()
            m.advance(10)
            assert not m.machine.over

    def test_goes_on_in_a_snapshot(self) -> None:
        with Modelled("linux,shutdown=5") as m, Modelled() as other:
            m.machine.power_down()
            m.guest.controls.unload_driver()
            m.advance(2)
            data = saved(m.machine)
            restore(other.machine, data)
            assert settled(saved(other.machine)) == settled(data)
            other.advance(2.999)
            assert not other.machine.over
            other.advance(0.001)
            assert other.machine.over

    def test_of_a_stopped_vm_comes_once_it_runs(self) -> None:
        with Modelled("linux,shutdown=0") as m:
            m.machine.stop()
            m.machine.power_down()
            m.advance(10)
            assert not m.machine.over
            m.machine.cont()
            assert m.machine.over

    def test_what_is_no_time_is_refused(self) -> None:
        with pytest.raises(MisuseError, match="guest linux: shutdown: 'soon' is not a number of seconds"):
            make_guest("linux,shutdown=soon")
        with pytest.raises(MisuseError, match="guest linux: boot: '3601' is more than 3600 seconds"):
            make_guest("linux,boot=3601")


def test_all_keys_can_be_combined() -> None:
    guest = make_guest("windows,swap=0,boot=1,shutdown=2,service=3,delay=1,loss=0,stats=none,answers=3,pace=1M")
    assert isinstance(guest, ModelledGuest)
    assert [guest.faults[name].value for name in ("swap", "boot", "shutdown", "service")] == [
        0, SECOND, 2 * SECOND, 3 * SECOND,
    ]  # fmt: skip


class TestService:
    def test_the_first_buffer_of_windows_is_a_sample_of_no_statistics(self) -> None:
        with Modelled("windows") as m:
            assert (m.stats.sample.tags, m.stats.sample.unknown, m.age) == ((), {}, 0)
            assert (m.info(), m.age) == ("timed out", 5)

    @pytest.mark.parametrize(
        ("key", "when"), [("", 20), (",service=7", 7), (",service=0", 0), (",boot=3,service=7", 10)]
    )
    def test_it_answers_who_still_waits_once_its_service_is_up(self, key: str, when: int) -> None:
        with Modelled(f"windows{key}") as m:
            assert not key.startswith(",boot") or m.info() == "answered", "the first buffer is a sample like any other"
            when -= m.clock.now() // SECOND
            asked = m.ask(30 * SECOND)
            m.advance(when - 0.001 if when else 0)
            if when:
                assert asked.state == "pending"
                m.advance(0.001)
            assert asked.state == "answered"
            assert m.stats.sample.tags == tuple(range(10))

    def test_a_service_that_never_comes_never_answers(self) -> None:
        with Modelled("windows,service=never") as m:
            m.advance(100_000)
            assert m.info() == "timed out"
            m.guest.controls.wake()
            assert m.info() == "timed out"

    def test_its_start_sends_nothing_unless_a_request_waits(self) -> None:
        """The driver sends numbers only when it is asked, so the age keeps growing when the service starts."""
        with Modelled("windows") as m:
            m.advance(30)
            assert (m.age, m.info(), m.age) == (30, "answered", 0)

    def test_a_driver_that_is_loaded_again_finds_the_service_running(self) -> None:
        with Modelled("windows") as m:
            m.advance(30)
            m.guest.controls.unload_driver()
            m.guest.controls.load_driver()
            assert (m.stats.sample.tags, m.info()) == ((), "answered")

    def test_it_is_stopped_with_the_vm_and_kept_in_snapshots(self) -> None:
        with Modelled("windows") as m, Modelled() as other:
            m.ask(None)
            m.machine.stop()
            m.advance(100)
            m.machine.cont()
            m.advance(5)
            restore(other.machine, saved(m.machine))
            other.ask(None)
            other.advance(14.999)
            assert other.machine.device.stats.sample.tags == ()
            other.advance(0.001)
            assert other.machine.device.stats.sample.tags == tuple(range(10))

    def test_it_waits_for_a_driver_that_hangs(self) -> None:
        with Modelled("windows") as m:
            m.ask(None)
            m.guest.controls.hang()
            m.advance(30)
            assert m.stats.sample.tags == ()
            m.guest.controls.wake()
            assert m.stats.sample.tags == tuple(range(10))

    def test_its_total_keeps_the_balloon(self) -> None:
        with Modelled("windows,service=0") as m:
            m.info()
            before = m.stats.sample.values
            m.machine.set_balloon(256 * MIB)
            m.advance(2)
            m.info()
            after = m.stats.sample.values
            assert after[5] == before[5]
            assert before[4] - after[4] > 200 * MIB
            restore(m.machine, saved(m.machine))
            m.info()
            assert m.stats.sample.values[5] == before[5]

    def test_only_windows_has_one(self) -> None:
        with pytest.raises(MisuseError, match="guest linux has no key 'service'"):
            make_guest("linux,service=1")
