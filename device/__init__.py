"""A virtio-balloon device core without terminals, sockets, threads or event loops.

A machine has RAM, a clock, the device and a guest with a driver:

    from device import SECOND, Machine, SimulatedClock, make_guest

    machine = Machine(SimulatedClock(), ram=1 << 30, guest=make_guest("linux"))
    machine.start()
    request = machine.request_stats(5 * SECOND)
    print(request.state, machine.device.stats.sample.values)

Time. A machine has no loop. `wait_for()` says which descriptors to watch and until when to wait, and `step()` does what
is due. `step(jump=True)` moves a clock that warps to the next timer; `advance(ns)` moves a simulated clock and fires
all timers on the way. Times are ns (MS, SECOND), sizes are bytes. `Clock(name, now, wall)` takes the functions of a
real clock.

Requests. `request_stats(timeout)` returns a StatsRequest, which may have ended already: look at its `state` (PENDING,
ANSWERED, TIMED_OUT, UNSUPPORTED, NO_DEVICE, CANCELLED). If it is PENDING, set its `on_done`.
`machine.requests.cancel(request)` cancels it.

Events. `machine.subscribe(listener)` calls the listener with what happened, an object of a class in `events`: Stopped,
Resumed, WasReset, Ended, PowerButton, ActualChanged, TargetReached, SampleArrived, RuleBroken, DeviceDeleted, Panicked,
GuestGone, DriverMissing. Run states are RUNNING, PAUSED, PRELAUNCH and SHUTDOWN, in `machine.run_state`. For type
checkers there are RunState and RequestState. `guest.controls` has what can be changed in a modelled guest.

Guests. `make_guest("slow,delay=7")` takes what `--guest` takes; PROFILES has the presets. For a guest of your own,
subclass `Guest`. It drives the device through `DriverQueue`s, of `ring_bytes` each, in guest memory.

A device without a machine. `BalloonDevice(Timeline(clock), memory, ram)` takes any `Memory`, made of `Region`s, or a
`GuestMemory` of its own. A transport makes the driver's calls (`write_status`, `accept_features`, `setup_queue`,
`reset_queue`, `notify`, `read_config`, `write_config`, `read_isr`) and shows the driver `generation` and the `queues`.
After each call it delivers what `take_due()` returns, at most MAX_ROUNDS times. The host's side is `set_target`,
`actual`, `stats.ask()` and `stats.sample`, a `Sample`, whose tags STATS_TABLE explains. Another type of device is a
subclass of `VirtioDevice`; its `serve` takes `Element`s from a `VirtQueue` and gives them back.

vhost-user. `VhostBackend(socket, VhostPort(device))` serves the socket of a front end, with or without a machine; call
its `serve` when something is readable. It raises FrontEndFault or HostFault when the connection has to be closed.

Errors. The caller's mistakes raise MisuseError (UnsupportedError and SnapshotError are kinds of it), and nothing has
changed then. A guest's mistakes raise nothing: they are counted in `device.refused` under one of RULES.

Snapshots. `save_snapshot(machine, file)` and `load_snapshot(machine, file)`; files are not trusted.

Stability. What `__all__` lists is public, with its attributes that have no leading underscore. Until 1.0 a release may
change it and CHANGELOG.md says how; from 1.0 on only a new major version does. All else may change in any release.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from device.balloon.device import BalloonDevice
    from device.balloon.spec import STATS_TABLE
    from device.balloon.stats import Sample
    from device.clock import MS, SECOND, Clock, SimulatedClock, Timeline
    from device.errors import RULES, MisuseError, UnsupportedError
    from device.fields import SnapshotError
    from device.guest.table import PROFILES, make_guest
    from device.guest.vhost_user.backend import Backend as VhostBackend
    from device.guest.vhost_user.port import Port as VhostPort
    from device.guest.vhost_user.wire import FrontEndFault, HostFault
    from device.machine import events
    from device.machine.guest import Guest
    from device.machine.machine import PAUSED, PRELAUNCH, RUNNING, SHUTDOWN, Machine
    from device.machine.requests import ANSWERED, CANCELLED, NO_DEVICE, PENDING, TIMED_OUT, UNSUPPORTED, StatsRequest
    from device.machine.snapshot import load as load_snapshot
    from device.machine.snapshot import save as save_snapshot
    from device.machine.states import RequestState, RunState
    from device.virtio.device import MAX_ROUNDS, VirtioDevice
    from device.virtio.driver_queue import DriverQueue, ring_bytes
    from device.virtio.memory import GuestMemory, Memory, Region
    from device.virtio.queue import Element, VirtQueue

__all__ = [
    "ANSWERED", "CANCELLED", "MAX_ROUNDS", "MS", "NO_DEVICE", "PAUSED", "PENDING", "PRELAUNCH", "PROFILES",
    "RULES", "RUNNING", "SECOND", "SHUTDOWN", "STATS_TABLE", "TIMED_OUT", "UNSUPPORTED", "BalloonDevice",
    "Clock", "DriverQueue", "Element", "FrontEndFault", "Guest", "GuestMemory", "HostFault", "Machine",
    "Memory", "MisuseError", "Region", "RequestState", "RunState", "Sample", "SimulatedClock", "SnapshotError",
    "StatsRequest", "Timeline", "UnsupportedError", "VhostBackend", "VhostPort", "VirtQueue", "VirtioDevice", "events",
    "load_snapshot", "make_guest", "ring_bytes", "save_snapshot",
]  # fmt: skip

_PLACES = {
    "balloon.device": "BalloonDevice", "balloon.spec": "STATS_TABLE", "balloon.stats": "Sample",
    "clock": "MS SECOND Clock SimulatedClock Timeline", "errors": "RULES MisuseError UnsupportedError",
    "fields": "SnapshotError", "guest.table": "PROFILES make_guest", "guest.vhost_user.backend": "VhostBackend=Backend",
    "guest.vhost_user.port": "VhostPort=Port", "guest.vhost_user.wire": "FrontEndFault HostFault",
    "machine.events": "events", "machine.guest": "Guest",
    "machine.machine": "PAUSED PRELAUNCH RUNNING SHUTDOWN Machine",
    "machine.requests": "ANSWERED CANCELLED NO_DEVICE PENDING TIMED_OUT UNSUPPORTED StatsRequest",
    "machine.snapshot": "load_snapshot=load save_snapshot=save", "machine.states": "RequestState RunState",
    "virtio.device": "MAX_ROUNDS VirtioDevice", "virtio.driver_queue": "DriverQueue ring_bytes",
    "virtio.memory": "GuestMemory Memory Region", "virtio.queue": "Element VirtQueue",
}  # fmt: skip
"""The names in each module, as NAME or PUBLIC=NAME. A name that the module does not have stands for the module itself.
A module is imported when its first name is used (PEP 562), so that using one name does not import all modules."""


def __getattr__(name: str) -> object:
    """Return a public name. Raises AttributeError."""
    if name in __all__:
        for place, names in _PLACES.items():
            for each in names.split():
                public, _, inner = each.partition("=")
                if public == name:  # importlib's import_module takes half a millisecond more
                    module = __import__(f"device.{place}", fromlist=[inner or public])
                    value = globals()[name] = getattr(module, inner or name, module)
                    return value
    raise AttributeError(f"module 'device' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
