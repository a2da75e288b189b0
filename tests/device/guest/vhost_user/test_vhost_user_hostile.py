"""A vhost-user front end that means harm: it is cut off with a reason, and the next good one is served."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from device.balloon.spec import FREE, INFLATE
from device.guest.vhost_user import wire
from device.guest.vhost_user.wire import HEADER
from device.virtio.spec import MIB
from tests.support.descriptors import open_descriptors
from tests.support.frontend import USER, FrontEnd, good_one_is_served
from tests.support.real import Real

U64 = struct.Struct("<Q")
PAIR = struct.Struct("<II")
ROOT = Path(__file__).parents[4]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "sock")


@pytest.fixture
def real(path: str) -> Iterator[Real]:
    with Real(f"vhost-user,path={path}", memory=16) as real:
        yield real


def message(number: int, payload: bytes = b"", *, flags: int = wire.VERSION) -> Callable[[FrontEnd], None]:
    return lambda front: front.send(number, payload, flags=flags)


def with_fds(number: int, payload: bytes, count: int) -> Callable[[FrontEnd], None]:
    return lambda front: front.send(number, payload, [front.memfd] * count)


def table(*rows: tuple[int, int, int, int], fds: int | None = None) -> Callable[[FrontEnd], None]:
    def send(front: FrontEnd) -> None:
        count = len(rows) if fds is None else fds
        front.send(wire.NUMBERS["SET_MEM_TABLE"], front.table(*rows), [front.memfd] * count)

    return send


def table_of(make: Callable[[], int], *, size: int = MIB) -> Callable[[FrontEnd], None]:
    """A memory table whose one region is a descriptor of another kind."""

    def send(front: FrontEnd) -> None:
        fd = make()
        front.send(wire.NUMBERS["SET_MEM_TABLE"], front.table((0, size, USER, 0)), [fd])
        os.close(fd)

    return send


def wakeup_of(make: Callable[[], int], number: int = wire.NUMBERS["SET_VRING_KICK"]) -> Callable[[FrontEnd], None]:
    def send(front: FrontEnd) -> None:
        fd = make()
        front.send(number, U64.pack(0) if number != wire.NUMBERS["SET_BACKEND_REQ_FD"] else b"", [fd])
        os.close(fd)

    return send


def ring_elsewhere(front: FrontEnd) -> None:
    front.hello()
    front.lay_out()
    for index, role in enumerate(front.queues):
        queue = front.queues[role]
        queue.desc += 1 << 40
        front.set_ring(index, queue, size=128)


def short_file() -> int:
    fd = os.memfd_create("short")
    os.ftruncate(fd, 4096)
    return fd


PAGE = 4096

OUTRAGES: dict[str, tuple[Callable[[FrontEnd], None], str]] = {
    "a version of the future": (message(wire.NUMBERS["GET_FEATURES"], flags=2), "flags 0x2"),
    "a reply": (message(wire.NUMBERS["GET_FEATURES"], flags=5), "flags 0x5"),
    "an unknown message": (message(99), "message 99"),
    "message 0": (message(0), "message 0"),
    "a postcopy message": (message(28), "message 28"),
    "4 GiB of payload": (lambda front: front.raw(HEADER.pack(1, 1, 0xFFFFFFFF)), "4294967295 bytes"),
    "GET_FEATURES with a payload": (message(wire.NUMBERS["GET_FEATURES"], bytes(8)), "GET_FEATURES of 8 bytes"),
    "half a SET_FEATURES": (message(wire.NUMBERS["SET_FEATURES"], bytes(4)), "SET_FEATURES of 4 bytes"),
    "features never offered": (message(wire.NUMBERS["SET_FEATURES"], U64.pack(1 << 63)), "never offered"),
    "protocol features never offered": (
        message(wire.NUMBERS["SET_PROTOCOL_FEATURES"], U64.pack(1 << 14)),
        "never offered",
    ),
    "a descriptor where none belongs": (with_fds(wire.NUMBERS["GET_FEATURES"], b"", 1), "1 descriptors"),
    "two kick descriptors": (with_fds(wire.NUMBERS["SET_VRING_KICK"], U64.pack(0), 2), "2 descriptors"),
    "nine descriptors": (with_fds(wire.NUMBERS["SET_MEM_TABLE"], bytes(8), 9), "more than 8 descriptors"),
    "a hundred descriptors": (with_fds(wire.NUMBERS["SET_MEM_TABLE"], bytes(8), 100), "descriptors"),
    "no backend channel": (message(wire.NUMBERS["SET_BACKEND_REQ_FD"]), "0 descriptors"),
    "a file as backend channel": (wakeup_of(short_file, wire.NUMBERS["SET_BACKEND_REQ_FD"]), "neither eventfd"),
    "an empty table": (with_fds(wire.NUMBERS["SET_MEM_TABLE"], PAIR.pack(0, 0), 1), "table of 0 regions"),
    "a table of nine": (
        with_fds(wire.NUMBERS["SET_MEM_TABLE"], PAIR.pack(9, 0) + bytes(32 * 9), 8),
        "table of 9 regions",
    ),
    "a table of 2^32-1": (with_fds(wire.NUMBERS["SET_MEM_TABLE"], PAIR.pack(0xFFFFFFFF, 0), 1), "4294967295 regions"),
    "a table that ends early": (with_fds(wire.NUMBERS["SET_MEM_TABLE"], PAIR.pack(2, 0) + bytes(32), 2), "in 40 bytes"),
    "fewer descriptors than regions": (table((0, PAGE, 0, 0), (PAGE, PAGE, PAGE, 0), fds=1), "with 1 descriptors"),
    "an empty region": (table((0, 0, USER, 0)), "region of 0x0 bytes"),
    "a ragged region": (table((0, 4095, USER, 0)), "region of 0xfff bytes"),
    "a ragged offset": (table((0, PAGE, USER, 1)), "offset 0x1"),
    "a region beyond its file": (table((0, 32 * MIB, USER, 0)), "of a file of"),
    "an offset beyond the file": (table((0, PAGE, USER, 1 << 40)), "of a file of"),
    "an offset that wraps": (table((0, PAGE, USER, (1 << 64) - PAGE)), "offset 0xfffffffffffff000"),
    "a region that wraps": (table(((1 << 64) - PAGE, 2 * PAGE, USER, 0)), "region of 0x2000"),
    "a region far beyond any RAM": (table((1 << 60, PAGE, USER, 0)), "region of 0x1000"),
    "a user address that wraps": (table((0, 2 * PAGE, (1 << 64) - PAGE, 0)), "region of 0x2000"),
    "regions that overlap": (table((0, 2 * PAGE, USER, 0), (PAGE, PAGE, 0, 0)), "overlap"),
    "user addresses that overlap": (table((0, 2 * PAGE, USER, 0), (MIB, PAGE, USER + PAGE, 0)), "overlap"),
    "a pipe as memory": (table_of(lambda: os.pipe()[0]), "not a file"),
    "a directory as memory": (table_of(lambda: os.open("/", os.O_RDONLY)), "not a file"),
    "an eventfd as memory": (table_of(lambda: os.eventfd(0)), "not a file"),
    "a device as memory": (table_of(lambda: os.open("/dev/zero", os.O_RDWR)), "not a file"),
    "a file that may only be read": (table_of(lambda: os.open(sys.executable, os.O_RDONLY), size=PAGE), "be mapped"),
    "a file that is too short": (table_of(short_file), "of a file of 0x1000"),
    "a ring that does not exist": (message(wire.NUMBERS["SET_VRING_NUM"], PAIR.pack(5, 128)), "ring 5: there are 5"),
    "ring 2^32-1": (message(wire.NUMBERS["SET_VRING_ENABLE"], PAIR.pack(0xFFFFFFFF, 1)), "ring 4294967295"),
    "the base of ring 77": (message(wire.NUMBERS["GET_VRING_BASE"], PAIR.pack(77, 0)), "ring 77"),
    "a ring of 100": (message(wire.NUMBERS["SET_VRING_NUM"], PAIR.pack(0, 100)), "ring 0 with 100 entries"),
    "a ring of 0": (message(wire.NUMBERS["SET_VRING_NUM"], PAIR.pack(0, 0)), "ring 0 with 0 entries"),
    "a ring of 2^31": (message(wire.NUMBERS["SET_VRING_NUM"], PAIR.pack(0, 1 << 31)), "ring 0 with 2147483648 entries"),
    "a base of 2^20": (message(wire.NUMBERS["SET_VRING_BASE"], PAIR.pack(0, 1 << 20)), "starts at 1048576"),
    "enabled with 2": (message(wire.NUMBERS["SET_VRING_ENABLE"], PAIR.pack(0, 2)), "enabled with 2"),
    "a kick for ring 9": (message(wire.NUMBERS["SET_VRING_KICK"], U64.pack(9)), "ring 9"),
    "a kick that is to be polled": (message(wire.NUMBERS["SET_VRING_KICK"], U64.pack(0x100)), "not polled"),
    "a kick with strange bits": (message(wire.NUMBERS["SET_VRING_KICK"], U64.pack(1 << 40)), "0x10000000000"),
    "a kick without its descriptor": (message(wire.NUMBERS["SET_VRING_KICK"], U64.pack(0)), "with 0 descriptors"),
    "a file as kick": (wakeup_of(short_file), "neither eventfd"),
    "a terminal as call": (wakeup_of(lambda: os.openpty()[0], wire.NUMBERS["SET_VRING_CALL"]), "neither eventfd"),
    "half a config read": (message(wire.NUMBERS["GET_CONFIG"], bytes(4)), "GET_CONFIG of 4 bytes"),
    "a config read of 4 GiB": (
        message(wire.NUMBERS["GET_CONFIG"], struct.pack("<III", 0, 1 << 31, 0)),
        "2147483648 bytes",
    ),
    "a config read far out": (
        message(wire.NUMBERS["GET_CONFIG"], struct.pack("<III", 1 << 31, 4, 0) + bytes(4)),
        "2147483648",
    ),
    "a config write longer than it is": (
        message(wire.NUMBERS["SET_CONFIG"], struct.pack("<III", 4, 8, 0) + bytes(4)),
        "8 bytes",
    ),
    "rings in no region": (ring_elsewhere, "is in no region"),
}


class TestOutrages:
    """Every malformed message there is; after each the next front end is served, and no descriptor stays."""

    @pytest.mark.parametrize("name", OUTRAGES)
    def test_cut_off_with_a_reason(self, real: Real, path: str, name: str) -> None:
        outrage, words = OUTRAGES[name]
        before = len(open_descriptors())
        with FrontEnd(real, path) as front:
            outrage(front)
            assert front.cut_off, front.why
            assert words in front.why
            assert front.why.startswith("its front end was cut off: ")
        assert real.device.refused["front-end"] == 1
        assert real.named("GUEST_GONE") == [{"why": real.guest.gone}]
        assert real.named("GUEST_FAULT")[0]["rule"] == "front-end"
        assert len(open_descriptors()) - before <= 1  # some of the messages leave their other end open
        good_one_is_served(real, path)

    @pytest.mark.parametrize("name", ["regions that overlap", "an unknown message", "two kick descriptors"])
    def test_cut_off_in_the_middle_of_a_request_too(self, real: Real, path: str, name: str) -> None:
        with FrontEnd(real, path) as front:
            front.up(prime=[(FREE, 7)])
            request = real.machine.request_stats(100_000_000)
            OUTRAGES[name][0](front)
            assert front.cut_off
            assert request.state == "pending"
            real.until(lambda: request.state != "pending")
            assert request.state == "timed out"
            assert real.sample == {FREE: 7}
        good_one_is_served(real, path)


class TestStorms:
    def test_messages_without_end_leave_the_machine_its_turn(self, real: Real, path: str) -> None:
        with FrontEnd(real, path) as front:
            data = wire.HEADER.pack(wire.NUMBERS["SET_OWNER"], 1, 0) * 5000
            front.socket.send(data)
            start = time.process_time()
            real.machine.step()
            assert time.process_time() - start < 0.5
            assert front.socket.fileno() >= 0
            while select.select(real.machine.wait_for()[0], [], [], 0)[0]:
                real.turn()
            assert not front.cut_off
            assert front.ask_number(wire.NUMBERS["GET_QUEUE_NUM"]) == 5

    def test_one_that_does_not_read_its_replies_is_cut_off(self, real: Real, path: str) -> None:
        with FrontEnd(real, path) as front:
            for _ in range(200):
                front.raw(wire.HEADER.pack(wire.NUMBERS["GET_FEATURES"], 1, 0) * 64)
                if real.guest.gone:
                    break
            assert "replies are not read" in front.why
        good_one_is_served(real, path)

    def test_kicks_without_buffers_are_served_and_forgotten(self, real: Real, path: str) -> None:
        with FrontEnd(real, path) as front:
            front.up()
            for _ in range(1000):
                os.eventfd_write(front.kicks[0], 1)
                real.turn(0)
            assert real.ask(0.05)[0] == "timed out"
            assert not front.cut_off

    def test_memory_tables_without_end(self, real: Real, path: str) -> None:
        before = len(open_descriptors())
        with FrontEnd(real, path) as front:
            front.up()
            for _ in range(500):
                front.send(wire.NUMBERS["SET_MEM_TABLE"], front.table(), [front.memfd])
            assert len(open_descriptors()) - before < 30
            assert not front.cut_off

    def test_all_at_once_with_descriptors_that_belong_to_nothing(self, real: Real, path: str) -> None:
        before = open_descriptors()
        with FrontEnd(real, path) as front:
            front.raw(HEADER.pack(wire.NUMBERS["SET_MEM_TABLE"], 1, 40)[:6], [front.memfd] * 3)
            assert len(open_descriptors()) > len(before)
        real.turn(0.05)
        assert open_descriptors() == before

    def test_descriptors_past_our_limit(self, real: Real, path: str) -> None:
        """A process that may open no more descriptors loses the front end, and continues."""
        with FrontEnd(real, path) as front:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            lowest = os.dup(0)
            os.close(lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 2, hard))
            try:
                front.send(
                    wire.NUMBERS["SET_MEM_TABLE"],
                    front.table(*[(n * MIB, MIB, n * MIB, 0) for n in range(8)]),
                    [front.memfd] * 8,
                )
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert "descriptors" in front.why
        good_one_is_served(real, path)


class TestWakeups:
    def test_a_kick_socket_that_hangs_up_does_not_keep_us_awake(self, real: Real, path: str) -> None:
        with FrontEnd(real, path) as front:
            front.up()
            ours, theirs = socket.socketpair()
            front.send(wire.NUMBERS["SET_VRING_KICK"], U64.pack(0), [theirs.fileno()])
            theirs.close()
            ours.close()
            front.serve()
            assert "the kick descriptor of ring 0 broke" in front.why

    def test_a_call_pipe_that_is_full_never_blocks(self, real: Real, path: str) -> None:
        with FrontEnd(real, path) as front:
            front.up()
            reader, writer = os.pipe()
            os.set_blocking(writer, False)
            try:
                while True:
                    os.write(writer, bytes(65536))
            except BlockingIOError:
                pass
            front.send(wire.NUMBERS["SET_VRING_CALL"], U64.pack(2), [writer])
            os.set_blocking(writer, True)  # the open file is shared, and its flags with it
            assert real.ask(0.05)[0] == "timed out"
            os.close(reader)
            os.close(writer)

    def test_a_call_socket_that_is_gone(self, real: Real, path: str) -> None:
        with FrontEnd(real, path) as front:
            front.up()
            ours, theirs = socket.socketpair()
            front.send(wire.NUMBERS["SET_VRING_CALL"], U64.pack(2), [theirs.fileno()])
            ours.close()
            theirs.close()
            assert real.ask(0.05)[0] == "timed out"
            assert not front.cut_off

    def test_one_eventfd_for_two_rings(self, real: Real, path: str) -> None:
        with FrontEnd(real, path) as front:
            front.up()
            front.send(wire.NUMBERS["SET_VRING_KICK"], U64.pack(0), [front.kicks[1]])
            os.eventfd_write(front.kicks[1], 1)
            front.serve()
            assert not front.cut_off


class TestMemoryThatChanges:
    def test_a_file_cut_short_is_noticed(self, real: Real, path: str) -> None:
        with FrontEnd(real, path) as front:
            front.up()
            os.ftruncate(front.memfd, 4096)
            front.serve()
            assert "cut short" in front.why
        good_one_is_served(real, path)

    def test_a_file_cut_short_while_it_is_read_does_not_kill_us(self, tmp_path: Path) -> None:
        """In a process of its own: where the guard fails, SIGBUS ends it."""
        done = subprocess.run(
            [sys.executable, "-c", CUT_SHORT, str(tmp_path / "s")], capture_output=True, text=True, cwd=ROOT
        )
        assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr

    @pytest.mark.parametrize("act", ["kick", "ask", "ask while stopped"])
    def test_a_full_file_system_is_not_blamed_on_the_guest(self, tmp_path: Path, act: str) -> None:
        """It read as zeros, which counted as a rule broken by the guest. In a process of its own, as above."""
        mounting = 'mount -t tmpfs -o size=1m tmpfs "$1" || exit 77; shift; exec "$@"'
        (tmp_path / "full").mkdir()
        done = subprocess.run(
            ["unshare", "-Urm", "sh", "-c", mounting, "sh", str(tmp_path / "full"),
             sys.executable, "-c", FULL, str(tmp_path), act],
            capture_output=True, text=True, cwd=ROOT,
        )  # fmt: skip
        if done.returncode == 77 or "unshare failed" in done.stderr:
            pytest.skip("no file system can be mounted here")
        assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr

    def test_another_sigbus_still_kills(self, tmp_path: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-c", FOREIGN_SIGBUS, str(tmp_path / "s")], capture_output=True, cwd=ROOT
        )
        assert done.returncode == -signal.SIGBUS

    def test_rings_broken_by_the_driver_break_the_device_not_the_connection(self, real: Real, path: str) -> None:
        with FrontEnd(real, path) as front:
            front.up()
            front.queues[INFLATE].write_desc(0, 1 << 50, 4, 0, 0)
            front.queues[INFLATE].add_out(1 << 50, 4)
            front.kick(INFLATE)
            assert real.device.broken
            assert real.device.refused["bad-address"] == 1
            assert not front.cut_off
            for index in range(3):
                front.send(wire.NUMBERS["SET_VRING_ENABLE"], PAIR.pack(index, 0))
            assert not real.device.broken


CUT_SHORT = """
import os, sys
from device.balloon.spec import FREE, INFLATE, STATS
from device.virtio.spec import MIB
from tests.support.frontend import FrontEnd
from tests.support.real import Real

