"""Clients of QEMU, unchanged, against hmp-qemu and the real QEMU: both must do the same for them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.clients import python
from tests.support.qemu import PROGRAM

GO_PATH = Path("/usr/share/gocode")  # Debian's

RunClient = Callable[..., list[str]]

pytestmark = [pytest.mark.external, pytest.mark.slow]


@pytest.fixture(params=["hmp-qemu", "qemu-system-x86_64"])
def program(request: pytest.FixtureRequest) -> str:
    if request.param != "hmp-qemu" and PROGRAM is None:
        pytest.skip("needs qemu-system-x86_64 on PATH to compare with")
    return str(request.param)


@pytest.fixture
def run_client(program: str, tmp_path: Path) -> RunClient:
    """Runs a source that imports a client, with the program and further arguments; returns the lines that it printed."""

    def run(client: str, source: str, *arguments: str, under: str = "") -> list[str]:
        return python(client, source, program, *arguments, under=under, cwd=tmp_path).splitlines()

    return run


@pytest.mark.parametrize(
    ("client", "needs"),
    [
        ("maqet", "needs maqet: make clients"),
        ("exec-sandbox", r"needs exec-sandbox: make clients \(and Python 3\.12\)"),
    ],
)
def test_a_client_that_is_not_installed_is_skipped(
    client: str, needs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.clients.FOLDER", tmp_path)
    with pytest.raises(pytest.skip.Exception, match=f"^{needs}$"):
        python(client, "")


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


def test_qemu_machine(run_client: RunClient) -> None:
    said = run_client("maqet", QEMU_MACHINE, under="maqet/vendor")
    assert said == ["{'actual': 536870912} running", "STOP", "CommandNotFound", "0"]


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


def test_avocado_vt(run_client: RunClient) -> None:
    assert run_client("avocado-vt", AVOCADO) == [
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


def test_labgrid(run_client: RunClient) -> None:
    assert run_client("labgrid", LABGRID) == ["True", "running {'actual': 536870912}", "{'actual': 536870912}"]


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


def test_transient(run_client: RunClient) -> None:
    assert run_client("transient", TRANSIENT) == ["{'actual': 536870912}", "{} ['STOP']", "CommandNotFound", "0"]


MCQEMU = """
import asyncio, os, pathlib, shutil
os.environ |= {"MCQEMU_STATE_DIR": "state", "MCQEMU_RUNTIME_DIR": "run", "FASTMCP_CHECK_FOR_UPDATES": "off"}
program = shutil.which(sys.argv[1].replace("x86_64", "i386"))  # not this host's processor: mcqemu takes tcg then
pathlib.Path("qemu-system-i386").symlink_to(program)
os.environ["PATH"] = os.getcwd() + ":" + os.environ["PATH"]
from fastmcp import Client
from mcqemu.server import mcp
async def main():
    async with Client(mcp, timeout=60) as client:
        async def call(tool, **more):
            return (await client.call_tool(tool, {"name": "vm1"} | more)).data
        made = await call("launch_vm", arch="i386", memory_mb=512, cpus=1, no_net=True)
        print(made["status"], made["accel"])
        try:
            info = await call("vm_info")
            print(info["status"], info["vcpus"], info["pid"] == made["pid"])
            print(await call("pause_vm"), await call("resume_vm"))
            print(await call("vm_send_keys", keys=["ctrl-alt-delete"]), await call("vm_type_text", text="hi"))
        finally:
            print(await call("stop_vm", force=True))
        print((await client.call_tool("list_vms", {})).data["vms"][0]["status"])
        print(await call("forget_vm"))
asyncio.run(main())
"""


def test_mcqemu(run_client: RunClient) -> None:
    assert run_client("mcqemu", MCQEMU) == [
        "running tcg",
        "running 1 True",
        "{'name': 'vm1', 'status': 'paused'} {'name': 'vm1', 'status': 'running'}",
        "{'name': 'vm1', 'keys_sent': 1} {'name': 'vm1', 'characters_typed': 2}",
        "{'name': 'vm1', 'status': 'stopped', 'method': 'force quit'}",
        "stopped",
        "{'name': 'vm1', 'forgotten': True, 'process_left_running': False}",
    ]


FC_QEMU = (
    START
    + """
