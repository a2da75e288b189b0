"""Each member of a snapshot: both ends of its range are accepted, and values beyond are refused by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

import pytest

from device.balloon.spec import CONFIG_POISON_VAL, F_PAGE_POISON, F_REPORTING, STAT_COUNT
from device.clock import MS, SECOND, Clock
from device.errors import RULES
from device.fields import SnapshotError
from device.guest.model.driver import STUCK, STUCK_LONG
from device.guest.table import make_guest
from device.machine.machine import Machine
from device.state import FAR, save
from device.virtio.spec import MAX_QUEUE_SIZE, MIB, U16, U32, U64, bit
from tests.device.machine.test_snapshot_damage import RAM, broken, rich
from tests.support.rig import Modelled
from tests.support.snapshots import replaced, restore, saved, state_in, with_state

PAGES = RAM >> 12
CENTURY = 1 << 62
"""The most ns that a guest may wait for something: 146 years."""


def held() -> Modelled:
    """Return a machine whose device holds the statistics buffer, and whose guest has moved a portion of pages."""
    m = Modelled("hostile,rule=huge-buffer", ram=RAM)
    m.info()
    m.machine.set_balloon(4 * MIB - 4096)
    m.advance(0.05)
    m.machine.set_balloon(3 * MIB)
    m.advance(0.005)
    assert m.stats.held is not None
    return m


def poisoned() -> Modelled:
    """Return a machine whose driver negotiated PAGE_POISON, as kernels do that clear or poison what they free."""
    m = Modelled("linux", ram=RAM, paused=True)
    m.guest._features |= bit(F_PAGE_POISON)
    m.machine.cont()
    m.device.write_config(CONFIG_POISON_VAL, b"\xaa" * 4)
    return m


BASES: dict[str, Callable[[], Modelled]] = {"rich": rich, "broken": broken, "held": held, "poisoned": poisoned}


@pytest.fixture(scope="module")
def snapshots() -> dict[str, bytes]:
    """A snapshot of each base."""
    made = {}
    for name, base in BASES.items():
        with base() as m:
            made[name] = saved(m.machine)
    return made


@pytest.fixture(scope="module")
def m() -> Iterator[Modelled]:
    """The machine that they are loaded into: it is stopped, so that nothing moves afterwards."""
    with Modelled("linux", ram=RAM) as m:
        m.machine.stop()
        yield m


def path_of(name: str) -> tuple[str | int, ...]:
    return tuple(int(step) if step.isdigit() else step for step in name.split("/"))


def at(state: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        state = state[step]
    return state


QUEUE = "device/queues/0"
SAMPLE = "device/stats/sample"
GUEST = "guest/state"
RING = "guest/state/driver/queues/0"

ENDS: list[tuple[str, str, list[object]]] = [
    ("rich", "date", [-FAR, -1, 0, FAR]),
    ("rich", "run", ["", "another"]),
    ("rich", "vm_time", [0, FAR]),
    ("rich", "seed", [0, U64]),
    ("rich", "booted", [False, True]),
    ("rich", "target_told", [False, True]),
    ("rich", "powering_down", [False, True]),
    ("rich", "unplugging", [False, True]),
    ("rich", "device/id", ["", "Az-09_x.y"]),
    ("rich", "device/hotplugged", [False, True]),
    ("rich", "device/status", [0, 0xFF]),
    ("rich", "device/isr", [0, 1, 2, 3]),
    ("rich", "device/num_pages", [0, PAGES]),
    ("rich", "device/actual_pages", [0, PAGES]),
    ("poisoned", "device/poison_val", [0, U32]),
    ("rich", "device/hint_id", [0, U32]),
    ("rich", "device/hints", [[], [[n, n] for n in range(8)], [[U32, U64]]]),
    ("rich", "device/later", [0, 7 << 5 | 7 << 13]),
    ("rich", "device/refused", [{}, dict.fromkeys(RULES, U64)]),
    ("rich", "device/last_refusal", ["", "words"]),
    ("rich", "device/age", [0, FAR]),
    ("broken", f"{QUEUE}/size", [0, 1, U32]),
    ("broken", f"{QUEUE}/desc", [0, 1, U64]),
    ("broken", f"{QUEUE}/avail", [0, 1, U64]),
    ("broken", f"{QUEUE}/used", [0, 1, U64]),
    ("rich", f"{QUEUE}/event_idx", [False, True]),
    ("rich", f"{QUEUE}/indirect", [False, True]),
    ("rich", f"{QUEUE}/last_avail", [0, 1, U16]),
    ("rich", f"{QUEUE}/used_idx", [0, 1, U16]),
    ("rich", f"{QUEUE}/signalled", [0, 1, U16]),
    ("rich", f"{QUEUE}/signalled_valid", [False, True]),
    ("rich", f"{QUEUE}/in_use", [0, 1, MAX_QUEUE_SIZE]),
    ("rich", "device/stats/out", [False, True]),
    ("rich", "device/stats/reset_age", [0, FAR]),
    ("rich", SAMPLE, [None, {"tags": [], "numbers": [], "unknown": [], "age": 0, "wall": 0}]),
    ("rich", f"{SAMPLE}/age", [0, FAR]),
    ("rich", f"{SAMPLE}/wall", [-FAR, -1, 0, FAR]),
    ("rich", f"{SAMPLE}/tags", [[8, 7, 6, 5, 4, 3, 2, 1, 0], [15, 14, 13, 12, 11, 10, 9, 8, 0]]),
    ("rich", f"{SAMPLE}/numbers", [[0] * 9, [U64 - 1] * 9]),
    ("rich", f"{SAMPLE}/unknown", [[], [[STAT_COUNT, 0], [U16, U64]]]),
    ("held", "device/stats/held/head", [0, 127]),
    ("held", "device/stats/held/out", [[], [[RAM - 8, 8], [0, RAM]], [[0, 1]] * 128]),
    ("rich", f"{GUEST}/hung", [False, True]),
    ("rich", f"{GUEST}/dead", [False, True]),
    ("rich", f"{GUEST}/latched", [False, True]),
    ("rich", f"{GUEST}/release_wanted", [False, True]),
    ("rich", f"{GUEST}/plugged", [False, True]),
    ("rich", f"{GUEST}/holding", [False, True]),
    ("rich", f"{GUEST}/delay", [0, CENTURY]),
    ("rich", f"{GUEST}/loss", [0, 1_000_000]),
    ("rich", f"{GUEST}/pace", [4096, 1 << 50]),
    ("rich", f"{GUEST}/answers", [0, 1, 1 << 40]),
    ("rich", f"{GUEST}/drops", [0, 1 << 40]),
    ("rich", f"{GUEST}/draws", [0, U64]),
    ("rich", f"{GUEST}/boots", [0, U64]),
    ("rich", f"{GUEST}/worked", [0, 3_000_000]),
    ("rich", f"{GUEST}/stuck", [STUCK, STUCK_LONG]),
    ("rich", f"{GUEST}/pinned", [[], [[0, None], [U16, U64]]]),
    ("rich", f"{GUEST}/timers", [{}, {"service": 0, "reply": 1, "work": CENTURY}]),
    ("rich", f"{RING}/last_used", [0, 1, U16]),
    ("rich", f"{RING}/notified", [0, 1, U16]),
    ("rich", f"{RING}/avail_idx", [0, 1, U16]),
    ("rich", f"{RING}/free", [[], [0, 127], list(range(128))]),
    ("broken", f"{GUEST}/driver/odd", ["", "partial-record", "huge-buffer"]),
    ("broken", f"{GUEST}/driver/storm", [0, 1, 2048]),
    ("broken", f"{GUEST}/driver/ambush", [False, True]),
    ("broken", f"{GUEST}/asked_for", [0, 1, U64]),
    ("broken", f"{GUEST}/played", [0, 1, U64]),
]


@pytest.mark.parametrize(("base", "name", "values"), ENDS, ids=[f"{base}-{name}" for base, name, _ in ENDS])
def test_all_that_can_be_is_taken_and_saved_again(
    m: Modelled, snapshots: dict[str, bytes], base: str, name: str, values: list[object]
) -> None:
    data, path = snapshots[base], path_of(name)
    for value in values:
        restore(m.machine, with_state(data, replaced(state_in(data), path, value)))
        if name not in ("date", "run"):
            assert at(state_in(saved(m.machine)), path) == value


def integer(high: int, low: int = 0) -> str:
    return f"is not an integer from {low} to {high}"


BEYOND: list[tuple[str, str, object, str]] = [
    ("rich", "tag", "x\n", "is not printable text"),
    ("rich", "date", FAR + 1, integer(FAR, -FAR)),
    ("rich", "date", -FAR - 1, integer(FAR, -FAR)),
    ("rich", "simulated", 1, "is not true or false"),
    ("rich", "ram", 4 * MIB - 1, integer(1 << 44, 4 * MIB)),
    ("rich", "ram", (1 << 44) + 1, integer(1 << 44, 4 * MIB)),
    ("rich", "balloon", None, "is not true or false"),
    ("rich", "seed", U64 + 1, integer(U64)),
    ("rich", "booted", 1, "is not true or false"),
    ("rich", "vm_time", FAR + 1, integer(FAR)),
    ("rich", "unplugging", 0, "is not true or false"),
    ("rich", "powering_down", 0, "is not true or false"),
    ("rich", "target_told", 0, "is not true or false"),
    ("rich", "device/id", "a/b", "cannot name a device"),
    ("rich", "device/id", "é", "cannot name a device"),
    ("rich", "device/hotplugged", 0, "is not true or false"),
    ("rich", "device/properties/page-poison", 1, "is not true or false"),
    ("rich", "device/status", 0x100, integer(0xFF)),
    ("rich", "device/features", bit(F_REPORTING), "holds a feature that the device does not offer"),
    ("rich", "device/isr", 4, integer(3)),
    ("rich", "device/num_pages", PAGES + 1, integer(PAGES)),
    ("rich", "device/actual_pages", PAGES + 1, integer(PAGES)),
    ("rich", "device/poison_val", 1, integer(0)),
    ("poisoned", "device/poison_val", U32 + 1, integer(U32)),
    ("rich", "device/hint_id", U32 + 1, integer(U32)),
    ("rich", "device/hints", [[n, n] for n in range(9)], "is not a list of at most 8"),
    ("rich", "device/due", 8 << 5, "names a queue that does not exist"),
    ("rich", "device/due", 128 << 13, "names a queue that does not exist"),
    ("rich", "device/later", 8 << 13, "names a queue that does not exist"),
    ("rich", "device/refused", {"new": 1}, "names a rule that does not exist"),
    ("rich", "device/refused", {f"rule {n}": 1 for n in range(100)}, f"has more than {len(RULES)} members"),
    ("rich", "device/last_refusal", 5, "is not printable text"),
    ("rich", "device/age", FAR + 1, integer(FAR)),
    ("rich", "device/queues", [], "are not 3"),
    ("rich", "device/queues", [{}] * 4, "is not a list of at most 3"),
    ("broken", f"{QUEUE}/size", U32 + 1, integer(U32)),
    ("rich", f"{QUEUE}/size", 100, "does not describe a queue (bad-ring: queue 0 of 100 entries)"),
    ("rich", f"{QUEUE}/desc", U64 + 1, integer(U64)),
    ("rich", f"{QUEUE}/avail", U64 + 1, integer(U64)),
    ("rich", f"{QUEUE}/used", U64 + 1, integer(U64)),
    ("rich", f"{QUEUE}/enabled", 1, "is not true or false"),
    ("rich", f"{QUEUE}/event_idx", 1, "is not true or false"),
    ("rich", f"{QUEUE}/indirect", 1, "is not true or false"),
    ("rich", f"{QUEUE}/last_avail", U16 + 1, integer(U16)),
    ("rich", f"{QUEUE}/used_idx", U16 + 1, integer(U16)),
    ("rich", f"{QUEUE}/signalled", U16 + 1, integer(U16)),
    ("rich", f"{QUEUE}/signalled_valid", 1, "is not true or false"),
    ("rich", f"{QUEUE}/in_use", MAX_QUEUE_SIZE + 1, integer(MAX_QUEUE_SIZE)),
    ("broken", "device/stats/out", True, "needs a statistics queue, and there is none"),
    ("rich", "device/queues/2/enabled", False, "needs a statistics queue, and there is none"),
    ("held", "device/queues/2/enabled", False, "needs a statistics queue, and there is none"),
    ("rich", "run", 5, "is not printable text"),
    ("rich", "device/stats/reset_age", FAR + 1, integer(FAR)),
    ("rich", f"{SAMPLE}/age", FAR + 1, integer(FAR)),
    ("rich", f"{SAMPLE}/wall", FAR + 1, integer(FAR, -FAR)),
    ("rich", f"{SAMPLE}/wall", -FAR - 1, integer(FAR, -FAR)),
    ("rich", f"{SAMPLE}/tags", [1], "do not match the numbers"),
    ("rich", f"{SAMPLE}/tags", [1, 1, 2, 3, 4, 5, 6, 7, 8], "do not match the numbers"),
    ("rich", f"{SAMPLE}/tags", [STAT_COUNT], f"holds something other than integers from 0 to {STAT_COUNT - 1}"),
    ("rich", f"{SAMPLE}/tags", [0] * (STAT_COUNT + 1), f"is not a list of at most {STAT_COUNT}"),
    ("rich", f"{SAMPLE}/numbers", [0] * (STAT_COUNT + 1), f"is not a list of at most {STAT_COUNT}"),
    ("rich", f"{SAMPLE}/numbers", [U64], f"holds something other than integers from 0 to {U64 - 1}"),
    ("rich", f"{SAMPLE}/unknown", [[1, 1]], "names a statistic that is known"),
    ("rich", f"{SAMPLE}/unknown", [[U16 + 1, 1]], "names a statistic that is known"),
    ("held", "device/stats/held/head", 128, integer(127)),
    ("held", "device/stats/held/out", [[RAM - 8, 9]], "is not in guest memory (bad-address: 9 bytes at 0x3ffff8)"),
    ("held", "device/stats/held/out", [[0, 0]], "holds a piece of no bytes"),
    ("held", "device/stats/held/out", [[0, 1]] * 129, "is not a list of at most 128"),
    ("held", "device/queues/2/in_use", 0, "cannot be held"),
    ("held", "device/stats/held/into", [[0, 1]], "cannot be held"),
    ("rich", f"{GUEST}/hung", 0, "is not true or false"),
    ("rich", f"{GUEST}/delay", CENTURY + 1, integer(CENTURY)),
    ("rich", f"{GUEST}/loss", 1_000_001, integer(1_000_000)),
    ("rich", f"{GUEST}/pace", 4095, integer(1 << 50, 4096)),
    ("rich", f"{GUEST}/pace", (1 << 50) + 1, integer(1 << 50, 4096)),
    ("rich", f"{GUEST}/answers", (1 << 40) + 1, integer(1 << 40)),
    ("rich", f"{GUEST}/drops", (1 << 40) + 1, integer(1 << 40)),
    ("rich", f"{GUEST}/draws", U64 + 1, integer(U64)),
    ("rich", f"{GUEST}/boots", U64 + 1, integer(U64)),
    ("rich", f"{GUEST}/worked", 3_000_001, integer(3_000_000)),
    ("rich", f"{GUEST}/stuck", STUCK_LONG + 1, integer(STUCK_LONG, STUCK)),
    ("rich", f"{GUEST}/pinned", [[U16 + 1, 1]], "names a tag twice, or one beyond 16 bits"),
    ("rich", f"{GUEST}/pinned", [[1, 1]] * (U16 + 2), "is not a list of at most 65536"),
    ("rich", f"{GUEST}/timers", {"work": 1, "new": 1}, "names the unknown timer 'new'"),
    ("rich", f"{GUEST}/timers", {str(n): 1 for n in range(9)}, "has more than 8 members"),
    ("rich", f"{GUEST}/timers/work", CENTURY + 1, integer(CENTURY)),
    ("rich", f"{GUEST}/driver/features", 4, "are not those that the device negotiated"),
    ("broken", f"{GUEST}/driver/features", bit(F_REPORTING), "are not those that the device negotiated"),
    ("rich", f"{GUEST}/driver/ballooned", PAGES + 1, integer(PAGES)),
    ("rich", f"{GUEST}/driver/ballooned", 1, "is not what the kernel gave away"),
    ("rich", f"{GUEST}/driver/queues", [], "is not a list of 3"),
    ("rich", f"{GUEST}/driver/queues", [{}] * 4, "is not a list of at most 3"),
    ("rich", f"{QUEUE}/enabled", False, "are not those that the device was told of"),
    ("rich", f"{QUEUE}/desc", 4096 + 16, "are not those that the device was told of"),
    ("rich", f"{RING}/last_used", U16 + 1, integer(U16)),
    ("rich", f"{RING}/notified", U16 + 1, integer(U16)),
    ("rich", f"{RING}/avail_idx", U16 + 1, integer(U16)),
    ("rich", f"{RING}/free", [128], "holds something other than integers from 0 to 127"),
    ("rich", f"{RING}/free", [0] * 129, "is not a list of at most 128"),
    ("rich", f"{RING}/free", [5, 6, 5], "names a descriptor twice"),
    ("broken", f"{GUEST}/driver/odd", "kick-storm", "is not a known answer"),
    ("broken", f"{GUEST}/driver/storm", 2049, integer(2048)),
]

ELSEWHERE = {
    ("device/stats/out", "needs a statistics queue, and there is none"): ".device.stats.held",
    ("device/queues/2/enabled", "needs a statistics queue, and there is none"): ".device.stats.held",
    ("device/queues/2/in_use", "cannot be held"): ".device.stats.held.head",
    ("device/stats/held/into", "cannot be held"): ".device.stats.held.head",
    (f"{QUEUE}/enabled", "are not those that the device was told of"): ".guest.state.driver.queues",
    (f"{QUEUE}/desc", "are not those that the device was told of"): ".guest.state.driver.queues",
    (f"{QUEUE}/size", "does not describe a queue (bad-ring: queue 0 of 100 entries)"): ".device.queues[0].desc",
}
"""Where the member that is named is not the one that was spoiled."""


def spelled(name: str) -> str:
    """Return a path as messages have it."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path_of(name))


