"""Where snapshots are kept: in memory, or in a directory where another hmp finds them."""

from __future__ import annotations

import errno
import io
import os
import stat
import time

from device.machine.snapshot import Summary, load, save, summarize
from device.plain import SnapshotError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO, TypeAlias

    from device.machine.machine import Machine

    Store: TypeAlias = "MemoryStore | DirectoryStore"

TAG_LIMIT = 128
"""Bytes of a tag: with its suffix it is a file name everywhere."""

SUFFIX = ".hmpsnap"
_CUT = len(SUFFIX)
_TEMPORARY = ".tmp"
_LOCK_TRIES = 100
_LOCK_PAUSE = 0.02


def check_tag(tag: str) -> str:
    """Return `tag` if it can name a snapshot, else raise SnapshotError saying what it may consist of."""
    if not _sound(tag):
        shown = tag if len(tag) <= 40 else f"{tag[:40]}..."
        raise SnapshotError(
            f"'{shown}' cannot name a snapshot: "
            f"1 to {TAG_LIMIT} bytes of printable characters without blanks and slashes"
        )
    return tag


def _sound(tag: str) -> bool:
    # Lone surrogates, which stand for bytes that are no UTF-8, are not printable.
    if not tag or not tag.isprintable() or "/" in tag or " " in tag:
        return False
    return tag not in (".", "..") and len(tag.encode()) <= TAG_LIMIT


def automatic_tag(machine: Machine) -> str:
    """Return the tag of a savevm without one, as QEMU makes it: vm-YYYYMMDDHHMMSS."""
    return time.strftime("vm-%Y%m%d%H%M%S", wall_time(machine.clock.wall(), simulated=machine.clock.simulated))


def wall_time(nanoseconds: int, *, simulated: bool) -> time.struct_time:
    """Return a date for people: in this machine's zone, simulated ones in UTC, so that they are the same anywhere."""
    seconds = nanoseconds // 1_000_000_000
    return time.gmtime(seconds) if simulated else time.localtime(seconds)


class MemoryStore:
    """Snapshots in this process's memory; gone with it."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    def summaries(self) -> list[Summary]:
        """Return all snapshots, oldest first."""
        return sorted((summarize(io.BytesIO(data)) for data in self._kept.values()), key=_by_age)

    def tags(self) -> list[str]:
        """Return the tags, for completion."""
        return sorted(self._kept)

    def save(self, tag: str, machine: Machine) -> None:
        """Keep the machine under `tag`, in place of an older snapshot of that tag. Raises SnapshotError."""
        out = io.BytesIO()
        save(machine, out, tag=check_tag(tag))
        self._kept[tag] = out.getvalue()

    def load(self, tag: str, machine: Machine) -> None:
        """Put the machine back. Raises SnapshotError, and nothing has changed."""
        data = self._kept.get(check_tag(tag))
        if data is None:
            raise _missing(tag)
        try:
            load(machine, io.BytesIO(data))
        except SnapshotError as error:
            raise SnapshotError(f"cannot load snapshot '{tag}': {error}") from None

    def delete(self, tag: str) -> None:
        """Forget a snapshot; nothing if there is none. Raises SnapshotError for what cannot be a tag."""
        self._kept.pop(check_tag(tag), None)


class DirectoryStore:
    """Snapshots as files of mode 0600 in a directory, shared with other processes.

    A snapshot is written beside, synced, and renamed: whenever the process is killed, the old file or the new one is
    there, whole. Writers hold a lock on the directory, so what they find unfinished was left by a killed one and goes.
    """

    def __init__(self, path: str) -> None:
        """Use the directory `path`, which must exist. Raises SnapshotError where it cannot be used."""
        self._path = path
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            raise SnapshotError(f"cannot use the directory '{path}': {error.strerror}") from None

    def summaries(self) -> list[Summary]:
        """Return all snapshots that can be read, oldest first. Raises SnapshotError where the directory cannot be."""
        found = []
        try:
            tags = self._names()
        except OSError as error:
            raise SnapshotError(f"cannot list the snapshots in '{self._path}': {error.strerror}") from None
        for tag in tags:
            try:
                with _open(self._file(tag)) as source:
                    summary = summarize(source)
            except (OSError, SnapshotError):
                continue
            summary.tag = tag
            found.append(summary)
        return sorted(found, key=_by_age)

    def tags(self) -> list[str]:
        """Return the tags, for completion; none where the directory cannot be read."""
        try:
            return self._names()
        except OSError:
            return []

    def _names(self) -> list[str]:
        names = os.listdir(self._path)
        return sorted(name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX) and _sound(name[:-_CUT]))

    def _file(self, tag: str) -> str:
        return os.path.join(self._path, check_tag(tag) + SUFFIX)

    def save(self, tag: str, machine: Machine) -> None:
        """Write the machine to the file of `tag`. Raises SnapshotError; an older file is kept then."""
        path = self._file(tag)
        try:
            with _Locked(self._path) as directory:
                self._sweep()
                temporary = f"{path}.{os.getpid()}{_TEMPORARY}"
                try:
                    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                    with open(descriptor, "wb") as out:
                        os.fchmod(descriptor, 0o600)  # whatever the umask takes away
                        save(machine, out, tag=tag)
                        out.flush()
                        os.fsync(descriptor)
                    os.rename(temporary, path)
                except BaseException:
                    _unlink(temporary)
                    raise
                os.fsync(directory)
        except OSError as error:
            raise SnapshotError(f"cannot save snapshot '{tag}': {error.strerror}") from None

    def load(self, tag: str, machine: Machine) -> None:
        """Put the machine back. Raises SnapshotError, and nothing has changed."""
        path = self._file(tag)
        try:
            with _open(path) as source:
                load(machine, source)
        except FileNotFoundError:
            raise _missing(tag) from None
        except OSError as error:
            raise SnapshotError(f"cannot load snapshot '{tag}': {error.strerror}") from None
        except SnapshotError as error:
            raise SnapshotError(f"cannot load snapshot '{tag}': {error}") from None

    def delete(self, tag: str) -> None:
        """Remove a snapshot's file; nothing if there is none. Raises SnapshotError where it cannot be removed."""
        path = self._file(tag)
        try:
            with _Locked(self._path) as directory:
                self._sweep()
                os.unlink(path)
                os.fsync(directory)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise SnapshotError(f"cannot delete snapshot '{tag}': {error.strerror}") from None

    def _sweep(self) -> None:
        """Remove what killed writers left. Only under the lock: then nobody is writing."""
        for name in os.listdir(self._path):
            if name.endswith(_TEMPORARY) and SUFFIX in name:
                _unlink(os.path.join(self._path, name))


