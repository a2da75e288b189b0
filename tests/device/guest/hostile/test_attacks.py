"""Each attack of the hostile guest, for each random choice: which rule it breaks, and with which numbers."""

from __future__ import annotations

import pytest

from device.balloon.spec import STAT_COUNT
from device.balloon.stats import decode
from device.guest.hostile.attacks import ATTACKS, STORM
from device.guest.hostile.driver import ANSWERS, SCRATCH, SPARE_PAGE, HostileDriver
from device.virtio.device import MAX_ROUNDS
from device.virtio.spec import MIB
from tests.support.rig import Modelled

RAM = 4 * MIB
BROKEN = 79
"""The status of a driver that is up and whose device is broken."""


class Table:
    """A hostile guest that does nothing by itself, and whose random numbers the test chooses."""

    def __init__(self, m: Modelled, *dice: int) -> None:
        self.m = m
        self.dice = list(dice)
        self.sides: list[int] = []
        m.guest._attacking = True  # an attack must not cause another one
        driver = m.guest.driver
        assert isinstance(driver, HostileDriver)
        self.driver = driver
        driver.roll = self.roll
        m.events.clear()

    def roll(self, sides: int) -> int:
        self.sides.append(sides)
        value = self.dice.pop(0) if self.dice else 0
        assert value < sides
        return value

    def play(self, name: str) -> bool:
        anew = bool(ATTACKS[name][0](self.driver))
        self.m.machine.deliver()
        return anew

    @property
    def told(self) -> list[str]:
        return [f"{fault['rule']}: {fault['detail']}" for fault in self.m.named("GUEST_FAULT")]


