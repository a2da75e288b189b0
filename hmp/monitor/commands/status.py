"""The small `info` topics."""

from __future__ import annotations

from hmp.monitor.emulated import emulated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hmp.monitor.grammar import Arguments
    from hmp.monitor.monitor import Monitor, Reply


def info_status(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """Whether the VM runs; a paused one says why where there is more to say."""
    state = monitor.machine.run_state
    if state in ("running", "paused"):
        return f"VM status: {state}\n"
    return f"VM status: paused ({state})\n"


def info_version(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """The QEMU that is emulated, and by what."""
    passed_for = emulated(monitor.machine)
    return f"{passed_for.version} ({passed_for.package})\n"


def info_name(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """The machine's name; nothing without one."""
    return f"{monitor.machine.name}\n" if monitor.machine.name is not None else ""


def info_uuid(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """The machine's UUID."""
    return f"{monitor.machine.uuid}\n"


def info_kvm(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """There is no CPU here to accelerate."""
    return "kvm support: disabled\n"


def info_memory_size_summary(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """RAM in bytes; nothing can be plugged."""
    return f"base memory: {monitor.machine.ram}\nplugged memory: 0\n"


def info_history(monitor: Monitor, arguments: Arguments, reply: Reply) -> str:
    """The lines of this monitor, oldest first."""
    return "".join(f"{number}: '{line}'\n" for number, line in enumerate(monitor.history.entries()))
