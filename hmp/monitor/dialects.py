"""How `info balloon` answers, as data: the format of the line, whether it waits, and whether QMP sends BALLOON."""

from __future__ import annotations

from _operator import itemgetter  # the import of `operator` takes a millisecond: it defines 50 functions in Python

from device.balloon.spec import FREE, MAJOR_FAULTS, MINOR_FAULTS, SEED_STATS, STATS_TABLE, SWAP_IN, SWAP_OUT, TOTAL
from device.clock import MS, SECOND
from device.virtio.spec import MIB

# This module is on the piped path, so it imports types for type checkers only.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from device.balloon.device import BalloonDevice

    Picker = Callable[[tuple[int, ...]], tuple[int, ...]]

AGELESS = 1 << 127
"""A timeout that no age reaches, for a new sample and for guests that do not report: the line gets no age."""

_LAYOUTS: dict[tuple[int, ...], tuple[str, Picker]] = {}
"""For each order of tags that a guest sends: the format of the line, and the function that picks its numbers."""


_LAST: list[Any] = [None, ""]
"""The input and the text of the last line that was made, without its age."""


def layout(tags: tuple[int, ...]) -> tuple[str, Picker]:
    """Return the format of the line for a guest that sends `tags`, and the function that picks its numbers."""
    # A kernel always sends its tags in one order. Only a guest that changes the order on purpose fills the table, and
    # it must not fill the memory.
    if len(_LAYOUTS) >= 64:
        _LAYOUTS.clear()
    places = [tags.index(tag) for tag in SEED_STATS if tag in tags]
    text = "".join(f",{STATS_TABLE[tags[at]].name}=%d" for at in places)
    # itemgetter runs in C, but with one index it returns a number and not a tuple, and with none it raises.
    pick: Picker = itemgetter(*places) if len(places) > 1 else lambda numbers: tuple([numbers[at] for at in places])
    made = _LAYOUTS[tags] = (f"balloon: actual=%d{text}\n", pick)
    return made


def seed_line(device: BalloonDevice, timeout: int) -> str:
    """Return the line of the seed dialect: `actual` in MiB, the statistics of the six that the guest reported, and the
    age.

    The age (ms) is only there if it is at least the timeout (ns): a line with an age shows old numbers.
    """
    stats = device.stats
    sample = stats.sample
    if sample is not None:
        shown = (device.actual, sample.tags, sample.numbers)
        # A guest that is asked again at once often reports the same numbers, so the text can be used again.
        if shown == _LAST[0]:
            line: str = _LAST[1]
        else:
            text, pick = _LAYOUTS.get(sample.tags) or layout(sample.tags)
            line = text % (device.actual // MIB, *pick(sample.numbers))
            _LAST[:] = shown, line
    else:
        line = qemu_line(device, timeout)
    # Compared by identity, and before the age is read: the usual answer came just now, and reading the clock costs time
    # on each line of a pipe.
    if timeout is AGELESS or (age := stats.age) < timeout:
        return line
    return f"{line[:-1]},age={age // MS}\n"


def qemu_line(device: BalloonDevice, timeout: int) -> str:
    """Return QEMU 7.2's line: the size and nothing else."""
    return f"balloon: actual={device.actual // MIB}\n"


def qemu_query(device: BalloonDevice) -> dict[str, int]:
    """Return what query-balloon of QEMU 7.2 returns: the size in bytes and nothing else."""
    return {"actual": device.actual}


_PVE_STATS = {"total_mem": TOTAL, "free_mem": FREE, "mem_swapped_in": SWAP_IN, "mem_swapped_out": SWAP_OUT,
              "major_page_faults": MAJOR_FAULTS, "minor_page_faults": MINOR_FAULTS}  # fmt: skip
_PVE_SIZES = ("actual", "max_mem", "total_mem", "free_mem")
"""The fields that the line shows in MiB; query-balloon has all of them in bytes."""


def pve_query(device: BalloonDevice) -> dict[str, int]:
    """Return Proxmox's fields in bytes, and when the statistics arrived (seconds since the epoch).

    The statistics are there while polling is on and a driver has answered. `max_mem` is always there, because Proxmox's
    manager drops an answer without it.
    """
    fields = {"actual": device.actual, "max_mem": device.ram}
    stats = device.stats
    if stats.sample is not None and stats.poll_interval and device.can_report:
        values = stats.sample.values
        fields |= {name: values[tag] for name, tag in _PVE_STATS.items() if tag in values}
        fields["last_update"] = stats.sample.wall // SECOND
    return fields


def pve_line(device: BalloonDevice, timeout: int) -> str:
    """Return Proxmox's line: the same fields, the sizes in MiB."""
    fields = pve_query(device)
    shown = [f"{name}={value // MIB if name in _PVE_SIZES else value}" for name, value in fields.items()]
    return f"balloon: {' '.join(shown)}\n"


class Dialect:
    """One way of answering: `line` renders `info balloon`, `query` says what query-balloon returns.

    `waits` says whether `info balloon` asks the guest and waits for its answer. `balloon_event` says whether QMP
    clients get a BALLOON event when the guest answers.
    """

    def __init__(
        self, name: str, help: str, line: Callable[[BalloonDevice, int], str],
        query: Callable[[BalloonDevice], dict[str, int]] = qemu_query, *,
        waits: bool = False, balloon_event: bool = False,
    ) -> None:  # fmt: skip
        self.name, self.help, self.line, self.query = name, help, line, query
        self.waits, self.balloon_event = waits, balloon_event


DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Dialect("seed", "asks the guest, waits, and prints the age of old numbers", seed_line,
                waits=True, balloon_event=True),
        Dialect("qemu", "as QEMU 7.2: prints the size at once", qemu_line),
        Dialect("pve", "as Proxmox: prints the last polled statistics", pve_line, pve_query),
    )
}  # fmt: skip
