"""What each modelled driver negotiates: the features of its kernel that the device offers."""

from __future__ import annotations

import pytest

from device.balloon.spec import (
    F_DEFLATE_ON_OOM,
    F_FREE_PAGE_HINT,
    F_PAGE_POISON,
    F_REPORTING,
    F_STATS_VQ,
    HINT,
    QUEUE_SIZES,
    REPORTING,
    queue_roles,
)
from device.virtio.spec import F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, MIB
from tests.support.rig import Modelled
from tests.support.snapshots import restore, saved

ALL = {"deflate-on-oom": True, "free-page-hint": True, "free-page-reporting": True, "page-poison": True}
BASE = {F_VERSION_1, F_STATS_VQ}
LINUX = {*BASE, F_EVENT_IDX, F_DEFLATE_ON_OOM, F_FREE_PAGE_HINT, F_REPORTING}
"""Linux 6.1 as seen under QEMU 7.2: no page poisoning (a debugging option of the kernel), no indirect descriptors."""


def taken(m: Modelled) -> set[int]:
    return {number for number in range(64) if m.device.features >> number & 1}


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("linux", LINUX),
        ("linux-6.12", LINUX),
        ("linux-2.6.34", {*BASE, F_INDIRECT_DESC}),
        ("windows", {*BASE, F_REPORTING}),
        ("nostats", LINUX - {F_STATS_VQ}),
        ("host", LINUX),
        *((name, LINUX) for name in ("silent", "hung", "slow", "flaky", "partial", "empty")),
    ],
)
def test_it_accepts_the_features_that_its_kernel_accepts(name: str, features: set[int]) -> None:
    with Modelled(name, switches=ALL) as m:
        assert taken(m) == features
        assert m.device.offered >> F_PAGE_POISON & 1
    with Modelled(name, switches={"page-poison": False}) as m:
        assert taken(m) == features - {F_DEFLATE_ON_OOM, F_FREE_PAGE_HINT, F_REPORTING}


def test_each_queue_is_set_up_as_the_device_offers_it() -> None:
    with Modelled(switches=ALL) as m:
        assert queue_roles(m.device.features)[-2:] == (HINT, REPORTING)
        assert [queue.enabled for queue in m.device.queues] == [True] * 5
        sizes = [128, 128, 128, 1024, 32]
        assert [ring.size for ring in m.guest.driver._rings] == [queue.size for queue in m.device.queues] == sizes


def test_rings_of_an_older_snapshot_stay_as_long_as_they_were_until_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    """They had 128 entries each. A driver keeps the rings that it laid out, whatever the device offers now."""
    with Modelled(switches=ALL) as m:
        with monkeypatch.context() as older:
            for role in (HINT, REPORTING):
                older.setitem(QUEUE_SIZES, role, 128)
            with Modelled(switches=ALL) as old:
                old.machine.set_balloon(256 * MIB)
                old.advance(1)
                data = saved(old.machine)
        restore(m.machine, data)
        m.guest = m.machine.guest
        assert [queue.size for queue in m.device.queues] == [128] * 5
        assert [queue.offered for queue in m.device.queues] == [128, 128, 128, 1024, 32]
        assert (m.info(), m.device.actual, m.device.refused) == ("answered", 256 * MIB, {})
        m.machine.set_balloon(512 * MIB)
        m.advance(1)
        assert m.device.actual == 512 * MIB
        m.device.refuse("bad-head", "for example")
        restore(m.machine, saved(m.machine))
        m.machine.reset()
        assert [queue.size for queue in m.device.queues] == [128, 128, 128, 1024, 32]
        assert m.info() == "answered"


def test_with_event_indices_a_driver_notifies_only_where_it_is_asked_to() -> None:
    """And everything still works: the balloon, statistics, a hang in between, a snapshot, the wrap of the indices."""
    with Modelled("linux,pace=1T") as m:
        for turn in range(1200):
            assert m.info() == "answered"
            if turn % 100 == 0:
                m.guest.controls.hang()
                assert m.info() == "timed out"
                m.guest.controls.wake()
                assert m.age == 0
                m.machine.set_balloon((256 + turn % 200) * MIB)
                m.advance(3)
                assert m.device.actual == (256 + turn % 200) * MIB
                restore(m.machine, saved(m.machine))
                m.guest = m.machine.guest
        assert m.device.refused == {}
