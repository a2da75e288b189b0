"""Reads the memory statistics of this host, as a guest's balloon driver reports them.

Tags and sources are those of Linux's driver (`update_balloon_stats` of 6.12): events are from vmstat, amounts from
meminfo. This runs for every request, so it searches for the dozen lines that it needs and does not split all 200.
"""

from __future__ import annotations

import os

_LIMIT = 1 << 20  # both files have a few KiB; stops a file that never ends
_MAX = (1 << 64) - 1  # on the wire this is "not reported", so a value must stay below
_DIGITS = 20

# tag, name, unit: 0 is the size of a page
_VMSTAT = (
    (0, b"pswpin", 0),
    (1, b"pswpout", 0),
    (2, b"pgmajfault", 1),
    (3, b"pgfault", 1),  # the driver sends all faults as the minor ones
    (7, b"nr_file_pages", 0),
    (8, b"htlb_buddy_alloc_success", 1),
    (9, b"htlb_buddy_alloc_fail", 1),
    (10, b"oom_kill", 1),
    (12, b"pgscan_kswapd", 0),
    (13, b"pgscan_direct", 0),
    (14, b"pgsteal_kswapd", 0),
    (15, b"pgsteal_direct", 0),
)
_MEMINFO = ((4, b"MemFree:", 1024), (5, b"MemTotal:", 1024), (6, b"MemAvailable:", 1024))
_STALLS_TAG = 11
_STALLS = b"\nallocstall_"


def read_host_statistics(
    meminfo: str = "/proc/meminfo", vmstat: str = "/proc/vmstat", page_size: int | None = None
) -> dict[int, int]:
    """Return the host's statistics by tag in rising order: bytes, except tags 2, 3 and 8 to 11, which are counts.

    A field that this kernel does not have, or that makes no sense, is absent. If neither file can be read, the result
    is empty. `page_size` is in bytes and by default the machine's. Never raises for what the files hold.
    """
    size = os.sysconf("SC_PAGE_SIZE") if page_size is None else page_size
    found: dict[int, int] = {}
    events = _read(vmstat)
    if events:
        for tag, name, unit in _VMSTAT:
            _keep(found, tag, _field(events, name), unit or size)
        _keep(found, _STALLS_TAG, _stalls(events), 1)
    amounts = _read(meminfo)
    if amounts:
        for tag, name, unit in _MEMINFO:
            _keep(found, tag, _field(amounts, name), unit)
    return {tag: found[tag] for tag in sorted(found)}


def _keep(found: dict[int, int], tag: int, value: int | None, unit: int) -> None:
    if value is not None and value * unit < _MAX:
        found[tag] = value * unit


def _field(data: bytes, name: bytes) -> int | None:
    """The number on the line that begins with `name` and a blank."""
    start = data.find(b"\n" + name + b" ")
    return None if start < 0 else _number(data, start + 1)


def _number(data: bytes, start: int) -> int | None:
    """The unsigned number of the line at `start`, after its name, and without the unit kB if there is one."""
    end = data.find(b"\n", start)
    if end < 0:
        return None  # the line was cut, and perhaps its number with it
    text = data[start:end].partition(b" ")[2].removesuffix(b" kB").strip(b" ")
    return int(text) if text.isdigit() and len(text) <= _DIGITS else None


def _stalls(data: bytes) -> int | None:
    """Allocation stalls: one line per memory zone, and which zones there are depends on the machine."""
    total = None
    at = data.find(_STALLS)
    while at >= 0:
        value = _number(data, at + 1)
        if value is not None:
            total = value if total is None else total + value
        at = data.find(_STALLS, at + 1)
    return total


def _read(path: str) -> bytes:
    """The whole file, with a newline before it so that one precedes each line; empty if it cannot be read."""
    try:
        # O_NONBLOCK, because opening a FIFO would otherwise wait for a writer.
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return b""
    data = b"\n"
    try:
        # In a loop, because /proc returns about a page for each read.
        while len(data) < _LIMIT and (piece := os.read(file, 1 << 16)):
            data += piece
    except OSError:
        return b""
    finally:
        os.close(file)
    return data