ONE: list[tuple[str, list[int], list[int], str]] = [
    ("bad-address", [0, 0], [1 << 20, 5], "8 bytes at 0x400000"),
    ("bad-address", [0, 1], [1 << 20, 5], "8 bytes at 0x3ffffc"),
    ("bad-address", [0, 2], [1 << 20, 5], "8 bytes at 0xfffffffffffffffc"),
    ("bad-address", [0, 3], [1 << 20, 5], "8 bytes at 0x8000000000000000"),
    ("bad-address", [5, 4], [1 << 20, 5], "8 bytes at 0x405000"),
    ("bad-ring", [0], [11], "queue 0 of 0 entries"),
    ("bad-ring", [1], [11], "queue 0 of 96 entries"),
    ("bad-ring", [2], [11], "queue 0 of 2048 entries"),
    ("bad-ring", [3], [11], "queue 0 of 65535 entries"),
    ("bad-ring", [4], [11], "queue 0: 0x100008 0x100000 0x100000"),
    ("bad-ring", [5], [11], "queue 0: 0x100000 0x100001 0x100000"),
    ("bad-ring", [6], [11], "queue 0: 0x100000 0x100000 0x100002"),
    ("bad-ring", [7], [11], "queue 0: 2048 bytes at 0x400000"),
    ("bad-ring", [8], [11], "queue 0: 2048 bytes at 0xfffffffffffffff0"),
    ("bad-ring", [9], [11], "queue 0: 262 bytes at 0x3ffffe"),
    ("bad-ring", [10], [11], "queue 0: 1030 bytes at 0x3ffffc"),
    ("queue-live", [0], [3], "queue 0 was configured while live"),
    ("queue-live", [1], [3], "queue 2 was configured while live"),
    ("avail-overrun", [0, 0], [3, 0x7000], "queue 0: 129 available, 128 entries"),
    ("avail-overrun", [1, 7], [3, 0x7000], "queue 1: 136 available, 128 entries"),
    ("avail-overrun", [2, 7], [3, 0x7000], "queue 2: 136 available, 128 entries"),
    ("bad-head", [0, 0], [2, 1000], "queue 0: next 128 of 128"),
    ("bad-head", [0, 5], [2, 1000], "queue 0: next 133 of 128"),
    ("bad-head", [1, 0], [2, 65407], "queue 0: head 128 of 128"),
    ("bad-head", [1, 65406], [2, 65407], "queue 0: head 65534 of 128"),
    ("chain-loop", [0], [3], "queue 0: more than 128 descriptors from 0"),
    ("chain-loop", [1], [3], "queue 0: more than 128 descriptors from 0"),
    ("chain-loop", [2], [3], "queue 0: more than 2 descriptors from 0"),
    ("bad-indirect", [0], [5], "queue 0: table of 0 bytes at 0x110000"),
    ("bad-indirect", [1], [5], "queue 0: table of 17 bytes at 0x110000"),
    ("bad-indirect", [2], [5], "queue 0: table of 1048576 bytes at 0x110000"),
    ("bad-indirect", [3], [5], "queue 0: descriptor 0 flags 0x5"),
    ("bad-indirect", [4], [5], "queue 0: descriptor 0 flags 0x4"),
    ("direction", [0], [3], "a page list must be readable only"),
    ("direction", [1], [3], "queue 0: descriptor 1 is readable after a writable"),
    ("direction", [2], [3], "a statistics buffer must be readable only"),
    ("zero-length", [0], [2], "queue 0: descriptor 1"),
    ("zero-length", [1], [2], "queue 0: descriptor 0"),
    ("bad-pfn", [0], [1 << 16], "pages up to 0xffffffff of 0x400"),
    ("double-inflate", [], [], "2 pages of a list"),
    ("double-deflate", [], [], "1 pages of a list"),
    ("ragged-pfns", [0], [3], "a page list of 1 bytes"),
    ("ragged-pfns", [2], [3], "a page list of 3 bytes"),
    ("features-late", [1], [40], "0x110000000 after 0x110000002"),
    ("features-late", [39], [40], "0x8110000002 after 0x110000002"),
    ("features-unknown", [0], [24], "0x10000000000"),
    ("features-unknown", [23], [24], "0x8000000000000000"),
    ("status-order", [0], [3], "status 0x1 after 0xf"),
    ("status-order", [1], [3], "status 0x2f after 0xf"),
    ("status-order", [2], [3], "status 0xd after 0xf"),
    ("config-write", [0], [4], "4 bytes at 0"),
    ("config-write", [1], [4], "1 bytes at 4"),
    ("config-write", [2], [4], "4 bytes at 2"),
    ("config-write", [3], [4], "64 bytes at 1099511627776"),
    ("bad-actual", [0], [1 << 10], "4294967295 of 1024 pages"),
    ("bad-actual", [1023], [1 << 10], "4294966272 of 1024 pages"),
    ("notify-dead", [0, 0, 0], [65535, 10, 2], "queue 5 of 3"),
    ("notify-dead", [7, 0, 0], [65535, 10, 2], "queue 12 of 3"),
    ("notify-dead", [0, 0, 1], [65535, 10, 2], "queue -1 of 3"),
    ("notify-dead", [0, 9, 1], [65535, 10, 2], "queue -10 of 3"),
    ("kick-storm", [0], [32], "more than 1024 rounds"),
]
FATAL = {"bad-address", "queue-live", "avail-overrun", "bad-head", "chain-loop", "bad-indirect", "direction"}


@pytest.mark.parametrize(("name", "dice", "sides", "detail"), ONE, ids=[f"{name}-{dice}" for name, dice, *_ in ONE])
def test_one_attack_breaks_one_rule_once(name: str, dice: list[int], sides: list[int], detail: str) -> None:
    with Modelled("hostile", ram=RAM) as m:
        table = Table(m, *dice)
        anew = table.play(name)
        assert (table.told, table.sides) == ([f"{name}: {detail}"], sides)
        assert anew == (name == "features-unknown")
        if name in FATAL or name in ("zero-length", "features-late"):
            assert m.device.status == BROKEN
        elif name == "bad-ring":
            assert m.device.status == 64, "after a reset there was nothing but the ring"
        elif name == "features-unknown":
            assert m.device.status == 3, "nothing but ACKNOWLEDGE and DRIVER came after the reset"
        else:
            assert m.device.status == 15
            assert m.device.actual == RAM
            assert SPARE_PAGE not in m.device.pages or name == "kick-storm"


def test_page_numbers_out_of_range_are_the_four_that_matter() -> None:
    with Modelled("hostile", ram=RAM) as m:
        table = Table(m, 5)
        table.play("bad-pfn")
        assert m.device.refused == {"bad-pfn": 4}
        sent = m.machine.memory.read(SCRATCH, 16)
        assert [int.from_bytes(sent[at : at + 4], "little") for at in range(0, 16, 4)] == [
            1024,
            1029,
            0x8000_0000,
            0xFFFF_FFFF,
        ]


