"""Starting fast is a feature: what the piped path imports, how long it takes, and how much memory."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from device.clock import MS, SECOND
from hmp.config import Config, make_machine
from hmp.monitor.dialects import DIALECTS
from hmp.monitor.monitor import Monitor
from hmp.pipe import Runner, run, wait
from hmp.streams import Source
from tests.support.shell import TIMEOUT, environment, hmp, shell
from tests.support.timing import takes_less_than

NEVER = {"asyncio", "prompt_toolkit", "rich", "pyte", "dataclasses", "inspect", "socket", "threading", "ssl",
         "subprocess", "typing", "logging", "argparse", "json", "multiprocessing"}  # fmt: skip
"""What the piped path never imports, whatever is piped (click comes with a part of these, but only for options)."""

EVERYTHING = """\
info balloon
balloon 256
stop
info status
c
sim
sim stats
sim set free_mem 1
sim guest slow
sim sleep 1
help
info virtio
qom-list /machine
system_reset
device_del balloon0
device_add virtio-balloon-pci,id=b
savevm a
loadvm a
quit
"""


def imported(*arguments: str, text: str) -> set[str]:
    """The modules that a run imports, the interpreter's own start apart."""
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hmp", *arguments],
        input=text.encode(),
        capture_output=True,
        timeout=TIMEOUT,
        env=environment(),
    )
    lines = [line for line in ended.stderr.decode().splitlines() if line.startswith("import time:")]
    names = [line.rpartition("|")[2].strip() for line in lines]
    return set(names[names.index("hmp") :])  # runpy finds the package first


def test_the_piped_path_imports_nothing_heavy() -> None:
    found = imported(text="info balloon\nquit\n")
    assert {"hmp.pipe", "hmp.monitor.commands", "device.balloon.device"} <= found
    assert not {name.partition(".")[0] for name in found} & (NEVER | {"click", "re", "enum"})
    assert len([name for name in found if name.partition(".")[0] in ("hmp", "device")]) <= 39


def test_commands_import_what_they_need_and_none_of_it_is_a_loop() -> None:
    found = imported(text=EVERYTHING)
    heavy = NEVER - {"json", "typing"}  # snapshots are checked and dated: those may cost something
    assert not {name.partition(".")[0] for name in found} & (heavy | {"click"})
    assert not [name for name in found if name.startswith(("hmp.terminal", "hmp.sockets", "hmp.recording", "hmp.qmp"))]


def test_click_comes_with_options_and_brings_no_terminal() -> None:
    found = imported("--clock", "warp", text="info balloon\n")
    assert "click" in found
    assert not {name.partition(".")[0] for name in found} & {"asyncio", "prompt_toolkit", "rich", "pyte"}
    assert not [name for name in found if name.startswith(("hmp.terminal", "hmp.sockets"))]


def test_loops_come_without_openssl() -> None:
    found = imported("--monitor", "tcp:127.0.0.1:0", text="info balloon\n")
    assert "asyncio" in found
    assert "_ssl" not in found


def seconds(*arguments: str) -> float:
    """The time that the processor spends on a run, which depends less on what else runs than the clock's."""

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    begun = spent()
    assert hmp("-c", "info status", *arguments).status == 0
    return spent() - begun


@pytest.mark.slow
def test_16_tib_start_as_fast_as_4_mib() -> None:
    small = large = float("inf")
    for _ in range(30):
        small, large = min(small, seconds("-m", "4M")), min(large, seconds("-m", "16T"))
        if large < small * 1.3:
            return
    raise AssertionError((small, large))


@pytest.mark.slow
@pytest.mark.parametrize("line", ["info balloon", "sim sleep 0.5"])
def test_on_the_real_clock_a_wait_ends_within_20_ms_of_its_time(line: str) -> None:
    config = Config()
    config.guest, config.timeout = "silent", 500 * MS
    machine = make_machine(config)
    machine.start()
    subject = Monitor(machine, DIALECTS["seed"])

    def overshoot() -> float:
        begun = time.monotonic_ns()
        reply = subject.execute(line)
        wait(machine, reply)
        over = time.monotonic_ns() - begun - 500 * MS
        assert not reply.pending
        assert over >= 0
        return over / SECOND

    takes_less_than(0.02, overshoot)
    machine.close()


def test_on_the_warp_clock_waiting_takes_no_time(capfd: pytest.CaptureFixture[str]) -> None:
    config = Config()
    config.guest, config.clock = "silent", "warp"
    machine = make_machine(config)
    machine.start()
    runner = Runner(machine, Monitor(machine, DIALECTS["seed"]), config)

    def waits() -> float:
        begun = time.perf_counter()
        run(runner, [Source("-c", ["info balloon", "sim sleep 3600"] * 10)])
        assert not runner.over
        taken = time.perf_counter() - begun
        assert capfd.readouterr().out.count(",age=") == 10
        return taken

    takes_less_than(0.1, waits)
    machine.close()


MEASURE = """\
import resource, subprocess, sys
with open("lines") as lines, open("printed", "w") as printed:
    subprocess.run([sys.executable, "-m", "hmp", *sys.argv[1:]], stdin=lines, stdout=printed, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def kilobytes(folder: Path, line: str, count: int, *arguments: str) -> int:
    """The most memory that hmp has had after so many lines."""
    (folder / "lines").write_text(f"{line}\n" * count)
    (folder / "measure.py").write_text(MEASURE)
    ended = shell(f"python3 measure.py {' '.join(arguments)}", cwd=folder)
    assert (ended.status, ended.err) == (0, "")
    return int(ended.out)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("line", "arguments"),
    [("info balloon", ()), ("info balloon", ("--clock", "warp", "--guest", "slow")), ("info status", ()), ("help", ())],
)
def test_memory_is_constant_over_100_000_lines(tmp_path: Path, line: str, arguments: tuple[str, ...]) -> None:
    few, many = (kilobytes(tmp_path, line, count, *arguments) for count in (3_000, 100_000))
    assert many - few < 2048
