"""Saves a whole machine to a file, and loads it.

The file is little-endian: an 8 byte magic, le32 version, le32 length of the state, the state as JSON, then sections of
(le64, le64) pairs, and at the end the SHA-256 of everything before. The sections are the runs of pages in the balloon,
and the used runs of guest RAM with their content. Holes and pages of zeros are not written.

A snapshot is untrusted input. It is loaded into a new machine beside the old one, and every member is checked. The new
machine replaces the old one only if all of it is right.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from struct import Struct
from typing import BinaryIO

from device.errors import MisuseError
from device.fields import Fields, SnapshotError
from device.machine.guest import Guest
from device.machine.machine import Machine
from device.machine.requests import NO_DEVICE
from device.state import FAR
from device.state import load as load_state
from device.state import save as save_state
from device.virtio.device import NEWS_ACTUAL, NEWS_DRIVER
from device.virtio.memory import GuestMemory
from device.virtio.spec import MAX_RAM, MIB, MIN_RAM, PAGE_SHIFT, PAGE_SIZE

MAGIC = b"HMPSNAP\0"
VERSION = 2
"""Increased when an older hmp could not read the file; the older one then says so.

Format 2 added what is due (`due`, `untold`, `later`). Format 1 still loads, with defaults.
"""

STATE_LIMIT = 4 << 20
"""The largest state in bytes that is read: twice that of a machine whose guest has every tag number pinned."""

COPY = 1 << 20
"""Bytes copied at once."""

_HEADER = Struct("<8sII")
_PAIR = Struct("<QQ")
_DIGEST = 32
_LARGE = 16 << 20
"""From this size on, the lengths in the file are checked before the checksum.

The checksum reads the whole file: loading a sparse file of 5 GiB once took 17 s before it was refused.
"""

_PAGES_AT_ONCE = 1 << 20
"""Pages put into the balloon at once. PageSet.add makes a number with a bit for each page of the run: for billions of
pages that would take gigabytes."""


class Summary:
    """What a list of snapshots shows: `date` in ns since the epoch, `vm_time` in ns, `size` in bytes."""

    def __init__(self, tag: str, date: int, vm_time: int, size: int, ram: int, *, simulated: bool) -> None:
        self.tag, self.date, self.vm_time, self.size, self.ram = tag, date, vm_time, size, ram
        self.simulated = simulated


class _Reader:
    """Reads the file. `left` counts the bytes before the digest."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self.left = source.seek(0, os.SEEK_END) - _DIGEST
        source.seek(0)

    def read(self, size: int) -> bytes:
        if size > self.left:
            raise SnapshotError("the file is cut short")
        data = self._source.read(size)
        if len(data) != size:
            raise SnapshotError("the file is cut short")
        self.left -= size
        return data

    def pair(self) -> tuple[int, int]:
        first, second = _PAIR.unpack(self.read(_PAIR.size))
        return int(first), int(second)

    def skip(self, size: int) -> None:
        """Skip `size` bytes."""
        if size > self.left:
            raise SnapshotError("the file is cut short")
        self._source.seek(size, os.SEEK_CUR)
        self.left -= size

    def check_size(self, length: int, ram: int) -> None:
        """Raise SnapshotError if the file is too large for `ram` bytes and a state of `length`, without reading it all.

        Call it after the header was read. The position in the file does not change.
        """
        # The largest file has a pair for each page of RAM, and another for each page in the balloon.
        here, left = self._source.tell(), self.left
        if left > length + ram + _PAIR.size * (1 + 2 * (ram >> PAGE_SHIFT)):
            raise SnapshotError(f"the file is larger than a snapshot of {_exactly(ram)} of memory can be")
        if left < _LARGE:
            return
        self.skip(length)
        self.skip(_PAIR.size * self.pair()[1])
        while self.left:
            self.skip(_run_length(self.pair()[1]))
        self._source.seek(here)
        self.left = left

    def check(self) -> None:
        """Raise SnapshotError unless the checksum is right. The position in the file does not change."""
        # The checksum finds damage only. Whoever makes a hostile file can make its checksum too, so all members are
        # checked as well.
        here = self._source.tell()
        self._source.seek(0)
        left = self.left + here
        digest = hashlib.sha256()
        while left > 0 and (data := self._source.read(min(COPY, left))):
            digest.update(data)
            left -= len(data)
        if left or self._source.read(_DIGEST + 1) != digest.digest():
            raise SnapshotError("the file is damaged or cut short: its checksum does not match")
        self._source.seek(here)


def _run_length(length: int) -> int:
    """Return the length of a run of memory. Raises SnapshotError if it is not possible."""
    if length % PAGE_SIZE or not 0 < length <= COPY:
        raise SnapshotError("the snapshot's memory is not in pages")
    return length


def save(machine: Machine, out: BinaryIO, *, tag: str = "") -> None:
    """Write the machine to `out`; the VM is stopped meanwhile.

    Raises SnapshotError if the guest cannot be saved, OSError from `out`.
    """
    # QEMU stops the VM for savevm too: a client gets STOP and RESUME, and VM time stands still.
    if machine.guest.snapshot_refusal:
        raise SnapshotError(machine.guest.snapshot_refusal)
    running = machine.running
    machine.stop()
    try:
        _write(machine, out, tag)
    finally:
        if running:
            machine.cont()


