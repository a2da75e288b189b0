"""The vhost-user transport fuzzed: bytes without sense, messages with a little, and whole sessions."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device.balloon.spec import FREE, STATS
from device.guest.vhost_user import wire
from device.guest.vhost_user.memory import map_table
from device.guest.vhost_user.wire import SHAPES, Decoder, FrontEndFault, check_shape
from device.virtio.spec import MIB
from tests.support.descriptors import open_descriptors
from tests.support.frontend import FEATURES, USER, FrontEnd, good_one_is_served
from tests.support.real import Real

U64 = struct.Struct("<Q")
PAIR = struct.Struct("<II")


def address(index: int, desc: int, used: int, avail: int) -> bytes:
    return struct.pack("<IIQQQQ", index, 0, desc, used, avail, 0)


NUMBERS = st.sampled_from([*SHAPES, 0, 99])
U32S = st.sampled_from([0, 1, 2, 4, 5, 8, 128, 255, 256, 0x100, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF])
U64S = st.one_of(
    U32S, st.sampled_from([4096, USER, USER + 4096, USER + MIB, 1 << 32, FEATURES, (1 << 64) - 4096, (1 << 64) - 1])
)
PAYLOADS = st.one_of(
    st.binary(max_size=80),
    st.builds(PAIR.pack, U32S, U32S),
    st.builds(U64.pack, U64S),
    st.builds(address, U32S, U64S, U64S, U64S),
    st.builds(lambda a, b, c: struct.pack("<III", a, b, c), U32S, U32S, U32S),
    st.builds(
        lambda rows: PAIR.pack(len(rows), 0) + b"".join(struct.pack("<QQQQ", *row) for row in rows),
        st.lists(st.tuples(U64S, U64S, U64S, U64S), max_size=3),
    ),
    st.just(b""),
)
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(st.lists(st.binary(max_size=30), max_size=20))
def test_the_decoder_takes_any_bytes(pieces: list[bytes]) -> None:
    decoder = Decoder()
    data = b"".join(pieces)
    at = 0
    try:
        while at < len(data):
            piece = data[at : at + decoder.wanted]
            at += len(piece)
            request = decoder.feed(piece, [])
            assert decoder.wanted > 0
            if request is not None:
                check_shape(request)
    except FrontEndFault:
        pass


@given(PAYLOADS)
def test_any_memory_table_is_mapped_whole_or_not_at_all(payload: bytes) -> None:
    fds = [os.memfd_create("fuzz") for _ in range(2)]
    for fd in fds:
        os.ftruncate(fd, MIB)
    mine = list(fds)
    try:
        memory = map_table(payload.ljust(8, b"\0"), mine)
    except FrontEndFault:
        assert mine == fds
        for fd in fds:
            os.close(fd)
    else:
        assert mine == []
        for region in memory.regions:
            assert region.u8[region.size - 1] == 0
        memory.close()


@FUZZ
@given(
    st.booleans(),
    st.lists(
        st.tuples(NUMBERS, st.sampled_from([1, 1, 1, 1, 9, 0, 5]), PAYLOADS, st.integers(0, 2), st.booleans()),
        max_size=12,
    ),
)
def test_a_random_session_ends_without_an_error_of_ours(
    tmp_path: Path, up: bool, session: list[tuple[int, int, bytes, int, bool]]
) -> None:
    """Whatever comes, from the start or in the middle of a good driver's life."""
    path = str(tmp_path / "s")
    before = open_descriptors()
    with Real(f"vhost-user,path={path}", memory=16) as real:
        with FrontEnd(real, path) as front:
            if up:
                front.up()
            for number, flags, payload, fds, memory in session:
                event = os.eventfd(0, os.EFD_CLOEXEC)
                front.send(number, payload, [front.memfd if memory else event] * fds, flags=flags)
                os.close(event)
                real.machine.request_stats(1)
                real.turn(0)
            real.turn(0)
        real.turn(0)
        good_one_is_served(real, path)
    assert open_descriptors() == before


@settings(FUZZ, max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from(["table", "stop", "switch", "answer"]), st.permutations(range(3)), st.integers(1, 3)),
        max_size=8,
    )
)
def test_nothing_but_an_answer_makes_statistics_younger(
    tmp_path: Path, steps: list[tuple[str, list[int], int]]
) -> None:
    """Any rings are parked in any order, as long as the driver stays."""
    path = str(tmp_path / "s")
    with Real(f"vhost-user,path={path}", memory=16) as real, FrontEnd(real, path) as front:
        front.up(prime=[(FREE, 1)])
        stats, last = real.device.stats, real.device.stats.sample
        for number, (what, order, count) in enumerate(steps):
            rings = order[:count]
            if what == "table":
                front.send(wire.NUMBERS["SET_MEM_TABLE"], front.table(), [front.memfd])
            elif what == "answer":
                request = real.machine.request_stats(10**10)
                assert front.queues[STATS].take() is not None
                front.fill([(FREE, number + 2)])
                front.kick(STATS)
                assert request.state == "answered"
                last = stats.sample
            else:
                for index in rings:
                    if what == "stop":
                        front.ask(wire.NUMBERS["GET_VRING_BASE"], PAIR.pack(index, 0))
                    else:
                        front.send(wire.NUMBERS["SET_VRING_ENABLE"], PAIR.pack(index, 0))
                    assert stats.sample in (last, None)
                for index in reversed(rings):
                    if what == "stop":
                        front.send(wire.NUMBERS["SET_VRING_KICK"], U64.pack(index), [front.kicks[index]])
                    else:
                        front.send(wire.NUMBERS["SET_VRING_ENABLE"], PAIR.pack(index, 1))
                    assert stats.sample in (last, None)
            assert real.device.live
            assert stats.sample is last
            assert stats.qom_sample is last
        assert real.device.refused == {}
