"""Snapshots: ages, waiting requests, size, what is refused, and what stays with the machine that loads."""

from __future__ import annotations

import gc
import io
from collections.abc import Iterator
from typing import Any

import pytest

from device.clock import SECOND, Clock, SimulatedClock
from device.errors import UnsupportedError
from device.fields import SnapshotError
from device.guest.table import make_guest
from device.machine.guest import Guest
from device.machine.machine import Machine
from device.machine.snapshot import load, save, summarize
from device.state import FAR
from device.virtio.spec import MIB, TIB
from tests.support.descriptors import open_descriptors
from tests.support.rig import HandGuest, Modelled, Rig
from tests.support.snapshots import replaced, restore, saved, settled, state_in, with_state


class TestAges:
    @pytest.mark.parametrize("warps", [True, False])
    def test_the_simulated_time_of_the_same_run_counts(self, warps: bool) -> None:
        with Modelled(warps=warps) as m:
            m.info()
            m.advance(3)
            data = saved(m.machine)
            m.advance(100)
            restore(m.machine, data)
            assert m.age == 103
            restore(m.machine, saved(m.machine))
            m.advance(1)
            assert m.age == 104

    def test_nothing_passes_from_one_simulated_run_to_the_next(self) -> None:
        with Modelled() as m, Modelled() as other:
            m.info()
            m.advance(3)
            other.advance(70)
            data = saved(m.machine)
            assert state_in(data)["run"] != state_in(saved(other.machine))["run"]
            restore(other.machine, data)
            assert other.age == 3
            assert not state_in(data)["run"].startswith(("0x", "-")), "no pointer"

    def test_a_snapshot_of_before_there_were_runs_says_no_time_since(self) -> None:
        with Modelled() as m:
            m.info()
            m.advance(3)
            data = saved(m.machine)
            state = state_in(data)
            del state["run"]
            m.advance(100)
            restore(m.machine, with_state(data, state))
            assert m.age == 3

    @pytest.mark.parametrize(
        ("passed", "age"), [(0, 4), (60, 64), (-500, 4), (56 * 365 * 86_400, 4 + 56 * 365 * 86_400)]
    )
    def test_real_time_since_the_save_counts(self, passed: int, age: int) -> None:
        """By the wall clock, as another host's monotonic clock says nothing. If it was set back, no time passed. A host
        without a clock battery saves in 1970: then it is many years.
        """
        now, wall = [10**12], [10**18]
        clock = Clock("real", lambda: now[0], lambda: wall[0])
        machine = Machine(clock, ram=64 * MIB, guest=make_guest("linux"))
        machine.start()
        machine.request_stats(SECOND)
        now[0] += 4 * SECOND
        wall[0] += 4 * SECOND
        data = saved(machine)
        now[0] = 77
        wall[0] += passed * SECOND
        restore(machine, data)
        assert machine.device is not None
        assert machine.device.stats.age == age * SECOND
        machine.close()

    def test_between_real_and_simulated_clocks_nothing_passes(self) -> None:
        """The date of a simulated clock (2010) is not used to count the time since the save."""
        real = Machine(Clock("real", lambda: 5 * SECOND, lambda: 10**18), ram=512 * MIB, guest=make_guest("linux"))
        real.start()
        with Modelled() as m:
            m.info()
            m.advance(3)
            restore(real, saved(m.machine))
            assert real.device is not None
            assert real.device.stats.age == 3 * SECOND
            restore(m.machine, saved(real))
            assert m.age == 3
        real.close()

    @pytest.mark.parametrize("member", ["age", "stats/reset_age", "stats/sample/age"])
    def test_an_age_at_its_end_grows_no_more(self, member: str) -> None:
        """Otherwise a snapshot of the machine that loaded it could not be loaded."""
        with Modelled() as m:
            m.info()
            data = saved(m.machine)
            path = ("device", *member.split("/"))
            m.advance(1)
            restore(m.machine, with_state(data, replaced(state_in(data), path, FAR)))
            again = saved(m.machine)
            restore(m.machine, again)
            part: Any = state_in(again)
            for name in path:
                part = part[name]
            assert part == FAR

    def test_the_age_without_statistics_counts_too(self) -> None:
        with Modelled("silent") as m:
            m.advance(9)
            data = saved(m.machine)
            m.machine.reset()
            restore(m.machine, data)
            assert m.age == 9

    def test_real_time_since_the_save_counts_without_statistics_too(self) -> None:
        now = [100 * SECOND]
        machine = Machine(Clock("real", lambda: now[0], lambda: now[0]), ram=64 * MIB, guest=make_guest("silent"))
        machine.start()
        now[0] += 4 * SECOND
        data = saved(machine)
        now[0] += 60 * SECOND
        restore(machine, data)
        assert machine.device is not None
        assert machine.device.born == 100 * SECOND
        machine.close()