@pytest.mark.parametrize(("dice", "rounds"), [(0, 1025), (3, 1031), (31, 1087)])
def test_a_kick_storm_is_longer_than_the_device_puts_up_with_and_ends(dice: int, rounds: int) -> None:
    with Modelled("hostile", ram=RAM) as m:
        table = Table(m, dice)
        table.play("kick-storm")
        assert table.driver.storm == rounds - MAX_ROUNDS
        m.advance(0.01)
        assert table.driver.storm == 0
        assert SPARE_PAGE not in m.device.pages, "it ends with the page taken back"
        assert m.device.refused == {"kick-storm": 1}


def test_an_interrupt_storm_is_a_row_of_lists_each_with_its_interrupt() -> None:
    with Modelled("hostile", ram=RAM) as m:
        table = Table(m)
        before = [queue.used_idx for queue in m.device.queues]
        table.play("interrupt-storm")
        assert [queue.used_idx - was for queue, was in zip(m.device.queues, before, strict=True)] == [
            STORM // 2,
            STORM // 2,
            0,
        ]
        assert (table.told, SPARE_PAGE in m.device.pages) == ([], False)


@pytest.mark.parametrize("ambush", [0, 1])
def test_a_reset_midway_leaves_a_buffer_in_flight(ambush: int) -> None:
    with Modelled("hostile", ram=RAM) as m:
        table = Table(m, ambush)
        free = len(table.driver.ring("deflate").free)
        assert table.play("reset-midway")
        assert (m.device.status, table.told, table.sides) == (0, [], [2])
        assert (table.driver.ambush, m.device.pages.count) == (False, 0)
        assert len(table.driver.ring("deflate").free) == free - 1


@pytest.mark.parametrize(("dice", "buffers"), [(0, 2), (1, 3), (2, 4)])
def test_statistics_that_nobody_asked_for(dice: int, buffers: int) -> None:
    with Modelled("hostile", ram=RAM) as m:
        table = Table(m, dice, *[5, 1234] * buffers)
        table.play("unsolicited-stats")
        assert table.told == ["unsolicited-stats: queue 2"]
        assert m.named("GUEST_FAULT")[0]["times"] == m.device.refused["unsolicited-stats"] == buffers
        assert table.sides == [3] + [STAT_COUNT, 1 << 30] * buffers
        assert m.machine.memory.read(SCRATCH, 10) == b"\5\0" + (1234).to_bytes(8, "little")


@pytest.mark.parametrize(
    ("rule", "dice", "sides", "tail", "words"),
    [
        ("partial-record", 0, 9, bytes(1), "1 bytes behind 10 records"),
        ("partial-record", 8, 9, bytes(9), "9 bytes behind 10 records"),
        ("duplicate-tag", 0, 4, None, "1 of 11 records"),
        ("duplicate-tag", 3, 4, None, "4 of 14 records"),
        ("unknown-tag", 0, 1000, STAT_COUNT.to_bytes(2, "little") + bytes(8), str(STAT_COUNT)),
        ("unknown-tag", 999, 1000, (STAT_COUNT + 999).to_bytes(2, "little") + bytes(8), str(STAT_COUNT + 999)),
        ("huge-buffer", 0, 1 << 16, bytes(640), "a statistics buffer of 740 bytes"),
        ("huge-buffer", 5, 1 << 16, bytes(645), "a statistics buffer of 745 bytes"),
    ],
    ids=range(8),
)
def test_an_odd_answer_is_the_honest_one_with_something_appended(
    rule: str, dice: int, sides: int, tail: bytes | None, words: str
) -> None:
    with Modelled("hostile", ram=RAM) as m:
        table = Table(m, dice)
        table.play(rule)
        assert (table.driver.spoil, table.told, table.sides) == (rule, [], [])
        m.guest._attacking = False
        honest = m.stats.held.read(1000)
        assert decode(honest)[0] == 10
        assert ANSWERS[rule](honest, lambda count: dice) == honest + (
            honest[: 10 * (1 + dice)] if tail is None else tail
        )
        m.guest.asked_for = 0
        assert m.info() == "answered"
        assert f"{rule}: {words}" in table.told
        assert (table.driver.spoil, table.sides) == ("", [sides])


def test_every_attack_is_explained() -> None:
    assert all(len(help) > 20 for _, help in ATTACKS.values())
    assert ATTACKS["interrupt-storm"][1] == "256 page lists in a row, each with its interrupt"