def _write(machine: Machine, out: BinaryIO, tag: str) -> None:
    device = machine.device
    state = json.dumps(
        {
            "tag": tag,
            "date": machine.clock.wall(),
            "simulated": machine.clock.simulated,
            "run": machine.clock.run,
            "ram": machine.ram,
            "balloon": machine.balloon,
            **save_state(machine, machine.clock.now()),
        },
        separators=(",", ":"),
    ).encode("ascii")
    if len(state) > STATE_LIMIT:
        raise SnapshotError("the machine's state is too large for a snapshot")
    digest = hashlib.sha256()

    def write(data: bytes) -> None:
        out.write(data)
        digest.update(data)

    write(_HEADER.pack(MAGIC, VERSION, len(state)))
    write(state)
    runs = [] if device is None else device.pages.runs()
    # The zero before the count is reserved; `load` refuses any other number there.
    for pair in ((0, len(runs)), *runs):
        write(_PAIR.pack(*pair))
    for offset, data in _populated(machine.memory):
        write(_PAIR.pack(offset, len(data)))
        write(data)
    out.write(digest.digest())


def _populated(memory: GuestMemory) -> Iterator[tuple[int, bytes]]:
    """Yield the used runs of RAM as (guest address, content), in pieces of at most COPY bytes."""
    for start, end in memory.runs():
        for at in range(start, end, COPY):
            yield from _without_zeros(at, memory.read(at, min(COPY, end - at)))


