"""Where snapshots are kept: in memory, or in a directory that other hmp processes can read too."""

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
from hmp.monitor import escape

Store: TypeAlias = "MemoryStore | DirectoryStore"

TAG_LIMIT = 128
"""The most bytes of a tag. Together with the suffix it is a valid file name on every file system."""

SUFFIX = ".hmpsnap"
_CUT = len(SUFFIX)
_UNFINISHED = re.compile(rf"{re.escape(SUFFIX)}\.[0-9a-f]{{16}}\.tmp\Z")

COUNT_LIMIT = 1000
"""The most snapshots in memory."""

BYTES_LIMIT = 256 << 20
"""The most bytes of all snapshots in memory.

One has all that the guest's RAM holds: about 20 KiB for a modelled guest.
"""


def check_tag(tag: str) -> str:
    """Return `tag` if it can name a snapshot. Raises SnapshotError, which says what a tag may contain."""
    if not _valid(tag):
        # A line of the monitor may have 4,095 characters; the error need not repeat them all.
        shown = escape(tag if len(tag) <= 40 else f"{tag[:40]}...")
        what = f"1 to {TAG_LIMIT} bytes of printable characters without slashes"
        raise SnapshotError(f"'{shown}' cannot name a snapshot: {what}")
    return tag


def _valid(tag: str) -> bool:
    # isprintable() also refuses lone surrogates, which stand for bytes that are not UTF-8. A tag may have blanks. It
    # may not leave the directory.
    if not tag or not tag.isprintable() or "/" in tag:
        return False
    return tag not in (".", "..") and len(tag.encode()) <= TAG_LIMIT


def automatic_tag(machine: Machine) -> str:
    """Return the tag for a `savevm` without a tag, in QEMU's form: vm-YYYYMMDDHHMMSS, and -2 behind it for another."""
    # QEMU gives all of one second the same tag, and loadvm finds the first.
    tag = "vm-" + "".join(filter(str.isdigit, date(machine.clock.wall(), simulated=machine.clock.simulated)))
    made, taken, number = tag, store_of(machine).tags(), 1
    while made in taken:
        number += 1
        made = f"{tag}-{number}"
    return made


def date(nanoseconds: int, *, simulated: bool) -> str:
    """Return a date for people, in local time; simulated ones in UTC, so that every run prints the same.

    A clock or a file can have any date. For a year outside 1 to 9999 the text only says before or after.
    """
    try:
        seconds = nanoseconds // 1_000_000_000
        year, *rest = (time.gmtime if simulated else time.localtime)(seconds)[:6]
    except (ValueError, OverflowError, OSError):
        year, rest = nanoseconds, []
    if not 1 <= year <= 9999:
        return "before year 1" if year < 1 else "after year 9999"
    return "{:04}-{:02}-{:02} {:02}:{:02}:{:02}".format(year, *rest)


class _Bounded(io.BytesIO):
    """A file in memory that takes at most `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        # Checked at each write and not at the end: RAM can be larger than the memory of this process may become.
        self._left -= len(data)
        if self._left < 0:
            raise SnapshotError(f"snapshots in memory may take {BYTES_LIMIT >> 20} MiB together: {_WHAT_TO_DO}")
        return super().write(data)


_WHAT_TO_DO = "delete some with delvm, or keep them in files with --snapshot-dir"


class MemoryStore:
    """Snapshots in the memory of this process, which end with it. Their number and total size are limited."""

    paused_until = 0
    """If there are other monitors, no command writes before this host time (ns). The commands set it (_in_turn)."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Summary, bytes]] = {}

    def summaries(self) -> list[Summary]:
        """Return all snapshots, oldest first."""
        return sorted((summary for summary, _ in self._kept.values()), key=_by_age)

    def tags(self) -> list[str]:
        """Return the tags in alphabetical order, for completion."""
        return sorted(self._kept)

    def save(self, tag: str, machine: Machine) -> None:
        """Save the machine as `tag`. It replaces an older snapshot with that tag. Raises SnapshotError."""
        self._keep(tag, lambda out: save(machine, out, tag=tag))

    def put(self, tag: str, data: bytes) -> None:
        """Keep a snapshot's file that came from elsewhere, as `save`. Raises SnapshotError if it is not a snapshot."""
        self._keep(tag, lambda out: out.write(data))

    def get(self, tag: str) -> bytes:
        """Return a snapshot's file. Raises SnapshotError."""
        if tag not in self._kept:
            raise _not_found(tag)
        return self._kept[tag][1]

    def _keep(self, tag: str, write: Callable[[_Bounded], object]) -> None:
        check_tag(tag)
        # The snapshot that is replaced does not count. It is kept until the new one is complete.
        others = [data for known, (_, data) in self._kept.items() if known != tag]
        if len(others) >= COUNT_LIMIT:
            raise SnapshotError(f"there are {COUNT_LIMIT} snapshots in memory, the most there can be: {_WHAT_TO_DO}")
        out = _Bounded(BYTES_LIMIT - sum(map(len, others)))
        write(out)
        summary = summarize(out)
        summary.tag = tag
        self._kept[tag] = summary, out.getvalue()

    def load(self, tag: str, machine: Machine) -> None:
        """Put the machine back. Raises SnapshotError, and then nothing has changed."""
        _load(tag, machine, lambda: io.BytesIO(self._kept[tag][1]))

    def delete(self, tag: str) -> None:
        """Delete a snapshot; no error if there is none."""
        self._kept.pop(tag, None)


