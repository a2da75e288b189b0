"""A vhost-user front end's messages and memory table to the byte: what is accepted, and the errors for the rest."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator

import pytest

from device.errors import GuestFault
from device.guest.uml.initramfs import Archive
from device.guest.vhost_user import memory as vhost_memory
from device.guest.vhost_user import wire
from device.guest.vhost_user.memory import map_table
from device.guest.vhost_user.wire import SHAPES, Decoder, FrontEndFault, HostFault, Request, check_shape
from device.virtio.spec import MAX_RAM, MIB, PAGE_SIZE
from tests.support.lacking import refusing

USER = 0x7000_0000_0000


class TestShapes:
    def check(self, number: int, size: int, fds: int = 0) -> str:
        """Return why a message is refused, or nothing."""
        try:
            check_shape(Request(number, False, bytes(size), list(range(fds))))
        except FrontEndFault as fault:
            return str(fault)
        return ""

    @pytest.mark.parametrize("number", SHAPES)
    def test_both_ends_of_a_size_are_taken_and_no_more(self, number: int) -> None:
        shape = SHAPES[number]
        least, most = shape.fds
        for size in (shape.size, shape.most):
            for fds in (least, most):
                assert self.check(number, size, fds) == ""
            assert self.check(number, size, most + 1) == f"{shape.name} with {most + 1} descriptors"
            if least:
                assert self.check(number, size, least - 1) == f"{shape.name} with {least - 1} descriptors"
        assert self.check(number, shape.most + 1, least) == f"{shape.name} of {shape.most + 1} bytes"
        if shape.size:
            assert self.check(number, shape.size - 1, least) == f"{shape.name} of {shape.size - 1} bytes"

    def test_one_that_is_not_in_the_table(self) -> None:
        assert self.check(0, 0) == "message 0 is not one that was negotiated"
        assert self.check(26, 8) == "message 26 is not one that was negotiated"


class TestDecoder:
    def test_a_message_without_payload_is_whole_with_its_header(self) -> None:
        decoder = Decoder()
        request = decoder.feed(wire.HEADER.pack(1, 1, 0), [7])
        assert request is not None
        assert (request.number, request.need_reply, request.payload, request.fds) == (1, False, b"", [7])
        assert (decoder.wanted, decoder.leftovers()) == (12, [])

    def test_messages_follow_each_other(self) -> None:
        decoder = Decoder()
        for number in (2, 8, 2):
            assert decoder.feed(wire.HEADER.pack(number, 9, 3), []) is None
            assert decoder.wanted == 3
            request = decoder.feed(b"abc", [])
            assert request is not None
            assert (request.number, request.need_reply, request.payload, request.fds) == (number, True, b"abc", [])

    @pytest.mark.parametrize("flags", [0, 2, 3, 5, 13, 4])
    def test_flags_that_no_request_has_are_refused(self, flags: int) -> None:
        with pytest.raises(FrontEndFault) as caught:
            Decoder().feed(wire.HEADER.pack(9, flags, 0), [])
        assert str(caught.value) == f"message 9 with flags {flags:#x}"

    @pytest.mark.parametrize("flags", [1, 9, 0x11, 0xFFFF_FFF9])
    def test_flags_of_a_request_are_taken(self, flags: int) -> None:
        request = Decoder().feed(wire.HEADER.pack(9, flags, 0), [])
        assert request is not None
        assert request.need_reply == bool(flags & 8)

    def test_the_longest_payload_and_one_longer(self) -> None:
        assert Decoder().feed(wire.HEADER.pack(5, 1, wire.MAX_PAYLOAD), []) is None
        with pytest.raises(FrontEndFault) as caught:
            Decoder().feed(wire.HEADER.pack(5, 1, wire.MAX_PAYLOAD + 1), [])
        assert str(caught.value) == "message 5 of 4097 bytes"

    def test_descriptors_add_up_over_the_pieces_of_a_message(self) -> None:
        decoder = Decoder()
        assert decoder.feed(b"\1", [1, 2, 3, 4]) is None
        assert decoder.feed(b"\0", [5, 6, 7, 8]) is None
        with pytest.raises(FrontEndFault) as caught:
            decoder.feed(b"\0", [9])
        assert str(caught.value) == "a message with more than 8 descriptors"
        assert decoder.leftovers() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
        assert decoder.leftovers() == []

    def test_a_reply_carries_its_number_flags_and_length(self) -> None:
        assert wire.reply(15, b"abcd") == struct.pack("<III", 15, 5, 4) + b"abcd"


@pytest.fixture
def fd() -> Iterator[int]:
    """A file of 4 MiB in memory."""
    fd = os.memfd_create("shared")
    os.ftruncate(fd, 4 * MIB)
    yield fd
    os.close(fd)


def table(*rows: tuple[int, int, int, int]) -> bytes:
    return wire.PAIR.pack(len(rows), 0) + b"".join(wire.REGION.pack(*row) for row in rows)


def refusal(payload: bytes, *fds: int) -> str:
    """Return why a table is refused; the descriptors must still be the caller's."""
    given = list(fds)
    with pytest.raises(FrontEndFault) as caught:
        map_table(payload, given)
    assert given == list(fds)
    return str(caught.value)


