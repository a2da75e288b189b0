"""The host guest's numbers: /proc/meminfo and /proc/vmstat as a balloon driver tells them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from device.guest.model.host import read_host_statistics
from tests.support.descriptors import open_descriptors

Read = Callable[..., dict[int, int]]

MEMINFO = """\
MemTotal:       24683676 kB
MemFree:        24422032 kB
MemAvailable:   24395180 kB
Buffers:            4444 kB
SwapFree:              0 kB
"""
VMSTAT = """\
nr_free_pages 6105508
nr_file_pages 33000
pswpin 11
pswpout 12
allocstall_dma 0
allocstall_dma32 1
allocstall_normal 2
allocstall_movable 30
allocstall_device 0
pgfault 2415058
pgmajfault 1233
pgsteal_kswapd 21
pgsteal_direct 22
pgsteal_khugepaged 99
pgscan_kswapd 31
pgscan_direct 32
pgscan_direct_throttle 99
oom_kill 4
htlb_buddy_alloc_success 5
htlb_buddy_alloc_fail 6
nr_unstable 0
"""
EXPECTED = {
    0: 11 * 4096,
    1: 12 * 4096,
    2: 1233,
    3: 2415058,
    4: 24422032 << 10,
    5: 24683676 << 10,
    6: 24395180 << 10,
    7: 33000 * 4096,
    8: 5,
    9: 6,
    10: 4,
    11: 33,
    12: 31 * 4096,
    13: 32 * 4096,
    14: 21 * 4096,
    15: 22 * 4096,
}


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Read statistics out of these texts; None is a file that is not there."""

    def read(
        meminfo: str | None = MEMINFO, vmstat: str | None = VMSTAT, page_size: int | None = 4096
    ) -> dict[int, int]:
        for name, text in (("meminfo", meminfo), ("vmstat", vmstat)):
            if text is not None:
                (tmp_path / name).write_bytes(text.encode("latin-1"))
        return read_host_statistics(str(tmp_path / "meminfo"), str(tmp_path / "vmstat"), page_size)

    return read


def test_every_statistic_has_its_source(read: Read) -> None:
    assert read() == EXPECTED
    assert list(read()) == sorted(EXPECTED)


def test_amounts_in_pages_follow_the_page_size(read: Read) -> None:
    large = read(page_size=65536)
    assert {tag for tag in large if large[tag] != EXPECTED[tag]} == {0, 1, 7, 12, 13, 14, 15}
    assert large[7] == 33000 * 65536


@pytest.mark.parametrize(
    ("line", "tag"),
    [
        ("pswpin 11", 0),
        ("pgmajfault 1233", 2),
        ("pgfault 2415058", 3),
        ("nr_file_pages 33000", 7),
        ("htlb_buddy_alloc_fail 6", 9),
        ("oom_kill 4", 10),
        ("pgscan_direct 32", 13),
        ("pgsteal_direct 22", 15),
    ],
)
@pytest.mark.parametrize("instead", ["", "{name}", "{name} ", "{name} x", "{name} -1", "{name} 1 2", "{name} 1_0", "{name} 9" + "9" * 5000, "{name} 18446744073709551615"])  # fmt: skip
def test_a_field_that_is_not_there_or_makes_no_sense_is_absent_alone(
    read: Read, line: str, tag: int, instead: str
) -> None:
    spoilt = VMSTAT.replace(f"\n{line}\n", "\n" + instead.format(name=line.split()[0]) + "\n")
    assert spoilt != VMSTAT
    assert read(vmstat=spoilt) == {other: value for other, value in EXPECTED.items() if other != tag}


def test_a_product_of_pages_too_large_for_the_wire_is_absent(read: Read) -> None:
    assert 0 not in read(vmstat=f"pswpin {2**52}\n")
    assert read(vmstat=f"pswpin {2**52 - 1}\n")[0] == (2**52 - 1) * 4096


def test_the_largest_number_that_the_wire_can_hold_is_taken(read: Read) -> None:
    largest = 2**64 - 2
    assert read(vmstat=f"pgfault {largest}\nallocstall_dma {largest}\n", meminfo=None) == {3: largest, 11: largest}
    assert read(vmstat=f"pgfault 0{largest}\n", meminfo=None) == {}, "no kernel writes 21 digits"


def test_the_first_and_the_last_line_count(read: Read) -> None:
    assert read(vmstat="pswpin 1\noom_kill 2\n", meminfo=None) == {0: 4096, 10: 2}


def test_a_last_line_that_was_cut_is_no_number(read: Read) -> None:
    assert read(vmstat="pswpin 1\noom_kill 23", meminfo=None) == {0: 4096}


def test_stalls_of_all_zones_are_added_and_need_no_zone(read: Read) -> None:
    assert read(vmstat="allocstall_normal 7\n", meminfo=None) == {11: 7}
    assert read(vmstat="allocstall_normal x\nallocstall_movable 5\n", meminfo=None) == {11: 5}
    assert read(vmstat="allocstall_normal\n", meminfo=None) == {}
    assert read(vmstat="allocstall_normal\nfoo 3\n", meminfo=None) == {}
    assert read(vmstat="allocstall_normal 1", meminfo=None) == {}


def test_one_missing_file_leaves_the_other(read: Read, tmp_path: Path) -> None:
    assert set(read(vmstat=None)) == {4, 5, 6}
    (tmp_path / "meminfo").unlink()
    assert set(read(meminfo=None)) == set(EXPECTED) - {4, 5, 6}


@pytest.mark.parametrize(
    "text", ["", "\n", "\0" * 100, "\xff\n\xfe", "MemFree:\n", "MemFree: kB\n", "MemFree: 5 MB\n", " "]
)
def test_nonsense_is_no_statistics(read: Read, text: str) -> None:
    assert read(meminfo=text, vmstat=text) == {}


def test_what_cannot_be_read_is_no_statistics(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    for path in (nowhere, fifo, str(tmp_path), "", "a\0b"):
        assert read_host_statistics(path, path) == {}


def test_a_file_without_an_end_is_given_up() -> None:
    assert read_host_statistics("/dev/zero", "/dev/zero") == {}


def test_no_descriptor_is_left_open(read: Read, tmp_path: Path) -> None:
    before = open_descriptors()
    read()
    read_host_statistics(str(tmp_path), str(tmp_path))
    assert open_descriptors() == before


@pytest.mark.skipif(not os.access("/proc/vmstat", os.R_OK), reason="no /proc here")
def test_this_machine_has_believable_numbers() -> None:
    first, second = read_host_statistics(), read_host_statistics()
    assert {2, 3, 4, 5} <= set(first)
    assert 0 < first[4] <= first[5]
    assert second[3] >= first[3]
    assert all(0 <= value < 2**64 - 1 for value in first.values())


def test_importing_it_costs_nothing_but_os() -> None:
    """Start-up is a feature: nothing that a bare interpreter has not loaded already."""
    program = (
        "import sys, os; before = set(sys.modules); import device.guest.model.host, device.guest.model.kernel;"
        "print(*sorted(set(sys.modules) - before))"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.split() if not name.startswith("device")}
    assert loaded <= {"__future__"}
