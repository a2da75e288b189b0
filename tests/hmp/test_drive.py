"""What lets a machine's time pass inside a loop."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from device.clock import SECOND
from device.guest.table import make_guest
from device.machine.machine import Machine
from device.virtio.spec import MIB
from hmp.drive import MachineDriver
from hmp.monitor.monitor import Reply
from tests.support.loop import VirtualLoop
from tests.support.machines import build


def test_it_watches_the_guests_descriptors_and_follows_changes() -> None:
    served: list[list[bytes]] = []

    async def everything() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        machine = Machine(loop.machine_clock(), ram=64 * MIB, guest=make_guest("linux"))
        first, second = os.pipe(), os.pipe()
        watched = [first[0]]
        machine.guest.descriptors = lambda: list(watched)  # type: ignore[method-assign]

        def serve() -> None:
            served.append([os.read(descriptor, 9) for descriptor in watched])
            watched[:] = [second[0]]

        machine.guest.serve = serve  # type: ignore[method-assign]
        driver = MachineDriver(machine, loop)
        driver.start()
        os.write(first[1], b"one")
        await asyncio.sleep(1)
        os.write(first[1], b"nobody looks")
        os.write(second[1], b"two")
        await asyncio.sleep(1)
        driver.stop()
        os.write(second[1], b"nobody looks")
        await asyncio.sleep(1)
        machine.close()
        for descriptor in (*first, *second):
            os.close(descriptor)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(everything())
    assert served == [[b"one"], [b"two"]]


def test_a_jump_of_many_timers_goes_on_after_each_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hmp.drive._SLICE", 0)  # one timer, and then everybody else has a turn
    fired: list[int] = []

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        machine = build("silent")
        driver = MachineDriver(machine, loop)
        driver.start()
        reply = Reply()
        reply.suspend(lambda: None)
        for seconds in (1, 2, 3):
            machine.time.after(seconds * SECOND, lambda seconds=seconds: fired.append(seconds))
        machine.time.after(4 * SECOND, lambda: reply.finish(""))
        assert await driver.wait(reply, loop.create_future())
        driver.stop()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scene())
    assert fired == [1, 2, 3]


@pytest.mark.parametrize("how", ["released", "cancelled", "complete"])
def test_the_warp_clock_stands_still_once_nobody_waits(how: str) -> None:
    taken_back: list[bool] = []

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        machine = build("silent")
        driver = MachineDriver(machine, loop)
        driver.start()
        reply, released = Reply(), loop.create_future()
        reply.suspend(lambda: taken_back.append(True))
        task = asyncio.ensure_future(driver.wait(reply, released))
        await asyncio.sleep(0)
        if how == "released":
            released.set_result(None)
        elif how == "cancelled":
            task.cancel()
        else:
            reply.finish("")
        await asyncio.wait([task])
        assert task.cancelled() if how == "cancelled" else task.result() is (how == "complete")
        now = machine.clock.now()
        machine.time.after(SECOND, lambda: None)
        driver.reschedule()
        await asyncio.sleep(1)
        assert machine.clock.now() == now
        driver.stop()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scene())
    assert taken_back == ([] if how == "complete" else [True])


@pytest.mark.parametrize("clients", [1, 1000])
def test_a_long_wait_is_one_timer_whose_last_part_is_short(clients: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux may end a wait late by a thousandth of it, and each timer of asyncio costs as much as a short command."""
    parts: list[float] = []
    ended: list[float] = []

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        machine = Machine(loop.machine_clock(), ram=64 * MIB, guest=make_guest("silent"))
        machine.start()
        driver = MachineDriver(machine, loop)
        driver.start()
        call_later = loop.call_later

        def noted(delay: float, *what: Any) -> asyncio.TimerHandle:
            parts.append(delay)
            return call_later(delay, *what)

        monkeypatch.setattr(loop, "call_later", noted)
        for _ in range(clients):
            machine.request_stats(5 * SECOND).on_done = lambda _: ended.append(loop.time())
            driver.reschedule()
        await asyncio.sleep(6)
        parts.remove(6)
        driver.stop()
        machine.close()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scene())
    assert ended == [pytest.approx(5, abs=1e-6)] * clients
    first, *more = parts
    assert 4 < first < 5
    assert len(more) < 4
    assert more[-1] < 0.13
