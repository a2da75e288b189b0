"""Drivers that call back from within our interrupts, and random bytes everywhere: no exception leaves the core."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.balloon.device import WORK_AT_ONCE
from device.balloon.pages import PFN_LIMIT
from device.clock import MS, SECOND
from device.errors import RULES
from device.virtio.device import DUE_SERVE, MAX_ROUNDS
from device.virtio.spec import F_EVENT_IDX, F_INDIRECT_DESC, MIB, bit
from tests.support.rig import BUFFERS, FEATURES, RINGS, Rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as rig:
        yield rig


class TestDriversThatMisuseOurInterrupts:
    """Interrupts call into the guest, and the guest may call back whatever it likes."""

    def test_reset_and_start_anew_within_an_interrupt(self, rig: Rig) -> None:
        rig.up()

        def start_anew(_: int) -> None:
            rig.guest.on_interrupt = None
            rig.negotiate()
            rig.set_up()
            rig.go()

        rig.guest.on_interrupt = start_anew
        rig.send("inflate", [5])
        assert rig.device.live
        assert [queue.in_use for queue in rig.device.queues] == [0, 0, 0]
        assert rig.send("inflate", [6]) is not None
        assert rig.device.pages.runs() == [(6, 1)]

    def test_reset_for_ever_within_interrupts(self, rig: Rig) -> None:
        rig.up()

        def start_anew(_: int) -> None:
            rig.negotiate()
            rig.set_up()
            rig.prime(b"\0")
            rig.go()

        rig.guest.on_interrupt = start_anew
        requests = [rig.ask(SECOND) for _ in range(3)]
        rig.advance(2)
        assert {request.state for request in requests} <= {"unsupported", "timed out"}

    def test_break_the_device_again_while_its_fault_is_reported(self, rig: Rig) -> None:
        rig.up()

        def break_again() -> None:
            rig.negotiate()
            rig.set_up()
            rig.device.setup_queue(0, 128, 0, 0, 0)

        rig.guest.on_config = break_again
        rig.device.setup_queue(0, 128, 0, 0, 0)
        rig.machine.deliver()
        assert rig.refused == {"queue-live": 1 + MAX_ROUNDS, "kick-storm": 1}
        assert rig.device.broken

    def test_refill_a_ring_within_interrupts_and_others_have_their_turn(self, rig: Rig) -> None:
        """What one notification leads to is bounded; the rest is served a little later, and nothing is lost."""
        rig.up()
        sent = [0]

        def refill(_: int) -> None:
            if sent[0] < 3 * MAX_ROUNDS and rig.queues["inflate"].take() is not None:
                sent[0] += 1
                rig.queues["inflate"].add_out(BUFFERS, 4)
                rig.kick("inflate")

        rig.guest.on_interrupt = refill
        rig.poke(BUFFERS, bytes(4))
        rig.queues["inflate"].add_out(BUFFERS, 4)
        rig.kick("inflate")
        assert rig.refused["kick-storm"] == 1
        assert rig.device.live
        assert sent[0] == MAX_ROUNDS
        assert rig.machine.time.next_deadline() == rig.clock.now() + MS
        rig.advance(1)
        assert sent[0] == 3 * MAX_ROUNDS
        assert rig.device.queues[0].available() == 0

    @pytest.mark.parametrize("pfn", [0xFFFFFFFF, 0x800])
    def test_fill_a_ring_with_huge_bad_lists_that_are_served_in_turns(self, rig: Rig, pfn: int) -> None:
        """16 million bad pages after one notification: all are counted, few events report them, monitors get a turn."""
        rig.up(size=1024)
        rig.poke(8 * MIB, pfn.to_bytes(4, "little") * (PFN_LIMIT // 4))
        for _ in range(40):
            rig.queues["deflate"].add_out(8 * MIB, PFN_LIMIT)
        before = len(rig.events)
        rig.kick("deflate")
        assert rig.device.queues[1].used_idx == WORK_AT_ONCE // PFN_LIMIT
        rig.kick("deflate")
        rig.advance(1)
        assert rig.device.queues[1].used_idx == 40
        rule = "double-deflate" if pfn == 0x800 else "bad-pfn"
        assert rig.refused == {rule: 40 * PFN_LIMIT // 4}
        assert sum(data.get("times", 1) for _, data in rig.events[before:]) == 40

    def test_keep_several_queues_waiting_that_go_on_together(self, rig: Rig) -> None:
        rig.up()
        rig.poke(BUFFERS, (2000).to_bytes(4, "little"))
        for role in ("inflate", "deflate"):
            rig.queues[role].add_out(BUFFERS, 4)
        rig.device.defer(DUE_SERVE)
        rig.device.defer(2 * DUE_SERVE)
        rig.advance(0.001)
        assert [queue.used_idx for queue in rig.device.queues] == [1, 1, 0]

    def test_storm_until_a_reset_ends_it(self, rig: Rig) -> None:
        rig.up()
        rig.device.defer(7)
        rig.device.defer(1)
        assert len(rig.machine.vm_timers) == 1
        rig.device.write_status(0)
        assert len(rig.machine.vm_timers) == 0


@settings(max_examples=60)
@given(st.data())
def test_random_bytes_over_rings_raise_nothing_out_of_the_core(data: st.DataObject) -> None:
    """Whatever is in guest memory: no exception, no endless loop, at worst a broken device that a reset repairs."""
    with Rig(ram=4 * MIB) as rig:
        rig.up(
            FEATURES | bit(F_INDIRECT_DESC) | bit(data.draw(st.sampled_from([F_EVENT_IDX, F_INDIRECT_DESC]))), size=8
        )
        small = st.integers(0, 20)
        for _ in range(data.draw(st.integers(1, 5))):
            ring = rig.queues[data.draw(st.sampled_from(list(rig.queues)))]
            for index in range(8):
                address = data.draw(st.sampled_from([BUFFERS, RINGS, 4 * MIB - 8, 2**64 - 8]))
                ring.write_desc(index, address, data.draw(small) * 8, data.draw(st.integers(0, 7)), data.draw(small))
            rig.poke(BUFFERS, data.draw(st.binary(max_size=160)))
            rig.poke(ring.avail, data.draw(st.binary(max_size=22)))
            rig.poke16(ring.avail + 2, (rig.device.queues[0].last_avail + data.draw(small)) & 0xFFFF)
            rig.device.notify(data.draw(st.integers(-1, 4)))
            rig.ask(SECOND)
            rig.advance(0.5)
        assert set(rig.refused) <= set(RULES)
        assert all(0 <= queue.in_use <= queue.size for queue in rig.device.queues)
        rig.advance(5)
        assert not rig.machine.requests.pending
        rig.up()
        rig.answer_with([(4, 77)])
        assert rig.ask().state == "answered"
