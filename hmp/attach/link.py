"""A client of QMP that owns no loop: commands in, answers to callbacks, events to whoever listens.

qemu.qmp was tried for this: it needs asyncio, and importing it costs 120 ms more than this does, on every check that
cron runs. One command is under way at a time, so nothing here ever waits for room to write.
"""

from __future__ import annotations

import errno
import json
import socket
from collections import deque

from device.clock import SECOND

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from device.clock import Clock
    from hmp.attach.address import Place

    Done = Callable[[Any, "Exception | None"], object]

GREETING_LIMIT = 2 * SECOND
"""How long a greeting may take (ns): QEMU serves one client per socket, and lets a second one wait for ever."""

ANSWER_LIMIT, LONG_LIMIT = 10 * SECOND, 600 * SECOND
"""How long (ns) QEMU may take to answer: a question, and a command such as savevm, which keeps it from all else."""

CONNECT_LIMIT = 5.0
"""Seconds until a host that does not answer is given up."""

MAX_MESSAGE = 64 << 20
"""Bytes of a message: the largest that QEMU sends, its schema, has less than one MiB."""

CHUNK = 1 << 16

NO_QMP = "this is not QMP"


class QmpError(Exception):
    """QEMU answered a command with an error. The text is its `desc`, `kind` its class."""

    def __init__(self, desc: str, kind: str = "GenericError") -> None:
        super().__init__(desc)
        self.kind = kind


class LinkError(Exception):
    """There is no connection, or there is none any more; the text says why. `gone` where nothing is there at all."""

    def __init__(self, why: str, *, gone: bool = False) -> None:
        super().__init__(why)
        self.gone = gone


class BusyError(LinkError):
    """It does not answer now, and may later: another client holds the socket, or QEMU itself stands still."""


class Link:
    """What a machine needs of whatever it is attached through: QMP on a socket here, virsh elsewhere.

    `order` a command, and `done` is called with its value or an error, from `serve` or at once, at the latest when its
    limit has passed since it was sent. Wait for `descriptors` and until `due`, then `serve`. An order after a loss
    connects anew.
    """

    def __init__(self, clock: Clock, place: Place) -> None:
        self.clock = clock
        self.name = place.name
        """The address, as messages have it."""
        self.greeting: Mapping[str, Any] = {}
        """What QEMU said of its version."""
        self.on_event: Callable[[Mapping[str, Any]], object] = lambda event: None
        self.on_lost: Callable[[LinkError], object] = lambda error: None
        """Called for a loss that no command hears of."""
        self.due: int | None = None
        self.asked = ""
        """The command that was sent last."""
        self._waiting: deque[tuple[str, Mapping[str, object] | None, Done, int]] = deque()
        self._current: Done | None = None
        self._limit = 0

    @property
    def idle(self) -> bool:
        """Whether no command is under way."""
        return self._current is None and not self._waiting

    @property
    def descriptors(self) -> list[int]:
        """Return what to wait for."""
        raise NotImplementedError

    def order(self, name: str, arguments: Mapping[str, object] | None, done: Done, limit: int = ANSWER_LIMIT) -> None:
        """Send a command once those before it are answered; the answer may take `limit` (ns) from then on."""
        self._waiting.append((name, arguments, done, limit))
        self._go_on()

    def _next(self) -> tuple[str, Mapping[str, object] | None]:
        """Take the command that is the next to be sent, and give it its time."""
        self.asked, arguments, self._current, self._limit = self._waiting.popleft()
        self.due = self.clock.now() + self._limit
        return self.asked, arguments

    def _go_on(self) -> None:
        raise NotImplementedError

    def serve(self) -> None:
        """Read what is there, and end what has come to its limit."""
        self._read()
        if self.due is not None and self.clock.now() >= self.due:
            self._late()

    def _read(self) -> None:
        raise NotImplementedError

    def _late(self) -> None:
        raise NotImplementedError

    def _no_answer(self) -> BusyError:
        return BusyError(f"{self.name}: no answer within {self._limit // SECOND} s")

    def release(self) -> None:
        """Let go of the connection if nothing is under way; the next order makes it anew."""

    def close(self) -> None:
        """Let go of the connection, whatever is under way: nobody is told."""

    def _answered(self, value: object, error: Exception | None = None) -> None:
        done, self._current, self.due = self._current, None, None
        if done is not None:
            done(value, error)
        self._go_on()

    def _lose(self, error: LinkError) -> None:
        """End everything that is under way with `error`."""
        self.close()
        current, self._current, self.due = self._current, None, None
        waiting, self._waiting = list(self._waiting), deque()
        told = ([current] if current is not None else []) + [each[2] for each in waiting]
        for done in told:
            done(None, error)
        if not told:
            self.on_lost(error)


def _begin(data: bytes | bytearray) -> str:
    """Return how a message begins, for a line that says what is wrong with it."""
    return data[:60].decode(errors="replace").strip()


