"""A sample of guest memory statistics, its format on the wire (virtio 1.2, 5.5.6.3), and the recent past for charts."""

from __future__ import annotations

from _struct import Struct  # as in struct, which is one file more to open

from device.balloon.spec import ABSENT, MAX_STAT_RECORDS, STAT_COUNT, STAT_RECORD
from device.state import FAR
from device.virtio.spec import U16

TYPE_CHECKING = False
if TYPE_CHECKING:
    from device.fields import Fields

WIRE_LIMIT = MAX_STAT_RECORDS * STAT_RECORD
"""Bytes of a statistics buffer that are read."""


class _Formats(dict[int, Struct]):
    """Packers by number of (tag, value) records of 10 bytes each, without padding. Made when first used."""

    def __missing__(self, count: int) -> Struct:
        packer = self[count] = Struct("<" + "HQ" * count)
        return packer


RECORDS = _Formats()
"""The packer for each number of records. There are at most MAX_STAT_RECORDS + 1 of them."""


class Sample:
    """One report of the guest. Each one replaces the whole sample before it.

    `tags` and `numbers` are the known statistics that are not absent, in the guest's order. `values` has the same as a
    dict by tag; `unknown` has the others. They are unsigned, in bytes or counts as STATS_TABLE says. `collected` is the
    host clock's time and `wall` the wall clock's, in ns.
    """

    # Two clocks: the age needs one that nobody sets back, and `last-update` is a date. The dict is made only when
    # somebody reads it, because the printed line needs the tuples alone.

    __slots__ = ("_values", "collected", "numbers", "tags", "unknown", "wall")

    def __init__(
        self, tags: tuple[int, ...], numbers: tuple[int, ...], unknown: dict[int, int], collected: int, wall: int
    ) -> None:
        self.tags = tags
        self.numbers = numbers
        self.unknown = unknown
        self.collected = collected
        self.wall = wall
        self._values: dict[int, int] | None = None

    def state(self, now: int) -> dict[str, object]:
        """Return the sample as plain data, in the guest's order; the age is counted back from `now` (host ns)."""
        return {
            "tags": list(self.tags),
            "numbers": list(self.numbers),
            "unknown": [[tag, value] for tag, value in self.unknown.items()],
            "age": min(FAR, now - self.collected),
            "wall": self.wall,
        }

    @staticmethod
    def restored(fields: Fields) -> Sample:
        """Make a sample from its state. Raises SnapshotError."""
        tags = fields.integers("tags", STAT_COUNT, STAT_COUNT - 1)
        numbers = fields.integers("numbers", STAT_COUNT, ABSENT - 1)
        pairs = fields.pairs("unknown", MAX_STAT_RECORDS)
        age, wall = fields.integer("age", 0, FAR), fields.integer("wall", -FAR, FAR)
        fields.done()
        if len(tags) != len(numbers) or len(set(tags)) != len(tags):
            raise fields.refuse("tags", "do not match the numbers")
        unknown = {tag: value for tag, value in pairs if value is not None}
        if len(unknown) != len(pairs):
            raise fields.refuse("unknown", "names a statistic twice, or without its value")
        if not all(tag <= U16 and tag not in tags for tag in unknown):
            raise fields.refuse("unknown", "names a statistic that is known")
        # A snapshot of an older hmp may have an unknown tag that this one knows.
        for tag in [tag for tag in unknown if tag < STAT_COUNT]:
            tags.append(tag)
            numbers.append(unknown.pop(tag))
        return Sample(tuple(tags), tuple(numbers), unknown, fields.then - age, wall)

    @property
    def values(self) -> dict[int, int]:
        """The known statistics by tag; an absent one is missing."""
        values = self._values
        if values is None:
            values = self._values = dict(zip(self.tags, self.numbers, strict=True))
        return values


# Shared by all samples and never changed: making new ones would take time for each buffer.
NO_UNKNOWN: dict[int, int] = {}
NO_FAULTS: list[tuple[str, str]] = []

_VALID_TAGS: set[tuple[int, ...]] = set()
"""Sequences of tags that were found valid: known tags, none twice. A driver always sends the same one.

It is emptied at 64 entries, so that a guest that keeps changing its tags cannot make it grow.
"""


def decode(data: bytes) -> tuple[int, tuple[int, ...], tuple[int, ...], dict[int, int], list[tuple[str, str]]]:
    """Read a statistics buffer: (records, known tags, their values, unknown values by tag, faults).

    Reads at most MAX_STAT_RECORDS records. A value of 2^64-1 means absent. The last of several records with the same
    tag counts. Part of a record at the end is ignored. The faults are (rule, detail) pairs.
    """
    # Faults are returned and not raised: all good records of a bad buffer count, and a newer kernel's tags are no
    # error.
    size = len(data)
    count = size // STAT_RECORD
    if count > MAX_STAT_RECORDS:
        count = MAX_STAT_RECORDS
    flat = RECORDS[count].unpack_from(data)
    tags = flat[::2]
    numbers = flat[1::2]
    # The quick way for nearly every buffer: no dict, no loop.
    if tags in _VALID_TAGS and size == count * STAT_RECORD and ABSENT not in numbers:
        return count, tags, numbers, NO_UNKNOWN, NO_FAULTS
    faults: list[tuple[str, str]] = []
    # What is beyond the limit is another fault (huge-buffer), which the caller counts.
    if size < MAX_STAT_RECORDS * STAT_RECORD and size % STAT_RECORD:
        faults.append(("partial-record", f"{size % STAT_RECORD} bytes behind {count} records"))
    values = dict(zip(tags, numbers, strict=True))
    unknown = NO_UNKNOWN
    if len(values) != count:
        faults.append(("duplicate-tag", f"{count - len(values)} of {count} records"))
    if count and max(tags) >= STAT_COUNT:
        unknown = {tag: value for tag, value in values.items() if tag >= STAT_COUNT and value != ABSENT}
        faults.append(("unknown-tag", ", ".join(str(tag) for tag in tags if tag >= STAT_COUNT)[:80]))
    elif len(values) == count:
        # Emptied and not thinned out: the sequences in use are back with their next buffer.
        if len(_VALID_TAGS) >= 64:
            _VALID_TAGS.clear()
        _VALID_TAGS.add(tags)
    values = {tag: value for tag, value in values.items() if tag < STAT_COUNT and value != ABSENT}
    return count, tuple(values), tuple(values.values()), unknown, faults


def encode(records: list[tuple[int, int]]) -> bytes:
    """Return the wire form of (tag, value) records, in their order."""
    return RECORDS[len(records)].pack(*[number for record in records for number in record])


KEEP = 512
"""Entries kept: more than a terminal has columns."""

SPACING = 50_000_000
"""ns between entries. A value that comes sooner replaces the last entry, so that a burst does not push out the past."""


class History:
    """Entries of (host ns, actual bytes, sample or None), oldest first."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, int, Sample | None]] = []
        self._anchor = -SPACING

    def add(self, now: int, actual: int, sample: Sample | None) -> None:
        """Add the values of host time `now`."""
        # SPACING counts from the first value of an entry. From the last, a burst without end would stay one entry.
        entries = self.entries
        if entries and now - self._anchor < SPACING:
            entries[-1] = (now, actual, sample)
            return
        self._anchor = now
        entries.append((now, actual, sample))
        # Cut only at twice the size: cutting at KEEP would move the whole list for each new entry.
        if len(entries) > 2 * KEEP:
            del entries[:-KEEP]

    def recent(self) -> list[tuple[int, int, Sample | None]]:
        """Return at most KEEP entries, oldest first."""
        return self.entries[-KEEP:]
