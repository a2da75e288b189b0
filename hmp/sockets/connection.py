"""The connection of a client: flow control in both directions, fair turns, half-close, hang-up, and the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Protocol

from device.machine.machine import Machine
from hmp.addresses import Address
from hmp.drive import MachineDriver
from hmp.log import Log
from hmp.monitor.session import Session
from hmp.qmp.events import EventHub
from hmp.sockets.hangups import HangUps
from hmp.sockets.opening import Opening
from hmp.sockets.outbox import Outbox
from hmp.sockets.telnet import OPENING, TelnetFilter


class Host(Protocol):
    """The part of the server that a connection uses."""

    machine: Machine
    driver: MachineDriver
    clients: int
    connections: set[Connection]
    buffer: memoryview
    hang_ups: HangUps
    hub: EventHub
    ended_by: Connection | None
    stopping: bool
    now: Callable[[], float]

    def next_number(self) -> int:
        """Return the number of a new client."""
        ...

    def left(self) -> None:
        """A connection ended."""

    def foreign(self, where: str, language: str) -> None:
        """A client at `where` was cut off because it speaks `language`, which is not that of a monitor."""

    def queue(self, turn: Callable[[], None]) -> None:
        """Call `turn` soon, after the turns of other clients that wait."""

    @property
    def crowded(self) -> bool:
        """Whether other clients wait for their turn."""
        ...


UNFINISHED_LIMIT = 60.0
"""Seconds of silence after which an unfinished QMP message is dropped and answered with an error. Else its bytes, up to
MAX_MESSAGE_BYTES, would be kept for ever, and a client that forgot a bracket would get no reply."""

UNSENT_LIMIT = 1 << 20
"""The most bytes that may wait for a client that does not read; beyond that it is cut off. Replies alone never reach
the limit, because no more commands of a client are handled while its output waits. Events can: about 4,000 of them."""

STALL_LIMIT = 60.0
"""Seconds within which a client must read some of its waiting output, if it also has sent input that waits. So a client
that sends and never reads, or that vanished, does not keep its place for ever. For a client that only listens there is
no limit."""

RECEIVE_SIZE = 16 << 10
"""The most bytes read at once. Together with as many in the line editor, this is all that is kept of type-ahead."""

SEND_SIZE = 64 << 10
"""The most bytes of replies that are collected before they are sent: one system call for all replies of a turn."""

TURN = 0.002
"""Seconds for which one client's messages or lines are handled before other clients get their turn. A turn of N
commands was rejected, because one completion can take as long as many commands. A command that has begun is finished:
that takes less than a millisecond, or up to 80 ms for a message of the greatest size."""

REST = 20
"""While others wait, a client must queue until this many times the length of its last turn has passed. So a client that
asks rarely goes ahead of those that ask all the time, however many there are."""

SMALL_INPUT = 512
"""The most bytes that a client may send at once and still go ahead. Without this limit a client could connect anew for
each large request and never queue."""

GONE_LIMIT = 0.1
"""Seconds for which the server works for a client that is gone; that is hundreds of lines. Without a limit, clients
that send much and leave came faster than the server could finish their input: 1.4 GB after three minutes of
tests.soak."""

GONE_CLIENTS = 64
"""The most clients that are gone and have more to run than one turn takes; any more of them get one turn only."""

IDLE, QUEUED, TURNING, WAITING, CLOSING, CUT, GONE, ENDED = (
    "idle", "queued", "turning", "waiting", "closing", "cut off", "gone", "ended",
)  # fmt: skip
"""The states of a connection, in this order: all input is handled; it is in the queue for its turn; it has its turn; it
waits for a guest, or for the client to read; the rest of the output is sent; nothing is sent any more; the client has
left, and what it sent still runs; over. Eight flags were rejected, because most of their combinations make no sense."""

OPEN = frozenset((IDLE, QUEUED, TURNING, WAITING))
"""The states in which the client is served."""

_AT_REST = {"queue": QUEUED, "turn": TURNING, "finish": CLOSING, "cut": CUT, "lost": GONE}
MOVES: dict[str, dict[str, str]] = {
    IDLE: _AT_REST,
    QUEUED: {move: state for move, state in _AT_REST.items() if move != "queue"},
    TURNING: {"done": IDLE, "more": QUEUED, "blocked": WAITING, "cut": CUT},
    WAITING: _AT_REST,
    CLOSING: {"cut": CUT, "lost": ENDED},
    CUT: {"cut": CUT, "lost": ENDED},
    GONE: {"end": ENDED},
    ENDED: {},
}
"""The moves that each state allows, and the state after each. Any other move is a bug. docs/design.md has a drawing.
`done`, `more` and `blocked` are the results of `_pump`."""


class Connection(asyncio.BufferedProtocol):
    """One client. Its session decides what to do with the input, and the connection decides when."""

    transport: asyncio.Transport

    def __init__(self, host: Host, make: Callable[[Callable[[bytes], None], int], Session]) -> None:
        """`make` gets a function that sends, and the client's number, and returns the session."""
        self.host = host
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._opening: Opening | None = None
        self.state = IDLE
        self._eof = False
        self._rested = self._worked_for_gone = 0.0
        # During a turn output is collected here. So neither the session nor an event calls this object again during its
        # turn, and the output of a turn is one packet.
        self._out = Outbox(self.write)
        self._written = 0
        self._stall: asyncio.TimerHandle | None = None
        self.address: Address | None = None
        self.telnet: TelnetFilter | None = None
        self.name = ""  # the address in the form of the ready line
        self.number = host.next_number()
        self._log: Log | None = host.machine.front.log  # the server has made the front
        self._why = ""
        self._waiting = False
        self._unfinished: asyncio.TimerHandle | None = None
        self.session = make(self._out.write, self.number)
        self.session.on_cut, self.session.on_resume = self.hang_up, self._resumed
        if self._log is not None:
            self.session.on_command = lambda message: self.log("in", message)
        self.ended: asyncio.Future[None] | None = None
        """Done when nothing is left. The caller that waits for it makes it."""

    def move(self, move: str) -> None:
        """Go to another state. Raises ValueError if MOVES does not allow it, and then nothing has changed."""
        state = MOVES[self.state].get(move)
        if state is None:
            raise ValueError(f"a connection that is {self.state} cannot {move}")
        self.state = state

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the new client."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - it is for streams
        self.transport = transport
        client = transport.get_extra_info("socket")
        self._descriptor: int = -1 if client is None else client.fileno()  # the page's bridge has no socket
        # A tuple is a host and a port. On unix sockets there is nothing to detect: a browser cannot open them.
        if isinstance(transport.get_extra_info("sockname"), tuple):
            self._opening = Opening()
        # With the limit 0 asyncio reports at once that the client does not read, and we stop handling its commands.
        transport.set_write_buffer_limits(0)
        self.host.connections.add(self)
        self.log("connect")
        if self.host.stopping:
            self.cut_off()
        else:
            if self.telnet is not None:
                self.log("out", OPENING)
                transport.write(OPENING)  # by itself: it belongs in no logfile
            self.session.greet()
            self._send()
            if self.session.working:
                self._turn_soon()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer to receive into. All clients share one, because `buffer_updated` copies at once."""
        return self.host.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take the bytes that the client sent."""
        if self._over():
            return
        data = bytes(self.host.buffer[:nbytes])
        if self._opening is not None:
            # Before anything runs: a web page can make a browser send a request to any port, and the monitor would
            # run its lines.
            language = self._opening.feed(data)
            if language:
                host, port = self.transport.get_extra_info("sockname")[:2]
                self.log("in", data)
                self._why = f"it spoke {language}"
                self.cut_off()
                self.host.foreign(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", language)
                return
            if language is not None:
                self._opening = None
        data = self._incoming(data)
        self._received = self._received + data if self._received else data
        # Queue behind the others, unless this client has sent little and rested long enough.
        if self.host.crowded and (nbytes > SMALL_INPUT or self.host.now() < self._rested):
            self._turn_soon()
            self._flow()  # read no more before its turn: otherwise megabytes of input pile up
        elif self.state != QUEUED:
            self._turn()

    def eof_received(self) -> bool:
        """The client will send no more. What it sent is answered, then the connection is closed."""
        self._eof = True
        if self._over():
            self.finish()
        else:
            self._flow()
        # True keeps our direction open: a client may half-close before it reads the answers.
        return True

    def pause_writing(self) -> None:
        """The client does not read: give it STALL_LIMIT seconds."""
        self._watch_stall()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._unwatch_stall()
        self._send()
        self._turn_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone. What it sent still runs, as in QEMU. What it waits for is cancelled."""
        self.move("lost")
        self.log("disconnect", why=self._why)
        self._unwatch_stall()
        self._unwatch()
        self.host.connections.discard(self)
        self._out.take()
        if self.state == GONE:
            self._finish_gone()
        else:
            self._end()

    def log(self, what: str, message: bytes | None = None, *, why: str = "") -> None:
        """Add an entry to the log, if there is one."""
        if self._log is not None:
            self._log.add(self.name, self.number, what, message, **({"why": why} if why else {}))

    # Ending.

    def finish(self) -> None:
        """Send the rest of the output, then close."""
        if self.state not in OPEN:
            return
        self._send()
        # close() of asyncio still sends what is in its buffer.
        self.move("finish")
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._watch_stall()

    def hang_up(self) -> None:
        """Send the output so far, then close. Nothing more of what the client sent runs."""
        self._send()
        if self.state in OPEN:
            self.transport.close()
            self.move("cut")

    def cut_off(self) -> None:
        """Close the connection at once; unsent output is lost."""
        self.move("cut")
        self.transport.abort()

    def _finish_gone(self) -> None:
        host, start = self.host, self.host.now()
        more = not self._over() and self._pump(start + TURN) == "more"
        self._worked_for_gone += host.now() - start
        # `clients` still counts those that are gone and have work left; `connections` does not.
        waiting = host.clients - len(host.connections)
        if more and self._worked_for_gone < GONE_LIMIT and waiting <= GONE_CLIENTS:
            host.queue(self._finish_gone)
        else:
            self.move("end")
            self._end()

    def _end(self) -> None:
        self._received = b""
        self.session.close()
        if self._unfinished is not None:
            self._unfinished.cancel()
        self._let_go()
        # Break the reference cycle, because the collector runs rarely (Serving.serve).
        self._out.wake = None
        self.host.left()
        if self.ended is not None and not self.ended.done():
            self.ended.set_result(None)
        self.host.driver.reschedule()

    def _watch_stall(self) -> None:
        if self._stall is None:
            self._stall = self._loop.call_later(STALL_LIMIT, self._check_stall, self._delivered)

    def _unwatch_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    @property
    def _delivered(self) -> int:
        """A number of bytes that grows whenever the client reads.

        TIOCOUTQ returns how many bytes the kernel still has. Waiting for resume_writing is not enough: the kernel
        reports free space late, so a slow reader would look like one that does not read.
        """
        unread = ioctl(self._descriptor, TIOCOUTQ, bytes(4))
        return self._written - self.transport.get_write_buffer_size() - int.from_bytes(unread, "little")

    def _check_stall(self, before: int) -> None:
        self._stall = None
        # It read nothing, although its own input or its half-close waits for that.
        if self._delivered == before and (self._received or self._eof):
            self.cut_off()
        else:
            self._watch_stall()

    # Sending.

    @property
    def unsent(self) -> int:
        """The number of bytes that wait for the client to read."""
        return self._out.size + self.transport.get_write_buffer_size()

    @property
    def _stalled(self) -> bool:
        """Whether the client does not read, or reads more slowly than we send."""
        return self.transport.get_write_buffer_size() > 0

    @property
    def _full(self) -> bool:
        """Whether the client must read before more of its commands are handled."""
        return self._out.size >= SEND_SIZE and self._stalled

    def write(self, data: bytes) -> None:
        """Send `data`, or cut off the client if too much waits for it."""
        if self.state not in OPEN or not data:
            return
        if self.state == TURNING:
            self._out.add(data)
        # Outside of a turn: an event, or the reply of a command that waited.
        elif not self._stalled:
            self._out.add(data)
            self._send()
        elif self.unsent > UNSENT_LIMIT:
            self.cut_off()
        else:
            self._out.add(data)

    def _send(self) -> None:
        """Give all collected output to the transport."""
        if self._out.size:
            parts = self._out.take()
            if not self.transport.is_closing():
                for part in parts if self._log is not None else ():
                    self.log("out", part)
                data = b"".join(parts)
                if self.address is not None:
                    self.address.keep(data)
                self._written += len(data)
                self.transport.write(data)

    # Turns.

    def _over(self) -> bool:
        """Whether no more lines run, because the machine or the server has ended."""
        return self.host.machine.over or self.host.stopping

    def _turn(self) -> None:
        """Handle some of the input, send the output, and decide what comes next."""
        if self.state not in OPEN or self._over():
            return
        self.move("turn")
        start = self.host.now()
        left = "done"
        self._out.wake = None
        try:
            left = self._pump(start + TURN)
        except Exception:
            self.cut_off()  # a bug: other clients are still served, and the loop's handler reports it
            raise
        finally:
            self._out.wake = self.write
            if self.state == TURNING:  # else the client was cut off during its turn
                self.move(left)
            if not self._stalled:
                self._send()
            end = self.host.now()
            # At most TURN, because on a busy host the turn may have waited for a processor.
            self._rested = end + REST * min(end - start, TURN)
        if self._over():
            self.host.ended_by = self
        self.host.driver.reschedule()
        if self.state == QUEUED:
            self.host.queue(self._turn)
        self._flow()

    def _pump(self, end: float) -> str:
        """Handle input until host.now() is `end`, or the output is `_full`.

        Returns "more" if there is more to handle at once, "blocked" if it waits for a guest or for the client to read,
        and "done" if nothing is left.
        """
        session, out, now = self.session, self._out, self.host.now
        while True:
            if session.suspended and not self._waiting:
                self._waiting = True
                # The driver must know that a client waits, because only then the warp clock jumps.
                self.host.driver.suspend()
            if self._full or self.state == CUT or self._waiting:
                if session.ahead:
                    self._feed()  # give type-ahead to the editor: then we can read on and notice a hang-up after it
                return "blocked"
            if session.step():
                # With a log send at once, so that the log has each reply after its command.
                if (out.size >= SEND_SIZE or self._log is not None) and not self._stalled:
                    self._send()
            elif session.suspended:
                continue
            elif self.host.machine.over:
                return "blocked"
            elif not self._received:
                return "done"
            # The session takes no input although it has nothing to do, so it waits for its client or its guest.
            elif not self._feed():
                return "blocked"
            if now() >= end:
                return "more"

    def _feed(self) -> bool:
        """Give the session as much input as it has room for. Returns whether it took any."""
        room = self.session.room(self._received)
        data, self._received = self._received[:room], self._received[room:]
        if data:
            self.session.feed(data)
            self._watch_unfinished()
        return bool(data)

    def _incoming(self, data: bytes) -> bytes:
        """Return the part of `data` that is for the monitor."""
        return self.session.filter(data if self.telnet is None else self.telnet.feed(data))

    def _resumed(self) -> None:
        """The session has ended its wait."""
        self._let_go()
        self._turn_soon()

    def _let_go(self) -> None:
        if self._waiting:
            self._waiting = False
            self.host.driver.resume()

    def _watch_unfinished(self) -> None:
        if self._unfinished is not None:
            self._unfinished.cancel()
            self._unfinished = None
        if self.session.unfinished and self.state in OPEN:
            self._unfinished = self._loop.call_later(UNFINISHED_LIMIT, self._give_up)

    def _give_up(self) -> None:
        self._unfinished = None
        if self.state != IDLE or self._received:  # the rest may have come, and may only not be fed yet
            self._watch_unfinished()
        else:
            self.session.give_up(f"the rest of the message did not come within {UNFINISHED_LIMIT:.0f} seconds")

    def _turn_soon(self) -> None:
        """Queue a turn instead of taking one now: a timer's callback or another client's command may be running."""
        if self.state in OPEN and self.state != QUEUED:
            self.move("queue")
            self.host.queue(self._turn)

    def _flow(self) -> None:
        """Pause or resume reading. After a half-close, close once the last answer is sent."""
        transport = self.transport
        if transport.is_closing():
            return
        if self._eof:
            if self.state == IDLE and not self._stalled:
                self.finish()
                return
        # Not all input is handled yet. If we do not read, its data stays in the kernel and TCP makes the client wait.
        elif self._received:
            transport.pause_reading()
        else:
            transport.resume_reading()
        # While we do not read, asyncio does not notice that the client hangs up.
        if self.state == WAITING and (self._eof or self._received):
            self.host.hang_ups.watch(self._descriptor, self.cut_off)
        else:
            self._unwatch()

    def _unwatch(self) -> None:
        self.host.hang_ups.unwatch(self._descriptor)
