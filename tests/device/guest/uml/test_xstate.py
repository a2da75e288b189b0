"""Processors with more registers than User-Mode Linux has room for: the question, the filter, and who gets it."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from device.guest.uml import xstate
from tests.device.guest.uml.test_uml import gone, place, script, spec
from tests.support.descriptors import open_descriptors
from tests.support.real import Real
from tests.support.shell import ROOT, TIMEOUT

__all__ = ["place", "spec"]

X86_64, I386, AARCH64 = 0xC000003E, 0x40000003, 0xC00000B7
PTRACE = 101
ALLOW = 0x7FFF0000


def run(program: bytes, number: int, arch: int, arguments: tuple[int, ...]) -> int:
    """Run a filter as the kernel does: classic BPF, of which it takes loads of words, equalities and returns."""
    data = struct.pack("<iIQ6Q", number, arch, 0x7FFF_1234_5678, *arguments)
    at = accumulator = 0
    for _ in range(len(program) // 8):  # jumps go forward only
        code, jump_true, jump_false, operand = struct.unpack_from("<HBBI", program, at * 8)
        at += 1
        if code == 0x20:
            assert operand % 4 == 0
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif code == 0x15:
            at += jump_true if accumulator == operand else jump_false
        elif code == 0x06:
            return int(operand)
        else:
            raise AssertionError(f"instruction {code:#x}")
    raise AssertionError("no answer")


def answer(number: int = PTRACE, request: int = 0x4204, kind: int = 0x202, arch: int = X86_64) -> int:
    return run(xstate.program(), number, arch, (request, 4711, kind, 0x7FFF_0000_1000, 0, 0))


class TestFilter:
    def test_the_question_for_the_extended_state_is_an_input_output_error(self) -> None:
        assert answer() == 0x0005_0000 | errno.EIO

    def test_every_other_call_passes(self) -> None:
        assert {answer(number) for number in range(1024) if number != PTRACE} == {ALLOW}
        assert answer(0x4000_0000 | 521) == ALLOW  # x32's ptrace
        assert answer(-1) == ALLOW

    def test_every_other_request_passes(self) -> None:
        requests = [*range(64), *range(0x4200, 0x4300)]
        assert {answer(request=request) for request in requests if request != 0x4204} == {ALLOW}
        assert answer(request=0x4205) == ALLOW  # PTRACE_SETREGSET

    def test_every_other_kind_of_register_passes(self) -> None:
        assert {answer(kind=kind) for kind in range(0x400) if kind != 0x202} == {ALLOW}

    @pytest.mark.parametrize("arch", [I386, AARCH64, 0])
    def test_every_other_architecture_passes(self, arch: int) -> None:
        assert answer(arch=arch) == ALLOW


def in_child(text: str) -> str:
    """Run a program of its own, because a filter cannot be removed; returns what it printed."""
    ended = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=TIMEOUT, cwd=ROOT)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.strip()


needs_x86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filter is for x86-64")


@needs_x86
class TestProbe:
    def test_ptrace_tells_the_size_and_leaves_no_child(self, monkeypatch: pytest.MonkeyPatch) -> None:
        children = []

        class Noted(subprocess.Popen[bytes]):
            def __init__(self, *arguments: object, **options: object) -> None:
                super().__init__(*arguments, **options)  # type: ignore[call-overload]
                children.append(self)

        monkeypatch.setattr(xstate.subprocess, "Popen", Noted)
        before = open_descriptors()
        size = xstate.state_size()
        assert size >= 576  # x87, SSE and the header of the rest
        assert size == xstate.state_size()
        assert [child.returncode for child in children] == [-9, -9]
        assert not any(os.path.exists(f"/proc/{child.pid}") for child in children)
        assert open_descriptors() == before

    def test_it_works_in_any_thread_beside_others(self) -> None:
        sizes: list[int] = []
        threads = [threading.Thread(target=lambda: sizes.append(xstate.state_size())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        assert sizes == [xstate.state_size()] * 4

    def test_where_ptrace_fails_the_size_is_unknown(self) -> None:
        """Under the filter itself, which the kernel accepts; under a container's, which refuses all ptrace; without ctypes."""
        start = "from device.guest.uml import xstate as x\n"
        ask = "print(x.state_size())"
        assert in_child(f"{start}x.restriction()()\n{ask}") == "0"
        whole = "x.FILTER = ((0x20, 0, 0, 0), (0x15, 0, 1, 101), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7FFF0000))\n"
        assert in_child(f"{start}{whole}x.restriction()()\n{ask}") == "0"
        assert in_child(f"import sys\nsys.modules['ctypes'] = None\n{start}{ask}") == "0"

    def test_a_probe_whose_child_was_reaped_by_nobody(self) -> None:
        """Where children are ignored, as by some programs that start others, the kernel reaps them."""
        text = "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        assert int(in_child(f"{text}from device.guest.uml import xstate as x\nprint(x.state_size())")) >= 576


@pytest.mark.parametrize(
    ("size", "flags", "needed"),
    [
        (11008, "", True),  # with AMX (measured)
        (2697, "", True),
        (2696, "amx_tile", False),  # ptrace's answer counts, not /proc/cpuinfo
        (2432, "", False),
        (0, "fpu avx512f amx_bf16 amx_tile amx_int8", True),
        (0, "fpu avx512f", False),
        (0, "", False),
    ],
)
def test_a_processor_with_a_large_state_needs_the_filter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, flags: str, needed: bool
) -> None:
    monkeypatch.setattr(xstate, "state_size", lambda: size)
    cpuinfo = tmp_path / "cpuinfo"
    if flags:
        cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    assert xstate.needs_help(str(cpuinfo)) is needed


class TestGuest:
    """A program in the kernel's place says what it was given."""

    @pytest.fixture(autouse=True)
    def kernel(self, tmp_path: Path) -> None:
        script(tmp_path / "kernel", f'echo "$@" > {tmp_path}/args; cat /proc/self/status > {tmp_path}/now; read _')

    def given(self, tmp_path: Path, real: Real) -> tuple[bool, set[str]]:
        now = tmp_path / "now"
        real.until(lambda: now.exists() and "Seccomp:" in now.read_text())
        lines = set(now.read_text().splitlines())
        return xstate.TUNABLES in (tmp_path / "args").read_text().split(), lines

    @needs_x86
    def test_one_on_a_processor_with_too_many_registers(
        self, place: Path, spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(xstate, "needs_help", lambda: True)
        with Real(spec, memory=64) as real:
            told, lines = self.given(tmp_path, real)
            assert told
            assert {"Seccomp:\t2", "NoNewPrivs:\t1"} <= lines
            assert real.guest.shown()["processor"] == xstate.NOTE

    def test_one_on_any_other(self, place: Path, spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(xstate, "needs_help", lambda: False)
        with Real(spec, memory=64) as real:
            told, _ = self.given(tmp_path, real)
            assert not told
            assert "processor" not in real.guest.shown()

    def test_a_filter_that_is_refused_is_the_reason(
        self, place: Path, spec: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(xstate, "needs_help", lambda: True)
        monkeypatch.setattr(xstate, "_SECCOMP_MODE_FILTER", 99)
        with Real(spec, memory=64) as real:
            assert gone(real).endswith("this processor needs a seccomp filter, which cannot be set: Invalid argument")
