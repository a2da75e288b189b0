"""The machine: run states, resets, events, hot-plug, power, and what it refuses."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest

from device.balloon.stats import SPACING
from device.clock import SECOND, Clock, SimulatedClock
from device.errors import MisuseError, UnsupportedError
from device.guest.table import make_guest
from device.machine.events import GuestGone
from device.machine.guest import Controls, Guest
from device.machine.machine import PAUSED, PRELAUNCH, RUNNING, SHUTDOWN, Machine
from device.virtio.spec import MIB
from tests.support.descriptors import open_descriptors
from tests.support.rig import HandGuest, Modelled, Rig


class RealGuest(HandGuest):
    name = "real"
    real = True


class TestBuilding:
    def test_a_real_guest_needs_real_time(self) -> None:
        with pytest.raises(MisuseError, match="real guest runs in real time: --clock warp"):
            Machine(SimulatedClock(), ram=16 * MIB, guest=RealGuest())
        machine = Machine(Clock("real", lambda: 0, lambda: 0), ram=16 * MIB, guest=RealGuest())
        machine.start()
        assert machine.running
        machine.close()

    @pytest.mark.parametrize("options", [{"switches": {"colour": True}}, {"ram": 5}, {"ram": 1 << 60}])
    def test_a_machine_that_cannot_be_leaves_nothing_open(self, options: dict[str, Any]) -> None:
        gc.collect()
        before = open_descriptors()
        for _ in range(3):
            with pytest.raises(MisuseError):
                Machine(SimulatedClock(), **{"ram": 16 * MIB, "guest": HandGuest(), **options})
        gc.collect()
        assert open_descriptors() == before

    def test_closing_gives_back_memory_and_timers(self) -> None:
        gc.collect()
        before = open_descriptors()
        with Modelled() as m:
            m.machine.set_balloon(256 * MIB)
            m.stats.set_poll_interval(1)
            m.advance(0.1)
        assert len(m.machine.vm_timers) == 0
        gc.collect()
        assert open_descriptors() == before

    def test_the_path_of_the_device(self) -> None:
        with Modelled() as m:
            assert m.machine.device_path == "/machine/peripheral/balloon0"
        with Modelled(balloon=False) as m:
            assert m.machine.device_path is None
            with pytest.raises(MisuseError, match="No balloon device has been activated"):
                m.machine.set_balloon(256 * MIB)
        machine = Machine(SimulatedClock(), ram=16 * MIB, guest=HandGuest(), device_id=None)
        assert machine.device_path == "/machine/peripheral-anon/device[0]"
        machine.close()


class TestRunStates:
    def test_s_waits_for_cont_to_boot(self) -> None:
        with Modelled(paused=True) as m:
            assert m.machine.run_state == PRELAUNCH
            m.advance(10)
            assert not m.guest.driver_loaded
            m.machine.stop()
            assert m.machine.run_state == PRELAUNCH
            m.machine.cont()
            assert (m.machine.run_state, m.guest.driver_loaded) == (RUNNING, True)
            assert m.machine.vm_clock.now() == 0

    def test_stop_and_cont_are_reported_once(self) -> None:
        with Modelled() as m:
            m.events.clear()
            m.machine.cont()
            for _ in range(2):
                m.machine.stop()
            for _ in range(2):
                m.machine.cont()
            assert [name for name, _ in m.events] == ["STOP", "RESUME"]

    @pytest.mark.parametrize(
        ("prepare", "after"),
        [([], RUNNING), (["stop"], PRELAUNCH), (["stop", "cont"], RUNNING)],
    )
    def test_reset_keeps_a_running_vm_running(self, prepare: list[str], after: str) -> None:
        """QEMU leaves a stopped one in prelaunch."""
        with Modelled() as m:
            for step in prepare:
                getattr(m.machine, step)()
            m.machine.reset()
            assert m.machine.run_state == after
            assert m.guest.driver_loaded is (after == RUNNING)

    @pytest.mark.parametrize(("guest", "reason"), [(False, "host-qmp-system-reset"), (True, "guest-reset")])
    def test_reset_reports_who_asked(self, guest: bool, reason: str) -> None:
        with Modelled() as m:
            m.machine.reset(guest=guest)
            assert m.named("RESET") == [{"guest": guest, "reason": reason}]

    @pytest.mark.parametrize("run", ["running", "stopped"])
    def test_reset_keeps_target_interval_and_actual(self, run: str) -> None:
        """As measured on QEMU 7.2: `actual` is what was written last, and only the new driver writes it."""
        with Modelled("linux,boot=2") as m:
            m.advance(2)
            m.machine.set_balloon(256 * MIB)
            m.stats.set_poll_interval(9)
            m.advance(5)
            assert m.device.actual == 256 * MIB
            if run == "stopped":
                m.machine.stop()
            m.events.clear()
            m.machine.reset()
            assert [name for name, _ in m.events] == ["RESET"]
            assert (m.device.actual, m.device.target, m.stats.poll_interval) == (256 * MIB, 256 * MIB, 9)
            assert (m.stats.sample, m.device.pages.count) == (None, 0)
            m.machine.cont()
            m.advance(1.9)
            assert (m.device.actual, m.named("BALLOON_CHANGE")) == (256 * MIB, [])
            m.advance(1)
            first, *_, last = m.named("BALLOON_CHANGE")
            assert first["actual"] > last["actual"] == 256 * MIB, "the new driver inflates again"

    def test_after_a_reset_actual_stays_as_long_as_the_new_driver_has_nothing_to_do(self) -> None:
        """As with QEMU and Linux, whose driver writes `actual` only after it moved pages."""
        with Modelled() as m:
            m.machine.set_balloon(448 * MIB)
            m.advance(1)
            m.machine.reset()
            m.machine.set_balloon(512 * MIB)
            m.advance(60)
            assert (m.device.actual, m.guest.driver.ballooned) == (448 * MIB, 0)
            m.machine.set_balloon(500 * MIB)
            m.advance(1)
            assert m.device.actual == 500 * MIB

    def test_a_driver_that_is_unloaded_writes_it_though_it_has_no_page(self) -> None:
        """As Linux's driver, which writes the size of its balloon in any case."""
        with Modelled() as m:
            m.machine.set_balloon(448 * MIB)
            m.advance(1)
            m.machine.reset()
            m.machine.set_balloon(512 * MIB)
            m.guest.controls.unload_driver()
            assert (m.device.actual, m.named("BALLOON_CHANGE")[-1]) == (512 * MIB, {"actual": 512 * MIB})

    @pytest.mark.parametrize("spec", ["linux,boot=30", "nodriver", "nostats"])
    def test_another_guest_finds_actual_as_it_was(self, spec: str) -> None:
        with Modelled() as m:
            m.machine.set_balloon(400 * MIB)
            m.advance(1)
            m.events.clear()
            m.machine.replace_guest(make_guest(spec))
            assert (m.device.actual, [name for name, _ in m.events]) == (400 * MIB, ["RESET"])

    def test_quit_ends_it_for_good(self) -> None:
        with Modelled() as m:
            m.machine.quit()
            m.machine.quit(reason="host-signal")
            m.machine.cont()
            assert (m.machine.over, m.machine.run_state, m.machine.running) == (True, SHUTDOWN, False)
            assert m.named("SHUTDOWN") == [{"guest": False, "reason": "host-qmp-quit"}]


