"""The attacks of the hostile guest, as a table: one way or more to break each rule of virtio.

An attack has the name of the rule in device.errors.RULES under which the device has to count it. A few more break no
rule, but are a load for the device. An attack gets the driver and uses its random numbers.
"""

from __future__ import annotations

from collections.abc import Callable

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

Play = Callable[[HostileDriver], object]

STORM = 256
"""Interrupts that an interrupt storm causes. It stays below MAX_ROUNDS, so the device has to serve all of it."""


def _le32(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "little") for number in numbers)


# Rings and descriptors. Tuples of four are (address, length, flags, next); a random number chooses one of a list.

_SINGLE = (SCRATCH, 4, DESC_NEXT, 0)
_PAIR = (SCRATCH, 4, DESC_NEXT, 1)


def _bad_address(driver: HostileDriver) -> None:
    ram = driver.ram
    # Just after RAM, across its end, wrapping around 2^64, the sign bit, and somewhere above RAM.
    address = (ram, ram - 4, U64 - 3, 1 << 63, ram + (driver.roll(1 << 20) << PAGE_SHIFT))[driver.roll(5)]
    driver.lay((address, 8, 0, 0))


def _bad_ring(driver: HostileDriver) -> None:
    # After a reset, because the rings of a live queue are refused before they are looked at (queue-live). In this
    # order: wrong sizes, then misaligned rings, then rings outside RAM.
    driver.device.write_status(0)
    queue = (
        *[(size, SCRATCH, SCRATCH, SCRATCH) for size in (0, 96, 2 * MAX_QUEUE_SIZE, U16)],
        (128, SCRATCH + 8, SCRATCH, SCRATCH),
        (128, SCRATCH, SCRATCH + 1, SCRATCH),
        (128, SCRATCH, SCRATCH, SCRATCH + 2),
        (128, driver.ram, SCRATCH, SCRATCH),
        (128, U64 - 15, SCRATCH, SCRATCH),
        (128, SCRATCH, driver.ram - 2, SCRATCH),
        (128, SCRATCH, SCRATCH, driver.ram - 4),
    )[driver.roll(11)]
    driver.device.setup_queue(0, *queue)


def _avail_overrun(driver: HostileDriver) -> None:
    role = (INFLATE, DEFLATE, STATS)[driver.roll(3)]
    ring = driver.ring(role)
    # The index counts modulo 2^16, so what is more than the ring's size ahead is known to be wrong.
    ring.set_avail_idx(ring.avail_idx + ring.size + 1 + driver.roll(0x7000))
    driver.notify(role)


def _bad_head(driver: HostileDriver) -> None:
    # The head on the available ring, or the next descriptor of a chain.
    ring = driver.ring(INFLATE)
    if driver.roll(2):
        ring.expose(ring.size + driver.roll(U16 - ring.size))
        driver.notify()
    else:
        driver.lay((SCRATCH, 4, DESC_NEXT, ring.size + driver.roll(1000)))


def _chain_loop(driver: HostileDriver) -> None:
    # A descriptor that names itself, a ring of three, or two in an indirect table.
    kind = driver.roll(3)
    if kind == 2:
        length = driver.table(_PAIR, _SINGLE)
        driver.lay((TABLE, length, DESC_INDIRECT, 0))
    else:
        driver.lay(*((_SINGLE,), (_PAIR, (SCRATCH, 4, DESC_NEXT, 2), _SINGLE))[kind])


def _bad_indirect(driver: HostileDriver) -> None:
    # Empty, not whole descriptors, too long, with a next descriptor, and a table in a table (virtio 1.2, 2.7.5.3.1).
    nested = driver.table((TABLE, DESC_SIZE, DESC_INDIRECT, 0))
    length, flags = (
        (0, DESC_INDIRECT),
        (DESC_SIZE + 1, DESC_INDIRECT),
        (1 << 20, DESC_INDIRECT),
        (DESC_SIZE, DESC_INDIRECT | DESC_NEXT),
        (nested, DESC_INDIRECT),
    )[driver.roll(5)]
    driver.lay((TABLE, length, flags, 0))


def _direction(driver: HostileDriver) -> None:
    # A buffer that the device may only write, where it has to read; or a readable piece after a writable one.
    kind = driver.roll(3)
    if kind == 2:
        driver.lay((SCRATCH, STAT_RECORD, DESC_WRITE, 0), role=STATS)
    else:
        pair = ((SCRATCH, 4, DESC_WRITE | DESC_NEXT, 1), (SCRATCH, 4, 0, 0))
        driver.lay(*(((SCRATCH, 4, DESC_WRITE, 0),), pair)[kind])


# Page lists.


def _bad_pfn(driver: HostileDriver) -> None:
    limit = driver.ram >> PAGE_SHIFT
    # 0x80000000 is negative for a device that sign-extends page numbers, as the first implementation did.
    bad = [pfn for pfn in (limit, limit + driver.roll(1 << 16), 0x8000_0000, U32) if limit <= pfn <= U32]
    if bad:  # in a guest of 16 TiB every 32 bit number is a page
        driver.send(INFLATE, _le32(*bad))


