"""Numbers and names of the balloon device (virtio 1.2, 5.5).

Everything here is data: the code, the monitor's tables, the completion and the docs read the same records.
"""

from __future__ import annotations

from device.virtio.spec import F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, QUEUE_SIZE, U16, U64, Feature, bit

DEVICE_ID = 5
"""virtio 1.2, 5.5.1."""

# Queues, by role. Their index depends on the negotiated features: see queue_roles().
INFLATE = "inflate"
DEFLATE = "deflate"
STATS = "stats"
HINT = "free-page-hint"
REPORTING = "reporting"

QUEUE_SIZES = {INFLATE: QUEUE_SIZE, DEFLATE: QUEUE_SIZE, STATS: QUEUE_SIZE, HINT: 1024, REPORTING: 32}
"""Entries of the queue in each role, as in QEMU."""

# Feature bits (virtio 1.2, 5.5.3).
F_MUST_TELL_HOST = 0
F_STATS_VQ = 1
F_DEFLATE_ON_OOM = 2
F_FREE_PAGE_HINT = 3
F_PAGE_POISON = 4
F_REPORTING = 5

PROPERTIES: dict[str, tuple[int, bool]] = {
    "deflate-on-oom": (F_DEFLATE_ON_OOM, False),
    "free-page-hint": (F_FREE_PAGE_HINT, False),
    "page-poison": (F_PAGE_POISON, True),
    "free-page-reporting": (F_REPORTING, False),
}
"""The device's switches: the feature bit of each, and whether it is on by default (as in QEMU)."""

MODELS = ("virtio-balloon-pci", "virtio-balloon-pci-non-transitional", "virtio-balloon-pci-transitional")
"""The device's types in QEMU. They differ only in their PCI transport, which hmp does not have."""

ALWAYS_OFFERED = bit(F_STATS_VQ) | bit(F_INDIRECT_DESC) | bit(F_EVENT_IDX) | bit(F_VERSION_1)
"""The features that no switch turns off."""

# MUST_TELL_HOST is not offered, as in QEMU: a driver may use a page before it says that it took the page back.

# Config space (virtio 1.2, 5.5.4): num_pages, actual, free_page_hint_cmd_id, poison_val; all le32.
CONFIG_NUM_PAGES = 0
CONFIG_ACTUAL = 4
CONFIG_HINT_CMD_ID = 8
CONFIG_POISON_VAL = 12
CONFIG_SIZE = 16

HINT_STOP, HINT_DONE = 0, 1
"""Command ids that end a round of free page hints; any other begins one (virtio 1.2, 5.5.6.5)."""

MAX_PFNS_PER_BUFFER = 256
"""Linux's driver sends at most this many page frame numbers in one buffer."""

# The spec has no limit. What the device reads of a longer list is limited in device.balloon.pages.

STAT_RECORD = 10
"""Bytes of a statistics record: le16 tag, le64 value, packed (virtio 1.2, 5.5.6.3)."""

MAX_STAT_RECORDS = 64
"""Records that are read of one buffer. Four times the known tags: a hostile buffer costs little time."""

ABSENT = U64
"""The value for a statistic that the driver does not know."""

SWAP_IN, SWAP_OUT, MAJOR_FAULTS, MINOR_FAULTS, FREE, TOTAL, AVAILABLE, CACHES = range(8)
HTLB_ALLOC, HTLB_FAIL, OOM_KILLS, ALLOC_STALLS, ASYNC_SCANS, DIRECT_SCANS, ASYNC_RECLAIMS, DIRECT_RECLAIMS = range(
    8, 16
)


class Stat:
    """One statistic: its tag, the monitor's name, QOM's name, what it counts and a line of help."""

    __slots__ = ("help", "name", "qom", "tag", "unit")

    def __init__(self, tag: int, name: str, qom: str, unit: str, help: str) -> None:
        self.tag, self.name, self.qom, self.unit, self.help = tag, name, qom, unit, help


BYTES = "bytes"
COUNT = "count"

