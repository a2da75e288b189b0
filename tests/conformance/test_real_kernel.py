"""The device against Linux's own virtio_balloon driver: a User-Mode Linux kernel of Debian's, booted for each test.

What it takes: apt-get install user-mode-linux busybox-static. Figures are in docs/real-guest.md.
"""

from __future__ import annotations

import glob
import os
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from device.balloon.spec import (
    AVAILABLE,
    CACHES,
    FREE,
    HTLB_ALLOC,
    HTLB_FAIL,
    MAJOR_FAULTS,
    MINOR_FAULTS,
    SWAP_IN,
    SWAP_OUT,
    TOTAL,
)
from device.errors import MisuseError
from device.guest.model.guest import TEN
from device.guest.uml.guest import MEMINFO, parse_meminfo
from device.guest.uml.parts import find_parts
from device.virtio.spec import MIB, PAGE_SIZE
from tests.support.descriptors import open_descriptors
from tests.support.real import Real, booted, needs_kernel, nobody_lives
from tests.support.timing import takes_less_than

pytestmark = [pytest.mark.external, pytest.mark.slow, needs_kernel, pytest.mark.timeout(300)]

RAM = 128
ROOT = Path(__file__).parents[2]


@pytest.fixture
def real() -> Iterator[Real]:
    with Real(f"uml,mem={RAM}M", memory=RAM) as real:
        yield real


def proc(real: Real) -> tuple[dict[str, int], dict[str, int]]:
    """Read the guest's own numbers: /proc/meminfo in bytes, /proc/vmstat."""
    status, text = real.shell("$B cat /proc/meminfo /proc/vmstat")
    assert status == 0
    counts = {}
    for line in text.split("\n"):
        words = line.split()
        if len(words) == 2 and words[1].isdigit():
            counts[words[0]] = int(words[1])
    return parse_meminfo(text), counts


def settle(real: Real, size: int) -> None:
    """Set a target in MiB and wait until the guest is there."""
    real.done(real.machine.set_balloon(size * MIB))
    real.until(lambda: real.device.actual == size * MIB)


class TestStatistics:
    def test_each_one_is_the_guests_own(self, real: Real) -> None:
        booted(real)
        real.ask()
        meminfo, vmstat = proc(real)
        assert real.ask()[0] == "answered"
        sample = real.sample
        assert sample[TOTAL] == meminfo["MemTotal"]
        assert sample[CACHES] == meminfo["Cached"] + meminfo["Buffers"] + meminfo["SwapCached"]
        assert sample[SWAP_IN] == vmstat["pswpin"] * PAGE_SIZE
        assert sample[SWAP_OUT] == vmstat["pswpout"] * PAGE_SIZE
        assert sample[MAJOR_FAULTS] == vmstat["pgmajfault"]
        # Reading /proc faults and frees pages itself, so these move between the two looks.
        assert 0 <= sample[MINOR_FAULTS] - vmstat["pgfault"] < 500
        assert abs(sample[FREE] - meminfo["MemFree"]) < 2 * MIB
        assert abs(sample[AVAILABLE] - meminfo["MemAvailable"]) < 2 * MIB
        for tag, name in ((HTLB_ALLOC, "htlb_buddy_alloc_success"), (HTLB_FAIL, "htlb_buddy_alloc_fail")):
            assert sample.get(tag) == vmstat.get(name)

    def test_tags_and_order_are_the_modelled_ones(self, real: Real) -> None:
        """UML has no huge pages, so those two of Linux 6.1's ten are missing; the order is the profile's."""
        booted(real)
        real.ask()
        sample = real.device.stats.sample
        assert sample is not None
        assert list(sample.tags) == [tag for tag in TEN if tag not in (HTLB_ALLOC, HTLB_FAIL)]
        assert not sample.unknown
        assert real.device.refused == {}

    def test_requests_made_while_it_boots_are_answered_by_its_driver(self, real: Real) -> None:
        request = real.machine.request_stats(30 * 1_000_000_000)
        assert request.state == "pending"
        real.until(lambda: request.state != "pending")
        assert request.state == "answered"

    def test_a_refresh_takes_less_than_a_hundredth_of_a_second(self, real: Real) -> None:
        booted(real)
        takes_less_than(0.01, lambda: statistics.median(real.ask()[1] for _ in range(10)), tries=50)


