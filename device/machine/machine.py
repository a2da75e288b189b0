"""The machine that front ends talk to: clocks, RAM, the balloon device, the guest, run state and events.

The machine owns no loop. `wait_for` says which descriptors concern it and until when to wait, `step` does what is due
and delivers what the device noted; a front end waits in whatever way it waits.
"""

from __future__ import annotations

from device.balloon.device import BalloonDevice
from device.balloon.stats import History
from device.clock import SECOND, Clock, Timeline
from device.errors import MisuseError
from device.machine.requests import ANSWERED, ENDED, NO_DEVICE, UNSUPPORTED, StatsRequest, StatsRequests
from device.state import FAR, Flag, Integer, Other, save
from device.virtio.device import (
    DUE_ASKED,
    DUE_CONFIG,
    DUE_QUEUE,
    DUE_SERVE,
    MAX_ROUNDS,
    NEWS_ACTUAL,
    NEWS_DRIVER,
    NEWS_RULES,
    NEWS_SAMPLE,
)
from device.virtio.memory import GuestMemory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Final, Protocol

    from device.fields import Fields
    from device.machine.events import Event
    from device.machine.guest import Guest
    from device.machine.requests import Task
    from device.machine.states import RunState

    Listener = Callable[[Event], None]

    class Store(Protocol):
        """What completion needs of a store of snapshots."""

        def tags(self) -> list[str]:
            """Return the tags there are."""
            ...


RUNNING: Final = "running"
PAUSED: Final = "paused"
PRELAUNCH: Final = "prelaunch"
SHUTDOWN: Final = "shutdown"

_UNASKED = DUE_ASKED - 1
_QUEUE, _SERVE = DUE_QUEUE.bit_length(), DUE_SERVE.bit_length()

AT_ONCE = 4096
"""Timers that one step fires, and things that it delivers; more have to wait for the next."""

DEFAULT_TIMEOUT = 5 * SECOND
NO_BALLOON = "No balloon device has been activated"
NIL_UUID = "00000000-0000-0000-0000-000000000000"


def _load_run_state(machine: Machine, fields: Fields) -> None:
    machine.run_state = PAUSED if fields.flag("booted") else PRELAUNCH


def _load_device(machine: Machine, fields: Fields) -> None:
    device = fields.maybe("device")
    if device is not None:
        machine.device = BalloonDevice.restored(machine.time, machine.memory, machine.ram, device)


