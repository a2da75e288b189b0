"""The machine that front ends use: clocks, RAM, the balloon device, the guest, run state and events.

The machine has no loop. `wait_for` says which descriptors to watch and until when to wait. `step` does what is due and
delivers what the device has in `due`. Each front end waits in its own way.
"""

from __future__ import annotations

from device.balloon.device import BalloonDevice
from device.balloon.stats import History
from device.clock import SECOND, Clock, Timeline
from device.errors import MisuseError
from device.machine.requests import ANSWERED, ENDED, NO_DEVICE, UNSUPPORTED, StatsRequest, StatsRequests
from device.state import FAR, Flag, Integer, Member, save
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

_BELOW_ASKED = DUE_ASKED - 1
_QUEUE, _SERVE = DUE_QUEUE.bit_length(), DUE_SERVE.bit_length()

AT_ONCE = 4096
"""The most timers that one step fires, and the most things that it delivers. The rest waits for the next step, so that
a busy guest leaves the front end time for its clients."""

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

    Every listener gets the Events of device.machine.events, in the order in which they happened.
    """

    # The order matters: what is loaded first (VM time, the device) is needed to check what follows.

    STATE = (
        Integer("seed"),
        Member("booted", lambda machine, now: machine.run_state != PRELAUNCH, _load_run_state, attribute="run_state"),
        Member(
            "vm_time",
            lambda machine, now: machine.vm_clock.now(),
            lambda machine, fields: machine.vm_clock.set(fields.integer("vm_time", 0, FAR)),
            attribute="vm_clock",
        ),
        Flag("unplugging"),
        Flag("powering_down"),
        Flag("target_told", attribute="target_reported"),
        Member("device", lambda machine, now: machine.device and save(machine.device, now), _load_device),
        # This module does not know how to make guests: `device.machine.snapshot` makes the guest first and restores it
        # last.
        Member("guest", lambda machine, now: {"spec": machine.guest.spec, "state": machine.guest.state()}),
    )
    """The state in a snapshot. Memory and the balloon's pages are saved after it; monitors and requests are not."""

    DERIVED = (
        "_later", "_listeners", "_stepping", "_unnamed", "balloon", "clock", "front", "history", "host_timers",
        "memory", "name", "no_shutdown", "over", "ram", "requests", "resets", "store", "time", "timeout", "uuid",
        "vm_timers",
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
        """Build a machine; `start` starts it.

        `ram` is in bytes, `timeout` in ns. `device_id` None makes a device without an id; `switches` are keywords of
        BalloonDevice. Raises MisuseError for an impossible size, an unknown switch, or a simulated clock with a real
        guest.
        """
        if guest.real and clock.simulated:
            raise MisuseError(f"the {guest.name} guest runs in real time: --clock {clock.name} cannot drive it")
        self.clock, self.ram, self.timeout, self.seed, self.name = clock, ram, timeout, seed, name
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
        """Whether the machine was built with a balloon device, even if that was unplugged since."""
        self.no_shutdown = False
        """Whether the machine stays, stopped, when its guest powers itself off (QEMU's -no-shutdown)."""
        self.resets = True
        """Whether a reset reboots the guest. Otherwise it ends the machine (QEMU's -no-reboot)."""
        self.over = False
        """Whether the machine has ended. Front ends stop when they see it."""
        self.device: BalloonDevice | None = None
        self._unnamed = 0
        self.unplugging = False
        self.store: Store | None = None
        """Where snapshots of this machine are kept. Front ends set it; all monitors share it."""
        self.front: Any = None
        """For the use of front ends only."""
        self._listeners: list[Listener] = []
        self._later: list[Callable[[], object]] = []
        self._stepping = False
        self.target_reported = True
        self.powering_down = False
        self.guest = guest
        try:
            guest.attach(self)
            if balloon:
                self._unnamed = int(not device_id)
                self._plug(device_id or "", dict(switches or {}))
        except MisuseError:
            guest.close()
            self.memory.close()
            raise

    # Listening.

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every event from now on; returns a function that stops this."""
        self._listeners.append(listener)

        def unsubscribe() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return unsubscribe

    def emit(self, event: Event) -> None:
        """Call every listener with `event`."""
        # A copy of the list, because a listener may subscribe or unsubscribe.
        for listener in tuple(self._listeners):
            listener(event)

    # Stepping.

    def wait_for(self, *, jump: bool = False) -> tuple[list[int], int | None]:
        """Return the descriptors to watch, and the host time (ns) at which to `step` next, or None.

        On a simulated clock the time is now or None: waiting does not move it. With `jump` it is now if there is a
        timer.
        """
        time, device = self.time, self.device
        due = time.next_deadline()
        now = self.clock.now()
        if (device is not None and device.due) or time.asleep or self._later:
            due = now
        elif self.clock.simulated and due is not None and due > now:
            due = now if jump else None
        return self.guest.descriptors(), due

    def step(self, *, jump: bool = False) -> bool:
        """Do what is due, at most AT_ONCE things, and deliver the results; returns whether there was anything.

        `jump` moves the warp clock to the next timer first, for front ends whose monitor waits. Called within a step,
        as by a listener, this does nothing. Raises MisuseError for a jump of a clock that does not warp.
        """
        if self._stepping:
            return False
        if self._later:  # before the clock jumps
            self._do_later()
            return True
        self._stepping = True
        time = self.time
        try:
            self.guest.serve()
            if not (jump or time.busy() or (self.device is not None and self.device.due)):
                return False  # true for nearly every line of a pipe, so this comes first
            fired, moved = 0, False
            left = self._deliver(AT_ONCE)
            # This runs even if nothing more can be delivered in this step, because deadlines must fire.
            while fired < AT_ONCE:
                moved = time.move(jump=jump) or moved
                jump = False
                now = self.clock.now()  # read once: if timers that come due meanwhile counted, this might never end
                while fired < AT_ONCE and time.fire_due(now):
                    fired += 1
                    left = self._deliver(left)
                if not time.asleep:
                    break
                fired += 1  # a move of the clock counts too: this ends at AT_ONCE, however long the sleep is
            did = moved or fired > 0 or left < AT_ONCE
        finally:
            self._stepping = False
        self._do_later()
        return did

    def later(self, act: Callable[[], object]) -> None:
        """Call `act` after the present step, or in the next one.

        Use it to run a command from within a step: there the command's effects are delivered only at the step's end, so
        the next command would not see them.
        """
        self._later.append(act)

    def _do_later(self) -> None:
        acts, self._later = self._later, []
        for act in acts:
            act()

    def advance(self, duration: int) -> None:
        """Move a simulated clock on by `duration` ns, and fire every timer on the way.

        Called within a step, as by a listener, this returns at once; the time passes in that step or in the next.
        Raises MisuseError on a real clock and for a negative duration.
        """
        # Waiting within a step would never end, because time passes only in a step (found by fuzzing).
        self.time.sleep(duration)
        while self.time.asleep and not self._stepping:
            self.step()
        self.step()

    def deliver(self) -> None:
        """Deliver what the device has in `due`. Called after each action on machine, guest or device.

        Called within a step, this does nothing: the step delivers it.
        """
        if not self._stepping and self.device is not None and self.device.due:
            self._stepping = True
            try:
                self._deliver(AT_ONCE)
            finally:
                self._stepping = False

    def _deliver(self, left: int) -> int:
        """Deliver at most `left` things; returns how many more it could have delivered."""
        # The lowest bit first: news, then interrupts, then queues to serve. `device` is read each time, because a
        # listener may unplug it.
        rounds = 0
        while (device := self.device) is not None and (due := device.due) and left > 0:
            left -= 1
            flag = due & -due
            if flag < DUE_CONFIG:
                device.due = due ^ flag
                _NEWS_HANDLERS[flag](self, device)
            elif rounds >= MAX_ROUNDS:
                device.storm()
            else:
                # A request of the host resets the count: only interrupts that cause one another make a storm.
                rounds = 0 if due & DUE_ASKED else rounds + 1
                device.due = due & _BELOW_ASKED ^ flag
                if flag >= DUE_SERVE:
                    index = flag.bit_length() - _SERVE
                    if device.queues[index].enabled:
                        device.notify(index)
                elif flag > DUE_CONFIG:
                    self.guest.interrupt(flag.bit_length() - _QUEUE)
                else:
                    self.guest.config_changed()
        return left

    def _deliver_news(self, device: BalloonDevice) -> None:
        """Report what must not be lost when the device is reset or removed."""
        # Samples and interrupts are dropped, because they belong to the old driver.
        for flag in (NEWS_ACTUAL, NEWS_RULES):
            if device.due & flag and self.device is device:
                device.due ^= flag
                _NEWS_HANDLERS[flag](self, device)

    def _sample_arrived(self, device: BalloonDevice) -> None:
        sample = device.stats.sample
        # A snapshot may say that a sample is due, and have none.
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
        # Once for each target: a balloon that deflates on OOM and comes back has not reached a new one.
        if device.actual_pages == device.num_pages and not self.target_reported:
            from device.machine.events import TargetReached

            self.target_reported = True
            self.emit(TargetReached(device.actual))

    def _rules_broken(self, device: BalloonDevice) -> None:
        from device.machine.events import RuleBroken

        unreported, device.unreported = device.unreported, {}
        for rule, (times, detail) in unreported.items():
            self.emit(RuleBroken(rule, detail, times))

    def _driver_changed(self, device: BalloonDevice) -> None:
        """Handle the requests that wait for a driver, or for a driver to prime its queue."""
        if self.requests.pending:
            if device.can_report:
                device.stats.ask()
                device.due &= ~DUE_ASKED  # the guest caused this interrupt, so the count of rounds goes on
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
        """Stop the VM: guest time stands still, host time goes on. Does nothing if it is not running."""
        if self.run_state != RUNNING:
            return
        from device.machine.events import Stopped

        self.vm_clock.stop()
        self.run_state = PAUSED
        self.guest.stopped()
        self.emit(Stopped())

    def cont(self) -> None:
        """Let the VM run; from prelaunch this boots the guest. Does nothing if it runs or has ended.

        Raises MisuseError, in QEMU's words, after the guest powered itself off.
        """
        if self.run_state == RUNNING or self.over:
            return
        if self.run_state == SHUTDOWN:
            raise MisuseError("Resetting the Virtual Machine is required")
        boots = self.run_state == PRELAUNCH
        self.run_state = RUNNING
        self.vm_clock.start()
        if self.device is not None:
            self.device.stats.vm_runs()
        if self._listeners:  # most scripts have none, and do not need the import
            from device.machine.events import Resumed

            self.emit(Resumed())
        if boots:
            self._boot()
        else:
            self.guest.resumed()
            self.deliver()
            if self.powering_down:  # the button was pressed while the VM was stopped
                self.guest_off()

    def _boot(self) -> None:
        self.guest.boot()
        self.driver_changed()  # asks again for the waiting requests, or ends them if there is no driver

    def reset(self, *, guest: bool = False) -> None:
        """Reset the machine, as a power cycle of the guest.

        Target, `actual` and polling interval stay. The driver's statistics are forgotten. Pending requests wait for the
        new driver. A stopped machine is in prelaunch afterwards. `guest` is whether the guest asked for it.
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
            device.due &= ~NEWS_DRIVER  # the end of the old driver must not end requests: they wait for the new one
            self._deliver_news(device)
        self.emit(WasReset(guest=guest, reason=reason))
        if self.unplugging:  # a reset removes the device even if the old driver did not release it
            self._unplug()
        if self.run_state == RUNNING:
            self._boot()
        else:
            self.run_state = PRELAUNCH

    def power_down(self) -> None:
        """Press the power button; the guest may ignore it."""
        from device.machine.events import PowerButton

        self.emit(PowerButton())
        if self.guest.power_down():
            if self.run_state == RUNNING:
                self.guest_off()
            else:
                self.powering_down = True

    def guest_off(self) -> None:
        """The guest powered itself off: the machine ends, as QEMU does, or with `no_shutdown` waits for a reset."""
        from device.machine.events import Ended, Stopped

        if not self.no_shutdown:
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
        """Replace the guest and reset the machine.

        Raises MisuseError if the clock cannot drive the new guest, or something that it needs is missing. Then the old
        guest keeps running.
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
        """Return the tags of all snapshots."""
        return [] if self.store is None else self.store.tags()

    def close(self) -> None:
        """Close the guest, the device and the memory. The machine is not used afterwards."""
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
        # QEMU keeps devices without an id in a container of their own, and counts all that there ever were. One that a
        # snapshot brought was not counted here.
        anonymous = f"/machine/peripheral-anon/device[{max(0, self._unnamed - 1)}]"
        return f"/machine/peripheral/{self.device.id}" if self.device.id else anonymous

    def _plug(self, id: str, switches: dict[str, Any]) -> BalloonDevice:
        device = BalloonDevice(self.time, self.memory, self.ram, id=id, **switches)
        self.device = device
        self.unplugging = False
        return device

    def device_add(self, id: str, switches: Mapping[str, Any] | None = None) -> None:
        """Plug in a balloon device. Raises MisuseError, in QEMU's words, if there is one, or for an unknown switch."""
        self._unnamed += not id  # even if it fails, as in QEMU
        if self.device is not None:
            if id and id == self.device.id:
                raise MisuseError(f"Duplicate device ID '{id}'")
            raise MisuseError("Only one balloon device is supported")
        self._plug(id, dict(switches or {})).hotplugged = True
        if self.run_state != PRELAUNCH:
            self.guest.device_added()
            self.deliver()

    def device_del(self, id: str) -> None:
        """Ask the guest to release the device, which is then removed.

        Raises MisuseError, in QEMU's words, if there is no such device.
        """
        # A second request is no error: QEMU 7.2's pc machine repeats it until the guest reacts. But not at VM time 0.
        if self.device is None or id not in (self.device.id, self.device_path) or not id:
            raise MisuseError(f"Device '{id}' not found")
        if self.unplugging and self.run_state == PRELAUNCH and not self.vm_clock.now():
            raise MisuseError(f"Device {id} is already in the process of unplug")
        self.unplugging = True
        if self.guest.release_device():
            self._unplug()
        self.deliver()

    def driver_released(self) -> None:
        """The guest's driver released the device. Does nothing unless the device is being unplugged."""
        if self.unplugging:
            self._unplug()

    def _unplug(self) -> None:
        from device.machine.events import DeviceDeleted

        device, path = self.device, self.device_path
        if device is None or path is None:
            return
        self._deliver_news(device)
        device.detach()
        self.device = None
        self.unplugging = False
        self.requests.end_all(NO_DEVICE)
        self.emit(DeviceDeleted(device.id, path))

    def set_balloon(self, size: int) -> Task | None:
        """Ask the guest to keep `size` bytes of memory.

        Raises MisuseError in QEMU's words if there is no device or `size` is below one byte, and in our words if the
        guest would not survive with so little. If the guest has to be asked for that limit first, this returns a task,
        which ends with the same errors.
        """
        if self.device is None:
            raise MisuseError(NO_BALLOON)

        def go() -> None:
            if self.device is None:  # unplugged while the guest was asked
                raise MisuseError(NO_BALLOON)
            self.device.set_target(size)
            self.target_reported = False
            self.deliver()

        return self.guest.check_target(size, go)

    # Statistics.

    def request_stats(self, timeout: int | None) -> StatsRequest:
        """Ask the guest for fresh statistics, and wait `timeout` ns of host time, or with None until they come.

        The request may have ended when this returns: look at its state; if it is PENDING, set its `on_done`. It ends
        ANSWERED (a sample arrived), TIMED_OUT, UNSUPPORTED (no driver, or one without statistics), NO_DEVICE, or
        CANCELLED by `requests.cancel`.
        """
        # `ask` comes before the checks: it returns whether the guest was asked, which is so nearly always.
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
                # The guest answered within the call, as most guests do. No request is kept and no timer armed, so tens
                # of thousands of requests a second are possible.
                self.requests.answered += 1
                return ENDED[ANSWERED]
            if self.device is not device:  # a listener unplugged it
                return ENDED[NO_DEVICE]
        return self.requests.open(timeout)

    def driver_changed(self) -> None:
        """A driver came up, or will not come up: ask it for the waiting requests, or end them."""
        if self.device is not None:
            self.device.due |= NEWS_DRIVER
            self.deliver()


_NEWS_HANDLERS = {
    NEWS_ACTUAL: Machine._actual_changed,
    NEWS_SAMPLE: Machine._sample_arrived,
    NEWS_RULES: Machine._rules_broken,
    NEWS_DRIVER: Machine._driver_changed,
}
