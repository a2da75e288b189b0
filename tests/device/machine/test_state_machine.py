"""Machine, guests, monitors, snapshots, resets, hot-plug and clock jumps at random; what must hold after every step."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from device.balloon.spec import STATS
from device.balloon.stats import KEEP
from device.clock import MS, SECOND, SimulatedClock
from device.errors import RULES
from device.guest.hostile.driver import HostileDriver
from device.guest.model.guest import ModelledGuest
from device.guest.table import make_guest
from device.machine.machine import Machine
from device.machine.requests import PENDING, StatsRequest
from device.virtio.spec import MIB
from hmp.monitor.dialects import DIALECTS
from hmp.monitor.monitor import Monitor, Reply

RAM = 16 * MIB
TIMEOUT = 5 * SECOND
MONITORS = 3

GUESTS = (
    "linux",
    "linux-6.12",
    "windows",
    "nostats",
    "nodriver",
    "silent",
    "hung",
    "slow",
    "flaky",
    "empty",
    "hostile",
    "hostile,rule=reset-midway",
    "hostile,rule=features-unknown",
    "windows,delay=2,loss=0.1",
    "linux,pace=1M,answers=3",
    "linux,boot=2",
    "windows,boot=1,service=3",
    "linux,shutdown=2,boot=1",
)

TAGS = ("a", "b")

SNAPSHOTS = tuple(
    f"{verb} {tag}" for verb in ("savevm", "savevm", "loadvm", "loadvm", "loadvm", "delvm") for tag in TAGS
)

PLUGS = (
    "device_del balloon0",
    "device_add virtio-balloon-pci,id=balloon0",
    "device_add virtio-balloon-pci,id=balloon0,deflate-on-oom=on",
    "device_add virtio-balloon-pci-transitional,id=balloon0,guest-stats-polling-interval=2,free-page-hint=on,iothread=io",
    "sim driver load",
    "sim driver unload",
)

GUEST_CHANGES = (
    "stop",
    "cont",
    "cont",
    "sim hang",
    "sim wake",
    "sim delay 0",
    "sim delay 2.5",
    "sim drop",
    "sim drop 5",
)
"""What makes a guest answer late or never, and what ends that: a request has to wait before it can be lost."""

RESTARTS = ("system_reset", "system_powerdown", *(f"sim guest {spec}" for spec in GUESTS))

LINES = (
    *(f"balloon {size}" for size in (1, 4, 9, 12, 16, 99)),
    *("device_add virtio-balloon,deflate-on-oom=on", "device_del /machine/peripheral-anon/device[0]"),
    *("sim panic", "system_reset", "sim alloc 3M", "sim alloc 9M", "sim free 5M"),
    *("sim set free_mem 5G", "sim set free_mem none", "sim set 777 1", "sim unset free_mem", "sim unset 777"),
    *(f"qom-set /machine/peripheral/balloon0 guest-stats-polling-interval {n}" for n in (0, 1, 7, 4294967295)),
    *("info virtio-status /machine/peripheral/balloon0/virtio-backend", "sim", "sim stats", "info snapshots"),
)

PAUSES = (0, 1, MS, 5 * MS, 40 * MS, SECOND // 3, SECOND, 2 * SECOND, TIMEOUT - 1, TIMEOUT, 20 * SECOND)

FIRST_SEED = 7


class Asked:
    """One request of one monitor: at most one answer comes, to that monitor, in time."""

    def __init__(self, asker: int, deadline: int | None) -> None:
        self.asker = asker
        self.deadline = deadline
        self.answers = 0
        self.dropped = False


class World(RuleBasedStateMachine):
    """The machine under test and what is expected of it."""

    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.clock = SimulatedClock(warps=False)
        self.machine = Machine(self.clock, ram=RAM, guest=make_guest("linux"), seed=FIRST_SEED)
        self.machine.no_shutdown = True  # a guest that shuts down leaves a machine behind, stopped
        self.machine.start()
        self.monitors = [Monitor(self.machine, DIALECTS["seed"]) for _ in range(MONITORS)]
        for monitor in self.monitors:
            monitor.alone = False
        self.waiting: list[tuple[Reply, Asked] | None] = [None] * MONITORS
        self.raw: list[tuple[StatsRequest, Asked]] = []
        self.size = RAM  # the last `actual` that was seen
        self.told = 0  # when the last statistics came that guest-stats told of
        self.saved: dict[str, tuple[int, int] | None] = {}  # by tag: when the statistics were collected, and `actual`
        self.seen_events: list[str] = []
        self.machine.subscribe(lambda event: self.seen_events.append(event.name))

    def teardown(self) -> None:
        self.machine.close()

    # What is done.

    @initialize(guest=st.sampled_from(GUESTS), size=st.sampled_from((16, 12, 13, 14)))
    def boots(self, guest: str, size: int) -> None:
        self._type(f"sim guest {guest}", 0)
        self._type(f"balloon {size}", 0)  # else few snapshots are of a machine whose balloon holds something
        self.machine.advance(SECOND)

    # What matters most has its own rule, because all rules are equally likely.

    @rule(line=st.sampled_from(SNAPSHOTS), asker=st.integers(0, MONITORS - 1))
    def uses_snapshots(self, line: str, asker: int) -> None:
        machine, (verb, tag) = self.machine, line.split()
        running, before = machine.running, machine.device
        interval = 0 if before is None else before.stats.poll_interval
        self.seen_events.clear()
        reply = self._type(line, asker)
        device = machine.device
        if verb == "delvm" or reply.failed:
            assert self.seen_events == []
            return
        if verb == "savevm":
            assert self.seen_events[:-1] == ["STOP", "RESUME"] * running
            assert device is before
            self.saved[tag] = None if device is None else (machine.clock.now() - device.stats.age, device.actual)
            return
        told = self.seen_events[: self.seen_events.index("RESUME") + 1] if running else self.seen_events
        assert set(told) <= {"STOP", "RESUME", "GUEST_FAULT"}, "no BALLOON_CHANGE"
        assert told[:1] == ["STOP"] * running
        kept = self.saved[tag]
        if "DEVICE_DELETED" in self.seen_events[len(told) :]:  # a device_del was pending, and the guest let go at once
            assert kept is not None
            kept = None
        assert (device is None) == (kept is None)
        if device is None or kept is None:
            return
        collected, self.size = kept
        assert device.actual == self.size or self.seen_events != told
        assert machine.clock.now() - device.stats.age == collected or not device.stats.age, "a new answer at most"
        assert device.stats.poll_interval == (0 if before is None else interval)
        if before is None:
            self.told = 0

    @rule(line=st.sampled_from(PLUGS), asker=st.integers(0, MONITORS - 1))
    def plugs(self, line: str, asker: int) -> None:
        self._type(line, asker)

    @rule(line=st.sampled_from(GUEST_CHANGES), asker=st.integers(0, MONITORS - 1))
    def changes_guest(self, line: str, asker: int) -> None:
        self._type(line, asker)

    @rule(line=st.sampled_from(RESTARTS), asker=st.integers(0, MONITORS - 1))
    def restarts(self, line: str, asker: int) -> None:
        self._type(line, asker)

    @rule(line=st.sampled_from(LINES), asker=st.integers(0, MONITORS - 1))
    def types(self, line: str, asker: int) -> None:
        self._type(line, asker)

    def _type(self, line: str, asker: int) -> Reply:
        reply = self.monitors[asker].execute(line)
        assert not reply.pending
        reply.text.encode()
        return reply

    @rule(asker=st.integers(0, MONITORS - 1))
    def asks(self, asker: int) -> None:
        if self.waiting[asker] is not None:
            return
        reply = self.monitors[asker].execute("info balloon")
        if not reply.pending:
            assert reply.text.startswith(("balloon: actual=", "Error: No balloon device"))
            return
        asked = Asked(asker, self.clock.now() + TIMEOUT)
        assert reply.until == asked.deadline

        def answered(done: Reply) -> None:
            assert done is reply
            assert done.text
            asked.answers += 1
            assert self.waiting[asker] == (reply, asked), "an answer for who asks no more"
            self.waiting[asker] = None

        reply.on_done = answered
        self.waiting[asker] = (reply, asked)

    @rule(asker=st.integers(0, MONITORS - 1))
    def gives_up(self, asker: int) -> None:
        found, self.waiting[asker] = self.waiting[asker], None
        if found is not None:
            found[1].dropped = True
            found[0].cancel()

    @rule(timeout=st.sampled_from((None, 0, 1, SECOND, 60 * SECOND)))
    def requests(self, timeout: int | None) -> None:
        if len(self.raw) > 20:
            return
        request = self.machine.request_stats(timeout)
        if request.state is PENDING:
            asked = Asked(-1, request.deadline)

            def ended(done: StatsRequest) -> None:
                assert done is request
                asked.answers += 1

            request.on_done = ended
            self.raw.append((request, asked))

    @precondition(lambda self: self.raw)
    @rule(which=st.integers(0, 20))
    def cancels(self, which: int) -> None:
        request, asked = self.raw.pop(which % len(self.raw))
        asked.dropped = request.state is PENDING
        self.machine.requests.cancel(request)

    @rule(pause=st.sampled_from(PAUSES))
    def waits(self, pause: int) -> None:
        self.machine.advance(pause)

    @rule(pause=st.sampled_from(PAUSES))
    def is_late(self, pause: int) -> None:
        """The host was busy: all timers of a while come at once."""
        self.clock.move_to(self.clock.now() + pause)
        self.machine.step()

    # What must hold.

    @invariant()
    def nobody_waits_beyond_the_deadline_or_hears_twice(self) -> None:
        World.steps += 1
        self.machine.step()
        now = self.clock.now()
        for found in self.waiting:
            if found is not None:
                reply, asked = found
                assert reply.pending
                assert asked.deadline is not None
                assert asked.deadline > now
        for request, asked in self.raw:
            assert asked.answers == (request.state is not PENDING)
            assert request.state is not PENDING or request.deadline is None or request.deadline > now
        self.raw = [(request, asked) for request, asked in self.raw if request.state is PENDING]
        pending = self.machine.requests.pending
        assert all(request.state is PENDING for request in pending)
        assert len(pending) == len(self.raw) + sum(found is not None for found in self.waiting)
        assert self.machine.device is not None or not pending, "an unplugged device answers nobody"

    @invariant()
    def an_honest_guests_books_agree(self) -> None:
        device, guest = self.machine.device, self.machine.guest
        before, self.size = self.size, RAM if device is None else device.actual
        assert isinstance(guest, ModelledGuest)
        if device is None:
            assert guest.driver is None
            return
        assert device.refused.keys() <= RULES.keys()
        driver = guest.driver
        if self.machine.run_state == "shutdown":  # power is off: the device is as the guest left it
            assert driver is None
            return
        if isinstance(driver, HostileDriver):
            assert 0 <= device.actual <= RAM
            return
        assert not device.broken
        pages = 0 if driver is None else driver.ballooned
        # Only a driver writes `actual`: until a new one moves a page, it is the old one's.
        assert device.actual == RAM - 4096 * pages or (not pages and device.actual == before)
        assert device.pages.count == pages
        assert guest.kernel is None or guest.kernel.ballooned == 4096 * pages

    @invariant()
    def guest_stats_never_go_back(self) -> None:
        device = self.machine.device
        told = None if device is None else device.stats.qom_sample
        assert device is None or told is not None or not self.told, "nothing but another device forgets them"
        now = 0 if told is None else told.wall
        assert now >= self.told or device is None
        self.told = now
        if device is not None and self.machine.running and device.stats.held is not None:
            assert device.stats.sample in (None, told)

    @invariant()
    def the_rings_agree(self) -> None:
        device, guest = self.machine.device, self.machine.guest
        if device is None or device.broken:
            return
        for queue in device.queues:
            if not queue.enabled:
                assert queue.in_use == 0
                continue
            assert queue.used_state()[1] == queue.used_idx
            assert (queue.last_avail - queue.used_idx) & 0xFFFF == queue.in_use
            assert queue.available() <= queue.size
            held = queue.index == device.stats.index and device.stats.held is not None
            assert queue.in_use == held
        driver: Any = guest.driver  # type: ignore[attr-defined]
        if driver is not None and not isinstance(driver, HostileDriver):
            for role, ring in driver._queues.items():
                queue = device.queues[list(driver._queues).index(role)]
                back = (queue.used_idx - ring._last_used) & 0xFFFF
                assert len(ring.free) + queue.in_use + back + queue.available() == ring.size
                assert len(set(ring.free)) == len(ring.free)
                assert role == STATS or not queue.in_use

    @invariant()
    def memory_is_bounded(self) -> None:
        machine = self.machine
        assert len(machine.host_timers) == len(machine.requests.pending) - sum(
            request.deadline is None for request in machine.requests.pending
        )
        assert len(machine.vm_timers) <= 8
        assert len(machine.vm_timers._heap) <= 64 + 2 * 64
        assert len(machine.host_timers._heap) <= 64 + 2 * 64
        assert len(machine.history.entries) <= 2 * KEEP
        assert machine.memory.populated() <= RAM


def explore(examples: int, steps: int, number: int = 0) -> int:
    """Run that many random lives of that many steps, other ones for each number; returns the steps made in all."""
    before = World.steps
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        seed(number)(World),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
    return World.steps - before


def test_a_few_thousand_random_steps() -> None:
    assert explore(60, 50) > 1000


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(4))
def test_a_hundred_thousand_random_steps(part: int) -> None:
    """In four parts, for as many processors."""
    done, number = 0, 1000 * part
    while done < 25_000:
        number += 1
        done += explore(100, 100, number)