@pytest.mark.parametrize(
    ("base", "name", "value", "words"), BEYOND, ids=[f"{index}-{name}" for index, (_, name, _, _) in enumerate(BEYOND)]
)
def test_what_is_beyond_is_refused_by_name(
    m: Modelled, snapshots: dict[str, bytes], base: str, name: str, value: object, words: str
) -> None:
    data, path = snapshots[base], path_of(name)
    with pytest.raises(SnapshotError) as caught:
        restore(m.machine, with_state(data, replaced(state_in(data), path, value)))
    where = ELSEWHERE.get((name, words), spelled(name))
    assert str(caught.value) == f"snapshot{where} {words}"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nobody", "the snapshot's guest cannot be made: no guest is called 'nobody' (one of linux, "),
        ("vhost-user,path=/nowhere", "the guest runs in another program, whose state cannot be saved from here"),
        ("linux,delay=x", "the snapshot's guest cannot be made: guest linux: delay: 'x' is not a number of seconds"),
    ],
)
def test_a_guest_that_cannot_be_made_is_named(m: Modelled, snapshots: dict[str, bytes], spec: str, words: str) -> None:
    data = snapshots["rich"]
    with pytest.raises(SnapshotError) as caught:
        restore(m.machine, with_state(data, replaced(state_in(data), ("guest", "spec"), spec)))
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize("member", ["device", "kernel"])
def test_a_driver_needs_a_device_and_a_kernel(m: Modelled, snapshots: dict[str, bytes], member: str) -> None:
    state = state_in(snapshots["rich"])
    path = ("device",) if member == "device" else ("guest", "state", "kernel")
    with pytest.raises(SnapshotError, match=r"^snapshot\.guest\.state\.driver needs a device and a kernel$"):
        restore(m.machine, with_state(snapshots["rich"], replaced(state, path, None)))


