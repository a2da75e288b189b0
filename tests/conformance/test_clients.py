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


START = """
import atexit, os, signal, subprocess
def start(*arguments):
    arguments = [*arguments, "-qmp", "unix:qmp,server=on,wait=off", "-m", "512", "-nodefaults", "-display", "none"]
    # It returns once all listens.
    subprocess.run([sys.argv[1], *arguments, "-daemonize", "-pidfile", "pid"], check=True)
    pid = os.pidfd_open(int(open("pid").read()))
    atexit.register(end, pid)
    return pid
def end(pid):
    try:
        signal.pidfd_send_signal(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""

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


AVOCADO = (
    START
    + """
import select
from virttest.qemu_monitor import HumanCmdError, HumanMonitor, QMPCmdError, QMPMonitor

class Domain:
    name = "vm1"
    check_capability = staticmethod(lambda flag: True)
    get_pid = staticmethod(lambda: None)

process = start("-monitor", "unix:hmp,server=on,wait=off", "-device", "virtio-balloon-pci,id=b")
qmp = QMPMonitor(Domain, "qmp", {"monitor_filename": "qmp"})
human = HumanMonitor(Domain, "hmp", {"monitor_filename": "hmp"})
print(human.info("balloon"), qmp.query("balloon"))
print(human.balloon("400M") == "", human.get_status())
qmp.verify_responsive()
human.verify_responsive()
qmp.cmd("stop")
human.verify_status("paused")
print(qmp.get_event("STOP")["event"])
human.cmd("cont")
qmp.verify_status("running")
try:
    qmp.cmd("device_del", {"id": "nosuch"})
except QMPCmdError as error:
    print(error.data)
try:
    human.cmd("device_del nosuch")
except HumanCmdError as error:
    print(error.out)
print(qmp.human_monitor_cmd("info status"))
print({"balloon", "info", "system_powerdown"} <= set(human._get_supported_cmds() or human._supported_cmds))
human.quit()  # QEMU may hang up before the reply of QMP to quit is read
assert select.select([process], [], [], 30)[0]
"""
)


def test_avocado_vt(program: str, tmp_path: Path) -> None:
    said = python("avocado-vt", AVOCADO, program, cwd=tmp_path)
    assert said.splitlines() == [
        "balloon: actual=512 {'actual': 536870912}",
        "True VM status: running",
        "STOP",
        "{'class': 'DeviceNotFound', 'desc': \"Device 'nosuch' not found\"}",
        "Error: Device 'nosuch' not found",
        "VM status: running",
        "",
        "True",
    ]


LABGRID = """
from labgrid import Environment
from pathlib import Path
import shutil
Path("env.yaml").write_text('''
targets:
  main:
    drivers:
      QEMUDriver: {qemu_bin: qemu, machine: pc, cpu: qemu64, memory: 512M, extra_args: -device virtio-balloon-pci}
tools: {qemu: %s}
''' % shutil.which(sys.argv[1]))
target = Environment("env.yaml").get_target("main")
driver = target.get_driver("QEMUDriver")
print(driver.get_qemu_version(shutil.which(sys.argv[1])) >= (7, 2, 0))
driver.on()
print(driver.monitor_command("query-status")["status"], driver.monitor_command("query-balloon"))
driver.monitor_command("balloon", {"value": 400 << 20})
driver.cycle()
print(driver.monitor_command("query-balloon"))
driver.off()
target.deactivate(driver)
"""


def test_labgrid(program: str, tmp_path: Path) -> None:
    said = python("labgrid", LABGRID, program, cwd=tmp_path)
    assert said.splitlines() == ["True", "running {'actual': 536870912}", "{'actual': 536870912}"]


TRANSIENT = """
from transient.qemu import QemuRunner
events = []
runner = QemuRunner(["-m", "512", "-nodefaults", "-display", "none", "-device", "virtio-balloon-pci"],
                    bin_name=sys.argv[1], interactive=False, qmp_connectable=True)
runner.start()
runner.qmp_client.connect()
runner.qmp_client.register_callback("STOP", events.append)
print(runner.qmp_client.send_sync({"execute": "query-balloon"})["return"])
print(runner.qmp_client.send_sync({"execute": "stop"})["return"], [each["event"] for each in events])
print(runner.qmp_client.send_sync({"execute": "nosuch"})["error"]["class"])
runner.qmp_client.send_sync({"execute": "cont"})
if "hmp" in sys.argv[1]:  # it has a guest to shut down
    print(runner.shutdown(30))
else:
    runner.terminate(30)
    print(runner.returncode())
"""


def test_transient(program: str, tmp_path: Path) -> None:
    said = python("transient", TRANSIENT, program, cwd=tmp_path)
    assert said.splitlines() == ["{'actual': 536870912}", "{} ['STOP']", "CommandNotFound", "0"]
