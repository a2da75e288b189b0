"""The archive that a real guest boots from, and finding what goes into it."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import BinaryIO

import pytest

from device.errors import MisuseError
from device.guest.table import make_guest
from device.guest.uml import parts as uml_parts
from device.guest.uml.console import INIT, Console
from device.guest.uml.guest import parse_meminfo
from device.guest.uml.initramfs import Archive
from device.guest.uml.parts import Parts, build_initramfs, find_parts
from device.guest.uml.process import make_directory
from hmp.monitor import UsageError
from hmp.options import parse
from tests.support.real import Real


def entries(data: bytes) -> dict[str, tuple[int, bytes]]:
    """Take a newc archive apart, by the format's own description: name -> (mode, content)."""
    found = {}
    at = 0
    while True:
        assert at % 4 == 0
        assert data[at : at + 6] == b"070701"
        numbers = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, length = numbers[1], numbers[6], numbers[11]
        name = data[at + 110 : at + 110 + length]
        assert name.endswith(b"\0")
        start = (at + 110 + length + 3) & ~3
        content = data[start : start + size]
        at = (start + size + 3) & ~3
        if name == b"TRAILER!!!\0":
            assert set(data[at:]) <= {0}
            return found
        found[name[:-1].decode()] = (mode, content)


class TestArchive:
    def make(self) -> Archive:
        archive = Archive()
        archive.add("bin", stat.S_IFDIR | 0o755)
        archive.add("bin/odd", stat.S_IFREG | 0o755, b"12345")
        archive.add("empty", stat.S_IFREG | 0o644, b"")
        archive.add("bin/sh", stat.S_IFLNK | 0o777, b"odd")
        archive.add("dev-null", stat.S_IFCHR | 0o666, b"", 1, 3)
        return archive

    def test_what_went_in_comes_out(self) -> None:
        assert entries(bytes(self.make())) == {
            "bin": (stat.S_IFDIR | 0o755, b""),
            "bin/odd": (stat.S_IFREG | 0o755, b"12345"),
            "empty": (stat.S_IFREG | 0o644, b""),
            "bin/sh": (stat.S_IFLNK | 0o777, b"odd"),
            "dev-null": (stat.S_IFCHR | 0o666, b""),
        }

    def test_it_is_whole_blocks_and_the_same_every_time(self) -> None:
        assert len(bytes(self.make())) % 512 == 0
        archive = self.make()
        assert bytes(archive) == bytes(archive) == bytes(self.make())

    @pytest.mark.parametrize("length", range(1, 9))
    def test_names_and_contents_of_any_length_stay_aligned(self, length: int) -> None:
        archive = Archive()
        archive.add("n" * length, stat.S_IFREG | 0o644, b"c" * length)
        archive.add("last", stat.S_IFREG | 0o644, b"x")
        assert list(entries(bytes(archive))) == ["n" * length, "last"]

    @pytest.mark.external
    @pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed (apt-get install cpio)")
    def test_cpio_reads_it(self) -> None:
        listed = subprocess.run(["cpio", "-it"], input=bytes(self.make()), capture_output=True, check=True).stdout
        assert listed.decode().split() == ["bin", "bin/odd", "empty", "bin/sh", "dev-null"]

    @pytest.mark.external
    @pytest.mark.skipif(shutil.which("dash") is None, reason="no POSIX shell to read it with")
    def test_the_guests_script_is_well_formed(self, tmp_path: Path) -> None:
        script = tmp_path / "init"
        script.write_text(INIT)
        subprocess.run(["dash", "-n", str(script)], check=True)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without any of the packages."""
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    monkeypatch.setattr(uml_parts, "MODULES", str(tmp_path / "none" / "*"))
    return tmp_path


def program(path: Path, content: bytes = b"#!/bin/sh\n") -> str:
    path.write_bytes(content)
    path.chmod(0o755)
    return str(path)


def elf(kind: int) -> bytes:
    """A 64-bit ELF file with one program header of this kind."""
    head = b"\x7fELF\x02\x01\x01".ljust(32, b"\0") + (64).to_bytes(8, "little")
    return (
        head.ljust(54, b"\0")
        + (56).to_bytes(2, "little")
        + b"\1\0"
        + bytes(6)
        + kind.to_bytes(4, "little").ljust(56, b"\0")
    )


class TestParts:
    """One line for each missing part, with the package that has it."""

    def test_a_missing_kernel_is_an_error(self, bare: Path) -> None:
        with pytest.raises(
            MisuseError, match=r"no User-Mode Linux kernel .* apt-get install user-mode-linux, or say kernel="
        ):
            find_parts({})

    def test_a_missing_busybox_is_an_error(self, bare: Path) -> None:
        with pytest.raises(MisuseError, match=r"no busybox .* apt-get install busybox-static, or say busybox="):
            find_parts({"kernel": program(bare / "k")})

    def test_a_busybox_that_needs_a_loader_is_refused(self, bare: Path) -> None:
        kernel, busybox = program(bare / "k"), program(bare / "b", elf(3))
        with pytest.raises(MisuseError, match="not a static program: apt-get install busybox-static"):
            find_parts({"kernel": kernel, "busybox": busybox})

    def test_a_missing_module_is_an_error(self, bare: Path) -> None:
        kernel, busybox = program(bare / "k"), program(bare / "b", elf(1))
        with pytest.raises(
            MisuseError, match=r"no virtio_balloon.ko .* apt-get install user-mode-linux, or say module="
        ):
            find_parts({"kernel": kernel, "busybox": busybox})

    @pytest.mark.parametrize("key", ["kernel", "module", "busybox"])
    def test_a_path_that_is_not_there(self, bare: Path, key: str) -> None:
        paths = {name: program(bare / name) for name in ("kernel", "module", "busybox")}
        with pytest.raises(MisuseError, match=f"{key}=/no/such: no such file"):
            find_parts({**paths, key: "/no/such"})

    @pytest.mark.parametrize("part", ["module", "busybox"])
    def test_a_part_that_may_not_be_read(self, bare: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
        """Named before anything starts; an unreadable program was once taken for an error of our own output."""
        paths = {name: program(bare / name) for name in ("kernel", "module", "busybox")}

        def refuse(path: str, mode: str) -> BinaryIO:
            if path == paths[part]:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return open(path, "rb")

        monkeypatch.setattr(uml_parts, "open", refuse, raising=False)
        with pytest.raises(MisuseError, match=f"cannot read {paths[part]}: Permission denied"):
            find_parts(paths)

    def test_a_kernel_that_cannot_be_run(self, bare: Path) -> None:
        (bare / "k").write_text("x")
        with pytest.raises(MisuseError, match="is not executable"):
            find_parts({"kernel": str(bare / "k")})

    def test_the_module_of_the_kernels_version_is_taken(self, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(uml_parts, "VERSION_AT", -3)
        for version in ("6.1.9", "6.1.10", "6.2.0"):
            (bare / version / "d").mkdir(parents=True)
            (bare / version / "d" / "b.ko").write_text(version)
        monkeypatch.setattr(uml_parts, "MODULES", str(bare / "*" / "d" / "b.ko"))
        kernel = program(bare / "k", b"..Linux version 6.1.10 (x)..")
        parts = find_parts({"kernel": kernel, "busybox": program(bare / "b")})
        assert parts.module == str(bare / "6.1.10" / "d" / "b.ko")

    def test_all_of_it_is_in_the_archive(self, bare: Path) -> None:
        (bare / "m").write_bytes(b"module")
        parts = Parts("k", str(bare / "m"), program(bare / "b", b"busybox"))
        found = entries(build_initramfs(parts))
        assert found["bin/busybox"] == (stat.S_IFREG | 0o755, b"busybox")
        assert found["virtio_balloon.ko"][1] == b"module"
        assert found["init"] == (stat.S_IFREG | 0o755, INIT.encode())

    def test_a_part_that_cannot_be_read(self, bare: Path) -> None:
        with pytest.raises(MisuseError, match="cannot read /no/such: No such file"):
            build_initramfs(Parts("k", "/no/such", program(bare / "b")))


class TestSettings:
    def test_mem_is_the_machines(self) -> None:
        assert make_guest("uml,mem=128M").ram == 128 << 20
        assert make_guest("uml").ram == 0

    def test_two_sizes_of_memory_are_refused(self) -> None:
        with pytest.raises(MisuseError, match=r"mem=128M: the machine has 256M \(-m sets it\)"):
            Real("uml,mem=128M", memory=256)

    def test_too_little_memory_is_refused(self) -> None:
        with pytest.raises(MisuseError, match="16M is too little memory for a kernel: 32M is the least"):
            Real("uml", memory=16)

    @pytest.mark.parametrize(
        ("argv", "ram"),
        [
            (["--guest", "uml,mem=128M"], 128),
            (["--guest", "uml"], 1024),
            (["-m", "128M", "--guest", "uml,mem=131072K"], 128),
            (["-m", "64", "--guest", "uml"], 64),
        ],
    )
    def test_the_key_mem_and_the_option_m_may_agree(self, argv: list[str], ram: int) -> None:
        config = parse(argv)
        assert config is not None
        assert config.ram == ram << 20

    def test_two_different_sizes_are_a_usage_error(self) -> None:
        with pytest.raises(UsageError, match="-m 256M: --guest says mem=128M"):
            parse(["-m", "256M", "--guest", "uml,mem=128M"])

    @pytest.mark.parametrize(
        ("spec", "words"),
        [
            ("uml,mem=1", "between 4M and 16T"),
            ("uml,delay=2", "has no key 'delay' .takes mem, kernel, module, busybox"),
            ("uml,mem=", "mem needs a value"),
            ("vhost-user,mem=3", "has no key 'mem' .takes path"),
        ],
    )
    def test_bad_values_are_refused(self, spec: str, words: str) -> None:
        with pytest.raises(MisuseError, match=words):
            make_guest(spec)

    @pytest.mark.parametrize("bad", ["/tmp/a b", "/tmp/a:b", "relative", "/" + "x" * 80, "/no/such/place"])
    def test_a_temporary_directory_that_a_kernel_cannot_take_is_passed_over(
        self, bad: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TMPDIR", bad)
        made = make_directory()
        assert made.startswith("/tmp/hmp-")
        os.rmdir(made)


class TestConsole:
    """The protocol on the guest's console, with pipes in place of a guest."""

    def pair(self) -> tuple[Console, int, int]:
        guest_in, to_guest = os.pipe()
        from_guest, guest_out = os.pipe()
        os.set_blocking(to_guest, False)
        os.set_blocking(from_guest, False)
        return Console(to_guest, from_guest), guest_in, guest_out

    def test_a_command_and_its_answer(self) -> None:
        console, guest_in, guest_out = self.pair()
        os.write(guest_out, b"noise\n@@total 117868\n@@up 0\n")
        console.receive()
        assert (console.up, console.total) == (0, 117868 << 10)
        answers: list[tuple[int, str]] = []
        assert console.send("ls", lambda answer: answers.append(answer())) == 1
        assert os.read(guest_in, 100) == b"1\nls\n"
        os.write(guest_out, b"one\ntwo\n@@1")
        console.receive()
        assert answers == []
        os.write(guest_out, b" 3\n@@1 3\n")
        console.receive()
        assert answers == [(3, "one\ntwo")]
        os.close(guest_in)
        os.close(guest_out)
        console.receive()
        assert console.ended
        console.close()

    def test_what_the_guest_prints_is_bounded(self) -> None:
        console, guest_in, guest_out = self.pair()
        answers: list[str] = []
        console.send("yes", lambda answer: answers.append(answer()[1]))
        for _ in range(40):
            os.write(guest_out, b"y\n" * 30_000)
            console.receive()
        for _ in range(40):
            os.write(guest_out, b"y" * 60_000)
            console.receive()
        os.write(guest_out, b"\n@@1 0\n")
        console.receive()
        assert len(answers[0]) <= 3 << 18
        assert len(console.tail) <= 8192
        for fd in (guest_in, guest_out):
            os.close(fd)
        console.close()

    def test_answers_nobody_asked_for_are_dropped(self) -> None:
        console, guest_in, guest_out = self.pair()
        os.write(guest_out, b"@@7 0\n@@x 1\n@@1 99999999999999999999\n@@\n@@-1 0\n")
        console.send("true")
        console.forget(console.send("true", lambda *answer: pytest.fail(str(answer))))
        os.write(guest_out, b"@@1 0\n@@2 0\n")
        console.receive()
        for fd in (guest_in, guest_out):
            os.close(fd)
        console.close()

    def test_the_reason_of_a_guests_end_is_its_panic_or_its_last_line(self) -> None:
        console, guest_in, guest_out = self.pair()
        os.write(guest_out, b"[1] Kernel panic - not syncing: out\nRebooting\n")
        console.receive()
        assert console.panicked
        assert console.end_reason() == "Kernel panic - not syncing: out"
        for fd in (guest_in, guest_out):
            os.close(fd)
        console.close()

    def test_meminfo(self) -> None:
        text = "MemTotal:  100 kB\nHugePages_Total:   0\nodd\nMemFree: x kB\n"
        assert parse_meminfo(text) == {"MemTotal": 102400}
