"""A machine that was saved at a random moment and its copy behave the same: everything that decides it is state."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from device.balloon.stats import Sample
from device.clock import MS, SECOND
from device.errors import MisuseError
from device.state import save
from device.virtio.spec import MIB
from tests.support.rig import Modelled
from tests.support.snapshots import behind_state, restore, saved

RAM = 64
BEFORE, AFTER = 120, 1000

Deed = Callable[[Modelled], object]


def _device(deed: Callable[[Any], object]) -> Deed:
    return lambda m: None if m.machine.device is None else deed(m.machine.device)


def _draw(draw: random.Random) -> Deed:
    """Return one thing that a user, a monitor or time does to a machine."""
    size, some, tag = draw.randrange(8, RAM + 8) * MIB, draw.randrange(1, 64) * MIB, draw.randrange(16)
    wait = draw.choice((MS, 20 * MS, SECOND, 7 * SECOND))
    interval, count, number = draw.choice((0, 1, 3, 60)), draw.randrange(3), draw.choice((None, 5, 1 << 40))
    deeds: tuple[Deed, ...] = (
        lambda m: m.machine.advance(wait),
        lambda m: m.machine.advance(wait),
        lambda m: m.machine.request_stats(wait),
        lambda m: m.machine.request_stats(None),
        lambda m: m.machine.set_balloon(size),
        lambda m: m.machine.stop(),
        lambda m: m.machine.cont(),
        lambda m: m.machine.cont(),
        _device(lambda device: device.stats.set_poll_interval(interval)),
        lambda m: m.guest.controls.alloc(some),
        lambda m: m.guest.controls.free(some),
        lambda m: m.guest.controls.set_delay(wait if count else 0),
        lambda m: m.guest.controls.drop(count),
        lambda m: m.guest.controls.pin(tag, number),
        lambda m: m.guest.controls.unpin(tag),
        lambda m: m.guest.controls.wake(),
    )
    rare: tuple[Deed, ...] = (
        lambda m: m.guest.controls.hang(),
        lambda m: m.guest.controls.unload_driver(),
        lambda m: m.guest.controls.load_driver(),
        lambda m: m.machine.reset(),
        lambda m: m.machine.device_del("balloon0"),
        lambda m: m.machine.device_add("balloon0"),
    )
    return draw.choice(rare if draw.random() < 0.08 else deeds)


def _do(m: Modelled, deed: Deed) -> str:
    """Do it; returns the error, if the machine refused it."""
    try:
        deed(m)
    except MisuseError as error:
        return str(error)
    return ""


def _seen(m: Modelled) -> dict[str, Any]:
    """Return all that there is to see of a machine, as it would be saved."""
    machine, now = m.machine, m.clock.now()
    device = machine.device
    seen: dict[str, Any] = {} if device is None else save(device, now)
    if seen and seen["stats"]["sample"]:
        seen["stats"]["sample"]["wall"] = 0  # a loaded one was told when the VM ran again, as in QEMU
    return {
        "device": seen,
        "guest": machine.guest.state(),
        "run": (machine.run_state, machine.vm_clock.now(), machine.unplugging, machine.target_reported, machine.over),
        "events": [(name, {key: _plain(value, now) for key, value in data.items()}) for name, data in m.events],
    }


def _plain(value: Any, now: int) -> object:
    return value.state(now) | {"wall": 0} if isinstance(value, Sample) else value


@pytest.mark.parametrize("name", ["linux", "windows", "slow", "flaky", "hung", "hostile", "linux-2.6.34"])
@pytest.mark.parametrize("seed", range(3))
def test_a_machine_and_its_copy_have_the_same_future(name: str, seed: int) -> None:
    draw = random.Random(f"{name}{seed}")
    switches = {"deflate_on_oom": draw.random() < 0.5}
    with (
        Modelled(name, ram=RAM * MIB, seed=seed, switches=switches) as first,
        Modelled(name, ram=RAM * MIB, seed=seed + 1) as second,
    ):
        for _ in range(draw.randrange(BEFORE)):
            _do(first, _draw(draw))
        for request in tuple(first.machine.requests.pending):
            first.machine.requests.cancel(request)  # waiting requests belong to monitors: a snapshot has none
        _device(lambda device: device.stats.set_poll_interval(0))(first)  # the host's: not in snapshots
        second.machine.stop()
        second.machine.advance(first.clock.now() - second.clock.now())
        restore(second.machine, saved(first.machine))
        second.guest = second.machine.guest
        if first.machine.running:
            second.machine.cont()
        first.events.clear()
        second.events.clear()
        for step in range(AFTER):
            deed = _draw(draw)
            assert _do(first, deed) == _do(second, deed)
            assert _seen(first) == _seen(second), f"after step {step}"
            first.events.clear()
            second.events.clear()
        for m in (first, second):
            m.machine.stop()
        assert behind_state(saved(first.machine)) == behind_state(saved(second.machine))
