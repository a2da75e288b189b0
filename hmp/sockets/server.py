"""The server of one machine: accepts clients on all its addresses, gives them turns, and ends."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import stat
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from device.machine.events import ClientRefused
from device.machine.machine import Machine
from hmp.drive import MachineDriver
from hmp.monitor.dialects import DIALECTS
from hmp.monitor.emulated import emulated
from hmp.qmp.events import EventHub
from hmp.ratelimit import RateLimit
from hmp.sockets.connection import RECEIVE_SIZE, TURN, Connection
from hmp.sockets.hangups import HangUps
from hmp.sockets.listeners import Listener
from hmp.sockets.port import Port
from hmp.sockets.stdio import carry, carry_all

CLIENT_LIMIT = 4096
"""The most clients at once: four times the thousand that hmp is made for. With UNSENT_LIMIT each, a host has enough
memory for them."""

SPARE_DESCRIPTORS = 64
"""Descriptors that are kept for the rest of the program: guests, scripts, snapshots, and for refusing a client. It
is at most an eighth of all, because with few descriptors clients matter more."""

LONGEST_ROUND = 0.02
"""The most seconds that clients in the queue get before the loop serves other events."""

EVENTS_AT_ONCE = 1000
"""How many of many events (sim event) are sent before others get their turn."""

GRACE = 0.2
"""Seconds that clients have at the end to read the rest of their output."""

STDOUT_GRACE = 5.0
"""The same for the reader of stdout: the program at the other end of a pipe may be busy."""

ASKER_GRACE = 0.05
"""Seconds that a client has to hang up before we do, after its command ended the machine. Otherwise qmp-shell reports
an error; with QEMU, which closes at once, it usually does."""

FOREIGN_SPACING = 10.0
"""Seconds between two lines about clients that speak HTTP, TLS or STUN: a web page can try without a pause."""


def leaves_enough(descriptor: int) -> bool:
    """Whether enough descriptors are free after this new one, which got the lowest free number."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return limit == resource.RLIM_INFINITY or descriptor < limit - min(SPARE_DESCRIPTORS, limit // 8)


