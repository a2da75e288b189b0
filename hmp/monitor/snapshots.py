"""Where snapshots are kept: in memory, or in a directory where another hmp finds them."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any, BinaryIO, TypeAlias

from device.fields import SnapshotError
from device.guest.table import make_guest
from device.machine.machine import Machine
from device.machine.snapshot import MAGIC, Summary, load, save, summarize

Store: TypeAlias = "MemoryStore | DirectoryStore"

TAG_LIMIT = 128
"""Bytes of a tag: with its suffix it is a file name everywhere."""

SUFFIX = ".hmpsnap"
_CUT = len(SUFFIX)
_UNFINISHED = re.compile(rf"{re.escape(SUFFIX)}\.[0-9a-f]{{16}}\.tmp\Z")

COUNT_LIMIT = 1000
"""Snapshots kept in memory."""

BYTES_LIMIT = 256 << 20
"""Bytes they may have together. One holds what the guest's RAM holds; of a modelled guest that is some 20 KiB."""


def check_tag(tag: str) -> str:
    """Return `tag` if it can name a snapshot, else raise SnapshotError saying what it may consist of."""
    if not _valid(tag):
        shown = tag if len(tag) <= 40 else f"{tag[:40]}..."
        raise SnapshotError(
            f"'{shown}' cannot name a snapshot: 1 to {TAG_LIMIT} bytes of printable characters without slashes"
        )
    return tag


def _valid(tag: str) -> bool:
    # Lone surrogates, which stand for bytes that are no UTF-8, are not printable.
    if not tag or not tag.isprintable() or "/" in tag:
        return False
    return tag not in (".", "..") and len(tag.encode()) <= TAG_LIMIT


def automatic_tag(machine: Machine) -> str:
    """Return the tag of a savevm without one, as QEMU makes it: vm-YYYYMMDDHHMMSS."""
    return "vm-" + "".join(filter(str.isdigit, date(machine.clock.wall(), simulated=machine.clock.simulated)))


def date(nanoseconds: int, *, simulated: bool) -> str:
    """Return a date for people: in this machine's zone, simulated ones in UTC, so that they are the same anywhere.

    Clocks and files can say anything: a date whose year has not four digits is shown as being before or after those.
    """
    try:
        seconds = nanoseconds // 1_000_000_000
        year, *rest = (time.gmtime if simulated else time.localtime)(seconds)[:6]
    except (ValueError, OverflowError, OSError):
        year, rest = nanoseconds, []
    if year > 9999:
        return "after year 9999"
    if year < 1:
        return "before year 1"
    return "{:04}-{:02}-{:02} {:02}:{:02}:{:02}".format(year, *rest)


class _Bounded(io.BytesIO):
    """A file in memory that takes no more than `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        self._left -= len(data)
        if self._left < 0:
            raise SnapshotError(f"snapshots in memory may have {BYTES_LIMIT >> 20} MiB together: {_WAY_OUT}")
        return super().write(data)


_WAY_OUT = "delete some with delvm, or keep them in files with --snapshot-dir"


class MemoryStore:
    """Snapshots in this process's memory; gone with it. Their number and their size are bounded."""

    rests_until = 0
    """Host time (ns) before which commands do not write if others want to be served; the commands set it."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Summary, bytes]] = {}

    def summaries(self) -> list[Summary]:
        """Return all snapshots, oldest first."""
        return sorted((summary for summary, _ in self._kept.values()), key=_by_age)

    def tags(self) -> list[str]:
        """Return the tags, for completion."""
        return sorted(self._kept)

    def save(self, tag: str, machine: Machine) -> None:
        """Keep the machine under `tag`, in place of an older snapshot of that tag. Raises SnapshotError."""
        self._keep(tag, lambda out: save(machine, out, tag=tag))

    def put(self, tag: str, data: bytes) -> None:
        """Keep a snapshot's file that came from elsewhere, as `save`. Raises SnapshotError for one that is none."""
        self._keep(tag, lambda out: out.write(data))

    def get(self, tag: str) -> bytes:
        """Return a snapshot's file. Raises SnapshotError."""
        if tag not in self._kept:
            raise _lost(tag)
        return self._kept[tag][1]

    def _keep(self, tag: str, write: Callable[[_Bounded], object]) -> None:
        check_tag(tag)
        others = [data for known, (_, data) in self._kept.items() if known != tag]
        if len(others) >= COUNT_LIMIT:
            raise SnapshotError(f"there are {COUNT_LIMIT} snapshots in memory, the most there can be: {_WAY_OUT}")
        out = _Bounded(BYTES_LIMIT - sum(map(len, others)))
        write(out)
        summary = summarize(out)
        summary.tag = tag
        self._kept[tag] = summary, out.getvalue()

    def load(self, tag: str, machine: Machine) -> None:
        """Put the machine back. Raises SnapshotError, and nothing has changed."""
        check_tag(tag)
        _load(tag, machine, lambda: io.BytesIO(self._kept[tag][1]))

    def delete(self, tag: str) -> None:
        """Forget a snapshot; nothing if there is none. Raises SnapshotError for what cannot be a tag."""
        self._kept.pop(check_tag(tag), None)