class TestAskers:
    def test_they_keep_their_deadline_and_are_asked_again(self) -> None:
        with Modelled() as m:
            data = saved(m.machine)
            m.guest.controls.hang()
            requests = [m.ask(), m.ask(2 * SECOND)]
            m.advance(1.5)
            m.machine.stop()
            restore(m.machine, saved(m.machine))  # the hung guest again
            assert [request.state for request in requests] == ["pending"] * 2
            m.advance(0.5)
            assert [request.state for request in requests] == ["pending", "timed out"]
            restore(m.machine, data)
            m.machine.cont()
            assert [request.state for request in requests] == ["answered", "timed out"]

    def test_they_are_answered_at_once_where_nobody_will_report(self) -> None:
        with Modelled() as m, Modelled("nodriver") as none:
            m.guest.controls.hang()
            request = m.ask()
            restore(m.machine, saved(none.machine))
            assert request.state == "unsupported"

    def test_they_learn_that_there_is_no_device(self) -> None:
        with Modelled() as m:
            m.machine.device_del("balloon0")
            data = saved(m.machine)
            m.machine.device_add("balloon0")
            m.guest.controls.hang()
            request = m.ask()
            restore(m.machine, data)
            assert request.state == "no device"

    def test_a_snapshot_holds_none_of_them(self) -> None:
        with Modelled("hung") as m, Modelled() as other:
            m.info()
            m.ask()
            restore(other.machine, saved(m.machine))
            assert not other.machine.requests.pending


class TestSize:
    def test_a_terabyte_of_nothing_is_kilobytes(self) -> None:
        with Modelled(ram=TIB) as m:
            m.info()
            assert len(saved(m.machine)) < 64 << 10

    def test_only_populated_pages_that_hold_something_are_written(self) -> None:
        with Rig(ram=64 * MIB) as rig:
            rig.guest.snapshot_refusal = ""
            rig.guest.state = dict  # type: ignore[method-assign]
            bare = len(saved(rig.machine))
            rig.poke(32 * MIB, b"x" * 8192)
            assert len(saved(rig.machine)) == bare + 8192 + 16
            rig.poke(32 * MIB, bytes(8192))
            assert len(saved(rig.machine)) == bare

    def test_a_load_leaves_holes_holes(self) -> None:
        with Modelled(ram=TIB) as m:
            restore(m.machine, saved(m.machine))
            assert m.machine.memory.populated() < MIB

    def test_many_loads_leak_nothing(self) -> None:
        with Modelled() as m:
            data = saved(m.machine)
            gc.collect()
            before = len(open_descriptors())
            for _ in range(50):
                restore(m.machine, data)
                with pytest.raises(SnapshotError):
                    restore(m.machine, data[:-1] + b"?")
            assert len(open_descriptors()) == before

    def test_a_guest_with_every_number_pinned_is_saved_and_loaded(self) -> None:
        with Modelled() as m:
            for tag in range(1 << 16):
                m.guest.faults["pin"].value[tag] = 2**64 - 1
            m.guest.faults.arrange()
            restore(m.machine, saved(m.machine))
            assert len(m.machine.guest.controls.pins()) == 1 << 16


