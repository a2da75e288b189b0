"""The keys of guests, as in `--guest NAME,key=value`: how each value is read, and what it means."""

# Apart from the table of guests, because most guests are made without a key: the piped path then loads no faults.

from __future__ import annotations

from device.errors import MisuseError
from device.guest.model.faults import FAULTS
from device.units import parse_count, parse_size
from device.virtio.memory import check_ram_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def _parse_pace(text: str) -> int:
    pace = parse_size(text)
    if not 4096 <= pace <= 1 << 50:
        raise MisuseError(f"'{text}' is not a pace from 4K to 1024T a second")
    return pace


def _parse_rule(text: str) -> str:
    from device.guest.hostile.attacks import ATTACKS

    if text not in ATTACKS:
        raise MisuseError(f"'{text}' is not a rule to break (one of {', '.join(ATTACKS)})")
    return text


def _parse_path(text: str) -> str:
    if "\0" in text:  # open() would raise ValueError for it, when the guest is made
        raise MisuseError("a path has no zero byte")
    return text


KEYS: dict[str, tuple[Callable[[str], object], str]] = {
    **{fault.name: (fault.parse, fault.help) for fault in FAULTS if fault.help},
    "pace": (_parse_pace, "SIZE: inflation per second of VM time"),
    "seed": (
        lambda text: parse_count(text, 10**19 - 1, "a whole number below 10^19"),  # it fits into 64 bits
        "N: seeds what is random in the guest; by default the seed of the machine",
    ),
    "rule": (_parse_rule, "NAME: the one rule to break (TAB lists them)"),
    "mem": (lambda text: check_ram_size(parse_size(text)), "SIZE: the guest's memory, the same as -m"),
    "kernel": (_parse_path, "PATH: the User-Mode Linux program"),
    "module": (_parse_path, "PATH: that kernel's virtio_balloon.ko"),
    "busybox": (_parse_path, "PATH: a statically linked busybox"),
    "path": (_parse_path, "PATH: the socket to listen on"),
}
"""Every key that some guest takes: how a value is read, and what it means."""

MODELLED_KEYS = (*[fault.name for fault in FAULTS if fault.help and fault.common], "pace")
"""The keys that every modelled guest takes."""
