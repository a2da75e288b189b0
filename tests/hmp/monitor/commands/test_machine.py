"""Run state, reset, hot-plug, `balloon` and the small `info` topics at the level of lines."""

from __future__ import annotations

import pytest

from device.virtio.spec import MIB
from hmp import QEMU_VERSION, __version__
from hmp.monitor.commands.machine import split_device
from hmp.monitor.monitor import Monitor
from tests.support.machines import device_of, monitor_on, run, say, state_of

ERROR_NO_BALLOON = "Error: No balloon device has been activated\n"


def status(subject: Monitor) -> str:
    return say(subject, "info status").removeprefix("VM status: ").strip()


RUN_STATES = [
    (False, [], "running"),
    (True, [], "paused (prelaunch)"),
    (True, ["c"], "running"),
    (True, ["stop"], "paused (prelaunch)"),
    (True, ["system_reset"], "paused (prelaunch)"),
    (False, ["stop"], "paused"),
    (False, ["s", "s"], "paused"),
    (False, ["cont"], "running"),
    (False, ["stop", "cont"], "running"),
    (False, ["stop", "system_reset"], "paused (prelaunch)"),
    (False, ["stop", "system_reset", "c"], "running"),
    (False, ["system_reset"], "running"),
]


@pytest.mark.parametrize(("paused", "lines", "expected"), RUN_STATES)
def test_run_states(paused: bool, lines: list[str], expected: str) -> None:
    subject = monitor_on(paused=paused)
    for line in lines:
        assert say(subject, line) == ""
    assert status(subject) == expected


@pytest.mark.parametrize("line", ["quit", "q"])
def test_quit_ends_the_machine(line: str) -> None:
    subject = monitor_on()
    assert say(subject, line) == ""
    assert subject.machine.over
    assert status(subject) == "paused (shutdown)"


@pytest.mark.parametrize(
    ("guest", "lines", "over"),
    [
        ("linux", ["system_powerdown"], True),
        ("nodriver", ["system_powerdown"], False),
        ("linux", ["sim driver unload", "system_powerdown"], False),
        ("linux", ["stop", "system_powerdown"], False),
        ("linux", ["stop", "system_powerdown", "cont"], True),
        ("linux", ["stop", "system_powerdown", "system_reset", "cont"], False),
        ("linux", ["sim panic", "system_powerdown"], False),
    ],
)
def test_the_power_button_ends_a_machine_whose_guest_listens(guest: str, lines: list[str], over: bool) -> None:
    subject = monitor_on(guest)
    for line in lines:
        assert say(subject, line) == ""
    assert subject.machine.over is over


def test_a_reset_keeps_target_and_actual_and_forgets_statistics() -> None:
    subject = monitor_on()
    run(subject, "balloon 256")
    run(subject, "sim sleep 5")
    run(subject, "qom-set /machine/peripheral/balloon0 guest-stats-polling-interval 7")
    run(subject, "stop")
    assert say(subject, "system_reset") == ""
    device = device_of(subject)
    assert (device.actual, device.target, device.stats.sample) == (256 * MIB, 256 * MIB, None)
    assert device.stats.poll_interval == 7
    run(subject, "cont")
    run(subject, "sim sleep 5")
    assert say(subject, "info balloon").startswith("balloon: actual=256,")


@pytest.mark.parametrize(
    ("line", "target"),
    [
        ("balloon 256", 256),
        ("balloon 0x100", 256),
        ("balloon 0400", 256),
        ("balloon 2*(100+28)", 256),
        ("balloon 'a'", 97),
        ("balloon -1+257", 256),
        ("balloon 100000", 512),
        ("balloon 8796093022207", 512),
        ("balloon 512 ", 512),
    ],
)
def test_balloon_takes_an_expression_in_mib_and_clamps_it(line: str, target: int) -> None:
    subject = monitor_on()
    assert say(subject, line) == ""
    assert device_of(subject).target == target * MIB


