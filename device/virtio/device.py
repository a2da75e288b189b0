"""What every virtio device has: status, feature negotiation, queues, interrupts, and faults that are counted.

The methods a driver reaches through its transport are `write_status`, `accept_features`, `setup_queue`, `notify`,
`read_config` and `write_config`. None of them raises for what a guest does: a broken rule is counted under its name in
`refused`, and after one that leaves the rings untrustworthy the device is broken until it is reset.
"""

from __future__ import annotations

from device.errors import FATAL_RULES, GuestFault
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
    bit,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from device.virtio.memory import Memory

    class DriverEnd(Protocol):
        """Where the device's interrupts go: the guest's driver, or a transport in front of it."""

        def interrupt(self, queue: int) -> None:
            """Buffers of queue number `queue` were returned."""

        def config_changed(self) -> None:
            """The configuration space or the device's status changed."""


_PREREQUISITE: dict[int, int] = {
    STATUS_DRIVER: STATUS_ACKNOWLEDGE,
    STATUS_FEATURES_OK: STATUS_ACKNOWLEDGE | STATUS_DRIVER,
    STATUS_DRIVER_OK: STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK,
}
"""Which bits must be set before a status bit may be (virtio 1.2, 3.1.1)."""

_WRITABLE_STATUS = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_DRIVER_OK | STATUS_FEATURES_OK | STATUS_FAILED


MAX_ROUNDS = 1024
"""How often one notification may lead to another from within our interrupts before the rest has to wait."""


class VirtioDevice:
    """The part of a virtio device that does not depend on what it is.

    A device type says which features it offers, which queues there are, and what to do with a notified queue.
    """

    __slots__ = (
        "_kicked",
        "_serving",
        "_telling",
        "driver",
        "features",
        "isr",
        "last_refusal",
        "live",
        "memory",
        "offered",
        "queues",
        "refused",
        "status",
    )

    def __init__(self, memory: Memory, offered: int, queues: int) -> None:
        self.memory = memory
        self.offered = offered
        self.driver: DriverEnd | None = None
        self.status = 0
        self.features = 0
        self.isr = 0
        self.live = False
        """Whether a driver set DRIVER_OK and the device is not broken: only then are rings looked at."""
        self.refused: dict[str, int] = {}
        self.last_refusal = ""
        self.queues = [VirtQueue(index, QUEUE_SIZE) for index in range(queues)]
        self._serving = False
        self._telling = False
        self._kicked = 0

    # What a device type fills in.

    def serve(self, index: int) -> None:
        """Handle the buffers of queue `index`. May raise GuestFault."""
        raise NotImplementedError

    def driver_ready(self) -> None:
        """Called once the driver set DRIVER_OK, after the queues it primed were served."""

    def driver_failed(self) -> None:
        """Called once the driver set FAILED: it gave the device up until it resets it."""

    def driver_gone(self) -> None:
        """Called after a reset by either side."""

    def defer(self, kicked: int) -> None:
        """Called with the queues, one bit each, that one notification led to but that have to wait for their turn."""

    def fault_seen(self, rule: str, detail: str) -> None:
        """Called for every rule that the guest broke, after it was counted."""

    # The driver's calls.

    def write_status(self, value: int) -> None:
        """Take the driver's status write; 0 resets the device (virtio 1.2, 2.1 and 3.1.1)."""
        if value == 0:
            self.reset()
            return
        added = value & ~self.status
        if self.status & _WRITABLE_STATUS & ~value or added & ~_WRITABLE_STATUS:
            self.refuse("status-order", f"status {value:#x} after {self.status:#x}")
            return
        for flag, needed in _PREREQUISITE.items():
            if added & flag and (self.status | added) & needed != needed:
                self.refuse("status-order", f"status {value:#x} after {self.status:#x}")
                return
        if added & STATUS_FEATURES_OK and not self.features & bit(F_VERSION_1):
            # The device keeps the bit clear: the driver reads it back and gives up (virtio 1.2, 3.1.1 step 6).
            added &= ~STATUS_FEATURES_OK
            if added & STATUS_DRIVER_OK:
                self.refuse("status-order", "DRIVER_OK without FEATURES_OK")
                return
        self.status |= added
        if added & STATUS_FAILED:
            self.live = False
            self.driver_failed()
        elif added & STATUS_DRIVER_OK and not self.status & (STATUS_NEEDS_RESET | STATUS_FAILED):
            self.live = True
            for queue in self.queues:
                if queue.enabled:
                    self.notify(queue.index)
            if self.live:
                self.driver_ready()

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

    def notify(self, index: int) -> None:
        """The driver made buffers available on queue `index`.

        Before DRIVER_OK nothing is looked at: the queues are served when the bit is set (virtio 1.2, 2.1.2).
        """
        if not self.live:
            return
        if not 0 <= index < len(self.queues) or not self.queues[index].enabled:
            self.refuse("notify-dead", f"queue {index} of {len(self.queues)}")
            return
        if self._serving:  # told from within an interrupt of ours: the loop below comes to it
            self._kicked |= 1 << index
            return
        self._serving = True
        rounds = MAX_ROUNDS - 1
        try:
            self.serve(index)
            while self._kicked and self.live:
                rounds -= 1
                if rounds < 0:
                    self.defer(self._kicked)
                    self.refuse("kick-storm", f"more than {MAX_ROUNDS} rounds")
                    break
                flag = self._kicked & -self._kicked
                self._kicked ^= flag
                self.serve(flag.bit_length() - 1)
        except GuestFault as fault:
            self.refuse(fault.rule, fault.detail)
        finally:
            self._kicked = 0
            self._serving = False

    # The device's side.

    def reset(self) -> None:
        """Forget the driver: status, features and queues as new; counters of refusals stay."""
        self.status = 0
        self.features = 0
        self.isr = 0
        self.live = False
        self._kicked = 0
        for queue in self.queues:
            queue.clear(QUEUE_SIZE)
        self.driver_gone()

    def interrupt(self, index: int) -> None:
        """Tell the driver that buffers of queue `index` came back."""
        self.isr |= 1
        if self.driver is not None:
            self.driver.interrupt(index)

    def config_interrupt(self) -> None:
        """Tell the driver that configuration or status changed. A driver that is not up yet reads it anyway."""
        if self.status & (STATUS_DRIVER_OK | STATUS_NEEDS_RESET):
            self.isr |= 2
            if self.driver is not None and not self._telling:  # a driver may break us again while it is being told
                self._telling = True
                try:
                    self.driver.config_changed()
                finally:
                    self._telling = False

    @property
    def broken(self) -> bool:
        """Whether the guest broke the device; a reset heals it."""
        return bool(self.status & STATUS_NEEDS_RESET)

    def refuse(self, rule: str, detail: str, times: int = 1) -> None:
        """Count what the guest did wrong, `times` over but told once; break the device where its rings cannot be
        trusted any more. What was read of memory that this host lost is not the guest's.
        """
        if self.memory.lost:
            return
        self.refused[rule] = self.refused.get(rule, 0) + times
        self.last_refusal = f"{rule}: {detail}"
        if rule in FATAL_RULES and not self.status & STATUS_NEEDS_RESET:
            self.status |= STATUS_NEEDS_RESET
            self.live = False
            self.config_interrupt()
        self.fault_seen(rule, detail)