import structlog
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
from fc.qemu.hazmat.qemu import Qemu
class Machine(Qemu):
    prefix, pidfile, qmp_socket, migration_address = os.getcwd() + "/", "pid", "qmp", "tcp:127.0.0.1:0"
process = start("-name", "vm1,process=kvm.vm1", "-device", "virtio-balloon-pci")
vm = Machine({"name": "vm1", "id": 1})
print(vm.is_running(), vm.block_info(), vm.qmp.command("query-balloon"))
vm.graceful_shutdown()
vm.watchdog_action("pause")
vm.qmp.command("stop")
print([each["event"] for each in vm.qmp.get_events(wait=True)])
vm.destroy()
print(vm.process_exists())
"""
)


def test_fc_qemu(run_client: RunClient) -> None:
    assert run_client("fc.qemu", FC_QEMU) == ["True {} {'actual': 536870912}", "['STOP']", "False"]


EXEC_SANDBOX = (
    START
    + """
import asyncio, pathlib
from exec_sandbox.balloon_client import BalloonClient
from exec_sandbox.exceptions import BalloonTransientError
process = start("-device", "virtio-balloon-pci")
async def main():
    async with BalloonClient(pathlib.Path("qmp"), os.getuid()) as client:
        print(await client.query())
        with_guest = "hmp" in sys.argv[1]
        print(await client.inflate(128, wait_for_target=with_guest))
        await client.deflate(512, wait_for_target=with_guest)
        print(await client.query())
    try:
        await BalloonClient(pathlib.Path("qmp"), os.getuid() + 1).connect()
    except Exception as error:
        print(type(error).__name__)
asyncio.run(main())
"""
)


def test_exec_sandbox(run_client: RunClient) -> None:
    assert run_client("exec-sandbox", EXEC_SANDBOX) == ["512", "512", "512", "SocketAuthError"]


QEMU_QMP = (
    START
    + """
import asyncio
from qemu.qmp import ExecuteError, QMPClient
process = start("-name", "vm1", "-device", "virtio-balloon-pci")
async def main():
    client = QMPClient("test")
    await client.connect("qmp")
    print(client.greeting.QMP.version["qemu"]["major"])
    print(await asyncio.gather(*(client.execute(name) for name in ("query-balloon", "query-name", "query-kvm"))))
    with client.listener("STOP") as stops:
        print(await client.execute("stop"), (await stops.get())["event"])
    for command, arguments in (("nosuch", {}), ("balloon", {}), ("balloon", {"value": "x"})):
        try:
            await client.execute(command, arguments)
        except ExecuteError as error:
            print(error.error_class, error)
    print(await client.execute("human-monitor-command", {"command-line": "info balloon"}))
    await client.disconnect()
asyncio.run(main())
"""
)


def test_qemu_qmp(run_client: RunClient) -> None:
    assert run_client("qemu.qmp", QEMU_QMP) == [
        "7",
        "[{'actual': 536870912}, {'name': 'vm1'}, {'enabled': False, 'present': True}]",
        "{} STOP",
        "CommandNotFound The command nosuch has not been found",
        "GenericError Parameter 'value' is missing",
        "GenericError Invalid parameter type for 'value', expected: integer",
        "balloon: actual=512",
        "",
    ]


QMP_SHELL = (
    START
    + r"""
process = start("-name", "vm1", "-device", "virtio-balloon-pci")
os.environ["HOME"] = os.getcwd()
for options, typed in (([], "query-name\nballoon value=400000000\nnosuch\nstop\n"), (["-H"], "info name\ninfo balloon\nnosuch\n")):
    ended = subprocess.run([sys.executable, "-c", "from qemu.qmp.qmp_shell import main; main()", *options, "qmp"],
                           input=typed, text=True, stdout=subprocess.PIPE, check=True)
    print(ended.stdout)
