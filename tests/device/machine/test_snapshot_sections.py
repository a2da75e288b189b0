"""What surrounds the state in a snapshot: the front, the balloon's pages, the memory, the checksum at the end."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from device.fields import SnapshotError
from device.guest.table import make_guest
from device.machine.snapshot import COPY, MAGIC, STATE_LIMIT, load, summarize
from device.virtio.spec import MIB
from tests.support.rig import Modelled
from tests.support.snapshots import behind_state, restore, saved, signed, state_in, with_state

RAM = 4 * MIB
PAGES = RAM >> 12
PAGE = b"p" * 4096


@pytest.fixture(scope="module")
def m() -> Iterator[Modelled]:
    with Modelled("linux", ram=RAM) as m:
        m.machine.stop()
        yield m


@pytest.fixture(scope="module")
def data() -> bytes:
    """The snapshot of a quiet machine."""
    with Modelled("linux", ram=RAM) as m:
        m.info()
        return saved(m.machine)


def le64(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(8, "little") for number in numbers)


def refusal(m: Modelled, data: bytes) -> str:
    with pytest.raises(SnapshotError) as caught:
        restore(m.machine, data)
    return str(caught.value)


class TestFront:
    def test_a_file_too_short_for_one(self, m: Modelled, data: bytes) -> None:
        words = "the file is not a snapshot, or cut short"
        assert refusal(m, b"") == words
        assert refusal(m, data[: 16 + 31]) == words
        assert refusal(m, signed(MAGIC + b"\1\0\0\0" + bytes(4))) == "the snapshot's state is not readable"

    @pytest.mark.parametrize(
        ("front", "words"),
        [
            (b"HMPSNAP\1" + b"\1\0\0\0", "the file is not a snapshot of hmp"),
            (MAGIC + b"\0\0\0\0", "the snapshot's format 0 is unknown: this one reads formats 1 to 2"),
            (MAGIC + b"\3\0\0\0", "the snapshot's format 3 is of a newer hmp: this one reads formats 1 to 2"),
        ],
    )
    def test_one_of_another_program_or_age(self, m: Modelled, data: bytes, front: bytes, words: str) -> None:
        assert refusal(m, front + data[12:]) == words

    def test_a_state_of_the_longest_length_is_read_and_a_longer_one_not(self, m: Modelled, data: bytes) -> None:
        short = with_state(data, state_in(data))
        state = short[16 : 16 + int.from_bytes(short[12:16], "little")]
        restore(m.machine, with_state(data, state.ljust(STATE_LIMIT)))
        too_long = with_state(data, state.ljust(STATE_LIMIT + 1))
        assert refusal(m, too_long) == "the snapshot's state is too large to be one"

    def test_a_state_that_ends_with_the_file(self, m: Modelled, data: bytes) -> None:
        front = MAGIC + b"\1\0\0\0" + (1000).to_bytes(4, "little")
        assert refusal(m, signed(front + b" " * 999)) == "the file is cut short"
        with pytest.raises(SnapshotError, match=r"^the file is cut short$"):
            summarize(io.BytesIO(front + b" " * 999 + bytes(32)))

    def test_a_state_that_cannot_be_read(self, m: Modelled, data: bytes) -> None:
        assert refusal(m, with_state(data, b"{")) == "the snapshot's state is not readable"
        assert refusal(m, with_state(data, b"[]")) == "snapshot is not an object"

    def test_a_summary_is_as_strict_about_what_it_shows(self, data: bytes) -> None:
        state = state_in(data)
        far = 1 << 80
        for name, value in (("date", far), ("vm_time", far), ("date", -far), ("date", 0), ("vm_time", 0), ("ram", 0)):
            summary = summarize(io.BytesIO(with_state(data, {**state, name: value})))
            assert getattr(summary, name) == value
        assert summarize(io.BytesIO(with_state(data, {**state, "ram": 1 << 44}))).ram == 1 << 44
        for name, low, high in (("date", -far, far), ("vm_time", 0, far), ("ram", 0, 1 << 44)):
            for value in (low - 1, high + 1):
                with pytest.raises(SnapshotError, match=rf"^snapshot\.{name} is not an integer from {low} to {high}$"):
                    summarize(io.BytesIO(with_state(data, {**state, name: value})))


class TestSum:
    def test_a_wrong_one_is_named(self, m: Modelled, data: bytes) -> None:
        words = "the file is damaged or cut short: its checksum does not match"
        assert refusal(m, data[:-1] + bytes([data[-1] ^ 1])) == words
        assert refusal(m, data + b"\0") == words
        assert refusal(m, data[:-1]) == words

    def test_a_file_of_many_pieces_is_summed_up_whole(self, m: Modelled, data: bytes) -> None:
        piece = le64(0, COPY) + b"x" * COPY + le64(COPY, COPY) + b"y" * COPY
        large = with_state(data, state_in(data), rest=le64(0, 0) + piece)
        restore(m.machine, large)
        for position in (100, COPY, 2 * COPY - 5, 2 * COPY + 5, len(large) - 40):
            damaged = bytearray(large)
            damaged[position] ^= 1
            assert "checksum" in refusal(m, bytes(damaged))

    def test_a_file_that_shrinks_while_it_is_read(self, m: Modelled, data: bytes) -> None:
        class Shrinking(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                return super().read(size)[:-1]

        with pytest.raises(SnapshotError, match=r"^the file is cut short$"):
            load(m.machine, Shrinking(data), make_guest)


class TestPages:
    @pytest.mark.parametrize(
        "runs",
        [
            [],
            [(0, 1)],
            [(0, PAGES)],
            [(PAGES - 1, 1)],
            [(0, 1), (1, 1), (5, 3), (PAGES - 2, 2)],
        ],
    )
    def test_runs_in_order_are_put_into_the_balloon(
        self, m: Modelled, data: bytes, runs: list[tuple[int, int]]
    ) -> None:
        rest = le64(0, len(runs), *[number for run in runs for number in run])
        restore(m.machine, with_state(data, state_in(data), rest=rest))
        assert m.device.pages.count == sum(length for _, length in runs)
        assert all(page in m.device.pages for first, length in runs for page in (first, first + length - 1))

    @pytest.mark.parametrize(
        "runs",
        [
            [(PAGES, 1)],
            [(0, PAGES + 1)],
            [(PAGES - 1, 2)],
            [(5, 0)],
            [(5, 2), (6, 1)],
            [(5, 1), (5, 1)],
            [(9, 1), (3, 1)],
        ],
    )
    def test_runs_that_cannot_be(self, m: Modelled, data: bytes, runs: list[tuple[int, int]]) -> None:
        rest = le64(0, len(runs), *[number for run in runs for number in run])
        words = "the snapshot's balloon has pages that do not exist, or a page twice"
        assert refusal(m, with_state(data, state_in(data), rest=rest)) == words

    @pytest.mark.parametrize("rest", [le64(1, 0), le64(0, 1), le64(0, 2, 5, 1), le64(0, 1 << 60)])
    def test_more_of_them_than_the_file_has_room_for(self, m: Modelled, data: bytes, rest: bytes) -> None:
        words = "the snapshot's list of pages is longer than the file"
        assert refusal(m, with_state(data, state_in(data), rest=rest)) == words

    def test_one_needs_a_device(self, m: Modelled) -> None:
        with Modelled(ram=RAM) as bare:
            bare.machine.device_del("balloon0")
            data = saved(bare.machine)
        words = "the snapshot has a balloon without a balloon device"
        rest = le64(0, 1, 5, 1) + behind_state(data)[16:]
        assert refusal(m, with_state(data, state_in(data), rest=rest)) == words
        assert refusal(m, with_state(data, {**state_in(data), "unplugging": True})) == words
        restore(m.machine, data)
        assert m.machine.device is None


class TestMemory:
    def put(self, m: Modelled, data: bytes, *pieces: tuple[int, bytes]) -> str:
        """Load a snapshot with these pieces of memory; returns why it was refused, or nothing."""
        rest = le64(0, 0) + b"".join(le64(address, len(content)) + content for address, content in pieces)
        try:
            restore(m.machine, with_state(data, state_in(data), rest=rest))
        except SnapshotError as error:
            return str(error)
        return ""

    def test_it_is_laid_where_it_was(self, m: Modelled, data: bytes) -> None:
        assert self.put(m, data, (0, PAGE), (4096, PAGE), (RAM - 8192, PAGE * 2)) == ""
        assert m.machine.memory.read(0, 8192) == PAGE * 2
        assert m.machine.memory.read(RAM - 8192, 8192) == PAGE * 2
        assert m.machine.memory.read(8192, 4096) == bytes(4096)
        assert self.put(m, data, (0, b"x" * COPY)) == ""

    @pytest.mark.parametrize(
        "piece",
        [(1, PAGE), (4095, PAGE), (0, PAGE + b"x"), (0, PAGE[1:]), (0, b""), (0, bytes(COPY + 4096))],
        ids=range(6),
    )
    def test_pieces_are_of_pages_and_no_larger_than_one_copy(
        self, m: Modelled, data: bytes, piece: tuple[int, bytes]
    ) -> None:
        assert self.put(m, data, piece) == "the snapshot's memory is not in pages"

    @pytest.mark.parametrize(
        "pieces",
        [
            [(RAM, PAGE)],
            [(RAM - 4096, PAGE * 2)],
            [(4096, PAGE), (0, PAGE)],
            [(4096, PAGE), (4096, PAGE)],
            [(4096, PAGE * 2), (8192, PAGE)],
        ],
        ids=range(5),
    )
    def test_pieces_rise_and_stay_inside(self, m: Modelled, data: bytes, pieces: list[tuple[int, bytes]]) -> None:
        assert self.put(m, data, *pieces) == "the snapshot's memory lies outside the machine's"

    def test_one_that_is_cut_off(self, m: Modelled, data: bytes) -> None:
        rest = le64(0, 0, 0, 8192) + PAGE
        assert refusal(m, with_state(data, state_in(data), rest=rest)) == "the file is cut short"
        assert refusal(m, with_state(data, state_in(data), rest=le64(0, 0, 0))) == "the file is cut short"

    def test_what_is_written_are_the_runs_without_zeros(self) -> None:
        with Modelled("nodriver", ram=RAM) as m:
            memory = m.machine.memory
            for page in (1, 2, 5, 1023):
                memory.write(page << 12, PAGE)
            memory.write(3 << 12, bytes(4096))
            rest = behind_state(saved(m.machine))
        assert rest == (
            le64(0, 0) + le64(4096, 8192) + PAGE * 2 + le64(5 << 12, 4096) + PAGE + le64(1023 << 12, 4096) + PAGE
        )

    def test_long_runs_are_written_in_pieces_of_one_copy(self) -> None:
        with Modelled("nodriver", ram=RAM) as m:
            m.machine.memory.write(0, b"x" * (2 * COPY + 4096))
            rest = behind_state(saved(m.machine))
        whole = b"x" * COPY
        assert (
            rest == le64(0, 0) + le64(0, COPY) + whole + le64(COPY, COPY) + whole + le64(2 * COPY, 4096) + b"x" * 4096
        )


def test_the_state_is_written_without_blanks(data: bytes) -> None:
    state = data[16 : 16 + int.from_bytes(data[12:16], "little")]
    assert b" " not in state
    assert state.startswith(b'{"tag":"t","date":')


def test_a_state_too_large_for_a_snapshot_is_not_written(m: Modelled) -> None:
    with Modelled(ram=RAM) as full, pytest.raises(SnapshotError) as caught:
        saved(full.machine, "x" * STATE_LIMIT)
    assert str(caught.value) == "the machine's state is too large for a snapshot"
