"""The device side of a split ring (virtio 1.2, 2.7), driven with raw bytes in guest memory."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.errors import FATAL_RULES, GuestFault
from device.virtio.driver_queue import DriverQueue
from device.virtio.memory import GuestMemory, Memory, Region
from device.virtio.queue import VirtQueue
from device.virtio.spec import DESC_INDIRECT, DESC_NEXT, DESC_WRITE, MAX_QUEUE_SIZE
from tests.support.rig import PAIR_DATA as DATA
from tests.support.rig import PAIR_RAM as RAM
from tests.support.rig import PAIR_SIZE as SIZE
from tests.support.rig import PAIR_TABLE as TABLE
from tests.support.rig import RINGS as BASE
from tests.support.rig import Pair


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.memory.close()


def test_an_empty_ring_has_nothing_to_pop(pair: Pair) -> None:
    assert pair.queue.pop() is None
    assert pair.queue.available() == 0


def test_a_buffer_goes_there_and_back(pair: Pair) -> None:
    """The used element carries the head and the bytes written (2.7.8)."""
    pair.memory.write(DATA, b"hello")
    head = pair.driver.add([(DATA, 5)])
    assert pair.queue.available() == 1
    element = pair.pop()
    assert (element.head, element.readable(), element.read(100), element.into) == (head, 5, b"hello", ())
    assert pair.driver.take() is None
    assert pair.queue.in_use == 1
    pair.queue.push(element, 3)
    assert pair.queue.in_use == 0
    assert pair.driver.take() == (head, 3)
    assert pair.queue.used_state() == (0, 1)


@pytest.mark.parametrize(
    ("limit", "read"), [(0, b""), (1, b"a"), (3, b"abc"), (4, b"abcd"), (7, b"abcdefg"), (99, b"abcdefg")]
)
def test_a_chain_reads_as_one_up_to_a_limit(pair: Pair, limit: int, read: bytes) -> None:
    pair.memory.write(DATA, b"abc")
    pair.memory.write(DATA + 64, b"d")
    pair.memory.write(DATA + 128, b"efg")
    pair.driver.add([(DATA, 3), (DATA + 64, 1), (DATA + 128, 3)], [(DATA + 256, 9)])
    element = pair.pop()
    assert (element.readable(), element.read(limit)) == (7, read)
    assert [length for _, _, length in element.into] == [9]


def test_a_lone_writable_buffer_is_writable(pair: Pair) -> None:
    pair.driver.add([], [(DATA, 9)])
    element = pair.pop()
    assert (element.out, element.readable(), element.read(9)) == ((), 0, b"")
    assert [length for _, _, length in element.into] == [9]


def test_a_full_ring_is_served_whole(pair: Pair) -> None:
    heads = [pair.driver.add([(DATA, 4)]) for _ in range(SIZE)]
    elements = [pair.pop() for _ in range(SIZE)]
    assert pair.queue.pop() is None
    for element in reversed(elements):
        pair.queue.push(element)
    assert [pair.driver.take() for _ in range(SIZE)] == [(head, 0) for head in reversed(heads)]


class TestWhatARingCanBreak:
    """device.md, Hostile guests: each is refused under its rule, and nothing else happens."""

    @pytest.mark.parametrize("ahead", [SIZE + 1, 1000, 0x8000, 0xFFFF])
    def test_available_index_running_ahead(self, pair: Pair, ahead: int) -> None:
        pair.driver.set_avail_idx(ahead)
        assert pair.fault() == "avail-overrun"
        assert pair.queue.in_use == 0

    def test_available_index_going_back(self, pair: Pair) -> None:
        pair.driver.add([(DATA, 4)])
        pair.queue.push(pair.pop())
        pair.driver.set_avail_idx(0)
        assert pair.fault() == "avail-overrun"

    @pytest.mark.parametrize("head", [SIZE, SIZE + 1, 0xFFFF])
    def test_head_beyond_the_table(self, pair: Pair, head: int) -> None:
        pair.driver.expose(head)
        assert pair.fault() == "bad-head"

    def test_more_buffers_out_than_entries(self, pair: Pair) -> None:
        """The same heads offered again while all are out: QEMU's "Virtqueue size exceeded"."""
        for _ in range(SIZE):
            pair.driver.add([(DATA, 4)])
            pair.pop()
        pair.driver.expose(0)
        assert pair.fault() == "avail-overrun"

    @pytest.mark.parametrize(
        ("address", "length"),
        [(RAM, 4), (RAM - 1, 2), (2**64 - 1, 1), (2**64 - 2, 4), (0, 2**32 - 1), (DATA, 2**32 - 1), (2**63, 4)],
    )
    @pytest.mark.parametrize("flags", [0, DESC_WRITE, DESC_NEXT])
    def test_addresses_outside_ram(self, pair: Pair, address: int, length: int, flags: int) -> None:
        pair.desc(0, address, length, flags, 1)
        pair.desc(1)
        pair.driver.expose(0)
        assert pair.fault() == "bad-address"

    @pytest.mark.parametrize("flags", [0, DESC_WRITE, DESC_NEXT, DESC_NEXT | DESC_WRITE])
    def test_empty_buffers(self, pair: Pair, flags: int) -> None:
        pair.desc(0, DATA, 0, flags, 1)
        pair.desc(1)
        pair.driver.expose(0)
        assert pair.fault() == "zero-length"

    @pytest.mark.parametrize("links", [[0], [1, 0], [1, 2, 1], [1, 2, 3, 4, 5, 6, 7, 7], [1, 2, 3, 4, 5, 6, 7, 0]])
    def test_loops(self, pair: Pair, links: list[int]) -> None:
        for index, following in enumerate(links):
            pair.desc(index, flags=DESC_NEXT, following=following)
        pair.driver.expose(0)
        assert pair.fault() == "chain-loop"

    def test_the_longest_chain_is_no_loop(self, pair: Pair) -> None:
        pair.driver.add([(DATA, 4)] * SIZE)
        assert pair.pop().readable() == 4 * SIZE

    @pytest.mark.parametrize("following", [SIZE, 0xFFFF])
    def test_next_beyond_the_table(self, pair: Pair, following: int) -> None:
        pair.desc(0, flags=DESC_NEXT, following=following)
        pair.driver.expose(0)
        assert pair.fault() == "bad-head"

    def test_readable_behind_writable(self, pair: Pair) -> None:
        """2.7.4.2: device-writable descriptors come after the readable ones."""
        pair.desc(0, flags=DESC_WRITE | DESC_NEXT, following=1)
        pair.desc(1)
        pair.driver.expose(0)
        assert pair.fault() == "direction"


