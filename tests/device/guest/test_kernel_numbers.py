"""The modelled kernel to the byte: what it boots with, and the numbers after a given series of operations.

A change here changes every recording made with a seed, so the changelog has to mention it.
"""

from __future__ import annotations

import pytest

from device.fields import SnapshotError
from device.guest.model.kernel import MAX_RAM, MIN_RAM, Kernel, default_reserved
from device.virtio.spec import GIB, MIB, TIB
from tests.support.kernels import floor_of, inflatable
from tests.support.snapshots import restore_kernel, state_of

SECOND = 1_000_000_000

BOOT: dict[tuple[int, int], tuple[int, ...]] = {
    (4 * MIB, 0): (1114112, 2359296, 294912, 425984, 225280, 172032, 348160, 16384, 2097152, 33, 1051),
    (100 * MIB, 1): (27852800, 58744832, 7446528, 10813440, 1126400, 4366336, 8736768, 516096, 52428800, 143, 33917),
    (512 * MIB, 2): (44023808, 425373696, 32489472, 34983936, 2842624, 9785344, 19570688, 3850240, 268435456, 144, 190256),
    (2 * GIB, 3): (69189632, 1853677568, 125071360, 99545088, 46141440, 15118336, 30240768, 17326080, 1073741824, 126, 214536),
    (TIB, 4): (17282613248, 1080372498432, 1178865664, 677650432, 133156864, 46927872, 93855744, 145948672, 549755813888, 127, 231124),
    (16 * TIB, 5): (274980651008, 17315437219840, 1124864000, 643309568, 268435456, 46927872, 93855744, 137363456, 8796093022208, 157, 186027),
}  # fmt: skip
"""By RAM and seed: reserved, free, cache, used, the minima of these three, cold, swap, major and minor faults."""

NAMES = (
    "reserved", "free", "cache", "used", "free_min", "cache_min", "used_min", "cold", "swap_total", "majflt", "minflt",
)  # fmt: skip


@pytest.mark.parametrize(("ram", "seed"), BOOT)
def test_what_a_guest_boots_with(ram: int, seed: int) -> None:
    state = state_of(Kernel(ram, seed=seed))
    assert tuple(state[name] for name in NAMES) == BOOT[ram, seed]
    rest = {name: value for name, value in state.items() if name not in NAMES}
    assert rest == dict.fromkeys(rest, 0) | {"ram": ram, "seed": seed}


def test_available_memory_leaves_out_what_must_stay() -> None:
    """As Linux counts it: the high mark of free memory, and half of the caches or the low mark of them."""
    for (ram, seed), available in zip(
        BOOT, (2158592, 62799872, 448122880, 1843744768, 1076957728768, 17248178552832), strict=True
    ):
        assert Kernel(ram, seed=seed).values()[6] == available
    kernel = Kernel(512 * MIB)
    kernel.inflate(kernel.free - kernel.free_min >> 12)
    kernel.inflate(kernel.cache - kernel.cache_min >> 12)
    low, high = kernel.free_min * 5 // 4 & -4096, kernel.free_min * 3 // 2 + (kernel.ram - kernel.reserved >> 8) & -4096
    assert low < kernel.cache // 2
    assert kernel.values()[6] == kernel.free - high + kernel.cache - low


@pytest.mark.parametrize(
    ("ram", "floor"), [(256, 67), (384, 70), (512, 73), (640, 110), (1024, 132), (2048, 153), (4096, 288)]
)
def test_what_is_never_given_away_is_what_was_measured(ram: int, floor: int) -> None:
    """Between 512 and 640 MiB there is a step: khugepaged wants more free memory."""
    assert floor_of(ram * MIB) / MIB == pytest.approx(floor, rel=0.025)


