"""The modelled kernel to the byte: what it boots with, and what a given life makes of it.

A change here changes every recording made with a seed, so it belongs into the changelog.
"""

from __future__ import annotations

import pytest

from device.guest.model.kernel import MAX_RAM, MIN_RAM, Kernel, default_floor, default_reserved
from device.state import SnapshotError
from device.virtio.spec import GIB, MIB, TIB
from tests.support.snapshots import restore_kernel, state_of

SECOND = 1_000_000_000

BOOT: dict[tuple[int, int], tuple[int, ...]] = {
    (4 * MIB, 0): (1114112, 2371584, 290816, 417792, 172032, 167936, 339968, 16384, 2097152, 33, 1051),
    (100 * MIB, 1): (27852800, 60096512, 7041024, 9867264, 3862528, 3858432, 7720960, 536576, 52428800, 143, 33917),
    (512 * MIB, 2): (
        44023808, 430477312, 30957568, 31412224, 7868416, 7868416, 15736832, 3915776, 268435456, 144, 190256,
    ),
    (2 * GIB, 3): (
        69189632, 1833336832, 131088384, 113868800, 22810624, 22810624, 45621248, 17059840, 1073741824, 126, 214536,
    ),
    (TIB, 4): (
        17215504384, 1080093577216, 1294209024, 908337152, 162271232, 162271232, 324542464, 145948672, 549755813888,
        127, 231124,
    ),
    (16 * TIB, 5): (
        274913542144, 17315158298624, 1240207360, 873996288, 162271232, 162271232, 324542464, 137363456,
        8796093022208, 157, 186027,
    ),
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
    """As Linux counts it: the low watermark of free memory, and half of the caches or as much of them."""
    for (ram, seed), available in zip(
        BOOT, (2347008, 59756544, 445698048, 1918803968, 1081063243776, 17316073963520), strict=True
    ):
        assert Kernel(ram, seed=seed).values()[6] == available
    kernel = Kernel(512 * MIB)
    kernel.inflate(kernel.free - kernel.free_min >> 12)
    kernel.inflate(kernel.cache - kernel.cache_min >> 12)
    assert kernel.values()[6] == kernel.cache - (kernel.cache // 2 & -4096)


def test_what_is_never_given_away_is_a_line_through_the_measured_points() -> None:
    assert [default_floor(size * MIB) // MIB for size in (512, 2048)] == [72, 153]
    assert (default_reserved(MIN_RAM), default_floor(MIN_RAM)) == (1114112, 1794048)
    assert default_floor(MAX_RAM) - default_reserved(MAX_RAM) == default_floor(16 * GIB) - default_reserved(16 * GIB)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ram": MIN_RAM - 4096}, "ram must be whole pages from 4194304 to 17592186044416 bytes, not 4190208"),
        ({"ram": MAX_RAM + 4096}, "ram must be whole pages from 4194304 to 17592186044416 bytes, not 17592186048512"),
        ({"ram": MIN_RAM + 1}, "ram must be whole pages from 4194304 to 17592186044416 bytes, not 4194305"),
        ({"reserved": 8 * MIB, "floor": 8 * MIB}, "reserved and floor must rise from 0 to RAM, not 8388608, 8388608"),
        ({"reserved": -1, "floor": 8 * MIB}, "reserved and floor must rise from 0 to RAM, not -4096, 8388608"),
        ({"floor": 64 * MIB + 4096}, "reserved and floor must rise from 0 to RAM, not 17825792, 67112960"),
        ({"swap": -1}, "swap must be from 0 to 17592186044416 bytes and now not negative, not -4096, 0"),
        ({"now": -1}, "swap must be from 0 to 17592186044416 bytes and now not negative, not 33554432, -1"),
    ],
)
def test_an_impossible_guest_is_refused_with_the_numbers(options: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match="not ") as caught:
        Kernel(**{"ram": 64 * MIB, **options})
    assert str(caught.value) == words


def test_the_widest_choices_are_possible() -> None:
    kernel = Kernel(MIN_RAM, reserved=0, floor=MIN_RAM, swap=MAX_RAM)
    assert (kernel.reserved, kernel.swap_total, kernel.inflatable()) == (0, MAX_RAM, 0)
    assert Kernel(MIN_RAM, swap=0).swap_total == 0
    assert Kernel(MIN_RAM, reserved=4095 + 4096, swap=4097).reserved == 4096


Step = tuple[str, int, int | None, tuple[int, ...], tuple[int, ...]]

LIFE: list[Step] = [
    ("tick", 10000000000, None, (0, 0, 127, 139366, 429891584, 492847104, 446803968, 32649216, 0, 0, 0, 0, 0, 0), (30306304, 0, 0, 0)),
    ("inflate", 76800, 76800, (0, 0, 127, 139366, 115318784, 178274304, 132231168, 32649216, 0, 0, 0, 0, 0, 0), (30306304, 0, 0, 0)),
    ("alloc", 314572800, 314572800, (0, 182341632, 127, 216166, 7868416, 178274304, 3936256, 7868416, 0, 397, 292102144, 97361920, 155344896, 51777536), (162537472, 146800640, 167772160, 182341632)),
    ("tick", 12000000000, None, (0, 182341632, 127, 216235, 7868416, 178274304, 3936256, 7868416, 0, 397, 292102144, 97361920, 155344896, 51777536), (162537472, 146800640, 167772160, 182341632)),
    ("deflate", 38400, 38400, (0, 182341632, 127, 216235, 165154816, 335560704, 161222656, 7868416, 0, 397, 292102144, 97361920, 155344896, 51777536), (162537472, 146800640, 167772160, 182341632)),
    ("tick", 13000000005, None, (7811072, 182341632, 365, 218175, 157298688, 335560704, 153387008, 7913472, 0, 397, 292102144, 97361920, 155344896, 51777536), (170348544, 154611712, 159961088, 174530560)),
    ("free_workload", 41943041, 41947136, (7811072, 182341632, 365, 218175, 199245824, 335560704, 195334144, 7913472, 0, 397, 292102144, 97361920, 155344896, 51777536), (128401408, 112664576, 159961088, 174530560)),
    ("tick", 14000000000, None, (15622144, 182341632, 604, 220125, 191377408, 335560704, 187494400, 7970816, 0, 397, 292102144, 97361920, 155344896, 51777536), (136212480, 120475648, 152150016, 166719488)),
    ("inflate", 1048576, 74240, (15622144, 284057600, 604, 220125, 7868416, 31473664, 3936256, 7868416, 1, 594, 444755968, 148373504, 231710720, 77230080), (15736832, 0, 0, 14569472)),
    ("inflate", 1, 0, (15622144, 284057600, 604, 220125, 7868416, 31473664, 3936256, 7868416, 1, 595, 444755968, 148504576, 231710720, 77230080), (15736832, 0, 0, 14569472)),
    ("deflate", 1000, 1000, (15622144, 284057600, 604, 220125, 11964416, 35569664, 8032256, 7868416, 1, 595, 444755968, 148504576, 231710720, 77230080), (15736832, 0, 0, 14569472)),
    ("alloc", 31457280, 31457280, (15622144, 311418880, 604, 227805, 7868416, 35569664, 3936256, 7868416, 1, 648, 485797888, 162185216, 252231680, 84070400), (19832832, 4096000, 27361280, 41930752)),
    ("alloc", 2097152000, 0, (15622144, 537923584, 604, 283104, 11964416, 35569664, 8032256, 7868416, 2, 1081, 825561088, 275431424, 422113280, 140693504), (15736832, 0, 0, 14569472)),
    ("tick", 100000000000, None, (15622144, 537923584, 617, 286560, 11964416, 35569664, 8032256, 7868416, 2, 1081, 825561088, 275431424, 422113280, 140693504), (15736832, 0, 0, 14569472)),
]  # fmt: skip
"""Operation, amount, what it returned, the statistics but for the two of huge pages, and used, workload, swapped of it
and swapped in all. One inflation kills the workload, one allocation is killed."""

LIFE_THAT_DEFLATES: list[Step] = [
    ("tick", 10000000000, None, (0, 0, 127, 139366, 429891584, 492847104, 446803968, 32649216, 0, 0, 0, 0, 0, 0), (30306304, 0, 0, 0)),
    ("inflate", 76800, 76800, (0, 0, 127, 139366, 115318784, 492847104, 132231168, 32649216, 0, 0, 0, 0, 0, 0), (30306304, 0, 0, 0)),
    ("alloc", 314572800, 314572800, (0, 16777216, 127, 216166, 7868416, 492847104, 3936256, 7868416, 0, 81, 43761664, 14573568, 31174656, 10383360), (328101888, 312365056, 2207744, 16777216)),
    ("tick", 12000000000, None, (0, 16777216, 127, 216235, 7868416, 492847104, 3936256, 7868416, 0, 81, 43761664, 14573568, 31174656, 10383360), (328101888, 312365056, 2207744, 16777216)),
    ("deflate", 38400, 36379, (0, 16777216, 127, 216235, 156876800, 492847104, 152944640, 7868416, 0, 81, 43761664, 14573568, 31174656, 10383360), (328101888, 312365056, 2207744, 16777216)),
    ("tick", 13000000005, None, (7811072, 16777216, 365, 218175, 149020672, 492847104, 145108992, 7913472, 0, 81, 43761664, 14573568, 31174656, 10383360), (335912960, 314572800, 0, 8966144)),
    ("free_workload", 41943041, 41947136, (7811072, 16777216, 365, 218175, 190967808, 492847104, 187056128, 7913472, 0, 81, 43761664, 14573568, 31174656, 10383360), (293965824, 272625664, 0, 8966144)),
    ("tick", 14000000000, None, (13135872, 16777216, 528, 219518, 185585664, 492847104, 181702656, 7970816, 0, 81, 43761664, 14573568, 31174656, 10383360), (299290624, 272625664, 0, 3641344)),
    ("inflate", 1048576, 46620, (13135872, 29913088, 528, 219518, 7868416, 492847104, 3936256, 7868416, 0, 109, 63549440, 21291008, 41107456, 13688832), (286154752, 270417920, 2207744, 16777216)),
    ("inflate", 1, 0, (13135872, 29913088, 528, 219518, 7868416, 492847104, 3936256, 7868416, 0, 110, 63549440, 21422080, 41107456, 13688832), (286154752, 270417920, 2207744, 16777216)),
    ("deflate", 1000, 1000, (13135872, 29913088, 528, 219518, 11964416, 492847104, 8032256, 7868416, 0, 110, 63549440, 21422080, 41107456, 13688832), (286154752, 270417920, 2207744, 16777216)),
    ("alloc", 31457280, 31457280, (13135872, 29913088, 528, 227198, 7868416, 492847104, 3936256, 7868416, 0, 110, 63549440, 21422080, 41107456, 13688832), (317612032, 301875200, 2207744, 16777216)),
    ("alloc", 2097152000, 0, (13135872, 29913088, 528, 266138, 469241856, 492847104, 465309696, 7868416, 1, 110, 63549440, 21422080, 41107456, 13688832), (15736832, 0, 0, 14569472)),
    ("tick", 100000000000, None, (24064000, 29913088, 875, 272262, 453595136, 492847104, 452022272, 12587008, 1, 110, 63549440, 21422080, 41107456, 13688832), (26664960, 0, 0, 3641344)),
]  # fmt: skip
"""The same with little swap and a balloon that deflates on OOM."""


@pytest.mark.parametrize("deflates", [False, True])
def test_what_a_life_makes_of_it(deflates: bool) -> None:
    options = {"deflate_on_oom": True, "swap": 16 * MIB} if deflates else {}
    kernel = Kernel(512 * MIB, seed=9, now=SECOND, **options)
    for operation, amount, returned, statistics, inside in LIFE_THAT_DEFLATES if deflates else LIFE:
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
    kernel.inflate(kernel.inflatable() - (background >> 12) + 1)
    assert (kernel.oom_kills, kernel.used - kernel.used_min) == (1, background - ((background >> 1) + 4095 & -4096))
    while kernel.used > kernel.used_min:
        kernel.inflate(kernel.inflatable() - (kernel.used - kernel.used_min >> 12) + 1)
    assert kernel.oom_kills == 8, "halved until a MiB or less is left"


def test_the_killer_takes_half_of_what_the_background_has_in_swap_too() -> None:
    kernel = Kernel(2 * GIB, swap=16 * MIB)
    kernel.inflate(kernel.inflatable() - (kernel.used - kernel.used_min >> 12) + 4097)
    assert (kernel.oom_kills, kernel.swap_used, kernel.used - kernel.used_min) == (1, 8 * MIB, 26157056)
    assert kernel.free - kernel.free_min == 26157056


def test_near_the_high_mark_memory_fills_up_to_it_and_no_further() -> None:
    """Above twice the minimum of free memory there is room: for swapped memory first, then for files."""
    kernel = Kernel(64 * MIB, seed=1)
    kernel.inflate((kernel.free - 2 * kernel.free_min >> 12) - 2)
    seen = []
    for second in range(1, 4):
        kernel.tick(second * SECOND)
        seen.append((kernel.free - 2 * kernel.free_min, kernel.cache))
    assert seen == [(0, 4685824)] * 3
    kernel = Kernel(64 * MIB, seed=1)
    kernel.inflate(kernel.inflatable() - 200)
    kernel.deflate((kernel.free_min >> 12) * 3 // 2)
    seen = []
    for second in range(1, 4):
        kernel.tick(second * SECOND)
        seen.append((kernel.free - 2 * kernel.free_min, kernel.cache))
    assert seen == [(1183744, 2732032), (1101824, 2813952), (1036288, 2879488)]
    assert (kernel.swap_used, kernel.swap_in) == (323584, 163840)


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
    assert (kernel.cache, kernel.free) == (24641536, 17895424)
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
