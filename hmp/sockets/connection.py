"""What all clients on sockets share: flow control both ways, fair turns, half-close, hang-up, and the end."""

from __future__ import annotations

import asyncio
from fcntl import ioctl
from termios import TIOCOUTQ

from hmp.sockets.opening import Opening

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from device.machine.machine import Machine
    from hmp.aiodrive import MachineDriver
    from hmp.qmp.events import EventHub
    from hmp.sockets.hangups import HangUps

    class Host(Protocol):
        """The server that a connection belongs to."""

        machine: Machine
        driver: MachineDriver
        connections: set[Connection]
        buffer: memoryview
        hang_ups: HangUps
        hub: EventHub
        ended_by: Connection | None
        stopping: bool

        def left(self) -> None:
            """A connection ended."""

        def foreign(self, where: str, language: str) -> None:
            """A client at `where` was hung up on because it does not speak a monitor's language but `language`."""


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

STEPS = 64
"""Messages or lines (or pieces of echo) of one client that are handled before the others get their turn: some 5 ms."""

MORE, BLOCKED, DONE = range(3)
"""What a turn leaves: something to go on with at once, something that waits for a guest or for the client to read, or
nothing."""


class Connection(asyncio.BufferedProtocol):
    """One client. Subclasses say how to greet (`_greet`), what to do with what came (`_pump`), and how to end."""

    transport: asyncio.Transport
    lingers = False
    """Whether the client may hang up first where its command ended everything."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._opening: Opening | None = None
        self._state = DONE
        self._eof = False
        self._stalled = False
        self._gone = False
        self._reading = True
        self._watched = False
        self._collected: list[bytes] | None = None  # output, during a turn
        self._size = 0
        self._written = 0
        self._turn_due = False
        self._stall: asyncio.TimerHandle | None = None

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a stream's is
        self.transport = transport
        if isinstance(transport.get_extra_info("sockname"), tuple):  # a host and a port; no browser opens unix sockets
            self._opening = Opening()
        self.host.connections.add(self)
        if self.host.stopping:
            self.cut_off()
        else:
            self._greet()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to put what is received: one place for all clients, as `buffer_updated` copies at once."""
        return self.host.buffer

    def buffer_updated(self, count: int) -> None:
        """Take what the client sent."""
        if self._over():
            return
        data = bytes(self.host.buffer[:count])
        if self._opening is not None:
            language = self._opening.feed(data)
            if language:
                host, port = self.transport.get_extra_info("sockname")[:2]
                self.cut_off()
                self.host.foreign(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", language)
                return
            if language is not None:
                self._opening = None
        data = self._incoming(data)
        self._received = self._received + data if self._received else data
        if not self._turn_due:
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
        self._stalled = True
        self._watch_stall()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._stalled = False
        self._unwatch_stall()
        if self.transport.is_closing():
            self._watch_stall()  # it has still to take the rest
        else:
            self._turn_soon()

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone. What it sent still runs, as in QEMU; what it waits for is taken back."""
        cut_off, self._gone = self._gone, True
        self._unwatch_stall()
        self._unwatch()
        self.host.connections.discard(self)
        self.host.left()
        if cut_off:
            self._end()
        else:
            self._stalled = False
            self._finish_unheard()

    # Ending.

    def finish(self) -> None:
        """Send what is still to be sent, then close."""
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._watch_stall()

    def cut_off(self) -> None:
        """Let go of the client here and now."""
        self._gone = True
        self.transport.abort()

    def _finish_unheard(self) -> None:
        if not self._over() and self._pump() == MORE:
            self._loop.call_soon(self._finish_unheard)
        else:
            self._end()

    def _end(self) -> None:
        self._received = b""
        self._close()
        self.host.driver.kick()

    def _watch_stall(self) -> None:
        if self._stall is None:
            self._stall = self._loop.call_later(STALL_LIMIT, self._check_stall, self._taken)

    def _unwatch_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    @property
    def _taken(self) -> int:
        """What the client took, in units that only grow as it does: the kernel tells late that there is room again."""
        unread = ioctl(self.transport.get_extra_info("socket").fileno(), TIOCOUTQ, bytes(4))
        return self._written - self.transport.get_write_buffer_size() - int.from_bytes(unread, "little")

    def _check_stall(self, taken: int) -> None:
        self._stall = None
        if self._taken == taken and (self._received or self._eof):
            self.cut_off()
        else:
            self._watch_stall()

    # Sending.

    def write(self, data: bytes) -> None:
        """Send `data`, or cut off a client that let too much of it pile up."""
        if self._gone or not data:
            return
        collected = self._collected
        if collected is None:
            self._send(data)
            return
        collected.append(data)
        self._size += len(data)
        if self._size >= SEND_SIZE:
            self._send_collected()

    def _send_collected(self) -> None:
        collected, self._size = self._collected, 0
        if collected:
            data = b"".join(collected)
            collected.clear()
            self._send(data)

    def _send(self, data: bytes) -> None:
        transport = self.transport
        if self._gone or transport.is_closing():
            return
        if transport.get_write_buffer_size() > UNSENT_LIMIT:
            self.cut_off()
            return
        self._written += len(data)
        transport.write(data)

    # Turns.

    def _over(self) -> bool:
        """Whether no more lines are run: the machine ended (perhaps by another client's command), or the server did."""
        return self.host.machine.over or self.host.stopping

    def _turn(self) -> None:
        """Handle some of what was received, send what follows from it, and see how to go on."""
        self._turn_due = False
        if self._gone or self._over():
            return
        self._collected = []
        try:
            self._state = self._pump()
        except Exception:
            self.cut_off()  # a fault of ours: the others are still served, and the loop's handler tells
            raise
        finally:
            self._send_collected()
            self._collected = None
        if self._over():
            self.host.ended_by = self
        self.host.driver.kick()
        if self._state == MORE:
            self._turn_soon()
        self._flow()

    def _turn_soon(self) -> None:
        """Go on, but not from within the callback of a timer or of another client's command: that one ends first."""
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._turn)

    def _flow(self) -> None:
        """Read on or not; close behind the last answer."""
        transport = self.transport
        if transport.is_closing():
            return
        if self._eof:
            if self._state == DONE and not self._turn_due and not self._stalled:
                self.finish()
                return
        else:
            reading = not self._received
            if reading != self._reading:
                self._reading = reading
                if reading:
                    transport.resume_reading()
                else:
                    transport.pause_reading()
        # A client that we do not read from could hang up unnoticed.
        if (self._eof or not self._reading) and self._state == BLOCKED:
            self._watch()
        else:
            self._unwatch()

    def _watch(self) -> None:
        if not self._watched:
            self._watched = True
            self.host.hang_ups.watch(self.transport.get_extra_info("socket").fileno(), self.cut_off)

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self.host.hang_ups.unwatch(self.transport.get_extra_info("socket").fileno())

    # For subclasses.

    def _incoming(self, data: bytes) -> bytes:
        """Return what of `data` concerns the monitor."""
        return data

    def _greet(self) -> None:
        raise NotImplementedError

    def _pump(self) -> int:
        """Handle up to STEPS pieces of what was received, unless `_stalled`; return MORE, BLOCKED or DONE."""
        raise NotImplementedError

    def _close(self) -> None:
        """Take back what the client waits for."""
        raise NotImplementedError