@pytest.mark.parametrize(
    ("ram", "total", "below"),
    [(384, 352272, -1340), (512, 481296, 272), (640, 609552, 42304), (1024, 996624, 66852), (2048, 2027280, 70880),
     (4096, 4022288, 115472)],
)  # fmt: skip
def test_total_and_available_are_what_was_measured(ram: int, total: int, below: int) -> None:
    """MemTotal, and how far MemAvailable is below MemFree and what of files and slabs counts (5,670 there), in KiB."""
    kernel = Kernel(ram * MIB)
    values = kernel.values()
    assert values[5] / (total << 10) == pytest.approx(1, rel=0.002)
    files = kernel.cache - min(kernel.cache // 2, kernel.free_min * 5 // 4)
    assert (values[4] - values[6] + files >> 10) == pytest.approx(below + 5670, rel=0.15)


def test_what_is_never_given_away_of_the_smallest_and_the_largest() -> None:
    assert (default_reserved(MIN_RAM), floor_of(MIN_RAM)) == (1114112, 1859584)
    assert floor_of(MAX_RAM) - default_reserved(MAX_RAM) < 400 * MIB


def test_swap_may_be_nothing_or_as_large_as_the_largest_ram() -> None:
    assert Kernel(MIN_RAM, swap=MAX_RAM).swap_total == MAX_RAM
    assert Kernel(MIN_RAM, swap=0).swap_total == 0
    assert Kernel(MIN_RAM, swap=4097).swap_total == 4096


STEPS = [
    ("tick", 10000000000),
    ("inflate", 76800),
    ("alloc", 314572800),
    ("tick", 12000000000),
    ("deflate", 38400),
    ("tick", 13000000005),
    ("free_workload", 41943041),
    ("tick", 14000000000),
    ("inflate", 1048576),
    ("inflate", 1),
    ("deflate", 1000),
    ("alloc", 31457280),
    ("alloc", 2097152000),
    ("tick", 100000000000),
]
"""The operations of a life and their amounts: ns of VM time, pages, or bytes of a workload."""

Seen = tuple[int | None, tuple[int, ...], tuple[int, ...]]

LIFE: list[Seen] = [
    (None, (0, 0, 127, 139366, 424787968, 492847104, 449208320, 34160640, 0, 0, 0, 0, 0, 0), (33898496, 0, 0, 0)),
    (76800, (0, 0, 127, 139366, 110215168, 178274304, 134635520, 34160640, 0, 0, 0, 0, 0, 0), (33898496, 0, 0, 0)),
    (314572800, (0, 182824960, 127, 216166, 2842624, 178274304, 2887680, 9785344, 0, 397, 292528128, 97497088, 155406336, 51793920), (165646336, 146075648, 168497152, 182824960)),
    (None, (0, 182824960, 127, 216235, 2842624, 178274304, 2887680, 9785344, 0, 397, 292528128, 97497088, 155406336, 51793920), (165646336, 146075648, 168497152, 182824960)),
    (38400, (0, 182824960, 127, 216235, 160129024, 335560704, 160174080, 9785344, 0, 397, 292528128, 97497088, 155406336, 51793920), (165646336, 146075648, 168497152, 182824960)),
    (None, (7811072, 182824960, 365, 218175, 152272896, 335560704, 152363008, 9830400, 0, 397, 292528128, 97497088, 155406336, 51793920), (173457408, 153886720, 160686080, 175013888)),
    (41947136, (7811072, 182824960, 365, 218175, 194220032, 335560704, 194310144, 9830400, 0, 397, 292528128, 97497088, 155406336, 51793920), (131510272, 111939584, 160686080, 175013888)),
    (None, (15622144, 182824960, 604, 220125, 186351616, 335560704, 186499072, 9887744, 0, 397, 292528128, 97497088, 155406336, 51793920), (139321344, 119750656, 152875008, 167202816)),
    (74063, (15622144, 284057600, 604, 220125, 2842624, 32198656, 2887680, 9785344, 1, 593, 444461056, 148262912, 231411712, 77123584), (19570688, 0, 0, 14327808)),
    (0, (15622144, 284057600, 604, 220125, 2842624, 32198656, 2887680, 9785344, 1, 594, 444461056, 148393984, 231411712, 77123584), (19570688, 0, 0, 14327808)),
    (1000, (15622144, 284057600, 604, 220125, 6938624, 36294656, 6983680, 9785344, 1, 594, 444461056, 148393984, 231411712, 77123584), (19570688, 0, 0, 14327808)),
    (31457280, (15622144, 311418880, 604, 227805, 2842624, 36294656, 2887680, 9785344, 1, 647, 485502976, 162074624, 251932672, 83963904), (23666688, 4096000, 27361280, 41689088)),
    (0, (15622144, 538165248, 604, 283163, 6938624, 36294656, 6983680, 9785344, 2, 1080, 825626624, 275443712, 421994496, 140648448), (19570688, 0, 0, 14327808)),
    (None, (16875520, 538165248, 656, 286925, 5685248, 36294656, 5730304, 9785344, 2, 1080, 825626624, 275443712, 421994496, 140648448), (20824064, 0, 0, 13074432)),
]  # fmt: skip
"""What each step returned, the statistics but for the two of huge pages, and used, workload, swapped of it
and swapped in all. One inflation kills the workload, one allocation is killed."""

LIFE_THAT_DEFLATES: list[Seen] = [
    (None, (0, 0, 127, 139366, 424787968, 492847104, 449208320, 34160640, 0, 0, 0, 0, 0, 0), (33898496, 0, 0, 0)),
    (76800, (0, 0, 127, 139366, 110215168, 492847104, 134635520, 34160640, 0, 0, 0, 0, 0, 0), (33898496, 0, 0, 0)),
    (314572800, (0, 16777216, 127, 216166, 2842624, 492847104, 2887680, 9785344, 0, 80, 43458560, 14471168, 30871552, 10280960), (331694080, 312123392, 2449408, 16777216)),
    (None, (0, 16777216, 127, 216235, 2842624, 492847104, 2887680, 9785344, 0, 80, 43458560, 14471168, 30871552, 10280960), (331694080, 312123392, 2449408, 16777216)),
    (36261, (0, 16777216, 127, 216235, 151367680, 492847104, 151412736, 9785344, 0, 80, 43458560, 14471168, 30871552, 10280960), (331694080, 312123392, 2449408, 16777216)),
    (None, (7811072, 16777216, 365, 218175, 143511552, 492847104, 143601664, 9830400, 0, 80, 43458560, 14471168, 30871552, 10280960), (339505152, 314572800, 0, 8966144)),
    (41947136, (7811072, 16777216, 365, 218175, 185458688, 492847104, 185548800, 9830400, 0, 80, 43458560, 14471168, 30871552, 10280960), (297558016, 272625664, 0, 8966144)),
    (None, (13197312, 16777216, 530, 219533, 180015104, 492847104, 180162560, 9887744, 0, 80, 43458560, 14471168, 30871552, 10280960), (302944256, 272625664, 0, 3579904)),
    (46502, (13197312, 29974528, 530, 219533, 2842624, 492847104, 2887680, 9785344, 0, 108, 63336448, 21221376, 40849408, 13602816), (289746944, 270176256, 2449408, 16777216)),
    (0, (13197312, 29974528, 530, 219533, 2842624, 492847104, 2887680, 9785344, 0, 109, 63336448, 21352448, 40849408, 13602816), (289746944, 270176256, 2449408, 16777216)),
    (1000, (13197312, 29974528, 530, 219533, 6938624, 492847104, 6983680, 9785344, 0, 109, 63336448, 21352448, 40849408, 13602816), (289746944, 270176256, 2449408, 16777216)),
    (31457280, (13197312, 29974528, 530, 227213, 2842624, 492847104, 2887680, 9785344, 0, 109, 63336448, 21352448, 40849408, 13602816), (321204224, 301633536, 2449408, 16777216)),
    (0, (13197312, 29974528, 530, 266035, 463491072, 492847104, 463536128, 9785344, 1, 109, 63336448, 21352448, 40849408, 13602816), (19570688, 0, 0, 14327808)),
    (None, (23945216, 29974528, 871, 272115, 448024576, 492847104, 452788224, 14503936, 1, 109, 63336448, 21352448, 40849408, 13602816), (30318592, 0, 0, 3579904)),
]  # fmt: skip
"""The same steps with little swap and a balloon that deflates on OOM."""


@pytest.mark.parametrize("deflates", [False, True])
def test_each_step_of_a_long_run_has_its_recorded_numbers(deflates: bool) -> None:
    kernel = Kernel(512 * MIB, seed=9, now=SECOND, swap=16 * MIB if deflates else None)
    kernel.set_deflate_on_oom(deflates)
    seen = LIFE_THAT_DEFLATES if deflates else LIFE
    for (operation, amount), (returned, statistics, inside) in zip(STEPS, seen, strict=True):
        relief = [kernel.deflate] if deflates and operation == "alloc" else []
        assert getattr(kernel, operation)(amount, *relief) == returned
        values = kernel.values()
        assert values[:8] + values[10:16] == statistics
        assert values[8:10] == (0, 0)
        assert (kernel.used, kernel.workload, kernel.workload_swap, kernel.swap_used) == inside
        copy = restore_kernel(state_of(kernel))
        assert (copy.values(), state_of(copy)) == (values, state_of(kernel))


def test_the_killer_takes_half_of_a_large_background_and_all_of_a_small_one() -> None:
    kernel = Kernel(2 * GIB, swap=0)
    background = kernel.used - kernel.used_min
    kernel.inflate(inflatable(kernel) - (background >> 12) + 1)
    assert (kernel.oom_kills, kernel.used - kernel.used_min) == (1, background - ((background >> 1) + 4095 & -4096))
    while kernel.used > kernel.used_min:
        kernel.inflate(inflatable(kernel) - (kernel.used - kernel.used_min >> 12) + 1)
    assert kernel.oom_kills == 8, "halved until a MiB or less is left"


def test_the_killer_takes_half_of_what_the_background_has_in_swap_too() -> None:
    kernel = Kernel(2 * GIB, swap=16 * MIB)
    kernel.inflate(inflatable(kernel) - (kernel.used - kernel.used_min >> 12) + 4097)
    assert (kernel.oom_kills, kernel.swap_used, kernel.used - kernel.used_min) == (1, 8 * MIB, 26693632)
    assert kernel.free - kernel.free_min == 26693632


def test_near_the_high_mark_memory_fills_up_to_it_and_no_further() -> None:
    """Above twice the minimum of free memory there is room: for swapped memory first, then for files."""
    kernel = Kernel(64 * MIB, seed=1)
    kernel.inflate((kernel.free - 2 * kernel.free_min >> 12) - 2)
    seen = []
    for second in range(1, 4):
        kernel.tick(second * SECOND)
        seen.append((kernel.free - 2 * kernel.free_min, kernel.cache))
    assert seen == [(0, 4747264)] * 3
    kernel = Kernel(64 * MIB, seed=1)
    kernel.inflate(inflatable(kernel) - 200)
    kernel.deflate((kernel.free_min >> 12) * 3 // 2)
    seen = []
    for second in range(1, 4):
        kernel.tick(second * SECOND)
        seen.append((kernel.free - 2 * kernel.free_min, kernel.cache))
    assert seen == [(282624, 2805760), (200704, 2887680), (135168, 2953216)]
    assert (kernel.swap_used, kernel.swap_in) == (323584, 155648)


def test_faults_of_a_part_of_a_second() -> None:
    kernel = Kernel(512 * MIB, seed=9)
    faults = []
    for tenth in range(0, 25, 3):
        kernel.tick(tenth * SECOND // 10)
        faults.append(kernel.values()[3])
    assert faults == [138984, 138994, 139004, 139014, 139036, 139044, 139052, 139071, 139080]


def test_swapped_memory_of_a_workload_comes_back_and_what_is_cold_stays() -> None:
    kernel = Kernel(512 * MIB, seed=3)
    kernel.inflate(300 << 8)
    kernel.alloc(300 * MIB)
    kernel.deflate(300 << 8)
    assert kernel.workload_swap > 0
    kernel.tick(3600 * SECOND)
    assert (kernel.workload, kernel.workload_swap, kernel.swap_used) == (300 * MIB, 0, kernel.cold)


def test_in_the_long_run_files_fill_half_of_the_memory() -> None:
    kernel = Kernel(64 * MIB, seed=1)
    kernel.tick(1_000_000 * SECOND)
    assert (kernel.cache, kernel.free) == (24641536, 17752064)
    assert kernel.cache == kernel.ram - kernel.reserved >> 1 & -4096


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ram", MIN_RAM - 4096, "ram does not fit the other fields"),
        ("deflate_on_oom", 2, "deflate_on_oom is not an integer from 0 to 1"),
        ("now", SECOND - 1, "now does not fit the other fields"),
        ("free_min", 1 << 40, "free does not fit the other fields"),
        ("cache_min", 1 << 40, "cache does not fit the other fields"),
        ("workload", 1 << 40, "workload does not fit the other fields"),
        ("swap_total", MAX_RAM + 4096, "swap_total does not fit the other fields"),
        ("swap_used", 1 << 40, "swap_used does not fit the other fields"),
        ("workload_swap", 4096, "workload_swap does not fit the other fields"),
        ("reserved", 4096, "ram does not fit the other fields"),
        ("swap_in", 1, "swap_in is not in whole pages"),
        ("majflt", 1 << 63, f"majflt is not an integer from 0 to {(1 << 63) - 1}"),
        ("seed", 1 << 64, f"seed is not an integer from 0 to {(1 << 64) - 1}"),
        ("boot", -1, f"boot is not an integer from 0 to {(1 << 63) - 1}"),
    ],
)
def test_a_state_that_does_not_fit_together_is_refused_by_the_field(name: str, value: int, words: str) -> None:
    state = state_of(Kernel(512 * MIB, now=SECOND))
    with pytest.raises(SnapshotError) as caught:
        restore_kernel({**state, name: value})
    assert str(caught.value) == f"kernel.{words}"


def test_a_state_at_its_limits_is_taken() -> None:
    state = state_of(Kernel(512 * MIB, now=SECOND))
    for name, value in (
        ("seed", (1 << 64) - 1),
        ("majflt", (1 << 63) - 1),
        ("now", SECOND),
        ("deflate_on_oom", 1),
        ("swap_total", MAX_RAM),
        ("swap_used", state["swap_total"]),
        ("free_min", state["free"]),
        ("cache_min", state["cache"]),
        ("workload", state["used"] - state["used_min"]),
    ):
        assert state_of(restore_kernel({**state, name: value}))[name] == value
    del state["ram"]
    with pytest.raises(SnapshotError, match=r"^kernel\.ram is missing$"):
        restore_kernel(state)