class TestPower:
    def test_a_guest_with_a_driver_shuts_down(self) -> None:
        with Modelled() as m:
            m.machine.power_down()
            assert m.machine.over
            assert [name for name, _ in m.events][-2:] == ["POWERDOWN", "SHUTDOWN"]
            assert m.named("SHUTDOWN") == [{"guest": True, "reason": "guest-shutdown"}]

    @pytest.mark.parametrize("spec", ["nodriver", "linux"])
    def test_without_a_driver_or_a_live_kernel_the_button_is_ignored(self, spec: str) -> None:
        with Modelled(spec) as m:
            if spec == "linux":
                m.guest.controls.panic()
            m.machine.power_down()
            assert not m.machine.over
            assert m.named("POWERDOWN") == [{}]

    def test_a_stopped_guest_hears_it_at_cont(self) -> None:
        with Modelled() as m:
            m.machine.stop()
            m.machine.power_down()
            assert not m.machine.over
            m.machine.cont()
            assert m.machine.over

    def test_a_reset_forgets_it(self) -> None:
        with Modelled() as m:
            m.machine.stop()
            m.machine.power_down()
            m.machine.reset()
            m.machine.cont()
            assert not m.machine.over


class TestHotPlug:
    def test_a_live_driver_releases_the_device_at_once(self) -> None:
        with Modelled() as m:
            m.machine.set_balloon(256 * MIB)
            m.advance(1)
            m.machine.device_del("balloon0")
            assert m.machine.device is None
            assert m.named("DEVICE_DELETED") == [{"device": "balloon0", "path": "/machine/peripheral/balloon0"}]
            assert m.guest.kernel.ballooned == 0
            assert not m.guest.driver_loaded

    def test_another_device_after_the_first_was_deleted_works(self) -> None:
        with Modelled() as m:
            m.machine.device_del("balloon0")
            m.machine.device_add("other", {"deflate-on-oom": True})
            assert m.machine.device_path == "/machine/peripheral/other"
            assert m.info() == "answered"
            assert m.device.actual == 512 * MIB
            m.machine.device_del("/machine/peripheral/other")
            assert m.machine.device is None

    @pytest.mark.parametrize(("id", "words"), [("x", "Device 'x' not found"), ("", "Device '' not found")])
    def test_deleting_what_is_not_there(self, id: str, words: str) -> None:
        with Modelled() as m:
            with pytest.raises(MisuseError, match=words):
                m.machine.device_del(id)
            assert m.machine.device is not None

    @pytest.mark.parametrize(
        ("id", "words"),
        [
            ("balloon0", "Duplicate device ID 'balloon0'"),
            ("b", "Only one balloon device is supported"),
            ("", "Only one balloon device is supported"),
        ],
    )
    def test_there_is_only_one(self, id: str, words: str) -> None:
        with Modelled() as m:
            device = m.device
            with pytest.raises(MisuseError, match=words):
                m.machine.device_add(id)
            assert m.device is device

    def test_adding_one_that_cannot_be_adds_none(self) -> None:
        with Modelled(balloon=False) as m:
            with pytest.raises(MisuseError, match="no such balloon property"):
                m.machine.device_add("b", {"colour": True})
            assert m.machine.device is None
            m.machine.device_add("b")
            assert m.info() == "answered"

    def test_a_hung_driver_releases_the_device_when_it_wakes(self) -> None:
        with Modelled() as m:
            m.guest.controls.hang()
            for _ in range(3):  # QEMU 7.2's pc accepts it again without an error
                m.machine.device_del("balloon0")
            assert m.machine.device is not None
            m.guest.controls.wake()
            assert m.machine.device is None
            assert m.named("DEVICE_DELETED") == [{"device": "balloon0", "path": "/machine/peripheral/balloon0"}]
            with pytest.raises(MisuseError, match="Device 'balloon0' not found"):
                m.machine.device_del("balloon0")

    def test_a_second_deletion_succeeds_where_a_driver_came_meanwhile(self) -> None:
        with Modelled() as m:
            m.guest.controls.unload_driver()
            m.machine.device_del("balloon0")
            m.guest.controls.load_driver()
            assert m.machine.device is not None, "the new driver was not asked"
            m.machine.device_del("balloon0")
            assert m.machine.device is None

    def test_without_a_driver_the_device_stays_until_a_reset(self) -> None:
        with Modelled("nodriver") as m:
            m.machine.device_del("balloon0")
            m.machine.stop()
            m.machine.cont()
            m.advance(100)
            assert m.machine.device is not None
            m.machine.reset()
            assert m.machine.device is None

    def test_a_stopped_vm_notices_at_cont(self) -> None:
        with Modelled() as m:
            m.machine.stop()
            m.machine.device_del("balloon0")
            assert m.machine.device is not None
            m.machine.cont()
            assert m.machine.device is None
            m.machine.stop()
            m.machine.device_add("b")
            assert not m.guest.driver_loaded
            m.machine.cont()
            assert m.guest.driver_loaded
            m.guest.controls.unload_driver()
            m.machine.stop()
            m.machine.cont()
            assert not m.guest.driver_loaded, "an unloaded driver does not come back by itself"

    def test_before_boot_a_device_may_come(self) -> None:
        with Modelled(paused=True, balloon=False) as m:
            m.machine.device_add("b")
            m.machine.cont()
            assert m.guest.driver_loaded

    def test_added_and_deleted_while_stopped_it_never_gets_a_driver(self) -> None:
        with Modelled(balloon=False) as m:
            m.machine.stop()
            m.machine.device_add("b")
            m.machine.device_del("b")
            m.machine.cont()
            assert not m.guest.driver_loaded

    def test_a_panicked_guest_takes_no_device_until_its_reset(self) -> None:
        with Modelled(balloon=False) as m:
            m.guest.controls.panic()
            m.machine.device_add("b")
            assert not m.guest.driver_loaded
            m.machine.reset()
            assert m.guest.driver_loaded


