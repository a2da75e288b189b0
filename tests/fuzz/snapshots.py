"""The fuzz target for the snapshot loader, with the checksum made right."""

from __future__ import annotations

import io
import json
import random
import re
from collections.abc import Iterator
from typing import Any
from zlib import crc32

import device.machine.snapshot
from device.clock import SimulatedClock
from device.fields import SnapshotError
from device.guest.table import make_guest
from device.machine.snapshot import load
from device.state import FAR
from device.virtio.spec import MIB
from tests.support.machines import monitor
from tests.support.rig import Modelled
from tests.support.snapshots import members, replaced, restore, saved, settled, state_in, with_state

RAM = 4 * MIB
RUN = "0123456789abcdef"
"""What tells the clock of the loading machine from others."""

_bases: list[bytes] = []
_victim: Modelled | None = None
_loads = 0


def _snapshots() -> list[bytes]:
    if not _bases:
        for spec in ("linux", "slow", "hostile,seed=3"):
            with Modelled(spec, ram=RAM) as m:
                m.clock.run = RUN if spec == "linux" else "another"
                m.machine.set_balloon(3 * MIB)
                m.ask()
                m.advance(0.7)
                _bases.append(saved(m.machine))
    return _bases


class _Sum:
    """In place of SHA-256, which would take a third of the time: a checksum is in no fuzzer's way."""

    def __init__(self, data: bytes = b"") -> None:
        self.value = crc32(data)

    def update(self, data: bytes) -> None:
        self.value = crc32(data, self.value)

    def digest(self) -> bytes:
        return self.value.to_bytes(32, "little")


class _Quick:
    sha256 = _Sum


def snapshot(data: bytes) -> None:
    """Load the bytes as a snapshot whose checksum fits; an accepted one makes a machine that works."""
    real = device.machine.snapshot.hashlib
    device.machine.snapshot.hashlib = _Quick  # type: ignore[assignment]
    try:
        _load(data + _Sum(data).digest())
    finally:
        device.machine.snapshot.hashlib = real


def _content(data: bytes, passed: int = 0) -> dict[str, Any]:
    """Return the state, `passed` ns later, but for what loading itself may change: whose clock it is, and whether the
    target was told; and for the polling interval, which older snapshots have.
    """
    state, _ = settled(data)
    del state["simulated"], state["target_told"]
    device = state["device"]
    if device is not None:
        stats = device["stats"]
        for part, name in ((device, "age"), (stats, "reset_age"), (stats["sample"], "age")):
            if part is not None:
                part[name] = min(FAR, part[name] + passed)
        for name in ("poll_interval", "poll_remaining"):
            stats.pop(name, None)
    return state


def _passed(data: bytes, clock: SimulatedClock) -> int:
    """Return the ns since the save as the loading clock has them: only where it is the same one."""
    state = state_in(data)
    same = state["simulated"] and state.get("run") == clock.run
    return max(0, min(clock.wall() - state["date"], 1 << 60)) if same else 0


def _load(data: bytes) -> None:
    global _victim, _loads
    _loads += 1
    if _victim is None or _loads % 2000 == 0:
        if _victim is not None:
            _victim.machine.close()
        _victim = Modelled("linux", ram=RAM)
        _victim.clock.run = RUN
    m = _victim
    m.machine.stop()
    before = m.machine.device
    if before is not None:
        before.stats.set_poll_interval(_loads % 3)
    try:
        load(m.machine, io.BytesIO(data), make_guest)
        words = ""
    except SnapshotError as error:
        words = str(error)
    assert words.isprintable()
    if words:
        return
    if m.machine.over:
        _victim = None
        return
    first = saved(m.machine)
    expected = _content(data, _passed(data, m.clock))
    if expected["device"] is None or not expected["device"].get("due"):  # else what was due is delivered by now
        assert _content(first) == expected
    if m.machine.device is not None:
        now, old = m.stats, None if before is None else before.stats
        assert (now.poll_interval, now.qom_sample) == ((0, None) if old is None else (_loads % 3, old.qom_sample))
    chosen = crc32(data) & 7  # what takes longer is not for all
    if chosen > 2:
        return
    lines: tuple[str, ...] = ("cont", "info balloon", "balloon 3", "sim sleep 1", "sim")
    if not chosen:
        restore(m.machine, first)
        assert settled(saved(m.machine)) == settled(first)
        lines += ("info balloon", "system_reset", "info balloon")
    there = monitor(m.machine)
    for line in lines:
        reply = there.execute(line)
        for _ in range(20_000):
            if not reply.pending or m.machine.over:
                break
            m.machine.step(jump=True)
        assert not reply.pending or m.machine.over
    if m.machine.over:
        _victim = None
    else:
        saved(m.machine)


def snapshot_seeds() -> Iterator[bytes]:
    for base in _snapshots():
        yield base[:-32]
        length = int.from_bytes(base[12:16], "little")
        yield base[: 16 + length] + bytes(16)  # without memory: small, so that the state is what gets mutated
        state = json.loads(base[16 : 16 + length])
        state["device"]["stats"] |= {"poll_interval": 7, "poll_remaining": 3}  # as older ones have it
        yield with_state(base, state)[:-32]


_SCALAR = re.compile(rb'(?<=[:,\[])(-?\d+|"[^"]*"|true|false|null)(?=[,\]}])')

_WORTH: tuple[object, ...] = (None, True, False, 0, -1, "", "x", [], {})


def respell_state(data: bytes, limit: int, seed: int) -> bytes:
    """Mutate a snapshot by its meaning: put another value in one place of its state. Anything else stays.

    Mostly a number or word where one stands already, found without parsing: that is what makes it quick.
    """
    dice = random.Random(seed)
    end = 16 + int.from_bytes(data[12:16], "little")
    value = dice.choice((*_WORTH, 1 << dice.randrange(66), dice.randrange(1 << 16)))
    if seed & 15:
        found = _SCALAR.search(data, dice.randrange(16, max(17, end)), end)
        if found is None:
            return data
        if found[1][-1:].isdigit() and len(found[1]) < 21 and dice.random() < 0.7:
            value = _other(int(found[1]), dice)
        packed = data[16 : found.start()] + json.dumps(value).encode() + data[found.end() : end]
    else:
        try:
            state = json.loads(data[16:end])
            path, old = dice.choice(list(members(state)))
        except (ValueError, IndexError, RecursionError):
            return data
        if type(old) is int and dice.random() < 0.7:
            value = _other(old, dice)
        packed = json.dumps(replaced(state, path, value), separators=(",", ":")).encode()
    made = data[:12] + len(packed).to_bytes(4, "little") + packed + data[end:]
    return made if len(made) <= limit else data


def _other(old: int, dice: random.Random) -> int:
    return dice.choice(
        (old + 1, old - 1, old ^ 1 << dice.randrange(64), dice.randrange(1 << dice.randrange(1, 64)), old + (1 << 16))
    )
