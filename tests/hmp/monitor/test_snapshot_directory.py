"""The directory of snapshots: leftovers, strangers, locks, odd files and odd disks."""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from pathlib import Path
from typing import BinaryIO

import pytest

from device.fields import SnapshotError
from device.machine.snapshot import MAGIC, Summary
from hmp.monitor import snapshots
from hmp.monitor.snapshots import SUFFIX, DirectoryStore
from tests.support.machines import build, monitor
from tests.support.mounts import mounted, unmount
from tests.support.shell import hmp


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
        """For power cuts, which a test cannot make: the data is synced before the rename, and the name after it."""
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

    def test_a_process_that_locks_the_directory_delays_nobody(
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
    def test_without_locks_everything_but_the_sweeping_works(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError(number, "no locks")

        if number:
            monkeypatch.setattr("fcntl.flock", refuse)
        else:
            monkeypatch.setitem(sys.modules, "fcntl", None)
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

    def test_a_disk_that_fails_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(SnapshotError, match="cannot save snapshot 'a': Input/output error"):
            DirectoryStore(str(tmp_path)).save("a", build())

    def test_a_huge_sparse_file_is_refused_unread(self, tmp_path: Path) -> None:
        """As after `truncate -s 5G` of a snapshot: reading it took 17 s, in which no client was served."""
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
        machine.advance(10**9)
        store.save("a", machine)
        store.delete("b")
        assert [summary.tag for summary in store.summaries()] == ["c", "a"]
        assert read[4:] == [f"a{SUFFIX}"]