class Server:
    """Serves one machine on listening sockets, inside a running event loop."""

    buffer = memoryview(bytearray(RECEIVE_SIZE))
    """One buffer for all machines of the process: input is copied at once, and one thread serves all."""

    def __init__(self, machine: Machine, driver: MachineDriver, listeners: list[Listener], dialect: str) -> None:
        self.machine = machine
        self.driver = driver
        self.clients = 0
        self.connections: set[Connection] = set()
        self.ended_by: Connection | None = None
        self.stopping = False
        self.now = time.monotonic
        self._loop = asyncio.get_running_loop()
        self.hub = EventHub(machine, self._loop.call_soon)
        self._turns: deque[Callable[[], None]] = deque()
        self._turning = False
        self._turned = 0.0
        self.hang_ups = HangUps(self._loop)
        self._ports = [Port(self, listener, DIALECTS[listener.address.dialect or dialect]) for listener in listeners]
        self._awaited = {port for port in self._ports if port.listener.address.wait}
        self._clients_came = asyncio.Event()
        self._departure = asyncio.Event()
        self._foreign = RateLimit(FOREIGN_SPACING, now=self._loop.time)
        for number, listener in enumerate(listeners):
            listener.address.label = listener.address.label or f"compat_monitor{number}"
        self.others: list[tuple[str, str, bool]] = []
        """The label and file name of each character device without an address, and whether it is used."""
        emulated(machine).chardevs = self._chardevs
        self._parent = -1
        self._numbers = 0
        emulated(machine).wire = self
        self._carried: asyncio.Task[None] | None = None
        self._carrying: set[asyncio.Task[None]] = set()
        """The tasks that carry terminals, pipes, files and stdio to a socket; `_carried` is the one of stdio."""

    def _chardevs(self) -> list[dict[str, object]]:
        others = [{"frontend-open": used, "filename": name, "label": label} for label, name, used in self.others]
        # Of two monitors QEMU lists the later one first (seen with 7.2).
        return [*reversed([port.shown() for port in self._ports]), *others]

    def start(self) -> None:
        """Accept clients from now on."""
        for port in self._ports:
            port.open()
            listener, address = port.listener, port.listener.address
            if address.terminal:
                carrying = carry_all(address.ends[0], port.make_client, lambda: self.stopping)
            elif listener.near is not None:
                carrying = carry(listener.near, address.ends)
            else:
                continue
            task = self._loop.create_task(carrying)
            self._carrying.add(task)
            if not address.shown:
                self._carried = task

    async def stdio_ended(self) -> None:
        """Wait until the monitor on stdin and stdout, if there is one, has ended. Raises OSError if stdout fails."""
        if self._carried is not None:
            await asyncio.shield(self._carried)

    def watch_parent(self, parent: int, *, stdin: bool) -> None:
        """End the machine when the process `parent` is gone; with `stdin` also when stdin is a pipe or socket and ends.

        PR_SET_PDEATHSIG was rejected: it signals the end of the thread that started us, which in Go can be any time.
        """
        with suppress(OSError):  # gone already, or a sandbox
            self._parent = os.pidfd_open(parent)
            self._loop.add_reader(self._parent, self._orphaned)
        # The parent may have ended before we watched it.
        if os.getppid() != parent:
            self._loop.call_soon(self._orphaned)
        if stdin and (stat.S_ISFIFO(mode := os.fstat(0).st_mode) or stat.S_ISSOCK(mode)):
            self._loop.add_reader(0, self._drain_stdin)

    def _drain_stdin(self) -> None:
        try:
            if os.read(0, RECEIVE_SIZE):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._orphaned()

    def _orphaned(self) -> None:
        for descriptor in {0, self._parent} - {-1}:
            self._loop.remove_reader(descriptor)
        self.machine.quit(reason="host-signal")

    async def clients_came(self) -> None:
        """Wait until each `wait` address has had its first client."""
        if self._awaited:
            await self._clients_came.wait()

    def takes(self, client: socket.socket) -> bool:
        """Whether there is room for one more client. With few descriptors the first client is always served."""
        return self.clients < CLIENT_LIMIT and (leaves_enough(client.fileno()) or not self.clients)

    def came(self, port: Port) -> None:
        """A client was accepted at `port`."""
        self.clients += 1
        self._awaited.discard(port)
        if not self._awaited:
            self._clients_came.set()

    def next_number(self) -> int:
        """Return the number of a new client: from 1 on, in the order in which they come."""
        self._numbers += 1
        return self._numbers

    # What sim wire and sim event ask for.

    def numbered(self) -> list[tuple[int, str]]:
        """Return number and address of each client."""
        return sorted((each.number, f"{each.address.kind} {each.name}") for each in self.connections if each.address)

    def disturb(self, client: int | None, by: int, garbage: str | None) -> bool:
        """Hang up on `client`, or send it `garbage`; if it is None, on all but `by`. Returns whether there was any."""
        found = [each for each in self.connections if (each.number != by if client is None else each.number == client)]
        for each in found:
            if garbage is None:
                each.cut_off()
            else:
                each.write(garbage.encode("utf-8", "surrogatepass"))
        return bool(found)

    def send_events(self, name: str, data: dict[str, object], count: int, every: int) -> None:
        """Send an event `count` times to every QMP client, with `every` ns of host time between two."""
        # A million events at once would hold up all clients.
        at_once = min(count, 1 if every else EVENTS_AT_ONCE)
        for _ in range(at_once):
            self.hub.send_to_all(name, data)
        left = count - at_once
        if left and not self.stopping:
            if every:
                self.machine.time.after(every, lambda: self.send_events(name, data, left, every))
            else:
                self._loop.call_soon(self.send_events, name, data, left, every)

    def accept_again(self) -> None:
        """Accept clients again on the addresses whose only client is gone."""
        for port in self._ports:
            port.accept_again()

    @property
    def one_client(self) -> bool:
        """Whether each address serves one client at a time (sim wire one-client on)."""
        faults = emulated(self.machine).faults
        return faults is not None and faults.one_client

    def left(self) -> None:
        """Note that a client is gone."""
        self.clients -= 1
        self.accept_again()
        self._departure.set()

    def foreign(self, where: str, language: str) -> None:
        """Report a client at `where` that spoke `language` and was cut off; at most every FOREIGN_SPACING seconds."""
        dropped = self._foreign.admit()
        if dropped is not None:
            more = f" ({dropped} more before)" if dropped else ""
            self.machine.emit(ClientRefused(f"it spoke {language} to {where}, as web pages can{more}"))

    @property
    def crowded(self) -> bool:
        """Whether clients wait for their turn."""
        return bool(self._turns)

    def queue(self, turn: Callable[[], None]) -> None:
        """Call `turn` soon, after the turns that wait already. Between turns the loop serves other events."""
        self._turns.append(turn)
        if not self._turning:
            self._turning = True
            self._loop.call_soon(self._take_turns)

    def _take_turns(self) -> None:
        start = self.now()
        # The queue gets as much time as everything else took since the last round. So new clients, which go first,
        # cannot delay the clients in the queue without limit.
        end = start + min(max(TURN, start - self._turned), LONGEST_ROUND)
        try:
            for _ in range(len(self._turns)):
                self._turns.popleft()()
                if self.now() >= end:
                    break
        finally:
            self._turned = self.now()
            self._turning = bool(self._turns)
            if self._turning:
                self._loop.call_soon(self._take_turns)

    async def stop(self) -> None:
        """Stop: accept and run nothing more, send the rest of the output, and close every client.

        Further calls do nothing.
        """
        if self.stopping:
            return
        self.stopping = True
        for port in self._ports:
            port.close()
        # See ASKER_GRACE: the client whose command ended the machine hangs up first.
        asker = self.ended_by if self.ended_by is not None and self.ended_by.session.lingers else None
        for connection in tuple(self.connections):
            if connection is not asker:
                connection.finish()
        if asker is not None:
            await self._until_gone({asker}, ASKER_GRACE)
            asker.finish()
        await self._until_gone(set(self.connections), GRACE)
        if self.connections:
            for connection in tuple(self.connections):
                connection.cut_off()
            await asyncio.sleep(0)  # asyncio closes the sockets in its next round
        if self._carrying:
            await asyncio.wait(self._carrying, timeout=STDOUT_GRACE)
            for task in self._carrying:
                task.cancel()
            await asyncio.gather(*self._carrying, return_exceptions=True)
        emulated(self.machine).wire = None
        self.hub.close()
        self.hang_ups.close()
        if self._parent >= 0:
            self._loop.remove_reader(self._parent)
            os.close(self._parent)
            self._parent = -1

    async def _until_gone(self, these: set[Connection], seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while these & self.connections:
                    self._departure.clear()
                    await self._departure.wait()
