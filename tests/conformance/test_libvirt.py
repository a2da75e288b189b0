"""libvirt, unchanged, with a domain that hmp-qemu runs."""

from __future__ import annotations

import shlex
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hmp.qemu.test_command_line import command
from tests.support.libvirt import Libvirt, python
from tests.support.live import QEMU, Unavailable
from tests.support.shell import ROOT
from tests.support.timing import until

pytestmark = [pytest.mark.external, pytest.mark.slow]

DOMAIN = """<domain type='qemu'><name>vm1</name><memory unit='MiB'>512</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>
<devices><emulator>{}/emulator</emulator><memballoon model='virtio'><stats period='1'/></memballoon></devices></domain>"""

# The probe has `-machine none`. What libvirt builds a command line from is what this QEMU can do.
EMULATOR = """#!/bin/sh
case " $* " in *" -machine none"*) exec {} "$@" ;; esac
PYTHONPATH={} exec {} "$@"
"""


@pytest.fixture(params=["hmp-qemu", QEMU])
def libvirt(request: pytest.FixtureRequest) -> Iterator[Libvirt]:
    with tempfile.TemporaryDirectory(prefix="lv-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        emulator = Path(folder, "emulator")
        try:
            program = [python(), *command()[1:]] if request.param == "hmp-qemu" else [QEMU]
            emulator.write_text(EMULATOR.format(QEMU, f"{ROOT}:{sysconfig.get_path('purelib')}", shlex.join(program)))
            emulator.chmod(0o755)
            made = Libvirt(Path(folder), DOMAIN.format(folder))
        except Unavailable as why:
            pytest.skip(str(why))
        try:
            made.up()
            yield made
        finally:
            made.close()


def test_a_domain(libvirt: Libvirt, request: pytest.FixtureRequest) -> None:
    def says(*words: str) -> str:
        return libvirt.virsh(*words).strip()

    def stats() -> dict[str, str]:
        return dict(line.split() for line in says("dommemstat", "vm1").splitlines())

    def gone() -> bool:
        return "vm1" not in says("list", "--all")

    with_guest = "hmp-qemu" in request.node.name
    assert says("domstate", "vm1") == "running"
    assert stats()["actual"] == "524288"
    if with_guest:
        until(lambda: {"available", "unused", "last_update"} <= set(stats()))
    says("setmem", "vm1", "256M", "--live")
    if with_guest:
        until(lambda: stats()["actual"] == "262144")
    says("suspend", "vm1")
    assert says("domstate", "vm1") == "paused"
    says("resume", "vm1")
    assert says("domstate", "vm1") == "running"
    assert "shutdown" in says("shutdown", "vm1")
    if with_guest:
        until(gone)
        libvirt.up()
    assert "destroyed" in says("destroy", "vm1")
    assert gone()