class TestIndirectTables:
    """2.7.5.3."""

    @pytest.mark.parametrize("flags", [DESC_INDIRECT, DESC_INDIRECT | DESC_WRITE])
    def test_hold_a_chain(self, pair: Pair, flags: int) -> None:
        """The write flag of the descriptor that refers to a table is ignored (2.7.5.3.2)."""
        pair.memory.write(DATA, b"abcdef")
        length = pair.table(
            (DATA, 2, DESC_NEXT, 2), (0, 0, 0, 0), (DATA + 2, 4, DESC_NEXT, 3), (DATA + 64, 8, DESC_WRITE, 0)
        )
        pair.desc(0, TABLE, length, flags)
        pair.driver.expose(0)
        element = pair.pop()
        assert (element.head, element.read(9), len(element.into)) == (0, b"abcdef", 1)

    def test_may_follow_chained_descriptors(self, pair: Pair) -> None:
        """A device must handle normal descriptors followed by a single indirect one (2.7.5.3.2)."""
        pair.memory.write(DATA, b"abcdef")
        pair.desc(0, DATA, 2, DESC_NEXT, 1)
        pair.desc(1, TABLE, pair.table((DATA + 2, 4, 0, 0)), DESC_INDIRECT)
        pair.driver.expose(0)
        assert pair.pop().read(9) == b"abcdef"

    def test_a_chain_and_its_table_together_are_no_longer_than_the_queue(self, pair: Pair) -> None:
        full = [(DATA, 1, DESC_NEXT, n + 1) for n in range(SIZE - 1)] + [(DATA, 1, 0, 0)]
        pair.desc(0, TABLE, pair.table(*full), DESC_INDIRECT)
        pair.driver.expose(0)
        assert pair.pop().readable() == SIZE
        pair.desc(1, DATA, 1, DESC_NEXT, 0)
        pair.driver.expose(1)
        assert pair.fault() == "chain-loop"

    def test_a_loop_in_a_table_ends(self, pair: Pair) -> None:
        pair.desc(0, TABLE, pair.table((DATA, 1, DESC_NEXT, 1), (DATA, 1, DESC_NEXT, 0)), DESC_INDIRECT)
        pair.driver.expose(0)
        assert pair.fault() == "chain-loop"

    @pytest.mark.parametrize(
        ("length", "rule"),
        [
            (0, "bad-indirect"),
            (15, "bad-indirect"),
            (17, "bad-indirect"),
            (16 * (SIZE + 1), "bad-indirect"),
            (2**32 - 16, "bad-indirect"),
        ],
    )
    def test_of_a_bad_length(self, pair: Pair, length: int, rule: str) -> None:
        pair.desc(0, TABLE, length, DESC_INDIRECT)
        pair.driver.expose(0)
        assert pair.fault() == rule

    @pytest.mark.parametrize(
        ("address", "rule"),
        [(RAM, "bad-address"), (2**64 - 16, "bad-address"), (RAM - 16, "bad-address")],
    )
    def test_at_a_bad_address(self, pair: Pair, address: int, rule: str) -> None:
        pair.desc(0, address, 32, DESC_INDIRECT)
        pair.driver.expose(0)
        assert pair.fault() == rule

    @pytest.mark.parametrize("odd", range(1, 17))
    def test_at_any_alignment(self, pair: Pair, odd: int) -> None:
        """2.7.5.3 asks nothing of the address of a table; only the queue's own table has to be aligned."""
        size = pair.table((DATA, 3, DESC_NEXT, 1), (DATA + 8, 4, 0, 0), at=TABLE + odd)
        pair.desc(0, TABLE + odd, size, DESC_INDIRECT)
        pair.driver.expose(0)
        assert pair.pop().readable() == 7

    def test_inside_a_table(self, pair: Pair) -> None:
        pair.desc(0, TABLE, pair.table((TABLE, 16, DESC_INDIRECT, 0)), DESC_INDIRECT)
        pair.driver.expose(0)
        assert pair.fault() == "bad-indirect"

    def test_with_a_next(self, pair: Pair) -> None:
        pair.desc(0, TABLE, pair.table((DATA, 1, 0, 0)), DESC_INDIRECT | DESC_NEXT, 1)
        pair.driver.expose(0)
        assert pair.fault() == "bad-indirect"

    def test_with_a_next_beyond_the_table(self, pair: Pair) -> None:
        pair.desc(0, TABLE, pair.table((DATA, 1, DESC_NEXT, 2), (DATA, 1, 0, 0)), DESC_INDIRECT)
        pair.driver.expose(0)
        assert pair.fault() == "bad-head"

    def test_that_were_not_negotiated(self) -> None:
        pair = Pair(indirect=False)
        pair.desc(0, TABLE, pair.table((DATA, 1, 0, 0)), DESC_INDIRECT)
        pair.driver.expose(0)
        assert pair.fault() == "bad-indirect"
        pair.memory.close()


