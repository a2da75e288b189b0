"""Snapshots in a directory, when the disk is full, a writer is killed, or two write at once."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from device.fields import SnapshotError
from device.machine.machine import Machine
from device.machine.snapshot import save
from hmp.monitor import snapshots
from hmp.monitor.snapshots import SUFFIX, DirectoryStore
from tests.support.machines import build, monitor
from tests.support.mounts import mounted, unmount
from tests.support.snapshots import saved, settled

# A disk that is full.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a directory with room for about one snapshot of a small machine."""
    if os.geteuid() or not mounted("-t", "tmpfs", "-o", "size=48k", "none", str(tmp_path)):
        pytest.skip("a tiny disk needs root, who may mount")
    yield tmp_path
    unmount(tmp_path)


def test_a_full_disk_keeps_the_old_snapshot(small_disk: Path) -> None:
    machine = build(memory=64)
    store = DirectoryStore(str(small_disk))
    store.save("a", machine)
    old = saved(machine, "a")
    machine.set_balloon(32 << 20)
    machine.memory.write(1 << 24, b"x" * (64 << 10))
    with pytest.raises(SnapshotError, match="cannot save snapshot 'a': No space left on device"):
        store.save("a", machine)
    with pytest.raises(SnapshotError, match="No space left"):
        store.save("b", machine)
    assert os.listdir(small_disk) == [f"a{SUFFIX}"]
    assert (small_disk / f"a{SUFFIX}").read_bytes() == old
    store.load("a", machine)


def in_child(work: Callable[[], object]) -> int:
    """Do `work` in a child process; returns its wait status, exit status 0 if nothing was raised."""
    child = os.fork()
    if not child:
        status = 9
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def test_a_file_that_may_not_grow_keeps_the_old_snapshot(tmp_path: Path) -> None:
    import resource

    machine = build(memory=64)
    store = DirectoryStore(str(tmp_path))
    store.save("a", machine)
    machine.memory.write(1 << 24, b"x" * (64 << 10))

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (48 << 10, 48 << 10))
        with pytest.raises(SnapshotError, match="File too large"):
            store.save("a", machine)

    assert in_child(work) == 0
    assert os.listdir(tmp_path) == [f"a{SUFFIX}"]
    store.load("a", machine)


# Kills.


def every_tag_loads(directory: Path, versions: list[bytes], machine: Machine | None = None) -> None:
    """Assert that nothing is incomplete: each snapshot loads, and is one of the versions that were saved."""
    store, machine = DirectoryStore(str(directory)), machine or build(memory=4, paused=True)
    for tag in store.tags():
        store.load(tag, machine)
        assert settled(saved(machine)) in [settled(version) for version in versions]
    assert len(store.summaries()) == len(store.tags())


def two_versions() -> tuple[list[bytes], Callable[[DirectoryStore], None]]:
    """Return two states of a machine, and what saves them in turns for ever: of one that runs, by its monitor."""
    small, large = build(memory=4, paused=True), build(memory=4)
    large.memory.write(1 << 21, os.urandom(1 << 20))

    def keep_saving(store: DirectoryStore) -> None:
        large.store = store
        there = monitor(large)
        while True:
            for tag in ("a", "b"):
                assert not there.execute(f"savevm {tag}").failed
                store.save(tag, small)

    return [saved(small), saved(large)], keep_saving


def kill_at_random(directory: Path, times: int) -> None:
    dice = random.Random(20100111)
    versions, keep_saving = two_versions()
    store, loader = DirectoryStore(str(directory)), build(memory=4, paused=True)
    for _ in range(times):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.write(writer, b"x")
                keep_saving(store)
            finally:
                os._exit(9)
        os.read(reader, 1)
        moment = time.perf_counter() + dice.random() * 0.02
        while time.perf_counter() < moment:
            pass
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        os.close(reader)
        os.close(writer)
        every_tag_loads(directory, versions, loader)  # building new machines would close those that are saved
    store.save("a", build(memory=4, paused=True))
    assert {name for name in os.listdir(directory) if not name.endswith(SUFFIX)} == set(), "leftovers were swept"


def test_a_kill_at_20_random_moments_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    kill_at_random(tmp_path, 20)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_kill_at_200_random_moments_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    kill_at_random(tmp_path, 200)


STEPS = ("open", "fchmod", "fsync", "rename", "unlink", "close", "listdir")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_kill_around_every_step_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    old, new = build(memory=4, paused=True), build(memory=4, paused=True)
    new.memory.write(1 << 21, b"x" * (1 << 20))
    store = DirectoryStore(str(tmp_path))
    original = getattr(os, step)

    for occurrence in range(4):
        store.save("a", old)
        left = [occurrence]

        def deadly(*arguments: object, left: list[int] = left, **keywords: object) -> object:
            left[0] -= 1
            if left[0] < 0 and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*arguments, **keywords)
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        monkeypatch.setattr(os, step, deadly)
        status = in_child(lambda: store.save("a", new))
        monkeypatch.undo()
        assert status in (0, signal.SIGKILL)
        every_tag_loads(tmp_path, [saved(old), saved(new)])
        assert store.tags() == ["a"]


def test_a_kill_in_the_midst_of_writing_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = build(memory=4, paused=True)
    store = DirectoryStore(str(tmp_path))
    store.save("a", machine)
    old = saved(machine)

    def die_writing(machine: object, out: object, *, tag: str) -> None:
        save(machine, out, tag=tag)  # type: ignore[arg-type]
        out.flush()  # type: ignore[attr-defined]
        out.truncate(5000)  # type: ignore[attr-defined]
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(snapshots, "save", die_writing)
    assert in_child(lambda: store.save("a", machine)) == signal.SIGKILL
    monkeypatch.undo()
    assert len(os.listdir(tmp_path)) == 2
    every_tag_loads(tmp_path, [old])


# Neighbours.


def test_two_processes_on_one_directory(tmp_path: Path) -> None:
    """Both save, load, list and delete the same tags; none ever finds an incomplete file, or fails except for a missing one."""
    small, large = build(memory=4, paused=True), build(memory=4, paused=True)
    large.memory.write(1 << 21, b"x" * (1 << 18))

    def work(seed: int) -> None:
        dice, store, machine = random.Random(seed), DirectoryStore(str(tmp_path)), build(memory=4, paused=True)
        for _ in range(60):
            tag = dice.choice("abc")
            match dice.randrange(5):
                case 0 | 1:
                    store.save(tag, dice.choice((small, large)))
                case 2:
                    store.delete(tag)
                case 3:
                    for summary in store.summaries():
                        assert summary.tag in "abc"
                case _:
                    try:
                        store.load(tag, machine)
                    except SnapshotError as error:
                        if "does not exist" not in str(error):
                            raise

    children = []
    for seed in range(3):
        child = os.fork()
        if not child:
            status = 9
            try:
                work(seed)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    every_tag_loads(tmp_path, [saved(small), saved(large)])
    assert all(name.endswith(SUFFIX) for name in os.listdir(tmp_path))
