"""What all clients on sockets share: flow control both ways, fair turns, half-close, hang-up, and the end."""

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
    """The server that a connection belongs to."""

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
        """A client at `where` was hung up on because it does not speak a monitor's language but `language`."""

    def queue(self, turn: Callable[[], None]) -> None:
        """Call `turn` soon, behind those of other clients."""

    @property
    def crowded(self) -> bool:
        """Whether other clients wait for their turn."""
        ...


UNFINISHED_LIMIT = 60.0
"""Seconds of silence after which an unfinished QMP message is given up: what came of it, up to MAX_MESSAGE_BYTES, is
not kept for ever, and whoever forgot a bracket is told."""

UNSENT_LIMIT = 1 << 20
"""Bytes that may wait for a client that does not read; what comes on top cuts it off. Replies stop long before, for
nothing more of a client is handled while its output waits; what can grow this far is events, some 4,000 of them."""

STALL_LIMIT = 60.0
"""Seconds in which a client that wants something and has output waiting must take some of it. One that sends and never
reads, or is gone without a word, does not keep its place for ever; one that only listens, late, may."""

RECEIVE_SIZE = 16 << 10
"""Bytes read at once. With the line editor's as many, it is all that is kept of what is typed ahead."""

SEND_SIZE = 64 << 10
"""Bytes of replies collected before they are sent: one system call for all the replies of a turn."""

TURN = 0.002
"""Seconds that one client's messages or lines are handled before the others get their turn. What is begun is finished:
a command takes less than a millisecond, a message of the greatest size up to 80."""

REST = 20
"""A client whose turn took some time has its next one at once only after so many times as long, while others wait: one
that asks little goes ahead of those that ask without end, however many these are."""

LITTLE = 512
"""Bytes that may come at once from a client that goes ahead: else one that always comes anew would, with all it has."""

UNHEARD_LIMIT = 0.1
"""Seconds that the server works for a client that is gone: hundreds of lines. Else those that send much and leave would
pile up faster than they are done with."""

UNHEARD_CLIENTS = 64
"""Clients that may be gone and have more to run than one turn takes; one more of them gets that turn only."""

IDLE, QUEUED, TURNING, WAITING, CLOSING, CUT, UNHEARD, ENDED = (
    "idle", "queued", "turning", "waiting", "closing", "cut off", "unheard", "ended",
)  # fmt: skip
"""Where a connection stands: all that came is handled; a turn is to come; it has its turn; it waits for a guest or for
the client to read; the rest is sent; nothing is sent any more; the client left, and what it sent still runs; over."""

OPEN = frozenset((IDLE, QUEUED, TURNING, WAITING))
"""The states in which the client is served."""

_AT_REST = {"queue": QUEUED, "turn": TURNING, "finish": CLOSING, "cut": CUT, "lost": UNHEARD}
MOVES: dict[str, dict[str, str]] = {
    IDLE: _AT_REST,
    QUEUED: {move: state for move, state in _AT_REST.items() if move != "queue"},
    TURNING: {"done": IDLE, "more": QUEUED, "blocked": WAITING, "cut": CUT},
    WAITING: _AT_REST,
    CLOSING: {"cut": CUT, "lost": ENDED},
    CUT: {"cut": CUT, "lost": ENDED},
    UNHEARD: {"end": ENDED},
    ENDED: {},
}
"""The moves that each state allows and where they lead; any other is a fault of ours. docs/design.md draws it. `done`,
`more` and `blocked` are what `_pump` returns."""


