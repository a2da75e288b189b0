"""vhost-user messages done: each is checked, brings about what it says, and is answered.

A front end is never trusted and never waited for. What it gets wrong raises FrontEndFault, and whoever holds the
connection cuts it off.
"""

from __future__ import annotations

import os

from device.balloon.device import ALWAYS_OFFERED
from device.balloon.spec import CONFIG_ACTUAL, CONFIG_POISON_VAL
from device.guest.vhost_user import wire
from device.guest.vhost_user.memory import map_table
from device.guest.vhost_user.port import Port, Ring
from device.guest.vhost_user.wakeup import Wakeup
from device.guest.vhost_user.wire import PAIR, U64, FrontEndFault, Request, check_shape, reply
from device.virtio.spec import MAX_QUEUE_SIZE, U16, bit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Backend:
    """Answers one front end's messages about the rings and the device behind `port`. Close it when that is gone.

    With `barrier_ends` a question for the features while a driver is up means that it lets go: all that UML (6.1) says
    when its driver is unloaded, where other front ends ask it to wait for their last message to be done.
    """

    def __init__(self, port: Port, *, barrier_ends: bool = False) -> None:
        self.port = port
        self._barrier_ends = barrier_ends
        self._protocol = 0
        self._told = 0
        """All features that this front end was ever offered: an honest one may keep to them over an unplug."""
        self._channel: Wakeup | None = None

    # Messages.

    def handle(self, request: Request) -> bytes:
        """Do what a message says and return what to send back, if anything; its descriptors are taken over.

        Raises FrontEndFault for one that breaks the protocol: then the front end is to be cut off.
        """
        try:
            check_shape(request)
            answer = _HANDLERS[request.number](self, request)
        finally:
            for fd in request.fds:
                os.close(fd)
            request.fds = []
        if answer is not None:
            return reply(request.number, answer)
        if request.need_reply and self._protocol >> wire.P_REPLY_ACK & 1:
            return reply(request.number, U64.pack(0))
        return b""

    def _owner(self, request: Request) -> bytes | None:
        """SET_OWNER starts a session, RESET_OWNER is history: neither has anything to do here."""
        return None

    def _get_features(self, request: Request) -> bytes | None:
        if self.port.up and self._barrier_ends:
            self.port.let_go()
        device = self.port.device
        # Some front ends ask once for all: what any device that is plugged in later will have.
        offered = ALWAYS_OFFERED if device is None else device.offered
        self._told |= offered
        return U64.pack(offered | bit(wire.F_PROTOCOL_FEATURES))

    def _set_features(self, request: Request) -> bytes | None:
        (features,) = U64.unpack(request.payload)
        own = features & ~bit(wire.F_PROTOCOL_FEATURES)
        device = self.port.device
        unknown = 0 if device is None else own & ~device.offered & ~self._told
        if unknown:
            raise FrontEndFault(f"features {unknown:#x} were accepted but never offered")
        self.port.set_features(features)
        return None

    def _get_protocol_features(self, request: Request) -> bytes | None:
        return U64.pack(wire.PROTOCOL_FEATURES)

    def _set_protocol_features(self, request: Request) -> bytes | None:
        (features,) = U64.unpack(request.payload)
        if features & ~wire.PROTOCOL_FEATURES:
            raise FrontEndFault(f"protocol features {features & ~wire.PROTOCOL_FEATURES:#x} were never offered")
        self._protocol = features
        return None

    def _get_queue_num(self, request: Request) -> bytes | None:
        return U64.pack(len(self.port.rings))

    def _set_backend_channel(self, request: Request) -> bytes | None:
        channel = Wakeup.take(request.fds, sockets_only=True)
        if self._channel is not None:
            self._channel.close()
        self._channel = channel
        return None

    def _set_memory(self, request: Request) -> bytes | None:
        self.port.set_memory(map_table(request.payload, request.fds, self.port.memory_lost))
        return None

    # Rings.

    def _ring(self, index: int) -> Ring:
        if index >= len(self.port.rings):
            raise FrontEndFault(f"ring {index} of {len(self.port.rings)}")
        return self.port.rings[index]

    def _set_size(self, request: Request) -> bytes | None:
        index, size = PAIR.unpack(request.payload)
        ring = self._ring(index)
        if not 0 < size <= MAX_QUEUE_SIZE or size & (size - 1):
            raise FrontEndFault(f"ring {index} of {size} entries")
        if size != ring.size:
            self.port.renew(index)
            ring.size = size
        return None

    def _set_base(self, request: Request) -> bytes | None:
        index, base = PAIR.unpack(request.payload)
        ring = self._ring(index)
        if base > U16:
            raise FrontEndFault(f"ring {index} starts at {base}")
        self.port.renew(index)
        ring.base = base
        self.port.look()
        return None

    def _set_address(self, request: Request) -> bytes | None:
        index, _, desc, used, avail, _ = wire.RING_ADDRESS.unpack(request.payload)
        ring = self._ring(index)
        address = (desc, avail, used)
        if address != ring.address:
            self.port.renew(index)
            ring.address = address
        self.port.look()
        return None

    def _get_base(self, request: Request) -> bytes | None:
        index, _ = PAIR.unpack(request.payload)
        ring = self._ring(index)
        if self.port.running(index):
            self.port.park(index)
        if ring.kick is not None:  # it runs again when a new one comes
            ring.kick.close()
            ring.kick = None
        self.port.down_if_idle()
        return PAIR.pack(index, ring.base)

    def _set_enable(self, request: Request) -> bytes | None:
        index, enabled = PAIR.unpack(request.payload)
        ring = self._ring(index)
        if enabled > 1:
            raise FrontEndFault(f"ring {index} enabled with {enabled}")
        ring.enabled = bool(enabled)
        if not enabled and self.port.running(index):
            self.port.park(index)
        self.port.down_if_idle()
        self.port.look()
        return None

    def _descriptor(self, request: Request) -> tuple[int, Wakeup | None]:
        (value,) = U64.unpack(request.payload)
        if value & ~(wire.RING_INDEX | wire.NO_DESCRIPTOR):
            raise FrontEndFault(f"{wire.SHAPES[request.number].name} for ring {value:#x}")
        index = value & wire.RING_INDEX
        self._ring(index)
        if bool(request.fds) == bool(value & wire.NO_DESCRIPTOR):
            raise FrontEndFault(f"{wire.SHAPES[request.number].name} {value:#x} with {len(request.fds)} descriptors")
        return index, Wakeup.take(request.fds) if request.fds else None

    def _set_kick(self, request: Request) -> bytes | None:
        index, end = self._descriptor(request)
        if end is None:
            raise FrontEndFault(f"ring {index} without kicks: rings are not polled here")
        ring = self.port.rings[index]
        if ring.kick is not None:
            ring.kick.close()
        ring.kick = end
        self.port.look()
        return None

    def _set_call(self, request: Request) -> bytes | None:
        index, end = self._descriptor(request)
        ring = self.port.rings[index]
        if ring.call is not None:
            ring.call.close()
        ring.call = end
        return None

    def _set_err(self, request: Request) -> bytes | None:
        """Errors are told as the device's, not through a descriptor: it is checked and closed."""
        _, end = self._descriptor(request)
        if end is not None:
            end.close()
        return None

    # Configuration space.

    def _config(self, request: Request) -> tuple[int, int]:
        offset, size, _ = wire.CONFIG.unpack_from(request.payload)
        if size != len(request.payload) - wire.CONFIG.size or offset + size > wire.MAX_CONFIG:
            raise FrontEndFault(f"{size} bytes of configuration at {offset} in {len(request.payload)} bytes")
        return offset, size

    def _get_config(self, request: Request) -> bytes | None:
        offset, size = self._config(request)
        device = self.port.device
        data = bytes(size) if device is None else device.read_config(offset, size)
        return request.payload[: wire.CONFIG.size] + data.ljust(size, b"\0")

    def _set_config(self, request: Request) -> bytes | None:
        """Take `actual` out of what is written, whatever is around it: QEMU writes the whole space back.

        `poison_val` written alone is the driver's, and the device wants to know of it.
        """
        offset, size = self._config(request)
        data = request.payload[wire.CONFIG.size :]
        device = self.port.device
        if device is not None:
            at = CONFIG_ACTUAL - offset
            if at >= 0 and at + 4 <= size:
                device.write_config(CONFIG_ACTUAL, data[at : at + 4])
            elif offset == CONFIG_POISON_VAL:
                device.write_config(offset, data)
        return None

    def config_changed(self) -> None:
        """Tell the front end that the configuration space changed.

        Where its channel is full of such messages that it has not read, one more would say nothing new.
        """
        if self._channel is not None:
            self._channel.send(wire.CONFIG_CHANGED)

    def close(self) -> None:
        """The front end is gone: touch its memory no more, let all descriptors go. The device is not reset."""
        self.port.close()
        if self._channel is not None:
            self._channel.close()
            self._channel = None


