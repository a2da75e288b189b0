"""The memory of a modelled Linux kernel: who holds which page, and what the counters say about it.

Pure accounting. No rings, no clock, no I/O: the balloon driver model asks for pages and gives them back, `sim alloc`
plays a workload, and VM time comes in as nanoseconds. The RAM of a guest is split into

    reserved | balloon | free | cache | used (kernel, background processes, workload)

and every operation only moves whole pages between neighbours, so the parts always add up. Amounts are bytes and
multiples of 4096, counters only rise. The sizes are those of Linux 6.1, measured on guests of 256 MiB to 4 GiB.

These were chosen, not measured: swap is half of RAM unless `swap` is set; a quarter of the background processes' memory
is cold and does not come back from swap; there is no hugetlb pool, so both hugetlb counters stay 0.
"""

from __future__ import annotations

from device.state import Integer, load, slots
from device.virtio.spec import MAX_RAM, MIN_RAM, U64
from device.virtio.spec import PAGE_SIZE as PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from device.fields import Fields

_SHIFT = 12  # bytes to pages
_ALIGN = -PAGE  # x & _ALIGN rounds down to whole pages
_SECOND = 1_000_000_000

# Linux 6.1, 512 MiB: MemTotal is 481296 kB, so 42992 kB are reserved: 1/64 of RAM for page descriptors, and this.
_KERNEL_IMAGE = 34800 << 10
# From 3.5 GiB on, some RAM of a PC has addresses above 4 GiB: Linux then keeps a buffer for devices with 32-bit ones.
_BOUNCE_FROM, _BOUNCE = 7 << 29, 64 << 20
# What the balloon cannot get. Measured: 67, 70 and 72 MiB stay outside it with 256, 384 and 512 MiB of RAM, and 110,
# 132, 153 and 288 MiB with 640, 1024, 2048 and 4096. That is the minimum of free memory, which khugepaged raises from
# 512 MiB of total on, plus what kernel and programs hold. A guest of terabytes does not need the same share of its RAM,
# so the line bends at 16 GiB.
_HUGE_FROM, _HUGE = 512 << 20, 22 << 20  # khugepaged wants this much of each zone, and at most 5 % in all
_CORE, _CORE_HUGE, _CORE_BEND = 28 << 20, 30988 << 10, 16 << 30

_FAULTS = 40  # minor faults of an idle guest in a second, on average
_CLUSTER = 32  # pages that one direct reclaim looks at (the kernel's SWAP_CLUSTER_MAX)
_VICTIM = 1 << 20  # the OOM killer finds no background process smaller than this

_SIZES = (
    "ram", "reserved", "ballooned", "free", "cache", "used", "workload", "workload_swap", "swap_total", "swap_used",
    "free_min", "cache_min", "used_min", "cold", "swap_in", "swap_out",
    "async_scans", "direct_scans", "async_reclaims", "direct_reclaims",
)  # fmt: skip
_COUNTS = ("majflt", "minflt", "oom_kills", "alloc_stalls", "boot", "now")
_MOST = U64 >> 1  # half of the range of a statistic, so that none that was loaded overflows later


def _in_pages(kernel: Kernel, size: int) -> str:
    return "is not in whole pages" if size % PAGE else ""


