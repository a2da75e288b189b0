"""Descriptors as pipes and files really are: closed, full, hung up, not blocking."""

from __future__ import annotations

import errno
import os
import select

from hmp.monitor.errors import UnreadableError
from hmp.monitor.escape import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from device.machine.machine import Machine

CHUNK = 1 << 16

MAX_LINE = 4095
"""Characters of a line, as QEMU's monitor takes them."""

_MAX_BYTES = MAX_LINE * 4
"""Bytes that many characters can take in UTF-8: more than that in hand is too long without decoding."""

TOO_LONG = f"line too long: more than {MAX_LINE} characters"


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
    """Cuts what comes in chunks into lines, without their ends (\\n or \\r\\n).

    Holds at most the longest line, whatever comes in.
    """

    __slots__ = ("_rest", "_skipping")

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False

    def feed(self, chunk: bytes) -> list[bytes | None]:
        """Return the lines that `chunk` completes; None stands for one that is too long."""
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
        return found

    def close(self) -> list[bytes | None]:
        """Return the last line if it had no end."""
        rest, self._rest = self._rest, b""
        return [rest[:-1] if rest.endswith(b"\r") else rest] if rest else []


def _read(descriptor: int) -> bytes:
    while True:
        try:
            return os.read(descriptor, CHUNK)
        except BlockingIOError:
            poller = select.poll()
            poller.register(descriptor, select.POLLIN)
            poller.poll()


def read_source(descriptor: int) -> bytes:
    """Read what is there, waiting where nothing is; b"" at the end, which a terminal that hangs up has come to.

    Raises UnreadableError for what cannot be read.
    """
    try:
        return _read(descriptor)
    except OSError as error:
        if error.errno != errno.EIO:
            raise UnreadableError(error.strerror) from None
        return b""


def read_lines(descriptor: int, before_blocking: Callable[[], None]) -> Iterator[bytes | None]:
    """Yield each line of a descriptor; None for one that is too long. `before_blocking` is called before each read.

    A terminal that hangs up has come to its end. Raises UnreadableError for what cannot be read.
    """
    splitter = LineSplitter()
    while True:
        before_blocking()
        chunk = read_source(descriptor)
        if not chunk:
            break
        yield from splitter.feed(chunk)
    yield from splitter.close()
