"""A modelled guest: a kernel's memory, a balloon driver, and faults that can be combined."""

from __future__ import annotations

from device.balloon.spec import ABSENT, STAT_COUNT, STAT_RECORD
from device.balloon.stats import encode
from device.guest.model import CENTURY, KERNEL_TIMERS, NEVER
from device.guest.model.driver import FEATURES, BalloonDriver, Inflation
from device.guest.model.kernel import Kernel, mix
from device.machine.guest import Guest
from device.state import Flag, Integer, Member, load, reset, save
from device.virtio.spec import PAGE_SHIFT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from device.balloon.device import BalloonDevice
    from device.clock import Timer
    from device.fields import Fields
    from device.guest.model.faults import Faults

TEN = (0, 1, 2, 3, 8, 9, 4, 5, 6, 7)
"""Linux 6.1's statistics, in the order in which it sends them."""


def _load_kernel(guest: ModelledGuest, fields: Fields) -> None:
    """Load a guest's kernel. Raises SnapshotError."""
    state = fields.maybe("kernel")
    if state is not None:
        guest.kernel = Kernel.restored(state)
        if guest.kernel.ram != guest.machine.ram:
            raise state.refuse("ram", "is not the machine's")


def _load_driver(guest: ModelledGuest, fields: Fields) -> None:
    """Load a guest's driver, after its kernel. Raises SnapshotError."""
    state = fields.maybe("driver")
    if state is None:
        return
    device, kernel = guest.machine.device, guest.kernel
    if device is None or kernel is None:
        raise fields.refuse("driver", "needs a device and a kernel")
    guest.driver = guest.make_driver(device)
    guest.driver.restore(state)
    guest.driver_loaded = True
    if guest.driver.ballooned << PAGE_SHIFT != kernel.ballooned:
        raise state.refuse("ballooned", "is not what the kernel gave away")


def _save_timers(guest: ModelledGuest) -> dict[str, int]:
    """Return what is left of each of a guest's timers, in ns of VM time."""
    now = guest.machine.vm_clock.now()
    return {name: max(0, timer.due - now) for name, timer in guest.timers.items() if timer.armed}


def _load_timers(guest: ModelledGuest, fields: Fields) -> None:
    """Arm a guest's timers again, after its driver. Raises SnapshotError."""
    for name, remaining in fields.counters("timers", 8, CENTURY).items():
        if guest.driver is None and (name not in KERNEL_TIMERS or guest.kernel is None):
            raise fields.refuse("timers", "run without a driver")
        if name not in guest.actions:
            raise fields.refuse("timers", f"names the unknown timer '{name}'")
        guest.arm(name, remaining)
    guest.booting = "boot" in guest.timers