def _double_inflate(driver: HostileDriver) -> None:
    driver.send(INFLATE, _le32(SPARE_PAGE))
    driver.send(INFLATE, _le32(SPARE_PAGE, SPARE_PAGE))
    driver.send(DEFLATE, _le32(SPARE_PAGE))


def _kick_storm(driver: HostileDriver) -> None:
    driver.storm = MAX_ROUNDS + 1 + 2 * driver.roll(32)  # an odd number: it ends with the page out of the balloon
    driver.send(INFLATE, _le32(SPARE_PAGE))


def _interrupt_storm(driver: HostileDriver) -> None:
    for _ in range(STORM // 2):
        driver.send(INFLATE, _le32(SPARE_PAGE))
        driver.send(DEFLATE, _le32(SPARE_PAGE))


# Statistics.


# These only mark the next answer: a report comes when the host asks, so there is nothing to send now.
def _spoil(rule: str) -> Play:
    def play(driver: HostileDriver) -> None:
        driver.spoil = rule

    return play


def _unsolicited_stats(driver: HostileDriver) -> None:
    # At least two: the first may be the answer that the device waits for.
    for _ in range(2 + driver.roll(3)):
        if driver.ring(STATS).free:
            driver.post(STATS, RECORDS[1].pack(driver.roll(STAT_COUNT), driver.roll(1 << 30)))


# Status, features, configuration.


def _features_unknown(driver: HostileDriver) -> bool:
    device = driver.device
    for status in (0, STATUS_ACKNOWLEDGE, STATUS_ACKNOWLEDGE | STATUS_DRIVER):
        device.write_status(status)
    # This device offers no feature from bit 40 up.
    device.accept_features(device.offered | 1 << (40 + driver.roll(24)))
    return True


def _status_order(driver: HostileDriver) -> None:
    # Bits taken back, a bit that virtio does not define, and one bit taken back: only a reset may clear bits.
    status = driver.device.status
    driver.device.write_status((STATUS_ACKNOWLEDGE, status | 0x20, status & ~STATUS_DRIVER)[driver.roll(3)])


def _config_write(driver: HostileDriver) -> None:
    # The device's own field, one byte of a field, a write across two fields, and one far beyond the space.
    writes = ((CONFIG_NUM_PAGES, bytes(4)), (CONFIG_ACTUAL, b"\1"), (2, _le32(U32)), (1 << 40, bytes(64)))
    driver.device.write_config(*writes[driver.roll(4)])


def _bad_actual(driver: HostileDriver) -> None:
    driver.device.write_config(CONFIG_ACTUAL, _le32(U32 - driver.roll(1 << 10)))
    # Then the right size again, so that the host does not keep the wrong one after the attack.
    driver.device.write_config(CONFIG_ACTUAL, _le32(driver.ballooned & U32))


def _reset_midway(driver: HostileDriver) -> bool:
    ring = driver.ring(DEFLATE)
    if len(ring.free) > 1:
        ring.add_out(SCRATCH, 4)  # made available without a notification: it is in flight at the reset
    if driver.roll(2):
        driver.ambush = True
        driver.send(INFLATE, _le32(SPARE_PAGE))
    else:
        driver.device.write_status(0)
    return True


_RULES: dict[str, Play] = {
    "bad-address": _bad_address,
    "bad-ring": _bad_ring,
    "queue-live": lambda driver: driver.device.setup_queue(
        driver.roll(3) and driver.stats_index, 128, SCRATCH, SCRATCH + 0x1000, SCRATCH + 0x2000
    ),
    "avail-overrun": _avail_overrun,
    "bad-head": _bad_head,
    "chain-loop": _chain_loop,
    "bad-indirect": _bad_indirect,
    "direction": _direction,
    "zero-length": lambda driver: driver.lay(*(() if driver.roll(2) else (_PAIR,)), (SCRATCH, 0, 0, 0)),
    "bad-pfn": _bad_pfn,
    "double-inflate": _double_inflate,
    "double-deflate": lambda driver: driver.send(DEFLATE, _le32(SPARE_PAGE)),
    "ragged-pfns": lambda driver: driver.send(INFLATE, bytes(1 + driver.roll(3))),
    **{rule: _spoil(rule) for rule in ANSWERS},
    "unsolicited-stats": _unsolicited_stats,
    "features-late": lambda driver: driver.device.accept_features(driver.features ^ 1 << driver.roll(40)),
    "features-unknown": _features_unknown,
    "status-order": _status_order,
    "config-write": _config_write,
    "bad-actual": _bad_actual,
    "notify-dead": lambda driver: driver.device.notify((5 + driver.roll(U16), -1 - driver.roll(10))[driver.roll(2)]),
    "kick-storm": _kick_storm,
}

ATTACKS: dict[str, tuple[Play, str]] = {
    **{rule: (play, RULES[rule]) for rule, play in _RULES.items()},
    "interrupt-storm": (_interrupt_storm, f"{STORM} page lists in a row, each with its interrupt"),
    "reset-midway": (_reset_midway, "a reset with buffers in flight, from within an interrupt or without"),
}
"""Every attack by its name: the function, and a line about it. The name is that of the rule it breaks, if there is one.

If the function returns true, the driver has to start the device again. Random choices depend on this order: an attack
in the middle would change what each seed does.
"""