class TestMemoryTable:
    @pytest.mark.parametrize(("number", "kind"), [(errno.ENOMEM, HostFault), (errno.EACCES, FrontEndFault)])
    def test_memory_that_this_process_may_not_map_is_not_the_front_ends_fault(
        self, fd: int, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[FrontEndFault]
    ) -> None:
        monkeypatch.setattr("device.guest.vhost_user.memory.mmap.mmap", refusing(number))
        with pytest.raises(FrontEndFault, match=f"{MIB} bytes of guest memory cannot be mapped") as caught:
            map_table(table((0, MIB, USER, 0)), [fd])
        assert type(caught.value) is kind

    def test_the_number_of_regions(self, fd: int) -> None:
        row = (0, MIB, USER, 0)
        assert refusal(table()) == "a memory table of 0 regions"
        assert refusal(table(*[row] * 9), *[fd] * 9) == "a memory table of 9 regions"
        assert refusal(table(row), fd, fd) == "a memory table of 1 regions with 2 descriptors"
        assert refusal(table(row)[:-1], fd) == "a memory table of 1 regions in 39 bytes"

    @pytest.mark.parametrize(
        ("row", "words"),
        [
            ((0, 0, USER, 0), "a region of 0x0 bytes at 0x0, file offset 0x0"),
            ((1, MIB, USER, 0), "a region of 0x100000 bytes at 0x1, file offset 0x0"),
            ((0, MIB + 1, USER, 0), "a region of 0x100001 bytes at 0x0, file offset 0x0"),
            ((0, MIB, USER, 5), "a region of 0x100000 bytes at 0x0, file offset 0x5"),
            (
                (MAX_RAM, PAGE_SIZE, USER, 0),
                "a region of 0x1000 bytes at 0x100000000000, user address 0x700000000000, offset 0x0",
            ),
            (
                (0, PAGE_SIZE, 2**64 - PAGE_SIZE + 1, 0),
                "a region of 0x1000 bytes at 0x0, user address 0xfffffffffffff001, offset 0x0",
            ),
            (
                (0, PAGE_SIZE, USER, 1 << 62),
                "a region of 0x1000 bytes at 0x0, user address 0x700000000000, offset 0x4000000000000000",
            ),
            (
                (0, PAGE_SIZE, USER, 4 * MIB),
                "a memory region up to 0x401000 of a file of 0x400000 bytes",
            ),
        ],
        ids=range(8),
    )
    def test_a_region_that_cannot_be(self, fd: int, row: tuple[int, int, int, int], words: str) -> None:
        assert refusal(table(row), fd) == words

    @pytest.mark.parametrize(
        "row",
        [
            (MAX_RAM - PAGE_SIZE, PAGE_SIZE, USER, 0),
            (0, PAGE_SIZE, 2**64 - PAGE_SIZE, 0),
            (0, PAGE_SIZE, 0, 4 * MIB - PAGE_SIZE),
            (0, 4 * MIB, USER, 0),
        ],
        ids=range(4),
    )
    def test_a_region_at_the_very_end(self, fd: int, row: tuple[int, int, int, int]) -> None:
        memory = map_table(table(row), [os.dup(fd)])
        assert memory.top == row[0] + row[1]
        assert memory.guest_address(row[2]) == row[0]
        memory.close()

    def test_an_offset_that_no_file_has(self, fd: int) -> None:
        words = refusal(table((0, PAGE_SIZE, USER, (1 << 62) - PAGE_SIZE)), fd)
        assert words == "a memory region up to 0x4000000000000000 of a file of 0x400000 bytes"

    @pytest.mark.parametrize(
        ("rows", "words"),
        [
            ([(0, 2 * MIB, 0, 0), (MIB, MIB, 8 * MIB, 0)], "regions at 0x100000 and 0x0 overlap"),
            ([(MIB, MIB, 8 * MIB, 0), (0, 2 * MIB, 0, 0)], "regions at 0x0 and 0x100000 overlap"),
            ([(0, MIB, 0, 0), (4 * MIB, MIB, MIB - PAGE_SIZE, 0)], "regions at user addresses 0xff000 and 0x0 overlap"),
            ([(0, MIB, MIB, 0), (4 * MIB, MIB, PAGE_SIZE, 0)], "regions at user addresses 0x1000 and 0x100000 overlap"),
        ],
        ids=range(4),
    )
    def test_regions_that_overlap(self, fd: int, rows: list[tuple[int, int, int, int]], words: str) -> None:
        assert refusal(table(*rows), fd, fd) == words

    def test_neighbours_do_not_overlap(self, fd: int) -> None:
        rows = [(MIB, MIB, MIB, 0), (0, MIB, 0, MIB), (2 * MIB, MIB, 2 * MIB, 2 * MIB)]
        given = [os.dup(fd) for _ in rows]
        memory = map_table(table(*rows) + b"ignored", given)
        assert (given, memory.top) == ([], 3 * MIB)
        memory.write(MIB, b"first")
        memory.write(0, b"second")
        assert (os.pread(fd, 5, 0), os.pread(fd, 6, MIB)) == (b"first", b"second")
        with pytest.raises(GuestFault):
            memory.read(MIB - 1, 2)
        memory.close()

    def test_a_ring_is_found_by_its_user_address(self, fd: int) -> None:
        memory = map_table(table((0, MIB, USER, 0), (MIB, MIB, 5 * MIB, MIB)), [os.dup(fd), os.dup(fd)])
        assert memory.guest_address(USER + MIB - 1) == MIB - 1
        assert memory.guest_address(5 * MIB + 7) == MIB + 7
        for user in (USER - 1, USER + MIB, 6 * MIB):
            with pytest.raises(FrontEndFault) as caught:
                memory.guest_address(user)
            assert str(caught.value) == f"ring address {user:#x} is in no region of the memory table"
        memory.close()

    def test_pages_are_given_back_over_the_border_of_regions(self, fd: int) -> None:
        memory = map_table(table((0, MIB, 0, 0), (2 * MIB, MIB, 8 * MIB, MIB)), [os.dup(fd), os.dup(fd)])
        os.pwrite(fd, b"x" * (2 * MIB), 0)
        assert memory.populated() == 2 * MIB, "one file, counted once"
        assert memory.discard(MIB - PAGE_SIZE, MIB + 2 * PAGE_SIZE)
        assert memory.populated() == 2 * MIB - 2 * PAGE_SIZE
        assert os.pread(fd, 2, MIB - PAGE_SIZE - 1) == b"x\0"
        assert os.pread(fd, 2, MIB + PAGE_SIZE - 1) == b"\0x"
        assert not memory.discard(MIB, MIB), "nobody has these"
        assert not memory.discard(4 * MIB, MIB)
        memory.close()

    def test_a_file_that_shrinks_is_noticed_when_a_page_is_missing(self, fd: int) -> None:
        memory = map_table(table((0, MIB, 0, MIB)), [os.dup(fd)])
        os.ftruncate(fd, 2 * MIB)
        assert not memory.shrunk()
        os.ftruncate(fd, 2 * MIB - 1)
        assert memory.shrunk()
        memory.close()

    def test_what_is_not_a_file_in_memory(self, monkeypatch: pytest.MonkeyPatch, fd: int) -> None:
        read, write = os.pipe()
        assert refusal(table((0, MIB, 0, 0)), read) == "a memory region that is not a file"
        os.close(read)
        os.close(write)
        monkeypatch.setattr(vhost_memory, "_file_system", lambda device: "fuse.sshfs")
        assert refusal(table((0, MIB, 0, 0)), fd) == "a memory region on fuse.sshfs"

    def test_the_file_system_of_a_device_is_looked_up(self) -> None:
        assert vhost_memory._file_system(os.stat("/proc").st_dev) == "proc"
        assert vhost_memory._file_system(os.makedev(4000, 12345)) == ""

    def test_what_cannot_be_mapped_leaves_the_descriptors(self, fd: int) -> None:
        os.ftruncate(fd, 8 * MIB)
        reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
        words = refusal(table((0, MIB, 0, 0), (MIB, MIB, MIB, 0)), fd, reader)
        assert words.startswith("1048576 bytes of guest memory cannot be mapped: [Errno 13]")
        assert os.fstat(fd).st_size == 8 * MIB, "it is still open"
        os.close(reader)


