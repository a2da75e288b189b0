"""Statistics on the wire (virtio 1.2, 5.5.6.3) and the life of the buffer that carries them."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.balloon.spec import ABSENT, MAX_STAT_RECORDS, STAT_COUNT, STATS_TABLE, stat_tag
from device.balloon.stats import WIRE_LIMIT, decode, encode
from device.balloon.stats_queue import BUFFERS_AT_ONCE
from device.clock import SECOND, SIMULATED_EPOCH
from device.machine.events import Event, RuleBroken
from tests.support.rig import BUFFERS, RINGS, Rig

LINUX_6_1 = [(tag, 1000 + tag) for tag in (0, 1, 2, 3, 8, 9, 4, 5, 6, 7)]


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as rig:
        yield rig


def read(records: list[tuple[int, int]], tail: bytes = b"") -> tuple[int, dict[int, int], dict[int, int], list[str]]:
    """Decode a buffer: (records, known values, unknown values, rules broken)."""
    count, tags, numbers, unknown, faults = decode(encode(records) + tail)
    return count, dict(zip(tags, numbers, strict=True)), unknown, [rule for rule, _ in faults]


class TestWireFormat:
    def test_a_record_is_le16_tag_and_le64_value_without_padding(self) -> None:
        assert encode([(4, 1), (0x0102, 2**63)]) == b"\4\0\1\0\0\0\0\0\0\0" + b"\2\1" + bytes(7) + b"\x80"

    @pytest.mark.parametrize("repeat", [1, 2, 3])
    def test_a_sound_buffer(self, repeat: int) -> None:
        for _ in range(repeat):
            assert read(LINUX_6_1) == (10, dict(LINUX_6_1), {}, [])

    @pytest.mark.parametrize(
        ("records", "tail", "known", "unknown", "rules"),
        [
            ([], b"", {}, {}, []),
            ([], b"\4", {}, {}, ["partial-record"]),
            ([(4, 9)], b"\5\0" + bytes(7), {4: 9}, {}, ["partial-record"]),
            ([(4, 1), (4, 2)], b"", {4: 2}, {}, ["duplicate-tag"]),
            ([(4, 1), (5, 7), (4, ABSENT)], b"", {5: 7}, {}, ["duplicate-tag"]),
            ([(STAT_COUNT, 3), (4, 9)], b"", {4: 9}, {STAT_COUNT: 3}, ["unknown-tag"]),
            ([(65535, ABSENT), (4, 9)], b"", {4: 9}, {}, ["unknown-tag"]),
            ([(99, 1), (99, 2), (4, 9)], b"x", {4: 9}, {99: 2}, ["partial-record", "duplicate-tag", "unknown-tag"]),
            ([(4, ABSENT)], b"", {}, {}, []),
            ([(4, 2**64 - 2)], b"", {4: 2**64 - 2}, {}, []),
            ([(4, 2**63), (5, 2**63 - 1)], b"", {4: 2**63, 5: 2**63 - 1}, {}, []),
            ([(4, 0)], b"", {4: 0}, {}, []),
        ],
    )
    def test_odd_buffers(
        self,
        records: list[tuple[int, int]],
        tail: bytes,
        known: dict[int, int],
        unknown: dict[int, int],
        rules: list[str],
    ) -> None:
        """2^64-1 is absent, never a value; values from 2^63 up stay positive; unknown tags are kept apart."""
        for _ in range(2):
            assert read(records, tail) == (len(records), known, unknown, rules)

    def test_no_more_records_are_read_than_the_limit(self) -> None:
        count, tags, *_ = decode(encode([(n % STAT_COUNT, n) for n in range(MAX_STAT_RECORDS + 20)]))
        assert (count, len(tags)) == (MAX_STAT_RECORDS, STAT_COUNT)

    def test_a_guest_that_shuffles_its_tags_costs_no_memory(self) -> None:
        from device.balloon import stats

        for seed in range(500):
            order = Random(seed).sample(range(STAT_COUNT), STAT_COUNT)
            assert read([(tag, tag) for tag in order])[1] == {tag: tag for tag in range(STAT_COUNT)}
        assert len(stats._VALID_TAGS) <= 64
        assert len(stats.RECORDS) < 200

    @given(
        st.lists(
            st.tuples(st.integers(0, 20) | st.integers(0, 65535), st.integers(0, ABSENT) | st.just(ABSENT)), max_size=64
        ),
        st.binary(max_size=9),
    )
    def test_any_records_decode_to_their_last_values(self, records: list[tuple[int, int]], tail: bytes) -> None:
        count, known, unknown, rules = read(records, tail)
        last = {tag: value for tag, value in dict(records).items() if value != ABSENT}
        assert count == len(records)
        assert {**known, **unknown} == last
        assert all(tag < STAT_COUNT for tag in known)
        assert ("duplicate-tag" in rules) is (len(dict(records)) < len(records))

    @given(st.binary(max_size=700))
    def test_any_bytes_decode(self, data: bytes) -> None:
        count, tags, numbers, unknown, _ = decode(data)
        assert count == min(len(data) // 10, MAX_STAT_RECORDS)
        assert ABSENT not in (*numbers, *unknown.values())
        assert len(tags) == len(set(tags)) == len(numbers)


class TestNames:
    @pytest.mark.parametrize(
        ("name", "tag"),
        [("free_mem", 4), ("stat-free-memory", 4), ("4", 4), ("direct_reclaims", 15), ("65535", 65535), ("0", 0)],
    )
    def test_a_statistic_goes_by_three_names(self, name: str, tag: int) -> None:
        assert stat_tag(name) == tag

    @pytest.mark.parametrize("name", ["", "free", "FREE_MEM", "65536", "-1", "+4", "4 ", "\u0664", "000004"])
    def test_another_word_is_the_name_of_no_statistic(self, name: str) -> None:
        assert stat_tag(name) is None

    def test_the_table_is_complete(self) -> None:
        assert [stat.tag for stat in STATS_TABLE] == list(range(STAT_COUNT))
        assert all(stat.help and stat.unit in ("bytes", "count") for stat in STATS_TABLE)


class TestTheBuffer:
    """The queue runs in reverse: primed, held, returned to ask, filled again."""

    def test_a_primed_buffer_with_records_is_a_sample(self, rig: Rig) -> None:
        rig.up(prime=LINUX_6_1)
        sample = rig.device.stats.sample
        assert sample is not None
        assert sample.values == dict(LINUX_6_1)
        assert sample.tags == (0, 1, 2, 3, 8, 9, 4, 5, 6, 7), "in the driver's order"
        assert rig.device.stats.held is not None

    def test_a_primed_buffer_without_records_is_none(self, rig: Rig) -> None:
        rig.up()
        assert rig.device.stats.sample is None
        assert rig.device.stats.held is not None

    def test_asking_returns_it_with_length_0(self, rig: Rig) -> None:
        """The device may only read it. The first implementation returned a length, which QEMU corrected in 6.2."""
        rig.up()
        rig.ask()
        assert (rig.device.stats.held, rig.device.stats.out) == (None, True)
        assert rig.guest.interrupts == [2]
        returned = rig.queues["stats"].take()
        assert returned is not None
        assert returned[1] == 0

    def test_an_answer_is_stamped_by_both_clocks(self, rig: Rig) -> None:
        rig.up()
        rig.ask()
        rig.advance(2)
        rig.report(LINUX_6_1)
        sample = rig.device.stats.sample
        assert sample is not None
        assert (sample.collected, sample.wall) == (2 * SECOND, SIMULATED_EPOCH + 2 * SECOND)
        rig.advance(3)
        assert rig.device.stats.age == 3 * SECOND

    def test_each_sample_replaces_the_one_before_whole(self, rig: Rig) -> None:
        rig.up(prime=LINUX_6_1)
        rig.ask()
        rig.report([(4, 5)])
        sample = rig.device.stats.sample
        assert sample is not None
        assert sample.values == {4: 5}

    @pytest.mark.parametrize("data", [b"\1", encode([(4, ABSENT)])])
    def test_an_answer_that_knows_nothing_is_an_answer(self, rig: Rig, data: bytes) -> None:
        rig.up(prime=LINUX_6_1)
        request = rig.ask()
        rig.report(data)
        assert request.state == "answered"
        assert rig.device.stats.sample is not None
        assert rig.device.stats.sample.values == {}

    def test_unknown_tags_are_kept_and_counted(self, rig: Rig) -> None:
        rig.up(prime=[(4, 1), (40, 2)])
        assert rig.device.stats.sample is not None
        assert rig.device.stats.sample.unknown == {40: 2}
        rig.ask()
        rig.report([(4, 1), (40, 2)])
        assert rig.refused == {"unknown-tag": 1}

    def test_records_may_lie_across_pieces(self, rig: Rig) -> None:
        rig.up(prime=None)
        rig.poke(BUFFERS, encode(LINUX_6_1))
        rig.queues["stats"].add([(BUFFERS, 3), (BUFFERS + 3, 40), (BUFFERS + 43, 57)])
        rig.kick("stats")
        assert rig.device.stats.sample is not None
        assert rig.device.stats.sample.values == dict(LINUX_6_1)

    def test_a_huge_buffer_is_read_in_part(self, rig: Rig) -> None:
        rig.up(prime=None)
        rig.poke(BUFFERS, encode(LINUX_6_1))
        rig.queues["stats"].add_out(BUFFERS, 8 << 20)
        rig.kick("stats")
        assert rig.refused["huge-buffer"] == 1
        assert rig.device.stats.sample is not None
        assert rig.device.stats.sample.values[4] == 1004
        assert WIRE_LIMIT < 1024

    def test_a_full_limit_is_not_huge(self, rig: Rig) -> None:
        rig.up(prime=None)
        rig.report([(tag, 1) for tag in range(MAX_STAT_RECORDS)])
        assert rig.refused == {"unknown-tag": 1}

    def test_an_unsolicited_one_is_a_sample_and_returns_the_held_one(self, rig: Rig) -> None:
        """Never again, 8: it replaced the held one, whose entry of the ring was lost."""
        rig.up()
        rig.report([(4, 5)])
        assert rig.refused == {"unsolicited-stats": 1}
        assert rig.device.stats.sample is not None
        assert rig.device.stats.sample.values == {4: 5}
        assert rig.device.queues[2].in_use == 1
        assert rig.queues["stats"].take() is not None
        assert rig.guest.interrupts == [2]
        for _ in range(1000):
            rig.report([(4, 5)])
            assert rig.queues["stats"].take() is not None
        assert (rig.device.queues[2].in_use, rig.device.broken) == (1, False)

    def test_many_at_once_are_served_in_rounds(self, rig: Rig) -> None:
        rig.up()
        for value in range(100):
            rig.poke(BUFFERS + 16 * value, encode([(4, value)]))
            rig.queues["stats"].add_out(BUFFERS + 16 * value, 10)
        rig.kick("stats")
        assert rig.device.stats.sample is not None
        assert rig.device.stats.sample.values == {4: 99}
        assert rig.refused == {"unsolicited-stats": 100}
        assert BUFFERS_AT_ONCE < 100

    def test_a_kick_without_a_buffer_does_nothing(self, rig: Rig) -> None:
        rig.up(prime=LINUX_6_1)
        sample = rig.device.stats.sample
        for _ in range(10):
            rig.kick("stats")
        assert rig.device.stats.sample is sample
        assert (rig.refused, rig.guest.interrupts) == ({}, [])

    def test_a_writable_one_breaks_the_device_and_what_it_broke_before_is_counted(self, rig: Rig) -> None:
        rig.up()
        rig.poke(BUFFERS, encode([(4, 5)]))
        rig.queues["stats"].add_out(BUFFERS, 10)
        rig.queues["stats"].add([], [(BUFFERS, 10)])
        rig.kick("stats")
        assert rig.refused == {"unsolicited-stats": 1, "direction": 1}
        assert rig.device.broken

    def test_a_driver_that_wants_no_interrupt_gets_none(self, rig: Rig) -> None:
        rig.up()
        rig.poke16(rig.queues["stats"].avail, 1)
        rig.ask()
        assert rig.queues["stats"].take() is not None
        assert rig.guest.interrupts == []

    @pytest.mark.parametrize(
        "data",
        [b"\4", encode([(4, 1), (4, 2)]), encode([(99, 1)]), encode(LINUX_6_1)],
        ids=["partial", "duplicate", "unknown", "unsolicited"],
    )
    def test_a_listener_that_resets_the_machine_at_a_fault_finds_it_whole(self, rig: Rig, data: bytes) -> None:
        rig.up()

        def heal(event: Event) -> None:
            if isinstance(event, RuleBroken):
                rig.negotiate()
                rig.set_up()
                rig.prime(encode(LINUX_6_1))
                rig.go()

        rig.machine.subscribe(heal)
        rig.report(data)
        assert rig.device.stats.sample is not None
        assert rig.device.stats.sample.values == dict(LINUX_6_1), "nothing of the boot before"
        assert [queue.in_use for queue in rig.device.queues] == [0, 0, 1]
        rig.answer_with([(4, 8)])
        assert rig.ask().state == "answered"

    def test_the_rings_are_where_the_driver_put_them(self, rig: Rig) -> None:
        rig.up()
        assert rig.device.queues[2].desc == RINGS + 2 * 4096
