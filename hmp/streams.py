"""Reading and writing of descriptors that may be closed, full, hung up or non-blocking."""

from __future__ import annotations

import os
import sys

from hmp import BROKEN_PIPE, FAILED, INTERRUPTED, UNCONNECTED, USAGE
from hmp.monitor import MAX_LINE, UTF_16, ConnectError, UnreadableError, UsageError, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

CHUNK = 1 << 16

_MAX_BYTES = MAX_LINE * 4
"""The most bytes of MAX_LINE characters in UTF-8. If so many came without a line end, the line is too long."""

STDOUT = "<stdout>"
"""The `filename` of an OSError that writing to stdout raised, to tell it from other errors."""

LINES_AT_ONCE = 64
"""How many lines of -c are taken at once."""

_PASSED_OVER = ("", "#")
"""The first characters of lines that are not commands: none for a blank line, # for a comment."""

_FIRST, _LAST = "$", "\x7f"
"""A line between these begins with an ASCII character greater than `#`, so it is neither blank nor a comment."""

_BYTE_ORDER_MARK, _UTF16 = "\ufeff", ("\udcff\udcfe", "\udcfe\udcff")
"""The byte order marks of editors, in the form to which they are decoded here."""


def fill_standard_descriptors() -> None:
    """Open /dev/null in place of a closed stdin, stdout or stderr.

    Else the next file opened, such as the guest's memory, would become one of them. stdout is opened for reading, so
    that printing to a closed stdout is an error, as in other programs: with writing the output would be lost silently.
    """
    for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)  # the lowest free number, which is this one
    if sys.stdout is None:  # Python sets it to None if it was closed, and click would then print nothing
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115


def silence(descriptor: int) -> None:
    """Replace a descriptor that is gone by /dev/null, so that the end of the interpreter cannot fail on it."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, descriptor)
        os.close(null)
    except OSError:
        pass


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`; if the descriptor is non-blocking, wait. Raises OSError."""
    view = memoryview(data)
    while view:
        try:
            # A pipe may take only a part.
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            _await(descriptor, writing=True)


def write_ready(descriptor: int, data: bytearray, patience: int) -> None:
    """Write `data` and remove what is written from it, until it would block for more than `patience` ms.

    Raises OSError.
    """
    import select  # a library to load, which most pipes never need

    poller = select.poll()
    poller.register(descriptor, select.POLLOUT)
    while data and poller.poll(patience):
        try:
            # In pieces that a pipe takes whole: a larger write could block although poll() said it would not.
            del data[: os.write(descriptor, data[: select.PIPE_BUF])]
        except BlockingIOError:  # another process wrote meanwhile
            if not patience:
                return


def complain(text: str, program: str = "hmp") -> None:
    """Print one line on stderr, with control characters escaped. If stderr cannot be written, do nothing."""
    try:
        write_all(2, f"{escape(program)}: {escape(text)}".replace("\n", "\\x0a").encode() + b"\n")
    except OSError:
        pass


