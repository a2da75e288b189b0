"""savevm, loadvm, delvm and info snapshots; files that survive kills, full disks and neighbours."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from device.clock import MS, Clock, SimulatedClock
from device.machine.machine import Machine
from device.machine.snapshot import MAGIC, Summary
from device.plain import SnapshotError
from hmp.monitor import snapshots
from hmp.monitor.monitor import Monitor, Reply
from hmp.monitor.snapshots import COUNT_LIMIT, SUFFIX, TAG_LIMIT, DirectoryStore, MemoryStore
from tests.support.machines import build, monitor, monitor_on, run, say, state_of
from tests.support.mounts import mounted, unmount
from tests.support.rig import HandGuest
from tests.support.shell import hmp
from tests.support.snapshots import saved, state_in, with_state

HEADING = "ID        TAG               VM SIZE                DATE     VM CLOCK     ICOUNT\n"


@contextlib.contextmanager
def time_zone(name: str) -> Iterator[None]:
    """Let local time be that of a zone, inside `with`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", name)
        time.tzset()
        yield
    time.tzset()


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
            each.sole = False
        return monitors

    def test_one_save_follows_another_after_a_pause(self) -> None:
        store = SlowDisk()
        monitors = self.there(store, 4)
        machine = monitors[0].machine
        replies = [each.execute(f"savevm {number}") for number, each in enumerate(monitors)]
        assert [reply.pending for reply in replies] == [False, True, True, True]
        assert store.tags() == ["0"]
        for last in (1, 2, 3):
            assert (replies[last].until, machine.time.next_deadline()) == (store.rests_until, store.rests_until)
            machine.time.run_due()
            assert replies[last].pending, "too early"
            store.now = store.rests_until
            machine.time.run_due()
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
            store.now = store.rests_until
            machine.time.run_due()
        assert (first.failed, [reply.text for reply in done]) == (False, [second.text])
        assert second.failed
        assert second.text.startswith("Error: there are 1 snapshots in memory")
        assert (fourth.pending, fourth.text, store.tags()) == (False, "", [])

    def test_who_is_alone_and_who_simulates_never_waits(self) -> None:
        store = SlowDisk()
        (alone,) = self.there(store, 1)
        alone.sole = True
        warped = monitor_on()
        warped.sole = False
        for there in (alone, warped):
            assert [there.execute(f"savevm {number}").pending for number in range(3)] == [False] * 3


