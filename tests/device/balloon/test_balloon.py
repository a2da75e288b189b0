"""The balloon device: configuration space, queue roles, what is in the balloon, target and actual."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.balloon.device import BUFFERS_AT_ONCE
from device.balloon.pages import PFN_LIMIT
from device.balloon.spec import (
    F_FREE_PAGE_HINT,
    F_MUST_TELL_HOST,
    F_REPORTING,
    F_STATS_VQ,
    FEATURES_TABLE,
    PROPERTIES,
    queue_roles,
)
from device.errors import MisuseError
from device.virtio.spec import GIB, MIB, PAGE_SIZE, TIB, bit
from tests.support.rig import BUFFERS, VERSION_1, Rig

ALL_ON = {"free-page-hint": True, "free-page-reporting": True, "deflate-on-oom": True}


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as rig:
        yield rig


class TestFeaturesOffered:
    """device.md: bits 2 to 5 only where the property is on; page-poison is on by default, MUST_TELL_HOST never."""

    def test_by_default(self, rig: Rig) -> None:
        offered = {feature.bit for feature in FEATURES_TABLE if rig.device.offered >> feature.bit & 1}
        assert offered == {1, 4, 28, 29, 32}
        assert len(rig.device.queues) == 3

    @pytest.mark.parametrize("name", list(PROPERTIES))
    @pytest.mark.parametrize("on", [True, False])
    def test_each_switch_is_one_bit(self, name: str, on: bool) -> None:
        with Rig(switches={name: on}) as rig:
            assert bool(rig.device.offered & bit(PROPERTIES[name][0])) is on
            assert rig.device.properties[name] is on

    def test_must_tell_host_is_not_offered(self) -> None:
        with Rig(switches=dict.fromkeys(PROPERTIES, True)) as rig:
            assert not rig.device.offered & bit(F_MUST_TELL_HOST)
            assert len(rig.device.queues) == 5

    def test_an_unknown_switch_is_named(self) -> None:
        with pytest.raises(MisuseError, match="no such balloon property: colour"):
            Rig(switches={"colour": True})


@pytest.mark.parametrize(
    ("features", "roles"),
    [
        ((), ("inflate", "deflate")),
        ((F_STATS_VQ,), ("inflate", "deflate", "stats")),
        ((F_FREE_PAGE_HINT,), ("inflate", "deflate", "free-page-hint")),
        ((F_REPORTING,), ("inflate", "deflate", "reporting")),
        ((F_STATS_VQ, F_REPORTING), ("inflate", "deflate", "stats", "reporting")),
        ((F_FREE_PAGE_HINT, F_REPORTING), ("inflate", "deflate", "free-page-hint", "reporting")),
        ((F_STATS_VQ, F_FREE_PAGE_HINT, F_REPORTING), ("inflate", "deflate", "stats", "free-page-hint", "reporting")),
    ],
)
def test_a_queue_that_was_not_negotiated_has_no_number(features: tuple[int, ...], roles: tuple[str, ...]) -> None:
    """virtio 1.2, 5.5.2: the queues after it move up; each is served by its role, whatever its number."""
    accepted = VERSION_1 | sum(bit(feature) for feature in features)
    assert queue_roles(accepted) == roles
    with Rig(switches=ALL_ON) as rig:
        rig.up(accepted, prime=None)
        rig.poke(8 * MIB, b"x" * PAGE_SIZE)
        for index, role in enumerate(roles):
            if role == "stats":
                rig.report([(4, 44)])
                assert rig.device.stats.sample is not None
            elif role in ("inflate", "deflate"):
                assert rig.send(role, [1000]) is not None
            else:
                rig.queues[role].add([], [(8 * MIB, PAGE_SIZE)])
                rig.device.notify(index)
                assert rig.queues[role].take() is not None
        gone = rig.peek(8 * MIB, 1) == b"\0"
        assert gone is ("reporting" in roles), "only a reported page is given back"
        assert (rig.device.pages.count, rig.refused) == (0, {})


@pytest.mark.parametrize(
    ("switches", "negotiated", "offered", "sizes"),
    [
        ({}, (), [128, 128, 128], [128, 128, 128]),
        (ALL_ON, (F_STATS_VQ, F_FREE_PAGE_HINT, F_REPORTING), [128, 128, 128, 1024, 32], [128, 128, 128, 1024, 32]),
        (ALL_ON, (F_STATS_VQ, F_REPORTING), [128, 128, 128, 1024, 32], [128, 128, 128, 32, 32]),
        (ALL_ON, (F_FREE_PAGE_HINT,), [128, 128, 128, 1024, 32], [128, 128, 1024, 1024, 32]),
        ({"free-page-reporting": True}, (F_STATS_VQ, F_REPORTING), [128, 128, 128, 32], [128, 128, 128, 32]),
    ],
)
def test_queues_are_as_long_as_in_qemu(
    switches: dict[str, bool], negotiated: tuple[int, ...], offered: list[int], sizes: list[int]
) -> None:
    """device.md: 128 entries each, the hint queue 1024, the reporting queue 32."""
    with Rig(switches=switches) as rig:
        assert [queue.size for queue in rig.device.queues] == offered
        rig.negotiate(VERSION_1 | sum(bit(feature) for feature in negotiated))
        assert [queue.size for queue in rig.device.queues] == sizes
        assert [queue.offered for queue in rig.device.queues] == sizes
        rig.set_up(size=8)
        assert [queue.size for queue in rig.device.queues][:2] == [8, 8]
        rig.device.write_status(0)
        assert [queue.size for queue in rig.device.queues] == offered


class TestConfigurationSpace:
    """virtio 1.2, 5.5.4: num_pages le32 (ours), actual le32 (the driver's), hint command, poison value."""

    @pytest.mark.parametrize(
        ("offset", "size", "read"),
        [
            (0, 4, b"\0\4\0\0"),
            (4, 4, b"\7\0\0\0"),
            (0, 16, b"\0\4\0\0\7" + bytes(11)),
            (1, 4, b"\4\0\0\7"),
            (0, 0, b""),
            (12, 8, bytes(8)),
            (16, 4, bytes(4)),
            (0, 1 << 40, b"\0\4\0\0\7" + bytes(11)),
            (2**64 - 1, 4, bytes(4)),
            (-1, 4, b""),
            (0, -1, b""),
        ],
    )
    def test_reads(self, rig: Rig, offset: int, size: int, read: bytes) -> None:
        rig.up()
        rig.machine.set_balloon(12 * MIB)
        rig.write_actual(7)
        assert rig.device.read_config(offset, size) == read

    @pytest.mark.parametrize("offset", [*range(-1, 18), 2**31, 2**32, 2**64 - 1, 2**64, -(2**63)])
    @pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 8, 16, 4096])
    def test_only_a_whole_field_is_written(self, rig: Rig, offset: int, size: int) -> None:
        rig.up()
        before = rig.device.config_bytes()
        rig.device.write_config(offset, b"\1" + bytes(max(0, size - 1)) if size else b"")
        if (offset, size) == (4, 4):
            assert (rig.device.actual_pages, rig.refused) == (1, {})
        elif (offset, size) == (12, 4):  # the driver's field too; ignored without PAGE_POISON
            assert (rig.device.config_bytes(), rig.refused) == (before, {})
        else:
            assert (rig.device.config_bytes(), rig.refused) == (before, {"config-write": 1})
        assert not rig.device.broken

    @pytest.mark.parametrize(
        ("pages", "actual", "refused"), [(4096, 0, {}), (4097, 0, {"bad-actual": 1}), (2**32 - 1, 0, {"bad-actual": 1})]
    )
    def test_actual_beyond_ram_is_cut_and_counted(
        self, rig: Rig, pages: int, actual: int, refused: dict[str, int]
    ) -> None:
        rig.up()
        rig.write_actual(pages)
        assert (rig.device.actual, rig.refused) == (actual, refused)