_HANDLERS: dict[int, Callable[[Backend, Request], bytes | None]] = {
    wire.SET_OWNER: Backend._owner,
    wire.RESET_OWNER: Backend._owner,
    wire.GET_FEATURES: Backend._get_features,
    wire.SET_FEATURES: Backend._set_features,
    wire.GET_PROTOCOL_FEATURES: Backend._get_protocol_features,
    wire.SET_PROTOCOL_FEATURES: Backend._set_protocol_features,
    wire.GET_QUEUE_NUM: Backend._get_queue_num,
    wire.SET_BACKEND_REQ_FD: Backend._set_backend_channel,
    wire.SET_MEM_TABLE: Backend._set_memory,
    wire.SET_VRING_NUM: Backend._set_size,
    wire.SET_VRING_BASE: Backend._set_base,
    wire.SET_VRING_ADDR: Backend._set_address,
    wire.GET_VRING_BASE: Backend._get_base,
    wire.SET_VRING_KICK: Backend._set_kick,
    wire.SET_VRING_CALL: Backend._set_call,
    wire.SET_VRING_ERR: Backend._set_err,
    wire.SET_VRING_ENABLE: Backend._set_enable,
    wire.GET_CONFIG: Backend._get_config,
    wire.SET_CONFIG: Backend._set_config,
}