STATS_TABLE: tuple[Stat, ...] = (
    # docs/numbers.md says for each where Linux counts it. The minor faults include the major ones, as Linux sends
    # pgfault.
    Stat(SWAP_IN, "mem_swapped_in", "stat-swap-in", BYTES, "memory read back from swap"),
    Stat(SWAP_OUT, "mem_swapped_out", "stat-swap-out", BYTES, "memory written to swap"),
    Stat(MAJOR_FAULTS, "major_page_faults", "stat-major-faults", COUNT, "page faults that had to read a disk"),
    Stat(MINOR_FAULTS, "minor_page_faults", "stat-minor-faults", COUNT, "all page faults, the major ones included"),
    Stat(FREE, "free_mem", "stat-free-memory", BYTES, "memory used for nothing at all"),
    Stat(TOTAL, "total_mem", "stat-total-memory", BYTES, "all memory the guest's kernel manages"),
    Stat(AVAILABLE, "available_mem", "stat-available-memory", BYTES, "memory to be had without swapping"),
    Stat(CACHES, "disk_caches", "stat-disk-caches", BYTES, "file pages in memory, tmpfs included"),
    Stat(HTLB_ALLOC, "hugetlb_allocs", "stat-htlb-pgalloc", COUNT, "huge pages allocated"),
    Stat(HTLB_FAIL, "hugetlb_failures", "stat-htlb-pgfail", COUNT, "huge page allocations that failed"),
    Stat(OOM_KILLS, "oom_kills", "stat-oom-kills", COUNT, "processes killed for lack of memory"),
    Stat(ALLOC_STALLS, "alloc_stalls", "stat-alloc-stalls", COUNT, "allocations that had to reclaim first"),
    Stat(ASYNC_SCANS, "async_scans", "stat-async-scans", BYTES, "memory looked at by background reclaim"),
    Stat(DIRECT_SCANS, "direct_scans", "stat-direct-scans", BYTES, "memory looked at by stalled allocations"),
    Stat(ASYNC_RECLAIMS, "async_reclaims", "stat-async-reclaims", BYTES, "memory freed by background reclaim"),
    Stat(DIRECT_RECLAIMS, "direct_reclaims", "stat-direct-reclaims", BYTES, "memory freed by stalled allocations"),
)
"""Every known statistic, by tag."""

STAT_COUNT = len(STATS_TABLE)

SEED_STATS = (SWAP_IN, SWAP_OUT, MAJOR_FAULTS, MINOR_FAULTS, FREE, TOTAL)
"""The six statistics of 2010, in the order of the `balloon:` line of the first implementation."""

QOM_STATS = (HTLB_ALLOC, SWAP_OUT, AVAILABLE, HTLB_FAIL, FREE, MINOR_FAULTS, MAJOR_FAULTS, TOTAL, SWAP_IN, CACHES)
"""The ten keys of QEMU 7.2's guest-stats, in the order in which QEMU prints them."""

STAT_TAGS: dict[str, int] = {
    **{stat.name: stat.tag for stat in STATS_TABLE},
    **{stat.qom: stat.tag for stat in STATS_TABLE},
}
"""Tag by the monitor's or by QOM's name."""


def stat_tag(name: str) -> int | None:
    """Return the tag that `name` means (a monitor name, a QOM name, or a plain tag number), or None."""
    tag = STAT_TAGS.get(name)
    if tag is None and name.isascii() and name.isdigit() and len(name) <= 5 and int(name) <= U16:
        return int(name)
    return tag


FEATURES_TABLE: tuple[Feature, ...] = (
    Feature(F_EVENT_IDX, "VIRTIO_RING_F_EVENT_IDX", "Used & avail. event fields enabled"),
    Feature(F_INDIRECT_DESC, "VIRTIO_RING_F_INDIRECT_DESC", "Indirect descriptors supported"),
    Feature(F_VERSION_1, "VIRTIO_F_VERSION_1", "Device compliant for v1 spec (legacy)"),
    Feature(F_MUST_TELL_HOST, "VIRTIO_BALLOON_F_MUST_TELL_HOST", "Tell host before reclaiming pages"),
    Feature(F_STATS_VQ, "VIRTIO_BALLOON_F_STATS_VQ", "Guest memory stats VQ available"),
    Feature(F_DEFLATE_ON_OOM, "VIRTIO_BALLOON_F_DEFLATE_ON_OOM", "Deflate balloon when guest OOM"),
    Feature(F_FREE_PAGE_HINT, "VIRTIO_BALLOON_F_FREE_PAGE_HINT", "VQ reporting free pages enabled"),
    Feature(F_PAGE_POISON, "VIRTIO_BALLOON_F_PAGE_POISON", "Guest page poisoning enabled"),
    Feature(F_REPORTING, "VIRTIO_BALLOON_F_REPORTING", "Page reporting VQ enabled"),
)


def queue_roles(features: int) -> tuple[str, ...]:
    """Return the role of each queue, by index, once the driver accepted `features` (virtio 1.2, 5.5.2).

    A queue whose feature was not negotiated has no index, so the queues after it have lower ones.
    """
    roles = [INFLATE, DEFLATE]
    for feature, role in ((F_STATS_VQ, STATS), (F_FREE_PAGE_HINT, HINT), (F_REPORTING, REPORTING)):
        if features >> feature & 1:
            roles.append(role)
    return tuple(roles)
