"""The modelled guest kernel's memory: sums, order of reclaim, floor, counters, calibration, saved state."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.balloon.spec import STAT_COUNT
from device.fields import SnapshotError
from device.guest.model.kernel import MAX_RAM, MIN_RAM, PAGE, Kernel, mix
from tests.support.kernels import inflatable
from tests.support.snapshots import restore_kernel, state_of

MIB, SECOND = 1 << 20, 1_000_000_000
SWAP_IN, SWAP_OUT, MAJFLT, MINFLT, FREE, TOTAL, AVAILABLE, CACHES = range(8)
HTLB_ALLOC, HTLB_FAIL, OOM_KILLS, STALLS, ASYNC_SCANS, DIRECT_SCANS, ASYNC_RECLAIMS, DIRECT_RECLAIMS = range(8, 16)
COUNTERS = (SWAP_IN, SWAP_OUT, MAJFLT, MINFLT, *range(HTLB_ALLOC, 16))
BYTES = (SWAP_IN, SWAP_OUT, FREE, TOTAL, AVAILABLE, CACHES, *range(ASYNC_SCANS, 16))


def outside(kernel: Kernel) -> int:
    """RAM that the balloon does not hold: what `actual` shows, in bytes."""
    return kernel.ram - kernel.ballooned


def check(kernel: Kernel) -> None:
    """What holds after every operation."""
    values = kernel.values()
    assert 16 <= len(values) <= STAT_COUNT, "a new one has the next tag of STATS_TABLE"
    assert all(type(value) is int and 0 <= value < 2**64 - 1 for value in values)
    assert all(values[tag] % PAGE == 0 for tag in BYTES)
    shown = kernel.ballooned if kernel.deflate_on_oom else 0
    assert values[FREE] + values[CACHES] + kernel.used + shown == values[TOTAL]
    assert values[TOTAL] == kernel.ram - kernel.reserved - kernel.ballooned + shown
    assert values[AVAILABLE] <= values[FREE] + values[CACHES]
    assert kernel.free >= kernel.free_min > 0 < kernel.cache_min <= kernel.cache
    assert kernel.used - kernel.used_min >= kernel.workload >= 0
    assert 0 <= kernel.workload_swap <= kernel.swap_used <= kernel.swap_total
    assert values[ASYNC_SCANS] >= values[ASYNC_RECLAIMS]
    assert values[DIRECT_SCANS] >= values[DIRECT_RECLAIMS]
    assert values[HTLB_ALLOC] == values[HTLB_FAIL] == 0


def test_balloon_256_on_512_mib_leaves_the_measured_memtotal() -> None:
    kernel = Kernel(512 * MIB)
    assert kernel.total == 481296 << 10
    assert kernel.inflate(256 * MIB // PAGE) == 256 * MIB // PAGE
    assert kernel.total == 219152 << 10
    assert kernel.values()[OOM_KILLS] == kernel.values()[SWAP_OUT] == 0


@pytest.mark.parametrize(("ram", "stuck"), [(512, 72), (2048, 153)])
@pytest.mark.parametrize("target", [64, 32, 16, 1])
@pytest.mark.parametrize("seed", [0, 1, 99])
def test_over_inflation_stops_where_linux_stops(ram: int, stuck: int, target: int, seed: int) -> None:
    kernel = Kernel(ram * MIB, seed=seed)
    while (need := (outside(kernel) - target * MIB) // PAGE) and kernel.inflate(min(256, need)):
        check(kernel)
    assert outside(kernel) // MIB == stuck
    kernel.tick(3600 * SECOND)
    assert kernel.inflate(256) == 0, "an hour at the floor yields nothing more"


@pytest.mark.parametrize("ram", [MIN_RAM, MIN_RAM + PAGE, 8 * MIB, 88 * MIB, 136 * MIB, 1 << 30, 1 << 40, MAX_RAM])
def test_every_guest_boots_with_memory_to_spare(ram: int) -> None:
    kernel = Kernel(ram)
    check(kernel)
    assert kernel.free > ram // 2
    assert kernel.values()[FREE] >= 256 << 10
    assert outside(kernel) - (inflatable(kernel) << 12) < ram * 45 // 100


def test_a_larger_guest_has_more_of_everything() -> None:
    guests = [Kernel(size * MIB) for size in (4, 5, 32, 100, 137, 500, 4096, 1 << 20)]
    for name in ("reserved", "total", "free", "free_min", "swap_total"):
        assert guests == sorted(guests, key=lambda guest: getattr(guest, name)), name


class TestInflating:
    def test_takes_free_memory_then_caches_then_swaps_and_kills_last(self) -> None:
        kernel = Kernel(512 * MIB, swap=16 * MIB)
        kernel.alloc(100 * MIB)
        used, cache = kernel.used, kernel.cache
        kernel.inflate((kernel.free - kernel.free_min) // PAGE)
        assert (kernel.free, kernel.used, kernel.cache) == (kernel.free_min, used, cache)
        assert not any(kernel.values()[tag] for tag in (SWAP_OUT, OOM_KILLS, STALLS, ASYNC_SCANS, DIRECT_SCANS))
        kernel.inflate((kernel.cache - kernel.cache_min) // PAGE)
        assert (kernel.used, kernel.cache) == (used, kernel.cache_min)
        assert kernel.values()[SWAP_OUT] == kernel.values()[OOM_KILLS] == 0
        assert kernel.values()[ASYNC_RECLAIMS] + kernel.values()[DIRECT_RECLAIMS] == cache - kernel.cache_min
        assert kernel.values()[STALLS] > 0
        kernel.inflate(16 * MIB // PAGE)
        assert kernel.used == used - 16 * MIB
        assert kernel.values()[SWAP_OUT] == kernel.swap_used == 16 * MIB
        assert kernel.values()[OOM_KILLS] == 0
        assert kernel.inflate(1) == 1
        assert kernel.values()[OOM_KILLS] == 1
        assert kernel.workload == kernel.workload_swap == 0
        check(kernel)

    def test_at_the_floor_the_search_for_pages_still_shows(self) -> None:
        kernel = Kernel(64 * MIB)
        kernel.inflate(1 << 20)
        before = kernel.values()
        assert kernel.inflate(256) == 0
        changed = {tag for tag in range(16) if kernel.values()[tag] != before[tag]}
        assert changed == {STALLS, DIRECT_SCANS}

    def test_a_balloon_that_deflates_on_oom_kills_nobody(self) -> None:
        kernel = Kernel(512 * MIB, swap=0)
        kernel.set_deflate_on_oom(True)
        kernel.inflate(1 << 20)
        assert kernel.values()[OOM_KILLS] == 0
        assert outside(kernel) > 72 * MIB

    def test_total_follows_what_the_driver_negotiated(self) -> None:
        kernel = Kernel(512 * MIB)
        kernel.inflate(256)
        less = kernel.total
        kernel.set_deflate_on_oom(True)
        assert kernel.total == less + MIB


class TestDeflating:
    def test_gives_back_no_more_than_was_taken(self) -> None:
        kernel = Kernel(512 * MIB)
        before = kernel.values()
        kernel.inflate(1000)
        assert [kernel.deflate(600) for _ in range(3)] == [600, 400, 0]
        assert kernel.values() == before

    def test_what_was_swapped_comes_back_as_time_passes_but_for_the_cold(self) -> None:
        kernel = Kernel(512 * MIB)
        kernel.inflate(1 << 20)
        swapped = kernel.swap_used
        assert swapped > 0
        kernel.tick(SECOND)
        assert kernel.values()[SWAP_IN] == 0, "no room yet"
        kernel.deflate(1 << 20)
        faults = kernel.values()[MAJFLT]
        kernel.tick(2 * SECOND)
        assert 0 < kernel.values()[SWAP_IN] < swapped
        assert kernel.values()[MAJFLT] > faults
        kernel.tick(600 * SECOND)
        assert kernel.swap_used == kernel.cold
        assert kernel.values()[SWAP_IN] == swapped - kernel.cold
        check(kernel)


@pytest.mark.parametrize("operation", ["inflate", "deflate", "alloc", "free_workload"])
@pytest.mark.parametrize("amount", [-1, -(1 << 70)])
def test_a_negative_amount_is_refused_and_changes_nothing(operation: str, amount: int) -> None:
    kernel = Kernel(64 * MIB)
    kernel.inflate(256)
    kernel.alloc(MIB)
    before = state_of(kernel)
    with pytest.raises(ValueError, match="negative"):
        getattr(kernel, operation)(amount)
    assert state_of(kernel) == before


class TestWorkload:
    def test_takes_memory_and_gives_it_back(self) -> None:
        kernel = Kernel(512 * MIB)
        before = kernel.values()
        assert kernel.alloc(100 * MIB) == 100 * MIB
        assert kernel.workload == 100 * MIB
        assert kernel.values()[FREE] == before[FREE] - 100 * MIB
        assert kernel.values()[MINFLT] == before[MINFLT] + 100 * MIB // PAGE
        assert [kernel.free_workload(60 * MIB) for _ in range(3)] == [60 * MIB, 40 * MIB, 0]
        assert kernel.values()[FREE] == before[FREE]

    def test_under_pressure_drops_caches_and_swaps(self) -> None:
        kernel = Kernel(512 * MIB)
        size = kernel.total
        assert kernel.alloc(size) == size
        assert kernel.cache == kernel.cache_min
        assert kernel.workload + kernel.workload_swap == size
        assert kernel.values()[SWAP_OUT] == kernel.swap_used > 0
        assert kernel.values()[OOM_KILLS] == 0
        check(kernel)
        assert kernel.free_workload(1 << 40) == size, "swapped or not"

    def test_at_the_balloons_floor_lives_in_swap(self) -> None:
        kernel = Kernel(512 * MIB)
        kernel.inflate(1 << 20)
        assert kernel.alloc(10 * MIB) == kernel.workload_swap == 10 * MIB

    def test_is_killed_when_nothing_is_left_and_its_memory_returns(self) -> None:
        kernel = Kernel(512 * MIB)
        assert kernel.alloc(300 * MIB) == 300 * MIB
        assert kernel.alloc(1 << 40) == 0
        assert kernel.workload == kernel.workload_swap == 0
        assert kernel.values()[OOM_KILLS] == 1
        assert kernel.values()[FREE] > 400 * MIB
        assert kernel.alloc(100 * MIB) == 100 * MIB, "and the next one lives"
        check(kernel)


class TestRelief:
    """Deflate-on-oom: the balloon gives pages back before anybody is killed (virtio 1.2 section 5.5.6.1)."""

    def test_saves_the_workload(self) -> None:
        kernel = Kernel(512 * MIB, swap=0)
        kernel.set_deflate_on_oom(True)
        kernel.inflate(300 * MIB // PAGE)
        asked: list[int] = []

        def relief(pages: int) -> int:
            check(kernel)
            asked.append(pages)
            return kernel.deflate(min(pages, 256))  # as Linux: 256 pages a call

        assert kernel.alloc(300 * MIB, relief) == 300 * MIB
        assert kernel.values()[OOM_KILLS] == 0
        assert asked == sorted(asked, reverse=True)
        assert kernel.cache == kernel.cache_min, "caches went first"
        check(kernel)

    def test_that_brings_no_page_is_asked_once(self) -> None:
        kernel = Kernel(512 * MIB, swap=0)
        calls: list[int] = []
        assert kernel.alloc(1 << 30, lambda pages: calls.append(pages) or pages) == 0  # type: ignore[func-returns-value]
        assert len(calls) == 1


class TestTime:
    def test_an_idle_guest_faults_some_tens_of_times_a_second(self) -> None:
        kernel = Kernel(1024 * MIB)
        before = kernel.values()
        kernel.tick(100 * SECOND)
        after = kernel.values()
        assert 3000 < after[MINFLT] - before[MINFLT] < 5000
        assert 0 < after[MAJFLT] - before[MAJFLT] < 100
        assert 0 < after[CACHES] - before[CACHES] < 20 * MIB
        assert before[FREE] - after[FREE] == after[CACHES] - before[CACHES]

    def test_faults_rise_within_a_second_too(self) -> None:
        kernel = Kernel(1024 * MIB)
        faults = []
        for tenth in range(50):
            kernel.tick(tenth * SECOND // 10)
            faults.append(kernel.values()[MINFLT])
        assert len(set(faults)) > 25

    def test_no_time_no_change(self) -> None:
        kernel = Kernel(1024 * MIB, now=5 * SECOND)
        kernel.tick(9 * SECOND)
        before = kernel.values()
        kernel.tick(9 * SECOND)
        kernel.tick(3 * SECOND)
        assert kernel.values() is before

    @given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 10**13), min_size=1, max_size=20))
    def test_how_often_it_is_asked_makes_no_difference(self, seed: int, times: list[int]) -> None:
        often, once = Kernel(2048 * MIB, seed=seed), Kernel(2048 * MIB, seed=seed)
        for kernel in (often, once):
            kernel.alloc(kernel.total)
            kernel.free_workload(kernel.total // 2)
        for time in sorted(times):
            often.tick(time)
        once.tick(max(times))
        assert often.values() == once.values()
        assert state_of(often) == state_of(once)

    def test_seeds_differ_slightly_and_repeat_exactly(self) -> None:
        def run(seed: int) -> tuple[int, ...]:
            kernel = Kernel(1024 * MIB, seed=seed)
            kernel.tick(12345 * SECOND // 10)
            return kernel.values()

        seen = {run(seed) for seed in range(20)}
        assert len(seen) == 20
        assert all(abs(values[FREE] - run(0)[FREE]) < 16 * MIB for values in seen)
        assert run(-1) == run(2**64 - 1) == run(-1)

    def test_the_numbers_are_the_same_on_every_python(self) -> None:
        """Golden: a change here changes every recording made with a seed, so the changelog has to mention it."""
        kernel = Kernel(1024 * MIB, seed=7)
        kernel.tick(5 * SECOND)
        assert kernel.values()[:8] == (0, 0, 155, 230173, 901296128, 1021329408, 859709440, 63213568)

    def test_the_mixer_is_splitmix64(self) -> None:
        """The first outputs of the published generator from seed 1234567."""
        golden = 0x9E3779B97F4A7C15
        assert [mix(1234567 + index * golden) for index in range(3)] == [
            6457827717110365317,
            3203168211198807973,
            9817491932198370423,
        ]


SIZES = st.sampled_from([MIN_RAM, MIN_RAM + 5 * PAGE, 16 * MIB, 100 * MIB, 512 * MIB, 1 << 30, 1 << 40, MAX_RAM])
AMOUNTS = st.one_of(st.integers(0, 600), st.integers(0, 1 << 20), st.integers(0, 1 << 45))
NAMES = st.sampled_from(["tick", "inflate", "deflate", "alloc", "relieved", "free_workload", "restore"])
OPERATIONS = st.lists(st.tuples(NAMES, AMOUNTS), max_size=30)


@settings(max_examples=300, deadline=None)
@given(SIZES, st.integers(0, 2**64 - 1), st.sampled_from([None, 0, PAGE, 3 * MIB]), st.booleans(), OPERATIONS)
def test_after_any_steps_the_amounts_add_up(
    ram: int, seed: int, swap: int | None, deflate_on_oom: bool, operations: list[tuple[str, int]]
) -> None:
    kernel = Kernel(ram, seed=seed, swap=swap)
    kernel.set_deflate_on_oom(deflate_on_oom)
    floor = kernel.reserved + kernel.free_min + kernel.cache_min + kernel.used_min
    check(kernel)
    for operation, amount in operations:
        before, ballooned, had = kernel.values(), kernel.ballooned, kernel.workload + kernel.workload_swap
        if operation == "tick":
            kernel.tick(kernel.now + amount)
        elif operation == "inflate":
            most = inflatable(kernel)
            assert kernel.inflate(amount) == min(amount, most)
            assert kernel.ballooned == ballooned + (min(amount, most) << 12)
        elif operation == "deflate":
            assert kernel.deflate(amount) == (ballooned - kernel.ballooned) >> 12 == min(amount, ballooned >> 12)
        elif operation in ("alloc", "relieved"):
            got = kernel.alloc(amount, kernel.deflate if operation == "relieved" else None)
            kills = kernel.values()[OOM_KILLS] - before[OOM_KILLS]
            assert got == -(-amount // PAGE) * PAGE if not kills else got == 0
            assert kernel.workload + kernel.workload_swap == (0 if kills else had + got)
        elif operation == "free_workload":
            assert kernel.free_workload(amount) == min(had, -(-amount // PAGE) * PAGE)
        else:
            kernel = restore_kernel(state_of(kernel))
            assert kernel.values() == before
        check(kernel)
        assert all(kernel.values()[tag] >= before[tag] for tag in COUNTERS)
        assert outside(kernel) >= floor


def busy() -> Kernel:
    """A guest with something in every field."""
    kernel = Kernel(512 * MIB, seed=3, now=SECOND)
    kernel.tick(10 * SECOND)
    kernel.inflate(300 * MIB // PAGE)
    kernel.alloc(300 * MIB)
    kernel.deflate(150 * MIB // PAGE)
    kernel.tick(13 * SECOND)
    return kernel


class TestSavedState:
    def test_goes_on_where_it_was_saved(self) -> None:
        kernel = busy()
        twin = restore_kernel(state_of(kernel))
        for each in (kernel, twin):
            each.tick(20 * SECOND + 123_456_789)
            each.inflate(256)
            each.alloc(MIB)
        assert twin.values() == kernel.values()
        assert state_of(twin) == state_of(kernel)

    @pytest.mark.parametrize("name", [member.name for member in Kernel.STATE if not member.late])
    def test_a_missing_field_is_named(self, name: str) -> None:
        state = state_of(busy())
        del state[name]
        with pytest.raises(SnapshotError, match=rf"^kernel\.{name} is missing$"):
            restore_kernel(state)

    @pytest.mark.parametrize("name", sorted(state_of(busy())))
    @pytest.mark.parametrize("spoilt", [-1, 1 << 64, 1.0, True, None, "4096"])
    def test_a_spoilt_field_is_named(self, name: str, spoilt: Any) -> None:
        with pytest.raises(SnapshotError, match=rf"^kernel\.{name} is "):
            restore_kernel({**state_of(busy()), name: spoilt})

    @pytest.mark.parametrize(
        ("name", "change"),
        [("free", 1), ("swap_out", 1), ("now", -13 * SECOND), ("free_min", 1 << 40), ("cache_min", 1 << 40), ("ram", PAGE),
         ("used_min", 1 << 40), ("workload", 1 << 40), ("swap_total", 1 << 50), ("swap_used", 1 << 40), ("ram", 1 << 50),
         ("workload_swap", 1 << 40), ("ballooned", PAGE), ("reserved", PAGE), ("deflate_on_oom", 2)],
    )  # fmt: skip
    def test_fields_that_contradict_each_other_are_refused(self, name: str, change: int) -> None:
        state = state_of(busy())
        state[name] += change
        with pytest.raises(SnapshotError, match=r"^kernel\."):
            restore_kernel(state)

    def test_an_unknown_field_is_refused_in_few_words(self) -> None:
        with pytest.raises(SnapshotError, match="unknown") as error:
            restore_kernel({**state_of(busy()), "\x1b" * 1000: 1})
        assert len(str(error.value)) < 100
        assert "\x1b" not in str(error.value)