class TestTargetAndActual:
    @pytest.mark.parametrize("ram", [16 * MIB, 4 * GIB, 4 * GIB + 4096, TIB, 16 * TIB])
    @pytest.mark.parametrize("keep", [1, 4095, 4096, MIB, 4 * GIB - 4096, 4 * GIB, 4 * GIB + 1, 16 * TIB, 2**63 - 1])
    def test_a_target_is_what_the_guest_keeps(self, ram: int, keep: int) -> None:
        """num_pages = (RAM - target) >> 12 as in QEMU: exact from one byte to 16 TiB (never again, 9)."""
        with Rig(ram=ram) as rig:
            rig.machine.set_balloon(keep)
            expected = (ram - min(keep, ram)) // 4096
            assert rig.device.num_pages == expected
            assert rig.device.read_config(0, 4) == expected.to_bytes(4, "little")
            assert rig.device.target == ram - expected * 4096
            assert 0 <= rig.device.target - min(keep, ram) < 4096

    @pytest.mark.parametrize("keep", [0, -1, -(2**63)])
    def test_a_target_of_nothing_is_refused(self, rig: Rig, keep: int) -> None:
        rig.machine.set_balloon(8 * MIB)
        with pytest.raises(MisuseError, match="Parameter 'target' expects a size"):
            rig.machine.set_balloon(keep)
        assert rig.device.target == 8 * MIB

    def test_actual_is_what_the_driver_says(self, rig: Rig) -> None:
        """Whatever pages the balloon has: QEMU believes the driver."""
        rig.up()
        rig.send("inflate", range(2000, 2256))
        assert rig.device.actual == 16 * MIB
        rig.write_actual(256)
        assert rig.device.actual == 15 * MIB
        assert rig.named("BALLOON_CHANGE") == [{"actual": 15 * MIB}]

    def test_a_change_is_reported_once(self, rig: Rig) -> None:
        rig.up()
        for pages in (5, 5, 6, 6, 5):
            rig.write_actual(pages)
        assert [event["actual"] for event in rig.named("BALLOON_CHANGE")] == [16 * MIB - n * 4096 for n in (5, 6, 5)]

    def test_reaching_the_target_is_reported_once_for_each_target(self, rig: Rig) -> None:
        rig.up()
        rig.write_actual(1)
        rig.write_actual(0)
        assert rig.named("BALLOON_TARGET") == []
        rig.machine.set_balloon(8 * MIB)
        for pages in (1000, 2048, 2047, 2048):
            rig.write_actual(pages)
        assert rig.named("BALLOON_TARGET") == [{"actual": 8 * MIB}]

    @pytest.mark.parametrize("by", ["host", "driver"])
    def test_a_reset_empties_the_balloon_and_keeps_target_and_actual(self, rig: Rig, by: str) -> None:
        """As QEMU: only a driver writes `actual`."""
        rig.machine.set_balloon(8 * MIB)
        rig.up()
        rig.send("inflate", [2000])
        rig.write_actual(1)
        rig.machine.reset() if by == "host" else rig.device.write_status(0)
        rig.machine.deliver()
        assert (rig.device.actual, rig.device.target, rig.device.pages.count) == (16 * MIB - 4096, 8 * MIB, 0)
        assert rig.named("BALLOON_CHANGE") == [{"actual": 16 * MIB - 4096}]


