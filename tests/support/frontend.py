"""A vhost-user front end that the test drives by hand: a good one (`up`), or a bad one, message by message.

It lives in the same process as the machine, which is served after everything that is sent: no thread, no sleep.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
from typing import Any

from device.balloon.spec import F_STATS_VQ, FREE, STATS, queue_roles
from device.balloon.stats import encode
from device.guest.vhost_user import wire
from device.virtio.driver_queue import DriverQueue, ring_bytes
from device.virtio.memory import Region
from device.virtio.spec import F_VERSION_1, MIB, bit
from tests.support.real import Real

USER = 0x7F00_0000_0000
"""The front end's own address of guest address 0."""

RINGS = 0x1000
BUFFERS = MIB

FEATURES = bit(F_VERSION_1) | bit(F_STATS_VQ) | bit(wire.F_PROTOCOL_FEATURES)


class FrontEnd:
    """A front end on the socket at `path`, with `ram` bytes of memory in a memfd, or in `file`. Use as a context manager."""

    def __init__(self, real: Real, path: str, *, ram: int = 16 * MIB, file: int | None = None) -> None:
        self.real = real
        self.ram = ram
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(path)
        self.socket.setblocking(False)
        self.memfd = os.memfd_create("front-end", os.MFD_CLOEXEC) if file is None else file
        os.ftruncate(self.memfd, ram)
        self.region = Region(0, ram, mmap.mmap(self.memfd, ram))
        self.queues: dict[str, DriverQueue] = {}
        self.kicks: list[int] = []
        self.calls: list[int] = []
        self.channel: socket.socket | None = None
        self.serve()

    def __enter__(self) -> FrontEnd:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()
        for fd in self.kicks + self.calls:
            os.close(fd)
        self.kicks, self.calls = [], []
        if self.channel is not None:
            self.channel.close()
        if self.memfd >= 0:
            os.close(self.memfd)
            self.memfd = -1
            self.queues.clear()  # they look into it
            self.region.close()

    def serve(self) -> None:
        """Let the machine do all that is due."""
        for _ in range(3):
            self.real.machine.step()

    # Messages.

    def raw(self, data: bytes, fds: list[int] | None = None) -> None:
        """Send bytes as they are and have them served; a front end that was cut off cannot send, which is fine."""
        try:
            socket.send_fds(self.socket, [data], fds or [])
        except OSError:
            pass
        self.serve()

    def send(
        self, number: int, payload: bytes = b"", fds: list[int] | None = None, *, flags: int = wire.VERSION
    ) -> None:
        self.raw(wire.HEADER.pack(number, flags, len(payload)) + payload, fds)

    def reply(self) -> tuple[int, int, bytes]:
        """Receive one reply: its number, flags and payload."""
        head = self.socket.recv(wire.HEADER.size)
        number, flags, size = wire.HEADER.unpack(head)
        return number, flags, self.socket.recv(size) if size else b""

    def ask(self, number: int, payload: bytes = b"") -> bytes:
        self.send(number, payload)
        answered, flags, data = self.reply()
        assert (answered, flags) == (number, wire.REPLY_FLAGS)
        return data

    def ask_number(self, number: int) -> int:
        return int(struct.unpack("<Q", self.ask(number))[0])

    @property
    def cut_off(self) -> bool:
        """Whether the other side hung up."""
        try:
            return self.socket.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    @property
    def why(self) -> str:
        """Why the machine considers this front end gone."""
        return str(self.real.guest.gone)

    # A good front end.

    def table(self, *rows: tuple[int, int, int, int]) -> bytes:
        rows = rows or ((0, self.ram, USER, 0),)
        return struct.pack("<II", len(rows), 0) + b"".join(struct.pack("<QQQQ", *row) for row in rows)

    def hello(self, features: int = FEATURES) -> None:
        """Negotiate, and share the memory."""
        self.send(wire.NUMBERS["SET_OWNER"])
        self.send(wire.NUMBERS["SET_PROTOCOL_FEATURES"], struct.pack("<Q", wire.PROTOCOL_FEATURES))
        ours, theirs = socket.socketpair()
        self.channel = ours
        ours.setblocking(False)
        self.send(wire.NUMBERS["SET_BACKEND_REQ_FD"], b"", [theirs.fileno()])
        theirs.close()
        self.send(wire.NUMBERS["SET_FEATURES"], struct.pack("<Q", features))
        self.send(wire.NUMBERS["SET_MEM_TABLE"], self.table(), [self.memfd])

    def set_ring(self, index: int, queue: DriverQueue, *, size: int, base: int = 0) -> None:
        """Set one ring up and enable it, with an eventfd each for kicks and calls."""
        kick = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        call = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.kicks.append(kick)
        self.calls.append(call)
        self.send(wire.NUMBERS["SET_VRING_CALL"], struct.pack("<Q", index), [call])
        self.send(wire.NUMBERS["SET_VRING_NUM"], struct.pack("<II", index, size))
        self.send(wire.NUMBERS["SET_VRING_BASE"], struct.pack("<II", index, base))
        address = struct.pack("<IIQQQQ", index, 0, USER + queue.desc, USER + queue.used, USER + queue.avail, 0)
        self.send(wire.NUMBERS["SET_VRING_ADDR"], address)
        self.send(wire.NUMBERS["SET_VRING_KICK"], struct.pack("<Q", index), [kick])
        self.send(wire.NUMBERS["SET_VRING_ENABLE"], struct.pack("<II", index, 1))

    def up(self, features: int = FEATURES, *, size: int = 128, prime: list[tuple[int, int]] | None = None) -> FrontEnd:
        """Negotiate and bring a driver up that primed its statistics queue with `prime`."""
        self.hello(features)
        self.lay_out(features, size=size, prime=prime)
        for index, role in enumerate(queue_roles(features)):
            self.set_ring(index, self.queues[role], size=size)
        assert self.real.guest.driver_loaded
        return self

    def lay_out(self, features: int = FEATURES, *, size: int = 128, prime: list[tuple[int, int]] | None = None) -> None:
        """Make the rings in memory, as a driver does before it announces them."""
        at = RINGS
        for role in queue_roles(features):
            self.region.buffer[at : at + ring_bytes(size)] = bytes(ring_bytes(size))
            self.queues[role] = DriverQueue(self.region, at, size)
            at += ring_bytes(size)
        if STATS in self.queues:
            self.fill([(4, 1)] if prime is None else prime)

    def index(self, role: str) -> int:
        return list(self.queues).index(role)

    def fill(self, records: list[tuple[int, int]]) -> None:
        """Put a statistics buffer on its queue."""
        data = encode(records)
        self.region.buffer[BUFFERS : BUFFERS + len(data)] = data
        self.queues[STATS].add_out(BUFFERS, len(data))

    def kick(self, role: str) -> None:
        os.eventfd_write(self.kicks[self.index(role)], 1)
        self.serve()

    def called(self, role: str) -> int:
        """Return how often the device called since the last time."""
        try:
            return os.eventfd_read(self.calls[self.index(role)])
        except BlockingIOError:
            return 0

    def pages(self, role: str, pfns: list[int]) -> Any:
        """Send a page list; returns (head, bytes written) of the buffer if it came back."""
        data = b"".join(pfn.to_bytes(4, "little") for pfn in pfns)
        self.region.buffer[BUFFERS + 4096 : BUFFERS + 4096 + len(data)] = data
        self.queues[role].add_out(BUFFERS + 4096, len(data))
        self.kick(role)
        return self.queues[role].take()


def good_one_is_served(real: Real, path: str) -> None:
    """What must hold whatever another front end did before."""
    with FrontEnd(real, path) as front:
        front.up(prime=[(FREE, 4711)])
        assert real.sample == {FREE: 4711}
        request = real.machine.request_stats(10**10)
        assert front.queues[STATS].take() is not None
        front.fill([(FREE, 4712)])
        front.kick(STATS)
        assert request.state == "answered"