@pytest.mark.parametrize("line", ["balloon 0", "balloon 17592186044416", "balloon 8796093022208", "balloon 1-1"])
def test_balloon_refuses_what_is_no_size_after_wrapping(line: str) -> None:
    subject = monitor_on()
    before = state_of(subject.machine)
    assert say(subject, line) == "Error: Parameter 'target' expects a size\n"
    assert state_of(subject.machine) == before


def test_balloon_without_a_device_is_an_error() -> None:
    assert say(monitor_on(balloon=False), "balloon 256") == ERROR_NO_BALLOON


# Hot-plug.


def test_a_device_comes_and_goes() -> None:
    subject = monitor_on(balloon=False)
    assert say(subject, "info balloon") == ERROR_NO_BALLOON
    assert say(subject, "device_add virtio-balloon-pci,id=b1") == ""
    assert say(subject, "info balloon").startswith("balloon: actual=512,mem_swapped_in=")
    assert say(subject, "device_del b1") == ""
    assert say(subject, "info balloon") == ERROR_NO_BALLOON
    assert say(subject, "device_del b1") == "Error: Device 'b1' not found\n"


def test_never_again_7_after_device_del_a_new_device_serves() -> None:
    subject = monitor_on()
    for id in ("b1", "b2", "b3"):
        run(subject, f"device_del {device_of(subject).id}")
        assert say(subject, f"device_add virtio-balloon-pci,id={id}") == ""
        assert device_of(subject).id == id
        assert say(subject, "info balloon").startswith("balloon: actual=512,mem_swapped_in=")
        assert say(subject, "balloon 256") == ""
        run(subject, "sim sleep 5")
        assert say(subject, "info balloon").startswith("balloon: actual=256,")


def test_a_device_without_a_driver_is_never_let_go_until_reset() -> None:
    subject = monitor_on("nodriver")
    assert say(subject, "device_del balloon0") == ""
    for id in ("balloon0", "/machine/peripheral/balloon0", "balloon0"):
        assert say(subject, f"device_del {id}") == "", "QEMU 7.2's pc takes it again without a word"
    assert say(subject, "info balloon") == "balloon: actual=512\n"
    run(subject, "system_reset")
    assert say(subject, "info balloon") == ERROR_NO_BALLOON


def test_a_device_is_found_by_its_path_too() -> None:
    subject = monitor_on(balloon=False)
    run(subject, "device_add virtio-balloon-pci")
    assert say(subject, "device_del /machine/peripheral-anon/device[0]") == ""
    assert say(subject, "info balloon") == ERROR_NO_BALLOON


@pytest.mark.parametrize("line", ["/machine//peripheral/balloon0", "balloon0/"])
def test_a_device_is_found_by_any_spelling_of_its_path(line: str) -> None:
    subject = monitor_on()
    assert say(subject, f"device_del {line}") == ""
    assert say(subject, "info balloon") == ERROR_NO_BALLOON


@pytest.mark.parametrize(
    ("id", "text"),
    [
        ("/", "/ is not a hotpluggable device"),
        ('""', " is not a hotpluggable device"),
        ("/machine/peripheral", "/machine/peripheral is not a hotpluggable device"),
        ("balloon0/virtio-backend", "Bus 'virtio-bus' does not support hotplugging"),
        ("machine", "Device 'machine' not found"),
        ("/machine/nosuch", "Device '/machine/nosuch' not found"),
    ],
)
def test_what_is_no_device_cannot_be_unplugged(id: str, text: str) -> None:
    subject = monitor_on()
    assert say(subject, f"device_del {id}") == f"Error: {text}\n"
    assert say(subject, "info balloon").startswith("balloon: actual=")


SPECS = [
    ("", None, []),
    ("drv", "drv", []),
    ("drv,", "drv", []),
    (",", "", []),
    ("=", None, [("", "")]),
    ("a=1", None, [("a", "1")]),
    ("driver=drv,id=x", "drv", [("id", "x")]),
    ("id=x,driver=drv", "drv", [("id", "x")]),
    ("one,driver=two", "two", []),
    ("drv,flag", "drv", [("flag", "on")]),
    ("drv,noflag", "drv", [("flag", "off")]),
    ("drv,a=b=c", "drv", [("a", "b=c")]),
    ("drv,a=b,,c,d=e", "drv", [("a", "b,c"), ("d", "e")]),
    ("a,,b", "a,b", []),
    ("drv,a=,,", "drv", [("a", ",")]),
    ("drv,a=1,a=2", "drv", [("a", "1"), ("a", "2")]),
]


