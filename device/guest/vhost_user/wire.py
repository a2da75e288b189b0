"""vhost-user messages as bytes: what a front end may send, how it is taken apart, what goes back.

Nothing here touches a socket or a device. Whatever a front end gets wrong comes out as FrontEndFault, whose text is the
reason it is cut off with. All numbers are little-endian, as the host must be (device.virtio.memory).
"""

from __future__ import annotations

from struct import Struct

HEADER = Struct("<III")
"""Request, flags, size of the payload in bytes."""

VERSION = 1
VERSION_MASK = 3
REPLY = 4
NEED_REPLY = 8
REPLY_FLAGS = VERSION | REPLY

# Requests of the front end.
GET_FEATURES = 1
SET_FEATURES = 2
SET_OWNER = 3
RESET_OWNER = 4
SET_MEM_TABLE = 5
SET_VRING_NUM = 8
SET_VRING_ADDR = 9
SET_VRING_BASE = 10
GET_VRING_BASE = 11
SET_VRING_KICK = 12
SET_VRING_CALL = 13
SET_VRING_ERR = 14
GET_PROTOCOL_FEATURES = 15
SET_PROTOCOL_FEATURES = 16
GET_QUEUE_NUM = 17
SET_VRING_ENABLE = 18
SET_BACKEND_REQ_FD = 21
GET_CONFIG = 24
SET_CONFIG = 25

CONFIG_CHANGED = HEADER.pack(2, VERSION, 0)
"""The one request of ours: the configuration space is not what it was."""

F_PROTOCOL_FEATURES = 30
"""The feature bit that says that protocol features are to be negotiated; not the driver's business."""

P_MQ = 0
P_REPLY_ACK = 3
P_BACKEND_REQ = 5
P_CONFIG = 9
# Not INBAND_NOTIFICATIONS (14): with it UML loses a config change that comes together with a call.
PROTOCOL_FEATURES = 1 << P_MQ | 1 << P_REPLY_ACK | 1 << P_BACKEND_REQ | 1 << P_CONFIG

MAX_PAYLOAD = 4096
"""Bytes: many times the longest message of the table; what claims more is no front end."""

MAX_REGIONS = 8
"""Regions of a memory table, the protocol's baseline, and so the most descriptors a message brings."""

MAX_CONFIG = 256
"""Bytes of configuration space that can be asked for at once, as in QEMU."""

NO_DESCRIPTOR = 0x100
RING_INDEX = 0xFF
"""SET_VRING_KICK and its like: the bit that says no descriptor comes, and where the ring's number is."""

U64 = Struct("<Q")
PAIR = Struct("<II")
REGION = Struct("<QQQQ")
CONFIG = Struct("<III")


class FrontEndFault(Exception):
    """The front end broke the protocol; the text says how. Never leaves the transport."""


class HostFault(FrontEndFault):
    """The connection cannot go on, and that is this host's fault: it is not counted as the guest's."""


class Request:
    """One message: its number, payload and the descriptors that came with it, which are the holder's to close."""

    __slots__ = ("fds", "need_reply", "number", "payload")

    def __init__(self, number: int, need_reply: bool, payload: bytes, fds: list[int]) -> None:
        self.number = number
        self.need_reply = need_reply
        self.payload = payload
        self.fds = fds


class _Shape:
    """What a message must look like: its name, the numbers that its payload begins with, how many bytes may follow
    them, and how many descriptors come with it (least and most).
    """

    __slots__ = ("_numbers", "fds", "most", "name", "size")

    def __init__(self, name: str, numbers: str = "", more: int = 0, *, fds: tuple[int, int] = (0, 0)) -> None:
        self.name = name
        self._numbers = Struct("<" + numbers)
        self.size = self._numbers.size
        self.most = self.size + more
        self.fds = fds

    def read(self, request: Request) -> tuple[int, ...]:
        """Return the numbers. Raises FrontEndFault for a wrong size or number of descriptors."""
        size, fds = len(request.payload), len(request.fds)
        if not self.size <= size <= self.most:
            raise FrontEndFault(f"{self.name} of {size} bytes")
        if not self.fds[0] <= fds <= self.fds[1]:
            raise FrontEndFault(f"{self.name} with {fds} descriptors")
        return self._numbers.unpack_from(request.payload)


