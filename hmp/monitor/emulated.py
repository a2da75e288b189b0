"""What front ends keep with a machine: the QEMU that it passes for, answers from files, faults of the wire, the log."""

from __future__ import annotations

from hmp import QEMU_VERSION, __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from device.machine.machine import Machine

    Shown = list[dict[str, object]]


class Emulated:
    """One of these belongs to each machine, as `Machine.front`; use `emulated`.

    `replies` are those of --replies. `chardevs` returns what query-chardev does. `migration` holds what was set of
    migrate-set-capabilities and -parameters, by name, `format` how print showed the last value.
    `commands` and `schema` are for hmp.qmp.inventory.
    """

    __slots__ = (
        "chardevs", "commands", "faults", "format", "log", "make_monitor", "make_session", "migration", "relays",
        "replies", "schema", "version", "wire",
    )  # fmt: skip

    def __init__(self) -> None:
        self.version = QEMU_VERSION
        self.replies: Any = None
        self.chardevs: Callable[[], Shown] = list
        self.migration: dict[str, object] = {}
        self.commands: dict[str, Any] | None = None
        self.schema: Callable[[], Shown] = list
        self.format = "x"
        self.log: Any = None
        """The Log of --log."""
        self.faults: Any = None
        """The Faults that were set."""
        self.wire: Any = None
        """The server, while clients can come."""
        self.make_monitor: Callable[..., Any] | None = None
        self.make_session: Callable[..., Any] | None = None
        """What serves clients of HMP and of QMP in the place of Monitor and QmpSession: of a machine elsewhere."""
        self.relays = False
        """Whether clients of QMP are told events as Relayed, in QEMU's own words."""

    @property
    def package(self) -> str:
        """The version's package: what it really is."""
        return f"hmp-emulator {__version__}"

    @property
    def numbers(self) -> dict[str, int]:
        """The version as QMP tells it."""
        return dict(zip(("micro", "minor", "major"), map(int, reversed(self.version.split("."))), strict=True))


def emulated(machine: Machine) -> Emulated:
    """Return what belongs to `machine`, made when it is first asked for."""
    found = machine.front
    if found is None:
        found = machine.front = Emulated()
    made: Emulated = found
    return made


def version(text: str) -> str:
    """Return `text` if it is a version of QEMU's. Raises ValueError."""
    parts = text.split(".")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) < 4 for part in parts):
        raise ValueError(f"'{text}' is not a version such as 8.2.0")
    return ".".join(str(int(part)) for part in parts)
