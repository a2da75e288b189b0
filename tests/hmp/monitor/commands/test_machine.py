"""Run state, reset, hot-plug, `balloon` and the small `info` topics at the level of lines."""

from __future__ import annotations

import pytest

from device.virtio.spec import MIB, U32
from hmp import QEMU_VERSION, __version__
from hmp.monitor.commands.machine import DRIVERS, split_device
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
    ("", None, None, []),
    ("drv", "drv", None, []),
    ("drv,", "drv", None, []),
    (",", "", None, []),
    ("=", None, None, [("", "")]),
    ("a=1", None, None, [("a", "1")]),
    ("driver=drv,id=x", "drv", "x", []),
    ("id=x,driver=drv", "drv", "x", []),
    ("drv,id=x,id=y", "drv", "x", []),
    ("one,driver=two", "two", None, []),
    ("drv,flag", "drv", None, [("flag", "on")]),
    ("drv,noflag", "drv", None, [("flag", "off")]),
    ("drv,a=b=c", "drv", None, [("a", "b=c")]),
    ("drv,a=b,,c,d=e", "drv", None, [("a", "b,c"), ("d", "e")]),
    ("a,,b", "a,b", None, []),
    ("drv,a=,,", "drv", None, [("a", ",")]),
    ("drv,a=1,a=2", "drv", None, [("a", "1"), ("a", "2")]),
]


@pytest.mark.parametrize(("spec", "driver", "id", "pairs"), SPECS)
def test_option_lists(spec: str, driver: str | None, id: str | None, pairs: list[tuple[str, str]]) -> None:
    assert split_device(spec) == (driver, id, pairs)


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_device_is_of_the_type_that_was_asked_for(driver: str) -> None:
    subject = monitor_on(balloon=False)
    assert say(subject, f"device_add {driver},id=b") == ""
    model = "virtio-balloon-pci" if driver == "virtio-balloon" else driver
    assert say(subject, "qom-get b type") == f'"{model}"\n'
    assert say(subject, "qom-list /machine/peripheral") == f"type (string)\nb (child<{model}>)\n"
    assert say(subject, "qom-get b nosuch") == f"Error: Property '{model}.nosuch' not found\n"
    assert say(subject, "qom-get b/virtio-backend type") == '"virtio-balloon-device"\n'
    assert say(subject, "info balloon").startswith("balloon: actual=512,mem_swapped_in=")
    assert say(subject, "savevm one") == say(subject, "device_del b") == ""
    assert say(subject, f"device_add {driver},x=1") == f"Error: Property '{model}.x' not found\n"
    assert say(subject, "loadvm one") == ""
    assert say(subject, "qom-get b type") == f'"{model}"\n'


@pytest.mark.parametrize(
    ("given", "interval"),
    [
        ("5", 5),
        ("0x10", 16),
        ("010", 8),
        ("+5", 5),
        ("-0", 0),
        ("7,guest-stats-polling-interval=9", 9),
        (str(U32), U32),
    ],
)
def test_a_device_may_be_polled_from_the_start(given: str, interval: int) -> None:
    """The values are those that a real QEMU 7.2 took, and what it made of them."""
    subject = monitor_on(balloon=False)
    assert say(subject, f"device_add virtio-balloon-pci,id=b,guest-stats-polling-interval={given}") == ""
    assert say(subject, "qom-get b guest-stats-polling-interval") == f"{interval}\n"
    first = device_of(subject).stats.sample
    run(subject, "sim sleep 20")
    assert (device_of(subject).stats.sample is not first) is (0 < interval < 20)


@pytest.mark.parametrize(
    ("given", "thread"),
    [("io1", "/objects/io1"), ("/objects/io1", "/objects/io1"), ("", ""), ("a.b-C_1", "/objects/a.b-C_1")],
)
def test_an_iothread_is_remembered_by_any_id(given: str, thread: str) -> None:
    subject = monitor_on(balloon=False)
    assert say(subject, f"device_add virtio-balloon-pci,id=b,iothread={given}") == ""
    run(subject, "savevm one")
    run(subject, "loadvm one")
    for path in ("b", "b/virtio-backend"):
        assert say(subject, f"qom-get {path} iothread") == f'"{thread}"\n'
        assert say(subject, f"qom-set {path} iothread x") == (
            "Error: Attempt to set link property 'iothread' on device '(null)' (type 'virtio-balloon-device') after it "
            "was realized\n"
        )


