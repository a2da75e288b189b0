"""Guest memory: every address is checked, pages really go back to the host, nothing leaks."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.errors import GuestFault, MisuseError
from device.virtio.memory import GuestMemory, Memory, Region
from device.virtio.spec import MAX_RAM, MIB, MIN_RAM, PAGE_SIZE
from tests.support.descriptors import open_descriptors
from tests.support.lacking import TAKE

SIZE = 4 * MIB


@pytest.fixture(scope="module")
def memory() -> GuestMemory:
    return GuestMemory(SIZE)


@pytest.mark.parametrize(
    ("address", "length"),
    [
        (SIZE, 1),
        (SIZE - 1, 2),
        (-1, 1),
        (-1, 0),
        (0, SIZE + 1),
        (2**64 - 1, 1),
        (2**64 - 1, 2),
        (2**64 - 4096, 8192),
        (2**63, 1),
        (SIZE + 1, 0),
    ],
)
def test_an_address_outside_ram_is_the_guests_fault(memory: GuestMemory, address: int, length: int) -> None:
    """Addresses outside RAM or wrapping 2^64 (device.md, Hostile guests)."""
    for find in (memory.find, memory.read, memory.discard, lambda at, n: Memory(memory.regions).find(at, n)):
        with pytest.raises(GuestFault) as caught:
            find(address, length)
        assert (caught.value.rule, caught.value.detail) == ("bad-address", f"{length} bytes at {address:#x}")
    if address >= 0:
        with pytest.raises(GuestFault):
            memory.write(address, bytes(length))


@given(st.integers(0, SIZE), st.binary(max_size=64))
def test_what_is_written_reads_back(address: int, data: bytes) -> None:
    memory = GuestMemory(SIZE)
    if address + len(data) <= SIZE:
        memory.write(address, data)
        assert memory.read(address, len(data)) == data
    memory.close()


def test_the_views_show_the_same_bytes(memory: GuestMemory) -> None:
    memory.write(64, bytes(range(1, 9)))
    region = memory.regions[0]
    assert region.u8[64] == 1
    assert region.u16[32] == 0x0201
    assert region.u32[16] == 0x04030201
    assert region.u64[8] == 0x0807060504030201


def test_a_range_must_lie_inside_one_region() -> None:
    import mmap

    memory = Memory(
        [Region(0x1000, PAGE_SIZE, mmap.mmap(-1, PAGE_SIZE)), Region(0x2000, PAGE_SIZE, mmap.mmap(-1, PAGE_SIZE))]
    )
    assert memory.find(0x1FFF, 1) == (memory.regions[0], 0xFFF)
    assert memory.find(0x2000, 1) == (memory.regions[1], 0)
    for address, length in ((0x1FFF, 2), (0xFFF, 1), (0x3000, 1)):
        with pytest.raises(GuestFault):
            memory.find(address, length)
    memory.close()
    assert memory.regions == []


def test_discarding_gives_blocks_back_and_leaves_zeros() -> None:
    memory = GuestMemory(16 * MIB)
    memory.write(0, b"x" * (8 * MIB))
    assert memory.populated() >= 8 * MIB
    assert memory.discard(MIB, 6 * MIB)
    assert memory.populated() <= 2 * MIB + 64 * PAGE_SIZE
    assert memory.read(MIB - 1, 2) == b"x\0"
    memory.close()


def test_a_backing_without_holes_keeps_its_pages_and_that_is_nobodys_fault() -> None:
    import mmap

    private = mmap.mmap(-1, PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory = Memory([Region(0, PAGE_SIZE, private)])
    memory.write(0, b"x")
    assert not memory.discard(0, PAGE_SIZE)
    assert memory.read(0, 1) == b"x"
    memory.close()


@pytest.mark.parametrize("size", [MIN_RAM, 4 << 30, (4 << 30) + PAGE_SIZE, MAX_RAM])
def test_ram_costs_nothing_until_it_is_touched(size: int) -> None:
    memory = GuestMemory(size)
    assert memory.populated() == 0
    memory.write(size - 1, b"\xff")
    assert 0 < memory.populated() <= 64 * PAGE_SIZE
    memory.close()


@pytest.mark.parametrize("size", [-1, 0, MIN_RAM - PAGE_SIZE, MAX_RAM + PAGE_SIZE, 1 << 70])
def test_an_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(MisuseError, match="between 4M and 16T"):
        GuestMemory(size)


def test_ram_is_whole_pages() -> None:
    with pytest.raises(MisuseError, match="multiple of 4096"):
        GuestMemory(MIN_RAM + 1)


def test_closing_gives_the_descriptor_back_once() -> None:
    before = open_descriptors()
    memory = GuestMemory(SIZE)
    memory.close()
    memory.close()
    assert open_descriptors() == before


def test_a_view_in_use_elsewhere_survives_closing() -> None:
    memory = GuestMemory(SIZE)
    slice_ = memoryview(memory.regions[0].buffer)[:4]
    memory.close()
    assert bytes(slice_) == b"\0\0\0\0"
    slice_.release()


def test_a_host_that_refuses_the_mapping_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    before = open_descriptors()
    monkeypatch.setattr("device.virtio.memory.mmap.mmap", refuse)
    with pytest.raises(MisuseError, match=r"cannot map 4194304 bytes of guest memory: .*Cannot allocate"):
        GuestMemory(SIZE)
    assert open_descriptors() == before


@pytest.mark.parametrize("lacking", ["memfd", "memfd-ENOSYS", "memfd-EPERM", "memfd-EINVAL"])
class TestWithoutMemfd:
    @pytest.fixture
    def memory(self, monkeypatch: pytest.MonkeyPatch, lacking: str) -> Iterator[GuestMemory]:
        monkeypatch.setattr(os, "memfd_create", os.memfd_create)  # put back at the end
        TAKE[lacking]()
        memory = GuestMemory(64 * MIB)
        yield memory
        memory.close()

    def test_memory_is_anonymous_and_discarding_leaves_zeros(self, memory: GuestMemory) -> None:
        assert memory.fd == -1
        assert memory.populated() == 0
        memory.write(2 * MIB - 1, b"x" * MIB)
        assert memory.populated() == 2 * MIB
        assert list(memory.runs()) == [(MIB, 2 * MIB), (2 * MIB, 3 * MIB)]
        assert memory.discard(2 * MIB, MIB)
        assert memory.read(2 * MIB - 1, 2) == b"x\0"

    def test_without_advice_the_pages_keep_what_they_hold(
        self, memory: GuestMemory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("MADV_REMOVE", "MADV_DONTNEED"):
            monkeypatch.delattr(f"mmap.{name}")
        memory.write(0, b"x")
        assert not memory.discard(0, PAGE_SIZE)
        assert memory.read(0, 1) == b"x"


def test_a_limit_on_files_is_none_on_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """RLIMIT_FSIZE below RAM refuses a memfd of that size, not an anonymous mapping."""

    def refuse(*_: object) -> None:
        raise OSError(27, "File too large")

    before = open_descriptors()
    monkeypatch.setattr("device.virtio.memory.os.ftruncate", refuse)
    memory = GuestMemory(SIZE)
    memory.write(0, b"x")
    assert memory.fd == -1
    assert open_descriptors() == before
    memory.close()


def test_memory_too_large_to_search_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.memfd_create")
    memory = GuestMemory((1 << 30) + PAGE_SIZE)
    with pytest.raises(MisuseError, match=r"cannot list the memory in use \(no memfd\), so it saves at most 1G"):
        next(memory.runs())
    memory.close()