class DirectoryStore:
    """Snapshots as files of mode 0600 in a directory, shared with other processes.

    A snapshot is written to a temporary file, synced, and renamed. So there is always a complete file, the old one or
    the new one, even if the process is killed. A writer holds a lock on its temporary file. If nobody holds that lock,
    its writer was killed and the file is removed. No writer waits for another. A lock on the whole directory was
    rejected: all monitors hung for up to two seconds while another process had it.
    """

    paused_until = 0
    """As in MemoryStore."""

    def __init__(self, path: str) -> None:
        """Use the directory `path`, which must exist. Raises SnapshotError if it cannot be used."""
        self._path = path
        self._known: dict[str, tuple[tuple[int, ...], Summary | None]] = {}
        try:
            # Open it once now, so that a wrong path is an error at the start and not at the first savevm.
            os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            raise SnapshotError(f"cannot use the directory '{path}': {error.strerror}") from None

    def summaries(self) -> list[Summary]:
        """Return all readable snapshots, oldest first. Raises SnapshotError if the directory cannot be listed."""
        before, self._known = self._known, {}
        try:
            tags = self._names()
        except OSError as error:
            raise SnapshotError(f"cannot list the snapshots in '{self._path}': {error.strerror}") from None
        for tag in tags:
            try:
                status = os.stat(self._file(tag))
                # Read a file again only if it has changed: a list of many snapshots would read all of them each time.
                version = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
                if before.get(tag, ((),))[0] != version:
                    before[tag] = version, self._summary(tag)
                # Only files that are still there are remembered.
                self._known[tag] = before[tag]
            except OSError:
                continue
        return sorted((summary for _, summary in self._known.values() if summary is not None), key=_by_age)

    def _summary(self, tag: str) -> Summary | None:
        """Return what the list shows about a file, or None if it is not a snapshot. Raises OSError."""
        try:
            with _open(self._file(tag)) as source:
                summary = summarize(source)
        except SnapshotError:
            return None
        # The name of the file decides: a user may have renamed or copied it.
        summary.tag = tag
        return summary

    def tags(self) -> list[str]:
        """Return the tags, for completion; none if the directory cannot be read."""
        return [*(_try(self._names) or ())]

    def _names(self) -> list[str]:
        names = os.listdir(self._path)
        return sorted(name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX) and _valid(name[:-_CUT]))

    def _file(self, tag: str) -> str:
        return os.path.join(self._path, check_tag(tag) + SUFFIX)

    def save(self, tag: str, machine: Machine) -> None:
        """Write the machine to the file of `tag`. Raises SnapshotError, and then an older file is kept."""
        path = self._file(tag)
        try:
            _refuse_special_file(path)
            self._sweep()
            temporary, descriptor = _unfinished(path)
            try:
                with open(descriptor, "wb") as out:
                    _try(os.fchmod, descriptor, 0o600)  # the umask may have removed permissions
                    save(machine, out, tag=tag)
                    out.flush()
                    # Before the rename: else a crash of the host could leave the new name with an empty file.
                    os.fsync(descriptor)
                    os.rename(temporary, path)
            except BaseException:
                _try(os.unlink, temporary)
                raise
            self._sync()
        except OSError as error:
            raise SnapshotError(f"cannot save snapshot '{tag}': {error.strerror}") from None

    def load(self, tag: str, machine: Machine) -> None:
        """Put the machine back. Raises SnapshotError, and then nothing has changed."""
        _load(tag, machine, lambda: _open(self._file(tag)))

    def delete(self, tag: str) -> None:
        """Remove the file of a snapshot; no error if there is none. Raises SnapshotError if it cannot be removed."""
        if not _valid(tag):
            return
        path = self._file(tag)
        try:
            _refuse_special_file(path)
            os.unlink(path)
            self._sync()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise SnapshotError(f"cannot delete snapshot '{tag}': {error.strerror}") from None
        self._sweep()

    def _sync(self) -> None:
        """Write the directory to the disk. Some file systems cannot sync a directory, which is no error.

        Raises OSError.
        """
        descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
                raise
        finally:
            os.close(descriptor)

    def _sweep(self) -> None:
        """Remove files that killed writers left.

        To remove no other file, it checks name, owner, mode, content and lock.
        """
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
    """Call `act`; if it raises OSError, which does no harm here, return None."""
    try:
        return act(*arguments)
    except OSError:
        return None


