"""hmp attached to a domain of a real libvirt in session mode, with a real Linux in it."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hmp.terminal.test_pty import Seat, seat
from tests.support.libvirt import Libvirt
from tests.support.live import CMDLINE, QEMU, Unavailable, built
from tests.support.programs import Program
from tests.support.shell import Ended, environment, hmp, start
from tests.support.timing import PATIENCE, until

assert seat  # a fixture

pytestmark = [pytest.mark.external, pytest.mark.slow]

DOMAIN = """<domain type='qemu'><name>vm1</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type><kernel>{0}/vmlinuz</kernel><initrd>{0}/initrd</initrd>
<cmdline>{1}</cmdline></os><features><acpi/></features>
<devices><emulator>{2}</emulator><serial type='unix'><source mode='bind' path='{0}/sh'/><log file='{0}/console'/></serial>
<memballoon model='virtio'/></devices></domain>"""

FRESH = re.compile(r"balloon: actual=256(,(mem|major|minor|free|total)_\w+=\d+){6}\n")


@pytest.fixture(scope="module")
def libvirt() -> Iterator[Libvirt]:
    with tempfile.TemporaryDirectory(prefix="lv-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        try:
            guest = built()
            xml = DOMAIN.format(folder, CMDLINE, shutil.which(QEMU))
            made = Libvirt(Path(folder), xml, guest / "vmlinuz", guest / "initrd")
        except Unavailable as why:
            pytest.skip(str(why))
        try:
            made.up()
            until(lambda: b"THE-GUEST-IS-UP" in Path(folder, "console").read_bytes())
            before = environment()["PATH"]
            environment()["PATH"] = made.path
            yield made
            environment()["PATH"] = before
        finally:
            made.close()


def attached(*arguments: str) -> Ended:
    return hmp("--attach", "libvirt:vm1", *arguments)


def tainted(libvirt: Libvirt) -> bool:
    return "custom-monitor" in next(libvirt.folder.rglob("vm1.log")).read_text()


def test_a_check_asks_the_guest_and_leaves_no_trace(libvirt: Libvirt) -> None:
    ended = attached("--fail-stale", "-c", "info balloon")
    assert (ended.status, ended.err) == (0, "")
    assert FRESH.fullmatch(ended.out)
    assert not tainted(libvirt)
    assert libvirt.period() == ""


@pytest.mark.parametrize("period", [1, 10])
def test_a_period_that_is_set_is_kept(libvirt: Libvirt, period: int) -> None:
    libvirt.virsh("dommemstat", "vm1", "--period", str(period), "--live")
    ended = attached("--fail-stale", "-c", "info balloon")
    assert FRESH.fullmatch(ended.out)
    assert f'period="{period}"' in libvirt.period()
    libvirt.virsh("dommemstat", "vm1", "--period", "0", "--live")


def test_a_suspended_domain(libvirt: Libvirt) -> None:
    libvirt.virsh("suspend", "vm1")
    begun = time.monotonic()
    ended = attached("--fail-stale", "-c", "info balloon")
    assert time.monotonic() - begun >= 5
    libvirt.virsh("resume", "vm1")
    assert ended.status == 3
    assert int(ended.out.rpartition(",age=")[2]) >= 5000
    assert libvirt.period() == ""
    assert FRESH.fullmatch(attached("-c", "info balloon").out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_wait_restores_the_period(libvirt: Libvirt, number: signal.Signals) -> None:
    libvirt.virsh("suspend", "vm1")
    waiting = start("--attach", "libvirt:vm1", "-c", "info balloon")
    until(lambda: 'period="1"' in libvirt.period())
    waiting.send_signal(number)
    assert waiting.communicate(timeout=PATIENCE) == (b"", b"")
    assert waiting.returncode == 128 + number
    libvirt.virsh("resume", "vm1")
    assert libvirt.period() == ""


class TestEvents:
    """By `virsh qemu-monitor-event --loop`, which leaves the domain as it is."""

    def test_are_shown_above_the_prompt_and_in_what_is_watched(self, libvirt: Libvirt, seat: type[Seat]) -> None:
        desk = seat("--attach", "libvirt:vm1", columns=100, PATH=libvirt.path)  # type: ignore[call-arg,arg-type]
        desk.see(r"running │ vm1 │ \S+ 256M of 256M")
        libvirt.virsh("suspend", "vm1")
        desk.see(r"\[the VM is stopped\]")
        desk.see("paused │ vm1")
        libvirt.virsh("resume", "vm1")
        desk.see(r"\[the VM runs\]")
        desk.type("sim watch info balloon\r")
        desk.see(r"total_mem +218\.\dM")
        libvirt.virsh("setmem", "vm1", "196M", "--live")
        desk.see(r"\[BALLOON_CHANGE actual=205520896\]")
        desk.see(r"total_mem +158\.\dM")
        desk.type("\x03")
        desk.see("196M of 256M")
        libvirt.virsh("setmem", "vm1", "256M", "--live")
        desk.see("256M of 256M")
        desk.type("quit\r")
        desk.see("left vm1 running")
        assert desk.ends() == 0
        assert libvirt.virsh("domstate", "vm1").strip() == "running"

    def test_are_shown_on_monitors_that_share_the_domain(self, libvirt: Libvirt, tmp_path: Path) -> None:
        attach = ("--attach", "libvirt:vm1", "--headless")
        with (
            Program(
                *attach, "--qmp", f"unix:{tmp_path}/q", "--monitor", f"unix:{tmp_path}/m", env=environment()
            ) as front,
            contextlib.closing(front.qmp()) as one,
            contextlib.closing(front.qmp()) as other,
        ):
            libvirt.virsh("suspend", "vm1")
            libvirt.virsh("resume", "vm1")
            libvirt.virsh("setmem", "vm1", "224M", "--live")
            libvirt.virsh("setmem", "vm1", "256M", "--live")
            for each in (one, other):
                assert each.message()["event"] == "STOP"
                message = each.message()
                assert message["event"] == "RESUME"
                assert message["timestamp"].keys() == {"seconds", "microseconds"}
                while (message := each.message())["data"]["actual"] != 256 << 20:
                    assert message["event"] == "BALLOON_CHANGE"


def test_a_domain_that_does_not_exist_is_refused(libvirt: Libvirt) -> None:
    ended = hmp("--attach", "libvirt:vm2", "-c", "info balloon")
    assert ended == Ended(4, "", "hmp: libvirt:vm2: failed to get domain 'vm2'\n")


def test_commands_of_qemus_own_taint_the_domain_with_a_warning(libvirt: Libvirt) -> None:
    ended = attached("-c", "info status", "-c", "info kvm")
    assert ended.out == "VM status: running\nkvm support: disabled\n"
    assert ended.err == "hmp: libvirt marks vm1 as tainted (custom-monitor) for commands of QEMU's own\n"
    assert tainted(libvirt)
