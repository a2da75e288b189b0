"""Descriptors as pipes and files really are: closed, full, hung up, not blocking."""

from __future__ import annotations

import errno
import os
import select

from hmp.monitor.errors import MAX_LINE, UnreadableError
from hmp.monitor.escape import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from device.machine.machine import Machine

CHUNK = 1 << 16

_MAX_BYTES = MAX_LINE * 4
"""Bytes that many characters can take in UTF-8: more than that in hand is too long without decoding."""

STDOUT = "<stdout>"
"""What an OSError of writing there has as its `filename`: other things fail too, and are not to be taken for it."""

_UTF8, *_UTF16 = b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"
"""Byte order marks that editors put at the beginning of a file."""


def fill_standard_descriptors() -> None:
    """Open /dev/null in place of a closed stdin, stdout or stderr.

    Else the next file opened, such as the guest's memory, would become one of them.
    """
    for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)  # the lowest free number, which is this one


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`, waiting where the descriptor does not block. Raises OSError."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            poller = select.poll()
            poller.register(descriptor, select.POLLOUT)
            poller.poll()


def complain(text: str) -> None:
    """Print one line of hmp's own on stderr, whatever is in it; a stderr that cannot take it is ignored."""
    try:
        write_all(2, f"hmp: {escape(text)}".replace("\n", "\\x0a").encode() + b"\n")
    except OSError:
        pass


class naming_stdout:
    """A context in which an OSError is one of writing to stdout."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = STDOUT


class Output:
    """stdout, collected, escaped and written in large pieces. `flush` before anything that blocks."""

    __slots__ = ("_descriptor", "_parts", "_size")

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        self._parts: list[str] = []
        self._size = 0

    def add(self, text: str) -> None:
        """Take text that goes out later. Raises OSError when what was collected cannot be written."""
        self._parts.append(text)
        self._size += len(text)
        if self._size >= CHUNK:
            self.flush()

    def flush(self) -> None:
        """Write what was collected. Raises OSError; the text is dropped then, for it will not fit later either."""
        if self._parts:
            data = escape("".join(self._parts)).encode()
            self._parts = []
            self._size = 0
            with naming_stdout():
                write_all(self._descriptor, data)


_LONGEST_POLL = (1 << 31) - 1
"""ms that poll() takes; a statistics poll may be due in a century, and waking up early does no harm."""


def wait_for_input(descriptor: int, machine: Machine) -> None:
    """Wait until `descriptor` has something, running the machine meanwhile where time is real."""
    time = machine.time
    if machine.clock.simulated:
        return
    while not machine.over:
        watched = machine.descriptors()
        due = time.next_deadline()
        if due is None and not watched:
            return  # nothing to do but block in read()
        if poll_once([descriptor, *watched], due, machine):
            return


def poll_once(descriptors: list[int], due: int | None, machine: Machine) -> bool:
    """Wait for one of `descriptors` or host time `due`, then do what is due; returns whether the first was ready.

    All but the first belong to the guest. The first may be -1 for none.
    """
    poller = select.poll()
    for descriptor in descriptors:
        if descriptor >= 0:
            poller.register(descriptor, select.POLLIN)
    timeout = None if due is None else min(max(0, -((machine.clock.now() - due) // 1_000_000)), _LONGEST_POLL)
    ready = [descriptor for descriptor, _ in poller.poll(timeout)]
    if any(descriptor in ready for descriptor in descriptors[1:]):
        machine.guest.serve()
    machine.time.run_due()
    return descriptors[0] in ready


class LineSplitter:
    """Cuts what comes in chunks into lines, without their ends (\\n or \\r\\n) and a byte order mark before the first.

    Holds at most the longest line, whatever comes in. `size` counts the bytes that `read` took, `over` says whether it
    came to the end.
    """

    __slots__ = ("_begun", "_rest", "_skipping", "over", "size")

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False
        self._begun = False
        self.over = False
        self.size = 0

    def read(self, descriptor: int) -> list[bytes | None]:
        """Read what is there, waiting where nothing is; return the lines that it completes, as `feed`.

        A terminal that hangs up has come to its end. Raises UnreadableError for what cannot be read. In both cases half
        a line is dropped: nobody knows what the rest of it would have been.
        """
        try:
            chunk = _read(descriptor)
        except OSError as error:
            self._rest = chunk = b""
            if not hung_up(descriptor):
                raise UnreadableError(error.strerror) from None
        if not chunk and self._rest and hung_up(descriptor):
            self._rest = b""
        self.size += len(chunk)
        self.over = not chunk
        return self.feed(chunk) if chunk else self.close()

    def feed(self, chunk: bytes) -> list[bytes | None]:
        """Return the lines that `chunk` completes; None stands for one that is too long. Raises UnreadableError."""
        *lines, tail = chunk.split(b"\n")
        found: list[bytes | None] = []
        if lines:
            lines[0] = self._rest + lines[0]
            self._rest = b""
            if self._skipping:  # the end of a line that was told to be too long
                self._skipping = False
                del lines[0]
            if chunk.find(b"\r") >= 0 or (lines and lines[0].endswith(b"\r")):
                lines = [line[:-1] if line.endswith(b"\r") else line for line in lines]
            found += [line if len(line) <= _MAX_BYTES else None for line in lines]
        if not self._skipping:
            self._rest += tail
            if len(self._rest) > _MAX_BYTES + 1:
                found.append(None)
                self._rest, self._skipping = b"", True
        return self._begin(found)

    def close(self) -> list[bytes | None]:
        """Return the last line if it had no end. Raises UnreadableError."""
        rest, self._rest = self._rest, b""
        return self._begin([rest[:-1] if rest.endswith(b"\r") else rest] if rest else [])

    def _begin(self, lines: list[bytes | None]) -> list[bytes | None]:
        if lines and not self._begun:
            self._begun = True
            first = lines[0] or b""
            if first[:2] in _UTF16 and b"\0" in first:
                raise UnreadableError("it is UTF-16; make it UTF-8, as iconv -f UTF-16 -t UTF-8 does")
            if first.startswith(_UTF8):
                lines[0] = first[len(_UTF8) :]
        return lines


def _read(descriptor: int) -> bytes:
    while True:
        try:
            return os.read(descriptor, CHUNK)
        except BlockingIOError:
            poller = select.poll()
            poller.register(descriptor, select.POLLIN)
            poller.poll()


def hung_up(descriptor: int) -> bool:
    """Return whether this is a terminal that has hung up."""
    try:
        os.get_terminal_size(descriptor)
    except OSError as error:
        return error.errno == errno.EIO
    poller = select.poll()  # the kernel says this a moment before all else fails
    poller.register(descriptor, 0)
    return any(flags & select.POLLHUP for _, flags in poller.poll(0))


def read_lines(descriptor: int, before_blocking: Callable[[], None]) -> Iterator[bytes | None]:
    """Yield each line of a descriptor; None for one that is too long. `before_blocking` is called before each read.

    Raises UnreadableError, as LineSplitter.read.
    """
    splitter = LineSplitter()
    while not splitter.over:
        before_blocking()
        yield from splitter.read(descriptor)
