"""savevm, loadvm, delvm and info snapshots; files that survive kills, full disks and neighbours."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from device.plain import SnapshotError
from hmp.monitor import snapshots
from hmp.monitor.snapshots import SUFFIX, TAG_LIMIT, DirectoryStore, MemoryStore
from tests.support.machines import build, monitor, monitor_on, run, say, state_of
from tests.support.mounts import mounted, unmount
from tests.support.rig import HandGuest
from tests.support.shell import hmp

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

    def test_monitors_share_the_snapshots_and_hear_of_them(self) -> None:
        machine = build()
        events: list[object] = []
        machine.subscribe(lambda name, data: events.append((name, data)))
        first, second = monitor(machine), monitor(machine)
        say(first, "savevm a")
        assert events == [("SNAPSHOT_DONE", {"tag": "a"})]
        assert say(second, "loadvm a") == ""
        assert machine.snapshot_tags() == ["a"]

    def test_a_monitor_that_waits_is_asked_for_again(self) -> None:
        machine = build("slow")
        first, second = monitor(machine), monitor(machine)
        say(first, "savevm start")
        waiting = first.execute("info balloon")
        machine.time.advance(10**9)
        say(second, "loadvm start")
        assert waiting.pending
        while waiting.pending:
            machine.time.warp()
        assert (waiting.stale, machine.clock.now()) == (False, 3 * 10**9)

    def test_a_guest_elsewhere_is_refused_with_the_reason(self, store: snapshots.Store) -> None:
        class Elsewhere(HandGuest):
            snapshot_refusal = "it runs elsewhere"

        there = monitor_on()
        there.machine.store = store
        say(there, "savevm x")
        there.machine.replace_guest(Elsewhere())
        assert say(there, "savevm y") == "Error: it runs elsewhere\n"
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
    @pytest.mark.parametrize("verb", ["save", "load", "delete"])
    def test_odd_ones_are_refused(self, store: snapshots.Store, tag: str, verb: str) -> None:
        machine = build()
        act: Callable[[], None] = {
            "save": lambda: store.save(tag, machine),
            "load": lambda: store.load(tag, machine),
            "delete": lambda: store.delete(tag),
        }[verb]
        with pytest.raises(
            SnapshotError, match="cannot name a snapshot: 1 to 128 bytes of printable characters"
        ) as caught:
            act()
        assert len(str(caught.value)) < 300
        assert str(caught.value).isprintable()
        assert store.tags() == []

    @pytest.mark.parametrize(
        "line", ['savevm "a b"', 'savevm "a\\nb"', "savevm a/b", "savevm ..", f"savevm {'y' * 4000}"]
    )
    def test_the_monitor_says_so_in_one_line(self, line: str) -> None:
        reply = run(monitor_on(), line)
        assert reply.failed
        assert reply.text.count("\n") == 1

    @pytest.mark.parametrize("tag", ["a", "...", "-x", "~", "*", "a.tmp", "x.hmpsnap", "\u00fcber", "x" * TAG_LIMIT])
    def test_good_ones_work(self, store: snapshots.Store, tag: str) -> None:
        machine = build()
        store.save(tag, machine)
        store.save("other", machine)
        assert store.tags() == sorted([tag, "other"])
        store.load(tag, machine)
        store.delete(tag)
        assert store.tags() == ["other"]


class TestDirectory:
    def test_another_hmp_finds_them(self, tmp_path: Path) -> None:
        options = ("--clock", "warp", "-m", "64", "--snapshot-dir", str(tmp_path))
        first = hmp(*options, text="balloon 48\nsim sleep 1\nsavevm a\ninfo snapshots\n")
        second = hmp(*options, text="info snapshots\nloadvm a\ninfo balloon\ndelvm a\ninfo snapshots\n")
        assert (first.status, second.status) == (0, 0)
        listed, _, rest = second.out.partition("balloon: ")
        assert first.out == listed
        assert rest.startswith("actual=48,")
        assert rest.endswith("There is no snapshot available.\n")

    def test_files_are_for_their_owner_only(self, tmp_path: Path) -> None:
        old = os.umask(0)
        try:
            DirectoryStore(str(tmp_path)).save("a", build())
            os.umask(0o777)
            DirectoryStore(str(tmp_path)).save("b", build())
        finally:
            os.umask(old)
        assert [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()] == [0o600, 0o600]

    def test_file_and_directory_are_synced_around_the_rename(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Against a power cut, which no test can make: what is renamed is on the disk, and then the name is."""
        calls: list[str] = []
        sync, rename = os.fsync, os.rename

        def fsync(descriptor: int) -> None:
            calls.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "rename", lambda *names: (calls.append("rename"), rename(*names)))
        store = DirectoryStore(str(tmp_path))
        store.save("a", build())
        store.delete("a")
        assert calls == ["file", "rename", "directory", "directory"]

    def test_leftovers_are_swept_and_strangers_left_alone(self, tmp_path: Path) -> None:
        for name in (f"a{SUFFIX}.123.tmp", "notes.tmp", "notes", SUFFIX, f"\udcff{SUFFIX}"):
            (tmp_path / name).write_text("x")
        store = DirectoryStore(str(tmp_path))
        assert store.tags() == []
        store.save("b", build())
        assert store.tags() == ["b"]
        assert f"a{SUFFIX}.123.tmp" not in os.listdir(tmp_path)
        assert {"notes.tmp", "notes", SUFFIX} <= set(os.listdir(tmp_path))

    def test_odd_files_are_not_listed_and_not_loaded(self, tmp_path: Path) -> None:
        (tmp_path / f"text{SUFFIX}").write_text("no snapshot")
        (tmp_path / f"empty{SUFFIX}").touch()
        (tmp_path / f"folder{SUFFIX}").mkdir()
        os.mkfifo(tmp_path / f"fifo{SUFFIX}")
        (tmp_path / f"dangling{SUFFIX}").symlink_to("nowhere")
        (tmp_path / f"device{SUFFIX}").symlink_to("/dev/zero")
        store, machine = DirectoryStore(str(tmp_path)), build()
        assert store.summaries() == []
        for tag in store.tags():
            with pytest.raises(SnapshotError):
                store.load(tag, machine)
        with pytest.raises(SnapshotError, match="cannot save snapshot 'folder'"):
            store.save("folder", machine)
        assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]

    def test_a_path_that_is_no_directory(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for name, why in (("file", "Not a directory"), ("none", "No such file or directory")):
            ended = hmp("--snapshot-dir", str(tmp_path / name), "-c", "info status")
            assert (ended.status, ended.out) == (2, "")
            assert ended.err == f"hmp: --snapshot-dir: cannot use the directory '{tmp_path / name}': {why}\n"

    def test_a_directory_that_went_away(self, tmp_path: Path) -> None:
        path = tmp_path / "gone"
        path.mkdir()
        store, machine = DirectoryStore(str(path)), build()
        path.rmdir()
        with pytest.raises(SnapshotError, match="cannot save snapshot 'a': No such file"):
            store.save("a", machine)
        with pytest.raises(SnapshotError, match="does not exist"):
            store.load("a", machine)
        store.delete("a")
        assert store.tags() == []
        machine.store = store
        there = monitor(machine)
        reply = there.execute("info snapshots")
        assert reply.failed, "that there is none would not be true"
        assert reply.text == f"Error: cannot list the snapshots in '{path}': No such file or directory\n"

    def test_a_directory_that_cannot_be_written(self, tmp_path: Path) -> None:
        store, machine = DirectoryStore(str(tmp_path)), build()
        store.save("old", machine)
        if os.geteuid():
            tmp_path.chmod(0o500)
        elif not mounted("--bind", str(tmp_path), str(tmp_path)) or not mounted("-o", "remount,bind,ro", str(tmp_path)):
            unmount(tmp_path)
            pytest.skip("root writes everywhere, and this machine does not let us mount read-only")
        try:
            for act, words in (
                (lambda: store.save("new", machine), "cannot save snapshot 'new': "),
                (lambda: store.save("old", machine), "cannot save snapshot 'old': "),
                (lambda: store.delete("old"), "cannot delete snapshot 'old': "),
            ):
                with pytest.raises(SnapshotError, match=words):
                    act()
            store.load("old", machine)
            assert os.listdir(tmp_path) == [f"old{SUFFIX}"]
        finally:
            if os.geteuid():
                tmp_path.chmod(0o700)
            else:
                unmount(tmp_path)

    def test_a_directory_held_by_another_for_too_long(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import fcntl

        naps: list[float] = []
        monkeypatch.setattr(snapshots.time, "sleep", naps.append)
        holder = os.open(tmp_path, os.O_RDONLY)
        fcntl.flock(holder, fcntl.LOCK_EX)
        store, machine = DirectoryStore(str(tmp_path)), build()
        with pytest.raises(SnapshotError, match="another hmp has been writing there for two seconds"):
            store.save("a", machine)
        assert sum(naps) == pytest.approx(2)
        os.close(holder)
        store.save("a", machine)