LINES = ("savevm a", "savevm b", "savevm c", "delvm a")


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
        def put(name: str, content: bytes = MAGIC + b"and so on", mode: int = 0o600) -> None:
            (tmp_path / name).write_bytes(content)
            (tmp_path / name).chmod(mode)

        ours = f"a{SUFFIX}.{'0123456789abcdef'}.tmp"
        put(ours)
        put(ours.replace("0", "f"), b"")  # killed before a byte was written
        put(ours.replace("0", "e"), MAGIC[:3])
        strangers = {
            f"a{SUFFIX}.123.tmp": (),
            f"a{SUFFIX}.notes.tmp": (),
            f"{ours}.bak": (),
            ours.replace(".tmp", ".old"): (),
            ours.replace("0", "g"): (),
            ours.replace("a", "b", 1): (b"what the user wrote",),
            ours.replace("a", "c", 1): (MAGIC, 0o644),
            "notes.tmp": (),
            "notes": (),
            SUFFIX: (),
            f"\udcff{SUFFIX}": (),
        }
        for name, more in strangers.items():
            put(name, *more)  # type: ignore[arg-type]
        odd = [ours.replace("a", letter, 1) for letter in "defgh"]
        (tmp_path / odd[0]).mkdir()
        os.mkfifo(tmp_path / odd[1], 0o600)
        (tmp_path / odd[2]).symlink_to("notes")
        (tmp_path / odd[3]).symlink_to("/dev/zero")
        put(odd[4])
        os.link(tmp_path / odd[4], tmp_path / "kept")
        store = DirectoryStore(str(tmp_path))
        assert store.tags() == []
        store.save("b", build())
        assert store.tags() == ["b"]
        assert set(os.listdir(tmp_path)) == {f"b{SUFFIX}", "kept", *odd, *strangers}

    def test_a_deletion_sweeps_too(self, tmp_path: Path) -> None:
        (tmp_path / f"a{SUFFIX}.0123456789abcdef.tmp").touch(0o600)
        DirectoryStore(str(tmp_path)).delete("a")
        assert os.listdir(tmp_path) == []

    def test_what_another_writes_right_now_is_left_alone(self, tmp_path: Path) -> None:
        name, descriptor = snapshots._unfinished(str(tmp_path / f"a{SUFFIX}"))
        store = DirectoryStore(str(tmp_path))
        store.save("b", build())
        assert os.path.exists(name)
        os.close(descriptor)
        store.save("b", build())
        assert os.listdir(tmp_path) == [f"b{SUFFIX}"]

    @pytest.mark.parametrize("held", [True, False], ids=["while", "after"])
    def test_a_file_that_is_swept_before_its_lock_is_had_is_made_anew(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: bool
    ) -> None:
        import fcntl

        flock, kept = fcntl.flock, []

        def too_late(descriptor: int, how: int) -> None:
            monkeypatch.undo()
            (name,) = os.listdir(tmp_path)
            other = os.open(tmp_path / name, os.O_RDWR)
            kept.append(other)
            flock(other, fcntl.LOCK_EX)
            os.unlink(tmp_path / name)
            if not held:
                os.close(kept.pop())
            flock(descriptor, how)

        monkeypatch.setattr(fcntl, "flock", too_late)
        store, machine = DirectoryStore(str(tmp_path)), build()
        store.save("a", machine)
        store.load("a", machine)
        assert os.listdir(tmp_path) == [f"a{SUFFIX}"]
        for descriptor in kept:
            os.close(descriptor)

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
        for tag in ("folder", "fifo"):
            with pytest.raises(SnapshotError, match=f"cannot save snapshot '{tag}': it is not a regular file"):
                store.save(tag, machine)
            with pytest.raises(SnapshotError, match=f"cannot delete snapshot '{tag}': it is not a regular file"):
                store.delete(tag)
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

    def test_nobody_waits_for_one_who_holds_the_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import fcntl

        monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it held up all monitors"))
        holder = os.open(tmp_path, os.O_RDONLY)
        fcntl.flock(holder, fcntl.LOCK_EX)
        store, machine = DirectoryStore(str(tmp_path)), build()
        store.save("a", machine)
        store.load("a", machine)
        store.delete("a")
        os.close(holder)
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, 0])
    def test_without_locks_only_the_sweeping_is_missing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError(number, "no locks")

        if number:
            monkeypatch.setattr(snapshots.fcntl, "flock", refuse)
        else:
            monkeypatch.setattr(snapshots, "fcntl", None)
        leftover = tmp_path / f"a{SUFFIX}.0123456789abcdef.tmp"
        leftover.touch(0o600)
        store, machine = DirectoryStore(str(tmp_path)), build()
        store.save("a", machine)
        store.load("a", machine)
        store.save("a", machine)
        assert set(os.listdir(tmp_path)) == {f"a{SUFFIX}", leftover.name}, "somebody may be writing there"
        store.delete("a")
        assert os.listdir(tmp_path) == [leftover.name]

    @pytest.mark.parametrize("call", ["fchmod", "fsync"])
    def test_a_plain_file_system_will_do(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
        """Such as FAT, which knows no modes, and those that cannot sync a directory."""
        original = getattr(os, call)

        def refuse(descriptor: int, *more: object) -> object:
            if call == "fsync" and not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                return original(descriptor, *more)
            raise OSError(errno.EPERM if call == "fchmod" else errno.EINVAL, "not here")

        monkeypatch.setattr(os, call, refuse)
        store, machine = DirectoryStore(str(tmp_path)), build()
        store.save("a", machine)
        store.load("a", machine)
        store.delete("a")
        assert os.listdir(tmp_path) == []

    def test_a_disk_that_fails_is_told_of(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(SnapshotError, match="cannot save snapshot 'a': Input/output error"):
            DirectoryStore(str(tmp_path)).save("a", build())

    def test_a_huge_sparse_file_is_refused_unread(self, tmp_path: Path) -> None:
        """As `truncate -s 5G` leaves it behind a snapshot: it took 17 s, in which nobody was served."""
        store = DirectoryStore(str(tmp_path))
        small, large = build(memory=64), build(memory=8192)
        for tag, machine in (("small", small), ("large", large)):
            store.save(tag, machine)
            os.truncate(tmp_path / f"{tag}{SUFFIX}", 5 << 30)
        with pytest.raises(SnapshotError, match="the file is larger than a snapshot of 64 MiB of memory can be"):
            store.load("small", small)
        with pytest.raises(SnapshotError, match="the snapshot's memory is not in pages"):
            store.load("large", large)
        assert [summary.size for summary in store.summaries()] == [5 << 30] * 2
        for tag, machine in (("small", small), ("large", large)):
            store.save(tag, machine)
            store.load(tag, machine)
            os.truncate(tmp_path / f"{tag}{SUFFIX}", 5 << 30)
            store.delete(tag)
        assert store.tags() == []

    def test_a_list_reads_only_what_changed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        read: list[str] = []
        summarize = snapshots.summarize

        def noted(source: BinaryIO) -> Summary:
            read.append(os.path.basename(os.readlink(f"/proc/self/fd/{source.fileno()}")))
            return summarize(source)

        monkeypatch.setattr(snapshots, "summarize", noted)
        store, machine = DirectoryStore(str(tmp_path)), build()
        for tag in "abc":
            store.save(tag, machine)
        (tmp_path / f"d{SUFFIX}").write_text("no snapshot")
        assert [summary.tag for summary in store.summaries()] == ["a", "b", "c"]
        assert [summary.tag for summary in store.summaries()] == ["a", "b", "c"]
        assert read == [f"a{SUFFIX}", f"b{SUFFIX}", f"c{SUFFIX}", f"d{SUFFIX}"]
        machine.time.advance(10**9)
        store.save("a", machine)
        store.delete("b")
        assert [summary.tag for summary in store.summaries()] == ["c", "a"]
        assert read[4:] == [f"a{SUFFIX}"]


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
            "Error: snapshots in memory may have 4 MiB together: "
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
    def test_a_clock_may_say_anything(self, store: snapshots.Store, wall: int, shown: str, simulated: bool) -> None:
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

    def test_one_of_a_header_that_is_none_is_not_listed_and_the_others_are(self, tmp_path: Path) -> None:
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

    def test_a_vm_clock_of_centuries_keeps_its_column_apart(self, store: snapshots.Store) -> None:
        machine = build(paused=True)
        machine.vm_clock.set(1 << 62)
        machine.store = store
        store.save("a", machine)
        store.load("a", machine)
        assert say(monitor(machine), "info snapshots").split()[-2:] == ["19:09:35", "1281023:53:38.427"]
