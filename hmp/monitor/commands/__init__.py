"""What the monitor's commands do. A module is imported when the first of its commands runs.

Here are `info balloon` and `balloon`, what the project exists for: they are nearly always run.
"""

from __future__ import annotations

from device.machine.requests import NO_DEVICE, PENDING, TIMED_OUT, UNSUPPORTED
from hmp.monitor import CommandError
from hmp.monitor.dialects import AGELESS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from device.balloon.device import BalloonDevice
    from device.machine.machine import Machine
    from device.machine.requests import StatsRequest
    from hmp.monitor.grammar import Arguments
    from hmp.monitor.monitor import Monitor, Reply

NO_BALLOON = "No balloon device has been activated"

GONE = "the guest is gone: "

STANDSTILL = "the manual clock stands still while this monitor waits: only sim sleep moves it"


def balloon_device(machine: Machine) -> BalloonDevice:
    """Return the device. Raises CommandError without one."""
    if machine.device is None:
        raise CommandError(NO_BALLOON, "DeviceNotActive")
    return machine.device


def info_balloon(monitor: Monitor, arguments: Arguments, reply: Reply) -> str | None:
    """Ask the guest and wait, where the dialect does; else print what is known."""
    machine = monitor.machine
    timeout = machine.timeout
    if monitor.dialect.waits:
        if machine.guest.ended and machine.device is not None:
            raise CommandError(GONE + machine.guest.ended)
        request = machine.request_stats(timeout)
        if request.state is PENDING:
            if not machine.clock.warps and machine.clock.simulated and monitor.alone:
                machine.requests.cancel(request)
                raise CommandError(STANDSTILL)
            reply.suspend(lambda: machine.requests.cancel(request))
            reply.until = request.deadline
            request.on_done = lambda ended: _ended(monitor, reply, ended)
            return None
        timeout = AGELESS  # the numbers came just now, or nobody is there who could tell
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
    """Set the target."""
    balloon_device(monitor.machine)
    return reply.follow(monitor.machine.set_balloon(arguments["value"]))
