"""Status, feature negotiation, queues and notifications of a virtio device, and the reset of a broken one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from device.balloon.device import BalloonDevice
from device.balloon.spec import CONFIG_ACTUAL, F_STATS_VQ
from device.clock import SimulatedClock, Timeline
from device.errors import FATAL_RULES, RULES, MisuseError
from device.virtio.device import DUE_ASKED, DUE_CONFIG, DUE_QUEUE, DUE_SERVE, VirtioDevice
from device.virtio.driver_queue import DriverQueue
from device.virtio.memory import GuestMemory
from device.virtio.spec import (
    DESC_INDIRECT,
    DESC_NEXT,
    DESC_WRITE,
    F_EVENT_IDX,
    F_INDIRECT_DESC,
    MIB,
    QUEUE_SIZE,
    STATUS_ACKNOWLEDGE,
    STATUS_DRIVER,
    STATUS_DRIVER_OK,
    STATUS_FAILED,
    STATUS_FEATURES_OK,
    STATUS_NEEDS_RESET,
    bit,
)
from tests.support.rig import BUFFERS, FEATURES, READY, RINGS, VERSION_1, Rig

ACK_DRIVER = STATUS_ACKNOWLEDGE | STATUS_DRIVER
ALL = READY | STATUS_DRIVER_OK


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as rig:
        yield rig


class TestStatus:
    """virtio 1.2, 2.1 and 3.1.1: bits are set in order, one by one or several at once, and cleared by reset only."""

    @pytest.mark.parametrize(
        "writes",
        [
            [STATUS_ACKNOWLEDGE, ACK_DRIVER],
            [ACK_DRIVER],
            [STATUS_FAILED],
            [STATUS_ACKNOWLEDGE, STATUS_ACKNOWLEDGE | STATUS_FAILED],
            [ACK_DRIVER, ACK_DRIVER, ACK_DRIVER],
        ],
    )
    def test_bits_in_order_are_taken(self, rig: Rig, writes: list[int]) -> None:
        for value in writes:
            rig.device.write_status(value)
        assert (rig.device.status, rig.refused) == (writes[-1], {})

    @pytest.mark.parametrize(
        ("before", "value"),
        [
            (0, STATUS_DRIVER),
            (0, STATUS_DRIVER_OK),
            (0, STATUS_FEATURES_OK),
            (STATUS_ACKNOWLEDGE, STATUS_ACKNOWLEDGE | STATUS_FEATURES_OK),
            (ACK_DRIVER, ACK_DRIVER | STATUS_DRIVER_OK),
            (ACK_DRIVER, STATUS_ACKNOWLEDGE),
            (ACK_DRIVER, STATUS_DRIVER),
            (ACK_DRIVER, ACK_DRIVER | STATUS_NEEDS_RESET),
            (ACK_DRIVER, ACK_DRIVER | 16),
            (ACK_DRIVER, ACK_DRIVER | 1 << 40),
            (ACK_DRIVER, -1),
            (0, 256),
        ],
    )
    def test_bits_out_of_order_are_refused_and_change_nothing(self, rig: Rig, before: int, value: int) -> None:
        rig.device.write_status(before)
        rig.device.write_status(value)
        assert (rig.device.status, rig.refused) == (before, {"status-order": 1})
        assert not rig.device.broken

    def test_features_ok_stays_clear_without_version_1(self, rig: Rig) -> None:
        """The driver reads it back and gives up (3.1.1, step 6)."""
        rig.negotiate(bit(F_STATS_VQ))
        assert rig.device.status == ACK_DRIVER
        rig.device.write_status(ALL)
        assert (rig.device.status, rig.device.live, rig.refused) == (ACK_DRIVER, False, {"status-order": 1})

    def test_a_driver_that_failed_is_not_served_and_starts_over_with_a_reset(self, rig: Rig) -> None:
        """2.1.1: after FAILED the driver resets the device before it tries again."""
        rig.up()
        rig.device.write_status(ALL | STATUS_FAILED)
        assert not rig.device.live
        rig.report([(4, 1)])
        assert rig.device.stats.sample is None
        rig.negotiate()
        rig.set_up()
        rig.device.write_status(READY | STATUS_FAILED)
        rig.device.write_status(ALL | STATUS_FAILED)
        assert not rig.device.live
        rig.up()
        assert rig.send("inflate", [5]) is not None

    def test_nothing_is_looked_at_before_driver_ok_and_everything_then(self, rig: Rig) -> None:
        """2.1.2: buffers made available before DRIVER_OK wait for it."""
        rig.negotiate()
        rig.set_up()
        rig.prime(b"\4\0" + bytes(8))
        assert rig.send("inflate", [7]) is None
        assert 7 not in rig.device.pages
        rig.go()
        assert 7 in rig.device.pages
        assert rig.device.stats.sample is not None


class TestFeatures:
    def test_what_was_offered_may_be_accepted(self, rig: Rig) -> None:
        rig.negotiate(rig.device.offered)
        assert (rig.device.status, rig.device.features) == (READY, rig.device.offered)

    @pytest.mark.parametrize("feature", [0, 2, 3, 5, 6, 27, 30, 33, 63, 64, 200])
    def test_what_was_not_offered_is_refused_whole(self, rig: Rig, feature: int) -> None:
        rig.device.accept_features(VERSION_1)
        rig.device.accept_features(FEATURES | bit(feature))
        assert (rig.device.features, rig.refused) == (VERSION_1, {"features-unknown": 1})
        assert not rig.device.broken

    def test_negative_features_are_refused(self, rig: Rig) -> None:
        rig.device.accept_features(-1)
        assert (rig.device.features, rig.refused) == (0, {"features-unknown": 1})

    def test_after_features_ok_the_same_is_fine_and_another_breaks_the_device(self, rig: Rig) -> None:
        rig.up()
        rig.device.accept_features(FEATURES)
        assert not rig.device.broken
        rig.device.accept_features(VERSION_1)
        assert (rig.device.features, rig.device.broken, rig.refused) == (FEATURES, True, {"features-late": 1})


class TestQueues:
    @pytest.mark.parametrize("index", [-1, 3, 1000, 1 << 70])
    def test_one_that_does_not_exist_is_refused(self, rig: Rig, index: int) -> None:
        rig.up()
        rig.device.setup_queue(index, 128, RINGS, RINGS, RINGS)
        rig.device.notify(index)
        assert (rig.refused, rig.device.live) == ({"notify-dead": 2}, True)

    def test_one_that_was_not_set_up_is_refused(self, rig: Rig) -> None:
        rig.negotiate()
        rig.go()
        assert rig.refused == {}
        rig.device.notify(0)
        assert (rig.refused, rig.device.live) == ({"notify-dead": 1}, True)

    def test_one_that_was_not_negotiated_is_refused(self, rig: Rig) -> None:
        rig.negotiate(VERSION_1)
        rig.set_up()
        rig.device.setup_queue(2, 128, 0x8000, 0x9000, 0xA000)
        rig.go()
        assert (rig.refused, rig.device.live) == ({"notify-dead": 1}, True)
        rig.send("inflate", [5])
        assert 5 in rig.device.pages

    @pytest.mark.parametrize("driver_ok", [False, True])
    def test_moving_a_live_one_breaks_the_device(self, rig: Rig, driver_ok: bool) -> None:
        rig.negotiate()
        rig.set_up()
        if driver_ok:
            rig.go()
        rig.device.setup_queue(0, 128, 0x8000, 0x9000, 0xA000)
        assert (rig.device.broken, rig.refused) == (True, {"queue-live": 1})
        rig.go()
        assert not rig.device.live

    def test_a_bad_ring_breaks_the_device(self, rig: Rig) -> None:
        rig.negotiate()
        rig.device.setup_queue(0, 100, RINGS, RINGS, RINGS)
        assert (rig.device.broken, rig.refused) == (True, {"bad-ring": 1})
        rig.up()

    @pytest.mark.parametrize("size", [1, 2, 16, 256, 1024])
    def test_a_transport_may_set_up_another_size(self, rig: Rig, size: int) -> None:
        """UML asks for 256 entries."""
        rig.up(size=size)
        for pfn in range(1000, 1040):
            assert rig.send("inflate", [pfn]) is not None
        assert rig.device.pages.count == 40

    def test_the_features_say_how_rings_are_read(self, rig: Rig) -> None:
        rig.up(FEATURES | bit(F_EVENT_IDX) | bit(F_INDIRECT_DESC))
        assert all(queue.event_idx and queue.indirect for queue in rig.device.queues)
        rig.up()
        assert not any(queue.event_idx or queue.indirect for queue in rig.device.queues)


def spoil(
    index: int, address: int = BUFFERS, length: int = 4, flags: int = 0, following: int = 0
) -> Callable[[Rig], None]:
    def act(rig: Rig) -> None:
        rig.queues["inflate"].write_desc(index, address, length, flags, following)
        rig.queues["inflate"].expose(index)
        rig.kick("inflate")

    return act


def overrun(rig: Rig) -> None:
    rig.queues["inflate"].set_avail_idx(129)
    rig.kick("inflate")


def expose(rig: Rig) -> None:
    rig.queues["inflate"].expose(128)
    rig.kick("inflate")


HOSTILE: list[tuple[str, Callable[[Rig], None]]] = [
    ("bad-address", spoil(0, address=16 * MIB)),
    ("bad-address", spoil(0, address=2**64 - 2)),
    ("bad-address", spoil(0, length=2**32 - 1)),
    ("avail-overrun", overrun),
    ("bad-head", expose),
    ("bad-head", spoil(0, flags=DESC_NEXT, following=128)),
    ("chain-loop", spoil(0, flags=DESC_NEXT, following=0)),
    ("bad-indirect", spoil(0, length=16, flags=DESC_INDIRECT)),
    ("direction", spoil(0, flags=DESC_WRITE)),
    ("zero-length", spoil(0, length=0)),
    ("features-late", lambda rig: rig.device.accept_features(0)),
    ("queue-live", lambda rig: rig.device.setup_queue(1, 128, RINGS, RINGS, RINGS)),
]


@pytest.mark.parametrize(("rule", "act"), HOSTILE)
@pytest.mark.parametrize("heal", ["driver", "system_reset"])
def test_a_broken_rule_breaks_the_device_until_a_reset_heals_it(
    rig: Rig, rule: str, act: Callable[[Rig], None], heal: str
) -> None:
    """device.md, Hostile guests: counted, NEEDS_RESET, and an interrupt; after a reset all is as new."""
    rig.up(prime=[(4, 1)])
    act(rig)
    rig.machine.deliver()
    assert rig.device.broken
    assert rig.refused == {rule: 1}
    assert rig.device.last_refusal.startswith(rule)
    assert rig.named("GUEST_FAULT")[-1]["rule"] == rule
    assert rig.guest.config_changes == 1, "2.1.2: the driver is told that the device needs a reset"
    rig.guest.interrupts.clear()
    used = [queue.used_idx for queue in rig.device.queues]
    for role in rig.queues:
        rig.kick(role)
    request = rig.ask()
    assert request.state == "pending"
    assert [queue.used_idx for queue in rig.device.queues] == used, "a broken device touches no ring"
    assert rig.guest.interrupts == []
    rig.advance(5)
    assert request.state == "timed out"
    if heal == "system_reset":
        rig.machine.reset()
    assert rig.refused == {rule: 1}, "a reset does not forget what was refused"
    rig.up()
    assert not rig.device.broken
    assert rig.send("inflate", [9]) is not None
    rig.answer_with([(4, 77)])
    assert rig.ask().state == "answered"


def test_every_fatal_rule_is_a_rule() -> None:
    assert set(RULES) > FATAL_RULES
    assert all(RULES.values())


class TestInterrupts:
    def test_one_for_a_batch(self, rig: Rig) -> None:
        rig.up()
        for _ in range(5):
            rig.poke(BUFFERS, bytes(4))
            rig.queues["deflate"].add_out(BUFFERS, 4)
        rig.kick("deflate")
        assert rig.guest.interrupts == [1]
        assert rig.device.isr == 1

    def test_suppressed_by_the_drivers_flag(self, rig: Rig) -> None:
        rig.up()
        rig.poke16(rig.queues["inflate"].avail, 1)
        assert rig.send("inflate", [1003]) is not None
        assert rig.guest.interrupts == []

    def test_suppressed_by_the_event_index(self, rig: Rig) -> None:
        rig.up(FEATURES | bit(F_EVENT_IDX))
        ring = rig.queues["inflate"]
        rig.send("inflate", [1001])
        ring.event_idx = False
        rig.poke16(ring.avail + 4 + 2 * ring.size, 3)
        rig.guest.interrupts.clear()
        told = []
        for pfn in range(1002, 1006):
            rig.send("inflate", [pfn])
            told.append(len(rig.guest.interrupts))
        assert told == [0, 0, 1, 1]

    def test_configuration_changes_interrupt_a_driver_that_is_up(self, rig: Rig) -> None:
        rig.machine.set_balloon(8 * MIB)
        assert rig.guest.config_changes == 0
        rig.up()
        rig.machine.set_balloon(4 * MIB)
        assert (rig.guest.config_changes, rig.device.isr & 2) == (1, 2)

    def test_a_device_calls_nobody_and_notes_what_is_due(self, rig: Rig) -> None:
        rig.up()
        rig.device.interrupt(1)
        rig.device.config_interrupt()
        assert (rig.guest.interrupts, rig.guest.config_changes) == ([], 0)
        assert rig.device.due == DUE_QUEUE << 1 | DUE_CONFIG
        rig.machine.deliver()
        assert (rig.guest.interrupts, rig.guest.config_changes, rig.device.due) == ([1], 1, 0)


def test_a_device_type_has_to_say_how_it_serves() -> None:
    memory = GuestMemory(4 * MIB)
    device = VirtioDevice(Timeline(SimulatedClock()), memory, VERSION_1, 1)
    with pytest.raises(NotImplementedError):
        device.serve(0)
    device.driver_gone()
    memory.close()


class TestWhatATransportNeeds:
    """Registers that QEMU's own transports have, and that a machine's guests do not look at."""

    def test_the_generation_tells_of_every_change_of_the_configuration(self, rig: Rig) -> None:
        """2.5.1: also before DRIVER_OK, and a reset does not set it back."""
        seen = [rig.device.generation]
        rig.machine.set_balloon(8 * MIB)
        seen.append(rig.device.generation)
        rig.up()
        rig.machine.set_balloon(4 * MIB)
        seen.append(rig.device.generation)
        assert len(set(seen)) == 3
        rig.machine.reset()
        assert rig.device.generation == seen[-1]
        rig.device.generation = 0xFFFF_FFFF
        rig.device.config_interrupt()
        assert rig.device.generation == 0

    def test_reading_the_isr_clears_it(self, rig: Rig) -> None:
        rig.up()
        rig.device.read_isr()
        rig.send("inflate", [7])
        rig.machine.set_balloon(4 * MIB)
        assert (rig.device.read_isr(), rig.device.read_isr()) == (3, 0)

    def test_a_queue_that_is_reset_can_be_set_up_anew(self, rig: Rig) -> None:
        rig.up(size=16)
        rig.send("inflate", [7])
        device = rig.device
        device.reset_queue(0)
        queue = device.queues[0]
        assert (queue.enabled, queue.size, queue.used_idx) == (False, QUEUE_SIZE, 0)
        device.notify(0)
        assert device.refused == {"notify-dead": 1}
        ring = rig.queues["inflate"] = DriverQueue(rig.machine.memory.regions[0], RINGS, 8)
        device.setup_queue(0, 8, ring.desc, ring.avail, ring.used)
        assert rig.send("inflate", [8]) is not None
        assert (queue.size, queue.used_idx, device.pages.count) == (8, 1, 2)
        assert not device.broken

    def test_what_was_due_to_a_queue_goes_with_its_reset(self, rig: Rig) -> None:
        rig.up()
        rig.device.interrupt(0)
        rig.device.interrupt(1)
        rig.device.due |= DUE_SERVE
        rig.device.defer(DUE_SERVE | DUE_SERVE << 1)
        rig.device.reset_queue(0)
        assert (rig.device.due, rig.device.later) == (DUE_QUEUE << 1, DUE_SERVE << 1)

    def test_a_reset_of_the_statistics_queue_drops_its_buffer(self, rig: Rig) -> None:
        rig.up(prime=[(4, 1)])
        assert rig.device.stats.held is not None
        rig.device.reset_queue(rig.index("stats"))
        assert rig.device.stats.held is None
        assert rig.ask().state == "pending"
        assert rig.guest.interrupts == []

    @pytest.mark.parametrize("index", [-1, 3])
    def test_a_queue_that_is_not_there_cannot_be_reset(self, rig: Rig, index: int) -> None:
        rig.up()
        rig.device.reset_queue(index)
        assert rig.device.refused == {"notify-dead": 1}

    def test_each_queue_may_have_a_size_of_its_own(self) -> None:
        with closing(GuestMemory(4 * MIB)) as memory:
            device = BalloonDevice(Timeline(SimulatedClock()), memory, 4 * MIB, sizes=[16, 32])
            assert [queue.size for queue in device.queues] == [16, 32, QUEUE_SIZE]
            device.setup_queue(0, 32, RINGS, RINGS + 512, RINGS + 1024)
            assert device.last_refusal == "bad-ring: queue 0 of 32 entries"
            device.setup_queue(1, 32, RINGS, RINGS + 512, RINGS + 1024)
            assert device.queues[1].enabled
            device.reset()
            assert [queue.size for queue in device.queues] == [16, 32, QUEUE_SIZE]
            device.detach()

    @pytest.mark.parametrize("size", [0, -8, 3, 2048])
    def test_a_size_that_cannot_be_is_the_callers_mistake(self, size: int) -> None:
        with closing(GuestMemory(4 * MIB)) as memory, pytest.raises(MisuseError, match=f"power of two, not {size}$"):
            BalloonDevice(Timeline(SimulatedClock()), memory, 4 * MIB, sizes=[size])

    def test_what_is_due_is_taken_one_by_one(self, rig: Rig) -> None:
        rig.up()
        device = rig.device
        device.interrupt(1)
        device.config_interrupt()
        device.due |= DUE_SERVE << 2 | DUE_ASKED
        device.write_config(CONFIG_ACTUAL, (1).to_bytes(4, "little"))
        device.refuse("config-write", "a test")
        taken = list(iter(device.take_due, None))
        assert taken == [("actual", 0), ("rules", 0), ("config", 0), ("interrupt", 1), ("serve", 2)]
        assert device.due == 0
        device.due = DUE_ASKED
        assert device.take_due() is None