SHAPES: dict[int, _Shape] = {
    GET_FEATURES: _Shape("GET_FEATURES"),
    SET_FEATURES: _Shape("SET_FEATURES", "Q"),
    SET_OWNER: _Shape("SET_OWNER"),
    RESET_OWNER: _Shape("RESET_OWNER"),
    SET_MEM_TABLE: _Shape("SET_MEM_TABLE", "II", MAX_PAYLOAD - PAIR.size, fds=(1, MAX_REGIONS)),
    SET_VRING_NUM: _Shape("SET_VRING_NUM", "II"),
    SET_VRING_ADDR: _Shape("SET_VRING_ADDR", "IIQQQQ"),
    SET_VRING_BASE: _Shape("SET_VRING_BASE", "II"),
    GET_VRING_BASE: _Shape("GET_VRING_BASE", "II"),
    SET_VRING_KICK: _Shape("SET_VRING_KICK", "Q", fds=(0, 1)),
    SET_VRING_CALL: _Shape("SET_VRING_CALL", "Q", fds=(0, 1)),
    SET_VRING_ERR: _Shape("SET_VRING_ERR", "Q", fds=(0, 1)),
    GET_PROTOCOL_FEATURES: _Shape("GET_PROTOCOL_FEATURES"),
    SET_PROTOCOL_FEATURES: _Shape("SET_PROTOCOL_FEATURES", "Q"),
    GET_QUEUE_NUM: _Shape("GET_QUEUE_NUM"),
    SET_VRING_ENABLE: _Shape("SET_VRING_ENABLE", "II"),
    SET_BACKEND_REQ_FD: _Shape("SET_BACKEND_REQ_FD", fds=(1, 1)),
    GET_CONFIG: _Shape("GET_CONFIG", "III", MAX_CONFIG),
    SET_CONFIG: _Shape("SET_CONFIG", "III", MAX_CONFIG),
}
"""Every message that is understood; the backend does one in its method of that name."""


def check_shape(request: Request) -> tuple[int, ...]:
    """Return the numbers of a message's payload.

    Raises FrontEndFault for one of a wrong size or number of descriptors, and for an unknown one: its sender did not
    look at the features offered.
    """
    shape = SHAPES.get(request.number)
    if shape is None:
        raise FrontEndFault(f"message {request.number} is not one that was negotiated")
    return shape.read(request)


class Decoder:
    """Cuts a byte stream into messages.

    `wanted` is how many bytes to read next, never more: so descriptors that come with those bytes belong to the
    message they are part of. Descriptors in hand are closed by whoever calls `leftovers`.
    """

    __slots__ = ("_data", "_fds", "_head")

    def __init__(self) -> None:
        self._data = b""
        self._fds: list[int] = []
        self._head: tuple[int, int, int] | None = None

    @property
    def wanted(self) -> int:
        """How many bytes complete what is being read: a header, or the payload behind it. Never 0."""
        return (HEADER.size if self._head is None else self._head[2]) - len(self._data)

    def feed(self, data: bytes, fds: list[int]) -> Request | None:
        """Take up to `wanted` bytes and the descriptors that came with them; returns the message they complete.

        Raises FrontEndFault for a header that cannot be, and for more descriptors than any message has.
        """
        self._fds += fds
        if len(self._fds) > MAX_REGIONS:
            raise FrontEndFault(f"a message with more than {MAX_REGIONS} descriptors")
        self._data += data
        if self.wanted:
            return None
        data, self._data = self._data, b""
        if self._head is None:
            number, flags, size = self._head = HEADER.unpack(data)
            if flags & VERSION_MASK != VERSION or flags & REPLY:
                raise FrontEndFault(f"message {number} with flags {flags:#x}")
            if size > MAX_PAYLOAD:
                raise FrontEndFault(f"message {number} of {size} bytes")
            if size:
                return None
            data = b""
        number, flags, _ = self._head
        self._head = None
        return Request(number, bool(flags & NEED_REPLY), data, self.leftovers())

    def leftovers(self) -> list[int]:
        """Return the descriptors of a message that never became whole; they are the caller's now."""
        fds, self._fds = self._fds, []
        return fds


def reply(number: int, payload: bytes) -> bytes:
    """Return the answer to message `number`."""
    return HEADER.pack(number, REPLY_FLAGS, len(payload)) + payload
