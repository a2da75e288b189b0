"""The vhost-user transport with a front end that means well: messages, rings, life."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from device.balloon.spec import CONFIG_POISON_VAL, DEFLATE, F_PAGE_POISON, F_STATS_VQ, FREE, INFLATE, STATS, TOTAL
from device.guest.vhost_user import wire
from device.guest.vhost_user.wire import Decoder
from device.virtio.spec import MIB, PAGE_SIZE, bit
from tests.support.frontend import FEATURES, USER, FrontEnd
from tests.support.real import Real

U64 = struct.Struct("<Q")
PAIR = struct.Struct("<II")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "sock")


@pytest.fixture
def real(path: str) -> Iterator[Real]:
    with Real(f"vhost-user,path={path}", memory=16) as real:
        yield real


@pytest.fixture
def front(real: Real, path: str) -> Iterator[FrontEnd]:
    with FrontEnd(real, path) as front:
        yield front


class TestMessages:
    """real-guest.md, the table."""

    def test_features_are_the_devices_and_the_transports(self, real: Real, front: FrontEnd) -> None:
        offered = front.ask_number(wire.NUMBERS["GET_FEATURES"])
        assert offered == real.device.offered | bit(wire.F_PROTOCOL_FEATURES)
        assert offered & FEATURES == FEATURES

    def test_protocol_features(self, front: FrontEnd) -> None:
        offered = front.ask_number(wire.NUMBERS["GET_PROTOCOL_FEATURES"])
        assert offered == 1 << 0 | 1 << 3 | 1 << 5 | 1 << 9
        assert not offered >> 14 & 1, "in-band notifications lose config changes on UML"

    def test_there_is_room_for_five_queues(self, front: FrontEnd) -> None:
        assert front.ask_number(wire.NUMBERS["GET_QUEUE_NUM"]) == 5

    def test_replies_are_given_to_those_who_need_one(self, front: FrontEnd) -> None:
        front.send(wire.NUMBERS["SET_OWNER"], flags=wire.VERSION | wire.NEED_REPLY)
        with pytest.raises(BlockingIOError):  # not negotiated yet
            front.reply()
        front.send(
            wire.NUMBERS["SET_PROTOCOL_FEATURES"], U64.pack(1 << wire.P_REPLY_ACK), flags=wire.VERSION | wire.NEED_REPLY
        )
        assert front.reply() == (wire.NUMBERS["SET_PROTOCOL_FEATURES"], 5, U64.pack(0))
        front.send(wire.NUMBERS["SET_OWNER"], flags=wire.VERSION | wire.NEED_REPLY)
        assert front.reply() == (wire.NUMBERS["SET_OWNER"], 5, U64.pack(0))
        front.send(wire.NUMBERS["GET_QUEUE_NUM"], flags=wire.VERSION | wire.NEED_REPLY)
        assert front.reply() == (wire.NUMBERS["GET_QUEUE_NUM"], 5, U64.pack(5))
        with pytest.raises(BlockingIOError):  # a message with a reply of its own gets no second one
            front.reply()

    def test_config_reads_echo_their_head(self, real: Real, front: FrontEnd) -> None:
        real.machine.set_balloon(8 * MIB)
        head = wire.CONFIG.pack(0, 16, 0)
        pages = 8 * MIB // PAGE_SIZE
        assert front.ask(wire.NUMBERS["GET_CONFIG"], head + bytes(16)) == head + pages.to_bytes(4, "little") + bytes(12)
        head = wire.CONFIG.pack(0, 8, 0)
        assert front.ask(wire.NUMBERS["GET_CONFIG"], head + bytes(8)) == head + pages.to_bytes(4, "little") + bytes(4)

    @pytest.mark.parametrize(
        ("offset", "data"),
        [(4, (512).to_bytes(4, "little")), (0, struct.pack("<IIII", 77, 512, 78, 79)), (0, struct.pack("<II", 5, 512))],
        ids=["alone", "whole space", "first half"],
    )
    def test_only_actual_is_taken_from_a_config_write(
        self, real: Real, front: FrontEnd, offset: int, data: bytes
    ) -> None:
        """Pitfall 3: QEMU writes all 16 bytes back, with a num_pages that may be old."""
        front.send(wire.NUMBERS["SET_CONFIG"], wire.CONFIG.pack(offset, len(data), 0) + data)
        assert real.device.actual_pages == 512
        assert real.device.num_pages == 0
        assert real.device.refused == {}

    def test_a_config_write_beside_actual_changes_nothing(self, real: Real, front: FrontEnd) -> None:
        front.send(wire.NUMBERS["SET_CONFIG"], wire.CONFIG.pack(0, 4, 0) + b"\1\0\0\0")
        front.send(wire.NUMBERS["SET_CONFIG"], wire.CONFIG.pack(6, 4, 0) + b"\1\0\0\0")
        assert real.device.actual_pages == real.device.num_pages == 0
        assert real.device.refused == {}

    @pytest.mark.parametrize(
        ("offset", "data"), [(CONFIG_POISON_VAL, b"\7\0\0\0"), (0, struct.pack("<IIII", 1, 0, 2, 7))]
    )
    def test_a_poison_value_that_comes_before_the_rings_is_kept_for_them(
        self, real: Real, front: FrontEnd, offset: int, data: bytes
    ) -> None:
        """Linux writes it before it sets the rings up, and QEMU writes the whole space back."""
        front.send(wire.NUMBERS["SET_CONFIG"], wire.CONFIG.pack(offset, len(data), 0) + data)
        assert (real.device.poison_val, real.device.refused) == (0, {})
        front.up(FEATURES | bit(F_PAGE_POISON))
        assert (real.device.poison_val, real.device.refused) == (7, {})
        front.send(wire.NUMBERS["SET_CONFIG"], wire.CONFIG.pack(CONFIG_POISON_VAL, 4, 0) + b"\1\0\0\0")
        assert real.device.poison_val == 1
        front.channel.close()
        front.up(FEATURES | bit(F_PAGE_POISON))
        assert real.device.poison_val == 0, "another driver, which has said nothing"

    def test_bytes_behind_the_memory_table_are_ignored(self, real: Real, front: FrontEnd) -> None:
        front.send(wire.NUMBERS["SET_MEM_TABLE"], front.table() + bytes(200), [front.memfd])
        assert real.guest.memory.top == 16 * MIB
        assert not front.cut_off

    def test_the_decoder_never_asks_for_more_than_belongs_to_the_message(self) -> None:
        decoder = Decoder()
        assert decoder.wanted == 12
        assert decoder.feed(wire.HEADER.pack(25, 9, 5)[:7], []) is None
        assert decoder.wanted == 5
        assert decoder.feed(wire.HEADER.pack(25, 9, 5)[7:], [10]) is None
        assert decoder.wanted == 5
        request = decoder.feed(b"hello", [])
        assert request is not None
        assert (request.number, request.payload, request.fds, request.need_reply) == (25, b"hello", [10], True)
        assert decoder.wanted == 12
        assert decoder.leftovers() == []

    def test_messages_may_come_in_pieces(self, front: FrontEnd) -> None:
        message = wire.HEADER.pack(wire.NUMBERS["GET_CONFIG"], 1, 20) + wire.CONFIG.pack(0, 8, 0) + bytes(8)
        for at in range(len(message)):
            front.raw(message[at : at + 1])
        assert front.reply()[0] == wire.NUMBERS["GET_CONFIG"]


class TestDriver:
    def test_the_first_sample_comes_with_the_driver(self, real: Real, front: FrontEnd) -> None:
        assert real.guest.booting
        front.up(prime=[(FREE, 1234), (TOTAL, 5678)])
        assert real.sample == {FREE: 1234, TOTAL: 5678}
        assert real.device.live
        assert not real.guest.booting

    def test_a_request_waits_for_the_driver_and_is_answered_by_it(self, real: Real, front: FrontEnd) -> None:
        request = real.machine.request_stats(10**10)
        assert request.state == "pending"
        front.up()
        assert request.state == "answered"

    def test_a_request_is_one_call_and_one_buffer(self, real: Real, front: FrontEnd) -> None:
        front.up()
        request = real.machine.request_stats(10**10)
        assert front.called(STATS) == 1
        taken = front.queues[STATS].take()
        assert taken is not None
        assert taken[1] == 0
        front.fill([(FREE, 99)])
        assert request.state == "pending"
        front.kick(STATS)
        assert request.state == "answered"
        assert real.sample == {FREE: 99}

    def test_a_new_target_is_sent_over_the_channel(self, real: Real, front: FrontEnd) -> None:
        front.up()
        assert front.channel is not None
        real.machine.set_balloon(12 * MIB)
        assert front.channel.recv(100) == struct.pack("<III", 2, 1, 0)

    def test_a_channel_that_is_not_read_never_blocks(self, real: Real, front: FrontEnd) -> None:
        front.up()
        for _ in range(20_000):
            real.machine.set_balloon(12 * MIB)
        assert not front.cut_off

    def test_inflating_gives_the_front_ends_pages_back(self, real: Real, front: FrontEnd) -> None:
        front.up()
        front.region.buffer[4 * MIB : 8 * MIB] = b"x" * (4 * MIB)
        before = real.guest.memory.populated()
        assert front.pages(INFLATE, list(range(4 * MIB >> 12, 8 * MIB >> 12))[:256]) is not None
        assert MIB - 8192 <= before - real.guest.memory.populated() <= MIB  # the page list took a page itself
        assert front.called(INFLATE) == 1
        assert real.device.pages.count == 256
        front.pages(DEFLATE, list(range(4 * MIB >> 12, (4 * MIB >> 12) + 256)))
        assert real.device.pages.count == 0
        assert real.device.refused == {}

    def test_the_machines_own_ram_stays_untouched(self, real: Real, front: FrontEnd) -> None:
        front.up()
        front.pages(INFLATE, [2000, 2001])
        assert real.machine.memory.populated() == 0

    def test_pages_beyond_the_table_are_refused_and_runs_may_span_regions(self, real: Real, path: str) -> None:
        with FrontEnd(real, path) as front:
            front.hello()
            rows = [(0, 8 * MIB, USER, 0), (8 * MIB, 4 * MIB, USER + 8 * MIB, 8 * MIB)]
            front.send(wire.NUMBERS["SET_MEM_TABLE"], front.table(*rows), [front.memfd, front.memfd])
            front.lay_out()
            for index, role in enumerate((INFLATE, DEFLATE, STATS)):
                front.set_ring(index, front.queues[role], size=128)
            front.region.buffer[8 * MIB - 4096 : 8 * MIB + 4096] = b"x" * 8192
            edge = 8 * MIB >> 12
            front.pages(INFLATE, [edge - 1, edge, 12 * MIB >> 12])
            assert real.device.refused == {"bad-pfn": 1}
            assert front.region.buffer[8 * MIB - 4096 : 8 * MIB + 4096] == bytes(8192)
            assert real.device.live

    def test_a_front_end_with_more_memory_than_the_machine(self, real: Real, path: str) -> None:
        with FrontEnd(real, path, ram=64 * MIB) as front:
            front.up()
            assert front.pages(INFLATE, [60 * MIB >> 12]) is not None
            assert real.device.refused == {}
            assert real.device.pages.count == 1

    def test_a_statistic_queue_that_was_not_negotiated_is_not_waited_for(self, real: Real, front: FrontEnd) -> None:
        front.up(FEATURES & ~bit(F_STATS_VQ))
        assert real.ask()[0] == "unsupported"

    def test_without_protocol_features_rings_need_no_enabling(self, real: Real, front: FrontEnd) -> None:
        features = FEATURES & ~bit(wire.F_PROTOCOL_FEATURES)
        front.send(wire.NUMBERS["SET_FEATURES"], U64.pack(features))
        front.send(wire.NUMBERS["SET_MEM_TABLE"], front.table(), [front.memfd])
        front.lay_out(features)
        for index, role in enumerate((INFLATE, DEFLATE, STATS)):
            kick = os.eventfd(0, os.EFD_CLOEXEC)
            queue = front.queues[role]
            address = struct.pack("<IIQQQQ", index, 0, USER + queue.desc, USER + queue.used, USER + queue.avail, 0)
            front.send(wire.NUMBERS["SET_VRING_NUM"], PAIR.pack(index, 128))
            front.send(wire.NUMBERS["SET_VRING_ADDR"], address)
            front.send(wire.NUMBERS["SET_VRING_KICK"], U64.pack(index), [kick])
            os.close(kick)
        assert real.device.live

    @pytest.mark.parametrize("kind", ["socket", "pipe"])
    def test_calls_through_sockets_and_pipes_are_eight_bytes(self, real: Real, front: FrontEnd, kind: str) -> None:
        """Pitfall 5: UML's is a socket."""
        front.up()
        if kind == "socket":
            ours, theirs = socket.socketpair()
            fd, other = ours.detach(), theirs.detach()
        else:
            fd, other = os.pipe()
        front.send(wire.NUMBERS["SET_VRING_CALL"], U64.pack(2), [other])
        os.close(other)
        real.machine.request_stats(10**10)
        assert os.read(fd, 100) == U64.pack(1)
        os.close(fd)