class TestInflating:
    def test_gives_the_pages_back_to_the_host(self, rig: Rig) -> None:
        rig.up()
        rig.poke(4 * MIB, b"x" * (8 * MIB))
        rig.send("deflate", [0])  # so that the pages of rings and list are populated already
        before = rig.machine.memory.populated()
        for first in range(1024, 3072, 256):
            rig.send("inflate", range(first, first + 256))
        assert before - rig.machine.memory.populated() == 8 * MIB
        assert rig.peek(4 * MIB, 1) == b"\0"
        assert rig.device.pages.runs() == [(1024, 2048)]

    @pytest.mark.parametrize(
        ("pfns", "runs"),
        [
            (range(1000, 1256), [(1000, 256)]),
            (range(1255, 999, -1), [(1000, 256)]),
            ([5000, *range(1000, 1100), 1200], [(1000, 100), (1200, 1)]),
            ([7], [(7, 1)]),
            ([4095], [(4095, 1)]),
            ([2000, 2002, 2001], [(2000, 3)]),
        ],
    )
    def test_neighbours_go_in_one_call(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch, pfns: range | list[int], runs: list[tuple[int, int]]
    ) -> None:
        """MADV_REMOVE for runs of neighbouring pages (device.md)."""
        rig.up()
        calls: list[tuple[int, int]] = []
        memory = type(rig.machine.memory)
        monkeypatch.setattr(
            memory, "discard", lambda _, address, length: calls.append((address // PAGE_SIZE, length // PAGE_SIZE))
        )
        rig.send("inflate", [pfn for pfn in pfns if pfn < 4096])
        assert calls == runs
        assert rig.device.pages.runs() == runs

    def test_more_buffers_than_are_served_in_one_round_are_served_all(self, rig: Rig) -> None:
        rig.up(size=1024)
        for n in range(1000):
            rig.poke(BUFFERS + 4 * n, (2000 + n).to_bytes(4, "little"))
            rig.queues["inflate"].add_out(BUFFERS + 4 * n, 4)
        rig.kick("inflate")
        assert (rig.device.pages.runs(), rig.refused) == ([(2000, 1000)], {})
        assert BUFFERS_AT_ONCE < 1000

    def test_a_page_twice_is_counted_and_given_back_again(self, rig: Rig) -> None:
        rig.up()
        rig.send("inflate", [2000, 2000])
        assert rig.refused == {"double-inflate": 1}
        rig.poke(2000 * PAGE_SIZE, b"x")
        rig.send("inflate", range(1999, 2002))
        assert rig.refused == {"double-inflate": 2}
        assert (rig.device.pages.count, rig.peek(2000 * PAGE_SIZE, 1)) == (3, b"\0")

    def test_pages_beyond_ram_are_counted_and_the_others_taken(self, rig: Rig) -> None:
        rig.up()
        assert rig.send("inflate", [4096, 2000, 2**32 - 1, 2001, 2**31]) is not None
        assert (rig.refused, rig.device.pages.runs()) == ({"bad-pfn": 3}, [(2000, 2)])
        assert not rig.device.broken
        assert rig.send("inflate", range(4090, 4100)) is not None
        assert (rig.refused, rig.device.pages.count) == ({"bad-pfn": 7}, 8)

    @pytest.mark.parametrize(
        ("data", "count"), [(b"\1", 0), (b"\1\2\3", 0), (b"\xd0\7\0\0\1", 1), (b"\xd0\7\0\0\xd1\7\0", 1)]
    )
    def test_a_ragged_list_is_counted_and_its_whole_numbers_taken(self, rig: Rig, data: bytes, count: int) -> None:
        rig.up()
        assert rig.send("inflate", data) is not None
        assert (rig.refused, rig.device.pages.count) == ({"ragged-pfns": 1}, count)

    def test_a_number_may_lie_across_two_pieces(self, rig: Rig) -> None:
        rig.up()
        rig.poke(BUFFERS, (2000).to_bytes(4, "little"))
        rig.queues["inflate"].add([(BUFFERS, 1), (BUFFERS + 1, 3)])
        rig.kick("inflate")
        assert rig.device.pages.runs() == [(2000, 1)]

    def test_a_huge_list_is_looked_at_in_part(self, rig: Rig) -> None:
        rig.up()
        rig.queues["inflate"].add([(8 * MIB, 4 * MIB), (8 * MIB, 4 * MIB)])
        rig.kick("inflate")
        assert rig.queues["inflate"].take() is not None
        assert rig.refused["huge-buffer"] == 1
        assert rig.device.pages.runs() == [(0, 1)]
        assert PFN_LIMIT < MIB

    @pytest.mark.parametrize("role", ["inflate", "deflate"])
    def test_a_writable_list_breaks_the_device(self, rig: Rig, role: str) -> None:
        rig.up()
        rig.queues[role].add([(BUFFERS, 4)], [(BUFFERS + 8, 4)])
        rig.kick(role)
        assert rig.refused == {"direction": 1}
        assert rig.device.broken

    @pytest.mark.parametrize("ram", [4 * GIB, 16 * TIB])
    def test_the_last_page_of_a_large_guest(self, ram: int) -> None:
        """Page frame numbers are unsigned and addresses 64 bits wide (never again, 9)."""
        with Rig(ram=ram) as rig:
            rig.up()
            last = ram // PAGE_SIZE - 1
            rig.poke(ram - 1, b"x")
            assert rig.send("inflate", [last, 2**31 % (last + 1)]) is not None
            assert last in rig.device.pages
            assert (rig.peek(ram - 1, 1), rig.refused) == (b"\0", {})
            rig.write_actual(last)
            assert rig.device.actual == 4096


class TestDeflating:
    def test_takes_pages_out(self, rig: Rig) -> None:
        rig.up()
        rig.send("inflate", range(2000, 2100))
        assert rig.send("deflate", range(2000, 2050)) is not None
        assert (rig.device.pages.runs(), rig.refused) == ([(2050, 50)], {})

    def test_a_page_that_is_not_in_is_counted(self, rig: Rig) -> None:
        rig.up()
        rig.send("deflate", [2000])
        rig.send("deflate", [2**32 - 1])
        assert rig.refused == {"double-deflate": 1, "bad-pfn": 1}
        assert not rig.device.broken


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.booleans(), st.lists(st.integers(900, 1030) | st.integers(0, 2**32 - 1), min_size=1, max_size=40)),
        max_size=8,
    )
)
def test_random_page_lists_change_the_balloon_as_a_set_of_pages(lists: list[tuple[bool, list[int]]]) -> None:
    with Rig(ram=4 * MIB) as rig:
        rig.up()
        model: set[int] = set()
        for inflating, pfns in lists:
            pfns = [pfn for pfn in pfns if pfn >= 900]  # not our own rings
            if not pfns:
                continue
            assert rig.send("inflate" if inflating else "deflate", pfns, at=0x10000) is not None
            sound = {pfn for pfn in pfns if pfn < 1024}
            model = model | sound if inflating else model - sound
        assert {page for page in range(1024) if page in rig.device.pages} == model
        assert not rig.device.broken
