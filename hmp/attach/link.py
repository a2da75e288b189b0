"""A QMP client without a loop: it takes commands, and calls functions with answers and events.

The qemu.qmp library was tried first. It needs asyncio, and its import takes 120 ms longer than that of this module; a
whole check by a cron job takes 200 ms. Only one command is under way at a time, so nothing here has to wait until the
socket can be written.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from device.clock import SECOND, Clock
from hmp.attach.address import Place
from hmp.monitor.replies import STRICT

Done = Callable[[Any, "Exception | None"], object]

GREETING_LIMIT = 2 * SECOND
"""How long (ns) to wait for the greeting. QEMU serves one client per socket, and a second one waits for ever."""

ANSWER_LIMIT, LONG_LIMIT = 10 * SECOND, 600 * SECOND
"""How long (ns) to wait for an answer: to a question, and to a command such as savevm, during which QEMU does nothing
else."""

CONNECT_LIMIT = 5.0
"""Seconds to wait for a host that does not answer."""

MAX_MESSAGE = 64 << 20
"""The most bytes of a message. The largest that QEMU sends, its schema, has less than one MiB."""

CHUNK = 1 << 16
"""The most bytes that are read at once."""

_encode = json.JSONEncoder(separators=(",", ":")).encode
# Without blanks, because QEMU reads its monitor byte by byte, with a poll for each: that takes 4.5 us a byte.

NO_QMP = "this is not QMP"


class QmpError(Exception):
    """QEMU answered a command with an error. The text is its `desc`, `kind` its class."""

    def __init__(self, desc: str, kind: str = "GenericError") -> None:
        super().__init__(desc)
        self.kind = kind


class LinkError(Exception):
    """There is no connection, or it has ended; the text says why. `gone` says that nothing is there to connect to."""

    def __init__(self, why: str, *, gone: bool = False) -> None:
        super().__init__(why)
        self.gone = gone


class BusyError(LinkError):
    """There is no answer now, but there may be later: another client has the socket, or QEMU hangs."""


class Link:
    """The connection of an attached machine. SocketLink is QMP on a socket; virsh.py has the one for libvirt.

    `execute` sends a command, and calls `done` with its value or an error, from `serve` or at once. The error comes
    too if there is no answer within the limit, which counts from the sending. The owner calls `serve` when one of
    `descriptors` can be read, or at `due` (ns). After the connection is lost, the next command connects again.
    """

    def __init__(self, clock: Clock, place: Place) -> None:
        self.clock = clock
        self.name = place.name
        """The address in messages."""
        self.greeting: Mapping[str, Any] = {}
        """QEMU's greeting, which has its version."""
        self.on_event: Callable[[Mapping[str, Any]], object] = lambda event: None
        self.on_lost: Callable[[LinkError], object] = lambda error: None
        """Called when the connection is lost while no command is under way."""
        self.due: int | None = None
        self.last_command = ""
        """The command that was sent last."""
        # One after the other, because QEMU answers in order and the socket need not be watched for room then.
        self._waiting: deque[tuple[str, Mapping[str, object] | None, Done, int]] = deque()
        self._current: Done | None = None
        self._limit = 0

    @property
    def idle(self) -> bool:
        """Whether no command is under way."""
        return self._current is None and not self._waiting

    @property
    def descriptors(self) -> list[int]:
        """Return the descriptors to wait for."""
        raise NotImplementedError

    def execute(self, name: str, arguments: Mapping[str, object] | None, done: Done, limit: int = ANSWER_LIMIT) -> None:
        """Send a command once those before it are answered. Then the answer may take `limit` (ns)."""
        self._waiting.append((name, arguments, done, limit))
        self._go_on()

    def _next(self) -> tuple[str, Mapping[str, object] | None]:
        """Take the next command to send, and start its limit."""
        self.last_command, arguments, self._current, self._limit = self._waiting.popleft()
        self.due = self.clock.now() + self._limit
        return self.last_command, arguments

    def _go_on(self) -> None:
        raise NotImplementedError

    def serve(self) -> None:
        """Read what is there, and end a command whose limit has passed."""
        self._read()
        if self.due is not None and self.clock.now() >= self.due:
            self._late()

    def _read(self) -> None:
        raise NotImplementedError

    def _late(self) -> None:
        raise NotImplementedError

    def _no_answer(self) -> BusyError:
        # Busy and not lost: QEMU may only hang for a while, and its late answer is recognized by its id.
        return BusyError(f"{self.name}: no answer within {self._limit // SECOND} s")

    def release(self) -> None:
        """Close the connection if nothing is under way; the next command connects again."""

    def close(self) -> None:
        """Close the connection, and call no function of the commands under way."""

    def _answered(self, value: object, error: Exception | None = None) -> None:
        done, self._current, self.due = self._current, None, None
        if done is not None:
            done(value, error)
        self._go_on()

    def _lose(self, error: LinkError) -> None:
        """End all commands under way with `error`."""
        self.close()
        current, self._current, self.due = self._current, None, None
        waiting, self._waiting = list(self._waiting), deque()
        # First forget the commands, then call: a function may send the next one.
        calls = ([current] if current is not None else []) + [each[2] for each in waiting]
        for done in calls:
            done(None, error)
        if not calls:
            self.on_lost(error)


