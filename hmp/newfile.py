"""Makes complete files: an old file stays until the new one is complete, and a failure leaves nothing behind."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterable

from hmp.streams import write_all


def find_same_file(path: str, others: Iterable[tuple[str, int | str]]) -> str:
    """Return the name of the first of `others` that is the same file as `path`, also through links; "" for none.

    `others` has pairs of a name and a path or descriptor. Devices other than terminals may be shared.
    """
    for name, other in others:
        try:
            there = os.stat(path)
            same = os.path.samestat(there, os.stat(other))
            # Two uses of /dev/null do not disturb each other; two uses of a terminal or a file do.
            if same and (not stat.S_ISCHR(there.st_mode) or (isinstance(other, int) and os.isatty(other))):
                return name
        except (OSError, ValueError):  # there is no file, or open() will report the reason
            pass
    return ""


class NewFile:
    """A file to write through `descriptor`, which the caller closes. Then call `settle`.

    If a regular file is overwritten, the new one is made beside it and takes its place in `settle`; symbolic links
    stay. FIFOs and devices are written to directly. If the path is the file of stdout, the text goes to the present
    position of stdout.
    """

    def __init__(self, path: str, *, overwrite: bool, private: bool = False) -> None:
        """Open the file, with mode 0600 if `private`.

        Raises OSError (FileExistsError unless `overwrite`), and ValueError if `path` cannot be a file name.
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
        stdout = find_same_file(path, [("stdout", 1)])
        if there is not None and (stdout or not stat.S_ISREG(there.st_mode)):
            self._made = ""
            # Not opened again: that would have a position of its own, and write over what was printed.
            self.descriptor = os.dup(1) if stdout else os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            return
        # A rename would replace a file that is protected from writing.
        if there is not None and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if there is not None and not private:
            mode = stat.S_IMODE(there.st_mode)
        # Follow links, so that the file is replaced and the link stays.
        self._path = os.path.realpath(path)
        self._made = os.path.join(os.path.dirname(self._path), f".hmp-{os.getpid()}-{time.monotonic_ns()}")
        try:
            self.descriptor = os.open(self._made, flags, mode)
        except OSError as error:
            beside = "no file can be made beside it: " if there is not None else ""
            raise OSError(error.errno, f"{beside}{error.strerror}") from None
        if there is not None:  # the umask may have removed permissions
            os.fchmod(self.descriptor, mode)

    def settle(self, good: bool) -> None:
        """Put the file in its place, or remove it if it is not good. Raises OSError, and then it is removed."""
        try:
            if good and self._made:
                os.replace(self._made, self._path)
        except OSError:
            good = False
            raise
        finally:
            if not good and self._made:
                # An incomplete file must not stay.
                os.unlink(self._made)


def write_file(path: str, data: bytes, *, overwrite: bool) -> None:
    """Make a file with `data`, completely or not at all. Raises what NewFile raises."""
    file, good = NewFile(path, overwrite=overwrite), False
    try:
        try:
            write_all(file.descriptor, data)
        finally:
            os.close(file.descriptor)
        good = True
    finally:
        file.settle(good)
