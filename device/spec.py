"""Numbers and names of the virtio 1.2 specification that the balloon device needs.

Everything here is data: the code, the monitor's tables, the completion and the docs read the same records.
"""

from __future__ import annotations

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
"""Balloon pages are 4 KiB whatever the page size of the guest (virtio 1.2, 5.5.6)."""

MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

MIN_RAM = 4 * MIB
MAX_RAM = 16 * TIB

U16 = 0xFFFF
U32 = 0xFFFF_FFFF
U64 = 0xFFFF_FFFF_FFFF_FFFF

DEVICE_ID = 5
"""virtio 1.2, 5.5.1."""

QUEUE_SIZE = 128
"""Entries of each queue that the device offers (QEMU's balloon)."""

MAX_QUEUE_SIZE = 1024
"""The largest ring a transport may set up (UML asks for 256); a power of two, far below the spec's 32768."""

# Queues, by role. Their index depends on the negotiated features: see queue_roles().
INFLATE = "inflate"
DEFLATE = "deflate"
STATS = "stats"
HINT = "free-page-hint"
REPORTING = "reporting"

# Device status bits (virtio 1.2, 2.1).
STATUS_ACKNOWLEDGE = 1
STATUS_DRIVER = 2
STATUS_DRIVER_OK = 4
STATUS_FEATURES_OK = 8
STATUS_NEEDS_RESET = 64
STATUS_FAILED = 128

# Feature bits (virtio 1.2, 5.5.3 and 6).
F_MUST_TELL_HOST = 0
F_STATS_VQ = 1
F_DEFLATE_ON_OOM = 2
F_FREE_PAGE_HINT = 3
F_PAGE_POISON = 4
F_REPORTING = 5
F_INDIRECT_DESC = 28
F_EVENT_IDX = 29
F_VERSION_1 = 32

# Descriptor flags (virtio 1.2, 2.7.5).
DESC_NEXT = 1
DESC_WRITE = 2
DESC_INDIRECT = 4
DESC_SIZE = 16

AVAIL_NO_INTERRUPT = 1
USED_NO_NOTIFY = 1

# Config space (virtio 1.2, 5.5.4): num_pages, actual, free_page_hint_cmd_id, poison_val; all le32.
CONFIG_NUM_PAGES = 0
CONFIG_ACTUAL = 4
CONFIG_HINT_CMD_ID = 8
CONFIG_POISON_VAL = 12
CONFIG_SIZE = 16

MAX_PFNS_PER_BUFFER = 256
"""Linux's driver sends at most this many page frame numbers in one buffer."""

STAT_RECORD = 10
"""A statistics record: le16 tag, le64 value, packed (virtio 1.2, 5.5.6.3)."""

MAX_STAT_RECORDS = 64
"""Records looked at in one buffer: four times the tags known today, so that a hostile buffer costs little."""

ABSENT = U64
"""The value by which a driver says that it does not know a statistic."""

SWAP_IN, SWAP_OUT, MAJOR_FAULTS, MINOR_FAULTS, FREE, TOTAL, AVAILABLE, CACHES = range(8)
HTLB_ALLOC, HTLB_FAIL, OOM_KILLS, ALLOC_STALLS, ASYNC_SCANS, DIRECT_SCANS, ASYNC_RECLAIMS, DIRECT_RECLAIMS = range(
    8, 16
)


class Stat:
    """One statistic: its tag, the monitor's name, QOM's name, what it counts and a line of help."""

    __slots__ = ("help", "name", "qom", "tag", "unit")

    def __init__(self, tag: int, name: str, qom: str, unit: str, help: str) -> None:
        self.tag = tag
        self.name = name
        self.qom = qom
        self.unit = unit
        self.help = help


BYTES = "bytes"
COUNT = "count"

STATS_TABLE: tuple[Stat, ...] = (
    Stat(SWAP_IN, "mem_swapped_in", "stat-swap-in", BYTES, "memory read back from swap"),
    Stat(SWAP_OUT, "mem_swapped_out", "stat-swap-out", BYTES, "memory written to swap"),
    Stat(MAJOR_FAULTS, "major_page_faults", "stat-major-faults", COUNT, "page faults that had to read a disk"),
    Stat(MINOR_FAULTS, "minor_page_faults", "stat-minor-faults", COUNT, "page faults served from memory"),
    Stat(FREE, "free_mem", "stat-free-memory", BYTES, "memory used for nothing at all"),
    Stat(TOTAL, "total_mem", "stat-total-memory", BYTES, "all memory the guest's kernel manages"),
    Stat(AVAILABLE, "available_mem", "stat-available-memory", BYTES, "memory to be had without swapping"),
    Stat(CACHES, "disk_caches", "stat-disk-caches", BYTES, "file pages that could be dropped"),
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
"""The six of 2010, in the order of the seed's line."""

QOM_STATS = (
    HTLB_ALLOC,
    SWAP_OUT,
    AVAILABLE,
    HTLB_FAIL,
    FREE,
    MINOR_FAULTS,
    MAJOR_FAULTS,
    TOTAL,
    SWAP_IN,
    CACHES,
)
"""The ten keys of QEMU 7.2's guest-stats, in the order in which it prints them."""

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


class Feature:
    """One feature bit: its number, its name in the spec and what `info virtio-status` says of it."""

    __slots__ = ("bit", "help", "name")

    def __init__(self, bit: int, name: str, help: str) -> None:
        self.bit = bit
        self.name = name
        self.help = help


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

STATUS_TABLE: tuple[tuple[int, str], ...] = (
    (STATUS_ACKNOWLEDGE, "VIRTIO_CONFIG_S_ACKNOWLEDGE: Valid virtio device found"),
    (STATUS_FAILED, "VIRTIO_CONFIG_S_FAILED: Error in guest, device failed"),
    (STATUS_NEEDS_RESET, "VIRTIO_CONFIG_S_NEEDS_RESET: Irrecoverable error, device needs reset"),
    (STATUS_DRIVER, "VIRTIO_CONFIG_S_DRIVER: Guest OS compatible with device"),
    (STATUS_FEATURES_OK, "VIRTIO_CONFIG_S_FEATURES_OK: Feature negotiation complete"),
    (STATUS_DRIVER_OK, "VIRTIO_CONFIG_S_DRIVER_OK: Driver setup and ready"),
)
"""Status bits and what `info virtio-status` says of them, in QEMU's order."""


def bit(number: int) -> int:
    """Return the mask of feature bit `number`."""
    return 1 << number


def queue_roles(features: int) -> tuple[str, ...]:
    """Return the role of each queue, by index, once the driver accepted `features` (virtio 1.2, 5.5.2).

    A queue whose feature was not negotiated has no index: the ones behind it move up.
    """
    roles = [INFLATE, DEFLATE]
    for feature, role in ((F_STATS_VQ, STATS), (F_FREE_PAGE_HINT, HINT), (F_REPORTING, REPORTING)):
        if features >> feature & 1:
            roles.append(role)
    return tuple(roles)