def _without_zeros(address: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    zeros = bytes(PAGE_SIZE)
    start: int | None = None
    for offset in range(0, len(data), PAGE_SIZE):
        if data[offset : offset + PAGE_SIZE] == zeros:
            if start is not None:
                yield address + start, data[start:offset]
                start = None
        elif start is None:
            start = offset
    if start is not None:
        yield address + start, data[start:]


def _read_header(reader: _Reader) -> tuple[int, int]:
    """Return format and length of the state. Raises SnapshotError for another file, or a snapshot of a newer hmp."""
    if reader.left < _HEADER.size:
        raise SnapshotError("the file is not a snapshot, or cut short")
    magic, version, length = _HEADER.unpack(reader.read(_HEADER.size))
    if magic != MAGIC:
        raise SnapshotError("the file is not a snapshot of hmp")
    if not 0 < version <= VERSION:
        age = "of a newer hmp" if version > VERSION else "unknown"
        raise SnapshotError(f"the snapshot's format {version} is {age}: this one reads formats 1 to {VERSION}")
    if length > STATE_LIMIT:
        raise SnapshotError("the snapshot's state is too large to be one")
    return int(version), int(length)


def _state(reader: _Reader, version: int, length: int) -> Fields:
    packed = reader.read(length)
    # `read` is outside the `try`: its SnapshotError is a ValueError too, and would be taken for bad JSON. Deeply nested
    # JSON raises RecursionError.
    try:
        data = json.loads(packed)
    except (ValueError, RecursionError):
        raise SnapshotError("the snapshot's state is not readable") from None
    return Fields(data, "snapshot", version=version)


def summarize(source: BinaryIO) -> Summary:
    """Return what a list shows of the snapshot in `source`. Raises SnapshotError; the content is not checked."""
    # The checksum is not checked, because that would read the whole of each file.
    reader = _Reader(source)
    size = reader.left + _DIGEST
    fields = _state(reader, *_read_header(reader))
    return Summary(
        fields.text("tag"),
        fields.integer("date", -FAR, FAR),
        fields.integer("vm_time", 0, FAR),
        size,
        fields.integer("ram", 0, MAX_RAM),
        simulated=fields.flag("simulated"),
    )


def load(machine: Machine, source: BinaryIO, make_guest: Callable[[str], Guest]) -> None:
    """Put the machine into the state in `source`; its run state and waiting requests stay as they are.

    `make_guest` makes the guest from the snapshot's Guest.spec; it may raise MisuseError.

    Do not call this from a listener or a request's callback: the old guest may be in the middle of something then.
    Raises SnapshotError for a file that is damaged, truncated, newer or no snapshot, for another RAM size, and if the
    guest in the file or in the machine cannot be saved. Nothing has changed then.
    """
    # Cheap checks come first, then the checksum, then the content.
    if machine.guest.snapshot_refusal:
        raise SnapshotError(machine.guest.snapshot_refusal)
    reader = _Reader(source)
    version, length = _read_header(reader)
    reader.check_size(length, machine.ram)
    reader.check()
    fields = _state(reader, version, length)
    fields.text("tag")
    date = fields.integer("date", -FAR, FAR)
    simulated = fields.flag("simulated")
    run = fields.text("run") if "run" in fields else ""
    ram = fields.integer("ram", MIN_RAM, MAX_RAM)
    if ram != machine.ram:
        raise SnapshotError(f"the snapshot is of {_exactly(ram)} of memory, this machine has {_exactly(machine.ram)}")
    if fields.flag("balloon") != machine.balloon:
        words = ("with", "without") if machine.balloon else ("without", "with")
        raise SnapshotError(f"this machine was built {words[0]} a balloon device, the snapshot's {words[1]} one")
    fresh, guest = _build(machine, fields, make_guest)
    # BaseException: Ctrl-C during a long load must not leave the memory of a second machine behind.
    try:
        _restore(fresh, fields, guest, reader, _elapsed(machine, date, run, simulated=simulated))
    except BaseException:
        fresh.close()
        raise
    _take_over(machine, fresh)


def _exactly(ram: int) -> str:
    return f"{ram >> 10} KiB" if ram % MIB else f"{ram >> 20} MiB"


def _take_over(machine: Machine, fresh: Machine) -> None:
    """Give `machine` the memory, device, guest and VM time of `fresh`, which is restored and not started.

    Monitors, listeners, run state, polling interval and waiting requests stay. The requests are asked again.
    """
    # Nothing here may fail: a machine that is half old and half new could not be used.
    running = machine.running
    machine.stop()
    machine.guest.close()
    if machine.device is not None:
        if fresh.device is not None:
            fresh.device.stats.replace(machine.device.stats)
        machine._deliver_news(machine.device)
        machine.device.detach()
    machine.memory.close()
    machine.memory = fresh.memory
    for member in Machine.STATE:
        setattr(machine, member.attribute, getattr(fresh, member.attribute))
    machine.time.vm_clock = machine.vm_clock
    machine.time.vm_timers = machine.vm_timers = fresh.vm_timers
    device = machine.device
    machine.guest.machine = machine
    if device is not None:
        device.time = device.stats.time = machine.time
        # QEMU sends no BALLOON_CHANGE here (measured on 7.2). NEWS_DRIVER makes the machine ask for waiting requests.
        device.due = device.due & ~NEWS_ACTUAL | NEWS_DRIVER
        machine.history.add(machine.clock.now(), device.actual, device.stats.sample)
    else:
        machine.requests.end_all(NO_DEVICE)
    if running:
        machine.cont()
    machine.deliver()


def _elapsed(machine: Machine, date: int, run: str, *, simulated: bool) -> int:
    """Return the ns since the save by the wall clock; 0 if another simulated clock saved it."""
    # Never negative: the wall clock may have been set back since. There is no upper limit: a host without a clock
    # battery may have saved in 1970. Saving again limits each age (device.state.FAR).
    clock = machine.clock
    if simulated != clock.simulated or run != clock.run:
        return 0
    return max(0, clock.wall() - date)


def _build(machine: Machine, fields: Fields, make_guest: Callable[[str], Guest]) -> tuple[Machine, Fields]:
    """Return a new machine with the same clock, the snapshot's guest and no device yet, and that guest's state."""
    # The guest is made here but not restored: its driver needs the device and the memory first.
    guest = fields.section("guest")
    try:
        made = make_guest(guest.text("spec"))
        if made.snapshot_refusal:
            raise SnapshotError(made.snapshot_refusal)
        fresh = Machine(machine.clock, ram=machine.ram, guest=made, balloon=False)
    except SnapshotError:
        raise
    except MisuseError as error:
        raise SnapshotError(f"the snapshot's guest cannot be made: {error}") from None
    return fresh, guest


def _restore(fresh: Machine, fields: Fields, guest: Fields, reader: _Reader, elapsed: int) -> None:
    """Restore everything into the new machine. Raises SnapshotError."""
    # Runs and addresses must rise, so nothing can be in the file twice.
    zero, count = reader.pair()
    if zero or count * _PAIR.size > reader.left:
        raise SnapshotError("the snapshot's list of pages is longer than the file")
    limit = fresh.ram >> PAGE_SHIFT
    runs: list[tuple[int, int]] = []
    end = 0
    for _ in range(count):
        first, length = reader.pair()
        if not end <= first < limit or not 0 < length <= limit - first:
            raise SnapshotError("the snapshot's balloon has pages that do not exist, or a page twice")
        end = first + length
        runs.append((first, length))
    end = 0
    while reader.left:
        address, length = reader.pair()
        _run_length(length if address % PAGE_SIZE == 0 else 0)
        if address < end or address + length > fresh.ram:
            raise SnapshotError("the snapshot's memory lies outside the machine's")
        fresh.memory.write(address, reader.read(length))
        end = address + length
    fields.then = fresh.clock.now() - elapsed
    load_state(fresh, fields)
    # The pages are added here, because `load_state` made the device with its page set.
    if fresh.device is not None:
        for first, length in runs:
            for at in range(first, first + length, _PAGES_AT_ONCE):
                fresh.device.pages.add(at, min(_PAGES_AT_ONCE, first + length - at))
        if fields.version == 1 and fresh.device.live:  # format 1 did not say which queues had to wait
            fresh.device.wake()
    elif runs or fresh.unplugging:
        raise SnapshotError("the snapshot has a balloon without a balloon device")
    fresh.guest.restore(guest.section("state"))
    guest.done()
