"""savevm, loadvm, delvm and info snapshots."""

from __future__ import annotations

from device.plain import SnapshotError
from hmp.monitor.errors import CommandError
from hmp.monitor.snapshots import automatic_tag, lines, store_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hmp.monitor.grammar import Arguments
    from hmp.monitor.monitor import Monitor, Reply


def savevm(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Save the whole machine; one of the same tag is replaced."""
    machine = monitor.machine
    tag = str(arguments.get("name", "")) or automatic_tag(machine)
    try:
        store_of(machine).save(tag, machine)
    except SnapshotError as error:
        raise CommandError(str(error)) from None
    machine.emit("SNAPSHOT_DONE", {"tag": tag})
    return ""


def loadvm(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Go back to a snapshot; one that cannot be loaded changes nothing."""
    try:
        store_of(monitor.machine).load(str(arguments["name"]), monitor.machine)
    except SnapshotError as error:
        raise CommandError(str(error)) from None
    return ""


def delvm(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Delete a snapshot; silent if there is none, as QEMU."""
    try:
        store_of(monitor.machine).delete(str(arguments["name"]))
    except SnapshotError as error:
        raise CommandError(str(error)) from None
    return ""


def info_snapshots(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """List the snapshots as QEMU does."""
    try:
        found = store_of(monitor.machine).summaries()
    except SnapshotError as error:
        raise CommandError(str(error)) from None
    if not found:
        return "There is no snapshot available.\n"
    return "List of snapshots present on all disks:\n" + "".join(lines(found))