def test_free_page_hints_want_an_iothread() -> None:
    subject = monitor_on(balloon=False)
    spec = "device_add virtio-balloon-pci,free-page-hint=on"
    for empty in ("", ",iothread="):
        assert say(subject, spec + empty) == "Error: 'free-page-hint' requires 'iothread' to be set\n"
        assert subject.machine.device is None
    assert say(subject, f"{spec},iothread=any") == ""
    assert say(subject, spec) == "Error: Only one balloon device is supported\n", "QEMU looks at that first"


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
    ("device_add virtio-balloon-device", "Error: No 'virtio-bus' bus found for device 'virtio-balloon-device'\n"),
    ("device_add virtio-balloon-transitional", "Error: 'virtio-balloon-transitional' is not a valid device model name\n"),
    *[
        (f"device_add virtio-balloon-pci,guest-stats-polling-interval={value}", f"Error: {words}\n")
        for value, words in [
            *[(value, "Parameter 'guest-stats-polling-interval' expects integer")
              for value in ("", "x", "on", "1.5", "1e3", "5k", "9223372036854775808", "18446744073709551615")],
            ("-1", "timer value must be greater than zero"),
            ("4294967296", "timer value is too big"),
            ("9223372036854775807", "timer value is too big"),
        ]
    ],
    ("device_add virtio-balloon-pci,guest-stats=1",
     "Error: Property 'virtio-balloon-device.guest-stats' is not writable\n"),
    ("device_add virtio-balloon-pci-transitional,type=x",
     "Error: Property 'virtio-balloon-pci-transitional.type' is not writable\n"),
    ("device_add virtio-balloon-pci,hotplugged=on", "Error: Property 'virtio-balloon-pci.hotplugged' is not writable\n"),
    ("device_add virtio-balloon-pci,iothread=1x", "Error: Device '1x' not found\n"),
    # QEMU's HMP reads no JSON here, as its --device does.
    ('device_add {"driver":"virtio-balloon-pci","id":"b"}',
     "Error: '{\"driver\":\"virtio-balloon-pci\"' is not a valid device model name\n"),
    ("device_add virtio-balloon-pci", "Error: Only one balloon device is supported\n"),
    *[(f"device_add virtio-balloon-pci,id=balloon0{more}", "Error: Duplicate device ID 'balloon0'\n")
      for more in ("", ",nosuch=1", ",deflate-on-oom=x", ",guest-stats-polling-interval=-1", ",free-page-hint=on")],
    ("device_add nosuch,id=balloon0", "Error: 'nosuch' is not a valid device model name\n"),
    ("device_del nosuch", "Error: Device 'nosuch' not found\n"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "text"), REFUSED)
def test_what_cannot_be_plugged_is_refused_and_nothing_changes(line: str, text: str) -> None:
    subject = monitor_on()
    before = state_of(subject.machine)
    reply = run(subject, line)
    assert (reply.text, reply.failed) == (text, True)
    assert state_of(subject.machine) == before


def test_device_add_help_lists_models_and_options() -> None:
    subject = monitor_on()
    assert say(subject, "device_add help") == (
        "Misc devices:\n"
        'name "virtio-balloon-pci", bus PCI, alias "virtio-balloon"\n'
        'name "virtio-balloon-pci-non-transitional", bus PCI\n'
        'name "virtio-balloon-pci-transitional", bus PCI\n'
    )
    text = say(subject, "device_add virtio-balloon-pci-transitional,help")
    assert text == (
        "virtio-balloon-pci-transitional options:\n"
        "  deflate-on-oom=<bool>  - on/off (default: off)\n"
        "  free-page-hint=<bool>  - on/off (default: off)\n"
        "  free-page-reporting=<bool> - on/off (default: off)\n"
        "  guest-stats-polling-interval=<int>\n"
        "  iothread=<link<iothread>>\n"
        "  page-poison=<bool>     - on/off (default: on)\n"
    )
    assert say(subject, "device_add virtio-balloon-pci,?") == text.replace("-transitional", "")


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


PRINTED = [
    ("p/i 5", "5"), ("p 6", "6"), ("p/i -1", "-1"), ("p/ci 5", "5"), ("p/d -1", "-1"), ("p/u -1", str(2**64 - 1)),
    ("p/o 8", "010"), ("p/xh 0", "0"), ("p/b 300", "0x12c"), ("p/c 65", "'A'"), ("p/3 66", "'B'"), ("p / 67", "'C'"),
    ("p/c 10", r"'\n'"), ("p/c 13", r"'\r'"), ("p/c 9", r"'\x09'"), ("p/c 31", r"'\x1f'"), ("p/c 126", "'~'"),
    ("p/c 127", r"'\x7f'"), ("p/c 39", r"'\''"), ("p/c 92", r"'\\'"), ("p/c 300", r"'\x12c'"), ("p/c -1", r"'\xffffffff'"),
    ("p/c 0x100000041", "'A'"), ("p/c 0x80000041", r"'\x80000041'"),
]  # fmt: skip
"""Lines of one session, and what QEMU 7.2 says: without a letter the format is that of the line before."""


def test_print_in_every_format() -> None:
    subject = monitor_on()
    assert [(line, say(subject, line).rstrip("\n")) for line, _ in PRINTED] == PRINTED
