"""Clients of QEMU, unchanged, against hmp-qemu and the real QEMU: both must do the same for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.clients import python
from tests.support.qemu import PROGRAM

pytestmark = [pytest.mark.external, pytest.mark.slow]


@pytest.fixture(params=["hmp-qemu", "qemu-system-x86_64"])
def program(request: pytest.FixtureRequest) -> str:
    if request.param != "hmp-qemu" and PROGRAM is None:
        pytest.skip("needs qemu-system-x86_64 on PATH to compare with")
    return str(request.param)


QEMU_MACHINE = """
from qemu.machine import QEMUMachine
with QEMUMachine(sys.argv[1], args=["-m", "512", "-nodefaults", "-device", "virtio-balloon-pci"]) as vm:
    vm.launch()
    print(vm.cmd("query-balloon"), vm.cmd("query-status")["status"])
    vm.cmd("stop")
    print(vm.event_wait("STOP", timeout=30)["event"])
    print(vm.qmp("nosuch")["error"]["class"])
    vm.shutdown()
    print(vm.exitcode())
"""


def test_qemu_machine(program: str, tmp_path: Path) -> None:
    said = python("maqet", QEMU_MACHINE, program, under="maqet/vendor", cwd=tmp_path)
    assert said == "{'actual': 536870912} running\nSTOP\nCommandNotFound\n0\n"
