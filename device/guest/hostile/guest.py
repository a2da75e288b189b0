"""A guest whose driver breaks the rules of virtio: a random one each time, by a seed, or always the same one.

Otherwise it is a modelled guest: between two attacks it answers statistics requests and follows the balloon's target.
After an attack that breaks the device, the driver starts again after a while. A guest with one rule waits for
system_reset instead, so that there is time to look at the broken device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from device.balloon.device import BalloonDevice
from device.clock import MS, SECOND
from device.guest.hostile.attacks import ATTACKS
from device.guest.hostile.driver import ANSWERS, HostileDriver
from device.guest.model.guest import ModelledGuest
from device.guest.model.kernel import mix
from device.state import Integer

REST = 100 * MS
"""The shortest VM time between two attacks; the longest is sixteen times as much."""

RECOVERY = 2 * SECOND
"""VM time after which a guest with more than one attack starts a broken device again."""

ATTACK_ODDS = 4
"""One in this many statistics requests leads to an attack, on average, but never the first after a start."""


class HostileGuest(ModelledGuest):
    """As ModelledGuest, with attacks. Its keys are `seed` (by default the machine's) and `rule` (by default any)."""

    STATE = (
        Integer("asked_for", attribute="requests"),
        Integer("played", kept=True, attribute="attacks"),
        *ModelledGuest.STATE,
    )
    DERIVED = (*ModelledGuest.DERIVED, "_seed", "_rule", "_attacking")

    requests: int
    attacks: int
    driver: HostileDriver | None  # pyright: ignore[reportIncompatibleVariableOverride] - make_driver makes no other

    def __init__(self, name: str, settings: Mapping[str, Any], spec: str, **traits: Any) -> None:
        super().__init__(name, settings, spec, **traits)
        self._seed: int | None = settings.get("seed")
        self._rule: str = settings.get("rule", "")
        self._attacking = False
        self.actions |= {"attack": self._turn, "recovery": self._recover}
        self.actions["trick"] = self._turn  # the name in older snapshots

    def roll(self, count: int) -> int:
        """Return this guest's next random number below `count`."""
        # Not the `random` module: the same seed has to do the same on every Python, and a snapshot has to keep the
        # state, which is one number here.
        self.draws += 1
        seed = self.machine.seed if self._seed is None else self._seed
        return mix(mix(seed) ^ self.draws) % count

    # Life.

    def make_driver(self, device: BalloonDevice) -> HostileDriver:
        """As ModelledGuest.make_driver."""
        return HostileDriver(device, self.machine.memory.regions[0], self.machine.ram, self.roll)

    def start_driver(self) -> None:
        """As ModelledGuest.start_driver, with a pause before the first attack."""
        self.requests = 0
        super().start_driver()
        if self.driver is not None:
            self._rest()

    def _rest(self) -> None:
        self.arm("attack", (1 + self.roll(16)) * REST)

    def _turn(self) -> None:
        """Attack and rest, unless the device is broken: it ignores its driver then."""
        if self.awake() and not self._broken():
            self.attack()
        if self.driver is not None and not self.dead and not self._broken():
            self._rest()

    def _broken(self) -> bool:
        device = self.machine.device
        return device is None or device.broken

    def attack(self) -> None:
        """Break a rule. Does nothing within an attack: an interrupt that it causes must not lead to another one."""
        driver = self.driver
        # A device without a statistics queue is left alone, because some attacks use it.
        if self._attacking or driver is None or driver.stats_index < 0:
            return
        name = self._rule or list(ATTACKS)[self.roll(len(ATTACKS))]
        self.attacks += 1
        self._attacking = True
        try:
            restart = ATTACKS[name][0](driver)
        finally:
            self._attacking = False
        if driver is not self.driver:  # a listener reset the machine or unplugged the device meanwhile
            return
        if restart:
            self._restart_driver()
        elif self._broken() and not self._rule:
            self.arm("recovery", RECOVERY)

    def _restart_driver(self) -> None:
        self.stop_driver()
        self.start_driver()

    def _recover(self) -> None:
        # A driver that sleeps does nothing, so it cannot recover either: it tries again later.
        if not self.awake():
            self.arm("recovery", RECOVERY)
        elif self._broken():
            self._restart_driver()

    # From the device.

    def interrupt(self, queue: int) -> None:
        """As ModelledGuest.interrupt; an attack may continue from within it."""
        if queue < 2 and self.driver is not None:
            self.driver.interrupted(queue)
        elif not self._attacking:  # an attack collects its own buffers: answering here too would never end
            super().interrupt(queue)

    def _requested(self) -> None:
        self.requests += 1
        if self.requests > 1 and (self._rule or not self.roll(ATTACK_ODDS)):
            self.attack()
        super()._requested()

    def records(self) -> bytes:
        """As ModelledGuest.records; a rule about answers applies to each of them."""
        if self._rule in ANSWERS and self.driver is not None:
            self.driver.spoil = self._rule
        return super().records()

    def shown(self) -> Mapping[str, str]:
        """As ModelledGuest.shown, and which rules it breaks."""
        return {**super().shown(), "breaks": self._rule or "any rule", "attacks made": str(self.attacks)}
