"""The driver side of a split ring: layout (virtio 1.2, 2.7.2), free list, notifications, saved state."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import pytest

from device.fields import Fields
from device.state import load, save
from device.virtio.driver_queue import DriverQueue, ring_bytes
from device.virtio.memory import GuestMemory, Region
from device.virtio.spec import DESC_NEXT, DESC_WRITE, MIB, PAGE_SIZE, QUEUE_SIZE

BASE = 0x2000
SIZE = 4


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory(4 * MIB)
    memory.write(0, b"\xee" * 0x8000)
    yield memory
    memory.close()


def queue(memory: GuestMemory, **options: bool) -> DriverQueue:
    return DriverQueue(memory.regions[0], BASE, SIZE, **options)


def put_used(memory: GuestMemory, ring: DriverQueue, index: int, head: int, length: int) -> None:
    """Return a buffer as the device does."""
    memory.write(ring.used + 4 + 8 * (index % SIZE), head.to_bytes(4, "little") + length.to_bytes(4, "little"))
    memory.write(ring.used + 2, (index + 1).to_bytes(2, "little"))


def test_the_rings_lie_one_behind_the_other_aligned_and_zeroed(memory: GuestMemory) -> None:
    ring = queue(memory)
    assert (ring.desc, ring.avail) == (BASE, BASE + 16 * SIZE)
    assert ring.used % 4 == 0
    assert ring.used >= ring.avail + 6 + 2 * SIZE
    end = ring.used + 6 + 8 * SIZE
    assert memory.read(BASE, end - BASE) == bytes(end - BASE)
    assert memory.read(BASE - 1, 1) == memory.read(end, 1) == b"\xee"


@pytest.mark.parametrize("size", [1, 2, 4, 128, 256, 1024])
def test_a_ring_fits_the_bytes_it_says(memory: GuestMemory, size: int) -> None:
    ring = DriverQueue(memory.regions[0], BASE, size)
    needed = ring_bytes(size)
    assert needed % PAGE_SIZE == 0
    assert 0 <= needed - (ring.used + 6 + 8 * size - BASE) < PAGE_SIZE
    assert ring_bytes(QUEUE_SIZE) == PAGE_SIZE


@pytest.mark.parametrize(
    ("size", "avail", "used", "needed"),
    [
        (1, 16, 24, 4096),
        (2, 32, 44, 4096),
        (4, 64, 80, 4096),
        (128, 2048, 2312, 4096),
        (256, 4096, 4616, 8192),
        (1024, 16384, 18440, 28672),
    ],
)
def test_where_the_rings_of_a_size_lie(memory: GuestMemory, size: int, avail: int, used: int, needed: int) -> None:
    """The available ring has 6 bytes besides its entries and the used ring starts at the next multiple of 4."""
    ring = DriverQueue(memory.regions[0], BASE, size)
    assert (ring.avail - BASE, ring.used - BASE, ring_bytes(size)) == (avail, used, needed)


def test_a_ring_lies_at_guest_addresses_in_a_region_that_starts_elsewhere() -> None:
    region = Region(0x10_0000, 0x2000, mmap.mmap(-1, 0x2000))
    ring = DriverQueue(region, 0x10_1000, SIZE)
    assert ring.add_out(0xABC, 5) == 0
    assert ring.add([(0xDEF, 6)]) == 1
    assert region.u8[0x1000:0x1020] == b"\xbc\x0a" + bytes(6) + b"\5" + bytes(7) + b"\xef\x0d" + bytes(
        6
    ) + b"\6" + bytes(7)
    avail = ring.avail - 0x10_0000
    assert region.u8[avail : avail + 8] == b"\0\0\2\0\0\0\1\0"
    used = ring.used - 0x10_0000
    region.u8[used + 2 : used + 12] = b"\1\0" + b"\1\0\0\0" + b"\7\0\0\0"
    assert ring.take() == (1, 7)
    assert ring.should_notify()
    region.close()


def test_indices_wrap_at_16_bits(memory: GuestMemory) -> None:
    ring = queue(memory, event_idx=True, keep=True)
    load(ring, Fields({"last_used": 0xFFFA, "notified": 0, "avail_idx": 0xFFFA, "free": [3, 2, 1, 0]}, "ring"))
    memory.write(ring.used + 2, b"\xfa\xff")
    for turn in range(0xFFFA, 0x10006):
        head = ring.add_out(turn, 1)
        assert memory.read(ring.avail + 4 + 2 * (turn % SIZE), 2) == head.to_bytes(2, "little")
        assert memory.read(ring.avail + 2, 2) == ((turn + 1) & 0xFFFF).to_bytes(2, "little")
        memory.write(ring.used + 4 + 8 * (turn % SIZE), head.to_bytes(4, "little") + bytes(4))
        memory.write(ring.used + 2, ((turn + 1) & 0xFFFF).to_bytes(2, "little"))
        assert ring.take() == (head, 0)
        assert ring.take() is None


def test_a_damaged_chain_frees_no_more_than_there_are(memory: GuestMemory) -> None:
    ring = queue(memory)
    ring.add([(0, 1)] * 3)
    ring.write_desc(1, 0, 1, DESC_NEXT, SIZE)  # points out of the table
    put_used(memory, ring, 0, 0, 0)
    assert ring.take() == (0, 0)
    assert sorted(ring.free) == [0, 1, 3]
    ring = queue(memory)
    ring.add([(0, 1)] * 2)
    ring.write_desc(1, 0, 1, DESC_NEXT, 0)  # goes in circles
    put_used(memory, ring, 0, 0, 0)
    assert ring.take() == (0, 0)
    assert len(ring.free) == SIZE
    put_used(memory, ring, 1, 500, 9)  # names a descriptor that does not exist
    assert ring.take() == (500, 9)
    assert len(ring.free) == SIZE


def test_a_chain_is_written_as_the_spec_says(memory: GuestMemory) -> None:
    ring = queue(memory)
    head = ring.add([(0x100, 1), (0x200, 2)], [(0x300, 3)])
    assert head == 0
    raw = memory.read(BASE, 48)
    entries = [
        tuple(int.from_bytes(raw[at + a : at + b], "little") for a, b in ((0, 8), (8, 12), (12, 14), (14, 16)))
        for at in (0, 16, 32)
    ]
    assert entries == [(0x100, 1, DESC_NEXT, 1), (0x200, 2, DESC_NEXT, 2), (0x300, 3, DESC_WRITE, 0)]
    assert memory.read(ring.avail, 6) == b"\0\0\1\0\0\0"


def test_a_full_ring_takes_no_more_and_keeps_what_it_has(memory: GuestMemory) -> None:
    ring = queue(memory)
    ring.add([(0, 1)] * 3)
    with pytest.raises(IndexError):
        ring.add([(0, 1)] * 2)
    assert (ring.avail_idx, len(ring.free)) == (1, 1)
    ring.add_out(0, 1)
    with pytest.raises(IndexError):
        ring.add_out(0, 1)


def test_a_returned_chain_is_free_again(memory: GuestMemory) -> None:
    ring = queue(memory)
    head = ring.add([(0, 1)] * 3)
    assert ring.take() is None
    put_used(memory, ring, 0, head, 77)
    assert ring.take() == (head, 77)
    assert ring.take() is None
    assert sorted(ring.free) == [0, 1, 2, 3]


def test_the_device_may_ask_for_silence_by_flag(memory: GuestMemory) -> None:
    ring = queue(memory)
    assert ring.should_notify()
    memory.write(ring.used, b"\1\0")
    assert not ring.should_notify()


def test_the_device_may_ask_for_silence_until_an_index(memory: GuestMemory) -> None:
    """EVENT_IDX: notify only when the index that the device wrote is crossed (2.7.10)."""
    ring = queue(memory, event_idx=True)
    avail_event = ring.used + 4 + 8 * SIZE
    memory.write(avail_event, b"\1\0")
    told = []
    for _ in range(4):
        ring.add_out(0, 1)
        told.append(ring.should_notify())
    assert told == [False, True, False, False]
    memory.write(avail_event, b"\0\0")
    assert not ring.should_notify()


def test_taking_a_buffer_asks_for_an_interrupt_of_the_next(memory: GuestMemory) -> None:
    ring = queue(memory, event_idx=True)
    head = ring.add_out(0, 1)
    put_used(memory, ring, 0, head, 0)
    ring.take()
    assert memory.read(ring.avail + 4 + 2 * SIZE, 2) == b"\1\0"


def test_a_broken_index_is_written_as_given(memory: GuestMemory) -> None:
    ring = queue(memory)
    ring.set_avail_idx(0x1FFFF)
    assert memory.read(ring.avail + 2, 2) == b"\xff\xff"


def test_its_state_is_plain_and_what_the_guest_itself_remembers(memory: GuestMemory) -> None:
    ring = queue(memory, event_idx=True)
    ring.add_out(0, 1)
    ring.should_notify()
    assert save(ring, 0) == {"last_used": 0, "notified": 1, "avail_idx": 1, "free": [3, 2, 1]}
