"""`sim`, the one command that QEMU does not have: it shows and controls the simulated guest."""

from __future__ import annotations

from device.balloon.spec import ABSENT, BYTES, FREE, STATS_TABLE, stat_tag
from device.clock import SECOND
from device.errors import RULES, MisuseError
from device.guest.table import PROFILES, make_guest
from device.units import format_seconds, format_size, parse_size
from device.virtio.spec import MAX_RAM
from hmp.monitor import CommandError, HostRefused
from hmp.monitor.commands import balloon_device
from hmp.monitor.drawn import Cell, Drawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from device.balloon.device import BalloonDevice
    from device.machine.machine import Machine
    from hmp.monitor.monitor import Arguments, Monitor, Reply

MAX_DELAY = 3600 * SECOND
MAX_DROPS = 1 << 31
MAX_SLEEP = 1_000_000 * SECOND
MAX_WORKLOAD = MAX_RAM
"""Limits of the commands: a larger value is most likely a typing error."""


def ago(duration: int) -> str:
    """Return ns as seconds with one decimal, rounded down: 4.99 s must not look as if the timeout of 5.0 s was over."""
    tenths = duration // (SECOND // 10)
    return f"{tenths // 10}.{tenths % 10} s"


def plural(count: int, word: str) -> str:
    """Return a count with its noun."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def stat_name(tag: int) -> str:
    """Return the name of a statistic; an unknown one is named by its tag number."""
    return STATS_TABLE[tag].name if tag < len(STATS_TABLE) else f"tag {tag}"


def in_bytes(tag: int | None) -> bool:
    """Return whether a statistic, or with None `actual`, is a size; all others are counts."""
    return tag is None or (tag < len(STATS_TABLE) and STATS_TABLE[tag].unit == BYTES)


def find_stat(name: str) -> int:
    """Return the tag of the statistic `name`. Raises CommandError if there is none."""
    tag = stat_tag(name)
    if tag is None:
        known = ", ".join([stat.name for stat in STATS_TABLE])
        raise CommandError(f"'{name}' is not a statistic (one of {known}, or a tag number)")
    return tag


def columns(rows: Sequence[tuple[str, ...]], *, right: tuple[int, ...] = ()) -> str:
    """Return rows of text in columns, two blanks apart. The columns numbered in `right` align right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        pairs = enumerate(zip(row, widths, strict=True))
        cells = [f"{cell:{'>' if number in right else '<'}{width}}" for number, (cell, width) in pairs]
        lines.append("  ".join(cells).rstrip() + "\n")
    return "".join(lines)


# Commands that show something.


def stats_state(machine: Machine, device: BalloonDevice) -> str:
    """Return the state of the statistics: when the guest answered last, and whether it owes an answer."""
    stats, requests = device.stats, machine.requests
    age = ago(stats.age)
    if stats.sample is not None:
        parts = [f"last answer {age} ago"]
    elif not device.can_report:
        reason = "does not report statistics" if device.live else "is not up"
        parts = [f"none: the guest's driver {reason}"]
    else:
        parts = [f"no answer since the device was reset {age} ago"]
    # The guest has the buffer and has not returned it, or a request waits for a driver that has not filled one yet.
    if stats.out or (device.can_report and stats.held is None and requests.pending):
        parts[0] += ", asked again since without an answer"
    if device.broken:
        parts.append("the device is broken until it is reset (see info virtio-status)")
    parts.append(f"{plural(requests.timed_out, 'request') if requests.timed_out else 'no request'} timed out")
    return "; ".join(parts)