class DirectoryStore:
    """Snapshots as files of mode 0600 in a directory, shared with other processes.

    A snapshot is written beside, synced, and renamed: whenever the process is killed, the old file or the new one is
    there, whole. A writer holds a lock on its unfinished file, so one that nobody holds was left by a killed one and
    goes. No writer waits for another: a lock on the directory held up all monitors while somebody else had it.
    """

    rests_until = 0
    """As MemoryStore's."""

    def __init__(self, path: str) -> None:
        """Use the directory `path`, which must exist. Raises SnapshotError where it cannot be used."""
        self._path = path
        self._known: dict[str, tuple[tuple[int, ...], Summary | None]] = {}
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            raise SnapshotError(f"cannot use the directory '{path}': {error.strerror}") from None

    def summaries(self) -> list[Summary]:
        """Return all snapshots that can be read, oldest first. Raises SnapshotError where the directory cannot be."""
        before, self._known = self._known, {}
        try:
            tags = self._names()
        except OSError as error:
            raise SnapshotError(f"cannot list the snapshots in '{self._path}': {error.strerror}") from None
        for tag in tags:
            try:
                status = os.stat(self._file(tag))
                version = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
                if before.get(tag, ((),))[0] != version:
                    before[tag] = version, self._summary(tag)
                self._known[tag] = before[tag]
            except OSError:
                continue
        return sorted((summary for _, summary in self._known.values() if summary is not None), key=_by_age)

    def _summary(self, tag: str) -> Summary | None:
        """Return what a list shows of a file, or None for one that is no snapshot. Raises OSError."""
        try:
            with _open(self._file(tag)) as source:
                summary = summarize(source)
        except SnapshotError:
            return None
        summary.tag = tag
        return summary

    def tags(self) -> list[str]:
        """Return the tags, for completion; none where the directory cannot be read."""
        try:
            return self._names()
        except OSError:
            return []

    def _names(self) -> list[str]:
        names = os.listdir(self._path)
        return sorted(name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX) and _valid(name[:-_CUT]))

    def _file(self, tag: str) -> str:
        return os.path.join(self._path, check_tag(tag) + SUFFIX)

    def save(self, tag: str, machine: Machine) -> None:
        """Write the machine to the file of `tag`. Raises SnapshotError; an older file is kept then."""
        path = self._file(tag)
        try:
            _refuse_odd(path)
            self._sweep()
            temporary, descriptor = _unfinished(path)
            try:
                with open(descriptor, "wb") as out:
                    _try(os.fchmod, descriptor, 0o600)  # whatever the umask takes away
                    save(machine, out, tag=tag)
                    out.flush()
                    os.fsync(descriptor)
                    os.rename(temporary, path)
            except BaseException:
                _try(os.unlink, temporary)
                raise
            self._sync()
        except OSError as error:
            raise SnapshotError(f"cannot save snapshot '{tag}': {error.strerror}") from None

    def load(self, tag: str, machine: Machine) -> None:
        """Put the machine back. Raises SnapshotError, and nothing has changed."""
        path = self._file(tag)
        _load(tag, machine, lambda: _open(path))

    def delete(self, tag: str) -> None:
        """Remove a snapshot's file; nothing if there is none. Raises SnapshotError where it cannot be removed."""
        path = self._file(tag)
        try:
            _refuse_odd(path)
            os.unlink(path)
            self._sync()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise SnapshotError(f"cannot delete snapshot '{tag}': {error.strerror}") from None
        self._sweep()

    def _sync(self) -> None:
        """Get the names to the disk; some file systems do not know how, and need not. Raises OSError."""
        descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
                raise
        finally:
            os.close(descriptor)

    def _sweep(self) -> None:
        """Remove what killed writers left, and only what is surely that: by name, owner, mode, content and lock."""
        for name in _try(os.listdir, self._path) or ():
            if _UNFINISHED.search(name):
                path = os.path.join(self._path, name)
                try:
                    with _open(path, os.O_RDWR | os.O_NOFOLLOW) as file:
                        it = os.fstat(file.fileno())
                        ours = (it.st_uid, stat.S_IMODE(it.st_mode), it.st_nlink) == (os.geteuid(), 0o600, 1)
                        if ours and MAGIC.startswith(file.read(len(MAGIC))) and _lock(file.fileno()):
                            os.unlink(path)
                except (OSError, SnapshotError):
                    continue