class naming_stdout:
    """A context that marks an OSError as one of writing to stdout."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = STDOUT


def guarded(run: Callable[[], int], program: str = "hmp", usage: int = USAGE) -> int:
    """Run, and turn every end into a status and at most one line. `usage` is the status for a wrong command line."""
    try:
        fill_standard_descriptors()
        status = run()
        with naming_stdout():
            sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as end:  # by a signal
        return int(end.code or 0)
    except (UsageError, UnreadableError) as error:
        complain(str(error), program)
        return usage if isinstance(error, UsageError) else FAILED
    except ConnectError as error:
        complain(str(error))
        return UNCONNECTED
    except OSError as error:
        reason = error.strerror or str(error)
        if error.filename != STDOUT:
            complain(f"cannot go on: {reason}" + (f": '{error.filename}'" if error.filename else ""), program)
            return FAILED
        # The interpreter flushes stdout at its end and would fail again.
        silence(1)
        if isinstance(error, BrokenPipeError):
            return BROKEN_PIPE
        complain(f"cannot write output: {reason}", program)
        return FAILED


class Output:
    """Collects text for stdout, escapes it, and writes it in large pieces. Call `flush` before anything that blocks."""

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        self._parts: list[str] = []
        self._size = 0

    def add(self, text: str) -> None:
        """Add text to write later. Raises OSError if the collected text cannot be written."""
        self._parts.append(text)
        self._size += len(text)
        if self._size >= CHUNK:
            self.flush()

    def flush(self) -> None:
        """Write the collected text. Raises OSError; then the text is dropped, because later writes would fail too."""
        if self._parts:
            # Once for all text: escape() is quick for a long harmless text.
            data = escape("".join(self._parts)).encode()
            self._parts = []
            self._size = 0
            with naming_stdout():
                write_all(self._descriptor, data)


class Source:
    """A source of commands: a descriptor to read, or a list of lines. `name` is for messages.

    All lines are read here: it decodes them, and skips a byte order mark, blank lines and comments, but not comments
    that begin with `kept`. It keeps at most one line in memory. `over` says whether the end was reached, `size` is the
    number of bytes that were read.
    """

    def __init__(self, name: str, origin: int | list[str], *, kept: str = "") -> None:
        self.name = name
        self.descriptor: int | None = origin if isinstance(origin, int) else None
        self._given = iter(() if isinstance(origin, int) else origin)
        self.piece = CHUNK
        """The most bytes that one `read` takes."""
        self._kept = kept
        self._number = 0
        self._rest = b""
        self._skipping = False
        self._begun = False
        self.over = False
        self.size = 0

    def read(self) -> Iterable[tuple[int, str | None]]:
        """Read what is there, or wait for something. Returns pairs of a line number and a command.

        None stands for a line that is too long. A terminal that hangs up is at its end. Raises UnreadableError if
        reading fails. In both cases half a line is dropped, because its rest is not known.
        """
        if self.descriptor is None:
            from itertools import islice  # only lines of -c need it, and pipes should not pay for the import

            lines = _measured(list(islice(self._given, LINES_AT_ONCE)))
            self.over = not lines
        else:
            lines = self._read(self.descriptor)
        kept, first = self._kept, self._number + 1
        self._number += len(lines)
        if _all_plain(lines):
            return enumerate(lines, first)
        return (
            (number, line)
            for number, line in enumerate(lines, first)
            if line is None or line.lstrip()[:1] not in _PASSED_OVER or (kept and line.lstrip().startswith(kept))
        )

    def _read(self, descriptor: int) -> list[str | None]:
        try:
            chunk = _read_some(descriptor, self.piece)
        except OSError as error:
            self._rest = chunk = b""
            if not hung_up(descriptor):
                raise UnreadableError(error.strerror) from None
        if not chunk and self._rest and hung_up(descriptor):
            self._rest = b""
        self.size += len(chunk)
        self.over = not chunk
        return self.feed(chunk) if chunk else self.close()

    def feed(self, chunk: bytes) -> list[str | None]:
        """Return the lines that `chunk` completes, without their ends (\\n or \\r\\n). Raises UnreadableError."""
        head, end, tail = chunk.rpartition(b"\n")
        lines: list[str | None] = []
        if end:
            # Only whole lines are decoded, so no character is cut in two.
            lines = _measured(_decoded(self._rest + head).split("\n"))
            self._rest = b""
            if self._skipping:  # the end of a line that was reported as too long
                self._skipping = False
                del lines[0]
        if not self._skipping:
            self._rest += tail
            # Report it now and drop the rest until its end: memory stays bounded whatever comes in.
            if len(self._rest) > _MAX_BYTES + 1:
                lines.append(None)
                self._rest, self._skipping = b"", True
        return self._begin(lines)

    def close(self) -> list[str | None]:
        """Return the last line if it had no end. Raises UnreadableError."""
        rest, self._rest = self._rest, b""
        return self._begin(_measured([_decoded(rest)] if rest else []))

    def _begin(self, lines: list[str | None]) -> list[str | None]:
        if lines and not self._begun:
            self._begun = True
            first = lines[0] or ""
            # Editors on Windows write it; every command would fail, one by one.
            if first.startswith(_UTF16) and "\0" in first:
                raise UnreadableError(UTF_16)
            if first.startswith(_BYTE_ORDER_MARK):
                lines[0] = first[1:]
        return lines


def _decoded(data: bytes) -> str:
    text = data.decode("utf-8", "surrogateescape")
    return text.replace("\r\n", "\n").removesuffix("\r") if "\r" in text else text


def _measured(lines: list[str]) -> list[str | None]:
    return [line if len(line) <= MAX_LINE else None for line in lines]


def _all_plain(lines: list[Any]) -> bool:
    """Return whether all lines are commands, as in most pipes.

    It looks at all lines with functions in C. That saved 1,800 of 71,600 instructions a piped line (callgrind, Python
    3.11).
    """
    return bool(lines) and None not in lines and min(lines) >= _FIRST and max(lines) < _LAST


def _read_some(descriptor: int, size: int) -> bytes:
    while True:
        try:
            return os.read(descriptor, size)
        except BlockingIOError:
            _await(descriptor)


def _await(descriptor: int, *, writing: bool = False) -> None:
    import select  # a library to load, which most pipes never need

    poller = select.poll()
    poller.register(descriptor, select.POLLOUT if writing else select.POLLIN)
    poller.poll()


def hung_up(descriptor: int) -> bool:
    """Return whether the descriptor is a terminal that has hung up."""
    try:
        os.get_terminal_size(descriptor)
    except OSError as error:
        from errno import EIO

        return error.errno == EIO
    import select

    poller = select.poll()  # the kernel reports POLLHUP a moment before other calls fail
    poller.register(descriptor, 0)
    return any(flags & select.POLLHUP for _, flags in poller.poll(0))