def test_a_kernel_of_another_size_is_refused(m: Modelled, snapshots: dict[str, bytes]) -> None:
    with Modelled(ram=8 * MIB) as other:
        kernel = save(other.guest.kernel, 0)
    state = replaced(state_in(snapshots["rich"]), ("guest", "state", "kernel"), kernel)
    with pytest.raises(SnapshotError, match=r"^snapshot\.guest\.state\.kernel\.ram is not the machine's$"):
        restore(m.machine, with_state(snapshots["rich"], state))


def test_timers_run_with_a_driver_only(m: Modelled, snapshots: dict[str, bytes]) -> None:
    state = replaced(state_in(snapshots["rich"]), ("guest", "state", "driver"), None)
    with pytest.raises(SnapshotError, match=r"^snapshot\.guest\.state\.timers run without a driver$"):
        restore(m.machine, with_state(snapshots["rich"], state))


@pytest.mark.parametrize(
    ("status", "live"), [(0, False), (3, False), (11, False), (15, True), (15 | 64, False), (15 | 128, False)]
)
def test_a_device_is_live_again_where_its_driver_was_up(
    m: Modelled, snapshots: dict[str, bytes], status: int, live: bool
) -> None:
    state = replaced(state_in(snapshots["rich"]), ("device", "status"), status)
    restore(m.machine, with_state(snapshots["rich"], state))
    assert (m.device.live, m.device.status) == (live, status)


