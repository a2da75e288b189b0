"""What the monitor's commands do. A module is imported when the first of its commands runs.

`info balloon` and `balloon` are in the package itself and not in a module, because nearly every run uses them: that
saves an import.
"""

from __future__ import annotations

from device.balloon.device import BalloonDevice
from device.machine.machine import NO_BALLOON, Machine
from device.machine.requests import NO_DEVICE, PENDING, TIMED_OUT, UNSUPPORTED, StatsRequest
from hmp.monitor import CommandError
from hmp.monitor.dialects import AGELESS
from hmp.monitor.monitor import Arguments, Monitor, Reply

GONE = "the guest is gone: "

STANDSTILL = "the manual clock stands still while this monitor waits: only sim sleep moves it"


def balloon_device(machine: Machine) -> BalloonDevice:
    """Return the balloon device. Raises CommandError if there is none."""
    if machine.device is None:
        raise CommandError(NO_BALLOON, "DeviceNotActive")
    return machine.device


def info_balloon(monitor: Monitor, arguments: Arguments, reply: Reply) -> str | None:
    """Ask the guest and wait, if the dialect does that; else print what is known."""
    machine = monitor.machine
    timeout = machine.timeout
    if monitor.dialect.waits:
        # The process of this guest has ended, so no answer can come. Old numbers would look like an answer to a script.
        if machine.guest.ended and machine.device is not None:
            raise CommandError(GONE + machine.guest.ended)
        request = machine.request_stats(timeout)
        if request.state is PENDING:
            # Only another monitor can move the manual clock now. Without one the wait would never end.
            if not machine.clock.warps and machine.clock.simulated and monitor.alone:
                machine.requests.cancel(request)
                raise CommandError(STANDSTILL)
            reply.suspend(lambda: machine.requests.cancel(request))
            reply.until = request.deadline
            request.on_done = lambda ended: _ended(monitor, reply, ended)
            return None
        timeout = AGELESS  # the numbers are new, or no driver reports any
    # `machine.device or` saves a call in the usual case; each piped line comes here.
    return monitor.dialect.line(machine.device or balloon_device(machine), timeout)


def _ended(monitor: Monitor, reply: Reply, request: StatsRequest) -> None:
    machine = monitor.machine
    if request.state is NO_DEVICE or machine.device is None:
        reply.finish(f"Error: {NO_BALLOON}\n", failed=True)
    elif machine.guest.ended:
        reply.finish(f"Error: {GONE}{machine.guest.ended}\n", failed=True)
    else:
        timeout = AGELESS if request.state is UNSUPPORTED else machine.timeout
        reply.finish(monitor.dialect.line(machine.device, timeout), stale=request.state is TIMED_OUT)


def balloon(monitor: Monitor, arguments: Arguments, reply: Reply) -> str | None:
    """Set the target of the balloon."""
    balloon_device(monitor.machine)
    # A real guest may have to be asked first how much memory it needs; then this is a task to wait for.
    return reply.follow(monitor.machine.set_balloon(arguments["value"]))