def _open(path: str) -> BinaryIO:
    """Open a snapshot's file. Raises OSError, and SnapshotError for what is no regular file: that could block us."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SnapshotError("it is not a regular file")
    return os.fdopen(descriptor, "rb")


def store_of(machine: Machine) -> Store:
    """Return where the machine's snapshots are kept: in memory unless it was told otherwise."""
    store = machine.store
    if not isinstance(store, (MemoryStore, DirectoryStore)):
        store = machine.store = MemoryStore()
    return store


class _Locked:
    """The lock on a directory, held inside `with`; gives the directory's descriptor."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> int:
        import fcntl  # here: WebAssembly has none, and keeps snapshots in memory

        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_LOCK_PAUSE)
            else:
                return self._descriptor
        os.close(self._descriptor)
        raise OSError(errno.EBUSY, "another hmp has been writing there for two seconds")

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _missing(tag: str) -> SnapshotError:
    return SnapshotError(f"Snapshot '{tag}' does not exist in one or more devices")


def _by_age(summary: Summary) -> tuple[int, str]:
    return summary.date, summary.tag


def lines(summaries: list[Summary]) -> Iterator[str]:
    """Yield the lines of `info snapshots`, in the table shape of QEMU 7.2."""
    yield f"{'ID':<10}{'TAG':<17}{'VM SIZE':>8}{'DATE':>20}{'VM CLOCK':>13}{'ICOUNT':>11}\n"
    for summary in summaries:
        date = time.strftime("%Y-%m-%d %H:%M:%S", wall_time(summary.date, simulated=summary.simulated))
        milliseconds = summary.vm_time // 1_000_000
        seconds, milliseconds = divmod(milliseconds, 1000)
        clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{milliseconds:03}"
        yield f"{'--':<9} {summary.tag:<16} {_size(summary.size):>8}{date:>20}{clock:>13}{'':>11}\n"


def _size(size: int) -> str:
    """Return bytes as QEMU writes a size: three digits and a binary unit."""
    value, unit = float(size), 0
    while value >= 1000 and unit < 5:
        value /= 1024
        unit += 1
    return f"{value:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB')[unit]}"
