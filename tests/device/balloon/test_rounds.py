"""How much of a queue is served at a time, what happens to the rest, and what is left after a reset and a fault."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator

import pytest

from device.balloon.device import BUFFERS_AT_ONCE, WORK_AT_ONCE
from device.balloon.pages import PFN_LIMIT
from device.balloon.spec import CONFIG_POISON_VAL, F_PAGE_POISON
from device.errors import GuestFault, MisuseError
from device.virtio.device import DUE_SERVE, MAX_ROUNDS
from device.virtio.memory import Memory, Region
from device.virtio.queue import VirtQueue
from device.virtio.spec import MIB, PAGE_SIZE, STATUS_DRIVER_OK, STATUS_NEEDS_RESET, U32, bit
from tests.support.rig import BUFFERS, FEATURES, READY, RINGS, Modelled, Rig

ALL = READY | STATUS_DRIVER_OK


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as rig:
        yield rig


def put(rig: Rig, role: str, count: int, size: int = 4) -> None:
    """Make `count` page lists of `size` bytes available, of pages 0, 1, 2... each, without a notification."""
    rig.poke(BUFFERS, b"".join(page.to_bytes(4, "little") for page in range(size // 4)))
    for _ in range(count):
        rig.queues[role].add_out(BUFFERS, size)


class TestBuffers:
    def test_a_round_serves_so_many_and_interrupts_once(self, rig: Rig) -> None:
        rig.up(size=1024)
        put(rig, "deflate", 1000)
        served = []
        rig.guest.on_interrupt = lambda index: served.append(rig.device.queues[index].used_idx)
        rig.kick("deflate")
        assert served == [BUFFERS_AT_ONCE, 1000]
        assert rig.refused == {"double-deflate": 1000}

    def test_exactly_as_many_as_a_round_has_are_one_interrupt(self, rig: Rig) -> None:
        rig.up(size=1024)
        put(rig, "deflate", BUFFERS_AT_ONCE)
        rig.kick("deflate")
        assert rig.guest.interrupts == [1]

    def test_an_empty_queue_interrupts_nobody(self, rig: Rig) -> None:
        rig.up()
        rig.kick("inflate")
        assert (rig.guest.interrupts, rig.device.isr) == ([], 0)

    def test_long_lists_wait_for_their_turn(self, rig: Rig) -> None:
        """Each scattered page costs a system call, so after a number of bytes of lists it is the turn of the monitors."""
        lists = WORK_AT_ONCE // PFN_LIMIT
        rig.up(size=1024)
        put(rig, "deflate", 2 * lists + 1, PFN_LIMIT)
        used = []
        rig.kick("deflate")
        for _ in range(4):
            used.append(rig.device.queues[1].used_idx)
            rig.advance(0.001)
        assert used == [lists, 2 * lists, 2 * lists, 2 * lists + 1]
        assert rig.refused["double-deflate"] == (2 * lists + 1) * PFN_LIMIT // 4

    def test_the_longest_list_is_read_whole_and_one_longer_in_part(self, rig: Rig) -> None:
        rig.up()
        rig.send("deflate", bytes(PFN_LIMIT))
        assert rig.refused == {"double-deflate": PFN_LIMIT // 4}
        rig.send("deflate", bytes(PFN_LIMIT + 4))
        assert rig.refused == {"double-deflate": 2 * (PFN_LIMIT // 4), "huge-buffer": 1}

    def test_pages_twice_are_counted_over_all_runs_of_a_list(self, rig: Rig) -> None:
        rig.up()
        rig.send("inflate", [5, 100, 200])
        rig.send("inflate", [5, 100, 201])
        assert rig.refused == {"double-inflate": 2}
        rig.send("deflate", [7, 100, 900])
        assert rig.refused == {"double-inflate": 2, "double-deflate": 2}
        assert sorted(page for page in range(300) if page in rig.device.pages) == [5, 200, 201]


class TestKicks:
    def test_that_come_within_an_interrupt_are_served_in_their_turn(self, rig: Rig) -> None:
        rig.up()
        order: list[int] = []

        def more(index: int) -> None:
            order.append(index)
            if order == [0]:
                for role in ("stats", "deflate", "inflate"):
                    if role == "stats":
                        rig.report([(4, 7)])
                    else:
                        put(rig, role, 1)
                        rig.kick(role)
                    assert order == [0], "nothing is served while somebody is told"

        rig.guest.on_interrupt = more
        put(rig, "inflate", 1)
        rig.kick("inflate")
        assert order == [0, 0, 1, 2]

    def test_one_that_comes_while_a_long_row_of_statistics_is_looked_at_is_not_lost(self, rig: Rig) -> None:
        rig.up(prime=None)

        def more(index: int) -> None:
            if index == 2 and rig.device.queues[1].used_idx == 0:
                put(rig, "deflate", 1)
                rig.kick("deflate")

        rig.guest.on_interrupt = more
        for _ in range(20):
            rig.prime(b"\4\0" + bytes(8))
        rig.kick("stats")
        assert (rig.device.queues[1].used_idx, rig.device.queues[2].available()) == (1, 0)

    def test_a_storm_is_cut_off_and_what_is_left_is_served_later(self, rig: Rig) -> None:
        rig.up()
        turns = [0, 0]

        def again(index: int) -> None:
            turns[index] += 1
            if sum(turns) < MAX_ROUNDS + 10:
                rig.queues["inflate" if index == 0 else "deflate"].take()
                put(rig, "deflate" if index == 0 else "inflate", 1)
                rig.kick("deflate" if index == 0 else "inflate")

        rig.guest.on_interrupt = again
        put(rig, "inflate", 1)
        rig.kick("inflate")
        assert sum(turns) == MAX_ROUNDS
        assert rig.refused == {"kick-storm": 1}
        assert rig.device.live
        rig.advance(0.001)
        assert sum(turns) == MAX_ROUNDS + 10

    def test_those_that_waited_are_not_served_after_their_queue_is_gone(self, rig: Rig) -> None:
        rig.up()
        put(rig, "inflate", 1)
        rig.device.defer(0b111 * DUE_SERVE)
        rig.device.queues[0].stop()
        rig.advance(0.1)
        assert (rig.refused, rig.device.pages.count) == ({}, 0)

    def test_only_those_that_waited_are_served(self, rig: Rig) -> None:
        rig.up()
        put(rig, "inflate", 1)
        put(rig, "deflate", 1)
        rig.device.defer(DUE_SERVE)
        rig.advance(0.1)
        assert rig.guest.interrupts == [0]
        rig.device.defer(2 * DUE_SERVE)
        rig.advance(0.1)
        assert rig.guest.interrupts == [0, 1]

    def test_a_woken_device_serves_what_is_available_and_no_other(self, rig: Rig) -> None:
        rig.up()
        rig.device.wake()
        assert len(rig.machine.vm_timers) == 0
        put(rig, "deflate", 1)
        rig.device.wake()
        rig.advance(0.1)
        assert rig.guest.interrupts == [1]


class TestAfterwards:
    def test_a_fault_adds_its_bit_to_the_status(self, rig: Rig) -> None:
        rig.up()
        rig.device.refuse("bad-head", "for example")
        assert rig.device.status == ALL | STATUS_NEEDS_RESET
        assert rig.device.isr == 2
        rig.machine.deliver()
        assert rig.guest.config_changes == 1
        rig.device.refuse("bad-head", "again")
        rig.machine.deliver()
        assert rig.guest.config_changes == 1, "it was told"

    def test_a_reset_leaves_counters_and_the_target_only(self, rig: Rig) -> None:
        rig.up(FEATURES | bit(F_PAGE_POISON))
        rig.device.write_config(CONFIG_POISON_VAL, b"\1\0\0\0")
        rig.send("inflate", [5])
        rig.machine.set_balloon(8 * MIB)
        assert (rig.device.isr, rig.device.poison_val) == (3, 1)
        rig.device.write_status(0)
        device = rig.device
        assert (device.status, device.features, device.isr, device.live) == (0, 0, 0, False)
        assert (device.poison_val, device.pages.count, device.target) == (0, 0, 8 * MIB)
        rig.device.write_config(0, bytes(4))
        assert rig.refused == {"config-write": 1}
        assert [queue.enabled for queue in device.queues] == [False] * 3
        assert [(queue.size, queue.desc, queue.last_avail, queue.used_idx) for queue in device.queues] == [
            (128, 0, 0, 0)
        ] * 3

    def test_a_new_device_knows_nothing(self, rig: Rig) -> None:
        device = rig.device
        assert (device.live, device.broken, device.status, device.features) == (False, False, 0, 0)
        assert (device.poison_val, device.gone, device.isr, device.last_refusal) == (0, False, 0, "")
        assert (device.stats.poll_interval, device.stats.held, device.stats.out) == (0, None, False)
        assert (device.stats.index, device.stats.sample) == (-1, None)
        rig.negotiate()
        rig.set_up()
        rig.go()
        rig.ask()
        assert rig.guest.interrupts == [], "no buffer is out that could be asked for again"

    def test_a_queue_goes_on_where_its_driver_says(self, rig: Rig) -> None:
        rig.negotiate()
        rig.device.setup_queue(0, 128, RINGS, RINGS + 0x1000, RINGS + 0x2000, last_avail=0x1_0007)
        assert rig.device.queues[0].last_avail == 7

    def test_a_parked_queue_says_where_it_was(self, rig: Rig) -> None:
        rig.up()
        put(rig, "inflate", 3)
        rig.kick("inflate")
        rig.report([(4, 1)])
        assert rig.device.stats.held is not None
        assert [rig.device.park_queue(index) for index in range(3)] == [3, 0, 1]
        assert (rig.device.stats.held, rig.device.stats.out) == (None, False)
        assert [queue.enabled for queue in rig.device.queues] == [False] * 3

    def test_a_buffer_that_was_out_when_its_queue_was_parked_is_not_asked_for_again(self, rig: Rig) -> None:
        rig.up()
        rig.ask()
        assert rig.device.stats.out
        rig.device.park_queue(2)
        rig.guest.interrupts.clear()
        rig.device.stats.ask()
        assert (rig.device.stats.out, rig.guest.interrupts) == (False, [])

    def test_a_queue_that_is_set_up_goes_on_behind_what_was_used(self, rig: Rig) -> None:
        rig.negotiate()
        rig.poke16(RINGS + 0x2002, 9)
        rig.device.setup_queue(0, 128, RINGS, RINGS + 0x1000, RINGS + 0x2000)
        queue = rig.device.queues[0]
        assert (queue.used_idx, queue.signalled, queue.signalled_valid, queue.in_use) == (9, 9, False, 0)
        assert queue.used_state() == (0, 9)
        assert queue.available() == 0
        rig.poke16(RINGS + 0x1002, 3)
        assert queue.available() == 3

    def test_a_device_that_was_taken_off_is_dead(self, rig: Rig) -> None:
        rig.up()
        device = rig.device
        device.stats.set_poll_interval(5)
        rig.machine.device_del("balloon0")
        rig.machine.driver_released()
        assert rig.machine.device is None
        assert (device.gone, device.live) == (True, False)
        assert (device.stats.poll_interval, len(rig.machine.vm_timers)) == (0, 0)
        assert not any(queue.enabled for queue in device.queues)


class TestConfiguration:
    @pytest.mark.parametrize("offset", range(18))
    @pytest.mark.parametrize("size", [0, 1, 4, 16, 17, 1 << 40])
    def test_reads_are_of_16_bytes_and_zeros_behind(self, rig: Rig, offset: int, size: int) -> None:
        rig.up()
        rig.machine.set_balloon(8 * MIB)
        rig.write_actual(0x345)
        whole = (2048).to_bytes(4, "little") + (0x345).to_bytes(4, "little") + bytes(8)
        assert rig.device.config_bytes() == whole
        assert rig.device.read_config(offset, size) == (whole + bytes(40))[offset : offset + min(size, 16)]

    def test_sizes_beyond_32_bits_of_pages_are_cut(self, rig: Rig) -> None:
        rig.device.num_pages = rig.device.actual_pages = U32 + 5
        assert rig.device.read_config(0, 8) == b"\xff" * 8

    def test_a_poison_value_is_written_whole(self, rig: Rig) -> None:
        rig.up(FEATURES | bit(F_PAGE_POISON))
        rig.device.write_config(CONFIG_POISON_VAL - 1, b"\1\1\1\1")
        rig.device.write_config(CONFIG_POISON_VAL, b"\1\1")
        assert (rig.device.poison_val, rig.refused) == (0, {"config-write": 2})

    def test_the_same_actual_again_is_no_news(self, rig: Rig) -> None:
        rig.up()
        for pages in (3, 3, 0, 0):
            rig.write_actual(pages)
        assert [data["actual"] for data in rig.named("BALLOON_CHANGE")] == [16 * MIB - 3 * PAGE_SIZE, 16 * MIB]


def test_the_longest_interval_and_one_longer(rig: Rig) -> None:
    stats = rig.device.stats
    stats.set_poll_interval(U32)
    assert stats.poll_interval == U32
    for seconds, words in ((U32 + 1, "timer value is too big"), (-1, "timer value must be greater than zero")):
        with pytest.raises(MisuseError) as caught:
            stats.set_poll_interval(seconds)
        assert str(caught.value) == words
        assert stats.poll_interval == U32


def test_a_poll_of_a_guest_that_never_primed_its_queue_comes_again() -> None:
    with Modelled("silent") as m:
        m.device.stats.set_poll_interval(5)
        for _ in range(3):
            m.advance(5)
            due = m.machine.vm_timers.next_due()
            assert due is not None
            assert 0 < due - m.machine.vm_clock.now() <= 5_000_000_000


def test_rings_may_lie_in_different_regions() -> None:
    """As with a front end's memory table: one ring must not be read through the views of the other."""
    low, high = (Region(base, 0x4000, mmap.mmap(-1, 0x4000)) for base in (0, 0x10_0000))
    queue = VirtQueue(0, 8)
    queue.configure(8, 0x100, 0x200, 0x10_0300)
    for number in range(8):
        low.u64[0x100 + 16 * number >> 3] = 0x1000 + number
        low.u32[(0x100 + 16 * number >> 2) + 2] = 4
    low.u16[0x200 >> 1 : (0x200 >> 1) + 5] = memoryview(struct.pack("<5H", 1, 3, 5, 6, 7)).cast("H")
    high.u16[0x300 >> 1], high.u16[(0x300 >> 1) + 1] = 1, 2
    queue.start(Memory([low, high]), event_idx=False, indirect=False)
    assert (queue.available(), queue.used_state()) == (3, (1, 2))
    assert queue.peek(1) == (6, 0x1006, 4, 0, 1, 3)
    for left in (2, 1, 0):
        element = queue.pop()
        assert element is not None
        assert (element.head, element.out) == (7 - left, ((low, 0x1007 - left, 4),))
        assert (queue.available(), queue.more) == (left, left > 0)
        queue.push(element, 9)
        assert high.u32[(0x304 >> 2) + 2 * (4 - left)] == element.head
        assert high.u32[(0x304 >> 2) + 2 * (4 - left) + 1] == 9
    assert (queue.used_state(), queue.in_use) == ((1, 5), 0)
    assert not queue.wants_interrupt(), "its driver said so"
    low.u16[0x200 >> 1] = 0
    assert queue.wants_interrupt()


@pytest.mark.parametrize(
    ("base", "avail", "used"),
    [(0x10_0001, 0x10_0200, 0x300), (0x10_0002, 0x200, 0x10_0300)],
    ids=["available ring", "used ring"],
)
def test_a_ring_is_aligned_in_its_region_too(base: int, avail: int, used: int) -> None:
    """Its words are read through views of the region, wherever that starts in the guest."""
    queue = VirtQueue(0, 8)
    queue.configure(8, 0x100, avail, used)
    memory = Memory([Region(start, 0x4000, mmap.mmap(-1, 0x4000)) for start in (0, base)])
    with pytest.raises(GuestFault) as caught:
        queue.start(memory, event_idx=False, indirect=False)
    assert str(caught.value) == "bad-ring: queue 0: misaligned in its region"
    assert not queue.enabled
