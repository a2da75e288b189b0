"""The vhost-user backend without a Machine: the owner of device and socket delivers what is due.

The driver's side is written out: what goes over the socket is in device/guest/vhost_user/wire.py.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct

from device.balloon.device import BalloonDevice
from device.balloon.spec import CONFIG_ACTUAL, F_STATS_VQ, FREE, TOTAL
from device.balloon.stats import encode
from device.clock import SECOND, SimulatedClock, Timeline
from device.guest.vhost_user import wire
from device.guest.vhost_user.backend import Backend
from device.guest.vhost_user.port import Port
from device.virtio.driver_queue import DriverQueue, ring_bytes
from device.virtio.memory import GuestMemory, Region
from device.virtio.spec import F_VERSION_1, MIB, PAGE_SIZE, bit

RAM = 16 * MIB
USER = 0x7F00_0000_0000
"""The front end's own address of guest address 0."""

LIST, RECORDS = 4 * MIB, 5 * MIB
"""Guest addresses of the driver's page list and statistics buffer."""


class FrontEnd:
    """A front end and its guest's driver: memory in a file, three rings, an eventfd for each direction of each."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.memory = os.memfd_create("guest", os.MFD_CLOEXEC)
        os.ftruncate(self.memory, RAM)
        self.ram = Region(0, RAM, mmap.mmap(self.memory, RAM))
        self.inflate, self.deflate, self.stats = self.rings = [
            DriverQueue(self.ram, 0x1000 + index * ring_bytes(128), 128) for index in range(3)
        ]
        self.kicks = [os.eventfd(0) for _ in self.rings]
        self.calls = [os.eventfd(0, os.EFD_NONBLOCK) for _ in self.rings]

    def say(self, number: int, form: str = "", *numbers: int, fds: tuple[int, ...] = ()) -> None:
        payload = struct.pack(f"<{form}", *numbers)
        socket.send_fds(self.socket, [wire.HEADER.pack(number, wire.VERSION, len(payload)) + payload], fds)

    def negotiate(self) -> None:
        self.say(wire.NUMBERS["GET_FEATURES"])
        self.say(wire.NUMBERS["SET_FEATURES"], "Q", bit(F_VERSION_1) | bit(F_STATS_VQ) | bit(wire.F_PROTOCOL_FEATURES))
        self.say(wire.NUMBERS["SET_MEM_TABLE"], "II4Q", 1, 0, 0, RAM, USER, 0, fds=(self.memory,))

    def set_up_rings(self) -> None:
        for index, ring in enumerate(self.rings):
            self.say(wire.NUMBERS["SET_VRING_NUM"], "II", index, ring.size)
            self.say(
                wire.NUMBERS["SET_VRING_ADDR"],
                "IIQQQQ",
                index,
                0,
                USER + ring.desc,
                USER + ring.used,
                USER + ring.avail,
                0,
            )
            self.say(wire.NUMBERS["SET_VRING_CALL"], "Q", index, fds=(self.calls[index],))
            self.say(wire.NUMBERS["SET_VRING_KICK"], "Q", index, fds=(self.kicks[index],))
            self.say(wire.NUMBERS["SET_VRING_ENABLE"], "II", index, 1)

    def put(self, ring: DriverQueue, address: int, data: bytes) -> None:
        """Write a buffer, make it available and kick."""
        self.ram.buffer[address : address + len(data)] = data
        ring.add_out(address, len(data))
        os.eventfd_write(self.kicks[self.rings.index(ring)], 1)

    def close(self) -> None:
        self.rings.clear()
        del self.inflate, self.deflate, self.stats
        self.ram.close()
        for fd in (self.memory, *self.kicks, *self.calls):
            os.close(fd)
        self.socket.close()


def test_a_device_is_served_without_a_machine() -> None:
    clock = SimulatedClock()
    time = Timeline(clock)
    time.vm_clock.start()
    device = BalloonDevice(time, GuestMemory(RAM), RAM)
    ours, theirs = socket.socketpair()
    backend, front = Backend(theirs, Port(device)), FrontEnd(ours)
    news: list[str] = []

    # Features.
    front.negotiate()
    assert backend.serve(news.append)
    (offered,) = struct.unpack("<Q", front.socket.recv(100)[wire.HEADER.size :])
    assert offered == device.offered | bit(wire.F_PROTOCOL_FEATURES)
    assert not device.live

    # The driver comes up, with its statistics queue primed.
    front.put(front.stats, RECORDS, encode([(FREE, 5 * MIB), (TOTAL, 15 * MIB)]))
    front.set_up_rings()
    assert backend.serve(news.append)
    assert device.live
    assert news == ["sample", "driver"]
    assert device.stats.sample is not None
    assert dict(device.stats.sample.values) == {FREE: 5 * MIB, TOTAL: 15 * MIB}
    news.clear()

    # Inflating: a page list goes in, the driver is called, and says how large its balloon is.
    device.set_target(12 * MIB)
    front.put(front.inflate, LIST, b"".join(pfn.to_bytes(4, "little") for pfn in range(2048, 3072)))
    front.say(wire.NUMBERS["SET_CONFIG"], "IIII", CONFIG_ACTUAL, 4, 0, 4 * MIB // PAGE_SIZE)
    assert backend.serve(news.append)
    assert os.eventfd_read(front.calls[0]) == 1
    assert front.inflate.take() is not None
    assert (device.actual, device.pages.count) == (12 * MIB, 1024)
    assert news == ["actual"]
    news.clear()

    # Statistics: the held buffer goes back, and comes again with new numbers.
    clock.move_to(3 * SECOND)
    device.stats.ask()
    assert backend.serve(news.append)
    assert os.eventfd_read(front.calls[2]) == 1
    assert front.stats.take() is not None
    front.put(front.stats, RECORDS, encode([(FREE, MIB)]))
    assert backend.serve(news.append)
    assert dict(device.stats.sample.values) == {FREE: MIB}
    assert news == ["sample"]
    assert device.stats.age == 0

    # Polling, by the timers that the device was given.
    device.stats.set_poll_interval(2)
    while time.fire_due(clock.now()):
        pass
    assert backend.serve(news.append)
    assert os.eventfd_read(front.calls[2]) == 1

    front.close()
    assert not backend.serve(news.append)
    backend.close()
    assert device.refused == {}


def test_one_that_breaks_the_protocol_is_an_error_for_the_caller() -> None:
    device = BalloonDevice(Timeline(SimulatedClock()), GuestMemory(RAM), RAM)
    ours, theirs = socket.socketpair()
    backend, front = Backend(theirs, Port(device)), FrontEnd(ours)
    news: list[str] = []
    front.say(wire.NUMBERS["SET_VRING_NUM"], "II", 7, 128)
    words = ""
    try:
        backend.serve(news.append)
    except wire.FrontEndFault as fault:
        words = str(fault)
    assert words == "ring 7: there are 5"
    backend.close()
    front.close()
    assert device.memory.regions[0].size == RAM