class TestSetUp:
    """2.7: sizes and alignment, checked when the queue goes live."""

    @pytest.mark.parametrize("size", [0, 3, 5, 100, -1, -8, MAX_QUEUE_SIZE * 2, 1 << 40])
    def test_a_size_is_a_power_of_two_in_range(self, size: int) -> None:
        self._refused(size, BASE, BASE + 0x8000, BASE + 0xC000)

    @pytest.mark.parametrize(
        ("desc", "avail", "used"),
        [
            (BASE + 8, 0x3000, 0x4000),
            (BASE, 0x3001, 0x4000),
            (BASE, 0x3000, 0x4002),
            (RAM - 64, 0x3000, 0x4000),
            (BASE, RAM - 2, 0x4000),
            (BASE, 0x3000, RAM - 8),
            (-16, 0x3000, 0x4000),
            (2**64 - 16, 0x3000, 0x4000),
            (BASE, 2**64 - 2, 0x4000),
            (BASE, 0x3000, 2**70),
        ],
    )
    def test_rings_are_aligned_and_inside_ram(self, desc: int, avail: int, used: int) -> None:
        self._refused(SIZE, desc, avail, used)

    @staticmethod
    def _refused(size: int, desc: int, avail: int, used: int) -> None:
        memory, queue = GuestMemory(RAM), VirtQueue(0, SIZE)
        queue.configure(size, desc, avail, used)
        with pytest.raises(GuestFault) as caught:
            queue.start(memory, event_idx=True, indirect=True)
        assert caught.value.rule == "bad-ring"
        assert not queue.enabled
        assert queue.pop() is None
        memory.close()

    def test_alignment_holds_in_a_region_that_starts_anywhere(self) -> None:
        even, odd = (Region(base, 4096, mmap.mmap(-1, 4096)) for base in (0, 0x40008))
        memory, queue, driver = Memory([even, odd]), VirtQueue(0, SIZE), DriverQueue(even, 0, SIZE)
        queue.configure(SIZE, 0x40010, driver.avail, driver.used)
        with pytest.raises(GuestFault) as caught:
            queue.start(memory, event_idx=False, indirect=True)
        assert caught.value.rule == "bad-ring"
        memory.close()

    def test_a_table_may_stand_in_a_region_that_starts_anywhere(self) -> None:
        even, odd = (Region(base, 4096, mmap.mmap(-1, 4096)) for base in (0, 0x40009))
        memory, queue, driver = Memory([even, odd]), VirtQueue(0, SIZE), DriverQueue(even, 0, SIZE)
        memory.write(0x40010, (0x800).to_bytes(8, "little") + (5).to_bytes(8, "little"))
        driver.write_desc(0, 0x40010, 16, DESC_INDIRECT, 0)
        driver.expose(0)
        queue.configure(SIZE, 0, driver.avail, driver.used)
        queue.start(memory, event_idx=False, indirect=True)
        element = queue.pop()
        assert element is not None
        assert element.readable() == 5
        memory.close()

    def test_a_live_queue_does_not_move(self, pair: Pair) -> None:
        with pytest.raises(GuestFault) as caught:
            pair.queue.configure(SIZE, 0, 0, 0)
        assert caught.value.rule == "queue-live"
        assert pair.queue.desc == BASE

    def test_a_stopped_or_cleared_queue_does_nothing(self, pair: Pair) -> None:
        pair.driver.add([(DATA, 4)])
        element = pair.pop()
        pair.queue.stop()
        assert (pair.queue.last_avail, pair.queue.desc, pair.queue.in_use) == (1, BASE, 1)
        for _ in range(2):
            assert pair.queue.pop() is None
            assert pair.queue.available() == 0
            assert not pair.queue.wants_interrupt()
            assert pair.queue.used_state() == (0, 0)
            pair.queue.push(element)
            with pytest.raises(GuestFault):
                pair.queue.peek(0)
            pair.queue.clear()
        assert pair.driver.take() is None
        assert (pair.queue.last_avail, pair.queue.desc, pair.queue.in_use) == (0, 0, 0)

    def test_a_buffer_of_the_ring_before_a_restart_is_not_returned_to_the_new_one(self, pair: Pair) -> None:
        pair.driver.add([(DATA, 4)])
        element = pair.pop()
        pair.queue.clear()
        pair.queue.configure(SIZE, pair.driver.desc, pair.driver.avail, pair.driver.used)
        pair.queue.start(pair.memory, event_idx=False, indirect=False, last_avail=1)
        pair.queue.push(element)
        assert (pair.queue.in_use, pair.queue.used_idx, pair.driver.take()) == (0, 0, None)