path = sys.argv[1]
with Real(f"vhost-user,path={path}", memory=16) as real:
    for size in (0, 4096, 8192):
        with FrontEnd(real, path) as front:
            front.up()
            os.ftruncate(front.memfd, size)
            real.machine.request_stats(10**9)
            real.device.queues[2].peek(0)
            real.device.notify(0)
            front.serve()
            assert "cut short" in front.why, front.why
print("alive", flush=True)
os._exit(0)
"""

FULL = """
import errno, os, sys
from device.balloon.spec import INFLATE, STATS
from device.virtio.spec import MIB
from tests.support.frontend import FrontEnd
from tests.support.real import Real

place, act = sys.argv[1:]
with Real(f"vhost-user,path={place}/s", memory=16) as real:
    file = os.open(f"{place}/full/ram", os.O_RDWR | os.O_CREAT)
    with FrontEnd(real, f"{place}/s", file=file) as front:
        front.up()
        queue = front.queues[INFLATE if act == "kick" else STATS]
        hole = 8 * MIB
        if act == "kick":
            queue.add_out(hole, 4)
        else:  # the statistics' buffer is read when the guest hands it back
            real.device.notify(2)
        filler = os.open(f"{place}/full/filler", os.O_RDWR | os.O_CREAT)
        try:
            while True:
                os.write(filler, bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC
        if act == "kick":
            front.kick(INFLATE)
        else:
            if act == "ask while stopped":
                real.machine.stop()
            real.device.memory.read(hole, 1)
        real.turn()
        assert "the file system behind it is full" in front.why, front.why
        assert "cut short" not in front.why
        assert real.device.refused == {}, real.device.refused
        assert not real.device.broken
        assert real.named("GUEST_FAULT") == []
        [gone] = real.named("GUEST_GONE")
        assert front.cut_off
    os.unlink(f"{place}/full/filler")
    with FrontEnd(real, f"{place}/s") as front:  # the next one is served
        front.up()
        assert real.guest.driver_loaded
print("alive", flush=True)
os._exit(0)
"""

FOREIGN_SIGBUS = """
import mmap, os, sys
from tests.support.frontend import FrontEnd
from tests.support.real import Real

path = sys.argv[1]
with Real(f"vhost-user,path={path}", memory=16) as real, FrontEnd(real, path) as front:
    front.up()
    fd = os.memfd_create("x")
    os.ftruncate(fd, 4096)
    mapped = mmap.mmap(fd, 4096)
    os.ftruncate(fd, 0)
    mapped[0]
"""