def _try(act: Callable[..., Any], *arguments: object) -> Any:
    """Do what may fail without harm; returns None then."""
    try:
        return act(*arguments)
    except OSError:
        return None


def _refuse_odd(path: str) -> None:
    """Raise OSError for what is neither a file nor a link: nobody who names a snapshot wants that to go."""
    status = _try(os.lstat, path)
    if status is not None and not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
        raise OSError(errno.EINVAL, "it is not a regular file")


def _unfinished(path: str) -> tuple[str, int]:
    """Make the file that becomes `path`, with the lock on it where there are locks. Raises OSError."""
    while True:
        name = f"{path}.{os.urandom(8).hex()}.tmp"
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        if _lock(descriptor) is not False and os.fstat(descriptor).st_nlink:
            return name, descriptor
        os.close(descriptor)  # a sweeper came between


def _lock(descriptor: int) -> bool | None:
    """Take the lock on a file: False where another has it, None where there are no locks, as on some network disks."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (OSError, ImportError):
        return None
    return True


def _open(path: str, flags: int = os.O_RDONLY) -> BinaryIO:
    """Open a snapshot's file. Raises OSError, and SnapshotError for what is no regular file.

    It is asked before it is opened as well: to open a device or a FIFO does something to it.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise SnapshotError("it is not a regular file")
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
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


def _load(tag: str, machine: Machine, opened: Callable[[], BinaryIO]) -> None:
    """Put the machine back to the snapshot that `opened` returns. Raises SnapshotError, and nothing has changed."""
    try:
        with opened() as source:
            load(machine, source, make_guest)
    except (KeyError, FileNotFoundError):
        raise _lost(tag) from None
    except (OSError, SnapshotError) as error:
        raise SnapshotError(f"cannot load snapshot '{tag}': {getattr(error, 'strerror', error)}") from None


def _lost(tag: str) -> SnapshotError:
    return SnapshotError(f"Snapshot '{tag}' does not exist in one or more devices")


_by_age = attrgetter("date", "tag")


def lines(summaries: list[Summary]) -> Iterator[str]:
    """Yield the lines of `info snapshots`, in the table shape of QEMU 7.2."""
    yield f"{'ID':<10}{'TAG':<17}{'VM SIZE':>8}{'DATE':>20}{'VM CLOCK':>13}{'ICOUNT':>11}\n"
    for summary in summaries:
        when = date(summary.date, simulated=summary.simulated)
        milliseconds = summary.vm_time // 1_000_000
        seconds, milliseconds = divmod(milliseconds, 1000)
        clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{milliseconds:03}"
        yield f"{'--':<9} {summary.tag:<16} {_size(summary.size):>8}{when:>20} {clock:>12}{'':>11}\n"


def _size(size: int) -> str:
    """Return bytes as QEMU writes a size: three digits and a binary unit."""
    value, unit = float(size), 0
    while value >= 1000 and unit < 5:
        value /= 1024
        unit += 1
    return f"{value:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB')[unit]}"
