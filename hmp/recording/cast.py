"""Terminal recordings: asciicast version 2, a header line and then one line of JSON for each event.

Whole lines are written at a time and what a failed write left behind is cut off, so that the file is a valid cast
however the program ends.
"""

from __future__ import annotations

import json
import os
import stat

from hmp.monitor.errors import UsageError
from hmp.monitor.escape import escape
from hmp.streams import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MS = 1_000_000

OUTPUT, RESIZE, MARKER = "o", "r", "m"
"""Kinds of events. There is a fourth, "i" for input: what is typed may be private, and is not recorded."""

_BUFFER = 1 << 16


def header_line(columns: int, rows: int, title: str) -> str:
    """Return the first line of a cast. No time of day in it: the same session shall make the same bytes."""
    return json.dumps({"version": 2, "width": columns, "height": rows, "title": title}) + "\n"


def event_line(at: int, kind: str, data: str) -> str:
    """Return the line for an event `at` ns after the beginning; ASCII, whatever `data` holds."""
    ms = at // MS
    return f"[{ms // 1000}.{ms % 1000:03d}, {json.dumps(kind)}, {json.dumps(data)}]\n"


def create(path: str, *, overwrite: bool, private: bool = False, scripts: Iterable[int] = ()) -> int:
    """Open a new file for a cast; returns its descriptor. `private` lets only its owner read it.

    `scripts` are descriptors of what is to be played: none of them is overwritten. Raises UsageError for a file that
    exists (unless `overwrite`; it is left alone) and for one that can't be created.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    mode = 0o600 if private else 0o666
    try:
        if overwrite:
            _spare(path, scripts)
            descriptor = os.open(path, flags, mode)
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.ftruncate(descriptor, 0)
                if private:
                    os.fchmod(descriptor, mode)
            return descriptor
        return os.open(path, flags | os.O_EXCL, mode)
    except FileExistsError:
        raise UsageError(f"--record: '{escape(path)}': exists; --overwrite replaces it") from None
    except OSError as error:
        raise UsageError(f"--record: '{escape(path)}': {error.strerror}") from None
    except ValueError:
        raise UsageError(f"--record: {path!r}: not a file name") from None


def _spare(path: str, scripts: Iterable[int]) -> None:
    try:
        there = os.stat(path)
    except OSError:
        return  # nothing there, or a reason that open() will name
    for descriptor in scripts:
        if stat.S_ISREG(there.st_mode) and os.path.samestat(there, os.fstat(descriptor)):
            raise UsageError(f"--record: '{escape(path)}': is the script itself")


class Cast:
    """A cast being written to `descriptor`, which it owns from now on.

    Events come in order of time, in ns since the beginning. They are kept until `flush`, or at once with `live`.
    `on_failure` is called, once, with the reason when the file can't be written; nothing is recorded from then on, and
    `failed` stays true.
    """

    __slots__ = ("_descriptor", "_good", "_lines", "_live", "_size", "failed", "on_failure")

    def __init__(
        self,
        descriptor: int,
        *,
        columns: int,
        rows: int,
        title: str,
        on_failure: Callable[[str], None],
        live: bool = False,
    ) -> None:
        self._descriptor = descriptor
        self._lines = [header_line(columns, rows, title)]
        self._size = 0
        self._good = 0
        self._live = live
        self.failed = False
        self.on_failure = on_failure
        self.flush()

    def event(self, at: int, kind: str, data: str) -> None:
        """Note an event: text that was printed, "COLSxROWS" for a new size, the name of a marker."""
        if self.failed:
            return
        line = event_line(at, kind, data)
        self._lines.append(line)
        self._size += len(line)
        if self._live or self._size >= _BUFFER:
            self.flush()

    def flush(self) -> None:
        """Write what was noted so far."""
        if self.failed or not self._lines:
            return
        data = "".join(self._lines).encode()
        self._lines = []
        self._size = 0
        try:
            write_all(self._descriptor, data)
            self._good += len(data)
        except OSError as error:
            self._cut()
            self.fail(error.strerror or str(error))

    def fail(self, reason: str) -> None:
        """Record no more, and say why."""
        if not self.failed:
            self.flush()
        if not self.failed:
            self.failed = True
            self.on_failure(f"the recording ends here: {reason}")

    def _cut(self) -> None:
        """Take back the part of a write that did fit: it may end within a line."""
        try:
            os.ftruncate(self._descriptor, self._good)
        except OSError:
            pass  # a pipe or a device has no length

    def close(self) -> None:
        """Write the rest and close the file."""
        self.flush()
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            try:
                os.close(descriptor)
            except OSError as error:  # some file systems know only now that the disk was full
                self.fail(error.strerror or str(error))