def _refuse_special_file(path: str) -> None:
    """Raise OSError if `path` is neither a file nor a link.

    The rename would replace a FIFO or a device, which no user wants.
    """
    status = _try(os.lstat, path)
    if status is not None and not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
        raise OSError(errno.EINVAL, "it is not a regular file")


def _unfinished(path: str) -> tuple[str, int]:
    """Make the temporary file for `path`, and lock it if the file system has locks. Raises OSError."""
    while True:
        name = f"{path}.{os.urandom(8).hex()}.tmp"
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        if _lock(descriptor) is not False and os.fstat(descriptor).st_nlink:
            return name, descriptor
        os.close(descriptor)  # between open and lock another process swept it, because it looked abandoned


def _lock(descriptor: int) -> bool | None:
    """Lock a file. False: another process has the lock. None: there are no locks, as on some network disks."""
    try:
        # Imported here, because hosts without fcntl can still save: nothing is swept there.
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (OSError, ImportError):
        return None
    return True


def _open(path: str, flags: int = os.O_RDONLY) -> BinaryIO:
    """Open a snapshot's file. Raises OSError, and SnapshotError if it is not a regular file."""
    # Checked before the open, because opening a device or a FIFO can have effects.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise SnapshotError("it is not a regular file")
    # Checked again after the open, because the file may have been replaced in between.
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SnapshotError("it is not a regular file")
    return os.fdopen(descriptor, "rb")


def store_of(machine: Machine) -> Store:
    """Return the store of the machine's snapshots; the default is in memory."""
    store = machine.store
    if not isinstance(store, (MemoryStore, DirectoryStore)):
        store = machine.store = MemoryStore()
    return store


def _load(tag: str, machine: Machine, opened: Callable[[], BinaryIO]) -> None:
    """Put the machine back to the snapshot that `opened` returns.

    Raises SnapshotError, and then nothing has changed.
    """
    try:
        if not _valid(tag):
            raise KeyError
        with opened() as source:
            load(machine, source, make_guest)
    except (KeyError, FileNotFoundError):
        raise _not_found(tag) from None
    except (OSError, SnapshotError) as error:
        raise SnapshotError(f"cannot load snapshot '{tag}': {getattr(error, 'strerror', error)}") from None


def _not_found(tag: str) -> SnapshotError:
    return SnapshotError(f"Snapshot '{tag}' does not exist in one or more devices")


_by_age = attrgetter("date", "tag")


def lines(summaries: list[Summary]) -> Iterator[str]:
    """Yield the lines of `info snapshots`, in the layout of QEMU 7.2."""
    yield f"{'ID':<10}{'TAG':<17}{'VM SIZE':>8}{'DATE':>20}{'VM CLOCK':>13}{'ICOUNT':>11}\n"
    for summary in summaries:
        when = date(summary.date, simulated=summary.simulated)
        milliseconds = summary.vm_time // 1_000_000
        seconds, milliseconds = divmod(milliseconds, 1000)
        clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{milliseconds:03}"
        yield f"{'--':<9} {summary.tag:<16} {_size(summary.size):>8}{when:>20} {clock:>12}{'':>11}\n"


def _size(size: int) -> str:
    """Return a number of bytes in QEMU's form: three digits and a binary unit."""
    value, unit = float(size), 0
    # At 1000 and not at 1024, so that there are never four digits.
    while value >= 1000 and unit < 5:
        value /= 1024
        unit += 1
    return f"{value:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB')[unit]}"
