"""vhost-user messages as bytes: which ones a front end may send, how they are read, and how replies are made.

Nothing here uses a socket or a device. Whatever a front end does wrong raises FrontEndFault; its text is the reason for
cutting the front end off. All numbers are little-endian, and the host must be too (device.virtio.memory).
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

CONFIG_CHANGED = HEADER.pack(2, VERSION, 0)
"""The only request that we send: the configuration space has changed (VHOST_USER_BACKEND_CONFIG_CHANGE_MSG)."""

F_PROTOCOL_FEATURES = 30
"""The feature bit for negotiating protocol features. The transport uses it; the driver never sees it."""

# UML needs two of these: without BACKEND_REQ no statistics arrived, and without CONFIG the balloon did not inflate.
P_MQ = 0
P_REPLY_ACK = 3
P_BACKEND_REQ = 5
P_CONFIG = 9
# INBAND_NOTIFICATIONS (14) is not offered: with it UML loses a config change that comes together with a call.
PROTOCOL_FEATURES = 1 << P_MQ | 1 << P_REPLY_ACK | 1 << P_BACKEND_REQ | 1 << P_CONFIG

MAX_PAYLOAD = 4096
"""Bytes. The longest message of an honest front end has 268 (SET_CONFIG with MAX_CONFIG bytes)."""

MAX_REGIONS = 8
"""Regions of a memory table, as many as every backend has to take. So no message has more descriptors than that."""

MAX_CONFIG = 256
"""Bytes of configuration space in one message, as in QEMU."""

NO_DESCRIPTOR = 0x100
RING_INDEX = 0xFF
"""In SET_VRING_KICK and similar messages: the bit for "no descriptor", and the bits of the ring's number."""

U64 = Struct("<Q")
PAIR = Struct("<II")
REGION = Struct("<QQQQ")
CONFIG = Struct("<III")


class FrontEndFault(Exception):
    """The front end broke the protocol; the text says how. The guest catches it and cuts the front end off."""


class HostFault(FrontEndFault):
    """The connection cannot continue because of this host. It is not counted as a fault of the guest."""


class Request:
    """One message: its number, its payload and its descriptors, which the owner of the object has to close."""

    def __init__(self, number: int, need_reply: bool, payload: bytes, fds: list[int]) -> None:
        self.number, self.need_reply, self.payload, self.fds = number, need_reply, payload, fds


class _Shape:
    """The form of a message: its name, the numbers at the start of its payload, how many bytes may follow them, and
    how many descriptors come with it (least and most).
    """

    def __init__(self, name: str, numbers: str = "", more: int = 0, *, fds: tuple[int, int] = (0, 0)) -> None:
        self.name = name
        self.numbers = Struct("<" + numbers)
        self.size = self.numbers.size
        self.most = self.size + more
        self.fds = fds


SHAPES: dict[int, _Shape] = {
    1: _Shape("GET_FEATURES"),
    2: _Shape("SET_FEATURES", "Q"),
    3: _Shape("SET_OWNER"),
    4: _Shape("RESET_OWNER"),
    5: _Shape("SET_MEM_TABLE", "II", MAX_PAYLOAD - PAIR.size, fds=(1, MAX_REGIONS)),
    8: _Shape("SET_VRING_NUM", "II"),
    9: _Shape("SET_VRING_ADDR", "IIQQQQ"),
    10: _Shape("SET_VRING_BASE", "II"),
    11: _Shape("GET_VRING_BASE", "II"),
    12: _Shape("SET_VRING_KICK", "Q", fds=(0, 1)),
    13: _Shape("SET_VRING_CALL", "Q", fds=(0, 1)),
    14: _Shape("SET_VRING_ERR", "Q", fds=(0, 1)),
    15: _Shape("GET_PROTOCOL_FEATURES"),
    16: _Shape("SET_PROTOCOL_FEATURES", "Q"),
    17: _Shape("GET_QUEUE_NUM"),
    18: _Shape("SET_VRING_ENABLE", "II"),
    21: _Shape("SET_BACKEND_REQ_FD", fds=(1, 1)),
    24: _Shape("GET_CONFIG", "III", MAX_CONFIG),
    25: _Shape("SET_CONFIG", "III", MAX_CONFIG),
}
"""Every message that is understood. The backend has a method of that name for each."""

# SET_LOG_BASE (6) and SET_LOG_FD (7) are left out: they are for migration, which is not offered.

NUMBERS = {shape.name: number for number, shape in SHAPES.items()}
"""The number of each message by its name."""


def check_shape(request: Request) -> tuple[int, ...]:
    """Return the numbers of a message's payload.

    Raises FrontEndFault for a wrong size or number of descriptors, and for an unknown message.
    """
    # An unknown message is a fault, because each one outside the table needs a feature that was not offered.
    # Checked here for all messages, so that no method of the backend has to.
    shape = SHAPES.get(request.number)
    if shape is None:
        raise FrontEndFault(f"message {request.number} is not one that was negotiated")
    size, fds = len(request.payload), len(request.fds)
    if not shape.size <= size <= shape.most:
        raise FrontEndFault(f"{shape.name} of {size} bytes")
    if not shape.fds[0] <= fds <= shape.fds[1]:
        raise FrontEndFault(f"{shape.name} with {fds} descriptors")
    return shape.numbers.unpack_from(request.payload)


class Decoder:
    """Cuts a byte stream into messages.

    Never read more than `wanted` bytes: then descriptors that come with them belong to the current message. The caller
    of `leftovers` closes the descriptors that it returns.
    """

    def __init__(self) -> None:
        self._data = b""
        self._fds: list[int] = []
        self._head: tuple[int, int, int] | None = None

    @property
    def wanted(self) -> int:
        """How many bytes complete the current header, or the payload after it. Never 0 between two calls of `feed`."""
        return (HEADER.size if self._head is None else self._head[2]) - len(self._data)

    def feed(self, data: bytes, fds: list[int]) -> Request | None:
        """Take up to `wanted` bytes and the descriptors that came with them; returns the message they complete.

        Raises FrontEndFault for an impossible header, and for more descriptors than any message has.
        """
        # Counted over all parts of a message: a message that is never completed must not use up our descriptors.
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
        """Return the descriptors of the unfinished message. The caller owns them from now on."""
        fds, self._fds = self._fds, []
        return fds


def reply(number: int, payload: bytes) -> bytes:
    """Return the answer to message `number`."""
    return HEADER.pack(number, REPLY_FLAGS, len(payload)) + payload