class TestAnotherGuest:
    def test_reboots_the_machine_into_it(self) -> None:
        with Modelled() as m:
            m.machine.set_balloon(256 * MIB)
            m.advance(2)
            m.machine.replace_guest(make_guest("linux-6.12"))
            assert (m.device.actual, m.device.pages.count) == (256 * MIB, 0)
            sample = m.stats.sample
            assert sample is not None
            assert len(sample.values) == 16
            assert m.named("RESET")[-1] == {"guest": False, "reason": "host-qmp-system-reset"}
            m.advance(1)
            assert (m.device.actual, m.device.pages.count) == (256 * MIB, 65536)

    def test_a_stopped_machine_boots_it_at_cont(self) -> None:
        with Modelled() as m:
            m.machine.stop()
            m.machine.replace_guest(make_guest("linux-6.12"))
            assert m.machine.run_state == PRELAUNCH
            m.machine.cont()
            assert m.info() == "answered"

    def test_one_that_the_clock_cannot_drive_is_refused_and_the_old_stays(self) -> None:
        with Modelled() as m:
            old = m.machine.guest
            with pytest.raises(MisuseError, match="real time"):
                m.machine.replace_guest(RealGuest())
            assert m.machine.guest is old
            assert m.info() == "answered"

    def test_without_a_device(self) -> None:
        with Modelled(balloon=False) as m:
            m.machine.replace_guest(make_guest("windows"))
            assert m.machine.guest.name == "windows"