@pytest.mark.parametrize(("spec", "driver", "pairs"), SPECS)
def test_option_lists(spec: str, driver: str | None, pairs: list[tuple[str, str]]) -> None:
    assert split_device(spec) == (driver, pairs)


def test_switches_reach_the_device() -> None:
    subject = monitor_on(balloon=False)
    spec = "virtio-balloon-pci,id=a,deflate-on-oom=yes,nopage-poison,free-page-hint=on,free-page-hint=n"
    assert say(subject, f"device_add {spec}") == ""
    assert device_of(subject).properties == {
        "deflate-on-oom": True,
        "page-poison": False,
        "free-page-hint": False,
        "free-page-reporting": False,
    }


BAD_ID = (
    "Parameter 'id' expects an identifier\n"
    "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.\n"
    'Try "help device_add" for more information\n'
)

REFUSED = [
    ("device_add", "Error: Parameter 'driver' is missing\n"),
    ("device_add id=x", "Error: Parameter 'driver' is missing\n"),
    ("device_add =", "Error: Parameter 'driver' is missing\n"),
    ("device_add ,", "Error: '' is not a valid device model name\n"),
    ("device_add nosuch", "Error: 'nosuch' is not a valid device model name\n"),
    ("device_add virtio-balloon-pci,driver", "Error: 'on' is not a valid device model name\n"),
    ("device_add virtio-balloon-pci,id=1", BAD_ID),
    ("device_add virtio-balloon-pci,id=", BAD_ID),
    ("device_add virtio-balloon-pci,id=a,,b", BAD_ID),
    ("device_add virtio-balloon-pci,id=é", BAD_ID),
    ("device_add virtio-balloon-pci,x=1", "Error: Property 'virtio-balloon-pci.x' not found\n"),
    ("device_add virtio-balloon-pci,page-poison=2", "Error: Parameter 'page-poison' expects 'on' or 'off'\n"),
    ("device_add virtio-balloon-pci", "Error: Only one balloon device is supported\n"),
    ("device_add virtio-balloon-pci,id=balloon0", "Error: Duplicate device ID 'balloon0'\n"),
    ("device_del nosuch", "Error: Device 'nosuch' not found\n"),
]


@pytest.mark.parametrize(("line", "text"), REFUSED)
def test_what_cannot_be_plugged_is_refused_and_nothing_changes(line: str, text: str) -> None:
    subject = monitor_on()
    before = state_of(subject.machine)
    reply = run(subject, line)
    assert (reply.text, reply.failed) == (text, True)
    assert state_of(subject.machine) == before


def test_device_add_help_lists_models_and_switches() -> None:
    subject = monitor_on()
    assert 'name "virtio-balloon-pci", bus PCI, alias "virtio-balloon"\n' in say(subject, "device_add help")
    text = say(subject, "device_add virtio-balloon-pci,help")
    assert text.startswith("virtio-balloon-pci options:\n")
    assert "  page-poison=<bool>          - on/off (default: on)\n" in text
    assert say(subject, "device_add virtio-balloon-pci,?") == text


# The small topics.


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("info version", f"{QEMU_VERSION} (hmp-emulator {__version__})\n"),
        ("info name", "vm one\n"),
        ("info uuid", "12345678-9abc-def0-1234-56789abcdef0\n"),
        ("info kvm", "kvm support: disabled\n"),
        ("info memory_size_summary", "base memory: 536870912\nplugged memory: 0\n"),
        ("info history", ""),
    ],
)
def test_small_topics(line: str, text: str) -> None:
    subject = monitor_on(name="vm one", uuid="12345678-9abc-def0-1234-56789abcdef0")
    assert say(subject, line) == text


def test_a_machine_without_a_name_has_none() -> None:
    assert say(monitor_on(), "info name") == ""
    assert say(monitor_on(), "info uuid") == "00000000-0000-0000-0000-000000000000\n"
