"""The rules of virtio, each with a way to break it: what the hostile guest plays, as a table.

A trick is named after the rule of device.errors.RULES under which the device is to count it; a few more break no rule
that is counted and are unpleasant all the same. It is given the driver and dice: `roll(n)` is a number below n.
"""

from __future__ import annotations

from device.balloon.spec import CONFIG_ACTUAL, CONFIG_NUM_PAGES, DEFLATE, INFLATE, STAT_COUNT, STAT_RECORD, STATS
from device.balloon.stats import RECORDS
from device.errors import RULES
from device.guest.hostile.driver import ANSWERS, SCRATCH, SPARE_PAGE, TABLE, HostileDriver
from device.virtio.device import MAX_ROUNDS
from device.virtio.spec import (
    DESC_INDIRECT,
    DESC_NEXT,
    DESC_SIZE,
    DESC_WRITE,
    MAX_QUEUE_SIZE,
    PAGE_SHIFT,
    STATUS_ACKNOWLEDGE,
    STATUS_DRIVER,
    U16,
    U32,
    U64,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Roll = Callable[[int], int]
    Play = Callable[["HostileDriver", Roll], object]
    Descriptor = tuple[int, int, int, int]

STORM = 256
"""Interrupts that one storm brings about; a kick storm is longer than the device puts up with."""


def _le32(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "little") for number in numbers)


# Rings and descriptors.


def _bad_address(driver: HostileDriver, roll: Roll) -> None:
    ram = driver.ram
    address = (ram, ram - 4, U64 - 3, 1 << 63, ram + (roll(1 << 20) << PAGE_SHIFT))[roll(5)]
    driver.lay((address, 8, 0, 0))


def _bad_ring(driver: HostileDriver, roll: Roll) -> None:
    device = driver.device
    device.write_status(0)
    size, desc, avail, used = (
        (0, SCRATCH, SCRATCH, SCRATCH),
        (96, SCRATCH, SCRATCH, SCRATCH),
        (2 * MAX_QUEUE_SIZE, SCRATCH, SCRATCH, SCRATCH),
        (U16, SCRATCH, SCRATCH, SCRATCH),
        (128, SCRATCH + 8, SCRATCH, SCRATCH),
        (128, SCRATCH, SCRATCH + 1, SCRATCH),
        (128, SCRATCH, SCRATCH, SCRATCH + 2),
        (128, driver.ram, SCRATCH, SCRATCH),
        (128, U64 - 15, SCRATCH, SCRATCH),
        (128, SCRATCH, driver.ram - 2, SCRATCH),
        (128, SCRATCH, SCRATCH, driver.ram - 4),
    )[roll(11)]
    device.setup_queue(0, size, desc, avail, used)


def _queue_live(driver: HostileDriver, roll: Roll) -> None:
    driver.device.setup_queue(roll(3) and driver.stats_index, 128, SCRATCH, SCRATCH + 0x1000, SCRATCH + 0x2000)


def _avail_overrun(driver: HostileDriver, roll: Roll) -> None:
    role = (INFLATE, DEFLATE, STATS)[roll(3)]
    ring = driver.ring(role)
    ring.set_avail_idx(ring.avail_idx + ring.size + 1 + roll(0x7000))
    driver.kick(role)


def _bad_head(driver: HostileDriver, roll: Roll) -> None:
    ring = driver.ring(INFLATE)
    if roll(2):
        ring.expose(ring.size + roll(U16 - ring.size))
        driver.kick()
    else:
        driver.lay((SCRATCH, 4, DESC_NEXT, ring.size + roll(1000)))


def _chain_loop(driver: HostileDriver, roll: Roll) -> None:
    kind = roll(3)
    if kind == 0:
        driver.lay((SCRATCH, 4, DESC_NEXT, 0))
    elif kind == 1:
        driver.lay((SCRATCH, 4, DESC_NEXT, 1), (SCRATCH, 4, DESC_NEXT, 2), (SCRATCH, 4, DESC_NEXT, 0))
    else:
        length = driver.table((SCRATCH, 4, DESC_NEXT, 1), (SCRATCH, 4, DESC_NEXT, 0))
        driver.lay((TABLE, length, DESC_INDIRECT, 0))


def _bad_indirect(driver: HostileDriver, roll: Roll) -> None:
    nested = driver.table((TABLE, DESC_SIZE, DESC_INDIRECT, 0))
    length, flags = (
        (0, DESC_INDIRECT),
        (DESC_SIZE + 1, DESC_INDIRECT),
        (1 << 20, DESC_INDIRECT),
        (DESC_SIZE, DESC_INDIRECT | DESC_NEXT),
        (nested, DESC_INDIRECT),
    )[roll(5)]
    driver.lay((TABLE, length, flags, 0))


def _direction(driver: HostileDriver, roll: Roll) -> None:
    kind = roll(3)
    if kind == 0:
        driver.lay((SCRATCH, 4, DESC_WRITE, 0))
    elif kind == 1:
        driver.lay((SCRATCH, 4, DESC_WRITE | DESC_NEXT, 1), (SCRATCH, 4, 0, 0))
    else:
        driver.lay((SCRATCH, STAT_RECORD, DESC_WRITE, 0), role=STATS)


def _zero_length(driver: HostileDriver, roll: Roll) -> None:
    if roll(2):
        driver.lay((SCRATCH, 0, 0, 0))
    else:
        driver.lay((SCRATCH, 4, DESC_NEXT, 1), (SCRATCH, 0, 0, 0))


# Page lists.