def test_an_archive_has_exactly_these_bytes() -> None:
    """The format of the kernel's buffer-format.rst."""
    archive = Archive()
    archive.add("d", stat.S_IFDIR | 0o755)
    archive.add("d/f", stat.S_IFREG | 0o640, b"hello")
    archive.add("l", stat.S_IFLNK | 0o777, b"d/f")
    archive.add("d/null", stat.S_IFCHR | 0o600, b"", 1, 3)

    def entry(inode: int, mode: int, links: int, size: int, major: int, minor: int, name: str) -> bytes:
        numbers = (inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, len(name) + 1, 0)
        raw = b"070701" + "".join(f"{number:08x}" for number in numbers).encode() + name.encode() + b"\0"
        return raw + bytes(-len(raw) % 4)

    expected = (
        entry(1, 0o040755, 2, 0, 0, 0, "d")
        + (entry(2, 0o100640, 1, 5, 0, 0, "d/f") + b"hello\0\0\0")
        + (entry(3, 0o120777, 1, 3, 0, 0, "l") + b"d/f\0")
        + entry(4, 0o020600, 1, 0, 1, 3, "d/null")
        + entry(0, 0, 1, 0, 0, 0, "TRAILER!!!")
    )
    assert bytes(archive) == expected.ljust(1024, b"\0")
    assert len(bytes(Archive())) == 512