class Connection(asyncio.BufferedProtocol):
    """One client: its session says what is to be done with what came, and the connection when."""

    transport: asyncio.Transport

    def __init__(self, host: Host, make: Callable[[Callable[[bytes], None], int], Session]) -> None:
        """`make` makes the session, of what sends and the client's number."""
        self.host = host
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._opening: Opening | None = None
        self.state = IDLE
        self._eof = False
        self._rested = self._unheard = 0.0
        self._out = Outbox(self.write)
        self._written = 0
        self._stall: asyncio.TimerHandle | None = None
        self.address: Address | None = None
        self.telnet: TelnetFilter | None = None
        self.name = ""  # the address as the ready line has it
        self.number = host.next_number()
        self._log: Log | None = host.machine.front.log  # the server made the front
        self._why = ""
        self._waiting = False
        self._unfinished: asyncio.TimerHandle | None = None
        self.session = make(self._out.write, self.number)
        self.session.on_cut, self.session.on_resume = self.hang_up, self._resumed
        if self._log is not None:
            self.session.on_command = lambda message: self.log("in", message)
        self.ended: asyncio.Future[None] | None = None  # done once nothing is left, for who wants to know

    def move(self, move: str) -> None:
        """Go to another state. Raises ValueError where MOVES does not allow it, and changes nothing then."""
        state = MOVES[self.state].get(move)
        if state is None:
            raise ValueError(f"a connection that is {self.state} cannot {move}")
        self.state = state

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a stream's is
        self.transport = transport
        if isinstance(transport.get_extra_info("sockname"), tuple):  # a host and a port; no browser opens unix sockets
            self._opening = Opening()
        transport.set_write_buffer_limits(0)
        self.host.connections.add(self)
        self.log("connect")
        if self.host.stopping:
            self.cut_off()
        else:
            if self.telnet is not None:
                self._out.add(OPENING)
            self.session.greet()
            self._send()
            if self.session.suspended:
                self._turn_soon()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to put what is received: one place for all clients, as `buffer_updated` copies at once."""
        return self.host.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what the client sent."""
        if self._over():
            return
        data = bytes(self.host.buffer[:nbytes])
        if self._opening is not None:
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
        if self.host.crowded and (nbytes > LITTLE or self.host.now() < self._rested):
            self._turn_soon()
            self._flow()  # read no more before that
        elif self.state != QUEUED:
            self._turn()

    def eof_received(self) -> bool:
        """The client will send no more; what it sent is answered before we close too."""
        self._eof = True
        if self._over():
            self.finish()
        else:
            self._flow()
        return True

    def pause_writing(self) -> None:
        """The client does not read: neither do we."""
        self._watch_stall()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._unwatch_stall()
        self._send()
        self._turn_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone. What it sent still runs, as in QEMU; what it waits for is taken back."""
        self.move("lost")
        self.log("disconnect", why=self._why)
        self._unwatch_stall()
        self._unwatch()
        self.host.connections.discard(self)
        self._out.take()
        if self.state == UNHEARD:
            self._finish_unheard()
        else:
            self._end()

    def log(self, what: str, message: bytes | None = None, *, why: str = "") -> None:
        """Put something into the log, if there is one."""
        if self._log is not None:
            self._log.add(self.name, self.number, what, message, **({"why": why} if why else {}))

    # Ending.

    def finish(self) -> None:
        """Send what is still to be sent, then close."""
        if self.state not in OPEN:
            return
        self._send()
        self.move("finish")
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._watch_stall()

    def hang_up(self) -> None:
        """Send what was written, then close, and run nothing more of what the client sent."""
        self._send()
        if self.state in OPEN:
            self.transport.close()
            self.move("cut")

    def cut_off(self) -> None:
        """Let go of the client here and now."""
        self.move("cut")
        self.transport.abort()

    def _finish_unheard(self) -> None:
        host, start = self.host, self.host.now()
        more = not self._over() and self._pump(start + TURN) == "more"
        self._unheard += host.now() - start
        waiting = host.clients - len(host.connections)
        if more and self._unheard < UNHEARD_LIMIT and waiting <= UNHEARD_CLIENTS:
            host.queue(self._finish_unheard)
        else:
            self.move("end")
            self._end()

    def _end(self) -> None:
        self._received = b""
        self.session.close()
        if self._unfinished is not None:
            self._unfinished.cancel()
        self._let_go()
        self._out.wake = None  # it is held by what is held by it
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
        """What the client took, in units that only grow as it does: the kernel tells late that there is room again."""
        unread = ioctl(self._descriptor, TIOCOUTQ, bytes(4))
        return self._written - self.transport.get_write_buffer_size() - int.from_bytes(unread, "little")

    def _check_stall(self, before: int) -> None:
        self._stall = None
        if self._delivered == before and (self._received or self._eof):
            self.cut_off()
        else:
            self._watch_stall()

    @property
    def _descriptor(self) -> int:
        descriptor: int = self.transport.get_extra_info("socket").fileno()
        return descriptor

    # Sending.

    @property
    def unsent(self) -> int:
        """Bytes that wait for the client to read."""
        return self._out.size + self.transport.get_write_buffer_size()

    @property
    def _stalled(self) -> bool:
        """Whether the client does not read, or not as fast as we send."""
        return self.transport.get_write_buffer_size() > 0

    @property
    def _full(self) -> bool:
        """Whether no more may be done for the client before it reads."""
        return self._out.size >= SEND_SIZE and self._stalled

    def write(self, data: bytes) -> None:
        """Send `data`, or cut off a client that let too much of it pile up."""
        if self.state not in OPEN or not data:
            return
        if self.state == TURNING:
            self._out.add(data)
        elif not self._stalled:
            self._out.add(data)
            self._send()
        elif self.unsent > UNSENT_LIMIT:
            self.cut_off()
        else:
            self._out.add(data)

    def _send(self) -> None:
        """Hand all that was written to the transport."""
        if self._out.size:
            parts = self._out.take()
            if not self.transport.is_closing():
                for part in parts if self._log is not None else ():
                    self.log("out", part)
                data = b"".join(parts)
                self._written += len(data)
                self.transport.write(data)

    # Turns.

    def _over(self) -> bool:
        """Whether no more lines are run: the machine ended (perhaps by another client's command), or the server did."""
        return self.host.machine.over or self.host.stopping

    def _turn(self) -> None:
        """Handle some of what was received, send what follows from it, and see how to go on."""
        if self.state not in OPEN or self._over():
            return
        self.move("turn")
        start = self.host.now()
        left = "done"
        self._out.wake = None
        try:
            left = self._pump(start + TURN)
        except Exception:
            self.cut_off()  # a fault of ours: the others are still served, and the loop's handler tells
            raise
        finally:
            self._out.wake = self.write
            if self.state == TURNING:  # else it was cut off
                self.move(left)
            if not self._stalled:
                self._send()
            end = self.host.now()
            self._rested = end + REST * min(end - start, TURN)  # it may have waited for a processor
        if self._over():
            self.host.ended_by = self
        self.host.driver.reschedule()
        if self.state == QUEUED:
            self.host.queue(self._turn)
        self._flow()

    def _pump(self, end: float) -> str:
        """Handle what was received until host.now() is `end`, unless `_full`. Returns "more" to go on at once,
        "blocked" where it waits for a guest or for the client to read, "done" where nothing is left."""
        session, out, now = self.session, self._out, self.host.now
        while True:
            if session.suspended and not self._waiting:
                self._waiting = True
                self.host.driver.suspend()
            if self._full or self.state == CUT or self._waiting:
                if session.ahead:
                    self._feed()  # so that hanging up is noticed behind it
                return "blocked"
            if session.step():
                # With a log at once, so that each reply stands behind its command there.
                if (out.size >= SEND_SIZE or self._log is not None) and not self._stalled:
                    self._send()
            elif session.suspended:
                continue
            elif self.host.machine.over:
                return "blocked"
            elif not self._received:
                return "done"
            elif not self._feed():
                return "blocked"
            if now() >= end:
                return "more"

    def _feed(self) -> bool:
        """Give the session what it has room for; returns whether that was anything."""
        room = self.session.room(self._received)
        data, self._received = self._received[:room], self._received[room:]
        if data:
            self.session.feed(data)
            self._watch_unfinished()
        return bool(data)

    def _incoming(self, data: bytes) -> bytes:
        """Return what of `data` concerns the monitor."""
        return self.session.filter(data if self.telnet is None else self.telnet.feed(data))

    def _resumed(self) -> None:
        """The session waits no more."""
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
        if self.state != IDLE or self._received:  # the rest may be here, unread because of what comes before it
            self._watch_unfinished()
        else:
            self.session.give_up(f"the rest of the message did not come within {UNFINISHED_LIMIT:.0f} seconds")

    def _turn_soon(self) -> None:
        """Go on, but not from within the callback of a timer or of another client's command: that one ends first."""
        if self.state in OPEN and self.state != QUEUED:
            self.move("queue")
            self.host.queue(self._turn)

    def _flow(self) -> None:
        """Read on or not; close behind the last answer."""
        transport = self.transport
        if transport.is_closing():
            return
        if self._eof:
            if self.state == IDLE and not self._stalled:
                self.finish()
                return
        elif self._received:
            transport.pause_reading()
        else:
            transport.resume_reading()
        # A client that we do not read from could hang up unnoticed.
        if self.state == WAITING and (self._eof or self._received):
            self.host.hang_ups.watch(self._descriptor, self.cut_off)
        else:
            self._unwatch()

    def _unwatch(self) -> None:
        self.host.hang_ups.unwatch(self._descriptor)
