"""`savevm`, `loadvm`, `delvm` and `info snapshots`."""

from __future__ import annotations

from collections.abc import Callable

from device.errors import MisuseError
from device.machine.events import SnapshotDone
from hmp.monitor.drawn import Drawn
from hmp.monitor.monitor import Arguments, Monitor, Reply
from hmp.monitor.snapshots import automatic_tag, lines, store_of


def savevm(monitor: Monitor, arguments: Arguments, reply: Reply) -> str | None:
    """Save the whole machine; an older snapshot with the same tag is replaced."""
    machine = monitor.machine
    tag = arguments.get("name", "") or automatic_tag(machine)

    def save() -> None:
        store_of(machine).save(tag, machine)
        machine.emit(SnapshotDone(tag))

    return _in_turn(monitor, reply, save)


def loadvm(monitor: Monitor, arguments: Arguments, reply: Reply) -> None:
    """Go back to a snapshot. If it cannot be loaded, nothing changes; QEMU leaves the VM paused then."""
    store_of(monitor.machine).load(arguments["name"], monitor.machine)


def delvm(monitor: Monitor, arguments: Arguments, reply: Reply) -> str | None:
    """Delete a snapshot. As in QEMU it is no error if there is none."""
    return _in_turn(monitor, reply, lambda: store_of(monitor.machine).delete(arguments["name"]))


def info_snapshots(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """List the snapshots as QEMU does."""
    found = store_of(monitor.machine).summaries()
    if not found:
        return "There is no snapshot available.\n"
    heading, text = "List of snapshots present on all disks:", "".join(lines(found))
    # The cells come from the finished text, so that both have the same words.
    names, *rows = [[line[start:end].strip() for start, end in _CELLS] for line in text.splitlines()]
    return Drawn.of(f"{heading}\n{text}", rows, heading=heading, names=names, right=(1, 3))


_CELLS = ((10, -52), (-52, -44), (-44, -24), (-24, -11))
"""The places of tag, size, date and VM clock in a line.

All but the tag count from the end, because a long tag moves them.
"""


def _in_turn(monitor: Monitor, reply: Reply, write: Callable[[], None]) -> str | None:
    """Run `write`, which waits for the disk. If there are other monitors, first pause for as long as the last write
    took.

    A write takes some 10 to 25 ms, in which no client is served: fifty clients that save all the time would use all of
    the time. There is no pause on simulated clocks, where it would take no time but change what the machine does.
    """
    machine, store = monitor.machine, store_of(monitor.machine)
    now = machine.clock.now

    def timed() -> str:
        began = now()
        try:
            write()
            return ""
        finally:
            # now + (now - began): the pause is as long as this write took.
            store.paused_until = 2 * now() - began

    def wait() -> None:
        timer = machine.host_timers.at(store.paused_until, go_on)
        reply.suspend(timer.cancel)
        reply.until = timer.due

    def go_on() -> None:
        if now() < store.paused_until:  # another monitor has written in the meantime
            wait()
            return
        try:
            reply.finish(timed())
        except MisuseError as error:
            reply.fail(error)

    if monitor.alone or machine.clock.simulated or now() >= store.paused_until:
        return timed()
    wait()
    return None
