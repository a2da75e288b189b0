"""Files made whole: what was there stays until the new one is worth having, and a failure leaves nothing behind."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterable

from hmp.streams import write_all


def named_again(path: str, others: Iterable[tuple[str, int | str]]) -> str:
    """Return the name of the first of `others` that is the same file as `path`, by whatever link; "" for none.

    They are pairs of a name and a path or descriptor. Devices other than terminals may be shared.
    """
    for name, other in others:
        try:
            there = os.stat(path)
            same = os.path.samestat(there, os.stat(other))
            if same and (not stat.S_ISCHR(there.st_mode) or (isinstance(other, int) and os.isatty(other))):
                return name
        except (OSError, ValueError):  # nothing there, or a reason that open() will name
            pass
    return ""


class NewFile:
    """A file to be written through `descriptor`, which the caller closes; `settle` once it is known to be good.

    A regular file that is overwritten stays until then, for the new one is made beside it; links stay too. FIFOs and
    devices are written to directly, and stdout, by whatever path, where it stands.
    """

    def __init__(self, path: str, *, overwrite: bool, private: bool = False) -> None:
        """Open it, for its owner alone if `private`.

        Raises OSError (FileExistsError unless `overwrite`) and ValueError for what is no file name.
        """
        flags, mode = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600 if private else 0o666
        self._path = self._made = path
        if not overwrite:
            self.descriptor = os.open(path, flags, mode)
            return
        try:
            there = os.stat(path)
        except FileNotFoundError:
            there = None
        stdout = named_again(path, [("stdout", 1)])
        if there is not None and (stdout or not stat.S_ISREG(there.st_mode)):
            self._made = ""
            self.descriptor = os.dup(1) if stdout else os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            return
        if there is not None and not os.access(path, os.W_OK):  # who protects a file means it
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if there is not None and not private:
            mode = stat.S_IMODE(there.st_mode)
        self._path = os.path.realpath(path)
        self._made = os.path.join(os.path.dirname(self._path), f".hmp-{os.getpid()}-{time.monotonic_ns()}")
        try:
            self.descriptor = os.open(self._made, flags, mode)
        except OSError as error:
            beside = "no file can be made beside it: " if there is not None else ""
            raise OSError(error.errno, f"{beside}{error.strerror}") from None
        if there is not None:  # whatever the umask
            os.fchmod(self.descriptor, mode)

    def settle(self, good: bool) -> None:
        """Put it in its place, or take it away again. Raises OSError; it is gone then."""
        try:
            if good and self._made:
                os.replace(self._made, self._path)
        except OSError:
            good = False
            raise
        finally:
            if not good and self._made:
                os.unlink(self._made)


def write_file(path: str, data: bytes, *, overwrite: bool) -> None:
    """Make a file of `data`, the whole of it or none. Raises as NewFile."""
    file, good = NewFile(path, overwrite=overwrite), False
    try:
        try:
            write_all(file.descriptor, data)
        finally:
            os.close(file.descriptor)
        good = True
    finally:
        file.settle(good)
