"""Descriptors as pipes and files really are: closed, full, hung up, not blocking."""

from __future__ import annotations

import os

from hmp.monitor import MAX_LINE, UnreadableError, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

CHUNK = 1 << 16

_MAX_BYTES = MAX_LINE * 4
"""Bytes that many characters can take in UTF-8: a beginning that is longer is too long without its end."""

STDOUT = "<stdout>"
"""What an OSError of writing there has as its `filename`: other things fail too, and are not to be taken for it."""

LINES_AT_ONCE = 64
"""Lines, of those that are there already, that are read at once."""

_PASSED_OVER = ("", "#")
"""First characters of lines that are no commands."""

_FIRST, _LAST = "$", "\x7f"
"""Between them lie lines that begin with an ASCII character behind `#`: neither blank nor comments."""

_BYTE_ORDER_MARK, _UTF16 = "\ufeff", ("\udcff\udcfe", "\udcfe\udcff")
"""Byte order marks that editors put at the beginning of a file, as they are decoded."""


def fill_standard_descriptors() -> None:
    """Open /dev/null in place of a closed stdin, stdout or stderr.

    Else the next file opened, such as the guest's memory, would become one of them.
    """
    for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)  # the lowest free number, which is this one


def silence(descriptor: int) -> None:
    """Let nothing more be written to a descriptor that is gone, also when the interpreter ends."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, descriptor)
        os.close(null)
    except OSError:
        pass


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`, waiting where the descriptor does not block. Raises OSError."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            _await(descriptor, writing=True)


def complain(text: str, program: str = "hmp") -> None:
    """Print one line of hmp's own on stderr, whatever is in it; a stderr that cannot take it is ignored."""
    try:
        write_all(2, f"{escape(program)}: {escape(text)}".replace("\n", "\\x0a").encode() + b"\n")
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


class Source:
    """Where commands come from: a descriptor to read, or lines that are there already. `name` is for messages.

    One way in for all lines: they are decoded, a byte order mark is skipped, blank lines and comments are passed over.
    Comments that begin with `kept` are not. At most the longest line is held, whatever comes in. `over` says whether
    the end was reached, `size` counts the bytes that were read.
    """

    def __init__(self, name: str, origin: int | list[str], *, kept: str = "") -> None:
        self.name = name
        self.descriptor: int | None = origin if isinstance(origin, int) else None
        self._given = iter(() if isinstance(origin, int) else origin)
        self.piece = CHUNK
        """Bytes that `read` takes at once."""
        self._kept = kept
        self._number = 0
        self._rest = b""
        self._skipping = False
        self._begun = False
        self.over = False
        self.size = 0

    def read(self) -> Iterable[tuple[int, str | None]]:
        """Read what is there, waiting where nothing is; return the commands in it, each with the number of its line.

        None stands for a line that is too long. A terminal that hangs up has come to its end. Raises UnreadableError
        for what cannot be read. In both cases half a line is dropped: nobody knows what the rest of it would have been.
        """
        if self.descriptor is None:
            from itertools import islice  # where lines are given, which pipes do not

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
            lines = _measured(_decoded(self._rest + head).split("\n"))
            self._rest = b""
            if self._skipping:  # the end of a line that was told to be too long
                self._skipping = False
                del lines[0]
        if not self._skipping:
            self._rest += tail
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
            if first.startswith(_UTF16) and "\0" in first:
                raise UnreadableError("it is UTF-16; make it UTF-8, as iconv -f UTF-16 -t UTF-8 does")
            if first.startswith(_BYTE_ORDER_MARK):
                lines[0] = first[1:]
        return lines


def _decoded(data: bytes) -> str:
    text = data.decode("utf-8", "surrogateescape")
    return text.replace("\r\n", "\n").removesuffix("\r") if "\r" in text else text


def _measured(lines: list[str]) -> list[str | None]:
    return [line if len(line) <= MAX_LINE else None for line in lines]


def _all_plain(lines: list[Any]) -> bool:
    """Return whether nothing is to be passed over, in a few looks at all of them: most pipes have commands only."""
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
    """Return whether this is a terminal that has hung up."""
    try:
        os.get_terminal_size(descriptor)
    except OSError as error:
        from errno import EIO

        return error.errno == EIO
    import select

    poller = select.poll()  # the kernel says this a moment before all else fails
    poller.register(descriptor, 0)
    return any(flags & select.POLLHUP for _, flags in poller.poll(0))
