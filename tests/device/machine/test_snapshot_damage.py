"""A snapshot is untrusted input: a damaged one is refused, or makes a machine that still works."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from device.clock import SECOND
from device.fields import SnapshotError
from device.machine.snapshot import STATE_LIMIT
from device.virtio.spec import MIB, TIB
from tests.support.machines import monitor, say
from tests.support.rig import Modelled
from tests.support.snapshots import (
    behind_state,
    members,
    replaced,
    restore,
    saved,
    settled,
    signed,
    state_in,
    with_state,
)

RAM = 4 * MIB


def rich() -> Modelled:
    """Return a machine with as many different members in its state as possible."""
    m = Modelled("linux", ram=RAM, switches={"deflate-on-oom": True})
    m.guest.controls.pin(900, 5)
    m.guest.controls.pin(4, None)
    m.info()
    m.device.stats.set_poll_interval(7)
    m.machine.set_balloon(3 * MIB)
    m.advance(0.003)
    m.guest.controls.set_delay(SECOND)
    m.ask()
    m.device.refuse("ragged-pfns", "7 bytes")
    return m


def broken() -> Modelled:
    """Return a machine whose hostile guest has broken the device and will start anew."""
    m = Modelled("hostile,seed=3", ram=RAM)
    while not m.device.broken:
        m.advance(0.1)
    return m


def quiet() -> Modelled:
    m = Modelled("linux", ram=RAM)
    m.info()
    return m


BASES: dict[str, Callable[[], Modelled]] = {"quiet": quiet, "rich": rich, "broken": broken}


class Victim:
    """A machine to load damaged snapshots into, and checks of its state."""

    def __init__(self, base: Callable[[], Modelled]) -> None:
        with base() as m:
            self.data = saved(m.machine)
        self.m = Modelled("linux", ram=RAM)
        self.m.machine.stop()
        self.before = settled(saved(self.m.machine))

    def try_on(self, data: bytes) -> bool:
        """Load `data`; returns whether it was accepted. A refused one must leave everything as it was."""
        try:
            restore(self.m.machine, data)
        except SnapshotError as error:
            words = str(error)
        else:
            return True
        assert words.isprintable(), repr(words)
        assert len(words) < 400
        return False

    def exercise(self) -> None:
        """Use the loaded machine in every way; nothing may raise."""
        machine = self.m.machine
        there = monitor(machine)
        for line in ("cont", "info balloon", "balloon 3", "sim sleep 3", "info balloon", "sim", "savevm x", "loadvm x"):
            say(there, line)
        path = "/machine/peripheral/balloon0/virtio-backend"
        for line in (f"info virtio-status {path}", f"info virtio-queue-element {path} 2", "sim stats", "balloon 4"):
            say(there, line)
        say(there, "system_reset")
        say(there, "cont")
        if machine.device is not None and machine.guest.driver_loaded and not machine.unplugging and not machine.over:
            assert "balloon: actual=" in say(there, "info balloon")
            assert machine.device.live

    def close(self) -> None:
        self.m.machine.close()


@pytest.fixture(params=BASES)
def victim(request: pytest.FixtureRequest) -> Iterator[Victim]:
    victim = Victim(BASES[request.param])
    yield victim
    victim.close()


@pytest.fixture
def still() -> Iterator[Victim]:
    victim = Victim(quiet)
    yield victim
    victim.close()


def test_every_flipped_byte_is_noticed(still: Victim) -> None:
    data = bytearray(still.data)
    for position in range(len(data)):
        data[position] ^= 1 << position % 8
        assert not still.try_on(bytes(data)), position
        data[position] ^= 1 << position % 8
    assert settled(saved(still.m.machine)) == still.before
    assert still.try_on(bytes(data))


def test_every_prefix_is_refused(still: Victim) -> None:
    for length in range(len(still.data)):
        assert not still.try_on(still.data[:length]), length
    assert not still.try_on(still.data + b"\0")
    assert settled(saved(still.m.machine)) == still.before


VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    1,
    3,
    -1,
    1 << 31,
    1 << 62,
    (1 << 64) - 1,
    1 << 64,
    0.5,
    "",
    "x\n",
    "\ud800",
    [],
    {},
)
MISSING = object()


def spoiled(state: dict[str, Any]) -> Iterator[tuple[tuple[str | int, ...], object, object]]:
    """Yield (path, value, state) with one member of the state replaced, left out, repeated or added."""
    for path, old in members(state):
        for value in VALUES:
            if value != old or type(value) is not type(old):
                yield path, value, replaced(state, path, value)
        if type(old) is int:
            yield path, old + 1, replaced(state, path, old + 1)
            yield path, old + 4096, replaced(state, path, old + 4096)
        *parents, name = path
        holder: Any = state
        for step in parents:
            holder = holder[step]
        if isinstance(holder, dict):
            rest = {key: item for key, item in holder.items() if key != name}
            yield path, MISSING, replaced(state, tuple(parents), rest)
        if isinstance(old, dict):
            yield path, "another member", replaced(state, path, {**old, "new\n": 1})
        if isinstance(old, list):
            yield path, "twice", replaced(state, path, [*old, *old])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_member_spoiled_one_at_a_time(victim: Victim) -> None:
    accepted = 0
    before = settled(saved(victim.m.machine))
    for path, value, state in spoiled(state_in(victim.data)):
        try:
            if victim.try_on(with_state(victim.data, state)):
                accepted += 1
                victim.exercise()
                victim.close()
                victim.m = Modelled("linux", ram=RAM)
                victim.m.machine.stop()
                before = settled(saved(victim.m.machine))
            else:
                assert settled(saved(victim.m.machine)) == before
        except BaseException as error:
            error.add_note(f"{path} spoiled to {value!r}")
            raise
    assert accepted > 100, "or the test spoils nothing that matters"


@pytest.mark.parametrize("base", BASES)
def test_a_member_that_we_do_not_know_is_refused_wherever_it_is(base: str) -> None:
    """It would be lost, and may be a part of the machine that only a newer hmp knows."""
    victim = Victim(BASES[base])
    state = state_in(victim.data)
    objects = [(), *[path for path, value in members(state) if isinstance(value, dict)]]
    assert len(objects) > 8
    for path in objects:
        held: Any = state
        for step in path:
            held = held[step]
        assert not victim.try_on(with_state(victim.data, replaced(state, path, {**held, "new": 1}))), path
    victim.close()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("device", "stats", "held", "out"), [[0x5000, None]]),
        (("device", "stats", "held", "out"), [[0x5000, 100], [0x5000, 0]]),
        (("device", "stats", "sample", "unknown"), [[900, None]]),
        (("device", "stats", "sample", "unknown"), [[900, 1], [900, 2]]),
        (("guest", "state", "pinned"), [[900, 1], [900, 2]]),
        (("guest", "state", "driver"), None),  # while a timer of it runs
    ],
)
def test_what_would_be_lost_is_refused(path: tuple[str, ...], value: object) -> None:
    """A snapshot that is accepted is the same when it is saved again."""
    with Modelled("linux", ram=RAM) as m:
        m.info()
        m.machine.set_balloon(3 * MIB)
        m.advance(0.0001)
        data = saved(m.machine)
    victim = Victim(quiet)
    state = state_in(data)
    assert state["guest"]["state"]["timers"]
    assert victim.try_on(with_state(data, state))
    assert not victim.try_on(with_state(data, replaced(state, path, value)))
    victim.close()


@pytest.mark.parametrize("base", BASES)
def test_a_sample_of_spoiled_members(base: str) -> None:
    """Each member once or twice; the whole is in the slow test."""
    victim = Victim(BASES[base])
    everything = list(spoiled(state_in(victim.data)))
    for path, value, state in everything[:: len(everything) // 250]:
        try:
            if victim.try_on(with_state(victim.data, state)):
                victim.exercise()
                victim.close()
                victim.m = Modelled("linux", ram=RAM)
        except BaseException as error:
            error.add_note(f"{path} spoiled to {value!r}")
            raise
    victim.close()


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"tag":"\xff"}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"9" * 10_000,
        b'{"tag":NaN}',
        b'{"' + b"x" * 100_000 + b'":1}',
        json.dumps({"\x1b[2J" * 50: 1}).encode(),
    ],
    ids=range(12),
)
def test_a_state_of_another_shape_is_refused(still: Victim, state: bytes) -> None:
    assert not still.try_on(with_state(still.data, state))


def test_a_state_that_is_too_long(still: Victim) -> None:
    assert not still.try_on(with_state(still.data, b" " * (STATE_LIMIT + 1)))


def le64(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(8, "little") for number in numbers)


PAGES = RAM >> 12


@pytest.mark.parametrize(
    "rest",
    [
        b"",
        b"x" * 15,
        le64(0, 1 << 60),
        le64(1, 0),
        le64(0, 1, PAGES, 1),
        le64(0, 1, 0, PAGES + 1),
        le64(0, 1, 0, 0),
        le64(0, 1, 1 << 63, 1 << 63),
        le64(0, 2, 5, 2, 6, 1),
        le64(0, 2, 9, 1, 3, 1),
        le64(0, 0, 0),
        le64(0, 0, 0, 0),
        le64(0, 0, 1, 4096) + bytes(4096),
        le64(0, 0, 0, 100) + bytes(100),
        le64(0, 0, 0, 2 * MIB) + bytes(2 * MIB),
        le64(0, 0, RAM, 4096) + bytes(4096),
        le64(0, 0, (1 << 64) - 4096, 4096) + bytes(4096),
        le64(0, 0, 4096, 4096) + bytes(4096) + le64(4096, 4096) + bytes(4096),
        le64(0, 0, 8192, 4096) + bytes(4096) + le64(4096, 4096) + bytes(4096),
        le64(0, 0, 0, 8192) + bytes(4096),
    ],
    ids=range(20),
)
def test_sections_that_contradict_the_file_are_refused(still: Victim, rest: bytes) -> None:
    assert not still.try_on(with_state(still.data, state_in(still.data), rest=rest))
    assert settled(saved(still.m.machine)) == still.before


def test_a_balloon_without_a_device_is_refused() -> None:
    with Modelled(ram=RAM) as m:
        m.machine.device_del("balloon0")
        data = saved(m.machine)
        with pytest.raises(SnapshotError, match="without a balloon device"):
            restore(m.machine, with_state(data, state_in(data), rest=le64(0, 1, 5, 1) + behind_state(data)[16:]))


def test_a_balloon_of_terabytes_costs_no_gigabytes() -> None:
    """A run of pages is a few bytes in a file; as one number it would be half a gigabyte."""
    import resource

    with Modelled("nodriver", ram=2 * TIB) as m:
        data = saved(m.machine)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        restore(
            m.machine, with_state(data, state_in(data), rest=le64(0, 1, 0, 2 * TIB >> 12) + behind_state(data)[16:])
        )
        assert m.device.pages.count == 2 * TIB >> 12
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_rings_and_buffers_spoiled_in_memory(victim: Victim) -> None:
    """Guest memory in a snapshot is hostile too, and even the guest's own driver reads it back."""
    state = state_in(victim.data)
    rest = bytearray(behind_state(victim.data))
    start = 16 + 16 * int.from_bytes(rest[8:16], "little")
    for position in range(start, min(len(rest), start + 20_000)):
        if position % 3 and not rest[position]:
            continue
        old, rest[position] = rest[position], 0xFF ^ rest[position]
        try:
            if victim.try_on(with_state(victim.data, state, rest=bytes(rest))):
                victim.exercise()
        except BaseException as error:
            error.add_note(f"byte {position} behind the state")
            raise
        rest[position] = old
        if victim.m.machine.over:
            victim.close()
            victim.m = Modelled("linux", ram=RAM)


def test_a_driver_ring_that_leads_round_in_circles_does_not_hang_its_driver() -> None:
    with Modelled(ram=RAM) as m:
        m.machine.set_balloon(3 * MIB)
        m.advance(1)
        data = saved(m.machine)
        for position in range(0x1000, 0x1000 + 128 * 16, 16):  # descriptors of the first ring: NEXT to themselves
            m.machine.memory.write(position + 12, b"\1\0" + ((position - 0x1000) // 16).to_bytes(2, "little"))
        assert saved(m.machine) != data
        restore(m.machine, saved(m.machine))
        m.machine.set_balloon(4 * MIB)
        m.advance(5)
        m.machine.reset()
        assert m.info() == "answered"


def test_the_checksum_is_over_everything() -> None:
    with Modelled(ram=RAM) as m:
        data = saved(m.machine)
        assert signed(data[:-32]) == data
