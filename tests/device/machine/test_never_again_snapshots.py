"""device.md, "Never again", lines 6, 10 and 11: what snapshots broke. The number is in the test's name."""

from __future__ import annotations

import pytest

from device.clock import SECOND
from device.virtio.spec import MIB, TIB
from tests.support.machines import build, complete, monitor, say
from tests.support.rig import Modelled
from tests.support.snapshots import members, restore, saved, state_in


def test_06_loadvm_while_pending_loses_no_request_and_blocks_none() -> None:
    """The request was lost and blocked all later ones."""
    machine = build("slow")
    first, second = monitor(machine), monitor(machine)
    say(first, "savevm x")
    waiting = first.execute("info balloon")
    machine.advance(SECOND)
    say(second, "loadvm x")
    also = second.execute("info balloon")
    assert [waiting.pending, also.pending] == [True, True]
    assert "free_mem" in complete(first, waiting).text
    assert "free_mem" in complete(second, also).text
    assert not waiting.stale
    for there in (first, second):
        assert not complete(there, there.execute("info balloon")).stale


def test_06_who_waits_at_loadvm_is_asked_for_again() -> None:
    """Also without another request."""
    machine = build()
    there = monitor(machine)
    say(there, "savevm x")
    say(there, "sim hang")
    waiting = there.execute("info balloon")
    machine.advance(SECOND)
    say(monitor(machine), "loadvm x")
    assert not waiting.pending
    assert not waiting.stale
    assert "free_mem" in waiting.text


def test_06_loadvm_of_a_guest_that_will_not_answer_keeps_the_deadline() -> None:
    machine = build()
    there = monitor(machine)
    say(there, "sim hang")
    say(there, "savevm hung")
    say(there, "sim wake")
    say(there, "sim hang")
    start = machine.clock.now()
    waiting = there.execute("info balloon")
    machine.advance(3 * SECOND)
    say(monitor(machine), "loadvm hung")
    complete(there, waiting)
    assert (waiting.stale, machine.clock.now() - start) == (True, 5 * SECOND)


def test_10_the_state_holds_no_pointers_and_no_truncated_times() -> None:
    """Raw pointers and 32-bit times were saved."""
    with Modelled("slow") as m, Modelled() as other:
        m.advance(20 * 365 * 86400)  # VM time and ages far beyond 2^32 ms
        m.info()
        m.advance(10 * 365 * 86400)
        m.ask()
        data = saved(m.machine)
        restore(other.machine, data)
        assert other.machine.vm_clock.now() == m.machine.vm_clock.now() > 1 << 59
        assert other.stats.age == m.stats.age > 1 << 58
        assert other.machine.vm_timers.next_due() == m.machine.vm_timers.next_due()
    with Modelled("slow") as m:
        addresses = {id(m.machine), id(m.guest), id(m.device), id(m.device.stats), id(m.device.queues[0])}
        numbers = {value for _, value in members(state_in(saved(m.machine))) if type(value) is int}
        assert not addresses & numbers


@pytest.mark.parametrize("polling", [False, True])
def test_10_statistics_go_on_after_a_restore(polling: bool) -> None:
    """Polls and requests stopped: the held buffer or the timer was not restored."""
    with Modelled() as m, Modelled("nodriver") as other:
        m.info()
        if polling:
            other.device.stats.set_poll_interval(2)
        m.advance(3)
        restore(other.machine, saved(m.machine))
        collected = other.stats.sample.collected
        if polling:
            other.advance(5)
        else:
            assert other.info() == "answered"
            assert other.info() == "answered"
        assert other.stats.sample.collected > collected - 3 * SECOND
        assert other.age < 2
        other.advance(10)
        assert (other.age < 2) == polling


@pytest.mark.parametrize("moment", ["held", "out", "answering late"])
def test_11_the_stats_queue_does_not_stall_after_migration(moment: str) -> None:
    """It stalled: the indices of the ring and those of the device differed."""
    with Modelled("linux,delay=1" if moment == "answering late" else "linux") as m:
        if moment == "out":
            m.guest.controls.drop(1)
        if moment != "held":
            m.ask()
        data = saved(m.machine)
        for _ in range(300):  # more than the ring has entries
            with Modelled("nodriver") as other:
                restore(other.machine, data)
                assert other.info() == "answered"
                other.machine.set_balloon(500 * MIB)
                other.advance(0.02)
                assert other.device.refused == {}
                assert other.device.queues[2].in_use == 1
                data = saved(other.machine)


def test_11_loads_leak_no_buffers_until_the_ring_is_exceeded() -> None:
    with Modelled() as m:
        data = saved(m.machine)
        for _ in range(300):
            m.ask()
            restore(m.machine, data)
            assert [queue.in_use for queue in m.device.queues] == [0, 0, 1]
        assert m.info() == "answered"
        assert m.device.refused == {}


def test_11_a_terabyte_migrates_as_well() -> None:
    with Modelled(ram=TIB) as m:
        m.machine.set_balloon(TIB - 256 * MIB)
        m.advance(1)
        restore(m.machine, saved(m.machine))
        assert m.device.actual == TIB - 256 * MIB
        assert m.device.pages.count == 256 * MIB >> 12
        m.machine.set_balloon(TIB)
        m.advance(1)
        assert (m.device.pages.count, m.device.refused) == (0, {})