class TestListening:
    def test_every_listener_gets_events_until_it_unsubscribes(self) -> None:
        with Rig() as rig:
            heard: list[str] = []
            leave = rig.machine.subscribe(lambda event: heard.append(event.name))
            rig.machine.stop()
            leave()
            leave()
            rig.machine.cont()
            assert heard == ["STOP"]

    def test_a_listener_may_unsubscribe_while_it_is_called(self) -> None:
        with Rig() as rig:
            heard: list[str] = []
            leave: Callable[[], None] = rig.machine.subscribe(lambda *_: leave())
            rig.machine.subscribe(lambda event: heard.append(event.name))
            rig.machine.stop()
            assert heard == ["STOP"]

    def test_a_sample_is_reported_and_kept(self) -> None:
        with Rig() as rig:
            rig.up(prime=[(4, 9)])
            (event,) = rig.named("BALLOON")
            assert event["sample"].values == {4: 9}
            rig.clock.move_to(SPACING)
            rig.write_actual(256)
            entries = rig.machine.history.recent()
            assert [(now, actual // MIB) for now, actual, _ in entries] == [(0, 16), (SPACING, 15)]
            assert entries[1][2] is event["sample"]

    def test_a_dead_real_guest_and_its_descriptors(self) -> None:
        with Rig() as rig:
            rig.machine.emit(GuestGone("killed"))
            assert not rig.machine.step()
            assert rig.named("GUEST_GONE") == [{"why": "killed"}]
            assert rig.machine.wait_for() == ([], None)


def test_a_request_waits_for_a_guest_that_is_still_booting() -> None:
    """A real guest's driver comes up later; its request is kept within the timeout (monitor.md)."""
    with Rig() as rig:
        rig.guest.booting = True
        request, late = rig.ask(), rig.ask(SECOND)
        rig.advance(2)
        assert (request.state, late.state) == ("pending", "timed out")
        rig.up()
        rig.guest.booting = False
        assert rig.device.stats.out, "the driver came up: it is asked"
        rig.report([(4, 1)])
        assert request.state == "answered"


CANNOT: list[tuple[str, Callable[[Controls], object]]] = [
    ("hang its driver", lambda g: g.hang()),
    ("wake its driver", lambda g: g.wake()),
    ("delay its answers", lambda g: g.set_delay(1)),
    ("miss notifications", lambda g: g.drop(1)),
    ("set statistics", lambda g: g.pin(1, 1)),
    ("set statistics", lambda g: g.unpin(1)),
    ("run a workload", lambda g: g.alloc(1)),
    ("run a workload", lambda g: g.free(1)),
    ("load a driver", lambda g: g.load_driver()),
    ("unload its driver", lambda g: g.unload_driver()),
    ("panic", lambda g: g.panic()),
]


@pytest.mark.parametrize(("what", "act"), CANNOT)
def test_what_a_kind_of_guest_cannot_do_is_refused_by_name(what: str, act: Callable[[Controls], object]) -> None:
    with pytest.raises(UnsupportedError, match=f"the guest guest cannot {what}"):
        act(Guest().controls)


def test_the_base_class_of_guests_does_nothing() -> None:
    guest = Guest()
    guest.boot()
    guest.stopped()
    guest.resumed()
    guest.interrupt(0)
    guest.config_changed()
    guest.device_added()
    guest.close()
    assert (guest.release_device(), guest.power_down(), guest.descriptors()) == (False, False, [])
    assert (dict(guest.shown()), guest.controls.pins(), guest.memory_free()) == ({}, {}, None)
    assert PAUSED != PRELAUNCH