def test_no_time_has_passed_since_a_simulated_date() -> None:
    """However long after the simulated 2010 the real clock is."""
    real = Machine(Clock("real", lambda: 50 * SECOND, lambda: 2 * 10**18), ram=RAM, guest=make_guest("linux"))
    with Modelled(ram=RAM) as m:
        m.info()
        m.advance(3)
        restore(real, saved(m.machine))
    assert real.device is not None
    assert (real.device.stats.age, real.device.born) == (3 * SECOND, 47 * SECOND)
    real.close()


def test_a_statistic_that_became_known_since_is_known_after_the_load(m: Modelled, snapshots: dict[str, bytes]) -> None:
    """An hmp that did not know tag 15 kept it among the unknown ones: this one reads that snapshot all the same."""
    data = snapshots["rich"]
    assert 15 not in state_in(data)["device"]["stats"]["sample"]["tags"]
    restore(m.machine, with_state(data, replaced(state_in(data), path_of(f"{SAMPLE}/unknown"), [[15, 1], [99, 2]])))
    assert (m.stats.sample.values[15], m.stats.sample.unknown) == (1, {99: 2})


SINCE_2 = ("due", "untold", "later", "later_remaining", "pause", "calm")
"""The device's members that format 1 does not have."""


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("interval", "remaining"), [(0, None), (7, None), (7, 3 * SECOND), (U32, 0), (0, 5)])
def test_an_interval_in_an_older_snapshot_is_passed_over(
    m: Modelled, snapshots: dict[str, bytes], version: int, interval: int, remaining: int | None
) -> None:
    """Polling belongs to the host. Older snapshots of formats 1 and 2 have it."""
    state = state_in(snapshots["held"])
    state["device"]["stats"] |= {"poll_interval": interval, "poll_remaining": remaining}
    for name in SINCE_2 if version == 1 else ():
        del state["device"][name]
    m.stats.set_poll_interval(5)
    try:
        restore(m.machine, with_state(snapshots["held"], state, version=version))
        assert m.stats.poll_interval == 5
        assert [timer for _, _, timer in m.machine.vm_timers._heap if timer is m.stats._poll_timer]
        assert "poll_interval" not in state_in(saved(m.machine))["device"]["stats"]
    finally:
        m.stats.set_poll_interval(0)


