"""How `info balloon` answers, as data: what the line looks like, whether it waits, whether QMP tells of answers."""

from __future__ import annotations

from _operator import itemgetter  # operator has 50 functions more, in Python, and takes a millisecond

from device.balloon.spec import (
    FREE,
    MAJOR_FAULTS,
    MINOR_FAULTS,
    SEED_STATS,
    STATS_TABLE,
    SWAP_IN,
    SWAP_OUT,
    TOTAL,
)
from device.clock import MS, SECOND
from device.virtio.spec import MIB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from device.balloon.device import BalloonDevice

    Picker = Callable[[tuple[int, ...]], tuple[int, ...]]

AGELESS = 1 << 127
"""A timeout that no age reaches: for a sample that came just now, and for guests that do not report at all."""

_LAYOUTS: dict[tuple[int, ...], tuple[str, Picker]] = {}
"""For each order in which guests send their statistics: the line's format and how to pick its numbers."""


_LAST: list[Any] = [None, ""]
"""What was rendered last, without its age, and how it came out."""


def _layout(tags: tuple[int, ...]) -> tuple[str, Picker]:
    if len(_LAYOUTS) >= 64:  # only a guest that plays with its tags comes here
        _LAYOUTS.clear()
    places = [tags.index(tag) for tag in SEED_STATS if tag in tags]
    text = "".join(f",{STATS_TABLE[tags[at]].name}=%d" for at in places)
    pick: Picker = itemgetter(*places) if len(places) > 1 else lambda numbers: tuple([numbers[at] for at in places])
    layout = _LAYOUTS[tags] = (f"balloon: actual=%d{text}\n", pick)
    return layout


def seed_line(device: BalloonDevice, timeout: int) -> str:
    """Return the seed's line: MiB first, then the six statistics the guest reported, then a stale sample's age.

    `age` (ms) is there if and only if it is at least the timeout (ns).
    """
    stats = device.stats
    sample = stats.sample
    if sample is not None:
        shown = (device.actual, sample.tags, sample.numbers)
        if shown == _LAST[0]:  # asked again at once, a guest says the same again
            line: str = _LAST[1]
        else:
            layout = _LAYOUTS.get(sample.tags)
            text, pick = layout if layout is not None else _layout(sample.tags)
            line = text % (device.actual // MIB, *pick(sample.numbers))
            _LAST[:] = shown, line
    else:
        line = qemu_line(device, timeout)
    if timeout is AGELESS or (age := stats.age) < timeout:
        return line
    return f"{line[:-1]},age={age // MS}\n"


def qemu_line(device: BalloonDevice, timeout: int) -> str:
    """Return QEMU 7.2's line: the size and nothing else."""
    return f"balloon: actual={device.actual // MIB}\n"


def qemu_query(device: BalloonDevice) -> dict[str, int]:
    """Return what QEMU 7.2's query-balloon says: the size in bytes and nothing else."""
    return {"actual": device.actual}


_PVE_STATS = (
    ("total_mem", TOTAL),
    ("free_mem", FREE),
    ("mem_swapped_in", SWAP_IN),
    ("mem_swapped_out", SWAP_OUT),
    ("major_page_faults", MAJOR_FAULTS),
    ("minor_page_faults", MINOR_FAULTS),
)
_PVE_SIZES = ("actual", "max_mem", "total_mem", "free_mem")
"""The fields that the line has in MiB."""


def pve_query(device: BalloonDevice) -> dict[str, int]:
    """Return Proxmox's fields in bytes, and when the statistics came (seconds since the epoch).

    They are there while polling is on and a driver has answered; its manager drops an answer without `max_mem`.
    """
    fields = {"actual": device.actual, "max_mem": device.ram}
    stats = device.stats
    if stats.sample is not None and stats.poll_interval and device.can_report:
        values = stats.sample.values
        fields |= {name: values[tag] for name, tag in _PVE_STATS if tag in values}
        fields["last_update"] = stats.sample.wall // SECOND
    return fields


def pve_line(device: BalloonDevice, timeout: int) -> str:
    """Return Proxmox's line: the same fields, the sizes in MiB."""
    fields = pve_query(device)
    shown = [f"{name}={value // MIB if name in _PVE_SIZES else value}" for name, value in fields.items()]
    return f"balloon: {' '.join(shown)}\n"


class Dialect:
    """One way of answering: `line` renders `info balloon`, `query` says what query-balloon returns.

    `waits` says whether `info balloon` asks the guest and waits for it, `balloon_event` whether QMP clients get BALLOON
    when the guest answers.
    """

    def __init__(
        self,
        name: str,
        help: str,
        line: Callable[[BalloonDevice, int], str],
        query: Callable[[BalloonDevice], dict[str, int]] = qemu_query,
        *,
        waits: bool = False,
        balloon_event: bool = False,
    ) -> None:
        self.name = name
        self.help = help
        self.line = line
        self.query = query
        self.waits = waits
        self.balloon_event = balloon_event


DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            "seed",
            "asks the guest, waits, and prints the age of old numbers",
            seed_line,
            waits=True,
            balloon_event=True,
        ),
        Dialect("qemu", "as QEMU 7.2: the size, at once", qemu_line),
        Dialect("pve", "as Proxmox: what polling brought last", pve_line, pve_query),
    )
}
