"""How many snapshots there may be, what their clocks may say, and that others are served meanwhile."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from device.clock import MS, Clock, SimulatedClock
from device.fields import SnapshotError
from device.machine.machine import Machine
from hmp.monitor import snapshots
from hmp.monitor.monitor import Monitor, Reply
from hmp.monitor.snapshots import COUNT_LIMIT, SUFFIX, DirectoryStore, MemoryStore
from tests.support.machines import build, monitor, monitor_on, run, say
from tests.support.snapshots import saved, state_in, with_state


@contextlib.contextmanager
def time_zone(name: str) -> Iterator[None]:
    """Let local time be that of a zone, inside `with`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", name)
        time.tzset()
        yield
    time.tzset()


HEADING = "ID        TAG               VM SIZE                DATE     VM CLOCK     ICOUNT\n"


@pytest.fixture(params=["memory", "directory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> snapshots.Store:
    return MemoryStore() if request.param == "memory" else DirectoryStore(str(tmp_path))


class SlowDisk(MemoryStore):
    """A store whose writes take 30 ms of a clock that shows `now`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0

    def save(self, tag: str, machine: Machine) -> None:
        self.now += 30 * MS
        super().save(tag, machine)


class TestTurns:
    """Others want to be served: writes leave half of the time to them."""

    def there(self, store: SlowDisk, count: int) -> list[Monitor]:
        machine = build(clock=Clock("real", lambda: store.now, lambda: store.now))  # type: ignore[arg-type]
        machine.store = store
        monitors = [monitor(machine) for _ in range(count)]
        for each in monitors:
            each.alone = False
        return monitors

    def test_one_save_follows_another_after_a_pause(self) -> None:
        store = SlowDisk()
        monitors = self.there(store, 4)
        machine = monitors[0].machine
        replies = [each.execute(f"savevm {number}") for number, each in enumerate(monitors)]
        assert [reply.pending for reply in replies] == [False, True, True, True]
        assert store.tags() == ["0"]
        for last in (1, 2, 3):
            assert (replies[last].until, machine.time.next_deadline()) == (store.paused_until, store.paused_until)
            machine.step()
            assert replies[last].pending, "too early"
            store.now = store.paused_until
            machine.step()
            assert [reply.pending for reply in replies] == [False] * (last + 1) + [True] * (3 - last)
        assert store.now == 7 * 30 * MS
        assert store.tags() == ["0", "1", "2", "3"]
        assert machine.host_timers.next_due() is None

    def test_one_that_fails_says_so_and_one_that_is_cancelled_does_nothing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(snapshots, "COUNT_LIMIT", 1)
        store = SlowDisk()
        monitors = self.there(store, 4)
        machine = monitors[0].machine
        done: list[Reply] = []
        first, second, third, fourth = (each.execute(line) for each, line in zip(monitors, LINES, strict=True))
        second.on_done = done.append
        third.cancel()
        while machine.host_timers.next_due() is not None:
            store.now = store.paused_until
            machine.step()
        assert (first.failed, [reply.text for reply in done]) == (False, [second.text])
        assert second.failed
        assert second.text.startswith("Error: there are 1 snapshots in memory")
        assert (fourth.pending, fourth.text, store.tags()) == (False, "", [])

    def test_a_lone_monitor_and_a_simulated_clock_never_wait(self) -> None:
        store = SlowDisk()
        (alone,) = self.there(store, 1)
        alone.alone = True
        warped = monitor_on()
        warped.alone = False
        for there in (alone, warped):
            assert [there.execute(f"savevm {number}").pending for number in range(3)] == [False] * 3


LINES = ("savevm a", "savevm b", "savevm c", "delvm a")


class TestBounds:
    def test_memory_keeps_a_thousand(self) -> None:
        there = monitor_on(memory=64)
        for number in range(COUNT_LIMIT):
            assert say(there, f"savevm s{number}") == ""
        reply = run(there, "savevm more")
        assert reply.failed
        assert reply.text == (
            "Error: there are 1000 snapshots in memory, the most there can be: "
            "delete some with delvm, or keep them in files with --snapshot-dir\n"
        )
        say(there, "balloon 32")
        say(there, "sim sleep 1")
        assert say(there, "savevm s7") == "", "one in place of another is no more"
        assert len(there.machine.snapshot_tags()) == COUNT_LIMIT
        say(there, "loadvm s7")
        assert say(there, "info balloon").startswith("balloon: actual=32,")
        say(there, "delvm s8")
        assert [say(there, "savevm more"), run(there, "savevm s8").failed] == ["", True]

    def test_memory_keeps_no_more_bytes_than_its_bound(self, monkeypatch: pytest.MonkeyPatch) -> None:
        machine = build(memory=64)
        store = machine.store = MemoryStore()
        store.save("small", machine)
        machine.memory.write(1 << 24, b"x" * (3 << 20))
        monkeypatch.setattr(snapshots, "BYTES_LIMIT", 4 << 20)
        store.save("large", machine)
        reply = run(monitor(machine), "savevm larger")
        assert reply.failed
        assert reply.text == (
            "Error: snapshots in memory may take 4 MiB together: "
            "delete some with delvm, or keep them in files with --snapshot-dir\n"
        )
        store.save("large", machine)
        assert store.tags() == ["large", "small"]
        store.delete("small")
        machine.memory.write(1 << 25, b"x" * (3 << 20))
        with pytest.raises(SnapshotError, match="4 MiB together"):
            store.save("large", machine)
        machine.memory.write(1 << 25, bytes(3 << 20))
        store.load("large", machine)


HOUR = 3_600 * 10**9
YEAR = 8766 * HOUR


class TestDates:
    @pytest.mark.parametrize(
        ("wall", "shown"),
        [
            (0, "1970-01-01 00:00:00"),
            (-1, "1969-12-31 23:59:59"),
            (-100 * YEAR, "1869-12-31 00:00:00"),
            (-1000 * YEAR, "0969-12-24 00:00:00"),
            (1 << 62, "2116-02-20 23:53:38"),
            (1 << 63, "2262-04-11 23:47:16"),
            (8000 * YEAR, "9970-03-02 00:00:00"),
            (9000 * YEAR, "after year 9999"),
            (1 << 80, "after year 9999"),
            (-2500 * YEAR, "before year 1"),
            (-(1 << 80), "before year 1"),
        ],
    )
    @pytest.mark.parametrize("simulated", [True, False], ids=["simulated", "real"])
    def test_a_wall_clock_may_have_any_value(
        self, store: snapshots.Store, wall: int, shown: str, simulated: bool
    ) -> None:
        class Odd(SimulatedClock):
            pass

        Odd.simulated = simulated
        clock = Odd()
        clock.wall = lambda: wall
        machine = build(clock=clock)
        machine.store = store
        there = monitor(machine)
        say(there, "info balloon")
        with time_zone("UTC"):
            assert [say(there, "savevm a"), say(there, "savevm")] == ["", ""]
            rows = say(there, "info snapshots").splitlines()[2:]
        assert [" ".join(row.split()[4:-1]) for row in rows] == [shown] * 2
        assert len(rows[0]) == len(HEADING) - 1
        for tag in store.tags():
            assert say(there, f"loadvm {tag}") == ""
            assert ",age=" not in say(there, "info balloon")

    def test_a_file_with_a_broken_header_is_left_out_of_the_list(self, tmp_path: Path) -> None:
        store, machine = DirectoryStore(str(tmp_path)), build()
        data, machine.store = saved(machine), store
        dates = ("NaN", "-Infinity", "1e999", "1e3", '"now"', "null", "[]", f"{1 << 90}", "9" * 5000)
        for number, value in enumerate(dates):
            state = json.dumps({**state_in(data), "date": "here"}).replace('"here"', value).encode()
            (tmp_path / f"odd{number}{SUFFIX}").write_bytes(with_state(data, state))
        store.save("good", machine)
        assert [summary.tag for summary in store.summaries()] == ["good"]
        assert len(say(monitor(machine), "info snapshots").splitlines()) == 3
        for number in range(len(dates)):
            assert run(monitor(machine), f"loadvm odd{number}").failed

    def test_a_vm_clock_of_centuries_does_not_run_into_the_next_column(self, store: snapshots.Store) -> None:
        machine = build(paused=True)
        machine.vm_clock.set(1 << 62)
        machine.store = store
        store.save("a", machine)
        store.load("a", machine)
        assert say(monitor(machine), "info snapshots").split()[-2:] == ["19:09:35", "1281023:53:38.427"]