class ModelledGuest(Guest):
    """A guest made of traits (what its kernel and driver are like) and settings (`pace`, and how it misbehaves).

    `tags` are the statistics that it reports. `driver` is whether it has a driver, which accepts FEATURES, plus
    `accepts` and minus `refuses`. With `primes` the driver puts a buffer on the statistics queue when it starts. With
    `whole` the balloon is not subtracted from the total memory.
    """

    STATE: tuple[Member, ...] = (
        *[Flag(name) for name in ("latched", "release_wanted", "plugged", "holding")],
        Integer("pace", 1 << 50, 2 << 30, low=4096, kept=True),
        Integer("draws", kept=True),
        Integer("boots", kept=True),
        Member("kernel", lambda part, now: part.kernel and save(part.kernel, now), _load_kernel),
        Member("driver", lambda part, now: part.driver and save(part.driver, now), _load_driver),
        Member("timers", lambda part, now: _save_timers(part), _load_timers, dict),
    )
    """Its state besides its faults. Three flags are for what came while it slept or was stopped: a notification
    (`latched`), a request to release the device, a plugged device. `holding` is whether it holds back an answer,
    `draws` how many random numbers it has used, and `boots` how often it booted."""

    DERIVED: tuple[str, ...] = (
        "name", "spec", "tags", "has_driver", "_primes", "_whole", "_features", "_faults", "inflation",
        "actions", "_reported", "_records", "machine", "driver_loaded", "booting", "controlled_by",
    )  # fmt: skip

    latched: bool
    release_wanted: bool
    plugged: bool
    holding: bool
    pace: int
    draws: int
    boots: int
    kernel: Kernel | None
    driver: BalloonDriver | None
    timers: dict[str, Timer]

    def __init__(
        self,
        name: str,
        settings: Mapping[str, Any],
        spec: str,
        *,
        tags: tuple[int, ...] = TEN,
        driver: bool = True,
        primes: bool = True,
        whole: bool = False,
        accepts: int = 0,
        refuses: int = 0,
    ) -> None:
        self.name, self.spec, self.tags = name, spec, tags
        self.has_driver = driver
        self._primes = primes
        self._whole = whole
        self._features = (FEATURES | accepts) & ~refuses
        self._faults: Faults | None = None
        if settings:
            self._make_faults(settings)
        self.inflation = Inflation(self)
        self.actions = {
            "boot": self._booted,
            "off": self._off,
            "service": self.catch_up,
            "reply": self._reply,
            "work": self.inflation.work,
        }
        """What each timer does, by name."""
        reset(self, new=True)
        self.pace = settings.get("pace", self.pace)
        self._reported: tuple[int, ...] | None = None
        self._records = b""

    def _make_faults(self, settings: Mapping[str, Any]) -> Faults:
        from device.guest.model.faults import Faults  # here, because most guests have none and a pipe has to start fast

        self._faults = Faults(self, settings)
        return self._faults

    @property
    def faults(self) -> Faults:
        """Its faults. They are made at the first use; until then none is in force."""
        return self._faults or self._make_faults({})

    def set_fault(self, name: str, value: object) -> None:
        """Set the fault of that name to `value`; its `off` value ends it."""
        self.faults[name].value = value
        self.faults.arrange()

    @property
    def dead(self) -> bool:
        """Whether the kernel panicked."""
        return bool(self._faults and self._faults["panic"].value)

    # Life.

    def boot(self) -> None:
        """Start the kernel. The driver, if the guest has one, comes up at once or after the time of the key `boot`."""
        machine, faults = self.machine, self._faults
        # Each boot gets a seed of its own: two boots of a real guest do not use the same memory either.
        seed, swap = mix(machine.seed + self.boots), faults["swap"].value if faults else None
        self.kernel = Kernel(machine.ram, seed=seed, swap=swap, whole=self._whole, now=machine.vm_clock.now())
        self.boots += 1
        if faults:
            faults.boot()
        if faults and (wait := faults["boot"].time()):
            self.booting = True
            self.arm("boot", wait)
        else:
            self._booted()

    def _booted(self) -> None:
        if self.has_driver:
            self.start_driver()
        self.boot_over()
        self.catch_up()

    def boot_over(self) -> None:
        """The driver is up or will not come up: requests do not wait for it any longer."""
        if self.booting:
            self.timers.pop("boot").cancel()
            self.booting = False
            self.machine.driver_changed()

    def halt(self) -> None:
        """Power is off: the driver, its timers and the kernel are gone. Faults and pace stay."""
        for timer in self.timers.values():
            timer.cancel()
        self.driver_loaded = self.booting = False
        reset(self)

    def resumed(self) -> None:
        """Catch up with what came while the VM was stopped."""
        if self.plugged:
            self.device_added()
        self.catch_up()

    def awake(self) -> bool:
        """Whether a driver is up that serves its queues now."""
        return self.driver is not None and self.machine.running and not (self._faults and self._faults.asleep)

    def catch_up(self) -> None:
        """Do what had to wait while the driver slept or the VM was stopped."""
        if not self.awake():
            return
        if self.release_wanted:
            self.release_wanted = False
            self.stop_driver()
            self.machine.driver_released()
            return
        if self.holding and not (self._faults and self._faults.silent()):
            self._reply()
        if self.latched:
            self.latched = False
            self._requested()
        self.inflation.start()

    def make_driver(self, device: BalloonDevice) -> BalloonDriver:
        """Return a driver that has not touched `device` yet."""
        return BalloonDriver(device, self.machine.memory.regions[0], self.machine.ram)

    def start_driver(self) -> None:
        """Load the driver, if there is a device that it can agree with."""
        device, kernel = self.machine.device, self.kernel
        if device is None or kernel is None or not (driver := self.make_driver(device)).probe(self._features):
            return
        self.driver = driver
        self.driver_loaded = True
        kernel.set_deflate_on_oom(driver.deflates_on_oom)
        if driver.stats is not None and self._primes:
            service = self._faults["service"] if self._faults else None
            if service is None or service.value is None:
                driver.report(self.records())
            else:
                driver.report(b"\xff" * (len(self.tags) * STAT_RECORD))  # as Windows' driver fills its new buffer
                if (left := service.time()) > 0:
                    self.arm("service", left)
        driver.go()
        reset(self.inflation)
        self.inflation.start()

    def stop_driver(self) -> None:
        """Unload the driver, if there is one; the balloon deflates."""
        driver, self.driver = self.driver, None
        if driver is None:
            return
        for name in self.timers.keys() - KERNEL_TIMERS:
            self.timers.pop(name).cancel()
        self.driver_loaded = False
        self.latched = self.holding = False
        if self.kernel is not None:
            self.kernel.deflate(driver.ballooned)
            self.kernel.set_deflate_on_oom(False)
        driver.unload()

    def arm(self, name: str, delay: int) -> None:
        """Arm the timer called `name`, `delay` ns of VM time from now, unless it is armed."""
        timer = self.timers.get(name)
        if timer is None or not timer.armed:
            self.timers[name] = self.machine.vm_timers.at(self.machine.vm_clock.now() + delay, self.actions[name])

    def interrupt(self, queue: int) -> None:
        """The device returned buffers. Page lists need nothing here: the driver takes them back where it sends them."""
        driver = self.driver
        if driver is None or queue != driver.stats_index:
            return
        faults = self._faults
        if not self.machine.vm_clock.running or (faults and faults.asleep):
            self.latched = True
        elif not (faults and faults.in_force and faults.miss()):
            self._requested()

    def chance(self) -> int:
        """Return the next random number below a million; the machine's seed decides."""
        self.draws += 1
        # Seeds are 2^32 apart here, so that the numbers of one are not those of its neighbour, one draw later.
        return mix(self.machine.seed * 0x1_0000_0001 + self.draws) % 1_000_000

    def _requested(self) -> None:
        driver, faults = self.driver, self._faults
        if driver is None or driver.stats is None or driver.stats.take() is None:
            return
        if not (faults and faults.in_force):  # nearly always: as _reply, but without the calls to the faults
            self.holding = False
            driver.report(self.records())
        elif faults.silent():
            self.holding = True
        elif wait := faults.wait():
            self.arm("reply", wait)
        else:
            self._reply()

    def _reply(self) -> None:
        driver, faults = self.driver, self._faults
        if driver is not None:
            self.holding = bool(faults and faults.asleep)
            if not self.holding:
                if faults:
                    faults.sent()
                driver.report(self.records())

    def records(self) -> bytes:
        """Return what the driver reports now, as it goes into its buffer."""
        values, faults = self.statistics(), self._faults
        # `statistics` returns the same object if nothing changed, so the records are the same too.
        if values is not self._reported or (faults and faults.in_force):
            sent = {tag: values[tag] for tag in self.tags}
            self._records = encode([*(faults.reported(sent, values) if faults else sent).items()])
            self._reported = None if faults and faults.in_force else values
        return self._records

    def statistics(self) -> tuple[int, ...]:
        """Return the statistics as the guest knows them now, by tag; 2^64-1 for one that it does not know."""
        if self.kernel is None:
            return (ABSENT,) * STAT_COUNT
        return self.kernel.at(self.machine.vm_clock.now())

    def config_changed(self) -> None:
        """The target changed or the device broke; the driver looks at it when it is awake."""
        self.inflation.target_set()

    def device_added(self) -> None:
        """A device was plugged in: the driver takes it once the VM runs, unless the guest has none or is dead."""
        self.plugged = not self.machine.running
        if not (self.plugged or self.booting or self.dead) and self.has_driver and self.driver is None:
            self.start_driver()

    def release_device(self) -> bool:
        """Release the device: at once if the driver is awake, otherwise when it wakes up."""
        if self.driver is None:
            self.plugged = False
            # Without a driver nothing answers, and only a reset removes the device, as in QEMU.
            # A driver that boots still will.
            self.release_wanted = self.booting
        elif self.awake():
            self.stop_driver()
            return True
        else:
            self.release_wanted = True
        return False

    def power_down(self) -> bool:
        """Shut down after the time that its `shutdown` says. Without a live driver it ignores the button."""
        time = self.faults["shutdown"].time()
        if self.driver is None or self.dead or time == NEVER:
            return False
        if time:
            self.arm("off", time)
        return not time

    def _off(self) -> None:
        # It may have panicked since the button was pressed.
        if not self.dead:
            self.machine.guest_off()

    # For monitors and snapshots.

    def shown(self) -> Mapping[str, str]:
        """Return the faults in force, by name."""
        return self._faults.shown() if self._faults else {}

    def state(self) -> dict[str, object]:
        """Return the guest's whole state as plain data."""
        return save(self, 0, *self.faults.values(), self.inflation)

    def restore(self, state: Fields) -> None:
        """Restore `state`. Raises SnapshotError naming the member that is wrong."""
        load(self, state, *self.faults.values(), self.inflation)
        self.faults.arrange()

    def memory_free(self) -> int | None:
        """Return the model's free memory in bytes, or None before it boots."""
        return None if self.kernel is None else self.kernel.free
