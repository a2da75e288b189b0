"""Terminal recordings: asciicast version 2, a header line and then one line of JSON for each event.

Only whole lines are written, and the part of a line that a failed write left is cut off. So the file is a valid cast
however the program ends.
"""

from __future__ import annotations

import codecs
import json
import os
import time
from collections.abc import Callable, Iterable

from device.clock import MS
from hmp.monitor import UsageError, escape
from hmp.newfile import NewFile, find_same_file
from hmp.streams import write_all

OUTPUT, RESIZE, MARKER = "o", "r", "m"
"""Kinds of events. There is a fourth, "i" for input: what is typed may be private, and is not recorded."""

# Characters that are kept before a write: a script that is played makes thousands of short events.
_BUFFER = 1 << 16


def header_line(columns: int, rows: int, title: str) -> str:
    """Return the first line of a cast. It has no time of day, so that the same script makes the same bytes."""
    return json.dumps({"version": 2, "width": columns, "height": rows, "title": title}) + "\n"


def event_line(at: int, kind: str, data: str) -> str:
    """Return the line for an event `at` ns after the beginning; ASCII, whatever `data` holds."""
    ms = at // MS
    return f"[{ms // 1000}.{ms % 1000:03d}, {json.dumps(kind)}, {json.dumps(data)}]\n"


def create(
    path: str, *, overwrite: bool, private: bool = False, in_use: Iterable[tuple[str, int | str]] = ()
) -> NewFile:
    """Open a new file for a cast. `private` lets only its owner read it.

    `in_use` are files that the run uses, as for `find_same_file`. Raises UsageError for one of those, for a file that
    exists (unless `overwrite`) and for one that cannot be created. An existing file is not changed then.
    """
    if path == "-":  # in other options this means stdout, so a file of this name is not meant
        raise UsageError("--record: '-': a recording needs a file, stdout has the session")
    try:
        other = find_same_file(path, in_use)
        if other and overwrite:
            raise UsageError(f"--record: '{escape(path)}': is {other}")
        return NewFile(path, overwrite=overwrite, private=private)
    except FileExistsError:
        raise UsageError(f"--record: '{escape(path)}': exists; --overwrite replaces it") from None
    except OSError as error:
        raise UsageError(f"--record: '{escape(path)}': {error.strerror}") from None
    except ValueError:
        raise UsageError(f"--record: {path!r}: not a file name") from None


class Cast:
    """A cast being written to `descriptor`, which it owns from now on.

    Events come in order of time, in ns since the beginning. They are kept until `flush`, or at once with `live`.
    `on_failure` is called, once, with the reason when the file can't be written; nothing is recorded from then on, and
    `failed` stays true.
    """

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
        """Add an event `at` (ns) with its data: the output, "COLSxROWS" of a new size, or the name of a marker."""
        if self.failed:
            return
        line = event_line(at, kind, data)
        self._lines.append(line)
        self._size += len(line)
        if self._live or self._size >= _BUFFER:
            self.flush()

    def flush(self) -> None:
        """Write the events so far."""
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
        """Remove the part of a failed write that was written: it may end within a line."""
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


_WHERE = "\x1b[6n"
"""Asks the terminal where its cursor is. When the cast is played, the terminal's answer would look like typed keys."""


class Tape:
    """A cast on `descriptor` of the output for a terminal, with its times; `size` is (columns, rows)."""

    def __init__(
        self,
        descriptor: int,
        size: tuple[int, int],
        *,
        title: str,
        on_failure: Callable[[str], None],
        encoding: str = "utf-8",
        now: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._now, self._begin, self._size = now, now(), size
        # Incremental, because a write may end within a character.
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self.cast = Cast(descriptor, columns=size[0], rows=size[1], title=title, on_failure=on_failure, live=True)

    def shown(self, data: bytes, size: tuple[int, int]) -> None:
        """Record output for a terminal whose size is now `size`."""
        if self.cast.failed:
            return
        at = self._now() - self._begin
        if size != self._size:
            self._size = size
            self.cast.event(at, RESIZE, f"{size[0]}x{size[1]}")
        text = self._decoder.decode(data)
        if text:
            # A terminal driver turns LF into CR LF; players of casts do not.
            self.cast.event(at, OUTPUT, text.replace(_WHERE, "").replace("\r\n", "\n").replace("\n", "\r\n"))