def _begin(data: bytes | bytearray) -> str:
    """Return the beginning of a message, for the line that reports it."""
    return data[:60].decode(errors="replace").strip()


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:  # it was removed since
        return True


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
        """Return the descriptors to wait for."""
        return [] if self._socket is None else [self._socket.fileno()]

    def _connect(self) -> None:
        place = self._place
        try:
            if place.scheme == "unix":
                made = socket.socket(socket.AF_UNIX)
                made.setblocking(False)  # if too many clients wait already, this fails instead of waiting
                self._socket = made
                made.connect(place.host)
            else:
                self._socket = made = socket.create_connection((place.host, place.port), CONNECT_LIMIT)
                # Commands are short and each waits for its answer; Nagle's algorithm would only delay them.
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                made.setblocking(False)
        except OSError as error:
            self.close()
            if error.errno == errno.EAGAIN:
                raise BusyError(f"{place.name}: busy: other clients wait for this monitor") from None
            why = "the host does not answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
            if error.errno == errno.ECONNREFUSED and place.scheme == "unix" and not _is_socket(place.host):
                why = "not a socket; name the one of the VM's -qmp option"
            # Nothing listens: QEMU is gone, so there is no polling interval to restore.
            gone = error.errno in (errno.ECONNREFUSED, errno.ENOENT)
            if gone and self.greeting:  # it was there before
                why = f"QEMU has ended: {why}"
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
        # The id tells a late answer from that of the present command.
        message: dict[str, object] = {"execute": name, "id": self._serial}
        if arguments:
            message["arguments"] = arguments
        data = _encode(message).encode() + b"\n"
        try:
            # One command is under way at a time, so the socket always has room. If not, QEMU does not read.
            short = self._socket.send(data) < len(data)
        except BlockingIOError:
            short = True
        except OSError as error:
            self._lose(LinkError(f"{self.name}: {error.strerror}"))
            return
        if short:
            self._lose(LinkError(f"{self.name}: it does not read what we send"))

    def _late(self) -> None:
        if self._ready:
            self._answered(None, self._no_answer())  # a late answer has another id and is ignored
        # The socket greeted and then was silent: QEMU may be stopped by a signal.
        elif self._greeted:
            self._lose(BusyError(f"{self.name}: it sent a greeting, and then no answer"))
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
        # Look for the line end only in new bytes: a long message comes in many pieces.
        at = len(self._data)
        self._data += data
        try:
            while (end := self._data.find(b"\n", at)) >= 0:
                line, at = bytes(self._data[:end]), 0
                del self._data[: end + 1]
                if line.strip():
                    self._take(line)
                if not self.descriptors:  # a function closed the connection
                    return
            # Before the greeting it may be any server, which could send without end.
            if len(self._data) > (MAX_MESSAGE if self._greeted else CHUNK):
                kind = f"a message of more than {MAX_MESSAGE >> 20} MiB" if self._greeted else NO_QMP
                raise LinkError(f"{self.name}: {kind}: {_begin(self._data)}")
        except LinkError as error:
            self._lose(error)

    def _take(self, line: bytes) -> None:
        """Handle a message. Raises LinkError."""
        try:
            message = json.loads(line, **STRICT)  # clients of --qmp and files of --save-replies get the same values
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            kind = "a reply that is not a JSON object" if self._greeted else NO_QMP
            raise LinkError(f"{self.name}: {kind}: {_begin(line)}")
        if not self._greeted:
            self._take_greeting(message)
        elif "event" in message:
            self.on_event(message)
        elif message.get("id") == self._serial and (self._current is not None or not self._ready):
            error = message.get("error")
            if error is not None:
                members = error if isinstance(error, dict) else {}
                error = QmpError(str(members.get("desc")), str(members.get("class")))
            if self._ready:
                self._answered(message.get("return"), error)
            elif error is not None:
                raise LinkError(f"{self.name}: it refuses the negotiation: {error}")
            else:
                self._ready, self.due = True, None
                self._go_on()

    def _take_greeting(self, message: dict[str, Any]) -> None:
        greeting = message.get("QMP")
        if not isinstance(greeting, dict):
            raise LinkError(f"{self.name}: {NO_QMP}: no greeting came")
        self._greeted = True
        version = greeting.get("version")
        # The rest of hmp expects a version, but a greeting without one is QMP too.
        self.greeting = greeting if isinstance(version, dict) else {}
        self.due = self.clock.now() + GREETING_LIMIT
        self._send("qmp_capabilities", None)

    def release(self) -> None:
        """Close the connection if nothing is under way; the next command connects again."""
        if self.idle:
            self.close()

    def close(self) -> None:
        """Close the connection, and call no function of the commands under way."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self.due = None
        self._greeted = self._ready = False
        self._data.clear()
