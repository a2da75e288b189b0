"""What the device says of each broken rule: `sim` and the GUEST_FAULT event show it, so it has to be exact."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from device.balloon.spec import CONFIG_POISON_VAL, STAT_COUNT
from device.errors import GuestFault
from device.virtio.spec import (
    DESC_INDIRECT,
    DESC_NEXT,
    DESC_WRITE,
    F_INDIRECT_DESC,
    MAX_QUEUE_SIZE,
    STATUS_ACKNOWLEDGE,
    STATUS_DRIVER,
    STATUS_DRIVER_OK,
    bit,
)
from tests.support.rig import BUFFERS, FEATURES, READY, RINGS, VERSION_1, Pair, Rig

TABLE = BUFFERS + 0x10000
RAM_END = 0x100_0000


def lay(*descriptors: tuple[int, int, int, int], role: str = "inflate") -> Callable[[Rig], None]:
    """Return what makes descriptors (address, length, flags, next) available as a buffer from number 0 on."""

    def act(rig: Rig) -> None:
        for index, (address, length, flags, following) in enumerate(descriptors):
            rig.queues[role].write_desc(index, address, length, flags, following)
        rig.queues[role].expose(0)
        rig.kick(role)

    return act


def nested(rig: Rig) -> None:
    entry = TABLE.to_bytes(8, "little") + (16).to_bytes(4, "little") + DESC_INDIRECT.to_bytes(2, "little") + b"\0\0"
    rig.poke(TABLE, entry)
    lay((TABLE, 16, DESC_INDIRECT, 0))(rig)


def astray(rig: Rig) -> None:
    """Lead from an indirect table of two entries to its third."""
    entry = BUFFERS.to_bytes(8, "little") + (4).to_bytes(4, "little") + DESC_NEXT.to_bytes(2, "little") + b"\2\0"
    rig.poke(TABLE, entry * 2)
    lay((BUFFERS, 4, DESC_NEXT, 1), (TABLE, 32, DESC_INDIRECT, 0))(rig)


def overrun(rig: Rig) -> None:
    rig.queues["inflate"].set_avail_idx(129)
    rig.kick("inflate")


def huge_head(rig: Rig) -> None:
    rig.queues["inflate"].expose(128)
    rig.kick("inflate")


def twice(rig: Rig) -> None:
    rig.report([(4, 1)])
    rig.report([(4, 2)])


def storm(rig: Rig) -> None:
    def again(index: int) -> None:
        rig.queues["inflate"].take()
        rig.queues["inflate"].add_out(BUFFERS, 4)
        rig.kick("inflate")

    rig.guest.on_interrupt = again
    rig.send("inflate", b"\5\0\0\0")


REFUSALS: list[tuple[str, Callable[[Rig], object]]] = [
    ("status-order: status 0x1 after 0xf", lambda rig: rig.device.write_status(STATUS_ACKNOWLEDGE)),
    ("status-order: status 0x2f after 0xf", lambda rig: rig.device.write_status(0x2F)),
    ("features-late: 0x100000000 after 0x110000002", lambda rig: rig.device.accept_features(VERSION_1)),
    ("notify-dead: queue 3 of 3", lambda rig: rig.device.notify(3)),
    ("notify-dead: queue -1 of 3", lambda rig: rig.device.setup_queue(-1, 128, RINGS, RINGS, RINGS)),
    ("queue-live: queue 1 was configured while live", lambda rig: rig.device.setup_queue(1, 128, 0, 0, 0)),
    ("config-write: 3 bytes at 4", lambda rig: rig.device.write_config(4, b"abc")),
    ("config-write: 4 bytes at 0", lambda rig: rig.device.write_config(0, bytes(4))),
    (
        f"config-write: 3 bytes at {CONFIG_POISON_VAL}",
        lambda rig: rig.device.write_config(CONFIG_POISON_VAL, b"\1" * 3),
    ),
    ("bad-actual: 4097 of 4096 pages", lambda rig: rig.write_actual(4097)),
    ("direction: a page list must be readable only", lay((BUFFERS, 4, DESC_WRITE, 0))),
    ("huge-buffer: a page list of 16388 bytes", lambda rig: rig.send("deflate", bytes(16388))),
    ("ragged-pfns: a page list of 7 bytes", lambda rig: rig.send("deflate", b"\5\0\0\0abc")),
    ("bad-pfn: pages up to 0x1001 of 0x1000", lambda rig: rig.send("inflate", [0x1001, 5, 0x1000])),
    ("double-inflate: 2 pages of a list", lambda rig: (rig.send("inflate", [5, 6]), rig.send("inflate", [5, 6, 7]))),
    ("double-deflate: 3 pages of a list", lambda rig: rig.send("deflate", [5, 6, 9])),
    ("avail-overrun: queue 0: 129 available, 128 entries", overrun),
    ("bad-head: queue 0: head 128 of 128", huge_head),
    ("bad-head: queue 0: next 128 of 128", lay((BUFFERS, 4, DESC_NEXT, 128))),
    ("bad-head: queue 0: next 2 of 2", astray),
    ("zero-length: queue 0: descriptor 0", lay((BUFFERS, 0, 0, 0))),
    ("zero-length: queue 0: descriptor 1", lay((BUFFERS, 4, DESC_NEXT, 1), (BUFFERS, 0, 0, 0))),
    ("bad-indirect: queue 0: table of 17 bytes at 0x110000", lay((TABLE, 17, DESC_INDIRECT, 0))),
    ("bad-indirect: queue 0: table of 0 bytes at 0x110000", lay((TABLE, 0, DESC_INDIRECT, 0))),
    ("bad-indirect: queue 0: table of 2064 bytes at 0x110000", lay((TABLE, 129 * 16, DESC_INDIRECT, 0))),
    ("bad-indirect: queue 0: descriptor 0 flags 0x5", lay((TABLE, 16, DESC_INDIRECT | DESC_NEXT, 0))),
    ("bad-indirect: queue 0: descriptor 0 flags 0x4", nested),
    (
        "direction: queue 0: descriptor 1 is readable after a writable",
        lay((BUFFERS, 4, DESC_WRITE | DESC_NEXT, 1), (BUFFERS, 4, 0, 0)),
    ),
    ("chain-loop: queue 0: more than 128 descriptors from 0", lay((BUFFERS, 4, DESC_NEXT, 0))),
    ("bad-address: 8 bytes at 0xfffffc", lay((RAM_END - 4, 8, 0, 0))),
    ("direction: a statistics buffer must be readable only", lay((BUFFERS, 10, DESC_WRITE, 0), role="stats")),
    ("unsolicited-stats: queue 2", twice),
    ("huge-buffer: a statistics buffer of 2570 bytes", lambda rig: rig.report(bytes(2570))),
    ("partial-record: 3 bytes behind 1 records", lambda rig: rig.report(bytes(13))),
    ("duplicate-tag: 2 of 3 records", lambda rig: rig.report([(4, 1), (4, 2), (4, 3)])),
    (f"unknown-tag: {STAT_COUNT}, 900", lambda rig: rig.report([(4, 1), (STAT_COUNT, 1), (5, 1), (900, 1)])),
    ("kick-storm: more than 1024 rounds", storm),
]


@pytest.mark.parametrize(("words", "act"), REFUSALS, ids=[words.replace(" ", "-") for words, _ in REFUSALS])
def test_a_refusal_says_what_was_seen(words: str, act: Callable[[Rig], object]) -> None:
    with Rig() as rig:
        rig.up(FEATURES | bit(F_INDIRECT_DESC), prime=None)
        act(rig)
        rig.machine.deliver()
        rule, _, detail = words.partition(": ")
        told = rig.named("GUEST_FAULT")
        assert {"rule": rule, "detail": detail} in told
        assert rig.device.last_refusal == f"{told[-1]['rule']}: {told[-1]['detail']}"


BEFORE: list[tuple[str, Callable[[Rig], object]]] = [
    ("status-order: status 0x4 after 0x3", lambda rig: rig.device.write_status(STATUS_DRIVER_OK)),
    ("status-order: status 0x7 after 0x3", lambda rig: rig.device.write_status(3 | STATUS_DRIVER_OK)),
    ("status-order: DRIVER_OK without FEATURES_OK", lambda rig: rig.device.write_status(READY | STATUS_DRIVER_OK)),
    ("features-unknown: 0x8000000000000000", lambda rig: rig.device.accept_features(VERSION_1 | bit(63))),
    ("bad-ring: queue 0 of 0 entries", lambda rig: rig.device.setup_queue(0, 0, 0, 0, 0)),
    ("bad-ring: queue 0 of 2048 entries", lambda rig: rig.device.setup_queue(0, 2 * MAX_QUEUE_SIZE, 0, 0, 0)),
    ("bad-ring: queue 1 of 96 entries", lambda rig: rig.device.setup_queue(1, 96, 0, 0, 0)),
    ("bad-ring: queue 0: 0x1008 0x2000 0x3000", lambda rig: rig.device.setup_queue(0, 8, 0x1008, 0x2000, 0x3000)),
    ("bad-ring: queue 0: 0x1000 0x2001 0x3000", lambda rig: rig.device.setup_queue(0, 8, 0x1000, 0x2001, 0x3000)),
    ("bad-ring: queue 0: 0x1000 0x2000 0x3002", lambda rig: rig.device.setup_queue(0, 8, 0x1000, 0x2000, 0x3002)),
    ("bad-ring: queue 0: 128 bytes at 0x1000000", lambda rig: rig.device.setup_queue(0, 8, RAM_END, 0, 0)),
    ("bad-ring: queue 0: 22 bytes at 0xfffff0", lambda rig: rig.device.setup_queue(0, 8, 0, RAM_END - 16, 0)),
    ("bad-ring: queue 0: 70 bytes at 0xffffc0", lambda rig: rig.device.setup_queue(0, 8, 0, 0, RAM_END - 64)),
]


@pytest.mark.parametrize(("words", "act"), BEFORE, ids=[words.replace(" ", "-") for words, _ in BEFORE])
def test_a_refusal_before_the_driver_is_up_says_what_was_seen(words: str, act: Callable[[Rig], object]) -> None:
    with Rig() as rig:
        rig.device.write_status(STATUS_ACKNOWLEDGE | STATUS_DRIVER)
        act(rig)
        assert rig.device.last_refusal == words


def test_a_queue_that_was_not_negotiated_is_named() -> None:
    with Rig() as rig:
        rig.negotiate(VERSION_1)
        rig.set_up()
        rig.device.setup_queue(2, 128, 0x8000, 0x9000, 0xA000)
        rig.go()
        assert rig.device.last_refusal == "notify-dead: queue 2 was not negotiated"


def test_buffers_that_are_all_out_are_counted() -> None:
    pair = Pair()
    for head in range(8):
        pair.desc(head)
        pair.driver.expose(head)
        pair.pop()
    pair.driver.expose(0)
    with pytest.raises(GuestFault, match=r"^avail-overrun: queue 0: 8 buffers are out already$"):
        pair.queue.pop()


def test_a_queue_that_is_not_set_up_has_nothing_to_show() -> None:
    with Rig() as rig, pytest.raises(GuestFault, match=r"^notify-dead: queue 1 is not set up$"):
        rig.device.queues[1].peek(0)


def test_a_long_row_of_unknown_tags_is_cut_short() -> None:
    with Rig() as rig:
        rig.up(prime=None)
        rig.report([(1000 + n, 1) for n in range(30)])
        assert rig.device.last_refusal == "unknown-tag: " + ", ".join(str(1000 + n) for n in range(30))[:80]


def test_a_rule_broken_many_times_over_is_reported_once() -> None:
    with Rig() as rig:
        rig.up(prime=None)
        rig.send("inflate", [5000, 6000, 7, 8])
        rig.send("inflate", [7, 7, 8, 8])
        assert rig.refused == {"bad-pfn": 2, "double-inflate": 4}
        assert [fault["rule"] for fault in rig.named("GUEST_FAULT")] == ["bad-pfn", "double-inflate"]
