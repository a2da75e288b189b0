"""Pages that the guest is not using: reported and hinted ones, and the poison value."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from device.balloon.device import HINT_ROUNDS, BalloonDevice
from device.balloon.spec import (
    CONFIG_HINT_CMD_ID,
    CONFIG_POISON_VAL,
    F_FREE_PAGE_HINT,
    F_PAGE_POISON,
    F_REPORTING,
    HINT,
    HINT_DONE,
    HINT_STOP,
)
from device.fields import Fields
from device.state import save
from device.virtio.spec import MIB, PAGE_SIZE, bit
from tests.support.rig import BUFFERS, FEATURES, Rig

SWITCHES = {"free-page-hint": True, "free-page-reporting": True}


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as rig:
        yield rig


def saved(device: BalloonDevice) -> dict[str, object]:
    """Return the device's state, as it comes back from a snapshot."""
    state = save(device, device.time.clock.now())
    fields = Fields(state, "device", then=device.time.clock.now())
    restored = BalloonDevice.restored(device.time, device.memory, device.ram, fields)
    assert save(restored, device.time.clock.now()) == state
    return state


class TestFreePageReporting:
    """virtio 1.2, 5.5.6.7."""

    @pytest.mark.parametrize(("start", "length", "gone"), [(0, 3, 3), (100, 2, 1), (1, 1, 0), (0, 0.5, 0)])
    def test_gives_whole_pages_back(self, start: int, length: float, gone: int) -> None:
        with Rig(switches=SWITCHES) as rig:
            rig.up(FEATURES | bit(F_REPORTING))
            rig.poke(8 * MIB, b"x" * (4 * PAGE_SIZE))
            rig.queues["reporting"].add([], [(8 * MIB + start, int(length * PAGE_SIZE))])
            rig.kick("reporting")
            assert rig.peek(8 * MIB, 4 * PAGE_SIZE).count(0) == gone * PAGE_SIZE
            assert rig.device.pages.count == 0

    def test_leaves_the_pages_of_a_guest_that_poisons_them(self) -> None:
        with Rig(switches=SWITCHES) as rig:
            rig.up(FEATURES | bit(F_REPORTING) | bit(F_PAGE_POISON))
            rig.device.write_config(CONFIG_POISON_VAL, b"\xaa" * 4)
            rig.poke(8 * MIB, b"\xaa" * PAGE_SIZE)
            rig.queues["reporting"].add([], [(8 * MIB, PAGE_SIZE)])
            rig.kick("reporting")
            assert rig.peek(8 * MIB, 1) == b"\xaa"
            rig.device.write_config(CONFIG_POISON_VAL, bytes(4))
            rig.queues["reporting"].take()
            rig.queues["reporting"].add([], [(8 * MIB, PAGE_SIZE)])
            rig.kick("reporting")
            assert rig.peek(8 * MIB, 1) == b"\0", "such pages may be given back again"
            assert rig.refused == {}


class TestPoisonValue:
    """device.md: stored where PAGE_POISON was negotiated, replaced by each write, reads back, 0 after a reset."""

    def test_each_write_replaces_the_one_before_until_a_reset(self, rig: Rig) -> None:
        rig.up(FEATURES | bit(F_PAGE_POISON))
        for value in (0xAAAAAAAA, 1, 0, 0xFFFFFFFF):
            rig.device.write_config(CONFIG_POISON_VAL, value.to_bytes(4, "little"))
            assert rig.device.read_config(CONFIG_POISON_VAL, 4) == value.to_bytes(4, "little")
            restored = saved(rig.device)
            assert restored["poison_val"] == value
        rig.device.write_status(0)
        assert rig.device.read_config(CONFIG_POISON_VAL, 4) == bytes(4)
        assert rig.refused == {}

    @pytest.mark.parametrize("page_poison", [True, False])
    def test_without_the_feature_it_is_ignored(self, page_poison: bool) -> None:
        with Rig(switches={"free-page-reporting": True, "page-poison": page_poison}) as rig:
            rig.up(FEATURES | bit(F_REPORTING))
            rig.device.write_config(CONFIG_POISON_VAL, b"\xaa" * 4)
            rig.poke(8 * MIB, b"\xaa" * PAGE_SIZE)
            rig.queues["reporting"].add([], [(8 * MIB, PAGE_SIZE)])
            rig.kick("reporting")
            assert rig.device.read_config(CONFIG_POISON_VAL, 4) == bytes(4)
            assert (rig.peek(8 * MIB, 1), rig.refused) == (b"\0", {})