class SocketLink(Link):
    """QMP on a socket."""

    def __init__(self, clock: Clock, place: Place) -> None:
        super().__init__(clock, place)
        self._place = place
        self._socket: socket.socket | None = None
        self._greeted = self._ready = False
        self._data = bytearray()
        self._serial = 0

    @property
    def descriptors(self) -> list[int]:
        """Return what to wait for."""
        return [] if self._socket is None else [self._socket.fileno()]

    def _connect(self) -> None:
        place = self._place
        try:
            if place.scheme == "unix":
                made = socket.socket(socket.AF_UNIX)
                made.setblocking(False)  # where too many wait already, this fails instead of waiting too
                self._socket = made
                made.connect(place.host)
            else:
                self._socket = made = socket.create_connection((place.host, place.port), CONNECT_LIMIT)
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                made.setblocking(False)
        except OSError as error:
            self.close()
            if error.errno == errno.EAGAIN:
                raise BusyError(f"{place.name}: busy: other clients wait for this monitor") from None
            why = "the host does not answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
            gone = error.errno in (errno.ECONNREFUSED, errno.ENOENT)
            raise LinkError(f"{place.name}: {why}", gone=gone) from None
        self.due = self.clock.now() + GREETING_LIMIT

    def _go_on(self) -> None:
        if self._current is not None or not self._waiting:
            return
        if self._socket is None:
            try:
                self._connect()
            except LinkError as error:
                self._lose(error)
        elif self._ready:
            self._send(*self._next())

    def _send(self, name: str, arguments: Mapping[str, object] | None) -> None:
        assert self._socket is not None  # noqa: S101
        self._serial += 1
        message: dict[str, object] = {"execute": name, "id": self._serial}
        if arguments:
            message["arguments"] = arguments
        data = json.dumps(message).encode() + b"\n"
        try:
            short = self._socket.send(data) < len(data)
        except BlockingIOError:
            short = True
        except OSError as error:
            self._lose(LinkError(f"{self.name}: {error.strerror}"))
            return
        if short:
            self._lose(LinkError(f"{self.name}: it does not read what it is sent"))

    def _late(self) -> None:
        if self._ready:
            self._answered(None, self._no_answer())  # what comes yet is another's, by its id
        elif self._greeted:
            self._lose(BusyError(f"{self.name}: it greets, and then does not answer"))
        elif self._data:
            self._lose(LinkError(f"{self.name}: {NO_QMP}: no greeting came"))
        else:
            more = f", or {NO_QMP}" if self._place.scheme == "tcp" else ""
            self._lose(BusyError(f"{self.name}: busy: another client holds this monitor{more}"))

    def _read(self) -> None:
        if self._socket is None:
            return
        try:
            data = self._socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(LinkError(f"{self.name}: {error.strerror}"))
            return
        if not data:
            self._lose(LinkError(f"{self.name}: hung up{'' if self._greeted else ' without a greeting'}"))
            return
        at = len(self._data)
        self._data += data
        try:
            while (end := self._data.find(b"\n", at)) >= 0:
                line, at = bytes(self._data[:end]), 0
                del self._data[: end + 1]
                if line.strip():
                    self._take(line)
                if not self.descriptors:  # it was the last
                    return
            if len(self._data) > (MAX_MESSAGE if self._greeted else CHUNK):
                kind = f"a message of more than {MAX_MESSAGE >> 20} MiB" if self._greeted else NO_QMP
                raise LinkError(f"{self.name}: {kind}: {_begin(self._data)}")
        except LinkError as error:
            self._lose(error)

    def _take(self, line: bytes) -> None:
        """Take a message. Raises LinkError."""
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            kind = "a reply that is no JSON object" if self._greeted else NO_QMP
            raise LinkError(f"{self.name}: {kind}: {_begin(line)}")
        if not self._greeted:
            self._meet(message)
        elif "event" in message:
            self.on_event(message)
        elif message.get("id") == self._serial and (self._current is not None or not self._ready):
            error = message.get("error")
            if error is not None:
                told = error if isinstance(error, dict) else {}
                error = QmpError(str(told.get("desc")), str(told.get("class")))
            if self._ready:
                self._answered(message.get("return"), error)
            elif error is not None:
                raise LinkError(f"{self.name}: it refuses to talk: {error}")
            else:
                self._ready, self.due = True, None
                self._go_on()

    def _meet(self, message: dict[str, Any]) -> None:
        if "event" in message:
            return
        greeting = message.get("QMP")
        if not isinstance(greeting, dict):
            raise LinkError(f"{self.name}: {NO_QMP}: no greeting came")
        self._greeted = True
        version = greeting.get("version")
        self.greeting = greeting if isinstance(version, dict) else {}
        self.due = self.clock.now() + GREETING_LIMIT
        self._send("qmp_capabilities", None)

    def release(self) -> None:
        """Let go of the connection if nothing is under way; the next order makes it anew."""
        if self.idle:
            self.close()

    def close(self) -> None:
        """Let go of the connection, whatever is under way: nobody is told."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self.due = None
        self._greeted = self._ready = False
        self._data.clear()