def mix(value: int) -> int:
    """Scatter an integer over 64 bits (the output step of splitmix64): the same on every Python, unlike `random`."""
    value = value + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    value = (value ^ value >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return value ^ value >> 31


def default_reserved(ram: int) -> int:
    """Bytes of RAM that never show in MemTotal: image, early allocations and page descriptors (Linux 6.1, measured)."""
    bounce = _BOUNCE if ram >= _BOUNCE_FROM else 0
    return (min(_KERNEL_IMAGE, ram >> 2) + (ram >> 6) + bounce) & _ALIGN


def _free_min(ram: int) -> int:
    """Bytes that the kernel keeps free (vm.min_free_kbytes of Linux 6.1)."""
    total = ram - default_reserved(ram)
    least = min(int((total >> 6) ** 0.5), 256 << 10) << 10  # as Linux: sqrt(16 * KiB) KiB, at most 256 MiB
    if total >= _HUGE_FROM:
        least = max(least, min(_HUGE * (3 if ram >= _BOUNCE_FROM else 2), total // 20))
    return least & _ALIGN


def _core(ram: int) -> int:
    """Bytes that kernel and programs hold in the end, files included (Linux 6.1, measured)."""
    if ram - default_reserved(ram) >= _HUGE_FROM:
        return (_CORE_HUGE + min(ram, _CORE_BEND) * 13 // 2048) & _ALIGN
    return min(_CORE, ram >> 3) & _ALIGN


def _whole(size: int) -> int:
    if size < 0:
        raise ValueError(f"an amount of memory must not be negative, not {size} bytes")
    return (size + PAGE - 1) & _ALIGN


class Kernel:
    """The memory of one boot of a guest.

    The attributes are plain ints for reading: sizes in bytes (`ram`, `reserved`, `ballooned`, `free`, `cache`,
    `used`; `workload` is the part of `used` that `alloc` took and `workload_swap` its part of `swap_used`) and
    counters since boot. `free_min`, `cache_min` and `used_min` cannot be taken.
    """

    STATE = (
        *[Integer(name, _MOST, check=_in_pages) for name in _SIZES],
        *[Integer(name, _MOST) for name in _COUNTS],
        Integer("seed"),
        Integer("deflate_on_oom", 1),
        Integer("whole", 1, late=True),
    )
    DERIVED = ("_base", "_high", "_key", "_life", "_low", "_next", "_rise", "_start", "_values")
    __slots__ = slots(STATE, DERIVED)

    def __init__(self, ram: int, *, seed: int = 0, swap: int | None = None, whole: bool = False, now: int = 0) -> None:
        """Boot a guest of `ram` bytes (4 MiB to 16 TiB) at VM time `now` in nanoseconds.

        `swap` is in bytes, by default half of RAM; with `whole` the total keeps the balloon.
        """
        core, reserved = _core(ram), default_reserved(ram)
        self.ram, self.reserved = ram, reserved
        self.used_min = core // 3 * 2 & _ALIGN
        self.cache_min = core // 3 & _ALIGN
        self.free_min = min(ram, reserved + _free_min(ram) + core) - reserved - self.used_min - self.cache_min
        # What a small distribution uses after boot, and up to an eighth more by seed.
        self.seed = seed & U64
        chance = mix(mix(self.seed) ^ ram)
        rest = ram - reserved - core - core // 3
        processes, files = min(rest >> 5, 512 << 20), min(rest // 20, 1 << 30)
        processes = (processes + processes * (chance & 0xFF) // 2048) & _ALIGN
        files = (files + files * (chance >> 8 & 0xFF) // 2048) & _ALIGN
        self.used = self.used_min + processes
        self.cache = self.cache_min + files
        self.free = ram - reserved - self.used - self.cache
        self.cold = (processes >> 2) & _ALIGN
        self.swap_total = (ram >> 1 if swap is None else swap) & _ALIGN
        self.ballooned = self.workload = self.workload_swap = self.swap_used = 0
        self.swap_in = self.swap_out = self.oom_kills = self.alloc_stalls = 0
        self.async_scans = self.direct_scans = self.async_reclaims = self.direct_reclaims = 0
        self.majflt = min(120, ram >> 18) + (chance >> 16) % 40
        self.minflt = min(180_000, ram >> 12) + (chance >> 24) % min(60_000, ram >> 13)
        self.deflate_on_oom, self.whole = 0, int(whole)
        self.boot = self.now = now
        self.settle()

    @classmethod
    def restored(cls, fields: Fields) -> Kernel:
        """Return a kernel that continues from a saved state. Raises SnapshotError naming what is wrong."""
        self = cls.__new__(cls)
        load(self, fields)
        for name, right in (
            ("ram", MIN_RAM <= self.ram <= MAX_RAM),
            ("now", self.now >= self.boot),
            ("free", self.free >= self.free_min),
            ("cache", self.cache >= self.cache_min),
            ("workload", self.workload <= self.used - self.used_min),
            ("swap_total", self.swap_total <= MAX_RAM),
            ("swap_used", self.swap_used <= self.swap_total),
            ("workload_swap", self.workload_swap <= self.swap_used),
            ("ram", self.reserved + self.ballooned + self.free + self.cache + self.used == self.ram),
        ):
            if not right:
                raise fields.refuse(name, "does not fit the other fields")
        self.settle()
        return self

    def settle(self) -> None:
        """Work out what is not saved."""
        self._values: tuple[int, ...] | None = None
        # What Linux's MemAvailable leaves out: of the caches kswapd's low mark; of free memory its high mark, and the
        # 256th of RAM that is kept below 16 MiB for devices that can use no other memory.
        self._low = self.free_min * 5 // 4 & _ALIGN
        self._high = (self.free_min * 3 // 2 + (self.ram - self.reserved >> 8)) & _ALIGN
        self._key = mix(self.seed)
        # More than a second ago, so that `_lived` begins a second of its own the first time.
        self._start, self._base, self._rise = self.boot - _SECOND, 0, 0
        self._life = self._lived(self.now)

    @property
    def total(self) -> int:
        """MemTotal in bytes: the balloon is subtracted, unless it deflates on OOM (Linux's driver does it so)."""
        return self.values()[5]

    def values(self) -> tuple[int, ...]:
        """The statistics it knows, in the order of their tags from 0 (virtio 1.2 section 5.5.6.4 and its successors).

        Bytes, except tags 2, 3 and 8 to 11, which are counts. `at` has the numbers of now.
        """
        values = self._values
        if values is None:
            life, swap_in, free, cache, low = self._life, self.swap_in, self.free, self.cache, self._low
            major = self.majflt + (swap_in >> 15) + (life >> 8)  # swap comes in by clusters of 8 pages, one fault each
            minor = self.minflt + (swap_in >> _SHIFT) + life
            total = self.ram - self.reserved - (0 if self.deflate_on_oom or self.whole else self.ballooned)
            # Linux counts the cache as available but for half of it, or for the low mark if that is less.
            half = cache >> 13 << _SHIFT
            available = free - self._high + cache - (half if half < low else low)
            available = available if available > 0 else 0
            kills, stalls = self.oom_kills, self.alloc_stalls
            values = (swap_in, self.swap_out, major, minor, free, total, available, cache, 0, 0, kills, stalls)
            values += (self.async_scans, self.direct_scans, self.async_reclaims, self.direct_reclaims)
            self._values = values
        return values

    def at(self, vm_now: int) -> tuple[int, ...]:
        """As `tick`, and return the values at `vm_now`: the same tuple object as before if nothing has changed."""
        if self.now < vm_now < self._next and not self.swap_used:  # within microseconds nothing happens
            self.now = vm_now
        else:
            self.tick(vm_now)
        return self._values or self.values()

    def _lived(self, vm_now: int) -> int:
        """Page faults of background life from boot to `vm_now`: a pure function of seed and time that only rises.

        `_next` becomes the time until which the number stays the same.
        """
        part = vm_now - self._start
        if part >= _SECOND:
            second, part = divmod(vm_now - self.boot, _SECOND)
            # Second n starts at a random number from 40n to 40n + 39 and rises to 40(n + 1), so the sum cannot fall.
            chance = mix(self._key ^ second) % _FAULTS
            self._base = _FAULTS * second + chance
            self._rise = _FAULTS - chance
            self._start = vm_now - part
        risen = self._rise * part // _SECOND
        self._next = self._start + min(_SECOND, -(-(risen + 1) * _SECOND // self._rise))
        return self._base + risen

    def tick(self, vm_now: int) -> None:
        """Let background life go on until `vm_now` (VM nanoseconds): faults, files read, swapped memory coming back.

        O(1) for any gap; a time that is not after the last one changes nothing. While memory is free, the result does
        not depend on how often this is called.
        """
        last = self.now
        if vm_now <= last:
            return
        self.now = vm_now
        before = self._life
        self._life = life = self._lived(vm_now)
        self._values = None
        spare = self.free - 2 * self.free_min  # near kswapd's marks nothing new comes in
        if spare <= 0:
            return
        if self.swap_used:  # a page each 2^19 ns, about 7 MiB/s: random reads from a disk
            spare -= self._swap_in(min(spare, ((vm_now >> 19) - (last >> 19)) << _SHIFT))
        # Each third fault reads a page of a file, until half of the memory holds files.
        read = (life // 3 - before // 3) << _SHIFT
        if read:
            limit = ((self.ram - self.reserved - self.ballooned >> 1) & _ALIGN) - self.cache
            if limit < read or spare < read:
                read = max(0, min(limit, spare))
            self.cache += read
            self.free -= read

    def _swap_in(self, most: int) -> int:
        """Fault in up to `most` bytes: the workload's first, then those of the background that are not cold."""
        work = min(most, self.workload_swap)
        moved = work + min(most - work, max(0, self.swap_used - self.workload_swap - self.cold))
        self.workload += work
        self.workload_swap -= work
        self.swap_used -= moved
        self.swap_in += moved
        self.used += moved
        self.free -= moved
        return moved

    def inflate(self, pages: int) -> int:
        """Take `pages` pages for the balloon; returns how many it got, fewer or 0 at the floor.

        Free memory goes first, then caches, then processes are swapped out, at last killed; a balloon that deflates
        on OOM stops before it kills. Raises ValueError for a negative number.
        """
        need = pages << _SHIFT
        free = self.free - need
        if free >= self.free_min and pages >= 0:
            self.free = free
            self.ballooned += need
            self._values = None
            return pages
        need = _whole(need)
        self._values = None
        self._reclaim(need)
        while self.free - self.free_min < need and self.used > self.used_min and not self.deflate_on_oom:
            self._kill()
            self._reclaim(need)
        got = min(need, self.free - self.free_min)
        if got < need:
            self.alloc_stalls += 1  # the driver's allocation searched for pages and failed
            self.direct_scans += _CLUSTER << _SHIFT
        self.free -= got
        self.ballooned += got
        return got >> _SHIFT

    def deflate(self, pages: int) -> int:
        """Give up to `pages` pages of the balloon back to free memory; returns how many. ValueError if negative."""
        back = min(_whole(pages << _SHIFT), self.ballooned)
        self.free += back
        self.ballooned -= back
        self._values = None
        return back >> _SHIFT

    def set_deflate_on_oom(self, on: bool) -> None:
        """Tell the kernel what the balloon driver negotiated (VIRTIO_BALLOON_F_DEFLATE_ON_OOM): see `total`."""
        self.deflate_on_oom = int(on)
        self._values = None

    def alloc(self, size: int, relief: Callable[[int], int] | None = None) -> int:
        """A workload takes `size` bytes more (rounded up to pages); returns the bytes it got, all or 0.

        Under pressure caches go, then memory is swapped out; then `relief(pages)`, if given, is asked: it must have
        the balloon driver call `deflate` and return how many pages came back (deflate-on-oom). When nothing is left
        the OOM killer kills the workload with all it ever took, and 0 is returned. Raises ValueError if negative.
        """
        size = _whole(size)
        self._values = None
        self._reclaim(size)
        need = size - self._touch(size)
        # Everything else is in swap by now. While swap has room, the workload pushes out its own older pages.
        turn = min(need, self.swap_total - self.swap_used)
        self._swapped(turn)
        self.minflt += turn >> _SHIFT
        self.workload_swap += turn
        need -= turn
        while need and relief is not None:
            before = self.free
            if relief(need >> _SHIFT) <= 0 or self.free <= before:  # if no page came back this would loop forever
                break
            need -= self._touch(need)
        self._values = None  # again: `relief` may have read and so cached them
        if need:
            self.oom_kills += 1
            self.free_workload(self.workload + self.workload_swap)
            return 0
        return size

    def free_workload(self, size: int) -> int:
        """The workload gives back `size` bytes, resident ones first; returns what it had of them. ValueError if < 0."""
        size = _whole(size)
        here = min(size, self.workload)
        away = min(size - here, self.workload_swap)
        self.workload -= here
        self.used -= here
        self.free += here
        self.workload_swap -= away
        self.swap_used -= away
        self._values = None
        return here + away

    def _touch(self, need: int) -> int:
        """The workload takes what it can of free memory."""
        got = min(need, self.free - self.free_min)
        self.free -= got
        self.used += got
        self.workload += got
        self.minflt += got >> _SHIFT
        return got

    def _reclaim(self, need: int) -> None:
        """Make `need` bytes free above the minimum if caches and swap yield them."""
        need -= self.free - self.free_min
        if need <= 0:
            return
        dropped = min(need, self.cache - self.cache_min)
        self.cache -= dropped
        self.free += dropped
        self._scanned(dropped, 1)
        out = min(need - dropped, self.swap_total - self.swap_used, self.used - self.used_min)
        work = max(0, out - (self.used - self.used_min - self.workload))  # background processes use theirs less
        self.workload -= work
        self.workload_swap += work
        self.used -= out
        self.free += out
        self._swapped(out)

    def _swapped(self, size: int) -> None:
        self.swap_used += size
        self.swap_out += size
        self._scanned(size, 2)

    def _scanned(self, size: int, effort: int) -> None:
        """Count `size` reclaimed bytes, a quarter directly, the rest by kswapd; `effort` pages are scanned for each."""
        if not size:
            return
        direct = (size >> 2) & _ALIGN
        self.async_reclaims += size - direct
        self.direct_reclaims += direct
        self.async_scans += (size - direct) * effort
        self.direct_scans += direct * effort
        self.alloc_stalls += 1 + (direct >> _SHIFT) // _CLUSTER

    def _kill(self) -> None:
        """Kill the workload if there is one, else a background process that holds half of the background's memory."""
        self.oom_kills += 1
        if self.free_workload(self.workload + self.workload_swap):
            return
        here, away = self.used - self.used_min, self.swap_used
        if here > _VICTIM:
            here, away = _whole(here >> 1), (away >> 1) & _ALIGN
        self.used -= here
        self.free += here
        self.swap_used -= away