@pytest.mark.parametrize("member", ["poll_interval", "poll_remaining"])
def test_an_interval_that_is_no_number_is_refused_all_the_same(
    m: Modelled, snapshots: dict[str, bytes], member: str
) -> None:
    state = state_in(snapshots["held"])
    state["device"]["stats"][member] = "x"
    with pytest.raises(SnapshotError, match=rf"^snapshot\.device\.stats\.{member} is not an integer from 0 to "):
        restore(m.machine, with_state(snapshots["held"], state))


def test_an_older_format_has_nothing_to_deliver_and_serves_what_waits(m: Modelled, snapshots: dict[str, bytes]) -> None:
    data = bytearray(snapshots["rich"])
    state = state_in(bytes(data))
    for name in SINCE_2:
        del state["device"][name]
    old = bytearray(with_state(bytes(data), state)[:-32])
    old[8] = 1
    restore(m.machine, bytes(old) + sha256(old).digest())
    assert (m.device.due, m.device.unreported, m.device.pause) == (0, {}, MS)


@pytest.mark.parametrize(("base", "seen", "value"), [("poisoned", True, 1), ("poisoned", False, 0), ("rich", True, 0)])
def test_an_older_snapshot_knows_only_whether_pages_are_poisoned(
    snapshots: dict[str, bytes], m: Modelled, base: str, seen: bool, value: int
) -> None:
    """Older snapshots have it without the feature too, where it means nothing."""
    state = state_in(snapshots[base])
    for name in ("poison_val", "hint_id", "hints"):
        del state["device"][name]
    state["device"]["poison_seen"] = seen
    restore(m.machine, with_state(snapshots[base], state))
    assert m.device.poison_val == value