class TestFreePageHints:
    """virtio 1.2, 5.5.6.5: a command id, writable buffers that are the free pages, and at the end STOP."""

    @pytest.fixture
    def rig(self) -> Iterator[Rig]:
        with Rig(switches=SWITCHES) as rig:
            yield rig.up(FEATURES | bit(F_FREE_PAGE_HINT))

    @staticmethod
    def command(rig: Rig, id: int | bytes) -> None:
        rig.poke(BUFFERS, id if isinstance(id, bytes) else id.to_bytes(4, "little"))
        rig.queues[HINT].add([(BUFFERS, len(id) if isinstance(id, bytes) else 4)])
        rig.kick(HINT)
        assert rig.queues[HINT].take() is not None

    @staticmethod
    def hint(rig: Rig, *pages: int) -> None:
        rig.queues[HINT].add([], [(8 * MIB, count * PAGE_SIZE) for count in pages])
        rig.kick(HINT)
        assert rig.queues[HINT].take() is not None

    def test_are_counted_by_the_command_id_before_them_and_left_as_they_are(self, rig: Rig) -> None:
        rig.poke(8 * MIB, b"x")
        self.hint(rig, 1)
        self.command(rig, 0x80000000)
        self.hint(rig, 4)
        self.hint(rig, 1, 2)
        self.command(rig, HINT_STOP)
        self.hint(rig, 8)
        self.command(rig, 0x80000001)
        self.command(rig, HINT_DONE)
        assert rig.device.hints == {HINT_STOP: 9, 0x80000000: 7, 0x80000001: 0}
        assert (rig.peek(8 * MIB, 1), rig.refused) == (b"x", {})
        assert rig.device.read_config(CONFIG_HINT_CMD_ID, 4) == bytes(4), "no migration asks for any"
        rig.device.write_status(0)
        assert (rig.device.hints, rig.device.hint_id) == ({}, 0)

    def test_a_command_and_pages_may_come_in_one_buffer(self, rig: Rig) -> None:
        rig.poke(BUFFERS, b"\5\0\0\0")
        rig.queues[HINT].add([(BUFFERS, 4)], [(8 * MIB, PAGE_SIZE)])
        rig.kick(HINT)
        assert rig.device.hints == {5: 1}

    @pytest.mark.parametrize("id", [b"\5", b"\5\0\0", b"\5\0\0\0\0", bytes(4096)])
    def test_a_command_that_is_not_four_bytes_is_counted_and_ignored(self, rig: Rig, id: bytes) -> None:
        self.command(rig, 9)
        self.command(rig, id)
        self.hint(rig, 1)
        assert (rig.device.hints, rig.refused) == ({9: 1}, {"ragged-pfns": 1})
        assert not rig.device.broken

    def test_a_driver_that_makes_up_ids_costs_no_memory(self, rig: Rig) -> None:
        for id in range(2, 100):
            self.command(rig, id)
            self.hint(rig, id)
        assert rig.device.hints == {id: id for id in range(100 - HINT_ROUNDS, 100)}

    def test_are_in_a_snapshot(self, rig: Rig) -> None:
        self.command(rig, 0x80000000)
        self.hint(rig, 4)
        state = saved(rig.device)
        assert (state["hint_id"], state["hints"]) == (0x80000000, [[0x80000000, 4]])
