"""A balloon that deflates on OOM, as Linux's does: it stays deflated until the host asks again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from device.virtio.spec import MIB
from tests.support.rig import Modelled
from tests.support.snapshots import restore, saved


@pytest.fixture
def m() -> Iterator[Modelled]:
    """Yield a guest of 512 MiB without swap, ballooned to 128 MiB, whose workload then took 200 MiB."""
    with Modelled("linux,swap=0", switches={"deflate-on-oom": True}) as m:
        m.machine.set_balloon(128 * MIB)
        m.advance(3)
        assert m.device.actual == 128 * MIB
        m.events.clear()
        assert m.guest.controls.alloc(200 * MIB) == 200 * MIB
        yield m


def test_each_portion_of_it_is_reported(m: Modelled) -> None:
    changes = [event["actual"] for event in m.named("BALLOON_CHANGE")]
    assert changes == sorted(changes)
    assert changes[-1] == m.device.actual > 200 * MIB
    assert (m.device.actual - 128 * MIB) % MIB == 0, "256 pages for each call for help"


@pytest.mark.parametrize("what", ["sleep", "free", "stop", "hang", "savevm"])
def test_its_size_stays_until_the_next_balloon_command(m: Modelled, what: str) -> None:
    left = m.device.actual
    if what == "free":
        m.guest.controls.free(200 * MIB)
    elif what == "stop":
        m.machine.stop()
        m.machine.cont()
    elif what == "hang":
        m.guest.controls.hang()
        m.guest.controls.wake()
    elif what == "savevm":
        restore(m.machine, saved(m.machine))
    m.advance(100)
    assert m.device.actual == left
    m.machine.guest.controls.free(200 * MIB)
    m.advance(100)
    assert m.device.actual == left
    m.machine.set_balloon(128 * MIB)
    m.advance(3)
    assert m.device.actual == 128 * MIB


@pytest.mark.parametrize("what", ["driver", "reset", "device"])
def test_a_new_driver_goes_to_the_target(m: Modelled, what: str) -> None:
    m.guest.controls.free(200 * MIB)
    if what == "driver":
        m.guest.controls.unload_driver()
        m.guest.controls.load_driver()
    elif what == "reset":
        m.machine.reset()
    else:
        m.machine.device_del("balloon0")
        m.machine.device_add("b", {"deflate-on-oom": True})
        m.machine.set_balloon(128 * MIB)
    m.advance(3)
    assert m.device.actual == 128 * MIB


def test_a_balloon_that_is_still_inflating_goes_on() -> None:
    with Modelled("linux,swap=0,pace=10M", switches={"deflate-on-oom": True}) as m:
        m.machine.set_balloon(128 * MIB)
        m.advance(10)
        assert m.guest.controls.alloc(380 * MIB) == 380 * MIB
        m.guest.controls.free(380 * MIB)
        m.advance(60)
        assert m.device.actual == 128 * MIB


def test_the_total_keeps_the_balloon(m: Modelled) -> None:
    assert m.guest.kernel.total == m.guest.kernel.ram - m.guest.kernel.reserved
