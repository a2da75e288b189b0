"""The small `info` topics."""

from __future__ import annotations

from hmp.monitor.emulated import emulated
from hmp.monitor.monitor import Arguments, Monitor, Reply


def info_status(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Show whether the VM runs, and for some states why it is paused."""
    state = monitor.machine.run_state
    # QEMU prints the state in brackets only if it says more than these two words.
    return f"VM status: {state}\n" if state in ("running", "paused") else f"VM status: paused ({state})\n"


def info_version(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Show the version of QEMU that is emulated, and that of hmp."""
    front = emulated(monitor.machine)
    return f"{front.version} ({front.package})\n"


def info_name(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Show the machine's name, or nothing if it has none."""
    return f"{monitor.machine.name}\n" if monitor.machine.name is not None else ""


def info_uuid(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Show the machine's UUID."""
    return f"{monitor.machine.uuid}\n"


def info_kvm(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Show that KVM is not used: hmp has no CPU."""
    return "kvm support: disabled\n"


def info_memory_size_summary(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Show the RAM in bytes. No memory can be plugged in."""
    return f"base memory: {monitor.machine.ram}\nplugged memory: 0\n"


def info_history(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Show the lines of this monitor's history, oldest first."""
    return "".join(f"{number}: '{line}'\n" for number, line in enumerate(monitor.history.entries()))
