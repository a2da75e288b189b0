"""What front ends keep with a machine: the QEMU version that it reports, --replies, wire faults, and the log."""

from __future__ import annotations

from device.errors import MisuseError
from hmp import QEMU_VERSION, __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from device.machine.machine import Machine

    Shown = list[dict[str, object]]


class Emulated:
    """One of these belongs to each machine, as `Machine.front`; use `emulated`.

    `replies` has the answers of --replies. `chardevs` returns the result of query-chardev. `migration` holds the
    values that migrate-set-capabilities and migrate-set-parameters set, by name. `format` is the format that `print`
    used last. hmp.qmp.inventory sets `commands` and `schema`.
    """

    # The machine only has the attribute `front` for this: the core must not know about monitors or the wire. Most types
    # are Any, as the classes are above this module in the layers.

    def __init__(self) -> None:
        self.version = QEMU_VERSION
        self.replies: Any = None
        self.chardevs: Callable[[], Shown] = list
        self.migration: dict[str, object] = {}
        self.commands: dict[str, Any] | None = None
        self.schema: Callable[[], Shown] = list
        self.format = "x"
        self.log: Any = None
        """The Log of --log, or None."""
        self.faults: Any = None
        """The Faults that were set, or None before the first."""
        self.wire: Any = None
        """The server, while clients can connect; else None."""
        self.make_monitor: Callable[..., Any] | None = None
        self.make_session: Callable[..., Any] | None = None
        """With --attach, what to make for a client of HMP or QMP in place of Monitor and QmpSession."""
        self.relays = False
        """Whether QMP clients get the events of a running QEMU unchanged (Relayed)."""

    package = f"hmp-emulator {__version__}"
    """The package of the version, which says that this is hmp. Tools read the number, people the package."""


def emulated(machine: Machine) -> Emulated:
    """Return the Emulated of `machine`; the first call makes it."""
    found: Emulated | None = machine.front
    # Made on demand, because a plain script of `info balloon` needs none of it.
    if found is None:
        found = machine.front = Emulated()
    return found


def version(text: str) -> str:
    """Return `text`, without leading zeros, if it has the form of a QEMU version. Raises MisuseError."""
    parts = text.split(".")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) < 4 for part in parts):
        raise MisuseError(f"'{text}' is not a version such as 8.2.0")
    return ".".join(str(int(part)) for part in parts)
