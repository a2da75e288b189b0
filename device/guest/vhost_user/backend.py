"""Serves a front end's socket: checks each message, does what it says, and answers it.

The backend never trusts a front end and never waits for one. Whatever a front end does wrong raises FrontEndFault, and
the owner of the connection closes it.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Callable

from device.balloon.spec import ALWAYS_OFFERED, CONFIG_ACTUAL, CONFIG_POISON_VAL
from device.guest.vhost_user import wire
from device.guest.vhost_user.memory import map_table
from device.guest.vhost_user.port import Port, Ring
from device.guest.vhost_user.wakeup import Wakeup
from device.guest.vhost_user.wire import PAIR, U64, Decoder, FrontEndFault, Request, check_shape, reply
from device.virtio.device import MAX_ROUNDS
from device.virtio.spec import MAX_QUEUE_SIZE, U16, bit

MESSAGES_AT_ONCE = 64
"""Messages answered in one call, so that the caller can do its other work: a whole negotiation takes about forty."""

_FDS_SIZE = socket.CMSG_SPACE((wire.MAX_REGIONS + 1) * 4)


class Backend:
    """Serves one front end on `socket`: its messages change the rings and the device of `port`. Close it at the end.

    Call `serve` when the socket or one of `port.descriptors()` is readable, and after each change of the device; it
    never blocks. With `barrier_ends`, GET_FEATURES while a driver is up means that the driver releases the device.
    """

    # UML 6.1 sends only that GET_FEATURES when its driver is unloaded. Other front ends send it as a barrier, to wait
    # until the message before it was handled, so it cannot have that meaning for all of them.

    def __init__(self, sock: socket.socket, port: Port, *, barrier_ends: bool = False) -> None:
        self.socket = sock
        self.port = port
        self._barrier_ends = barrier_ends
        self._decoder = Decoder()
        self._protocol = 0
        self._ever_offered = 0
        """All features that this front end was ever offered: it may keep using them with the next device."""
        self._channel: Wakeup | None = None

    # The socket.

    def answer_messages(self) -> bool:
        """Answer what came in, at most MESSAGES_AT_ONCE messages; returns False if the front end has hung up.

        Raises FrontEndFault if it has to be cut off.
        """
        # UML's kernel stands still until a message is answered, so as many as possible are answered at once.
        messages = MESSAGES_AT_ONCE
        while messages:
            try:
                data, fds = self._receive()
            except BlockingIOError:
                break
            except OSError:
                return False
            if not data:
                _close_all(fds)
                return False
            request = self._decoder.feed(data, fds)
            if request is not None:
                messages -= 1
                self._send(self._handle(request))
        return True

    def serve(self, on_news: Callable[[str], object]) -> bool:
        """Answer messages, take kicks and deliver what `take_due` says, for a caller without a Machine.

        `on_news` gets the device's news by the names of `take_due`. Returns False if the front end has hung up. The
        caller has to fire the timers. Raises FrontEndFault if the front end has to be cut off.
        """
        there = self.answer_messages()
        if there:
            self.port.take_kicks()
        device = self.port.device
        if device is None:
            return there
        for _ in range(MAX_ROUNDS):
            due = device.take_due()
            if due is None:
                return there
            what, queue = due
            if what == "interrupt":
                self.port.interrupt(queue)
            elif what == "config":
                self.config_changed()
            elif what == "serve":
                device.notify(queue)
            else:
                on_news(what)
        device.storm()
        return there

    def _receive(self) -> tuple[bytes, list[int]]:
        # Only as many bytes as complete the message, so that the descriptors that come with them belong to it.
        # MSG_CMSG_CLOEXEC: programs that other guests start must not inherit them.
        data, ancillary, flags, _ = self.socket.recvmsg(
            self._decoder.wanted, _FDS_SIZE, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
        )
        fds = array.array("i")
        for level, kind, body in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(body[: len(body) - len(body) % fds.itemsize])
        # MSG_CTRUNC: Linux has closed the descriptors that did not fit, so the message cannot be understood.
        if flags & socket.MSG_CTRUNC:
            _close_all(fds)
            raise FrontEndFault("more descriptors than a message has, or than this process may open")
        return data, list(fds)

    def _send(self, data: bytes) -> None:
        # Replies are not queued: an honest front end reads each one before it sends more, so a full socket is a fault.
        try:
            sent = self.socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) if data else 0
        except BlockingIOError:
            sent = -1
        except OSError:
            return  # it hung up: the next read says so
        if sent != len(data):
            raise FrontEndFault("replies are not read")

    def config_changed(self) -> None:
        """Tell the front end that the configuration space changed.

        The message is dropped if the channel is full: then the front end has such messages to read already.
        """
        if self._channel is not None:
            self._channel.send(wire.CONFIG_CHANGED)

    def close(self) -> None:
        """Release everything the front end gave us. The device is not reset."""
        # The port first, because the device must not use the memory after its descriptors are closed.
        self.port.close()
        if self._channel is not None:
            self._channel.close()
        _close_all(self._decoder.leftovers())
        self.socket.close()

    # Messages. `_handle` closes the descriptors that a message's method did not take over.

    def _handle(self, request: Request) -> bytes:
        """Do what a message says and return what to send back, if anything."""
        try:
            numbers = check_shape(request)
            do: Callable[..., bytes | None] = getattr(self, f"_{wire.SHAPES[request.number].name.lower()}")
            answer = do(request, *numbers)
        finally:
            _close_all(request.fds)
        if answer is None and request.need_reply and self._protocol >> wire.P_REPLY_ACK & 1:
            answer = U64.pack(0)
        return b"" if answer is None else reply(request.number, answer)

    def _set_owner(self, request: Request) -> None:
        """Nothing to do: SET_OWNER starts a session, and RESET_OWNER is no longer used."""

    _reset_owner = _set_owner

    def _get_features(self, request: Request) -> bytes:
        if self.port.up and self._barrier_ends:
            self.port.let_go()
        device = self.port.device
        # UML asks once, when it boots. Without a device it is offered what every device offers: otherwise a device that
        # is plugged in later would have no statistics.
        offered = ALWAYS_OFFERED if device is None else device.offered
        self._ever_offered |= offered
        return U64.pack(offered | bit(wire.F_PROTOCOL_FEATURES))

    def _set_features(self, request: Request, features: int) -> None:
        device = self.port.device
        # Features of a device that is gone are no fault: UML's driver keeps those of its boot. The port reports that no
        # driver comes up.
        known = bit(wire.F_PROTOCOL_FEATURES) | self._ever_offered | (0 if device is None else device.offered)
        if device is not None and features & ~known:
            raise FrontEndFault(f"features {features & ~known:#x} were accepted but never offered")
        self.port.set_features(features)

    def _get_protocol_features(self, request: Request) -> bytes:
        return U64.pack(wire.PROTOCOL_FEATURES)

    def _set_protocol_features(self, request: Request, features: int) -> None:
        if features & ~wire.PROTOCOL_FEATURES:
            raise FrontEndFault(f"protocol features {features & ~wire.PROTOCOL_FEATURES:#x} were never offered")
        self._protocol = features

    def _get_queue_num(self, request: Request) -> bytes:
        return U64.pack(len(self.port.rings))

    def _set_backend_req_fd(self, request: Request) -> None:
        channel = Wakeup.take(request.fds, sockets_only=True)
        if self._channel is not None:
            self._channel.close()
        self._channel = channel

    def _set_mem_table(self, request: Request, count: int, _: int) -> None:
        self.port.set_memory(map_table(request.payload, request.fds, self.port.memory_lost))

    # Rings.

    def _ring(self, index: int) -> Ring:
        if index >= len(self.port.rings):
            raise FrontEndFault(f"ring {index}: there are {len(self.port.rings)}")
        return self.port.rings[index]

    def _set_vring_num(self, request: Request, index: int, size: int) -> None:
        ring = self._ring(index)
        if not 0 < size <= MAX_QUEUE_SIZE or size & (size - 1):
            raise FrontEndFault(f"ring {index} with {size} entries: not a power of two up to {MAX_QUEUE_SIZE}")
        # Only another size means a new driver.
        if size != ring.size:
            self.port.reconfigure(ring)
            ring.size = size

    def _set_vring_base(self, request: Request, index: int, base: int) -> None:
        ring = self._ring(index)
        # This comes for every ring that is set up, so on a ring in use it means a new driver: UML's reset sends no
        # message of its own.
        if base > U16:
            raise FrontEndFault(f"ring {index} starts at {base}")
        self.port.reconfigure(ring)
        ring.base = base
        self.port.start_ready()

    def _set_vring_addr(self, request: Request, index: int, _: int, desc: int, used: int, avail: int, log: int) -> None:
        ring = self._ring(index)
        address = (desc, avail, used)
        if address != ring.address:
            self.port.reconfigure(ring)
            ring.address = address
        self.port.start_ready()

    def _get_vring_base(self, request: Request, index: int, _: int) -> bytes:
        ring = self._ring(index)
        self.port.park(ring)
        ring.hold("kick", None)  # the ring runs again when a new one comes
        self.port.down_if_idle()
        return PAIR.pack(index, ring.base)

    def _set_vring_enable(self, request: Request, index: int, enabled: int) -> None:
        ring = self._ring(index)
        if enabled > 1:
            raise FrontEndFault(f"ring {index} enabled with {enabled}")
        ring.enabled = bool(enabled)
        if not enabled:
            self.port.park(ring)
        self.port.down_if_idle()
        self.port.start_ready()

    def _descriptor(self, request: Request, value: int) -> tuple[Ring, Wakeup | None]:
        name = wire.SHAPES[request.number].name
        if value & ~(wire.RING_INDEX | wire.NO_DESCRIPTOR):
            raise FrontEndFault(f"{name} for ring {value:#x}")
        ring = self._ring(value & wire.RING_INDEX)
        if bool(request.fds) == bool(value & wire.NO_DESCRIPTOR):
            raise FrontEndFault(f"{name} {value:#x} with {len(request.fds)} descriptors")
        return ring, Wakeup.take(request.fds) if request.fds else None

    def _set_vring_kick(self, request: Request, value: int) -> None:
        ring, end = self._descriptor(request, value)
        if end is None:
            raise FrontEndFault(f"ring {ring.index} without kicks: rings are not polled here")
        ring.hold("kick", end)
        self.port.start_ready()

    def _set_vring_call(self, request: Request, value: int) -> None:
        ring, end = self._descriptor(request, value)
        ring.hold("call", end)

    def _set_vring_err(self, request: Request, value: int) -> None:
        """Check the descriptor and close it: errors are counted by the device, and not reported through it."""
        _, end = self._descriptor(request, value)
        if end is not None:
            end.close()

    # Configuration space.

    def _config(self, request: Request, offset: int, size: int) -> bytes:
        """Return the bytes of configuration in a message. Raises FrontEndFault if there are not as many as it says."""
        data = request.payload[wire.CONFIG.size :]
        if size != len(data) or offset + size > wire.MAX_CONFIG:
            raise FrontEndFault(f"{size} bytes of configuration at {offset} in {len(request.payload)} bytes")
        return data

    def _get_config(self, request: Request, offset: int, size: int, flags: int) -> bytes:
        self._config(request, offset, size)
        device = self.port.device
        # Without a device the space reads as zeros: an error would end a front end that is only waiting for one.
        data = b"" if device is None else device.read_config(offset, size)
        return request.payload[: wire.CONFIG.size] + data.ljust(size, b"\0")

    def _set_config(self, request: Request, offset: int, size: int, flags: int) -> None:
        """Take the driver's own fields from what is written, and ignore the rest.

        QEMU writes the whole space back, with a num_pages that may be out of date by then.
        """
        data = self._config(request, offset, size)
        for field in (CONFIG_ACTUAL, CONFIG_POISON_VAL):
            at = field - offset
            if at >= 0 and at + 4 <= size:
                self.port.write_config(field, data[at : at + 4])


def _close_all(fds: list[int] | array.array[int]) -> None:
    for fd in fds:
        os.close(fd)
    del fds[:]