class TestBalloon:
    def test_inflating_takes_memory_and_gives_it_to_the_host(self, real: Real) -> None:
        booted(real)
        assert (
            real.done(real.guest.controls.alloc(48 * MIB)) == 48 * MIB
        )  # so that pages of the host are behind the guest's
        assert real.done(real.guest.controls.free(48 * MIB)) == 48 * MIB
        total = proc(real)[0]["MemTotal"]
        backed = real.guest.memory.populated()
        settle(real, RAM - 64)
        assert proc(real)[0]["MemTotal"] == total - 64 * MIB
        real.ask()
        assert real.sample[TOTAL] == total - 64 * MIB
        assert backed - real.guest.memory.populated() >= 32 * MIB
        assert real.device.pages.count == 64 * MIB // PAGE_SIZE
        settle(real, RAM)
        assert proc(real)[0]["MemTotal"] == total
        assert real.device.pages.count == 0
        assert set(real.device.refused) <= {"double-inflate", "double-deflate"}

    def test_it_lives_at_its_floor_and_no_lower_target_is_taken(self, real: Real) -> None:
        booted(real)
        floor = real.done(real.guest.shell(MEMINFO, real.guest.floor))
        assert floor < 64 * MIB
        with pytest.raises(MisuseError, match="would not survive less than"):
            real.done(real.machine.set_balloon(floor - 8 * MIB))
        assert real.device.target == RAM * MIB
        settle(real, floor // MIB)
        assert real.ask()[0] == "answered"
        assert proc(real)[0]["MemAvailable"] > MIB
        assert real.shell("$B ls / >/dev/null")[0] == 0
        settle(real, RAM)

    def test_with_deflate_on_oom_it_takes_back_what_it_needs(self) -> None:
        with Real(f"uml,mem={RAM}M", memory=RAM, deflate_on_oom=True) as real:
            booted(real)
            real.machine.set_balloon(16 * MIB)
            real.idle(3)
            assert real.shell("$B ls / >/dev/null")[0] == 0
            assert real.ask()[0] == "answered"
            assert real.device.actual > 16 * MIB
            assert real.named("GUEST_PANICKED") == []

    def test_the_modules_end_empties_the_balloon_and_its_return_fills_it(self, real: Real) -> None:
        booted(real)
        settle(real, 96)
        for _ in range(3):
            real.done(real.guest.controls.unload_driver())
            real.until(lambda: not real.guest.driver_loaded)
            assert real.ask()[0] == "unsupported"
            assert real.device.actual == RAM * MIB
            real.done(real.guest.controls.load_driver())
            assert real.guest.driver_loaded
            assert real.ask()[0] == "answered"
            real.until(lambda: real.device.actual == 96 * MIB)
        assert set(real.device.refused) <= {"double-inflate", "double-deflate"}

    def test_a_device_can_be_unplugged_and_plugged_in_again(self, real: Real) -> None:
        booted(real)
        settle(real, 96)
        real.machine.device_del("balloon0")
        real.until(lambda: real.machine.device is None)
        assert real.ask()[0] == "no device"
        real.machine.device_add("other")
        real.until(lambda: real.guest.driver_loaded)
        assert real.ask()[0] == "answered"
        settle(real, 100)


class TestLife:
    def test_a_frozen_guest_lets_the_request_time_out_and_a_thawed_one_answers(self, real: Real) -> None:
        booted(real)
        real.ask()
        real.machine.stop()

        def request() -> float:
            state, seconds = real.ask(1.0)
            assert state == "timed out"
            assert seconds >= 1.0
            return seconds

        takes_less_than(1.5, request)
        assert real.device.stats.age >= 1_000_000_000
        with pytest.raises(MisuseError, match="while the VM is stopped"):
            real.done(real.guest.controls.alloc(MIB))
        real.machine.cont()
        assert real.ask()[0] == "answered"
        assert real.device.stats.age < 1_000_000_000

    def test_a_stop_in_the_middle_of_inflating_stops_the_balloon(self, real: Real) -> None:
        booted(real)
        real.done(real.machine.set_balloon(48 * MIB))
        real.machine.stop()
        real.idle(0.3)
        between = real.device.actual
        real.idle(0.3)
        assert real.device.actual == between
        real.machine.cont()
        real.until(lambda: real.device.actual == 48 * MIB)

    def test_it_boots_at_the_first_cont(self) -> None:
        with Real("uml", memory=64, paused=True) as real:
            assert real.guest.process is None
            real.machine.cont()
            booted(real)
            assert real.ask()[0] == "answered"

    def test_the_power_button_shuts_it_down(self, real: Real) -> None:
        booted(real)
        real.machine.power_down()
        real.until(lambda: real.machine.over)
        assert real.named("SHUTDOWN") == [{"guest": True, "reason": "guest-shutdown"}]
        assert real.named("GUEST_GONE") == []

    def test_reset_boots_a_new_kernel_that_inflates_to_the_old_target(self, real: Real) -> None:
        booted(real)
        settle(real, 96)
        first = real.guest.process.pid
        real.machine.reset()
        nobody_lives([first])
        assert (real.device.actual, real.device.pages.count) == (96 * MIB, 0), "the size stays until a driver writes it"
        booted(real)
        assert real.guest.process.pid != first
        real.until(lambda: (real.device.pages.count, real.device.actual) == (32 * MIB // PAGE_SIZE, 96 * MIB))

    def test_a_kernel_that_is_killed_in_mid_request_ends_the_request(self, real: Real) -> None:
        booted(real)
        real.ask()
        real.machine.stop()  # or it would have answered before it dies
        request = real.machine.request_stats(1_500_000_000)
        start = time.monotonic()
        os.kill(real.guest.process.pid, signal.SIGKILL)
        real.until(lambda: request.state != "pending")
        assert request.state == "timed out"
        assert 1.4 <= time.monotonic() - start < 10
        assert real.named("GUEST_GONE") == [{"why": "its kernel was killed by SIGKILL"}]
        assert real.guest.shown() == {"gone": "its kernel was killed by SIGKILL"}
        assert real.ask(0.2)[0] == "timed out"
        real.machine.cont()
        real.machine.reset()
        booted(real)
        assert real.ask()[0] == "answered"

    def test_panic(self, real: Real) -> None:
        booted(real)
        real.ask()
        real.done(real.guest.controls.panic())
        real.until(lambda: real.guest.process is None)
        assert real.named("GUEST_PANICKED") == [{"action": "run"}]
        assert "sysrq triggered crash" in real.named("GUEST_GONE")[0]["why"]
        assert real.ask(0.3)[0] == "timed out"
        with pytest.raises(MisuseError, match="panicked"):
            real.done(real.guest.controls.alloc(MIB))
        real.machine.reset()
        booted(real)

    def test_a_reboot_from_within(self, real: Real) -> None:
        booted(real)
        settle(real, 96)
        real.guest.process.console.send("$B reboot -f")
        real.until(lambda: real.named("RESET") == [{"guest": True, "reason": "guest-reset"}])
        assert real.device.actual == RAM * MIB, "the driver gives the balloon back on the way down"
        booted(real)
        assert real.ask()[0] == "answered"
        real.until(lambda: (real.device.pages.count, real.device.actual) == (32 * MIB // PAGE_SIZE, 96 * MIB))
        assert real.named("GUEST_GONE") == []

    def test_freezing_and_thawing_a_busy_guest_does_it_no_harm(self, real: Real) -> None:
        """Programs of the guest must not see the signals: SIGSTOP to the whole group kills init."""
        booted(real)
        real.guest.process.console.send("while :; do $B ls / >/dev/null; [ -e /stop ] && break; done & true")
        for _ in range(30):
            real.machine.stop()
            real.idle(0.01)
            real.machine.cont()
            real.idle(0.02)
        assert real.shell("$B touch /stop")[0] == 0
        assert real.ask()[0] == "answered"

    def test_processes_directories_and_descriptors_are_gone_at_the_end(self) -> None:
        before = open_descriptors()
        groups, directories = [], []
        with Real("uml", memory=64) as real:
            for _ in range(2):
                booted(real)
                groups.append(real.guest.process.pid)
                directories.append(real.guest.process.directory)
                real.machine.reset()
            groups.append(real.guest.process.pid)
            directories.append(real.guest.process.directory)
        assert open_descriptors() == before
        nobody_lives(groups)
        assert not any(os.path.exists(directory) for directory in directories)

    def test_a_module_of_another_driver_is_reported_at_once(self) -> None:
        """Every request used to wait its whole time for it."""
        balloon = find_parts({}).module
        [other, *_] = glob.glob(f"{balloon.partition('/kernel/')[0]}/kernel/fs/fat/fat.ko")
        with Real(f"uml,module={other}", memory=64) as real:
            assert real.ask(20)[0] == "unsupported"
            [event] = real.named("DRIVER_MISSING")
            assert "drives no balloon" in event["why"]
            assert real.shell("true") == (0, "")

    def test_the_shell_moves_memory(self, real: Real) -> None:
        booted(real)
        free = proc(real)[0]["MemFree"]
        assert real.done(real.guest.controls.alloc(20 * MIB + 5 * PAGE_SIZE)) == 20 * MIB + 5 * PAGE_SIZE
        assert abs(free - proc(real)[0]["MemFree"] - 20 * MIB) < 3 * MIB
        got = real.done(real.guest.controls.alloc(1024 * MIB))
        assert 0 < got < RAM * MIB
        assert real.done(real.guest.controls.free(1024 * MIB)) == got + 20 * MIB + 5 * PAGE_SIZE
        assert real.done(real.guest.controls.free(1024 * MIB)) == 0
        assert abs(free - proc(real)[0]["MemFree"]) < 3 * MIB
