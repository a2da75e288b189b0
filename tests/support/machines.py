"""Machines and monitors for tests: on simulated clocks, so that no test sleeps."""

from __future__ import annotations

from device.balloon.device import BalloonDevice
from device.clock import SimulatedClock
from device.guest.table import make_guest
from device.machine.machine import Machine
from device.virtio.spec import MIB
from hmp.monitor.dialects import DIALECTS
from hmp.monitor.monitor import Monitor, Reply

KEEP_OPEN = 32
"""Machines that stay open at once. Each holds a descriptor, and a test session makes more of them than there are."""

_open: list[Machine] = []


def build(
    guest: str = "linux",
    *,
    memory: int = 512,
    paused: bool = False,
    warps: bool = True,
    clock: SimulatedClock | None = None,
    **options: object,
) -> Machine:
    """Return a machine that has been started, with `memory` MiB on a warp clock (or with `warps` off, a manual one).

    `options` go to Machine. The machine is taken apart when KEEP_OPEN newer ones have been built.
    """
    machine = Machine(
        SimulatedClock(warps=warps) if clock is None else clock,
        ram=memory * MIB,
        guest=make_guest(guest),
        **options,  # type: ignore[arg-type]
    )
    machine.start(paused=paused)
    _open.append(machine)
    if len(_open) > KEEP_OPEN:
        _open.pop(0).close()
    return machine


def monitor(machine: Machine, dialect: str = "seed") -> Monitor:
    """Return a monitor on `machine`."""
    return Monitor(machine, DIALECTS[dialect])


def monitor_on(guest: str = "linux", *, dialect: str = "seed", **options: object) -> Monitor:
    """Return a monitor on a machine of its own; see `build`."""
    return monitor(build(guest, **options), dialect)  # type: ignore[arg-type]


def complete(monitor: Monitor, reply: Reply) -> Reply:
    """Let the warp clock jump until `reply` is complete; fails if nothing is left that could complete it."""
    while reply.pending:
        assert monitor.machine.step(jump=True), "suspended for ever: no timer is left"
    return reply


def run(monitor: Monitor, line: str) -> Reply:
    """Run a line to its end, in simulated time."""
    return complete(monitor, monitor.execute(line))


def say(monitor: Monitor, line: str) -> str:
    """Run a line to its end and return what the monitor prints."""
    return run(monitor, line).text


def device_of(monitor: Monitor) -> BalloonDevice:
    """Return the balloon device behind a monitor, which must be there."""
    device = monitor.machine.device
    assert device is not None
    return device


def state_of(machine: Machine) -> dict[str, object]:
    """Return the state that a refused command must not change."""
    device, guest = machine.device, machine.guest
    return {
        "run state": machine.run_state,
        "over": machine.over,
        "time": machine.clock.now(),
        "guest": guest.spec,
        "same guest": id(guest),
        "controls": dict(guest.shown()),
        "pins": guest.controls.pins(),
        "driver": guest.driver_loaded,
        "free": guest.memory_free(),
        "device": None if device is None else (id(device), device.id, device.target, device.actual, device.status),
        "polling": None if device is None else device.stats.poll_interval,
        "unplugging": machine.unplugging,
        "requests": (len(machine.requests.pending), machine.requests.answered, machine.requests.timed_out),
        "timers": (len(machine.host_timers), len(machine.vm_timers)),
    }
