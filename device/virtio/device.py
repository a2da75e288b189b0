"""What every virtio device has: status, feature negotiation, queues, interrupts, and faults that are counted.

Through its transport a driver calls `write_status`, `accept_features`, `setup_queue`, `reset_queue`, `notify`,
`read_isr`, `read_config` and `write_config`. It reads `generation` before and after it reads the configuration. None of
these raises an error for what a guest does: a broken rule is counted by its name in `refused`. After one of FATAL_RULES
the rings cannot be trusted, and the device is broken until it is reset.

The device has no callbacks. It sets a bit of `due` for each thing to deliver: the low bits are news for the host, the
high ones are interrupts. After each call the owner of the device takes the bits, lowest first, and delivers them
(Machine.step, or a transport with `take_due`).
"""

from __future__ import annotations

from device.clock import MS
from device.errors import FATAL_RULES, RULES, GuestFault
from device.state import FAR, Integer, Member, Parts, Text, reset, slots
from device.virtio.queue import VirtQueue
from device.virtio.spec import (
    F_EVENT_IDX,
    F_INDIRECT_DESC,
    F_VERSION_1,
    QUEUE_SIZE,
    STATUS_ACKNOWLEDGE,
    STATUS_DRIVER,
    STATUS_DRIVER_OK,
    STATUS_FAILED,
    STATUS_FEATURES_OK,
    STATUS_NEEDS_RESET,
    U32,
    bit,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from device.clock import Timeline, Timer
    from device.fields import Fields
    from device.virtio.memory import Memory

    Kind = Literal["actual", "sample", "rules", "driver", "config", "interrupt", "serve"]


_PREREQUISITE: dict[int, int] = {
    STATUS_DRIVER: STATUS_ACKNOWLEDGE,
    STATUS_FEATURES_OK: STATUS_ACKNOWLEDGE | STATUS_DRIVER,
    STATUS_DRIVER_OK: STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK,
}
"""Which bits must be set before a status bit may be (virtio 1.2, 3.1.1)."""

_WRITABLE_STATUS = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_DRIVER_OK | STATUS_FEATURES_OK | STATUS_FAILED


NEWS_ACTUAL, NEWS_SAMPLE, NEWS_RULES, NEWS_DRIVER = 1, 2, 4, 8
"""News for the device's owner, in the order of delivery: the driver wrote `actual`; sent statistics; broke rules; came
up, went away or primed the statistics queue."""

DUE_CONFIG = 16
"""A configuration change interrupt is due, because configuration or status changed."""

DUE_QUEUE = 32
"""An interrupt for queue 0 is due; queue N has the bit N places higher."""

DUE_SERVE = DUE_QUEUE << 8
"""Queue 0 may have buffers that were not served yet; queue N has the bit N places higher."""

DUE_ASKED = DUE_SERVE << 8
"""The host asked for the interrupt, so the count of rounds (see MAX_ROUNDS) starts again."""

_NEWS = DUE_CONFIG - 1

_KINDS: tuple[Kind, ...] = ("actual", "sample", "rules", "driver", "config")
"""The names of the lowest bits, for `take_due`."""

MAX_ROUNDS = 1024
"""How many interrupts in a row may each cause the next one, before the rest has to wait for VM time."""

_LONGEST = 128 * MS
"""The longest wait of a driver that keeps the device busy without end (see `defer`)."""


def _not_offered(device: VirtioDevice, features: int) -> str:
    return "holds a feature that the device does not offer" if features & ~device.offered else ""


def _no_queue(device: VirtioDevice, due: int) -> str:
    # There is room for eight queues; this has a bit for each of the eight that the device does not have.
    absent = DUE_SERVE // DUE_QUEUE - (1 << len(device.queues))
    return "names a queue that does not exist" if due & absent * (DUE_QUEUE | DUE_SERVE) else ""


def _load_refused(device: VirtioDevice, fields: Fields) -> None:
    device.refused = fields.counters("refused", len(RULES))
    if not device.refused.keys() <= RULES.keys():
        raise fields.refuse("refused", "names a rule that does not exist")


def _save_unreported(device: VirtioDevice, now: int) -> dict[str, object]:
    return {rule: {"times": times, "detail": detail} for rule, (times, detail) in device.unreported.items()}


def _load_unreported(device: VirtioDevice, fields: Fields) -> None:
    device.unreported = {}
    section = fields.section("untold")
    for rule in RULES:
        if rule in section:
            entry = section.section(rule)
            device.unreported[rule] = (entry.integer("times", 1), entry.text("detail"))
            entry.done()
    section.done()


def _save_later(device: VirtioDevice, now: int) -> int | None:
    timer = device.later_timer
    return None if timer is None else max(0, timer.due - device.time.vm_clock.now())


def _load_later(device: VirtioDevice, fields: Fields) -> None:
    remaining = fields.perhaps("later_remaining", 0, _LONGEST)
    if remaining is not None:
        device.arm_later(remaining)


class VirtioDevice:
    """The part of a virtio device that is the same for every device type.

    A subclass says which features it offers, which queues there are, and what to do with a notified queue. `due` is
    what has to be delivered. `unreported` has the rules broken since the last report: how often, and the last detail.
    """

    STATE: tuple[Member, ...] = (
        Integer("status", 0xFF),
        Integer("features", check=_not_offered),
        Integer("isr", 3),
        Member("refused", lambda device, now: dict(device.refused), _load_refused, dict, kept=True),
        Text("last_refusal", kept=True),
        Parts("queues", kept=True),
        Integer("due", DUE_ASKED * 2 - 1, kept=True, since=2, check=_no_queue),
        Member("untold", _save_unreported, _load_unreported, dict, attribute="unreported", kept=True, since=2),
        Integer("later", DUE_ASKED * 2 - 1, since=2, check=_no_queue),
        Member("later_remaining", _save_later, _load_later, attribute="later_timer", kept=True, since=2),
        Integer("pause", _LONGEST, MS, low=MS, since=2),
        Integer("calm", FAR, since=2),
        Integer("generation", U32, kept=True, late=True),
    )
    DERIVED: tuple[str, ...] = ("live", "memory", "offered", "time")
    __slots__ = slots(STATE, DERIVED)

    status: int
    features: int
    isr: int
    generation: int
    due: int
    unreported: dict[str, tuple[int, str]]
    refused: dict[str, int]
    last_refusal: str
    later: int
    later_timer: Timer | None
    pause: int
    calm: int

    def __init__(self, time: Timeline, memory: Memory, offered: int, queues: int, sizes: Sequence[int] = ()) -> None:
        """Create the device with `queues` queues. `sizes` are the entries of the first ones, which is also their limit;
        the others offer QUEUE_SIZE and take up to MAX_QUEUE_SIZE. Raises MisuseError for what cannot be a size.
        """
        self.time, self.memory, self.offered = time, memory, offered
        self.live = False
        """Whether a driver set DRIVER_OK and the device is not broken: only then are rings looked at."""
        self.queues = [VirtQueue(index, size, size) for index, size in enumerate(sizes[:queues])]
        self.queues += [VirtQueue(index, QUEUE_SIZE) for index in range(len(self.queues), queues)]
        reset(self, new=True)

    # What a device type fills in.

    def serve(self, index: int) -> None:
        """Handle the buffers of queue `index`. May raise GuestFault."""
        raise NotImplementedError

    def driver_gone(self) -> None:
        """Called after a reset by either side."""

    # The driver's calls.

    def write_status(self, value: int) -> None:
        """Take the driver's status write; 0 resets the device (virtio 1.2, 2.1 and 3.1.1)."""
        if value == 0:
            self.reset()
            return
        # Only a reset may clear bits, and NEEDS_RESET belongs to the device.
        added = value & ~self.status
        if self.status & _WRITABLE_STATUS & ~value or added & ~_WRITABLE_STATUS:
            self.refuse("status-order", f"status {value:#x} after {self.status:#x}")
            return
        for flag, needed in _PREREQUISITE.items():
            if added & flag and (self.status | added) & needed != needed:
                self.refuse("status-order", f"status {value:#x} after {self.status:#x}")
                return
        if added & STATUS_FEATURES_OK and not self.features & bit(F_VERSION_1):
            # The device leaves the bit clear: the driver reads it back and gives up (virtio 1.2, 3.1.1 step 6).
            added &= ~STATUS_FEATURES_OK
            if added & STATUS_DRIVER_OK:
                self.refuse("status-order", "DRIVER_OK without FEATURES_OK")
                return
        self.status |= added
        if added & STATUS_FAILED:
            self.live = False
            self.due |= NEWS_DRIVER
        elif added & STATUS_DRIVER_OK and not self.status & (STATUS_NEEDS_RESET | STATUS_FAILED):
            self.live = True
            for queue in self.queues:
                if queue.enabled:
                    self.notify(queue.index)
            if self.live:  # a bad ring breaks the device in `notify`
                self.due |= NEWS_DRIVER

    def accept_features(self, features: int) -> None:
        """Take the features the driver accepts; counted and ignored where they were not offered or come too late."""
        if self.status & STATUS_FEATURES_OK:
            if features != self.features:
                self.refuse("features-late", f"{features:#x} after {self.features:#x}")
        elif features & ~self.offered:
            self.refuse("features-unknown", f"{features & ~self.offered:#x}")
        else:
            self.features = features

    def setup_queue(self, index: int, size: int, desc: int, avail: int, used: int, *, last_avail: int = 0) -> None:
        """Configure and enable queue `index` with rings at guest addresses `desc`, `avail` and `used`."""
        if not 0 <= index < len(self.queues):
            self.refuse("notify-dead", f"queue {index} of {len(self.queues)}")
            return
        queue = self.queues[index]
        try:
            queue.configure(size, desc, avail, used)
            queue.start(
                self.memory,
                event_idx=bool(self.features & bit(F_EVENT_IDX)),
                indirect=bool(self.features & bit(F_INDIRECT_DESC)),
                last_avail=last_avail,
            )
        except GuestFault as fault:
            self.refuse(fault.rule, fault.detail)

    def reset_queue(self, index: int) -> None:
        """Take queue `index` out of service, whatever is in it, until it is set up again (virtio 1.2, 2.6.1)."""
        if not 0 <= index < len(self.queues):
            self.refuse("notify-dead", f"queue {index} of {len(self.queues)}")
            return
        # Interrupts for the old rings must not reach a driver that sets up new ones.
        undelivered = (DUE_QUEUE | DUE_SERVE) << index
        self.due &= ~undelivered
        self.later &= ~undelivered
        self.park_queue(index)
        self.queues[index].clear()

    def park_queue(self, index: int) -> int:
        """Take queue `index` out of service; returns the available index that `setup_queue` needs to continue it."""
        queue = self.queues[index]
        queue.stop()
        return queue.last_avail

    def read_isr(self) -> int:
        """Return why the driver was interrupted (1: queues, 2: configuration), and clear it (virtio 1.2, 4.1.4.5)."""
        isr, self.isr = self.isr, 0
        return isr

    def notify(self, index: int) -> None:
        """The driver made buffers available on queue `index`.

        Before DRIVER_OK this does nothing: the queues are served when the bit is set (virtio 1.2, 2.1.2).
        """
        if not self.live:
            return
        if not 0 <= index < len(self.queues) or not self.queues[index].enabled:
            self.refuse("notify-dead", f"queue {index} of {len(self.queues)}")
            return
        try:
            self.serve(index)
        except GuestFault as fault:
            self.refuse(fault.rule, fault.detail)

    # The device's side.

    def reset(self) -> None:
        """Forget the driver: its status, features, queues and undelivered interrupts. The counters of refusals stay."""
        # `actual` and broken rules still have to be reported; samples and interrupts belong to the old driver.
        self.due = self.due & (NEWS_ACTUAL | NEWS_RULES) | NEWS_DRIVER
        self.forget_later()
        reset(self)
        self.live = False
        for queue in self.queues:
            queue.clear()
        self.driver_gone()

    def interrupt(self, index: int) -> None:
        """Make an interrupt due for the buffers that were returned on queue `index`."""
        self.isr |= 1
        self.due |= DUE_QUEUE << index

    def config_interrupt(self) -> None:
        """Make a configuration change interrupt due. Before DRIVER_OK the driver gets none, because it reads the
        configuration anyway; it sees from `generation` that a value changed while it was reading (virtio 1.2, 2.5.1).
        """
        self.generation = (self.generation + 1) & U32
        if self.status & (STATUS_DRIVER_OK | STATUS_NEEDS_RESET):
            self.isr |= 2
            self.due |= DUE_CONFIG

    def take_due(self) -> tuple[Kind, int] | None:
        """Take and return what has to be delivered next, or None. For a device without a machine.

        ("interrupt", QUEUE) and ("config", 0) are for the driver; at ("serve", QUEUE) call `notify` with the queue. The
        others are news for the host: `actual` was written, a sample arrived, rules were broken (`unreported`), the
        driver came or went. After MAX_ROUNDS in a row that each caused the next call `storm`: the rest then waits for
        `time`.
        """
        self.due &= ~DUE_ASKED
        if not self.due:
            return None
        number = (self.due & -self.due).bit_length() - 1
        self.due ^= 1 << number
        if number < len(_KINDS):
            return _KINDS[number], 0
        number -= len(_KINDS)
        queues = (DUE_SERVE // DUE_QUEUE).bit_length() - 1
        return ("interrupt", number) if number < queues else ("serve", number - queues)

    # Drivers that keep the device busy without end.

    def storm(self) -> None:
        """The driver's interrupts cause one another without end: count that, and let what is due to it wait."""
        waiting, self.due = self.due & ~_NEWS, self.due & _NEWS
        self.refuse("kick-storm", f"more than {MAX_ROUNDS} rounds")
        self.defer(waiting)

    def defer(self, due: int) -> None:
        """Let `due` wait for some VM time, so that monitors get their turn.

        That is a millisecond at first, and doubles up to 128 while the storm goes on. So a driver that never stops
        takes less and less of the host's time, and no waiting monitor misses its deadline.
        """
        self.later |= due
        if self.later_timer is None:
            now = self.time.vm_clock.now()
            # What comes before `calm` belongs to the same storm.
            self.pause = MS if now >= self.calm else min(2 * self.pause, _LONGEST)
            # Twice the pause: a driver that goes on at once comes back within one, so after two the storm is over.
            self.calm = now + 2 * self.pause + 1
            self.arm_later(self.pause)

    def arm_later(self, remaining: int) -> None:
        """Make what waits due in `remaining` ns of VM time."""
        self.later_timer = self.time.vm_timers.at(self.time.vm_clock.now() + remaining, self._later_is_now)

    def _later_is_now(self) -> None:
        self.later_timer = None
        waiting, self.later = self.later, 0
        self.due |= waiting

    def forget_later(self) -> None:
        """Drop what waits."""
        if self.later_timer is not None:
            self.later_timer.cancel()
            self.later_timer = None
        self.later = self.calm = 0

    @property
    def broken(self) -> bool:
        """Whether the guest broke the device; a reset ends that."""
        return bool(self.status & STATUS_NEEDS_RESET)

    def refuse(self, rule: str, detail: str, times: int = 1) -> None:
        """Count a broken rule `times` times and report it once; break the device if its rings cannot be trusted now.

        Nothing is counted if this host lost memory of the guest, because the guest did not write what was read there.
        """
        if self.memory.lost:
            return
        self.refused[rule] = self.refused.get(rule, 0) + times
        self.last_refusal = f"{rule}: {detail}"
        self.unreported[rule] = (self.unreported[rule][0] + 1 if rule in self.unreported else 1, detail)
        self.due |= NEWS_RULES
        if rule in FATAL_RULES and not self.status & STATUS_NEEDS_RESET:
            self.status |= STATUS_NEEDS_RESET
            self.live = False
            self.config_interrupt()
