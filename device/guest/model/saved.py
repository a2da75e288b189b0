"""A modelled guest's own memory as plain data, and back."""

from __future__ import annotations

from device.guest.model.kernel import FIELDS, SIZES, Kernel
from device.state import SnapshotError
from device.virtio.spec import MAX_RAM, MIN_RAM, PAGE_SIZE, U64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from device.guest.model.guest import ModelledGuest
    from device.state import Fields

_FLAGS = ("_latched", "_release_wanted", "_plugged", "_holding")
_FAR = 1 << 62


def save_guest(guest: ModelledGuest) -> dict[str, object]:
    """Return the guest's state."""
    now = guest.machine.vm_clock.now()
    return {
        **{name.lstrip("_"): getattr(guest, name) for name in _FLAGS},
        **{fault.member: fault.save() for fault in guest.faults.values() if fault.member},
        "pace": guest.pace,
        "draws": guest._draws,
        "boots": guest.boots,
        "worked": guest.inflation.worked,
        "timers": {name: max(0, timer.due - now) for name, timer in guest.timers.items() if timer.armed},
        "kernel": None if guest.kernel is None else guest.kernel.state(),
        "driver": None if guest.driver is None else guest.driver.state(),
    }


def load_guest(guest: ModelledGuest, fields: Fields) -> None:
    """Give `guest`, which is attached to the restored machine, its memory back. Raises SnapshotError."""
    for name in _FLAGS:
        setattr(guest, name, fields.flag(name.lstrip("_")))
    for fault in guest.faults.values():
        if fault.member and fault.member in fields:
            fault.load(fields)
    guest.pace = fields.integer("pace", 4096, 1 << 50)
    guest._draws = fields.integer("draws")
    guest.boots = fields.integer("boots")
    guest.inflation.worked = fields.integer("worked", 0, guest.machine.vm_clock.now())
    guest.arrange()
    timers = fields.counters("timers", 8, _FAR)
    kernel, driver = fields.maybe("kernel"), fields.maybe("driver")
    fields.done()
    if kernel is not None:
        guest.kernel = _load_kernel(kernel, guest)
    if driver is not None:
        _load_driver(guest, driver, fields)
    elif timers:
        raise fields.refuse("timers", "run without a driver")
    actions = guest.timer_actions()
    for name, remaining in timers.items():
        if name not in actions:
            raise fields.refuse("timers", f"names the unknown timer '{name}'")
        guest.timers[name] = guest.machine.vm_timers.at(guest.machine.vm_clock.now() + remaining, actions[name])


def restore_kernel(state: Mapping[str, int]) -> Kernel:
    """Return a kernel that goes on where `state()` was taken.

    Trusts nothing: ValueError names the field that is wrong.
    """
    for name in sorted(map(str, set(state) ^ set(FIELDS))):
        raise ValueError(f"kernel state: {name!r:.40} is missing or unknown")
    kernel = Kernel.__new__(Kernel)
    for name in FIELDS:
        value = state[name]
        # Half of the range of a statistic for a counter: no guest lives to see the other half.
        if type(value) is not int or not 0 <= value <= (U64 if name == "seed" else U64 >> 1):
            raise ValueError(f"kernel state: {name} is not an integer in range")
        if value % PAGE_SIZE and name in SIZES:
            raise ValueError(f"kernel state: {name} is not in whole pages")
        setattr(kernel, name, value)
    for name, right in (
        ("ram", MIN_RAM <= kernel.ram <= MAX_RAM),
        ("deflate_on_oom", kernel.deflate_on_oom <= 1),
        ("now", kernel.now >= kernel.boot),
        ("free", kernel.free >= kernel.free_min),
        ("cache", kernel.cache >= kernel.cache_min),
        ("workload", kernel.workload <= kernel.used - kernel.used_min),
        ("swap_total", kernel.swap_total <= MAX_RAM),
        ("swap_used", kernel.swap_used <= kernel.swap_total),
        ("workload_swap", kernel.workload_swap <= kernel.swap_used),
        ("ram", kernel.reserved + kernel.ballooned + kernel.free + kernel.cache + kernel.used == kernel.ram),
    ):
        if not right:
            raise ValueError(f"kernel state: {name} does not fit the other fields")
    kernel.settle()
    return kernel


def _load_kernel(state: Fields, guest: ModelledGuest) -> Kernel:
    try:
        kernel = restore_kernel(state.rest(U64))
    except ValueError as error:
        raise SnapshotError(str(error)) from None
    if kernel.ram != guest.machine.ram:
        raise state.refuse("ram", "is not the machine's")
    return kernel


def _load_driver(guest: ModelledGuest, state: Fields, fields: Fields) -> None:
    machine = guest.machine
    device, kernel = machine.device, guest.kernel
    if device is None or kernel is None:
        raise fields.refuse("driver", "needs a device and a kernel")
    driver = guest.make_driver(device)
    driver.restore(state)
    if driver.ballooned << 12 != kernel.ballooned:
        raise state.refuse("ballooned", "is not what the kernel gave away")
    guest.driver = driver
    guest.driver_loaded = True