def overview(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Show the state of the guest, the machine and the clock."""
    machine = monitor.machine
    guest, device, clock, requests = machine.guest, machine.device, machine.clock, machine.requests
    state = machine.run_state
    # Plain text first. The same rows in cells with a meaning follow below, for terminals.
    rows: list[tuple[str, ...]] = [("guest", guest.spec + (" (its driver is up)" if guest.driver_loaded else ""))]
    rows += [("", f"{name}: {value}") for name, value in guest.shown().items()]
    rows.append(("run state", state))
    host = f"{clock.name}, at {ago(clock.now())}" if clock.simulated else clock.name
    rows.append(("clock", f"{host}; the VM ran for {ago(machine.vm_clock.now())}"))
    sizes: dict[str, int] = {"RAM": machine.ram}
    if device is not None:
        sizes |= {"target": device.target, "actual": device.actual}
    # A modelled guest knows what is free now; of another one only its last sample is known.
    free = guest.memory_free()
    if free is None and device is not None and device.stats.sample is not None:
        free = device.stats.sample.values.get(FREE)
    if free is not None:
        sizes["free"] = free
    # One width for all sizes, so that they can be compared by their length.
    width = len(str(max(sizes.values())))
    rows += [(name, f"{size:>{width}}  {format_size(size)}") for name, size in sizes.items()]
    if device is None:
        rows.append(("statistics", "none: there is no balloon device"))
    else:
        rows.append(("statistics", stats_state(machine, device)))
        if device.stats.poll_interval:
            rows.append(("polling", f"every {plural(device.stats.poll_interval, 'second')} of VM time"))
        rows += [("refused", f"{count} x {RULES[rule]} ({rule})") for rule, count in device.refused.items()]
    front = machine.front
    if front is not None and front.faults is not None:
        rows += [("reply", str(fault)) for fault in front.faults.set]
        rows += [("wire", "one client at a time")] * front.faults.one_client
    waiting = len(requests.pending)
    rows.append(("requests", f"{requests.answered} answered, {requests.timed_out} timed out, {waiting} waiting"))
    means = {"refused": "bad", "statistics": stats_meaning(machine)}
    means["run state"] = "good" if machine.running else "notice"
    drawn: list[list[Cell]] = []
    for name, value in rows:
        # On a terminal sizes get their unit first and commas in the exact number.
        size = sizes.get(name)
        value = value if size is None else f"{format_size(size)} ({size:,} bytes)"
        bad = name == "" and value.partition(":")[0] in ("hung", "panicked", "ended")
        drawn.append([("dim", name), ("bad" if bad else means.get(name, ""), value)])
    return Drawn.of(columns(rows), drawn)


def stats_meaning(machine: Machine) -> str:
    """Return the meaning of the state of the statistics: "good" (fresh), "notice" (stale), or "bad" (no answer can
    come)."""
    device, guest = machine.device, machine.guest
    if device is None or guest.ended or device.broken or not {"hung", "panicked"}.isdisjoint(guest.shown()):
        return "bad"
    if device.stats.sample is None:
        return "notice" if device.can_report else ""
    return "good" if device.stats.age < machine.timeout else "notice"


def readable(tag: int | None, value: int) -> str:
    """Return a statistic in a readable form: a size with its unit, a count with commas; "" for a small count."""
    return format_size(value) if in_bytes(tag) else f"{value:,}" if value >= 1000 else ""


def stat_row(tag: int, value: int | None) -> tuple[str, str, str]:
    """Return a statistic's name, its exact value, and its readable form. The value None means that it is left out."""
    return (stat_name(tag), "none", "") if value is None else (stat_name(tag), str(value), readable(tag, value))


def stats(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Show every statistic of the last sample, exact and readable, and the age of the sample."""
    machine = monitor.machine
    device = balloon_device(machine)
    sample = device.stats.sample
    heading = stats_state(machine, device) + "\n"
    means = stats_meaning(machine), heading.rstrip()
    if sample is None:
        return Drawn.of(heading, (), heading=means)
    each = [*sorted(sample.values.items()), *sorted(sample.unknown.items())]
    if not each:
        none = "the guest reported no statistic"
        return Drawn.of(f"{heading}{none}\n", [[none]], heading=means)
    rows = columns([stat_row(*one) for one in each], right=(1, 2))
    return Drawn.of(heading + rows, stat_cells(each), heading=means, names=_STAT_NAMES, right=(1, 2))


_STAT_NAMES = ("statistic", "", "bytes")


def stat_cells(each: Iterable[tuple[int, int | None]]) -> list[list[Cell]]:
    """Return a row for each statistic: its name, its readable form, and the bytes if it is a size."""
    rows: list[list[Cell]] = []
    for tag, value in each:
        if value is None:
            rows.append([stat_name(tag), ("dim", "none"), ""])
        else:
            exact = f"{value:,}"
            rows.append([stat_name(tag), *((format_size(value), exact) if in_bytes(tag) else (exact, ""))])
    return rows


# Commands that control the guest.


def guest(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Show the guest, or reboot into another one."""
    machine = monitor.machine
    if "guest" in arguments:
        wanted = arguments["guest"].strip()
        known = PROFILES.get(wanted.partition(",")[0])
        # Before the keys of the guest are read: their errors would tell a client which files exist.
        if known is not None and known.host and not monitor.host_files:
            raise HostRefused
        new = make_guest(wanted)
        after = monitor.before_real_guest() if new.real and monitor.before_real_guest is not None else None
        try:
            machine.replace_guest(new)
        finally:
            if after is not None:
                after()
        return ""
    spec, shown = machine.guest.spec, machine.guest.shown()
    profile = PROFILES.get(machine.guest.name)
    if profile is None:
        return f"{spec}\n"
    # The settings may change what the profile's help says (slow,delay=1), so both are shown.
    _, _, settings = spec.partition(",")
    processor = shown.get("processor", "")
    text = f"{spec} - {profile.help}" + (f"; here {settings}\n" if settings else "\n")
    rows: list[list[Cell]] = [[("name", spec), profile.help]]
    rows.extend(["", line] for line in (settings and f"here {settings}", processor) if line)
    return Drawn.of(text + f"{processor}\n" * bool(processor), rows)


def _duration(name: str, value: int, limit: int) -> int:
    if value > limit:
        raise CommandError(f"sim {name} takes at most {limit // SECOND} seconds, not {format_seconds(value)}")
    return value


def delay(monitor: Monitor, arguments: Arguments, reply: Reply) -> None:
    """Set the delay of the driver's answers."""
    monitor.machine.guest.controls.set_delay(_duration("delay", arguments["delay"], MAX_DELAY))


def drop(monitor: Monitor, arguments: Arguments, reply: Reply) -> None:
    """Let the driver miss its next notifications (default: one)."""
    count = arguments.get("count", 1)
    if not 0 <= count <= MAX_DROPS:
        raise CommandError(f"sim drop takes a number from 0 to {MAX_DROPS}, not {count}")
    monitor.machine.guest.controls.drop(count)


def _stat_value(tag: int, text: str) -> int:
    """Return the value in `text`: a plain number is exact; a size may have a suffix."""
    if text.isascii() and text.isdigit():
        # Longer numbers are too large, and Python refuses to convert thousands of digits.
        if len(text) <= len(str(ABSENT)):
            return int(text)
    elif text[-1:].isalpha() and (tag >= len(STATS_TABLE) or in_bytes(tag)):
        try:
            return parse_size(text)
        except MisuseError:  # its text says that a plain number means MiB, which is wrong here
            pass
    elif text[-1:].isalpha():
        raise CommandError(f"'{text}' is not a count for {stat_name(tag)}: a plain number, or none")
    raise CommandError(f"'{text}' is not a value for {stat_name(tag)}: a number from 0 to {ABSENT}, or none")


def set_stat(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Pin a statistic to a value, or leave it out. Without arguments list the pins."""
    controls = monitor.machine.guest.controls
    if "stat" not in arguments:
        pins = sorted(controls.pins().items())
        if not pins:
            return "no statistic is set\n"
        text = columns([stat_row(*each) for each in pins], right=(1, 2))
        return Drawn.of(text, stat_cells(pins), names=_STAT_NAMES, right=(1, 2))
    tag = find_stat(arguments["stat"])
    if "value" not in arguments:
        raise CommandError(f"sim set {arguments['stat']} needs a value, or none")
    text = arguments["value"]
    controls.pin(tag, None if text == "none" else _stat_value(tag, text))
    return ""


def unset(monitor: Monitor, arguments: Arguments, reply: Reply) -> None:
    """Release a pinned statistic.

    If it is not pinned, that is an error, because the user most likely meant another one.
    """
    controls = monitor.machine.guest.controls
    tag = find_stat(arguments["stat"])
    if tag not in controls.pins():
        raise CommandError(f"{stat_name(tag)} is not set")
    controls.unpin(tag)


def _workload(name: str, value: int) -> int:
    if value > MAX_WORKLOAD:
        raise CommandError(f"sim {name} takes at most {format_size(MAX_WORKLOAD)}, not {format_size(value)}")
    return value


def _amount(size: int) -> str:
    return f"{format_size(size)} ({plural(size, 'byte')})"


def alloc(monitor: Monitor, arguments: Arguments, reply: Reply) -> str | None:
    """Let the workload take memory, and say how much it got."""
    size = _workload("alloc", arguments["size"])

    def say(got: int) -> str:
        if not got and size:
            return f"out of memory: no room for {_amount(size)}; the OOM killer ended the workload\n"
        return f"the workload took {_amount(got)}\n"

    return reply.follow(monitor.machine.guest.controls.alloc(size), say)


def free(monitor: Monitor, arguments: Arguments, reply: Reply) -> str | None:
    """Let the workload give memory back, and say how much that was."""
    size = _workload("free", arguments["size"])
    return reply.follow(
        monitor.machine.guest.controls.free(size),
        lambda got: f"the workload gave back {_amount(got)}" + (": it had no more\n" if got < size else "\n"),
    )


def driver(monitor: Monitor, arguments: Arguments, reply: Reply) -> str | None:
    """Load or unload the balloon driver of the guest."""
    what, controls = arguments["what"], monitor.machine.guest.controls
    if what not in ("load", "unload"):
        raise CommandError(f"sim driver takes load or unload, not '{what}'")
    return reply.follow(controls.load_driver() if what == "load" else controls.unload_driver())


def sleep(monitor: Monitor, arguments: Arguments, reply: Reply) -> str | None:
    """Let host time pass, while this monitor waits.

    On the manual clock each step of the machine moves the time a little.
    """
    machine = monitor.machine
    duration = _duration("sleep", arguments["duration"], MAX_SLEEP)
    if not duration:
        return ""
    # Only on the manual clock does a sleep move the time. It moves in steps, so that Ctrl-C and other clients get their
    # turn.
    end = machine.time.sleep(duration) if machine.clock.simulated and not machine.clock.warps else None
    timer = machine.time.after(duration, lambda: reply.finish(""))

    def cancel() -> None:
        timer.cancel()
        if end is not None:
            # Without this the clock would go on moving after Ctrl-C.
            machine.time.wake(end)

    reply.suspend(cancel)
    reply.until = timer.due
    return None
