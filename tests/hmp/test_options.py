"""The command line: what every option takes, and how it refuses what is wrong in one line."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from device.clock import SECOND
from device.guest.table import PROFILES
from device.machine.machine import NIL_UUID
from hmp import __version__
from hmp.config import CLOCKS, Config
from hmp.monitor import UsageError
from hmp.monitor.dialects import DIALECTS
from hmp.options import OPTIONS, guest_table, parse
from tests.support.shell import hmp

GIB = 1 << 30


def parsed(*arguments: str) -> Config:
    config = parse(list(arguments))
    assert config is not None
    return config


def refused(*arguments: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse(list(arguments))
    return str(caught.value)


# Every option with values that it takes.

GOOD = [
    (["-m", "4M"], "ram", 4 << 20),
    (["-m", "512"], "ram", 512 << 20),
    (["--memory", "16T"], "ram", 16 << 40),
    (["--memory=1.5g"], "ram", 3 * GIB // 2),
    (["-m1G", "-m2G"], "ram", 2 * GIB),
    (["--guest", "windows,delay=2,loss=0.1"], "guest", "windows,delay=2,loss=0.1"),
    (["--timeout", "0.1"], "timeout", SECOND // 10),
    (["--timeout", "3600"], "timeout", 3600 * SECOND),
    (["--clock", "manual"], "clock", "manual"),
    (["--seed", "9223372036854775807"], "seed", (1 << 63) - 1),
    (["--count", "99999", "--qmp", "tcp:[::1]:0"], "count", 99999),
    (["-S"], "paused", True),
    (["--no-balloon"], "balloon", False),
    (["--device", "virtio-balloon,id=b.1"], "device_id", "b.1"),
    (["--device", "virtio-balloon-pci"], "device_id", ""),
    (["--device", "virtio-balloon-pci,deflate-on-oom=on"], "switches", {"deflate_on_oom": True}),
    (["--device", "virtio-balloon-pci-transitional"], "switches", {"model": "virtio-balloon-pci-transitional"}),
    (["--device", "virtio-balloon,guest-stats-polling-interval=3"], "switches", {"guest_stats_polling_interval": 3}),
    (["--device", "virtio-balloon-pci,free-page-hint=on,iothread=x"], "switches",
     {"free_page_hint": True, "iothread": "x"}),
    (["--device", '{"driver":"virtio-balloon-pci","id":"b"}'], "device_id", "b"),
    (["--device", "{'driver':'virtio-balloon','id':'1'}"], "device_id", "1"),
    (["--device", '{"driver":"virtio-balloon-pci","id":1}'], "device_id", ""),
    (["--device", '{"driver":"virtio-balloon-pci","id":""}'], "device_id", ""),
    (["--device", '{"id":"b","driver":"virtio-balloon","deflate-on-oom":true,"guest-stats-polling-interval":7}'],
     "switches", {"deflate_on_oom": True, "guest_stats_polling_interval": 7}),
    (["--name", "any thing"], "name", "any thing"),
    (["--uuid", "123E4567-E89B-12D3-A456-426614174000"], "uuid", "123e4567-e89b-12d3-a456-426614174000"),
    (["--dialect", "pve"], "dialect", "pve"),
    (["-c", "a", "--command", "-b"], "sources", [("-c", ["a", "-b"])]),
    (["-e"], "exit_on_error", True),
    (["-i"], "interactive", True),
    (["--echo"], "echo", True),
    (["--fail-stale"], "fail_stale", True),
    (["-"], "sources", [("<stdin>", 0)]),
    (["--attach", "unix:q", "--allow-disruptive"], "allow_disruptive", True),
    ([], "sources", []),
    ([], "scripted", False),
    (["-c", ""], "scripted", True),
    ([], "ram", GIB),
    ([], "timeout", 5 * SECOND),
    ([], "guest", "linux"),
    ([], "device_id", "balloon0"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "field", "value"), GOOD)
def test_what_the_options_mean(arguments: list[str], field: str, value: object) -> None:
    assert getattr(parsed(*arguments), field) == value


def test_no_option_is_the_same_as_no_arguments() -> None:
    assert vars(parsed()) == vars(Config())


# Every option with values that it does not take: the option and the value are named.

BAD: dict[str, list[str]] = {
    "--memory": ["", "x", "0", "-1", "3M", "16.1T", "17T", "1GB", "1e9", "1 G", "٣", "0.3", "nan", "4095K", "9" * 40],
    "--guest": ["", "nosuch", "linux,", "linux,x", "linux,delay", "linux,delay=", "linux,delay=x", "linux,delay=-1",
                "linux,loss=2", "linux,loss=-0.1", "linux,stats=nosuch", "linux,answers=-1", "linux,pace=0",
                "linux,delay=1,delay=2", "uml,delay=1", "linux,delay=3601", " linux", "LINUX", "linux;delay=1"],
    "--timeout": ["", "x", "0", "0.09", "3600.1", "-1", "5s", "inf", "1e2", "\u0665"],
    "--clock": ["", "fast", "REAL", "real "],
    "--seed": ["", "x", "-1", "1.5", "9223372036854775808", "9" * 20, "٣", "1_000", " 1"],
    "--count": ["", "x", "0", "-1", "1.5", "100000", "9" * 20, "000001" + "9" * 9, "٣", " 1"],
    "--device": ["", "nosuch", "virtio-balloon-pci,id=", "virtio-balloon-pci,id=1", "virtio-balloon-pci,x=1",
                 "virtio-balloon-pci,page-poison=maybe", "id=x", "virtio-balloon-pci,id=a b", "help",
                 "{", "[1]", ' {"driver":"virtio-balloon-pci"}'],
    "--uuid": ["", "1", "123e4567e89b12d3a456426614174000", "123e4567-e89b-12d3-a456-42661417400g",
               "{123e4567-e89b-12d3-a456-426614174000}", "123e4567-e89b-12d3-a456-4266141740000"],
    "--qemu-version": ["", "7", "7.2", "7.2.x", "7.2.0.1", "7.2.-1", "7.2.1000", "v7.2.0", "7.2.٣"],
    "--dialect": ["", "QEMU", "vmware"],
    "--size": ["", "80", "80x", "x24", "80x24x1", "-80x24", "80X24", "0x0", "9999x9999", "٨x٨"],
    "--snapshot-dir": ["", "/nosuch/dir", "/dev/null"],
    "--monitor": ["", "nosuch", "tcp:", "tcp:127.0.0.1", "tcp:127.0.0.1:x", "tcp:127.0.0.1:65536", "unix:", "stdio:x"],
    "--attach": ["", "x", "unix:", "unix:q,x=1", "unix:q,hold=maybe", "tcp:h", "tcp:h:99999", "telnet:h:1", "libvirt:",
                 "libvirt:-x", "libvirt:vm,hold=on", "libvirt:vm,uri=", "unix:q,uri=x", f"unix:{'x' * 108}"],
    "--qmp": ["", "nosuch", "tcp:127.0.0.1:0,x=1", "unix:a,dialect=x"],
}  # fmt: skip

NEEDED = {"--size": ["--record", "x.cast"]}
"""What else must be given, so that the value is what is wrong."""

CASES = [(option, value) for option, values in BAD.items() for value in values]


@pytest.mark.parametrize(("option", "value"), CASES)
def test_a_wrong_value_is_refused_with_option_and_value_in_one_line(option: str, value: str) -> None:
    told = refused(f"{option}={value}", *NEEDED.get(option, []))
    assert told.startswith(option)
    assert f"'{value}'" in told
    assert "\n" not in told


def test_every_option_that_reads_its_value_is_tested() -> None:
    options = {max(each.opts, key=len): each for each in OPTIONS if isinstance(each, click.Option)}
    reading = {name for name, each in options.items() if each.callback is not None and not each.is_flag}
    assert reading - BAD.keys() == set(), "what does it not take? a line in BAD"
    assert BAD.keys() - reading == {"--monitor", "--qmp"}, "whose addresses _config reads"


DEVICES = [
    *[(f"virtio-balloon-pci,{options}", words) for options, words in [
        ("guest-stats-polling-interval=x", "Parameter 'guest-stats-polling-interval' expects integer"),
        ("guest-stats-polling-interval=-1", "timer value must be greater than zero"),
        ("guest-stats-polling-interval=4294967296", "timer value is too big"),
        ("guest-stats=1", "Property 'virtio-balloon-device.guest-stats' is not writable"),
        ("free-page-hint=on", "'free-page-hint' requires 'iothread' to be set"),
        ("deflate-on-oom=x", "Parameter 'deflate-on-oom' expects 'on' or 'off'"),
    ]],
    ("virtio-balloon-pci-transitional,x=1", "Property 'virtio-balloon-pci-transitional.x' not found"),
    ("virtio-balloon-device", "No 'virtio-bus' bus found for device 'virtio-balloon-device'"),
    *[(f'{{"driver":"virtio-balloon-pci",{options}}}', words) for options, words in [
        ('"deflate-on-oom":"on"', "Invalid parameter type for 'deflate-on-oom', expected: boolean"),
        ('"deflate-on-oom":1', "Invalid parameter type for 'deflate-on-oom', expected: boolean"),
        ('"deflate-on-oom":null', "Invalid parameter type for 'deflate-on-oom', expected: boolean"),
        ('"guest-stats-polling-interval":"5"',
         "Invalid parameter type for 'guest-stats-polling-interval', expected: integer"),
        ('"guest-stats-polling-interval":1.5',
         "Invalid parameter type for 'guest-stats-polling-interval', expected: integer"),
        ('"guest-stats-polling-interval":-1', "timer value must be greater than zero"),
        ('"guest-stats-polling-interval":4294967296', "timer value is too big"),
        ('"free-page-hint":true', "'free-page-hint' requires 'iothread' to be set"),
        ('"free-page-hint":true,"iothread":5', "Invalid parameter type for 'iothread', expected: string"),
        ('"page-poison":true,"page-poison":true', "JSON parse error, duplicate key"),
        ('"help":true', "Property 'virtio-balloon-pci.help' not found"),
        ('"type":"x"', "Property 'virtio-balloon-pci.type' is not writable"),
        ('"x":}', "JSON parse error, expecting value"),
    ]],
    ('{"id":"b"}', "Parameter 'driver' is missing"),
    ('{"driver":1}', "Parameter 'driver' is missing"),
    ('{"driver":"help"}', "'help' is not a valid device model name"),
    ("{", "JSON parse error, premature EOI"),
    ('{"driver":"virtio-balloon-pci"', "JSON parse error, premature EOI"),
    ('{"driver":"virtio-balloon-pci"}}', "Expecting at most one JSON value"),
    ('{"driver":"virtio-balloon-pci"} x', "Expecting at most one JSON value"),
    ("{x}", "JSON parse error, invalid keyword 'x'"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "words"), DEVICES)
def test_a_device_is_refused_in_qemus_words(spec: str, words: str) -> None:
    """All of them seen on a real QEMU 7.2."""
    told = refused("--device", spec)
    assert told == f"--device: {words}" if f"'{spec}'" in words else f"--device '{spec}': {words}"


MANY = [
    (["virtio-balloon-pci,id=a", "virtio-balloon-pci,id=b"], 1, "Only one balloon device is supported"),
    (["virtio-balloon-pci", "virtio-balloon-pci"], 1, "Only one balloon device is supported"),
    (["virtio-balloon-pci,id=b", "virtio-balloon,id=b"], 1, "Duplicate ID 'b' for device"),
    (["virtio-balloon-pci,id=b", '{"driver":"virtio-balloon-pci","id":"b"}'], 1, "Duplicate device ID 'b'"),
    (['{"driver":"virtio-balloon-pci","id":"b"}', "virtio-balloon-pci,id=b"], 0, "Duplicate device ID 'b'"),
    (['{"driver":"virtio-balloon-pci"}', "virtio-balloon-pci,id=b"], 0, "Only one balloon device is supported"),
    (
        ["virtio-balloon-pci", "virtio-balloon-pci,id=b", "virtio-balloon-pci"],
        1,
        "Only one balloon device is supported",
    ),
]


@pytest.mark.parametrize(("specs", "which", "words"), MANY)
def test_a_second_device_is_refused_and_none_dropped(specs: list[str], which: int, words: str) -> None:
    told = refused(*[word for spec in specs for word in ("--device", spec)])
    assert told == f"--device '{specs[which]}': {words}"


# What does not go together, or is no option.

CONFLICTS = [
    (["-c", "x", "-"], "-c", "SCRIPT"),
    (["-m", "1G", "--guest", "uml,mem=512M"], "-m", "mem=512M"),
    (["--no-balloon", "--device", "virtio-balloon-pci"], "--no-balloon", "--device"),
    (["--headless"], "--headless", "--monitor"),
    (["--headless", "-i", "--qmp", "unix:x"], "--headless", "-i"),
    (["--size", "80x24"], "--size", "--record"),
    (["--overwrite"], "--overwrite", "--record"),
    (["--record", "x.cast", "--headless", "--qmp", "unix:x"], "--record", "--headless"),
    (["--count", "2"], "--count", "--monitor"),
    (["--count", "2", "--qmp", "unix:q%d", "-c", "x"], "--count", "-c"),
    (["--count", "2", "--qmp", "unix:q%d", "-"], "--count", "SCRIPT"),
    (["--count", "2", "--qmp", "unix:q%d", "-i"], "--count", "-i"),
    (["--count", "2", "--qmp", "unix:q%d", "--record", "x.cast"], "--count", "--record"),
    (["--count", "2", "--qmp", "unix:q"], "--qmp", "%d"),
    (["--count", "2", "--monitor", "telnet:localhost:1"], "--monitor", "%d"),
    (["--allow-disruptive"], "--allow-disruptive", "--attach"),
    (["--save-replies", "x.json"], "--save-replies", "--attach"),
    (["--nosuch"], "--nosuch", ""),
    (["--paus"], "--paus", ""),
    (["-x"], "-x", ""),
    (["--paused=1"], "--paused", ""),
    (["-m"], "-m", ""),
    (["--guest"], "--guest", ""),
]


@pytest.mark.parametrize(("arguments", "one", "other"), CONFLICTS)
def test_what_does_not_go_together_is_refused_by_name(arguments: list[str], one: str, other: str) -> None:
    told = refused(*arguments)
    assert one in told
    assert other in told
    assert "\n" not in told
    assert "Usage" not in told


@pytest.mark.parametrize(
    "words",
    [["-m", "512"], ["--memory", "1G"], ["--guest", "slow"], ["--guest", "linux"], ["--no-balloon"], ["-S"],
     ["--device", "virtio-balloon-pci,id=x"], ["--device", "virtio-balloon-pci,id=balloon0"], ["--clock", "warp"],
     ["--clock", "manual"], ["--clock", "real"], ["--seed", "7"], ["--seed", "0"], ["--snapshot-dir", "."],
     ["--count", "1"], ["--replies", "x.json"], ["--name", "x"], ["--uuid", NIL_UUID], ["--qemu-version", "7.2.0"],
     ["--allow-host-files"]],
    ids=" ".join,
)  # fmt: skip
def test_what_a_vm_that_runs_has_of_its_own_is_refused_even_where_it_is_the_default(words: list[str]) -> None:
    flag = {"--memory": "-m"}.get(words[0], words[0])
    told = refused(*words, "--attach", "unix:q")
    assert re.fullmatch(f"{flag}: not together with --attach: [a-zA-Z' -]{{8,}}", told)


# As a program.


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--timeout", "0"], "--timeout: '0' is not between 0.1 and 3600 seconds"),
        (["-m", "3"], "--memory '3': "),
        (["--guest", "a\x1b[31m\nb"], "--guest: no guest is called 'a\\x1b[31m\\x0ab' (one of "),
        (["-c", "info status", "nosuch"], "-c: not together with SCRIPT"),
        (["nosuch", "--clock", "warped"], "--clock: 'warped' is not one of real, warp, manual"),
        (["--nosuch\n"], "No such option"),
        (["--nonsense"], "No such option '--nonsense'.\n"),
        (["--gest", "linux"], "No such option '--gest'. Did you mean '--guest'?\n"),
        (["--clock", "warp", "--guest", "uml"], ""),
        (["--clock", "manual", "--guest", "vhost-user,path=x"], ""),
    ],
)
def test_a_usage_error_is_one_line_on_stderr_and_status_2(arguments: list[str], line: str, tmp_path: Path) -> None:
    ended = hmp(*arguments, text="info status\n", cwd=tmp_path)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith(f"hmp: {line}")
    assert ended.err.endswith("\n")
    assert ended.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_version_help_and_guests_go_to_stdout() -> None:
    assert hmp("--version") == (0, f"hmp {__version__}\n", "")
    assert hmp("--list-guests") == (0, guest_table(), "")
    told = hmp("--help")
    assert hmp("-h") == told
    assert (told.status, told.err) == (0, "")
    assert told.out.startswith("Usage: hmp [OPTIONS] [SCRIPT]...\n")
    assert "\x1b" not in told.out


def test_ctrl_c_while_the_options_are_read_is_none_of_clicks_business(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(text: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hmp.options.make_guest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        parse(["--guest", "linux"])


def test_help_shows_values_in_the_case_they_are_typed_in() -> None:
    text = hmp("--help").out
    assert "--guest NAME[,key=value...]" in text
    assert "--size COLSxROWS" in text


def test_help_names_every_option_choice_and_default() -> None:
    text = " ".join(hmp("--help").out.split())
    assert "--guest NAME[,key=value...] " in text
    assert "--size COLSxROWS " in text
    for option in OPTIONS:
        if isinstance(option, click.Option):
            assert option.help
            assert ", ".join(option.opts) in text
    for choices in (CLOCKS, DIALECTS):
        assert all(f"{name}: " in text for name in choices)
    for default in ("[default: linux]", "[default: 5]", "[default: real]", "[default: 0]", "[default: seed]"):
        assert default in text


def test_the_guest_table_names_every_guest_and_key() -> None:
    lines = guest_table().splitlines()
    names = [line.split()[0] for line in lines if line and not line.endswith(":")]
    assert set(PROFILES) <= set(names)
    for profile in PROFILES.values():
        assert set(profile.keys) <= set(names)
    assert all(len(line) <= 120 for line in lines)