"""
)


def test_qmp_shell(run_client: RunClient) -> None:
    assert [line for line in run_client("qemu.qmp", QMP_SHELL) if "(QEMU) " in line] == [
        '(QEMU) {"return": {"name": "vm1"}}',
        '(QEMU) {"return": {}}',
        '(QEMU) {"error": {"class": "CommandNotFound", "desc": "The command nosuch has not been found"}}',
        '(QEMU) {"return": {}}',
        "(QEMU) ",
        "(QEMU) vm1",
        " (QEMU) balloon: actual=512",
        " (QEMU) unknown command: 'nosuch'",
        " (QEMU) ",
    ]


QMP_SHELL_WRAP = r"""
import os, subprocess
os.environ["HOME"] = os.getcwd()
wrap = [sys.executable, "-c", "from qemu.qmp.qmp_shell import main_wrap; main_wrap()", "--", sys.argv[1]]
ended = subprocess.run([*wrap, "-m", "512", "-nodefaults", "-display", "none", "-device", "virtio-balloon-pci"],
                       input="query-balloon\nballoon value=400000000\nquit\n", text=True, stdout=subprocess.PIPE)
print(ended.stdout)
"""


def test_qmp_shell_wrap(run_client: RunClient) -> None:
    assert [line for line in run_client("qemu.qmp", QMP_SHELL_WRAP) if "(QEMU) {" in line] == [
        '(QEMU) {"return": {"actual": 536870912}}',
        '(QEMU) {"return": {}}',
        '(QEMU) {"return": {}}',
    ]


GO_QEMU = """// client.go
package main

import (
	"fmt"
	"log"
	"strings"
	"time"

	"github.com/digitalocean/go-qemu/qemu"
	"github.com/digitalocean/go-qemu/qmp"
)

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func main() {
	monitor := must(qmp.NewSocketMonitor("unix", "qmp", 10*time.Second))
	if err := monitor.Connect(); err != nil {
		log.Fatal(err)
	}
	domain := must(qemu.NewDomain(monitor, "vm1"))
	fmt.Println(must(domain.Status()), strings.HasPrefix(must(domain.Version()), "7.2."))
	fmt.Println(must(domain.Supported("query-balloon")), must(domain.Supported("nosuch")), len(must(domain.Commands())) > 50)
	fmt.Println(len(must(domain.BlockDevices())), len(must(domain.BlockJobs())), len(must(domain.PCIDevices())) > 3)
	events, done, err := domain.Events()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(must(domain.Run(qmp.Command{Execute: "query-balloon"}))))
	must(domain.Run(qmp.Command{Execute: "stop"}))
	fmt.Println((<-events).Event, must(domain.Status()))
	_, err = domain.Run(qmp.Command{Execute: "nosuch"})
	fmt.Println(err)
	if err := domain.SystemReset(); err != nil {
		log.Fatal(err)
	}
	fmt.Println((<-events).Event)
	done <- struct{}{}
	domain.Close()
}
"""


def test_go_qemu(run_client: RunClient, tmp_path: Path) -> None:
    if not GO_PATH.is_dir() or shutil.which("go") is None:
        pytest.skip("needs go and go-qemu (Debian: golang-go golang-github-digitalocean-go-qemu-dev)")
    (tmp_path / "client.go").write_text(GO_QEMU)
    start = (
        START
        + """
process = start("-name", "vm1", "-device", "virtio-balloon-pci")
subprocess.run(["go", "run", "client.go"], env=os.environ | {"GO111MODULE": "off", "GOPATH": sys.argv[2]}, check=True)
"""
    )
    assert run_client("qemu.qmp", start, str(GO_PATH)) == [
        "StatusRunning true",
        "true false true",
        "0 0 true",
        '{"return": {"actual": 536870912}}',
        "STOP StatusPaused",
        "The command nosuch has not been found",
        "RESET",
    ]