class Machine:
    """A virtual machine with at most one balloon device.

    Every listener is told the Events of device.machine.events, in the order in which they happened.
    """

    STATE = (
        Integer("seed"),
        Other("booted", lambda machine, now: machine.run_state != PRELAUNCH, _load_run_state, attribute="run_state"),
        Other(
            "vm_time",
            lambda machine, now: machine.vm_clock.now(),
            lambda machine, fields: machine.vm_clock.set(fields.integer("vm_time", 0, FAR)),
            attribute="vm_clock",
        ),
        Flag("unplugging"),
        Flag("powering_down"),
        Flag("target_told"),
        Other("device", lambda machine, now: machine.device and save(machine.device, now), _load_device),
        # What makes guests is not known here: who loads a machine makes the guest before it, and restores it after it.
        Other(
            "guest",
            lambda machine, now: {"spec": machine.guest.spec, "state": machine.guest.state()},
            lambda machine, fields: None,
        ),
    )
    """What a snapshot has. Memory and the pages in the balloon stand beside it; monitors and their requests do not."""

    DERIVED = (
        "_listeners", "_stepping", "balloon", "clock", "front", "history", "host_timers", "memory", "name", "over",
        "ram", "requests", "resets", "stays", "store", "time", "timeout", "uuid", "vm_timers",
    )  # fmt: skip

    def __init__(
        self,
        clock: Clock,
        *,
        ram: int,
        guest: Guest,
        device_id: str | None = "balloon0",
        switches: Mapping[str, Any] | None = None,
        balloon: bool = True,
        timeout: int = DEFAULT_TIMEOUT,
        seed: int = 0,
        name: str | None = None,
        uuid: str = NIL_UUID,
    ) -> None:
        """Build a machine that has not started: call `start`.

        `ram` in bytes, `timeout` in ns; `device_id` None makes an anonymous device, `switches` are keywords of
        BalloonDevice. Raises MisuseError for an
        impossible size, an unknown switch, or a simulated clock with a real guest.
        """
        if guest.real and clock.simulated:
            raise MisuseError(f"the {guest.name} guest runs in real time: --clock {clock.name} cannot drive it")
        self.clock = clock
        self.ram = ram
        self.timeout = timeout
        self.seed = seed
        self.name = name
        self.uuid = uuid
        self.time = Timeline(clock)
        self.vm_clock = self.time.vm_clock
        self.host_timers = self.time.host_timers
        self.vm_timers = self.time.vm_timers
        self.requests = StatsRequests(clock, self.host_timers)
        self.history = History()
        self.memory = GuestMemory(ram)
        self.run_state: RunState = PRELAUNCH
        self.balloon = balloon
        """Whether the machine was built with a balloon device, whatever was unplugged since."""
        self.stays = False
        """Whether the machine stays, stopped, when its guest switches itself off."""
        self.resets = True
        """Whether a reset reboots the guest; else it ends the machine."""
        self.over = False
        """Whether the machine ended: front ends leave when they see it."""
        self.device: BalloonDevice | None = None
        self.unplugging = False
        self.store: Store | None = None
        """Where snapshots of this machine are kept; the front ends' affair, shared by all monitors."""
        self.front: Any = None
        """What front ends keep with the machine; theirs alone."""
        self._listeners: list[Listener] = []
        self._stepping = False
        self.target_told = True
        self.powering_down = False
        self.guest = guest
        try:
            guest.attach(self)
            if balloon:
                self._plug(device_id or "", dict(switches or {}))
        except MisuseError:
            guest.close()
            self.memory.close()
            raise

    # Listening.

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every event from now on; returns the function that ends it."""
        self._listeners.append(listener)

        def unsubscribe() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return unsubscribe

    def emit(self, event: Event) -> None:
        """Tell every listener of an event."""
        for listener in tuple(self._listeners):
            listener(event)

    # Stepping.

    def wait_for(self, *, jump: bool = False) -> tuple[list[int], int | None]:
        """Return the descriptors that concern the machine, and the host time (ns) at which to `step` next, or None.

        On a simulated clock that is now, or never: with `jump` it is now as long as there is a timer.
        """
        time, device = self.time, self.device
        due = time.next_deadline()
        now = self.clock.now()
        if (device is not None and device.due) or time.asleep:
            due = now
        elif self.clock.simulated and due is not None and due > now:
            due = now if jump else None
        return self.guest.descriptors(), due

    def step(self, *, jump: bool = False) -> bool:
        """Do what is due, AT_ONCE things at the most, and deliver what comes of it; returns whether there was any.

        `jump` moves the warp clock to the next timer first: for front ends whose monitor waits. Within a step, as
        from a listener, this does nothing. Raises MisuseError for a jump of a clock that does not warp.
        """
        if self._stepping:
            return False
        self._stepping = True
        time = self.time
        try:
            self.guest.serve()
            if not (jump or time.busy() or (self.device is not None and self.device.due)):
                return False  # as at nearly every line of a pipe
            fired, moved = 0, False
            left = self._deliver(AT_ONCE)
            while fired < AT_ONCE:  # whatever is left to deliver: it keeps nobody from a deadline
                moved = time.move(jump=jump) or moved
                jump = False
                now = self.clock.now()  # once: what comes due while we are at work has to wait, or it would never end
                while fired < AT_ONCE and time.fire_due(now):
                    fired += 1
                    left = self._deliver(left)
                if not time.asleep:
                    break
                fired += 1
            return moved or fired > 0 or left < AT_ONCE
        finally:
            self._stepping = False

    def advance(self, duration: int) -> None:
        """Let a simulated clock go on for `duration` ns, through every timer on the way; within a step, as it goes on.

        Within a step, as from a listener, the time passes in that step, or in the next.
        Raises MisuseError on a real clock and for a negative duration.
        """
        self.time.sleep(duration)
        while self.time.asleep and not self._stepping:
            self.step()
        self.step()

    def deliver(self) -> None:
        """Deliver what the device noted, as the end of whatever was done to machine, guest or device.

        Within a step this does nothing: the step comes to it.
        """
        if not self._stepping and self.device is not None and self.device.due:
            self._stepping = True
            try:
                self._deliver(AT_ONCE)
            finally:
                self._stepping = False

    def _deliver(self, left: int) -> int:
        """Deliver `left` things at the most; returns how many more could have been."""
        rounds = 0
        while (device := self.device) is not None and (due := device.due) and left > 0:
            left -= 1
            flag = due & -due
            if flag < DUE_CONFIG:
                device.due = due ^ flag
                _TOLD[flag](self, device)
            elif rounds >= MAX_ROUNDS:
                device.storm()
            else:
                rounds = 0 if due & DUE_ASKED else rounds + 1
                device.due = due & _UNASKED ^ flag
                if flag >= DUE_SERVE:
                    index = flag.bit_length() - _SERVE
                    if device.queues[index].enabled:
                        device.notify(index)
                elif flag > DUE_CONFIG:
                    self.guest.interrupt(flag.bit_length() - _QUEUE)
                else:
                    self.guest.config_changed()
        return left

    def _tell(self, device: BalloonDevice) -> None:
        """Tell what may not be lost of a device that is about to be reset or taken away."""
        for flag in (NEWS_ACTUAL, NEWS_RULES):
            if device.due & flag and self.device is device:
                device.due ^= flag
                _TOLD[flag](self, device)

    def _sample_arrived(self, device: BalloonDevice) -> None:
        sample = device.stats.sample
        if sample is None:
            return
        self.history.add(sample.collected, device.actual, sample)
        if self._listeners:
            from device.machine.events import SampleArrived

            self.emit(SampleArrived(sample))
        if self.requests.pending:
            self.requests.end_all(ANSWERED)

    def _actual_changed(self, device: BalloonDevice) -> None:
        self.history.add(self.clock.now(), device.actual, device.stats.sample)
        if self._listeners:
            from device.machine.events import ActualChanged

            self.emit(ActualChanged(device.actual))
        if device.actual_pages == device.num_pages and not self.target_told:
            from device.machine.events import TargetReached

            self.target_told = True
            self.emit(TargetReached(device.actual))

    def _rules_broken(self, device: BalloonDevice) -> None:
        from device.machine.events import RuleBroken

        untold, device.untold = device.untold, {}
        for rule, (times, detail) in untold.items():
            self.emit(RuleBroken(rule, detail, times))

    def _driver_changed(self, device: BalloonDevice) -> None:
        """Look after the requests that wait for a driver, or for one that primes its queue."""
        if self.requests.pending:
            if device.can_report:
                device.stats.ask()
                device.due &= ~DUE_ASKED  # it was the guest that gave the occasion
            elif not self.guest.booting:
                self.requests.end_all(NO_DEVICE if self.unplugging else UNSUPPORTED)

    # Run state.

    @property
    def running(self) -> bool:
        """Whether VM time runs."""
        return self.run_state == RUNNING

    def start(self, *, paused: bool = False) -> None:
        """Power on; with `paused` the guest boots at the first `cont`."""
        if not paused:
            self.cont()

    def stop(self) -> None:
        """Stop the VM: guest time stands still, host time goes on. Nothing if it is not running."""
        if self.run_state != RUNNING:
            return
        from device.machine.events import Stopped

        self.vm_clock.stop()
        self.run_state = PAUSED
        self.guest.stopped()
        self.emit(Stopped())

    def cont(self) -> None:
        """Let the VM run; from prelaunch this boots the guest. Nothing if it runs, or has ended."""
        if self.run_state == RUNNING or self.over:
            return
        if self.run_state == SHUTDOWN:
            raise MisuseError("Resetting the Virtual Machine is required")
        boots = self.run_state == PRELAUNCH
        self.run_state = RUNNING
        self.vm_clock.start()
        if self.device is not None:
            self.device.stats.vm_runs()
        if self._listeners:  # most scripts have none: they need not import what can happen
            from device.machine.events import Resumed

            self.emit(Resumed())
        if boots:
            self._boot()
        else:
            self.guest.resumed()
            self.deliver()
            if self.powering_down:
                self.guest_off()

    def _boot(self) -> None:
        self.guest.boot()
        if self.device is not None:
            self.device.due |= NEWS_DRIVER  # those who wait find out whether the new guest has one
        self.deliver()

    def reset(self, *, guest: bool = False) -> None:
        """Reset the machine as a power cycle of the guest would.

        Target, `actual` and polling interval stay, the driver's statistics are forgotten, pending requests wait for the
        new driver. A stopped machine is in prelaunch afterwards. `guest` says that the guest asked for it.
        """
        reason = "guest-reset" if guest else "host-qmp-system-reset"
        if self.resets:
            self._restart(reason, guest=guest)
        else:
            self._end(guest=guest, reason=reason)

    def _restart(self, reason: str, *, guest: bool) -> None:
        from device.machine.events import WasReset

        self.guest.halt()
        self.powering_down = False
        device = self.device
        if device is not None:
            device.reset()
            device.due &= ~NEWS_DRIVER  # those who wait, wait for the new one
            self._tell(device)
            if self.unplugging:  # an unplug that the old driver never let happen
                self._unplug()
        self.emit(WasReset(guest=guest, reason=reason))
        if self.run_state == RUNNING:
            self._boot()
        else:
            self.run_state = PRELAUNCH

    def power_down(self) -> None:
        """Press the power button; ignored without a guest that listens."""
        from device.machine.events import PowerButton

        self.emit(PowerButton())
        if self.guest.power_down():
            if self.run_state == RUNNING:
                self.guest_off()
            else:
                self.powering_down = True

    def guest_off(self) -> None:
        """The guest switched itself off: the machine ends, as QEMU does, or stays until it is reset."""
        from device.machine.events import Ended, Stopped

        if not self.stays:
            self._end(guest=True, reason="guest-shutdown")
        elif self.run_state == RUNNING:
            self.guest.halt()
            self.vm_clock.stop()
            self.run_state = SHUTDOWN
            self.emit(Ended(guest=True, reason="guest-shutdown"))
            self.emit(Stopped())

    def quit(self, *, reason: str = "host-qmp-quit") -> None:
        """End the machine from outside."""
        self._end(guest=False, reason=reason)

    def _end(self, *, guest: bool, reason: str) -> None:
        if not self.over:
            from device.machine.events import Ended

            self.over = True
            self.vm_clock.stop()
            self.run_state = SHUTDOWN
            self.emit(Ended(guest=guest, reason=reason))

    def replace_guest(self, guest: Guest) -> None:
        """Reboot the machine into another guest.

        Raises MisuseError where the clock cannot drive it, or it does not find what it needs: the old one runs on.
        """
        if guest.real and self.clock.simulated:
            raise MisuseError(f"the {guest.name} guest runs in real time: --clock {self.clock.name} cannot drive it")
        try:
            guest.attach(self)
        except MisuseError:
            guest.close()
            raise
        self.guest.close()
        self.guest = guest
        self.reset()

    def snapshot_tags(self) -> list[str]:
        """Return the tags of the snapshots there are."""
        return [] if self.store is None else self.store.tags()

    def close(self) -> None:
        """Take the machine apart: guest, device and memory are gone."""
        self.guest.close()
        if self.device is not None:
            self.device.detach()
        self.memory.close()

    # The device.

    @property
    def device_path(self) -> str | None:
        """The QOM path of the balloon device, or None without one."""
        if self.device is None:
            return None
        return f"/machine/peripheral/{self.device.id}" if self.device.id else "/machine/peripheral-anon/device[0]"

    def _plug(self, id: str, switches: dict[str, Any]) -> BalloonDevice:
        device = BalloonDevice(self.time, self.memory, self.ram, id=id, **switches)
        self.device = device
        self.unplugging = False
        return device

    def device_add(self, id: str, switches: Mapping[str, Any] | None = None) -> None:
        """Plug in a balloon device. Raises MisuseError in QEMU's words if there is one, or a switch is unknown."""
        if self.device is not None:
            if id and id == self.device.id:
                raise MisuseError(f"Duplicate device ID '{id}'")
            raise MisuseError("Only one balloon device is supported")
        self._plug(id, dict(switches or {})).hotplugged = True
        if self.run_state != PRELAUNCH:
            self.guest.device_added()
            self.deliver()

    def device_del(self, id: str) -> None:
        """Ask the guest, perhaps again, to let go of the device; it is gone once the driver did.

        Raises MisuseError in QEMU's words if there is no such device.
        """
        if self.device is None or id not in (self.device.id, self.device_path) or not id:
            raise MisuseError(f"Device '{id}' not found")
        self.unplugging = True
        if self.guest.release_device():
            self._unplug()
        self.deliver()

    def driver_released(self) -> None:
        """The guest's driver let go of a device that is being unplugged."""
        if self.unplugging:
            self._unplug()

    def _unplug(self) -> None:
        from device.machine.events import DeviceDeleted

        device, path = self.device, self.device_path
        if device is None or path is None:
            return
        self._tell(device)
        device.detach()
        self.device = None
        self.unplugging = False
        self.requests.end_all(NO_DEVICE)
        self.emit(DeviceDeleted(device.id, path))

    def set_balloon(self, size: int) -> Task | None:
        """Ask the guest to keep `size` bytes of memory.

        Raises MisuseError, in QEMU's words without a device or a size, in ours below what the guest survives. Where
        that is not known at once, the task returned ends with the same: the guest is asked for it first.
        """
        if self.device is None:
            raise MisuseError(NO_BALLOON)

        def go() -> None:
            if self.device is None:
                raise MisuseError(NO_BALLOON)
            self.device.set_target(size)
            self.target_told = False
            self.deliver()

        return self.guest.check_target(size, go)

    # Statistics.

    def request_stats(self, timeout: int | None) -> StatsRequest:
        """Ask the guest for fresh statistics, waiting `timeout` ns of host time (None: until they come).

        The request returned may have ended already: look at its state, else set its `on_done`. It ends
        ANSWERED (a sample arrived), TIMED_OUT, UNSUPPORTED (no driver, or one without statistics), NO_DEVICE, or
        CANCELLED by `requests.cancel`.
        """
        device = self.device
        if device is None:
            return ENDED[NO_DEVICE]
        stats = device.stats
        before = stats.sample
        if not stats.ask() and not device.can_report and not self.guest.booting:
            return ENDED[UNSUPPORTED]
        if not self._stepping:
            self._stepping = True
            try:
                self._deliver(AT_ONCE)
            finally:
                self._stepping = False
            if stats.sample is not before and stats.sample is not None:
                # The guest answered within the call, as most do: nothing has to be kept, no timer armed.
                self.requests.answered += 1
                return ENDED[ANSWERED]
            if self.device is not device:  # unplugged by whoever was told meanwhile
                return ENDED[NO_DEVICE]
        return self.requests.open(timeout)

    def driver_changed(self) -> None:
        """A driver will not come up, after all: requests that nobody will answer any more are ended."""
        if self.device is not None:
            self.device.due |= NEWS_DRIVER
            self.deliver()


_TOLD = {
    NEWS_ACTUAL: Machine._actual_changed,
    NEWS_SAMPLE: Machine._sample_arrived,
    NEWS_RULES: Machine._rules_broken,
    NEWS_DRIVER: Machine._driver_changed,
}