def test_peeking_shows_a_slot_and_takes_nothing(pair: Pair) -> None:
    head = pair.driver.add([], [(DATA, 9)])
    pair.poke16(pair.driver.avail, 1)
    assert pair.queue.peek(0) == (head, DATA, 9, DESC_WRITE, 1, 1)
    assert pair.queue.peek(-SIZE) == pair.queue.peek(SIZE * 1000) == pair.queue.peek(0)
    pair.poke16(pair.driver.avail + 4, 0xFFFF)
    assert pair.queue.peek(0)[0] == 0xFFFF % SIZE
    assert pair.queue.last_avail == 0


words = st.integers(0, 0xFFFF) | st.integers(0, 2 * SIZE)
descriptors = st.tuples(
    st.integers(0, 2**64 - 1) | st.sampled_from([DATA, TABLE, BASE, RAM - 4, 0]),
    st.integers(0, 2**32 - 1) | st.integers(0, 64),
    st.integers(0, 0xFFFF) | st.integers(0, 7),
    words,
)


@settings(max_examples=100)
@given(
    st.lists(descriptors, min_size=SIZE, max_size=SIZE),
    st.lists(descriptors, max_size=SIZE),
    st.lists(words, min_size=SIZE + 3, max_size=SIZE + 3),
    st.booleans(),
)
def test_random_rings_end_in_a_rule_or_a_bounded_buffer(
    table: list[tuple[int, int, int, int]], indirect: list[tuple[int, int, int, int]], avail: list[int], event_idx: bool
) -> None:
    pair = Pair(event_idx=event_idx)
    pair.table(*indirect)
    pair.table(*table, at=BASE)
    pair.memory.write(pair.driver.avail, b"".join(word.to_bytes(2, "little") for word in avail))
    try:
        for _ in range(SIZE + 1):
            element = pair.queue.pop()
            if element is None:
                break
            assert len(element.out) + len(element.into) <= SIZE
            assert element.readable() <= SIZE * RAM
            assert len(element.read(640)) <= 640
            pair.queue.push(element)
        else:
            pytest.fail("more buffers than entries")
    except GuestFault as fault:
        assert fault.rule in FATAL_RULES  # noqa: PT017 - a fault is one of the outcomes
    assert 0 <= pair.queue.in_use <= SIZE
    pair.memory.close()