class TestRings:
    """Starting, stopping, starting anew."""

    def test_disabling_all_is_the_drivers_end(self, real: Real, front: FrontEnd) -> None:
        front.up()
        request = real.machine.request_stats(10**10)
        for index in (2, 1):
            front.send(wire.NUMBERS["SET_VRING_ENABLE"], PAIR.pack(index, 0))
            assert real.guest.driver_loaded
        front.send(wire.NUMBERS["SET_VRING_ENABLE"], PAIR.pack(0, 0))
        assert not real.guest.driver_loaded
        assert request.state == "unsupported"
        assert real.device.stats.sample is None

    def test_get_vring_base_counts_the_held_buffer_as_not_taken(self, real: Real, front: FrontEnd) -> None:
        front.up()
        assert front.ask(wire.NUMBERS["GET_VRING_BASE"], PAIR.pack(2, 0)) == PAIR.pack(2, 0)
        assert real.device.stats.held is None
        assert front.ask(wire.NUMBERS["GET_VRING_BASE"], PAIR.pack(0, 0)) == PAIR.pack(0, 0)

    def test_a_stopped_queue_goes_on_where_it_was(self, real: Real, front: FrontEnd) -> None:
        front.up()
        front.pages(INFLATE, [1000])
        base = front.ask(wire.NUMBERS["GET_VRING_BASE"], PAIR.pack(0, 0))
        assert base == PAIR.pack(0, 1)
        data = (1001).to_bytes(4, "little")
        front.region.buffer[3 * MIB : 3 * MIB + 4] = data
        front.queues[INFLATE].add_out(3 * MIB, 4)
        kick = os.eventfd(0, os.EFD_CLOEXEC)
        front.send(wire.NUMBERS["SET_VRING_BASE"], base)
        front.send(wire.NUMBERS["SET_VRING_KICK"], U64.pack(0), [kick])
        os.close(kick)
        assert real.device.pages.count == 2

    def test_a_driver_that_comes_again_without_a_word_starts_from_nothing(self, real: Real, front: FrontEnd) -> None:
        """Pitfall 6: no reset message; SET_VRING_BASE on a running ring is a new driver."""
        front.up(prime=[(FREE, 1)])
        front.pages(INFLATE, [1000])
        assert real.device.stats.held is not None
        front.lay_out(prime=[(FREE, 2)])
        for fd in front.kicks + front.calls:
            os.close(fd)
        front.kicks, front.calls = [], []
        for index, role in enumerate((INFLATE, DEFLATE, STATS)):
            front.set_ring(index, front.queues[role], size=128)
            assert real.device.live == (index == 2)
        assert real.sample == {FREE: 2}
        assert real.device.pages.count == 0
        request = real.machine.request_stats(10**10)
        assert front.queues[STATS].take() is not None
        front.fill([(FREE, 3)])
        front.kick(STATS)
        assert request.state == "answered"
        assert real.device.refused == {}

    def test_the_same_addresses_again_are_no_new_driver(self, real: Real, front: FrontEnd) -> None:
        front.up()
        queue = front.queues[STATS]
        address = struct.pack("<IIQQQQ", 2, 1, USER + queue.desc, USER + queue.used, USER + queue.avail, 0)
        front.send(wire.NUMBERS["SET_VRING_ADDR"], address)
        assert real.device.live

    def test_a_new_memory_table_keeps_the_driver(self, real: Real, front: FrontEnd) -> None:
        front.up()
        front.pages(INFLATE, [1000])
        front.send(wire.NUMBERS["SET_MEM_TABLE"], front.table(), [front.memfd])
        assert real.device.live
        assert real.device.stats.held is not None
        assert real.device.pages.count == 1
        front.pages(INFLATE, [1001])
        assert real.device.pages.count == 2
        request = real.machine.request_stats(10**10)
        assert front.queues[STATS].take() is not None
        front.fill([(FREE, 3)])
        front.kick(STATS)
        assert request.state == "answered"
        assert real.device.refused == {}
