"""savevm, loadvm, delvm and info snapshots; files that survive kills, full disks and neighbours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from device.clock import SECOND, Clock
from device.fields import SnapshotError
from device.guest.table import make_guest
from device.machine.machine import Machine
from device.virtio.spec import MIB
from hmp.monitor import snapshots
from hmp.monitor.snapshots import TAG_LIMIT, DirectoryStore, MemoryStore
from tests.hmp.qmp.test_protocol import Talk
from tests.support.machines import build, device_of, monitor, monitor_on, run, say, state_of
from tests.support.rig import HandGuest

HEADING = "ID        TAG               VM SIZE                DATE     VM CLOCK     ICOUNT\n"


@pytest.fixture(params=["memory", "directory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> snapshots.Store:
    return MemoryStore() if request.param == "memory" else DirectoryStore(str(tmp_path))


class TestCommands:
    def test_a_round_trip(self, store: snapshots.Store) -> None:
        there = monitor_on()
        there.machine.store = store
        say(there, "balloon 256")
        say(there, "sim sleep 1")
        assert say(there, "savevm half") == ""
        say(there, "balloon 512")
        say(there, "sim sleep 1")
        assert say(there, "info balloon").startswith("balloon: actual=512,")
        assert say(there, "loadvm half") == ""
        assert say(there, "info balloon").startswith("balloon: actual=256,")
        assert say(there, "info status") == "VM status: running\n"

    def test_the_list_has_qemus_shape(self, store: snapshots.Store) -> None:
        there = monitor_on()
        there.machine.store = store
        assert say(there, "info snapshots") == "There is no snapshot available.\n"
        say(there, "sim sleep 86400.5")
        say(there, "savevm a")
        say(there, "sim sleep 1")
        say(there, "savevm a-tag-that-is-longer-than-its-column")
        text = say(there, "info snapshots")
        heading, titles, first, second = text.splitlines(keepends=True)
        assert (heading, titles) == ("List of snapshots present on all disks:\n", HEADING)
        assert len(first) == len(HEADING)
        assert first.startswith("--        a  ")
        assert first.split()[3:] == ["KiB", "2010-01-12", "19:09:35", "24:00:00.500"]
        assert " a-tag-that-is-longer-than-its-column " in second

    def test_without_a_tag_the_date_makes_one(self, store: snapshots.Store) -> None:
        there = monitor_on()
        there.machine.store = store
        say(there, "savevm")
        assert store.tags() == ["vm-20100111190935"]

    def test_without_a_tag_none_is_replaced(self, store: snapshots.Store) -> None:
        """QEMU 7.2 keeps them all too, under one tag, by which only the first can be loaded."""
        there = monitor_on()
        there.machine.store = store
        for size in (400, 300, 200):
            say(there, f"balloon {size}")
            say(there, "savevm")
        made = ["vm-20100111190935", "vm-20100111190935-2", "vm-20100111190935-3"]
        assert store.tags() == made
        for size, tag in zip((400, 300, 200), made, strict=True):
            assert say(there, f"loadvm {tag}") == ""
            assert device_of(there).target == size * MIB

    def test_one_of_the_same_tag_is_replaced(self, store: snapshots.Store) -> None:
        there = monitor_on()
        there.machine.store = store
        for size in (400, 300):
            say(there, f"balloon {size}")
            say(there, "sim sleep 1")
            say(there, "savevm x")
        assert store.tags() == ["x"]
        say(there, "loadvm x")
        assert say(there, "info balloon").startswith("balloon: actual=300,")

    def test_deleting_is_silent_whether_there_is_one_or_not(self, store: snapshots.Store) -> None:
        there = monitor_on()
        there.machine.store = store
        say(there, "savevm x")
        assert [say(there, "delvm x"), say(there, "delvm x"), store.tags()] == ["", "", []]

    def test_a_missing_one_is_refused_in_qemus_words(self, store: snapshots.Store) -> None:
        there = monitor_on()
        there.machine.store = store
        reply = run(there, "loadvm nope")
        assert reply.failed
        assert reply.text == "Error: Snapshot 'nope' does not exist in one or more devices\n"

    def test_a_failed_loadvm_leaves_the_vm_running(self, store: snapshots.Store) -> None:
        there, other = monitor_on(), monitor_on(memory=64)
        there.machine.store = other.machine.store = store
        say(other, "savevm small")
        before = state_of(there.machine)
        reply = run(there, "loadvm small")
        assert reply.text == (
            "Error: cannot load snapshot 'small': the snapshot is of 64 MiB of memory, this machine has 512 MiB\n"
        )
        assert state_of(there.machine) == before

    def test_monitors_share_the_snapshots_and_see_the_events(self) -> None:
        machine = build()
        events: list[object] = []
        machine.subscribe(lambda event: events.append((event.name, event.data)))
        first, second = monitor(machine), monitor(machine)
        say(first, "savevm a")
        assert events == [("STOP", {}), ("RESUME", {}), ("SNAPSHOT_DONE", {"tag": "a"})]
        assert say(second, "loadvm a") == ""
        assert machine.snapshot_tags() == ["a"]

    def test_qmp_gets_the_events_that_qemu_sends(self, store: snapshots.Store) -> None:
        """As measured: STOP and RESUME of a VM that runs, before the reply, and nothing else."""
        machine = build()
        machine.store = store
        talk = Talk(machine, "qemu")

        def heard(line: str) -> list[str]:
            message = {"execute": "human-monitor-command", "arguments": {"command-line": line}}
            return [each.get("event", "reply") for each in talk.send(json.dumps(message))]

        assert heard("savevm a") == heard("savevm a") == ["STOP", "RESUME", "reply"]
        assert heard("savevm") == ["STOP", "RESUME", "reply"]
        machine.set_balloon(400 * MIB)
        machine.advance(SECOND)
        talk.heard()
        assert heard("loadvm a") == ["STOP", "RESUME", "reply"]
        machine.set_balloon(400 * MIB)
        machine.advance(SECOND)
        machine.stop()
        talk.heard()
        assert heard("savevm b") == heard("loadvm a") == heard("loadvm nosuch") == heard("delvm a") == ["reply"]
        assert machine.run_state == "paused"
        machine.reset()
        talk.heard()
        assert heard("savevm c") == ["reply"]
        assert machine.run_state == "prelaunch"

    def test_vm_time_stands_still_meanwhile(self, store: snapshots.Store) -> None:
        now = [10 * SECOND]

        def slow() -> int:
            now[0] += 1000
            return now[0]

        machine = Machine(Clock("real", slow, slow), ram=64 * MIB, guest=make_guest("linux"))
        machine.start()
        states: list[str] = []
        machine.subscribe(lambda event: states.append(f"{event.name} {machine.run_state}"))
        machine.store = store
        assert say(monitor(machine), "savevm a") == ""
        assert states == ["STOP paused", "RESUME running", "SNAPSHOT_DONE running"]
        [summary] = store.summaries()
        assert summary.vm_time <= machine.vm_clock.now() < summary.vm_time + 20_000
        machine.close()

    def test_one_that_fails_lets_the_vm_run_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(snapshots, "BYTES_LIMIT", 1000)
        there = monitor_on()
        events: list[str] = []
        there.machine.subscribe(lambda event: events.append(event.name))
        assert say(there, "savevm a").startswith("Error: snapshots in memory may take")
        assert (events, there.machine.run_state) == (["STOP", "RESUME"], "running")
        for tag, shown in (("a/b", "a/b"), ("é\udcff\x01", "é\\xff\\x01")):
            assert say(there, f"savevm {tag}").startswith(f"Error: '{shown}' cannot name a snapshot")
        assert events == ["STOP", "RESUME"], "it was not stopped for that"

    def test_a_monitor_that_waits_is_asked_for_again(self) -> None:
        machine = build("slow")
        first, second = monitor(machine), monitor(machine)
        say(first, "savevm start")
        waiting = first.execute("info balloon")
        machine.advance(10**9)
        say(second, "loadvm start")
        assert waiting.pending
        while waiting.pending:
            machine.step(jump=True)
        assert (waiting.stale, machine.clock.now()) == (False, 3 * 10**9)

    def test_a_guest_elsewhere_is_refused_with_the_reason(self, store: snapshots.Store) -> None:
        class Elsewhere(HandGuest):
            snapshot_refusal = "it runs elsewhere"

        there = monitor_on()
        there.machine.store = store
        say(there, "savevm x")
        there.machine.replace_guest(Elsewhere())
        events: list[str] = []
        there.machine.subscribe(lambda event: events.append(event.name))
        assert say(there, "savevm y") == "Error: it runs elsewhere\n"
        assert events == []
        assert "it runs elsewhere" in say(there, "loadvm x")
        assert store.tags() == ["x"]


BAD_TAGS = (
    "../up",
    "a/b",
    "/etc/passwd",
    "..",
    ".",
    "tab\there",
    "bell\a",
    "bad\udcff",
    "\u202e",
    "x" * 10_000,
    "\xe4" * 100,
)


class TestTags:
    @pytest.mark.parametrize("tag", BAD_TAGS, ids=range(len(BAD_TAGS)))
    def test_odd_ones_are_refused(self, store: snapshots.Store, tag: str) -> None:
        machine = build()
        with pytest.raises(
            SnapshotError, match="cannot name a snapshot: 1 to 128 bytes of printable characters"
        ) as caught:
            store.save(tag, machine)
        assert len(str(caught.value)) < 300
        assert str(caught.value).isprintable()
        assert store.tags() == []

    @pytest.mark.parametrize("tag", ["a/b", "..", "", "y" * 200])
    def test_odd_ones_are_missing_ones_to_loadvm_and_delvm_in_qemus_words(
        self, store: snapshots.Store, tag: str
    ) -> None:
        there = monitor_on()
        there.machine.store = store
        say(there, "savevm x")
        missing = f"Error: Snapshot '{tag}' does not exist in one or more devices\n"
        assert (say(there, f'loadvm "{tag}"'), say(there, f'delvm "{tag}"')) == (missing, "")
        assert store.tags() == ["x"]

    @pytest.mark.parametrize("line", ['savevm "a\\nb"', "savevm a/b", "savevm ..", f"savevm {'y' * 4000}"])
    def test_the_monitor_says_so_in_one_line(self, line: str) -> None:
        reply = run(monitor_on(), line)
        assert reply.failed
        assert reply.text.count("\n") == 1

    @pytest.mark.parametrize(
        "tag", ["a", "a b", " ", "...", "-x", "~", "*", "a.tmp", "x.hmpsnap", "\u00fcber", "x" * TAG_LIMIT]
    )
    def test_good_ones_work(self, store: snapshots.Store, tag: str) -> None:
        machine = build()
        store.save(tag, machine)
        store.save("other", machine)
        assert store.tags() == sorted([tag, "other"])
        store.load(tag, machine)
        store.delete(tag)
        assert store.tags() == ["other"]