def _bad_pfn(driver: HostileDriver, roll: Roll) -> None:
    limit = driver.ram >> PAGE_SHIFT
    bad = [pfn for pfn in (limit, limit + roll(1 << 16), 0x8000_0000, U32) if limit <= pfn <= U32]
    if bad:  # with 16 TiB every number is a page
        driver.send(INFLATE, _le32(*bad))


def _double_inflate(driver: HostileDriver, roll: Roll) -> None:
    driver.send(INFLATE, _le32(SPARE_PAGE))
    driver.send(INFLATE, _le32(SPARE_PAGE, SPARE_PAGE))
    driver.send(DEFLATE, _le32(SPARE_PAGE))


def _double_deflate(driver: HostileDriver, roll: Roll) -> None:
    driver.send(DEFLATE, _le32(SPARE_PAGE))


def _ragged_pfns(driver: HostileDriver, roll: Roll) -> None:
    driver.send(INFLATE, bytes(1 + roll(3)))


def _kick_storm(driver: HostileDriver, roll: Roll) -> None:
    driver.storm = MAX_ROUNDS + 1 + 2 * roll(32)  # odd: it ends with the page taken back
    driver.send(INFLATE, _le32(SPARE_PAGE))


def _interrupt_storm(driver: HostileDriver, roll: Roll) -> None:
    for _ in range(STORM // 2):
        driver.send(INFLATE, _le32(SPARE_PAGE))
        driver.send(DEFLATE, _le32(SPARE_PAGE))


# Statistics.


def _odd(rule: str) -> Play:
    def play(driver: HostileDriver, roll: Roll) -> None:
        driver.odd = rule

    return play


def _unsolicited_stats(driver: HostileDriver, roll: Roll) -> None:
    ring = driver.ring(STATS)
    for _ in range(2 + roll(3)):
        if ring.free:
            driver.poke(SCRATCH, RECORDS[1].pack(roll(STAT_COUNT), roll(1 << 30)))
            ring.add_out(SCRATCH, STAT_RECORD)
            driver.kick(STATS)
            ring.take()


# Status, features, configuration.


def _features_late(driver: HostileDriver, roll: Roll) -> None:
    driver.device.accept_features(driver.features ^ 1 << roll(40))


def _features_unknown(driver: HostileDriver, roll: Roll) -> bool:
    device = driver.device
    device.write_status(0)
    device.write_status(STATUS_ACKNOWLEDGE)
    device.write_status(STATUS_ACKNOWLEDGE | STATUS_DRIVER)
    device.accept_features(device.offered | 1 << (40 + roll(24)))
    return True


def _status_order(driver: HostileDriver, roll: Roll) -> None:
    device = driver.device
    device.write_status((STATUS_ACKNOWLEDGE, device.status | 0x20, device.status & ~STATUS_DRIVER)[roll(3)])


def _config_write(driver: HostileDriver, roll: Roll) -> None:
    offset, data = ((CONFIG_NUM_PAGES, bytes(4)), (CONFIG_ACTUAL, b"\1"), (2, _le32(U32)), (1 << 40, bytes(64)))[
        roll(4)
    ]
    driver.device.write_config(offset, data)


def _bad_actual(driver: HostileDriver, roll: Roll) -> None:
    driver.device.write_config(CONFIG_ACTUAL, _le32(U32 - roll(1 << 10)))
    driver.device.write_config(CONFIG_ACTUAL, _le32(driver.ballooned & U32))


def _notify_dead(driver: HostileDriver, roll: Roll) -> None:
    driver.device.notify((5 + roll(U16), -1 - roll(10))[roll(2)])


def _reset_midway(driver: HostileDriver, roll: Roll) -> bool:
    ring = driver.ring(DEFLATE)
    if len(ring.free) > 1:
        ring.add_out(SCRATCH, 4)  # made available, and never told of
    if roll(2):
        driver.ambush = True
        driver.send(INFLATE, _le32(SPARE_PAGE))
    else:
        driver.device.write_status(0)
    return True


class Trick:
    """One way to misbehave: `play` does it and returns true where the driver has to start anew afterwards."""

    __slots__ = ("help", "play")

    def __init__(self, play: Play, help: str) -> None:
        self.play = play
        self.help = help


_RULE_BREAKERS: dict[str, Play] = {
    "bad-address": _bad_address,
    "bad-ring": _bad_ring,
    "queue-live": _queue_live,
    "avail-overrun": _avail_overrun,
    "bad-head": _bad_head,
    "chain-loop": _chain_loop,
    "bad-indirect": _bad_indirect,
    "direction": _direction,
    "zero-length": _zero_length,
    "bad-pfn": _bad_pfn,
    "double-inflate": _double_inflate,
    "double-deflate": _double_deflate,
    "ragged-pfns": _ragged_pfns,
    **{rule: _odd(rule) for rule in ANSWERS},
    "unsolicited-stats": _unsolicited_stats,
    "features-late": _features_late,
    "features-unknown": _features_unknown,
    "status-order": _status_order,
    "config-write": _config_write,
    "bad-actual": _bad_actual,
    "notify-dead": _notify_dead,
    "kick-storm": _kick_storm,
}

TRICKS: dict[str, Trick] = {
    **{rule: Trick(play, RULES[rule]) for rule, play in _RULE_BREAKERS.items()},
    "interrupt-storm": Trick(_interrupt_storm, f"{STORM} page lists in a row, each with its interrupt"),
    "reset-midway": Trick(_reset_midway, "a reset with buffers in flight, from within an interrupt or without"),
}
"""Every trick by its name, which is that of the rule it breaks where there is one."""