class TestRefusals:
    @pytest.fixture
    def m(self) -> Iterator[Modelled]:
        with Modelled() as m:
            yield m

    def refused(self, m: Modelled, data: bytes, words: str) -> None:
        before, identity = settled(saved(m.machine)), (id(m.machine.device), id(m.machine.guest), id(m.machine.memory))
        m.events.clear()
        with pytest.raises(SnapshotError, match=words) as caught:
            restore(m.machine, data)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 400
        assert m.events == []
        assert settled(saved(m.machine)) == before
        assert (id(m.machine.device), id(m.machine.guest), id(m.machine.memory)) == identity
        assert m.info() == "answered"

    @pytest.mark.parametrize("data", [b"", b"x", b"\x7fELF" + bytes(5000), b"QFI\xfb" + bytes(100), b"HMPSNAP\0"])
    def test_what_is_no_snapshot(self, m: Modelled, data: bytes) -> None:
        self.refused(m, data, "not a snapshot")

    def test_one_of_a_newer_version(self, m: Modelled) -> None:
        data = bytearray(saved(m.machine))
        data[8] = 3
        self.refused(m, bytes(data), "format 3 is of a newer hmp: this one reads formats 1 to 2")

    def test_one_of_another_size(self, m: Modelled) -> None:
        with Modelled(ram=256 * MIB) as other:
            self.refused(m, saved(other.machine), "of 256 MiB of memory, this machine has 512 MiB")
        with Modelled(ram=512 * MIB + 4096) as other:
            self.refused(m, saved(other.machine), "of 524292 KiB of memory, this machine has 512 MiB")

    def test_one_of_a_machine_that_was_built_without_a_balloon(self, m: Modelled) -> None:
        with Modelled(balloon=False) as bare:
            self.refused(m, saved(bare.machine), "built with a balloon device, the snapshot's without one")
            with pytest.raises(SnapshotError, match="built without a balloon device, the snapshot's with one"):
                restore(bare.machine, saved(m.machine))
            bare.machine.device_add("later")
            restore(bare.machine, saved(bare.machine))
            assert bare.device.id == "later"

    def test_a_state_that_promises_gigabytes(self, m: Modelled) -> None:
        data = bytearray(saved(m.machine))
        data[12:16] = b"\xff\xff\xff\xff"
        self.refused(m, bytes(data), "too large")

    def test_a_guest_that_cannot_be_saved(self, m: Modelled) -> None:
        class Elsewhere(HandGuest):
            snapshot_refusal = "it runs elsewhere"

        m.machine.replace_guest(Elsewhere())
        with pytest.raises(SnapshotError, match="it runs elsewhere"):
            save(m.machine, io.BytesIO())
        with pytest.raises(SnapshotError, match="it runs elsewhere"):
            load(m.machine, io.BytesIO(), make_guest)

    def test_a_guest_that_knows_nothing_of_snapshots(self) -> None:
        with Rig() as rig:
            with pytest.raises(UnsupportedError, match="cannot be saved"):
                saved(rig.machine)
            with pytest.raises(UnsupportedError, match="cannot be loaded"):
                Guest.restore(rig.guest, None)  # type: ignore[arg-type]


def test_a_summary_is_read_from_the_front_alone() -> None:
    with Modelled(ram=64 * MIB) as m:
        m.advance(2.5)
        data = saved(m.machine, "tag")
        summary: Any = summarize(io.BytesIO(data))
        assert (summary.tag, summary.ram, summary.size) == ("tag", 64 * MIB, len(data))
        assert (summary.date, summary.vm_time, summary.simulated) == (m.clock.wall(), 2_500_000_000, True)
        assert "date" in state_in(data)


def test_overdue_timers_of_a_real_clock_are_saved_as_due() -> None:
    now = [0]
    clock = Clock("real", lambda: now[0], lambda: now[0])
    machine = Machine(clock, ram=64 * MIB, guest=make_guest("slow"))
    machine.start()
    request = machine.request_stats(10 * SECOND)
    now[0] = 3 * SECOND  # and nobody has looked at the timers yet
    data = saved(machine)
    restore(machine, data)
    machine.step()
    assert request.state == "answered"
    machine.close()


def test_the_memory_that_a_loaded_one_replaces_is_given_back_at_once() -> None:
    def mapped() -> int:
        with open("/proc/self/maps") as table:
            return sum("guest-ram" in line for line in table)

    gc.collect()
    before = mapped()
    gc.disable()
    try:
        with Modelled() as m:
            m.machine.set_balloon(400 * MIB)
            m.info()
            assert mapped() == before + 1
            restore(m.machine, saved(m.machine))
            m.info()
            assert mapped() == before + 1
        assert mapped() == before
    finally:
        gc.enable()


def test_what_listens_to_a_machine_hears_the_loaded_one() -> None:
    with Modelled() as m:
        data = saved(m.machine)
        m.machine.set_balloon(100 * MIB)
        m.advance(1)
        m.events.clear()
        restore(m.machine, data)
        assert [name for name, _ in m.events] == ["STOP", "RESUME"], "QEMU tells no change of actual either"
        assert (m.device.actual, m.machine.history.recent()[-1][1]) == (512 * MIB, 512 * MIB)
        m.machine.set_balloon(200 * MIB)
        m.advance(2)
        assert m.named("BALLOON_TARGET") == [{"actual": 200 * MIB}]
        assert m.machine.history.recent()[-1][1] == 200 * MIB


def test_the_clock_is_the_machines_own() -> None:
    with Modelled() as m:
        m.advance(5)
        data = saved(m.machine)
        m.advance(5)
        restore(m.machine, data)
        assert (m.clock.now(), m.machine.vm_clock.now()) == (10 * SECOND, 5 * SECOND)
        m.advance(1)
        assert m.machine.vm_clock.now() == 6 * SECOND
        assert isinstance(m.machine.clock, SimulatedClock)
